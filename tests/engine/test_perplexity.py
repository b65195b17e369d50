"""Perplexity against sums in float64 and against what was measured when Austen was trained."""

import json
import math
import sys

import jupyter_client
import numpy as np
import pytest
from conftest import ROOT
from small_model import plain, small_model

import blocks2tokens as b2t
from blocks2tokens.course import models

CONTEXT = 64


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return b2t.load(small_model(context_length=CONTEXT).write(tmp_path_factory.mktemp("p") / "small.gguf"))


def by_hand(model, ids, window):
    """Return the mean of -log p over all ids but the first, one prediction after another."""
    surprises = []
    for position in range(1, len(ids)):
        start = (position - 1) // window * window
        row = [float(v) for v in model.logits(ids[start:position])[-1]]
        largest = max(row)
        normalizer = largest + math.log(math.fsum(math.exp(v - largest) for v in row))
        surprises.append(normalizer - row[ids[position]])
    return math.fsum(surprises) / len(surprises)


@pytest.mark.parametrize("n_ids", [2, 15, 16, 17, 33, 50])
@pytest.mark.parametrize("window", [1, 16, 49, CONTEXT])
def test_equals_a_sum_by_hand(model, n_ids, window):
    ids = np.random.default_rng(n_ids).integers(0, 320, n_ids).tolist()
    found = b2t.perplexity(model, ids, window)
    assert found.tokens == n_ids - 1
    assert found.nats == pytest.approx(by_hand(model, ids, window), rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(found.nats))


def test_the_window_is_the_context_if_none_is_given(model):
    ids = list(range(150))
    assert b2t.perplexity(model, ids) == b2t.perplexity(model, np.array(ids), CONTEXT)
    assert b2t.perplexity(model, ids) != b2t.perplexity(model, ids, CONTEXT - 1)


def test_the_window_is_never_so_large_that_its_cache_fills_the_memory(monkeypatch, tmp_path):
    long = b2t.load(small_model(context_length=100_000).write(tmp_path / "long.gguf"))
    read = []
    usual = long.transformer.new_cache
    monkeypatch.setattr(long.transformer, "new_cache", lambda n: read.append(n) or usual(n))
    b2t.perplexity(long, [5] * 5000)
    assert read == [2048, 2048, 903]


@pytest.mark.parametrize("size", [np.inf, np.nan, 3e38])
def test_logits_that_are_no_numbers_are_said_to_be(tmp_path, size):
    small = small_model(context_length=CONTEXT)
    small.tensors["output_norm.weight"] = "F32", plain(np.full(64, size, np.float32), "F32")
    model = b2t.load(small.write(tmp_path / "small.gguf"))
    with pytest.raises(ValueError, match="the model's logits behind tokens 0 to 64 are no finite numbers"):
        b2t.perplexity(model, range(150))


def test_a_surprise_beyond_all_numbers(tmp_path):
    small = small_model(context_length=CONTEXT)
    small.tensors["output_norm.weight"] = "F32", plain(np.full(64, 1e6, np.float32), "F32")
    found = b2t.perplexity(b2t.load(small.write(tmp_path / "small.gguf")), range(150))
    assert found.nats > 1000 and found.perplexity == math.inf and "perplexity inf" in repr(found)


def test_logits_in_pieces_give_the_same(model, monkeypatch):
    whole = b2t.perplexity(model, range(150))
    monkeypatch.setattr(sys.modules["blocks2tokens.perplexity"], "ROWS", 7)
    assert b2t.perplexity(model, range(150)).nats == pytest.approx(whole.nats, rel=1e-6)


def test_it_prints_itself(model):
    text = repr(b2t.perplexity(model, range(100)))
    assert text.startswith("perplexity ") and "nats per token, 99 tokens" in text


def test_a_hidden_progress_bar_sends_nothing_to_a_notebook(tmp_path):
    """A widget for each bar is many messages, shown or not; a loop over formats would flood its reader."""
    path = small_model(context_length=CONTEXT).write(tmp_path / "small.gguf")
    with jupyter_client.run_kernel(kernel_name="python3") as client:
        sent = []
        code = f"""
import blocks2tokens as b2t
model = b2t.load({str(path)!r})
for i in range(5):
    b2t.perplexity(model, [1, 2, 3])
    b2t.convert({str(path)!r}, {str(tmp_path / "new.gguf")!r}, "F16")
"""
        reply = client.execute_interactive(
            code, timeout=120, output_hook=lambda m: sent.append(m["msg_type"])
        )
    assert reply["content"]["status"] == "ok", reply["content"]
    assert not [kind for kind in sent if kind.startswith("comm")]


@pytest.mark.parametrize(
    ("ids", "window", "message"),
    [
        ([], None, "ids: expected at least one"),
        ([5], None, "ids: expected at least 2"),
        ([[1, 2]], None, "ids: "),
        ([1, 320], None, "ids: expected 0 <= id < 320, got 320"),
        ([1, -1], None, "got -1"),
        ([1.0, 2.0], None, "ids: "),
        ("text", None, "ids: "),
        ([1, 2], 0, "window: expected a whole number, 1 to the context of 64, got 0"),
        ([1, 2], 65, "got 65"),
        ([1, 2], -3, "got -3"),
        ([1, 2], 2.0, "got 2.0"),
        ([1, 2], True, "got True"),
        ([1, 2], "8", "got '8'"),
    ],
)
def test_bad_arguments(model, ids, window, message):
    with pytest.raises(ValueError, match=message):
        b2t.perplexity(model, ids, window)


def test_austen_is_as_good_as_when_it_was_trained(austen_path):
    """The held-out loss of the training record, taken by PyTorch, over the same windows."""
    record = json.loads((ROOT / "data" / "austen_training.json").read_text())
    expected = min(row["heldout"] for row in record["history"])
    model = b2t.load(austen_path)
    ids = model.tokenizer.encode(models.heldout_text())
    assert len(ids) == record["heldout_tokens"]
    assert b2t.perplexity(model, ids).nats == pytest.approx(expected, abs=0.005)
