"""Every kernel of the story in one registry, and the dispatcher that picks one.

KERNELS["fused_rows"](x, w)     a kernel by name
matmul(x, w)                    the one that suits M
"""

from types import MappingProxyType

import numpy as np

from blocks2tokens.kernels import (
    dequantize_then_blas,
    fused_rows,
    integer_dot,
    integer_gemm,
    phase0_baseline,
    phase1_naive_fused,
    phase2_optimized_fused,
    phase3a_block_cache,
    phase3b_column_major,
    simd_dot,
    simd_tiles,
)
from blocks2tokens.kernels.kernel import Cost, Kernel, check_operands
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

# From this many rows of x on, the decoding is shared widely enough for BLAS to win.
BLAS_FROM_ROWS = 24


def matmul(x: np.ndarray, w: QuantizedMatrix) -> np.ndarray:
    """Return x @ W.T, float32 [M, N], for x float32 [M, K] and w [N, K], layout "gguf".

    Raises ValueError for another dtype, shape or layout.
    """
    x = check_operands(x, w, "gguf")
    name = "fused_rows" if x.shape[0] < BLAS_FROM_ROWS else "dequantize_then_blas"
    return KERNELS[name].run(x, w)


__all__ = ["KERNELS", "Cost", "Kernel", "matmul"]
