"""Decoding: one token through all layers, in one parallel region.

    stage       jobs                          what a job does
    HEADS       n_heads + 2 n_kv_heads        the rows of one head of Q, K or V; bias, norm, rotation;
                                              K and V go into the cache
    ATTENTION   n_kv_heads * parts            the queries that share these keys, over one part of the keys
    OUTPUT      rows of attn_output           residual += attn_output @ attended, joined from the parts
    ROUTER      rows of ffn_gate_inp          a score for each expert; in a mixture alone
    GATE_UP     rows of ffn_gate, ffn_up      gate = silu(gate) * up; in a mixture, of each expert in use
    DOWN        rows of ffn_down              residual += ffn_down @ gate; in a mixture, all experts' shares
    ... for each layer, and then
    LOGITS      rows of output                logits = output @ normalized residual

Families that normalize what they add leave it in `added` instead. It can be normalized only when all of it is
there: whoever works in the stage that follows does so for itself, and whoever does that stage's first job
keeps the sum, in the other of two residuals, which nobody reads before the stage is over.

A worker normalizes and rounds the input of a stage for itself, into scratch of its own: that costs less than
to wait for somebody who does it for all. All arrays are there before the first token (`Decoder`): what a
token allocates is a header for each of them, without data, when Numba takes them over.
"""

from typing import NamedTuple

import numpy as np
from numba import config as numba_config
from numba import get_num_threads, njit, prange

from blocks2tokens import kernels
from blocks2tokens.jit.cores import takes_turns
from blocks2tokens.jit.job_counter import (
    MOST_JOBS,
    count_done,
    first_job,
    new_counters,
    take_job_at,
    wait_for,
)
from blocks2tokens.jit.pointers import call_job, floats_at, shorts_at
from blocks2tokens.jit.vectors import address_of
from blocks2tokens.kernels.ours import rows_times_x
from blocks2tokens.kernels.ours.quantized_activations import quantize_row, quantize_super_row
from blocks2tokens.kernels.ours.simd_dot import vectors_for
from blocks2tokens.kernels.ours.unpack import PACKED
from blocks2tokens.model.architectures import QKV
from blocks2tokens.model.compiled_layers import (
    GATE_KINDS,
    INFINITE,
    add,
    add_times,
    fill_angles,
    gate_times,
    normalize,
    rotate,
    soften,
    store_all,
    top_experts,
)
from blocks2tokens.model.config import ModelConfig
from blocks2tokens.model.kv_cache import KVCache
from blocks2tokens.model.rope import attention_factor
from blocks2tokens.model.split_attention import (
    attend_part,
    join_parts,
    keys_of_a_part,
    new_parts,
    new_rooms,
    parts_of,
)
from blocks2tokens.model.weights import Layer, Weights

HEADS, ATTENTION, OUTPUT, ROUTER, GATE_UP, DOWN, STAGES = range(7)
Q, K, V, O, ROUTE, GATE, UP, FFN_DOWN, MATRICES = range(9)
ATTN_NORM, FFN_NORM, POST_ATTN_NORM, POST_FFN_NORM = range(4)
ADDED = 2
NO_EXPERT = 0  # where there is no mixture, and so one matrix
NOT_ROUNDED = 0  # `block` of a matrix whose product takes x as it is
SUPER = 256  # weights of a block with integer scales
SLOTS = 3  # different roundings of one input: Q, K and V may have three formats
JOB_BYTES = 1 << 15  # of weights, at the least: smaller jobs would cost more to hand out than to do
JOBS = 8  # of a stage for each core, at the most

MATRIX = np.dtype(  # where a matrix is, how to multiply by it, and how its input is rounded
    [
        ("address", "i8"),  # of row 0, in a mixture that of expert 0; the other experts lie behind it
        ("row_bytes", "i8"),
        ("rows", "i8"),
        ("columns", "i8"),
        ("bias", "i8"),  # address of float32 [rows], of expert 0 likewise; 0: none
        ("multiply", "i8"),  # address of the compiled function, see `rows_times_x`
        ("block", "i8"),  # of the input, in weights; NOT_ROUNDED
        ("group", "i8"),  # whose codes are summed up
        ("slot", "i8"),  # of the scratch, where the rounded input is
        ("rounds", "i8"),  # is it the first of its stage that wants this rounding?
        ("d_bytes", "i8"),  # of one rounded input's scales,
        ("sum_bytes", "i8"),  # and of its sums
        ("parallel", "i8"),  # experts that are multiplied by in one stage, each in its own jobs
    ]
)

NO_MATRIX = (0,) * len(MATRIX.names)


class Parameters(NamedTuple):
    """What the file holds; it stays the same from token to token."""

    matrices: np.ndarray  # MATRIX [n_layers, MATRICES]
    output: np.ndarray  # MATRIX [1]
    norms: (
        np.ndarray
    )  # float32 [n_layers, 2, dim], attn_norm and ffn_norm; [n_layers, 4, dim] with post_norms
    head_norms: np.ndarray  # float32 [n_layers, 2, head_dim], of Q and K; or [n_layers, 2, 0]
    sinks: np.ndarray  # float32 [n_layers, n_heads], -infinity where there is none
    windows: np.ndarray  # int64 [n_layers], tokens that a query sees; 0: all
    output_norm: np.ndarray  # float32 [dim]
    frequencies: np.ndarray  # float64 [1, head_dim / 2]; [2, ...] where layers with a window have their own


class State(NamedTuple):
    """What all workers read and write, each element by one of them in a stage; float32 but for counters."""

    residual: np.ndarray  # [3, dim]: it, and with post_norms its other one, and what is ADDED to it next
    qkv: np.ndarray  # [heads * head_dim of Q, K and V]
    parts: np.ndarray  # [MOST_PARTS, n_heads, head_dim + ...], see `split_attention`
    router: np.ndarray  # [n_experts]
    gate: np.ndarray  # [ffn_dim]; in a mixture [n_used * ffn_dim]
    up: np.ndarray  # likewise
    logits: np.ndarray  # [vocab]
    turns: np.ndarray  # [1, 2, head_dim / 2] or [2, ...], as the frequencies: cos and sin
    counters: np.ndarray  # int64, see `job_counter`


class Scratch(NamedTuple):
    """What a worker has for itself; with a first dimension, what all have."""

    vectors: np.ndarray  # float32 [VECTORS, padded], see `vector`
    codes: np.ndarray  # int8 [SLOTS, padded]
    d: np.ndarray  # float32 [SLOTS, padded / 32]
    sums: np.ndarray  # float32 [SLOTS, padded / 32], or twice as many int16
    room: np.ndarray  # float32, see `attention_tile`
    chosen: np.ndarray  # int64 [n_used], the experts in use; [1] without a mixture
    shares: np.ndarray  # float32, likewise


# Each array is passed from stage to stage, so there are few: these share one.
NORMALIZED, PRODUCT, OWN_RESIDUAL, ATTENDED, ROW, VECTORS = range(6)  # ROW: decoded, or 16 results


class Sizes(NamedTuple):
    """The sizes and numbers that the stages need."""

    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    dim: int
    halves: bool  # rotate halves, or neighbours
    mixture: bool
    post_norms: bool
    gate: int  # its place in GATE_KINDS
    eps: np.float32
    scale: np.float32  # of scores
    attn_softcap: np.float32  # 0: none
    logit_softcap: np.float32
    embedding_scale: np.float32
    attention_factor: float  # of rotated vectors


class Worker(NamedTuple):
    """Which worker, of how many."""

    i: int
    n: int


# --- Jobs -------------------------------------------------------------------------------------------------


@njit(cache=True)
def take_first(counters, stage, worker, n_jobs):
    """Take the first job of a worker's share, or the next that is left; n_jobs if none is."""
    return take_job_at(counters, stage, first_job(worker.i, worker.n, n_jobs), n_jobs)


@njit(cache=True)
def take_next(counters, stage, job, n_jobs):
    """Count a job as done and take the next."""
    count_done(counters, stage)
    return take_job_at(counters, stage, job + 1, n_jobs)


@njit(cache=True)
def is_last(worker, job, n_jobs):
    """Is this job the last of its worker's share?"""
    return job + 1 == first_job(worker.i + 1, worker.n, n_jobs)


@njit(cache=True)
def rows_of_a_job(m, n_workers):
    """Return how many rows of matrix m make a job: a multiple of 16, so that jobs hardly share lines."""
    jobs = max(1, min(JOBS * n_workers, MOST_JOBS) // m.parallel)
    share, least = -(-m.rows // jobs), -(-JOB_BYTES // m.row_bytes)
    return -(-max(share, least) // 16) * 16


@njit(cache=True)
def jobs_of(m, n_workers):
    """Return how many jobs the rows of matrix m are."""
    return -(-m.rows // rows_of_a_job(m, n_workers))


@njit(cache=True)
def address_of_row(m, row, expert=NO_EXPERT):
    return m.address + (expert * m.rows + row) * m.row_bytes


@njit(cache=True)
def entry(m, worker):
    """Return the address of the rows of matrix m that a worker begins with."""
    job = first_job(worker.i, worker.n, jobs_of(m, worker.n))
    return address_of_row(m, job * rows_of_a_job(m, worker.n))


# --- Products ---------------------------------------------------------------------------------------------
# A worker tells each product where it will go on, so that memory is read ahead across jobs and stages.


@njit(cache=True)
def round_input(matrices, scratch, x):
    """Round x for the matrices of a stage, once for each way of rounding.

    x may be several inputs, one behind the other.
    """
    for i in range(matrices.size):
        m = matrices[i]
        if m.rounds:
            blocks = x.size // m.block
            codes = scratch.codes[m.slot, : x.size].reshape(1, blocks, 1, m.block)
            d = scratch.d[m.slot, :blocks].reshape(1, blocks, 1)
            sums = address_of(scratch.sums[m.slot])
            if m.block == SUPER:
                shape = (1, blocks, 1, m.block // m.group)
                quantize_super_row(x, 0, 0, codes, d, shorts_at(sums, shape))
            else:
                quantize_row(x, 0, 0, codes, d, floats_at(sums, (1, blocks, 1)))


@njit(cache=True)
def multiply_rows(m, expert, scratch, first, last, x, place, out, coming):
    """Fill out[first : last] with these rows of an expert's matrix times an input, and add their biases.

    x is all that `round_input` has seen, the input number `place` of it; out float32 [rows of m]; coming is
    the address of what this worker multiplies next.
    """
    call_job(
        m.multiply,
        (
            address_of_row(m, 0, expert),
            m.row_bytes,
            first,
            last,
            address_of(x) + 4 * place * m.columns,
            m.columns,
            address_of(scratch.codes[m.slot]) + place * m.columns,
            address_of(scratch.d[m.slot]) + place * m.d_bytes,
            address_of(scratch.sums[m.slot]) + place * m.sum_bytes,
            address_of(scratch.vectors[ROW]),
            address_of(out),
            coming,
        ),
    )
    if m.bias:
        add(out[first:last], floats_at(m.bias + 4 * (expert * m.rows + first), last - first))


# --- Stages -----------------------------------------------------------------------------------------------


@njit(cache=True)
def head_of(sizes, job):
    """Return which of Q, K and V a job of HEADS makes, and which head of it."""
    if job < sizes.n_heads:
        return Q, job
    job -= sizes.n_heads
    return (K, job) if job < sizes.n_kv_heads else (V, job - sizes.n_kv_heads)


@njit(cache=True)
def address_of_head(parameters, sizes, layer, job):
    """Return where the rows of a job of HEADS are."""
    matrix, head = head_of(sizes, job)
    return address_of_row(parameters.matrices[layer, matrix], head * sizes.head_dim)


@njit(cache=True)
def vector(scratch, sizes, which):
    """Return one of the worker's own vectors, float32 [dim]."""
    return scratch.vectors[which, : sizes.dim]


@njit(cache=True)
def residual_of(state, scratch, sizes, half, norm):
    """Return the residual that a stage begins with, float32 [dim].

    With post_norms that is the one numbered `half`, and what the half of a layer before has left in `added`,
    normalized; `norm` are the weights for it.
    """
    if not sizes.post_norms:
        return state.residual[0]
    own = vector(scratch, sizes, OWN_RESIDUAL)
    normalize(state.residual[ADDED], norm, sizes.eps, own)
    add(own, state.residual[half])
    return own


@njit(cache=True)
def keep_residual(state, scratch, sizes, half, job):
    """Keep that sum for the stages that follow, in one job alone."""
    if sizes.post_norms and job == 0:
        state.residual[1 - half, :] = vector(scratch, sizes, OWN_RESIDUAL)


@njit(cache=True)
def do_head(parameters, state, scratch, keys, values, sizes, layer, position, job, coming):
    """Make one head of Q, K or V: jobs are numbered in this order."""
    matrix, head = head_of(sizes, job)
    m, size = parameters.matrices[layer, matrix], sizes.head_dim
    start, first, last = (job - head) * size, head * size, (head + 1) * size
    part = state.qkv[start : start + m.rows]
    multiply_rows(m, NO_EXPERT, scratch, first, last, vector(scratch, sizes, NORMALIZED), 0, part, coming)
    made = part[first:last]
    if matrix != V:
        if parameters.head_norms.shape[2]:
            normalize(made, parameters.head_norms[layer, matrix], sizes.eps, made)
        turns = state.turns[state.turns.shape[0] - 1 if parameters.windows[layer] else 0]
        rotate(made, turns[0], turns[1], sizes.halves)
    if matrix == K:
        store_all(made, keys[layer, head, position])
    elif matrix == V:
        store_all(made, values[layer, head, position])


@njit(cache=True)
def heads_stage(parameters, state, scratch, keys, values, sizes, layer, position, worker, stage):
    n_jobs = sizes.n_heads + 2 * sizes.n_kv_heads
    following = entry(parameters.matrices[layer, O], worker)
    job = take_first(state.counters, stage, worker, n_jobs)
    if job < n_jobs:
        residual = residual_of(state, scratch, sizes, 0, parameters.norms[max(layer - 1, 0), -1])
        normalize(residual, parameters.norms[layer, ATTN_NORM], sizes.eps, vector(scratch, sizes, NORMALIZED))
        round_input(parameters.matrices[layer, Q:O], scratch, vector(scratch, sizes, NORMALIZED))
    while job < n_jobs:
        keep_residual(state, scratch, sizes, 0, job)
        coming = following
        if not is_last(worker, job, n_jobs):
            coming = address_of_head(parameters, sizes, layer, job + 1)
        do_head(parameters, state, scratch, keys, values, sizes, layer, position, job, coming)
        job = take_next(state.counters, stage, job, n_jobs)
    wait_for(state.counters, stage, n_jobs)


@njit(cache=True)
def seen_keys(parameters, layer, position):
    """Return the first key that the token sees in a layer, and how many there are."""
    window = parameters.windows[layer]
    first = max(0, position + 1 - window) if window else 0
    return first, position + 1 - first


@njit(cache=True)
def attention_stage(parameters, state, scratch, keys, values, sizes, layer, position, worker, stage):
    group, size = sizes.n_heads // sizes.n_kv_heads, sizes.head_dim
    queries = state.qkv[: sizes.n_heads * size].reshape(sizes.n_heads, size)
    begin, n_keys = seen_keys(parameters, layer, position)
    n_parts, step = parts_of(n_keys), keys_of_a_part(n_keys)
    n_jobs = sizes.n_kv_heads * n_parts
    job = take_first(state.counters, stage, worker, n_jobs)
    while job < n_jobs:
        head, part = job // n_parts, job % n_parts
        heads, first = slice(head * group, (head + 1) * group), begin + part * step
        attend_part(
            queries[heads],
            keys[layer, head],
            values[layer, head],
            first,
            min(first + step, begin + n_keys),
            sizes.scale,
            sizes.attn_softcap,
            scratch.room,
            state.parts[part, heads],
        )
        job = take_next(state.counters, stage, job, n_jobs)
    wait_for(state.counters, stage, n_jobs)


@njit(cache=True)
def attended_values(parameters, state, scratch, sizes, layer, position):
    """Return what the parts give together, float32 [n_heads * head_dim]: each worker joins for itself."""
    _, n_keys = seen_keys(parameters, layer, position)
    x = scratch.vectors[ATTENDED, : sizes.n_heads * sizes.head_dim]
    join_parts(state.parts, parts_of(n_keys), parameters.sinks[layer], x)
    return x


@njit(cache=True)
def do_product(m, state, scratch, sizes, x, mixed, first, last, after):
    """residual += rows of m @ x, or of each expert's in use by its share; `after` is where to go on."""
    product = vector(scratch, sizes, PRODUCT)
    total = state.residual[ADDED, first:last] if sizes.post_norms else state.residual[0, first:last]
    if sizes.post_norms:
        total[:] = 0
    if not mixed:
        multiply_rows(m, NO_EXPERT, scratch, first, last, x, 0, product, after)
        add(total, product[first:last])
        return
    n_used = scratch.chosen.size
    for place in range(n_used):
        coming = after if place + 1 == n_used else address_of_row(m, first, scratch.chosen[place + 1])
        multiply_rows(m, scratch.chosen[place], scratch, first, last, x, place, product, coming)
        add_times(total, product[first:last], scratch.shares[place])


@njit(cache=True)
def add_product_stage(matrices, state, scratch, sizes, x, mixed, worker, stage, following):
    """residual += the one matrix @ x, which the stages before have made; mixed: x is one input an expert."""
    m = matrices[0]
    step, n_jobs = rows_of_a_job(m, worker.n), jobs_of(m, worker.n)
    job = take_first(state.counters, stage, worker, n_jobs)
    if job < n_jobs:
        round_input(matrices, scratch, x)
        if mixed:
            top_experts(state.router, scratch.chosen, scratch.shares)
    while job < n_jobs:
        first, last = job * step, min(m.rows, (job + 1) * step)
        after = address_of_row(m, last, scratch.chosen[0] if mixed else NO_EXPERT)
        after = following if is_last(worker, job, n_jobs) else after
        do_product(m, state, scratch, sizes, x, mixed, first, last, after)
        job = take_next(state.counters, stage, job, n_jobs)
    wait_for(state.counters, stage, n_jobs)


@njit(cache=True)
def router_stage(parameters, state, scratch, sizes, layer, worker, stage):
    m, x = parameters.matrices[layer, ROUTE], vector(scratch, sizes, NORMALIZED)
    step, n_jobs = rows_of_a_job(m, worker.n), jobs_of(m, worker.n)
    job = take_first(state.counters, stage, worker, n_jobs)
    if job < n_jobs:
        residual = residual_of(state, scratch, sizes, 1, parameters.norms[layer, -2])
        normalize(residual, parameters.norms[layer, FFN_NORM], sizes.eps, x)
        round_input(parameters.matrices[layer, ROUTE:GATE], scratch, x)
    while job < n_jobs:
        first, last = job * step, min(m.rows, (job + 1) * step)
        coming = address_of_row(m, last if last < m.rows else 0)  # whose rows are next is still to be seen
        multiply_rows(m, NO_EXPERT, scratch, first, last, x, 0, state.router, coming)
        job = take_next(state.counters, stage, job, n_jobs)
    wait_for(state.counters, stage, n_jobs)


@njit(cache=True)
def do_gate_up(matrices, state, scratch, sizes, step, per_expert, job, coming):
    """Make some rows of the gate of one expert in use: jobs are numbered expert by expert."""
    gate, up, x = matrices[GATE], matrices[UP], vector(scratch, sizes, NORMALIZED)
    place, part = job // per_expert, job % per_expert
    first, last = part * step, min(gate.rows, (part + 1) * step)
    expert, own = scratch.chosen[place], slice(place * gate.rows, (place + 1) * gate.rows)
    gates, ups, follows = state.gate[own], state.up[own], address_of_row(up, first, expert)
    multiply_rows(gate, expert, scratch, first, last, x, 0, gates, follows)
    multiply_rows(up, expert, scratch, first, last, x, 0, ups, coming)
    gate_times(sizes.gate, gates[first:last], ups[first:last])


@njit(cache=True)
def gate_up_stage(parameters, state, scratch, sizes, layer, worker, stage):
    matrices, x = parameters.matrices[layer], vector(scratch, sizes, NORMALIZED)
    gate, down = matrices[GATE], matrices[FFN_DOWN]
    step, per_expert = rows_of_a_job(gate, worker.n), jobs_of(gate, worker.n)
    n_jobs, following = per_expert * scratch.chosen.size, entry(down, worker)
    job = take_first(state.counters, stage, worker, n_jobs)
    if job < n_jobs:
        residual = residual_of(state, scratch, sizes, 1, parameters.norms[layer, -2])
        normalize(residual, parameters.norms[layer, FFN_NORM], sizes.eps, x)
        round_input(matrices[GATE : UP + 1], scratch, x)
        if sizes.mixture:
            top_experts(state.router, scratch.chosen, scratch.shares)
    while job < n_jobs:
        keep_residual(state, scratch, sizes, 1, job)
        coming = following + scratch.chosen[0] * down.rows * down.row_bytes
        if not is_last(worker, job, n_jobs):
            expert, part = scratch.chosen[(job + 1) // per_expert], (job + 1) % per_expert
            coming = address_of_row(gate, part * step, expert)
        do_gate_up(matrices, state, scratch, sizes, step, per_expert, job, coming)
        job = take_next(state.counters, stage, job, n_jobs)
    wait_for(state.counters, stage, n_jobs)


@njit(cache=True)
def logits_stage(parameters, state, scratch, sizes, worker, stage):
    m, x = parameters.output[0], vector(scratch, sizes, NORMALIZED)
    step, n_jobs = rows_of_a_job(m, worker.n), jobs_of(m, worker.n)
    job = take_first(state.counters, stage, worker, n_jobs)
    if job < n_jobs:
        residual = residual_of(state, scratch, sizes, 0, parameters.norms[sizes.n_layers - 1, -1])
        normalize(residual, parameters.output_norm, sizes.eps, x)
        round_input(parameters.output, scratch, x)
    while job < n_jobs:
        first, last = job * step, min(m.rows, (job + 1) * step)
        multiply_rows(m, NO_EXPERT, scratch, first, last, x, 0, state.logits, address_of_row(m, last))
        if sizes.logit_softcap:
            soften(state.logits[first:last], sizes.logit_softcap)
        job = take_next(state.counters, stage, job, n_jobs)
    wait_for(state.counters, stage, n_jobs)


@njit(cache=True)
def after_layer(parameters, sizes, layer, worker):
    """Return the address of what a worker multiplies when it is through with a layer."""
    if layer + 1 == sizes.n_layers:
        return entry(parameters.output[0], worker)
    job = first_job(worker.i, worker.n, sizes.n_heads + 2 * sizes.n_kv_heads)
    return address_of_head(parameters, sizes, layer + 1, job)


@njit(cache=True)
def run_stages(parameters, state, scratch, keys, values, sizes, position, with_logits, worker):
    """Go through all stages as one of the workers."""
    for layer in range(sizes.n_layers):
        stage, matrices = STAGES * layer, parameters.matrices[layer]
        out, down = matrices[O : O + 1], matrices[FFN_DOWN:]
        after = after_layer(parameters, sizes, layer, worker)
        then = entry(matrices[ROUTE if sizes.mixture else GATE], worker)
        heads_stage(parameters, state, scratch, keys, values, sizes, layer, position, worker, stage + HEADS)
        attention_stage(
            parameters, state, scratch, keys, values, sizes, layer, position, worker, stage + ATTENTION
        )
        x = attended_values(parameters, state, scratch, sizes, layer, position)
        add_product_stage(out, state, scratch, sizes, x, False, worker, stage + OUTPUT, then)
        if sizes.mixture:
            router_stage(parameters, state, scratch, sizes, layer, worker, stage + ROUTER)
        gate_up_stage(parameters, state, scratch, sizes, layer, worker, stage + GATE_UP)
        add_product_stage(down, state, scratch, sizes, state.gate, sizes.mixture, worker, stage + DOWN, after)
    if with_logits:
        logits_stage(parameters, state, scratch, sizes, worker, STAGES * sizes.n_layers)


@njit(cache=True)
def begin(embedding, decode_row, parameters, state, sizes, position):
    """Put the embedding of a token, uint8 [row bytes], into the residual, and prepare its angles."""
    decode_row(embedding, state.residual[0])
    if sizes.embedding_scale != 1:
        state.residual[0] *= sizes.embedding_scale
    state.residual[ADDED] = 0
    for kind in range(parameters.frequencies.shape[0]):
        frequencies = parameters.frequencies[kind]
        fill_angles(position, frequencies, sizes.attention_factor, state.turns[kind, 0], state.turns[kind, 1])
    for i in range(state.counters.size):
        state.counters[i] = 0


@takes_turns
@njit(parallel=True, cache=True)
def decode_token(
    embeddings, token, decode_row, parameters, state, scratch, keys, values, sizes, position, with_logits, n
):
    """Run one token behind `position` others, on n workers."""
    begin(embeddings[token], decode_row, parameters, state, sizes, position)
    for i in prange(n):
        # prange counts without a sign: one type, or all of `run_stages` would be compiled twice
        w = np.int64(i)
        own = Scratch(
            scratch.vectors[w],
            scratch.codes[w],
            scratch.d[w],
            scratch.sums[w],
            scratch.room[w],
            scratch.chosen[w],
            scratch.shares[w],
        )
        run_stages(parameters, state, own, keys, values, sizes, position, with_logits, Worker(w, n))
    finish(parameters, state, sizes)


@njit(cache=True)
def finish(parameters, state, sizes):
    """Add to the residual what the last layer has left to add."""
    if sizes.post_norms:
        normalize(
            state.residual[ADDED], parameters.norms[sizes.n_layers - 1, -1], sizes.eps, state.residual[ADDED]
        )
        add(state.residual[0], state.residual[ADDED])


# --- Memory -----------------------------------------------------------------------------------------------


class Decoder:
    """All that decoding needs besides the cache, made once: `step` makes no array."""

    def __init__(self, weights: Weights, c: ModelConfig, cache: KVCache):
        """Prepare to decode into this cache."""
        self.weights, self.state = weights, _state(weights, c)
        self.embeddings = weights.token_embd.raw
        self.arguments = (
            weights.token_embd.format.row_decoder,
            _parameters(weights, c),
            self.state,
            _scratch(c),
            *cache.for_numba(),
            _sizes(c),
        )

    def step(self, token: int, position: int, with_logits: bool) -> None:
        """Run one token behind `position` others; results are in `x` and, if asked for, `logits`."""
        decode_token(self.embeddings, int(token), *self.arguments, position, with_logits, get_num_threads())

    @property
    def x(self) -> np.ndarray:
        """The final residual of the last token, float32 [dim]; the next step overwrites it."""
        return self.state.residual[0]

    @property
    def logits(self) -> np.ndarray:
        """The logits of the last token, float32 [vocab]; the next step overwrites them."""
        return self.state.logits

    @property
    def n_arrays(self) -> int:
        """How many arrays a step hands over to compiled code: so many headers are allocated."""
        parts = (part if isinstance(part, tuple) else (part,) for part in (self.embeddings, *self.arguments))
        return sum(isinstance(array, np.ndarray) for part in parts for array in part)


def _sizes(c: ModelConfig) -> Sizes:
    return Sizes(
        n_layers=c.n_layers,
        n_heads=c.n_heads,
        n_kv_heads=c.n_kv_heads,
        head_dim=c.head_dim,
        dim=c.dim,
        halves=c.family.rope_pairs == "halves",
        mixture=c.n_experts > 0,
        post_norms=c.family.post_norms,
        gate=GATE_KINDS.index(c.family.gate),
        eps=np.float32(c.norm_eps),
        scale=np.float32(c.score_scale),
        attn_softcap=np.float32(c.attn_softcap),
        logit_softcap=np.float32(c.logit_softcap),
        embedding_scale=np.float32(c.embedding_scale),
        attention_factor=attention_factor(c.rope_scaling),
    )


def _state(weights: Weights, c: ModelConfig) -> State:
    turns = len(_frequencies(weights)), 2, c.head_dim // 2
    sizes = {
        "residual": (3, c.dim),
        "qkv": (c.n_heads + 2 * c.n_kv_heads) * c.head_dim,
        "router": c.n_experts,
        "gate": max(1, c.n_used) * c.ffn_dim,
        "up": max(1, c.n_used) * c.ffn_dim,
        "logits": c.vocab_size,
        "turns": turns,
    }
    floats = {name: np.empty(size, np.float32) for name, size in sizes.items()}
    parts = new_parts(c.n_heads, c.head_dim)
    return State(**floats, parts=parts, counters=new_counters(STAGES * c.n_layers + 1))


def _scratch(c: ModelConfig) -> Scratch:
    workers, n_used = numba_config.NUMBA_NUM_THREADS, max(1, c.n_used)
    padded = -(-max(c.dim, c.n_heads * c.head_dim, n_used * c.ffn_dim) // SUPER) * SUPER
    return Scratch(
        vectors=np.empty((workers, VECTORS, padded), np.float32),
        codes=np.empty((workers, SLOTS, padded), np.int8),
        d=np.empty((workers, SLOTS, padded // 32), np.float32),
        sums=np.empty((workers, SLOTS, padded // 32), np.float32),
        room=new_rooms(c.n_heads, c.n_kv_heads, c.head_dim, workers),
        chosen=np.full((workers, n_used), NO_EXPERT, np.int64),
        shares=np.ones((workers, n_used), np.float32),
    )


def _parameters(weights: Weights, c: ModelConfig) -> Parameters:
    """Return where the matrices are and how to multiply by them, and the vectors."""
    layers, no_sinks = weights.layers, np.full(c.n_heads, -INFINITE)
    norms = ["attn_norm", "ffn_norm"] + ["post_attention_norm", "post_ffw_norm"] * c.family.post_norms
    sinks = [no_sinks if layer.attn_sinks is None else layer.attn_sinks for layer in layers]
    return Parameters(
        matrices=np.array([_layer_records(layer, c) for layer in layers], MATRIX),
        output=np.array(list(_records([(weights.output, None)])), MATRIX),
        norms=np.array([[getattr(layer, name) for name in norms] for layer in layers]),
        head_norms=_head_norms(layers),
        sinks=np.array(sinks),
        windows=np.array([c.window_of(i) for i in range(c.n_layers)]),
        output_norm=weights.output_norm,
        frequencies=_frequencies(weights),
    )


def _frequencies(weights: Weights) -> np.ndarray:
    """Return RoPE's frequencies, float64 [1, head_dim / 2], or [2, ...] where layers with a window differ."""
    both = weights.rope_frequencies, weights.local_rope_frequencies
    return np.array(both[:1] if both[0] is both[1] else both)


def _layer_records(layer: Layer, c: ModelConfig) -> list[tuple]:
    """Return the records of a layer's matrices in their order, nothing for a router that is not there."""
    stages = (QKV, ("attn_output",), ("ffn_gate_inp",), ("ffn_gate", "ffn_up"), ("ffn_down",))
    found = []
    for names in stages:
        pairs = [(getattr(layer, name), getattr(layer, f"{name}_bias")) for name in names]
        parallel = c.n_used if c.n_experts and names == ("ffn_gate", "ffn_up") else 1
        found += [NO_MATRIX] if pairs[0][0] is None else _records(pairs, parallel)
    return found


def _records(matrices, parallel=1):
    """Yield the records of the matrices of one stage, (matrix, bias), which have their input in common."""
    roundings = []
    for w, bias in matrices:
        multiply, rounding = _product(w)
        is_new = rounding not in roundings
        if is_new:
            roundings.append(rounding)
        block, group = rounding
        rounds = is_new and block != NOT_ROUNDED
        place = w.raw.ctypes.data, w.raw.shape[-1], *w.shape, 0 if bias is None else bias.ctypes.data
        scales = w.shape[1] // block if block != NOT_ROUNDED else 0
        sum_bytes = 2 * (w.shape[1] // group) if block == SUPER else 4 * scales
        ways = multiply.address, *rounding, roundings.index(rounding), rounds
        yield *place, *ways, 4 * scales, sum_bytes, parallel


def _product(w):
    """Return the function that multiplies rows of a matrix, and how x is rounded: to which block, group."""
    isa = vectors_for(w.format, *w.shape)
    if isa == "plain" or "simd_dot" not in kernels.candidates(w.format):
        return rows_times_x.float_rows(w.format), (NOT_ROUNDED, 0)
    packed = PACKED[w.format.name]
    rounding = (NOT_ROUNDED, 0) if packed.is_float else (packed.weights, packed.group)
    return rows_times_x.lane_rows(packed.name, isa), rounding


def _head_norms(layers) -> np.ndarray:
    """Join the norms of Q and K, [n_layers, 2, head_dim]; [n_layers, 2, 0] where the family has none."""
    if layers[0].attn_q_norm is None:
        return np.zeros((len(layers), 2, 0), np.float32)
    return np.array([[layer.attn_q_norm, layer.attn_k_norm] for layer in layers])
