"""Rows of weights side by side: lane r of every vector belongs to row r. A panel has sixteen of them.

    16 rows in memory, 16 bytes of each:        the same bytes as four vectors of 16 words:

    row 0   a0 a1 a2 a3                          word 0   a0 b0 c0 ... p0
    row 1   b0 b1 b2 b3       --transpose-->     word 1   a1 b1 c1 ... p1
    ...                                          word 2   a2 b2 c2 ... p2
    row 15  p0 p1 p2 p3                          word 3   a3 b3 c3 ... p3

A word is 4 bytes. Python operators on `Words` write LLVM instructions: `(w >> 4) & 0x0F0F0F0F` takes the high
nibbles of 64 bytes, four of each row. What a format's definition says about one row is then said once for
sixteen, scales and all, and no sum ever has to go across a vector. 64 bytes are one register of AVX-512,
two of AVX2, four of NEON: LLVM takes vectors apart, and since nothing here crosses 16 bytes, for free. But
it goes through all registers of a vector at once, and those of a block of Q6_K are more than there are: so
rows are unpacked as many at a time as the instruction set says, and its vectors are that long.

The products, `ISAS[name]`, are where instruction sets differ.

Sources: Intel Intrinsics Guide; Arm's intrinsics reference; LLVM `llvm.x86.*`, `llvm.aarch64.neon.*`.
"""

from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from llvmlite import ir

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F32, HALF = ir.FloatType(), ir.HalfType()
ROWS = 16  # of a panel
CHUNK = ir.VectorType(I32, 4)


class BFloat(ir.Type):
    """The upper half of a float32, which llvmlite has no name for."""

    def _to_string(self):
        return "bfloat"

    def __eq__(self, other):
        return isinstance(other, BFloat)

    def __hash__(self):
        return hash(BFloat)


def words_of(rows: int) -> ir.VectorType:
    """Return the type of a word of each row."""
    return ir.VectorType(I32, rows)


def floats_of(rows: int) -> ir.VectorType:
    """Return the type of a float32 of each row."""
    return ir.VectorType(F32, rows)


def pairs_of(rows: int) -> ir.VectorType:
    """Return the type of two int16 of each row."""
    return ir.VectorType(I16, 2 * rows)


def bytes_of(rows: int) -> ir.VectorType:
    """Return the type of four bytes of each row."""
    return ir.VectorType(I8, 4 * rows)


def words_in(builder, vector):
    """Return a vector of whole numbers as one of words."""
    return builder.bitcast(vector, words_of(size_of(vector.type) // 4))


def constant(kind, values):
    """Return a vector of these numbers, or of one number in all places."""
    values = tuple(values) if isinstance(values, (list, tuple)) else (values,) * kind.count
    return _constant(kind, values, repr(values))  # -0.0 is equal to 0.0 and not the same


@cache
def _constant(kind, values, text):
    """Make a vector once: a kernel has some hundreds, and llvmlite wraps each number of each."""
    return ir.Constant(kind, list(values))


def shuffle(builder, a, b, lanes):
    return builder.shuffle_vector(a, b, constant(ir.VectorType(I32, len(lanes)), list(lanes)))


@cache
def undefined(kind):
    return ir.Constant(kind, ir.Undefined)


def splat(builder, scalar, count):
    one = builder.insert_element(undefined(ir.VectorType(scalar.type, count)), scalar, I32(0))
    return shuffle(builder, one, undefined(one.type), [0] * count)


def join(builder, parts):
    """Join 1, 2 or 4 vectors into one."""
    while len(parts) > 1:
        both = range(2 * parts[0].type.count)
        parts = [shuffle(builder, a, b, both) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def split(builder, vector, count):
    """Cut a vector into `count` equal parts."""
    size, rest = vector.type.count // count, undefined(vector.type)
    return [shuffle(builder, vector, rest, range(i * size, (i + 1) * size)) for i in range(count)]


def call(builder, name, result, args):
    """Call an LLVM intrinsic by its name."""
    module = builder.module
    function = module.globals.get(name)
    if function is None:
        function = ir.Function(module, ir.FunctionType(result, [arg.type for arg in args]), name)
    return builder.call(function, args)


def in_parts(builder, count, name, result, args):
    """Call an intrinsic on each of `count` parts of its arguments, and join the results."""
    part = ir.VectorType(result.element, result.count // count)
    cut = zip(*(split(builder, arg, count) for arg in args), strict=True)
    return join(builder, [call(builder, name, part, list(args)) for args in cut])


def made_here(builder, isa, vector):
    """Return a vector that LLVM makes at this place, before it loads what comes behind.

    Left to itself it loads or makes more than the registers hold. What looks like an instruction with each
    register is none.
    """
    kind = vector.type
    size = isa.register_bytes * kind.count // size_of(kind)
    parts = split(builder, vector, kind.count // size) if kind.count > size else [vector]
    same = ir.FunctionType(parts[0].type, [parts[0].type])
    constraints = f"={isa.register},0,~{{memory}}"
    return join(builder, [builder.asm(same, "", constraints, [part], side_effect=True) for part in parts])


def size_of(kind):
    """Return the bytes of a vector."""
    return kind.count * (4 if kind.element == F32 else kind.element.width // 8)


def align_stack(function):
    """Let what a function keeps on its stack begin at whole lines of memory; it is inlined nowhere.

    The stack is aligned to 16 bytes alone, and LLVM moves it up no further for vectors that no register is
    left for: then, from one process to the next, half of them lie across two lines, and products with four
    rows of x take half as long again.
    """
    function.attributes.add("noinline")
    function.attributes.alignstack = 64


def pointer(builder, base, offset, kind):
    """Return a pointer to byte `offset`, a number or an LLVM value, behind the address `base`."""
    if isinstance(offset, int):
        offset = I64(offset)
    at = builder.gep(builder.inttoptr(base, I8.as_pointer()), [offset])
    return builder.bitcast(at, kind.as_pointer())


def load(builder, base, offset, kind):
    return builder.load(pointer(builder, base, offset, kind), align=1)


@contextmanager
def loop(builder, count):
    """Make a loop that LLVM does not unroll: it is not told how often; one turn alone is no loop.

    count may be an LLVM value that is at least 1. A loop of a few instructions is written out all the same,
    some turns at a time, if there is no `fence` in it.
    """
    if isinstance(count, int) and count == 1:
        yield I64(0)
        return
    told = I64(count) if isinstance(count, int) else count
    same = builder.asm(ir.FunctionType(I64, [I64]), "", "=r,0", [told], side_effect=False)
    before, body = builder.block, builder.append_basic_block("loop")
    builder.branch(body)
    builder.position_at_end(body)
    turn = builder.phi(I64)
    turn.add_incoming(I64(0), before)
    yield turn
    following, after = builder.add(turn, I64(1)), builder.append_basic_block("after")
    turn.add_incoming(following, builder.block)
    builder.cbranch(builder.icmp_unsigned("<", following, same), body, after)
    builder.position_at_end(after)


@dataclass
class Words:
    """A vector of words, one of each row, that a program is written with."""

    builder: ir.IRBuilder
    value: ir.Value

    def _like(self, value):
        return Words(self.builder, value)

    def _other(self, other):
        return other.value if isinstance(other, Words) else self.constant(other)

    @property
    def rows(self):
        return self.value.type.count

    def constant(self, number):
        """Return a number in each word."""
        return constant(self.value.type, number)

    def __and__(self, other):
        return self._like(self.builder.and_(self.value, self._other(other)))

    def __or__(self, other):
        return self._like(self.builder.or_(self.value, self._other(other)))

    def __xor__(self, other):
        return self._like(self.builder.xor(self.value, self._other(other)))

    def __lshift__(self, bits):
        return self._like(self.builder.shl(self.value, self.constant(bits))) if bits else self

    def __rshift__(self, bits):
        return self._like(self.builder.lshr(self.value, self.constant(bits))) if bits else self

    def minus_bytes(self, amount):
        """Subtract from each byte."""
        value = self.builder.sub(self.bytes, constant(bytes_of(self.rows), amount))
        return self._like(words_in(self.builder, value))

    @property
    def bytes(self):
        """The same bits as bytes, four of each row."""
        return self.builder.bitcast(self.value, bytes_of(self.rows))

    def byte(self, i):
        """Return byte i of each word, which is not negative, as an int32."""
        return (self >> 8 * i) & 0xFF if i < 3 else self >> 24

    def signed_byte(self, i):
        """Return byte i of each word as an int32 with its sign."""
        moved = self << (24 - 8 * i)
        return self._like(self.builder.ashr(moved.value, self.constant(24)))

    def spread(self, i):
        """Repeat byte i of each word in all four."""
        return self._like(words_in(self.builder, self._pick([i] * 4)))

    def _pick(self, picks):
        """Return bytes: for each word those of its four that `picks` numbers; 4 stands for zero."""
        zeros = constant(bytes_of(self.rows), 0)
        lanes = [4 * r + pick if pick < 4 else 4 * self.rows for r in range(self.rows) for pick in picks]
        return shuffle(self.builder, self.bytes, zeros, lanes)

    def _pick_pairs(self, picks):
        return self.builder.bitcast(self._pick(picks), pairs_of(self.rows))

    def pairs(self, i, signed=False):
        """Return byte i of each word twice, as two int16."""
        if not signed:
            return self._pick_pairs([i, 4, i, 4])
        high = self._pick_pairs([4, i, 4, i])
        return self.builder.ashr(high, constant(high.type, 8))

    def two(self, i, signed=False):
        """Return bytes i and i + 1 of each word as two int16."""
        if not signed:
            return self._pick_pairs([i, 4, i + 1, 4])
        high = self._pick_pairs([4, i, 4, i + 1])
        return self.builder.ashr(high, constant(high.type, 8))

    def select_bits(self, mask_bytes, value):
        """Return `value` in each byte that has the bit of its mask, by position in the word; else 0."""
        kind = bytes_of(self.rows)
        mask, zeros = constant(kind, list(mask_bytes) * self.rows), constant(kind, 0)
        hit = self.builder.icmp_unsigned("!=", self.builder.and_(self.bytes, mask), zeros)
        return self._like(words_in(self.builder, self.builder.select(hit, constant(kind, value), zeros)))

    def halves(self):
        """Return the low two bytes of each word, a float16, as float32."""
        bits = self.builder.trunc(self.value, ir.VectorType(I16, self.rows))
        halves = self.builder.bitcast(bits, ir.VectorType(HALF, self.rows))
        return self.builder.fpext(halves, floats_of(self.rows))

    def as_floats(self):
        """Take the bits of each word for a float32."""
        return self.builder.bitcast(self.value, floats_of(self.rows))

    def to_floats(self):
        """Return each word, an int32, as float32."""
        return self.builder.sitofp(self.value, floats_of(self.rows))


class Rows:
    """Blocks of weights, one of each row, in memory; `words` brings some of their bytes.

    They are loaded in the order in which they are asked for first, and that should be the order of memory:
    a Zen 4 reads Q6_K 1.3 times as fast if the scales, a block's last bytes, are not the first; 1.1 times
    where the next rows were asked for.
    """

    def __init__(self, builder, isa, address, row_bytes, size, rows=ROWS):
        """`address` is that of the first row's block, the others lie row_bytes apart; `size` in bytes."""
        self.builder, self.isa, self.size = builder, isa, size
        self.starts = [builder.add(address, builder.mul(row_bytes, I64(i))) for i in range(0, rows, 4)]
        self.steps = [builder.mul(row_bytes, I64(i)) for i in range(4)]
        self.chunks = {}

    def chunk(self, offset):
        """Return 16 bytes of each row as four Words."""
        if offset not in self.chunks:
            rows = [self._load(i, offset) for i in range(4)]
            self.chunks[offset] = [Words(self.builder, w) for w in transpose(self.builder, rows)]
        return self.chunks[offset]

    def words(self, offset, count):
        """Return `count` words, a multiple of four, from byte `offset` on."""
        return [word for i in range(0, count, 4) for word in self.chunk(offset + 4 * i)]

    def word(self, offset):
        """Return the 4 bytes at `offset`; from the block's last 16 bytes if there are not 16 more."""
        start = min(offset, self.size - 16)
        i, bits = divmod(offset - start, 4)
        low = self.chunk(start)[i] >> 8 * bits
        return low if not bits or i == 3 else low | self.chunk(start)[i + 1] << 32 - 8 * bits

    def half(self, offset):
        """Return the float16 at `offset` as float32."""
        return self.word(offset).halves()

    def _load(self, i, offset):
        parts = []
        for start in self.starts:
            at = self.builder.gep(self.builder.inttoptr(start, I8.as_pointer()), [self.steps[i]])
            at = self.builder.gep(at, [I64(offset)])
            parts.append(self.builder.load(self.builder.bitcast(at, CHUNK.as_pointer()), align=1))
        return join(self.builder, parts)


def merge(builder, a, b, lanes):
    """Return, for each 16 bytes, the words that `lanes` numbers: 0 to 3 are those of a, 4 to 7 of b."""
    words, fours = a.type.count, range(0, a.type.count, 4)
    return shuffle(builder, a, b, [four + i % 4 + (words if i > 3 else 0) for four in fours for i in lanes])


def transpose(builder, rows):
    """Turn 4 x 4 words within each 16 bytes of four vectors."""
    a, b, c, d = rows
    low, high = (0, 4, 1, 5), (2, 6, 3, 7)
    first, last = (0, 1, 4, 5), (2, 3, 6, 7)
    ab, cd = ([merge(builder, *two, lanes) for lanes in (low, high)] for two in ((a, b), (c, d)))
    return [merge(builder, ab[half], cd[half], lanes) for half in range(2) for lanes in (first, last)]


def lookup(builder, isa, table, words):
    """Return bytes of a table of 16, int8, that the bytes of `words`, at most 15, number."""
    values = constant(bytes_of(words.rows), [int(v) & 0xFF for v in table] * (words.rows // 4))
    found = isa.in_registers(builder, isa.lookup, values.type, [values, words.bytes])
    return Words(builder, words_in(builder, found))


# --- Products ---------------------------------------------------------------------------------------------


class Isa:
    """How one instruction set multiplies codes of some rows of weights by those of a row of x.

    code    a vector of 4 bytes of each row of weights: uint8 <= largest; where `largest` is 128, int8
    four    the four bytes of x, int8, that belong to it, as often as there are rows of weights
    sum     of such products, as the dot instruction leaves them
    total   of sums, each times the scale of its group: int32, or float32

    There are `rows` rows of weights while they are unpacked, ROWS in a panel.
    """

    name: str
    rows: int
    register_bytes: int
    lookup: str  # LLVM's name of the instruction
    tile: int  # rows of x that share what lies unpacked in memory
    signed: bool  # is it as fast with int8 as with uint8?
    in_order: bool = True  # are registers few, so that LLVM must be told the order of products?
    has_bf16: bool = False  # does it multiply pairs of bfloat16?
    shares: int = 1  # rows of x whose products a sum of `multiply_tile` holds, mixed
    lanes: int  # float32 in a register
    sums: int  # registers for sums of products of floats, with enough left for what is multiplied
    register: str = "v"  # any of them, as LLVM's inline assembly names it

    def at_once(self, largest):
        """Return how many vectors of codes one sum can take."""
        return 64

    def in_registers(self, builder, name, result, args):
        """Call an intrinsic on each register of its arguments, and join the results."""
        return in_parts(builder, size_of(args[0].type) // self.register_bytes, name, result, args)

    def zero_sum(self, rows):
        return constant(words_of(rows), 0)

    def multiply_add(self, builder, total, code, four, largest):
        """Return a sum plus the products of a vector of codes."""

    def multiply_tile(self, builder, total, code, four, largest):
        """The same for codes that lie unpacked in memory; with two rows of x a sum, all three are mixed."""
        return self.multiply_add(builder, total, code, four, largest)

    def mix(self, builder, vectors):
        """Mix as many vectors of words as rows of x share a sum; return as many."""
        return vectors

    def unmix(self, builder, vectors):
        """Undo `mix`."""
        return vectors

    def to_words(self, builder, total):
        """Return a sum as int32 of each row of weights."""
        return total

    def scale(self, builder, words, i, signed):
        """Return byte i of each word as `add_scaled` wants its scales."""

    def zero_total(self, rows):
        """Return what a total of `add_scaled` begins with."""
        return constant(words_of(rows), 0)

    def add_scaled(self, builder, total, products, scale):
        """Return a total plus a sum times the scales."""

    def to_floats(self, builder, total):
        """Return a total of `add_scaled` as float32."""
        return builder.sitofp(total, floats_of(total.type.count))

    def add_pairs(self, builder, total, pairs, sums):
        """Return total, int32, plus two int16 of each row of weights times two of x."""


class Avx512(Isa):
    """AVX-512 with VNNI: 64 products and 16 sums in one instruction."""

    name, tile, signed = "avx512", 8, False
    rows, register_bytes, lookup, in_order = 16, 64, "llvm.x86.avx512.pshuf.b.512", False
    lanes, sums = 16, 16

    def multiply_add(self, builder, total, code, four, largest):
        return self._dot(builder, "vpdpbusd", total, code, four)

    def scale(self, builder, words, i, signed):
        return (words.signed_byte(i) if signed else words.byte(i)).to_floats()

    def zero_total(self, rows):
        return constant(floats_of(rows), 0.0)

    def add_scaled(self, builder, total, products, scale):
        return fma(builder, builder.sitofp(products, total.type), scale, total)

    def to_floats(self, builder, total):
        return total

    def add_pairs(self, builder, total, pairs, sums):
        return self._dot(builder, "vpdpwssd", total, pairs, sums)

    def _dot(self, builder, instruction, total, a, b):
        args = [total, words_in(builder, a), words_in(builder, b)]
        name = f"llvm.x86.avx512.{instruction}.{8 * self.register_bytes}"
        return self.in_registers(builder, name, total.type, args)


class Avx512Bf16(Avx512):
    """The same, and 32 products of bfloat16: two to each float32. x is rounded to bfloat16 for them."""

    name, has_bf16 = "avx512bf16", True
    bf16 = ir.VectorType(BFloat(), 32)

    def round_to_bf16(self, builder, low, high):
        """Return two registers of float32, rounded to nearest even, as one; what has no normal float32: 0."""
        return call(builder, "llvm.x86.avx512bf16.cvtne2ps2bf16.512", self.bf16, [high, low])

    def add_bf16(self, builder, total, a, b):
        """Return a total, float32, plus the products of two pairs in each lane."""
        return call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", total.type, [total, a, b])


class AvxVnni(Avx512):
    """AVX2 with VNNI: the same instructions on 32 bytes. They do not saturate, as those of AVX2 could."""

    name, tile = "avxvnni", 4
    rows, register_bytes, lookup, in_order = 8, 32, "llvm.x86.avx2.pshuf.b", True
    lanes, sums = 8, 8


class Avx2(Isa):
    """AVX2: 32 products and 16 sums in one instruction, of 16 bits, so that only some can be added up."""

    name, tile, signed = "avx2", 4, True
    rows, register_bytes, lookup = 8, 32, "llvm.x86.avx2.pshuf.b"
    lanes, sums = 8, 8

    def at_once(self, largest):
        return products_in_16_bits(largest)

    def zero_sum(self, rows):
        return constant(pairs_of(rows), 0)

    def multiply_add(self, builder, total, code, four, largest):
        """Add two products in each int16. The sign of an int8 code moves over to x."""
        if largest == 128:
            four = self.in_registers(builder, "llvm.x86.avx2.psign.b", four.type, [four, code])
            name, wraps = f"llvm.abs.v{code.type.count}i8", ir.Constant(ir.IntType(1), 0)
            code = call(builder, name, code.type, [code, wraps])
        pairs = self.in_registers(builder, "llvm.x86.avx2.pmadd.ub.sw", total.type, [code, four])
        return builder.add(total, pairs)

    def to_words(self, builder, total):
        return self._join_pairs(builder, total, constant(total.type, 1))

    def scale(self, builder, words, i, signed):
        return words.pairs(i, signed)

    def add_scaled(self, builder, total, products, scale):
        return builder.add(total, self._join_pairs(builder, products, scale))

    def add_pairs(self, builder, total, pairs, sums):
        return builder.add(total, self._join_pairs(builder, pairs, sums))

    def _join_pairs(self, builder, pairs, factors):
        result = words_of(pairs.type.count // 2)
        return self.in_registers(builder, "llvm.x86.avx2.pmadd.wd", result, [pairs, factors])


def products_in_16_bits(largest: int) -> int:
    """Return how many times two products of a code, at most `largest`, and a byte of x fit an int16."""
    return 32767 // (2 * largest * 127)


class Neon(Isa):
    """ARM with the dot product extension: 16 products and 4 sums in one instruction."""

    name, tile, signed = "neon", 4, True
    rows, register_bytes, lookup = 8, 16, "llvm.aarch64.neon.tbl1.v16i8"
    lanes, sums, register = 4, 16, "w"

    def multiply_add(self, builder, total, code, four, largest):
        name = "llvm.aarch64.neon.sdot.v4i32.v16i8"
        return self.in_registers(builder, name, total.type, [total, code, four])

    def scale(self, builder, words, i, signed):
        return (words.signed_byte(i) if signed else words.byte(i)).value

    def add_scaled(self, builder, total, products, scale):
        return builder.add(total, builder.mul(products, scale))

    def add_pairs(self, builder, total, pairs, sums):
        for part in range(2):
            lanes = [2 * r + part for r in range(total.type.count)]
            a, b = (shuffle(builder, v, undefined(v.type), lanes) for v in (pairs, sums))
            product = builder.mul(builder.sext(a, total.type), builder.sext(b, total.type))
            total = builder.add(total, product)
        return total


class I8mm(Neon):
    """ARM with int8 matrix multiplication: twice the products in one instruction, where rows go in pairs.

        codes    row 0  q0 ... q7     smmla      sum   row 0 of w: with x, with y;  row 1: with x, with y
                 row 1  r0 ... r7   -------->
        x        row x  x0 ... x7
                 row y  y0 ... y7

    So 8 bytes of each row must lie side by side, where all else here has 4, and sums of two rows of x come
    out of it alternating. Both are the same mixing of two vectors, and of a scale with itself. To panels it
    is done once; while unpacking for few rows it would cost what it saves, so they are left to `sdot`.
    LLVM's models make the tiles of Neoverse V1 and N2 and of Apple's M2 1.2 to 1.45 times as fast.
    """

    name, shares = "i8mm", 2

    def multiply_tile(self, builder, total, code, four, largest):
        name = "llvm.aarch64.neon.smmla.v4i32.v16i8"
        return self.in_registers(builder, name, total.type, [total, code, four])

    def mix(self, builder, vectors):
        return [merge(builder, *vectors, lanes) for lanes in ((0, 4, 1, 5), (2, 6, 3, 7))]

    def unmix(self, builder, vectors):
        return [merge(builder, *vectors, lanes) for lanes in ((0, 2, 4, 6), (1, 3, 5, 7))]


def fma(builder, a, b, c):
    """Return a * b + c, float32, rounded once."""
    return call(builder, f"llvm.fma.v{a.type.count}f32", a.type, [a, b, c])


ISAS = {isa.name: isa for isa in (Avx512Bf16(), Avx512(), AvxVnni(), Avx2(), I8mm(), Neon())}
