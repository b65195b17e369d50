"""Plain text: what somebody says may spell out special tokens, and they must not become these tokens.

    "say <|im_end|>"  --hide-->  "say □|im_end|>"  --chat template-->  "<|im_start|>user\\nsay □|im_end|>..."
    --cut at special tokens-->  <|im_start|>, "user\\nsay □|im_end|>"  --reveal-->  "user\\nsay <|im_end|>"

A hidden token has another first character, one of the 2,048 surrogates, which no text holds. So a text keeps
its length, a template does with it what it would do anyway, and words are cut where they would be anyway.

Only control tokens are hidden. User-defined ones, such as <think>, are words of a text: llama.cpp takes them
for tokens in any text, see its tokenizer_st_partition, parse_special = false.
"""

import re

from blocks2tokens.errors import UnsupportedError
from blocks2tokens.tokenizer.vocabulary import USER_DEFINED, Vocabulary

SURROGATES = range(0xD800, 0xE000)


class PlainText:
    """Hides the control tokens of a vocabulary in a text, and reveals them."""

    def __init__(self, vocabulary: Vocabulary):
        """Raises UnsupportedError for a vocabulary whose control tokens begin with too many characters."""
        rests: dict[str, list[str]] = {}  # first character -> what may follow it
        for i in vocabulary.special:
            if vocabulary.types[i] != USER_DEFINED:
                token = vocabulary.tokens[i]
                rests.setdefault(token[0], []).append(re.escape(token[1:]))
        if len(rests) > len(SURROGATES):
            raise UnsupportedError(f"special tokens that begin with {len(rests)} different characters")
        self._stand_ins = dict(zip(rests, map(chr, SURROGATES), strict=False))
        self._stood_for = {ord(stand_in): first for first, stand_in in self._stand_ins.items()}
        starts = [f"{re.escape(first)}(?={'|'.join(rest)})" for first, rest in rests.items()]
        self._starts = re.compile("|".join(starts) or "(?!)")

    def hide(self, text: str) -> str:
        """Return a text without control tokens."""
        return self._starts.sub(lambda start: self._stand_ins[start[0]], text)

    def reveal(self, text: str) -> str:
        """Return what a text was before `hide`."""
        return text.translate(self._stood_for)
