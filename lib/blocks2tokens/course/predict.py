"""Predictions: what a learner wrote down before a cell measured it, beside what came out.

    my_guess = {"by weight": None, "by sub-block": 3}          the learner fills in what is None
    predict.compare(my_guess, {"by weight": 2.1, "by sub-block": 4.1}, "×")

    by weight      it is 2.1 ×
    by sub-block   it is 4.1 ×; you said 3, near enough
    1 of 1 guesses near enough

A number is near enough within half as much again, either way; anything else must be equal. A number in
quotes, "100" or "100 %", is a number.
"""

import re
from collections.abc import Mapping
from numbers import Real

NEAR = 1.5


def compare(guesses: Mapping[str, object], found: Mapping[str, object], unit: str = "") -> None:
    """Print each thing that was found, what was guessed of it, and how many guesses were near enough.

    A guess that is None or missing was not made: then nothing is said of it.
    """
    width, verdicts = max(map(len, found), default=0), []
    for what, value in found.items():
        guess = as_number(guesses.get(what), unit)
        line = f"{what:{width}}   it is {written(value)}{unit and ' ' + unit}"
        if guess is not None and guess is not ...:
            verdicts.append(near(guess, value))
            line += f"; you said {written(guess)}, {'near enough' if verdicts[-1] else 'not near'}"
        print(line)
    if verdicts:
        print(f"{sum(verdicts)} of {len(verdicts)} guesses near enough")


def near(guess: object, value: object) -> bool:
    """Is a guess within half as much again of a number, or equal to what is no number?"""
    guess, value = as_number(guess), as_number(value)
    if _is_number(guess) and _is_number(value):
        if guess * value <= 0:
            return bool(guess == value)
        return bool(1 / NEAR <= guess / value <= NEAR)
    return str(guess).strip().lower() == str(value).strip().lower()


def as_number(said: object, unit: str = "") -> object:
    """Return the number that a text says, with or without its unit; anything else as it is."""
    if not isinstance(said, str):
        return said
    text = said.strip().removesuffix(unit.strip()).strip() if unit.strip() else said.strip()
    found = re.fullmatch(r"([-+]?(?:\d[\d,_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*[%x×]?", text)
    return float(found[1].replace(",", "").replace("_", "")) if found else said


def written(value: object) -> str:
    """Write a number with three digits, no exponent; anything else as it prints."""
    if not _is_number(value) or value != value or abs(value) == float("inf"):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _is_number(value):
    return isinstance(value, Real) and not isinstance(value, bool)
