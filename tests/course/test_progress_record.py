"""The record of verdicts, and the strips that show it."""

import json
import multiprocessing
import re
import subprocess
import sys

import numpy as np
import pytest

import blocks2tokens as b2t
from blocks2tokens.course import check, progress, work
from blocks2tokens.course.setup import notebooks


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch):
    monkeypatch.setattr(progress, "_SESSION", [])
    monkeypatch.setattr("blocks2tokens.course.check.exercise.display", lambda verdict: None)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A learner's folder; the current directory lies in it."""
    (tmp_path / "part").mkdir()
    (tmp_path / work.MANIFEST).write_text("{}")
    monkeypatch.chdir(tmp_path / "part")
    return tmp_path


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines(folder):
    return [json.loads(line) for line in (folder / progress.RECORD).read_text().splitlines()]


def right(M, K, N, seconds):
    return 2 * M * K * N / seconds / 1e9


def of(name):
    return progress.state()[check.lesson_of(check.EXERCISES[name])][name]


def test_a_line_for_each_verdict(folder):
    exercise = check.EXERCISES["gflops"]
    exercise(lambda *_: ...)
    for function in (lambda *_: 7.0, exercise.mistakes[0].wrong, right):
        exercise(function)
    found = lines(folder)
    assert [line["verdict"] for line in found] == ["wrong", "wrong", "right"]
    assert [line["mistake"] for line in found] == [None, exercise.mistakes[0].message, None]
    assert {(line["lesson"], line["exercise"]) for line in found} == {("phase0_baseline", "gflops")}
    assert all(1.7e9 < line["time"] < 1e10 for line in found)


def test_states(folder):
    assert of("gflops") == "open"
    check.gflops(lambda *_: ...)
    assert of("gflops") == "open"
    check.gflops(lambda *_: 7.0)
    assert of("gflops") == "tried"
    check.gflops(right)
    check.gflops(lambda *_: 7.0)
    assert of("gflops") == "done", "once right is right"


def test_all_lessons_in_order(nowhere):
    state = progress.state()
    assert list(state) == list(check.LESSONS)
    assert [name for states in state.values() for name in states] == list(check.EXERCISES)


def test_damaged_lines_are_skipped(folder):
    check.gflops(lambda *_: 7.0)
    with open(folder / progress.RECORD, "ab") as record:
        record.write(
            b'\xff\n[1]\n{"exercise": 3, "verdict": "right"}\n{"exercise": "read_half", "verdict": []}\n'
        )
        record.write(b'{"exercise": "nobody", "verdict": "right"}\n\n' + b"[" * 100_000 + b"\n")
        record.write(b'{"exercise": "read_half", "verd')  # here the power went
    check.gflops(right)
    assert of("gflops") == "done" and of("read_half") == "open"


def append(folder, start, n):
    start.wait()
    for i in range(n):
        progress._append(folder / progress.RECORD, {"exercise": "gflops", "verdict": "right", "i": i})


def test_notebooks_that_write_at_once_write_whole_lines(folder):
    context = multiprocessing.get_context("fork")
    start = context.Event()
    writers = [context.Process(target=append, args=(folder, start, 200)) for _ in range(4)]
    for writer in writers:
        writer.start()
    start.set()
    for writer in writers:
        writer.join()
    found = [line for line in (folder / progress.RECORD).read_text().splitlines() if line]
    assert sorted(json.loads(line)["i"] for line in found) == sorted(list(range(200)) * 4)


def test_without_a_folder_the_session_remembers(nowhere):
    check.gflops(right)
    assert of("gflops") == "done" and list(nowhere.iterdir()) == []


def test_a_record_that_cannot_be_written_spoils_nothing(folder):
    (folder / progress.RECORD).mkdir()
    assert check.gflops(right) is right and of("gflops") == "done"


def test_an_exercise_of_no_lesson_is_not_recorded(folder):
    exercise = check.Exercise("same", np.copy, lambda: {"one": (np.ones(3),)}, (), ("think",))
    exercise(lambda x: x + 0)
    assert not (folder / progress.RECORD).exists()


def test_another_folder_can_be_asked_for(folder, tmp_path_factory, monkeypatch):
    check.gflops(right)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert of("gflops") == "open"
    assert progress.state(folder)["phase0_baseline"]["gflops"] == "done"


# Strips


def test_a_strip_of_nothing_is_always_the_same(nowhere):
    assert repr(check.progress("q4_k")) == (
        "q4_k: ○ unpack_q4_k_scales  ○ split_q4_k_nibbles  ○ dequantize_q4_k  ○ convict_q4_k_decoder  "
        "○ decode_q4_k_element\n"
        f"0 of 5 here · 0 of {len(check.EXERCISES)} yours · you read 0 of {len(progress.READERS)} formats"
    )


def test_a_strip_counts(folder):
    check.decode_q4_0(check.EXERCISES["decode_q4_0"].solution)
    check.read_half(lambda *_: 7.0)
    strip = check.progress("why_blocks")
    assert "◐ read_half" in repr(strip) and "✓ decode_q4_0" in repr(strip)
    assert strip.sums().startswith("1 of 5 here · 1 of ") and "you read 1 of " in strip.sums()


def test_a_strip_is_legible_in_greyscale_and_needs_nothing_from_outside(folder):
    check.decode_q4_0(check.EXERCISES["decode_q4_0"].solution)
    check.read_half(lambda *_: 7.0)
    page = check.progress("why_blocks")._repr_html_()
    assert page.count("<span") == 5 and not re.search(r"<script|<img|<link|https?:|url\(", page)
    assert {glyph for glyph in progress.GLYPHS.values() if glyph in page} == set("✓◐○")
    for style in progress.BOXES.values():
        assert "background:" in style and "color:" in style.replace("background:", ""), "dark themes"
    assert len({re.search(r"border:2px \w+", style)[0] for style in progress.BOXES.values()}) == 2


def test_an_unknown_lesson_is_named():
    with pytest.raises(ValueError, match=r"lesson: expected one of why_blocks, .* got 'q9_k'"):
        check.progress("q9_k")


def test_who_reads_a_format():
    for name, exercise in progress.READERS.items():
        assert b2t.FORMATS[name].block_size > 1 and exercise in check.EXERCISES


def test_the_courses_own_notebooks_lie_in_nobodys_folder(monkeypatch):
    for path in notebooks.find(notebooks.NOTEBOOKS):
        monkeypatch.chdir(path.parent)
        assert work.folder() is None


@pytest.mark.parametrize("module", ["progress", "collected.kept"])
def test_checks_and_records_import_each_other(module):
    subprocess.run([sys.executable, "-c", f"import blocks2tokens.course.{module}"], check=True)
