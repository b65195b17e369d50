"""Chat templates: a conversation becomes text by a program, in Jinja, that the model's file brings along.

    [{"role": "user", "content": "Hi"}]  -->  "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"

Templates are written for the surroundings that the `transformers` library gives them; these are the same.
A template comes from a stranger, so it runs in a sandbox: it sees what is passed to it and nothing else.

Most templates take a content that is a string, some a list of parts, [{"type": "text", "text": "Hi"}], and
neither says so: a template is given strings, and parts if what was said is not to be found in what it made
of them. Source: llama.cpp, which finds out in the same way.
"""

import json
from datetime import datetime

import jinja2
from markupsafe import escape

from blocks2tokens.tokenizer.sandbox import Sandbox

SAID_BY = ("system", "user")  # whose words must be there: of an assistant's, templates leave thoughts out


def render_messages(template: str, messages: list[dict], **variables) -> str:
    """Return what a template makes of a conversation.

    Raises ValueError if the template refuses or fails, if what a system or user message says is not in its
    text, and for a message that has no role, or a content that is neither a string nor parts of text.
    """
    plain = [_with_string(message) for message in messages]
    parts = [_with_parts(message) for message in plain]
    missing, failure = None, None
    for form in (plain, parts):
        try:
            text = render(template, messages=form, **variables)
        except ValueError as error:
            failure = failure or error
            continue
        lost = _lost(plain, text) or (_printed(parts, text) if form is parts else None)
        if lost is None:
            return text
        missing = missing or lost
    if missing is None:
        raise failure
    raise ValueError(
        f"chat template: the {missing['role']} message is not in the text that it makes: "
        f"{missing['content']!r:.60}"
    )


def render(template: str, **variables) -> str:
    """Return what a template makes of the variables; ValueError if it refuses or fails."""
    functions = {"raise_exception": _refuse, "strftime_now": _strftime_now}
    try:
        return Sandbox({"tojson": _tojson}, functions).from_string(template).render(variables)
    except Exception as error:  # a template is a program: it may divide by zero as well as refuse
        raise ValueError(f"chat template: {error}") from error


def _with_string(message: dict) -> dict:
    """Return a message whose content, if it has one, is a string; parts of text become its lines."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise ValueError(f"messages: expected dicts with a role, a string, got {message!r:.60}")
    content = message.get("content")
    if content is None or isinstance(content, str):
        return message
    parts = content if isinstance(content, list | tuple) else [None]
    texts = [part.get("text") if isinstance(part, dict) else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"content: expected a string or a list of parts of text, got {content!r:.60}")
    return message | {"content": "\n".join(texts)}


def _with_parts(message: dict) -> dict:
    if not isinstance(message.get("content"), str):
        return message
    return message | {"content": [{"type": "text", "text": message["content"]}]}


def _lost(messages: list[dict], text: str) -> dict | None:
    """Return a message whose words are not in the text, or None.

    Templates trim, indent and quote, so letters and digits are compared and nothing else.
    """
    said = [message for message in messages if message["role"] in SAID_BY and message.get("content")]
    hidden = [message for message in said if message["content"].strip() not in text]
    shown = _letters(text) if hidden else ""
    for message in hidden:
        content = message["content"]
        spellings = (content, _tojson(content), json.dumps(content), str(escape(content)))
        if not any(letters and letters in shown for letters in map(_letters, spellings)):
            return message
    return None


def _printed(messages: list[dict], text: str) -> dict | None:
    """Return a message whose parts are in the text as Python or JSON spells them, or None."""
    for message in messages:
        for part in message["content"] if isinstance(message.get("content"), list) else []:
            if str(part) in text or _tojson(part) in text:
                return message
    return None


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text)).casefold()


def _refuse(message):
    raise jinja2.TemplateError(message)


def _strftime_now(format):
    return datetime.now().strftime(format)


def _tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    """JSON for a model's eyes: Jinja's own is for web pages, it escapes < and sorts the keys."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
