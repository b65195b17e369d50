"""Gemma 3 270M, where somebody has fetched it: ids, logits and a window of 512 tokens, against llama.cpp."""

import lzma
from pathlib import Path

import numpy as np
import pytest
from llama_cpp import llama_cpp

import blocks2tokens as b2t
from blocks2tokens.model.forward import forward

ROOT = Path(__file__).parents[2]
PATH = ROOT / "data" / "models" / "gemma-3-270m-Q4_K_M.gguf"
pytestmark = pytest.mark.skipif(not PATH.is_file(), reason="optional: python data/fetch_gemma3.py gets it")

TEXTS = [
    "",
    " ",
    "The capital of France is",
    "  leading,\ttabs\r\n\n\n   and   runs   of spaces  ",
    "def fibonacci(n):\n    return fibonacci(n-1)+fibonacci(n-2)\n",
    "<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n",
    "a\u0301e\u0308 \u200b\u00a0\ufeff ½²③ १२३ 𝟘𝟙 👩‍👩‍👧‍👦 🇫🇷 𒀀𒀁 ꙮ 한국어 ไทย العربية",
    "▁▁ _x_ ▁ <unused0> [multimodal] <h1>t</h1> \x7f\x01",
    "1234567890 1.5e-3 " + "a" * 300,
]


def long_text():
    return lzma.decompress((ROOT / "data" / "austen_heldout.txt.xz").read_bytes()).decode()[:4000]


@pytest.fixture(scope="module")
def model():
    return b2t.load(PATH)


@pytest.fixture(scope="module")
def oracle(xllamacpp):
    with llama_cpp(xllamacpp, PATH, n_threads=1) as running:
        yield running


def test_token_ids_equal_llama_cpp(model, oracle):
    for text in [*TEXTS, long_text()]:
        assert model.tokenizer.encode(text) == oracle.tokenize(text), text[:60]
        assert model.tokenizer.decode(model.tokenizer.encode(text)[1:]) == text.replace("▁", " ")


@pytest.mark.usefixtures("exact")
def test_prefill_and_decode_give_the_logits_of_the_plain_pass(model):
    ids = model.tokenizer.encode(long_text())[:530]  # the window ends in it
    expected, cache = forward(model, ids)[-20:], model.transformer.new_cache(len(ids))
    x = [model.transformer.hidden(part, cache) for part in (ids[:510], *([i] for i in ids[510:]))]
    logits = model.transformer.project(np.concatenate(x)[-20:])  # of 262,144 tokens: all rows take long
    assert np.abs(logits - expected).max() < 1e-3 * np.std(expected)


def test_the_file_agrees_with_llama_cpp(model, oracle):
    """Both round activations to 8 bits: see test_against_llama_cpp for what that comes to."""
    same, differences = [], []
    for text in ("Count: one, two, three, four, five,", long_text()):
        ids = model.tokenizer.encode(text)[:540]
        steps = oracle.greedy(ids, 16)
        logits = model.logits([*ids, *(step.token for step in steps[:-1])])[len(ids) - 1 :].astype(np.float64)
        ours = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        ours -= logits.max(-1, keepdims=True)
        for row, step in zip(ours, steps, strict=True):
            same.append(int(row.argmax()) == step.token)
            differences += [abs(row[i] - theirs) for i, theirs in step.top.items()]
    assert np.mean(same) >= 0.9 and np.mean(differences) <= 0.2
