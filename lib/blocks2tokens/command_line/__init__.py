"""The command line: each command is a few lines over the engine's public API.

arguments   what may be typed, and what --help says
generate    a text continued, or a question answered
chat        a conversation at a prompt
info        what is in a GGUF file
calibrate   which kernels are the fastest here
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
from blocks2tokens.command_line import arguments, calibrate, chat, course, generate, info
from blocks2tokens.command_line.answer import load
from blocks2tokens.command_line.arguments import Command
from blocks2tokens.command_line.notice import Notice, printable, reason, say
from blocks2tokens.command_line.text_file import read_text
from blocks2tokens.mix import state_of


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
    ids = None
    if args.text is not None:
        ids = b2t.load(args.src).tokenizer.encode(read_text(args.text))[: args.tokens]
    with Notice():
        print(b2t.prune(args.src, args.dst, args.by, args.share, ids, args.repair))


def perplexity(args) -> None:
    """Print how surprised a model is by a text."""
    text = read_text(args.text)
    model = load(args.model, args.threads)
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


COMMANDS = {
    "chat": Command("talk with a chat model at a prompt", arguments.add_chat, chat.run),
    "generate": Command("continue a text", arguments.add_generate, generate.run),
    "info": Command("show what is in a GGUF file", arguments.add_info, info.run),
    "convert": Command("quantize a model into another format", arguments.add_convert, convert),
    "importance": Command("note which columns a text uses", arguments.add_importance, importance),
    "prune": Command("leave layers, neurons, heads or weights out", arguments.add_prune, prune),
    "perplexity": Command("measure how well a model predicts a text", arguments.add_perplexity, perplexity),
    "quality": Command("measure how far a model is from another", arguments.add_quality, quality),
    "calibrate": Command("time the kernels again, keep the fastest", arguments.add_calibrate, calibrate.run),
    "course": Command("see and reset your lessons, grade a class", course.add, course.run),
}
