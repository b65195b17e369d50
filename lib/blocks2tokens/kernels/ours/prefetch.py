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


def prefetch(builder, how, n_bytes, coming, row_bytes, turn, part=0, parts=1):
    """Ask for as many bytes of the 16 rows that begin at `coming` as a turn of a loop takes of its own rows.

    Not for the same places of each row, but in the order of memory at some, of 4: at rows 0, 4, 8 and 12.
    Hardware prefetchers follow addresses that run upwards, each in a page of its own, and fetch further ahead
    than the 10 to 16 requests of one core can. One place keeps too few bytes on their way; 16 are more than
    some prefetchers follow.

    A turn with much work asks in `parts`, this being number `part`: a core that asks for 40 lines at once has
    no request left for what it loads, and waits. LLVM moves no load from one part to the next.
    """
    if not how.streams:
        return
    size = n_bytes // how.streams
    first = builder.add(coming, builder.mul(turn, I64(size)))
    apart = builder.mul(row_bytes, I64(ROWS // how.streams))
    places = [(stream, LINE * line) for line in range(-(-size // LINE)) for stream in range(how.streams)]
    per_part = -(-len(places) // parts)
    for stream, offset in places[per_part * part : per_part * (part + 1)]:
        ask(builder, builder.add(first, builder.mul(apart, I64(stream))), offset, how.level)
    if parts > 1:
        fence(builder)


def ask(builder, start, offset, level):
    """Ask for the line of memory at an address, to come to the cache of a level."""
    kind = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
    name = "llvm.prefetch.p0"
    asked = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    read, data, locality = I32(0), I32(1), I32(4 - level)
    builder.call(asked, [pointer(builder, start, offset, I8), read, locality, data])


def fence(builder):
    """Let LLVM move no load across this place: what looks like an instruction is none."""
    builder.asm(ir.FunctionType(ir.VoidType(), []), "", "~{memory}", [], side_effect=True)
