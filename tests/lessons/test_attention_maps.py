"""What lets a lesson look into attention: what is recorded is what the engine's rule gets."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest

import blocks2tokens as b2t
from blocks2tokens.course.lessons.attention import attention_maps
from blocks2tokens.model.attention import attend


@pytest.fixture(scope="module")
def model(austen_path):
    return b2t.load(austen_path)


@pytest.fixture(scope="module")
def ids(model):
    return model.tokenizer.encode("Mr. Darcy smiled at Elizabeth.")


@pytest.fixture
def axes():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def test_record_gives_what_attend_gets(model, ids):
    seen = attention_maps.record(model, ids)
    assert len(seen) == model.config.n_layers
    q, k, v = seen[0]
    assert q.shape == (len(ids), 4, 64) and k.shape == v.shape == (4, len(ids), 64)


def test_weights_are_those_of_the_engine_s_attention():
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal(s).astype(np.float32) for s in ((5, 6, 8), (2, 5, 8), (2, 5, 8)))
    weights = attention_maps.weights(q, k)
    assert np.allclose(weights.sum(axis=-1), 1, atol=1e-6) and np.all(np.triu(weights, 1) == 0)
    assert np.allclose((weights @ v.repeat(3, axis=0)).swapaxes(0, 1), attend(q, k, v), atol=1e-6)


def test_loss_is_the_engine_s_mean_surprise(model, ids):
    assert attention_maps.loss(model.logits(ids), ids) == pytest.approx(
        b2t.perplexity(model, ids).nats, abs=1e-3
    )


def test_memory_counts_its_lines(axes):
    memory = np.zeros(64, int)
    memory[:20], memory[15:17], memory[48:50] = (
        attention_maps.FILLED,
        attention_maps.READ,
        attention_maps.WRITTEN,
    )
    attention_maps.draw_memory(axes, memory, "token")
    assert axes.get_title() == "token: reads 2, writes 1 lines"


def test_growth_names_the_length_at_which_cache_and_weights_are_equal(axes):
    attention_maps.draw_growth(axes, "a model", 100, 150_000, 4096, "k", "o")
    assert axes.get_legend_handles_labels()[1] == ["a model: 1,500 tokens"]


def test_numbers_and_weights_are_drawn(axes):
    attention_maps.draw_numbers(axes, np.array([1.0, -2.0]), "two", 1)
    assert [text.get_text() for text in axes.texts] == ["1.0", "-2.0"]
    attention_maps.draw(axes, np.eye(2), ["a", "b"])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
