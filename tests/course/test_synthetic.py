"""Synthetic models: their arithmetic against published figures, their files against gguf and llama.cpp."""

import os
import shutil
import time
from collections import namedtuple
from dataclasses import replace
from math import prod

import gguf
import numpy as np
import pytest
from llama_cpp import llama_cpp

import blocks2tokens as b2t
from blocks2tokens.course import synthetic
from blocks2tokens.course.synthetic import Shape, parameters

SMALL = Shape("small", "llama", 256, 8, 4, 2, 64, 512, 1024, 256)
QWEN = replace(SMALL, name="small-qwen", architecture="qwen2", rope_theta=1e6, norm_eps=1e-6)
MIXTURE = replace(SMALL, name="small-mixture", architecture="qwen3moe", n_layers=2, n_experts=8, n_used=2)
Disk = namedtuple("Disk", "total used free")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return synthetic.write_model(tmp_path_factory.mktemp("synthetic") / "small.gguf", SMALL)


# The weights that the makers state, and the size of the files in which Q4_K_M is distributed.
@pytest.mark.parametrize(
    ("name", "weights", "gigabytes", "kv_bytes"),
    [
        ("7B", 6_738_415_616, 4.08, 2 * 32 * 4096 * 2),  # Llama 2 7B
        ("14B", 14_770_033_664, 8.99, 2 * 48 * 1024 * 2),  # Qwen2.5 14B
    ],
)
def test_parameters_are_the_published_ones(name, weights, gigabytes, kv_bytes):
    found = parameters(name)
    assert found.weights == weights
    assert found.nbytes == pytest.approx(gigabytes * 1e9, rel=2e-3)  # without vocabulary
    assert found.kv_bytes() == kv_bytes
    assert parameters(name, "F32").nbytes == 4 * weights


def test_a_token_reads_all_but_the_embedding():
    found, embedding = parameters(SMALL, "F32"), 4 * SMALL.vocab_size * SMALL.dim
    assert found.bytes_per_token == found.nbytes - embedding + 4 * SMALL.dim


def test_of_a_mixture_a_token_reads_the_experts_in_use():
    found, s = parameters(MIXTURE, "F32"), MIXTURE
    expert, embedding = 3 * 4 * s.ffn_dim * s.dim, 4 * s.vocab_size * s.dim
    unread = s.n_layers * (s.n_experts - s.n_used) * expert
    assert found.bytes_per_token == found.nbytes - embedding + 4 * s.dim - unread


def test_a_mixture_runs_here_and_in_llama_cpp(tmp_path, xllamacpp):
    path = synthetic.write_model(tmp_path / "mixture.gguf", MIXTURE)
    assert synthetic.is_complete(path, MIXTURE) and not synthetic.is_complete(path, SMALL)
    model, ids = b2t.load(path), [5, 80, 300, 7, 12]
    with llama_cpp(xllamacpp, path, 256, n_threads=1) as oracle:
        (step,) = oracle.greedy(ids, 1)
    row = model.logits(ids)[-1].astype(np.float64)
    ours = row - row.max() - np.log(np.exp(row - row.max()).sum())
    assert np.mean([abs(ours[i] - theirs) for i, theirs in step.top.items()]) < 0.1


def test_the_cache_counts_tokens_and_bits():
    found = parameters("1B")
    assert found.kv_values == 2 * 16 * 8 * 64
    assert found.kv_bytes(1000) == 1000 * found.kv_bytes()
    assert found.kv_bytes(1, bits=32) == 2 * found.kv_bytes(1, bits=16)


def test_tokens_per_second_is_bandwidth_over_bytes():
    found = parameters("7B")
    assert found.tokens_per_second(found.bytes_per_token / 1e9) == pytest.approx(1)
    both = found.bytes_per_token + found.kv_bytes(4096)
    assert found.tokens_per_second(2 * both / 1e9, n_tokens=4096) == pytest.approx(2)


def test_the_file_holds_what_the_parameters_count(path):
    tensors = gguf.GGUFReader(path).tensors
    assert sum(prod(int(n) for n in tensor.shape) for tensor in tensors) == parameters(SMALL).weights
    assert sum(tensor.n_bytes for tensor in tensors) == parameters(SMALL).nbytes


def test_the_weights_are_finite_and_as_large_as_usual(path):
    formats = set()
    for tensor in gguf.GGUFReader(path).tensors:
        weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        formats.add(tensor.tensor_type.name)
        near = 1 if tensor.name.endswith("norm.weight") else 0
        assert np.sqrt(np.mean((weights - near) ** 2)) == pytest.approx(0.02, rel=0.25), tensor.name
    assert formats == {"F32", "Q4_K", "Q6_K"}


def test_matrices_of_one_shape_differ(path):
    file = b2t.GGUFFile(path)
    gates = [file.raw(f"blk.{i}.ffn_gate.weight") for i in range(SMALL.n_layers)]
    assert not any(np.array_equal(gates[0], gate) for gate in gates[1:])


def test_another_format(tmp_path):
    file = b2t.GGUFFile(synthetic.write_model(tmp_path / "m.gguf", SMALL, "Q8_0"))
    assert file.tensors["output.weight"].ggml_type == b2t.FORMATS["Q8_0"].ggml_type
    assert sum(info.nbytes for info in file.tensors.values()) == parameters(SMALL, "Q8_0").nbytes


@pytest.mark.parametrize("shape", [SMALL, QWEN], ids=lambda shape: shape.name)
def test_llama_cpp_runs_the_file_as_the_engine_does(tmp_path, xllamacpp, shape):
    path = synthetic.write_model(tmp_path / "model.gguf", shape, "F32")
    model, text = b2t.load(path), "The kettle is on, said she."
    with llama_cpp(xllamacpp, path, shape.context_length) as oracle:
        ids = oracle.tokenize(text)
        assert model.tokenizer.encode(text) == ids
        (step,) = oracle.greedy(ids, 1)
    logits = model.logits(ids)[-1].astype(np.float64)
    ours = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
    assert len(step.top) > 10
    assert all(abs(ours[i] - theirs) < 1e-3 for i, theirs in step.top.items())


def test_no_token_ends_the_text(path):
    model = b2t.load(path)
    assert model.tokenizer.stop_tokens == frozenset()
    assert len(list(model.generate([1, 2, 3], 16))) == 16


def test_the_same_seed_gives_the_same_file(path, tmp_path):
    again = synthetic.write_model(tmp_path / "again.gguf", SMALL)
    assert again.read_bytes() == path.read_bytes()


def test_a_complete_file_is_used_again(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "DATA", tmp_path)
    path = synthetic.ensure(SMALL)
    assert path == tmp_path / "models" / "synthetic-small-Q4_K_M-seed0.gguf"
    first = path.stat().st_mtime_ns
    assert synthetic.ensure(SMALL) == path and path.stat().st_mtime_ns == first


def test_a_broken_or_different_file_is_written_again(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "DATA", tmp_path)
    path = synthetic.ensure(SMALL)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000])
    assert not synthetic.is_complete(path, SMALL)
    assert synthetic.ensure(SMALL).read_bytes() == whole
    assert not synthetic.is_complete(path, replace(SMALL, n_layers=9))
    assert not synthetic.is_complete(path, SMALL, "Q8_0")


def test_an_error_leaves_no_file(tmp_path, monkeypatch):
    def weights(shape, formats):
        yield from ()
        raise RuntimeError("stopped")

    monkeypatch.setattr(synthetic, "_weights", weights)
    with pytest.raises(RuntimeError, match="stopped"):
        synthetic.write_model(tmp_path / "model.gguf", SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_before_anything_is_written(tmp_path, monkeypatch):
    needed = parameters(SMALL).nbytes + synthetic.SPARE_DISK
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(0, 0, int(needed) - 1))
    with pytest.raises(OSError, match=r"model\.gguf: 1\.0 GB of free disk are needed"):
        synthetic.write_model(tmp_path / "model.gguf", SMALL)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_removed_after_an_hour(tmp_path):
    old, new = (tmp_path / f"model.gguf.{name}.partial" for name in ("old", "new"))
    for left in (old, new):
        left.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    synthetic.write_model(tmp_path / "model.gguf", SMALL)
    assert not old.exists() and new.exists()


@pytest.mark.parametrize("bad", ["8B", "", None])
def test_an_unknown_shape(bad):
    with pytest.raises(ValueError, match="shape: expected one of 1B, 7B, 14B"):
        parameters(bad)


def test_an_unknown_target():
    with pytest.raises(ValueError, match="target: expected one of"):
        parameters("1B", "Q4_K_L")


def test_a_vocabulary_that_is_too_small():
    with pytest.raises(ValueError, match="size: expected at least 932 tokens, got 900"):
        synthetic.vocabulary(900)
