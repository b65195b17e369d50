"""Solutions of lesson 06."""

import numpy as np

from blocks2tokens.formats import iq4_nl, mxfp4


def nearest_codes(x, scale, nmax):
    return np.clip(np.rint(x / scale), -nmax, nmax - 1)


def best_scale(x, weights, codes):
    return np.sum(weights * x * codes) / np.sum(weights * codes * codes)


def symmetric_search(x, weights, nmax):
    largest = x[abs(x).argmax()]
    if largest == 0:
        return np.float32(0), np.zeros_like(x)
    least = np.inf
    for t in range(-9, 10):
        q = nearest_codes(x, -largest / (nmax + 0.1 * t), nmax)
        s = best_scale(x, weights, q)
        error = np.sum(weights * (s * q - x) ** 2)
        if error < least:
            least, scale, codes = error, s, q
    return scale, codes


def scale_and_minimum(x, weights, codes):
    W, X, Q = np.sum(weights), np.sum(weights * x), np.sum(weights * codes)
    QQ, QX = np.sum(weights * codes * codes), np.sum(weights * codes * x)
    D = W * QQ - Q * Q
    scale, minimum = (W * QX - X * Q) / D, (QQ * X - Q * QX) / D
    if minimum > 0:
        return QX / QQ, np.float32(0)
    return scale, minimum


def asymmetric_search(x, weights):
    minimum, high = min(x.min(), np.float32(0)), x.max()
    if high == minimum:
        return np.float32(0), -minimum, np.zeros_like(x)
    scale = (high - minimum) / 15
    codes = np.clip(np.rint((x - minimum) / scale), 0, 15)
    least = np.sum(weights * (scale * codes + minimum - x) ** 2)
    for t in range(21):
        inverse = (14 + 0.1 * t) / (high - minimum)
        q = np.clip(np.rint(inverse * (x - minimum)), 0, 15)
        s, m = scale_and_minimum(x, weights, q)
        error = np.sum(weights * (s * q + m - x) ** 2)
        if error < least:
            least, scale, minimum, codes = error, s, m, q
    return scale, -minimum, codes


def dequantize_iq4_nl(blocks):
    codes = np.concatenate([blocks["qs"] & 15, blocks["qs"] >> 4], axis=1)
    return blocks["d"].astype(np.float32)[:, None] * iq4_nl.VALUES[codes]


def dequantize_mxfp4(blocks):
    codes = np.concatenate([blocks["qs"] & 15, blocks["qs"] >> 4], axis=1)
    scale = np.ldexp(np.float32(1), blocks["e"].astype(np.int32) - 128)
    return scale[:, None] * mxfp4.VALUES[codes]
