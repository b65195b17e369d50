"""The converter: what each file holds, that llama.cpp reads it, and that nothing half-written is left."""

import errno
import os
import stat
import subprocess
import sys
import tracemalloc
from math import prod
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as T
from gguf import GGUFValueType as V
from llama_cpp import llama_cpp
from small_model import random_tensor, small_model
from test_gguf_file import Draft

import blocks2tokens as b2t
from blocks2tokens.convert import CHUNK, TARGETS, fitting_format, mixed_format, more_bits
from blocks2tokens.errors import GGUFError, UnsupportedError
from blocks2tokens.formats import FORMATS, Format, by_ggml_type

CLEAR = [  # what Austen says to these, no close second ever comes near: 48 tokens with a margin
    "The family of Dashwood had been long settled in Sussex.",
    "“My dear Mr. Bennet,” said his lady to him one day,",
    "It was the opinion of the whole family that",
    "She was",
]
CLOSE = ["Emma Woodhouse, handsome, clever, and rich,", "The first"]  # here some are nearly as likely
CHANGED = {"general.file_type", "general.quantization_version"}


def formats_of(path):
    """Return {tensor: format name} of a file."""
    return {name: by_ggml_type(info.ggml_type).name for name, info in b2t.GGUFFile(path).tensors.items()}


def weights_of(path):
    """Return {tensor: float32 weights}, decoded by the gguf package."""
    tensors = gguf.GGUFReader(path).tensors
    return {t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32) for t in tensors}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A model whose rows fill every block, eight layers, in F16."""
    model = small_model(dim=256, ffn_dim=512, n_layers=8, n_heads=4, tied=False, default_format="F16")
    return model.write(tmp_path_factory.mktemp("source") / "small.gguf")


# --- What is written --------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_every_tensor_is_what_its_format_makes_of_it(source, tmp_path, monkeypatch, target):
    monkeypatch.setattr(
        sys.modules["blocks2tokens.convert"], "CHUNK", 10_000
    )  # chunks that do not divide the rows
    path = tmp_path / "new.gguf"
    made = b2t.convert(source, path, target)
    before, after = b2t.GGUFFile(source), b2t.GGUFFile(path)
    assert list(after.tensors) == list(before.tensors)
    for name, weights in weights_of(source).items():
        fmt = by_ggml_type(after.tensors[name].ggml_type)
        if "_norm" in name:
            assert fmt.name == "F32"
        elif target != "Q4_K_M":
            assert fmt.name == target
        assert after.tensors[name].shape == before.tensors[name].shape == weights.shape
        assert np.array_equal(after.raw(name), fmt.quantize(weights)), name
    assert after.metadata["general.file_type"] == gguf.LlamaFileType[_file_type(target)]
    assert after.metadata["general.quantization_version"] == 2
    assert made.bytes_before == source.stat().st_size and made.bytes_after == path.stat().st_size
    assert made.tensors == after.tensors and made.path == path and not made.replaced


def _file_type(target):
    if target == "F32":
        return "ALL_F32"
    variant = {"Q3_K": "Q3_K_S", "Q4_K": "Q4_K_S", "Q5_K": "Q5_K_S", "MXFP4": "MXFP4_MOE"}
    return f"MOSTLY_{variant.get(target, target)}"


def test_the_targets_are_the_formats_that_files_may_hold():
    """Three values are no way to store a model that was trained with more."""
    encoded = {name for name, fmt in FORMATS.items() if fmt.can_encode}
    assert set(TARGETS) == {*encoded, "Q4_K_M"} - {"Q8_K", "TQ1_0", "TQ2_0"}


# Layers of Q6_K in llama.cpp's Q4_K_M files, by the number of layers.
SIX_BITS = {
    1: [0],
    2: [1],
    8: [0, 3, 6, 7],
    12: [0, 3, 6, 9, 10, 11],
    16: [0, 1, 4, 7, 10, 13, 14, 15],
    22: [0, 1, 4, 7, 10, 13, 16, 19, 20, 21],
    28: [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 24, 25, 26, 27],
    32: [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31],
}


@pytest.mark.parametrize("n_layers", SIX_BITS)
def test_the_layer_rule_of_the_mix(n_layers):
    assert [i for i in range(n_layers) if more_bits(i, n_layers)] == SIX_BITS[n_layers]


def test_the_mix_of_a_model_with_an_output_matrix(source, tmp_path):
    made = b2t.convert(source, tmp_path / "mix.gguf", "Q4_K_M")
    found = formats_of(made.path)
    assert found["output.weight"] == "Q6_K" and found["token_embd.weight"] == "Q4_K"
    for part in ("attn_v", "ffn_down"):
        assert [i for i in range(8) if found[f"blk.{i}.{part}.weight"] == "Q6_K"] == [0, 3, 6, 7]
    for part in ("attn_q", "attn_k", "attn_output", "ffn_gate", "ffn_up"):
        assert {found[f"blk.{i}.{part}.weight"] for i in range(8)} == {"Q4_K"}


def test_the_mix_of_a_model_with_a_tied_embedding(tmp_path):
    path = small_model(dim=256, ffn_dim=256, n_layers=2).write(tmp_path / "tied.gguf")
    b2t.convert(path, tmp_path / "mix.gguf", "Q4_K_M")
    assert formats_of(tmp_path / "mix.gguf")["token_embd.weight"] == "Q6_K"


def test_only_weights_of_blocks_are_sensitive():
    for name in ("attn_v.weight", "blk.0.attn_v.bias", "xblk.0.attn_v.weight", "blk.0.attn_v.weight.x"):
        assert mixed_format(name, 8, tied=True) == "Q4_K"


@pytest.mark.parametrize(
    ("name", "of_32", "of_nothing"),
    [
        ("Q2_K", "Q4_0", "F16"),
        ("Q3_K", "Q4_0", "F16"),
        ("Q4_K", "Q5_0", "F16"),
        ("Q5_K", "Q5_1", "F16"),
        ("Q6_K", "Q8_0", "F16"),
        ("IQ4_XS", "IQ4_NL", "F16"),
        ("Q8_0", "Q8_0", "F16"),
        ("MXFP4", "MXFP4", "F16"),
        ("BF16", "BF16", "BF16"),
        ("F32", "F32", "F32"),
    ],
)
def test_rows_that_do_not_fill_a_block(name, of_32, of_nothing):
    assert fitting_format(name, 512) == name
    assert fitting_format(name, 96) == of_32
    assert fitting_format(name, 50) == of_nothing


def test_replaced_formats_are_told(tmp_path):
    path = small_model(dim=64, ffn_dim=256).write(tmp_path / "narrow.gguf")
    made = b2t.convert(path, tmp_path / "q4_k_m.gguf", "Q4_K_M")
    found = formats_of(made.path)
    assert found["blk.0.ffn_down.weight"] == "Q4_K" and found["blk.1.ffn_down.weight"] == "Q6_K"
    assert found["token_embd.weight"] == "Q8_0" and found["blk.0.attn_q.weight"] == "Q5_0"
    assert made.replaced["blk.0.attn_q.weight"] == "Q4_K" and "blk.0.ffn_down.weight" not in made.replaced
    assert "rows of 64 weights do not fill blocks of Q4_K" in repr(made)
    b2t.load(made.path).logits([1, 2, 3])


def test_the_summary(source, tmp_path):
    made = b2t.convert(source, tmp_path / "new.gguf", "Q4_K_M")
    lines = repr(made).splitlines()
    assert lines[0].startswith(f"Q4_K_M: {source.stat().st_size:,} -> {made.bytes_after:,} bytes")
    assert [line.split()[0] for line in lines[1:]] == ["format", "F32", "Q4_K", "Q6_K"]
    assert sum(int(line.split()[1]) for line in lines[2:]) == len(made.tensors)
    assert sum(int(line.split()[3].replace(",", "")) for line in lines[2:]) == sum(
        info.nbytes for info in made.tensors.values()
    )


def test_a_tensor_in_its_format_is_copied(tmp_path, monkeypatch):
    path = small_model(dim=256, ffn_dim=256, default_format="Q4_K").write(tmp_path / "q4_k.gguf")
    monkeypatch.setattr(Format, "quantize", None)  # nothing to encode
    b2t.convert(path, tmp_path / "copy.gguf", "Q4_K")
    before, after = b2t.GGUFFile(path), b2t.GGUFFile(tmp_path / "copy.gguf")
    assert all(np.array_equal(before.raw(name), after.raw(name)) for name in before.tensors)


def test_norms_become_f32_and_quantized_sources_are_decoded(tmp_path):
    model = small_model(default_format="Q4_1")
    model.tensors["output_norm.weight"] = random_tensor("F16", (64,), np.random.default_rng(0))
    path = model.write(tmp_path / "q4_1.gguf")
    b2t.convert(path, tmp_path / "f32.gguf", "F32")
    assert set(formats_of(tmp_path / "f32.gguf").values()) == {"F32"}
    before, after = weights_of(path), weights_of(tmp_path / "f32.gguf")
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("effort", ["ggml", "best"])
def test_the_effort_is_passed_on(source, tmp_path, monkeypatch, effort):
    seen, quantize = set(), Format.quantize

    def watched(self, x, **how):
        seen.add(how["effort"])
        return quantize(self, x, **how)

    monkeypatch.setattr(Format, "quantize", watched)
    b2t.convert(source, tmp_path / "new.gguf", "Q8_0", effort=effort)
    assert seen == {effort}


# --- What is left as it is --------------------------------------------------------------------------------

KEPT_BY_LLAMA_CPP = [
    *("blk.0.ffn_gate_inp.weight", "blk.0.ssm_conv1d.weight", "position_embd.weight", "token_types.weight"),
    *("blk.3.shortconv.conv.weight", "blk.0.time_mix_w1.weight", "blk.0.time_mix_decay_w2.weight"),
    *("blk.0.altup_router.weight", "per_layer_model_proj.weight", "dec.blk.0.attn_rel_b.weight"),
    *("v.patch_embd.weight", "v.position_embd.weight", "blk.0.attn_q_norm.weight_2.weight"),
]


@pytest.mark.parametrize("target", ["Q8_0", "Q4_K_M", "F16"])
@pytest.mark.parametrize("had", ["F32", "F16"])
def test_routers_and_their_like_are_left_alone(tmp_path, target, had):
    small = small_model(dim=256, ffn_dim=256)
    rng = np.random.default_rng(0)
    others = ["blk.0.ffn_gate_inp_shexp.weight", "blk.0.time_mix_key.weight", "token_embd_types.weight"]
    for name in [*KEPT_BY_LLAMA_CPP, *others]:
        small.tensors[name] = random_tensor(had, (8, 256), rng)
    made = b2t.convert(small.write(tmp_path / "model.gguf"), tmp_path / "new.gguf", target)
    before, after = b2t.GGUFFile(tmp_path / "model.gguf"), b2t.GGUFFile(made.path)
    found = formats_of(made.path)
    for name in KEPT_BY_LLAMA_CPP[:-1]:
        assert found[name] == had and np.array_equal(before.raw(name), after.raw(name)), name
    assert {found[name] for name in others} == {"Q4_K" if target == "Q4_K_M" else target}


def test_f32_is_for_all(tmp_path):
    small = small_model()
    small.tensors["blk.0.ffn_gate_inp.weight"] = random_tensor("F16", (8, 64), np.random.default_rng(0))
    b2t.convert(small.write(tmp_path / "model.gguf"), tmp_path / "new.gguf", "F32")
    assert set(formats_of(tmp_path / "new.gguf").values()) == {"F32"}


def test_quantizing_what_is_quantized_is_said(source, tmp_path):
    first = b2t.convert(source, tmp_path / "q4.gguf", "Q4_0")
    assert not first.requantized and "already" not in repr(first)
    second = b2t.convert(first.path, tmp_path / "q6.gguf", "Q6_K")
    n_matrices = sum(len(info.shape) > 1 for info in second.tensors.values())
    assert set(second.requantized.values()) == {"Q4_0"} and len(second.requantized) == n_matrices
    assert f"{n_matrices} tensors were quantized already (Q4_0)" in repr(second)
    for target in ("Q4_0", "F16", "F32"):
        assert not b2t.convert(first.path, tmp_path / "other.gguf", target).requantized


def test_a_type_without_a_format_is_refused(tmp_path):
    small = small_model(dim=256, ffn_dim=256)
    small.tensors["blk.0.ffn_up.weight"] = "Q1_0", np.zeros((256, 36), np.uint8)
    with pytest.raises(UnsupportedError, match=r"tensor 'blk\.0\.ffn_up\.weight' has type Q1_0"):
        b2t.convert(small.write(tmp_path / "model.gguf"), tmp_path / "new.gguf", "Q8_0")
    assert len(list(tmp_path.iterdir())) == 1


# --- Where it is written ----------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("depth", [1, 2])
def test_a_link_leads_to_the_file_that_is_written(source, tmp_path, there, depth):
    (tmp_path / "far").mkdir()
    real, names = tmp_path / "far" / "real.gguf", [tmp_path / f"link{i}.gguf" for i in range(depth)]
    for link, to in zip(names, [*names[1:], real], strict=True):
        link.symlink_to(to)
    if there:
        real.write_bytes(b"old")
    made = b2t.convert(source, names[0], "Q8_0")
    assert made.path == names[0] and all(link.is_symlink() for link in names)
    assert not real.is_symlink() and b2t.GGUFFile(real).tensors
    assert {path.name for path in real.parent.iterdir()} == {"real.gguf"}


@pytest.mark.parametrize("make", ["loop", "fifo", "folder", "nowhere", "device"])
def test_what_is_no_file_is_not_replaced(source, tmp_path, make):
    path = tmp_path / "new.gguf"
    if make == "fifo":
        os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    to = {"loop": path, "nowhere": tmp_path / "absent" / "x.gguf", "device": "/dev/null"}
    path.symlink_to(to.get(make, tmp_path / make))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(
        (ValueError, FileNotFoundError), match=r"dst: expected a file's name|absent: no such folder"
    ):
        b2t.convert(source, path, "Q8_0")
    assert sorted(tmp_path.iterdir()) == before and path.is_symlink()


@pytest.mark.parametrize("length", [240, 255])
def test_a_name_as_long_as_names_can_be(source, tmp_path, length):
    path = tmp_path / ("é" * ((length - 5) // 2) + "x" * ((length - 5) % 2) + ".gguf")
    assert len(os.fsencode(path.name)) == length
    b2t.convert(source, path, "Q8_0")
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.skipif(os.name != "posix", reason="limits as POSIX has them")
def test_a_full_disk_is_called_by_its_name(source, old):
    """A limit on the size of files stands for the end of the disk."""
    import resource

    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, usual[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: .*model\.gguf") as caught:
            b2t.convert(source, old, "Q8_0")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(old)
    assert list(old.parent.iterdir()) == [old] and old.read_bytes() == b"what was there before"


# --- Metadata ---------------------------------------------------------------------------------------------

ODD = [
    ("general.architecture", V.STRING, "llama"),
    ("general.file_type", V.UINT32, 1),
    ("n.uint8", V.UINT8, 255),
    ("n.int8", V.INT8, -128),
    ("n.uint16", V.UINT16, 65535),
    ("n.int16", V.INT16, -32768),
    ("n.uint32", V.UINT32, 2**32 - 1),
    ("n.int32", V.INT32, -(2**31)),
    ("n.uint64", V.UINT64, 2**64 - 1),
    ("n.int64", V.INT64, -(2**63)),
    ("n.float32", V.FLOAT32, 0.1),
    ("n.float64", V.FLOAT64, 0.1),
    ("n.bool", V.BOOL, True),
    ("text", V.STRING, "Elinor said “no” 🙂"),
    ("text.empty", V.STRING, ""),
    ("text.bytes", V.STRING, b"\xff\xfe no UTF-8"),
    ("array.int16", V.ARRAY, (V.INT16, [1, -2, 3])),
    ("array.uint64", V.ARRAY, (V.UINT64, [2**64 - 1])),
    ("array.float32", V.ARRAY, (V.FLOAT32, [0.1, 0.2])),
    ("array.bool", V.ARRAY, (V.BOOL, [True, False])),
    ("array.text", V.ARRAY, (V.STRING, ["", "a", "é"])),
    ("array.empty", V.ARRAY, (V.UINT8, [])),
]
NESTED = ("array.nested", V.ARRAY, (V.ARRAY, [(V.INT32, [1, 2]), (V.STRING, ["x"])]))


def kept(path):
    """Return {key: (types, bytes)} as gguf's reader sees them, without the keys that a conversion changes."""
    fields = gguf.GGUFReader(path).fields
    return {
        key: (tuple(field.types), b"".join(part.tobytes() for part in field.parts))
        for key, field in fields.items()
        if key not in CHANGED and not key.startswith("GGUF.")
    }


def test_metadata_stays_as_it_was(tmp_path):
    f32 = np.arange(8, dtype="<f4").tobytes()
    path = tmp_path / "odd.gguf"
    path.write_bytes(Draft(ODD, [("w.weight", [4, 2], T.F32, 0)], f32).data)
    b2t.convert(path, tmp_path / "new.gguf", "F16")
    assert kept(tmp_path / "new.gguf") == kept(path)
    fields = gguf.GGUFReader(tmp_path / "new.gguf").fields
    assert fields["general.file_type"].types == [V.UINT32]
    assert fields["general.file_type"].contents() == gguf.LlamaFileType.MOSTLY_F16
    assert list(b2t.GGUFFile(tmp_path / "new.gguf").metadata) == [
        *(key for key, _, _ in ODD),
        "general.quantization_version",
    ]


def test_nested_arrays_and_version_2(tmp_path):
    path = tmp_path / "nested.gguf"
    path.write_bytes(Draft([NESTED], [("w", [8], T.F32, 0)], bytes(32), version=2).data)
    b2t.convert(path, tmp_path / "new.gguf", "Q8_0")
    before, after = b2t.GGUFFile(path), b2t.GGUFFile(tmp_path / "new.gguf")
    assert after.metadata.encoded("array.nested") == before.metadata.encoded("array.nested")
    assert (before.version, after.version) == (2, 3)


def test_austen_and_its_vocabulary(austen_path, tmp_path):
    made = b2t.convert(austen_path, tmp_path / "austen.gguf", "Q8_0")
    assert kept(made.path) == kept(austen_path)
    assert b2t.load(made.path).tokenizer.tokens == b2t.load(austen_path).tokenizer.tokens


@pytest.mark.parametrize("alignment", [8, 64, 4096])
def test_the_alignment_is_kept(tmp_path, alignment):
    model = small_model()
    model.metadata["general.alignment"] = alignment
    path = tmp_path / "aligned.gguf"
    _write_aligned(model, path, alignment)
    b2t.convert(path, tmp_path / "new.gguf", "Q5_0")
    new = b2t.GGUFFile(tmp_path / "new.gguf")
    assert new.alignment == alignment
    assert all(info.offset % alignment == 0 for info in new.tensors.values())
    b2t.load(tmp_path / "new.gguf").logits([1, 2, 3])


def _write_aligned(model, path, alignment):
    infos, data = [], b""
    for name, (format_name, raw) in model.tensors.items():
        fmt = FORMATS[format_name]
        ne = [*raw.shape[:-1], raw.shape[-1] // fmt.bytes_per_block * fmt.block_size][::-1]
        infos.append((name, ne, fmt.ggml_type, len(data)))
        data += raw.tobytes() + bytes(-raw.nbytes % alignment)
    kv = []
    for key, value in model.metadata.items():
        value_type = V.UINT32 if type(value) is int else V.get_type(value)
        if value_type == V.ARRAY:
            value = (V.INT32 if type(value[0]) is int else V.get_type(value[0]), value)
        kv.append((key, value_type, value))
    path.write_bytes(Draft(kv, infos, data, alignment=alignment).data)


# --- llama.cpp --------------------------------------------------------------------------------------------


def compare(model, oracle, prompt, n_tokens):
    """Follow llama.cpp's greedy choices; return which of ours are equal, and the margins of ours.

    llama.cpp rounds activations to 8 bits, which decides where two tokens are almost equally likely.
    """
    ids = model.tokenizer.encode(prompt)
    steps = [step.token for step in oracle.greedy(ids, n_tokens)]
    logits = model.logits([*ids, *steps[:-1]])[len(ids) - 1 :]
    second, first = np.sort(logits, axis=1)[:, -2:].T
    return logits.argmax(axis=1) == steps, first - second


def test_q4_k_m_of_austen_says_the_same_in_llama_cpp(xllamacpp, austen_path, tmp_path):
    made = b2t.convert(austen_path, tmp_path / "austen-q4_k_m.gguf", "Q4_K_M")
    model = b2t.load(made.path)
    with llama_cpp(xllamacpp, made.path, n_context=512) as oracle:
        for prompt in CLEAR:
            ids = model.tokenizer.encode(prompt)
            theirs = [step.token for step in oracle.greedy(ids, 48)]
            assert model.tokenizer.decode(model.generate(ids, 48)) == model.tokenizer.decode(theirs), prompt
        for prompt in CLOSE:
            equal, margins = compare(model, oracle, prompt, 48)
            assert equal[margins > 0.05].all() and equal.mean() > 0.9, (prompt, margins[~equal])


@pytest.mark.parametrize("target", [target for target in TARGETS if target != "Q4_K_M"])
def test_llama_cpp_reads_every_target(xllamacpp, austen_path, tmp_path, target):
    made = b2t.convert(austen_path, tmp_path / "austen.gguf", target)
    model = b2t.load(made.path)
    with llama_cpp(xllamacpp, made.path, n_context=512) as oracle:
        for prompt in ("It is a truth universally acknowledged, that", "She was"):
            equal, margins = compare(model, oracle, prompt, 24)
            assert equal[margins > 0.1].all() and equal.mean() > 0.8, (prompt, margins[~equal])


def test_llama_cpp_reads_a_file_with_replaced_formats(xllamacpp, tmp_path):
    path = small_model(dim=64, ffn_dim=256).write(tmp_path / "narrow.gguf")
    b2t.convert(path, tmp_path / "mix.gguf", "Q4_K_M")
    with llama_cpp(xllamacpp, tmp_path / "mix.gguf", n_context=64) as oracle:
        assert len(oracle.greedy([3, 4, 5], 4)) == 4


@pytest.mark.parametrize("target", ["Q8_0", "Q4_K_M"])
def test_a_mixture_of_experts(xllamacpp, tmp_path, target):
    made_of = small_model("qwen3moe", dim=256, ffn_dim=256, head_dim=64, n_experts=4)
    source = made_of.write(tmp_path / "experts.gguf")
    made = b2t.convert(source, tmp_path / "new.gguf", target)
    before, after, found = b2t.GGUFFile(source), b2t.GGUFFile(made.path), formats_of(made.path)
    for name in ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"):
        name = f"blk.1.{name}.weight"
        fmt, shape = b2t.FORMATS[found[name]], after.tensors[name].shape
        assert fmt.block_size > 1 and shape == before.tensors[name].shape and shape[0] == 4
        weights = before.raw(name).view(np.float32).reshape(shape)
        assert np.array_equal(after.raw(name).reshape(-1), fmt.quantize(weights).reshape(-1)), name
    assert found["blk.1.ffn_gate_inp.weight"] == "F32"
    with llama_cpp(xllamacpp, made.path, n_context=64) as oracle:
        equal, margins = compare(b2t.load(made.path), oracle, "the kettle", 16)
        assert equal[margins > 0.3].all() and equal.mean() > 0.6, margins[~equal]


# --- Interruptions ----------------------------------------------------------------------------------------


@pytest.fixture
def old(tmp_path):
    """A file that was there before, alone in its folder."""
    folder = tmp_path / "destination"
    folder.mkdir()
    path = folder / "model.gguf"
    path.write_bytes(b"what was there before")
    return path


def break_quantize(monkeypatch, error):
    calls, quantize = [], Format.quantize

    def broken(self, x, **how):
        calls.append(self)
        if len(calls) == 5:
            raise error
        return quantize(self, x, **how)

    monkeypatch.setattr(Format, "quantize", broken)


def break_writing(monkeypatch, error):
    def broken(self, tensor):
        tensor.tofile(self.fout[0])
        raise error

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", broken)


def break_replace(monkeypatch, error):
    def broken(source, destination):
        raise error

    monkeypatch.setattr(os, "replace", broken)


@pytest.mark.parametrize("break_at", [break_quantize, break_writing, break_replace])
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), OSError(28, "No space left on device"), MemoryError()]
)
@pytest.mark.parametrize("name", ["model.gguf", "new.gguf"])
def test_an_interruption_leaves_everything_as_it_was(source, old, monkeypatch, break_at, error, name):
    break_at(monkeypatch, error)
    with pytest.raises(type(error)):
        b2t.convert(source, old.with_name(name), "Q8_0")
    assert list(old.parent.iterdir()) == [old]
    assert old.read_bytes() == b"what was there before"


TERMINATED = """
import os, runpy, signal, sys
from blocks2tokens.formats import Format

def quantize(self, x, **how):
    os.kill(os.getpid(), signal.SIGTERM)
    return usual(self, x, **how)

usual, Format.quantize = Format.quantize, quantize
sys.argv = ["blocks2tokens", "convert", *sys.argv[1:], "Q8_0", "--force"]
runpy.run_module("blocks2tokens", run_name="__main__")
"""


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_a_command_that_is_told_to_end_leaves_everything_as_it_was(source, old):
    environ = os.environ | {"PYTHONPATH": str(Path(b2t.__file__).parents[1])}
    command = [sys.executable, "-c", TERMINATED, source, old]
    done = subprocess.run(command, capture_output=True, text=True, env=environ)
    assert done.returncode == 143 and "Traceback" not in done.stderr, done.stderr
    assert list(old.parent.iterdir()) == [old] and old.read_bytes() == b"what was there before"


def test_the_old_file_is_there_until_the_new_one_is_complete(source, old, monkeypatch):
    replace, seen = os.replace, []

    def watched(partial, destination):
        seen.append(old.read_bytes())
        assert b2t.GGUFFile(partial).tensors.keys() == b2t.GGUFFile(source).tensors.keys()
        replace(partial, destination)

    monkeypatch.setattr(os, "replace", watched)
    b2t.convert(source, old, "Q8_0")
    assert seen == [b"what was there before"]
    assert list(old.parent.iterdir()) == [old]
    b2t.load(old)


@pytest.mark.skipif(os.name != "posix", reason="permissions as POSIX has them")
def test_the_new_file_has_ordinary_permissions(source, tmp_path):
    (tmp_path / "ordinary").touch()
    b2t.convert(source, tmp_path / "new.gguf", "Q8_0")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ordinary", "new.gguf")}
    assert len(modes) == 1


# --- Memory -----------------------------------------------------------------------------------------------


def test_memory_is_bounded_by_one_tensor(tmp_path):
    shape = (4096, 1024)
    rng = np.random.default_rng(0)
    model = small_model()
    for i in range(3):
        model.tensors[f"large.{i}.weight"] = random_tensor("F16", shape, rng)
    path = model.write(tmp_path / "large.gguf")
    del model
    b2t.convert(path, tmp_path / "new.gguf", "Q8_0")  # compiles
    tracemalloc.start()
    b2t.convert(path, tmp_path / "new.gguf", "Q8_0")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    encoded = FORMATS["Q8_0"].row_bytes(prod(shape))
    assert 4 * prod(shape) > 3 * 4 * CHUNK  # the bound below is less than one tensor in float32
    assert peak < encoded + 2.6 * 4 * CHUNK + 2**20


# --- Bad arguments ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["Q8_K", "q4_k", "Q4_K_S", "", None, 12, ["F16"]])
def test_a_target_that_does_not_exist(source, tmp_path, target):
    with pytest.raises(ValueError, match=r"target: expected one of F32, F16, .*Q4_K_M, got"):
        b2t.convert(source, tmp_path / "new.gguf", target)
    assert not list(tmp_path.iterdir())


def test_an_effort_that_does_not_exist(source, tmp_path):
    with pytest.raises(ValueError, match="effort: expected 'ggml' or 'best', got 'much'"):
        b2t.convert(source, tmp_path / "new.gguf", "Q8_0", effort="much")


def link(make):
    return lambda path: make(path, path.with_name("link.gguf")) or path.with_name("link.gguf")


@pytest.mark.parametrize("name", [lambda path: path, link(os.symlink), link(os.link)])
def test_a_file_is_not_converted_into_itself(tmp_path, name):
    path = small_model().write(tmp_path / "model.gguf")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="another file than src"):
        b2t.convert(path, name(path), "Q8_0")
    assert path.read_bytes() == before


def test_files_and_folders_that_are_not_there(source, tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        b2t.convert(tmp_path / "absent.gguf", tmp_path / "new.gguf", "Q8_0")
    with pytest.raises(FileNotFoundError, match="absent: no such folder"):
        b2t.convert(source, tmp_path / "absent" / "new.gguf", "Q8_0")
    with pytest.raises(ValueError, match="is something else"):
        b2t.convert(source, tmp_path, "Q8_0")


def test_a_source_that_is_broken(source, tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(source.read_bytes()[:-100_000])
    with pytest.raises(GGUFError, match=r"broken\.gguf"):
        b2t.convert(broken, tmp_path / "new.gguf", "Q8_0")
    assert list(tmp_path.iterdir()) == [broken]


@pytest.mark.parametrize("n_layers", [None, "8", -1, 0, 1.5, True])
def test_the_mix_needs_the_number_of_layers(tmp_path, n_layers):
    model = small_model()
    del model.metadata["llama.block_count"]
    if n_layers is not None:
        model.metadata["llama.block_count"] = n_layers
    path = model.write(tmp_path / "model.gguf")
    with pytest.raises(GGUFError, match="block_count"):
        b2t.convert(path, tmp_path / "new.gguf", "Q4_K_M")
    b2t.convert(path, tmp_path / "new.gguf", "Q8_0")


def test_a_source_that_becomes_shorter_meanwhile(tmp_path, monkeypatch):
    path = small_model(dim=256, ffn_dim=256).write(tmp_path / "model.gguf")
    quantize = Format.quantize

    def cutting(self, x, **how):
        os.truncate(path, 10_000)
        return quantize(self, x, **how)

    monkeypatch.setattr(Format, "quantize", cutting)
    with pytest.raises(GGUFError, match=r"model\.gguf: byte 10000: the file ends here now"):
        b2t.convert(path, tmp_path / "new.gguf", "Q8_0")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("value", "target", "error", "message"),
    [
        (np.nan, "Q8_0", GGUFError, "no finite numbers"),
        (np.inf, "F16", GGUFError, "no finite numbers"),
        (1e6, "F16", ValueError, "too large for F16"),
        (1e9, "Q4_0", ValueError, "too large for Q4_0"),
        (1e9, "Q4_K", ValueError, "too large for Q4_K"),
    ],
)
def test_weights_that_a_format_cannot_hold(tmp_path, value, target, error, message):
    model = small_model(dim=256, ffn_dim=256)
    raw = model.tensors["blk.1.ffn_up.weight"][1].copy()
    raw.view("<f4")[3, 5] = value
    model.tensors["blk.1.ffn_up.weight"] = "F32", raw
    path = model.write(tmp_path / "model.gguf")
    with pytest.raises(error, match=f"blk.1.ffn_up.weight holds weights .*{message}"):
        b2t.convert(path, tmp_path / "new.gguf", target)
    assert list(tmp_path.iterdir()) == [path]
