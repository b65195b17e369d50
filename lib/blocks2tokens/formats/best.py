"""Better than ggml at the same bytes: search among the numbers that can be stored.

ggml fits the scale and minimum of each sub-block as free float32 numbers, under weights of its own, and
rounds them afterwards. Here the candidates are the rounded numbers. Hundreds are tried for each
sub-block, each with the codes that suit it, and the one with the lowest error wins:

    error = sum of importance * (decoded - x)**2

In a super-block this alternates with the opposite question, which least squares answers: what d and
dmin suit these codes best? `improve_rows` starts from ggml's blocks and keeps those that it cannot better.

    x        float32 [n]      the weights of a block or sub-block
    weights  float32 [n]      the importance of each
    levels   float32 [512]    the values that codes stand for before scaling, see `level_table`
"""

import numpy as np
from numba import njit, prange

from blocks2tokens.formats.compiled import as_in_c, float_to_half, half_to_float, min_max, signed_max
from blocks2tokens.formats.search import copy
from blocks2tokens.jit.cores import takes_turns

STARTS = (0.9, 0.95, 1.0, 1.05, 1.1)  # the values of d to start from, relative to ggml's
REFITS = 3  # how often d is fitted to the codes, and the scales of the sub-blocks chosen anew
REACH = 8  # how far from ggml's scale and minimum a sub-block looks at first; later 2
SMALLEST = np.float32(2**-24)  # the smallest float16 above zero
ROUNDER = np.float32(1.5 * 2**23)  # adding and subtracting it rounds a float32 to an integer


@as_in_c
def as_half(value):
    """Return the float32 that a value becomes when it is stored as float16."""
    return half_to_float(float_to_half(np.float32(value)))


@as_in_c
def squared_error(x, weights, decoded):
    """Return the error of decoded weights, float64."""
    error = 0.0
    for i in range(x.size):
        difference = np.float64(decoded[i]) - np.float64(x[i])
        error += np.float64(weights[i]) * difference * difference
    return error


@takes_turns
@njit(parallel=True, cache=True)
def improve_rows(decode_row, improve_block, x, importance, raw, n, n_bytes):
    """Replace each block of raw, uint8 [rows, bytes], by a better one for x, float32 [rows, K], if found.

    A format's `improve_block(x, importance, block, trial)` gets n weights and the block of them, and
    writes the best that it finds to `trial`; both are judged here by what they decode to.
    """
    for row in prange(x.shape[0]):
        decoded, trial = np.empty(n, np.float32), np.empty(n_bytes, np.uint8)
        for block in range(x.shape[1] // n):
            y, w = x[row, n * block : n * block + n], importance[n * block : n * block + n]
            out = raw[row, n_bytes * block : n_bytes * block + n_bytes]
            decode_row(out, decoded)
            error = squared_error(y, w, decoded)
            if 0 < error < np.inf:
                improve_block(y, w, out, trial)
                decode_row(trial, decoded)
                if squared_error(y, w, decoded) < error:
                    copy(trial, out)


@as_in_c
def best_scale_and_minimum(x, weights, nmax, scales, minimums):
    """Return the index of the candidate c that fits x best by scales[c] * q - minimums[c], and its error.

    q are the integers 0..nmax nearest to the truth. The inner loop runs over candidates, not weights:
    each has a sum of its own, so LLVM vectorizes it.
    """
    inverses, errors = np.empty(scales.size, np.float32), np.zeros(scales.size, np.float32)
    for c in range(scales.size):
        inverses[c] = np.float32(1) / scales[c]
    for i in range(x.size):
        for c in range(scales.size):
            target = x[i] + minimums[c]
            q = min(max(target * inverses[c], np.float32(0)), np.float32(nmax))
            difference = scales[c] * ((q + ROUNDER) - ROUNDER) - target
            errors[c] += weights[i] * (difference * difference)
    best = np.argmin(errors)
    return best, errors[best]


def level_table(values):
    """Return levels, float32 [512]: entry int(2 * t + 256) is the value nearest to t.

    This holds for ascending integers between -128 and 128, equally spaced or not: the halfway points
    between them are multiples of a half.
    """
    values = values.astype(np.float32)
    halfway = (values[1:] + values[:-1]) / 2
    return values[np.searchsorted(halfway, np.arange(-256, 256) / 2, side="right")]


@as_in_c
def nearest_level(target, levels):
    """Return the level nearest to a target; NaN counts as very small."""
    position = np.float32(2) * target + np.float32(256)
    position = position if position > 0 else np.float32(0)
    return levels[np.uint32(position if position < 511 else np.float32(511))]


@as_in_c
def best_scale(x, weights, levels, scales):
    """Return the index of the candidate c that fits x best by scales[c] * level, and its error."""
    inverses, errors = np.empty(scales.size, np.float32), np.zeros(scales.size, np.float32)
    for c in range(scales.size):
        inverses[c] = np.float32(1) / scales[c]
    for i in range(x.size):
        for c in range(scales.size):
            difference = scales[c] * nearest_level(x[i] * inverses[c], levels) - x[i]
            errors[c] += weights[i] * (difference * difference)
    best = np.argmin(errors)
    return best, errors[best]


@as_in_c
def window(center, reach, low, high):
    """Return first and count of the integers from low to high within `reach` of center."""
    center = min(max(center, low), high)
    first, last = max(center - reach, low), min(center + reach, high)
    return first, last - first + 1


@as_in_c
def asymmetric_scan(x, weights, nmax, top, d, dmin, sc, m, reach):
    """Return the best scale and minimum, 0..top, within `reach` of sc and m, and their error."""
    first_sc, n_sc = window(sc, reach, 1, top)
    first_m, n_m = window(m, reach, 0, top)
    scales, minimums = np.empty(n_sc * n_m, np.float32), np.empty(n_sc * n_m, np.float32)
    for c in range(n_sc * n_m):
        scales[c] = d * np.float32(first_sc + c // n_m)
        minimums[c] = dmin * np.float32(first_m + c % n_m)
    best, error = best_scale_and_minimum(x, weights, nmax, scales, minimums)
    return first_sc + best // n_m, first_m + best % n_m, error


@as_in_c
def asymmetric_refit(x, weights, nmax, d, dmin, sc, m):
    """Return the d and dmin of least squares, as float16, for the codes that suit the present ones."""
    n = x.size // sc.size
    aa, ab, bb, ax, bx = 0.0, 0.0, 0.0, 0.0, 0.0
    for s in range(sc.size):
        scale, minimum, b = d * np.float32(sc[s]), dmin * np.float32(m[s]), -np.float64(m[s])
        for i in range(n * s, n * s + n):
            q = min(max(np.rint((x[i] + minimum) / scale), np.float32(0)), np.float32(nmax))
            a, w = np.float64(sc[s]) * q, np.float64(weights[i])
            aa += w * a * a
            ab += w * a * b
            bb += w * b * b
            ax += w * a * x[i]
            bx += w * b * x[i]
    determinant = aa * bb - ab * ab
    if determinant > 1e-9 * aa * bb:
        return as_half((ax * bb - bx * ab) / determinant), as_half((bx * aa - ax * ab) / determinant)
    return as_half(ax / aa), dmin


@as_in_c
def asymmetric_improve(x, weights, nmax, top, d, dmin, sc, m):
    """Set sc and m, uint8 [s] from 0 to top, to better ones and return the d and dmin that belong to them."""
    n = x.size // sc.size
    trial_sc, trial_m, best_sc, best_m = sc.copy(), m.copy(), sc.copy(), m.copy()
    best_d, best_dmin, least = d, dmin, np.inf
    for start in STARTS:
        trial_d, trial_dmin = max(as_half(start * d), SMALLEST), max(dmin, SMALLEST)
        for s in range(sc.size):
            trial_sc[s], trial_m[s] = min(top, round(sc[s] * d / trial_d)), m[s]
        for refit in range(REFITS):
            error, reach = 0.0, 2 if refit else REACH
            for s in range(sc.size):
                y, w, a, b = (
                    x[n * s : n * s + n],
                    weights[n * s : n * s + n],
                    int(trial_sc[s]),
                    int(trial_m[s]),
                )
                found = asymmetric_scan(y, w, nmax, top, trial_d, trial_dmin, a, b, reach)
                trial_sc[s], trial_m[s] = found[0], found[1]
                error += found[2]
            if error < least:
                best_d, best_dmin, least = trial_d, trial_dmin, error
                copy(trial_sc, best_sc)
                copy(trial_m, best_m)
            trial_d, trial_dmin = asymmetric_refit(x, weights, nmax, trial_d, trial_dmin, trial_sc, trial_m)
            if not (0 < trial_d < np.inf and 0 <= trial_dmin < np.inf):
                break
    copy(best_sc, sc)
    copy(best_m, m)
    return best_d, best_dmin


@as_in_c
def symmetric_scan(x, weights, levels, d, sc, reach, low, high):
    """Return the best scale from low to high, not 0, within `reach` of sc or -sc, and its error."""
    first, count = window(sc, reach, low, high)
    mirrored, n_mirrored = window(-sc, reach, low, high)
    candidates, scales = np.empty(count + n_mirrored, np.float32), np.empty(count + n_mirrored, np.float32)
    for c in range(candidates.size):
        candidate = first + c if c < count else mirrored + c - count
        candidates[c] = np.float32(candidate if candidate != 0 else 1)
        scales[c] = d * candidates[c]
    best, error = best_scale(x, weights, levels, scales)
    return candidates[best], error


@as_in_c
def symmetric_refit(x, weights, levels, d, sc):
    """Return the d of least squares, as float16, for the codes that suit the present one."""
    n = x.size // sc.size
    aa, ax = 0.0, 0.0
    for i in range(x.size):
        scale = sc[i // n]
        a = np.float64(scale * nearest_level(x[i] / (d * scale), levels))
        aa += np.float64(weights[i]) * a * a
        ax += np.float64(weights[i]) * a * x[i]
    return as_half(ax / aa)


@as_in_c
def symmetric_improve(x, weights, levels, low, high, first_reach, d, sc):
    """Set sc, float32 [s], to better integers from low to high and return the d that belongs to them."""
    n = x.size // sc.size
    trial_sc, best_sc = sc.copy(), sc.copy()
    best_d, least = d, np.inf
    for start in STARTS:
        trial_d = as_half(start * d) if d != 0 else SMALLEST
        for s in range(sc.size):
            trial_sc[s] = np.rint(sc[s] * d / trial_d)
        for refit in range(REFITS):
            error, reach = 0.0, 2 if refit else first_reach
            for s in range(sc.size):
                y, w = x[n * s : n * s + n], weights[n * s : n * s + n]
                found = symmetric_scan(y, w, levels, trial_d, int(trial_sc[s]), reach, low, high)
                trial_sc[s] = found[0]
                error += found[1]
            if error < least:
                best_d, least = trial_d, error
                copy(trial_sc, best_sc)
            trial_d = symmetric_refit(x, weights, levels, trial_d, trial_sc)
            if not 0 < abs(trial_d) < np.inf:
                break
    copy(best_sc, sc)
    return best_d


@as_in_c
def scale_scan(x, weights, levels, first, step, count):
    """Return the best of `count` scales, equally spaced and rounded to float16, and its error."""
    scales = np.empty(count, np.float32)
    for c in range(count):
        scales[c] = as_half(first + step * np.float32(c))
        if scales[c] == 0:
            scales[c] = SMALLEST
    best, error = best_scale(x, weights, levels, scales)
    return scales[best], error


@as_in_c
def scale_improve(x, weights, levels, low, high):
    """Return a good float16 scale for a block that has no other.

    Tries 128 from low to high times the one that uses the whole range, the same with the sign turned, and
    65 around the best of those.
    """
    whole = abs(signed_max(x, 0, x.size)) / max(abs(levels[0]), abs(levels[511]))
    first, step = np.float32(low) * whole, np.float32(high - low) * whole / np.float32(127)
    scale, error = scale_scan(x, weights, levels, first, step, 128)
    turned, turned_error = scale_scan(x, weights, levels, -first, -step, 128)
    if turned_error < error:
        scale = turned
    return scale_scan(x, weights, levels, scale - step, step / np.float32(32), 65)[0]


@as_in_c
def range_scan(x, weights, nmax, low, high, reach):
    """Return the best scale and minimum for a range with ends within `reach` of low and high, as float16."""
    scales, minimums = np.empty(625, np.float32), np.empty(625, np.float32)
    for c in range(625):
        start = low + reach * np.float32(c // 25 - 12) / np.float32(12)
        end = high + reach * np.float32(c % 25 - 12) / np.float32(12)
        scales[c], minimums[c] = max(as_half((end - start) / np.float32(nmax)), SMALLEST), as_half(-start)
    best = best_scale_and_minimum(x, weights, nmax, scales, minimums)[0]
    return scales[best], minimums[best]


@as_in_c
def range_improve(x, weights, nmax):
    """Return a good float16 scale and minimum for a block that has one of each: scale * q - minimum.

    Looks three times, ever closer, for the best range to spread the codes over. The first look is
    centred on the range of x less a sixth at either end.
    """
    low, high = min_max(x, 0, x.size)
    reach = (high - low) / np.float32(5)
    low, high = low + np.float32(0.8) * reach, high - np.float32(0.8) * reach
    scale, minimum = range_scan(x, weights, nmax, low, high, reach)
    for _ in range(2):
        reach /= np.float32(12)
        scale, minimum = range_scan(x, weights, nmax, -minimum, scale * np.float32(nmax) - minimum, reach)
    return scale, minimum
