"""The pictures of the lesson on parallel layers.

draw_schedule   a row for each core, a bar for each stream that it works on; what is empty are bubbles
draw_trace      the same of what threads really did
draw_ways       tokens a second of each way to use the cores, for one stream and for many
draw_cores      tokens a second by cores: measured, Amdahl's bound, memory's roof
bubbles         the schedule for stages and streams, with its busy share; bubbles_panel chooses
"""

from collections.abc import Iterable, Mapping, Sequence

import ipywidgets as widgets
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from blocks2tokens.course import plot
from blocks2tokens.course.lessons.parallel_layers.schedule import busy_share, stage_ends

HATCHES = ("", "///", "...", "\\\\", "xx", "++", "oo", "--")  # streams stay apart in grey
NUMBERED = 8  # streams that have a number in their bars


def _gantt(
    bars: Iterable[tuple[int, int, float, float]], title: str, axes: Axes | None, unit: str, worker: str
) -> Axes:
    """Draw bars (worker, stream, start, end); a worker is a core or a thread."""
    bars = list(bars)
    workers, streams = 1 + max(bar[0] for bar in bars), 1 + max(bar[1] for bar in bars)
    axes = axes or plt.subplots(figsize=(9, 1.1 + 0.5 * workers))[1]
    for row, stream, start, end in bars:
        look = {"color": plot.COLOURS[stream % 7], "hatch": HATCHES[stream % 8], "edgecolor": "0.2"}
        axes.barh(row, end - start, left=start, height=0.8, **look)
        if streams <= NUMBERED:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            axes.annotate(str(stream), ((start + end) / 2, row), ha="center", va="center", size=9, bbox=box)
    axes.set_yticks(range(workers), [f"{worker} {row}" for row in range(workers)])
    axes.set(ylim=(workers - 0.4, -0.6), xlim=(0, None), xlabel=unit, title=title)
    axes.grid(visible=False, axis="y")
    return axes


def draw_schedule(seconds: Sequence[float], streams: int, title: str, axes: Axes | None = None) -> Axes:
    """Draw who works when, if each stage is a core."""
    done = stage_ends(seconds, streams)
    bars = (
        (stage, stream, done[stage, stream] - seconds[stage], done[stage, stream])
        for stage in range(len(seconds))
        for stream in range(streams)
    )
    return _gantt(bars, title, axes, "time", "core")


def draw_trace(trace: Iterable[tuple[int, int, float, float]], title: str) -> Axes:
    """Draw what threads did: (stage, stream, start, end), in seconds."""
    bars = [(stage, stream, 1e3 * start, 1e3 * end) for stage, stream, start, end in trace]
    return _gantt(bars, title, None, "ms", "thread")


def draw_ways(rates: Mapping[str, Mapping[str, float]], title: str) -> Axes:
    """Draw tokens a second, in those of the first way with one stream: {way: {"one stream": rate, ...}}."""
    axes = plt.subplots(figsize=(9, 3.6))[1]
    kinds, base = list(next(iter(rates.values()))), next(iter(next(iter(rates.values())).values()))
    height = 0.8 / len(kinds)
    for i, kind in enumerate(kinds):
        places = [row + (i - (len(kinds) - 1) / 2) * height for row in range(len(rates))]
        lengths = [found[kind] / base for found in rates.values()]
        look = {"color": (plot.SKY, plot.ORANGE)[i], "hatch": ("", "//")[i], "edgecolor": "0.3"}
        axes.barh(places, lengths, height=height, label=kind, **look)
        for place, length in zip(places, lengths, strict=True):
            axes.annotate(f" {length:.2f}×", (length, place), va="center", size=10)
    axes.set_yticks(range(len(rates)), list(rates))
    axes.invert_yaxis()
    axes.set(xlabel="tokens a second, in those of one core with one stream", title=title)
    axes.margins(x=0.12)
    axes.grid(visible=False, axis="y")
    axes.legend(loc="upper right")
    return axes


def draw_cores(
    measured: Mapping[int, float], amdahl: Mapping[int, float], memory: Mapping[int, float], title: str
) -> Axes:
    """Draw tokens a second by the number of cores, beside its two bounds."""
    axes = plt.subplots()[1]
    look = {"color": plot.BLUE, "zorder": 4, "label": "measured"}
    axes.plot(list(measured), list(measured.values()), "o-", **look)
    axes.plot(list(amdahl), list(amdahl.values()), "s--", color=plot.ORANGE, label="work, shared, and waits")
    axes.plot(list(memory), list(memory.values()), "k^:", lw=2, label="what memory gives")
    most = max(measured)
    ticks = [*(2**i for i in range(most.bit_length()) if 2**i < 0.75 * most), most]
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="cores", ylabel="tokens a second", title=title, ylim=(0, None))
    axes.legend()
    return axes


def bubbles(stages: int, streams: int, slowest: float = 1.0) -> Axes:
    """Draw a pipeline whose last stage takes `slowest`, the others 1."""
    seconds = [1.0] * (stages - 1) + [slowest]
    share = busy_share(seconds, streams)
    size = f"{_number_of(stages, 'core')}, {_number_of(streams, 'stream')}"
    title = f"{size}: {share:.0%} work, {1 - share:.0%} bubbles"
    return draw_schedule(seconds, streams, title)


def _number_of(n, what):
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def bubbles_panel() -> widgets.Widget:
    """Return sliders over `bubbles`."""

    def show(stages, streams, slowest):
        bubbles(stages, streams, slowest)
        plt.show()

    return widgets.interactive(
        show,
        stages=widgets.IntSlider(4, min=1, max=8, continuous_update=False),
        streams=widgets.IntSlider(4, min=1, max=16, continuous_update=False),
        slowest=widgets.FloatSlider(1.0, min=0.25, max=4, step=0.25, continuous_update=False),
    )
