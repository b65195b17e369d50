"""A leaderboard of 4.5-bit formats: what a learner's encode and decode do to Austen on unseen text.

x    float32 [n, 256]  --encode-->  raw, uint8 [n, at most 144]  --decode-->  float32 [n, 256]

Every matrix of every layer goes through both. The model then reads held-out text, and of what it says
three figures are taken, each beside those of the engine's formats:

    error       relative error of the weights (RMS)
    drift       mean Kullback-Leibler divergence of its predictions from those with 16 bits, in nats per
                token: perplexity looks at the token that came, drift at all that could have come
    perplexity  on the same text, with the distance to 16 bits

`decode` gets a copy of the bytes and nothing else. What was entered is kept in work/.leaderboard.json,
or in memory where there is no work/. The rows are ordered by drift, the sharper of the two measures.
"""

import html
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np

from blocks2tokens import files
from blocks2tokens.course import models
from blocks2tokens.course.check import calls
from blocks2tokens.course.check.explain import explain
from blocks2tokens.course.requantize import austen_with
from blocks2tokens.course.setup.workspace import WORK
from blocks2tokens.formats import FORMATS
from blocks2tokens.generate import load
from blocks2tokens.matrix import QuantizedMatrix

BLOCK, MOST_BYTES = 256, 144
WINDOW, WINDOWS = 128, 16  # tokens of a passage, passages
SECONDS = 90.0  # for all that an entry computes
ENGINE = ("Q4_0", "Q4_1", "Q4_K")
RIVAL = "Q4_0"
FILE = ".leaderboard.json"
PACKAGE = str(Path(__file__).parents[3])
HEAD = ("format", "bytes", "error", "drift", "perplexity", "above F16")

_in_memory: dict[str, "Row"] = {}


@dataclass(frozen=True)
class Row:
    """One format's figures: bytes for 256 weights, error, and drift and nats per token in each passage."""

    name: str
    nbytes: int
    error: float
    drift: list[float]
    nats: list[float]


class EntryError(ValueError):
    """An entry breaks a rule; the message says which."""


def enter(name: str, encode: Callable, decode: Callable) -> "Board":
    """Measure a format, note it on the leaderboard, and return the board. Never raises.

    Stubs that return `...` are no entry: the board then has the engine's formats and what was entered
    before.
    """
    try:
        with calls.time_limit(SECONDS):
            row = measure(name, encode, decode)
    except EntryError as error:
        return Board(_rows(), f"Not entered: {error}")
    except calls.TooLongError:
        took = f"encode and decode took more than {SECONDS:.0f} seconds: all blocks at once, without loops"
        return Board(_rows(), f"Not entered: {took}")
    except Exception as error:
        return Board(_rows(), f"Not entered: {explain(_from_outside(error))}")
    if row is None:
        return Board(_rows(), "Nothing entered yet: encode and decode are untouched.")
    _keep(row)
    return Board(_rows() | {row.name: row}, _verdict(row))


def measure(name: str, encode: Callable, decode: Callable) -> Row | None:
    """Return the figures of a format, None if it is untouched; raises EntryError where it breaks a rule."""
    if name in (*ENGINE, "F16"):
        raise EntryError(f"{name} is one of the engine's; give yours another name")
    if (encoded := _first_answer(encode)) is None:
        return None
    _checked_raw(encoded, 2)
    figures = _Figures()

    def round_trip(W):
        x = W.reshape(-1, BLOCK)
        raw = _checked_raw(encode(x.copy()), len(x))
        figures.add(x, _checked_weights(decode(raw.copy()), len(x)), raw.shape[1])
        return QuantizedMatrix.quantize(figures.decoded.reshape(W.shape), "F32")

    predictions = _predictions(austen_with(round_trip))
    return _row(name, figures, predictions)


def _from_outside(error):
    """Leave out of a traceback what lies in this package before a learner's line."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(PACKAGE):
        trace = trace.tb_next
    return error.with_traceback(trace)


class _Figures:
    """Squares of weights and of their errors, summed over matrices; the bytes of a block; what came last."""

    def __init__(self):
        self.square = self.wrong = 0.0
        self.nbytes, self.decoded = 0, None

    def add(self, x, decoded, nbytes):
        if self.nbytes and nbytes != self.nbytes:
            raise EntryError(f"encode gave {self.nbytes} bytes for a block, then {nbytes}: choose one")
        self.nbytes, self.decoded = nbytes, decoded
        self.square += float(np.sum(x**2, dtype=np.float64))
        self.wrong += float(np.sum((x - decoded) ** 2, dtype=np.float64))


def _first_answer(encode):
    """Return what encode makes of two blocks, or None where it is a stub."""
    answer = encode(np.linspace(-1, 1, 2 * BLOCK, dtype=np.float32).reshape(2, BLOCK))
    return None if answer is None or answer is ... else answer


def _checked_raw(raw, n):
    if not isinstance(raw, np.ndarray) or raw.dtype != np.uint8:
        kind = f"{raw.dtype}" if isinstance(raw, np.ndarray) else type(raw).__name__
        raise EntryError(f"encode must return bytes, uint8 [n, bytes], and returned {kind}")
    if raw.ndim != 2 or len(raw) != n:
        raise EntryError(f"encode got {n} blocks and returned shape {raw.shape}, expected ({n}, bytes)")
    if not 1 <= raw.shape[1] <= MOST_BYTES:
        raise EntryError(f"a block of 256 weights takes {raw.shape[1]} bytes, at most {MOST_BYTES} count")
    return raw


def _checked_weights(x, n):
    if x is None or x is ...:
        raise EntryError("decode returned nothing")
    x = np.asarray(x)
    if x.shape != (n, BLOCK):
        raise EntryError(f"decode got {n} blocks and returned shape {x.shape}, expected ({n}, {BLOCK})")
    if x.dtype.kind not in "iuf" or not np.isfinite(x).all():
        raise EntryError("decode returned numbers that are not finite: is a scale 0, or divided by 0?")
    return x.astype(np.float32)


@cache
def _passages():
    ids = load(models.austen()).tokenizer.encode(models.heldout_text())
    return np.array(ids[: WINDOW * WINDOWS]).reshape(WINDOWS, WINDOW)


def _predictions(model):
    """Return log p of all tokens after each, float64 [passages, WINDOW - 1, vocab]."""
    logits = np.stack([model.logits(ids)[:-1] for ids in _passages()]).astype(np.float64)
    logits -= logits.max(axis=2, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))


@cache
def _plain():
    return _predictions(load(models.austen()))


def _row(name, figures, log_p):
    plain, targets = _plain(), _passages()[:, 1:, None]
    drift = (np.exp(plain) * (plain - log_p)).sum(axis=2).mean(axis=1)
    nats = -np.take_along_axis(log_p, targets, axis=2)[:, :, 0].mean(axis=1)
    error = np.sqrt(figures.wrong / figures.square)
    return Row(name, figures.nbytes, float(error), drift.tolist(), nats.tolist())


@cache
def _engine_row(name):
    if name == "F16":
        figures = _Figures()
        figures.square, figures.nbytes = 1.0, 2 * BLOCK
        return _row(name, figures, _plain())
    fmt, figures = FORMATS[name], _Figures()

    def round_trip(W):
        decoded = fmt.dequantize(fmt.quantize(W))
        figures.add(W, decoded, BLOCK // fmt.block_size * fmt.bytes_per_block)
        return QuantizedMatrix.quantize(decoded, "F32")

    return _row(name, figures, _predictions(austen_with(round_trip)))


def _rows() -> dict[str, Row]:
    """Return the engine's rows and the learner's."""
    return {name: _engine_row(name) for name in ("F16", *ENGINE)} | _entered()


def _entered():
    """Return what was entered, from the file, or from memory where there is none."""
    try:
        found = json.loads((WORK / FILE).read_text(encoding="utf-8"))
        return {entry["name"]: Row(**entry) for entry in found} | _in_memory
    except (OSError, ValueError, TypeError, KeyError):  # none yet, or no longer what was written
        return dict(_in_memory)


def _keep(row):
    if not WORK.is_dir():
        _in_memory[row.name] = row
        return
    rows = _entered() | {row.name: row}
    files.write_text(WORK / FILE, json.dumps([asdict(each) for each in rows.values()], indent=1))


def _verdict(row):
    """Say whether an entry beats Q4_0: a difference counts when it is over twice its standard error."""
    apart = np.subtract(row.drift, _engine_row(RIVAL).drift)
    error = apart.std(ddof=1) / np.sqrt(len(apart))
    share = apart.mean() / np.mean(_engine_row(RIVAL).drift)
    how = "beats" if apart.mean() < 0 else "loses to"
    if abs(apart.mean()) <= 2 * error:
        how = "cannot be told from"
    return (
        f"{row.name} {how} {RIVAL}: its drift differs by {share:+.0%}, in thousandths of a nat "
        f"{1000 * apart.mean():+.2f} ± {1000 * error:.2f}."
    )


class Board:
    """The leaderboard as a table, the best below F16 first, with a sentence about the last entry."""

    def __init__(self, rows: Mapping[str, Row], note: str):
        self.rows = sorted(rows.values(), key=lambda row: np.mean(row.drift))
        self.note = note

    def cells(self) -> list[tuple[str, ...]]:
        """Return the table's rows as text: drift in thousandths of a nat, perplexity against F16's."""
        plain = np.array(self.rows[0].nats)
        return [
            (
                row.name,
                f"{row.nbytes}",
                f"{row.error:.4f}",
                f"{1000 * np.mean(row.drift):.2f}",
                f"{np.exp(np.mean(row.nats)):.2f}",
                _above(np.array(row.nats) - plain),
            )
            for row in self.rows
        ]

    def __repr__(self):
        lines = [HEAD, *self.cells()]
        widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
        table = ("  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in lines)
        return "\n".join([*table, self.note])

    def _repr_html_(self):
        def row(cells, tag):
            return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

        body = "".join(row(cells, "td") for cells in self.cells())
        return f"<table>{row(HEAD, 'th')}{body}</table><p>{html.escape(self.note)}</p>"


def _above(nats):
    error = nats.std(ddof=1) / np.sqrt(len(nats))
    return f"{nats.mean():+.2%} ± {error:.2%}"
