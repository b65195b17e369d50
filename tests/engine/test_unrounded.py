"""Products whose inputs stay float32: against NumPy, and in a model whose kernels round."""

import numpy as np
import pytest
from small_model import small_model

import blocks2tokens as b2t
from blocks2tokens import kernels
from blocks2tokens.formats import FORMATS
from blocks2tokens.kernels import unrounded
from blocks2tokens.mix import Variant
from blocks2tokens.quality import Reference

IDS = np.random.default_rng(0).integers(0, 320, 200)


@pytest.mark.parametrize("name", ["Q4_0", "Q6_K"])
@pytest.mark.parametrize("M", [1, 5, 200])
def test_no_input_is_rounded(name, M):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((M, 512), dtype=np.float32)
    w = b2t.QuantizedMatrix.quantize(rng.standard_normal((64, 512), dtype=np.float32), name)
    exact = x.astype(np.float64) @ w.dequantize().T
    out, scratch = np.empty((M, 64), np.float32), np.empty(kernels.scratch_bytes(w, M), np.uint8)
    with unrounded():
        product, choice = b2t.matmul(x, w, explain=True)
        kernels.matmul_into(x, w, out, scratch)
    assert np.allclose(product, exact, atol=1e-4) and np.array_equal(out, product)
    assert str(choice) == "dequantize_then_blas: activations stay float32 within unrounded()"


def test_nothing_is_left_when_a_block_ends():
    with pytest.raises(ZeroDivisionError), unrounded():
        1 / 0  # noqa: B018
    assert not kernels.UNROUNDED.get()


def nudged(model):
    """Return the model with an embedding that is a millionth larger, in float32."""
    W = model.transformer.token_embd.dequantize() * np.float32(1 + 1e-6)
    raw = W.view(np.uint8).reshape(len(W), -1)
    return Variant(model, {"token_embd.weight": (FORMATS["F32"], raw)})


def test_a_nudge_of_a_millionth_stays_one(tmp_path):
    """Where activations are rounded, it is another draw of what each one is rounded to."""
    small = small_model(dim=256, ffn_dim=512, context_length=256, default_format="Q4_1")
    model = b2t.load(small.write(tmp_path / "small.gguf"))
    with unrounded():
        assert Reference(model, IDS).measure(nudged(model)).kl.value < 1e-8
    x, w = np.random.default_rng(1).standard_normal((200, 256), dtype=np.float32), model.transformer.output
    if np.allclose(b2t.matmul(x, w), x @ w.dequantize().T, atol=1e-4):
        pytest.skip("on this machine a kernel that does not round is the fastest")
    assert Reference(model, IDS).measure(nudged(model)).kl.value > 1e-5
