"""This machine's ceilings: how fast it can read memory, and how fast it can multiply.

    read bandwidth   GB/s of a sum over an array too large for any cache, on 1 and on all cores
    float32 peak     GFLOP/s of BLAS on a large square product, on 1 and on all cores

A kernel that reads every weight once cannot beat the first; a product of large matrices cannot beat
the second. Each figure is the median of interleaved runs.
"""

import platform
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numba
import numpy as np
import psutil
from numba import njit, prange
from threadpoolctl import threadpool_limits

from blocks2tokens.course import bench

REPEATS = 5
GEMM_SIZE = 1536
CHUNK = 1 << 16  # float64 a piece: 512 KiB
UNKNOWN_CACHE = 32 << 20  # bytes of a last-level cache that the system does not tell


@dataclass(frozen=True)
class Machine:
    """What the machine is: processor, cores that we may use, cache sizes in bytes, memory in bytes."""

    processor: str
    cores: int
    caches: dict[str, int] = field(default_factory=dict)
    memory: int = 0


@dataclass(frozen=True)
class Ceilings:
    """Medians by number of cores: `read` in GB/s, `gemm` in GFLOP/s (a multiply and an add are two)."""

    read: dict[int, float]
    gemm: dict[int, float]


def cache_bandwidth(n_bytes: int) -> float:
    """Return the GB/s at which one core sums so many bytes again and again: they stay in a cache."""
    data = np.ones(n_bytes // 8 + 8)
    times = max(1, (64 << 20) // n_bytes)
    timing = bench.interleaved({"again": lambda: _read_again(data, times)})["again"]
    return n_bytes * times / timing.median / 1e9


def machine() -> Machine:
    """Describe this machine; what the system does not tell is left out."""
    return Machine(_processor(), numba.config.NUMBA_NUM_THREADS, _caches(), psutil.virtual_memory().total)


def measure(seconds: float = bench.BUDGET) -> Ceilings:
    """Measure this machine's ceilings, in a few seconds; `seconds` is what the rounds may take."""
    cores = sorted({1, numba.config.NUMBA_NUM_THREADS})
    data = np.ones(_array_bytes() // 8)
    a = np.ones((GEMM_SIZE, GEMM_SIZE), np.float32)
    timings = bench.interleaved(
        {("read", n): partial(_read_all, data, n) for n in cores}
        | {("gemm", n): partial(_multiply, a, n) for n in cores},
        REPEATS,
        seconds,
    )
    return Ceilings(
        {n: data.nbytes / timings["read", n].median / 1e9 for n in cores},
        {n: 2 * GEMM_SIZE**3 / timings["gemm", n].median / 1e9 for n in cores},
    )


@njit(cache=True, fastmath={"reassoc", "nsz"})
def _total(chunk):
    total = 0.0
    for i in range(chunk.size):
        total += chunk[i]
    return total


@njit(cache=True)
def _read_again(data, times):
    """Sum data, float64 [n + 8], so many times, each time a little further on: or it would be summed once."""
    total = 0.0
    for i in range(times):
        total += _total(data[i % 8 : data.size - 8 + i % 8])
    return total


@njit(parallel=True, cache=True)
def _read(data, sums):
    """Sum each chunk of data, float64 [n], into sums, float64 [n / CHUNK]: every byte is read once.

    The loop over a chunk is a function of its own: inside the parallel one LLVM would not vectorize it,
    and adding, not reading, would set the pace.
    """
    for c in prange(sums.size):
        sums[c] = _total(data[c * CHUNK : (c + 1) * CHUNK])


def _read_all(data, n_threads):
    sums = np.empty(data.size // CHUNK)
    before = numba.get_num_threads()
    numba.set_num_threads(n_threads)
    try:
        _read(data, sums)
    finally:
        numba.set_num_threads(before)


def _multiply(a, n_threads):
    with threadpool_limits(n_threads, "blas"):
        return a @ a


def beyond_caches(times: int = 2, least: int = 0) -> int:
    """Return so many times the bytes of the last-level cache; at most an eighth of the free memory."""
    wanted = max(least, times * max(machine().caches.values(), default=UNKNOWN_CACHE))
    return min(wanted, psutil.virtual_memory().available // 8)


def against_cache(n_bytes: int) -> str:
    """Say how so many bytes compare with the largest cache."""
    largest = max(machine().caches.values(), default=0)
    if not largest:
        return f"{n_bytes / 2**20:,.0f} MiB; this system does not tell its caches"
    held = f"{n_bytes / 2**20:,.0f} MiB in all, the largest cache has {largest / 2**20:,.0f}"
    if n_bytes > largest:
        return held
    return f"{held}: it may hold them, there was no memory for more"


def _array_bytes():
    """Four times the last-level cache, at least 256 MB, in whole chunks."""
    return max(1, beyond_caches(4, 256 << 20) // (8 * CHUNK)) * 8 * CHUNK


def _processor():
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _caches():
    """Return {"L1d": bytes, "L2": bytes, ...} as Linux lists them; empty on other systems."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    sizes = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        if kind != "Instruction":
            name = f"L{level}" + ("d" if kind == "Data" else "")
            sizes[name] = int(size[:-1]) * units[size[-1]] if size[-1] in units else int(size)
    return sizes
