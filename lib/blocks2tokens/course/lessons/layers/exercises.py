"""Lesson 19, layers: what lies between the products of a layer.

rms_norm          x, weight, eps                 -> each row at unit mean square, times weight
rope_angles       positions, head_dim, theta     -> the angle of each pair at each position
rotate_adjacent   x, cos, sin                    -> pairs (2i, 2i + 1) turned by their angles
rows_for_halves   W, head_dim                    -> the same rows, ordered for pairs (i, i + head_dim / 2)
swiglu            gate, up                       -> silu(gate) * up
"""

from functools import partial

import numpy as np

from blocks2tokens.course.check.exercise import Exercise, Mistake
from blocks2tokens.course.check.watched import WatchedExercise
from blocks2tokens.model import layers, rope

EPS = 1e-5


def floats(*shape, seed=0, size=1.0):
    return (size * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


# rms_norm: x [T, dim], weight [dim], eps -> float32 [T, dim]


def norm_cases():
    weight = np.linspace(0.5, 2, 8, dtype=np.float32)
    outlier = floats(2, 8, seed=1)
    outlier[1, 3] = 1000
    return {
        "random rows": (floats(3, 8), weight, EPS),
        "rows far from 0": (5 + floats(3, 8, seed=2), weight, EPS),
        "rows of different size": (floats(3, 8, seed=3) * np.float32([[0.1], [1], [50]]), weight, EPS),
        "one huge outlier": (outlier, weight, EPS),
        "tiny numbers, where eps counts": (floats(2, 8, seed=4, size=1e-3), weight, EPS),
        "zeros": (np.zeros((2, 8), np.float32), weight, EPS),
    }


def norm_with(mean=np.mean, axis=-1, root=np.sqrt, outside=0.0, inside=1.0, centre=False, spread=False):
    """Return the norm with a place for each mistake."""

    def rms_norm(x, weight, eps):
        middle = x.mean(axis=-1, keepdims=True)
        y = x - middle if centre else x
        z = x - middle if spread else x
        size = root(mean(z * z, axis=axis, keepdims=True) + inside * eps) + outside * eps
        return y / size * weight

    return rms_norm


def weight_first(x, weight, eps):
    return layers.rms_norm(x * weight, np.ones_like(weight), eps)


NORM = WatchedExercise(
    name="rms_norm",
    raised={
        "ValueError": (
            "a mean of each row is [T], which meets x, [T, dim], along the wrong axis: keepdims=True makes "
            "it [T, 1]"
        ),
    },
    engine=layers.rms_norm,
    cases=norm_cases,
    mistakes=(
        Mistake(
            norm_with(root=lambda mean_square: mean_square),
            "you divide by the mean square: take its root, or rows twice as large come out half as large",
        ),
        Mistake(
            norm_with(outside=1.0, inside=0.0),
            "eps belongs under the root: outside it hardly counts, and tiny rows are blown up to full size",
        ),
        Mistake(
            norm_with(inside=0.0),
            "eps is missing: a row of zeros is divided by 0, and tiny rows are blown up to full size",
        ),
        Mistake(
            norm_with(centre=True, spread=True),
            "you subtract the mean of the row: that is LayerNorm. RMSNorm leaves the mean where it is",
        ),
        Mistake(
            norm_with(spread=True),
            "you divide by the standard deviation: it measures from the mean, RMSNorm measures from 0",
        ),
        Mistake(
            norm_with(mean=np.sum),
            "you divide by the root of the sum of squares, the length: take their mean, so that a row's "
            "numbers come out about 1 whatever dim is",
        ),
        Mistake(
            norm_with(axis=None),
            "one size for all rows: each row, a token, has its own. Take the mean over the last axis, "
            "keepdims=True",
        ),
        Mistake(
            norm_with(axis=0),
            "you take the mean down the columns, over the tokens: a token's row is normalized by itself, "
            "axis=-1",
        ),
        Mistake(
            lambda x, weight, eps: layers.rms_norm(x, np.ones_like(weight), eps),
            "the weight is missing: each of the dim numbers is multiplied by its own at the end",
        ),
        Mistake(
            weight_first,
            "you multiply by the weight before you measure the row: normalize first, then weight",
        ),
    ),
    hints=(
        "RMS, read backwards: square each number, take the mean of the row, take the root.",
        "With axis=-1 and keepdims=True np.mean gives [T, 1], a number for each row. eps goes under the "
        "root, weight comes last.",
    ),
    tolerance=1e-4,
)


# rope_angles: positions int [T], head_dim, theta -> radians, float64 [T, head_dim / 2]


def rope_angles(positions, head_dim, theta):
    """Return the angle of each pair at each position, radians, float64 [T, head_dim / 2]."""
    # and in the engine: angles in model/rope.py
    i = np.arange(head_dim // 2)
    return positions[:, None] * theta ** (-2 * i / head_dim)


def angle_cases():
    return {
        "5 positions, heads of 8": (np.arange(5), 8, 10_000.0),
        "positions 7 to 9": (np.arange(7, 10), 8, 10_000.0),
        "one far position, heads of 64": (np.array([511]), 64, 100_000.0),
        "theta 100, heads of 4": (np.array([0, 3, 1]), 4, 100.0),
    }


def angles_with(step=2, sign=-1, factor=1.0, shift=0, own_positions=True):
    def angles(positions, head_dim, theta):
        at = positions if own_positions else np.arange(len(positions))
        i = np.arange(head_dim // 2)
        return factor * (at[:, None] + shift) * theta ** (sign * step * i / head_dim)

    return angles


ANGLES = Exercise(
    name="rope_angles",
    engine=rope_angles,
    cases=angle_cases,
    mistakes=(
        Mistake(
            angles_with(step=1),
            "the exponent is -2i / head_dim, yours is -i / head_dim: your pairs slow down half as fast",
        ),
        Mistake(
            angles_with(step=4),
            "you double i twice: i counts pairs, 0, 1, 2, ..., and np.arange(0, head_dim, 2) is 2i already. "
            "In heads of 8 pair 1 of theta 10,000 turns by 0.1, yours by 0.01",
        ),
        Mistake(
            angles_with(sign=1),
            "your pairs turn faster and faster: the exponent is negative, theta ** (-2i / head_dim)",
        ),
        Mistake(angles_with(factor=180 / np.pi), "these are degrees: np.cos and np.sin want radians"),
        Mistake(
            angles_with(factor=2 * np.pi),
            "you count in whole turns: pair 0 turns by 1 radian from one position to the next",
        ),
        Mistake(
            angles_with(shift=1),
            "your first position is 1: positions are as given, and at position 0 nothing turns",
        ),
        Mistake(
            angles_with(own_positions=False),
            "you count from 0: use the positions as given, a cache may hold the tokens before them",
        ),
    ),
    hints=(
        "Pair i turns by theta ** (-2i / head_dim) from one position to the next. How far has it turned at "
        "position 3?",
        "A column of positions, positions[:, None], times a row of frequencies, one for each "
        "i in np.arange(head_dim // 2).",
    ),
    tolerance=1e-6,  # float32 will do
)


# rotate_adjacent: x [T, heads, head_dim], cos and sin [T, head_dim / 2] -> float32 [T, heads, head_dim]


def rotate_adjacent(x, cos, sin):
    """Turn pairs (2i, 2i + 1) of each head; x float32 [T, heads, head_dim], cos and sin [T, head_dim / 2]."""
    # and in the engine: rotate_adjacent in model/rope.py
    a, b = x[..., ::2], x[..., 1::2]
    cos, sin = cos[:, None], sin[:, None]
    out = np.empty_like(x)
    out[..., ::2] = a * cos - b * sin
    out[..., 1::2] = a * sin + b * cos
    return out


def rotation_cases():
    def case(T, heads, head_dim, seed):
        cos, sin = rope.angles(np.arange(2, 2 + T), rope.frequencies(head_dim, 100.0))
        return floats(T, heads, head_dim, seed=seed), cos, sin

    ramp = np.arange(1, 9, dtype=np.float32).reshape(1, 1, 8)
    quarter = np.zeros((1, 4), np.float32), np.ones((1, 4), np.float32)
    return {
        "a quarter turn of 1 to 8": (ramp, *quarter),
        "3 tokens, 3 heads": case(3, 3, 8, seed=2),
        "1 token, 4 heads": case(1, 4, 6, seed=7),
    }


def rotated(rotate=rope.rotate_adjacent, swap=False, sine=1):
    def rotate_adjacent(x, cos, sin):
        cos, sin = (sin, cos) if swap else (cos, sin)
        return rotate(x, cos, sine * sin)

    return rotate_adjacent


def pairs_made(combine):
    """Return the rotation with combine(a, b, cos, sin) in the place of the right formula."""

    def rotate_adjacent(x, cos, sin):
        out = np.empty_like(x)
        out[..., ::2], out[..., 1::2] = combine(x[..., ::2], x[..., 1::2], cos[:, None], sin[:, None])
        return out

    return rotate_adjacent


def overwrites(a, b, cos, sin):
    a = a * cos - b * sin
    return a, a * sin + b * cos


def mirrors(a, b, cos, sin):
    return a * cos + b * sin, a * sin - b * cos


def back_as_halves(x, cos, sin):
    turned = rotate_adjacent(x, cos, sin)
    return np.concatenate([turned[..., ::2], turned[..., 1::2]], axis=-1)


def out_of_halves(x, cos, sin):
    half = x.shape[-1] // 2
    return rotate_adjacent(np.stack([x[..., :half], x[..., half:]], axis=-1).reshape(x.shape), cos, sin)


def one_angle_for_each_head(x, cos, sin):
    turned = rope.rotate_adjacent(x.swapaxes(0, 1), cos, sin) if len(x) == x.shape[1] else None
    return rope.rotate_adjacent(x, cos, sin) if turned is None else turned.swapaxes(0, 1)


ROTATE = Exercise(
    name="rotate_adjacent",
    engine=rope.rotate_adjacent,
    solution=rotate_adjacent,
    cases=rotation_cases,
    mistakes=(
        Mistake(
            rotated(rope.rotate_halves),
            "your pairs are (i, i + head_dim / 2), qwen's convention: here they are neighbours, (2i, 2i + 1)",
        ),
        Mistake(
            back_as_halves,
            "you turn the right pairs and put them back as halves, all first numbers, then all second ones: "
            "of 1 2 3 4 the pair 1 2 lands at places 0 and 2. Neighbours stay neighbours, out[..., ::2] and "
            "out[..., 1::2]",
        ),
        Mistake(
            out_of_halves,
            "you take the pairs out of the two halves and put them back as neighbours: of 1 to 8 the first "
            "pair is 1 and 2, yours is 1 and 5. Take x[..., ::2] and x[..., 1::2]",
        ),
        Mistake(
            rotated(sine=-1),
            "you turn the other way: the sign of sin is flipped",
        ),
        Mistake(
            rotated(swap=True),
            "cos and sin are exchanged: at angle 0, where cos is 1, nothing may change",
        ),
        Mistake(
            pairs_made(overwrites),
            "the second number of a pair is made from the first's new value: keep the old one until both "
            "are made",
        ),
        Mistake(
            pairs_made(mirrors),
            "yours is a reflection: in a rotation the two products with cos have the same sign, and those "
            "with sin opposite ones",
        ),
        Mistake(
            one_angle_for_each_head,
            "you turn each head by an angle of its own: the angle is the token's, cos[:, None] meets "
            "[T, heads, head_dim / 2]",
        ),
        Mistake(
            lambda x, cos, sin: x,
            "nothing is turned: did you return x itself?",
        ),
    ),
    hints=(
        "a + ib times cos + i sin: what are the real and the imaginary part?",
        "x[..., ::2] are the real parts of all pairs, x[..., 1::2] the imaginary ones: each half of the "
        "formula is one line, into a new array. cos[:, None] gives all heads of a token the same angle.",
    ),
    tolerance=1e-4,
)


# rows_for_halves: W [heads * head_dim, K], head_dim -> the same rows in another order


def rows_for_halves(W, head_dim):
    """Return W, float32 [heads * head_dim, K]: in each head first the even rows, then the odd ones."""
    pairs = W.reshape(-1, head_dim // 2, 2, W.shape[1])  # head, pair, member of the pair, K
    return pairs.swapaxes(1, 2).reshape(W.shape)


def row_cases():
    numbered = np.arange(16, dtype=np.float32)[:, None] + np.float32([0, 0.25, 0.5])
    return {
        "2 heads of 8, rows numbered": (numbered, 8),
        "1 head of 6": (floats(6, 4, seed=7), 6),
        "3 heads of 4, 12 columns": (floats(12, 12, seed=8), 4),
    }


def rows_from_halves(W, head_dim):
    return W.reshape(-1, 2, head_dim // 2, W.shape[1]).swapaxes(1, 2).reshape(W.shape)


def columns_for_halves(W, head_dim):
    K = W.shape[1]
    return np.concatenate([W[:, : K - K % 2 : 2], W[:, 1::2], W[:, K - K % 2 :]], axis=1)


def odd_first(W, head_dim):
    pairs = W.reshape(-1, head_dim // 2, 2, W.shape[1])
    return pairs[:, :, ::-1].swapaxes(1, 2).reshape(W.shape)


ROWS = Exercise(
    name="rows_for_halves",
    engine=rows_for_halves,
    cases=row_cases,
    mistakes=(
        Mistake(
            lambda W, head_dim: np.concatenate([W[::2], W[1::2]]),
            "you reorder the whole matrix at once: the rows of a head stay in their head",
        ),
        Mistake(
            rows_from_halves,
            "that is the way back, from halves to neighbours: rows 0, 2, 4, ... of a head come first here",
        ),
        Mistake(odd_first, "the odd rows of a head come second: the first of a pair stays the first"),
        Mistake(
            columns_for_halves,
            "you reorder columns: a head's numbers come from rows of W, its columns meet the stream",
        ),
        Mistake(lambda W, head_dim: W, "the order is as before: did you return W itself?"),
    ),
    hints=(
        "For a head of 8 rows, where do rows 0 and 1, the first pair, have to go, so that they lie 4 apart?",
        "0 2 4 6 1 3 5 7 in each head. W.reshape(-1, head_dim // 2, 2, K) has an axis for the pair and one "
        "for its member: swap those two.",
    ),
)


# swiglu: gate, up [T, ffn_dim] -> float32 [T, ffn_dim]


def gate_cases():
    ramp = np.linspace(-3, 3, 13, dtype=np.float32)[None]
    return {
        "a ramp of gates, up 2": (ramp, np.full_like(ramp, 2)),
        "random": (floats(2, 9, seed=9), floats(2, 9, seed=10)),
        "gates of -10000 and 10000": (np.float32([[-10_000, 10_000, 0]]), np.float32([[1, -2, 3]])),
    }


def gated(weigh):
    return lambda gate, up: weigh(gate) * up


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def silu(z):
    return z * sigmoid(z)


def gelu(z):
    return z / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))


def shut_is_shut(function):
    """Return the function with 0 for what an exponent that was clipped leaves of a gate of -10,000."""

    def swiglu(gate, up):
        found = np.asarray(function(gate, up))
        return np.where(np.abs(found) < 1e-8, np.float32(0), found)

    return swiglu


SWIGLU = WatchedExercise(
    name="swiglu",
    engine=layers.swiglu,
    cases=gate_cases,
    other_form=shut_is_shut,
    mistakes=(
        Mistake(
            gated(sigmoid),
            "you weigh by the sigmoid alone: silu(z) is z times sigmoid(z)",
        ),
        Mistake(
            lambda gate, up: silu(up) * gate,
            "gate and up are exchanged: silu takes the gate",
        ),
        Mistake(
            gated(lambda z: z * np.exp(z) / (1 + np.exp(z))),
            "exp(gate) overflows for a large gate, and infinity / infinity is no number: divide by "
            "1 + exp(-gate)",
        ),
        Mistake(
            gated(lambda z: z / (1 + np.exp(z))),
            "the sign inside exp is wrong: large gates must open, and yours shut",
        ),
        Mistake(gated(partial(np.maximum, 0)), "that is relu: silu bends where relu has its corner"),
        Mistake(gated(gelu), "that is gelu: silu(z) is z / (1 + exp(-z))"),
        Mistake(lambda gate, up: silu(gate), "up is missing: the gate weighs it, number by number"),
        Mistake(lambda gate, up: silu(gate) + up, "you add up: the gate multiplies it"),
        Mistake(gated(lambda z: z), "silu is missing: you multiply gate and up as they are"),
    ),
    hints=(
        "The sigmoid of the gate, 0 to 1, says how far it is open. silu is the gate times that.",
        "The sigmoid of z is one over 1 + exp(-z). exp may become infinite there: the quotient is then 0, as "
        "it should be.",
    ),
    tolerance=1e-4,
)

EXERCISES = [NORM, ANGLES, ROTATE, ROWS, SWIGLU]
