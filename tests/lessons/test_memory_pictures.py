"""The pictures of lesson 24 show what is computed: lives as bars, places as rectangles, all in sight."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pytest
from matplotlib.patches import Rectangle

import blocks2tokens as b2t
from blocks2tokens.course.bench import Timing
from blocks2tokens.course.lessons.memory import exercises, pictures
from blocks2tokens.model.arena import end_of, first_fit, peak_bytes

CASES = exercises.packing_cases()


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def boxes(axes):
    return [patch for patch in axes.patches if isinstance(patch, Rectangle)]


@pytest.mark.parametrize("label", CASES)
def test_a_bar_is_a_life(label):
    lives, sizes = CASES[label]
    axes = pictures.draw_lifetimes(lives, sizes, "t")
    drawn = sorted((box.get_x(), box.get_x() + box.get_width() - 1) for box in boxes(axes))
    assert drawn == sorted(lives.values())
    assert {text.get_text() for text in axes.texts} == {str(size) for size in sizes.values()}


@pytest.mark.parametrize("label", CASES)
def test_a_rectangle_is_a_place_and_none_overlap(label):
    lives, sizes = CASES[label]
    offsets = first_fit(lives, sizes)
    axes = pictures.draw_arena(lives, offsets, sizes, "t")
    drawn = boxes(axes)
    assert len(drawn) == len(lives)
    assert max(box.get_y() + box.get_height() for box in drawn) == end_of(offsets, sizes)
    (bound,) = axes.lines
    assert set(bound.get_ydata()) == {peak_bytes(lives, sizes)}
    places = [(box.get_x(), box.get_y(), box.get_width(), box.get_height()) for box in drawn]
    for i, (x, y, wide, high) in enumerate(places):
        for x2, y2, wide2, high2 in places[:i]:
            assert x + wide <= x2 or x2 + wide2 <= x or y + high <= y2 or y2 + high2 <= y


def test_kinds_of_buffers_stay_apart_in_grey():
    assert {pictures.kind(name) for name in ("x", "q", "attn_q's")} == set(pictures.HATCHES)
    assert len(set(pictures.HATCHES.values())) == 3


def test_what_is_in_use_never_passes_the_arena():
    lives, sizes = CASES["a layer"]
    limits = {"one arena": end_of(first_fit(lives, sizes), sizes)}
    axes = pictures.draw_in_use(lives, sizes, limits, "t")
    assert max(box.get_height() for box in boxes(axes)) * 1e6 == pytest.approx(peak_bytes(lives, sizes))
    assert axes.lines[0].get_ydata()[0] * 1e6 == pytest.approx(limits["one arena"])


def test_each_way_to_touch_has_its_faults_beside_it():
    found = {"again": (Timing(1, 1e-3, 1, 1), 0), "first time": (Timing(1, 4e-3, 1, 1), 8192)}
    axes = pictures.draw_touch(found, "t")
    assert [text.get_text() for text in axes.get_yticklabels()] == [
        "again\n0 page faults",
        "first time\n8,192 page faults",
    ]


@pytest.mark.parametrize("order", pictures.ORDERS)
def test_every_order_places_every_buffer_and_the_title_says_how_well(austen_path, order):
    axes = pictures.packed(b2t.load(austen_path), 16, order)
    assert len(boxes(axes)) == 22
    title = axes.get_title("left") + axes.get_title()  # where it is depends on the style
    assert title.startswith(f"16 tokens, {order}: ")


def test_the_panel_offers_all_orders(austen_path):
    panel = pictures.packed_panel(b2t.load(austen_path))
    tokens, order = panel.children[0].children
    assert order.options == tuple(pictures.ORDERS) and tokens.value == 512
