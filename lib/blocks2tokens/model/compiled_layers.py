"""The small parts of a layer, compiled, in place: what `layers`, `rope` and `attention` define.

normalize       x / rms(x) * weight
rotate          pairs by their angles; adjacent or halves
silu_times      gate = silu(gate) * up, and the gates of other families: `gate_times` knows them all
top_experts     the experts with the highest scores, and their shares
attend_head     one query of one head over its keys and values: scores, softmax, weighted sum

Its keys and values may be float32, or float16 kept as uint16: `as_float` knows both. The engine's own cache
is read in tiles: `attention_tile`.
Compiled code checks nothing: `Transformer` has checked all sizes.
"""

import numpy as np
from numba import njit, types
from numba.extending import overload

from blocks2tokens.formats.compiled import bits_to_float, half_to_float
from blocks2tokens.model.layers import CLAMPED_LIMIT, CLAMPED_SLOPE

IN_ANY_ORDER = {"reassoc", "contract", "nsz"}
LOG2_E = np.float32(1.442695041)
GATE_KINDS = ("silu", "gelu", "clamped")
SILU, GELU, CLAMPED = range(3)
TWICE_ROOT, CUBIC = np.float32(2 * (2 / np.pi) ** 0.5), np.float32(0.044715)  # of gelu
UNCAPPED, INFINITE = np.float32(0), np.float32(np.inf)
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


# --- Numbers in a cache -----------------------------------------------------------------------------------


def as_float(value):
    """Return a number of a cache as float32: a float32, or the bits of a float16."""


@overload(as_float)
def choose_as_float(value):
    if value == types.uint16:
        return lambda value: half_to_float(value)
    return lambda value: value


# --- Attention --------------------------------------------------------------------------------------------


@njit(cache=True, fastmath=IN_ANY_ORDER)
def dot_key(q, key):
    total = np.float32(0)
    for i in range(q.size):
        total += q[i] * as_float(key[i])
    return total


@njit(cache=True, fastmath=IN_ANY_ORDER)
def softmax_parts(scores, sink=-INFINITE):
    """Turn scores, float32 [n], into exp(score - largest); return the sum of these and of the sink's."""
    largest = sink
    for s in range(scores.size):
        largest = max(largest, scores[s])
    total = exp(sink - largest)
    for s in range(scores.size):
        scores[s] = exp(scores[s] - largest)
        total += scores[s]
    return total


@njit(cache=True, fastmath=IN_ANY_ORDER)
def add_values(weights, values, out):
    """out += the weighted sum of values, [n, head_dim]; four at a time, for fewer turns through memory."""
    n = weights.size // 4 * 4
    for s in range(0, n, 4):
        w0, w1, w2, w3 = weights[s], weights[s + 1], weights[s + 2], weights[s + 3]
        v0, v1, v2, v3 = values[s], values[s + 1], values[s + 2], values[s + 3]
        for i in range(out.size):
            out[i] += (w0 * as_float(v0[i]) + w1 * as_float(v1[i])) + (
                w2 * as_float(v2[i]) + w3 * as_float(v3[i])
            )
    for s in range(n, weights.size):
        for i in range(out.size):
            out[i] += weights[s] * as_float(values[s, i])


@njit(cache=True)
def attend_head(q, keys, values, scale, scores, out, softcap=UNCAPPED, sink=-INFINITE):
    """Fill out, float32 [head_dim], with the attended values of one query.

    q float32 [head_dim]; keys and values [n, head_dim], all of which the query sees; scores: room for n.
    softcap 0: scores stay as they are. The sink is one score more, without a value.
    """
    n = keys.shape[0]
    for s in range(n):
        scores[s] = dot_key(q, keys[s]) * scale
    if softcap:
        soften(scores[:n], softcap)
    total = softmax_parts(scores[:n], sink)
    for i in range(out.size):
        out[i] = 0
    add_values(scores[:n], values, out)
    for i in range(out.size):
        out[i] /= total
