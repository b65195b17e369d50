"""Sixteen rows of floats times T rows of x: what the functions of `panels` are where weights have no codes.

    row 0   w0 w1 ... w15 | w16 ...
    row 1   ...                          total of row 0 and x   w0 x0 + w16 x16 + ..., w1 x1 + ..., ...
    x       x0 x1 ... x15 | x16 ...                               --at the end-->  their sum

Weights lie in memory as x does, so a register of neighbouring weights meets one of neighbouring x, and each
lane adds up its own products. Some rows of weights and some of x are taken at a time: each pair of them has
its total in a register, and what is loaded is used several times. After a span of some blocks the totals wait
in memory and the next rows come: so the span of x stays in the first-level cache until all 16 have met it.
A total has the same lanes and the same order of additions for every T.

    a panel     float32 [spans, 16, SPAN, 32]     the weights of 16 rows, for many rows of x
"""

from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from llvmlite import ir
from numba.core import cgutils

from blocks2tokens.jit.lanes import (
    F32,
    I64,
    ROWS,
    constant,
    fma,
    load,
    loop,
    made_here,
    pointer,
    split,
    transpose,
)
from blocks2tokens.kernels.ours.prefetch import prefetch
from blocks2tokens.kernels.ours.unpack import PACKED

SPAN = 8  # blocks of 32 numbers, in a tile of TILE rows: 8 KiB of x; in smaller ones, as many bytes
MOST_ROWS, MOST_COLUMNS = 8, 4  # of weights and of x at a time
TOGETHER, AT_ONCE = 4, 8  # rows of weights, numbers of each, whose loads LLVM may put in any order
TILE = 8  # rows of x, at the most
LINE = 4 * 32  # bytes of 32 float32


class Place(NamedTuple):
    """Where weights are: row r of block b, the first of a span, is r * row + b * block bytes behind start."""

    start: ir.Value
    row: ir.Value
    block: int


def at_a_time(isa, n_rows):
    """Return how many rows of weights, and how many of a tile's n_rows rows of x, are taken at a time."""
    columns = min(n_rows, MOST_COLUMNS)
    return min(MOST_ROWS, isa.sums // columns), columns


def turns(isa, n_rows):
    """Return how often the loops within that over spans, of SPAN, go round: over rows, columns and blocks."""
    rows, columns = at_a_time(isa, n_rows)
    return ROWS // rows, n_rows // columns, SPAN


def panel_bytes(blocks: int) -> int:
    """Return the bytes of a panel of 16 rows of so many blocks."""
    return -(-blocks // SPAN) * SPAN * ROWS * LINE


def define_rows(builder, packed, isa, n_rows, prefetching, weights, row_bytes, blocks, x, out, coming):
    """Fill out, float32 [T, 16], with the products of 16 rows of weights and x, float32 [blocks, T, 32]."""
    down, across, _ = turns(isa, n_rows)
    ask = partial(prefetch, builder, prefetching, ROWS * packed.size // (down * across), coming, row_bytes)
    place = Place(weights, row_bytes, packed.size)
    define_products(builder, packed, isa, n_rows, place, blocks, x, out, ask)


def define_tile(builder, isa, n_rows, panel, blocks, x, out):
    """The same for weights that lie in a panel."""
    place = Place(panel, I64(LINE * SPAN), LINE * ROWS)
    define_products(builder, PACKED["F32"], isa, n_rows, place, blocks, x, out, lambda turn: None)


def define_fill(builder, packed, isa, prefetching, weights, row_bytes, blocks, panel, coming):
    """Decode 16 rows of weights into a panel."""
    with loop(builder, blocks) as block:
        prefetch(builder, prefetching, ROWS * packed.size, coming, row_bytes, block)
        place = builder.urem(block, I64(SPAN))
        at = behind(builder, weights, (block, packed.size))
        to = behind(builder, panel, (builder.sub(block, place), LINE * ROWS), (place, LINE))
        for r in range(ROWS):
            row = behind(builder, at, (row_bytes, r))
            for i in range(0, packed.weights, isa.lanes):
                values = packed.unpack(builder, row, i, isa.lanes)
                builder.store(values, pointer(builder, to, LINE * SPAN * r + 4 * i, values.type), align=1)


def define_products(builder, packed, isa, n_rows, place, blocks, x, out, ask):
    """Fill out with the products of weights and x; `ask` for the next weights in each of the inner turns."""
    rows, columns = at_a_time(isa, n_rows)
    down, across, _ = turns(isa, n_rows)
    totals = Totals(builder, isa, n_rows)
    size = SPAN * TILE // n_rows
    with spans(builder, blocks, size) as (first, count), loop(builder, down) as i, loop(builder, across) as j:
        row, column = builder.mul(i, I64(rows)), builder.mul(j, I64(columns))
        at = behind(builder, place.start, (row, place.row), (first, place.block))
        x_at = behind(builder, x, (first, LINE * n_rows), (column, LINE))
        before = behind(builder, builder.mul(behind(builder, j, (i, across)), count), (first, down * across))
        with totals.taken(row, column, rows, columns) as held, loop(builder, count) as turn:
            ask(builder.add(before, turn))
            block = behind(builder, at, (turn, packed.size))
            starts = [behind(builder, block, (place.row, r)) for r in range(rows)]
            x_block = behind(builder, x_at, (turn, LINE * n_rows))
            define_block(builder, packed, isa, starts, x_block, held)
    totals.add_up(out)


def define_block(builder, packed, isa, starts, x, held):
    """Add the products of a block of some rows of weights and one of x to totals, held[row][column]."""
    kind = ir.VectorType(F32, isa.lanes)
    for i in range(0, packed.weights, isa.lanes):
        numbers = [load(builder, x, LINE * m + 4 * i, kind) for m in range(len(held[0]))]
        for first in range(0, len(starts), TOGETHER):
            some = range(first, min(first + TOGETHER, len(starts)))
            for r in some:
                weights = packed.unpack(builder, starts[r], i, isa.lanes)
                for values, total in zip(numbers, held[r], strict=True):
                    builder.store(fma(builder, weights, values, builder.load(total)), total)
            if (i + isa.lanes) % AT_ONCE == 0:
                for total in (total for r in some for total in held[r]):
                    builder.store(made_here(builder, isa, builder.load(total)), total)


class Totals:
    """One vector for each row of x and each of 16 rows of weights, in memory: [T, 16]."""

    def __init__(self, builder, isa, n_rows):
        self.builder, self.n_rows, self.kind = builder, n_rows, ir.VectorType(F32, isa.lanes)
        self.places = cgutils.alloca_once(builder, self.kind, ROWS * n_rows)
        with loop(builder, ROWS * n_rows) as i:
            builder.store(constant(self.kind, 0.0), builder.gep(self.places, [i]))

    @contextmanager
    def taken(self, row, column, rows, columns):
        """Give some of them, [rows][columns], places that LLVM makes registers; then put them back."""
        builder, first = self.builder, behind(self.builder, row, (column, ROWS))
        held = [[cgutils.alloca_once(builder, self.kind) for _ in range(columns)] for _ in range(rows)]
        pairs = [
            (builder.gep(self.places, [builder.add(first, I64(ROWS * m + r))]), place)
            for r, some in enumerate(held)
            for m, place in enumerate(some)
        ]
        for waiting, place in pairs:
            builder.store(builder.load(waiting), place)
        yield held
        for waiting, place in pairs:
            builder.store(builder.load(place), waiting)

    def add_up(self, out):
        """Add the lanes of each: out, float32 [T, 16]."""
        builder = self.builder
        with loop(builder, ROWS * self.n_rows // 4) as i:
            first = builder.mul(i, I64(4))
            four = [builder.gep(self.places, [builder.add(first, I64(r))]) for r in range(4)]
            made = sums(builder, list(map(builder.load, four)))
            builder.store(made, pointer(builder, behind(builder, out, (i, 16)), 0, made.type), align=1)


def sums(builder, four):
    """Return the sums of the lanes of four vectors, a vector of four."""
    parts = transpose(builder, four)
    while len(parts) > 1 or parts[0].type.count > 4:
        parts = parts if len(parts) > 1 else split(builder, parts[0], 2)
        parts = [builder.fadd(a, b) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


@contextmanager
def spans(builder, blocks, size):
    """Make a loop over spans of `size` blocks; give the first block of each, and how many there are."""
    with loop(builder, builder.udiv(builder.add(blocks, I64(size - 1)), I64(size))) as turn:
        first = builder.mul(turn, I64(size))
        left = builder.sub(blocks, first)
        yield first, builder.select(builder.icmp_unsigned("<", left, I64(size)), left, I64(size))


def behind(builder, start, *steps):
    """Return an address, or another number, plus products of two; the second of which may be Python's."""
    for count, size in steps:
        start = builder.add(start, builder.mul(count, I64(size) if isinstance(size, int) else size))
    return start
