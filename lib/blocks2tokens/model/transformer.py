"""Transformer: the forward pass of the llama architecture over quantized weights.

    ids [T] -> x = token_embd[ids]                                              [T, dim]
    each layer
        h = rms_norm(x, attn_norm)
        q, k, v = h @ attn_q.T, h @ attn_k.T, h @ attn_v.T                      [T, heads, head_dim]
        x = x + attend(rope(q), rope(k), v) @ attn_output.T
        h = rms_norm(x, ffn_norm)
        x = x + swiglu(h @ ffn_gate.T, h @ ffn_up.T) @ ffn_down.T
    logits = rms_norm(x, output_norm) @ output.T                                [T, vocab]

Weights are views of the mapped file; nothing is decoded before a kernel needs it.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from threadpoolctl import ThreadpoolController

from blocks2tokens import formats
from blocks2tokens.errors import GGUFError, UnsupportedError
from blocks2tokens.gguf_file import GGUFFile
from blocks2tokens.kernels import matmul
from blocks2tokens.matrix import QuantizedMatrix
from blocks2tokens.model.attention import attend
from blocks2tokens.model.config import ModelConfig
from blocks2tokens.model.kv_cache import KVCache
from blocks2tokens.model.layers import rms_norm, rope, rope_angles, swiglu

PREFILL = 256  # tokens in one pass: bounds the scores, which grow as tokens x context


@dataclass(frozen=True)
class Layer:
    """The weights of one layer; matrices quantized, norms float32."""

    attn_norm: np.ndarray
    attn_q: QuantizedMatrix
    attn_k: QuantizedMatrix
    attn_v: QuantizedMatrix
    attn_output: QuantizedMatrix
    ffn_norm: np.ndarray
    ffn_gate: QuantizedMatrix
    ffn_up: QuantizedMatrix
    ffn_down: QuantizedMatrix


class Transformer:
    """A model's weights and its forward pass."""

    def __init__(self, file: GGUFFile, config: ModelConfig):
        """Find and check every tensor.

        GGUFError names one that is missing or has another shape; UnsupportedError one that the forward
        pass below would leave out, such as a bias: the logits would be wrong.
        """
        self.config = config
        find = _TensorFinder(file)
        self.token_embd = find.matrix("token_embd", config.vocab_size, config.dim)
        self.layers = [_layer(find, config, f"blk.{i}") for i in range(config.n_layers)]
        self.output_norm = find.vector("output_norm", config.dim)
        tied = "output.weight" not in file.tensors
        self.output = self.token_embd if tied else find.matrix("output", config.vocab_size, config.dim)
        find.refuse_unused()

    def new_cache(self, capacity: int) -> KVCache:
        """Return an empty cache for `capacity` tokens; ValueError beyond the model's context."""
        c = self.config
        if not 0 < capacity <= c.context_length:
            raise ValueError(f"capacity: expected 1 to {c.context_length} tokens, got {capacity}")
        return KVCache(c.n_layers, c.n_kv_heads, c.head_dim, capacity)

    def hidden(self, ids: np.ndarray, cache: KVCache) -> np.ndarray:
        """Run ids, int [T], behind the tokens of the cache; return the final stream, float32 [T, dim].

        Raises ValueError for an id outside the vocabulary or more tokens than the cache has room for.
        """
        ids = self.check_ids(ids)
        if cache.length + len(ids) > cache.capacity:
            raise ValueError(
                f"ids: {len(ids)} more tokens do not fit, {cache.length} of {cache.capacity} used"
            )
        with one_blas_thread():
            parts = [self._pass(ids[i : i + PREFILL], cache) for i in range(0, len(ids), PREFILL)]
        return np.concatenate(parts)

    def project(self, x: np.ndarray) -> np.ndarray:
        """Return the logits, float32 [T, vocab], of the final stream x, float32 [T, dim]."""
        with one_blas_thread():
            return matmul(rms_norm(x, self.output_norm, self.config.norm_eps), self.output)

    def check_ids(self, ids) -> np.ndarray:
        """Return ids as int64 [T]; ValueError unless all are whole numbers in the vocabulary."""
        array = np.asarray(ids)
        if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
            raise ValueError(f"ids: expected at least one token id in one dimension, got {ids!r}")
        bad = (array < 0) | (array >= self.config.vocab_size)
        if bad.any():
            where = int(bad.argmax())
            raise ValueError(
                f"ids: expected 0 <= id < {self.config.vocab_size}, got {array[where]} at position {where}"
            )
        return array.astype(np.int64)

    def _pass(self, ids: np.ndarray, cache: KVCache) -> np.ndarray:
        c = self.config
        positions = np.arange(cache.length, cache.length + len(ids))
        cos, sin = rope_angles(positions, c.head_dim, c.rope_theta)
        x = self.token_embd.rows(ids)
        for i, layer in enumerate(self.layers):
            x = x + self._attention(layer, i, rms_norm(x, layer.attn_norm, c.norm_eps), cos, sin, cache)
            x = x + _feed_forward(layer, rms_norm(x, layer.ffn_norm, c.norm_eps))
        cache.advance(len(ids))
        return x

    def _attention(self, layer, i, h, cos, sin, cache):
        c, T = self.config, len(h)
        q = matmul(h, layer.attn_q).reshape(T, c.n_heads, c.head_dim)
        k = matmul(h, layer.attn_k).reshape(T, c.n_kv_heads, c.head_dim)
        v = matmul(h, layer.attn_v).reshape(T, c.n_kv_heads, c.head_dim)
        cache.put(i, rope(k, cos, sin), v)
        out = attend(rope(q, cos, sin), *cache.get(i, cache.length + T))
        return matmul(out.reshape(T, -1), layer.attn_output)


@lru_cache
def _thread_pools() -> ThreadpoolController:
    return ThreadpoolController()


def one_blas_thread() -> AbstractContextManager:
    """Keep BLAS to one thread for a while.

    Its other threads spin while they wait, and so take the cores from Numba's and from everybody else:
    on two busy cores a pass over a prompt is several times slower with them.
    """
    return _thread_pools().limit(limits=1, user_api="blas")


def _feed_forward(layer, h):
    return matmul(swiglu(matmul(h, layer.ffn_gate), matmul(h, layer.ffn_up)), layer.ffn_down)


class _TensorFinder:
    """Looks up tensors by name and checks their shapes."""

    def __init__(self, file: GGUFFile):
        self.file = file
        self.unused = set(file.tensors)

    def find(self, name: str, shape: tuple):
        name = f"{name}.weight"
        info = self.file.tensors.get(name)
        if info is None:
            raise GGUFError(f"{self.file.path}: tensor {name} is missing")
        if info.shape != shape:
            raise GGUFError(f"{self.file.path}: tensor {name}: expected shape {shape}, got {info.shape}")
        self.unused.discard(name)
        return formats.by_ggml_type(info.ggml_type), self.file.raw(name)

    def matrix(self, name: str, n_out: int, n_in: int) -> QuantizedMatrix:
        fmt, raw = self.find(name, (n_out, n_in))
        return QuantizedMatrix(raw, fmt, (n_out, n_in))

    def vector(self, name: str, size: int) -> np.ndarray:
        fmt, raw = self.find(name, (size,))
        return fmt.dequantize(raw)

    def refuse_unused(self) -> None:
        if self.unused:
            raise UnsupportedError(
                f"{self.file.path}: tensor {min(self.unused)}: the forward pass here has no place for it"
            )


def _layer(find: _TensorFinder, c: ModelConfig, prefix: str) -> Layer:
    q_dim, kv_dim = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
    return Layer(
        attn_norm=find.vector(f"{prefix}.attn_norm", c.dim),
        attn_q=find.matrix(f"{prefix}.attn_q", q_dim, c.dim),
        attn_k=find.matrix(f"{prefix}.attn_k", kv_dim, c.dim),
        attn_v=find.matrix(f"{prefix}.attn_v", kv_dim, c.dim),
        attn_output=find.matrix(f"{prefix}.attn_output", c.dim, q_dim),
        ffn_norm=find.vector(f"{prefix}.ffn_norm", c.dim),
        ffn_gate=find.matrix(f"{prefix}.ffn_gate", c.ffn_dim, c.dim),
        ffn_up=find.matrix(f"{prefix}.ffn_up", c.ffn_dim, c.dim),
        ffn_down=find.matrix(f"{prefix}.ffn_down", c.dim, c.ffn_dim),
    )
