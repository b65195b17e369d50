"""The pictures of lesson 10.

draw_splits    which worker has which row, by a rule
draw_scaling   times faster over threads: perfect, here, the report's
draw_cliff     times of both phases over the rows of `a`
draw_bound     what perfect scaling would reach, over cores
draw_shares    rows of each worker
"""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from blocks2tokens.course import plot
from blocks2tokens.course.predict import written
from blocks2tokens.course.report_table import REPORT, RERUN

POWERS = [1, 2, 4, 8, 16, 32, 64, 128]


def draw_splits(
    rule: Callable, title: str, axes: Axes | None = None, M: int = 5, splits: Sequence[int] = (2, 3, 4)
) -> Axes:
    """Draw M rows as a strip for each number of workers, coloured and numbered by worker.

    rule(worker, n_workers, M) gives a worker's first row and the one behind its last; what is nobody's is
    hatched.
    """
    axes = axes or plt.subplots(figsize=(5, 2.4))[1]
    label = {"fc": "white", "ec": "none", "boxstyle": "circle,pad=0.2"}
    for y, n_workers in enumerate(splits):
        axes.barh([y] * M, 0.96, left=range(M), color="white", edgecolor="0.6", hatch="///")
        for worker in range(n_workers):
            first, last = rule(worker, n_workers, M)
            for row in range(first, last):
                axes.barh(y, 0.96, left=row, color=plot.COLOURS[worker], edgecolor="0.6")
                axes.text(row + 0.48, y, worker, ha="center", va="center", bbox=label)
            if first == last:
                axes.text(M + 0.15, y, f"{worker} idle", va="center")
    axes.set(title=title, xlim=(-0.1, M + 1.1), xlabel="row of A")
    axes.set_xticks(np.arange(M) + 0.48, range(M))
    axes.set_yticks(range(len(splits)), [f"{n} workers" for n in splits])
    axes.grid(visible=False)
    axes.invert_yaxis()
    return axes


def draw_scaling(faster: Mapping[int, float]) -> Axes:
    """Draw {threads: times faster than one} beside perfect scaling, the report and its program run again."""
    most = max(16, *faster)
    axes = plt.subplots(figsize=(7.5, 4))[1]
    axes.plot([1, most], [1, most], "--", color=plot.GREY, label="perfect scaling")
    axes.plot(list(faster), list(faster.values()), "o-", label="this machine")
    looks = (
        (RERUN, 2, "s", plot.GREEN, "run again, 2 cores"),
        (REPORT, 16, "D", plot.RED, "report, 16 threads"),
    )
    for table, threads, mark, colour, name in looks:
        gain = table["phase1_naive_fused"].seconds / table["phase2_optimized_fused"].seconds
        axes.plot(threads, gain, mark, ms=11, color=colour, mfc="none", mew=2, label=f"{name}: {gain:.1f}×")
    axes.set(xscale="log", yscale="log", xlabel="threads", ylabel="times faster than 1 thread")
    ticks = [n for n in POWERS if n <= most]
    axes.set(xticks=ticks, xticklabels=ticks, yticks=ticks, yticklabels=ticks)
    n, gain = max(faster.items())
    threads = f"{n} thread" + "s" * (n > 1)
    how = f"{gain:.2f} times faster" if gain >= 1.05 else f"no faster ({gain:.2f} ×)"
    axes.set_title(f"The same loops on {threads}: {how}")
    axes.minorticks_off()
    axes.legend(loc="upper left")
    return axes


def draw_cliff(times: Mapping[int, Mapping[str, float]]) -> Axes:
    """Draw {M: {"Phase 1": seconds, "Phase 2": seconds}}; from 32 rows on Phase 2 splits them."""
    axes = plt.subplots()[1]
    for name, style, colour in (("Phase 1", "s--", plot.GREY), ("Phase 2", "o-", plot.BLUE)):
        line = [1e3 * seconds[name] for seconds in times.values()]
        axes.plot(list(times), line, style, color=colour, label=name)
    axes.axvline(31.5, color=plot.RED, ls=":", label="split from 32 rows on")
    axes.set(xlabel="M, rows of A", ylabel="ms", title="Below 32 rows, Phase 2 is Phase 1", ylim=(0, None))
    axes.legend(loc="upper left")
    return axes


def draw_bound(best: Sequence[float], baseline: float) -> Axes:
    """Draw the seconds that Phase 2 would take at best on 1, 2, 3 ... cores, beside the baseline's."""
    axes = plt.subplots()[1]
    cores = np.arange(1, len(best) + 1)
    axes.step(cores, 1e3 * np.array(best), where="post", label="Phase 2, scaling perfectly")
    axes.axhline(1e3 * baseline, color=plot.ORANGE, ls="--", label="baseline, measured on yours")
    axes.plot(16, 1e3 * best[15], "D", color=plot.RED, ms=8, label="16 cores")
    ticks = [n for n in POWERS if n <= len(best)]
    axes.set(xscale="log", yscale="log", xlabel="cores", ylabel="ms", xticks=ticks, xticklabels=ticks)
    axes.set_title(f"16 cores, scaling perfectly: {written(best[15] / baseline)}× the baseline's time")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.legend()
    return axes


def draw_shares(sizes: Sequence[int], cores: int) -> Axes:
    """Draw how many rows each worker has; the busiest are red and hatched."""
    axes = plt.subplots(figsize=(8, 2.6))[1]
    busiest = max(sizes)
    for worker, size in enumerate(sizes):
        look = {"color": plot.RED, "hatch": "///"} if size == busiest else {"color": plot.BLUE}
        axes.bar(worker, size, edgecolor="w", **look)
    axes.set(xlabel="worker", ylabel="rows", xlim=(-0.6, max(len(sizes), cores) - 0.4))
    M = sum(sizes)
    axes.set_title(f"{M} rows, {cores} cores: at most {M / busiest:.1f} times faster than Phase 1")
    return axes
