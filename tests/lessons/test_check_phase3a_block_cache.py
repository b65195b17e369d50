"""What learners write in lesson 11, for test_check_learners.py, and what is the lesson's own."""

import numpy as np
import pytest

from blocks2tokens.course.lessons.phase3a_block_cache import exercises as lesson

NAMES = {e.name: e for e in lesson.EXERCISES}


def asked(f=lambda k, j, K, N: k * N + j, answer=lambda f, size: f // size, once=False):
    def blocks_asked_for(j, K, N, block_size):
        blocks = [answer(f(k, j, K, N), block_size) for k in range(K)]
        return sorted(set(blocks)) if once else blocks

    return blocks_asked_for


def hit_rate(
    misses=lambda M, K, N, size, workers: workers * K * N / size, of=None, answer=lambda miss: 1 - miss
):
    def cache_hit_rate(M, K, N, block_size, workers):
        lookups = of(M, K, N, workers) if of else M * K * N
        return answer(misses(M, K, N, block_size, workers) / lookups)

    return cache_hit_rate


def by_counting(M, K, N, block_size, workers):
    hits = 0
    for worker in range(workers):
        cache = set()
        for _ in range(worker * M // workers, (worker + 1) * M // workers):
            for f in range(K * N):
                hits += f // block_size in cache
                cache.add(f // block_size)
    return hits / (M * K * N)


def fetch(
    first="read",
    look_again=True,
    keep=True,
    unlock_hit=True,
    unlock_miss=True,
    early=False,
    leave_before=True,
):
    """A fetch with a place for each mistake."""

    def fetch_block(cache, lock, decode, block):
        if first == "read":
            lock.lock_to_read()
        if first == "write":
            lock.lock_to_write()
        if block in cache:
            weights = cache[block]
            if unlock_hit:
                (lock.unlock_write if first == "write" else lock.unlock_read)()
            return weights
        if first == "read" and leave_before:
            lock.unlock_read()
        decoded = decode(block) if early else None
        if first != "write":
            lock.lock_to_write()
        if not look_again or block not in cache:
            decoded = decode(block) if decoded is None else decoded
            if not keep:
                lock.unlock_write()
                return decoded
            cache[block] = decoded
        weights = cache[block]
        if unlock_miss:
            lock.unlock_write()
        return weights

    return fetch_block


def without_a_write_lock(cache, lock, decode, block):
    lock.lock_to_read()
    if block not in cache:
        cache[block] = decode(block)
    weights = cache[block]
    lock.unlock_read()
    return weights


def kept_nowhere(cache, lock, decode, block):
    lock.lock_to_read()
    found = cache.get(block)
    lock.unlock_read()
    if found is None:
        found = decode(block)
    return found


def unlocks_twice(cache, lock, decode, block):
    lock.lock_to_read()
    lock.unlock_read()
    lock.unlock_read()


def unlocks_a_writer(cache, lock, decode, block):
    lock.unlock_write()


def reads_while_writing(cache, lock, decode, block):
    lock.lock_to_write()
    lock.lock_to_read()


def workers(M, cores):
    return 1 if M < 32 else min(cores, M)


def held(each=4, maps=workers, size=lambda M, K, N: K * N):
    def cache_bytes(M, K, N, cores):
        return each * maps(M, cores) * size(M, K, N)

    return cache_bytes


def along_rows(add=True, begin=lambda place: place, next_block=True, each=False):
    def multiply(a, fetch, N, block_size):
        out = np.zeros((a.shape[0], N), np.float32)
        for i in range(a.shape[0]):
            for k in range(a.shape[1]):
                f, end = k * N, (k + 1) * N
                while f < end:
                    place = f % block_size
                    n = 1 if each else min(block_size - place, end - f)
                    w = fetch(f // block_size)[begin(place) : begin(place) + n]
                    at = slice(f - k * N, f - k * N + n)
                    out[i, at] = a[i, k] * w + (out[i, at] if add else 0)
                    f = f + n if next_block else end
        return out

    return multiply


def each_block_once(a, fetch, N, block_size):
    """Fewer look-ups than asked for, which is as right."""
    K = a.shape[1]
    B = np.concatenate([fetch(block) for block in range(K * N // block_size)])
    return a @ B.reshape(K, N)


def down_the_columns(a, fetch, N, block_size):
    out = np.zeros((a.shape[0], N), np.float32)
    for i in range(a.shape[0]):
        for j in range(N):
            last = None
            for k in range(a.shape[1]):
                f = k * N + j
                if f // block_size != last:
                    last = f // block_size
                    w = fetch(last)
                out[i, j] += a[i, k] * w[f % block_size]
    return out


FETCH, FEW = "fetch_block", "multiply_with_few_look_ups"
WRONG = [
    ("cache_hit_rate", hit_rate(lambda M, K, N, size, w: w * (K * N // size)), "begin a fourth block"),
    ("cache_hit_rate", hit_rate(), "are not 3.75 blocks of 8"),
    (
        "cache_hit_rate",
        hit_rate(lambda M, K, N, size, w: -(-K * N // size)),
        "one map for all",
    ),
    ("blocks_asked_for", asked(lambda k, j, K, N: j * K + k), "you go along a row of B^T"),
    ("blocks_asked_for", asked(lambda k, j, K, N: j * N + k), "k and j are exchanged"),
    ("blocks_asked_for", asked(answer=lambda f, size: f % size), "these are places in a block"),
    ("blocks_asked_for", asked(once=True), "you list each block once"),
    ("blocks_asked_for", asked(lambda k, j, K, N: k * N), "j is missing"),
    ("blocks_asked_for", asked(answer=lambda f, size: f), "these are numbers of weights"),
    ("cache_hit_rate", hit_rate(answer=lambda miss: miss), "this is the share of the misses"),
    ("cache_hit_rate", hit_rate(lambda M, K, N, size, w: K * N / size), "you count one map for all"),
    ("cache_hit_rate", hit_rate(lambda M, K, N, size, w: w * K * N), "you count a miss for each weight"),
    ("cache_hit_rate", hit_rate(lambda M, K, N, size, w: M * K * N / size), "for each row of a"),
    ("cache_hit_rate", hit_rate(of=lambda M, K, N, w: K * N), "you leave out the rows"),
    ("cache_hit_rate", hit_rate(of=lambda M, K, N, w: M * K * N / w), "against the look-ups of one"),
    ("cache_hit_rate", hit_rate(answer=lambda miss: 100 - 100 * miss), "per cent"),
    (FETCH, fetch(look_again=False), "you do not look again under the write lock"),
    (FETCH, fetch(early=True), "you decode before you have the write lock"),
    (FETCH, fetch("write"), "you take the write lock for every look-up"),
    (FETCH, fetch(keep=False), "do not keep it"),
    (FETCH, kept_nowhere, "without keeping it"),
    (FETCH, fetch(unlock_hit=False), "on a hit you return and keep the read lock"),
    (FETCH, fetch(unlock_miss=False), "on a miss you return and keep the write lock"),
    (FETCH, fetch(unlock_hit=False, unlock_miss=False), "unlock before each return"),
    ("cache_bytes", held(maps=lambda M, cores: 1), "you count one map"),
    ("cache_bytes", held(each=1), "you count weights"),
    ("cache_bytes", held(each=1, size=lambda M, K, N: K * N // 256 * 176), "you count encoded bytes"),
    ("cache_bytes", held(maps=lambda M, cores: cores), "you count a map for each core"),
    ("cache_bytes", held(maps=lambda M, cores: min(M, cores)), "you split any number of rows"),
    ("cache_bytes", held(maps=lambda M, cores: cores if M >= 32 else 1), "more workers than rows"),
    ("cache_bytes", held(size=lambda M, K, N: M * N), "M * N is the result"),
    ("cache_bytes", lambda M, K, N, cores: 4 * K * N // workers(M, cores), "divide the blocks among"),
    (FEW, along_rows(each=True), "you still look up every weight"),
    (FEW, down_the_columns, "you still go down the columns"),
    (FEW, along_rows(next_block=False), "go on with the next one"),
    (FEW, along_rows(add=False), "only the last k is left"),
    (FEW, along_rows(begin=lambda place: 0), "from the beginning of its block"),
]


AGAINST_THE_RULES = [
    (fetch(first=None), "you look into the map without a lock", "if block in cache:"),
    (fetch(leave_before=False), "you ask to write while you still read", "lock.lock_to_write()"),
    (without_a_write_lock, "you change the map without the write lock", "cache[block] = decode(block)"),
    (unlocks_twice, "a read lock that you do not have", "lock.unlock_read()"),
    (unlocks_a_writer, "a write lock that you do not have", "lock.unlock_write()"),
    (reads_while_writing, "you ask to read while you still write", "lock.lock_to_read()"),
]


@pytest.mark.parametrize(
    ("function", "phrase", "line"), AGAINST_THE_RULES, ids=[phrase for _, phrase, _ in AGAINST_THE_RULES]
)
def test_what_would_hang_is_named_with_its_line(function, phrase, line):
    verdict = NAMES[FETCH].judge(function)
    assert verdict.kind == "wrong" and phrase in verdict.message and f'the line "{line}"' in verdict.message


def over_the_end(a, fetch, N, block_size):
    out = np.zeros((len(a), N), np.float32)
    for i in range(len(a)):
        for k in range(a.shape[1]):
            block, place = divmod(k * N, block_size)
            out[i] += a[i, k] * fetch(block)[place : place + N]
    return out


def over_the_end_one_by_one(a, fetch, N, block_size):
    out = np.zeros((len(a), N), np.float32)
    for i in range(len(a)):
        for k in range(a.shape[1]):
            block, place = divmod(k * N, block_size)
            weights = fetch(block)
            for j in range(N):
                out[i, j] += a[i, k] * weights[place + j]
    return out


@pytest.mark.parametrize("function", [over_the_end, over_the_end_one_by_one])
def test_a_run_over_the_end_of_a_block_is_explained(function):
    message = NAMES[FEW].judge(function).message
    assert "Error" in message and "reach over the end of its block" in message


def into_what_was_fetched(a, fetch, N, block_size):
    out = np.zeros((len(a), N), np.float32)
    for i in range(len(a)):
        for k in range(a.shape[1]):
            weights = fetch(k * N // block_size)
            weights *= a[i, k]
    return out


def test_writing_into_what_was_fetched_is_refused():
    message = NAMES[FEW].judge(into_what_was_fetched).message
    assert "belong to somebody else" in message and "over the end" not in message


RIGHT = {
    "blocks_asked_for": [asked()],
    "cache_hit_rate": [by_counting],
    FETCH: [fetch()],
    "cache_bytes": [held()],
    FEW: [along_rows()],
}


def test_fewer_look_ups_than_the_engine_are_right():
    assert NAMES[FEW].judge(each_block_once).kind == "right"
