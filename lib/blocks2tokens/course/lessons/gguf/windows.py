"""What lesson 07 measures of a text, window by window, and what may be said of it.

measured(measure, most, seconds)    [measure(0), measure(1), ...], as many as fit; says how many
apart(one, other)                   mean difference of two models' windows, and its standard error
verdict(one, other)                 does the difference count? With few windows: nobody knows
compare(guesses, found)             as predict.compare, but what uncertainty allows is near enough, too
"""

from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

from blocks2tokens.course import budget
from blocks2tokens.course.predict import near, written

FEWEST = 5  # windows from which a verdict is given
SECONDS = 45.0

Result = TypeVar("Result")


def measured(measure: Callable[[int], Result], most: int, seconds: float = SECONDS) -> list[Result]:
    """Measure window 0, then as many more as fit in the seconds, at most `most` in all; say how many."""
    start, found, last = budget.clock(), [], 0.0
    with budget.progress(most, "windows") as bar:
        while len(found) < most and budget.clock() - start + last <= seconds:
            before = budget.clock()
            found.append(measure(len(found)))
            last = budget.clock() - before
            bar.update()
    few = "" if len(found) >= FEWEST else f": too few for a verdict, which takes {FEWEST}"
    print(f"{len(found)} of {most} windows fit in {seconds:.0f} seconds{few}")
    return found


def apart(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Return the mean difference of two models in the same windows, and its standard error (NaN of one)."""
    each = one - other
    error = each.std(ddof=1) / np.sqrt(len(each)) if len(each) > 1 else np.nan
    return float(each.mean()), float(error)


def verdict(one: np.ndarray, other: np.ndarray) -> str:
    """Say how much worse or better one is than the other, and whether that counts."""
    difference, error = apart(one, other)
    direction = "worse" if difference > 0 else "better"
    told = f"{abs(difference):.2%} ± {error:.2%} {direction}".replace("nan%", "?")
    if len(one) < FEWEST:
        return f"{told}: {len(one)} {'window is' if len(one) == 1 else 'windows are'} too few to say"
    return f"{told}: {'it counts' if abs(difference) > 2 * error else 'it does not count'}"


def compare(guesses: Mapping[str, object], found: Mapping[str, tuple[float, float]], unit: str = "%") -> None:
    """Print what was found, (value, standard error), and what was guessed; twice the error is near enough."""
    width, near_enough = max(map(len, found), default=0), []
    for what, (value, error) in found.items():
        line = f"{what:{width}}   it is {written(value)} ± {written(error)} {unit}".replace("nan", "?")
        guess = _number(guesses.get(what))
        if guess is not None:
            near_enough.append(near(guess, value) or abs(guess - value) <= 2 * error)
            line += f"; you said {written(guess)}, {'near enough' if near_enough[-1] else 'not near'}"
        print(line)
    if near_enough:
        print(f"{sum(near_enough)} of {len(near_enough)} guesses near enough")


def _number(guess):
    """Return a guess as a number; one written as text, such as "1 %", too. None if it is none."""
    try:
        return float(str(guess).strip().rstrip("%"))
    except ValueError:
        return None
