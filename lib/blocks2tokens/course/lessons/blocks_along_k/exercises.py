"""Lesson 15, blocks along K: blocks entered, scales out of the inner loop, tiles, and the bytes that move.

blocks_entered       layout, sizes       -> how often all the walks enter a block
hoisted_dot          x, one Q4_K row     -> dot product, scales unpacked
product_by_tiles     x, a decoder, sizes -> product, tiles decoded
weight_bytes_moved   kind, sizes, bits   -> bytes of weights between memory and CPU
"""

from functools import partial

import numpy as np

from blocks2tokens.course.check.exercise import Exercise, Mistake, difference
from blocks2tokens.course.check.watched import Counter, WatchedExercise, counted_calls, look, with_names
from blocks2tokens.formats import FORMATS
from blocks2tokens.formats.compiled import read_half
from blocks2tokens.formats.q4_k import scale_min

Q4_K = FORMATS["Q4_K"]


# blocks_entered: layout, K, N, size -> entries


def blocks_entered(layout, K, N, size):
    """Return how often the walks of all N outputs, each along k from 0, enter a block of `size` weights."""
    entered = 0
    for n in range(N):
        held = -1
        for k in range(K):
            block = (n * K + k if layout == "gguf" else k * N + n) // size
            if block != held:
                held, entered = block, entered + 1
    return entered


def layout_cases():
    sizes = {
        "8 x 4, blocks of 8": (8, 4, 8),
        "24 x 6, blocks of 8": (24, 6, 8),
        "32 x 12, blocks of 16": (32, 12, 16),
        "16 x 40, blocks of 16": (16, 40, 16),
        "128 x 128, blocks of 64": (128, 128, 64),
    }
    one_block = {"report, 4 x 4, all in one block": ("report", 4, 4, 16)}
    return one_block | {
        f"{layout}, {label}": (layout, *size)
        for label, size in sizes.items()
        for layout in ("report", "gguf")
    }


def one_output_only(layout, K, N, size):
    return blocks_entered("gguf", K, 1, size) if layout == "gguf" else max_runs(K, N, size)


def max_runs(K, N, size):
    return 1 + np.count_nonzero(np.diff(np.arange(K) * N // size))


def every_step_in_report(layout, K, N, size):
    return blocks_entered(layout, K, N, size) if layout == "gguf" else K * N


def meets_all_blocks(layout, K, N, size):
    return blocks_entered(layout, K, N, size) if layout == "gguf" else N * (-(-K * N // size))


def kept_across_outputs(layout, K, N, size):
    n, k = np.divmod(np.arange(N * K), K)
    block = (n * K + k if layout == "gguf" else k * N + n) // size
    return 1 + np.count_nonzero(np.diff(block))


ENTERED = Exercise(
    name="blocks_entered",
    engine=blocks_entered,
    cases=layout_cases,
    mistakes=(
        Mistake(
            lambda layout, *sizes: blocks_entered("gguf" if layout == "report" else "report", *sizes),
            "the layouts are exchanged: in the report's, weight k of output n lies at k * N + n, in GGUF's "
            "at n * K + k",
        ),
        Mistake(one_output_only, "you walk for one output: count the walks of all N"),
        Mistake(
            lambda layout, K, N, size: K * N,
            "you count steps: two steps in the same block enter it once",
        ),
        Mistake(
            every_step_in_report,
            "in the report's layout you count each step: where N is less than a block, several steps may "
            "stay in one",
        ),
        Mistake(
            meets_all_blocks,
            "in the report's layout you let each output enter every block of the matrix: where N is more "
            "than a block, its K steps cannot enter more than K",
        ),
        Mistake(
            lambda layout, K, N, size: -(-K * N // size),
            "you count the blocks of the matrix: each output walks for itself and enters its blocks again",
        ),
        Mistake(
            lambda layout, K, N, size: blocks_entered(layout, K, N, size) - N,
            "you count changes from one block to the next: the first step of each output enters one too",
        ),
        Mistake(
            kept_across_outputs,
            "you keep the last block of one output for the next: each walk begins with none",
        ),
    ),
    hints=(
        "Walk: for each output, for each k, which block is the weight in? Count when it is another than "
        "before.",
        'The place is n * K + k for "gguf" and k * N + n for "report"; the block is place // size. Start '
        "each output with held = -1.",
    ),
)


# hoisted_dot: x float32 [K], raw uint8 [row bytes] -> dot product, scales unpacked


def hoisted_dot(x, raw):
    """Return x @ weights of one Q4_K row, and how often a scale was unpacked; x float32 [K]."""
    total, unpacked = np.float32(0), 0
    for block in range(x.size // 256):
        at = 144 * block
        d, dmin = read_half(raw, at), read_half(raw, at + 2)
        for s in range(8):
            sc, m = scale_min(raw, at + 4, s)
            unpacked += 1
            scale, minimum = d * np.float32(sc), dmin * np.float32(m)
            codes, shift = at + 16 + 32 * (s // 2), 4 * (s % 2)
            for l in range(32):
                q = np.float32((raw[codes + l] >> shift) & 15)
                total += x[256 * block + 32 * s + l] * (scale * q - minimum)
    return total, unpacked


def row_cases():
    rng = np.random.default_rng(15)

    def row(n):
        return Q4_K.quantize(rng.standard_normal(n).astype(np.float32) + np.float32(0.5))

    def one(n, where):
        x = np.zeros(n, np.float32)
        x[where] = 1
        return x

    ramp = np.arange(1, 513, dtype=np.float32) / 64
    return {
        "x of zeros": (np.zeros(256, np.float32), row(256)),
        "only x[0] is 1": (one(256, 0), row(256)),
        "only x[33] is 1": (one(256, 33), row(256)),
        "only x[300] is 1": (one(512, 300), row(512)),
        "x of ones": (np.ones(256, np.float32), row(256)),
        "x a ramp, two blocks": (ramp, row(512)),
    }


def unpacked_by(K, weights):
    return -(-K // weights)


def dot_with(
    x,
    raw,
    sign=-1,
    restart=False,
    shifted=True,
    in_pairs=False,
    header=4,
    scale_of=lambda s: s,
    every=32,
    with_d=True,
    with_dmin=True,
):
    """Return the right answer with a place for each mistake."""
    total = np.float64(0)
    for k in range(x.size):
        at, i = k // 256 * 144, k % 256
        s = i // 32
        sc, m = scale_min(raw, at + header, scale_of(s))
        if in_pairs:
            byte, shift = raw[at + 16 + i // 2], 4 * (i % 2)
        else:
            byte, shift = raw[at + 16 + 32 * (s // 2) + i % 32], 4 * (s % 2) if shifted else 0
        q = (int(byte) >> shift) & 15
        d, dmin = read_half(raw, at) if with_d else 1.0, read_half(raw, at + 2) if with_dmin else 1.0
        weight = d * float(sc) * q + sign * dmin * float(m)
        total += x[i if restart else k] * weight
    return total, unpacked_by(x.size, every)


@look
def pairs_unpacked(function):
    """Return what is wrong if scale_min is called more often than the function says."""
    counter = Counter(scale_min)
    told = int(with_names(function, scale_min=counter)(*row_cases()["x a ramp, two blocks"])[1])
    if counter.calls in (0, told):
        return None
    return (
        f"the sum is right; you say {told} pairs of scales, and called scale_min {counter.calls} times for "
        "512 weights: it belongs above the loop over the 32 weights that share the pair"
    )


HOISTED = WatchedExercise(
    name="hoisted_dot",
    engine=hoisted_dot,
    parts=("dot product", "scales unpacked"),
    looks=(pairs_unpacked,),
    cases=row_cases,
    mistakes=(
        Mistake(
            partial(dot_with, every=1),
            "the sum is right, and a scale is unpacked for each weight: 32 weights share one, so call "
            "scale_min above the loop over them",
        ),
        Mistake(
            partial(dot_with, every=256),
            "the sum is right; you count blocks: scale_min is called for each of a block's 8 sub-blocks",
        ),
        Mistake(
            lambda x, raw: (dot_with(x, raw)[0], 0),
            "the sum is right, the count stays 0: add 1 where you call scale_min",
        ),
        Mistake(
            partial(dot_with, sign=1),
            "you add the minimum: the weight is scale * q - minimum",
        ),
        Mistake(
            partial(dot_with, sign=0),
            "the minimum is missing: the weight is scale * q - minimum, with minimum = dmin * m",
        ),
        Mistake(
            partial(dot_with, with_dmin=False),
            "dmin is missing: a minimum counts units of dmin, the float16 at byte 2 of the block",
        ),
        Mistake(
            partial(dot_with, with_d=False),
            "d is missing: a scale counts units of d, the float16 at byte 0 of the block",
        ),
        Mistake(
            partial(dot_with, restart=True),
            "x starts again with each block: element i of block b meets x[256 * b + i]",
        ),
        Mistake(
            partial(dot_with, shifted=False),
            "you take the low nibble for every sub-block: those with odd s are in the high ones, >> 4",
        ),
        Mistake(
            partial(dot_with, in_pairs=True),
            "you take the two nibbles of a byte for neighbours: the low nibbles of 32 bytes are one "
            "sub-block, the high ones the next",
        ),
        Mistake(
            partial(dot_with, header=0),
            "you unpack the scales from byte 0 of the block: d and dmin come first, the 12 bytes begin at "
            "byte 4",
        ),
    ),
    hints=(
        "Three loops: blocks, the 8 sub-blocks of each, the 32 weights of each. What changes only with the "
        "block? With the sub-block? Each thing belongs into the outermost loop where it can stand.",
        "Sub-block s: scale_min(raw, at + 4, s) with at = 144 * block; its codes are in the 32 bytes from "
        "at + 16 + 32 * (s // 2), shifted right by 4 * (s % 2), & 15.",
    ),
    tolerance=1e-4,
)


# product_by_tiles: x float32 [M, K], decode, N, tile -> out float32 [M, N], tiles decoded


def product_by_tiles(x, decode, N, tile):
    """Return x @ W.T, float32 [M, N], and the number of tiles decoded; x float32 [M, K].

    decode(n, first, last) returns weights first to last - 1 of row n.
    """
    # and in the engine: multiply in kernels/ours/fused_rows.py
    M, K = x.shape
    out, decoded = np.zeros((M, N), np.float32), 0
    for n in range(N):
        for first in range(0, K, tile):
            weights = decode(n, first, first + tile)
            decoded += 1
            for m in range(M):
                out[m, n] += x[m, first : first + tile] @ weights
    return out, decoded


def tile_cases():
    rng = np.random.default_rng(16)

    def case(M, N, K, tile):
        W = rng.integers(-9, 10, (N, K)).astype(np.float32)
        x = rng.integers(-9, 10, (M, K)).astype(np.float32)
        return x, lambda n, first, last: W[n, first:last].copy(), N, tile

    return {
        "M 1, N 3, K 64, tiles of 32": case(1, 3, 64, 32),
        "M 4, N 2, K 96, tiles of 32": case(4, 2, 96, 32),
        "M 3, N 5, K 64, tiles of 64": case(3, 5, 64, 64),
    }


def case_with_a_shorter_tile():
    rng = np.random.default_rng(17)
    x, W = (rng.integers(-9, 10, shape).astype(np.float32) for shape in ((2, 80), (3, 80)))
    return x, lambda n, first, last: W[n, first:last].copy(), 3, 32


def last_tile_is_shorter(function):
    """Return what is wrong where `tile` does not divide K."""
    told = "right where tile divides K. K 80 is two tiles of 32 and one of 16"
    try:
        answer = function(*case_with_a_shorter_tile())
    except Exception as error:
        return f"{told}: with that one your function raised {type(error).__name__}: {error}"
    found = difference(answer, product_by_tiles(*case_with_a_shorter_tile()), 0.0, "K 80, tiles of 32")
    return f"{told}: the last tile is missing, or counted wrong\n{found}" if found else None


def tiles_with(
    x,
    decode,
    N,
    tile,
    x_from=lambda first: first,
    from_=lambda first: first,
    rows=lambda m: m,
    keep=1,
    stop=0,
    count=1,
):
    """Return the right product with a place for each mistake; `count` stands for the tiles decoded."""
    (M, K), decoded = x.shape, 0
    out = np.zeros((M, N), np.float32)
    for n in range(N):
        for first in range(0, K - stop * tile, tile):
            weights = decode(n, from_(first), from_(first) + tile)
            decoded += count
            for m in range(M):
                out[m, n] = keep * out[m, n] + x[rows(m), x_from(first) : x_from(first) + tile] @ weights
    return out, decoded


def for_each_row_of_x(x, decode, N, tile):
    out, decoded = product_by_tiles(x, decode, N, tile)
    return out, len(x) * decoded


def whole_rows(x, decode, N, tile):
    return product_by_tiles(x, decode, N, tile)[0], N


def summed_on(x, decode, N, tile):
    out, decoded = product_by_tiles(x, decode, N, tile)
    return np.cumsum(out, axis=1), decoded


TILES = WatchedExercise(
    name="product_by_tiles",
    looks=(
        counted_calls(lambda: tile_cases()["M 4, N 2, K 96, tiles of 32"], "decode", at=1),
        last_tile_is_shorter,
    ),
    engine=product_by_tiles,
    cases=tile_cases,
    mistakes=(
        Mistake(
            for_each_row_of_x,
            "the product is right, and each tile is decoded for every row of x: decode it once, above the "
            "loop over m",
        ),
        Mistake(
            whole_rows,
            "the product is right, from N decodes: that is whole rows, K weights in the buffer; decode "
            "`tile` weights at a time",
        ),
        Mistake(
            partial(tiles_with, count=0),
            "the product is right, the count stays 0: add 1 where you call decode",
        ),
        Mistake(
            partial(tiles_with, keep=0),
            "only the last tile of each row is left: add to out[m, n] with +=, it starts from zero",
        ),
        Mistake(
            partial(tiles_with, x_from=lambda first: 0),
            "each tile meets the first weights' x: the tile that begins at `first` meets "
            "x[m, first : first + tile]",
        ),
        Mistake(
            partial(tiles_with, from_=lambda first: 0),
            "you decode the first tile of the row again and again: decode(n, first, first + tile)",
        ),
        Mistake(
            partial(tiles_with, rows=lambda m: 0),
            "every row of out comes from row 0 of x: out[m, n] needs x[m]",
        ),
        Mistake(summed_on, "the sum goes on from one output to the next: each out[m, n] starts from zero"),
        Mistake(
            partial(tiles_with, stop=1),
            "the last tile of each row is missing: range(0, K, tile) ends with it by itself",
        ),
    ),
    hints=(
        "Three loops: rows n of w, tiles of a row, rows m of x. Decoding stands in the second: it depends on "
        "n and on the tile, not on m.",
        "range(0, K, tile) gives the first weight of each tile. A tile meets the same places of each row of "
        "x; how many are they in the last tile, if tile does not divide K?",
    ),
)


# weight_bytes_moved: kind, M, K, N, bits -> bytes


def weight_bytes_moved(kind, M, K, N, bits):
    """Return the bytes of weights that pass between memory and CPU for M rows of x.

    bits of a weight as it is stored; kind "baseline", "fused" (each weight decoded once, for all M rows)
    or "fused, row by row" (decoded anew for each of the M rows).
    """
    stored, decoded = K * N * bits / 8, K * N * 4
    if kind == "baseline":
        return stored + decoded + decoded  # read; written; read again
    return stored if kind == "fused" else M * stored


KINDS = ("baseline", "fused", "fused, row by row")


def moved_cases():
    sizes = {
        "M 1, Q4_K": (1, 256, 16, 4.5),
        "M 4, Q4_K": (4, 512, 16, 4.5),
        "M 128, Q6_K": (128, 256, 64, 6.5625),
    }
    return {f"{kind}, {label}": (kind, *size) for label, size in sizes.items() for kind in KINDS}


def moved_with(kind, M, K, N, bits, stored=1, written=1, read=1, per_row=lambda M: M, fused=lambda M: 1):
    """Return the right count with a place for each mistake."""
    weights = K * N
    if kind == "baseline":
        return weights * (stored * bits / 8 + 4 * (written + read))
    return weights * bits / 8 * (fused(M) if kind == "fused" else per_row(M))


MOVED = Exercise(
    name="weight_bytes_moved",
    engine=weight_bytes_moved,
    cases=moved_cases,
    mistakes=(
        Mistake(
            lambda *a: 8 * weight_bytes_moved(*a),
            "these are bits: a byte has 8",
        ),
        Mistake(
            lambda kind, M, K, N, bits: 8 * moved_with(kind, M, K, N, bits, written=1 / 8, read=1 / 8),
            "the stored weights are counted in bits, the decoded ones in bytes: divide `bits` by 8",
        ),
        Mistake(
            partial(moved_with, read=0),
            "the baseline's copy is written, and then read again: 4 bytes of float32 twice",
        ),
        Mistake(
            lambda kind, M, K, N, bits: moved_with(kind, M, K, N, bits, stored=M, written=M, read=M),
            "the baseline decodes once for all rows of x: its bytes do not depend on M",
        ),
        Mistake(
            partial(moved_with, stored=0),
            "the baseline has to read the stored blocks too, before it can write the copy",
        ),
        Mistake(
            lambda kind, M, K, N, bits: moved_with(
                kind, M, K, N, bits, stored=M, written=M, read=M, fused=lambda M: M
            ),
            "you multiply everything by M: the baseline decodes once for all rows of x, and so does "
            '"fused"; only "fused, row by row" begins anew for each',
        ),
        Mistake(
            partial(moved_with, fused=lambda M: M),
            'you multiply "fused" by M: it decodes each weight once and uses it for all rows of x',
        ),
        Mistake(
            lambda kind, M, K, N, bits: moved_with(kind, M, K, N, bits, read=M),
            "you let the baseline's copy be read M times: BLAS takes each piece into the cache once, for all "
            "rows of x",
        ),
        Mistake(
            partial(moved_with, per_row=lambda M: 1),
            '"fused, row by row" reads the blocks anew for each of the M rows of x',
        ),
        Mistake(
            lambda kind, M, K, N, bits: (
                weight_bytes_moved(kind, M, K, N, bits) + (0 if kind == "baseline" else 4 * K * N)
            ),
            "you let the fused kernels write a decoded copy: their few weights stay in the cache",
        ),
    ),
    hints=(
        "A stored weight has bits / 8 bytes, a float32 has 4. Follow one weight of the baseline: which way "
        "does it go, how often?",
        "Baseline: bits / 8 in, 4 out, 4 in again, for each of K * N weights, whatever M is. Fused: bits / 8 "
        "in, once, or M times.",
    ),
    tolerance=1e-9,
)

EXERCISES = [ENTERED, HOISTED, TILES, MOVED]
