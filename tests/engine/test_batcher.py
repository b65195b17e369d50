"""Many texts at once: each answer is complete, and the one that its request gets alone."""

import gc
import threading
import time
from itertools import islice

import numpy as np
import pytest
from small_model import small_model

import blocks2tokens as b2t
from blocks2tokens.course import bench
from blocks2tokens.model import decode
from blocks2tokens.model.cache_rows import PAGE
from blocks2tokens.model.kv_cache import KVCache
from blocks2tokens.serving import QueueFull, scheduler
from blocks2tokens.serving.answers import Request
from blocks2tokens.serving.scheduler import CHUNK, Scheduler, last_chunk

PATIENCE = 60  # seconds that nothing here takes


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("batcher")
    return small_model(default_format="Q8_0", context_length=640).write(folder / "model.gguf")


@pytest.fixture(scope="module")
def loaded(path):
    return b2t.load(path)


@pytest.fixture
def model(loaded, monkeypatch):
    """The model without stop tokens."""
    monkeypatch.setattr(loaded.tokenizer, "stop_tokens", frozenset())
    return loaded


def prompt(n, seed=0):
    return np.random.default_rng(seed).integers(3, 320, n).tolist()


def alone(model, *request, **settings):
    with b2t.Batcher(model, slots=1) as batcher:
        return list(batcher.submit(*request, **settings))


def drawn(seed):
    return b2t.Sampler(temperature=0.9, top_k=20, seed=seed)


def in_threads(works, seconds=PATIENCE):
    """Run functions in threads; return what they return, in order, or raise what one raises."""
    found, errors = [None] * len(works), []

    def run(i, work):
        try:
            found[i] = work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=item, daemon=True) for item in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
        assert not thread.is_alive(), "somebody waits for ever"
    if errors:
        raise errors[0]
    return found


def until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


# --- Answers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [1, 3, 16])
def test_answers_are_those_of_generate(model, slots):
    requests = [(prompt(n, n), 5 + n % 11) for n in (1, 2, 9, 40, 63, 64, 65, 127, 3, 17, 30, 1)]
    expected = [list(model.generate(*request)) for request in requests]
    expected += [list(model.generate(*request, drawn(i))) for i, request in enumerate(requests)]
    with b2t.Batcher(model, slots) as batcher:
        answers = [batcher.submit(*request) for request in requests]
        answers += [batcher.submit(*request, drawn(i)) for i, request in enumerate(requests)]
        assert [list(answer) for answer in answers] == expected
        assert {answer.ended for answer in answers} == {"length"}


@pytest.mark.parametrize("cache", ["float16", "q8_0", "q4_0"])
def test_any_type_of_cache(tmp_path, cache):
    small = small_model(default_format="Q8_0", dim=128, context_length=160)  # heads of 32 are whole blocks
    model = b2t.load(small.write(tmp_path / "model.gguf"), cache=cache)
    requests = [(prompt(n, n), 12) for n in (5, 70, 33)]
    expected = [list(model.generate(*request)) for request in requests]
    with b2t.Batcher(model) as batcher:
        answers = [batcher.submit(*request) for request in requests]
        assert [list(answer) for answer in answers] == expected


def test_long_prompts_give_what_they_give_alone(model):
    requests = [(prompt(n, n), 9) for n in (128, 200, 256, 300, 511)]
    expected = [alone(model, *request) for request in requests]
    with b2t.Batcher(model, slots=4) as batcher:
        answers = [batcher.submit(*request) for request in [*requests, *requests[::-1]]]
        assert [list(answer) for answer in answers] == expected + expected[::-1]


def test_a_long_prompt_in_chunks_is_read_rightly(model):
    ids, seen = prompt(300), []
    alone(model, ids, 1, lambda logits, history: seen.append(logits.copy()) or 5)
    assert np.allclose(seen[0], model.logits(ids)[-1], atol=1e-2 * np.abs(model.logits(ids)[-1]).max())


def test_prompts_share_pages_and_answers_stay_the_same(model):
    common, runs = prompt(260), []
    requests = [(common + prompt(n, n), 8) for n in (1, 40, 130)] + [(common[:100] + [7] * 90, 8)]
    expected = [alone(model, *request) for request in requests]
    turns = Scheduler(model, 4, None)
    answers = [Request(list(ids), n, b2t.Sampler()) for ids, n in requests]
    turns.waiting.append(answers[0])
    while turns.reading or turns.waiting:
        turns.turn()
    turns.waiting.extend(answers[1:])
    while turns.busy:
        turns.turn()
        runs.append(turns.pool.n_used)
    assert [request.history[request.prompt_tokens :] for request in answers] == expected
    assert [request.cached_tokens for request in answers] == [0, 192, 192, 64]
    assert max(runs) < sum(-(-(len(ids) + n) // PAGE) for ids, n in requests) and runs[-1] == 0


def test_a_stop_token_ends_an_answer_unseen(loaded, monkeypatch):
    monkeypatch.setattr(loaded.tokenizer, "stop_tokens", frozenset())
    whole = list(loaded.generate(prompt(9), 30))
    monkeypatch.setattr(loaded.tokenizer, "stop_tokens", frozenset([whole[12]]))
    with b2t.Batcher(loaded) as batcher:
        answer = batcher.submit(prompt(9), 30)
        assert list(answer) == whole[: whole.index(whole[12])] and answer.ended == "stop"
        assert list(answer) == [] and answer.answer_tokens == whole.index(whole[12])


def test_an_answer_ends_before_a_stop_begins(model):
    ids, rng = prompt(9), np.random.default_rng(1)
    whole = list(model.generate(ids, 40, drawn(4)))
    pieces = list(islice(model.tokenizer.decode_stream(whole), 40))  # of each id; "": within a character
    text, ends = "".join(pieces), np.cumsum([len(piece) for piece in pieces])
    places = zip(rng.integers(0, len(text) - 4, 30), rng.integers(1, 5, 30), strict=True)
    stops = [(text[start : start + length],) for start, length in places]
    with b2t.Batcher(model) as batcher:
        for stop in [*stops, ("not there",), ("nor there", *stops[0])]:
            answer = batcher.submit(ids, 40, drawn(4), stop)
            at = min((text.find(s) for s in stop if s in text), default=None)
            whole_ids = [n + 1 for n in range(40) if pieces[n] and (at is None or ends[n] <= at)]
            assert list(answer) == (whole if at is None else whole[: max(whole_ids, default=0)]), stop
            assert answer.ended == ("length" if at is None else "stop")


def test_a_sampler_sees_its_own_text(model):
    seen = {}

    def sampler(key):
        def choose(logits, history):
            seen.setdefault(key, []).append(list(history))
            assert logits.dtype == np.float32 and logits.shape == (320,)
            return key

        return choose

    with b2t.Batcher(model) as batcher:
        answers = [batcher.submit([key, 9], 3, sampler(key)) for key in (5, 6, 7)]
        assert [list(answer) for answer in answers] == [[5] * 3, [6] * 3, [7] * 3]
    assert seen == {key: [[key, 9] + [key] * n for n in range(3)] for key in (5, 6, 7)}


def test_an_answer_comes_token_by_token(model):
    going = threading.Event()

    def sampler(logits, history):
        assert len(history) < 4 or going.wait(PATIENCE)
        return 5

    with b2t.Batcher(model) as batcher:
        answer = batcher.submit([8, 9], 5, sampler)
        assert [next(answer), next(answer)] == [5, 5] and answer.ended is None
        going.set()
        assert list(answer) == [5, 5, 5]


# --- Slots, pages and chunks ------------------------------------------------------------------------------


def test_who_waits_takes_the_slot_of_who_ends(model):
    turns, rows = Scheduler(model, 2, None), []
    requests = [Request([5], n, b2t.Sampler()) for n in (2, 6, 3, 2)]
    turns.waiting.extend(requests)
    while turns.busy:
        rows.append([requests.index(request) for request in turns.running])
        turns.turn()
    assert [request.slot for request in requests] == [0, 1, 0, 0]
    assert rows == [[], [0, 1], [1], [2, 1], [2, 1], [1], [3]]


def test_a_long_prompt_delays_a_pass_by_one_chunk(model, monkeypatch):
    events, usual = [], scheduler.run_batch
    turns = Scheduler(model, 4, None)
    step = turns.decoder.step
    monkeypatch.setattr(
        scheduler, "run_batch", lambda w, c, ids, *more: events.append(len(ids)) or usual(w, c, ids, *more)
    )
    monkeypatch.setattr(
        turns.decoder, "step", lambda n, with_logits: events.append("pass") or step(n, with_logits)
    )
    turns.waiting.append(Request([5, 6], 60, b2t.Sampler()))
    turns.turn()
    turns.waiting.extend(Request(prompt(500, i), 4, b2t.Sampler()) for i in (1, 2))
    while turns.busy:
        turns.turn()
    chunks = [i for i, event in enumerate(events) if event != "pass"]
    assert sum(events[i] for i in chunks) == 500 + 500
    assert all(events[i + 1] == "pass" for i in chunks)
    assert max(events[i] for i in chunks) < 2 * CHUNK


def test_the_last_chunk_has_what_is_left():
    for n in range(1, 700):
        assert last_chunk(n) % CHUNK == 0
        assert (0 if n < CHUNK else CHUNK) <= n - last_chunk(n) < 2 * CHUNK


def test_requests_wait_for_pages_and_nobody_for_ever(model):
    turns = Scheduler(model, 8, 5)
    requests = [Request(prompt(n, n), 60, b2t.Sampler()) for n in (200, 5, 70, 100, 260, 3)]
    turns.waiting.extend(requests)
    begun = []
    while turns.busy:
        turns.turn()
        assert turns.pool.n_used <= 5
        begun += [r for r in requests if r.slot is not None and r not in begun]
    assert begun == requests and {r.ended for r in requests} == {"length"} and turns.pool.n_used == 0
    expected = [alone(model, r.history[: r.prompt_tokens], 60) for r in requests]
    assert [r.history[r.prompt_tokens :] for r in requests] == expected


def test_a_pass_makes_no_array(model):
    turns = Scheduler(model, 4, None)
    turns.waiting.extend(Request([5, 6, i], 30, b2t.Sampler()) for i in range(7, 11))
    for _ in range(6):
        turns.turn()
    found = bench.allocations(turns.turn)
    assert found.nbytes <= 4 * 16  # each sampler's maximum and its place
    assert found.count <= 3 * 4


# --- Who goes, and who fails ------------------------------------------------------------------------------


def test_64_clients_slow_gone_cancelled_and_failing(model):
    requests = [(prompt(1 + 13 * i % 150, i), 3 + i % 17, 50 + i) for i in range(64)]
    with b2t.Batcher(model, slots=1) as one:
        expected = [list(one.submit(ids, n, drawn(seed))) for ids, n, seed in requests]
    batcher = b2t.Batcher(model, slots=7, pages=40)

    def client(i):
        ids, n, seed = requests[i]
        kind = ("fast", "slow", "gone", "closed", "failing")[i % 5]
        answer = batcher.submit(ids, n, failing(drawn(seed), 2) if kind == "failing" else drawn(seed))
        if kind == "fast":
            return list(answer) == expected[i]
        if kind == "slow":
            return [time.sleep(0.01) or choice for choice in answer] == expected[i]
        if kind == "failing":
            with pytest.raises(ZeroDivisionError):
                list(answer)
            return True
        right = next(answer) == expected[i][0]
        if kind == "closed":
            answer.close()
            right &= list(answer) == []
        return right  # and `gone` is forgotten

    with batcher:
        assert all(in_threads([lambda i=i: client(i) for i in range(64)]))
        turns = batcher._driver.scheduler
        until(lambda: not turns.busy)
        assert turns.pool.n_used == 0 and not turns.reading


def failing(sampler, n):
    calls = []

    def choose(logits, history):
        calls.append(1)
        return 1 // 0 if len(calls) > n else sampler(logits, history)

    return choose


@pytest.mark.parametrize("choice", [320, -1, None, 1.5, "a"])
def test_a_sampler_that_chooses_nothing_is_told_so_alone(model, choice):
    with b2t.Batcher(model) as batcher:
        good, bad = batcher.submit([5, 6], 20), batcher.submit([5, 6], 20, lambda logits, history: choice)
        with pytest.raises(ValueError, match="sampler: expected"):
            list(bad)
        assert list(bad) == [] and bad.ended == "error"
        assert list(good) == list(model.generate([5, 6], 20))


def test_an_answer_may_be_closed_by_another_thread_than_waits(model):
    going = threading.Event()
    with b2t.Batcher(model) as batcher:
        answer = batcher.submit([5, 6], 20, lambda logits, history: going.wait(PATIENCE) and 5)
        timer = threading.Timer(0.1, answer.close)
        timer.start()
        assert list(answer) == []
        going.set()


def test_what_is_closed_while_it_waits_never_begins(model):
    with b2t.Batcher(model, slots=1) as batcher:
        first = batcher.submit([5, 6], 100)
        second, third = batcher.submit([5, 7], 5), batcher.submit([5, 8], 5)
        second.close()
        assert list(third) == list(model.generate([5, 8], 5)) and len(list(first)) == 100
        assert second.slot is None and second.ended == "closed"


BAD = {
    "no ids": (([], 5), "ids: expected"),
    "an id that is none": (([5, 320], 5), "at position 1"),
    "no number": (([5], 1.5), "max_tokens: expected"),
    "below 0": (([5], -1), "max_tokens: expected"),
    "beyond the context": (([5] * 600, 41), "context of 640"),
    "beyond the pages": (([5] * 200, 57), "do not fit into the batcher's 4 pages of 64"),
    "an empty stop": (([5], 5, None, ""), "stop: expected"),
    "no stops": (([5], 5, None, 3), "stop: expected"),
}


def test_bad_requests_are_refused_at_the_call_and_disturb_nobody(model):
    with b2t.Batcher(model, pages=4) as batcher:
        good = batcher.submit([5] * 200, 56)
        for arguments, message in BAD.values():
            with pytest.raises(ValueError, match=message):
                batcher.submit(*arguments)
        assert list(good) == alone(model, [5] * 200, 56)


@pytest.mark.parametrize(
    "settings", [{"slots": n} for n in (0, 17, -1, 1.5, True, None, "4")] + [{"pages": 0}]
)
def test_bad_settings(model, settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"{name}: expected a whole number"):
        b2t.Batcher(model, **settings)


def test_nothing_asked_for_is_nothing_given(model):
    with b2t.Batcher(model) as batcher:
        answer = batcher.submit([5], 0)
        assert list(answer) == [] and answer.ended == "length"


def test_a_full_queue_says_so(model):
    going = threading.Event()
    with b2t.Batcher(model, slots=1, waiting=2) as batcher:
        first = batcher.submit([5, 6], 2, lambda logits, history: going.wait(PATIENCE) and 5)
        until(lambda: first.slot is not None)
        others = [batcher.submit([5, 7], 2) for _ in range(2)]
        with pytest.raises(QueueFull, match="2 requests wait"):
            batcher.submit([5, 8], 2)
        going.set()
        assert [len(list(answer)) for answer in (first, *others)] == [2, 2, 2]


# --- Its thread -------------------------------------------------------------------------------------------


def test_close_lets_all_finish(model):
    batcher = b2t.Batcher(model, slots=2)
    answers = [batcher.submit([5, i], 12) for i in range(6, 11)]
    batcher.close()
    batcher.close()
    assert [answer.ended for answer in answers] == ["length"] * 5
    assert [list(answer) for answer in answers] == [list(model.generate([5, i], 12)) for i in range(6, 11)]
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit([5], 1)


def test_an_error_in_the_with_block_ends_all(model):
    answers = []
    with pytest.raises(KeyError), b2t.Batcher(model, slots=1) as batcher:
        answers += [batcher.submit([5, i], 600) for i in (6, 7)]
        next(answers[0])
        raise KeyError
    for answer in answers:
        with pytest.raises(RuntimeError, match="closed before the answer's end"):
            list(answer)


def test_who_finds_no_memory_fails_alone(model, monkeypatch):
    turns, usual = Scheduler(model, 4, None), KVCache.prepare

    def prepare(self, n_tokens):
        if self.capacity == 77:
            usual(self, 64)
            raise MemoryError
        usual(self, n_tokens)

    monkeypatch.setattr(KVCache, "prepare", prepare)
    requests = [Request([5, 6], n, b2t.Sampler()) for n in (9, 75, 9)]
    turns.waiting.extend(requests)
    while turns.busy:
        turns.turn()
    assert [request.ended for request in requests] == ["length", "error", "length"]
    assert turns.pool.n_used == 0


def test_a_batcher_that_is_forgotten_ends_its_thread_but_not_before_its_answers(model):
    answer = b2t.Batcher(model).submit([5, 6], 30)
    thread = answer._batcher._driver
    gc.collect()
    assert len(list(answer)) == 30
    del answer
    gc.collect()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_when_the_thread_fails_nobody_waits(model, monkeypatch):
    batcher = b2t.Batcher(model)
    driver = batcher._driver
    monkeypatch.setattr(driver.scheduler.decoder, "step", lambda *_, **__: 1 // 0)
    with driver.changed:  # so that it begins when both are there
        answers = [batcher.submit([5, i], 3) for i in (6, 7)]
    for answer in answers:
        with pytest.raises(ZeroDivisionError):
            list(answer)
    driver.join(PATIENCE)
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit([5], 1)


def test_others_use_the_model_at_the_same_time(model):
    expected = list(model.generate(prompt(30), 40)), alone(model, prompt(150), 40)
    with b2t.Batcher(model) as batcher:
        found = in_threads(
            [
                lambda: list(model.generate(prompt(30), 40)),
                lambda: list(batcher.submit(prompt(150), 40)),
                lambda: list(model.generate(prompt(30), 40)),
                lambda: list(batcher.submit(prompt(30), 40)),
            ]
        )
    assert found == [expected[0], expected[1], expected[0], expected[0]]


def test_it_has_as_many_rows_as_a_pass_may_have(model):
    with b2t.Batcher(model, slots=16) as batcher:
        assert batcher._driver.scheduler.decoder.rows.shape == (16, decode.PLACES)
