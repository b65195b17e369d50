"""The arena of a pass: nothing overlaps that lives together, little is wasted, nothing stale is read."""

import itertools

import numpy as np
import pytest
from small_model import small_model

import blocks2tokens as b2t
from blocks2tokens import KERNELS, QuantizedMatrix, kernels
from blocks2tokens.course import bench
from blocks2tokens.kernels import autotune, scratch
from blocks2tokens.model import batch_memory
from blocks2tokens.model.arena import end_of, first_fit, in_use, lifetimes, new_block, peak_bytes

MIXED = {"attn_v": "Q6_K", "ffn_down": "Q6_K", "attn_q": "Q8_0"}
MODELS = {
    "llama": {"default_format": "Q4_K", "formats": MIXED, "dim": 256, "ffn_dim": 512, "head_dim": 64},
    "qwen3": {"default_format": "Q8_0"},
    "gemma3": {"default_format": "F16"},
    "qwen3moe": {"default_format": "Q8_0"},
    "gpt-oss": {"default_format": "F32"},
}


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("arena") / "model.gguf"
    return b2t.load(small_model(request.param, **MODELS[request.param]).write(path))


# Lifetimes and places


def random_buffers(seed, n=12, n_steps=9):
    rng = np.random.default_rng(seed)
    steps = rng.integers(0, n_steps, (n, 2))
    lives = {str(i): (int(min(pair)), int(max(pair))) for i, pair in enumerate(steps)}
    return lives, {name: int(64 * rng.integers(1, 50)) for name in lives}


def meet(lives, a, b):
    return not (lives[a][1] < lives[b][0] or lives[b][1] < lives[a][0])


def test_a_buffer_lives_from_its_first_use_to_its_last():
    steps = [("x", "h"), ("h", "q"), ("x",), ("q", "out")]
    assert lifetimes(steps) == {"x": (0, 2), "h": (0, 1), "q": (1, 3), "out": (3, 3)}
    assert lifetimes([]) == {} and peak_bytes({}, {}) == 0 and end_of({}, {}) == 0


@pytest.mark.parametrize("seed", range(20))
def test_buffers_that_live_together_lie_apart(seed):
    lives, sizes = random_buffers(seed)
    offsets = first_fit(lives, sizes)
    assert set(offsets) == set(lives) and min(offsets.values()) == 0
    for a, b in itertools.combinations(lives, 2):
        apart = offsets[a] + sizes[a] <= offsets[b] or offsets[b] + sizes[b] <= offsets[a]
        assert apart or not meet(lives, a, b), (a, b)
    assert end_of(offsets, sizes) >= peak_bytes(lives, sizes)


@pytest.mark.parametrize("seed", range(20))
def test_the_peak_is_that_of_a_count_step_by_step(seed):
    lives, sizes = random_buffers(seed)
    assert peak_bytes(lives, sizes) == max(in_use(lives, sizes, step) for step in range(9))


def test_first_fit_fills_the_lowest_gap():
    lives = {"a": (0, 9), "b": (0, 3), "c": (0, 9), "d": (4, 9), "e": (5, 6)}
    sizes = {"a": 500, "b": 400, "c": 300, "d": 200, "e": 100}
    assert first_fit(lives, sizes) == {"a": 0, "c": 500, "d": 800, "b": 800, "e": 1000}


# Plans


@pytest.mark.parametrize("T", [2, 16, 64, 512])
def test_an_arena_is_hardly_larger_than_its_lower_bound(model, T):
    plan = batch_memory.Plan(model.transformer.weights, model.config, T)
    assert plan.peak <= plan.nbytes <= 1.02 * plan.peak
    assert all(offset % scratch.ALIGNMENT == 0 for offset in plan.offsets.values())


def test_every_buffer_has_a_shape_and_a_life(model):
    plan = batch_memory.Plan(model.transformer.weights, model.config, 8)
    assert set(plan.shapes) == set(plan.lives)


def test_a_plan_serves_as_many_tokens_as_its_power_of_two(monkeypatch):
    made = []
    monkeypatch.setattr(batch_memory, "Plan", lambda weights, config, T: made.append(T))
    memory = batch_memory.BatchMemory(None, None)
    for T in (1, 2, 3, 4, 5, 64, 65, 128):
        memory.plan(T)
    assert made == [1, 2, 4, 8, 64, 128]


# Passes


def passes(model, capacity=64, poison=None):
    """Run batches of several lengths behind each other; before each, all that is left over is spoiled."""
    rng, cache, found = np.random.default_rng(0), model.transformer.new_cache(capacity), []
    for T in (20, 2, 7, 33):
        if poison is not None and cache.batch_memory is not None:
            cache.batch_memory.block[:] = poison
        found.append(model.transformer.hidden(rng.integers(3, 300, T), cache))
    return found


@pytest.mark.parametrize("poison", [0, 0xFF, 0x7F])
def test_nothing_is_read_that_another_pass_left(model, poison):
    for spoiled, usual in zip(passes(model, poison=poison), passes(model), strict=True):
        assert np.isfinite(usual).all() and np.array_equal(spoiled, usual)


def all_apart(lives, sizes):
    offsets, _ = scratch.bump(sizes[name] for name in lives)
    return dict(zip(lives, offsets, strict=True))


def test_buffers_in_one_arena_change_nothing(model, monkeypatch):
    packed = passes(model)
    monkeypatch.setattr(batch_memory, "first_fit", all_apart)
    for apart, together in zip(passes(model), packed, strict=True):
        assert np.array_equal(apart, together)


def test_the_block_is_made_once_and_grows_with_a_longer_batch(model):
    cache = model.transformer.new_cache(64)
    model.transformer.hidden(np.arange(3, 23), cache)
    block = cache.batch_memory.block
    model.transformer.hidden(np.arange(3, 15), cache)
    assert cache.batch_memory.block is block
    model.transformer.hidden(np.arange(3, 35), cache)
    assert cache.batch_memory.block.size >= block.size


def test_a_stream_that_was_returned_stays_as_it_is(model):
    cache = model.transformer.new_cache(64)
    first = model.transformer.hidden(np.arange(3, 13), cache)
    kept = first.copy()
    model.transformer.hidden(np.arange(13, 23), cache)
    assert np.array_equal(first, kept)


def test_a_second_pass_asks_for_next_to_no_memory(austen_path):
    model = b2t.load(austen_path)
    cache, ids = model.transformer.new_cache(250), np.arange(5, 105)
    model.transformer.next_logits(ids, cache)
    made = bench.allocations(lambda: model.transformer.next_logits(ids[:50], cache))
    arena = cache.batch_memory.plan(100).nbytes
    logits = 4 * model.config.vocab_size
    assert made.nbytes < 3 * logits < arena / 20


def test_kernels_measured_anew_are_planned_anew(model, monkeypatch):
    cache = model.transformer.new_cache(32)
    model.transformer.hidden(np.arange(3, 13), cache)
    monkeypatch.setattr(autotune, "FORGOTTEN", [*autotune.FORGOTTEN, "Q8_0"])
    model.transformer.hidden(np.arange(3, 13), cache)
    assert len(cache.batch_memory.plans) == 2


# Products in memory that is there

FORMATS = ("Q4_K", "Q6_K", "Q8_0", "Q4_1", "F16", "F32", "IQ4_XS")
CASES = [(name, fmt) for name, kernel in KERNELS.items() if kernel.run_into for fmt in FORMATS]


@pytest.mark.parametrize(("name", "fmt"), CASES)
@pytest.mark.parametrize("M", [1, 2, 3, 8, 13])
@pytest.mark.parametrize("shape", [(48, 512), (5, 256)])
def test_a_product_in_spoiled_memory_is_the_product(name, fmt, M, shape):
    rng = np.random.default_rng(M)
    w = QuantizedMatrix(b2t.FORMATS[fmt].quantize(rng.standard_normal(shape, np.float32)), fmt, shape)
    x = rng.standard_normal((M, shape[1]), np.float32)
    out, kernel = np.full((M, shape[0]), np.nan, np.float32), KERNELS[name]
    block = np.full(scratch.n_bytes(kernel.needs(M, w)), 0xFF, np.uint8)
    kernel.product_into(x, w, out, block)
    assert np.array_equal(out, kernel(x, w)) and np.isfinite(out).all()


@pytest.mark.parametrize("fmt", ["Q4_K", "Q6_K", "Q8_0", "F16", "F32"])
def test_scratch_for_so_many_rows_is_enough_for_fewer(fmt):
    rng = np.random.default_rng(0)
    w = QuantizedMatrix(b2t.FORMATS[fmt].quantize(rng.standard_normal((32, 512), np.float32)), fmt, (32, 512))
    x, block = rng.standard_normal((70, 512), np.float32), new_block(kernels.scratch_bytes(w, 70))
    for M in (1, 2, 3, 5, 17, 31, 33, 64, 70):
        out = np.empty((M, 32), np.float32)
        kernels.matmul_into(x[:M], w, out, block)
        assert np.array_equal(out, b2t.matmul(x[:M], w))


def test_what_does_not_fit_is_said():
    w = QuantizedMatrix.quantize(np.ones((32, 256), np.float32), "Q8_0")
    x, out = np.ones((4, 256), np.float32), np.empty((4, 32), np.float32)
    block = new_block(kernels.scratch_bytes(w, 4))
    with pytest.raises(ValueError, match=r"out: expected shape \(4, 32\), got \(4, 31\)"):
        kernels.matmul_into(x, w, out[:, :31].copy(), block)
    with pytest.raises(ValueError, match=r"^out: expected dtype float32"):
        kernels.matmul_into(x, w, out.astype(np.float64), block)
    with pytest.raises(ValueError, match=r"x: expected shape \[M, 256\]"):
        kernels.matmul_into(x[:, :128].copy(), w, out, block)
    with pytest.raises(ValueError, match=r"^scratch: expected"):
        scratch.carve(block[:10], KERNELS["simd_dot"].needs(4, w) | {"more": ((11,), np.uint8)})


def test_rows_come_decoded_into_memory_that_is_there():
    W = np.random.default_rng(0).standard_normal((6, 64), np.float32)
    w = QuantizedMatrix.quantize(W, "Q8_0")
    raw, out = np.empty((3, w.raw.shape[1]), np.uint8), np.empty((3, 64), np.float32)
    assert w.rows(np.array([4, 0, 4]), raw, out) is out
    assert np.array_equal(out, w.rows(np.array([4, 0, 4])))
    for wrong in (6, -1):
        with pytest.raises(IndexError, match="rows: expected 0 to 5"):
            w.rows(np.array([0, wrong, 0]), raw, out)
