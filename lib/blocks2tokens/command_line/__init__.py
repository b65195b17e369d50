"""The command line: each command is a few lines over the engine's public API.

arguments   what may be typed, and what --help says
generate    a text continued, or a question answered
chat        a conversation at a prompt
info        what is in a GGUF file
serve       a model for programs and browsers, over HTTP
calibrate   which kernels are the fastest here
many        one text from several processes or machines
course      the lessons: a learner's progress, a class's grades
answer      one answer as it comes, and how long it took
notice      says what one is waiting for
text_file   text as editors and shells write it
"""

import os
import signal
import sys
import warnings
from pathlib import Path

import blocks2tokens as b2t
from blocks2tokens import files
from blocks2tokens.command_line import arguments, calibrate, chat, course, generate, info, serve
from blocks2tokens.command_line.answer import load
from blocks2tokens.command_line.arguments import Command
from blocks2tokens.command_line.notice import Notice, printable, reason, say
from blocks2tokens.command_line.text_file import read_text
from blocks2tokens.importance import LEAST
from blocks2tokens.mix import state_of
from blocks2tokens.prune import needs_text


def program() -> int:
    """Run the command that the shell has given, as `b2t` and `python -m blocks2tokens` do."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a model may say what the terminal's encoding cannot
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an end that leaves nothing half-done
    return main()


def main(argv: list[str] | None = None) -> int:
    """Run one command; return the exit code: 0, 1 after an error, 130 after Ctrl-C.

    Raises SystemExit after --help, and with code 2 for arguments that make no sense.
    """
    args = arguments.parse(sys.argv[1:] if argv is None else argv, COMMANDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = note
            COMMANDS[args.command].run(args)
        sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        say("")
        return 130
    except BrokenPipeError:  # whoever reads, `head` for instance, has had enough: there is nothing to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, MemoryError) as error:
        say(f"error: {printable(reason(error))}")
        return 1


def note(message, category, filename, lineno, file=None, line=None) -> None:
    """Say what the engine warns of, on one line and without the place in its code."""
    say(f"note: {printable(str(message))}")


def convert(args) -> None:
    """Quantize a file and print what was written."""
    check_free(args)
    found = None if args.importance is None else b2t.Importance.load(args.importance)
    try:
        with Notice():
            conversion = b2t.convert(args.src, args.dst, args.format, args.bits, found, args.effort)
    except KeyboardInterrupt:
        if (state := state_of(Path(args.dst))).exists():
            say(f"\n{state} keeps what was measured: the same command goes on from it")
        raise
    print(conversion if args.verbose else conversion.summary())


def importance(args) -> None:
    """Read a text, write what it uses of a model, and print how much that was."""
    check_free(args)
    files.place_of(Path(args.dst), "dst")  # before minutes are spent on what could not be written
    text = read_text(args.text)
    model = load(args.model, args.threads)
    with Notice():
        found = b2t.importance(model, model.tokenizer.encode(text)[: args.tokens])
    found.save(args.dst)
    print(found)


def check_free(args) -> None:
    """Raise FileExistsError for a dst that is there already, unless it may be replaced."""
    if os.path.lexists(args.dst) and not args.force:
        raise FileExistsError(f"{args.dst} is there already; --force replaces it")


def prune(args) -> None:
    """Leave a share of a model out and print what was written."""
    check_free(args)
    ids, what = None, needs_text(args.by, args.repair)
    if what and args.text is None:
        raise ValueError(f"--text TEXTFILE: expected a text that says what matters, which {what} needs")
    if what:
        ids = b2t.load(args.src).tokenizer.encode(read_text(args.text))[: args.tokens]
        if len(ids) < LEAST:
            raise ValueError(f"{args.text}: expected a text of at least {LEAST} tokens, got {len(ids)}")
    with Notice():
        print(b2t.prune(args.src, args.dst, args.by, args.share, ids, args.repair))


def perplexity(args) -> None:
    """Print how surprised a model is by a text."""
    text = read_text(args.text)
    model = load(args.model, args.threads, cache=args.cache)
    ids = model.tokenizer.encode(text)[: args.tokens]
    if len(ids) < 2:
        raise ValueError(f"{args.text}: expected a text of at least 2 tokens, got {len(ids)}")
    with Notice():
        result = b2t.perplexity(model, ids, args.window)
    print(result)


def quality(args) -> None:
    """Print how far a model's predictions are from a reference's."""
    text = read_text(args.text)
    model, reference = load(args.model, args.threads), load(args.reference, args.threads)
    ids = reference.tokenizer.encode(text)[: args.tokens]
    if len(ids) < 2:
        raise ValueError(f"{args.text}: expected a text of at least 2 tokens, got {len(ids)}")
    with Notice():
        result = b2t.quality(model, reference, ids, args.window)
    print(result)


def sweep(args) -> None:
    """Measure models in several formats on several texts, and print the table."""
    from blocks2tokens.parallel.sweep import sweep as measure

    failed = measure(
        args.models, args.formats, args.texts, args.out, args.scheduler, args.tokens, args.window
    )
    print(read_text(args.out), end="")
    for job, error in failed.items():
        say(f"note: {printable(job.model)} {job.format} {printable(job.text)}: {printable(error)}")
    if failed:
        raise ValueError(f"{len(failed)} jobs failed; the same command tries them again")


COMMANDS = {
    "chat": Command("talk with a chat model at a prompt", arguments.add_chat, chat.run),
    "generate": Command("continue a text", arguments.add_generate, generate.run),
    "serve": Command("answer programs and browsers over HTTP", arguments.add_serve, serve.run),
    "info": Command("show what is in a GGUF file", arguments.add_info, info.run),
    "convert": Command("quantize a model into another format", arguments.add_convert, convert),
    "importance": Command("note which columns a text uses", arguments.add_importance, importance),
    "prune": Command("leave layers, neurons, heads or weights out", arguments.add_prune, prune),
    "perplexity": Command("measure how well a model predicts a text", arguments.add_perplexity, perplexity),
    "quality": Command("measure how far a model is from another", arguments.add_quality, quality),
    "sweep": Command("measure formats x models x texts, also on a cluster", arguments.add_sweep, sweep),
    "calibrate": Command("time the kernels again, keep the fastest", arguments.add_calibrate, calibrate.run),
    "course": Command("see and reset your lessons, grade a class", course.add, course.run),
}
