"""Pages: memory comes from the system page by page, each at its first touch.

    np.empty(n)       addresses; no memory behind them yet
    first write       a page fault: the system finds a page, fills it with zeros, notes where it is
    second write      nothing of the kind

    fresh(n)          addresses that nobody has touched; large=True asks for pages of 2 MB (Linux: madvise)
    faults(f)         the page faults of this process while f runs

Source: Linux, Documentation/admin-guide/mm/transhuge.rst; getrusage(2).
"""

import mmap
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import psutil

from blocks2tokens.course import bench
from blocks2tokens.course.bench import Timing
from blocks2tokens.kernels.scratch import aligned

PAGE = mmap.PAGESIZE
LARGE = 2 << 20
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def page_faults(stretches: Iterable[tuple[int, int]], page: int) -> int:
    """Return how many pages of fresh memory are touched by stretches (start, bytes), and so faulted in."""
    touched = set()
    for start, n_bytes in stretches:
        if n_bytes:
            touched.update(range(start // page, (start + n_bytes - 1) // page + 1))
    return len(touched)


def so_far() -> int:
    """Return the page faults of this process so far."""
    try:
        import resource
    except ImportError:  # Windows
        return psutil.Process().memory_info().num_page_faults
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def faults(function: Callable) -> int:
    """Return the page faults of this process while a function runs."""
    before = so_far()
    function()
    return so_far() - before


def has_large_pages() -> bool:
    """Return whether a program may ask for large pages here."""
    return hasattr(mmap, "MADV_HUGEPAGE") and SETTING.exists() and "[never]" not in SETTING.read_text()


def fresh(n_bytes: int, large: bool = False) -> np.ndarray:
    """Return memory that nobody has touched, uint8 [n_bytes], from a multiple of 2 MB on."""
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    memory = mmap.mmap(-1, n_bytes + LARGE, **private)  # shared memory would follow another setting
    if hasattr(memory, "madvise") and hasattr(mmap, "MADV_HUGEPAGE") and SETTING.exists():
        memory.madvise(mmap.MADV_HUGEPAGE if large else mmap.MADV_NOHUGEPAGE)
    block = np.frombuffer(memory, np.uint8)
    start = aligned(block.ctypes.data, LARGE) - block.ctypes.data
    return block[start : start + n_bytes]


def write(block: np.ndarray) -> None:
    """Write every byte."""
    block.fill(1)


def touch(n_bytes: int, repeats: int, seconds: float = bench.BUDGET) -> dict[str, tuple[Timing, int]]:
    """Return {how: (time, page faults)} of writing so many bytes: again, or for the first time."""
    again = fresh(n_bytes)
    ways = {
        "again": lambda: write(again),
        "first time": lambda: write(fresh(n_bytes)),
    }
    if has_large_pages():
        ways["first time, large pages"] = lambda: write(fresh(n_bytes, large=True))
    timings = bench.interleaved(ways, repeats, seconds)
    return {how: (timing, faults(ways[how])) for how, timing in timings.items()}


def new_each_time(n_bytes: int, times: int) -> Callable[[], None]:
    """Return a function that makes an array, writes it and drops it, so many times."""

    def run():
        for _ in range(times):
            write(np.empty(n_bytes, np.uint8))

    return run


def one_for_all(n_bytes: int, times: int) -> Callable[[], None]:
    """Return a function that writes one array so many times."""
    block = np.ones(n_bytes, np.uint8)

    def run():
        for _ in range(times):
            write(block)

    return run
