"""What happened in each pass of a text that was written with guesses.

watched = Watched(b2t.PromptLookup())              a way to guess that notes what it has guessed
ids = list(model.generate(prompt, 100, speculate=watched))
watched.passes(prompt, ids)                        [Pass(first=0, guesses=(), right=0), ...]

ids      she was   a   great reader  and       the prompt's pass gives token 0; then
guesses          | a   great deal   of         a pass begins at its first new token:
right            | 1   1     0                 first = 2, right = 2, and "reader" is the model's own

agreeing(draft, ids, n_prompt)                     where a draft's guess would have been right
written_in_passes(agrees, k)                       passes it takes if each has k guesses
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from blocks2tokens.speculate import Speculation


class Pass(NamedTuple):
    """A pass: the place of the first token that it gave, what was guessed, how many of these were right."""

    first: int
    guesses: tuple[int, ...]
    right: int


@dataclass
class Watched:
    """A way to guess, of which one can ask afterwards what it guessed."""

    way: Speculation
    notes: dict[int, tuple[int, ...]] = field(default_factory=dict)  # guesses, by the length of the text

    tokens = property(lambda self: self.way.tokens)

    def guesser(self, model):
        """Begin to guess for a text, and to note the guesses."""
        guess = self.way.guesser(model)
        self.notes.clear()

        def noted(history, most):
            guesses = guess(history, most)
            self.notes[len(history)] = tuple(guesses)
            return guesses

        return noted

    def passes(self, prompt: Sequence[int], ids: Sequence[int]) -> list[Pass]:
        """Return the passes that gave ids, the text behind a prompt, that over the prompt first."""
        found, first = [Pass(0, (), 0)], 1
        while first < len(ids):
            guesses = self.notes.get(len(prompt) + first, ())
            right = equal_at_first(guesses, ids[first:])
            found.append(Pass(first, guesses, right))
            first += right + 1
        return found


def equal_at_first(guesses: Sequence[int], ids: Sequence[int]) -> int:
    """Return how many guesses, from the first on, are the ids."""
    n = 0
    while n < min(len(guesses), len(ids)) and guesses[n] == ids[n]:
        n += 1
    return n


def acceptance(passes: Sequence[Pass]) -> float:
    """Return the share of judged guesses that were right: those before a pass's first wrong one, and it."""
    right = sum(p.right for p in passes)
    judged = right + sum(p.right < len(p.guesses) for p in passes)
    return right / judged if judged else 0.0


def agreeing(draft, ids: Sequence[int], n_prompt: int) -> np.ndarray:
    """Return for each of ids behind the prompt whether it is the draft's first choice there, bool [T]."""
    logits = draft.logits(ids[:-1])
    return np.argmax(logits[n_prompt - 1 :], axis=1) == np.array(ids[n_prompt:])


def written_in_passes(agrees: np.ndarray, k: int) -> int:
    """Return how many passes of k guesses each it takes to write a text; agrees as `agreeing` has it.

    The prompt's pass gives the first token and is not counted.
    """
    passes, i = 0, 1
    while i < len(agrees):
        right = 0
        while right < k and i + right < len(agrees) and agrees[i + right]:
            right += 1
        passes, i = passes + 1, i + right + 1
    return passes


def by_place(agrees: np.ndarray, most: int) -> list[float]:
    """Return how often guess number 1 to `most` is right, if all before it were; as far as that happened."""
    standing, rates = np.full(len(agrees), True), []
    for place in range(most):
        judged = standing[: len(agrees) - place]
        right = judged & agrees[place:]
        if not judged.any():
            break
        rates.append(float(right.sum() / judged.sum()))
        standing = right
    return rates
