"""np.empty, while a learner's function is judged: memory that has been used before, and says so.

    function that calls np.empty  --full_of-->  the same, whose new arrays are full of one value

What np.empty gives is what was left there, zeros on a lucky day. A function that adds to it would be right
today and wrong tomorrow; full of NaN it is wrong at once, and full of zeros it tells why.
"""

from types import CodeType, FunctionType

import numpy as np

LEAVES_OPEN = {"empty", "empty_like"}
COMPILES = {"njit", "jit"}  # and Numba knows NumPy only as itself


def full_of(value: float, function):
    """Return a function whose np.empty is full of a value; others, and compiled ones, as they are.

    The value is NaN or 0; an integer array that is to hold NaN gets its smallest number, or for bytes 255.
    """
    if not isinstance(function, FunctionType):
        return function
    names = _names(function.__code__)
    if not names & LEAVES_OPEN or names & COMPILES:
        return function
    filled = _NumPy(value)
    namespace = {name: filled if v is np else v for name, v in function.__globals__.items()}
    new = FunctionType(
        function.__code__, namespace, function.__name__, function.__defaults__, function.__closure__
    )
    new.__kwdefaults__, new.__doc__ = function.__kwdefaults__, function.__doc__
    new.__qualname__, new.__module__ = function.__qualname__, function.__module__
    return new


class _NumPy:
    """NumPy, but for what leaves its memory as it was."""

    def __init__(self, value):
        self._value = value

    def __getattr__(self, name):
        found = getattr(np, name)
        return self._filling(found) if name in LEAVES_OPEN else found

    def _filling(self, make):
        def filled(*arguments, **named):
            array = make(*arguments, **named)
            value = _value_of(array.dtype, self._value)
            if value is not None:
                array[...] = value[0]
            return array

        return filled


def _value_of(dtype, value):
    """Return an array of one element, what NaN or 0 is in a type; None where the type has no such thing."""
    if dtype.hasobject or dtype.itemsize == 0:
        return None
    if not value:
        return np.zeros(1, dtype)
    if dtype.kind in "iu":
        return np.array([np.iinfo(dtype).min or np.iinfo(dtype).max], dtype)
    return np.frombuffer(b"\xff" * dtype.itemsize, dtype) if dtype.kind != "b" else np.ones(1, dtype)


def _names(code):
    """Return the names that code looks up, with those of the functions defined within it."""
    return set(code.co_names).union(*(_names(c) for c in code.co_consts if isinstance(c, CodeType)))
