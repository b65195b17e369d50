"""The tokenizer of a small vocabulary: text to ids and back, streams, special tokens and chat templates."""

import random
import unicodedata
from itertools import pairwise

import numpy as np
import pytest
from small_model import SPECIAL, small_model, vocabulary
from tokenizers import pre_tokenizers

from blocks2tokens import GGUFFile
from blocks2tokens.tokenizer import PRE_TOKENIZERS, Tokenizer, byte_characters

TOKENS, MERGES = vocabulary(320)
RANK = {tuple(merge.split(" ")): i for i, merge in enumerate(MERGES)}
CHARACTERS = byte_characters()
KEY = "tokenizer.ggml."


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Return a function that makes a tokenizer; `changes` are keys of the file, None leaves one out."""
    folder = tmp_path_factory.mktemp("tokenizers")

    def make(changes=(), **options):
        small = small_model(n_layers=1, **options)
        small.tensors.clear()
        small.metadata |= dict(changes)
        small.metadata = {key: value for key, value in small.metadata.items() if value is not None}
        return Tokenizer(GGUFFile(small.write(folder / f"{len(list(folder.iterdir()))}.gguf")))

    return make


@pytest.fixture(scope="module")
def tokenizer(make):
    return make()


# --- Bytes ------------------------------------------------------------------------------------------------


def test_each_byte_has_the_character_that_gpt2_gave_it():
    assert len(CHARACTERS) == 256 and set(CHARACTERS) == set(pre_tokenizers.ByteLevel.alphabet())
    text = "".join(map(chr, [*range(0x800), *range(0x800, 0xD800, 7), *range(0x10000, 0x110000, 999)]))
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    assert "".join(piece for piece, _ in split) == "".join(CHARACTERS[byte] for byte in text.encode())


def test_tokens_stand_for_their_bytes(tokenizer):
    assert tokenizer.token_bytes(TOKENS.index("Ġthe")) == b" the"
    assert tokenizer.token_bytes(TOKENS.index("Ã©")) == "é".encode()
    assert tokenizer.token_bytes(TOKENS.index("Ã")) == b"\xc3"
    assert tokenizer.token_bytes(np.int64(2)) == b"<|im_end|>"
    alone = {tokenizer.token_bytes(i) for i in range(3, 259)}
    assert alone == {bytes([byte]) for byte in range(256)}


def test_a_token_spelled_with_other_characters_stands_for_their_utf8(make):
    tokens = [*TOKENS[:-1], "€ 5"]
    assert make({f"{KEY}tokens": tokens, f"{KEY}merges": MERGES[:-1]}).decode([319, 3]) == "€ 5" + TOKENS[3]


def test_a_byte_without_a_token_is_left_out(make):
    tokens = [token if token != CHARACTERS[4] else "no byte" for token in TOKENS]
    tokenizer = make({f"{KEY}tokens": tokens})
    assert tokenizer.decode(tokenizer.encode("a\x04b\x05c")) == "ab\x05c"


# --- Round trips ------------------------------------------------------------------------------------------

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


def random_texts(kind, n):
    chance = random.Random(kind)
    for _ in range(n):
        ranges = chance.choices(RANGES[kind], k=chance.randint(1, 40))
        yield "".join(chr(chance.randint(first, last)) for first, last in ranges)


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
@pytest.mark.parametrize("kind", RANGES)
def test_decoding_gives_the_text_back(make, kind, pre):
    tokenizer = make(pre=pre)
    for text in random_texts(kind, 100):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        for form in ("NFC", "NFD"):
            text = unicodedata.normalize(form, text)
            assert tokenizer.decode(tokenizer.encode(text)) == text


TEXTS = [
    "",
    " ",
    "   \n\n\t x ",
    "\0",
    "a\0b",
    "\r\n",
    "\ufeffbyte order mark",
    "naïve café",
    "e\u0301\u0323",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467",
    "🏳️‍🌈🇩🇪",
    "ἔστι δὲ",
    "שלום",
    "ﷺ",
    "Ġthe Ċ",
    "<|im_start|>user\n<|im_end|>",
    "<|im_start|",
    "a" * 10_000,
    "12345 ٣٤ ½ Ⅻ 1,024",
    "it's they'LL 'tis",
]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text)[:30])
def test_decoding_gives_awkward_text_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    ("text", "readable"),
    [
        ("\ud800", "\ufffd"),
        ("a\udc80b", "a\ufffdb"),
        ("\udc00\ud800", "\ufffd\ufffd"),
        ("\ud83d\ude00", "😀"),  # two halves that belong together are a character
        ("x\ud83d", "x\ufffd"),
        ("\ud83d😀", "\ufffd😀"),
    ],
    ids=ascii,
)
def test_lone_surrogates_become_the_replacement_character(tokenizer, text, readable):
    assert tokenizer.encode(text) == tokenizer.encode(readable)
    assert tokenizer.decode(tokenizer.encode(text)) == readable


@pytest.mark.parametrize("text", [b"bytes", None, 5, ["a"]])
def test_only_text_is_encoded(tokenizer, text):
    with pytest.raises(ValueError, match=f"expected str, got {type(text).__name__}"):
        tokenizer.encode(text)


# --- Merging and splitting --------------------------------------------------------------------------------


def merge_by_hand(word):
    """Byte-pair encoding from its definition: join the pair whose merge was learned first, and again."""
    parts = [CHARACTERS[byte] for byte in word.encode()]
    while pairs := [pair for pair in pairwise(parts) if pair in RANK]:
        best = min(pairs, key=RANK.get)
        at = next(i for i in range(len(parts)) if tuple(parts[i : i + 2]) == best)
        parts[at : at + 2] = ["".join(best)]
    return [TOKENS.index(part) for part in parts]


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_words_are_merged_in_the_order_of_the_merges(make, pre):
    tokenizer = make(pre=pre)
    chance = random.Random(0)
    words = [" the", "kettle", " there", "été", "привет", "xyz", "“"]
    words += ["".join(chance.choices("ehtrgoniskl", k=chance.randint(1, 12))) for _ in range(300)]
    for word in words:
        assert tokenizer.encode(word) == merge_by_hand(word)
    assert any(len(merge_by_hand(word)) < len(word.encode()) / 2 for word in words)


def test_smollm_takes_digits_one_by_one(make):
    assert "Ġ1" in TOKENS
    smollm, gpt2 = make(pre="smollm"), make(pre="gpt-2")
    assert [smollm.token_bytes(i) for i in smollm.encode("in 1024")] == [b"in", b" ", b"1", b"0", b"2", b"4"]
    assert [gpt2.token_bytes(i) for i in gpt2.encode("in 1024")] == [b"in", b" 1", b"0", b"2", b"4"]


def test_words_are_never_joined_across_a_split(tokenizer):
    for first, second in [("the", " the"), ("the", "!"), ("a", "\n"), ("x", "1"), ("1", "1"), ("it", "'s")]:
        assert tokenizer.encode(first + second) == tokenizer.encode(first) + tokenizer.encode(second)


# --- Special tokens ---------------------------------------------------------------------------------------


def test_special_tokens_are_found_wherever_they_stand(tokenizer):
    the = TOKENS.index("Ġthe")
    assert tokenizer.encode("<|im_start|> the<|im_end|><|im_end|>x<|endoftext|>") == [
        *[1, the, 2, 2],
        TOKENS.index("x"),
        0,
    ]
    assert tokenizer.decode([1, the, 2, 0]) == "<|im_start|> the<|im_end|><|endoftext|>"
    for text in ("<|im_start|", "|im_start|>", "<|IM_START|>", "<|im_start |>"):
        assert not set(tokenizer.encode(text)) & {0, 1, 2}


@pytest.mark.parametrize(("kind", "whole"), [(1, False), (2, False), (3, True), (4, True), (5, False)])
def test_the_token_type_says_what_is_special(make, kind, whole):
    tokenizer = make({f"{KEY}token_type": [kind] + [1] * 319})
    assert (tokenizer.encode(SPECIAL[0]) == [0]) is whole
    assert tokenizer.decode(tokenizer.encode(SPECIAL[0])) == SPECIAL[0]


def test_a_user_defined_token_may_be_any_text(make):
    changes = {
        f"{KEY}tokens": [*TOKENS[:-1], "four  spaces é"],
        f"{KEY}merges": MERGES[:-1],
        f"{KEY}token_type": [1] * 319 + [4],
    }
    tokenizer = make(changes)
    text = "xfour  spaces éx"
    assert tokenizer.encode(text)[1] == 319 and tokenizer.decode(tokenizer.encode(text)) == text


def test_a_beginning_is_added_if_the_file_asks_for_it(make, tokenizer):
    asked = make({f"{KEY}add_bos_token": True, f"{KEY}bos_token_id": 0})
    assert asked.encode("the") == [0, *tokenizer.encode("the")] and asked.encode("") == [0]
    assert tokenizer.bos == 1 and tokenizer.encode("") == []
    assert make({f"{KEY}add_bos_token": None}).encode("") == []


def test_the_vocabulary_is_as_long_as_it_is(tokenizer):
    assert len(tokenizer) == 320 and tokenizer.tokens == TOKENS
    assert tokenizer.stop_tokens == {0, 2} and tokenizer.eos == 2


# --- Streams ----------------------------------------------------------------------------------------------


def test_a_stream_adds_up_to_the_text(tokenizer):
    for kind in RANGES:
        for text in random_texts(kind, 20):
            pieces = list(tokenizer.decode_stream(tokenizer.encode(text)))
            assert "".join(pieces) == text
            assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)


def test_a_stream_of_any_ids_adds_up_to_their_decoding(tokenizer):
    rng = np.random.default_rng(0)
    for _ in range(200):
        ids = rng.integers(0, 320, 30)
        assert "".join(tokenizer.decode_stream(ids)) == tokenizer.decode(ids)


def test_a_character_waits_for_its_last_byte(tokenizer):
    ids = [TOKENS.index(CHARACTERS[byte]) for byte in "a😀b".encode()]
    assert list(tokenizer.decode_stream(ids)) == ["a", "", "", "", "😀", "b"]
    assert list(tokenizer.decode_stream(ids[:3])) == ["a", "", "", "\ufffd"]
    assert list(tokenizer.decode_stream([])) == []


def test_a_stream_takes_one_id_at_a_time(tokenizer):
    taken = []

    def ids():
        for i in (TOKENS.index("a"), TOKENS.index("b")):
            taken.append(i)
            yield i

    stream = tokenizer.decode_stream(ids())
    assert taken == [] and next(stream) == "a" and len(taken) == 1


BAD_IDS = [-1, 320, 2**70, 1.0, float("nan"), "1", "a", None, [1], np.float32(1), np.int64(-1)]


@pytest.mark.parametrize("bad", BAD_IDS, ids=repr)
def test_ids_outside_the_vocabulary_are_refused(tokenizer, bad):
    with pytest.raises(ValueError, match="0 <= id < 320, got "):
        tokenizer.decode([1, bad])
    with pytest.raises(ValueError, match="0 <= id < 320, got "):
        list(tokenizer.decode_stream([1, bad]))


# --- Chat -------------------------------------------------------------------------------------------------

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "  1 < 2 & 'so' on?\n"},
]
RENDERED = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n  1 < 2 & 'so' on?\n<|im_end|>\n"


def test_a_conversation_is_rendered_by_the_template_of_the_file(tokenizer):
    assert tokenizer.render_chat(CHAT) == RENDERED + "<|im_start|>assistant\n"
    assert tokenizer.render_chat(CHAT, add_generation_prompt=False) == RENDERED
    assert tokenizer.render_chat([]) == "<|im_start|>assistant\n"
    ids = tokenizer.encode(tokenizer.render_chat(CHAT))
    assert ids.count(1) == 3 and ids.count(2) == 2


def test_a_template_is_trimmed_as_its_authors_expect(make):
    template = (
        "{% for m in messages %}\n    {% if true %}\n{{ m.content }}\n    {% endif %}\n{% endfor %}\nend"
    )
    assert make(chat_template=template).render_chat(CHAT[:1]) == "Be brief.\nend"


def test_a_template_knows_the_names_of_the_special_tokens(make):
    template = "{{ bos_token }}+{{ eos_token }}"
    assert make(chat_template=template).render_chat([]) == "<|im_start|>+<|im_end|>"
    added_anyway = make({f"{KEY}add_bos_token": True}, chat_template=template)
    assert added_anyway.render_chat([]) == "+<|im_end|>"
    unknown = make({f"{KEY}bos_token_id": None, f"{KEY}eos_token_id": None}, chat_template=template)
    assert unknown.render_chat([]) == "+"


@pytest.mark.parametrize("template", [None, 5, ["a", "b"]])
def test_a_model_without_a_template_does_not_chat(make, template):
    with pytest.raises(ValueError, match="no chat template"):
        make(chat_template=template).render_chat(CHAT)


BROKEN_TEMPLATES = {
    "its own refusal": ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
    "syntax": ("{% for %}", "Expected"),
    "no end": ("{% if true %}", "Unexpected end"),
    "filter": ("{{ 1 | no_such_filter }}", "no_such_filter"),
    "undefined": ("{{ nothing.at.all }}", "undefined"),
    "missing message": ("{{ messages[9].role.x }}", "has no element 9"),
    "division": ("{{ 1 / 0 }}", "division by zero"),
    "type": ("{{ 'a' + 1 }}", "concatenate"),
    "call": ("{{ messages() }}", "not callable"),
    "arguments": ("{{ raise_exception() }}", "message"),
    "recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    "a file": ("{% include '/etc/passwd' %}", "no loader"),
    "an import": ("{% import 'os' as os %}", "no loader"),
    "a range": ("{% for i in range(10 ** 9) %}{% endfor %}", "[Rr]ange"),
}


@pytest.mark.parametrize("case", BROKEN_TEMPLATES)
def test_a_template_that_fails_says_why(make, case):
    template, message = BROKEN_TEMPLATES[case]
    with pytest.raises(ValueError, match=f"^chat template: .*{message}"):
        make(chat_template=template).render_chat(CHAT)


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__base__ }}",
    "{{ ''['__class__']['__mro__'] }}",
    "{{ (''|attr('__class__')).__mro__ }}",
    "{{ raise_exception.__globals__['jinja2'] }}",
    "{{ raise_exception.__code__.co_consts }}",
    "{{ cycler.__init__.__globals__.os.popen('echo out').read() }}",
    "{{ lipsum.__globals__['os'].popen('echo out').read() }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context.environment }}",
    "{{ '{0.__class__.__mro__}'.format('') }}",
    "{{ '{m.__class__.__init__.__globals__}'.format_map({'m': cycler}) }}",
    "{% set f = namespace.__init__.__globals__ %}{{ f.keys() }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'role': 'x'}) }}",
    "{{ messages[0].clear() }}",
    "{% for m in messages %}{{ m.__class__.__bases__[0].__subclasses__() }}{% endfor %}",
    "{{ (messages|map(attribute='__class__')|list)[0].mro() }}",
    "{{ [1]|map('attr', '__class__')|first|attr('mro')() }}",
]


@pytest.mark.parametrize("template", ESCAPES)
def test_a_malicious_template_cannot_reach_python(make, template):
    messages = [dict(message) for message in CHAT]
    with pytest.raises(ValueError, match=r"^chat template: access to attribute .* is unsafe"):
        make(chat_template=template).render_chat(messages)
    assert messages == CHAT
