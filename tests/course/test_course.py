"""The lessons' helpers: what they count, draw and judge. No timing decides anything here."""

import time
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import nbclient
import nbformat
import numpy as np
import pytest
from numba import njit

import blocks2tokens as b2t
from blocks2tokens.course import anatomy, bench, budget, explore, hardware, models, plot
from blocks2tokens.course.check import Exercise, Mistake
from blocks2tokens.course.setup import environment

matplotlib.use("Agg")

QUANTIZED = [name for name, fmt in b2t.FORMATS.items() if fmt.block_size > 1 and fmt.can_encode]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


# Counting


def test_allocations_counts_arrays_that_are_gone_again():
    counted = bench.allocations(lambda: [np.empty(1000, np.float32) for _ in range(5)] and None)
    assert (counted.count, counted.nbytes) == (5, 5 * 4000)
    assert 5 * 4000 <= counted.peak < 5 * 4000 + 2000


def test_peak_sees_what_is_held_at_once_and_not_what_was_freed():
    def one_after_another():
        for _ in range(10):
            np.empty(100_000, np.uint8)

    counted = bench.allocations(one_after_another)
    assert counted.nbytes == 1_000_000 and counted.peak < 200_000


def test_arrays_outlive_the_counting():
    kept = []
    bench.allocations(lambda: kept.append(np.arange(1000)))
    kept.append(np.concatenate(kept))
    assert np.array_equal(kept[-1], np.tile(np.arange(1000), 2))


def test_allocations_counts_compiled_code():
    @njit
    def three_arrays():
        return np.ones(10).sum() + np.ones(20).sum() + np.ones(30).sum()

    three_arrays()
    assert bench.allocations(three_arrays).count == 3


def test_interleaved_keeps_the_first_call_apart_and_takes_turns():
    calls, most = [], bench.MOST_IN_A_ROW
    timings = bench.interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3)
    assert calls == ["a", "b"] + 3 * (most * ["a"] + most * ["b"])
    assert all(t.low <= t.median <= t.high for t in timings.values())


def ticking(monkeypatch):
    """Return a list of one number, the time, which measuring takes for the clock."""
    now = [0.0]
    monkeypatch.setattr(budget, "clock", lambda: now[0])
    return now


def lasting(now, seconds, calls=None):
    """Return a function that takes so long, and lists its calls."""

    def run():
        now[0] += seconds
        if calls is not None:
            calls.append(seconds)

    return run


def test_a_short_call_is_not_timed_by_what_a_long_one_leaves_behind(monkeypatch):
    now, asleep = ticking(monkeypatch), [False]

    def long():
        now[0] += 0.4
        asleep[0] = True

    def brief():
        now[0] += 0.015 if asleep[0] else 0.001
        asleep[0] = False

    timings = bench.interleaved({"long": long, "short": brief}, 5)
    short = timings["short"]
    assert short.median == pytest.approx(0.001) and short.first == pytest.approx(0.015)
    assert timings["long"].median == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("repeats", "seconds", "runs"),
    [
        (7, 21, 7),  # each round takes 3 s
        (7, 20.9, 6),  # the seventh would not end in time
        (7, 6, 2),
        (7, 5.9, 1),
        (7, 0, 1),  # one is always measured
        (1, 0, 1),
    ],
)
def test_rounds_end_before_the_budget_does(monkeypatch, capsys, repeats, seconds, runs):
    now, calls = ticking(monkeypatch), []
    functions = {"a": lasting(now, 1, calls), "b": lasting(now, 2, calls)}
    timings = bench.interleaved(functions, repeats, seconds)
    assert calls == [1, 2] * (1 + runs)
    assert timings["b"] == bench.Timing(2, 2, 2, 2, runs, repeats)
    said = f"Time for {runs} of {repeats} rounds.\n" if runs < repeats else ""
    assert capsys.readouterr().out == said


def test_a_first_round_that_compiles_for_long_leaves_the_budget_whole(monkeypatch):
    now = ticking(monkeypatch)
    took = iter([100, 1, 1, 1])

    def run():
        now[0] += next(took)

    assert bench.interleaved({"a": run}, 3, seconds=5)["a"] == bench.Timing(100, 1, 1, 1, 3, 3)


def test_the_table_has_a_column_of_runs_where_there_are_fewer(monkeypatch, capsys):
    now = ticking(monkeypatch)
    functions = {"a": lasting(now, 1), "b": lasting(now, 2)}
    assert "runs" not in bench.compare(functions, 2, seconds=6).cells()[0]
    header, *rows = bench.compare(functions, 7, seconds=6).cells()
    assert header[2] == "runs" and [row[2] for row in rows] == ["2 of 7"] * 2
    assert {len(row) for row in rows} == {len(header)} and capsys.readouterr().out == ""


@pytest.mark.parametrize("n", range(12))
def test_coarse_first_gives_every_point_once_and_the_ends_first(n):
    order = budget.coarse_first(list(range(n)))
    assert sorted(order) == list(range(n))
    if n > 1:
        assert order[:2] == [0, n - 1]
    if n > 4:  # what is measured of it is spread over the range
        assert max(np.diff(sorted(order[:5]))) <= n / 4 + 1


def test_a_sweep_measures_coarsely_where_time_is_short_and_says_so(monkeypatch, capsys):
    now = ticking(monkeypatch)

    def measure(n, seconds):
        return bench.interleaved({"a": lasting(now, n)}, 3, seconds)["a"]

    sizes = [1, 2, 3, 4, 5]
    found = bench.sweep(sizes, measure, seconds=100)
    assert list(found) == sizes and [t.runs for t in found.values()] == [3] * 5
    assert capsys.readouterr().out == ""
    found = bench.sweep(sizes, measure, seconds=13)
    assert list(found) == [1, 5] and found[5].runs == 1
    assert capsys.readouterr().out == "Time for 2 of 5 points, some with fewer rounds.\n"
    found = bench.sweep(sizes, measure, seconds=18)
    assert list(found) == [1, 3, 5]
    assert capsys.readouterr().out == "Time for 3 of 5 points, some with fewer rounds.\n"
    assert list(bench.sweep([7], measure, seconds=0)) == [7]


def test_points_share_what_is_left_of_the_budget(monkeypatch):
    now, shares = ticking(monkeypatch), []

    def measure(n, seconds):
        shares.append((n, seconds))
        now[0] += 10 if n == 1 else 1

    bench.sweep([1, 2, 3], measure, seconds=30)
    assert shares == [(1, 10), (3, 10), (2, 19)]


def test_a_rate_leaves_out_the_first_and_ends_with_the_budget(monkeypatch):
    now = ticking(monkeypatch)

    def tokens(n):
        now[0] += 100  # a prompt
        for i in range(n):
            yield i
            now[0] += 2

    assert bench.rate(tokens(5)) == 4 / 8
    asked = iter(tokens(100))
    assert bench.rate(asked, seconds=10) == 5 / 10 and next(asked) == 6
    assert bench.rate(tokens(1)) == 0


def test_there_is_one_line_of_progress_and_none_is_left(capsys, monkeypatch):
    monkeypatch.setattr(budget, "DELAY", 0.05)
    with budget.progress(2, "outer") as outer:
        with budget.progress(9, "inner") as inner:
            assert inner.disable
        time.sleep(0.3)  # the line comes without a step
        outer.update()
    shown = capsys.readouterr().err
    assert "outer" in shown and "inner" not in shown
    assert shown.rsplit("\r", 1)[0].rsplit("\r", 1)[-1].strip() == ""
    with budget.progress(1, "quick") as bar:
        bar.update()
    assert capsys.readouterr().err == ""


def test_the_table_compares_with_its_first_row_and_shows_costs():
    table = bench.compare({"a": lambda: None, "<b>": lambda: None}, costs={"a": {"weights decoded": 4096}})
    header, first, second = table.cells()
    assert header[-1] == "weights decoded" and first[-1] == "4,096" and second[-1] == ""
    assert first[3] == "1×"
    assert "&lt;b&gt;" in table._repr_html_() and "4,096" in repr(table)


@pytest.mark.parametrize(
    ("value", "text"), [(2.5, "2.5 s"), (0.0123, "12.3 ms"), (4.2e-6, "4.2 µs"), (3e-8, "30 ns")]
)
def test_seconds_have_a_unit(value, text):
    assert bench.seconds(value) == text


def test_ratios_say_which_way():
    said = [bench.ratio(2.0, value) for value in (2.0, 0.5, 3.0, 3040.0, 1999.0, 2e-4)]
    assert said == ["1×", "4× faster", "1.5× slower", "1,520× slower", "1,000× slower", "10,000× faster"]


# Pictures of blocks


@pytest.mark.parametrize("name", [name for name in QUANTIZED if name != "TQ1_0"])  # five weights in a byte
def test_every_bit_of_a_code_is_traced_to_exactly_one_weight(name):
    """Each bit of a code field belongs to one weight; each weight has as many as its codes need."""
    fmt = b2t.FORMATS[name]
    owners = {}
    for weight in range(fmt.block_size):
        bits = [b for field, b in anatomy.trace(fmt, weight).items() if field in anatomy.CODE_FIELDS]
        for place in [place for field in bits for place in field]:
            owners.setdefault(place, []).append(weight)
    code_bytes = sum(size for field, (_, size) in anatomy.fields(fmt).items() if field in anatomy.CODE_FIELDS)
    assert len(owners) == 8 * code_bytes
    assert all(len(weights) == 1 for weights in owners.values())


def test_trace_of_a_known_weight():
    """Q4_K, weight 200: sub-block 6, whose scale is in bytes 6, 10, 14 and whose code is a low nibble."""
    traced = anatomy.trace(b2t.FORMATS["Q4_K"], 200)
    assert traced["qs"] == [(16 + 96 + 8, bit) for bit in range(4)]
    assert {byte for byte, _ in traced["scales"]} == {4 + 2, 4 + 6, 4 + 10}


def test_levels_hold_the_decoded_weight_and_are_equally_spaced():
    fmt = b2t.FORMATS["Q5_K"]
    block = fmt.blocks(np.random.default_rng(0).integers(0, 256, fmt.bytes_per_block, dtype=np.uint8))
    block["d"], block["dmin"] = 0.01, 0.02
    raw = block.view(np.uint8)
    code, levels = anatomy.levels(fmt, raw, 130)
    assert levels[code] == fmt.dequantize(raw)[130] and len(levels) == 32
    assert np.allclose(np.diff(levels), levels[1] - levels[0], rtol=1e-3)


def test_a_weight_outside_the_block_is_refused():
    with pytest.raises(ValueError, match="0 <= weight < 32, got 32"):
        anatomy.trace(b2t.FORMATS["Q4_0"], 32)


@pytest.mark.parametrize("name", QUANTIZED)
def test_blocks_can_be_drawn(name):
    with plt.rc_context(plot.STYLE):
        axes = anatomy.draw(name, weight=1)
        axes.figure.canvas.draw()
    assert name in axes.get_title(loc="left") or name in axes.get_title()
    right = axes.get_window_extent().x1
    for text in axes.texts:
        assert text.get_size() >= 10 and text.get_window_extent().x1 <= right, text


@pytest.mark.parametrize("name", QUANTIZED)
def test_a_block_that_nobody_names_is_one_of_real_weights(name):
    fmt = b2t.FORMATS[name]
    weights = fmt.dequantize(anatomy.example(fmt))
    stored = b2t.GGUFFile(models.austen()).raw("blk.1.ffn_down.weight")
    real = b2t.FORMATS["F16"].dequantize(stored)[0, : fmt.block_size]
    assert np.abs(weights - real).max() < 0.5 * np.abs(real).max()


# Widgets


def test_the_inspector_follows_its_sliders(monkeypatch):
    shown = []
    monkeypatch.setattr(explore, "show_weight", lambda name, block, weight: shown.append((name, weight)))
    raw = {name: np.zeros((3, b2t.FORMATS[name].bytes_per_block), np.uint8) for name in ("Q8_0", "Q4_K")}
    panel = explore.block_inspector(raw)
    name, block, weight = panel.children[0].children
    assert (block.max, weight.max) == (2, 31)
    name.value = "Q4_K"
    weight.value = 255
    assert shown[-1] == ("Q4_K", 255)
    name.value = "Q8_0"
    assert weight.max == 31 and shown[-1] == ("Q8_0", 31)


def test_the_mover_quantizes_the_moved_weight():
    x = np.linspace(-1, 1, 32).astype(np.float32)
    explore.move_weight(x, 3, 100.0, "Q8_0")
    assert "off by" in plt.gca().get_title(loc="left") + plt.gca().get_title()
    assert np.array_equal(x, np.linspace(-1, 1, 32).astype(np.float32))


def test_the_mover_follows_its_sliders(monkeypatch):
    shown = []
    monkeypatch.setattr(explore, "move_weight", lambda x, index, value, name: shown.append((index, name)))
    name, sliders, _ = explore.weight_mover(np.ones(32, np.float32), ["Q4_0", "Q8_0"]).children
    sliders.children[0].value = 31
    name.value = "Q8_0"
    assert shown[-1] == (31, "Q8_0")


# Machine, models, environment


def test_the_machine_has_cores_and_the_ceilings_are_positive(monkeypatch):
    monkeypatch.setattr(hardware, "_array_bytes", lambda: 8 * hardware.CHUNK)
    monkeypatch.setattr(hardware, "GEMM_SIZE", 64)
    monkeypatch.setattr(hardware, "REPEATS", 1)
    ceilings = hardware.measure()
    assert set(ceilings.read) == set(ceilings.gemm) == {1, hardware.machine().cores}
    assert min(*ceilings.read.values(), *ceilings.gemm.values()) > 0


def test_a_missing_model_says_how_to_get_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(models, "DATA", tmp_path)
    assert models.available() == {}
    with pytest.raises(FileNotFoundError, match="fetch_smollm2"):
        models.smollm2()
    environment.report()
    printed = capsys.readouterr().out
    assert "[!!] SmolLM2: SmolLM2-135M-Instruct.Q4_1.gguf is not here" in printed
    assert "[ok] Python" in printed


def test_bars_write_their_values():
    axes = plot.bars({"a": 1.0, "b": 20.0}, "GB/s", "title")
    assert {text.get_text() for text in axes.texts} == {"1 GB/s", "20 GB/s"}


# The judge


def double(x):
    return 2 * x


EXERCISE = Exercise(
    name="double",
    engine=double,
    cases=lambda: {"ramp": (np.arange(4.0),), "zeros": (np.zeros(2),)},
    mistakes=(Mistake(lambda x: x * x, "you squared"), Mistake(lambda x: x + 2, "you added two")),
    hints=("think", "think <again>"),
)


@pytest.mark.parametrize(
    ("function", "kind", "phrases"),
    [
        (lambda x: ..., "untouched", ["not attempted yet"]),
        (lambda x: x.sort(), "wrong", ["returned None: did you forget `return`?"]),
        (double, "right", ["right on all 2 cases"]),
        (lambda x: [2 * v for v in x], "right", []),
        (lambda x: x**2, "wrong", ["you squared", "ramp: element 1 is 1, expected 2 (2 of 4 differ)"]),
        (lambda x: 2 + x, "wrong", ["you added two"]),
        (lambda x: x * 3, "wrong", ["ramp: element 1 is 3, expected 2"]),
        (lambda x: x[:1] * 2, "wrong", ["expected shape (4,), got (1,)"]),
        (lambda x: 1 / 0, "wrong", ["raised ZeroDivisionError: division by zero", "1 / 0"]),
        (lambda: 1, "wrong", ["raised TypeError"]),
        (lambda x: "text", "wrong", ["expected"]),
        (lambda x: {"a": 1}, "wrong", ["expected"]),
        (3, "wrong", ["expected a function, got int"]),
    ],
)
def test_verdicts(function, kind, phrases):
    verdict = EXERCISE.judge(function)
    assert verdict.kind == kind
    for phrase in phrases:
        assert phrase in verdict.message, verdict.message


def halves(x):
    low, high = x & 15, x >> 4
    return low, high


@pytest.mark.parametrize(
    ("parts", "engine", "told"),
    [
        (("a", "b"), halves, "ramp, b: element 1 is 1,"),
        ((), halves, "ramp, high: element 1 is 1,"),
        ((), lambda x: (x & 15, x >> 4), "ramp, the second of the 2 values: element 1 is 1,"),
    ],
)
def test_the_parts_of_an_answer_have_names(parts, engine, told):
    exercise = Exercise("halves", engine, lambda: {"ramp": (np.arange(4),)}, (), (), parts=parts)
    assert told in exercise.judge(lambda x: (x & 15, x)).message


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (np.array([1, 200], np.uint8), "element 0 is 0 (0x00), expected 1 (0x01)"),
        (np.array([1, 15], np.uint8), "element 0 is 0, expected 1 ("),
        (np.array([1, 2**32 - 1], np.uint32), "element 0 is 0x00000000, expected 0x00000001 ("),
        (np.array([1, 2**32 - 1], np.uint32), "x = [0x00000001 0xffffffff] uint32 [2]"),
        (np.uint32(2**32 - 1), "expected 0xffffffff\nthe input of words: x = 0xffffffff"),
        (np.array([1, 200]), "element 0 is 0, expected 1 ("),
    ],
)
def test_packed_bits_are_shown_as_such(given, told):
    exercise = Exercise("words", lambda x: x, lambda: {"words": (given,)}, (), ())
    message = exercise.judge(lambda x: np.zeros_like(x)).message
    assert told in message, message


def test_a_check_returns_the_learners_function_only_if_it_is_right():
    def mine(x):
        return x + x

    assert EXERCISE(mine) is mine
    assert EXERCISE(lambda x: ...) is double
    assert EXERCISE(lambda x: x) is double


def test_the_card_folds_hints_and_shows_the_engines_source():
    card = EXERCISE.judge(lambda x: ...)._repr_html_()
    assert card.index("Stuck?") < card.index("Hint") < card.index("Solution")
    assert "return 2 * x" in card and "&lt;again&gt;" in card
    assert "Solution" not in EXERCISE.judge(double)._repr_html_()


def test_a_function_that_writes_into_its_argument_is_refused():
    def careless(x):
        x *= 2
        return x

    verdict = EXERCISE.judge(careless)
    assert verdict.kind == "wrong" and "you wrote into x: 3 of its 4 numbers" in verdict.message


def test_an_unknown_exercise_lists_the_known_ones():
    from blocks2tokens.course import check

    with pytest.raises(AttributeError, match="no exercise 'nonsense'"):
        _ = check.nonsense


def empty(x):
    """Documented, and nothing else."""
    ...


def no_docstring(x): ...


@pytest.mark.parametrize("function", [empty, no_docstring])
def test_a_body_of_three_dots_is_not_attempted(function):
    assert EXERCISE.judge(function).kind == "untouched"


def test_an_overflowing_byte_gets_advice():
    verdict = EXERCISE.judge(lambda x: np.uint8(3) + 1023)
    assert "make it an int(...) first" in verdict.message


# Text that grows


class OneWord:
    """A model that says one token again and again."""

    config = SimpleNamespace(context_length=1000)

    class tokenizer:
        chat_template = None
        encode = staticmethod(lambda text, special: [1, 2])
        decode_stream = staticmethod(lambda ids: ("ha <b>" for _ in ids))

    def generate(self, ids, max_tokens, sampler):
        for _ in range(max_tokens):
            time.sleep(0.001)
            yield 7


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def test_the_playground_shows_text_and_stops():
    panel = explore.playground({"one": OneWord()})
    _, _, sliders, buttons, page = panel.children
    generate, stop = buttons.children
    sliders.children[2].value = 5
    generate.click()
    wait_for(lambda: not generate.disabled)
    assert page.value.count("ha &lt;b&gt;") == 5 and "5 tokens" in page.value
    sliders.children[2].value = 300
    generate.click()
    stop.click()
    wait_for(lambda: not generate.disabled)
    assert "stopped" in page.value and stop.disabled


def test_speak_returns_the_text_and_an_interrupt_goes_on_up(monkeypatch, capsys):
    assert explore.speak(OneWord(), "prompt", 3) == "ha <b>" * 3

    def interrupted(ids, max_tokens, sampler):
        yield 7
        raise KeyboardInterrupt

    model = OneWord()
    model.generate = interrupted
    with pytest.raises(KeyboardInterrupt):
        explore.speak(model, "prompt", 3)


def test_a_figures_titles_are_its_alternative_text():
    figure, (left, right) = plt.subplots(1, 2)
    figure.suptitle("Fused wins")
    left.set_title("below M = 25")
    right.set_title("on this\nmachine", loc="right")
    assert plot.alt_text(figure) == "Fused wins. below M = 25. on this machine"


def test_a_lessons_pictures_carry_their_alternative_text():
    nb = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(
                "from blocks2tokens.course import plot\nplot.use_style(); plot.use_style()"
            ),
            nbformat.v4.new_code_cell("plot.bars({'a': 1, 'b': 2}, 'x', 'B is twice as large');"),
        ]
    )
    nbclient.NotebookClient(nb, kernel_name="python3").execute()
    (output,) = nb.cells[1].outputs
    assert output.metadata["image/png"]["alt"] == "B is twice as large"
