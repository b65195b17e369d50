"""The leaderboard of formats: what it measures, what it refuses, and where it keeps what was entered."""

import json

import numpy as np
import pytest

import blocks2tokens as b2t
from blocks2tokens.course.lessons.quantizing_well import leaderboard

IQ4_NL, Q4_0 = b2t.FORMATS["IQ4_NL"], b2t.FORMATS["Q4_0"]


def stub(x):
    return ...


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """No work/ folder, and nothing entered before."""
    monkeypatch.setattr(leaderboard, "WORK", tmp_path / "work")
    monkeypatch.setattr(leaderboard, "_in_memory", {})
    return tmp_path / "work"


def names(board):
    return [row.name for row in board.rows]


def test_without_an_entry_the_engines_formats_are_shown():
    board = leaderboard.enter("mine", stub, stub)
    assert names(board)[0] == "F16" and set(names(board)) == {"F16", "Q4_0", "Q4_1", "Q4_K"}
    assert "untouched" in board.note and "Q4_1" in board._repr_html_()


def test_an_entry_stands_where_the_same_format_of_the_engine_does():
    board = leaderboard.enter("mine", Q4_0.quantize, Q4_0.dequantize)
    mine, theirs = ({row.name: row for row in board.rows}[name] for name in ("mine", "Q4_0"))
    assert (mine.nbytes, mine.drift, mine.nats) == (144, theirs.drift, theirs.nats)
    assert mine.error == pytest.approx(theirs.error) and "cannot be told from" in board.note


def test_perplexity_and_error_are_those_of_the_engine():
    row = {row.name: row for row in leaderboard.enter("mine", stub, stub).rows}["F16"]
    model = b2t.load(leaderboard.models.austen())
    nats = [b2t.perplexity(model, ids).nats for ids in leaderboard._passages()]
    assert np.allclose(row.nats, nats, atol=1e-4) and max(row.drift) < 1e-9 and row.error == 0


def test_a_better_table_of_levels_beats_q4_0():
    board = leaderboard.enter("levels", IQ4_NL.quantize, IQ4_NL.dequantize)
    assert "levels beats Q4_0" in board.note
    assert names(board).index("levels") < names(board).index("Q4_0")


BAD = {
    "too many bytes": (b2t.FORMATS["Q5_0"].quantize, Q4_0.dequantize, "takes 176 bytes, at most 144"),
    "floats": (lambda x: x, Q4_0.dequantize, "returned float32"),
    "a list": (lambda x: [1], Q4_0.dequantize, "returned list"),
    "one row": (lambda x: Q4_0.quantize(x)[0], Q4_0.dequantize, "shape (144,)"),
    "no bytes": (lambda x: Q4_0.quantize(x)[:, :0], Q4_0.dequantize, "takes 0 bytes"),
    "decode is a stub": (Q4_0.quantize, stub, "decode returned nothing"),
    "another shape": (Q4_0.quantize, lambda raw: Q4_0.dequantize(raw)[:1], "returned shape (1, 256)"),
    "not finite": (Q4_0.quantize, lambda raw: Q4_0.dequantize(raw) * np.nan, "not finite"),
    "an exception": (Q4_0.quantize, lambda raw: raw["d"], "your function raised IndexError"),
}


@pytest.mark.parametrize(("encode", "decode", "sentence"), BAD.values(), ids=BAD.keys())
def test_a_bad_entry_gets_a_sentence(encode, decode, sentence):
    board = leaderboard.enter("mine", encode, decode)
    assert "Not entered" in board.note and sentence in board.note
    assert "mine" not in names(board)


def test_an_exception_names_the_learners_line():
    def encode(x):
        return x.nothing_of_the_kind

    assert 'in the line "return x.nothing_of_the_kind"' in leaderboard.enter("mine", encode, stub).note


def test_an_entry_that_takes_too_long_is_stopped(monkeypatch):
    monkeypatch.setattr(leaderboard, "SECONDS", 0.2)

    def encode(x):
        while True:
            pass

    assert "took more than" in leaderboard.enter("mine", encode, stub).note


def test_the_engines_names_are_taken():
    assert "another name" in leaderboard.enter("Q4_K", Q4_0.quantize, Q4_0.dequantize).note


def test_decode_sees_a_copy_of_the_bytes_and_the_blocks_stay_as_they_are():
    def careless(x):
        raw = Q4_0.quantize(x)
        x[:] = 0
        return raw

    def decode(raw):
        out = Q4_0.dequantize(raw)
        raw[:] = 0
        return out

    board = leaderboard.enter("mine", careless, decode)
    rows = {row.name: row for row in board.rows}
    assert rows["mine"].error == pytest.approx(rows["Q4_0"].error)


def test_entries_are_kept_in_the_work_folder(nowhere):
    nowhere.mkdir()
    leaderboard.enter("mine", Q4_0.quantize, Q4_0.dequantize)
    (kept,) = json.loads((nowhere / ".leaderboard.json").read_text())
    assert kept["name"] == "mine" and [path.name for path in nowhere.iterdir()] == [".leaderboard.json"]
    assert "mine" in names(leaderboard.enter("other", stub, stub))


@pytest.mark.parametrize("text", ["", "[", "{}", "[3]", '[{"name": "x"}]'])
def test_a_spoilt_file_is_no_obstacle(nowhere, text):
    nowhere.mkdir()
    (nowhere / ".leaderboard.json").write_text(text)
    assert "F16" in names(leaderboard.enter("mine", stub, stub))


def test_without_a_work_folder_nothing_is_written(nowhere):
    leaderboard.enter("mine", Q4_0.quantize, Q4_0.dequantize)
    assert not nowhere.exists() and "mine" in names(leaderboard.enter("other", stub, stub))
