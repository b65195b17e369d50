"""Simulate: a pipeline and a long job with chance in them, for more machines than there are here.

    stage    0    A0 B0 .  A1 ...      starts when its message is there and the one before is through
             1    .  A0 B0 .  A1

The end of token k in stage s is max(end of k in s - 1 + hop, end of k - 1 in s) + its seconds. For one token
and all stages that is a running maximum: no loop over stages.
"""

import numpy as np

from blocks2tokens.parallel.cost import FLOAT, ID, Link


def pipeline_ends(
    stages: np.ndarray, link: Link, dim: int, n_texts: int, n_tokens: int, jitter: float = 0.0, seed: int = 0
) -> np.ndarray:
    """Return when each token of each text is there, seconds, float64 [n_tokens, n_texts].

    stages, float64 [N], are the seconds of each stage; each time times exp(jitter * a normal number), so
    that its median stays.
    """
    rng, N = np.random.default_rng(seed), len(stages)
    hop, back = link.hop(FLOAT * dim), link.hop(ID) if N > 1 else 0.0
    ends, free = np.zeros((n_tokens, n_texts)), np.zeros(N)
    for token in range(n_tokens):
        for text in range(n_texts):
            ready = ends[token - 1, text] + back if token else 0.0
            seconds = stages * np.exp(jitter * rng.standard_normal(N))
            free = ends_of_one(ready, free, seconds, hop)
            ends[token, text] = free[-1]
    return ends


def ends_of_one(ready: float, free: np.ndarray, seconds: np.ndarray, hop: float) -> np.ndarray:
    """Return when each stage is through with a token; `free`: when it was through with the one before."""
    done = np.cumsum(seconds + hop) - hop  # had it never to wait
    before = done - seconds
    starts = free.copy()
    starts[0] = max(starts[0], ready)
    return done + np.maximum.accumulate(starts - before)


def rate(ends: np.ndarray) -> float:
    """Return the tokens a second, of all texts, behind the first round."""
    n_tokens, n_texts = ends.shape
    return (n_tokens - 1) * n_texts / (ends[-1, -1] - ends[0, -1])


def job_seconds(
    work: float, interval: float, saving: float, restart: float, mtbf: float, rng: np.random.Generator
) -> float:
    """Return the seconds of a job of `work` seconds that saves after each `interval`; failures by chance."""
    now = done = 0.0
    fails = rng.exponential(mtbf)
    while done < work:
        piece = min(interval, work - done)
        if now + piece + saving <= fails:
            now, done = now + piece + saving, done + piece
            continue
        now = fails
        fails = now + rng.exponential(mtbf)
        while fails < now + restart:  # it fails again while it starts
            now, fails = fails, fails + rng.exponential(mtbf)
        now += restart
    return now
