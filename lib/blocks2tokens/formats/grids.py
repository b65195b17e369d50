"""The code books of the IQ formats: where others have codes of a few bits, these have points of a grid.

    a code of 8 to 11 bits  --grid-->  8 (or 4) magnitudes at once      chosen so that neighbours in a row,
                                                                        which are rarely all large, fit well
    a code of 7 bits        --signs->  8 signs, the number of minus signs even: the eighth follows

    IQ2_XXS, IQ2_XS, IQ2_S   [256, 8], [512, 8], [1024, 8]    of 8, 25, 43
    IQ3_XXS, IQ3_S           [256, 4], [512, 4]               of 4, 12, 20 .. 62; of 1, 3, 5 .. 15
    IQ1                      [2048, 8]                        of -1, 0, 1

Source: the tables iq2xxs_grid, iq2xs_grid, iq2s_grid, iq3xxs_grid, iq3s_grid, iq1s_grid and ksigns_iq2xs
of ggml (MIT), kept as data in grids.npz.
"""

from pathlib import Path

import numpy as np
from numba import njit

with np.load(Path(__file__).with_name("grids.npz")) as _file:
    IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S, IQ1 = (
        _file[name] for name in ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1")
    )

_SEVEN = np.arange(128, dtype=np.uint8)
EVEN_SIGNS = _SEVEN | (np.bitwise_count(_SEVEN) & 1) << 7  # uint8 [128]: bit j, is weight j below 0?


def signed(magnitudes, signs):
    """Return magnitudes, [..., m], with signs, uint8 [...]: below zero where bit j is set."""
    bits = (signs[..., None] >> np.arange(magnitudes.shape[-1], dtype=np.uint8)) & 1
    return np.where(bits == 1, -magnitudes, magnitudes)


@njit(cache=True)
def signed_weight(magnitude, signs, j):
    """Return a magnitude, below zero if bit j of signs is set."""
    return -magnitude if (signs >> j) & 1 else magnitude
