"""The pictures of the last verdict.

draw_target     tokens a second of a 14B, from one stream to the best use of a pass, beside the target
draw_sections   how many sentences of each section of the report got which verdict
what_it_takes   which bits, which bandwidth and which streams reach a target; what_it_takes_panel chooses
"""

from collections.abc import Mapping

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from blocks2tokens.course import plot
from blocks2tokens.course.claims import AT_1, AT_128, FAILS, HOLDS, OPINION, UNTESTED, VERDICTS
from blocks2tokens.course.ledger import Ledger
from blocks2tokens.course.lessons.the_last_verdict.targets import bits_allowed
from blocks2tokens.course.report_claims import SECTIONS

TARGET = (20.0, 30.0)  # tokens a second, the report's
LOOKS = {
    HOLDS: (plot.GREEN, ""),
    AT_128: (plot.YELLOW, "//"),
    AT_1: (plot.ORANGE, "\\\\"),
    FAILS: (plot.RED, "xx"),
    UNTESTED: ("0.75", ".."),
    OPINION: ("0.92", ""),
}


def draw_target(rates: Mapping[str, float], title: str) -> Axes:
    """Draw {way: tokens a second} as bars, and the report's target as a band."""
    axes = plot.bars(dict(rates), "tokens/s", title)
    axes.axvspan(*TARGET, color=plot.GREEN, alpha=0.18, zorder=0)
    axes.annotate("the report's target", (TARGET[0], -0.7), (4, 0), textcoords="offset points", va="center")
    axes.set(xlim=(0, 1.25 * max(TARGET[1], *rates.values())), ylim=(len(rates) - 0.5, -1.1))
    return axes


def draw_sections(ledger: Ledger, title: str) -> Axes:
    """Draw the verdicts of each section as one bar, in numbers of sentences."""
    counts = {section: dict.fromkeys(VERDICTS, 0) for section in SECTIONS}
    for number, said in ledger.verdicts().items():
        counts[number.partition(".")[0]][said.partition(":")[0]] += 1
    axes = plt.subplots(figsize=(9, 4.2))[1]
    left = np.zeros(len(counts))
    names = [f"{section} {SECTIONS[section]}" for section in counts]
    for verdict in VERDICTS:
        widths = np.array([found[verdict] for found in counts.values()])
        if widths.any():
            colour, hatch = LOOKS[verdict]
            axes.barh(names, widths, left=left, color=colour, hatch=hatch, edgecolor="0.3", label=verdict)
            left += widths
    axes.invert_yaxis()
    axes.set(xlabel="sentences", title=title)
    axes.grid(visible=False, axis="y")
    axes.legend(loc="lower right", fontsize=9)
    return axes


def what_it_takes(weights: float, target: float, tokens: float, cost: float) -> Axes:
    """Draw the bits that a weight may have, over the bandwidth, for so many tokens of a pass."""
    bandwidth = np.linspace(10, 400, 60)
    axes = plt.subplots()[1]
    chosen = f"{tokens:g} tokens a pass that takes {cost:g} times as long"
    for n, c, style, label in ((1.0, 1.0, "--", "one token a pass"), (tokens, cost, "-", chosen)):
        bits = [bits_allowed(target, 1e9 * weights, 1e9 * b, n, c) for b in bandwidth]
        axes.plot(bandwidth, bits, style, color=plot.BLUE, label=label)
    for bits, name in ((4.85, "Q4_K_M"), (8.5, "Q8_0"), (16, "F16")):
        axes.axhline(bits, color="0.6", lw=1)
        axes.annotate(name, (bandwidth[-1], bits), (0, 3), textcoords="offset points", ha="right", size=9)
    title = f"{weights:g} billion weights, {target:g} tokens a second: bits that each may have"
    axes.set(xlabel="GB/s that the engine reads", ylabel="bits", title=title, ylim=(0, 18))
    axes.legend(loc="upper left")
    return axes


def what_it_takes_panel() -> widgets.Widget:
    """Return sliders over `what_it_takes`."""

    def show(weights, target, tokens, cost):
        what_it_takes(weights, target, tokens, cost)
        plt.show()

    wide = {"continuous_update": False, "style": {"description_width": "initial"}}
    return widgets.interactive(
        show,
        weights=widgets.FloatSlider(14, min=1, max=100, step=1, description="billion weights", **wide),
        target=widgets.FloatSlider(20, min=1, max=100, step=1, description="tokens a second", **wide),
        tokens=widgets.FloatSlider(2.5, min=1, max=8, step=0.25, description="tokens a pass", **wide),
        cost=widgets.FloatSlider(1.1, min=1, max=4, step=0.1, description="cost of a pass", **wide),
    )
