"""Instructor's pages, questions, slides and plans."""

import base64
import html
import re
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest

from blocks2tokens.course import check, quiz
from blocks2tokens.course.classroom import pages, slides
from blocks2tokens.course.setup import notebooks

ROOT = Path(__file__).resolve().parents[2]
LESSONS = [path.stem for path in notebooks.find(notebooks.NOTEBOOKS)]
MINUTES = re.compile(r"(\d+) minutes to read, (\d+)(?: minutes)? to (?:do|play)")


def test_every_lesson_has_a_page_and_every_page_a_lesson():
    assert sorted(path.stem for path in pages.FOLDER.glob("*.toml")) == sorted(LESSONS)


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_page_is_whole(lesson):
    page = pages.read(lesson)
    assert len(page.say) == 4 and len(page.unlock) == 3 and len(page.quiz) == 5 and page.board
    assert max(len(line) for line in page.board.splitlines()) <= 90
    for question in page.quiz:
        assert len(question.wrong) == 3 and question.why.endswith((".", "]"))
        assert len(set(question.options)) == 4, question


def test_the_right_answer_stands_at_every_place():
    places = [q.options.index(q.right) for lesson in LESSONS for q in pages.read(lesson).quiz]
    shares = [places.count(place) / len(places) for place in range(4)]
    assert min(shares) > 0.15 and max(shares) < 0.35, shares


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_page_names_the_mistakes_that_its_checks_know(lesson):
    text = pages.page_text(pages.read(lesson))
    for exercise in check.BY_LESSON.get(lesson.partition("_")[2], ()):
        if exercise.mistakes:
            assert exercise.name in text and exercise.mistakes[0].message in text


def test_answers_are_there_only_if_asked_for():
    page = pages.read("03")
    plain, full = pages.quiz_text(page, answers=False), pages.quiz_text(page, answers=True)
    assert full.startswith(plain.rstrip("\n")) and page.quiz[0].why in full and page.quiz[0].why not in plain


def test_a_choice_is_judged():
    question = pages.read("03").quiz[0]
    assert quiz.judged(question, question.right).startswith(quiz.RIGHT)
    assert all(quiz.judged(question, wrong).startswith(quiz.WRONG) for wrong in question.wrong)


def test_the_widget_tells(capsys):
    question = pages.read("03").quiz[1]
    _, options, said = quiz._asked(1, question).children
    assert options.value is None and said.value == ""
    options.value = question.wrong[0]
    assert said.value.startswith(quiz.WRONG)
    options.value = question.right
    assert said.value.startswith(quiz.RIGHT)


def test_questions_as_html_fold_their_answers():
    page = pages.read("01")
    text = quiz.as_html(page)
    assert text.count("<details>") == text.count("</details>") == 1 + len(page.quiz)
    assert all(html.escape(question.why) in text for question in page.quiz)


def test_a_test_tells_no_answers(monkeypatch):
    monkeypatch.setenv("BLOCKS2TOKENS_STRICT", "1")
    page = pages.read("01")
    assert not any(html.escape(question.why) in quiz.as_html(page) for question in page.quiz)
    question = page.quiz[0]
    assert quiz.judged(question, question.right) == quiz.RIGHT
    assert quiz.judged(question, question.wrong[0]) == quiz.WRONG


def test_an_unknown_lesson_is_named():
    with pytest.raises(ValueError, match="lesson: expected one from 00"):
        pages.read("99")


# Slides


def notebook_with(title, alt):
    png = base64.b64encode(b"\x89PNG").decode()
    output = nbformat.v4.new_output(
        "display_data", data={"image/png": png}, metadata={"image/png": {"alt": alt}}
    )
    cells = [nbformat.v4.new_markdown_cell(f"# {title}\n\nText."), nbformat.v4.new_code_cell("1")]
    cells[1].outputs = [output]
    return nbformat.v4.new_notebook(cells=cells)


def test_a_deck_holds_each_figure_with_its_point_and_nothing_from_outside(tmp_path):
    path = tmp_path / "03_q4_k.ipynb"
    nbformat.write(notebook_with("Do <this>", 'It "rises"'), path)
    text = slides.deck("Part", [path])
    assert "03 · Do &lt;this&gt;" in text and 'alt="It &quot;rises&quot;"' in text
    assert not re.search(r"(?:src|href)=[\"']?https?:", text) and text.count("<section>") == 5


def test_decks_of_the_course(tmp_path):
    written = slides.write(tmp_path / "slides")
    assert [path.name for path in written] == [
        "0_start.html",
        "1_formats.html",
        "2_the_report.html",
        "3_fused_right.html",
        "4_transformer.html",
        "5_beyond.html",
    ]
    for path in written[1:]:
        text = path.read_text(encoding="utf-8")
        assert text.count("<img ") >= 15 and 'alt=""' not in text


# Plans


def heads():
    """Return {number: (minutes to read, to do)} from the lessons' heads."""
    found = {}
    for path in notebooks.find(notebooks.NOTEBOOKS):
        prose = "\n".join(c.source for c in notebooks.read(path).cells if c.cell_type == "markdown")
        read, do = MINUTES.search(prose).groups()
        found[path.stem[:2]] = int(read), int(do)
    return found


def test_minutes_of_the_plans_are_those_of_the_lessons_and_add_up():
    minutes, tables = heads(), re.split(r"\n\n", (ROOT / "INSTRUCTOR.md").read_text(encoding="utf-8"))
    rows = [re.findall(r"^\| ([^|]+) \| (\d+) \| (\d+) \|$", table, re.MULTILINE) for table in tables]
    plans = [table for table in rows if table]
    assert len(plans) == 4
    for plan in plans:
        total, part = [0, 0], [0, 0]
        for name, read, do in plan:
            if name in minutes:
                assert (int(read), int(do)) == minutes[name], name
                total, part = (
                    [n + m for n, m in zip(sums, minutes[name], strict=True)] for sums in (total, part)
                )
            elif name == "together":
                assert [int(read), int(do)] == total
            else:  # a day, a week
                assert [int(read), int(do)] == part, name
                part = [0, 0]


def test_the_day_by_the_clock_gives_each_lesson_its_minutes():
    text = (ROOT / "INSTRUCTOR.md").read_text(encoding="utf-8").partition("### One day")[2]
    day, minutes = text.partition("### Three days")[0], heads()
    rows = re.findall(r"^\| (\d+):(\d\d) \| (.*) \|$", day, re.MULTILINE)
    times = [60 * int(hour) + int(minute) for hour, minute, _ in rows]
    told = {what[:2]: then - now for (*_, what), (now, then) in zip(rows, pairwise(times), strict=False)}
    lessons = re.findall(r"^\| (\d\d) \|", day, re.MULTILINE)
    assert lessons and {name: told[name] for name in lessons} == {
        name: sum(minutes[name]) for name in lessons
    }


def test_the_longest_plan_has_all_lessons():
    text = (ROOT / "INSTRUCTOR.md").read_text(encoding="utf-8").partition("### Six weeks")[2]
    assert re.findall(r"^\| (\d\d) \|", text, re.MULTILINE) == sorted(heads())
