"""Decks of the lessons' own figures, one for each part: `make slides`.

    notebooks/1_formats/*.ipynb  --figures, titles, boards-->  slides/1_formats.html

    a lesson in a deck     its title · what to say and draw · a slide for each figure

Each deck is one file that needs nothing from outside: the pictures are in it, and so is the little script
that turns the pages (arrow keys, space, a click). On paper each slide is a page.
"""

import argparse
import html
import sys
from collections.abc import Iterator
from pathlib import Path

from blocks2tokens import files
from blocks2tokens.course.classroom import pages
from blocks2tokens.course.setup import notebooks

STYLE = """
body { margin: 0; background: #fff; color: #111; font: 2vw/1.45 system-ui, sans-serif; }
section { box-sizing: border-box; min-height: 100vh; padding: 4vh 5vw; page-break-after: always; }
h1 { font-size: 3.4vw; margin-top: 28vh; } h2 { font-size: 2.4vw; margin: 0 0 2vh; }
img { display: block; margin: 0 auto; width: 90vw; height: 88vh; object-fit: contain; }
pre { font-size: 1.9vw; line-height: 1.3; background: #f4f4f4; padding: 2vh 2vw; overflow: auto; }
footer { position: fixed; right: 1.5vw; bottom: 1vh; font-size: 1vw; color: #555; }
@media screen { .js section { display: none; } .js section.now { display: block; } }
"""
SCRIPT = """
const all = [...document.querySelectorAll("section")], count = document.querySelector("footer");
let now = 0;
function go(to) {
  now = Math.max(0, Math.min(all.length - 1, to));
  all.forEach((slide, i) => slide.classList.toggle("now", i === now));
  count.textContent = (now + 1) + " / " + all.length;
  history.replaceState(null, "", "#" + (now + 1));
}
document.documentElement.classList.add("js");
document.addEventListener("keydown", (event) => {
  if (["ArrowRight", "PageDown", " ", "Enter"].includes(event.key)) go(now + 1);
  else if (["ArrowLeft", "PageUp", "Backspace"].includes(event.key)) go(now - 1);
  else if (event.key === "Home") go(0);
  else if (event.key === "End") go(all.length - 1);
  else return;
  event.preventDefault();
});
document.addEventListener("click", () => go(now + 1));
go((parseInt(location.hash.slice(1)) || 1) - 1);
"""


def figures(notebook) -> Iterator[tuple[str, str]]:
    """Yield the title and the PNG, in base64, of each figure that was saved in a notebook."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            png = output.get("data", {}).get("image/png")
            if png:
                yield output.get("metadata", {}).get("image/png", {}).get("alt", ""), png.replace("\n", "")


def deck(title: str, lessons: list[Path]) -> str:
    """Return a deck, one page of HTML, of the lessons at these paths."""
    slides = [f"<h1>{html.escape(title)}</h1>"]
    for path in lessons:
        slides += _lesson(path, notebooks.read(path))
    body = "".join(f"<section>{slide}</section>\n" for slide in slides)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n{body}<footer></footer><script>{SCRIPT}</script></body></html>\n"
    )


def _lesson(path, notebook):
    heading = notebook.cells[0].source.splitlines()[0].lstrip("# ")
    slides = [f"<h1>{html.escape(path.stem[:2])} · {html.escape(heading)}</h1>"]
    page = pages.read(path.stem)
    slides.append("".join(f"<p>{html.escape(line)}</p>" for line in page.say))
    slides.append(f"<h2>On the board</h2><pre>{html.escape(page.board)}</pre>")
    for point, png in figures(notebook):
        slides.append(f'<img alt="{html.escape(point)}" src="data:image/png;base64,{png}">')
    return slides


def write(folder: Path) -> list[Path]:
    """Write a deck for each part of the course into `folder`; return their paths."""
    parts: dict[str, list[Path]] = {}
    for path in notebooks.find(notebooks.NOTEBOOKS):
        part = path.parent.name if path.parent != notebooks.NOTEBOOKS else "0_start"
        parts.setdefault(part, []).append(path)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for part, lessons in sorted(parts.items()):
        number, _, name = part.partition("_")
        title = f"Part {number}: {name.replace('_', ' ')}" if number != "0" else "Blocks to Tokens"
        written.append(folder / f"{part}.html")
        files.write_text(written[-1], deck(title, lessons))
    return written


def main(arguments: list[str] | None = None) -> int:
    """Write all decks; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m blocks2tokens.course.classroom.slides")
    parser.add_argument("folder", nargs="?", type=Path, default=notebooks.ROOT / "slides")
    for path in write(parser.parse_args(arguments).folder):
        print(f"{path.parent.name}/{path.name}  {path.stat().st_size / 2**20:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
