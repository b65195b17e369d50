"""The life of one weight agrees with what the kernels count."""

import matplotlib.pyplot as plt
import pytest

from blocks2tokens import FORMATS, KERNELS
from blocks2tokens.course import weight_life

FMT = FORMATS["Q4_K"]


@pytest.mark.parametrize("simd", ["plain", None])
@pytest.mark.parametrize("M", [1, 8, 128])
@pytest.mark.parametrize("name", KERNELS)
def test_a_weight_is_unpacked_as_often_as_the_kernel_counts(name, M, simd, monkeypatch):
    if simd:
        monkeypatch.setenv("BLOCKS2TOKENS_SIMD", simd)
    legs = weight_life.life(name, M, FMT)
    unpacked = sum(leg.times for leg in legs if leg.there.startswith("unpack"))
    assert "multiply" in legs[-1].there and legs[-1].to == weight_life.REGISTERS
    if name != "phase3b_column_major":  # which unpacks 256 weights for one, each time
        assert unpacked == weight_life.times_unpacked(name, M, FMT)


@pytest.mark.parametrize("name", ["dequantize_then_blas", "fused_rows", "integer_dot", "integer_gemm"])
def test_what_goes_through_memory_is_what_the_kernel_reads_and_copies(name):
    M, K, N = 8, weight_life.K, weight_life.N
    cost = KERNELS[name].cost(M, K, N, FMT, 1)
    copies = cost.temporary_bytes if name == "dequantize_then_blas" else 0  # the others' stay in a cache
    moved = (cost.bytes_read - 4 * M * K + copies) / (K * N)
    assert weight_life.through_memory(weight_life.life(name, M, FMT)) == pytest.approx(moved)


@pytest.mark.parametrize("M", [1, 128])
def test_a_strip_for_each_kernel_and_your_own(M):
    names = [*KERNELS, "your kernel"]
    drawn = weight_life.strips(names, M, FMT)
    assert [axes.get_title().split(":")[0] for axes in drawn] == names
    assert len(drawn[0].figure.axes) == len(names) + len(names) % 2
    plt.close("all")
