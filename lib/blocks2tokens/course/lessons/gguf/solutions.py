"""Solutions of lesson 07."""

import struct

import numpy as np

CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def read_string(buffer, at):
    (length,) = struct.unpack_from("<Q", buffer, at)
    after = at + 8 + length
    return buffer[at + 8 : after].decode(), after


def read_value(buffer, value_type, at):
    if value_type == 8:
        return read_string(buffer, at)
    code = "<" + CODES[value_type]
    (value,) = struct.unpack_from(code, buffer, at)
    return value, at + struct.calcsize(code)


def shape_and_bytes(ne, fmt):
    weights = 1
    for n in ne:
        weights *= n
    return tuple(reversed(ne)), weights // fmt.block_size * fmt.bytes_per_block


def align(offset, alignment):
    return (offset + alignment - 1) // alignment * alignment


def six_bit_layers(n_layers):
    first, last = n_layers // 8, 7 * n_layers // 8
    return [i for i in range(n_layers) if i < first or i >= last or (i - first) % 3 == 2]


def perplexity(logits, ids):
    logits, targets = logits[:-1], ids[1:]  # row t predicts id t + 1
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    surprise = -log_p[np.arange(len(targets)), targets]
    return float(np.exp(surprise.mean()))
