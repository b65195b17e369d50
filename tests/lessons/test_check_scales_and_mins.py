"""What learners write in lesson 02, for test_check_learners.py, and what is the lesson's own."""

import numpy as np

# Right, in other words than the engine's


def nibbles(blocks):
    qs = blocks["qs"].astype(int)
    return np.hstack([qs % 16, qs // 16])


def fifth(blocks):
    return np.array([[int(qh) >> i & 1 for i in range(32)] for qh in blocks["qh"]])


def column(field):
    return field.astype(np.float32)[:, None]


def decode_q4_1(blocks):
    out = np.empty((len(blocks), 32), np.float32)
    for b, (d, m, qs) in enumerate(blocks):
        for j in range(16):
            out[b, j] = np.float32(d) * np.float32(qs[j] & 15) + np.float32(m)
            out[b, j + 16] = np.float32(d) * np.float32(qs[j] >> 4) + np.float32(m)
    return out


def decode_q4_1_in_float64(blocks):
    return blocks["d"].astype(float)[:, None] * nibbles(blocks) + blocks["m"].astype(float)[:, None]


def quantize_q4_1(x):
    low, high = min(x), max(x)
    d = (high - low) / 15
    return d, low, [int((v - low) / d + 0.5) if d else 0 for v in x]


def quantize_q4_1_from_the_stored_scale(x):
    m = np.float16(x.min())
    d = np.float16((x.max() - x.min()) / 15)
    if d == 0:
        return d, m, np.zeros(32, np.uint8)
    return d, m, np.clip(np.rint((x - np.float32(m)) / np.float32(d)), 0, 15).astype(np.uint8)


def join_fifth_bit(blocks):
    return nibbles(blocks) + 16 * fifth(blocks)


def join_fifth_bit_with_unpackbits(blocks):
    planes = blocks["qh"].copy().view(np.uint8).reshape(-1, 4)
    return nibbles(blocks) | np.unpackbits(planes, axis=1, bitorder="little").astype(int) << 4


def decode_q5_0(blocks):
    return column(blocks["d"]) * (join_fifth_bit(blocks) - 16)


def decode_q5_1(blocks):
    return column(blocks["d"]) * join_fifth_bit(blocks) + column(blocks["m"])


RIGHT = {
    "decode_q4_1": [decode_q4_1, decode_q4_1_in_float64],
    "quantize_q4_1": [quantize_q4_1, quantize_q4_1_from_the_stored_scale],
    "join_fifth_bit": [join_fifth_bit, join_fifth_bit_with_unpackbits],
    "decode_q5_0": [decode_q5_0],
    "decode_q5_1": [decode_q5_1],
}


# Wrong, as learners go wrong


def taking_turns(blocks):
    return np.array([[half for q in qs for half in (int(q) & 15, int(q) >> 4)] for qs in blocks["qs"]])


def swapped(blocks):
    q = nibbles(blocks)
    return np.hstack([q[:, 16:], q[:, :16]])


def not_shifted(blocks):
    return np.hstack([blocks["qs"] & 0x0F, blocks["qs"] & 0xF0])


def not_masked(blocks):
    return np.hstack([blocks["qs"], blocks["qs"] >> 4])


def with_values(codes, value):
    """Return a decoder: value(d, m, q) of these codes."""
    return lambda blocks: value(column(blocks["d"]), column(blocks["m"]), codes(blocks))


def in_float16(codes):
    return lambda blocks: (
        blocks["d"][:, None] * codes(blocks).astype(np.float16)
        + (blocks["m"][:, None] if "m" in blocks.dtype.names else 0)
    )


def linear(d, m, q):
    return d * q + m


def from_range(n, to_integer=np.round, lowest=min):
    def quantize(x):
        d, m = (max(x) - min(x)) / n, lowest(x)
        if d == 0:
            return d, m, np.zeros(32)
        return d, m, np.clip(to_integer((x - m) / d), 0, 15)

    return quantize


def sixteen_steps(x):
    d = (x.max() - x.min()) / 16
    return (d, x.min(), np.round((x - x.min()) / d)) if d else (d, x.min(), np.zeros(32))


def largest_over_15(x):
    d, m = x.max() / 15, x.min()
    return d, m, np.clip(np.rint((x - m) / d), 0, 15) if d else np.zeros(32)


def divides_by_zero(x):
    d = (x.max() - x.min()) / 15
    return d, x.min(), np.rint((x - x.min()) / d)


def casts_nan(x):
    d, m, codes = divides_by_zero(x)
    return d, m, codes.astype(np.uint8)


def negative_minimum(x):
    d, m, q = quantize_q4_1(x)
    return d, -m, q


def minimum_first(x):
    d, m, q = quantize_q4_1(x)
    return m, d, q


def scale_of_q4_0(x):
    d = abs(x).max() / 15
    if d == 0:
        return d, x.min(), np.zeros(32)
    return d, x.min(), np.minimum(np.round((x - x.min()) / d), 15)


def codes_from_zero(x):
    d = (x.max() - x.min()) / 15
    return d, x.min(), np.clip(np.round(x / d), 0, 15) if d else np.zeros(32)


def reversed_bits(blocks):
    return nibbles(blocks) + 16 * fifth(blocks)[:, ::-1]


def unpackbits_as_it_is(blocks):
    planes = np.ascontiguousarray(blocks["qh"]).view(np.uint8).reshape(-1, 4)
    return nibbles(blocks) + 16 * np.unpackbits(planes, axis=1)


def same_bits_for_both_halves(blocks):
    high = fifth(blocks)
    return nibbles(blocks) + 16 * np.hstack([high[:, :16], high[:, :16]])


def alternating(blocks):
    high = fifth(blocks)
    return nibbles(blocks) + 16 * np.hstack([high[:, 0::2], high[:, 1::2]])


def big_endian(blocks):
    turned = blocks["qh"].byteswap()
    return nibbles(blocks) + 16 * ((turned[:, None] >> np.arange(32)) & 1)


def lowest_bit(blocks):
    return nibbles(blocks) * 2 + fifth(blocks)


def no_mask(blocks):
    return nibbles(blocks) + 16 * np.array([[int(qh) >> i for i in range(32)] for qh in blocks["qh"]])


def no_mask_in_uint8(blocks):
    high = (blocks["qh"][:, None] >> np.arange(32, dtype=np.uint32)).astype(np.uint8)
    return nibbles(blocks).astype(np.uint8) | high << 4


def without_brackets(blocks):
    low = np.hstack([blocks["qs"] & 15, blocks["qs"] >> 4])
    return low | blocks["qh"][:, None] >> np.arange(32, dtype=np.uint32) & 1 << 4


def minus_16_in_uint32(blocks):
    return column(blocks["d"]) * (join_fifth_bit(blocks).astype(np.uint32) - np.uint32(16))


def minus_16_in_uint8(blocks):
    q = join_fifth_bit(blocks).astype(np.uint8) - np.uint8(16)
    return column(blocks["d"]) * q


def somebodys_decoder(blocks):
    """As the lesson shows it."""
    low = np.hstack([blocks["qs"] & 15, blocks["qs"] >> 4])
    high = (blocks["qh"][:, None] >> np.arange(32, dtype=np.uint32) % 16) & 1
    return column(blocks["d"]) * ((low | (high << 4)) + column(blocks["m"]))


WRONG = [
    ("decode_q4_1", with_values(nibbles, lambda d, m, q: d * q - m), "you subtract the minimum"),
    ("decode_q4_1", with_values(nibbles, lambda d, m, q: d * q), "leave the minimum out"),
    ("decode_q4_1", with_values(nibbles, lambda d, m, q: d * (q + m)), "before you scale"),
    ("decode_q4_1", with_values(nibbles, lambda d, m, q: m * q + d), "wrong way round"),
    ("decode_q4_1", with_values(nibbles, lambda d, m, q: d * (q - 8) + m), "still subtract 8"),
    ("decode_q4_1", with_values(taking_turns, linear), "interleaved with the low ones"),
    ("decode_q4_1", with_values(swapped, linear), "halves are swapped"),
    ("decode_q4_1", with_values(not_shifted, linear), "16 times too large"),
    ("decode_q4_1", with_values(not_masked, linear), "still carry the high ones"),
    ("decode_q4_1", in_float16(nibbles), "calculate in float16"),
    *(
        ("decode_q4_1", in_float16(codes), phrase)
        for codes, first in ((taking_turns, "interleaved"), (swapped, "swapped"), (not_shifted, "16 times"))
        for phrase in (first, "And you calculate in float16")
    ),
    ("decode_q4_1", with_values(taking_turns, lambda d, m, q: d * q), "And you leave the minimum out"),
    ("quantize_q4_1", from_range(16), "largest weight is cut off"),
    ("quantize_q4_1", sixteen_steps, "gets a code of 16"),
    ("quantize_q4_1", from_range(15, np.floor), "cut the fraction off"),
    ("quantize_q4_1", from_range(15, lowest=lambda x: min(0, min(x))), "never let the minimum rise above 0"),
    ("quantize_q4_1", from_range(15, lowest=np.mean), "your m is the mean"),
    ("quantize_q4_1", largest_over_15, "your step is the largest weight / 15"),
    ("quantize_q4_1", divides_by_zero, "0 / 0 is NaN"),
    ("quantize_q4_1", casts_nan, "you make an integer of 0 / 0"),
    ("quantize_q4_1", negative_minimum, "m has the wrong sign"),
    ("quantize_q4_1", minimum_first, "you return m before d"),
    ("quantize_q4_1", scale_of_q4_0, "comes from the largest magnitude"),
    ("quantize_q4_1", codes_from_zero, "your codes count from 0"),
    ("join_fifth_bit", nibbles, "leave the fifth bit out"),
    ("join_fifth_bit", reversed_bits, "bit 0 of qh, the lowest, belongs to weight 0"),
    ("join_fifth_bit", unpackbits_as_it_is, "bitorder='little'"),
    ("join_fifth_bit", same_bits_for_both_halves, "get the fifth bits of weights 0 to 15"),
    ("join_fifth_bit", alternating, "alternate between the halves"),
    ("join_fifth_bit", big_endian, "in reverse (big-endian)"),
    ("join_fifth_bit", lambda blocks: nibbles(blocks) + fifth(blocks), "fifth bit is worth 1"),
    ("join_fifth_bit", lambda blocks: nibbles(blocks) + 32 * fifth(blocks), "so << 4, which is 16"),
    ("join_fifth_bit", lambda blocks: nibbles(blocks) + 8 * fifth(blocks), "falls on the fourth"),
    ("join_fifth_bit", lambda blocks: nibbles(blocks) | fifth(blocks), "the one worth 1"),
    ("join_fifth_bit", lambda blocks: nibbles(blocks) | fifth(blocks) * 2, "the one worth 2"),
    ("join_fifth_bit", lambda blocks: nibbles(blocks) | fifth(blocks) * 4, "the one worth 4"),
    ("join_fifth_bit", lambda blocks: nibbles(blocks) | fifth(blocks) << 3, "the one worth 8"),
    ("join_fifth_bit", no_mask_in_uint8, "keep all the bits above"),
    ("join_fifth_bit", lowest_bit, "below the other four"),
    ("join_fifth_bit", without_brackets, "binds tighter"),
    ("join_fifth_bit", no_mask, "keep all the bits above"),
    ("join_fifth_bit", lambda blocks: taking_turns(blocks) + 16 * fifth(blocks), "nibbles take turns"),
    ("join_fifth_bit", lambda blocks: swapped(blocks) + 16 * fifth(blocks), "halves of qs are swapped"),
    ("decode_q5_0", lambda blocks: column(blocks["d"]) * (join_fifth_bit(blocks) - 8), "the middle is 16"),
    ("decode_q5_0", lambda blocks: column(blocks["d"]) * join_fifth_bit(blocks), "leave out `q - 16`"),
    ("decode_q4_1", lambda blocks: nibbles(blocks) + column(blocks["m"]), "d is missing"),
    ("decode_q5_1", lambda blocks: join_fifth_bit(blocks) + column(blocks["m"]), "d is missing"),
    ("decode_q5_0", minus_16_in_uint8, "3 - 16 is 243"),
    ("decode_q5_0", minus_16_in_uint32, "4,294,967,283"),
    ("decode_q5_0", lambda blocks: minus_16_in_uint32(blocks).astype(np.float32), "4,294,967,283"),
    ("decode_q5_0", lambda blocks: column(blocks["d"]) * (nibbles(blocks) - 16), "leave the fifth bit out"),
    ("decode_q5_0", in_float16(lambda blocks: join_fifth_bit(blocks) - 16), "calculate in float16"),
    ("decode_q5_1", with_values(join_fifth_bit, lambda d, m, q: d * (q - 16) + m), "still subtract 16"),
    ("decode_q5_1", with_values(join_fifth_bit, lambda d, m, q: d * q - m), "you subtract the minimum"),
    ("decode_q5_1", with_values(join_fifth_bit, lambda d, m, q: d * q), "leave the minimum out"),
    ("decode_q5_1", with_values(join_fifth_bit, lambda d, m, q: d * (q + m)), "before you scale"),
    ("decode_q5_1", with_values(join_fifth_bit, lambda d, m, q: m * q + d), "wrong way round"),
    ("decode_q5_1", with_values(nibbles, linear), "leave the fifth bit out"),
    ("decode_q5_1", somebodys_decoder, "the decoder as you found it"),
    ("decode_q5_1", with_values(same_bits_for_both_halves, linear), "one fault is mended, one is left"),
    ("decode_q5_1", in_float16(join_fifth_bit), "calculate in float16"),
]
