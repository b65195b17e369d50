"""Five questions to the end of a lesson: quiz.show("03").

questions of classroom/pages/03_q4_k.toml
    as text, its answers folded           stands in a saved notebook and needs nobody
    as a widget: choose, and be told      needs a running kernel
"""

import html

import ipywidgets as widgets
from IPython.display import HTML, display

from blocks2tokens.course.classroom import pages
from blocks2tokens.course.classroom.pages import Page, Question

RIGHT, WRONG = "✓", "✗"


def show(lesson: str) -> None:
    """Show the questions of a lesson, such as "03": to answer, and below as text."""
    page = pages.read(lesson)
    display(widgets.VBox([_asked(number, question) for number, question in enumerate(page.quiz, 1)]))
    display(HTML(as_html(page)))


def judged(question: Question, chosen: str) -> str:
    """Return what to tell whoever chose an answer."""
    return f"{RIGHT if chosen == question.right else WRONG} {question.why}"


def as_html(page: Page) -> str:
    """Return the questions as HTML, each answer folded away."""
    parts = []
    for number, question in enumerate(page.quiz, 1):
        options = "".join(f"<li>{html.escape(option)}</li>" for option in question.options)
        answer = f"<b>{html.escape(question.right)}</b>. {html.escape(question.why)}"
        parts.append(
            f"<p><b>{number}. {html.escape(question.question)}</b></p><ul>{options}</ul>"
            f"<details><summary>Answer</summary>{answer}</details>"
        )
    return "".join(parts)


def _asked(number, question):
    """Return a widget: the question, its answers to choose from, and what is said to the choice."""
    title = widgets.HTML(f"<b>{number}. {html.escape(question.question)}</b>")
    options = widgets.RadioButtons(options=question.options, value=None, layout={"width": "auto"})
    said = widgets.HTML()

    def tell(change):
        said.value = html.escape(judged(question, change["new"])) if change["new"] else ""

    options.observe(tell, "value")
    return widgets.VBox([title, options, said])
