"""The forward pass against a float64 one written from the definition, and generation upon it."""

import copy
import gc
import inspect
import mmap
import os
import pickle
import signal
import sys
import threading
import weakref
from itertools import accumulate, islice

import numpy as np
import pytest
from reference import Reference
from small_model import small_model

import blocks2tokens as b2t
from blocks2tokens.course import bench
from blocks2tokens.jit import cpu
from blocks2tokens.model import KVCache, prefill, transformer
from blocks2tokens.model.decode import POSITION, TOKEN, Decoder
from blocks2tokens.model.interrupt import interrupts_wait
from blocks2tokens.model.transformer import FEW, MOST_ROWS

IDS = [1, 70, 304, 3, 3, 259, 12, 319, 8, 100, 41, 7]
PROMPT = [1, 70, 304, 3]

MODELS = {
    "groups of two, tied": {},
    "own output": {"tied": False},
    "every head its own": {"n_kv_heads": 4, "n_heads": 4},
    "one for all": {"n_kv_heads": 1, "n_heads": 4},
    "groups of three": {"n_kv_heads": 2, "n_heads": 6, "head_dim": 16},
    "wide heads": {"n_kv_heads": 2, "n_heads": 4, "head_dim": 32},
    "many layers": {"n_layers": 5},
    "Q8_0": {"default_format": "Q8_0", "tied": False},
    "mixed": {
        "default_format": "Q4_1",
        "formats": {"token_embd": "F16", "attn_v": "Q5_0", "ffn_down": "BF16", "output": "IQ4_NL"},
        "tied": False,
    },
    "K-quants": {
        "default_format": "Q4_K",
        "formats": {"token_embd": "Q6_K", "ffn_down": "Q5_K", "attn_output": "Q2_K", "attn_k": "IQ4_XS"},
        "dim": 256,
        "ffn_dim": 512,
        "n_layers": 1,
    },
}


@pytest.fixture(scope="module")
def path_of(tmp_path_factory):
    """Return the path of a model of MODELS, written once."""
    folder = tmp_path_factory.mktemp("models")

    def path_of(name):
        path = folder / f"{name}.gguf"
        return path if path.exists() else small_model(**MODELS[name]).write(path)

    return path_of


@pytest.fixture(scope="module")
def model(path_of):
    return b2t.load(path_of("mixed"))


def close(a, b):
    """Equal but for float32: within a few thousandths of a percent of the spread of the logits."""
    return a.shape == b.shape and np.abs(a - b).max() < 3e-5 * np.std(b)


# --- Logits -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_the_definition(path_of, name):
    out = b2t.load(path_of(name)).logits(IDS)
    assert out.dtype == np.float32
    assert close(out, Reference(path_of(name)).logits(IDS))


@pytest.mark.parametrize("name", ["Q8_0", "mixed", "K-quants"])
def test_rounding_activations_changes_logits_a_little(path_of, name):
    out, expected = b2t.load(path_of(name)).logits(IDS), Reference(path_of(name)).logits(IDS)
    assert np.sqrt(np.mean((out - expected) ** 2)) < 0.05 * np.std(expected)


@pytest.mark.parametrize("name", ["Q8_0", "mixed", "K-quants"])
@pytest.mark.parametrize("isa", cpu.available())
def test_decoding_is_right_with_every_instruction_set(path_of, monkeypatch, isa, name):
    monkeypatch.setenv("BLOCKS2TOKENS_SIMD", isa)
    t = b2t.load(path_of(name)).transformer
    cache = t.new_cache(len(IDS))
    out, expected = np.array([t.step(i, cache).copy() for i in IDS]), Reference(path_of(name)).logits(IDS)
    assert np.sqrt(np.mean((out - expected) ** 2)) < 0.05 * np.std(expected)


@pytest.mark.usefixtures("exact")
def test_the_reference_notices_a_difference(path_of):
    model = b2t.load(path_of("mixed"))
    expected = Reference(path_of("mixed")).logits(IDS)
    assert not close(model.logits([*IDS[:5], 4, *IDS[6:]]), expected)
    model.transformer.weights.rope_frequencies *= 1.001
    assert not close(model.logits(IDS), expected)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("name", ["mixed", "groups of three", "K-quants"])
def test_a_row_of_logits_knows_only_the_tokens_before_it(path_of, name):
    model = b2t.load(path_of(name))
    whole = model.logits(IDS)
    for t in range(len(IDS)):
        assert close(model.logits(IDS[: t + 1])[-1], whole[t])


@pytest.mark.parametrize("sizes", [[1] * 12, [5, 1, 1, 5], [11, 1], [2, 10]], ids=str)
def test_decoding_through_the_cache_equals_one_pass(model, sizes):
    cache = model.transformer.new_cache(len(IDS))
    parts = [
        model.transformer.hidden(IDS[end - size : end], cache)
        for size, end in zip(sizes, accumulate(sizes), strict=True)
    ]
    assert cache.length == len(IDS)
    assert close(model.transformer.project(np.concatenate(parts)), model.logits(IDS))


@pytest.mark.parametrize("prefill", [1, 4, 5, 11, 12, 13])
def test_long_prompts_are_cut_into_passes_that_change_nothing(model, monkeypatch, request, prefill):
    if cpu.chosen() == "plain":  # which rounds x for many rows, and not for one
        request.getfixturevalue("exact")
    whole = model.logits(IDS)
    passes = []
    original = transformer.run_batch

    def counted(weights, config, ids, *more):
        passes.append(len(ids))
        return original(weights, config, ids, *more)

    monkeypatch.setattr(transformer, "run_batch", counted)
    monkeypatch.setattr(transformer, "PREFILL", prefill)
    assert close(model.logits(IDS), whole)
    assert sum(passes) == len(IDS) and max(passes) == min(prefill, len(IDS))


def test_ids_may_be_any_whole_numbers(model):
    expected = model.logits(IDS)
    for ids in (tuple(IDS), np.array(IDS, np.uint16), np.array(IDS, np.uint64), [np.int32(i) for i in IDS]):
        assert np.array_equal(model.logits(ids), expected)


def test_the_context_can_be_filled_to_its_last_token(model):
    context = model.config.context_length
    assert model.logits([5] * context).shape == (context, 320)
    with pytest.raises(ValueError, match=r"65 tokens .* context of 64"):
        model.logits([5] * (context + 1))


BAD_IDS = {
    "empty": [],
    "empty array": np.array([], np.int64),
    "no sequence": 7,
    "negative": [1, -1],
    "past the end": [1, 320],
    "far past the end": [2**70],
    "past the end, unsigned": np.array([2**64 - 1], np.uint64),
    "fraction": [1.0, 2.0],
    "nan": [float("nan")],
    "bool": [True, False],
    "text": "hello",
    "texts": ["1", "2"],
    "none": None,
    "two dimensions": [[1, 2]],
    "ragged": [[1], [1, 2]],
    "array of objects": np.array([1, None]),
}


@pytest.mark.parametrize("case", BAD_IDS)
def test_bad_ids_are_refused_at_the_call(model, case):
    with pytest.raises(ValueError):
        model.logits(BAD_IDS[case])
    with pytest.raises(ValueError):
        model.generate(BAD_IDS[case], 1)


def test_a_bad_id_is_named_with_its_place(model):
    with pytest.raises(ValueError, match="0 <= id < 320, got 320 at position 2"):
        model.logits([1, 2, 320])


def test_a_cache_takes_no_more_than_it_has_room_for(model):
    cache = model.transformer.new_cache(3)
    model.transformer.hidden([1, 2], cache)
    with pytest.raises(ValueError, match="2 more tokens do not fit, 2 of 3 used"):
        model.transformer.hidden([3, 4], cache)
    assert cache.length == 2
    for capacity in (0, -1, 65):
        with pytest.raises(ValueError, match=f"1 to 64 tokens, got {capacity}"):
            model.transformer.new_cache(capacity)


# --- Loading ----------------------------------------------------------------------------------------------


def file_of(array):
    """Return what an array's memory belongs to, behind all its views."""
    while isinstance(array, np.ndarray | memoryview):
        array = array.base if isinstance(array, np.ndarray) else array.obj
    return array


def matrices(model):
    t = model.transformer
    found = [value for layer in t.layers for value in vars(layer).values()]
    return [t.token_embd, t.output, *(value for value in found if isinstance(value, b2t.QuantizedMatrix))]


def test_matrices_stay_in_the_mapped_file(model, path_of):
    found = matrices(model)
    assert len(found) == 2 + 7 * 2
    for w in found:
        assert isinstance(file_of(w.raw), mmap.mmap) and not w.raw.flags.writeable
    assert len({id(file_of(w.raw)) for w in found}) == 1
    file = b2t.GGUFFile(path_of("mixed"))
    assert np.array_equal(model.transformer.layers[1].ffn_up.raw, file.raw("blk.1.ffn_up.weight"))


def test_tied_output_is_the_embedding_itself(path_of):
    tied, untied = b2t.load(path_of("groups of two, tied")), b2t.load(path_of("own output"))
    assert tied.transformer.output is tied.transformer.token_embd
    assert untied.transformer.output is not untied.transformer.token_embd


def test_a_model_outlives_its_file_and_knows_its_settings(tmp_path):
    path = small_model(n_heads=6, head_dim=16, n_layers=3).write(tmp_path / "small.gguf")
    model = b2t.load(str(path))
    before = model.logits(IDS)
    path.unlink()
    assert np.array_equal(model.logits(IDS), before)
    c = model.config
    assert (c.dim, c.n_layers, c.n_heads, c.n_kv_heads, c.head_dim, c.ffn_dim) == (64, 3, 6, 2, 16, 96)
    assert (c.architecture, c.name, c.vocab_size, c.context_length) == ("llama", "small", 320, 64)
    assert (c.rope_theta, c.norm_eps) == (10_000.0, pytest.approx(1e-5))
    assert repr(model) == "Model(small: llama, 3 layers of 64, 320 tokens)"


def test_settings_that_may_be_missing(tmp_path):
    small = small_model(n_heads=4, n_kv_heads=4)
    for key in ("general.name", "llama.attention.head_count_kv", "llama.rope.freq_base"):
        del small.metadata[key]
    config = b2t.load(small.write(tmp_path / "unnamed.gguf")).config
    assert (config.name, config.n_kv_heads, config.rope_theta) == ("unnamed", 4, 10_000.0)


# --- Generation -------------------------------------------------------------------------------------------


def greedy(model, ids, max_tokens):
    """Generate without a cache: the whole text again for every token."""
    ids = list(ids)
    for _ in range(max_tokens):
        token = int(model.logits(ids)[-1].argmax())
        if token in model.tokenizer.stop_tokens:
            break
        ids.append(token)
        yield token


@pytest.mark.parametrize("name", ["mixed", "groups of three", "own output"])
def test_greedy_generation_takes_the_largest_logit_each_time(path_of, name):
    model = b2t.load(path_of(name))
    tokens = list(model.generate(PROMPT, 12))
    assert tokens == list(greedy(model, PROMPT, 12)) and len(tokens) > 2
    assert all(type(token) is int for token in tokens)


def test_generation_streams(model, monkeypatch):
    passes = []
    original = Decoder.step

    def counted(self, n_rows, with_logits):
        passes.append(int(self.rows[0, POSITION]))
        original(self, n_rows, with_logits)

    monkeypatch.setattr(Decoder, "step", counted)
    tokens = model.generate(PROMPT, 40)
    assert inspect.isgenerator(tokens) and passes == []
    next(tokens)
    assert passes == [0]  # the prompt went through in one pass
    next(tokens)
    assert passes == [0, len(PROMPT)]
    tokens.close()
    assert len(passes) == 2


def test_a_token_makes_no_array_after_the_first(model, monkeypatch):
    cache = model.transformer.new_cache(9)
    model.transformer.next_logits(PROMPT, cache)  # makes all that decoding needs
    found = bench.allocations(lambda: model.transformer.step(5, cache))
    assert (found.count, found.nbytes) == (0, 0)
    found = bench.allocations(lambda: model.transformer.hidden([5], cache))
    assert found.count > 0 and found.nbytes > 256  # it is counted
    monkeypatch.setattr(model.tokenizer, "stop_tokens", frozenset())
    tokens = model.generate(PROMPT, 30)
    next(tokens)
    assert bench.allocations(lambda: next(tokens)).nbytes <= 16  # the sampler's maximum and its place


@pytest.mark.parametrize("name", ["mixed", "K-quants", "groups of three"])
def test_a_cache_in_float16_changes_logits_a_little(path_of, name):
    exact, half = (b2t.load(path_of(name), cache).transformer for cache in ("float32", "float16"))
    for size in (1, 5):  # token by token, and in batches
        logits = []
        for one in (exact, half):
            cache = one.new_cache(len(IDS))
            parts = [one.hidden(IDS[i : i + size], cache) for i in range(0, len(IDS), size)]
            logits.append(one.project(np.concatenate(parts)))
        assert cache.row.base == np.float16 and cache.nbytes == exact.new_cache(len(IDS)).nbytes // 2
        error = np.sqrt(np.mean((logits[0] - logits[1]) ** 2)) / np.std(logits[0])
        assert 0 < error < 0.02


def test_another_cache_is_refused(path_of):
    with pytest.raises(ValueError, match="cache: expected one of float32, float16, q8_0, q4_0, got 'int8'"):
        b2t.load(path_of("mixed"), "int8")


@pytest.mark.parametrize("sizes", [(1, 2, 16), (2, 1, 16), (2, 2, 8), (3, 2, 16)])
def test_a_cache_of_another_shape_is_refused(model, sizes):
    for run in (model.transformer.hidden, model.transformer.next_logits):
        for ids in ([5], PROMPT):
            with pytest.raises(ValueError, match="cache: this model's keys have shape"):
                run(ids, KVCache(*sizes, capacity=8))
    with pytest.raises(ValueError, match="cache"):
        model.transformer.step(5, KVCache(*sizes, capacity=8))


def test_a_copy_of_a_cache_goes_its_own_way(model):
    cache = model.transformer.new_cache(8)
    model.transformer.next_logits(PROMPT, cache)
    fork = copy.deepcopy(cache)
    first = model.transformer.step(5, cache).copy()
    assert (cache.length, fork.length) == (5, 4)
    assert close(model.transformer.step(5, fork), first)
    assert fork.length == 5 and cache.pages != fork.pages
    restored = pickle.loads(pickle.dumps(cache))
    assert close(model.transformer.step(7, restored), model.transformer.step(7, cache))


def test_a_cache_may_go_to_another_model_of_its_shape(path_of):
    one, other = b2t.load(path_of("mixed")), b2t.load(path_of("mixed"))
    other.transformer.weights.output_norm[:] = 0
    cache = one.transformer.new_cache(4)
    assert np.any(one.transformer.step(5, cache))
    assert not np.any(other.transformer.step(5, cache))


def test_a_cache_is_freed_with_its_last_user(model):
    cache = model.transformer.new_cache(4)
    model.transformer.step(5, cache)
    there = weakref.ref(cache)
    gc.disable()
    try:
        del cache
        assert there() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("token", [-1, 320, 1.5])
def test_a_step_checks_its_token(model, token):
    with pytest.raises(ValueError, match=f"0 <= id < 320, got {token}"):
        model.transformer.step(token, model.transformer.new_cache(2))


def test_a_step_into_a_full_cache_is_refused(model):
    cache = model.transformer.new_cache(1)
    model.transformer.step(5, cache)
    with pytest.raises(ValueError, match="1 more tokens do not fit, 1 of 1 used"):
        model.transformer.step(5, cache)


# --- Ctrl-C -----------------------------------------------------------------------------------------------


def interrupt(*_):
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.skipif(sys.platform == "win32", reason="another way to interrupt")
def test_an_interrupted_prompt_leaves_cache_and_model_as_they_were(model, monkeypatch):
    ids = np.arange(FEW + 1)  # more than are rows of passes
    expected = model.transformer.next_logits(ids, model.transformer.new_cache(60)).copy()
    original, cache, calls = prefill.attend_rows, model.transformer.new_cache(60), []

    def interrupted(*arguments):
        interrupt()
        calls.append(original(*arguments))
        return calls[-1]

    with monkeypatch.context() as patch:
        patch.setattr(prefill, "attend_rows", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.transformer.next_logits(ids, cache)
    assert len(calls) == 1 and cache.length == 0  # the layer was finished, the next one not begun
    assert close(model.transformer.next_logits(ids, cache), expected)


@pytest.mark.skipif(sys.platform == "win32", reason="another way to interrupt")
@pytest.mark.parametrize("kind", ["float32", "q4_0"])
def test_an_interrupt_between_passes_of_a_prompt_leaves_the_cache_as_it_was(tmp_path, monkeypatch, kind):
    wide = small_model(n_heads=4, n_kv_heads=2, dim=128, context_length=200).write(tmp_path / "wide.gguf")
    model, ids = b2t.load(wide, cache=kind), np.random.default_rng(1).integers(3, 300, 175)
    # a page that is nearly full: two passes write over its first recent rows, in a copy
    cache, passes, original = model.transformer.new_cache(200), [], Decoder.step
    model.transformer.next_logits(ids[:127], cache)
    before, expected = cache.fork(), model.transformer.next_logits(ids[127:], cache.fork()).copy()

    def interrupted(self, n_rows, with_logits):
        original(self, n_rows, with_logits)
        passes.append(n_rows)
        if len(passes) == 2:
            interrupt()

    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.transformer.next_logits(ids[127:], cache)
    assert passes == [MOST_ROWS] * 2
    assert cache.length == 127 and pickle.dumps(cache) == pickle.dumps(before)
    assert np.array_equal(model.transformer.next_logits(ids[127:], cache), expected)


@pytest.mark.parametrize("n", [1, MOST_ROWS + 1])
def test_recent_rows_that_a_broken_pass_wrote_over_count_as_gone(tmp_path, monkeypatch, n):
    wide = small_model(n_heads=4, n_kv_heads=2, dim=128, context_length=200).write(tmp_path / "wide.gguf")
    t, ids = b2t.load(wide, cache="q4_0").transformer, np.random.default_rng(1).integers(3, 300, 180)
    cache, original = t.new_cache(200), Decoder.step
    t.next_logits(ids[:100], cache)
    for i in ids[100:144]:
        t.step(int(i), cache)
    other = cache.fork()
    t.next_logits(ids[144 : 144 + MOST_ROWS], other)
    other.truncate(100)

    def broken(self, n_rows, with_logits):
        original(self, n_rows, with_logits)
        raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(Decoder, "step", broken)
        t.next_logits(ids[150 : 150 + n], cache)
    assert cache.length == 144
    cache.truncate(100)
    assert pickle.dumps(cache) == pickle.dumps(other)


@pytest.mark.skipif(sys.platform == "win32", reason="another way to interrupt")
@pytest.mark.parametrize("run", ["step", "hidden", "next_logits"])
def test_an_interrupted_token_was_never_there(model, monkeypatch, run):
    done = []
    original = Decoder.step

    def interrupted(self, n_rows, with_logits):
        interrupt()
        original(self, n_rows, with_logits)
        done.append(int(self.rows[0, TOKEN]))

    cache = model.transformer.new_cache(8)
    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.transformer.step(5, cache) if run == "step" else getattr(model.transformer, run)([5], cache)
    assert done == [5] and cache.length == 0  # it was finished, and is undone: whoever asked has no logits
    expected = model.transformer.next_logits([9, 5], model.transformer.new_cache(8))
    model.transformer.step(9, cache)
    assert close(model.transformer.step(5, cache), expected)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_prompt_of_several_batches_is_read_whole_or_not_at_all(model, monkeypatch, error):
    cache = model.transformer.new_cache(32)
    model.transformer.hidden(np.array([1, 2]), cache)
    batches, original = [], transformer.run_batch

    def breaking(weights, config, ids, *more):
        batches.append(ids)
        if len(batches) == 3:
            raise error
        return original(weights, config, ids, *more)

    monkeypatch.setattr(transformer, "PREFILL", 8)
    monkeypatch.setattr(transformer, "FEW", 1)
    monkeypatch.setattr(transformer, "run_batch", breaking)
    for run in (model.transformer.hidden, model.transformer.next_logits):
        batches.clear()
        with pytest.raises(error):
            run(np.arange(24), cache)
        assert len(batches) == 3 and cache.length == 2


@pytest.mark.parametrize("capacity", [0, -1, 65, 1.5, 2.0, "8", None])
def test_a_capacity_that_is_none(model, capacity):
    with pytest.raises(ValueError, match="capacity: expected 1 to 64 tokens, got"):
        model.transformer.new_cache(capacity)


@pytest.mark.skipif(sys.platform == "win32", reason="another way to interrupt")
def test_an_interrupt_outlives_an_error():
    with pytest.raises(KeyboardInterrupt), interrupts_wait():
        interrupt()
        raise ValueError
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_interrupts_are_left_to_the_main_thread(model):
    handlers = []

    def generate():
        handlers.append(list(model.generate(PROMPT, 3)))

    thread = threading.Thread(target=generate)
    thread.start()
    thread.join()
    assert handlers == [list(model.generate(PROMPT, 3))]


def test_a_stop_token_ends_generation_unseen(model, monkeypatch):
    tokens = list(model.generate(PROMPT, 10))
    stop = next(token for i, token in enumerate(tokens) if i >= 2 and token not in tokens[:i])
    monkeypatch.setattr(model.tokenizer, "stop_tokens", frozenset({stop}))
    assert list(model.generate(PROMPT, 10)) == tokens[: tokens.index(stop)]


def test_stop_tokens_are_the_files_and_those_with_a_known_name(tmp_path):
    small = small_model()
    small.metadata["tokenizer.ggml.eot_token_id"] = 5
    assert b2t.load(small.write(tmp_path / "a.gguf")).tokenizer.stop_tokens == {0, 2, 5}
    del small.metadata["tokenizer.ggml.eot_token_id"], small.metadata["tokenizer.ggml.eos_token_id"]
    assert b2t.load(small.write(tmp_path / "b.gguf")).tokenizer.stop_tokens == {0, 2}


def test_max_tokens_is_kept(model, monkeypatch):
    monkeypatch.setattr(model.tokenizer, "stop_tokens", frozenset())
    for max_tokens in (0, 1, np.int64(3)):
        assert len(list(model.generate(PROMPT, max_tokens))) == max_tokens
    assert len(list(model.generate(PROMPT, 64 - len(PROMPT)))) == 60  # the context, to its last token


@pytest.mark.parametrize(
    ("ids", "max_tokens", "message"),
    [
        (PROMPT, 61, "65 tokens .* context of 64"),
        ([5] * 65, 0, "65 tokens .* context of 64"),
        (PROMPT, 2**62, "context of 64"),
        (PROMPT, -1, "max_tokens: expected a whole number >= 0, got -1"),
        (PROMPT, 1.5, "max_tokens: .* got 1.5"),
        (PROMPT, None, "max_tokens: .* got None"),
        (PROMPT, "3", "max_tokens: .* got '3'"),
    ],
)
def test_lengths_that_cannot_be_are_refused_at_the_call(model, ids, max_tokens, message):
    with pytest.raises(ValueError, match=message):
        model.generate(ids, max_tokens)


def test_two_generations_do_not_disturb_each_other(model, monkeypatch):
    monkeypatch.setattr(model.tokenizer, "stop_tokens", frozenset())
    other = [9, 200, 31]
    alone = [list(model.generate(PROMPT, 8)), list(model.generate(other, 8))]
    assert alone[0] != alone[1]
    pairs = list(zip(model.generate(PROMPT, 8), model.generate(other, 8), strict=True))
    assert [list(tokens) for tokens in zip(*pairs, strict=True)] == alone


def test_the_prompt_is_left_as_it_was(model):
    prompt = list(PROMPT)
    list(islice(model.generate(prompt, 5), 3))
    assert prompt == PROMPT


def test_a_sampler_sees_logits_and_the_text_so_far(model, monkeypatch):
    monkeypatch.setattr(model.tokenizer, "stop_tokens", frozenset())
    calls = []

    def sampler(logits, history):
        calls.append((logits.copy(), list(history)))
        return 10 + len(calls)

    assert list(model.generate(PROMPT, 3, sampler)) == [11, 12, 13]
    assert [history for _, history in calls] == [PROMPT, [*PROMPT, 11], [*PROMPT, 11, 12]]
    assert close(np.array([logits for logits, _ in calls]), model.logits([*PROMPT, 11, 12])[-3:])


def test_the_same_seed_writes_the_same_text(model):
    texts = [list(model.generate(PROMPT, 20, b2t.Sampler(temperature=2.0, seed=seed))) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
