"""BatchMemory: all that a pass over a batch of T tokens keeps in memory, planned, in one arena.

    buffer       shape                              from its first step to its last
    x            [T, dim]                           all: the residual stream
    cos, sin     [2, T, head_dim / 2]               all, for layers that see all and for those with a window
    raw          uint8 [T, row bytes]               the rows of the embedding
    attn_in      [T, dim]                           normalized, for Q, K and V
    q, k, v      [T, heads * head_dim]              k and v until they are in the cache
    attended     [T, n_heads * head_dim]
    rooms        [threads * floats]                 attention's memory, see `batch_attention.new_rooms`
    attn_out     [T, dim]                           until it is added to x
    ffn_in       [T, dim]
    gate, up     [T, ffn_dim]
    ffn_out      [T, dim]                           in a mixture the sum over its experts, and for one of them
    scores       [T, n_experts]                     expert_in, expert_out [T, dim]
    <matrix>'s   uint8                              scratch of a product, see `kernels.scratch`

float32 where nothing is said. Layers follow one another, so one is planned for all: each scratch is as large
as any layer wants it. The plan is for T rounded up to a power of two; of a buffer with fewer rows only the
first are touched, and memory that is not touched costs nothing.
"""

from collections.abc import Mapping
from math import prod

import numpy as np
from numba import get_num_threads

from blocks2tokens.kernels import autotune, scratch_bytes
from blocks2tokens.kernels.scratch import aligned
from blocks2tokens.model.arena import end_of, first_fit, lifetimes, new_block, peak_bytes
from blocks2tokens.model.batch_attention import floats_of_a_worker
from blocks2tokens.model.config import ModelConfig
from blocks2tokens.model.experts import Experts
from blocks2tokens.model.weights import Layer, Weights

ALWAYS = ("x", "cos", "sin")
ATTENTION = (
    ("attn_in",),
    ("attn_in", "q", "attn_q's"),
    ("attn_in", "q", "k", "attn_k's"),
    ("attn_in", "q", "v", "attn_v's"),
    ("q", "attended", "rooms"),
    ("attended", "attn_out", "attn_output's"),
    ("attn_out",),
)
FEED_FORWARD = (
    ("ffn_in",),
    ("ffn_in", "gate", "ffn_gate's"),
    ("ffn_in", "gate", "up", "ffn_up's"),
    ("gate", "up"),
    ("gate", "ffn_out", "ffn_down's"),
    ("ffn_out",),
)
MIXTURE = (
    ("ffn_in",),
    ("ffn_in", "scores", "ffn_gate_inp's"),
    ("ffn_in", "ffn_out", "scores"),  # from here on once for each expert
    ("ffn_in", "ffn_out", "expert_in"),
    ("ffn_in", "ffn_out", "expert_in", "gate", "ffn_gate's"),
    ("ffn_in", "ffn_out", "expert_in", "gate", "up", "ffn_up's"),
    ("ffn_in", "ffn_out", "gate", "up"),
    ("ffn_in", "ffn_out", "gate", "expert_out", "ffn_down's"),
    ("ffn_in", "ffn_out", "expert_out"),
    ("ffn_out",),
)


def steps_of(c: ModelConfig) -> list[tuple[str, ...]]:
    """Return the names of the buffers that each step of a pass uses: the embedding, and one layer."""
    feed_forward = MIXTURE if c.n_experts else FEED_FORWARD
    return [(*ALWAYS, "raw"), *((*ALWAYS, *names) for names in (*ATTENTION, *feed_forward))]


def shapes_of(weights: Weights, c: ModelConfig, T: int) -> dict[str, tuple[tuple[int, ...], type]]:
    """Return {buffer: (shape, dtype)} for T tokens."""
    floats = {"x": c.dim, "attn_in": c.dim, "attn_out": c.dim, "ffn_in": c.dim, "ffn_out": c.dim}
    floats |= {"q": c.n_heads * c.head_dim, "attended": c.n_heads * c.head_dim}
    floats |= dict.fromkeys(("k", "v"), c.n_kv_heads * c.head_dim)
    floats |= dict.fromkeys(("gate", "up"), c.ffn_dim)
    if c.n_experts:
        floats |= {"scores": c.n_experts, "expert_in": c.dim, "expert_out": c.dim}
    shapes = {name: ((T, columns), np.float32) for name, columns in floats.items()}
    turns = (2, T, len(weights.rope_frequencies)), np.float32
    shapes |= {"cos": turns, "sin": turns, "raw": ((T, weights.token_embd.raw.shape[1]), np.uint8)}
    room = floats_of_a_worker(c.n_heads, c.n_kv_heads, c.head_dim)
    shapes |= {"rooms": ((get_num_threads() * room,), np.float32)}
    return shapes | {name: ((n,), np.uint8) for name, n in _scratch(weights.layers, T).items()}


def _scratch(layers: list[Layer], T: int) -> dict[str, int]:
    """Return the bytes of scratch for each of a layer's matrices, the most that any layer wants."""
    found: dict[str, int] = {}
    sizes: dict[tuple, int] = {}  # layers are alike
    for layer in layers:
        for name, w in _matrices(layer).items():
            key = w.format, w.shape
            if key not in sizes:
                sizes[key] = scratch_bytes(w, T)
            found[name] = max(found.get(name, 0), sizes[key])
    return found


def _matrices(layer):
    """Return {its scratch's name: matrix}, of experts the first."""
    return {
        f"{name}'s": part[0] if isinstance(part, Experts) else part
        for name, part in vars(layer).items()
        if hasattr(part, "format")
    }


class Plan:
    """Where each buffer for up to T tokens lies; `nbytes` in all, of which `peak` are in use at one time."""

    def __init__(self, weights: Weights, c: ModelConfig, T: int):
        self.shapes = shapes_of(weights, c, T)
        self.lives = lifetimes(steps_of(c))
        self.sizes = {
            name: aligned(prod(shape) * np.dtype(dtype).itemsize)
            for name, (shape, dtype) in self.shapes.items()
        }
        self.offsets = first_fit(self.lives, self.sizes)
        self.nbytes, self.peak = end_of(self.offsets, self.sizes), peak_bytes(self.lives, self.sizes)

    def views(self, block: np.ndarray) -> dict[str, np.ndarray]:
        """Return {buffer: array} in block, uint8 [nbytes]."""
        return {
            name: np.ndarray(shape, dtype, block, self.offsets[name])
            for name, (shape, dtype) in self.shapes.items()
        }


class BatchMemory:
    """Memory for passes over batches: a block as large as the largest batch so far wants, and its plans."""

    def __init__(self, weights: Weights, c: ModelConfig):
        self.weights, self.config = weights, c
        self.block = new_block(0)
        self.plans: dict[tuple, Plan] = {}

    def plan(self, T: int) -> Plan:
        """Return the plan for a batch of T tokens, on this many threads and with the kernels chosen now."""
        size = 1 << (T - 1).bit_length()
        key = size, get_num_threads(), autotune.times_measured()
        if key not in self.plans:
            self.plans[key] = Plan(self.weights, self.config, size)
        return self.plans[key]

    def buffers(self, T: int) -> Mapping[str, np.ndarray]:
        """Return the buffers for T tokens, with at least so many rows; what they hold is left from before."""
        plan = self.plan(T)
        if plan.nbytes > self.block.size:
            self.block = new_block(0)  # the old one goes before there is another
            self.block = new_block(plan.nbytes)
        return plan.views(self.block)
