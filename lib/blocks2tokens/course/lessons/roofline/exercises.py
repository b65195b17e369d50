"""Lesson 14, the roofline: what a product must do and move, what a machine allows, and what a model needs.

product_intensity   sizes, format                            -> operations for each byte that must move
attainable          operations for each byte, ceilings       -> GFLOP/s
ridge_rows          ceilings, format                         -> rows from which arithmetic is the limit
tokens_per_second   weights, bits, rows of a pass, ceilings  -> tokens a second at most
bandwidth_needed    weights, bits, tokens a second, rows     -> GB/s
"""

from math import ceil, floor

import numpy as np

from blocks2tokens.course import roofline
from blocks2tokens.course.check.exercise import Exercise, Mistake
from blocks2tokens.formats import FORMATS

GIB = 2**30

# product_intensity: M, K, N, format -> operations / byte


def product_cases():
    return {
        "M 1, K 512, N 300, Q4_K": (1, 512, 300, FORMATS["Q4_K"]),
        "M 3, K 512, N 4, Q5_K": (3, 512, 4, FORMATS["Q5_K"]),
        "M 16, K 256, N 1024, Q8_0": (16, 256, 1024, FORMATS["Q8_0"]),
        "M 128, K 2048, N 1024, F32": (128, 2048, 1024, FORMATS["F32"]),
    }


def quotient(operations=2.0, each_weight=None, x=4, out=4, again=False, upside_down=False):
    """Return the right formula with a place for each mistake."""

    def intensity(M, K, N, fmt):
        size = fmt.bytes_per_block / fmt.block_size if each_weight is None else each_weight(fmt)
        moved = K * N * size * (M if again else 1) + x * M * K + out * M * N
        return moved / (operations * M * K * N) if upside_down else operations * M * K * N / moved

    return intensity


def one_row_of_operations(M, K, N, fmt):
    return roofline.product_intensity(M, K, N, fmt) / M


def product_intensity(M, K, N, fmt):
    """Return operations for each byte that must move: encoded weights, x and the result."""
    # and in the engine: product_intensity in course/roofline.py
    operations = 2 * M * K * N
    weights = N * K * fmt.bytes_per_block / fmt.block_size
    return operations / (weights + 4 * M * K + 4 * M * N)


INTENSITY = Exercise(
    name="product_intensity",
    engine=roofline.product_intensity,
    solution=product_intensity,
    cases=product_cases,
    mistakes=(
        Mistake(
            quotient(operations=1),
            "you count one operation for each multiply-add: it is two, a multiplication and an addition",
        ),
        Mistake(
            quotient(each_weight=lambda fmt: fmt.bits_per_weight),
            "your weights have as many bytes as they have bits: a byte has eight of them",
        ),
        Mistake(
            quotient(each_weight=lambda fmt: fmt.bytes_per_block),
            "bytes_per_block are the bytes of a whole block: divide them by its block_size weights",
        ),
        Mistake(
            quotient(each_weight=lambda fmt: fmt.block_size / fmt.bytes_per_block),
            "these are weights for each byte: a weight has bytes_per_block / block_size bytes",
        ),
        Mistake(
            one_row_of_operations,
            "M is missing among the operations: each weight is used once for each of the M rows",
        ),
        Mistake(
            quotient(again=True),
            "you read the weights again for each row: they must come once, however many rows use them",
        ),
        Mistake(
            quotient(each_weight=lambda fmt: 4),
            "you move 4 bytes for each weight: W comes encoded, bytes_per_block for each block_size weights",
        ),
        Mistake(
            quotient(x=0, out=0),
            "you move weights only: x, M * K float32, and the result, M * N float32, must move too",
        ),
        Mistake(quotient(out=0), "the result is missing: M * N float32 are written"),
        Mistake(quotient(x=0), "x is missing: M * K float32 are read"),
        Mistake(quotient(x=1, out=1), "x and the result are float32: 4 bytes for each number"),
        Mistake(quotient(upside_down=True), "these are bytes for each operation: turn the quotient over"),
    ),
    hints=(
        "Three things must move: the encoded weights, N rows of K; x, M rows of K float32; the result, M "
        "rows of N float32.",
        "A multiply-add is two operations. The weights are K * N / fmt.block_size blocks; the others take 4 "
        "bytes a number.",
    ),
    tolerance=1e-6,  # float32 will do
)


# attainable: operations for each byte, GFLOP/s, GB/s -> GFLOP/s


def roof_cases():
    return {
        "under the slope": (2.0, 100.0, 20.0),
        "under the flat part": (50.0, 100.0, 20.0),
        "on the ridge": (5.0, 100.0, 20.0),
        "far to the left": (0.25, 400.0, 8.0),
    }


ROOF = Exercise(
    name="attainable",
    engine=roofline.attainable,
    cases=roof_cases,
    mistakes=(
        Mistake(
            lambda intensity, peak, bandwidth: max(peak, bandwidth * intensity),
            "you take the higher of the two limits: the lower one holds you back",
        ),
        Mistake(
            lambda intensity, peak, bandwidth: bandwidth * intensity,
            "the peak is missing: with many operations for each byte, arithmetic is the limit",
        ),
        Mistake(
            lambda intensity, peak, bandwidth: peak,
            "the bandwidth is missing: with few operations for each byte, they wait for bytes",
        ),
        Mistake(
            lambda intensity, peak, bandwidth: min(peak, bandwidth / intensity),
            "you divide by the intensity: bytes a second times operations for each byte are operations a "
            "second",
        ),
        Mistake(
            lambda intensity, peak, bandwidth: min(peak, bandwidth),
            "you compare GB/s with GFLOP/s: multiply the bandwidth by the operations for each byte first",
        ),
        Mistake(
            lambda intensity, peak, bandwidth: 1 / (1 / peak + 1 / (bandwidth * intensity)),
            "you add the two times: reading and multiplying go on at once, and the slower of them sets the "
            "pace",
        ),
    ),
    hints=(
        "Two limits, both in GFLOP/s. One is the peak. How many operations do the bytes of a second feed?",
        "Bytes a second times operations for each byte. Which of the two limits holds you back?",
    ),
    tolerance=1e-6,  # float32 will do
)


# ridge_rows: GFLOP/s, GB/s, format -> smallest whole M for which arithmetic is the limit


def ridge_cases():
    return {
        "F32, 64 GFLOP/s, 64 GB/s: exactly 2": (64.0, 64.0, FORMATS["F32"]),  # exact in any order
        "Q4_K, 700 GFLOP/s, 80 GB/s": (700.0, 80.0, FORMATS["Q4_K"]),
        "Q8_0, 200 GFLOP/s, 33 GB/s": (200.0, 33.0, FORMATS["Q8_0"]),
        "Q6_K, 1000 GFLOP/s, 30 GB/s": (1000.0, 30.0, FORMATS["Q6_K"]),
        "F32, 104 GFLOP/s, 20 GB/s": (104.0, 20.0, FORMATS["F32"]),
    }


def ridge(whole=ceil, operations=2, size=lambda fmt: fmt.bytes_per_block / fmt.block_size, balance=float):
    def rows(peak, bandwidth, fmt):
        return whole(balance(peak / bandwidth) * size(fmt) / operations)

    return rows


def ridge_rows(peak, bandwidth, fmt):
    """Return the smallest whole M for which reading fmt's weights is not the limit."""
    # and in the engine: ridge_rows in course/roofline.py
    operations_for_each_byte_of_a_row = 2 * fmt.block_size / fmt.bytes_per_block
    return int(np.ceil(peak / bandwidth / operations_for_each_byte_of_a_row))


RIDGE = Exercise(
    name="ridge_rows",
    engine=roofline.ridge_rows,
    solution=ridge_rows,
    cases=ridge_cases,
    mistakes=(
        Mistake(ridge(whole=floor), "you round down, to a number of rows that is not yet enough: round up"),
        Mistake(ridge(whole=round), "you round to the nearest: where that is below, it is not yet enough"),
        Mistake(ridge(whole=lambda rows: rows), "rows come whole: round up to the next one"),
        Mistake(
            ridge(whole=lambda rows: floor(rows) + 1),
            "you round up even what is whole: where it is exactly 2 rows, 2 are enough",
        ),
        Mistake(
            ridge(balance=ceil),
            "you round up peak / bandwidth, too: round once, at the end, or there may be a row too many",
        ),
        Mistake(
            ridge(balance=floor),
            "you round down peak / bandwidth: round once, at the end, or there may be a row too few",
        ),
        Mistake(
            ridge(operations=1),
            "you count one operation for each multiply-add: it is two, a multiplication and an addition",
        ),
        Mistake(
            ridge(size=lambda fmt: fmt.bits_per_weight),
            "you took bits for bytes: a weight has bits_per_weight / 8 bytes",
        ),
        Mistake(
            ridge(size=lambda fmt: 4),
            "you read float32, whatever the format: a weight has bytes_per_block / block_size bytes",
        ),
        Mistake(
            lambda peak, bandwidth, fmt: ceil(peak / bandwidth),
            "this is the machine's balance, in operations for each byte: how many rows make as many?",
        ),
        Mistake(
            lambda peak, bandwidth, fmt: ceil(peak / bandwidth * 2 * fmt.block_size / fmt.bytes_per_block),
            "you multiply by what one row does with a byte: divide the machine's balance by it",
        ),
    ),
    hints=(
        "The machine does peak / bandwidth operations while it reads a byte. How many does one row do with a "
        "byte of encoded weights?",
        "2 * block_size / bytes_per_block. Divide the first by the second, and round up: math.ceil.",
    ),
)


# tokens_per_second: weights, bits, M, GFLOP/s, GB/s -> tokens a second


def model_cases():
    return {
        "1 billion weights of 8 bits, 1 token, 10 GB/s": (1e9, 8, 1, 100.0, 10.0),
        "14.8 billion of 4.5 bits, 1 token, 80 GB/s": (14.8e9, 4.5, 1, 600.0, 80.0),
        "7.6 billion of 4.9 bits, 4 tokens, 80 GB/s": (7.6e9, 4.9, 4, 600.0, 80.0),
        "1.1 billion of 4.5 bits, 512 tokens, 30 GB/s": (1.1e9, 4.5, 512, 190.0, 30.0),
        "1 billion of 2 bits, 2 tokens, much bandwidth": (1e9, 2, 2, 100.0, 400.0),
    }


def passes(
    size=lambda bits: bits / 8,
    giga=1e9,
    giga_operations=1e9,
    operations=2,
    together=max,
    tokens=lambda M: M,
    reads=1,
):
    def rate(n_weights, bits, M, peak, bandwidth):
        reading = n_weights * size(bits) * (M if reads == "M" else 1) / (bandwidth * giga)
        multiplying = operations * n_weights * M / (peak * giga_operations)
        return tokens(M) / together(reading, multiplying)

    return rate


def multiplying_alone(n_weights, bits, M, peak, bandwidth):
    return peak * 1e9 / (2 * n_weights)


def reading_alone(n_weights, bits, M, peak, bandwidth):
    return M * bandwidth * 1e9 / (n_weights * bits / 8)


def operations_of_one_row(n_weights, bits, M, peak, bandwidth):
    return M / max(n_weights * bits / 8 / (bandwidth * 1e9), 2 * n_weights / (peak * 1e9))


TOKENS = Exercise(
    name="tokens_per_second",
    engine=roofline.tokens_per_second,
    cases=model_cases,
    mistakes=(
        Mistake(
            passes(size=lambda bits: bits), "you took bits for bytes: the bandwidth is in bytes, 8 bits each"
        ),
        Mistake(passes(giga=GIB), "you took GiB for GB: here a GB is 1e9 bytes, as memory makers count"),
        Mistake(
            passes(together=lambda a, b: a + b),
            "you add reading and multiplying: they go on at once, and the longer of them sets the pace",
        ),
        Mistake(passes(together=min), "you wait for the shorter of the two: the longer sets the pace"),
        Mistake(passes(tokens=lambda M: 1), "these are passes a second: each of them makes M tokens"),
        Mistake(
            passes(reads="M"),
            "you read the weights again for each token: a pass reads them once, for all M tokens",
        ),
        Mistake(
            lambda n, bits, M, peak, bandwidth: bandwidth * 1e9 / (n * bits / 8),
            "that is lesson 13's count, one token for each pass: here a pass makes M, and multiplying may "
            "take longer than reading",
        ),
        Mistake(
            reading_alone, "arithmetic is missing: from some M on, multiplying takes longer than reading"
        ),
        Mistake(
            multiplying_alone,
            "reading is missing: with few tokens in a pass, the bytes of the weights take longer",
        ),
        Mistake(
            operations_of_one_row,
            "M is missing among the operations: each weight is used for each of the M tokens",
        ),
        Mistake(
            passes(operations=1),
            "you count one operation for each multiply-add: it is two, a multiplication and an addition",
        ),
        Mistake(
            lambda n, bits, M, peak, bandwidth: roofline.tokens_per_second(n, bits, M, peak, bandwidth) / 1e9,
            "the ceilings are in billions a second: multiply them by 1e9",
        ),
        Mistake(
            passes(giga=1),
            "the bandwidth is in billions of bytes a second: multiply it by 1e9, like the peak",
        ),
        Mistake(
            passes(giga_operations=1),
            "the peak is in billions of operations a second: multiply it by 1e9, like the bandwidth",
        ),
        Mistake(
            lambda n, bits, M, peak, bandwidth: 1 / roofline.tokens_per_second(n, bits, M, peak, bandwidth),
            "these are seconds for each token: turn the quotient over",
        ),
    ),
    hints=(
        "How long does a pass take to read n_weights * bits / 8 bytes? How long for its multiply-adds?",
        "2 * n_weights * M operations. A pass takes the longer of the two times, and makes M tokens.",
    ),
    tolerance=1e-6,  # float32 will do
)


# bandwidth_needed: weights, bits, tokens a second, M -> GB/s


def target_cases():
    return {
        "14.8 billion weights of 4.9 bits, 20 tokens/s": (14.8e9, 4.9, 20.0, 1),
        "14.8 billion of 4.5 bits, 30 tokens/s, 4 for each pass": (14.8e9, 4.5, 30.0, 4),
        "1.1 billion of 8.5 bits, 50 tokens/s, 2 for each pass": (1.1e9, 8.5, 50.0, 2),
    }


NEEDED = Exercise(
    name="bandwidth_needed",
    engine=roofline.bandwidth_needed,
    cases=target_cases,
    mistakes=(
        Mistake(
            lambda n, bits, rate, M: n * bits * rate / M / 1e9,
            "these are billions of bits: bandwidths are in bytes, 8 bits each",
        ),
        Mistake(
            lambda n, bits, rate, M: n * bits / 8 * rate / M / GIB,
            "these are GiB: here a GB is 1e9 bytes, as memory makers count",
        ),
        Mistake(
            lambda n, bits, rate, M: n * bits / 8 * rate / M,
            "these are bytes a second: divide by 1e9 for GB/s",
        ),
        Mistake(
            lambda n, bits, rate, M: n * bits / 8 * rate / 1e9,
            "M is missing: a pass makes M tokens, so it takes fewer passes",
        ),
        Mistake(
            lambda n, bits, rate, M: n * bits / 8 * rate * M / 1e9,
            "you multiply by M: the more tokens a pass makes, the fewer passes",
        ),
        Mistake(
            lambda n, bits, rate, M: n * rate / M / 1e9,
            "you read one byte for each weight: it is bits / 8 of a byte",
        ),
        Mistake(
            lambda n, bits, rate, M: n * 4 * rate / M / 1e9,
            "you read float32: the encoded weights have bits / 8 bytes each",
        ),
    ),
    hints=(
        "How many passes over the weights does a second take? How many bytes does each read?",
        "rate / M passes of n_weights * bits / 8 bytes; GB are 1e9 bytes.",
    ),
    tolerance=1e-6,  # float32 will do
)

EXERCISES = [INTENSITY, ROOF, RIDGE, TOKENS, NEEDED]
