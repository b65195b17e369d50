"""Vectors in Numba: values of 64 bytes that live in one CPU register, and the instructions that dot them.

    Bytes    64 x 8 bits      codes, unsigned; activations, signed
    Pairs    32 x int16       dot_pairs(q, x):        q0*x0 + q1*x1 for each two neighbours
    Ints     16 x int32       add_scaled_pairs(...):  + p0*s0 + p1*s1
                              add_quads(...):         + q0*x0 + q1*x1 + q2*x2 + q3*x3
    Floats   16 x float32     multiply_add(a, b, c):  a*b + c

Each function here is one or a few machine instructions. LLVM does not find them by itself in loops over
bytes, so they are asked for by name. Where they differ between CPUs, the first argument chooses:

    AVX512   AVX-512 with VNNI   vpdpbusd, vpdpwssd, vpmaddubsw on 64 bytes
    AVX2     AVX2                vpmaddubsw, vpmaddwd on 32 bytes, twice

Nothing is checked: a load reads 64 bytes wherever it is told to.
Sources: Intel Intrinsics Guide; LLVM `llvm.x86.*` intrinsics.
"""

from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from blocks2tokens.jit.lanes import (
    F32,
    HALF,
    I8,
    I16,
    I32,
    I64,
    Rows,
    call,
    constant,
    in_parts,
    load,
    pointer,
    splat,
)


class Vector(types.Type):
    """A vector of `lanes` numbers as a type of Numba's; `element` is "i8", "i16", "i32" or "f32"."""

    def __init__(self, element: str, lanes: int):
        self.element, self.lanes = element, lanes
        super().__init__(f"Vector({element} x {lanes})")

    @property
    def llvm_type(self):
        return ir.VectorType({"i8": I8, "i16": I16, "i32": I32, "f32": F32}[self.element], self.lanes)


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    def __init__(self, manager, vector):
        super().__init__(manager, vector, vector.llvm_type)


BYTES, PAIRS, INTS, FLOATS = Vector("i8", 64), Vector("i16", 32), Vector("i32", 16), Vector("f32", 16)


# --- Which CPU --------------------------------------------------------------------------------------------


class Avx512(NamedTuple):
    """Chooses AVX-512 with VNNI, by its type alone."""

    bits: int


class Avx2(NamedTuple):
    """Chooses AVX2, by its type alone."""

    bits: int


LOG2_E, LN2_HIGH, LN2_LOW = 1.442695041, 0.693359375, -2.12194440e-4  # the last two: ln 2, in two parts
EXP_TERMS = (
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
)

INSTRUCTION_SETS = {
    "avx512": Avx512(512),
    "avxvnni": Avx2(256),
    "avx2": Avx2(256),
    "i8mm": None,
    "neon": None,
    "plain": None,
}


# --- Loads and constants ----------------------------------------------------------------------------------


def address(context, builder, base_type, base, offset, llvm_type):
    """Return a pointer to byte `offset` of an array's data, or behind an address, as one to llvm_type."""
    if isinstance(base_type, types.Integer):
        data = builder.inttoptr(base, I8.as_pointer())
    else:
        data = builder.bitcast(context.make_array(base_type)(context, builder, base).data, I8.as_pointer())
    return builder.bitcast(builder.gep(data, [offset]), llvm_type.as_pointer())


@intrinsic
def address_of(typingctx, array):
    """Return the address of an array's first byte.

    Every load here takes an address in the place of an array. Numba counts the references to an array in
    every function that it is handed to, which costs more than some of the loops below; a number it does
    not count. But Numba also frees an array after its last use and knows nothing of its address: ask for
    addresses of arguments only, which the caller keeps alive.
    """

    def codegen(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.ptrtoint(data, context.get_value_type(types.intp))

    return types.intp(array), codegen


def loader(name, vector, doc):
    """Make an intrinsic that loads a vector from byte `offset` of an array."""

    def load(typingctx, array, offset):
        def codegen(context, builder, signature, args):
            at = address(context, builder, signature.args[0], *args, vector.llvm_type)
            return builder.load(at, align=1)

        return vector(array, types.intp), codegen

    load.__name__, load.__doc__ = name, doc
    return intrinsic(load)


load_bytes = loader("load_bytes", BYTES, "Load 64 bytes from byte `offset` of an array.")
load_floats = loader("load_floats", FLOATS, "Load 16 float32 from byte `offset` of an array.")
load_8_floats = loader("load_8_floats", Vector("f32", 8), "Load 8 float32 from byte `offset` of an array.")


def widening_loader(name, widen, doc):
    """Make an intrinsic that loads 16 bytes from byte `offset` and makes 16 float32 of them."""

    def load(typingctx, array, offset):
        def codegen(context, builder, signature, args):
            few = ir.VectorType(I8, 16)
            at = address(context, builder, signature.args[0], *args, few)
            return widen(builder, builder.load(at, align=1))

        return FLOATS(array, types.intp), codegen

    load.__name__, load.__doc__ = name, doc
    return intrinsic(load)


def widen_int8s(builder, few):
    return builder.sitofp(builder.sext(few, INTS.llvm_type), FLOATS.llvm_type)


def widen_low_nibbles(builder, few):
    return widen_nibbles(builder, builder.and_(few, constant(few.type, 15)))


def widen_high_nibbles(builder, few):
    return widen_nibbles(builder, builder.lshr(few, constant(few.type, 4)))


def widen_nibbles(builder, few):
    """Return codes 0..15 as float32 -8..7."""
    return widen_int8s(builder, builder.sub(few, constant(few.type, 8)))


load_int8s = widening_loader("load_int8s", widen_int8s, "Load 16 int8 as float32.")
load_low_nibbles = widening_loader(
    "load_low_nibbles", widen_low_nibbles, "Load 16 bytes; return their low nibbles less 8 as float32."
)
load_high_nibbles = widening_loader(
    "load_high_nibbles", widen_high_nibbles, "Load 16 bytes; return their high nibbles less 8 as float32."
)


@intrinsic
def load_u32(typingctx, array, offset):
    """Load 4 bytes as uint32. (An index of Numba's may count from the end, and asks every time.)"""

    def codegen(context, builder, signature, args):
        return builder.load(address(context, builder, signature.args[0], *args, I32), align=1)

    return types.uint32(array, types.intp), codegen


@intrinsic
def load_float(typingctx, array, offset):
    """Load a float32."""

    def codegen(context, builder, signature, args):
        return builder.load(address(context, builder, signature.args[0], *args, F32), align=1)

    return types.float32(array, types.intp), codegen


@intrinsic
def load_half(typingctx, array, offset):
    """Load a float16 as float32."""

    def codegen(context, builder, signature, args):
        half = builder.load(address(context, builder, signature.args[0], *args, HALF), align=1)
        return builder.fpext(half, F32)

    return types.float32(array, types.intp), codegen


@intrinsic
def load_halves(typingctx, array, offset):
    """Load 16 float16 as float32."""

    def codegen(context, builder, signature, args):
        halves = ir.VectorType(HALF, 16)
        at = address(context, builder, signature.args[0], *args, halves)
        return builder.fpext(builder.load(at, align=1), FLOATS.llvm_type)

    return FLOATS(array, types.intp), codegen


@intrinsic
def prefetch(typingctx, array, offset):
    """Ask for the line with byte `offset` of an array, to the second-level cache; it may lie anywhere."""

    def codegen(context, builder, signature, args):
        at = address(context, builder, signature.args[0], *args, I8)
        function_type = ir.FunctionType(ir.VoidType(), [at.type, I32, I32, I32])
        function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")
        builder.call(function, [at, I32(0), I32(2), I32(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), codegen


@intrinsic
def repeat_quad(typingctx, array, offset):
    """Load 4 bytes and repeat them 16 times."""

    def codegen(context, builder, signature, args):
        quad = builder.load(address(context, builder, signature.args[0], *args, I32), align=1)
        return builder.bitcast(splat(builder, quad, 16), BYTES.llvm_type)

    return BYTES(array, types.intp), codegen


@intrinsic
def zero_ints(typingctx):
    """Return 16 times 0."""
    return INTS(), lambda context, builder, signature, args: constant(INTS.llvm_type, 0)


@intrinsic
def zero_floats(typingctx):
    """Return 16 times 0.0."""
    return FLOATS(), lambda context, builder, signature, args: constant(FLOATS.llvm_type, 0.0)


@intrinsic
def zeros_like(typingctx, vector):
    """Return a vector of as many 0.0."""
    return vector(vector), lambda context, builder, signature, args: constant(args[0].type, 0.0)


@intrinsic
def repeat_float(typingctx, value, vector):
    """Repeat a float32 in as many lanes as `vector` has."""

    def codegen(context, builder, signature, args):
        return splat(builder, args[0], args[1].type.count)

    return vector(types.float32, vector), codegen


# --- Bits -------------------------------------------------------------------------------------------------


@intrinsic
def low_nibbles(typingctx, bytes_):
    """Return the low four bits of each byte."""

    def codegen(context, builder, signature, args):
        return builder.and_(args[0], constant(BYTES.llvm_type, 15))

    return BYTES(BYTES), codegen


@intrinsic
def high_nibbles(typingctx, bytes_):
    """Return the high four bits of each byte."""

    def codegen(context, builder, signature, args):
        return builder.lshr(args[0], constant(BYTES.llvm_type, 4))

    return BYTES(BYTES), codegen


@intrinsic
def flip_sign(typingctx, bytes_):
    """Return int8 + 128 as unsigned bytes."""

    def codegen(context, builder, signature, args):
        return builder.xor(args[0], constant(BYTES.llvm_type, 128))

    return BYTES(BYTES), codegen


def eight_bytes(builder, packed):
    return builder.bitcast(packed, ir.VectorType(I8, 8))


@intrinsic
def repeat_bytes(typingctx, packed):
    """Repeat the 8 bytes of a uint64 in a vector of bytes."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(splat(builder, args[0], 8), BYTES.llvm_type)

    return BYTES(types.uint64), codegen


@intrinsic(prefer_literal=True)
def pick_scales(typingctx, table, first, second):
    """Repeat bytes number `first` and `second` of a vector's first 8, each in 16 lanes of int16.

    Each 16 bytes of the table hold them, so that no byte has to travel further: the quickest shuffle.
    """
    picks = [first.literal_value] * 16 + [second.literal_value] * 16
    lanes = [at for i, pick in enumerate(picks) for at in (pick + i // 8 * 16, 64)]

    def codegen(context, builder, signature, args):
        zeros = constant(BYTES.llvm_type, 0)
        mask = ir.Constant(ir.VectorType(I32, 64), lanes)
        return builder.bitcast(builder.shuffle_vector(args[0], zeros, mask), PAIRS.llvm_type)

    return PAIRS(BYTES, first, second), codegen


@intrinsic
def bytes_to_floats(typingctx, packed):
    """Return the 8 bytes of a uint64 as 8 float32."""
    vector = Vector("f32", 8)

    def codegen(context, builder, signature, args):
        wide = builder.zext(eight_bytes(builder, args[0]), ir.VectorType(I32, 8))
        return builder.sitofp(wide, vector.llvm_type)

    return vector(types.uint64), codegen


# --- Arithmetic -------------------------------------------------------------------------------------------


@intrinsic
def dot_pairs(typingctx, isa, codes, x):
    """Multiply unsigned codes, at most 127, by signed bytes and add neighbours: int16 [32]."""

    def codegen(context, builder, signature, args):
        return pair_dots(builder, signature.args[0], *args[1:])

    return PAIRS(isa, BYTES, BYTES), codegen


def pair_dots(builder, isa, codes, x):
    if isa.instance_class is Avx512:
        return call(builder, "llvm.x86.avx512.pmaddubs.w.512", PAIRS.llvm_type, [codes, x])
    return in_parts(builder, 2, "llvm.x86.avx2.pmadd.ub.sw", PAIRS.llvm_type, [codes, x])


@intrinsic
def add_scaled_pairs(typingctx, isa, total, pairs, scales):
    """Add to each int32 of `total` the dot product of two int16 of `pairs` with two of `scales`."""

    def codegen(context, builder, signature, args):
        return scaled_pairs(builder, signature.args[0], *args[1:])

    return INTS(isa, INTS, PAIRS, PAIRS), codegen


def scaled_pairs(builder, isa, total, pairs, scales):
    if isa.instance_class is Avx512:
        factors = [builder.bitcast(v, INTS.llvm_type) for v in (pairs, scales)]
        return call(builder, "llvm.x86.avx512.vpdpwssd.512", INTS.llvm_type, [total, *factors])
    return builder.add(total, in_parts(builder, 2, "llvm.x86.avx2.pmadd.wd", INTS.llvm_type, [pairs, scales]))


@intrinsic
def add_quads(typingctx, isa, total, codes, x):
    """Add to each int32 of `total` the dot product of four unsigned codes with four signed bytes.

    AVX2 has no such instruction: two products of 255 * 127 do not fit 16 bits, so the top bit goes apart.
    """

    def codegen(context, builder, signature, args):
        isa, (_, total, codes, x) = signature.args[0], args
        if isa.instance_class is Avx512:
            factors = [builder.bitcast(v, INTS.llvm_type) for v in (codes, x)]
            return call(builder, "llvm.x86.avx512.vpdpbusd.512", INTS.llvm_type, [total, *factors])
        low = builder.and_(codes, constant(BYTES.llvm_type, 127))
        top = builder.lshr(codes, constant(BYTES.llvm_type, 7))
        for part, weight in ((low, 1), (top, 128)):
            pairs = pair_dots(builder, isa, part, x)
            total = scaled_pairs(builder, isa, total, pairs, constant(PAIRS.llvm_type, weight))
        return total

    return INTS(isa, INTS, BYTES, BYTES), codegen


@intrinsic
def to_floats(typingctx, ints):
    """Convert 16 int32 to float32."""

    def codegen(context, builder, signature, args):
        return builder.sitofp(args[0], FLOATS.llvm_type)

    return FLOATS(INTS), codegen


@intrinsic
def multiply(typingctx, a, b):
    """Return a * b, vectors of float32."""
    return a(a, b), lambda context, builder, signature, args: builder.fmul(*args)


@intrinsic
def multiply_add(typingctx, a, b, c):
    """Return a * b + c, vectors of float32, rounded once."""

    def codegen(context, builder, signature, args):
        return call(builder, f"llvm.fma.v{c.lanes}f32", c.llvm_type, args)

    return c(a, b, c), codegen


@intrinsic
def add_floats(typingctx, a, b):
    """Return a + b, vectors of float32."""
    return a(a, b), lambda context, builder, signature, args: builder.fadd(*args)


@intrinsic
def larger(typingctx, a, b):
    """Return the larger of each two float32; where a has NaN, b's."""

    def codegen(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered(">", *args), *args)

    return a(a, b), codegen


@intrinsic
def exp_floats(typingctx, x):
    """Return e to the x of 16 float32 that are at most 0, within two units in the last place.

    What `compiled_layers.exp` does: below -87 about 0, and NaN stays NaN.
    """

    def codegen(context, builder, signature, args):
        kind = args[0].type
        low = constant(kind, -87.0)
        x = builder.select(builder.fcmp_ordered("<", args[0], low), low, args[0])
        return exp_of(builder, x)

    return x(x), codegen


def exp_of(builder, x):
    """Write e to the x: x = n ln 2 + r, and e^r is a polynomial. Source of that: Cephes `expf`."""
    kind, ints = x.type, ir.VectorType(I32, x.type.count)

    def fma(a, b, c):
        return call(builder, f"llvm.fma.v{kind.count}f32", kind, [a, b, c])

    n = call(builder, f"llvm.rint.v{kind.count}f32", kind, [builder.fmul(x, constant(kind, LOG2_E))])
    r = fma(n, constant(kind, -LN2_LOW), fma(n, constant(kind, -LN2_HIGH), x))
    p = constant(kind, EXP_TERMS[0])
    for term in EXP_TERMS[1:]:
        p = fma(p, r, constant(kind, term))
    p = fma(p, builder.fmul(r, r), builder.fadd(r, constant(kind, 1.0)))
    power = builder.add(builder.fptosi(n, ints), constant(ints, 127))
    return builder.fmul(p, builder.bitcast(builder.shl(power, constant(ints, 23)), kind))


def tile_product(rows: int, vectors: int):
    """Make the product of a tile: c += a @ b, for `rows` rows of a and c, `vectors` vectors in b's and c's.

    All sums stay in registers until the last of n rows of b. Arguments: address and bytes from a row to
    the next, of a, of b (there also from a vector to the next), n, and of c.
    """

    @intrinsic
    def multiply(typingctx, a, a_row, b, b_row, b_vector, n, c, c_row):
        def codegen(context, builder, signature, args):
            a, a_row, b, b_row, b_vector, n, c, c_row = args
            kind, at = FLOATS.llvm_type, I64
            cells = [(row, v) for row in range(rows) for v in range(vectors)]
            offsets = [builder.add(builder.mul(c_row, at(row)), at(64 * v)) for row, v in cells]
            sums = [cgutils.alloca_once(builder, kind) for _ in cells]  # LLVM makes registers of them
            for place, offset in zip(sums, offsets, strict=True):
                builder.store(load(builder, c, offset, kind), place)
            with cgutils.for_range(builder, n) as loop:
                start = builder.mul(loop.index, b_row)
                b_at = [builder.add(start, builder.mul(b_vector, at(v))) for v in range(vectors)]
                b_values = [load(builder, b, offset, kind) for offset in b_at]
                for row in range(rows):
                    a_at = builder.add(builder.mul(a_row, at(row)), builder.mul(loop.index, at(4)))
                    x = splat(builder, load(builder, a, a_at, F32), 16)
                    for v in range(vectors):
                        place = sums[row * vectors + v]
                        fma = [x, b_values[v], builder.load(place)]
                        builder.store(call(builder, "llvm.fma.v16f32", kind, fma), place)
            for place, offset in zip(sums, offsets, strict=True):
                builder.store(builder.load(place), pointer(builder, c, offset, kind), align=1)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8), codegen

    return multiply


@intrinsic
def most(typingctx, vector):
    """Return the largest of a vector's float32, none of which is NaN."""

    def codegen(context, builder, signature, args):
        name = f"llvm.vector.reduce.fmax.v{vector.lanes}f32"
        function_type = ir.FunctionType(F32, [args[0].type])
        function = cgutils.get_or_insert_function(builder.module, function_type, name)
        return builder.call(function, args, fastmath=("nnan",))

    return types.float32(vector), codegen


@intrinsic
def total(typingctx, vector):
    """Return the sum of a vector's float32."""

    def codegen(context, builder, signature, args):
        function_type = ir.FunctionType(F32, [F32, args[0].type])
        name = f"llvm.vector.reduce.fadd.v{vector.lanes}f32"
        function = cgutils.get_or_insert_function(builder.module, function_type, name)
        return builder.call(function, [ir.Constant(F32, 0.0), args[0]], fastmath=("reassoc",))

    return types.float32(vector), codegen


@intrinsic(prefer_literal=True)
def largest_bits(typingctx, array, offset, count):
    """Return the largest magnitude of `count` float32, a literal multiple of 16, as its bits, uint32.

    The bits of infinity and NaN are larger than those of all numbers.
    """
    n, words = count.literal_value // 16, ir.VectorType(I32, 16)

    def codegen(context, builder, signature, args):
        most = None
        for i in range(n):
            at = builder.add(args[1], ir.Constant(args[1].type, 64 * i))
            place = address(context, builder, signature.args[0], args[0], at, words)
            bits = builder.and_(builder.load(place, align=1), constant(words, 0x7FFFFFFF))
            most = bits if most is None else call(builder, "llvm.umax.v16i32", words, [most, bits])
        return call(builder, "llvm.vector.reduce.umax.v16i32", I32, [most])

    return types.uint32(array, types.intp, count), codegen


@intrinsic
def round_16(typingctx, array, offset, factor, codes, to):
    """Round 16 float32 at `offset` times a factor to int8, at byte `to` of codes; return their sum."""

    def codegen(context, builder, signature, args):
        floats, words = ir.VectorType(F32, 16), ir.VectorType(I32, 16)
        x = builder.load(address(context, builder, signature.args[0], *args[:2], floats), align=1)
        product = builder.fmul(x, splat(builder, args[2], x.type.count))
        whole = builder.fptosi(call(builder, "llvm.rint.v16f32", floats, [product]), words)
        few = builder.trunc(whole, ir.VectorType(I8, 16))
        builder.store(few, address(context, builder, signature.args[3], *args[3:], few.type), align=1)
        return call(builder, "llvm.vector.reduce.add.v16i32", I32, [whole])

    return types.int32(array, types.intp, types.float32, codes, types.intp), codegen


@intrinsic
def store(typingctx, array, offset, vector):
    """Store a vector at byte `offset` of an array."""

    def codegen(context, builder, signature, args):
        at = address(context, builder, signature.args[0], args[0], args[1], args[2].type)
        builder.store(args[2], at, align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), codegen


@intrinsic
def store_float(typingctx, array, offset, value):
    """Store a float32 at byte `offset` of an array."""

    def codegen(context, builder, signature, args):
        at = address(context, builder, signature.args[0], args[0], args[1], F32)
        builder.store(args[2], at, align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.float32), codegen


# --- Tables ------------------------------------------------------------------------------------------------


@njit
def packed_scales(raw, at):
    """Return the 8 scales and the 8 minimums of Q4_K and Q5_K as the bytes of two uint64."""
    a, b, c = load_u32(raw, at), load_u32(raw, at + 4), load_u32(raw, at + 8)
    six, four, two = np.uint32(0x3F3F3F3F), np.uint32(0x0F0F0F0F), np.uint32(0x03030303)
    sc = (c & four) | ((a >> np.uint32(6)) & two) << np.uint32(4)
    m = ((c >> np.uint32(4)) & four) | ((b >> np.uint32(6)) & two) << np.uint32(4)
    return join_u64(a & six, sc), join_u64(b & six, m)


@njit
def join_u64(low, high):
    return np.uint64(low) | np.uint64(high) << np.uint64(32)


@intrinsic
def transpose_words(typingctx, rows, at, stride, turned, to):
    """Turn 16 rows of 16 words, `stride` bytes apart, into 16 times (a word of each row)."""

    def codegen(context, builder, signature, args):
        rows, at, stride, turned, to = args
        blocks = Rows(builder, None, builder.add(rows, at), stride, 64)
        for word in range(16):
            place = builder.add(to, ir.Constant(to.type, 64 * word))
            pointer = address(context, builder, signature.args[3], turned, place, INTS.llvm_type)
            builder.store(blocks.words(16 * (word // 4), 4)[word % 4].value, pointer, align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.intp, types.intp, types.int64, types.intp), codegen
