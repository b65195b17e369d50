"""Job: one answer on its way from the batcher to a caller.

    batcher's thread     sampler(logits) -> id                    Recorder: with its log-probability
    job's thread         ids -> text, in whole characters -> cut at the stops -> pieces
    event loop           pieces -> JSON -> the network            as fast as the caller reads

Each waits for the one above, and none for the one below: a slow caller holds nobody up.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from time import perf_counter
from typing import NamedTuple

import numpy as np

from blocks2tokens.stops import cut_at_stops

LEAST = -9999.0  # as OpenAI has it for tokens that are not likely at all


class Entry(NamedTuple):
    """A chosen token with its log-probability, and the likeliest ones, most likely first."""

    token: int
    logprob: float
    top: list[tuple[int, float]]


class Recorder:
    """A sampler that also keeps, in `entries`, how likely the model held what it chose.

    These are the model's own probabilities, before any temperature, penalty or grammar.
    """

    def __init__(self, sampler, alternatives: int):
        self._sampler, self._alternatives = sampler, alternatives
        self.entries: list[Entry] = []

    def __call__(self, logits: np.ndarray, history: Sequence[int] = ()) -> int:
        """Return the sampler's choice for logits, float32 [vocab]."""
        choice = self._sampler(logits, history)
        log_probabilities = log_softmax(logits)
        top = likeliest_of(log_probabilities, self._alternatives)
        likeliest = [(int(i), float(log_probabilities[i])) for i in top]
        self.entries.append(Entry(choice, float(log_probabilities[choice]), likeliest))
        return choice


def likeliest_of(log_probabilities: np.ndarray, n: int) -> np.ndarray:
    """Return the n most likely ids, of equals the smaller first, without sorting all: int64 [n]."""
    if n == 0:
        return np.empty(0, np.int64)
    n = min(n, len(log_probabilities))
    likely = np.flatnonzero(log_probabilities >= np.partition(log_probabilities, -n)[-n])
    return likely[np.argsort(-log_probabilities[likely], kind="stable")][:n]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return log-probabilities, float64 [vocab], in nats; JSON has no infinity, so LEAST is the least."""
    shifted = logits.astype(np.float64) - logits.max()
    return np.maximum(shifted - np.log(np.exp(shifted).sum()), LEAST)


class Piece(NamedTuple):
    """Some text of an answer, and the tokens that have come since the piece before, if they are recorded."""

    text: str
    entries: list[Entry]


class Job:
    """An answer being written; `pieces` yields it, in the event loop that made the job.

    ended           why it ended: "stop", a stop token or string; "length", as many tokens as there may be
    prompt_tokens   read
    tokens          written, those of a stop string too
    to_first        seconds to the first token; None before it
    seconds         to the last
    over            whether all of it has been written
    """

    def __init__(self, model, batcher, wanted, ids: list[int], sampler, max_tokens: int):
        """Submit the ids; raises what `batcher.submit` does."""
        self.prompt_tokens, self.tokens = len(ids), 0
        self.to_first: float | None = None
        self.begun, self.ended = perf_counter(), "stop"
        self.over, self.seconds = False, 0.0
        self._cut = False
        self._wanted, self._tokenizer = wanted, model.tokenizer
        self._recorder = None if wanted.alternatives is None else Recorder(sampler, wanted.alternatives)
        self._given = 0  # entries that have gone with a piece
        self._queue: asyncio.Queue = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._ids = batcher.submit(ids, max_tokens, self._recorder or sampler)
        threading.Thread(target=self._write, name="answer", daemon=True).start()

    @property
    def waits(self) -> bool:
        """Has it no slot yet?"""
        return self._ids.slot is None

    async def pieces(self) -> AsyncIterator[Piece]:
        """Yield the answer as it comes; raises what went wrong with it."""
        while (piece := await self._queue.get()) is not None:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    def cancel(self) -> None:
        """Give the slot back: nobody wants more of it."""
        self._ids.close()

    def cut(self) -> None:
        """End the answer where it is, as if it might have no more tokens."""
        self._cut = True
        self.cancel()

    def _write(self) -> None:
        """Run in a thread of its own: from tokens to pieces."""
        try:
            pieces = self._tokenizer.decode_stream(self._counted(), whole=self._wanted.chat)
            for text in cut_at_stops(pieces, self._wanted.stops):
                self._put(Piece(text, self._entries(self.tokens)))
            if self.ended == "length" and self._given < self.tokens:  # half a character, which has no text
                self._put(Piece("", self._entries(self.tokens)))
            self.over, self.seconds = True, perf_counter() - self.begun
            self._put(None)
        except Exception as error:  # whatever it is, the caller must not wait for ever
            self._put(error)
        finally:
            self.cancel()

    def _counted(self) -> Iterator[int]:
        for token in self._ids:
            self.tokens += 1
            self.to_first = self.to_first or perf_counter() - self.begun
            yield token
        if self._cut or self._ids.ended == "length":  # not reached where a stop string was found
            self.ended = "length"

    def _entries(self, upto: int) -> list[Entry]:
        found = self._recorder.entries[self._given : upto] if self._recorder else []
        self._given = upto
        return found

    def _put(self, piece: Piece | Exception | None) -> None:
        with suppress(RuntimeError):  # the loop is closed: the server has ended, and nobody reads this
            self._loop.call_soon_threadsafe(self._queue.put_nowait, piece)
