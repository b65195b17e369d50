"""Lesson 03, Q4_K: scales and minimums of 6 bits in 12 bytes, codes in chunks of 32 bytes.

unpack_q4_k_scales      12 bytes    -> 8 scales, 8 minimums
split_q4_k_nibbles      128 bytes   -> 256 codes
dequantize_q4_k         blocks      -> weights
decode_q4_k_element     a row and i -> one weight
convict_q4_k_decoder    blocks and wrong weights -> the mistake that made them
"""

import numpy as np

from blocks2tokens.course.check.exercise import Exercise, Mistake
from blocks2tokens.course.lessons.q4_k import solutions, suspects
from blocks2tokens.course.lessons.q4_k.suspects import (
    codes_in_sequence,
    joined,
    minimums_added,
    nibbles_in_sequence,
    parts_of,
    scales_from_a_stream,
    scales_in_a_stream,
    six_bit_stream,
    thirds,
    top_bits_forgotten,
    with_parts,
)
from blocks2tokens.formats import FORMATS, q4_k

Q4_K = FORMATS["Q4_K"]


def tame_blocks(fmt, rng, n):
    """Return random blocks, uint8 [n, bytes], whose d and dmin are ordinary numbers."""
    raw = rng.integers(0, 256, (n, fmt.bytes_per_block), dtype=np.uint8)
    blocks = fmt.blocks(raw)
    blocks["d"], blocks["dmin"] = rng.uniform(0.001, 0.002, (n, 1)), rng.uniform(0.01, 0.02, (n, 1))
    return raw


# unpack_q4_k_scales: scales uint8 [n, 12] -> scales, minimums, two uint8 [n, 8]


def scale_cases():
    rng = np.random.default_rng(3)
    return {
        "zeros": (np.zeros((1, 12), np.uint8),),
        "bytes 0 to 11": (np.arange(12, dtype=np.uint8)[None],),
        "all bits set": (np.full((1, 12), 255, np.uint8),),
        "one bit set at a time": (np.packbits(np.eye(96, dtype=np.uint8), axis=1, bitorder="little"),),
        "random bytes": (rng.integers(0, 256, (50, 12), dtype=np.uint8),),
    }


def scales_from_a_stream_high_bits_first(scales):
    numbers = six_bit_stream(scales, "big")
    return numbers[:, :8], numbers[:, 8:]


def pairs_from_a_stream(scales):
    numbers = six_bit_stream(scales)
    return numbers[:, 0::2], numbers[:, 1::2]


def top_bits_not_moved(scales):
    a, b, c = thirds(scales)
    return joined(a & 63, (c & 15) | (a & 192)), joined(b & 63, (c >> 4) | (b & 192))


def top_bits_too_low(scales):
    a, b, c = thirds(scales)
    return joined(a & 63, (c & 15) | (a >> 6)), joined(b & 63, (c >> 4) | (b >> 6))


def top_bits_of_the_other(scales):
    a, b, c = thirds(scales)
    return joined(a & 63, (c & 15) | (b >> 6) << 4), joined(b & 63, (c >> 4) | (a >> 6) << 4)


def top_bits_of_the_neighbour(scales):
    a, b, c = thirds(scales)
    above_a, above_b = np.roll(a, -1, axis=1) >> 6, np.roll(b, -1, axis=1) >> 6
    return joined(a & 63, (c & 15) | above_a << 4), joined(b & 63, (c >> 4) | above_b << 4)


def low_six_not_masked(scales):
    a, b, _ = thirds(scales)
    sc, m = q4_k.unpack_scales(scales)
    return joined(a, sc[:, 4:]), joined(b, m[:, 4:])


def nibbles_exchanged(scales):
    a, b, c = thirds(scales)
    return joined(a & 63, (c >> 4) | (a >> 6) << 4), joined(b & 63, (c & 15) | (b >> 6) << 4)


def scales_and_minimums_exchanged(scales):
    return q4_k.unpack_scales(scales)[::-1]


def in_one_of_two(mistake, which):
    """Return the right scales and minimums, but for the first or the second of them."""

    def unpacked(scales):
        both = list(q4_k.unpack_scales(scales))
        both[which] = mistake(scales)[which]
        return tuple(both)

    return unpacked


HALF_WRONG = {
    "they lack their top two bits for sub-blocks 4 to 7, and never get beyond 15 there": top_bits_forgotten,
    "the top two bits of sub-blocks 4 to 7 stay at 64 and 128: shift them by 6 down, then by 4 up": (
        top_bits_not_moved
    ),
    "the top two bits of sub-blocks 4 to 7 land on those that count 1 and 2: after >> 6, << 4": (
        top_bits_too_low
    ),
    "the top two bits of sub-blocks 4 to 7 come from the wrong bytes: bytes 0 to 3 complete the scales, "
    "bytes 4 to 7 the minimums": top_bits_of_the_other,
    "for sub-blocks 0 to 3 they keep all eight bits: mask the upper two off, & 63": low_six_not_masked,
    "for sub-blocks 4 to 7 they take the other nibble: the low one is the scale's": nibbles_exchanged,
}

UNPACK = Exercise(
    name="unpack_q4_k_scales",
    engine=q4_k.unpack_scales,
    solution=solutions.unpack_scales,
    twin=q4_k.unpack_scales,
    cases=scale_cases,
    mistakes=(
        Mistake(
            scales_from_a_stream,
            "you read a plain stream of 6-bit numbers: scale 1 then straddles bytes 0 and 1, but in Q4_K "
            "it is the low six bits of byte 1, and the top two bits of byte 0 belong to scale 4",
        ),
        Mistake(
            pairs_from_a_stream,
            "you read a plain stream of 6-bit pairs, scale, minimum, scale, minimum: in Q4_K bytes 0 to 3 "
            "hold scales 0 to 3 and bytes 4 to 7 minimums 0 to 3, each in the low six bits",
        ),
        Mistake(
            scales_from_a_stream_high_bits_first,
            "you read a plain stream of 6-bit numbers, high bits first: in Q4_K scale 0 is the low six "
            "bits of byte 0",
        ),
        Mistake(
            top_bits_forgotten,
            "sub-blocks 4 to 7 lack their top two bits, so they never get beyond 15: look above the six "
            "low bits of bytes 0 to 7",
        ),
        Mistake(
            top_bits_not_moved,
            "the top two bits of sub-blocks 4 to 7 stay where they were, at 64 and 128: shift them down "
            "by 6, then up by 4, so that they count 16 and 32",
        ),
        Mistake(
            top_bits_too_low,
            "the top two bits of sub-blocks 4 to 7 land on the bits that count 1 and 2: after >> 6 shift "
            "them up by 4",
        ),
        Mistake(
            top_bits_of_the_other,
            "sub-blocks 4 to 7: a scale takes its top bits from above a minimum, and a minimum from above "
            "a scale. Bytes 0 to 3 complete the scales, bytes 4 to 7 the minimums",
        ),
        Mistake(
            top_bits_of_the_neighbour,
            "the top bits are off by one sub-block: those of sub-block 4 lie in bytes 0 and 4, not in "
            "bytes 1 and 5",
        ),
        Mistake(
            low_six_not_masked,
            "sub-blocks 0 to 3 keep all eight bits of their bytes: the upper two belong to sub-blocks 4 "
            "to 7, so mask them off with & 63",
        ),
        Mistake(
            nibbles_exchanged,
            "sub-blocks 4 to 7: the nibbles of bytes 8 to 11 are exchanged. The low one is the scale's, "
            "the high one the minimum's",
        ),
        Mistake(scales_and_minimums_exchanged, "scales and minimums are exchanged: return the scales first"),
        *(
            Mistake(in_one_of_two(wrong, which), f"only your {name} are wrong: {message}")
            for which, name in enumerate(("scales", "minimums"))
            for message, wrong in HALF_WRONG.items()
        ),
    ),
    hints=(
        "Cut the twelve bytes into three groups of four: a, b, c = scales[:, 0:4], scales[:, 4:8], "
        "scales[:, 8:12]. The scales of sub-blocks 0 to 3 are then a & 63.",
        "The scales of sub-blocks 4 to 7 have their low four bits in c & 15 and their top two in a >> 6, "
        "which count 16 and 32. np.concatenate([first four, last four], axis=1) joins the two halves.",
    ),
)


# split_q4_k_nibbles: qs uint8 [n, 128] -> codes uint8 [n, 8, 32]


def nibble_cases():
    rng = np.random.default_rng(4)
    constant = np.full((1, 128), 0x2B, np.uint8)
    return {
        "zeros": (np.zeros((1, 128), np.uint8),),
        "bytes 0 to 127": (np.arange(128, dtype=np.uint8)[None],),
        "all bytes 0x2b": (constant,),
        "random bytes": (rng.integers(0, 256, (20, 128), dtype=np.uint8),),
    }


def nibbles_in_sequence_high_first(qs):
    return np.stack([qs >> 4, qs & 15], axis=2).reshape(-1, 8, 32)


def nibbles_in_halves_of_16(qs):
    parts = qs.reshape(-1, 8, 16)
    return np.concatenate([parts & 15, parts >> 4], axis=2)


def nibbles_in_halves_of_the_block(qs):
    return np.concatenate([qs & 15, qs >> 4], axis=1).reshape(-1, 8, 32)


def high_nibbles_first(qs):
    chunks = qs.reshape(-1, 4, 1, 32)
    return np.concatenate([chunks >> 4, chunks & 15], axis=2).reshape(-1, 8, 32)


def low_nibbles_not_masked(qs):
    chunks = qs.reshape(-1, 4, 1, 32)
    return np.concatenate([chunks, chunks >> 4], axis=2).reshape(-1, 8, 32)


def high_nibbles_not_shifted(qs):
    chunks = qs.reshape(-1, 4, 1, 32)
    return np.concatenate([chunks & 15, chunks & 240], axis=2).reshape(-1, 8, 32)


SPLIT = Exercise(
    name="split_q4_k_nibbles",
    engine=q4_k.split_nibbles,
    solution=solutions.split_nibbles,
    twin=q4_k.split_nibbles,
    cases=nibble_cases,
    mistakes=(
        Mistake(
            nibbles_in_sequence,
            "your high nibbles are interleaved with the low ones: weight 1 comes from the low nibble of "
            "byte 1, not from the high nibble of byte 0; that one is weight 32",
        ),
        Mistake(
            nibbles_in_sequence_high_first,
            "your nibbles follow each other, the high one of a byte first: the low nibbles of 32 bytes "
            "are one sub-block, their high nibbles the next",
        ),
        Mistake(
            nibbles_in_halves_of_16,
            "you split chunks of 16 bytes, as in Q4_0: in Q4_K weight 16 comes from the low nibble of "
            "byte 16, not from the high nibble of byte 0. A chunk has 32 bytes and serves two sub-blocks",
        ),
        Mistake(
            nibbles_in_halves_of_the_block,
            "you took all 128 low nibbles before the first high one: sub-block 1 is the high nibbles of "
            "bytes 0 to 31, not the low nibbles of bytes 32 to 63",
        ),
        Mistake(
            high_nibbles_first,
            "the two sub-blocks of each chunk are exchanged: the low nibbles are the even sub-block, the "
            "high nibbles the odd one",
        ),
        Mistake(
            low_nibbles_not_masked,
            "your even sub-blocks hold whole bytes: mask the high nibble off with & 15",
        ),
        Mistake(
            high_nibbles_not_shifted,
            "your odd sub-blocks are 16 times too large: shift the high nibble down with >> 4",
        ),
    ),
    hints=(
        "qs.reshape(-1, 4, 1, 32) is the four chunks of each block, with a spare axis for low and high.",
        "np.concatenate joins low and high nibbles along the spare axis, axis=2. Which come first? Four "
        "chunks of two are then eight sub-blocks.",
    ),
)


# dequantize_q4_k: blocks, BLOCK [n] -> weights, float32 [n, 256]


def block_cases():
    rng = np.random.default_rng(5)
    ramp = np.zeros((1, 144), np.uint8)
    ramp[0, 4:16], ramp[0, 16:] = np.arange(1, 13), np.arange(128)
    constant = np.full((1, 144), 0x77, np.uint8)
    outlier = tame_blocks(Q4_K, rng, 3)
    Q4_K.blocks(constant)["d"], Q4_K.blocks(constant)["dmin"] = 0.5, 0.25
    Q4_K.blocks(ramp)["d"], Q4_K.blocks(ramp)["dmin"] = 1, 1
    Q4_K.blocks(outlier)["d"][1] = 60
    raw = {
        "zeros": np.zeros((1, 144), np.uint8),
        "a ramp": ramp,
        "a constant": constant,
        "random blocks": tame_blocks(Q4_K, rng, 20),
        "one block with a huge scale": outlier,
    }
    return {label: (Q4_K.blocks(r)[:, 0],) for label, r in raw.items()}


def uint8_products(d, dmin, sc, m, q):
    return d * (sc * q) - dmin * m


def in_float16(blocks):
    d, dmin = blocks["d"][:, None, None], blocks["dmin"][:, None, None]
    _, _, sc, m, q = parts_of(blocks)
    return ((d * sc) * q - dmin * m).reshape(-1, 256)


def in_part_float16(blocks):
    d, dmin = blocks["d"][:, None, None], blocks["dmin"][:, None, None]
    _, _, sc, m, q = parts_of(blocks)
    return ((d * sc).astype(np.float32) * q - (dmin * m).astype(np.float32)).reshape(-1, 256)


def one_in_float16(name):
    """Return a decoder in which d or dmin stays a float16 until it has been multiplied."""

    def decode(blocks):
        d, dmin, sc, m, q = parts_of(blocks)
        scale, minimum = d * sc, dmin * m
        if name == "d":
            scale = (blocks["d"][:, None, None] * sc).astype(np.float32)
        else:
            minimum = (blocks["dmin"][:, None, None] * m).astype(np.float32)
        return (scale * q - minimum).reshape(-1, 256)

    return decode


def from_uint16(blocks):
    _, _, sc, m, q = parts_of(blocks)
    d, dmin = (np.ascontiguousarray(blocks[name]).view(np.uint16)[:, None, None] for name in ("d", "dmin"))
    return (d.astype(np.float32) * sc * q - dmin.astype(np.float32) * m).reshape(-1, 256)


def both_of_the_report(blocks):
    d, dmin, _, _, _ = parts_of(blocks)
    sc, m = scales_from_a_stream(blocks["scales"])
    q = nibbles_in_sequence(blocks["qs"])
    return ((d * sc[:, :, None]) * q - dmin * m[:, :, None]).reshape(-1, 256)


DEQUANTIZE = Exercise(
    name="dequantize_q4_k",
    engine=q4_k.dequantize,
    solution=solutions.dequantize,
    twin=q4_k.dequantize,
    cases=block_cases,
    mistakes=(
        Mistake(
            with_parts(lambda d, dmin, sc, m, q: (d * sc) * q),
            "the minimum is missing: subtract dmin * minimum from each weight of the sub-block",
        ),
        Mistake(
            with_parts(minimums_added),
            "the minimum has the wrong sign: Q4_K subtracts it, other than the m of Q4_1, which is added",
        ),
        Mistake(
            with_parts(lambda d, dmin, sc, m, q: (d * sc) * q - d * m),
            "the minimums are multiplied by d: their unit is dmin",
        ),
        Mistake(
            with_parts(lambda d, dmin, sc, m, q: (d * sc) * q - m),
            "dmin is missing: the 6-bit minimum counts units of dmin",
        ),
        Mistake(
            with_parts(lambda d, dmin, sc, m, q: (d * sc) * q - dmin),
            "every sub-block subtracts dmin alone: multiply it by the sub-block's own 6-bit minimum",
        ),
        Mistake(
            with_parts(lambda d, dmin, sc, m, q: sc * q.astype(np.float32) - dmin * m),
            "d is missing: the 6-bit scale counts units of d",
        ),
        Mistake(
            with_parts(lambda d, dmin, sc, m, q: (d * sc) * (q - m.astype(np.float32))),
            "the minimum is subtracted from the codes and then multiplied by the scale: it is a weight of "
            "its own, dmin * minimum, subtracted after the product",
        ),
        Mistake(
            with_parts(lambda d, dmin, sc, m, q: (d * sc) * (q - np.float32(8)) - dmin * m),
            "you subtract 8 from the codes, as in Q4_0: Q4_K has a minimum instead, its codes start from 0",
        ),
        Mistake(
            with_parts(uint8_products),
            "scale * code is computed in uint8, where 63 * 15 = 945 becomes 177: multiply the scale by d "
            "first, which is a float32",
        ),
        Mistake(
            with_parts(
                lambda d, dmin, sc, m, q: (d * np.roll(sc, -1, axis=1)) * q - dmin * np.roll(m, -1, axis=1)
            ),
            "the scales are off by one: sub-block 0 gets those of sub-block 1",
        ),
        Mistake(
            with_parts(
                lambda d, dmin, sc, m, q: (d * np.roll(sc, 1, axis=1)) * q - dmin * np.roll(m, 1, axis=1)
            ),
            "the scales are off by one: sub-block 1 gets those of sub-block 0",
        ),
        Mistake(
            in_float16,
            "your weights are computed in float16, which keeps 11 bits: convert d and dmin to float32 "
            "before you multiply",
        ),
        Mistake(
            in_part_float16,
            "d * scale is computed in float16 and rounded to 11 bits: convert d and dmin to float32 "
            "before you multiply",
        ),
        *(
            Mistake(
                one_in_float16(name),
                f"{name} is still a float16 when you multiply, and its product is rounded to 11 bits: "
                "convert it to float32 before",
            )
            for name in ("d", "dmin")
        ),
        Mistake(
            with_parts(lambda d, dmin, sc, m, q: d * q - dmin * m),
            "the sub-block's own scale is missing: a step is d times the 6-bit scale",
        ),
        Mistake(
            from_uint16,
            "d and dmin are read as whole numbers, uint16: they are the bits of a float16",
        ),
        Mistake(
            codes_in_sequence,
            "your codes come in sequence, two from each byte: weight 1 is the low nibble of byte 1, and "
            "the high nibble of byte 0 is weight 32",
        ),
        Mistake(
            scales_in_a_stream,
            "your scales come from a plain stream of 6-bit numbers: use unpack_scales of this lesson",
        ),
        Mistake(
            both_of_the_report,
            "this is the report's decoder: a plain stream of 6-bit scales, and codes in sequence",
        ),
        Mistake(
            with_parts(lambda d, dmin, sc, m, q: d.astype(float) * sc * q - dmin.astype(float) * m),
            "your weights are float64: ggml computes in float32, and the same bits come from float32 only",
        ),
    ),
    hints=(
        "Four arrays meet: d and dmin [n], sc and m [n, 8], q [n, 8, 32]. Give the smaller ones axes of "
        "length 1: d[:, None, None], sc[:, :, None].",
        "Convert d and dmin with .astype(np.float32), and multiply the scales by them before the codes. The "
        "weights then have shape [n, 8, 32]; reshape them to (-1, 256).",
    ),
)


# decode_q4_k_element: raw uint8 [bytes], i -> one weight


def element_cases():
    raw = tame_blocks(Q4_K, np.random.default_rng(6), 3).reshape(-1)
    cases = {f"weight {i}": (raw, i) for i in (0, 1, 31, 32, 100, 129, 191, 255, 256, 290, 700)}
    return cases | {"weight 77,777 of a long row": (np.tile(raw, 200), 77_777)}


def element(raw, i, byte=None, high=None, sub_block=None, halves="<f2", number=np.float32):
    """Decode weight i; each argument that is given replaces a right choice by a wrong one."""
    at, j = i // 256 * 144, i % 256
    s = j // 32 if sub_block is None else sub_block(j)
    code = raw[at + 16 + (32 * (j // 64) + j % 32 if byte is None else byte(j))]
    q = code >> 4 if (j // 32 % 2 if high is None else high(j)) else code & 15
    sc, m = q4_k.unpack_scales(raw[None, at + 4 : at + 16])
    d, dmin = raw[at : at + 4].copy().view(halves).astype(number)
    return d * sc[0, s] * q - dmin * m[0, s]


def element_of_the_first_block(raw, i):
    return element(raw, i % 256)


def element_in_sequence(raw, i):
    return element(raw, i, byte=lambda j: j // 2, high=lambda j: j % 2)


def element_in_halves_of_16(raw, i):
    return element(raw, i, byte=lambda j: 16 * (j // 32) + j % 16, high=lambda j: j // 16 % 2)


def element_in_halves_of_the_block(raw, i):
    return element(raw, i, byte=lambda j: j % 128, high=lambda j: j // 128)


def element_from_the_head(raw, i):
    return element(raw, i, byte=lambda j: 32 * (j // 64) + j % 32 - 16)


def element_always_low(raw, i):
    return element(raw, i, high=lambda j: 0)


def element_with_scales_of_64(raw, i):
    return element(raw, i, sub_block=lambda j: j // 64)


def element_off_by_one(raw, i):
    return element(raw, i, sub_block=lambda j: (j // 32 + 1) % 8)


def element_big_endian(raw, i):
    return element(raw, i, halves=">f2")


def element_from_uint16(raw, i):
    return element(raw, i, halves="<u2")


def element_in_float16(raw, i):
    return element(raw, i, number=np.float16)


def element_from_the_low_byte(raw, i, number=np.float32):
    cut = raw.copy().reshape(-1, 144)
    cut[:, [1, 3]] = 0
    return element(cut.reshape(-1), i, number=number)


def element_from_the_low_byte_in_float16(raw, i):
    return element_from_the_low_byte(raw, i, np.float16)


def element_in_uint8(raw, i):
    return with_parts(uint8_products)(Q4_K.blocks(raw)).reshape(-1)[i]


def element_without_minimum(raw, i):
    zeroed = raw.copy()
    Q4_K.blocks(zeroed)["dmin"] = 0
    return element(zeroed, i)


def element_with_minimum_added(raw, i):
    negated = raw.copy()
    Q4_K.blocks(negated)["dmin"] *= -1
    return element(negated, i)


HIGH_BYTE_LOST = (
    "the high byte of d and dmin is lost: raw[at + 1] << 8 is 0, because a uint8 keeps eight bits. View "
    "the bytes as a float16 instead"
)

ELEMENT = Exercise(
    name="decode_q4_k_element",
    engine=q4_k.decode_element,
    solution=solutions.decode_element,
    twin=q4_k.decode_element,
    cases=element_cases,
    tolerance=1e-5,
    most_bytes=50_000,
    mistakes=(
        Mistake(
            element_of_the_first_block,
            "every weight comes from the first block: weight 256 begins the second, at byte 144",
        ),
        Mistake(
            element_in_sequence,
            "your nibbles are in sequence, weight i from byte i // 2: in Q4_K weights 0 to 31 are the low "
            "nibbles of 32 bytes, and weights 32 to 63 the high nibbles of the same bytes",
        ),
        Mistake(
            element_in_halves_of_16,
            "you split chunks of 16 bytes, as in Q4_0: a chunk of Q4_K has 32 bytes and serves two "
            "sub-blocks",
        ),
        Mistake(
            element_in_halves_of_the_block,
            "you take all 128 low nibbles before the first high one: sub-blocks 2c and 2c + 1 share chunk "
            "c, bytes 32c to 32c + 31 of qs",
        ),
        Mistake(
            element_from_the_head,
            "you take codes from the block's byte 0 on: d, dmin and the scales come first, and qs begins at "
            "byte 16 of each block",
        ),
        Mistake(
            element_always_low,
            "you take the low nibble for every weight: odd sub-blocks have theirs in the high one",
        ),
        Mistake(
            element_with_scales_of_64,
            "the scales change every 64 weights: a chunk of 32 bytes holds two sub-blocks, each with its "
            "own scale and minimum",
        ),
        Mistake(
            element_off_by_one,
            "the scales are off by one: the weights of sub-block 0 get those of sub-block 1",
        ),
        Mistake(
            element_big_endian,
            "d and dmin are read with their bytes exchanged: in a GGUF file the low byte comes first",
        ),
        Mistake(
            element_from_uint16,
            "d and dmin are read as whole numbers, uint16: they are the bits of a float16",
        ),
        Mistake(
            element_in_float16,
            "your weight is computed in float16, which keeps 11 bits: convert d and dmin to float32 "
            "before you multiply",
        ),
        Mistake(element_from_the_low_byte, HIGH_BYTE_LOST),
        Mistake(element_from_the_low_byte_in_float16, HIGH_BYTE_LOST),
        Mistake(
            element_in_uint8,
            "scale * code is computed in uint8, where 63 * 15 = 945 becomes 177: multiply the scale by d "
            "first",
        ),
        Mistake(
            element_without_minimum,
            "the minimum is missing: subtract dmin times the sub-block's 6-bit minimum",
        ),
        Mistake(
            element_with_minimum_added,
            "the minimum has the wrong sign: Q4_K subtracts it",
        ),
    ),
    hints=(
        "First find the block, at byte 144 * (i // 256), and the place in it, j = i % 256. Everything "
        "else follows from j: sub-block j // 32, chunk j // 64, byte j % 32 of the chunk.",
        "raw[at : at + 4].view(np.float16) is d and dmin. unpack_scales wants blocks: give it raw[None, "
        "at + 4 : at + 16] and take [0, s] of what it returns.",
    ),
)


# convict_q4_k_decoder: raw uint8 [n, 144], weights float32 [n, 256] -> one of CRIMES

TELLS = {
    "scales as a stream": "in sub-block 0 alone the steps are right, for its scale is the low six bits of "
    "byte 0 in both orders; its minimum is another's",
    "codes in sequence": "every weight is a value that its sub-block can have, at the wrong place: weight 0 "
    "is right, and weight 1 has the code of weight 32",
    "minimums added": "no weight is negative; wrong less right is one number for each sub-block, "
    "2 * dmin * m",
    "d and dmin swapped": "where the minimum is 0, wrong over right is dmin / d, one number for the block",
    "top bits missing": "sub-blocks 0 to 3 are right, every one of their weights",
}


class Forensics(Exercise):
    """One task whose answer is a name; a wrong one is told what the evidence says."""

    def _first_difference(self, answers, expected, tolerance=None):
        names = {label: str(a) if isinstance(a, str) else a for label, a in answers.items()}  # of NumPy, too
        return super()._first_difference(names, expected, tolerance)

    def _what_is_wrong(self, function, cases, outcomes, expected, label, message, place):
        said, true = outcomes[label].answer, expected[label]
        if not isinstance(said, str) or said not in suspects.CRIMES:
            return f"{label}: expected one of {', '.join(map(repr, suspects.CRIMES))}; got {said!r:.80}"
        return (
            f"{label}: you say {said!r}, and that decoder would have made other weights. It was {true!r}. "
            f"What gives that away: {TELLS[true]}"
        )


def crime_cases():
    rng = np.random.default_rng(8)
    cases = {}
    for number, i in enumerate((2, 0, 4, 1, 3, 0, 2), start=1):
        raw = tame_blocks(Q4_K, rng, 1 if number > 5 else 4)
        weights = suspects.DECODERS[suspects.CRIMES[i]](Q4_K.blocks(raw)[:, 0])
        cases[f"suspect {number}"] = (raw, weights)
    return cases


def convict(raw, weights):
    """Return the crime that makes these weights of these blocks."""
    blocks = Q4_K.blocks(raw)[:, 0]
    found = (name for name, decode in suspects.DECODERS.items() if np.array_equal(decode(blocks), weights))
    return next(found, None)


CONVICT = Forensics(
    name="convict_q4_k_decoder",
    engine=convict,
    solution=solutions.convict,
    twin=q4_k.dequantize,
    cases=crime_cases,
    mistakes=(),
    hints=(
        "A suspicion is a decoder. Make the weights that it would make, and compare them with those that "
        "you have: `decode_as` takes any way to unpack and to split.",
        "For the last two change the blocks and decode them rightly: in a copy set its field dmin to minus "
        "dmin, or exchange d and dmin. For missing top bits unpack as always, and keep `& 15` of columns 4 "
        "to 7.",
    ),
)

EXERCISES = [UNPACK, SPLIT, DEQUANTIZE, CONVICT, ELEMENT]
