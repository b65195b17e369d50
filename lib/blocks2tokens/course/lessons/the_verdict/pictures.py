"""Lesson 13's tables and pictures: the report's table beside others, Phase 0 in pieces, verdicts counted."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from blocks2tokens.course import bench, ledger, plot, predict
from blocks2tokens.course.report_table import Row

BASELINE = "phase0_baseline"


def side_by_side(corner: str, columns: Mapping[str, Mapping[str, Row]]) -> HTML:
    """Return a table of kernels, a column for each {kernel: Row}; a kernel that was not run is left out."""
    names = dict.fromkeys(name for found in columns.values() for name in found)
    rows = [[name, *(_cell(found, name) for found in columns.values())] for name in names]
    return HTML(ledger.html_table([corner, *columns], rows))


def _cell(found, name):
    """Return time, ratio to the baseline, memory and allocations of a kernel, as HTML."""
    if name not in found:
        return "left out"
    row, times = found[name], found[name].seconds / found[BASELINE].seconds
    what = f"{bench.seconds(row.seconds)}, <b>{predict.written(times)}×</b>"
    return f"{what}<br>{bench.size(row.nbytes)}, {row.allocations} allocs"


def order(found: Mapping[str, Row]) -> str:
    """Return the phases from the fastest on, as "0 < 2 < 3a"."""
    names = sorted(found, key=lambda name: found[name].seconds)
    return " < ".join(name.split("_")[0].removeprefix("phase") for name in names)


def draw_pieces(pieces: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw Phase 0's pieces, and hatched two better ways, an axes for each {title: {piece: seconds}}."""
    figure, row = plt.subplots(1, len(pieces), figsize=(10, 3.4))
    for axes, (what, piece) in zip(row, pieces.items(), strict=True):
        own = ("decode", "transpose", "dot products")
        leads = max(own, key=piece.get)
        title = f"{what}: the {leads} lead{'' if leads.endswith('s') else 's'}"
        unit, scale = ("ms", 1e3) if piece[leads] > 2e-3 else ("µs", 1e6)
        colours = [plot.BLUE if name in own else plot.GREY for name in piece]
        plot.bars({n: s * scale for n, s in piece.items()}, unit, title, colours, axes=axes)
        axes.margins(x=0.35)  # room for the figures beside the bars
        axes.locator_params(axis="x", nbins=5)
        for bar, name in zip(axes.patches, piece, strict=True):
            bar.set_hatch("" if name in own else "///")
    row[-1].set_yticklabels([])
    return figure


def draw_counts(counts: Mapping[str, int]) -> Axes:
    """Draw how many sentences got each verdict."""
    signs = {word: f"{ledger.SIGNS[word][0]} {word}" for word in counts}
    colours = [ledger.SIGNS[word][1] for word in counts]
    most = max(counts, key=counts.get)
    title = f'{sum(counts.values())} sentences, {counts[most]} of them "{most}"'
    axes = plot.bars({signs[word]: n for word, n in counts.items()}, "", title, colours)
    axes.set_xlabel("sentences")
    return axes
