"""Attention by the length of the text: `make bench` or `python -m blocks2tokens.benchmarks.attention`.

    prompt    512 tokens behind `depth` others, one layer, on one core: whole scores in NumPy, ours in tiles
    token     one token behind `depth` others, one layer: NumPy, ours in parts, on one core
    model     a whole model at both ends of its context: ours, llama.cpp with flash attention and without

Temporary bytes are counted, not measured: what a way holds beside q, k, v and its result.
"""

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

import numpy as np
from numba import get_num_threads

import blocks2tokens as b2t
from blocks2tokens.benchmarks.llama_cpp_model import BATCH, LlamaCppModel
from blocks2tokens.course import bench, models
from blocks2tokens.course.lessons.flash_attention import overtaking
from blocks2tokens.jit import cores
from blocks2tokens.model import batch_attention, split_attention
from blocks2tokens.model.attention import attend

SHAPES = {"SmolLM2": (9, 3, 64), "1B": (32, 8, 64)}  # heads, heads of keys, head_dim
DEPTHS = (0, 1536, 7680)  # tokens before
ROWS = 512
DECODED = 16
OURS = ("float32", "float16")
PEERS = {"llama.cpp": False, "llama.cpp, flash": True}


def temporary_bytes(task: str, heads: tuple[int, int, int], depth: int, n_workers: int) -> dict[str, int]:
    """Return what each way holds beside q, k, v and the result; task "prompt" or "token"."""
    n_heads, _, head_dim = heads
    if task == "prompt":
        return {
            "whole": 4 * n_heads * ROWS * (depth + ROWS),
            "ours": batch_attention.new_rooms(*heads, n_workers).nbytes,
        }
    parts = split_attention.new_parts(1, n_heads, head_dim).nbytes
    rooms = split_attention.new_rooms(*heads, n_workers).nbytes
    return {"whole": 4 * n_heads * (depth + 1), "ours": rooms + parts}


def print_layers(depths: Sequence[int] = DEPTHS) -> None:
    """Print the table of single layers."""
    print("\nAttention of one layer, one core: whole scores in NumPy, ours, times as fast; temporary bytes")
    for name, heads in SHAPES.items():
        for depth in depths:
            for task, rows, ours in (
                ("prompt", ROWS, overtaking.in_tiles),
                ("token", 1, overtaking.in_parts),
            ):
                data = overtaking.random_heads(*heads, rows, depth + rows)
                runs = {"whole": partial(attend, *data), "ours": partial(ours, *data)}
                with cores.one_blas_thread(), cores.using(1):
                    times = bench.interleaved(runs, 5)
                held = temporary_bytes(task, heads, depth, n_workers=1)
                whole, fast = times["whole"].median, times["ours"].median
                print(
                    f"  {name:8}{task:8}behind {depth:6,}{bench.seconds(whole):>12}{bench.seconds(fast):>12}"
                    f"{whole / fast:8.2f}x{bench.size(held['whole']):>12}{bench.size(held['ours']):>12}",
                    flush=True,
                )


def rates(run: Callable[[Sequence[int]], object], ids: Sequence[int]) -> tuple[float, float, float]:
    """Return tokens a second: the first ROWS, the last ROWS, and DECODED single ones behind them.

    run(ids) runs ids behind what is there, as many as it is given.
    """
    times = []
    for i in range(0, len(ids), BATCH):
        start = perf_counter()
        run(ids[i : i + BATCH])
        times.append(perf_counter() - start)
    run(ids[:1])
    start = perf_counter()
    for token in ids[:DECODED]:
        run([token])
    return BATCH / times[0], BATCH / times[-1], DECODED / (perf_counter() - start)


def print_model(path: Path) -> None:
    """Print the rates of one model at both ends of its context, ours and the peer's."""
    context = b2t.load(path).config.context_length
    n = (context - DECODED - 1) // BATCH * BATCH
    ids = np.resize(np.arange(100, 900), n).tolist()
    print(f"\n{path.stem}, tokens a second: first {BATCH}, last {BATCH} of {n:,}, single ones behind them")
    for name, found in ours_and_peers(path, ids, context):
        print(f"  {name:18}" + "".join(f"{rate:10.1f}" for rate in found), flush=True)


def ours_and_peers(path: Path, ids: Sequence[int], context: int):
    """Yield (name, rates) of both our caches, and of the peer where it is installed."""
    for dtype in OURS:
        model = b2t.load(path, cache=dtype).transformer
        model.next_logits(np.array(ids[:BATCH]), model.new_cache(BATCH + 1))  # compiles
        model.step(ids[0], model.new_cache(1))
        cache = model.new_cache(context)
        yield f"ours, {dtype}", rates(lambda some, m=model, c=cache: m.next_logits(np.array(some), c), ids)
    for name, flash in PEERS.items() if find_spec("llama_cpp") else ():
        peer = LlamaCppModel(path, get_num_threads(), context, flash)
        peer.prefill(ids[:BATCH])
        peer.clear()
        yield name, rates(peer.run, ids)
        peer.close()


def print_attention() -> None:
    """Print both tables, the second for SmolLM2 where it is there."""
    print_layers()
    if "SmolLM2" in models.available():
        print_model(models.available()["SmolLM2"])


if __name__ == "__main__":
    print_attention()
