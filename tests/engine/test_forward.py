"""The plain forward pass: the reference's logits, the engine's on real models, and parts to exchange."""

from pathlib import Path

import numpy as np
import pytest
from reference import Reference
from small_model import small_model

import blocks2tokens as b2t
from blocks2tokens.model import attention, layers, rope
from blocks2tokens.model.forward import forward

IDS = np.random.default_rng(5).integers(3, 320, 40)
MODELS = {
    "llama": {},
    "llama, own output": {"tied": False},
    "llama, linear": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "qwen2, yarn": {
        "architecture": "qwen2",
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_context_length": 16, "attn_factor": 0.8},
    },
    "qwen3": {"architecture": "qwen3", "head_dim": 32},
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return b2t.load(small_model(context_length=64).write(tmp_path_factory.mktemp("llama") / "model.gguf"))


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_the_references(name, tmp_path):
    path = small_model(context_length=64, **MODELS[name]).write(tmp_path / "model.gguf")
    expected = Reference(path).logits(IDS)
    error = np.abs(forward(b2t.load(path), IDS) - expected).max()
    assert error < 1e-4 * np.abs(expected).max()


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("path", ["austen_path", "smollm2_path"])
def test_prefill_and_decode_give_its_logits(path, request):
    model = b2t.load(request.getfixturevalue(path))
    ids = model.tokenizer.encode("It is a truth universally acknowledged, that a single man")
    expected, cache = forward(model, ids), model.transformer.new_cache(len(ids))
    steps = np.array([model.transformer.step(i, cache).copy() for i in ids])
    for logits in (model.logits(ids), steps):
        assert np.abs(logits - expected).max() < 1e-4 * np.std(expected)


def test_the_parts_are_called_as_the_engines(llama):
    calls = []

    def norm(x, weight, eps):
        calls.append("norm")
        return layers.rms_norm(x, weight, eps)

    def rotate(x, cos, sin):
        calls.append("rotate")
        return rope.rotate_adjacent(x, cos, sin)

    def gated(gate, up):
        calls.append("gated")
        return layers.swiglu(gate, up)

    def attend(q, k, v):
        calls.append("attend")
        return attention.attend(q, k, v)

    assert np.array_equal(forward(llama, IDS, norm, rotate, gated, attend), forward(llama, IDS))
    one = ["norm", "rotate", "rotate", "attend", "norm", "gated"]
    assert calls == one * llama.config.n_layers + ["norm"]


def test_the_wrong_rotation_spares_the_first_token_alone(llama):
    right, wrong = forward(llama, IDS), forward(llama, IDS, rotate=rope.rotate_halves)
    assert np.allclose(right[0], wrong[0], rtol=1e-5, atol=1e-5)
    assert (np.abs(right - wrong).max(axis=1)[1:] > 1e-3).all()


def test_more_tokens_than_the_context_are_allowed_and_unknown_ones_are_not(llama):
    assert forward(llama, np.tile(IDS, 2)).shape == (80, 320)
    with pytest.raises(ValueError, match="ids"):
        forward(llama, [0, 320])


def test_it_can_be_read_in_one_go():
    root = Path(__file__).resolve().parents[2]
    n_lines = len((root / "lib/blocks2tokens/model/forward.py").read_text(encoding="utf-8").splitlines())
    assert n_lines < 90
    assert f"plain NumPy, {n_lines} lines" in (root / "README.md").read_text(encoding="utf-8")
