"""Exercise: a task whose answer key is the engine.

    learner's function --cases--> answers  --compared with-->  the engine's answers
        untouched stub     "not attempted yet"; the lesson goes on with the engine's function
        equal              "right"
        wrong              the likely mistake, if a known one explains all the answers;
                           in any case the first place where they differ

A known mistake is kept as a function that makes it: whoever gives the same answers has made the same one.
What is right must also carry the lesson on: a function that writes into its input is refused, answers of
another type are right in meaning and are converted, and what the next cell compiles is compiled here.
"""

import ast
import contextlib
import functools
import html
import inspect
import os
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from IPython.display import display
from numba import njit, types
from numba.core.dispatcher import Dispatcher

from blocks2tokens.course import collected, progress
from blocks2tokens.course.check import calls
from blocks2tokens.course.check.bounds import checked
from blocks2tokens.course.check.calls import names_of_arguments, observe
from blocks2tokens.course.check.explain import explain as _explain_exception
from blocks2tokens.course.check.memory import full_of

NOT_RIGHT = "not right yet"
GOES_ON = "the lesson goes on with the engine's version"
FROM_ZEROS = (
    "your answers would be right if np.empty made zeros: it gives memory with what was left in it. Begin "
    "with np.zeros, or write each place before you add to it"
)
KEPT = (
    "your function returns one and the same {kind} at each call: what stands outside of it, or behind an = "
    "in its line with `def`, is made once. Make a new {kind} inside"
)
NEAR, CLEARLY_WRONG = 1e-5, 1e-4  # relative differences: the same mistake, rounded otherwise; no rounding
INPUT = "the input of"
LONGEST_INPUT = 150  # characters of an array
CAST_OF_NAN = "invalid value encountered in cast"


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
    solution   the function whose source is shown as the solution; `engine` if None
    tolerance  0 for equality as bits, else the largest relative difference
    whole      must whole numbers be integers? As floats they are converted
    most_bytes the most that a call may hold in memory, where reading little is the lesson
    compiled   does the lesson compile the learner's function with Numba? Then it is compiled here, too
    twin       the function of the engine that does the same, named beside a solution in a lesson's words
    parts      the names of the values that are returned, if several; () for those in the solution's `return`
    """

    name: str
    engine: Callable
    cases: Callable[[], dict[str, tuple]]
    mistakes: tuple[Mistake, ...]
    hints: tuple[str, ...]
    solution: Callable | None = None
    tolerance: float = 0.0
    whole: bool = False
    most_bytes: int | None = None
    compiled: bool = False
    twin: Callable | None = None
    parts: tuple[str, ...] = ()

    def __call__(self, function: Callable) -> Callable:
        """Judge a function, show the verdict and note it. Returns it if it is right, else the engine's.

        A right one is kept: see course.collected.
        """
        verdict = _as_told(self.judge(function))
        display(verdict)
        progress.record(self, verdict)
        if verdict.kind != "right":
            return self.engine
        carried_on = self._carried_on(function, verdict)
        collected.keep(self, carried_on)
        return carried_on

    def _carried_on(self, function, verdict):
        """Return a right function as the lesson needs it: plain to compile, or with the engine's types."""
        if self.compiled:
            return _plain(function)
        return function if verdict.pattern is None else self._typed(function, verdict.pattern)

    def typed(self, function: Callable) -> Callable:
        """Return a right function whose answers come in the engine's types: a decorator in kept files."""
        first = next(iter(self.cases().values()))
        return self._typed(function, call(self.engine, first))

    def _typed(self, function, pattern):
        typed = _with_types_of(function, pattern)
        typed.typed_by = self.name
        return typed

    def judge(self, function: Callable) -> "Verdict":
        """Return the verdict on a function; never raises, whatever the function does."""
        if not callable(function):
            return self._verdict("wrong", f"expected a function, got {type(function).__name__}")
        printed = calls.Printed()
        with contextlib.redirect_stdout(printed):
            kind, message, pattern = self._judge(function)
        return self._verdict(kind, message, pattern, printed.text)

    def _judge(self, function):
        """Return (kind, message, pattern): right answers are to be converted to those of the pattern."""
        cases, outcomes, label = self.cases(), {}, None
        function = checked(function)
        cases = {label: tuple(map(checked, arguments)) for label, arguments in cases.items()}
        in_used_memory = full_of(np.nan, function)
        try:
            with calls.time_limit(calls.SECONDS):
                for label, arguments in cases.items():
                    outcomes[label] = observe(in_used_memory, arguments)
        except BaseException as error:  # exit() and an interrupt are answers, too
            return "wrong", f"{_explain_exception(error)}\n{self._input(function, label, cases[label])}", None
        answers = {label: outcome.answer for label, outcome in outcomes.items()}
        nothing = all(a is None for a in answers.values())
        if all(a is ... for a in answers.values()) or (nothing and _is_empty(function)):
            return "untouched", f"not attempted yet: {GOES_ON}", None
        if nothing:
            return "wrong", "your function returned None: did you forget `return`?", None
        right = {label: observe(self.engine, arguments) for label, arguments in cases.items()}
        expected = {label: outcome.answer for label, outcome in right.items()}
        problem = _no_answer(answers, expected)
        if problem and not self._find_mistake(cases, answers, expected):
            return "wrong", problem, None
        found = self._first_difference(answers, expected)
        if found is not None:
            return "wrong", self._what_is_wrong(function, cases, outcomes, expected, *found), None
        if in_used_memory is not function:  # what NumPy warned of may have been the NaN put there
            outcomes = _outcomes(function, cases) or outcomes
        problem = self._right_but(function, cases, outcomes, right)
        if problem:
            return "wrong", problem, None
        pairs = list(zip(answers.values(), expected.values(), strict=True))
        new_views = any(outcomes[label].is_view and not right[label].is_view for label in cases)
        pattern = pairs[0][1] if new_views or not all(has_types_of(a, e) for a, e in pairs) else None
        if pattern is not None and not all(has_types_of(e, pattern, in_memory=False) for _, e in pairs):
            pattern = None  # the engine's own types change with the case
        return "right", f"right on all {len(cases)} cases", pattern

    def _first_difference(self, answers, expected, tolerance=None):
        """Return (label, message, place) of the first difference, or None."""
        tolerance = self.tolerance if tolerance is None else tolerance
        parts = self.parts or names_in_return(self.solution or self.engine)
        for label, answer in answers.items():
            if found := _find_difference(answer, expected[label], tolerance, label, parts):
                return label, *found
        return None

    def _what_is_wrong(self, function, cases, outcomes, expected, label, message, place):
        """Return the known mistake, if one explains all answers, and the first difference."""
        answers = {label: outcome.answer for label, outcome in outcomes.items()}
        lines = []
        if mistake := self._find_mistake(cases, answers, expected):
            lines.append(mistake.message)
        elif kept := _kept(answers):
            lines.append(KEPT.format(kind=kept))
        elif self._is_right_from_zeros(function, cases, expected):
            lines.append(FROM_ZEROS)
        lines.append(message)
        if not mistake:
            lines.append(self._input(function, label, cases[label], place, expected[label]))
            if warned := outcomes[label].warned:
                lines.append(f'NumPy warns there: "{warned[0]}"')
        if outcomes[label].written:
            written = self._written(function, cases, outcomes)
            if written:
                lines.append(written)
        return "\n".join(lines)

    def _is_right_from_zeros(self, function, cases, expected):
        """Would the answers be right if np.empty gave zeros?"""
        from_zeros = full_of(0, function)
        if from_zeros is function:
            return False
        outcomes = _outcomes(from_zeros, cases)
        answers = {label: outcome.answer for label, outcome in outcomes.items()}
        return bool(answers) and self._first_difference(answers, expected) is None

    def _find_mistake(self, cases, answers, expected):
        for mistake in self.mistakes:
            same = {label: call(mistake.wrong, arguments) for label, arguments in cases.items()}
            if self._first_difference(answers, same) is None:
                return mistake
            is_near = self._first_difference(answers, same, max(self.tolerance, NEAR)) is None
            if is_near and self._first_difference(same, expected, max(self.tolerance, CLEARLY_WRONG)):
                return mistake
        return None

    def _right_but(self, function, cases, outcomes, right):
        """Return why a function with right answers would break the lesson, or None."""
        if written := self._written(function, cases, outcomes):
            return f"your answers are right, but {written}"
        if unfilled := self._unfilled(function, cases, outcomes, right):
            return f"your answers are right, but {unfilled}"
        for label, outcome in outcomes.items():
            if CAST_OF_NAN in outcome.warned and CAST_OF_NAN not in right[label].warned:
                return (
                    f"{label}: you make an integer of 0 / 0, which is NaN, not a number. That gives 0 on one "
                    "machine and the smallest integer on another: ask before you divide"
                )
            if self.whole and (problem := _float_for_integer(outcome.answer, right[label].answer, label)):
                return problem
            made = calls.bytes_made(function, cases[label]) if self.most_bytes else 0
            if self.most_bytes and made > self.most_bytes:
                return (
                    f"{label}: your answer is right, but on the way to it you fill {made:,} bytes of memory: "
                    f"you decode or copy it all. {self.most_bytes:,} are plenty: find the place first, and "
                    "read only what lies there"
                )
        return self._compile(function, cases, right) if self.compiled else None

    def _written(self, function, cases, outcomes):
        """Say which arguments a function has changed; it may change those that the engine changes at all."""
        if not any(outcome.written for outcome in outcomes.values()):
            return None
        allowed = {i for arguments in cases.values() for i in observe(self.engine, arguments).written}
        for label, outcome in outcomes.items():
            for i in sorted(set(outcome.written) - allowed):
                name = self._names(function, len(cases[label]))[i]
                has_copy = hasattr(cases[label][i], "copy")
                remedy = f"work on {name}.copy()" if has_copy else "keep what you find in names of your own"
                return (
                    f"you wrote into {name}: {outcome.written[i]} changed. It belongs to whoever calls your "
                    f"function, and a later cell would go on with it: {remedy}"
                )
        return None

    def _unfilled(self, function, cases, outcomes, right):
        """Say which argument a function leaves as it was, where the engine writes its answer into it."""
        for label, outcome in outcomes.items():
            for i in sorted(set(right[label].written) - set(outcome.written)):
                name = self._names(function, len(cases[label]))[i]
                return (
                    f"{name} is as it was: you return an array of your own. Write into the one that came in, "
                    f"{name}[...] = ...: whoever calls your function goes on with it"
                )
            if problem := self._filled_otherwise(function, cases[label], outcome, right[label]):
                return f"{label}: {problem}"
        return None

    def _filled_otherwise(self, function, arguments, outcome, right):
        """Say where an argument that is written into holds something else afterwards than the engine's."""
        for i in right.left:
            got, want = outcome.left.get(i), right.left[i]
            if got is None or not _are_numbers(got, want):
                continue
            got, want = got.astype(np.float64), want.astype(np.float64)
            apart = max(self.tolerance, CLEARLY_WRONG) * np.abs(want).max(initial=0)
            unequal = np.argwhere(~np.isclose(got, want, rtol=0, atol=apart, equal_nan=True))
            if len(unequal):
                place, name = tuple(map(int, unequal[0])), self._names(function, len(arguments))[i]
                return (
                    f"what you write into {name} is not what whoever calls your function goes on with. Its "
                    f"element {list(place)} is {_number(got[place])}, expected {_number(want[place])}"
                )
        return None

    def _compile(self, function, cases, right):
        """Return what goes wrong with a function once it is compiled, or None."""
        try:
            compiled = njit(boundscheck=True)(_plain(function))
            with calls.time_limit(calls.SECONDS):
                answers = {label: call(compiled, arguments) for label, arguments in cases.items()}
        except BaseException as error:
            return f"your answers are right, but the next cell compiles it.\n{_explain_exception(error)}"
        expected = {label: outcome.answer for label, outcome in right.items()}
        found = self._first_difference(answers, expected, max(self.tolerance, NEAR))
        if found is not None:
            return f"right in Python, but not once Numba has compiled it.\n{found[1]}"
        return _not_to_compile(call(function, next(iter(cases.values()))), next(iter(expected.values())))

    def _names(self, function, n):
        """Return the names of n arguments, as the learner has them or else the engine."""
        for named in (_plain(function), _plain(self.engine)):
            if len(names := names_of_arguments(named)) == n:
                return names
        return [f"argument {i + 1}" for i in range(n)]

    def _input(self, function, label, arguments, place=(), expected=None):
        """Show the arguments of a case, of arrays with a row for each answer the row in question."""
        shown = []
        for name, argument in zip(self._names(function, len(arguments)), arguments, strict=True):
            is_large = isinstance(argument, np.ndarray) and argument.nbytes > 256
            if place and is_large and _rows(argument) == _rows(expected) > 1:
                name, argument = f"{name}[{place[0]}]", argument[place[0]]
            shown.append(f"{name} = {_small(argument)}")
        return f"{INPUT} {label}: {'; '.join(shown)}"

    def _verdict(self, kind, message, pattern=None, printed=""):
        solution = self.solution or self.engine
        return Verdict(self.name, kind, message, self.hints, solution, self.twin, pattern, printed)


def _outcomes(function, cases):
    """Return the outcome of each case, {} if one has none."""
    try:
        with calls.time_limit(calls.SECONDS):
            return {label: observe(function, arguments) for label, arguments in cases.items()}
    except BaseException:
        return {}


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
    """Return the answer to copies of the arguments, so that a function that writes into them harms nobody."""
    return observe(function, arguments).answer


def _kept(answers):
    """Return what kind of collection all answers are, if they are one object; None if not."""
    first, *others = answers.values()
    is_one = bool(others) and isinstance(first, list | dict | set) and all(a is first for a in others)
    return type(first).__name__ if is_one else None


def _no_answer(answers, expected):
    """Say what is no answer at all: nothing in some cases, or something that gives its values only once."""
    for label, answer in answers.items():
        if answer is None or answer is ...:
            return f"{label}: your function returned {answer}: is there a way through it without `return`?"
        if inspect.iscoroutine(answer):
            for coroutine in answers.values():
                coroutine.close()
            return "your function is a coroutine: leave out `async`"
        for part in answer if isinstance(answer, tuple) else (answer,):
            if isinstance(part, Iterator) and not isinstance(expected[label], Iterator):
                what = (
                    "it has `yield` in it or brackets ( ... for ... )"
                    if inspect.isgenerator(part)
                    else ("it gives its values only once")
                )
                kind = type(part).__name__
                return f"your function returned a {kind}: {what}. Return all values: [...] or np.array([...])"
    return None


def _float_for_integer(answer, expected, label):
    """Say where a whole number, such as a place or a count of bytes, came as a float."""
    if isinstance(expected, tuple):
        pairs = zip(answer, expected, strict=True)
        return next((found for a, e in pairs if (found := _float_for_integer(a, e, label))), None)
    if isinstance(expected, int) and isinstance(answer, float | np.floating):
        return (
            f"{label}: {answer} is right as a number, but it is a float, and a place or a count is a whole "
            f"number, {expected}: `//` divides in whole numbers, `/` does not"
        )
    return None


def _not_to_compile(answer, expected):
    """Say what compiled code cannot go on with, of an answer that Python can."""
    if isinstance(expected, tuple) and not isinstance(answer, tuple):
        names = ", ".join("abcdef"[: len(expected)])
        kind = "an array" if isinstance(answer, np.ndarray) else f"a {type(answer).__name__}"
        return (
            f"your answers are right, but you return {kind}, and the lesson compiles your function: compiled "
            f"code takes several values only out of a tuple. End with `return {names}`, without [...]"
        )
    return _float_for_integer(answer, expected, "the first case")


def has_types_of(answer, expected, in_memory: bool = True) -> bool:
    """Can the lesson go on with such an answer as with the engine's, by its types and its place in memory?"""
    if isinstance(expected, tuple):
        same = isinstance(answer, tuple) and len(answer) == len(expected)
        return same and all(has_types_of(a, e, in_memory) for a, e in zip(answer, expected, strict=True))
    if isinstance(expected, np.ndarray):
        if not isinstance(answer, np.ndarray) or answer.dtype != expected.dtype:
            return False
        got, wanted = answer.flags, expected.flags
        in_a_row, writable = (
            got.c_contiguous or not wanted.c_contiguous,
            got.writeable or not wanted.writeable,
        )
        return not in_memory or (in_a_row and writable)
    if isinstance(expected, float | np.floating):  # a float16 would round what it is multiplied with
        return isinstance(answer, type(expected) | float | np.float32 | np.float64)
    if isinstance(expected, int | np.generic):
        return isinstance(answer, type(expected))
    if isinstance(expected, dict) and isinstance(answer, dict):  # keys change with the case, types do not
        kinds = list(expected.values())[:1]
        alike = all(has_types_of(value, kind, in_memory) for value in expected.values() for kind in kinds)
        found = (has_types_of(value, kind, in_memory) for value in answer.values() for kind in kinds)
        return not alike or all(found)  # what holds values of several kinds is taken as it is
    if isinstance(expected, list):
        return isinstance(answer, list) and not (_are_whole(expected) and any(map(_is_float, answer)))
    return True


def with_types_of(answer, expected):
    """Return an answer that is right in meaning as the engine gives it."""
    if isinstance(expected, tuple):
        if not isinstance(answer, tuple | list | np.ndarray) or len(answer) != len(expected):
            return answer
        return tuple(with_types_of(a, e) for a, e in zip(answer, expected, strict=True))
    if has_types_of(answer, expected):
        return answer
    if isinstance(expected, np.ndarray):
        return np.array(answer, expected.dtype, order="C")
    if isinstance(expected, dict) and isinstance(answer, dict):
        kind = next(iter(expected.values()))
        return {key: with_types_of(value, kind) for key, value in answer.items()}
    if isinstance(expected, list):
        found = sorted(answer) if isinstance(answer, set | frozenset) else list(answer)
        return [int(a) if _is_float(a) else a for a in found] if _are_whole(expected) else found
    is_number = np.ndim(answer) == 0 and np.asarray(answer).dtype.kind in "biuf"
    return type(expected)(answer) if is_number else answer


def _is_float(value):
    return isinstance(value, float | np.floating)


def _are_whole(values):
    """Are these whole numbers, such as places or counts?"""
    return bool(values) and all(isinstance(value, int | np.integer) for value in values)


def _with_types_of(function, pattern):
    """Return the learner's function, whose answers come in the types of a pattern."""

    @functools.wraps(function)
    def carried_on(*arguments, **named):
        answer = function(*arguments, **named)
        if calls.lies_in(answer, arguments):
            answer = tuple(map(calls.copied, answer)) if isinstance(answer, tuple) else answer.copy()
        return with_types_of(answer, pattern)

    return carried_on


def difference(answer, expected, tolerance: float, label: str) -> str | None:
    """Return what differs between two answers (arrays, numbers or tuples of them), or None."""
    found = _find_difference(answer, expected, tolerance, label)
    return found and found[0]


ORDINALS = ("first", "second", "third", "fourth", "fifth")


@functools.cache
def names_in_return(function: Callable) -> tuple[str, ...]:
    """Return the names in the last `return a, b` of a function; () if there is none of names alone."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(_plain(function))))
    except (OSError, TypeError, SyntaxError):
        return ()
    returned = [node.value for node in _own_nodes(tree.body[0]) if isinstance(node, ast.Return)]
    tuples = [value.elts for value in returned if isinstance(value, ast.Tuple)]
    named = [
        tuple(e.id for e in elements) for elements in tuples if all(isinstance(e, ast.Name) for e in elements)
    ]
    return named[-1] if named else ()


def _own_nodes(tree):
    """Yield the nodes of a function, without those of functions within it."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.Lambda):
            yield node
            yield from _own_nodes(node)


def _part(label, i, parts, count):
    """Return the label of one of several values."""
    if len(parts) == count:
        return f"{label}, {parts[i]}"
    if count == 1:
        return f"{label}, the one value"
    which = ORDINALS[i] if i < len(ORDINALS) else f"number {i + 1}"
    return f"{label}, the {which} of the {count} values"


def _find_difference(answer, expected, tolerance, label, parts=()):
    """Return (what differs, its place in the array), or None."""
    if isinstance(expected, tuple):
        is_row = isinstance(answer, np.ndarray) and answer.ndim > 0
        if not (isinstance(answer, tuple | list) or is_row) or len(answer) != len(expected):
            return f"{label}: expected {len(expected)} values, got {_describe(answer)}", ()
        pairs = zip(answer, expected, strict=True)
        found = (
            _find_difference(a, e, tolerance, _part(label, i, parts, len(expected)))
            for i, (a, e) in enumerate(pairs)
        )
        return next((f for f in found if f), None)
    if isinstance(expected, list) and isinstance(answer, set | frozenset):
        answer = sorted(answer)
    if isinstance(expected, dict) and isinstance(answer, dict):
        return _difference_of_dicts(answer, expected, tolerance, label)
    if isinstance(expected, list) and isinstance(answer, tuple):
        answer = list(answer)
    if isinstance(expected, list) and (apart := _members_apart(answer, expected)):
        return f"{label}: {apart}", ()
    try:
        got, want = np.asarray(answer), np.asarray(expected)
        numeric = got.dtype.kind in "biuf" and want.dtype.kind in "biuf"
    except ValueError:
        numeric = False
    if not numeric:
        same = isinstance(answer, type(expected)) and bool(np.all(answer == expected))
        wanted = _describe(expected) if isinstance(expected, np.ndarray) else repr(expected)
        return None if same else (f"{label}: expected {wanted}, got {_describe(answer)}", ())
    if got.shape != want.shape:
        return f"{label}: expected shape {want.shape}, got {got.shape}", ()
    unequal = ~_close(got.astype(np.float64), want.astype(np.float64), tolerance)
    if not unequal.any():
        return None
    where = tuple(int(i) for i in np.unravel_index(unequal.argmax(), unequal.shape))
    place = f"element {where[0] if len(where) == 1 else list(where)}" if where else "the value"
    count = f" ({int(unequal.sum())} of {unequal.size} differ)" if unequal.size > 1 else ""
    are, wanted = _word(got[where], want), _word(want[where], want)
    if are == wanted:  # two that six digits do not tell apart
        are, wanted = (f"{float(value):.17g}" for value in (got[where], want[where]))
    return f"{label}: {place} is {are}, expected {wanted}{count}", where


def _difference_of_dicts(answer, expected, tolerance, label):
    """Return (what differs, ()) of two dicts, at the first key where they do, or None."""
    if answer.keys() != expected.keys():
        said = [(expected, answer, "missing"), (answer, expected, "there, and should not be")]
        lines = [_keys([key for key in a if key not in b], what) for a, b, what in said]
        return f"{label}: {'; '.join(filter(None, lines))}", ()
    found = (
        _find_difference(answer[key], value, tolerance, f"{label}, {key!r}")
        for key, value in expected.items()
    )
    return next(((f[0], ()) for f in found if f), None)


def _keys(keys, what):
    named = ", ".join(repr(key) for key in keys[:3]) + ", ..." * (len(keys) > 3)
    return f"{named} {'is' if len(keys) == 1 else 'are'} {what}" if keys else ""


def _members_apart(answer, expected):
    """Say which numbers of two lists are in one of them only, where they are not equally long.

    A list in which one stands twice is of values, not of members.
    """
    if not isinstance(answer, list | tuple | np.ndarray) or len(answer) == len(expected):
        return None
    try:
        if len(set(expected)) < len(expected):
            return None
        missing, added = sorted(set(expected) - set(answer)), sorted(set(answer) - set(expected))
    except TypeError:  # not hashable, or not to be sorted
        return None
    found = [(missing, "not in your list"), (added, "in your list and should not be")]
    lines = [
        f"{', '.join(map(str, which[:6]))}{', ...' * (len(which) > 6)} {what}"
        for which, what in found
        if which
    ]
    return "; ".join(lines) or None


def _are_numbers(*arrays):
    """Are these arrays of numbers, all of one shape?"""
    return len({a.shape for a in arrays}) == 1 and all(a.dtype.kind in "biuf" for a in arrays)


def _close(a, b, tolerance):
    nan = np.isnan(a) & np.isnan(b)
    finite = np.isfinite(a) & np.isfinite(b)  # a share of infinity would allow everything
    with np.errstate(invalid="ignore"):  # infinity less infinity
        near = np.abs(a - b) <= tolerance * np.maximum(np.abs(a), np.abs(b))
    return nan | (a == b) | (finite & near)


def _word(value, want):
    """Write a number; in hex where it is a word of packed bits, beside it where it is a byte of such."""
    is_packed = want.dtype.kind == "u" and want.size and (want.itemsize > 1 or want.max() >= 64)
    if not is_packed or value != int(value) or value < 0:
        return _number(value)
    digits = f"0x{int(value):0{2 * want.itemsize}x}"
    return digits if want.itemsize > 1 else f"{int(value)} ({digits})"


def _number(value):
    return f"{value:.6g}" if np.issubdtype(type(value), np.floating) else str(value)


def _describe(value):
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}, {value.dtype}"
    return f"{type(value).__name__} {value!r}"[:80]


def _rows(value):
    """Return the length of an array, or of each array of a tuple; 0 for anything else."""
    if isinstance(value, tuple):
        lengths = {_rows(v) for v in value}
        return lengths.pop() if len(lengths) == 1 else 0
    return len(value) if isinstance(value, np.ndarray) and value.ndim else 0


def _small(value):
    """Show a value in a line."""
    if isinstance(value, np.void):
        return "{" + ", ".join(f"{name}: {_small(value[name])}" for name in value.dtype.names) + "}"
    if isinstance(value, np.ndarray):
        if value.dtype.names and value.ndim == 1 and len(value):
            rest = f" and {len(value) - 1} more" if len(value) > 1 else ""
            return f"[{_small(value[0])}{rest}]"
        if value.size > 4 and not value.dtype.names and (value == value.flat[0]).all():
            return f"{_small(value.flat[0])} everywhere, {value.dtype} {list(value.shape)}"
        is_packed = value.dtype.kind == "u" and value.itemsize > 1
        formatter = {"int": lambda v: _word(v, value)} if is_packed else None
        for ends in (18, 3, 1):  # numbers shown at both ends
            options = {"max_line_width": 10**6, "threshold": 2 * ends, "edgeitems": ends, "precision": 4}
            options["formatter"] = formatter
            line = " ".join(np.array2string(value, **options).split())
            if len(line) <= LONGEST_INPUT:
                break
        return f"{line} {value.dtype} {list(value.shape)}"
    if isinstance(value, np.generic):
        is_packed = value.dtype.kind == "u" and value.itemsize > 1
        return _word(value, value) if is_packed else _number(value)
    if inspect.isroutine(value) or isinstance(value, Dispatcher | types.CompileResultWAP):
        return "a function"
    line = getattr(value, "name", None) if not isinstance(value, type) else None
    line = line if isinstance(line, str) else repr(value)
    return line if len(line) <= 120 else line[:120] + "..."


def is_strict() -> bool:
    """Is this a test, where nobody is told more than right or not right?"""
    return os.environ.get("BLOCKS2TOKENS_STRICT") == "1"


def _as_told(verdict: "Verdict") -> "Verdict":
    """Return a verdict as this class is to see it: as it is, without its solution, or the bare mark.

    BLOCKS2TOKENS_SOLUTIONS=0 leaves the solution out; BLOCKS2TOKENS_STRICT=1, for a test, all but the mark.
    """
    if is_strict():
        message = NOT_RIGHT if verdict.kind == "wrong" else verdict.message
        return replace(verdict, message=message, hints=(), solution=None)
    if os.environ.get("BLOCKS2TOKENS_SOLUTIONS") == "0":
        return replace(verdict, solution=None)
    return verdict


COLOURS = {"right": "#009E73", "wrong": "#D55E00", "untouched": "#7F7F7F"}
SIGNS = {"right": "✓", "wrong": "✗", "untouched": "○"}


@dataclass(frozen=True)
class Verdict:
    """What a check found; shows itself as a card in a notebook and as text elsewhere."""

    name: str
    kind: str
    message: str
    hints: tuple[str, ...]
    solution: Callable | None  # None: not to be shown
    twin: Callable | None = None
    pattern: object = None
    printed: str = ""

    def __repr__(self):
        printed = f"\nyour function printed:\n{self.printed}" if self.printed else ""
        return f"{SIGNS[self.kind]} {self.name}: {self.message}{printed}"

    def _repr_html_(self):
        first, *rest = self.message.split("\n")
        if self.kind == "wrong":
            rest.append(GOES_ON.capitalize() + ".")
        lines = "".join(f"<div>{html.escape(line)}</div>" for line in rest)
        return (
            f'<div style="border-left:6px solid {COLOURS[self.kind]};padding:0.3em 0.8em;margin:0.4em 0">'
            f"<b>{SIGNS[self.kind]} {self.name}</b>: {html.escape(first)}{lines}{self._what_was_printed()}"
            f"{self._help()}</div>"
        )

    def _what_was_printed(self):
        return (
            _fold("Your function printed", f"<pre>{html.escape(self.printed)}</pre>") if self.printed else ""
        )

    def _help(self):
        """Stuck? -> hint -> solution, each folded into the one before."""
        if self.kind == "right":
            return ""
        folded = "" if self.solution is None else self._folded_solution()
        for i, hint in reversed(list(enumerate(self.hints))):
            folded = _fold("Hint" if i else "Stuck?", html.escape(hint) + folded)
        return folded

    def _folded_solution(self):
        source = html.escape(textwrap.dedent(inspect.getsource(_plain(self.solution))))
        if self.twin is None:
            return _fold("Solution, from the engine", f"<pre>{source}</pre>")
        engine = f"{self.twin.__module__}.{_plain(self.twin).__qualname__}"
        return _fold("Solution", f"<pre>{source}</pre>And in the engine: <code>{engine}</code>")


def _fold(summary, content):
    return f'<details><summary>{summary}</summary><div style="margin-left:1em">{content}</div></details>'


def _plain(function):
    """Return the Python function behind a compiled one."""
    return getattr(function, "py_func", function)
