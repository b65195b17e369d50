"""What learners write in lesson 05, for test_check_learners.py, and what is the lesson's own."""

import numpy as np
import pytest

from blocks2tokens.course.lessons.q6_k import exercises as q6_k
from blocks2tokens.formats import FORMATS

EXERCISES = {exercise.name: exercise for exercise in q6_k.EXERCISES}
QUARTERS = np.array([0, 2, 4, 6])[:, None]


def float16(low, high):
    return np.array([low, high], np.uint8).view("<f2")[0]


def read_block(raw):
    """Return ql, qh, scales and d of a block of 210 bytes, as lists and a number."""
    data = [int(byte) for byte in raw]
    scales = [s - 256 if s > 127 else s for s in data[192:208]]
    return data[:128], data[128:192], scales, float(float16(*raw[208:]))


def element(low=None, high=None, value=None):
    """Return a q6_k_element whose low bits, high bits or value are taken in another way."""

    def decode(raw, i):
        ql, qh, scales, d = read_block(raw)
        half, quarter, l = i // 128, i % 128 // 32, i % 32
        a = low(ql, i) if low else ql[64 * half + 32 * (quarter % 2) + l] >> (4 * (quarter // 2)) & 15
        b = high(qh, i) if high else qh[32 * half + l] >> (2 * quarter) & 3
        return value(raw, i, a, b) if value else d * scales[i // 16] * ((a | b << 4) - 32)

    return decode


def value(change):
    """Return a value(raw, i, a, b) of d, scales, i and the code, changed by `change`."""
    return lambda raw, i, a, b: change(*read_block(raw)[2:], i, a | b << 4)


def codes(low=None, high=None, join=None):
    """Return a q6_k_codes with NumPy whose low bits, high bits or joining go another way."""

    def decode(ql, qh):
        n = len(ql)
        halves = ql.reshape(n, 2, 64)
        a = low(ql) if low else np.concatenate([halves & 15, halves >> 4], axis=2)
        b = high(qh) if high else (qh.reshape(n, 2, 1, 32) >> QUARTERS.astype(np.uint8)) & 3
        a, b = a.reshape(n, 256), b.reshape(n, 256)
        return join(a, b) if join else (a | b << 4).astype(np.int8) - np.int8(32)

    return decode


right_codes = codes()


def block_weights(scales=None, d=None, codes=None, repeat=16):
    """Return a dequantize_q6_k whose scales, d or codes go another way."""

    def decode(blocks):
        q = (codes or right_codes)(blocks["ql"], blocks["qh"])
        sc = scales(blocks["scales"]) if scales else blocks["scales"]
        unit = d(blocks["d"]) if d else blocks["d"].astype(np.float32)
        return unit[:, None] * np.repeat(sc, repeat, axis=1)[:, :256] * q

    return decode


def pack(a, b, shifts=(0, 2, 4, 6), high_of=lambda q, l, t: q[128 * (l // 32) + 32 * t + l % 32], shift=4):
    """Return a pack_q6_k: byte j of ql holds weights a(j) and b(j)."""

    def packed(codes):
        q = [int(c) for c in codes]
        ql = [q[a(j)] & 15 | (q[b(j)] & 15) << 4 for j in range(128)]
        qh = [sum((high_of(q, l, t) >> shift & 3) << shifts[t] for t in range(4)) for l in range(64)]
        return np.array(ql, np.uint8), np.array(qh, np.uint8)

    return packed


def first(j):
    return j // 64 * 128 + j % 64


def second(j):
    return first(j) + 64


def in_order(data, n_each):
    """Return the codes of bytes one after the other, n_each to a byte, flat."""
    shifts = 8 // n_each * np.arange(n_each, dtype=np.uint8)
    return (data[..., None] >> shifts) & (2 ** (8 // n_each) - 1)


def quarters(qs):
    return ((qs.reshape(-1, 2, 1, 32) >> QUARTERS.astype(np.uint8)) & 3).reshape(-1, 256)


def int8_products(blocks):
    q = right_codes(blocks["ql"], blocks["qh"]).astype(np.int8).reshape(-1, 16, 16)
    products = blocks["scales"][:, :, None] * q
    return blocks["d"].astype(np.float32)[:, None] * products.reshape(-1, 256)


def int8_product(raw, i):
    return int8_products(raw.view(FORMATS["Q6_K"].block))[0, i]


def q2_k(q=quarters, scale=lambda s: s & 15, minimum=lambda s: s >> 4, sign=-1, repeat=16):
    def decode(blocks):
        d, dmin = blocks["d"].astype(np.float32)[:, None], blocks["dmin"].astype(np.float32)[:, None]
        sc = np.repeat(scale(blocks["scales"]), repeat, axis=1)[:, :256]
        m = np.repeat(minimum(blocks["scales"]), repeat, axis=1)[:, :256]
        return d * sc * q(blocks["qs"]) + sign * dmin * m

    return decode


def three_bit_scales(low=None, high=None, offset=32):
    def unpack(s):
        rows = []
        for row in s.astype(int):
            a = [row[j % 8] >> 4 * (j // 8) & 15 for j in range(16)] if low is None else low(row)
            b = [row[8 + j % 4] >> 2 * (j // 4) & 3 for j in range(16)] if high is None else high(row)
            rows.append([x + 16 * y - offset for x, y in zip(a, b, strict=True)])
        return np.array(rows)

    return unpack


def six_bit_stream(s):
    bits = [[byte >> k & 1 for byte in row for k in range(8)] for row in s.tolist()]
    return np.array([[sum(b[6 * j + k] << k for k in range(6)) - 32 for j in range(16)] for b in bits])


def q3_k(q=quarters, third=None, less=4, scales=None, repeat=16):
    def decode(blocks):
        mask = blocks["hmask"].astype(int)
        top = np.concatenate([mask >> s & 1 for s in range(8)], axis=1) if third is None else third(mask)
        d = blocks["d"].astype(np.float32)[:, None]
        sc = np.repeat((scales or three_bit_scales())(blocks["scales"]), repeat, axis=1)[:, :256]
        return (d * sc * (q(blocks["qs"]) + 4 * top - less)).astype(np.float32)

    return decode


def low_order(ql, i):
    return ql[i // 2] >> (4 * (i % 2)) & 15


def high_order(qh, i):
    return qh[i // 4] >> (2 * (i % 4)) & 3


def uint8_code(raw, i, a, b):
    _, _, scales, d = read_block(raw)
    return d * scales[i // 16] * ((a + 16 * b - 32) % 256)


def plain_element(raw, i, d=lambda raw: raw[208:210].view(np.float16).astype(np.float32)[0], wraps=True):
    """Return weight i as a first attempt has it: bytes stay uint8."""
    half, (quarter, l) = i // 128, divmod(i % 128, 32)
    low = raw[64 * half + 32 * (quarter % 2) + l] >> 4 * (quarter // 2) & 15
    code = low | (raw[128 + 32 * half + l] >> 2 * quarter & 3) << 4
    return d(raw) * raw[192:208].view(np.int8)[i // 16] * ((code if wraps else int(code)) - 32)


def half_d(raw):
    return raw[208:210].view(np.float16)[0]


def float16_element(raw, i):
    return plain_element(raw, i, half_d, wraps=False)


def no_low_mask(q):
    q = q.reshape(2, 4, 32)
    return np.concatenate([q[:, 0] | q[:, 2] << 4, q[:, 1] | q[:, 3] << 4], axis=1).reshape(-1)


def no_high_mask(q):
    q = q.reshape(2, 4, 32)
    return (q[:, 0] >> 4 | q[:, 1] >> 2 | q[:, 2] & 48 | q[:, 3] << 2 & 192).reshape(-1)


def uint8_scales(s):
    low = np.concatenate([s[:, :8] & 15, s[:, :8] >> 4], axis=1)
    return (low | np.concatenate([s[:, 8:] >> t & 3 for t in (0, 2, 4, 6)], axis=1) << 4) - 32


def uint8_codes_of_q3_k(blocks):
    top = np.concatenate([blocks["hmask"] >> s & 1 for s in range(8)], axis=1)
    q = (quarters(blocks["qs"]) | top << 2) - 4
    return (
        blocks["d"].astype(np.float32)[:, None] * three_bit_scales()(blocks["scales"]).repeat(16, axis=1) * q
    )


Q6_K_LOW = {
    "two weights to a byte": lambda ql: in_order(ql, 2),
    "laid out as in Q4_K": lambda ql: (
        np.stack([c & 15 for c in [ql, ql >> 4]], 1).reshape(-1, 2, 4, 32).swapaxes(1, 2)
    ),
    "ql is not cut": lambda ql: np.concatenate([ql & 15, ql >> 4], axis=1),
    "ql are exchanged": lambda ql: np.stack([ql.reshape(-1, 2, 64) >> 4, ql.reshape(-1, 2, 64) & 15], axis=2),
}
Q6_K_HIGH = {
    "four weights to a byte": lambda qh: in_order(qh, 4),
    "shifts of qh run backwards": lambda qh: (qh.reshape(-1, 2, 1, 32) >> QUARTERS[::-1]) & 3,
    "qh is not cut": lambda qh: (qh[:, None, :] >> QUARTERS) & 3,
    "qh is not shifted": lambda qh: (qh.reshape(-1, 2, 1, 32) >> 0 * QUARTERS) & 3,
    "by one bit for each quarter": lambda qh: (qh.reshape(-1, 2, 1, 32) >> QUARTERS // 2) & 3,
}
Q6_K_JOIN = {
    "wrong way round": lambda a, b: (a.astype(int) * 4 + b) - 32,
    "32 is not subtracted": lambda a, b: a | b << 4,
    "wraps around": lambda a, b: (a | b << 4) - np.uint8(32),
}
WRONG_CODES = {phrase: codes(low=low) for phrase, low in Q6_K_LOW.items()}
WRONG_CODES |= {phrase: codes(high=high) for phrase, high in Q6_K_HIGH.items()}
WRONG_CODES |= {phrase: codes(join=join) for phrase, join in Q6_K_JOIN.items()}

LOW_IN_ORDER = three_bit_scales(low=lambda s: [v for b in s[:8] for v in (b & 15, b >> 4)])
HIGH_IN_ORDER = three_bit_scales(high=lambda s: [b >> k & 3 for b in s[8:] for k in (0, 2, 4, 6)])

MISTAKES = {
    "q6_k_element": {
        "3100 becomes 28": int8_product,
        "two weights to a byte": element(low=low_order),
        "laid out as in Q4_K": element(
            low=lambda ql, i: ql[i // 64 * 32 + i % 32] >> (4 * (i // 32 % 2)) & 15
        ),
        "ql is not cut": element(low=lambda ql, i: ql[i] & 15 if i < 128 else ql[i - 128] >> 4),
        "ql are exchanged": element(
            low=lambda ql, i: ql[i // 128 * 64 + i % 64] & 15 if i & 64 else ql[i // 128 * 64 + i % 64] >> 4
        ),
        "four weights to a byte": element(high=high_order),
        "shifts of qh run backwards": element(
            high=lambda qh, i: qh[i // 128 * 32 + i % 32] >> 6 - i % 128 // 32 * 2 & 3
        ),
        "qh is not cut": element(high=lambda qh, i: qh[i % 64] >> 2 * (i // 64) & 3),
        "qh is not shifted": element(high=lambda qh, i: qh[i // 128 * 32 + i % 32] & 3),
        "by one bit for each quarter": element(
            high=lambda qh, i: qh[i // 128 * 32 + i % 32] >> i % 128 // 32 & 3
        ),
        "wrong way round": element(
            value=lambda raw, i, a, b: read_block(raw)[3] * read_block(raw)[2][i // 16] * (4 * a + b - 32)
        ),
        "32 is not subtracted": element(value=value(lambda scales, d, i, q: d * scales[i // 16] * q)),
        "wraps around": element(value=uint8_code),
        "read as unsigned": element(
            value=value(lambda scales, d, i, q: d * (scales[i // 16] % 256) * (q - 32))
        ),
        "changes every 32": element(value=value(lambda scales, d, i, q: d * scales[i // 32] * (q - 32))),
        "left as they are": element(value=value(lambda scales, d, i, q: scales[i // 16] * (q - 32))),
        "in float16": float16_element,
        "as a whole number": element(
            value=lambda raw, i, a, b: (
                (int(raw[208]) + 256 * int(raw[209])) * read_block(raw)[2][i // 16] * (a + 16 * b - 32)
            )
        ),
        "bytes exchanged": element(
            value=lambda raw, i, a, b: (
                float(float16(raw[209], raw[208])) * read_block(raw)[2][i // 16] * (a + 16 * b - 32)
            )
        ),
    },
    "q6_k_codes": WRONG_CODES,
    "dequantize_q6_k": {
        **{phrase: block_weights(codes=wrong) for phrase, wrong in WRONG_CODES.items()},
        "read as unsigned": block_weights(scales=lambda s: s.astype(np.uint8)),
        "changes every 32": block_weights(repeat=32),
        "3100 becomes 28": int8_products,
        "left as they are": block_weights(d=lambda d: np.ones(len(d), np.float32)),
        "as a whole number": block_weights(d=lambda d: d.view("<u2").astype(np.float32)),
        "bytes exchanged": block_weights(d=lambda d: d.view(">f2").astype(np.float32)),
        "float16": block_weights(d=lambda d: d),
    },
    "pack_q6_k": {
        "nibbles come in order": pack(lambda j: 2 * j, lambda j: 2 * j + 1),
        "packed as Q4_K": pack(lambda j: j // 32 * 64 + j % 32, lambda j: j // 32 * 64 + 32 + j % 32),
        "ql is not cut": pack(lambda j: j, lambda j: 128 + j),
        "nibbles are exchanged": pack(second, first),
        "high bits come in order": pack(first, second, high_of=lambda q, l, t: q[4 * l + t]),
        "run backwards": pack(first, second, shifts=(6, 4, 2, 0)),
        "qh is not cut": pack(first, second, high_of=lambda q, l, t: q[64 * t + l]),
        "the lowest two bits": pack(first, second, shift=0),
        "spill into the other nibble": lambda q: (no_low_mask(q), pack(first, second)(q)[1]),
        "spill into qh": lambda q: (pack(first, second)(q)[0], no_high_mask(q)),
    },
    "dequantize_q2_k": {
        "codes come in order": q2_k(q=lambda qs: in_order(qs, 4).reshape(-1, 256)),
        "run backwards": q2_k(
            q=lambda qs: ((qs.reshape(-1, 2, 1, 32) >> QUARTERS[::-1]) & 3).reshape(-1, 256)
        ),
        "not cut in halves": q2_k(q=lambda qs: ((qs[:, None, :] >> QUARTERS) & 3).reshape(-1, 256)),
        "exchanged": q2_k(scale=lambda s: s >> 4, minimum=lambda s: s & 15),
        "minimum is missing": q2_k(minimum=lambda s: 0 * s),
        "wrong sign": q2_k(sign=1),
        "every 32 weights": q2_k(repeat=32),
    },
    "q3_k_scales": {
        "32 is not subtracted": three_bit_scales(offset=0),
        "scale wraps around": uint8_scales,
        "one stream": six_bit_stream,
        "low bits come in order": LOW_IN_ORDER,
        "high bits come in order": HIGH_IN_ORDER,
    },
    "dequantize_q3_k": {
        "code wraps around": uint8_codes_of_q3_k,
        "scale wraps around": q3_k(scales=uint8_scales),
        "inverted": q3_k(third=lambda m: 1 - np.concatenate([m >> s & 1 for s in range(8)], axis=1)),
        "third bit is missing": q3_k(third=lambda m: np.zeros((len(m), 256), int)),
        "eight weights to a byte": q3_k(third=lambda m: (m[:, :, None] >> np.arange(8) & 1).reshape(-1, 256)),
        "low two bits come in order": q3_k(q=lambda qs: in_order(qs, 4).reshape(-1, 256)),
        "4 is not subtracted": q3_k(less=0),
        "every 32 weights": q3_k(repeat=32),
        "32 is not subtracted": q3_k(scales=three_bit_scales(offset=0)),
        "one stream": q3_k(scales=six_bit_stream),
        "low bits come in order": q3_k(scales=LOW_IN_ORDER),
        "high bits come in order": q3_k(scales=HIGH_IN_ORDER),
    },
}
WRONG = [(name, wrong, words) for name, wrongs in MISTAKES.items() for words, wrong in wrongs.items()]
RIGHT = {
    "q6_k_element": [element()],
    "q6_k_codes": [codes()],
    "dequantize_q6_k": [block_weights()],
    "pack_q6_k": [pack(first, second)],
    "dequantize_q2_k": [q2_k()],
    "q3_k_scales": [three_bit_scales()],
    "dequantize_q3_k": [q3_k()],
}


def not_cut(ql, qh):
    """Three mistakes: both planes in one piece, and a code that stays uint8."""
    low = np.concatenate([ql & 15, ql >> 4], axis=1)
    return (low | np.concatenate([qh >> s & 3 for s in (0, 2, 4, 6)], axis=1) << 4) - 32


def plain_order(raw, i):
    """Three mistakes: both planes in order, and unsigned scales."""
    low, high = int(raw[i // 2]) >> 4 * (i % 2) & 15, int(raw[128 + i // 4]) >> 2 * (i % 4) & 3
    return float(float16(*raw[208:])) * int(raw[192 + i // 16]) * ((low | high << 4) - 32)


TOGETHER = {
    "not_cut": ("q6_k_codes", not_cut, ["ql is not cut", "qh is not cut", "wraps around"]),
    "plain_order": (
        "q6_k_element",
        plain_order,
        ["two weights to a byte", "four weights to a byte", "read as unsigned"],
    ),
    "bytes and a float16": (
        "q6_k_element",
        lambda raw, i: plain_element(raw, i, half_d),
        ["wraps around", "in float16"],
    ),
    "packed without any mask": (
        "pack_q6_k",
        lambda q: (
            no_low_mask(q),
            np.concatenate(
                [
                    q[n:][:32] >> 4 | q[n + 32 :][:32] >> 2 | q[n + 64 :][:32] | q[n + 96 :][:32] << 2
                    for n in (0, 128)
                ]
            ),
        ),
        ["spill into the other nibble", "spill into qh"],
    ),
}


@pytest.mark.parametrize(("name", "wrong", "phrases"), TOGETHER.values(), ids=TOGETHER)
def test_mistakes_made_together_are_all_named(name, wrong, phrases):
    message = EXERCISES[name].judge(wrong).message.split("\n")[0]
    assert all(phrase in message for phrase in phrases), message
