"""Sixteen rows of weights, one row of x, 64 products at a time. For one row of x.

    x float32 [M, K]    ->  int8 codes, scales, sums         once
    16 rows of w        ->  words of codes, a row per lane   for each row of x, and never in memory
                        ->  out[m, n : n + 16]

The cores share the rows of w. No float32 weight is ever made: a weight is a few bits in a register until
it is multiplied. See `panels` for the loop and `unpack` for the formats. On a CPU that has none of the
instruction sets, and for matrices of fewer than 16 rows, `integer_dot` does the same in plain loops.
"""

from functools import cache

import numpy as np
from numba import get_num_threads, njit, prange, types

from blocks2tokens.jit import cpu
from blocks2tokens.jit.job_counter import MOST_JOBS, STAGE, first_job, take_job_at
from blocks2tokens.jit.lanes import ROWS
from blocks2tokens.jit.naming import named
from blocks2tokens.jit.pointers import call_job, floats_at
from blocks2tokens.kernels import prefetching
from blocks2tokens.kernels.kernel import Cost, Kernel
from blocks2tokens.kernels.ours import integer_dot, quantized_activations
from blocks2tokens.kernels.ours.integer_dot import pointer
from blocks2tokens.kernels.ours.panels import rows, tag_of, tile_sizes
from blocks2tokens.kernels.ours.unpack import PACKED
from blocks2tokens.kernels.scratch import aligned, with_own_memory

JOBS = 8  # that each core takes, if all are as fast
SERIAL_BELOW = 1 << 20  # multiply-adds: less is done before another core would have begun
# Whole numbers all, since Numba takes 12 us to be handed a compiled function, and none for its address:
# weights, their row bytes, blocks of a row; codes, d and sums of x; tiles; first, last; part, its rows; out,
# its rows and columns; panel
JOB = types.void(*[types.int64] * 15)


def vectors_for(fmt, N, K):
    """Return the name of the instruction set to use, "plain" if none suits a matrix [N, K] of this format."""
    fits = fmt.name in PACKED and N >= ROWS and K % PACKED[fmt.name].weights == 0
    if not fits:
        return "plain"
    return cpu.with_bf16(cpu.chosen()) if fmt.name == "BF16" else cpu.chosen()


def rows_job(name, isa_name, n_rows):
    """Return the job: rows `first` to `last` - 1 of the weights, times all tiles of n_rows rows of x."""
    tag = tag_of(name, isa_name, n_rows, prefetching.chosen())
    code_bytes, d_bytes, sum_bytes = tile_sizes(PACKED[name], n_rows)

    def job(
        weights, row_bytes, blocks, codes, d, sums, tiles, first, last, part, part_rows, out, M, N, panel
    ):
        results, products = floats_at(part, (part_rows, ROWS)), floats_at(out, (M, N))
        for n in range(first, last, ROWS):
            start = min(n, N - ROWS)  # the last sixteen may overlap those before
            at = weights + start * row_bytes
            for tile in range(tiles):
                place = tile * blocks
                x = codes + code_bytes * place, d + d_bytes * place, sums + sum_bytes * place
                rows(tag, at, row_bytes, blocks, *x, part, at + ROWS * row_bytes)
                copy_tile(results, products, n_rows * tile, start)

    return named(job, f"rows_job_{name}_{isa_name}_{n_rows}".lower())


@njit(cache=True)
def copy_tile(part, out, m, n):
    """Copy a tile, float32 [T, 16], to row m and column n of out; rows behind its end are left out."""
    for i in range(min(part.shape[0], out.shape[0] - m)):
        for r in range(ROWS):
            out[m + i, n + r] = part[i, r]


@njit(cache=True)
def run_rows(job, operands, first, last, part, out, panel):
    """Have a job, the address of its code, fill columns `first` to `last` - 1 of out, float32 [M, N]."""
    room = part.ctypes.data, np.int64(part.shape[0])
    result = out.ctypes.data, np.int64(out.shape[0]), np.int64(out.shape[1])
    call_job(job, (*operands, np.int64(first), np.int64(last), *room, *result, panel.ctypes.data))


@njit(cache=True)
def work(job, operands, counters, step, worker, n_workers, part, out, panel):
    """Take `step` rows of weights at a time until none are left."""
    N = out.shape[1]
    n_jobs = -(-N // step)
    i = take_job_at(counters, 0, first_job(worker, n_workers, n_jobs), n_jobs)
    while i < n_jobs:
        run_rows(job, operands, step * i, min(N, step * (i + 1)), part, out, panel)
        i = take_job_at(counters, 0, i + 1, n_jobs)


@njit(parallel=True, cache=True)
def share(job, operands, counters, step, parts, panels, out):
    """Fill out, float32 [M, N]. Each core begins with rows of its own and helps others when it is done."""
    n_workers = parts.shape[0]
    for worker in prange(n_workers):
        work(job, operands, counters, step, np.int64(worker), n_workers, parts[worker], out, panels[worker])


@njit(cache=True)
def alone(job, operands, part, panel, out):
    """Fill out, float32 [M, N], on this core."""
    run_rows(job, operands, 0, out.shape[1], part, out, panel)


def job_needs(M, w, n_rows, part_rows, panel_bytes=0, x_dtype=np.float32):
    """Return what a job needs: x in tiles of n_rows rows; each worker so many rows of results, a panel.

    For weights that are floats x has x_dtype: float32, or uint16 for bfloat16.
    """
    packed, K, workers = PACKED[w.format.name], w.shape[1], get_num_threads()
    if packed.is_float:
        rounded = quantized_activations.needs_in_tiles(M, K, packed.weights, n_rows, x_dtype)
    else:
        rounded = quantized_activations.needs(M, K, packed.weights, packed.group, n_rows)
    parts = (workers, part_rows, ROWS), np.float32
    panels = (workers, aligned(panel_bytes)), np.uint8
    return {**rounded, "parts": parts, "panels": panels, "counters": ((STAGE,), np.int64)}


def run_job(job, x, w, out, room):
    """Fill out, float32 [M, N], by one of the jobs, in a room that `job_needs` describes."""
    M, (N, K), row_bytes, packed = len(x), w.shape, w.raw.shape[1], PACKED[w.format.name]
    put_in_tiles = quantized_activations.in_tiles if packed.is_float else quantized_activations.quantize_into
    a = put_in_tiles(x, room)
    x = (array.ctypes.data for array in (a.codes, a.d, a.sums))
    operands = (w.raw.ctypes.data, row_bytes, K // packed.weights, *x, len(a.codes))
    job, parts, panels, counters = address(job), room["parts"], room["panels"], room["counters"]
    if len(parts) == 1 or M * N * K < SERIAL_BELOW:
        alone(job, operands, parts[0], panels[0], out)
    else:
        step = -(-N // (min(JOBS * len(parts), MOST_JOBS) * ROWS)) * ROWS
        counters[:] = 0
        share(job, operands, counters, step, parts, panels, out)


@cache
def address(job) -> int:
    """Return the address of a job's compiled code."""
    return pointer(job, JOB).address


@cache
def compiled_job(name, isa_name, n_rows):
    return rows_job(name, isa_name, n_rows)


def needs(M, w):
    if vectors_for(w.format, *w.shape) == "plain":
        return integer_dot.needs(M, w)
    return job_needs(M, w, 1, 1)


def run_into(x, w, out, room):
    isa = vectors_for(w.format, *w.shape)
    if isa == "plain":
        integer_dot.run_into(x, w, out, room)
    else:
        run_job(compiled_job(w.format.name, isa, 1), x, w, out, room)


run = with_own_memory(needs, run_into)


def count_times(times, M, K, N, fmt):
    """Return the counts of a kernel that unpacks every weight so many times."""
    return Cost(
        elements_decoded=times * K * N,
        blocks_decoded=times * K * N // fmt.block_size,
        lookups=0,
        bytes_read=times * N * fmt.row_bytes(K) + 4 * M * K,
        temporary_bytes=0,
        multiply_adds=M * K * N,
    )


def count(M, K, N, fmt, cores):
    if vectors_for(fmt, N, K) == "plain":
        return integer_dot.count(M, K, N, fmt, cores)
    return count_times(M, M, K, N, fmt)


KERNEL = Kernel(
    "simd_dot",
    "gguf",
    "the CPU's dot instruction on codes of 16 rows",
    run,
    count,
    True,
    range(1, 32),
    needs,
    run_into,
)
