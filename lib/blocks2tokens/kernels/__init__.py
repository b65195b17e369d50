"""Every kernel of the story in one registry, and the dispatcher that picks one.

KERNELS["fused_rows"](x, w)         a kernel by name
matmul(x, w)                        the one that suits M
matmul_into(x, w, out, scratch)     the same, in memory that is there: scratch_bytes(w, M) of it
"""

from types import MappingProxyType

import numpy as np
from numba import get_num_threads

from blocks2tokens.formats import Format
from blocks2tokens.formats.format import checked
from blocks2tokens.jit import cpu
from blocks2tokens.kernels import autotune, scratch
from blocks2tokens.kernels.autotune import Choice
from blocks2tokens.kernels.kernel import Cost, Kernel, check_operands
from blocks2tokens.kernels.ours import (
    dequantize_then_blas,
    fused_rows,
    integer_dot,
    integer_gemm,
    simd_dot,
    simd_tiles,
)
from blocks2tokens.kernels.report import (
    phase0_baseline,
    phase1_naive_fused,
    phase2_optimized_fused,
    phase3a_block_cache,
    phase3b_column_major,
)
from blocks2tokens.kernels.unrounded import UNROUNDED, unrounded
from blocks2tokens.kernels.watch import WATCHER, watching
from blocks2tokens.matrix import QuantizedMatrix

STORY = (
    phase0_baseline,
    phase1_naive_fused,
    phase2_optimized_fused,
    phase3a_block_cache,
    phase3b_column_major,
    dequantize_then_blas,
    fused_rows,
    integer_dot,
    simd_dot,
    simd_tiles,
    integer_gemm,
)
KERNELS = MappingProxyType({module.KERNEL.name: module.KERNEL for module in STORY})


def candidates(fmt: Format) -> dict[str, Kernel]:
    """Return the kernels worth timing for a format on this CPU.

    `fused_rows` loses to vectors by so much that only noise could pick it.
    """
    if cpu.chosen() != "plain":
        fast = ("simd_dot", "simd_tiles", "integer_gemm")
    else:
        fast = (*(["integer_dot"] if fmt.name in integer_dot.FORMATS else []), "fused_rows")
    return {name: KERNELS[name] for name in (*fast, "dequantize_then_blas")}


def matmul(x: np.ndarray, w: QuantizedMatrix, explain: bool = False):
    """Return x @ W.T, float32 [M, N], for x float32 [M, K] and w [N, K], layout "gguf".

    Takes the kernel that was fastest on this machine for this format and a like number of rows; the first
    product with a format measures that, in a second or two, and keeps it in the user's cache folder.
    With explain=True returns (product, Choice): which kernel it was, and why.
    For quantized formats the kernels may round x to 8 bits, for BF16 to bfloat16 where the CPU multiplies
    these, as llama.cpp does; not within `unrounded`.
    Raises ValueError for another dtype, shape or layout.
    """
    x = check_operands(x, w, "gguf")
    if see := WATCHER.get():
        see(x, w)
    choice = _choice(x, w)
    product = KERNELS[choice.kernel].product(x, w)
    return (product, choice) if explain else product


def matmul_into(x: np.ndarray, w: QuantizedMatrix, out: np.ndarray, scratch: np.ndarray) -> None:
    """Fill out, float32 [M, N], with what `matmul` returns; no array is allocated, but within `unrounded()`.

    scratch, uint8, has the `scratch_bytes` of w and M. Raises ValueError for another dtype, shape or layout,
    and for less scratch.
    """
    x = check_operands(x, w, "gguf")
    expected = x.shape[0], w.shape[0]
    if checked(out, np.float32, "out").shape != expected:
        raise ValueError(f"out: expected shape {expected}, got {out.shape}")
    if see := WATCHER.get():
        see(x, w)
    kernel = KERNELS[_choice(x, w).kernel]
    if UNROUNDED.get():  # scratch is for the kernels that may be chosen usually
        out[:] = kernel.product(x, w)
    else:
        kernel.product_into(x, w, out, scratch)


def _choice(x, w) -> Choice:
    if UNROUNDED.get():
        return Choice("dequantize_then_blas", "activations stay float32 within unrounded()")
    return autotune.choose(w.format, x.shape[0], candidates(w.format))


def scratch_bytes(w: QuantizedMatrix, M: int) -> int:
    """Return the bytes of scratch that suffice `matmul_into` for up to M rows of x on this many threads."""
    table = autotune.winners(w.format, get_num_threads(), cpu.chosen(), candidates(w.format))
    starts = sorted(table)
    ends = [*(start - 1 for start in starts[1:]), M]
    found = [
        scratch.n_bytes(KERNELS[table[start][0]].needs(min(end, M), w))
        for start, end in zip(starts, ends, strict=True)
        if start <= M
    ]
    return max(found, default=0)


__all__ = [
    "KERNELS",
    "Choice",
    "Cost",
    "Kernel",
    "matmul",
    "matmul_into",
    "scratch_bytes",
    "unrounded",
    "watching",
]
