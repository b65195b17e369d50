"""A sweep over Dask's workers: each job once, a table that is whole, and what fails tried again."""

import csv

import pytest
from small_model import small_model

import blocks2tokens as b2t
from blocks2tokens.command_line import main
from blocks2tokens.parallel import sweep as sweeps
from blocks2tokens.parallel.sweep import COLUMNS, sweep

pytest.importorskip("distributed", reason="no Dask: pip install distributed")


@pytest.fixture
def files(tmp_path):
    model = small_model(dim=64, ffn_dim=96, default_format="F16").write(tmp_path / "small.gguf")
    text = tmp_path / "text.txt"
    text.write_text("The kettle is on the stove and the cat is on the chair. " * 8)
    return model, text, tmp_path / "table.csv"


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_sweep_measures_what_one_does_by_hand_and_nothing_twice(files, tmp_path, monkeypatch):
    model, text, out = files
    assert sweep([model], ["Q8_0", "as-it-is"], [text], out, tokens=60, window=32) == {}
    first = out.read_bytes()
    found = {row["format"]: row for row in rows(out)}
    loaded = b2t.load(model)
    ids = loaded.tokenizer.encode(text.read_text())[:60]
    expected = b2t.perplexity(loaded, ids, 32).perplexity
    assert float(found["as-it-is"]["perplexity"]) == pytest.approx(expected, rel=1e-5)
    assert int(found["as-it-is"]["bytes"]) == model.stat().st_size
    assert int(found["Q8_0"]["bytes"]) < model.stat().st_size
    monkeypatch.setattr(sweeps, "_client", None)  # a job would need it
    assert sweep([model], ["as-it-is", "Q8_0"], [text], out, tokens=60, window=32) == {}
    assert out.read_bytes() == first


def test_a_job_that_fails_is_named_and_the_others_are_kept(files, tmp_path, capsys):
    model, text, out = files
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(model.read_bytes()[:-100])
    arguments = ["sweep", str(broken), str(model), "--formats", "as-it-is", "--texts", str(text)]
    arguments += ["--tokens", "40", "--window", "32", "--out", str(out)]
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert "broken.gguf as-it-is" in said.err and "1 jobs failed" in said.err
    assert [row["model"] for row in rows(out)] == [str(model)] and said.out == out.read_text()


def test_bad_input_is_refused(files, tmp_path):
    model, text, out = files
    with pytest.raises(ValueError, match="format: expected one of"):
        sweep([model], ["Q9"], [text], out)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        sweep([tmp_path / "nowhere.gguf"], ["Q8_0"], [text], out)
    out.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="no table of a sweep"):
        sweep([model], ["Q8_0"], [text], out)
    assert out.read_text() == "a,b\n1,2\n"


def test_a_table_is_one_of_whole_rows():
    job = sweeps.Job("a, b.gguf", "Q8_0", "t.txt", 10, 5)
    table = sweeps._table({job: dict.fromkeys(sweeps.FOUND, 1.5)})
    assert table.splitlines()[0] == ",".join(COLUMNS) and '"a, b.gguf"' in table
