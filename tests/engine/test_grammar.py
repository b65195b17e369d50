"""What a grammar lets through is JSON of its schema, whatever the logits say; judged by jsonschema."""

import json
import sys

import jsonschema
import numpy as np
import pytest
from small_model import small_model
from vocabularies import sentencepiece, with_vocabulary

import blocks2tokens as b2t
from blocks2tokens import Grammar, UnsupportedError
from blocks2tokens.tokenizer import Tokenizer

SCHEMAS = {
    "object": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 8},
            "age": {"type": "integer", "minimum": 0, "maximum": 130},
            "tags": {"type": "array", "items": {"enum": ["a", "bc", None]}, "minItems": 1, "maxItems": 3},
        },
        "required": ["name", "tags"],
        "additionalProperties": False,
    },
    "choice": {"anyOf": [{"type": "boolean"}, {"const": {"x": [1.5, "ü"]}}, {"type": "null"}]},
    "reference": {"$ref": "#/$defs/pair", "$defs": {"pair": {"type": "array", "maxItems": 2, "items": {}}}},
    "pattern": {"type": "string", "pattern": "^[a-c]{2,4}$"},
}
LONGEST = 400


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory):
    path = small_model().write(tmp_path_factory.mktemp("models") / "small.gguf")
    return Tokenizer(b2t.GGUFFile(path))


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    path = with_vocabulary(sentencepiece("ranks")).write(tmp_path_factory.mktemp("models") / "pieces.gguf")
    return Tokenizer(b2t.GGUFFile(path))


def written(tokenizer, sampler, rng, prefer=()):
    """Return what a sampler writes from random logits, up to a stop token; what is preferred comes first."""
    ids = []
    while len(ids) < LONGEST:
        logits = rng.normal(0, 3, len(tokenizer)).astype(np.float32)
        logits[list(prefer)] += 100
        before = logits.copy()
        choice = sampler(logits, ids)
        assert np.array_equal(logits, before)
        if choice in tokenizer.stop_tokens:
            break
        ids.append(choice)
    cut = "ignore" if len(ids) == LONGEST else "strict"  # perhaps within a letter
    return b"".join(tokenizer.token_bytes(i) for i in ids).decode(errors=cut)


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
@pytest.mark.parametrize("vocabulary", ["byte_level", "pieces"])
def test_what_is_written_follows_the_schema(request, vocabulary, schema):
    tokenizer = request.getfixturevalue(vocabulary)
    grammar, rng, whole = Grammar(tokenizer, schema), np.random.default_rng(0), set()
    for seed in range(12):
        sampler = grammar.sampler(b2t.Sampler(temperature=1, seed=seed) if seed else None)
        text = written(tokenizer, sampler, rng)
        if sampler.complete:  # an array of anything may go on for long
            jsonschema.validate(json.loads(text), schema)
            whole.add(text)
    assert len(whole) > 2


def test_the_most_likely_of_what_is_allowed_is_taken(byte_level):
    sampler = Grammar(byte_level, {"enum": ["cat", "car"]}).sampler()
    logits = np.zeros(len(byte_level), np.float32)
    logits[byte_level.encode("x")] = 9  # not allowed at any place
    logits[byte_level.encode("t")], logits[byte_level.encode("r")] = 1, 2
    text, complete = "", []
    while (choice := sampler(logits)) not in byte_level.stop_tokens:
        complete.append(sampler.complete)
        text += byte_level.decode([choice])
    assert text == '"car"' and complete == [False] * (len(complete) - 1) + [True]


def test_what_is_forced_comes_in_the_tokens_of_the_tokenizer(byte_level, pieces):
    for tokenizer in (byte_level, pieces):
        sampler, ids = Grammar(tokenizer, {"const": "there are the"}).sampler(), []
        logits = -np.arange(len(tokenizer), dtype=np.float32)  # bytes come before longer tokens
        while (choice := sampler(logits)) not in tokenizer.stop_tokens:
            ids.append(choice)
        assert ids == tokenizer.encode_within('"there are the"')
        assert len(ids) < 12


def test_no_control_token_gets_into_a_string(byte_level):
    grammar, rng = Grammar(byte_level, {"type": "string", "maxLength": 20}), np.random.default_rng(1)
    assert len(byte_level.control_tokens) >= 3
    text = written(byte_level, grammar.sampler(), rng, prefer=byte_level.control_tokens)
    assert isinstance(json.loads(text), str) and "<|" not in text


def test_each_answer_begins_anew(byte_level):
    grammar = Grammar(byte_level, '{"const": "cat"}')
    for _ in range(2):
        assert written(byte_level, grammar.sampler(), np.random.default_rng(2)) == '"cat"'


@pytest.mark.parametrize(
    "schema",
    [
        "",
        "{",
        "[1]",
        "true",
        3,
        {"type": "thing"},
        {"enum": []},
        {"type": "string", "maxLength": -1},
        {"type": "string", "pattern": "("},
        {"not": {"type": "string"}},
        {"$ref": "https://example.org/schema.json"},
        {"const": {1, 2}},
        {"const": float("nan")},
    ],
)
def test_what_is_no_schema_is_refused_in_one_line(byte_level, schema):
    with pytest.raises(ValueError, match=r"^schema: .+") as error:
        Grammar(byte_level, schema)
    assert "\n" not in str(error.value)


def test_a_vocabulary_without_an_end_is_refused(byte_level, monkeypatch):
    monkeypatch.setattr(byte_level, "stop_tokens", frozenset())
    with pytest.raises(UnsupportedError, match="no stop token"):
        Grammar(byte_level, {})


def test_without_the_package_it_says_what_to_install(byte_level, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(UnsupportedError, match="pip install llguidance"):
        Grammar(byte_level, {})
