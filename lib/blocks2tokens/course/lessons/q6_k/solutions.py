"""Solutions of lesson 05."""

import numpy as np


def q6_k_element(raw, i):
    half, rest = divmod(i, 128)
    quarter, l = divmod(rest, 32)
    low = int(raw[64 * half + 32 * (quarter % 2) + l]) >> 4 * (quarter // 2) & 15
    high = int(raw[128 + 32 * half + l]) >> 2 * quarter & 3
    scale = raw[192:208].view(np.int8)[i // 16]
    d = raw[208:210].view(np.float16).astype(np.float32)[0]
    return d * scale * ((low | high << 4) - 32)


def q6_k_codes(ql, qh):
    ql, qh = ql.reshape(-1, 2, 64), qh.reshape(-1, 2, 1, 32)  # [n, half, ...]
    low = np.concatenate([ql & 15, ql >> 4], axis=2)  # [n, half, 128]
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    high = ((qh >> shifts) & 3).reshape(-1, 2, 128)
    return (low | high << 4).astype(np.int8).reshape(-1, 256) - np.int8(32)


def dequantize_q6_k(blocks):
    scales = blocks["d"].astype(np.float32)[:, None] * blocks["scales"]  # [n, 16]
    q = q6_k_codes(blocks["ql"], blocks["qh"]).reshape(-1, 16, 16)
    return (scales[:, :, None] * q).reshape(-1, 256)


def pack_q6_k(codes):
    quarters = codes.reshape(2, 4, 32)  # [half, quarter, 32]
    low, high = quarters & 15, quarters >> 4
    ql = np.concatenate([low[:, 0] | low[:, 2] << 4, low[:, 1] | low[:, 3] << 4], axis=1)
    qh = high[:, 0] | high[:, 1] << 2 | high[:, 2] << 4 | high[:, 3] << 6
    return ql.reshape(-1), qh.reshape(-1)


def dequantize_q2_k(blocks):
    d = blocks["d"].astype(np.float32)[:, None]
    dmin = blocks["dmin"].astype(np.float32)[:, None]
    scales, minimums = d * (blocks["scales"] & 15), dmin * (blocks["scales"] >> 4)  # [n, 16]
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    q = (blocks["qs"].reshape(-1, 2, 1, 32) >> shifts) & 3  # [n, half, quarter, 32]
    weights = scales[:, :, None] * q.reshape(-1, 16, 16) - minimums[:, :, None]
    return weights.reshape(-1, 256)


def q3_k_scales(scales):
    low = np.concatenate([scales[:, :8] & 15, scales[:, :8] >> 4], axis=1)
    high = np.concatenate([scales[:, 8:] >> shift & 3 for shift in (0, 2, 4, 6)], axis=1)
    return (low | high << 4).astype(np.int8) - np.int8(32)


def dequantize_q3_k(blocks):
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    low = ((blocks["qs"].reshape(-1, 2, 1, 32) >> shifts) & 3).reshape(-1, 256)
    third = (blocks["hmask"][:, None] >> np.arange(8, dtype=np.uint8)[:, None]) & 1  # [n, 8, 32]
    q = (low | third.reshape(-1, 256) << 2).astype(np.int8) - np.int8(4)
    scales = blocks["d"].astype(np.float32)[:, None] * q3_k_scales(blocks["scales"])
    return (scales[:, :, None] * q.reshape(-1, 16, 16)).reshape(-1, 256)
