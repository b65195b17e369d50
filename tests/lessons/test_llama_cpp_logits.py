"""The recorded answers of llama.cpp: llama.cpp still gives them, and the engine agrees with them.

llama.cpp rounds activations to 8 bits where weights are quantized. A difference of one millionth then ends
as a tenth of a nat, so another CPU's llama.cpp may differ by that much; with float weights it may not.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from llama_cpp import llama_cpp

import blocks2tokens as b2t
from blocks2tokens.course import models
from blocks2tokens.course.lessons.full_transformer import llama_cpp_logits
from blocks2tokens.course.lessons.full_transformer.llama_cpp_logits import agreement, log_probs, recorded

SCRIPT = Path(__file__).resolve().parents[2] / "data" / "make_llama_cpp_logits.py"
ALLOWED = {"Austen": (1.0, 0.002), "SmolLM2": (0.9, 0.2)}  # share of equal top tokens, mean difference


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_llama_cpp_logits", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=list(ALLOWED))
def name(request):
    request.getfixturevalue({"Austen": "austen_path", "SmolLM2": "smollm2_path"}[request.param])
    return request.param


def test_the_file_holds_the_script_s_texts_and_nothing_else(script):
    for name, texts in script.TEXTS.items():
        answers = recorded(name)
        assert [one.text for one in answers] == texts
        for one in answers:
            assert one.top_ids.shape == one.top_log_probs.shape == (len(one.ids), 20)
            assert (np.diff(one.top_log_probs) <= 0).all() and (one.top_log_probs <= 0).all()
    assert llama_cpp_logits.RECORDED.stat().st_size < 60_000
    assert llama_cpp_logits.RECORDED == script.MADE


def test_llama_cpp_still_says_what_is_recorded(xllamacpp, script, name):
    least, most = ALLOWED[name]
    same, differences = [], []
    with llama_cpp(xllamacpp, models.available()[name], n_context=512) as oracle:
        for text in script.TEXTS[name]:
            now, then = script.record(oracle, text), next(one for one in recorded(name) if one.text == text)
            assert now["ids"] == then.ids.tolist()
            for t, old in enumerate(then.top_ids.tolist()):
                new = dict(zip(now["top_ids"][t], now["top_log_probs"][t], strict=True))
                same.append(now["top_ids"][t][0] == old[0])
                pairs = zip(old, then.top_log_probs[t], strict=True)
                differences += [abs(new[i] - log_p) for i, log_p in pairs if i in new]
    assert len(differences) > 15 * len(same)
    assert np.mean(same) >= least and np.mean(differences) <= most


def test_the_engine_agrees_with_what_is_recorded(name):
    model = b2t.load(models.available()[name])
    found = []
    for one in recorded(name):
        assert model.tokenizer.encode(one.text) == one.ids.tolist()
        found.append(agreement(model.logits(one.ids), one))
    least, most = ALLOWED[name]
    assert np.mean([one.same for one in found]) >= least
    assert np.mean([one.difference for one in found]) <= most


def test_agreement_sees_a_shift_and_a_wrong_token():
    (text, *_) = recorded("Austen")
    logits = np.full((len(text.ids), 2048), -50.0, np.float32)
    np.put_along_axis(logits, text.top_ids, text.top_log_probs.astype(np.float32), axis=1)
    exact = agreement(logits, text)
    missing = np.log(np.exp(text.top_log_probs).sum(axis=1))  # what 20 tokens leave to the others
    assert exact.same == 1 and exact.difference == pytest.approx(-missing.mean(), abs=1e-3)
    logits[0, text.top_ids[0, 1]] = 1
    assert agreement(logits, text).same == pytest.approx(1 - 1 / len(text.ids))


def test_log_probs_are_those_of_softmax():
    logits = np.float32([[1000, 1001, 0], [0, 0, 0]])
    assert np.allclose(log_probs(logits)[:, :2], [[-1.3132617, -0.3132617], [-np.log(3)] * 2])


def test_the_written_form_is_json_with_a_row_on_a_line(script):
    text = script.written({"models": {"a": [{"text": "[1, 2]", "top_ids": [[1, 2], [3, 4]]}]}})
    assert "[1,2],\n" in text and "[3,4]\n" in text and '"[1, 2]"' in text
