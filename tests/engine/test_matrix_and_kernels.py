"""QuantizedMatrix, and every kernel against float64 products of the weights that it decodes."""

from dataclasses import astuple

import numpy as np
import pytest
from small_model import random_tensor

import blocks2tokens as b2t
from blocks2tokens import FORMATS, KERNELS, QuantizedMatrix
from blocks2tokens.kernels.ours.unpack import PACKED

INTEGER = [name for name, packed in PACKED.items() if not packed.is_float]
UNIT = 2.0**-24  # half the distance from 1 to the next float32: the relative error of one rounding
M_AND_N = [(0, 5), (1, 1), (1, 33), (2, 7), (7, 16), (8, 17), (40, 3)]


def random_matrix(name, rows, columns, seed, layout="gguf"):
    """Return a QuantizedMatrix of random blocks."""
    rng = np.random.default_rng(seed)
    shape = (rows, columns) if layout == "gguf" else (rows * columns,)
    return QuantizedMatrix(random_tensor(name, shape, rng)[1], name, (rows, columns), layout)


def random_floats(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def row_length(name, seed):
    """Return a K of one to three blocks, about 100 weights at least."""
    size = FORMATS[name].block_size
    return size * int(np.random.default_rng(seed).integers(1, 4)) if size > 1 else 97


# --- QuantizedMatrix --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(FORMATS))
@pytest.mark.parametrize("layout", ["gguf", "report"])
def test_a_matrix_decodes_its_blocks_in_place(name, layout):
    w = random_matrix(name, 3, 256, seed=1, layout=layout)
    expected = FORMATS[name].dequantize(w.raw.reshape(-1)).reshape(3, 256)
    assert np.array_equal(w.dequantize(), expected)
    assert w.format is FORMATS[name] and w.shape == (3, 256) and w.layout == layout
    assert w.nbytes == w.raw.nbytes == 3 * 256 // w.format.block_size * w.format.bytes_per_block


def test_raw_is_a_read_only_view_and_no_copy():
    raw = random_tensor("Q8_0", (3, 64), np.random.default_rng(2))[1]
    w = QuantizedMatrix(raw, "Q8_0", (3, 64))
    assert np.shares_memory(w.raw, raw) and w.raw.ctypes.data == raw.ctypes.data
    assert raw.flags.writeable and not w.raw.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        w.raw[0, 0] = 1


@pytest.mark.parametrize(("layout", "raw_shape"), [("gguf", (6, 2 * 34)), ("report", (6 * 2 * 34,))])
def test_quantizing_lays_blocks_along_the_rows_or_the_flat_index(layout, raw_shape):
    W = random_floats((6, 64), seed=3)
    w = QuantizedMatrix.quantize(W, "Q8_0", layout=layout)
    assert w.raw.shape == raw_shape and w.layout == layout
    assert np.array_equal(w.raw.reshape(-1), FORMATS["Q8_0"].quantize(W).reshape(-1))
    assert np.abs(w.dequantize() - W).max() <= np.abs(W).max() / 127


def test_blocks_of_the_report_layout_may_cross_rows():
    B = random_floats((64, 3), seed=4)  # rows of 3: no format has blocks that short
    w = QuantizedMatrix.quantize(B, FORMATS["Q8_0"], layout="report")
    assert w.shape == (64, 3) and np.abs(w.dequantize() - B).max() <= np.abs(B).max() / 127


def test_rows_decodes_the_rows_asked_for():
    w = random_matrix("Q4_K", 7, 512, seed=5)
    assert np.array_equal(w.rows(np.array([6, 0, 6])), w.dequantize()[[6, 0, 6]])
    assert w.rows(np.array([], int)).shape == (0, 512)


def test_repr_says_what_it_is():
    w = random_matrix("Q4_K", 7, 512, seed=5)
    assert repr(w) == "QuantizedMatrix(Q4_K 7 x 512, 2,016 bytes, gguf)"


BYTES = np.zeros((2, 68), np.uint8)
BAD_MATRICES = {
    "layout": ((BYTES, "Q8_0", (2, 64), "ggml"), "layout: expected one of .* got 'ggml'"),
    "format": ((BYTES, "Q9_0", (2, 64)), "format: expected one of F32, .* got 'Q9_0'"),
    "format number": ((BYTES, 8, (2, 64)), "format: expected one of .* got 8"),
    "format list": ((BYTES, ["Q8_0"], (2, 64)), "format: expected one of"),
    "raw list": (([0] * 68, "Q8_0", (2, 64)), "raw: expected a NumPy array of uint8, got list"),
    "raw dtype": ((BYTES.view(np.int8), "Q8_0", (2, 64)), "raw: expected dtype uint8, got int8"),
    "raw strided": ((np.zeros((2, 136), np.uint8)[:, ::2], "Q8_0", (2, 64)), "C-contiguous"),
    "raw flat": ((BYTES.reshape(-1), "Q8_0", (2, 64)), r"needs shape \(2, 68\), got \(136,\)"),
    "raw rows": ((BYTES, "Q8_0", (3, 64)), r"needs shape \(3, 68\), got \(2, 68\)"),
    "raw columns": ((BYTES, "Q8_0", (2, 96)), r"needs shape \(2, 102\), got \(2, 68\)"),
    "report raw": ((BYTES, "Q8_0", (2, 64), "report"), r"needs shape \(136,\), got \(2, 68\)"),
    "part of a block": ((BYTES, "Q8_0", (2, 65)), "multiple of 32 weights, got 65"),
    "report part of a block": (
        (BYTES.reshape(-1), "Q8_0", (2, 65), "report"),
        r"K \* N must be a multiple of 32 weights, got K \* N = 130 for shape \(2, 65\)",
    ),
    "one dimension": ((BYTES, "Q8_0", (64,)), r"expected two whole numbers, got \(64,\)"),
    "no tuple": ((BYTES, "Q8_0", 64), "expected two whole numbers, got 64"),
    "fraction": ((BYTES, "Q8_0", (2.5, 64)), r"expected two whole numbers, got \(2.5, 64\)"),
    "negative": ((BYTES.reshape(-1), "Q8_0", (-2, -64), "report"), r"negative dimension, got \(-2, -64\)"),
}


@pytest.mark.parametrize("case", BAD_MATRICES)
def test_what_is_no_matrix_is_refused(case):
    arguments, message = BAD_MATRICES[case]
    with pytest.raises(ValueError, match=message):
        QuantizedMatrix(*arguments)


BAD_WEIGHTS = {
    "vector": (np.zeros(64, np.float32), r"two dimensions, got shape \(64,\)"),
    "float64": (np.zeros((2, 64)), "expected dtype float32, got float64"),
    "list": ([[0.0] * 64], "expected a NumPy array of float32, got list"),
    "transposed": (np.zeros((64, 64), np.float32).T, "C-contiguous"),
    "part of a block": (np.zeros((2, 65), np.float32), "multiple of 32 weights, got 65"),
}


@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_what_cannot_be_quantized_is_refused(case):
    W, message = BAD_WEIGHTS[case]
    with pytest.raises(ValueError, match=message):
        QuantizedMatrix.quantize(W, "Q8_0")


def test_a_report_matrix_of_part_of_a_block_is_refused():
    with pytest.raises(ValueError, match=r"multiple of 256 weights, got K \* N = 130 for shape \(2, 65\)"):
        QuantizedMatrix.quantize(np.zeros((2, 65), np.float32), "Q4_K", layout="report")


def test_rows_of_the_report_layout_are_refused():
    with pytest.raises(ValueError, match="got 'report'"):
        random_matrix("Q8_0", 2, 64, seed=6, layout="report").rows(np.array([0]))


# --- Products ---------------------------------------------------------------------------------------------


def check_product(multiply, x, w):
    """Compare with the float64 product; any order of summing K products in float32 keeps the bound.

    |error| <= K u / (1 - K u) * sum |x| |w|. Source: Higham, "Accuracy and Stability of Numerical
    Algorithms", 2002, section 3.1. Kernels that round x to 8 bits may be off by half a step of x more, and
    sum scale * code and offset apart, each as large as the largest weights of the format's blocks.
    """
    W = w.dequantize().astype(np.float64)
    W = W.T if w.layout == "gguf" else W  # [K, N]
    K = W.shape[0]
    out = multiply(x, w)
    assert out.dtype == np.float32 and out.shape == (x.shape[0], W.shape[1])
    size = np.abs(W)
    bound = K * UNIT / (1 - K * UNIT) * (np.abs(x).astype(np.float64) @ size)
    if getattr(multiply, "rounds_activations", multiply is b2t.matmul) and w.format.name in INTEGER:
        blocks = size.reshape(-1, w.format.block_size, size.shape[1])
        size = size + 4 * np.repeat(blocks.max(axis=1), w.format.block_size, axis=0)
        bound = 8 * UNIT * K * (np.abs(x).astype(np.float64) @ size) + half_steps(x, w.format) @ np.abs(W)
    error = np.abs(out - x.astype(np.float64) @ W)
    assert np.all(error <= bound), f"error up to {np.max(error / bound)} times the bound"


def half_steps(x, fmt):
    """Return how far each activation, float64 [M, K], may move when it is rounded to 8 bits."""
    blocks = np.abs(x).astype(np.float64).reshape(len(x), x.shape[1] // fmt.block_size, fmt.block_size)
    steps = np.repeat(blocks.max(axis=2, initial=0), fmt.block_size, axis=1) / 127
    return steps * (0.5 + 1e-4)


def operand(layout, name, K, N, seed):
    """Return random weights that take K inputs to N outputs."""
    if layout == "gguf":
        return random_matrix(name, N, K, seed)
    return random_matrix(name, K, N, seed, layout="report")


@pytest.mark.parametrize("name", list(FORMATS))
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=list(KERNELS))
def test_every_kernel_multiplies_by_every_format(kernel, name):
    for seed, (M, N) in enumerate(M_AND_N):
        K = row_length(name, seed)
        check_product(kernel, random_floats((M, K), seed), operand(kernel.layout, name, K, N, seed))


@pytest.mark.parametrize("name", list(FORMATS))
def test_matmul_multiplies_by_every_format_for_every_number_of_rows(name):
    K = row_length(name, seed=7)
    w = random_matrix(name, 19, K, seed=7)
    for M in range(41):
        check_product(b2t.matmul, random_floats((M, K), seed=M), w)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=list(KERNELS))
@pytest.mark.parametrize(("M", "K", "N"), [(0, 0, 0), (2, 64, 0), (2, 0, 3), (9, 0, 3), (0, 64, 3)])
def test_empty_products_have_the_shape_that_they_should(kernel, M, K, N):
    shape = (N, K) if kernel.layout == "gguf" else (K, N)
    w = QuantizedMatrix.quantize(np.ones(shape, np.float32), "Q8_0" if N else "F32", layout=kernel.layout)
    assert np.array_equal(kernel(np.ones((M, K), np.float32), w), np.zeros((M, N), np.float32))


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=list(KERNELS))
def test_rows_are_long_and_values_span_many_magnitudes(kernel):
    K = 4096
    x = random_floats((3, K), seed=8) * np.float32(10) ** np.random.default_rng(8).integers(-6, 7, (3, K))
    check_product(kernel, x.astype(np.float32), operand(kernel.layout, "Q6_K", K, 5, seed=8))


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=list(KERNELS))
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_row(kernel, bad):
    x = random_floats((3, 256), seed=9)
    x[1, 77] = bad
    out = kernel(x, operand(kernel.layout, "Q8_0", 256, 8, seed=9))
    assert not np.isfinite(out[1]).any() and np.isfinite(out[[0, 2]]).all()


@pytest.mark.parametrize("kernel", [*KERNELS.values(), b2t.matmul], ids=[*KERNELS, "matmul"])
@pytest.mark.parametrize("M", [1, 9])
def test_operands_are_left_as_they_were_and_may_be_read_only(kernel, M):
    x = random_floats((M, 64), seed=10)
    w = operand(getattr(kernel, "layout", "gguf"), "Q8_0", 64, 6, seed=10)
    x_before, raw_before = x.copy(), w.raw.copy()
    first = kernel(x, w)
    x.flags.writeable = False
    assert np.array_equal(kernel(x, w), first) and first.flags.owndata and first.flags.writeable
    assert np.array_equal(x, x_before) and np.array_equal(w.raw, raw_before)


def bad_operands(layout):
    """name -> (x, w, message), for matrices that take 64 inputs to 5 outputs."""
    shape, other = ((5, 64), "report") if layout == "gguf" else ((64, 5), "gguf")
    w = random_matrix("F32", *shape, seed=11, layout=layout)
    x = np.zeros((2, 64), np.float32)
    both = rf"expected shape \[M, 64\] for w of shape \({shape[0]}, {shape[1]}\), got "
    return {
        "float64": (x.astype(np.float64), w, "x: expected dtype float32, got float64"),
        "float16": (x.astype(np.float16), w, "x: expected dtype float32, got float16"),
        "big-endian": (x.astype(">f4"), w, "x: expected dtype float32, got >f4"),
        "list": (x.tolist(), w, "x: expected a NumPy array of float32, got list"),
        "scalar": (np.array(1, np.float32), w, "at least one dimension"),
        "vector": (x[0], w, both + r"\(64,\)"),
        "batch": (x[None], w, both + r"\(1, 2, 64\)"),
        "columns": (np.zeros((2, 63), np.float32), w, both + r"\(2, 63\)"),
        "outputs for inputs": (np.zeros((2, 5), np.float32), w, both + r"\(2, 5\)"),
        "strided": (np.zeros((2, 128), np.float32)[:, ::2], w, "x: expected a C-contiguous array"),
        "Fortran": (np.asfortranarray(x), w, "x: expected a C-contiguous array"),
        "layout": (x, random_matrix("F32", 64, 64, 11, other), f"layout '{layout}', got '{other}'"),
        "array": (x, np.zeros((5, 64), np.float32), "expected a QuantizedMatrix, got ndarray"),
    }


@pytest.mark.parametrize("kernel", [*KERNELS.values(), b2t.matmul], ids=[*KERNELS, "matmul"])
@pytest.mark.parametrize("case", bad_operands("gguf"))
def test_bad_operands_are_refused_by_what_they_are(kernel, case):
    x, w, message = bad_operands(getattr(kernel, "layout", "gguf"))[case]
    with pytest.raises(ValueError, match=message):
        kernel(x, w)


# --- Counts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=list(KERNELS))
@pytest.mark.parametrize("name", ["F32", "Q8_0", "Q4_K"])
def test_counts_are_whole_and_not_less_than_the_work_itself(kernel, name):
    M, K, N, cores = 3, 512, 10, 4
    fmt = FORMATS[name]
    cost = kernel.cost(M, K, N, fmt, cores)
    assert all(type(count) is int and count >= 0 for count in astuple(cost))
    assert cost.multiply_adds == M * N * K
    assert cost.elements_decoded >= N * K
    assert cost.blocks_decoded >= N * K // fmt.block_size or cost.elements_decoded == M * N * K
    assert cost.bytes_read >= operand(kernel.layout, name, K, N, seed=12).nbytes + 4 * M * K


def test_decoding_a_row_at_once_costs_each_block_once_and_a_row_for_each_core():
    fmt = FORMATS["Q4_K"]
    cost = KERNELS["fused_rows"].cost(M=3, K=512, N=10, fmt=fmt, cores=4)
    assert (cost.elements_decoded, cost.blocks_decoded, cost.lookups) == (5120, 20, 0)
    assert (cost.bytes_read, cost.temporary_bytes) == (20 * 144 + 3 * 512 * 4, 4 * 512 * 4)


def test_decoding_everything_costs_a_float32_copy():
    fmt = FORMATS["Q4_K"]
    cost = KERNELS["dequantize_then_blas"].cost(M=3, K=512, N=10, fmt=fmt, cores=4)
    assert (cost.elements_decoded, cost.blocks_decoded, cost.lookups) == (5120, 20, 0)
    assert (cost.bytes_read, cost.temporary_bytes) == (20 * 144 + (10 + 3) * 512 * 4, 10 * 512 * 4)


def test_float32_is_multiplied_where_it_lies():
    rng, kernel = np.random.default_rng(14), KERNELS["dequantize_then_blas"]
    W, x = rng.standard_normal((40, 96), np.float32), rng.standard_normal((3, 96), np.float32)
    w = QuantizedMatrix.quantize(W, "F32")
    shifted = np.zeros(w.nbytes + 1, np.uint8)[1:].reshape(w.raw.shape)
    shifted[:] = w.raw
    moved = QuantizedMatrix(shifted, "F32", w.shape)  # not at a multiple of 4 bytes: a copy is made
    assert kernel.needs(3, w) == {} and kernel.needs(3, moved) == {"W": ((40, 96), np.float32)}
    assert np.array_equal(kernel(x, w), x @ W.T) and np.array_equal(kernel(x, moved), x @ W.T)
    cost = kernel.cost(3, 96, 40, w.format, 2)
    assert (cost.bytes_read, cost.temporary_bytes) == (4 * 96 * (40 + 3), 0)


def test_kernels_are_found_by_their_name_and_cannot_be_replaced():
    assert all(
        kernel.name == name and kernel.layout in ("gguf", "report") for name, kernel in KERNELS.items()
    )
    with pytest.raises(TypeError):
        KERNELS["mine"] = None
