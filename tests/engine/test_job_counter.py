"""Workers that go through stages together: every job is done once, whoever comes, and however late."""

import ctypes
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from numba import njit, prange

from blocks2tokens.jit import job_counter

STAGES, JOBS = 50, 40


@njit
def dawdle(turns):
    """Take a while, longer than all other jobs of a stage."""
    total = 0.0
    for i in range(turns):
        total += np.sqrt(total + i)
    return total


@njit
def go_through(counters, done, sums, worker, n_workers):
    for stage in range(STAGES):
        job = job_counter.take_job_at(counters, stage, job_counter.first_job(worker, n_workers, JOBS), JOBS)
        while job < JOBS:
            done[stage, job] += 1
            made = sums[stage - 1].mean() if stage else 3.0  # right only if the stage before is complete
            if job == 0:
                made += min(0.0, dawdle(50_000))  # 0: but whoever does not wait is past it by far
            sums[stage, job] = made
            job_counter.count_done(counters, stage)
            job = job_counter.take_job_at(counters, stage, job + 1, JOBS)
        job_counter.wait_for(counters, stage, JOBS)


@njit(parallel=True)
def all_go_through(counters, done, sums, n_workers):
    for worker in prange(n_workers):
        go_through(counters, done, sums, np.int64(worker), n_workers)


@pytest.mark.parametrize("n_workers", [1, 2, 7])
def test_each_job_is_done_once_and_after_the_stage_before(n_workers):
    counters, done = job_counter.new_counters(STAGES), np.zeros((STAGES, JOBS), np.int64)
    sums = np.full((STAGES, JOBS), np.nan)
    all_go_through(counters, done, sums, n_workers)
    assert np.all(done == 1)
    assert np.allclose(sums, 3)


def test_who_comes_late_finds_nothing_to_do():
    counters, done = job_counter.new_counters(STAGES), np.zeros((STAGES, JOBS), np.int64)
    for worker in range(2):
        go_through(counters, done, np.zeros((STAGES, JOBS)), worker, 2)
    assert np.all(done == 1) and job_counter.take_job_at(counters, 0, 3, JOBS) == JOBS


@pytest.mark.parametrize("n_jobs", [1, 7, 64, 65, job_counter.MOST_JOBS])
def test_jobs_are_taken_from_a_place_on_and_in_a_circle(n_jobs):
    counters, wanted = job_counter.new_counters(2), n_jobs // 2
    taken = [job_counter.take_job_at(counters, 1, wanted, n_jobs) for _ in range(n_jobs + 1)]
    assert taken == [*range(wanted, n_jobs), *range(wanted), n_jobs]
    assert not counters[: job_counter.STAGE].any()


def test_the_shares_of_all_workers_are_all_jobs():
    for n_workers in (1, 2, 3, 40):
        firsts = [job_counter.first_job(worker, n_workers, JOBS) for worker in range(n_workers + 1)]
        assert firsts[0] == 0 and firsts[-1] == JOBS and firsts == sorted(firsts)


@njit(nogil=True)
def wait(counters):
    job_counter.wait_for(counters, 0, 1)


@pytest.mark.skipif(job_counter.ON_WINDOWS, reason="there the call is the system's")
def test_windows_call_is_found_where_we_say(monkeypatch):
    calls = []
    call = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: calls.append("made") or 1)
    windll = SimpleNamespace(kernel32=SimpleNamespace(SwitchToThread=call))
    monkeypatch.setattr(job_counter.ctypes, "windll", windll, raising=False)
    monkeypatch.setattr(job_counter, "ON_WINDOWS", True)
    job_counter.tell_llvm_where_it_is()
    njit(lambda: job_counter.rest())()
    assert calls == ["made"]


@pytest.mark.skipif(job_counter.ON_WINDOWS, reason="there a core is left only to somebody who waits for it")
def test_who_waits_long_leaves_the_core_to_others():
    counters, used = job_counter.new_counters(1), []
    wait(np.ones_like(counters))  # compiles

    def waits():
        before = time.thread_time()
        wait(counters)
        used.append(time.thread_time() - before)

    thread = threading.Thread(target=waits)
    thread.start()
    time.sleep(0.5)
    job_counter.count_done(counters, 0)
    thread.join()
    assert used[0] < 0.4  # of 0.5 seconds
