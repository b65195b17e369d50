"""Curves over M: interpolation, winners, crossings, a server's rates. Seconds are made up; none decides."""

import itertools
from collections import Counter

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

import blocks2tokens as b2t
from blocks2tokens.course import crossover
from blocks2tokens.course.crossover import Curves, draw, draw_server, explorer, matrices, measure, show

matplotlib.use("Agg")
ROWS = (1, 2, 4, 8, 16, 32, 64)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def lines(**kernels):
    """Return curves of kernels whose time is a + b * M."""
    return Curves("Q4_K", 1000, {name: {M: a + b * M for M in ROWS} for name, (a, b) in kernels.items()})


TWO = lines(simd_dot=(0, 1.0), integer_gemm=(8, 0.25))


def test_times_between_measured_rows_lie_on_a_line_of_logarithms():
    assert TWO.time("simd_dot", 8) == pytest.approx(8)
    assert TWO.time("simd_dot", 11) == pytest.approx(11)  # a power of M is a line
    flat = lines(integer_gemm=(8, 0.25))
    assert flat.time("integer_gemm", 2) < flat.time("integer_gemm", 3) < flat.time("integer_gemm", 4)
    for M in (0.5, 65):
        with pytest.raises(ValueError, match=f"M: expected 1 to 64, got {M}"):
            TWO.time("simd_dot", M)


def test_the_winner_changes_where_the_lines_cross():
    assert [TWO.winner(M) for M in (1, 8, 16, 64)] == ["simd_dot"] * 2 + ["integer_gemm"] * 2
    assert [TWO.best(M) for M in (1, 64)] == pytest.approx([1, 24])
    ((before, after, M),) = TWO.crossings()
    assert (before, after) == ("simd_dot", "integer_gemm")
    assert abs(M - 8 / 0.75) < 0.5


def test_noise_does_not_decide_between_kernels_that_are_as_fast():
    noisy = lines(simd_tiles=(0.99, 1), simd_dot=(1, 1))
    assert {noisy.winner(M) for M in ROWS} == {"simd_dot"} and noisy.crossings() == []
    faster = lines(simd_tiles=(0, 0.9), simd_dot=(0, 1))
    assert {faster.winner(M) for M in ROWS} == {"simd_tiles"}


def test_a_winner_stays_until_another_is_faster_by_more_than_noise():
    dot, tiles = {1: 1.0, 2: 1.06, 4: 1.0, 8: 1.2}, dict.fromkeys((1, 2, 4, 8), 1.0)
    close = Curves("Q4_K", 1, {"simd_tiles": tiles, "simd_dot": dot})
    ((before, after, M),) = close.crossings()
    assert (before, after) == ("simd_dot", "simd_tiles") and 4 <= M <= 8
    back = Curves(
        "Q4_K", 1, {"simd_tiles": dict.fromkeys((1, 2, 4), 1.0), "simd_dot": {1: 2.0, 2: 1.02, 4: 1.02}}
    )
    assert back.winner(2) == "simd_dot" and back.crossings() == []


def test_a_kernel_that_takes_over_within_the_margin_crosses_at_a_measured_distance():
    rows = {1: 1.0, 2: 1.0}
    close = Curves("Q4_K", 1, {"simd_dot": rows, "simd_tiles": {1: 0.96, 2: 0.9}})
    ((_, _, M),) = close.crossings()
    assert 1 <= M <= 2


def test_a_crossing_that_is_none_is_said():
    assert (crossover.place(17.6), crossover.place(np.inf)) == ("at M = 18", "at no M")


def test_wins_are_intervals_of_measured_rows():
    assert TWO.wins("simd_dot", "integer_gemm") == "1-8"
    assert TWO.wins("integer_gemm", "simd_dot") == "16-64"
    assert TWO.wins("simd_dot", "simd_dot") == "never"
    rows = {1: 1.0, 2: 3.0, 4: 1.0, 8: 1.0}
    mixed = Curves("Q4_K", 1, {"fused_rows": rows, "simd_dot": dict.fromkeys(rows, 2.0)})
    assert mixed.wins("fused_rows", "simd_dot") == "1, 4-8" and mixed.wins("simd_dot", "fused_rows") == "2"


def test_the_verdict_names_the_winner_and_by_how_much():
    assert TWO.verdict(64, "simd_dot") == "M = 64: integer_gemm beats the baseline, 2.67 times as fast"
    assert "the BASELINE beats simd_dot, 2.67 times as fast" in TWO.verdict(64, "integer_gemm")


def test_some_of_the_kernels():
    assert list(TWO.only(["simd_dot"]).seconds) == ["simd_dot"]
    assert TWO.only(["integer_gemm"]).winner(1) == "integer_gemm"
    with pytest.raises(ValueError, match="kernels: expected some of simd_dot, integer_gemm"):
        TWO.only([])


def test_a_server_s_step_is_scaled_by_counts():
    assert TWO.per_token(64, weights=5000) == pytest.approx(5 * 24)
    axes = draw_server({"ours": TWO}, users=8, weights=1000)
    total, each = (ax.get_lines()[0].get_ydata() for ax in axes)
    assert total[-1] == pytest.approx(64 / 24) and each[-1] == pytest.approx(1 / 24)
    assert np.allclose(total, each * np.array(ROWS))


def test_the_figures_draw_every_kernel_and_one_band_for_each_winner():
    axes = draw(TWO)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert sorted(labels) == ["integer_gemm", "simd_dot"]
    bands = [line for line in axes.get_lines() if line.get_linewidth() > 5]
    assert len(bands) == 2
    assert draw(lines(another=(0, 1), simd_dot=(1, 1))).get_title()
    figure = show(TWO, 16, ["integer_gemm"], 4)
    assert "M = 16: integer_gemm" in figure.axes[0].get_title()
    assert "4 users" in figure.axes[1].get_title()


def test_the_explorer_redraws_for_every_choice(monkeypatch):
    drawn = []
    monkeypatch.setattr(crossover, "show", lambda *choice: drawn.append(choice))
    panel = explorer({"Q4_K": TWO, "Q8_0": lines(simd_dot=(0, 2.0), integer_gemm=(9, 1.0))})
    left, kernels = panel.children[0].children
    name, M, users = left.children
    name.value, M.value, users.value, kernels.value = "Q8_0", 64, 32, ("simd_dot",)
    curves, *rest = drawn[-1]
    assert curves.seconds["simd_dot"][1] == 2.0 and rest == [64, ("simd_dot",), 32]
    kernels.value = ()
    assert drawn[-1][2] == ("simd_dot",)


def test_matrices_are_more_than_the_cache_holds(monkeypatch):
    monkeypatch.setattr(crossover.hardware, "machine", lambda: type("M", (), {"caches": {"L3": 100_000}}))
    some = matrices("Q4_K", (200, 256))
    assert sum(w.nbytes for w in some) >= 200_000 and len({w.raw.ctypes.data for w in some}) == len(some)
    assert some[0].shape == (200, 256) and np.isfinite(some[0].dequantize()).all()
    assert len(matrices("Q8_0", (2048, 256))) == 2


def test_there_is_no_more_than_memory_allows(monkeypatch):
    free = type("V", (), {"available": 8_000_000, "total": 1})
    monkeypatch.setattr(crossover.hardware.psutil, "virtual_memory", lambda: free)
    assert sum(w.nbytes for w in matrices("Q4_K", (2048, 256))) <= 1_500_000
    assert "no memory for more" in crossover.hardware.against_cache(1)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6])
def test_each_kernel_comes_as_often_after_each_of_the_others(n):
    names = list("abcdef")[:n]
    orders = crossover.orders(names)
    assert all(sorted(order) == names for order in orders)
    after = Counter(pair for order in orders for pair in itertools.pairwise(order))
    assert len(after) == n * (n - 1) and len(set(after.values())) <= 1


def test_every_call_gets_another_matrix(monkeypatch):
    seen = []
    kernel = b2t.KERNELS["fused_rows"]
    spy = {"fused_rows": lambda x, w: seen.append((x.shape, w)) or kernel(x, w)}
    monkeypatch.setattr(crossover, "KERNELS", spy)
    weights = matrices("Q4_K", (16, 256))[:3]
    curves = measure(weights, rows=(1, 32), kernels=["fused_rows"], repeats=2)
    assert curves.rows == [1, 32] and curves.weights == 16 * 256 and curves.format == "Q4_K"
    assert all(a is not b for (_, a), (_, b) in itertools.pairwise(seen))
    assert [shape for shape, _ in seen] == [(1, 256)] * 11 + [(32, 256)] * 3
