"""Error feedback against the method's definition in float64, and blocks that stay ordinary ones."""

import numpy as np
import pytest

import blocks2tokens as b2t
from blocks2tokens.formats import FORMATS, feedback
from blocks2tokens.formats.feedback import code_bits, encode, factor

K, ROWS = 512, 24


@pytest.fixture(scope="module")
def problem():
    """Weights, and the hessian of inputs that go together, float32 [ROWS, K], [K, K]."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, K)) @ (np.eye(K) + 0.1 * rng.standard_normal((K, K)))
    x[:, ::31] *= 6
    return rng.standard_normal((ROWS, K)).astype(np.float32), (x.T @ x / 2000).astype(np.float32)


def error_of(fmt, raw, W, H):
    E = (fmt.dequantize(raw) - W).astype(np.float64)
    return np.einsum("nk,kl,nl->", E, H.astype(np.float64), E)


@pytest.mark.parametrize("name", feedback.FORMATS)
def test_the_outputs_are_nearer(problem, name):
    """Than with the importance of columns alone, at the same bytes."""
    W, H = problem
    fmt, columns = FORMATS[name], np.diagonal(H).copy()
    fed = encode(fmt, W, factor(H), columns, "ggml")
    plain = fmt.quantize(W, importance=columns)
    assert fed.shape == plain.shape
    assert error_of(fmt, fed, W, H) < 0.8 * error_of(fmt, plain, W, H)


@pytest.mark.parametrize("name", feedback.FORMATS)
def test_code_bits_are_all_the_codes(name):
    """Codes read by their bits and written again give the same bytes; those of scales stay as they are."""
    fmt = FORMATS[name]
    codes = code_bits(fmt)
    raw = fmt.quantize(np.random.default_rng(1).standard_normal((5, fmt.block_size)).astype(np.float32))
    bits = np.unpackbits(raw, axis=1, bitorder="little")
    n_bits = codes.places.shape[1]
    assert len(np.unique(codes.places)) == fmt.block_size * n_bits
    values = sum(bits[:, codes.places[:, b]].astype(int) << b for b in range(n_bits))
    levels = np.argsort(codes.codes)[values]
    again = raw.copy()
    codes.write(again, np.zeros_like(levels))
    assert not np.array_equal(again, raw)
    codes.write(again, levels)
    assert np.array_equal(again, raw)
    low, high = (feedback._at_level(fmt, codes, raw, level) for level in (0, 2**n_bits - 1))
    assert np.allclose(low + (high - low) * codes.levels[levels], fmt.dequantize(raw), atol=1e-5)


def test_columns_are_rounded_as_the_method_says():
    """Q4_1 has one scale and one minimum for 32 weights: between them, plain loops in float64."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((300, 32)) @ (np.eye(32) + 0.3 * rng.standard_normal((32, 32)))
    H = (x.T @ x / 300).astype(np.float32)
    W, U, fmt = rng.standard_normal((6, 32)).astype(np.float32), factor(H), FORMATS["Q4_1"]
    block = fmt.blocks(fmt.quantize(W))[:, 0]
    found = fmt.dequantize(encode(fmt, W, U, None, "ggml"))
    for row in range(6):
        d, m, w = float(block["d"][row]), float(block["m"][row]), W[row].astype(np.float64)
        for j in range(32):
            q = d * min(15, max(0, round((w[j] - m) / d))) + m
            assert found[row, j] == pytest.approx(q, abs=1e-5), (row, j)
            w[j + 1 :] -= (w[j] - q) / U[j, j] * U[j, j + 1 :]


def test_the_factor_is_that_of_the_damped_inverse(problem):
    H = problem[1].astype(np.float64)
    U = factor(problem[1]).astype(np.float64)
    damped = H + feedback.DAMPING * np.diagonal(H).mean() * np.eye(K)
    assert np.allclose(U.T @ U @ damped, np.eye(K), atol=1e-2)
    assert (np.tril(U, -1) == 0).all() and (np.diagonal(U) > 0).all()


def test_inputs_that_were_never_there():
    """A text may leave a column out, or all."""
    H = np.diag(np.r_[0.0, np.ones(31)]).astype(np.float32)
    assert np.isfinite(factor(H)).all() and np.isfinite(factor(np.zeros((32, 32), np.float32))).all()


def test_inputs_that_have_nothing_in_common_change_nothing():
    """With a diagonal hessian there is nothing to feed back: the codes of the scales stay."""
    W = np.random.default_rng(3).standard_normal((4, 64)).astype(np.float32)
    U = factor(np.eye(64, dtype=np.float32))
    for name in ("Q4_1", "IQ4_NL"):
        fmt = FORMATS[name]
        fed, plain = encode(fmt, W, U, None, "ggml"), fmt.quantize(W)
        assert np.mean(fmt.dequantize(fed) == fmt.dequantize(plain)) > 0.95


def test_bad_arguments(problem):
    W, H = problem
    with pytest.raises(ValueError, match="format: expected one of Q2_K"):
        encode(FORMATS["Q8_0"], W, factor(H), None, "ggml")
    with pytest.raises(ValueError, match=r"U: expected float32 \(512, 512\), got"):
        encode(FORMATS["Q4_0"], W, np.eye(32, dtype=np.float32), None, "ggml")
    with pytest.raises(ValueError, match="multiple of 256"):
        encode(FORMATS["Q4_K"], W[:, :100].copy(), factor(H), None, "ggml")
    with pytest.raises(ValueError, match="expected finite"):
        encode(FORMATS["Q4_0"], W * np.float32(np.nan), factor(H), None, "ggml")


def test_zeros_stay_zeros():
    for name in feedback.FORMATS:
        fmt = b2t.FORMATS[name]
        raw = encode(fmt, np.zeros((2, 256), np.float32), factor(np.eye(256)), None, "ggml")
        assert (fmt.dequantize(raw) == 0).all(), name
