"""chat: a conversation at a prompt.

[system] user assistant user assistant ... user
    --chat template--> text --encode--> ids --generate--> the assistant's next message

Each turn reads the whole conversation anew. When it outgrows the model's context, the oldest question goes,
with its answer, then the next; the system message stays.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import blocks2tokens as b2t
from blocks2tokens.command_line.answer import Answer, counted, load, sampler
from blocks2tokens.command_line.notice import faint, say
from blocks2tokens.command_line.text_file import without_mark

HELP = """\
/reset   forget what was said and begin anew
/quit    end; so does Ctrl-D, or Ctrl-C at the prompt
/help    this
Ctrl-C during an answer stops the answer. Anything else that you type is a message to the model."""


class Conversation:
    """What was said, `turns`: dicts with role and content, a user's and an assistant's by turns."""

    def __init__(self, model: b2t.Model, system: str | None, variables: dict | None = None):
        """`variables` are more that the model's template may look at.

        Raises ValueError if the model has no chat template, or one that takes no system message.
        """
        self.model, self.variables = model, variables or {}
        self.system = [{"role": "system", "content": system}] if system else []
        self.turns: list[dict[str, str]] = []
        self._ids([{"role": "user", "content": "Hello"}])

    def ask(self, question: str) -> tuple[list[int], int]:
        """Add a question; return the ids to continue, and how many older questions had to go.

        A quarter of the context is kept free for the answer as long as there is an older question to drop.
        Raises ValueError, and adds nothing, for one that does not fit even alone.
        """
        context = self.model.config.context_length
        turns = [*self.turns, {"role": "user", "content": question}]
        before = len(turns)
        ids = self._ids(turns)
        while len(ids) > context - context // 4 and len(turns) > 1:
            turns = turns[2:]
            ids = self._ids(turns)
        if len(ids) >= context:
            raise ValueError(
                f"this message is too long: with what goes around it, it has {counted(len(ids))}, "
                f"and the model's context is {context:,}"
            )
        self.turns = turns
        return ids, (before - len(turns)) // 2

    def answered(self, text: str) -> None:
        """Add the answer to the question asked last; without an answer the question goes too."""
        if text:
            self.turns.append({"role": "assistant", "content": text})
        else:
            self.turns.pop()

    def _ids(self, turns):
        return self.model.tokenizer.encode_chat([*self.system, *turns], **self.variables)


def run(args) -> None:
    """Hold a conversation until the input ends; without prompts if it comes from a pipe."""
    chosen = sampler(args)
    model = load(args.model, args.threads)
    if not model.tokenizer.chat_template:
        raise ValueError(
            f"{args.model} has no chat template, so it does not chat; the command generate continues a text"
        )
    conversation = Conversation(model, args.system, args.template_variable)
    interactive = sys.stdin.isatty()
    if interactive:
        edit_lines()
        print(greeting(args.model, model))
    for line in lines(interactive):
        if line == "/quit":
            break
        try:
            obey_or_answer(conversation, line, args.max_tokens, chosen)
        except (ValueError, KeyboardInterrupt) as error:  # at a prompt, there is another turn
            if not interactive:
                raise
            if isinstance(error, ValueError):
                say(str(error))


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
    """Yield what is typed or piped in, line by line, without the space around it."""
    while True:
        if interactive:
            print()
        try:
            yield without_mark(input("> " if interactive else "")).strip()
        except EOFError:
            break
        except KeyboardInterrupt:
            if not interactive:
                raise
            break
    if interactive:
        print()


def obey_or_answer(conversation: Conversation, line: str, max_tokens: int, sampler: b2t.Sampler) -> None:
    """Do what a line asks for: it is a command, or a question to the model, or empty."""
    if line == "/reset":
        conversation.turns.clear()
        say(faint("a new conversation"))
    elif line == "/help":
        say(HELP)
    elif line.startswith("/") and line[1:].isalpha():
        say(f"there is no command {line}; /help lists them")
    elif line:
        turn(conversation, line, max_tokens, sampler)


def turn(conversation: Conversation, question: str, max_tokens: int, sampler: b2t.Sampler) -> None:
    """Print the answer to a question. What was said before Ctrl-C stays in the conversation."""
    ids, forgotten = conversation.ask(question)
    if forgotten:
        say(faint(f"the conversation outgrew the context: {oldest(forgotten)} forgotten"))
    answer = Answer(conversation.model, ids, max_tokens, sampler)
    try:
        answer.speak()
    finally:
        print(flush=True)
        conversation.answered(answer.text)
        if sys.stderr.isatty():
            say(faint(answer.summary() if answer.text else "no answer, so the question is forgotten too"))


def oldest(n: int) -> str:
    """Return n of the oldest questions in words.

    >>> oldest(1), oldest(2)
    ('the oldest question is', 'the 2 oldest questions are')
    """
    return "the oldest question is" if n == 1 else f"the {n} oldest questions are"
