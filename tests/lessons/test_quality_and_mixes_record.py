"""What lesson 26 recorded: a small part is made again, and the figures bear out what the lesson says."""

from math import prod

import numpy as np
import pytest

import blocks2tokens as b2t
from blocks2tokens import mix
from blocks2tokens.course.lessons.quality_and_mixes import record, record_smollm2
from blocks2tokens.importance import hessians
from blocks2tokens.quality import Reference

NAMES = ("blk.0.attn_v.weight", "blk.7.ffn_gate.weight")


@pytest.fixture(scope="module")
def recorded():
    return record.recorded()


@pytest.fixture(scope="module")
def austen(austen_path):
    return b2t.load(austen_path)


def test_probes_come_out_again(recorded, austen):
    reference = Reference(austen, record.training_ids(austen, mix.TOKENS + 1))
    for name in NAMES:
        found = reference.measure(mix.alone(austen, name)).kl.value
        assert found == pytest.approx(recorded["search"]["probes"][name], rel=0.1)


def test_errors_come_out_again(recorded, austen):
    """From an eighth of the text: the hessian is nearly the same."""
    for name, hessian in hessians(austen, record.training_ids(austen, 1024), NAMES):
        found = mix.matrix_errors(austen.file, name, hessian)
        expected = recorded["search"]["errors"][name]
        assert found.keys() == expected.keys()
        for f in ("Q2_K", "Q4_K", "Q6_K", "probe"):
            assert found[f] == pytest.approx(expected[f], rel=0.4), (name, f)


def test_every_matrix_was_measured(recorded, austen):
    matrices = [name for name, info in austen.file.tensors.items() if len(info.shape) == 2]
    measured = mix.Measured(austen.file, **recorded["search"])
    assert set(measured.names) == set(matrices) == set(measured.errors)
    for name, losses in measured.losses.items():
        assert losses.keys() == measured.sizes[name].keys() and min(losses.values()) >= 0


def test_llama_quantize_makes_the_bytes_that_we_make(austen_path, tmp_path, recorded):
    """So the rows of llama.cpp are those of our own Q4_K_M, whatever is installed here."""
    made = b2t.convert(austen_path, tmp_path / "q.gguf", "Q4_K_M")
    row = next(r for r in recorded["rows"] if r["name"] == "llama.cpp Q4_K_M")
    assert record.tensor_bytes(made.path) == row["bytes"]
    model = b2t.load(austen_path)
    ids = model.tokenizer.encode(record.models.heldout_text())[:1025]
    found = b2t.quality(b2t.load(made.path), model, ids).kl
    assert abs(found.value - row["kl"]) < 5 * np.hypot(found.error, row["kl_error"])


def test_what_the_lesson_says(recorded):
    kl = {row["name"]: row["kl"] for row in recorded["rows"]}
    size = {row["name"]: row["bytes"] for row in recorded["rows"]}
    for name in ("Q3_K_M", "Q4_K_M"):
        ours, theirs = f"ours mix, bytes of {name}", f"llama.cpp {name}"
        assert size[ours] <= size[theirs] and kl[ours] < 0.5 * kl[theirs]
    assert size["ours mix, 90 % of Q4_K_M"] <= 0.9 * size["llama.cpp Q4_K_M"]
    assert kl["ours mix, 90 % of Q4_K_M"] < kl["llama.cpp Q4_K_M, importance"]


def test_a_layer_in_float32(recorded, austen):
    measured = mix.Measured(austen.file, **recorded["search"])
    sizes, losses = measured.sizes, measured.losses
    n_bytes, kl = record.keep_layer(sizes, losses, 3)
    kept = [name for name in sizes if name.startswith("blk.3.")]
    assert len(kept) == 7
    weights = sum(prod(austen.file.tensors[name].shape) for name in kept)
    assert n_bytes == 4 * weights + sum(sizes[name]["Q4_K"] for name in sizes if name not in kept)
    assert kl == pytest.approx(sum(losses[name]["Q4_K"] for name in sizes if name not in kept))


# --- SmolLM2 ----------------------------------------------------------------------------------------------


def a_row(n_bytes, kl, name="llama.cpp Q4_0"):
    return {"name": name, "bytes": n_bytes, "texts": {"Austen": {"kl": kl}}}


def test_between_two_files_log_kl_is_on_a_line():
    """(3, 9.0) is larger and farther than (2, 1.0): nobody would take it."""
    rows = [a_row(4, 0.01), a_row(3, 9.0), a_row(2, 1.0), a_row(3, 1e-9, "ours, 70 MB")]
    found = [record_smollm2.theirs_at(rows, "Austen", n_bytes) for n_bytes in (1, 2, 3, 4, 5)]
    assert found == pytest.approx([1.0, 1.0, 0.1, 0.01, 0.01])


def test_smollm2s_texts_take_turns_and_what_judges_was_not_learned_from(smollm2_path):
    model = b2t.load(smollm2_path)
    ids = record_smollm2.training_ids(model)
    assert len(ids) == record_smollm2.TRAINING
    pieces = ids.reshape(-1, record_smollm2.PIECE)
    python = model.tokenizer.encode(record_smollm2.python_text(0)[:5000])[: record_smollm2.PIECE]
    assert pieces[1].tolist() == python and pieces[0].tolist() != python
    judges = record_smollm2.held_out_ids(model)
    for text in judges.values():
        assert len(text) == record_smollm2.HELD_OUT
        start = model.tokenizer.decode(text[40:60].tolist())
        assert start not in model.tokenizer.decode(ids.tolist())


def test_what_was_recorded_of_smollm2():
    found = record_smollm2.recorded()
    assert found["search"]["cpu_seconds"] / 2 < 600 and found["search"]["matrices"] == 211
    ours = {row["name"]: row for row in found["rows"] if row["name"].startswith("ours")}
    assert len(ours) == len(record_smollm2.MEGABYTES)
    for megabytes in record_smollm2.MEGABYTES:
        row = ours[f"ours, {megabytes} MB"]
        assert 0.97e6 * megabytes < row["bytes"] <= 1e6 * megabytes
        for text, figures in row["texts"].items():
            theirs = record_smollm2.theirs_at(found["rows"], text, row["bytes"])
            assert figures["theirs"] == pytest.approx(theirs) and figures["kl"] < 0.8 * theirs
            assert figures["perplexity"] == pytest.approx(figures["llama_cpp"], rel=0.006)  # both round
    of_texts = [figures for row in found["rows"] for figures in row["texts"].values()]
    assert min(figures["run"] for figures in of_texts) > 0.003  # two draws of what activations round to
