"""The GGUF reader against gguf's own reader, and against thousands of damaged files."""

import gc
import os
import re
import struct
import time
import tracemalloc
from collections import Counter
from math import prod
from pathlib import Path

import gguf
import numpy as np
import psutil
import pytest
from gguf import GGMLQuantizationType as T
from gguf import GGUFValueType as V
from small_model import SmallModel, small_model

import blocks2tokens as b2t
from blocks2tokens import FORMATS, gguf_file
from blocks2tokens.errors import GGUFError, UnsupportedError
from blocks2tokens.gguf_file import GGUFFile, TensorInfo

CODES = {  # struct codes of the number types
    **{V.UINT8: "B", V.INT8: "b", V.UINT16: "H", V.INT16: "h", V.UINT32: "I", V.INT32: "i"},
    **{V.UINT64: "Q", V.INT64: "q", V.FLOAT32: "f", V.FLOAT64: "d", V.BOOL: "B"},
}
F32_ROW = ("w", [8], T.F32, 0)  # the least tensor: name, ne, type, offset


class Draft:
    """A GGUF file under construction, which may break any rule; it notes the place of each field."""

    def __init__(self, kv=(), tensors=(), data=b"", *, version=3, n_kv=None, n_tensors=None, alignment=32):
        self.data = bytearray()
        self.fields: list[tuple[int, str]] = []  # (offset, struct code), in the file's order
        self.put("4s", b"GGUF")
        self.put("I", version)
        self.put("Q", len(tensors) if n_tensors is None else n_tensors)
        self.put("Q", len(kv) if n_kv is None else n_kv)
        for key, value_type, value in kv:
            self.put_string(key)
            self.put("I", value_type)
            self.put_value(value_type, value)
        for name, ne, ggml_type, offset in tensors:
            self.put_string(name)
            self.put("I", len(ne))
            for n in ne:
                self.put("Q", n)
            self.put("I", ggml_type)
            self.put("Q", offset)
        self.header_size = len(self.data)
        if tensors:
            self.data += bytes(-len(self.data) % alignment)
        self.data += data

    def put(self, code, value):
        self.fields.append((len(self.data), code))
        self.data += struct.pack("<" + code, value)

    def put_string(self, text):
        text = text if isinstance(text, bytes) else text.encode()
        self.put("Q", len(text))
        self.put(f"{len(text)}s", text)

    def put_value(self, value_type, value):
        if value_type == V.STRING:
            self.put_string(value)
        elif value_type == V.ARRAY:
            element_type, elements = value
            self.put("I", element_type)
            self.put("Q", len(elements))
            for element in elements:
                self.put_value(element_type, element)
        else:
            self.put(CODES[value_type], value)


@pytest.fixture
def write(tmp_path):
    def write(data, name="model.gguf") -> Path:
        path = tmp_path / name
        path.unlink(missing_ok=True)  # some file systems flush a file that is overwritten: slow
        path.write_bytes(data.data if isinstance(data, Draft) else data)
        return path

    return write


def touch(file: GGUFFile) -> None:
    """Use everything that an opened file offers."""
    for value in file.metadata.values():
        repr(value)
    for name, info in file.tensors.items():
        raw = file.raw(name)
        assert raw.nbytes == info.nbytes and raw.shape[:-1] == info.shape[:-1]
        raw.sum()


# --- Files that gguf writes -------------------------------------------------------------------------------


def write_with_gguf(path: Path) -> dict[str, np.ndarray]:
    """Write every value type and four tensor types with gguf's writer; return the tensors' bytes."""
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint8("n.uint8", 255)
    writer.add_int8("n.int8", -128)
    writer.add_uint16("n.uint16", 65535)
    writer.add_int16("n.int16", -32768)
    writer.add_uint32("n.uint32", 2**32 - 1)
    writer.add_int32("n.int32", -(2**31))
    writer.add_uint64("n.uint64", 2**64 - 1)
    writer.add_int64("n.int64", -(2**63))
    writer.add_float32("n.float32", 0.1)
    writer.add_float64("n.float64", 0.1)
    writer.add_bool("n.true", True)
    writer.add_bool("n.false", False)
    writer.add_string("text", "Elinor said “no” 🙂")
    writer.add_array("array.int", [1, -2, 3])
    writer.add_array("array.float", [0.5, 0.1])
    writer.add_array("array.bool", [True, False, True])
    writer.add_array("array.string", ["", "a", "Ġthe", "🙂"])
    writer.add_array("array.nested", [[1, 2], [3, 4, 5]])
    for value_type in CODES.keys() - {V.BOOL}:
        writer.add_key_value(f"array.{value_type.name}", [1, 2, 3], V.ARRAY, sub_type=value_type)
    raws = {
        "plain.f32": rng.standard_normal((3, 5, 7), np.float32),
        "plain.f16": rng.standard_normal((4, 6), np.float32).astype(np.float16),
        "bias": rng.standard_normal(11, np.float32),
        "blocks.q8_0": rng.integers(0, 256, (5, 3 * 34), np.uint8),
        "blocks.q4_k": rng.integers(0, 256, (2, 3, 2 * 144), np.uint8),
    }
    for name, raw in raws.items():
        raw_type = T[name.split(".")[1].upper()] if name.startswith("blocks") else None
        writer.add_tensor(name, raw, raw_dtype=raw_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {name: raw.view(np.uint8) for name, raw in raws.items()}


def flat(value):
    """Flatten nested lists, as gguf's reader does."""
    return (
        [x for element in value for x in flat(element)] if isinstance(value, list | np.ndarray) else [value]
    )


def assert_same_as_gguf_reader(path: Path) -> None:
    file, reader = GGUFFile(path), gguf.GGUFReader(path)
    expected = {key: field for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert list(file.metadata) == list(expected)
    for key, field in expected.items():
        contents = field.contents()
        assert flat(file.metadata[key]) == (contents if isinstance(contents, list) else [contents]), key
    assert list(file.tensors) == [tensor.name for tensor in reader.tensors]
    for tensor in reader.tensors:
        info = file.tensors[tensor.name]
        shape = tuple(reversed(tensor.shape.tolist()))
        assert info == (tensor.name, tensor.tensor_type, shape, tensor.data_offset, tensor.n_bytes)
        assert file.raw(tensor.name).tobytes() == tensor.data.tobytes()


def test_reads_what_gguf_writes(tmp_path):
    path = tmp_path / "model.gguf"
    raws = write_with_gguf(path)
    assert_same_as_gguf_reader(path)
    file = GGUFFile(path)
    assert (file.path, file.version) == (path, 3)
    for name, raw in raws.items():
        np.testing.assert_array_equal(file.raw(name), raw)
    assert file.tensors["blocks.q4_k"].shape == (2, 3, 512)
    assert file.tensors["blocks.q8_0"].shape == (5, 96)
    assert GGUFFile(str(path)).tensors == file.tensors


def test_values_have_their_types(tmp_path):
    write_with_gguf(tmp_path / "model.gguf")
    metadata = GGUFFile(tmp_path / "model.gguf").metadata
    assert type(metadata["n.uint64"]) is int and metadata["n.uint64"] == 2**64 - 1
    assert type(metadata["n.float32"]) is float and metadata["n.float32"] == np.float32(0.1)
    assert metadata["n.float64"] == 0.1
    assert metadata["n.true"] is True and metadata["n.false"] is False
    assert metadata["text"] == "Elinor said “no” 🙂"
    assert metadata["array.string"] == ["", "a", "Ġthe", "🙂"]
    assert [array.tolist() for array in metadata["array.nested"]] == [[1, 2], [3, 4, 5]]
    assert metadata["array.bool"].dtype == np.bool_
    for value_type in CODES.keys() - {V.BOOL}:
        array = metadata[f"array.{value_type.name}"]
        assert array.dtype == np.dtype(CODES[value_type]) and array.tolist() == [1, 2, 3]


def test_version_2_has_the_same_layout(tmp_path):
    path = tmp_path / "model.gguf"
    write_with_gguf(path)
    data = bytearray(path.read_bytes())
    data[4:8] = struct.pack("<I", 2)
    path.write_bytes(data)
    assert_same_as_gguf_reader(path)
    assert GGUFFile(path).version == 2


@pytest.mark.parametrize("version", [0, 1, 4, 2**32 - 1])
def test_other_versions_are_refused(write, version):
    with pytest.raises(UnsupportedError, match=rf"model\.gguf: byte 4: GGUF version {version}\b"):
        GGUFFile(write(Draft(version=version)))


def test_a_big_endian_file_is_refused(tmp_path):
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama", endianess=gguf.GGUFEndian.BIG)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(UnsupportedError, match="big-endian"):
        GGUFFile(path)


# --- Lazy, read-only, not copied --------------------------------------------------------------------------


def test_opening_decodes_no_value(write, monkeypatch):
    decoded = []
    decode = gguf_file.decode_value
    monkeypatch.setattr(gguf_file, "decode_value", lambda *args: decoded.append(args[1]) or decode(*args))
    kv = [("tokens", V.ARRAY, (V.STRING, ["a", "b"])), ("ids", V.ARRAY, (V.INT32, [1, 2])), ("n", V.UINT8, 7)]
    metadata = GGUFFile(write(Draft(kv))).metadata
    assert len(metadata) == 3 and list(metadata) == ["tokens", "ids", "n"]
    assert "tokens" in metadata and "merges" not in metadata and metadata.get("merges") is None
    assert repr(metadata) == "Metadata(3 keys)"
    assert decoded == []
    assert metadata["tokens"] == ["a", "b"] and metadata["tokens"] is metadata["tokens"]
    assert metadata.get("n") == 7
    assert decoded == [V.ARRAY, V.UINT8]
    with pytest.raises(KeyError, match="merges"):
        metadata["merges"]


def test_arrays_are_read_only(write):
    kv = [("ids", V.ARRAY, (V.INT32, [1, 2])), ("empty", V.ARRAY, (V.FLOAT64, []))]
    file = GGUFFile(write(Draft(kv, [F32_ROW], bytes(32))))
    for array in (file.metadata["ids"], file.metadata["empty"], file.raw("w")):
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True
    assert file.metadata["ids"].flags.aligned


def test_raw_is_a_view_that_outlives_the_file(write):
    file = GGUFFile(write(Draft(tensors=[F32_ROW], data=bytes(range(32)))))
    first, second = file.raw("w"), file.raw("w")
    assert np.shares_memory(first, second)
    del file, second
    gc.collect()
    assert first.tolist() == list(range(32))
    with pytest.raises(KeyError, match="nope"):
        GGUFFile(write(Draft(), "empty.gguf")).raw("nope")


def test_opening_does_not_read_the_data(write):
    n = 2**26  # a sparse file of 256 MB
    path = write(Draft(tensors=[("w", [2**13, 2**13], T.F32, 0)]))
    with open(path, "r+b") as stream:
        stream.truncate(path.stat().st_size + 4 * n)
    process = psutil.Process()
    before = process.memory_info().rss
    file = GGUFFile(path)
    raw = file.raw("w")
    assert raw.shape == (2**13, 2**15) and raw[-1, -1] == 0
    assert process.memory_info().rss - before < 2**24


def test_repr_names_the_file_without_its_folder(write):
    file = GGUFFile(write(Draft([("n", V.UINT8, 7)], [F32_ROW], bytes(32))))
    assert repr(file) == "GGUFFile('model.gguf', version 3, 1 metadata keys, 1 tensors)"


# --- Choices of the reader --------------------------------------------------------------------------------


def test_string_values_keep_bytes_that_are_not_utf8(write):
    odd = [b"\xff\xfe", b"caf\xc3\xa9", b"\xed\xa0\x80", b"\xf0\x9f"]
    metadata = GGUFFile(write(Draft([("t", V.ARRAY, (V.STRING, odd)), ("s", V.STRING, odd[0])]))).metadata
    assert metadata["t"][1] == "café"
    assert [token.encode("utf-8", "surrogateescape") for token in metadata["t"]] == odd
    assert metadata["s"] == metadata["t"][0]


@pytest.mark.parametrize("alignment", [8, 64, 4096])
def test_alignment_of_the_file(write, alignment):
    kv = [("general.alignment", V.UINT32, alignment)]
    tensors = [("a", [2], T.F32, alignment), ("b", [2], T.F32, 0)]  # the data need not be in order
    data = bytes(range(8)).ljust(alignment, b"\0") + bytes(range(8, 16))
    file = GGUFFile(write(Draft(kv, tensors, data, alignment=alignment)))
    assert file.tensors["b"].offset % alignment == 0
    assert file.raw("b").tolist() == list(range(8)) and file.raw("a").tolist() == list(range(8, 16))


def test_files_with_nothing_in_them(write):
    file = GGUFFile(write(Draft()))
    assert dict(file.metadata) == {} and file.tensors == {}
    assert dict(GGUFFile(write(Draft([("n", V.UINT8, 7)]))).metadata) == {"n": 7}
    vocabulary_only = GGUFFile(write(Draft([("s", V.STRING, "")])))  # ends before the padding
    assert vocabulary_only.metadata["s"] == ""


def test_nested_and_empty_arrays(write):
    words = (V.ARRAY, [(V.STRING, ["a", "b"]), (V.STRING, []), (V.INT8, [-1])])
    deep = (V.ARRAY, [(V.ARRAY, [(V.ARRAY, [(V.BOOL, [1, 0])])])])
    kv = [("words", V.ARRAY, words), ("deep", V.ARRAY, deep), ("after", V.ARRAY, (V.STRING, []))]
    metadata = GGUFFile(write(Draft(kv))).metadata
    assert metadata["words"][:2] == [["a", "b"], []] and metadata["words"][2].tolist() == [-1]
    assert metadata["deep"][0][0][0].tolist() == [True, False]
    assert metadata["after"] == []


def test_a_vocabulary_of_50000(write):
    tokens = [f"Ġtoken{i}" for i in range(50_000)]
    kv = [("tokens", V.ARRAY, (V.STRING, tokens)), ("scores", V.ARRAY, (V.FLOAT32, range(50_000)))]
    metadata = GGUFFile(write(Draft(kv))).metadata
    assert metadata["tokens"] == tokens
    assert (metadata["scores"] == np.arange(50_000)).all()


@pytest.mark.parametrize("value", [T.I32, T.F64, T.Q1_0])
def test_a_type_without_a_format_is_there_and_not_decoded(write, value):
    block, n_bytes = gguf.GGML_QUANT_SIZES[value]
    path = write(Draft(tensors=[("blk.0.odd", [block * 3, 2], value, 0)], data=bytes(6 * n_bytes)))
    file = GGUFFile(path)
    assert file.tensors["blk.0.odd"].nbytes == 6 * n_bytes
    assert file.raw("blk.0.odd").shape == (2, 3 * n_bytes)
    with pytest.raises(UnsupportedError, match=rf"tensor 'blk\.0\.odd' has type {value.name}, which is not"):
        file.format("blk.0.odd")


@pytest.mark.parametrize(("value", "name"), [(4, "Q4_2"), (9, "Q8_1"), (36, "IQ4_NL_4_4"), (999, "unknown")])
def test_a_type_of_unknown_size_is_named(write, value, name):
    path = write(Draft(tensors=[("blk.0.odd", [256], value, 0)], data=bytes(1024)))
    with pytest.raises(UnsupportedError, match=rf"'blk\.0\.odd' has ggml type {value} \({name}\)"):
        GGUFFile(path)


def test_foreign_types_are_all_of_ggmls_that_have_no_format():
    known = {*gguf_file.FOREIGN_TYPES, *gguf_file.REMOVED_TYPES, *(fmt.ggml_type for fmt in FORMATS.values())}
    assert known >= {kind.value for kind in T}
    for kind, (name, block_size, n_bytes) in gguf_file.FOREIGN_TYPES.items():
        assert T(kind).name == name and gguf.GGML_QUANT_SIZES[T(kind)] == (block_size, n_bytes)


# --- Split files ------------------------------------------------------------------------------------------


def split(small, folder, n_parts=3, name="small"):
    """Write a model as gguf-split does; return the paths of its parts."""
    names, paths = list(small.tensors), []
    for no in range(n_parts):
        part = SmallModel(dict(small.metadata) if no == 0 else {})
        part.tensors = {name: small.tensors[name] for name in names[no::n_parts]}
        part.metadata |= {"split.no": no, "split.count": n_parts, "split.tensors.count": len(names)}
        paths.append(part.write(folder / f"{name}-{no + 1:05d}-of-{n_parts:05d}.gguf"))
    return paths


def test_a_split_model_is_one(tmp_path):
    small = small_model()
    whole, paths = GGUFFile(small.write(tmp_path / "whole.gguf")), split(small, tmp_path)
    file = GGUFFile(paths[0])
    assert file.tensors.keys() == whole.tensors.keys() and file.paths == tuple(paths)
    assert all(np.array_equal(file.raw(name), whole.raw(name)) for name in whole.tensors)
    assert file.nbytes == sum(path.stat().st_size for path in paths)
    assert (b2t.load(paths[0]).logits([1, 5]) == b2t.load(whole.path).logits([1, 5])).all()
    made = b2t.convert(paths[0], tmp_path / "made.gguf", "F32")
    again = GGUFFile(made.path)
    assert again.metadata["general.name"] == "small" and not [k for k in again.metadata if k[:5] == "split"]
    assert all(np.array_equal(again.raw(name), whole.raw(name)) for name in whole.tensors)


def rewrite(change):
    """Return a function that writes a model's parts, one of them changed."""

    def write(folder):
        small = small_model()
        paths = split(small, folder)
        change(small, folder, paths)
        return paths[0]

    return write


def swapped(small, folder, paths):
    third = paths[2].rename(folder / "third")
    paths[1].rename(paths[2])
    third.rename(paths[1])


def of_another_count(small, folder, paths):
    split(small, folder, 2)[1].rename(paths[1])


def of_another_model(small, folder, paths):
    (folder / "other").mkdir()
    split(small_model(n_layers=3), folder / "other")[1].rename(paths[1])


def with_a_tensor_twice(small, folder, paths):
    paths[1].unlink()
    part = SmallModel(
        {"split.no": 1, "split.count": 3}, {name: small.tensors[name] for name in small.tensors}
    )
    part.write(paths[1])


def with_a_tensor_less(small, folder, paths):
    paths[1].unlink()
    SmallModel({"split.no": 1, "split.count": 3}, {}).write(paths[1])


MISFITS = {
    "missing": (
        lambda small, folder, paths: paths[2].unlink(),
        r"00001.*: part 3 of 3 is missing: small-00003",
    ),
    "swapped": (swapped, r"small-00002.*: expected split.no 1 and split.count 3, got split.no 2"),
    "of another count": (of_another_count, "expected split.no 1 and split.count 3, got .* split.count 2"),
    "of another model": (of_another_model, r"00002.*: a part of another model: its split.tensors.count"),
    "a tensor twice": (with_a_tensor_twice, "00002.*: tensor '.*' is in a part before it already"),
    "a tensor less": (with_a_tensor_less, r"split.tensors.count: \d+, and the parts hold"),
    "cut short": (lambda s, f, paths: os.truncate(paths[1], 4000), "small-00002.*: byte"),
    "no part": (lambda s, f, paths: paths[1].write_bytes(b"hello"), "small-00002.*: not a GGUF file"),
    "a folder": (lambda s, f, paths: (paths[1].unlink(), paths[1].mkdir()), "00002.*not a regular file"),
    "a link to nowhere": (
        lambda s, f, paths: (paths[1].unlink(), paths[1].symlink_to("x")),
        "2 of 3 is missing",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_parts_that_do_not_belong_together(tmp_path, case):
    change, message = MISFITS[case]
    with pytest.raises(GGUFError, match=message):
        GGUFFile(rewrite(change)(tmp_path))


def test_a_part_that_is_not_the_first_names_it(tmp_path):
    paths = split(small_model(), tmp_path)
    with pytest.raises(
        GGUFError, match=r"part 2 of 3 of a split model, open the first: small-00001-of-00003\.gguf"
    ):
        GGUFFile(paths[1])


def test_a_first_part_of_another_name(tmp_path):
    path = split(small_model(), tmp_path)[0].rename(tmp_path / "model.gguf")
    with pytest.raises(GGUFError, match=r"part 1 of 3: expected a name that ends in -00001-of-00003\.gguf"):
        GGUFFile(path)


@pytest.mark.parametrize("count", ["3", 2**40, -1, [3], 1.5])
def test_a_count_of_parts_that_is_none(tmp_path, count):
    small = small_model()
    small.metadata |= {"split.count": count, "split.no": 0}
    with pytest.raises(GGUFError, match=r"split\.count|expected a name"):
        GGUFFile(small.write(tmp_path / "small-00001-of-00003.gguf"))


def test_a_model_in_one_part(tmp_path):
    assert len(GGUFFile(split(small_model(), tmp_path, 1)[0]).paths) == 1


@pytest.mark.parametrize("cut", [0, 1])
def test_a_file_that_has_become_shorter_is_found_out(tmp_path, cut):
    paths = split(small_model(), tmp_path, 2)
    file = GGUFFile(paths[0])
    file.check_size()
    os.truncate(paths[cut], 1000)
    with pytest.raises(GGUFError, match=rf"{paths[cut].name}: byte 1000: the file ends here now, it had \d+"):
        file.check_size()


# --- One broken rule at a time ----------------------------------------------------------------------------


def string_array(count, data=b""):
    """A file whose last value is an array that claims `count` strings."""
    draft = Draft([("tokens", V.ARRAY, (V.STRING, []))])
    return draft.data[:-8] + struct.pack("<Q", count) + data


def nested(depth):
    value = (V.UINT8, [1])
    for _ in range(depth - 1):
        value = (V.ARRAY, [value])
    return value


def tensor(ne=(8,), ggml_type=T.F32, offset=0, name="w", data=bytes(32)):
    return Draft(tensors=[(name, ne, ggml_type, offset)], data=data)


def two_tensors(first, second):
    return Draft(tensors=[("a", [16], T.F32, first), ("b", [16], T.F32, second)], data=bytes(256))


def overlap_by_one_byte():
    tensors = [("a", [17 * 32], T.MXFP4, 0), ("b", [8], T.F32, 288)]  # 17 blocks of 17 bytes end at 289
    return Draft(tensors=tensors, data=bytes(320))


def aligned_at(value_type, value):
    return Draft([("general.alignment", value_type, value)], [F32_ROW], bytes(32))


RULES = {
    "empty": (b"", 0, "the file is empty"),
    "short magic": (b"GG", 0, "not a GGUF file"),
    "magic": (b"GGML" + bytes(20), 0, "not a GGUF file: it starts with b'GGML'"),
    "no version": (b"GGUF\3", 4, "the version needs 4 bytes, 1 are left"),
    "n_kv": (Draft(n_kv=2**64 - 1), 8, "0 tensors and 18446744073709551615 metadata keys cannot fit"),
    "n_tensors": (Draft(n_tensors=2**63), 8, "cannot fit in 0 bytes"),
    "n_tensors by one": (
        Draft(tensors=[F32_ROW], n_tensors=2),
        8,
        "2 tensors and 0 metadata keys cannot fit",
    ),
    "key: empty": (Draft([("", V.UINT32, 1)]), 24, "metadata key 0 has 0 bytes"),
    "key: long": (
        Draft([("k" * 65536, V.UINT32, 1)]),
        24,
        "metadata key 0 has 65536 bytes, expected 1 to 65535",
    ),
    "key: past the end": (
        Draft().data[:16] + struct.pack("<QQ6x", 1, 60000),
        32,
        "needs 60000 bytes, 6 are left",
    ),
    "key: UTF-8": (Draft([(b"ab\xff", V.UINT32, 1)]), 34, "metadata key 0 is not UTF-8"),
    "key: twice": (Draft([("k", V.UINT8, 1), ("k", V.INT8, 1)]), 38, "metadata key 'k' appears twice"),
    "value type": (
        Draft([("k", V.UINT32, 1)]).data.replace(b"k\4", b"k\x0d"),
        37,
        "value type 13, which does not",
    ),
    "value cut": (Draft([("k", V.UINT64, 1)]).data[:-1], 37, "metadata 'k' has 1 elements, but only 7 bytes"),
    "bool": (Draft([("k", V.BOOL, 2)]), 37, "metadata 'k' holds a bool of 2, expected 0 or 1"),
    "bool in an array": (Draft([("k", V.ARRAY, (V.BOOL, [1, 0, 3, 9]))]), 51, "holds a bool of 3"),
    "string: length": (
        Draft([("k", V.STRING, "abc")]).data[:-1],
        37,
        "metadata 'k' needs 11 bytes, 10 are left",
    ),
    "array: head cut": (Draft([("k", V.ARRAY, (V.UINT8, []))]).data[:-1], 37, "metadata 'k' needs 12 bytes"),
    "array: element type": (Draft([("k", V.ARRAY, (99, []))]), 49, "value type 99, which does not exist"),
    "array: numbers": (
        Draft([("k", V.ARRAY, (V.UINT64, [1]))]).data[:-1],
        49,
        "has 1 elements, but only 7 bytes",
    ),
    "array: strings": (string_array(3, bytes(16)), 54, "has 3 elements, but only 16 bytes are left"),
    "array: many strings": (string_array(2**64 - 1, bytes(16)), 54, "18446744073709551615 elements"),
    "array: string past the end": (
        string_array(2, struct.pack("<Q8x", 99)),
        54,
        "string 1 would start at 161",
    ),
    "array: huge string": (string_array(2, struct.pack("<Q8x", 2**64 - 1)), 54, "string 1 would start at"),
    "array: last string": (string_array(2, struct.pack("<QQ", 0, 1)), 54, "needs 17 bytes, 16 are left"),
    "array: many arrays": (
        Draft([("k", V.ARRAY, (V.ARRAY, []))]).data[:-8] + b"\xff" * 8,
        49,
        "elements, but only",
    ),
    "array: depth": (Draft([("k", V.ARRAY, nested(5))]), 85, "nests arrays more than 4 deep"),
    "alignment: type": (aligned_at(V.UINT64, 32), 53, "general.alignment has value type 10, expected 4"),
    "alignment: zero": (aligned_at(V.UINT32, 0), 53, "general.alignment is 0, expected a power of two"),
    "alignment: 48": (aligned_at(V.UINT32, 48), 53, "general.alignment is 48"),
    "alignment: 4": (aligned_at(V.UINT32, 4), 53, "general.alignment is 4, expected a power of two from 8"),
    "alignment: 2**31": (aligned_at(V.UINT32, 2**31), 53, "general.alignment is 2147483648"),
    "tensor: name UTF-8": (tensor(name=b"\x80"), 32, "the name of tensor 0 is not UTF-8"),
    "tensor: no dimension": (
        tensor(ne=()).data + bytes(32),
        33,
        "tensor 'w' has 0 dimensions, expected 1 to 4",
    ),
    "tensor: 5 dimensions": (tensor(ne=(8, 1, 1, 1, 1)), 33, "tensor 'w' has 5 dimensions"),
    "tensor: empty dimension": (tensor(ne=(8, 0)), 45, r"empty dimension: \[8, 0\]"),
    "tensor: part of a block": (
        tensor(ne=(48,), ggml_type=T.Q8_0),
        37,
        "rows of 48 weights, expected a multiple of 32",
    ),
    "tensor: info cut": (
        Draft([("k", V.UINT64, 0)], [F32_ROW]).data[:77],
        70,
        "the offset of tensor 'w' needs 8 bytes",
    ),
    "tensor: overflow to 0": (
        tensor(ne=(2**62, 4)),
        24,
        "tensor 'w' lies at 0 to 73786976294838206464 of 32",
    ),
    "tensor: overflow to 32": (tensor(ne=(2**32 + 8, 2**32)), 24, "tensor 'w' lies at 0 to"),
    "tensor: past the end": (tensor(ne=(9,)), 24, "tensor 'w' lies at 0 to 36 of 32 bytes of data"),
    "tensor: offset past the end": (tensor(offset=32), 24, "tensor 'w' lies at 32 to 64 of 32"),
    "tensor: huge offset": (tensor(offset=2**64 - 32), 24, "tensor 'w' lies at 18446744073709551584"),
    "tensor: no data": (
        Draft(tensors=[F32_ROW]).data[:57],
        24,
        "tensor 'w' lies at 0 to 32 of 0 bytes of data",
    ),
    "tensor: misaligned": (tensor(offset=8, data=bytes(64)), 24, "has offset 8, expected a multiple of 32"),
    "tensor: twice": (Draft(tensors=[F32_ROW, F32_ROW], data=bytes(32)), 57, "tensor 'w' appears twice"),
    "tensors: same place": (two_tensors(0, 0), 57, "tensor 'b' overlaps tensor 'a'"),
    "tensors: one byte": (overlap_by_one_byte(), 24 + 33, "tensor 'b' overlaps tensor 'a'"),
    "tensors: overlap": (two_tensors(32, 0), 24, "tensor 'a' overlaps tensor 'b'"),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_broken_rule_is_named_with_its_place(write, rule):
    data, at, reason = RULES[rule]
    with pytest.raises(GGUFError, match=rf"model\.gguf: byte {at}: .*{reason}"):
        GGUFFile(write(data))


def test_a_file_that_is_cut_anywhere_says_how_long_it_should_be(write):
    draft = small_file()
    sizes = []
    for size in range(24, len(draft.data)):
        with pytest.raises(GGUFError, match="incomplete download") as error:
            GGUFFile(write(draft.data[:size]))
        expected, found = re.search(
            r"expected ([\d,]+) bytes or more, found ([\d,]+)", str(error.value)
        ).groups()
        sizes.append(int(expected.replace(",", "")))
        assert int(found.replace(",", "")) == size < sizes[-1] <= len(draft.data)
    assert sizes[draft.header_size :] == [len(draft.data)] * len(sizes[draft.header_size :])


def test_paths_that_are_not_files(tmp_path):
    with pytest.raises(FileNotFoundError):
        GGUFFile(tmp_path / "missing.gguf")
    with pytest.raises(GGUFError, match="not a regular file"):
        GGUFFile(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(GGUFError, match="not a regular file"):
        GGUFFile(tmp_path / "pipe")


# --- Thousands of damaged files ---------------------------------------------------------------------------


def small_file() -> Draft:
    """A valid file with a field of every kind."""
    kv = [
        ("general.architecture", V.STRING, "llama"),
        ("general.alignment", V.UINT32, 32),
        ("a.bool", V.BOOL, 1),
        ("a.double", V.FLOAT64, 0.1),
        ("tokens", V.ARRAY, (V.STRING, ["a", "", "Ġthe"])),
        ("types", V.ARRAY, (V.INT32, [1, -2, 3])),
        ("flags", V.ARRAY, (V.BOOL, [1, 0])),
        ("nested", V.ARRAY, (V.ARRAY, [(V.STRING, ["b"]), (V.STRING, ["", "c"])])),
    ]
    tensors = [
        ("norm", [8], T.F32, 0),
        ("attn", [64, 2], T.Q8_0, 32),
        ("ffn", [256, 1, 1, 2], T.Q4_K, 192),
    ]
    data = np.random.default_rng(0).integers(0, 256, 192 + 288, np.uint8).tobytes()
    return Draft(kv, tensors, data)


def truncated(draft):
    for size in range(len(draft.data)):
        yield f"cut to {size} bytes", draft.data[:size]


def flipped(draft):
    for at in range(draft.header_size):
        for mask in (0x01, 0x04, 0x20, 0x80, 0xFF):
            data = draft.data.copy()
            data[at] ^= mask
            yield f"byte {at} xor {mask:#x}", data


def absurd(draft):
    """Every count, length, dimension, type and offset of the header, set to values that are not its own."""
    edges = [0, 1, 2, 3, 5, 7, 8, 9, 12, 13, 31, 33, 255, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1]
    edges += [len(draft.data), len(draft.data) - draft.header_size]
    wide = [2**32, 2**40, 2**61, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64 - 32]
    for at, code in draft.fields:
        for value in {"I": edges, "Q": edges + wide}.get(code, []):
            data = draft.data.copy()
            struct.pack_into("<" + code, data, at, value)
            yield f"byte {at} set to {value}", data


def duplicated(draft):
    """Each name replaced by each other one of its length, so that names, keys and offsets come twice."""
    strings = [(at, code) for at, code in draft.fields if code.endswith("s")]
    for at, code in strings:
        for other, other_code in strings:
            if code == other_code and at != other:
                size = struct.calcsize(code)
                data = draft.data.copy()
                data[at : at + size] = draft.data[other : other + size]
                yield f"byte {at}: a copy of the name at {other}", data


def moved(draft):
    """Each number of the header copied over each other one: overlaps, swapped sizes, wrong types."""
    for code in ("I", "Q"):
        places = [at for at, field in draft.fields if field == code]
        for at in places:
            for other in places:
                data = draft.data.copy()
                size = struct.calcsize(code)
                data[at : at + size] = draft.data[other : other + size]
                if data != draft.data:
                    yield f"byte {at}: a copy of the number at {other}", data


def open_and_touch(path: Path) -> str:
    try:
        touch(GGUFFile(path))
    except UnsupportedError:
        return "UnsupportedError"
    except GGUFError as error:
        assert f"{path.name}: byte " in str(error), error
        return "GGUFError"
    return "loads"


def test_damaged_files_raise_our_errors_or_load(write):
    draft = small_file()
    assert open_and_touch(write(draft)) == "loads"
    assert_same_as_gguf_reader(write(draft))
    outcomes: Counter[str] = Counter()
    seen = {bytes(draft.data)}
    tracemalloc.start()
    try:
        for damage in (truncated, flipped, absurd, duplicated, moved):
            for what, data in damage(draft):
                if bytes(data) in seen:
                    continue
                seen.add(bytes(data))
                path = write(data)
                tracemalloc.reset_peak()
                allocated, began = tracemalloc.get_traced_memory()[0], time.monotonic()
                try:
                    outcome = open_and_touch(path)
                except Exception as error:
                    pytest.fail(f"{what}: {error!r}")
                assert tracemalloc.get_traced_memory()[1] - allocated < 2**20, what
                assert time.monotonic() - began < 10, what
                assert outcome != "loads" or damage is not truncated, what
                outcomes[outcome] += 1
    finally:
        tracemalloc.stop()
    print(f"{outcomes.total()} damaged files: {dict(outcomes)}")
    assert outcomes.total() >= 2000
    assert min(outcomes[name] for name in ("GGUFError", "UnsupportedError", "loads")) >= 20


def test_tensor_info_counts_the_bytes_of_its_blocks(write):
    file = GGUFFile(write(small_file()))
    for name, info in file.tensors.items():
        block_size, bytes_per_block = gguf.GGML_QUANT_SIZES[T(info.ggml_type)]
        assert info.nbytes == prod(info.shape) // block_size * bytes_per_block
        assert isinstance(info, TensorInfo) and info.name == name
