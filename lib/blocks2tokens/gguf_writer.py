"""Writing a GGUF file made from another one: metadata as bytes, then one tensor after the other.

    metadata   {key: (type, bytes of the value)}     what stays as it was is not decoded
    tensors    {name: (format, shape)}               shape in weights, (out, in)
    rows       name -> uint8 [rows, row bytes]       asked for in turn: one tensor is in memory at a time

See `gguf_file` for the layout.
"""

import os
import struct
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path

import gguf
import numpy as np
from gguf.gguf_writer import WriterState

from blocks2tokens.formats import Format

Encoded = tuple[int, bytes]  # a value as it stands in the file: its type and its bytes


def write_gguf(
    path: Path,
    metadata: Mapping[str, Encoded],
    alignment: int,
    tensors: Mapping[str, tuple[Format, tuple[int, ...]]],
    rows: Callable[[str], np.ndarray],
) -> None:
    """Write the whole file at `path`, all of it on the disk; OSError where the disk is full, for instance."""
    writer = _Writer(path, metadata, alignment)
    try:
        for name, (fmt, shape) in tensors.items():
            raw_shape = (*shape[:-1], fmt.row_bytes(shape[-1]))
            ggml_type = gguf.GGMLQuantizationType(fmt.ggml_type)
            writer.add_tensor_info(name, raw_shape, np.dtype(np.uint8), prod(raw_shape), ggml_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name in tensors:
            writer.write_tensor_data(rows(name).view(_Rows))
        writer.sync()
    finally:
        writer.close()


def uint32(value: int) -> Encoded:
    """Return a whole number as the file has it."""
    return gguf.GGUFValueType.UINT32, struct.pack("<I", value)


class _Rows(np.ndarray):
    """Bytes that say why they cannot be written."""

    def tofile(self, file) -> None:
        """Write all; OSError with the system's reason, where NumPy's own tells but the number of bytes."""
        file.write(self)


class _Writer(gguf.GGUFWriter):
    """gguf's writer, given metadata as bytes."""

    def __init__(self, path: Path, metadata: Mapping[str, Encoded], alignment: int):
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
