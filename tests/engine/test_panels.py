"""The vector kernels of all formats against float64, on every instruction set that this CPU has."""

import re
import tracemalloc
from math import prod

import numpy as np
import pytest
from llvmlite import ir
from numba import njit
from small_model import random_tensor

from blocks2tokens import FORMATS, KERNELS, QuantizedMatrix
from blocks2tokens.jit import cpu
from blocks2tokens.jit.lanes import F32, ISAS, constant, products_in_16_bits
from blocks2tokens.kernels.ours import integer_gemm, quantized_activations, simd_dot
from blocks2tokens.kernels.ours.simd_dot import JOB
from blocks2tokens.kernels.ours.unpack import PACKED

SETS = [name for name in cpu.available() if name in ISAS]
FAST = ("simd_dot", "simd_tiles", "integer_gemm")
GUARD = 4096  # bytes before and behind an array
SHAPES = ((1, 16, 1), (2, 40, 2), (3, 17, 1), (9, 130, 3), (70, 33, 2))  # M, N, blocks of 256 along K


def test_constants_that_are_equal_and_not_the_same_are_two():
    zeros = [[0.0, 0.0], [0.0, -0.0], [-0.0, 0.0], -0.0]
    assert len({str(constant(ir.VectorType(F32, 2), each)) for each in zeros}) == 4


def matrix(name, N, K, rng):
    return QuantizedMatrix(random_tensor(name, (N, K), rng)[1], name, (N, K))


def as_rounded(x, name):
    """Return x as the kernels see it: rounded to codes, or as it is where weights are floats; float64."""
    packed = PACKED[name]
    if name == "BF16" and cpu.with_bf16(cpu.chosen()) != cpu.chosen():
        x = FORMATS["BF16"].dequantize(FORMATS["BF16"].quantize(x))
    if packed.is_float:
        return x.astype(np.float64)
    a = quantized_activations.quantize(x, packed.weights, packed.group)
    return (a.codes * a.d[..., None].astype(np.float64)).reshape(x.shape)


def assert_products_are_right(x, w, kernels=FAST):
    exact, weights = as_rounded(x, w.format.name), w.dequantize().astype(np.float64)
    expected, scale = exact @ weights.T, np.abs(exact) @ np.abs(weights).T + 1e-30
    for kernel in kernels:
        out = KERNELS[kernel](x, w)
        assert out.shape == expected.shape
        assert np.all(np.abs(out - expected) <= 4e-6 * scale), (kernel, x.shape, w.shape)


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("name", PACKED)
def test_products_are_those_of_float64(name, isa, monkeypatch):
    monkeypatch.setenv("BLOCKS2TOKENS_SIMD", isa)
    rng = np.random.default_rng(4)
    for M, N, blocks in SHAPES:
        assert_products_are_right(
            rng.standard_normal((M, 256 * blocks), np.float32), matrix(name, N, 256 * blocks, rng)
        )


@pytest.mark.skipif("avx512" not in SETS, reason="no AVX-512 on this CPU")
def test_bf16_where_the_cpu_has_no_products_of_it(monkeypatch):
    monkeypatch.setenv("BLOCKS2TOKENS_SIMD", "avx512")
    monkeypatch.setattr(cpu, "with_bf16", lambda isa: isa)
    rng = np.random.default_rng(4)
    for M, N, blocks in SHAPES:
        x = rng.standard_normal((M, 256 * blocks), np.float32)
        assert_products_are_right(x, matrix("BF16", N, 256 * blocks, rng))


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("end", [0, 1])
def test_the_largest_codes_do_not_pass_16_bits(name, isa, end, monkeypatch):
    """All codes at one end of their range against all activations at one end of theirs."""
    monkeypatch.setenv("BLOCKS2TOKENS_SIMD", isa)
    if PACKED[name].is_float:
        pytest.skip("floats have no codes")
    w = matrix(name, 16, 512, np.random.default_rng(5))
    blocks = FORMATS[name].blocks(w.raw.copy())
    bits = (0x80, 0x7F)[end] if name == "Q8_0" else (0x00, 0xFF)[end]
    for name_of_field in {"qs", "ql", "qh", "hmask"} & set(blocks.dtype.names):
        field = blocks[name_of_field]
        field[...] = np.full(field.itemsize, bits, np.uint8).view(field.dtype)[0]
    worst = QuantizedMatrix(np.ascontiguousarray(blocks).view(np.uint8).reshape(w.raw.shape), name, w.shape)
    for value in (1.0, -1.0):
        assert_products_are_right(np.full((4, 512), value, np.float32), worst)


def test_the_bound_on_sums_of_16_bits_is_tight():
    for packed in PACKED.values():
        if not packed.is_float:
            n = products_in_16_bits(packed.largest)
            assert n * 2 * packed.largest * 127 <= 32767 < (n + 1) * 2 * packed.largest * 127


@pytest.mark.parametrize("name", PACKED)
def test_the_largest_code_is_what_the_definition_gives(name):
    """`largest` bounds the codes; the bound above is worth what it is worth."""
    levels = {"Q2_K": 3, "Q3_K": 7, "Q4": 15, "Q5": 31, "Q6_K": 63, "Q8": 128, "IQ4": 128, "MXFP4": 24}
    wanted = next((n for start, n in levels.items() if name.startswith(start)), 0)
    assert PACKED[name].largest == wanted


@pytest.mark.parametrize("name", ["BF16", *(name for name in PACKED if not PACKED[name].is_float)])
@pytest.mark.parametrize("kernel", FAST)
def test_rounding_activations_costs_at_most_a_percent(kernel, name):
    rng = np.random.default_rng(5)
    w = QuantizedMatrix.quantize(rng.standard_normal((64, 1024), np.float32), name)
    x = rng.standard_normal((9, 1024), np.float32)
    exact = x.astype(np.float64) @ w.dequantize().astype(np.float64).T
    error = KERNELS[kernel](x, w) - exact
    assert np.linalg.norm(error) / np.linalg.norm(exact) < 0.01


@pytest.mark.parametrize("kernel", FAST)
@pytest.mark.parametrize(("N", "K", "name"), [(20, 512, "Q4_K"), (15, 512, "Q4_K"), (20, 40, "F16")])
def test_where_vectors_do_not_fit_the_plain_twin_runs(kernel, N, K, name, monkeypatch):
    if N >= 16 and name != "F16":
        monkeypatch.setenv("BLOCKS2TOKENS_SIMD", "plain")
    rng = np.random.default_rng(6)
    w, x = matrix(name, N, K, rng), rng.standard_normal((3, K), np.float32)
    assert np.array_equal(KERNELS[kernel](x, w), KERNELS["integer_dot"](x, w))


def guarded(shape, dtype):
    """Return an array, and the bytes that it lies in the middle of."""
    size = prod(shape) * np.dtype(dtype).itemsize
    around = np.full(GUARD + size + GUARD, 0xA5, np.uint8)
    return around[GUARD : GUARD + size].view(dtype).reshape(shape), around


@pytest.mark.parametrize("kernel", FAST)
@pytest.mark.parametrize(
    ("name", "blocks"),
    [("Q4_0", 2), ("Q4_K", 3), ("F16", 1), ("F16", 9), ("F32", 3), ("BF16", 1), ("BF16", 17)],
)
def test_nothing_is_written_behind_what_a_kernel_asks_for(name, blocks, kernel):
    rng = np.random.default_rng(9)
    w = matrix(name, 300, blocks * PACKED[name].weights, rng)
    for M in (1, 3, 9, 17, 64):
        x, (out, around) = rng.standard_normal((M, w.shape[1]), np.float32), guarded((M, 300), np.float32)
        made = {part: guarded(*need) for part, need in KERNELS[kernel].needs(M, w).items()}
        KERNELS[kernel].run_into(x, w, out, {part: array for part, (array, _) in made.items()})
        for memory in (around, *(memory for _, memory in made.values())):
            assert (memory[:GUARD] == 0xA5).all() and (memory[-GUARD:] == 0xA5).all()


@pytest.mark.skipif(cpu.with_bf16("avx512") == "avx512", reason="no products of bfloat16 on this CPU")
@pytest.mark.parametrize("M", [1, 2, 3, 8, 20])
def test_x_is_rounded_to_bfloat16_in_one_way(M, monkeypatch):
    """In a tile of few rows by the CPU's instruction, before a product of many by our own code."""
    monkeypatch.setenv("BLOCKS2TOKENS_SIMD", "avx512")
    rng = np.random.default_rng(10)
    w, x = matrix("BF16", 48, 608, rng), rng.standard_normal((M, 608), np.float32)
    bits = x.view(np.uint32)
    bits[:, ::3] = bits[:, ::3] & 0xFFFF0000 | 0x8000  # ties
    x[:, 5::50] *= np.float32(1e-39)  # less than a normal number
    large = QuantizedMatrix(np.full((48, 608), 0x7B80, "<u2").view(np.uint8), "BF16", (48, 608))  # 2 ** 120
    near = np.full((M, 608), 0x007FFFFF, np.uint32).view(np.float32)  # all but a normal number
    assert not any(KERNELS[kernel](near, large).any() for kernel in FAST)
    assert np.array_equal(KERNELS["simd_tiles"](x, w), KERNELS["integer_gemm"](x, w))
    for odd in (np.nan, np.uint32(0x7FFFFFFF).view(np.float32), np.inf, np.float32(3.4e38)):
        x[0, 7] = odd
        expected = KERNELS["simd_dot"](x, w)
        assert not np.isfinite(expected[0]).any() and np.isfinite(expected[1:]).all()
        for kernel in ("simd_tiles", "integer_gemm"):
            assert np.array_equal(KERNELS[kernel](x, w), expected, equal_nan=True)


@pytest.mark.parametrize("kernel", FAST)
def test_nan_and_infinity_stay_in_their_row(kernel):
    rng = np.random.default_rng(8)
    w, x = matrix("Q4_K", 32, 512, rng), rng.standard_normal((5, 512), np.float32)
    expected = KERNELS[kernel](x, w)
    x[1, 7], x[3, 400] = np.nan, np.inf
    out = KERNELS[kernel](x, w)
    assert np.isnan(out[[1, 3]]).all() and np.array_equal(out[[0, 2, 4]], expected[[0, 2, 4]])


@pytest.mark.parametrize("kernel", ["integer_dot", *FAST])
def test_no_float32_copy_of_the_weights_is_made(kernel):
    rng = np.random.default_rng(7)
    row = FORMATS["Q4_K"].quantize(rng.standard_normal((16, 4096), np.float32))
    w = QuantizedMatrix(np.tile(row, (128, 1)), "Q4_K", (2048, 4096))
    x = rng.standard_normal((1, 4096), np.float32)
    KERNELS[kernel](x, w)
    tracemalloc.start()
    KERNELS[kernel](x, w)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000 < 4 * 2048 * 4096
    assert KERNELS[kernel].cost(1, 4096, 2048, w.format, 16).temporary_bytes < 1_000_000


def test_counts_say_how_often_a_weight_is_unpacked():
    fmt, times = FORMATS["Q4_K"], {"integer_dot": 1, "simd_dot": 7, "simd_tiles": 2, "integer_gemm": 1}
    for name, n in times.items():
        cost = KERNELS[name].cost(7, 512, 32, fmt, 2)
        assert (cost.elements_decoded, cost.blocks_decoded) == (n * 512 * 32, n * 64)
        assert cost.multiply_adds == 7 * 512 * 32 and cost.lookups == 0


@pytest.mark.parametrize("kernel", FAST)
def test_without_vectors_the_counts_are_those_of_the_kernel_that_runs(kernel, monkeypatch):
    monkeypatch.setenv("BLOCKS2TOKENS_SIMD", "plain")
    shape = 7, 512, 32, FORMATS["Q4_K"], 2
    assert KERNELS[kernel].cost(*shape) == KERNELS["integer_dot"].cost(*shape)


@pytest.mark.parametrize("isa", SETS)
def test_the_stack_of_a_job_begins_at_a_whole_line(isa, monkeypatch):
    """LLVM makes the kernel a part of the job, and then it is the job's stack that counts."""
    monkeypatch.setenv("BLOCKS2TOKENS_SIMD", isa)
    for job in (simd_dot.rows_job("Q4_K", isa, 4), integer_gemm.panel_job("Q4_K", isa)):
        anew = njit(job.py_func)
        anew.compile(JOB.args)
        code = anew.inspect_llvm(JOB.args)
        number = re.search(r"^define \S+ \S+.* @_ZN13.*_job_q4_k.* (#\d+) {$", code, re.M)[1]
        assert "alignstack=64" in re.search(rf"^attributes {number} = .*$", code, re.M)[0]


def test_instruction_sets_have_one_name():
    assert set(ISAS) | {"plain"} == {*cpu.NEEDS, *cpu.BF16.values()}
