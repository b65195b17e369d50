"""Every kernel of the story in one registry, and the dispatcher that picks one.

KERNELS["fused_rows"](x, w)     a kernel by name
matmul(x, w)                    the one that suits M
"""

from types import MappingProxyType

import numpy as np

from blocks2tokens.formats import Format
from blocks2tokens.jit import cpu
from blocks2tokens.kernels import autotune
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
    For quantized formats the kernels may round x to 8 bits, as llama.cpp does.
    Raises ValueError for another dtype, shape or layout.
    """
    x = check_operands(x, w, "gguf")
    if see := WATCHER.get():
        see(x, w)
    choice = autotune.choose(w.format, x.shape[0], candidates(w.format))
    product = KERNELS[choice.kernel].product(x, w)
    return (product, choice) if explain else product


__all__ = ["KERNELS", "Choice", "Cost", "Kernel", "matmul", "watching"]
