"""The course in a real browser: what a learner clicks, types and sees.

Debian's Chromium, driven by Playwright, on the server that `make lab` starts. Where there is no Chromium the
tests are skipped; with CI=true they are not.
"""

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from conftest import absent
from playwright.sync_api import expect, sync_playwright

from blocks2tokens.course.classroom import pages as quiz_pages
from blocks2tokens.course.setup import jupyter, notebooks, workspace

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LESSON = "1_formats/01_why_blocks.ipynb"
WAIT = 180_000  # ms: the machine may be busy, and kernels compile
STUB = "    return ..."
WRONG = "    return fmt.bytes_per_block / fmt.block_size"
RIGHT = "    return 8 * fmt.bytes_per_block / fmt.block_size"
SETTINGS = "@jupyterlab/notebook-extension/tracker.jupyterlab-settings"


@pytest.fixture(scope="module")
def browser():
    """Chromium, without a window."""
    if CHROMIUM is None:
        absent("Chromium", "apt install chromium")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield found
        found.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab on a fresh copy of the lessons: (its address with the token, the folder)."""
    folder = tmp_path_factory.mktemp("lab")
    work, settings = folder / "work", folder / "settings" / SETTINGS
    workspace.sync(notebooks.NOTEBOOKS, work)
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"windowingMode": "none"}))  # all cells are there to be looked for
    own = {
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "ws"),
    }
    own |= {"JUPYTER_CONFIG_PATH": str(jupyter.SETTINGS), "TQDM_DISABLE": "1"}
    command = jupyter.command(work, "00_start_here.ipynb", ["--no-browser", "--ServerApp.port=0"])
    log = folder / "log"
    with open(log, "w") as file:
        server = subprocess.Popen(command, env=os.environ | own, stdout=file, stderr=file)
    try:
        yield _address(server, log), work
    finally:
        server.kill()  # at SIGTERM it would wait for its kernels, which end by themselves when it has gone
        server.wait(20)


def _address(server, log: Path) -> str:
    """Return http://127.0.0.1:PORT with the token that the server prints."""
    end = time.monotonic() + 90
    while time.monotonic() < end and server.poll() is None:
        found = re.search(r"(http://127\.0\.0\.1:\d+)/\S*\?token=(\w+)", log.read_text())
        if found:
            return f"{found[1]} {found[2]}"
        time.sleep(0.5)
    raise AssertionError(f"no address within 90 s:\n{log.read_text()[-3000:]}")


@pytest.fixture
def page(browser, lab):
    """Return a function that opens a lesson in a tab of its own, ready to run."""
    address, token = lab[0].split()
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    tab = context.new_page()
    tab.set_default_timeout(WAIT)

    def open_lesson(name: str):
        tab.goto(f"{address}/lab/tree/{name}?token={token}&reset")
        tab.locator(".jp-Notebook .jp-Cell").first.wait_for()
        tab.locator("#jp-main-statusbar", has_text="| Idle").wait_for()  # before that, it asks for a kernel
        return tab

    yield open_lesson
    context.close()


def run_all(tab) -> None:
    """Run all cells and wait for the last one's number."""
    last = tab.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt").last
    tab.get_by_role("menuitem", name="Run", exact=True).click()
    tab.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    expect(last).to_have_text(re.compile(r"\[\d+\]:"), timeout=WAIT)


def run_cell(tab, cell) -> None:
    """Run one cell and wait for its number."""
    cell.locator(".cm-line").first.click()
    tab.keyboard.press("Shift+Enter")
    expect(cell.locator(".jp-InputPrompt").first).to_have_text(re.compile(r"\[\d+\]:"), timeout=WAIT)


def cell_with(tab, text: str):
    """Return the code cell whose source has this text."""
    return tab.locator(".jp-CodeCell").filter(has=tab.locator(".cm-content", has_text=text)).first


def answer(tab, cell, old: str, new: str) -> None:
    """Type another line in the place of one, and run the cell."""
    line = cell.locator(".cm-line", has_text=old.strip()).first
    line.click()
    tab.keyboard.press("Home")
    tab.keyboard.press("Shift+End")
    tab.keyboard.type(new.strip())
    tab.keyboard.press("Shift+Enter")


@pytest.mark.parametrize("lesson", ["00_start_here.ipynb", "1_formats/03_q4_k.ipynb"])
def test_a_lesson_runs_to_its_end(page, lesson):
    tab = page(lesson)
    run_all(tab)
    assert tab.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']").count() == 0
    assert tab.locator(".jp-OutputArea img").count() >= 3


def test_a_wrong_and_a_right_answer_and_what_is_made_of_them(page, lab):
    tab = page(LESSON)
    strip = cell_with(tab, 'check.progress("why_blocks")')
    run_cell(tab, strip)
    cell = cell_with(tab, "def bits_per_weight(fmt)")
    run_cell(tab, cell)
    assert "not attempted yet" in cell.locator(".jp-OutputArea").inner_text()
    answer(tab, cell, STUB, WRONG)
    cell.locator(".jp-OutputArea", has_text="a byte has eight bits").wait_for()
    answer(tab, cell, WRONG, RIGHT)
    cell.locator(".jp-OutputArea", has_text="✓").wait_for()
    record = (lab[1] / ".progress.jsonl").read_text().splitlines()
    verdicts = [json.loads(line)["verdict"] for line in record if "bits_per_weight" in line]
    assert verdicts == ["wrong", "right"]
    assert "def bits_per_weight" in (lab[1] / "my_engine/why_blocks.py").read_text()
    run_cell(tab, strip)
    strip.locator(".jp-OutputArea", has_text="1 of 5").wait_for()


def test_three_controls_move_their_figure(page):
    tab = page(LESSON)
    run_all(tab)
    panel = tab.locator(".jp-OutputArea .widget-vbox").first
    sliders, figure = panel.locator(".noUi-handle"), panel.locator("img").first
    figure.wait_for()
    for move in (
        lambda: sliders.nth(0).press("ArrowRight"),
        lambda: sliders.nth(1).press("End"),
        lambda: panel.get_by_role("button", name="Q8_0").click(),
    ):
        before = figure.get_attribute("src")
        move()
        expect(figure).not_to_have_attribute("src", before, timeout=WAIT)


def test_a_quiz_tells_why(page):
    tab = page(LESSON)
    cell = cell_with(tab, 'quiz.show("why_blocks")')
    run_cell(tab, cell)
    question = quiz_pages.read("why_blocks").quiz[0]
    cell.get_by_label(question.right, exact=True).first.check()
    cell.locator(".widget-html", has_text=question.why).wait_for()


def test_an_update_comes_under_an_open_tab(page, lab):
    """The course's lesson changes, and so does the learner's: both are there when it is opened again."""
    work, name = lab[1], "1_formats/02_scales_and_mins.ipynb"
    tab = page(name)
    cell = cell_with(tab, "def decode_q4_1(blocks)")
    line = cell.locator(".cm-line", has_text=STUB.strip()).first
    line.click()
    tab.keyboard.press("End")
    tab.keyboard.type("  # mine")
    tab.keyboard.press("Control+s")
    tab.wait_for_timeout(1500)
    assert "# mine" in (work / name).read_text()
    upstream = notebooks.read(notebooks.NOTEBOOKS / name)
    upstream.cells[0].source = upstream.cells[0].source.replace("Shift the ruler", "Shift the new ruler")
    source = work.parent / "upstream"
    (source / name).parent.mkdir(parents=True)
    notebooks.write(upstream, source / name)
    summary = workspace.sync(source, work)
    assert summary.merged == [name]
    tab = page(name)
    tab.locator(".jp-MarkdownCell h1", has_text="Shift the new ruler").wait_for()
    assert "# mine" in cell_with(tab, "def decode_q4_1(blocks)").inner_text()
