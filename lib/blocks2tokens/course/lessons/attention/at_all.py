"""A function of one place, asked for many: whoever writes it need not think of arrays."""

from collections.abc import Callable

import numpy as np


def at_all(function: Callable, *arguments) -> np.ndarray:
    """Return what a function gives for each element of its arguments, which are shaped to fit each other.

    One call, if the function takes arrays; one for each element, if it does not.
    """
    shape = np.broadcast(*arguments).shape
    try:
        found = np.asarray(function(*arguments))
    except Exception:  # whatever it is that it wants to do with a number
        found = None
    if found is not None and found.shape == shape:
        return found
    return np.vectorize(function, otypes=[int])(*arguments)
