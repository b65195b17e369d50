"""Grammar: what an answer must look like, as a mask over the logits of each step.

    JSON schema, the vocabulary's bytes  --llguidance-->  a parser and its state
    state -> mask [vocab] -> logits, -inf where a token would break the grammar -> sampler -> id -> next state

`{"type": "boolean"}` leaves two ways: the tokens that "true" begins with, or those of "false". Where one way
is left, such as the name of a property, it is taken in the tokens that the tokenizer makes of it: those that
the model knows. When the value is whole, only the model's stop tokens are left. JSON is written as Python's
`json.dumps` writes it, with one space behind each comma and colon: where any number of spaces is allowed,
small models write nothing else.

Source: llguidance, an Earley parser over a trie of the vocabulary; `pip install llguidance`.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from blocks2tokens.errors import UnsupportedError
from blocks2tokens.sampler import Sampler
from blocks2tokens.tokenizer import Tokenizer

LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Grammar:
    """A JSON schema, ready for the answers of one vocabulary: `grammar.sampler()` for each of them."""

    def __init__(self, tokenizer: Tokenizer, schema: Mapping | str):
        """Compile a JSON schema, a dict or its text.

        Raises ValueError for what is no schema, or one that no value can satisfy, and for a keyword that is
        not supported; UnsupportedError without llguidance, or for a vocabulary without a stop token, where
        an answer could not end.
        """
        if not tokenizer.stop_tokens:
            raise UnsupportedError("grammar: this model has no stop token, so that no answer can end")
        self.stop_tokens = tokenizer.stop_tokens
        guidance = _guidance()
        self._matcher = guidance.LLMatcher(
            _vocabulary(guidance, tokenizer), _compiled(guidance, schema), log_level=0
        )
        if self._matcher.is_error():
            raise ValueError(f"schema: {_first_line(self._matcher.get_error())}")

    def sampler(self, sampler: Sampler | None = None) -> "GrammarSampler":
        """Return a sampler for one answer: `sampler`, if None a greedy one, among what the grammar allows."""
        return GrammarSampler(self._matcher.deep_copy(), self.stop_tokens, sampler or Sampler())


class GrammarSampler:
    """Chooses the tokens of one answer; `complete` says whether what was chosen is a whole value."""

    def __init__(self, matcher, stop_tokens: frozenset[int], sampler: Sampler):
        self._matcher, self._stop_tokens, self._sampler = matcher, stop_tokens, sampler
        self.complete = False

    def __call__(self, logits: np.ndarray, history: Sequence[int] = ()) -> int:
        """Return the id of a token that the grammar allows next, for logits, float32 [vocab].

        Raises ValueError as `Sampler` does, and where the grammar's parser gives up.
        """
        packed = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        allowed = np.unpackbits(packed, count=len(logits), bitorder="little").astype(bool)
        if not allowed.any():
            raise ValueError("grammar: the vocabulary has no token that goes on here")
        choice = self._sampler(np.where(allowed, logits, np.float32(-np.inf)), history)
        if choice not in self._stop_tokens:
            self._matcher.consume_token(choice)
            self._check()
            self.complete = self._matcher.is_accepting()
        return choice

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ValueError(f"grammar: {_first_line(self._matcher.get_error())}")


def _guidance():
    """Return llguidance, which only those need who ask for a grammar."""
    try:
        import llguidance
    except ImportError:
        raise UnsupportedError(
            "a grammar needs the package llguidance: pip install llguidance brings it"
        ) from None
    return llguidance


def _compiled(guidance, schema: Mapping | str) -> str:
    """Return llguidance's grammar of a schema; ValueError for what is no JSON object."""
    try:
        schema = json.loads(schema) if isinstance(schema, str) else schema
        if not isinstance(schema, Mapping):
            raise ValueError(f"expected a JSON object, got {schema!r:.60}")
        return guidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), defaults=LAYOUT)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"schema: {_first_line(str(error))}") from None


def _vocabulary(guidance, tokenizer: Tokenizer):
    """Return the vocabulary as llguidance wants it."""
    return guidance.LLTokenizer(
        guidance.TokenizerWrapper(_Pieces(tokenizer)),
        eos_token=sorted(tokenizer.stop_tokens),
        slices=guidance.LLTokenizer.json_slices(),
    )


class _Pieces:
    """A tokenizer under the names that llguidance knows: tokens as bytes, and those that are no text."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self.eos_token_id = min(tokenizer.stop_tokens)
        self.bos_token_id = tokenizer.bos
        self.special_token_ids = sorted(tokenizer.control_tokens | tokenizer.stop_tokens)

    @cached_property
    def tokens(self) -> list[bytes]:
        return [self._tokenizer.token_bytes(i) for i in range(len(self._tokenizer))]

    def __call__(self, text: bytes) -> list[int]:
        return self._tokenizer.encode_within(text.decode("utf-8", "replace"))


def _first_line(text: str) -> str:
    return text.partition("\n")[0]
