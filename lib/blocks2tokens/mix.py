"""A mix under a budget: which format for which matrix, so that the file is small and the KL is too.

    error[m][f]      trace(E @ hessian @ E.T) of matrix m in format f, from a sample of its rows
    probe[m]         KL when this matrix alone is in its smallest format, all others as they were: measured,
                     with activations in float32: rounded ones add the same to each, see `kernels.unrounded`
    loss[m][f]       probe[m] * error[m][f] / error of the probe: the KL that m in f is expected to add

The hessian is `tied.hessians`': an embedding that is the output matrix too has two kinds of errors.

Small errors add up in KL, each with the square of its size: so one measurement for each matrix is enough, and
errors, which cost no forward pass, scale it. Then it is a knapsack: spend bytes where a byte saves most.

    bytes ->   Q2_K  o                      of each matrix only the formats on the lower convex hull
    loss   |         \\
           v     Q3_K  o- - o Q4_K - - o    steps of all matrices, steepest first, until the budget is spent

Source: Everett 1963 for the multiplier; the rest ours.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path

import numpy as np
from tqdm import tqdm

from blocks2tokens import files
from blocks2tokens.formats import FORMATS, Format, feedback
from blocks2tokens.generate import Model
from blocks2tokens.gguf_file import GGUFFile
from blocks2tokens.importance import Importance, affordable
from blocks2tokens.importance import importance as importance_of
from blocks2tokens.kernels import unrounded
from blocks2tokens.model import Transformer
from blocks2tokens.quality import Reference
from blocks2tokens.sampler import Sampler
from blocks2tokens.tied import hessians

LADDER = ("Q2_K", "Q3_K", "MXFP4", "IQ4_XS", "IQ4_NL", "Q4_K", "Q4_1", "Q5_K", "Q5_0", "Q5_1", "Q6_K", "Q8_0")
SAMPLE = 64  # rows of a matrix whose errors stand for all
TOKENS = 512  # of the text that each probe is measured on; of a large vocabulary as few as 128,
LOGITS = 2**22  # where so many stand behind them: errors of a few per cent in a probe move few bytes
OWN_TEXT = 2048  # tokens that the model writes itself where it is given no text
VERSION = 2  # of the state file


@dataclass(frozen=True)
class Mix:
    """Formats for matrices, {tensor: format name}; their bytes, and the KL that is expected."""

    formats: dict[str, str]
    nbytes: int
    kl: float


def fitting(K: int) -> list[str]:
    """Return the formats of the ladder whose blocks rows of K weights fill; F16 where there are none."""
    return [name for name in LADDER if K % FORMATS[name].block_size == 0] or ["F16"]


# --- The knapsack -----------------------------------------------------------------------------------------


def choose(
    sizes: Mapping[str, Mapping[str, int]], losses: Mapping[str, Mapping[str, float]], budget: int
) -> Mix:
    """Return the mix of least loss within `budget` bytes.

    sizes and losses are {matrix: {format: bytes}} and {matrix: {format: KL}}. The steps on the hulls are
    taken as they come; then whatever still fits, the best first: less than one step is left.
    Raises ValueError for a budget below the smallest formats of all matrices.
    """
    chosen = {m: min(sizes[m], key=lambda f, m=m: (sizes[m][f], losses[m][f])) for m in sizes}
    spent = sum(sizes[m][f] for m, f in chosen.items())
    if spent > budget:
        raise ValueError(
            f"bits: expected a budget of at least {spent:,} bytes for the matrices, got {budget:,}"
        )
    for m, f in steps(sizes, losses):
        more = sizes[m][f] - sizes[m][chosen[m]]
        if spent + more > budget:
            break
        spent, chosen[m] = spent + more, f
    while swap := _best_that_fits(sizes, losses, chosen, budget - spent):
        m, f = swap
        spent, chosen[m] = spent + sizes[m][f] - sizes[m][chosen[m]], f
    return Mix(chosen, spent, float(sum(losses[m][f] for m, f in chosen.items())))


def hull(sizes: Mapping[str, int], losses: Mapping[str, float]) -> list[str]:
    """Return the formats of one matrix that are on the lower convex hull, smallest first.

    >>> hull({"a": 2, "b": 3, "c": 4}, {"a": 9.0, "b": 8.0, "c": 1.0})
    ['a', 'c']
    """
    found: list[str] = []
    for f in sorted(sizes, key=lambda f: (sizes[f], losses[f])):
        if found and losses[f] >= losses[found[-1]]:
            continue
        while len(found) > 1 and _gain(sizes, losses, found[-1], f) >= _gain(sizes, losses, *found[-2:]):
            found.pop()
        found.append(f)
    return found


def steps(sizes, losses) -> list[tuple[str, str]]:
    """Return the steps (matrix, its next format) on all hulls, in the order of what a byte saves."""
    found = []
    for m in sizes:
        formats = hull(sizes[m], losses[m])
        for low, high in pairwise(formats):
            found.append((_gain(sizes[m], losses[m], low, high), m, high))
    found.sort(key=lambda step: -step[0])
    return [(m, f) for _, m, f in found]


def curve(sizes, losses) -> list[tuple[int, float]]:
    """Return (bytes, expected KL) of every mix on the way from the smallest one to the best."""
    chosen = {m: hull(sizes[m], losses[m])[0] for m in sizes}
    points = [(sum(sizes[m][f] for m, f in chosen.items()), sum(losses[m][f] for m, f in chosen.items()))]
    for m, f in steps(sizes, losses):
        more, less = sizes[m][f] - sizes[m][chosen[m]], losses[m][chosen[m]] - losses[m][f]
        points.append((points[-1][0] + more, points[-1][1] - less))
        chosen[m] = f
    return points


def _gain(sizes, losses, low: str, high: str) -> float:
    """Return the loss that a byte saves on the way from one format to a larger one."""
    return (losses[low] - losses[high]) / max(1, sizes[high] - sizes[low])


def _best_that_fits(sizes, losses, chosen, left: int) -> tuple[str, str] | None:
    """Return the change (matrix, format) that saves most among those that `left` bytes pay for."""
    best, most = None, 0.0
    for m, now in chosen.items():
        for f in sizes[m]:
            saved = losses[m][now] - losses[m][f]
            if sizes[m][f] - sizes[m][now] <= left and saved > most:
                best, most = (m, f), saved
    return best


def for_budget(
    file: GGUFFile,
    names: list[str],
    budget: int,
    importance: Importance | None,
    dst: Path,
    load: Callable[[], Model],
) -> tuple[Mix, Importance]:
    """Return the best mix of the tensors `names` within `budget` bytes, and the importance it is based on.

    Where the importance has no text, or there is none, the model that `load` returns writes one itself. What
    was measured is kept in the `state_of` dst until the mix is there: an interrupted search goes on from it.
    Raises ValueError for a budget below the smallest mix, before anything is measured.
    """
    smallest = sum(min(_sizes(file, name).values()) for name in names)
    if smallest > budget:
        weights = sum(prod(info.shape) for info in file.tensors.values())
        missing = 8 * (smallest - budget) / weights
        raise ValueError(f"bits: no mix is as small; the smallest takes {missing:.3f} bits per weight more")
    model = load()
    if importance is None or importance.ids is None:
        text = written_by(model)
        importance = Importance(*_sums(importance or importance_of(model, text)), text)
    state = state_of(dst)
    search = Search(model, importance, names, state).run()
    found = choose(search.sizes, search.losses, budget)
    state.unlink(missing_ok=True)
    return found, importance


def state_of(dst: Path) -> Path:
    """Return where an interrupted search for a mix keeps what it measured, beside the file to be."""
    return dst.with_name(dst.name + ".search")


def written_by(model: Model, n_tokens: int = OWN_TEXT) -> np.ndarray:
    """Return ids that the model draws itself, int64 [n_tokens]: a text where none is given."""
    context, ids = model.config.context_length, []
    start = model.tokenizer.encode("The")
    for seed in range(n_tokens):
        wanted = min(context - len(start), n_tokens - len(ids))
        ids += [*start, *model.generate(start, wanted, Sampler(temperature=1.0, seed=seed))]
        if len(ids) >= n_tokens:
            break
    return np.array(ids[:n_tokens], np.int64)


def _sums(importance: Importance) -> tuple[dict, dict]:
    return importance.sums, importance.counts


# --- What each format of each matrix costs ----------------------------------------------------------------


class Measured:
    """What was measured of a model's matrices, and the sizes and losses of their formats that follow."""

    def __init__(self, file: GGUFFile, errors: dict[str, dict[str, float]], probes: dict[str, float]):
        """Take errors, {matrix: {format: error, "probe": error}}, and probes, {matrix: KL}."""
        self.file, self.errors, self.probes, self.names = file, errors, probes, list(probes)

    @property
    def sizes(self) -> dict[str, dict[str, int]]:
        """Bytes of each matrix in each format that its rows fill."""
        return {name: _sizes(self.file, name) for name in self.names}

    @property
    def losses(self) -> dict[str, dict[str, float]]:
        """The KL that each format of each matrix is expected to add."""
        found = {}
        for name in self.names:
            unit = self.probes[name] / max(self.errors[name]["probe"], 1e-30)
            found[name] = {f: unit * error for f, error in self.errors[name].items() if f != "probe"}
        return found


class Search(Measured):
    """Measures the matrices of a model; resumed from a state file."""

    def __init__(self, model: Model, importance: Importance, names: Iterable[str], state: Path | None = None):
        """Nothing is measured yet. The importance has its text; `state` is the file of what was measured."""
        super().__init__(model.file, {}, {})
        self.model, self.importance, self.ids, self.state = model, importance, importance.ids, state
        self.names = list(names)
        self._resume()

    def run(self) -> "Search":
        """Measure what is not known yet, with a line of progress; an interrupt keeps what was measured."""
        try:
            self._measure_errors()
            with unrounded():
                self._measure_probes()
        finally:
            self._save()
        return self

    def _measure_errors(self) -> None:
        missing = [name for name in self.names if name not in self.errors]
        with tqdm(total=len(missing), desc="errors", unit=" matrices", delay=2, leave=False) as bar:
            for name, hessian in self._hessians(missing):
                self.errors[name] = matrix_errors(self.model.file, name, hessian)
                bar.update()

    def _hessians(self, names: list[str]) -> Iterable:
        """Yield (name, hessians); of a matrix that is only looked up, or too large, the diagonal."""
        file = self.model.file
        full = [name for name in names if name in self.importance and affordable(file, name)]
        yield from hessians(self.model, self.ids, full)
        for name in names:
            if name not in full:
                shape = file.tensors[name].shape
                n = shape[0] if len(shape) == 3 else 1
                means = self.importance.mean(name) if name in self.importance else np.ones((n, shape[-1]))
                yield name, [np.diag(row).astype(np.float32) for row in means]

    def _measure_probes(self) -> None:
        missing = [name for name in self.names if name not in self.probes]
        if not missing:
            return
        reference = Reference(self.model, self.ids[: self._n_tokens() + 1])
        with tqdm(total=len(missing), desc="sensitivity", unit=" matrices", delay=2, leave=False) as bar:
            for i, name in enumerate(missing):
                self.probes[name] = max(0.0, reference.measure(alone(self.model, name)).kl.value)
                if i % 8 == 7:
                    self._save()
                bar.update()

    def _n_tokens(self) -> int:
        """Return how many tokens the probes are measured on."""
        return max(TOKENS // 4, min(TOKENS, LOGITS // self.model.config.vocab_size))

    # The state: what was measured, and of what.

    def _key(self) -> str:
        file = self.model.file
        said = [VERSION, file.nbytes, [path.stat().st_mtime_ns for path in file.paths]]
        said += [self.names, self._n_tokens()]
        return hashlib.sha256(json.dumps(said).encode() + self.ids.tobytes()).hexdigest()

    def _resume(self) -> None:
        if self.state is None or not self.state.is_file():
            return
        try:
            kept = json.loads(self.state.read_text(encoding="utf-8"))
            if kept["key"] == self._key():
                self.errors, self.probes = dict(kept["errors"]), dict(kept["probes"])
        except (ValueError, KeyError, TypeError):  # of another search, or cut off by something else
            return

    def save(self, path: Path) -> None:
        """Write what was measured: a search of the same model, text and matrices resumes from it."""
        kept = {"key": self._key(), "errors": self.errors, "probes": self.probes}
        files.write_text(path, json.dumps(kept))

    def _save(self) -> None:
        if self.state is not None:
            self.save(self.state)


def probe_format(K: int) -> Format:
    """Return the smallest format that rows of K weights fill: its errors stand out from the noise."""
    return FORMATS[min(fitting(K), key=lambda name: FORMATS[name].bits_per_weight)]


def matrix_errors(file: GGUFFile, name: str, hessian: np.ndarray) -> dict[str, float]:
    """Return the error of each format of a matrix, over a sample of its rows, and that of its "probe".

    hessian  float32 [experts, K, K]. The formats are rounded with feedback, the probe without. The format
    that the matrix has already would be copied, and costs nothing.
    """
    shape = file.tensors[name].shape
    W = sample(file, name)  # [experts, rows, K]
    errors = dict.fromkeys([*fitting(shape[-1]), "probe"], 0.0)
    for part, H in zip(W, hessian, strict=True):
        U, weights = feedback.factor(H), np.diagonal(H).astype(np.float32)
        for f in set(fitting(shape[-1])) - {file.format(name).name}:
            errors[f] += output_error(part, rounded(FORMATS[f], part, U, weights), H)
        fmt = probe_format(shape[-1])
        errors["probe"] += output_error(part, fmt.dequantize(fmt.quantize(part)), H)
    return errors


def rounded(fmt: Format, W: np.ndarray, U: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return W as it would be in a format, with feedback where there is one, float32 [rows, K]."""
    if fmt.name in feedback.FORMATS:
        return fmt.dequantize(feedback.encode(fmt, W, U, weights, "ggml"))
    return fmt.dequantize(fmt.quantize(W))


def output_error(W: np.ndarray, decoded: np.ndarray, hessian: np.ndarray) -> float:
    """Return trace(E @ hessian @ E.T) for E = decoded - W, both float32 [rows, K]."""
    E = decoded - W
    return float(np.einsum("nk,nk->", E @ hessian, E, dtype=np.float64))


def sample(file: GGUFFile, name: str) -> np.ndarray:
    """Return SAMPLE rows of a matrix, evenly spread, float32 [experts, rows, K]; of experts a few each."""
    raw = file.raw(name)
    raw = raw.reshape(-1, *raw.shape[-2:])
    n_rows = max(4, SAMPLE // len(raw))
    rows = np.unique(np.linspace(0, raw.shape[1] - 1, min(n_rows, raw.shape[1])).astype(int))
    return file.format(name).dequantize(np.ascontiguousarray(raw[:, rows]))


def alone(model: Model, name: str, fmt: Format | None = None) -> "Variant":
    """Return the model with one matrix in another format, plainly rounded; its smallest if none is given."""
    source, raw = model.file.format(name), model.file.raw(name)
    fmt = fmt or probe_format(model.file.tensors[name].shape[-1])
    return Variant(model, {name: (fmt, fmt.quantize(source.dequantize(raw)))})


class Variant:
    """A model with some tensors replaced, in memory: {tensor: (format, raw)}."""

    def __init__(self, model: Model, replaced: Mapping[str, tuple[Format, np.ndarray]]):
        self.config = model.config
        self.transformer = Transformer(_Replaced(model.file, replaced), model.config)


class _Replaced:
    """A file with other bytes for some of its tensors, as far as `Weights` reads it."""

    def __init__(self, file: GGUFFile, replaced: Mapping[str, tuple[Format, np.ndarray]]):
        self.path, self.tensors, self.metadata = file.path, file.tensors, file.metadata
        self._file, self._replaced = file, replaced

    def format(self, name: str) -> Format:
        return self._replaced[name][0] if name in self._replaced else self._file.format(name)

    def raw(self, name: str) -> np.ndarray:
        return self._replaced[name][1] if name in self._replaced else self._file.raw(name)


def _sizes(file: GGUFFile, name: str) -> dict[str, int]:
    """Return the bytes of a matrix in each format that its rows fill."""
    *rows, K = file.tensors[name].shape
    return {f: prod(rows) * FORMATS[f].row_bytes(K) for f in fitting(K)}
