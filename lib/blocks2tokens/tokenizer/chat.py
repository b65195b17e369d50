"""Chat templates: a conversation becomes text by a program, in Jinja, that the model's file brings along.

    [{"role": "user", "content": "Hi"}]  -->  "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"

Templates are written for the surroundings that the `transformers` library gives them; these are the same.
A template comes from a stranger, so it runs in a sandbox: it sees what is passed to it and nothing else.
"""

import json
from datetime import datetime

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment


def render(template: str, **variables) -> str:
    """Return what a template makes of the variables; ValueError if it refuses or fails."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _strftime_now}
    try:
        return environment.from_string(template).render(variables)
    except Exception as error:  # a template is a program: it may divide by zero as well as refuse
        raise ValueError(f"chat template: {error}") from error


def _refuse(message):
    raise jinja2.TemplateError(message)


def _strftime_now(format):
    return datetime.now().strftime(format)


def _tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    """JSON for a model's eyes: Jinja's own is for web pages, it escapes < and sorts the keys."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
