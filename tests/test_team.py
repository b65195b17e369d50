"""Workers that go through stages together: every job is done once, whoever comes, and however late."""

import numpy as np
import pytest
from numba import njit, prange

from blocks2tokens.kernels import team

STAGES, JOBS = 50, 40


@njit
def go_through(tickets, done, sums):
    for stage in range(STAGES):
        job = team.take_job(tickets, stage)
        while job < JOBS:
            done[stage, job] += 1
            if stage:
                sums[stage, job] = sums[stage - 1].mean()  # right only if the stage before is complete
            team.count_done(tickets, stage)
            job = team.take_job(tickets, stage)
        team.wait_for(tickets, stage, JOBS)


@njit(parallel=True)
def all_go_through(tickets, done, sums, n_workers):
    for _ in prange(n_workers):
        go_through(tickets, done, sums)


@pytest.mark.parametrize("n_workers", [1, 2, 7])
def test_each_job_is_done_once_and_after_the_stage_before(n_workers):
    tickets, done = team.new_tickets(STAGES), np.zeros((STAGES, JOBS), np.int64)
    sums = np.full((STAGES, JOBS), np.nan)
    sums[0] = 3
    all_go_through(tickets, done, sums, n_workers)
    assert np.all(done == 1)
    assert np.allclose(sums, 3)


def test_who_comes_late_finds_nothing_to_do():
    tickets, done = team.new_tickets(STAGES), np.zeros((STAGES, JOBS), np.int64)
    for _ in range(2):
        go_through(tickets, done, np.zeros((STAGES, JOBS)))
    assert np.all(done == 1) and not team.is_open(tickets, 0, JOBS)
