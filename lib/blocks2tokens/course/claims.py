"""How a sentence is judged: tests of named figures, for two cases, and one word for the outcome.

    about("slowdown of Phase 1, 128 rows", 120)     a test: is this figure within a factor of 1.5 of 120?
    Claim("120x slower", "13", reason, at_128=..., at_1=..., go=...)
        at_128    the report's benchmark: a has 128 rows        at_1     inference: a has one row
        go        the same Go program, run again elsewhere

    verdict(claim, {"slowdown of Phase 1, 128 rows": 105.0, ...})

                    128 rows   1 row
    holds               ✓      ✓, or not asked         the other way round, too
    holds at 128 rows   ✓        ✗
    holds at one row    ✗        ✓
    does not hold       ✗      ✗, or not asked
    untested            a figure that one of the two needs is not there yet

Where the sentence speaks of inference only, one row decides, whatever 128 rows say. Where it speaks of the
report's own program and a test of ours says nothing of that, the program run again decides for 128 rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass

HOLDS, AT_128, AT_1 = "holds", "holds at 128 rows", "holds at one row"
FAILS, UNTESTED, OPINION = "does not hold", "untested", "opinion"
VERDICTS = (HOLDS, AT_128, AT_1, FAILS, UNTESTED, OPINION)
FACTOR = 1.5

Figures = Mapping[str, float]


@dataclass(frozen=True)
class Test:
    """What a figure must be: about a limit (within a factor), at least or at most as large."""

    figure: str
    rule: str
    limit: float
    factor: float = FACTOR

    def holds(self, value: float) -> bool:
        """Return whether a value passes."""
        if self.rule == "about":
            return value > 0 and max(value / self.limit, self.limit / value) <= self.factor
        return value >= self.limit if self.rule == "at least" else value <= self.limit


def about(figure: str, limit: float, factor: float = FACTOR) -> tuple[Test]:
    """Return a test: the figure within a factor of the limit, which is greater than 0."""
    return (Test(figure, "about", limit, factor),)


def at_least(figure: str, limit: float) -> tuple[Test]:
    """Return a test: the figure not below the limit."""
    return (Test(figure, "at least", limit),)


def at_most(figure: str, limit: float) -> tuple[Test]:
    """Return a test: the figure not above the limit."""
    return (Test(figure, "at most", limit),)


@dataclass(frozen=True)
class Claim:
    """A sentence of the report and what decides about it.

    quote       at most twelve of its words
    closes      the number of the lesson whose figures decide
    reason      why, in a line that is true whatever this machine measures
    at_128      tests for 128 rows, all of which must hold; at_1 for one row; go for the program run again
    inference   does the sentence speak of inference, so that one row decides?
    same_as     the row that says the same elsewhere in the report, and decides
    opinion     does it say nothing that a measurement could contradict?
    shows       figures that stand beside the verdict and do not decide
    """

    quote: str
    closes: str
    reason: str
    at_128: tuple[Test, ...] = ()
    at_1: tuple[Test, ...] = ()
    go: tuple[Test, ...] = ()
    inference: bool = False
    same_as: str | None = None
    opinion: bool = False
    shows: tuple[str, ...] = ()

    @property
    def figures(self) -> tuple[str, ...]:
        """The names of all its figures, those that decide first."""
        tested = [test.figure for test in (*self.at_128, *self.at_1, *self.go)]
        return tuple(dict.fromkeys([*tested, *self.shows]))


def outcome(tests: tuple[Test, ...], figures: Figures) -> bool | None:
    """Return whether all tests hold; None if that is not known, or if there are none."""
    known = [test.holds(figures[test.figure]) for test in tests if test.figure in figures]
    if not all(known):
        return False
    return True if tests and len(known) == len(tests) else None


def verdict(claim: Claim, figures: Figures) -> str:
    """Return one of VERDICTS; of a claim that says the same as another, that other is asked for."""
    if claim.opinion:
        return OPINION
    cases = [claim.at_1] if claim.inference else [claim.at_128 or claim.go, claim.at_1]
    found = [outcome(tests, figures) if tests else "not asked" for tests in cases]
    if None in found or set(found) == {"not asked"}:
        return UNTESTED
    return HOLDS if False not in found else AT_128 if found[0] is True else AT_1 if True in found else FAILS


def judge_ratio(claimed: float, at_128: float, at_1: float) -> str:
    """Judge a claimed factor by the factors found for 128 rows and for one; all greater than 0.

    Each case holds if claimed and found are within a factor of 1.5 of each other, either way.
    """
    claim = Claim("", "", "", at_128=about("128 rows", claimed), at_1=about("1 row", claimed))
    return verdict(claim, {"128 rows": at_128, "1 row": at_1})
