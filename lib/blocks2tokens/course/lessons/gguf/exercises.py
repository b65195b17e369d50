"""Exercises of lesson 07: the header of a GGUF file, the place of a tensor, the mix Q4_K_M, perplexity.

check.read_string(f)        f(buffer, at) -> text, after
check.read_value(f)         f(buffer, value_type, at) -> value, after
check.shape_and_bytes(f)    f(ne, format) -> shape, bytes
check.align(f)              f(offset, alignment) -> offset
check.six_bit_layers(f)     f(n_layers) -> layers
check.perplexity(f)         f(logits, ids) -> perplexity
"""

import struct
from math import prod

import numpy as np

from blocks2tokens import gguf_file
from blocks2tokens.convert import more_bits
from blocks2tokens.course.check.exercise import Exercise, Mistake
from blocks2tokens.course.lessons.gguf import solutions
from blocks2tokens.formats import FORMATS
from blocks2tokens.perplexity import perplexity as engine_perplexity


def stored(text: str) -> bytes:
    """Return a string as a file has it."""
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


# A string: eight bytes of length, then so many bytes of UTF-8


def _strings():
    first = b"GGUF" + struct.pack("<IQQ", 3, 74, 23) + stored("general.architecture") + b"\x08\0\0\0"
    words = stored("kettle") + stored("") + stored("Ġand the cat") + b" and some more text behind it"
    return {
        "the first key of a file": (first, 24),
        "a string at byte 0": (words, 0),
        "an empty string": (words, 14),
        "a character of two bytes": (words, 22),
    }


def _text(data):
    return data.decode("utf-8", "surrogateescape")


def _read_string(code="<Q", skip=8, count_head=True, count_text=True):
    """Return a reader of strings, with what a learner may get wrong as parameters."""

    def read(buffer, at):
        (length,) = struct.unpack_from(code, buffer, at)
        end = at + (skip if count_head else 0) + (length if count_text else 0)
        return _text(buffer[at + skip : at + skip + length]), end

    return read


def _as_bytes(buffer, at):
    text, end = gguf_file.decode_string(buffer, at)
    return text.encode(), end


def _length_again(buffer, at):
    text, _ = gguf_file.decode_string(buffer, at)
    return text, len(text.encode())


def _shortened(buffer, at):
    _, end = gguf_file.decode_string(buffer, at)
    return _text(buffer[at + 8 : max(at, end - 8)])


def _by_characters(buffer, at):
    text, _ = gguf_file.decode_string(buffer, at)
    return text, at + 8 + len(text)


READ_STRING = Exercise(
    name="read_string",
    engine=gguf_file.decode_string,
    solution=solutions.read_string,
    twin=gguf_file.decode_string,
    parts=("text", "after"),
    whole=True,
    cases=_strings,
    mistakes=(
        Mistake(
            _read_string(code=">Q"),
            'your length is big-endian (">"): the lowest byte comes first, so it is "<Q"',
        ),
        Mistake(
            _read_string(code="<I", skip=4),
            "you read the length as a uint32 of four bytes; it is a uint64: the text begins behind eight",
        ),
        Mistake(
            _read_string(skip=0, count_head=False),
            "your text begins with its own length: skip those eight bytes",
        ),
        Mistake(
            _read_string(count_head=False),
            "the text is right, but `after` is eight bytes short: the length lies before the text",
        ),
        Mistake(
            _read_string(count_text=False),
            "the text is right, but `after` is where it begins, not where it ends",
        ),
        Mistake(
            _length_again,
            "the text is right, but `after` is its length; it should be a place in the buffer",
        ),
        Mistake(
            _by_characters,
            "you count characters: the length counts bytes, and Ġ takes two of them",
        ),
        Mistake(
            lambda buffer, at: (_shortened(buffer, at), gguf_file.decode_string(buffer, at)[1]),
            "your text ends eight bytes early: it begins at at + 8, and its end counts from there, not "
            "from at",
        ),
        Mistake(
            lambda buffer, at: (_shortened(buffer, at), gguf_file.decode_string(buffer, at)[1] - 8),
            "your text ends eight bytes early, and so does `after`: both count from at + 8, not from at",
        ),
        Mistake(_as_bytes, "you return bytes: .decode() makes them a str"),
    ),
    hints=(
        'struct.unpack_from("<Q", buffer, at) gives the length, in a tuple of one.',
        "The text begins eight bytes further, and .decode() makes a str of bytes. The next thing begins "
        "where it "
        "ends.",
    ),
)


# A value of a given type

CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def _values():
    def case(value_type, value):
        data = stored(value) if value_type == 8 else struct.pack("<" + CODES[value_type], value)
        return b"before" + data + b"behind, and more", value_type, 6

    return {
        "uint8": case(0, 200),
        "int8": case(1, -3),
        "uint16": case(2, 512),
        "int16": case(3, -2),
        "uint32": case(4, 2048),
        "int32": case(5, -7),
        "float32": case(6, 10000.0),
        "bool": case(7, True),
        "string": case(8, "llama"),
        "uint64": case(10, 2**40 + 5),
        "int64": case(11, -5),
        "float64": case(12, 0.1),
    }


def _read_value(codes=CODES, order="<", size=struct.calcsize, unpack=lambda values: values[0]):
    """Return a reader of values, with what a learner may get wrong as parameters."""

    def read(buffer, value_type, at):
        if value_type == 8:
            return gguf_file.decode_string(buffer, at)
        code = order + codes[value_type]
        return unpack(struct.unpack_from(code, buffer, at)), at + size(code)

    return read


def _size_as_after(buffer, value_type, at):
    value, end = gguf_file.decode_value(buffer, value_type, at)
    return value, end if value_type == 8 else end - at


UNSIGNED = CODES | {1: "B", 3: "H", 5: "I", 11: "Q"}

READ_VALUE = Exercise(
    name="read_value",
    engine=gguf_file.decode_value,
    solution=solutions.read_value,
    twin=gguf_file.decode_value,
    parts=("value", "after"),
    whole=True,
    cases=_values,
    mistakes=(
        Mistake(_read_value(order=">"), 'your numbers are big-endian (">"): GGUF puts the lowest byte first'),
        Mistake(
            _read_value(UNSIGNED),
            "your signed types (1, 3, 5, 11) come out unsigned: -3 is 253; their codes are small letters",
        ),
        Mistake(
            _read_value(CODES | {6: "I", 12: "Q"}),
            'you read the bits of a float as an integer: types 6 and 12 have codes "f" and "d"',
        ),
        Mistake(
            _read_value(CODES | {7: "I"}),
            "you read a bool as four bytes: it takes one",
        ),
        Mistake(
            _read_value(size=lambda code: 4),
            "the values are right, but `after` counts four bytes for each: a type has its own size, "
            "struct.calcsize tells it",
        ),
        Mistake(
            _read_value(size=lambda code: 0),
            "the values are right, but `after` stays where the value begins: add its size",
        ),
        Mistake(
            _size_as_after,
            "the values are right, but `after` is the size alone; it should be a place in the buffer, at "
            "+ size",
        ),
        Mistake(
            _read_value(unpack=lambda values: values),
            "you return what struct.unpack_from gives, a tuple: take its one element",
        ),
    ),
    hints=(
        "A string is what you have read already. For a number, CODES[value_type] is its letter.",
        'Put "<" before the letter: struct.unpack_from wants such a code, and gives a tuple. struct.calcsize '
        "tells how many bytes it takes.",
    ),
)


# A tensor's shape and size


def _tensors():
    return {
        "a norm, F32": ([256], FORMATS["F32"]),
        "ffn_down, F16": ([768, 256], FORMATS["F16"]),
        "an embedding, Q8_0": ([576, 49152], FORMATS["Q8_0"]),
        "ffn_up, Q4_K": ([256, 768], FORMATS["Q4_K"]),
        "attn_v, Q6_K": ([512, 256], FORMATS["Q6_K"]),
        "three dimensions, Q4_0": ([64, 32, 8], FORMATS["Q4_0"]),
    }


def _shape(ne):
    return tuple(reversed(ne))


def _bytes(ne, fmt):
    return prod(ne) // fmt.block_size * fmt.bytes_per_block


SHAPE_AND_BYTES = Exercise(
    name="shape_and_bytes",
    engine=gguf_file.shape_and_bytes,
    solution=solutions.shape_and_bytes,
    twin=gguf_file.shape_and_bytes,
    parts=("shape", "n_bytes"),
    whole=True,
    cases=_tensors,
    mistakes=(
        Mistake(
            lambda ne, fmt: (tuple(ne), _bytes(ne, fmt)),
            "the bytes are right, but the dimensions are not reversed: the file names the fastest first, "
            "NumPy last",
        ),
        Mistake(
            lambda ne, fmt: (_shape(ne), prod(ne) * fmt.bytes_per_block),
            "you give each weight the bytes of a block: a block holds fmt.block_size weights",
        ),
        Mistake(
            lambda ne, fmt: (_shape(ne), prod(ne) // 32 * fmt.bytes_per_block),
            "your blocks always hold 32 weights: ask fmt.block_size",
        ),
        Mistake(
            lambda ne, fmt: (_shape(ne), ne[0] // fmt.block_size * fmt.bytes_per_block),
            "those are the bytes of one row: how many rows are there?",
        ),
        Mistake(
            lambda ne, fmt: (_shape(ne), 4 * prod(ne)),
            "those are the bytes of float32 weights: in the file they are blocks",
        ),
        Mistake(
            lambda ne, fmt: (_shape(ne), prod(ne) // fmt.block_size),
            "those are blocks: each takes fmt.bytes_per_block bytes",
        ),
    ),
    hints=(
        "How many weights are there in all? How many blocks do they fill?",
        "Blocks are whole, so `//` counts them. reversed(ne) leaves the list as it is; ne.reverse() does "
        "not.",
    ),
)


# Padding


def _offsets():
    return {
        "65,938 to 32": (65_938, 32),
        "64 to 32, a multiple already": (64, 32),
        "0 to 32": (0, 32),
        "33 to 32": (33, 32),
        "70 to 64": (70, 64),
        "4,095 to 4,096": (4_095, 4_096),
    }


ALIGN = Exercise(
    name="align",
    engine=gguf_file.aligned,
    solution=solutions.align,
    twin=gguf_file.aligned,
    whole=True,
    cases=_offsets,
    mistakes=(
        Mistake(lambda offset, alignment: offset, "there is no padding: 65,938 is not a multiple of 32"),
        Mistake(
            lambda offset, alignment: (offset // alignment + 1) * alignment,
            "you pad an offset that is a multiple already: 64 stays 64",
        ),
        Mistake(
            lambda offset, alignment: offset // alignment * alignment,
            "you round down, into what lies before: the next multiple is not below the offset",
        ),
        Mistake(
            lambda offset, alignment: -offset % alignment,
            "that is the padding alone: add it to the offset",
        ),
        Mistake(
            lambda offset, alignment: offset + offset % alignment,
            "you add what the offset is past a multiple; add what it lacks to the next",
        ),
        Mistake(
            lambda offset, alignment: round(offset / alignment) * alignment,
            "you round to the nearest multiple: 33 goes back to 32, and that byte is taken",
        ),
        Mistake(
            lambda offset, alignment: -(-offset // alignment),
            "that is how many alignments fit in: the offset is that many times the alignment",
        ),
        Mistake(
            lambda offset, alignment: (offset + alignment - 1) / alignment * alignment,
            "`/` keeps the fraction, and times the alignment it is all back: `//` cuts it off",
        ),
        Mistake(
            lambda offset, alignment: -(-offset // 32) * 32,
            "you always align to 32: a file may ask for another alignment",
        ),
    ),
    hints=(
        "How many whole multiples lie below the offset, and when is one more needed?",
        "`//` rounds down. What must you add before, so that it rounds up, and leaves a multiple where it "
        "is?",
    ),
)


# The layers of a mix


def six_bit_layers(n_layers: int) -> list[int]:
    """Return the layers where Q4_K_M spends six bits."""
    return [layer for layer in range(n_layers) if more_bits(layer, n_layers)]


def _depths():
    return {f"{n} layers": (n,) for n in (8, 22, 28, 30, 32)}


def _layers(first=True, last=True, thirds=True, start=None, remainder=2, end=None, exact=False):
    """Return the rule, with what a learner may get wrong as parameters."""

    def six_bit_layers(n):
        eighth = n / 8 if exact else n // 8
        begin = eighth if start is None else start
        seven = end(n) if end else 7 * eighth if exact else 7 * n // 8
        return [
            i
            for i in range(n)
            if (first and i < eighth) or (last and i >= seven) or (thirds and (i - begin) % 3 == remainder)
        ]

    return six_bit_layers


SIX_BIT_LAYERS = Exercise(
    name="six_bit_layers",
    engine=six_bit_layers,
    solution=solutions.six_bit_layers,
    twin=more_bits,
    whole=True,
    cases=_depths,
    mistakes=(
        Mistake(
            _layers(last=False),
            "the last eighth is missing: layers i >= 7 * n_layers // 8 get six bits too",
        ),
        Mistake(
            _layers(first=False), "the first eighth is missing: layers i < n_layers // 8 get six bits too"
        ),
        Mistake(
            _layers(thirds=False),
            "you have the two ends; between them every third layer gets six bits too",
        ),
        Mistake(
            _layers(start=0),
            "your thirds count from layer 0: they count from n_layers // 8, as (i - n_layers // 8) % 3 == 2",
        ),
        Mistake(
            _layers(remainder=0),
            "you take the first of each three layers; the rule takes the third: remainder 2, not 0",
        ),
        Mistake(
            _layers(exact=True),
            "you divide exactly (`/`): an eighth of 30 layers is 3, in whole numbers (`//`)",
        ),
        Mistake(
            _layers(end=lambda n: 7 * (n // 8)),
            "you divide before you multiply: 7 * (30 // 8) is 21, but 7 * 30 // 8 is 26",
        ),
        Mistake(
            _layers(end=lambda n: 7 * n // 8 + 1),
            "your last eighth begins one layer late: layer 7 * n_layers // 8 belongs to it (>=, not >)",
        ),
    ),
    hints=(
        "Three conditions, joined by `or`: the first eighth, the last, and every third between.",
        "The ends are i < n_layers // 8 and i >= 7 * n_layers // 8. The thirds count from where the first "
        "ends.",
    ),
)

# Perplexity


def _predictions():
    rng = np.random.default_rng(10)
    even = np.zeros((6, 32), np.float32)
    sure = np.zeros((4, 8), np.float32)
    sure[[0, 1, 2], [3, 1, 4]] = 9
    drawn = (3 * rng.standard_normal((12, 50))).astype(np.float32)
    ids = rng.integers(0, 50, 12)
    uneven = drawn + np.linspace(-2000, 2000, 12, dtype=np.float32)[:, None]
    return {
        "no idea, 32 tokens": (even, rng.integers(0, 32, 6)),
        "nearly sure of each": (sure, np.array([0, 3, 1, 4])),
        "two ids": (drawn[:2], ids[:2]),
        "twelve ids": (drawn, ids),
        "logits of 1,000 and more": (drawn + np.float32(1000), ids),
        "rows of very different size": (uneven, ids),
    }


def _perplexity(
    read=slice(None, -1),
    aim=slice(1, None),
    top=lambda logits: logits.max(axis=1, keepdims=True),
    axis=1,
    softmax=False,
    mean=lambda surprise, T: surprise.mean(),
    end=np.exp,
):
    """Return perplexity as a function of logits and ids, with what a learner may get wrong as parameters."""

    def perplexity(logits, ids):
        logits, targets = logits[read].astype(np.float64), ids[aim]
        shifted = logits - top(logits)
        e = np.exp(shifted)
        total = e.sum(axis=axis, keepdims=True)
        log_p = np.log(e / total) if softmax else shifted - np.log(total)
        return float(end(mean(-log_p[np.arange(len(targets)), targets], len(targets))))

    return perplexity


right_perplexity = _perplexity()

OVERFLOWS = (
    "your exp overflows: e^1000 is more than any float. Subtract the largest logit of a row from the row "
    "first; log p stays what it is"
)
ONE_FOR_ALL = (
    "you subtract one number from all rows: in a row of much smaller logits every e^x becomes 0. Each row "
    "has its own largest"
)

PERPLEXITY = Exercise(
    name="perplexity",
    engine=right_perplexity,
    solution=solutions.perplexity,
    twin=engine_perplexity,
    tolerance=1e-4,
    cases=_predictions,
    mistakes=(
        Mistake(
            _perplexity(read=slice(None), aim=slice(None)),
            "you ask each row for its own id: row t has read id t already, and predicts id t + 1",
        ),
        Mistake(
            _perplexity(read=slice(1, None), aim=slice(None, -1)),
            "your shift runs backwards: row t predicts id t + 1, not id t - 1",
        ),
        *(
            Mistake(_perplexity(top=lambda logits: 0, softmax=softmax), OVERFLOWS)
            for softmax in (False, True)
        ),
        *(Mistake(_perplexity(top=np.max, softmax=softmax), ONE_FOR_ALL) for softmax in (False, True)),
        Mistake(
            _perplexity(mean=lambda surprise, T: surprise.sum() / (T + 1)),
            "you divide by the number of ids: the first one is predicted by nobody, so there are T - 1",
        ),
        Mistake(
            _perplexity(end=lambda nats: nats),
            "that is the mean surprise, in nats per token: perplexity is e to that",
        ),
        Mistake(
            _perplexity(end=lambda nats: 2**nats),
            "your surprise is in nats, and you raise 2 to it: log and exp must have one base",
        ),
        Mistake(
            _perplexity(end=lambda nats: np.exp(-nats)),
            "your sign is lost: the mean of log p is negative, its opposite is the surprise",
        ),
        Mistake(
            _perplexity(mean=lambda surprise, T: -np.log(np.mean(np.exp(-surprise)))),
            "you average probabilities: one token that was hard to foresee hardly counts. Average their "
            "logarithms",
        ),
        Mistake(
            _perplexity(mean=lambda surprise, T: np.log(np.mean(np.exp(surprise)))),
            "you average the perplexities of single tokens: one that was hard to foresee drowns all others. "
            "Average the surprise, then take exp",
        ),
        Mistake(
            _perplexity(axis=0),
            "your probabilities add up to 1 over the positions: they should over the vocabulary, axis 1",
        ),
        Mistake(
            _perplexity(mean=lambda surprise, T: surprise.sum()),
            "you add the surprise of all tokens: perplexity wants the mean",
        ),
    ),
    hints=(
        "Row t has read the ids up to t, so logits[:-1] predict ids[1:]. log p of a token is its logit less "
        "the logarithm of the sum of exp(logit) over its row.",
        "Subtract a row's largest logit from the row before exp: log p does not change, and nothing "
        "overflows. Pick the log p of each id that came with log_p[np.arange(n), targets]. Then the mean, "
        "its sign, and exp.",
    ),
)

EXERCISES = [READ_STRING, READ_VALUE, SHAPE_AND_BYTES, ALIGN, SIX_BIT_LAYERS, PERPLEXITY]
