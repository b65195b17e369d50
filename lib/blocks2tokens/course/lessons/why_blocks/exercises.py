"""Exercises of lesson 01: bits per weight, float16 by hand, and the blocks Q8_0 and Q4_0.

check.bits_per_weight(f)    f(format) -> float
check.read_half(f)          f(raw uint8 [bytes], at) -> float
check.quantize_q8_0(f)      f(x float32 [32]) -> d, codes [32]
check.decode_q8_0(f)        f(raw uint8 [34 * n]) -> float32 [32 * n]
check.decode_q4_0(f)        f(blocks with fields d, qs [n]) -> float32 [n, 32]
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
    }


def _halves_with(bias=15, hidden=1.0, tiny=True, signed=True, least=-14, tiny_signed=True, fields=31):
    """Return a reader of float16 by arithmetic, with what a learner may get wrong as parameters."""

    def read(raw, at):
        bits = int(raw[at]) + 256 * int(raw[at + 1])
        sign = -1.0 if signed and bits >> 15 else 1.0
        exponent, mantissa = (bits >> 10) & fields, bits & 1023
        if tiny and exponent == 0:
            sign = sign if tiny_signed else 1.0
            return sign * mantissa / 1024 * 2.0**least
        return sign * (hidden + mantissa / 1024) * 2.0 ** (exponent - bias)

    return read


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
            _halves_with(hidden=0.0),
            "the hidden 1 is missing: the value is (1 + mantissa / 1024) * 2 ** (exponent - 15)",
        ),
        Mistake(
            _halves_with(tiny=False),
            "right but for exponent 0: there the 1 is not hidden but absent, and zero is the smallest case",
        ),
        Mistake(
            _halves_with(least=-15),
            "half of what it should be with exponent 0: the power stays at 2**-14, that of exponent 1; the "
            "formula's 2**(0 - 15) would leave a gap",
        ),
        Mistake(
            _halves_with(tiny_signed=False),
            "right but for the sign where the exponent is 0: numbers without a hidden 1 can be negative, too",
        ),
        Mistake(
            _halves_with(signed=False),
            "you leave out the sign: bit 15, the highest, makes the value negative",
        ),
        Mistake(
            _halves_with(fields=63),
            "the sign is still on top of your exponent, and counts 32 there: keep five bits, & 31",
        ),
        Mistake(
            _halves_with(bias=0),
            "your exponent has no bias: it is stored as 0 to 31 and counts from -15, 2.0 ** (exponent - 15)",
        ),
        Mistake(
            _halves_with(bias=16), "you are off by a factor of 2: the exponent counts from -15, not from -16"
        ),
        Mistake(
            lambda raw, at: _as_half(int(raw[0]) + 256 * int(raw[1])),
            "you read at byte 0, whatever `at` is: the two bytes are raw[at] and raw[at + 1]",
        ),
    ),
    hints=(
        "First the 16 bits as one integer: the byte at `at` is the low one. Then three fields out of it, "
        "with >> and &: 1 bit of sign, 5 of exponent, 10 of mantissa.",
        "bits = int(raw[at]) + 256 * int(raw[at + 1]); the exponent is (bits >> 10) & 31, the mantissa "
        "bits & 1023, the sign bits >> 15. With exponent 0 no 1 is hidden, and the power stays at 2**-14. "
        "The engine has one instruction of the processor do all this.",
    ),
)


# Q8_0, encoding


def _one_block():
    return {label: (x[0],) for label, x in weight_cases().items() if len(x) == 1}


def _engine_quantize_q8_0(x):
    block = Q8_0.blocks(Q8_0.quantize(x))[0]
    return block["d"], block["qs"]


def _q8_0_with(scale, to_integer, fit):
    """Return a quantizer: the scale of a block, then its codes, then what keeps them in their range."""

    def quantize(x):
        d = scale(x)
        return d, fit(to_integer(x / d)) if d else np.zeros(32)

    return quantize


FITS = (
    lambda codes: codes,
    lambda codes: np.clip(codes, -127, 127),
    lambda codes: np.clip(codes, -128, 127),
    lambda codes: codes.astype(np.int64).astype(np.int8),  # 128 becomes -128
)


def _with_any_fit(message, scale, to_integer=np.rint):
    """Return the mistake in each of the ways in which a learner may end it."""
    return [Mistake(_q8_0_with(scale, to_integer, fit), message) for fit in FITS]


def _d(x):
    return np.abs(x).max() / 127


QUANTIZE_Q8_0 = Exercise(
    name="quantize_q8_0",
    engine=_engine_quantize_q8_0,
    solution=solutions.quantize_q8_0,
    twin=q8_0.encode_row,
    cases=_one_block,
    tolerance=1e-3,  # d may come as float16 or as float32; codes one apart differ by more
    mistakes=(
        *_with_any_fit(
            "you cut the fraction off (astype does that): 2.9 becomes 2. Round to the nearest, np.rint(...)",
            _d,
            np.trunc,
        ),
        *_with_any_fit(
            "you round down (np.floor): 2.9 becomes 2. Round to the nearest, np.rint(...)", _d, np.floor
        ),
        *_with_any_fit(
            "you take the largest weight and not the largest magnitude: a large negative one counts (np.abs)",
            lambda x: x.max() / 127,
        ),
        *_with_any_fit(
            "you spread the codes from the smallest weight to the largest: here code 0 means 0, so d is the "
            "largest magnitude / 127",
            lambda x: (x.max() - x.min()) / 255,
        ),
        *_with_any_fit(
            "your largest weight gets code 128, which an int8 cannot hold: divide by 127",
            lambda x: np.abs(x).max() / 128,
        ),
        Mistake(
            lambda x: (_d(x), _engine_quantize_q8_0(x)[1].view(np.uint8)),
            "your negative codes came out positive, 160 where -96 is meant: codes are signed, np.int8",
        ),
        Mistake(
            lambda x: (_d(x), np.rint(x / _d(x))),
            "0 / 0 is NaN, not a number: where all weights are 0, d is 0 too, and all codes are 0. Ask first",
        ),
        Mistake(
            lambda x: (1 / _d(x) if x.any() else 0.0, _engine_quantize_q8_0(x)[1]),
            "your codes are right, your d is upside down: a weight is d * code",
        ),
    ),
    hints=(
        "Which weight must get code 127 or -127? That gives d. The codes are how many times d fits into "
        "each weight, to the nearest integer. What if all weights are 0?",
        "d is the largest magnitude / 127, and np.rint rounds to the nearest. But what is 0 / 0? Ask first.",
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
        "128 or "
        "more become negative? By hand, or all 32 at once by .view(np.int8).",
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


EXERCISES = [BITS_PER_WEIGHT, READ_HALF, QUANTIZE_Q8_0, DECODE_Q8_0, DECODE_Q4_0]
