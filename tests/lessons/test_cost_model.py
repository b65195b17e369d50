"""The cost model: times follow counts, cores and rates. Rates are made up; no timing decides anything."""

from dataclasses import fields, replace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

from blocks2tokens.course.lessons.the_verdict import cost_model
from blocks2tokens.course.lessons.the_verdict.cost_model import (
    Rates,
    draw,
    measure,
    parts,
    predict,
    predictable,
    steps,
    table,
)
from blocks2tokens.kernels import KERNELS, Kernel

matplotlib.use("Agg")

PHASES = (
    "phase0_baseline",
    "phase1_naive_fused",
    "phase2_optimized_fused",
    "phase3a_block_cache",
    "phase3b_column_major",
)
RULED = (*PHASES, "dequantize_then_blas", "fused_rows")
IN_SECONDS = [field.name for field in fields(Rates)[2:] if field.name != "efficiency"]
FREE = Rates("Q5_K", 2, **dict.fromkeys(IN_SECONDS, 0.0), efficiency=1.0)
EVEN = replace(FREE, **dict.fromkeys(IN_SECONDS, 1e-9))


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def seconds(name, M=128, K=256, N=128, cores=1, rates=EVEN):
    return predict(KERNELS[name], M, K, N, rates.format, cores, rates)


# --- Predictions follow the counts ------------------------------------------------------------------------


def test_every_kernel_of_the_report_has_a_rule_and_one_without_is_left_out(monkeypatch):
    assert set(RULED) <= set(predictable()) <= set(KERNELS)
    known = KERNELS["fused_rows"]
    other = Kernel("no_rule", known.layout, known.story, known.run, known.count)
    monkeypatch.setattr(cost_model, "KERNELS", {"no_rule": other, **KERNELS})
    assert "no_rule" not in predictable()
    with pytest.raises(ValueError, match=r"has a rule .* got no_rule"):
        predict(other, 1, 256, 16, "Q5_K", 1, EVEN)


@pytest.mark.parametrize(
    ("name", "rate", "count"),
    [  # 128 x 128 x 128 on 16 cores, the counts of the report's own benchmark
        ("phase0_baseline", "block_weight", 128 * 128),
        ("phase0_baseline", "transposed", 128 * 128),
        ("phase0_baseline", "dot", 128**3 / 16),
        ("phase1_naive_fused", "element", 128**3),
        ("phase2_optimized_fused", "element", 128**3 / 16),
        ("phase3a_block_cache", "lookup", 128**3 / 16),
        ("phase3a_block_cache", "block_weight", 128 * 128),
        ("phase3b_column_major", "block_weight", 128**3 / 2 * 256 / 16),
        ("phase3b_column_major", "held", 128**3 / 16),
    ],
)
def test_each_rate_is_paid_as_often_as_counted(name, rate, count):
    assert seconds(name, K=128, cores=16, rates=replace(FREE, **{rate: 1.0})) == pytest.approx(count)


@pytest.mark.parametrize(
    ("name", "M", "rate", "count"),
    [
        ("dequantize_then_blas", 1, "blas_vector", 256 * 128),
        ("dequantize_then_blas", 1, "packed", 0),
        ("dequantize_then_blas", 16, "packed", 256 * 128),
        ("dequantize_then_blas", 16, "blas", 16 * 256 * 128),
        ("dequantize_then_blas", 16, "decoded", 256 * 128 / 2),
        ("fused_rows", 16, "decoded", 256 * 128 / 2),
        ("fused_rows", 16, "row_dot", 16 * 256 * 128 / 2),
        ("phase0_baseline", 32, "textbook", 32 * 256 * 128),
        ("phase0_baseline", 33, "textbook", 0),
    ],
)
def test_what_is_paid_depends_on_the_number_of_rows(name, M, rate, count):
    assert seconds(name, M, cores=2, rates=replace(FREE, **{rate: 1.0})) == pytest.approx(count)


@pytest.mark.parametrize("name", RULED)
def test_time_scales_with_the_rates_and_grows_with_rows(name):
    double = replace(FREE, **dict.fromkeys(IN_SECONDS, 2e-9))
    assert seconds(name, rates=double) == pytest.approx(2 * seconds(name))
    times = [seconds(name, M) for M in (1, 2, 16, 33, 64, 256)]
    assert times == sorted(times) and times[0] < times[-1]


@pytest.mark.parametrize("name", RULED)
def test_the_parts_add_up(name):
    found = parts(KERNELS[name], 128, 256, 128, "Q5_K", 2, EVEN)
    assert sum(part.seconds for part in found) == seconds(name, cores=2)
    assert all(part.each == 1e-9 and part.count > 0 and 1 <= part.workers <= 2 for part in found)


@pytest.mark.parametrize("fmt", ["Q4_K", "Q5_K", "Q6_K"])
def test_every_step_pays_a_rate_and_every_rate_is_paid_by_somebody(fmt):
    sizes = [(1, 256, 64), (128, 256, 64)]
    paid = {step.rate for size in sizes for name in RULED for step in steps(KERNELS[name], *size, fmt, 2)}
    assert paid == set(IN_SECONDS)


# --- Cores ------------------------------------------------------------------------------------------------


def test_cores_share_the_rows_and_the_last_one_decides():
    work = replace(FREE, element=1.0)
    alone = seconds("phase2_optimized_fused", 64, rates=work)
    assert seconds("phase2_optimized_fused", 64, cores=16, rates=work) == pytest.approx(alone / 16)
    per_row = alone / 64
    assert seconds("phase2_optimized_fused", 33, cores=16, rates=work) == pytest.approx(3 * per_row)
    assert seconds("phase2_optimized_fused", 31, cores=16, rates=work) == pytest.approx(31 * per_row)
    assert seconds("phase1_naive_fused", 64, cores=16, rates=work) == pytest.approx(alone)


def test_a_second_thread_that_adds_less_helps_less_and_the_rest_lie_on_a_line():
    assert [replace(FREE, efficiency=0.5).speedup(n) for n in (1, 2, 16)] == [1, 1.5, 8.5]
    work = replace(FREE, element=1.0, efficiency=0.5)
    alone = seconds("phase2_optimized_fused", 64, rates=work)
    assert seconds("phase2_optimized_fused", 64, cores=2, rates=work) == pytest.approx(alone / 1.5)
    useless = replace(work, efficiency=0.0)
    assert seconds("phase2_optimized_fused", 64, cores=2, rates=useless) == pytest.approx(alone)


def test_one_thread_wakes_nobody():
    waking = replace(FREE, region=1.0)
    assert seconds("phase2_optimized_fused", cores=1, rates=waking) == 0
    assert seconds("phase2_optimized_fused", cores=2, rates=waking) == 1


# --- Bad arguments ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"M": 0}, "M: expected at least 1, got 0"),
        ({"K": -256}, "K: expected at least 1"),
        ({"N": 1.5}, "N: expected a whole number, got 1.5"),
        ({"cores": 0}, "cores: expected at least 1"),
        ({"fmt": "Q9_K"}, "format: expected one of"),
        ({"fmt": "Q4_K"}, "rates: calibrated for Q5_K, not for Q4_K"),
        ({"kernel": "fused_rows"}, "kernel: expected one of KERNELS"),
        ({"K": 100, "N": 100}, "K \\* N = 10000 is not a multiple of Q5_K's 256"),
        ({"kernel": KERNELS["fused_rows"], "K": 128}, "K = 128 is not a multiple"),
    ],
)
def test_bad_arguments_are_named(change, message):
    good = {"kernel": KERNELS["phase1_naive_fused"], "M": 4, "K": 256, "N": 16, "fmt": "Q5_K", "cores": 1}
    with pytest.raises(ValueError, match=message):
        predict(**good | change, rates=EVEN)


@pytest.mark.parametrize(
    "change", [{"element": -1.0}, {"dot": np.nan}, {"call": np.inf}, {"efficiency": 1.5}]
)
def test_rates_that_cannot_be_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(EVEN, **change)


def test_measuring_on_more_cores_than_there_are_is_refused():
    with pytest.raises(ValueError, match="cores: this machine has"):
        measure([(1, 16, 16)], "Q5_K", cores=10_000)


# --- Measuring: what comes back, not how long it took -----------------------------------------------------


def test_calibrating_gives_rates_of_this_machine():
    rates = cost_model.calibrate("Q4_K")
    assert rates.format == "Q4_K" and rates.cores >= 1 and rates.element > 0
    assert predict(KERNELS["phase1_naive_fused"], 4, 16, 16, "Q4_K", 1, rates) > 0


def test_measured_points_know_where_they_belong():
    measured = measure([(1, 16, 16), (2, 256, 16)], "Q5_K", cores=1, repeats=1)
    assert list(measured) == [("Q5_K", 1, 16, 16, 1), ("Q5_K", 2, 256, 16, 1)]
    small, large = measured.values()
    assert set(PHASES) <= set(small) and "fused_rows" not in small
    assert list(large) == predictable() and all(value > 0 for value in large.values())


# --- Showing ----------------------------------------------------------------------------------------------

POINT = {("Q5_K", 128, 256, 128, 2): {"phase1_naive_fused": 0.074, "fused_rows": 2e-4}}


def texts(figure):
    work, time = figure.axes
    return [text.get_text() for axes in (work, time) for text in axes.texts]


def test_the_figure_has_all_kernels_and_both_halves():
    figure = draw(128, 256, 128, "Q5_K", 2, EVEN, POINT)
    work, time = figure.axes
    assert [label.get_text() for label in work.get_yticklabels()] == predictable()
    predicted = next(line for line in time.lines if line.get_label() == "predicted")
    assert len(predicted.get_xdata()) == len(predictable())
    assert work.get_xscale() == time.get_xscale() == "log"
    points = next(line for line in time.lines if line.get_label() == "measured here")
    assert list(points.get_xdata()) == [0.074, 2e-4]
    assert {"predicted", "measured", "74 ms", "200 µs"} <= set(texts(figure))


def test_what_does_not_fit_and_what_was_not_measured_is_said():
    figure = draw(128, 128, 128, "Q5_K", 16, EVEN, POINT)
    work, time = figure.axes
    assert [label.get_text() for label in work.get_yticklabels()] == predictable()
    assert texts(figure).count("its layout needs K to be a multiple of 256") >= 2
    assert not any(line.get_label() == "measured here" for line in time.lines)
    assert "measured" not in texts(figure)
    assert "this machine has 2" in figure.get_suptitle()
    assert "this machine" not in draw(128, 128, 128, "Q5_K", 2, EVEN).get_suptitle()


def test_the_table_sets_measured_beside_predicted():
    shown = table(128, 256, 128, "Q5_K", 2, EVEN, POINT)
    header, *rows = shown.cells
    assert [row[0] for row in rows] == predictable()
    naive = next(row for row in rows if row[0] == "phase1_naive_fused")
    assert naive[1] == f"{128 * 256 * 128:,}" and naive[-2] == "74 ms"
    assert float(naive[-1]) == pytest.approx(0.074 / seconds("phase1_naive_fused", cores=2), rel=0.01)
    assert next(row for row in rows if row[0] == "phase0_baseline")[-2:] == ["", ""]
    assert "<table>" in shown._repr_html_() and header[0] in repr(shown)


@pytest.mark.parametrize("show", [draw, table])
def test_pictures_refuse_what_predictions_refuse(show):
    with pytest.raises(ValueError, match="not a multiple"):
        show(1, 10, 10, "Q5_K", 1, EVEN)
    with pytest.raises(ValueError, match="calibrated for Q5_K"):
        show(1, 256, 16, "Q6_K", 1, EVEN)


def test_the_panel_changes_the_picture_and_offers_only_sizes_that_fit(monkeypatch):
    drawn = []
    monkeypatch.setattr(cost_model, "draw", lambda *args: drawn.append(args))
    rates = {name: replace(EVEN, format=name) for name in ("Q4_K", "Q5_K", "Q6_K")}
    panel = cost_model.cost_explorer(rates, POINT)
    (M, K, N), (fmt_name, cores) = (box.children for box in panel.children[:2])
    assert all(k * n % 256 == 0 for k in K.options for n in N.options)
    assert fmt_name.options == ("Q4_K", "Q5_K", "Q6_K") and (cores.min, cores.max) == (1, 16)
    for control, value in ((M, 1), (K, 256), (N, 64), (fmt_name, "Q6_K"), (cores, 16)):
        control.value = value
    assert drawn[-1] == (1, 256, 64, "Q6_K", 16, rates["Q6_K"], POINT)
    assert len(drawn) == 6


def test_every_place_of_the_sliders_can_be_drawn():
    for M, K, N, cores in ((1, 16, 16, 1), (512, 512, 512, 16), (1, 512, 16, 16), (512, 16, 512, 1)):
        draw(M, K, N, "Q5_K", cores, EVEN)


def test_a_panel_needs_rates():
    with pytest.raises(ValueError, match="at least one format"):
        cost_model.cost_explorer({})
