"""b2t course: progress, reset and open, on a learner's folder made by a copy of two small lessons."""

import builtins
import json
import os
import re
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from pathlib import Path

import nbformat
import pytest

from blocks2tokens.command_line import main
from blocks2tokens.course import check, overview, progress, work
from blocks2tokens.course.setup import jupyter, notebooks, workspace

ROOT = Path(__file__).resolve().parents[2]
NOTIFICATIONS = "@jupyterlab/apputils-extension:notification"
FIRST, THIRD = "00_start_here.ipynb", "1_formats/03_q4_k.ipynb"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A learner's folder, of a course with lessons 00 and 03."""
    course, target = tmp_path / "notebooks", tmp_path / "work"
    for name in (FIRST, THIRD):
        (course / name).parent.mkdir(parents=True, exist_ok=True)
        cell = nbformat.v4.new_code_cell(f"{name!r}", id="cell")
        notebooks.write(nbformat.v4.new_notebook(cells=[cell]), course / name)
    monkeypatch.setattr(notebooks, "NOTEBOOKS", course)
    monkeypatch.setattr(workspace, "WORK", target)
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setattr(progress, "_SESSION", [])
    workspace.sync(course, target)
    return target


@pytest.fixture
def run(capsys):
    def run_course(*words):
        code = main(["course", *map(str, words)])
        return code, *capsys.readouterr()

    return run_course


def note(folder, *verdicts):
    lines = [
        json.dumps({"exercise": name, "verdict": kind, "mistake": mistake})
        for name, kind, mistake in verdicts
    ]
    (folder / work.MANIFEST).with_name(progress.RECORD).write_text("\n".join(lines))


# Progress


def test_progress_shows_all_exercises_as_boxes(run, folder):
    note(
        folder,
        ("unpack_q4_k_scales", "right", None),
        ("split_q4_k_nibbles", "wrong", None),
        ("split_q4_k_nibbles", "wrong", "your nibbles\x1b[2J are interleaved"),
    )
    code, out, _ = run("progress")
    assert code == 0
    assert re.search(r"^03 q4_k +✓ ◐ ○ ○ ○ +1 of 5   next: split_q4_k_nibbles$", out, re.MULTILINE)
    assert "   ◐ split_q4_k_nibbles, 2 times: your nibbles [2J are interleaved\n" in out
    assert sum(out.count(glyph) for glyph in "✓◐○") == len(check.EXERCISES) + 1
    assert f"1 of {len(check.EXERCISES)} exercises are yours; you read 0 of " in out
    assert all(f" {lesson} " in out for lesson in check.LESSONS)


def test_progress_reads_what_can_be_read(run, folder):
    note(folder, ("dequantize_q4_k", "right", None), ("decode_q4_0", "wrong", ["a", "list"]))
    with open(folder / progress.RECORD, "ab") as record:
        record.write(b'\n\xff\xfe{"exercise": "dequ\n{"exercise": "read_half", "verdict": "right"')
    code, out, _ = run("progress")
    assert code == 0 and "1 of 113 exercises" in out.replace(str(len(check.EXERCISES)), "113")
    assert "   ◐ decode_q4_0\n" in out


def test_progress_of_another_folder(run, folder, tmp_path, monkeypatch):
    note(folder, ("decode_q4_0", "right", None))
    monkeypatch.setattr(workspace, "WORK", tmp_path / "nowhere")
    assert run("progress", "--work", folder)[1].count("✓") == 1
    code, _, err = run("progress")
    assert code == 1 and err.count("\n") == 1 and "nowhere: no lessons were copied there" in err
    monkeypatch.chdir(folder / "1_formats")
    assert run("progress")[1].count("✓") == 1


def test_a_long_mistake_is_cut():
    assert len(overview._cut("long " * 100)) == overview.LONGEST


# Reset


def test_reset_says_where_the_learners_is(run, folder):
    changed = notebooks.read(folder / THIRD)
    changed.cells[0].source = "mine"
    notebooks.write(changed, folder / THIRD)
    mine = "1_formats/03_q4_k (mine).ipynb"
    assert run("reset", "03") == (0, f'{THIRD} is as the course has it; yours is beside it: "{mine}"\n', "")
    assert notebooks.read(folder / mine).cells[0].source == "mine"
    assert notebooks.read(folder / THIRD).cells[0].source == repr(THIRD)
    (folder / THIRD).unlink()
    assert run("reset", "q4_k") == (0, f"{THIRD} is as the course has it\n", "")


@pytest.mark.parametrize("number", ["3", "03", "q4_k", "03_q4_k"])
def test_a_lesson_is_known_by_number_and_name(folder, number):
    assert notebooks.named(number) == THIRD


@pytest.mark.parametrize("number", ["", "4", "q5_k", "..", "1_formats"])
def test_an_unknown_lesson_is_one_line(run, folder, number):
    code, _, err = run("reset", number)
    assert code == 1 and err == f"error: lesson: expected one from 00 to 03, got {number!r}\n"


# Open


def test_open_starts_jupyterlab_on_the_lesson(folder, monkeypatch):
    started = []
    monkeypatch.setattr(jupyter, "start", lambda *arguments: started.append(arguments))
    assert main(["course", "open", "03", "--", "--no-browser", "--port=9000"]) == 0
    assert main(["course", "open"]) == 0
    assert started == [(folder, THIRD, ["--no-browser", "--port=9000"]), (folder, FIRST, [])]


def test_jupyterlab_is_told_what_to_open(folder):
    words = jupyter.command(folder, THIRD, ["--no-browser"])
    assert f"--LabApp.default_url=/lab/tree/{THIRD}" in words and words[-1] == "--no-browser"
    (folder / THIRD).unlink()
    assert "--LabApp.default_url=/lab" in jupyter.command(folder, THIRD)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.skipif(os.name != "posix", reason="JupyterLab takes the place of the process")
def test_a_real_jupyterlab_answers_with_the_lesson(folder, tmp_path):
    port = free_port()
    code = (
        "import sys; from pathlib import Path; from blocks2tokens.course.setup import jupyter; "
        "jupyter.start(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])"
    )
    options = [
        "--no-browser",
        f"--port={port}",
        "--IdentityProvider.token=secret",
        "--ServerApp.port_retries=0",
    ]
    words = [sys.executable, "-c", code, str(folder), THIRD, *options]
    server = subprocess.Popen(words, stderr=subprocess.DEVNULL, env=os.environ | {"HOME": str(tmp_path)})
    try:
        address = f"http://127.0.0.1:{port}/?token=secret"
        for _ in range(120):
            try:
                with urllib.request.urlopen(address) as page:
                    assert page.status == 200 and page.url.split("?")[0].endswith(f"/lab/tree/{THIRD}")
                asked = f"http://127.0.0.1:{port}/lab/api/settings/{NOTIFICATIONS}?token=secret"
                with urllib.request.urlopen(asked) as answer:
                    properties = json.load(answer)["schema"]["properties"]
                assert properties["fetchNews"]["default"] == "false"
                assert properties["checkForUpdates"]["default"] is False
                break
            except OSError:
                assert server.poll() is None
                time.sleep(0.5)
        else:
            pytest.fail("JupyterLab did not answer")
    finally:
        server.terminate()
        server.wait()


def test_the_settings_for_jupyterlab_are_installed_with_the_package():
    (path,) = jupyter.SETTINGS.rglob("*.json")
    assert json.loads(path.read_text()).keys() == {NOTIFICATIONS}
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert path in Path(jupyter.__file__).parent.glob(package["blocks2tokens.course.setup"][0])


# Without the lessons' packages


def test_without_the_lessons_packages_it_says_what_installs_them(run, monkeypatch):
    usual = builtins.__import__

    def without_nbformat(name, *rest):
        if name.partition(".")[0] == "nbformat":
            raise ModuleNotFoundError("No module named 'nbformat'", name="nbformat")
        return usual(name, *rest)

    for name in [n for n in sys.modules if n.startswith(("blocks2tokens.course.setup", "nbformat"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without_nbformat)
    code, out, err = run("progress")
    assert (code, out) == (1, "")
    assert err == 'error: the lessons need nbformat, which is not here: pip install ".[course]" installs it\n'


def test_the_other_commands_import_nothing_of_the_course():
    found = "[name for name in sys.modules if name.startswith('blocks2tokens.course')]"
    code = f"import sys, blocks2tokens.command_line; print({found})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found == "[]\n"
