"""course: the learner's way through the lessons, and the instructor's view of a class.

The lessons and their packages are imported by each action, and only then: the engine does without them.
"""

import argparse
import textwrap
from pathlib import Path

from blocks2tokens.command_line.arguments import at_least

EXAMPLES = """example:
  b2t course progress
  b2t course reset 03
  b2t course open 03 -- --no-browser
  b2t course page 03
  b2t course quiz 03 --answers
  b2t course grade submissions --csv grades.csv
  b2t course export-nbgrader assignments"""


def add(commands) -> None:
    """Add the parsers of `b2t course` and of each of its actions."""
    details = "Your way through the lessons, and grading those of a class."
    parser = _parser(commands, "course", details, EXAMPLES)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, help="what to do")
    for add_action in (_add_progress, _add_reset, _add_open, _add_page, _add_quiz, _add_grade, _add_export):
        add_action(actions)


def run(args) -> None:
    """Do one action; ValueError where the lessons' packages are not installed."""
    try:
        ACTIONS[args.action](args)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("blocks2tokens"):
            raise
        raise ValueError(
            f'the lessons need {error.name}, which is not here: pip install ".[course]" installs it'
        ) from None


def _parser(commands, name, details, examples):
    return commands.add_parser(
        name,
        help=details.partition(".")[0],
        description=textwrap.fill(details, 80),
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _add_work(parser):
    about = (
        "your copy of the lessons (default: the one that this folder lies in, else work/, or ~/blocks2tokens)"
    )
    parser.add_argument("--work", metavar="DIR", type=Path, help=about)


def _add_lesson(parser, **more):
    parser.add_argument("lesson", metavar="NR", help="a lesson's number, such as 03", **more)


def _add_progress(actions) -> None:
    details = (
        "Show all exercises as boxes, lesson by lesson. Of those that are wrong, what you were last told."
    )
    _add_work(_parser(actions, "progress", details, "example:\n  b2t course progress"))


def progress(args) -> None:
    """Print the exercises of all lessons, those of the learner's folder marked."""
    from blocks2tokens.course.overview import overview
    from blocks2tokens.course.setup import workspace

    print(overview(workspace.learners(args.work)))


def _add_reset(actions) -> None:
    details = "Put a lesson back to the course's. What you have is kept beside it, under another name."
    parser = _parser(actions, "reset", details, "example:\n  b2t course reset 03")
    _add_lesson(parser)
    _add_work(parser)


def reset(args) -> None:
    """Put a lesson back and say where the learner's is now."""
    from blocks2tokens.course.setup import notebooks, workspace

    name = notebooks.named(args.lesson)
    kept = workspace.reset(notebooks.NOTEBOOKS, workspace.learners(args.work), name)
    print(f"{name} is as the course has it" + (f'; yours is beside it: "{kept}"' if kept else ""))


def _add_open(actions) -> None:
    details = "Open JupyterLab on a lesson, without one on lesson 00."
    parser = _parser(actions, "open", details, "example:\n  b2t course open 03 -- --no-browser")
    _add_lesson(parser, nargs="?", default="00")
    parser.add_argument("options", metavar="-- OPTION", nargs="*", help="options for JupyterLab")
    _add_work(parser)


def open_lesson(args) -> None:
    """Start JupyterLab in the place of this program."""
    from blocks2tokens.course.setup import jupyter, notebooks, workspace

    jupyter.start(workspace.learners(args.work), notebooks.named(args.lesson), args.options)


def _add_page(actions) -> None:
    details = (
        "Print an instructor's page of a lesson, as Markdown: what to say, draw and ask, and the mistakes "
        "that will come."
    )
    _add_lesson(_parser(actions, "page", details, "example:\n  b2t course page 03"))


def page(args) -> None:
    """Print the page of a lesson."""
    from blocks2tokens.course.classroom import pages

    print(pages.page_text(pages.read(args.lesson)), end="")


def _add_quiz(actions) -> None:
    details = "Print five questions on a lesson, as Markdown."
    parser = _parser(actions, "quiz", details, "example:\n  b2t course quiz 03 --answers")
    _add_lesson(parser)
    parser.add_argument("--answers", action="store_true", help="with the answers behind them")


def quiz(args) -> None:
    """Print the questions of a lesson."""
    from blocks2tokens.course.classroom import pages

    print(pages.quiz_text(pages.read(args.lesson), args.answers), end="")


def _add_grade(actions) -> None:
    details = (
        "Grade the notebooks of a class. FOLDER has a folder for each person; each exercise is found by its "
        "name, wherever it stands, and judged on fresh cases in a process of its own. This runs their code."
    )
    example = "example:\n  b2t course grade submissions --csv grades.csv"
    parser = _parser(actions, "grade", details, example)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="the submissions")
    beside = "the table to write, such as grades.csv; grades.reasons.csv beside it says why"
    parser.add_argument("--csv", metavar="FILE", type=Path, required=True, help=beside)
    only = "grade this lesson, whoever submitted it. Can be given several times (default: those submitted)"
    parser.add_argument("--lesson", metavar="NR", action="append", default=[], help=only)
    seconds = "of a CPU that an answer may take (default: 60)"
    parser.add_argument("--seconds", metavar="S", type=at_least(1), default=60, help=seconds)
    parser.add_argument(
        "--seed", metavar="N", type=at_least(0), default=1, help="draw other cases (default: 1)"
    )


def grade(args) -> None:
    """Write the grades and print what the class gets wrong most often."""
    from blocks2tokens import files
    from blocks2tokens.course.classroom import grading
    from blocks2tokens.course.setup import notebooks

    files.place_of(args.csv, "--csv")  # said at once, not when all is graded
    lessons = [Path(notebooks.named(number)).stem.partition("_")[2] for number in args.lesson]
    found = grading.grade(args.folder, lessons, grading.Limits(seconds=args.seconds, seed=args.seed))
    beside = grading.write(found, args.csv)
    print(grading.class_view(found))
    for note in found.notes:
        print(f"note: {note}")
    print(f"\n{len(found.grades)} people: the marks are in {args.csv}, the reasons in {beside}")


def _add_export(actions) -> None:
    details = (
        "Write the lessons as assignments of nbgrader, which hands out, collects and grades them, with the "
        "marks that `grade` would give."
    )
    parser = _parser(
        actions, "export-nbgrader", details, "example:\n  b2t course export-nbgrader assignments"
    )
    parser.add_argument(
        "folder", metavar="FOLDER", type=Path, help="a new or empty folder: nbgrader's course"
    )


def export_nbgrader(args) -> None:
    """Write the assignments and say what comes next."""
    from blocks2tokens.course.classroom import nbgrader

    names = nbgrader.export(args.folder)
    print(f"{len(names)} assignments are in {args.folder}. What comes next, there:")
    print(f"  nbgrader generate_assignment {names[0]}     writes release/, to hand out")
    print(
        f"  nbgrader autograde {names[0]}               grades submitted/PERSON/{names[0]}/{names[0]}.ipynb"
    )
    print(f"  nbgrader generate_feedback {names[0]}       writes feedback/, to hand back")
    print("  nbgrader export                             writes grades.csv")


ACTIONS = {
    "progress": progress,
    "reset": reset,
    "open": open_lesson,
    "page": page,
    "quiz": quiz,
    "grade": grade,
    "export-nbgrader": export_nbgrader,
}
