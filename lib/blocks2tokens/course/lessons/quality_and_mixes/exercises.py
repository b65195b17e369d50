"""Checks of lesson 26: KL of two models, a paired standard error, importance, a budget, error feedback."""

from functools import partial

import numpy as np

from blocks2tokens import mix
from blocks2tokens.course.check.exercise import Exercise, Mistake
from blocks2tokens.course.lessons.quality_and_mixes import solutions
from blocks2tokens.formats import best, feedback
from blocks2tokens.quality import compared, log_softmax, mean, paired

TOLERANCE = 1e-4


# The engine's functions with the learner's arguments


def engine_kl_divergence(p_logits, q_logits):
    """Return D(p || q) in nats."""
    p, q = (log_softmax(logits[None]) for logits in (p_logits, q_logits))
    return compared(p, q, np.array([0]))["kl"][0]


def engine_paired_error(a, b):
    """Return the standard error of mean(b - a)."""
    return np.float64(mean(b - a).error)


def engine_weighted_error(x, E):
    """Return the sum of mean(x ** 2) * E ** 2."""
    importance = np.mean(x.astype(np.float64) ** 2, axis=0).astype(np.float32)
    zeros = np.zeros(E.shape[1], np.float32)
    return np.float64(sum(best.squared_error(zeros, importance, row) for row in E))


def engine_best_steps(cost, gain, budget):
    """Return the steps that a budget pays for, int64, in the order in which they are taken."""
    names = [str(i) for i in range(len(cost))]
    sizes = {name: {"small": 0, "large": int(c)} for name, c in zip(names, cost, strict=True)}
    losses = {name: {"small": float(g), "large": 0.0} for name, g in zip(names, gain, strict=True)}
    order = [int(name) for name, _ in mix.steps(sizes, losses)]
    spent = np.cumsum(cost[order])
    return np.array(order, np.int64)[: int(np.searchsorted(spent, budget, side="right"))]


def engine_round_with_feedback(w, step, U):
    """Return multiples of step, float32 [K]."""
    n = 256
    low = np.full((1, len(w)), -step * (n // 2), np.float32)
    table = (np.arange(n) / (n - 1)).astype(np.float32)
    levels, errors = np.zeros((1, len(w)), np.uint8), np.zeros((1, len(w)), np.float32)
    high = low + np.float32(step * (n - 1))
    halfway = (table[1:] + table[:-1]) / 2
    feedback.round_columns(w[None].copy(), low, high, table, halfway, U, levels, errors)
    return (np.float32(step) * (levels[0].astype(np.float32) - n // 2)).astype(np.float32)


# Wrong ways


def wrong_log_softmax(x, shift=True, normalize=True):
    x = x.astype(np.float64)
    x = x - x.max() if shift else x
    return x - np.log(np.exp(x).sum()) if normalize else x


def kl(p, q, reverse=False, shift=True, normalize=True, base=1.0, total=np.sum, weigh="p", own=1, raw=False):
    if reverse:
        p, q = q, p
    logits = own * p - q
    p, q = wrong_log_softmax(p, shift, normalize), wrong_log_softmax(q, shift, normalize)
    weights = {"p": np.exp(p), "q": np.exp(q), "": 1.0}[weigh]
    return total(weights * (logits if raw else own * p - q)) / base


KL_MISTAKES = {
    "p and q are exchanged: the reference comes first, and its probabilities weigh the differences": {
        "reverse": True
    },
    "the differences are weighed with the model's probabilities q: the reference's count": {"weigh": "q"},
    "the differences are not weighed: each counts as often as its token comes, p of the time": {"weigh": ""},
    "your logarithm overflows: exp(1000) is infinite. Take the largest logit off first, which changes no "
    "probability": {"shift": False},
    "your logits are no log-probabilities yet: take off the log of the sum of all exp(logits)": {
        "shift": False,
        "normalize": False,
    },
    "you subtract logits: only log-probabilities may be, each less its own log of a sum": {"raw": True},
    "those are no probabilities: exp(logits) has to be divided by its sum": {"normalize": False},
    "your sign is turned round: a divergence is never below 0": {"base": -1.0},
    "that is the cross-entropy, not 0 where both say the same: log p less log q counts": {"own": 0},
    "that is in bits: np.log2 counts in bits, the lesson in nats, np.log": {"base": np.log(2)},
    "that is a mean over the vocabulary: the divergence is a sum over it": {"total": np.mean},
}


def wrong_error(a, b, unpaired=False, ddof=1, root=True, divide=True, added=False, instead=None):
    if instead is not None:
        return instead(b - a)
    if unpaired:
        return np.sqrt((np.var(a, ddof=1) + np.var(b, ddof=1)) / len(a))
    spread = np.std(a + b if added else b - a, ddof=ddof)
    return spread / (np.sqrt(len(a)) if root else len(a)) if divide else spread


PAIRED_MISTAKES = {
    "that is the error of two texts that have nothing in common: subtract token by token first, and what is "
    "hard for both drops out": {"unpaired": True},
    "that is the mean of the differences: the question is how sure it is": {"instead": np.mean},
    "that is its square: a spread is the root of the variance": {
        "instead": lambda d: np.var(d, ddof=1) / len(d)
    },
    "the mean of the differences counts as spread: take it off before you square": {
        "instead": lambda d: np.sqrt(np.mean(d**2) / len(d))
    },
    "that is how far single tokens spread: a mean of n tokens is sqrt(n) times as certain": {"divide": False},
    "you divide by n: the spread of a mean shrinks with the root of n": {"root": False},
    "your spread divides by n: np.std does, unless you say ddof=1. The mean was taken from the same n "
    "numbers": {"ddof": 0},
    "you add the two: the difference b - a is what the models do not share": {"added": True},
}


def one_mean(x, axis):
    return np.full(x.shape[1], x.mean())


def weighted(x, E, power=2, average=np.mean, squared=True, counts=True, outside=False, again=1, total=np.sum):
    x = x.astype(np.float64)
    importance = average(x, axis=0) ** 2 if outside else average(abs(x) ** power, axis=0)
    importance = importance if counts else np.ones_like(importance)
    return total(importance**again * (E.astype(np.float64) ** 2 if squared else abs(E)))


WEIGHTED_MISTAKES = {
    "the inputs are not used: a column's error counts mean(x ** 2) times": {"counts": False},
    "you square the mean: plus and minus cancel in it. Take the mean of the squares": {"outside": True},
    "you take one mean over all inputs: each column has its own, axis=0": {"average": one_mean},
    "you take the mean of |x|: errors of outputs are squares, and so are their weights": {"power": 1},
    "you add the squares over the tokens: the mean does not grow with the text": {"average": np.sum},
    "you square the importance with the errors: it is made of squares already": {"again": 2},
    "that is the mean over all weights: errors of more weights are a larger error, so add them": {
        "total": np.mean
    },
    "your errors are not squared: two errors of 1 are not as bad as one of 2": {"squared": False},
}


def greedy(
    cost, gain, budget, by="rate", skip=False, over=False, rest=0, rising=False, ordered=False, spend=1
):
    key = {"rate": gain / cost, "gain": gain, "cost": -cost.astype(float)}[by]
    taken, spent = [], 0
    for step in np.argsort(key if rising else -key, kind="stable"):
        if spent + cost[step] > budget - rest:
            if over:
                taken.append(step)
            if not skip:
                break
            continue
        spent += spend * cost[step]
        taken.append(step)
    return np.array(sorted(taken) if ordered else taken, np.int64)


STEP_MISTAKES = {
    "you take the largest gains first: one that costs ten times as much buys less for each byte": {
        "by": "gain"
    },
    "you take the cheapest first, whatever they save: sort by gain / cost": {"by": "cost"},
    "your order is upside down: np.argsort begins with the smallest": {"rising": True},
    "you take one step too many: the one that goes over the budget stays out": {"over": True},
    "you stop one step too early: one that spends the budget to its last byte is paid for": {"rest": 1},
    "you compare each step with the whole budget: what the steps before it cost is spent": {"spend": 0},
    "you go on behind the first step that does not fit: stop there": {"skip": True},
    "those are the right steps, sorted by number: return them in the order in which they are taken": {
        "ordered": True
    },
}


def fed(
    w, step, U, feed=True, sign=-1, power=1, old=False, only_next=False, rounding=np.rint, what="q", grid=None
):
    w, q, first = w.astype(np.float64), np.zeros(len(w)), w.astype(np.float64)
    for j in range(len(w)):
        q[j] = step * rounding(w[j] / (grid or step))
        e = ((first if old else w)[j] - q[j]) / U[j, j] ** power
        end = j + 2 if only_next else len(w)
        w[j + 1 : end] += sign * e * U[j, j + 1 : end] if feed else 0.0
    return {"q": q, "codes": q / step, "w": w}[what].astype(np.float32)


FEEDBACK_MISTAKES = {
    "nothing is fed back: that is plain rounding. Did you take U[j + 1:, j]? That is below the diagonal, all "
    "zeros": {"feed": False},
    "your errors are added where they should be taken off: w[j + 1:] -= e * U[j, j + 1:]": {"sign": 1},
    "your error is not divided by U[j, j]": {"power": 0},
    "your error is multiplied by U[j, j]: it is to be divided": {"power": -1},
    "you round the weight itself: w[j] / step says how many steps it is": {"grid": 1.0},
    "your error is that of the weight as it was: by now it has taken up errors of others, w[j] - q[j]": {
        "old": True
    },
    "only the next column learns of the error: all columns behind j do": {"only_next": True},
    "your weights are cut off, not rounded": {"rounding": np.trunc},
    "those are the whole numbers: return the weights that they stand for, step times as large": {
        "what": "codes"
    },
    "you return the weights as they have become: what goes into the file is what they were rounded to": {
        "what": "w"
    },
}


def mistakes(function, table):
    return tuple(Mistake(partial(function, **wrong), message) for message, wrong in table.items())


# Cases


def kl_cases():
    rng = np.random.default_rng(0)
    p = rng.normal(0, 2, 50)
    peak = np.zeros(20)
    peak[3] = 12.0
    return {
        "three tokens": (np.log([0.5, 0.25, 0.25]), np.log([0.25, 0.5, 0.25])),
        "fifty tokens": (p, p + rng.normal(0, 0.3, 50)),
        "the same": (p, p.copy()),
        "one sure, one unsure": (peak, np.zeros(20)),
        "large logits": (p * 3 + 1000, p * 3 + 1000 + rng.normal(0, 0.5, 50)),
    }


def paired_cases():
    rng = np.random.default_rng(1)
    hard = rng.exponential(3.0, 400)
    return {
        "four tokens": (np.array([1.0, 5.0, 2.0, 4.0]), np.array([1.5, 5.1, 2.6, 4.2])),
        "400 tokens, hard for both": (hard, hard + 0.02 + rng.normal(0, 0.05, 400)),
        "nothing in common": (hard, rng.exponential(3.0, 400)),
    }


def weighted_cases():
    rng = np.random.default_rng(2)
    E = rng.normal(0, 0.1, (4, 8)).astype(np.float32)
    x = rng.standard_normal((30, 8)).astype(np.float32)
    return {
        "two columns": (np.array([[1, 0], [-3, 0.5]], np.float32), np.array([[0.5, 2]], np.float32)),
        "random": (x, E),
        "one loud input": (x * np.array([20, 1, 1, 1, 1, 1, 1, 1], np.float32), E),
        "no error": (x, np.zeros_like(E)),
    }


def step_cases():
    rng = np.random.default_rng(3)
    cost = rng.integers(10, 200, 30)
    return {
        "four steps": (np.array([10, 1, 5, 3]), np.array([20.0, 4.0, 5.0, 1.0]), 12),
        "spent to the last byte": (np.array([5, 4, 6]), np.array([1.0, 8.0, 6.0]), 10),
        "a dear one first": (np.array([100, 2, 3, 90]), np.array([50.0, 8.0, 9.0, 1.0]), 104),
        "thirty steps": (cost, rng.exponential(1.0, 30) * cost, 1500),
        "room for all": (cost, rng.exponential(1.0, 30) * cost, 10**6),
        "room for none": (np.array([10, 20]), np.array([1.0, 1.0]), 5),
    }


def factor_of(K, seed):
    """Return w, float32 [K], and U, float32 [K, K], of inputs that go together."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((200, K)) @ (np.eye(K) + 0.4 * rng.standard_normal((K, K)))
    w = rng.standard_normal(K)
    w += np.copysign(1, w)  # none is rounded to 0, where w - (w - q) leaves a little that is not near it
    return w.astype(np.float32), feedback.factor(x.T @ x)


def feedback_cases():
    w, U = factor_of(16, 4)
    more, its = factor_of(32, 5)
    return {
        "two columns": (np.array([0.4, 0.4], np.float32), 1.0, np.array([[1, -0.5], [0, 1]], np.float32)),
        "sixteen columns": (w, 0.37, U),
        "thirty-two columns": (more, 0.25, its),
        "inputs that have nothing in common": (w, 0.37, np.diag(np.diag(U))),
    }


EXERCISES = [
    Exercise(
        "kl_divergence",
        engine=engine_kl_divergence,
        cases=kl_cases,
        mistakes=mistakes(kl, KL_MISTAKES),
        hints=(
            "Each logit less the logarithm of the sum of all exp(logits) is a log-probability.",
            "np.exp overflows beyond 709. Lower all logits by the same number first: by the largest.",
        ),
        solution=solutions.kl_divergence,
        twin=compared,
        tolerance=TOLERANCE,
    ),
    Exercise(
        "paired_error",
        engine=engine_paired_error,
        cases=paired_cases,
        mistakes=mistakes(wrong_error, PAIRED_MISTAKES),
        hints=(
            "One number for each token: what b has more than a. How far do these numbers spread?",
            "np.std with ddof=1 says how far. Their mean is more certain than one of them: by which factor?",
        ),
        solution=solutions.paired_error,
        twin=paired,
        tolerance=TOLERANCE,
    ),
    Exercise(
        "weighted_error",
        engine=engine_weighted_error,
        cases=weighted_cases,
        mistakes=mistakes(weighted, WEIGHTED_MISTAKES),
        hints=(
            "x is [tokens, K], E is [rows, K]. One number for each column k: how large is x[:, k] ** 2?",
            "NumPy spreads importance, [K], over the rows of E. Then everything is added.",
        ),
        solution=solutions.weighted_error,
        twin=best.squared_error,
        tolerance=TOLERANCE,
    ),
    Exercise(
        "best_steps",
        engine=engine_best_steps,
        cases=step_cases,
        mistakes=mistakes(greedy, STEP_MISTAKES),
        hints=(
            "What does a byte save in each step? np.argsort sorts upwards; a minus turns it round.",
            "Go through the steps in that order, add up what is spent, and leave the loop at the first step "
            "that the budget does not pay for.",
        ),
        solution=solutions.best_steps,
        twin=mix.choose,
        whole=True,
    ),
    Exercise(
        "round_with_feedback",
        engine=engine_round_with_feedback,
        cases=feedback_cases,
        mistakes=mistakes(fed, FEEDBACK_MISTAKES),
        hints=(
            "Copy w: it changes while you go from left to right. At column j, round what w[j] is by then.",
            "The error is divided by the diagonal, U[j, j]; the rest of row j says what each column behind "
            "takes off.",
        ),
        solution=solutions.round_with_feedback,
        twin=feedback.encode,
        tolerance=TOLERANCE,
    ),
]
