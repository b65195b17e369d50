"""Transformer: the forward pass over quantized weights.

    ids [T] -> x = token_embd[ids]                                              [T, dim]
    each layer
        h = rms_norm(x, attn_norm)
        q, k, v = h @ attn_q.T, h @ attn_k.T, h @ attn_v.T                      [T, heads, head_dim]
                  + biases (qwen2), rms_norm of each head of q and k (qwen3)
        x = x + attend(rotate(q), rotate(k), v) @ attn_output.T
        h = rms_norm(x, ffn_norm)
        x = x + swiglu(h @ ffn_gate.T, h @ ffn_up.T) @ ffn_down.T
    logits = rms_norm(x, output_norm) @ output.T                                [T, vocab]
    other families add to this: see `architectures`, and `forward` for all of it

Many tokens go through it in batches, `prefill`; one, or a few that were guessed, in one parallel region,
`decode`. Both compute the same; weights are views of the mapped file, and nothing is decoded before a kernel
needs it.
"""

import threading
from collections.abc import Sequence
from numbers import Integral

import numpy as np
from tqdm import tqdm

from blocks2tokens.gguf_file import GGUFFile
from blocks2tokens.jit import cores
from blocks2tokens.kernels import matmul
from blocks2tokens.model import key_frame
from blocks2tokens.model.config import ModelConfig
from blocks2tokens.model.decode import POSITION, TOKEN, Decoder
from blocks2tokens.model.interrupt import interrupts_wait
from blocks2tokens.model.kv_cache import KVCache, check_type, pool_of
from blocks2tokens.model.layers import rms_norm, softcap
from blocks2tokens.model.pages import PagePool
from blocks2tokens.model.prefill import run_batch
from blocks2tokens.model.weights import Weights

PREFILL = 512  # tokens in one batch
MOST_ROWS = 16  # in one pass of several rows
FEW = 48  # ids that passes of so many rows run sooner than a batch, whose products wait for each other


class Transformer:
    """A model's weights and its forward pass."""

    def __init__(
        self,
        file: GGUFFile,
        config: ModelConfig,
        cache: str = "float32",
        threads: int | None = None,
        text: Sequence[int] | None = None,
    ):
        """Find and check every tensor; GGUFError and UnsupportedError as in `Weights`.

        `cache` is the type of new caches: "float32", "float16", "q8_0" or "q4_0"; ValueError for another,
        UnsupportedError for heads that are not made of its blocks. Every pass runs on `threads` threads,
        None: on Numba's; ValueError for a number that `cores.checked` refuses. `text` are ids of some text:
        on them it is found what keys have in common, see `key_frame`.
        """
        check_type(cache, config.head_dim)
        self.config, self.cache_type = config, cache
        self.pool = pool_of(config.n_layers, config.n_kv_heads, config.head_dim, cache)
        self.threads = cores.checked(threads)
        self._key_frames: np.ndarray | None = None
        self._text = text
        self._lock = threading.Lock()
        self.weights = Weights(file, config)

    token_embd = property(lambda self: self.weights.token_embd)
    layers = property(lambda self: self.weights.layers)
    output_norm = property(lambda self: self.weights.output_norm)
    output = property(lambda self: self.weights.output)

    def new_cache(self, capacity: int, pool: PagePool | None = None) -> KVCache:
        """Return an empty cache for `capacity` tokens; ValueError beyond the model's context.

        Its pages come from `pool`, None: the model's own.
        """
        c = self.config
        if not isinstance(capacity, Integral) or not 0 < capacity <= c.context_length:
            raise ValueError(f"capacity: expected 1 to {c.context_length} tokens, got {capacity!r}")
        shape = c.n_layers, c.n_kv_heads, c.head_dim
        return KVCache(*shape, capacity, self.cache_type, pool or self.pool, self.key_frames)

    @property
    def key_frames(self) -> np.ndarray | None:
        """What the keys of each head have in common, see `key_frame`: found when it is first needed, in q4_0.

        That takes a pass over a few hundred tokens; None for caches of the other types.
        """
        if self.cache_type != "q4_0":
            return None
        with self._lock:
            if self._key_frames is None:
                with interrupts_wait() as let_through, cores.one_blas_thread(), cores.using(self.threads):
                    self._key_frames = key_frame.measured(self.weights, self.config, self._text, let_through)
        return self._key_frames

    def hidden(self, ids: np.ndarray, cache: KVCache) -> np.ndarray:
        """Run ids, int [T], behind the tokens of the cache; return the final stream, float32 [T, dim].

        Raises ValueError for an id outside the vocabulary or more tokens than the cache has room for.
        """
        ids = self._checked(ids, cache)
        with cache.all_or_nothing():
            if len(ids) == 1:
                with interrupts_wait():
                    return self._decode(ids, cache, with_logits=False).x[:1].copy()
            x, start = np.empty((len(ids), self.config.dim), np.float32), 0
            for batch in self._batches(ids, cache):
                x[start : start + len(batch)] = batch
                start += len(batch)
            return x

    def next_logits(self, ids: np.ndarray, cache: KVCache) -> np.ndarray:
        """Run ids behind the tokens of the cache; return the logits after the last, float32 [vocab].

        Few ids are rows of passes, each of which reads the weights once. The next call with this cache
        overwrites them. Raises ValueError as `hidden` does.
        """
        ids = self._checked(ids, cache)
        with cache.all_or_nothing():
            if len(ids) <= FEW:
                return self._in_passes(ids, cache)
            for x in self._batches(ids, cache):  # noqa: B007
                pass
            self._decoder(cache)  # the tokens that follow find all memory there
            return self.project(x[-1:])[0]

    def _in_passes(self, ids, cache):
        """Run few ids, for which there is room, as rows of passes; return the logits after the last."""
        parts = [ids[i : i + MOST_ROWS] for i in range(0, len(ids), MOST_ROWS)]
        with interrupts_wait() as let_interrupt_through:
            for i, part in enumerate(parts):
                if i:
                    let_interrupt_through()
                    cache.prepare(len(part))  # recent rows of its own: the pass overwrites what was there
                decoder = self._decode(part, cache, with_logits=part is parts[-1])
        return decoder.logits[len(part) - 1]

    def expect_rows(self, n_rows: int, cache: KVCache) -> None:
        """Make now, once, all that passes of up to so many tokens behind this cache need: see `steps`."""
        self._decoder(cache, n_rows)

    def step(self, token: int, cache: KVCache) -> np.ndarray:
        """Run one token behind those of the cache; return its logits, float32 [vocab]; no array is allocated.

        The next call with this cache overwrites them. Raises ValueError for an id outside the vocabulary
        and for a full cache. Ctrl-C, here as in `hidden` and `next_logits`, leaves the cache as it was.
        """
        if not isinstance(token, Integral) or not 0 <= token < self.config.vocab_size:
            raise ValueError(
                f"token: expected a whole number, 0 <= id < {self.config.vocab_size}, got {token}"
            )
        self._make_room(1, cache)
        with cache.all_or_nothing(), interrupts_wait():
            return self._decode((token,), cache, with_logits=True).logits[0]

    def steps(self, ids: Sequence[int], cache: KVCache) -> np.ndarray:
        """Run up to MOST_ROWS tokens in one pass behind those of the cache; return their logits, [T, vocab].

        They are float32, and bit for bit those of `step` after `step`. The next call with this cache
        overwrites them. Raises ValueError as `hidden` does, and for more tokens.
        """
        if len(ids) > MOST_ROWS:
            raise ValueError(f"ids: expected at most {MOST_ROWS} tokens, got {len(ids)}")
        ids = self._checked(ids, cache)
        with cache.all_or_nothing(), interrupts_wait():
            return self._decode(ids, cache, with_logits=True).logits[: len(ids)]

    def project(self, x: np.ndarray) -> np.ndarray:
        """Return the logits, float32 [T, vocab], of the final stream x, float32 [T, dim]."""
        c = self.config
        with interrupts_wait(), cores.one_blas_thread(), cores.using(self.threads):
            return softcap(matmul(rms_norm(x, self.output_norm, c.norm_eps), self.output), c.logit_softcap)

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

    def _checked(self, ids, cache):
        ids = self.check_ids(ids)
        self._make_room(len(ids), cache)
        return ids

    def _make_room(self, n_tokens, cache):
        c = self.config
        expected = c.n_layers, c.n_kv_heads, c.head_dim
        if cache.shape != expected:
            raise ValueError(f"cache: this model's keys have shape {expected}, got {cache.shape}")
        cache.prepare(n_tokens)

    def _decoder(self, cache, n_rows=1) -> Decoder:
        decoder = cache.decoder
        if decoder is None or decoder.weights is not self.weights or decoder.most_rows < n_rows:
            most = 1 if n_rows == 1 else MOST_ROWS
            decoder = Decoder(self.weights, self.config, cache.rows(0), cache.table[None], most)
            cache.decoder = decoder
        return decoder

    def _decode(self, ids, cache, with_logits) -> Decoder:
        decoder = self._decoder(cache, len(ids))
        for i in range(len(ids)):
            decoder.rows[i, TOKEN], decoder.rows[i, POSITION] = ids[i], cache.length + i
        with cores.using(self.threads):
            decoder.step(len(ids), with_logits)
        cache.advance(len(ids))
        return decoder

    def _batches(self, ids, cache):
        """Yield the final stream of each batch, which the next one overwrites.

        A line of progress is shown if they take more than two seconds.
        """
        off = {"disable": True} if len(ids) <= PREFILL else {}  # said only where it is so: see TQDM_DISABLE
        with (
            interrupts_wait() as let_interrupt_through,
            cores.one_blas_thread(),
            tqdm(total=len(ids), desc="prompt", unit=" tokens", delay=2, leave=False, **off) as bar,
        ):
            for i in range(0, len(ids), PREFILL):
                batch = ids[i : i + PREFILL]
                with cores.using(self.threads):  # but not while whoever asked for the batch works with it
                    x = run_batch(self.weights, self.config, batch, cache, let_interrupt_through)
                yield x
                bar.update(len(batch))
