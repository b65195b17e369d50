"""What learners write in lesson 15, for test_check_learners.py, and what is the lesson's own."""

import numpy as np
import pytest

from blocks2tokens import FORMATS, KERNELS, QuantizedMatrix
from blocks2tokens.course.lessons.blocks_along_k import exercises as lesson
from blocks2tokens.formats.q4_k import split_nibbles, unpack_scales
from blocks2tokens.kernels.report import phase3b_column_major


def entered(place=None, outputs=None, first=1, forget=True):
    def blocks_entered(layout, K, N, size):
        count, before = 0, None
        for n in range(N if outputs is None else outputs):
            if forget:
                before = None
            for k in range(K):
                where = {"report": k * N + n, "gguf": n * K + k}
                block = where[layout if place is None else place(layout)] // size
                if before is None:
                    count += first
                elif block != before:
                    count += 1
                before = block
        return count

    return blocks_entered


def all_steps_in_report(layout, K, N, size):
    return K * N if layout == "report" else K * N // size


def all_blocks_in_report(layout, K, N, size):
    blocks = (K * N + size - 1) // size
    return N * blocks if layout == "report" else blocks


def dot(weight=None, unpacked=lambda K: K // 32, x_at=lambda k: k):
    """A learner's dot over NumPy fields; weight(sc, m, d, dmin, codes) -> weights [n, 8, 32]."""

    def hoisted_dot(x, raw):
        blocks = raw.view(FORMATS["Q4_K"].block)
        sc, m = unpack_scales(blocks["scales"])
        d, dmin = (blocks[name].astype(float)[:, None, None] for name in ("d", "dmin"))
        codes = split_nibbles(blocks["qs"]).astype(float)
        parts = (d * sc[:, :, None], dmin * m[:, :, None], codes, blocks)
        W = (weight or (lambda scale, minimum, q, b: scale * q - minimum))(*parts).reshape(-1)
        return sum(float(x[x_at(k)]) * W[k] for k in range(x.size)), unpacked(x.size)

    return hoisted_dot


def only_low(scale, minimum, q, blocks):
    low = (blocks["qs"] & 15).reshape(-1, 4, 1, 32)
    return scale * np.concatenate([low, low], axis=2).reshape(-1, 8, 32) - minimum


def neighbours(scale, minimum, q, blocks):
    qs = blocks["qs"]
    return scale * np.stack([qs & 15, qs >> 4], axis=-1).reshape(-1, 8, 32) - minimum


def scales_from_byte_0(scale, minimum, q, blocks):
    first = np.ascontiguousarray(blocks).view(np.uint8).reshape(-1, 144)[:, :12]
    sc, m = (part[:, :, None].astype(float) for part in unpack_scales(first))
    d, dmin = (blocks[name].astype(float)[:, None, None] for name in ("d", "dmin"))
    return d * sc * q - dmin * m


def tiles(
    inside=False, whole=False, add=True, x_at=True, w_at=True, row=lambda m: m, fresh=True, last=1, one=1
):
    def product_by_tiles(x, decode, N, tile):
        M, K = x.shape
        out, count, total = np.zeros((M, N), np.float32), 0, np.zeros(M)
        step = K if whole else tile
        for n in range(N):
            total = np.zeros(M) if fresh else total
            for k in range(0, K if last else K - step, step):
                w = decode(n, k, k + step) if w_at else decode(n, 0, step)
                count += one if not inside else one * M
                for m in range(M):
                    y = x[row(m)][k : k + step] if x_at else x[row(m)][:step]
                    total[m] = (total[m] if add else 0) + (y * w).sum()
            out[:, n] = total
        return out, count

    return product_by_tiles


def moved(base=lambda M, b: b / 8 + 8, fused=lambda M, b: b / 8, each=lambda M, b: M * b / 8):
    def weight_bytes_moved(kind, M, K, N, bits):
        one = {"baseline": base, "fused": fused, "fused, row by row": each}[kind]
        return K * N * one(M, bits)

    return weight_bytes_moved


def whole_tiles_alone(x, decode, N, tile):
    (M, K), count = x.shape, 0
    out = np.zeros((M, N), np.float32)
    for n in range(N):
        for t in range(K // tile):
            out[:, n] += x[:, t * tile : (t + 1) * tile] @ decode(n, t * tile, (t + 1) * tile)
            count += 1
    return out, count


def into_a_buffer(x, decode, N, tile):
    out, count = np.zeros((len(x), N), np.float32), 0
    buffer = np.empty(tile, np.float32)
    for n in range(N):
        for first in range(0, x.shape[1], tile):
            buffer[:] = decode(n, first, first + tile)
            count += 1
            out[:, n] += x[:, first : first + tile] @ buffer
    return out, count


def decoded_for_each_row_counted_once(x, decode, N, tile):
    out, count = np.zeros((len(x), N), np.float32), 0
    for n in range(N):
        for first in range(0, x.shape[1], tile):
            count += 1
            for m in range(len(x)):
                out[m, n] += x[m, first : first + tile] @ decode(n, first, first + tile)
    return out, count


read_half, scale_min = lesson.read_half, lesson.scale_min


def unpacked_for_each_weight_counted_once(x, raw):
    total, count = 0.0, x.size // 32
    for k in range(x.size):
        at, i = k // 256 * 144, k % 256
        sc, m = scale_min(raw, at + 4, i // 32)
        q = raw[at + 16 + 32 * (i // 64) + i % 32] >> (4 * (i // 32 % 2)) & 15
        total += x[k] * (read_half(raw, at) * float(sc) * q - read_half(raw, at + 2) * float(m))
    return total, count


def minimum_without_dmin(scale, minimum, q, blocks):
    m = unpack_scales(blocks["scales"])[1]
    return scale * q - m[:, :, None].astype(float)


def scale_without_d(scale, minimum, q, blocks):
    sc = unpack_scales(blocks["scales"])[0]
    return sc[:, :, None].astype(float) * q - minimum


WRONG = [
    ("hoisted_dot", dot(minimum_without_dmin), "dmin is missing"),
    ("hoisted_dot", dot(scale_without_d), "d is missing"),
    ("hoisted_dot", unpacked_for_each_weight_counted_once, "called scale_min 512 times"),
    ("product_by_tiles", whole_tiles_alone, "one of 16: the last tile is missing"),
    ("product_by_tiles", into_a_buffer, "your function raised ValueError"),
    ("product_by_tiles", decoded_for_each_row_counted_once, "return 6 as the count, and called decode 24"),
    ("blocks_entered", entered({"gguf": "report", "report": "gguf"}.get), "layouts are exchanged"),
    ("blocks_entered", entered(outputs=1), "count the walks of all N"),
    ("blocks_entered", lambda layout, K, N, size: N * K, "you count steps"),
    ("blocks_entered", all_steps_in_report, "several steps may stay in one"),
    ("blocks_entered", all_blocks_in_report, "cannot enter more than K"),
    ("blocks_entered", lambda layout, K, N, size: int(np.ceil(K * N / size)), "the blocks of the matrix"),
    ("blocks_entered", entered(first=0), "the first step of each output"),
    ("blocks_entered", entered(forget=False), "each walk begins with none"),
    ("hoisted_dot", dot(unpacked=lambda K: K), "unpacked for each weight"),
    ("hoisted_dot", dot(unpacked=lambda K: K // 256), "you count blocks"),
    ("hoisted_dot", dot(unpacked=lambda K: 0), "the count stays 0: add 1 where you call scale_min"),
    ("hoisted_dot", dot(lambda scale, minimum, q, b: scale * q + minimum), "you add the minimum"),
    ("hoisted_dot", dot(lambda scale, minimum, q, b: scale * q), "the minimum is missing"),
    ("hoisted_dot", dot(x_at=lambda k: k % 256), "x starts again with each block"),
    ("hoisted_dot", dot(only_low), "low nibble for every sub-block"),
    ("hoisted_dot", dot(neighbours), "nibbles of a byte for neighbours"),
    ("hoisted_dot", dot(scales_from_byte_0), "d and dmin come first"),
    ("product_by_tiles", tiles(inside=True), "decoded for every row of x"),
    ("product_by_tiles", tiles(whole=True), "that is whole rows"),
    ("product_by_tiles", tiles(one=0), "add 1 where you call decode"),
    ("product_by_tiles", tiles(add=False), "only the last tile"),
    ("product_by_tiles", tiles(x_at=False), "meets the first weights' x"),
    ("product_by_tiles", tiles(w_at=False), "again and again"),
    ("product_by_tiles", tiles(row=lambda m: 0), "from row 0 of x"),
    ("product_by_tiles", tiles(fresh=False), "from one output to the next"),
    ("product_by_tiles", tiles(last=0), "the last tile of each row is missing"),
    (
        "weight_bytes_moved",
        moved(lambda M, b: b + 64, lambda M, b: b, lambda M, b: M * b),
        "a byte has 8",
    ),
    (
        "weight_bytes_moved",
        moved(lambda M, b: b + 8, lambda M, b: b, lambda M, b: M * b),
        "divide `bits` by 8",
    ),
    ("weight_bytes_moved", moved(lambda M, b: b / 8 + 4), "then read again"),
    ("weight_bytes_moved", moved(lambda M, b: M * (b / 8 + 8)), "do not depend on M"),
    ("weight_bytes_moved", moved(lambda M, b: 8), "read the stored blocks too"),
    (
        "weight_bytes_moved",
        moved(lambda M, b: M * (b / 8 + 8), lambda M, b: M * b / 8),
        "you multiply everything by M",
    ),
    ("weight_bytes_moved", moved(fused=lambda M, b: M * b / 8), 'you multiply "fused" by M'),
    ("weight_bytes_moved", moved(lambda M, b: b / 8 + 4 + 4 * M), "be read M times"),
    ("weight_bytes_moved", moved(each=lambda M, b: b / 8), "anew for each of the M rows of x"),
    (
        "weight_bytes_moved",
        moved(fused=lambda M, b: b / 8 + 4, each=lambda M, b: M * b / 8 + 4),
        "write a decoded copy",
    ),
]


def closed_form(layout, K, N, size):
    return K * N // size if layout == "gguf" else int(phase3b_column_major.blocks_met(K, N, size).sum())


RIGHT = {
    "blocks_entered": [entered(), closed_form],
    "hoisted_dot": [dot()],
    "product_by_tiles": [tiles()],
    "weight_bytes_moved": [moved()],
}


# Answers that no kernel has as a function of its own agree with what the kernels do


def test_the_hoisted_dot_is_what_the_kernel_computes():
    rng = np.random.default_rng(0)
    w = QuantizedMatrix.quantize(rng.standard_normal((3, 512), np.float32), "Q4_K")
    x = rng.standard_normal((1, 512), np.float32)
    dots, counts = zip(*(lesson.hoisted_dot(x[0], row) for row in w.raw), strict=True)
    assert np.allclose(dots, KERNELS["fused_rows"](x, w)[0], atol=1e-4)
    assert set(counts) == {512 // 32}


def test_tiles_give_the_kernel_s_product_from_as_many_weights():
    rng = np.random.default_rng(1)
    w = QuantizedMatrix.quantize(rng.standard_normal((3, 512), np.float32), "Q4_K")
    x, W = rng.standard_normal((5, 512), np.float32), w.dequantize()
    out, decoded = lesson.product_by_tiles(x, lambda n, first, last: W[n, first:last], 3, 256)
    assert np.allclose(out, KERNELS["fused_rows"](x, w), atol=1e-4)
    assert decoded == KERNELS["fused_rows"].cost(5, 512, 3, w.format, 1).blocks_decoded


@pytest.mark.parametrize("name", ["Q4_K", "Q6_K", "Q8_0"])
@pytest.mark.parametrize("M", [1, 4])
def test_bytes_moved_agree_with_the_kernels_costs(name, M):
    K, N, fmt = 512, 48, FORMATS[name]
    kernels = {"baseline": "dequantize_then_blas", "fused": "fused_rows", "fused, row by row": "simd_dot"}
    for kind, kernel in kernels.items():
        cost = KERNELS[kernel].cost(M, K, N, fmt, 1)
        written = cost.temporary_bytes if kind == "baseline" else 0  # the others' stays in cache
        weights = cost.bytes_read - 4 * M * K + written
        assert lesson.weight_bytes_moved(kind, M, K, N, fmt.bits_per_weight) == weights
