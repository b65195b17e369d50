"""What the learner has done: a line for each verdict, and strips that show it.

    work/.progress.jsonl    {"time": 1767225600, "lesson": "q4_k", "exercise": "dequantize_q4_k",
                             "verdict": "wrong", "mistake": "you added the minimum: ..."}
                            time in seconds since 1970, mistake null if the check knew no name for it

    done     right at least once        tried    judged, never right        open    neither

Nothing leaves the machine. A line is appended whole; one that is damaged is skipped. Where there is no
work/, verdicts are remembered until the session ends.
"""

import html
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from blocks2tokens.course import check, work

RECORD = ".progress.jsonl"
READERS = {  # the exercise with which a learner reads a format
    "Q8_0": "decode_q8_0",
    "Q4_0": "decode_q4_0",
    "Q4_1": "decode_q4_1",
    "Q5_0": "decode_q5_0",
    "Q5_1": "decode_q5_1",
    "Q2_K": "dequantize_q2_k",
    "Q3_K": "dequantize_q3_k",
    "Q4_K": "dequantize_q4_k",
    "Q5_K": "dequantize_q5_k",
    "Q6_K": "dequantize_q6_k",
    "IQ4_NL": "dequantize_iq4_nl",
    "MXFP4": "dequantize_mxfp4",
}
DONE, TRIED, OPEN = "done", "tried", "open"
GLYPHS = {DONE: "✓", TRIED: "◐", OPEN: "○"}
BOXES = {  # dark, striped, white: told apart without colour, too
    DONE: "background:#005B8E;color:white;border:2px solid #005B8E",
    TRIED: "background:#FBE3CF;color:black;border:2px dashed #D55E00",
    OPEN: "background:white;color:#444444;border:2px solid #AAAAAA",
}
_SESSION: list[dict] = []


def record(exercise, verdict) -> None:
    """Note a verdict of a check; an untouched stub is no attempt. Never raises."""
    lesson = check.lesson_of(exercise)
    if lesson is None or verdict.kind == "untouched":
        return
    known = (m.message for m in exercise.mistakes if verdict.message.startswith(m.message))
    line = {
        "time": int(time.time()),
        "lesson": lesson,
        "exercise": exercise.name,
        "verdict": verdict.kind,
        "mistake": next(known, None) if verdict.kind == "wrong" else None,
    }
    folder = work.folder()
    try:
        if folder is None:
            _SESSION.append(line)
        else:
            _append(folder / RECORD, line)
    except OSError:  # a full disk: the lesson goes on
        _SESSION.append(line)


def _append(path: Path, line: dict) -> None:
    """Append a line in one write, so that two notebooks do not mix theirs."""
    text = json.dumps(line, ensure_ascii=False) + "\n"
    if _ends_within_a_line(path):
        text = "\n" + text
    place = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(place, text.encode())
    finally:
        os.close(place)


def _ends_within_a_line(path):
    try:
        with open(path, "rb") as opened:
            opened.seek(-1, os.SEEK_END)
            return opened.read(1) != b"\n"
    except OSError:  # not there, or empty
        return False


def attempts(folder: Path | None) -> list[dict]:
    """Return the verdicts recorded in a learner's folder, oldest first, and this session's own."""
    try:
        lines = (folder / RECORD).read_bytes().splitlines() if folder else []
    except OSError:
        lines = []
    return [found for line in lines if (found := _parsed(line))] + _SESSION


def _parsed(line):
    """Return a line as a dict, or None if it is damaged."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_whole = isinstance(found, dict) and isinstance(found.get("exercise"), str)
    return found if is_whole and found.get("verdict") in ("right", "wrong") else None


def state(folder: Path | None = None) -> dict[str, dict[str, str]]:
    """Return {lesson: {exercise: "done", "tried" or "open"}} of all lessons, in the course's order.

    `folder` is the learner's; None: the one that the current directory lies in.
    """
    verdicts: dict[str, set[str]] = {}
    for attempt in attempts(folder or work.folder()):
        verdicts.setdefault(attempt["exercise"], set()).add(attempt["verdict"])
    return {
        lesson: {e.name: _state(verdicts.get(e.name, set())) for e in exercises}
        for lesson, exercises in check.BY_LESSON.items()
    }


def _state(verdicts):
    if "right" in verdicts:
        return DONE
    return TRIED if verdicts else OPEN


@dataclass(frozen=True)
class Strip:
    """A lesson's exercises and the course's sums, as boxes in a notebook and as text elsewhere."""

    lesson: str
    states: dict[str, str]  # of the lesson's exercises
    n_done: int
    n_exercises: int
    n_formats: int

    def sums(self) -> str:
        here = f"{list(self.states.values()).count(DONE)} of {len(self.states)} here"
        return (
            f"{here} · {self.n_done} of {self.n_exercises} yours · "
            f"you read {self.n_formats} of {len(READERS)} formats"
        )

    def __repr__(self):
        boxes = "  ".join(f"{GLYPHS[state]} {name}" for name, state in self.states.items())
        return f"{self.lesson}: {boxes}\n{self.sums()}"

    def _repr_html_(self):
        boxes = "".join(
            f'<span title="{state}" style="{BOXES[state]};border-radius:4px;padding:0.15em 0.5em;'
            f'margin:0 0.4em 0.3em 0;display:inline-block">{GLYPHS[state]} {html.escape(name)}</span>'
            for name, state in self.states.items()
        )
        return f'<div style="margin:0.3em 0">{boxes}<div>{html.escape(self.sums())}</div></div>'


def strip(lesson: str) -> Strip:
    """Return the strip of a lesson; ValueError for one that there is not."""
    if lesson not in check.BY_LESSON:
        raise ValueError(f"lesson: expected one of {', '.join(check.BY_LESSON)}, got {lesson!r}")
    now = state()
    every = {name: s for states in now.values() for name, s in states.items()}
    n_formats = sum(every[exercise] == DONE for exercise in READERS.values())
    return Strip(lesson, now[lesson], list(every.values()).count(DONE), len(every), n_formats)
