"""Lesson 13's tables, pictures and named figures: what they say, for given measurements."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from blocks2tokens.course import ablation, ledger, report_table
from blocks2tokens.course.lessons.the_verdict import evidence, pictures
from blocks2tokens.course.report_claims import MEASURED


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


PIECES = {"decode": 8e-5, "transpose": 3e-5, "dot products": 9e-4, "decode, SIMD": 4e-5, "BLAS, 1 core": 6e-5}
TIMES = {changes: 0.1 / 2 ** len(changes) for changes in ablation.SUBSETS}
TIMES |= {"phase0": 0.002, "phase1": 0.11, "simd": 0.001}
RUNS = {(128, 128, 128): report_table.REPORT, (1, 128, 128): report_table.RERUN}


def test_tables_stand_side_by_side():
    given = {"report": report_table.REPORT, "again": report_table.RERUN}
    page = pictures.side_by_side("128³", given).data
    assert page.index("report") < page.index("again") and "phase3b_column_major" in page
    assert "<b>119×</b>" in page and "1254 allocs" in page and "e+" not in page


def test_a_kernel_that_was_not_run_is_left_out():
    some = {name: row for name, row in report_table.REPORT.items() if "3b" not in name}
    for columns in ({"all": report_table.REPORT, "some": some}, {"some": some, "all": report_table.REPORT}):
        assert "left out" in pictures.side_by_side("", columns).data


def test_the_order_is_from_the_fastest_on():
    assert pictures.order(report_table.REPORT) == "0 < 2 < 3a < 1 < 3b"
    assert pictures.order(report_table.RERUN) == "0 < 3a < 2 < 1 < 3b"


def test_pieces_are_drawn_and_the_title_names_the_longest():
    slow = {name: 1000 * seconds for name, seconds in PIECES.items()} | {"transpose": 2.0}
    left, right = pictures.draw_pieces({"128 rows": PIECES, "1 row": slow}).axes
    titles = [axes.get_title() for axes in (left, right)]
    assert titles == ["128 rows: the dot products lead", "1 row: the transpose leads"]
    assert [axes.get_xlabel() for axes in (left, right)] == ["µs", "ms"]
    assert [bar.get_width() for bar in left.patches] == pytest.approx([80, 30, 900, 40, 60])
    assert [bool(bar.get_hatch()) for bar in left.patches] == [False, False, False, True, True]


def test_verdicts_are_counted():
    counts = dict.fromkeys(ledger.VERDICTS, 2) | {ledger.FAILS: 30}
    axes = pictures.draw_counts(counts)
    assert axes.get_title() == '40 sentences, 30 of them "does not hold"'
    assert [bar.get_width() for bar in axes.patches] == list(counts.values())


def test_each_figure_of_lesson_13_gets_its_value():
    """But for the few that the lesson's own cells enter."""
    found = evidence.of_the_table(RUNS) | evidence.of_memory(report_table.REPORT, 16)
    for rows in ("128 rows", "1 row"):
        found |= evidence.of_the_changes(TIMES, rows) | evidence.of_the_baseline(TIMES, PIECES, rows)
    found |= evidence.of_hands_and_compiler(TIMES, TIMES) | evidence.of_decodes()
    found |= evidence.of_the_caches(report_table.REPORT, PIECES, 16, 1.1)
    found |= evidence.of_strides(np.empty((128, 128), np.float32), np.empty((128, 128), np.float32))
    found |= evidence.of_prices(report_table.REPORT, PIECES) | evidence.of_bytes(10.0, 512, 256, 2)
    left = set(MEASURED["13"]) - set(found)
    assert not set(found) - set(MEASURED["13"])
    assert left == {
        "a over one core's second-level cache",
        "right weights of the report's Q4_K decoder",
        "right weights of the report's Q5_K decoder",
        "weights that two runs of the decoder tell apart",
        "float32 copies for a token over a 14B's bytes",
    }
    assert all(np.isfinite(value) for value in found.values())


def test_figures_are_what_their_names_say():
    found = evidence.of_the_table(RUNS) | evidence.of_the_changes(TIMES, "1 row")
    found |= evidence.of_the_baseline(TIMES, PIECES, "1 row") | evidence.of_memory(report_table.REPORT, 16)
    found |= evidence.of_strides(np.empty((3, 5), np.float32), np.empty((5, 3), np.float32))
    expected = {
        "slowdown of Phase 1, 128 rows": 58.1 / 0.488,
        "closest fused kernel, 1 row": 38 / 1.45,
        "five changes against Phase 0, 1 row": 0.1 / 32 / 0.002,
        "inlining, mean factor, 1 row": 2,
        "one by one, inlined, one scale: gain, 1 row": 4,
        "Phase 0 over the best known, 1 row": 0.002 / 1e-4,
        "decoding over decoding with SIMD, 1 row": 2,
        "share of the transpose in Phase 0, 1 row": 3 / 101,
        "Phase 0 with SIMD in decoding, 1 row": 101 / 97,
        "memory of Phase 3a, 16 workers": (65_536 + 16 * 65_536) / 1e3,
        "a worker of Phase 3a adds allocations": 76,
        "bytes from float to float, transpose": 12,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_both_orders_give_the_product():
    a, Bt = np.random.default_rng(0).standard_normal((2, 4, 8)).astype(np.float32)
    for order in (evidence.rows_first, evidence.columns_first):
        out = np.empty((4, 4), np.float32)
        order(a, Bt, out)
        assert np.allclose(out, a @ Bt.T, atol=1e-5)
