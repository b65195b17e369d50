"""llama.cpp through its C functions, where it is built (`make peer`): it must do what it is timed for."""

import sys
from pathlib import Path

import numpy as np
import pytest
from small_model import small_model

import blocks2tokens as b2t
from blocks2tokens.benchmarks.llama_cpp_model import BATCH, LlamaCppModel

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module", autouse=True)
def package():
    """Let llama_cpp be the package, and not the module of that name beside these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [folder for folder in sys.path if Path(folder).resolve() != TESTS])
        patch.setitem(sys.modules, "llama_cpp", None)
        del sys.modules["llama_cpp"]
        yield pytest.importorskip("llama_cpp", reason="the peer is optional: make peer")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    model = small_model(context_length=2 * BATCH)
    return model.write(tmp_path_factory.mktemp("peer") / "small.gguf")


@pytest.fixture
def theirs(path):
    peer = LlamaCppModel(path, 2, 2 * BATCH)
    yield peer
    peer.close()


@pytest.mark.parametrize("n", [1, 20, BATCH, BATCH + 1, BATCH + 300])
def test_prefill_gives_the_logits_of_the_last_token(path, theirs, n):
    ids = (np.arange(n) * 7 % 300).tolist()
    ours = b2t.load(path).logits(ids)[-1]
    theirs.prefill([5, 6])  # the next starts afresh
    assert np.allclose(theirs.prefill(ids), ours, atol=0.02)  # its cache is float16
    assert ours.std() > 0.1


def test_decoding_is_greedy_and_goes_on_behind_the_cache(path, theirs):
    model, ids = b2t.load(path), [11, 12, 13]
    theirs.prefill(ids)
    decoded = theirs.decode(4) + theirs.decode(4)
    assert decoded == list(model.generate(ids, 8, lambda logits, history: int(logits.argmax())))
    assert np.allclose(theirs.logits(), model.logits(ids + decoded)[-1], atol=0.02)


def test_several_texts_at_once_are_those_that_each_is_alone(path, theirs):
    several = LlamaCppModel(path, 2, 64, n_texts=4)
    written = several.decode_together([11, 12, 13, 11], 9)
    several.close()
    for first, found in zip([11, 12, 13, 11], written, strict=True):
        theirs.prefill([first])
        assert found == theirs.decode(9)


def test_a_file_that_it_refuses(tmp_path):
    path = tmp_path / "no.gguf"
    path.write_bytes(b"GGUF nothing")
    with pytest.raises(RuntimeError, match=r"no\.gguf: llama\.cpp could not load it"):
        LlamaCppModel(path, 2, 64)
