"""Checks of lesson 05: Q6_K, and Q2_K and Q3_K on your own.

A layout of codes is a table of places: row t, column j is the weight whose bits are the t-th from
below in byte j. Right and wrong layouts differ in nothing else.

    LOW[2, 128]    nibbles of ql              HIGH[4, 64]   pairs of bits of qh (and of Q2_K's qs)
    MASK[8, 32]    bits of Q3_K's hmask
"""

from functools import partial

import numpy as np

from blocks2tokens.course.check.exercise import Exercise, Mistake
from blocks2tokens.course.lessons.q6_k import solutions
from blocks2tokens.formats import q2_k, q3_k, q6_k

# Places

_J, _K, _L = np.arange(128), np.arange(64), np.arange(32)
_QUARTERS, _BITS = np.arange(4)[:, None], np.arange(8)[:, None]

LOW = 128 * (_J // 64) + _J % 64 + 64 * np.arange(2)[:, None]
LOW_IN_ORDER = 2 * _J + np.arange(2)[:, None]
LOW_AS_Q4_K = 64 * (_J // 32) + _J % 32 + 32 * np.arange(2)[:, None]
LOW_NOT_HALVED = _J + 128 * np.arange(2)[:, None]

HIGH = 128 * (_K // 32) + _K % 32 + 32 * _QUARTERS
HIGH_IN_ORDER = 4 * _K + _QUARTERS
HIGH_NOT_HALVED = _K + 64 * _QUARTERS

MASK = 32 * _BITS + _L
MASK_IN_ORDER = 8 * _L + _BITS


def unpack(data, places, step=None):
    """Return the codes in bytes, uint8 [n, bytes], as int64 [n, 256], each at its place.

    `step`: by how many bits the next place is shifted more; None: by those of a code.
    """
    bits = 8 // len(places)
    step = bits if step is None else step
    codes = np.zeros((len(data), 256), np.int64)
    for t, place in enumerate(places):
        codes[:, place] = data >> (step * t) & (2**bits - 1)
    return codes


def pack(codes, places):
    """Return the bytes, uint8 [bytes], of codes [256] that have as many bits as the places leave them."""
    bits = 8 // len(places)
    shifted = [
        (codes[place].astype(np.uint8) & (2**bits - 1)) << (bits * t) for t, place in enumerate(places)
    ]
    return np.bitwise_or.reduce(shifted)


# Q6_K: the right way, and every wrong one by a parameter


def codes(ql, qh, low=LOW, high=HIGH, offset=32, swapped=False, code_type=np.int64, step=2):
    """Return codes [n, 256] of ql, uint8 [n, 128], and qh, uint8 [n, 64], less the offset."""
    a, b = unpack(ql, low), unpack(qh, high, step)
    joined = a << 2 | b if swapped else a | b << 4
    return joined.astype(code_type) - code_type(offset)


def weights(
    blocks,
    scale_type="i1",
    sub_block=16,
    d_type="<f2",
    no_d=False,
    dtype=np.float32,
    product_type=None,
    **wrong_codes,
):
    """Return the weights [n, 256] of blocks, BLOCK [n], computed in dtype."""
    d = np.ones(len(blocks)) if no_d else blocks["d"].copy().view(d_type)
    scales = blocks["scales"].view(scale_type)[:, np.arange(256) // sub_block]
    q = codes(blocks["ql"], blocks["qh"], **wrong_codes)
    if product_type is not None:
        return d.astype(dtype)[:, None] * (scales.astype(product_type) * q.astype(product_type)).astype(dtype)
    return d.astype(dtype)[:, None] * scales.astype(dtype) * q.astype(dtype)


def weight(raw, i, **wrong):
    """Return weight i of a block, uint8 [210]."""
    return float(weights(raw.view(q6_k.BLOCK), **wrong)[0, i])


def both(first, second):
    """Return each mistake of one table together with each of another: learners make two at a time."""
    return {f"{a}; and {b}": wrong | more for a, wrong in first.items() for b, more in second.items()}


LOW_MISTAKES = {
    "your low four bits come in order, two weights to a byte: weight 1 is the low nibble of ql[1]; "
    "the high nibble of ql[0] belongs to weight 64": {"low": LOW_IN_ORDER},
    "your ql is laid out as in Q4_K, nibbles 32 weights apart: here they are 64 apart. The high nibbles "
    "of ql[0..31] are weights 64 to 95, and weights 32 to 63 are the low nibbles of ql[32..63]": {
        "low": LOW_AS_Q4_K
    },
    "your ql is not cut in halves: the high nibbles of ql[0..63] are weights 64 to 127, not 128 to 191": {
        "low": LOW_NOT_HALVED
    },
    "your nibbles of ql are exchanged: weight 0 is in the low one of ql[0], weight 64 in the high one": {
        "low": LOW[::-1]
    },
}
HIGH_MISTAKES = {
    "your high two bits come in order, four weights to a byte: weight 1 has bits 0 and 1 of qh[1]; "
    "bits 2 and 3 of qh[0] belong to weight 32": {"high": HIGH_IN_ORDER},
    "your shifts of qh run backwards: quarter 0 has bits 0 and 1, quarter 3 has bits 6 and 7": {
        "high": HIGH[::-1]
    },
    "your qh is not cut in halves: the first 32 bytes of qh serve weights 0 to 127, the others 128 to 255": {
        "high": HIGH_NOT_HALVED
    },
    "your qh is not shifted: all four quarters get bits 0 and 1; those of quarter 1 are bits 2 and 3": {
        "step": 0
    },
    "your qh is shifted by one bit for each quarter: they have two bits each, so 2 * quarter": {"step": 1},
}
LAYOUT_MISTAKES = LOW_MISTAKES | HIGH_MISTAKES | both(LOW_MISTAKES, HIGH_MISTAKES)
VALUE_MISTAKES = {
    "the 32 is not subtracted: codes are stored as 0 to 63 and stand for -32 to 31": {"offset": 0},
    "the code wraps around below 32: it is still uint8 when you subtract; make it a signed integer first": {
        "code_type": np.uint8
    },
}
CODE_MISTAKES = {
    **LAYOUT_MISTAKES,
    **VALUE_MISTAKES,
    "your planes are joined the wrong way round: low four bits are in ql, high two in qh": {"swapped": True},
    **both(LAYOUT_MISTAKES, VALUE_MISTAKES),
}
SCALE_MISTAKES = {
    "your scales are read as unsigned: byte 255 is the scale -1. They are int8": {"scale_type": "u1"},
    "your scale changes every 32 weights: there are 16 sub-blocks of 16, weight i takes scales[i // 16]": {
        "sub_block": 32
    },
    "your scales are left as they are: each still has to be multiplied by the block's d": {"no_d": True},
}
D_MISTAKES = {
    "your d is read as a whole number: its two bytes are a float16": {"d_type": "<u2"},
    "your d has its bytes exchanged: the file is little-endian, the low byte first": {"d_type": ">f2"},
}
OVERFLOW_MISTAKES = {
    "scale * code is computed in int8, where 100 * 31 = 3100 becomes 28: int8 holds -128 to 127. Multiply "
    "the scales by d first, which is a float32": {"product_type": np.int8},
}
TYPE_MISTAKES = {
    "you multiply in float16, which rounds too early: make d a float32 first": {"dtype": np.float16},
}


def mistakes(function, *tables):
    return tuple(Mistake(partial(function, **wrong), message) for t in tables for message, wrong in t.items())


def engine_element(raw, i):
    """Return weight i of a block, uint8 [210]: the engine's function as plain Python, not compiled."""
    return q6_k.decode_element.py_func(raw.astype(np.int64), i)


def engine_codes(ql, qh):
    """Return int8 [n, 256] from ql, uint8 [n, 128], and qh, uint8 [n, 64]: blocks whose scales are 1."""
    blocks = np.zeros(len(ql), q6_k.BLOCK)
    blocks["ql"], blocks["qh"], blocks["scales"], blocks["d"] = ql, qh, 1, 1
    return q6_k.dequantize(blocks).astype(np.int8)


def engine_pack(codes):
    """Return ql, uint8 [128], and qh, uint8 [64], of codes 0..63, uint8 [256]."""
    out = np.zeros(192, np.uint8)
    q6_k.pack_codes(codes.astype(np.float32), out)
    return out[:128], out[128:]


def wrong_pack(codes, low=LOW, high=HIGH, shift=4):
    return pack(codes, low), pack(codes >> shift, high)


def pack_unmasked(codes, low_masked=True, high_masked=True, high_quarters=(1, 2, 3), join=np.bitwise_or):
    """Pack with bits of one weight that spill into another's, where a mask was forgotten."""
    q = codes.reshape(2, 4, 32)
    low = q & 15 if low_masked else q
    ql = [join(low[:, 0], low[:, 2] << 4), join(low[:, 1], low[:, 3] << 4)]
    high = [q[:, 0] >> 4, q[:, 1] >> 2, q[:, 2], q[:, 3] << 2]  # straight to their places
    for quarter in range(1, 4):
        if high_masked or quarter not in high_quarters:
            high[quarter] = high[quarter] & (3 << 2 * quarter)
    qh = high[0]
    for part in high[1:]:
        qh = join(qh, part)
    return np.concatenate(ql, axis=1).reshape(-1), qh.reshape(-1)


LOW_SPILLS = (
    "the high two bits of your codes spill into the other nibble of ql: mask the low four, & 15, before you "
    "join them"
)
HIGH_SPILLS = (
    "low bits of your codes spill into qh: code >> 2 moves the high two to bits 2 and 3 and leaves two low "
    "ones below them. Mask, & 12, or take the high two alone first, (code >> 4) << 2"
)
JOINS = (np.bitwise_or, np.add)
SPILLS = (
    *(Mistake(partial(pack_unmasked, low_masked=False, join=join), LOW_SPILLS) for join in JOINS),
    *(
        Mistake(partial(pack_unmasked, high_masked=False, high_quarters=which, join=join), HIGH_SPILLS)
        for which in ((1, 2, 3), (1,), (2,), (3,), (1, 2), (1, 3), (2, 3))
        for join in JOINS
    ),
    *(
        Mistake(
            partial(pack_unmasked, low_masked=False, high_masked=False, join=join),
            f"{LOW_SPILLS}; and {HIGH_SPILLS}",
        )
        for join in JOINS
    ),
)


PACK_MISTAKES = {
    "your nibbles come in order, weights 0 and 1 in ql[0]: weights 0 and 64 share it": {"low": LOW_IN_ORDER},
    "your ql is packed as Q4_K's qs: weights 0 and 64 share ql[0], not 0 and 32": {"low": LOW_AS_Q4_K},
    "your ql is not cut in halves: weights 0 and 64 share ql[0], not 0 and 128": {"low": LOW_NOT_HALVED},
    "your nibbles are exchanged: weight 0 goes to the low nibble of ql[0], weight 64 to the high one": {
        "low": LOW[::-1]
    },
    "your high bits come in order, weights 0 to 3 in qh[0]: weights 0, 32, 64 and 96 share it": {
        "high": HIGH_IN_ORDER
    },
    "your shifts of qh run backwards: quarter 0 goes to bits 0 and 1, quarter 3 to bits 6 and 7": {
        "high": HIGH[::-1]
    },
    "your qh is not cut in halves: weights 0, 32, 64 and 96 share qh[0], not 0, 64, 128 and 192": {
        "high": HIGH_NOT_HALVED
    },
    "your qh holds the lowest two bits: it takes the highest two, code >> 4": {"shift": 0},
}


# Cases


def random_blocks(fmt, n, seed):
    """Return n blocks of random bytes, BLOCK [n], whose float16 fields are ordinary numbers."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (n, fmt.BLOCK.itemsize), dtype=np.uint8).view(fmt.BLOCK)[:, 0]
    for field in {"d", "dmin"} & set(blocks.dtype.names):
        blocks[field] = rng.uniform(1e-4, 1e-2, n)
    return blocks


def ramp(fmt):
    """Return one block whose bytes are 0, 1, 2, ..., and whose float16 fields are small."""
    blocks = np.arange(fmt.BLOCK.itemsize, dtype=np.uint8).view(fmt.BLOCK).copy()
    for field, value in zip(sorted({"d", "dmin"} & set(blocks.dtype.names)), (0.37, 0.11), strict=False):
        blocks[field] = value
    return blocks


def block_cases(fmt):
    same = random_blocks(fmt, 1, seed=1)
    for field in same.dtype.names:
        if field not in ("d", "dmin"):
            same[field] = 0x55
    return {
        "zeros": (np.zeros(1, fmt.BLOCK),),
        "a ramp of bytes": (ramp(fmt),),
        "the same byte everywhere": (same,),
        "one random block": (random_blocks(fmt, 1, seed=2),),
        "five random blocks": (random_blocks(fmt, 5, seed=3),),
    }


def q6_k_block_cases():
    outlier = np.zeros(1, q6_k.BLOCK)
    outlier["qh"], outlier["scales"], outlier["d"] = 0xAA, 1, 0.013  # code 32 everywhere
    outlier["qh"][0, 0], outlier["scales"][0, 0] = 0xA8, -128
    return block_cases(q6_k) | {"zeros and one huge outlier": (outlier,)}


def element_cases():
    raw = random_blocks(q6_k, 1, seed=4).view(np.uint8)
    cases = {f"weight {i}": (raw, i) for i in (0, 1, 31, 32, 77, 100, 127, 128, 169, 200, 255)}
    cases["weight 96 of zeros"] = (np.zeros(210, np.uint8), 96)
    cases["weight 150 of a ramp of bytes"] = (ramp(q6_k).view(np.uint8), 150)
    return cases


def plane_cases():
    return {label: (blocks["ql"], blocks["qh"]) for label, (blocks,) in q6_k_block_cases().items()}


def pack_cases():
    rng = np.random.default_rng(5)
    outlier = np.full(256, 32, np.uint8)
    outlier[77] = 0
    return {
        "zeros": (np.zeros(256, np.uint8),),
        "a ramp, 0 to 63 four times": (np.arange(256, dtype=np.uint8) % 64,),
        "63 everywhere": (np.full(256, 63, np.uint8),),
        "one outlier, weight 77": (outlier,),
        "random codes": (rng.integers(0, 64, 256, dtype=np.uint8),),
    }


def scale_cases():
    rng = np.random.default_rng(6)
    return {
        "zeros": (np.zeros((1, 12), np.uint8),),
        "a ramp of bytes": (np.arange(12, dtype=np.uint8)[None],),
        "255 everywhere": (np.full((1, 12), 255, np.uint8),),
        "four random blocks": (rng.integers(0, 256, (4, 12), dtype=np.uint8),),
    }


# Q2_K and Q3_K


def q2_k_weights(blocks, places=HIGH, exchanged=False, sign=-1, sub_block=16):
    sc, m = blocks["scales"] & 15, blocks["scales"] >> 4
    sc, m = (m, sc) if exchanged else (sc, m)
    d, dmin = blocks["d"].astype(np.float32)[:, None], blocks["dmin"].astype(np.float32)[:, None]
    s = np.arange(256) // sub_block
    return (d * sc)[:, s] * unpack(blocks["qs"], places).astype(np.float32) + np.float32(sign) * (dmin * m)[
        :, s
    ]


Q2_K_MISTAKES = {
    "your codes come in order, four weights to a byte: weight 1 has bits 0 and 1 of qs[1]; bits 2 and 3 "
    "of qs[0] belong to weight 32": {"places": HIGH_IN_ORDER},
    "your shifts run backwards: quarter 0 has bits 0 and 1, quarter 3 has bits 6 and 7": {
        "places": HIGH[::-1]
    },
    "your qs is not cut in halves: its first 32 bytes serve weights 0 to 127": {"places": HIGH_NOT_HALVED},
    "scale and minimum are exchanged: the scale is the low nibble, the minimum the high one": {
        "exchanged": True
    },
    "the minimum is missing: subtract dmin * minimum": {"sign": 0},
    "the minimum has the wrong sign: it is subtracted": {"sign": 1},
    "your scales change every 32 weights: there are 16 sub-blocks of 16": {"sub_block": 32},
}


def q3_k_scales(scales, low_in_order=False, high_in_order=False, plain=False, offset=32, code_type=np.int64):
    """Return int64 [n, 16] of uint8 [n, 12], right unless told otherwise."""
    scales = scales.astype(np.int64)
    j = np.arange(16)
    if plain:
        bits = np.unpackbits(scales.astype(np.uint8), axis=1, bitorder="little").reshape(-1, 16, 6)
        return (bits @ (1 << np.arange(6))).astype(code_type) - code_type(offset)
    low = scales[:, j // 2] >> 4 * (j % 2) if low_in_order else scales[:, j % 8] >> 4 * (j // 8)
    high = scales[:, 8 + j // 4] >> 2 * (j % 4) if high_in_order else scales[:, 8 + j % 4] >> 2 * (j // 4)
    return (low & 15 | (high & 3) << 4).astype(code_type) - code_type(offset)


Q3_K_SCALE_VALUES = {
    "the 32 is not subtracted: scales are stored as 0 to 63 and stand for -32 to 31": {"offset": 0},
    "the scale wraps around below 32: it is still uint8 when you subtract, and 0 - 32 is 224; "
    ".astype(np.int8) first": {"code_type": np.uint8},
}
Q3_K_SCALE_LAYOUTS = {
    "you read the 12 bytes as one stream of 6-bit numbers: the low four bits are in bytes 0 to 7, the high "
    "two in bytes 8 to 11": {"plain": True},
    "your low bits come in order: the high nibble of byte 0 belongs to scale 8, not scale 1": {
        "low_in_order": True
    },
    "your high bits come in order: bits 2 and 3 of byte 8 belong to scale 4, not scale 1": {
        "high_in_order": True
    },
}
Q3_K_SCALE_MISTAKES = {
    **Q3_K_SCALE_VALUES,
    **Q3_K_SCALE_LAYOUTS,
    **both(Q3_K_SCALE_LAYOUTS, Q3_K_SCALE_VALUES),
}


def q3_k_weights(
    blocks, qs=HIGH, mask=MASK, third="right", q_offset=4, q_type=np.int64, sub_block=16, **wrong_scales
):
    high = unpack(blocks["hmask"], mask)
    high = {"right": high, "inverted": 1 - high, "missing": 0 * high}[third]
    q = (unpack(blocks["qs"], qs) + 4 * high).astype(q_type) - q_type(q_offset)
    scales = blocks["d"].astype(np.float32)[:, None] * q3_k_scales(blocks["scales"], **wrong_scales)
    return (scales[:, np.arange(256) // sub_block] * q).astype(np.float32)


Q3_K_MISTAKES = {
    "your third bit is inverted: 4 is subtracted where the bit of hmask is 0, and nothing where it is 1": {
        "third": "inverted"
    },
    "the third bit is missing: your codes end at 3 - 4 = -1; bit s of hmask[l] counts 4": {
        "third": "missing"
    },
    "your third bits come in order, eight weights to a byte: bit 1 of hmask[0] belongs to weight 32": {
        "mask": MASK_IN_ORDER
    },
    "your low two bits come in order: bits 2 and 3 of qs[0] belong to weight 32": {"qs": HIGH_IN_ORDER},
    "the 4 is not subtracted: codes are stored as 0 to 7 and stand for -4 to 3": {"q_offset": 0},
    "the code wraps around below 4: it is still uint8 when you subtract, and 0 - 4 is 252; .astype(np.int8) "
    "first": {"q_type": np.uint8},
    "your scales change every 32 weights: there are 16 sub-blocks of 16": {"sub_block": 32},
}


EXERCISES = [
    Exercise(
        "q6_k_element",
        engine=engine_element,
        cases=element_cases,
        mistakes=mistakes(
            weight,
            CODE_MISTAKES,
            SCALE_MISTAKES,
            D_MISTAKES,
            OVERFLOW_MISTAKES,
            TYPE_MISTAKES,
            both(LAYOUT_MISTAKES | VALUE_MISTAKES, SCALE_MISTAKES),
            both(CODE_MISTAKES, TYPE_MISTAKES),
            both(both(VALUE_MISTAKES, SCALE_MISTAKES), TYPE_MISTAKES),
        ),
        hints=(
            "Find the half of the block, the quarter of that half, and the place l in the quarter: "
            "half, rest = divmod(i, 128), then quarter, l = divmod(rest, 32).",
            "Quarters 0 and 1 are in low nibbles, 2 and 3 in high ones: ql byte 64 * half + 32 * (quarter "
            "% 2) + "
            "l. All four have bits in the same byte of qh, which begins at 128. Make bytes Python ints.",
        ),
        solution=solutions.q6_k_element,
        twin=q6_k.decode_element,
        tolerance=1e-6,
    ),
    Exercise(
        "q6_k_codes",
        engine=engine_codes,
        cases=plane_cases,
        mistakes=mistakes(codes, CODE_MISTAKES),
        hints=(
            "Reshape ql to [n, 2, 64] and qh to [n, 2, 32]: the second index is the half.",
            "All low nibbles of a half's 64 bytes come before all its high nibbles. For qh, shift a half's "
            "32 bytes by 0, 2, 4 and 6; that makes four quarters. Subtract 32 from int8, not from uint8.",
        ),
        solution=solutions.q6_k_codes,
        twin=q6_k.dequantize,
    ),
    Exercise(
        "dequantize_q6_k",
        engine=q6_k.dequantize,
        solution=solutions.dequantize_q6_k,
        twin=q6_k.dequantize,
        cases=q6_k_block_cases,
        mistakes=mistakes(
            weights,
            SCALE_MISTAKES,
            CODE_MISTAKES,
            D_MISTAKES,
            TYPE_MISTAKES,
            OVERFLOW_MISTAKES,
            both(LAYOUT_MISTAKES | VALUE_MISTAKES, SCALE_MISTAKES),
            both(VALUE_MISTAKES, TYPE_MISTAKES),
        ),
        hints=(
            "d has shape [n], scales [n, 16], codes [n, 256]. Which two do you multiply first?",
            "d as float32 [n, 1] times scales is [n, 16]; with [:, :, None] it fits codes of [n, 16, 16].",
        ),
    ),
    Exercise(
        "pack_q6_k",
        engine=engine_pack,
        cases=pack_cases,
        mistakes=mistakes(wrong_pack, PACK_MISTAKES) + SPILLS,
        hints=(
            "Four weights of a half share their bytes: l, 32 + l, 64 + l and 96 + l.",
            "View the codes as [2, 4, 32], half and quarter. ql of a half: quarters 0 and 1 in the low "
            "nibbles, 2 and 3 in the high ones.",
        ),
        solution=solutions.pack_q6_k,
        twin=q6_k.pack_codes,
        parts=("ql", "qh"),
    ),
    Exercise(
        "dequantize_q2_k",
        engine=q2_k.dequantize,
        solution=solutions.dequantize_q2_k,
        twin=q2_k.dequantize,
        cases=partial(block_cases, q2_k),
        mistakes=mistakes(q2_k_weights, Q2_K_MISTAKES),
        hints=(
            "qs of Q2_K is laid out as qh of Q6_K: 32 bytes serve 128 weights, four quarters by shifts.",
            "scales & 15 and scales >> 4 are [n, 16], codes [n, 16, 16]: which of them needs an axis more?",
        ),
        tolerance=1e-6,
    ),
    Exercise(
        "q3_k_scales",
        engine=q3_k.unpack_scales,
        solution=solutions.q3_k_scales,
        twin=q3_k.unpack_scales,
        cases=scale_cases,
        mistakes=mistakes(q3_k_scales, Q3_K_SCALE_MISTAKES),
        hints=(
            "Scales 0 to 7 have their low bits in the low nibbles of bytes 0 to 7, 8 to 15 in the high.",
            "The low nibbles of bytes 0 to 7, then their high ones, are 16 numbers; bytes 8 to 11, shifted "
            "by 0, 2, 4 and 6, are 16 more. Subtract 32 at the end, and not in uint8.",
        ),
    ),
    Exercise(
        "dequantize_q3_k",
        engine=q3_k.dequantize,
        solution=solutions.dequantize_q3_k,
        twin=q3_k.dequantize,
        cases=partial(block_cases, q3_k),
        mistakes=mistakes(q3_k_weights, Q3_K_MISTAKES, Q3_K_SCALE_MISTAKES),
        hints=(
            "The low two bits are laid out as in Q2_K. Bit s of hmask[l] is the third of weight 32 s + l.",
            "The third bit counts 4, and codes stand for -4 to 3: subtract in int8. Each of your sixteen "
            "scales, "
            "times d, serves 16 weights.",
        ),
        tolerance=1e-6,
    ),
]
