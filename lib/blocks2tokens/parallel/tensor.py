"""Tensor parallel: rows over ranks. Each has some heads and some neurons of every layer.

    attn_q, attn_k, attn_v     rows, by heads that share a key         q, k, v of these heads
    attn_output                columns of these heads                  a part of the sum, float32 [T, dim]
                                                                       all-reduce: the sum, on all ranks
    ffn_gate, ffn_up           rows, some neurons
    ffn_down                   columns of these neurons                a part of the sum
                                                                       all-reduce
    output                     rows, some tokens                       all-reduce: the logits, float32 [vocab]

Rows are cut anywhere, columns only between two blocks. A cut by columns is a copy of the share; by rows, a
view of the mapped file. Two all-reduces a layer, of T * dim floats each, and every rank waits in all of them.

The parts of a sum are added in another order than in one process, and rounded activations have other blocks:
the logits are close to those of one process, not equal. Written for reading, in NumPy over the engine's
products. Source of the cut: Shoeybi et al., "Megatron-LM", 2019.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from blocks2tokens.errors import UnsupportedError
from blocks2tokens.generate import Model
from blocks2tokens.jit import cores
from blocks2tokens.kernels import matmul
from blocks2tokens.matrix import QuantizedMatrix
from blocks2tokens.model import KVCache
from blocks2tokens.model.attention import attend
from blocks2tokens.model.layers import GATES, plus, rms_norm, softcap
from blocks2tokens.model.rope import ROTATE, angles, attention_factor
from blocks2tokens.model.weights import Layer
from blocks2tokens.parallel.ranks import Ranks, digest
from blocks2tokens.parallel.shares import cut_columns
from blocks2tokens.sampler import Sampler

BATCH = 512  # tokens of a prompt that go through together
BY_ROWS = {"attn_q": "q", "attn_k": "kv", "attn_v": "kv", "ffn_gate": "ffn", "ffn_up": "ffn"}
BY_COLUMNS = {"attn_output": "q", "ffn_down": "ffn"}


def rows_of(w: QuantizedMatrix, share: slice) -> QuantizedMatrix:
    """Return some rows of a matrix: a view."""
    raw = w.raw[share]
    return QuantizedMatrix(raw, w.format, (len(raw), w.shape[1]))


def columns_of(w: QuantizedMatrix, share: slice) -> QuantizedMatrix:
    """Return some columns of a matrix, a copy; ValueError for a cut within a block."""
    block, size = w.format.block_size, w.format.bytes_per_block
    if share.start % block or share.stop % block:
        raise ValueError(f"columns: expected a cut at a multiple of {block}, got {share.start}, {share.stop}")
    raw = np.ascontiguousarray(w.raw[:, share.start // block * size : share.stop // block * size])
    return QuantizedMatrix(raw, w.format, (w.shape[0], share.stop - share.start))


def share_of_layer(layer: Layer, own: dict[str, slice], is_first: bool) -> Layer:
    """Return a layer with some of its heads and neurons; `own`: {"q": rows of Q, "kv": ..., "ffn": ...}.

    The biases of what is summed up are the first rank's alone.
    """
    cut = {name: rows_of(getattr(layer, name), own[part]) for name, part in BY_ROWS.items()}
    cut |= {name: columns_of(getattr(layer, name), own[part]) for name, part in BY_COLUMNS.items()}
    for name, part in BY_ROWS.items():
        bias = getattr(layer, f"{name}_bias")
        cut[f"{name}_bias"] = None if bias is None else bias[own[part]]
    if not is_first:
        cut |= {f"{name}_bias": None for name in BY_COLUMNS}
    if layer.attn_sinks is not None:
        cut["attn_sinks"] = layer.attn_sinks[own["heads"]]
    return replace(layer, **cut)


class TensorParallel:
    """A model whose heads and neurons are spread over ranks; generates on all ranks at once, as a Model."""

    def __init__(self, model: Model, ranks: Ranks):
        """Cut out this rank's share.

        Raises ValueError, on all ranks, for files that differ and for more ranks than there are places to
        cut, UnsupportedError for a mixture of experts.
        """
        self.identity = digest(model.file.paths)
        ranks.check_same(f"{model.file.path}: SHA-256 of the file", self.identity)
        c, self.ranks, self.whole = model.config, ranks, model.transformer
        if c.n_experts:
            raise UnsupportedError(f"{model.file.path}: a mixture of experts is not cut by rows here")
        self.config, self.tokenizer = c, model.tokenizer
        own = _shares(self.whole, ranks)
        self.kv_heads = slice(own["kv"].start // c.head_dim, own["kv"].stop // c.head_dim)
        self.layers = [share_of_layer(layer, own, ranks.rank == 0) for layer in self.whole.layers]
        self.vocab, self.output = own["vocab"], rows_of(self.whole.output, own["vocab"])

    def new_cache(self, capacity: int) -> KVCache:
        """Return an empty cache for the keys and values of this rank's heads."""
        c, heads, frames = self.config, self.kv_heads, self.whole.key_frames
        own = None if frames is None else np.ascontiguousarray(frames[:, heads])
        shape = c.n_layers, heads.stop - heads.start, c.head_dim
        return KVCache(*shape, capacity, self.whole.cache_type, frames=own)

    def next_logits(self, ids: Sequence[int], cache: KVCache) -> np.ndarray:
        """Run ids behind the tokens of the cache; return the logits after the last, float32 [vocab]."""
        c = self.config
        with cores.one_blas_thread(), cores.using(self.whole.threads):
            end = cache.length + len(ids)
            while cache.length < end:
                some = ids[cache.length - end :][: cache.at_once(BATCH)]
                x = self._hidden(np.asarray(some), cache)
            logits = np.zeros((1, c.vocab_size), np.float32)
            x = rms_norm(x[-1:], self.whole.output_norm, c.norm_eps)
            logits[:, self.vocab] = softcap(matmul(x, self.output), c.logit_softcap)
            return self.ranks.add_up(logits)[0]

    def generate(self, ids: Sequence[int], max_tokens: int, sampler: Sampler | None = None) -> Iterator[int]:
        """Yield up to `max_tokens` ids that continue `ids`, on each rank; as `Model.generate`."""
        ids = [int(i) for i in self.whole.check_ids(ids)]
        capacity = len(ids) + max_tokens
        if capacity > self.config.context_length:
            raise ValueError(f"{capacity} tokens are more than the context of {self.config.context_length}")
        return self._generate(ids, max_tokens, sampler or Sampler(), self.new_cache(capacity))

    def _generate(self, ids, max_tokens, sampler, cache):
        for _ in range(max_tokens):
            logits = self.next_logits(ids[cache.length :], cache)
            token = self.ranks.told(sampler(logits, ids) if self.ranks.rank == 0 else None)
            if token in self.tokenizer.stop_tokens:
                return
            ids.append(token)
            yield token

    def _hidden(self, ids, cache) -> np.ndarray:
        """Return the stream behind the last layer, float32 [T, dim], the same on all ranks."""
        c, t, T = self.config, self.whole, len(ids)
        positions, factor = np.arange(cache.length, cache.length + T), attention_factor(c.rope_scaling)
        everywhere, local = (
            [np.float32(factor) * part for part in angles(positions, frequencies)]
            for frequencies in (t.weights.rope_frequencies, t.weights.local_rope_frequencies)
        )
        x = t.token_embd.rows(ids) * np.float32(c.embedding_scale)
        for i, w in enumerate(self.layers):
            h = rms_norm(x, w.attn_norm, c.norm_eps)
            h = self._attention(h, i, w, local if c.window_of(i) else everywhere, cache)
            x = x + self._summed(h, w.post_attention_norm)
            h = self._feed_forward(rms_norm(x, w.ffn_norm, c.norm_eps), w)
            x = x + self._summed(h, w.post_ffw_norm)
        cache.advance(T)
        return x

    def _summed(self, part, norm) -> np.ndarray:
        """Return the sum of what all ranks have, normalized where the family does that."""
        h = self.ranks.add_up(part)
        return h if norm is None else rms_norm(h, norm, self.config.norm_eps)

    def _attention(self, h, i, w, turns, cache) -> np.ndarray:
        """Return this rank's part of what attention adds, float32 [T, dim]."""
        c, T = self.config, len(h)

        def heads(name):
            made = plus(matmul(h, getattr(w, name)), getattr(w, f"{name}_bias"))
            return made.reshape(T, -1, c.head_dim)

        q, k, v = heads("attn_q"), heads("attn_k"), heads("attn_v")
        if c.family.head_norms:
            q, k = rms_norm(q, w.attn_q_norm, c.norm_eps), rms_norm(k, w.attn_k_norm, c.norm_eps)
        rotate = ROTATE[c.family.rope_pairs]
        cache.put(i, rotate(k, *turns), v)
        seen = cache.get(i, cache.length + T)
        rule = c.window_of(i), c.score_scale, c.attn_softcap, w.attn_sinks
        found = attend(rotate(q, *turns), *seen, *rule).reshape(T, -1)
        return plus(matmul(np.ascontiguousarray(found), w.attn_output), w.attn_output_bias)

    def _feed_forward(self, h, w) -> np.ndarray:
        """Return this rank's part of what its neurons add, float32 [T, dim]."""
        gate, up = (
            plus(matmul(h, m), b) for m, b in ((w.ffn_gate, w.ffn_gate_bias), (w.ffn_up, w.ffn_up_bias))
        )
        return plus(matmul(GATES[self.config.family.gate](gate, up), w.ffn_down), w.ffn_down_bias)


def _shares(whole, ranks: Ranks) -> dict[str, slice]:
    """Return this rank's rows of Q, of K and V, of gate and up, its heads, and its tokens' logits."""
    c = whole.config
    group = c.n_heads // c.n_kv_heads
    blocks = {name: max(getattr(w, name).format.block_size for w in whole.layers) for name in BY_COLUMNS}
    kv = cut_columns(c.n_kv_heads, group * c.head_dim, blocks["attn_output"], ranks.size)[ranks.rank]
    ffn = cut_columns(c.ffn_dim, 1, blocks["ffn_down"], ranks.size)[ranks.rank]
    vocab = cut_columns(c.vocab_size, 1, 1, ranks.size)[ranks.rank]
    heads = slice(kv.start * group, kv.stop * group)
    return {
        "heads": heads,
        "q": slice(heads.start * c.head_dim, heads.stop * c.head_dim),
        "kv": slice(kv.start * c.head_dim, kv.stop * c.head_dim),
        "ffn": slice(ffn.start, ffn.stop),
        "vocab": slice(vocab.start, vocab.stop),
    }
