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

import os
from functools import cache
from typing import NamedTuple

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from blocks2tokens.errors import UnsupportedError

I8, I16, I32, F32, HALF = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.FloatType(), ir.HalfType()


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


INSTRUCTION_SETS = {"avx512": Avx512(512), "avx2": Avx2(256), "plain": None}
NEEDS = {"avx512": ("avx512vnni", "avx512bw", "avx512vl"), "avx2": ("avx2", "fma"), "plain": ()}


@cache
def available() -> tuple[str, ...]:
    """Return the names of the instruction sets that this CPU has, fastest first."""
    features = llvm.get_host_cpu_features()
    return tuple(name for name, needed in NEEDS.items() if all(map(features.get, needed)))


def chosen() -> str:
    """Return the instruction set in use: the fastest, or the one that BLOCKS2TOKENS_SIMD names."""
    wanted = os.environ.get("BLOCKS2TOKENS_SIMD", "").lower()
    if not wanted:
        return available()[0]
    if wanted not in NEEDS:
        raise UnsupportedError(f"BLOCKS2TOKENS_SIMD: expected one of {', '.join(NEEDS)}, got {wanted!r}")
    if wanted not in available():
        raise UnsupportedError(f"BLOCKS2TOKENS_SIMD: this CPU has no {wanted}, only {', '.join(available())}")
    return wanted


# How many bytes ahead to ask memory for weights, and where they go (LLVM's "locality"): measured. A Zen 4 is
# quickest with lines that pass its caches by; a Sapphire Rapids reads such lines at less than half its rate.
PASS_BY, TO_L2 = 0, 1
IS_ZEN = llvm.get_host_cpu_name().startswith("znver")
AHEAD, LOCALITY = (3072, PASS_BY) if IS_ZEN else (8192, TO_L2)


def is_avx512(isa):
    return isa.instance_class is Avx512


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
load_4_floats = loader("load_4_floats", Vector("f32", 4), "Load 4 float32 from byte `offset` of an array.")


def shuffle(builder, vector, lanes):
    """Return the lanes of an LLVM vector that a list names, in its order."""
    mask = ir.Constant(ir.VectorType(I32, len(lanes)), lanes)
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)


def constant(llvm_type, values):
    return ir.Constant(llvm_type, values if isinstance(values, list) else [values] * llvm_type.count)


def splat(builder, scalar, lanes):
    one = ir.VectorType(scalar.type, 1)
    return shuffle(builder, builder.insert_element(constant(one, ir.Undefined), scalar, I32(0)), [0] * lanes)


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
def load_2_halves(typingctx, array, offset):
    """Load two float16 as a pair of float32."""

    def codegen(context, builder, signature, args):
        at = address(context, builder, signature.args[0], *args, ir.VectorType(HALF, 2))
        both = builder.fpext(builder.load(at, align=1), ir.VectorType(F32, 2))
        parts = [builder.extract_element(both, I32(i)) for i in range(2)]
        return context.make_tuple(builder, signature.return_type, parts)

    return types.UniTuple(types.float32, 2)(array, types.intp), codegen


@intrinsic
def load_twice(typingctx, array, offset):
    """Load 32 bytes into both halves of a vector of bytes."""

    def codegen(context, builder, signature, args):
        half = builder.load(
            address(context, builder, signature.args[0], *args, ir.VectorType(I8, 32)), align=1
        )
        return shuffle(builder, half, [*range(32)] * 2)

    return BYTES(array, types.intp), codegen


def strided(builder, offset, stride, last, i):
    """Return the offset of part i of several, `stride` bytes apart; behind the last one, that of the last."""
    i = ir.Constant(last.type, i)
    i = builder.select(builder.icmp_signed("<", i, last), i, last)
    return builder.add(offset, builder.mul(stride, i))


@intrinsic(prefer_literal=True)
def load_parts(typingctx, array, offset, stride, first, count, last):
    """Load 64 bytes in `count` equal parts, numbers `first` and on, `stride` bytes apart; see `strided`."""
    numbers = range(first.literal_value, first.literal_value + count.literal_value)
    part = ir.VectorType(I8, 64 // count.literal_value)

    def codegen(context, builder, signature, args):
        array, offset, stride, _, _, last = args
        places = [strided(builder, offset, stride, last, i) for i in numbers]
        pointers = [address(context, builder, signature.args[0], array, at, part) for at in places]
        return join(builder, [builder.load(pointer, align=1) for pointer in pointers])

    return BYTES(array, types.intp, types.intp, first, count, types.intp), codegen


def join(builder, parts):
    """Join 2 or 4 LLVM vectors into one."""
    while len(parts) > 1:
        mask = ir.Constant(ir.VectorType(I32, 2 * parts[0].type.count), [*range(2 * parts[0].type.count)])
        parts = [builder.shuffle_vector(a, b, mask) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def load_four(context, builder, array_type, args, llvm_type):
    """Load four numbers, `stride` bytes apart, as an LLVM vector; see `strided`."""
    array, offset, stride, last = args
    four = ir.Constant(ir.VectorType(llvm_type, 4), ir.Undefined)
    for i in range(4):
        at = strided(builder, offset, stride, last, i)
        value = builder.load(address(context, builder, array_type, array, at, llvm_type), align=1)
        four = builder.insert_element(four, value, I32(i))
    return four


@intrinsic
def load_4_halves(typingctx, array, offset, stride, last):
    """Load four float16, `stride` bytes apart, as 4 float32; see `strided`."""

    def codegen(context, builder, signature, args):
        four = load_four(context, builder, signature.args[0], args, HALF)
        return builder.fpext(four, ir.VectorType(F32, 4))

    return Vector("f32", 4)(array, types.intp, types.intp, types.intp), codegen


@intrinsic
def load_4_pairs(typingctx, array, offset, stride, last):
    """Load four times two float16, `stride` bytes apart: the first and the second ones as 4 float32 each."""
    kind = types.UniTuple(Vector("f32", 4), 2)

    def codegen(context, builder, signature, args):
        four = load_four(context, builder, signature.args[0], args, I32)
        eight = builder.fpext(builder.bitcast(four, ir.VectorType(HALF, 8)), ir.VectorType(F32, 8))
        parts = [shuffle(builder, eight, [*range(i, 8, 2)]) for i in range(2)]
        return context.make_tuple(builder, kind, parts)

    return kind(array, types.intp, types.intp, types.intp), codegen


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


@intrinsic(prefer_literal=True)
def add_bits(typingctx, low, planes, first, second, mask):
    """Return low | ((planes >> shift) & mask) << 4; shift is `first` in half the bytes, then `second`."""
    shifts = [first.literal_value] * 16 + [second.literal_value] * 16
    bits = mask.literal_value

    def codegen(context, builder, signature, args):
        words = builder.bitcast(args[1], PAIRS.llvm_type)
        moved = builder.bitcast(builder.lshr(words, constant(PAIRS.llvm_type, shifts)), BYTES.llvm_type)
        high = builder.and_(moved, constant(BYTES.llvm_type, bits))
        return builder.or_(args[0], builder.shl(high, constant(BYTES.llvm_type, 4)))

    return BYTES(BYTES, BYTES, first, second, mask), codegen


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


@intrinsic(prefer_literal=True)
def repeat_16_scales(typingctx, array, offset, first):
    """Load 16 int8 and repeat numbers `first` to `first` + 3, each in 8 lanes of int16."""
    lanes = [first.literal_value + i // 8 for i in range(32)]

    def codegen(context, builder, signature, args):
        at = address(context, builder, signature.args[0], args[0], args[1], ir.VectorType(I8, 16))
        return builder.sext(shuffle(builder, builder.load(at, align=1), lanes), PAIRS.llvm_type)

    return PAIRS(array, types.intp, first), codegen


@intrinsic
def bytes_to_floats(typingctx, packed):
    """Return the 8 bytes of a uint64 as 8 float32."""
    vector = Vector("f32", 8)

    def codegen(context, builder, signature, args):
        wide = builder.zext(eight_bytes(builder, args[0]), ir.VectorType(I32, 8))
        return builder.sitofp(wide, vector.llvm_type)

    return vector(types.uint64), codegen


@intrinsic
def load_16_int8(typingctx, array, offset):
    """Load 16 int8 as 16 float32."""

    def codegen(context, builder, signature, args):
        at = address(context, builder, signature.args[0], *args, ir.VectorType(I8, 16))
        return builder.sitofp(builder.sext(builder.load(at, align=1), INTS.llvm_type), FLOATS.llvm_type)

    return FLOATS(array, types.intp), codegen


@intrinsic(prefer_literal=True)
def spread(typingctx, four, first, times):
    """Repeat each of 16 / times lanes of 4 float32, from lane `first` on, `times` times."""
    lanes = [first.literal_value + i // times.literal_value for i in range(16)]

    def codegen(context, builder, signature, args):
        return shuffle(builder, args[0], lanes)

    return FLOATS(four, first, times), codegen


# --- Arithmetic -------------------------------------------------------------------------------------------


def call(builder, name, result, args):
    """Call an LLVM intrinsic."""
    function_type = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), args)


def in_halves(builder, name, result, args):
    """Call an intrinsic for 32 bytes on each half of 64-byte vectors, and join the results."""
    parts = []
    for half in range(2):
        cut = [
            shuffle(builder, arg, [*range(half * arg.type.count // 2, (half + 1) * arg.type.count // 2)])
            for arg in args
        ]
        parts.append(call(builder, name, ir.VectorType(result.element, result.count // 2), cut))
    return join(builder, parts)


@intrinsic
def dot_pairs(typingctx, isa, codes, x):
    """Multiply unsigned codes, at most 127, by signed bytes and add neighbours: int16 [32]."""

    def codegen(context, builder, signature, args):
        if is_avx512(signature.args[0]):
            return call(builder, "llvm.x86.avx512.pmaddubs.w.512", PAIRS.llvm_type, args[1:])
        return in_halves(builder, "llvm.x86.avx2.pmadd.ub.sw", PAIRS.llvm_type, args[1:])

    return PAIRS(isa, BYTES, BYTES), codegen


@intrinsic
def add_scaled_pairs(typingctx, isa, total, pairs, scales):
    """Add to each int32 of `total` the dot product of two int16 of `pairs` with two of `scales`."""

    def codegen(context, builder, signature, args):
        _, total, pairs, scales = args
        if is_avx512(signature.args[0]):
            factors = [builder.bitcast(v, INTS.llvm_type) for v in (pairs, scales)]
            return call(builder, "llvm.x86.avx512.vpdpwssd.512", INTS.llvm_type, [total, *factors])
        return builder.add(
            total, in_halves(builder, "llvm.x86.avx2.pmadd.wd", INTS.llvm_type, [pairs, scales])
        )

    return INTS(isa, INTS, PAIRS, PAIRS), codegen


@intrinsic
def add_quads(typingctx, isa, total, codes, x):
    """Add to each int32 of `total` the dot product of four unsigned codes with four signed bytes."""

    def codegen(context, builder, signature, args):
        return quad_dot(builder, signature.args[0], *args[1:])

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
def total(typingctx, vector):
    """Return the sum of a vector's float32."""

    def codegen(context, builder, signature, args):
        function_type = ir.FunctionType(F32, [F32, args[0].type])
        name = f"llvm.vector.reduce.fadd.v{vector.lanes}f32"
        function = cgutils.get_or_insert_function(builder.module, function_type, name)
        return builder.call(function, [ir.Constant(F32, 0.0), args[0]], fastmath=("reassoc",))

    return types.float32(vector), codegen


@intrinsic
def store(typingctx, array, offset, vector):
    """Store a vector at byte `offset` of an array."""

    def codegen(context, builder, signature, args):
        at = address(context, builder, signature.args[0], args[0], args[1], args[2].type)
        builder.store(args[2], at, align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), codegen


@intrinsic
def copy_16_bytes(typingctx, target, to, source, offset):
    """Copy 16 bytes from byte `offset` of one array to byte `to` of another, in one piece."""

    def codegen(context, builder, signature, args):
        part = ir.VectorType(I8, 16)
        source = address(context, builder, signature.args[2], args[2], args[3], part)
        target = address(context, builder, signature.args[0], args[0], args[1], part)
        builder.store(builder.load(source, align=1), target, align=1)
        return context.get_dummy_value()

    return types.void(target, types.intp, source, types.intp), codegen


@intrinsic
def store_float(typingctx, array, offset, value):
    """Store a float32 at byte `offset` of an array."""

    def codegen(context, builder, signature, args):
        at = address(context, builder, signature.args[0], args[0], args[1], F32)
        builder.store(args[2], at, align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.float32), codegen


@intrinsic(prefer_literal=True)
def ask_ahead(typingctx, array, offset, lines):
    """Ask for so many cache lines, AHEAD bytes ahead of byte `offset`, be it past the end."""

    def codegen(context, builder, signature, args):
        function_type = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
        function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")
        for line in range(lines.literal_value):
            at = builder.add(args[1], ir.Constant(args[1].type, AHEAD + 64 * line))
            pointer = address(context, builder, signature.args[0], args[0], at, I8)
            builder.call(function, [pointer, I32(0), I32(LOCALITY), I32(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp, lines), codegen


# --- Tiles: some rows of activations against 16 rows of weights -------------------------------------------


@intrinsic(prefer_literal=True)
def interleave(typingctx, low, high, half, size):
    """Join `size` bytes of `low` and as many of `high` in turn, of their first (0) or second (1) halves."""
    n, start = size.literal_value, 32 * half.literal_value
    lanes = [of + start + n * part + i for part in range(32 // n) for of in (0, 64) for i in range(n)]

    def codegen(context, builder, signature, args):
        return builder.shuffle_vector(args[0], args[1], ir.Constant(ir.VectorType(I32, 64), lanes))

    return BYTES(BYTES, BYTES, half, size), codegen


@intrinsic(prefer_literal=True)
def transpose_quads(typingctx, rows, at, stride, panel, to):
    """Turn 16 rows of 16 times 4 bytes, `stride` bytes apart, into 16 times (4 bytes of each row)."""

    def codegen(context, builder, signature, args):
        rows, at, stride, panel, to = args
        v = []
        for r in range(16):
            offset = builder.add(at, builder.mul(stride, ir.Constant(stride.type, r)))
            pointer = address(context, builder, signature.args[0], rows, offset, INTS.llvm_type)
            v.append(builder.load(pointer, align=1))
        for step in (1, 2, 4, 8):  # exchange bit `step` of the row with that of the column
            keep = [lane if not lane & step else 16 + lane - step for lane in range(16)]
            swap = [lane + step if not lane & step else 16 + lane for lane in range(16)]
            masks = [ir.Constant(ir.VectorType(I32, 16), lanes) for lanes in (keep, swap)]
            for r in range(16):
                if not r & step:
                    a, b = v[r], v[r + step]
                    v[r], v[r + step] = (builder.shuffle_vector(a, b, mask) for mask in masks)
        for quad in range(16):
            offset = builder.add(to, ir.Constant(to.type, 64 * quad))
            pointer = address(context, builder, signature.args[3], panel, offset, INTS.llvm_type)
            builder.store(v[quad], pointer, align=1)
        return context.get_dummy_value()

    return types.void(rows, types.intp, types.intp, panel, types.intp), codegen


def tuple_of(context, builder, kind, values):
    return context.make_tuple(builder, kind, values)


def parts_of(builder, tuple_, count):
    return [builder.extract_value(tuple_, i) for i in range(count)]


def quad_dot(builder, isa, total, codes, x):
    """Add to 16 int32 the dot products of four unsigned codes with four signed bytes, LLVM values all."""
    if is_avx512(isa):
        factors = [builder.bitcast(v, INTS.llvm_type) for v in (codes, x)]
        return call(builder, "llvm.x86.avx512.vpdpbusd.512", INTS.llvm_type, [total, *factors])
    even, odd = (quad_half(builder, codes, x, part) for part in range(2))
    return builder.add(total, builder.add(even, odd))


def quad_half(builder, codes, x, part):
    """Return the dot products of two of each four bytes, by way of int16: 255 * 127 fits, two do not."""
    lanes = [4 * i + 2 * part + j for i in range(16) for j in range(2)]
    wide = [
        extend(shuffle(builder, v, lanes), PAIRS.llvm_type)
        for extend, v in ((builder.zext, codes), (builder.sext, x))
    ]
    return in_halves(builder, "llvm.x86.avx2.pmadd.wd", INTS.llvm_type, wide)


@intrinsic(prefer_literal=True)
def tile_dots(typingctx, isa, panel, at, n_quads, codes, x, stride, n_rows):
    """Dot n_quads * 4 codes of 16 rows of weights with those of n_rows rows of activations.

    panel at byte `at`: 64 bytes for each quad, 4 of each row; codes at byte x, rows `stride` bytes apart.
    Returns n_rows vectors of 16 int32.
    """
    rows, quads = n_rows.literal_value, n_quads.literal_value
    kind = types.UniTuple(INTS, rows)

    def codegen(context, builder, signature, args):
        _, panel, at, _, codes, x, stride, _ = args
        totals = [constant(INTS.llvm_type, 0)] * rows
        starts = [builder.add(x, builder.mul(stride, ir.Constant(stride.type, r))) for r in range(rows)]
        for quad in range(quads):
            offset = builder.add(at, ir.Constant(at.type, 64 * quad))
            w = builder.load(
                address(context, builder, signature.args[1], panel, offset, BYTES.llvm_type), align=1
            )
            for r in range(rows):
                offset = builder.add(starts[r], ir.Constant(x.type, 4 * quad))
                four = builder.load(address(context, builder, signature.args[4], codes, offset, I32), align=1)
                repeated = builder.bitcast(splat(builder, four, 16), BYTES.llvm_type)
                totals[r] = quad_dot(builder, signature.args[0], totals[r], w, repeated)
        return tuple_of(context, builder, kind, totals)

    return kind(isa, panel, types.intp, n_quads, codes, types.intp, types.intp, n_rows), codegen


@intrinsic(prefer_literal=True)
def tile_zeros(typingctx, n_rows):
    """Return n_rows vectors of 16 float32 zeros."""
    kind = types.UniTuple(FLOATS, n_rows.literal_value)

    def codegen(context, builder, signature, args):
        return tuple_of(context, builder, kind, [constant(FLOATS.llvm_type, 0.0)] * kind.count)

    return kind(n_rows), codegen


@intrinsic
def tile_scale(typingctx, ints, scales, totals):
    """Return totals + ints * scales, row by row."""

    def codegen(context, builder, signature, args):
        ints, totals = (parts_of(builder, args[i], signature.args[0].count) for i in (0, 2))
        sums = [
            call(
                builder,
                "llvm.fma.v16f32",
                FLOATS.llvm_type,
                [builder.sitofp(i, FLOATS.llvm_type), args[1], t],
            )
            for i, t in zip(ints, totals, strict=True)
        ]
        return tuple_of(context, builder, signature.return_type, sums)

    return totals(ints, FLOATS, totals), codegen


@intrinsic
def tile_add(typingctx, totals, vectors, factors, at, stride):
    """Return totals + vectors * factor of the row; factors, float32, `stride` bytes apart from byte `at` on.

    `vectors` is one vector for each row, or one for all.
    """

    def codegen(context, builder, signature, args):
        totals, vectors, factors, at, stride = args
        rows = signature.args[0].count
        totals = parts_of(builder, totals, rows)
        each = isinstance(signature.args[1], types.UniTuple)
        vectors = parts_of(builder, vectors, rows) if each else [vectors] * rows
        sums = []
        for r in range(rows):
            offset = builder.add(at, builder.mul(stride, ir.Constant(stride.type, r)))
            factor = builder.load(address(context, builder, signature.args[2], factors, offset, F32), align=1)
            terms = [vectors[r], splat(builder, factor, 16), totals[r]]
            sums.append(call(builder, "llvm.fma.v16f32", FLOATS.llvm_type, terms))
        return tuple_of(context, builder, signature.return_type, sums)

    return totals(totals, vectors, factors, types.intp, types.intp), codegen


@intrinsic
def tile_store(typingctx, totals, out, at, stride):
    """Add the rows of a tile to 16 float32 each of an array, `stride` bytes apart from byte `at` on."""

    def codegen(context, builder, signature, args):
        totals, out, at, stride = args
        for r, row in enumerate(parts_of(builder, totals, signature.args[0].count)):
            offset = builder.add(at, builder.mul(stride, ir.Constant(stride.type, r)))
            pointer = address(context, builder, signature.args[1], out, offset, FLOATS.llvm_type)
            builder.store(builder.fadd(row, builder.load(pointer, align=1)), pointer, align=1)
        return context.get_dummy_value()

    return types.void(totals, out, types.intp, types.intp), codegen
