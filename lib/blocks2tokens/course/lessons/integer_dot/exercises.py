"""Lesson 16, integer dot products: activations of 8 bits, sums for the offsets, and a row in vectors.

quantize_activations   x, block                        -> int8 codes, a scale for each block
group_sums             codes, d, group                 -> d * (sum of the codes of each group)
dot_integers           q, scales, offsets, codes, ...  -> the dot product of one row
order_of_codes         bytes in a load                 -> the order in which 256 codes are met
dot_q4_k_row           isa, raw, codes, d, sums        -> the same product, 64 bytes at a time

The last one is made of vector functions, which exist only in compiled code. Its check runs it with twins of
them in NumPy, so that any CPU will do, and then compiles it where the CPU has the instructions.
"""

import warnings
from collections.abc import Callable
from dataclasses import fields, replace
from types import FunctionType, SimpleNamespace

import numpy as np
from numba import njit

from blocks2tokens.course.check.bounds import checked
from blocks2tokens.course.check.exercise import Exercise, Mistake, Verdict, difference
from blocks2tokens.course.check.watched import WatchedExercise, look, plain
from blocks2tokens.formats import q4_k
from blocks2tokens.jit import cpu, vectors
from blocks2tokens.jit.vectors import packed_scales
from blocks2tokens.kernels.ours import integer_dot

# quantize_activations: x float32 [K], block -> codes int8 [K], d float32 [K / block]


def quantize_activations(x, block):
    """Return codes, int8 [K], and d, float32 [K / block]: x = d * code, |code| <= 127."""
    # and in the engine: quantize in kernels/ours/quantized_activations.py
    codes, d = np.empty(x.size, np.int8), np.empty(x.size // block, np.float32)
    for b in range(d.size):
        part = slice(b * block, (b + 1) * block)
        largest = np.abs(x[part]).max()
        d[b] = largest / np.float32(127)
        codes[part] = np.rint(x[part] * (np.float32(127) / largest)) if largest > 0 else 0
    return codes, d


def activation_cases():
    """Blocks whose d is a power of two, and no value near the middle of two codes: any formula agrees."""
    rng = np.random.default_rng(0)

    def part(n, d, end=127):
        values = rng.integers(-126, 126, n) + rng.choice((0.25, 0.75), n)
        values[n // 3] = end
        return (values * d).astype(np.float32)

    return {
        "one block": (part(32, 1), 32),
        "three blocks": (np.concatenate([part(32, 1 / 64), part(32, 4, -127), part(32, 0.5)]), 32),
        "a constant": (np.full(32, 0.25, np.float32) * 127, 32),
        "a huge negative outlier": (np.append(part(63, 1 / 64), np.float32(-127)), 64),
        "a block of zeros": (np.append(np.zeros(32, np.float32), part(32, 2)), 32),
    }


def rounded(x, block, largest=lambda a: np.abs(a).max(1), top=127, turn=np.rint, over=1, type_=np.int8):
    """Return the right answer, with a place for each mistake."""
    parts = x.reshape(-1, block).astype(np.float64)
    d = np.broadcast_to(largest(parts) / top, len(parts))[:, None]
    codes = turn(np.divide(parts, d, out=np.zeros_like(parts), where=d != 0))
    return codes.astype(np.int64).astype(type_).reshape(-1), (d[:, 0] ** over).astype(np.float32)


ZEROS = (
    "a block of zeros has d = 0: x / d is 0 / 0 there, no number, and what int8 makes of it is up to the "
    "CPU. Give such a block codes of 0 without dividing"
)


@look
def no_number_becomes_a_code(function):
    """Return what is wrong if a value that is no number is made an int8, which shows on other CPUs."""
    with warnings.catch_warnings(record=True) as caught, np.errstate(invalid="warn"):
        warnings.simplefilter("always")
        function(*activation_cases()["a block of zeros"])
    if any("in cast" in str(warning.message) for warning in caught):
        return f"right on this CPU. But {ZEROS}"
    return None


def clipped(x, block, low):
    """Divide by 128 and cut off what does not fit."""
    return rounded(x, block, top=128, turn=lambda codes: np.clip(np.rint(codes), low, 127))


ACTIVATIONS = WatchedExercise(
    name="quantize_activations",
    engine=quantize_activations,
    looks=(no_number_becomes_a_code,),
    raised={"ValueError: cannot convert float NaN": ZEROS, "ZeroDivisionError": ZEROS},
    cases=activation_cases,
    mistakes=(
        Mistake(
            lambda x, block: rounded(x, block, turn=np.trunc),
            "your codes are cut off, not rounded: int8 drops what is behind the point, np.rint first",
        ),
        Mistake(
            lambda x, block: rounded(x, block, turn=np.floor),
            "your codes are rounded down: take the nearest whole number, np.rint",
        ),
        Mistake(
            lambda x, block: rounded(x, block, top=128),
            "you divide by 128: int8 ends with 127, so the largest value overflows to -128",
        ),
        *(
            Mistake(
                lambda x, block, low=low: clipped(x, block, low),
                "you spread the codes over 128 steps and clip: a largest value of 127 gets the code 127 and "
                "d 127 / 128, so it comes back as 126. Divide by 127: the largest then comes back as it was",
            )
            for low in (-127, -128)
        ),
        Mistake(
            lambda x, block: rounded(x, block, largest=lambda a: a.max(1)),
            "you take the largest value, not the largest magnitude: a block may reach further down than up",
        ),
        Mistake(
            lambda x, block: rounded(x, block, largest=lambda a: np.abs(a).max()),
            "you have one scale for all of x: each block has its own",
        ),
        Mistake(
            lambda x, block: rounded(x, block, over=-1),
            "your d is 127 / largest: what you multiply x by. d is what turns a code back, largest / 127",
        ),
        Mistake(
            lambda x, block: rounded(x, block, top=255),
            "you spread the codes over 255 steps from the middle: a signed byte has 127 on each side",
        ),
        Mistake(
            lambda x, block: rounded(x, block)[::-1],
            "codes and d are exchanged: return the codes first",
        ),
    ),
    hints=(
        "Block by block: the value furthest from zero becomes 127 or -127. Which d makes it so?",
        "d = largest magnitude / 127, codes = np.rint(x / d) as int8. A block of zeros has d = 0: its codes "
        "are 0, without the division.",
    ),
    tolerance=1e-6,
)


# group_sums: codes int8 [K], d float32 [K / block], group -> float32 [K / group]


def group_sums(codes, d, group):
    """Return d * (sum of the codes) for each group of `group` codes, float32 [K / group]."""
    sums = codes.reshape(-1, group).sum(axis=1, dtype=np.int32)
    return np.repeat(d, sums.size // d.size) * sums.astype(np.float32)


def sum_cases():
    rng = np.random.default_rng(1)
    return {
        "1, 2, 3, ...": (np.arange(1, 65, dtype=np.int8), np.array([0.5], np.float32), 16),
        "all 127": (np.full(64, 127, np.int8), np.array([0.5, 0.25], np.float32), 16),
        "random, 4 blocks": (
            rng.integers(-127, 128, 256).astype(np.int8),
            np.array([1, 2, 0.25, 0], np.float32),
            32,
        ),
        "a group as long as a block": (
            rng.integers(-127, 128, 64).astype(np.int8),
            np.array([3, 0.125], np.float32),
            32,
        ),
    }


def summed(codes, d, group, scale=lambda d, n: np.repeat(d, n), type_=np.int64, add=np.sum):
    parts = codes.reshape(-1, group)
    return scale(d, len(parts) // len(d)) * add(parts, axis=1, dtype=type_).astype(np.float32)


SUMS = Exercise(
    name="group_sums",
    engine=group_sums,
    cases=sum_cases,
    mistakes=(
        Mistake(
            lambda codes, d, group: summed(codes, d, group, scale=lambda d, n: 1),
            "you sum the codes and leave out d: the kernel wants the sum of what the codes stand for",
        ),
        Mistake(
            lambda codes, d, group: summed(codes, d, group, type_=np.int8),
            "your sum is kept in int8 and wraps at 127: add in int32",
        ),
        Mistake(
            lambda codes, d, group: summed(codes, d, group, scale=lambda d, n: d[0]),
            "you take the first d for all: each block has its own",
        ),
        Mistake(
            lambda codes, d, group: summed(codes, d, group, scale=np.tile),
            "d of the wrong block: all groups of block 0 come first, then those of 1 (repeat, not tile)",
        ),
        Mistake(
            lambda codes, d, group: d * codes.reshape(len(d), -1).sum(axis=1),
            "you have one sum for each block: the offsets change with each group",
        ),
        Mistake(
            lambda codes, d, group: summed(codes, d, group, add=np.mean, type_=np.float64),
            "these are means: the offset is subtracted once for each code, so it needs their sum",
        ),
    ),
    hints=(
        "codes.reshape(-1, group) has a row for each group.",
        "Sum each row in int32. Then d: as many sums as fit a block share one, np.repeat.",
    ),
    tolerance=1e-5,
)


# dot_integers: q uint8 [K], scales and offsets float32 [K / 32], codes int8 [K], d float32 [K / 256],
# sums float32 [K / 32] -> the dot product


def engine_dot_integers(q, scales, offsets, codes, d, sums):
    """Return the dot product of a row of weights with a row of activations."""
    return integer_dot.dot_row(q, scales, offsets, codes, d, sums, 32, 256)


def dot_integers(q, scales, offsets, codes, d, sums):
    """Return the dot product of a row of weights with a row of activations, group by group of 32."""
    # and in the engine: dot_row in kernels/ours/integer_dot.py
    total = 0.0
    for g in range(len(scales)):
        group = slice(32 * g, 32 * g + 32)
        products = np.dot(q[group].astype(np.int32), codes[group].astype(np.int32))
        total += d[g // 8] * scales[g] * products - offsets[g] * sums[g]
    return total


def dot_cases():
    rng = np.random.default_rng(2)

    def case(n_blocks, q=None, codes=None, offsets=None):
        K = 256 * n_blocks
        q = rng.integers(0, 16, K) if q is None else np.full(K, q)
        codes = rng.integers(-127, 128, K) if codes is None else np.full(K, codes)
        d = (2.0 ** -np.arange(1, n_blocks + 1)).astype(np.float32)
        scales = rng.integers(1, 64, K // 32).astype(np.float32) / 64
        offsets = rng.integers(0, 64, K // 32).astype(np.float32) / 8 if offsets is None else scales * offsets
        q, codes = q.astype(np.uint8), codes.astype(np.int8)
        return q, scales, offsets, codes, d, group_sums(codes, d, 32)

    return {
        "random": case(1),
        "random, 3 blocks": case(3),
        "the largest codes": case(2, q=15, codes=127),
        "without offsets": case(2, offsets=0),
        "codes of 0": case(1, q=0),
        "activations of 0": case(1, codes=0),
    }


def integers(products=lambda q, c: q.astype(np.int64) * c, each=lambda s: s, d_of=lambda d: d, rest=None):
    """Return the right function, with a place for each mistake."""
    rest = rest or (lambda offsets, codes, d, sums: -(offsets * sums).sum())

    def dot(q, scales, offsets, codes, d, sums):
        group = products(q, codes).reshape(-1, 32).sum(axis=1).astype(np.float64)
        inner = (np.repeat(d_of(d), 8) * each(scales) * group).sum()
        return np.float32(inner + rest(offsets, codes, d, sums))

    return dot


def wrapped_sums(products):
    """Return numbers that add up, for each 32 products, to their sum in int8."""
    sums = products.reshape(-1, 32).sum(axis=1, dtype=np.int8).astype(np.int64)
    return np.repeat(sums, 32) * (np.arange(products.size) % 32 == 0)


def in_int16(q, scales, offsets, codes, d, sums):
    group = (q.astype(np.int16) * codes).reshape(-1, 32).sum(axis=1, dtype=np.int16)
    return np.float32((np.repeat(d, 8) * scales * group).sum() - (offsets * sums).sum())


class Code(int):
    """One of them, taken out: notes in the list of its array that float(...) was asked of it."""

    def __float__(self):
        self.became_floats.append("float")
        return float(int(self))


class Codes(np.ndarray):
    """Codes that note where 32 or more of them, or of their products, become floats."""

    def __array_finalize__(self, source):
        self.became_floats = getattr(source, "became_floats", [])

    def __getitem__(self, key):
        found = super().__getitem__(key)
        if isinstance(found, np.ndarray):
            return found
        found = Code(found)
        found.became_floats = self.became_floats
        return found

    def astype(self, dtype, *arguments, **options):
        found = super().astype(dtype, *arguments, **options)
        return self._note(found, f"astype({np.dtype(dtype).name})", self.size)

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        whole = max(x.size for x in inputs if isinstance(x, Codes))
        bare = [x.view(np.ndarray) if isinstance(x, Codes) else x for x in inputs]
        return self._note(getattr(ufunc, method)(*bare, **options), ufunc.__name__, whole)

    def _note(self, found, how, size):
        found = np.asarray(found)
        if found.dtype.kind == "f":
            self.became_floats += [how] * (size >= 32)
            return found[()]
        found = found.view(Codes)
        found.became_floats = self.became_floats
        return found


@look
def products_are_whole(function):
    """Return what is wrong if codes are multiplied or added as floats, which gives the same number."""
    q, scales, offsets, codes, d, sums = dot_cases()["random"]
    q, codes = q.view(Codes), codes.view(Codes)
    function(q, scales, offsets, codes, d, sums)
    met = q.became_floats + codes.became_floats
    if not met:
        return None
    return (
        f"the number is right, made in floats, by {met[0]}: the lesson's gain is that 32 products and their "
        f"sum are whole numbers. Make q or codes np.int32, multiply, add; then d and scale once for the group"
    )


DOT = WatchedExercise(
    name="dot_integers",
    looks=(products_are_whole,),
    engine=engine_dot_integers,
    solution=dot_integers,
    cases=dot_cases,
    mistakes=(
        Mistake(
            integers(rest=lambda *_: 0),
            "you forgot the offsets: w = scale * q - offset, so offset * sum goes off for each group",
        ),
        Mistake(
            integers(rest=lambda o, c, d, s: (o * s).sum()),
            "you add the offsets: w = scale * q - offset",
        ),
        Mistake(
            integers(rest=lambda o, c, d, s: -o.sum()),
            "you take each offset once: it goes off every weight of its group, and each has its activation; "
            "sums has their total",
        ),
        Mistake(
            integers(rest=lambda o, c, d, s: -(np.repeat(d, 8) * o * s).sum()),
            "d is in your offset term twice: sums has it already",
        ),
        Mistake(
            integers(rest=lambda o, c, d, s: -(o * c.reshape(-1, 32).sum(axis=1)).sum()),
            "your offset term sums bare codes: d is missing there (sums has it)",
        ),
        Mistake(
            integers(lambda q, c: (q.view(np.int8) * c).astype(np.int64)),
            "your products are int8 and wrap: 15 * 127 needs more. Make one factor np.int32 first",
        ),
        Mistake(
            integers(lambda q, c: wrapped_sums(q.view(np.int8) * c)),
            "your products and their sum are int8 and wrap at 127, as np.dot of two int8 arrays has it: 15 * "
            "127 alone is 1,905. Make one factor np.int32 first",
        ),
        Mistake(in_int16, "your sum is int16 and wraps at 32,767: add in int32"),
        Mistake(
            integers(lambda q, c: q.astype(np.int64) * c.view(np.uint8)),
            "you read the activations' codes as unsigned bytes: they are signed, only q is not",
        ),
        Mistake(
            integers(each=lambda s: np.roll(s, -1)),
            "the scale of the wrong sub-block: group g takes scales[g], and yours is the next one",
        ),
        Mistake(
            integers(each=lambda s: np.repeat(s[::8], 8)),
            "you use one scale for the whole block: each 32 weights have their own",
        ),
        Mistake(
            integers(d_of=np.ones_like),
            "d is missing: the codes of the activations are multiples of it",
        ),
        Mistake(
            integers(d_of=lambda d: np.full_like(d, d[0])),
            "you take the first d for all: the next 256 activations have another",
        ),
    ),
    hints=(
        "Group g: 32 whole-number products and their sum. Then the scales, once for the group.",
        "Each product of codes is scaled twice, by the weights' scales[g] and the activations' d[g // 8]; "
        "sums[g] has its d already. Make q or codes np.int32 before you multiply.",
    ),
    tolerance=1e-5,
)


# order_of_codes: bytes in a load -> int [256]


def order_of_codes(width):
    """Return the weights of a Q4_K block in the order in which loads of `width` bytes meet them, int [256].

    A load gives first the low nibbles of its bytes, then the high ones.
    """
    weights = np.arange(256).reshape(4, 2, 32)  # chunk, low or high nibble, byte of the chunk
    loads = weights.reshape(128 // width, width // 32, 2, 32)
    return loads.transpose(0, 2, 1, 3).reshape(-1)


def met(width, nibble=lambda byte, high: byte // 32 * 64 + 32 * high + byte % 32, first=0):
    """Return the order, with a place for each mistake."""
    return np.array(
        [
            nibble(byte, high)
            for start in range(0, 128, width)
            for high in (first, 1 - first)
            for byte in range(start, start + width)
        ]
    )


ORDER = Exercise(
    name="order_of_codes",
    engine=order_of_codes,
    cases=lambda: {f"loads of {width} bytes": (width,) for width in (32, 64, 128)},
    mistakes=(
        Mistake(
            lambda width: np.arange(256),
            "this is the natural order: only loads of 32 bytes meet it. A longer load reads two chunks of "
            "low nibbles before any high one",
        ),
        Mistake(
            lambda width: met(128),
            "you take all low nibbles of the block first: that is one load of 128 bytes. Here the high "
            "nibbles of a load come before the next load",
        ),
        Mistake(
            lambda width: met(64),
            "you have the order of 64 bytes whatever `width` says",
        ),
        Mistake(
            lambda width: np.argsort(met(width)),
            "this is the inverse: you say where each weight goes; wanted is which one stands at each place",
        ),
        Mistake(
            lambda width: met(width, lambda byte, high: 2 * byte + high),
            "you number the nibbles one after the other: the two of a byte are 32 weights apart, byte 0 "
            "holds weights 0 and 32",
        ),
        Mistake(
            lambda width: met(width, lambda byte, high: 128 * high + byte),
            "your high nibbles begin with weight 128: they belong to the same chunk, 32 weights further on",
        ),
        Mistake(
            lambda width: met(width, first=1),
            "your high nibbles come before the low ones",
        ),
        Mistake(
            lambda width: met(1),
            "you take both nibbles of a byte before the next byte: a load gives all its low nibbles, then "
            "all its high ones",
        ),
        Mistake(
            lambda width: met(width)[::32] // 32,
            "these are the 8 sub-blocks, in the right order: wanted are their 256 weights",
        ),
    ),
    hints=(
        "Byte 32c + l of the 128 holds weight 64c + l in its low nibble and 64c + 32 + l in its high one. "
        "Walk over the loads; in each over its low nibbles, then over its high ones.",
        "Three loops, over the first bytes of the loads, over low and high, over the bytes of a load. "
        "Inside: byte 32c + l, which c and l is that?",
    ),
)


# dot_q4_k_row: isa, raw uint8 [144 n], codes int8 [256 n], d float32 [n], sums float32 [8 n] -> float32


def dot_q4_k_row(isa, raw, codes, d, sums):
    """Return the dot product of a row of Q4_K with activations in the order of 64-byte loads."""
    products, offsets = vectors.zero_floats(), vectors.zeros_like(vectors.load_8_floats(sums, 0))
    for b in range(d.size):
        at, x = 144 * b, 256 * b
        sc, m = vectors.packed_scales(raw, at + 4)
        scales, mins = vectors.repeat_bytes(sc), vectors.bytes_to_floats(m)
        first, second = vectors.load_bytes(raw, at + 16), vectors.load_bytes(raw, at + 80)
        p0 = vectors.dot_pairs(isa, vectors.low_nibbles(first), vectors.load_bytes(codes, x))
        p1 = vectors.dot_pairs(isa, vectors.high_nibbles(first), vectors.load_bytes(codes, x + 64))
        p2 = vectors.dot_pairs(isa, vectors.low_nibbles(second), vectors.load_bytes(codes, x + 128))
        p3 = vectors.dot_pairs(isa, vectors.high_nibbles(second), vectors.load_bytes(codes, x + 192))
        ints = vectors.add_scaled_pairs(isa, vectors.zero_ints(), p0, vectors.pick_scales(scales, 0, 2))
        ints = vectors.add_scaled_pairs(isa, ints, p1, vectors.pick_scales(scales, 1, 3))
        ints = vectors.add_scaled_pairs(isa, ints, p2, vectors.pick_scales(scales, 4, 6))
        ints = vectors.add_scaled_pairs(isa, ints, p3, vectors.pick_scales(scales, 5, 7))
        scale = vectors.repeat_float(vectors.load_half(raw, at) * d[b], products)
        products = vectors.multiply_add(vectors.to_floats(ints), scale, products)
        mins = vectors.multiply(mins, vectors.repeat_float(vectors.load_half(raw, at + 2), mins))
        offsets = vectors.multiply_add(mins, vectors.load_8_floats(sums, 32 * b), offsets)
    return vectors.total(products) - vectors.total(offsets)


def as_bytes(packed):
    return np.array([packed], "<u8").view(np.uint8)


def piece(array, offset, n_bytes, dtype):
    """Return some bytes of an array as numbers; unlike the vector functions this looks where it reads."""
    data = np.ascontiguousarray(array).view(np.uint8)
    if not 0 <= offset <= data.size - n_bytes:
        raise IndexError(f"a load of {n_bytes} bytes from byte {offset}, but the array has {data.size} bytes")
    return data[offset : offset + n_bytes].view(dtype)


def twin_of_packed_scales(raw, at):
    sc, m = q4_k.unpack_scales(piece(raw, at, 12, np.uint8)[None])
    return sc.view("<u8")[0, 0], m.view("<u8")[0, 0]


def twin_of_dot_pairs(isa, codes, x):
    pairs = codes.view(np.uint8).astype(np.int32) * x.view(np.int8)
    return pairs.reshape(-1, 2).sum(axis=1).clip(-32768, 32767).astype(np.int16)


TWINS = {
    vectors.load_bytes: lambda array, at: piece(array, at, 64, np.uint8),
    vectors.load_8_floats: lambda array, at: piece(array, at, 32, np.float32),
    vectors.load_half: lambda array, at: np.float32(piece(array, at, 2, np.float16)[0]),
    vectors.load_floats: lambda array, at: piece(array, at, 64, np.float32),
    packed_scales: twin_of_packed_scales,
    vectors.repeat_bytes: lambda packed: np.tile(as_bytes(packed), 8),
    vectors.pick_scales: lambda table, *two: np.repeat(table[list(two)].astype(np.int16), 16),
    vectors.bytes_to_floats: lambda packed: as_bytes(packed).astype(np.float32),
    vectors.low_nibbles: lambda q: q & 15,
    vectors.high_nibbles: lambda q: q >> 4,
    vectors.dot_pairs: twin_of_dot_pairs,
    vectors.add_scaled_pairs: lambda isa, t, p, s: (
        t + (p.astype(np.int32) * s).reshape(-1, 2).sum(1, np.int32)
    ),
    vectors.to_floats: lambda ints: ints.astype(np.float32),
    vectors.repeat_float: lambda value, like: np.full_like(like, value),
    vectors.multiply: np.multiply,
    vectors.multiply_add: lambda a, b, c: a * b + c,
    vectors.total: np.sum,
    vectors.zero_ints: lambda: np.zeros(16, np.int32),
    vectors.zero_floats: lambda: np.zeros(16, np.float32),
    vectors.zeros_like: np.zeros_like,
}
TWIN_MODULES = {vectors: SimpleNamespace(**{real.__name__: twin for real, twin in TWINS.items()})}


def interpreted(function: Callable) -> Callable:
    """Return a function with the vector functions that it names exchanged for their twins in NumPy."""
    function = getattr(function, "py_func", function)
    if not isinstance(function, FunctionType):
        return function
    names = {name: twin(value) for name, value in function.__globals__.items()}
    code, name = function.__code__, function.__name__
    return FunctionType(code, names, name, function.__defaults__, function.__closure__)


def twin(value):
    try:
        return TWINS.get(value) or TWIN_MODULES.get(value, value)
    except TypeError:  # not hashable
        return value


REGISTERS = (
    "registers of two lengths meet: products has 16 floats, from zero_floats(); the minimums and sums of a "
    "block are 8, so offsets begins as zeros_like(load_8_floats(sums, 0))"
)


class VectorExercise(Exercise):
    """An exercise in vector functions: judged with their twins, then compiled if the CPU can."""

    def __call__(self, function: Callable) -> Callable:
        """Return the plain function: the lesson compiles it, and Numba refuses to do so twice."""
        return plain(super().__call__(function))

    def judge(self, function: Callable) -> Verdict:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["engine"], values["solution"] = interpreted(self.engine), self.solution or self.engine
        values["mistakes"] = tuple(Mistake(interpreted(m.wrong), m.message) for m in self.mistakes)
        verdict = replace(Exercise(**values).judge(interpreted(function)), pattern=None)  # of the twins
        if verdict.kind == "wrong" and "broadcast" in verdict.message:
            return self._verdict("wrong", f"{verdict.message}\n{REGISTERS}")
        isa = vectors.INSTRUCTION_SETS[cpu.chosen()]
        if verdict.kind == "right" and isa is not None:
            problem = self._compiled(function, isa)
            return self._verdict("wrong", problem) if problem else verdict
        return verdict

    def _compiled(self, function, isa):
        """Return what goes wrong in compiled code, or None."""
        label, (_, *arguments) = next(iter(self.cases().items()))
        try:
            answer = njit(boundscheck=True)(checked(getattr(function, "py_func", function)))(isa, *arguments)
        except Exception as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            told = next((line for line in lines if "literal" in line), lines[0] if lines else "")
            return (
                f"right, but Numba cannot compile it: {type(error).__name__}: {told.strip()}\n"
                "pick_scales wants its two numbers written out, not computed"
            )
        expected = interpreted(self.engine)(None, *arguments)
        return difference(answer, expected, self.tolerance, f"{label}, compiled")


def row_cases():
    rng = np.random.default_rng(3)

    def case(n_blocks, dmin=2**-4, q=None, m=None):
        blocks = np.frombuffer(rng.bytes(144 * n_blocks), q4_k.BLOCK).copy()
        blocks["d"], blocks["dmin"] = 2.0 ** -np.arange(3, 3 + n_blocks), dmin
        if q is not None:
            blocks["qs"] = q
        if m is not None:
            blocks["scales"] = m
        codes = rng.integers(-127, 128, 256 * n_blocks).astype(np.int8)
        d = (2.0 ** -np.arange(n_blocks)[::-1] / 16).astype(np.float32)
        sums = group_sums(codes, d, 32)
        codes = codes.reshape(-1, 256)[:, order_of_codes(64)].reshape(-1)
        return None, blocks.view(np.uint8).reshape(-1), codes, d, sums

    return {
        "one block": case(1),
        "three blocks": case(3),
        "without minimums": case(2, dmin=0),
        "low nibbles only": case(1, q=0x0F),
        "high nibbles only": case(1, q=0xF0),
        "codes of 0": case(2, q=0),
    }


def row(
    header=16,
    second=80,
    places=(0, 64, 128, 192),
    scales=((0, 2), (1, 3), (4, 6), (5, 7)),
    signs=(1, -1),
    of_d=1,
    dmin=2,
    sums_step=32,
    keep=True,
    keep_offsets=True,
):
    """Return the right kernel, with a place for each mistake. Runs with the twins alone."""

    def dot(isa, raw, codes, d, sums):
        products, offsets = vectors.zero_floats(), vectors.zeros_like(vectors.load_8_floats(sums, 0))
        for b in range(d.size):
            if not keep:
                products, offsets = vectors.zero_floats(), vectors.zeros_like(offsets)
            if not keep_offsets:
                offsets = vectors.zeros_like(offsets)
            sc, m = packed_scales(raw, 144 * b + 4)
            a, c = vectors.load_bytes(raw, 144 * b + header), vectors.load_bytes(raw, 144 * b + second)
            t = vectors.zero_ints()
            q = (
                vectors.low_nibbles(a),
                vectors.high_nibbles(a),
                vectors.low_nibbles(c),
                vectors.high_nibbles(c),
            )
            for i in range(4):
                pairs = vectors.dot_pairs(isa, q[i], vectors.load_bytes(codes, 256 * b + places[i]))
                picked = vectors.pick_scales(vectors.repeat_bytes(sc), *scales[i])
                t = vectors.add_scaled_pairs(isa, t, pairs, picked)
            scale = vectors.load_half(raw, 144 * b) * (d[b] if of_d else 1)
            products = vectors.multiply_add(
                vectors.to_floats(t), vectors.repeat_float(scale, products), products
            )
            mins = vectors.multiply(
                vectors.bytes_to_floats(m),
                vectors.repeat_float(vectors.load_half(raw, 144 * b + dmin), offsets),
            )
            offsets = vectors.multiply_add(mins, vectors.load_8_floats(sums, sums_step * b), offsets)
        return signs[0] * vectors.total(products) + signs[1] * vectors.total(offsets)

    return dot


ROW = VectorExercise(
    name="dot_q4_k_row",
    engine=dot_q4_k_row,
    cases=row_cases,
    mistakes=(
        Mistake(row(signs=(1, 0)), "you forgot the offsets: subtract total(offsets) at the end"),
        Mistake(row(signs=(1, 1)), "you add the offsets: w = scale * q - offset"),
        Mistake(
            row(scales=((0, 1), (2, 3), (4, 5), (6, 7))),
            "the scales of the wrong sub-blocks: a load's low nibbles are sub-blocks 0 and 2, its high ones "
            "1 and 3; the second load 4 and 6, 5 and 7",
        ),
        Mistake(
            row(scales=((0, 1), (0, 1), (2, 3), (2, 3))),
            "the scales of the wrong sub-blocks: a load's low nibbles are sub-blocks 0 and 2, its high ones "
            "1 and 3; the second load 4 and 6, 5 and 7",
        ),
        Mistake(
            row(scales=((0, 2), (1, 3), (0, 2), (1, 3))),
            "your second load takes the scales of the first: its sub-blocks are 4 and 6, 5 and 7",
        ),
        Mistake(
            row(places=(0, 128, 64, 192)),
            "the high nibbles of the first load meet the wrong activations: theirs are the second 64 codes",
        ),
        Mistake(
            row(places=(0, 0, 64, 64)),
            "low and high nibbles meet the same activations: each vector of codes takes the next 64",
        ),
        Mistake(row(header=0, second=64), "you load the header as codes: they begin at byte 16"),
        Mistake(
            row(second=48),
            "your second load begins 32 bytes behind the first, which has 64: byte 80",
        ),
        Mistake(row(of_d=0), "d[b] of the activations is missing"),
        Mistake(
            row(dmin=0),
            "your offsets are multiplied by d: the minimums have dmin, the float16 at byte 2",
        ),
        Mistake(
            row(sums_step=8),
            "the sums of the wrong block: loads count in bytes, and 8 float32 take 32",
        ),
        Mistake(
            row(keep_offsets=False),
            "your products add up over the blocks, your offsets begin anew with each: only the last block's "
            "are subtracted. Set offsets to zero once, before the loop",
        ),
        Mistake(
            row(keep=False), "only the last block is left: set products and offsets to zero once, before"
        ),
    ),
    hints=(
        "One block is four times the pattern above: low and high nibbles of two loads, 64 codes of the "
        "activations each. Begin with zero_ints() for each block.",
        "products = multiply_add(to_floats(ints), repeat_float(load_half(raw, at) * d[b], products), "
        "products); "
        "the offsets likewise, with bytes_to_floats(m), dmin and load_8_floats(sums, 32 * b).",
    ),
    tolerance=1e-5,
)

EXERCISES = [ACTIVATIONS, SUMS, DOT, ORDER, ROW]
