"""The pictures of the lesson on speculation.

draw_judged     one pass by hand: what was guessed, what the model chose, where they part
draw_passes     a text as boxes of tokens: those that were guessed, and the model's own
draw_texts      how fast each text came, in times of no guesses
draw_draws      how often each token was drawn by a rule, beside how often it should be
draw_draft      tokens a pass and speed over k: predicted from c(k) and the rate, and measured
draw_gain       expected speed over k at a rate, for this machine's c(k)
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from blocks2tokens.course import plot
from blocks2tokens.course.lessons.speculation.passes import Pass
from blocks2tokens.speculate import expected_tokens

DARK, LIGHT, MARKED = "#08306b", "white", "#d0d0d0"
COLUMNS, LETTER, LINE = 92, 0.104, 0.3  # of a text: letters in a line; inches of a letter, of a line
GUESSED = "guessed, and right"
CORRECTED = "the model's own, where a guess was wrong"
OWN = "the model's own"


def visible(piece: str) -> str:
    """Return a token's text with its line ends as signs."""
    return piece.replace("\n", "⏎").replace("\t", "→")


def draw_judged(said: Sequence[str], guessed: Sequence[str], chosen: Sequence[str]) -> Axes:
    """Draw the rows of one pass: the token read, the guess for what follows, what the model chooses."""
    right = next((i for i, pair in enumerate(zip(guessed, chosen, strict=False)) if pair[0] != pair[1]), None)
    right = len(guessed) if right is None else right
    read, offered = [said[-1], *guessed], [*guessed, "–"]
    axes = plt.subplots(figsize=(1.3 + 1.3 * len(read), 2.3))[1]
    for x, column in enumerate(zip(read, offered, chosen, strict=True)):
        shades = (LIGHT, LIGHT, DARK if x < right else MARKED if x == right else LIGHT)
        for y, (text, shade) in enumerate(zip(column, shades, strict=True)):
            gone = x > right
            axes.add_patch(plt.Rectangle((x, -y - 0.4), 0.94, 0.8, fc=shade, ec="0.7" if gone else "k"))
            colour = "white" if shade == DARK else "0.6" if gone else "k"
            axes.text(x + 0.47, -y, visible(text), ha="center", va="center", color=colour, size=10)
    axes.set_yticks([0, -1, -2], ["row reads", "guess behind it", "model chooses"])
    axes.set(xlim=(-0.05, len(read)), ylim=(-2.5, 0.5), xticks=[])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_title(f"One pass, {len(read)} rows: {right} guesses right, {right + 1} tokens of the text")
    return axes


def kinds(passes: Sequence[Pass], n: int) -> list[str]:
    """Return for each of n tokens whether it was GUESSED, CORRECTED a guess, or was the model's OWN."""
    found = [OWN] * n
    for p in passes:
        for i in range(p.first, min(n, p.first + p.right)):
            found[i] = GUESSED
        if p.right < len(p.guesses) and p.first + p.right < n:
            found[p.first + p.right] = CORRECTED
    return found


def lines_of(pieces: Sequence[str], columns: int = COLUMNS) -> list[list[int]]:
    """Return the numbers of the pieces in each line; a line ends behind a piece with a line end."""
    lines, width = [[]], 0
    for i, piece in enumerate(pieces):
        if width and width + len(piece) > columns:
            lines.append([])
            width = 0
        lines[-1].append(i)
        width += len(piece)
        if "\n" in piece:
            lines.append([])
            width = 0
    return [line for line in lines if line]


def draw_passes(pieces: Sequence[str], passes: Sequence[Pass], title: str) -> Axes:
    """Draw a text of tokens, each in a box that says whether it was guessed."""
    found, shown = kinds(passes, len(pieces)), [visible(piece) for piece in pieces]
    lines = lines_of(pieces)
    size = COLUMNS * LETTER, 0.9 + LINE * len(lines)
    axes = plt.subplots(figsize=size)[1]
    shades = {GUESSED: DARK, CORRECTED: MARKED, OWN: LIGHT}
    for y, line in enumerate(lines):
        x = 0
        for i in line:
            width, shade = len(shown[i]), shades[found[i]]
            axes.add_patch(plt.Rectangle((x, -y - 0.42), width, 0.84, fc=shade, ec="k", lw=0.6))
            colour = "white" if shade == DARK else "k"
            middle = x + width / 2, -y - 0.03
            axes.text(*middle, shown[i], color=colour, family="monospace", size=9.5, ha="center", va="center")
            x += width
    axes.set(xlim=(-0.5, COLUMNS + 0.5), ylim=(-len(lines) + 0.3, 0.6), xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_title(title)
    patches = [Patch(fc=shade, ec="k", label=label) for label, shade in shades.items()]
    axes.figure.legend(handles=patches, loc="outside lower left", ncols=3)
    return axes


def draw_texts(gains: Mapping[str, tuple[float, float, float]], title: str) -> Axes:
    """Draw {text: (low, median, high)}: how many times as fast each came with guesses as without."""
    axes = plt.subplots(figsize=(8, 0.9 + 0.5 * len(gains)))[1]
    for y, (low, middle, high) in enumerate(gains.values()):
        axes.barh(y, middle, color=plot.BLUE, height=0.6)
        axes.errorbar(middle, y, xerr=[[middle - low], [high - middle]], color="k", capsize=3)
        axes.annotate(f"{middle:.2f}×", (high, y), (8, 0), textcoords="offset points", va="center")
    axes.axvline(1, color="k", lw=1)
    axes.set_yticks(range(len(gains)), list(gains))
    axes.invert_yaxis()
    axes.set(xlabel="times as fast as without guesses", title=title)
    axes.set_xlim(0, 1.15 * max(high for _, _, high in gains.values()))
    axes.grid(axis="y", visible=False)
    return axes


def draw_draws(wanted: np.ndarray, drawn: Mapping[str, np.ndarray], title: str) -> Axes:
    """Draw the share of each token among those drawn by each rule, beside what it should be, [vocab]."""
    axes, n = plt.subplots()[1], len(drawn)
    places, width = np.arange(len(wanted)), 0.8 / n
    hatches = ("", "//", "..", "xx")
    for i, (name, counts) in enumerate(drawn.items()):
        x = places + (i - (n - 1) / 2) * width
        shares, colour = counts / counts.sum(), plot.COLOURS[i]
        axes.bar(x, shares, width, color=colour, edgecolor="k", lw=0.6, hatch=hatches[i], label=name)
    axes.hlines(wanted, places - 0.45, places + 0.45, color="k", lw=2, label="the model's p")
    axes.set(xlabel="token", ylabel="share of what was drawn", title=title, xticks=places)
    axes.grid(axis="x", visible=False)
    axes.legend()
    return axes


def draw_draft(
    rates: Sequence[float],
    measured: Mapping[int, tuple[float, float, float]],
    predicted: Mapping[int, float],
    title: str,
) -> None:
    """Draw a draft's work: how often guess 1, 2, 3 ... is right, and what k guesses a pass are worth."""
    _, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), width_ratios=(1, 1.4))
    left.bar(range(1, len(rates) + 1), rates, color=plot.BLUE, edgecolor="k")
    left.set(xlabel="place of the guess", ylabel="right, if those before were", ylim=(0, 1))
    left.set_title("How often it is right", size="medium")
    left.set_xticks(range(1, len(rates) + 1))
    right.plot(
        list(predicted), list(predicted.values()), "s--", color=plot.ORANGE, label="from c(k) and the rate"
    )
    low, middle, high = (np.array(column) for column in zip(*measured.values(), strict=True))
    errors = middle - low, high - middle
    right.errorbar(list(measured), middle, errors, fmt="o-", color=plot.BLUE, capsize=3, label="measured")
    right.axhline(1, color="k", lw=1)
    right.set(xlabel="guesses a pass, k", ylabel="times as fast as without")
    right.set_ylim(0, 1.15 * max(*high, *predicted.values()))
    right.set_title(title, size="medium")
    right.legend(loc="lower left")


def draw_gain(cost: Sequence[float], rate: float, guess_cost: float) -> Axes:
    """Draw the expected speed over k; cost[k] is c(k + 1), guess_cost that of a guess, in passes."""
    axes, ks = plt.subplots()[1], np.arange(len(cost))
    gains = [expected_tokens(rate, int(k)) / (cost[k] + k * guess_cost) for k in ks]
    best = int(np.argmax(gains))
    axes.plot(ks, gains, "o-", color=plot.BLUE)
    axes.plot(best, gains[best], "D", color=plot.RED, ms=11, mec="k", zorder=3)
    axes.axhline(1, color="k", lw=1)
    axes.set(xlabel="guesses a pass, k", ylabel="times as fast as without", ylim=(0, 1.1 * max(2, *gains)))
    said = f"k = {best} is best, {gains[best]:.2f} times as fast" if best else "do not guess"
    axes.set_title(f"{rate:.0%} right, a guess costs {guess_cost:.2f} passes: {said}")
    return axes
