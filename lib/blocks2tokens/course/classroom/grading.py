"""Submissions graded: a table for a spreadsheet, the reasons, and what a class gets wrong most often.

    submissions/anna/**/*.ipynb      a folder for each person, notebooks anywhere in it, called anything

    grades.csv           person  total  of  03 unpack_q4_k_scales  03 split_q4_k_nibbles ...
                         anna        1   5                      1                      0
                         1 right, 0 wrong, empty: not attempted
    grades.reasons.csv   person  lesson  exercise  verdict  reason  mistake  notebook

Where several notebooks of a person answer an exercise, the best answer counts. Equal answers, as of stubs
that nobody touched, are judged once.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from blocks2tokens import files
from blocks2tokens.course.classroom import answers, processes
from blocks2tokens.course.classroom.answers import Answer, Task
from blocks2tokens.course.classroom.judging import OPEN, RIGHT, WRONG, Grade, Job
from blocks2tokens.course.setup import notebooks

SECONDS = 60.0  # of a CPU for an answer; what the first one compiles counts, too
MEMORY = 2_000_000_000  # bytes
SEED = 1
LARGEST = 100_000_000  # bytes of a notebook
MARKS = {RIGHT: "1", WRONG: "0", OPEN: ""}
RANK = {RIGHT: 2, WRONG: 1, OPEN: 0}
NO_NOTEBOOK = "no notebook answers it"


@dataclass(frozen=True)
class Limits:
    """What an answer may take, and with which seed its cases are made."""

    seconds: float = SECONDS
    memory: int = MEMORY
    seed: int = SEED


@dataclass
class Grades:
    """grades[person][exercise], the notebook that each came from, and what could not be read."""

    tasks: list[Task]
    grades: dict[str, dict[str, Grade]] = field(default_factory=dict)
    sources: dict[tuple[str, str], str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def total(self, person: str) -> int:
        """Return how many of a person's answers are right."""
        return sum(grade.kind == RIGHT for grade in self.grades[person].values())


def grade(folder: Path, lessons: Iterable[str] = (), limits: Limits | None = None, workers=None) -> Grades:
    """Grade all submissions in a folder; `lessons`: of these only, () for those that are submitted.

    `workers` processes at a time, None: one for each core. Raises ValueError where there is nothing to grade.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder with a folder for each person")
    people = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not people:
        raise ValueError(f"{folder}: expected a folder for each person in it, found none")
    known, notes = answers.tasks(), []
    loose = [path.name for path in sorted(folder.glob("*.ipynb"))]
    if loose:
        notes.append(f"not graded, in no person's folder: {', '.join(loose)}")
    handed_in = {person.name: _Submission.read(person, known) for person in people}
    wanted = set(lessons) or {lesson for one in handed_in.values() for lesson in one.lessons}
    result = Grades([task for task in known.values() if task.lesson in wanted], notes=notes)
    if not result.tasks:
        raise ValueError(f"{folder}: expected notebooks of the lessons, found none that asks for an exercise")
    found = {
        (name, task.exercise): one.answers(task) for name, one in handed_in.items() for task in result.tasks
    }
    judged = _judge(
        [answer for several in found.values() for _, answer in several], limits or Limits(), workers
    )
    for name, one in handed_in.items():
        result.notes += [f"{name}: {problem}" for problem in one.problems]
        result.grades[name] = {}
        for task in result.tasks:
            source, best = _best(found[name, task.exercise], judged, one, task)
            result.grades[name][task.exercise], result.sources[name, task.exercise] = best, source
    return result


def grade_notebook(path: Path, exercises: Sequence[str], limits: Limits | None = None) -> dict[str, Grade]:
    """Return {exercise: grade} of one notebook; raises as reading it does."""
    known = answers.tasks()
    found, _ = answers.find(path, notebooks.read(path), [known[name] for name in exercises])
    judged = _judge(found.values(), limits or Limits(), None)
    return {name: judged[found[name]] if name in found else Grade(OPEN, NO_NOTEBOOK) for name in exercises}


@dataclass
class _Submission:
    """A person's notebooks: {path in their folder: {exercise: answer}}, their lessons, and what is wrong."""

    found: dict[str, dict[str, Answer]] = field(default_factory=dict)
    lessons: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)  # lesson: problem

    @classmethod
    def read(cls, folder: Path, known) -> "_Submission":
        """Read all notebooks of a folder; what is none becomes a problem."""
        self = cls()
        for path in notebooks.find(folder):
            name = path.relative_to(folder).as_posix()
            try:
                notebook = _notebook(path, folder)
                self.found[name], own = answers.find(path, notebook, known.values())
            except Exception as error:  # a submission may be anything
                own = answers.named_in(path, {task.lesson for task in known.values()})
                problem = f"{name} cannot be read: {type(error).__name__}: {str(error)[:200]}"
                self.problems.append(problem)
                self.unreadable |= dict.fromkeys(own, problem)
            self.lessons |= own
        return self

    def answers(self, task: Task) -> list[tuple[str, Answer]]:
        return [(name, there[task.exercise]) for name, there in self.found.items() if task.exercise in there]


def _notebook(path, folder):
    if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
        raise ValueError("it is no file of this folder")
    if path.stat().st_size > LARGEST:
        raise ValueError(f"it is larger than {LARGEST / 1e6:.0f} MB")
    return notebooks.read(path)


def _judge(found, limits, workers):
    """Return {answer: grade}, equal answers judged once."""
    judged = {answer: Grade(WRONG, answer.problem) for answer in found if answer.problem}
    jobs = {
        answer: Job(
            answer.task.exercise,
            answer.task.function,
            answer.program,
            limits.seed,
            limits.seconds,
            limits.memory,
        )
        for answer in found
        if not answer.problem
    }
    done = tqdm(processes.run(jobs, workers), total=len(jobs), unit=" answers", leave=False, disable=None)
    return judged | dict(done)


def _best(found, judged, submission, task):
    """Return the notebook and the grade of the best of a person's answers to an exercise."""
    if found:
        return max(((name, judged[answer]) for name, answer in found), key=lambda pair: RANK[pair[1].kind])
    problem = submission.unreadable.get(task.lesson)
    return "", Grade(WRONG, problem) if problem else Grade(OPEN, NO_NOTEBOOK)


# What is written


def table(grades: Grades) -> str:
    """Return grades.csv: a row for each person, a column for each exercise."""
    numbers = {path.stem[3:]: path.stem[:2] for path in notebooks.find(notebooks.NOTEBOOKS)}
    head = [f"{numbers[task.lesson]} {task.exercise}" for task in grades.tasks]
    rows = [["person", "total", "of", *head]]
    for person, row in grades.grades.items():
        marks = [MARKS[row[task.exercise].kind] for task in grades.tasks]
        rows.append([person, str(grades.total(person)), str(len(marks)), *marks])
    return _csv(rows)


def reasons(grades: Grades) -> str:
    """Return grades.reasons.csv: a row for each person and exercise."""
    rows = [["person", "lesson", "exercise", "verdict", "reason", "mistake", "notebook"]]
    for person, row in grades.grades.items():
        for task in grades.tasks:
            one, source = row[task.exercise], grades.sources[person, task.exercise]
            rows.append([person, task.lesson, task.exercise, one.kind, one.reason, one.mistake, source])
    return _csv(rows)


def _csv(rows):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([[_harmless(cell) for cell in row] for row in rows])
    return text.getvalue()


def _harmless(cell):
    """Return a cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def class_view(grades: Grades) -> str:
    """Return, for each exercise, how many were right, wrong and open, and what was wrong most often."""
    lines = [f"{'':40}{'right':>6}{'wrong':>6}{'open':>6}   the most frequent mistake"]
    for task in grades.tasks:
        column = [row[task.exercise] for row in grades.grades.values()]
        count = Counter(one.kind for one in column)
        wrong = Counter(one.mistake or one.reason.partition("\n")[0] for one in column if one.kind == WRONG)
        told = "".join(f"   {n}: {_line(mistake)}" for mistake, n in wrong.most_common(1))
        figures = "".join(f"{count[kind]:6}" for kind in (RIGHT, WRONG, OPEN))
        lines.append(f"{task.exercise:40}{figures}{told}")
    return "\n".join(lines)


def _line(text):
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= 110 else line[:107] + "..."


def write(grades: Grades, path: Path) -> Path:
    """Write the marks to `path` and the reasons beside it; return their path. UTF-8 as Excel reads it."""
    beside = path.with_name(f"{path.stem}.reasons.csv")
    for place, text in ((path, table(grades)), (beside, reasons(grades))):
        files.write_text(place, "\ufeff" + text)
    return beside
