"""BPE and SentencePiece as lesson 18 builds them: tuples of pieces, joined step by step.

    BPE, ranks ("l", "o"): 0, ("e", "r"): 1, ("lo", "w"): 2

        l o w e r  ->  lo w e r  ->  lo w er  ->  low er      lowest rank first; no pair known: done

    SentencePiece, scores "ow": -2, "low": -3, "▁low": -4

        ▁ l o w ▁ é  ->  ▁ l ow ▁ é  ->  ▁ low ▁ é  ->  ▁low ▁ é      best score first; no piece left: done
        ▁low ▁ <0xC3> <0xA9>                                          what is no piece becomes bytes

Plain and slow. The engine's tokenizer has faster means for the same ids; tests hold the two equal.

Counting and Chain are what the lesson needs to count look-ups, and to spare them.
"""

import codecs
from itertools import pairwise

from blocks2tokens.tokenizer import byte_characters

BYTE_OF = {character: byte for byte, character in enumerate(byte_characters())}


def merge_pair(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """Return the parts with every occurrence of the pair joined, from left to right.

    >>> merge_pair(("a", "a", "a", "b"), ("a", "a"))
    ('aa', 'a', 'b')
    """
    merged, i = [], 0
    while i < len(parts):
        step = 2 if parts[i : i + 2] == pair else 1
        merged.append("".join(parts[i : i + step]))
        i += step
    return tuple(merged)


def bpe(parts: tuple[str, ...], ranks: dict[tuple[str, str], int]) -> tuple[str, ...]:
    """Join neighbours, the pair with the lowest rank first, until no pair has a rank.

    Source: Sennrich, Haddow and Birch, "Neural Machine Translation of Rare Words with Subword Units".

    >>> bpe(tuple("lower"), {("l", "o"): 0, ("e", "r"): 1, ("lo", "w"): 2})
    ('low', 'er')
    """
    while known := [pair for pair in pairwise(parts) if pair in ranks]:
        parts = merge_pair(parts, min(known, key=ranks.get))
    return parts


def token_bytes(token: str) -> bytes:
    """Return the bytes that a token of a GPT-2-style vocabulary spells.

    >>> token_bytes("ĠcafÃ©")
    b' caf\\xc3\\xa9'
    """
    return bytes(BYTE_OF[character] for character in token)


def stream_text(pieces: list[bytes]) -> list[str]:
    """Return the text to show after each piece; a character waits for its last byte.

    >>> stream_text([b"a", b"\\xc3", b"\\xa9"])
    ['a', '', 'é']
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return [decoder.decode(piece) for piece in pieces]


def sentencepiece(text: str, scores: dict[str, float]) -> tuple[str, ...]:
    """Return the pieces of a text: join neighbours to the piece with the best score, until there is none.

    A space becomes ▁, and one is put in front. A character without a score becomes its UTF-8 bytes.
    Source: llama.cpp's llama-vocab.cpp, `llm_tokenizer_spm`.

    >>> sentencepiece("low é", {"▁": -9, "l": -9, "o": -9, "w": -9, "ow": -2, "low": -3, "▁low": -4})
    ('▁low', '▁', '<0xC3>', '<0xA9>')
    """
    parts = list("▁" + text.replace(" ", "▁"))
    while known := [(scores[a + b], -i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in scores]:
        i = -max(known)[1]  # the best score; of equal ones the leftmost
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return tuple(p for part in parts for p in ([part] if part in scores else byte_pieces(part)))


def byte_pieces(character: str) -> list[str]:
    """Return the pieces that spell a character's UTF-8 bytes, such as <0xC3> and <0xA9> for é."""
    return [f"<0x{byte:02X}>" for byte in character.encode()]


class Counting(dict):
    """A dict that counts how often it is asked whether it has a key."""

    asked = 0

    def __contains__(self, key) -> bool:
        self.asked += 1
        return super().__contains__(key)


class Chain:
    """Parts in a row, each of which knows its neighbours; joined ones leave a gap.

    >>> chain = Chain("abc")
    >>> chain.join(0)
    >>> chain.pair(0), chain.pair(-1), chain.pair(2), chain.joined()
    (('ab', 'c'), None, None, ('ab', 'c'))
    """

    def __init__(self, parts):
        n = len(parts)
        self.parts, self.end = [*parts], n
        self.before, self.after = [*range(-1, n - 1)], [*range(1, n + 1)]

    def pair(self, i: int) -> tuple[str, str] | None:
        """Return part i and the one behind it; None if there is none, or i itself was joined away."""
        if i < 0 or not self.parts[i] or self.after[i] == self.end:
            return None
        return self.parts[i], self.parts[self.after[i]]

    def join(self, i: int) -> None:
        """Join part i with the one behind it."""
        gone = self.after[i]
        self.parts[i], self.parts[gone] = self.parts[i] + self.parts[gone], ""
        self.after[i] = self.after[gone]
        if self.after[i] != self.end:
            self.before[self.after[i]] = i

    def joined(self) -> tuple[str, ...]:
        """Return the parts that are left."""
        return tuple(filter(None, self.parts))
