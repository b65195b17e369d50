"""Small models from a seed: GGUF files of every architecture, written with the `gguf` package.

small_model(...)     a SmallModel: every key and tensor of the file, to be changed by a test
    .metadata        key -> value                        del model.metadata["llama.block_count"]
    .tensors         name -> (format name, raw blocks)   model.tensors["output.weight"] = random_tensor(...)
    .write(path)     the file

Weights are blocks of random bytes whose scales make sense; no encoder of the engine is involved.
"""

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import gguf
import numpy as np
from gguf import GGUFValueType as V
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from blocks2tokens.formats import FORMATS

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]  # ids 0, 1 and 2
NORMAL, CONTROL = 1, 3  # token types

# By how much some tensors are larger than such as keep the size of what they multiply. Queries and keys:
# scores then spread by about 1.5, so that attention chooses. The last norm: logits spread by about 2.
GAINS = {"attn_q": 1.2, "attn_k": 1.2, "attn_q_norm": 1.2, "attn_k_norm": 1.2, "output_norm": 2.0}
GAINS |= {"ffn_gate_inp": 1.5}  # experts' shares differ
PERIODS = {"gemma2": 2, "gemma3": 6, "gpt-oss": 2}  # every so many layers one sees all
HEAD_NORMS = ("qwen3", "qwen3moe", "gemma3")

CHATML = """\
{% for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

TEXT = """\
The kettle is on the stove and the cat is on the chair. There are 12 plates, 365 days and 1,024 tokens.
She said that the weather had been better in the morning, and that they would go there together.
“Nothing,” he said, “is better than a kettle on a stove.” Where were they going? They were going there!
Der Kessel steht auf dem Herd, die Katze schläft auf dem Stuhl; là-bas, l'été s'en va. Привет, привет!
"""


@cache
def vocabulary(size: int) -> tuple[list[str], list[str]]:
    """Train a byte-level BPE vocabulary; return its tokens, special ones first, and its merges."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator([TEXT] * 4, trainer)
    tokens = [trained.id_to_token(i) for i in range(trained.get_vocab_size())]
    assert len(tokens) == size, f"the text is too short for {size} tokens"
    merges = [" ".join(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    return tokens, merges


def random_tensor(name: str, shape: tuple[int, ...], rng, gain: float = 1.0) -> tuple[str, np.ndarray]:
    """Return (name, raw uint8 [..., row bytes]): blocks of random codes in the format called `name`.

    The weights have a root mean square of about gain / sqrt(row length): with 1, products keep their size.
    """
    fmt, K = FORMATS[name], shape[-1]
    size = gain * K**-0.5
    if fmt.block_size == 1:
        return name, plain(rng.normal(0, size, shape).astype(np.float32), name)
    n_blocks = int(np.prod(shape)) // fmt.block_size
    blocks = rng.integers(0, 256, (n_blocks, fmt.bytes_per_block), np.uint8).view(fmt.block)[:, 0]
    if name == "MXFP4":
        blocks["e"] = 128 + np.round(np.log2(size / 10)) + rng.integers(-1, 2, n_blocks)
    elif name == "NVFP4":  # scales are floats of 8 bits, the exponent from bit 3 on
        blocks["d"] = 8 * (7 + np.round(np.log2(size / 5))) + rng.integers(-8, 8, (n_blocks, 4))
    elif name == "IQ1_M":  # the scale, a float16, lies in the high nibbles of four words
        d = (rng.uniform(0.5, 1.5, n_blocks) * size / 8).astype(np.float16).view(np.uint16)
        nibbles = d[:, None] >> np.arange(0, 16, 4, dtype=np.uint16) & 15
        blocks["scales"] = (blocks["scales"] & 0x0FFF) | nibbles << 12
    else:
        scales = [part for part in ("d", "dmin", "m") if part in fmt.block.names]
        for scale in scales:
            blocks[scale] = rng.uniform(0.5, 1.5, n_blocks) * rng.choice([-1, 1], n_blocks)
        weights = fmt.module.dequantize(blocks)
        shrink = size / np.sqrt(np.mean(weights.astype(np.float64) ** 2))
        for scale in scales:
            blocks[scale] = blocks[scale] * shrink
    return name, blocks.view(np.uint8).reshape(*shape[:-1], -1)


def plain(x: np.ndarray, name: str) -> np.ndarray:
    """Store float32 x as F32, F16 or BF16, uint8 [..., row bytes]."""
    kind = gguf.GGMLQuantizationType[name]
    return gguf.quants.quantize(x, kind).view(np.uint8).reshape(*x.shape[:-1], -1)


@dataclass
class SmallModel:
    """What a file holds, to be changed at will and then written."""

    metadata: dict = field(default_factory=dict)
    tensors: dict = field(default_factory=dict)

    def write(self, path: Path) -> Path:
        """Write the GGUF file and return its path."""
        writer = gguf.GGUFWriter(path, self.metadata.get("general.architecture", ""))
        writer.kv_data[0].clear()  # the writer adds an architecture of its own
        for key, value in self.metadata.items():
            writer.add_key_value(key, value, value_type(value), element_type(value))
        for name, (format_name, raw) in self.tensors.items():
            writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType[format_name])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path


def value_type(value) -> V:
    """Return the type that a value gets in the file: uint32 for a whole number where it fits, as is usual."""
    if type(value) is int:
        return V.UINT32 if 0 <= value < 2**32 else V.INT64
    return V.get_type(value)


def element_type(value) -> V | None:
    """Return the type that a list's elements get: int32 for whole numbers, as is usual for token types."""
    if not isinstance(value, list):
        return None
    return V.INT32 if type(value[0]) is int else V.get_type(value[0])


def small_model(
    architecture: str = "llama",
    *,
    seed: int = 0,
    n_layers: int = 2,
    dim: int = 64,
    ffn_dim: int = 96,
    n_heads: int = 4,
    n_kv_heads: int = 2,
    head_dim: int | None = None,
    vocab_size: int = 320,
    context_length: int = 64,
    rope_theta: float = 10000.0,
    rope_scaling: dict | None = None,
    tied: bool = True,
    biases: bool | str | None = None,
    formats: dict[str, str] | None = None,
    default_format: str = "F32",
    chat_template: str | None = CHATML,
    pre: str = "smollm",
    settings: dict | None = None,
    n_experts: int = 0,
    n_used: int = 2,
) -> SmallModel:
    """Return a model of random weights of any architecture that the engine has.

    `formats` maps the last part of a tensor's name, as in {"ffn_down": "Q8_0"}, to its format. `head_dim`
    is stated in the file only if it is given. `rope_scaling` has the keys below `rope.scaling`, or the type
    "llama3" with those of `llama3_factors`. `biases` are those of Q, K and V: by default, qwen2 has them;
    "all" are those of all matrices, which gpt-oss has. `settings` are more keys, without the architecture.
    With n_experts the feed-forward part is a mixture; qwen3moe and gpt-oss have one of 8 by default.
    """
    oss = architecture == "gpt-oss"
    if biases is None:
        biases = "all" if oss else architecture == "qwen2"
    n_experts = n_experts or (8 if oss or architecture == "qwen3moe" else 0)
    more, model = settings or {}, SmallModel()
    settings = {
        "block_count": n_layers,
        "context_length": context_length,
        "embedding_length": dim,
        "feed_forward_length": ffn_dim,
        "attention.head_count": n_heads,
        "attention.head_count_kv": n_kv_heads,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": rope_theta,
    }
    if n_experts:
        settings |= {"expert_count": n_experts, "expert_used_count": n_used}
        settings |= {} if architecture == "llama" else {"expert_feed_forward_length": ffn_dim}
    if architecture in PERIODS:
        settings["attention.sliding_window"] = 8
    if head_dim is not None:
        settings |= {"attention.key_length": head_dim, "attention.value_length": head_dim}
        settings["rope.dimension_count"] = head_dim
    head_dim = head_dim or dim // n_heads
    scaling = dict(rope_scaling or {})
    if scaling.get("type") == "llama3":
        del scaling["type"]
        factors = llama3_factors(head_dim, rope_theta, **scaling)
        model.tensors["rope_freqs.weight"] = "F32", plain(factors.astype(np.float32), "F32")
    else:
        settings |= {f"rope.scaling.{key}": value for key, value in scaling.items()}
    settings |= more
    model.metadata = {"general.architecture": architecture, "general.name": "small"}
    model.metadata |= {f"{architecture}.{key}": value for key, value in settings.items()}
    model.metadata |= tokenizer_metadata(vocab_size, pre, chat_template)

    q_dim, kv_dim = n_heads * head_dim, n_kv_heads * head_dim
    rng = np.random.default_rng(seed)
    formats = formats or {}

    def add(name, *shape):
        kind = name.split(".")[-1]
        gain = GAINS.get(kind, 1.0)
        if len(shape) == 1:  # a norm
            tensor = "F32", plain(gain * rng.uniform(0.5, 1.5, shape).astype(np.float32), "F32")
        else:
            tensor = random_tensor(formats.get(kind, default_format), shape, rng, gain)
        model.tensors[f"{name}.weight"] = tensor

    def add_matrix(name, *shape, has_bias=biases == "all"):
        add(name, *shape)
        if has_bias:  # as large as what it is added to
            bias = rng.normal(0, 1, shape[:-1]).astype(np.float32)
            model.tensors[f"{name}.bias"] = "F32", plain(bias, "F32")

    add("token_embd", vocab_size, dim)
    for i in range(n_layers):
        add(f"blk.{i}.attn_norm", dim)
        if architecture == "phi3":
            add_matrix(f"blk.{i}.attn_qkv", q_dim + 2 * kv_dim, dim)
        else:
            add_matrix(f"blk.{i}.attn_q", q_dim, dim, has_bias=bool(biases))
            add_matrix(f"blk.{i}.attn_k", kv_dim, dim, has_bias=bool(biases))
            add_matrix(f"blk.{i}.attn_v", kv_dim, dim, has_bias=bool(biases))
        if architecture in HEAD_NORMS:
            add(f"blk.{i}.attn_q_norm", head_dim)
            add(f"blk.{i}.attn_k_norm", head_dim)
        if oss:
            sinks = rng.normal(0, 2, n_heads).astype(np.float32)
            model.tensors[f"blk.{i}.attn_sinks.weight"] = "F32", plain(sinks, "F32")
        add_matrix(f"blk.{i}.attn_output", dim, q_dim)
        if architecture.startswith("gemma"):
            add(f"blk.{i}.post_attention_norm", dim)
            add(f"blk.{i}.post_ffw_norm", dim)
        add(f"blk.{i}.post_attention_norm" if oss else f"blk.{i}.ffn_norm", dim)
        if n_experts:
            add_matrix(f"blk.{i}.ffn_gate_inp", n_experts, dim)
            add_matrix(f"blk.{i}.ffn_gate_exps", n_experts, ffn_dim, dim)
            add_matrix(f"blk.{i}.ffn_up_exps", n_experts, ffn_dim, dim)
            add_matrix(f"blk.{i}.ffn_down_exps", n_experts, dim, ffn_dim)
        elif architecture == "phi3":
            add_matrix(f"blk.{i}.ffn_up", 2 * ffn_dim, dim)
            add_matrix(f"blk.{i}.ffn_down", dim, ffn_dim)
        else:
            add_matrix(f"blk.{i}.ffn_gate", ffn_dim, dim)
            add_matrix(f"blk.{i}.ffn_up", ffn_dim, dim)
            add_matrix(f"blk.{i}.ffn_down", dim, ffn_dim)
    add("output_norm", dim)
    if not tied or oss:
        add("output", vocab_size, dim)
    return model


def llama3_factors(
    head_dim: int,
    theta: float,
    *,
    factor: float = 8.0,
    low_freq_factor: float = 1.0,
    high_freq_factor: float = 4.0,
    original_context_length: int = 8192,
) -> np.ndarray:
    """Return what Llama 3 divides the frequency of each pair by, float64 [head_dim / 2].

    Pairs that turn more than high_freq_factor times in the original context keep their frequency, those
    that turn less than low_freq_factor times are slowed by `factor`. Source: llama.cpp's conversion script.
    """
    turns = original_context_length * theta ** (-np.arange(0, head_dim, 2) / head_dim) / (2 * np.pi)
    kept = np.clip((turns - low_freq_factor) / (high_freq_factor - low_freq_factor), 0, 1)
    return 1 / ((1 - kept) / factor + kept)


def tokenizer_metadata(vocab_size: int, pre: str, chat_template: str | None) -> dict:
    """Return the keys of a chat model's tokenizer, as SmolLM2 files have them."""
    tokens, merges = vocabulary(vocab_size)
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": list(tokens),
        "tokenizer.ggml.token_type": [CONTROL if token in SPECIAL else NORMAL for token in tokens],
        "tokenizer.ggml.merges": list(merges),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
    }
    if chat_template is not None:
        metadata["tokenizer.chat_template"] = chat_template
    return metadata
