"""Decoding: one token through all layers, in one parallel region.

    stage       jobs                          what a job does
    HEADS       n_heads + 2 n_kv_heads        the rows of one head of Q, K or V; bias, norm, rotation;
                                              K and V go into the cache
    ATTENTION   n_heads                       one query over the keys and values so far
    OUTPUT      rows of attn_output           x += attn_output @ attended
    GATE_UP     rows of ffn_gate, ffn_up      hidden = silu(gate) * up
    DOWN        rows of ffn_down              x += ffn_down @ hidden
    ... for each layer, and then
    LOGITS      rows of output                logits = output @ normalized x

A worker normalizes and rounds the input of a stage for itself, into memory of its own: that costs less than
to wait for somebody who does it for all. All memory is there before the first token (`Decoder`), so a token
allocates no array. The weights are the mapped file and a table of where each matrix begins.
"""

from typing import NamedTuple

import numpy as np
from numba import config as numba_config
from numba import get_num_threads, njit, prange
from numba.extending import overload

from blocks2tokens import kernels
from blocks2tokens.jit.cores import takes_turns
from blocks2tokens.jit.job_counter import (
    MOST_JOBS,
    STAGE,
    count_done,
    first_job,
    new_counters,
    take_job_at,
    wait_for,
)
from blocks2tokens.jit.pointers import (
    call_job,
    doubles_at,
    floats_at,
    halves_at,
    integers_at,
    shorts_at,
    signed_bytes_at,
)
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
from blocks2tokens.model.rope import magnitude
from blocks2tokens.model.weights import Weights

HEADS, ATTENTION, OUTPUT, GATE_UP, DOWN, STAGES = range(6)
Q, K, V, O, GATE, UP, MATRIX_DOWN, MATRICES = range(8)
AT, ROW_BYTES, ROWS, COLUMNS, FUNCTION, BLOCK, GROUP, SLOT, PREPARES, FIELDS = range(10)
FLOATS_ONLY = 0  # BLOCK of a matrix whose job takes x as it is
SUPER = 256  # weights of a block with integer scales
SLOTS = 3  # different roundings of one input: Q, K and V may have three formats
JOB_BYTES = 1 << 15  # of weights, at the least: smaller jobs would cost more to hand out than to do
JOBS = 8  # of a stage for each core, at the most


class Model(NamedTuple):
    """What does not change from token to token; on the way to `work` each array as its address.

    data is the address of the mapped file, here as there.
    """

    data: int
    table: np.ndarray  # int64 [n_layers * MATRICES + 1, FIELDS], where each matrix is and how to multiply
    norms: np.ndarray  # float32 [n_layers, 2, dim], attn_norm and ffn_norm
    biases: np.ndarray  # float32 [n_layers, heads * head_dim of Q, K and V]; or [n_layers, 0]
    head_norms: np.ndarray  # float32 [n_layers, 2, head_dim], of Q and K; or [n_layers, 2, 0]
    output_norm: np.ndarray  # float32 [dim]
    frequencies: np.ndarray  # float64 [head_dim / 2]


class Shared(NamedTuple):
    """What all workers read and write, each element by one of them in a stage; float32 but for counters."""

    x: np.ndarray  # [dim]
    qkv: np.ndarray  # [heads * head_dim of Q, K and V]
    attended: np.ndarray  # [n_heads * head_dim]
    more: np.ndarray  # [dim]
    gate: np.ndarray  # [ffn_dim]
    up: np.ndarray  # [ffn_dim]
    logits: np.ndarray  # [vocab]
    cos: np.ndarray  # [head_dim / 2]
    sin: np.ndarray  # [head_dim / 2]
    counters: np.ndarray  # int64, see `job_counter`


class Own(NamedTuple):
    """What each worker has for itself; the first dimension says whose it is."""

    h: np.ndarray  # float32 [workers, dim], the normalized input
    codes: np.ndarray  # int8 [workers, SLOTS, padded]
    d: np.ndarray  # float32 [workers, SLOTS, padded / 32]
    sums: np.ndarray  # float32 [workers, SLOTS, padded / 32], or twice as many int16
    row: np.ndarray  # float32 [workers, padded], a decoded row, or 16 results
    scores: np.ndarray  # float32 [workers, capacity]


class FloatCache(NamedTuple):
    """Addresses of keys and values in float32; its type says so."""

    keys: int
    values: int


class HalfCache(NamedTuple):
    """Addresses of keys and values in float16."""

    keys: int
    values: int


class Shape(NamedTuple):
    """All sizes, and the numbers that the stages need."""

    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    dim: int
    ffn_dim: int
    vocab_size: int
    capacity: int
    workers: int
    padded: int
    bias_dim: int
    head_norm_dim: int
    halves: bool
    eps: np.float32
    scale: np.float32
    magnitude: float


# --- From addresses to arrays -----------------------------------------------------------------------------
# An array that Python hands over costs an allocation, its header, at each call; a number does not.


@njit(cache=True)
def model_at(at, s):
    return Model(
        at.data,
        integers_at(at.table, (s.n_layers * MATRICES + 1, FIELDS)),
        floats_at(at.norms, (s.n_layers, 2, s.dim)),
        floats_at(at.biases, (s.n_layers, s.bias_dim)),
        floats_at(at.head_norms, (s.n_layers, 2, s.head_norm_dim)),
        floats_at(at.output_norm, s.dim),
        doubles_at(at.frequencies, s.head_dim // 2),
    )


@njit(cache=True)
def shared_at(at, s):
    return Shared(
        floats_at(at.x, s.dim),
        floats_at(at.qkv, (s.n_heads + 2 * s.n_kv_heads) * s.head_dim),
        floats_at(at.attended, s.n_heads * s.head_dim),
        floats_at(at.more, s.dim),
        floats_at(at.gate, s.ffn_dim),
        floats_at(at.up, s.ffn_dim),
        floats_at(at.logits, s.vocab_size),
        floats_at(at.cos, s.head_dim // 2),
        floats_at(at.sin, s.head_dim // 2),
        integers_at(at.counters, (STAGES * s.n_layers + 1) * STAGE),
    )


@njit(cache=True)
def own_at(at, s):
    return Own(
        floats_at(at.h, (s.workers, s.dim)),
        signed_bytes_at(at.codes, (s.workers, SLOTS, s.padded)),
        floats_at(at.d, (s.workers, SLOTS, s.padded // 32)),
        floats_at(at.sums, (s.workers, SLOTS, s.padded // 32)),
        floats_at(at.row, (s.workers, s.padded)),
        floats_at(at.scores, (s.workers, s.capacity)),
    )


def numbers_at(cache, address, s):
    """Return keys or values, [n_layers, n_kv_heads, capacity, head_dim]; float16 as its bits, uint16."""


@overload(numbers_at)
def choose_numbers_at(cache, address, s):
    kind = halves_at if cache.instance_class is HalfCache else floats_at
    return lambda cache, address, s: kind(address, (s.n_layers, s.n_kv_heads, s.capacity, s.head_dim))


# --- Products ---------------------------------------------------------------------------------------------


@njit(cache=True)
def clear(numbers, first):
    """Set all numbers from `first` on to 0."""
    for i in range(first, numbers.size):
        numbers[i] = 0


@njit(cache=True)
def round_input(model, own, w, first, last, x):
    """Round x for matrices `first` to `last` - 1 of the table, once for each way of rounding."""
    for i in range(first, last):
        t = model.table[i]
        if t[PREPARES]:
            n, slot, block, blocks = t[COLUMNS], t[SLOT], t[BLOCK], t[COLUMNS] // t[BLOCK]
            codes = signed_bytes_at(address_of(own.codes[w, slot]), (1, blocks, 1, block))
            d = floats_at(address_of(own.d[w, slot]), (1, blocks, 1))
            sums = address_of(own.sums[w, slot])
            if block == SUPER:
                shape = (1, blocks, 1, block // t[GROUP])
                quantize_super_row(x[:n], 0, 0, codes, d, shorts_at(sums, shape))
            else:
                quantize_row(x[:n], 0, 0, codes, d, floats_at(sums, (1, blocks, 1)))


@njit(cache=True)
def multiply_rows(model, own, w, i, first, last, x, out, coming):
    """Fill out[first : last] with these rows of matrix i times x, which `round_input` has seen.

    coming is the address of what this worker multiplies next.
    """
    t = model.table[i]
    slot = t[SLOT]
    call_job(
        t[FUNCTION],
        (
            model.data + t[AT],
            t[ROW_BYTES],
            first,
            last,
            address_of(x),
            t[COLUMNS],
            address_of(own.codes[w, slot]),
            address_of(own.d[w, slot]),
            address_of(own.sums[w, slot]),
            address_of(own.row[w]),
            address_of(out),
            coming,
        ),
    )


@njit(cache=True)
def row_address(model, i, row):
    """Return where a row of matrix i is in memory."""
    return model.data + model.table[i, AT] + row * model.table[i, ROW_BYTES]


@njit(cache=True)
def rows_of_a_job(model, i, n_workers):
    """Return how many rows of matrix i make a job: a multiple of 16, so that jobs hardly share lines."""
    t = model.table[i]
    jobs = min(JOBS * n_workers, MOST_JOBS)
    share, least = -(-t[ROWS] // jobs), -(-JOB_BYTES // t[ROW_BYTES])
    return -(-max(share, least) // 16) * 16


@njit(cache=True)
def jobs_of(model, i, n_workers):
    """Return how many jobs the rows of matrix i are."""
    return -(-model.table[i, ROWS] // rows_of_a_job(model, i, n_workers))


# --- Stages -----------------------------------------------------------------------------------------------
# A worker tells each product where it will go on, so that memory is read ahead across jobs and stages.


@njit(cache=True)
def entry(model, i, w, n_workers):
    """Return the address of the rows of matrix i that worker w begins with."""
    job = first_job(w, n_workers, jobs_of(model, i, n_workers))
    return row_address(model, i, job * rows_of_a_job(model, i, n_workers))


@njit(cache=True)
def head_of(shape, job):
    """Return which of Q, K and V a job of HEADS makes, and which head of it."""
    if job < shape.n_heads:
        return Q, job
    job -= shape.n_heads
    return (K, job) if job < shape.n_kv_heads else (V, job - shape.n_kv_heads)


@njit(cache=True)
def head_address(model, shape, layer, job):
    """Return where the rows of a job of HEADS are."""
    matrix, head = head_of(shape, job)
    return row_address(model, MATRICES * layer + matrix, head * shape.head_dim)


@njit(cache=True)
def is_last(w, n_workers, job, n_jobs):
    """Is this job the last of its worker's share?"""
    return job + 1 == first_job(w + 1, n_workers, n_jobs)


@njit(cache=True)
def do_head(model, shared, own, keys, values, shape, layer, position, w, job, coming):
    """Make one head of Q, K or V: jobs are numbered in this order."""
    matrix, head = head_of(shape, job)
    size, start = shape.head_dim, (job - head) * shape.head_dim
    part = shared.qkv[start : start + model.table[MATRICES * layer + matrix, ROWS]]
    first, last = head * size, (head + 1) * size
    multiply_rows(model, own, w, MATRICES * layer + matrix, first, last, own.h[w], part, coming)
    made = part[first:last]
    if model.biases.shape[1]:
        add(made, model.biases[layer, start + first : start + last])
    if matrix != V:
        if model.head_norms.shape[2]:
            normalize(made, model.head_norms[layer, matrix], shape.eps, made)
        rotate(made, shared.cos, shared.sin, shape.halves)
    if matrix == K:
        store_all(made, keys[layer, head, position])
    elif matrix == V:
        store_all(made, values[layer, head, position])


@njit(cache=True)
def heads_stage(model, shared, own, keys, values, shape, layer, position, w, n_workers, stage):
    n_jobs = shape.n_heads + 2 * shape.n_kv_heads
    job = take_job_at(shared.counters, stage, first_job(w, n_workers, n_jobs), n_jobs)
    if job < n_jobs:
        normalize(shared.x, model.norms[layer, 0], shape.eps, own.h[w])
        round_input(model, own, w, MATRICES * layer + Q, MATRICES * layer + O, own.h[w])
    while job < n_jobs:
        coming = entry(model, MATRICES * layer + O, w, n_workers)
        if not is_last(w, n_workers, job, n_jobs):
            coming = head_address(model, shape, layer, job + 1)
        do_head(model, shared, own, keys, values, shape, layer, position, w, job, coming)
        count_done(shared.counters, stage)
        job = take_job_at(shared.counters, stage, job + 1, n_jobs)
    wait_for(shared.counters, stage, n_jobs)


@njit(cache=True)
def attention_stage(shared, own, keys, values, shape, layer, position, w, n_workers, stage):
    size, group, n_jobs = shape.head_dim, shape.n_heads // shape.n_kv_heads, shape.n_heads
    job = take_job_at(shared.counters, stage, first_job(w, n_workers, n_jobs), n_jobs)
    while job < n_jobs:
        part = slice(job * size, (job + 1) * size)
        seen_keys = keys[layer, job // group, : position + 1]
        seen_values = values[layer, job // group, : position + 1]
        attend_head(
            shared.qkv[part], seen_keys, seen_values, shape.scale, own.scores[w], shared.attended[part]
        )
        count_done(shared.counters, stage)
        job = take_job_at(shared.counters, stage, job + 1, n_jobs)
    wait_for(shared.counters, stage, n_jobs)


@njit(cache=True)
def add_product_stage(model, shared, own, i, x, w, n_workers, stage, following):
    """shared.x += matrix i @ x; x is what the stages before made of it."""
    n_rows, step, n_jobs = (
        model.table[i, ROWS],
        rows_of_a_job(model, i, n_workers),
        jobs_of(model, i, n_workers),
    )
    job = take_job_at(shared.counters, stage, first_job(w, n_workers, n_jobs), n_jobs)
    if job < n_jobs:
        round_input(model, own, w, i, i + 1, x)
    while job < n_jobs:
        first, last = job * step, min(n_rows, (job + 1) * step)
        coming = following if is_last(w, n_workers, job, n_jobs) else row_address(model, i, last)
        multiply_rows(model, own, w, i, first, last, x, shared.more, coming)
        add(shared.x[first:last], shared.more[first:last])
        count_done(shared.counters, stage)
        job = take_job_at(shared.counters, stage, job + 1, n_jobs)
    wait_for(shared.counters, stage, n_jobs)


@njit(cache=True)
def gate_up_stage(model, shared, own, shape, layer, w, n_workers, stage, following):
    gate, up = MATRICES * layer + GATE, MATRICES * layer + UP
    n_rows, step = model.table[gate, ROWS], rows_of_a_job(model, gate, n_workers)
    n_jobs = jobs_of(model, gate, n_workers)
    job = take_job_at(shared.counters, stage, first_job(w, n_workers, n_jobs), n_jobs)
    if job < n_jobs:
        normalize(shared.x, model.norms[layer, 1], shape.eps, own.h[w])
        round_input(model, own, w, gate, up + 1, own.h[w])
    while job < n_jobs:
        first, last = job * step, min(n_rows, (job + 1) * step)
        coming = following if is_last(w, n_workers, job, n_jobs) else row_address(model, gate, last)
        multiply_rows(model, own, w, gate, first, last, own.h[w], shared.gate, row_address(model, up, first))
        multiply_rows(model, own, w, up, first, last, own.h[w], shared.up, coming)
        silu_times(shared.gate[first:last], shared.up[first:last])
        count_done(shared.counters, stage)
        job = take_job_at(shared.counters, stage, job + 1, n_jobs)
    wait_for(shared.counters, stage, n_jobs)


@njit(cache=True)
def logits_stage(model, shared, own, shape, w, n_workers, stage):
    i = MATRICES * shape.n_layers
    n_rows, step, n_jobs = (
        model.table[i, ROWS],
        rows_of_a_job(model, i, n_workers),
        jobs_of(model, i, n_workers),
    )
    job = take_job_at(shared.counters, stage, first_job(w, n_workers, n_jobs), n_jobs)
    if job < n_jobs:
        normalize(shared.x, model.output_norm, shape.eps, own.h[w])
        round_input(model, own, w, i, i + 1, own.h[w])
    while job < n_jobs:
        first, last = job * step, min(n_rows, (job + 1) * step)
        multiply_rows(model, own, w, i, first, last, own.h[w], shared.logits, row_address(model, i, last))
        count_done(shared.counters, stage)
        job = take_job_at(shared.counters, stage, job + 1, n_jobs)
    wait_for(shared.counters, stage, n_jobs)


@njit(cache=True)
def work(model_addresses, shared_addresses, own_addresses, cache, shape, position, with_logits, w, n_workers):
    """Go through all stages as worker w."""
    model, shared = model_at(model_addresses, shape), shared_at(shared_addresses, shape)
    own = own_at(own_addresses, shape)
    keys, values = numbers_at(cache, cache.keys, shape), numbers_at(cache, cache.values, shape)
    for layer in range(shape.n_layers):
        stage, first = STAGES * layer, MATRICES * layer
        gate, down = entry(model, first + GATE, w, n_workers), entry(model, first + MATRIX_DOWN, w, n_workers)
        after = entry(model, first + MATRICES, w, n_workers)  # of the logits, or about where Q begins
        if layer + 1 < shape.n_layers:
            job = first_job(w, n_workers, shape.n_heads + 2 * shape.n_kv_heads)
            after = head_address(model, shape, layer + 1, job)
        heads_stage(model, shared, own, keys, values, shape, layer, position, w, n_workers, stage + HEADS)
        attention_stage(shared, own, keys, values, shape, layer, position, w, n_workers, stage + ATTENTION)
        add_product_stage(model, shared, own, first + O, shared.attended, w, n_workers, stage + OUTPUT, gate)
        gate_up_stage(model, shared, own, shape, layer, w, n_workers, stage + GATE_UP, down)
        add_product_stage(
            model, shared, own, first + MATRIX_DOWN, shared.gate, w, n_workers, stage + DOWN, after
        )
    if with_logits:
        logits_stage(model, shared, own, shape, w, n_workers, STAGES * shape.n_layers)


@njit(cache=True)
def begin(embedding, decoder, model_addresses, shared_addresses, shape, position):
    """Put the embedding of a token, whose encoded row is at an address, into x, and prepare its angles."""
    model, shared = model_at(model_addresses, shape), shared_at(shared_addresses, shape)
    call_job(decoder, (embedding, shared_addresses.x, shape.dim))
    fill_angles(position, model.frequencies, shape.magnitude, shared.cos, shared.sin)
    clear(shared.counters, 0)


@takes_turns
@njit(parallel=True, cache=True)
def decode_token(embedding, decoder, model, shared, own, cache, shape, position, with_logits, n_workers):
    """Run one token behind `position` others; everything by address."""
    begin(embedding, decoder, model, shared, shape, position)
    for w in prange(n_workers):
        # prange counts without a sign: one type, or all of `work` would be compiled twice
        work(model, shared, own, cache, shape, position, with_logits, np.int64(w), n_workers)


# --- Memory -----------------------------------------------------------------------------------------------


class Decoder:
    """All that decoding needs besides the cache, made once: `step` allocates no array."""

    def __init__(self, data: np.ndarray, weights: Weights, c: ModelConfig, cache: KVCache):
        """Prepare to decode into this cache; data, uint8, is the file that the weights are views of."""
        self.weights, self.embedding = weights, weights.token_embd.raw
        self.model, self.shared, self.own = _model(data, weights), _shared(c), _own(c, cache.capacity)
        self.shape = _shape(c, self.model, self.own)
        kind = HalfCache if cache.keys.dtype == np.float16 else FloatCache
        self.addresses = (
            rows_times_x.row_decoder(weights.token_embd.format).address,
            *(_addresses(part) for part in (self.model, self.shared, self.own)),
            kind(cache.keys.ctypes.data, cache.values.ctypes.data),
            self.shape,
        )
        self.first_row = self.embedding.ctypes.data

    def step(self, token: int, position: int, with_logits: bool) -> None:
        """Run one token behind `position` others; results are in `x` and, if asked for, `logits`."""
        row = self.first_row + int(token) * self.embedding.shape[1]
        decode_token(row, *self.addresses, position, with_logits, get_num_threads())

    @property
    def x(self) -> np.ndarray:
        """The final stream of the last token, float32 [dim]; the next step overwrites it."""
        return self.shared.x

    @property
    def logits(self) -> np.ndarray:
        """The logits of the last token, float32 [vocab]; the next step overwrites them."""
        return self.shared.logits


def _addresses(part: NamedTuple) -> NamedTuple:
    """Return a tuple like this one with the address of each array in its place."""
    return type(part)(*(a if isinstance(a, int) else a.ctypes.data for a in part))


def _shape(c: ModelConfig, model: Model, own: Own) -> Shape:
    return Shape(
        n_layers=c.n_layers,
        n_heads=c.n_heads,
        n_kv_heads=c.n_kv_heads,
        head_dim=c.head_dim,
        dim=c.dim,
        ffn_dim=c.ffn_dim,
        vocab_size=c.vocab_size,
        capacity=own.scores.shape[1],
        workers=own.scores.shape[0],
        padded=own.row.shape[1],
        bias_dim=model.biases.shape[1],
        head_norm_dim=model.head_norms.shape[2],
        halves=c.family.rope_pairs == "halves",
        eps=np.float32(c.norm_eps),
        scale=np.float32(c.head_dim**-0.5),
        magnitude=magnitude(c.rope_scaling),
    )


def _shared(c: ModelConfig) -> Shared:
    qkv_dim = (c.n_heads + 2 * c.n_kv_heads) * c.head_dim
    sizes = {
        "x": c.dim,
        "qkv": qkv_dim,
        "attended": c.n_heads * c.head_dim,
        "more": c.dim,
        "gate": c.ffn_dim,
        "up": c.ffn_dim,
        "logits": c.vocab_size,
        "cos": c.head_dim // 2,
        "sin": c.head_dim // 2,
    }
    floats = {name: np.empty(size, np.float32) for name, size in sizes.items()}
    return Shared(**floats, counters=new_counters(STAGES * c.n_layers + 1))


def _own(c: ModelConfig, capacity: int) -> Own:
    workers, widest = numba_config.NUMBA_NUM_THREADS, max(c.dim, c.n_heads * c.head_dim, c.ffn_dim)
    padded = -(-widest // SUPER) * SUPER
    return Own(
        h=np.empty((workers, c.dim), np.float32),
        codes=np.empty((workers, SLOTS, padded), np.int8),
        d=np.empty((workers, SLOTS, padded // 32), np.float32),
        sums=np.empty((workers, SLOTS, padded // 32), np.float32),
        row=np.empty((workers, padded), np.float32),
        scores=np.empty((workers, capacity), np.float32),
    )


def _model(data: np.ndarray, weights: Weights) -> Model:
    """Return the table of matrices and what else stays the same."""
    layers = weights.layers
    stages = [
        matrices
        for layer in layers
        for matrices in (
            (layer.attn_q, layer.attn_k, layer.attn_v),
            (layer.attn_output,),
            (layer.ffn_gate, layer.ffn_up),
            (layer.ffn_down,),
        )
    ]
    rows = [row for stage in [*stages, (weights.output,)] for row in _table_rows(data, stage)]
    return Model(
        data=data.ctypes.data,
        table=np.array(rows, np.int64),
        norms=np.array([[layer.attn_norm, layer.ffn_norm] for layer in layers]),
        biases=_biases(layers),
        head_norms=_head_norms(layers),
        output_norm=weights.output_norm,
        frequencies=weights.rope_frequencies,
    )


def _table_rows(data, matrices):
    """Yield the rows of the table for the matrices of one stage, which have their input in common."""
    slots = []
    for w in matrices:
        function, kind = _job(w)
        fresh = kind[0] != FLOATS_ONLY and kind not in slots
        if kind not in slots:
            slots.append(kind)
        at = w.raw.ctypes.data - data.ctypes.data
        yield at, w.raw.shape[1], *w.shape, function.address, *kind, slots.index(kind), fresh


def _job(w):
    """Return the function that multiplies rows of a matrix, and how x is rounded: to which block, group."""
    isa = vectors_for(w.format, *w.shape)
    if isa == "plain" or "simd_dot" not in kernels.candidates(w.format):
        return rows_times_x.float_rows(w.format), (FLOATS_ONLY, 0)
    packed = PACKED[w.format.name]
    kind = (FLOATS_ONLY, 0) if packed.is_float else (packed.weights, packed.group)
    return rows_times_x.lane_rows(packed.name, isa), kind


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
