"""Lesson 08, Phase 0, the baseline: where a weight lives, the product in two orders, and what it all costs.

gflops                 sizes, seconds           -> billions of operations a second
block_and_place        k, j, N, block size      -> block, place in it
multiply_row_by_row    a, B, out                -> out = a @ B, along the rows of B
multiply_some_rows     a, Bt, first, last, out  -> the share of one worker
baseline_temporaries   sizes                    -> bytes of float32 copies
"""

import numpy as np

from blocks2tokens.course.check.exercise import Exercise, Mistake
from blocks2tokens.course.check.watched import WatchedExercise, compiles, look
from blocks2tokens.formats import FORMATS
from blocks2tokens.kernels.report import phase0_baseline

TRANSPOSE_ABOVE = phase0_baseline.TRANSPOSE_ABOVE


def whole_numbers(shape, seed):
    """Return small whole numbers, float32, whose products and sums are exact in any order."""
    return np.random.default_rng(seed).integers(-9, 10, shape).astype(np.float32)


# gflops: M, K, N, seconds -> GFLOP/s


def gflops(M, K, N, seconds):
    """Return billions of operations a second; a multiply-add is two."""
    return 2 * M * K * N / seconds / 1e9


def rate_cases():
    return {
        "the report's size, in a thousandth of a second": (128, 128, 128, 1e-3),
        "one row": (1, 256, 768, 1e-4),
        "three different sizes": (16, 64, 512, 0.5),
    }


GFLOPS = Exercise(
    name="gflops",
    engine=gflops,
    cases=rate_cases,
    mistakes=(
        Mistake(
            lambda M, K, N, seconds: M * K * N / seconds / 1e9,
            "you count one operation for each multiply-add: it is two, a multiplication and an addition",
        ),
        Mistake(
            lambda M, K, N, seconds: 2 * M * K * N / seconds,
            "these are operations a second: divide by 1e9 for billions of them",
        ),
        Mistake(
            lambda M, K, N, seconds: 2 * M * K * N / seconds / 1e6,
            "these are millions of operations a second: giga is 1e9",
        ),
        Mistake(
            lambda M, K, N, seconds: 2 * K * N / seconds / 1e9,
            "M is missing: the K * N weights are used again for each row of a",
        ),
        Mistake(
            lambda M, K, N, seconds: 2 * M * N / seconds / 1e9,
            "K is missing: each of the M * N results is a sum of K products",
        ),
        Mistake(
            lambda M, K, N, seconds: M * N * (2 * K - 1) / seconds / 1e9,
            "you count K - 1 additions for each result: the sum begins with 0, as in the loops "
            "below, and adds all K products",
        ),
        Mistake(
            lambda M, K, N, seconds: 2 * M**3 / seconds / 1e9,
            "you took M for all three sizes: only the report's case is a cube",
        ),
        Mistake(
            lambda M, K, N, seconds: 2 * M * K * N * seconds / 1e9,
            "you multiply by the seconds: a rate is operations divided by seconds",
        ),
    ),
    hints=(
        "Each of the M * N results adds up K products.",
        "A multiplication and an addition for each product: 2 * M * K * N operations in all.",
    ),
    tolerance=1e-9,
)


# block_and_place: k, j, N, block_size -> block, place


def block_and_place(k, j, N, block_size):
    """Return the block of weight (k, j) of B [K, N] and its place in it; blocks run along k * N + j."""
    return divmod(k * N + j, block_size)


def place_cases():
    return {
        "k 0, j 0, N 12, blocks of 16": (0, 0, 12, 16),
        "k 1, j 3, N 12, blocks of 16": (1, 3, 12, 16),
        "k 1, j 4, N 12, blocks of 16": (1, 4, 12, 16),
        "k 5, j 77, N 128, blocks of 256": (5, 77, 128, 256),
        "k 3, j 300, N 384, blocks of 256": (3, 300, 384, 256),
        "k 7, j 511, N 512, blocks of 256": (7, 511, 512, 256),
    }


PLACE = Exercise(
    name="block_and_place",
    engine=block_and_place,
    parts=("block", "place"),
    cases=place_cases,
    mistakes=(
        Mistake(
            lambda k, j, N, size: divmod(j * N + k, size),
            "k and j are exchanged: B is stored row by row, so one more k skips a whole row of N weights",
        ),
        Mistake(
            lambda k, j, N, size: divmod(k * N + j, size)[::-1],
            "block and place are exchanged: return the block first",
        ),
        Mistake(
            lambda k, j, N, size: (k * -(-N // size) + j // size, j % size),
            "you begin a new block with each row: here blocks run on across the end of a row",
        ),
        Mistake(
            lambda k, j, N, size: divmod(k * size + j, size),
            "you skip block_size weights for each row: a row has N of them",
        ),
        Mistake(
            lambda k, j, N, size: (k * N // size, j % size),
            "you start from where row k begins and forget that j moves on from there: make k * N + j first, "
            "then divide",
        ),
        Mistake(
            lambda k, j, N, size: ((k * N + j) // size, j % size),
            "the block is right, the place is not: j % block_size counts from where row k begins, and rows "
            "do not begin with blocks. With N 12 and blocks of 16, weight (1, 3) has place 15, not 3",
        ),
        Mistake(
            lambda k, j, N, size: (k * N + j, (k * N + j) % size),
            "your first number counts weights: divide by block_size, without remainder, to count blocks",
        ),
    ),
    hints=(
        "Where would (k, j) be in B.reshape(-1)?",
        "Behind k whole rows and j more weights. Blocks are cut from that, block_size weights each: what do "
        "// and % tell?",
    ),
)


# multiply_row_by_row: a float32 [M, K], B float32 [K, N], out float32 [M, N] -> out


def multiply_row_by_row(a, B, out):
    """Fill out, float32 [M, N], with a @ B, adding a whole row of B at a time, and return it."""
    M, K, N = a.shape[0], a.shape[1], B.shape[1]
    for i in range(M):
        for j in range(N):
            out[i, j] = 0
        for k in range(K):
            for j in range(N):
                out[i, j] += a[i, k] * B[k, j]
    return out


def product_cases():
    sizes = {
        "5 x 4 times 4 x 4": (5, 4, 4),
        "6 x 3 times 3 x 8": (6, 3, 8),
        "one column": (4, 4, 1),
    }
    return {
        label: (whole_numbers((M, K), 1), whole_numbers((K, N), 2), np.full((M, N), 7, np.float32))
        for label, (M, K, N) in sizes.items()
    }


class RowsRead(np.ndarray):
    """A matrix that notes which of its rows are read; a row that is read on and on, once."""

    def __array_finalize__(self, source):
        self.rows = getattr(source, "rows", [])

    def __getitem__(self, key):
        number = np.broadcast_to(np.arange(self.shape[0])[:, None], self.shape)
        for row in np.atleast_1d(number[key]).ravel():
            if self.rows[-1:] != [row]:
                self.rows.append(int(row))
        return self.view(np.ndarray)[key]


ORDER = 3, 5, 4  # M, K, N


def order_arguments():
    M, K, N = ORDER
    return whole_numbers((M, K), 1), whole_numbers((K, N), 2), np.full((M, N), 7, np.float32)


@look
def order_of_loops(function):
    """Return which order other than i, k, j a right product was made in."""
    M, K, N = ORDER
    a, B, out = order_arguments()
    B = B.view(RowsRead)
    function(a, B, out)
    if not B.rows:
        return (
            "the product is right, and no loop of yours reads an element of B: NumPy multiplied. The lesson "
            "compares orders of loops, so write the three loops: i, k, j"
        )
    if B.rows == M * N * list(range(K)):
        return (
            f"the product is right, in the textbook's order, i, j, k: you go down each of the {N} columns of "
            f"B for each of the {M} rows of a, and jump to another row {len(B.rows)} times instead of "
            f"{M * K}. Put k in the middle, j inside"
        )
    if B.rows == list(range(K)):
        return (
            "the product is right, with k outside, then i: each k goes through all of out. Put i outside, k "
            "in the middle, j inside"
        )
    return None


def last_product(a, B, out):
    out[:] = a[:, -1:] * B[-1]
    return out


def onto_what_was_there(a, B, out):
    return out + a @ B


def without_the_first(a, B, out):
    return a[:, 1:] @ B[1:]


def without_the_last(a, B, out):
    return a[:, :-1] @ B[:-1]


def into_row_k(a, B, out):
    out[:] = 0
    out[: len(B)] = a.sum(axis=0)[:, None] * B
    return out


ROW_BY_ROW = WatchedExercise(
    name="multiply_row_by_row",
    engine=multiply_row_by_row,
    looks=(order_of_loops, compiles(order_arguments)),
    cases=product_cases,
    mistakes=(
        Mistake(
            last_product,
            "only the product of the last k is left: add each to out[i, j] with +=, and set out to zero "
            "before the loop over k, not in it",
        ),
        Mistake(
            onto_what_was_there,
            "you add to what stood in out before: set row i to zero, then add to it",
        ),
        Mistake(
            into_row_k, "the products land in row k of out: each belongs into row i, whose a[i, k] it has"
        ),
        Mistake(without_the_first, "the first k is missing: ranges begin with 0"),
        Mistake(without_the_last, "the last k is missing: range(K) ends with K - 1 by itself"),
    ),
    hints=(
        "The line inside is that of the textbook, with out[i, j] where it had total. Only the order of the "
        "loops changes, and out must be zero before the first k.",
        "i outside, k in the middle, j inside. Where must out[i, j] become 0: above the loop over k, or in "
        "it?",
    ),
)


# multiply_some_rows: a float32 [M, K], Bt float32 [N, K], first, last, out float32 [M, N] -> out


def engine_multiply_some_rows(a, Bt, first, last, out):
    """Fill rows first to last - 1 of out with dot products and return it."""
    phase0_baseline.multiply_rows(a, Bt, first, last, out)
    return out


def multiply_some_rows(a, Bt, first, last, out):
    """Fill rows first to last - 1 of out with the textbook's loops; Bt holds the columns of B as rows."""
    # and in the engine: multiply_rows in kernels/report/phase0_baseline.py
    for i in range(first, last):
        for j in range(Bt.shape[0]):
            total = np.float32(0)
            for k in range(Bt.shape[1]):
                total += a[i, k] * Bt[j, k]
            out[i, j] = total
    return out


def share_cases():
    def case(N, first, last):
        return (
            whole_numbers((6, 4), 3),
            whole_numbers((N, 4), 4),
            first,
            last,
            np.full((6, N), 7, np.float32),
        )

    return {
        "rows 0 and 1 of 6": case(4, 0, 2),
        "rows 2, 3, 4 of 6": case(5, 2, 5),
        "row 4 of 6": case(3, 4, 5),
        "no rows": case(4, 3, 3),
    }


def share(from_row=lambda i, first: i, to_row=lambda i, first: i, products=lambda a, Bt: Bt @ a, more=0):
    """Return the right loops with a place for each mistake."""

    def multiply(a, Bt, first, last, out):
        for i in range(first, last + more):
            out[to_row(i, first)] = products(a[from_row(i, first)], Bt)
        return out

    return multiply


def every_row(a, Bt, first, last, out):
    return a @ Bt.T


def zeroes_every_row(a, Bt, first, last, out):
    out[:] = 0
    out[first:last] = a[first:last] @ Bt.T
    return out


def share_arguments():
    return share_cases()["rows 2, 3, 4 of 6"]


def sum_onto_what_was_there(a, Bt, first, last, out):
    out[first:last] += a[first:last] @ Bt.T
    return out


SOME_ROWS = WatchedExercise(
    name="multiply_some_rows",
    engine=engine_multiply_some_rows,
    solution=multiply_some_rows,
    looks=(compiles(share_arguments),),
    cases=share_cases,
    mistakes=(
        Mistake(
            every_row,
            "you fill every row: this worker does rows first to last - 1, the others belong to the others",
        ),
        Mistake(
            zeroes_every_row,
            "your rows are right, and you set all the others to 0: another worker may have filled those a "
            "moment ago. Touch rows first to last - 1 only",
        ),
        Mistake(
            share(more=1),
            "you fill row `last` too: it is the first row of the next worker",
        ),
        Mistake(
            share(to_row=lambda i, first: i - first),
            "your rows land at the top of out: row i of a gives row i of out",
        ),
        Mistake(
            share(from_row=lambda i, first: i - first),
            "you read a from its row 0: row i of out needs row i of a",
        ),
        Mistake(
            sum_onto_what_was_there,
            "you add to what stood in out before: sum up in a variable that starts from 0, then store it",
        ),
        Mistake(
            share(products=lambda a, Bt: Bt[:, -1] * a[-1]),
            "only the product of the last k is left: add them up, all K",
        ),
        Mistake(
            share(products=lambda a, Bt: np.cumsum(Bt @ a)),
            "the sum goes on from one column to the next: start from 0 for each j",
        ),
    ),
    hints=(
        "Three loops, i, j, k, as in the textbook. What changes: i runs from first to last - 1, and the "
        "weight is Bt[j, k].",
        "Start a total from np.float32(0) for each j, add K products, store it in out[i, j]. Return out "
        "after all loops.",
    ),
)


# baseline_temporaries: M, K, N -> bytes


def engine_baseline_temporaries(M, K, N):
    """Return the bytes of float32 copies of weights that the baseline makes."""
    return phase0_baseline.KERNEL.cost(M, K, N, FORMATS["Q5_K"], 1).temporary_bytes


def baseline_temporaries(M, K, N):
    """Return 4 bytes for each weight of B, and as many again for its transpose if there is one."""
    # and in the engine: count in kernels/report/phase0_baseline.py
    copies = 2 if M * K * N > 2**20 else 1
    return copies * 4 * K * N


def size_cases():
    sizes = (
        (128, 128, 128),
        (64, 128, 128),
        (65, 128, 128),
        (40, 128, 128),
        (1, 1024, 1024),
        (1, 2048, 1024),
        (1, 64, 256),
        (512, 64, 512),
    )
    return {f"{M} x {K} times {K} x {N}": (M, K, N) for M, K, N in sizes}


def copies(M, K, N, bound=TRANSPOSE_ABOVE):
    return 2 if bound < M * K * N else 1


TEMPORARIES = Exercise(
    name="baseline_temporaries",
    engine=engine_baseline_temporaries,
    solution=baseline_temporaries,
    cases=size_cases,
    mistakes=(
        Mistake(
            lambda M, K, N: copies(M, K, N) * K * N,
            "you count weights: each takes 4 bytes as float32",
        ),
        Mistake(
            lambda M, K, N: 8 * K * N,
            "you count two copies always: up to 2**20 multiply-adds there is no transpose, and one copy",
        ),
        Mistake(
            lambda M, K, N: 4 * K * N,
            "you count one copy always: above 2**20 multiply-adds B is copied a second time, transposed",
        ),
        Mistake(
            lambda M, K, N: 4 * K * N * copies(M, K, N, TRANSPOSE_ABOVE - 1),
            "exactly 2**20 multiply-adds still take the textbook loop, with one copy: the transpose begins "
            "above",
        ),
        Mistake(
            lambda M, K, N: 4 * K * N * copies(1, K, N),
            "you compare K * N with 2**20: the threshold counts multiply-adds, M * K * N",
        ),
        Mistake(
            lambda M, K, N: 4 * K * N * copies(2 * M, K, N),
            "you compare operations with 2**20: the threshold counts multiply-adds, each once",
        ),
        Mistake(
            lambda M, K, N: 4 * K * N * copies(M, K, N) + 4 * M * N,
            "you count out as well: it is the result, which every kernel must allocate; here only copies "
            "of weights count",
        ),
        Mistake(
            lambda M, K, N: 4 * M * N * copies(M, K, N),
            "a copy of the weights has K * N numbers, whatever M is: M * N is the result",
        ),
        Mistake(
            lambda M, K, N: 8 * K * N * copies(M, K, N),
            "you count 8 bytes for each weight: float32 has 4",
        ),
    ),
    hints=(
        "B is decoded to float32 [K, N] in any case. When is there another array of that many weights?",
        "Above 2**20 multiply-adds, M * K * N, there are two: B and Bt. 4 bytes for each number.",
    ),
)

EXERCISES = [GFLOPS, PLACE, ROW_BY_ROW, SOME_ROWS, TEMPORARIES]
