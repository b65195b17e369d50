"""What may be typed after `b2t`, and what --help says about it.

A command is one line in the table `COMMANDS` of the package, which names its `add_...` here.
"""

import argparse
import json
import sys
import textwrap
from collections.abc import Callable, Mapping
from typing import NamedTuple

from blocks2tokens.convert import TARGETS
from blocks2tokens.encoder import EFFORTS
from blocks2tokens.kernels.ours.unpack import PACKED
from blocks2tokens.model.cache_rows import TYPES
from blocks2tokens.model.transformer import MOST_ROWS
from blocks2tokens.parallel.cost import Link
from blocks2tokens.perplexity import WINDOW
from blocks2tokens.prune import WAYS
from blocks2tokens.session import MAX_TOKENS

PROG = "b2t"
MODEL = "data/models/SmolLM2-135M-Instruct.Q4_1.gguf"
GENERATE_TOKENS = 256
CALIBRATION = 4096  # tokens to learn from what matters

GENERATED = {  # the keys of what `generate --json` prints
    "model": "the file, as it was named",
    "text": "what the model wrote, without the prompt",
    "ended": "stop: at a stop token or --stop; length: --max-tokens; context: it is full; interrupt: Ctrl-C",
    "prompt_tokens": "how many tokens were read",
    "answer_tokens": "how many tokens were written",
    "seconds_to_first_token": "null if there is none",
    "tokens_per_second": "behind the first; null if there are none",
}
DESCRIBED = {  # the keys of what `info --json` prints
    "file": "path, as it was named",
    "parts": "paths of all files, one unless the model is split",
    "bytes": "size of all parts",
    "gguf_version": "2 or 3",
    "alignment": "bytes: tensors begin at multiples of it",
    "runs": "whether the engine can run the model",
    "reason": "why not, or null",
    "kv_cache_bytes_per_token": "null for a model that does not run",
    "formats": "{name: {tensors, weights, bytes, bits_per_weight}}",
    "tensors": "[{name, format, shape, bytes, offset}]; a matrix has shape [out, in]",
    "metadata": "{key: value}, all of it: sizes, vocabulary, chat template",
}


class Command(NamedTuple):
    """A command: what it is for, what adds its parser, and what does it."""

    about: str
    add: Callable
    run: Callable[[argparse.Namespace], None]


def parse(argv: list[str], known: Mapping[str, Command]) -> argparse.Namespace:
    """Return the arguments; without any, show the help. Raises SystemExit as argparse does."""
    parser = build(known)
    args, rest = parser.parse_known_args(argv or ["--help"])
    try:
        _take_late(args, rest)
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))
    if args.command == "generate" and args.prompt is None and sys.stdin.isatty():
        parser.error("PROMPT is missing: give a text, or - to type it and end it with Ctrl-D")
    if args.command == "convert" and (args.format is None) == (args.bits is None):
        parser.error("expected FORMAT or --bits, one of the two")
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return args


def _take_late(args: argparse.Namespace, rest: list[str]) -> None:
    """Take an optional argument that follows options: older versions of argparse miss it."""
    name, read = {"generate": ("prompt", str), "convert": ("format", target)}.get(
        args.command, ("command", str)
    )
    if getattr(args, name) is None and rest and not rest[0].startswith("--"):
        setattr(args, name, read(rest.pop(0)))


def build(known: Mapping[str, Command]) -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    listed = "\n".join(f"  {name:12}{command.about}" for name, command in known.items())
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="Run, look into, quantize and measure language models in GGUF files.",
        epilog=f"commands:\n{listed}\n\n{PROG} COMMAND --help explains one, with an example.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, help="what to do")
    for command in known.values():
        command.add(commands)
    return parser


def add_chat(commands) -> None:
    details = (
        "Talk with a chat model. Type a message, read the answer; Ctrl-C stops an answer that goes on for "
        "too long. /help lists what else you can type. Lines from a pipe are answered one after the other."
    )
    parser = _add_command(commands, "chat", details, f"chat {MODEL} --system 'You are a pirate.'")
    _add_threads(parser)
    _add_cache(parser)
    _add_chat_format(parser)
    _add_sampling(parser, temperature=0.7, top_p=0.9)
    _add_ends(parser, "where an answer ends", MAX_TOKENS)


def add_generate(commands) -> None:
    details = (
        "Continue a text. What the model writes goes to the standard output, without your prompt; the same "
        "prompt gets the same text, unless you set a temperature."
    )
    example = "generate data/austen.gguf 'It is a truth universally acknowledged' --temperature 0.7"
    parser = _add_command(commands, "generate", details, example, keys=GENERATED)
    parser.add_argument(
        "prompt", metavar="PROMPT", nargs="?", help="the text; - or none reads it from a pipe"
    )
    _add_threads(parser)
    _add_cache(parser)
    question = "put PROMPT to a chat model as a question; options of its chat format imply it"
    parser.add_argument("--chat", action="store_true", help=question)
    _add_chat_format(parser)
    parser.add_argument("--stats", action="store_true", help="say in the end how long it took")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with the keys below")
    _add_sampling(parser, temperature=0.0, top_p=1.0)
    ends = _add_ends(parser, "where the text ends", GENERATE_TOKENS)
    form = "write JSON that follows the JSON schema in FILE, and nothing else; needs the package llguidance"
    ends.add_argument("--json-schema", metavar="FILE", help=form)
    machines = parser.add_argument_group("on several machines, started with mpiexec -n N b2t generate ...")
    way = "pipeline: each has some of the layers; tensor: each has some rows of all of them"
    machines.add_argument("--parallel", choices=("pipeline", "tensor"), help=way)
    kept = "keep the tokens in FILE as they come; the same command goes on from those that are there"
    machines.add_argument("--tokens-file", metavar="FILE", help=kept)
    network = "on one machine, hold each message back as a network would: latency in ms, and Gbit/s"
    machines.add_argument("--link", metavar="MS,GBIT", type=link, help=network)


def link(text: str) -> Link:
    """Return a network, of milliseconds and Gbit/s.

    >>> link("0.5,1")
    Link(latency=0.0005, rate=125000000.0)
    """
    try:
        latency, rate = map(float, text.split(","))
        if not (0 <= latency < float("inf") and 0 < rate < float("inf")):
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected MS,GBIT such as 0.5,1, got {text!r}") from None
    return Link(latency / 1e3, rate * 1e9 / 8)


def add_serve(commands) -> None:
    details = (
        "Serve a model over HTTP: OpenAI's protocol, for chat programs, editors and their libraries, and a "
        "page to chat. Several answers are written at once. Only this machine is answered unless --host "
        "says otherwise. Ctrl-C or SIGTERM lets the answers that are being written end."
    )
    parser = _add_command(commands, "serve", details, f"serve {MODEL} --port 8080 --slots 8")
    _add_threads(parser)
    _add_template(parser)
    at = parser.add_argument_group("where, and for whom")
    at.add_argument("--host", metavar="HOST", default="127.0.0.1", help="the address (default: 127.0.0.1)")
    port = "the port; 0: any free one (default: 8080)"
    at.add_argument("--port", metavar="PORT", type=between(0, 65535), default=8080, help=port)
    key = "what callers must show; needed for any host but this machine"
    at.add_argument("--api-key", metavar="KEY", type=shown_key, help=key)
    slots = "write so many answers at once; more wait for their turn (default: 8)"
    at.add_argument("--slots", metavar="N", type=between(1, MOST_ROWS), default=8, help=slots)


def shown_key(text: str) -> str:
    """Return a key; ArgumentTypeError for one that does not go into a header of HTTP."""
    if not text or not text.isascii() or not text.isprintable() or text != text.strip():
        raise argparse.ArgumentTypeError("expected letters, digits and signs of ASCII")
    return text


def add_info(commands) -> None:
    details = (
        "Show what is in a GGUF file: the model's sizes, the formats of its weights, the memory that its KV "
        "cache takes, and whether the engine can run it."
    )
    parser = _add_command(commands, "info", details, f"info {MODEL} --tensors", keys=DESCRIBED)
    parser.add_argument("--metadata", action="store_true", help="list all keys, long values cut")
    parser.add_argument("--tensors", action="store_true", help="list all tensors")
    everything = "print all of it as one JSON object, with the keys below"
    parser.add_argument("--json", action="store_true", help=everything)


def add_convert(commands) -> None:
    details = (
        "Write the model of one GGUF file to another: its matrices in FORMAT, or with --bits each in the one "
        "that keeps the predictions nearest. llama.cpp runs it too. The search for such a mix runs the model "
        "once for each matrix; interrupted, the same command goes on where it was."
    )
    example = "convert data/austen.gguf data/models/austen.Q4_K_M.gguf Q4_K_M"
    parser = _add_command(commands, "convert", details, example, model=False)
    parser.add_argument("src", metavar="SRC", help="the GGUF file to read")
    parser.add_argument("dst", metavar="DST", help="the GGUF file to write")
    formats = ", ".join(TARGETS)
    parser.add_argument("format", metavar="FORMAT", nargs="?", type=target, help=f"one of {formats}")
    budget = "bits per weight, over all tensors, that a mix of formats may take; such as 4.5"
    parser.add_argument("--bits", metavar="B", type=float, help=budget)
    matters = "what matters in the model, from the command importance or from llama-imatrix"
    parser.add_argument("--importance", metavar="FILE", help=matters)
    effort = (
        "ggml: the bytes that llama.cpp would write (default); best: smaller errors, and slower. With an "
        "importance of ours, errors of columns are made to cancel"
    )
    parser.add_argument("--effort", choices=EFFORTS, default="ggml", help=effort)
    parser.add_argument("--force", action="store_true", help="replace DST if it is there already")
    listed = "list the formats, and the tensors that could not have the one asked for"
    parser.add_argument("--verbose", action="store_true", help=listed)


def target(text: str) -> str:
    """Return a format's name in capitals; ArgumentTypeError for one that `convert` does not write."""
    if text.upper() not in TARGETS:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(TARGETS)}, got {text!r}")
    return text.upper()


def add_importance(commands) -> None:
    details = (
        "Read a text and write which columns of each matrix it uses, for convert --importance; "
        "llama-quantize --imatrix reads the file too. Take a text of the kind that the model will write."
    )
    example = "importance data/austen.gguf README.md data/models/austen.importance.gguf"
    parser = _add_command(commands, "importance", details, example)
    parser.add_argument("text", metavar="TEXTFILE", help="a text file in UTF-8; - reads it from a pipe")
    parser.add_argument("dst", metavar="DST", help="the file to write")
    tokens = f"read only the first N tokens (default: {CALIBRATION})"
    parser.add_argument("--tokens", metavar="N", type=at_least(1), default=CALIBRATION, help=tokens)
    _add_threads(parser)
    parser.add_argument("--force", action="store_true", help="replace DST if it is there already")


def add_perplexity(commands) -> None:
    details = (
        "Measure how surprised a model is by a text: the lower, the better it predicts. Compare only figures "
        "of the same text, vocabulary and window."
    )
    parser = _add_command(commands, "perplexity", details, "perplexity data/austen.gguf LICENSE")
    _add_text(parser)
    _add_cache(parser)


def add_quality(commands) -> None:
    details = (
        "Measure how far a model's predictions are from those of REFERENCE, the model that it was made from: "
        "the Kullback-Leibler divergence in nats per token, and how often both have the same first choice."
    )
    example = "quality data/models/austen.Q4_K_M.gguf data/austen.gguf LICENSE"
    parser = _add_command(commands, "quality", details, example)
    parser.add_argument("reference", metavar="REFERENCE", help="the GGUF file to compare with")
    _add_text(parser)


def _add_text(parser) -> None:
    """Add the text to measure on, and how it is read."""
    parser.add_argument("text", metavar="TEXTFILE", help="a text file in UTF-8; - reads it from a pipe")
    parser.add_argument(
        "--window",
        metavar="N",
        type=at_least(1),
        help=f"tokens read together (default: {WINDOW}, or the model's context if that is less)",
    )
    parser.add_argument("--tokens", metavar="N", type=at_least(1), help="read only the first N tokens")
    _add_threads(parser)


def add_prune(commands) -> None:
    details = (
        "Leave a share of a model out: whole layers, neurons or heads, which makes the file smaller, or "
        "single weights, which become 0. A text says what matters; llama.cpp runs the new file too."
    )
    example = "prune data/austen.gguf smaller.gguf --by neurons --share 0.25 --text README.md"
    parser = _add_command(commands, "prune", details, example, model=False)
    parser.add_argument("src", metavar="SRC", help="the GGUF file to read")
    parser.add_argument("dst", metavar="DST", help="the GGUF file to write")
    parser.add_argument("--by", choices=WAYS, required=True, help="what goes, and what it is judged by")
    about = "how much goes, between 0 and 1; of weights also 2:4, two of each four neighbours stay"
    parser.add_argument("--share", metavar="SHARE", type=share, required=True, help=about)
    learned = "a text file in UTF-8 to learn from what matters; - reads it from a pipe. Magnitude needs none"
    parser.add_argument("--text", metavar="TEXTFILE", help=learned)
    tokens = f"read only the first N tokens of it (default: {CALIBRATION})"
    parser.add_argument("--tokens", metavar="N", type=at_least(1), default=CALIBRATION, help=tokens)
    over = "let the weights that stay take over from those that go; weights only"
    parser.add_argument("--repair", action="store_true", help=over)
    parser.add_argument("--force", action="store_true", help="replace DST if it is there already")


def share(text: str) -> float | str:
    """Return a share, a number or a pattern such as "2:4"; the engine says which make sense.

    >>> share("0.5"), share("2:4")
    (0.5, '2:4')
    """
    try:
        return float(text)
    except ValueError:
        return text


def add_sweep(commands) -> None:
    details = (
        "Convert each model into each format, measure its perplexity on each text, and write a table. "
        "Rows that are in the table are not measured again: the same command goes on where one ended. "
        "Dask's workers do it, one for each core here, or those of a scheduler, which see the same files."
    )
    example = "sweep data/austen.gguf --formats Q4_K Q8_0 as-it-is --texts README.md --out sweep.csv"
    parser = _add_command(commands, "sweep", details, example, model=False)
    parser.add_argument("models", metavar="MODEL", nargs="+", help="GGUF files")
    formats = f"{', '.join(TARGETS)}; as-it-is: the file itself"
    parser.add_argument("--formats", metavar="FORMAT", nargs="+", required=True, help=formats)
    parser.add_argument("--texts", metavar="TEXTFILE", nargs="+", required=True, help="texts in UTF-8")
    parser.add_argument("--out", metavar="CSV", required=True, help="the table, read first if it is there")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="of Dask's, such as tcp://10.0.0.1:8786")
    first = "read the first N tokens of each text (default: 4000)"
    parser.add_argument("--tokens", metavar="N", type=at_least(2), default=4000, help=first)
    together = "tokens read together (default: 512)"
    parser.add_argument("--window", metavar="N", type=at_least(1), default=512, help=together)


def add_calibrate(commands) -> None:
    details = (
        "Time the kernels again, keep which are the fastest for this machine, and show what the others cost. "
        "The first product with a format does it by itself; do it again if the machine was busy then."
    )
    parser = _add_command(commands, "calibrate", details, "calibrate Q4_K Q6_K", model=False)
    parser.add_argument("formats", metavar="FORMAT", nargs="*", type=known_format, help="such as Q4_K")


def _add_command(commands, name, details, example, model=True, keys=None) -> argparse.ArgumentParser:
    """Add a command; `keys` are those of the JSON object that it prints with --json, and what they mean."""
    listed = "".join(f"\n  {key:26}{meaning}" for key, meaning in (keys or {}).items())
    parser = commands.add_parser(
        name,
        description=textwrap.fill(details, 80),
        epilog=(f"keys of --json:{listed}\n\n" if keys else "") + f"example:\n  {PROG} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,  # which leaves the example on its line
        allow_abbrev=False,
    )
    if model:
        parser.add_argument("model", metavar="MODEL", help="a GGUF file")
    return parser


def _add_threads(parser) -> None:
    about = "compute on N threads (default: one for each core to be had, or BLOCKS2TOKENS_THREADS)"
    parser.add_argument("--threads", metavar="N", type=at_least(1), help=about)


def _add_cache(parser) -> None:
    about = (
        "what keys and values are kept as: float32 (default), float16 in half of the memory, q8_0 in a "
        "quarter or q4_0 in a seventh of it"
    )
    parser.add_argument("--cache", metavar="TYPE", choices=TYPES, default="float32", help=about)


def _add_template(parser) -> None:
    file = "a chat template, in Jinja, to use in the place of the model's own; a base model has none"
    parser.add_argument("--chat-template", metavar="FILE", help=file)


def _add_chat_format(parser) -> None:
    """Add what goes into a model's chat template."""
    parser.add_argument("--system", metavar="TEXT", help="tell the model who it is, ahead of all messages")
    _add_template(parser)
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


def _add_ends(parser, title: str, usual: int):
    """Add what ends an answer, in a group of that title, which is returned; `usual` tokens are the default.

    The default is None for the command, which says something only if it cannot give what was asked for.
    """
    group = parser.add_argument_group(title)
    length = f"the longest answer (default: {usual}, or what the context has room for)"
    group.add_argument("--max-tokens", metavar="N", type=at_least(1), help=length)
    stop = "end in front of TEXT, wherever it comes. Can be given several times"
    group.add_argument("--stop", metavar="TEXT", type=stop_text, action="append", default=[], help=stop)
    return group


def stop_text(text: str) -> str:
    """Return a stop string; ArgumentTypeError for an empty one, which every text begins with."""
    if not text:
        raise argparse.ArgumentTypeError("expected a text, got an empty one")
    return text


def _add_sampling(parser, temperature: float, top_p: float) -> None:
    """Add the options of b2t.Sampler, with these defaults."""
    group = parser.add_argument_group("how tokens are chosen")

    def add(name, metavar, kind, default, text):
        group.add_argument(name, metavar=metavar, type=kind, default=default, help=text)

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


def between(least: int, most: int) -> Callable[[str], int]:
    """Return a function that reads a whole number, and makes one outside these limits an error of usage."""

    def read(text):
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"expected a whole number, {least} to {most}, got {text!r}")
        return int(text)

    return read


def at_least(least: int) -> Callable[[str], int]:
    """Return a function that reads a whole number, and makes a smaller one an error of usage."""

    def read(text):
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number >= {least}, got {text!r}")
        return int(text)

    return read
