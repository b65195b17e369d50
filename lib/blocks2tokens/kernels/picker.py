"""Which kernel for this format, this many rows of x, and this machine: measured once, then looked up.

    M        1         2         4         8     ...    512       rows of x
    Q4_K     simd_dot  simd_dot  simd_tiles ...         integer_gemm

The first product with a format times the kernels on a matrix of its own for each M of ROWS, which takes a
second or two, and keeps the winners in the user's cache folder; from then on they are looked up. Between two
measured M the winner of the lower one is taken. Noise decides nothing that is beyond doubt: a kernel takes
part for the numbers of rows that it is meant for, `Kernel.rows`. The file's name holds all that the choice
depends on: the processor, the number of threads, the instruction set, and the kernels themselves.
"""

import hashlib
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
from numba import get_num_threads
from tqdm import tqdm

from blocks2tokens.formats import FORMATS, Format
from blocks2tokens.jit import cpu
from blocks2tokens.matrix import QuantizedMatrix

ROWS = (1, 2, 4, 8, 16, 32, 64, 128)  # of x
SHAPE = (1024, 2048)  # N, K of the matrix that is timed
REPEATS = 5  # timed runs of each kernel
MARGIN = 0.95  # a later kernel must be faster by this factor: noise should not decide


@dataclass(frozen=True)
class Choice:
    """A kernel's name and why it was picked."""

    kernel: str
    reason: str

    def __str__(self):
        return f"{self.kernel}: {self.reason}"


def choose(fmt: Format, M: int, candidates: dict) -> Choice:
    """Return the fastest of the candidates, {name: Kernel}, for M rows; times them if nobody did before."""
    table = winners(fmt.name, get_num_threads(), cpu.chosen(), tuple(candidates.values()))
    rows = max((m for m in table if m <= M), default=min(table))
    name, seconds = table[rows]
    return Choice(name, f"fastest for {fmt.name} at M = {rows} on this machine ({seconds * 1e3:.3g} ms)")


@cache
def winners(name: str, n_threads: int, isa: str, kernels: tuple) -> dict[int, tuple[str, float]]:
    """Return {M: (kernel, seconds)} for a format, from the cache folder or by measuring."""
    path = table_path(name, n_threads, isa, kernels)
    table = read(path, {kernel.name for kernel in kernels})
    if table is None:
        table = fastest(calibrate(FORMATS[name], kernels), kernels)
        write(path, table)
    return table


def measure_anew(fmt: Format, candidates: dict) -> dict[tuple[str, int], float]:
    """Time the candidates again and keep the new winners; return {(kernel's name, M): seconds}.

    For a machine that was busy when they were timed first.
    """
    kernels = tuple(candidates.values())
    times = calibrate(fmt, kernels)
    write(table_path(fmt.name, get_num_threads(), cpu.chosen(), kernels), fastest(times, kernels))
    winners.cache_clear()
    return times


def table_path(name, n_threads, isa, kernels):
    return folder() / f"kernels-{name}-{machine_key(n_threads, isa, kernels)}.json"


def calibrate(fmt: Format, kernels: tuple) -> dict[tuple[str, int], float]:
    """Time the kernels on a random matrix; return {(kernel's name, M): seconds}."""
    rng = np.random.default_rng(0)
    N, K = SHAPE
    row = fmt.quantize(rng.standard_normal((64, K), dtype=np.float32))
    w = QuantizedMatrix(np.tile(row, (N // 64, 1)), fmt, SHAPE)
    inputs = [rng.standard_normal((M, K), dtype=np.float32) for M in ROWS]
    return timed(kernels, inputs, w)


def fastest(times: dict, kernels: tuple) -> dict[int, tuple[str, float]]:
    """Return {M: (fastest kernel, its seconds)}."""
    table = {}
    for M in ROWS:
        candidates = [kernel.name for kernel in kernels if M in kernel.rows]
        best = min(times[name, M] for name in candidates)
        winner = next(name for name in candidates if times[name, M] * MARGIN <= best)
        table[M] = winner, times[winner, M]
    return table


def timed(kernels, inputs, w):
    """Return {(kernel's name, M): seconds}, the least of REPEATS, for each kernel that is meant for M rows.

    All are run once before any is run again: a neighbour that takes the cores for a while then disturbs
    one repeat of each, and not all repeats of one.
    """
    runs = [(kernel, x) for x in inputs for kernel in kernels if len(x) in kernel.rows]
    times = {(kernel.name, len(x)): float("inf") for kernel, x in runs}
    n_runs = (REPEATS + 1) * len(runs)
    with tqdm(total=n_runs, desc=f"choosing kernels, {w.format.name}", delay=2, leave=False) as bar:
        for repeat in range(REPEATS + 1):
            for kernel, x in runs:
                before = time.perf_counter()
                kernel.product(x, w)
                if repeat:  # the first run compiles
                    key = kernel.name, len(x)
                    times[key] = min(times[key], time.perf_counter() - before)
                bar.update()
    return times


# --- The file ---------------------------------------------------------------------------------------------


def folder() -> Path:
    """Return the folder for the tables: BLOCKS2TOKENS_CACHE, or one in the user's cache folder."""
    if chosen := os.environ.get("BLOCKS2TOKENS_CACHE"):
        return Path(chosen)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "blocks2tokens"


def machine_key(n_threads, isa, kernels):
    """Return a short hash of what the choice depends on."""
    folders = Path(__file__).parent, Path(cpu.__file__).parent
    sources = [path.read_bytes() for each in folders for path in sorted(each.glob("*.py"))]
    here = (platform.machine(), llvm.get_host_cpu_name(), n_threads, isa, *(k.name for k in kernels))
    return hashlib.sha256(repr((here, sources)).encode()).hexdigest()[:12]


def read(path, names):
    """Return the table in a file; None if there is none, or none that makes sense."""
    try:
        table = {int(M): (name, float(s)) for M, (name, s) in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return table if table and {name for name, _ in table.values()} <= names else None


def write(path, table):
    """Write the table, whole or not at all; without a place to write to it is measured again next time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, suffix=".new") as file:
            json.dump(table, file)
        os.replace(file.name, path)
    except OSError:
        pass
