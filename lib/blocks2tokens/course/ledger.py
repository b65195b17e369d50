"""The ledger: every sentence of the report that claims something, and what the lessons found about it.

    ledger.show("16", {"best fused kernel over Phase 0, 1 row": 0.1, ...})
        keeps what lesson 16 measured, and shows the rows that it decides:

    the report       128 rows   1 row   the same Go program   here           verdict
    S1.2 "Revert"       –         ✗          ✓ 26.2×          0.1×: best …   holds at 128 rows: of its own …

    ledger.show("13", {}, "S3", "S4")    two sections; lessons 13 and 32 show all rows

A figure is known by its name: `report_claims` says which lesson measures it, and `claims` how it decides.
Where the learner's folder is (course.work), figures are kept there for later lessons,

    work/.ledger.json    [{"lesson": "16", "figure": "best fused ...", "value": 0.1,
                           "cpu": "...", "date": "2026-01-31"}, ...]

and only there; elsewhere they last as long as the session.
"""

import contextlib
import html
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from math import isfinite
from pathlib import Path

from blocks2tokens import files
from blocks2tokens.course import hardware, plot, predict, work
from blocks2tokens.course.claims import (
    AT_1,
    AT_128,
    FAILS,
    HOLDS,
    OPINION,
    UNTESTED,
    VERDICTS,
    Claim,
    Test,
    outcome,
    verdict,
)
from blocks2tokens.course.report_claims import CLAIMS, KNOWN, MEASURED, SECTIONS

KEPT = ".ledger.json"
ALL_ROWS = ("13", "32")  # the lesson that opens the ledger, and the one that closes it
SIGNS = {
    HOLDS: ("✓", plot.GREEN),
    AT_128: ("◐", "#B87800"),
    AT_1: ("◑", "#B87800"),
    FAILS: ("✗", plot.RED),
    UNTESTED: ("?", plot.GREY),
    OPINION: ("~", plot.GREY),
}
MARKS = {True: "✓", False: "✗", None: "?"}
HEADER = ("the report", "128 rows", "1 row", "the same Go program", "here", "verdict")
WIDTHS = (24, 6, 6, 14, 25, 25)
UNITS = {name: unit for figures in MEASURED.values() for name, unit in figures.items()}
UNITS |= {name: known.unit for name, known in KNOWN.items()}


# Formulas that several rows use


def decoding_ratio(M, K, N):
    """Return how many times as many weights Phase 1 decodes as Phase 0."""
    once_for_each_product = M * K * N
    once_for_each_weight = K * N
    return once_for_each_product / once_for_each_weight


def flop_per_byte(M, bits_per_weight):
    """Return operations for each byte of encoded weights; a multiply-add is two operations."""
    return 2 * M / (bits_per_weight / 8)


def tokens_per_second(weights, bits_per_weight, gigabytes_per_second):
    """Return how many tokens a second reading allows, if each token reads every weight once."""
    return gigabytes_per_second * 1e9 / (weights * bits_per_weight / 8)


# What was measured


@dataclass(frozen=True)
class Evidence:
    """A figure that a lesson measured: its value, on which CPU, and the day, as 2026-01-31."""

    lesson: str
    figure: str
    value: float
    cpu: str
    date: str


_SESSION: dict[str, Evidence] = {}


def enter(lesson: str, measured: Mapping[str, float]) -> None:
    """Note what a lesson measured, {figure: value}; a second time replaces the first.

    ValueError for a lesson or a figure that no row knows, and for a value that is no finite number.
    """
    if lesson not in MEASURED:
        raise ValueError(f"lesson: expected one of {', '.join(MEASURED)}, got {lesson!r}")
    for figure, value in measured.items():
        if figure not in MEASURED[lesson]:
            known = "; ".join(MEASURED[lesson])
            raise ValueError(f"figure of lesson {lesson}: expected one of {known}, got {figure!r}")
        if not isfinite(value):
            raise ValueError(f"{figure}: expected a finite number, got {value}")
    cpu, today = hardware.machine().processor, date.today().isoformat()
    _SESSION.update(
        {name: Evidence(lesson, name, float(value), cpu, today) for name, value in measured.items()}
    )
    folder = work.folder()
    if folder is not None:
        _keep(folder / KEPT, evidence())


def evidence() -> dict[str, Evidence]:
    """Return {figure: its evidence}: what is kept in the learner's folder, and this session's."""
    folder = work.folder()
    return (_kept(folder / KEPT) if folder is not None else {}) | _SESSION


def _keep(path: Path, found: Mapping[str, Evidence]):
    """Write the evidence; a full disk or a folder without rights is no reason to end a lesson."""
    with contextlib.suppress(OSError):
        text = json.dumps([asdict(one) for one in found.values()], ensure_ascii=False, indent=1)
        files.write_text(path, text + "\n")


def _kept(path: Path) -> dict[str, Evidence]:
    """Return what is kept; what is damaged, or no row knows any more, is left out."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    found = {}
    for row in rows if isinstance(rows, list) else []:
        with contextlib.suppress(TypeError, ValueError):
            one = Evidence(**row)
            if one.figure in MEASURED.get(one.lesson, ()) and isfinite(one.value):
                found[one.figure] = one
    return found


# Rows


def rows_of(lesson: str, *sections: str) -> list[str]:
    """Return the numbers of a lesson's rows, those that it decides or brings a figure to; of all sections,
    or of these.

    Lesson 13 opens the ledger and 32 closes it: all rows are theirs. ValueError for an unknown lesson
    or section.
    """
    if lesson not in MEASURED:
        raise ValueError(f"lesson: expected one of {', '.join(MEASURED)}, got {lesson!r}")
    for section in sections:
        if section not in SECTIONS:
            raise ValueError(f"section: expected one of {', '.join(SECTIONS)}, got {section!r}")
    numbers = [number for number, claim in CLAIMS.items() if _is_of(lesson, claim)]
    return [n for n in numbers if not sections or n.split(".")[0] in sections]


def _is_of(lesson, claim):
    if lesson in (*ALL_ROWS, claim.closes):
        return True
    tested = {test.figure for test in (*claim.at_128, *claim.at_1, *claim.go)} - set(KNOWN)
    figures = set(MEASURED[lesson])
    return bool((tested and tested <= figures) or figures & set(claim.shows))


def show(lesson: str, measured: Mapping[str, float] | None = None, *sections: str) -> "Ledger":
    """Enter what a lesson measured, and return its rows, which show themselves as a table.

    Of all sections, or of these: "S3", "S4". ValueError as `enter` and `rows_of` raise it.
    """
    numbers = rows_of(lesson, *sections)
    enter(lesson, measured or {})
    return Ledger(numbers, evidence())


class Ledger:
    """Rows with their marks, figures and verdicts; shows itself as a table, section by section."""

    def __init__(self, numbers: Iterable[str], found: Mapping[str, Evidence]):
        self.numbers = list(numbers)
        self.measured = {name: one.value for name, one in found.items()}
        self.figures = {name: known.value for name, known in KNOWN.items()} | self.measured

    def verdicts(self) -> dict[str, str]:
        """Return {row: verdict}; "untested: lesson 22" says where it will be tested."""
        return {number: self._said(_decider(number), CLAIMS[number]) for number in self.numbers}

    def counts(self) -> dict[str, int]:
        """Return how many rows got each verdict, those of all lessons to come together."""
        found = [said.partition(":")[0] for said in self.verdicts().values()]
        return {word: found.count(word) for word in VERDICTS}

    def _said(self, decider: Claim, claim: Claim):
        word = verdict(decider, self.figures)
        return f"{UNTESTED}: lesson {decider.closes}" if word == UNTESTED else word

    def __repr__(self):
        lines = []
        for number, said in self.verdicts().items():
            marks = " ".join(mark for mark, _ in self._columns(_decider(number)))
            lines.append(f"{number:6} {said:20} {marks}  {CLAIMS[number].quote}")
        return "\n".join(lines)

    def _repr_html_(self):
        rows, section = [], None
        for number, said in self.verdicts().items():
            if number.split(".")[0] != section:
                section = number.split(".")[0]
                rows.append(f"{section} {SECTIONS[section]}")
            rows.append(self._row(number, said))
        return html_table(HEADER, rows, WIDTHS)

    def _row(self, number, said):
        claim, decider = CLAIMS[number], _decider(number)
        (at_128, _), (at_1, _), (go, go_value) = self._columns(decider)
        sign, colour = SIGNS[said.partition(":")[0]]
        word = f'<b style="color:{colour}">{sign} {said}</b><br>{html.escape(claim.reason)}'
        quote = f"<b>{number}</b> “{html.escape(claim.quote)}”"
        return [quote, at_128, at_1, html.escape(f"{go} {go_value}".strip()), self._here(decider), word]

    def _columns(self, claim):
        """Return (mark, figures) for 128 rows, for one row, and for the Go program."""
        at_128 = claim.at_128 or (() if claim.inference else claim.go)
        return [self._column(tests) for tests in (at_128, claim.at_1, claim.go)]

    def _column(self, tests):
        if not tests:
            return "–", ""
        values = [written(t.figure, self.figures[t.figure]) for t in tests if t.figure in self.figures]
        return MARKS[outcome(tests, self.figures)], ", ".join(values)

    def _here(self, claim):
        """Say what was measured here, counted, or read off the report; and what it would have to be."""
        limits = {test.figure: test for test in (*claim.at_128, *claim.at_1)}
        lines = []
        for name in claim.figures:
            if name in self.figures and not name.startswith("Go"):
                line = f"<b>{written(name, self.figures[name])}</b> {html.escape(name)}"
                lines.append(line + (f" ({_wanted(limits[name])})" if name in limits else ""))
        return "<br>".join(lines)


def _decider(number):
    """Return the claim that decides about a row: itself, or the one that says the same."""
    return CLAIMS[CLAIMS[number].same_as or number]


def _wanted(test: Test):
    return f"{test.rule} {written(test.figure, test.limit)}?"


def written(figure: str, value: float) -> str:
    """Write a figure's value with its unit; a share in per cent."""
    if UNITS[figure] == "%":
        return f"{100 * value:.2f}".rstrip("0").rstrip(".") + " %"
    return predict.written(value) + UNITS[figure]


def html_table(header: Iterable[str], rows: Iterable, widths: Iterable[int] | None = None) -> str:
    """Return a table as HTML: cells are HTML, a row that is a string is a heading over all columns."""
    header = list(header)
    style = "text-align:left;vertical-align:top;padding:0.3em 0.6em"
    widths = [f"width:{w}%;" for w in widths] if widths else [""] * len(header)
    head = "".join(
        f'<th style="{width}{style}">{cell}</th>' for width, cell in zip(widths, header, strict=True)
    )
    body = []
    for row in rows:
        if isinstance(row, str):
            faint = f"{style};background:rgba(128,128,128,0.18)"
            body.append(f'<tr><th colspan="{len(header)}" style="{faint}">{html.escape(row)}</th></tr>')
        else:
            body.append("<tr>" + "".join(f'<td style="{style}">{cell}</td>' for cell in row) + "</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
