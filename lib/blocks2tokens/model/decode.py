"""Decoding: one token through all layers, in one parallel region.

    stage       jobs                          what a job does
    HEADS       n_heads + 2 n_kv_heads        the rows of one head of Q, K or V; bias, norm, rotation;
                                              K and V go into the cache
    ATTENTION   n_heads                       one query over the keys and values so far
    OUTPUT      rows of attn_output           residual += attn_output @ attended
    GATE_UP     rows of ffn_gate, ffn_up      gate = silu(gate) * up
    DOWN        rows of ffn_down              residual += ffn_down @ gate
    ... for each layer, and then
    LOGITS      rows of output                logits = output @ normalized residual

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
from blocks2tokens.model.compiled_layers import (
    add,
    attend_head,
    fill_angles,
    normalize,
    rotate,
    silu_times,
    store_all,
)
from blocks2tokens.model.config import ModelConfig
from blocks2tokens.model.kv_cache import KVCache
from blocks2tokens.model.rope import attention_factor
from blocks2tokens.model.weights import Weights

HEADS, ATTENTION, OUTPUT, GATE_UP, DOWN, STAGES = range(6)
Q, K, V, O, GATE, UP, FFN_DOWN, MATRICES = range(8)
NOT_ROUNDED = 0  # `block` of a matrix whose product takes x as it is
SUPER = 256  # weights of a block with integer scales
SLOTS = 3  # different roundings of one input: Q, K and V may have three formats
JOB_BYTES = 1 << 15  # of weights, at the least: smaller jobs would cost more to hand out than to do
JOBS = 8  # of a stage for each core, at the most

MATRIX = np.dtype(  # where a matrix is, how to multiply by it, and how its input is rounded
    [
        ("address", "i8"),  # of row 0
        ("row_bytes", "i8"),
        ("rows", "i8"),
        ("columns", "i8"),
        ("multiply", "i8"),  # address of the compiled function, see `rows_times_x`
        ("block", "i8"),  # of the input, in weights; NOT_ROUNDED
        ("group", "i8"),  # whose codes are summed up
        ("slot", "i8"),  # of the scratch, where the rounded input is
        ("rounds", "i8"),  # is it the first of its stage that wants this rounding?
    ]
)


class Parameters(NamedTuple):
    """What the file holds; it stays the same from token to token."""

    matrices: np.ndarray  # MATRIX [n_layers, MATRICES]
    output: np.ndarray  # MATRIX [1]
    norms: np.ndarray  # float32 [n_layers, 2, dim], attn_norm and ffn_norm
    biases: np.ndarray  # float32 [n_layers, heads * head_dim of Q, K and V]; or [n_layers, 0]
    head_norms: np.ndarray  # float32 [n_layers, 2, head_dim], of Q and K; or [n_layers, 2, 0]
    output_norm: np.ndarray  # float32 [dim]
    frequencies: np.ndarray  # float64 [head_dim / 2]


class State(NamedTuple):
    """What all workers read and write, each element by one of them in a stage; float32 but for counters."""

    residual: np.ndarray  # [dim]
    qkv: np.ndarray  # [heads * head_dim of Q, K and V]
    attended: np.ndarray  # [n_heads * head_dim]
    product: np.ndarray  # [dim], what is added to the residual
    gate: np.ndarray  # [ffn_dim]
    up: np.ndarray  # [ffn_dim]
    logits: np.ndarray  # [vocab]
    cos: np.ndarray  # [head_dim / 2]
    sin: np.ndarray  # [head_dim / 2]
    counters: np.ndarray  # int64, see `job_counter`


class Scratch(NamedTuple):
    """What a worker has for itself; with a first dimension, what all have."""

    normalized: np.ndarray  # float32 [dim]
    codes: np.ndarray  # int8 [SLOTS, padded]
    d: np.ndarray  # float32 [SLOTS, padded / 32]
    sums: np.ndarray  # float32 [SLOTS, padded / 32], or twice as many int16
    row: np.ndarray  # float32 [padded], a decoded row, or 16 results
    scores: np.ndarray  # float32 [capacity]


class Sizes(NamedTuple):
    """The sizes and numbers that the stages need."""

    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    halves: bool  # rotate halves, or neighbours
    eps: np.float32
    scale: np.float32  # of scores
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
    jobs = min(JOBS * n_workers, MOST_JOBS)
    share, least = -(-m.rows // jobs), -(-JOB_BYTES // m.row_bytes)
    return -(-max(share, least) // 16) * 16


@njit(cache=True)
def jobs_of(m, n_workers):
    """Return how many jobs the rows of matrix m are."""
    return -(-m.rows // rows_of_a_job(m, n_workers))


@njit(cache=True)
def address_of_row(m, row):
    return m.address + row * m.row_bytes


@njit(cache=True)
def entry(m, worker):
    """Return the address of the rows of matrix m that a worker begins with."""
    job = first_job(worker.i, worker.n, jobs_of(m, worker.n))
    return address_of_row(m, job * rows_of_a_job(m, worker.n))


# --- Products ---------------------------------------------------------------------------------------------
# A worker tells each product where it will go on, so that memory is read ahead across jobs and stages.


@njit(cache=True)
def round_input(matrices, scratch, x):
    """Round x for the matrices of a stage, once for each way of rounding."""
    for i in range(matrices.size):
        m = matrices[i]
        if m.rounds:
            blocks = m.columns // m.block
            codes = scratch.codes[m.slot, : m.columns].reshape(1, blocks, 1, m.block)
            d = scratch.d[m.slot, :blocks].reshape(1, blocks, 1)
            sums = address_of(scratch.sums[m.slot])
            if m.block == SUPER:
                shape = (1, blocks, 1, m.block // m.group)
                quantize_super_row(x[: m.columns], 0, 0, codes, d, shorts_at(sums, shape))
            else:
                quantize_row(x[: m.columns], 0, 0, codes, d, floats_at(sums, (1, blocks, 1)))


@njit(cache=True)
def multiply_rows(m, scratch, first, last, x, out, coming):
    """Fill out[first : last] with these rows of matrix m times x, which `round_input` has seen.

    coming is the address of what this worker multiplies next.
    """
    call_job(
        m.multiply,
        (
            m.address,
            m.row_bytes,
            first,
            last,
            address_of(x),
            m.columns,
            address_of(scratch.codes[m.slot]),
            address_of(scratch.d[m.slot]),
            address_of(scratch.sums[m.slot]),
            address_of(scratch.row),
            address_of(out),
            coming,
        ),
    )


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
def do_head(parameters, state, scratch, keys, values, sizes, layer, position, job, coming):
    """Make one head of Q, K or V: jobs are numbered in this order."""
    matrix, head = head_of(sizes, job)
    m, size = parameters.matrices[layer, matrix], sizes.head_dim
    start, first, last = (job - head) * size, head * size, (head + 1) * size
    part = state.qkv[start : start + m.rows]
    multiply_rows(m, scratch, first, last, scratch.normalized, part, coming)
    made = part[first:last]
    if parameters.biases.shape[1]:
        add(made, parameters.biases[layer, start + first : start + last])
    if matrix != V:
        if parameters.head_norms.shape[2]:
            normalize(made, parameters.head_norms[layer, matrix], sizes.eps, made)
        rotate(made, state.cos, state.sin, sizes.halves)
    if matrix == K:
        store_all(made, keys[layer, head, position])
    elif matrix == V:
        store_all(made, values[layer, head, position])


@njit(cache=True)
def heads_stage(parameters, state, scratch, keys, values, sizes, layer, position, worker, stage):
    n_jobs = sizes.n_heads + 2 * sizes.n_kv_heads
    job = take_first(state.counters, stage, worker, n_jobs)
    if job < n_jobs:
        normalize(state.residual, parameters.norms[layer, 0], sizes.eps, scratch.normalized)
        round_input(parameters.matrices[layer, Q:O], scratch, scratch.normalized)
    while job < n_jobs:
        coming = entry(parameters.matrices[layer, O], worker)
        if not is_last(worker, job, n_jobs):
            coming = address_of_head(parameters, sizes, layer, job + 1)
        do_head(parameters, state, scratch, keys, values, sizes, layer, position, job, coming)
        job = take_next(state.counters, stage, job, n_jobs)
    wait_for(state.counters, stage, n_jobs)


@njit(cache=True)
def attention_stage(state, scratch, keys, values, sizes, layer, position, worker, stage):
    size, group, n_jobs = sizes.head_dim, sizes.n_heads // sizes.n_kv_heads, sizes.n_heads
    job = take_first(state.counters, stage, worker, n_jobs)
    while job < n_jobs:
        part = slice(job * size, (job + 1) * size)
        seen_keys = keys[layer, job // group, : position + 1]
        seen_values = values[layer, job // group, : position + 1]
        attend_head(
            state.qkv[part], seen_keys, seen_values, sizes.scale, scratch.scores, state.attended[part]
        )
        job = take_next(state.counters, stage, job, n_jobs)
    wait_for(state.counters, stage, n_jobs)


@njit(cache=True)
def add_product_stage(matrices, state, scratch, x, worker, stage, following):
    """residual += the one matrix @ x; x is what the stages before made of it."""
    m = matrices[0]
    step, n_jobs = rows_of_a_job(m, worker.n), jobs_of(m, worker.n)
    job = take_first(state.counters, stage, worker, n_jobs)
    if job < n_jobs:
        round_input(matrices, scratch, x)
    while job < n_jobs:
        first, last = job * step, min(m.rows, (job + 1) * step)
        coming = following if is_last(worker, job, n_jobs) else address_of_row(m, last)
        multiply_rows(m, scratch, first, last, x, state.product, coming)
        add(state.residual[first:last], state.product[first:last])
        job = take_next(state.counters, stage, job, n_jobs)
    wait_for(state.counters, stage, n_jobs)


@njit(cache=True)
def gate_up_stage(parameters, state, scratch, sizes, layer, worker, stage):
    gate, up = parameters.matrices[layer, GATE], parameters.matrices[layer, UP]
    step, n_jobs, x = rows_of_a_job(gate, worker.n), jobs_of(gate, worker.n), scratch.normalized
    following = entry(parameters.matrices[layer, FFN_DOWN], worker)
    job = take_first(state.counters, stage, worker, n_jobs)
    if job < n_jobs:
        normalize(state.residual, parameters.norms[layer, 1], sizes.eps, x)
        round_input(parameters.matrices[layer, GATE : UP + 1], scratch, x)
    while job < n_jobs:
        first, last = job * step, min(gate.rows, (job + 1) * step)
        coming = following if is_last(worker, job, n_jobs) else address_of_row(gate, last)
        multiply_rows(gate, scratch, first, last, x, state.gate, address_of_row(up, first))
        multiply_rows(up, scratch, first, last, x, state.up, coming)
        silu_times(state.gate[first:last], state.up[first:last])
        job = take_next(state.counters, stage, job, n_jobs)
    wait_for(state.counters, stage, n_jobs)


@njit(cache=True)
def logits_stage(parameters, state, scratch, sizes, worker, stage):
    m, x = parameters.output[0], scratch.normalized
    step, n_jobs = rows_of_a_job(m, worker.n), jobs_of(m, worker.n)
    job = take_first(state.counters, stage, worker, n_jobs)
    if job < n_jobs:
        normalize(state.residual, parameters.output_norm, sizes.eps, x)
        round_input(parameters.output, scratch, x)
    while job < n_jobs:
        first, last = job * step, min(m.rows, (job + 1) * step)
        multiply_rows(m, scratch, first, last, x, state.logits, address_of_row(m, last))
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
        after = after_layer(parameters, sizes, layer, worker)
        heads_stage(parameters, state, scratch, keys, values, sizes, layer, position, worker, stage + HEADS)
        attention_stage(state, scratch, keys, values, sizes, layer, position, worker, stage + ATTENTION)
        gate = entry(matrices[GATE], worker)
        add_product_stage(matrices[O : O + 1], state, scratch, state.attended, worker, stage + OUTPUT, gate)
        gate_up_stage(parameters, state, scratch, sizes, layer, worker, stage + GATE_UP)
        add_product_stage(matrices[FFN_DOWN:], state, scratch, state.gate, worker, stage + DOWN, after)
    if with_logits:
        logits_stage(parameters, state, scratch, sizes, worker, STAGES * sizes.n_layers)


@njit(cache=True)
def begin(embedding, decode_row, parameters, state, sizes, position):
    """Put the embedding of a token, uint8 [row bytes], into the residual, and prepare its angles."""
    decode_row(embedding, state.residual)
    fill_angles(position, parameters.frequencies, sizes.attention_factor, state.cos, state.sin)
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
            scratch.normalized[w],
            scratch.codes[w],
            scratch.d[w],
            scratch.sums[w],
            scratch.row[w],
            scratch.scores[w],
        )
        run_stages(parameters, state, own, keys, values, sizes, position, with_logits, Worker(w, n))


# --- Memory -----------------------------------------------------------------------------------------------


class Decoder:
    """All that decoding needs besides the cache, made once: `step` makes no array."""

    def __init__(self, weights: Weights, c: ModelConfig, cache: KVCache):
        """Prepare to decode into this cache."""
        self.weights, self.state = weights, _state(c)
        self.embeddings = weights.token_embd.raw
        self.arguments = (
            weights.token_embd.format.row_decoder,
            _parameters(weights),
            self.state,
            _scratch(c, cache.capacity),
            *cache.for_numba(),
            _sizes(c),
        )

    def step(self, token: int, position: int, with_logits: bool) -> None:
        """Run one token behind `position` others; results are in `x` and, if asked for, `logits`."""
        decode_token(self.embeddings, int(token), *self.arguments, position, with_logits, get_num_threads())

    @property
    def x(self) -> np.ndarray:
        """The final residual of the last token, float32 [dim]; the next step overwrites it."""
        return self.state.residual

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
        halves=c.family.rope_pairs == "halves",
        eps=np.float32(c.norm_eps),
        scale=np.float32(c.head_dim**-0.5),
        attention_factor=attention_factor(c.rope_scaling),
    )


def _state(c: ModelConfig) -> State:
    sizes = {
        "residual": c.dim,
        "qkv": (c.n_heads + 2 * c.n_kv_heads) * c.head_dim,
        "attended": c.n_heads * c.head_dim,
        "product": c.dim,
        "gate": c.ffn_dim,
        "up": c.ffn_dim,
        "logits": c.vocab_size,
        "cos": c.head_dim // 2,
        "sin": c.head_dim // 2,
    }
    floats = {name: np.empty(size, np.float32) for name, size in sizes.items()}
    return State(**floats, counters=new_counters(STAGES * c.n_layers + 1))


def _scratch(c: ModelConfig, capacity: int) -> Scratch:
    workers, widest = numba_config.NUMBA_NUM_THREADS, max(c.dim, c.n_heads * c.head_dim, c.ffn_dim)
    padded = -(-widest // SUPER) * SUPER
    return Scratch(
        normalized=np.empty((workers, c.dim), np.float32),
        codes=np.empty((workers, SLOTS, padded), np.int8),
        d=np.empty((workers, SLOTS, padded // 32), np.float32),
        sums=np.empty((workers, SLOTS, padded // 32), np.float32),
        row=np.empty((workers, padded), np.float32),
        scores=np.empty((workers, capacity), np.float32),
    )


def _parameters(weights: Weights) -> Parameters:
    """Return where the matrices are and how to multiply by them, and the vectors."""
    layers = weights.layers
    stages = (("attn_q", "attn_k", "attn_v"), ("attn_output",), ("ffn_gate", "ffn_up"), ("ffn_down",))
    matrices = [
        [record for names in stages for record in _records([getattr(layer, name) for name in names])]
        for layer in layers
    ]
    return Parameters(
        matrices=np.array(matrices, MATRIX),
        output=np.array(list(_records([weights.output])), MATRIX),
        norms=np.array([[layer.attn_norm, layer.ffn_norm] for layer in layers]),
        biases=_biases(layers),
        head_norms=_head_norms(layers),
        output_norm=weights.output_norm,
        frequencies=weights.rope_frequencies,
    )


def _records(matrices):
    """Yield the records of the matrices of one stage, which have their input in common."""
    roundings = []
    for w in matrices:
        multiply, rounding = _product(w)
        is_new = rounding not in roundings
        if is_new:
            roundings.append(rounding)
        rounds = is_new and rounding[0] != NOT_ROUNDED
        place = w.raw.ctypes.data, w.raw.shape[1], *w.shape
        yield *place, multiply.address, *rounding, roundings.index(rounding), rounds


def _product(w):
    """Return the function that multiplies rows of a matrix, and how x is rounded: to which block, group."""
    isa = vectors_for(w.format, *w.shape)
    if isa == "plain" or "simd_dot" not in kernels.candidates(w.format):
        return rows_times_x.float_rows(w.format), (NOT_ROUNDED, 0)
    packed = PACKED[w.format.name]
    rounding = (NOT_ROUNDED, 0) if packed.is_float else (packed.weights, packed.group)
    return rows_times_x.lane_rows(packed.name, isa), rounding


def _biases(layers) -> np.ndarray:
    """Join the biases of Q, K and V, one row a layer; rows of nothing if no layer has any."""
    names = ("attn_q", "attn_k", "attn_v")
    if all(getattr(layer, f"{name}_bias") is None for layer in layers for name in names):
        return np.zeros((len(layers), 0), np.float32)

    def bias(layer, name):
        found = getattr(layer, f"{name}_bias")
        return np.zeros(getattr(layer, name).shape[0], np.float32) if found is None else found

    return np.array([np.concatenate([bias(layer, name) for name in names]) for layer in layers])


def _head_norms(layers) -> np.ndarray:
    """Join the norms of Q and K, [n_layers, 2, head_dim]; [n_layers, 2, 0] where the family has none."""
    if layers[0].attn_q_norm is None:
        return np.zeros((len(layers), 2, 0), np.float32)
    return np.array([[layer.attn_q_norm, layer.attn_k_norm] for layer in layers])
