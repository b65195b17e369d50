"""Convert: a GGUF file in, the same model in another format out.

    src  --map-->  rows of blocks  --decode-->  float32  --encode-->  rows of blocks  -->  dst

metadata          byte for byte that of src, but for general.file_type and general.quantization_version
vectors, norms    F32: they are few, and every weight behind them depends on them
matrices          the target; Q4_K_M is a mix of two formats, see `mixed_format`
rows that do not fill the blocks of a format: see `fitting_format`

A tensor that has its format already is copied. Of any other, `CHUNK` weights at a time are float32. The
file is written beside dst under another name and takes dst's place when it is complete.
"""

import os
import re
import secrets
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path

import gguf
import numpy as np
from gguf.gguf_writer import WriterState
from tqdm import tqdm

from blocks2tokens.errors import GGUFError, UnsupportedError
from blocks2tokens.formats import FORMATS, Format, by_ggml_type
from blocks2tokens.gguf_file import GGUFFile, TensorInfo

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

# For rows that do not fill blocks of 256. Source: llama.cpp's tensor_type_fallback.
FALLBACKS = {
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "IQ4_XS": "IQ4_NL",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}

CHUNK = 2**20  # weights


@dataclass(frozen=True)
class Conversion:
    """What `convert` wrote; prints itself as a summary.

    path         the new file
    target       as it was asked for
    tensors      of the new file, by name
    replaced     tensor -> the format that was meant for it, where its rows do not fill the blocks
    bytes_before, bytes_after    sizes of the files
    """

    path: Path
    target: str
    tensors: dict[str, TensorInfo]
    replaced: dict[str, str]
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
        for name, meant in self.replaced.items():
            info = self.tensors[name]
            got = by_ggml_type(info.ggml_type).name
            lines.append(f"  {name} is {got}: rows of {info.shape[-1]} weights do not fill blocks of {meant}")
        return "\n".join(lines)


def convert(
    src: str | os.PathLike[str], dst: str | os.PathLike[str], target: str, effort: str = "ggml"
) -> Conversion:
    """Write the model of the GGUF file src to dst in another format; return what was written.

    `target` is the name of a format, F32 to MXFP4, or the mix "Q4_K_M"; `effort` is that of
    `Format.quantize`. An existing dst is replaced at the end, or not at all: an error or an interrupt
    leaves it as it was, and no partial file.

    Raises ValueError for another target or effort, for dst that is src or is not a file, and for weights
    that the target cannot hold; FileNotFoundError; GGUFError for a malformed src; UnsupportedError for a
    tensor type that the engine does not have and for a part of a model that is split over files.
    """
    src, dst = Path(src), Path(dst)
    if target not in TARGETS:
        raise ValueError(f"target: expected one of {', '.join(TARGETS)}, got {target!r}")
    if effort not in ("ggml", "best"):
        raise ValueError(f"effort: expected 'ggml' or 'best', got {effort!r}")
    file = GGUFFile(src)
    if file.metadata.get("split.count", 1) != 1:
        raise UnsupportedError(f"{src}: a part of a model that is split over files: merge them first")
    _check_destination(src, dst)
    meant = {name: _meant_format(file, info, target) for name, info in file.tensors.items()}
    formats = {name: fitting_format(meant[name], info.shape[-1]) for name, info in file.tensors.items()}

    partial = dst.with_name(f"{dst.name}.{secrets.token_hex(4)}.partial")
    try:
        _write(partial, file, formats, target, effort)
        tensors = GGUFFile(partial).tensors
        n_bytes = partial.stat().st_size
        os.replace(partial, dst)
    finally:
        partial.unlink(missing_ok=True)
    replaced = {name: meant[name] for name in formats if formats[name] != meant[name]}
    return Conversion(dst, target, tensors, replaced, src.stat().st_size, n_bytes)


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
    is_matrix = (
        len(info.shape) > 1
        and info.name.endswith(".weight")
        and not info.name.endswith(("_norm.weight", "ffn_gate_inp.weight"))  # a router is small, and decides
    )
    if not is_matrix:
        return "F32"
    if target != "Q4_K_M":
        return target
    return mixed_format(info.name, _n_layers(file), tied="output.weight" not in file.tensors)


def _n_layers(file: GGUFFile) -> int:
    key = f"{file.metadata.get('general.architecture')}.block_count"
    n_layers = file.metadata.get(key)
    if type(n_layers) is not int or n_layers < 1:
        raise GGUFError(f"{file.path}: {key}: expected a positive whole number, got {n_layers!r:.60}")
    return n_layers


def _check_destination(src: Path, dst: Path) -> None:
    if not dst.parent.is_dir():
        raise FileNotFoundError(f"{dst.parent}: no such folder")
    if not dst.exists():
        return
    if not dst.is_file():
        raise ValueError(f"dst: expected a file's name, {dst} is something else")
    if os.path.samefile(src, dst):
        raise ValueError(f"dst: expected another file than src, got {dst} for both")


def _write(path: Path, file: GGUFFile, formats: dict[str, str], target: str, effort: str) -> None:
    """Write the whole file at `path`, all of it on the disk."""
    writer = _Writer(path, _metadata(file, target), file.alignment)
    total = sum(prod(info.shape) for info in file.tensors.values())
    try:
        for name, format_name in formats.items():
            fmt, shape = FORMATS[format_name], file.tensors[name].shape
            raw_shape = (*shape[:-1], fmt.row_bytes(shape[-1]))
            ggml_type = gguf.GGMLQuantizationType(fmt.ggml_type)
            writer.add_tensor_info(name, raw_shape, np.dtype(np.uint8), prod(raw_shape), ggml_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        with tqdm(total=total, desc=target, unit=" weights", unit_scale=True, delay=2, leave=False) as bar:
            for name, format_name in formats.items():
                writer.write_tensor_data(_encoded(file, name, FORMATS[format_name], effort, bar))
        writer.sync()
    finally:
        writer.close()


def _metadata(file: GGUFFile, target: str) -> dict[str, tuple[int, bytes]]:
    """Return {key: (type, bytes of the value)} for the new file."""
    metadata = {key: file.metadata.encoded(key) for key in file.metadata}
    file_type = gguf.LlamaFileType[FILE_TYPES[target]]
    for key, value in {"quantization_version": gguf.GGML_QUANT_VERSION, "file_type": file_type}.items():
        metadata[f"general.{key}"] = (gguf.GGUFValueType.UINT32, struct.pack("<I", value))
    return metadata


def _encoded(file: GGUFFile, name: str, fmt: Format, effort: str, bar: tqdm) -> np.ndarray:
    """Return a tensor's bytes in another format, uint8 [rows, row bytes]."""
    info = file.tensors[name]
    source, K, raw = by_ggml_type(info.ggml_type), info.shape[-1], file.raw(name)
    rows = raw.reshape(-1, raw.shape[-1])
    if fmt is source:
        bar.update(rows.shape[0] * K)
        return rows
    out = np.empty((len(rows), fmt.row_bytes(K)), np.uint8)
    n_rows = max(1, CHUNK // K)
    for i in range(0, len(rows), n_rows):
        weights = source.dequantize(rows[i : i + n_rows])
        if not np.isfinite(weights).all():
            raise GGUFError(f"{file.path}: tensor {name} holds weights that are no finite numbers")
        out[i : i + n_rows] = fmt.quantize(weights, effort=effort)
        if not np.isfinite(fmt.dequantize(out[i : i + n_rows])).all():
            raise ValueError(f"{file.path}: tensor {name} holds weights too large for {fmt.name}")
        bar.update(weights.size)
    return out


class _Writer(gguf.GGUFWriter):
    """gguf's writer, given metadata as bytes: what stays as it was is not decoded."""

    def __init__(self, path: Path, metadata: dict[str, tuple[int, bytes]], alignment: int):
        super().__init__(path, arch="")
        self.kv_data[0] = metadata
        self.data_alignment = alignment

    def write_kv_data_to_file(self) -> None:
        for key, (value_type, value) in self.kv_data[0].items():
            name = key.encode()
            self.fout[0].write(struct.pack("<Q", len(name)) + name + struct.pack("<I", value_type) + value)
        self.state = WriterState.KV_DATA

    def sync(self) -> None:
        """Wait until the file is on the disk, so that it cannot get its name before its contents."""
        self.flush()
        os.fsync(self.fout[0].fileno())
