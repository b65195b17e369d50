"""Named numbers for compiled code."""

import numpy as np


def int64s(n: int) -> list[np.int64]:
    """Return 0 to n - 1, to be named: for each int that has a name Numba compiles a function anew."""
    return [np.int64(i) for i in range(n)]
