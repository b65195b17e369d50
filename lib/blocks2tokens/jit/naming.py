"""Names for functions that are generated."""

from numba import njit


def named(function, name, **options):
    """Compile a function under a name of its own, which must say all that it was generated from.

    Numba knows a compiled function in its cache by its name and the types of its arguments; of two functions
    that have both in common it would take either.
    """
    function.__name__ = function.__qualname__ = name
    return njit(cache=True, **options)(function)
