"""Does a right answer do the work itself, or does it call the engine's function for it?

    the answer's functions  --names they use-->  values, and what these have by such a name
                            --a call, watched-->  Python functions that run on the way
    one of these is the exercise's engine, twin or solution: the answer key answered

What is compiled and hidden within another of the engine's functions is not seen.
"""

import sys
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, ModuleType

from blocks2tokens.course.check import Exercise
from blocks2tokens.course.check.calls import copied
from blocks2tokens.course.collected.sources import plain


def called_by(function: Callable, exercise: Exercise) -> str | None:
    """Return the full name of the engine's function that answers for a learner's, or None."""
    keys = [plain(key) for key in (exercise.engine, exercise.twin, exercise.solution) if key is not None]
    found = next((key for value in _reached(plain(function)) for key in keys if value is key), None)
    if found is None:
        codes = {key.__code__: key for key in keys if isinstance(key, FunctionType)}
        found = codes.get(_code_that_ran(function, exercise, codes))
    return f"{found.__module__}.{found.__qualname__}" if found is not None else None


def _reached(function: object, seen: set | None = None) -> Iterator[object]:
    """Yield what the names of a function stand for, and of those of its notebook that it uses."""
    seen = set() if seen is None else seen
    if not isinstance(function, FunctionType) or function in seen:
        return
    seen.add(function)
    names = _names(function.__code__)
    values = [function.__globals__[name] for name in names if name in function.__globals__]
    values += [cell.cell_contents for cell in function.__closure__ or () if cell != type(cell)()]
    for value in values:
        yield plain(value)
        if isinstance(value, ModuleType):
            yield from (plain(vars(value)[name]) for name in names if name in vars(value))
        elif getattr(plain(value), "__globals__", None) is function.__globals__:
            yield from _reached(plain(value), seen)


def _names(code: CodeType) -> set[str]:
    return set(code.co_names).union(*(_names(c) for c in code.co_consts if isinstance(c, CodeType)))


def _code_that_ran(function, exercise, codes):
    """Call a function once, and return the first of these codes that runs, or None."""
    ran = []

    def watch(frame, event, _):
        if event == "call" and frame.f_code in codes:
            ran.append(frame.f_code)

    arguments = [copied(argument) for argument in next(iter(exercise.cases().values()))]
    sys.setprofile(watch)
    try:
        function(*arguments)
    except Exception:  # of some exercises the cases set a stage: they are not the arguments
        return None
    finally:
        sys.setprofile(None)
    return ran[0] if ran else None
