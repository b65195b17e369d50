"""Tokenizer: text to token ids and back, from the vocabulary in a GGUF file.

    "Hello 42"  --pre-tokenizer-->  "Hello", " ", "4", "2"  --bytes, merges-->  ids
    ids  --vocabulary-->  strings of mapped bytes  --byte map-->  bytes  --UTF-8-->  text

GPT-2-style vocabularies spell each of the 256 bytes as a printable character (a space is "Ġ"). The
merging itself is the `tokenizers` library's; a lesson builds it by hand.
"""

import codecs
from collections.abc import Iterable, Iterator
from numbers import Integral

import jinja2
import numpy as np
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, models, pre_tokenizers
from tokenizers import Tokenizer as Merger

from blocks2tokens.errors import GGUFError, UnsupportedError
from blocks2tokens.gguf_file import GGUFFile

# Special tokens that end a text or a turn, whatever the file says. Source: llama.cpp's llama-vocab.cpp.
END_TOKENS = {"<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>"}
CONTROL, USER_DEFINED = 3, 4  # token types that are matched as a whole, before any splitting


def _byte_level(*before):
    """Split as GPT-2 does, after the given steps, and map bytes to characters."""
    return pre_tokenizers.Sequence([*before, pre_tokenizers.ByteLevel(add_prefix_space=False)])


# tokenizer.ggml.pre -> how text is cut before merging. Source: llama.cpp's llama-vocab.cpp.
PRE_TOKENIZERS = {
    "gpt-2": lambda: _byte_level(),
    "smollm": lambda: _byte_level(pre_tokenizers.Digits(individual_digits=True)),
}


def byte_characters() -> list[str]:
    """Return the character that stands for each byte, as GPT-2 assigned them: 256 strings."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spare = iter(range(256, 512))
    return [chr(b if b in printable else next(spare)) for b in range(256)]


BYTE_OF = {character: byte for byte, character in enumerate(byte_characters())}


class Tokenizer:
    """The vocabulary of a GGUF file with its rules."""

    def __init__(self, file: GGUFFile):
        """Read the vocabulary; UnsupportedError for a kind we do not have, GGUFError for a broken one."""
        model, pre = _string(file, "tokenizer.ggml.model"), _string(file, "tokenizer.ggml.pre", "gpt-2")
        if model != "gpt2":
            raise UnsupportedError(f"{file.path}: tokenizer {model!r}, supported: 'gpt2'")
        if pre not in PRE_TOKENIZERS:
            raise UnsupportedError(
                f"{file.path}: pre-tokenizer {pre!r}, supported: {', '.join(PRE_TOKENIZERS)}"
            )
        self.tokens = _string_list(file, "tokenizer.ggml.tokens")
        self._special = _special_ids(file, len(self.tokens))
        self._merger = _merger(file, self.tokens, self._special, pre)
        self.bos = _token_id(file, "bos", len(self.tokens))
        self.eos = _token_id(file, "eos", len(self.tokens))
        self.add_bos = _add_bos(file, self.bos)
        self.chat_template = file.metadata.get("tokenizer.chat_template")
        eot = _token_id(file, "eot", len(self.tokens))
        ends = (i for i in self._special if self.tokens[i] in END_TOKENS)
        self.stop_tokens = frozenset(i for i in (self.eos, eot, *ends) if i is not None)

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text.

        Special tokens spelled out in the text, such as <|im_start|>, become that token. A beginning-of-
        sequence token comes first if the file asks for one. Lone surrogates, which no UTF-8 text can
        hold, are replaced by U+FFFD. Bytes without a token are left out: some vocabularies lack a few
        control characters.
        """
        if not isinstance(text, str):
            raise ValueError(f"text: expected str, got {type(text).__name__}")
        clean = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        ids = self._merger.encode(clean, add_special_tokens=False).ids
        return [self.bos, *ids] if self.add_bos else ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids, special tokens spelled out; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(self.token_bytes(i) for i in ids).decode("utf-8", "replace")

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Yield the text of each token as it comes; a character split over tokens waits for its last byte."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for i in ids:
            yield decoder.decode(self.token_bytes(i))
        if rest := decoder.decode(b"", final=True):
            yield rest

    def token_bytes(self, i: int) -> bytes:
        """Return the bytes that a token stands for; ValueError for an id outside the vocabulary."""
        if not isinstance(i, Integral) or not 0 <= i < len(self.tokens):
            raise ValueError(f"id: expected a whole number, 0 <= id < {len(self.tokens)}, got {i!r}")
        token = self.tokens[i]
        if i in self._special:
            return token.encode("utf-8", "surrogateescape")
        return b"".join(
            bytes([BYTE_OF[c]]) if c in BYTE_OF else c.encode("utf-8", "surrogateescape") for c in token
        )

    def render_chat(self, messages: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return the text of a conversation in the model's own chat format.

        `messages` are dicts with "role" (system, user, assistant) and "content". The template is the
        file's Jinja, run in a sandbox. Raises ValueError if the file has none or the template refuses.
        """
        if not isinstance(self.chat_template, str):
            raise ValueError("this model has no chat template: it continues text and does not chat")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse
        try:
            return environment.from_string(self.chat_template).render(
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                bos_token="" if self.add_bos else self._spelled(self.bos),
                eos_token=self._spelled(self.eos),
            )
        except Exception as error:  # a template is a program: it may divide by zero as well as refuse
            raise ValueError(f"chat template: {error}") from error

    def _spelled(self, i: int | None) -> str:
        return "" if i is None else self.tokens[i]


def _refuse(message):
    raise jinja2.TemplateError(message)


def _string(file: GGUFFile, key: str, default: str | None = None) -> str:
    value = file.metadata.get(key, default)
    if not isinstance(value, str):
        raise GGUFError(f"{file.path}: {key}: expected a string, got {value!r:.60}")
    return value


def _string_list(file: GGUFFile, key: str) -> list[str]:
    value = file.metadata.get(key)
    if not isinstance(value, list) or not all(isinstance(s, str) for s in value):
        raise GGUFError(f"{file.path}: {key}: expected an array of strings")
    return value


def _token_id(file: GGUFFile, kind: str, vocab_size: int) -> int | None:
    key = f"tokenizer.ggml.{kind}_token_id"
    value = file.metadata.get(key)
    if value is not None and (type(value) is not int or not 0 <= value < vocab_size):
        raise GGUFError(f"{file.path}: {key}: expected 0 <= id < {vocab_size}, got {value!r:.60}")
    return value


def _add_bos(file: GGUFFile, bos: int | None) -> bool:
    key = "tokenizer.ggml.add_bos_token"
    value = file.metadata.get(key, False)
    if not isinstance(value, bool):
        raise GGUFError(f"{file.path}: {key}: expected a bool, got {value!r:.60}")
    if value and bos is None:
        raise GGUFError(f"{file.path}: tokenizer.ggml.bos_token_id: missing, and {key} asks for it")
    return value


def _special_ids(file: GGUFFile, vocab_size: int) -> frozenset[int]:
    key = "tokenizer.ggml.token_type"
    types = file.metadata.get(key)
    if types is None:
        return frozenset()
    if not isinstance(types, np.ndarray) or types.dtype.kind not in "iu":
        raise GGUFError(f"{file.path}: {key}: expected an array of whole numbers, got {types!r:.60}")
    if len(types) != vocab_size:
        raise GGUFError(f"{file.path}: {key}: expected {vocab_size} entries, got {len(types)}")
    return frozenset(np.flatnonzero(np.isin(types, (CONTROL, USER_DEFINED))).tolist())


def _merger(file: GGUFFile, tokens: list[str], special: frozenset[int], pre: str) -> Merger:
    if any(0xD800 <= ord(c) < 0xE000 for c in set("".join(tokens))):  # what the reader makes of other bytes
        raise GGUFError(f"{file.path}: tokenizer.ggml.tokens: a token is not UTF-8")
    ids = {token: i for i, token in enumerate(tokens)}
    if len(ids) < len(tokens):
        twice = next(token for i, token in enumerate(tokens) if ids[token] != i)
        raise GGUFError(f"{file.path}: tokenizer.ggml.tokens: {twice!r} appears twice")
    merger = Merger(models.BPE(ids, _merges(file, ids)))
    merger.pre_tokenizer = PRE_TOKENIZERS[pre]()
    merger.add_special_tokens([AddedToken(tokens[i], normalized=False) for i in sorted(special)])
    return merger


def _merges(file: GGUFFile, ids: dict[str, int]) -> list[tuple[str, str]]:
    key = "tokenizer.ggml.merges"
    merges = []
    for merge in _string_list(file, key):
        first, _, second = merge.partition(" ")
        if not {first, second, first + second} <= ids.keys():  # the library would panic
            raise GGUFError(f"{file.path}: {key}: {merge!r} does not join two tokens to a third")
        merges.append((first, second))
    return merges
