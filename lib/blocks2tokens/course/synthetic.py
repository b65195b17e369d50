"""Synthetic models: as large as real ones, their weights random, for speed and memory at real sizes.

    shape "1B"    llama    16 layers of 2048     a size that every machine has memory for
    shape "7B"    llama    32 layers of 4096     that of Llama 2 7B
    shape "14B"   qwen2    48 layers of 5120     that of Qwen2.5 14B
    shape "8x1B"  qwen3moe 16 layers of 1024     a mixture of 8 experts, 2 in use, 1B in all

A shape is enough for arithmetic: `parameters` counts weights, bytes and the bytes that a token reads.
`ensure` writes the model to data/models/. Such a model has valid blocks and a valid vocabulary, and
nothing to say: for each format and row length a few rows of usual weights are encoded once, and then
repeated, in another order in every matrix.
"""

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path

import gguf
import numpy as np
from tqdm import tqdm

from blocks2tokens.convert import FILE_TYPES, TARGETS, fitting_format, mixed_format
from blocks2tokens.course.models import DATA
from blocks2tokens.errors import GGUFError
from blocks2tokens.formats import FORMATS, Format
from blocks2tokens.gguf_file import GGUFFile
from blocks2tokens.tokenizer import byte_characters

SEED = 0
ENCODED_ROWS = 64  # of each format and length
USUAL_WEIGHT = np.float32(0.02)  # root mean square
SPARE_DISK = 1e9  # bytes that stay free

NORMAL, UNUSED = 1, 5  # token types
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Shape:
    """The hyperparameters of a model; see ModelConfig. Input and output embeddings are two matrices.

    In a mixture ffn_dim is an expert's.
    """

    name: str
    architecture: str
    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn_dim: int
    vocab_size: int
    context_length: int
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    n_experts: int = 0
    n_used: int = 0


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("1B", "llama", 2048, 16, 32, 8, 64, 5632, 32_000, 4096),
        Shape("7B", "llama", 4096, 32, 32, 32, 128, 11_008, 32_000, 4096),
        Shape("14B", "qwen2", 5120, 48, 40, 8, 128, 13_824, 152_064, 32_768, 1e6, 1e-6),
        Shape("8x1B", "qwen3moe", 1024, 16, 16, 4, 64, 2048, 32_000, 4096, n_experts=8, n_used=2),
    )
}


# --- Arithmetic -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameters:
    """What a model of some shape and format holds, and what one token takes.

    weights            all of them, norms and biases too
    nbytes             of these
    bytes_per_token    of the weights that one token reads: all but the embedding, of which it reads a row
    kv_values          keys and values that the cache gains with each token
    """

    weights: int
    nbytes: int
    bytes_per_token: int
    kv_values: int

    @property
    def bits_per_weight(self) -> float:
        """Bits per weight over all tensors."""
        return 8 * self.nbytes / self.weights

    def kv_bytes(self, n_tokens: int = 1, bits: int = 16) -> int:
        """Return the bytes of a cache that holds n_tokens, `bits` for each value."""
        return n_tokens * self.kv_values * bits // 8

    def tokens_per_second(self, bandwidth: float, n_tokens: int = 0, bits: int = 16) -> float:
        """Return the most tokens a second that reading at `bandwidth`, GB/s, allows one stream.

        Each token reads its weights and a cache that holds n_tokens, `bits` for each value.
        """
        return bandwidth * 1e9 / (self.bytes_per_token + self.kv_bytes(n_tokens, bits))


def parameters(shape: str | Shape, target: str = "Q4_K_M") -> Parameters:
    """Return the counts of a shape, by its name or itself, in a format or the mix Q4_K_M."""
    shape = _shape(shape)
    sizes = tensors(shape)
    formats = _formats(shape, target)
    nbytes = {name: _nbytes(formats[name], size) for name, size in sizes.items()}
    embedding = "token_embd.weight"
    read = {
        name: n * shape.n_used // shape.n_experts if "_exps." in name else n for name, n in nbytes.items()
    }
    return Parameters(
        weights=sum(map(prod, sizes.values())),
        nbytes=sum(nbytes.values()),
        bytes_per_token=sum(read.values()) - nbytes[embedding] + nbytes[embedding] // shape.vocab_size,
        kv_values=2 * shape.n_layers * shape.n_kv_heads * shape.head_dim,
    )


def tensors(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Return {name: (N, K), (n_experts, N, K), or (K,) for a vector} of all tensors, in the file's order."""
    s = shape
    q_dim, kv_dim = s.n_heads * s.head_dim, s.n_kv_heads * s.head_dim
    layer = {
        "attn_norm.weight": (s.dim,),
        "attn_q.weight": (q_dim, s.dim),
        "attn_k.weight": (kv_dim, s.dim),
        "attn_v.weight": (kv_dim, s.dim),
        "attn_output.weight": (s.dim, q_dim),
        "ffn_norm.weight": (s.dim,),
    }
    feed_forward = {
        "ffn_gate": (s.ffn_dim, s.dim),
        "ffn_up": (s.ffn_dim, s.dim),
        "ffn_down": (s.dim, s.ffn_dim),
    }
    if s.n_experts:
        layer["ffn_gate_inp.weight"] = s.n_experts, s.dim
        layer |= {f"{name}_exps.weight": (s.n_experts, *size) for name, size in feed_forward.items()}
    else:
        layer |= {f"{name}.weight": size for name, size in feed_forward.items()}
    if s.architecture == "qwen2":
        layer |= {"attn_q.bias": (q_dim,), "attn_k.bias": (kv_dim,), "attn_v.bias": (kv_dim,)}
    if s.architecture == "qwen3moe":
        layer |= {"attn_q_norm.weight": (s.head_dim,), "attn_k_norm.weight": (s.head_dim,)}
    layers = {f"blk.{i}.{name}": size for i in range(s.n_layers) for name, size in layer.items()}
    embeddings = {"token_embd.weight": (s.vocab_size, s.dim), "output.weight": (s.vocab_size, s.dim)}
    return embeddings | layers | {"output_norm.weight": (s.dim,)}


def _shape(shape: str | Shape) -> Shape:
    if isinstance(shape, Shape):
        return shape
    if shape not in SHAPES:
        raise ValueError(f"shape: expected one of {', '.join(SHAPES)} or a Shape, got {shape!r}")
    return SHAPES[shape]


def _formats(shape: Shape, target: str) -> dict[str, Format]:
    """Return {name: format} of all tensors."""
    if target not in TARGETS:
        raise ValueError(f"target: expected one of {', '.join(TARGETS)}, got {target!r}")
    found = {}
    for name, size in tensors(shape).items():
        meant = mixed_format(name, shape.n_layers, tied=False) if target == "Q4_K_M" else target
        plain = len(size) == 1 or name.endswith("ffn_gate_inp.weight")
        found[name] = FORMATS["F32" if plain else fitting_format(meant, size[-1])]
    return found


def _nbytes(fmt: Format, size: tuple[int, ...]) -> int:
    return prod(size[:-1]) * fmt.row_bytes(size[-1])


# --- Files ------------------------------------------------------------------------------------------------


def ensure(shape: str | Shape, target: str = "Q4_K_M") -> Path:
    """Return the path of a model in data/models/, which is written first unless it is there, complete.

    Raises OSError, before anything is written, where the disk is too small.
    """
    path = file_path(shape, target)
    if not is_complete(path, shape, target):
        path.parent.mkdir(exist_ok=True)
        write_model(path, shape, target)
    return path


def file_path(shape: str | Shape, target: str = "Q4_K_M") -> Path:
    """Return where `ensure` puts a model."""
    return DATA / "models" / f"synthetic-{_shape(shape).name}-{target}-seed{SEED}.gguf"


def is_complete(path: Path, shape: str | Shape, target: str = "Q4_K_M") -> bool:
    """Is there a model of this shape in this format at `path`, every byte of it?"""
    shape = _shape(shape)
    try:
        found = {name: (info.shape, info.ggml_type) for name, info in GGUFFile(path).tensors.items()}
    except (FileNotFoundError, GGUFError):
        return False
    formats = _formats(shape, target)
    return found == {name: (size, formats[name].ggml_type) for name, size in tensors(shape).items()}


def missing_disk(path: Path, shape: str | Shape, target: str = "Q4_K_M") -> float:
    """Return how many bytes are missing to write the model at `path` and keep SPARE_DISK free, or 0."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    return max(0, parameters(shape, target).nbytes + SPARE_DISK - shutil.disk_usage(folder).free)


def write_model(path: str | os.PathLike[str], shape: str | Shape, target: str = "Q4_K_M") -> Path:
    """Write a model of random weights as a GGUF file, complete or not at all; return its path.

    At most one tensor is in memory. Raises OSError where the disk is too small.
    """
    path, shape = Path(path), _shape(shape)
    _sweep(path)
    if missing := missing_disk(path, shape, target):
        needed = parameters(shape, target).nbytes + SPARE_DISK
        raise OSError(
            f"{path.name}: {needed / 1e9:.1f} GB of free disk are needed in {path.parent}, "
            f"{(needed - missing) / 1e9:.1f} are there"
        )
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    try:
        _write(partial, shape, target)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _sweep(path: Path) -> None:
    """Remove what runs that were killed, an hour ago or more, left of `path`."""
    for left in path.parent.glob(f"{path.name}.*.partial"):
        if time.time() - left.stat().st_mtime > 3600:
            left.unlink(missing_ok=True)


def _write(path: Path, shape: Shape, target: str) -> None:
    writer = gguf.GGUFWriter(path, shape.architecture)
    try:
        _add_metadata(writer, shape, target)
        formats = _formats(shape, target)
        for name, size in tensors(shape).items():
            fmt = formats[name]
            raw_shape = (*size[:-1], fmt.row_bytes(size[-1]))
            kind = gguf.GGMLQuantizationType(fmt.ggml_type)
            writer.add_tensor_info(name, raw_shape, np.dtype(np.uint8), prod(raw_shape), kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        total = sum(_nbytes(formats[name], size) for name, size in tensors(shape).items())
        with tqdm(
            total=total, desc=f"Writing {shape.name}", unit="B", unit_scale=True, delay=2, leave=False
        ) as bar:
            for raw in _weights(shape, formats):
                writer.write_tensor_data(raw)
                bar.update(raw.nbytes)
    finally:
        writer.close()


def _add_metadata(writer: gguf.GGUFWriter, shape: Shape, target: str) -> None:
    """State shape and vocabulary. No token ends a text: a measurement gets as many as it asks for."""
    writer.add_name(f"Synthetic {shape.name}, random weights, seed {SEED}")
    writer.add_file_type(gguf.LlamaFileType[FILE_TYPES[target]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(shape.n_layers)
    writer.add_context_length(shape.context_length)
    writer.add_embedding_length(shape.dim)
    writer.add_feed_forward_length(shape.ffn_dim)
    if shape.n_experts:
        writer.add_expert_count(shape.n_experts)
        writer.add_expert_used_count(shape.n_used)
        writer.add_expert_feed_forward_length(shape.ffn_dim)
    writer.add_head_count(shape.n_heads)
    writer.add_head_count_kv(shape.n_kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    tokens, merges = vocabulary(shape.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([UNUSED if token.startswith("[unused ") else NORMAL for token in tokens])
    writer.add_token_merges(merges)
    writer.add_add_bos_token(False)


def vocabulary(size: int) -> tuple[list[str], list[str]]:
    """Return tokens and merges: each byte, each pair of small letters, and unused tokens up to `size`."""
    pairs = [(a, b) for a in LETTERS for b in LETTERS]
    tokens = [*byte_characters(), *(a + b for a, b in pairs)]
    if size < len(tokens):
        raise ValueError(f"size: expected at least {len(tokens)} tokens, got {size}")
    tokens += [f"[unused {i}]" for i in range(len(tokens), size)]
    return tokens, [f"{a} {b}" for a, b in pairs]


def _weights(shape: Shape, formats: dict[str, Format]) -> Iterator[np.ndarray]:
    """Yield the bytes of each tensor, uint8 [..., row bytes]."""
    rng = np.random.default_rng(SEED)
    for name, size in tensors(shape).items():
        if len(size) == 1:
            near = 1 if name.endswith("norm.weight") else 0
            yield rng.normal(near, USUAL_WEIGHT, size).astype(np.float32).view(np.uint8)
        else:
            yield _encoded_rows(formats[name].name, size[-1])[rng.integers(0, ENCODED_ROWS, size[:-1])]


@cache
def _encoded_rows(format_name: str, K: int) -> np.ndarray:
    """Encode rows of K usual weights, uint8 [ENCODED_ROWS, row bytes]."""
    x = np.random.default_rng(SEED).standard_normal((ENCODED_ROWS, K), np.float32)
    return FORMATS[format_name].quantize(x * USUAL_WEIGHT)
