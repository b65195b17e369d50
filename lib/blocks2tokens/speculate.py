"""Speculation: tokens are guessed, and one pass over the model's weights judges all guesses.

    text so far   ... she was a   --guesser--> great  reader  and
    one pass          a great reader and      4 rows, each weight read once
    logits            | |     |      |
    chosen            great   deal --> the pass's other rows are dropped: deal is the next token
                      = guess  != guess

What is chosen is what would have been chosen without guesses: the sampler sees the same logits in the same
order, so the text is the same, and with the same seed also one that is drawn. A guess that is certain of
itself needs no other rule: to draw from p and compare accepts it with probability p(guess), and leaves p as
it is [Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", 2023, with q a single
token]. How many tokens are guessed is decided anew for each pass: `Pace`.

Sources: Leviathan et al., as above; Saxena, "Prompt Lookup Decoding", 2023.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from numbers import Integral
from time import perf_counter
from typing import Protocol

import numpy as np

from blocks2tokens.model import ModelConfig, Transformer
from blocks2tokens.model.transformer import MOST_ROWS
from blocks2tokens.sampler import Sampler
from blocks2tokens.tokenizer import Tokenizer

MOST_GUESSES = MOST_ROWS - 1  # and the token before them


class Model(Protocol):
    """What speculation needs of a model."""

    config: ModelConfig
    transformer: Transformer
    tokenizer: Tokenizer


class Guesser(Protocol):
    """Guesses for one text."""

    def __call__(self, history: list[int], most: int) -> list[int]:
        """Return at most so many ids that may follow `history`."""


class Speculation(Protocol):
    """A way to guess: what `Model.generate` takes as `speculate`."""

    tokens: int

    def guesser(self, model: Model) -> Guesser:
        """Begin to guess for a text of this model; ValueError if that cannot be."""


# --- Ways to guess ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PromptLookup:
    """What followed the last `n` tokens when they came before is guessed to follow again, `tokens` of it."""

    n: int = 3
    tokens: int = 10

    def __post_init__(self):
        _check("n", self.n, 1, None)
        _check("tokens", self.tokens, 1, MOST_GUESSES)

    def guesser(self, model: Model) -> Guesser:
        return _Lookup(self.n)


@dataclass
class _Lookup:
    n: int
    behind: dict[tuple[int, ...], int] = field(default_factory=dict)  # n tokens: the place behind them
    known: int = 0  # tokens of the text that are in it

    def __call__(self, history: list[int], most: int) -> list[int]:
        for end in range(max(self.known, self.n), len(history)):  # the last n have nothing behind them yet
            self.behind[tuple(history[end - self.n : end])] = end
        self.known = max(self.known, len(history))
        start = self.behind.get(tuple(history[-self.n :]))
        return [] if start is None else history[start : start + most]


@dataclass(frozen=True)
class Draft:
    """A smaller model with the same vocabulary guesses, greedily, at most `tokens` tokens."""

    model: Model
    tokens: int = 4

    def __post_init__(self):
        _check("tokens", self.tokens, 1, MOST_GUESSES)

    def guesser(self, model: Model) -> Guesser:
        if self.model.tokenizer.tokens != model.tokenizer.tokens:
            raise ValueError(
                f"draft: expected a model with the same vocabulary, got {self.model.config.name} with "
                f"{len(self.model.tokenizer):,} tokens for {model.config.name} with {len(model.tokenizer):,}"
            )
        return _Drafter(self.model)


class _Drafter:
    def __init__(self, model: Model):
        self.model, self.read = model, []  # the ids in its cache
        self.cache = model.transformer.new_cache(model.config.context_length)
        model.transformer.expect_rows(MOST_ROWS, self.cache)

    def __call__(self, history: list[int], most: int) -> list[int]:
        most = min(most, self.cache.capacity - len(history))
        if most <= 0:
            return []
        same = min(len(self.read), len(history) - 1)  # the last is read for its logits
        while self.read[:same] != history[:same]:
            same -= 1
        self.cache.truncate(same)
        guesses, unread = [], history[same:]
        while len(guesses) < most:
            guesses.append(int(np.argmax(self.model.transformer.next_logits(unread, self.cache))))
            unread = guesses[-1:]
        self.read = [*history, *guesses[:-1]]
        return guesses


def _check(name, value, least, most):
    if not isinstance(value, Integral) or value < least or (most is not None and value > most):
        limits = f"{least} or more" if most is None else f"{least} to {most}"
        raise ValueError(f"{name}: expected a whole number, {limits}, got {value!r}")


# --- How many tokens to guess -----------------------------------------------------------------------------


def expected_tokens(accepted: float, k: int) -> float:
    """Return how many tokens a pass with k guesses gives, if each is accepted with this probability.

    1 + a + a^2 + ... + a^k: the first wrong guess ends them, and the pass gives one token in any case.

    >>> expected_tokens(0.5, 3), expected_tokens(1.0, 3)
    (1.875, 4.0)
    """
    return sum(accepted**i for i in range(k + 1))


class Pace:
    """Chooses how many tokens to guess, from what passes and guesses took, and how often guesses were right.

    A pass of k guesses gives expected_tokens(a, k) tokens for the time of k + 1 rows and k guesses. The rate
    a is that of the last guesses, the older the less they count; where it is too low for any guess to pay,
    one is made now and then, and less often each time that it was for nothing: a text changes. The first
    passes are better made without (`settled`): all others are measured against them, and the very first
    finds cold caches.
    """

    FORGETS, FIRST_RATE, MORE_ROWS, NOW_AND_THEN = 0.15, 0.7, 0.25, 32
    FIRST_WITHOUT = 4

    def __init__(self):
        self.rate = self.FIRST_RATE
        self.seconds: dict[int, float] = {}  # of a pass, by its rows
        self.guess_seconds = 0.0
        self.passes_without, self.patience = 0, self.NOW_AND_THEN
        self.passes_counted = 0

    @property
    def settled(self) -> bool:
        """Have there been passes enough to measure others against?"""
        return self.passes_counted >= self.FIRST_WITHOUT

    def guesses(self, most: int) -> int:
        """Return how many of at most so many tokens to guess for the next pass."""
        paces = [expected_tokens(self.rate, k) / self.time_of(k) for k in range(most + 1)]
        best = paces.index(max(paces))
        if best or not most:
            self.passes_without, self.patience = 0, self.NOW_AND_THEN
            return best
        self.passes_without += 1
        if self.passes_without < self.patience:
            return 0
        self.passes_without, self.patience = 0, 2 * self.patience
        return 1

    def time_of(self, k: int) -> float:
        """Return the time that a pass with k guesses takes, in those of one without."""
        if 1 not in self.seconds:
            return 1 + self.MORE_ROWS * k
        rows, one, last = k + 1, self.seconds[1], max(self.seconds)
        if rows in self.seconds:
            found = self.seconds[rows]
        elif rows > last:
            slope = self.MORE_ROWS * one if last == 1 else (self.seconds[last] - one) / (last - 1)
            found = self.seconds[last] + slope * (rows - last)
        else:
            below, above = max(n for n in self.seconds if n < rows), min(n for n in self.seconds if n > rows)
            share = (rows - below) / (above - below)
            found = (1 - share) * self.seconds[below] + share * self.seconds[above]
        return (found + k * self.guess_seconds) / one

    def count(self, rows: int, seconds: float) -> None:
        """Take note of what a pass took."""
        self.passes_counted += 1
        before = self.seconds.get(rows, seconds)
        # An interruption says nothing of the pass: what is too long counts less, and at most twofold.
        share = 0.5 if seconds < before else 0.2
        self.seconds[rows] = before + share * (min(seconds, 2 * before) - before)

    def count_guesses(self, made: int, seconds: float) -> None:
        """Take note of what it took to make guesses."""
        each, before = seconds / made, self.guess_seconds
        self.guess_seconds += 0.2 * ((min(each, 2 * before) if before else each) - before)

    def judge(self, right: int, made: int) -> None:
        """Take note that of the guesses the first `right` were right, and the next one, if any, was not."""
        for is_right in [1.0] * right + [0.0] * (right < made):
            self.rate += self.FORGETS * (is_right - self.rate)


# --- Generating -------------------------------------------------------------------------------------------


def generate(
    model: Model,
    history: list[int],
    max_tokens: int,
    sampler: Sampler,
    speculation: Speculation,
    guess: Guesser,
) -> Iterator[int]:
    """Yield up to `max_tokens` ids that continue `history`, to which they are added.

    They are those that a pass for each token would give.
    """
    transformer, pace, guesses = model.transformer, Pace(), []
    cache = transformer.new_cache(len(history) + max_tokens)
    transformer.expect_rows(max(1, min(1 + speculation.tokens, max_tokens - 1)), cache)
    rows = transformer.next_logits(history, cache)[None]
    while True:
        right = 0
        for logits in rows:
            choice = sampler(logits, history)
            if choice in model.tokenizer.stop_tokens:
                return
            history.append(choice)
            max_tokens -= 1
            yield choice
            if not max_tokens:
                return
            if right == len(guesses) or choice != guesses[right]:
                break
            right += 1
        pace.judge(right, len(guesses))
        cache.truncate(len(history) - 1)  # the last choice is still to be read
        wanted = pace.guesses(min(speculation.tokens, max_tokens - 1)) if pace.settled else 0
        guesses = _timed_guesses(guess, history, wanted, pace)
        start = perf_counter()
        rows = transformer.steps([history[-1], *guesses], cache)
        pace.count(len(rows), perf_counter() - start)


def _timed_guesses(guess, history, most, pace):
    if not most:
        return []
    start = perf_counter()
    guesses = guess(history, most)
    if guesses:
        pace.count_guesses(len(guesses), perf_counter() - start)
    return guesses
