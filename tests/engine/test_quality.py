"""Quality against sums in float64, and its standard errors against draws."""

import math
import sys

import numpy as np
import pytest
from small_model import small_model

import blocks2tokens as b2t
from blocks2tokens.quality import TOKEN, Quality, Reference, compared, mean, paired

CONTEXT = 64


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model, and the same with its matrices in 4 bits."""
    folder = tmp_path_factory.mktemp("quality")
    path = small_model(context_length=CONTEXT).write(folder / "small.gguf")
    b2t.convert(path, folder / "q4.gguf", "Q4_0")
    return b2t.load(path), b2t.load(folder / "q4.gguf")


def by_hand(model, reference, ids, window):
    """Return nats, KL and same choice of every prediction, with math.fsum."""
    found = []
    for start in range(0, len(ids) - 1, window):
        read = ids[start : min(start + window, len(ids) - 1)]
        for row, (p, q) in enumerate(zip(reference.logits(read), model.logits(read), strict=True)):
            p, q = ([float(v) - max(map(float, x)) for v in x] for x in (p, q))
            p, q = ([v - math.log(math.fsum(map(math.exp, x))) for v in x] for x in (p, q))
            kl = math.fsum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True))
            found.append((-q[ids[start + row + 1]], kl, p.index(max(p)) == q.index(max(q))))
    return np.array(found)


@pytest.mark.parametrize(("n_ids", "window"), [(2, 64), (33, 16), (34, 16), (150, None)])
def test_equals_sums_by_hand(models, n_ids, window, monkeypatch):
    monkeypatch.setattr(
        sys.modules["blocks2tokens.quality"], "AT_ONCE", 7 * 320
    )  # slices that do not divide the windows
    reference, model = models
    ids = np.random.default_rng(n_ids).integers(0, 320, n_ids).tolist()
    found = b2t.quality(model, reference, ids, window)
    nats, kl, same = by_hand(model, reference, ids, window or CONTEXT).T
    assert found.n == n_ids - 1
    assert np.allclose(found.tokens["nats"], nats, rtol=1e-6)
    assert np.allclose(found.tokens["kl"], kl, rtol=1e-5, atol=1e-9)
    assert found.kl.value == pytest.approx(kl.mean(), rel=1e-5)
    assert found.same_top.value == same.mean()
    assert found.perplexity.value == pytest.approx(math.exp(nats.mean()), rel=1e-6)
    expected = b2t.perplexity(model, ids, min(window or CONTEXT, n_ids))
    assert found.perplexity.value == pytest.approx(expected.perplexity, rel=1e-5)


def test_a_model_is_as_good_as_itself(models):
    found = b2t.quality(models[0], models[0], range(100))
    assert found.kl.value == 0 and found.kl.error == 0 and found.same_top.value == 1
    assert found.perplexity.value == found.reference_perplexity.value


def test_kl_of_known_distributions():
    p, q = np.log([[0.5, 0.25, 0.25]]), np.log([[0.25, 0.5, 0.25]])
    (found,) = compared(p, q, np.array([0]))
    assert found["kl"] == pytest.approx(0.25 * math.log(2)) and not found["same_top"]
    assert found["nats"] == pytest.approx(math.log(4))
    assert found["reference_nats"] == pytest.approx(math.log(2))


def test_the_standard_error_is_how_far_means_spread():
    draws = np.random.default_rng(0).exponential(size=(2000, 400))
    errors = [mean(row).error for row in draws]
    assert np.mean(errors) == pytest.approx(draws.mean(axis=1).std(), rel=0.05)
    assert mean(np.array([1.0])).error == math.inf


def made(kl, nats):
    tokens = np.zeros(len(kl), TOKEN)
    tokens["kl"], tokens["nats"] = kl, nats
    return Quality(tokens)


def test_paired_sees_what_the_difficulty_of_tokens_hides():
    rng = np.random.default_rng(1)
    hard = rng.exponential(3.0, 1000)
    a, b = made(hard, hard), made(hard, hard + 0.01 + 0.02 * rng.standard_normal(1000))
    found = paired(a, b, "nats")
    assert found.value == pytest.approx(0.01, abs=4 * found.error) and found.error < 0.001
    assert found.value > 5 * found.error
    assert math.hypot(mean(a.tokens["nats"]).error, mean(b.tokens["nats"]).error) > 0.1


def test_what_cannot_be_paired(models):
    a = b2t.quality(models[1], models[0], range(30))
    with pytest.raises(ValueError, match="same tokens"):
        paired(a, b2t.quality(models[1], models[0], range(31)))
    with pytest.raises(ValueError, match="what: expected one of nats"):
        paired(a, a, "speed")


def test_one_reference_serves_several_models(models):
    reference = Reference(models[0], list(range(100)))
    for model in models:
        expected = b2t.quality(model, models[0], list(range(100)))
        assert np.array_equal(reference.measure(model).tokens, expected.tokens)


def test_logits_of_a_reference_are_kept_or_made_again(models, monkeypatch):
    ids = np.random.default_rng(2).integers(0, 320, 150)
    keeps = Reference(models[0], ids)
    monkeypatch.setattr(sys.modules["blocks2tokens.quality"], "KEPT", 150 * 320 - 1)
    makes = Reference(models[0], ids)
    assert keeps.kept and not makes.kept
    assert np.array_equal(keeps.measure(models[1]).tokens, makes.measure(models[1]).tokens)


def test_it_prints_itself(models):
    text = repr(b2t.quality(models[1], models[0], range(50)))
    assert "KL" in text and "±" in text and "49 tokens" in text


@pytest.mark.parametrize(
    ("ids", "window", "message"),
    [
        ([], None, "ids: expected at least one"),
        ([5], None, "ids: expected at least 2"),
        ([1, 320], None, "got 320"),
        ([1, 2], 0, "window: expected a whole number"),
        ([1, 2], 65, "got 65"),
        ([1, 2], True, "got True"),
    ],
)
def test_bad_arguments(models, ids, window, message):
    with pytest.raises(ValueError, match=message):
        b2t.quality(models[1], models[0], ids, window)


def test_models_that_cannot_be_compared(models, tmp_path):
    other = b2t.load(small_model(context_length=32).write(tmp_path / "short.gguf"))
    with pytest.raises(ValueError, match="1 to the context of 32, got 50"):
        b2t.quality(other, models[0], range(100), 50)
    small = small_model(context_length=CONTEXT)
    small.tensors["output_norm.weight"] = "F32", np.full(64, np.nan, "<f4").view(np.uint8)
    broken = b2t.load(small.write(tmp_path / "broken.gguf"))
    with pytest.raises(ValueError, match="model: expected finite logits"):
        b2t.quality(broken, models[0], range(20))
