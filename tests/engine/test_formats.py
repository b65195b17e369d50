"""Every format against ggml: decoding against the `gguf` package, encoding against golden bytes."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from blocks2tokens.errors import UnsupportedError
from blocks2tokens.formats import FORMATS, by_ggml_type

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "ggml_quantizers.npz")
IN_GGUF = [name for name in FORMATS if name != "Q8_K"]  # the gguf package has no decoder for activations
SCALES = [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00]  # float16


def same_bits(a, b):
    """Equal as bits; NaNs are equal to each other whatever their payload."""
    nan = np.isnan(a) & np.isnan(b)
    return a.shape == b.shape and bool(np.all(nan | (a.view(np.uint32) == b.view(np.uint32))))


def half_fields(fmt):
    return [name for name in fmt.block.names if fmt.block[name] == np.dtype("<f2")]


def random_blocks(fmt, n, seed):
    """Return n blocks of random bytes, uint8 [n, bytes]."""
    return np.random.default_rng(seed).integers(0, 256, (n, fmt.bytes_per_block), dtype=np.uint8)


def extreme_blocks(fmt, seed):
    """Return blocks whose float16 fields take every pair of extremes: zeros, subnormals, infinities."""
    blocks = random_blocks(fmt, len(SCALES) ** 2, seed).view(fmt.block)[:, 0]
    grid = np.array([(a, b) for a in SCALES for b in SCALES], np.uint16).view(np.float16)
    for column, name in enumerate(half_fields(fmt)):
        blocks[name] = grid[:, column]
    return blocks.view(np.uint8).reshape(len(blocks), -1)


def decoders(fmt):
    """The three decoders of a format, each uint8 [n, bytes] -> float32 [n, block_size]."""

    def by_element(raw):
        flat = raw.reshape(-1)
        weights = [fmt.dequantize_element(flat, i) for i in range(len(raw) * fmt.block_size)]
        return np.array(weights, np.float32).reshape(len(raw), -1)

    return {
        "rows": fmt.dequantize,
        "definition": lambda raw: fmt.module.dequantize(fmt.blocks(raw)[:, 0]),
        "element": by_element,
    }


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:overflow")
@pytest.mark.parametrize("decoder", ["rows", "definition", "element"])
@pytest.mark.parametrize("name", IN_GGUF)
def test_decoding_equals_ggml_on_random_and_extreme_bytes(name, decoder):
    fmt = FORMATS[name]
    n = 40 if decoder == "element" else 3000
    raw = np.concatenate([random_blocks(fmt, n, seed=1), extreme_blocks(fmt, seed=2)])
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[name])
        assert same_bits(decoders(fmt)[decoder](raw), expected)


def test_every_exponent_of_mxfp4():
    fmt = FORMATS["MXFP4"]
    raw = random_blocks(fmt, 256, seed=3)
    raw[:, 0] = np.arange(256)
    with np.errstate(over="ignore"):
        expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType.MXFP4)
    assert same_bits(fmt.dequantize(raw), expected)


def test_q8_k_decodes_as_defined():
    fmt = FORMATS["Q8_K"]
    raw = random_blocks(fmt, 50, seed=4)
    d = raw[:, :4].copy().view("<f4")
    with np.errstate(over="ignore", invalid="ignore"):
        expected = d * raw[:, 4:260].view(np.int8)
        assert same_bits(fmt.dequantize(raw), expected)
        for i in (0, 255, 256, 50 * 256 - 1):
            assert same_bits(fmt.dequantize_element(raw.reshape(-1), i), expected.reshape(-1)[i])


def test_q8_k_encodes_with_true_sums_and_small_error():
    x = np.random.default_rng(5).standard_normal((6, 512)).astype(np.float32)
    fmt = FORMATS["Q8_K"]
    blocks = fmt.blocks(fmt.quantize(x))
    assert np.array_equal(blocks["bsums"], blocks["qs"].reshape(6, 2, 16, 16).sum(axis=-1))
    largest = np.take_along_axis(
        x.reshape(6, 2, 256), abs(x).reshape(6, 2, 256).argmax(axis=-1)[..., None], axis=-1
    )[..., 0]
    assert np.allclose(blocks["d"], largest / -127, rtol=1e-6)
    assert np.all(abs(fmt.dequantize(fmt.quantize(x)) - x) <= abs(blocks["d"]).repeat(256, axis=-1) * 0.51)


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_encoding_equals_ggml_golden_bytes(name):
    assert np.array_equal(FORMATS[name].quantize(GOLDEN["x"]), GOLDEN[name])


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_plain_encoding_equals_the_gguf_package(name):
    rng = np.random.default_rng(6)
    bits = rng.integers(0, 2**32, 50_000, dtype=np.uint32).view(np.float32)
    x = bits[np.isfinite(bits)].reshape(1, -1)
    with np.errstate(over="ignore"):
        expected = gguf.quants.quantize(x, gguf.GGMLQuantizationType[name])
    assert np.array_equal(FORMATS[name].quantize(x), expected.view(np.uint8).reshape(1, -1))


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_K", "F16"])
def test_zero_and_constant_blocks_survive(name):
    x = np.zeros((3, 256), np.float32)
    x[1], x[2] = 0.5, -0.5
    assert np.allclose(FORMATS[name].dequantize(FORMATS[name].quantize(x)), x, atol=2e-3)


@pytest.mark.parametrize("name", list(FORMATS))
def test_sizes_are_those_of_ggml(name):
    fmt = FORMATS[name]
    kind = gguf.GGMLQuantizationType[name]
    assert (fmt.block_size, fmt.bytes_per_block) == gguf.GGML_QUANT_SIZES[kind]
    assert fmt.ggml_type == kind and by_ggml_type(kind) is fmt
    assert fmt.bits_per_weight == 8 * fmt.bytes_per_block / fmt.block_size


def test_leading_dimensions_and_empty_arrays_keep_their_shape():
    fmt = FORMATS["Q4_0"]
    assert fmt.dequantize(np.zeros((2, 3, 36), np.uint8)).shape == (2, 3, 64)
    assert fmt.dequantize(np.zeros((0, 36), np.uint8)).shape == (0, 64)
    assert fmt.quantize(np.zeros((2, 0, 64), np.float32)).shape == (2, 0, 36)


BAD_CALLS = {
    "list": (lambda f: f.dequantize([1, 2, 3]), "expected a NumPy array of uint8, got list"),
    "dtype": (lambda f: f.dequantize(np.zeros(144, np.int8)), "expected dtype uint8, got int8"),
    "truncated": (lambda f: f.dequantize(np.zeros(143, np.uint8)), "multiple of 144 bytes, got 143"),
    "scalar": (lambda f: f.dequantize(np.array(1, np.uint8)), "at least one dimension"),
    "strided": (lambda f: f.dequantize(np.zeros((2, 288), np.uint8)[:, ::2]), "C-contiguous"),
    "element too far": (
        lambda f: f.dequantize_element(np.zeros(144, np.uint8), 256),
        "0 <= i < 256, got 256",
    ),
    "element negative": (lambda f: f.dequantize_element(np.zeros(144, np.uint8), -1), "got -1"),
    "element between two": (
        lambda f: f.dequantize_element(np.zeros(144, np.uint8), 1.9),
        "got 1.9",
    ),
    "element of a name": (
        lambda f: f.dequantize_element(np.zeros(144, np.uint8), "1"),
        "got '1'",
    ),
    "element of a matrix": (lambda f: f.dequantize_element(np.zeros((1, 144), np.uint8), 0), "one dimension"),
    "row length": (lambda f: f.quantize(np.zeros(255, np.float32)), "multiple of 256 weights, got 255"),
    "float64": (lambda f: f.quantize(np.zeros(256)), "expected dtype float32, got float64"),
    "nan": (lambda f: f.quantize(np.full((2, 256), np.nan, np.float32)), r"got nan at index \(0, 0\)"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_input_says_what_was_expected_and_what_came(case):
    call, message = BAD_CALLS[case]
    with pytest.raises(ValueError, match=message):
        call(FORMATS["Q4_K"])


def test_unknown_type_is_named():
    with pytest.raises(UnsupportedError, match="tensor type 999"):
        by_ggml_type(999)
