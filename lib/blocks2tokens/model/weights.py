"""The weights of a transformer: views of the mapped file, found by name and checked.

    token_embd.weight                           [vocab, dim]
    blk.i.attn_norm.weight                      [dim]
    blk.i.attn_q, attn_k, attn_v .weight        [heads * head_dim, dim]      .bias [heads * head_dim]   (1)
    blk.i.attn_q_norm, attn_k_norm .weight      [head_dim]                                              (2)
    blk.i.attn_sinks.weight                     [n_heads]                                               (2)
    blk.i.attn_output.weight                    [dim, n_heads * head_dim]    .bias [dim]                (1)
    blk.i.post_attention_norm.weight            [dim]                                                   (2)
    blk.i.ffn_norm.weight                       [dim]
    blk.i.ffn_gate, ffn_up .weight              [ffn_dim, dim]               .bias [ffn_dim]            (1)
    blk.i.ffn_down.weight                       [dim, ffn_dim]               .bias [dim]                (1)
    blk.i.post_ffw_norm.weight                  [dim]                                                   (2)
    output_norm.weight                          [dim]
    output.weight                               [vocab, dim]      absent: token_embd.weight serves
    rope_freqs.weight                           [head_dim / 2]    divides the frequencies; some llama files

    a mixture, for ffn_gate, ffn_up and ffn_down:
    blk.i.ffn_gate_inp.weight                   [n_experts, dim]             .bias [n_experts]          (1)
    blk.i.ffn_gate_exps, ffn_up_exps .weight    [n_experts, ffn_dim, dim]    .bias [n_experts, ffn_dim] (1)
    blk.i.ffn_down_exps.weight                  [n_experts, dim, ffn_dim]    .bias [n_experts, dim]     (1)

    phi3, for what is cut from them by rows:
    blk.i.attn_qkv.weight                       [(n_heads + 2 n_kv_heads) * head_dim, dim]    Q, K, V
    blk.i.ffn_up.weight                         [2 * ffn_dim, dim]                            gate, up

    (1) (2) `architectures` says who has them; (1) in llama files where they are there

Nothing is decoded but vectors; matrices stay quantized.
"""

from dataclasses import dataclass, replace

import numpy as np

from blocks2tokens.errors import GGUFError, UnsupportedError
from blocks2tokens.gguf_file import GGUFFile
from blocks2tokens.matrix import QuantizedMatrix
from blocks2tokens.model.architectures import FFN
from blocks2tokens.model.config import ModelConfig
from blocks2tokens.model.experts import Experts
from blocks2tokens.model.rope import RopeScaling, scaled_frequencies


@dataclass(frozen=True)
class Layer:
    """The weights of one layer; matrices quantized, vectors float32, None where the family has none.

    In a mixture ffn_gate, ffn_up and ffn_down are Experts, their biases [n_experts, rows].
    """

    attn_norm: np.ndarray
    attn_q: QuantizedMatrix
    attn_k: QuantizedMatrix
    attn_v: QuantizedMatrix
    attn_output: QuantizedMatrix
    ffn_norm: np.ndarray
    ffn_gate: QuantizedMatrix | Experts
    ffn_up: QuantizedMatrix | Experts
    ffn_down: QuantizedMatrix | Experts
    ffn_gate_inp: QuantizedMatrix | None = None  # the router: a score for each expert
    attn_q_bias: np.ndarray | None = None
    attn_k_bias: np.ndarray | None = None
    attn_v_bias: np.ndarray | None = None
    attn_output_bias: np.ndarray | None = None
    ffn_gate_bias: np.ndarray | None = None
    ffn_up_bias: np.ndarray | None = None
    ffn_down_bias: np.ndarray | None = None
    ffn_gate_inp_bias: np.ndarray | None = None
    attn_q_norm: np.ndarray | None = None
    attn_k_norm: np.ndarray | None = None
    attn_sinks: np.ndarray | None = None
    post_attention_norm: np.ndarray | None = None
    post_ffw_norm: np.ndarray | None = None

    def expert(self, i: int) -> "Layer":
        """Return this layer with expert i of its mixture as its feed-forward part."""
        names = [f"{name}{part}" for name in FFN for part in ("", "_bias")]
        return replace(self, **{name: own[i] for name in names if (own := getattr(self, name)) is not None})


class Weights:
    """All weights of a file: `token_embd`, `layers`, `output_norm`, `output`, and RoPE's frequencies:
    `rope_frequencies`, and `local_rope_frequencies` for layers with a window."""

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
        self.local_rope_frequencies = _local_frequencies(c, self.rope_frequencies)
        find.refuse_unused()


def _layer(find: "_TensorFinder", c: ModelConfig, prefix: str) -> Layer:
    norms = {"attn_norm": ("attn_norm", c.dim), "ffn_norm": (c.family.ffn_norm, c.dim)}
    if c.family.head_norms:
        norms |= {name: (name, c.head_dim) for name in ("attn_q_norm", "attn_k_norm")}
    if c.family.post_norms:
        norms |= {name: (name, c.dim) for name in ("post_attention_norm", "post_ffw_norm")}
    if c.family.sinks:
        norms["attn_sinks"] = "attn_sinks", c.n_heads
    vectors = {key: find.vector(f"{prefix}.{name}.weight", size) for key, (name, size) in norms.items()}
    parts = _mixture(find, c, prefix) if c.n_experts else _feed_forward(find, c, prefix)
    return Layer(**vectors, **_attention(find, c, prefix), **parts)


def _attention(find: "_TensorFinder", c: ModelConfig, prefix: str) -> dict:
    """Return the matrices of attention, and their biases."""
    q_dim, kv_dim = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
    sizes = {"attn_q": q_dim, "attn_k": kv_dim, "attn_v": kv_dim}
    if c.family.fused:
        parts = find.cut(f"{prefix}.attn_qkv", sizes, c.dim)
    else:
        parts = {name: find.matrix(f"{prefix}.{name}", size, c.dim) for name, size in sizes.items()}
    parts["attn_output"] = find.matrix(f"{prefix}.attn_output", c.dim, q_dim)
    return parts | _biases(find, c, prefix, {name: (name, w.shape[:1]) for name, w in parts.items()})


def _feed_forward(find: "_TensorFinder", c: ModelConfig, prefix: str) -> dict:
    """Return gate, up and down, and their biases."""
    sizes = {"ffn_gate": c.ffn_dim, "ffn_up": c.ffn_dim}
    if c.family.fused:
        parts = find.cut(f"{prefix}.ffn_up", sizes, c.dim)
    else:
        parts = {name: find.matrix(f"{prefix}.{name}", size, c.dim) for name, size in sizes.items()}
    parts["ffn_down"] = find.matrix(f"{prefix}.ffn_down", c.dim, c.ffn_dim)
    return parts | _biases(find, c, prefix, {name: (name, w.shape[:1]) for name, w in parts.items()})


def _mixture(find: "_TensorFinder", c: ModelConfig, prefix: str) -> dict:
    """Return the router and the experts, and their biases."""
    shapes = {"ffn_gate": (c.ffn_dim, c.dim), "ffn_up": (c.ffn_dim, c.dim), "ffn_down": (c.dim, c.ffn_dim)}
    parts = {
        name: find.experts(f"{prefix}.{name}_exps", c.n_experts, shape) for name, shape in shapes.items()
    }
    biases = {name: (f"{name}_exps", (c.n_experts, shape[0])) for name, shape in shapes.items()}
    parts["ffn_gate_inp"] = find.matrix(f"{prefix}.ffn_gate_inp", c.n_experts, c.dim)
    biases["ffn_gate_inp"] = "ffn_gate_inp", (c.n_experts,)
    return parts | _biases(find, c, prefix, biases)


def _biases(find: "_TensorFinder", c: ModelConfig, prefix: str, wanted: dict) -> dict:
    """Return the biases that the family must have, and those that it may have and the file has.

    `wanted` maps a matrix to its name in the file and the shape of its bias.
    """
    found = {}
    for key, (name, shape) in wanted.items():
        tensor = f"{prefix}.{name}.bias"
        there = name in c.family.optional_biases and tensor in find.file.tensors
        if there or name in c.family.biases:
            found[f"{key}_bias"] = find.array(tensor, shape)
    return found


def _frequencies(find: "_TensorFinder", c: ModelConfig) -> np.ndarray:
    frequencies = scaled_frequencies(c.head_dim, c.rope_theta, c.rope_scaling)
    name = "rope_freqs.weight"
    if name not in find.file.tensors or c.architecture != "llama":
        return frequencies
    factors = find.vector(name, c.head_dim // 2)
    if not (np.isfinite(factors) & (factors > 0)).all():
        raise GGUFError(f"{find.file.path}: tensor {name}: expected positive numbers")
    return frequencies / factors


def _local_frequencies(c: ModelConfig, frequencies: np.ndarray) -> np.ndarray:
    """Return the frequencies in layers with a window: with another base they are another array."""
    if c.family.local_theta is None and c.local_theta == c.rope_theta:
        return frequencies
    scaling = c.rope_scaling if c.family.local_theta is None else RopeScaling()
    return scaled_frequencies(c.head_dim, c.local_theta, scaling)


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

    def cut(self, name: str, sizes: dict[str, int], n_in: int) -> dict[str, QuantizedMatrix]:
        """Return the matrices that lie under each other in one tensor."""
        fmt, raw = self.find(f"{name}.weight", (sum(sizes.values()), n_in))
        ends = np.cumsum(list(sizes.values()))
        return {
            part: QuantizedMatrix(raw[end - size : end], fmt, (size, n_in))
            for (part, size), end in zip(sizes.items(), ends, strict=True)
        }

    def experts(self, name: str, n: int, shape: tuple[int, int]) -> Experts:
        fmt, raw = self.find(f"{name}.weight", (n, *shape))
        return Experts(raw, fmt, shape)

    def array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        fmt, raw = self.find(name, shape)
        return fmt.dequantize(raw)

    def vector(self, name: str, size: int) -> np.ndarray:
        return self.array(name, (size,))

    def refuse_unused(self) -> None:
        if self.unused:
            raise UnsupportedError(
                f"{self.file.path}: tensor {min(self.unused)}: the forward pass here has no place for it"
            )
