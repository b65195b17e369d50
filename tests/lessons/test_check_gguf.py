"""What learners write in lesson 07, for test_check_learners.py, and what is the lesson's own."""

import math
import struct

import numpy as np
import pytest

import blocks2tokens as b2t
from blocks2tokens.course import check, models

LETTERS = dict(zip([0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12], "BbHhIif?Qqd", strict=True))


# Right, in other words than the engine's


def read_string(buffer, at):
    length = int.from_bytes(buffer[at : at + 8], "little")
    text = b""
    for i in range(length):
        text += buffer[at + 8 + i : at + 9 + i]
    return text.decode(), at + 8 + length


def read_value(buffer, value_type, at):
    if value_type == 8:
        return read_string(buffer, at)
    letter = LETTERS[value_type]
    value = struct.unpack("<" + letter, buffer[at : at + struct.calcsize("<" + letter)])[0]
    return value, at + len(struct.pack("<" + letter, 0))


def shape_and_bytes(ne, fmt):
    n = 1
    for dimension in ne:
        n *= dimension
    return list(ne)[::-1], int(n * fmt.bits_per_weight) // 8


def align(offset, alignment):
    while offset % alignment:
        offset += 1
    return offset


def six_bit_layers(n_layers):
    eighth, layers = n_layers // 8, set()
    layers.update(range(eighth), range(7 * n_layers // 8, n_layers), range(eighth + 2, n_layers, 3))
    return sorted(layers)


def surprises(logits, ids, shift=1):
    """Return -log p of each id that a row predicts, one after the other, with log-sum-exp in two steps."""
    out = []
    for row, i in zip(logits[:-1] if shift else logits, ids[shift:], strict=True):
        top = float(row.max())
        out.append(top + math.log(sum(math.exp(float(v) - top) for v in row)) - float(row[i]))
    return out


def perplexity(logits, ids):
    return math.prod(math.exp(s) for s in surprises(logits, ids)) ** (1 / (len(ids) - 1))


RIGHT = {
    f.__name__: [f] for f in (read_string, read_value, shape_and_bytes, align, six_bit_layers, perplexity)
}


def mean(values):
    return sum(values) / len(values)


def without_a_shift(logits, ids):
    return math.exp(mean(surprises(logits, ids, shift=0)))


def shifted_backwards(logits, ids):
    return math.exp(mean(surprises(logits[::-1], ids[::-1])))


def softmaxed(subtract, axis=1):
    def perplexity(logits, ids):
        e = np.exp(logits[:-1].astype(np.float64) - subtract(logits[:-1]))
        p = e / e.sum(axis=axis, keepdims=True)
        return np.exp(-np.log([row[i] for row, i in zip(p, ids[1:], strict=True)]).mean())

    return perplexity


def log_sum_exp(subtract):
    def perplexity(logits, ids):
        x = logits[:-1] - np.float32(subtract(logits[:-1]))
        return np.exp(np.mean(np.log(np.exp(x).sum(axis=1)) - x[np.arange(len(x)), ids[1:]]))

    return perplexity


def with_the_end(end):
    return lambda logits, ids: end(surprises(logits, ids))


def rows_largest(logits):
    return logits.max(axis=1, keepdims=True)


@pytest.mark.parametrize("collect", [set, tuple, np.array])
def test_layers_in_a_set_become_a_list(collect):
    mine = check.six_bit_layers(lambda n: collect(six_bit_layers(n)))
    assert mine(8) == six_bit_layers(8) and type(mine(8)) is list


def in_sixths(n, keep):
    return [i for i in range(n) if keep(i, n // 8)]


def unpack(code, buffer, at):
    return struct.unpack(code, buffer[at : at + struct.calcsize(code)])[0]


def big_endian_string(buffer, at):
    n = int.from_bytes(buffer[at : at + 8], "big")
    return buffer[at + 8 : at + 8 + n].decode(), at + 8 + n


def short_length(buffer, at):
    n = unpack("<I", buffer, at)
    return buffer[at + 4 : at + 4 + n].decode(), at + 4 + n


def length_in_text(buffer, at):
    n = unpack("<Q", buffer, at)
    return buffer[at : at + n].decode(), at + n


def with_letters(**changed):
    letters = LETTERS | {int(k[1:]): v for k, v in changed.items()}

    def read(buffer, value_type, at):
        if value_type == 8:
            return read_string(buffer, at)
        code = "<" + letters[value_type]
        return unpack(code, buffer, at), at + struct.calcsize(code)

    return read


def big_endian_value(buffer, value_type, at):
    if value_type == 8:
        return read_string(buffer, at)
    code = ">" + LETTERS[value_type]
    return unpack(code, buffer, at), at + struct.calcsize(code)


def four_bytes_each(buffer, value_type, at):
    value, end = read_value(buffer, value_type, at)
    return value, end if value_type == 8 else at + 4


def stays(buffer, value_type, at):
    value, end = read_value(buffer, value_type, at)
    return value, end if value_type == 8 else at


def tuples(buffer, value_type, at):
    value, end = read_value(buffer, value_type, at)
    return value if value_type == 8 else (value,), end


def product(ne):
    n = 1
    for dimension in ne:
        n *= dimension
    return n


def short(buffer, at):
    length = int.from_bytes(buffer[at : at + 8], "little")
    return buffer[at + 8 : at + length].decode()


def size_alone(buffer, value_type, at):
    value, after = read_value(buffer, value_type, at)
    return (value, after) if value_type == 8 else (value, after - at)


WRONG = [
    ("read_string", big_endian_string, "big-endian"),
    ("read_string", short_length, "a uint32 of four bytes"),
    ("read_string", length_in_text, "begins with its own length"),
    ("read_string", lambda b, at: (read_string(b, at)[0], read_string(b, at)[1] - 8), "eight bytes short"),
    ("read_string", lambda b, at: (read_string(b, at)[0], at + 8), "where it begins, not where it ends"),
    ("read_string", lambda b, at: (read_string(b, at)[0], unpack("<Q", b, at)), "`after` is its length"),
    ("read_string", lambda b, at: (t := read_string(b, at)[0], at + 8 + len(t)), "count characters"),
    (
        "read_string",
        lambda b, at: (read_string(b, at)[0].encode(), read_string(b, at)[1]),
        "you return bytes",
    ),
    ("read_string", lambda b, at: (short(b, at), read_string(b, at)[1]), "eight bytes early: it begins"),
    ("read_string", lambda b, at: (short(b, at), read_string(b, at)[1] - 8), "and so does `after`"),
    ("read_value", size_alone, "the size alone"),
    ("align", lambda o, a: (o + a - 1) // a, "how many alignments"),
    ("align", lambda o, a: (o + a - 1) / a * a, "keeps the fraction"),
    ("read_value", big_endian_value, "big-endian"),
    ("read_value", with_letters(_1="B", _3="H", _5="I", _11="Q"), "come out unsigned"),
    ("read_value", with_letters(_6="I", _12="Q"), "bits of a float as an integer"),
    ("read_value", with_letters(_7="I"), "a bool as four bytes"),
    ("read_value", four_bytes_each, "counts four bytes for each"),
    ("read_value", stays, "stays where the value begins"),
    ("read_value", tuples, "a tuple: take its one element"),
    ("shape_and_bytes", lambda ne, f: (ne[::-1], product(ne) * f.bits_per_weight / 8), "it is a float"),
    ("shape_and_bytes", lambda ne, f: (ne, shape_and_bytes(ne, f)[1]), "are not reversed"),
    ("shape_and_bytes", lambda ne, f: (ne[::-1], product(ne) * f.bytes_per_block), "the bytes of a block"),
    ("shape_and_bytes", lambda ne, f: (ne[::-1], product(ne) / 32 * f.bytes_per_block), "always hold 32"),
    ("shape_and_bytes", lambda ne, f: (ne[::-1], f.row_bytes(ne[0])), "the bytes of one row"),
    ("shape_and_bytes", lambda ne, f: (ne[::-1], product(ne) * 4), "bytes of float32"),
    ("shape_and_bytes", lambda ne, f: (ne[::-1], product(ne) // f.block_size), "those are blocks"),
    ("align", lambda o, a: o, "there is no padding"),
    ("align", lambda o, a: o + a - o % a, "a multiple already"),
    ("align", lambda o, a: o - o % a, "you round down"),
    ("align", lambda o, a: (a - o % a) % a, "the padding alone"),
    ("align", lambda o, a: o + o % a, "what the offset is past a multiple"),
    ("align", lambda o, a: round(o / a) * a, "to the nearest multiple"),
    ("align", lambda o, a: (o + 31) // 32 * 32, "always align to 32"),
    (
        "six_bit_layers",
        lambda n: in_sixths(n, lambda i, e: i < e or (i - e) % 3 == 2),
        "last eighth is missing",
    ),
    (
        "six_bit_layers",
        lambda n: in_sixths(n, lambda i, e: i >= 7 * n // 8 or (i - e) % 3 == 2),
        "first eighth is missing",
    ),
    ("six_bit_layers", lambda n: in_sixths(n, lambda i, e: i < e or i >= 7 * n // 8), "have the two ends"),
    (
        "six_bit_layers",
        lambda n: in_sixths(n, lambda i, e: i < e or i >= 7 * n // 8 or i % 3 == 2),
        "count from layer 0",
    ),
    (
        "six_bit_layers",
        lambda n: in_sixths(n, lambda i, e: i < e or i >= 7 * n // 8 or (i - e) % 3 == 0),
        "remainder 2, not 0",
    ),
    (
        "six_bit_layers",
        lambda n: in_sixths(n, lambda i, _: i < n / 8 or i >= 7 * n / 8 or (i - n / 8) % 3 == 2),
        "you divide exactly",
    ),
    (
        "six_bit_layers",
        lambda n: in_sixths(n, lambda i, e: i < e or i >= 7 * e or (i - e) % 3 == 2),
        "divide before you multiply",
    ),
    (
        "six_bit_layers",
        lambda n: in_sixths(n, lambda i, e: i < e or i > 7 * n // 8 or (i - e) % 3 == 2),
        "begins one layer late",
    ),
    ("perplexity", without_a_shift, "row t has read id t already"),
    ("perplexity", shifted_backwards, "your shift runs backwards"),
    ("perplexity", softmaxed(lambda logits: 0), "your exp overflows"),
    ("perplexity", softmaxed(np.max), "you subtract one number from all rows"),
    ("perplexity", log_sum_exp(lambda logits: 0), "your exp overflows"),
    ("perplexity", log_sum_exp(np.max), "you subtract one number from all rows"),
    ("perplexity", softmaxed(rows_largest, axis=0), "over the vocabulary, axis 1"),
    ("perplexity", with_the_end(lambda s: math.exp(sum(s) / (len(s) + 1))), "predicted by nobody"),
    ("perplexity", with_the_end(mean), "that is the mean surprise"),
    ("perplexity", with_the_end(lambda s: 2 ** mean(s)), "one base"),
    ("perplexity", with_the_end(lambda s: math.exp(-mean(s))), "your sign is lost"),
    ("perplexity", with_the_end(lambda s: 1 / mean([math.exp(-v) for v in s])), "average probabilities"),
    ("perplexity", with_the_end(lambda s: mean([math.exp(v) for v in s])), "perplexities of single tokens"),
    ("perplexity", with_the_end(lambda s: math.exp(sum(s))), "you add the surprise"),
]


def test_a_wrong_number_of_values_and_a_wrong_shape():
    assert "expected 2 values, got str" in check.read_string.judge(lambda b, at: "text").message
    message = check.six_bit_layers.judge(lambda n: [1, 2]).message
    assert "0, 3, 6, 7 not in your list; 1, 2 in your list and should not be" in message
    assert "expected 65952" in check.align.judge(lambda o, a: 7).message


def test_perplexity_of_the_right_answer_is_the_engines():
    """The key itself, against the engine's own perplexity of a model."""
    model = b2t.load(models.austen())
    ids = np.array(model.tokenizer.encode("It is a truth universally acknowledged, that a single man"))
    logits = model.logits(ids)
    assert check.perplexity.engine(logits, ids) == pytest.approx(
        b2t.perplexity(model, ids).perplexity, rel=1e-4
    )
