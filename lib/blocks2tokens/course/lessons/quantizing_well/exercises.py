"""Checks of lesson 06: nearest codes, least squares, the two searches; IQ4_NL and MXFP4 on your own.

The engine adds in float32 and in order, learners add as they like: answers are compared with a
tolerance, on cases where the last bit of a sum decides nothing.
"""

from functools import partial

import numpy as np

from blocks2tokens.course.check.exercise import Exercise, Mistake
from blocks2tokens.course.lessons.quantizing_well import solutions
from blocks2tokens.formats import iq4_nl, mxfp4, search

TOLERANCE = 1e-3
TRIALS = (0, *range(-9, 0), *range(1, 10))


# The engine's functions with the learner's arguments


def engine_nearest_codes(x, scale, nmax):
    """Return codes, float32 [n], of which scale * codes is nearest to x."""
    codes = np.empty_like(x)
    search.symmetric_recode(x, np.float32(scale), nmax, codes)
    return codes - nmax


def engine_best_scale(x, weights, codes):
    """Return the scale of least squares, 0 where all codes are."""
    sum_qx, sum_qq = search.symmetric_fit(x, weights, codes)
    return np.float32(sum_qx / sum_qq) if sum_qq else np.float32(0)


def engine_symmetric_search(x, weights, nmax):
    """Return a scale and codes, float32 [n], -nmax..nmax - 1."""
    codes = np.empty_like(x)
    scale = search.symmetric_search(x, weights, nmax, codes)
    return np.float32(scale), codes - nmax if scale != 0 else codes


def engine_scale_and_minimum(x, weights, codes):
    """Return the scale and the minimum <= 0 of least squares."""
    total, total_x = search.total(weights), search.total(weights * x)
    scale, minimum, _ = search.asymmetric_fit(x, weights, codes, total, total_x)
    return np.float32(scale), np.float32(minimum)


def engine_asymmetric_search(x, weights):
    """Return scale, minimum >= 0 and codes, float32 [n], 0..15, with the trials of Q4_K."""
    codes = np.empty_like(x)
    scale, minimum = search.asymmetric_search(x, weights, 15, (-1.0, 0.1, 20), False, codes)
    return np.float32(scale), np.float32(minimum), codes


# Wrong ways


def clip(q, nmax):
    return np.clip(q, -nmax, nmax - 1)


def nearest_codes(x, scale, nmax, rounding=np.rint, clip=clip, divide=np.divide):
    return clip(rounding(divide(x, scale)), nmax)


def half_up(value):
    return np.floor(value + 0.5)


def half_down(value):
    return np.ceil(value - 0.5)


def half_away(value):
    return np.trunc(value + np.copysign(0.5, value))


ROUNDING_MISTAKES = {
    "your codes are cut off, not rounded: 2.9 becomes 2, not 3": {"rounding": np.trunc},
    "your codes are rounded down: -2.1 becomes -3, not -2": {"rounding": np.floor},
    "your halves are rounded up: 2.5 becomes 3. Round half to even, as np.rint does": {"rounding": half_up},
    "your halves are rounded away from zero: 2.5 becomes 3. Round half to even, as np.rint does": {
        "rounding": half_away
    },
    "your halves are rounded down, as argmin does, which takes the first of two: 3.5 becomes 3. Round half "
    "to even, as np.rint does": {"rounding": half_down},
}
RANGE_MISTAKES = {
    "your codes leave their range: clip them to -nmax..nmax - 1": {"clip": lambda q, nmax: q},
    "your highest code is nmax: the codes are -nmax..nmax - 1, of which there are 2 * nmax": {
        "clip": lambda q, nmax: np.clip(q, -nmax, nmax)
    },
    "your lowest code is 1 - nmax: the code -nmax exists": {
        "clip": lambda q, nmax: np.clip(q, 1 - nmax, nmax - 1)
    },
    "your codes begin at 0: here they run from -nmax to nmax - 1, without the offset": {
        "clip": lambda q, nmax: clip(q, nmax) + nmax
    },
    "you multiply by the scale: a weight is scale * code, so a code is weight / scale": {
        "divide": np.multiply
    },
}
NEAREST_MISTAKES = {
    **ROUNDING_MISTAKES,
    **RANGE_MISTAKES,
    "your codes are clipped to 0..2 * nmax - 1: here they run from -nmax to nmax - 1": {
        "clip": lambda q, nmax: np.clip(q, 0, 2 * nmax - 1)
    },
    **{f"{a}; and {b}": i | j for a, i in ROUNDING_MISTAKES.items() for b, j in RANGE_MISTAKES.items()},
}


def ratio(top, bottom):
    return np.sum(top, dtype=np.float64) / np.sum(bottom, dtype=np.float64)


def best_scale(x, w, q):
    return ratio(w * x * q, w * q * q) if q.any() else 0.0


BEST_SCALE_MISTAKES = {
    "the weights are not used: each term is w * x * q and w * q * q": lambda x, w, q: ratio(x * q, q * q),
    "the weights are squared: each term has its weight once": lambda x, w, q: best_scale(x, w * w, q),
    "your fraction is upside down: sum(w * x * q) / sum(w * q * q)": lambda x, w, q: 1 / best_scale(x, w, q),
    "only the upper sum has weights in it: the lower one is sum(w * q * q)": (
        lambda x, w, q: ratio(w * x * q, q * q)
    ),
    "only the lower sum has weights in it: the upper one is sum(w * x * q)": (
        lambda x, w, q: ratio(x * q, w * q * q)
    ),
    "that line predicts codes from weights: the error is to be least in x, so divide by sum(w * q * q)": (
        lambda x, w, q: ratio(w * x * x, w * x * q)
    ),
    "that is a mean of the ratios x / q: small codes count as much as large ones. Set the derivative of "
    "the error to zero": lambda x, w, q: ratio((w * x)[q != 0] / q[q != 0], w[q != 0]),
    "there the errors cancel out, and their squares are not least: the derivative of w * (s * q - x)**2 has "
    "q in it once more, and so have both sums": lambda x, w, q: ratio(w * x, w * q),
    "that is a mean of the ratios x / q, and some codes are 0. Set the derivative of the error to zero": (
        lambda x, w, q: np.sum(w * x / q) / np.sum(w)
    ),
    "those are sums of magnitudes: each term has q in it once more, sum(w * x * q) / sum(w * q * q)": (
        lambda x, w, q: ratio(w * abs(x), w * abs(q))
    ),
}


def symmetric_search(
    x,
    weights,
    nmax,
    trials=TRIALS,
    signed=True,
    weighted=True,
    refit=True,
    keep="best",
    step=0.1,
    empty=0.0,
    counted=True,
    minus=-1,
):
    x, w = x.astype(np.float64), weights.astype(np.float64) if weighted else np.ones(len(x))
    largest = x[abs(x).argmax()] if signed else abs(x).max()
    if largest == 0:
        return empty, np.full(len(x), empty)
    best = None
    for t in trials:
        trial = minus * largest / (nmax + step * t) if signed else largest / (nmax - 1 + step * t)
        q = np.clip(np.rint(x / trial), -nmax, nmax - 1)
        scale = best_scale(x, w, q) if refit else trial
        error = np.sum((w if counted else 1) * (scale * q - x) ** 2)
        if best is None or keep == "last" or error < best[0]:
            best = error, scale, q
    return best[1:]


SYMMETRIC_MISTAKES = {
    "there is no search: those are the codes and the scale of largest / -nmax": {
        "trials": (0,),
        "refit": False,
    },
    "only the first trial is made: those are the codes of largest / -nmax, with their best scale": {
        "trials": (0,)
    },
    "your trials keep the scale that they began with: once the codes are there, take their best_scale": {
        "refit": False
    },
    "your scale comes from max(abs(x)): the weight of largest magnitude, with its sign, gets code -nmax": {
        "signed": False
    },
    "your scales are fitted with the weights, but the winner is chosen without: the least sum(w * (scale * q "
    "- x)**2)": {"counted": False},
    "the minus is missing: the largest weight wants the code -nmax, which exists, and not nmax": {"minus": 1},
    "your errors are not weighted: the winner is the trial with the least sum(w * (scale * q - x)**2)": {
        "weighted": False
    },
    "your last trial wins, not the best one: keep a trial only when its error is less": {"keep": "last"},
    "your trials go to one side only: t runs from -9 to 9": {"trials": TRIALS[:1] + TRIALS[10:]},
    "you make 18 trials, t = -9 to 8: range(-9, 9) ends before 9": {"trials": TRIALS[:-1]},
    "you make 18 trials, t = -8 to 9: they begin at -9": {"trials": (0, *range(-8, 0), *range(1, 10))},
    "you make 20 trials, t = -9 to 10: the last is 9": {"trials": (*TRIALS, 10)},
    "you make 21 trials, t = -10 to 10: they run from -9 to 9": {"trials": (*TRIALS, 10, -10)},
    "your steps are whole numbers: the trials are -largest / (nmax + 0.1 * t)": {"step": 1.0},
    "zeros divided by zero are not a number: if the largest is 0, return scale 0 and codes 0": {
        "empty": np.nan
    },
}


def in_pairs(table):
    """Return every two mistakes in the steps of a search as one: learners make two at a time."""
    items = [
        (message, wrong)
        for message, wrong in table.items()
        if not {"trials", "empty", "counted", "minus"} & set(wrong)
    ]
    return {
        f"two things. First, {a}. Second, {b}": first | second
        for i, (a, first) in enumerate(items)
        for b, second in items[i + 1 :]
        if not first.keys() & second.keys()
    }


def scale_and_minimum(x, weights, codes, kind="right"):
    x, q = x.astype(np.float64), codes.astype(np.float64)
    w = np.ones(len(x)) if kind == "unweighted" else weights.astype(np.float64)
    once, w = w, w * w if kind in ("squared", "polyfit") else w
    qq, qx, s, sq, sx = ((w * v).sum() for v in (q * q, q * x, np.ones(len(x)), q, x))
    determinant = s * qq - sq * sq
    scale, minimum = (s * qx - sx * sq) / determinant, (qq * sx - sq * qx) / determinant
    if minimum > 0 and kind != "any minimum":
        alone = best_scale(x, once, q) if kind == "polyfit" else qx / qq
        scale, minimum = (scale if kind == "old scale" else alone), 0.0
    if kind == "no minimum":
        return qx / qq, 0.0
    if kind == "exchanged":
        return minimum, scale
    if kind == "smallest":
        low = min(x.min(), 0.0)
        return (w * q * (x - low)).sum() / qq, low
    return scale, -minimum if kind == "sign" else minimum


FIT_MISTAKES = {
    "the weights are not used: every one of the five sums has w in it": {"kind": "unweighted"},
    "np.polyfit squares the weights that it is given: hand it np.sqrt(weights)": {"kind": "polyfit"},
    "the weights are squared: every one of the five sums has w in it once": {"kind": "squared"},
    "your minimum may be above zero: the format stores -minimum as 0..63, so it is 0 at most": {
        "kind": "any minimum"
    },
    "where the minimum is set to 0, the scale has to be fitted again: sum(w * q * x) / sum(w * q * q)": {
        "kind": "old scale"
    },
    "your minimum has the wrong sign: x is about scale * q + minimum": {"kind": "sign"},
    "you fit the scale alone: the minimum is free too, there are two unknowns": {"kind": "no minimum"},
    "scale and minimum are exchanged": {"kind": "exchanged"},
    "your minimum is the smallest weight: that is where a search begins; least squares moves it": {
        "kind": "smallest"
    },
}


def asymmetric_search(
    x,
    weights,
    running=True,
    trials=21,
    weighted=True,
    to_zero=True,
    sign=-1,
    keep="best",
    empty=0.0,
    refit=True,
    added=False,
    in_error=-1,
    formula_counts=True,
    lowest=0,
    from_zero=True,
    sign_of_constants=None,
):
    x, w = x.astype(np.float64), weights.astype(np.float64) if weighted else np.ones(len(x))
    low, high = min(x.min(), 0.0) if to_zero and from_zero else x.min(), x.max()
    if low == high:
        return empty, (sign_of_constants or sign) * low, np.zeros(len(x))
    base, best = low, None
    for t in range(-1, trials):
        inverse = (15 + (-1 + 0.1 * t if t >= 0 else 0)) / (high - base)
        start = -base if added and t >= 0 else base
        q = np.clip(np.rint(inverse * (x - start)), lowest, 15)
        scale, minimum = 1 / inverse, base
        if t >= 0 and refit:
            scale, minimum = scale_and_minimum(x, w, q, "right" if to_zero else "any minimum")
        error = np.sum(w * (scale * q - in_error * minimum - x) ** 2)
        if best is None or keep == "last" or error < best[0]:
            best = error if t >= 0 or formula_counts else np.inf, scale, minimum, q
            base = minimum if running else low
    return best[1], sign * best[2], best[3]


ASYMMETRIC_MISTAKES = {
    "your codes start from the smallest weight in every trial: ggml starts from the best minimum so far": {
        "running": False
    },
    "there is no search: that is (high - low) / 15": {"trials": 0},
    "your trials keep the scale that they began with: fit scale and minimum to the codes of each": {
        "refit": False
    },
    "your errors are not weighted: sum(w * (scale * q + minimum - x)**2)": {"weighted": False},
    "your minimum may be above zero: low = min(x.min(), 0), and a fitted one is 0 at most": {
        "to_zero": False
    },
    "your trials begin at the smallest weight, even where that is above zero: low = min(x.min(), 0)": {
        "from_zero": False
    },
    "your minimum has the wrong sign: it is returned as a number >= 0, to be subtracted": {"sign": 1},
    "your minimum comes back as the search has it, 0 or less: return -minimum, to be subtracted": {
        "sign": 1,
        "sign_of_constants": -1,
    },
    "your codes are those of x + minimum: the minimum is 0 or less, so inverse * (x - minimum) counts "
    "from it": {"added": True},
    "your error has - minimum in it, as if the minimum were the number >= 0 that you return: in the "
    "search it "
    "is 0 or less, and scale * q + minimum is the weight": {"in_error": 1},
    "your last trial wins, not the best one: keep a trial only when its error is less": {"keep": "last"},
    "you make 20 trials: t runs from 0 to 20, which are 21": {"trials": 20},
    "you make 22 trials: t runs from 0 to 20, which are 21": {"trials": 22},
    "your first trial always wins: it must beat the codes that you began with, those of (high - low) / 15": {
        "formula_counts": False
    },
    "your codes go below 0: once the minimum has risen, some weights lie under it. Clip to 0..15": {
        "lowest": -np.inf
    },
    "where all weights are equal and not above zero, high - low is 0: return scale 0, -low and codes 0": {
        "empty": np.nan
    },
}


def mistakes(function, table):
    return tuple(Mistake(partial(function, **wrong), message) for message, wrong in table.items())


# Cases


def rows():
    """Return some sub-blocks, {label: float32 [32]}."""
    rng = np.random.default_rng(0)
    outlier = rng.standard_normal(32).astype(np.float32)
    outlier[11] = 9
    return {
        "a ramp": np.linspace(-1.03, 0.81, 32, dtype=np.float32),
        "random weights": rng.standard_normal(32).astype(np.float32),
        "more random weights": rng.standard_normal(32).astype(np.float32),
        "one huge outlier": outlier,
        "all positive": (2 + abs(rng.standard_normal(32))).astype(np.float32),
        "small negative ones": -abs(rng.standard_normal(32)).astype(np.float32) * np.float32(1e-3),
    }


def importance(x, seed):
    """Return weights for the errors, float32 [n], from 0.2 to 5."""
    return np.random.default_rng(seed).uniform(0.2, 5, len(x)).astype(np.float32)


def codes_for(x, nmax, ratio):
    largest = x[abs(x).argmax()]
    return np.clip(np.rint(x / (largest / -nmax * ratio)), -nmax, nmax - 1).astype(np.float32)


def codes_from(x, low, high):
    return np.clip(np.rint((x - low) / ((high - low) / 15)), 0, 15).astype(np.float32)


def nearest_cases():
    cases = {label: (x, np.float32(-1.7 * x.std() / 8 - 1e-4), 8) for label, x in rows().items()}
    cases["halves"] = (np.arange(-10, 10, dtype=np.float32) + np.float32(0.5), np.float32(1), 8)
    cases["6 bits"] = (rows()["random weights"], np.float32(0.0613), 32)
    return cases


def best_scale_cases():
    return {label: (x, importance(x, 1), codes_for(x, 8, 0.93)) for label, x in rows().items()}


def symmetric_cases():
    cases = {label: (x[:16], importance(x[:16], 2), 32) for label, x in rows().items()}
    cases["4 bits"] = (rows()["random weights"], importance(np.zeros(32), 3), 8)
    cases["3 bits"] = (rows()["more random weights"], importance(np.zeros(32), 4), 4)
    for t, seed in ((9, 1497), (-9, 2574), (10, 993), (-10, 1113)):  # where that trial wins, or would win
        rng = np.random.default_rng(seed)
        x, weights = rng.standard_normal(16).astype(np.float32), rng.uniform(0.2, 5, 16).astype(np.float32)
        cases[f"3 bits, where t = {t} {'is' if abs(t) < 10 else 'would be'} the best"] = (x, weights, 4)
    cases["zeros"] = (np.zeros(16, np.float32), np.zeros(16, np.float32), 32)
    return cases


def fit_cases():
    cases = {}
    for label, x in rows().items():
        low = min(x.min(), np.float32(0)) - np.float32(0.1) * abs(x).max()
        cases[label] = (x, importance(x, 5), codes_from(x, low, x.max() * 0.9 + 0.01))
    x = rows()["all positive"] / np.float32(10)
    cases["a minimum a little above 0"] = (x, importance(x, 8), codes_from(x, x.min(), x.max()))
    x = rows()["all positive"]
    cases["codes from the smallest"] = (x, importance(x, 6), codes_from(x, x.min(), x.max()))
    return cases


def last_trial_wins():
    """Return a sub-block whose best scale is that of trial 20, and the weights of its errors."""
    rng = np.random.default_rng(180)
    return rng.standard_normal(32).astype(np.float32), rng.uniform(0.2, 5, 32).astype(np.float32)


def asymmetric_cases():
    cases = {label: (x, importance(x, 7)) for label, x in rows().items()}
    cases["the last trial wins"] = last_trial_wins()
    for label, seed in {"some weights below the minimum": 2342, "a first trial that loses": 2441}.items():
        rng = np.random.default_rng(seed)
        x = rng.standard_normal(32).astype(np.float32)
        cases[label] = x, rng.uniform(0.2, 5, 32).astype(np.float32)
    cases["one negative constant"] = (np.full(32, -0.37, np.float32), np.ones(32, np.float32))
    cases["zeros"] = (np.zeros(32, np.float32), np.ones(32, np.float32))
    return cases


# IQ4_NL and MXFP4


def table_blocks(fmt):
    rng = np.random.default_rng(8)
    raw = rng.integers(0, 256, (6, fmt.BLOCK.itemsize), dtype=np.uint8)
    blocks = raw.view(fmt.BLOCK)[:, 0]
    if "e" in blocks.dtype.names:
        blocks["e"] = [124, 110, 121, 117, 100, 124]
    else:
        blocks["d"] = rng.uniform(1e-4, 1e-2, 6)
    ramp = np.zeros(1, fmt.BLOCK)
    ramp["qs"] = np.arange(16) * 17
    ramp[blocks.dtype.names[0]] = 122 if "e" in blocks.dtype.names else 0.25
    return {
        "zeros": (np.zeros(1, fmt.BLOCK),),
        "every code once in a half": (ramp,),
        "one random block": (blocks[:1].copy(),),
        "five random blocks": (blocks[1:].copy(),),
    }


def nibbles(qs, in_order=False):
    low, high = qs & 15, qs >> 4
    return np.stack([low, high], axis=2).reshape(-1, 32) if in_order else np.concatenate([low, high], axis=1)


def iq4_nl_weights(
    blocks, table=iq4_nl.VALUES, in_order=False, d_type="<f2", no_d=False, computed=np.float32
):
    d = np.float32(1) if no_d else blocks["d"].copy().view(d_type).astype(computed)[:, None]
    return d * np.asarray(table)[nibbles(blocks["qs"], in_order)].astype(computed)


IQ4_NL_MISTAKES = {
    "your nibbles come in order: the high nibble of byte 0 is weight 16, not weight 1": {"in_order": True},
    "you return VALUES[code]: a weight is d times that": {"no_d": True},
    "the code is not looked up: a weight is d * VALUES[code]": {"table": np.arange(16)},
    "those are the levels of Q4_0, code - 8: a weight is d * VALUES[code]": {"table": np.arange(16) - 8},
    "your d is read as a whole number: its two bytes are a float16": {"d_type": "<u2"},
    "your d has its bytes exchanged: the file is little-endian, the low byte first": {"d_type": ">f2"},
    "your weights are computed in float16, which keeps 11 bits: convert d to float32 before you multiply": {
        "computed": np.float16
    },
}


def mxfp4_weights(
    blocks, bias=128, table=mxfp4.VALUES, in_order=False, plain=False, no_scale=False, in_a_byte=None
):
    if in_a_byte:  # the type of the scale
        scale = np.ldexp(in_a_byte(1), (blocks["e"] - np.uint8(128)).astype(np.int32))
        return scale[:, None] * table[nibbles(blocks["qs"])]
    e = 0 * blocks["e"].astype(np.int32) + bias if no_scale else blocks["e"].astype(np.int32)
    scale = e.astype(np.float32) if plain else np.ldexp(np.float32(1), e - bias)
    return scale[:, None] * np.asarray(table)[nibbles(blocks["qs"], in_order)].astype(np.float32)


MXFP4_MISTAKES = {
    "e - 128 is computed in uint8, where 122 - 128 is 250: make e a signed integer first": {
        "in_a_byte": np.float64
    },
    "e - 128 is computed in uint8, where 122 - 128 is 250, and 2 to that power is infinite: make e a signed "
    "integer first": {"in_a_byte": np.float32},
    "your nibbles come in order: the high nibble of byte 0 is weight 16, not weight 1": {"in_order": True},
    "your scale is twice too large: VALUES are twice the 4-bit floats, so the scale is 2 ** (e - 128)": {
        "bias": 127
    },
    "your exponent has no bias: the scale is 2 ** (e - 128)": {"bias": 0},
    "you return VALUES[code]: a weight is 2 ** (e - 128) times that": {"no_scale": True},
    "e is not the scale itself: the scale is 2 ** (e - 128)": {"plain": True},
    "the code is not looked up: a weight is scale * VALUES[code]": {"table": np.arange(16)},
    "your codes 8 to 15 are positive: their highest bit is the sign": {"table": abs(mxfp4.VALUES)},
    "you read the codes as signed integers, 8 to 15 as -8 to -1: they are floats, with a sign bit": {
        "table": np.r_[0:8, -8:0]
    },
}


EXERCISES = [
    Exercise(
        "nearest_codes",
        engine=engine_nearest_codes,
        cases=nearest_cases,
        mistakes=mistakes(nearest_codes, NEAREST_MISTAKES),
        hints=(
            "A weight is scale * code. Which real number would be its code? Which integer is nearest?",
            "np.rint rounds to the nearest. There are 2 * nmax codes, and the lowest is -nmax: what of a "
            "weight that "
            "wants one beyond them? The scale may be negative.",
        ),
        solution=solutions.nearest_codes,
        twin=search.symmetric_recode,
    ),
    Exercise(
        "best_scale",
        engine=engine_best_scale,
        cases=best_scale_cases,
        mistakes=tuple(Mistake(wrong, message) for message, wrong in BEST_SCALE_MISTAKES.items()),
        hints=(
            "The error is E(s) = sum(w * (s * q - x)**2), a parabola in s. Where is its derivative zero?",
            "sum(w * q * (s * q - x)) = 0. Split it into two sums, and bring s to one side.",
        ),
        solution=solutions.best_scale,
        twin=search.symmetric_fit,
        tolerance=TOLERANCE,
    ),
    Exercise(
        "symmetric_search",
        engine=engine_symmetric_search,
        cases=symmetric_cases,
        mistakes=mistakes(symmetric_search, SYMMETRIC_MISTAKES | in_pairs(SYMMETRIC_MISTAKES)),
        hints=(
            "For each t from -9 to 9: codes for the scale -largest / (nmax + 0.1 * t), then best_scale of "
            "them, then the error. Keep the best.",
            "largest = x[abs(x).argmax()], with its sign. If it is 0, return scale 0 and codes 0.",
        ),
        solution=solutions.symmetric_search,
        twin=search.symmetric_search,
        tolerance=TOLERANCE,
    ),
    Exercise(
        "scale_and_minimum",
        engine=engine_scale_and_minimum,
        cases=fit_cases,
        mistakes=mistakes(scale_and_minimum, FIT_MISTAKES),
        hints=(
            "Two unknowns, two equations. The first: scale * sum(w q) + minimum * sum(w) = sum(w x).",
            "With W, X, Q the sums of w, w x, w q the second is scale * Q + minimum * W = X, and both "
            "unknowns "
            "have the same denominator, D = W * sum(w q q) - Q * Q. If the minimum is above 0, it becomes 0, "
            "and the first equation gives the scale.",
        ),
        solution=solutions.scale_and_minimum,
        twin=search.asymmetric_fit,
        tolerance=TOLERANCE,
    ),
    Exercise(
        "asymmetric_search",
        engine=engine_asymmetric_search,
        cases=asymmetric_cases,
        mistakes=mistakes(asymmetric_search, ASYMMETRIC_MISTAKES),
        hints=(
            "Begin with low = min(x.min(), 0), scale = (high - low) / 15 and their error. Then 21 trials.",
            "In each trial: codes, then scale_and_minimum of them, then their error. If it is less, scale, "
            "minimum and codes are all replaced, and the next trial starts from the new minimum.",
        ),
        solution=solutions.asymmetric_search,
        twin=search.asymmetric_search,
        parts=("scale", "-minimum", "codes"),
        tolerance=TOLERANCE,
    ),
    Exercise(
        "dequantize_iq4_nl",
        engine=iq4_nl.dequantize,
        solution=solutions.dequantize_iq4_nl,
        twin=iq4_nl.dequantize,
        cases=partial(table_blocks, iq4_nl),
        mistakes=mistakes(iq4_nl_weights, IQ4_NL_MISTAKES),
        hints=("The nibbles are laid out as in Q4_0.", "VALUES[codes] looks all of them up at once."),
    ),
    Exercise(
        "dequantize_mxfp4",
        engine=mxfp4.dequantize,
        solution=solutions.dequantize_mxfp4,
        twin=mxfp4.dequantize,
        cases=partial(table_blocks, mxfp4),
        mistakes=mistakes(mxfp4_weights, MXFP4_MISTAKES),
        hints=(
            "e is uint8: make it a signed integer before you subtract 128.",
            "np.ldexp(np.float32(1), e - 128) is an exact power of two.",
        ),
    ),
]
