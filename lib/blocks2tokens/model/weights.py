"""The weights of a transformer: views of the mapped file, found by name and checked.

    token_embd.weight                           [vocab, dim]
    blk.i.attn_norm.weight                      [dim]
    blk.i.attn_q, attn_k, attn_v .weight        [heads * head_dim, dim]      .bias [heads * head_dim]   (1)
    blk.i.attn_q_norm, attn_k_norm .weight      [head_dim]                                              (2)
    blk.i.attn_output.weight                    [dim, n_heads * head_dim]
    blk.i.ffn_norm.weight                       [dim]
    blk.i.ffn_gate, ffn_up .weight              [ffn_dim, dim]
    blk.i.ffn_down.weight                       [dim, ffn_dim]
    output_norm.weight                          [dim]
    output.weight                               [vocab, dim]      absent: token_embd.weight serves
    rope_freqs.weight                           [head_dim / 2]    divides the frequencies; some llama files

    (1) qwen2 has them, llama and qwen3 may     (2) qwen3 has them

Nothing is decoded but vectors; matrices stay quantized.
"""

from dataclasses import dataclass

import numpy as np

from blocks2tokens.errors import GGUFError, UnsupportedError
from blocks2tokens.gguf_file import GGUFFile
from blocks2tokens.matrix import QuantizedMatrix
from blocks2tokens.model.config import ModelConfig
from blocks2tokens.model.rope import scaled_frequencies


@dataclass(frozen=True)
class Layer:
    """The weights of one layer; matrices quantized, vectors float32, None where the family has none."""

    attn_norm: np.ndarray
    attn_q: QuantizedMatrix
    attn_k: QuantizedMatrix
    attn_v: QuantizedMatrix
    attn_output: QuantizedMatrix
    ffn_norm: np.ndarray
    ffn_gate: QuantizedMatrix
    ffn_up: QuantizedMatrix
    ffn_down: QuantizedMatrix
    attn_q_bias: np.ndarray | None = None
    attn_k_bias: np.ndarray | None = None
    attn_v_bias: np.ndarray | None = None
    attn_q_norm: np.ndarray | None = None
    attn_k_norm: np.ndarray | None = None


class Weights:
    """All weights of a file: `token_embd`, `layers`, `output_norm`, `output`, `rope_frequencies`."""

    def __init__(self, file: GGUFFile, config: ModelConfig):
        """Find and check every tensor.

        GGUFError names one that is missing, has another shape or holds impossible numbers;
        UnsupportedError one that the forward pass would leave out: the logits would be wrong.
        """
        find = _TensorFinder(file)
        c = config
        self.token_embd = find.matrix("token_embd", c.vocab_size, c.dim)
        self.layers = [_layer(find, c, f"blk.{i}") for i in range(c.n_layers)]
        self.output_norm = find.vector("output_norm.weight", c.dim)
        tied = "output.weight" not in file.tensors
        self.output = self.token_embd if tied else find.matrix("output", c.vocab_size, c.dim)
        self.rope_frequencies = _frequencies(find, c)
        find.refuse_unused()


def _layer(find: "_TensorFinder", c: ModelConfig, prefix: str) -> Layer:
    q_dim, kv_dim = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
    extra = {}
    for name, size in {"attn_q": q_dim, "attn_k": kv_dim, "attn_v": kv_dim}.items():
        if c.family.qkv_biases or f"{prefix}.{name}.bias" in find.file.tensors:
            extra[f"{name}_bias"] = find.vector(f"{prefix}.{name}.bias", size)
    if c.family.head_norms:
        names = ("attn_q_norm", "attn_k_norm")
        extra |= {name: find.vector(f"{prefix}.{name}.weight", c.head_dim) for name in names}
    return Layer(
        attn_norm=find.vector(f"{prefix}.attn_norm.weight", c.dim),
        attn_q=find.matrix(f"{prefix}.attn_q", q_dim, c.dim),
        attn_k=find.matrix(f"{prefix}.attn_k", kv_dim, c.dim),
        attn_v=find.matrix(f"{prefix}.attn_v", kv_dim, c.dim),
        attn_output=find.matrix(f"{prefix}.attn_output", c.dim, q_dim),
        ffn_norm=find.vector(f"{prefix}.ffn_norm.weight", c.dim),
        ffn_gate=find.matrix(f"{prefix}.ffn_gate", c.ffn_dim, c.dim),
        ffn_up=find.matrix(f"{prefix}.ffn_up", c.ffn_dim, c.dim),
        ffn_down=find.matrix(f"{prefix}.ffn_down", c.dim, c.ffn_dim),
        **extra,
    )


def _frequencies(find: "_TensorFinder", c: ModelConfig) -> np.ndarray:
    frequencies = scaled_frequencies(c.head_dim, c.rope_theta, c.rope_scaling)
    name = "rope_freqs.weight"
    if name not in find.file.tensors or c.architecture != "llama":
        return frequencies
    factors = find.vector(name, c.head_dim // 2)
    if not (np.isfinite(factors) & (factors > 0)).all():
        raise GGUFError(f"{find.file.path}: tensor {name}: expected positive numbers")
    return frequencies / factors


class _TensorFinder:
    """Looks up tensors by name and checks their shapes."""

    def __init__(self, file: GGUFFile):
        self.file = file
        self.unused = set(file.tensors)

    def find(self, name: str, shape: tuple):
        info = self.file.tensors.get(name)
        if info is None:
            raise GGUFError(f"{self.file.path}: tensor {name} is missing")
        if info.shape != shape:
            raise GGUFError(f"{self.file.path}: tensor {name}: expected shape {shape}, got {info.shape}")
        self.unused.discard(name)
        return self.file.format(name), self.file.raw(name)

    def matrix(self, name: str, n_out: int, n_in: int) -> QuantizedMatrix:
        fmt, raw = self.find(f"{name}.weight", (n_out, n_in))
        return QuantizedMatrix(raw, fmt, (n_out, n_in))

    def vector(self, name: str, size: int) -> np.ndarray:
        fmt, raw = self.find(name, (size,))
        return fmt.dequantize(raw)

    def refuse_unused(self) -> None:
        if self.unused:
            raise UnsupportedError(
                f"{self.file.path}: tensor {min(self.unused)}: the forward pass here has no place for it"
            )
