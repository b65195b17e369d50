"""The course as a site that needs nothing from outside: `make site`.

    README.md, INSTRUCTOR.md, notebooks/, an instructor's page a lesson, a page of the public names
        --copied into a folder, as they lie in the repository, so that their links hold-->
        Sphinx (conf.py beside this file), lessons as they were saved, not run --> site/index.html

Figures keep their alternative texts; formulas are drawn by a MathJax that is copied along.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

from blocks2tokens.course.classroom import pages
from blocks2tokens.course.setup import notebooks

CONF = Path(__file__).parent
ROOT = notebooks.ROOT
OUTSIDE = re.compile(
    r"""<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=["'](?:https?:)?//"""
    r"""|(?:@import\s+|\burl\()["']?(?:https?:)?//"""
)
LINK = re.compile(r"""<(?:a|script|link|img|iframe|source)\b[^>]*\b(?:src|href)="([^"]+)\"""")
TEMPLATES = "_static"  # the theme's: no pages
NAMES = {  # what the page of public names shows, by heading
    "Models": ("load", "Model", "Sampler", "PromptLookup", "Draft", "load_session", "Session", "Batcher"),
    "Matrices and products": ("QuantizedMatrix", "matmul", "Kernel"),
    "Formats and files": ("Format", "GGUFFile", "GGUFError", "UnsupportedError"),
    "Making models smaller": ("convert", "importance", "Importance", "prune", "quality"),
}


def collect(folder: Path, lessons: Sequence[Path]) -> None:
    """Lay the sources of the site down in `folder`: these lessons and what goes with them."""
    (folder / "notebooks").mkdir(parents=True)
    for path in lessons:
        place = folder / path.relative_to(ROOT)
        place.parent.mkdir(exist_ok=True)
        shutil.copy(path, place)
    for page in notebooks.NOTEBOOKS.glob("*.md"):
        shutil.copy(page, folder / "notebooks")
    shutil.copy(ROOT / "INSTRUCTOR.md", folder)
    (folder / "index.md").write_text(_index(lessons), encoding="utf-8")
    (folder / "api.md").write_text(_api(), encoding="utf-8")
    (folder / "instructor").mkdir()
    for path in lessons:
        text = pages.page_text(pages.read(path.stem))
        (folder / "instructor" / f"{path.stem}.md").write_text(text, encoding="utf-8")


def _index(lessons):
    """Return the first page: README, and behind it what the side bar lists."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    parts: dict[str, list[str]] = {}
    for path in lessons:
        part = path.parent.name
        title = "Start" if part == "notebooks" else part.replace("_", " · ", 1).replace("_", " ")
        heading = notebooks.read(path).cells[0].source.splitlines()[0].lstrip("# ")
        place = path.relative_to(ROOT).with_suffix("").as_posix()
        parts.setdefault(title, []).append(f"{path.stem[:2]} · {heading} <{place}>")
    trees = [_tree(title, listed) for title, listed in parts.items()]
    trees.append(_tree("To look up", ["notebooks/glossary", "api"]))
    instructor = ["INSTRUCTOR", *(f"instructor/{path.stem}" for path in lessons)]
    return "\n\n".join([readme, *trees, _tree("Teaching", instructor)])


def _tree(title, names):
    return "\n".join(["```{toctree}", ":hidden:", f":caption: {title}", "", *names, "```"])


def _api():
    import blocks2tokens as b2t

    parts = ["# Public names", "", "`import blocks2tokens as b2t`"]
    for heading, names in NAMES.items():
        parts += ["", f"## {heading}"]
        for name in names:
            if hasattr(b2t, name):
                kind = "autoclass" if isinstance(getattr(b2t, name), type) else "autofunction"
                members = "\n   :members:" if kind == "autoclass" else ""
                parts += ["", "```{eval-rst}", f".. {kind}:: blocks2tokens.{name}{members}", "```"]
    return "\n".join(parts) + "\n"


MARK = ".buildinfo"  # Sphinx leaves it in what it has built


def build(target: Path, lessons: Sequence[Path] | None = None) -> int:
    """Build the site of all lessons, or of these, in `target`; return Sphinx's exit status."""
    lessons = list(lessons or notebooks.find(notebooks.NOTEBOOKS))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".site-") as folder:
        source, built = Path(folder) / "source", Path(folder) / "site"  # MyST-NB writes beside it, too
        collect(source, lessons)
        command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-c", str(CONF)]
        command += ["-d", str(Path(folder) / "doctrees"), str(source), str(built)]
        if status := subprocess.call(command):
            return status
        shutil.rmtree(target, ignore_errors=True)
        built.rename(target)
    return 0


def from_outside(target: Path) -> list[str]:
    """Return what the pages of a site would load from elsewhere, a line each."""
    found = []
    for path in sorted([*target.rglob("*.html"), *target.rglob("*.css")]):
        for match in OUTSIDE.finditer(path.read_text(encoding="utf-8")):
            found.append(f"{path.relative_to(target)}: {match[0]}")
    return found


def broken_links(target: Path) -> list[str]:
    """Return the links of a site's pages, to each other and to files, that lead nowhere, a line each."""
    found, anchors = [], {}
    for path in _pages(target):
        anchors[path.resolve()] = set(re.findall(r'\bid="([^"]+)"', path.read_text(encoding="utf-8")))
    for path in _pages(target):
        for link in LINK.findall(path.read_text(encoding="utf-8")):
            place, _, anchor = link.partition("#")
            place = place.partition("?")[0]
            if re.match(r"[a-z]+:", link):
                continue
            file = (path.parent / place).resolve() if place else path.resolve()
            if not file.exists() or (anchor and file in anchors and anchor not in anchors[file]):
                found.append(f"{path.relative_to(target)}: {link}")
    return found


def hard_to_hear(target: Path) -> list[str]:
    """Return what somebody misses who has the pages of a site read to them, a line each.

    Figures without a text of their own, and headings that leave out a level.
    """
    found = []
    for path in _pages(target):
        page = _Read()
        page.feed(path.read_text(encoding="utf-8"))
        found += [f"{path.relative_to(target)}: {line}" for line in page.found]
    return found


def _pages(target):
    return [path for path in sorted(target.rglob("*.html")) if path.relative_to(target).parts[0] != TEMPLATES]


class _Read(HTMLParser):
    """Reads a page and notes what is missing."""

    def __init__(self):
        super().__init__()
        self.found, self.level = [], 0

    def handle_starttag(self, tag, attributes):
        if re.fullmatch("h[1-6]", tag):
            if int(tag[1]) > self.level + 1:
                self.found.append(f"line {self.getpos()[0]}: {tag} below h{self.level}")
            self.level = int(tag[1])
        elif tag == "img":
            has = dict(attributes)
            if has.get("alt", "").strip() in ("", has.get("src")):
                self.found.append(f"a figure without a text: {has.get('src')}")


def main(arguments: list[str] | None = None) -> int:
    """Build the site, check it, and say where it is."""
    parser = argparse.ArgumentParser(prog="python -m blocks2tokens.course.setup.site")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "site")
    target = parser.parse_args(arguments).folder
    if target.exists() and not (target.is_dir() and ((target / MARK).exists() or not any(target.iterdir()))):
        parser.error(f"{target} is no site, and would be replaced by one")
    if status := build(target):
        return status
    bad = [*from_outside(target), *broken_links(target), *hard_to_hear(target)]
    print("\n".join(bad) if bad else f"the site is there: {target / 'index.html'}")
    return 1 if bad else 0
