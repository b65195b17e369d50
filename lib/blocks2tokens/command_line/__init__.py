"""The command line: each command is a few lines over the engine's public API.

arguments   what may be typed, and what --help says
chat        a conversation at a prompt
info        what is in a GGUF file
calibrate   which kernels are the fastest here
answer      one answer as it comes, and how long it took; generate and chat share it
notice      says what one is waiting for
text_file   text as editors and shells write it
"""

import os
import sys
import warnings

import blocks2tokens as b2t
from blocks2tokens.command_line import arguments, calibrate, chat, info
from blocks2tokens.command_line.answer import Answer, load, sampler
from blocks2tokens.command_line.notice import Notice, printable, reason, say
from blocks2tokens.command_line.text_file import read_text, without_mark


def main(argv: list[str] | None = None) -> int:
    """Run one command; return the exit code: 0, 1 after an error, 130 after Ctrl-C.

    Raises SystemExit after --help, and with code 2 for arguments that make no sense.
    """
    args = arguments.parse(sys.argv[1:] if argv is None else argv)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = note
            COMMANDS[args.command](args)
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


def generate(args) -> None:
    """Continue a text, or answer it; on stdout there is that text and nothing else."""
    chosen = sampler(args)
    text = (
        args.prompt if args.prompt not in (None, "-") else without_mark(sys.stdin.read()).removesuffix("\n")
    )
    model = load(args.model, args.threads)
    if args.chat:
        ids = model.tokenizer.encode_chat([{"role": "user", "content": text}], **args.template_variable)
    else:
        ids = model.tokenizer.encode(text)
    if not ids:
        raise ValueError("the prompt is empty")
    answer = Answer(model, ids, args.max_tokens, chosen, continues=not args.chat)
    try:
        answer.speak()
    finally:
        print(flush=True)
        if args.stats:
            say(f"{answer.prompt_summary()}; {answer.summary()}")


def convert(args) -> None:
    """Quantize a file and print what was written."""
    if os.path.lexists(args.dst) and not args.force:
        raise FileExistsError(f"{args.dst} is there already; --force replaces it")
    with Notice():
        conversion = b2t.convert(args.src, args.dst, args.format, args.effort)
    print(conversion)


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


COMMANDS = {
    "chat": chat.run,
    "generate": generate,
    "info": info.run,
    "convert": convert,
    "perplexity": perplexity,
    "calibrate": calibrate.run,
}
