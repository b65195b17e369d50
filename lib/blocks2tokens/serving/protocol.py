"""Protocol: what a caller of OpenAI's API asks for, checked field by field.

    {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9, "stop": "\\n", "stream": true}
      --CHAT, TEXT: a check for each field-->  Wanted(messages, max_tokens, sampler, stops, stream, ...)

null is the same as a field left out. A field that no table names is refused, and so is one that asks for
something that the engine does not have: an answer to another question than was asked would be worse.

    {"error": {"message": "top_p: expected 0 < top_p <= 1, got 2", "type": "invalid_request_error",
               "param": "top_p", "code": null}}                 what is refused, under OpenAI's names

Source: OpenAI's API reference, "Create chat completion" and "Create completion"; `top_k`,
`repetition_penalty` and `chat_template_kwargs` are named as vLLM's server has them.
"""

import ipaddress
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite

from blocks2tokens.sampler import Sampler
from blocks2tokens.session import MAX_TOKENS, RESERVED
from blocks2tokens.stops import checked_stops

TEXT_TOKENS = 16  # of a continuation, unless said otherwise: OpenAI's default
MAX_STOPS = 16  # OpenAI takes 4; editors that complete code send more
MAX_ALTERNATIVES = 20  # of which the log-probability is told
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class RequestError(ValueError):
    """What a caller is told: a message, the field that it is about, OpenAI's code, and HTTP's status."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None, status: int = 400):
        super().__init__(message)
        self.param, self.code, self.status = param, code, status

    def body(self) -> dict:
        """Return the error as OpenAI's clients read it."""
        others = {429: "rate_limit_error", 500: "server_error"}
        kind = others.get(self.status, "invalid_request_error")
        told = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": told}


@dataclass(frozen=True)
class Wanted:
    """One answer that somebody wants.

    prompt                  messages, of a chat; a text or token ids, to be continued
    sampler                 how tokens are chosen
    stops                   strings in front of which it ends
    stream, include_usage   as events, piece by piece; and one more with the numbers of tokens
    alternatives            how many of the likeliest tokens are listed with each; None: no log-probabilities
    schema                  a JSON schema that it must follow, or None
    variables               of the chat template
    """

    prompt: list[dict] | str | list[int]
    chat: bool
    max_tokens: int
    sampler: Sampler
    stops: tuple[str, ...]
    stream: bool
    include_usage: bool
    alternatives: int | None
    schema: Mapping | None
    variables: Mapping[str, object]


def wanted(body: bytes, chat: bool, name: str) -> Wanted:
    """Return what the body of a request asks for, a chat's answer or a text's continuation.

    `name` is that of the model that is served. Raises RequestError for anything else than asked-for fields of
    their types.
    """
    fields = _checked(_json(body), CHAT if chat else TEXT)
    if fields.get("model", name) != name:
        message = f"model: {fields['model']!r:.80} is not served here; {name!r} is"
        raise RequestError(message, "model", "model_not_found", 404)
    required = "messages" if chat else "prompt"
    if required not in fields:
        raise RequestError(f"{required}: missing", required, "missing_required_parameter")
    usual = MAX_TOKENS if chat else TEXT_TOKENS
    return Wanted(
        prompt=fields[required],
        chat=chat,
        max_tokens=fields.get("max_completion_tokens", fields.get("max_tokens", usual)),
        sampler=_sampler(fields),
        stops=fields.get("stop", ()),
        stream=fields.get("stream", False),
        include_usage=fields.get("stream_options", {}).get("include_usage", False),
        alternatives=_alternatives(fields) if chat else fields.get("logprobs"),
        schema=fields.get("response_format"),
        variables=fields.get("chat_template_kwargs", {}),
    )


def refused(error: ValueError, param: str | None = None) -> RequestError:
    """Return an error of the engine as one of the request; the engine's begin with the name of a field."""
    if isinstance(error, RequestError):
        return error
    name = str(error).partition(":")[0]
    return RequestError(str(error), name if name in CHAT | TEXT else param)


def _json(body: bytes) -> dict:
    """Return the JSON object that a body holds."""
    try:
        found = json.loads(body.decode("utf-8"), parse_constant=_no_number)
    except UnicodeDecodeError as error:
        place = f"byte {error.object[error.start]:#04x} at {error.start}"
        raise RequestError(f"body: expected UTF-8, got the {place}") from None
    except RecursionError:
        raise RequestError("body: expected JSON, got brackets too deep within each other") from None
    except ValueError as error:
        raise RequestError(f"body: expected JSON: {error}") from None
    if not isinstance(found, dict):
        raise RequestError(f"body: expected a JSON object, got {kind(found)}")
    return found


def _no_number(name: str):
    raise ValueError(f"{name} is no number of JSON")


def _checked(fields: dict, checks: Mapping[str, Callable]) -> dict:
    """Return the fields that are not null, checked."""
    for name in fields:
        if name not in checks:
            known = "not supported here" if name in LACKING else "unknown field"
            raise RequestError(f"{name[:80]}: {known}", name[:80], "unknown_parameter")
    present = {name: value for name, value in fields.items() if value is not None}
    return {name: checks[name](name, value) for name, value in present.items()}


def _sampler(fields: dict) -> Sampler:
    settings = {"temperature": 1.0} | {name: fields[name] for name in SAMPLING if name in fields}
    try:
        return Sampler(**settings)
    except ValueError as error:
        raise refused(error) from None


def _alternatives(fields: dict) -> int | None:
    """Return how many alternatives a chat's answer tells with each token, None if no log-probabilities."""
    if fields.get("logprobs", False):
        return fields.get("top_logprobs", 0)
    if fields.get("top_logprobs"):
        raise RequestError("top_logprobs: needs logprobs, true", "top_logprobs")
    return None


# --- Checks: (name of a field, its value) -> the value as it is used, or a RequestError -----------------


def kind(value: object) -> str:
    """Return what a value is in JSON's words.

    >>> kind(True), kind([1]), kind(None)
    ('a boolean', 'an array', 'null')
    """
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array"}
    return names.get(type(value), "null" if value is None else "an object")


def _expected(name: str, what: str, value: object) -> RequestError:
    shown = f"{value!r:.40}" if isinstance(value, bool | int | float | str) else kind(value)
    return RequestError(f"{name}: expected {what}, got {shown}", name)


def _a(name: str, value, *types: type, what: str):
    """Return a value that has one of the types; true and false are no numbers."""
    if type(value) not in types:
        raise _expected(name, what, value)
    return value


def _string(name, value):
    return _a(name, value, str, what="a string")


def _boolean(name, value):
    return _a(name, value, bool, what="true or false")


def _number(name, value):
    if not isfinite(_finite(name, _a(name, value, int, float, what="a number"))):
        raise _expected(name, "a finite number", value)
    return value


def _finite(name, value) -> float:
    try:
        return float(value)
    except OverflowError:
        raise RequestError(f"{name}: too large a number", name) from None


def _whole(least: int, most: int) -> Callable:
    def check(name, value):
        what = f"a whole number, {least} to {most}"
        if not least <= _a(name, value, int, what=what) <= most:
            raise _expected(name, what, value)
        return value

    return check


def _seed(name, value):
    return _whole(-(2**63), 2**64 - 1)(name, value) % 2**64  # NumPy's are not negative


def _only(*allowed) -> Callable:
    """Return a check that lets nothing through but what changes nothing."""

    def check(name, value):
        if not any(type(value) is type(one) and value == one for one in allowed):
            few = " or ".join(json.dumps(one) for one in allowed)
            raise RequestError(f"{name}: only {few} is supported here", name, "unsupported_value")

    return check


def _any(name, value):
    return value


def _stops(name, value):
    try:
        stops = checked_stops(value)
    except ValueError as error:
        raise refused(error) from None
    if len(stops) > MAX_STOPS or not isinstance(value, str | list):
        raise _expected(name, f"a string or up to {MAX_STOPS} of them", value)
    return stops


def _object(name, value, checks: Mapping[str, Callable]) -> dict:
    """Return an object whose fields are checked under their full names."""
    _a(name, value, dict, what="an object")
    named = {f"{name}.{key}": check for key, check in checks.items()}
    found = _checked({f"{name}.{key}": part for key, part in value.items()}, named)
    return {key.removeprefix(f"{name}."): part for key, part in found.items()}


def _stream_options(name, value):
    return _object(name, value, {"include_usage": _boolean, "include_obfuscation": _only(False)})


def _dict(name, value):
    return _a(name, value, dict, what="an object")


def _variables(name, value):
    for key in RESERVED & _dict(name, value).keys():
        raise RequestError(f"{name}.{key}: is the model's to say", f"{name}.{key}")
    return value


def _response_format(name, value):
    """Return the JSON schema that a format stands for, None for plain text."""
    forms = {"text": {}, "json_object": {}, "json_schema": {"json_schema": _json_schema}}
    form = _dict(name, value).get("type")
    if not isinstance(form, str) or form not in forms:
        raise RequestError(f"{name}.type: expected one of {', '.join(forms)}", f"{name}.type")
    found = _object(name, value, {"type": _string} | forms[form])
    if form == "json_schema" and "json_schema" not in found:
        raise RequestError(f"{name}.json_schema: missing", f"{name}.json_schema")
    return {"text": None, "json_object": {"type": "object"}}.get(form, found.get("json_schema"))


def _json_schema(name, value):
    parts = {"name": _string, "description": _string, "strict": _boolean, "schema": _dict}
    return _object(name, value, parts).get("schema", {})


def _messages(name, value):
    if not _a(name, value, list, what="an array of messages"):
        raise RequestError(f"{name}: expected at least one message", name)
    return [_message(f"{name}[{i}]", message) for i, message in enumerate(value)]


def _message(name, value) -> dict[str, str]:
    """Return a message as chat templates take it, role and content."""
    found = _object(name, value, MESSAGE)
    if found.get("role") not in ROLES:
        raise _expected(f"{name}.role", f"one of {', '.join(ROLES)}", found.get("role", ""))
    if "content" not in found and found["role"] != "assistant":
        raise RequestError(f"{name}.content: missing", f"{name}.content")
    return {"role": ROLES[found["role"]], "content": found.get("content", "")}


def _content(name, value) -> str:
    """Return a text, or the parts of one as its lines."""
    if isinstance(value, str):
        return value
    parts = _a(name, value, list, what="a string or an array of parts")
    for i, part in enumerate(parts):
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise RequestError(f"{name}[{i}]: this model takes parts of text only", f"{name}[{i}]")
    return "\n".join(part["text"] for part in parts)


def _prompt(name, value):
    """Return the text or the token ids of the one prompt that there is."""
    while isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | list):
        value = value[0]
    if isinstance(value, str) or (isinstance(value, list) and all(type(i) is int for i in value)):
        return value
    raise _expected(name, "one text, or the ids of its tokens", value)


MESSAGE = {"role": _string, "content": _content, "name": _string}
MESSAGE |= {"refusal": _any, "annotations": _any, "reasoning_content": _any}  # of answers that come back
MESSAGE |= {"tool_calls": _only([]), "function_call": _only(None), "audio": _only(None)}

SAMPLING = {"temperature": _number, "top_p": _number, "seed": _seed}
SAMPLING |= {"top_k": _whole(0, 2**31 - 1), "repetition_penalty": _number}

COMMON = SAMPLING | {
    "model": _string,
    "max_tokens": _whole(1, 2**31 - 1),
    "stop": _stops,
    "stream": _boolean,
    "stream_options": _stream_options,
    "n": _only(1),
    "presence_penalty": _only(0, 0.0),
    "frequency_penalty": _only(0, 0.0),
    "logit_bias": _only({}),
    "response_format": _response_format,
    "user": _any,
}
CHAT = (
    COMMON
    | {
        "messages": _messages,
        "max_completion_tokens": _whole(1, 2**31 - 1),
        "logprobs": _boolean,
        "top_logprobs": _whole(0, MAX_ALTERNATIVES),
        "chat_template_kwargs": _variables,
        "tools": _only([]),
        "tool_choice": _only("none", "auto"),
        "functions": _only([]),
        "modalities": _only(["text"]),
    }
    | dict.fromkeys(("metadata", "store", "service_tier", "parallel_tool_calls"), _any)
)
CHAT |= dict.fromkeys(("safety_identifier", "prompt_cache_key"), _any)
TEXT = COMMON | {
    "prompt": _prompt,
    "logprobs": _whole(0, MAX_ALTERNATIVES),
    "echo": _only(False),
    "best_of": _only(1),
    "suffix": _only(""),
}
LACKING = {"audio", "function_call", "prediction", "reasoning_effort", "verbosity", "web_search_options"}


def is_local(host: str) -> bool:
    """Is this a name of this machine, one that no name server decides about?"""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
