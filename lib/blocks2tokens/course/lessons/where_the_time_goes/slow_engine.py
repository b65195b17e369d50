"""SlowEngine: the report's engine rebuilt over our models, so that it can be profiled and mended.

    one product, out = x @ W.T, for W [N, K] in blocks
        allocate B, zeroed                         4 N K bytes           unless the cache has it
        decode all of W into it, one thread        N K weights
        allocate Bt, zeroed                        4 N K bytes
        copy it transposed, one thread             N K floats, the writes K floats apart
        dot products, summed in order              N K multiply-adds, rows of x shared by the cores

    suspects   attention     a head's keys and values copied, then loops     one pass, straight from the cache
               rope          pow, cos and sin for each pair and head         once a token, for all layers
               allocations   a new, zeroed tensor for each result            tensors taken up again
               layer_norm    three loops over three tensors, divisions       one loop, one division
               swiglu        five loops over five tensors                    one loop
               kv_cache      all copied into new tensors for each token      room for all from the start
    culprits   dequantize    each product decodes its matrix                 decoded once, kept as float32
               transpose     each product copies its matrix                  rows used as they lie
               dot           one core, one float at a time                   SIMD, outputs shared by the cores

The suspects are the report's; each fix changes its part and nothing else. Numbers are right, with any fixes:
GGUF stores W as N rows of K weights, just what dot products want. The report's engine read that as [K, N],
and its transposed copy is of no use; it is made here, at its full price, and the rows are multiplied.
(That engine copies from 2**20 multiply-adds on. Every matrix of a 7B is above that, so here all are copied.)

Written in Go, the report's loops were compiled, but without SIMD: so are these (see `report.decoders`).
Decoded matrices are kept in a least-recently-used cache of the same share of the model as the report's,
8 GB of 26.3 GB. Sources: the report, its engine's public history, and lessons 08 to 13.
"""

import math
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate, pairwise

import numpy as np
from numba import get_num_threads, njit, prange

from blocks2tokens.course import bench, budget
from blocks2tokens.course.lessons.where_the_time_goes.profiler import OFF, Recorder, Stage
from blocks2tokens.errors import UnsupportedError
from blocks2tokens.formats import Format
from blocks2tokens.formats.compiled import read_half
from blocks2tokens.generate import Model
from blocks2tokens.kernels.ours import fused_rows
from blocks2tokens.kernels.report import decoders, phase0_baseline
from blocks2tokens.kernels.report.decoders import scalar
from blocks2tokens.matrix import QuantizedMatrix
from blocks2tokens.model import rope
from blocks2tokens.sampler import Sampler

SUSPECTS = ("attention", "rope", "allocations", "layer_norm", "swiglu", "kv_cache")  # in the report's order
CULPRITS = ("transpose", "dequantize", "dot")
FIXES = SUSPECTS + CULPRITS

CACHE_SHARE = 8 / 26.3  # of the model in float32
SMALL = 1 << 16  # floats
SHARED_ABOVE = 1 << 20  # weights: for fewer, a parallel region costs more than it gives

LABELS = {
    "attention": "attention",
    "rope": "RoPE",
    "allocations": "allocations",
    "layer_norm": "layer norm",
    "swiglu": "SwiGLU",
    "kv_cache": "KV cache",
    "transpose": "transpose",
    "dequantize": "dequantize",
    "dot": "dot products",
}


@dataclass
class Work:
    """What was done, counted; the same on every machine. trig_calls are those of pow, cos and sin in RoPE."""

    weights_decoded: int = 0
    bytes_transposed: int = 0
    multiply_adds: int = 0
    trig_calls: int = 0
    bytes_concatenated: int = 0
    tensors: int = 0
    tensor_bytes: int = 0
    cache_hits: int = 0
    cache_misses: int = 0


# --- Decoders, one weight at a time: Q4_1 and Q8_0, which the report's engine did not have ----------------


@njit(cache=True)
def decode_q4_1(raw, out):
    """Fill out, float32 [weights], from Q4_1 blocks, uint8 [bytes]."""
    for block in range(out.size // 32):
        at = 20 * block
        d, m = read_half(raw, at), read_half(raw, at + 2)
        for l in range(16):
            i = scalar(l)
            out[32 * block + i] = d * np.float32(raw[at + 4 + i] & 15) + m
            out[32 * block + 16 + i] = d * np.float32(raw[at + 4 + i] >> 4) + m


@njit(cache=True)
def decode_q8_0(raw, out):
    """Fill out, float32 [weights], from Q8_0 blocks, uint8 [bytes]."""
    for block in range(out.size // 32):
        at = 34 * block
        d = read_half(raw, at)
        for l in range(32):
            i = scalar(l)
            out[32 * block + i] = d * np.float32(np.int8(raw[at + 2 + i]))


DECODERS = {**decoders.BLOCKS, "Q4_1": decode_q4_1, "Q8_0": decode_q8_0}


def slow_decoder(fmt: Format) -> Callable:
    """Return the decoder without SIMD, (raw uint8 [bytes], out float32 [weights]), if the format has one."""
    return DECODERS.get(fmt.name, fmt.module.decode_row)


def multiply_in_order(x, rows, out):
    """Fill out, float32 [T, N], with ordered dot products; the cores share the T rows of x."""
    T = len(x)
    n_workers = phase0_baseline.workers(T, get_num_threads())
    if n_workers == 1:  # one row: spares the report a parallel region that it would not have opened
        phase0_baseline.multiply_rows(x, rows, 0, T, out)
    else:
        phase0_baseline.multiply_transposed(x, rows, n_workers, out)


@njit(cache=True)
def multiply_with_simd(x, rows, first, last, out):
    """Fill columns first to last - 1 of out, float32 [T, N], with SIMD dot products."""
    for n in range(first, last):
        for t in range(x.shape[0]):
            out[t, n] = fused_rows.dot(x[t], rows[n])


@njit(parallel=True, cache=True)
def multiply_on_all_cores(x, rows, n_workers, out):
    """Fill out, float32 [T, N], from x, float32 [T, K], and rows, float32 [N, K], shared by the cores."""
    N = rows.shape[0]
    for worker in prange(n_workers):
        multiply_with_simd(x, rows, worker * N // n_workers, (worker + 1) * N // n_workers, out)


def multiply_fast(x, rows, out):
    """Fill out, float32 [T, N], with SIMD dot products, on all cores if there is work for them."""
    if rows.size < SHARED_ABOVE:
        multiply_with_simd(x, rows, 0, len(rows), out)
    else:
        multiply_on_all_cores(x, rows, get_num_threads(), out)


def bytes_moved(weights: int, bits: float) -> float:
    """Return the bytes that a product of one row moves for a matrix of so many weights of `bits` each.

    B is zeroed; blocks are read, B written; Bt is zeroed; B is read, Bt written; the dot products read.
    """
    zeroed, decoded, transposed, multiplied = 4 + 4, bits / 8 + 4, 4 + 4, 4
    return weights * (zeroed + decoded + transposed + multiplied)


# --- The suspects, slow and mended ------------------------------------------------------------------------


@njit(cache=True)
def rotate_with_trig(x, first, theta, out):
    """Rotate x, float32 [T, heads, head_dim], of positions `first` on: pow, cos and sin for every pair."""
    T, heads, head_dim = x.shape
    for t in range(T):
        for h in range(heads):
            for i in range(head_dim // 2):
                angle = (first + t) * math.pow(theta, -2.0 * scalar(i) / head_dim)
                cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
                even, odd = x[t, h, 2 * i], x[t, h, 2 * i + 1]
                out[t, h, 2 * i] = even * cos - odd * sin
                out[t, h, 2 * i + 1] = even * sin + odd * cos


@njit(cache=True)
def rotate_with_table(x, cos, sin, out):
    """Rotate x, float32 [T, heads, head_dim], by cos and sin, float32 [T, head_dim / 2]."""
    T, heads, head_dim = x.shape
    for t in range(T):
        for h in range(heads):
            for i in range(head_dim // 2):
                even, odd = x[t, h, 2 * i], x[t, h, 2 * i + 1]
                out[t, h, 2 * i] = even * cos[t, i] - odd * sin[t, i]
                out[t, h, 2 * i + 1] = even * sin[t, i] + odd * cos[t, i]


@njit(cache=True)
def norm_in_steps(x, weight, eps, squares, normed, out):
    """RMS norm of each row of x, float32 [T, dim]: three loops, a tensor for the result of each."""
    T, dim = x.shape
    for t in range(T):
        total = np.float32(0)
        for i in range(dim):
            squares[t, i] = x[t, i] * x[t, i]
            total += squares[t, i]
        for i in range(dim):
            normed[t, i] = x[t, scalar(i)] / np.sqrt(total / np.float32(dim) + eps)
        for i in range(dim):
            out[t, i] = normed[t, scalar(i)] * weight[i]


@njit(cache=True, fastmath={"reassoc", "contract", "nsz"})
def norm_at_once(x, weight, eps, out):
    """RMS norm of each row of x, float32 [T, dim]: one division, and only the result is written."""
    T, dim = x.shape
    for t in range(T):
        total = np.float32(0)
        for i in range(dim):
            total += x[t, i] * x[t, i]
        scale = np.float32(1) / np.sqrt(total / np.float32(dim) + eps)
        for i in range(dim):
            out[t, i] = x[t, i] * scale * weight[i]


@njit(cache=True)
def swiglu_in_steps(gate, up, negated, power, below, quotient, out):
    """silu(gate) * up, float32 [T, ffn_dim]: five loops, a tensor for the result of each."""
    T, ffn_dim = gate.shape
    for t in range(T):
        for i in range(ffn_dim):
            negated[t, i] = -gate[t, scalar(i)]
        for i in range(ffn_dim):
            power[t, i] = math.exp(negated[t, scalar(i)])
        for i in range(ffn_dim):
            below[t, i] = np.float32(1) + power[t, scalar(i)]
        for i in range(ffn_dim):
            quotient[t, i] = gate[t, scalar(i)] / below[t, i]
        for i in range(ffn_dim):
            out[t, i] = quotient[t, scalar(i)] * up[t, i]


@njit(cache=True)
def swiglu_at_once(gate, up, out):
    """silu(gate) * up, float32 [T, ffn_dim], in one loop."""
    T, ffn_dim = gate.shape
    for t in range(T):
        for i in range(ffn_dim):
            out[t, i] = gate[t, i] / (np.float32(1) + math.exp(-gate[t, i])) * up[t, i]


@njit(cache=True)
def copy_head(cached, head, out):
    """Copy a head's keys or values, cached float32 [S, n_kv_heads, head_dim] to out float32 [S, head_dim]."""
    for s in range(cached.shape[0]):
        for i in range(cached.shape[2]):
            out[s, i] = cached[s, head, scalar(i)]


@njit(cache=True)
def softmax(scores, weights):
    """Fill weights, float32 [S], with the softmax of scores, float32 [S]."""
    largest, total = scores.max(), np.float32(0)
    for s in range(scores.size):
        weights[s] = math.exp(scores[s] - largest)
        total += weights[s]
    for s in range(scores.size):
        weights[s] /= total


@njit(cache=True)
def attend_in_steps(q, keys, values, scores, weights, out):
    """Fill out, float32 [head_dim], for one query and one head's keys and values, float32 [S, head_dim]."""
    S, head_dim = keys.shape
    for s in range(S):
        scores[s] = phase0_baseline.dot(q, keys[s]) / np.sqrt(np.float32(head_dim))
    softmax(scores, weights)
    for i in range(head_dim):
        total = np.float32(0)
        for s in range(S):
            total += weights[s] * values[s, i]
        out[i] = total


@njit(cache=True, fastmath={"reassoc", "contract", "nsz"})
def attend_at_once(q, keys, values, scores, out):
    """Fill out, float32 [T, n_heads, head_dim], from q of that shape and the cache as it lies.

    keys, values float32 [S, n_kv_heads, head_dim]; the queries are the last T of the S tokens.
    """
    T, n_heads, head_dim = q.shape
    S, n_kv_heads, _ = keys.shape
    scale = np.float32(1) / np.sqrt(np.float32(head_dim))
    for t in range(T):
        seen = S - T + t + 1
        for h in range(n_heads):
            kv = h // (n_heads // n_kv_heads)
            for s in range(seen):
                scores[s] = fused_rows.dot(q[t, h], keys[s, kv]) * scale
            softmax(scores[:seen], scores[:seen])
            out[t, h] = 0
            for s in range(seen):
                for i in range(head_dim):
                    out[t, h, i] += scores[s] * values[s, kv, i]


@njit(cache=True)
def add(x, y, out):
    """Fill out with x + y, float32 [T, dim] each."""
    for t in range(x.shape[0]):
        for i in range(x.shape[1]):
            out[t, i] = x[t, scalar(i)] + y[t, i]


# --- Where tensors come from, and where decoded matrices stay ---------------------------------------------


class Tensors:
    """Makes tensors. Go hands out zeroed memory, so a new one is zeroed; one that is taken up again is not.

    A tensor is the front of a buffer. Sizes of small buffers are powers of two, so that a tensor that grows
    with the text finds one as well.
    """

    def __init__(self, reuse: bool, work: Work, record: Recorder):
        self.reuse, self.work, self.record = reuse, work, record
        self.spare: dict[int, list[np.ndarray]] = defaultdict(list)

    def new(self, *shape: int) -> np.ndarray:
        """Return a tensor, float32 of this shape."""
        size = math.prod(shape)
        room = 1 << (size - 1).bit_length() if self.reuse and size < SMALL else size
        with self.record("allocations"):
            buffer = self.spare[room].pop() if self.spare[room] else self._buffer(room)
        return buffer[:size].reshape(shape)

    def free(self, *tensors: np.ndarray) -> None:
        """Say that nobody needs these any more, tensors made here or views of them."""
        if self.reuse:
            for tensor in tensors:
                self.spare[tensor.base.size].append(tensor.base)

    def _buffer(self, room):
        buffer = np.empty(room, np.float32)
        buffer.fill(0)
        self.record.allocated(buffer.nbytes)
        self.work.tensors += 1
        self.work.tensor_bytes += buffer.nbytes
        return buffer


class LRU:
    """Keeps tensors, at most `capacity` bytes of them; the one that was used the longest ago goes first."""

    def __init__(self, capacity: float):
        self.capacity, self.nbytes = capacity, 0
        self.kept: OrderedDict[str, np.ndarray] = OrderedDict()

    def get(self, name: str) -> np.ndarray | None:
        """Return a tensor, and count it as used; None if it is not here."""
        if name in self.kept:
            self.kept.move_to_end(name)
        return self.kept.get(name)

    def make_room(self, nbytes: int) -> list[np.ndarray]:
        """Drop tensors until so many bytes fit; return them. What can never fit drops nothing."""
        dropped = []
        while self.kept and nbytes <= self.capacity < self.nbytes + nbytes:
            dropped.append(self.kept.popitem(last=False)[1])
            self.nbytes -= dropped[-1].nbytes
        return dropped

    def put(self, name: str, tensor: np.ndarray) -> bool:
        """Keep a tensor; False if there is no room for it."""
        if self.nbytes + tensor.nbytes > self.capacity:
            return False
        self.kept[name] = tensor
        self.nbytes += tensor.nbytes
        return True


def lru_hit_rate(accesses: list[str], sizes: dict[str, float], capacity: float) -> float:
    """Return the share of accesses that a least-recently-used cache answers; it is empty at first.

    sizes {name: bytes}; what is larger than the whole cache is not kept.
    """
    kept, used, hits = [], 0, 0  # kept: from the longest ago to the latest
    for name in accesses:
        if name in kept:
            hits += 1
            kept.remove(name)
            kept.append(name)
        elif sizes[name] <= capacity:
            while used + sizes[name] > capacity:
                used -= sizes[kept.pop(0)]
            kept.append(name)
            used += sizes[name]
    return hits / len(accesses)


def keep_first_hit_rate(accesses: list[str], sizes: dict[str, float], capacity: float) -> float:
    """Return the share of accesses that a cache answers that keeps what comes first and never lets go."""
    kept, used, hits = set(), 0, 0
    for name in accesses:
        if name in kept:
            hits += 1
        elif used + sizes[name] <= capacity:
            kept.add(name)
            used += sizes[name]
    return hits / len(accesses)


class Past:
    """Keys and values of the tokens so far, float32 [S, n_kv_heads, head_dim] for each layer.

    Either copied into new tensors whenever a token comes, or written behind each other into tensors that
    have room for `capacity` tokens.
    """

    def __init__(self, n_layers: int, n_kv_heads: int, head_dim: int, capacity: int | None):
        self.length, self.grows = 0, capacity is None
        shape = (2, n_layers, capacity or 0, n_kv_heads, head_dim)
        self.both = [list(layers) for layers in np.zeros(shape, np.float32)]

    def put(self, layer: int, both: tuple[np.ndarray, np.ndarray], tensors: Tensors, work: Work) -> None:
        """Store new keys and values, float32 [T, n_kv_heads, head_dim], behind those of this layer."""
        for kind, new in enumerate(both):
            kept, end = self.both[kind][layer], self.length + len(new)
            if self.grows:
                longer = tensors.new(end, *new.shape[1:])
                longer[: self.length] = kept[: self.length]
                self.both[kind][layer] = longer
                work.bytes_concatenated += longer.nbytes
                if len(kept):
                    tensors.free(kept)
            self.both[kind][layer][self.length : end] = new

    def get(self, layer: int, n_tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """Return keys and values, float32 [n_tokens, n_kv_heads, head_dim]."""
        return self.both[0][layer][:n_tokens], self.both[1][layer][:n_tokens]


# --- The engine -------------------------------------------------------------------------------------------


class SlowEngine:
    """The report's engine over a loaded model, with some of its parts mended.

    matrices   {name: QuantizedMatrix} in the order in which a token meets them: "0.attn_q", ..., "output"
    work       what it did so far, counted
    record     a Recorder, or what stands in its place where no time is taken
    """

    def __init__(self, model: Model, fixes: Iterable[str] = (), record: Recorder | None = None):
        """Raise ValueError for a fix that is not one of FIXES, UnsupportedError unless a plain llama."""
        self.fixes = frozenset(fixes)
        if not self.fixes <= set(FIXES):
            raise ValueError(f"fixes: expected some of {', '.join(FIXES)}, got {sorted(self.fixes)}")
        if not _is_plain_llama(model):
            raise UnsupportedError(f"{model}: supported here: llama without biases and without scaled RoPE")
        self.model, self.config, self.weights = model, model.config, model.transformer
        self.matrices = _matrices(self.weights)
        self.work, self.record = Work(), record or OFF
        self.tensors = Tensors("allocations" in self.fixes, self.work, self.record)
        self.decoded = LRU(math.inf if "dequantize" in self.fixes else CACHE_SHARE * self.float32_bytes)
        c = self.config
        self.frequencies = rope.frequencies(c.head_dim, c.rope_theta)

    @property
    def float32_bytes(self) -> int:
        """Bytes of all these matrices once decoded."""
        return sum(4 * math.prod(w.shape) for w in self.matrices.values())

    def new_past(self) -> Past:
        """Return an empty cache of keys and values."""
        c = self.config
        capacity = c.context_length if "kv_cache" in self.fixes else None
        return Past(c.n_layers, c.n_kv_heads, c.head_dim, capacity)

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Return the logits after each of ids, float32 [T, vocab], from an empty cache."""
        return self._project(self._pass(ids, self.new_past()))

    def generate(self, ids: Sequence[int], max_tokens: int) -> Iterator[int]:
        """Yield up to max_tokens ids that continue `ids`, greedily; a stop token ends it."""
        past = self.new_past()
        for _ in range(max_tokens):
            choice = self.next_token(ids, past)
            if choice in self.model.tokenizer.stop_tokens:
                return
            yield choice
            ids = [choice]

    def next_token(self, ids: Sequence[int], past: Past) -> int:
        """Run ids behind the tokens of `past`; return the likeliest id after them."""
        with self.record("token"):
            x = self._pass(ids, past)
            logits = self._project(x[-1:])
            self.tensors.free(x, logits)
            return int(logits[0].argmax())

    def _pass(self, ids, past):
        ids = self.weights.check_ids(ids)
        if past.length + len(ids) > self.config.context_length:
            raise ValueError(f"{past.length + len(ids)} tokens, at most {self.config.context_length} fit")
        with self.record("embedding"):
            x = self.tensors.new(len(ids), self.config.dim)
            x[:] = self.weights.token_embd.rows(ids)
        angles = self._angles(past.length, len(ids))
        for i, layer in enumerate(self.weights.layers):
            with self.record("attention block"):
                x = self._add(x, self._attention_block(i, layer, x, past, angles))
            with self.record("feed-forward block"):
                x = self._add(x, self._feed_forward(i, layer, x))
        past.length += len(ids)
        return x

    def _project(self, x):
        with self.record("logits"):
            h = self._norm(x, self.weights.output_norm)
            out = self.matmul(h, "output")
            self.tensors.free(h)
            return out

    def _attention_block(self, i, layer, x, past, angles):
        c, T, new = self.config, len(x), self.tensors
        h = self._norm(x, layer.attn_norm)
        q = self.matmul(h, f"{i}.attn_q").reshape(T, c.n_heads, c.head_dim)
        k = self.matmul(h, f"{i}.attn_k").reshape(T, c.n_kv_heads, c.head_dim)
        v = self.matmul(h, f"{i}.attn_v").reshape(T, c.n_kv_heads, c.head_dim)
        turned_q, turned_k = (self._rope(heads, past.length, angles) for heads in (q, k))
        with self.record("kv_cache"):
            past.put(i, (turned_k, v), new, self.work)
        mixed = self._attend(turned_q, *past.get(i, past.length + T))
        out = self.matmul(mixed.reshape(T, -1), f"{i}.attn_output")
        new.free(h, q, k, v, turned_q, turned_k, mixed)
        return out

    def _feed_forward(self, i, layer, x):
        h = self._norm(x, layer.ffn_norm)
        gate = self.matmul(h, f"{i}.ffn_gate")
        up = self.matmul(h, f"{i}.ffn_up")
        mixed = self._swiglu(gate, up)
        out = self.matmul(mixed, f"{i}.ffn_down")
        self.tensors.free(h, gate, up, mixed)
        return out

    def matmul(self, x: np.ndarray, name: str) -> np.ndarray:
        """Return x @ W.T, float32 [T, N], for x float32 [T, K] and the matrix called `name`."""
        with self.record("matmul"):
            (N, K), T = self.matrices[name].shape, len(x)
            B = self._decoded(name, self.matrices[name])
            if "transpose" not in self.fixes:
                Bt = self.tensors.new(N, K)
                with self.record("transpose"):
                    phase0_baseline.transpose(B.reshape(K, N), Bt)
                self.work.bytes_transposed += Bt.nbytes
                self.tensors.free(Bt)
            out = self.tensors.new(T, N)
            with self.record("dot"):
                if "dot" in self.fixes:
                    multiply_fast(x, B.reshape(N, K), out)
                else:
                    multiply_in_order(x, B.reshape(N, K), out)
            self.work.multiply_adds += T * N * K
            if name not in self.decoded.kept:
                self.tensors.free(B)
            return out

    def _decoded(self, name, w):
        """Return the weights of a matrix, float32 [N * K], from the cache or decoded."""
        B = self.decoded.get(name)
        if B is not None:
            self.work.cache_hits += 1
            return B
        self.work.cache_misses += 1
        size = math.prod(w.shape)
        self.tensors.free(*self.decoded.make_room(4 * size))
        B = self.tensors.new(size)
        with self.record("dequantize"):
            slow_decoder(w.format)(w.raw.reshape(-1), B)
        self.work.weights_decoded += size
        self.decoded.put(name, B)
        return B

    def _norm(self, x, weight):
        with self.record("layer_norm"):
            eps, out = np.float32(self.config.norm_eps), self.tensors.new(*x.shape)
            if "layer_norm" in self.fixes:
                norm_at_once(x, weight, eps, out)
            else:
                steps = [self.tensors.new(*x.shape) for _ in range(2)]
                norm_in_steps(x, weight, eps, *steps, out)
                self.tensors.free(*steps)
            return out

    def _rope(self, x, first, angles):
        with self.record("rope"):
            (T, heads, head_dim), out = x.shape, self.tensors.new(*x.shape)
            if angles:
                rotate_with_table(x, *angles, out)
            else:
                rotate_with_trig(x, first, self.config.rope_theta, out)
                self.work.trig_calls += 3 * T * heads * head_dim // 2
            return out

    def _angles(self, first, T):
        """Return cos and sin, float32 [T, head_dim / 2], for all layers; None if each head finds its own."""
        if "rope" not in self.fixes:
            return None
        with self.record("rope"):
            self.work.trig_calls += 2 * T * self.frequencies.size
            return rope.angles(np.arange(first, first + T), self.frequencies)

    def _attend(self, q, keys, values):
        with self.record("attention"):
            n_heads, S = q.shape[1], len(keys)
            out = self.tensors.new(*q.shape)
            if "attention" in self.fixes:
                scores = self.tensors.new(S)
                attend_at_once(q, keys, values, scores, out)
                self.tensors.free(scores)
                return out
            for h in range(n_heads):
                self._attend_head(q[:, h], keys, values, h // (n_heads // keys.shape[1]), out[:, h])
            return out

    def _attend_head(self, q, keys, values, kv, out):
        """Fill out, float32 [T, head_dim], for the queries of a head, from copies of its keys and values."""
        S, T = len(keys), len(q)
        copies = [self.tensors.new(S, keys.shape[2]) for _ in range(2)]
        copy_head(keys, kv, copies[0])
        copy_head(values, kv, copies[1])
        scores, weights = self.tensors.new(S), self.tensors.new(S)
        for t in range(T):
            n = S - T + t + 1
            attend_in_steps(q[t], copies[0][:n], copies[1][:n], scores[:n], weights[:n], out[t])
        self.tensors.free(*copies, scores, weights)

    def _swiglu(self, gate, up):
        with self.record("swiglu"):
            out = self.tensors.new(*gate.shape)
            if "swiglu" in self.fixes:
                swiglu_at_once(gate, up, out)
            else:
                steps = [self.tensors.new(*gate.shape) for _ in range(4)]
                swiglu_in_steps(gate, up, *steps, out)
                self.tensors.free(*steps)
            return out

    def _add(self, x, y):
        with self.record("add"):
            out = self.tensors.new(*x.shape)
            add(x, y, out)
            self.tensors.free(x, y)
            return out


def _is_plain_llama(model):
    c, weights = model.config, model.transformer.weights
    return (
        c.architecture == "llama"
        and rope.attention_factor(c.rope_scaling) == 1
        and np.array_equal(weights.rope_frequencies, rope.frequencies(c.head_dim, c.rope_theta))
        and not (c.window or c.n_experts)
        and all(w is None for x in weights.layers for name, w in vars(x).items() if name.endswith("_bias"))
    )


def _matrices(weights):
    kinds = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    layers = enumerate(weights.layers)
    found = {f"{i}.{kind}": getattr(layer, kind) for i, layer in layers for kind in kinds}
    return found | {"output": weights.output}


# --- One token, to be timed -------------------------------------------------------------------------------


def one_token(engine: SlowEngine, ids: Sequence[int]) -> Callable[[], int]:
    """Return a function that runs the last of ids, behind the others, and then forgets it again."""
    past = engine.new_past()
    engine.next_token(ids[:-1], past)

    def run() -> int:
        choice = engine.next_token(ids[-1:], past)
        past.length -= 1
        return choice

    return run


def count_token(engine: SlowEngine, ids: Sequence[int]) -> Work:
    """Return the work of the last of ids behind the others, once the same token has been run before."""
    run = one_token(engine, ids)
    run()
    before = replace(engine.work)
    run()
    return Work(*(getattr(engine.work, f.name) - getattr(before, f.name) for f in fields(Work)))


def profile(model: Model, ids: Sequence[int], repeats: int, seconds: float = bench.BUDGET) -> list[Stage]:
    """Return where SlowEngine's time goes for the last of ids behind the others, once for each repeat."""
    record, tokens = Recorder(), []
    run = one_token(SlowEngine(model, record=record), ids)
    for n in budget.rounds(repeats, seconds):
        record.clear()
        run()
        if n:  # the first one compiles
            tokens.append(record["token"])
    return tokens


def in_order(
    matrices: Mapping[str, QuantizedMatrix], multiply: Callable[[np.ndarray, str], object]
) -> Callable[[], None]:
    """Return a function that multiplies one row with each matrix, by name, in the order of a token.

    One matrix called again and again would stay in every cache, SlowEngine's own among them.
    """
    rng = np.random.default_rng(0)
    rows = {w.shape[1]: rng.standard_normal((1, w.shape[1]), np.float32) for w in matrices.values()}

    def run() -> None:
        for name, w in matrices.items():
            multiply(rows[w.shape[1]], name)

    return run


def product_steps(w: QuantizedMatrix) -> dict[str, Callable]:
    """Return the steps of the report's product with one row, {name: function}, each by itself."""
    N, K = w.shape
    x, out = np.ones((1, K), np.float32), np.empty((1, N), np.float32)
    B, Bt = np.zeros(N * K, np.float32), np.zeros((N, K), np.float32)
    fill = slow_decoder(w.format)
    return {
        "transpose": lambda: phase0_baseline.transpose(B.reshape(K, N), Bt),
        "dequantize": lambda: fill(w.raw.reshape(-1), B),
        "allocations": lambda: [np.empty(N * K, np.float32).fill(0) for _ in range(2)],
        "dot": lambda: phase0_baseline.multiply_rows(x, B.reshape(N, K), 0, 1, out),
    }


def engine_tokens(model: Model, ids: Sequence[int], n_tokens: int) -> Callable[[], None]:
    """Return a function that lets Model.generate go on by n_tokens; the first call continues `ids`.

    Stop tokens are never chosen, so that it goes on until the context is full, and then begins anew.
    """
    greedy, stop = Sampler(), model.tokenizer.stop_tokens

    def sampler(logits, history):
        choice = greedy(logits, history)
        return ids[-1] if choice in stop else choice

    def texts():
        while True:
            yield from model.generate(ids, model.config.context_length - len(ids), sampler)

    tokens = texts()
    next(tokens)  # reads the prompt

    def run() -> None:
        for _ in range(n_tokens):
            next(tokens)

    return run


def rate(seconds: float) -> str:
    """Return how many tokens a second that is, three digits or a whole number."""
    per_second = 1 / seconds
    return f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:.3g}"


ORDERS = {  # groups of fixes, one after the other
    "suspects first": (SUSPECTS, *((fix,) for fix in CULPRITS)),
    "suspects last": (*((fix,) for fix in CULPRITS[::-1]), SUSPECTS),
}


def made_along(order: Iterable[Iterable[str]]) -> list[frozenset]:
    """Return what is mended before the first group of an order, and after each."""
    return [frozenset(), *accumulate(map(frozenset, order), frozenset.union)]


def measure(
    model: Model,
    ids: Sequence[int],
    variants: Iterable[frozenset],
    repeats: int,
    n_tokens: int = 8,
    seconds: float = bench.BUDGET,
) -> dict[frozenset | str, bench.Timing]:
    """Time the last of ids in an engine for each set of fixes, in turn with Model.generate, as "ours".

    Ours runs n_tokens at a time; its seconds are those of one.
    """
    functions: dict[frozenset | str, Callable] = {
        fixes: one_token(SlowEngine(model, fixes), ids) for fixes in dict.fromkeys(variants)
    }
    functions["ours"] = engine_tokens(model, ids, n_tokens)
    timings = bench.interleaved(functions, repeats, seconds)
    t = timings["ours"]
    each = {what: getattr(t, what) / n_tokens for what in ("first", "median", "low", "high")}
    return timings | {"ours": replace(t, **each)}


def paired(
    model: Model,
    ids: Sequence[int],
    variants: Mapping[str, Iterable[str]],
    repeats: int,
    seconds: float = bench.BUDGET,
) -> dict[str, tuple[float, float, float]]:
    """Return {name: (low, median, high)}: how many times faster a set of fixes makes the last of ids.

    Median and quartiles. Each run follows one of SlowEngine, with which it is compared: what disturbs one
    disturbs the other as well, so that small gains can be seen.
    """
    slow = one_token(SlowEngine(model), ids)
    runs = {name: one_token(SlowEngine(model, fixes), ids) for name, fixes in variants.items()}
    ratios: dict[str, list[float]] = {name: [] for name in runs}
    with budget.progress((repeats + 1) * len(runs), "measuring") as bar:
        for n in budget.rounds(repeats, seconds):
            for name, run in runs.items():
                start = budget.clock()
                slow()
                middle = budget.clock()
                run()
                if n:  # the first one compiles
                    ratios[name].append((middle - start) / (budget.clock() - middle))
                bar.update()
    return {name: tuple(map(float, np.percentile(found, (25, 50, 75)))) for name, found in ratios.items()}


def steps(times: Mapping[frozenset | str, float], order: Iterable[Iterable[str]]) -> list[tuple[str, float]]:
    """Return (label, time before / time after) for each group of an order, and for the last step, to ours."""
    labels = ["six suspects" if len(group) > 1 else LABELS[group[0]] for group in order]
    made = made_along(order)
    factors = [times[before] / times[after] for before, after in pairwise(made)]
    return [*zip(labels, factors, strict=True), ("blocks, no float32", times[made[-1]] / times["ours"])]
