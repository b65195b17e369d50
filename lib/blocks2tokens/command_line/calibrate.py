"""calibrate: time the kernels of some formats again, keep the fastest, and show what the others cost."""

import os

from numba import get_num_threads

from blocks2tokens.formats import FORMATS
from blocks2tokens.jit import cpu
from blocks2tokens.kernels import candidates, picker


def run(args) -> None:
    """Measure anew for each format and print a table: a row for each kernel, a column for each M."""
    print(f"{cpu.chosen()}, {get_num_threads()} threads, load {load()}; ms for one product, * is taken")
    for name in args.formats or USUAL:
        fmt = FORMATS[name]
        kernels = candidates(fmt)
        times = picker.measure_anew(fmt, kernels)
        taken = picker.fastest(times, tuple(kernels.values()))
        print(f"\n{name:22}" + "".join(f"{f'M = {M}':>10}" for M in picker.ROWS))
        for kernel in kernels:
            print(
                f"{kernel:22}"
                + "".join(cell(times.get((kernel, M)), taken[M][0] == kernel) for M in picker.ROWS)
            )


USUAL = ("Q4_K", "Q5_K", "Q6_K", "Q8_0", "Q4_0", "Q4_1", "Q5_0")  # what most files are made of


def cell(seconds, is_taken):
    return f"{'-':>9} " if seconds is None else f"{seconds * 1e3:9.3f}{'*' if is_taken else ' '}"


def load() -> str:
    """Return how many processes wanted a core in the last minute, where the system tells."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
