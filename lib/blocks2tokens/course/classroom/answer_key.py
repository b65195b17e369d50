"""Does a right answer do the work itself, or does it call the engine's function for it?

    the answer's functions  --names they use-->  values, and what these have by such a name
                            --a call, watched-->  Python functions that these call
    one of these is the exercise's engine or solution: the answer key answered, unless the solution that is
    shown calls it, too

What is compiled and hidden within another of the engine's functions is not seen.
"""

import dis
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from types import CodeType, FunctionType, ModuleType

from blocks2tokens.course.check import Exercise
from blocks2tokens.course.check.calls import copied
from blocks2tokens.course.collected.sources import plain


def called_by(function: Callable, exercise: Exercise) -> str | None:
    """Return the full name of the engine's function that answers for a learner's, or None."""
    used_by_solution = list(_reached(plain(exercise.solution or exercise.engine)))
    keys = [plain(key) for key in (exercise.engine, exercise.solution) if key is not None]
    keys = [key for key in keys if not any(key is value for value in used_by_solution)]
    found = next((key for value in _reached(plain(function)) for key in keys if value is key), None)
    if found is None:
        # By identity: a pasted solution is equal to what it was copied from.
        codes = {id(key.__code__): key for key in keys if isinstance(key, FunctionType)}
        found = codes.get(_code_that_ran(function, exercise, codes))
    return f"{found.__module__}.{found.__qualname__}" if found is not None else None


def _reached(function: object, seen: set | None = None) -> Iterator[object]:
    """Yield what the names of a function stand for, and of those of its notebook that it uses."""
    seen = set() if seen is None else seen
    if not isinstance(function, FunctionType) or function in seen:
        return
    seen.add(function)
    for name, attribute in _names(function.__code__):
        value = function.__globals__.get(name)
        if isinstance(value, ModuleType):
            value = vars(value).get(attribute)
        yield plain(value)
        if getattr(plain(value), "__globals__", None) is function.__globals__:
            yield from _reached(plain(value), seen)


def _names(code: CodeType) -> Iterator[tuple[str, str]]:
    """Yield each global name that code looks up, and what it asks of it by a dot, "" for nothing."""
    instructions = [*dis.get_instructions(code), None]
    for one, following in pairwise(instructions):
        if one.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            is_dotted = following is not None and following.opname in ("LOAD_ATTR", "LOAD_METHOD")
            yield one.argval, following.argval if is_dotted else ""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _code_that_ran(function, exercise, codes):
    """Call a function once, and return the first of these codes that it calls itself, or None."""
    ran, own_file = [], getattr(getattr(plain(function), "__code__", None), "co_filename", None)

    def watch(frame, event, _):
        if event == "call" and id(frame.f_code) in codes and frame.f_back.f_code.co_filename == own_file:
            ran.append(id(frame.f_code))

    arguments = [copied(argument) for argument in next(iter(exercise.cases().values()))]
    sys.setprofile(watch)
    try:
        function(*arguments)
    except Exception:  # of some exercises the cases set a stage: they are not the arguments
        return None
    finally:
        sys.setprofile(None)
    return ran[0] if ran else None
