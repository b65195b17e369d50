"""Masks: which weights of a matrix stay. Rows are compared with themselves, never with each other.

    scores  [N, K]   magnitude   |w|
                     wanda       |w| * norm of the input column
    keep    [N, K]   bool        a share of each row goes, the lowest scores;
                                 or, "2:4", two of each four neighbours

Source: Sun et al., "A Simple and Effective Pruning Approach for Large Language Models" (Wanda), 2023; Mishra
et al., "Accelerating Sparse Deep Neural Networks", 2021 (2:4).
"""

import re

import numpy as np

TINY = 1e-9  # 0.29 * 100 is a little below 29


def magnitude_scores(W: np.ndarray) -> np.ndarray:
    """Return how much each weight matters, float32 [N, K]: its size."""
    return np.abs(W)


def wanda_scores(W: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """Return how much each weight of W, [N, K], matters: its size times the norm of its input, [K]."""
    return np.abs(W) * norms.astype(np.float32)


def keep_rows(scores: np.ndarray, share: float) -> np.ndarray:
    """Return which weights stay, bool [N, K]: `share` of each row goes, rounded down, the lowest scores.

    Of equal scores the first goes.
    """
    return _keep_all_but(int(share * scores.shape[1] + TINY), scores)


def keep_pattern(scores: np.ndarray, n: int, m: int) -> np.ndarray:
    """Return which weights stay, bool [N, K]: n of each m neighbours along a row, the highest scores.

    Of equal scores the first goes. Raises ValueError unless K is a multiple of m.
    """
    N, K = scores.shape
    if K % m:
        raise ValueError(f"{n}:{m}: expected rows of a multiple of {m} weights, got {K}")
    return _keep_all_but(m - n, scores.reshape(-1, m)).reshape(N, K)


def _keep_all_but(count: int, scores: np.ndarray) -> np.ndarray:
    keep = np.ones(scores.shape, bool)
    lowest = np.argsort(scores, axis=1, kind="stable")[:, :count]
    np.put_along_axis(keep, lowest, False, axis=1)
    return keep


def pattern_of(share: float | str) -> tuple[int, int] | None:
    """Return (n, m) of a share written "n:m", None of a number; ValueError for a share that is neither.

    >>> pattern_of("2:4"), pattern_of(0.5)
    ((2, 4), None)
    """
    if isinstance(share, str):
        found = re.fullmatch(r"(\d{1,3}):(\d{1,3})", share)
        if found is None or not 0 < int(found[1]) < int(found[2]):
            raise ValueError(f"share: expected n:m with 0 < n < m, such as '2:4', got {share!r}")
        return int(found[1]), int(found[2])
    if isinstance(share, bool) or not isinstance(share, int | float | np.number) or not 0 < share < 1:
        raise ValueError(f"share: expected a number between 0 and 1, got {share!r}")
    return None
