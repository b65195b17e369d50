"""The small parts of a layer, compiled, in place: what `layers`, `rope` and `attention` define.

normalize       x / rms(x) * weight
rotate          pairs by their angles; adjacent or halves
silu_times      gate = silu(gate) * up, and the gates of other families: `gate_times` knows them all
top_experts     the experts with the highest scores, and their shares
softmax_parts   a softmax, not divided yet

Attention is in `attention_tile`, `batch_attention` and `split_attention`.
Compiled code checks nothing: `Transformer` has checked all sizes.
"""

import numpy as np
from numba import njit

from blocks2tokens.formats.compiled import bits_to_float
from blocks2tokens.model.layers import CLAMPED_LIMIT, CLAMPED_SLOPE

IN_ANY_ORDER = {"reassoc", "contract", "nsz"}
LOG2_E = np.float32(1.442695041)
GATE_KINDS = ("silu", "gelu", "clamped")
SILU, GELU, CLAMPED = range(3)
TWICE_ROOT, CUBIC = np.float32(2 * (2 / np.pi) ** 0.5), np.float32(0.044715)  # of gelu
INFINITE = np.float32(np.inf)
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)  # their sum is ln 2


@njit(cache=True)
def exp(x):
    """Return e to the x, float32, within two units in the last place; x at most 88, below -87 about 0.

    A vector loop may hold it: no branch, no call. x = n ln 2 + r, and e^r is a polynomial.
    Source of the polynomial: Cephes `expf`.
    """
    x = min(max(x, np.float32(-87)), np.float32(88))
    n = np.floor(x * LOG2_E + np.float32(0.5))
    r = x - n * LN2_HIGH - n * LN2_LOW
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + np.float32(1)
    return p * bits_to_float(np.uint32(np.int32(np.int32(n) + np.int32(127))) << np.uint32(23))


@njit(cache=True, fastmath=IN_ANY_ORDER)
def normalize(x, weight, eps, out):
    """out = x / rms(x) * weight, float32 [n]; out may be x."""
    total = np.float32(0)
    for i in range(x.size):
        total += x[i] * x[i]
    scale = np.float32(1) / np.sqrt(total / np.float32(x.size) + eps)
    for i in range(x.size):
        out[i] = x[i] * scale * weight[i]


@njit(cache=True)
def add(x, delta):
    """x += delta, float32 [n]."""
    for i in range(x.size):
        x[i] += delta[i]


@njit(cache=True, fastmath=IN_ANY_ORDER)
def rotate(x, cos, sin, halves):
    """Rotate the pairs of one head in place; x float32 [head_dim], cos and sin [head_dim / 2]."""
    half = cos.size
    if halves:
        for i in range(half):
            a, b = x[i], x[half + i]
            x[i], x[half + i] = a * cos[i] - b * sin[i], a * sin[i] + b * cos[i]
    else:
        for i in range(half):
            a, b = x[2 * i], x[2 * i + 1]
            x[2 * i], x[2 * i + 1] = a * cos[i] - b * sin[i], a * sin[i] + b * cos[i]


@njit(cache=True)
def fill_angles(position, frequencies, factor, cos, sin):
    """Fill cos and sin, float32 [head_dim / 2], for one position."""
    for i in range(frequencies.size):
        angle = position * frequencies[i]
        cos[i], sin[i] = np.float32(factor * np.cos(angle)), np.float32(factor * np.sin(angle))


@njit(cache=True, error_model="numpy")
def silu_times(gate, up):
    """gate = silu(gate) * up, float32 [n].

    In place: a third array might overlap one of the two, and then the loop runs without vectors.
    """
    for i in range(gate.size):
        gate[i] = gate[i] / (np.float32(1) + exp(-gate[i])) * up[i]


@njit(cache=True, error_model="numpy")
def gelu_times(gate, up):
    """gate = gelu(gate) * up, float32 [n]; (1 + tanh(z)) / 2 is 1 / (1 + exp(-2 z))."""
    for i in range(gate.size):
        z = TWICE_ROOT * (gate[i] + CUBIC * gate[i] * gate[i] * gate[i])
        gate[i] = gate[i] / (np.float32(1) + exp(-z)) * up[i]


@njit(cache=True, error_model="numpy")
def clamped_silu_times(gate, up):
    """gate = clamped_swiglu(gate, up), float32 [n]."""
    for i in range(gate.size):
        g, u = min(gate[i], CLAMPED_LIMIT), min(max(up[i], -CLAMPED_LIMIT), CLAMPED_LIMIT)
        gate[i] = g / (np.float32(1) + exp(-CLAMPED_SLOPE * g)) * (u + np.float32(1))


@njit(cache=True)
def gate_times(kind, gate, up):
    """gate = gated(gate, up), float32 [n]; `kind` is the place of the family's gate in GATE_KINDS."""
    if kind == SILU:
        silu_times(gate, up)
    elif kind == GELU:
        gelu_times(gate, up)
    else:
        clamped_silu_times(gate, up)


@njit(cache=True)
def add_times(x, delta, factor):
    """x += factor * delta, float32 [n]."""
    for i in range(x.size):
        x[i] += factor * delta[i]


@njit(cache=True, error_model="numpy")
def soften(x, cap):
    """x = softcap(x, cap), float32 [n], in place."""
    for i in range(x.size):
        z = np.float32(2) * x[i] / cap
        x[i] = cap - np.float32(2) * cap / (exp(z) + np.float32(1))


@njit(cache=True)
def top_experts(scores, chosen, shares):
    """Fill chosen, int64 [n_used], with the experts of the highest scores, and shares, float32 likewise.

    Of equals the first comes first. Scores that are no numbers choose some expert, but one that is there.
    """
    for place in range(chosen.size):
        best, largest = 0, -INFINITE
        for expert in range(scores.size):
            if scores[expert] > largest and not taken(chosen, place, expert):
                best, largest = expert, scores[expert]
        chosen[place], shares[place] = best, scores[best]
    total = softmax_parts(shares)
    for place in range(shares.size):
        shares[place] /= total


@njit(cache=True)
def taken(chosen, n, expert):
    """Is an expert among the first n chosen?"""
    found = False
    for place in range(n):
        found |= chosen[place] == expert
    return found


# --- Softmax ----------------------------------------------------------------------------------------------


@njit(cache=True, fastmath=IN_ANY_ORDER)
def softmax_parts(scores):
    """Turn scores, float32 [n], into exp(score - largest); return the sum of these."""
    largest = -INFINITE
    for s in range(scores.size):
        largest = max(largest, scores[s])
    total = np.float32(0)
    for s in range(scores.size):
        scores[s] = exp(scores[s] - largest)
        total += scores[s]
    return total
