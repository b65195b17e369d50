"""The life of one weight: from memory to the multiplication, and what it moves on its way.

    registers        unpack        multiply        fused_rows: 0.562 bytes through memory, unpacked once
    cache       0.56/      \\4   4/
    memory      ___/        \\___/

Legs are in bytes for one weight and one product of M rows of x; how often it is unpacked is what the
kernel's `cost` counts. What a cache keeps for the next row does not go through memory again.
"""

from collections.abc import Iterable
from math import ceil
from typing import NamedTuple

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from blocks2tokens.course import plot
from blocks2tokens.formats import Format
from blocks2tokens.jit import cpu
from blocks2tokens.jit.lanes import ISAS
from blocks2tokens.kernels import KERNELS

MEMORY, CACHE, REGISTERS = LEVELS = range(3)
NAMES = ("memory", "cache", "registers")
K, N = 4096, 2048
FLOAT, CODE = 4, 1  # bytes of a decoded weight, of a code in a byte
VECTORS = ("simd_dot", "simd_tiles", "integer_gemm")  # without vector code: plain loops, as integer_dot


class Leg(NamedTuple):
    """One way of a weight to a level: bytes each time, how many times, and what happens there."""

    to: int
    n_bytes: float
    times: int = 1
    there: str = ""


def rows_of_a_tile() -> int:
    """Return how many rows of x `integer_gemm` takes at a time."""
    return ISAS[cpu.chosen()].tile


def life(name: str, M: int, fmt: Format) -> list[Leg]:
    """Return the legs of a weight, from memory on, in a product of M rows of x."""
    packed = fmt.bytes_per_block / fmt.block_size
    fetch = [Leg(CACHE, packed)]
    unpack = [*fetch, Leg(REGISTERS, packed, 1, "unpack")]
    use = "multiply"
    copy = [Leg(MEMORY, FLOAT), Leg(CACHE, FLOAT)]
    if name == "phase0_baseline":
        turned = [*copy, Leg(REGISTERS, FLOAT, 1, "turn"), *copy]
        return [*unpack, *turned, Leg(REGISTERS, FLOAT, M, use)]
    if name in ("dequantize_then_blas", "phase3a_block_cache"):  # a map of all weights is a copy, too
        return [*unpack, *copy, Leg(REGISTERS, FLOAT, M, use)]
    if name == "fused_rows":
        return [*unpack, Leg(CACHE, FLOAT), Leg(REGISTERS, FLOAT, M, use)]
    if name == "integer_dot" or (name in VECTORS and cpu.chosen() not in ISAS):
        return [*unpack, Leg(CACHE, CODE), Leg(REGISTERS, CODE, M, use)]
    if name == "integer_gemm":
        return [*unpack, Leg(CACHE, CODE), Leg(REGISTERS, CODE, ceil(M / rows_of_a_tile()), use)]
    if name in ("simd_dot", "simd_tiles", "your kernel"):
        return [*fetch, Leg(REGISTERS, packed, round(times_unpacked(name, M, fmt)), f"unpack, {use}")]
    return [*fetch, Leg(REGISTERS, unpacked_bytes(name, M, fmt), M, f"unpack, {use}")]


def times_unpacked(name: str, M: int, fmt: Format) -> float:
    """Return how many weights the kernel decodes for each that the matrix has."""
    name = "simd_dot" if name == "your kernel" else name
    if name in VECTORS and cpu.chosen() not in ISAS:
        name = "integer_dot"  # which then runs in its place
    return KERNELS[name].cost(M, K, N, fmt, 1).elements_decoded / (K * N)


def unpacked_bytes(name: str, M: int, fmt: Format) -> float:
    """Return the bytes that the kernel reads to unpack one weight once, by its count."""
    kernel = KERNELS["simd_dot" if name == "your kernel" else name]
    return (kernel.cost(M, K, N, fmt, 1).bytes_read - 4 * M * K) / (K * N * M)


def through_memory(legs: Iterable[Leg]) -> float:
    """Return the bytes that go between memory and the rest."""
    total, at = 0.0, MEMORY
    for leg in legs:
        total += leg.n_bytes * leg.times * (MEMORY in (at, leg.to))
        at = leg.to
    return total


def draw_life(name: str, M: int, fmt: Format, axes: Axes, n_legs: int) -> None:
    """Draw the legs of a weight from left to right, as many as the longest life in the figure has."""
    at, came_down, legs = MEMORY, False, life(name, M, fmt)
    for x, leg in enumerate(legs):
        up = leg.to > at
        style = {
            "arrowstyle": "-|>",
            "lw": min(6.0, 1 + leg.n_bytes**0.5),
            "color": plot.BLUE if up else plot.RED,
        }
        axes.annotate("", (x + 1, leg.to), (x, at), arrowprops=style)
        times = f" × {leg.times:,}" if leg.times > 1 else ""
        middle = (x + 0.5, (at + leg.to) / 2)
        left = up and not came_down  # where no other arrow is
        style = {"size": 9, "ha": "right" if left else "left", "va": "center", "textcoords": "offset points"}
        place = (-7, 2) if left else (7, -3 if up else 5)  # a way down leaves room above it
        axes.annotate(f"{leg.n_bytes:.3g} B{times}", middle, place, **style)
        if leg.there:
            axes.text(x + 1, leg.to + 0.22, leg.there, ha="center", size=9)
        at, came_down = leg.to, not up
    times = times_unpacked(name, M, fmt)
    often = "once" if times == 1 else f"{times:,.0f}×"
    axes.set_title(f"{name}: {through_memory(legs):.2f} B through memory, unpacked {often}", size="small")
    axes.set(xlim=(-0.9, n_legs + 0.7), ylim=(-0.35, 2.6), xticks=[])
    axes.set_yticks(LEVELS, NAMES)


def strips(names: Iterable[str], M: int, fmt: Format) -> list[Axes]:
    """Draw a strip for each kernel, two beside each other."""
    names = list(names)
    n_legs = max(len(life(name, M, fmt)) for name in names)
    lines = ceil(len(names) / 2)
    figure, axes = plt.subplots(lines, 2, figsize=(11, 0.5 + 1.75 * lines), squeeze=False)
    for name, one in zip(names, axes.flat, strict=False):
        draw_life(name, M, fmt, one, n_legs)
    for one in axes.flat[len(names) :]:
        one.axis("off")
    rows = "one row" if M == 1 else f"{M:,} rows"
    figure.suptitle(f"The life of one weight of {fmt.name}, {rows} of x", weight="bold", x=0.01, ha="left")
    return list(axes.flat[: len(names)])
