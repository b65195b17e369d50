"""SlowEngine: right whatever is mended; each fix changes its part alone; what it does is counted exactly."""

from functools import lru_cache
from itertools import pairwise
from math import prod
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from small_model import random_tensor, small_model

import blocks2tokens as b2t
from blocks2tokens.course.lessons.where_the_time_goes import pictures, profiler, slow_engine
from blocks2tokens.course.lessons.where_the_time_goes.slow_engine import (
    CULPRITS,
    FIXES,
    ORDERS,
    SUSPECTS,
    Past,
    SlowEngine,
)
from blocks2tokens.course.numpy_allocations import counting
from blocks2tokens.formats import FORMATS

TEXT = "It was the opinion of the whole family that the weather would be fine"
SETS = [(), *((fix,) for fix in FIXES), SUSPECTS, CULPRITS, FIXES]


@pytest.fixture(scope="module")
def austen(austen_path, tmp_path_factory):
    """Austen in Q4_K_M, and the same weights written out as F32, with which our engine rounds nothing."""
    folder = tmp_path_factory.mktemp("austen")
    b2t.convert(austen_path, folder / "q4.gguf", "Q4_K_M")
    b2t.convert(folder / "q4.gguf", folder / "f32.gguf", "F32")
    model, exact = b2t.load(folder / "q4.gguf"), b2t.load(folder / "f32.gguf")
    ids = model.tokenizer.encode(TEXT)
    return SimpleNamespace(model=model, exact=exact, ids=ids, logits=exact.logits(ids))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A model with grouped queries, an output matrix of its own, and the formats of SmolLM2."""
    formats = {"ffn_down": "Q8_0", "attn_q": "Q4_1", "attn_v": "Q4_1", "ffn_gate": "Q4_1", "output": "Q8_0"}
    path = tmp_path_factory.mktemp("small") / "small.gguf"
    return b2t.load(small_model(n_heads=8, n_kv_heads=2, tied=False, formats=formats).write(path))


# Right


@pytest.mark.parametrize("fixes", SETS, ids="+".join)
def test_logits_are_those_of_our_engine(austen, fixes):
    found = SlowEngine(austen.model, fixes).logits(austen.ids)
    assert found.dtype == np.float32 and found.shape == austen.logits.shape
    np.testing.assert_allclose(found, austen.logits, atol=2e-3)


@pytest.mark.parametrize("fixes", [(), FIXES], ids=["none", "all"])
def test_greedy_text_is_that_of_our_engine(austen, fixes):
    expected = list(austen.exact.generate(austen.ids, 24))
    assert len(expected) == 24
    assert list(SlowEngine(austen.model, fixes).generate(austen.ids, 24)) == expected


@pytest.mark.parametrize("fixes", SETS, ids="+".join)
def test_grouped_queries_and_the_formats_of_smollm2(small, fixes):
    ids = np.random.default_rng(3).integers(3, 320, 12)
    expected = SlowEngine(small).logits(ids)
    np.testing.assert_allclose(SlowEngine(small, fixes).logits(ids), expected, atol=1e-4, rtol=1e-4)
    ours = small.logits(ids)
    assert np.linalg.norm(expected - ours) < 0.03 * np.linalg.norm(ours)  # which rounds x to 8 bits


@pytest.mark.parametrize("fixes", SETS, ids="+".join)
def test_token_by_token_is_the_same_as_all_at_once(small, fixes):
    ids = [5, 9, 300, 17, 5, 44, 45]
    at_once = SlowEngine(small, fixes).logits(ids).argmax(axis=1)
    engine = SlowEngine(small, fixes)
    past = engine.new_past()
    assert [engine.next_token([i], past) for i in ids] == at_once.tolist()
    assert past.length == len(ids)


@pytest.mark.parametrize("name", ["Q4_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"])
def test_decoders_without_simd(name):
    fmt = FORMATS[name]
    _, raw = random_tensor(name, (8, 512), np.random.default_rng(1))
    out = np.empty(8 * 512, np.float32)
    slow_engine.slow_decoder(fmt)(raw.reshape(-1), out)
    np.testing.assert_array_equal(out.reshape(8, 512), fmt.dequantize(raw))


def test_generation_ends_at_a_stop_token(small):
    def generate(stop_tokens):
        model = SimpleNamespace(config=small.config, transformer=small.transformer)
        model.tokenizer = SimpleNamespace(stop_tokens=stop_tokens)
        return list(SlowEngine(model).generate([5, 9, 300], 6))

    text = generate(set())
    assert len(text) == 6
    assert generate({text[3]}) == text[: text.index(text[3])]


def test_bad_input(small):
    with pytest.raises(ValueError, match=r"fixes: expected some of attention, .*got \['matmul'\]"):
        SlowEngine(small, {"matmul"})
    with pytest.raises(ValueError, match="320"):
        SlowEngine(small).logits([3, 320])
    with pytest.raises(ValueError, match="65 tokens, at most 64 fit"):
        SlowEngine(small).logits([3] * 65)


@pytest.mark.parametrize(
    "kind",
    [
        {"architecture": "qwen2"},
        {"architecture": "qwen3"},
        {"biases": True},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
    ],
    ids=str,
)
def test_what_it_would_get_wrong_is_refused(kind, tmp_path):
    model = b2t.load(small_model(**kind).write(tmp_path / "other.gguf"))
    with pytest.raises(b2t.UnsupportedError, match="supported here: llama without biases"):
        SlowEngine(model)


# Counted


def expected_work(config, sizes, S):
    """Return what a token that sees S tokens, itself included, must cost with nothing mended."""
    c, weights = config, sum(sizes)
    new_keys = S * c.n_kv_heads * c.head_dim
    norm, swiglu, attention = 3, 5, 1 + 4 * c.n_heads
    layer_tensors = 2 * norm + 7 * 3 + 2 + 2 + attention + swiglu + 2
    heads = 4 * (c.n_heads * (2 * S * c.head_dim + 2 * S))
    q, kv = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
    results = 2 * q + 3 * kv + q + c.dim + 2 * c.ffn_dim + c.dim  # q, k, v and both turned, mixed, products
    layer_floats = 6 * c.dim + results + 5 * c.ffn_dim + 2 * c.dim + 2 * new_keys
    return {
        "weights_decoded": weights,
        "bytes_transposed": 4 * weights,
        "multiply_adds": weights,
        "trig_calls": 3 * c.n_layers * (c.n_heads + c.n_kv_heads) * c.head_dim // 2,
        "bytes_concatenated": 4 * c.n_layers * 2 * new_keys,
        "tensors": c.n_layers * layer_tensors + 1 + norm + 3,
        "tensor_bytes": c.n_layers * (4 * layer_floats + heads)
        + 4 * (c.dim + 3 * c.dim + c.vocab_size)
        + 2 * 4 * weights,
        "cache_hits": 0,
        "cache_misses": 7 * c.n_layers + 1,
    }


def sizes_of(engine):
    return [prod(w.shape) for w in engine.matrices.values()]


def test_the_work_of_a_token_is_counted_exactly(austen, small):
    for model, ids in ((austen.model, austen.ids), (small, [5, 9, 300, 17])):
        engine = SlowEngine(model)
        work = slow_engine.count_token(engine, ids)
        assert vars(work) == expected_work(model.config, sizes_of(engine), len(ids))


def test_tensors_are_all_that_is_allocated(austen):
    """NumPy's own count of bytes: what is beyond the tensors are a row of the embedding and the like."""
    engine = SlowEngine(austen.model)
    run = slow_engine.one_token(engine, austen.ids)
    run()
    before = engine.work.tensor_bytes
    with counting() as arrays:
        run()
    made = engine.work.tensor_bytes - before
    assert made <= arrays.nbytes < 1.01 * made


CHANGES = {
    "attention": {"tensors": "fewer", "tensor_bytes": "fewer"},
    "rope": {"trig_calls": "fewer"},
    "allocations": {"tensors": 0, "tensor_bytes": 0},
    "layer_norm": {"tensors": "fewer", "tensor_bytes": "fewer"},
    "swiglu": {"tensors": "fewer", "tensor_bytes": "fewer"},
    "kv_cache": {"bytes_concatenated": 0, "tensors": "fewer", "tensor_bytes": "fewer"},
    "transpose": {"bytes_transposed": 0, "tensors": "fewer", "tensor_bytes": "fewer"},
    "dequantize": {"weights_decoded": 0, "cache_misses": 0, "cache_hits": "more", "tensors": "fewer"}
    | {"tensor_bytes": "fewer"},
    "dot": {},
}


@pytest.mark.parametrize("fix", FIXES)
def test_a_fix_changes_its_own_counts_only(austen, fix):
    before = vars(slow_engine.count_token(SlowEngine(austen.model), austen.ids))
    after = vars(slow_engine.count_token(SlowEngine(austen.model, {fix}), austen.ids))
    assert {key for key in before if before[key] != after[key]} == set(CHANGES[fix])
    for key, change in CHANGES[fix].items():
        assert {"fewer": 0 < after[key] < before[key], "more": after[key] > before[key]}.get(
            change, after[key] == 0
        )


def test_rope_mended_takes_cos_and_sin_once_a_token(austen):
    work = slow_engine.count_token(SlowEngine(austen.model, {"rope"}), austen.ids)
    assert work.trig_calls == 2 * austen.model.config.head_dim // 2


def test_with_all_fixes_a_token_only_multiplies(austen):
    engine = SlowEngine(austen.model, FIXES)
    work = vars(slow_engine.count_token(engine, austen.ids))
    left = {key for key, value in work.items() if value}
    assert left == {"multiply_adds", "trig_calls", "cache_hits"}
    assert work["multiply_adds"] == sum(sizes_of(engine))


def test_the_stages_hold_all_parts(small):
    record = profiler.Recorder()
    engine = SlowEngine(small, record=record)
    engine.next_token([5, 9, 300], engine.new_past())
    names = set(profiler.self_times(record["token"]))
    assert names >= {*SUSPECTS, *CULPRITS, "matmul", "add", "embedding", "logits"}
    assert list(record["token"].stages) == ["embedding", "attention block", "feed-forward block", "logits"]
    assert record["token"].stages["attention block"].stages["matmul"].calls == 4 * small.config.n_layers


def test_tensors_that_are_taken_up_again_are_not_in_use():
    tensors = slow_engine.Tensors(True, slow_engine.Work(), profiler.OFF)
    a, b = tensors.new(3, 5), tensors.new(3, 5)
    assert not np.shares_memory(a, b)
    tensors.free(a.reshape(5, 3))
    again = tensors.new(16)
    assert np.shares_memory(a, again) and not np.shares_memory(b, again)
    assert tensors.work.tensors == 2


def test_new_tensors_are_zeroed():
    tensors = slow_engine.Tensors(False, slow_engine.Work(), profiler.OFF)
    for _ in range(20):
        tensor = tensors.new(4, 100)
        assert not tensor.any()
        tensor[:] = 1
        tensors.free(tensor)
    assert tensors.work.tensors == 20 and tensors.work.tensor_bytes == 20 * 1600


# The caches


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("capacity", [1, 3, 6, 20])
def test_lru_hit_rate_is_that_of_functools(seed, capacity):
    accesses = [str(i) for i in np.random.default_rng(seed).zipf(1.4, 300) % 12]
    reference = lru_cache(maxsize=capacity)(lambda name: None)
    for name in accesses:
        reference(name)
    assert slow_engine.lru_hit_rate(accesses, dict.fromkeys(accesses, 1), capacity) == pytest.approx(
        reference.cache_info().hits / 300
    )


@pytest.mark.parametrize("capacity", [8, 20, 44, 90])
def test_the_engine_s_cache_does_what_the_simulation_says(capacity):
    rng = np.random.default_rng(capacity)
    sizes = {str(i): int(rng.integers(1, 12)) for i in range(10)}
    accesses = [str(i) for i in rng.integers(0, 10, 400)]
    cache, hits = slow_engine.LRU(4 * capacity), 0
    for name in accesses:
        if cache.get(name) is not None:
            hits += 1
            continue
        cache.make_room(4 * sizes[name])
        assert cache.put(name, np.empty(sizes[name], np.float32)) == (sizes[name] <= capacity)
        assert cache.nbytes == sum(kept.nbytes for kept in cache.kept.values()) <= 4 * capacity
    assert hits / 400 == pytest.approx(slow_engine.lru_hit_rate(accesses, sizes, capacity))


def test_in_order_lru_never_hits_and_keeping_does():
    sizes = dict.fromkeys("abcdefghij", 1)
    accesses = list(sizes) * 50
    assert slow_engine.lru_hit_rate(accesses, sizes, 9) == 0
    assert slow_engine.lru_hit_rate(accesses, sizes, 10) == 49 / 50
    assert slow_engine.keep_first_hit_rate(accesses, sizes, 3) == pytest.approx(0.3 * 49 / 50)


def test_the_engine_hits_as_often_as_computed(austen):
    engine = SlowEngine(austen.model)
    past = engine.new_past()
    for i in austen.ids[:4]:
        engine.next_token([i], past)
    work = engine.work
    sizes = {name: 4 * prod(w.shape) for name, w in engine.matrices.items()}
    rate = slow_engine.lru_hit_rate(list(sizes) * 4, sizes, slow_engine.CACHE_SHARE * sum(sizes.values()))
    assert work.cache_hits / (work.cache_hits + work.cache_misses) == rate == 0
    assert 0 < engine.decoded.nbytes <= slow_engine.CACHE_SHARE * engine.float32_bytes


@pytest.mark.parametrize("capacity", [None, 9])
def test_both_pasts_keep_what_was_put(capacity):
    rng = np.random.default_rng(0)
    given = rng.standard_normal((2, 2, 7, 3, 4), np.float32)  # layer, keys or values, token, head, place
    past, work = Past(2, 3, 4, capacity), slow_engine.Work()
    tensors = slow_engine.Tensors(False, work, profiler.OFF)
    for first, last in pairwise([0, 4, 5, 7]):
        for layer in range(2):
            past.put(layer, tuple(given[layer][:, first:last]), tensors, work)
        past.length = last
    for layer in range(2):
        np.testing.assert_array_equal(past.get(layer, 7), given[layer])
    copied = 4 * 2 * 2 * 3 * 4 * (4 + 5 + 7)  # bytes, layers, both, heads, places
    assert work.bytes_concatenated == (copied if capacity is None else 0)


# Measured: that it runs, not how fast


def test_one_token_forgets_what_it_ran(small):
    engine = SlowEngine(small)
    run = slow_engine.one_token(engine, [5, 9, 300, 17])
    expected = SlowEngine(small).logits([5, 9, 300, 17])[-1].argmax()
    assert [run() for _ in range(3)] == [expected] * 3


def test_engine_tokens_goes_on_where_a_stop_token_or_the_context_would_end(small, monkeypatch):
    read, Model = [], type(small)
    generate = Model.generate
    monkeypatch.setattr(Model, "generate", lambda *given: read.append(given[1]) or generate(*given))
    run = slow_engine.engine_tokens(small, [5, 9, 300], 30)
    for n_texts in (1, 1, 2, 2, 3):  # 61 tokens fit behind 3 of 64
        run()
        assert read == n_texts * [[5, 9, 300]]


def test_measure_and_steps(small):
    variants = [made for order in ORDERS.values() for made in slow_engine.made_along(order)]
    timings = slow_engine.measure(small, [5, 9, 300], variants, repeats=1, n_tokens=4)
    assert set(timings) == {*variants, "ours"}
    times = {made: t.median for made, t in timings.items()}
    for order in ORDERS.values():
        made = slow_engine.made_along(order)
        assert (made[0], made[-1], len(made)) == (frozenset(), frozenset(FIXES), 5)
        steps = slow_engine.steps(times, order)
        assert prod(factor for _, factor in steps) == pytest.approx(times[frozenset()] / times["ours"])
        assert {label for label, _ in steps} >= {"six suspects", "transpose", "dequantize", "dot products"}
    figure = pictures.waterfalls(times, "title")
    assert [len(axes.patches) for axes in figure.axes] == [5, 5]
    plt.close(figure)


def test_paired_gains(small):
    found = slow_engine.paired(small, [5, 9], {"RoPE": {"rope"}, "all six": SUSPECTS}, repeats=3)
    assert list(found) == ["RoPE", "all six"]
    assert all(0 < low <= median <= high for low, median, high in found.values())


def test_bytes_moved():
    """B is zeroed and filled, Bt zeroed and filled, B read for the copy and for the dot products."""
    assert slow_engine.bytes_moved(1000, 0) == 1000 * 4 * (2 + 2 + 2)
    assert slow_engine.bytes_moved(1000, 4.5) - slow_engine.bytes_moved(1000, 0) == 562.5


def test_each_token_has_its_profile(small):
    tokens = slow_engine.profile(small, [5, 9, 300], repeats=3)
    assert [one.calls for one in tokens] == [1, 1, 1]
    whole = profiler.added(tokens)
    assert whole.seconds == pytest.approx(sum(one.seconds for one in tokens)) and whole.calls == 3
    assert profiler.self_times(whole).keys() == profiler.self_times(tokens[0]).keys()
    assert sum(profiler.self_times(whole).values()) == pytest.approx(whole.seconds)


def test_in_a_token_s_order_a_small_cache_never_hits(austen):
    """One matrix again and again stays in the cache; all of them in turn drive each other out."""
    engine = SlowEngine(austen.model, {"transpose"})
    in_order = slow_engine.in_order(engine.matrices, engine.matmul)
    in_order()
    in_order()
    assert engine.work.cache_hits == 0 and engine.work.cache_misses == 2 * len(engine.matrices)
    one = slow_engine.in_order({"0.attn_q": engine.matrices["0.attn_q"]}, engine.matmul)
    one()
    one()
    assert engine.work.cache_hits > 0


def test_the_steps_are_those_of_the_product(small):
    w = SlowEngine(small).matrices["0.ffn_gate"]
    steps = slow_engine.product_steps(w)
    assert set(steps) == {"allocations", *CULPRITS}
    for step in steps.values():
        step()
