"""Lesson 33, the capstone: the pieces that put the others together.

read_header      a file's bytes                       -> settings, {tensor: shape, format, first, behind}
decode_rows      raw, format, shape, rows, decoders   -> those rows, float32
self_attention   h, w, c, keys, values, position      -> what attention adds, [T, dim]; the cache is filled
forward_pass     model, ids, position                 -> logits [T, vocab]
speak            forward, ids, n, end                 -> up to n ids, each the most likely
"""

import struct
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace

import numpy as np

from blocks2tokens.course.check.exercise import Exercise, Mistake
from blocks2tokens.course.lessons.attention.exercises import causal_weights
from blocks2tokens.course.lessons.gguf.exercises import stored
from blocks2tokens.course.lessons.gguf.solutions import align, read_string, read_value
from blocks2tokens.course.lessons.layers.exercises import rope_angles
from blocks2tokens.formats import FORMATS
from blocks2tokens.model.layers import rms_norm, softmax
from blocks2tokens.model.rope import rotate_adjacent

ARRAY, ALIGNMENT = 9, "general.alignment"
BLOCKS = {  # ggml type: format, weights of a block, bytes of a block
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    8: ("Q8_0", 32, 34),
    12: ("Q4_K", 256, 144),
    14: ("Q6_K", 256, 210),
}


def product(x, w):
    """Return x @ w.T, float32 [T, out]."""
    return x @ w.T


# read_header: buffer -> {key: value}, {name: (shape, format, first byte, byte behind the last)}


def read_header(buffer):
    """Return {key: value} and {name: (shape, format, first byte, byte behind the last)} of a GGUF file."""
    # and in the engine: _read_tensors in gguf_file.py

    def any_value(value_type, at):
        if value_type != 9:
            return read_value(buffer, value_type, at)
        element_type, count = struct.unpack_from("<IQ", buffer, at)
        values, at = [], at + 12
        for _ in range(count):
            value, at = any_value(element_type, at)
            values.append(value)
        return values, at

    n_tensors, n_keys = struct.unpack_from("<QQ", buffer, 8)
    metadata, infos, at = {}, [], 24
    for _ in range(n_keys):
        key, at = read_string(buffer, at)
        (value_type,) = struct.unpack_from("<I", buffer, at)
        metadata[key], at = any_value(value_type, at + 4)
    for _ in range(n_tensors):
        name, at = read_string(buffer, at)
        (n,) = struct.unpack_from("<I", buffer, at)
        *ne, ggml_type, offset = struct.unpack_from(f"<{n}QIQ", buffer, at + 4)
        infos.append((name, tuple(reversed(ne)), ggml_type, offset))
        at += 16 + 8 * n
    start, tensors = align(at, metadata.get("general.alignment", 32)), {}
    for name, shape, ggml_type, offset in infos:
        fmt, block_size, block_bytes = BLOCKS[ggml_type]
        n_bytes = int(np.prod(shape)) // block_size * block_bytes
        tensors[name] = shape, fmt, start + offset, start + offset + n_bytes
    return metadata, tensors


def header(keys: dict[str, tuple[int, bytes]], tensors: list[tuple]) -> bytes:
    """Return the header of a file; tensors (name, ne, ggml type, offset), ne fastest first."""
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(keys))]
    parts += [stored(key) + struct.pack("<I", kind) + value for key, (kind, value) in keys.items()]
    for name, ne, ggml_type, offset in tensors:
        parts += [stored(name), struct.pack(f"<I{len(ne)}QIQ", len(ne), *ne, ggml_type, offset)]
    return b"".join(parts)


def header_cases():
    small = {"general.architecture": (8, stored("llama")), "llama.block_count": (4, struct.pack("<I", 1))}
    words = struct.pack("<IQ", 8, 3) + b"".join(map(stored, ("Ġthe", "é", "")))
    nested = struct.pack("<IQ", ARRAY, 2) + 2 * (struct.pack("<IQ", 5, 2) + struct.pack("<2i", 7, -7))
    arrays = {"tokenizer.ggml.tokens": (ARRAY, words), "llama.rope.pairs": (ARRAY, nested)}
    matrix, norm = ("blk.0.ffn_up.weight", [256, 3], 12, 64), ("output_norm.weight", [256], 0, 512)
    wide = {ALIGNMENT: (4, struct.pack("<I", 64))}
    return {
        "one matrix": (header(small, [("token_embd.weight", [64, 5], 8, 0)]) + bytes(400),),
        "arrays, an alignment of 64": (header(small | arrays | wide, [matrix, norm]) + bytes(4096),),
        "tensors whose order is not that of their offsets": (header(small, [norm, matrix]) + bytes(4096),),
        "no tensors": (header(arrays, []),),
    }


def header_with(
    buffer, shape=lambda ne: tuple(reversed(ne)), start=align, used_alignment=None, size=None, arrays=True
):
    """Return the right answer with a place for each mistake."""
    metadata, tensors = read_header(buffer)
    if not arrays:
        metadata = {k: v[0] if isinstance(v, list) else v for k, v in metadata.items()}
    end = _end_of(buffer)
    first_byte = start(end, used_alignment or metadata.get(ALIGNMENT, 32))
    base, found = align(end, metadata.get(ALIGNMENT, 32)), {}
    for name, (right, fmt, first, behind) in tensors.items():
        n_bytes = (size or (lambda shape, fmt, n: n))(right, fmt, behind - first)
        at = first - base + first_byte
        found[name] = shape(tuple(reversed(right))), fmt, at, at + n_bytes
    return metadata, found


def _end_of(buffer):
    """Return the byte behind a header that the cases above made."""
    body = buffer.rstrip(b"\0")
    return next(n for n in range(len(body), len(buffer) + 1) if _is_whole(buffer[:n]))


def _is_whole(buffer):
    try:
        read_header(buffer)
    except (struct.error, ValueError, KeyError):
        return False
    return True


READ_HEADER = Exercise(
    name="read_header",
    engine=read_header,
    cases=header_cases,
    parts=("keys", "tensors"),
    mistakes=(
        Mistake(
            partial(header_with, shape=tuple),
            "your shapes are as the file has them, the fastest dimension first: turned round, they are "
            "NumPy's, (out, in)",
        ),
        Mistake(
            partial(header_with, start=lambda at, alignment: 0),
            "your offsets count from byte 0 of the file: they count from where the data begins, behind the "
            "padding",
        ),
        Mistake(
            partial(header_with, start=lambda at, alignment: at),
            "the data does not begin where the header ends: it is padded to the alignment",
        ),
        Mistake(
            partial(header_with, used_alignment=32),
            "you pad to 32 whatever the file says: general.alignment is another one, if it is there",
        ),
        Mistake(
            partial(header_with, size=lambda shape, fmt, n: 4 * int(np.prod(shape))),
            "you count four bytes for each weight: so many blocks, so many bytes each, BLOCKS says how many",
        ),
        Mistake(
            partial(header_with, size=lambda shape, fmt, n: int(np.prod(shape))),
            "you count weights, not bytes: divide by the weights of a block, multiply by its bytes",
        ),
        Mistake(
            partial(header_with, arrays=False),
            "of an array you keep the first element: read `count` of them, and keep a list",
        ),
    ),
    hints=(
        "Three loops: keys, tensor infos, and over the infos again once you know where the data begins. "
        "read_string and read_value each tell you where to go on.",
        "An array is a type and a count, 12 bytes, then elements; an element may be an array: a function "
        "within yours, which calls itself. A tensor info is 16 + 8 n bytes behind its name.",
    ),
)


# decode_rows: raw uint8 [bytes], format, (N, K), rows, decoders -> float32 [n, K]


def decode_rows(raw, name, shape, rows, decoders):
    """Return rows of a matrix, float32 [n, K]; raw uint8 [bytes], rows a list of places or a slice."""
    # and in the engine: rows in matrix.py
    dtype, decode = decoders[name]
    chosen = raw.reshape(shape[0], -1)[rows]
    weights = decode(chosen.reshape(-1).view(dtype))
    return weights.reshape(-1, shape[1])


def _q8_0(raw):
    return FORMATS["Q8_0"].dequantize(raw)


def _structured(name):
    fmt = FORMATS[name]
    return fmt.block, lambda blocks: fmt.dequantize(blocks.view(np.uint8))


DECODERS = {
    "F16": (np.dtype("<f2"), lambda blocks: blocks.astype(np.float32)),
    "Q8_0": (np.dtype("u1"), _q8_0),
    "Q4_0": _structured("Q4_0"),
    "Q4_K": _structured("Q4_K"),
}


def rows_cases():
    def case(name, shape, rows, seed):
        x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
        return FORMATS[name].quantize(x).reshape(-1), name, shape, rows, DECODERS

    return {
        "Q4_0, all of 3 rows": case("Q4_0", (3, 64), slice(None), 0),
        "Q4_K, rows 4, 0, 4 of 6": case("Q4_K", (6, 512), [4, 0, 4], 1),
        "F16, row 2 of 4": case("F16", (4, 8), [2], 2),
        "Q8_0, rows 1 to 3 of 5": case("Q8_0", (5, 96), slice(1, 4), 3),
        "Q8_0, one row of 4096": case("Q8_0", (4096, 256), [7], 4),
    }


def rows_with(raw, name, shape, rows, decoders, order="C", turn=False, cast=False, bare=False, first=False):
    """Return the right answer with a place for each mistake."""
    dtype, decode = decoders[name]
    if bare:
        return raw.reshape(shape[0], -1)[rows]
    if cast:
        return decode_rows(raw, name, shape, rows, decoders).astype(np.float16).astype(np.float32)
    found = decode(raw.reshape(-1).view(dtype)).reshape(shape, order=order)
    if first:
        return found[: len(range(*rows.indices(shape[0])) if isinstance(rows, slice) else rows)]
    return found[rows].T if turn else found[rows]


DECODE_ROWS = Exercise(
    name="decode_rows",
    engine=decode_rows,
    cases=rows_cases,
    most_bytes=100_000,
    mistakes=(
        Mistake(
            partial(rows_with, order="F"),
            "you fill columns first: blocks lie along a row, one row after the other",
        ),
        Mistake(
            partial(rows_with, turn=True),
            "your answer is turned: [n, K], a row for each that was asked for",
        ),
        Mistake(
            partial(rows_with, bare=True),
            "those are the bytes of the rows: decoders[name] says how to see them as blocks, and what "
            "decodes blocks",
        ),
        Mistake(
            partial(rows_with, first=True),
            "you return as many rows as were asked for, but the first ones: index with `rows`",
        ),
        Mistake(
            partial(rows_with, cast=True),
            "your weights went through float16: scale times code has more digits than that. float32",
        ),
    ),
    hints=(
        "The N rows are equally long. So raw, with another shape, has a row of bytes for each: choose among "
        "those before you decode.",
        "decoders[name] is a pair: .view(dtype) of a flat array of bytes gives blocks, and the function "
        "makes weights of these, in whatever shape. What shape do you owe?",
    ),
)


# self_attention: h [T, dim], w, c, keys and values [n_kv_heads, capacity, head_dim], position -> [T, dim]


def self_attention(h, w, c, keys, values, position):
    """Return what attention adds, float32 [T, dim]; the T tokens stand behind `position` others."""
    # and in the engine: forward in model/forward.py
    T, end = len(h), position + len(h)
    q, k, v = (product(h, w[n]).reshape(T, -1, c.head_dim) for n in ("attn_q", "attn_k", "attn_v"))
    angles = rope_angles(np.arange(position, end), c.head_dim, c.rope_theta)
    turns = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    q, k = rotate_adjacent(q, *turns), rotate_adjacent(k, *turns)
    keys[:, position:end], values[:, position:end] = k.swapaxes(0, 1), v.swapaxes(0, 1)
    group, found = q.shape[1] // len(keys), []
    for head in range(q.shape[1]):
        scores = q[:, head] @ keys[head // group, :end].T * np.float32(c.head_dim**-0.5)
        found.append(causal_weights(scores) @ values[head // group, :end])
    return product(np.concatenate(found, axis=1), w["attn_output"])


def attention_cases():
    def case(T, position, n_heads, n_kv_heads, head_dim, seed):
        rng = np.random.default_rng(seed)
        dim, widths = 12, {"attn_q": n_heads, "attn_k": n_kv_heads, "attn_v": n_kv_heads}
        w = {name: 0.5 * rng.standard_normal((n * head_dim, dim)) for name, n in widths.items()}
        w["attn_output"] = rng.standard_normal((dim, n_heads * head_dim))
        shape = n_kv_heads, position + T + 3, head_dim
        before = np.arange(shape[1])[:, None] < position
        cache = (np.float32(rng.standard_normal(shape) * before) for _ in range(2))
        c = SimpleNamespace(head_dim=head_dim, rope_theta=100.0)
        h = rng.standard_normal((T, dim)).astype(np.float32)
        return h, {name: m.astype(np.float32) for name, m in w.items()}, c, *cache, position

    return {
        "4 tokens, the first ones": case(4, 0, 2, 2, 4, 0),
        "1 token behind 5": case(1, 5, 4, 2, 4, 1),
        "3 tokens behind 2, 6 heads share 2": case(3, 2, 6, 2, 8, 2),
    }


def attention_with(
    h, w, c, keys, values, position, start=None, turn=lambda q, k, v, r: (r(q), r(k), v), owner=None,
    scale=True, past=True, weigh=causal_weights, output=True, woven=False,
):  # fmt: skip
    """Return the right answer with a place for each mistake."""
    T, end = len(h), position + len(h)
    q, k, v = (product(h, w[n]).reshape(T, -1, c.head_dim) for n in ("attn_q", "attn_k", "attn_v"))
    at = np.arange(T) + (position if start is None else start)
    angles = rope_angles(at, c.head_dim, c.rope_theta)
    q, k, v = turn(q, k, v, lambda z: rotate_adjacent(z, np.cos(angles), np.sin(angles)).astype(np.float32))
    keys[:, position:end], values[:, position:end] = k.swapaxes(0, 1), v.swapaxes(0, 1)
    group, found = q.shape[1] // len(keys), []
    first = 0 if past else position
    for head in range(q.shape[1]):
        own = head // group if owner is None else owner(head, len(keys))
        scores = q[:, head] @ keys[own, first:end].T * np.float32(c.head_dim**-0.5 if scale else 1)
        found.append(weigh(scores) @ values[own, first:end])
    joined = np.stack(found, axis=2).reshape(T, -1) if woven else np.concatenate(found, axis=1)
    return product(joined, w["attn_output"]) if output else joined


SELF_ATTENTION = Exercise(
    name="self_attention",
    engine=self_attention,
    cases=attention_cases,
    mistakes=(
        Mistake(
            partial(attention_with, start=0),
            "your positions begin at 0 each time: the first of these tokens stands at `position`",
        ),
        Mistake(
            partial(attention_with, turn=lambda q, k, v, r: (q, k, v)),
            "nothing is rotated: queries and keys are turned by their position",
        ),
        Mistake(
            partial(attention_with, turn=lambda q, k, v, r: (r(q), k, v)),
            "the keys are not rotated: both are, and the cache keeps them turned",
        ),
        Mistake(
            partial(attention_with, turn=lambda q, k, v, r: (r(q), r(k), r(v))),
            "values are not rotated: what a token says does not depend on where it stands",
        ),
        Mistake(
            partial(attention_with, owner=lambda head, n: head % n),
            "neighbouring heads share keys: head h has keys h // group, not h % n_kv_heads",
        ),
        Mistake(
            partial(attention_with, scale=False),
            "the scores are not divided by the root of head_dim",
        ),
        Mistake(
            partial(attention_with, past=False),
            "your queries see the new tokens alone: what stands in the cache before `position` is the text "
            "so far",
        ),
        Mistake(
            partial(attention_with, weigh=softmax),
            "no token is hidden: causal_weights takes the scores of the last T of all tokens",
        ),
        Mistake(
            partial(attention_with, output=False),
            "attn_output is missing: the heads' findings are multiplied by it",
        ),
        Mistake(
            partial(attention_with, woven=True),
            "the heads are woven into each other: one head's numbers stand together, then the next one's",
        ),
    ),
    hints=(
        "Five steps: three products; two rotations; write into the cache; each head by itself; one product. "
        "Which of them know about `position`?",
        "Shapes: q [T, heads, head_dim] from reshape(T, -1, head_dim). The cache has heads first: swapaxes. "
        "A head's scores are [T, position + T], against all keys up to the last new one.",
    ),
    tolerance=1e-4,
)


# forward_pass: model, ids, position -> logits [T, vocab]


def forward_pass(model, ids, position):
    """Return the logits behind each of ids, float32 [T, vocab]; they stand behind `position` tokens."""
    # and in the engine: forward in model/forward.py
    x = model.embed(ids)
    for i in range(model.c.n_layers):
        x = model.layer(i, x, position)
    return product(rms_norm(x, model.output_norm, model.eps), model.output)


@dataclass
class ToyModel:
    """In a model's place: layers that mix the stream, each in its own way, by position."""

    seed: int
    n_layers: int = 3
    dim: int = 6
    vocab: int = 9
    c: SimpleNamespace = field(init=False)

    def __post_init__(self):
        rng = np.random.default_rng(self.seed)
        self.c, self.eps = SimpleNamespace(n_layers=self.n_layers), 1e-5
        self.table = rng.standard_normal((self.vocab, self.dim)).astype(np.float32)
        self.mixers = rng.standard_normal((self.n_layers, self.dim, self.dim)).astype(np.float32)
        self.output_norm = rng.uniform(0.5, 2, self.dim).astype(np.float32)
        self.output = rng.standard_normal((self.vocab, self.dim)).astype(np.float32)

    def embed(self, ids):
        return self.table[np.asarray(ids)]

    def layer(self, i, x, position):
        shift = np.float32(0.1) * (position + np.arange(len(x), dtype=np.float32))[:, None]
        return x + np.tanh(x @ self.mixers[i] + shift)


def pass_cases():
    return {
        "4 ids at the beginning": (ToyModel(0), [3, 0, 3, 8], 0),
        "1 id behind 7": (ToyModel(1), [5], 7),
        "2 ids behind 2, 5 layers": (ToyModel(2, n_layers=5), [1, 2], 2),
    }


def pass_with(model, ids, position, layers=range, norm=rms_norm, rows=slice(None), grows=False, at=None):
    """Return the right answer with a place for each mistake."""
    x = model.embed(ids)
    for n, i in enumerate(layers(model.c.n_layers)):
        x = model.layer(i, x, (position if at is None else at) + (n if grows else 0))
    return product(norm(x, model.output_norm, model.eps), model.output)[rows]


FORWARD_PASS = Exercise(
    name="forward_pass",
    engine=forward_pass,
    cases=pass_cases,
    mistakes=(
        Mistake(
            partial(pass_with, norm=lambda x, weight, eps: x),
            "the last norm is missing: output_norm, between the layers and the output",
        ),
        Mistake(
            partial(pass_with, norm=lambda x, weight, eps: rms_norm(x, np.ones_like(weight), eps)),
            "the last norm has weights: model.output_norm",
        ),
        Mistake(
            partial(pass_with, at=0),
            "every layer is told position 0: hand on `position`",
        ),
        Mistake(
            partial(pass_with, grows=True),
            "your position grows with the layers: all of them see the same tokens",
        ),
        Mistake(
            partial(pass_with, layers=lambda n: range(n - 1)),
            "the last layer is missing: range(n_layers) ends before n_layers by itself",
        ),
        Mistake(
            partial(pass_with, layers=lambda n: range(n)[::-1]),
            "your layers run from the last to the first",
        ),
        Mistake(
            partial(pass_with, rows=slice(-1, None)),
            "those are the logits behind the last id: a row for each of ids is wanted",
        ),
    ),
    hints=(
        "The stream starts as rows of the embedding, and each layer returns a new one. What stands between "
        "the last layer and the vocabulary?",
        "Three lines and a loop. The norm takes the stream, model.output_norm and model.eps; the product "
        "takes what comes out and model.output.",
    ),
    tolerance=1e-4,
)


# speak: forward, ids, n, end -> list of ids


def speak(forward, ids, n, end):
    """Return up to n ids behind ids, each the most likely, none from `end` on."""
    # and in the engine: generate in generate.py
    new, position, found = list(ids), 0, []
    while len(found) < n:
        logits = forward(new, position)
        position += len(new)
        new = [int(logits[-1].argmax())]
        if new[0] == end:
            break
        found += new
    return found


@dataclass
class Teller:
    """In the place of a forward pass: its logits depend on every token so far, and on where each stood.

    Position 0 begins a new text.
    """

    seed: int
    seen: list = field(default_factory=list)

    def __call__(self, ids, position):
        ids = [int(i) for i in ids]
        if position < 0 or position > len(self.seen):
            raise ValueError(f"position {position}, and {len(self.seen)} tokens have been read")
        self.seen = self.seen[:position] + ids
        sums = np.cumsum([(7 * i + 3 * at + self.seed) % 11 for at, i in enumerate(self.seen)])
        return np.sin(np.outer(sums[position:] + 1, np.arange(1, 12))).astype(np.float32)


def speak_cases():
    return {
        "3 ids, 5 new": (Teller(0), [4, 1, 7], 5, None),
        "1 id, 6 new": (Teller(3), [2], 6, None),
        "ended early": (Teller(0), [4, 1, 7], 8, speak(Teller(0), [4, 1, 7], 5, None)[3]),
        "ended at once": (Teller(5), [9, 9], 4, speak(Teller(5), [9, 9], 1, None)[0]),
    }


def speak_with(
    forward, ids, n, end, feed=lambda ids, found: found[-1:], move=len, with_end=False, shown=None, row=-1,
    stops=True, more=0,
):  # fmt: skip
    """Return the right ids with a place for each mistake."""
    new, position, found = list(ids), 0, []
    while len(found) < n + more:
        logits = forward(new, position)
        position += move(new)
        i = int(logits[row].argmax())
        if stops and i == end:
            found += [i] * with_end
            break
        found.append(i)
        new = feed(ids, found)
    return found if shown is None else shown(ids, found)


SPEAK = Exercise(
    name="speak",
    engine=speak,
    cases=speak_cases,
    mistakes=(
        Mistake(
            partial(speak_with, move=lambda new: 0),
            "your position stays where it was: each token is written over the first ones. It grows by as "
            "many ids as were read",
        ),
        Mistake(
            partial(speak_with, move=lambda new: 1),
            "your position grows by one after the prompt, too: it grows by as many ids as were read",
        ),
        Mistake(
            partial(speak_with, feed=lambda ids, found: [*ids, *found]),
            "you read the whole text again behind itself: the cache has it, feed the new id alone",
        ),
        Mistake(
            partial(speak_with, feed=lambda ids, found: list(found)),
            "you read all new ids each time: those before the last are in the cache",
        ),
        Mistake(
            partial(speak_with, row=0),
            "you choose by the first row, what stands behind the first id: the last row knows the whole text",
        ),
        Mistake(
            partial(speak_with, shown=lambda ids, found: [*ids, *found]),
            "the prompt is in your answer: return the new ids alone",
        ),
        Mistake(
            partial(speak_with, with_end=True),
            "the end token is in your answer: it says that there is nothing more to say",
        ),
        Mistake(
            partial(speak_with, stops=False),
            "you go on behind the end token: a model that says `end` has finished",
        ),
        Mistake(
            partial(speak_with, more=1),
            "one id too many: at most n",
        ),
    ),
    hints=(
        "What has the cache not seen yet: at first, and in every later step? How many tokens stood before?",
        "A loop until there are n: logits of what is new, at its position; the position moves on by as many; "
        "the likeliest id of the last row is new, unless it is the end.",
    ),
)

EXERCISES = [READ_HEADER, DECODE_ROWS, SELF_ATTENTION, FORWARD_PASS, SPEAK]
