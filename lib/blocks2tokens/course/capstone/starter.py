"""My engine: a GGUF file in, text out.

    path --read_header--> metadata, tensors --decode_rows--> weights --forward_pass--> logits --speak--> ids

The judge calls load(path), and of what that returns:

    .tensor(name)       a matrix or vector decoded, float32 [N, K] or [K], bit for bit as ggml decodes it
    .tokenize(text)     the ids of a text without special tokens
    .logits(ids)        the logits behind each of ids, float32 [T, vocab], nothing before them
    .generate(ids, n)   up to n ids, each the most likely; fewer if the model ends the text

A function below that is nothing but `return ...` is lent to you: what you passed in its lesson stands there
while the file runs, or the engine's. Write them, one by one. Everything may change but load and the four.
"""

import mmap
import struct  # noqa: F401  read_header will unpack with it
from types import SimpleNamespace

import numpy as np
from tokenizers import Regex, pre_tokenizers

# ---- The file -------------------------------------------------------------------------------------------

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
    """Return a string and the place behind it. Lesson 07."""
    return ...


def read_value(buffer, value_type, at):
    """Return a number, a bool or a string, and the place behind it. Lesson 07."""
    return ...


def align(offset, alignment):
    """Return the next multiple. Lesson 07."""
    return ...


def read_header(buffer):
    """Return {key: value} and {name: (shape, format, first byte, byte behind the last)}. Lesson 33."""
    return ...


# ---- Blocks to weights ----------------------------------------------------------------------------------


def decode_q8_0(raw):
    """Return the weights, float32 [32 n]; raw uint8 [34 n]. Lesson 01."""
    return ...


def decode_q4_0(blocks):
    """Return the weights, float32 [n, 32]; fields d, qs. Lesson 01."""
    return ...


def decode_q4_1(blocks):
    """Return the weights, float32 [n, 32]; fields d, m, qs. Lesson 02."""
    return ...


def dequantize_q4_k(blocks):
    """Return the weights, float32 [n, 256]; fields d, dmin, scales, qs. Lesson 03."""
    return ...


def dequantize_q6_k(blocks):
    """Return the weights, float32 [n, 256]; fields ql, qh, scales, d. Lesson 05."""
    return ...


DECODERS = {  # a block's dtype, and what decodes such blocks
    "F32": (np.dtype("<f4"), np.copy),
    "F16": (np.dtype("<f2"), lambda blocks: blocks.astype(np.float32)),
    "Q8_0": (np.dtype("u1"), decode_q8_0),
    "Q4_0": (np.dtype([("d", "<f2"), ("qs", "u1", 16)]), decode_q4_0),
    "Q4_1": (np.dtype([("d", "<f2"), ("m", "<f2"), ("qs", "u1", 16)]), decode_q4_1),
    "Q4_K": (
        np.dtype([("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("qs", "u1", 128)]),
        dequantize_q4_k,
    ),
    "Q6_K": (
        np.dtype([("ql", "u1", 128), ("qh", "u1", 64), ("scales", "i1", 16), ("d", "<f2")]),
        dequantize_q6_k,
    ),
}


def decode_rows(raw, name, shape, rows, decoders):
    """Return some rows of a matrix, float32 [n, K]; raw uint8 [bytes]. Lesson 33."""
    return ...


# ---- The pass -------------------------------------------------------------------------------------------


def product(x, w):
    """Return x @ w.T, float32 [T, out]."""
    return x @ w.T


def rms_norm(x, weight, eps):
    """Return each row at unit mean square, times weight. Lesson 19."""
    return ...


def rope_angles(positions, head_dim, theta):
    """Return the angle of each pair at each position, [T, head_dim / 2]. Lesson 19."""
    return ...


def rotate_adjacent(x, cos, sin):
    """Return pairs (2i, 2i + 1) of each head turned; x [T, heads, head_dim]. Lesson 19."""
    return ...


def swiglu(gate, up):
    """Return silu(gate) * up. Lesson 19."""
    return ...


def causal_weights(scores):
    """Return the weights of the last T of S tokens, [T, S]. Lesson 20."""
    return ...


def self_attention(h, w, c, keys, values, position):
    """Return what attention adds, [T, dim]; keep keys and values. Lesson 33."""
    return ...


def layer_forward(x, w, eps, attention, feed_forward):
    """Return the stream behind a layer, [T, dim]. Lesson 21."""
    return ...


def forward_pass(model, ids, position):
    """Return the logits behind each of ids, [T, vocab], which stand behind `position` tokens. Lesson 33."""
    return ...


def speak(forward, ids, n, end):
    """Return up to n ids, each the most likely, stopping before `end`. Lesson 33."""
    return ...


# ---- Text -----------------------------------------------------------------------------------------------

WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # GPT-2's
CUTS = {"gpt-2": (WORDS,), "smollm": (r"\p{N}", WORDS)}  # tokenizer.ggml.pre


def bpe(parts, ranks):
    """Return parts with neighbours joined, the pair of the lowest rank first. Lesson 18."""
    return ...


# ---- All of it ------------------------------------------------------------------------------------------


class Engine:
    """A llama whose matrices are decoded once, to float32: clear, and 32 bits for each weight."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.metadata, self.tensors = read_header(self.data)
        self.c, self.eps = self.config(), self.metadata["llama.attention.layer_norm_rms_epsilon"]
        w = {name.removesuffix(".weight"): self.tensor(name) for name in self.tensors}
        self.output_norm, self.output = w["output_norm"], w.get("output", w["token_embd"])
        starts = [f"blk.{i}." for i in range(self.c.n_layers)]
        self.layers = [{n.removeprefix(s): w[n] for n in w if n.startswith(s)} for s in starts]
        tokens, merges = (self.metadata[f"tokenizer.ggml.{part}"] for part in ("tokens", "merges"))
        self.ids = {token: i for i, token in enumerate(tokens)}
        self.ranks = {tuple(merge.split(" ")): rank for rank, merge in reversed([*enumerate(merges)])}
        cuts = [pre_tokenizers.Split(Regex(cut), "isolated") for cut in self.cuts()]
        spelled = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        self.words = pre_tokenizers.Sequence([*cuts, spelled])
        self.end = self.metadata.get("tokenizer.ggml.eos_token_id")

    def config(self):
        """Return the sizes of the model."""
        found = {key.removeprefix("llama."): value for key, value in self.metadata.items()}
        n_heads, dim = found["attention.head_count"], found["embedding_length"]
        return SimpleNamespace(
            n_layers=found["block_count"],
            n_kv_heads=found.get("attention.head_count_kv", n_heads),
            head_dim=found.get("attention.key_length", dim // n_heads),
            rope_theta=found.get("rope.freq_base", 10_000.0),
        )

    def cuts(self):
        """Return the patterns by which this vocabulary cuts a text into words."""
        return CUTS[self.metadata["tokenizer.ggml.pre"]]

    def rows(self, name, rows):
        """Return some rows of a tensor, float32; a vector is one row."""
        shape, fmt, first, behind = self.tensors[name]
        raw = np.frombuffer(self.data, np.uint8, behind - first, first)
        return decode_rows(raw, fmt, shape if len(shape) == 2 else (1, *shape), rows, DECODERS)

    def tensor(self, name):
        """Return a tensor decoded, float32."""
        found = self.rows(name, slice(None))
        return found if len(self.tensors[name][0]) == 2 else found[0]

    def tokenize(self, text):
        """Return the ids of a text."""
        words = [word for word, _ in self.words.pre_tokenize_str(text)]
        return [self.ids[part] for word in words for part in bpe(tuple(word), self.ranks)]

    def embed(self, ids):
        """Return the rows of the embedding, [T, dim]; for forward_pass."""
        return self.rows("token_embd.weight", ids)

    def layer(self, i, x, position):
        """Return the stream behind layer i; for forward_pass."""
        keys, values = self.cache[i]

        def attention(h, w):
            return self_attention(h, w, self.c, keys, values, position)

        def feed_forward(h, w):
            return product(swiglu(product(h, w["ffn_gate"]), product(h, w["ffn_up"])), w["ffn_down"])

        return layer_forward(x, self.layers[i], self.eps, attention, feed_forward)

    def begin(self, capacity):
        """Make an empty cache for so many tokens."""
        shape = 2, self.c.n_kv_heads, capacity, self.c.head_dim
        self.cache = [np.zeros(shape, np.float32) for _ in self.layers]

    def logits(self, ids):
        """Return the logits behind each of ids, float32 [T, vocab]."""
        self.begin(len(ids))
        return forward_pass(self, ids, 0)

    def generate(self, ids, n):
        """Return up to n ids behind ids."""
        self.begin(len(ids) + n)
        return speak(lambda new, position: forward_pass(self, new, position), ids, n, self.end)


def load(path):
    """Return a model that is ready."""
    return Engine(path)
