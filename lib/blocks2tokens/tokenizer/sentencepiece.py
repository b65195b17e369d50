"""SentencePiece vocabularies, Llama 2's kind: characters are merged by score, what remains becomes bytes.

    "Hé"  --space in front, spaces as U+2581-->  "▁Hé"  --merge, highest score first-->  "▁H", "é"
    "▁H" is token 379; "é" is none, so its UTF-8 becomes the tokens <0xC3>, <0xA9>

There is no cutting into words: any two neighbours may be merged if together they are a token.

Source: llama.cpp's llm_tokenizer_spm, which follows SentencePiece's BPE.
"""

import heapq

import numpy as np

from blocks2tokens.errors import GGUFError
from blocks2tokens.gguf_file import GGUFFile
from blocks2tokens.tokenizer.vocabulary import Vocabulary, flag, numbers, token_id

SPACE = "\u2581"  # ▁


class SentencePiece:
    """A vocabulary with scores; `adds_space`: text gets one in front, at its start and behind specials."""

    default_bos, default_eos = 1, 2
    takes_bos = True

    def __init__(self, file: GGUFFile, vocabulary: Vocabulary):
        """Read the scores; GGUFError for broken ones."""
        self.adds_space = flag(file, "add_space_prefix", True)
        self._ids = vocabulary.words
        self._scores = _scores(file, len(vocabulary))
        self._bytes = [vocabulary.ids.get(f"<0x{byte:02X}>") for byte in range(256)]
        self._unknown = token_id(file, "unknown", len(vocabulary), default=0)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text without special tokens, its space in front, if any, already there.

        A character without a token becomes the tokens of its UTF-8 bytes; where one of these is missing
        too, the unknown token.
        """
        ids = []
        for part in merge(text.replace(" ", SPACE), self._ids, self._scores):
            if part in self._ids:
                ids.append(self._ids[part])
            else:
                spelled = [self._bytes[byte] for byte in part.encode()]
                ids += [self._unknown] if None in spelled else spelled
        return ids

    @staticmethod
    def spelled_bytes(token: str) -> bytes:
        """Return the bytes of a token as it is spelled."""
        return token.replace(SPACE, " ").encode()


def merge(text: str, ids: dict[str, int], scores: list[float]) -> list[str]:
    """Join neighbours that together are a token, the highest score first, of equals the leftmost.

    A heap holds the joints on offer. One that is taken changes what its neighbours can be joined to, so
    offers are checked when they come up: both parts must still be there, and as long as they were.
    """
    parts = list(text)  # "" once joined to the part on its left
    before, behind = list(range(-1, len(parts) - 1)), list(range(1, len(parts) + 1))
    offers = []

    def offer(left, right):
        if left >= 0 and right < len(parts) and (i := ids.get(parts[left] + parts[right])) is not None:
            heapq.heappush(offers, (-scores[i], left, right, len(parts[left]) + len(parts[right])))

    for left in range(len(parts) - 1):
        offer(left, left + 1)
    while offers:
        _, left, right, length = heapq.heappop(offers)
        if not parts[left] or not parts[right] or len(parts[left]) + len(parts[right]) != length:
            continue
        parts[left], parts[right] = parts[left] + parts[right], ""
        behind[left] = behind[right]
        if behind[left] < len(parts):
            before[behind[left]] = left
        offer(before[left], left)
        offer(left, behind[left])
    return [part for part in parts if part]


def _scores(file: GGUFFile, n: int) -> list[float]:
    key = "tokenizer.ggml.scores"
    scores = numbers(file, key, n, "fiu").astype(np.float32)
    if np.isnan(scores).any():
        raise GGUFError(f"{file.path}: {key}: token {np.isnan(scores).argmax()} has no number for a score")
    return scores.tolist()
