"""The pictures of lesson 16 say what they are given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from blocks2tokens.course.lessons.integer_dot import pictures


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_the_sums_are_those_of_the_codes():
    axes = pictures.draw_whole_numbers([3, 0, 7, 15], [10, -4, 2, 1], 0.5, 2.0, 0.25)
    texts = [text.get_text() for text in axes.texts]
    assert "7.375 − 4.5 = 2.875" in texts and {"30", "14", "15"} <= set(texts)


def test_a_register_s_path_has_176_numbers():
    assert len(pictures.draw_path_of_64().patches) == 64 + 64 + 32 + 16


def test_the_load_shows_each_sub_block_three_times():
    texts = [text.get_text() for text in pictures.draw_order_of_load().texts]
    assert [texts.count(f"sub-block {n}") for n in range(4)] == [3] * 4


def test_the_waterfall_begins_with_phase_1():
    each = {"phase0_baseline": 10.0, "phase1_naive_fused": 20.0, "simd_dot": 0.1, "your kernel": 20.5}
    axes = pictures.waterfall(each)
    assert axes.get_yticklabels()[0].get_text() == "phase1_naive_fused"
    said = [text.get_text() for text in axes.texts]
    assert said[0].endswith("Phase 1") and said[1].endswith("2× faster") and said[3].endswith("the same")
    assert "200× faster" in said[2] and "205 times" in axes.get_title()
    assert pictures.says(0.5) == "2× slower"


def test_the_waterfall_writes_no_exponents():
    texts = [text.get_text() for text in pictures.waterfall({"phase1_naive_fused": 2720.0, "a": 1.0}).texts]
    assert texts[0] == "2,720 ns   Phase 1"


def test_rounding_says_how_far_the_others_are_off():
    x = np.array([1.0, 10.0, -1.0, 0.5], np.float32)
    axes = pictures.draw_rounding(x, np.array([2, 20, -2, 2]), np.array([0.5], np.float32), outlier=1)
    assert "One value of 10, blocks of 4" in axes.get_title() and "33.33%" in axes.get_title()
    assert list(axes.lines[0].get_xdata()) == [0, 2, 3]


@pytest.mark.parametrize("known", [(), ("haswell", "znver3"), tuple(pictures.listing.CPUS)])
def test_every_cpu_has_its_bar(monkeypatch, known):
    """Cycles are for those that an llvm-mca, which may be missing or old, has a model of."""

    def cycles(name, cpu):
        assert cpu in known
        return 12.3

    monkeypatch.setattr(pictures.cycles, "knows", lambda cpu: cpu in known)
    monkeypatch.setattr(pictures.cycles, "cycles", cycles)
    axes = pictures.draw_cpus()
    assert len(axes.patches) == len(pictures.listing.CPUS)
    assert sum(text.get_text().endswith("about 12 cycles") for text in axes.texts) == len(known)
