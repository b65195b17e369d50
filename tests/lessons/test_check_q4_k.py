"""What learners write in lesson 03, for test_check_learners.py, and what is the lesson's own."""

import numpy as np
import pytest

from blocks2tokens.course.lessons.q4_k import exercises as lesson
from blocks2tokens.course.lessons.q4_k import suspects
from blocks2tokens.formats import FORMATS, q4_k

NAMES = {e.name: e for e in lesson.EXERCISES}
FMT = FORMATS["Q4_K"]


# Mutants: unpack_q4_k_scales


def stream(scales, pairs=False, high_first=False):
    """16 numbers of 6 bits, read bit by bit."""
    sc, m = np.zeros((len(scales), 8), np.uint8), np.zeros((len(scales), 8), np.uint8)
    for n, row in enumerate(scales):
        order = "big" if high_first else "little"
        whole = int.from_bytes(bytes(row), order)
        for i in range(16):
            number = whole >> (90 - 6 * i if high_first else 6 * i) & 63
            which, s = (i % 2, i // 2) if pairs else (i // 8, i % 8)
            (m if which else sc)[n, s] = number
    return sc, m


def unpack(scales, low=63, top=4, from_a=0, from_b=4, shift=0, swap=False):
    """The right loops, with a place for each mistake."""
    sc, m = np.zeros((len(scales), 8), np.uint8), np.zeros((len(scales), 8), np.uint8)
    for n, row in enumerate(scales.astype(int)):
        for s in range(4):
            sc[n, s], m[n, s] = row[s] & low, row[s + 4] & low
            t = (s + shift) % 4
            nibbles = (row[s + 8] & 15, row[s + 8] >> 4)
            if swap:
                nibbles = nibbles[::-1]
            a, b = row[from_a + t] >> 6, row[from_b + t] >> 6
            sc[n, s + 4], m[n, s + 4] = nibbles[0] | a << top, nibbles[1] | b << top
    return sc, m


def without_top_bits(scales):
    sc, m = unpack(scales)
    sc[:, 4:] &= 15
    m[:, 4:] &= 15
    return sc, m


# Mutants: split_q4_k_nibbles


def split(place):
    """A decoder of nibbles from place(weight) -> (byte, is it the high nibble)."""

    def codes(qs):
        out = np.zeros((len(qs), 256), np.uint8)
        for i in range(256):
            byte, high = place(i)
            out[:, i] = qs[:, byte] >> 4 if high else qs[:, byte] & 15
        return out.reshape(-1, 8, 32)

    return codes


def split_with(low, high):
    """Right places, other operations on a byte."""

    def codes(qs):
        out = np.zeros((len(qs), 8, 32), np.uint8)
        for chunk in range(4):
            part = qs[:, 32 * chunk : 32 * chunk + 32]
            out[:, 2 * chunk], out[:, 2 * chunk + 1] = low(part), high(part)
        return out

    return codes


# Mutants: dequantize_q4_k


def decode(weight, unpack=q4_k.unpack_scales, split=q4_k.split_nibbles, number=np.float32):
    """A decoder in loops over sub-blocks from weight(d, dmin, sc, m, q), q uint8 [32]."""

    def dequantize(blocks):
        out = np.zeros((len(blocks), 8, 32), np.float64 if number is np.float64 else np.float32)
        sc, m = unpack(blocks["scales"])
        q = split(blocks["qs"])
        for n in range(len(blocks)):
            d, dmin = number(blocks["d"][n]), number(blocks["dmin"][n])
            for s in range(8):
                out[n, s] = weight(d, dmin, sc[n, s], m[n, s], q[n, s])
        return out.reshape(-1, 256)

    return dequantize


def weight(d, dmin, sc, m, q):
    return d * sc * q - dmin * m


def one_later(scales):
    sc, m = q4_k.unpack_scales(scales)
    return sc[:, [1, 2, 3, 4, 5, 6, 7, 0]], m[:, [1, 2, 3, 4, 5, 6, 7, 0]]


def one_earlier(scales):
    sc, m = q4_k.unpack_scales(scales)
    return sc[:, [7, 0, 1, 2, 3, 4, 5, 6]], m[:, [7, 0, 1, 2, 3, 4, 5, 6]]


in_sequence = split(lambda i: (i // 2, i % 2))


def bits_as_number(half):
    return np.float32(int.from_bytes(half.tobytes(), "little"))


# Mutants: decode_q4_k_element


def fetch(
    place=lambda j: (32 * (j // 64) + j % 32, j // 32 % 2),
    sub_block=lambda j: j // 32,
    half=lambda two: two.view("<f2")[0],
    combine=lambda d, dmin, sc, m, q: float(d) * int(sc) * int(q) - float(dmin) * int(m),
    block=lambda i: i // 256,
):
    """A fetch of one weight with a place for each mistake."""

    def element(raw, i):
        at, j = 144 * block(i), i % 256
        byte, high = place(j)
        q = raw[at + 16 + byte] >> 4 if high else raw[at + 16 + byte] & 15
        sc, m = q4_k.unpack_scales(raw[None, at + 4 : at + 16])
        s = sub_block(j)
        with np.errstate(over="ignore"):
            return combine(half(raw[at : at + 2]), half(raw[at + 2 : at + 4]), sc[0, s], m[0, s], q)

    return element


def half_in_uint8(two):
    bits = two[0] | two[1] << 8
    return np.array([bits], np.uint16).view(np.float16)[0]


def half_right(wrong, which):
    return lambda scales: [(wrong if i == which else unpack)(scales)[i] for i in range(2)]


def half_products(name):
    """A decoder that forgets to convert d or dmin."""

    def dequantize(blocks):
        d, dmin = blocks["d"][:, None], blocks["dmin"][:, None]
        d, dmin = (d, dmin.astype("f4")) if name == "d" else (d.astype("f4"), dmin)
        sc, m = q4_k.unpack_scales(blocks["scales"])
        q = q4_k.split_nibbles(blocks["qs"])
        return ((d * sc)[:, :, None].astype("f4") * q - (dmin * m)[:, :, None].astype("f4")).reshape(-1, 256)

    return dequantize


WRONG = [
    ("unpack_q4_k_scales", stream, "plain stream of 6-bit numbers: scale 1 then straddles"),
    ("unpack_q4_k_scales", lambda s: stream(s, pairs=True), "6-bit pairs"),
    ("unpack_q4_k_scales", lambda s: stream(s, high_first=True), "high bits first"),
    ("unpack_q4_k_scales", without_top_bits, "never get beyond 15"),
    ("unpack_q4_k_scales", lambda s: unpack(s, top=6), "stay where they were"),
    ("unpack_q4_k_scales", lambda s: unpack(s, top=0), "bits that count 1 and 2"),
    ("unpack_q4_k_scales", lambda s: unpack(s, from_a=4, from_b=0), "Bytes 0 to 3 complete the scales"),
    ("unpack_q4_k_scales", lambda s: unpack(s, shift=1), "the top bits are off by one sub-block"),
    ("unpack_q4_k_scales", lambda s: unpack(s, low=255), "mask them off with & 63"),
    ("unpack_q4_k_scales", lambda s: unpack(s, swap=True), "the nibbles of bytes 8 to 11 are exchanged"),
    ("unpack_q4_k_scales", lambda s: unpack(s)[::-1], "return the scales first"),
    *(
        ("unpack_q4_k_scales", half_right(wrong, which), f"only your {name} are wrong: {phrase}")
        for which, name in enumerate(("scales", "minimums"))
        for phrase, wrong in {
            "they lack their top": without_top_bits,
            "the top two bits of sub-blocks 4 to 7 stay": lambda s: unpack(s, top=6),
            "the top two bits of sub-blocks 4 to 7 land": lambda s: unpack(s, top=0),
            "the top two bits of sub-blocks 4 to 7 come": lambda s: unpack(s, from_a=4, from_b=0),
            "for sub-blocks 0 to 3 they": lambda s: unpack(s, low=255),
            "for sub-blocks 4 to 7 they": lambda s: unpack(s, swap=True),
        }.items()
    ),
    ("dequantize_q4_k", half_products("d"), "d is still a float16"),
    ("dequantize_q4_k", half_products("dmin"), "dmin is still a float16"),
    ("dequantize_q4_k", decode(lambda d, dmin, sc, m, q: d * q - dmin * m), "own scale is missing"),
    ("split_q4_k_nibbles", in_sequence, "interleaved with the low ones"),
    ("split_q4_k_nibbles", split(lambda i: (i // 2, 1 - i % 2)), "the high one of a byte first"),
    (
        "split_q4_k_nibbles",
        split(lambda i: (16 * (i // 32) + i % 16, i // 16 % 2)),
        "chunks of 16 bytes, as in Q4_0",
    ),
    ("split_q4_k_nibbles", split(lambda i: (i % 128, i // 128)), "all 128 low nibbles before"),
    (
        "split_q4_k_nibbles",
        split_with(lambda b: b >> 4, lambda b: b & 15),
        "sub-blocks of each chunk are exch",
    ),
    ("split_q4_k_nibbles", split_with(lambda b: b, lambda b: b >> 4), "hold whole bytes"),
    ("split_q4_k_nibbles", split_with(lambda b: b & 15, lambda b: b & 0xF0), "16 times too large"),
    ("dequantize_q4_k", decode(lambda d, dmin, sc, m, q: d * sc * q), "the minimum is missing"),
    ("dequantize_q4_k", decode(lambda d, dmin, sc, m, q: d * sc * q + dmin * m), "the wrong sign"),
    ("dequantize_q4_k", decode(lambda d, dmin, sc, m, q: d * sc * q - d * m), "their unit is dmin"),
    ("dequantize_q4_k", decode(lambda d, dmin, sc, m, q: d * sc * q - m), "dmin is missing"),
    ("dequantize_q4_k", decode(lambda d, dmin, sc, m, q: d * sc * q - dmin), "subtracts dmin alone"),
    ("dequantize_q4_k", decode(lambda d, dmin, sc, m, q: sc * q.astype("f4") - dmin * m), "d is missing"),
    (
        "dequantize_q4_k",
        decode(lambda d, dmin, sc, m, q: d * sc * (q.astype("f4") - m)),
        "from the codes and",
    ),
    (
        "dequantize_q4_k",
        decode(lambda d, dmin, sc, m, q: d * sc * (q.astype("f4") - 8) - dmin * m),
        "you subtract 8",
    ),
    ("dequantize_q4_k", decode(lambda d, dmin, sc, m, q: d * (sc * q) - dmin * m), "945 becomes 177"),
    ("dequantize_q4_k", decode(weight, unpack=one_later), "sub-block 0 gets those of sub-block 1"),
    ("dequantize_q4_k", decode(weight, unpack=one_earlier), "sub-block 1 gets those of sub-block 0"),
    ("dequantize_q4_k", decode(weight, number=np.float16), "which keeps 11 bits"),
    (
        "dequantize_q4_k",
        decode(lambda d, dmin, sc, m, q: np.float32(d * sc) * q - np.float32(dmin * m), number=np.float16),
        "d * scale is computed in float16",
    ),
    ("dequantize_q4_k", decode(weight, number=bits_as_number), "read as whole numbers"),
    ("dequantize_q4_k", decode(weight, split=in_sequence), "your codes come in sequence"),
    ("dequantize_q4_k", decode(weight, unpack=stream), "your scales come from a plain stream"),
    ("dequantize_q4_k", decode(weight, unpack=stream, split=in_sequence), "this is the report's decoder"),
    ("dequantize_q4_k", decode(weight, number=np.float64), "your weights are float64"),
    ("decode_q4_k_element", fetch(block=lambda i: 0), "every weight comes from the first block"),
    ("decode_q4_k_element", fetch(lambda j: (j // 2, j % 2)), "your nibbles are in sequence"),
    (
        "decode_q4_k_element",
        fetch(lambda j: (j // 32 * 16 + j % 16, j % 32 > 15)),
        "chunks of 16 bytes, as in Q4_0",
    ),
    ("decode_q4_k_element", fetch(lambda j: (j % 128, j > 127)), "all 128 low nibbles before"),
    ("decode_q4_k_element", fetch(lambda j: (32 * (j // 64) + j % 32, 0)), "the low nibble for every weight"),
    (
        "decode_q4_k_element",
        fetch(lambda j: (32 * (j // 64) + j % 32 - 16, j // 32 % 2)),
        "from the block's byte 0",
    ),
    ("decode_q4_k_element", fetch(sub_block=lambda j: j // 64), "change every 64 weights"),
    ("decode_q4_k_element", fetch(sub_block=lambda j: (j // 32 + 1) % 8), "off by one"),
    ("decode_q4_k_element", fetch(half=lambda two: two.view(">f2")[0]), "the low byte comes first"),
    ("decode_q4_k_element", fetch(half=lambda two: two.view("<u2")[0]), "whole numbers"),
    ("decode_q4_k_element", fetch(half=half_in_uint8), "the high byte of d and dmin is lost"),
    (
        "decode_q4_k_element",
        fetch(half=half_in_uint8, combine=weight),
        "the high byte of d and dmin is lost",
    ),
    ("decode_q4_k_element", fetch(combine=weight), "your weight is computed in float16"),
    (
        "decode_q4_k_element",
        fetch(combine=lambda d, dmin, sc, m, q: float(d) * (sc * q) - float(dmin) * m),
        "945 becomes 177",
    ),
    (
        "decode_q4_k_element",
        fetch(combine=lambda d, dmin, sc, m, q: float(d) * sc * q),
        "the minimum is missing",
    ),
    (
        "decode_q4_k_element",
        fetch(combine=lambda d, dmin, sc, m, q: float(d) * sc * q + float(dmin) * m),
        "the wrong sign",
    ),
]


def convict(raw, weights):
    """From the evidence: what is right of the weights, and in which unit are they wrong?"""
    right = q4_k.dequantize(FMT.blocks(raw)[:, 0])
    same = (right == weights).reshape(-1, 8, 32).mean(axis=(0, 2))
    away = (weights - right).reshape(-1, 8, 32)
    if (same[:4] == 1).all():
        return "top bits missing"
    if np.allclose(away, away[:, :, :1], atol=1e-5):
        return "minimums added"
    steps = [np.unique(w).size for w in weights.reshape(-1, 32)]
    if max(steps) <= 16 and (right.reshape(-1, 8, 32)[:, 0, 0] == weights[:, 0]).all():
        return "codes in sequence"
    spread = np.ptp(weights.reshape(-1, 8, 32), axis=2)[:, 0] / np.ptp(right.reshape(-1, 8, 32), axis=2)[:, 0]
    return np.array(["d and dmin swapped", "scales as a stream"])[int(np.allclose(spread, 1, rtol=1e-4))]


RIGHT = {
    "convict_q4_k_decoder": [convict],
    "unpack_q4_k_scales": [unpack],
    "split_q4_k_nibbles": [split(lambda i: (32 * (i // 64) + i % 32, i // 32 % 2))],
    "dequantize_q4_k": [decode(weight)],
    "decode_q4_k_element": [fetch()],
}


@pytest.mark.parametrize("wide", [np.int64, np.float64, np.uint16])
def test_scales_of_another_type_do_not_spoil_the_next_exercise(wide):
    unpack_mine = NAMES["unpack_q4_k_scales"](lambda scales: [a.astype(wide) for a in unpack(scales)])
    split_mine = NAMES["split_q4_k_nibbles"](lambda qs: q4_k.split_nibbles(qs).astype(wide))
    verdict = NAMES["dequantize_q4_k"].judge(decode(weight, unpack_mine, split_mine))
    assert verdict.kind == "right", verdict


def row_then_weight(raw, i):
    return q4_k.dequantize(FMT.blocks(raw)).reshape(-1)[i]


def copied_row(raw, i):
    at = i // 256 * 144
    return NAMES["decode_q4_k_element"].engine(raw.astype(np.int64).astype(np.uint8)[at : at + 144], i % 256)


def block_then_weight(raw, i):
    return q4_k.dequantize(FMT.blocks(raw[i // 256 * 144 :][:144])).reshape(-1)[i % 256]


def test_who_fetches_one_weight_need_not_decode_the_row():
    exercise = NAMES["decode_q4_k_element"]
    for function in (row_then_weight, copied_row):
        verdict = exercise.judge(function)
        assert verdict.kind == "wrong" and "bytes of memory" in verdict.message
    assert exercise.judge(block_then_weight).kind == "right"


# Who made these weights?


@pytest.mark.parametrize("crime", suspects.CRIMES)
def test_who_convicts_the_wrong_one_is_told_the_evidence(crime):
    exercise = NAMES["convict_q4_k_decoder"]

    def never_this_one(raw, weights):
        found = exercise.engine(raw, weights)
        return found if found != crime else "no idea"

    assert "expected one of 'scales as a stream', " in exercise.judge(never_this_one).message

    def another(raw, weights):
        found = exercise.engine(raw, weights)
        return found if found != crime else next(c for c in suspects.CRIMES if c != crime)

    message = exercise.judge(another).message
    assert f"It was {crime!r}" in message and lesson.TELLS[crime] in message


def blocks_of_all_kinds():
    """Return random blocks with d and dmin of their own, BLOCK [500], some minimums 0."""
    blocks = FMT.blocks(lesson.tame_blocks(FMT, np.random.default_rng(1), 500))[:, 0]
    blocks["scales"][:, 4] &= 0xC0  # the minimum of sub-block 0
    return blocks


def test_the_evidence_is_as_it_is_told():
    blocks = blocks_of_all_kinds()
    right = q4_k.dequantize(blocks).reshape(-1, 8, 32)
    made = {name: decode(blocks).reshape(-1, 8, 32) for name, decode in suspects.DECODERS.items()}
    stream = made["scales as a stream"]
    assert np.allclose(np.diff(stream[:, 0]), np.diff(right[:, 0]), atol=1e-5)
    assert not np.allclose(np.diff(stream[:, 1:]), np.diff(right[:, 1:]), atol=1e-3)
    assert np.array_equal(made["codes in sequence"][:, 0, 0], right[:, 0, 0])
    scale_0 = blocks["d"].astype("f4") * q4_k.unpack_scales(blocks["scales"])[0][:, 0]
    assert np.array_equal(made["codes in sequence"][:, 0, 1], scale_0 * code_of(blocks, 32))
    added = made["minimums added"] - right
    assert made["minimums added"].min() >= 0 and np.allclose(added, added[:, :, :1], atol=1e-5)
    ratio = (blocks["dmin"].astype("f4") / blocks["d"].astype("f4"))[:, None]
    assert np.allclose(made["d and dmin swapped"][:, 0], ratio * right[:, 0], rtol=1e-3, atol=1e-6)
    assert np.array_equal(made["top bits missing"][:, :4], right[:, :4])


def code_of(blocks, weight):
    return q4_k.split_nibbles(blocks["qs"]).reshape(-1, 256)[:, weight]


def test_three_different_suspects_are_caught():
    raw = lesson.tame_blocks(FMT, np.random.default_rng(2), 3)
    caught = suspects.lineup(raw)
    named = {name: NAMES["convict_q4_k_decoder"].engine(raw, weights) for name, weights in caught.items()}
    assert list(named) == ["A", "B", "C"] and len(set(named.values())) == 3
    assert set(named.values()) < set(suspects.CRIMES)
