"""What learners write in lesson 12, for test_check_learners.py, and what is the lesson's own."""

from types import SimpleNamespace

import numpy as np
import pytest

from blocks2tokens import FORMATS, KERNELS
from blocks2tokens.course.lessons.phase3b_column_major import exercises as lesson
from blocks2tokens.kernels.report import phase3b_column_major as phase3b

NAMES = {e.name: e for e in lesson.EXERCISES}


# runs_in_column


def runs(K, N, j, size, flat=lambda k, j, K, N: k * N + j, start=1):
    """Walk down the column."""
    count = start
    for k in range(1, K):
        count += flat(k, j, K, N) // size != flat(k - 1, j, K, N) // size
    return count


def blocks_passed(K, N, j, size):
    return len(range(j // size, ((K - 1) * N + j) // size + 1))


# one_block_product


def product(a, decode, N, size, order="ji", empty="column", always=False, place=None, flat=None):
    """The loops of Phase 3b with a place for each mistake."""
    M, K = a.shape
    out, held, weights, count = np.zeros((M, N), np.float32), -1, None, 0
    pairs = [(i, j) for j in range(N) for i in range(M)]
    if order == "ij":
        pairs = [(i, j) for i in range(M) for j in range(N)]
    last = None
    for i, j in pairs:
        outer = j if order == "ji" else i
        if empty == "row" or (empty == "column" and outer != last):
            held = -1
        last = outer
        for k in range(K):
            f = flat(k, j, K, N) if flat else k * N + j
            if always or f // size != held:
                weights, held = decode(f // size), f // size
                count += 1
            out[i, j] += a[i, k] * weights[place(k) if place else f % size]
    return out, count


def with_a_map(a, decode, N, size, per_column):
    (M, K), kept, count = a.shape, {}, 0
    out = np.zeros((M, N), np.float32)
    for j in range(N):
        if per_column:
            kept = {}
        for i in range(M):
            for k in range(K):
                block, place = divmod(k * N + j, size)
                if block not in kept:
                    kept[block] = decode(block)
                    count += 1
                out[i, j] += a[i, k] * kept[block][place]
    return out, count


def never_again(a, decode, N, size):
    (M, K), count = a.shape, 0
    out = np.zeros((M, N), np.float32)
    for j in range(N):
        held = -1
        for i in range(M):
            for k in range(K):
                block, place = divmod(k * N + j, size)
                if held < 0:
                    weights, held = decode(block), block
                    count += 1
                out[i, j] += a[i, k] * weights[place]
    return out, count


def first_not_counted(a, decode, N, size):
    (M, K), count = a.shape, 0
    out = np.zeros((M, N), np.float32)
    for j in range(N):
        held, weights = j // size, decode(j // size)
        for i in range(M):
            for k in range(K):
                block, place = divmod(k * N + j, size)
                if block != held:
                    held, weights = block, decode(block)
                    count += 1
                out[i, j] += a[i, k] * weights[place]
    return out, count


def flipped(function):
    def wrong(*arguments):
        out, count = function(*arguments)
        return out.T, count

    return wrong


# block_decodes


def decodes(M, K, N, size, workers, lone=None, several=None, meets=None, columns=None):
    """Add up the columns, with a place for each mistake."""
    total = 0
    for j in range(columns or N):
        met = (meets or runs)(K, N, j, size)
        if met == 1:
            total += workers if lone is None else lone(M, workers)
        else:
            total += M * met if several is None else several(M, workers, met)
    return total


def with_mistake(**mistake):
    return lambda *sizes: decodes(*sizes, **mistake)


def one_block_for_all_columns(M, K, N, size, workers):
    return workers if size >= K * N else decodes(M, K, N, size, workers)


# product_of_turned_blocks


def turned(a, decode, N, size, number=None, start=None, add=True, where="block"):
    """Blocks down the columns, with a place for each mistake; `where` the decoding happens."""
    (M, K), count = a.shape, 0
    out = np.zeros((M, N), np.float32)
    for j in range(N):
        for b in range(K // size):
            block = number(j, b, N) if number else j * (K // size) + b
            weights = decode(block)
            count += where == "block"
            sums = np.zeros(M, np.float32)
            for i in range(M):
                count += where == "row"
                for l in range(size):
                    count += where == "weight"
                    sums[i] += a[i, (b * size if start is None else start) + l] * weights[l]
            out[:, j] = out[:, j] + sums if add else sums
        count += where == "column"
    return out, count


def turned_with(**mistake):
    return lambda *arguments: turned(*arguments, **mistake)


def product_with(**mistake):
    return lambda *arguments: product(*arguments, **mistake)


def counts_another_way(a, decode, N, size):
    """Decode at every step, and return what Phase 3b would count."""
    out = product(a, decode, N, size, always=True)[0]
    return out, product(a, lambda block: np.zeros(size), N, size)[1]


def turned_and_decoded_for_each_row(a, decode, N, size):
    per_column = a.shape[1] // size
    out = np.zeros((len(a), N), np.float32)
    for i in range(len(a)):
        for j in range(N):
            for b in range(per_column):
                out[i, j] += a[i, b * size : (b + 1) * size] @ decode(j * per_column + b)
    return out, N * per_column


# each_block_once


def block_after_block(a, decode, N, size, first=True, add=True, along_k=False):
    """Block after block, NumPy inside, with a place for each mistake."""
    (M, K), out = a.shape, np.zeros((len(a), N), np.float32)
    for block in range(K * N // size):
        f = np.arange(size) + (block * size if first else 0)
        k, j = (f % K, f // K) if along_k else (f // N, f % N)
        products = a[:, k] * decode(block)
        for i in range(M):
            if add:
                np.add.at(out[i], j, products[i])
            else:
                out[i, j] = products[i]
    return out


def once_with(**mistake):
    return lambda *arguments: block_after_block(*arguments, **mistake)


def as_phase_0(a, decode, N, size):
    kept = np.concatenate([decode(block).copy() for block in range(a.shape[1] * N // size)])
    return a @ kept.reshape(-1, N)


def as_phase_0_without_copies(a, decode, N, size):
    blocks = {block: decode(block) for block in range(a.shape[1] * N // size)}
    return np.array(
        [
            [
                sum(
                    x * blocks[f // size][f % size]
                    for x, f in zip(row, range(j, row.size * N, N), strict=True)
                )
                for j in range(N)
            ]
            for row in a
        ],
        np.float32,
    )


WRONG = [
    ("each_block_once", lambda *a: product(*a)[0], "costs 96 decodes where the matrix has 8 blocks"),
    ("each_block_once", as_phase_0, "that is Phase 0"),
    ("each_block_once", as_phase_0_without_copies, "it holds another block"),
    ("each_block_once", once_with(first=False), "those of block 0 belong"),
    ("each_block_once", once_with(along_k=True), "as if they ran down the columns"),
    ("each_block_once", once_with(add=False), "only the last k is left"),
    ("each_block_once", lambda *a: block_after_block(*a).T, "transposed"),
    ("one_block_product", counts_another_way, "called decode 192 times"),
    ("product_of_turned_blocks", turned_and_decoded_for_each_row, "and called decode 48 times"),
    ("runs_in_column", blocks_passed, "jumps over blocks"),
    ("runs_in_column", lambda K, N, j, size: int(np.ceil(K * N / size)), "all blocks of the matrix"),
    ("runs_in_column", lambda K, N, j, size: K * N // size, "number of whole blocks"),
    ("runs_in_column", lambda K, N, j, size: runs(K, N, j, size, start=0), "one run more"),
    ("runs_in_column", lambda K, N, j, size: (K + size - 1) // size, "cut the column itself"),
    ("runs_in_column", lambda K, N, j, size: int(K / size), "down a column the flat index grows by N"),
    (
        "runs_in_column",
        lambda K, N, j, size: runs(K, N, j, size, lambda k, j, K, N: j * K + k),
        "f = j * K + k",
    ),
    ("runs_in_column", lambda K, N, j, size: K, "a new block at every step"),
    ("runs_in_column", lambda K, N, j, size: runs(K, N, 0, size), "the count of column 0"),
    (
        "runs_in_column",
        lambda K, N, j, size: min(K, (K * N + j) // size - j // size + 1),
        "one row too far",
    ),
    ("one_block_product", product_with(empty="never"), "survives from one column to the next"),
    ("one_block_product", product_with(empty="row"), "empty the buffer for every row"),
    ("one_block_product", product_with(order="ij"), "your outer loop is i"),
    ("one_block_product", product_with(always=True), "you decode at every step"),
    ("one_block_product", lambda *a: with_a_map(*a, per_column=False), "that is Phase 3a"),
    ("one_block_product", lambda *a: with_a_map(*a, per_column=True), "what the idea hoped for"),
    ("one_block_product", first_not_counted, "do not count the first block"),
    ("one_block_product", never_again, "and then go on with it"),
    ("one_block_product", product_with(flat=lambda k, j, K, N: j * K + k), "f = j * K + k"),
    ("one_block_product", lambda a, d, N, s: product(a, d, N, s, place=lambda k: k % s), "not k % size"),
    ("one_block_product", flipped(product), "transposed"),
    ("block_decodes", with_mistake(lone=lambda M, workers: M), "decoded too often"),
    ("block_decodes", with_mistake(lone=lambda M, workers: 1), "once by each worker, not once in all"),
    ("block_decodes", one_block_for_all_columns, "for all columns"),
    ("block_decodes", lambda M, K, N, size, workers: K * N // size, "count each block once"),
    (
        "block_decodes",
        with_mistake(lone=lambda M, w: 1, several=lambda M, w, met: met),
        "each column's blocks once:",
    ),
    ("block_decodes", with_mistake(several=lambda M, w, met: w * met), "blocks once for each worker"),
    ("block_decodes", with_mistake(several=lambda M, w, met: w * M * met), "by M and by the workers"),
    ("block_decodes", lambda M, K, N, size, workers: M * K * N, "a decode at every step"),
    ("block_decodes", with_mistake(columns=1), "the count of one column"),
    ("block_decodes", with_mistake(meets=lambda K, N, j, size: K * N // size), "it meets K at most"),
    ("product_of_turned_blocks", turned_with(where="row"), "again for every row"),
    ("product_of_turned_blocks", turned_with(where="weight"), "a block for every weight"),
    ("product_of_turned_blocks", turned_with(add=False), "only the last block"),
    ("product_of_turned_blocks", turned_with(start=0), "first weights of a"),
    ("product_of_turned_blocks", turned_with(number=lambda j, b, N: b * N + j), "block b * N + j"),
    ("product_of_turned_blocks", turned_with(number=lambda j, b, N: b), "blocks of column 0"),
    ("product_of_turned_blocks", turned_with(number=lambda j, b, N: j), "gets block j"),
    ("product_of_turned_blocks", product, "Phase 3b's loops"),
    ("product_of_turned_blocks", turned_with(where="column"), "count each column once"),
    ("product_of_turned_blocks", flipped(turned), "transposed"),
]


RIGHT = {
    "runs_in_column": [runs],
    "one_block_product": [product],
    "block_decodes": [decodes],
    "product_of_turned_blocks": [turned],
    "each_block_once": [block_after_block],
}


def test_the_count_is_the_kernel_s_own():
    for arguments in lesson.count_cases().values():
        *sizes, size, workers = arguments
        fmt = SimpleNamespace(block_size=size, bytes_per_block=0)
        assert phase3b.workers(sizes[0], workers) == workers
        assert lesson.block_decodes(*arguments) == phase3b.count(*sizes, fmt, workers).blocks_decoded
    cost = KERNELS["phase3b_column_major"].cost(128, 128, 128, FORMATS["Q5_K"], 16)
    assert lesson.block_decodes(128, 128, 128, 256, 16) == cost.blocks_decoded == 1_048_576


def test_the_product_counts_what_the_formula_says():
    for a, decode, N, size in lesson.product_cases().values():
        counted = lesson.one_block_product(a, decode, N, size)[1]
        assert counted == lesson.block_decodes(*a.shape, N, size, 1)


@pytest.mark.parametrize("name", ["one_block_product", "product_of_turned_blocks"])
def test_a_product_without_its_count_is_told_so(name):
    message = NAMES[name].judge(lambda *arguments: NAMES[name].engine(*arguments)[0]).message
    assert "expected 2 values, got an array of shape" in message


def test_a_block_that_is_not_there_is_told_where_a_column_begins():
    def by_rows(a, decode, N, size):
        return sum(decode(j * N) for j in range(N)), N

    message = NAMES["product_of_turned_blocks"].judge(by_rows).message
    assert "Column j begins at block j * (K // size)" in message and "counted from 0" not in message
