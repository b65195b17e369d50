"""Stages: nested times by a clock that the test sets, what is computed from them, and how they are shown."""

import matplotlib.pyplot as plt
import pytest

from blocks2tokens.course.lessons.where_the_time_goes import profiler
from blocks2tokens.course.lessons.where_the_time_goes.profiler import OFF, Recorder, Stage


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until the test adds to its only item."""
    now = [100.0]
    monkeypatch.setattr(profiler.time, "perf_counter", lambda: now[0])
    return now


def token(clock, record=None):
    """Record a token of 16 s: 1 of its own, a layer of 15 with a product of 12 and RoPE of 2."""
    record = record or Recorder()
    with record("token"):
        clock[0] += 1
        with record("layer"):
            clock[0] += 1
            with record("matmul"):
                clock[0] += 8
                with record("allocations"):
                    clock[0] += 4
                    record.allocated(1000)
            with record("rope"):
                clock[0] += 1.5
                with record("allocations"):
                    clock[0] += 0.5
                    record.allocated(24)
    return record


def test_times_nest(clock):
    whole = token(clock)["token"]
    layer = whole.stages["layer"]
    assert (whole.seconds, layer.seconds) == (16, 15)
    assert (whole.self_seconds, layer.self_seconds) == (1, 1)
    assert [(part.name, part.seconds, part.self_seconds) for part in layer.stages.values()] == [
        ("matmul", 12, 8),
        ("rope", 2, 1.5),
    ]


def test_a_stage_entered_again_adds_to_itself(clock):
    record = token(clock)
    whole = token(clock, record)["token"]
    rope = whole.stages["layer"].stages["rope"]
    assert (whole.seconds, whole.calls, rope.seconds, rope.calls) == (32, 2, 4, 2)


def test_tensors_belong_to_the_open_stage(clock):
    layer = token(clock)["token"].stages["layer"]
    made = layer.stages["matmul"].stages["allocations"]
    assert (made.tensors, made.nbytes) == (1, 1000)
    assert (layer.tensors, layer.stages["matmul"].tensors) == (0, 0)


def test_a_stage_that_raises_is_closed(clock):
    record = Recorder()
    with pytest.raises(ZeroDivisionError), record("token"), record("rope"):
        clock[0] += 2
        raise ZeroDivisionError
    with record("next"):
        clock[0] += 1
    assert (record["token"].seconds, record["token"].stages["rope"].seconds, record["next"].seconds) == (
        2,
        2,
        1,
    )


def test_clear_forgets(clock):
    record = token(clock)
    record.clear()
    with pytest.raises(KeyError):
        record["token"]
    assert token(clock, record)["token"].seconds == 16


def test_off_takes_no_time_and_keeps_nothing():
    with OFF("token"), OFF("rope"):
        OFF.allocated(3)


def test_self_times_add_up_to_the_whole(clock):
    whole = token(clock)["token"]
    own = profiler.self_times(whole)
    assert own == {"token": 1, "layer": 1, "matmul": 8, "allocations": 4.5, "rope": 1.5}
    assert sum(own.values()) == whole.seconds


def test_without_takes_a_stage_out_of_all_above_it(clock):
    whole = token(clock)["token"]
    left = profiler.without(whole, {"allocations"})
    assert (left.seconds, left.stages["layer"].seconds) == (11.5, 10.5)
    assert {part.name: part.seconds for part in left.stages["layer"].stages.values()} == {
        "matmul": 8,
        "rope": 1.5,
    }
    assert whole.seconds == 16 and "allocations" in whole.stages["layer"].stages["rope"].stages
    assert profiler.without(whole, ()) == whole


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("rope",), 2 / 16),  # with its allocation
        (("allocations",), 4.5 / 16),
        (("rope", "allocations"), 6 / 16),  # what they share is counted once
        (("layer", "rope"), 15 / 16),
        (("nowhere",), 0),
    ],
)
def test_share(clock, names, expected):
    assert profiler.share(token(clock)["token"], *names) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("share", "factor", "expected"),
    [(0.5, 2, 4 / 3), (0.95, 20, 1 / (0.05 + 0.0475)), (0.75, float("inf"), 4), (0, 9, 1), (1, 3, 3)],
)
def test_amdahl(share, factor, expected):
    assert profiler.amdahl(share, factor) == pytest.approx(expected)


def test_amdahl_of_everything_in_no_time():
    assert profiler.amdahl(1.0) == float("inf")


def test_table_has_a_row_for_each_stage(clock):
    rows = profiler.table(token(clock)["token"], {"rope": "RoPE"}).rows
    assert [row[0].strip() for row in rows] == [
        "stage", "token", "layer", "matmul", "allocations", "RoPE", "allocations",
    ]  # fmt: skip
    assert rows[3] == (" " * 8 + "matmul", "12 s", "75.0%", "8 s", "1", "", "")
    assert rows[4][4:] == ("1", "1", "1 kB")


def test_table_shows_itself_as_text_and_html(clock):
    table = profiler.table(Stage("a < b", 1.0, 1))
    lines = repr(table).splitlines()
    assert len(lines) == 2 and len({len(line) for line in lines}) == 1
    assert "a &lt; b" in table._repr_html_() and table._repr_html_().count("<tr>") == 2


def drawn(stage, **arguments):
    """Return the boxes, (left, row, width), and the texts of a picture."""
    axes = profiler.draw(stage, "title", **arguments)
    boxes = [(box.get_x(), round(box.get_y(), 3), box.get_width()) for box in axes.patches]
    texts = [text.get_text() for text in axes.texts]
    plt.close(axes.figure)
    return boxes, texts, axes


def test_boxes_are_as_wide_as_shares_and_lie_below_their_stage(clock):
    boxes, texts, _ = drawn(token(clock)["token"], labels={"rope": "RoPE"})
    assert boxes == [
        (0, 0, 1),  # token
        (0, 1, 15 / 16),
        (0, 2, 12 / 16),  # matmul
        (0, 3, 4 / 16),
        (12 / 16, 2, 2 / 16),  # rope
        (12 / 16, 3, 0.5 / 16),
    ]
    assert texts == ["token 100%", "layer 94%", "matmul 75%", "allocations 25%", "RoPE 12%", "a"]


def test_a_narrow_box_gets_a_letter_and_the_line_below_explains_it(clock):
    _, texts, axes = drawn(token(clock)["token"])
    assert texts[-1] == "a" and "a allocations 3.1%" in axes.get_xlabel()


def test_the_narrowest_are_not_named():
    stage = Stage("token", 1000.0, stages={"rope": Stage("rope", 3.0)})
    _, texts, axes = drawn(stage)
    assert texts == ["token 100%"] and axes.get_xlabel() == "share of the time"


def test_long_lists_are_wrapped():
    names = [f"a part with a long name {i}" for i in range(9)]
    stage = Stage("token", 1.0, stages={name: Stage(name, 0.015) for name in names})
    _, texts, axes = drawn(stage)
    assert texts == ["token 100%", *"abcdefghi"]
    assert len(axes.get_xlabel().splitlines()) > 2 and max(map(len, axes.get_xlabel().splitlines())) <= 125
