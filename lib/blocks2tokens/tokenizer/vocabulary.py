"""Vocabulary: what a GGUF file says of its tokens, and the reading of it with checks.

    tokenizer.ggml.model           string       "gpt2": byte-level BPE, "llama": SentencePiece
    tokenizer.ggml.pre             string       gpt2: the rules that cut text into words
    tokenizer.ggml.tokens          string[n]    how token i is spelled
    tokenizer.ggml.token_type      int32[n]     1 normal 2 unknown 3 control 4 user-defined 5 unused 6 byte
    tokenizer.ggml.merges          string[]     gpt2: "Ġt he", the first of them is merged first
    tokenizer.ggml.scores          float32[n]   llama: the pair that makes the highest is merged first
    tokenizer.ggml.KIND_token_id   uint32       KIND: bos, eos, eot, eom, unknown, ...
    tokenizer.ggml.add_bos_token   bool         and add_eos_token, add_space_prefix

Source: ggml's GGUF specification, docs/gguf.md; llama.cpp's llama-vocab.cpp for defaults and for what it
knows by a token's spelling.
"""

import re
from collections.abc import Iterator

import numpy as np

from blocks2tokens.errors import GGUFError
from blocks2tokens.gguf_file import GGUFFile

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # token types
SPECIAL = (UNKNOWN, CONTROL, USER_DEFINED)  # matched as a whole, before any splitting
COMMANDS = (UNKNOWN, CONTROL)  # of these, what a user's text must not be taken for: the others are words

# Tokens that end a text or a turn, whatever type the file gives them. Source: llama.cpp's llama-vocab.cpp.
END_TOKENS = {
    *("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>"),
    *("<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<end_of_utterance>", "<eos>"),
    *("<｜end▁of▁sentence｜>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
}
KEEP_BLANKS = ("<unk>", "<s>", "<|endoftext|>")  # where the others swallow the blanks behind them
BLANKS = " \t\n\v\f\r"
END_KINDS = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")  # keys that name more of them


class Vocabulary:
    """`tokens` as spelled, `types` uint8 [n]; which ids are `special` and which `ends`.

    `ids` by spelling are of all tokens, `words` of those that text may be made of without being asked to.
    """

    def __init__(self, file: GGUFFile):
        """Read what both kinds of vocabulary have in common; GGUFError for a broken one."""
        self.tokens = _tokens(file)
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        if len(self.ids) < len(self.tokens):
            twice = next(token for i, token in enumerate(self.tokens) if self.ids[token] != i)
            raise GGUFError(f"{file.path}: tokenizer.ggml.tokens: {twice!r} appears twice")
        named = {self.ids[token] for token in END_TOKENS & self.ids.keys()}
        self.types = _types(file, self.tokens)
        self.types[list(named)] = CONTROL
        self.commands = frozenset(np.flatnonzero(np.isin(self.types, COMMANDS)).tolist())
        self.words = {token: i for token, i in self.ids.items() if i not in self.commands}
        special = np.flatnonzero(np.isin(self.types, SPECIAL)).tolist()
        self.special = sorted(special, key=lambda i: -len(self.tokens[i].encode()))
        keyed = (token_id(file, kind, len(self.tokens)) for kind in END_KINDS)
        self.ends = frozenset(named.union(i for i in keyed if i is not None))
        self._swallows = _swallows_blanks(file)

    def __len__(self) -> int:
        return len(self.tokens)

    def split(self, text: str, commands: bool = True) -> list[str | int]:
        """Cut a text into special tokens, as ids, and the texts between them; the longest are found first.

        Without `commands` control tokens and the unknown one are text, as with llama.cpp's parse_special off.
        """
        parts = [text]
        for i in self.special:
            if self.tokens[i] in text and (commands or i not in self.commands):
                parts = [piece for part in parts for piece in self._cut(part, i)]
        return [part for part in parts if part != ""]

    def _cut(self, part: str | int, i: int) -> Iterator[str | int]:
        """Yield a part again, as it is or cut at each token i."""
        if not isinstance(part, str):
            yield part
            return
        first, *others = part.split(self.tokens[i])
        yield first
        for other in others:
            yield i
            yield other.lstrip(BLANKS) if self._swallows and self.tokens[i] not in KEEP_BLANKS else other


def _tokens(file: GGUFFile) -> list[str]:
    """Return the spellings; an empty one gets llama.cpp's name for it, so that every token can be told."""
    tokens = [token or f"[EMPTY_{i}]" for i, token in enumerate(strings(file, "tokenizer.ggml.tokens"))]
    if any(0xD800 <= ord(c) < 0xE000 for c in set("".join(tokens))):  # what the reader makes of other bytes
        raise GGUFError(f"{file.path}: tokenizer.ggml.tokens: a token is not UTF-8")
    return tokens


def _types(file: GGUFFile, tokens: list[str]) -> np.ndarray:
    """Return the token types, uint8 [n]: all are normal if the file is silent."""
    key = "tokenizer.ggml.token_type"
    if key not in file.metadata:
        return np.full(len(tokens), NORMAL, np.uint8)
    types = numbers(file, key, len(tokens), "iu")
    bad = np.flatnonzero((types < NORMAL) | (types > BYTE))
    if bad.size:
        raise GGUFError(f"{file.path}: {key}: token {bad[0]} has type {types[bad[0]]}, expected 1 to 6")
    for i in np.flatnonzero(types == BYTE):
        if not re.fullmatch("<0x[0-9A-Fa-f]{2}>", tokens[i]):
            raise GGUFError(
                f"{file.path}: {key}: token {i} is a byte, expected <0x00> to <0xFF>, got {tokens[i]!r:.60}"
            )
    return types.astype(np.uint8)


def _swallows_blanks(file: GGUFFile) -> bool:
    """Return whether blanks behind a special token go with it, as in Phi-3: no key says so, but the name."""
    name = file.metadata.get("general.name")
    return isinstance(name, str) and bool(re.search("phi-?3", name.lower()))


def string(file: GGUFFile, key: str, default: str | None = None) -> str:
    """Return a string; GGUFError if it is something else, or missing without a default."""
    value = file.metadata.get(key, default)
    if not isinstance(value, str):
        raise GGUFError(f"{file.path}: {key}: expected a string, got {value!r:.60}")
    return value


def strings(file: GGUFFile, key: str) -> list[str]:
    """Return an array of strings; GGUFError if it is something else."""
    value = file.metadata.get(key)
    if not isinstance(value, list) or not all(isinstance(s, str) for s in value):
        raise GGUFError(f"{file.path}: {key}: expected an array of strings")
    return value


def numbers(file: GGUFFile, key: str, n: int, kinds: str) -> np.ndarray:
    """Return an array of n numbers whose dtype's kind is among `kinds`; GGUFError if it is something else."""
    value = file.metadata.get(key)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in kinds:
        what = "numbers" if "f" in kinds else "whole numbers"
        raise GGUFError(f"{file.path}: {key}: expected an array of {what}, got {value!r:.60}")
    if len(value) != n:
        raise GGUFError(f"{file.path}: {key}: expected {n} entries, got {len(value)}")
    return value


def flag(file: GGUFFile, name: str, default: bool) -> bool:
    """Return tokenizer.ggml.`name`; GGUFError if it is no bool."""
    key = f"tokenizer.ggml.{name}"
    value = file.metadata.get(key, default)
    if not isinstance(value, bool):
        raise GGUFError(f"{file.path}: {key}: expected a bool, got {value!r:.60}")
    return value


def token_id(file: GGUFFile, kind: str, n: int, default: int | None = None) -> int | None:
    """Return tokenizer.ggml.`kind`_token_id, if missing the default; GGUFError outside the n tokens."""
    key = f"tokenizer.ggml.{kind}_token_id"
    if key not in file.metadata:
        return default if default is not None and default < n else None
    value = file.metadata[key]
    if type(value) is not int or not 0 <= value < n:
        raise GGUFError(f"{file.path}: {key}: expected 0 <= id < {n}, got {value!r:.60}")
    return value
