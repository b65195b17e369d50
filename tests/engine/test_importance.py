"""Importance against the plain forward pass, and files against the gguf package."""

import struct
import sys

import gguf
import numpy as np
import pytest
from small_model import small_model

import blocks2tokens as b2t
from blocks2tokens.errors import GGUFError
from blocks2tokens.importance import Importance, hessians, watch_inputs
from blocks2tokens.model import forward as plain

IDS = np.random.default_rng(0).integers(0, 320, 100)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return b2t.load(small_model(context_length=64).write(tmp_path_factory.mktemp("i") / "small.gguf"))


def inputs_of(model, ids):
    """Return {tensor: inputs} of one window, as the plain pass multiplies them."""
    seen = {}
    layers, output = plain.decoded(model)
    matrices = {f"blk.{i}.{part}.weight": w for i, layer in enumerate(layers) for part, w in layer.items()}
    matrices["token_embd.weight"] = output
    names = {w.ctypes.data: name for name, w in matrices.items() if w is not None}

    class Watched(np.ndarray):
        def __matmul__(self, other):
            if (name := names.get(other.ctypes.data)) is not None:
                seen[name] = np.asarray(self)
            return (np.asarray(self) @ other).view(Watched)

    def norm(x, weight, eps):
        return plain.rms_norm(np.asarray(x), weight, eps).view(Watched)

    def gated(gate, up):
        return plain.GATES[model.config.family.gate](np.asarray(gate), np.asarray(up)).view(Watched)

    def attend(*args, **how):
        return plain.attention.attend(*map(np.asarray, args), **how).view(Watched)

    plain.forward(model, ids, norm=norm, gated=gated, attend=attend)
    return seen


def test_the_sums_are_those_of_the_plain_pass(model):
    expected = [inputs_of(model, IDS[:64]), inputs_of(model, IDS[64:])]
    found = b2t.importance(model, IDS)
    assert set(found.sums) == set(expected[0]) and len(found.sums) == 7 * model.config.n_layers + 1
    for name, sums in found.sums.items():
        x = np.concatenate([part[name] for part in expected]).astype(np.float64)
        assert np.allclose(sums, [(x**2).sum(axis=0)], rtol=2e-3), name
        assert found.counts[name] == [100]
        assert np.allclose(found.mean(name), sums / 100)


@pytest.mark.parametrize("memory", [1, 2**29])
def test_hessians_are_products_of_the_inputs(model, monkeypatch, memory):
    monkeypatch.setattr(sys.modules["blocks2tokens.importance"], "MEMORY", memory)  # one at a time, or all
    found = b2t.importance(model, IDS)
    names = list(found.sums)[:5]
    seen = dict(hessians(model, IDS, names))
    assert list(seen) == names
    x = np.concatenate([inputs_of(model, IDS[:64])[names[1]], inputs_of(model, IDS[64:])[names[1]]])
    assert np.allclose(seen[names[1]], [x.T @ x / 100], rtol=1e-2, atol=1e-3)
    for name in names:
        assert np.allclose(np.diagonal(seen[name][0]), found.mean(name)[0], rtol=1e-4)


def test_a_mixture_counts_the_tokens_of_each_expert(tmp_path):
    small = small_model(dim=64, n_experts=4, n_used=2)
    model = b2t.load(small.write(tmp_path / "mixture.gguf"))
    found = b2t.importance(model, IDS[:32])
    name = "blk.0.ffn_down_exps.weight"
    assert found.sums[name].shape[0] == 4 and found.counts[name].sum() == 2 * 32
    unseen = Importance({name: np.zeros((4, 8))}, {name: np.array([0, 1, 1, 1])})
    assert (unseen.mean(name)[0] == 1).all() and (unseen.mean(name)[1] == 0).all()


def test_a_file_comes_back(model, tmp_path):
    found = b2t.importance(model, IDS)
    found.save(tmp_path / "a.imatrix")
    again = Importance.load(tmp_path / "a.imatrix")
    assert list(again.sums) == list(found.sums) and np.array_equal(again.ids, IDS)
    for name in found.sums:
        assert np.allclose(again.sums[name], found.sums[name], rtol=1e-6)
        assert np.array_equal(again.counts[name], found.counts[name])
    again.check(model.file)


def test_the_file_is_llama_cpps(model, tmp_path):
    """The names and shapes that llama.cpp's load_imatrix asks for, read by the gguf package."""
    b2t.importance(model, IDS).save(tmp_path / "a.imatrix")
    reader = gguf.GGUFReader(tmp_path / "a.imatrix")
    assert reader.fields["general.type"].contents() == "imatrix"
    assert reader.fields["imatrix.chunk_size"].contents() == 512
    assert reader.fields["imatrix.chunk_count"].contents() >= 1
    assert reader.fields["imatrix.datasets"].contents() == ["text"]
    tensors = {t.name: t for t in reader.tensors}
    name = "blk.0.ffn_down.weight"
    K = model.file.tensors[name].shape[-1]
    assert tensors[f"{name}.in_sum2"].shape.tolist() == [K, 1]
    assert tensors[f"{name}.counts"].shape.tolist() == [1, 1]


REST = struct.pack("<ii", 4, 4) + b"text"


def legacy(entries, rest=REST):
    parts = [struct.pack("<i", len(entries))]
    for name, calls, values in entries:
        parts += [struct.pack("<i", len(name)), name.encode(), struct.pack("<ii", calls, len(values))]
        parts += [np.asarray(values, "<f4").tobytes()]
    return b"".join(parts) + rest


def test_the_older_form(tmp_path):
    path = tmp_path / "old.imatrix"
    path.write_bytes(legacy([("blk.0.attn_q.weight", 4, [8.0, 2.0]), ("output.weight", 1, [1.0])]))
    found = Importance.load(path)
    assert found.mean("blk.0.attn_q.weight").tolist() == [[2.0, 0.5]] and found.ids is None
    assert found.mean("output.weight").tolist() == [[1.0]]


@pytest.mark.parametrize("cut", range(0, 60, 7))
def test_a_file_that_is_cut_off(tmp_path, cut):
    path = tmp_path / "old.imatrix"
    path.write_bytes(legacy([("blk.0.attn_q.weight", 4, [8.0] * 20)], rest=b"")[:cut])
    with pytest.raises(GGUFError, match=r"old\.imatrix"):
        Importance.load(path)


def test_files_that_are_something_else(model, tmp_path):
    with pytest.raises(GGUFError, match=r"general\.type: expected 'imatrix'"):
        Importance.load(model.file.path)
    (tmp_path / "text").write_bytes(b"once upon a time there was no matrix")
    with pytest.raises(GGUFError, match="no importance matrix"):
        Importance.load(tmp_path / "text")
    (tmp_path / "huge").write_bytes(struct.pack("<iii", 1, 2**30, 0))
    with pytest.raises(GGUFError, match="the length of a name would be"):
        Importance.load(tmp_path / "huge")
    (tmp_path / "negative").write_bytes(legacy([("a", 1, [-1.0])]))
    with pytest.raises(GGUFError, match="finite sums >= 0"):
        Importance.load(tmp_path / "negative")
    with pytest.raises(FileNotFoundError):
        Importance.load(tmp_path / "absent")


def test_saving_is_whole_or_not_at_all(model, tmp_path, monkeypatch):
    path = tmp_path / "a.imatrix"
    path.write_bytes(b"old")
    found = b2t.importance(model, IDS)

    def broken(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", broken)
    with pytest.raises(OSError):
        found.save(path)
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"old"


def test_an_importance_of_another_model(model, tmp_path):
    other = b2t.load(small_model(dim=128, n_layers=3).write(tmp_path / "other.gguf"))
    with pytest.raises(ValueError, match="of another model"):
        b2t.importance(model, IDS).check(other.file)
    with pytest.raises(ValueError, match="of another model"):
        b2t.importance(other, IDS[:50]).check(model.file)


@pytest.mark.parametrize("ids", [[], [1], range(15), [320] * 20])
def test_texts_that_are_too_short_or_of_another_vocabulary(model, ids):
    with pytest.raises(ValueError, match="ids: expected"):
        b2t.importance(model, list(ids))


def test_watching_ends_with_the_block(model):
    seen = []
    watch_inputs(model, IDS, lambda *what: seen.append(what))
    n = len(seen)
    model.logits(IDS[:20])
    assert len(seen) == n > 0
