"""The table of many texts: what is counted, and that it has a line for each number of texts."""

import blocks2tokens as b2t
from blocks2tokens.benchmarks import batching


def test_every_text_is_counted_while_all_are_there(austen_path, monkeypatch):
    moments = iter(range(1000))
    monkeypatch.setattr(batching, "perf_counter", lambda: next(moments))  # a second from call to call
    model = b2t.load(austen_path)
    assert batching.our_rate(model, 1) == 1.0 == batching.our_rate(model, 3)


def test_the_table_compares_with_one_text(austen_path, capsys, monkeypatch):
    monkeypatch.setattr(batching.models, "found", lambda names: {"Austen": austen_path})
    rates = {("ours", n): 10.0 * n**0.5 for n in batching.TEXTS}
    rates |= {("llama.cpp", n): 5.0 for n in batching.TEXTS}
    monkeypatch.setattr(batching, "measure", lambda path: rates)
    batching.print_batching(["Austen"])
    lines = capsys.readouterr().out.splitlines()[-4:]
    assert lines[1].split() == ["Austen", "4", "texts", "20.0", "2.00x", "5.0", "1.00x", "4.00x"]
