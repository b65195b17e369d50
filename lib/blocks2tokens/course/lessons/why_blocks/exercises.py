"""Exercises of lesson 01: bits per weight, float16 by hand, and the blocks Q8_0 and Q4_0.

check.bits_per_weight(f)    f(format) -> float
check.read_half(f)          f(raw uint8 [bytes], at) -> float
check.decode_q8_0(f)        f(raw uint8 [34 * n]) -> float32 [32 * n]
check.decode_q4_0(f)        f(blocks with fields d, qs [n]) -> float32 [n, 32]
check.quantize_q4_0(f)      f(x float32 [32]) -> uint8 [18]
"""

import numpy as np

from blocks2tokens.course.check.exercise import Exercise, Mistake
from blocks2tokens.course.lessons.why_blocks import solutions
from blocks2tokens.formats import FORMATS, Format, compiled, q4_0, q8_0

Q8_0, Q4_0 = FORMATS["Q8_0"], FORMATS["Q4_0"]


def weight_cases() -> dict[str, np.ndarray]:
    """Return blocks of weights, float32 [n, 32], that tell the usual mistakes apart."""
    rng = np.random.default_rng(104)  # no weight near the middle between two codes of Q8_0
    outlier = rng.normal(0, 0.1, (1, 32))
    outlier[0, 9] = -6.0
    cases = {
        "zeros": np.zeros((1, 32)),
        "a ramp": np.linspace(-1.0, 1.32, 32)[None],
        "a constant": np.full((1, 32), 0.75),
        "random weights": rng.normal(0, 1, (1, 32)),
        "one huge outlier": outlier,
        "three blocks": rng.normal(0, 1, (3, 32)) * [[1], [0.03], [20]],
    }
    return {label: x.astype(np.float32) for label, x in cases.items()}


def block_cases(fmt: Format) -> dict[str, np.ndarray]:
    """Return blocks of a format with 32 weights, `fmt.block` [n]: quantized weights, and random bytes."""
    cases = {label: fmt.blocks(fmt.quantize(x))[:, 0] for label, x in weight_cases().items()}
    raw = np.random.default_rng(2).integers(0, 256, (2, fmt.bytes_per_block), dtype=np.uint8)
    blocks = fmt.blocks(raw)[:, 0]
    for name in {"d", "m"} & set(fmt.block.names):
        blocks[name] = (0.37, -2.6)
    return cases | {"two blocks of random bytes": blocks}


# Bits per weight


def _sizes():
    return {name: (FORMATS[name],) for name in ("Q8_0", "Q4_0", "Q4_1", "F16")}


def _codes_only(fmt):
    codes = fmt.block[fmt.block.names[-1]]  # the codes are a block's last field
    return 8 * codes.itemsize / fmt.block_size


BITS_PER_WEIGHT = Exercise(
    name="bits_per_weight",
    engine=Format.bits_per_weight.fget,
    solution=solutions.bits_per_weight,
    twin=Format.bits_per_weight.fget,
    cases=_sizes,
    mistakes=(
        Mistake(
            lambda fmt: fmt.bytes_per_block / fmt.block_size,
            "those are bytes per weight: a byte has eight bits",
        ),
        Mistake(
            lambda fmt: 8 * fmt.block_size / fmt.bytes_per_block,
            "your fraction is upside down: divide the bits of a block by its weights",
        ),
        Mistake(
            lambda fmt: fmt.block_size / fmt.bytes_per_block,
            "those are weights per byte: turn the fraction round, and count bits, not bytes",
        ),
        Mistake(
            _codes_only,
            "you count the codes and forget the scale, which lies in the block too: each weight pays for it",
        ),
        Mistake(
            lambda fmt: 8 * fmt.bytes_per_block,
            "those are the bits of a whole block: its fmt.block_size weights share them",
        ),
        Mistake(
            lambda fmt: 8 * fmt.bytes_per_block // fmt.block_size,
            "you round down to whole bits (`//`): the half bit is the scale's",
        ),
    ),
    hints=(
        "How many bits has a whole block? How many weights share them?",
        "A block has 8 * fmt.bytes_per_block bits, scale and codes together.",
    ),
)


# A float16 from two bytes


def _infinite(sign, mantissa):
    """Return what exponent 31 stands for."""
    return np.nan if mantissa else sign * np.inf


def _halves():
    def stored(value):
        return np.array([value], "<f2").view(np.uint8)

    row = np.array([0.0123, -3.14, 0.5], "<f2").view(np.uint8)
    return {
        "one": (stored(1.0), 0),
        "minus six and a half": (stored(-6.5), 0),
        "a scale": (stored(0.0123), 0),
        "the second of three": (row, 2),
        "zero": (stored(0.0), 0),
        "the largest": (stored(65504.0), 0),
        "one too small for a hidden 1": (np.array([0x01, 0x02], np.uint8), 0),
        "a negative one as small": (np.array([0x01, 0x82], np.uint8), 0),
        "infinity": (stored(np.inf), 0),
        "minus infinity": (stored(-np.inf), 0),
        "not a number": (stored(np.nan), 0),
    }


def _halves_with(
    bias=15, hidden=1.0, tiny=True, signed=True, least=-14, tiny_signed=True, fields=31, top=_infinite
):
    """Return a reader of float16 by arithmetic, with what a learner may get wrong as parameters."""

    def read(raw, at):
        bits = int(raw[at]) + 256 * int(raw[at + 1])
        sign = -1.0 if signed and bits >> 15 else 1.0
        exponent, mantissa = (bits >> 10) & fields, bits & 1023
        if top and (bits >> 10) & 31 == 31:
            return top(sign, mantissa)
        if tiny and exponent == 0:
            sign = sign if tiny_signed else 1.0
            return sign * mantissa / 1024 * 2.0**least
        return sign * (hidden + mantissa / 1024) * 2.0 ** (exponent - bias)

    return read


def _with_any_top(message, **wrong):
    """Return a mistake of a learner who has remembered exponent 31, and of one who has not."""
    return [Mistake(_halves_with(**wrong, top=top), message) for top in (_infinite, None)]


def _as_half(bits):
    return float(np.array([bits], np.uint16).view(np.float16)[0])


READ_HALF = Exercise(
    name="read_half",
    engine=compiled.read_half,
    solution=solutions.read_half,
    twin=compiled.read_half,
    cases=_halves,
    mistakes=(
        Mistake(
            lambda raw, at: int(raw[at]) + 256 * int(raw[at + 1]),
            "you return the 16 bits as an integer (uint16); take them apart into sign, exponent and mantissa",
        ),
        Mistake(
            lambda raw, at: _as_half(256 * int(raw[at]) + int(raw[at + 1])),
            "your two bytes are swapped (big-endian): the low byte comes first, at raw[at]",
        ),
        Mistake(
            lambda raw, at: _as_half(int(raw[at])),
            "the high byte is lost: raw[at + 1] is a uint8, and a uint8 << 8 is 0; make it an int(...) first",
        ),
        Mistake(
            _halves_with(top=None),
            "right but for exponent 31: by the formula, infinity would be 65,536. There mantissa 0 is "
            "infinity, with its sign, and any other is NaN, not a number",
        ),
        Mistake(
            _halves_with(top=lambda sign, mantissa: sign * np.inf),
            "with exponent 31 only mantissa 0 is infinity: any other is NaN, not a number, float('nan')",
        ),
        Mistake(
            _halves_with(top=lambda sign, mantissa: np.nan if mantissa else np.inf),
            "minus infinity has lost its sign: with exponent 31 the sign counts as elsewhere",
        ),
        Mistake(
            _halves_with(tiny=False, top=None),
            "right but for the two exponents that are not like the others: 0, where the 1 is not hidden but "
            "absent, and 31, which is infinity or NaN",
        ),
        *_with_any_top(
            "the hidden 1 is missing: the value is (1 + mantissa / 1024) * 2 ** (exponent - 15)", hidden=0.0
        ),
        Mistake(
            _halves_with(tiny=False),
            "right but for exponent 0: there the 1 is not hidden but absent, and zero is the smallest case",
        ),
        *_with_any_top(
            "half of what it should be with exponent 0: the power stays at 2**-14, that of exponent 1; the "
            "formula's 2**(0 - 15) would leave a gap",
            least=-15,
        ),
        *_with_any_top(
            "right but for the sign where the exponent is 0: numbers without a hidden 1 can be negative, too",
            tiny_signed=False,
        ),
        *_with_any_top("you leave out the sign: bit 15, the highest, makes the value negative", signed=False),
        *_with_any_top(
            "the sign is still on top of your exponent, and counts 32 there: keep five bits, & 31", fields=63
        ),
        *_with_any_top(
            "your exponent has no bias: it is stored as 0 to 31 and counts from -15, 2.0 ** (exponent - 15)",
            bias=0,
        ),
        *_with_any_top("you are off by a factor of 2: the exponent counts from -15, not from -16", bias=16),
        Mistake(
            lambda raw, at: _as_half(int(raw[0]) + 256 * int(raw[1])),
            "you read at byte 0, whatever `at` is: the two bytes are raw[at] and raw[at + 1]",
        ),
    ),
    hints=(
        "First the 16 bits as one integer: the byte at `at` is the low one. Then three fields out of it, "
        "with >> and &: 1 bit of sign, 5 of exponent, 10 of mantissa.",
        "bits = int(raw[at]) + 256 * int(raw[at + 1]); the exponent is (bits >> 10) & 31, the mantissa "
        "bits & 1023, the sign bits >> 15. With exponent 0 no 1 is hidden, and the power stays at 2**-14; "
        "exponent 31 is float('inf') or float('nan'). The engine has one instruction of the processor do "
        "all this.",
    ),
)


# Q8_0, decoding


def _q8_0_rows():
    edges = np.zeros(1, Q8_0.block)
    edges["d"], edges["qs"][0, :8] = 0.37, (127, -128, -127, -1, 0, 1, 2, -128)
    cases = block_cases(Q8_0) | {"the codes at the edges, bytes 127, 128, 129, 255": edges}
    return {label: (blocks.view(np.uint8).reshape(-1),) for label, blocks in cases.items()}


def _q8_0_decoder(scale="<f2", codes=np.int8, first_code=2, one_scale=False, float_type=np.float32, edge=0):
    """Return a decoder of rows, with what a learner may get wrong as parameters."""

    def decode(raw):
        rows = raw.reshape(-1, 34)
        d = rows[:, :2].copy().view(scale).astype(float_type)
        if one_scale:
            d[:] = d[0]
        q = rows[:, first_code : first_code + 32].copy().view(codes).astype(float_type)
        if edge:
            q[q == -128] = edge
        return (d * q).reshape(-1)

    return decode


def _with_codes_from_128(raw):
    """Return rows whose codes, as int8, are the bytes of these less 128."""
    changed = raw.reshape(-1, 34).copy()
    changed[:, 2:] ^= 128
    return changed.reshape(-1)


DECODE_Q8_0 = Exercise(
    name="decode_q8_0",
    engine=Q8_0.dequantize,
    solution=solutions.decode_q8_0,
    twin=q8_0.decode_row,
    cases=_q8_0_rows,
    mistakes=(
        Mistake(
            _q8_0_decoder(codes=np.uint8),
            "your codes are never negative: a code is a signed byte, so 255 is -1, 254 is -2, 128 is -128",
        ),
        Mistake(
            _q8_0_decoder(edge=128),
            "byte 128 is +128 with you: it is the first of the negative ones, -128 (>= 128, not > 128)",
        ),
        Mistake(
            _q8_0_decoder(edge=-127),
            "byte 128 is -127 with you: it is 128 - 256 = -128",
        ),
        Mistake(
            lambda raw: _q8_0_decoder(codes=np.int8)(_with_codes_from_128(raw)),
            "you subtract 128 from every byte: those from 0 to 127 are the codes as they are, and from the "
            "others go 256, so that 128 is -128",
        ),
        Mistake(
            _q8_0_decoder(scale="<u2"),
            "you read the scale as an integer (uint16): its two bytes are a float16, use read_half",
        ),
        Mistake(
            _q8_0_decoder(scale=">f2"),
            "the scale's two bytes are swapped (big-endian): the low byte comes first",
        ),
        Mistake(
            _q8_0_decoder(one_scale=True),
            "you use the first block's scale for all of them: block b has its own, at byte 34 * b",
        ),
        Mistake(
            _q8_0_decoder(first_code=0),
            "you take the scale for codes: a block's codes begin at its byte 2, not at byte 0",
        ),
        Mistake(
            lambda raw: Q8_0.blocks(raw)["qs"].reshape(-1),
            "you return the codes: a weight is d * code",
        ),
        Mistake(
            _q8_0_decoder(float_type=np.float16),
            "you multiply in float16, which rounds every weight: make d a float(...) or np.float32(...)",
        ),
    ),
    hints=(
        "Block b begins at byte 34 * b. What lies in its first two bytes, and what in the other 32?",
        "read_half(raw, 34 * b) is the scale, raw[34 * b + 2 + j] the byte of code j. How does a byte of "
        "128 or more become negative? By hand, or all 32 at once by .view(np.int8).",
    ),
)


# Q4_0, decoding


def _q4_0_blocks():
    return {label: (blocks,) for label, blocks in block_cases(Q4_0).items()}


def _halves_apart(low, high):
    return np.concatenate([low, high], axis=1)


def _taking_turns(first, second):
    return np.stack([first, second], axis=2).reshape(len(first), 32)


def _q4_0_decoder(
    order=_halves_apart,
    low=lambda qs: qs & 15,
    high=lambda qs: qs >> 4,
    offset=8,
    codes=np.int64,
    scale=np.float32,
):
    """Return a decoder of blocks, with what a learner may get wrong as parameters."""

    def decode(blocks):
        q = order(low(blocks["qs"]), high(blocks["qs"])).astype(codes) - codes(offset)
        return blocks["d"].astype(scale)[:, None] * q.astype(scale)

    return decode


def _with_d(blocks, d):
    changed = blocks.copy()
    changed["d"] = d
    return changed


DECODE_Q4_0 = Exercise(
    name="decode_q4_0",
    engine=q4_0.dequantize,
    solution=solutions.decode_q4_0,
    twin=q4_0.dequantize,
    cases=_q4_0_blocks,
    mistakes=(
        Mistake(
            _q4_0_decoder(order=_taking_turns),
            "your high nibbles are interleaved with the low ones: weight 1 is the low nibble of byte 1, "
            "not the high nibble of byte 0. The 16 low nibbles come first, then the 16 high ones",
        ),
        Mistake(
            _q4_0_decoder(order=lambda low, high: _taking_turns(high, low)),
            "you go through the nibbles from left to right, two for each byte: weight 0 is the low nibble of "
            "byte 0, weight 1 the low nibble of byte 1; the high ones are weights 16 to 31",
        ),
        Mistake(
            _q4_0_decoder(order=lambda low, high: _halves_apart(high, low)),
            "your halves are swapped: the low nibbles are weights 0 to 15, the high ones 16 to 31",
        ),
        Mistake(_q4_0_decoder(offset=0), "you leave out `q - 8`: code 8 means 0, code 0 means -8"),
        Mistake(
            _q4_0_decoder(codes=np.uint8),
            "your negative codes wrapped round: in uint8, 3 - 8 is 251. Before that, .astype(np.int8)",
        ),
        Mistake(
            _q4_0_decoder(high=lambda qs: qs & 240),
            "your high nibbles are 16 times too large: after the mask move them down, >> 4",
        ),
        *(
            Mistake(
                _q4_0_decoder(low=lambda qs: qs, codes=codes),
                "your low nibbles still carry the high ones: mask them, & 15",
            )
            for codes in (np.int64, np.int8)
        ),
        Mistake(
            lambda blocks: _q4_0_decoder()(_with_d(blocks, 1)),
            "you return codes, -8 to 7: a weight is d times that",
        ),
        Mistake(
            _q4_0_decoder(scale=np.float16),
            "you multiply in float16, which rounds every weight: d.astype(np.float32) first",
        ),
    ),
    hints=(
        "blocks['qs'] is uint8 [n, 16]. Make the 16 low nibbles and the 16 high ones of all blocks at once, "
        "then put them next to each other.",
        "np.concatenate([low, high], axis=1) puts them side by side; before you subtract, .astype(np.int8). "
        "d becomes float32 and needs an axis more, [:, None].",
    ),
)


# Q4_0, encoding


def _blocks_to_encode():
    """Return single blocks, among them ties, and codes that the rounded scale would change."""
    ties = np.zeros(32, np.float32)
    ties[:9], ties[20] = (-8, -3.5, -1.5, 0.5, 2.5, 4.5, 6.5, 7.75, 1), 7.6
    by_hand = {"halves between two codes": ties, "its negative": -ties}
    rounded = np.random.default_rng(7).normal(0, 1, 32).astype(np.float32)
    rounded[5], rounded[20] = -8.003, 2.5008  # 2.4999 steps of d, 2.5008 of d as a float16
    cases = {label: x[0] for label, x in weight_cases().items() if len(x) == 1}
    zeros = {"zeros": cases.pop("zeros")}
    cases |= by_hand | {"a scale that rounds": rounded} | zeros
    return {label: (x,) for label, x in cases.items()}


def _largest(x):
    return x[np.abs(x).argmax()]


def _low_first(q):
    return q[:16] | q[16:] << 4


def _to_nearest_up(steps):
    return np.floor(steps + np.float32(8.5))


def _q4_0_encoder(
    scale=lambda x: _largest(x) / np.float32(-8),
    to_code=_to_nearest_up,
    top=15,
    pack=_low_first,
    stored="<f2",
    inverse=lambda d: np.float32(1) / d if d else np.float32(0),
):
    """Return an encoder of a block, with what a learner may get wrong as parameters."""

    def encode(x):
        d = np.float32(scale(x))
        codes = np.nan_to_num(to_code(x * inverse(d)))
        q = np.clip(codes, None, top).astype(np.int64).astype(np.uint8)
        return np.concatenate([np.array([d], stored).view(np.uint8), pack(q)])

    return encode


ZERO_BLOCKS = (  # what learners make of a block of zeros
    [0, 128] + [136] * 16,  # ggml's
    [0, 0] + [136] * 16,
    [0, 128] + [0] * 16,
    [0, 0] + [0] * 16,
)


def _zeros_with(block, encode=None):
    """Return an encoder, by default the right one, that makes of zeros this block, uint8 [18]."""
    encode = encode or _q4_0_encoder()
    return lambda x: encode(x) if x.any() else np.array(block, np.uint8)


def _with_any_zeros(message, **wrong):
    """Return a mistake beside each of the ways in which a block of zeros may end."""
    return [Mistake(_zeros_with(block, _q4_0_encoder(**wrong)), message) for block in ZERO_BLOCKS]


POSITIVE_ZERO = (
    "right but for one bit: 0 / -8 is -0.0 in floats, and ggml stores that sign, so a block of zeros begins "
    "with bytes 0 and 128. Ask before you divide by d, not before you divide by -8"
)
CODE_8_IS_ZERO = (
    "a block of zeros: code 8 stands for zero, so each byte of qs is 136, two codes of 8. Where d is 0, take "
    "0 for 1 / d, and go on as always"
)
DIVIDED_BY_7 = (
    "you divide by 7, as for codes -7 to 7: Q4_0 uses -8, too, and gives it to the weight of largest "
    "magnitude"
)
CODE_16 = (
    "a weight nearly as large as the largest, but of the other sign, gets code 16, and that does not fit in "
    "four bits: np.minimum(15, ...)"
)
TIES = (
    "right but halfway between two codes: ggml adds 8.5 and cuts the fraction off, so halves go up; np.rint "
    "takes them to the even neighbour"
)

QUANTIZE_Q4_0 = Exercise(
    name="quantize_q4_0",
    engine=Q4_0.quantize,
    solution=solutions.quantize_q4_0,
    twin=q4_0.encode_row,
    cases=_blocks_to_encode,
    mistakes=(
        *_with_any_zeros(
            "your scale has lost its sign: the weight of largest magnitude gets code 0, which stands for -8, "
            "so where it is positive, d is negative. Take x[np.abs(x).argmax()] / -8",
            scale=lambda x: np.abs(x).max() / 8,
        ),
        *_with_any_zeros(
            "your scale is always negative: it has the sign of the weight of largest magnitude, turned "
            "round, x[np.abs(x).argmax()] / -8",
            scale=lambda x: np.abs(x).max() / -8,
        ),
        *_with_any_zeros(
            "your scale has the wrong sign: code 0 stands for -8, so the largest weight / -8 is the scale",
            scale=lambda x: _largest(x) / 8,
        ),
        *_with_any_zeros(
            "you take the largest weight and not the one of largest magnitude: a large negative one counts",
            scale=lambda x: x.max() / np.float32(-8),
        ),
        *_with_any_zeros(DIVIDED_BY_7, scale=lambda x: np.abs(x).max() / 7),
        *_with_any_zeros(DIVIDED_BY_7, scale=lambda x: _largest(x) / np.float32(-7)),
        *_with_any_zeros(CODE_16, top=16),
        *_with_any_zeros(CODE_16, top=None),
        *_with_any_zeros(TIES, to_code=lambda steps: np.rint(steps) + 8),
        *_with_any_zeros(
            "you cut the fraction off: 2.9 becomes 2. Add 8.5 and not 8, and what astype cuts off is then "
            "rounded",
            to_code=lambda steps: np.floor(steps + 8),
        ),
        *_with_any_zeros(
            "you cut the fraction off before you add 8: 2.9 becomes 2, -2.9 becomes -2. Add 8.5 first",
            to_code=lambda steps: np.trunc(steps) + 8,
        ),
        *_with_any_zeros(
            "you pack weights 2j and 2j + 1 into byte j: it holds weight j, and weight j + 16 in its high "
            "nibble",
            pack=lambda q: q[0::2] | q[1::2] << 4,
        ),
        *_with_any_zeros(
            "your halves are swapped: weights 0 to 15 are the low nibbles, 16 to 31 the high ones",
            pack=lambda q: q[16:] | q[:16] << 4,
        ),
        Mistake(
            _q4_0_encoder(pack=lambda q: q[:16] | q[16:]),
            "your high codes fall on the low ones: move them up first, << 4",
        ),
        Mistake(
            _q4_0_encoder(stored=">f2"),
            "the scale's two bytes are swapped (big-endian): the low byte comes first",
        ),
        *_with_any_zeros(
            "your codes count steps of the stored scale, a float16: ggml's count steps of the exact one. (Is "
            "yours better? Measure it at the end of the lesson.)",
            inverse=lambda d: np.float32(1) / np.float32(np.float16(d)) if d else d,
        ),
        Mistake(_zeros_with([0] * 18), CODE_8_IS_ZERO),
        Mistake(_zeros_with([0, 128] + [0] * 16), CODE_8_IS_ZERO),
        Mistake(_zeros_with([0, 0] + [136] * 16), POSITIVE_ZERO),
    ),
    hints=(
        "d is the weight of largest magnitude, sign included, over -8. In steps of d every weight lies "
        "between -8 and 8; add 8.5 and cut the fraction off, and none may exceed 15.",
        "x[np.abs(x).argmax()] is that weight. Low nibbles are codes[:16], high ones codes[16:] << 4, and | "
        "lays them over each other. np.frombuffer(np.float16(d).tobytes(), np.uint8) are the scale's bytes; "
        "np.concatenate puts them before the nibbles.",
    ),
)


EXERCISES = [BITS_PER_WEIGHT, READ_HALF, DECODE_Q8_0, DECODE_Q4_0, QUANTIZE_Q4_0]
