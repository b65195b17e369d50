"""Batcher: the next token of many texts in one pass, and a prompt a chunk at a time between two passes.

    waiting   e f        a slot and all pages of a request are free -> it gets them, first come, first served

    slot 0    a a a a a a a a a a a.e.e e e         a   a row of a pass: one token of text a
    slot 1    b b b b.c.c.c c c c c c c             .d  a chunk of d's prompt, before a pass: all wait for it
    slot 2    .d.d d d d d d d

Whoever ends leaves its slot at once, and whoever waits takes it (continuous batching): nobody waits for the
longest of a batch. A pass reads the weights once for all its rows; each row goes through the same operations
as if it were alone, so an answer is the same to the last bit, whoever else is there.

A request is given the pages of its prompt and of max_tokens before it begins, so it never has to wait for
pages later, and no two wait for each other. Prompts that begin alike share the pages of what they have in
common. Prompts are read in chunks of CHUNK tokens, the last with what is left over, whoever shares what: so
what is in a page depends on the ids alone.

Sources: Yu et al., "Orca: A Distributed Serving System for Transformer-Based Generative Models", 2022
(iteration-level scheduling); Kwon et al., "PagedAttention", 2023; Agrawal et al., "Sarathi", 2023 (chunks).
"""

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral

import numpy as np

from blocks2tokens.generate import Model
from blocks2tokens.jit import cores
from blocks2tokens.model.batch_memory import BatchMemory
from blocks2tokens.model.cache_rows import PAGE
from blocks2tokens.model.decode import POSITION, TABLE, TOKEN, Decoder
from blocks2tokens.model.kv_cache import KVCache, pool_of
from blocks2tokens.model.prefill import run_batch
from blocks2tokens.model.transformer import FEW, MOST_ROWS
from blocks2tokens.sampler import Sampler
from blocks2tokens.serving.answers import Answer, HeldBack, Request
from blocks2tokens.stops import checked_stops

CHUNK = PAGE  # tokens of a prompt between two passes; its last chunk has up to 2 CHUNK - 1
WAITING = 256  # requests without a slot


class QueueFull(RuntimeError):
    """Too many requests wait already: try again later."""


def last_chunk(n: int) -> int:
    """Return where the last chunk of a prompt of n tokens begins.

    >>> [last_chunk(n) for n in (1, 127, 128, 200)]
    [0, 0, 64, 128]
    """
    return max(0, n // CHUNK - 1) * CHUNK


def pages_of(n_tokens: int) -> int:
    """Return how many pages so many tokens fill."""
    return -(-n_tokens // PAGE)


class Scheduler:
    """Slots, pages and passes of one model. It does not know of threads: one at a time may call it."""

    def __init__(self, model: Model, slots: int, pages: int | None):
        """Share `slots` rows of a pass and `pages` pages; ValueError for numbers that make no sense."""
        check_number("slots", slots, MOST_ROWS)
        if pages is not None:
            check_number("pages", pages, None)
        t, c = model.transformer, model.config
        self.model, self.slots = model, [None] * slots
        self.waiting: deque[Request] = deque()
        self.reading: deque[Request] = deque()  # their prompts are not read to the end yet
        self.pool = pool_of(c.n_layers, c.n_kv_heads, c.head_dim, t.cache_type, pages)
        self.tables = np.zeros((slots, pages_of(c.context_length) + 1), np.int64)
        self.decoder = Decoder(t.weights, c, self._cache(1).rows(0), self.tables, slots)
        self.memory = BatchMemory(t.weights, c)  # of chunks

    @property
    def running(self) -> list[Request]:
        """Those with a slot, by slot."""
        return [request for request in self.slots if request is not None]

    @property
    def busy(self) -> bool:
        """Is there anything to do?"""
        return bool(self.waiting) or any(request is not None for request in self.slots)

    def turn(self) -> None:
        """Admit who fits, read one chunk of one prompt, and give each text that is read its next token."""
        self._drop_cancelled()
        self._admit()
        if self.reading:
            self._read_chunk(self.reading[0])
        self._pass()

    def end_all(self, how: str | BaseException) -> None:
        """End every request, running or waiting."""
        for request in [*self.running, *self.waiting]:
            self._end(request, how)

    # --- Who has a slot -----------------------------------------------------------------------------------

    def _drop_cancelled(self):
        for request in [*self.running, *self.waiting]:
            if request.cancelled:
                self._end(request, "closed")

    def _admit(self):
        """Give slots and pages to those who wait, in their order, as long as there are both."""
        while self.waiting and None in self.slots:
            request = self.waiting[0]
            n = request.prompt_tokens
            found = self.pool.n_found(request.history[: last_chunk(n)])
            needed = pages_of(n + request.max_tokens) - pages_of(found)
            if self.pool.limit is not None and self.pool.n_used + needed > self.pool.limit:
                return
            self.waiting.popleft()
            try:
                self._begin(request, self.slots.index(None))
            except MemoryError as error:
                self._end(request, error.with_traceback(None))  # which would hold the pages that it has

    def _begin(self, request, slot):
        """Give a request its slot and all its pages; if there is no memory for them, nothing has changed."""
        n, n_tokens = request.prompt_tokens, request.prompt_tokens + request.max_tokens
        cache = self._cache(n_tokens)
        request.cached_tokens = cache.begin_with(request.history[: last_chunk(n)])
        cache.prepare(n_tokens - cache.length)
        cache.batch_memory = self.memory
        self.tables[slot, : len(cache.table) - 1] = cache.table[:-1]
        request.cache, request.slot, self.slots[slot] = cache, slot, request
        if n > 1:  # a single token is a row of a pass, as it is alone
            self.reading.append(request)

    def _cache(self, capacity: int) -> KVCache:
        return self.model.transformer.new_cache(capacity, self.pool)

    def _end(self, request, how):
        """Take a request's slot and pages back and tell the asker."""
        if request in self.reading:
            self.reading.remove(request)
        if request.cache is None:
            if request in self.waiting:
                self.waiting.remove(request)
        else:
            self.slots[request.slot] = None
            request.cache.truncate(0)
            request.cache = None
        request.end(how)

    # --- What is computed ---------------------------------------------------------------------------------

    def _read_chunk(self, request):
        """Read the next chunk of a prompt; behind the last, choose the answer's first token."""
        t, cache, last = self.model.transformer, request.cache, last_chunk(request.prompt_tokens)
        start = cache.length
        end = request.prompt_tokens if start == last else start + CHUNK
        ids = np.array(request.history[start:end], np.int64)
        try:
            if request.prompt_tokens <= FEW:  # rows of passes, as it is alone
                logits = t.next_logits(ids, cache).copy()
                cache.decoder = None  # its memory: from now on this text is a row of the batcher's
            else:
                with cores.one_blas_thread(), cores.using(t.threads):
                    x = run_batch(t.weights, t.config, ids, cache, _nothing)
                if start < last:
                    cache.publish(request.history[:end])
                    return
                logits = t.project(x[-1:])[0]
        except Exception as error:
            self._end(request, error)
            return
        self.reading.popleft()
        self._choose(request, logits)

    def _pass(self):
        """Give each text whose prompt is read its next token: all of them are rows of one pass."""
        rows, requests = self.decoder.rows, [r for r in self.running if r not in self.reading]
        if not requests:
            return
        for i, request in enumerate(requests):
            rows[i, TOKEN], rows[i, POSITION] = request.history[-1], request.cache.length
            rows[i, TABLE], self.tables[request.slot, -1] = request.slot, request.cache.table[-1]
        with cores.using(self.model.transformer.threads):
            self.decoder.step(len(requests), with_logits=True)
        for i, request in enumerate(requests):
            request.cache.advance(1)
            self._choose(request, self.decoder.logits[i])

    def _choose(self, request, logits):
        """Let a request's sampler choose; an error is its own alone."""
        try:
            choice = _checked_choice(request.sampler(logits, request.history), len(logits))
            if choice in self.model.tokenizer.stop_tokens:
                self._end(request, "stop")
                return
            request.chosen(choice)
        except BaseException as error:
            self._end(request, error)
            return
        if request.ended is not None:
            self._end(request, request.ended)


class Batcher:
    """Many texts at once from one model: `submit` from any thread, each answer is an iterator of its own.

        with b2t.Batcher(model) as batcher:
            answers = [batcher.submit(ids, max_tokens=50) for ids in prompts]
            texts = [model.tokenizer.decode(answer) for answer in answers]

    A thread of its own drives the passes. It ends with `close`, with the `with` block, or when nobody holds
    the batcher or an answer of it any more.
    """

    def __init__(self, model: Model, slots: int = 8, pages: int | None = None, waiting: int = WAITING):
        """Run up to `slots` texts at a time, in at most `pages` pages of 64 tokens; None: as memory has.

        A request beyond `slots` waits, up to `waiting` of them. Raises ValueError for numbers that make no
        sense: at most 16 slots, as many as a pass has rows.
        """
        check_number("waiting", waiting, None)
        self._driver = driver = _Driver(Scheduler(model, slots, pages), waiting)
        self.slots = slots
        self._finish = weakref.finalize(self, driver.close, False)  # at the interpreter's end, too
        driver.start()

    def submit(
        self,
        ids: Sequence[int],
        max_tokens: int,
        sampler: Callable[[np.ndarray, Sequence[int]], int] | None = None,
        stop: str | Iterable[str] = (),
    ) -> Answer:
        """Ask for up to `max_tokens` ids that continue `ids`; return the iterator that gives them.

        Greedy unless a sampler is given, which this answer alone may use: the batcher's thread calls it with
        the logits, float32 [vocab], of this text, and all ids so far. The answer ends at a stop token, or
        before a string of `stop` begins: ids in which one may have begun wait for what follows.

        They are the ids that a batcher gives this request alone, to the last bit; and those of
        `model.generate`, but that a prompt of more than 127 tokens is read in chunks, whose products may be
        rounded otherwise. An answer that is closed, or forgotten, gives its place to others.

        Raises, at the call, ValueError as `model.generate` does, for stops that are none, and for more
        tokens than there are pages for; `QueueFull` if too many wait; RuntimeError if it is closed.
        """
        scheduler = self._driver.scheduler
        model, limit = scheduler.model, scheduler.pool.limit
        history = model.checked_request(ids, max_tokens)
        if limit is not None and pages_of(len(history) + max_tokens) > limit:
            raise ValueError(
                f"{len(history) + max_tokens} tokens (prompt and continuation) do not fit into the batcher's "
                f"{limit} pages of {PAGE}"
            )
        stops = checked_stops(stop)
        held = HeldBack(model.tokenizer, stops) if stops else None
        request = Request(history, max_tokens, sampler or Sampler(), held)
        if max_tokens:
            self._driver.add(request)
        else:
            request.end("length")
        return Answer(request, self)

    def close(self, finish: bool = True) -> None:
        """Take no more requests; let those that are there finish, or end them: they raise RuntimeError."""
        self._driver.close(finish)
        self._finish.detach()

    def __enter__(self) -> "Batcher":
        return self

    def __exit__(self, kind, *_) -> None:
        self.close(finish=kind is None)


class _Driver(threading.Thread):
    """Turns a scheduler as long as there is something to do, and sleeps when there is not."""

    def __init__(self, scheduler: Scheduler, most_waiting: int):
        super().__init__(name="batcher", daemon=True)
        self.scheduler, self.most_waiting = scheduler, most_waiting
        self.arrived: deque[Request] = deque()
        self.changed = threading.Condition()  # guards what follows, and `arrived`
        self.closed, self.finishes = False, True

    def add(self, request: Request) -> None:
        with self.changed:
            if self.closed:
                raise RuntimeError("the batcher is closed")
            there = len(self.arrived) + len(self.scheduler.waiting) + len(self.scheduler.running)
            if there >= self.most_waiting + len(self.scheduler.slots):
                raise QueueFull(f"{self.most_waiting} requests wait already")
            self.arrived.append(request)
            self.changed.notify()

    def close(self, finish: bool) -> None:
        with self.changed:
            self.closed = True
            self.finishes = self.finishes and finish
            self.changed.notify()
        if self.is_alive() and threading.current_thread() is not self:
            self.join()

    def run(self) -> None:
        error = RuntimeError("the batcher was closed before the answer's end")
        try:
            while self._next():
                self.scheduler.turn()
        except BaseException as wrong:  # nobody may wait for ever, whatever it was
            error = wrong
        with self.changed:
            self.closed = True
            self.scheduler.waiting.extend(self.arrived)
        self.scheduler.end_all(error)

    def _next(self) -> bool:
        """Wait until there is something to do; return whether there is."""
        with self.changed:
            while not (self.closed or self.arrived or self.scheduler.busy):
                self.changed.wait()
            self.scheduler.waiting.extend(self.arrived)
            self.arrived.clear()
            return self.scheduler.busy and (self.finishes or not self.closed)


def check_number(name: str, value: int, most: int | None) -> None:
    """Raise ValueError unless it is a whole number, 1 to `most`; None: any."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1 or (most and value > most):
        limits = "1 or more" if most is None else f"1 to {most}"
        raise ValueError(f"{name}: expected a whole number, {limits}, got {value!r}")


def _checked_choice(choice, n: int) -> int:
    if not isinstance(choice, Integral) or not 0 <= choice < n:
        raise ValueError(f"sampler: expected a whole number, 0 <= id < {n}, got {choice!r}")
    return int(choice)


def _nothing() -> None:
    """Do nothing between layers: interrupts go to the main thread."""
