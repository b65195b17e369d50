"""A worker says where it will go on, so that memory is read ahead: it does go on there."""

import numpy as np
import pytest

from blocks2tokens.jit.job_counter import first_job, new_counters
from blocks2tokens.model import decode
from blocks2tokens.model.decode import (
    FFN_DOWN,
    GATE,
    JOBS,
    MATRICES,
    MATRIX,
    K,
    O,
    Parameters,
    Q,
    Sizes,
    V,
    Worker,
)

ROWS = {Q: 128, K: 32, V: 32, O: 2048, GATE: 5632, FFN_DOWN: 2048}
SIZES = Sizes(2, 8, 2, 16, 128, False, False, False, 0, *[np.float32(1)] * 5, 1.0)


@pytest.fixture(scope="module")
def parameters():
    matrices = np.zeros((SIZES.n_layers, MATRICES), MATRIX)
    for i, m in enumerate(matrices.reshape(-1)):
        m["rows"], m["row_bytes"], m["address"] = ROWS.get(i % MATRICES, 5632), 1152, 10**9 * (i + 1)
        m["parallel"] = 1
    output = matrices[0, :1].copy()
    output["address"], output["rows"] = 5, 32000
    nothing = np.zeros((0, 0), np.float32)
    return Parameters(matrices, output, *[nothing] * 6)


def taken(m, worker):
    """Return the rows with which each job that one worker alone takes begins, in order."""
    step, n_jobs, counters = decode.rows_of_a_job(m, worker.n), decode.jobs_of(m, worker.n), new_counters(1)
    job, firsts = decode.take_first(counters, 0, worker, n_jobs), []
    while job < n_jobs:
        firsts.append(job * step)
        job = decode.take_next(counters, 0, job, n_jobs)
    return firsts


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_jobs_are_all_rows_and_begin_at_the_entry(parameters, n):
    m = parameters.matrices[0, GATE]
    for i in range(n):
        firsts = taken(m, Worker(i, n, 0))
        step = decode.rows_of_a_job(m, n)
        assert sorted(firsts) == list(range(0, m["rows"], step)) and len(firsts) <= JOBS * n
        assert decode.entry(m, Worker(i, n, 0)) == m["address"] + firsts[0] * m["row_bytes"]


@pytest.mark.parametrize("n", [1, 2, 5])
def test_after_a_layer_comes_the_first_head_of_the_share_and_at_last_the_logits(parameters, n):
    n_heads = SIZES.n_heads + 2 * SIZES.n_kv_heads
    for i in range(n):
        worker = Worker(i, n, 0)
        matrix, head = decode.head_of(SIZES, first_job(i, n, n_heads))
        m = parameters.matrices[1, matrix]
        expected = m["address"] + head * SIZES.head_dim * m["row_bytes"]
        assert decode.after_layer(parameters, SIZES, 0, worker) == expected
        assert decode.after_layer(parameters, SIZES, 1, worker) == decode.entry(parameters.output[0], worker)


def test_the_last_job_of_a_share_is_followed_by_the_next_share():
    for n_jobs in (1, 8, 13):
        lasts = [[decode.is_last(Worker(i, 3, 0), job, n_jobs) for job in range(n_jobs)] for i in range(3)]
        ends = {first_job(i + 1, 3, n_jobs) - 1 for i in range(3)} - {-1}
        assert {job for row in lasts for job, last in enumerate(row) if last} == ends


@pytest.mark.parametrize("n_rows", range(1, 17))
def test_tiles_are_all_rows_once_and_hardly_more(n_rows):
    tiles = {decode.tile_of(n_rows, row, False) for row in range(n_rows)}
    assert {size for _, size in tiles} <= {1, *decode.TILES}
    rows = [first + i for first, size in tiles for i in range(size)]
    assert sorted(rows) == list(range(len(rows))) and n_rows <= len(rows) <= n_rows + 3
    assert all(
        first <= row < first + size
        for row in range(n_rows)
        for first, size in [decode.tile_of(n_rows, row, False)]
    )
    assert [decode.tile_of(n_rows, row, True) for row in range(n_rows)] == [(r, 1) for r in range(n_rows)]
