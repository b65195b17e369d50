"""Ids, texts and chats of small vocabularies against llama.cpp's: all equal, nothing is allowed for.

Not compared, because llama.cpp is peculiar there:
- letters and digits of Unicode 16, which its tables do not know yet;
- special tokens that are to be text: SentencePiece's merges join "<s" and ">" to <s> there, and not here;
- characters without a token in a SentencePiece vocabulary without bytes, which it answers with an error;
- the text of byte-level ids by its detokenizer, which drops spaces before punctuation unless the
  pre-tokenizer is one of a few; the text of the tokens one by one has no such rules.
"""

from contextlib import contextmanager
from itertools import combinations

import numpy as np
import pytest
from chat_templates import ANSWER, CHAT, QUESTION, SYSTEM, TEMPLATES, THANKS, THOUGHT
from llama_cpp import llama_cpp
from vocabularies import (
    BYTE_LEVEL_SPECIAL,
    CONTROL,
    ODD,
    RANGES,
    SENTENCEPIECE_SPECIAL,
    TEXT,
    TEXTS,
    USER_DEFINED,
    byte_level,
    random_mixtures,
    random_texts,
    sentencepiece,
    with_vocabulary,
)

from blocks2tokens import GGUFFile
from blocks2tokens.tokenizer import PRE_TOKENIZERS, Tokenizer
from blocks2tokens.tokenizer.byte_level import OTHER_NAMES

KEY = "tokenizer.ggml."
NEWER = [  # blocks in which Unicode 16 has new letters or digits
    *[(0x1C80, 0x1C8F), (0xA7C0, 0xA7DF), (0x105C0, 0x105FF), (0x10D40, 0x10D8F), (0x10EC0, 0x10EFF)],
    *[(0x11380, 0x113FF), (0x116D0, 0x116FF), (0x11BC0, 0x11BFF), (0x11DE0, 0x11DEF), (0x13460, 0x143FF)],
    *[(0x16100, 0x1613F), (0x16D40, 0x16D7F), (0x16FF0, 0x16FFF), (0x18CFF, 0x18CFF), (0x1CC00, 0x1CCFF)],
    (0x1E5D0, 0x1E5FF),
]


def known(text):
    """Return a text without the characters of NEWER."""
    return "".join(c for c in text if not any(first <= ord(c) <= last for first, last in NEWER))


def changed(metadata, changes):
    """Return the metadata with keys of the tokenizer changed; None leaves one out."""
    metadata = metadata | {KEY + key: value for key, value in changes.items()}
    return {key: value for key, value in metadata.items() if value is not None}


def whole_scores():
    metadata = sentencepiece("ranks")
    return changed(metadata, {"scores": [int(score) for score in metadata[KEY + "scores"]]})


def extreme_scores():
    metadata = sentencepiece("ranks")
    scores = [np.inf if i % 50 == 0 else -np.inf if i % 51 == 0 else i for i in metadata[KEY + "scores"]]
    return changed(metadata, {"scores": scores})


def no_types():
    """A byte-level vocabulary of normal tokens; none has a blank, for which llama.cpp has no text."""
    metadata = byte_level("qwen2")
    tokens = [token.replace(" ", "_") for token in metadata[KEY + "tokens"]]
    return changed(metadata, {"tokens": tokens, "token_type": None})


def phi_3():
    """A SentencePiece vocabulary whose special tokens swallow the blanks behind them, all but three."""
    more = {"<|user|>": CONTROL, "<|end|>": USER_DEFINED, "<|endoftext|>": CONTROL}
    metadata = sentencepiece("ranks") | {"general.name": "Little Phi-3, mended"}
    metadata[KEY + "tokens"] += [*more]
    metadata[KEY + "token_type"] += [*more.values()]
    metadata[KEY + "scores"] += [0.0] * len(more)
    return metadata


BOTH_ENDS = {"add_bos_token": True, "add_eos_token": True}
BYTE_LEVEL = {
    **{pre: lambda pre=pre: byte_level(pre) for pre in PRE_TOKENIZERS},
    "no pre-tokenizer": lambda: byte_level(None),
    "byte-level, no types": no_types,
    "byte-level, both ends": lambda: changed(byte_level("qwen2"), BOTH_ENDS),
    "no beginning": lambda: changed(byte_level("llama-bpe"), {"add_bos_token": False}),
}
SENTENCEPIECE = {
    **{kind: lambda kind=kind: sentencepiece(kind) for kind in ("ranks", "ties", "log-probabilities")},
    "whole scores": whole_scores,
    "extreme scores": extreme_scores,
    "no types": lambda: changed(sentencepiece("ranks"), {"token_type": None}),
    "no space in front": lambda: changed(sentencepiece("ranks"), {"add_space_prefix": False}),
    "both ends": lambda: changed(sentencepiece("ties"), BOTH_ENDS | {"bos_token_id": 300, "eos_token_id": 5}),
    "end alone": lambda: changed(sentencepiece("ties"), BOTH_ENDS | {"add_bos_token": False}),
    "Phi-3": phi_3,
}
VOCABULARIES = BYTE_LEVEL | SENTENCEPIECE
SPECIAL_WORDS = [
    *BYTE_LEVEL_SPECIAL,
    *SENTENCEPIECE_SPECIAL,
    *("<a>", "<b>", "<long>", "<|user|>", "<|end|>"),
]
SPECIAL_WORDS += [" ", "  ", "\n", "\v", "\u00a0", "a", "b c"]


@contextmanager
def running(xllamacpp, folder, metadata):
    """Yield a vocabulary's tokenizer and llama.cpp on the same file."""
    path = with_vocabulary(metadata).write(folder / "vocabulary.gguf")
    with llama_cpp(xllamacpp, path, n_context=8192) as oracle:
        yield Tokenizer(GGUFFile(path)), oracle


@pytest.fixture(scope="module", params=VOCABULARIES)
def both(request, xllamacpp, tmp_path_factory):
    """Our tokenizer and llama.cpp with one of the vocabularies."""
    folder = tmp_path_factory.mktemp("vocabulary")
    with running(xllamacpp, folder, VOCABULARIES[request.param]()) as pair:
        yield pair


def tokenize_all(oracle, texts, special=True):
    """Return llama.cpp's ids of each text, without a beginning or an end, in one request."""
    content = [part for text in texts for part in (-1, text)]
    reply = oracle._post("/tokenize", {"content": content, "parse_special": special})
    ids = []
    for i in reply["tokens"]:
        if i == -1:
            ids.append([])
        else:
            ids[-1].append(i)
    return ids


def assert_all_equal(tokenizer, oracle, texts, special=True):
    """Compare the ids of texts; what is added in front is the same for all, and is compared elsewhere."""
    for text, theirs in zip(texts, tokenize_all(oracle, texts, special), strict=True):
        assert tokenizer.encode(text, special)[int(tokenizer.add_bos) :] == theirs, ascii(text)


# --- Text to ids ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [*TEXTS, TEXT], ids=lambda text: ascii(text)[:30])
def test_ids_of_awkward_texts(both, text):
    assert_all_equal(*both, [text])


def test_what_is_put_in_front_of_a_text(both):
    """llama.cpp's ids may have an end behind them, which a text that is to be continued must not have."""
    tokenizer, oracle = both
    ours, theirs = tokenizer.encode("a"), oracle.tokenize("a")
    assert ours == theirs[: len(ours)] and theirs[len(ours) :] in ([], [tokenizer.eos])


def test_ids_of_random_texts(both):
    texts = [known(text) for kind in RANGES for text in random_texts(kind, 250)]
    texts += random_mixtures(ODD, 500)
    assert_all_equal(*both, texts)


def test_ids_of_special_tokens_in_texts(both):
    tokenizer, oracle = both
    texts = [*random_mixtures(SPECIAL_WORDS, 500)]
    assert_all_equal(tokenizer, oracle, texts)
    assert {i for text in texts for i in tokenizer.encode(text)} >= set(tokenizer._vocabulary.special)


def test_ids_of_special_tokens_that_are_text(both):
    tokenizer, oracle = both
    commands = tokenizer._vocabulary.commands
    texts = [*TEXTS, *random_mixtures(SPECIAL_WORDS, 500)]
    theirs = tokenize_all(oracle, texts, special=False)
    compared = [text for text, ids in zip(texts, theirs, strict=True) if not commands.intersection(ids)]
    assert len(compared) > len(texts) / 2
    assert_all_equal(tokenizer, oracle, compared, special=False)
    for text in texts:
        assert not commands.intersection(tokenizer.encode(text, special=False)[int(tokenizer.add_bos) :])


@pytest.mark.parametrize("name", [*PRE_TOKENIZERS, "ranks"])
def test_ids_of_every_character(xllamacpp, tmp_path, name):
    """Each character of the first plane beside a letter, a digit, blanks; of ideographs and Hangul some."""
    codes = [*range(0x3400), *range(0x3400, 0xA000, 97), *range(0xA000, 0xAC00), *range(0xAC00, 0xD7A4, 97)]
    characters = known(
        map(chr, [*codes, *range(0xD7B0, 0xD800), *range(0xE000, 0xE100), *range(0xF900, 0x10000)])
    )
    rows = [characters[i : i + 64] for i in range(0, len(characters), 64)]
    texts = ["".join(f"a{c}1{c}{c}1a {c}\n{c}'{c}s" for c in row) for row in rows]
    with running(xllamacpp, tmp_path, VOCABULARIES[name]()) as pair:
        assert_all_equal(*pair, texts)


@pytest.mark.parametrize("name", [name for names in OTHER_NAMES.values() for name in names.split()])
def test_another_name_for_the_same_rules(xllamacpp, tmp_path, name):
    texts = [*TEXTS, *random_mixtures(ODD, 200)]
    with running(xllamacpp, tmp_path, byte_level(name)) as (tokenizer, oracle):
        assert_all_equal(tokenizer, oracle, texts)
        assert tokenizer.encode("a") == oracle.tokenize("a")


def test_the_texts_tell_all_rules_apart(tmp_path):
    ids = {}
    for name in [*PRE_TOKENIZERS, "ranks", "ties", "log-probabilities"]:
        path = with_vocabulary(VOCABULARIES[name]()).write(tmp_path / f"{name}.gguf")
        tokenizer = Tokenizer(GGUFFile(path))
        ids[name] = [tokenizer.encode(text) for text in random_mixtures([*ODD, *4 * [" ½", " ٣"]], 1000)]
    for one, other in combinations(ids, 2):
        assert sum(a != b for a, b in zip(ids[one], ids[other], strict=True)) > 20, (one, other)


# --- Ids to text ------------------------------------------------------------------------------------------


def id_lists(tokenizer):
    """Return lists of ids: of texts, and of any tokens, which seldom make UTF-8."""
    rng = np.random.default_rng(0)
    texts = [*TEXTS, *random_mixtures(ODD, 50), *random_mixtures(SPECIAL_WORDS, 50)]
    ids = [tokenizer.encode(text)[start:] for text in texts for start in (0, 1)]
    ids += rng.integers(0, len(tokenizer), (100, 20)).tolist()
    ids += [[*range(i, min(i + 50, len(tokenizer)))] for i in range(0, len(tokenizer), 50)]
    return [some for some in ids if some]


def test_the_text_of_tokens_one_by_one(both):
    tokenizer, oracle = both
    for ids in id_lists(tokenizer):
        theirs = oracle._post("/detokenize", {"tokens": ids})["content"]
        assert "".join(tokenizer.decode_stream(ids)) == theirs, ids


@pytest.mark.parametrize("name", ["smollm", "qwen2", *SENTENCEPIECE])
def test_the_text_of_a_whole(xllamacpp, tmp_path, name):
    """llama.cpp tells the text of the ids that it was prompted with: that is its detokenizer at work."""
    with running(xllamacpp, tmp_path, VOCABULARIES[name]()) as (tokenizer, oracle):
        for ids in [some for some in id_lists(tokenizer) if len(some) <= 50][::5]:
            theirs = oracle._post("/completion", {"prompt": ids, "n_predict": 0})["prompt"]
            assert tokenizer.decode(ids) == theirs, ids


# --- Chats ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pre", ["qwen2", "llama-bpe"])  # without and with a beginning that encode adds
@pytest.mark.parametrize("name", TEMPLATES)
def test_chats(xllamacpp, tmp_path, name, pre):
    metadata = byte_level(pre) | {"tokenizer.chat_template": TEMPLATES[name][0]}
    with running(xllamacpp, tmp_path, metadata) as (tokenizer, oracle):
        for chat in (CHAT, [QUESTION], [SYSTEM, QUESTION], [QUESTION, THOUGHT, THANKS, ANSWER, QUESTION]):
            theirs = oracle._post("/apply-template", {"messages": chat})["prompt"]
            assert tokenizer.render_chat(chat) == theirs
            assert tokenizer.encode(theirs) == oracle.tokenize(theirs)
