"""GGUF: one file with a model's settings, its vocabulary and its blocks. Versions 2 and 3, little-endian.

    magic           4 bytes     b"GGUF"
    version         uint32      2 or 3 (the same layout; 3 added big-endian files)
    n_tensors       uint64
    n_kv            uint64
    metadata        n_kv times:
        key         string
        type        uint32      0 uint8  1 int8  2 uint16  3 int16  4 uint32  5 int32  6 float32
                                7 bool  8 string  9 array  10 uint64  11 int64  12 float64
        value       of that type
    tensor infos    n_tensors times:
        name        string
        n_dims      uint32      1..4
        ne          uint64[n_dims]   fastest dimension first: NumPy's shape reversed
        type        uint32      ggml_type of the format: 0 F32, 2 Q4_0, 12 Q4_K, ...
        offset      uint64      from the start of the data, a multiple of the alignment
    padding                     up to a multiple of the alignment: `general.alignment`, else 32
    data                        each tensor's blocks, row after row, at its offset

    split           model-00001-of-00003.gguf has all metadata, the others their tensors; in each of them
                    split.no 0.. uint16, split.count 3 uint16, split.tensors.count of all together, int32

    string = length uint64, then that many bytes of UTF-8
    array  = type uint32, count uint64, then the elements; an element may be an array again

Opening walks the header once and checks every size, count, offset and type before it is used. What the
header describes stays in the file: a metadata value is decoded when it is asked for, a tensor is a view.

A file must stay as it is for as long as it is open: the system ends a process that reads, from a mapped
file, what is no longer there. `check_size` finds out in time that one was cut.

Source: ggml's GGUF specification, docs/gguf.md; llama.cpp's llama-model-loader.cpp for split files.
"""

import mmap
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np

from blocks2tokens import formats
from blocks2tokens.errors import GGUFError, UnsupportedError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32

BOOL, STRING, ARRAY = 7, 8, 9
NUMBERS = {  # value type -> dtype in the file
    0: np.dtype("<u1"),
    1: np.dtype("<i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    BOOL: np.dtype("?"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}
UINT32, UINT64, ARRAY_HEAD = struct.Struct("<I"), struct.Struct("<Q"), struct.Struct("<IQ")

# The fewest bytes that one of these can take: no count may promise more than the file can hold.
MIN_SIZE = {value_type: dtype.itemsize for value_type, dtype in NUMBERS.items()}
MIN_SIZE |= {STRING: UINT64.size, ARRAY: ARRAY_HEAD.size}
MIN_KV_SIZE = 8 + 1 + 4 + 1  # key of one byte, type, value of one byte
MIN_TENSOR_INFO_SIZE = 8 + 1 + 4 + 8 + 4 + 8  # name of one byte, n_dims, one dimension, type, offset

MAX_NAME_BYTES = 65535  # the specification's limit for keys
MAX_DIMS = 4
MAX_ARRAY_DEPTH = 4
MIN_ALIGNMENT, MAX_ALIGNMENT = 8, 2**20  # the specification asks for a multiple of 8

# ggml types that a file may hold and the engine does not decode: name, weights and bytes of a block.
FOREIGN_TYPES = {
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    41: ("Q1_0", 128, 18),
}
REMOVED_TYPES = {  # which no file should hold, or none any more: to call them by name
    4: "Q4_2", 5: "Q4_3", 9: "Q8_1", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8",
    36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8",
}  # fmt: skip

Value = int | float | bool | str | np.ndarray | list


class ForeignType(NamedTuple):
    """A type that files hold and the engine has no format for: its name and the size of its blocks."""

    name: str
    block_size: int
    bytes_per_block: int


class TensorInfo(NamedTuple):
    """A tensor's type and place: `shape` in NumPy's order, in weights; `offset` from byte 0 of the file."""

    name: str
    ggml_type: int
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class GGUFFile:
    """A GGUF file, memory-mapped and checked: `path`, `version`, `metadata`, `alignment`, `tensors`.

    `metadata` maps a key to its value, `tensors` a name to its TensorInfo; a matrix has shape (out, in).
    The file stays mapped for as long as this object, or an array from `raw`, is alive. The path of the first
    part of a split model opens all of it: `paths` are those of the parts, `tensors` those of all.

    Raises FileNotFoundError; GGUFError for a malformed file, naming file, byte and reason, for a part that is
    not the first, and for parts that are missing or do not belong together; UnsupportedError for another
    version, a big-endian file or a tensor type of unknown size.
    Source: ggml's GGUF specification; gguf_init_from_file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        first = _Part(self.path)
        self.version, self.metadata, self.alignment = first.version, first.metadata, first.alignment
        self._parts = [first, *_other_parts(first)]
        self._part_of = {name: part for part in self._parts for name in part.tensors}
        self.tensors = {name: part.tensors[name] for name, part in self._part_of.items()}

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that the model is in: one, unless it is split."""
        return tuple(part.path for part in self._parts)

    @property
    def nbytes(self) -> int:
        """The size of the file, of all parts together."""
        return sum(len(part.buffer) for part in self._parts)

    @property
    def data(self) -> np.ndarray:
        """All bytes of the (first) file, uint8, read-only and not copied; a tensor begins at its `offset`."""
        return np.frombuffer(self._parts[0].buffer, np.uint8)

    def raw(self, name: str) -> np.ndarray:
        """The tensor's bytes in the file, uint8 [..., row_bytes], read-only and not copied.

        Raises KeyError for a name that is not in `tensors`.
        """
        info, part = self.tensors[name], self._part_of[name]
        raw = np.frombuffer(part.buffer, np.uint8, count=info.nbytes, offset=info.offset)
        return raw.reshape(*info.shape[:-1], -1)

    def format(self, name: str) -> formats.Format:
        """Return the format of a tensor; UnsupportedError for a type that the engine cannot decode."""
        fmt = type_of(self.tensors[name].ggml_type)
        if isinstance(fmt, ForeignType):
            path = self._part_of[name].path
            raise UnsupportedError(f"{path}: tensor {name!r} has type {fmt.name}, which is not supported")
        return fmt

    def check_size(self) -> None:
        """Raise GGUFError if a file has become shorter since it was opened: its bytes must not be read."""
        for part in self._parts:
            if (size := part.buffer.size()) < len(part.buffer):
                before = len(part.buffer)
                raise GGUFError(f"{part.path}: byte {size}: the file ends here now, it had {before} bytes")

    def __repr__(self) -> str:
        counts = f"{len(self.metadata)} metadata keys, {len(self.tensors)} tensors"
        return f"GGUFFile({self.path.name!r}, version {self.version}, {counts})"


class Metadata(Mapping[str, Value]):
    """The file's key-value pairs; a value is decoded the first time it is asked for, then kept.

    A number is an int, float or bool; an array of numbers a read-only NumPy array of the file's dtype;
    an array of strings a list of str; an array of arrays a list of those. Bytes of a string that are not
    UTF-8, as some vocabularies have them, become lone surrogates:
    `value.encode("utf-8", "surrogateescape")` gives the file's bytes back.
    """

    def __init__(self, buffer: mmap.mmap, fields: dict[str, "_Field"]) -> None:
        self._buffer = buffer
        self._fields = fields
        self._values: dict[str, Value] = {}

    def __getitem__(self, key: str) -> Value:
        if key not in self._values:
            field = self._fields[key]
            self._values[key], _ = decode_value(self._buffer, field.type, field.start)
        return self._values[key]

    def encoded(self, key: str) -> tuple[int, bytes]:
        """Return a value as it stands in the file, its type and its bytes: what an exact copy needs."""
        field = self._fields[key]
        return field.type, self._buffer[field.start : field.end]

    def __contains__(self, key: object) -> bool:
        return key in self._fields  # Mapping's own would decode the value to find out

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __repr__(self) -> str:
        return f"Metadata({len(self)} keys)"


class _Part:
    """One file: `path`, `buffer`, `version`, `metadata`, `alignment`, `tensors`."""

    def __init__(self, path: Path) -> None:
        self.path, self.buffer = path, _map(path)
        cursor = _Cursor(self.buffer, path)
        self.version, n_tensors, n_kv = _read_counts(cursor)
        fields = _read_fields(cursor, n_kv)
        self.metadata = Metadata(self.buffer, fields)
        self.alignment = _read_alignment(cursor, fields, self.metadata)
        self.tensors: dict[str, TensorInfo] = _read_tensors(cursor, n_tensors, self.alignment)

    def number(self, key: str, default: int) -> int:
        """Return a whole number >= 0 of the metadata."""
        value = self.metadata.get(key, default)
        if type(value) is not int or value < 0:
            raise GGUFError(f"{self.path}: {key}: expected a whole number >= 0, got {value!r:.60}")
        return value


def _other_parts(first: _Part) -> Iterator[_Part]:
    """Yield the parts behind the first of a split model, found by their names and checked."""
    count, no = first.number("split.count", 1), first.number("split.no", 0)
    if count <= 1:
        return
    ending = "-{:05d}-of-" + f"{count:05d}.gguf"
    beginning = first.path.name.removesuffix(ending.format(no + 1))
    if beginning == first.path.name:
        expected = ending.format(no + 1)
        raise GGUFError(f"{first.path}: part {no + 1} of {count}: expected a name that ends in {expected}")
    if no:
        name = beginning + ending.format(1)
        raise GGUFError(f"{first.path}: part {no + 1} of {count} of a split model, open the first: {name}")
    names = set(first.tensors)
    for i in range(1, count):
        path = first.path.with_name(beginning + ending.format(i + 1))
        if not path.exists():
            raise GGUFError(f"{first.path}: part {i + 1} of {count} is missing: {path.name}")
        part = _Part(path)
        _check_part(part, first, i, names)
        names |= part.tensors.keys()
        yield part
    total = first.number("split.tensors.count", len(names))
    if total != len(names):
        raise GGUFError(f"{first.path}: split.tensors.count: {total}, and the parts hold {len(names)}")


def _check_part(part: _Part, first: _Part, i: int, names: set[str]) -> None:
    """Refuse a file that is not part i, counted from 0, of the model whose first part is given."""
    found = part.number("split.no", 0), part.number("split.count", 1)
    expected = i, first.number("split.count", 1)
    if found != expected:
        shown = [f"split.no {no} and split.count {count}" for no, count in (expected, found)]
        raise GGUFError(f"{part.path}: expected {shown[0]}, got {shown[1]}")
    for key in ("split.tensors.count", "general.architecture", "general.name"):
        mine, its = first.metadata.get(key), part.metadata.get(key)
        if its is not None and its != mine:
            raise GGUFError(
                f"{part.path}: a part of another model: its {key} is {its!r:.60}, not {mine!r:.60}"
            )
    if twice := names & part.tensors.keys():
        raise GGUFError(f"{part.path}: tensor {min(twice)!r} is in a part before it already")


class _Field(NamedTuple):
    """A metadata value's type, the byte where it starts and the byte behind it."""

    type: int
    start: int
    end: int


def _map(path: Path) -> mmap.mmap:
    """Map a file for reading, after a look at what it is: to open a pipe would wait for a writer."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise GGUFError(f"{path}: byte 0: not a regular file")
    if status.st_size == 0:
        raise GGUFError(f"{path}: byte 0: the file is empty")
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    _ask_for_large_pages(mapped)
    return mapped


def _ask_for_large_pages(mapped: mmap.mmap) -> None:
    """Have the system read the file in pages of 2 MB where it can: weights then stream faster.

    A page of 4 kB is looked up for every 64 cache lines. What the system holds of the file already stays
    in the pages that it has.
    """
    with suppress(AttributeError, OSError):  # another system, or a kernel without them
        mapped.madvise(mmap.MADV_HUGEPAGE)


class _Cursor:
    """A position in the file; each read is checked against the bytes left, and moves it on."""

    def __init__(self, buffer: mmap.mmap, path: Path) -> None:
        self.buffer = buffer
        self.path = path
        self.size = len(buffer)
        self.pos = 0

    def error(self, reason: str, at: int) -> GGUFError:
        return GGUFError(f"{self.path}: byte {at}: {reason}")

    def incomplete(self, expected: int, reason: str, at: int) -> GGUFError:
        """Return the error of a file that ends too early; `expected` is the least size that fits it."""
        sizes = f"expected {expected:,} bytes or more, found {self.size:,}"
        return self.error(f"incomplete download? {sizes}: {reason}", at)

    def skip(self, n_bytes: int, what: str) -> int:
        """Move past n_bytes and return where they start."""
        start = self.pos
        if n_bytes > self.size - start:
            reason = f"{what} needs {n_bytes} bytes, {self.size - start} are left"
            raise self.incomplete(start + n_bytes, reason, start)
        self.pos += n_bytes
        return start

    def uint32(self, what: str) -> int:
        return UINT32.unpack_from(self.buffer, self.skip(UINT32.size, what))[0]

    def uint64(self, what: str) -> int:
        return UINT64.unpack_from(self.buffer, self.skip(UINT64.size, what))[0]

    def name(self, what: str) -> str:
        """Read a key or a tensor's name: 1 to 65535 bytes of valid UTF-8."""
        at = self.pos
        length = self.uint64(f"the length of {what}")
        if not 1 <= length <= MAX_NAME_BYTES:
            raise self.error(f"{what} has {length} bytes, expected 1 to {MAX_NAME_BYTES}", at)
        start = self.skip(length, what)
        try:
            return self.buffer[start : self.pos].decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is not UTF-8", start + error.start) from None

    def skip_value(self, value_type: int, what: str) -> None:
        """Move past a metadata value."""
        if value_type == ARRAY:
            self.skip_array(what, depth=1)
        else:
            self.skip_elements(value_type, 1, what)

    def skip_array(self, what: str, depth: int) -> None:
        """Move past an array: its head, then its elements."""
        at = self.pos
        element_type, count = ARRAY_HEAD.unpack_from(self.buffer, self.skip(ARRAY_HEAD.size, what))
        if depth > MAX_ARRAY_DEPTH:
            raise self.error(f"{what} nests arrays more than {MAX_ARRAY_DEPTH} deep", at)
        if element_type != ARRAY:
            self.skip_elements(element_type, count, what)
            return
        self.check_count(ARRAY, count, what)
        for _ in range(count):
            self.skip_array(what, depth + 1)

    def check_count(self, element_type: int, count: int, what: str) -> None:
        """Refuse a type that does not exist, and a count of elements that the bytes left cannot hold."""
        if element_type not in MIN_SIZE:
            raise self.error(f"{what} has value type {element_type}, which does not exist", self.pos)
        left, needed = self.size - self.pos, count * MIN_SIZE[element_type]
        if needed > left:
            reason = f"{what} has {count} elements, but only {left} bytes are left"
            raise self.incomplete(self.pos + needed, reason, self.pos)

    def skip_elements(self, element_type: int, count: int, what: str) -> None:
        """Move past numbers or strings."""
        self.check_count(element_type, count, what)
        if element_type == STRING:
            self.skip_strings(count, what)
            return
        start = self.skip(count * NUMBERS[element_type].itemsize, what)
        if element_type == BOOL and count:
            values = np.frombuffer(self.buffer, np.uint8, count, start)
            first_bad = int((values > 1).argmax())
            if values[first_bad] > 1:
                reason = f"{what} holds a bool of {values[first_bad]}, expected 0 or 1"
                raise self.error(reason, start + first_bad)

    def skip_strings(self, count: int, what: str) -> None:
        """Move past strings, from length to length; a vocabulary has 10^5 of them, so the loop is bare."""
        buffer, length_at, pos = self.buffer, UINT64.unpack_from, self.pos
        last = self.size - UINT64.size
        for i in range(count):
            if pos > last:
                reason = f"{what}: string {i} would start at {pos}, past the end"
                raise self.incomplete(pos + UINT64.size * (count - i), reason, self.pos)
            pos += 8 + length_at(buffer, pos)[0]
        self.skip(pos - self.pos, what)


def _read_counts(cursor: _Cursor) -> tuple[int, int, int]:
    """Check magic and version and return (version, n_tensors, n_kv)."""
    magic = cursor.buffer[: len(MAGIC)]
    if magic != MAGIC:
        raise cursor.error(f"not a GGUF file: it starts with {magic!r}, expected {MAGIC!r}", 0)
    cursor.skip(len(MAGIC), "magic")
    version = cursor.uint32("the version")
    if version and version % 65536 == 0:
        raise UnsupportedError(
            f"{cursor.path}: byte 4: a big-endian GGUF file, only little-endian ones are read"
        )
    if version not in VERSIONS:
        raise UnsupportedError(f"{cursor.path}: byte 4: GGUF version {version}, only 2 and 3 are read")
    at = cursor.pos
    n_tensors, n_kv = cursor.uint64("the number of tensors"), cursor.uint64("the number of metadata keys")
    left, needed = cursor.size - cursor.pos, n_tensors * MIN_TENSOR_INFO_SIZE + n_kv * MIN_KV_SIZE
    if needed > left:
        reason = f"{n_tensors} tensors and {n_kv} metadata keys cannot fit in {left} bytes"
        raise cursor.incomplete(cursor.pos + needed, reason, at)
    return version, n_tensors, n_kv


def _read_fields(cursor: _Cursor, n_kv: int) -> dict[str, _Field]:
    """Walk the metadata and note where each value starts, without decoding it."""
    fields: dict[str, _Field] = {}
    for i in range(n_kv):
        at = cursor.pos
        key = cursor.name(f"metadata key {i}")
        if key in fields:
            raise cursor.error(f"metadata key {key!r} appears twice", at)
        value_type = cursor.uint32(f"the type of {key!r}")
        start = cursor.pos
        cursor.skip_value(value_type, f"metadata {key!r}")
        fields[key] = _Field(value_type, start, cursor.pos)
    return fields


def _read_alignment(cursor: _Cursor, fields: dict[str, _Field], metadata: Metadata) -> int:
    """Return the multiple at which the data and each tensor start."""
    key = "general.alignment"
    if key not in metadata:
        return DEFAULT_ALIGNMENT
    if NUMBERS.get(fields[key].type) != np.uint32:
        raise cursor.error(f"{key} has value type {fields[key].type}, expected 4 (uint32)", fields[key].start)
    alignment = metadata[key]
    if not MIN_ALIGNMENT <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        expected = f"a power of two from {MIN_ALIGNMENT} to {MAX_ALIGNMENT}"
        raise cursor.error(f"{key} is {alignment}, expected {expected}", fields[key].start)
    return alignment


def aligned(offset: int, alignment: int) -> int:
    """Return the first multiple of `alignment` that is not below `offset`."""
    return -(-offset // alignment) * alignment


def _read_tensors(cursor: _Cursor, n_tensors: int, alignment: int) -> dict[str, TensorInfo]:
    """Read the tensor infos and place each tensor in the data, which starts where they end."""
    infos: dict[str, TensorInfo] = {}  # offsets still count from the start of the data
    starts: dict[str, int] = {}  # where each info lies, for errors
    for i in range(n_tensors):
        at = cursor.pos
        info = _read_tensor_info(cursor, i)
        if info.name in infos:
            raise cursor.error(f"tensor {info.name!r} appears twice", at)
        infos[info.name], starts[info.name] = info, at
    data_start = aligned(cursor.pos, alignment)
    expected = data_start + max((info.offset + info.nbytes for info in infos.values()), default=0)
    for info in infos.values():
        _check_place(cursor, info, starts[info.name], alignment, data_start, expected)
    for info, following in pairwise(sorted(infos.values(), key=lambda info: info.offset)):
        if info.offset + info.nbytes > following.offset:
            reason = f"tensor {following.name!r} overlaps tensor {info.name!r}"
            raise cursor.error(reason, starts[following.name])
    return {name: info._replace(offset=data_start + info.offset) for name, info in infos.items()}


def _read_tensor_info(cursor: _Cursor, i: int) -> TensorInfo:
    """Read one tensor info; its offset counts from the start of the data."""
    name = cursor.name(f"the name of tensor {i}")
    what = f"tensor {name!r}"
    at = cursor.pos
    n_dims = cursor.uint32(f"n_dims of {what}")
    if not 1 <= n_dims <= MAX_DIMS:
        raise cursor.error(f"{what} has {n_dims} dimensions, expected 1 to {MAX_DIMS}", at)
    at = cursor.pos
    ne = [cursor.uint64(f"a dimension of {what}") for _ in range(n_dims)]
    if 0 in ne:
        raise cursor.error(f"{what} has an empty dimension: {ne}", at + 8 * ne.index(0))
    type_at = cursor.pos
    ggml_type = cursor.uint32(f"the type of {what}")
    fmt = _find_type(cursor, ggml_type, what, type_at)
    if ne[0] % fmt.block_size:
        reason = f"{what} has rows of {ne[0]} weights, expected a multiple of {fmt.block_size} for {fmt.name}"
        raise cursor.error(reason, at)
    shape, nbytes = shape_and_bytes(ne, fmt)
    return TensorInfo(name, ggml_type, shape, cursor.uint64(f"the offset of {what}"), nbytes)


def shape_and_bytes(ne: list[int], fmt: "formats.Format | ForeignType") -> tuple[tuple[int, ...], int]:
    """Return NumPy's shape of a tensor of dimensions `ne`, fastest first, and the bytes that it takes."""
    n_blocks = prod(ne) // fmt.block_size
    return tuple(reversed(ne)), n_blocks * fmt.bytes_per_block


def type_of(ggml_type: int) -> "formats.Format | ForeignType":
    """Return the format of this number, or what is known of one that the engine does not have.

    Raises UnsupportedError for a number of which nothing is known.
    """
    try:
        return formats.by_ggml_type(ggml_type)
    except UnsupportedError:
        if ggml_type not in FOREIGN_TYPES:
            raise
        return ForeignType(*FOREIGN_TYPES[ggml_type])


def _find_type(cursor: _Cursor, ggml_type: int, what: str, at: int) -> "formats.Format | ForeignType":
    """Return the tensor's type, or raise an UnsupportedError that names the tensor too."""
    try:
        return type_of(ggml_type)
    except UnsupportedError:
        type_name = REMOVED_TYPES.get(ggml_type, "unknown")
        reason = f"{what} has ggml type {ggml_type} ({type_name}), which is not supported"
        raise UnsupportedError(f"{cursor.path}: byte {at}: {reason}") from None


def _check_place(
    cursor: _Cursor, info: TensorInfo, at: int, alignment: int, data_start: int, expected: int
) -> None:
    """Refuse a tensor that is misaligned or does not lie inside the data section.

    `at` is the byte of its info, `expected` the size of a file that holds all tensors.
    """
    what = f"tensor {info.name!r}"
    if info.offset % alignment:
        raise cursor.error(f"{what} has offset {info.offset}, expected a multiple of {alignment}", at)
    end, data_bytes = info.offset + info.nbytes, max(cursor.size - data_start, 0)
    if end > data_bytes:
        reason = f"{what} lies at {info.offset} to {end} of {data_bytes} bytes of data"
        raise cursor.incomplete(expected, reason, at)


def decode_value(buffer: bytes | mmap.mmap, value_type: int, at: int) -> tuple[Value, int]:
    """Decode the metadata value at `at`, which the walk has checked; return it and where it ends."""
    if value_type == STRING:
        return decode_string(buffer, at)
    if value_type == ARRAY:
        return _decode_array(buffer, at)
    dtype = NUMBERS[value_type]
    end = at + dtype.itemsize
    return np.frombuffer(buffer[at:end], dtype)[0].item(), end


def decode_string(buffer: bytes | mmap.mmap, at: int) -> tuple[str, int]:
    """Decode the string at `at`: its length, then its bytes; return it and where it ends."""
    start = at + UINT64.size
    end = start + UINT64.unpack_from(buffer, at)[0]
    return buffer[start:end].decode("utf-8", "surrogateescape"), end


def _decode_array(buffer: bytes | mmap.mmap, at: int) -> tuple[np.ndarray | list, int]:
    """Decode the array at `at`: numbers to a read-only array, strings or arrays to a list."""
    element_type, count = ARRAY_HEAD.unpack_from(buffer, at)
    pos = at + ARRAY_HEAD.size
    if element_type in NUMBERS:
        dtype = NUMBERS[element_type]
        end = pos + count * dtype.itemsize
        # A copy: in the file an array may start at any byte, and compiled kernels want it aligned.
        return np.frombuffer(buffer[pos:end], dtype), end
    if element_type == STRING:
        return _decode_strings(buffer, count, pos)
    elements = []
    for _ in range(count):
        element, pos = decode_value(buffer, element_type, pos)
        elements.append(element)
    return elements, pos


def _decode_strings(buffer: bytes | mmap.mmap, count: int, pos: int) -> tuple[list[str], int]:
    """Decode strings that lie one behind another; a vocabulary has 10^5 of them, so the loop is bare."""
    length_at, strings = UINT64.unpack_from, []
    for _ in range(count):
        start = pos + 8
        pos = start + length_at(buffer, pos)[0]
        strings.append(buffer[start:pos].decode("utf-8", "surrogateescape"))
    return strings, pos
