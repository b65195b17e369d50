"""Unpack 16 rows of weights into a panel, and let every row of x use it: for many rows of x.

    16 rows of w  --fill-->  panel, 256 codes of each row  --tile-->  T rows of x at a time

A panel is 4 KiB of codes and stays in the first-level cache while all rows of x pass by; unpacking is paid
once for all of them. See `panels`; the sharing of the cores is that of `simd_dot`. Floats are decoded, whole
rows at a time, or copied, where the CPU multiplies them as they lie: see `float_dot`.
"""

from functools import cache

import numpy as np

from blocks2tokens.jit.lanes import ISAS, ROWS
from blocks2tokens.jit.naming import named
from blocks2tokens.jit.pointers import floats_at
from blocks2tokens.kernels import prefetching
from blocks2tokens.kernels.kernel import Cost, Kernel
from blocks2tokens.kernels.ours import float_dot, simd_tiles
from blocks2tokens.kernels.ours.panels import Layout, fill, tag_of, tile, tile_sizes
from blocks2tokens.kernels.ours.simd_dot import copy_tile, job_needs, run_job, vectors_for
from blocks2tokens.kernels.ours.unpack import PACKED
from blocks2tokens.kernels.scratch import with_own_memory

SPAN = 256  # weights of a row in a panel
PANELS = 4  # that a tile of x meets while it is in the first-level cache


def tile_of(packed, isa):
    """Return how many rows of x a tile has."""
    return float_dot.TILE if packed.is_float else isa.tile


def panels_of(packed):
    """Return how many panels there are at a time: one of floats is too much for the first-level cache."""
    return 1 if packed.is_float else PANELS


def panel_bytes(packed, isa, blocks):
    """Return the bytes of a panel, for rows of so many blocks: one of floats holds all of them."""
    if packed.is_float:
        return float_dot.panel_bytes(packed, isa, blocks)
    return Layout(isa, packed).size * (SPAN // packed.weights)


@cache
def compiled_job(name, isa_name):
    return panel_job(name, isa_name)


def panel_job(name, isa_name):
    """Return the job: rows `first` to `last` - 1 of the weights, times all tiles of x."""
    packed, isa, prefetch = PACKED[name], ISAS[isa_name], prefetching.chosen()
    n_rows, most = tile_of(packed, isa), panels_of(packed)
    tag = tag_of(name, isa_name, n_rows, prefetch)
    step = packed.size * ROWS // max(1, prefetch.streams)  # of what comes, for each block
    code_bytes, d_bytes, sum_bytes = tile_sizes(packed, n_rows)
    if float_dot.as_they_lie(packed, isa):
        code_bytes //= 2  # of x rounded to bfloat16
    size, of_a_span = packed.size, None if packed.is_float else SPAN // packed.weights
    room_of_one = panel_bytes(packed, isa, 0)  # from one to the next: of floats there is one

    def job(
        weights, row_bytes, blocks, codes, d, sums, tiles, first, last, part, part_rows, out, M, N, panel
    ):
        results, products = floats_at(part, (part_rows, ROWS)), floats_at(out, (M, N))
        size_of_results = 4 * ROWS * n_rows * tiles
        span = blocks if of_a_span is None else of_a_span
        for n in range(first, last, most * ROWS):
            n_panels = min(most, (last - n + ROWS - 1) // ROWS)
            results[:] = 0
            for block in range(0, blocks, span):
                count = min(span, blocks - block)
                for p in range(n_panels):
                    start = min(n + ROWS * p, N - ROWS)  # the last sixteen may overlap those before
                    at = weights + start * row_bytes
                    coming = at + most * ROWS * row_bytes + step * block
                    fill(tag, at + size * block, row_bytes, count, panel + room_of_one * p, coming)
                for t in range(tiles):
                    place = t * blocks + block
                    x = codes + code_bytes * place, d + d_bytes * place, sums + sum_bytes * place
                    for p in range(n_panels):
                        made = part + size_of_results * p + 4 * ROWS * n_rows * t
                        tile(tag, panel + room_of_one * p, count, *x, made)
            for p in range(n_panels):
                rows = results[n_rows * tiles * p : n_rows * tiles * (p + 1)]
                copy_tile(rows, products, 0, min(n + ROWS * p, N - ROWS))

    return named(job, f"panel_job_{name}_{isa_name}".lower())


def needs(M, w):
    isa_name = vectors_for(w.format, *w.shape)
    if isa_name == "plain":
        return simd_tiles.needs(M, w)
    isa, packed = ISAS[isa_name], PACKED[w.format.name]
    blocks, n_rows, most = w.shape[1] // packed.weights, tile_of(packed, isa), panels_of(packed)
    room = panel_bytes(packed, isa, blocks)
    x_dtype = np.uint16 if float_dot.as_they_lie(packed, isa) else np.float32
    return job_needs(M, w, n_rows, most * -(-M // n_rows) * n_rows, most * room, x_dtype)


def run_into(x, w, out, room):
    isa_name = vectors_for(w.format, *w.shape)
    if isa_name == "plain":
        simd_tiles.run_into(x, w, out, room)
    else:
        run_job(compiled_job(w.format.name, isa_name), x, w, out, room)


run = with_own_memory(needs, run_into)


def count(M, K, N, fmt, cores):
    isa_name = vectors_for(fmt, N, K)
    if isa_name == "plain":
        return simd_tiles.count(M, K, N, fmt, cores)
    packed = PACKED[fmt.name]
    room = panel_bytes(packed, ISAS[isa_name], K // packed.weights) if packed.is_float else ROWS * SPAN
    return Cost(
        elements_decoded=K * N,
        blocks_decoded=K * N // fmt.block_size,
        lookups=0,
        bytes_read=N * fmt.row_bytes(K) + 4 * M * K,
        temporary_bytes=cores * room,
        multiply_adds=M * K * N,
    )


KERNEL = Kernel(
    "integer_gemm",
    "gguf",
    "unpack 16 rows into a panel, use it for all rows of x",
    run,
    count,
    True,
    range(4, 2**62),
    needs,
    run_into,
)
