"""The cost of many machines: formulas against loops, and against chance."""

import os
import time
from types import SimpleNamespace

import numpy as np
import pytest

from blocks2tokens.parallel import cost, ranks, simulate
from blocks2tokens.parallel.cost import Link

LINK = Link(1e-4, 1e9 / 8)


def test_a_hop_is_latency_and_bytes():
    assert LINK.hop(1.25e6) == pytest.approx(1e-4 + 0.01)


def ends_in_loops(stages, hop, back, n_texts, n_tokens):
    """Each token of each text through each stage: when both it and the stage are ready."""
    free, ends = [0.0] * len(stages), {}
    for token in range(n_tokens):
        for text in range(n_texts):
            now = ends[token - 1, text] + back if token else 0.0
            for s, seconds in enumerate(stages):
                now = max(now if s == 0 else now + hop, free[s]) + seconds
                free[s] = now
            ends[token, text] = now
    return np.array([[ends[token, text] for text in range(n_texts)] for token in range(n_tokens)])


@pytest.mark.parametrize("n_texts", [1, 2, 5])
@pytest.mark.parametrize("stages", [[3e-3], [1e-3, 2e-3], [4e-3, 1e-3, 2e-3, 2e-3]])
def test_the_running_maximum_is_the_loop(stages, n_texts):
    found = simulate.pipeline_ends(np.array(stages), LINK, 576, n_texts, 20)
    back = LINK.hop(8) if len(stages) > 1 else 0.0
    assert np.allclose(found, ends_in_loops(stages, LINK.hop(4 * 576), back, n_texts, 20), rtol=1e-12)


@pytest.mark.parametrize("n_texts", [1, 3, 12])
def test_a_full_pipeline_goes_as_the_formula_says(n_texts):
    stages = np.array([1e-3, 3e-3, 2e-3])
    ends = simulate.pipeline_ends(stages, LINK, 576, n_texts, 500)
    assert simulate.rate(ends) == pytest.approx(cost.pipeline_rate(stages, LINK, 576, n_texts), rel=0.01)


def test_failures_by_chance_cost_what_the_equation_expects():
    job = 5000.0, 90.0, 5.0, 20.0, 400.0
    rng = np.random.default_rng(0)
    found = [simulate.job_seconds(*job, rng) for _ in range(400)]
    error = np.std(found) / len(found) ** 0.5
    assert abs(np.mean(found) - cost.expected_seconds(*job)) < 4 * error + 0.02 * np.mean(found)


def test_the_best_interval_is_the_best():
    saving, mtbf = 5.0, 2000.0
    best = cost.best_interval(saving, mtbf)
    at = [cost.expected_seconds(1e5, best * x, saving, 0.0, mtbf) for x in (0.5, 1.0, 2.0)]
    assert at[1] == min(at)


@pytest.mark.skipif(not hasattr(os, "sched_yield"), reason="another way to give up the core")
def test_who_waits_for_a_message_does_not_sleep(monkeypatch):
    """sleep(0) takes 75 us in some versions of Python: five times as long as the sum that it waits for."""
    monkeypatch.setattr(ranks, "time", SimpleNamespace(monotonic=time.monotonic))
    answers = iter([False, False, True])
    ranks.Ranks.wait(None, SimpleNamespace(Test=lambda: next(answers)))
