"""Convert: a GGUF file in, the same model in another format out.

    src  --map-->  rows of blocks  --decode-->  float32  --encode-->  rows of blocks  -->  dst

metadata          byte for byte that of src, but for general.file_type and general.quantization_version
vectors, norms    F32: they are few, and every weight behind them depends on them
matrices          the target; Q4_K_M is a mix of two formats, see `mixed_format`
routers, tables of positions, short convolutions: as they are, see `KEPT`
rows that do not fill the blocks of a format: see `fitting_format`
no target, but bits: a mix under that budget, see `mix`; importance and effort: see `Encoder`

A tensor that has its format already is copied. Of any other, `CHUNK` weights at a time are float32. The
file is written beside dst under another name and takes dst's place when it is complete; of a split model
all parts become one file.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from math import prod
from numbers import Real
from pathlib import Path

import gguf
import numpy as np
from tqdm import tqdm

from blocks2tokens import files, mix
from blocks2tokens.encoder import EFFORTS, Encoder
from blocks2tokens.errors import GGUFError
from blocks2tokens.formats import FORMATS, Format, by_ggml_type
from blocks2tokens.generate import Model, load
from blocks2tokens.gguf_file import GGUFFile, TensorInfo
from blocks2tokens.gguf_writer import uint32, write_gguf
from blocks2tokens.importance import Importance

FILE_TYPES = {  # target -> its name in gguf.LlamaFileType
    "F32": "ALL_F32",
    "F16": "MOSTLY_F16",
    "BF16": "MOSTLY_BF16",
    "Q8_0": "MOSTLY_Q8_0",
    "Q4_0": "MOSTLY_Q4_0",
    "Q4_1": "MOSTLY_Q4_1",
    "Q5_0": "MOSTLY_Q5_0",
    "Q5_1": "MOSTLY_Q5_1",
    "Q2_K": "MOSTLY_Q2_K",
    "Q3_K": "MOSTLY_Q3_K_S",
    "Q4_K": "MOSTLY_Q4_K_S",
    "Q5_K": "MOSTLY_Q5_K_S",
    "Q6_K": "MOSTLY_Q6_K",
    "IQ4_NL": "MOSTLY_IQ4_NL",
    "IQ4_XS": "MOSTLY_IQ4_XS",
    "MXFP4": "MOSTLY_MXFP4_MOE",
    "Q4_K_M": "MOSTLY_Q4_K_M",
}
TARGETS = tuple(FILE_TYPES)
MIX = "mix"  # the target where formats are searched for; files say "guessed" for it

# For rows that do not fill blocks of 256. Source: llama.cpp's tensor_type_fallback.
FALLBACKS = {
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "IQ4_XS": "IQ4_NL",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}

# Matrices that are small, and not what a format is made for: an error in a router sends tokens to other
# experts. By parts of their names. Source: llama.cpp's tensor_allows_quantization.
KEPT = re.compile(
    r"^position_embd\.weight$|^token_types\.weight$|_norm\.weight|ffn_gate_inp\.weight|ffn_gate_tid2eid\.weight"
    r"|altup|laurel|per_layer_model_proj|ssm_conv1d|shortconv\.conv\.weight|indexer\.[kq]_proj\.weight"
    r"|time_mix_(first|w[012]|v[012]|a[012]|g[12]|decay_w[12]|lerp_fused)\.weight|attn_rel_b\.weight"
    r"|\.position_embd|sam\.pos_embd|sam\.neck\.|sam\.net_|\.rel_pos|\.patch_embd|\.patch_merger"
    r"|a\.rvq\.codebook|mm\.a\.code_embd"
)
PLAIN = ("F32", "F16", "BF16")

CHUNK = 2**20  # weights


@dataclass(frozen=True)
class Conversion:
    """What `convert` wrote; prints itself as a summary.

    path         the new file
    target       as it was asked for
    tensors      of the new file, by name
    replaced     tensor -> the format that was meant for it, where its rows do not fill the blocks
    requantized  tensor -> the format that it had, where that was a quantized one, and became another
    bytes_before, bytes_after    sizes of the files
    """

    path: Path
    target: str
    tensors: dict[str, TensorInfo]
    replaced: dict[str, str]
    requantized: dict[str, str]
    bytes_before: int
    bytes_after: int

    @property
    def bits_per_weight(self) -> float:
        """Bits per weight over all tensors, without the metadata."""
        tensors = self.tensors.values()
        return 8 * sum(t.nbytes for t in tensors) / max(1, sum(prod(t.shape) for t in tensors))

    def formats(self) -> dict[str, list[str]]:
        """Return {format name: names of the tensors in it}."""
        found: dict[str, list[str]] = {}
        for name, info in self.tensors.items():
            found.setdefault(by_ggml_type(info.ggml_type).name, []).append(name)
        return dict(sorted(found.items()))

    def summary(self) -> str:
        """Return the whole on one line: sizes, and how many tensors are not as was asked for."""
        sizes = f"{self.bytes_before:,} -> {self.bytes_after:,} bytes"
        parts = [f"{self.target}: {sizes}, {self.bits_per_weight:.2f} bits per weight"]
        if self.replaced:
            parts.append(f"{len(self.replaced)} of {len(self.tensors)} tensors in another format")
        if self.requantized:
            parts.append(f"{len(self.requantized)} were quantized already")
        return "; ".join(parts)

    def __repr__(self):
        sizes = f"{self.bytes_before:,} -> {self.bytes_after:,} bytes"
        lines = [
            f"{self.target}: {sizes}, {self.bits_per_weight:.2f} bits per weight",
            f"  {'format':8}{'tensors':>8}{'weights':>16}{'bytes':>16}",
        ]
        for name, names in self.formats().items():
            weights = sum(prod(self.tensors[n].shape) for n in names)
            n_bytes = sum(self.tensors[n].nbytes for n in names)
            lines.append(f"  {name:8}{len(names):>8}{weights:>16,}{n_bytes:>16,}")
        return "\n".join([*lines, *self._replacements(), *self._losses()])

    def _replacements(self) -> Iterator[str]:
        """Yield a line for each format that some tensors did not get."""
        groups: dict[tuple, list[str]] = {}
        for name, meant in self.replaced.items():
            info = self.tensors[name]
            groups.setdefault((by_ggml_type(info.ggml_type).name, info.shape[-1], meant), []).append(name)
        for (got, K, meant), names in groups.items():
            what = f"{names[0]} is" if len(names) == 1 else f"{len(names)} tensors are"
            yield f"  {what} {got}: rows of {K} weights do not fill blocks of {meant}"

    def _losses(self) -> Iterator[str]:
        """Yield a line if weights were rounded that had been rounded before."""
        if self.requantized:
            count, formats = len(self.requantized), ", ".join(sorted(set(self.requantized.values())))
            yield f"  {count} tensors were quantized already ({formats}): their errors stay, new ones come"


def convert(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    target: str | None = None,
    bits: float | None = None,
    importance: Importance | None = None,
    effort: str = "ggml",
) -> Conversion:
    """Write the model of the GGUF file src to dst in another format; return what was written.

    `target` is the name of a format, F32 to MXFP4, or the mix "Q4_K_M". If it is None, `bits` are the bits
    per weight that all tensors may take together, and formats are searched for that keep the KL divergence
    small: see `mix.for_budget`, which keeps what it measured beside dst while it runs. `importance` weighs
    errors by column. `effort` is that of `Format.quantize`; "best" also feeds errors into the columns behind
    where the importance has the text that it was taken from. An existing dst is replaced at the end, or not
    at all: an error or an interrupt leaves it as it was, and no partial file. Where dst is a symbolic link,
    the file is written that it names.

    Raises ValueError for another target or effort, for both or none of target and bits, for bits that no mix
    can reach, for an importance of another model, for dst that is src or is not a file, and for weights
    that the target cannot hold; FileNotFoundError; OSError where the disk is full, for instance; GGUFError
    for a malformed src, or one that becomes shorter meanwhile; UnsupportedError for a tensor type that the
    engine does not have.
    """
    src, dst = Path(src), Path(dst)
    _check_target(target, bits, effort)
    file = GGUFFile(src)
    check_destination(file, dst)
    if importance is not None:
        importance.check(file)
    model = cache(partial(load, file.path))  # loaded once, by who first needs it
    if target is None:
        meant, importance = _mixed(file, dst, bits, importance, model)
        target = MIX
    else:
        meant = {name: _meant_format(file, info, target) for name, info in file.tensors.items()}
    formats = {name: fitting_format(meant[name], info.shape[-1]) for name, info in file.tensors.items()}

    encoder = Encoder(file, formats, importance, effort, model)
    with files.replacing(dst, "dst") as path:
        _write(path, file, formats, target, encoder)
        tensors = GGUFFile(path).tensors
        n_bytes = path.stat().st_size
    replaced = {name: meant[name] for name in formats if formats[name] != meant[name]}
    return Conversion(dst, target, tensors, replaced, _requantized(file, formats), file.nbytes, n_bytes)


def _check_target(target: str | None, bits: float | None, effort: str) -> None:
    if target is not None and bits is not None:
        raise ValueError(f"expected a target or bits, and not both, got {target!r} and {bits!r}")
    if bits is None and target not in TARGETS:
        raise ValueError(f"target: expected one of {', '.join(TARGETS)}, got {target!r}")
    if bits is not None and (isinstance(bits, bool) or not isinstance(bits, Real) or not 0 < bits <= 32):
        raise ValueError(f"bits: expected bits per weight, more than 0 and at most 32, got {bits!r}")
    if effort not in EFFORTS:
        raise ValueError(f"effort: expected 'ggml' or 'best', got {effort!r}")


def _mixed(
    file: GGUFFile, dst: Path, bits: float, importance: Importance | None, model: Callable[[], Model]
) -> tuple[dict, Importance]:
    """Return {tensor: format} of a mix under a budget, and the importance that it was searched with."""
    infos = file.tensors
    fixed = {name: _meant_format(file, info, MIX) for name, info in infos.items()}
    for name, info in infos.items():
        if fixed[name] == MIX and mix.fitting(info.shape[-1]) == ["F16"]:
            fixed[name] = "F16"
    budget = int(bits * sum(prod(info.shape) for info in infos.values())) // 8
    for name, info in infos.items():
        if fixed[name] != MIX:
            budget -= prod(info.shape[:-1]) * FORMATS[fixed[name]].row_bytes(info.shape[-1])
    names = [name for name in infos if fixed[name] == MIX]
    found, importance = mix.for_budget(file, names, budget, importance, dst, model)
    return fixed | found.formats, importance


def more_bits(layer: int, n_layers: int) -> bool:
    """Is this a layer where Q4_K_M spends more bits: the first and last eighth, and every third between?

    Source: llama.cpp's use_more_bits.
    """
    first = n_layers // 8
    return layer < first or layer >= 7 * n_layers // 8 or (layer - first) % 3 == 2


def mixed_format(name: str, n_layers: int, tied: bool) -> str:
    """Return the format of a matrix in the mix Q4_K_M: Q6_K where errors hurt most, Q4_K elsewhere.

    `tied` says that the embedding is the output matrix too. Source: llama.cpp's llama_tensor_get_type.
    """
    if name == ("token_embd.weight" if tied else "output.weight"):
        return "Q6_K"
    sensitive = re.fullmatch(r"blk\.(\d+)\.(attn_v|ffn_down|ffn_down_exps)\.weight", name)
    return "Q6_K" if sensitive and more_bits(int(sensitive[1]), n_layers) else "Q4_K"


def fitting_format(name: str, K: int) -> str:
    """Return the format called `name` if rows of K weights fill its blocks, else one that they fill.

    That is a format of 32 weights that is no worse, else F16. Source: llama.cpp's tensor_type_fallback.
    """
    while K % FORMATS[name].block_size:
        name = FALLBACKS.get(name, "F16")
    return name


def _meant_format(file: GGUFFile, info: TensorInfo, target: str) -> str:
    """Return the format for a tensor, whatever the length of its rows."""
    if len(info.shape) == 1 or not info.name.endswith("weight") or info.name.endswith("_norm.weight"):
        return "F32"
    if KEPT.search(info.name) and target != "F32":
        return file.format(info.name).name
    if target != "Q4_K_M":
        return target
    return mixed_format(info.name, _n_layers(file), tied="output.weight" not in file.tensors)


def _n_layers(file: GGUFFile) -> int:
    key = f"{file.metadata.get('general.architecture')}.block_count"
    n_layers = file.metadata.get(key)
    if type(n_layers) is not int or n_layers < 1:
        raise GGUFError(f"{file.path}: {key}: expected a positive whole number, got {n_layers!r:.60}")
    return n_layers


def _requantized(file: GGUFFile, formats: dict[str, str]) -> dict[str, str]:
    """Return {tensor: format it had} of those that go from one quantized format to another."""
    had = {name: file.format(name).name for name in formats}
    return {
        name: had[name]
        for name in formats
        if had[name] not in PLAIN and formats[name] not in PLAIN and had[name] != formats[name]
    }


def check_destination(file: GGUFFile, dst: Path) -> None:
    """Refuse what is no file, and the source."""
    place = files.place_of(dst, "dst")
    if place.exists() and any(os.path.samefile(path, place) for path in file.paths):
        raise ValueError(f"dst: expected another file than src, got {dst} for both")


def _write(path: Path, file: GGUFFile, formats: dict[str, str], target: str, encoder: Encoder) -> None:
    """Write the whole file at `path`."""
    total = sum(prod(info.shape) for info in file.tensors.values())
    tensors = {name: (FORMATS[fmt], file.tensors[name].shape) for name, fmt in formats.items()}
    with tqdm(total=total, desc=target, unit=" weights", unit_scale=True, delay=2, leave=False) as bar:

        def rows(name):
            return _encoded(file, name, tensors[name][0], encoder, bar)

        write_gguf(path, _metadata(file, target), file.alignment, tensors, rows)


def _metadata(file: GGUFFile, target: str) -> dict[str, tuple[int, bytes]]:
    """Return {key: (type, bytes of the value)} for the new file."""
    metadata = {key: file.metadata.encoded(key) for key in file.metadata if not key.startswith("split.")}
    file_type = gguf.LlamaFileType[FILE_TYPES.get(target, "GUESSED")]
    for key, value in {"quantization_version": gguf.GGML_QUANT_VERSION, "file_type": file_type}.items():
        metadata[f"general.{key}"] = uint32(value)
    return metadata


def _encoded(file: GGUFFile, name: str, fmt: Format, encoder: Encoder, bar: tqdm) -> np.ndarray:
    """Return a tensor's bytes in another format, uint8 [rows, row bytes]."""
    info = file.tensors[name]
    source, K, raw = file.format(name), info.shape[-1], file.raw(name)
    rows = raw.reshape(-1, raw.shape[-1])
    file.check_size()
    if fmt is source:
        bar.update(rows.shape[0] * K)
        return rows
    out = np.empty((len(rows), fmt.row_bytes(K)), np.uint8)
    for matrix, i, end in _chunks(info):
        file.check_size()
        weights = source.dequantize(rows[i:end])
        if not np.isfinite(weights).all():
            raise GGUFError(f"{file.path}: tensor {name} holds weights that are no finite numbers")
        out[i:end] = encoded = encoder(name, matrix, weights)
        if not np.isfinite(fmt.dequantize(encoded)).all():
            raise ValueError(f"{file.path}: tensor {name} holds weights too large for {fmt.name}")
        bar.update(weights.size)
    return out


def _chunks(info: TensorInfo) -> Iterator[tuple[int, int, int]]:
    """Yield (matrix, first row, end) of pieces of about CHUNK weights; each expert is a matrix of its own."""
    total, K = prod(info.shape[:-1]), info.shape[-1]
    n_rows, of_matrix = max(1, CHUNK // K), info.shape[-2] if len(info.shape) > 2 else max(1, total)
    for matrix in range(total // of_matrix):
        for i in range(matrix * of_matrix, (matrix + 1) * of_matrix, n_rows):
            yield matrix, i, min(i + n_rows, (matrix + 1) * of_matrix)
