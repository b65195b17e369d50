"""Vocabularies made from a text, texts to try them on, and chat templates.

with_vocabulary(byte_level("qwen2"))      a SmallModel that has this vocabulary, to be changed by a test
with_vocabulary(sentencepiece("ranks"))

The `tokenizers` library's trainers make them; the text has what real vocabularies are full of: runs of
spaces and newlines, code, digits, contractions, several scripts, emoji.
"""

import json
import lzma
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from small_model import SmallModel, random_tensor, small_model
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
SPACE = "\u2581"
DATA = Path(__file__).parents[1] / "data"

TEXT = """\
The kettle isn't on the stove. She's said that they'd gone, we'll see; I'm sure you've heard it.
They're late! IT'S TRUE, I'M SURE, WE'LL SEE, THEY'RE HERE, YOU'VE BEEN, I'D SAY! It'Ll, we'Re
In 1813 there were 12,345 of them; in 2024, 1234567890. 3.14159 × 2 = 6.28318; 100% of 50. ½ + ¼ = ¾; x² + y³
def fibonacci(n):
    if n < 2:
        return n
    return fibonacci(n - 1) + fibonacci(n - 2)  # slow


class Kettle(object):
\tdef __init__(self, *args, **kwargs):
\t\tself.temperature = {"water": [20, 100], 'steam': None}

\r\n<html><body class="a">&nbsp;</body></html>\r\n\r\n
Der Kessel steht auf dem Herd, die Katze schläft auf dem Stuhl. Là-bas, l'été s'en va; ça n'était qu'un rêve.
Привет, мир! Кошка сидит на стуле, а чайник стоит на плите. Ἐν ἀρχῇ ἦν ὁ λόγος. שלום עולם. مرحبا بالعالم
猫は椅子の上にいます。やかんはコンロの上にあります。猫坐在椅子上，水壶在炉子上。고양이가 의자 위에 있습니다.
नमस्ते दुनिया। สวัสดีชาวโลก 👩‍👩‍👧‍👦 🇫🇷🇩🇪 👍🏽 😀😀😀 … — “quoted” ‘single’
e\u0301e\u0301 o\u0308 ... !!! ??? ---- ====
    four    eight        spaces                and more\t\ttabs\n\n\n\nand newlines\n\n
"""
ODD = "aZéß1٣½ \t\n\r\u00a0\u2003'’.!-_<|$+中あ한😀\u0301\u200dsTmDrevELl"  # each pair is made a token


def with_vocabulary(metadata: dict) -> SmallModel:
    """Return a small model that has the vocabulary of `metadata`."""
    model = small_model(n_layers=1, context_length=8192, chat_template=None)
    model.metadata = {k: v for k, v in model.metadata.items() if not k.startswith("tokenizer.")} | metadata
    model.tensors["token_embd.weight"] = random_tensor(
        "F32", (len(metadata["tokenizer.ggml.tokens"]), 64), np.random.default_rng(0)
    )
    return model


# --- Byte-level -------------------------------------------------------------------------------------------

BYTE_LEVEL_SPECIAL = {
    "<|begin|>": CONTROL,
    "<|endoftext|>": CONTROL,
    "<|im_end|>": NORMAL,  # a file may have it wrong
    "<unk>": UNKNOWN,
    "four  spaces é": USER_DEFINED,
    "<a><b>": USER_DEFINED,
    "<b><long>": USER_DEFINED,
    "<|reserved|>": UNUSED,
    "<0xE9>": BYTE,
    "": NORMAL,
}


def byte_level(pre: str | None) -> dict:
    """Return a byte-level vocabulary that merges across every border which a pre-tokenizer could draw.

    Some tokens have no merge that makes them: Llama 3's rules find them nevertheless, others do not.
    Byte 4 has no token.
    """
    trained, merges = trained_bytes()
    tokens = [*BYTE_LEVEL_SPECIAL, *trained]
    tokens[tokens.index(BYTE_4)] = "no-byte"
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [*BYTE_LEVEL_SPECIAL.values()] + [NORMAL] * len(trained),
        "tokenizer.ggml.merges": [merge for i, merge in enumerate(merges) if i % 7] + merges[1:7],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }
    return {key: value for key, value in metadata.items() if value is not None}


BYTE_4 = "Ą"  # how GPT-2 spells it


@cache
def trained_bytes() -> tuple[list[str], list[str]]:
    """Train a byte-level BPE whose words are whole lines, spaces and all; return its tokens and merges."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=5000,
        min_frequency=3,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator(lines(), trainer)
    tokens = [trained.id_to_token(i) for i in range(trained.get_vocab_size())]
    return tokens, [" ".join(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]


def lines() -> list[str]:
    """Return what vocabularies are trained on: whatever comes three times may become a token."""
    novels = lzma.decompress((DATA / "austen_heldout.txt.xz").read_bytes()).decode()[:60_000]
    pairs = [first + second for first in ODD for second in ODD]
    return [*novels.splitlines(keepends=True), *3 * TEXT.splitlines(keepends=True), *3 * pairs]


# --- SentencePiece ----------------------------------------------------------------------------------------

SENTENCEPIECE_SPECIAL = {
    "<unk>": UNKNOWN,
    "<s>": CONTROL,
    "</s>": CONTROL,
    "<|im_start|>": CONTROL,
    "<tool▁call>": USER_DEFINED,
    "two  spaces": USER_DEFINED,
    "<|reserved|>": UNUSED,
}
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def sentencepiece(scores: str) -> dict:
    """Return a SentencePiece vocabulary with the 256 bytes, of one of three kinds of `scores`.

    "ranks": minus the order in which a BPE trainer made the pieces, as in Llama 2
    "ties": of the same pieces, but hundreds share each score
    "log-probabilities": of a unigram trainer, whose pieces need not be made of smaller ones
    """
    pieces = unigram_pieces() if scores == "log-probabilities" else bpe_pieces()
    step = 300 if scores == "ties" else 1
    pieces = {piece: score // step if step > 1 else score for piece, score in pieces.items()}
    for taken in (*SENTENCEPIECE_SPECIAL, *BYTES):
        pieces.pop(taken, None)
    n_fixed = len(SENTENCEPIECE_SPECIAL) + len(BYTES)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [*SENTENCEPIECE_SPECIAL, *BYTES, *pieces],
        "tokenizer.ggml.scores": [0.0] * n_fixed + [float(score) for score in pieces.values()],
        "tokenizer.ggml.token_type": [
            *SENTENCEPIECE_SPECIAL.values(),
            *[BYTE] * len(BYTES),
            *[NORMAL] * len(pieces),
        ],
    }


@cache
def bpe_pieces() -> dict[str, float]:
    """Return pieces with their scores, from a BPE of characters over whole lines."""
    trained = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=5000, min_frequency=3, limit_alphabet=120, show_progress=False)
    trained.train_from_iterator([line.replace(" ", SPACE) for line in lines()], trainer)
    return {trained.id_to_token(i): -i for i in range(trained.get_vocab_size())}


@cache
def unigram_pieces() -> dict[str, float]:
    """Return pieces with their log-probabilities, from a unigram model over words."""
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=800, show_progress=False, unk_token="<unk>")
    trained.train_from_iterator(lines(), trainer)
    return dict(json.loads(trained.to_str())["model"]["vocab"])


# --- Texts ------------------------------------------------------------------------------------------------

RANGES = {
    "ASCII": [(0x20, 0x7E)],
    "control": [(0x00, 0x1F), (0x7F, 0x9F)],
    "Latin": [(0xA0, 0x24F)],
    "combining": [(0x61, 0x7A), (0x300, 0x36F)],
    "Greek to Arabic": [(0x370, 0x6FF)],
    "Indic": [(0x900, 0xDFF)],
    "punctuation": [(0x2000, 0x206F), (0xFEFF, 0xFEFF), (0x3000, 0x3003)],
    "CJK": [(0x4E00, 0x9FFF), (0x3040, 0x30FF), (0xAC00, 0xD7A3)],
    "private and special": [(0xE000, 0xE0FF), (0xFFF0, 0xFFFF)],
    "emoji": [(0x1F300, 0x1FAFF), (0x200D, 0x200D), (0xFE0F, 0xFE0F), (0x1F1E6, 0x1F1FF)],
    "anything": [(0x0, 0xD7FF), (0xE000, 0x10FFFF)],
    "numbers and spaces": [(0x30, 0x39), (0x660, 0x669), (0x2150, 0x218B), (0x20, 0x20), (0x9, 0xD)],
}
CONTRACTIONS = ["s", "T", "m", "D", "re", "rE", "ve", "vE", "ll", "Ll", "LL", "l", "L", "v", "r", "e"]
TEXTS = [
    "",
    " ",
    "   \n\n\t x ",
    "\0",
    "a\0b",
    "\r\n",
    "x \r\n\r\n  \n y\r",
    "ends in spaces   ",
    "\ufeffbyte order mark",
    "naïve café",
    "e\u0301\u0323",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467",
    "🏳️‍🌈🇩🇪 👍🏽👍🏿 ❤️",
    "ἔστι δὲ",
    "שלום",
    "ﷺ مرحبا، ١٢٣",
    "東京は、日本の首都です。２０２４年",
    "한국어 띄어쓰기",
    "no\u00a0break\u2003em\u200bzero\u2028line\x85next",
    "Ġthe Ċ",
    "▁the▁▁ ▁",
    "<0x41><0xC3><0xA9>",
    "<|im_start|>user\n<|im_end|>",
    "<|im_start|",
    "<|begin|> a<|endoftext|>b <|im_end|>\n<unk> <s>x</s> </s>",
    "<a><b><long><a><b>",
    "four  spaces étwo  spaces",
    "<tool▁call> <tool call><|reserved|>[EMPTY_9]",
    "a" * 10_000,
    "ab" * 3_000,
    " " * 500 + "x" + "\n" * 500,
    "12345 ٣٤ ½ Ⅻ 1,024 3.14e-10 0x1F x²",
    "it's they'LL 'tis I'M don'T we'Re o'clock 'S ''s 'ſ it’s",
    " ".join(f"a'{c}{letter}" for c in CONTRACTIONS for letter in "aZéTrevELlsDmß"),
    "snake_case camelCase ALLCAPS Mixed123Case $100 50% #1 @x a+b=c",
    "def f(x):\n    if x:\n\treturn -x  # no\n\n\n",
    "https://example.org/a?b=c&d=%20#e ... !!! ?!",
]


def random_texts(kind: str, n: int) -> Iterator[str]:
    """Yield n texts of 1 to 40 characters of one kind."""
    chance = random.Random(kind)
    for _ in range(n):
        ranges = chance.choices(RANGES[kind], k=chance.randint(1, 40))
        yield "".join(chr(chance.randint(first, last)) for first, last in ranges)


def random_mixtures(words, n: int) -> Iterator[str]:
    """Yield n texts of 1 to 20 of the words."""
    chance = random.Random(0)
    for _ in range(n):
        yield "".join(chance.choices(list(words), k=chance.randint(1, 20)))
