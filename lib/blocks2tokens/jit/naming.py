"""Names for functions that are generated, and classes that stand for what they are generated from."""

import threading
from collections import namedtuple

from numba import njit

LOCK = threading.Lock()  # two classes of one name would be two keys of Numba's cache, one of them never found


def named(function, name, **options):
    """Compile a function under a name of its own, which must say all that it was generated from.

    Numba knows a compiled function in its cache by its name and the types of its arguments; of two functions
    that have both in common it would take either.
    """
    function.__name__ = function.__qualname__ = name
    return njit(cache=True, **options)(function)


def stand_in(label: str) -> type:
    """Return a class, a tuple of one number, that stands for something in `@njit` code: one for each label.

    A generated function that has such a tuple in its closure looks the same in every process, so that Numba
    finds it in its cache; one that has an intrinsic or another compiled function there does not.
    """
    with LOCK:
        if label not in globals():
            globals()[label] = namedtuple(label, "number", module=__name__)
        return globals()[label]
