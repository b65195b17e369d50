"""Exercise: a task whose answer key is the engine.

    learner's function --cases--> answers  --compared with-->  the engine's answers
        untouched stub     "not attempted yet"; the lesson goes on with the engine's function
        equal              "right"
        wrong              the likely mistake, if a known one explains all the answers;
                           in any case the first place where they differ

A known mistake is kept as a function that makes it: whoever gives the same answers has made the same one.
"""

import html
import inspect
import textwrap
import traceback
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from IPython.display import display

GOES_ON = "the lesson goes on with the engine's version"


@dataclass(frozen=True)
class Mistake:
    """A known wrong way, as a function with the learner's signature, and what to tell who went it."""

    wrong: Callable
    message: str


@dataclass(frozen=True)
class Exercise:
    """One task.

    name       what the learner calls: check.<name>(function)
    engine     the right function, with the learner's signature
    cases      {label: arguments}; the function is called with each
    mistakes   the known wrong ways, the most likely first
    hints      one or two nudges, shown folded
    solution   the function of the engine whose source is shown as the solution; `engine` if None
    tolerance  0 for equality as bits, else the largest relative difference
    """

    name: str
    engine: Callable
    cases: Callable[[], dict[str, tuple]]
    mistakes: tuple[Mistake, ...]
    hints: tuple[str, ...]
    solution: Callable | None = None
    tolerance: float = 0.0

    def __call__(self, function: Callable) -> Callable:
        """Judge a function and show the verdict. Returns it if it is right, else the engine's."""
        verdict = self.judge(function)
        display(verdict)
        return function if verdict.kind == "right" else self.engine

    def judge(self, function: Callable) -> "Verdict":
        """Return the verdict on a function; never raises, whatever the function does."""
        if not callable(function):
            return self._verdict("wrong", f"expected a function, got {type(function).__name__}")
        cases = self.cases()
        try:
            answers = {label: call(function, arguments) for label, arguments in cases.items()}
        except Exception as error:
            return self._verdict("wrong", _explain_exception(error))
        nothing = all(a is None for a in answers.values())
        if all(a is ... for a in answers.values()) or (nothing and _is_empty(function)):
            return self._verdict("untouched", f"not attempted yet: {GOES_ON}")
        if nothing:
            return self._verdict("wrong", "your function returned None: did you forget `return`?")
        right = {label: call(self.engine, arguments) for label, arguments in cases.items()}
        differences = [found for label in cases if (found := self._difference(label, answers, right))]
        if not differences:
            return self._verdict("right", f"right on all {len(cases)} cases")
        mistake = self._find_mistake(cases, answers)
        return self._verdict("wrong", (f"{mistake.message}\n" if mistake else "") + differences[0])

    def _find_mistake(self, cases, answers):
        for mistake in self.mistakes:
            same = {label: call(mistake.wrong, arguments) for label, arguments in cases.items()}
            if not any(self._difference(label, answers, same) for label in cases):
                return mistake
        return None

    def _difference(self, label, answers, expected):
        return difference(answers[label], expected[label], self.tolerance, label)

    def _verdict(self, kind, message):
        return Verdict(self.name, kind, message, self.hints, self.solution or self.engine)


def _is_empty(function) -> bool:
    """Is the body of a function nothing but a docstring and `...`?"""
    code = getattr(function, "__code__", None)
    return code is not None and code.co_code in (
        _empty.__code__.co_code,
        _empty_but_documented.__code__.co_code,
    )


def _empty(): ...


def _empty_but_documented():
    """With a docstring, the constant None has another place."""


def call(function: Callable, arguments: tuple):
    """Call with copies of the arguments, so that a function that writes into them harms nobody."""
    copies = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
    with np.errstate(all="ignore"):
        return function(*copies)


def difference(answer, expected, tolerance: float, label: str) -> str | None:
    """Return what differs between two answers (arrays, numbers or tuples of them), or None."""
    if isinstance(expected, tuple):
        if not isinstance(answer, tuple | list) or len(answer) != len(expected):
            return f"{label}: expected {len(expected)} values, got {_describe(answer)}"
        pairs = zip(answer, expected, strict=True)
        found = (difference(a, e, tolerance, f"{label}, value {i}") for i, (a, e) in enumerate(pairs))
        return next((f for f in found if f), None)
    try:
        got, want = np.asarray(answer), np.asarray(expected)
        numeric = got.dtype.kind in "biuf" and want.dtype.kind in "biuf"
    except ValueError:
        numeric = False
    if not numeric:
        same = type(answer) is type(expected) and answer == expected
        return None if same else f"{label}: expected {expected!r}, got {_describe(answer)}"
    if got.shape != want.shape:
        return f"{label}: expected shape {want.shape}, got {got.shape}"
    unequal = ~_close(got.astype(np.float64), want.astype(np.float64), tolerance)
    if not unequal.any():
        return None
    where = tuple(int(i) for i in np.unravel_index(unequal.argmax(), unequal.shape))
    place = f"element {where[0] if len(where) == 1 else list(where)}" if where else "the value"
    count = f" ({int(unequal.sum())} of {unequal.size} differ)" if unequal.size > 1 else ""
    return f"{label}: {place} is {_number(got[where])}, expected {_number(want[where])}{count}"


def _close(a, b, tolerance):
    nan = np.isnan(a) & np.isnan(b)
    finite = np.isfinite(a) & np.isfinite(b)  # a share of infinity would allow everything
    with np.errstate(invalid="ignore"):  # infinity less infinity
        near = np.abs(a - b) <= tolerance * np.maximum(np.abs(a), np.abs(b))
    return nan | (a == b) | (finite & near)


def _number(value):
    return f"{value:.6g}" if np.issubdtype(type(value), np.floating) else str(value)


def _describe(value):
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}, {value.dtype}"
    return f"{type(value).__name__} {value!r}"[:80]


def _explain_exception(error):
    """Return the type and message of an exception and the learner's line that raised it."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    line = f', in the line "{own[0].line}"' if own and own[0].line else ""
    message = f"your function raised {type(error).__name__}: {error}{line}"
    if isinstance(error, OverflowError) and "int8" in str(error):
        message += "\na byte out of an array stays a byte, and cannot grow: make it an int(...) first"
    return message


COLOURS = {"right": "#009E73", "wrong": "#D55E00", "untouched": "#7F7F7F"}
SIGNS = {"right": "✓", "wrong": "✗", "untouched": "○"}


@dataclass(frozen=True)
class Verdict:
    """What a check found; shows itself as a card in a notebook and as text elsewhere."""

    name: str
    kind: str
    message: str
    hints: tuple[str, ...]
    solution: Callable

    def __repr__(self):
        return f"{SIGNS[self.kind]} {self.name}: {self.message}"

    def _repr_html_(self):
        first, *rest = self.message.split("\n")
        if self.kind == "wrong":
            rest.append(GOES_ON.capitalize() + ".")
        lines = "".join(f"<div>{html.escape(line)}</div>" for line in rest)
        return (
            f'<div style="border-left:6px solid {COLOURS[self.kind]};padding:0.3em 0.8em;margin:0.4em 0">'
            f"<b>{SIGNS[self.kind]} {self.name}</b>: {html.escape(first)}{lines}{self._help()}</div>"
        )

    def _help(self):
        """Stuck? -> hint -> solution, each folded into the one before."""
        if self.kind == "right":
            return ""
        source = html.escape(textwrap.dedent(inspect.getsource(_plain(self.solution))))
        folded = _fold("Solution, from the engine", f"<pre>{source}</pre>")
        for i, hint in reversed(list(enumerate(self.hints))):
            folded = _fold("Hint" if i else "Stuck?", html.escape(hint) + folded)
        return folded


def _fold(summary, content):
    return f'<details><summary>{summary}</summary><div style="margin-left:1em">{content}</div></details>'


def _plain(function):
    """Return the Python function behind a compiled one."""
    return getattr(function, "py_func", function)
