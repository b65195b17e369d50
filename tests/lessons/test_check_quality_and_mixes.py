"""What learners write in lesson 26, for test_check_learners.py, and what is the lesson's own."""

import math

import numpy as np


def softmax(x):
    e = [math.exp(float(v) - float(max(x))) for v in x]
    return [v / sum(e) for v in e]


def kl_by(term, change=lambda p, q: (p, q)):
    def kl(p_logits, q_logits):
        p, q = change(softmax(p_logits), softmax(q_logits))
        return math.fsum(term(a, b) for a, b in zip(p, q, strict=True))

    return kl


def naive(p_logits, q_logits):
    p, q = np.exp(p_logits) / np.exp(p_logits).sum(), np.exp(q_logits) / np.exp(q_logits).sum()
    return (p * (np.log(p) - np.log(q))).sum()


def unnormalized(p_logits, q_logits):
    p, q = p_logits - p_logits.max(), q_logits - q_logits.max()
    return (np.exp(p) * (p - q)).sum()


def by_logaddexp(p_logits, q_logits):
    log_p, log_q = (x - np.logaddexp.reduce(x) for x in (p_logits, q_logits))
    return np.exp(log_p) @ (log_p - log_q)


def kl_term(a, b):
    return a * math.log(a / b)


def by_variance(a, b):
    d = [float(y) - float(x) for x, y in zip(a, b, strict=True)]
    m = sum(d) / len(d)
    return math.sqrt(sum((v - m) ** 2 for v in d) / (len(d) - 1) / len(d))


def column_by_column(x, E):
    total = 0.0
    for k in range(E.shape[1]):
        weight = float((x[:, k].astype(float) ** 2).sum()) / len(x)
        total += weight * float((E[:, k].astype(float) ** 2).sum())
    return total


def sorted_steps(key, stop=True, limit=lambda spent, budget: spent <= budget, result=list):
    def best_steps(cost, gain, budget):
        order = sorted(range(len(cost)), key=lambda i: key(float(cost[i]), float(gain[i])))
        taken, spent = [], 0
        for i in order:
            if not limit(spent + int(cost[i]), budget):
                if stop:
                    break
                continue
            taken.append(i)
            spent += int(cost[i])
        return result(taken)

    return best_steps


def one_too_many(cost, gain, budget):
    taken, spent = [], 0
    for i in np.argsort(-gain / cost, kind="stable"):
        taken.append(i)
        spent += cost[i]
        if spent > budget:
            break
    return np.array(taken)


def by_rate(cost, gain):
    return -gain / cost


def row_of(take=lambda e, u: -e * u, divide=lambda U, j: U[j, j], round_to=round, reach=None, first=False):
    def round_with_feedback(w, step, U):
        now, out = [float(v) for v in w], []
        for j in range(len(w)):
            out.append(step * round_to(now[j] / step))
            e = ((float(w[j]) if first else now[j]) - out[j]) / float(divide(U, j))
            for k in range(j + 1, len(w) if reach is None else min(len(w), j + 1 + reach)):
                now[k] += take(e, float(U[j, k]))
        return np.array(out, np.float32)

    return round_with_feedback


def weights_behind(w, step, U):
    """The weights as each was when its turn came."""
    w = w.astype(float)
    for j in range(len(w)):
        w[j + 1 :] -= (w[j] - step * np.rint(w[j] / step)) / U[j, j] * U[j, j + 1 :]
    return w


def the_weight_itself(w, step, U):
    now, out = w.astype(float), []
    for j in range(len(w)):
        out.append(step * round(now[j]))
        now[j + 1 :] -= (now[j] - out[j]) / U[j, j] * U[j, j + 1 :]
    return np.array(out, np.float32)


def row_less_its_errors(w, step, U):
    """What stands in w[j] is taken off to the multiple: with float32's rounding beside it."""
    w = w.astype(np.float32)
    for j in range(len(w)):
        error = (w[j] - step * np.round(w[j] / step)) / U[j, j]
        w[j:] -= error * U[j, j:]
    return w


RIGHT = {
    "kl_divergence": [kl_by(kl_term), by_logaddexp, lambda p, q: np.float32(kl_by(kl_term)(p, q))],
    "paired_error": [by_variance, lambda a, b: np.sqrt(np.var(b - a, ddof=1) / len(a))],
    "weighted_error": [column_by_column, lambda x, E: ((x**2).mean(0) @ (E**2).T).sum()],
    "best_steps": [sorted_steps(by_rate, result=lambda t: np.array(t, int))],
    "round_with_feedback": [row_of(), row_of(round_to=lambda v: math.floor(v + 0.5)), row_less_its_errors],
}
MISTAKES = {
    "kl_divergence": {
        "exchanged": kl_by(kl_term, lambda p, q: (q, p)),
        "the model's probabilities q": kl_by(lambda a, b: b * math.log(a / b)),
        "not weighed": kl_by(lambda a, b: math.log(a / b)),
        "overflows": naive,
        "no log-probabilities yet": lambda p, q: (np.exp(p) * (p - q)).sum(),
        "you subtract logits": lambda p, q: sum(
            a * float(x - y) for a, x, y in zip(softmax(p), p, q, strict=True)
        ),
        "no probabilities": unnormalized,
        "your sign is turned round": lambda p, q: -kl_by(kl_term)(p, q),
        "cross-entropy": kl_by(lambda a, b: -a * math.log(b)),
        "in bits": kl_by(lambda a, b: a * math.log2(a / b)),
        "a mean over the vocabulary": lambda p, q: kl_by(kl_term)(p, q) / len(p),
    },
    "paired_error": {
        "nothing in common": lambda a, b: math.hypot(
            a.std(ddof=1) / math.sqrt(len(a)), b.std(ddof=1) / math.sqrt(len(b))
        ),
        "mean of the differences": lambda a, b: b.mean() - a.mean(),
        "that is its square": lambda a, b: (b - a).var(ddof=1) / len(a),
        "take it off before you square": lambda a, b: math.sqrt(((b - a) ** 2).sum()) / len(a),
        "single tokens spread": lambda a, b: (b - a).std(ddof=1),
        "you divide by n": lambda a, b: (b - a).std(ddof=1) / len(a),
        "unless you say ddof=1": lambda a, b: (b - a).std() / math.sqrt(len(a)),
        "you add the two": lambda a, b: (b + a).std(ddof=1) / math.sqrt(len(a)),
    },
    "weighted_error": {
        "inputs are not used": lambda x, E: (E.astype(float) ** 2).sum(),
        "you square the mean": lambda x, E: (x.mean(axis=0, dtype=float) ** 2 * E**2).sum(),
        "one mean over all inputs": lambda x, E: (x.astype(float) ** 2).mean() * (E.astype(float) ** 2).sum(),
        "the mean of |x|": lambda x, E: (abs(x).mean(axis=0, dtype=float) * E**2).sum(),
        "add the squares over the tokens": lambda x, E: ((x.astype(float) ** 2).sum(axis=0) * E**2).sum(),
        "square the importance": lambda x, E: (((x.astype(float) ** 2).mean(axis=0) * E) ** 2).sum(),
        "mean over all weights": lambda x, E: ((x.astype(float) ** 2).mean(axis=0) * E**2).mean(),
        "not squared": lambda x, E: ((x.astype(float) ** 2).mean(axis=0) * abs(E)).sum(),
    },
    "best_steps": {
        "largest gains first": sorted_steps(lambda c, g: -g),
        "cheapest first": sorted_steps(lambda c, g: c),
        "upside down": sorted_steps(lambda c, g: g / c),
        "one step too many": one_too_many,
        "to its last byte": sorted_steps(by_rate, limit=lambda spent, budget: spent < budget),
        "with the whole budget": lambda c, g, b: np.array([i for i in np.argsort(-g / c) if c[i] <= b]),
        "behind the first step": sorted_steps(by_rate, stop=False),
        "sorted by number": sorted_steps(by_rate, result=sorted),
    },
    "round_with_feedback": {
        "nothing is fed back": row_of(lambda e, u: 0.0),
        "errors are added": row_of(lambda e, u: e * u),
        "not divided": row_of(divide=lambda U, j: 1.0),
        "multiplied by U": row_of(divide=lambda U, j: 1 / U[j, j]),
        "you round the weight itself": the_weight_itself,
        "as it was": row_of(first=True),
        "only the next column": row_of(reach=1),
        "cut off": row_of(round_to=math.trunc),
        "the whole numbers": lambda w, step, U: np.rint(row_of()(w, step, U) / step),
        "as they have become": weights_behind,
    },
}
WRONG = [(name, wrong, words) for name, wrongs in MISTAKES.items() for words, wrong in wrongs.items()]
