"""One of two ranks of the lesson: measures, and rank 0 prints what both have found, as JSON.

digest            of the logits after a prompt and a few tokens: those of the pipeline, and of one rank
alone, rows_alone seconds of a token on one rank, with the engine and with the NumPy of `tensor`
stages            seconds of a token in each stage, in turn, without a message
halves            seconds of a token by rows on both ranks at once, without a sum: of each piece the slower's
hop, sum          seconds of a message and of an all-reduce of one residual
pipeline, tensor  {link: seconds of a token}
turns             seconds of a token of two texts in turn
"""

import hashlib
import json
import sys
import time
from copy import copy
from types import SimpleNamespace

import numpy as np

import blocks2tokens as b2t
from blocks2tokens.parallel.cost import Link
from blocks2tokens.parallel.pipeline import Pipeline
from blocks2tokens.parallel.ranks import Ranks
from blocks2tokens.parallel.shares import Machine, layer_shares
from blocks2tokens.parallel.speed import all_reduce_seconds, hop_seconds
from blocks2tokens.parallel.tensor import TensorParallel

PROMPT = "Once upon a time there was a small town by the sea, where"
WARM = 3  # tokens that do not count


def main(model: str, links: dict, tokens: int) -> None:
    """Measure everything, and print it."""
    ranks = Ranks()
    whole = b2t.load(model, threads=1)
    ids = whole.tokenizer.encode(PROMPT)
    pipeline, rows = Pipeline(whole, ranks, balanced(whole)), TensorParallel(whole, ranks)
    n_bytes = 4 * whole.config.dim
    found = {"layers": pipeline.counts, "digest": digests(whole, pipeline, ids)}
    between = whole.file.nbytes // (2 * whole.config.n_layers * ranks.size)
    found |= {"hop": hop_seconds(ranks, n_bytes), "sum": all_reduce_seconds(ranks, n_bytes, between)}
    found |= alone(whole, rows, pipeline, ids, tokens)
    found |= {"pipeline": {}, "tensor": {}}
    for name, link in links.items():
        ranks.link = Link(*link) if link else None
        found["pipeline"][name] = per_token(pipeline.generate(ids, tokens))
        found["tensor"][name] = per_token(rows.generate(ids, tokens))
    ranks.link = None
    found["turns"] = per_token(pipeline.generate_together([ids, ids], tokens), np.mean)
    ranks.close()
    if ranks.rank == 0:
        print(json.dumps(found))


def balanced(whole) -> list[int]:
    """Return two shares of the layers, the second of which has the logits to make as well."""
    t, n = whole.transformer, whole.config.n_layers
    layer = sum(w.nbytes for w in vars(t.layers[0]).values() if hasattr(w, "nbytes"))
    return layer_shares(n, layer, [Machine(1.0)] * 2, t.output.nbytes)


def digests(whole, pipeline, ids) -> list[str]:
    """Return the hash of the logits of a prompt and three more tokens, of the pipeline and of one rank."""
    cache, own = pipeline.stage.new_cache(len(ids)), whole.transformer.new_cache(len(ids))
    steps = [ids[:-3], *([i] for i in ids[-3:])]
    theirs, ours = hashlib.sha256(), hashlib.sha256()
    for step in steps:
        logits = pipeline.next_logits(step, cache)
        theirs.update(b"" if logits is None else logits.tobytes())
        ours.update(whole.transformer.next_logits(step, own).tobytes())
    return pipeline.ranks.told([theirs.hexdigest()[:16], ours.hexdigest()[:16]], root=1)


def alone(whole, rows, pipeline, ids, tokens) -> dict:
    """Return the seconds of a token on one rank while the other waits, and of what a rank computes of it."""
    ranks, found = pipeline.ranks, {}
    itself = SimpleNamespace(
        rank=0, size=1, told=lambda value: value, add_up=lambda x: x, check_same=lambda what, value: None
    )
    found["alone"] = ranks.told(per_token(whole.generate(ids, tokens)) if ranks.rank == 0 else None)
    one = TensorParallel(whole, itself) if ranks.rank == 0 else None
    found["rows_alone"] = ranks.told(per_token(one.generate(ids, tokens)) if one else None)
    return {**found, "stages": in_turn(pipeline.stage, ranks, tokens), "halves": at_once(rows, tokens)}


def in_turn(stage, ranks, tokens) -> list[float]:
    """Return the median seconds of a token in each stage.

    One after the other for each token, as in the pipeline: a stage that runs alone keeps its weights in a
    cache that it shares with the others here.
    """
    cache, seconds = stage.new_cache(tokens), []
    for _ in range(tokens):
        for turn in range(ranks.size):
            if turn == ranks.rank:
                start = time.perf_counter()
                stage.run(np.zeros(1, np.int64), cache, decodes=True)
                seconds.append(time.perf_counter() - start)
            ranks.told(None, root=turn)
    return ranks.all_have(float(np.median(seconds[WARM:])))


def at_once(rows, tokens) -> float:
    """Return the median seconds of a token by rows, of each piece between two sums those of the slower rank.

    Both compute at once, and only write down when they would send.
    """
    alike, times = copy(rows), []
    alike.ranks = SimpleNamespace(add_up=lambda x: times.append(time.perf_counter()) or x)
    cache = alike.new_cache(tokens)
    for _ in range(tokens):
        rows.ranks.told(None)
        times.append(time.perf_counter())
        alike.next_logits([0], cache)
        times.append(time.perf_counter())
    pieces = rows.ranks.all_have(np.diff(np.reshape(times, (tokens, -1))))
    return float(np.median(np.max(pieces, axis=0).sum(axis=1)[WARM:]))


def per_token(tokens, middle=np.median) -> float:
    """Return the median of the seconds from one token to the next, or another middle of them."""
    times = [time.perf_counter() for _ in tokens]
    return float(middle(np.diff(times)[WARM:]))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
