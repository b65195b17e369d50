"""Speed: how fast this machine reads, and how long a message takes; a fraction of a second each.

read_bandwidth()         bytes a second, one thread, of memory that is in no cache
hop_seconds(ranks, n)    seconds that a message of n bytes takes, one way: half of there and back
all_reduce_seconds(...)  seconds of a sum of n bytes that all ranks have in the end
"""

import time

import numpy as np

from blocks2tokens.parallel.ranks import Ranks

READ = 1 << 27  # bytes: more than caches hold of it


def read_bandwidth() -> float:
    """Return the bytes a second that one thread reads; the best of three."""
    data = np.ones(READ // 8, np.int64)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        data.max()
        seconds.append(time.perf_counter() - start)
    return READ / min(seconds)


def hop_seconds(ranks: Ranks, n_bytes: int, rounds: int = 50) -> float:
    """Return the seconds of a message from rank 0 to rank 1, on each rank: the median of so many rounds."""
    data, seconds = np.zeros(n_bytes, np.uint8), []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        if ranks.rank == 0:
            ranks.send(data, 1)
            ranks.receive(data, 1)
        elif ranks.rank == 1:
            ranks.receive(data, 0)
            ranks.send(data, 0)
        seconds.append((time.perf_counter() - start) / 2)
    return ranks.told(float(np.median(seconds[1:])))


def all_reduce_seconds(ranks: Ranks, n_bytes: int, between: int, rounds: int = 50) -> float:
    """Return the seconds of a sum over all ranks of n bytes of float32; the median of so many rounds.

    Before each, every rank reads `between` bytes, as a model does: what is sent, and the code that sends it,
    are in no near cache then. A rank that comes early waits; counted are the seconds of the last.
    """
    data, work, seconds = np.zeros(n_bytes // 4, np.float32), np.ones(max(1, between // 8)), []
    for _ in range(rounds + 1):
        work.sum()
        start = time.perf_counter()
        ranks.add_up(data)
        seconds.append(time.perf_counter() - start)
    return float(np.median(np.min(ranks.all_have(seconds), axis=0)[1:]))
