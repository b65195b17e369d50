"""What learners write in lesson 33: the pieces that put the others together."""

import struct
from types import SimpleNamespace

import numpy as np

import blocks2tokens as b2t
from blocks2tokens.course.lessons.capstone import exercises as lesson
from blocks2tokens.model.forward import floats

CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


class Reader:
    """A learner's reader: a place that moves."""

    def __init__(self, buffer):
        self.buffer, self.at = bytes(buffer), 0

    def take(self, code):
        (value,) = struct.unpack_from("<" + code, self.buffer, self.at)
        self.at += struct.calcsize("<" + code)
        return value

    def text(self):
        n = self.take("Q")
        self.at += n
        return self.buffer[self.at - n : self.at].decode()

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind == 9:
            kind, n = self.take("I"), self.take("Q")
            return [self.value(kind) for _ in range(n)]
        return self.take(CODES[kind])


def reads(
    shape=lambda ne: tuple(ne[::-1]),
    begin=lambda at, alignment: at + -at % alignment,
    size=lambda n, block, n_bytes: n * n_bytes // block,
    default=lambda metadata: metadata.get("general.alignment", 32),
    keep=lambda value: value,
):
    """A learner's header, with a place for each mistake."""

    def read_header(buffer):
        r = Reader(buffer)
        r.at = 8
        n_tensors, n_keys = r.take("Q"), r.take("Q")
        metadata = {}
        for _ in range(n_keys):
            key = r.text()
            metadata[key] = keep(r.value(r.take("I")))
        infos = []
        for _ in range(n_tensors):
            name = r.text()
            ne = [r.take("Q") for _ in range(r.take("I"))]
            infos.append((name, ne, r.take("I"), r.take("Q")))
        start, found = begin(r.at, default(metadata)), {}
        for name, ne, kind, offset in infos:
            fmt, block, n_bytes = lesson.BLOCKS[kind]
            first = start + offset
            found[name] = shape(ne), fmt, first, first + size(int(np.prod(ne)), block, n_bytes)
        return metadata, found

    return read_header


def row_by_row(raw, name, shape, rows, decoders):
    dtype, decode = decoders[name]
    n = raw.size // shape[0]
    chosen = range(*rows.indices(shape[0])) if isinstance(rows, slice) else rows
    return np.stack([decode(raw[i * n : (i + 1) * n].view(dtype)).reshape(-1) for i in chosen])


def all_then(change):
    """A learner's rows: everything decoded, then `change`d."""

    def decode_rows(raw, name, shape, rows, decoders):
        dtype, decode = decoders[name]
        return change(decode(raw.view(dtype)).reshape(-1), shape, rows)

    return decode_rows


def bytes_alone(raw, name, shape, rows, decoders):
    return raw.reshape(shape[0], -1)[rows]


def through_half(raw, name, shape, rows, decoders):
    return row_by_row(raw, name, shape, rows, decoders).astype(np.float16).astype(np.float32)


def first_ones(x, shape, rows):
    n = len(range(*rows.indices(shape[0]))) if isinstance(rows, slice) else len(rows)
    return x.reshape(shape)[:n]


def soft(scores):
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def masked(scores):
    T, S = scores.shape
    return soft(np.where(np.tri(T, S, S - T, dtype=bool), scores, -np.inf))


def attends(
    at=lambda position: position, turned="qk", own=lambda head, group, n: head // group, weigh=masked,
    root=True, sees_past=True, joined=np.hstack, output=True,
):  # fmt: skip
    """A learner's attention, head by head."""

    def self_attention(h, w, c, keys, values, position):
        T, d = len(h), c.head_dim
        parts = {name: (h @ w[f"attn_{name}"].T).reshape(T, -1, d) for name in "qkv"}
        angle = lesson.rope_angles(at(position) + np.arange(T), d, c.rope_theta)
        for name in turned:
            z = parts[name][..., ::2] + 1j * parts[name][..., 1::2]
            z = z * np.exp(1j * angle)[:, None]
            parts[name] = np.stack([z.real, z.imag], axis=-1).reshape(T, -1, d)
        for t in range(T):
            keys[:, position + t], values[:, position + t] = parts["k"][t], parts["v"][t]
        n_heads, n = parts["q"].shape[1], len(keys)
        first, found = 0 if sees_past else position, []
        for head in range(n_heads):
            i = own(head, n_heads // n, n)
            scores = parts["q"][:, head] @ keys[i, first : position + T].T
            found.append(weigh(scores / np.sqrt(d) if root else scores) @ values[i, first : position + T])
        out = joined(found)
        return (out @ w["attn_output"].T if output else out).astype(np.float32)

    return self_attention


def woven(found):
    return np.dstack(found).reshape(len(found[0]), -1)


def unrotated_kept(h, w, c, keys, values, position):
    """The right answer, and keys in the cache that the next token cannot use."""
    found = attends()(h, w, c, keys, values, position)
    k = (h @ w["attn_k"].T).reshape(len(h), -1, c.head_dim)
    keys[:, position : position + len(h)] = k.swapaxes(0, 1)
    return found


def unit(x):
    return x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-5)


def passes(
    order=lambda n: range(n),
    norm=lambda x, w: unit(x) * w,
    told=lambda position, i: position,
    shown=slice(None),
):
    def forward_pass(model, ids, position):
        x = model.embed(ids)
        for i in order(model.c.n_layers):
            x = model.layer(i, x, told(position, i))
        return (norm(x, model.output_norm) @ model.output.T)[shown]

    return forward_pass


def tells(
    moved=len,
    new=lambda ids, found: [found[-1]],
    row=-1,
    answer=lambda ids, found: found,
    ends="before",
    more=0,
):
    def speak(forward, ids, n, end):
        position, feed, found = 0, list(ids), []
        for _ in range(n + more):
            logits = forward(feed, position)
            position += moved(feed)
            token = int(np.argmax(logits[row]))
            if token == end and ends == "before":
                break
            found.append(token)
            if token == end and ends == "behind":
                break
            feed = new(ids, found)
        return answer(ids, found)

    return speak


WRONG = [
    ("read_header", reads(shape=tuple), "the fastest dimension first"),
    ("read_header", reads(begin=lambda at, alignment: 0), "count from byte 0"),
    ("read_header", reads(begin=lambda at, alignment: at), "padded to the alignment"),
    ("read_header", reads(default=lambda metadata: 32), "you pad to 32 whatever"),
    ("read_header", reads(size=lambda n, block, n_bytes: 4 * n), "four bytes for each weight"),
    ("read_header", reads(size=lambda n, block, n_bytes: n), "you count weights, not bytes"),
    (
        "read_header",
        reads(keep=lambda v: v[0] if isinstance(v, list) else v),
        "of an array you keep the first",
    ),
    (
        "decode_rows",
        all_then(lambda x, shape, rows: x.reshape(shape, order="F")[rows]),
        "you fill columns first",
    ),
    ("decode_rows", all_then(lambda x, shape, rows: x.reshape(shape)[rows].T), "your answer is turned"),
    ("decode_rows", bytes_alone, "those are the bytes"),
    ("decode_rows", all_then(first_ones), "but the first ones"),
    ("decode_rows", through_half, "went through float16"),
    ("decode_rows", all_then(lambda x, shape, rows: x.reshape(shape)[rows]), "you decode or copy it all"),
    ("self_attention", attends(at=lambda position: 0), "your positions begin at 0"),
    ("self_attention", attends(turned=""), "nothing is rotated"),
    ("self_attention", unrotated_kept, "what you write into keys is not what"),
    ("self_attention", attends(turned="q"), "the keys are not rotated"),
    ("self_attention", attends(turned="qkv"), "values are not rotated"),
    ("self_attention", attends(own=lambda head, group, n: head % n), "head h has keys h // group"),
    ("self_attention", attends(root=False), "not divided by the root"),
    ("self_attention", attends(sees_past=False), "see the new tokens alone"),
    ("self_attention", attends(weigh=soft), "no token is hidden"),
    ("self_attention", attends(output=False), "attn_output is missing"),
    ("self_attention", attends(joined=woven), "woven into each other"),
    ("forward_pass", passes(norm=lambda x, w: x), "the last norm is missing"),
    ("forward_pass", passes(norm=lambda x, w: unit(x)), "the last norm has weights"),
    ("forward_pass", passes(told=lambda position, i: 0), "told position 0"),
    ("forward_pass", passes(told=lambda position, i: position + i), "grows with the layers"),
    ("forward_pass", passes(order=lambda n: range(n - 1)), "the last layer is missing"),
    ("forward_pass", passes(order=lambda n: reversed(range(n))), "from the last to the first"),
    ("forward_pass", passes(shown=slice(-1, None)), "a row for each of ids"),
    ("speak", tells(moved=lambda feed: 0), "your position stays where it was"),
    ("speak", tells(moved=lambda feed: 1), "grows by one after the prompt"),
    ("speak", tells(new=lambda ids, found: ids + found), "again behind itself"),
    ("speak", tells(new=lambda ids, found: found[:]), "all new ids each time"),
    ("speak", tells(row=0), "you choose by the first row"),
    ("speak", tells(answer=lambda ids, found: ids + found), "the prompt is in your answer"),
    ("speak", tells(ends="behind"), "the end token is in your answer"),
    ("speak", tells(ends=None), "you go on behind the end token"),
    ("speak", tells(more=1), "one id too many"),
]
RIGHT = {
    "read_header": [reads()],
    "decode_rows": [row_by_row],
    "self_attention": [attends()],
    "forward_pass": [passes()],
    "speak": [tells()],
}


def test_a_wrong_header_is_shown_where_it_is_wrong():
    """Not two dictionaries side by side: the tensor, and which of its four values."""

    def counts(buffer):
        keys, tensors = reads()(buffer)
        return keys, {name: (*given, behind - first) for name, (*given, first, behind) in tensors.items()}

    def last_byte(buffer):
        keys, tensors = reads()(buffer)
        return keys, {name: (*given, behind - 1) for name, (*given, behind) in tensors.items()}

    assert "expected 4 values" in lesson.READ_HEADER.judge(counts).message
    message = lesson.READ_HEADER.judge(last_byte).message
    assert "tensors, 'token_embd.weight', the fourth of the 4 values: the value is 499" in message
    message = lesson.READ_HEADER.judge(lambda buffer: ({}, reads()(buffer)[1])).message
    assert "keys: 'general.architecture', 'llama.block_count' are missing" in message


def test_tuples_do_for_the_lists_of_a_header():
    keep = lambda value: tuple(map(keep, value)) if isinstance(value, list) else value  # noqa: E731
    assert lesson.READ_HEADER.judge(reads(keep=keep)).kind == "right"


# The pieces are the engine's, put together otherwise


def test_a_header_is_read_as_the_engine_reads_it(austen_path):
    file = b2t.GGUFFile(austen_path)
    metadata, tensors = lesson.read_header(austen_path.read_bytes())
    assert metadata.keys() == file.metadata.keys()
    assert all(np.array_equal(metadata[key], value) for key, value in file.metadata.items())
    assert tensors == {
        name: (info.shape, file.format(name).name, info.offset, info.offset + info.nbytes)
        for name, info in file.tensors.items()
    }


def test_the_pass_and_its_attention_give_the_engine_s_logits(austen_path):
    model = b2t.load(austen_path)
    t, c = model.transformer, model.config
    layers = [{n: floats(w) for n, w in vars(layer).items() if w is not None} for layer in t.layers]
    caches = np.zeros((c.n_layers, 2, c.n_kv_heads, 12, c.head_dim), np.float32)

    def layer(i, x, position):
        w = layers[i]
        h = lesson.rms_norm(x, w["attn_norm"], c.norm_eps)
        x = x + lesson.self_attention(h, w, c, *caches[i], position)
        h = lesson.rms_norm(x, w["ffn_norm"], c.norm_eps)
        gate, up = h @ w["ffn_gate"].T, h @ w["ffn_up"].T
        return x + (gate / (1 + np.exp(-gate)) * up) @ w["ffn_down"].T

    mine = SimpleNamespace(
        c=c, eps=c.norm_eps, embed=t.token_embd.rows, layer=layer, output_norm=t.output_norm,
        output=t.output.dequantize(),
    )  # fmt: skip
    ids = [7, 300, 5, 1999, 42]
    expected = model.logits(ids)
    first, rest = lesson.forward_pass(mine, ids[:2], 0), lesson.forward_pass(mine, ids[2:], 2)
    assert np.allclose(np.concatenate([first, rest]), expected, rtol=1e-3, atol=1e-3)
    said = lesson.speak(lambda new, position: lesson.forward_pass(mine, new, position), ids, 6, None)
    assert said == list(model.generate(ids, 6))
