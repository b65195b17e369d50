"""What takes too long for a lesson: SmolLM2's perplexity with each type of cache, on the held-out chapters.

    python -m blocks2tokens.course.lessons.kv_cache.record        writes smollm2.json beside this file

    {"tokens", "window", "perplexity": with a float32 cache,
     "rows":      {name: {"bytes": a token's, "more": of perplexity, "more_error", "kl", "kl_error"}},
     "llama.cpp": {name: perplexity}}             the same tokens and windows; where llama_cpp is installed

Products are those of float32 numbers, `kernels.unrounded`: else the rounding of activations adds differences
of its own, as large as those of q8_0. A minute and more for each row on two cores. A row is written as soon
as it is there; those that are there already, from as many tokens, are not made again.

    q4_0, turned             rows turned, and the scales of blocks searched for: no frames of keys
    q4_0, less the mean      and what all keys of a head share taken away, see `key_frame`
    q4_0, errors fed back    and channels scaled, and errors fed back
    q4_0                     and a token's own page seen in q8_0: what the engine does
"""

import importlib.util
import json
from collections.abc import Iterable, Iterator
from math import exp
from pathlib import Path

import numpy as np

import blocks2tokens as b2t
from blocks2tokens import files
from blocks2tokens.course import models
from blocks2tokens.kernels.unrounded import unrounded
from blocks2tokens.model.cache_rows import BACK, FEEDBACK, FIRST, MEAN, SCALE, VALUE, turn, turned
from blocks2tokens.model.pages import PagePool
from blocks2tokens.quality import Reference, log_softmax, mean

RECORDED = Path(__file__).with_name("smollm2.json")
TOKENS, WINDOW = 8192, 2048
CHARACTERS = 10  # more than a token has on average
KINDS = {
    "float16": "float16",
    "q8_0": "q8_0",
    "q4_0, turned": "q4_0",
    "q4_0, less the mean": "q4_0",
    "q4_0, errors fed back": "q4_0",
    "q4_0": "q4_0",
}
GGML_TYPES = {"float32": 0, "float16": 1, "q8_0": 8, "q4_0": 2}


def recorded() -> dict:
    """Return what was recorded."""
    return json.loads(RECORDED.read_text(encoding="utf-8"))


def heldout(model, n: int) -> list[int]:
    """Return n ids to predict, and one before them."""
    return model.tokenizer.encode(models.heldout_text()[: CHARACTERS * n])[: n + 1]


def frames_for(name: str, frames: np.ndarray) -> np.ndarray:
    """Return a model's frames as a row wants them: none of it, only what is common, or all of it."""
    if name in ("q4_0", "q4_0, errors fed back"):
        return frames
    out = frames.copy()
    out[:, :, SCALE], out[:, :, FEEDBACK:] = 1, 0
    if name == "q4_0, turned":
        out[:, :, [MEAN, FIRST, BACK, VALUE]] = 0
        return out
    out[:, :, BACK] = out[:, :, FIRST] - out[:, :, MEAN]
    for head in np.ndindex(out.shape[:2]):
        turn(out[*head, BACK], turned("q4_0", out.shape[-1]))
    return out


def rows(path: Path, names: Iterable[str], n_tokens: int, window: int) -> Iterator[tuple[float, str, dict]]:
    """Yield (perplexity with a float32 cache, name, row) for each way to keep keys and values."""
    exact = b2t.load(path)
    with unrounded():
        reference = Reference(exact, heldout(exact, n_tokens), window)
    for name in names:
        model = b2t.load(path, cache=KINDS[name])
        if KINDS[name] == "q4_0":
            model.transformer._key_frames = frames_for(name, model.transformer.key_frames)
            if name != "q4_0":
                model.transformer.pool = PagePool(model.transformer.pool.page_bytes)  # without recent rows
        with unrounded():
            quality = reference.measure(model)
        more = mean(quality.tokens["nats"] - quality.tokens["reference_nats"])
        row = {"bytes": model.transformer.new_cache(1).bytes_per_token, "more": exp(more.value) - 1}
        row |= {"more_error": more.error, "kl": quality.kl.value, "kl_error": quality.kl.error}
        yield quality.reference_perplexity.value, name, row


def llama_cpp_perplexity(path: Path, ids: list[int], window: int, kind: str) -> float:
    """Return llama.cpp's perplexity with keys and values of a type, through `llama_cpp`."""
    from llama_cpp import Llama

    types = {"type_k": GGML_TYPES[kind], "type_v": GGML_TYPES[kind]}
    model = Llama(
        str(path), n_ctx=window, n_batch=512, logits_all=True, flash_attn=True, verbose=False, **types
    )
    nats, n = 0.0, len(ids) - 1
    for start in range(0, n, window):
        read = ids[start : start + window][: n - start]
        model.reset()
        model.eval(read)
        for i in range(0, len(read), 256):
            log_p = log_softmax(model.scores[i : min(i + 256, len(read))])
            targets = ids[start + i + 1 : start + i + 1 + len(log_p)]
            nats -= float(log_p[np.arange(len(targets)), targets].sum())
    return exp(nats / n)


def main() -> None:
    """Add the rows that are missing."""
    path, found = models.smollm2(), {"tokens": TOKENS, "window": WINDOW, "rows": {}, "llama.cpp": {}}
    if RECORDED.exists() and [recorded()[key] for key in ("tokens", "window")] == [TOKENS, WINDOW]:
        found = recorded()

    def keep():
        files.write_text(RECORDED, json.dumps(found, indent=1) + "\n")

    missing = [name for name in KINDS if name not in found["rows"]]
    for exact, name, row in rows(path, missing, TOKENS, WINDOW) if missing else ():
        found["perplexity"], found["rows"][name] = exact, row
        keep()
        print(f"{name}: perplexity {100 * row['more']:+.2f} %, KL {row['kl']:.5f}", flush=True)
    if importlib.util.find_spec("llama_cpp"):
        ids = heldout(b2t.load(path), TOKENS)
        for kind in GGML_TYPES:
            if kind not in found["llama.cpp"]:
                found["llama.cpp"][kind] = llama_cpp_perplexity(path, ids, WINDOW, kind)
                keep()
                print(f"llama.cpp, {kind}: perplexity {found['llama.cpp'][kind]:.3f}", flush=True)


if __name__ == "__main__":
    main()
