"""The integer kernels against their plain twin, on every instruction set that this CPU has."""

import tracemalloc

import numpy as np
import pytest
from numba import njit
from small_model import random_tensor

from blocks2tokens import FORMATS, KERNELS, QuantizedMatrix, UnsupportedError
from blocks2tokens.kernels import activations, integer_dot, simd, simd_rows

NAMES = list(simd_rows.SIMD_FORMATS)
VECTORS = [name for name in simd.available() if name != "plain"]
FAST = ("simd_dot", "simd_tiles", "integer_gemm")


def matrix(name, N, K, rng):
    return QuantizedMatrix(random_tensor(name, (N, K), rng)[1], name, (N, K))


# --- Vectors ----------------------------------------------------------------------------------------------


@njit
def pairs_and_quads(isa, q, x, s, pairs, quads):
    a, b = simd.load_bytes(q, 0), simd.load_bytes(x, 0)
    scales = simd.pick_scales(simd.repeat_bytes(s), 1, 6)
    simd.store(pairs, 0, simd.add_scaled_pairs(isa, simd.zero_ints(), simd.dot_pairs(isa, a, b), scales))
    simd.store(quads, 0, simd.add_quads(isa, simd.zero_ints(), a, b))


@pytest.mark.parametrize("isa", VECTORS)
@pytest.mark.parametrize("largest", [63, 127, 255])
def test_dot_instructions_multiply_unsigned_by_signed(isa, largest):
    rng = np.random.default_rng(largest)
    q = rng.integers(0, largest + 1, 64, np.uint8)
    x = rng.integers(-127, 128, 64, np.int8)
    q[:8], x[:8] = largest, [127, 127, -127, -127, 127, 127, 127, 127]  # as far from 0 as it goes
    pairs, quads = np.empty(16, np.int32), np.empty(16, np.int32)
    scales = np.array([0, 63, 0, 0, 0, 0, 17, 0], np.uint8)
    pairs_and_quads(simd.INSTRUCTION_SETS[isa], q, x, scales.view(np.uint64)[0], pairs, quads)
    products = q.astype(int) * x
    assert np.array_equal(quads, products.reshape(16, 4).sum(axis=1))
    if largest <= 127:  # two products fit 16 bits
        scaled = products * np.repeat([63, 17], 32)
        assert np.array_equal(pairs, scaled.reshape(16, 4).sum(axis=1))


@njit
def turn(rows, panel):
    simd.transpose_quads(rows, 0, 64, panel, 0)


def test_quads_are_turned():
    rows = np.random.default_rng(0).integers(0, 256, (16, 16, 4), np.uint8)
    panel = np.empty_like(rows)
    turn(rows, panel)
    assert np.array_equal(panel, rows.transpose(1, 0, 2))


def test_the_instruction_set_is_the_cpus_best_unless_it_is_named(monkeypatch):
    monkeypatch.delenv("BLOCKS2TOKENS_SIMD", raising=False)
    assert simd.chosen() == simd.available()[0]
    monkeypatch.setenv("BLOCKS2TOKENS_SIMD", "Plain")
    assert simd.chosen() == "plain"
    monkeypatch.setenv("BLOCKS2TOKENS_SIMD", "mmx")
    with pytest.raises(UnsupportedError, match="expected one of avx512, avx2, plain, got 'mmx'"):
        simd.chosen()
    monkeypatch.setattr(simd, "available", lambda: ["plain"])
    monkeypatch.setenv("BLOCKS2TOKENS_SIMD", "avx2")
    with pytest.raises(UnsupportedError, match="this CPU has no avx2, only plain"):
        simd.chosen()


# --- Activations ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "block"), [("Q8_K", 256), ("Q8_0", 32)])
def test_activations_have_ggmls_codes(name, block):
    x = np.random.default_rng(1).standard_normal((5, 512), np.float32)
    made = activations.quantize(x, block, 32)
    ggml = FORMATS[name].blocks(FORMATS[name].quantize(x))
    signs = np.sign(ggml["d"].astype(np.float32))[..., None]  # Q8_K makes the largest value -127
    codes = made.codes.reshape(ggml["qs"].shape)
    assert np.mean(codes == signs * ggml["qs"]) > 0.999  # ggml rounds its scale, or divides twice
    assert np.abs(codes - signs * ggml["qs"]).max() <= 1
    assert np.allclose(made.d, np.abs(ggml["d"].astype(np.float32)), rtol=1e-3)
    groups = made.codes.reshape(5, -1, 32).sum(axis=2)
    assert np.allclose(made.sums, groups * np.repeat(made.d, block // 32, axis=1), rtol=1e-6)


def test_activations_are_off_by_half_a_step_at_most():
    x = np.random.default_rng(2).standard_normal((3, 768), np.float32) * np.float32(1e6)
    made = activations.quantize(x, 256, 32)
    steps = np.repeat(made.d, 256, axis=1)
    assert np.all(np.abs(x - steps * made.codes) <= 0.5001 * steps)


def test_activations_stand_in_the_order_asked_for():
    x = np.arange(1, 289, dtype=np.float32)[None] % 97
    order = (3, 1, 0, 2)
    plain, ordered = (activations.quantize(x, 32, 32, o).codes[0] for o in ((0,), order))
    spans = plain[:256].reshape(4, 4, 16)
    assert np.array_equal(ordered[:256].reshape(4, 4, 16), spans[:, list(order)])
    assert np.array_equal(ordered[256:], plain[256:])  # not a whole span


def test_activations_are_padded_with_zeros():
    x = np.ones((3, 96), np.float32)
    made = activations.quantize(x, 32, 32, tile=(8, 128))
    assert made.codes.shape == (8, 128) and made.d.shape == made.sums.shape == (8, 4)
    assert made.codes[:3, :96].all() and not made.codes[3:].any() and not made.codes[:, 96:].any()
    assert not made.d[3:].any() and not made.sums[:, 3:].any()


@pytest.mark.parametrize(("value", "d"), [(0.0, 0.0), (1e-38, 0.0), (np.inf, np.nan), (np.nan, np.nan)])
def test_activations_that_have_no_scale(value, d):
    x = np.zeros((1, 64), np.float32)
    x[0, 5] = value
    made = activations.quantize(x, 32, 32)
    assert np.array_equal(made.d, [[d, 0]], equal_nan=True) and not made.codes.any()


# --- Kernels ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_scales_codes_and_offsets_are_the_formats(name):
    fmt, (codes_of, group) = FORMATS[name], integer_dot.FORMATS[name]
    w = matrix(name, 1, 512, np.random.default_rng(3))
    q, scales, offsets = np.empty(512, np.uint8), np.empty(512 // group, "f4"), np.empty(512 // group, "f4")
    codes_of(w.raw[0], q, scales, offsets)
    decoded = np.repeat(scales, group) * q - np.repeat(offsets, group)
    assert np.allclose(decoded, fmt.dequantize(w.raw)[0], rtol=1e-5, atol=1e-5 * np.abs(decoded).max())


@pytest.mark.parametrize("isa", VECTORS)
@pytest.mark.parametrize("name", NAMES)
def test_random_shapes_give_what_the_plain_twin_gives(name, isa, monkeypatch):
    monkeypatch.setenv("BLOCKS2TOKENS_SIMD", isa)
    rng = np.random.default_rng(4)
    size = FORMATS[name].block_size
    for _ in range(20):
        M, N, K = int(rng.integers(0, 71)), int(rng.integers(1, 60)), size * int(rng.integers(1, 6))
        w, x = matrix(name, N, K, rng), rng.standard_normal((M, K), np.float32)
        expected = KERNELS["integer_dot"](x, w)
        scale = np.abs(x) @ np.abs(w.dequantize()).T + 1e-30
        for kernel in FAST:
            out = KERNELS[kernel](x, w)
            assert out.shape == (M, N) and np.all(np.abs(out - expected) <= 2e-5 * scale), (kernel, M, N, K)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kernel", ["integer_dot", *FAST])
def test_rounding_activations_costs_at_most_a_percent(kernel, name):
    rng = np.random.default_rng(5)
    w = QuantizedMatrix.quantize(rng.standard_normal((64, 1024), np.float32), name)
    x = rng.standard_normal((9, 1024), np.float32)
    exact = x.astype(np.float64) @ w.dequantize().astype(np.float64).T
    error = KERNELS[kernel](x, w) - exact
    assert 1e-4 < np.linalg.norm(error) / np.linalg.norm(exact) < 0.01


@pytest.mark.parametrize("kernel", FAST)
def test_without_vectors_the_plain_twin_runs(kernel, monkeypatch):
    monkeypatch.setenv("BLOCKS2TOKENS_SIMD", "plain")
    rng = np.random.default_rng(6)
    w, x = matrix("Q4_K", 20, 512, rng), rng.standard_normal((3, 512), np.float32)
    assert np.array_equal(KERNELS[kernel](x, w), KERNELS["integer_dot"](x, w))


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
    fmt, times = FORMATS["Q4_K"], {"integer_dot": 1, "simd_dot": 7, "simd_tiles": 1 + 3, "integer_gemm": 1}
    for name, n in times.items():
        cost = KERNELS[name].cost(7, 512, 32, fmt, 2)
        assert (cost.elements_decoded, cost.blocks_decoded) == (n * 512 * 32, n * 64)
        assert cost.multiply_adds == 7 * 512 * 32 and cost.lookups == 0
