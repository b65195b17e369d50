"""What may be typed after `python -m blocks2tokens`, and what --help says about it."""

import argparse
import json
import sys
import textwrap
from collections.abc import Callable

from blocks2tokens.convert import TARGETS
from blocks2tokens.kernels.ours.unpack import PACKED
from blocks2tokens.perplexity import WINDOW

PROG = "python -m blocks2tokens"
MODEL = "data/models/SmolLM2-135M-Instruct.Q4_1.gguf"
COMMANDS = {
    "chat": "talk with a chat model at a prompt",
    "generate": "continue a text",
    "info": "show what is in a GGUF file",
    "convert": "quantize a model into another format",
    "perplexity": "measure how well a model predicts a text",
    "calibrate": "time the kernels again, keep the fastest",
}
GENERATE_TOKENS, CHAT_TOKENS = 256, 1024


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the arguments; without any, show the help. Raises SystemExit as argparse does."""
    parser = build()
    args, rest = parser.parse_known_args(argv or ["--help"])
    if args.command == "generate" and args.prompt is None and rest and not rest[0].startswith("--"):
        args.prompt = rest.pop(0)  # older versions of argparse miss an optional argument that follows options
    if args.command == "generate" and args.prompt is None and sys.stdin.isatty():
        parser.error("PROMPT is missing: give a text, or - to type it and end it with Ctrl-D")
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return args


def build() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    listed = "\n".join(f"  {name:12}{about}" for name, about in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="Run, look into, quantize and measure language models in GGUF files.",
        epilog=f"commands:\n{listed}\n\n{PROG} COMMAND --help explains one, with an example.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, help="what to do")
    for add in (_add_chat, _add_generate, _add_info, _add_convert, _add_perplexity, _add_calibrate):
        add(commands)
    return parser


def _add_chat(commands) -> None:
    details = (
        "Talk with a chat model. Type a message, read the answer; Ctrl-C stops an answer that goes on for "
        "too long. /help lists what else you can type. Lines from a pipe are answered one after the other."
    )
    parser = _add_command(commands, "chat", details, f"chat {MODEL} --system 'You are a pirate.'")
    _add_threads(parser)
    parser.add_argument("--system", metavar="TEXT", help="tell the model who it is, ahead of all messages")
    _add_template_variables(parser)
    _add_sampling(parser, temperature=0.7, top_p=0.9, max_tokens=CHAT_TOKENS)


def _add_generate(commands) -> None:
    details = (
        "Continue a text. What the model writes goes to the standard output, without your prompt; the same "
        "prompt gets the same text, unless you set a temperature."
    )
    example = "generate data/austen.gguf 'It is a truth universally acknowledged' --temperature 0.7"
    parser = _add_command(commands, "generate", details, example)
    parser.add_argument(
        "prompt", metavar="PROMPT", nargs="?", help="the text; - or none reads it from a pipe"
    )
    _add_threads(parser)
    parser.add_argument("--chat", action="store_true", help="put PROMPT to a chat model as a question")
    _add_template_variables(parser)
    parser.add_argument("--stats", action="store_true", help="say in the end how long it took")
    _add_sampling(parser, temperature=0.0, top_p=1.0, max_tokens=GENERATE_TOKENS)


def _add_info(commands) -> None:
    details = (
        "Show what is in a GGUF file: the model's sizes, the formats of its weights, the memory that its KV "
        "cache takes, and whether the engine can run it."
    )
    parser = _add_command(commands, "info", details, f"info {MODEL} --tensors")
    parser.add_argument("--metadata", action="store_true", help="list all keys, long values cut")
    parser.add_argument("--tensors", action="store_true", help="list all tensors")


def _add_convert(commands) -> None:
    details = "Write the model of one GGUF file to another, its matrices in FORMAT. llama.cpp runs it too."
    example = "convert data/austen.gguf data/models/austen.Q4_K_M.gguf Q4_K_M"
    parser = _add_command(commands, "convert", details, example, model=False)
    parser.add_argument("src", metavar="SRC", help="the GGUF file to read")
    parser.add_argument("dst", metavar="DST", help="the GGUF file to write")
    formats = ", ".join(TARGETS)
    parser.add_argument("format", metavar="FORMAT", type=str.upper, choices=TARGETS, help=f"one of {formats}")
    parser.add_argument(
        "--effort",
        choices=("ggml", "best"),
        default="ggml",
        help="ggml: the bytes that llama.cpp would write (default); best: smaller errors, and slower",
    )
    parser.add_argument("--force", action="store_true", help="replace DST if it is there already")


def _add_perplexity(commands) -> None:
    details = (
        "Measure how surprised a model is by a text: the lower, the better it predicts. Compare only figures "
        "of the same text, vocabulary and window."
    )
    parser = _add_command(commands, "perplexity", details, "perplexity data/austen.gguf chapter.txt")
    parser.add_argument("text", metavar="TEXTFILE", help="a text file in UTF-8")
    parser.add_argument(
        "--window",
        metavar="N",
        type=at_least(1),
        help=f"tokens read together (default: {WINDOW}, or the model's context if that is less)",
    )
    parser.add_argument("--tokens", metavar="N", type=at_least(1), help="read only the first N tokens")
    _add_threads(parser)


def _add_calibrate(commands) -> None:
    details = (
        "Time the kernels again, keep which are the fastest for this machine, and show what the others cost. "
        "The first product with a format does it by itself; do it again if the machine was busy then."
    )
    parser = _add_command(commands, "calibrate", details, "calibrate Q4_K Q6_K", model=False)
    parser.add_argument("formats", metavar="FORMAT", nargs="*", type=known_format, help="such as Q4_K")


def _add_command(commands, name, details, example, model=True) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        description=textwrap.fill(details, 80),
        epilog=f"example:\n  {PROG} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,  # which leaves the example on its line
        allow_abbrev=False,
    )
    if model:
        parser.add_argument("model", metavar="MODEL", help="a GGUF file")
    return parser


def _add_threads(parser) -> None:
    about = "compute on N threads (default: one for each core to be had, or BLOCKS2TOKENS_THREADS)"
    parser.add_argument("--threads", metavar="N", type=at_least(1), help=about)


def _add_template_variables(parser) -> None:
    about = (
        "a variable for the model's chat template, such as enable_thinking=false; JSON, or else text. "
        "Can be given several times"
    )
    parser.add_argument(
        "--template-variable", metavar="NAME=VALUE", type=variable, action=_Collect, default={}, help=about
    )


def variable(text: str) -> tuple[str, object]:
    """Return a template variable's name and value.

    >>> variable("enable_thinking=false"), variable("date=1 May"), variable('tools=[{"a": 1}]')
    (('enable_thinking', False), ('date', '1 May'), ('tools', [{'a': 1}]))
    """
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


class _Collect(argparse.Action):
    """Collects pairs in a dict."""

    def __call__(self, parser, namespace, pair, option_string=None):
        name, value = pair
        setattr(namespace, self.dest, {**getattr(namespace, self.dest), name: value})


def _add_sampling(parser, temperature: float, top_p: float, max_tokens: int) -> None:
    """Add the options of b2t.Sampler and --max-tokens, with these defaults."""
    group = parser.add_argument_group("how tokens are chosen")

    def add(name, metavar, kind, default, text):
        group.add_argument(name, metavar=metavar, type=kind, default=default, help=text)

    length = f"the longest answer (default: {max_tokens}, or what the context has room for)"
    add("--max-tokens", "N", at_least(1), max_tokens, length)
    bold = f"0 takes the most likely token each time; the higher, the bolder (default: {temperature:g})"
    add("--temperature", "T", float, temperature, bold)
    add("--top-k", "K", at_least(0), 0, "draw from the K most likely tokens only; 0: from all (default)")
    nucleus = f"draw from the fewest tokens whose probabilities add up to P; 1: from all (default: {top_p:g})"
    add("--top-p", "P", float, top_p, nucleus)
    add("--repetition-penalty", "R", float, 1.0, "above 1 avoids what was said already (default: 1)")
    add("--seed", "N", at_least(0), None, "draw the same tokens each time (default: others each time)")


def known_format(name: str) -> str:
    """Return a format's name; ArgumentTypeError if it has no kernels."""
    if name not in PACKED:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(PACKED)}, got {name!r}")
    return name


def at_least(least: int) -> Callable[[str], int]:
    """Return a function that reads a whole number, and makes a smaller one an error of usage."""

    def read(text):
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number >= {least}, got {text!r}")
        return int(text)

    return read
