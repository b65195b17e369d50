"""What learners write in lesson 04, for test_check_learners.py, and what is the lesson's own."""

import numpy as np
import pytest
from numba import njit

from blocks2tokens.course.lessons.q5_k import exercises as lesson
from blocks2tokens.formats import FORMATS, q4_k
from blocks2tokens.formats.compiled import read_half

NAMES = {e.name: e for e in lesson.EXERCISES}
FMT = FORMATS["Q5_K"]


# Mutants: q5_k_high_bits, from place(weight) -> (byte, bit)


def plane(place, take=lambda byte, bit: byte >> bit & 1):
    """A reader of the plane, weight after weight, with a place for each mistake."""

    def bits(qh):
        out = np.zeros((len(qh), 256), np.uint8)
        for i in range(256):
            byte, bit = place(i)
            out[:, i] = take(qh[:, byte], np.uint8(bit))
        return out.reshape(-1, 8, 32)

    return bits


def right_place(i):
    return i % 32, i // 32


in_sequence = plane(lambda i: (i // 8, i % 8))
in_sequence_high_first = plane(lambda i: (i // 8, 7 - i % 8))
from_the_top = plane(lambda i: (i % 32, 7 - i // 32))
low_then_high = plane(lambda i: (i % 32, i // 64 + 4 * (i // 32 % 2)))


right_bits = plane(right_place)


# Mutants: dequantize_q5_k and decode_q5_k_row


def weight(d, dmin, sc, m, q):
    return d * sc * q - dmin * m


def decode(
    weight=weight,
    join=lambda low, high: low | high << 4,
    unpack=q4_k.unpack_scales,
    bits=right_bits,
    codes=q4_k.split_nibbles,
    number=np.float32,
):
    """A decoder in loops over sub-blocks with a place for each mistake."""

    def dequantize(blocks):
        out = np.zeros((len(blocks), 8, 32), np.float64 if number is np.float64 else np.float32)
        sc, m = unpack(blocks["scales"])
        q = join(codes(blocks["qs"]), bits(blocks["qh"]))
        for n in range(len(blocks)):
            d, dmin = number(blocks["d"][n]), number(blocks["dmin"][n])
            for s in range(8):
                out[n, s] = weight(d, dmin, sc[n, s], m[n, s], q[n, s])
        return out.reshape(-1, 256)

    return dequantize


def rows(dequantize):
    def decode_row(raw):
        return dequantize(raw.view(FMT.block)).ravel()

    return decode_row


def one_later(scales):
    sc, m = q4_k.unpack_scales(scales)
    return sc[:, [1, 2, 3, 4, 5, 6, 7, 0]], m[:, [1, 2, 3, 4, 5, 6, 7, 0]]


def stream(scales):
    out = np.zeros((len(scales), 16), np.uint8)
    for n, row in enumerate(scales):
        for i in range(16):
            out[n, i] = int.from_bytes(bytes(row), "little") >> 6 * i & 63
    return out[:, :8], out[:, 8:]


def nibbles_in_sequence(qs):
    out = np.zeros((len(qs), 256), np.uint8)
    out[:, 0::2], out[:, 1::2] = qs & 15, qs >> 4
    return out.reshape(-1, 8, 32)


def loops(raw, plane_at=16, codes_at=48, block_bytes=176, own_plane=True):
    """What a learner is to write, with a place for a wrong offset."""
    out = np.zeros(raw.size // 176 * 256, np.float32)
    for i in range(out.size):
        at = i // 256 * block_bytes
        s, l = i % 256 // 32, i % 32
        d, dmin = raw[at : at + 4].view(np.float16).astype(np.float32)
        sc, m = q4_k.scale_min(raw, at + 4, s)
        q = int(raw[at + codes_at + 32 * (s // 2) + l]) >> 4 * (s % 2) & 15
        q += (int(raw[at * own_plane + plane_at + l]) >> s & 1) * 16
        out[i] = d * np.float32(sc) * np.float32(q) - dmin * np.float32(m)
    return out


def loops_to_compile(raw):
    """What a learner is to write, with nothing in it that Numba cannot compile."""
    out = np.zeros(raw.size // 176 * 256, np.float32)
    for i in range(out.size):
        at, s, l = i // 256 * 176, i % 256 // 32, i % 32
        d, dmin = read_half(raw, at), read_half(raw, at + 2)
        sc, m = q4_k.scale_min(raw, at + 4, s)
        q = int(raw[at + 48 + 32 * (s // 2) + l]) >> 4 * (s % 2) & 15
        q += (int(raw[at + 16 + l]) >> s & 1) * 16
        out[i] = d * np.float32(sc) * np.float32(q) - dmin * np.float32(m)
    return out


BOTH = [  # mistakes that can be made on blocks and on a row
    (decode(join=lambda low, high: low), "the fifth bit is missing"),
    (decode(join=lambda low, high: low + high), "the fifth bit counts 1"),
    (decode(join=lambda low, high: low | high), "falls on the lowest of the other four"),
    (decode(join=lambda low, high: 2 * low + high), "taken for the lowest one"),
    (
        decode(
            bits=plane(right_place, lambda byte, bit: byte & (1 << bit)), join=lambda low, high: low + high
        ),
        "what the mask leaves is added as it is",
    ),
    (decode(bits=in_sequence), "the wrong bytes: you read qh in sequence, weight i from byte i // 8"),
    (decode(bits=in_sequence_high_first), "in sequence, the highest bit of each byte first"),
    (decode(bits=from_the_top), "bit 0 of qh, not bit 7"),
    (decode(bits=low_then_high), "bit 1 of qh, not bit 4"),
    (decode(lambda d, dmin, sc, m, q: d * sc * q), "the minimum is missing"),
    (decode(lambda d, dmin, sc, m, q: d * sc * q + dmin * m), "the wrong sign"),
    (decode(lambda d, dmin, sc, m, q: d * sc * q - d * m), "their unit is dmin"),
    (decode(lambda d, dmin, sc, m, q: d * sc * (q.astype("f4") - 16) - dmin * m), "you subtract 16"),
    (decode(lambda d, dmin, sc, m, q: d * (sc * q) - dmin * m), "1953 becomes 161"),
    (decode(unpack=one_later), "the scales are off by one"),
    (decode(unpack=stream), "your scales come from a plain stream"),
    (decode(codes=nibbles_in_sequence), "your low four bits come in sequence"),
    (decode(unpack=stream, codes=nibbles_in_sequence, bits=in_sequence), "this is the report's decoder"),
]


# Mutants: pack_q5_k_codes


def pack(codes, place=right_place, nibble=lambda i: (32 * (i // 64) + i % 32, i // 32 % 2), low=15, high=4):
    """A packer, code after code, with a place for each mistake."""
    qh, qs = np.zeros(32, np.uint8), np.zeros(128, np.uint8)
    for i, q in enumerate(codes.astype(int)):
        byte, bit = place(i)
        qh[byte] |= (q >> high & 1) << bit
        byte, is_high = nibble(i)
        qs[byte] |= (q & low) << 4 * is_high & 255
    return qh, qs


def pack_without_a_plane(codes):
    return np.zeros(32, np.uint8), pack(codes)[1]


WRONG = [
    ("q5_k_high_bits", in_sequence, "weight i from bit i % 8 of byte i // 8"),
    ("q5_k_high_bits", in_sequence_high_first, "np.unpackbits does that"),
    ("q5_k_high_bits", from_the_top, "bit 0, the lowest, not bit 7"),
    ("q5_k_high_bits", plane(lambda i: (i % 32, (i // 32 + 1) % 8)), "off by one"),
    ("q5_k_high_bits", low_then_high, "neighbouring bits"),
    ("q5_k_high_bits", plane(right_place, lambda byte, bit: byte >> bit), "keep the lowest with & 1"),
    ("q5_k_high_bits", plane(right_place, lambda byte, bit: byte & (1 << bit)), "shift them down to 0 or 1"),
    ("q5_k_high_bits", plane(right_place, lambda byte, bit: (byte >> bit & 1) * 16), "count 16 already"),
    *(("dequantize_q5_k", mutant, phrase) for mutant, phrase in BOTH),
    ("dequantize_q5_k", decode(number=np.float16), "computed in float16"),
    ("dequantize_q5_k", decode(number=np.float64), "your weights are float64"),
    *(("decode_q5_k_row", rows(mutant), phrase) for mutant, phrase in BOTH),
    ("decode_q5_k_row", lambda raw: loops(raw, block_bytes=0), "the second begins at byte 176"),
    ("decode_q5_k_row", lambda raw: loops(raw, plane_at=144, codes_at=16), "qs and qh are exchanged"),
    ("decode_q5_k_row", lambda raw: loops(raw, codes_at=16), "its 32 bytes come first"),
    (
        "decode_q5_k_row",
        lambda raw: loops(raw, own_plane=False),
        "every block has the first one's fifth bits",
    ),
    ("decode_q5_k_row", lambda raw: loops(raw, block_bytes=144), "144 bytes apart, as in Q4_K"),
    ("pack_q5_k_codes", lambda codes: pack(codes, low=31), "spills into the high nibble"),
    ("pack_q5_k_codes", lambda codes: pack(codes, high=3), "qh holds the fourth bits"),
    ("pack_q5_k_codes", pack_without_a_plane, "qh is empty"),
    ("pack_q5_k_codes", lambda codes: pack(codes, lambda i: (i // 8, i % 8)), "in bit i % 8 of byte i // 8"),
    ("pack_q5_k_codes", lambda codes: pack(codes, lambda i: (i // 8, 7 - i % 8)), "np.packbits does that"),
    (
        "pack_q5_k_codes",
        lambda codes: pack(codes, lambda i: (i % 32, 7 - i // 32)),
        "counts sub-blocks from the top",
    ),
    (
        "pack_q5_k_codes",
        lambda codes: pack(codes, nibble=lambda i: (i // 2, i % 2)),
        "your nibbles are in sequence",
    ),
    (
        "pack_q5_k_codes",
        lambda codes: pack(codes, nibble=lambda i: (32 * (i // 64) + i % 32, 1 - i // 32 % 2)),
        "the nibbles are exchanged",
    ),
    ("pack_q5_k_codes", lambda codes: pack(codes)[::-1], "return qh first"),
]


RIGHT = {
    "q5_k_high_bits": [right_bits],
    "dequantize_q5_k": [decode()],
    "decode_q5_k_row": [loops_to_compile],
    "pack_q5_k_codes": [pack],
}


@pytest.mark.parametrize("kind", [bool, np.int64, np.float32])
def test_fifth_bits_of_another_type_do_not_spoil_the_next_exercise(kind):
    mine = NAMES["q5_k_high_bits"](lambda qh: lesson.plane_of(qh).astype(kind))
    verdict = NAMES["dequantize_q5_k"].judge(decode(bits=mine))
    assert verdict.kind == "right", verdict


def test_a_row_decoder_that_cannot_be_compiled_is_refused():
    verdict = NAMES["decode_q5_k_row"].judge(loops)
    assert verdict.kind == "wrong" and "the next cell compiles it" in verdict.message
    assert "Numba cannot compile your function" in verdict.message


def test_the_engine_s_row_decoder_can_be_compiled():
    """The lesson compiles what the check gives back: without an answer that is the engine's."""
    (raw,) = lesson.row_cases()["random blocks"]
    assert np.array_equal(njit(NAMES["decode_q5_k_row"].engine)(raw), FMT.dequantize(raw))
