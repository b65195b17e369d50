"""Exercises of lesson 02: a minimum beside the scale, and a fifth bit in a plane of its own.

check.decode_q4_1(f)       f(blocks with fields d, m, qs [n]) -> float32 [n, 32]
check.quantize_q4_1(f)     f(x float32 [32]) -> d, m, codes [32]
check.join_fifth_bit(f)    f(blocks with fields qh, qs [n]) -> codes 0..31 [n, 32]
check.decode_q5_0(f)       f(blocks with fields d, qh, qs [n]) -> float32 [n, 32]
check.decode_q5_1(f)       f(blocks with fields d, m, qh, qs [n]) -> float32 [n, 32]
"""

import numpy as np

from blocks2tokens.course.check.exercise import Exercise, Mistake
from blocks2tokens.course.lessons.scales_and_mins import solutions
from blocks2tokens.course.lessons.why_blocks.exercises import block_cases, weight_cases
from blocks2tokens.formats import FORMATS, q4_1, q5_0, q5_1

Q4_1 = FORMATS["Q4_1"]
ROUNDED_ONCE = 1e-6  # d * q + m in float64 is as right as in float32


def _cases(name):
    return lambda: {label: (blocks,) for label, blocks in block_cases(FORMATS[name]).items()}


def _d_and_m(blocks, float_type=np.float32):
    m = blocks["m"].astype(float_type) if "m" in blocks.dtype.names else float_type(0)
    return blocks["d"].astype(float_type), m


def _by_block(values):
    return np.reshape(values, (-1, 1))


# Codes: the right ones, and those of the usual mistakes


def _low_and_high(blocks):
    return blocks["qs"] & 15, blocks["qs"] >> 4


def _four_bits(blocks):
    return np.concatenate(_low_and_high(blocks), axis=1)


def _four_bits_taking_turns(blocks):
    return np.stack(_low_and_high(blocks), axis=2).reshape(len(blocks), 32)


def _four_bits_swapped(blocks):
    return np.concatenate(_low_and_high(blocks)[::-1], axis=1)


def _four_bits_not_shifted(blocks):
    return np.concatenate([blocks["qs"] & 15, blocks["qs"] & 240], axis=1)


def _fifth_bits(qh, order):
    """Return bit order[i] of qh, uint32 [n], at i, uint8 [n, 32]."""
    return ((qh[:, None] >> np.array(order, np.uint32)) & np.uint32(1)).astype(np.uint8)


def _joined(low=_four_bits, order=range(32), worth=16):
    """Return a joiner of low and fifth bits, with what a learner may get wrong as parameters."""
    return lambda blocks: low(blocks) + worth * _fifth_bits(blocks["qh"], order)


def _decoder(codes, value, float_type=np.float32):
    """Return a decoder: codes, then value(d, m, q) with d and m [n, 1] and q [n, 32]."""

    def decode(blocks):
        d, m = _d_and_m(blocks, float_type)
        return value(_by_block(d), _by_block(m), codes(blocks).astype(float_type))

    return decode


def _scaled(d, m, q):
    return d * q + m


# Q4_1, decoding

M_IS_SUBTRACTED = "you subtract the minimum: m has its own sign, mostly minus; a weight is d * q + m"
M_IS_LEFT_OUT = "you leave the minimum out: code 0 stands for m, not for 0"
M_IS_SCALED = "you add the minimum before you scale, d * (q + m): m is a weight, not a code; d * q + m"
D_IS_MISSING = "d is missing: codes count steps, and d is the step; a weight is d * q + m"
M_AND_D_SWAPPED = "you have d and m the wrong way round: d is the step, m the value of code 0"
IN_FLOAT16 = "you calculate in float16, which rounds every weight: d and m .astype(np.float32) first"

WRONG_CODES_OF_Q4_1 = {
    "your low nibbles still carry the high ones: mask them, & 15": lambda blocks: np.hstack(
        [blocks["qs"], blocks["qs"] >> 4]
    ),
    "your high nibbles are interleaved with the low ones: weight 1 is the low nibble of byte 1; the "
    "high nibbles are weights 16 to 31": _four_bits_taking_turns,
    "your halves are swapped: the low nibbles are weights 0 to 15, the high ones 16 to 31": (
        _four_bits_swapped
    ),
    "your high nibbles are 16 times too large: after the mask move them down, >> 4": _four_bits_not_shifted,
}
WRONG_VALUES_OF_Q4_1 = {
    M_IS_SUBTRACTED: lambda d, m, q: d * q - m,
    M_IS_LEFT_OUT: lambda d, m, q: d * q,
    M_IS_SCALED: lambda d, m, q: d * (q + m),
    D_IS_MISSING: lambda d, m, q: q + m,
    M_AND_D_SWAPPED: lambda d, m, q: m * q + d,
    "you still subtract 8, as in Q4_0: here the minimum does that work, and code 0 stands for m": (
        lambda d, m, q: d * (q - 8) + m
    ),
}


def _q4_1_mistakes():
    """Return one mistake at a time, then two: the codes or the value wrong, and in float16 besides."""
    wrong = {message: (_four_bits, value) for message, value in WRONG_VALUES_OF_Q4_1.items()}
    wrong |= {message: (codes, _scaled) for message, codes in WRONG_CODES_OF_Q4_1.items()}
    two = {
        f"{first}. And {second}": (codes, value)
        for first, codes in WRONG_CODES_OF_Q4_1.items()
        for second, value in WRONG_VALUES_OF_Q4_1.items()
    }
    return (
        *(Mistake(_decoder(*ways), message) for message, ways in wrong.items()),
        Mistake(_decoder(_four_bits, _scaled, np.float16), IN_FLOAT16),
        *(
            Mistake(_decoder(*ways, np.float16), f"{message}. And {IN_FLOAT16}")
            for message, ways in wrong.items()
        ),
        *(Mistake(_decoder(*ways), message) for message, ways in two.items()),
    )


DECODE_Q4_1 = Exercise(
    name="decode_q4_1",
    engine=q4_1.dequantize,
    solution=solutions.decode_q4_1,
    twin=q4_1.dequantize,
    cases=_cases("Q4_1"),
    tolerance=ROUNDED_ONCE,
    mistakes=_q4_1_mistakes(),
    hints=(
        "The codes are those of Q4_0, in the same order. Then one multiplication and one addition, with each "
        "block's own d and m.",
        "np.concatenate([low, high], axis=1) are the codes, [n, 32]. d and m become float32 and need an axis "
        "more, [:, None], to meet them.",
    ),
)


# Q4_1, encoding


def _one_block():
    return {label: (x[0],) for label, x in weight_cases().items() if len(x) == 1}


def _engine_quantize_q4_1(x):
    block = Q4_1.blocks(Q4_1.quantize(x))
    return block["d"][0], block["m"][0], _four_bits(block)[0]


def _quantizer(scale, minimum=np.min, to_integer=np.rint, top=15):
    """Return a quantizer: scale and minimum of a block, then its codes."""

    def quantize(x):
        d, m = scale(x), minimum(x)
        codes = to_integer((x - m) / d) if d else np.zeros(32)
        return d, m, np.clip(codes, 0, top)

    return quantize


def _range_over(n):
    return lambda x: (x.max() - x.min()) / n


QUANTIZE_Q4_1 = Exercise(
    name="quantize_q4_1",
    engine=_engine_quantize_q4_1,
    solution=solutions.quantize_q4_1,
    twin=q4_1.encode_row,
    parts=("d", "m", "codes"),
    cases=_one_block,
    tolerance=1e-3,  # d and m may come as float16 or as float32; codes one apart differ by more
    mistakes=(
        Mistake(
            _quantizer(_range_over(16)),
            "16 codes have 15 steps between them: divide the range by 15, or the largest weight is cut off",
        ),
        Mistake(
            _quantizer(_range_over(16), top=np.inf),
            "16 codes have 15 steps between them: divide by 15, or the largest weight gets a code of 16",
        ),
        Mistake(
            _quantizer(_range_over(15), to_integer=np.trunc),
            "you cut the fraction off (astype does that): 2.9 becomes 2. Round to the nearest, np.rint(...)",
        ),
        Mistake(
            _quantizer(_range_over(15), minimum=lambda x: np.minimum(x.min(), 0)),
            "you never let the minimum rise above 0: where all weights are positive, it does",
        ),
        Mistake(
            _quantizer(lambda x: x.max() / 15),
            "your step is the largest weight / 15: 15 steps lead from the smallest to it, (largest - "
            "smallest) / 15",
        ),
        Mistake(
            lambda x: (_range_over(15)(x), -x.min(), _engine_quantize_q4_1(x)[2]),
            "your m has the wrong sign: it is the smallest weight, and it is added",
        ),
        Mistake(
            _quantizer(lambda x: np.abs(x).max() / 15),
            "your step comes from the largest magnitude: take the range, (largest - smallest) / 15",
        ),
        Mistake(
            lambda x: (
                _range_over(15)(x),
                x.min(),
                np.clip(np.rint(x / _range_over(15)(x)) if np.ptp(x) else np.zeros(32), 0, 15),
            ),
            "your codes count from 0: they count the steps above the minimum, (x - m) / d",
        ),
        Mistake(
            lambda x: (_range_over(15)(x), x.min(), np.rint((x - x.min()) / _range_over(15)(x))),
            "0 / 0 is NaN, not a number: where all weights are equal, d is 0, and all codes are 0. Ask first",
        ),
        Mistake(
            lambda x: (x.min(), _range_over(15)(x), _engine_quantize_q4_1(x)[2]),
            "you return m before d: the step comes first, then the minimum, then the codes",
        ),
        Mistake(
            _quantizer(_range_over(15), minimum=np.mean),
            "your m is the mean: it is the smallest weight, so that all codes are 0 or more",
        ),
    ),
    hints=(
        "Which weight gets code 0? Which one gets code 15? What lies between them is 15 steps.",
        "The step is the range / 15. A code counts steps above the smallest weight, to the nearest "
        "(np.rint). And where the range is 0? Ask before you divide.",
    ),
)


# The fifth bit

REVERSED = "your bits are in reverse: bit 0 of qh, the lowest, belongs to weight 0"
NOT_GATHERED = "you leave the fifth bit out: no code of yours is above 15"
BOTH_HALVES = (
    "weights 16 to 31 get the fifth bits of weights 0 to 15: the bit of weight j + 16 is bit j + 16 of qh"
)
BYTE_ORDER = "your bits are in reverse within each byte: np.unpackbits wants bitorder='little'"
TURNS = "your fifth bits alternate between the halves: qh is in the weights' order, bit 1 is that of weight 1"
CODES_TAKE_TURNS = (
    "your nibbles take turns: weight 1 is the low nibble of byte 1, the high nibbles are weights 16 to 31; "
    "your fifth bits are where they should be"
)

BINDS_TIGHTER = (
    "you take bit i + 4 of qh for weight i: `<<` binds tighter than `&`, so `qh >> i & 1 << 4` masks with "
    "1 << 4. With brackets, ((qh >> i) & 1) << 4"
)


def _masked_with_16(blocks):
    shifted = blocks["qh"][:, None] >> np.arange(32, dtype=np.uint32)
    return _four_bits(blocks) + (shifted & np.uint32(16)).astype(np.uint8)


HALF_OF_QH = [i % 16 for i in range(32)]
FIRST_BIT_OF_EACH_BYTE = [i ^ 7 for i in range(32)]
EVERY_OTHER = [*range(0, 32, 2), *range(1, 32, 2)]

JOIN_FIFTH_BIT = Exercise(
    name="join_fifth_bit",
    engine=q5_0.join_codes,
    solution=solutions.join_fifth_bit,
    twin=q5_0.join_codes,
    cases=_cases("Q5_0"),
    mistakes=(
        Mistake(_four_bits, NOT_GATHERED),
        Mistake(_joined(order=range(31, -1, -1)), REVERSED),
        Mistake(_joined(order=FIRST_BIT_OF_EACH_BYTE), BYTE_ORDER),
        Mistake(_joined(order=HALF_OF_QH), BOTH_HALVES),
        Mistake(_joined(order=EVERY_OTHER), TURNS),
        Mistake(
            _joined(order=[i ^ 24 for i in range(32)]),
            "the bytes of qh are in reverse (big-endian): the lowest holds the bits of weights 0 to 7",
        ),
        Mistake(
            _joined(worth=1),
            "your fifth bit is worth 1: it is the highest of five, worth 16 (<< 4)",
        ),
        Mistake(
            _joined(worth=32),
            "your fifth bit is worth 32, and codes go up to 47: four bits lie below it, so << 4, which is 16",
        ),
        Mistake(
            _joined(worth=8),
            "your fifth bit is worth 8, and falls on the fourth: it is the highest of five, worth 16 (<< 4)",
        ),
        Mistake(
            lambda blocks: 2 * _four_bits(blocks) + _fifth_bits(blocks["qh"], range(32)),
            "you put the fifth bit below the other four: it is the highest, worth 16 (<< 4)",
        ),
        Mistake(
            lambda blocks: (
                _four_bits(blocks)
                + 16 * (blocks["qh"][:, None] >> np.arange(32, dtype=np.uint32)).astype(np.int64)
            ),
            "after the shift you keep all the bits above yours too: mask one, & 1",
        ),
        *(
            Mistake(
                lambda blocks, worth=worth: _four_bits(blocks) | worth * _fifth_bits(blocks["qh"], range(32)),
                f"your fifth bit falls on one of the other four, the one worth {worth}: it is the highest of "
                "five, worth 16 (<< 4)",
            )
            for worth in (1, 2, 4, 8)
        ),
        Mistake(
            lambda blocks: (
                _four_bits(blocks)
                | (blocks["qh"][:, None] >> np.arange(32, dtype=np.uint32)).astype(np.uint8) << 4
            ),
            "after the shift you keep all the bits above yours too: mask one, & 1",
        ),
        Mistake(_masked_with_16, BINDS_TIGHTER),
        Mistake(_joined(low=_four_bits_taking_turns), CODES_TAKE_TURNS),
        Mistake(_joined(low=_four_bits_swapped), "the halves of qs are swapped: low nibbles come first"),
    ),
    hints=(
        "The low four bits are those of Q4_0. For the fifth: shift qh to the right by i, and keep one bit.",
        "qh[:, None] >> np.arange(32, dtype=np.uint32) has shape [n, 32], and the bit that you want is the "
        "lowest of each. In the code it is the highest of five: what does it count there?",
    ),
)


# Q5_0 and Q5_1, decoding

RIGHT_CODES = _joined()


def _uint32_decoder(float_type):
    return _decoder(lambda blocks: RIGHT_CODES(blocks).astype(np.uint32) - np.uint32(16), _scaled, float_type)


DECODE_Q5_0 = Exercise(
    name="decode_q5_0",
    engine=q5_0.dequantize,
    solution=solutions.decode_q5_0,
    twin=q5_0.dequantize,
    cases=_cases("Q5_0"),
    mistakes=(
        Mistake(
            _decoder(RIGHT_CODES, lambda d, m, q: d * (q - 8)),
            "you subtract 8, as in Q4_0: with 32 codes the middle is 16",
        ),
        Mistake(
            _decoder(RIGHT_CODES, lambda d, m, q: d * q),
            "you leave out `q - 16`: code 16 means 0, code 0 -16",
        ),
        Mistake(
            _decoder(lambda blocks: RIGHT_CODES(blocks) - np.uint8(16), _scaled),
            "your negative codes wrapped round: in uint8, 3 - 16 is 243. Before that, .astype(np.int8)",
        ),
        *(
            Mistake(
                _uint32_decoder(exact),
                "your negative codes wrapped round: in uint32, 3 - 16 is 4,294,967,283. Before you subtract, "
                ".astype(np.int8)",
            )
            for exact in (np.float32, np.float64)
        ),
        Mistake(
            _decoder(_four_bits, lambda d, m, q: d * (q - 16)),
            NOT_GATHERED,
        ),
        Mistake(_decoder(RIGHT_CODES, lambda d, m, q: d * (q - np.float16(16)), np.float16), IN_FLOAT16),
    ),
    hints=(
        "You have the codes, 0 to 31, from the last exercise. Which of them stands for zero?",
        "Codes are uint8, and know no numbers below 0: .astype(np.int8) before you subtract the middle.",
    ),
)

DECODE_Q5_1 = Exercise(
    name="decode_q5_1",
    engine=q5_1.dequantize,
    solution=solutions.decode_q5_1,
    twin=q5_1.dequantize,
    cases=_cases("Q5_1"),
    tolerance=ROUNDED_ONCE,
    mistakes=(
        Mistake(
            _decoder(_joined(order=HALF_OF_QH), lambda d, m, q: d * (q + m)),
            "that is the decoder as you found it, with both its faults: one is in all weights of a block "
            "alike, the other in weights 16 to 31 alone",
        ),
        Mistake(
            _decoder(_joined(order=HALF_OF_QH), _scaled), f"one fault is mended, one is left: {BOTH_HALVES}"
        ),
        Mistake(
            _decoder(RIGHT_CODES, lambda d, m, q: d * (q - 16) + m),
            "you still subtract 16, as in Q5_0: here the minimum does that work, and code 0 stands for m",
        ),
        Mistake(_decoder(RIGHT_CODES, lambda d, m, q: d * q - m), M_IS_SUBTRACTED),
        Mistake(_decoder(RIGHT_CODES, lambda d, m, q: d * q), M_IS_LEFT_OUT),
        Mistake(_decoder(RIGHT_CODES, lambda d, m, q: d * (q + m)), M_IS_SCALED),
        Mistake(_decoder(RIGHT_CODES, lambda d, m, q: q + m), D_IS_MISSING),
        Mistake(_decoder(RIGHT_CODES, lambda d, m, q: m * q + d), M_AND_D_SWAPPED),
        Mistake(_decoder(_four_bits, _scaled), NOT_GATHERED),
        Mistake(_decoder(RIGHT_CODES, _scaled, np.float16), IN_FLOAT16),
    ),
    hints=(
        "Off by one number throughout: what does every weight of a block share? Off by 16: which bit counts "
        "16, and which bit of qh is that of weight 20?",
        "Is m a weight or a code, and does d belong to it? For the codes you have join_fifth_bit(blocks); d "
        "and m become float32 and need an axis more, [:, None].",
    ),
)


EXERCISES = [DECODE_Q4_1, QUANTIZE_Q4_1, JOIN_FIFTH_BIT, DECODE_Q5_0, DECODE_Q5_1]
