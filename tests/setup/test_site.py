"""The course as a site: what is laid down for it, and what is found wrong with it."""

import html
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
    (tmp_path / "c.css").write_text('@import "d.css"; x {background: url("//example.org/x.png")}')
    assert site.from_outside(tmp_path) == ['a.html: <script src="https://', 'c.css: url("//']


def test_links_that_lead_nowhere_are_found(tmp_path):
    page(tmp_path, "a.html", '<a href="b.html#there">x</a><a href="b.html#gone">x</a><a href="c.html">x</a>')
    page(
        tmp_path, "b.html", '<h1 id="there">x</h1><a href="mailto:x@example.org">x</a><a href="#there">x</a>'
    )
    page(tmp_path, "d.html", '<img src="x.png"><link href="y.css?v=1">')
    (tmp_path / "y.css").touch()
    assert site.broken_links(tmp_path) == ["a.html: b.html#gone", "a.html: c.html", "d.html: x.png"]


def test_what_cannot_be_heard_is_found(tmp_path):
    figures = '<img src="x.png" alt="It rises"><img src="y.png" alt="y.png"><img src="z.png">'
    page(tmp_path, "a.html", f"<h1>x</h1><h2>x</h2><h3>x</h3><h2>x</h2>{figures}")
    page(tmp_path, "b.html", "<h1>x</h1>\n<h3>x</h3>")
    assert site.hard_to_hear(tmp_path) == [
        "a.html: a figure without a text: y.png",
        "a.html: a figure without a text: z.png",
        "b.html: line 2: h3 below h1",
    ]


def test_two_lessons_as_a_site(tmp_path):
    if importlib.util.find_spec("myst_nb") is None:
        pytest.skip('the site is optional: pip install ".[site]"')
    assert site.build(tmp_path, LESSONS) == 0
    assert site.from_outside(tmp_path) == [] and site.hard_to_hear(tmp_path) == []
    text = (tmp_path / "notebooks/1_formats/01_why_blocks.html").read_text(encoding="utf-8")
    assert "<h1>Pack 32 weights" in text
    figures = [
        o
        for c in notebooks.read(LESSONS[1]).cells
        for o in c.get("outputs", [])
        if "image/png" in o.get("data", {})
    ]
    told = [o.metadata["image/png"]["alt"] for o in figures]
    assert told and all(f'alt="{html.escape(said)}"' in text for said in told)
    lessons = {path.stem for path in notebooks.find(notebooks.NOTEBOOKS)} - {path.stem for path in LESSONS}
    broken = [link for link in site.broken_links(tmp_path) if not any(name in link for name in lessons)]
    assert broken == []


def test_what_is_no_site_is_not_replaced(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("three years")
    for place in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(SystemExit):
            site.main([str(place)])
        assert "is no site" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "three years"
