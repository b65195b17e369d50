"""Where the course lies: here in a checkout; and where pip has put it, for whoever has none."""

import subprocess
import tomllib
from pathlib import Path

from blocks2tokens.course import models, place
from blocks2tokens.course.setup import notebooks, workspace

ROOT = Path(__file__).resolve().parents[2]
NOT_READ = {"notebooks/ruff.toml"}  # by those who have the lessons only


def test_a_checkout_is_its_own_place():
    assert place.IS_CHECKOUT and place.ROOT == ROOT == notebooks.ROOT
    assert ROOT / "data" == models.DATA and ROOT / "work" == workspace.WORK


def test_an_installed_course_is_found_by_its_first_lesson(tmp_path, monkeypatch):
    lesson = tmp_path / "share/blocks2tokens/notebooks" / place.FIRST
    information = tmp_path / "lib/site-packages/blocks2tokens-0.1.0.dist-info"
    lesson.parent.mkdir(parents=True)
    lesson.write_text("{}")
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Name: blocks2tokens\nVersion: 0.1.0\n")
    files = ["blocks2tokens/__init__.py", f"../../share/blocks2tokens/notebooks/{place.FIRST}"]
    (information / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    monkeypatch.syspath_prepend(information.parent)
    assert place._installed() == tmp_path / "share/blocks2tokens"


def test_all_lessons_and_what_they_read_are_installed():
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["data-files"]
    installed = {}
    for folder, patterns in asked.items():
        for path in (path for pattern in patterns for path in ROOT.glob(pattern)):
            installed[path.relative_to(ROOT).as_posix()] = f"{folder}/{path.name}"
    command = ["git", "ls-files", "notebooks", "data"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    known = set(listed.stdout.split("\n")) - {""} - NOT_READ
    assert known and known <= set(installed)
    assert {f"share/blocks2tokens/{name}" for name in known} <= set(installed.values())
