"""chat: a conversation at a prompt.

> a message     --session.say-->  the answer, as it comes
> /undo         --session.rewind-->  the last message is taken back
> /save FILE    --session.save-->  FILE  --b2t.load_session-->  /load FILE

The session keeps what it has read: the tenth answer begins as soon as the first. When the conversation
outgrows the model's context, the session forgets its oldest turns, and a line says so.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter

import blocks2tokens as b2t
from blocks2tokens.command_line.answer import counted, load, sampler, say_if_capped, summary
from blocks2tokens.command_line.notice import Notice, faint, printable, reason, say
from blocks2tokens.command_line.text_file import without_mark
from blocks2tokens.session import MAX_TOKENS
from blocks2tokens.session_file import is_session

HELP = """\
/undo        take the last message back, and its answer
/reset       forget what was said and begin anew
/save FILE   keep the conversation in a file
/load FILE   go on with one that was kept
/quit        end; so does Ctrl-D, or Ctrl-C twice
/help        this
Ctrl-C during an answer stops the answer, at the prompt it clears the line. Anything else that you type is a
message to the model."""

NO_ANSWER = "no answer, so the question is forgotten too"


class Chat:
    """A session, and what may be typed at its prompt.

    `max_tokens` None are as many as usual; where an answer cannot have as many as were asked for, that is
    said once.
    """

    def __init__(
        self, session: b2t.Session, max_tokens: int | None, sampler: b2t.Sampler, stops: Sequence[str] = ()
    ):
        self.session, self.max_tokens, self.sampler, self.stops = session, max_tokens, sampler, stops
        self.capped = False
        self.commands = {"/undo": self.undo, "/reset": self.reset, "/help": lambda: say(HELP)}
        self.commands_with_file = {"/save": self.save, "/load": self.load}

    def obey_or_answer(self, line: str) -> None:
        """Do what a line asks for: it is a command, or a message to the model, or empty."""
        name, _, rest = line.partition(" ")
        if line in self.commands:
            self.commands[line]()
        elif name in self.commands_with_file and rest:
            self.commands_with_file[name](Path(rest.strip()).expanduser())
        elif name in self.commands_with_file:
            say(f"{name} needs a file's name")
        elif line.startswith("/") and line[1:].isalpha():
            say(f"there is no command {line}; /help lists them")
        elif line:
            self.answer(line)

    def answer(self, message: str) -> None:
        """Print the answer to a message. What was said before Ctrl-C stays in the conversation."""
        pieces = self.session.say(message, self.max_tokens or MAX_TOKENS, self.sampler, self.stops)
        turn = self.session.turn
        if turn.forgotten:
            say(faint(f"the conversation outgrew the context: {oldest(turn.forgotten)} forgotten"))
        room = self.session.model.config.context_length - turn.prompt_tokens
        self.capped = self.capped or say_if_capped(self.max_tokens, room)
        first = last = None
        try:
            with Notice(f"reading {counted(turn.prompt_tokens - turn.cached_tokens)}") as notice:
                for text in pieces:
                    notice.beat()
                    last = perf_counter()
                    first = first or last
                    print(text, end="", flush=True)
        finally:
            print(flush=True)
            if sys.stderr.isatty():
                told = summary(turn.answer_tokens, last - first, turn.ended) if first else NO_ANSWER
                say(faint(told))

    def undo(self) -> None:
        """Take the last message back."""
        message = self.session.rewind()
        say(
            faint("there is nothing to take back" if message is None else f"taken back: {printable(message)}")
        )

    def reset(self) -> None:
        """Begin a new conversation, with the same system message."""
        self.session = self.session.model.session(self.session.system, self.session.template_variables)
        say(faint("a new conversation"))

    def save(self, path: Path) -> None:
        """Keep the conversation in a file; it may replace another conversation, and nothing else."""
        if path.exists() and not is_session(path):
            raise FileExistsError(f"{path} is there already, and it is no conversation")
        self.session.save(path)
        say(faint(f"saved, {path.stat().st_size:,} bytes"))

    def load(self, path: Path) -> None:
        """Go on with a conversation from a file, in the place of this one."""
        self.session = b2t.load_session(path, self.session.model)
        turns = [message for message in self.session.messages if message["role"] != "system"]
        say(faint(f"a conversation of {counted(len(turns) // 2, 'question')}"))
        for message in turns[-2:]:
            text = "\n".join(printable(line) for line in message["content"].split("\n"))
            print(f"> {text}" if message["role"] == "user" else text)


def run(args) -> None:
    """Hold a conversation until the input ends; without prompts if it comes from a pipe."""
    chosen = sampler(args)
    model = load(args.model, args.threads, args.chat_template, args.cache)
    if not model.tokenizer.chat_template:
        raise ValueError(
            f"{args.model} has no chat template, so it does not chat; the command generate continues a text, "
            "and --chat-template brings one"
        )
    chat = Chat(model.session(args.system, args.template_variable), args.max_tokens, chosen, args.stop)
    interactive = sys.stdin.isatty()
    if interactive:
        edit_lines()
        print(greeting(args.model, model))
    for line in lines(interactive):
        if line == "/quit":
            break
        try:
            chat.obey_or_answer(line)
        except (ValueError, OSError, KeyboardInterrupt) as error:  # at a prompt, there is another turn
            if not interactive or isinstance(error, BrokenPipeError):
                raise
            if not isinstance(error, KeyboardInterrupt):
                say(printable(reason(error)))


def greeting(path: str, model: b2t.Model) -> str:
    """Return the line above the first prompt."""
    context = counted(model.config.context_length)
    return f"{Path(path).name}, a context of {context}. /help says what you can type."


def edit_lines() -> None:
    """Give the prompt a history and editing, where Python has them; pasted lines are one message."""
    try:
        import readline
    except ImportError:
        return
    readline.parse_and_bind("set enable-bracketed-paste on")


def lines(interactive: bool) -> Iterator[str]:
    """Yield what is typed or piped in, line by line, without the space around it.

    Ctrl-C at a prompt clears the line, as a shell does; twice in a row it ends, as Ctrl-D does.
    """
    interrupted = False
    while True:
        if interactive:
            print()
        try:
            line = without_mark(input("> " if interactive else "")).strip()
        except EOFError:
            break
        except KeyboardInterrupt:
            if not interactive:
                raise
            if interrupted:
                break
            interrupted = True
            say(faint("\nCtrl-C again ends the conversation"))
            continue
        interrupted = False
        yield line
    if interactive:
        print()


def oldest(n: int) -> str:
    """Return n of the oldest questions in words.

    >>> oldest(1), oldest(2)
    ('the oldest question is', 'the 2 oldest questions are')
    """
    return "the oldest question is" if n == 1 else f"the {n} oldest questions are"
