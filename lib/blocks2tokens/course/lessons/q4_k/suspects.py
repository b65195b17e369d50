"""Decoders of Q4_K with one mistake each, and their weights: who made these?

CRIMES          the mistakes by name
lineup(raw)     {"A": weights, "B": weights, "C": weights} of three of them
DECODERS        {crime: blocks -> weights}, what the exercises compare with
"""

import numpy as np

from blocks2tokens.formats import FORMATS, q4_k

Q4_K = FORMATS["Q4_K"]


def thirds(scales):
    return scales[:, 0:4], scales[:, 4:8], scales[:, 8:12]


def joined(*parts):
    return np.concatenate(parts, axis=1)


def six_bit_stream(scales, bitorder="little"):
    """Return 16 numbers of 6 bits that follow each other, uint8 [n, 16]."""
    bits = np.unpackbits(scales, axis=1, bitorder=bitorder).reshape(-1, 16, 6)
    places = np.arange(6, dtype=np.uint8)
    return (bits << (places if bitorder == "little" else places[::-1])).sum(axis=2, dtype=np.uint8)


def scales_from_a_stream(scales):
    numbers = six_bit_stream(scales)
    return numbers[:, :8], numbers[:, 8:]


def top_bits_forgotten(scales):
    a, b, c = thirds(scales)
    return joined(a & 63, c & 15), joined(b & 63, c >> 4)


def nibbles_in_sequence(qs):
    return np.stack([qs & 15, qs >> 4], axis=2).reshape(-1, 8, 32)


def parts_of(blocks):
    """Return d, dmin, scales, minimums and codes, shaped so that they multiply: [n, 8, 32] or [n, 8, 1]."""
    sc, m = q4_k.unpack_scales(blocks["scales"])
    d, dmin = (blocks[name].astype(np.float32)[:, None, None] for name in ("d", "dmin"))
    return d, dmin, sc[:, :, None], m[:, :, None], q4_k.split_nibbles(blocks["qs"])


def with_parts(formula):
    """Return a decoder that puts the parts of a block together with a formula."""

    def decode(blocks):
        return formula(*parts_of(blocks)).reshape(-1, 256)

    return decode


def codes_in_sequence(blocks):
    d, dmin, sc, m, _ = parts_of(blocks)
    return ((d * sc) * nibbles_in_sequence(blocks["qs"]) - dmin * m).reshape(-1, 256)


def scales_in_a_stream(blocks):
    d, dmin, _, _, q = parts_of(blocks)
    sc, m = scales_from_a_stream(blocks["scales"])
    return ((d * sc[:, :, None]) * q - dmin * m[:, :, None]).reshape(-1, 256)


def swapped(d, dmin, sc, m, q):
    return (dmin * sc) * q - d * m


def minimums_added(d, dmin, sc, m, q):
    return (d * sc) * q + dmin * m


def top_bits_missing(blocks):
    d, dmin, _, _, q = parts_of(blocks)
    sc, m = top_bits_forgotten(blocks["scales"])
    return ((d * sc[:, :, None]) * q - dmin * m[:, :, None]).reshape(-1, 256)


DECODERS = {
    "scales as a stream": scales_in_a_stream,
    "codes in sequence": codes_in_sequence,
    "minimums added": with_parts(minimums_added),
    "d and dmin swapped": with_parts(swapped),
    "top bits missing": top_bits_missing,
}
CRIMES = tuple(DECODERS)
CAUGHT = (3, 4, 0)


def lineup(raw: np.ndarray) -> dict[str, np.ndarray]:
    """Return what three suspects make of blocks, uint8 [n, 144]: {name: float32 [n, 256]}."""
    blocks = Q4_K.blocks(raw)[:, 0]
    return {name: DECODERS[CRIMES[i]](blocks) for name, i in zip("ABC", CAUGHT, strict=True)}
