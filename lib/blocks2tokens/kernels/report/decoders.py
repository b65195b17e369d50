"""How the report's engine decodes: one weight, or one block, in a language that does not vectorize.

    header, float32 [18], on the stack:   Q4_K, Q5_K   d, dmin, 8 scales, 8 minimums
                                          Q6_K         16 scales, d

    element_decoder(fmt)   (raw, f) -> weight f           reads the block's whole header for one weight
    block_decoder(fmt)     (raw, out) -> fills out        reads it once, then goes weight by weight

What they decode is ours, bit for bit; only how they go about it is the report's. Its engine was written in
Go, whose compiler makes no SIMD instructions of loops, while LLVM would decode 16 weights at a time.
`scalar` stands in each loop to keep LLVM from that. Formats that the report did not use are decoded as
ever.
"""

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from blocks2tokens.formats import compiled
from blocks2tokens.formats.compiled import read_half
from blocks2tokens.formats.q4_k import scale_min


@intrinsic
def scalar(typingctx, value):
    """Return an int64 as it is, by way of an empty assembly instruction, which LLVM does not vectorize."""

    def codegen(context, builder, signature, args):
        i64 = ir.IntType(64)
        return builder.asm(ir.FunctionType(i64, [i64]), "", "=r,0", [args[0]], side_effect=False)

    return types.int64(types.int64), codegen


@intrinsic
def local_floats(typingctx):
    """Return a pointer to room for 18 float32 on the stack, as a C function has for its local array."""

    def codegen(context, builder, signature, args):
        room = cgutils.alloca_once(builder, ir.ArrayType(ir.FloatType(), 18))
        return builder.bitcast(room, ir.FloatType().as_pointer())

    return types.CPointer(types.float32)(), codegen


@njit(cache=True)
def unpack_header(raw, at, header):
    """Fill header, float32 [18], from a Q4_K or Q5_K block: d, dmin, 8 scales, 8 minimums."""
    header[0], header[1] = read_half(raw, at), read_half(raw, at + 2)
    for s in range(8):
        sc, m = scale_min(raw, at + 4, s)
        header[2 + s], header[10 + s] = np.float32(sc), np.float32(m)


@njit(cache=True)
def unpack_q6_k_header(raw, at, header):
    """Fill header, float32 [18], from a Q6_K block: 16 scales, d."""
    for s in range(16):
        header[s] = np.float32(np.int8(raw[at + 192 + s]))
    header[16] = read_half(raw, at + 208)


@njit(cache=True)
def q4_k_weight(raw, at, header, i):
    """Return weight i of the Q4_K block at byte `at`."""
    s = i // 32
    q = (raw[at + 16 + 32 * (s // 2) + i % 32] >> (4 * (s % 2))) & 15
    return header[0] * header[2 + s] * np.float32(q) - header[1] * header[10 + s]


@njit(cache=True)
def q5_k_weight(raw, at, header, i):
    """Return weight i of the Q5_K block at byte `at`."""
    s = i // 32
    low = (raw[at + 48 + 32 * (s // 2) + i % 32] >> (4 * (s % 2))) & 15
    q = low | ((raw[at + 16 + i % 32] >> s) & 1) << 4
    return header[0] * header[2 + s] * np.float32(q) - header[1] * header[10 + s]


@njit(cache=True)
def q6_k_weight(raw, at, header, i):
    """Return weight i of the Q6_K block at byte `at`."""
    half, place = i // 128, i % 128
    low = (raw[at + 64 * half + place % 64] >> (4 * (place // 64))) & 15
    high = (raw[at + 128 + 32 * half + place % 32] >> (2 * (place // 32))) & 3
    return header[16] * header[i // 16] * np.float32((low | high << 4) - 32)


@njit(cache=True)
def q4_k_element(raw, f):
    header, at = carray(local_floats(), 18), f // 256 * 144
    unpack_header(raw, at, header)
    return q4_k_weight(raw, at, header, f % 256)


@njit(cache=True)
def q4_k_blocks(raw, out):
    header = carray(local_floats(), 18)
    for block in range(out.size // 256):
        unpack_header(raw, 144 * block, header)
        for i in range(256):
            out[256 * block + i] = q4_k_weight(raw, 144 * block, header, scalar(i))


@njit(cache=True)
def q5_k_element(raw, f):
    header, at = carray(local_floats(), 18), f // 256 * 176
    unpack_header(raw, at, header)
    return q5_k_weight(raw, at, header, f % 256)


@njit(cache=True)
def q5_k_blocks(raw, out):
    header = carray(local_floats(), 18)
    for block in range(out.size // 256):
        unpack_header(raw, 176 * block, header)
        for i in range(256):
            out[256 * block + i] = q5_k_weight(raw, 176 * block, header, scalar(i))


@njit(cache=True)
def q6_k_element(raw, f):
    header, at = carray(local_floats(), 18), f // 256 * 210
    unpack_q6_k_header(raw, at, header)
    return q6_k_weight(raw, at, header, f % 256)


@njit(cache=True)
def q6_k_blocks(raw, out):
    header = carray(local_floats(), 18)
    for block in range(out.size // 256):
        unpack_q6_k_header(raw, 210 * block, header)
        for i in range(256):
            out[256 * block + i] = q6_k_weight(raw, 210 * block, header, scalar(i))


ELEMENTS = {"Q4_K": q4_k_element, "Q5_K": q5_k_element, "Q6_K": q6_k_element}
BLOCKS = {"Q4_K": q4_k_blocks, "Q5_K": q5_k_blocks, "Q6_K": q6_k_blocks}
CODES = ("qs", "ql", "qh", "hmask")  # the fields of a block that hold codes; the others are its header


def element_decoder(fmt):
    """Return the decoder of one weight, (raw uint8 [bytes], f) -> float32, as a pointer.

    A call through the pointer stays a call; by its name LLVM would inline the function and move half of
    it out of the loop.
    """
    return compiled.pointer(ELEMENTS.get(fmt.name, fmt.module.decode_element), compiled.DECODE_ELEMENT)


def block_decoder(fmt):
    """Return the decoder of whole blocks, (raw uint8 [bytes], out float32 [weights]), as a pointer."""
    return compiled.pointer(BLOCKS.get(fmt.name, fmt.module.decode_row), compiled.DECODE_ROW)


def element_bytes(fmt):
    """Return how many bytes of a block one call reads: its whole header, and one code from each plane."""
    fields = fmt.block.fields.items()
    return sum(field.base.itemsize if name in CODES else field.itemsize for name, (field, _) in fields)
