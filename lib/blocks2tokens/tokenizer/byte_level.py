"""Byte-level BPE, GPT-2's kind of vocabulary: text is cut into words, each word's bytes are merged.

    "it's 42"  --cut-->  "it", "'s", " 42"  --bytes as characters-->  "it", "'s", "Ġ42"  --merges-->  ids

Each of the 256 bytes is spelled as a printable character (a space is "Ġ"), so a token is readable text.
The merging itself is the `tokenizers` library's; a lesson builds it by hand.

Source: llama.cpp's llama-vocab.cpp and unicode.cpp, for the patterns and who uses which.
"""

import warnings

from tokenizers import Regex, models
from tokenizers import Tokenizer as Merger
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

from blocks2tokens.errors import GGUFError, UnsupportedError
from blocks2tokens.gguf_file import GGUFFile
from blocks2tokens.tokenizer.vocabulary import Vocabulary, string, strings

_GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
_LLAMA_3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

# tokenizer.ggml.pre -> patterns. Each in turn cuts the words that the one before it left: what it matches
# becomes words, and so does what lies between.
PRE_TOKENIZERS = {
    "gpt-2": (_GPT_2,),
    "smollm": (r"\p{N}", _GPT_2),
    "llama-bpe": (_LLAMA_3 % r"\p{N}{1,3}",),
    "qwen2": (_LLAMA_3 % r"\p{N}",),
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _GPT_2, r"\p{N}+", "[0-9][0-9][0-9]"),  # of files without the key
}
OTHER_NAMES = {  # models that were given a name of their own, for the same rules
    "gpt-2": "phi-2 gigachat a.x-4.0 mellum exaone4 mpt olmo jais trillion granite-docling",
    "smollm": "starcoder refact command-r codeshell exaone minerva-7b mellum2",
    "llama-bpe": "llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2",
    "qwen2": "deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2",
}
RULES_OF = {other: name for name, others in OTHER_NAMES.items() for other in others.split()}
RULES_OF |= {name: name for name in PRE_TOKENIZERS}


def byte_characters() -> list[str]:
    """Return the character that stands for each byte, as GPT-2 assigned them: 256 strings."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spare = iter(range(256, 512))
    return [chr(b if b in printable else next(spare)) for b in range(256)]


BYTE_OF = {character: byte for byte, character in enumerate(byte_characters())}


class ByteLevelBPE:
    """A vocabulary with merges; `takes_bos`: its models want a beginning where the file does not say."""

    default_bos = default_eos = None
    adds_space = False

    def __init__(self, file: GGUFFile, vocabulary: Vocabulary):
        """Read the rules; UnsupportedError for a pre-tokenizer not listed, GGUFError for broken merges."""
        pre = string(file, "tokenizer.ggml.pre", "default")
        if "tokenizer.ggml.pre" not in file.metadata:
            warnings.warn(
                f"{file.path}: tokenizer.ggml.pre is missing, as in files made before May 2024: how text is "
                "cut into words is guessed, and the model may answer worse for it",
                stacklevel=2,
            )
        if pre not in RULES_OF:
            known = ", ".join(sorted(RULES_OF))
            raise UnsupportedError(f"{file.path}: pre-tokenizer {pre!r}, supported: {known}")
        self.takes_bos = whole_words = RULES_OF[pre] == "llama-bpe"
        self._missing = len(vocabulary)  # an id of its own: what has no token still parts its neighbours
        self._merger = Merger(
            models.BPE(
                {**vocabulary.words, "": self._missing},
                _merges(file, vocabulary),
                unk_token="",
                ignore_merges=whole_words,  # Llama 3: a word in the vocabulary is taken as it is
            )
        )
        cuts = [Split(Regex(pattern), "isolated") for pattern in PRE_TOKENIZERS[RULES_OF[pre]]]
        self._merger.pre_tokenizer = Sequence([*cuts, ByteLevel(add_prefix_space=False, use_regex=False)])

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text without special tokens; bytes that have no token are left out."""
        return [i for i in self._merger.encode(text).ids if i != self._missing]

    @staticmethod
    def spelled_bytes(token: str) -> bytes:
        """Return the bytes of a token as it is spelled; a character that stands for none is its own UTF-8."""
        return b"".join(bytes([BYTE_OF[c]]) if c in BYTE_OF else c.encode() for c in token)


def _merges(file: GGUFFile, vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Return the pairs to merge, each where it stands first; GGUFError for one that makes no token."""
    key = "tokenizer.ggml.merges"
    merges = {}
    for merge in strings(file, key):
        first, _, second = merge.partition(" ")
        if not {first, second, first + second} <= vocabulary.ids.keys():  # the library would panic
            raise GGUFError(f"{file.path}: {key}: {merge!r} does not join two tokens to a third")
        if {first, second, first + second} <= vocabulary.words.keys():
            merges.setdefault((first, second))
    return list(merges)
