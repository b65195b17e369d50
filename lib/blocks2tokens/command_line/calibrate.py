"""calibrate: measure again what the engine chose on this machine, and show what the others cost."""

import os

from numba import get_num_threads

from blocks2tokens.formats import FORMATS
from blocks2tokens.jit import cpu
from blocks2tokens.kernels import autotune, candidates, prefetching


def run(args) -> None:
    """Measure anew and print: GB/s of each way to prefetch, and for each format ms of each kernel and M."""
    print(f"{cpu.chosen()}, {get_num_threads()} threads, load {load()}; * is taken")
    if cpu.chosen() != "plain":
        print_prefetching()
    print("\nms for one product")
    for name in args.formats or USUAL:
        fmt = FORMATS[name]
        kernels = candidates(fmt)
        times = autotune.measure_anew(fmt, kernels)
        taken = autotune.fastest(times, tuple(kernels.values()))
        print(f"\n{name:22}" + "".join(f"{f'M = {M}':>10}" for M in autotune.ROWS))
        for kernel in kernels:
            print(
                f"{kernel:22}"
                + "".join(cell(times.get((kernel, M)), taken[M][0] == kernel) for M in autotune.ROWS)
            )


def print_prefetching() -> None:
    """Print the GB/s of each way to ask for weights in advance."""
    found = prefetching.measure_anew()
    print("\nprefetch: places at a time, level of cache, GB/s")
    for way, speed in found.items():
        taken = "*" if way == prefetching.fastest(found) else ""
        print(f"{way.streams:8} {f'L{way.level}' if way.streams else 'none':>6} {speed:9.1f}{taken}")


USUAL = ("Q4_K", "Q5_K", "Q6_K", "Q8_0", "Q4_0", "Q4_1", "Q5_0")  # what most files are made of


def cell(seconds, is_taken):
    return f"{'-':>9} " if seconds is None else f"{seconds * 1e3:9.3f}{'*' if is_taken else ' '}"


def load() -> str:
    """Return how many processes wanted a core in the last minute, where the system tells."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
