"""All exercises of the course as boxes, lesson by lesson, for a terminal: `b2t course progress`.

    03 q4_k              ✓ ✓ ◐ ○ ○   2 of 5   next: dequantize_q4_k
       ◐ dequantize_q4_k, 3 times: you added the minimum ...

    ✓ right at least once       ◐ tried, never right: what its check last said       ○ open

What of the record can be read counts: see course.progress.
"""

from pathlib import Path

from blocks2tokens.course import check, progress
from blocks2tokens.course.progress import DONE, GLYPHS, TRIED
from blocks2tokens.course.setup import notebooks

LONGEST = 100  # characters of a mistake


def overview(folder: Path | None = None) -> str:
    """Return the text; `folder` is the learner's, None: the one that the current directory lies in."""
    states = progress.state(folder)
    last: dict[str, list[str]] = {}
    for attempt in progress.attempts(folder):
        mistake = attempt.get("mistake")
        last.setdefault(attempt["exercise"], []).append(mistake if isinstance(mistake, str) else "")
    lines = []
    numbers = {path.stem[3:]: path.stem[:2] for path in notebooks.find(notebooks.NOTEBOOKS)}
    for lesson, exercises in states.items():
        lines.append(_row(numbers.get(lesson, "  "), lesson, exercises))
        tried = [name for name, state in exercises.items() if state == TRIED]
        lines += [_told(name, last[name]) for name in tried]
    done = sum(state == DONE for exercises in states.values() for state in exercises.values())
    n_formats = sum(
        states[lesson].get(name) == DONE for lesson in states for name in progress.READERS.values()
    )
    lines.append(
        f"\n{done} of {len(check.EXERCISES)} exercises are yours; "
        f"you read {n_formats} of {len(progress.READERS)} formats"
    )
    return "\n".join(lines)


def _row(number, lesson, exercises):
    boxes = " ".join(GLYPHS[state] for state in exercises.values())
    done = list(exercises.values()).count(DONE)
    following = next((name for name, state in exercises.items() if state != DONE), None)
    rest = f"next: {following}" if following else ""
    return f"{number} {lesson:24} {boxes:17} {done} of {len(exercises)}   {rest}".rstrip()


def _told(name, mistakes):
    times = f", {len(mistakes)} times" if len(mistakes) > 1 else ""
    told = f": {_cut(mistakes[-1])}" if mistakes[-1] else ""
    return f"   {GLYPHS[TRIED]} {name}{times}{told}"


def _cut(text):
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= LONGEST else line[: LONGEST - 3] + "..."
