"""Sixteen rows of floats times T rows of x: what the functions of `panels` are where weights have no codes.

    row 0   w0 w1 ... w15 | w16 ...
    row 1   ...                          total of row 0 and x   w0 x0 + w16 x16 + ..., w1 x1 + ..., ...
    x       x0 x1 ... x15 | x16 ...                               --at the end-->  their sum

Weights lie in memory as x does, so a register of neighbouring weights meets one of neighbouring x, and each
lane adds up its own products. Some rows of weights and some of x are taken at a time: each pair of them has
its total in a register, and what is loaded is used several times. After a span of some blocks the totals wait
in memory and the next rows come: so the span of x stays in the first-level cache until all 16 have met it.
A total has the same lanes and the same order of additions for every T.

Some CPUs multiply pairs of bfloat16, twice as many products in one instruction. There BF16 weights are taken
as they lie in memory, and x is rounded to bfloat16, a span at a time: see `Pairs`.

    a panel     float32 [spans, 16, span, 32]     the weights of 16 rows, for many rows of x
                BF16    [spans, 16, span, 32]     those that are taken as they lie
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
from blocks2tokens.kernels.ours.prefetch import fence, prefetch
from blocks2tokens.kernels.ours.unpack import PACKED

SPAN = 1 << 10  # bytes of each row of x in a tile of TILE rows; of smaller tiles as many in all
MOST_ROWS, MOST_COLUMNS = 8, 4  # of weights and of x at a time
TOGETHER, AT_ONCE = 4, 8  # rows of weights, numbers of each, whose loads LLVM may put in any order
TILE = 8  # rows of x, at the most
LINE = 4 * 32  # bytes of 32 float32
HALF_LINE = 2 * 32  # bytes of 32 bfloat16


class Place(NamedTuple):
    """Where weights are: row r of block b, the first of a span, is r * row + b * block bytes behind start."""

    start: ir.Value
    row: ir.Value
    block: int


def as_they_lie(packed, isa):
    """Say whether weights are multiplied as they lie in memory, with nothing to decode."""
    return packed.name == "BF16" and isa.has_bf16


class Singles:
    """Weights as float32 times x: a product for each lane of a total."""

    def __init__(self, builder, packed, isa):
        self.builder, self.packed, self.isa = builder, packed, isa
        self.span, self.step = span_of(packed, isa), isa.lanes  # numbers of a row in a register
        self.stored = self.line = LINE  # bytes of 32 numbers of x: before and after they are made `ready`

    def ready(self, x, blocks):
        """Return where blocks of 32 numbers of x, at most span * TILE, lie as they are multiplied."""
        return x

    def numbers(self, x, i):
        """Return those from number i of a block of x on."""
        return load(self.builder, x, 4 * i, ir.VectorType(F32, self.step))

    def weights(self, row, i):
        return self.packed.unpack(self.builder, row, i, self.step)

    def add(self, total, weights, numbers):
        return fma(self.builder, weights, numbers, total)


class Pairs(Singles):
    """BF16 weights times x, rounded to bfloat16: two products for each lane of a total."""

    def __init__(self, builder, packed, isa):
        super().__init__(builder, packed, isa)
        self.step, self.stored, self.line = 2 * isa.lanes, HALF_LINE, HALF_LINE

    def numbers(self, x, i):
        return load(self.builder, x, 2 * i, self.isa.bf16)

    def weights(self, row, i):
        return self.numbers(row, i)

    def add(self, total, weights, numbers):
        return self.isa.add_bf16(self.builder, total, weights, numbers)


class RoundedPairs(Pairs):
    """The same where x is float32 in memory: a span of it is rounded and kept in the first-level cache."""

    def __init__(self, builder, packed, isa):
        super().__init__(builder, packed, isa)
        self.stored = LINE
        self.rounded = cgutils.alloca_once(builder, isa.bf16, self.span * TILE * 32 // self.step)

    def ready(self, x, blocks):
        builder, n = self.builder, self.isa.lanes
        rounded = builder.ptrtoint(self.rounded, I64)
        with loop(builder, blocks) as block:
            fence(builder)  # one turn at a time
            at, to = behind(builder, x, (block, LINE)), behind(builder, rounded, (block, HALF_LINE))
            for i in range(0, 32, self.step):
                low, high = (load(builder, at, 4 * j, ir.VectorType(F32, n)) for j in (i, i + n))
                made = self.isa.round_to_bf16(builder, low, high)
                builder.store(made, pointer(builder, to, 2 * i, made.type), align=1)
        return rounded


def at_a_time(isa, n_rows):
    """Return how many rows of weights, and how many of a tile's n_rows rows of x, are taken at a time."""
    columns = min(n_rows, MOST_COLUMNS)
    return min(MOST_ROWS, isa.sums // columns), columns


def down_and_across(isa, n_rows):
    """Return how often the loops over rows and columns of a span go round."""
    rows, columns = at_a_time(isa, n_rows)
    return ROWS // rows, n_rows // columns


def turns(packed, isa, kind, n_rows):
    """Return what `panels.turns` does, for spans of TILE rows of x, however many there are."""
    span, found = span_of(packed, isa), []
    for times in (span, *reversed(down_and_across(isa, n_rows))):
        found = [(times, found)] if times > 1 else found
    rounding = [(span * n_rows, [])] if kind == "rows" and as_they_lie(packed, isa) else []
    return rounding + found


def span_of(packed, isa):
    """Return the blocks of a span of TILE rows of x."""
    return SPAN // (HALF_LINE if as_they_lie(packed, isa) else LINE)


def panel_bytes(packed, isa, blocks: int) -> int:
    """Return the bytes of a panel of 16 rows of so many blocks."""
    span = span_of(packed, isa)
    return -(-blocks // span) * span * ROWS * held_in_panels(packed, isa).size


def held_in_panels(packed, isa):
    """Return what weights are in a panel, as one of PACKED."""
    return packed if as_they_lie(packed, isa) else PACKED["F32"]


def define_rows(builder, packed, isa, n_rows, prefetching, weights, row_bytes, blocks, x, out, coming):
    """Fill out, float32 [T, 16], with the products of 16 rows of weights and x, float32 [blocks, T, 32]."""
    down, across = down_and_across(isa, n_rows)
    ask = partial(prefetch, builder, prefetching, ROWS * packed.size // (down * across), coming, row_bytes)
    place = Place(weights, row_bytes, packed.size)
    how = (RoundedPairs if as_they_lie(packed, isa) else Singles)(builder, packed, isa)
    define_products(builder, isa, how, n_rows, place, blocks, x, out, ask)


def define_tile(builder, packed, isa, n_rows, panel, blocks, x, out):
    """The same for weights that lie in a panel; where they are `as_they_lie`, x is rounded to bfloat16."""
    held = held_in_panels(packed, isa)
    how = (Pairs if as_they_lie(held, isa) else Singles)(builder, held, isa)
    place = Place(panel, I64(held.size * how.span), held.size * ROWS)
    define_products(builder, isa, how, n_rows, place, blocks, x, out, lambda turn: None)


def define_fill(builder, packed, isa, prefetching, weights, row_bytes, blocks, panel, coming):
    """Put 16 rows of weights into a panel, decoded or as they lie."""
    size = held_in_panels(packed, isa).size
    how = (Pairs if as_they_lie(packed, isa) else Singles)(builder, packed, isa)
    with loop(builder, blocks) as block:
        prefetch(builder, prefetching, ROWS * packed.size, coming, row_bytes, block)
        place = builder.urem(block, I64(how.span))
        at = behind(builder, weights, (block, packed.size))
        to = behind(builder, panel, (builder.sub(block, place), size * ROWS), (place, size))
        for r in range(ROWS):
            row = behind(builder, at, (row_bytes, r))
            for i in range(0, 32, how.step):
                values, offset = how.weights(row, i), how.span * size * r + size * i // 32
                builder.store(values, pointer(builder, to, offset, values.type), align=1)


def define_products(builder, isa, how, n_rows, place, blocks, x, out, ask):
    """Fill out with the products of weights and x; `ask` for the next weights in each of the inner turns."""
    rows, columns = at_a_time(isa, n_rows)
    down, across = down_and_across(isa, n_rows)
    totals = Totals(builder, isa, n_rows)
    size = how.span * TILE // n_rows
    with spans(builder, blocks, size) as (first, count):
        x_span = behind(builder, x, (first, how.stored * n_rows))
        x_span = how.ready(x_span, builder.mul(count, I64(n_rows)))
        with loop(builder, down) as i, loop(builder, across) as j:
            row, column = builder.mul(i, I64(rows)), builder.mul(j, I64(columns))
            at = behind(builder, place.start, (row, place.row), (first, place.block))
            x_at = behind(builder, x_span, (column, how.line))
            turns_before = builder.mul(behind(builder, j, (i, across)), count)
            turns_before = behind(builder, turns_before, (first, down * across))
            with totals.taken(row, column, rows, columns) as held, loop(builder, count) as turn:
                ask(builder.add(turns_before, turn))
                block = behind(builder, at, (turn, how.packed.size))
                starts = [behind(builder, block, (place.row, r)) for r in range(rows)]
                x_block = behind(builder, x_at, (turn, how.line * n_rows))
                define_block(builder, isa, how, starts, x_block, held)
    totals.add_up(out)


def define_block(builder, isa, how, starts, x, held):
    """Add the products of a block of some rows of weights and one of x to totals, held[row][column]."""
    columns = [behind(builder, x, (I64(m), how.line)) for m in range(len(held[0]))]
    for i in range(0, 32, how.step):
        numbers = [how.numbers(column, i) for column in columns]
        for first in range(0, len(starts), TOGETHER):
            some = range(first, min(first + TOGETHER, len(starts)))
            for r in some:
                weights = how.weights(starts[r], i)
                for values, total in zip(numbers, held[r], strict=True):
                    builder.store(how.add(builder.load(total), weights, values), total)
            if (i + how.step) % AT_ONCE == 0:
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
