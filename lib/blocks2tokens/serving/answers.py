"""Answers: from the thread that computes to whoever asked.

    batcher's thread                                     the asker's thread
    Request  history, sampler, cache, slot
             chosen(id) -> held back by a stop? -> queue -> next(answer)
             end(...)   -----------------------> queue -> StopIteration, or the error
             cancelled? <---------------------------------- answer.close()

The queue has room for all `max_tokens`, so that nobody waits for a slow reader. An answer that is closed, or
that nobody holds any more, gives its slot back before the next pass.
"""

from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue

import numpy as np

from blocks2tokens.model.kv_cache import KVCache
from blocks2tokens.stops import first_found, shown_of
from blocks2tokens.tokenizer import Tokenizer

END = object()  # behind the last id of an answer


class Request:
    """One text: what was asked for, how far it is, and who waits for it."""

    def __init__(
        self,
        history: list[int],
        max_tokens: int,
        sampler: Callable[[np.ndarray, Sequence[int]], int],
        held: "HeldBack | None" = None,
    ):
        self.history, self.max_tokens, self.sampler = history, max_tokens, sampler
        self.prompt_tokens, self.cached_tokens, self.answer_tokens = len(history), 0, 0
        self.out: SimpleQueue = SimpleQueue()
        self.cancelled = False  # by whoever asked
        self.ended: str | None = None
        self.cache: KVCache | None = None  # with its pages, from when it has a slot until it ends
        self.slot: int | None = None
        self._held = held

    def chosen(self, choice: int) -> None:
        """Take the next id of the answer; `ended` is "stop" or "length" if it is the last."""
        self.history.append(choice)
        self.answer_tokens += 1
        if self._held is None:
            self.out.put(choice)
        else:
            for i in self._held.add(choice):
                self.out.put(i)
            if self._held.stopped:
                self.ended = "stop"
        if self.answer_tokens == self.max_tokens and self.ended is None:
            self.ended = "length"

    def end(self, how: str | BaseException) -> None:
        """Let the asker know that nothing more comes, and why."""
        if isinstance(how, BaseException):
            self.ended = "error"
            self.out.put(how)
            return
        self.ended = how
        for i in self._held.rest() if self._held else ():
            self.out.put(i)
        self.out.put(END)


class Answer:
    """An iterator over the ids of one answer, each as soon as it is chosen; `close` ends it early.

    Raises, in the place of the next id, what the request's sampler raised, and RuntimeError if the batcher
    was closed before the end.
    """

    def __init__(self, request: Request, batcher: object):
        self._request, self._over = request, False
        self._batcher = batcher  # which goes on as long as somebody waits for it

    prompt_tokens = property(lambda self: self._request.prompt_tokens)
    cached_tokens = property(lambda self: self._request.cached_tokens, doc="Of the prompt, those not read.")
    answer_tokens = property(lambda self: self._request.answer_tokens, doc="Chosen so far, ids or not.")
    slot = property(lambda self: self._request.slot, doc="Its row in every pass; None while it waits.")
    ended = property(
        lambda self: self._request.ended,
        doc='None while it goes on; then "stop", "length", "closed" or "error".',
    )

    def __iter__(self) -> "Answer":
        return self

    def __next__(self) -> int:
        if self._over:
            raise StopIteration
        found = self._request.out.get()
        if found is END:
            self._over = True
            raise StopIteration
        if isinstance(found, BaseException):
            self._over = True
            raise found
        return found

    def close(self) -> None:
        """Take no more of it: its slot and pages are free before the next pass. From any thread."""
        self._over = self._request.cancelled = True
        self._request.out.put(END)  # somebody may be waiting in another thread

    def __del__(self):
        self._request.cancelled = True


class HeldBack:
    """The ids of an answer that ends before a stop begins: those in whose text one may have begun wait.

    stop "###"     ids    "Fine"  ". #"  "#"  "#"
                   given  "Fine"  -      -    the end

    An id goes whole or not at all: ". " goes with the "#" that follows it. Whoever wants the text to the last
    character asks without stops, cuts it with `stops.cut_at_stops`, and closes the answer.
    """

    def __init__(self, tokenizer: Tokenizer, stops: tuple[str, ...]):
        self.stops, self.stopped = stops, False
        self._text, self._ids, self._ends = "", deque(), deque()  # in the text, the end of each id that waits
        self._next: deque[int] = deque()
        self._pieces = tokenizer.decode_stream(iter(self._next.popleft, None))

    def add(self, choice: int) -> list[int]:
        """Take the next id; return those that can be given now."""
        self._next.append(choice)
        self._ids.append(choice)
        piece = next(self._pieces)
        if not piece:  # the beginning of a character: it waits for the last byte
            return []
        self._text += piece
        n, self.stopped = shown_of(self._text, self.stops)
        return self._given(n)

    def rest(self) -> list[int]:
        """Return, at the end of the answer, the ids that still wait, up to a stop that is there."""
        return [] if self.stopped else self._given(first_found(self._text, self.stops))

    def _given(self, n: int) -> list[int]:
        self._ends.extend([len(self._text)] * (len(self._ids) - len(self._ends)))
        found = []
        while self._ends and self._ends[0] <= n:
            found.append(self._ids.popleft())
            self._ends.popleft()
        return found
