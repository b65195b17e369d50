"""Asking memory for the rows of weights that come next: the instructions. `prefetching` chooses how."""

from typing import NamedTuple

from llvmlite import ir

from blocks2tokens.jit.lanes import I8, I32, I64, ROWS, pointer

LINE = 64  # bytes that memory delivers at a time


class Prefetch(NamedTuple):
    """How the next 16 rows are asked for: see `prefetch`, and `prefetching` for how it is chosen."""

    streams: int = 4  # places at which memory is read at a time, 0: it is not asked for
    level: int = 2  # of the cache that it is to come to


DEFAULT = Prefetch()


def prefetch(builder, how, n_bytes, coming, row_bytes, turn):
    """Ask for as many bytes of the 16 rows that begin at `coming` as a turn of a loop takes of its own rows.

    Not for the same places of each row, but in the order of memory at some, of 4: at rows 0, 4, 8 and 12.
    Hardware prefetchers follow addresses that run upwards, each in a page of its own, and fetch further ahead
    than the 10 to 16 requests of one core can. One place keeps too few bytes on their way, 16 are too many.
    """
    if not how.streams:
        return
    size = n_bytes // how.streams
    first = builder.add(coming, builder.mul(turn, I64(size)))
    apart = builder.mul(row_bytes, I64(ROWS // how.streams))
    starts = [builder.add(first, builder.mul(apart, I64(i))) for i in range(how.streams)]
    kind = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
    asked = builder.module.globals.get("llvm.prefetch.p0") or ir.Function(
        builder.module, kind, "llvm.prefetch.p0"
    )
    read, data, locality = I32(0), I32(1), I32(4 - how.level)
    for line in range(-(-size // LINE)):
        for start in starts:
            builder.call(asked, [pointer(builder, start, LINE * line, I8), read, locality, data])
