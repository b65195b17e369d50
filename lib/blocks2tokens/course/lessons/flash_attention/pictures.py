"""The pictures of the lesson on flash attention.

draw_rescaling    four scores, one after the other: each sum is measured against the best so far
draw_moments      what is in memory at one moment: whole scores, a row, a tile
draw_tiles        which tiles a causal mask leaves: whole, masked, never loaded
draw_parts        one token on two cores: heads as jobs, and parts of the keys as jobs
draw_held         bytes at one moment over the text's length
draw_overtaking   attention's time over the depth, beside the matrices'
"""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap

from blocks2tokens.course import plot

UNSEEN, LATER, DONE, HELD = range(4)
SHADES = ListedColormap(["white", "#dddddd", "#9fb8d0", "#08306b"])
MARKS = ("o-", "s--", "^:", "d-.")


def draw_rescaling(scores: Sequence[float]) -> None:
    """Draw the terms of the softmax's sum after each score: exp(score - best so far)."""
    figure, row = plt.subplots(1, len(scores), figsize=(10, 2.6), sharey=True)
    for n, axes in enumerate(row, start=1):
        seen = np.array(scores[:n], float)
        terms = np.exp(seen - seen.max())
        axes.bar(range(n), terms, color=[plot.BLUE] * (n - 1) + [plot.RED], edgecolor="k")
        for i, term in enumerate(terms):
            axes.text(i, term + 0.03, f"{term:.2f}", ha="center", size=9)
        axes.set_xticks(range(n), [f"{s:g}" for s in scores[:n]])
        axes.set(xlim=(-0.7, len(scores) - 0.3), ylim=(0, 1.25), xlabel="score")
        axes.set_title(f"best {seen.max():g}, total {terms.sum():.2f}", size="medium")
    row[0].set_ylabel("exp(score − best)")
    figure.suptitle("A new best shrinks all that came before, by one factor", weight="bold")


def state_of_scores(way: str, T: int, block: int, tile: int, at: tuple[int, int]) -> np.ndarray:
    """Return int [T, T]: UNSEEN, LATER, DONE or HELD for each score at the moment of tile `at`."""
    t, s = np.indices((T, T))
    state, (i, j) = np.where(s > t, UNSEEN, LATER), at
    if way == "whole":
        return np.full((T, T), HELD)
    if way == "row":
        now = i * block
        state[(t < now) & (s <= t)] = DONE
        state[now, : now + 1] = HELD
        return state
    before = (t // block < i) | ((t // block == i) & (s // tile < j))
    state[before & (s <= t)] = DONE
    state[(t // block == i) & (s // tile == j)] = HELD
    return state


def draw_moments(T: int = 32, block: int = 8, tile: int = 8, at: tuple[int, int] = (2, 1)) -> None:
    """Draw which scores of one head are in memory at one moment, for each of the three ways."""
    figure, row = plt.subplots(1, 3, figsize=(10, 3.9), sharey=True)
    for axes, way in zip(row, ("whole", "row", "tile"), strict=True):
        state = state_of_scores(way, T, block, tile, at)
        axes.imshow(state, cmap=SHADES, vmin=0, vmax=3, origin="upper", extent=(0, T, T, 0))
        axes.set_xticks(range(0, T + 1, tile))
        axes.set_yticks(range(0, T + 1, block))
        axes.grid(color="k", lw=0.4)
        axes.set(xlabel="key")
        axes.set_title(f"{way}: {int((state == HELD).sum())} scores held", size="medium")
    row[0].set_ylabel("query")
    names = ("held now", "added already, and forgotten", "still to come", "never made")
    shades = [SHADES(kind) for kind in (HELD, DONE, LATER, UNSEEN)]
    patches = [plt.Rectangle((0, 0), 1, 1, facecolor=shade, edgecolor="k") for shade in shades]
    figure.legend(patches, names, loc="lower center", ncols=4, bbox_to_anchor=(0.5, -0.1))
    figure.suptitle("One tile is held; its scores are added, and never written down", weight="bold")


def draw_tiles(tiles_seen: Callable, T: int, block: int, tile: int, position: int = 0) -> plt.Axes:
    """Draw what tiles_seen(position, first, n, tile) says of each block of queries."""
    axes = plt.subplots(figsize=(8, 3.4))[1]
    counts = [tiles_seen(position, first, min(block, T - first), tile) for first in range(0, T, block)]
    n_tiles = -(-(position + T) // tile)
    made = sum(map(sum, counts))
    for y, (whole, part) in enumerate(counts):
        for x in range(n_tiles):
            kind = DONE if x < whole else HELD if x < whole + part else UNSEEN
            box = plt.Rectangle((x * tile, y * block), tile, block, fc=SHADES(kind), ec="k", lw=0.6)
            axes.add_patch(box)
    axes.set(xlim=(0, n_tiles * tile), ylim=(T, 0), xlabel="key", ylabel="query")
    axes.set_xticks(range(0, n_tiles * tile + 1, 2 * tile))
    axes.set_title(f"{made} of {n_tiles * len(counts)} tiles are made; the dark ones need a mask")
    return axes


def finishing(lengths: Sequence[int], n_cores: int) -> list[list[tuple[int, int, int]]]:
    """Return (job, start, length) of the jobs of each core, where the first free core takes the next job."""
    cores, free = [[] for _ in range(n_cores)], [0] * n_cores
    for job, length in enumerate(lengths):
        core = free.index(min(free))
        cores[core].append((job, free[core], length))
        free[core] += length
    return cores


def draw_parts(n_kv_heads: int, n_keys: int, n_parts: int, n_cores: int = 2) -> None:
    """Draw one token's attention on some cores: a job a head of keys, and a job a part of its keys."""
    figure, row = plt.subplots(2, 1, figsize=(9, 3.6), sharex=True)
    for axes, parts in zip(row, (1, n_parts), strict=True):
        lengths = [n_keys // parts] * (n_kv_heads * parts)
        cores = finishing(lengths, n_cores)
        for core, jobs in enumerate(cores):
            for job, start, length in jobs:
                head = job // parts
                shade = str(0.65 + 0.3 * head / max(1, n_kv_heads - 1))
                axes.barh(core, length, left=start, color=shade, edgecolor="k")
                axes.text(start + length / 2, core, f"{head}", ha="center", va="center", size=9)
        end = max(start + length for jobs in cores for _, start, length in jobs)
        axes.set_yticks(range(n_cores), [f"core {core}" for core in range(n_cores)])
        what = "a job is a head" if parts == 1 else f"a job is one of {parts} parts of a head's keys"
        axes.set_title(f"{what}: done after {end:,} keys", size="medium")
    row[-1].set_xlabel("keys read by a core (the number is the head)")
    figure.suptitle("Split over keys, both cores end together", weight="bold")


def draw_held(held: Mapping[str, Mapping[int, int]]) -> plt.Axes:
    """Draw {way: {tokens: bytes at one moment}}."""
    axes = plt.subplots(figsize=(8, 3.6))[1]
    for (way, counts), mark in zip(held.items(), MARKS, strict=False):
        axes.plot(list(counts), list(counts.values()), mark, label=way)
    axes.set(xscale="log", yscale="log", xlabel="tokens of the prompt", ylabel="bytes held")
    lengths = list(next(iter(held.values())))
    axes.set_xticks(lengths, [f"{n:,}" for n in lengths])
    axes.minorticks_off()
    axes.set_title("A tile holds the same, however long the text")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return axes


def draw_overtaking(found: Mapping[str, Mapping[int, float]], predicted: float, name: str) -> plt.Axes:
    """Draw {way: {depth: seconds}}, "matrices" as a line; predicted: the depth at which counts are equal."""
    axes = plt.subplots(figsize=(8, 3.6))[1]
    ways = [way for way in found if way != "matrices"]
    for way, mark in zip(ways, MARKS, strict=False):
        axes.plot(list(found[way]), [1e3 * s for s in found[way].values()], mark, label=f"attention, {way}")
    matrices = 1e3 * np.median(list(found["matrices"].values()))
    axes.axhline(matrices, color="k", ls="--", label="the layer's matrices")
    axes.axvline(predicted, color=plot.GREY, ls=":", label="equal multiply-adds")
    axes.set(xlabel="tokens before the batch", ylabel="ms a batch and layer", ylim=(0, None))
    axes.set_title(f"{name}: the matrices cost the same at every depth, attention grows")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return axes
