"""Exercises that look at what a function does, beside what it returns.

    right answers --looks-->  the work counted, the code compiled, the arguments as they were
        each look   (function) -> what is wrong, or None

A look runs only once the answers are right. Where it cannot see what it looks for, it finds nothing.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import FunctionType

import numpy as np
from numba import njit

from blocks2tokens.course.check.bounds import checked
from blocks2tokens.course.check.exercise import INPUT, Exercise, Verdict, _not_to_compile, difference
from blocks2tokens.course.check.explain import explain


@dataclass(frozen=True)
class WatchedExercise(Exercise):
    """One task.

    looks       (function) -> what is wrong with a function whose answers are right, or None
    raised      {how an exception begins: what it means here, in place of what it means elsewhere}
    other_form  function -> a function that gives the answers in the form asked for, where there are several
    """

    looks: tuple[Callable, ...] = ()
    raised: dict[str, str] = field(default_factory=dict)
    other_form: Callable | None = None

    def __call__(self, function: Callable) -> Callable:
        """Judge a function; of one that is compiled already, return the plain one: the lesson compiles."""
        return plain(super().__call__(function))

    def judge(self, function: Callable) -> Verdict:
        function = checked(plain(function))
        verdict = super().judge(function)
        if verdict.kind == "wrong" and callable(function):
            verdict = self._second_look(function, verdict)
        if verdict.kind == "right":
            problems = (look(function) for look in self.looks)
            problem = next((problem for problem in problems if problem), None)
            if (
                not problem
                and verdict.pattern is not None
                and any(hasattr(look, "compiles") for look in self.looks)
            ):
                arguments = next(iter(self.cases().values()))
                problem, verdict = (
                    _not_to_compile(on_copies(function, arguments), verdict.pattern),
                    replace(verdict, pattern=None),
                )
            return self._verdict("wrong", problem) if problem else verdict
        return verdict

    def _second_look(self, function, verdict):
        """Return the verdict on the other form, if that is right; tell what an exception means."""
        for name, told in self.raised.items():
            if verdict.message.startswith(f"your function raised {name}"):
                first, *others = verdict.message.split("\n")
                inputs = [line for line in others if line.startswith(INPUT)]
                return self._verdict("wrong", "\n".join([first, told, *inputs]))
        if self.other_form and not verdict.message.startswith("your function"):  # there are answers
            other = super().judge(self.other_form(function))
            return replace(other, pattern=None) if other.kind == "right" else verdict
        return verdict


def plain(function: Callable) -> Callable:
    """Return the Python function behind a compiled one."""
    return getattr(function, "py_func", function)


def on_copies(function: Callable, arguments: tuple):
    """Return the answer of a function that may write into its arguments and divide by zero."""
    copies = [argument.copy() if isinstance(argument, np.ndarray) else argument for argument in arguments]
    with np.errstate(all="ignore"):
        return function(*copies)


def with_names(function: Callable, **names) -> Callable:
    """Return a function that finds others in the place of the global names it uses."""
    if not isinstance(function, FunctionType):
        return function
    known = {name: value for name, value in names.items() if name in function.__globals__}
    code, defaults = function.__code__, function.__defaults__
    return FunctionType(code, function.__globals__ | known, code.co_name, defaults, function.__closure__)


class Counter:
    """A function that counts its calls."""

    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *arguments):
        self.calls += 1
        return self.function(*arguments)


def look(watch: Callable) -> Callable:
    """Return a look that finds nothing where watching itself fails."""

    def careful(function):
        try:
            return watch(function)
        except Exception:
            return None

    return careful


def counted_calls(arguments: Callable, name: str, at: int) -> Callable:
    """Return a look that compares the count a function returns, its second value, with its calls.

    arguments() makes those of one case; the one at place `at` is the function whose calls count.
    """

    def watch(function):
        given = list(arguments())
        given[at] = counter = Counter(given[at])
        told = int(function(*given)[1])
        if counter.calls in (0, told):
            return None
        return (
            f"the product is right; you return {told} as the count, and called {name} {counter.calls} times"
        )

    return look(watch)


def compiles(arguments: Callable, tolerance: float = 1e-4) -> Callable:
    """Return a look that compiles a function, as the lesson will, and compares the two answers."""

    def watch(function):
        if not isinstance(function, FunctionType):
            return None
        given = tuple(map(checked, arguments()))
        expected = on_copies(
            function, tuple(plain(a) if hasattr(a, "py_func") else checked(a) for a in arguments())
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is slow or will be refused one day
            try:
                answer = on_copies(njit(boundscheck=True)(function), given)
            except Exception as error:
                return f"right in Python, but the lesson compiles it.\n{explain(error)}"
        found = difference(answer, expected, tolerance, "compiled by Numba")
        return f"right in Python, and another function in compiled code\n{found}" if found else None

    watch.compiles = True
    return watch
