"""The file of a session: its conversation, and the keys and values of what it has read.

    length         uint64      of the header, in bytes
    header         JSON        {"__metadata__": {...}, "ids": {...}, "keys": {...}, "values": {...}, ...}
    ids            int64       [n_tokens]
    keys, values   float32 or float16   [n_layers, n_kv_heads, n_tokens, head_dim]
                   or uint8             [n_layers, n_kv_heads, n_tokens, bytes of a row's blocks]
    frames         float32     [n_layers, n_kv_heads, frame_rows, head_dim], in q4_0 alone: see `key_frame`
    recent         uint8       [n_layers, 2, n_kv_heads, n, bytes of a row in q8_0], likewise: see `kv_cache`

    __metadata__   format      "blocks2tokens session 1"
                   model       JSON: the fingerprint of the model's file
                   cache       the type of keys and values: "float32", "float16", "q8_0", "q4_0"
                   session     JSON: system, template_variables, turns [question, answer]
    ids, ...       dtype "I64", "F32", "F16" or "U8"; shape;
                   data_offsets [first, last] in bytes behind the header

This is the layout of safetensors files, so other programs can look into it. Nothing in it is believed: what
the header says of the arrays has to be, word for word, what the model makes of that many tokens, and the file
as long as that. So no size is taken from the file before it is known to be true.

Source: the safetensors format, github.com/huggingface/safetensors.
"""

import hashlib
import json
import os
import stat
import struct
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np

from blocks2tokens import files
from blocks2tokens.gguf_file import GGUFFile

FORMAT = "blocks2tokens session 1"
LENGTH = struct.Struct("<Q")
MOST_HEADER = 1 << 26  # bytes; a conversation is as long as a model's context, and that is a few megabytes
DTYPES = {"float32": "F32", "float16": "F16", "uint8": "U8"}  # in safetensors' words
NUMPY = {"I64": np.dtype("<i8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "U8": np.dtype("u1")}
SAMPLE = 64  # bytes of each tensor that tell models of the same shape apart


def fingerprint(file: GGUFFile) -> dict[str, object]:
    """Return what tells a model's file from others: its size, architecture, and a hash.

    The hash is of the metadata, of each tensor's name, type, shape and place, and of its first bytes.
    """
    digest = hashlib.sha256()

    def add(*parts):
        *told, data = parts
        digest.update(repr((*told, len(data))).encode() + data)

    for key in file.metadata:
        add(key, *file.metadata.encoded(key))
    for info in file.tensors.values():
        add(*info, file.raw(info.name).reshape(-1)[:SAMPLE].tobytes())
    architecture = str(file.metadata.get("general.architecture"))
    return {"bytes": file.nbytes, "architecture": architecture, "sha256": digest.hexdigest()}


def write(path: str | os.PathLike[str], model, conversation: dict, ids: list[int], cache) -> None:
    """Write a session; ValueError for what JSON does not know, OSError if the file cannot be written.

    `ids` are those in the cache, a KVCache.
    """
    try:
        told = json.dumps(conversation, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"template_variables: they cannot be saved: {error}") from error
    said = {"format": FORMAT, "model": json.dumps(fingerprint(model.file)), "session": told}
    said["cache"] = model.transformer.cache_type
    header = json.dumps({"__metadata__": said, **_arrays(model, len(ids))}).encode()
    header += b" " * (-len(header) % 8)
    if len(header) > MOST_HEADER:
        raise ValueError(f"this conversation is too long to be saved: {len(header):,} bytes of text")
    with files.replacing(Path(path)) as partial, open(partial, "xb") as file:
        file.write(LENGTH.pack(len(header)) + header + np.array(ids, "<i8").tobytes())
        for part in (*cache.used(), cache.frames, cache.recent()):
            for layer in () if part is None else part:
                file.write(np.ascontiguousarray(layer).data)
        file.flush()
        os.fsync(file.fileno())  # or it could get its name before its contents


def read(path: str | os.PathLike[str], model) -> tuple[dict, np.ndarray, list[np.ndarray]]:
    """Return a session's conversation, its ids, and what `KVCache.fill` takes: keys, values, maybe more.

    Raises ValueError as `load_session` has it.
    """
    path = Path(path)
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"{path}: not a regular file")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        header = _header(path, file, size)
        said, n_tokens = _said(path, header), _n_tokens(path, header, model)
        _check_model(path, said["model"], model)
        _check_cache_type(path, header, model)
        expected = _arrays(model, n_tokens)
        if header != {"__metadata__": header["__metadata__"], **expected}:
            raise ValueError(
                f"{path}: its arrays are not those of {n_tokens} tokens in a cache of this model, as this "
                "version keeps them"
            )
        total = file.tell() + max(array["data_offsets"][1] for array in expected.values())
        if size != total:
            raise ValueError(f"{path}: it has {size:,} bytes, expected {total:,}: the file is incomplete")
        ids, *parts = (_array(path, file, array) for array in expected.values())
    if n_tokens and not 0 <= ids.min() <= ids.max() < model.config.vocab_size:
        raise ValueError(f"{path}: it has ids outside the vocabulary, 0 to {model.config.vocab_size - 1}")
    return _checked_conversation(path, said["session"]), ids, parts


def is_session(path: str | os.PathLike[str]) -> bool:
    """Return whether a file begins like one of a session."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        return False
    try:
        with open(path, "rb") as file:
            return _header(Path(path), file, os.stat(path).st_size)["__metadata__"].get("format") == FORMAT
    except ValueError:
        return False


def _arrays(model, n_tokens: int) -> dict[str, dict]:
    """Return what a header says of the arrays of n_tokens tokens."""
    c = model.config
    cache = model.transformer.new_cache(1)
    rows = DTYPES[cache.row.base.name], [c.n_layers, c.n_kv_heads, n_tokens, *cache.row.shape]
    parts = {"ids": ("I64", [n_tokens]), "keys": rows, "values": rows}
    if cache.frames is not None:
        parts["frames"] = "F32", list(cache.frames.shape)
        parts["recent"] = "U8", list(cache.recent_shape(n_tokens))
    arrays, end = {}, 0
    for name, (dtype, shape) in parts.items():
        start, end = end, end + prod(shape) * NUMPY[dtype].itemsize
        arrays[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    return arrays


def _array(path: Path, file: BinaryIO, array: dict) -> np.ndarray:
    """Read an array, whose bytes are known to be there."""
    out = np.fromfile(file, NUMPY[array["dtype"]], prod(array["shape"]))
    if out.size != prod(array["shape"]):
        raise ValueError(f"{path}: the file became shorter while it was read")
    return out.reshape(array["shape"])


# --- The header -------------------------------------------------------------------------------------------


def _header(path: Path, file: BinaryIO, size: int) -> dict:
    """Read the header; leave the file at the first byte behind it."""
    start = file.read(LENGTH.size)
    length = LENGTH.unpack(start)[0] if len(start) == LENGTH.size else 0
    if not 2 <= length <= min(size - LENGTH.size, MOST_HEADER):
        raise ValueError(f"{path}: not a session, or a part of one: its header would have {length} bytes")
    header = _parsed(path, file.read(length))
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__"), dict):
        raise ValueError(f"{path}: not a session: its header has no metadata")
    return header


def _said(path: Path, header: dict) -> dict[str, object]:
    """Return the two parts of the metadata, decoded: model and session."""
    metadata = header["__metadata__"]
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path}: expected {FORMAT!r}, got {metadata.get('format')!r:.60}")
    return {name: _parsed(path, metadata.get(name)) for name in ("model", "session")}


def _parsed(path: Path, text: str | bytes | None) -> object:
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:  # a UnicodeDecodeError is a ValueError
        raise ValueError(f"{path}: not a session: its header cannot be read ({error})") from None


def _n_tokens(path: Path, header: dict, model) -> int:
    ids = header.get("ids")
    shape = ids.get("shape") if isinstance(ids, dict) else None
    most = model.config.context_length
    if (
        not isinstance(shape, list)
        or len(shape) != 1
        or type(shape[0]) is not int
        or not 0 <= shape[0] <= most
    ):
        raise ValueError(f"{path}: expected ids of 0 to {most} tokens, got the shape {shape!r:.60}")
    return shape[0]


def _check_model(path: Path, found: object, model) -> None:
    expected = fingerprint(model.file)
    if found != expected:
        told = found if isinstance(found, dict) else {}
        what = ", ".join(f"{told.get(key)!r:.20} {key}" for key in ("architecture", "bytes"))
        own = ", ".join(f"{expected[key]!r} {key}" for key in ("architecture", "bytes"))
        raise ValueError(f"{path}: a session of another model: of {what}; this one is of {own}")


def _check_cache_type(path: Path, header: dict, model) -> None:
    found, own = header["__metadata__"].get("cache"), model.transformer.cache_type
    if found is None:  # as files were before there were blocks
        keys = header.get("keys")
        dtype = keys.get("dtype") if isinstance(keys, dict) else None
        found = {"F32": "float32", "F16": "float16"}.get(str(dtype), own)
    if found != own:
        raise ValueError(
            f"{path}: its cache is {found!s:.20}, that of this model {own}: "
            f"load the model with cache={found!r:.20}"
        )


def _checked_conversation(path: Path, said: object) -> dict:
    """Return a conversation; ValueError unless all in it has the right type."""

    match said:
        case {"system": str() | None, "template_variables": dict(), "turns": list(turns)}:
            texts = [text for turn in turns if isinstance(turn, list) and len(turn) == 2 for text in turn]
            if len(texts) == 2 * len(turns) and all(isinstance(text, str) for text in texts):
                return said
    raise ValueError(f"{path}: not a session: its conversation is not one")
