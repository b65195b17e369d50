"""Pipeline: layers over ranks. Each runs its own, and sends on what comes out of them.

    rank 0       ids -> token_embd -> layers 0 to 9  ->  x, float32 [T, dim]
    rank 1       x -> layers 10 to 19                ->  x
    rank 2       x -> layers 20 to 29 -> output      ->  logits -> sampler -> id, to all

A stage is a Transformer of fewer layers. What it reads in the place of an embedding is what came in: row i
of the message is "token" i of a table that the message fills. So it computes with the engine's own passes,
and the logits are bit for bit those of one process, as long as the ranks' CPUs choose the same kernels.

Of one text, one stage works and the others wait: a token takes as long as on one machine, and the hops. Of
several texts, each stage has another one in hand, and all work.

    rank 0   A0 B0 .  A1 B1 .
    rank 1   .  A0 B0 .  A1 B1        A0: the first token of text A

Weights stay mapped in the file; of the matrices a rank touches only its layers' and, at the ends, those of
the embedding and of the logits.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import psutil

from blocks2tokens.generate import Model
from blocks2tokens.matrix import QuantizedMatrix
from blocks2tokens.model import ModelConfig, Transformer
from blocks2tokens.model.interrupt import interrupts_wait
from blocks2tokens.model.kv_cache import KVCache, pool_of
from blocks2tokens.model.transformer import FEW, MOST_ROWS, PREFILL
from blocks2tokens.parallel.ranks import Ranks, digest
from blocks2tokens.parallel.shares import Machine, layer_shares, ranges
from blocks2tokens.parallel.speed import read_bandwidth
from blocks2tokens.sampler import Sampler

ALIKE = 1.25  # machines whose bandwidths differ by less count as equal: a measurement is no better
SPARE = 0.9  # of the memory that is there, at the most


@dataclass(frozen=True)
class StageConfig(ModelConfig):
    """The config of a stage: its layers are numbered from 0, and are what they were in the whole model."""

    whole: ModelConfig | None = None
    begins: int = 0

    @property
    def score_scale(self) -> float:
        return self.whole.score_scale

    @property
    def embedding_scale(self) -> float:
        return 1.0 if self.begins else self.whole.embedding_scale

    def window_of(self, layer: int) -> int:
        return self.whole.window_of(self.begins + layer)


class Stage(Transformer):
    """Some consecutive layers of a model. Its caches hold the keys and values of these alone."""

    def __init__(self, whole: Transformer, share: range):
        """Take these layers, with the embedding if they are the first and the logits if the last."""
        c = whole.config
        self.whole, self.share = whole, share
        self.is_first, self.is_last = share.start == 0, share.stop == c.n_layers
        self.config = StageConfig(**{**vars(c), "n_layers": len(share)}, whole=c, begins=share.start)
        self.cache_type, self.threads = whole.cache_type, whole.threads
        self.pool = pool_of(len(share), c.n_kv_heads, c.head_dim, whole.cache_type)
        self.weights = copy(whole.weights)
        self.weights.layers = whole.layers[share.start : share.stop]
        self.given = np.zeros((PREFILL, c.dim), np.float32)  # what comes in: a message, up to PREFILL rows
        if not self.is_first:
            self.weights.token_embd = QuantizedMatrix(self.given.view(np.uint8), "F32", self.given.shape)

    @property
    def key_frames(self) -> np.ndarray | None:
        """Those of its layers in the whole model, which is run once to find them."""
        frames = self.whole.key_frames
        return None if frames is None else frames[self.share.start : self.share.stop]

    def run(self, ids: np.ndarray, cache: KVCache, decodes: bool, with_logits: bool = True) -> np.ndarray:
        """Run up to PREFILL rows behind the tokens of the cache; return the stream, float32 [T, dim].

        ids, int64 [T]: of tokens on the first stage, on others the numbers of the rows in `given`. The next
        pass with this cache overwrites what is returned. `decodes`: in one parallel region, which one process
        does for the tokens that it writes, at most MOST_ROWS; the last stage makes the logits of all of them
        unless told otherwise. Raises ValueError for a full cache.
        """
        self._make_room(len(ids), cache)
        if decodes:
            with interrupts_wait():
                return self._decode(ids, cache, with_logits and self.is_last).x[: len(ids)]
        for x in self._batches(ids, cache):  # noqa: B007  one, as there are at most PREFILL
            pass
        return x

    def logits(self, x: np.ndarray, cache: KVCache, decodes: bool) -> np.ndarray:
        """Return the logits after the last row of what `run` has returned on the last stage, [vocab]."""
        return cache.decoder.logits[len(x) - 1] if decodes else self.project(x[-1:])[0]


class Text(SimpleNamespace):
    """One of the texts that are written: `ids` so far, its `cache`, how many tokens are `left`."""


class Pipeline:
    """A model whose layers are spread over ranks: generates as a Model does, on all ranks at once.

    All ranks make the same calls with the same arguments, and get the same tokens.
    """

    def __init__(self, model: Model, ranks: Ranks, counts: Sequence[int] | None = None):
        """Share out the layers, `counts` to each rank; None: by measured bandwidth and memory.

        Raises ValueError, on all ranks, for files that differ, more ranks than layers, or too little memory.
        """
        self.model, self.ranks = model, ranks
        self.config, self.tokenizer = model.config, model.tokenizer
        self.identity = digest(model.file.paths)
        ranks.check_same(f"{model.file.path}: SHA-256 of the file", self.identity)
        self.counts = ranks.told(_counts(model.transformer, ranks) if counts is None else list(counts))
        if (
            len(self.counts) != ranks.size
            or sum(self.counts) != model.config.n_layers
            or min(self.counts) < 1
        ):
            raise ValueError(
                f"layers: expected {ranks.size} shares of {model.config.n_layers} layers, got {self.counts}"
            )
        self.stage = Stage(model.transformer, ranges(self.counts)[ranks.rank])

    def __repr__(self):
        return f"Pipeline({self.config.name}: layers {self.counts} on {self.ranks.size} ranks)"

    def generate(self, ids: Sequence[int], max_tokens: int, sampler: Sampler | None = None) -> Iterator[int]:
        """Yield up to `max_tokens` ids that continue `ids`, on each rank; as `Model.generate`."""
        return (token for _, token in self.generate_together([ids], max_tokens, sampler))

    def generate_together(
        self, prompts: Sequence[Sequence[int]], max_tokens: int, sampler: Sampler | None = None
    ) -> Iterator[tuple[int, int]]:
        """Continue several texts, one after the other in each stage; yield (number of the text, id).

        The ids of each are those that it would get alone. Raises ValueError as `Model.generate`.
        """
        texts = [self._begin(ids, max_tokens) for ids in prompts]
        return self._turns(texts, sampler or Sampler()) if max_tokens else iter(())

    def next_logits(self, ids: Sequence[int], cache: KVCache) -> np.ndarray | None:
        """Run ids behind the tokens of the stage's cache; return the logits after the last, on the last rank.

        None on the others. Few ids are rows of passes, as in one process, and all of them are read or none.
        The next call with this cache overwrites the logits.
        """
        decodes = len(ids) <= FEW
        size = MOST_ROWS if decodes else PREFILL
        self.stage._make_room(len(ids), cache)
        with cache.all_or_nothing():
            for start in range(0, len(ids), size):
                part = np.asarray(ids[start : start + size], np.int64)
                x = self._pass(part, cache, decodes, is_last=start + size >= len(ids))
        return self.stage.logits(x, cache, decodes) if self.stage.is_last else None

    # --- Turns --------------------------------------------------------------------------------------------

    def _begin(self, ids, max_tokens) -> Text:
        ids = [int(i) for i in self.model.transformer.check_ids(ids)]
        cache = self.stage.new_cache(len(ids) + max_tokens)
        return Text(ids=ids, cache=cache, left=max_tokens, found=None)

    def _turns(self, texts, sampler) -> Iterator[tuple[int, int]]:
        """Each text in turn: its last id comes back, and the next token goes through this stage."""
        waiting = {number: text for number, text in enumerate(texts)}
        for number, text in waiting.items():
            self._go_on(text, sampler, number)
        while waiting:
            for number, text in list(waiting.items()):
                token = self._id(text, number)
                if token in self.tokenizer.stop_tokens:
                    del waiting[number]
                    continue
                text.ids.append(token)
                text.left -= 1
                yield number, token
                if text.left:
                    self._go_on(text, sampler, number)
                else:
                    del waiting[number]

    def _go_on(self, text, sampler, number) -> None:
        """Read what is new of a text; on the last rank choose its next token, and tell the others."""
        logits = self.next_logits(text.ids[text.cache.length :], text.cache)
        if logits is not None:
            text.found = np.array([sampler(logits, text.ids)], np.int64)
            for rank in range(self.ranks.size - 1):
                self.ranks.send(text.found, rank, tag=1 + number)

    def _id(self, text, number) -> int:
        """Return the next id of a text, which the last rank has chosen."""
        if not self.stage.is_last:
            text.found = self.ranks.receive(np.empty(1, np.int64), self.ranks.size - 1, tag=1 + number)
        return int(text.found[0])

    def _pass(self, ids, cache, decodes, is_last) -> np.ndarray:
        """Take one message through this stage, and send it on; return what comes out.

        Logits are made of the last message alone.
        """
        if not self.stage.is_first:
            self.ranks.receive(self.stage.given[: len(ids)], self.ranks.rank - 1)
            ids = np.arange(len(ids))
        x = self.stage.run(ids, cache, decodes, with_logits=is_last)
        if not self.stage.is_last:
            self.ranks.send(x, self.ranks.rank + 1)
        return x


def _counts(whole: Transformer, ranks: Ranks) -> list[int]:
    """Return how many layers each rank gets, by what each has measured of its machine."""
    memory = psutil.virtual_memory().available * SPARE / ranks.here
    machines = [Machine(*found) for found in ranks.all_have((read_bandwidth(), memory))]
    fastest = max(machine.bandwidth for machine in machines)
    if fastest < ALIKE * min(machine.bandwidth for machine in machines):
        machines = [Machine(fastest, machine.memory) for machine in machines]
    nbytes = sum(w.nbytes for layer in whole.layers for w in vars(layer).values() if hasattr(w, "nbytes"))
    n_layers = whole.config.n_layers
    return layer_shares(n_layers, nbytes / n_layers, machines, whole.output.nbytes)
