"""Lesson 12, Phase 3b: one decoded block, the loops turned round, and what that costs by the count.

runs_in_column             K, N, j, size           -> in how many runs of one block column j lies
one_block_product          a, decode, N, size      -> a @ B, and how many blocks were decoded
block_decodes              M, K, N, size, workers  -> how many blocks Phase 3b decodes
product_of_turned_blocks   a, decode, N, size      -> the same product, blocks along K, each decoded once
each_block_once            a, decode, N, size      -> the same, blocks along N, in any order of loops
"""

from collections import Counter

import numpy as np

from blocks2tokens.course import bench
from blocks2tokens.course.check.exercise import Exercise, Mistake
from blocks2tokens.course.check.watched import WatchedExercise, counted_calls, look
from blocks2tokens.kernels.ours import fused_rows
from blocks2tokens.kernels.report import phase3b_column_major as phase3b

# runs_in_column: K, N, j, size -> int


def engine_runs_in_column(K, N, j, size):
    return int(phase3b.blocks_met(K, N, size)[j])


def runs_in_column(K, N, j, size):
    """Count a run wherever the block differs from the one before."""
    # and in the engine: blocks_met in kernels/report/phase3b_column_major.py, by a formula, for all columns
    runs, before = 0, None
    for k in range(K):
        block = (k * N + j) // size
        if block != before:
            runs += 1
        before = block
    return runs


def run_cases():
    sizes = [
        (8, 4, 1, 8),
        (8, 1, 0, 8),
        (8, 8, 3, 8),
        (8, 16, 5, 8),
        (6, 12, 5, 8),
        (1, 5, 3, 8),
        (10, 6, 0, 8),
        (10, 6, 5, 8),
        (70, 3, 2, 32),
        (5, 300, 280, 256),
        (128, 128, 127, 256),
    ]
    return {f"K = {K}, N = {N}, j = {j}, size = {size}": (K, N, j, size) for K, N, j, size in sizes}


def every_block_of_the_matrix(K, N, j, size):
    return -(-K * N // size)


def every_whole_block_of_the_matrix(K, N, j, size):
    return K * N // size


def changes_in_column(K, N, j, size):
    return runs_in_column(K, N, j, size) - 1


def as_if_blocks_ran_down(K, N, j, size):
    return -(-K // size)


def as_if_whole_blocks_ran_down(K, N, j, size):
    return K // size


def with_rows_and_columns_exchanged(K, N, j, size):
    return (j * K + K - 1) // size - j * K // size + 1


def skipped_blocks_counted(K, N, j, size):
    return ((K - 1) * N + j) // size - j // size + 1


def every_step(K, N, j, size):
    return K


def column_forgotten(K, N, j, size):
    return runs_in_column(K, N, 0, size)


def one_row_too_far(K, N, j, size):
    return min(K, (K * N + j) // size - j // size + 1)


COLUMN_CUT = (
    "you cut the column itself into blocks: blocks run along the rows, and down a column the flat index "
    "grows by N at each step"
)

RUNS = Exercise(
    name="runs_in_column",
    engine=engine_runs_in_column,
    solution=runs_in_column,
    cases=run_cases,
    mistakes=(
        Mistake(
            skipped_blocks_counted,
            "with N larger than a block the column jumps over blocks, and you count those as well: it "
            "cannot meet more blocks than it has weights",
        ),
        Mistake(
            every_block_of_the_matrix,
            "you count all blocks of the matrix: a column does not meet all of them when N is larger than "
            "a block, or when it ends before the last block begins",
        ),
        Mistake(
            every_whole_block_of_the_matrix,
            "K * N // size is the number of whole blocks in the matrix: count those that this column "
            "meets, a begun one included",
        ),
        Mistake(
            changes_in_column,
            "you count the changes from one block to another: the first block is a run as well, so there "
            "is one run more than there are changes",
        ),
        Mistake(as_if_blocks_ran_down, COLUMN_CUT),
        Mistake(as_if_whole_blocks_ran_down, COLUMN_CUT),
        Mistake(
            with_rows_and_columns_exchanged,
            "you took f = j * K + k: B is stored row by row, so B[k, j] is weight f = k * N + j",
        ),
        Mistake(
            every_step,
            "you count a new block at every step: with N smaller than a block, several steps stay in one",
        ),
        Mistake(
            column_forgotten,
            "every column gets the count of column 0: f begins at j, so a later column may reach one block "
            "further",
        ),
        Mistake(
            one_row_too_far,
            "you go one row too far: the last weight of the column is k = K - 1, f = (K - 1) * N + j",
        ),
    ),
    hints=(
        "The block of step k is (k * N + j) // size. Walk down the column and count how often it is "
        "another one than at the step before. The first step counts too.",
        "Without a loop: if N >= size, each step lands in another block, so the answer is K. Else the "
        "column meets every block from its first one, j // size, to its last one, ((K - 1) * N + j) // size.",
    ),
)


# one_block_product: a float32 [M, K], decode(block) -> float32 [size], N, size -> out float32 [M, N], decodes


def engine_one_block_product(a, decode, N, size):
    """Run Phase 3b's loops on blocks that are only their numbers, and count."""
    decodes = 0

    def fill(number, weights):
        nonlocal decodes
        decodes += 1
        weights[:] = decode(int(number[0]))

    (M, K), out = a.shape, np.empty((len(a), N), np.float32)
    numbers = np.arange(K * N // size)
    phase3b.multiply_rows.py_func(fill, a, numbers, size, 1, 0, M, out)
    return out, decodes


def one_block_product(a, decode, N, size):
    """Go column by column, begin each with no block, and decode whenever it is not the one that is held."""
    # and in the engine: multiply_rows in kernels/report/phase3b_column_major.py
    (M, K), decodes = a.shape, 0
    out = np.zeros((M, N), np.float32)
    for j in range(N):
        held = None
        for i in range(M):
            for k in range(K):
                block, place = divmod(k * N + j, size)
                if block != held:
                    weights, held = decode(block), block
                    decodes += 1
                out[i, j] += a[i, k] * weights[place]
    return out, decodes


def small_matrices(*sizes):
    """Return {label: (a, decode, N, size)} with small whole numbers, whose sums are exact in any order."""
    rng = np.random.default_rng(12)
    cases = {}
    for M, K, N, size in sizes:
        a = rng.integers(-3, 4, (M, K)).astype(np.float32)
        weights = rng.integers(-7, 8, (K * N // size, size)).astype(np.float32)
        label = f"M = {M}, K = {K}, N = {N}, size = {size}"
        cases[label] = (a, decoder(weights), N, size)
    return cases


def decoder(weights):
    """Return decode(block), which gives out a row of weights, float32 [blocks, size]."""

    def decode(block):
        return weights[block].copy()

    return decode


def product_cases():
    return small_matrices((3, 16, 4, 8), (2, 4, 8, 32), (3, 32, 1, 32), (2, 3, 64, 32), (1, 24, 4, 32))


class Buffer:
    """One decoded block, and how many it has held."""

    def __init__(self, decode):
        self.decode, self.held, self.decodes, self.weights = decode, None, 0, None

    def get(self, block):
        if block != self.held:
            self.weights, self.held = self.decode(block), block
            self.decodes += 1
        return self.weights

    def forget(self):
        self.held = None


def steps(order, M, K, N):
    """Yield (i, j, k, which of the loops begins anew: 0 the outer one's body, 1 the middle one's)."""
    outer, middle = (N, M) if order == "ji" else (M, N)
    for x in range(outer):
        for y in range(middle):
            i, j = (y, x) if order == "ji" else (x, y)
            for k in range(K):
                begins = 0 if y == k == 0 else 1 if k == 0 else 2
                yield i, j, k, begins


def walk(order="ji", forget_at=0, flat=lambda k, j, K, N: k * N + j, place=lambda f, k, size: f % size):
    """Return a product with a place for each mistake; forget_at 0: each column, 1: each row of it too."""

    def product(a, decode, N, size):
        (M, K), buffer = a.shape, Buffer(decode)
        out = np.zeros((M, N), np.float32)
        for i, j, k, begins in steps(order, M, K, N):
            if begins <= forget_at:
                buffer.forget()
            f = flat(k, j, K, N)
            out[i, j] += a[i, k] * buffer.get(f // size)[place(f, k, size)]
        return out, buffer.decodes

    return product


def decoded_at_every_step(a, decode, N, size):
    return one_block_product(a, decode, N, size)[0], a.size * N


def decoded_once_and_never_again(a, decode, N, size):
    (M, K), out, decodes = a.shape, np.zeros((len(a), N), np.float32), 0
    for i, j, k, begins in steps("ji", M, K, N):
        if begins == 0:
            weights, decodes = decode(j // size), decodes + 1
        out[i, j] += a[i, k] * weights[(k * N + j) % size]
    return out, decodes


def every_block_kept(a, decode, N, size):
    return one_block_product(a, decode, N, size)[0], a.shape[1] * N // size


def every_block_of_a_column_kept(a, decode, N, size):
    runs = phase3b.blocks_met(a.shape[1], N, size)
    return one_block_product(a, decode, N, size)[0], int(runs.sum())


def changes_only(a, decode, N, size):
    out, decodes = one_block_product(a, decode, N, size)
    return out, decodes - N


def transposed(product):
    def of_the_product(a, decode, N, size):
        out, decodes = product(a, decode, N, size)
        return out.T, decodes

    return of_the_product


PRODUCT = WatchedExercise(
    name="one_block_product",
    looks=(counted_calls(lambda: product_cases()["M = 3, K = 16, N = 4, size = 8"], "decode", at=1),),
    engine=engine_one_block_product,
    solution=one_block_product,
    cases=product_cases,
    mistakes=(
        Mistake(
            walk(forget_at=-1),
            "your buffer survives from one column to the next: Phase 3b begins each column with an empty "
            "one, so even a matrix of one block is decoded once for each column",
        ),
        Mistake(
            walk(forget_at=1),
            "you empty the buffer for every row i: it is emptied once for each column j, and the block "
            "that the last row ended with is still there for the next",
        ),
        Mistake(
            walk(order="ij"),
            "your outer loop is i: Phase 3b's is j, then i, then k, and the buffer is emptied for each j",
        ),
        Mistake(
            decoded_at_every_step,
            "you decode at every step: decode only when the block is another one than the one you hold",
        ),
        Mistake(
            every_block_kept,
            "you keep all blocks: that is Phase 3a. Here is room for one, and the next one overwrites it",
        ),
        Mistake(
            every_block_of_a_column_kept,
            "you keep all blocks of a column for the rows i: that is what the idea hoped for, but there is "
            "one buffer, and the next row begins with the first block again",
        ),
        Mistake(
            changes_only,
            "you do not count the first block of each column: the buffer is empty there, so it is decoded",
        ),
        Mistake(
            decoded_once_and_never_again,
            "you decode the first block of a column and then go on with it: look at each step whether k "
            "has moved into another block",
        ),
        Mistake(
            walk(flat=lambda k, j, K, N: j * K + k),
            "you took f = j * K + k: B is stored row by row, so B[k, j] is weight f = k * N + j",
        ),
        Mistake(
            walk(place=lambda f, k, size: k % size),
            "the place in the block is not k % size: it is f % size, with f = k * N + j",
        ),
        Mistake(transposed(one_block_product), "your product is transposed: return out[i, j], shape [M, N]"),
    ),
    hints=(
        "for j: for i: for k, with block, place = divmod(k * N + j, size). Remember the number of the "
        "block that you hold; at the beginning of each column you hold none.",
        "Keep three things: the weights, the number of their block, `held`, and the count. Which of them "
        "must be forgotten between `for j` and `for i`?",
    ),
)


# block_decodes: M, K, N, size, workers -> int


def engine_block_decodes(M, K, N, size, workers):
    met = phase3b.blocks_met(K, N, size)
    return int(np.where(met > 1, M * met, workers * met).sum())  # as phase3b.count has it


def block_decodes(M, K, N, size, workers):
    """A column in several blocks decodes them in each row; one in a single block once for each worker."""
    # and in the engine: count in kernels/report/phase3b_column_major.py
    total = 0
    for j in range(N):
        runs = runs_in_column(K, N, j, size)
        total += M * runs if runs > 1 else workers
    return total


def count_cases():
    sizes = [
        (128, 128, 128, 256, 16),
        (3, 64, 8, 32, 1),
        (33, 16, 16, 256, 4),
        (32, 256, 1, 256, 3),
        (40, 512, 1, 256, 8),
        (64, 2, 256, 256, 2),
        (48, 2, 384, 256, 2),
        (1, 512, 512, 256, 1),
    ]
    return {", ".join(f"{n} = {v}" for n, v in zip(SIZES, size, strict=True)): size for size in sizes}


SIZES = ("M", "K", "N", "size", "workers")


def totals(each):
    """Return a count that adds up each(M, K, N, workers, runs) over the columns."""

    def count(M, K, N, size, workers):
        return sum(each(M, K, N, workers, int(runs)) for runs in phase3b.blocks_met(K, N, size))

    return count


def blocks_of_the_matrix(M, K, N, size, workers):
    return K * N // size


def lone_block_kept_across_columns(M, K, N, size, workers):
    return workers if size == K * N else block_decodes(M, K, N, size, workers)


def columns_forgotten(M, K, N, size, workers):
    return block_decodes(M, K, N, size, workers) // N


def uncapped(M, K, N, size, workers):
    return M * N * (K * N // size) if size < K * N else workers * N


COUNT = Exercise(
    name="block_decodes",
    engine=engine_block_decodes,
    solution=block_decodes,
    cases=count_cases,
    mistakes=(
        Mistake(
            totals(lambda M, K, N, workers, runs: M * runs),
            "a column that lies in one block is decoded too often: the block is still in the buffer for "
            "the next row, so each worker decodes it once",
        ),
        Mistake(
            totals(lambda M, K, N, workers, runs: M * runs if runs > 1 else runs),
            "a column that lies in one block is decoded once by each worker, not once in all: every worker "
            "has a buffer of its own",
        ),
        Mistake(
            lone_block_kept_across_columns,
            "you let a matrix of one block stay in the buffer for all columns: the buffer is emptied at "
            "the beginning of each column",
        ),
        Mistake(
            blocks_of_the_matrix,
            "you count each block once: that is what is needed, not what is done. The buffer holds one "
            "block, so the next row has to decode the column's blocks again",
        ),
        Mistake(
            totals(lambda M, K, N, workers, runs: runs),
            "you count each column's blocks once: with more than one block in a column every one of the M "
            "rows decodes them again",
        ),
        Mistake(
            totals(lambda M, K, N, workers, runs: workers * runs),
            "you count each column's blocks once for each worker: a worker decodes them again for every "
            "one of its rows, so all workers together M times",
        ),
        Mistake(
            totals(lambda M, K, N, workers, runs: M * workers * runs if runs > 1 else workers),
            "you multiply by M and by the workers: they share the rows, each row is one worker's",
        ),
        Mistake(
            totals(lambda M, K, N, workers, runs: M * K),
            "you count a decode at every step: steps that stay in the same block need none",
        ),
        Mistake(columns_forgotten, "that is the count of one column: there are N of them"),
        Mistake(
            uncapped,
            "with N larger than a block you count more blocks than the column has weights: it meets K at "
            "most",
        ),
    ),
    hints=(
        "One column first: it lies in runs_in_column(K, N, j, size) runs, and each of the M rows walks "
        "down it once. What is in the buffer when the next row begins? Then add up the N columns.",
        "If a column lies in more than one run, the buffer ends with its last block and the next row "
        "begins with the first: M times runs. If it lies in one, each worker decodes it once: workers.",
    ),
)


# product_of_turned_blocks: a float32 [M, K], decode(block) -> float32 [size], N, size -> out, decodes


def engine_product_of_turned_blocks(a, decode, N, size):
    """Run the engine's fused_rows on rows that are only their numbers, and count the blocks decoded."""
    K, decodes = a.shape[1], 0

    def decode_row(number, row):
        nonlocal decodes
        blocks = range(int(number[0]) * K // size, (int(number[0]) + 1) * K // size)
        row[:] = np.concatenate([decode(block) for block in blocks])
        decodes += len(blocks)

    out = np.empty((len(a), N), np.float32)
    fused_rows.multiply.py_func(decode_row, a, np.arange(N)[:, None], out)
    return out, decodes


def product_of_turned_blocks(a, decode, N, size):
    """Decode each block once, and use it for all rows of a before the next."""
    # and in the engine: multiply in kernels/ours/fused_rows.py, a whole row of blocks at a time
    per_column, out = a.shape[1] // size, np.zeros((len(a), N), np.float32)
    for j in range(N):
        for b in range(per_column):
            weights = decode(j * per_column + b)
            out[:, j] += a[:, b * size : (b + 1) * size] @ weights
    return out, N * per_column


def turned_cases():
    return small_matrices((3, 32, 4, 8), (2, 96, 3, 32), (1, 32, 5, 32), (5, 64, 2, 32))


def turned(number=lambda j, b, per_column, N: j * per_column + b, start=lambda b, size: b * size, last=False):
    """Return a product with a place for each mistake: the block's number, where its weights meet a."""

    def product(a, decode, N, size):
        per_column, decodes = a.shape[1] // size, 0
        out = np.zeros((len(a), N), np.float32)
        for j in range(N):
            for b in range(per_column):
                weights, decodes = decode(number(j, b, per_column, N)), decodes + 1
                first = start(b, size)
                part = a[:, first : first + size] @ weights
                out[:, j] = part if last else out[:, j] + part
        return out, decodes

    return product


def decoded_for_every_row(a, decode, N, size):
    out, decodes = product_of_turned_blocks(a, decode, N, size)
    return out, decodes * len(a)


def decoded_for_every_weight(a, decode, N, size):
    return product_of_turned_blocks(a, decode, N, size)[0], a.size * N


def column_counted_as_one(a, decode, N, size):
    return product_of_turned_blocks(a, decode, N, size)[0], N


TURNED = WatchedExercise(
    name="product_of_turned_blocks",
    looks=(counted_calls(lambda: turned_cases()["M = 3, K = 32, N = 4, size = 8"], "decode", at=1),),
    engine=engine_product_of_turned_blocks,
    solution=product_of_turned_blocks,
    parts=("out", "decodes"),
    raised={
        "IndexError": "is that block one of yours? Column j begins at block j * (K // size), and its block "
        "b is j * (K // size) + b"
    },
    cases=turned_cases,
    mistakes=(
        Mistake(
            decoded_for_every_row,
            "you decode each block again for every row of a: decode it once, then use it for all M rows "
            "before you go on to the next",
        ),
        Mistake(
            decoded_for_every_weight,
            "you decode a block for every weight: decode it once, then use all of its weights for all rows",
        ),
        Mistake(
            turned(last=True),
            "only the last block of each column is left: the blocks' parts of out[i, j] add up",
        ),
        Mistake(
            turned(start=lambda b, size: 0),
            "every block meets the first weights of a: block b of a column meets a[:, b * size : (b + 1) "
            "* size]",
        ),
        Mistake(
            turned(number=lambda j, b, per_column, N: b * N + j),
            "you took block b * N + j: the blocks of a column lie behind each other, so it is j * (K // "
            "size) + b",
        ),
        Mistake(
            turned(number=lambda j, b, per_column, N: b),
            "every column gets the blocks of column 0: those of column j begin at j * (K // size)",
        ),
        Mistake(
            turned(number=lambda j, b, per_column, N: j),
            "every part of a column gets block j: a column has K // size blocks, beginning at j * (K // "
            "size)",
        ),
        Mistake(
            walk(),
            "these are Phase 3b's loops with f = k * N + j: now the blocks run down the columns, so weight "
            "k of column j is f = j * K + k",
        ),
        Mistake(
            column_counted_as_one,
            "you count each column once: count the blocks that you decode, K // size in a column",
        ),
        Mistake(
            transposed(product_of_turned_blocks), "your product is transposed: return out[i, j], shape [M, N]"
        ),
    ),
    hints=(
        "Column j is the blocks j * (K // size) to (j + 1) * (K // size) - 1. Loop over columns, then over "
        "the blocks of the column; decode there, outside of the loop over the rows.",
        "Block b of the column holds its weights b * size to (b + 1) * size - 1. Those meet the same "
        "columns of a; a slice of a, @ weights, does all rows at once.",
    ),
)


# each_block_once: a float32 [M, K], decode(block) -> float32 [size], N, size -> out float32 [M, N]


def each_block_once(a, decode, N, size):
    """Take the blocks in turn; add what each of its weights gives to the outputs of its column."""
    (M, K), out = a.shape, np.zeros((len(a), N), np.float32)
    for block in range(K * N // size):
        weights = decode(block)
        for place in range(size):
            k, j = divmod(block * size + place, N)
            for i in range(M):
                out[i, j] += a[i, k] * weights[place]
    return out


def one_buffer(weights):
    """Return decode(block), which decodes into the same buffer each time, as the kernels do."""
    buffer = np.empty(weights.shape[1], np.float32)

    def decode(block):
        buffer[:] = weights[block]
        return buffer

    return decode


def once_cases(*sizes):
    sizes = sizes or ((3, 16, 4, 8), (2, 4, 8, 32), (1, 24, 4, 32), (2, 3, 64, 32))
    cases = {}
    for label, (a, decode, N, size) in small_matrices(*sizes).items():
        weights = np.array([decode(block) for block in range(a.shape[1] * N // size)])
        cases[label] = (a, one_buffer(weights), N, size)
    return cases


def only_case(*size):
    return next(iter(once_cases(size).values()))


@look
def blocks_decoded(function):
    """Return what is wrong with how often each block is decoded."""
    a, decode, N, size = only_case(3, 16, 4, 8)
    calls = Counter()

    def counted(block):
        calls[int(block)] += 1
        return decode(block)

    function(a, counted, N, size)
    needed, done = a.shape[1] * N // size, calls.total()
    if done in (0, needed):
        return None
    block, times = calls.most_common(1)[0]
    return (
        f"the product is right, and costs {done} decodes where the matrix has {needed} blocks "
        f"(block {block}: {times} times). What must be the outermost loop if each block is to come up once?"
    )


@look
def bytes_held(function):
    """Return how much is held at once if it is as much as a decoded copy."""
    case, copy = only_case(2, 256, 64, 256), 4 * 256 * 64
    held = bench.allocations(lambda: function(*case)).peak
    if held < copy:
        return None
    return (
        f"the product is right, and each block is decoded once, but you hold {held:,} bytes at a time: "
        f"a float32 copy of all of B has {copy:,}, and that is Phase 0. Use a block up before you decode the "
        "next"
    )


def keeps_every_block(a, decode, N, size):
    kept = [decode(block) for block in range(a.shape[1] * N // size)]
    return a @ np.concatenate(kept).reshape(-1, N)


def flat_index(f, stored=lambda out, i, j, product: out[i, j] + product):
    """Return the product with a place for each mistake: the number of a weight, what is stored."""

    def product(a, decode, N, size):
        (M, K), out = a.shape, np.zeros((len(a), N), np.float32)
        for block in range(K * N // size):
            weights = decode(block)
            for place in range(size):
                k, j = f(block, place, K, N, size)
                for i in range(M):
                    out[i, j] = stored(out, i, j, a[i, k] * weights[place])
        return out

    return product


def right_index(block, place, K, N, size):
    return divmod(block * size + place, N)


EACH_ONCE = WatchedExercise(
    name="each_block_once",
    looks=(blocks_decoded, bytes_held),
    engine=each_block_once,
    solution=each_block_once,
    cases=once_cases,
    mistakes=(
        Mistake(
            keeps_every_block,
            "you keep what decode returned for a later time, and by then it holds another block: there is "
            "one buffer, and each call of decode fills it anew. Use a block up before you decode the next",
        ),
        Mistake(
            flat_index(lambda block, place, K, N, size: divmod(place, N)),
            "each block's weights go where those of block 0 belong: weight `place` of a block is number "
            "block * size + place of B",
        ),
        Mistake(
            flat_index(lambda block, place, K, N, size: divmod(block * size + place, K)[::-1]),
            "you take the blocks as if they ran down the columns: they lie along the rows, so weight f is "
            "B[f // N, f % N]",
        ),
        Mistake(
            flat_index(right_index, lambda out, i, j, product: product),
            "only the last k is left: a block brings some of the K products of an output, so add them up",
        ),
        Mistake(
            lambda *arguments: each_block_once(*arguments).T,
            "your product is transposed: return out[i, j], shape [M, N]",
        ),
    ),
    hints=(
        "Any order will do in which a decoded block is used up before the next: for all its weights, for all "
        "rows of a.",
        "Weight `place` of a block is number f = block * size + place of B, so it stands in row f // N and "
        "column f % N. Which outputs does B[k, j] go into?",
    ),
)

EXERCISES = [RUNS, PRODUCT, COUNT, TURNED, EACH_ONCE]
