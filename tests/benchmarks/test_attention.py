"""The table of attention: what is counted, and that a model's rates cover both ends of its context."""

import numpy as np

from blocks2tokens.benchmarks import attention


def test_temporary_bytes_of_ours_do_not_grow_with_the_depth():
    for task in ("prompt", "token"):
        near, far = (attention.temporary_bytes(task, (9, 3, 64), depth, 2) for depth in (0, 8192))
        assert near["ours"] == far["ours"] and near["whole"] < far["whole"]
    assert attention.temporary_bytes("prompt", (9, 3, 64), 7680, 2)["whole"] == 4 * 9 * 512 * 8192
    assert attention.temporary_bytes("token", (9, 3, 64), 8191, 2)["whole"] == 4 * 9 * 8192


def test_a_table_of_layers_has_a_line_for_each(capsys, monkeypatch):
    monkeypatch.setattr(attention, "SHAPES", {"tiny": (2, 1, 16)})
    monkeypatch.setattr(attention, "ROWS", 16)
    attention.print_layers((0, 8))
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split()[:2] for line in lines] == [["tiny", "prompt"], ["tiny", "token"]] * 2


def test_rates_run_all_tokens_and_then_single_ones():
    calls = []
    found = attention.rates(lambda ids: calls.append(len(ids)), np.zeros(3 * attention.BATCH, int))
    assert calls == [attention.BATCH] * 3 + [1] * (1 + attention.DECODED)
    assert all(rate > 0 for rate in found)
