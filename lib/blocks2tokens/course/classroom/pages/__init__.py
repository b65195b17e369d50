"""What an instructor says, draws and asks, a file for each lesson: NN_name.toml.

say       four sentences that carry the lesson
board     the one drawing for the board
unlock    three questions that unlock it, each with its answer
quiz      five questions: question, right, wrong (three), why

pages.read("03") -> Page --page_text--> for the instructor, with the mistakes that the lesson's checks know
                         --quiz_text--> for a test, with or without its answers
                         --course.quiz--> for a learner, in a notebook
"""

import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path

from blocks2tokens.course import check
from blocks2tokens.course.setup import notebooks

FOLDER = Path(__file__).parent
MOST_MISTAKES = 3  # of an exercise on a page: the likeliest, which stand first


@dataclass(frozen=True)
class Question:
    """A question with one right and three wrong answers, and why."""

    question: str
    right: str
    wrong: tuple[str, ...]
    why: str

    @property
    def options(self) -> list[str]:
        """All answers, in an order that is always the same and says nothing."""
        every = [self.right, *self.wrong]
        return sorted(every, key=lambda option: hashlib.sha256((self.question + option).encode()).digest())


@dataclass(frozen=True)
class Page:
    """A lesson's page: its stem, such as 03_q4_k, and what is in its file."""

    stem: str
    say: tuple[str, ...]
    board: str
    unlock: tuple[tuple[str, str], ...]
    quiz: tuple[Question, ...]


def read(lesson: str) -> Page:
    """Return the page of a lesson, named as `notebooks.named` takes it; ValueError where there is none."""
    stem = Path(notebooks.named(lesson)).stem
    path = FOLDER / f"{stem}.toml"
    if not path.is_file():
        raise ValueError(f"lesson: {stem} has no page for instructors yet")
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    return Page(
        stem,
        tuple(data["say"]),
        data["board"].strip("\n"),
        tuple((pair["question"], pair["answer"]) for pair in data["unlock"]),
        tuple(Question(q["question"], q["right"], tuple(q["wrong"]), q["why"]) for q in data["quiz"]),
    )


def page_text(page: Page) -> str:
    """Return the page as Markdown: what to say, draw and ask, and the mistakes that will come."""
    number, _, name = page.stem.partition("_")
    parts = [f"# {number} · {name}", "## Say", "\n".join(f"- {line}" for line in page.say)]
    parts += ["## Draw", f"```\n{page.board}\n```", "## Ask"]
    parts += [f"**{question}**\n{answer}" for question, answer in page.unlock]
    mistakes = _mistakes(page.stem)
    if mistakes:
        parts += ["## The mistakes that will come, and what to answer", *mistakes]
    return "\n\n".join(parts) + "\n"


def _mistakes(stem):
    """Return a paragraph for each exercise: what its check says of the likeliest mistakes."""
    found = []
    for exercise in check.BY_LESSON.get(stem.partition("_")[2], ()):
        said = list(dict.fromkeys(mistake.message for mistake in exercise.mistakes))[:MOST_MISTAKES]
        if said:
            found.append("\n".join([f"`{exercise.name}`", *(f"- {message}" for message in said)]))
    return found


def quiz_text(page: Page, answers: bool) -> str:
    """Return the five questions as Markdown, with the answers behind them if wanted."""
    number, _, name = page.stem.partition("_")
    parts = [f"# {number} · {name}: five questions"]
    for number, question in enumerate(page.quiz, 1):
        letters = dict(zip("abcd", question.options, strict=True))
        options = "\n".join(f"- {letter}) {option}" for letter, option in letters.items())
        parts.append(f"**{number}. {question.question}**\n\n{options}")
    if answers:
        parts.append("## Answers")
        for number, question in enumerate(page.quiz, 1):
            letter = "abcd"[question.options.index(question.right)]
            parts.append(f"{number}. {letter}) {question.right}: {question.why}")
    return "\n\n".join(parts) + "\n"
