"""Lesson 04, Q5_K: the fifth bit of every code in a plane of its own.

q5_k_high_bits       32 bytes    -> 256 bits, a row for each sub-block
dequantize_q5_k      blocks      -> weights
decode_q5_k_row      a row       -> weights, in loops that Numba can compile
pack_q5_k_codes      256 codes   -> 32 and 128 bytes
"""

import numpy as np

from blocks2tokens.course.check.exercise import Exercise, Mistake
from blocks2tokens.course.lessons.q4_k.exercises import nibbles_in_sequence, scales_from_a_stream, tame_blocks
from blocks2tokens.course.lessons.q5_k import solutions
from blocks2tokens.formats import FORMATS, q4_k, q5_k

Q5_K = FORMATS["Q5_K"]
SUB_BLOCKS = np.arange(8, dtype=np.uint8)


# q5_k_high_bits: qh uint8 [n, 32] -> bits uint8 [n, 8, 32]


def high_bits(qh):
    """Return the plane as the engine reads it: what it adds to the codes of blocks without low bits."""
    blocks = np.zeros(len(qh), Q5_K.block)
    blocks["d"], blocks["qh"] = 1, qh
    blocks["scales"][:, [0, 1, 2, 3, 8, 9, 10, 11]] = 1  # every scale is 1, every minimum 0
    return (q5_k.dequantize(blocks).reshape(-1, 8, 32) / 16).astype(np.uint8)


def plane_cases():
    rng = np.random.default_rng(7)
    return {
        "zeros": (np.zeros((1, 32), np.uint8),),
        "bytes 0 to 31": (np.arange(32, dtype=np.uint8)[None],),
        "all bits set": (np.full((1, 32), 255, np.uint8),),
        "one bit set at a time": (np.packbits(np.eye(256, dtype=np.uint8), axis=1, bitorder="little"),),
        "random bytes": (rng.integers(0, 256, (20, 32), dtype=np.uint8),),
    }


def plane_of(qh, places=SUB_BLOCKS):
    """Return bit places[s] of byte l at [s, l]."""
    return (qh[:, None, :] >> places[:, None]) & 1


def bits_in_sequence(qh):
    return np.unpackbits(qh, axis=1, bitorder="little").reshape(-1, 8, 32)


def bits_in_sequence_high_first(qh):
    return np.unpackbits(qh, axis=1).reshape(-1, 8, 32)


def bits_from_the_top(qh):
    return plane_of(qh, SUB_BLOCKS[::-1])


def bits_one_later(qh):
    return plane_of(qh, np.roll(SUB_BLOCKS, -1))


def bits_of_low_then_high_nibbles(qh):
    return plane_of(qh, SUB_BLOCKS // 2 + SUB_BLOCKS % 2 * 4)


def bits_not_masked(qh):
    return qh[:, None, :] >> SUB_BLOCKS[:, None]


def bits_not_shifted(qh):
    return qh[:, None, :] & (1 << SUB_BLOCKS[:, None])


def bits_that_count_16(qh):
    return plane_of(qh) << 4


HIGH_BITS = Exercise(
    name="q5_k_high_bits",
    engine=high_bits,
    solution=solutions.high_bits,
    twin=q5_k.dequantize,
    cases=plane_cases,
    mistakes=(
        Mistake(
            bits_in_sequence,
            "your bits are in sequence, weight i from bit i % 8 of byte i // 8: in Q5_K weight 1 has bit "
            "0 of byte 1, and bit 1 of byte 0 belongs to weight 32",
        ),
        Mistake(
            bits_in_sequence_high_first,
            "your bits are in sequence, the highest of each byte first (np.unpackbits does that): in Q5_K "
            "a byte holds one bit for each of the eight sub-blocks",
        ),
        Mistake(
            bits_from_the_top,
            "your sub-blocks are counted from the top: sub-block 0 has bit 0, the lowest, not bit 7",
        ),
        Mistake(
            bits_one_later,
            "your planes are off by one: sub-block 0 has bit 0, not bit 1",
        ),
        Mistake(
            bits_of_low_then_high_nibbles,
            "you gave bits 0 to 3 to the low nibbles and bits 4 to 7 to the high ones: the bit is the "
            "sub-block's number, so the two sub-blocks of a chunk have neighbouring bits",
        ),
        Mistake(
            bits_not_masked,
            "the bits above are still there: after qh >> s keep the lowest with & 1",
        ),
        Mistake(
            bits_not_shifted,
            "your bits stay in their places, where they count 1, 2, 4 ... 128: shift them down to 0 or 1",
        ),
        Mistake(
            bits_that_count_16,
            "your bits count 16 already: return 0 or 1, the shift comes when you join them with the nibbles",
        ),
    ),
    hints=(
        "One shift for each sub-block, the same for all 32 bytes: qh >> 0 for the first, qh >> 1 for the "
        "second ...",
        "With axes: qh[:, None, :] has shape [n, 1, 32], np.arange(8, dtype=np.uint8)[:, None] has [8, "
        "1]. What shape has one shifted by the other, and which bit of it do you want?",
    ),
)


# dequantize_q5_k: blocks, BLOCK [n] -> weights, float32 [n, 256]


def block_cases():
    rng = np.random.default_rng(8)
    ramp = np.zeros((1, 176), np.uint8)
    ramp[0, 4:16], ramp[0, 16:48], ramp[0, 48:] = np.arange(1, 13), np.arange(32), np.arange(128)
    constant = np.full((1, 176), 0x77, np.uint8)
    outlier = tame_blocks(Q5_K, rng, 3)
    Q5_K.blocks(constant)["d"], Q5_K.blocks(constant)["dmin"] = 0.5, 0.25
    Q5_K.blocks(ramp)["d"], Q5_K.blocks(ramp)["dmin"] = 1, 1
    Q5_K.blocks(outlier)["d"][1] = 30
    raw = {
        "zeros": np.zeros((1, 176), np.uint8),
        "a ramp": ramp,
        "a constant": constant,
        "random blocks": tame_blocks(Q5_K, rng, 8),
        "one block with a huge scale": outlier,
    }
    return {label: (Q5_K.blocks(r)[:, 0],) for label, r in raw.items()}


def decoded(
    blocks,
    combine=lambda d, dmin, sc, m, q: (d * sc) * q - dmin * m,
    join=lambda low, high: low | high << 4,
    unpack=q4_k.unpack_scales,
    split=q4_k.split_nibbles,
    plane=plane_of,
    number=np.float32,
):
    """Decode blocks; each argument that is given replaces a right step by a wrong one."""
    sc, m = unpack(blocks["scales"])
    d, dmin = (blocks[name].astype(number)[:, None, None] for name in ("d", "dmin"))
    q = join(split(blocks["qs"]), plane(blocks["qh"]))
    return combine(d, dmin, sc[:, :, None], m[:, :, None], q).reshape(-1, 256)


def with_wrong(**steps):
    """Return a decoder with some steps replaced."""

    def decode(blocks):
        return decoded(blocks, **steps)

    return decode


def scales_one_later(scales):
    return tuple(np.roll(values, -1, axis=1) for values in q4_k.unpack_scales(scales))


DECODING = (
    (
        with_wrong(join=lambda low, high: low),
        "the fifth bit is missing: your codes end at 15, they should go up to 31",
    ),
    (
        with_wrong(join=lambda low, high: low + high),
        "the fifth bit counts 1: shift it up by 4, so that it counts 16",
    ),
    (
        with_wrong(join=lambda low, high: low | high),
        "the fifth bit falls on the lowest of the other four: shift it up by 4, so that it counts 16",
    ),
    (
        with_wrong(join=lambda low, high: low << 1 | high),
        "the bit of qh is taken for the lowest one: it is the highest, it counts 16",
    ),
    (
        with_wrong(plane=bits_not_shifted, join=lambda low, high: low + high),
        "what the mask leaves is added as it is, 1, 2, 4 ... 128: where it is not 0, add 16",
    ),
    (
        with_wrong(plane=bits_in_sequence),
        "the fifth bits come from the wrong bytes: you read qh in sequence, weight i from byte i // 8. In "
        "Q5_K it is byte i % 32, and the bit is the sub-block's number",
    ),
    (
        with_wrong(plane=bits_in_sequence_high_first),
        "the fifth bits come from the wrong bytes: you read qh in sequence, the highest bit of each byte "
        "first",
    ),
    (
        with_wrong(plane=bits_from_the_top),
        "the fifth bits are exchanged among the sub-blocks: sub-block 0 has bit 0 of qh, not bit 7",
    ),
    (
        with_wrong(plane=bits_of_low_then_high_nibbles),
        "the fifth bits are exchanged among the sub-blocks: sub-block 1, the first one in high nibbles, "
        "has bit 1 of qh, not bit 4",
    ),
    (
        with_wrong(combine=lambda d, dmin, sc, m, q: (d * sc) * q),
        "the minimum is missing: subtract dmin * minimum from each weight of the sub-block",
    ),
    (
        with_wrong(combine=lambda d, dmin, sc, m, q: (d * sc) * q + dmin * m),
        "the minimum has the wrong sign: Q5_K subtracts it, as Q4_K does",
    ),
    (
        with_wrong(combine=lambda d, dmin, sc, m, q: (d * sc) * q - d * m),
        "the minimums are multiplied by d: their unit is dmin",
    ),
    (
        with_wrong(combine=lambda d, dmin, sc, m, q: (d * sc) * (q - np.float32(16)) - dmin * m),
        "you subtract 16 from the codes, as in Q5_0: Q5_K has a minimum instead, its codes start from 0",
    ),
    (
        with_wrong(combine=lambda d, dmin, sc, m, q: d * (sc * q) - dmin * m),
        "scale * code is computed in uint8, where 63 * 31 = 1953 becomes 161: multiply the scale by d first",
    ),
    (
        with_wrong(unpack=scales_one_later),
        "the scales are off by one: sub-block 0 gets those of sub-block 1",
    ),
    (
        with_wrong(unpack=scales_from_a_stream),
        "your scales come from a plain stream of 6-bit numbers: they are packed as in Q4_K",
    ),
    (
        with_wrong(split=nibbles_in_sequence),
        "your low four bits come in sequence, two from each byte: they lie as in Q4_K, weight 32 in the "
        "high nibble of byte 0",
    ),
    (
        with_wrong(unpack=scales_from_a_stream, split=nibbles_in_sequence, plane=bits_in_sequence),
        "this is the report's decoder: scales as a plain stream, nibbles in sequence, fifth bits in sequence",
    ),
)

DEQUANTIZE = Exercise(
    name="dequantize_q5_k",
    engine=q5_k.dequantize,
    solution=solutions.dequantize,
    twin=q5_k.dequantize,
    cases=block_cases,
    mistakes=(
        *(Mistake(wrong, message) for wrong, message in DECODING),
        Mistake(
            with_wrong(number=np.float16),
            "your weights are computed in float16, which keeps 11 bits: convert d and dmin to float32 "
            "before you multiply",
        ),
        Mistake(
            with_wrong(number=np.float64),
            "your weights are float64: ggml computes in float32, and the same bits come from float32 only",
        ),
    ),
    hints=(
        "Everything but the codes is as in Q4_K. Eight masks, uint8 [8, 1], and qh as [n, 1, 32]: their & "
        "has shape [n, 8, 32], as the nibbles have, and is 0 where the fifth bit is.",
        "np.where makes 16 or 0 of it. Both should be np.uint8: a Python 16 becomes an int64, and an int64 "
        "times a float32 a float64. d and dmin become float32 [n, 1, 1], sc and m [n, 8, 1], and the "
        "weights are reshaped to (-1, 256).",
    ),
)


# decode_q5_k_row: raw uint8 [bytes] -> weights, float32 [K]


def decode_row(raw):
    """Decode a row of blocks, as the engine's `decode_row` does into an array that it is given."""
    out = np.empty(raw.size // 176 * 256, np.float32)
    q5_k.decode_row(raw, out)
    return out


def row_cases():
    return {label: (blocks.view(np.uint8),) for label, (blocks,) in block_cases().items()}


def row_with(decode):
    """Return a decoder of rows from a decoder of blocks."""

    def decode_row(raw):
        return decode(raw.view(Q5_K.block)).reshape(-1)

    return decode_row


def first_block_only(raw):
    return np.tile(q5_k.dequantize(raw.view(Q5_K.block)[:1]).reshape(-1), raw.size // 176)


def planes_after_codes(raw):
    """Take qs for qh: the codes are thought to come before the plane."""
    blocks = raw.view(Q5_K.block).copy()
    both = np.concatenate([blocks["qh"], blocks["qs"]], axis=1)
    blocks["qs"], blocks["qh"] = both[:, :128], both[:, 128:]
    return q5_k.dequantize(blocks).reshape(-1)


def codes_from_the_plane(raw):
    """Take the bytes from 16 on for qs, and for qh too."""
    blocks = raw.view(Q5_K.block).copy()
    both = np.concatenate([blocks["qh"], blocks["qs"]], axis=1)
    blocks["qs"] = both[:, :128]
    return q5_k.dequantize(blocks).reshape(-1)


def plane_of_the_first_block(raw):
    blocks = raw.view(Q5_K.block).copy()
    blocks["qh"] = blocks["qh"][0]
    return q5_k.dequantize(blocks).reshape(-1)


def blocks_as_long_as_those_of_q4_k(raw):
    starts = range(0, raw.size // 176 * 144, 144)
    return np.concatenate([q5_k.dequantize(raw[at : at + 176].view(Q5_K.block)) for at in starts]).reshape(-1)


ROW = Exercise(
    name="decode_q5_k_row",
    engine=decode_row,
    solution=solutions.decode_row,
    twin=q5_k.decode_row,
    compiled=True,
    cases=row_cases,
    mistakes=(
        Mistake(
            first_block_only,
            "every block decodes to the weights of the first: the second begins at byte 176",
        ),
        Mistake(
            planes_after_codes,
            "qs and qh are exchanged: the plane, 32 bytes from byte 16 on, comes before the codes, which "
            "begin at byte 48",
        ),
        Mistake(
            codes_from_the_plane,
            "your codes begin at byte 16, where the plane is: its 32 bytes come first, so codes begin at 48",
        ),
        Mistake(
            plane_of_the_first_block,
            "every block has the first one's fifth bits: a block's own plane begins at its byte 16, "
            "raw[at + 16 + l]",
        ),
        Mistake(
            blocks_as_long_as_those_of_q4_k,
            "your blocks begin 144 bytes apart, as in Q4_K: with the plane they have 176",
        ),
        *(Mistake(row_with(wrong), message) for wrong, message in DECODING),
    ),
    hints=(
        "Start from decode_by_sub_block of lesson 03: a block has 176 bytes now, its plane begins at byte "
        "16 and its codes at byte 48.",
        "Only the code changes: to the nibble comes bit s of byte l of the plane, raw[at + 16 + l], which "
        "counts 16. Make `out` yourself, float32, and return it.",
    ),
)


# pack_q5_k_codes: codes uint8 [256] -> qh uint8 [32], qs uint8 [128]


def pack_codes(codes):
    """Pack 256 codes of 5 bits with the engine's function, which wants them as float32."""
    out = np.empty(160, np.uint8)
    q5_k.pack_codes(codes.astype(np.float32), out)
    return out[:32], out[32:]


def code_cases():
    rng = np.random.default_rng(9)
    one = np.zeros(256, np.uint8)
    one[100] = 16
    return {
        "zeros": (np.zeros(256, np.uint8),),
        "0 to 31 repeated": (np.tile(np.arange(32, dtype=np.uint8), 8),),
        "all codes 21": (np.full(256, 21, np.uint8),),
        "16 at weight 100 only": (one,),
        "random codes": (rng.integers(0, 32, 256, dtype=np.uint8),),
    }


def packed(codes, nibbles=None, plane=None, low=15, high=4):
    """Pack codes; each argument that is given replaces a right step by a wrong one."""
    chunks = (codes & low).reshape(4, 2, 32)
    qs = (chunks[:, 0] | chunks[:, 1] << 4).reshape(-1) if nibbles is None else nibbles(codes & low)
    bits = codes >> high & 1
    rows = bits.reshape(8, 32) << SUB_BLOCKS[:, None]
    qh = rows.sum(axis=0, dtype=np.uint8) if plane is None else plane(bits)
    return qh, qs


def packed_with_bits_in_sequence(codes):
    return packed(codes, plane=lambda bits: np.packbits(bits, bitorder="little"))


def packed_with_bits_in_sequence_high_first(codes):
    return packed(codes, plane=np.packbits)


def packed_with_bits_from_the_top(codes):
    return packed(codes, plane=lambda bits: np.packbits(bits.reshape(8, 32), axis=0)[0])


def packed_with_nibbles_in_sequence(codes):
    return packed(codes, nibbles=lambda q: q[0::2] | q[1::2] << 4)


def packed_with_sub_blocks_exchanged(codes):
    def nibbles(q):
        chunks = q.reshape(4, 2, 32)
        return (chunks[:, 1] | chunks[:, 0] << 4).reshape(-1)

    return packed(codes, nibbles=nibbles)


def packed_without_a_mask(codes):
    return packed(codes, low=255)


def packed_with_the_fourth_bit(codes):
    return packed(codes, high=3)


def packed_without_a_plane(codes):
    return packed(codes, plane=lambda bits: np.zeros(32, np.uint8))


def packed_in_the_other_order(codes):
    return packed(codes)[::-1]


PACK = Exercise(
    name="pack_q5_k_codes",
    engine=pack_codes,
    solution=solutions.pack_codes,
    twin=q5_k.pack_codes,
    parts=("qh", "qs"),
    cases=code_cases,
    mistakes=(
        Mistake(
            packed_without_a_mask,
            "the fifth bit of a low code spills into the high nibble: keep the low four with & 15 before "
            "you join",
        ),
        Mistake(
            packed_with_the_fourth_bit,
            "qh holds the fourth bits, those that count 8: the fifth counts 16, code >> 4",
        ),
        Mistake(packed_without_a_plane, "qh is empty: the fifth bits of the codes belong there"),
        Mistake(
            packed_with_bits_in_sequence,
            "your plane is in sequence, weight i in bit i % 8 of byte i // 8: byte l holds a bit of each "
            "of the weights l, 32 + l, 64 + l ... 224 + l",
        ),
        Mistake(
            packed_with_bits_in_sequence_high_first,
            "your plane is in sequence, the highest bit of each byte first (np.packbits does that): byte "
            "l holds a bit of each of the weights l, 32 + l, 64 + l ... 224 + l",
        ),
        Mistake(
            packed_with_bits_from_the_top,
            "your plane counts sub-blocks from the top: sub-block 0 goes to bit 0, sub-block 7 to bit 7",
        ),
        Mistake(
            packed_with_nibbles_in_sequence,
            "your nibbles are in sequence: byte l of chunk c holds weights 64c + l and 64c + 32 + l",
        ),
        Mistake(
            packed_with_sub_blocks_exchanged,
            "the nibbles are exchanged: the even sub-block goes to the low ones, the odd one to the high "
            "ones",
        ),
        Mistake(packed_in_the_other_order, "return qh first, then qs: that is their order in the block"),
    ),
    hints=(
        "Take the codes apart first: low = codes & 15, high = codes >> 4. Reshape low to (4, 2, 32): four "
        "chunks of two sub-blocks.",
        "high.reshape(8, 32) has a row for each sub-block. Shift row s up by s and join the rows: their "
        "bits do not overlap, so a sum does it. Give the sum dtype=np.uint8.",
    ),
)

EXERCISES = [HIGH_BITS, DEQUANTIZE, ROW, PACK]
