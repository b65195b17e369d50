"""Every format taken apart, many rows at a time: the definition of each, in words of four bytes.

    out.group(g, codes, scale)      codes of group g, vectors of 4 codes of each row, and their scales
    out.end(d, offset, pairs)       what belongs to the whole block

    blocks of 256    weight = d * scale[g] * code - offset * min[g]     scales and mins integers
    blocks of 32     weight = d * code + offset                         one group
    float32, 16      no codes: some weights of one row as float32, see `float_dot`

`out` multiplies at once, or stores for later: see `panels`. The codes of a format are uint8, at most
`largest`; those that are signed by nature are int8 with `largest` 128 where the instruction set likes that,
and else 128 is added, and taken off again by way of `offset`.
Sources: those of the formats, see `formats/`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir

from blocks2tokens.formats.iq4_nl import VALUES
from blocks2tokens.formats.mxfp4 import VALUES as FLOATS_4
from blocks2tokens.jit.lanes import F32, HALF, I16, I32, Words, constant, load, lookup

NIBBLES, BITS, PAIRS, SIXES = 0x0F0F0F0F, 0x01010101, 0x03030303, 0x3F3F3F3F


@dataclass(frozen=True)
class Packed:
    """What the loops must know of a format."""

    name: str
    weights: int  # of a block
    size: int  # its bytes
    group: int  # weights that share a scale
    largest: int  # code; 0: the codes are float32
    unpack: Callable

    @property
    def groups(self):
        return self.weights // self.group

    @property
    def is_float(self):
        return not self.largest

    @property
    def is_super(self):
        """Has a block integer scales of its groups?"""
        return self.weights == 256


def scaled(b, words, factor):
    """Return float32 of each row times a number."""
    return b.builder.fmul(words, constant(words.type, float(factor)))


# --- Blocks of 256 ----------------------------------------------------------------------------------------


def six_bit_scales(low, mid, high):
    """Return 8 scales and 8 mins of 6 bits, two words each, from the 12 bytes of Q4_K and Q5_K."""
    sc = low & SIXES, (high & NIBBLES) | ((low >> 6) & PAIRS) << 4
    m = mid & SIXES, ((high >> 4) & NIBBLES) | ((mid >> 6) & PAIRS) << 4
    return sc, m


def q4_k(b, out):
    head = b.chunk(0)  # d, dmin, 12 bytes of scales
    sc, m = six_bit_scales(*head[1:])
    for c in range(4):
        qs = b.words(16 + 32 * c, 8)
        for high in range(2):
            g = 2 * c + high
            out.group(g, [(q >> 4 * high) & NIBBLES for q in qs], (sc[g // 4], g % 4, False))
    out.end(head[0].halves(), (head[0] >> 16).halves(), (m, False))


def q5_k(b, out):
    head, bits = b.chunk(0), b.words(16, 8)
    sc, m = six_bit_scales(*head[1:])
    for c in range(4):
        qs = b.words(48 + 32 * c, 8)
        for high in range(2):
            g = 2 * c + high
            codes = [
                ((q >> 4 * high) & NIBBLES) | ((h >> g) & BITS) << 4 for q, h in zip(qs, bits, strict=True)
            ]
            out.group(g, codes, (sc[g // 4], g % 4, False))
    out.end(head[0].halves(), (head[0] >> 16).halves(), (m, False))


def q6_k(b, out):
    b.words(0, 16)  # first what comes first in memory, see `Rows`
    scales, d = b.words(192, 4), b.half(208)
    for part in range(4):  # 16 bytes: half part // 2
        half, at = part // 2, 64 * (part // 2) + 16 * (part % 2)
        low = b.words(at, 4), b.words(at + 32, 4)
        high = b.words(128 + 16 * part, 4)
        for quarter in range(4):
            nibbles = [(q >> 4 * (quarter // 2)) & NIBBLES for q in low[quarter % 2]]
            codes = [n | ((h >> 2 * quarter) & PAIRS) << 4 for n, h in zip(nibbles, high, strict=True)]
            g = 8 * half + 2 * quarter + part % 2
            out.group(g, codes, (scales[g // 4], g % 4, True))
    out.end(d, scaled(b, d, 32), (scales, True))


def q2_k(b, out):
    scales, ends = b.words(0, 4), b.word(80)
    for part in range(4):
        qs = b.words(16 + 16 * part, 4)
        for quarter in range(4):
            g = 8 * (part // 2) + 2 * quarter + part % 2
            codes = [(q >> 2 * quarter) & PAIRS for q in qs]
            out.group(g, codes, (scales[g // 4] & NIBBLES, g % 4, False))
    mins = [(s >> 4) & NIBBLES for s in scales]
    out.end(ends.halves(), (ends >> 16).halves(), (mins, False))


def q3_k(b, out):
    b.words(0, 16)  # first what comes first in memory, see `Rows`
    a, e, top = (b.word(96 + 4 * i) for i in range(3))
    low = a & NIBBLES, e & NIBBLES, (a >> 4) & NIBBLES, (e >> 4) & NIBBLES
    scales = [(s | ((top >> 2 * i) & PAIRS) << 4).minus_bytes(32) for i, s in enumerate(low)]
    masks = b.words(0, 8)
    for part in range(4):
        qs = b.words(32 + 16 * part, 4)
        bits = masks[4 * (part % 2) : 4 * (part % 2) + 4]
        for quarter in range(4):
            bit = 4 * (part // 2) + quarter
            codes = [
                ((q >> 2 * quarter) & PAIRS) | ((h >> bit) & BITS) << 2 for q, h in zip(qs, bits, strict=True)
            ]
            g = 8 * (part // 2) + 2 * quarter + part % 2
            out.group(g, codes, (scales[g // 4], g % 4, True))
    d = b.half(108)
    out.end(d, scaled(b, d, 4), (scales, True))


def iq4_xs(b, out):
    head = b.chunk(0)  # d, scales_h, scales_l
    high, low = head[0] >> 16, head[1]
    even, odd = low & NIBBLES, (low >> 4) & NIBBLES
    for j in range(4):  # two bits of each sub-block, to bits 4 and 5 of a byte
        even = even | ((high << 4 + 4 * j) & (0x30 << 8 * j))
        odd = odd | ((move(high, 2 + 4 * j)) & (0x30 << 8 * j))
    scales = even.minus_bytes(32), odd.minus_bytes(32)
    for g in range(8):
        qs = b.words(8 + 16 * g, 4)
        indexes = [q & NIBBLES for q in qs] + [(q >> 4) & NIBBLES for q in qs]
        out.group(g, table_codes(b, VALUES, indexes), (scales[g % 2], g // 2, True))
    d = head[0].halves()
    if b.isa.signed:
        out.end(d, None, None)
    else:
        out.end(d, scaled(b, d, 128), (interleave(*scales), True))


def move(words, bits):
    return words << bits if bits >= 0 else words >> -bits


def interleave(even, odd):
    """Return two words with the bytes of two in turn."""
    first = (even & 0xFF) | (odd & 0xFF) << 8 | (even & 0xFF00) << 8 | (odd & 0xFF00) << 16
    last = (even >> 16 & 0xFF) | (odd >> 8 & 0xFF00) | (even >> 8 & 0xFF0000) | (odd & 0xFF000000)
    return first, last


# --- Blocks of 32 -----------------------------------------------------------------------------------------


def halves_of(qs):
    """Return the codes of nibbles: low ones are the first half, high ones the second."""
    return [q & NIBBLES for q in qs] + [(q >> 4) & NIBBLES for q in qs]


def fifth_bits(word):
    """Return bit 4 of 32 codes, eight words, from the 32 bits of a word."""
    spread = [word.spread(i) for i in range(4)]
    masks = ([1, 2, 4, 8], [16, 32, 64, 128])
    return [spread[i // 2].select_bits(masks[i % 2], 16) for i in range(8)]


def table_codes(b, table, indexes):
    """Return bytes of a table: int8, or uint8 with 128 added, as the instruction set likes it."""
    added = 0 if b.isa.signed else 128
    return [lookup(b.builder, b.isa, [int(v) + added for v in table], i) for i in indexes]


def q8_0(b, out):
    d, flip = b.half(0), 0 if b.isa.signed else 0x80808080
    out.group(0, [q ^ flip if flip else q for q in b.words(2, 8)], None)
    out.end(d, None if b.isa.signed else scaled(b, d, -128), None)


def q4_0(b, out):
    d = b.half(0)
    out.group(0, halves_of(b.words(2, 4)), None)
    out.end(d, scaled(b, d, -8), None)


def q4_1(b, out):
    head = b.word(0)
    out.group(0, halves_of(b.words(4, 4)), None)
    out.end(head.halves(), (head >> 16).halves(), None)


def q5_0(b, out):
    d, bits = b.half(0), fifth_bits(b.chunk(0)[0] >> 16 | b.chunk(0)[1] << 16)
    codes = [q | h for q, h in zip(halves_of(b.words(6, 4)), bits, strict=True)]
    out.group(0, codes, None)
    out.end(d, scaled(b, d, -16), None)


def q5_1(b, out):
    head, bits = b.word(0), fifth_bits(b.chunk(0)[1])
    codes = [q | h for q, h in zip(halves_of(b.words(8, 4)), bits, strict=True)]
    out.group(0, codes, None)
    out.end(head.halves(), (head >> 16).halves(), None)


def iq4_nl(b, out):
    d = b.half(0)
    out.group(0, table_codes(b, VALUES, halves_of(b.words(2, 4))), None)
    out.end(d, None if b.isa.signed else scaled(b, d, -128), None)


def mxfp4(b, out):
    e = b.word(0) & 0xFF
    builder = b.builder
    normal = builder.shl(builder.sub(e.value, e.constant(1)), e.constant(23))
    small = builder.shl(e.constant(0x200000), e.value)
    is_small = builder.icmp_unsigned("<", e.value, e.constant(2))
    d = Words(builder, builder.select(is_small, small, normal)).as_floats()
    plus_12 = [int(v) + 12 for v in FLOATS_4]
    out.group(0, [lookup(builder, b.isa, plus_12, i) for i in halves_of(b.words(1, 4))], None)
    out.end(d, scaled(b, d, -12), None)


# --- Floats: no codes, but some neighbouring weights of one row, as float32 ---------------------------------


def f32(builder, row, first, count):
    return load(builder, row, 4 * first, ir.VectorType(F32, count))


def f16(builder, row, first, count):
    halves = load(builder, row, 2 * first, ir.VectorType(HALF, count))
    return builder.fpext(halves, ir.VectorType(F32, count))


def bf16(builder, row, first, count):
    words = ir.VectorType(I32, count)
    bits = builder.zext(load(builder, row, 2 * first, ir.VectorType(I16, count)), words)
    return builder.bitcast(builder.shl(bits, constant(words, 16)), ir.VectorType(F32, count))


PACKED = {
    packed.name: packed
    for packed in (
        Packed("Q4_K", 256, 144, 32, 15, q4_k),
        Packed("Q5_K", 256, 176, 32, 31, q5_k),
        Packed("Q6_K", 256, 210, 16, 63, q6_k),
        Packed("Q2_K", 256, 84, 16, 3, q2_k),
        Packed("Q3_K", 256, 110, 16, 7, q3_k),
        Packed("IQ4_XS", 256, 136, 32, 128, iq4_xs),
        Packed("Q8_0", 32, 34, 32, 128, q8_0),
        Packed("Q4_0", 32, 18, 32, 15, q4_0),
        Packed("Q4_1", 32, 20, 32, 15, q4_1),
        Packed("Q5_0", 32, 22, 32, 31, q5_0),
        Packed("Q5_1", 32, 24, 32, 31, q5_1),
        Packed("IQ4_NL", 32, 18, 32, 128, iq4_nl),
        Packed("MXFP4", 32, 17, 32, 24, mxfp4),
        Packed("F32", 32, 128, 32, 0, f32),
        Packed("F16", 32, 64, 32, 0, f16),
        Packed("BF16", 32, 64, 32, 0, bf16),
    )
}
