"""Answer: one answer of a model as it comes, and how long it took.

ids --model.generate--> token ids --decode_stream--> text --cut_at_stops--> stdout, piece by piece
|<---- to_first ---->|<---- each of the others ---->|
"""

from collections.abc import Iterator, Sequence
from time import perf_counter

import blocks2tokens as b2t
from blocks2tokens.command_line.notice import Notice, say
from blocks2tokens.command_line.text_file import read_text
from blocks2tokens.stops import checked_stops, cut_at_stops

CUT_SHORT = {"context": "and then the context was full", "length": "the most that --max-tokens allows"}


def load(
    path: str, threads: int | None = None, chat_template: str | None = None, cache: str = "float32"
) -> b2t.Model:
    """Load a model; say so if that takes a while. `chat_template` names a file with another one than its."""
    template = None if chat_template is None else read_text(chat_template)
    with Notice("loading the model"):
        model = b2t.load(path, cache, threads)
    if template is not None:
        model.tokenizer.chat_template = template
    return model


def sampler(args) -> b2t.Sampler:
    """Return the sampler that the arguments ask for; ValueError for a setting that makes no sense."""
    return b2t.Sampler(
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        repetition_penalty=args.repetition_penalty,
        seed=args.seed,
    )


def say_if_capped(asked_for: int | None, room: int) -> bool:
    """Say that an answer cannot be as long as --max-tokens asks for, if so; return whether it was said."""
    if capped := asked_for is not None and asked_for > room:
        say(f"note: --max-tokens {asked_for:,}: the context has room for {room:,}")
    return capped


class Answer:
    """What a model says after `ids`: `text` and the number of `tokens` so far, also if it was interrupted.

    `ended` says why there is no more: "stop", at a stop token or string; "length", `max_tokens`; "context",
    which is full; None if it was interrupted. `limit` is how many tokens there may be, `room` for how many
    the context has room.
    """

    def __init__(
        self,
        model: b2t.Model,
        ids: list[int],
        max_tokens: int,
        sampler: b2t.Sampler,
        continues: bool = False,
        stops: Sequence[str] = (),
    ):
        """It is a text of its own, or `continues` that of the ids, and then keeps the space in front.

        It ends in front of the first of the strings `stops`. Raises ValueError for an empty one, and if the
        model's context has no room left for an answer.
        """
        context = model.config.context_length
        if len(ids) >= context:
            raise ValueError(f"the prompt has {len(ids):,} tokens, and the model's context only {context:,}")
        self.model, self.ids, self.sampler, self.continues = model, ids, sampler, continues
        self.room = context - len(ids)
        self.limit = min(max_tokens, self.room)
        self.stops = checked_stops(stops)
        self.text, self.tokens = "", 0
        self.ended: str | None = None
        self.to_first = self.after_first = 0.0  # seconds

    def speak(self, show: bool = True) -> None:
        """Print the answer on stdout as it comes, without a newline at its end; or only keep its text."""
        with Notice(f"reading {counted(len(self.ids))}") as notice:
            pieces = self.model.tokenizer.decode_stream(self._timed(notice), whole=not self.continues)
            for piece in cut_at_stops(pieces, self.stops):
                self.text += piece
                if show:
                    print(piece, end="", flush=True)
        self.ended = self.ended or "stop"

    def _timed(self, notice: Notice) -> Iterator[int]:
        start = perf_counter()
        for i in self.model.generate(self.ids, self.limit, self.sampler):
            now = perf_counter()
            if self.tokens == 0:
                self.to_first = now - start
            self.after_first = now - start - self.to_first
            self.tokens += 1
            notice.beat()
            yield i
        if self.tokens == self.limit:  # this is reached only if no stop string was found before
            self.ended = "context" if self.limit == self.room else "length"

    @property
    def tokens_per_second(self) -> float | None:
        """How fast tokens came behind the first; None if there were none."""
        return (self.tokens - 1) / self.after_first if self.after_first else None

    def prompt_summary(self) -> str:
        """Return how long the prompt was, and how long it took to read."""
        wait = f", {self.to_first:.2f} s to the first token" if self.tokens else ""
        return f"prompt of {counted(len(self.ids))}{wait}"

    def summary(self) -> str:
        """Return how much was said, how fast, and what cut it short."""
        return summary(self.tokens, self.after_first, self.ended)


def summary(tokens: int, after_first: float, ended: str | None) -> str:
    """Return how long an answer is, how fast it came, and what cut it short.

    `after_first` are the seconds from the first token to the last, `ended` is that of an answer.

    >>> summary(41, 2.0, "length")
    '41 tokens, 20.0 tokens per second, the most that --max-tokens allows'
    """
    parts = [counted(tokens)]
    if after_first:
        parts.append(f"{(tokens - 1) / after_first:.1f} tokens per second")
    if ended in CUT_SHORT:
        parts.append(CUT_SHORT[ended])
    return ", ".join(parts)


def counted(n: int, what: str = "token") -> str:
    """Return a number of things in words.

    >>> counted(1), counted(1024), counted(2, "tensor")
    ('1 token', '1,024 tokens', '2 tensors')
    """
    return f"{n:,} {what}{'' if n == 1 else 's'}"
