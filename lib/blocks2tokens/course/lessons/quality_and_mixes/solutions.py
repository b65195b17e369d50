"""Solutions of lesson 26."""

import numpy as np


def kl_divergence(p_logits, q_logits):
    log_p = p_logits - p_logits.max()
    log_p = log_p - np.log(np.sum(np.exp(log_p)))
    log_q = q_logits - q_logits.max()
    log_q = log_q - np.log(np.sum(np.exp(log_q)))
    return np.sum(np.exp(log_p) * (log_p - log_q))


def paired_error(a, b):
    difference = b - a
    return np.std(difference, ddof=1) / np.sqrt(len(difference))


def weighted_error(x, E):
    importance = np.mean(x**2, axis=0)
    return np.sum(importance * E**2)


def best_steps(cost, gain, budget):
    taken, spent = [], 0
    for step in np.argsort(-gain / cost, kind="stable"):
        if spent + cost[step] > budget:
            break
        spent += cost[step]
        taken.append(step)
    return np.array(taken, np.int64)


def round_with_feedback(w, step, U):
    w, q = w.copy(), np.zeros_like(w)
    for j in range(len(w)):
        q[j] = step * np.rint(w[j] / step)
        e = (w[j] - q[j]) / U[j, j]
        w[j + 1 :] -= e * U[j, j + 1 :]
    return q
