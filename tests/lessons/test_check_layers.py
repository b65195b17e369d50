"""What learners write in lesson 19, for test_check_learners.py, and what is the lesson's own."""

import math

import numpy as np
import pytest

from blocks2tokens.course.lessons.layers import exercises as lesson
from blocks2tokens.model import rope

NAMES = {e.name: e for e in lesson.EXERCISES}


def norm(size=None, weigh=True, shift=False, before=False):
    """A learner's norm, row by row in float64; size(row, eps) is what a row is divided by."""
    size = size or (lambda row, eps: math.sqrt(sum(row**2) / len(row) + eps))

    def rms_norm(x, weight, eps):
        out = np.zeros(x.shape)
        for t in range(len(x)):
            row = x[t].astype(float)
            if before:
                row = row * weight
            length = size(row, eps)
            if shift:
                row = row - sum(row) / len(row)
            out[t] = row / np.float64(length)
            if weigh and not before:
                out[t] *= weight
        return out

    return rms_norm


def variance(row):
    return sum((row - sum(row) / len(row)) ** 2) / len(row)


def all_rows_at_once(x, weight, eps):
    return x / np.sqrt((x.astype(float) ** 2).mean() + eps) * weight


def turned(frequency=None, angle=lambda a: a, at=lambda positions, t: positions[t]):
    frequency = frequency or (lambda i, d, theta: theta ** -(2 * i / d))

    def rope_angles(positions, head_dim, theta):
        return np.array(
            [
                [angle(int(at(positions, t)) * frequency(i, head_dim, theta)) for i in range(head_dim // 2)]
                for t in range(len(positions))
            ]
        )

    return rope_angles


def rotation(pairs=None, angle=lambda c, s: (c, s), new=None, in_place=False, head_decides=False):
    """A learner's rotation in loops; new(a, b, c, s) are a pair's new numbers."""
    pairs = pairs or (lambda i, d: (2 * i, 2 * i + 1))
    new = new or (lambda a, b, c, s: (a * c - b * s, a * s + b * c))

    def rotate_adjacent(x, cos, sin):
        T, heads, d = x.shape
        y = x.astype(float)
        for t in range(T):
            for h in range(heads):
                for i in range(d // 2):
                    j, k = pairs(i, d)
                    row = h if head_decides and heads == T else t
                    c, s = angle(float(cos[row, i]), float(sin[row, i]))
                    if in_place:
                        y[t, h, j] = y[t, h, j] * c - y[t, h, k] * s
                        y[t, h, k] = y[t, h, j] * s + y[t, h, k] * c
                    else:
                        y[t, h, j], y[t, h, k] = new(y[t, h, j], y[t, h, k], c, s)
        return y

    return rotate_adjacent


def order(of_head, columns=False, whole=False):
    """A learner's reordering by a list of row numbers."""

    def rows_for_halves(W, head_dim):
        if columns:
            K = W.shape[1]
            last = [K - 1] if K % 2 else []
            return W[:, [*range(0, K - K % 2, 2), *range(1, K, 2), *last]]
        size = len(W) if whole else head_dim
        rows = [first + r for first in range(0, len(W), size) for r in of_head(size)]
        return W[rows]

    return rows_for_halves


def even_then_odd(d):
    return [*range(0, d, 2), *range(1, d, 2)]


def way_back(d):
    return [r for i in range(d // 2) for r in (i, i + d // 2)]


def gate_of(weigh, combine=lambda g, u: g * u, exchanged=False):
    """A learner's gate, number by number."""

    def swiglu(gate, up):
        if exchanged:
            gate, up = up, gate
        out = [combine(weigh(float(g)), float(u)) for g, u in zip(gate.flat, up.flat, strict=True)]
        return np.array(out).reshape(gate.shape)

    return swiglu


def logistic(z):
    return 1 / (1 + math.exp(-z)) if z > -700 else 0.0


def silu(z):
    return z * logistic(z)


def silu_that_overflows(gate, up):
    return np.exp(gate) / (np.exp(gate) + 1) * gate * up


def gelu(z):
    return z * 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


def norm_in_place(x, weight, eps):
    x /= np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)
    x *= weight
    return x


def norm_without_keepdims(x, weight, eps):
    return x / np.sqrt((x * x).mean(axis=-1) + eps) * weight


def test_a_mean_that_lost_its_axis_is_explained():
    assert "keepdims=True makes it [T, 1]" in lesson.NORM.judge(norm_without_keepdims).message


def turn_in_place(x, cos, sin):
    a, b, c, s = x[..., ::2].copy(), x[..., 1::2].copy(), cos[:, None], sin[:, None]
    x[..., ::2], x[..., 1::2] = a * c - b * s, a * s + b * c
    return x


def turned_to_halves(x, cos, sin):
    a, b, c, s = x[..., ::2], x[..., 1::2], cos[:, None], sin[:, None]
    return np.concatenate([a * c - b * s, a * s + b * c], axis=-1)


def turned_from_halves(x, cos, sin):
    (a, b), c, s = np.split(x, 2, axis=-1), cos[:, None], sin[:, None]
    return np.stack([a * c - b * s, a * s + b * c], axis=-1).reshape(x.shape)


def gate_in_place(gate, up):
    gate /= 1 + np.exp(-gate)
    return gate * up


def evens_doubled(positions, head_dim, theta):
    i = np.arange(0, head_dim, 2)
    return np.outer(positions, theta ** (-2 * i / head_dim))


WRONG = [
    ("rms_norm", norm_in_place, "you wrote into x"),
    ("rms_norm", lambda x, w, eps: x / np.sqrt((x**2).mean(axis=0) + eps) * w, "down the columns"),
    ("rope_angles", evens_doubled, "you double i twice"),
    ("rotate_adjacent", turn_in_place, "you wrote into x"),
    ("rotate_adjacent", turned_to_halves, "put them back as halves"),
    ("rotate_adjacent", turned_from_halves, "out of the two halves"),
    ("swiglu", gate_in_place, "you wrote into gate"),
    ("rms_norm", norm(lambda row, eps: sum(row**2) / len(row) + eps), "take its root"),
    (
        "rms_norm",
        norm(lambda row, eps: math.sqrt(sum(row**2) / len(row)) + eps),
        "eps belongs under the root",
    ),
    ("rms_norm", norm(lambda row, eps: math.sqrt(sum(row**2) / len(row))), "eps is missing"),
    ("rms_norm", norm(lambda row, eps: math.sqrt(variance(row) + eps), shift=True), "that is LayerNorm"),
    ("rms_norm", norm(lambda row, eps: math.sqrt(variance(row) + eps)), "standard deviation"),
    ("rms_norm", norm(lambda row, eps: math.sqrt(sum(row**2) + eps)), "take their mean"),
    ("rms_norm", all_rows_at_once, "one size for all rows"),
    ("rms_norm", norm(weigh=False), "the weight is missing"),
    ("rms_norm", norm(before=True), "normalize first"),
    ("rope_angles", turned(lambda i, d, theta: theta ** -(i / d)), "half as fast"),
    ("rope_angles", turned(lambda i, d, theta: theta ** (2 * i / d)), "faster and faster"),
    ("rope_angles", turned(angle=math.degrees), "these are degrees"),
    ("rope_angles", turned(angle=lambda a: 2 * math.pi * a), "whole turns"),
    ("rope_angles", turned(at=lambda positions, t: positions[t] + 1), "at position 0 nothing turns"),
    ("rope_angles", turned(at=lambda positions, t: t), "you count from 0"),
    ("rotate_adjacent", rotation(lambda i, d: (i, i + d // 2)), "qwen's convention"),
    ("rotate_adjacent", rotation(angle=lambda c, s: (c, -s)), "the other way"),
    ("rotate_adjacent", rotation(angle=lambda c, s: (s, c)), "cos and sin are exchanged"),
    ("rotate_adjacent", rotation(in_place=True), "the first's new value"),
    ("rotate_adjacent", rotation(new=lambda a, b, c, s: (a * c + b * s, a * s - b * c)), "a reflection"),
    ("rotate_adjacent", rotation(head_decides=True), "the angle is the token's"),
    ("rotate_adjacent", lambda x, cos, sin: x.copy(), "nothing is turned"),
    ("rows_for_halves", order(even_then_odd, whole=True), "stay in their head"),
    ("rows_for_halves", order(way_back), "the way back"),
    ("rows_for_halves", order(lambda d: [*range(1, d, 2), *range(0, d, 2)]), "the first of a pair stays"),
    ("rows_for_halves", order(None, columns=True), "you reorder columns"),
    ("rows_for_halves", lambda W, head_dim: W.copy(), "the order is as before"),
    ("swiglu", gate_of(logistic), "sigmoid alone"),
    ("swiglu", gate_of(silu, exchanged=True), "exchanged"),
    ("swiglu", silu_that_overflows, "infinity / infinity"),
    ("swiglu", gate_of(lambda z: z * logistic(-z)), "sign inside exp"),
    ("swiglu", gate_of(lambda z: max(z, 0.0)), "that is relu"),
    ("swiglu", gate_of(gelu), "that is gelu"),
    ("swiglu", gate_of(silu, lambda g, u: g), "up is missing"),
    ("swiglu", gate_of(silu, lambda g, u: g + u), "the gate multiplies it"),
    ("swiglu", gate_of(lambda z: z), "silu is missing"),
]


def by_complex_numbers(x, cos, sin):
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    z = (pairs[..., 0] + 1j * pairs[..., 1]) * (cos + 1j * sin)[:, None]
    return np.stack([z.real, z.imag], axis=-1).reshape(x.shape)


def by_outer_product(positions, head_dim, theta):
    return np.outer(positions, 1 / theta ** (np.arange(0, head_dim, 2) / head_dim))


def by_tanh(gate, up):
    return gate * (np.tanh(gate / 2) + 1) / 2 * up


RIGHT = {
    "rms_norm": [norm(), lambda x, weight, eps: weight * x / ((x**2).mean(1)[:, None] + eps) ** 0.5],
    "rope_angles": [turned(), by_outer_product],
    "rotate_adjacent": [rotation(), by_complex_numbers],
    "rows_for_halves": [order(even_then_odd)],
    "swiglu": [gate_of(silu), by_tanh],
}


def test_an_exp_that_overflows_is_explained():
    def swiglu(gate, up):
        opened = [[g / (1 + math.exp(-g)) for g in row] for row in gate.tolist()]
        return np.array(opened, np.float32) * up

    assert "np.exp gives infinity" in NAMES["swiglu"].judge(swiglu).message


# What the engine has under other names agrees with it


@pytest.mark.parametrize(("head_dim", "theta"), [(8, 100.0), (64, 10_000.0), (128, 500_000.0)])
def test_the_angles_are_the_engines(head_dim, theta):
    positions = np.array([0, 1, 7, 511])
    angle = lesson.rope_angles(positions, head_dim, theta)
    assert np.allclose(angle[1], rope.frequencies(head_dim, theta))
    for mine, engines in zip(
        (np.cos(angle), np.sin(angle)),
        rope.angles(positions, rope.frequencies(head_dim, theta)),
        strict=True,
    ):
        assert np.allclose(mine, engines, atol=1e-7)


def test_the_shown_rotation_is_the_engines():
    x = np.random.default_rng(1).standard_normal((4, 3, 8)).astype(np.float32)
    cos, sin = rope.angles(np.arange(4), rope.frequencies(8, 100.0))
    assert np.array_equal(lesson.rotate_adjacent(x, cos, sin), rope.rotate_adjacent(x, cos, sin))


@pytest.mark.parametrize(("heads", "head_dim"), [(1, 2), (3, 8), (2, 64)])
def test_reordered_rows_turn_one_convention_into_the_other(heads, head_dim):
    rng = np.random.default_rng(0)
    h, W = rng.standard_normal((5, 12)), rng.standard_normal((heads * head_dim, 12))
    cos, sin = rope.angles(np.arange(5), rope.frequencies(head_dim, 100.0))
    neighbours = rope.rotate_adjacent((h @ W.T).reshape(5, heads, head_dim), cos, sin)
    reordered = lesson.rows_for_halves(W, head_dim)
    halves = rope.rotate_halves((h @ reordered.T).reshape(5, heads, head_dim), cos, sin)
    pairs = neighbours.reshape(5, heads, head_dim // 2, 2)
    assert np.allclose(halves, np.concatenate([pairs[..., 0], pairs[..., 1]], axis=-1))


# Right answers in other styles


def test_angles_in_float32_are_right():
    angles = NAMES["rope_angles"].judge(lambda *given: lesson.rope_angles(*given).astype(np.float32))
    assert angles.kind == "right"


@pytest.mark.parametrize(("most", "kind"), [(30, "right"), (80, "right"), (3, "wrong")])
def test_an_exponent_may_be_clipped_where_the_gate_is_shut_anyway(most, kind):
    def swiglu(gate, up):
        return gate * up / (1 + np.exp(np.clip(-gate, -most, most)))

    assert NAMES["swiglu"].judge(swiglu).kind == kind
