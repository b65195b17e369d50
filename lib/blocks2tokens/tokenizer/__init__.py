"""Tokenizer: text to token ids and back, from the vocabulary in a GGUF file.

    "Hi<|im_end|>"  --special tokens-->  "Hi", <|im_end|>  --the rest by the vocabulary's kind-->  ids
    ids  --vocabulary-->  bytes  --UTF-8-->  text

    vocabulary.py       tokens, their types, ids with a meaning: what all files have
    byte_level.py       kind "gpt2": words, then merges of their bytes (GPT-2, Llama 3, Qwen)
    sentencepiece.py    kind "llama": merges by score, bytes as a last resort (Llama 2, Mistral)
    chat.py             a conversation as text, by a template that runs in sandbox.py

Source: llama.cpp's llama-vocab.cpp. The ids are the same as its own.
"""

import codecs
import json
import warnings
from collections.abc import Iterable, Iterator
from numbers import Integral

from blocks2tokens.errors import GGUFError, UnsupportedError
from blocks2tokens.gguf_file import GGUFFile
from blocks2tokens.tokenizer import chat
from blocks2tokens.tokenizer.byte_level import PRE_TOKENIZERS, ByteLevelBPE, byte_characters
from blocks2tokens.tokenizer.sentencepiece import SentencePiece
from blocks2tokens.tokenizer.vocabulary import BYTE, NORMAL, UNUSED, Vocabulary, flag, string, token_id

__all__ = ["PRE_TOKENIZERS", "Tokenizer", "byte_characters"]

KINDS = {"gpt2": ByteLevelBPE, "llama": SentencePiece}  # by tokenizer.ggml.model


class Tokenizer:
    """The vocabulary of a GGUF file with its rules."""

    def __init__(self, file: GGUFFile):
        """Read the vocabulary; UnsupportedError for a kind we do not have, GGUFError for a broken one."""
        model = string(file, "tokenizer.ggml.model")
        if model not in KINDS:
            raise UnsupportedError(f"{file.path}: tokenizer {model!r}, supported: {', '.join(KINDS)}")
        self._vocabulary = Vocabulary(file)
        self._kind = KINDS[model](file, self._vocabulary)
        self.tokens = self._vocabulary.tokens
        self.bos = token_id(file, "bos", len(self), self._kind.default_bos)
        self.eos = token_id(file, "eos", len(self), self._kind.default_eos)
        self.add_bos = _adds_bos(file, self.bos, self._kind.takes_bos)
        flag(file, "add_eos_token", False)
        self.stop_tokens = self._vocabulary.ends.union([] if self.eos is None else [self.eos])
        self.chat_template = file.metadata.get("tokenizer.chat_template")

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Return the token ids of a text that is to be continued.

        Special tokens spelled out in the text, such as <|im_start|>, become that token; with `special` False
        they are text like any other, as it should be for what comes from a user. Tokens that the file calls
        user-defined are words in both cases. A beginning-of-sequence token comes first if the file asks for
        one; an end-of-sequence token is never added, whatever the file asks: nothing would follow it.

        Lone surrogates, which no UTF-8 text can hold, are replaced by U+FFFD. Bytes without a token are left
        out by byte-level vocabularies; SentencePiece ones have the unknown token for a character that neither
        has a token nor bytes that have.
        """
        if not isinstance(text, str):
            raise ValueError(f"text: expected str, got {type(text).__name__}")
        return self._ids(self._vocabulary.split(_clean(text), special))

    def encode_chat(self, messages: list[dict], add_generation_prompt: bool = True, **variables) -> list[int]:
        """Return the token ids of a conversation: those of `render_chat`'s text, but for one thing.

        Special tokens are the template's alone: where a message or a variable spells one, that is text. So
        nobody can end his turn and begin another's by writing <|im_end|>.
        """
        mark = _unused_character([messages, variables])
        marked = [_marked(value, self._commands, mark) for value in (messages, variables)]
        text = self.render_chat(marked[0], add_generation_prompt, **marked[1])
        parts = self._vocabulary.split(_clean(text))
        return self._ids([part.replace(mark, "") if isinstance(part, str) else part for part in parts])

    def _ids(self, parts: list[str | int]) -> list[int]:
        """Return the ids of texts and special tokens, with a beginning if the file asks for one."""
        ids = [self.bos] if self.add_bos else []
        if ids and parts and parts[0] == self.bos:
            name = self.tokens[self.bos]
            warnings.warn(
                f"two {name}: the text begins with one, and the model's file adds one", stacklevel=3
            )
        begins = True  # at the start and behind a special token
        for part in parts:
            if isinstance(part, str):
                ids += self._kind.encode(" " + part if begins and self._kind.adds_space else part)
            else:
                ids.append(part)
            begins = not isinstance(part, str)
        return ids

    @property
    def _commands(self) -> list[str]:
        """The special tokens that text must not be taken for, as spelled, those first that hold others."""
        return [self.tokens[i] for i in self._vocabulary.special if i in self._vocabulary.commands]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids, special tokens spelled out; bytes that are no UTF-8 become U+FFFD.

        The ids are taken for a whole text: the space that a SentencePiece vocabulary put in front of it
        is removed again. A continuation, where that space parts two words, is for `decode_stream`.
        """
        pieces = [self.token_bytes(i) for i in ids]
        if pieces and self._kind.adds_space:
            pieces[0] = pieces[0].removeprefix(b" ")
        return b"".join(pieces).decode("utf-8", "replace")

    def decode_stream(self, ids: Iterable[int], whole: bool = False) -> Iterator[str]:
        """Yield the text of each token as it comes; a character split over tokens waits for its last byte.

        The ids continue a text, or are a `whole` one, as an answer in a chat is: then the first token's space
        goes as in `decode`.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        first = whole and self._kind.adds_space
        for i in ids:
            piece = self.token_bytes(i)
            yield decoder.decode(piece.removeprefix(b" ") if first else piece)
            first = False
        if rest := decoder.decode(b"", final=True):
            yield rest

    def token_bytes(self, i: int) -> bytes:
        """Return the bytes that a token stands for; ValueError for an id outside the vocabulary."""
        if not isinstance(i, Integral) or not 0 <= i < len(self.tokens):
            raise ValueError(f"id: expected a whole number, 0 <= id < {len(self.tokens)}, got {i!r}")
        token, kind = self.tokens[i], self._vocabulary.types[i]
        if kind == NORMAL:
            return self._kind.spelled_bytes(token)
        if kind == BYTE:  # "<0xE9>"
            return bytes.fromhex(token[3:5])
        return b"" if kind == UNUSED else token.encode()

    def render_chat(self, messages: list[dict], add_generation_prompt: bool = True, **variables) -> str:
        """Return the text of a conversation in the model's own chat format, ready for `encode`.

        `messages` are dicts with "role" (system, user, assistant, tool ...) and "content", a string or a list
        of parts, {"type": "text", "text": ...}. The template is the file's; `variables` are more that it may
        look at: enable_thinking=False, tools=[...]. For what strangers typed there is `encode_chat`.

        Raises ValueError if the file has no template, if the template refuses or fails, and if what a system
        or user message says is not in the text that it makes.
        """
        if not isinstance(self.chat_template, str):
            raise ValueError("this model has no chat template: it continues text and does not chat")
        bos, eos = ("" if i is None else self.tokens[i] for i in (self.bos, self.eos))
        own = {"bos_token": bos, "eos_token": eos, "add_generation_prompt": add_generation_prompt}
        if taken := variables.keys() & own:
            raise ValueError(f"template variables: {', '.join(sorted(taken))} is the file's to say")
        asked_for = {"tools": None, "documents": None}  # templates ask whether there are any
        text = chat.render_messages(self.chat_template, messages, **asked_for | variables | own)
        return text.removeprefix(bos) if self.add_bos else text  # encode will add it


def _adds_bos(file: GGUFFile, bos: int | None, default: bool) -> bool:
    """Return whether a beginning is added to each text; GGUFError if it is not known which."""
    adds = flag(file, "add_bos_token", default and bos is not None)
    if adds and bos is None:
        key = "tokenizer.ggml.bos_token_id"
        raise GGUFError(f"{file.path}: {key}: missing, and tokenizer.ggml.add_bos_token asks for it")
    return adds


def _clean(text: str) -> str:
    """Return a text that is Unicode: without lone surrogates."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _unused_character(values) -> str:
    """Return a character of private use that is nowhere in the values."""
    said = set(json.dumps(values, ensure_ascii=False, default=str))
    unused = (c for c in map(chr, range(0xF0000, 0x10FFFE)) if c not in said)
    if (character := next(unused, None)) is None:
        raise ValueError("messages: expected text, got every character that there is for private use")
    return character


def _marked(value, tokens: list[str], mark: str):
    """Return a value in whose strings a mark parts the first character of each of the tokens from the rest.

    Templates then find in it what they would find anyway, and the tokenizer none of the tokens.
    """
    if isinstance(value, dict):
        return {key: _marked(part, tokens, mark) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_marked(part, tokens, mark) for part in value]
    if isinstance(value, str):
        for token in tokens:
            while len(token) > 1 and token in value:  # again where one overlaps itself
                value = value.replace(token, token[0] + mark + token[1:])
    return value
