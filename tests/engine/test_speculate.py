"""Guesses change how long a text takes, and nothing of the text."""

import pickle
import time

import numpy as np
import pytest
from small_model import small_model

import blocks2tokens as b2t
from blocks2tokens import speculate
from blocks2tokens.model.decode import Decoder
from blocks2tokens.model.transformer import FEW, MOST_ROWS
from blocks2tokens.speculate import MOST_GUESSES, Pace, expected_tokens

PROMPT = [5, 6, 7, 8, 5, 6, 7, 8, 5, 6]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speculate")
    return b2t.load(small_model(default_format="Q8_0", context_length=200).write(folder / "model.gguf"))


@pytest.fixture(scope="module")
def draft(tmp_path_factory):
    folder = tmp_path_factory.mktemp("draft")
    return b2t.load(small_model(seed=1, n_layers=1, context_length=120).write(folder / "draft.gguf"))


@pytest.fixture
def endless(monkeypatch, model):
    """The model without stop tokens."""
    monkeypatch.setattr(model.tokenizer, "stop_tokens", frozenset())
    return model


class Always:
    """Guesses that are given, whatever the text; counts what was asked for."""

    def __init__(self, guesses, tokens=8):
        self.guesses, self.tokens, self.asked = guesses, tokens, []

    def guesser(self, model):
        def guess(history, most):
            self.asked.append((list(history), most))
            return self.guesses(history)[:most]

        return guess


def settings():
    return {
        "greedy": lambda: None,
        "drawn": lambda: b2t.Sampler(temperature=0.9, top_k=20, seed=3),
        "penalized": lambda: b2t.Sampler(repetition_penalty=1.3),
    }


@pytest.mark.parametrize("name", settings())
@pytest.mark.parametrize("n_tokens", [1, 2, 60])
def test_the_text_is_the_same(endless, draft, name, n_tokens):
    model = endless
    sampler = settings()[name]
    expected = list(model.generate(PROMPT, n_tokens, sampler()))
    right = lambda history: (PROMPT + expected)[len(history) :]  # noqa: E731
    wrong = lambda history: [(token + 1) % 300 for token in right(history)]  # noqa: E731
    sometimes = lambda history: (right if len(history) % 3 else wrong)(history)  # noqa: E731
    ways = [
        b2t.PromptLookup(),
        b2t.PromptLookup(n=1, tokens=MOST_GUESSES),
        b2t.Draft(draft),
        b2t.Draft(model, tokens=6),
        *map(Always, (right, wrong, sometimes, lambda history: [])),
    ]
    for way in ways:
        assert list(model.generate(PROMPT, n_tokens, sampler(), speculate=way)) == expected, way


def passes_of(model, monkeypatch):
    """Return a list to which the ids of each pass will be added."""
    passes, decode = [], model.transformer._decode

    def noted(ids, cache, with_logits):
        passes.append(list(ids))
        return decode(ids, cache, with_logits)

    monkeypatch.setattr(model.transformer, "_decode", noted)
    return passes


def test_right_guesses_take_fewer_passes(endless, monkeypatch):
    model = endless
    expected = list(model.generate(PROMPT, 60))
    monkeypatch.setattr(Pace, "guesses", lambda self, most: most)
    monkeypatch.setattr(Pace, "FIRST_WITHOUT", 0)
    passes = passes_of(model, monkeypatch)
    way = Always(lambda history: (PROMPT + expected)[len(history) :])
    assert list(model.generate(PROMPT, 60, speculate=way)) == expected
    assert [len(ids) for ids in passes] == [len(PROMPT)] + [9] * 6 + [5]  # 1 + 6 x 9 + 5 tokens


@pytest.mark.parametrize("way", [b2t.PromptLookup(n=1), "draft"])
def test_the_memory_of_passes_is_made_once(endless, draft, monkeypatch, way):
    made, init = [], Decoder.__init__

    def noted(self, weights, *arguments):
        made.append(weights)
        init(self, weights, *arguments)

    monkeypatch.setattr(Decoder, "__init__", noted)
    way = b2t.Draft(draft) if way == "draft" else way
    list(endless.generate(PROMPT, 40, speculate=way))
    assert made.count(endless.transformer.weights) == 1
    assert made.count(draft.transformer.weights) == isinstance(way, b2t.Draft)


@pytest.mark.parametrize("n", [1, MOST_ROWS, MOST_ROWS + 1, FEW - 1, FEW])
@pytest.mark.parametrize("kind", ["float32", "q4_0"])
def test_few_ids_are_rows_of_passes(tmp_path, kind, n):
    wide = small_model(n_heads=4, n_kv_heads=2, dim=128, context_length=200)
    transformer = b2t.load(wide.write(tmp_path / "wide.gguf"), cache=kind).transformer
    before, ids = np.split(np.random.default_rng(n).integers(3, 300, 150), [150 - n])
    cache = transformer.new_cache(150)
    transformer.next_logits(before, cache)
    other = cache.fork()
    logits = [transformer.step(int(i), other).copy() for i in ids]
    assert np.array_equal(transformer.next_logits(ids, cache), logits[-1])
    assert pickle.dumps(cache) == pickle.dumps(other)


@pytest.mark.parametrize("fmt", ["Q8_0", "F16"])
def test_logits_of_several_rows_are_those_of_steps(tmp_path, fmt):
    model = b2t.load(small_model(default_format=fmt, context_length=100).write(tmp_path / "model.gguf"))
    one, other = (model.transformer.new_cache(70) for _ in range(2))
    ids = [int(i) for i in np.random.default_rng(0).integers(0, 300, 60)]
    expected = np.array([model.transformer.step(i, one).copy() for i in ids])
    ends = np.cumsum([1, 2, 3, 4, 5, 9, 10, 11, 15])
    for first, end in zip([0, *ends[:-1]], ends, strict=True):
        found = model.transformer.steps(ids[first:end], other)
        assert found.dtype == np.float32 and np.array_equal(found, expected[first:end])
    with pytest.raises(ValueError, match="do not fit"):
        model.transformer.steps(ids[:11], other)
    assert other.length == 60


def test_rows_of_one_pass_may_be_of_different_texts(model):
    transformer, texts = model.transformer, ([5, 6, 7, 8, 9], [40, 41, 42])
    caches = [transformer.new_cache(40) for _ in texts]
    for text, cache in zip(texts, caches, strict=True):
        transformer.next_logits(text, cache)
    expected = [transformer.step(11 + i, cache.fork()).copy() for i, cache in enumerate(caches)]
    for cache in caches:
        cache.prepare(1)
    tables = np.stack([cache.table for cache in caches])
    decoder = Decoder(transformer.weights, model.config, caches[0].rows(0), tables, MOST_GUESSES + 1)
    decoder.rows[:2] = [(11 + i, len(text), i) for i, text in enumerate(texts)]  # token, position, table
    decoder.step(2, with_logits=True)
    assert np.array_equal(decoder.logits[:2], expected)


def test_it_ends_at_a_stop_token_in_the_middle_of_a_pass(endless, monkeypatch):
    model = endless
    expected = list(model.generate(PROMPT, 40))
    stop = expected[20]
    first = expected.index(stop)
    monkeypatch.setattr(model.tokenizer, "stop_tokens", frozenset([stop]))
    way = Always(lambda history: (PROMPT + expected)[len(history) :])
    assert list(model.generate(PROMPT, 40, speculate=way)) == expected[:first]


def test_a_grammar_holds_among_guesses(model):
    pytest.importorskip("llguidance")
    schema = {"enum": ["a kettle", "a kitten"]}
    texts = []
    for way in (None, b2t.Draft(model)):
        sampler = b2t.Grammar(model.tokenizer, schema).sampler()
        texts.append(model.tokenizer.decode(model.generate(PROMPT, 40, sampler, speculate=way)))
        assert sampler.complete
    assert texts[0] == texts[1]


# Ways to guess


def test_lookup_finds_what_came_behind_the_last_time():
    guess = b2t.PromptLookup(n=2).guesser(None)
    text = [1, 2, 3, 4, 1, 2, 5, 9]
    assert guess(text, 5) == []
    assert guess([*text, 1, 2], 3) == [5, 9, 1]
    assert guess([*text, 1, 2, 5], 9) == [9, 1, 2, 5]
    assert guess([*text, 1, 2, 5, 3, 4], 2) == [1, 2]
    assert b2t.PromptLookup(n=3).guesser(None)([1, 2], 5) == []


def test_a_draft_reads_each_token_once(model, draft, monkeypatch):
    first = list(draft.generate(PROMPT, 3))
    history = [*PROMPT, first[0], first[1], 99]
    then = list(draft.generate(history, 2))
    passes = passes_of(draft, monkeypatch)
    guess = b2t.Draft(draft).guesser(model)
    assert guess(PROMPT, 3) == first and passes == [PROMPT, first[:1], first[1:2]]
    passes.clear()
    assert guess(history, 2) == then and passes == [[99], then[:1]]
    assert len(guess([3] * 117, 9)) == 3 and guess([3] * 120, 9) == guess([3] * 150, 9) == []


def test_a_draft_with_another_vocabulary_is_refused(model, tmp_path):
    other = b2t.load(small_model(vocab_size=330).write(tmp_path / "other.gguf"))
    with pytest.raises(ValueError, match=r"same vocabulary.*330 tokens for.* 320"):
        model.generate(PROMPT, 5, speculate=b2t.Draft(other))


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("n", lambda value: b2t.PromptLookup(n=value)),
        ("tokens", lambda value: b2t.PromptLookup(tokens=value)),
        ("tokens", lambda value: b2t.Draft(None, tokens=value)),
    ],
)
@pytest.mark.parametrize("value", [0, -1, 1.5, "3", None])
def test_numbers_that_make_no_sense(name, make, value):
    with pytest.raises(ValueError, match=f"{name}: expected a whole number, 1"):
        make(value)


def test_more_guesses_than_a_pass_has_rows_for():
    with pytest.raises(ValueError, match=f"tokens: expected a whole number, 1 to {MOST_GUESSES}, got 16"):
        b2t.PromptLookup(tokens=16)


# The pace


def paced(rate, seconds, guess_seconds=0.0):
    pace = Pace()
    pace.rate, pace.seconds, pace.guess_seconds = rate, seconds, guess_seconds
    return pace


def test_the_number_of_guesses_is_the_best_of_all():
    cost = {rows: 1 + 0.3 * (rows - 1) for rows in range(1, 9)}
    for rate in (0.0, 0.1, 0.5, 0.8, 0.95, 1.0):
        gains = [expected_tokens(rate, k) / (cost[k + 1] + 0.05 * k) for k in range(8)]
        chosen = paced(rate, dict(cost), 0.05).guesses(7)
        assert chosen == int(np.argmax(gains)), rate
    assert paced(1.0, cost).guesses(3) == 3 and paced(1.0, cost).guesses(0) == 0


def test_where_guesses_do_not_pay_one_is_made_now_and_then():
    pace = paced(0.1, {1: 1.0, 2: 1.9})
    made = [pace.guesses(5) for _ in range(32 + 64 + 128)]
    assert [i for i, n in enumerate(made) if n] == [31, 95, 223] and max(made) == 1
    for _ in range(20):
        pace.judge(1, 1)
    pace.seconds[2] = 1.2
    assert pace.guesses(5) > 0


def test_times_between_those_measured():
    pace = paced(0.5, {1: 2.0, 5: 4.0})
    assert [pace.time_of(k) for k in (0, 2, 4, 6)] == [1.0, 1.5, 2.0, 2.5]
    assert Pace().time_of(0) == 1 and Pace().time_of(4) == 2


def test_a_pass_that_was_interrupted_hardly_counts():
    pace = Pace()
    for seconds in (1.0, 100.0, 1.0):
        pace.count(2, seconds)
    assert pace.seconds[2] < 1.2


def test_the_first_passes_are_made_without_guesses(endless):
    always = Always(lambda history: [1, 2, 3])
    ids = [5, 6, 7]
    assert [*endless.generate(ids, 20, speculate=always)] == [*endless.generate(ids, 20)]
    assert min(len(history) for history, _ in always.asked) == len(ids) + 1 + 4


def test_guesses_that_were_never_judged_count_neither_way():
    pace = Pace()
    pace.judge(0, 0)
    assert pace.rate == Pace.FIRST_RATE
    pace.judge(2, 5)
    once = Pace.FIRST_RATE
    for is_right in (1, 1, 0):
        once += Pace.FORGETS * (is_right - once)
    assert pace.rate == once


def test_making_guesses_is_timed(monkeypatch):
    pace = Pace()

    def guess(history, most):
        time.sleep(0.01)
        return [1, 2]

    assert speculate._timed_guesses(guess, [], 2, pace) == [1, 2]
    assert pace.guess_seconds >= 0.2 * 0.005
    assert speculate._timed_guesses(None, [], 0, pace) == []
