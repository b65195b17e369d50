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

# Letters of the scripts with two cases, by their code points, as DeepSeek's first models list them.
_CASED_LETTERS = """
    41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A
    38C 38E-3A1 3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF
    1D00-1D2B 1D6B-1D77 1D79-1D9A 1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D
    1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4 1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4
    1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124 2126 2128 212A-212D 212F-2134 2139 213C-213F
    2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D A680-A69B A722-A76F
    A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F 104B0-104D3
    104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943
"""


def _class(code_points: str) -> str:
    """Return the inside of a character class.

    >>> _class("41-5A b5")
    'A-Zµ'
    """
    return "".join("-".join(chr(int(c, 16)) for c in part.split("-")) for part in code_points.split())


_HAN_TO_HANGUL = "[" + _class("800-9FA5 AC00-D7FF") + r"&&\S]+"  # no blank, for llama.cpp
_HAN_AND_KANA = "[" + _class("4E00-9FA5 3040-309F 30A0-30FF") + "]+"
_PUNCTUATED = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
_UPPER, _LOWER = r"[\p{L}&&[^a-z]]", r"[\p{L}&&[^A-Z]]"  # of letters beyond ASCII every one is both
_CASED = r"[^\r\n\p{L}\p{N}]?%s*%s+%s|[^\r\n\p{L}\p{N}]?%s+%s*%s"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _cased(suffix: str) -> str:
    """Return the pattern of words cut where small letters end and capitals begin."""
    return _CASED % (_UPPER, _LOWER, suffix, _UPPER, _LOWER, suffix)


# tokenizer.ggml.pre -> patterns. Each in turn cuts the words that the one before it left: what it matches
# becomes words, and so does what lies between.
PRE_TOKENIZERS = {
    "gpt-2": (_GPT_2,),
    "smollm": (r"\p{N}", _GPT_2),
    "llama-bpe": (_LLAMA_3 % r"\p{N}{1,3}",),
    "qwen2": (_LLAMA_3 % r"\p{N}",),
    "qwen35": (
        _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    "tekken": (rf"{_cased('')}|\p{{N}}|{_REST}",),
    "gpt-4o": (rf"{_cased(f'(?:{_CONTRACTIONS})?')}|\p{{N}}{{1,3}}|{_REST}",),
    "deepseek-llm": (
        r"[\r\n]",
        rf"\s?[{_class(_CASED_LETTERS)}]+",
        r"\s?[!-/:-~" + _class("FF01-FF0F FF1A-FF5E 2018-201F 3001-3002") + "]+",
        r"\s+\z",
        _HAN_TO_HANGUL,
        r"\p{N}+",
    ),
    "deepseek-coder": (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN_TO_HANGUL, r"\p{N}"),
    "deepseek-v3": (
        r"\p{N}{1,3}",
        _HAN_AND_KANA,
        _PUNCTUATED + r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    "falcon": (r"[\p{P}\$\+<=>\^~\|`]+", _GPT_2, "[0-9][0-9][0-9]"),
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _GPT_2, r"\p{N}+", "[0-9][0-9][0-9]"),  # of files without the key
}
OTHER_NAMES = {  # models that were given a name of their own, for the same rules
    "gpt-2": "phi-2 gigachat a.x-4.0 mellum exaone4 mpt olmo jais trillion granite-docling",
    "smollm": "starcoder refact command-r codeshell exaone minerva-7b mellum2",
    "llama-bpe": "llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2",
    "qwen2": "deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2",
    "gpt-4o": "llama4 kanana2",
    "deepseek-v3": "hunyuan-dense",
}
WITH_BOS = {"llama-bpe", "tekken"}  # rules of models that want a beginning where the file does not say
WHOLE_WORDS = {"llama-bpe", "tekken"}  # and that take a word of the vocabulary as it is
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
        self.takes_bos = RULES_OF[pre] in WITH_BOS
        self._missing = len(vocabulary)  # an id of its own: what has no token still parts its neighbours
        self._merger = Merger(
            models.BPE(
                {**vocabulary.words, "": self._missing},
                _merges(file, vocabulary),
                unk_token="",
                ignore_merges=RULES_OF[pre] in WHOLE_WORDS,
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
    ids, words, merges = vocabulary.ids, vocabulary.words, {}
    for merge in strings(file, key):
        first, _, second = merge.partition(" ")
        joined = first + second
        if not (first in ids and second in ids and joined in ids):  # the library would panic
            raise GGUFError(f"{file.path}: {key}: {merge!r} does not join two tokens to a third")
        if first in words and second in words and joined in words:
            merges[first, second] = None
    return list(merges)
