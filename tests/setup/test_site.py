"""The course as a site: what is laid down for it, and what is found wrong with it."""

import importlib.util
from pathlib import Path

import pytest

from blocks2tokens.course.setup import notebooks, site

LESSONS = [
    notebooks.NOTEBOOKS / "00_start_here.ipynb",
    notebooks.NOTEBOOKS / "1_formats/01_why_blocks.ipynb",
]


def test_sources_lie_as_in_the_repository(tmp_path):
    site.collect(tmp_path / "source", LESSONS)
    index = (tmp_path / "source/index.md").read_text(encoding="utf-8")
    assert "01 · Pack 32 weights into 18 bytes <notebooks/1_formats/01_why_blocks>" in index
    assert (tmp_path / "source/notebooks/glossary.md").exists()
    assert (tmp_path / "source/instructor/01_why_blocks.md").read_text().startswith("# 01 · why_blocks")
    assert "autofunction:: blocks2tokens.load" in (tmp_path / "source/api.md").read_text()


def page(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"<html><body>{body}</body></html>", encoding="utf-8")


def test_what_comes_from_outside_is_found(tmp_path):
    page(
        tmp_path,
        "a.html",
        '<script src="https://example.org/x.js"></script><a href="https://example.org">x</a>',
    )
    page(tmp_path, "b.html", '<img src="x.png"><script src="x.js"></script>')
    assert site.from_outside(tmp_path) == ['a.html: <script src="https://']


def test_links_that_lead_nowhere_are_found(tmp_path):
    page(tmp_path, "a.html", '<a href="b.html#there">x</a><a href="b.html#gone">x</a><a href="c.html">x</a>')
    page(
        tmp_path, "b.html", '<h1 id="there">x</h1><a href="mailto:x@example.org">x</a><a href="#there">x</a>'
    )
    assert site.broken_links(tmp_path) == ["a.html: b.html#gone", "a.html: c.html"]


def test_two_lessons_as_a_site(tmp_path):
    if importlib.util.find_spec("myst_nb") is None:
        pytest.skip('the site is optional: pip install ".[site]"')
    assert site.build(tmp_path, LESSONS) == 0
    assert site.from_outside(tmp_path) == []
    text = (tmp_path / "notebooks/1_formats/01_why_blocks.html").read_text(encoding="utf-8")
    assert "<h1>Pack 32 weights" in text and 'alt="' in text and "<img" in text
    lessons = {path.stem for path in notebooks.find(notebooks.NOTEBOOKS)} - {path.stem for path in LESSONS}
    broken = [link for link in site.broken_links(tmp_path) if not any(name in link for name in lessons)]
    assert broken == []
