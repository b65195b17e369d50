"""Time over M, the rows of x: which kernel wins where, and what a server makes of it.

    curves = measure(matrices("Q4_K", (2048, 4096)))     seconds of each kernel at each M
    curves.winner(8), curves.crossings()                 the fastest at an M; where the winner changes
    draw(curves)                                         time for one row of x, the winner marked
    draw_server({"ours": curves})                        tokens a second in all, and for each user
    show(curves, M, kernels, users)                      both figures for a choice of kernels
    explorer({"Q4_K": curves})                           the same with sliders

Each call gets another matrix, in turn, of more than the last-level cache holds together: a model's weights
do not wait in a cache for the next token either. Threads are as the caller has set them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from blocks2tokens.course import bench, budget, hardware, plot
from blocks2tokens.formats import FORMATS
from blocks2tokens.kernels import KERNELS
from blocks2tokens.matrix import QuantizedMatrix

ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512)
LINES = {  # of two kernels that are as fast, the first wins
    "simd_dot": (plot.SKY, "v"),
    "simd_tiles": (plot.GREEN, "s"),
    "integer_gemm": (plot.BLUE, "D"),
    "fused_rows": (plot.ORANGE, "o"),
    "dequantize_then_blas": (plot.RED, "^"),
}
MARGIN = 0.93  # a later kernel must take less than this share of the time: noise should not decide
MOST = 1 << 30  # bytes of all matrices
MODEL = 7e9  # weights that each token of a 7B model meets


@dataclass(frozen=True)
class Curves:
    """Seconds of products with a matrix of `weights` weights: {kernel: {M: seconds}}, the same M for all."""

    format: str
    weights: int
    seconds: Mapping[str, Mapping[int, float]]

    @property
    def rows(self) -> list[int]:
        """The numbers of rows that were measured, in order."""
        return sorted(next(iter(self.seconds.values())))

    def only(self, kernels: Iterable[str]) -> "Curves":
        """Return the curves of some kernels; ValueError if none of them was measured."""
        wanted = set(kernels)
        some = {name: times for name, times in self.seconds.items() if name in wanted}
        if not some:
            raise ValueError(f"kernels: expected some of {', '.join(self.seconds)}")
        return Curves(self.format, self.weights, some)

    def time(self, kernel: str, M: float) -> float:
        """Return a kernel's seconds at M; between two measured M along a line, both axes logarithmic."""
        rows = self.rows
        if not rows[0] <= M <= rows[-1]:
            raise ValueError(f"M: expected {rows[0]} to {rows[-1]}, got {M}")
        logs = np.log([self.seconds[kernel][m] for m in rows])
        return float(np.exp(np.interp(np.log(M), np.log(rows), logs)))

    def best(self, M: float) -> float:
        """Return the seconds of the fastest kernel at M."""
        return min(self.time(kernel, M) for kernel in self.seconds)

    def winner(self, M: float) -> str:
        """Return the fastest kernel at M, or the first that is as fast but for noise."""
        best = self.best(M)
        return next(kernel for kernel in ordered(self.seconds) if self.time(kernel, M) * MARGIN <= best)

    def wins(self, fast: str, slow: str) -> str:
        """Return the measured M at which `fast` beats `slow` by more than noise: "1-4, 64-512" or "never"."""
        parts, inside = [], False
        for M in self.rows:
            won = self.time(fast, M) < MARGIN * self.time(slow, M)
            if won and inside:
                parts[-1] = parts[-1][0], M
            elif won:
                parts.append((M, M))
            inside = won
        return ", ".join(f"{low}-{high}" if low < high else f"{low}" for low, high in parts) or "never"

    def verdict(self, M: float, baseline: str) -> str:
        """Say whether the baseline or one of the others wins at M, and by how much."""
        times = {name: self.time(name, M) for name in self.seconds}
        against = times.pop(baseline)
        best = min(times, key=times.get)
        if times[best] < against:
            return f"M = {M}: {best} beats the baseline, {against / times[best]:.2f} times as fast"
        ratio = times[best] / against
        return f"M = {M}: the BASELINE beats {best}, {ratio:.2f} times as fast: BLAS multiplies faster"

    def crossings(self) -> list[tuple[str, str, float]]:
        """Return (winner before, winner after, M) for each M at which the winner changes.

        From few rows to many; a winner stays until another is faster by more than noise.
        """
        found, rows = [], self.rows
        winner = self.winner(rows[0])
        for low, high in pairwise(rows):
            if self.time(winner, high) * MARGIN > self.best(high):
                after = self.winner(high)
                ratios = [np.log(self.time(winner, M) / self.time(after, M)) for M in (low, high)]
                share = np.clip(-ratios[0] / (ratios[1] - ratios[0]), 0, 1) if ratios[0] < ratios[1] else 0.5
                found.append((winner, after, float(low * (high / low) ** share)))
                winner = after
        return found

    def per_token(self, M: float, weights: float = MODEL) -> float:
        """Return the seconds of one step with M users, for a model of so many weights: scaled by counts."""
        return self.best(M) * weights / self.weights


def place(M: float) -> str:
    """Say where lines cross: "at M = 18", or "at no M" for infinity."""
    return f"at M = {M:.0f}" if np.isfinite(M) else "at no M"


def ordered(kernels: Iterable[str]) -> list[str]:
    """Return kernels in the order of LINES, the others behind."""
    names = list(kernels)
    return [name for name in LINES if name in names] + [name for name in names if name not in LINES]


# --- Measuring --------------------------------------------------------------------------------------------


def matrices(name: str, shape: tuple[int, int]) -> list[QuantizedMatrix]:
    """Return random matrices [N, K], at least two, and twice the bytes of the last-level cache in all."""
    (N, K), fmt = shape, FORMATS[name]
    x = np.random.default_rng(0).standard_normal((min(N, 64), K), dtype=np.float32)
    raw = np.resize(fmt.quantize(x), (N, fmt.row_bytes(K)))
    wanted = min(hardware.beyond_caches(2), MOST)
    return [QuantizedMatrix(raw.copy(), fmt, shape) for _ in range(max(2, -(-wanted // raw.nbytes)))]


def measure(
    weights: Sequence[QuantizedMatrix],
    rows: Iterable[int] = ROWS,
    kernels: Iterable[str] = tuple(LINES),
    repeats: int = 3,
    seconds: float = bench.SWEEP,
) -> Curves:
    """Time the kernels at each M, each call with the next matrix; few rows more often than many.

    Whoever runs after the baseline finds the caches full of its floats, so the rounds are in `orders`. Where
    the seconds do not last, the M between others are left out.
    """
    (N, K), turn, names = weights[0].shape, cycle(weights), list(kernels)
    rng = np.random.default_rng(0)

    def medians(M, share):
        x, times = rng.standard_normal((M, K), dtype=np.float32), {name: [] for name in names}
        rounds = budget.rounds(repeats * (1 if M > 16 else 5), share)
        for _, order in zip(rounds, cycle(orders(names))):
            for name in order:
                w, start = next(turn), budget.clock()
                KERNELS[name](x, w)
                times[name].append(budget.clock() - start)
        return {name: float(np.median(times[name][1:])) for name in names}  # the first compiles

    found = bench.sweep(rows, medians, seconds)
    by_kernel = {name: {M: times[name] for M, times in found.items()} for name in names}
    return Curves(weights[0].format.name, N * K, by_kernel)


def orders(names: Sequence[str]) -> list[list[str]]:
    """Return orders in which each name comes as often after each of the others: a Williams design."""
    n = len(names)
    zigzag = [(i + 1) // 2 if i % 2 else -(i // 2) for i in range(n)]
    forwards = [[names[(place + shift) % n] for place in zigzag] for shift in range(n)]
    return [order for one in forwards for order in (one, one[::-1])]


# --- Figures ----------------------------------------------------------------------------------------------


def draw(curves: Curves, title: str | None = None, axes: Axes | None = None) -> Axes:
    """Draw the time for one row of x over M, and a band along the lower edge in the winner's colour."""
    axes = axes or plt.subplots(figsize=(8, 4.2))[1]
    rows = curves.rows
    for name in reversed(ordered(curves.seconds)):
        colour, mark = LINES.get(name, (plot.GREY, "x"))
        times = [1e6 * curves.seconds[name][M] / M for M in rows]
        axes.plot(rows, times, marker=mark, color=colour, ms=5, lw=1.5, label=name)
    crossings = curves.crossings()
    edges = [rows[0], *(M for _, _, M in crossings), rows[-1]]
    winners = [curves.winner(rows[0]), *(after for _, after, _ in crossings)]
    for (low, high), winner in zip(pairwise(edges), winners, strict=True):
        M = np.geomspace(low, high, 50)
        band = [1e6 * curves.time(winner, m) / m for m in M]
        axes.plot(M, band, color=LINES.get(winner, (plot.GREY,))[0], lw=11, alpha=0.35, zorder=1)
    axes.set(xscale="log", yscale="log", xlabel="M, rows of x", ylabel="µs for one row of x")
    if title is None:
        first, last = winners[0], winners[-1]
        title = f"{curves.format}: {first} wins at M = {rows[0]}, {last} at M = {rows[-1]}"
    axes.set_title(title)
    label_rows(axes, rows)
    axes.legend(fontsize="small")
    return axes


def label_rows(axes, rows):
    """Label the powers of two among the rows."""
    ticks = [M for M in rows if not M & (M - 1)]
    axes.set_xticks(ticks, ticks)
    axes.minorticks_off()


def draw_server(
    servers: Mapping[str, Curves], users: int | None = None, weights: float = MODEL, axes=None
) -> Sequence[Axes]:
    """Draw tokens a second over the number of users, in all and for each, of one or more sets of kernels."""
    if axes is None:
        axes = plt.subplots(1, 2, figsize=(10, 3.8))[1]
    styles = zip(servers.items(), (plot.BLUE, plot.RED, plot.GREY), ("D-", "^--", "o:"), strict=False)
    for (name, curves), colour, style in styles:
        steps = np.array([curves.per_token(M, weights) for M in curves.rows])
        axes[0].plot(curves.rows, curves.rows / steps, style, color=colour, ms=5, label=name)
        axes[1].plot(curves.rows, 1 / steps, style, color=colour, ms=5, label=name)
    for one, what in zip(axes, ("in all", "for each user"), strict=True):
        one.set(xscale="log", yscale="log", xlabel="users at once", ylabel=f"tokens/s {what}")
        label_rows(one, [M for M in curves.rows if not (M & (M - 1)) and M.bit_length() % 2])
        if users:
            one.axvline(users, color="0.3", ls=":")
    axes[0].set_title("More users, more tokens")
    axes[1].set_title("and fewer for each")
    axes[0].legend(fontsize="small")
    return axes


def show(curves: Curves, M: int, kernels: Iterable[str], users: int, weights: float = MODEL) -> Figure:
    """Draw the curves of some kernels with M marked, and what a server with only these gives its users."""
    some = curves.only(kernels)
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), width_ratios=(1.5, 1, 1))
    winner = some.winner(M)
    draw(some, f"{some.format}, M = {M}: {winner}", axes[0])
    axes[0].axvline(M, color="0.3", ls=":")
    draw_server({"these kernels": some}, users, weights, axes[1:])
    step = some.per_token(users, weights)
    axes[1].set_title(f"{users} users: {users / step:.3g} tokens/s")
    axes[2].set_title(f"{1 / step:.3g} for each")
    return figure


def explorer(measured: Mapping[str, Curves]) -> widgets.Widget:
    """Return a panel over {format name: curves}: choose format, M, kernels, users."""
    first = next(iter(measured.values()))
    rows = sorted(set.intersection(*(set(curves.rows) for curves in measured.values())))
    slider = {"options": rows, "continuous_update": False}
    controls = {
        "name": widgets.ToggleButtons(options=list(measured), description="format"),
        "M": widgets.SelectionSlider(value=rows[len(rows) // 2], description="M", **slider),
        "users": widgets.SelectionSlider(value=rows[0], description="users", **slider),
        "kernels": widgets.SelectMultiple(
            options=ordered(first.seconds), value=ordered(first.seconds), description="kernels", rows=5
        ),
    }

    def picture(name, M, users, kernels):
        if not kernels:
            print("Choose at least one kernel.")
            return
        show(measured[name], M, kernels, users)
        plt.show()

    left = widgets.VBox([controls[name] for name in ("name", "M", "users")])
    figure = widgets.interactive_output(picture, controls)
    return widgets.VBox([widgets.HBox([left, controls["kernels"]]), figure])
