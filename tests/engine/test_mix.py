"""A mix under a budget: the knapsack against all mixes, predictions against measurements, interrupts."""

import itertools
import json
import sys
from math import prod

import numpy as np
import pytest
from llama_cpp import llama_cpp
from small_model import small_model

import blocks2tokens as b2t
from blocks2tokens import mix
from blocks2tokens.formats import FORMATS, by_ggml_type
from blocks2tokens.mix import Search, alone, choose, curve, hull, steps
from blocks2tokens.quality import Reference

IDS = np.random.default_rng(0).integers(0, 320, 200)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A model of two layers, whose feed-forward parts fill blocks of 256."""
    small = small_model(dim=64, ffn_dim=256, context_length=64, default_format="F16")
    return small.write(tmp_path_factory.mktemp("mix") / "small.gguf")


@pytest.fixture(scope="module")
def model(path):
    return b2t.load(path)


@pytest.fixture(scope="module")
def importance(model):
    return b2t.importance(model, IDS)


@pytest.fixture(scope="module")
def search(model, importance):
    return Search(model, importance, list(importance.sums)).run()


# --- The knapsack -----------------------------------------------------------------------------------------


def problem(seed, n=5):
    """Return sizes and losses of n matrices in four formats; larger ones lose less, mostly."""
    rng = np.random.default_rng(seed)
    sizes, losses = {}, {}
    for m in range(n):
        unit, loss = int(rng.integers(5, 40)), rng.exponential()
        sizes[f"m{m}"] = {f: unit * k for f, k in zip("abcd", (2, 3, 4, 6), strict=True)}
        losses[f"m{m}"] = {
            f: loss * v * rng.uniform(0.7, 1.4) for f, v in zip("abcd", (1, 0.3, 0.1, 0.01), strict=True)
        }
    return sizes, losses


def best_of_all(sizes, losses, budget):
    least = np.inf
    for formats in itertools.product("abcd", repeat=len(sizes)):
        chosen = list(zip(sizes, formats, strict=True))
        if sum(sizes[m][f] for m, f in chosen) <= budget:
            least = min(least, sum(losses[m][f] for m, f in chosen))
    return least


@pytest.mark.parametrize("seed", range(8))
def test_near_the_best_of_all_mixes(seed):
    sizes, losses = problem(seed)
    smallest = sum(min(s.values()) for s in sizes.values())
    largest = sum(max(s.values()) for s in sizes.values())
    excess = []
    for share in (0.0, 0.2, 0.5, 0.8, 1.0):
        budget = int(smallest + share * (largest - smallest))
        found = choose(sizes, losses, budget)
        assert found.nbytes == sum(sizes[m][f] for m, f in found.formats.items()) <= budget
        assert found.kl == pytest.approx(sum(losses[m][f] for m, f in found.formats.items()))
        excess.append(found.kl / best_of_all(sizes, losses, budget))
    assert excess[0] == pytest.approx(1) and excess[-1] == pytest.approx(1) and max(excess) < 1.35


def test_points_of_the_curve_are_the_best_of_all():
    """Where the budget is spent to the last byte, steps along the hulls are exact."""
    sizes, losses = problem(3)
    points = curve(sizes, losses)
    for n_bytes, kl in points:
        assert best_of_all(sizes, losses, n_bytes) == pytest.approx(kl)
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.pairwise(points)]
    assert slopes == sorted(slopes) and len(points) == len(steps(sizes, losses)) + 1


def test_a_hull_leaves_out_what_does_not_pay():
    assert hull({"a": 1, "b": 2, "c": 3}, {"a": 4.0, "b": 5.0, "c": 1.0}) == ["a", "c"]
    assert hull({"a": 1, "b": 1}, {"a": 4.0, "b": 3.0}) == ["b"]


def test_a_budget_below_the_smallest_mix():
    sizes, losses = problem(0)
    with pytest.raises(ValueError, match=r"expected a budget of at least [\d,]+ bytes"):
        choose(sizes, losses, 10)


# --- The search -------------------------------------------------------------------------------------------


def test_predictions_are_near_what_is_measured(model, search):
    reference = Reference(model, IDS)
    predicted, measured = [], []
    for name in list(search.names)[:6]:
        for f in ("Q4_1", "Q5_1"):
            predicted.append(search.losses[name][f])
            H = dict(mix.hessians(model, IDS, [name]))[name][0]
            fmt, source = FORMATS[f], model.file.format(name)
            W = source.dequantize(model.file.raw(name))
            raw = mix.feedback.encode(fmt, W, mix.feedback.factor(H), np.diagonal(H).copy(), "ggml")
            measured.append(reference.measure(mix.Variant(model, {name: (fmt, raw)})).kl.value)
    assert np.corrcoef(np.log(predicted), np.log(measured))[0, 1] > 0.8


def test_a_variant_is_the_model_with_one_matrix_changed(model, path, tmp_path):
    name = "blk.1.ffn_down.weight"
    changed = alone(model, name, FORMATS["Q4_K"])
    raw = changed.transformer.weights.layers[1].ffn_down.raw
    assert np.array_equal(raw, FORMATS["Q4_K"].quantize(FORMATS["F16"].dequantize(model.file.raw(name))))
    assert changed.transformer.weights.layers[0].ffn_down.format.name == "F16"
    assert Reference(model, IDS).measure(alone(model, name, FORMATS["F32"])).kl.value < 1e-6


class Interrupted(Exception):
    pass


def test_an_interrupted_search_goes_on(model, importance, search, tmp_path, monkeypatch):
    state, usual, calls = tmp_path / "s.search", mix.alone, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 5:
            raise Interrupted
        return usual(*args)

    monkeypatch.setattr(mix, "alone", interrupted)
    with pytest.raises(Interrupted):
        Search(model, importance, search.names, state).run()
    assert len(json.loads(state.read_text())["probes"]) == 4
    again = Search(model, importance, search.names, state).run()
    assert len(calls) == 1 + len(search.names) and again.losses == search.losses
    other = b2t.importance(model, IDS[::-1].copy())
    assert not Search(model, other, search.names, state).probes


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"key": 1}', "\x00"])
def test_a_state_that_is_something_else(model, importance, tmp_path, text):
    (tmp_path / "s.search").write_text(text)
    assert not Search(model, importance, list(importance.sums), tmp_path / "s.search").probes


# --- convert ----------------------------------------------------------------------------------------------


def tensor_bytes(path):
    return sum(info.nbytes for info in b2t.GGUFFile(path).tensors.values())


def bits_of(path):
    file = b2t.GGUFFile(path)
    return 8 * tensor_bytes(path) / sum(prod(info.shape) for info in file.tensors.values())


def formats_of(path):
    return {n: by_ggml_type(i.ggml_type).name for n, i in b2t.GGUFFile(path).tensors.items()}


@pytest.mark.parametrize("bits", [5.2, 6.0, 7.5])
def test_a_mix_keeps_to_its_budget_and_llama_cpp_reads_it(xllamacpp, path, importance, tmp_path, bits):
    made = b2t.convert(path, tmp_path / "mix.gguf", bits=bits, importance=importance, effort="best")
    assert bits - 0.6 < bits_of(made.path) <= bits and made.target == "mix"
    assert list(tmp_path.iterdir()) == [made.path]
    assert {"F32"} < set(formats_of(made.path).values())
    with llama_cpp(xllamacpp, made.path, n_context=64) as oracle:
        assert len(oracle.greedy([3, 4, 5], 4)) == 4


def test_more_bits_are_nearer(model, path, importance, tmp_path):
    found = []
    for bits in (5.2, 6.5, 8.5):
        b2t.convert(path, tmp_path / "mix.gguf", bits=bits, importance=importance, effort="best")
        found.append(b2t.quality(b2t.load(tmp_path / "mix.gguf"), model, IDS).kl.value)
    assert found[0] > found[1] > found[2]


@pytest.mark.parametrize(
    ("how", "loads"), [({"bits": 6, "effort": "best"}, 1), ({"bits": 6}, 1), ({"target": "Q4_0"}, 0)]
)
def test_the_model_is_loaded_once_and_only_where_it_is_run(
    path, importance, tmp_path, monkeypatch, how, loads
):
    seen = []
    monkeypatch.setattr(sys.modules["blocks2tokens.convert"], "load", lambda p: seen.append(p) or b2t.load(p))
    b2t.convert(path, tmp_path / "new.gguf", importance=importance, **how)
    assert len(seen) == loads


def test_the_best_effort_feeds_errors_back(model, path, importance, tmp_path):
    b2t.convert(path, tmp_path / "fed", "Q4_0", importance=importance, effort="best")
    names = ["blk.0.attn_q.weight", "blk.1.ffn_down.weight"]
    for name, hessian in mix.hessians(model, IDS, names):
        weights = FORMATS["F16"].dequantize(model.file.raw(name))
        columns, U = importance.mean(name)[0], mix.feedback.factor(hessian[0])
        expected = mix.feedback.encode(FORMATS["Q4_0"], weights, U, columns, "best")
        assert np.mean(b2t.GGUFFile(tmp_path / "fed").raw(name) == expected) > 0.99  # or all


def test_importance_with_ggml_is_what_format_quantize_makes_of_it(path, importance, tmp_path):
    b2t.convert(path, tmp_path / "q", "Q4_0", importance=importance)
    file, name = b2t.GGUFFile(path), "blk.0.attn_q.weight"
    weights = FORMATS["F16"].dequantize(file.raw(name))
    expected = FORMATS["Q4_0"].quantize(weights, importance=importance.mean(name)[0])
    assert np.array_equal(b2t.GGUFFile(tmp_path / "q").raw(name), expected)


def test_a_mixture_has_an_importance_for_each_expert(tmp_path):
    src = small_model(dim=64, n_experts=4, n_used=2, default_format="F16").write(tmp_path / "m.gguf")
    found = b2t.importance(b2t.load(src), IDS)
    b2t.convert(src, tmp_path / "q.gguf", "Q4_0", importance=found)
    name = "blk.0.ffn_gate_exps.weight"
    weights = FORMATS["F16"].dequantize(b2t.GGUFFile(src).raw(name))
    for expert, raw in enumerate(b2t.GGUFFile(tmp_path / "q.gguf").raw(name)):
        expected = FORMATS["Q4_0"].quantize(weights[expert], importance=found.mean(name)[expert])
        assert np.array_equal(raw, expected), expert
    b2t.convert(src, tmp_path / "fed.gguf", bits=6, importance=found, effort="best")


def test_a_model_without_a_text_writes_its_own(path, importance, tmp_path, monkeypatch):
    monkeypatch.setattr(mix, "OWN_TEXT", 40)
    monkeypatch.setattr(mix, "written_by", lambda model, n=40: IDS[:40])
    importance.save(tmp_path / "i")
    without = b2t.Importance(importance.sums, importance.counts)
    for given in (None, without, b2t.Importance.load(tmp_path / "i")):
        made = b2t.convert(path, tmp_path / "mix.gguf", bits=6, importance=given)
        assert bits_of(made.path) <= 6


def test_what_a_model_writes(path):
    model = b2t.load(path)
    if not model.tokenizer.encode("The"):
        pytest.skip("this vocabulary has no words")
    ids = mix.written_by(model, 100)
    assert len(ids) == 100 and ids.dtype == np.int64 and len(set(ids.tolist())) > 5
    assert np.array_equal(ids, mix.written_by(model, 100))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, "target: expected one of F32"),
        ({"target": "Q8_0", "bits": 4}, "expected a target or bits, and not both"),
        ({"bits": 0}, "bits: expected bits per weight"),
        ({"bits": -3}, "bits: expected"),
        ({"bits": float("nan")}, "bits: expected"),
        ({"bits": 33}, "at most 32"),
        ({"bits": "4"}, "bits: expected"),
        ({"bits": True}, "bits: expected"),
        ({"bits": 2.0}, "no mix is as small; the smallest takes .* bits per weight more"),
    ],
)
def test_bad_arguments(path, importance, tmp_path, how, message):
    with pytest.raises(ValueError, match=message):
        b2t.convert(path, tmp_path / "new.gguf", importance=importance, **how)
    assert not list(tmp_path.iterdir())


def test_an_importance_of_another_model(path, tmp_path):
    other = b2t.load(small_model(dim=128).write(tmp_path / "other.gguf"))
    with pytest.raises(ValueError, match="of another model"):
        b2t.convert(path, tmp_path / "new.gguf", "Q8_0", importance=b2t.importance(other, IDS))


def test_an_interrupt_leaves_the_state_and_no_half_file(path, importance, tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(mix, "alone", interrupted)
    with pytest.raises(KeyboardInterrupt):
        b2t.convert(path, tmp_path / "new.gguf", bits=6, importance=importance)
    assert [p.name for p in tmp_path.iterdir()] == ["new.gguf.search"]
