"""An embedding that is the output matrix too: its errors as rows and as products, told apart by measuring."""

import numpy as np
import pytest
from small_model import small_model

import blocks2tokens as b2t
from blocks2tokens import mix, tied
from blocks2tokens.formats import FORMATS, feedback
from blocks2tokens.importance import hessians
from blocks2tokens.quality import Reference

IDS = np.random.default_rng(0).integers(0, 320, 513)
NAME = "token_embd.weight"


def made(folder, **how):
    small = small_model(dim=64, ffn_dim=256, context_length=64, default_format="F16", **how)
    return b2t.load(small.write(folder / "small.gguf"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return made(tmp_path_factory.mktemp("tied"))


@pytest.fixture(scope="module")
def of_outputs(model):
    """The hessian of the output matrix alone, float32 [K, K]."""
    return dict(hessians(model, IDS, [NAME]))[NAME][0]


@pytest.fixture(scope="module")
def share(model, of_outputs):
    return tied.lookup_share(model, IDS, of_outputs)


def rounded(model, fmt, hessian):
    W, weights = model.transformer.token_embd.dequantize(), np.diagonal(hessian).copy()
    return feedback.encode(fmt, W, feedback.factor(hessian), weights, "ggml")


def kl(model, fmt, raw):
    return Reference(model, IDS).measure(mix.Variant(model, {NAME: (fmt, raw)})).kl.value


def test_the_hessian_of_a_tied_embedding_has_its_share(model, of_outputs, share):
    other = "blk.0.attn_q.weight"
    found = dict(tied.hessians(model, IDS, [NAME, other]))
    assert found[NAME].shape == (1, 64, 64) and found[NAME].dtype == np.float32
    assert np.allclose(found[NAME][0], of_outputs + share * np.eye(64), rtol=1e-4, atol=1e-4)
    assert np.array_equal(found[other], dict(hessians(model, IDS, [other]))[other])


@pytest.mark.parametrize("name", ["Q4_0", "IQ4_NL", "Q5_1"])
def test_rounded_by_both_uses_it_is_nearer(model, of_outputs, share, name):
    fmt = FORMATS[name]
    by_both = rounded(model, fmt, of_outputs + np.float32(share) * np.eye(64, dtype=np.float32))
    assert kl(model, fmt, by_both) < 0.9 * kl(model, fmt, rounded(model, fmt, of_outputs))


def test_the_loss_of_a_tied_embedding_is_expected(model):
    """Of the outputs' error alone, a fifth is expected: errors fed back fall on the rows."""
    search = mix.Search(model, b2t.importance(model, IDS), [NAME]).run()
    hessian = dict(tied.hessians(model, IDS, [NAME]))[NAME][0]
    for name in ("Q4_0", "IQ4_NL", "Q5_1"):
        if name in search.losses[NAME]:
            found = kl(model, FORMATS[name], rounded(model, FORMATS[name], hessian))
            assert 0.5 < search.losses[NAME][name] / found < 2, name


def test_convert_rounds_by_both_uses(model, share, of_outputs, tmp_path):
    found = b2t.importance(model, IDS)
    b2t.convert(model.file.path, tmp_path / "q.gguf", "Q4_0", importance=found, effort="best")
    hessian = of_outputs + np.float32(share) * np.eye(64, dtype=np.float32)
    W = model.transformer.token_embd.dequantize()
    expected = feedback.encode(
        FORMATS["Q4_0"], W, feedback.factor(hessian), np.diagonal(hessian).copy(), "best"
    )
    assert np.mean(b2t.GGUFFile(tmp_path / "q.gguf").raw(NAME) == expected) > 0.99


def test_an_embedding_that_is_only_looked_up_is_left_alone(tmp_path):
    model = made(tmp_path, tied=False)
    names = list(b2t.importance(model, IDS).sums)
    assert NAME not in names and "output.weight" in names
    for name, hessian in tied.hessians(model, IDS, names):
        assert np.array_equal(hessian, dict(hessians(model, IDS, [name]))[name])
