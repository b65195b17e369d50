"""What learners write in lesson 17, for test_check_learners.py, and what is the lesson's own."""

import math

import numpy as np

from blocks2tokens.course.lessons.crossover import exercises as lesson

NAMES = {e.name: e for e in lesson.EXERCISES}


def meet(solve, never=math.inf):
    """Return a learner's crossing: solve, unless the lines are parallel or M is not above 0."""

    def crossing(a1, b1, a2, b2):
        if b1 == b2:
            return never
        M = solve(a1, b1, a2, b2)
        return M if never is ... or M > 0 else never

    return crossing


def any_sign(solve):
    return lambda a1, b1, a2, b2: math.inf if b1 == b2 else solve(a1, b1, a2, b2)


def tiles(size=None, rest=True, add=True, slide=True, count="block", outer="n"):
    """Return a learner's tile_product, with this or that changed."""

    def product(blocks, x, tile):
        (N, B, _), M = blocks.shape, x.shape[0]
        step = {None: tile, "one": 1, "all": M}[size]
        starts = [m for m in range(0, M, step) if rest or m + step <= M]
        out, n_unpacked = np.zeros((M, N), int), 0
        order = [(n, m) for n in range(N) for m in starts]
        for n, m0 in order if outer == "n" else sorted(order, key=lambda pair: pair[1]):
            n_unpacked += count == "row of w"
            for b in range(B):
                q = np.empty(32, int)
                for i in range(16):
                    q[i], q[16 + i] = int(blocks[n, b, i]) % 16, int(blocks[n, b, i]) // 16
                n_unpacked += count == "block" or (count == "first row" and n == 0)
                for m in range(m0, min(M, m0 + step)):
                    part = sum(q * (x[m, 32 * b : 32 * b + 32] if slide else x[m, :32]))
                    out[m, n] = out[m, n] + part if add else part
                    n_unpacked += count == "use"
        return out, n_unpacked

    return product


def panel(place):
    """Return a learner's make_panel: place(row, k, K) says where in the panel's bytes a code goes."""

    def make(codes):
        K = codes.shape[1]
        flat = np.zeros(16 * K, codes.dtype)
        for row in range(16):
            for k in range(K):
                flat[place(row, k, K)] = codes[row, k]
        return flat.reshape(K // 4, 16, 4)

    return make


def look_up(choose):
    """Return a learner's pick: choose(sorted measured M, M) says which M counts."""
    return lambda table, M: table[choose(sorted(table), M)][0]


def below(rows, M):
    return ([m for m in rows if m <= M] or rows[:1])[-1]


def nearest(rows, M):
    return sorted(rows, key=lambda m: abs(M - m))[0]


def above(rows, M):
    return ([m for m in rows if m >= M] or rows[-1:])[0]


def strictly_below(rows, M):
    return ([m for m in rows if m < M] or rows[:1])[-1]


def fastest_of_all(table, M):
    return sorted((seconds, name) for name, seconds in table.values())[0][1]


def only_measured(table, M):
    if M in table:
        return table[M][0]
    return None


def trusts_the_order(table, M):
    found = min(table)
    for m in table:
        if m <= M:
            found = m
    return table[found][0]


def both(total, each):
    """Return a learner's batch_throughput, one number after the other."""

    def throughput(users, seconds):
        pairs = list(zip(users, seconds, strict=True))
        return [total(n, s) for n, s in pairs], [each(n, s) for n, s in pairs]

    return throughput


def meets_at_0_if_parallel(a1, b1, a2, b2):
    if b1 == b2:
        return 0.0
    M = (a2 - a1) / (b1 - b2)
    return max(M, 0) or np.inf


def divides_first(a1, b1, a2, b2):
    M = (a2 - a1) / (b1 - b2)
    return M if M > 0 else np.inf


unpack = lesson.unpack


def unpacked_in_the_innermost_loop(blocks, x, tile):
    (N, B, _), M = blocks.shape, len(x)
    out, count = np.zeros((M, N), np.int64), 0
    for n in range(N):
        for first in range(0, M, tile):
            for b in range(B):
                count += 1
                for m in range(first, min(first + tile, M)):
                    out[m, n] += unpack(blocks[n, b]) @ x[m, 32 * b : 32 * b + 32]
    return out, count


WRONG = [
    ("crossing", meets_at_0_if_parallel, "with equal b you return 0"),
    ("tile_product", unpacked_in_the_innermost_loop, "you say 12 blocks unpacked, and called unpack 48"),
    ("crossing", any_sign(lambda a1, b1, a2, b2: (a2 - a1) / (b1 - b2)), "negative M"),
    ("crossing", any_sign(lambda a1, b1, a2, b2: (a1 - a2) / (b1 - b2)), "sign is wrong"),
    ("crossing", meet(lambda a1, b1, a2, b2: (a2 - a1) / (b2 - b1)), "sign is wrong"),
    ("crossing", any_sign(lambda a1, b1, a2, b2: abs(a1 - a2) / abs(b1 - b2)), "drop the sign"),
    ("crossing", meet(lambda a1, b1, a2, b2: (b1 - b2) / (a2 - a1)), "upside down"),
    ("crossing", meet(lambda a1, b1, a2, b2: (a2 - a1) / (b1 + b2)), "divide by b1 + b2"),
    ("crossing", meet(lambda a1, b1, a2, b2: (a2 - a1) / (b1 - b2), None), "None for lines"),
    ("tile_product", tiles(size="one"), "again for each row of x"),
    ("tile_product", tiles(size="all"), "once for all rows of x"),
    ("tile_product", tiles(rest=False), "left over by whole tiles"),
    ("tile_product", tiles(add=False), "only the last block"),
    ("tile_product", tiles(slide=False), "first 32 activations for every block"),
    ("tile_product", tiles(count="row of w"), "count rows of w"),
    ("tile_product", tiles(count="first row"), "blocks of one row of w"),
    ("tile_product", tiles(count="use"), "again for each row of x"),
    ("make_panel", panel(lambda row, k, K: row * K + k), "moved nothing"),
    (
        "make_panel",
        lambda codes: np.stack(np.split(codes, codes.shape[1] // 4, 1), 1),
        "still lie row by row",
    ),
    ("make_panel", panel(lambda row, k, K: k * 16 + row), "one code of 4 rows"),
    (
        "make_panel",
        lambda codes: np.array([codes[:, k : k + 4].T for k in range(0, codes.shape[1], 4)]),
        "4, 16",
    ),
    ("make_panel", panel(lambda row, k, K: k % (K // 4) * 64 + row * 4 + k // (K // 4)), "every (K / 4)-th"),
    ("pick", look_up(nearest), "nearest measured M"),
    ("pick", look_up(above), "next measured M above"),
    ("pick", fastest_of_all, "fewest seconds of the whole table"),
    ("pick", only_measured, "only know the M"),
    ("pick", trusts_the_order, "order of the table"),
    ("pick", look_up(strictly_below), "m <= M"),
    ("pick", lambda table, M: table[below(sorted(table), M)], "kernel and seconds"),
    ("batch_throughput", both(lambda n, s: 1 / s, lambda n, s: n / s), "exchanged"),
    ("batch_throughput", both(lambda n, s: 1 / s, lambda n, s: 1 / s / n), "share one token"),
    ("batch_throughput", both(lambda n, s: n / s, lambda n, s: 1 / s / n), "once too often"),
    ("batch_throughput", both(lambda n, s: n / s, lambda n, s: n / s), "both are the total"),
    ("batch_throughput", both(lambda n, s: s / n, lambda n, s: s), "seconds for a token"),
    ("batch_throughput", both(lambda n, s: n * s, lambda n, s: s), "multiply by the seconds"),
]


def test_a_division_by_the_difference_of_equal_slopes_is_explained():
    message = NAMES["crossing"].judge(divides_first).message
    assert "ZeroDivisionError" in message and "return np.inf before you divide" in message
    assert "all weights are 0" not in message and "the input of a 1 and 3, both b 0.5" in message


RIGHT = {
    "crossing": [meet(lambda a1, b1, a2, b2: (a1 - a2) / (b2 - b1))],
    "tile_product": [tiles()],
    "make_panel": [panel(lambda row, k, K: k // 4 * 64 + row * 4 + k % 4)],
    "pick": [look_up(below)],
    "batch_throughput": [both(lambda n, s: n * (1 / s), lambda n, s: s**-1)],
}


def test_tiles_outermost_are_as_right():
    assert NAMES["tile_product"].judge(tiles(outer="m")).kind == "right"
