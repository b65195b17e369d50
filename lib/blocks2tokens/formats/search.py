"""ggml's searches: the scale, or scale and minimum, whose codes fit some weights best.

    x        float32 [n]    the weights of one block or sub-block
    weights  float32 [n]    how much the error of each of them counts
    codes    float32 [n]    written: the codes that belong to the result; small integers, kept as floats

All sums are float32 and run in order, as in C compiled without -ffast-math: which codes win hangs on
the last bit of an error. Codes are computed in loops without sums, which LLVM vectorizes.

Numba compiles a function anew for every literal integer that it is called with, but only once for all
NumPy integers: that is why formats name theirs, as in NMAX = np.int64(15).

Source: ggml-quants.c (MIT), the functions named below. Its algorithms, our code.
"""

import numpy as np

from blocks2tokens.formats.compiled import as_in_c, float_to_bits, min_max, signed_max

TINY = np.float32(1e-15)  # weights all smaller than this count as zeros: `GROUP_MAX_EPS`
WEIGHTED_GRID = (-0.9, 0.05, np.int64(36))  # of `asymmetric_search`, with importance
NINE_TRIALS = (0, -4, -3, -2, -1, 1, 2, 3, 4)  # the plain scale first, so that it wins ties
NINETEEN_TRIALS = (0, -9, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9)


@as_in_c
def nearest(value):
    """Round a float32 to the nearest int32, halves to even. Source: `nearest_int`.

    Adding 1.5 * 2**23 leaves the integer in the low bits of the sum. This holds for |value| < 2**22;
    larger values, infinities and NaN give nonsense, but the same nonsense everywhere.
    """
    bits = float_to_bits(value + np.float32(12582912))
    return np.int32(np.int32(bits & np.uint32(0x7FFFFF)) - np.int32(0x400000))


@as_in_c
def code(value, low, high):
    """Return the integer from `low` to `high` that is nearest to a float32, as float32."""
    return np.float32(min(np.int32(high), max(np.int32(low), nearest(value))))


@as_in_c
def total(x):
    """Return the sum of x, added in order."""
    result = np.float32(0)
    for i in range(x.size):
        result += x[i]
    return result


@as_in_c
def totals(x, n):
    """Return the sum of each sub-block of n numbers."""
    sums = np.empty(x.size // n, np.float32)
    for s in range(x.size // n):
        sums[s] = total(x[n * s : n * s + n])
    return sums


@as_in_c
def mean_square(x):
    """Return the mean of x * x, added in order."""
    result = np.float32(0)
    for i in range(x.size):
        result += x[i] * x[i]
    return result / np.float32(x.size)


@as_in_c
def magnitudes(x):
    """Return |x|."""
    weights = np.empty(x.size, np.float32)
    for i in range(x.size):
        weights[i] = abs(x[i])
    return weights


@as_in_c
def squares(x):
    """Return x * x."""
    weights = np.empty(x.size, np.float32)
    for i in range(x.size):
        weights[i] = x[i] * x[i]
    return weights


@as_in_c
def importance_weights(x, importance, variance):
    """Return importance * sqrt(variance + x * x): errors of larger weights count more."""
    weights = np.empty(x.size, np.float32)
    for i in range(x.size):
        weights[i] = importance[i] * np.sqrt(variance + x[i] * x[i])
    return weights


@as_in_c
def copy(source, target):
    """Set target to source."""
    for i in range(source.size):
        target[i] = source[i]


@as_in_c
def asymmetric_codes(x, inverse, minimum, nmax, codes):
    """Set codes, 0..nmax, to those of (x - minimum) * inverse."""
    for i in range(x.size):
        codes[i] = code(inverse * (x[i] - minimum), 0, nmax)


@as_in_c
def asymmetric_error(x, weights, codes, scale, minimum, absolute):
    """Return the weighted error of scale * codes + minimum, absolute or squared."""
    error = np.float32(0)
    for i in range(x.size):
        difference = scale * codes[i] + minimum - x[i]
        error += weights[i] * (abs(difference) if absolute else difference * difference)
    return error


@as_in_c
def asymmetric_fit(x, weights, codes, sum_w, sum_x):
    """Return the scale and minimum <= 0 of least squares for these codes, and whether there is one."""
    sum_q, sum_qq, sum_qx = np.float32(0), np.float32(0), np.float32(0)
    for i in range(x.size):
        wq = weights[i] * codes[i]
        sum_q += wq
        sum_qq += wq * codes[i]
        sum_qx += wq * x[i]
    determinant = sum_w * sum_qq - sum_q * sum_q
    if not determinant > 0:
        return np.float32(0), np.float32(0), False
    scale = (sum_w * sum_qx - sum_x * sum_q) / determinant
    minimum = (sum_qq * sum_x - sum_q * sum_qx) / determinant
    if minimum > 0:
        return sum_qx / sum_qq, np.float32(0), True
    return scale, minimum, True


@as_in_c
def asymmetric_search(x, weights, nmax, grid, absolute, codes):
    """Fit x by scale * codes - minimum with codes 0..nmax; return scale and minimum >= 0.

    grid = (first, step, last): trial t spreads nmax + first + step * t codes over the range of x, then
    fits scale and minimum to the codes it got. The lower end of the range is the best minimum so far.
    The error is absolute or squared. Source: `make_qkx2_quants`, `make_qkx3_quants`.
    """
    low, high = min_max(x, 0, x.size)
    minimum = min(low, np.float32(0))
    if minimum == high:
        for i in range(x.size):
            codes[i] = np.float32(0)
        return np.float32(0), -minimum
    sum_w, sum_x = weights[0], weights[0] * x[0]
    for i in range(1, x.size):
        sum_w += weights[i]
        sum_x += weights[i] * x[i]

    inverse = np.float32(nmax) / (high - minimum)
    scale = np.float32(1) / inverse
    asymmetric_codes(x, inverse, minimum, nmax, codes)
    least = asymmetric_error(x, weights, codes, scale, minimum, absolute)
    trial = np.empty(x.size, np.float32)
    first, step, last = grid
    for t in range(last + 1):
        spread = np.float32(first) + np.float32(step) * np.float32(t) + np.float32(nmax)
        asymmetric_codes(x, spread / (high - minimum), minimum, nmax, trial)
        new_scale, new_minimum, fits = asymmetric_fit(x, weights, trial, sum_w, sum_x)
        if fits:
            error = asymmetric_error(x, weights, trial, new_scale, new_minimum, absolute)
            if error < least:
                least, scale, minimum = error, new_scale, new_minimum
                copy(trial, codes)
    return scale, -minimum


@as_in_c
def asymmetric_scales(x, weights, n, nmax, grid, absolute):
    """Search each sub-block of n weights; return scales and minimums, [x.size / n], and codes, [x.size]."""
    scales, minimums = np.empty(x.size // n, np.float32), np.empty(x.size // n, np.float32)
    codes = np.empty(x.size, np.float32)
    for s in range(x.size // n):
        y, w, q = x[n * s : n * s + n], weights[n * s : n * s + n], codes[n * s : n * s + n]
        scales[s], minimums[s] = asymmetric_search(y, w, nmax, grid, absolute, q)
    return scales, minimums, codes


@as_in_c
def asymmetric_recode(x, scale, minimum, nmax, codes):
    """Set codes to the best for scale * codes - minimum once these are rounded, unless scale is zero."""
    if scale != 0:
        for i in range(x.size):
            codes[i] = code((x[i] + minimum) / scale, 0, nmax)


@as_in_c
def round_to_largest(values, top):
    """Round values >= 0 to multiples of largest / top; return this unit and the multiples, uint8 [n]."""
    largest = np.float32(0)
    for i in range(values.size):
        largest = max(largest, values[i])
    inverse = np.float32(top) / largest if largest > 0 else np.float32(0)
    rounded = np.empty(values.size, np.uint8)
    for i in range(values.size):
        rounded[i] = min(top, nearest(inverse * values[i]))
    return largest / np.float32(top), rounded


@as_in_c
def refine_codes(x, weights, codes, low, high):
    """Change codes one at a time, each within low..high, while the error falls; return the scale.

    With the scale of least squares, sum_qx / sum_qq, the error falls when sum_qx**2 / sum_qq grows.
    """
    sum_qx, sum_qq = np.float32(0), np.float32(0)
    for i in range(x.size):
        sum_qx += weights[i] * x[i] * codes[i]
        sum_qq += weights[i] * codes[i] * codes[i]
    for _ in range(5):
        changed = False
        for i in range(x.size):
            w = weights[i]
            new_qx = sum_qx - w * x[i] * codes[i]
            new_qq = sum_qq - w * codes[i] * codes[i]
            if new_qx > 0 and new_qq > 0:
                q = code(x[i] * new_qq / new_qx, low, high)
                new_qx += w * x[i] * q
                new_qq += w * q * q
                if q != codes[i] and new_qx * new_qx * sum_qq > sum_qx * sum_qx * new_qq:
                    codes[i], sum_qx, sum_qq = q, new_qx, new_qq
                    changed = True
        if not changed:
            break
    return sum_qx / sum_qq if sum_qq > 0 else np.float32(0)


@as_in_c
def positive_search(x, weights, nmax):
    """Fit x by scale * codes with codes 0..nmax; return scale and codes, uint8 [n].

    Nine scales near largest / nmax are tried, and the codes of the best are refined. Numbers below zero
    get code 0, where ggml's wraps around to a large one; only degenerate importance leads to them.
    Source: `make_qp_quants`.
    """
    codes, rounded = np.empty(x.size, np.float32), np.zeros(x.size, np.uint8)
    largest = np.float32(0)
    for i in range(x.size):
        largest = max(largest, x[i])
    if largest < TINY:
        return np.float32(0), rounded
    inverse, least = np.float32(0), np.float32(0)
    for t in NINE_TRIALS:
        trial = (np.float32(0.1) * np.float32(t) + np.float32(nmax)) / largest
        scale, error = np.float32(1) / trial, np.float32(0)
        for i in range(x.size):
            difference = x[i] - scale * code(trial * x[i], 0, nmax)
            error += weights[i] * difference * difference
        if t == 0 or error < least:
            inverse, least = trial, error
    for i in range(x.size):
        codes[i] = code(inverse * x[i], 0, nmax)
    scale = refine_codes(x, weights, codes, 0, nmax)
    for i in range(x.size):
        rounded[i] = int(codes[i])
    return scale, rounded


@as_in_c
def symmetric_codes(x, inverse, nmax, codes):
    """Set codes, -nmax..nmax - 1, to those of x * inverse."""
    for i in range(x.size):
        codes[i] = code(inverse * x[i], -nmax, nmax - 1)


@as_in_c
def symmetric_fit(x, weights, codes):
    """Return sum_qx and sum_qq: the scale of least squares for x = scale * codes is their quotient."""
    sum_qx, sum_qq = np.float32(0), np.float32(0)
    for i in range(x.size):
        sum_qx += weights[i] * x[i] * codes[i]
        sum_qq += weights[i] * codes[i] * codes[i]
    return sum_qx, sum_qq


@as_in_c
def symmetric_search(x, weights, nmax, codes):
    """Fit x by scale * (codes - nmax) with codes 0..2 * nmax - 1; return the scale.

    Nineteen scales near largest / -nmax give codes; those win whose scale of least squares,
    sum_qx / sum_qq, leaves the smallest error: the largest sum_qx**2 / sum_qq.
    Source: `make_qx_quants` with `rmse_type` 1.
    """
    largest = signed_max(x, 0, x.size)
    if abs(largest) < TINY:
        for i in range(x.size):
            codes[i] = np.float32(0)
        return np.float32(0)
    scale, best = np.float32(0), np.float32(0)
    trial = np.empty(x.size, np.float32)
    for t in NINETEEN_TRIALS:
        spread = np.float32(nmax) + np.float32(0.1) * np.float32(t)
        symmetric_codes(x, -spread / largest, nmax, trial)
        sum_qx, sum_qq = symmetric_fit(x, weights, trial)
        if t == 0 or (sum_qq > 0 and sum_qx * sum_qx > best * sum_qq):
            scale = sum_qx / sum_qq if sum_qq != 0 else np.float32(0)
            best = scale * sum_qx
            for i in range(x.size):
                codes[i] = trial[i] + np.float32(nmax)
    return scale


@as_in_c
def symmetric_scales(x, weights, n, nmax):
    """Search each sub-block of n weights; return scales, [x.size / n], and codes, [x.size]."""
    scales, codes = np.empty(x.size // n, np.float32), np.empty(x.size, np.float32)
    for s in range(x.size // n):
        y, w, q = x[n * s : n * s + n], weights[n * s : n * s + n], codes[n * s : n * s + n]
        scales[s] = symmetric_search(y, w, nmax, q)
    return scales, codes


@as_in_c
def symmetric_recode(x, scale, nmax, codes):
    """Set codes to the best for scale * (codes - nmax) once it is rounded, unless it is zero."""
    if scale != 0:
        for i in range(x.size):
            codes[i] = code(x[i] / scale, -nmax, nmax - 1) + np.float32(nmax)
