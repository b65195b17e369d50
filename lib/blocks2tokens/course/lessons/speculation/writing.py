"""How many times as fast a text is written with guesses as without, from its first token on.

    gains({"plain": lambda: model.generate(ids, 96), "lookup": lambda: ...}, seconds=3)
    {"plain": (1.0, 1.0, 1.0), "lookup": (1.8, 1.9, 1.9)}       quartiles of the quotients

All are run in turn, and those of one turn are compared: who uses the machine besides slows all of them. The
prompt is read in any case, and is not counted.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from blocks2tokens.course import budget

ROUNDS = 9  # at the most


def timed(ids: Iterable[int]) -> tuple[float, list[int]]:
    """Return the seconds from the first id to the last, and all of them."""
    ids = iter(ids)
    found = [next(ids)]
    start = budget.clock()
    found += ids
    return budget.clock() - start, found


def gains(
    runs: Mapping[str, Callable[[], Iterable[int]]], seconds: float, rounds: int = ROUNDS
) -> dict[str, tuple[float, float, float]]:
    """Return {name: quartiles of how many times as fast it is as the first}.

    Raises ValueError if one of them writes another text than the first.
    """
    first, *_ = runs
    quotients, texts = {name: [] for name in runs}, {}
    for n in budget.rounds(rounds, seconds):
        took = {}
        for name, run in runs.items():
            took[name], texts[name] = timed(run())
            if texts[name] != texts[first]:
                raise ValueError(f"{name}: expected the text of {first}, got another")
        for name in runs if n else ():
            quotients[name].append(took[first] / took[name])
    return {name: tuple(np.percentile(found, (25, 50, 75))) for name, found in quotients.items()}
