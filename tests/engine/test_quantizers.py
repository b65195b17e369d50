"""Every quantizer against ggml's bytes, and effort="best" against ggml's error."""

from pathlib import Path

import numpy as np
import pytest

from blocks2tokens.formats import FORMATS, by_ggml_type
from blocks2tokens.gguf_file import GGUFFile

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "ggml_quantizers.npz")
LEGACY = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]
K_QUANTS = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
TABLES = ["IQ4_NL", "IQ4_XS", "MXFP4"]
SEARCHED = [*LEGACY, *K_QUANTS, *TABLES]
WEIGHED = [name for name in SEARCHED if name not in ("Q8_0", "MXFP4")]
ONE_ENCODING = ["F32", "F16", "BF16", "Q8_K"]
K = 512


@pytest.mark.parametrize("name", SEARCHED)
def test_bytes_equal_ggml(name):
    assert np.array_equal(FORMATS[name].quantize(GOLDEN["x"]), GOLDEN[name])


@pytest.mark.parametrize("name", WEIGHED)
def test_bytes_with_importance_equal_ggml(name):
    raw = FORMATS[name].quantize(GOLDEN["x"], GOLDEN["imatrix"])
    assert np.array_equal(raw, GOLDEN[f"{name}_imatrix"])


@pytest.mark.parametrize("name", ["Q8_0", "MXFP4", *ONE_ENCODING])
def test_importance_is_ignored_where_ggml_ignores_it(name):
    fmt, x = FORMATS[name], GOLDEN["x"][:8]
    assert np.array_equal(fmt.quantize(x, GOLDEN["imatrix"]), fmt.quantize(x))


@pytest.mark.parametrize("name", ONE_ENCODING)
def test_best_is_the_same_where_there_is_one_encoding(name):
    fmt, x = FORMATS[name], GOLDEN["x"][:8]
    assert np.array_equal(fmt.quantize(x, effort="best"), fmt.quantize(x))


def rows_of_model(path, n, seed):
    """Return n rows of 512 weights from all over the matrices of a model, float32 [n, 512]."""
    file, rng = GGUFFile(path), np.random.default_rng(seed)
    matrices = [info for info in file.tensors.values() if len(info.shape) == 2]
    rows = []
    for i in rng.choice(len(matrices), n, replace=False):
        raw = file.raw(matrices[i].name)
        middle = np.array(raw[len(raw) // 2 : len(raw) // 2 + 2])
        rows.append(by_ggml_type(matrices[i].ggml_type).dequantize(middle).reshape(-1)[:K])
    return np.array(rows)


@pytest.fixture(scope="module", params=["Gaussian", "Laplace", "heavy tails", "Austen", "SmolLM2"])
def weights(request):
    """32 rows of 512 weights of one kind."""
    rng = np.random.default_rng(1)
    if request.param == "Austen":
        return rows_of_model(request.getfixturevalue("austen_path"), 32, seed=1)
    if request.param == "SmolLM2":
        return rows_of_model(request.getfixturevalue("smollm2_path"), 32, seed=1)
    draw = {
        "Gaussian": lambda: rng.standard_normal((32, K)),
        "Laplace": lambda: rng.laplace(size=(32, K)),
        "heavy tails": lambda: rng.standard_t(3, (32, K)),
    }[request.param]
    return draw().astype(np.float32)


def block_errors(fmt, x, raw, importance=1.0):
    """Return the error of each block, sum of importance * (decoded - x)**2, float64."""
    difference = fmt.dequantize(raw).astype(np.float64) - x
    return np.sum((importance * difference**2).reshape(-1, fmt.block_size), axis=1)


def relative_rms(fmt, x, raw):
    return float(np.sqrt(block_errors(fmt, x, raw).sum() / np.sum(x.astype(np.float64) ** 2)))


@pytest.mark.parametrize("name", SEARCHED)
def test_best_has_a_lower_error_and_no_block_a_higher_one(name, weights):
    fmt = FORMATS[name]
    ggml = block_errors(fmt, weights, fmt.quantize(weights))
    best = block_errors(fmt, weights, fmt.quantize(weights, effort="best"))
    assert np.all(best <= ggml * (1 + 1e-12))
    assert np.sqrt(best.sum()) <= 0.985 * np.sqrt(ggml.sum())  # SmolLM2's Q4_1 is exact: both are 0


@pytest.mark.parametrize("name", SEARCHED)
def test_best_with_importance_lowers_the_weighted_error(name, weights):
    fmt, importance = FORMATS[name], GOLDEN["imatrix"]
    ggml = block_errors(fmt, weights, fmt.quantize(weights, importance), importance)
    best = block_errors(fmt, weights, fmt.quantize(weights, importance, "best"), importance)
    assert np.all(best <= ggml * (1 + 1e-12))
    assert np.sqrt(best.sum()) <= 0.99 * np.sqrt(ggml.sum())


def test_best_q4_k_comes_close_to_free_scales():
    """Free float32 scales and minimums for every 32 weights would give 0.0683; ggml's search 0.0710."""
    x = np.random.default_rng(2).standard_normal((256, 256)).astype(np.float32)
    fmt = FORMATS["Q4_K"]
    assert (
        relative_rms(fmt, x, fmt.quantize(x, effort="best")) < 0.0696 < relative_rms(fmt, x, fmt.quantize(x))
    )


@pytest.mark.parametrize("effort", ["ggml", "best"])
@pytest.mark.parametrize("name", WEIGHED)
def test_importance_lowers_the_weighted_error(name, effort):
    x = np.random.default_rng(3).standard_normal((48, K)).astype(np.float32)
    fmt, importance = FORMATS[name], GOLDEN["imatrix"]
    without = block_errors(fmt, x, fmt.quantize(x, None, effort), importance).sum()
    assert block_errors(fmt, x, fmt.quantize(x, importance, effort), importance).sum() < without


def difficult_rows():
    """Rows of zeros, constants, one weight among zeros, and weights at the limits of float16 and float32."""
    rng = np.random.default_rng(4)
    x = np.zeros((12, K), np.float32)
    x[1], x[2], x[3, 100], x[4, 100] = 0.37, -1.5, 1.0, -1e-6
    for row, size in enumerate([1e-45, 1e-38, 1e-20, 1e-6, 1e4, 1e20, 3e38], start=5):
        x[row] = rng.uniform(-size, size, K)
    return x


@pytest.mark.parametrize("importance", ["none", "random", "zero"])
@pytest.mark.parametrize("name", SEARCHED)
def test_difficult_rows_are_encoded_and_best_is_never_worse(name, importance):
    fmt, x = FORMATS[name], difficult_rows()
    weights = {"none": None, "random": GOLDEN["imatrix"], "zero": np.zeros(K, np.float32)}[importance]
    ggml, best = fmt.quantize(x, weights), fmt.quantize(x, weights, "best")
    counted = 1.0 if weights is None else weights
    with np.errstate(invalid="ignore", over="ignore"):
        before, after = block_errors(fmt, x, ggml, counted), block_errors(fmt, x, best, counted)
        worse = after > before * (1 + 1e-12)
    assert not np.any(worse)
    assert np.array_equal(fmt.dequantize(best)[0], x[0])


@pytest.mark.parametrize("name", SEARCHED)
def test_constant_blocks_keep_their_value(name):
    fmt, x = FORMATS[name], np.repeat(np.float32([[0.37], [-1.5]]), K, axis=1)
    step = 0.2 if name in ("Q2_K", "Q3_K", "MXFP4") else 0.02
    for effort in ("ggml", "best"):
        assert np.allclose(fmt.dequantize(fmt.quantize(x, effort=effort)), x, rtol=step)


@pytest.mark.parametrize("effort", ["ggml", "best"])
@pytest.mark.parametrize("name", SEARCHED)
def test_a_row_does_not_depend_on_its_neighbours(name, effort):
    fmt, x = FORMATS[name], GOLDEN["x"][:6]
    whole = fmt.quantize(x.reshape(2, 3, K), GOLDEN["imatrix"], effort)
    alone = [fmt.quantize(row, GOLDEN["imatrix"], effort) for row in x]
    assert np.array_equal(whole.reshape(6, -1), alone)


def with_importance(importance):
    return lambda f: f.quantize(np.zeros((2, 256), np.float32), importance)


BAD_CALLS = {
    "importance of another length": (
        with_importance(np.ones(255, np.float32)),
        r"importance: expected shape \(256,\), one for each column, got \(255,\)",
    ),
    "importance per row": (with_importance(np.ones((2, 256), np.float32)), r"got \(2, 256\)"),
    "importance below zero": (
        with_importance(np.where(np.arange(256) < 7, 1, -2).astype(np.float32)),
        r"importance: expected finite values >= 0, got -2.0 at index 7",
    ),
    "importance not a number": (with_importance(np.full(256, np.nan, np.float32)), "got nan at index 0"),
    "importance infinite": (with_importance(np.full(256, np.inf, np.float32)), "got inf at index 0"),
    "importance float64": (with_importance(np.ones(256)), "importance: expected dtype float32, got float64"),
    "importance a list": (with_importance([1.0] * 256), "importance: expected a NumPy array"),
    "unknown effort": (
        lambda f: f.quantize(np.zeros(256, np.float32), effort="worst"),
        "effort: expected 'ggml' or 'best', got 'worst'",
    ),
    "infinite weight": (
        lambda f: f.quantize(np.float32([[np.inf] * 256]), effort="best"),
        r"x: expected finite weights, got inf at index \(0, 0\)",
    ),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_input_says_what_was_expected_and_what_came(case):
    call, message = BAD_CALLS[case]
    with pytest.raises(ValueError, match=message):
        call(FORMATS["Q4_K"])
