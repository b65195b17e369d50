"""Prune: a GGUF file in, the same model with something left out.

    by          what goes                                            the file        scored by
    layers      whole layers                                         smaller         influence on the stream
    neurons     rows of gate and up, columns of down                 smaller         activation * column norm
    heads       groups of heads that share keys and values           smaller         activation * column norm
    magnitude   weights become 0, a share of each row                as large        |w|
    wanda       likewise                                             as large        |w| * norm of its input

learned       what the matrices meet on a text        masks    which weights stay
influence     how far a layer turns the stream        repair   what stays takes over from what goes
structure     smaller matrices, other settings

Embedding and output stay whole. A file of quantized weights keeps its formats: what is changed is decoded,
pruned and quantized again, so that a 0 becomes the nearest weight that the block can hold. Scores come from
the whole model: what goes in one layer does not change what the next ones see.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from blocks2tokens import files
from blocks2tokens.convert import PLAIN, check_destination
from blocks2tokens.errors import GGUFError, UnsupportedError
from blocks2tokens.formats.feedback import triangle
from blocks2tokens.generate import Model
from blocks2tokens.gguf_writer import write_gguf
from blocks2tokens.importance import Importance, hessians
from blocks2tokens.prune import masks
from blocks2tokens.prune.learned import importance_of, norms, text_of
from blocks2tokens.prune.masks import pattern_of
from blocks2tokens.prune.repair import repair as repaired
from blocks2tokens.prune.structure import PLANS, Plan, cut, is_copied, metadata, shape_of

MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
WEIGHTS = ("magnitude", "wanda")
WAYS = (*PLANS, *WEIGHTS)


@dataclass(frozen=True)
class Pruning:
    """What `prune` wrote; prints itself as a summary.

    path         the new file
    left_out     what is not there any more, in words
    requantized  {tensor: format} of those that were decoded and quantized again
    zeros        share of exact zeros among the weights of the layers' matrices; None: it was not counted
    bytes_before, bytes_after    sizes of the files
    """

    path: Path
    left_out: str
    requantized: dict[str, str]
    zeros: float | None
    bytes_before: int
    bytes_after: int

    def __repr__(self):
        lines = [f"without {self.left_out}: {self.bytes_before:,} -> {self.bytes_after:,} bytes"]
        if self.zeros is not None:
            lines.append(f"  {self.zeros:.1%} of the layers' weights are exactly 0")
        if self.requantized:
            formats = ", ".join(sorted(set(self.requantized.values())))
            lines.append(f"  {len(self.requantized)} tensors were decoded and quantized again ({formats})")
        return "\n".join(lines)


def prune(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    by: str,
    share: float | str,
    ids: Sequence[int] | Importance | None = None,
    repair: bool = False,
) -> Pruning:
    """Write the model of the GGUF file src to dst with a share of it left out; return what was written.

    `by` is one of WAYS; `share` what goes, between 0 and 1, for weights also "2:4": two of each four
    neighbours in a row stay. Layers, neurons and groups of heads go in whole numbers, the nearest, and as
    many in each layer. `ids` are tokens of a text to learn from what matters, or this model's Importance,
    which for layers and for `repair` must know its text; repair lets the weights of a row that stay take
    over. Magnitude without it needs none. An existing dst is replaced at the end, or not at all.

    Raises ValueError for what makes no sense, a share that leaves out all or nothing, too short a text, and
    for dst that is src; FileNotFoundError; OSError; GGUFError for a malformed src; UnsupportedError for a
    model that is no plain transformer: a mixture of experts, windows, tensors that hold several matrices.
    """
    src, dst = Path(src), Path(dst)
    _check(by, share, ids, repair)
    model = Model(src)
    check_family(model)
    check_destination(model.file, dst)
    if by in PLANS:
        return write_plan(model, dst, PLANS[by](model, ids, share))
    return _prune_weights(model, dst, _Weights(model, by, share, ids, repair))


def check_family(model: Model) -> None:
    """Raise UnsupportedError for a model whose layers are not the seven matrices that pruning knows."""
    c = model.config
    if c.n_experts or c.window or c.family.fused or c.family.post_norms or c.family.sinks:
        what = (
            f"{model.file.path}: architecture {c.architecture!r} with experts, windows, fused tensors or more"
        )
        raise UnsupportedError(f"{what} norms; pruned are plain layers: {', '.join(MATRICES)}")


def write_plan(model: Model, dst: str | os.PathLike[str], plan: Plan) -> Pruning:
    """Write what is planned, see `structure`; an existing dst is replaced at the end, or not at all."""
    file = model.file
    tensors = {name: (file.format(p.source), shape_of(p, file)) for name, p in plan.parts.items()}
    settings = metadata(file, model.config, plan.settings)
    n_bytes = _write(model, Path(dst), settings, tensors, lambda name: cut(plan.parts[name], file))
    changed = {name: p.source for name, p in plan.parts.items() if not is_copied(p, file)}
    again = {name: file.format(source).name for name, source in changed.items()}
    again = {name: fmt for name, fmt in again.items() if fmt not in PLAIN}
    return Pruning(Path(dst), plan.left_out, again, None, file.nbytes, n_bytes)


def _prune_weights(model: Model, dst: Path, weights: "_Weights") -> Pruning:
    """Write the whole model, some of its weights 0."""
    file = model.file
    tensors = {name: (file.format(name), info.shape) for name, info in file.tensors.items()}
    n_bytes = _write(model, dst, metadata(file, model.config, {}), tensors, weights)
    again = {name: tensors[name][0].name for name in weights.places if tensors[name][0].name not in PLAIN}
    return Pruning(dst, weights.left_out, again, weights.zeros / weights.count, file.nbytes, n_bytes)


def _write(model: Model, dst: Path, settings, tensors, rows: Callable[[str], np.ndarray]) -> int:
    """Write a file and return its size in bytes."""
    with (
        files.replacing(dst, "dst") as partial,
        tqdm(total=len(tensors), desc="prune", unit=" tensors", delay=2, leave=False) as bar,
    ):

        def written(name):
            model.file.check_size()
            found = rows(name)
            bar.update()
            return np.ascontiguousarray(found)

        write_gguf(partial, settings, model.file.alignment, tensors, written)
        return partial.stat().st_size


class _Weights:
    """Gives the bytes of each tensor, those of the layers' matrices pruned; counts weights and zeros."""

    def __init__(self, model: Model, by: str, share: float | str, ids, repair: bool):
        self.file, self.by, self.share, self.count, self.zeros = model.file, by, share, 0, 0
        layers = range(model.config.n_layers)
        named = {f"blk.{i}.{matrix}.weight" for i in layers for matrix in MATRICES}
        self.places = [name for name in model.file.tensors if name in named]
        self.learned = importance_of(model, ids) if by == "wanda" else None
        self.hessians = hessians(model, text_of(model, ids, "repair"), self.places) if repair else None
        how = " and repaired" if repair else ""
        self.left_out = f"{share if isinstance(share, str) else f'{share:.0%}'} of the weights by {by}{how}"
        if pattern_of(share):
            self.left_out = f"all but {self.left_out}"

    def __call__(self, name: str) -> np.ndarray:
        """Return the bytes of a tensor, uint8 [rows, row bytes]."""
        raw = self.file.raw(name)
        if name not in self.places:
            return raw.reshape(-1, raw.shape[-1])
        fmt = self.file.format(name)
        W = fmt.dequantize(raw)
        if not np.isfinite(W).all():
            raise GGUFError(f"{self.file.path}: tensor {name} holds weights that are no finite numbers")
        encoded = fmt.quantize(self.pruned(W, name))
        stored = fmt.dequantize(encoded)
        if not np.isfinite(stored).all():
            raise ValueError(f"{self.file.path}: tensor {name}, repaired, is too large for {fmt.name}")
        self.count, self.zeros = self.count + stored.size, self.zeros + int((stored == 0).sum())
        return encoded

    def pruned(self, W: np.ndarray, name: str) -> np.ndarray:
        """Return a matrix, float32 [N, K], with some weights 0; called in the order of the file."""
        scores = masks.magnitude_scores(W)
        if self.learned is not None:
            scores = masks.wanda_scores(W, norms(self.learned, name))
        pattern = pattern_of(self.share)
        keep = masks.keep_pattern(scores, *pattern) if pattern else masks.keep_rows(scores, self.share)
        if self.hessians is None:
            return np.where(keep, W, np.float32(0))
        found, hessian = next(self.hessians)
        assert found == name, "tensors come in the order of the file"
        return repaired(W, keep, triangle(hessian[0]))


def _check(by: str, share: float | str, ids, repair: bool) -> None:
    """Refuse arguments that make no sense, before a file is opened."""
    if by not in WAYS:
        raise ValueError(f"by: expected one of {', '.join(WAYS)}, got {by!r}")
    if pattern_of(share) and by not in WEIGHTS:
        raise ValueError(f"share: {by} go by a number between 0 and 1, got {share!r}")
    if repair and by not in WEIGHTS:
        raise ValueError(f"repair: only by {' or '.join(WEIGHTS)} do weights stay to take over, got {by!r}")
    if ids is None and (what := needs_text(by, repair)):
        raise ValueError(
            f"ids: expected tokens of a text that says what matters, which {what} needs, got None"
        )


def needs_text(by: str, repair: bool) -> str | None:
    """Return what learns from a text, `by` or "repair"; None where nothing does."""
    return "repair" if repair else None if by == "magnitude" else by


__all__ = ["WAYS", "Pruning", "check_family", "needs_text", "prune", "write_plan"]
