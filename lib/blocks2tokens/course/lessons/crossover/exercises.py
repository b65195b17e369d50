"""Lesson 17, at which M the answer flips: two lines that cross, what to unpack how often, who to pick.

crossing           a1, b1, a2, b2     -> the M at which two kernels take the same time
tile_product       blocks, x, tile    -> x @ codes.T, and how many blocks were unpacked
make_panel         codes [16, K]      -> four codes of each of the 16 rows side by side
pick               table, M           -> the kernel for M rows
batch_throughput   users, seconds     -> tokens a second, in all and for each
"""

import numpy as np

from blocks2tokens.course.check.exercise import Exercise, Mistake
from blocks2tokens.course.check.watched import Counter, WatchedExercise, look, with_names

# crossing: a1, b1, a2, b2 -> M


def crossing(a1, b1, a2, b2):
    """Return the M > 0 at which a1 + b1 * M equals a2 + b2 * M; infinity if there is none."""
    if b1 == b2:
        return np.inf
    M = (a2 - a1) / (b1 - b2)
    return M if M > 0 else np.inf


def crossing_cases():
    return {
        "a 1 and 10, b 1 and 0.5": (1.0, 1.0, 10.0, 0.5),
        "the same two, exchanged": (10.0, 0.5, 1.0, 1.0),
        "a 0.5 and 4, b 2 and 1.75": (0.5, 2.0, 4.0, 1.75),
        "a 1 and 3, b 0.5 and 1: the first is cheaper in both": (1.0, 0.5, 3.0, 1.0),
        "a 1 and 3, both b 0.5": (1.0, 0.5, 3.0, 0.5),
    }


def ratio(top, bottom):
    """Divide; infinity for 0 / 0 and the like, as no line that is asked about gives it."""
    return top / bottom if bottom else np.inf


def positive(M):
    return M if M > 0 else np.inf


def none_if_never(a1, b1, a2, b2):
    M = crossing(a1, b1, a2, b2)
    return M if np.isfinite(M) else None


CROSSING = WatchedExercise(
    name="crossing",
    raised={
        "ZeroDivisionError": (
            "two kernels that pay the same for each row, b1 = b2, stay as far apart as they begin: they "
            "never meet, so return np.inf before you divide by b1 - b2"
        ),
    },
    engine=crossing,
    cases=crossing_cases,
    mistakes=(
        Mistake(
            lambda a1, b1, a2, b2: ratio(a2 - a1, b1 - b2),
            "you return a negative M for lines that have crossed before M = 0: no product has such a size, "
            "so they never meet, which is infinity here",
        ),
        Mistake(
            lambda a1, b1, a2, b2: ratio(a1 - a2, b1 - b2),
            "the sign is wrong: from a1 + b1 * M = a2 + b2 * M follows (b1 - b2) * M = a2 - a1",
        ),
        Mistake(
            lambda a1, b1, a2, b2: positive(ratio(a1 - a2, b1 - b2)),
            "the sign is wrong: from a1 + b1 * M = a2 + b2 * M follows (b1 - b2) * M = a2 - a1",
        ),
        Mistake(
            lambda a1, b1, a2, b2: abs(ratio(a1 - a2, b1 - b2)),
            "you drop the sign: a kernel that is cheaper in both a and b is met nowhere",
        ),
        Mistake(
            lambda a1, b1, a2, b2: positive(ratio(b1 - b2, a2 - a1)),
            "your fraction is upside down: each row pays back b1 - b2 of the difference a2 - a1",
        ),
        Mistake(
            lambda a1, b1, a2, b2: np.inf if b1 == b2 else positive((a2 - a1) / (b1 + b2)),
            "you divide by b1 + b2: each row brings the lines closer by the difference, b1 - b2",
        ),
        Mistake(
            lambda a1, b1, a2, b2: positive(ratio(a2 - a1, b1 + b2)),
            "you divide by b1 + b2: each row brings the lines closer by the difference, b1 - b2",
        ),
        Mistake(
            lambda a1, b1, a2, b2: 0.0 if b1 == b2 else crossing(a1, b1, a2, b2),
            "with equal b you return 0: such lines stay as far apart as they begin, and never meet: np.inf",
        ),
        Mistake(
            none_if_never,
            "you return None for lines that never meet: return infinity, np.inf",
        ),
    ),
    hints=(
        "Set the two lines equal and solve for M.",
        "(a2 - a1) / (b1 - b2). Before you divide, is b1 - b2 zero? And afterwards, is M above 0?",
    ),
)


# tile_product: blocks uint8 [N, B, 16], x int64 [M, 32 B], tile -> int64 [M, N], number of blocks unpacked


def unpack(block):
    """Return the 32 codes of a block, uint8 [16]: low nibbles, then high ones."""
    return np.concatenate([block & 15, block >> 4]).astype(np.int64)


def tile_product(blocks, x, tile):
    """Return x @ codes.T, int64 [M, N], and how many blocks were unpacked: once for each `tile` rows of x."""
    out, unpacked = np.zeros((len(x), len(blocks)), np.int64), 0
    for n, row in enumerate(blocks):
        for first in range(0, len(x), tile):
            for b, block in enumerate(row):
                codes = unpack(block)
                unpacked += 1
                for m in range(first, min(first + tile, len(x))):
                    out[m, n] += codes @ x[m, 32 * b : 32 * b + 32]
    return out, unpacked


def tile_cases():
    rng = np.random.default_rng(17)

    def case(M, N, B, tile):
        return (
            rng.integers(0, 256, (N, B, 16), dtype=np.uint8),
            rng.integers(-127, 128, (M, 32 * B)),
            tile,
        )

    return {
        "8 rows of x in tiles of 4": case(8, 3, 2, 4),
        "6 rows in tiles of 4: two are left over": case(6, 2, 3, 4),
        "5 rows in tiles of 1": case(5, 2, 2, 1),
        "3 rows in a tile of 8": case(3, 4, 2, 8),
    }


def unpacked_for_each_row(blocks, x, tile):
    return tile_product(blocks, x, 1)


def unpacked_for_all(blocks, x, tile):
    return tile_product(blocks, x, len(x))


def whole_tiles_only(blocks, x, tile):
    out, unpacked = np.zeros((len(x), len(blocks)), np.int64), 0
    whole = len(x) // tile * tile
    if whole:
        out[:whole], unpacked = tile_product(blocks, x[:whole], tile)
    return out, unpacked


def last_block_only(blocks, x, tile):
    return tile_product(blocks[:, -1:], x[:, -32:], tile)[0], tile_product(blocks, x, tile)[1]


def first_activations_only(blocks, x, tile):
    return tile_product(blocks, np.tile(x[:, :32], blocks.shape[1]), tile)


def counting(count):
    """Return a function with the right product and another count."""
    return lambda blocks, x, tile: (
        tile_product(blocks, x, tile)[0],
        count(blocks, -(-len(x) // tile)),
    )


@look
def blocks_unpacked(function):
    """Return what is wrong if `unpack` is called more or less often than the function says."""
    counter = Counter(unpack)
    told = int(with_names(function, unpack=counter)(*tile_cases()["8 rows of x in tiles of 4"])[1])
    if counter.calls in (0, told):
        return None
    return (
        f"the product is right; you say {told} blocks unpacked, and called unpack {counter.calls} times: it "
        "stands above the loop over the rows of a tile, beside the count"
    )


TILE = WatchedExercise(
    name="tile_product",
    looks=(blocks_unpacked,),
    engine=tile_product,
    cases=tile_cases,
    mistakes=(
        Mistake(
            unpacked_for_each_row,
            "you unpack, or count, a block again for each row of x: once for a tile, its codes then serve "
            "all rows of the tile",
        ),
        Mistake(
            unpacked_for_all,
            "you unpack each block once for all rows of x, which needs a sum for each of them at the same "
            "time: take `tile` rows at a time",
        ),
        Mistake(
            whole_tiles_only,
            "the rows of x left over by whole tiles are missing: the last tile may be a smaller one",
        ),
        Mistake(
            last_block_only,
            "only the last block of each row counts: add, +=, one block after the other",
        ),
        Mistake(
            first_activations_only,
            "you take the first 32 activations for every block: block b meets x[m, 32 * b : 32 * b + 32]",
        ),
        Mistake(
            counting(lambda blocks, tiles: len(blocks) * tiles),
            "you count rows of w unpacked: count their blocks, B for each row",
        ),
        Mistake(
            counting(lambda blocks, tiles: blocks.shape[1] * tiles),
            "you count the blocks of one row of w: there are N rows",
        ),
    ),
    hints=(
        "From outside to inside: a row of w, a tile of rows of x, a block, and last the rows of the tile.",
        "unpack(block) and `unpacked += 1` stand above the innermost loop; "
        "range(first, min(first + tile, M)) is a tile.",
    ),
)


# make_panel: codes uint8 [16, K] -> uint8 [K / 4, 16, 4]


def make_panel(codes):
    """Return codes, uint8 [16, K], as [K / 4, 16, 4]: for each 4 along K, those of 16 rows side by side."""
    rows, K = codes.shape
    return codes.reshape(rows, K // 4, 4).transpose(1, 0, 2)


def panel_cases():
    rng = np.random.default_rng(17)
    one = np.zeros((16, 32), np.uint8)
    one[3, 21] = 15
    return {
        "a ramp along K": (np.tile(np.arange(64, dtype=np.uint8), (16, 1)),),
        "each row its number": (np.repeat(np.arange(16, dtype=np.uint8)[:, None], 64, axis=1),),
        "one code, row 3, k 21": (one,),
        "random, K 64": (rng.integers(0, 16, (16, 64), dtype=np.uint8),),
        "random, K 4": (rng.integers(0, 16, (16, 4), dtype=np.uint8),),
    }


PANEL = Exercise(
    name="make_panel",
    engine=make_panel,
    cases=panel_cases,
    mistakes=(
        Mistake(
            lambda codes: codes.reshape(-1, 16, 4),
            "you renamed the places and moved nothing: the first 64 bytes are 64 codes of row 0; they should "
            "be 4 codes of each row",
        ),
        Mistake(
            lambda codes: codes.reshape(16, -1, 4),
            "your quads are cut, and still lie row by row: bring the axis of the quads to the front, "
            "[K / 4, 16, 4]",
        ),
        Mistake(
            lambda codes: codes.T.reshape(-1, 16, 4),
            "you turned single codes: lane n must hold 4 neighbours along K of row n, and yours hold one "
            "code of 4 rows",
        ),
        Mistake(
            lambda codes: codes.T.reshape(-1, 4, 16),
            "you turned single codes, [K / 4, 4, 16]: four neighbours along K of a row must stay together, "
            "[K / 4, 16, 4]",
        ),
        Mistake(
            lambda codes: codes.reshape(16, 4, -1).transpose(2, 0, 1),
            "your quads take every (K / 4)-th code: they are 4 neighbours, so 4 comes last in the reshape",
        ),
    ),
    hints=(
        "Two steps: cut each row into quads with reshape, then change the order of the axes with transpose.",
        "reshape(16, K // 4, 4) gives [row, quad, code]. Wanted is [quad, row, code].",
    ),
)


# pick: {M: (kernel, seconds)}, M -> kernel


def pick(table, M):
    """Return the winner at the largest measured M that is not above M; below all of them, at the smallest."""
    # and in the engine: choose in kernels/autotune.py
    rows = max((m for m in table if m <= M), default=min(table))
    return table[rows][0]


TABLE = {4: ("dot", 0.002), 16: ("tiles", 0.004), 64: ("panel", 0.003), 256: ("blas", 0.02)}
MIXED = {256: ("blas", 0.02), 4: ("dot", 0.002), 64: ("panel", 0.001), 16: ("tiles", 0.004)}


def pick_cases():
    return {
        "M 16, measured": (TABLE, 16),
        "M 63, just below a measured one": (TABLE, 63),
        "M 5, just above a measured one": (TABLE, 5),
        "M 1000, above all": (TABLE, 1000),
        "M 1, below all": (TABLE, 1),
        "M 20, in a table that is not in order": (MIXED, 20),
        "M 100, in that table": (MIXED, 100),
    }


def smallest_above(table, M):
    return table[min((m for m in table if m >= M), default=max(table))][0]


def last_in_order_of_table(table, M):
    return table[([m for m in table if m <= M] or [min(table)])[-1]][0]


PICK = Exercise(
    name="pick",
    engine=pick,
    cases=pick_cases,
    mistakes=(
        Mistake(
            lambda table, M: table[min(table, key=lambda m: abs(m - M))][0],
            "you take the nearest measured M, which may be above: a kernel that needs more rows to pay off "
            "has not got them yet",
        ),
        Mistake(
            smallest_above,
            "you take the next measured M above: take the largest that is not above M",
        ),
        Mistake(
            lambda table, M: min(table.values(), key=lambda choice: choice[1])[0],
            "you take the fewest seconds of the whole table: they belong to other numbers of rows",
        ),
        Mistake(
            lambda table, M: table[M][0] if M in table else None,
            "you only know the M that were measured, and return None for the others: go down to the nearest "
            "below",
        ),
        Mistake(
            last_in_order_of_table,
            "you trust the order of the table: take the largest M with max, not the last one met",
        ),
        Mistake(
            lambda table, M: table[max((m for m in table if m < M), default=min(table))][0],
            "you leave out a measured M that equals M: not above it means m <= M",
        ),
        Mistake(
            lambda table, M: table[max((m for m in table if m <= M), default=min(table))],
            "you return kernel and seconds: return the kernel's name",
        ),
    ),
    hints=(
        "Which of the table's M are not above yours? Of those, the largest.",
        "max has a second argument, default: what it returns when there is none.",
    ),
)


# batch_throughput: users float [n], seconds float [n] -> tokens/s in all, float [n], for each, float [n]


def batch_throughput(users, seconds):
    """Return tokens a second in all and for each user, when a step of one token for all takes `seconds`."""
    return users / seconds, 1 / seconds


def batch_cases():
    return {
        "a step takes as long for 4 as for 1": (np.array([1.0, 4.0]), np.array([0.5, 0.5])),
        "1, 8, 64 users": (np.array([1.0, 8.0, 64.0]), np.array([0.1, 0.125, 0.4])),
        "steps of seconds": (np.array([2.0, 16.0, 512.0]), np.array([2.0, 4.0, 64.0])),
    }


THROUGHPUT = Exercise(
    name="batch_throughput",
    engine=batch_throughput,
    parts=("tokens/s in all", "tokens/s for each user"),
    cases=batch_cases,
    mistakes=(
        Mistake(
            lambda users, seconds: (1 / seconds, users / seconds),
            "in all and for each are exchanged: return the total first",
        ),
        Mistake(
            lambda users, seconds: (1 / seconds, 1 / (users * seconds)),
            "you share one token among the users: a step makes one token for every user",
        ),
        Mistake(
            lambda users, seconds: (users / seconds, 1 / (users * seconds)),
            "you divide by the users once too often: each of them gets a token in every step",
        ),
        Mistake(
            lambda users, seconds: (users / seconds, users / seconds),
            "both are the total: one user gets one token a step",
        ),
        Mistake(
            lambda users, seconds: (seconds / users, seconds),
            "these are seconds for a token: tokens a second is the other way round",
        ),
        Mistake(
            lambda users, seconds: (users * seconds, seconds),
            "you multiply by the seconds: a rate is tokens divided by seconds",
        ),
    ),
    hints=(
        "How many tokens does one step make, in all? How many of them are for one user?",
        "A step makes `users` tokens, one for each user, and takes `seconds`.",
    ),
    tolerance=1e-9,
)

EXERCISES = [CROSSING, TILE, PANEL, PICK, THROUGHPUT]
