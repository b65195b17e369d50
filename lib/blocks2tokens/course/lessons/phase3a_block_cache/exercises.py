"""Lesson 11, Phase 3a, the block cache: what it is asked for, how often it has it, what it holds and costs.

blocks_asked_for             j, K, N, block size           -> the blocks of one inner loop
cache_hit_rate               sizes, block size, workers    -> share of look-ups that hit
fetch_block                  cache, lock, decode, block    -> weights; looks again under the write lock
cache_bytes                  M, K, N, cores                -> bytes that the maps hold
multiply_with_few_look_ups   a, fetch, N, block size       -> a @ B, one look-up for each run of a block
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from blocks2tokens.course.check.bounds import checked
from blocks2tokens.course.check.exercise import Exercise, Mistake, _explain_exception, _is_empty
from blocks2tokens.formats import FORMATS
from blocks2tokens.kernels.report import phase2_optimized_fused, phase3a_block_cache

FORMAT = FORMATS["Q5_K"]


# blocks_asked_for: j, K, N, block_size -> int [K]


def blocks_asked_for(j, K, N, block_size):
    """Return the block of each weight (0, j), (1, j) ... (K - 1, j) of B [K, N], int [K]."""
    return (np.arange(K) * N + j) // block_size


def asked_cases():
    return {
        "j 0, K 4, N 6, blocks of 8": (0, 4, 6, 8),
        "j 2, K 4, N 6, blocks of 8": (2, 4, 6, 8),
        "j 5, K 8, N 6, blocks of 8": (5, 8, 6, 8),
        "j 100, K 16, N 128, blocks of 256": (100, 16, 128, 256),
        "j 300, K 8, N 384, blocks of 256": (300, 8, 384, 256),
    }


ASKED = Exercise(
    name="blocks_asked_for",
    engine=blocks_asked_for,
    cases=asked_cases,
    mistakes=(
        Mistake(
            lambda j, K, N, size: (j * K + np.arange(K)) // size,
            "you go along a row of B^T: B is stored row by row, so weight (k, j) is number k * N + j and "
            "one more k skips N weights",
        ),
        Mistake(
            lambda j, K, N, size: (j * N + np.arange(K)) // size,
            "k and j are exchanged: weight (k, j) is number k * N + j",
        ),
        Mistake(
            lambda j, K, N, size: (np.arange(K) * N + j) % size,
            "these are places in a block: the number of the block is the quotient, not the remainder",
        ),
        Mistake(
            lambda j, K, N, size: np.unique((np.arange(K) * N + j) // size),
            "you list each block once: the inner loop asks K times, again and again for the same block",
        ),
        Mistake(
            lambda j, K, N, size: np.arange(K) * N // size,
            "j is missing: in most columns a block ends at another k than in column 0",
        ),
        Mistake(
            lambda j, K, N, size: np.arange(K) * N + j,
            "these are numbers of weights: divide by block_size, without remainder",
        ),
    ),
    hints=(
        "Weight (k, j) is number k * N + j of the flat matrix. Which block of block_size weights is that in?",
        "Number the weight first, then divide without remainder. np.arange(K) in the place of k gives all K "
        "at once.",
    ),
)


# cache_hit_rate: M, K, N, block_size, workers -> share


def cache_hit_rate(M, K, N, block_size, workers):
    """Return the share of the look-ups that hit, with an own map for each worker."""
    lookups = M * K * N
    blocks = -(-K * N // block_size)  # a block that is only begun counts
    misses = workers * blocks
    return 1 - misses / lookups


def rate_cases():
    return {
        "the report's size and workers": (128, 128, 128, 256, 16),
        "two workers": (128, 128, 128, 256, 2),
        "one row": (1, 64, 512, 256, 1),
        "tiny": (2, 4, 6, 8, 1),
        "as many workers as rows": (32, 64, 16, 256, 32),
        "30 weights in blocks of 8": (3, 5, 6, 8, 1),
    }


def begun_blocks(K, N, size):
    return -(-K * N // size)


def rate_with(blocks, hits=lambda missed: 1 - missed, workers=lambda M, workers: workers, rows=None):
    """Return the rate with a place for each mistake; rows: those whose look-ups count."""

    def rate(M, K, N, size, n_workers):
        of = M if rows is None else rows(M, n_workers)
        return hits(workers(M, n_workers) * blocks(K, N, size) / (of * K * N))

    return rate


HIT_RATE = Exercise(
    name="cache_hit_rate",
    engine=cache_hit_rate,
    cases=rate_cases,
    tolerance=1e-9,
    mistakes=(
        Mistake(
            rate_with(lambda K, N, size: K * N // size),
            "right where blocks end with the matrix: 30 weights begin a fourth block of 8, which is missed "
            "as well. Round the number of blocks up",
        ),
        Mistake(
            rate_with(lambda K, N, size: K * N / size),
            "right where blocks end with the matrix: 30 weights are not 3.75 blocks of 8, but 4, and the "
            "last is missed as a whole. Round the number of blocks up",
        ),
        *(
            mistake
            for blocks in (begun_blocks, lambda K, N, size: K * N // size, lambda K, N, size: K * N / size)
            for mistake in (
                Mistake(
                    rate_with(blocks, hits=lambda missed: missed),
                    "this is the share of the misses: the rest are hits",
                ),
                Mistake(
                    rate_with(blocks, workers=lambda M, workers: 1),
                    "you count one map for all: each worker has its own, and misses each block once",
                ),
                Mistake(
                    rate_with(blocks, workers=lambda M, workers: M),
                    "you count a miss of each block for each row of a: nothing is evicted, so the second row "
                    "finds all that the first one fetched",
                ),
                Mistake(
                    rate_with(blocks, rows=lambda M, workers: 1),
                    "you leave out the rows: there are M * K * N look-ups, not K * N",
                ),
                Mistake(
                    rate_with(blocks, rows=lambda M, workers: M / workers),
                    "you count the misses of all workers against the look-ups of one: each has M / workers "
                    "rows",
                ),
                Mistake(
                    rate_with(blocks, hits=lambda missed: 100 * (1 - missed)),
                    "these are per cent: a share lies between 0 and 1",
                ),
            )
        ),
        Mistake(
            lambda M, K, N, size, workers: 1 - workers / M,
            "you count a miss for each weight: a miss brings a whole block of block_size weights",
        ),
    ),
    hints=(
        "There is a look-up for each multiply-add. A block is missed when a worker meets it for the first "
        "time, and never again. How many blocks are there?",
        "Each worker misses each block once; one that is only begun is a block too. -(-a // b) divides and "
        "rounds up.",
    ),
)


# Exercises that watch what a function does with what it is given, beside what it returns


def not_attempted(*arguments):
    return ...


@dataclass(frozen=True)
class Staged(Exercise):
    """An exercise whose answers are what stage(function, *arguments) saw."""

    stage: Callable | None = None
    raised: str = ""  # what an exception that comes of places and lengths most likely means

    def judge(self, function):
        if not callable(function):
            return super().judge(function)
        function = not_attempted if _is_empty(function) else checked(function)
        try:
            for arguments in self.cases().values():
                self.stage(function, *arguments)
        except Exception as error:
            frames = error.__traceback__.tb_next.tb_next  # behind this one and the stage's
            of_places = isinstance(error, ValueError | IndexError) and "read-only" not in str(error)
            note = f"\n{self.raised}" if self.raised and of_places else ""
            return self._verdict("wrong", _explain_exception(error.with_traceback(frames)) + note)
        mistakes = tuple(Mistake(partial(self.stage, m.wrong), m.message) for m in self.mistakes)
        engine = partial(self.stage, self.engine)
        played = Exercise(self.name, engine, self.cases, mistakes, self.hints, self.solution or self.engine)
        return replace(played.judge(partial(self.stage, function)), pattern=None)  # what the stage saw


# fetch_block: cache, lock, decode, block -> weights


def fetch_block(cache, lock, decode, block):
    """Return the weights of a block from the cache, a dict, which decodes and keeps a new one."""
    # and in the engine: fetch in kernels/report/phase3a_block_cache.py
    lock.lock_to_read()
    weights = cache.get(block)
    lock.unlock_read()
    if weights is not None:
        return weights
    lock.lock_to_write()
    if block not in cache:
        cache[block] = decode(block)
    weights = cache[block]
    lock.unlock_write()
    return weights


class LockError(RuntimeError):
    """What would hang or break with real workers."""


class WatchedLock:
    """A read-write lock that another worker may have just before us, and that knows its rules."""

    def __init__(self, before_writing):
        self.number, self.writes, self.before_writing = 0, 0, before_writing

    def lock_to_read(self):
        if self.number < 0:
            raise LockError("you ask to read while you still write: you wait for yourself, forever")
        self.number += 1

    def unlock_read(self):
        if self.number < 1:
            raise LockError("you give back a read lock that you do not have")
        self.number -= 1

    def lock_to_write(self):
        if self.number != 0:
            how = "read" if self.number > 0 else "write"
            raise LockError(
                f"you ask to write while you still {how}: a writer waits until nobody reads or writes, so "
                "you wait for yourself, forever"
            )
        self.before_writing()
        self.number, self.writes = -1, self.writes + 1

    def unlock_write(self):
        if self.number != -1:
            raise LockError("you give back a write lock that you do not have")
        self.number = 0


class WatchedCache(dict):
    """A map that must be read under a lock and written under a write lock."""

    def watch(self, lock):
        self.lock = lock
        return self

    def read(self):
        if self.lock.number == 0:
            raise LockError("you look into the map without a lock: another worker may be rebuilding it")

    def get(self, block, default=None):
        self.read()
        return super().get(block, default)

    def __getitem__(self, block):
        self.read()
        return super().__getitem__(block)

    def __contains__(self, block):
        self.read()
        return super().__contains__(block)

    def __setitem__(self, block, weights):
        if self.lock.number != -1:
            raise LockError("you change the map without the write lock: others may be reading it")
        super().__setitem__(block, weights)


def watch_fetch(function, kept, others, block):
    """Fetch a block from a cache of the blocks in `kept`, while another worker inserts those in `others`."""
    decoded = []

    def decode(block):
        decoded.append(block)
        return np.array([block, 0.5, -block], np.float32)

    def before_writing():
        for other in others:
            dict.__setitem__(cache, other, np.full(3, 100 + other, np.float32))

    lock = WatchedLock(before_writing)
    cache = WatchedCache({k: np.full(3, 10 + k, np.float32) for k in kept}).watch(lock)
    weights = function(cache, lock, decode, block)
    if weights is None or weights is ...:
        return weights
    return weights, len(decoded), lock.writes, lock.number, len(cache)


def fetch_cases():
    seen = "(weights, decoded, write locks, lock at the end, blocks kept)"
    return {
        f"the map has the block {seen}": ((0, 1, 2), (), 1),
        f"block 0 is there {seen}": ((0,), (), 0),
        f"the map is empty {seen}": ((), (), 3),
        f"the map has others {seen}": ((0, 1), (), 7),
        f"another worker is faster {seen}": ((0, 1), (5,), 5),
        f"another worker brings another block {seen}": ((0, 1), (4,), 5),
    }


def no_second_look(cache, lock, decode, block):
    lock.lock_to_read()
    weights = cache.get(block)
    lock.unlock_read()
    if weights is None:
        lock.lock_to_write()
        weights = cache[block] = decode(block)
        lock.unlock_write()
    return weights


def fetch_with(keep=True, unlock_hit=True, unlock_miss=True):
    """Return the right steps with a place for each mistake."""

    def fetch(cache, lock, decode, block):
        lock.lock_to_read()
        weights = cache.get(block)
        if weights is None or unlock_hit:
            lock.unlock_read()
        if weights is not None:
            return weights
        lock.lock_to_write()
        weights = cache.get(block)
        if weights is None:
            weights = decode(block)
            if keep:
                cache[block] = weights
        if unlock_miss:
            lock.unlock_write()
        return weights

    return fetch


def always_writing(cache, lock, decode, block):
    lock.lock_to_write()
    if block not in cache:
        cache[block] = decode(block)
    weights = cache[block]
    lock.unlock_write()
    return weights


def decoded_before(cache, lock, decode, block):
    lock.lock_to_read()
    weights = cache.get(block)
    lock.unlock_read()
    if weights is not None:
        return weights
    decoded = decode(block)
    lock.lock_to_write()
    weights = cache.setdefault(block, decoded)
    lock.unlock_write()
    return weights


def returned_unkept(cache, lock, decode, block):
    lock.lock_to_read()
    weights = cache.get(block)
    lock.unlock_read()
    return decode(block) if weights is None else weights


FETCH = Staged(
    name="fetch_block",
    engine=fetch_block,
    stage=watch_fetch,
    cases=fetch_cases,
    mistakes=(
        Mistake(
            no_second_look,
            "you do not look again under the write lock: between your two locks another worker may have "
            "inserted the block, and you decode it a second time and throw theirs away",
        ),
        Mistake(
            decoded_before,
            "you decode before you have the write lock: if another worker was faster, your work is lost; "
            "look again first, then decode",
        ),
        Mistake(
            always_writing,
            "you take the write lock for every look-up: readers could share the lock, and now nobody does; "
            "look with the read lock first",
        ),
        Mistake(
            fetch_with(keep=False),
            "you decode a new block and do not keep it: cache[block] = weights, or the next look-up misses "
            "again",
        ),
        Mistake(
            returned_unkept,
            "you return the decoded block without keeping it: take the write lock, look again, insert",
        ),
        Mistake(
            fetch_with(unlock_hit=False),
            "on a hit you return and keep the read lock: no writer will ever get in",
        ),
        Mistake(
            fetch_with(unlock_miss=False),
            "on a miss you return and keep the write lock: nobody else will ever get in",
        ),
        Mistake(
            fetch_with(unlock_hit=False, unlock_miss=False),
            "you return and keep the lock, on a hit and on a miss: unlock before each return",
        ),
    ),
    hints=(
        "Two parts. Read lock, cache.get(block), unlock; if that gave weights, return them. Else write "
        "lock, decode and insert, unlock, return.",
        "Between unlock_read and lock_to_write others run. So under the write lock, first ask again: "
        "if block not in cache.",
    ),
)


# cache_bytes: M, K, N, cores -> bytes


def engine_cache_bytes(M, K, N, cores):
    """Return the bytes of decoded weights that all maps hold at the end."""
    return phase3a_block_cache.KERNEL.cost(M, K, N, FORMAT, cores).temporary_bytes


def cache_bytes(M, K, N, cores):
    """Return 4 bytes for each weight of B, in the map of each worker; M below 32 has one worker."""
    # and in the engine: count in kernels/report/phase3a_block_cache.py
    workers = min(cores, M) if M >= 32 else 1
    return workers * 4 * K * N


def bytes_cases():
    sizes = (
        (128, 128, 128, 16),
        (128, 128, 128, 2),
        (32, 64, 256, 4),
        (31, 64, 256, 4),
        (1, 512, 128, 8),
        (48, 128, 64, 64),
    )
    return {f"{M} x {K} times {K} x {N} on {cores} cores": (M, K, N, cores) for M, K, N, cores in sizes}


split = phase2_optimized_fused.workers

BYTES = Exercise(
    name="cache_bytes",
    engine=engine_cache_bytes,
    solution=cache_bytes,
    cases=bytes_cases,
    mistakes=(
        Mistake(
            lambda M, K, N, cores: 4 * K * N,
            "you count one map: each worker has its own, and each ends up with all blocks",
        ),
        Mistake(
            lambda M, K, N, cores: split(M, cores) * K * N,
            "you count weights: as float32 each takes 4 bytes",
        ),
        Mistake(
            lambda M, K, N, cores: split(M, cores) * FORMAT.row_bytes(K * N),
            "you count encoded bytes: the maps hold decoded weights, 4 bytes each",
        ),
        Mistake(
            lambda M, K, N, cores: 4 * cores * K * N,
            "you count a map for each core: with less than 32 rows there is one worker, and never more "
            "workers than rows",
        ),
        Mistake(
            lambda M, K, N, cores: 4 * min(cores, M) * K * N,
            "you split any number of rows: with less than 32 rows there is one worker, as in Phase 2",
        ),
        Mistake(
            lambda M, K, N, cores: 4 * (cores if M >= 32 else 1) * K * N,
            "you have more workers than rows: there are min(cores, M) from 32 rows on",
        ),
        Mistake(
            lambda M, K, N, cores: 4 * split(M, cores) * M * N,
            "a map holds the weights, K * N of them: M * N is the result",
        ),
        Mistake(
            lambda M, K, N, cores: 4 * K * N // split(M, cores),
            "you divide the blocks among the workers: they divide the rows of a, and each row needs all "
            "blocks",
        ),
    ),
    hints=(
        "Nothing is evicted, and each row of a needs all weights. So how much does one map hold at the end?",
        "All K * N weights, as float32, in the map of each worker. How many workers are there? As in Phase "
        "2, which splits from 32 rows on.",
    ),
)


# multiply_with_few_look_ups: a float32 [M, K], fetch, N, block_size -> float32 [M, N]


def multiply_with_few_look_ups(a, fetch, N, block_size):
    """Return a @ B, float32 [M, N]; fetch(block) gives the weights of a block, float32 [block_size]."""
    M, K = a.shape
    out = np.zeros((M, N), np.float32)
    for i in range(M):
        for k in range(K):
            j = 0
            while j < N:
                block, place = divmod(k * N + j, block_size)
                run = min(block_size - place, N - j)  # weights of row k in this block
                weights = fetch(block)[place : place + run]
                out[i, j : j + run] += a[i, k] * weights
                j += run
    return out


def watch_look_ups(function, M, K, N, block_size):
    """Multiply whole numbers; few enough look-ups count as the fewest of the engine's loops.

    Neither a nor what fetch gives may be written to: the cache keeps it.
    """
    rng = np.random.default_rng(7)
    a, B = (rng.integers(-9, 10, shape).astype(np.float32) for shape in ((M, K), (K * N,)))
    a.flags.writeable = B.flags.writeable = False
    asked = []

    def fetch(block):
        asked.append(block)
        return B[block * block_size : (block + 1) * block_size]

    out = function(a, fetch, N, block_size)
    if out is None or out is ...:
        return out
    first = np.arange(K) * N
    runs = (first + N - 1) // block_size - first // block_size + 1
    return out, max(len(asked), M * int(runs.sum()))


def few_cases():
    return {
        f"{M} x {K} times {K} x {N}, blocks of {size} (product, look-ups)": (M, K, N, size)
        for M, K, N, size in ((2, 4, 8, 16), (3, 4, 6, 8), (2, 3, 16, 8), (1, 8, 8, 32), (2, 4, 12, 16))
    }


def multiply_by_runs(add=True, from_place=True):
    """Return the right loops with a place for each mistake."""

    def multiply(a, fetch, N, size):
        out = np.zeros((len(a), N), np.float32)
        for i in range(len(a)):
            for k in range(a.shape[1]):
                j = 0
                while j < N:
                    block, place = divmod(k * N + j, size)
                    run = min(size - place, N - j)
                    start = place if from_place else 0
                    before = out[i, j : j + run] if add else 0
                    out[i, j : j + run] = before + a[i, k] * fetch(block)[start : start + run]
                    j += run
        return out

    return multiply


def look_up_each_weight(a, fetch, N, size):
    out = np.zeros((len(a), N), np.float32)
    for i in range(len(a)):
        for k in range(a.shape[1]):
            for j in range(N):
                block, place = divmod(k * N + j, size)
                out[i, j] += a[i, k] * fetch(block)[place]
    return out


def look_up_at_changes_down_a_column(a, fetch, N, size):
    out = np.zeros((len(a), N), np.float32)
    for i in range(len(a)):
        for j in range(N):
            held = -1
            for k in range(a.shape[1]):
                block, place = divmod(k * N + j, size)
                if block != held:
                    weights, held = fetch(block), block
                out[i, j] += a[i, k] * weights[place]
    return out


def first_run_only(a, fetch, N, size):
    out = np.zeros((len(a), N), np.float32)
    for i in range(len(a)):
        for k in range(a.shape[1]):
            block, place = divmod(k * N, size)
            run = min(size - place, N)
            out[i, :run] += a[i, k] * fetch(block)[place : place + run]
    return out


FEW_LOOK_UPS = Staged(
    name="multiply_with_few_look_ups",
    engine=multiply_with_few_look_ups,
    stage=watch_look_ups,
    raised="does a run of yours reach over the end of its block, or of the row? It has "
    "min(block_size - place, N - j) weights, and the next look-up goes on behind it",
    cases=few_cases,
    mistakes=(
        Mistake(
            look_up_each_weight,
            "the product is right, and you still look up every weight: the weights from place to the end "
            "of the block, or of row k, come from one look-up",
        ),
        Mistake(
            look_up_at_changes_down_a_column,
            "the product is right, and you still go down the columns, where the block changes all the "
            "time: go along row k of B instead, i, k, j",
        ),
        Mistake(
            first_run_only,
            "you take one block for each row of B: when a row crosses the end of a block, go on with the "
            "next one",
        ),
        Mistake(
            multiply_by_runs(add=False),
            "only the last k is left: add to out with +=",
        ),
        Mistake(
            multiply_by_runs(from_place=False),
            "you take every run from the beginning of its block: it begins at place",
        ),
    ),
    hints=(
        "Turn the inner loops: for i, for k, then along row k of B, whose weights are neighbours. "
        "divmod(k * N + j, block_size) tells where a run begins; it ends with the block or with the row.",
        "A run has min(block_size - place, N - j) weights: weights place, place + 1, ... of the block, for "
        "columns j, j + 1, ... of out. The next run begins at j + run.",
    ),
)

EXERCISES = [ASKED, HIT_RATE, FETCH, BYTES, FEW_LOOK_UPS]
