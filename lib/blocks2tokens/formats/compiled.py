"""What the compiled parts of all formats share: reading float16, and rows of blocks in parallel.

    raw  uint8 [rows, row bytes]   --decode_rows-->   float32 [rows, K]
    x    float32 [rows, K]         --encode_rows-->   uint8 [rows, row bytes]

A format gives one function for one row; the drivers here call it through a function pointer, so that
each driver is compiled once and not once per format. Compiled code checks nothing: every function
here expects arguments that `Format` has checked.
"""

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic

from blocks2tokens.jit.cores import check_compiling, takes_turns

BYTES = types.Array(types.uint8, 1, "C", readonly=True)
BYTES_2D = types.Array(types.uint8, 2, "C", readonly=True)
FLOATS = types.Array(types.float32, 1, "C", readonly=True)
DECODE_ROW = types.void(BYTES, types.float32[::1])  # (raw, out)
DECODE_ELEMENT = types.float32(BYTES, types.int64)
ENCODE_ROW = types.void(FLOATS, types.uint8[::1])  # (x, raw)
ENCODE_ROW_WEIGHTED = types.void(FLOATS, FLOATS, types.uint8[::1])  # (x, importance, raw)
IMPROVE_BLOCK = types.void(FLOATS, FLOATS, BYTES, types.uint8[::1])  # (x, importance, block, trial)

as_in_c = njit(cache=True, error_model="numpy")  # x / 0 is infinite or NaN, not a ZeroDivisionError


def pointer(function, signature):
    """Compile a function for one signature and return it as a pointer.

    Calling it from compiled code is a real call, which LLVM does not inline. Raises UnsupportedError where
    Numba may not compile.
    """
    check_compiling()
    return types.CompileResultWAP(function.get_compile_result(signature))


@intrinsic
def half_to_float(typingctx, bits):
    """Convert the bits of a float16, uint16, to float32 with the CPU's own instruction."""

    def codegen(context, builder, signature, args):
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), codegen


@intrinsic
def float_to_half(typingctx, value):
    """Convert a float32 to the bits of the nearest float16 (ties to even), uint16."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), codegen


@intrinsic
def bits_to_float(typingctx, bits):
    """Read the bits of a float32, uint32, as the number that they are."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), codegen


@intrinsic
def float_to_bits(typingctx, value):
    """Return the bits of a float32, uint32."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), codegen


@njit(cache=True)
def read_half(raw, at):
    """Return the little-endian float16 at byte `at` as float32."""
    return half_to_float(np.uint16(raw[at] | (raw[at + 1] << 8)))


@njit(cache=True)
def write_half(raw, at, value):
    """Store a float32 as little-endian float16 at byte `at`."""
    bits = float_to_half(np.float32(value))
    raw[at] = bits & 255
    raw[at + 1] = bits >> 8


@njit(cache=True)
def read_u32(raw, at):
    """Return the little-endian uint32 at byte `at`."""
    return np.uint32(raw[at] | (raw[at + 1] << 8) | (raw[at + 2] << 16) | (raw[at + 3] << 24))


@njit(cache=True)
def write_u32(raw, at, value):
    """Store the low 32 bits of an integer, little-endian, at byte `at`."""
    for i in range(4):
        raw[at + i] = (value >> (8 * i)) & 255


@njit(cache=True)
def signed_max(x, start, count):
    """Return the value of largest magnitude, with its sign; of equal ones the first."""
    largest, value = np.float32(0), np.float32(0)
    for i in range(start, start + count):
        if abs(x[i]) > largest:
            largest, value = abs(x[i]), x[i]
    return value


@njit(cache=True)
def min_max(x, start, count):
    """Return the smallest and the largest value."""
    low = high = x[start]
    for i in range(start + 1, start + count):
        low, high = min(low, x[i]), max(high, x[i])
    return low, high


@njit(cache=True)
def round_half_away(value):
    """Round to the nearest integer, halves away from zero, as C's roundf does."""
    whole = np.trunc(value)
    if abs(value - whole) >= np.float32(0.5):
        whole += np.copysign(np.float32(1), value)
    return np.int64(whole)


@takes_turns
@njit(parallel=True, cache=True)
def decode_rows(decode_row, raw, out):
    """Decode each row of raw, uint8 [rows, bytes], into out, float32 [rows, K]."""
    for row in prange(raw.shape[0]):
        decode_row(raw[row], out[row])


@takes_turns
@njit(parallel=True, cache=True)
def encode_rows(encode_row, x, raw):
    """Encode each row of x, float32 [rows, K], into raw, uint8 [rows, bytes]."""
    for row in prange(x.shape[0]):
        encode_row(x[row], raw[row])


@takes_turns
@njit(parallel=True, cache=True)
def encode_rows_weighted(encode_row, x, importance, raw):
    """Encode each row of x into raw with the same importance, float32 [K], for every row."""
    for row in prange(x.shape[0]):
        encode_row(x[row], importance, raw[row])
