"""The tables for whole models: what is counted, what is left out and said; no timing is asserted."""

import shutil
import sys
from collections import namedtuple
from math import prod

import psutil
import pytest

import blocks2tokens as b2t
from blocks2tokens.benchmarks import models as bench_models
from blocks2tokens.benchmarks.models import OURS, PEER
from blocks2tokens.course import models, synthetic
from blocks2tokens.course.hardware import Ceilings

SMALL = synthetic.Shape("small", "llama", 256, 8, 4, 2, 64, 512, 1024, 1024)
Disk = namedtuple("Disk", "total used free")
Memory = namedtuple("Memory", "total available")


def test_bytes_per_token_of_an_untied_model(tmp_path):
    path = synthetic.write_model(tmp_path / "small.gguf", SMALL)
    assert bench_models.bytes_per_token(path) == synthetic.parameters(SMALL).bytes_per_token


def test_bytes_per_token_of_a_tied_model_are_all(austen_path):
    tensors = b2t.GGUFFile(austen_path).tensors
    assert "output.weight" not in tensors
    weights = {name: prod(info.shape) for name, info in tensors.items()}
    norms = sum(n for name, n in weights.items() if name.endswith("_norm.weight"))
    expected = 2 * (sum(weights.values()) - norms) + 4 * norms
    assert bench_models.bytes_per_token(austen_path) == expected


def test_the_prompt_has_the_length_asked_for(austen_path):
    model = b2t.load(austen_path)
    ids = bench_models.prompt(model, 200)
    assert len(ids) == 200
    assert model.tokenizer.decode(ids).startswith("Count: one, two")


def test_a_model_that_needs_more_memory_is_left_out(monkeypatch, capsys):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(8e9, 7e9))
    monkeypatch.setattr(synthetic, "ensure", pytest.fail)
    assert bench_models.found(["7B"]) == {}
    assert capsys.readouterr().out == "7B is left out: it takes 8.16 GB of memory, 7 GB are free\n"


def test_a_model_that_needs_more_disk_is_left_out(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(64e9, 64e9))
    monkeypatch.setattr(synthetic, "DATA", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(0, 0, 2e9))
    assert bench_models.found(["7B"]) == {}
    assert "7B is left out: 3.08 GB of free disk are missing" in capsys.readouterr().out


def test_a_model_that_is_not_here_is_left_out(monkeypatch, capsys):
    monkeypatch.setattr(models, "available", dict)
    assert bench_models.found(["SmolLM2"]) == {}
    assert "SmolLM2 is left out: its file is not here" in capsys.readouterr().out


def test_an_unknown_name_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bench_models", "1B", "70B"])
    with pytest.raises(SystemExit, match="expected some of SmolLM2, Austen, 1B, 8x1B, 7B, 14B, got 70B"):
        bench_models.main()


def test_a_new_process_says_how_far_it_has_got(austen_path):
    marks = bench_models.run_apart(OURS, austen_path, 3)
    assert [mark.what for mark in marks] == ["imported", "loaded", "token", "token", "token"]
    assert [mark.seconds for mark in marks] == sorted(mark.seconds for mark in marks)
    if bench_models.memory(psutil.Process().pid):
        end = marks[-1].memory
        assert end["VmHWM"] >= end["VmRSS"] == end["RssAnon"] + end["RssFile"] + end["RssShmem"] > 10e6


def test_a_process_that_fails_is_told(tmp_path, austen_path):
    script = bench_models.SCRIPTS[OURS].replace("b2t.load", "b2t.lead")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="ours failed on austen"):
        patch.setitem(bench_models.SCRIPTS, OURS, script)
        bench_models.run_apart(OURS, austen_path, 1)


@pytest.mark.parametrize("engine", [OURS, PEER])
def test_the_cache_has_keys_and_values_of_each_layer(austen_path, engine):
    c = b2t.load(austen_path).config
    values = 2 * c.n_layers * c.n_kv_heads * c.head_dim * bench_models.CONTEXT
    sizes = {2 * values} if engine == PEER else {2 * values, 4 * values}  # float16, or float32
    assert bench_models.cache_bytes(austen_path, engine) in sizes


def test_tables_without_the_peer(monkeypatch, capsys, austen_path):
    monkeypatch.setattr(bench_models, "find_spec", lambda name: None)
    monkeypatch.setattr(bench_models, "DECODED", {"Austen": 4, "7B": 2})
    monkeypatch.setattr(bench_models, "PREFILLS", (20, 40))
    monkeypatch.setattr(bench_models, "REPEATS", 1)
    bench_models.print_models(Ceilings({1: 5.0, 2: 10.0}, {1: 50.0, 2: 100.0}), ["Austen"])
    printed = capsys.readouterr().out
    assert "make peer" in printed and "prefill of 40" in printed
    rows = [line.split() for line in printed.splitlines() if line.startswith("  Austen")]
    assert len(rows) == 2  # speed and memory; it is SmolLM2 whose start is timed
    assert rows[0][2:4] == ["-", "-"] and float(rows[0][1]) > 0
    assert rows[1][1] == OURS
