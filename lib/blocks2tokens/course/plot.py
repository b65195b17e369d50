"""One style for every figure: Okabe and Ito's colours, which stay apart for colour-blind readers.

plot.use_style()          once, in a lesson's first cell
plot.BLUE, plot.ORANGE    what is ours, what it is compared with
plot.bars(...)            horizontal bars with their figures written beside them
plot.dots(...)            points on a logarithmic axis, with their figures and ratios: for what lies far apart

A figure's titles say its point; in a notebook they are its alternative text, for who cannot see it.
"""

from collections.abc import Callable

import matplotlib.pyplot as plt
from IPython import get_ipython
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#F0E442",
    "#7F7F7F",
)
COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GREY)

STYLE = {
    "figure.figsize": (8, 3.6),
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "axes.prop_cycle": plt.cycler(color=COLOURS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": "large",
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "font.size": 11,
    "legend.frameon": False,
}


def use_style() -> None:
    """Make every figure of this session look alike, and its titles the alternative text of its picture."""
    plt.rcParams.update(STYLE)
    shell = get_ipython()
    if shell is None:
        return
    if "inline" in plt.get_backend():
        import matplotlib_inline.backend_inline  # noqa: F401  what shows figures is set up when it is imported
    pictures = shell.display_formatter.formatters["image/png"]
    draw = pictures.lookup_by_type(Figure) if Figure in pictures else None
    if draw is not None and not isinstance(draw, _WithAltText):
        pictures.for_type(Figure, _WithAltText(draw))


def alt_text(figure: Figure) -> str:
    """Return what a figure says without being seen: its title, and those of its axes."""
    titles = [figure.get_suptitle()]
    titles += [axes.get_title(where) for axes in figure.axes for where in ("left", "center", "right")]
    return ". ".join(" ".join(title.split()) for title in titles if title.strip())


class _WithAltText:
    """Draw a figure as IPython does, with its alternative text as metadata of the picture."""

    def __init__(self, draw: Callable):
        self.draw = draw

    def __call__(self, figure):
        picture = self.draw(figure)
        data, metadata = picture if isinstance(picture, tuple) else (picture, {})
        return data, {**metadata, "alt": alt_text(figure)}


def bars(
    values: dict[str, float],
    unit: str,
    title: str,
    colours=None,
    log: bool = False,
    label: str | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Draw {name: value} as horizontal bars, first on top, each with its value and unit beside it."""
    axes = axes or plt.subplots(figsize=(8, 0.9 + 0.5 * len(values)))[1]
    names = list(values)
    drawn = axes.barh(names, [values[name] for name in names], color=colours or BLUE, height=0.62)
    axes.bar_label(drawn, [f"{_number(values[name], label)} {unit}" for name in names], padding=4)
    axes.invert_yaxis()
    axes.set(xlabel=unit, title=title, xscale="log" if log else "linear")
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.16)
    return axes


def dots(values: dict[str, float], unit: str, title: str, against: str, colours=None) -> Axes:
    """Draw {name: value} as points on a logarithmic axis, first on top, with their ratio to `against`.

    Where values lie far apart: a bar's length would say nothing on such an axis, and too little on a linear
    one.
    """
    axes = plt.subplots(figsize=(8, 0.9 + 0.42 * len(values)))[1]
    places, texts = range(len(values)), []
    axes.scatter(values.values(), places, s=70, c=colours or BLUE, edgecolor="0.2", zorder=3)
    for place, (name, value) in enumerate(values.items()):
        ratio = "" if name == against else f"  ({_ratio(value / values[against])})"
        texts.append(f"{_number(value, None)} {unit}{ratio}")
        axes.annotate(texts[-1], (value, place), (9, 0), textcoords="offset points", va="center")
    axes.set_yticks(places, list(values))
    axes.set(xscale="log", xlabel=unit, title=title, ylim=(len(values) - 0.5, -0.5))
    low, high = min(values.values()), max(values.values())
    wide = min(0.7, 0.05 + 0.014 * max(map(len, texts)))  # of the axis, for the longest text
    axes.set_xlim(low / 1.5, high * max(high / low, 10) ** (wide / (1 - wide)))
    return axes


def _ratio(value: float) -> str:
    """Write how many times, or the part it is."""
    return f"{_number(value, None)}×" if value >= 0.995 else f"1/{_number(1 / value, None)}"


def _number(value: float, label: str | None) -> str:
    """Write a number as `label` says, else with three digits, and one of more than three in full."""
    if label is not None:
        return label.format(value)
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
