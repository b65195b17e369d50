"""Activations of 8 bits, the plain integer kernel, and the vectors that lessons use."""

import numpy as np
import pytest
from numba import njit
from small_model import random_tensor

from blocks2tokens import FORMATS, KERNELS, QuantizedMatrix, UnsupportedError
from blocks2tokens.jit import cpu, vectors
from blocks2tokens.kernels.ours import integer_dot, quantized_activations

VECTORS = [name for name in cpu.available() if vectors.INSTRUCTION_SETS[name]]


def matrix(name, N, K, rng):
    return QuantizedMatrix(random_tensor(name, (N, K), rng)[1], name, (N, K))


# --- Vectors ----------------------------------------------------------------------------------------------


@njit
def pairs_and_quads(isa, q, x, s, pairs, quads):
    a, b = vectors.load_bytes(q, 0), vectors.load_bytes(x, 0)
    scales = vectors.pick_scales(vectors.repeat_bytes(s), 1, 6)
    vectors.store(
        pairs, 0, vectors.add_scaled_pairs(isa, vectors.zero_ints(), vectors.dot_pairs(isa, a, b), scales)
    )
    vectors.store(quads, 0, vectors.add_quads(isa, vectors.zero_ints(), a, b))


@pytest.mark.parametrize("isa", VECTORS)
@pytest.mark.parametrize("largest", [63, 127, 255])
def test_dot_instructions_multiply_unsigned_by_signed(isa, largest):
    rng = np.random.default_rng(largest)
    q = rng.integers(0, largest + 1, 64, np.uint8)
    x = rng.integers(-127, 128, 64, np.int8)
    q[:8], x[:8] = largest, [127, 127, -127, -127, 127, 127, 127, 127]  # as far from 0 as it goes
    pairs, quads = np.empty(16, np.int32), np.empty(16, np.int32)
    scales = np.array([0, 63, 0, 0, 0, 0, 17, 0], np.uint8)
    pairs_and_quads(vectors.INSTRUCTION_SETS[isa], q, x, scales.view(np.uint64)[0], pairs, quads)
    products = q.astype(int) * x
    assert np.array_equal(quads, products.reshape(16, 4).sum(axis=1))
    if largest <= 127:  # two products fit 16 bits
        scaled = products * np.repeat([63, 17], 32)
        assert np.array_equal(pairs, scaled.reshape(16, 4).sum(axis=1))


@njit
def turn(rows, panel):
    vectors.transpose_words(vectors.address_of(rows), 0, 64, vectors.address_of(panel), 0)


def test_words_are_turned():
    rows = np.random.default_rng(0).integers(0, 256, (16, 16, 4), np.uint8)
    panel = np.empty_like(rows)
    turn(rows, panel)
    assert np.array_equal(panel, rows.transpose(1, 0, 2))


def test_the_instruction_set_is_the_cpus_best_unless_it_is_named(monkeypatch):
    monkeypatch.delenv("BLOCKS2TOKENS_SIMD", raising=False)
    assert cpu.chosen() == cpu.available()[0]
    monkeypatch.setenv("BLOCKS2TOKENS_SIMD", "Plain")
    assert cpu.chosen() == "plain"
    monkeypatch.setenv("BLOCKS2TOKENS_SIMD", "mmx")
    with pytest.raises(UnsupportedError, match=r"expected one of avx512, .*, neon, plain, got 'mmx'"):
        cpu.chosen()
    monkeypatch.setattr(cpu, "available", lambda: ["plain"])
    monkeypatch.setattr(cpu, "all_features", lambda: {"avx2": True})
    monkeypatch.setenv("BLOCKS2TOKENS_SIMD", "avx2")
    with pytest.raises(UnsupportedError, match="this CPU has no avx2, only plain"):
        cpu.chosen()


def test_features_are_those_that_the_user_states(monkeypatch):
    monkeypatch.setattr(cpu, "STATED", "+dotprod,-i8mm")
    assert cpu.all_features() == {"dotprod": True, "i8mm": False}
    monkeypatch.setattr(cpu, "features", cpu.features.__wrapped__)
    assert cpu.available.__wrapped__() == ("neon", "plain")


@pytest.mark.parametrize(("i8mm", "best"), [(1, "i8mm"), (0, "neon")])
def test_macos_is_asked_for_what_llvm_does_not_find_there(i8mm, best, monkeypatch):
    told = {"hw.optional.arm.FEAT_DotProd": 1, "hw.optional.arm.FEAT_I8MM": i8mm}
    monkeypatch.setattr(cpu, "STATED", None)
    monkeypatch.setattr(cpu.sys, "platform", "darwin")
    monkeypatch.setattr(cpu.platform, "machine", lambda: "arm64")
    monkeypatch.setattr(cpu, "macos_tells", told.__getitem__)
    monkeypatch.setattr(cpu, "features", cpu.features.__wrapped__)
    assert cpu.available.__wrapped__()[0] == best


@pytest.mark.parametrize(
    ("hwcap", "hwcap2", "best"), [(1 << 20, 1 << 13, "i8mm"), (1 << 20, 0, "neon"), (0, 0, "plain")]
)
def test_linux_is_asked_for_what_llvm_does_not_find_there(hwcap, hwcap2, best, monkeypatch):
    monkeypatch.setattr(cpu, "STATED", None)
    monkeypatch.setattr(cpu.sys, "platform", "linux")
    monkeypatch.setattr(cpu.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(cpu.llvm, "get_host_cpu_features", lambda: {"neon": True})
    monkeypatch.setattr(cpu, "linux_tells", {16: hwcap, 26: hwcap2}.__getitem__)
    monkeypatch.setattr(cpu, "features", cpu.features.__wrapped__)
    assert cpu.available.__wrapped__()[0] == best


def test_a_cpu_named_to_numba_has_the_features_that_vectors_are_chosen_by(monkeypatch):
    """LLVM ends the process at an instruction that neither the CPU's name nor its features bring."""
    monkeypatch.setattr(cpu, "STATED", None)
    monkeypatch.setattr(cpu.config, "CPU_NAME", "neoverse-n1")
    monkeypatch.setattr(cpu.config, "CPU_FEATURES", None)
    monkeypatch.setattr(cpu, "features", lambda: {"dotprod": True, "i8mm": True})
    cpu.leave_out_unwanted()
    assert set(cpu.config.CPU_FEATURES.split(",")) == {"+dotprod", "+i8mm"}


# --- Activations ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "block"), [("Q8_K", 256), ("Q8_0", 32)])
def test_activations_have_ggmls_codes(name, block):
    x = np.random.default_rng(1).standard_normal((5, 512), np.float32)
    made = quantized_activations.quantize(x, block, 32)
    ggml = FORMATS[name].blocks(FORMATS[name].quantize(x))
    signs = np.sign(ggml["d"].astype(np.float32))[..., None]  # Q8_K makes the largest value -127
    codes = made.codes.reshape(ggml["qs"].shape)
    assert np.mean(codes == signs * ggml["qs"]) > 0.999  # ggml rounds its scale, or divides twice
    assert np.abs(codes - signs * ggml["qs"]).max() <= 1
    assert np.allclose(made.d[:, :, 0], np.abs(ggml["d"].astype(np.float32)), rtol=1e-3)


def test_activations_are_off_by_half_a_step_at_most():
    x = np.random.default_rng(2).standard_normal((3, 768), np.float32) * np.float32(1e6)
    made = quantized_activations.quantize(x, 256, 32)
    steps = made.d[..., None]
    assert np.all(np.abs(x.reshape(3, 3, 1, 256) - steps * made.codes) <= 0.5001 * steps)


@pytest.mark.parametrize(("block", "group"), [(256, 16), (256, 32), (32, 32)])
@pytest.mark.parametrize("n_rows", [5, 400])  # by one core, by all
def test_activations_stand_in_tiles_with_their_sums(block, group, n_rows):
    x = np.random.default_rng(3).standard_normal((n_rows, 512), np.float32)
    alone = quantized_activations.quantize(x, block, group)
    tiled = quantized_activations.quantize(x, block, group, tile=4)
    for name in ("codes", "d", "sums"):
        one, four = getattr(alone, name), getattr(tiled, name)
        for m in range(n_rows):
            assert np.array_equal(four[m // 4, :, m % 4], one[m, :, 0]), name
        assert not four[-1, :, n_rows % 4 or 4 :].any()  # rows that fill up the last tile
    sums = alone.codes.reshape(n_rows, 512 // block, 1, -1, group).sum(axis=4)
    assert np.array_equal(alone.sums, sums if block == 256 else (sums[..., 0] * alone.d).astype(np.float32))


@pytest.mark.parametrize(("value", "d"), [(0.0, 0.0), (1e-38, 0.0), (np.inf, np.nan), (np.nan, np.nan)])
def test_activations_that_have_no_scale(value, d):
    x = np.zeros((1, 64), np.float32)
    x[0, 5] = value
    made = quantized_activations.quantize(x, 32, 32)
    assert np.array_equal(made.d[0, :, 0], [d, 0], equal_nan=True) and not made.codes.any()


# --- Kernels ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", integer_dot.FORMATS)
def test_scales_codes_and_offsets_are_the_formats(name):
    fmt, (codes_of, group) = FORMATS[name], integer_dot.FORMATS[name]
    w = matrix(name, 1, 512, np.random.default_rng(3))
    q, scales, offsets = np.empty(512, np.uint8), np.empty(512 // group, "f4"), np.empty(512 // group, "f4")
    codes_of(w.raw[0], q, scales, offsets)
    decoded = np.repeat(scales, group) * q - np.repeat(offsets, group)
    assert np.allclose(decoded, fmt.dequantize(w.raw)[0], rtol=1e-5, atol=1e-5 * np.abs(decoded).max())


@pytest.mark.parametrize("name", integer_dot.FORMATS)
def test_the_plain_kernel_rounds_activations(name):
    rng = np.random.default_rng(5)
    w = QuantizedMatrix.quantize(rng.standard_normal((64, 1024), np.float32), name)
    x = rng.standard_normal((9, 1024), np.float32)
    exact = x.astype(np.float64) @ w.dequantize().astype(np.float64).T
    error = KERNELS["integer_dot"](x, w) - exact
    assert 1e-4 < np.linalg.norm(error) / np.linalg.norm(exact) < 0.01
