"""Where the time goes: stages that nest, their times, and a picture of them.

    record = Recorder()
    with record("token"):                 token             seconds, calls, tensors, bytes
        with record("matmul"):              matmul          the same, without what lies outside
            with record("transpose"):         transpose

A stage that is entered again under the same parent adds to itself. `seconds` of a stage hold those of the
stages in it; its self time is what is left without them, and self times add up to the whole.

    self_times(record["token"])           {name: seconds}
    draw(record["token"])                 an icicle: the whole on top, below each stage what it is made of
    table(record["token"])                the same as text
    added(tokens)                         one stage from several runs of it
    without(record["token"], {"rope"})    what would be left if a stage took no time
    share(record["token"], "rope")        how much that is, of 1
"""

import html
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from blocks2tokens.course import bench

Columns = tuple[str, str, str, str, str, str, str]


@dataclass
class Stage:
    """A stage: its time in seconds, how often it ran, the tensors made in it, and the stages in it."""

    name: str
    seconds: float = 0.0
    calls: int = 0
    tensors: int = 0
    nbytes: int = 0
    stages: dict[str, "Stage"] = field(default_factory=dict)

    @property
    def self_seconds(self) -> float:
        """Seconds without those of the stages in it."""
        return self.seconds - sum(stage.seconds for stage in self.stages.values())

    def inside(self, name: str) -> "Stage":
        """Return the stage of that name in this one, a new one if there is none."""
        if name not in self.stages:
            self.stages[name] = Stage(name)
        return self.stages[name]


class Recorder:
    """Times stages: `with record("rope"): ...`. Costs two looks at the clock for each."""

    def __init__(self):
        self._name = ""
        self.clear()

    def clear(self) -> None:
        """Forget all times, outside of every stage."""
        self._open = [(Stage("all"), 0.0)]

    def __call__(self, name: str) -> "Recorder":
        self._name = name
        return self

    def __enter__(self):
        self._open.append((self._open[-1][0].inside(self._name), time.perf_counter()))

    def __exit__(self, *exception):
        now = time.perf_counter()
        stage, start = self._open.pop()
        stage.seconds += now - start
        stage.calls += 1

    def __getitem__(self, name: str) -> Stage:
        """Return a stage of the outermost ones; KeyError if there was none of that name."""
        return self._open[0][0].stages[name]

    def allocated(self, nbytes: int) -> None:
        """Count a new tensor for the stage that is open."""
        stage = self._open[-1][0]
        stage.tensors += 1
        stage.nbytes += nbytes


class Off:
    """In a Recorder's place where nobody asks for the times."""

    def __call__(self, name):
        return self

    def __enter__(self):
        pass

    def __exit__(self, *exception):
        pass

    def allocated(self, nbytes):
        pass


OFF = Off()


def self_times(stage: Stage) -> dict[str, float]:
    """Return {name: self seconds}, stages of one name added up; together they are stage.seconds."""
    times = {stage.name: stage.self_seconds}
    for part in stage.stages.values():
        for name, seconds in self_times(part).items():
            times[name] = times.get(name, 0.0) + seconds
    return times


def without(stage: Stage, names: Collection[str]) -> Stage:
    """Return a copy in which stages of these names take no time, nor do those in them."""
    parts = {name: without(part, names) for name, part in stage.stages.items() if name not in names}
    seconds = stage.self_seconds + sum(part.seconds for part in parts.values())
    return Stage(stage.name, seconds, stage.calls, stage.tensors, stage.nbytes, parts)


def added(stages: Iterable[Stage]) -> Stage:
    """Return one stage with the times and counts of all, which bear one name, added up part by part."""
    stages = list(stages)
    counts = (sum(getattr(s, what) for s in stages) for what in ("seconds", "calls", "tensors", "nbytes"))
    whole = Stage(stages[0].name, *counts)
    parts = dict.fromkeys(name for stage in stages for name in stage.stages)
    whole.stages = {name: added(s.stages[name] for s in stages if name in s.stages) for name in parts}
    return whole


def share(stage: Stage, *names: str) -> float:
    """Return the share of its time, 0 to 1, that is spent in stages of these names, and in those in them."""
    return 1 - without(stage, names).seconds / stage.seconds


def amdahl(share: float, factor: float = float("inf")) -> float:
    """Return how many times faster the whole gets if a share of its time, 0 to 1, gets faster by a factor.

    Source: Amdahl, "Validity of the single processor approach", 1967.
    """
    left = 1 - share + share / factor
    return 1 / left if left else float("inf")


# --- As a table -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """Rows of text, header first; shows itself as a table."""

    rows: list[Columns]

    def __repr__(self):
        widths = [max(len(row[i]) for row in self.rows) for i in range(len(self.rows[0]))]
        lines = []
        for name, *cells in self.rows:
            right = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
            lines.append(f"{name.ljust(widths[0])}  {right}")
        return "\n".join(lines)

    def _repr_html_(self):
        header, *rows = [[html.escape(cell) for cell in row] for row in self.rows]
        head = "".join(f"<th>{cell}</th>" for cell in header)
        body = "".join(
            f'<tr><td style="text-align:left;white-space:pre">{name}</td>'
            + "".join(f"<td>{cell}</td>" for cell in cells)
            + "</tr>"
            for name, *cells in rows
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def table(stage: Stage, labels: Mapping[str, str] | None = None) -> Table:
    """Return a row for each stage: time, its share of the whole, self time, calls, tensors, bytes."""
    header = ("stage", "time", "share", "self", "calls", "tensors", "bytes")
    return Table([header, *_rows(stage, stage.seconds, labels or {}, 0)])


def _rows(stage: Stage, whole: float, labels: Mapping[str, str], depth: int) -> Iterator[Columns]:
    yield (
        "    " * depth + labels.get(stage.name, stage.name),
        bench.seconds(stage.seconds),
        f"{stage.seconds / whole:.1%}",
        bench.seconds(max(0.0, stage.self_seconds)),
        f"{stage.calls:,}",
        f"{stage.tensors:,}" if stage.tensors else "",
        bench.size(stage.nbytes) if stage.nbytes else "",
    )
    for part in stage.stages.values():
        yield from _rows(part, whole, labels, depth + 1)


# --- As a picture -----------------------------------------------------------------------------------------

FRAME = ("0.88", "black")  # of a stage that is nothing but its parts: fill, text


def draw(
    stage: Stage,
    title: str,
    labels: Mapping[str, str] | None = None,
    colours: Mapping[str, tuple[str, str]] | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Draw an icicle: the whole on top, below each stage its parts, as wide as their share.

    `colours` give (fill, text) by name. A stage too narrow for its name gets a letter, which the line below
    the picture explains; one too narrow for a letter gets none.
    """
    labels, colours = labels or {}, colours or {}
    depth = _depth(stage)
    axes = axes or plt.subplots(figsize=(10, 0.9 + 0.62 * depth))[1]
    axes.set(xlim=(0, 1), ylim=(depth + 0.05, -0.05), yticks=[], xlabel="share of the time")
    axes.set_title(title)
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_formatter("{x:.0%}")
    narrow: list[str] = []
    for part, left, row in _places(stage, 0.0, 0):
        _box(axes, part, left, row, stage.seconds, labels, colours, narrow)
    if narrow:
        axes.set_xlabel("share of the time\n" + _wrapped(narrow))
    return axes


def _depth(stage):
    return 1 + max((_depth(part) for part in stage.stages.values()), default=0)


def _places(stage: Stage, left: float, row: int) -> Iterator[tuple[Stage, float, int]]:
    """Yield each stage with the seconds on its left and its row."""
    yield stage, left, row
    for part in stage.stages.values():
        yield from _places(part, left, row + 1)
        left += part.seconds


def _box(axes, stage, left, row, whole, labels, colours, narrow):
    """Draw one stage; one too narrow for its name is put on the list instead, under a letter."""
    width, label = stage.seconds / whole, labels.get(stage.name, stage.name)
    fill, ink = colours.get(stage.name, FRAME)
    axes.barh(row, width, left=left / whole, height=0.94, align="edge", color=fill, edgecolor="white", lw=1)
    text = f"{label} {width:.0%}"
    if _fits(axes, text, width):
        pass
    elif _fits(axes, label, width):
        text = label
    elif _fits(axes, "a", width):
        text = chr(ord("a") + len(narrow) % 26)
        narrow.append(f"{text} {label} {width:.1%}")
    else:
        return
    axes.text(
        (left + stage.seconds / 2) / whole, row + 0.47, text, color=ink, ha="center", va="center", size=10
    )


def _fits(axes, text, width):
    """Is a box, its width in shares of the axes, wide enough for a text? By a letter's usual width."""
    inches = axes.figure.get_figwidth() * 0.96 * width
    return len(text) * 0.088 <= inches


def _wrapped(items, width=120):
    lines = [""]
    for item in items:
        if len(lines[-1]) + len(item) > width:
            lines.append("")
        lines[-1] += ("   " if lines[-1] else "") + item
    return "\n".join(lines)
