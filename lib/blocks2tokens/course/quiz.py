"""Five questions to the end of a lesson: quiz.show("03").

questions of classroom/pages/03_q4_k.toml
    as a widget: choose, and be told      needs a running kernel
    as text, its answers folded           stands in a saved notebook and needs nobody

BLOCKS2TOKENS_STRICT=1, for a test: the widget says right or wrong and not why, and no answer is in the text.
"""

import html

import ipywidgets as widgets
from IPython.display import HTML, display

from blocks2tokens.course.check.exercise import is_strict
from blocks2tokens.course.classroom import pages
from blocks2tokens.course.classroom.pages import Page, Question

RIGHT, WRONG = "✓", "✗"


def show(lesson: str) -> None:
    """Show the questions of a lesson, such as "03" or "q4_k": to answer, and below, folded, as text."""
    page = pages.read(lesson)
    display(widgets.VBox([_asked(number, question) for number, question in enumerate(page.quiz, 1)]))
    display(HTML(as_html(page)))


def judged(question: Question, chosen: str) -> str:
    """Return what to tell whoever chose an answer."""
    mark = RIGHT if chosen == question.right else WRONG
    return mark if is_strict() else f"{mark} {question.why}"


def as_html(page: Page) -> str:
    """Return the questions as HTML, folded, and each answer folded again."""
    parts = [_as_text(number, question) for number, question in enumerate(page.quiz, 1)]
    title = "The same questions as text, for where controls do not run"
    return f"<details><summary>{title}</summary>{''.join(parts)}</details>"


def _as_text(number, question):
    options = "".join(f"<li>{html.escape(option)}</li>" for option in question.options)
    told = f"<b>{html.escape(question.right)}</b>. {html.escape(question.why)}"
    answer = "" if is_strict() else f"<details><summary>Answer</summary>{told}</details>"
    return f"<p><b>{number}. {html.escape(question.question)}</b></p><ul>{options}</ul>{answer}"


def _asked(number, question):
    """Return a widget: the question, its answers to choose from, and what is said to the choice."""
    title = widgets.HTML(f"<b>{number}. {html.escape(question.question)}</b>")
    options = widgets.RadioButtons(options=question.options, value=None, layout={"width": "auto"})
    said = widgets.HTML()

    def tell(change):
        said.value = html.escape(judged(question, change["new"])) if change["new"] else ""

    options.observe(tell, "value")
    return widgets.VBox([title, options, said])
