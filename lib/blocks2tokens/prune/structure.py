"""Structure: whole layers, neurons or heads go, and the matrices become smaller.

    layers     blk.i.*                                   all of it; those behind it are numbered anew
    neurons    rows of ffn_gate, ffn_up (and biases)     as many in each layer: the file states one number
               columns of ffn_down
    heads      rows of attn_q, attn_k, attn_v            a whole group: the queries that share keys and
               columns of attn_output                    values, and those

What is cut is written as a Part: which rows and columns of a tensor of the old file. Rows are whole blocks,
and columns may be; then bytes are copied. Other columns are decoded, chosen and quantized again.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from blocks2tokens.formats import Format
from blocks2tokens.generate import Model
from blocks2tokens.gguf_file import GGUFFile
from blocks2tokens.gguf_writer import Encoded, uint32
from blocks2tokens.importance import Importance
from blocks2tokens.model.config import ModelConfig
from blocks2tokens.prune.influence import influence
from blocks2tokens.prune.learned import importance_of, norms, text_of

NEURONS = 32  # go together at least: kernels take so many weights of a row at a time


@dataclass(frozen=True)
class Part:
    """Rows and columns, int [n] or None for all, of the tensor called `source`; a vector has columns only."""

    source: str
    rows: np.ndarray | None = None
    columns: np.ndarray | None = None


@dataclass(frozen=True)
class Plan:
    """What the new file is made of: {tensor: Part}, settings that change, and what goes, in words."""

    parts: Mapping[str, Part]
    settings: Mapping[str, int]
    left_out: str


def number_that_stays(total: int, share: float, what: str, step: int = 1) -> int:
    """Return how many of `total` stay, the nearest multiple of step; ValueError unless some stay, and go."""
    stay = round((1 - share) * total / step) * step
    if not 0 < stay < total:
        few = "all" if stay <= 0 else "none"
        steps = f", in steps of {step}" if step > 1 else ""
        raise ValueError(f"share: {share:g} of {total} {what}{steps} leaves out {few}, expected some")
    return stay


def plan_layers(model: Model, ids: Sequence[int] | Importance, share: float) -> Plan:
    """Leave out the layers of the lowest influence."""
    total = model.config.n_layers
    stay = number_that_stays(total, share, "layers")
    kept = _best(influence(model, text_of(model, ids, "layers")), stay)
    return drop_layers(model, sorted(set(range(total)) - set(kept.tolist())))


def drop_layers(model: Model, gone: list[int]) -> Plan:
    """Leave out these layers; ValueError for one that is not there, and for all."""
    total = model.config.n_layers
    if not gone or not set(gone) < set(range(total)):
        raise ValueError(f"layers: expected some of 0 to {total - 1}, and not all, got {gone}")
    kept = [i for i in range(total) if i not in gone]
    new = {old: i for i, old in enumerate(kept)}
    parts = {}
    for name in model.file.tensors:
        found = re.match(r"blk\.(\d+)\.", name)
        if found is None:
            parts[name] = Part(name)
        elif (i := int(found[1])) in new:
            parts[f"blk.{new[i]}.{name[found.end() :]}"] = Part(name)
    return Plan(parts, {"block_count": len(kept)}, f"layers {', '.join(map(str, sorted(set(gone))))}")


def plan_neurons(model: Model, ids: Sequence[int] | Importance, share: float) -> Plan:
    """Leave out, in each layer, the neurons that add least to the stream: activation times column of down."""
    c, down = model.config, [layer.ffn_down for layer in model.transformer.layers]
    step = max(NEURONS, *(w.format.block_size for w in down))
    stay = number_that_stays(c.ffn_dim, share, "neurons", step)
    found, parts = importance_of(model, ids), {name: Part(name) for name in model.file.tensors}
    for i, w in enumerate(down):
        kept = _best(column_scores(w.dequantize(), norms(found, f"blk.{i}.ffn_down.weight")), stay)
        _cut(parts, f"blk.{i}", ("ffn_gate", "ffn_up"), kept, "ffn_down", kept)
    return Plan(parts, {"feed_forward_length": stay}, f"{c.ffn_dim - stay} of {c.ffn_dim} neurons a layer")


def plan_heads(model: Model, ids: Sequence[int] | Importance, share: float) -> Plan:
    """Leave out, in each layer, the groups of heads that add least to the stream."""
    c = model.config
    stay = number_that_stays(c.n_kv_heads, share, "groups of heads")
    group, width = c.n_heads // c.n_kv_heads, c.n_heads // c.n_kv_heads * c.head_dim
    _check_width(model, stay * width, width)
    found, parts = importance_of(model, ids), {name: Part(name) for name in model.file.tensors}
    for i, layer in enumerate(model.transformer.layers):
        columns = column_scores(layer.attn_output.dequantize(), norms(found, f"blk.{i}.attn_output.weight"))
        kept = _best(np.sqrt(np.square(columns).reshape(c.n_kv_heads, width).sum(axis=1)), stay)
        queries, keys = _spread(kept, width), _spread(kept, c.head_dim)
        _cut(parts, f"blk.{i}", ("attn_q",), queries, "attn_output", queries)
        _cut(parts, f"blk.{i}", ("attn_k", "attn_v"), keys)
    settings = {"attention.head_count": stay * group, "attention.head_count_kv": stay}
    lengths = ("attention.key_length", "attention.value_length", "rope.dimension_count")
    left_out = f"{c.n_heads - stay * group} of {c.n_heads} heads a layer"
    return Plan(parts, settings | dict.fromkeys(lengths, c.head_dim), left_out)


def column_scores(W: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """Return the norm of what each input column of W, [N, K], adds to the product: [K]."""
    return np.linalg.norm(W.astype(np.float64), axis=0) * norms


def _best(scores: np.ndarray, n: int) -> np.ndarray:
    """Return where the n highest scores are, in order of place."""
    return np.sort(np.argsort(-scores, kind="stable")[:n])


def _spread(kept: np.ndarray, width: int) -> np.ndarray:
    """Return the places that groups of `width` neighbours hold: [1, 3] of 2 are 2, 3, 6, 7."""
    return (kept[:, None] * width + np.arange(width)).reshape(-1)


def _cut(parts: dict, prefix: str, outs: tuple, rows: np.ndarray, into: str = "", columns=None) -> None:
    """Cut rows of matrices and elements of their biases, and the columns of the matrix behind them."""
    for name in outs:
        parts[f"{prefix}.{name}.weight"] = Part(f"{prefix}.{name}.weight", rows=rows)
        if (bias := f"{prefix}.{name}.bias") in parts:
            parts[bias] = Part(bias, columns=rows)
    if into:
        parts[f"{prefix}.{into}.weight"] = Part(f"{prefix}.{into}.weight", columns=columns)


def _check_width(model: Model, width: int, group: int) -> None:
    """Refuse heads whose columns would not fill the blocks of attn_output."""
    for layer in model.transformer.layers:
        fmt = layer.attn_output.format
        if width % fmt.block_size:
            raise ValueError(
                f"share: what stays of attn_output are rows of {width} weights, in groups of {group}, "
                f"expected a multiple of {fmt.block_size} for {fmt.name}"
            )


def shape_of(part: Part, file: GGUFFile) -> tuple[int, ...]:
    """Return the shape of a part, in weights."""
    *rows, K = file.tensors[part.source].shape
    rows = rows if part.rows is None else [len(part.rows)]
    return (*rows, K if part.columns is None else len(part.columns))


def cut(part: Part, file: GGUFFile) -> np.ndarray:
    """Return the bytes of a part, uint8 [rows, row bytes]."""
    raw, fmt = file.raw(part.source), file.format(part.source)
    raw = raw.reshape(-1, raw.shape[-1])
    raw = raw if part.rows is None else raw[part.rows]
    return raw if part.columns is None else take_columns(raw, fmt, part.columns)


def take_columns(raw: np.ndarray, fmt: Format, columns: np.ndarray) -> np.ndarray:
    """Return some columns of rows of blocks, uint8 [N, row bytes], as rows of blocks again.

    Where they are whole blocks, bytes are copied; else they are decoded and quantized again.
    """
    if (blocks := whole_blocks(columns, fmt.block_size)) is not None:
        return raw.reshape(len(raw), -1, fmt.bytes_per_block)[:, blocks].reshape(len(raw), -1)
    return fmt.quantize(np.ascontiguousarray(fmt.dequantize(raw)[:, columns]))


def whole_blocks(columns: np.ndarray, size: int) -> np.ndarray | None:
    """Return the blocks of so many columns that these are, int [n]; None if they are no whole ones."""
    if len(columns) % size:
        return None
    blocks = columns.reshape(-1, size)
    starts = blocks[:, 0] // size
    return starts if (blocks == starts[:, None] * size + np.arange(size)).all() else None


def is_copied(part: Part, file: GGUFFile) -> bool:
    """Are the bytes of a part those of the old file?"""
    return part.columns is None or whole_blocks(part.columns, file.format(part.source).block_size) is not None


def metadata(file: GGUFFile, config: ModelConfig, settings: Mapping[str, int]) -> dict[str, Encoded]:
    """Return {key: (type, bytes of the value)} for the new file."""
    found = {key: file.metadata.encoded(key) for key in file.metadata if not key.startswith("split.")}
    return found | {f"{config.architecture}.{key}": uint32(value) for key, value in settings.items()}


PLANS: dict[str, Callable[[Model, Sequence[int] | Importance, float], Plan]]
PLANS = {"layers": plan_layers, "neurons": plan_neurons, "heads": plan_heads}
