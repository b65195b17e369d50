"""What every lesson must keep to. A rule takes a notebook and returns what breaks it, one line per place."""

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median

import nbformat
import pytest

from blocks2tokens.course import check
from blocks2tokens.course.setup import notebooks

ROOT = Path(__file__).resolve().parents[2]
MAX_BYTES = 1_500_000
MAX_LINES, MEDIAN_LINES = 30, 6  # as wide as notebooks/ruff.toml says
CELLS = range(40, 72)
MAX_WORDS = 2_000
TURNS = range(3, 6)

HOST_PATH = re.compile(
    r"(?<![\w.~/-])/(?:home|root|Users|work|tmp|var|opt|usr|mnt|media|private|srv|content)/"
    r"|(?<!\w)[A-Z]:\\{1,2}[A-Z]|" + re.escape(str(ROOT))
)
NETWORK = re.compile(
    r"^\s*(?:import|from)\s+(?:requests|urllib|http|httpx|aiohttp|socket|ftplib|huggingface_hub)\b"
    r"|\burlopen\(|\burlretrieve\(|\bsnapshot_download\(|\bhf_hub_download\(|\bfrom_pretrained\("
    r"|^\s*[!%]+\s*(?:pip|conda|mamba|uv|curl|wget|git|apt)\b",
    re.MULTILINE,
)
REMOTE = re.compile(
    r"!\[[^\]]*\]\(https?:|\b(?:src|href)=[\"']https?:[^\"']*\.(?:js|css|png|jpe?g|svg|gif)\b"
)
TIMING = re.compile(r"%(?:memit|mprun)\b|\bmemory_usage\(|\btracemalloc\b|\bbench\.|\bmeasure\w*\(")
CLOCK = re.compile(  # bench and its relatives look at it, within a budget
    r"%(?:timeit|time|prun|lprun)\b|\b(?:perf_counter|process_time|thread_time|monotonic)(?:_ns)?\b"
    r"|^\s*(?:import|from)\s+(?:time|timeit)\b|\btime\.(?:time|sleep)\b",
    re.MULTILINE,
)
MEASURED_TIME = re.compile(
    r"\d(?:\s|&nbsp;)?(?:ns|[µμu]s|ms|seconds?|tok(?:en)?s?/s|[kMGT]?i?B/s|[MGT]?FLOPS?(?:/s)?)(?!\w)"
    r"|\d(?:\s|&nbsp;)s(?!\w)|\d\.\d+s(?!\w)"
)
EXERCISE = re.compile(r"^\w+ = check\.\w+\(", re.MULTILINE)
QUIZ = re.compile(r'^quiz\.show\("(\w+)"\)$', re.MULTILINE)
COUNTS_THEM = re.compile(r"^check\.progress\(|\bmy_engine\.speak\(", re.MULTILINE)
MINUTES = re.compile(r"(\d+) minutes to read, (\d+)(?: minutes)? to do")
CARD = re.compile(r"^\W*difficulty [●○]+ · importance [●○]+ · (\d+) minutes\W*$", re.MULTILINE)
NAMES_ITS_SOURCE = re.compile(r"\breport|\bsource\b", re.IGNORECASE)

HEADINGS = ["Why", "By hand", "The ladder", "Your turn", "Predict, then measure", "Explore", "In the engine"]
HEADINGS += ["Recap"]
LEADS = ["You will build", "You will be able to", "You need", "On your own", "In practice", "Next"]


# Reading a notebook


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def at(notebook, cell) -> str:
    """Say which cell: its place, and how it begins."""
    first_line = (cell.source.strip().splitlines() or ["(empty)"])[0]
    return f"cell {notebook.cells.index(cell)} ({first_line[:50]})"


def is_tagged(cell) -> bool:
    """Does nbval run this cell without comparing its outputs?"""
    return "nbval-ignore-output" in cell.metadata.get("tags", [])


def syntax(cell) -> ast.Module:
    """Return the tree of a cell, without the lines that only IPython reads."""
    return ast.parse("\n".join(line for line in cell.source.splitlines() if not line.startswith(("%", "!"))))


def is_stored(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


def is_folded(cell) -> bool:
    """Does the cell show its outputs and hide its source?"""
    return bool(cell.metadata.get("jupyter", {}).get("source_hidden"))


def output_texts(cell) -> Iterator[str]:
    """Yield all that a code cell's outputs say in text; not the bytes of pictures."""
    for output in cell.get("outputs", []):
        yield output.get("text", "")
        yield "\n".join(output.get("traceback", []))
        yield from (
            str(data)
            for mime, data in output.get("data", {}).items()
            if not mime.startswith("image/") or mime == "image/svg+xml"
        )


def without_code(markdown: str) -> str:
    return re.sub(r"```.*?```", " ", markdown, flags=re.DOTALL)


def words(markdown: str) -> list[str]:
    """Return the words that a reader reads: no code, tags, links' targets or formulas."""
    text = re.sub(
        r"<[^>]+>|\]\([^)]*\)|\$\$.*?\$\$|\$[^$\n]*\$|https?://\S+", " ", without_code(markdown), flags=re.S
    )
    return re.findall(r"\w[\w'’.,-]*", text)


def lines(source: str) -> int:
    return sum(bool(line.strip()) for line in source.splitlines())


# Rules for every notebook


def execution_counts_run_from_1(notebook):
    for expected, cell in enumerate(code_cells(notebook), start=1):
        if cell.execution_count != expected:
            yield f"{at(notebook, cell)}: execution count {cell.execution_count}, expected {expected}"


def no_error_outputs(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"{at(notebook, cell)}: {output.ename}: {output.evalue}"


def no_host_paths(notebook):
    for cell in notebook.cells:
        for text in [cell.source, *output_texts(cell)]:
            if match := HOST_PATH.search(text):
                yield f"{at(notebook, cell)}: {text[match.start() : match.end() + 30]!r}"


def no_network(notebook):
    for cell in code_cells(notebook):
        if match := NETWORK.search(cell.source):
            yield f"{at(notebook, cell)}: {match.group().strip()!r}"
    for cell in notebook.cells:
        for text in [cell.source, *output_texts(cell)]:
            if match := REMOTE.search(text):
                yield f"{at(notebook, cell)}: loads from elsewhere: {match.group()!r}"


def timing_cells_are_tagged(notebook):
    for cell in code_cells(notebook):
        match = TIMING.search(cell.source)
        if match and not is_tagged(cell):
            yield f"{at(notebook, cell)}: has {match.group()!r} and no tag nbval-ignore-output"


def the_clock_is_read_within_a_budget(notebook):
    """A loop of its own goes on for as long as it takes, on a slow machine for minutes."""
    for cell in code_cells(notebook):
        if match := CLOCK.search(cell.source):
            yield f"{at(notebook, cell)}: {match.group().strip()!r}; what bench has keeps to a budget"


def no_compared_cell_ends_with_a_semicolon(notebook):
    """Jupyter then hides the result; nbval shows it all the same, and the outputs differ."""
    for cell in code_cells(notebook):
        if cell.source.rstrip().endswith(";") and not is_tagged(cell):
            yield f"{at(notebook, cell)}: write `_ = ...` in the place of the semicolon"


def prose_has_no_measured_times(notebook):
    """Tables and quotations may have them, in a cell that names the report or another source."""
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        named = NAMES_ITS_SOURCE.search(cell.source)
        for line in without_code(cell.source).splitlines():
            quoted = named and line.lstrip().startswith(("|", ">"))
            if not quoted and (match := MEASURED_TIME.search(line)):
                yield f"{at(notebook, cell)}: {line[max(0, match.start() - 20) : match.end()]!r}"


def cells_run_twice(notebook):
    """A cell takes nothing out of what an earlier one made: run once more, it would not find it."""
    for cell in code_cells(notebook):
        body = syntax(cell).body
        made = {n.id for part in body for n in ast.walk(part) if isinstance(n, ast.Name) and is_stored(n)}
        for part in body:
            for target in part.targets if isinstance(part, ast.Delete) else ():
                base = target.value if isinstance(target, ast.Subscript) else target
                if getattr(base, "id", None) not in made:
                    yield f"{at(notebook, cell)}: {ast.unparse(part)}; .pop(..., None) can be run again"


def what_is_found_has_names_of_its_own(notebook):
    """Whoever leaves out the cell with the guesses, or changes it, gets no other labels for the numbers."""
    for cell in code_cells(notebook):
        if taken := re.search(r"\bzip\(my_\w+", cell.source):
            yield f"{at(notebook, cell)}: {taken[0]}...) takes its names from a guess"


def code_cells_are_short(notebook):
    for cell in code_cells(notebook):
        if lines(cell.source) > MAX_LINES:
            yield f"{at(notebook, cell)}: {lines(cell.source)} lines, at most {MAX_LINES}"
    shown = [lines(cell.source) for cell in code_cells(notebook) if not is_folded(cell)]
    if shown and median(shown) > MEDIAN_LINES:
        yield f"median of the code cells: {median(shown)} lines, at most {MEDIAN_LINES}"


def few_cells_are_folded(notebook):
    """What is folded is not read: enough for pictures and data, not for the lesson."""
    folded = sum(is_folded(cell) for cell in code_cells(notebook))
    if 3 * folded > len(code_cells(notebook)):
        yield f"{folded} of {len(code_cells(notebook))} code cells are folded, at most a third"


def pictures_have_alternative_texts(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            metadata = output.get("metadata", {}).get("image/png", {})
            if "image/png" in output.get("data", {}) and not metadata.get("alt", "").strip():
                yield f"{at(notebook, cell)}: a figure without a title, which is its alternative text"


def file_is_small(notebook):
    size = len(nbformat.writes(notebook).encode())
    if size > MAX_BYTES:
        yield f"{size:,} bytes, at most {MAX_BYTES:,}"


def form_is_fixed(notebook):
    """Metadata and outputs are as `make lessons` saves them."""
    fixed = notebooks.normalize(nbformat.from_dict(notebook))
    if notebook.metadata != fixed.metadata:
        yield f"metadata {dict(notebook.metadata)}, expected {dict(fixed.metadata)}"
    for cell, expected in zip(notebook.cells, fixed.cells, strict=True):
        if cell != expected:
            yield f"{at(notebook, cell)}: editor's metadata or a widget's view; `make lessons` removes it"


def begins_with_its_title(notebook):
    first = notebook.cells[0]
    if first.cell_type != "markdown" or not first.source.startswith("# "):
        yield f"{at(notebook, first)}: expected a title, # ..."


# Rules for lessons, 01 and on


def has_its_sections(notebook):
    text = without_code(prose(notebook))
    for section in HEADINGS:
        if not re.search(rf"^##+ .*\b{section}\b", text, re.MULTILINE | re.IGNORECASE):
            yield f"no heading {section!r}"
    for lead in LEADS:
        if not re.search(rf"^\W*{lead}\b", text, re.MULTILINE | re.IGNORECASE):
            yield f"no heading or line that begins with {lead!r}"


def minutes_add_up(notebook):
    """The head says how long the exercises take, each card says it for its own."""
    head = MINUTES.search(prose(notebook))
    cards = [int(minutes) for minutes in CARD.findall(prose(notebook))]
    if head is None:
        yield "the head does not say 'N minutes to read, M to do'"
    elif int(head[2]) != sum(cards):
        yield f"{head[2]} minutes to do, and the cards say {' + '.join(map(str, cards))} = {sum(cards)}"


def has_its_turns(notebook):
    turns = re.findall(r"^#+ .*\bYour turn\b", without_code(prose(notebook)), re.MULTILINE | re.IGNORECASE)
    if len(turns) not in TURNS:
        yield f"{len(turns)} headings 'Your turn', expected {TURNS.start} to {TURNS.stop - 1}"


def what_counts_the_exercises_comes_behind_them(notebook):
    """Whoever runs the cells in order sees what is theirs: the last strip, and the model that speaks."""
    cells = code_cells(notebook)
    exercises = [i for i, cell in enumerate(cells) if EXERCISE.search(cell.source)]
    counting = [i for i, cell in enumerate(cells) if COUNTS_THEM.search(cell.source)][1:]  # one at the head
    for i in counting:
        if exercises and i < exercises[-1]:
            yield f"{at(notebook, cells[i])}: an exercise comes behind it"


def ends_with_its_quiz(notebook):
    """Five questions stand before the last strip, as a control and as text."""
    asked = [cell for cell in code_cells(notebook) if QUIZ.search(cell.source)]
    if len(asked) != 1:
        yield f"{len(asked)} cells show a quiz, expected one"
    for cell in asked:
        following = notebook.cells[notebook.cells.index(cell) + 1 :][:1]
        strip = f'check.progress("{QUIZ.search(cell.source)[1]}")'
        if [c.source for c in following] != [strip]:
            yield f"{at(notebook, cell)}: expected {strip} in the next cell"
        if "<summary>Answer</summary>" not in "".join(output_texts(cell)):
            yield f"{at(notebook, cell)}: its questions are not there as text"


def length_is_right(notebook):
    if len(notebook.cells) not in CELLS:
        yield f"{len(notebook.cells)} cells, expected {CELLS.start} to {CELLS.stop - 1}"
    count = len(words(prose(notebook)))
    if count > MAX_WORDS:
        yield f"{count:,} words, at most {MAX_WORDS:,}"


RULES = [
    execution_counts_run_from_1,
    no_error_outputs,
    no_host_paths,
    no_network,
    timing_cells_are_tagged,
    the_clock_is_read_within_a_budget,
    no_compared_cell_ends_with_a_semicolon,
    prose_has_no_measured_times,
    cells_run_twice,
    what_is_found_has_names_of_its_own,
    code_cells_are_short,
    few_cells_are_folded,
    pictures_have_alternative_texts,
    file_is_small,
    form_is_fixed,
    begins_with_its_title,
]
LESSON_RULES = [
    has_its_sections,
    minutes_add_up,
    has_its_turns,
    what_counts_the_exercises_comes_behind_them,
    ends_with_its_quiz,
    length_is_right,
]


# The course


def rules_for(path):
    return RULES if path.name.startswith("00_") else RULES + LESSON_RULES


COURSE = notebooks.find(notebooks.NOTEBOOKS)
CASES = [(path, rule) for path in COURSE for rule in rules_for(path)]


@pytest.mark.parametrize(
    ("path", "rule"), CASES, ids=[f"{path.stem}-{rule.__name__}" for path, rule in CASES]
)
def test_lesson(path, rule):
    broken = list(rule(notebooks.read(path)))
    assert not broken, f"{path.relative_to(ROOT)}, {rule.__name__}:\n" + "\n".join(broken)


def test_the_course_was_found():
    assert notebooks.NOTEBOOKS / "00_start_here.ipynb" in COURSE


def test_a_lesson_its_folder_and_its_tests_bear_one_name():
    first, *names = [path.stem[3:] for path in COURSE]
    folders = ROOT / "lib/blocks2tokens/course/lessons"
    assert first == "start_here" and tuple(names) == check.LESSONS
    assert sorted([first, *names]) == sorted(
        path.name for path in folders.iterdir() if (path / "__init__.py").exists()
    )
    for name in names:
        assert (ROOT / f"tests/lessons/test_check_{name}.py").exists(), name


def test_lessons_have_their_numbers_once():
    numbers = [path.name[:2] for path in COURSE]
    assert numbers == sorted(set(numbers))


# The rules: a good lesson keeps all of them, each change below breaks exactly one


def markdown(source):
    return nbformat.v4.new_markdown_cell(source)


def code(source, *outputs, tags=()):
    cell = nbformat.v4.new_code_cell(source, outputs=list(outputs))
    if tags:
        cell.metadata["tags"] = list(tags)
    return cell


def printed(text):
    return nbformat.v4.new_output("stream", text=text)


def displayed(**data):
    return nbformat.v4.new_output("display_data", data={k.replace("_", "/"): v for k, v in data.items()})


QUESTIONS = "<summary>Answer</summary>"


def good_lesson():
    card = "*You will build* one · *You will be able to* do it\n\n*You need* lesson 00\n\n"
    card += "20 minutes to read, 15 to do"
    cells = [markdown("# Pack weights into blocks\n\n" + card.replace(" · ", "\n\n"))]
    cells += [markdown(f"## {n}. {heading}") for n, heading in enumerate(HEADINGS)]
    turn = "### Your turn {}\n\ndifficulty ●●○ · importance ●●● · {} minutes"
    cells += [markdown(turn.format(n, minutes)) for n, minutes in enumerate([10, 5])]
    cells += [markdown(f"**{lead}** something") for lead in LEADS[3:]]
    cells += [
        markdown(
            "From the report:\n\n| kernel | time |\n|---|---|\n| baseline | 488 µs |\n\n> observed 8 ms"
        ),
        markdown(
            "In 2048 steps of 0.5, the 1990s, 16 s_j, 12.5 MB; `b2t/home/` and ../work/notes and 3 sizes"
        ),
        code("bench.compare(f, g)\nplot();", printed("12.3 ms"), tags=["nbval-ignore-output"]),
        code("draw()", picture("What it says")),
        folded("draw_more()"),
        code("print('N:\\n', 3)  # https://example.org/a", printed("N:\n 3")),
        code('quiz.show("x")', displayed(text_html=QUESTIONS), tags=["nbval-ignore-output"]),
        code('check.progress("x")'),
    ]
    cells += [code(f"x = {n}") for n in range(40 - len(cells))]
    return numbered(nbformat.v4.new_notebook(cells=cells, metadata=fixed_metadata()))


def fixed_metadata():
    return {"kernelspec": dict(notebooks.KERNEL), "language_info": dict(notebooks.LANGUAGE)}


def folded(source):
    cell = code(source)
    cell.metadata["jupyter"] = {"source_hidden": True}
    return cell


def picture(alt, data="0"):
    output = displayed(image_png=data)
    output.metadata["image/png"] = {"alt": alt}
    return output


def numbered(notebook):
    for count, cell in enumerate(code_cells(notebook), start=1):
        cell.execution_count = count
    return notebook


def broken_rules(notebook):
    return [rule for rule in RULES + LESSON_RULES if list(rule(notebook))]


def with_cells(*cells):
    """Return a change: put `cells` in the place of the last of a good lesson."""

    def change(notebook):
        notebook.cells[-len(cells) :] = cells
        numbered(notebook)

    return change


def with_source(old, new):
    """Return a change: `new` in the place of `old`, wherever it stands."""

    def change(notebook):
        for cell in notebook.cells:
            cell.source = cell.source.replace(old, new)

    return change


def with_outputs(source, *outputs):
    """Return a change: other outputs of the cells that have `source`."""

    def change(notebook):
        for cell in notebook.cells:
            if source in cell.source:
                cell.outputs = list(outputs)

    return change


def skip_a_count(notebook):
    code_cells(notebook)[-1].execution_count += 1


def forget_to_run(notebook):
    code_cells(notebook)[0].execution_count = None


def set_metadata(**metadata):
    return lambda notebook: notebook.metadata.update(metadata)


def set_cell_metadata(notebook):
    notebook.cells[-1].metadata["execution"] = {"iopub.execute_input": "2020-01-01"}


def set_widget_view(notebook):
    notebook.cells[-1].outputs = [displayed(**{notebooks.WIDGET_VIEW: {"model_id": "0"}})]


def lengthen_all(notebook):
    for cell in code_cells(notebook):
        if not re.search("bench|quiz|check", cell.source):
            cell.source = "\n".join(["x = 1"] * 7)


def fold_every_other(notebook):
    for cell in code_cells(notebook)[::2]:
        cell.metadata["jupyter"] = {"source_hidden": True}


ERROR = nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[])

BAD = {
    "a count is skipped": (skip_a_count, execution_counts_run_from_1),
    "a cell was not run": (forget_to_run, execution_counts_run_from_1),
    "an error": (with_cells(code("f()", ERROR)), no_error_outputs),
    "a path in a source": (with_cells(code("open('/home/ann/model.gguf')")), no_host_paths),
    "a path in prose": (with_cells(markdown("See /Users/ann/course/x")), no_host_paths),
    "a path in an output": (with_cells(code("p", printed("at /tmp/ipykernel_1/2.py"))), no_host_paths),
    "a path in HTML": (with_cells(code("p", displayed(text_html="<b>/root/x</b>"))), no_host_paths),
    "a path on Windows": (with_cells(code("p", printed("C:\\Users\\ann"))), no_host_paths),
    "an escaped path on Windows": (with_cells(code("p", printed("'C:\\\\Users'"))), no_host_paths),
    "this checkout's path": (with_cells(code("p", printed(f"{ROOT}/data"))), no_host_paths),
    "requests": (with_cells(code("import requests")), no_network),
    "urllib": (with_cells(code("from urllib.request import Request")), no_network),
    "pip": (with_cells(code("!pip install x")), no_network),
    "the pip magic": (with_cells(code("%pip install x")), no_network),
    "curl": (with_cells(code("x = 1\n! curl -O x")), no_network),
    "a hub": (with_cells(code("hf_hub_download('x')")), no_network),
    "a picture from elsewhere": (with_cells(markdown("![x](https://example.org/x.png)")), no_network),
    "a script from elsewhere": (
        with_cells(code("p", displayed(text_html="<script src='https://example.org/x.js'>"))),
        no_network,
    ),
    **{
        f"untagged {source}": (with_cells(code(source)), timing_cells_are_tagged)
        for source in ["%memit f()", "bench.compare(f, g)", "rate = measure(f)", "measure_bandwidth()"]
    },
    **{
        f"a clock, {source}": (
            with_cells(code(source, tags=["nbval-ignore-output"])),
            the_clock_is_read_within_a_budget,
        )
        for source in [
            "%timeit f()",
            "%%timeit\nf()",
            "%time f()",
            "import time",
            "from time import perf_counter",
            "start = time.perf_counter()",
            "perf_counter_ns()",
            "time.time()",
        ]
    },
    **{
        f"prose says {text}": (with_cells(markdown(f"It takes {text}.")), prose_has_no_measured_times)
        for text in [
            "58.1 ms",
            "8ms",
            "3 µs",
            "3 us",
            "50 ns",
            "2 seconds",
            "2 s",
            "0.5s",
            "77 tokens/s",
            "8.8 GB/s",
        ]
    },
    "a semicolon at the end": (
        with_cells(code("a = 1\nplot(a);\n")),
        no_compared_cell_ends_with_a_semicolon,
    ),
    "prose gives GFLOP/s": (with_cells(markdown("That is 8.6 GFLOP/s")), prose_has_no_measured_times),
    "prose tells what the report took": (
        with_cells(markdown("The report took 58.1 ms")),
        prose_has_no_measured_times,
    ),
    "a table has no source": (with_cells(markdown("| x | 3 ms |")), prose_has_no_measured_times),
    "an entry of an earlier cell is deleted": (with_cells(code("del calls['x']\nf()")), cells_run_twice),
    "a name of an earlier cell is deleted": (with_cells(code("x = 1\ndel y")), cells_run_twice),
    "a guess gives the names": (
        with_cells(code("predict.compare(my_guess, dict(zip(my_guess, found)))")),
        what_is_found_has_names_of_its_own,
    ),
    "a cell of 31 lines": (with_cells(code("\n".join(["x = 1"] * 31))), code_cells_are_short),
    "a folded cell of 31 lines": (with_cells(folded("\n".join(["x = 1"] * 31))), code_cells_are_short),
    "half of the cells are folded": (fold_every_other, few_cells_are_folded),
    "a figure without a title": (
        with_cells(code("p", displayed(image_png="0"))),
        pictures_have_alternative_texts,
    ),
    "an empty alternative text": (with_cells(code("p", picture(" "))), pictures_have_alternative_texts),
    "cells of 7 lines": (lengthen_all, code_cells_are_short),
    "a large output": (with_cells(code("p", picture("Large", "0" * MAX_BYTES))), file_is_small),
    "another kernel": (set_metadata(kernelspec={"name": "py311"}), form_is_fixed),
    "a language version": (set_metadata(language_info={"name": "python", "version": "3.11"}), form_is_fixed),
    "widget state": (set_metadata(widgets={"state": {}}), form_is_fixed),
    "a cell's times": (set_cell_metadata, form_is_fixed),
    "a widget's view": (set_widget_view, form_is_fixed),
    "no title": (with_source("# Pack", "Pack"), begins_with_its_title),
    **{
        f"no {section}": (with_source(section, "Else"), has_its_sections)
        for section in HEADINGS + LEADS
        if section != "Your turn"
    },
    "no minutes": (with_source("minutes to read", "pages to read"), minutes_add_up),
    "a card of more minutes": (with_source("· 10 minutes", "· 20 minutes"), minutes_add_up),
    "a section in the title only": (with_source("## 0. Why", "# Why"), has_its_sections),
    "a section in code only": (with_source("## 0. Why", "```\n## 0. Why\n```"), has_its_sections),
    "2 turns": (with_source("### Your turn 1", "### Their turn"), has_its_turns),
    "6 turns": (with_cells(*[markdown("### Your turn") for _ in range(3)]), has_its_turns),
    "an exercise behind the last strip": (
        with_cells(*map(code, ("check.progress('x')", "check.progress('x')", "f = check.f(f)"))),
        what_counts_the_exercises_comes_behind_them,
    ),
    "an exercise behind the model that speaks": (
        with_cells(*map(code, ("check.progress('x')", "_ = my_engine.speak('x')", "f = check.f(f)"))),
        what_counts_the_exercises_comes_behind_them,
    ),
    "no quiz": (with_source("quiz.show", "quiz.hide"), ends_with_its_quiz),
    "another lesson's quiz": (with_source('quiz.show("x")', 'quiz.show("y")'), ends_with_its_quiz),
    "a quiz without its text": (with_outputs("quiz.show", printed("?")), ends_with_its_quiz),
    "39 cells": (lambda notebook: notebook.cells.pop(), length_is_right),
    "72 cells": (lambda notebook: notebook.cells.extend(markdown("x") for _ in range(32)), length_is_right),
    "2,001 words": (with_cells(markdown("word " * 2_001)), length_is_right),
}


def test_a_good_lesson_keeps_every_rule():
    assert {rule.__name__: list(rule(good_lesson())) for rule in RULES + LESSON_RULES} == {
        rule.__name__: [] for rule in RULES + LESSON_RULES
    }


@pytest.mark.parametrize(("change", "rule"), BAD.values(), ids=BAD.keys())
def test_a_bad_lesson_breaks_its_rule(change, rule):
    lesson = good_lesson()
    change(lesson)
    assert broken_rules(lesson) == [rule]


def test_a_problem_names_its_cell():
    lesson = good_lesson()
    lesson.cells[-1].source = "import requests\nx = 1"
    assert list(no_network(lesson)) == ["cell 39 (import requests): 'import requests'"]


def test_every_rule_is_tested():
    assert {rule for _, rule in BAD.values()} == {*RULES, *LESSON_RULES}


def test_words_are_what_a_reader_reads():
    text = "Two words [and link](https://example.org) `x` $a + b$ <b>bold</b>\n```\nnot this\n```\n"
    assert words(text) == ["Two", "words", "and", "link", "x", "bold"]


ANCHOR = re.compile(r"glossary\.md(?:#([\w-]+))?\)")
TERMS = re.compile(r"^### (.+)$", re.MULTILINE)


def test_words_that_link_to_the_glossary_are_in_it():
    terms = TERMS.findall((notebooks.NOTEBOOKS / "glossary.md").read_text(encoding="utf-8"))
    known = {re.sub(r"[^\w -]", "", term.lower()).replace(" ", "-") for term in terms}
    assert len(known) == len(terms) > 30 and "kernel" in known
    wanted = {
        anchor for path in COURSE for anchor in ANCHOR.findall(path.read_text(encoding="utf-8")) if anchor
    }
    assert wanted <= known


def test_the_readme_says_how_long_the_course_is():
    heads = [MINUTES.search(prose(notebooks.read(path))) for path in COURSE[1:]]
    read, do = (sum(int(head[part]) for head in heads) for part in (1, 2))
    said = re.search(
        r"about (\d+) hours of reading and (\d+) of doing", (ROOT / "README.md").read_text(encoding="utf-8")
    )
    assert said and (int(said[1]), int(said[2])) == (round(read / 60), round(do / 60))


def test_each_lesson_leads_to_the_next():
    for path, following in pairwise(COURSE):
        last = next(line for line in reversed(prose(notebooks.read(path)).splitlines()) if line.strip())
        folder = "" if path.parent == following.parent else f"{following.parent.name}/"
        up = "" if path.parent in (following.parent, following.parent.parent) else "../"
        assert last.startswith("**Next:**") and f"]({up}{folder}{following.name})" in last, path.stem


PROMISED = re.compile(r"(?:\b(\d\d) to )?\b(\d\d)\b[^.;\d\n]{0,20}in preparation")


def test_no_lesson_that_is_there_is_said_to_be_in_preparation():
    there = {path.name[:2] for path in COURSE}
    for path in [*COURSE, notebooks.NOTEBOOKS / "glossary.md", ROOT / "README.md"]:
        text = path.read_text(encoding="utf-8")
        promised = {nr for found in PROMISED.findall(text) for nr in found if nr}
        assert not promised & there, path.name


def test_a_promise_is_seen():
    found = [
        PROMISED.findall(text) for text in ("lesson 26 (in preparation)", "23 to 33, *x* (in preparation)")
    ]
    assert found == [[("", "26")], [("23", "33")]]
