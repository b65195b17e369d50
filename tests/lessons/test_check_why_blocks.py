"""What learners write in lesson 01, for test_check_learners.py, and what is the lesson's own."""

from pathlib import Path

import numpy as np

from blocks2tokens.course.lessons.why_blocks import solutions

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "ggml_quantizers.npz"


def half(raw, at):
    return np.frombuffer(bytes(raw[at : at + 2]), "<f2")[0]


# Right, in other words than the engine's


def bits_per_weight(fmt):
    return fmt.bytes_per_block * 8 / fmt.block_size


def read_half(raw, at):
    bits = int(raw[at]) | int(raw[at + 1]) << 8
    sign, exponent, mantissa = bits >> 15, bits >> 10 & 31, bits & 1023
    value = mantissa / 1024 * 2**-14 if exponent == 0 else (1 + mantissa / 1024) * 2.0 ** (exponent - 15)
    if exponent == 31:
        value = np.inf if mantissa == 0 else np.nan
    return -value if sign else value


def decode_q8_0(raw):
    weights = []
    for at in range(0, len(raw), 34):
        for byte in raw[at + 2 : at + 34]:
            weights.append(half(raw, at).astype(np.float32) * (int(byte) - 256 if byte > 127 else int(byte)))
    return np.array(weights, np.float32)


def decode_q8_0_with_numpy(raw):
    blocks = raw.view([("d", "<f2"), ("qs", "i1", 32)])
    return (blocks["d"][:, None].astype(np.float32) * blocks["qs"]).ravel()


def decode_q4_0(blocks):
    out = np.empty((len(blocks), 32), np.float32)
    for b in range(len(blocks)):
        for j in range(16):
            byte = int(blocks["qs"][b, j])
            out[b, j] = np.float32(blocks["d"][b]) * (byte % 16 - 8)
            out[b, j + 16] = np.float32(blocks["d"][b]) * (byte // 16 - 8)
    return out


def quantize_q4_0(x):
    """The block as ggml has it, a number at a time."""
    largest = max(x, key=abs)
    d = largest / np.float32(-8)
    codes = [min(15, int(v / d + np.float32(8.5))) if d else 8 for v in x]
    return list(np.float16(d).tobytes()) + [codes[j] + 16 * codes[j + 16] for j in range(16)]


def quantize_q4_0_in_a_loop(x):
    out, d = np.zeros(18, np.uint8), x[np.argmax(np.abs(x))] / np.float32(-8)
    out[:2] = np.array([d], np.float16).view(np.uint8)
    for j, v in enumerate(x):
        q = 8 if d == 0 else min(15, int(np.floor(v / d + np.float32(8.5))))
        out[2 + j % 16] |= q << 4 * (j // 16)
    return out


RIGHT = {
    "bits_per_weight": [bits_per_weight],
    "read_half": [read_half],
    "decode_q8_0": [decode_q8_0, decode_q8_0_with_numpy],
    "decode_q4_0": [decode_q4_0],
    "quantize_q4_0": [quantize_q4_0, quantize_q4_0_in_a_loop],
}


# Wrong, as learners go wrong


def integer(raw, at):
    return np.frombuffer(bytes(raw[at : at + 2]), "<u2")[0]


def big_endian(raw, at):
    return np.frombuffer(bytes(raw[at : at + 2]), ">f2")[0]


def shift_a_uint8(raw, at):
    return np.array([raw[at] | (raw[at + 1] << 8)], np.uint16).view(np.float16)[0]


def no_hidden_one(raw, at):
    bits = int(raw[at]) | int(raw[at + 1]) << 8
    exponent, value = (bits >> 10) & 31, (bits & 1023) / 1024
    return (-1) ** (bits >> 15) * value * 2.0 ** (exponent - 15 if exponent else -14)


def always_a_hidden_one(raw, at):
    bits = int(raw[at]) | int(raw[at + 1]) << 8
    if bits >> 10 & 31 == 31:
        return float(half(raw, at))
    return (-1) ** (bits >> 15) * (1 + (bits & 1023) / 1024) * 2.0 ** ((bits >> 10 & 31) - 15)


def half_of_the_tiny(raw, at):
    bits = int(raw[at]) | int(raw[at + 1]) << 8
    exponent, value = (bits >> 10) & 31, (bits & 1023) / 1024
    return (-1) ** (bits >> 15) * (value + (exponent > 0)) * 2.0 ** (exponent - 15)


def sign_in_the_exponent(raw, at):
    bits = int(raw[at]) | int(raw[at + 1]) << 8
    exponent, value = bits >> 10, (bits & 1023) / 1024
    return (-1) ** (bits >> 15) * ((exponent > 0) + value) * 2.0 ** (max(exponent, 1) - 15)


def without_bias(raw, at):
    bits = int(raw[at]) | int(raw[at + 1]) << 8
    return float(half(raw, at)) * (2.0**15 if bits >> 10 & 31 else 1)


def tiny_ones_are_positive(raw, at):
    value = half(raw, at)
    return abs(value) if abs(value) < 2**-14 else value


def no_sign(raw, at):
    return abs(half(raw, at))


def huge(raw, at):
    """What the formula makes of exponent 31."""
    bits = int(raw[at]) | int(raw[at + 1]) << 8
    if bits >> 10 & 31 < 31:
        return float(half(raw, at))
    return (-1) ** (bits >> 15) * (1 + (bits & 1023) / 1024) * 2.0**16


def always_infinite(raw, at):
    value = float(half(raw, at))
    return np.inf if np.isnan(value) else value


def infinity_without_a_sign(raw, at):
    value = float(half(raw, at))
    return abs(value) if np.isinf(value) else value


def always_the_formula(raw, at):
    bits = int(raw[at]) | int(raw[at + 1]) << 8
    return (-1) ** (bits >> 15) * (1 + (bits & 1023) / 1024) * 2.0 ** ((bits >> 10 & 31) - 15)


def wrong_bias(raw, at):
    bits = int(raw[at]) | int(raw[at + 1]) << 8
    return half(raw, at) / (2 if bits >> 10 & 31 else 1)


def always_the_first(raw, at):
    return half(raw, 0)


def rows_of_34(raw):
    return [raw[at : at + 34] for at in range(0, len(raw), 34)]


def signed(codes):
    return [int(c) - 256 if c > 127 else int(c) for c in codes]


def unsigned(raw):
    return [float(half(r, 0)) * int(q) for r in rows_of_34(raw) for q in r[2:]]


def from_129(raw):
    return [float(half(r, 0)) * (int(q) - 256 if q > 128 else int(q)) for r in rows_of_34(raw) for q in r[2:]]


def all_less_128(raw):
    blocks = raw.reshape(-1, 34)
    d = [half(block, 0).astype(np.float32) for block in blocks]
    return np.array([d[b] * (int(byte) - 128) for b in range(len(d)) for byte in blocks[b, 2:]], np.float32)


def less_255(raw):
    return [float(half(r, 0)) * max(-127, q) for r in rows_of_34(raw) for q in signed(r[2:])]


def integer_scale(raw):
    return [float(integer(r, 0)) * q for r in rows_of_34(raw) for q in signed(r[2:])]


def big_endian_scale(raw):
    return [np.float32(big_endian(r, 0)) * q for r in rows_of_34(raw) for q in signed(r[2:])]


def first_scale_for_all(raw):
    return [np.float32(half(raw, 0)) * q for r in rows_of_34(raw) for q in signed(r[2:])]


def codes_from_byte_0(raw):
    return [np.float32(half(r, 0)) * q for r in rows_of_34(raw) for q in signed(r[:32])]


def only_codes(raw):
    return [q for r in rows_of_34(raw) for q in signed(r[2:])]


def product_of_halves(raw):
    return [half(r, 0) * q for r in rows_of_34(raw) for q in signed(r[2:])]


def two_for_each_byte(blocks, first, second):
    out = np.empty((len(blocks), 32), np.float32)
    for b, block in enumerate(blocks):
        for j in range(16):
            nibbles = {"low": int(block["qs"][j]) & 15, "high": int(block["qs"][j]) >> 4}
            out[b, 2 * j] = np.float32(block["d"]) * (nibbles[first] - 8)
            out[b, 2 * j + 1] = np.float32(block["d"]) * (nibbles[second] - 8)
    return out


def low_high_low_high(blocks):
    return two_for_each_byte(blocks, "low", "high")


def high_low_high_low(blocks):
    return two_for_each_byte(blocks, "high", "low")


def halves(blocks):
    qs = blocks["qs"].astype(int)
    return np.float32(blocks["d"])[:, None], qs & 15, qs >> 4


def swapped_halves(blocks):
    d, low, high = halves(blocks)
    return d * np.hstack([high - 8, low - 8])


def no_minus_8(blocks):
    d, low, high = halves(blocks)
    return d * np.hstack([low, high])


def minus_8_in_uint8(blocks):
    q = np.hstack([blocks["qs"] & 15, blocks["qs"] >> 4])
    return blocks["d"].astype(np.float32)[:, None] * (q - 8)


def mask_without_shift(blocks):
    d, low, _ = halves(blocks)
    return d * np.hstack([low - 8, (blocks["qs"] & 0xF0).astype(int) - 8])


def shift_without_mask(blocks):
    d, _, high = halves(blocks)
    return d * np.hstack([blocks["qs"].astype(int) - 8, high - 8])


def low_not_masked_in_int8(blocks):
    q = np.hstack([blocks["qs"], blocks["qs"] >> 4]).astype(np.int8) - np.int8(8)
    return blocks["d"].astype(np.float32)[:, None] * q


def in_float16(blocks):
    q = np.hstack([blocks["qs"] & 15, blocks["qs"] >> 4]).astype(np.int8) - 8
    return blocks["d"][:, None] * q


def block_of(x, d, codes, pack=lambda low, high: low + 16 * high):
    """Return the 18 bytes of a scale and 32 codes."""
    codes = [int(c) for c in codes]
    packed = [pack(codes[j], codes[j + 16]) % 256 for j in range(16)]
    return np.array([*np.float16(d).tobytes(), *packed], np.uint8)


def q4_0(x):
    """The right scale and codes, before they are packed."""
    d = x[np.abs(x).argmax()] / np.float32(-8)
    steps = x / d if d else 0 * x
    return d, np.minimum(15, np.floor(steps + np.float32(8.5)))


def with_scale(scale):
    def encode(x):
        d = np.float32(scale(x))
        steps = x * (np.float32(1) / d) if d else 0 * x
        return block_of(x, d, np.minimum(15, np.floor(steps + np.float32(8.5))))

    return encode


def with_codes(to_code):
    def encode(x):
        d = q4_0(x)[0]
        return block_of(x, d, to_code(x / d if d else 0 * x))

    return encode


def packed(pack):
    return lambda x: block_of(x, *q4_0(x), pack)


def adjacent(x):
    d, q = q4_0(x)
    return block_of(x, d, [*q[0::2], *q[1::2]])


def big_endian_q4_0(x):
    block = block_of(x, *q4_0(x))
    return np.concatenate([block[1::-1], block[2:]])


def stored_scale(x):
    d, _ = q4_0(x)
    steps = x / np.float32(np.float16(d)) if d else 0 * x
    return block_of(x, d, np.minimum(15, np.floor(steps + np.float32(8.5))))


def divides_by_zero(x):
    d = x[np.abs(x).argmax()] / np.float32(-8)
    with np.errstate(all="ignore"):
        codes = np.minimum(15, x / d + np.float32(8.5))
    return block_of(x, d, np.nan_to_num(codes))


def no_sign_and_divides_by_zero(x):
    d = np.abs(x).max() / 8
    q = np.minimum(15, x / d + 8.5).astype(np.uint8)
    return np.concatenate([np.array([d], np.float16).view(np.uint8), q[:16] | q[16:] << 4])


def adjacent_and_gives_up(x):
    return adjacent(x) if x.any() else np.zeros(18, np.uint8)


def asks_before_minus_8(x):
    return block_of(x, *q4_0(x)) if x.any() else block_of(x, 0.0, [8] * 32)


def gives_up_on_zeros(x):
    return block_of(x, *q4_0(x)) if x.any() else np.zeros(18, np.uint8)


WRONG = [
    ("bits_per_weight", lambda fmt: fmt.bytes_per_block / fmt.block_size, "bytes per weight"),
    ("bits_per_weight", lambda fmt: fmt.block_size * 8 / fmt.bytes_per_block, "upside down"),
    ("bits_per_weight", lambda fmt: fmt.block_size / fmt.bytes_per_block, "weights per byte"),
    (
        "bits_per_weight",
        lambda fmt: {"Q8_0": 8, "Q4_0": 4, "Q4_1": 4, "F16": 16}[fmt.name],
        "forget the scale",
    ),
    ("bits_per_weight", lambda fmt: fmt.bytes_per_block * 8, "bits of a whole block"),
    ("bits_per_weight", lambda fmt: fmt.bytes_per_block * 8 // fmt.block_size, "round down to whole bits"),
    ("read_half", integer, "as an integer (uint16)"),
    ("read_half", big_endian, "swapped (big-endian)"),
    ("read_half", shift_a_uint8, "a uint8 << 8 is 0"),
    ("read_half", no_hidden_one, "hidden 1 is missing"),
    ("read_half", always_a_hidden_one, "right but for exponent 0"),
    ("read_half", half_of_the_tiny, "the power stays at 2**-14"),
    ("read_half", sign_in_the_exponent, "keep five bits, & 31"),
    ("read_half", without_bias, "your exponent has no bias"),
    ("read_half", tiny_ones_are_positive, "can be negative, too"),
    ("read_half", no_sign, "leave out the sign"),
    ("read_half", wrong_bias, "factor of 2"),
    ("read_half", always_the_first, "at byte 0, whatever `at` is"),
    ("read_half", huge, "infinity would be 65,536"),
    ("read_half", always_infinite, "any other is NaN"),
    ("read_half", infinity_without_a_sign, "minus infinity has lost its sign"),
    ("read_half", always_the_formula, "the two exponents that are not like the others"),
    ("quantize_q4_0", with_scale(lambda x: np.abs(x).max() / 8), "your scale has lost its sign"),
    ("quantize_q4_0", with_scale(lambda x: np.abs(x).max() / -8), "your scale is always negative"),
    ("quantize_q4_0", with_scale(lambda x: max(x, key=abs) / 8), "the wrong sign"),
    ("quantize_q4_0", with_scale(lambda x: max(x) / -8), "one of largest magnitude: a large negative"),
    ("quantize_q4_0", with_scale(lambda x: np.abs(x).max() / 7), "you divide by 7"),
    ("quantize_q4_0", with_scale(lambda x: max(x, key=abs) / -7), "you divide by 7"),
    ("quantize_q4_0", with_codes(lambda steps: np.floor(steps + 8.5)), "gets code 16"),
    ("quantize_q4_0", with_codes(lambda steps: np.minimum(15, np.rint(steps) + 8)), "halves go up"),
    ("quantize_q4_0", with_codes(lambda steps: np.floor(steps + 8)), "Add 8.5 and not 8"),
    ("quantize_q4_0", with_codes(lambda steps: np.trunc(steps) + 8), "before you add 8"),
    ("quantize_q4_0", adjacent, "you pack weights 2j and 2j + 1"),
    ("quantize_q4_0", packed(lambda low, high: high + 16 * low), "halves are swapped"),
    ("quantize_q4_0", packed(lambda low, high: low | high), "fall on the low ones"),
    ("quantize_q4_0", big_endian_q4_0, "swapped (big-endian)"),
    ("quantize_q4_0", stored_scale, "steps of the stored scale"),
    ("quantize_q4_0", divides_by_zero, "code 8 stands for zero"),
    ("quantize_q4_0", no_sign_and_divides_by_zero, "your scale has lost its sign"),
    ("quantize_q4_0", adjacent_and_gives_up, "you pack weights 2j and 2j + 1"),
    ("quantize_q4_0", gives_up_on_zeros, "code 8 stands for zero"),
    ("quantize_q4_0", asks_before_minus_8, "0 / -8 is -0.0 in floats"),
    ("decode_q8_0", unsigned, "never negative"),
    ("decode_q8_0", from_129, "it is the first of the negative ones"),
    ("decode_q8_0", less_255, "128 - 256 = -128"),
    ("decode_q8_0", all_less_128, "you subtract 128 from every byte"),
    ("decode_q8_0", integer_scale, "the scale as an integer (uint16)"),
    ("decode_q8_0", big_endian_scale, "swapped (big-endian)"),
    ("decode_q8_0", first_scale_for_all, "the first block's scale"),
    ("decode_q8_0", codes_from_byte_0, "begin at its byte 2"),
    ("decode_q8_0", only_codes, "you return the codes"),
    ("decode_q8_0", product_of_halves, "multiply in float16"),
    ("decode_q4_0", low_high_low_high, "interleaved with the low ones"),
    ("decode_q4_0", high_low_high_low, "from left to right"),
    ("decode_q4_0", swapped_halves, "halves are swapped"),
    ("decode_q4_0", no_minus_8, "leave out `q - 8`"),
    ("decode_q4_0", minus_8_in_uint8, "3 - 8 is 251"),
    ("decode_q4_0", mask_without_shift, "16 times too large"),
    ("decode_q4_0", shift_without_mask, "mask them, & 15"),
    ("decode_q4_0", low_not_masked_in_int8, "mask them, & 15"),
    ("decode_q4_0", lambda blocks: np.hstack(halves(blocks)[1:]) - 8, "you return codes, -8 to 7"),
    ("decode_q4_0", in_float16, "multiply in float16"),
]


def test_what_the_learner_encodes_is_what_ggml_encodes():
    """The exercise's solution on many blocks, against ggml's own bytes."""
    golden = np.load(GOLDEN)
    for x, raw in zip(golden["x"].reshape(-1, 32), golden["Q4_0"].reshape(-1, 18), strict=True):
        assert np.array_equal(solutions.quantize_q4_0(x), raw)
