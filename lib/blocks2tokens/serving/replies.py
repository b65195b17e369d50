"""Replies: an answer as OpenAI's clients read it.

    whole       {"object": "chat.completion", "choices": [{"message": {"content": "Hi!"}, ...}], "usage": ...}
    as events   data: {"object": "chat.completion.chunk", "choices": [{"delta": {"content": "Hi"}, ...}]}
                data: {"object": "chat.completion.chunk", "choices": [{"delta": {}, "finish_reason": "stop"}]}
                data: [DONE]

Source: OpenAI's API reference, "The chat completion object", "The chat completion chunk object" and "The
completion object".
"""

import json
import secrets
import time
from collections.abc import Sequence

from blocks2tokens.serving.job import Entry, Job
from blocks2tokens.tokenizer import Tokenizer

DONE = b"data: [DONE]\n\n"


def encoded(value: object) -> bytes:
    """Return JSON in UTF-8; half a surrogate pair, which has no UTF-8, stays escaped as in JSON."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace")


def event(value: object) -> bytes:
    """Return a server-sent event."""
    return b"data: " + encoded(value) + b"\n\n"


def usage(job: Job) -> dict[str, int]:
    """Return the numbers of tokens that an answer took."""
    total = job.prompt_tokens + job.tokens
    return {"prompt_tokens": job.prompt_tokens, "completion_tokens": job.tokens, "total_tokens": total}


class _Reply:
    """What all parts of one answer have in common."""

    prefix: str
    whole_name: str
    part_name: str

    def __init__(self, name: str, tokenizer: Tokenizer, logprobs: bool):
        self.tokenizer, self.logprobs = tokenizer, logprobs
        self._id, self._name, self._created = self.prefix + secrets.token_hex(12), name, int(time.time())

    def whole(self, text: str, entries: Sequence[Entry], job: Job) -> dict:
        """Return a whole answer."""
        return self._object(self.whole_name, [self._whole(text, entries, job.ended)]) | {"usage": usage(job)}

    def part(self, choice: dict | None) -> dict:
        """Return what an event carries; without a choice it is for the usage."""
        return self._object(self.part_name, [] if choice is None else [choice])

    def _object(self, kind: str, choices: list[dict]) -> dict:
        head = {"id": self._id, "object": kind, "created": self._created, "model": self._name}
        return head | {"choices": choices}

    def _text(self, token: int) -> str:
        return self.tokenizer.token_bytes(token).decode("utf-8", "replace")


class ChatReply(_Reply):
    """The answer to a chat's messages."""

    prefix, whole_name, part_name = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def _whole(self, text, entries, ended):
        message = {"role": "assistant", "content": text, "refusal": None}
        return self._choice("message", message, entries, ended)

    def first(self) -> dict | None:
        """Return the choice of the event before any text."""
        return self._choice("delta", {"role": "assistant", "content": ""}, [], None)

    def piece(self, text: str, entries: Sequence[Entry]) -> dict:
        """Return the choice of an event with some text."""
        return self._choice("delta", {"content": text}, entries, None)

    def last(self, ended: str) -> dict:
        """Return the choice of the event that says why there is no more."""
        return self._choice("delta", {}, [], ended)

    def _choice(self, what, value, entries, ended):
        logprobs = {"content": [self._entry(entry) for entry in entries], "refusal": None}
        known = logprobs if self.logprobs and (entries or what == "message") else None
        return {"index": 0, what: value, "logprobs": known, "finish_reason": ended}

    def _entry(self, entry: Entry) -> dict:
        top = [self._likely(token, logprob) for token, logprob in entry.top]
        return self._likely(entry.token, entry.logprob) | {"top_logprobs": top}

    def _likely(self, token: int, logprob: float) -> dict:
        raw = list(self.tokenizer.token_bytes(token))
        return {"token": self._text(token), "logprob": logprob, "bytes": raw}


class TextReply(_Reply):
    """The continuation of a text."""

    prefix, whole_name, part_name = "cmpl-", "text_completion", "text_completion"

    def __init__(self, name: str, tokenizer: Tokenizer, logprobs: bool):
        super().__init__(name, tokenizer, logprobs)
        self._length = 0  # characters of the tokens so far

    def _whole(self, text, entries, ended):
        return self._choice(text, entries, ended)

    def first(self) -> dict | None:
        """Return None: nothing comes before the text."""
        return None

    def piece(self, text: str, entries: Sequence[Entry]) -> dict:
        """Return the choice of an event with some text."""
        return self._choice(text, entries, None)

    def last(self, ended: str) -> dict:
        """Return the choice of the event that says why there is no more."""
        return self._choice("", [], ended)

    def _choice(self, text, entries, ended):
        known = self._logprobs(entries) if self.logprobs and (entries or text or ended) else None
        return {"index": 0, "text": text, "logprobs": known, "finish_reason": ended}

    def _logprobs(self, entries: Sequence[Entry]) -> dict[str, list]:
        """Return the four lists that this part of the API has, an element for each token."""
        found = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for entry in entries:
            text = self._text(entry.token)
            found["tokens"].append(text)
            found["token_logprobs"].append(entry.logprob)
            found["top_logprobs"].append({self._text(i): logprob for i, logprob in entry.top})
            found["text_offset"].append(self._length)
            self._length += len(text)
        return found
