"""Decoding: one token, or a few, each with its place, through all layers, in one parallel region.

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

Several tokens are rows of one pass: of one text, so that guesses can be judged, or each of a text of its own.
A job does its part for all rows, eight at a time: weights come from memory once, and are unpacked once for
eight. Each row goes through the same operations in the same order as if it were alone, so that what it gives
is the same to the last bit. ATTENTION has jobs of its own for each row; and where a mixture has experts, each
row multiplies by its own.

A worker normalizes and rounds the input of a stage for itself, into scratch of its own: that costs less than
to wait for somebody who does it for all. All arrays are there before the first token (`Decoder`), and a token
allocates nothing.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numba import config as numba_config
from numba import get_num_threads, njit, prange, types

from blocks2tokens import kernels
from blocks2tokens.formats.compiled import pointer
from blocks2tokens.jit.constants import int64s
from blocks2tokens.jit.cores import takes_turns
from blocks2tokens.jit.job_counter import (
    MOST_JOBS,
    count_done,
    first_job,
    new_counters,
    take_job,
    take_job_at,
    wait_for,
)
from blocks2tokens.jit.layouts import in_memory, layout_of, load
from blocks2tokens.jit.naming import named
from blocks2tokens.jit.pointers import call_job, floats_at, shorts_at
from blocks2tokens.jit.vectors import address_of
from blocks2tokens.kernels.ours import rows_times_x
from blocks2tokens.kernels.ours.quantized_activations import quantize_row, quantize_super_row
from blocks2tokens.kernels.ours.simd_dot import vectors_for
from blocks2tokens.kernels.ours.unpack import PACKED
from blocks2tokens.model.architectures import QKV
from blocks2tokens.model.cache_rows import (
    KEYS,
    VALUES,
    LayerRows,
    fit_query,
    frame_at,
    keep,
    recent_layer_bytes,
    turn,
)
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
    top_experts,
)
from blocks2tokens.model.config import ModelConfig
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
# What is called by its address; from SCORE on, what mixtures of experts alone need.
BEGIN, RUN, FINISH, PREPARE, MULTIPLY, SCORE, CHOOSE, GATE_EXPERTS, ADD_EXPERTS, CALLED = range(10)
Q, K, V, O, ROUTE, GATE, UP, FFN_DOWN, MATRICES = int64s(9)
ATTN_NORM, FFN_NORM, POST_ATTN_NORM, POST_FFN_NORM = range(4)
FIRST_HALF, SECOND_HALF, ADDED = int64s(3)  # residuals
NO_EXPERT = np.int64(0)  # where there is no mixture, and so one matrix
ALONE = np.int64(0)  # place of the one input
NOT_ROUNDED = 0  # `block` of a matrix whose product takes x as it is
AS_FLOATS = 0  # `group` of a matrix of floats: its x is put into tiles as it is
SUPER = 256  # weights of a block with integer scales
SLOTS = 3  # different roundings of one input: Q, K and V may have three formats
JOB_BYTES = 1 << 15  # of weights, at the least: smaller jobs would cost more to hand out than to do
JOBS = 8  # of a stage for each core, at the most
CHUNK_BYTES = 1 << 17  # of weights that all rows are multiplied by in turn: a core's own cache holds them
TILES = (2, 4, 8)  # rows of a pass that are multiplied together, see `tile_of`
TOKEN, POSITION, TABLE, PLACES = range(4)  # what a row is: its id, how many are before it, whose pages

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
        ("multiply_two", "i8"),  # addresses of the functions that take two, four and eight inputs at a time,
        ("multiply_four", "i8"),  # see `rows_times_x`; 0: none
        ("multiply_eight", "i8"),
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


class Batch(NamedTuple):
    """The rows of a pass, and where their caches are."""

    rows: np.ndarray  # int64 [most rows, PLACES]
    tables: np.ndarray  # int64 [caches, pages + 1], see `kv_cache`
    is_float32: bool  # what the rows of all these caches are: as in `LayerRows`, which fits in no tuple here
    store: int
    load: int
    turned: int
    row_bytes: int
    head_bytes: int
    values_at: int
    frame: int  # of the first layer
    recent: int  # bytes of a layer's recent rows
    ring: int


class State(NamedTuple):
    """What all workers read and write, each element by one of them in a stage; float32 but for counters.

    All but the counters have a first dimension, the rows of the pass.
    """

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
    """What a worker has for itself; with a first dimension, what all have.

    Vectors, experts and shares have a dimension before those told, the rows of the pass; rounded inputs have
    it behind the slots, so that the rows of a tile lie together: see `tile_of`.
    """

    vectors: np.ndarray  # float32 [VECTORS, padded], see `vector`
    codes: np.ndarray  # int8 [SLOTS, padded]
    d: np.ndarray  # float32 [SLOTS, padded / 32]
    sums: np.ndarray  # float32 [SLOTS, padded / 32], or twice as many int16
    floats: np.ndarray  # float32 [rows, padded], x in tiles for matrices of floats
    room: np.ndarray  # float32, see `attention_tile`
    chosen: np.ndarray  # int64 [n_used], the experts in use; [1] without a mixture
    shares: np.ndarray  # float32, likewise


# Each array is more to load and to compile, so there are few: these share one.
NORMALIZED, PRODUCT, EXPERT, OWN_RESIDUAL, ATTENDED, ROW, VECTORS = int64s(7)  # ROW: decoded, or 16 results


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


class Pass(NamedTuple):
    """All that the stages need: they load it from memory, see `layouts`."""

    embeddings: np.ndarray  # uint8 [vocab, row bytes]
    decode_row: types.FunctionType  # of their format
    parameters: Parameters
    state: State
    scratch: Scratch
    batch: Batch
    sizes: Sizes
    jobs: np.ndarray  # int64 [CALLED], addresses of compiled code; 0: not needed


class Worker(NamedTuple):
    """Which worker, of how many, and where the Pass is."""

    i: int
    n: int
    memory: int


in_place = njit(cache=True, inline="always")  # compiled where it is called: a function costs Numba 0.1 s


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
def tile_of(n_rows, row, mixture):
    """Return which rows of the pass are multiplied together with this one: the first of them, how many.

    Eight as long as there are five, then four for three: rows that are not there cost less than two tiles;
    then two, or one. In a mixture each alone, as experts differ.
    """
    if mixture:
        return row, 1
    eights = (n_rows + 3) // 8 * 8
    if row < eights:
        return row // 8 * 8, 8
    left = n_rows - eights
    return eights, 4 if left > 2 else left


@njit(cache=True)
def round_input(matrices, scratch, sizes, n_rows, row, x):
    """Round x, a row's input, for the matrices of a stage, once for each way of rounding, into its tile.

    x may be several inputs, one behind the other.
    """
    first, tile = tile_of(n_rows, row, sizes.mixture)
    for i in range(matrices.size):
        m = matrices[i]
        if m.rounds and m.group == AS_FLOATS:
            put_in_tile(x, m.block, scratch, first, tile, row)
        elif m.rounds:
            blocks, width, scales = x.size // m.block, scratch.codes.shape[2], scratch.d.shape[2]
            codes = scratch.codes[m.slot].reshape(-1)[first * width : first * width + tile * x.size]
            codes = codes.reshape(1, blocks, tile, m.block)
            d = scratch.d[m.slot].reshape(-1)[first * scales : first * scales + tile * blocks]
            d, sums = d.reshape(1, blocks, tile), address_of(scratch.sums[m.slot, first])
            if m.block == SUPER:
                shape = (1, blocks, tile, m.block // m.group)
                quantize_super_row(x, 0, row - first, codes, d, shorts_at(sums, shape))
            else:
                quantize_row(x, 0, row - first, codes, d, floats_at(sums, (1, blocks, tile)))


@in_place
def put_in_tile(x, block, scratch, first, tile, row):
    """Put x, a row's input, as it is into its tile, float32 [blocks, tile, block]; alone it needs none."""
    if tile == 1:
        return
    start = first * scratch.floats.shape[1]
    floats = scratch.floats.reshape(-1)[start : start + tile * x.size]
    floats = floats.reshape(x.size // block, tile, block)
    for i in range(floats.shape[0]):
        for j in range(block):
            floats[i, row - first, j] = x[i * block + j]


@njit(cache=True)
def multiply_rows(m, expert, scratch, row, first, last, x, place, out, coming):
    """Fill out[first : last] with these rows of an expert's matrix times an input, and add their biases.

    x is the address of all that `round_input` has seen for this row of the pass, the input number `place` of
    it; out the address of float32 [rows of m]; coming is the address of what this worker multiplies next.
    """
    call_job(
        m.multiply,
        (
            address_of_row(m, 0, expert),
            m.row_bytes,
            first,
            last,
            x + 4 * place * m.columns,
            m.columns,
            address_of(scratch.codes[m.slot, row]) + place * m.columns,
            address_of(scratch.d[m.slot, row]) + place * m.d_bytes,
            address_of(scratch.sums[m.slot, row]) + place * m.sum_bytes,
            address_of(scratch.vectors[row, ROW]),
            out,
            coming,
        ),
    )
    add_bias(m, expert, first, last, out)


@njit(cache=True)
def add_bias(m, expert, first, last, out):
    """Add to out[first : last] the biases of these rows; out is an address."""
    if m.bias:
        bias = floats_at(m.bias + 4 * (expert * m.rows + first), last - first)
        add(floats_at(out + 4 * first, last - first), bias)


@in_place
def multiply_tile(m, scratch, row, tile, first, last, outs, coming):
    """Do `multiply_rows` for a tile of rows of the pass, of which `row` is the first."""
    if m.group == AS_FLOATS:
        inputs = address_of(scratch.floats[row])
    else:
        inputs = address_of(scratch.codes[m.slot, row])
    call_job(
        m.multiply_eight if tile == 8 else m.multiply_four if tile == 4 else m.multiply_two,
        (
            m.address,
            m.row_bytes,
            first,
            last,
            outs[1],
            m.columns,
            inputs,
            address_of(scratch.d[m.slot, row]),
            address_of(scratch.sums[m.slot, row]),
            address_of(scratch.vectors[row, ROW]),
            outs[0] + row * outs[1],
            coming,
        ),
    )
    for i in range(row, row + tile):
        add_bias(m, NO_EXPERT, first, last, outs[0] + i * outs[1])


@in_place
def multiply_all(m, scratch, sizes, n_rows, first, last, xs, outs, coming):
    """Do `multiply_rows` for each row of the pass; xs and outs: where the first row's are, bytes to the next.

    All rows are multiplied by a chunk of weights before the next is read.
    """
    step = last - first
    if n_rows > 1:
        step = max(16, CHUNK_BYTES // m.row_bytes // 16 * 16)
    for start in range(first, last, step):
        end, row = min(start + step, last), np.int64(0)
        while row < n_rows:
            tile = tile_of(n_rows, row, sizes.mixture)[1]
            then = address_of_row(m, start)
            if row + tile >= n_rows:
                then = coming if end == last else address_of_row(m, end)
            if tile > 1 and m.multiply_two:
                multiply_tile(m, scratch, row, tile, start, end, outs, then)
            else:
                for i in range(row, min(row + tile, n_rows)):
                    x, out = xs[0] + i * xs[1], outs[0] + i * outs[1]
                    multiply_rows(m, NO_EXPERT, scratch, i, start, end, x, ALONE, out, then)
            row += tile


@in_place
def multiply(p, worker, n_rows, layer, which, first, last, xs, outs, coming):
    """Do `multiply_all` for a matrix of a layer, or of the output."""
    place, rows = (worker.memory, worker.i, n_rows, layer, which), (first, last)
    call_job(p.jobs[MULTIPLY], (*place, *rows, *xs, *outs, coming))


@in_place
def inputs(scratch, which):
    """Return where the vectors number `which` of all rows are: the first one's address, bytes to the next."""
    return address_of(scratch.vectors[0, which]), 4 * scratch.vectors.shape[1] * scratch.vectors.shape[2]


# --- Stages -----------------------------------------------------------------------------------------------


@njit(cache=True)
def head_of(sizes, job):
    """Return which of Q, K and V a job of HEADS makes, and which head of it."""
    if job < sizes.n_heads:
        return Q, job
    job -= sizes.n_heads
    return (K, job) if job < sizes.n_kv_heads else (V, job - sizes.n_kv_heads)


@in_place
def address_of_head(parameters, sizes, layer, job):
    """Return where the rows of a job of HEADS are."""
    matrix, head = head_of(sizes, job)
    return address_of_row(parameters.matrices[layer, matrix], head * sizes.head_dim)


@in_place
def vector(scratch, sizes, row, which):
    """Return one of the worker's own vectors for a row of the pass, float32 [dim]."""
    return scratch.vectors[row, which, : sizes.dim]


@in_place
def residual_of(state, scratch, sizes, row, half, norm):
    """Return the residual that a stage begins with, float32 [dim].

    With post_norms that is the one numbered `half`, and what the half of a layer before has left in `added`,
    normalized; `norm` are the weights for it.
    """
    if not sizes.post_norms:
        return state.residual[row, 0]
    own = vector(scratch, sizes, row, OWN_RESIDUAL)
    normalize(state.residual[row, ADDED], norm, sizes.eps, own)
    add(own, state.residual[row, half])
    return own


@in_place
def prepare(p, worker, n_rows, layer, half, first, last):
    """Do `prepare_inputs` for some matrices of a layer, or for the output."""
    call_job(p.jobs[PREPARE], (worker.memory, worker.i, n_rows, layer, half, first, last))


@in_place
def prepare_inputs(p, scratch, n_rows, layer, half, first, last):
    """Normalize each row's residual into its vector NORMALIZED, round it for matrices `first` to last - 1."""
    parameters, state, sizes = p.parameters, p.state, p.sizes
    norms, is_output = parameters.norms, layer == sizes.n_layers
    norm = parameters.output_norm if is_output else norms[layer, FFN_NORM if half else ATTN_NORM]
    matrices = parameters.output if is_output else parameters.matrices[layer, first:last]
    post_norm = norms[layer, -2] if half else norms[max(layer - 1, 0), -1]
    for row in range(n_rows):
        residual = residual_of(state, scratch, sizes, row, half, post_norm)
        x = vector(scratch, sizes, row, NORMALIZED)
        normalize(residual, norm, sizes.eps, x)
        round_input(matrices, scratch, sizes, n_rows, row, x)


@in_place
def keep_residuals(state, scratch, sizes, n_rows, half, job):
    """Keep those sums for the stages that follow, in one job alone."""
    if sizes.post_norms and job == 0:
        for row in range(n_rows):
            for i in range(sizes.dim):
                state.residual[row, 1 - half, i] = scratch.vectors[row, OWN_RESIDUAL, i]


@in_place
def layer_of(batch, sizes, row, layer):
    """Return where the rows of a layer are in the cache of a row of the pass."""
    return LayerRows(
        batch.tables[batch.rows[row, TABLE]],
        layer * 2 * batch.values_at,
        batch.is_float32,
        batch.store,
        batch.load,
        batch.turned,
        batch.row_bytes,
        batch.head_bytes,
        batch.values_at,
        frame_at(batch.frame, layer, sizes.n_kv_heads, sizes.head_dim),
        layer * batch.recent,
        batch.ring,
    )


@in_place
def finish_head(parameters, state, batch, sizes, layer, row, matrix, head, made):
    """Normalize and rotate one head of a row, float32 [head_dim]; make a query fit, store keys and values."""
    if matrix != V:
        if parameters.head_norms.shape[2]:
            normalize(made, parameters.head_norms[layer, matrix], sizes.eps, made)
        turns = state.turns[row, state.turns.shape[1] - 1 if parameters.windows[layer] else 0]
        rotate(made, turns[0], turns[1], sizes.halves)
    rows = layer_of(batch, sizes, row, layer)
    if matrix == Q:
        fit_query(rows, head // (sizes.n_heads // sizes.n_kv_heads), made)
    else:
        keep(rows, KEYS if matrix == K else VALUES, head, batch.rows[row, POSITION], made)


@in_place
def do_head(p, scratch, n_rows, layer, worker, job, coming):
    """Make one head of Q, K or V for each row of the pass: jobs are numbered in this order."""
    state, sizes, size = p.state, p.sizes, p.sizes.head_dim
    matrix, head = head_of(sizes, job)
    start, first, last = (job - head) * size, head * size, (head + 1) * size
    outs = address_of(state.qkv[0, start:]), 4 * state.qkv.shape[1]
    multiply(p, worker, n_rows, layer, matrix, first, last, inputs(scratch, NORMALIZED), outs, coming)
    for row in range(n_rows):
        made = state.qkv[row, start + first : start + last]
        finish_head(p.parameters, state, p.batch, sizes, layer, row, matrix, head, made)


@in_place
def heads_stage(p, scratch, n_rows, stage, worker):
    parameters, state, sizes, layer = p.parameters, p.state, p.sizes, stage // STAGES
    n_jobs = sizes.n_heads + 2 * sizes.n_kv_heads
    following = entry(parameters.matrices[layer, O], worker)
    job = take_first(state.counters, stage, worker, n_jobs)
    if job < n_jobs:
        prepare(p, worker, n_rows, layer, FIRST_HALF, Q, O)
    while job < n_jobs:
        keep_residuals(state, scratch, sizes, n_rows, FIRST_HALF, job)
        coming = following
        if not is_last(worker, job, n_jobs):
            coming = address_of_head(parameters, sizes, layer, job + 1)
        do_head(p, scratch, n_rows, layer, worker, job, coming)
        job = take_next(state.counters, stage, job, n_jobs)
    wait_for(state.counters, stage, n_jobs)


@in_place
def seen_keys(parameters, layer, position):
    """Return the first key that the token sees in a layer, and how many there are."""
    window = parameters.windows[layer]
    first = max(0, position + 1 - window) if window else 0
    return first, position + 1 - first


@in_place
def do_part(parameters, state, scratch, batch, sizes, layer, row, job):
    """Attend to one part of the keys that a row of the pass sees, in one head of them."""
    group, size = sizes.n_heads // sizes.n_kv_heads, sizes.head_dim
    begin, n_keys = seen_keys(parameters, layer, batch.rows[row, POSITION])
    n_parts, step = parts_of(n_keys), keys_of_a_part(n_keys)
    head, part = job // n_parts, job % n_parts
    heads, first = slice(head * group, (head + 1) * group), begin + part * step
    queries = state.qkv[row, : sizes.n_heads * size].reshape(sizes.n_heads, size)
    attend_part(
        queries[heads],
        layer_of(batch, sizes, row, layer),
        head,
        batch.rows[row, POSITION],
        first,
        min(first + step, begin + n_keys),
        sizes.scale,
        sizes.attn_softcap,
        scratch.room,
        state.parts[row, part, heads],
    )


@in_place
def attention_stage(p, scratch, n_rows, stage, worker):
    """Rows have their jobs one behind the other; there may be more than can be taken one by one."""
    parameters, state, batch, sizes, layer = p.parameters, p.state, p.batch, p.sizes, stage // STAGES
    n_jobs, before, row, of_row = 0, 0, 0, 0
    for r in range(n_rows):
        n_jobs += sizes.n_kv_heads * parts_of(seen_keys(parameters, layer, batch.rows[r, POSITION])[1])
    job = take_job(state.counters, stage)
    while job < n_jobs:
        while job >= before + of_row:  # jobs only grow
            before += of_row
            n_keys = seen_keys(parameters, layer, batch.rows[row, POSITION])[1]
            of_row = sizes.n_kv_heads * parts_of(n_keys)
            row += 1
        do_part(parameters, state, scratch, batch, sizes, layer, row - 1, job - before)
        count_done(state.counters, stage)
        job = take_job(state.counters, stage)
    wait_for(state.counters, stage, n_jobs)


@in_place
def join_attended(parameters, state, scratch, batch, n_rows, sizes, layer):
    """Put what the parts give together into each row's vector ATTENDED: each worker joins for itself."""
    for row in range(n_rows):
        _, n_keys = seen_keys(parameters, layer, batch.rows[row, POSITION])
        x = scratch.vectors[row, ATTENDED, : sizes.n_heads * sizes.head_dim]
        join_parts(state.parts[row], parts_of(n_keys), parameters.sinks[layer], x)
        if batch.turned:
            turn(x, batch.turned)


@in_place
def choose_experts(p, scratch, n_rows):
    """Choose each row's experts and their shares, by the scores that the router has given."""
    for row in range(n_rows):
        top_experts(p.state.router[row], scratch.chosen[row], scratch.shares[row])


@in_place
def add_experts(p, scratch, n_rows, layer, first, last, after):
    """Fill each row's vector PRODUCT with what the experts in use make of its inputs, by their shares."""
    sizes, m, n_used = p.sizes, p.parameters.matrices[layer, FFN_DOWN], scratch.chosen.shape[1]
    for row in range(n_rows):
        x, own = address_of(p.state.gate[row]), address_of(scratch.vectors[row, EXPERT])
        total = vector(scratch, sizes, row, PRODUCT)[first:last]
        total[:] = 0
        for place in range(n_used):
            expert, coming = scratch.chosen[row, place], after
            if place + 1 < n_used:
                coming = address_of_row(m, first, scratch.chosen[row, place + 1])
            multiply_rows(m, expert, scratch, row, first, last, x, place, own, coming)
            found = vector(scratch, sizes, row, EXPERT)[first:last]
            add_times(total, found, scratch.shares[row, place])


@in_place
def after_layer(parameters, sizes, layer, worker):
    """Return the address of what a worker multiplies when it is through with a layer."""
    if layer + 1 == sizes.n_layers:
        return entry(parameters.output[0], worker)
    job = first_job(worker.i, worker.n, sizes.n_heads + 2 * sizes.n_kv_heads)
    return address_of_head(parameters, sizes, layer + 1, job)


@njit(cache=True)
def add_stage(p, scratch, n_rows, stage, worker):
    """residual += attn_output or ffn_down @ what the stages before have made; of each expert in use."""
    state, sizes, layer, is_down = p.state, p.sizes, stage // STAGES, stage % STAGES == DOWN
    which, mixed = FFN_DOWN if is_down else O, is_down and sizes.mixture
    matrices, m = p.parameters.matrices[layer, which : which + 1], p.parameters.matrices[layer, which]
    if is_down:
        xs = address_of(state.gate[0]), 4 * state.gate.shape[1]
        following = after_layer(p.parameters, sizes, layer, worker)
    else:
        join_attended(p.parameters, state, scratch, p.batch, n_rows, sizes, layer)
        xs = inputs(scratch, ATTENDED)
        following = entry(p.parameters.matrices[layer, ROUTE if sizes.mixture else GATE], worker)
    step, n_jobs = rows_of_a_job(m, worker.n), jobs_of(m, worker.n)
    width = m.columns * (scratch.chosen.shape[1] if mixed else 1)
    job = take_first(state.counters, stage, worker, n_jobs)
    if job < n_jobs:
        for row in range(n_rows):
            round_input(matrices, scratch, sizes, n_rows, row, floats_at(xs[0] + row * xs[1], width))
        if mixed:
            call_job(p.jobs[CHOOSE], (worker.memory, worker.i, n_rows))
    while job < n_jobs:
        first, last = job * step, min(m.rows, (job + 1) * step)
        after = address_of_row(m, last, scratch.chosen[0, 0] if mixed else NO_EXPERT)
        after = following if is_last(worker, job, n_jobs) else after
        if mixed:
            call_job(p.jobs[ADD_EXPERTS], (worker.memory, worker.i, n_rows, layer, first, last, after))
        else:
            multiply(p, worker, n_rows, layer, which, first, last, xs, inputs(scratch, PRODUCT), after)
        for row in range(n_rows):
            total = state.residual[row, ADDED if sizes.post_norms else 0, first:last]
            if sizes.post_norms:
                total[:] = 0
            add(total, vector(scratch, sizes, row, PRODUCT)[first:last])
        job = take_next(state.counters, stage, job, n_jobs)
    wait_for(state.counters, stage, n_jobs)


@in_place
def router_stage(p, scratch, n_rows, stage, worker):
    parameters, state, layer = p.parameters, p.state, stage // STAGES
    m = parameters.matrices[layer, ROUTE]
    step, n_jobs = rows_of_a_job(m, worker.n), jobs_of(m, worker.n)
    outs = address_of(state.router[0]), 4 * state.router.shape[1]
    job = take_first(state.counters, stage, worker, n_jobs)
    if job < n_jobs:
        prepare(p, worker, n_rows, layer, SECOND_HALF, ROUTE, GATE)
    while job < n_jobs:
        first, last = job * step, min(m.rows, (job + 1) * step)
        coming = address_of_row(m, last if last < m.rows else 0)  # whose rows are next is still to be seen
        multiply(p, worker, n_rows, layer, ROUTE, first, last, inputs(scratch, NORMALIZED), outs, coming)
        job = take_next(state.counters, stage, job, n_jobs)
    wait_for(state.counters, stage, n_jobs)


@in_place
def do_gate_up(p, scratch, n_rows, layer, worker, step, per_expert, job, coming):
    """Make some rows of the gate, in a mixture of one expert in use: jobs are numbered expert by expert."""
    state, sizes, matrices = p.state, p.sizes, p.parameters.matrices[layer]
    gate, up, xs = matrices[GATE], matrices[UP], inputs(scratch, NORMALIZED)
    place, part = job // per_expert, job % per_expert
    first, last = part * step, min(gate.rows, (part + 1) * step)
    if sizes.mixture:
        call_job(p.jobs[GATE_EXPERTS], (worker.memory, worker.i, n_rows, layer, place, first, last, coming))
    else:
        gates = address_of(state.gate[0]), 4 * state.gate.shape[1]
        ups = address_of(state.up[0]), 4 * state.up.shape[1]
        multiply(p, worker, n_rows, layer, GATE, first, last, xs, gates, address_of_row(up, first))
        multiply(p, worker, n_rows, layer, UP, first, last, xs, ups, coming)
    for row in range(n_rows):
        own = slice(place * gate.rows + first, place * gate.rows + last)
        gate_times(sizes.gate, state.gate[row, own], state.up[row, own])


@in_place
def gate_experts(p, scratch, n_rows, layer, place, first, last, coming):
    """Make these rows of gate and up of the expert that each row uses, number `place` of those in use."""
    state, gate, up = p.state, p.parameters.matrices[layer, GATE], p.parameters.matrices[layer, UP]
    for row in range(n_rows):
        expert, x = scratch.chosen[row, place], address_of(scratch.vectors[row, NORMALIZED])
        gates, ups = state.gate[row, place * gate.rows :], state.up[row, place * gate.rows :]
        then = address_of_row(up, first, expert)
        multiply_rows(gate, expert, scratch, row, first, last, x, ALONE, address_of(gates), then)
        multiply_rows(up, expert, scratch, row, first, last, x, ALONE, address_of(ups), coming)


@in_place
def gate_up_stage(p, scratch, n_rows, stage, worker):
    parameters, state, sizes, layer = p.parameters, p.state, p.sizes, stage // STAGES
    matrices = parameters.matrices[layer]
    gate, down = matrices[GATE], matrices[FFN_DOWN]
    step, per_expert = rows_of_a_job(gate, worker.n), jobs_of(gate, worker.n)
    n_jobs, following = per_expert * scratch.chosen.shape[1], entry(down, worker)
    job = take_first(state.counters, stage, worker, n_jobs)
    if job < n_jobs:
        prepare(p, worker, n_rows, layer, SECOND_HALF, GATE, FFN_DOWN)
        if p.sizes.mixture:
            call_job(p.jobs[CHOOSE], (worker.memory, worker.i, n_rows))
    while job < n_jobs:
        keep_residuals(state, scratch, sizes, n_rows, SECOND_HALF, job)
        coming = following + scratch.chosen[0, 0] * down.rows * down.row_bytes
        if job + 1 < n_jobs and not is_last(worker, job, n_jobs):  # neither the stage's, nor its share's
            expert, part = scratch.chosen[0, (job + 1) // per_expert], (job + 1) % per_expert
            coming = address_of_row(gate, part * step, expert)
        do_gate_up(p, scratch, n_rows, layer, worker, step, per_expert, job, coming)
        job = take_next(state.counters, stage, job, n_jobs)
    wait_for(state.counters, stage, n_jobs)


@in_place
def logits_stage(p, scratch, n_rows, stage, worker):
    parameters, state, sizes, layer = p.parameters, p.state, p.sizes, stage // STAGES
    m = parameters.output[0]
    step, n_jobs = rows_of_a_job(m, worker.n), jobs_of(m, worker.n)
    outs = address_of(state.logits[0]), 4 * state.logits.shape[1]
    job = take_first(state.counters, stage, worker, n_jobs)
    if job < n_jobs:
        prepare(p, worker, n_rows, layer, FIRST_HALF, Q, Q)
    while job < n_jobs:
        first, last = job * step, min(m.rows, (job + 1) * step)
        coming = address_of_row(m, last)
        multiply(p, worker, n_rows, layer, MATRICES, first, last, inputs(scratch, NORMALIZED), outs, coming)
        if sizes.logit_softcap:
            for row in range(n_rows):
                soften(state.logits[row, first:last], sizes.logit_softcap)
        job = take_next(state.counters, stage, job, n_jobs)
    wait_for(state.counters, stage, n_jobs)


@in_place
def begin(p, n_rows):
    """Put the embeddings of the rows' tokens into their residuals, and prepare their angles."""
    parameters, state, batch, sizes = p.parameters, p.state, p.batch, p.sizes
    for row in range(n_rows):
        residual, decode_row = state.residual[row], p.decode_row
        decode_row(p.embeddings[batch.rows[row, TOKEN]], residual[0])
        for i in range(sizes.dim):
            residual[0, i] *= sizes.embedding_scale
            residual[ADDED, i] = 0
        for kind in range(parameters.frequencies.shape[0]):
            frequencies, turns = parameters.frequencies[kind], state.turns[row, kind]
            position = batch.rows[row, POSITION]
            fill_angles(position, frequencies, sizes.attention_factor, turns[0], turns[1])
    for i in range(state.counters.size):
        state.counters[i] = 0


@in_place
def finish(p, n_rows):
    """Add to the residuals what the last layer has left to add."""
    parameters, state, sizes = p.parameters, p.state, p.sizes
    if sizes.post_norms:
        norm = parameters.norms[sizes.n_layers - 1, -1]
        for row in range(n_rows):
            added = state.residual[row, ADDED]
            normalize(added, norm, sizes.eps, added)
            add(state.residual[row, 0], added)


@in_place
def run_stages(p, scratch, n_rows, with_logits, worker):
    """Go through all stages as one of the workers."""
    for layer in range(p.sizes.n_layers):
        stage = STAGES * layer
        heads_stage(p, scratch, n_rows, stage + HEADS, worker)
        attention_stage(p, scratch, n_rows, stage + ATTENTION, worker)
        add_stage(p, scratch, n_rows, stage + OUTPUT, worker)
        if p.sizes.mixture:
            call_job(p.jobs[SCORE], (worker.memory, worker.i, worker.n, n_rows, stage + ROUTER))
        gate_up_stage(p, scratch, n_rows, stage + GATE_UP, worker)
        add_stage(p, scratch, n_rows, stage + DOWN, worker)
    if with_logits:
        logits_stage(p, scratch, n_rows, STAGES * p.sizes.n_layers, worker)


# --- A pass -----------------------------------------------------------------------------------------------


@in_place
def own_part(scratch, i):
    """Return what a worker has for itself."""
    return Scratch(
        scratch.vectors[i],
        scratch.codes[i],
        scratch.d[i],
        scratch.sums[i],
        scratch.floats[i],
        scratch.room[i],
        scratch.chosen[i],
        scratch.shares[i],
    )


@cache
def jobs_for(layout, mixture: bool) -> list[types.CompileResultWAP]:
    """Compile what is called for a Pass of these types, and return it: BEGIN, RUN, ...

    What many stages do is called by its address, so that it is compiled once. Numba only prints what such
    code raises: nothing in it does, and with NUMBA_BOUNDSCHECK a line on stderr says where a pass went wrong.
    None of it counts who uses an array (`_nrt`): nobody owns one (`layouts`), and counting was most of what
    there was to compile. Numba passes that on to what they call, but where that returns an array and says
    `_nrt=True`.
    """

    def begin_job(memory, n_rows):
        begin(load(layout, memory), n_rows)

    def run_job(memory, n_rows, with_logits, i, n_workers):
        p = load(layout, memory)
        run_stages(p, own_part(p.scratch, i), n_rows, with_logits, Worker(i, n_workers, memory))

    def finish_job(memory, n_rows):
        finish(load(layout, memory), n_rows)

    def prepare_job(memory, i, n_rows, layer, half, first, last):
        p = load(layout, memory)
        prepare_inputs(p, own_part(p.scratch, i), n_rows, layer, half, first, last)

    def multiply_job(memory, i, n_rows, layer, which, first, last, xs, x_bytes, outs, out_bytes, coming):
        p = load(layout, memory)
        m = p.parameters.output[0]
        if which < MATRICES:
            m = p.parameters.matrices[layer, which]
        xs, outs = (xs, x_bytes), (outs, out_bytes)
        multiply_all(m, own_part(p.scratch, i), p.sizes, n_rows, first, last, xs, outs, coming)

    def score_job(memory, i, n_workers, n_rows, stage):
        p = load(layout, memory)
        router_stage(p, own_part(p.scratch, i), n_rows, stage, Worker(i, n_workers, memory))

    def choose_job(memory, i, n_rows):
        p = load(layout, memory)
        choose_experts(p, own_part(p.scratch, i), n_rows)

    def gate_experts_job(memory, i, n_rows, layer, place, first, last, coming):
        p = load(layout, memory)
        gate_experts(p, own_part(p.scratch, i), n_rows, layer, place, first, last, coming)

    def add_experts_job(memory, i, n_rows, layer, first, last, after):
        p = load(layout, memory)
        add_experts(p, own_part(p.scratch, i), n_rows, layer, first, last, after)

    jobs, compiled = [begin_job, run_job, finish_job, prepare_job, multiply_job], []
    if mixture:
        jobs += [score_job, choose_job, gate_experts_job, add_experts_job]
    for job in jobs:
        signature = types.void(*[types.int64] * job.__code__.co_argcount)
        name = f"{job.__name__}_{type(layout).__name__}".lower()
        compiled.append(pointer(named(job, name, _nrt=False), signature))
    return compiled


@takes_turns
@njit(parallel=True, cache=True)
def decode_rows(jobs, memory, n_rows, with_logits, n_workers):
    """Run the first n_rows of the batch, each behind the tokens before it, on so many workers."""
    call_job(jobs[BEGIN], (memory, n_rows))
    for i in prange(n_workers):
        call_job(jobs[RUN], (memory, n_rows, with_logits, np.int64(i), n_workers))
    call_job(jobs[FINISH], (memory, n_rows))


# --- Memory -----------------------------------------------------------------------------------------------


class Decoder:
    """All that decoding needs besides the caches, made once: `step` makes no array."""

    def __init__(
        self, weights: Weights, c: ModelConfig, first: LayerRows, tables: np.ndarray, most_rows: int
    ):
        """Prepare to decode up to `most_rows` rows at a time.

        They go into caches whose tables are int64 [caches, pages + 1], and their first layer's rows `first`.
        """
        self.weights, self.most_rows = weights, most_rows
        n_rows = most_rows if most_rows == 1 else -(-most_rows // TILES[-1]) * TILES[-1]  # whole tiles
        self.state = state = _state(weights, c, n_rows)
        self.x, self.logits = state.residual[:, 0], state.logits  # of the last rows, [n_rows, dim or vocab]
        self.rows = np.zeros((n_rows, PLACES), np.int64)
        self.arguments = Pass(
            weights.token_embd.raw,
            weights.token_embd.format.row_decoder,
            _parameters(weights, c, most_rows > 1),
            state,
            _scratch(c, n_rows),
            Batch(self.rows, tables, *first[2:10], recent_layer_bytes(first), first.ring),
            _sizes(c),
            np.zeros(CALLED, np.int64),
        )
        layout = layout_of(self.arguments)
        self.memory = in_memory(self.arguments, layout)
        jobs = jobs_for(layout, c.n_experts > 0)
        self.arguments.jobs[: len(jobs)] = [job.address for job in jobs]
        self.whole_pass = tuple(job.address for job in jobs[:PREPARE])

    def step(self, n_rows: int, with_logits: bool) -> None:
        """Run the first of `rows`; until the next step `x` and, if asked for, `logits` hold the results."""
        decode_rows(self.whole_pass, self.memory.ctypes.data, n_rows, with_logits, get_num_threads())


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


def _state(weights: Weights, c: ModelConfig, rows: int) -> State:
    sizes = {
        "residual": (3, c.dim),
        "qkv": ((c.n_heads + 2 * c.n_kv_heads) * c.head_dim,),
        "router": (c.n_experts,),
        "gate": (max(1, c.n_used) * c.ffn_dim,),
        "up": (max(1, c.n_used) * c.ffn_dim,),
        "logits": (c.vocab_size,),
        "turns": (len(_frequencies(weights)), 2, c.head_dim // 2),
    }
    floats = {name: np.empty((rows, *size), np.float32) for name, size in sizes.items()}
    parts = new_parts(rows, c.n_heads, c.head_dim)
    return State(**floats, parts=parts, counters=new_counters(STAGES * c.n_layers + 1))


def _scratch(c: ModelConfig, rows: int) -> Scratch:
    workers, n_used = numba_config.NUMBA_NUM_THREADS, max(1, c.n_used)
    padded = -(-max(c.dim, c.n_heads * c.head_dim, n_used * c.ffn_dim) // SUPER) * SUPER
    each = workers, rows
    return Scratch(
        vectors=np.empty((*each, VECTORS, padded), np.float32),
        codes=np.empty((workers, SLOTS, rows, padded), np.int8),
        d=np.empty((workers, SLOTS, rows, padded // 32), np.float32),
        sums=np.empty((workers, SLOTS, rows, padded // 32), np.float32),
        floats=np.empty((workers, rows if rows > 1 else 0, padded), np.float32),
        room=new_rooms(c.n_heads, c.n_kv_heads, c.head_dim, workers),
        chosen=np.full((*each, n_used), NO_EXPERT, np.int64),
        shares=np.ones((*each, n_used), np.float32),
    )


def _parameters(weights: Weights, c: ModelConfig, tiles: bool) -> Parameters:
    """Return where the matrices are and how to multiply by them, and the vectors."""
    layers, no_sinks = weights.layers, np.full(c.n_heads, -INFINITE)
    norms = ["attn_norm", "ffn_norm"] + ["post_attention_norm", "post_ffw_norm"] * c.family.post_norms
    sinks = [no_sinks if layer.attn_sinks is None else layer.attn_sinks for layer in layers]
    return Parameters(
        matrices=np.array([_layer_records(layer, c, tiles) for layer in layers], MATRIX),
        output=np.array(list(_records([(weights.output, None)], tiles)), MATRIX),
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


def _layer_records(layer: Layer, c: ModelConfig, tiles: bool) -> list[tuple]:
    """Return the records of a layer's matrices in their order, nothing for a router that is not there."""
    stages = (QKV, ("attn_output",), ("ffn_gate_inp",), ("ffn_gate", "ffn_up"), ("ffn_down",))
    found = []
    for names in stages:
        pairs = [(getattr(layer, name), getattr(layer, f"{name}_bias")) for name in names]
        parallel = c.n_used if c.n_experts and names == ("ffn_gate", "ffn_up") else 1
        found += [NO_MATRIX] if pairs[0][0] is None else _records(pairs, tiles, parallel)
    return found


def _records(matrices, tiles, parallel=1):
    """Yield the records of the matrices of one stage, (matrix, bias), which have their input in common.

    tiles: whether functions for several inputs are wanted, too, which are to be compiled then.
    """
    roundings = []
    for w, bias in matrices:
        multiply, rounding, key = _product(w)
        is_new = rounding not in roundings
        if is_new:
            roundings.append(rounding)
        block, group = rounding
        rounds = is_new and block != NOT_ROUNDED
        place = w.raw.ctypes.data, w.raw.shape[-1], *w.shape, 0 if bias is None else bias.ctypes.data
        scales = w.shape[1] // block if block != NOT_ROUNDED else 0
        sum_bytes = 2 * (w.shape[1] // group) if block == SUPER else 4 * scales
        ways = multiply.address, *rounding, roundings.index(rounding), rounds
        several = [rows_times_x.lane_tile(*key, n).address if tiles and key else 0 for n in TILES]
        yield *place, *ways, 4 * scales, sum_bytes, parallel, *several


def _product(w):
    """Return the function that multiplies rows of a matrix; how x is rounded, to which block, group; its key.

    The key is a format and an instruction set, for which there is a function for several inputs, or None.
    """
    isa = vectors_for(w.format, *w.shape)
    if isa == "plain" or "simd_dot" not in kernels.candidates(w.format):
        return rows_times_x.float_rows(w.format), (NOT_ROUNDED, 0), None
    packed, key = PACKED[w.format.name], (w.format.name, isa)
    group = AS_FLOATS if packed.is_float else packed.group
    return rows_times_x.lane_rows(*key), (packed.weights, group), key


def _head_norms(layers) -> np.ndarray:
    """Join the norms of Q and K, [n_layers, 2, head_dim]; [n_layers, 2, 0] where the family has none."""
    if layers[0].attn_q_norm is None:
        return np.zeros((len(layers), 2, 0), np.float32)
    return np.array([[layer.attn_q_norm, layer.attn_k_norm] for layer in layers])
