"""An engine as a learner may end with: a GGUF file in, text out, weights multiplied as they lie in the file.

path --read_header--> metadata, tensors --mapped--> blocks --fused products--> logits --speak--> ids

lesson 07    the header                 lessons 18    words, merged
01 to 05     a block unpacked           19, 20, 21    norm, rotation, gate, attention, layer
16, 17       unpack a block once, multiply it with all rows, share the rows of a matrix among the cores
"""

import mmap
import struct
from collections import namedtuple
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
from numba import get_num_threads, njit, prange
from tokenizers import Regex, pre_tokenizers

# ---- The file -------------------------------------------------------------------------------------------

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
BLOCKS = {  # ggml type: format, weights of a block, bytes of a block
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    8: ("Q8_0", 32, 34),
    12: ("Q4_K", 256, 144),
    14: ("Q6_K", 256, 210),
}


def read_string(buffer, at):
    (length,) = struct.unpack_from("<Q", buffer, at)
    end = at + 8 + length
    return buffer[at + 8 : end].decode(), end


def read_value(buffer, kind, at):
    if kind == STRING:
        return read_string(buffer, at)
    if kind == ARRAY:
        kind, count = struct.unpack_from("<IQ", buffer, at)
        values, at = [], at + 12
        for _ in range(count):
            value, at = read_value(buffer, kind, at)
            values.append(value)
        return values, at
    code = "<" + NUMBERS[kind]
    return struct.unpack_from(code, buffer, at)[0], at + struct.calcsize(code)


def read_header(buffer):
    """Return {key: value} and {name: (shape, format, first byte, byte behind the last)}."""
    n_tensors, n_keys = struct.unpack_from("<QQ", buffer, 8)
    metadata, infos, tensors, at = {}, [], {}, 24
    for _ in range(n_keys):
        key, at = read_string(buffer, at)
        (kind,) = struct.unpack_from("<I", buffer, at)
        metadata[key], at = read_value(buffer, kind, at + 4)
    for _ in range(n_tensors):
        name, at = read_string(buffer, at)
        (n,) = struct.unpack_from("<I", buffer, at)
        *ne, kind, offset = struct.unpack_from(f"<{n}QIQ", buffer, at + 4)
        infos.append((name, tuple(reversed(ne)), kind, offset))
        at += 16 + 8 * n
    alignment = metadata.get("general.alignment", 32)
    start = -(-at // alignment) * alignment
    for name, shape, kind, offset in infos:
        fmt, size, n_bytes = BLOCKS[kind]
        first = start + offset
        tensors[name] = shape, fmt, first, first + int(np.prod(shape)) // size * n_bytes
    return metadata, tensors


# ---- A block unpacked: raw uint8 [row bytes], from byte `at` on, into tile float32 [weights] ------------
# Slices first: their places count from 0, and the compiler makes vector instructions of such loops.

HALF = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)  # every float16, decoded


@njit(cache=True)
def half(raw, at):
    return HALF[np.int64(raw[at]) | np.int64(raw[at + 1]) << 8]


@njit(cache=True)
def unpack_f16(raw, at, tile):
    codes = raw[at : at + 2 * tile.size]
    for i in range(tile.size):
        tile[i] = half(codes, 2 * i)


@njit(cache=True)
def unpack_q8_0(raw, at, tile):
    d, codes = half(raw, at), raw[at + 2 : at + 34]
    for i in range(32):
        tile[i] = d * np.float32(np.int8(codes[i]))


@njit(cache=True)
def unpack_q4_0(raw, at, tile):
    d, qs = half(raw, at), raw[at + 2 : at + 18]
    for i in range(16):
        byte = np.int32(qs[i])
        tile[i], tile[16 + i] = d * np.float32((byte & 15) - 8), d * np.float32((byte >> 4) - 8)


@njit(cache=True)
def unpack_q4_1(raw, at, tile):
    d, m, qs = half(raw, at), half(raw, at + 2), raw[at + 4 : at + 20]
    for i in range(16):
        byte = np.int32(qs[i])
        tile[i], tile[16 + i] = d * np.float32(byte & 15) + m, d * np.float32(byte >> 4) + m


@njit(cache=True)
def scale_and_minimum(raw, at, j):
    if j < 4:
        return raw[at + j] & 63, raw[at + j + 4] & 63
    low = raw[at + j + 4]
    return (low & 15) | (raw[at + j - 4] >> 6) << 4, (low >> 4) | (raw[at + j] >> 6) << 4


@njit(cache=True)
def unpack_q4_k(raw, at, tile):
    d, dmin = half(raw, at), half(raw, at + 2)
    for j in range(8):
        sc, m = scale_and_minimum(raw, at + 4, j)
        scale, minimum = d * np.float32(sc), dmin * np.float32(m)
        first, shift = at + 16 + 32 * (j // 2), 4 * (j % 2)
        qs, out = raw[first : first + 32], tile[32 * j : 32 * j + 32]
        for i in range(32):
            out[i] = scale * np.float32((np.int32(qs[i]) >> shift) & 15) - minimum


@njit(cache=True)
def unpack_q6_k(raw, at, tile):
    d = half(raw, at + 208)
    for s in range(16):
        scale = d * np.float32(np.int8(raw[at + 192 + s]))
        part, quarter = s // 8, s % 8 // 2
        low = at + 64 * part + 32 * (quarter % 2) + 16 * (s % 2)
        high = at + 128 + 32 * part + 16 * (s % 2)
        ql, qh, out = raw[low : low + 16], raw[high : high + 16], tile[16 * s : 16 * s + 16]
        for i in range(16):
            nibble = (np.int32(ql[i]) >> 4 * (quarter // 2)) & 15
            pair = (np.int32(qh[i]) >> 2 * quarter) & 3
            out[i] = scale * np.float32((nibble | pair << 4) - 32)


# ---- Products -------------------------------------------------------------------------------------------


def compiled(unpack, size, n_bytes):
    """Return two functions for a format: rows -> weights, and x, rows -> x @ weights.T."""

    @njit(cache=True)
    def decode(raw, out):
        for n in range(len(raw)):
            for b in range(out.shape[1] // size):
                unpack(raw[n], b * n_bytes, out[n, b * size : (b + 1) * size])

    @njit(cache=True, parallel=True, fastmath={"reassoc", "contract", "nsz"})
    def multiply(x, raw, out, tiles):
        N, n_workers = len(raw), len(tiles)
        for worker in prange(n_workers):
            tile = tiles[worker, :size]
            for n in range(worker * N // n_workers, (worker + 1) * N // n_workers):
                out[:, n] = 0
                for b in range(x.shape[1] // size):
                    unpack(raw[n], b * n_bytes, tile)
                    for t in range(len(x)):
                        total, part = np.float32(0), x[t, b * size : (b + 1) * size]
                        for i in range(size):
                            total += tile[i] * part[i]
                        out[t, n] += total

    return decode, multiply


CODE = {
    "F16": compiled(unpack_f16, 64, 128),
    "Q8_0": compiled(unpack_q8_0, 32, 34),
    "Q4_0": compiled(unpack_q4_0, 32, 18),
    "Q4_1": compiled(unpack_q4_1, 32, 20),
    "Q4_K": compiled(unpack_q4_k, 256, 144),
    "Q6_K": compiled(unpack_q6_k, 256, 210),
}
Matrix = namedtuple("Matrix", "raw format K")  # uint8 [N, row bytes]; K weights in a row
TILES = np.empty((4 * get_num_threads(), 256), np.float32)


def product(x, w):
    """Return x @ w.T, float32 [T, N]."""
    out = np.empty((len(x), len(w.raw)), np.float32)
    CODE[w.format][1](np.ascontiguousarray(x, np.float32), w.raw, out, TILES)
    return out


def decoded(w, rows=slice(None)):
    """Return rows of a matrix, float32 [n, K]."""
    raw = w.raw[rows]
    out = np.empty((len(raw), w.K), np.float32)
    CODE[w.format][0](raw, out)
    return out


# ---- The pass -------------------------------------------------------------------------------------------


def rms_norm(x, weight, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(eps)) * weight


def rotate(x, cos, sin):
    """Turn pairs (2i, 2i + 1); x [T, heads, head_dim], cos and sin [T, 1, head_dim / 2]."""
    a, b = x[..., ::2], x[..., 1::2]
    return np.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(x.shape)


def swiglu(gate, up):
    return gate / (1 + np.exp(-gate)) * up


def attend(q, keys, values):
    """Return [T, n_heads * head_dim]; q [T, n_heads, d] asks keys and values [n_kv_heads, S, d]."""
    T, _, d = q.shape
    n_kv_heads, S, _ = keys.shape
    q = q.reshape(T, n_kv_heads, -1, d).transpose(1, 2, 0, 3)  # [n_kv_heads, group, T, d]
    scores = q @ keys[:, None].swapaxes(2, 3) * np.float32(d**-0.5)  # [n_kv_heads, group, T, S]
    if T > 1:
        scores[..., np.arange(S) > np.arange(S - T, S)[:, None]] = -np.inf
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    found = weights / weights.sum(axis=-1, keepdims=True) @ values[:, None]
    return found.transpose(2, 0, 1, 3).reshape(T, -1)


# ---- Text -----------------------------------------------------------------------------------------------

WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # GPT-2's
CUTS = {"gpt-2": (WORDS,), "smollm": (r"\p{N}", WORDS)}  # tokenizer.ggml.pre


def bpe(parts, ranks):
    """Join neighbours, the pair of the lowest rank first, until none has a rank."""
    while known := [pair for pair in pairwise(parts) if pair in ranks]:
        first, i, joined = min(known, key=ranks.get), 0, []
        while i < len(parts):
            step = 2 if tuple(parts[i : i + 2]) == first else 1
            joined.append("".join(parts[i : i + step]))
            i += step
        parts = joined
    return parts


class Vocabulary:
    def __init__(self, metadata):
        tokens, merges = (metadata[f"tokenizer.ggml.{part}"] for part in ("tokens", "merges"))
        self.ids = {token: i for i, token in enumerate(tokens)}
        self.ranks = {tuple(merge.split(" ")): rank for rank, merge in reversed([*enumerate(merges)])}
        cuts = [pre_tokenizers.Split(Regex(cut), "isolated") for cut in CUTS[metadata["tokenizer.ggml.pre"]]]
        spelled = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        self.words = pre_tokenizers.Sequence([*cuts, spelled])
        self.end = metadata.get("tokenizer.ggml.eos_token_id")

    def encode(self, text):
        words = [word for word, _ in self.words.pre_tokenize_str(text)]
        return [self.ids[part] for word in words for part in bpe(tuple(word), self.ranks)]


# ---- All of it ------------------------------------------------------------------------------------------


class Engine:
    """A llama whose matrices stay in the mapped file, as blocks."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.metadata, self.tensors = read_header(self.data)
        found = {key.removeprefix("llama."): value for key, value in self.metadata.items()}
        n_heads = found["attention.head_count"]
        self.n_kv_heads = found.get("attention.head_count_kv", n_heads)
        self.head_dim = found.get("attention.key_length", found["embedding_length"] // n_heads)
        self.eps = found["attention.layer_norm_rms_epsilon"]
        pairs = np.arange(self.head_dim // 2)
        self.frequencies = found.get("rope.freq_base", 10_000.0) ** (-2 * pairs / self.head_dim)
        w = {name.removesuffix(".weight"): self.weights(name) for name in self.tensors}
        self.embedding, self.output_norm = w["token_embd"], w["output_norm"]
        self.output = w.get("output", self.embedding)
        starts = [f"blk.{i}." for i in range(found["block_count"])]
        layers = [{n.removeprefix(s): w[n] for n in w if n.startswith(s)} for s in starts]
        self.layers = [SimpleNamespace(**layer) for layer in layers]
        self.vocabulary = Vocabulary(self.metadata)

    def weights(self, name):
        """Return a tensor as it lies in the file: a Matrix, or a vector of float32."""
        shape, fmt, first, behind = self.tensors[name]
        raw = np.frombuffer(self.data, np.uint8, behind - first, first)
        return Matrix(raw.reshape(shape[0], -1), fmt, shape[1]) if len(shape) == 2 else raw.view(np.float32)

    def tensor(self, name):
        w = self.weights(name)
        return decoded(w) if isinstance(w, Matrix) else w.copy()

    def tokenize(self, text):
        return self.vocabulary.encode(text)

    def begin(self, capacity):
        """Make an empty cache: keys and values of each layer, [2, n_kv_heads, capacity, head_dim]."""
        shape = len(self.layers), 2, self.n_kv_heads, capacity, self.head_dim
        self.cache = np.zeros(shape, np.float32)

    def forward(self, ids, position, last=False):
        """Return the logits behind each of ids, or behind the last alone, float32 [T or 1, vocab]."""
        T, end = len(ids), position + len(ids)
        angles = np.arange(position, end)[:, None, None] * self.frequencies
        turns = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        x = decoded(self.embedding, ids)  # [T, dim]
        for w, cache in zip(self.layers, self.cache, strict=True):
            h = rms_norm(x, w.attn_norm, self.eps)
            q, k, v = (product(h, m).reshape(T, -1, self.head_dim) for m in (w.attn_q, w.attn_k, w.attn_v))
            cache[:, :, position:end] = rotate(k, *turns).swapaxes(0, 1), v.swapaxes(0, 1)
            x = x + product(attend(rotate(q, *turns), *cache[:, :, :end]), w.attn_output)
            h = rms_norm(x, w.ffn_norm, self.eps)
            x = x + product(swiglu(product(h, w.ffn_gate), product(h, w.ffn_up)), w.ffn_down)
        x = x[-1:] if last else x
        return product(rms_norm(x, self.output_norm, self.eps), self.output)

    def logits(self, ids):
        self.begin(len(ids))
        return self.forward(ids, 0)

    def generate(self, ids, n):
        """Yield up to n ids, each the most likely."""
        self.begin(len(ids) + n)
        new, position = list(ids), 0
        for _ in range(n):
            token = int(self.forward(new, position, last=True)[0].argmax())
            if token == self.vocabulary.end:
                return
            yield token
            position, new = position + len(new), [token]


def load(path):
    return Engine(path)
