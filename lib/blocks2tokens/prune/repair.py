"""Repair: the weights that stay take over what those that go have done.

    H = X^T X + damping          what the columns have in common        [K, K]
    U                            the upper triangle with U^T U = H^-1   [K, K]
    for each column j            error = w_j / U_jj where w_j goes
                                 columns behind j  -=  error * U_j

Error feedback as when rounding, see `formats.feedback`, with 0 in the place of the nearest code. Columns in
front of j stay as they are, so that one triangle serves all rows: the exact answer for each row would take an
inverse of its own. Source: Frantar and Alistarh, "SparseGPT", 2023; Hassibi and Stork, "Optimal Brain
Surgeon", 1992.
"""

import numpy as np

from blocks2tokens.jit.cores import one_blas_thread

COLUMNS = 128  # taken together: what is behind them is corrected by one product


def repair(W: np.ndarray, keep: np.ndarray, U: np.ndarray) -> np.ndarray:
    """Return W, float32 [N, K], with 0 where `keep`, bool [N, K], is False, and the rest adjusted.

    U, `feedback.triangle` of X^T X, says what its inputs are like: the product with these then changes less.
    """
    out = W.astype(np.float64)
    with one_blas_thread():
        for first in range(0, W.shape[1], COLUMNS):
            last = min(first + COLUMNS, W.shape[1])
            errors = np.zeros((len(W), last - first))
            for j in range(first, last):
                error = np.where(keep[:, j], 0, out[:, j] / U[j, j])
                out[:, j:last] -= np.outer(error, U[j, j:last])
                errors[:, j - first] = error
            out[:, last:] -= errors @ U[first:last, last:]
    return np.where(keep, out, 0).astype(np.float32)
