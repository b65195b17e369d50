"""Tokenizer: text to token ids and back, from the vocabulary in a GGUF file.

    "Hi<|im_end|>"  --special tokens-->  "Hi", <|im_end|>  --the rest by the vocabulary's kind-->  ids
    ids  --vocabulary-->  bytes  --UTF-8-->  text

    vocabulary.py       tokens, their types, ids with a meaning: what all files have
    byte_level.py       kind "gpt2": words, then merges of their bytes (GPT-2, Llama 3, Qwen)
    sentencepiece.py    kind "llama": merges by score, bytes as a last resort (Llama 2, Mistral)
    chat.py             a conversation as text

Source: llama.cpp's llama-vocab.cpp. The ids are the same as its own.
"""

import codecs
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
        self.add_bos = _adds(file, "bos", self.bos, self._kind.takes_bos)
        self.add_eos = _adds(file, "eos", self.eos, False)
        self.stop_tokens = self._vocabulary.ends.union([] if self.eos is None else [self.eos])
        self.chat_template = file.metadata.get("tokenizer.chat_template")

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text.

        Special tokens spelled out in the text, such as <|im_start|>, become that token. A beginning-of-
        sequence token comes first and an end-of-sequence token last if the file asks for one; an empty
        text is nothing but these. Lone surrogates, which no UTF-8 text can hold, are replaced by U+FFFD.
        Bytes without a token are left out by byte-level vocabularies; SentencePiece ones have the unknown
        token for a character that neither has a token nor bytes that have.
        """
        if not isinstance(text, str):
            raise ValueError(f"text: expected str, got {type(text).__name__}")
        clean = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        ids = [self.bos] if self.add_bos else []
        begins = True  # at the start and behind a special token
        for part in self._vocabulary.split(clean):
            if isinstance(part, str):
                ids += self._kind.encode(" " + part if begins and self._kind.adds_space else part)
            else:
                ids.append(part)
            begins = not isinstance(part, str)
        return [*ids, self.eos] if self.add_eos else ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids, special tokens spelled out; bytes that are no UTF-8 become U+FFFD.

        The ids are taken for a whole text: the space that a SentencePiece vocabulary put in front of it
        is removed again. A continuation, where that space parts two words, is for `decode_stream`.
        """
        pieces = [self.token_bytes(i) for i in ids]
        if pieces and self._kind.adds_space:
            pieces[0] = pieces[0].removeprefix(b" ")
        return b"".join(pieces).decode("utf-8", "replace")

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
        token, kind = self.tokens[i], self._vocabulary.types[i]
        if kind == NORMAL:
            return self._kind.spelled_bytes(token)
        if kind == BYTE:  # "<0xE9>"
            return bytes.fromhex(token[3:5])
        return b"" if kind == UNUSED else token.encode()

    def render_chat(self, messages: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return the text of a conversation in the model's own chat format, ready for `encode`.

        `messages` are dicts with "role" (system, user, assistant) and "content". The template is the
        file's. Raises ValueError if the file has none or the template refuses.
        """
        if not isinstance(self.chat_template, str):
            raise ValueError("this model has no chat template: it continues text and does not chat")
        bos, eos = ("" if i is None else self.tokens[i] for i in (self.bos, self.eos))
        text = chat.render(
            self.chat_template,
            messages=messages,
            add_generation_prompt=add_generation_prompt,
            tools=None,  # templates ask whether there are any
            documents=None,
            bos_token=bos,
            eos_token=eos,
        )
        text = text.removeprefix(bos) if self.add_bos else text  # encode will add it
        return text.removesuffix(eos) if self.add_eos else text


def _adds(file: GGUFFile, kind: str, i: int | None, default: bool) -> bool:
    """Return whether token `kind`, whose id is i, is added to each text; GGUFError if it is not known."""
    name = f"add_{kind}_token"
    adds = flag(file, name, default and i is not None)
    if adds and i is None:
        raise GGUFError(
            f"{file.path}: tokenizer.ggml.{kind}_token_id: missing, and tokenizer.ggml.{name} asks for it"
        )
    return adds
