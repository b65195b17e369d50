"""Session: a conversation that owns its KV cache, so that a turn reads only what is new.

    messages       system   user  assistant   user  assistant   user      --chat template, encode--> ids

    ids            a b c d e f g h i j k l m n o p q r             of the conversation, up to the next answer
    in the cache   a b c d e f g h i j k X Y                       of the last turn
                   |<----- kept ----->|
                                       |<- read ->|                X and Y are dropped

What a template makes of a message may change later: one drops the thoughts of old answers, another moves the
tools to the end; and text that was spoken in some tokens may be read in others. So nothing is taken for
granted: the ids are compared, and the cache is kept as far as they are the same.

The cache is made of pages, which sessions share: forks all of them, others those that begin with the same
ids, such as a long system message.

When the context is full the oldest turns go, each a question with its answer; the system message stays. As
all that follows is read anew then, a quarter of the context is made free at once, not a line at each turn.
"""

import os
import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Protocol

from blocks2tokens import session_file
from blocks2tokens.gguf_file import GGUFFile
from blocks2tokens.model import ModelConfig, Transformer
from blocks2tokens.sampler import Sampler
from blocks2tokens.stops import checked_stops, cut_at_stops
from blocks2tokens.tokenizer import Tokenizer

MAX_TOKENS = 1024  # of an answer, unless said otherwise
RESERVED = {"messages", "add_generation_prompt", "bos_token", "eos_token"}  # which the tokenizer gives


class Model(Protocol):
    """What a session needs of a model."""

    file: GGUFFile
    config: ModelConfig
    transformer: Transformer
    tokenizer: Tokenizer


@dataclass
class Turn:
    """A question and its answer, as far as it has been given; and what it took.

    prompt_tokens    in the conversation up to the answer
    cached_tokens    of these, that were in the cache and not read again
    forgotten        older turns that went to make room for this one
    answer_tokens    chosen so far
    ended            why the answer ended: "stop", a stop token or string; "length", max_tokens;
                     "context", which was full; None as long as it has not, or if it was broken off
    """

    question: str
    answer: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    forgotten: int = 0
    answer_tokens: int = 0
    ended: str | None = None


class Session:
    """A conversation with a model. `model.session()` begins one, `b2t.load_session` goes on with one.

    Sessions of one model are independent, and may be used in threads of their own. Of two threads that use
    one session, the one that began the last turn goes on, and the other one's answer ends.
    """

    def __init__(
        self,
        model: Model,
        system: str | None = None,
        template_variables: Mapping[str, object] | None = None,
    ):
        """Begin a conversation; `template_variables`, such as enable_thinking, reach the chat template.

        Raises ValueError if the model has no chat template, or one that refuses the system message, and for
        a system message that leaves no room in the model's context.
        """
        if system is not None and not isinstance(system, str):
            raise ValueError(f"system: expected a text or None, got {type(system).__name__}")
        self.model, self.system = model, system
        self.template_variables = _checked_variables(template_variables)
        self.turn: Turn | None = None  # begun last, also if there was no answer
        self._turns: list[Turn] = []
        self._cache = model.transformer.new_cache(1)
        self._ids: list[int] = []  # the first of them are in the cache, as many as its length says
        self._lock = threading.RLock()
        self._fitted("Hello", 1)

    def __repr__(self):
        return f"Session({self.model!r}, {len(self._turns)} turns, {self._cache.length} tokens in the cache)"

    @property
    def messages(self) -> list[dict[str, str]]:
        """What was said and is not forgotten: dicts with "role" (system, user, assistant) and "content"."""
        return self._messages(self._turns)

    def say(
        self,
        text: str,
        max_tokens: int = MAX_TOKENS,
        sampler: Sampler | None = None,
        stop: str | Iterable[str] = (),
    ) -> Iterator[str]:
        """Say something; yield the answer, a piece of text at a time.

        Greedy unless a sampler is given. The answer ends at a stop token, before the first of the strings
        `stop`, after max_tokens, or when the context is full; `turn` tells which. It may also be broken off,
        by Ctrl-C or by taking no more of it: what was yielded so far counts as the answer. Without any answer
        the question does not count either. Special tokens spelled out in `text` are text.

        Raises ValueError, at the call, for a text that does not fit into the model's context, even with all
        older turns forgotten, and for arguments that make no sense.
        """
        if not isinstance(text, str):
            raise ValueError(f"text: expected str, got {type(text).__name__}")
        if not isinstance(max_tokens, Integral) or max_tokens < 0:
            raise ValueError(f"max_tokens: expected a whole number >= 0, got {max_tokens!r}")
        stops = checked_stops(stop)
        with self._lock:
            kept, ids = self._fitted(text, max_tokens)
            turn = Turn(text, prompt_tokens=len(ids))
            turn.cached_tokens = max(self._in_common(ids), self._found(ids))
            turn.forgotten = len(self._turns) - len(kept)
            self.turn = turn
        chosen = self._chosen(turn, ids, max_tokens, sampler or Sampler())
        pieces = self.model.tokenizer.decode_stream(chosen, whole=True)
        return self._answer(turn, kept, cut_at_stops(pieces, stops))

    def rewind(self) -> str | None:
        """Take the last question back, with its answer; return it, or None if there is none.

        Turns that had to go to make room for it do not come back.
        """
        with self._lock:
            self.turn = None
            return self._turns.pop().question if self._turns else None

    def fork(self) -> "Session":
        """Return a session that goes on from here by itself; of what is in the cache nothing is copied."""
        with self._lock:
            other = Session(self.model, self.system, self.template_variables)
            other._turns = [replace(turn) for turn in self._turns]
            other._cache, other._ids = self._cache.fork(), list(self._ids)
            return other

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the conversation and its cache to a file, which `b2t.load_session` reads.

        A file that is there already is replaced once the new one is complete. Raises ValueError for template
        variables that JSON does not know, OSError if the file cannot be written.
        """
        with self._lock:
            conversation = {
                "system": self.system,
                "template_variables": self.template_variables,
                "turns": [[turn.question, turn.answer] for turn in self._turns],
            }
            ids = self._ids[: self._cache.length]
            session_file.write(path, self.model, conversation, ids, self._cache)

    # --- What is read -------------------------------------------------------------------------------------

    def _fitted(self, question: str, max_tokens: int) -> tuple[list[Turn], list[int]]:
        """Return the turns that stay beside a question, and the ids to continue.

        Room for max_tokens, but at most a quarter of the context, is kept free for the answer as long as
        there is an older turn that can go.
        """
        context = self.model.config.context_length
        room, n = context - min(max_tokens, context // 4), len(self._turns)

        def ids(first):
            return self._encoded([*self._turns[first:], Turn(question)])

        first, found = 0, ids(0)
        if n and len(found) > room:
            less = room - context // 4
            first = bisect_left(range(n), True, lo=1, key=lambda i: len(ids(i)) <= less)
            found = ids(first)
        if len(found) >= context:
            raise ValueError(
                f"this message is too long: with what goes around it, it has {len(found):,} tokens, "
                f"and the model's context is {context:,}"
            )
        return self._turns[first:], found

    def _encoded(self, turns: list[Turn]) -> list[int]:
        ids = self.model.tokenizer.encode_chat(self._messages(turns)[:-1], **self.template_variables)
        if not ids:
            raise ValueError("chat template: it makes nothing of a message")
        return ids

    def _messages(self, turns):
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for turn in turns:
            messages.append({"role": "user", "content": turn.question})
            messages.append({"role": "assistant", "content": turn.answer})
        return messages

    def _in_common(self, ids: list[int]) -> int:
        """Return how many of ids the cache begins with; not all, for the last one's logits are needed."""
        n = min(self._cache.length, len(ids) - 1)
        pairs = zip(ids[:n], self._ids, strict=False)
        return next((i for i, (new, old) in enumerate(pairs) if new != old), n)

    def _found(self, ids: list[int]) -> int:
        """Return how many of ids other sessions have in their caches, in full pages."""
        return self._cache.pool.n_found(ids[:-1])

    def _prepare(self, ids: list[int], n_tokens: int) -> None:
        """Keep in the cache what ids have in common with it, and make room for n_tokens behind them.

        If other sessions have more of the ids in their caches, that is shared.
        """
        common = self._in_common(ids)
        self._cache.truncate(common)
        self._ids = ids
        needed = len(ids) + n_tokens
        if needed > self._cache.capacity:
            capacity = min(max(needed, 2 * self._cache.capacity), self.model.config.context_length)
            self._cache = self._cache.fork(capacity)
        if self._found(ids) > common:
            self._cache.begin_with(ids[:-1])

    # --- What is said -------------------------------------------------------------------------------------
    # At each step all is in order before and after, wherever an interrupt arrives or the iterator is left.

    def _answer(self, turn: Turn, kept: list[Turn], pieces: Iterator[str]) -> Iterator[str]:
        """Yield the pieces, and put down in `turn` what has been yielded."""
        for text in pieces:
            with self._lock:
                if self.turn is not turn:
                    return
                turn.answer += text
                self._turns = [*kept, turn]
            yield text
        if self.turn is turn:
            turn.ended = turn.ended or "stop"

    def _chosen(self, turn: Turn, ids: list[int], max_tokens: int, sampler: Sampler) -> Iterator[int]:
        """Yield the ids of an answer to the conversation `ids`."""
        room = self.model.config.context_length - len(ids)
        limit = min(max_tokens, room)
        with self._lock:
            if limit and self.turn is turn:
                self._prepare(ids, limit)
        for _ in range(limit):
            with self._lock:
                if self.turn is not turn:
                    return
                unread = self._ids[self._cache.length :]
                logits = self.model.transformer.next_logits(unread, self._cache)
                if len(unread) > 1:
                    self._cache.publish(self._ids)
                choice = sampler(logits, self._ids)
                if choice in self.model.tokenizer.stop_tokens:
                    return
                self._ids.append(choice)
                turn.answer_tokens += 1
            yield choice
        turn.ended = "length" if limit < room else "context"


def load_session(path: str | os.PathLike[str], model: Model) -> Session:
    """Return the session that `Session.save` wrote to a file, with all that it had read.

    Raises FileNotFoundError; ValueError for a file that is no session, or cut off, or one of another model,
    or with another type of cache than the model has.
    """
    conversation, ids, parts = session_file.read(path, model)
    try:
        session = Session(model, conversation["system"], conversation["template_variables"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    session._turns = [Turn(*parts) for parts in conversation["turns"]]
    session._cache = model.transformer.new_cache(max(1, len(ids)))
    try:
        session._cache.fill(*parts)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    session._ids = ids.tolist()
    return session


def _checked_variables(variables: Mapping[str, object] | None) -> dict[str, object]:
    if not isinstance(variables, Mapping | None) or not all(
        isinstance(name, str) for name in variables or ()
    ):
        raise ValueError(f"template_variables: expected a mapping with names, got {variables!r:.60}")
    if taken := RESERVED & {*(variables or ())}:
        raise ValueError(f"template_variables: {', '.join(sorted(taken))} cannot be set")
    return dict(variables or {})
