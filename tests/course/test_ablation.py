"""The ablation: every kernel computes the product, does what its counts say, and the factors multiply."""

from itertools import permutations
from math import prod
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from numba import njit

from blocks2tokens.course import ablation
from blocks2tokens.formats import compiled, q5_k
from blocks2tokens.formats.q4_k import scale_min
from blocks2tokens.kernels.report import decoders


def given(M, K, N, seed=0):
    rng = np.random.default_rng(seed)
    return ablation.operands(rng.standard_normal((M, K), np.float32), rng.standard_normal((K, N), np.float32))


def named(changes):
    return "+".join(c for c in ablation.CHANGES if c in changes) or "none"


def decoded(problem, changes):
    """The matrix that a kernel with these changes decodes, float64 [K, N]."""
    along_k = "orientation" in changes
    return (problem.along_k.dequantize().T if along_k else problem.along_n.dequantize()).astype(np.float64)


def assert_is_product(out, a, B):
    bound = a.shape[1] * 2.0**-23 * (np.abs(a).astype(np.float64) @ np.abs(B))
    assert np.all(np.abs(out - a.astype(np.float64) @ B) <= bound)


# The kernels


def test_there_are_32_kernels_in_order_of_their_changes():
    assert len(set(ablation.SUBSETS)) == len(ablation.SUBSETS) == 32
    assert ablation.SUBSETS[0] == ablation.NONE and ablation.SUBSETS[-1] == ablation.ALL


@pytest.mark.parametrize("changes", ablation.SUBSETS, ids=named)
def test_every_kernel_gives_the_product_of_the_decoded_weights(changes):
    for M, K, N in ((5, 96, 24), (1, 64, 256), (3, 512, 2), (2, 32, 8)):
        problem = given(M, K, N)
        assert_is_product(ablation.product(problem, changes), problem.a, decoded(problem, changes))


def test_simd_gives_the_product_too():
    problem = given(5, 96, 24)
    out = ablation.product(problem, ablation.ALL, simd=True)
    assert_is_product(out, problem.a, decoded(problem, ablation.ALL))


@pytest.mark.parametrize("cores", [1, 3, 64])
def test_cores_share_the_columns_and_change_nothing(cores, monkeypatch):
    problem = given(4, 64, 8)
    expected = ablation.product(problem, {"threads"}), ablation.product(problem, ablation.ALL)
    monkeypatch.setattr(ablation, "get_num_threads", lambda: cores)
    assert np.array_equal(ablation.product(problem, {"threads"}), expected[0])
    assert np.array_equal(ablation.product(problem, ablation.ALL), expected[1])


def test_changes_that_decode_alike_decode_to_the_same_bits():
    """Calls, headers and threads change how a weight is come by, not the weight."""
    problem = given(4, 64, 8)
    for layout in ({"orientation"}, set()):
        outs = [ablation.product(problem, c | layout) for c in ({"call"}, {"reuse"}, {"threads"}, set())]
        assert all(np.array_equal(out, outs[0]) for out in outs)


@pytest.mark.parametrize("changes", [{"calls"}, {"call", "simd"}])
def test_an_unknown_change_is_refused(changes):
    with pytest.raises(ValueError, match="changes"):
        ablation.product(given(2, 32, 8), changes)


def test_simd_asks_for_all_changes():
    with pytest.raises(ValueError, match="simd"):
        ablation.product(given(2, 32, 8), {"call"}, simd=True)


@pytest.mark.parametrize(("a", "B"), [((2, 33), (33, 256)), ((2, 64), (32, 8)), ((64,), (64, 8))])
def test_operands_that_do_not_fit_are_refused(a, B):
    with pytest.raises(ValueError, match=r"a \[M, K\] and B \[K, N\]"):
        ablation.operands(np.zeros(a, np.float32), np.zeros(B, np.float32))


# The counts, against the same source run as Python on functions that count


@pytest.fixture
def tally(monkeypatch):
    """Let the kernels run as Python, and count."""
    counted = SimpleNamespace(weights=0, calls=0, scales=0)

    def unpack(raw, at, s):
        counted.scales += 1
        return scale_min(raw, at, s)

    def weight(function):
        def decode(*arguments):
            counted.weights += 1
            return function(*arguments)

        return decode

    def pointer(function, signature):
        def call(*arguments):
            counted.calls += 1
            return function(*arguments)

        return call

    for module in (ablation, decoders, q5_k):
        monkeypatch.setattr(module, "scale_min", unpack)
    for name, stand_in in {
        "carray": lambda pointer, n: np.zeros(n, np.float32),
        "local_floats": lambda: None,
        "unpack_header": decoders.unpack_header.py_func,
    }.items():
        monkeypatch.setattr(decoders, name, stand_in)
    stand_ins = {
        "q5_k_element": weight(decoders.q5_k_element.py_func),
        "decode_needed": weight(q5_k.decode_element.py_func),
        "from_whole_header": weight(ablation.from_whole_header.py_func),
        "from_needed_scale": weight(ablation.from_needed_scale.py_func),
        "scale_min_here": unpack,
        "half_here": compiled.read_half,
        "carray": lambda pointer, n: np.zeros(n, np.float32),
        "local_floats": lambda: None,
        "decode_code": weight(ablation.decode_code.py_func),
        "scalar": lambda i: i,
        "prange": range,
        "get_num_threads": lambda: 3,
        "compiled": SimpleNamespace(pointer=pointer, DECODE_ELEMENT=compiled.DECODE_ELEMENT),
    }
    for name in (*vars(ablation),):
        function = getattr(ablation, name)
        if name not in (*stand_ins, "read_half") and hasattr(function, "py_func"):
            stand_ins[name] = function.py_func
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(ablation, name, stand_in)
    return counted


@pytest.mark.parametrize("fill", [ablation.fill_from_whole_headers, ablation.fill_from_needed_scales])
def test_what_is_said_to_be_inlined_is_no_call(fill):
    again = njit(fill.py_func)  # what comes out of Numba's cache has no assembly
    raw = given(3, 64, 8).along_n.raw
    again(raw, 0, 1, np.empty(64, np.float32))
    (assembly,) = again.inspect_asm().values()
    addresses = [line for line in assembly.splitlines() if "mov" in line and "$_ZN13blocks2tokens" in line]
    assert not any(name in line for line in addresses for name in ("scale_min", "read_half", "code_at"))


@pytest.mark.parametrize("changes", ablation.SUBSETS, ids=named)
def test_an_instrumented_run_does_what_the_counts_say(changes, tally):
    problem = given(3, 64, 8)
    out = ablation.product(problem, changes)
    assert_is_product(out, problem.a, decoded(problem, changes))
    assert ablation.Counts(**vars(tally)) == ablation.count(3, 64, 8, changes)


def test_the_counts_at_the_reports_size():
    assert ablation.count(128, 128, 128) == ablation.Counts(2_097_152, 2_097_152, 16_777_216)
    assert ablation.count(128, 128, 128, ablation.ALL) == ablation.Counts(16_384, 0, 512)


def test_all_kernels_are_measured_in_one_run():
    times = ablation.measure(given(2, 32, 8), repeats=1)
    assert set(times) == {*ablation.SUBSETS, "phase0", "phase1", "simd"}
    assert all(seconds > 0 for seconds in times.values())


# The factors


@pytest.fixture
def times():
    rng = np.random.default_rng(1)
    return {changes: float(rng.uniform(1, 100)) for changes in ablation.SUBSETS}


@pytest.mark.parametrize(
    "order", [ablation.FORWARD, ablation.BACKWARD, ("reuse", "call", "threads", "scales", "orientation")]
)
def test_the_factors_of_an_order_multiply_to_the_whole(order, times):
    steps = ablation.chain(times, order)
    assert [change for change, _ in steps] == list(order)
    assert prod(factor for _, factor in steps) == pytest.approx(times[ablation.NONE] / times[ablation.ALL])
    assert steps[0][1] == times[ablation.NONE] / times[frozenset(order[:1])]


def test_shares_are_what_120_orders_give(times):
    shares = ablation.shares(times)
    for change, (low, mean, high) in shares.items():
        factors = [dict(ablation.chain(times, order))[change] for order in permutations(ablation.CHANGES)]
        assert (low, high) == (min(factors), max(factors)) and len(factors) == 120
        assert mean == pytest.approx(prod(factors) ** (1 / 120))
    whole = times[ablation.NONE] / times[ablation.ALL]
    assert prod(mean for _, mean, _ in shares.values()) == pytest.approx(whole)


def test_causes_that_do_not_interact_have_one_factor_in_every_order():
    worth = dict(zip(ablation.CHANGES, (2.0, 3.0, 5.0, 7.0, 0.5), strict=True))
    times = {changes: 1 / prod(worth[c] for c in changes) for changes in ablation.SUBSETS}
    for change, (low, mean, high) in ablation.shares(times).items():
        assert low == pytest.approx(high) and mean == pytest.approx(worth[change])


# The pictures


def test_a_waterfall_ends_where_it_says_and_writes_every_factor():
    axes = ablation.waterfall(
        [("one", 8.0), ("two", 0.5), ("three", 5.0)], "title", ("P1", "P0"), plt.figure().gca()
    )
    bars = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches]
    assert np.allclose(bars, [(2.5, 20), (2.5, 5), (1, 5)])
    assert [bool(bar.get_hatch()) for bar in axes.patches] == [False, True, False]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["P1", "one", "two", "three", "P0"]
    assert axes.get_xlim()[0] < 1 and axes.get_xlim()[1] > 20
    assert {text.get_text() for text in axes.texts} == {"20", "8.00×", "0.50×", "5.00×"}
    plt.close("all")


def test_a_waterfall_that_falls_below_its_end_is_not_cut():
    axes = ablation.waterfall([("down", 20.0), ("up", 0.1)], "title", ("P1", "P0"), plt.figure().gca())
    assert axes.get_xlim()[0] < 0.1 and axes.get_xlim()[1] > 2
    plt.close("all")


def test_waterfalls_stand_one_above_the_other():
    figure = ablation.waterfalls(
        {"one way": [("a", 8.0), ("b", 0.5)], "back": [("b", 2.0), ("a", 2.0)]}, "All"
    )
    assert [axes.get_title(loc="left") or axes.get_title() for axes in figure.axes] == [
        "All, one way",
        "All, back",
    ]
    plt.close("all")


def test_ranges_are_drawn_for_every_change(times):
    axes = ablation.ranges(ablation.shares(times), "title")
    assert [label.get_text() for label in axes.get_yticklabels()] == list(ablation.CHANGES.values())
    assert len(axes.texts) == 5
    plt.close("all")
