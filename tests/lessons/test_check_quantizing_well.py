"""What learners write in lesson 06, for test_check_learners.py, and what is the lesson's own."""

import numpy as np

from blocks2tokens.course.lessons.quantizing_well import exercises as quantizing_well
from blocks2tokens.formats import iq4_nl, mxfp4

EXERCISES = {exercise.name: exercise for exercise in quantizing_well.EXERCISES}


# Learners' functions, right unless told otherwise


def nearest(
    round_to=round, low=lambda nmax: -nmax, high=lambda nmax: nmax - 1, value=lambda x, scale: x / scale
):
    def codes(x, scale, nmax):
        return [min(high(nmax), max(low(nmax), round_to(float(value(v, scale))))) for v in x]

    return codes


def floor(v):
    return int(np.floor(v))


def best_scale(x, weights, codes):
    """The scale as many people write it."""
    return (weights * x * codes).sum() / (weights * codes**2).sum()


def scale_by(top, bottom, weight=lambda w: w):
    def scale(x, weights, codes):
        each = [(float(weight(w)), float(v), float(q)) for w, v, q in zip(weights, x, codes, strict=True)]
        return sum(top(*one) for one in each) / sum(bottom(*one) for one in each)

    return scale


def symmetric(
    dtype=np.float64,
    trials=range(-9, 10),
    start=None,
    refit=True,
    weigh=True,
    first=False,
    last=False,
    width=0.1,
    count=lambda w: w,
    sign=1,
):
    def search(x, weights, nmax):
        x, w = x.astype(dtype), weights.astype(dtype) if weigh else np.ones(len(x), dtype)
        largest = start(x, nmax) if start else x[np.abs(x).argmax()] / -nmax
        if np.abs(x).max() == 0:
            return (np.nan, x * np.nan) if first else (0, x)
        least, found = np.inf, None
        for t in trials:
            trial = sign * largest * nmax / dtype(nmax + width * t)
            if start:
                trial = largest * (nmax - 1) / dtype(nmax - 1 + width * t)
            q = np.clip(np.round(x / trial), -nmax, nmax - 1)
            s = best_scale(x, w, q) if refit else trial
            error = (count(w) * (s * q - x) ** 2).sum()
            if error < least or last:
                least, found = error, (s, q)
        return found

    return search


def fit_to(weigh=True, clip=True, again=True, result=lambda scale, minimum: (scale, minimum)):
    """Return a scale_and_minimum by NumPy's own least squares."""

    def scale_and_minimum(x, weights, codes):
        x, q = x.astype(float), codes.astype(float)
        root = np.sqrt(weights.astype(float)) if weigh else np.ones(len(x))
        design = np.stack([q, np.ones(len(q))], axis=1) * root[:, None]
        scale, minimum = np.linalg.lstsq(design, x * root, rcond=None)[0]
        if clip and minimum > 0:
            scale, minimum = best_scale(x, root**2, q) if again else scale, 0.0
        return result(scale, minimum)

    return scale_and_minimum


def plain_fit(x, weights, codes):
    """The formulas, with NumPy's sums in float32."""
    w, q = weights, codes
    W, X, Q, QQ, QX = w.sum(), (w * x).sum(), (w * q).sum(), (w * q * q).sum(), (w * q * x).sum()
    D = W * QQ - Q * Q
    scale, minimum = (W * QX - X * Q) / D, (QQ * X - Q * QX) / D
    return (scale, minimum) if minimum <= 0 else (QX / QQ, 0.0)


def low_and_scale(x, weights, codes):
    low = min(0, x.min())
    return best_scale(x - low, weights, codes), low


def polyfit(x, weights, codes):
    scale, minimum = np.polyfit(codes, x, 1, w=weights)
    return (best_scale(x, weights, codes), 0.0) if minimum > 0 else (scale, minimum)


def scale_alone(x, weights, codes):
    return best_scale(x, weights, codes), 0.0


def asymmetric(
    dtype=np.float64,
    running=True,
    trials=range(21),
    weigh=True,
    floor=0,
    sign=-1,
    last=False,
    refit=True,
    guard=True,
    fit=None,
    plus=1,
    first_counts=True,
    lowest=0,
    error_of=lambda s, q, m: s * q + m,
):
    def search(x, weights):
        x, w = x.astype(dtype), weights.astype(dtype) if weigh else np.ones(len(x), dtype)
        low, high = min(x.min(), dtype(floor)), x.max()
        if low == high:
            return (0 if guard else np.nan), sign * low, 0 * x
        minimum, scale = low, (high - low) / dtype(15)
        q = np.clip(np.rint((x - low) / scale), 0, 15)
        least = (w * (error_of(scale, q, minimum) - x) ** 2).sum() if first_counts else np.inf
        for t in trials:
            start = minimum if running else low
            inverse = dtype(14 + 0.1 * t) / (high - start)
            new = np.clip(np.rint(inverse * (x - plus * start)), lowest, 15)
            s, m = (fit or fit_to(clip=floor == 0))(x, w, new) if refit else (1 / inverse, start)
            error = (w * (error_of(s, new, m) - x) ** 2).sum()
            if error < least or last:
                least, scale, minimum, q = error, s, m, new
        return scale, sign * minimum, q

    return search


def as_the_search_has_it(x, weights):
    scale, minimum, codes = asymmetric()(x, weights)
    return scale, minimum if x.max() == min(x.min(), 0) else -minimum, codes


def table(values, scale, in_order=False):
    def decode(blocks):
        rows = []
        for block in blocks:
            low, high = [int(b) % 16 for b in block["qs"]], [int(b) // 16 for b in block["qs"]]
            codes = [q for pair in zip(low, high, strict=True) for q in pair] if in_order else low + high
            rows.append([float(scale(block)) * float(values[q]) for q in codes])
        return np.array(rows, np.float32)

    return decode


def nibbles(blocks):
    return np.concatenate([blocks["qs"] & 15, blocks["qs"] >> 4], axis=1)


def half(block):
    return block["d"]


def power(block):
    return 2.0 ** (int(block["e"]) - 128)


RIGHT = {
    "nearest_codes": [nearest(), lambda x, scale, nmax: np.clip(np.round(x / scale), -nmax, nmax - 1)],
    "best_scale": [best_scale, scale_by(lambda w, x, q: w * x * q, lambda w, x, q: w * q * q)],
    "symmetric_search": [symmetric(), symmetric(np.float32)],
    "scale_and_minimum": [fit_to(), plain_fit],
    "asymmetric_search": [asymmetric(), asymmetric(np.float32), asymmetric(np.float32, fit=plain_fit)],
    "dequantize_iq4_nl": [table(iq4_nl.VALUES, half)],
    "dequantize_mxfp4": [table(mxfp4.VALUES, power)],
}
MISTAKES = {
    "nearest_codes": {
        "cut off": nearest(int),
        "rounded down": nearest(floor),
        "halves are rounded up": nearest(lambda v: floor(v + 0.5)),
        "halves are rounded away": nearest(lambda v: int(v + 0.5) if v > 0 else int(v - 0.5)),
        "halves are rounded down": lambda x, scale, nmax: np.arange(-nmax, nmax)[
            np.abs(x[:, None] - scale * np.arange(-nmax, nmax)).argmin(axis=1)
        ],
        "clipped to 0": lambda x, scale, nmax: np.clip(np.rint(x / scale), 0, 2 * nmax - 1),
        "leave their range": nearest(low=lambda nmax: -(10**9), high=lambda nmax: 10**9),
        "highest code is nmax": nearest(high=lambda nmax: nmax),
        "lowest code is 1 - nmax": nearest(low=lambda nmax: 1 - nmax),
        "begin at 0": lambda x, scale, nmax: np.clip(np.round(x / scale), -nmax, nmax - 1) + nmax,
        "multiply by the scale": nearest(value=lambda x, scale: x * scale),
    },
    "best_scale": {
        "weights are not used": scale_by(lambda w, x, q: x * q, lambda w, x, q: q * q),
        "weights are squared": scale_by(
            lambda w, x, q: w * x * q, lambda w, x, q: w * q * q, lambda w: w * w
        ),
        "upside down": scale_by(lambda w, x, q: w * q * q, lambda w, x, q: w * q * x),
        "only the upper sum": scale_by(lambda w, x, q: w * x * q, lambda w, x, q: q * q),
        "only the lower sum": scale_by(lambda w, x, q: x * q, lambda w, x, q: w * q * q),
        "predicts codes": scale_by(lambda w, x, q: w * x * x, lambda w, x, q: w * q * x),
        "the errors cancel out": scale_by(lambda w, x, q: w * x, lambda w, x, q: w * q),
        "some codes are 0": lambda x, weights, codes: (weights * x / codes).sum() / weights.sum(),
        "mean of the ratios": scale_by(lambda w, x, q: w * x / q if q else 0, lambda w, x, q: w if q else 0),
        "sums of magnitudes": scale_by(lambda w, x, q: w * abs(x), lambda w, x, q: w * abs(q)),
    },
    "symmetric_search": {
        "there is no search": symmetric(trials=[0], refit=False),
        "only the first trial": symmetric(trials=[0]),
        "keep the scale": symmetric(refit=False),
        "max(abs(x))": symmetric(start=lambda x, nmax: abs(x).max() / (nmax - 1)),
        "not weighted": symmetric(weigh=False),
        "the winner is chosen without": symmetric(count=lambda w: 1),
        "the minus is missing": symmetric(sign=-1),
        "last trial wins": symmetric(last=True),
        "one side only": symmetric(trials=range(10)),
        "ends before 9": symmetric(trials=range(-9, 9)),
        "they begin at -9": symmetric(trials=range(-8, 10)),
        "the last is 9": symmetric(trials=range(-9, 11)),
        "run from -9 to 9": symmetric(trials=range(-10, 11)),
        "whole numbers": symmetric(width=1),
        "not a number": symmetric(first=True),
    },
    "scale_and_minimum": {
        "weights are not used": fit_to(weigh=False),
        "np.polyfit squares": polyfit,
        "the weights are squared": lambda x, weights, codes: fit_to()(x, weights**2, codes),
        "may be above zero": fit_to(clip=False),
        "fitted again": fit_to(again=False),
        "wrong sign": fit_to(result=lambda scale, minimum: (scale, -minimum)),
        "the scale alone": scale_alone,
        "exchanged": fit_to(result=lambda scale, minimum: (minimum, scale)),
        "smallest weight": low_and_scale,
    },
    "asymmetric_search": {
        "best minimum so far": asymmetric(running=False),
        "there is no search": asymmetric(trials=[]),
        "keep the scale": asymmetric(refit=False),
        "not weighted": asymmetric(weigh=False),
        "may be above zero": asymmetric(floor=np.inf),
        "begin at the smallest weight": asymmetric(floor=np.inf, fit=fit_to()),
        "comes back as the search has it": as_the_search_has_it,
        "wrong sign": asymmetric(sign=1),
        "last trial wins": asymmetric(last=True),
        "20 trials": asymmetric(trials=range(20)),
        "22 trials": asymmetric(trials=range(22)),
        "your first trial always wins": asymmetric(first_counts=False),
        "your codes go below 0": asymmetric(lowest=-np.inf),
        "those of x + minimum": asymmetric(plus=-1),
        "as if the minimum": asymmetric(error_of=lambda s, q, m: s * q - m),
        "equal and not above zero": asymmetric(guard=False),
    },
    "dequantize_iq4_nl": {
        "nibbles come in order": table(iq4_nl.VALUES, half, in_order=True),
        "not looked up": table(range(16), half),
        "you return VALUES[code]": table(iq4_nl.VALUES, lambda block: 1),
        "levels of Q4_0": table(range(-8, 8), half),
        "a whole number": table(iq4_nl.VALUES, lambda block: block["d"].view("<u2")),
        "bytes exchanged": table(iq4_nl.VALUES, lambda block: block["d"].view(">f2")),
        "in float16": lambda blocks: blocks["d"][:, None] * iq4_nl.VALUES[nibbles(blocks)],
    },
    "dequantize_mxfp4": {
        "nibbles come in order": table(mxfp4.VALUES, power, in_order=True),
        "122 - 128 is 250:": lambda blocks: (
            2.0 ** (blocks["e"][:, None] - 128) * mxfp4.VALUES[nibbles(blocks)]
        ),
        "that power is infinite": lambda blocks: (
            np.ldexp(np.float32(1), blocks["e"] - 128)[:, None] * mxfp4.VALUES[nibbles(blocks)]
        ),
        "twice too large": table(mxfp4.VALUES, lambda block: 2 * power(block)),
        "no bias": table(mxfp4.VALUES, lambda block: 2.0 ** int(block["e"])),
        "not the scale itself": table(mxfp4.VALUES, lambda block: block["e"]),
        "not looked up": table(range(16), power),
        "you return VALUES[code]": table(mxfp4.VALUES, lambda block: 1),
        "are positive": table(abs(mxfp4.VALUES), power),
        "signed integers": table([*range(8), *range(-8, 0)], power),
    },
}
WRONG = [(name, wrong, words) for name, wrongs in MISTAKES.items() for words, wrong in wrongs.items()]


def test_two_slips_in_a_search_are_both_named():
    largest = {"start": lambda x, nmax: abs(x).max() / (nmax - 1)}
    message = EXERCISES["symmetric_search"].judge(symmetric(weigh=False, **largest)).message
    assert "max(abs(x))" in message and "not weighted" in message


def test_mistakes_made_together_are_both_named():
    message = EXERCISES["nearest_codes"].judge(lambda x, scale, nmax: (x / scale).astype(int)).message
    assert "cut off" in message and "leave their range" in message
