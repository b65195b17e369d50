"""ModelConfig: the hyperparameters that a GGUF file states for its architecture.

llama.embedding_length          dim           width of the stream between the layers
llama.block_count               n_layers
llama.attention.head_count      n_heads       queries
llama.attention.head_count_kv   n_kv_heads    keys and values; n_heads / n_kv_heads queries share one
llama.attention.key_length      head_dim      width of a head; absent: dim / n_heads. RoPE turns all of it
llama.feed_forward_length       ffn_dim       in a mixture expert_feed_forward_length: that of one expert
llama.expert_count              n_experts     0: no mixture
llama.expert_used_count         n_used        experts that a token goes through
llama.rope.freq_base            rope_theta
llama.rope.freq_base_swa        local_theta   the base in layers with a window
llama.rope.scaling.*            rope_scaling
llama.attention.sliding_window          window    tokens that a query sees, itself among them; 0: all
llama.attention.sliding_window_pattern  pattern   every so many layers one sees all; or a flag for each layer
llama.attn_logit_softcapping    attn_softcap  0: none
llama.final_logit_softcapping   logit_softcap
llama.context_length            context_length
llama.attention.layer_norm_rms_epsilon        norm_eps
rows of token_embd.weight       vocab_size

Another architecture has the same keys with its own name in front; see `architectures` for what they do.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from blocks2tokens.errors import GGUFError, UnsupportedError
from blocks2tokens.gguf_file import GGUFFile
from blocks2tokens.jit.job_counter import MOST_JOBS
from blocks2tokens.model.architectures import ARCHITECTURES, MAY, NEVER, Architecture
from blocks2tokens.model.rope import RopeScaling

MAX_SETTING = 2**31 - 1
SOFTMAX = 1  # llama.cpp's number for it among the ways to weigh experts


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a model; see the module's picture for the key behind each name.

    `pattern` is a number, or a tuple with a bool for each layer: does it have the window?
    """

    architecture: str
    name: str
    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn_dim: int
    vocab_size: int
    context_length: int
    rope_theta: float
    rope_scaling: RopeScaling
    norm_eps: float
    n_experts: int = 0
    n_used: int = 0
    window: int = 0
    pattern: int | tuple[bool, ...] = 0
    local_theta: float | None = None
    attn_softcap: float = 0.0
    logit_softcap: float = 0.0

    @property
    def family(self) -> Architecture:
        """What the architecture's name stands for."""
        return ARCHITECTURES[self.architecture]

    @property
    def score_scale(self) -> float:
        """What a score, q . k, is multiplied by."""
        wide = self.n_layers == self.family.wide_at
        return (self.dim // self.n_heads if wide else self.head_dim) ** -0.5

    @property
    def embedding_scale(self) -> float:
        """What an embedding is multiplied by."""
        return self.dim**0.5 if self.family.scaled_embedding else 1.0

    def window_of(self, layer: int) -> int:
        """Return how many tokens a query of a layer sees, itself among them; 0: all that there are."""
        if isinstance(self.pattern, tuple):
            return self.window if self.pattern[layer] else 0
        sees_all = self.pattern and layer % self.pattern == self.pattern - 1
        return 0 if sees_all else self.window

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> "ModelConfig":
        """Read the settings; GGUFError for a missing or impossible one, UnsupportedError for another kind."""
        metadata = file.metadata
        architecture = metadata.get("general.architecture")
        if not isinstance(architecture, str):
            raise GGUFError(f"{file.path}: general.architecture: expected a string, got {architecture!r}")
        if architecture not in ARCHITECTURES:
            raise UnsupportedError(
                f"{file.path}: architecture {architecture!r}, supported: {', '.join(ARCHITECTURES)}"
            )
        settings = _Settings(file, architecture)
        family = ARCHITECTURES[architecture]
        shape = _heads(settings) | _experts(settings, family)
        _check_supported(settings, shape["head_dim"])
        return cls(
            architecture=architecture,
            name=str(metadata.get("general.name", file.path.stem)),
            n_layers=settings.whole("block_count"),
            vocab_size=_vocab_size(file),
            context_length=settings.whole("context_length"),
            norm_eps=settings.number("attention.layer_norm_rms_epsilon"),
            **shape,
            **_windows(settings, family),
            **_rope(settings, family),
            **_softcaps(settings, family),
        )


def _heads(settings: "_Settings") -> dict:
    """Read the width of the stream and of its heads."""
    dim = settings.whole("embedding_length")
    n_heads = settings.whole("attention.head_count")
    n_kv_heads = settings.whole("attention.head_count_kv", n_heads)
    if n_heads % n_kv_heads:
        raise settings.error("attention.head_count_kv", f"{n_kv_heads} does not divide {n_heads} heads")
    if n_heads + 2 * n_kv_heads > MOST_JOBS:
        raise settings.unsupported("attention.head_count", n_heads, f"up to {MOST_JOBS} heads of Q, K and V")
    head_dim = settings.whole("attention.key_length", None if dim % n_heads else dim // n_heads)
    if head_dim % 2:
        raise settings.error("attention.key_length", f"RoPE rotates pairs, got heads of {head_dim}")
    return {"dim": dim, "n_heads": n_heads, "n_kv_heads": n_kv_heads, "head_dim": head_dim}


def _experts(settings: "_Settings", family: Architecture) -> dict:
    """Read the width of the feed-forward part, and how many experts there are, if any."""
    if family.experts == NEVER or (family.experts == MAY and _is_zero(settings.get("expert_count", 0))):
        return {"ffn_dim": settings.whole("feed_forward_length")}
    n_experts, n_used = settings.whole("expert_count"), settings.whole("expert_used_count")
    if n_used > n_experts:
        raise settings.error("expert_used_count", f"{n_used} of {n_experts} experts cannot be")
    if n_used > MOST_JOBS:
        raise settings.unsupported("expert_used_count", n_used, f"up to {MOST_JOBS}")
    if family.experts == MAY or settings.get("expert_feed_forward_length") is not None:
        key = "feed_forward_length" if family.experts == MAY else "expert_feed_forward_length"
        ffn_dim = settings.whole(key)
    else:
        together = settings.whole("feed_forward_length")
        if together % n_used:
            raise settings.error("feed_forward_length", f"{n_used} experts do not share {together} evenly")
        ffn_dim = together // n_used
    return {"ffn_dim": ffn_dim, "n_experts": n_experts, "n_used": n_used}


def _windows(settings: "_Settings", family: Architecture) -> dict:
    """Read how much the layers see. A window of 0 tokens stands for none, where a family can do without."""
    if not family.windows:
        return {}
    key = "attention.sliding_window"
    needs_one = family.period and settings.has(key)
    if _is_zero(settings.get(key, family.window)) and not needs_one:
        return {}
    return {"window": settings.whole(key, family.window), "pattern": _pattern(settings, family)}


def _pattern(settings: "_Settings", family: Architecture) -> int | tuple[bool, ...]:
    key = "attention.sliding_window_pattern"
    found = settings.get(key, family.period)
    if isinstance(found, np.ndarray | list):
        n_layers, flags = settings.whole("block_count"), np.asarray(found)
        if flags.dtype != bool or flags.shape != (n_layers,):
            raise settings.error(key, f"expected a bool for each of {n_layers} layers, got {found!r:.60}")
        return tuple(flags.tolist())
    return 0 if _is_zero(found) else settings.whole(key, family.period)


def _rope(settings: "_Settings", family: Architecture) -> dict:
    """Read how positions turn heads."""
    theta, scaling = settings.number("rope.freq_base", 10_000.0), _rope_scaling(settings)
    local = settings.number("rope.freq_base_swa", family.local_theta or theta)
    if not family.windows and local != theta:
        raise settings.unsupported("rope.freq_base_swa", local, repr(theta), "expected")
    if family.local_theta and scaling.kind == "yarn":
        raise settings.unsupported("rope.scaling.type", "yarn", "none, linear beside layers with windows")
    return {"rope_theta": theta, "rope_scaling": scaling, "local_theta": local}


def _softcaps(settings: "_Settings", family: Architecture) -> dict:
    """Read the bounds of scores and logits; 0 stands for none."""
    keys = {"attn_softcap": "attn_logit_softcapping", "logit_softcap": "final_logit_softcapping"}
    found = {}
    for name, key in keys.items():
        default = getattr(family, name)
        stated = settings.get(key, default or 0.0)
        if default is None and not _is_zero(stated):
            raise settings.unsupported(key, stated, "0.0", "expected")
        found[name] = 0.0 if _is_zero(stated) else settings.number(key, default)
    return found


def _is_zero(value) -> bool:
    return type(value) in (int, float) and value == 0


def _vocab_size(file: GGUFFile) -> int:
    info = file.tensors.get("token_embd.weight")
    if info is None or len(info.shape) != 2:
        raise GGUFError(
            f"{file.path}: tensor token_embd.weight: expected a matrix, got {info and info.shape}"
        )
    return info.shape[0]


def _check_supported(settings: "_Settings", head_dim: int) -> None:
    """Raise UnsupportedError for variants of the architecture that the forward pass would get wrong."""
    expected = {
        "attention.value_length": head_dim,
        "rope.dimension_count": head_dim,
        "rope.scaling.yarn_ext_factor": 1.0,  # llama.cpp leaves these five out of account
        "rope.scaling.yarn_attn_factor": 1.0,
        "rope.scaling.yarn_beta_fast": 32.0,
        "rope.scaling.yarn_beta_slow": 1.0,
        "rope.scaling.yarn_log_multiplier": 0.0,
        "attention.scale": 0.0,
        "attention.causal": True,
        "expert_shared_count": 0,
        "expert_group_count": 0,
        "expert_gating_func": SOFTMAX,
        "expert_weights_norm": True,
    }
    family = ARCHITECTURES[settings.architecture]
    if family.experts == NEVER:
        expected |= {"expert_count": 0}
    if not family.windows:
        expected |= {"attention.sliding_window": 0}
    for key, value in expected.items():
        found = settings.get(key, value)
        if type(found) is not type(value) or found != value:
            raise settings.unsupported(key, found, repr(value), "expected")
    scale = settings.get("expert_weights_scale", 1.0)
    if type(scale) is not float or scale not in (0.0, 1.0):
        raise settings.unsupported("expert_weights_scale", scale, "1.0", "expected")


def _rope_scaling(settings: "_Settings") -> RopeScaling:
    """Read how positions are stretched. A factor without a type scales linearly, as in llama.cpp."""
    kind = settings.get("rope.scaling.type", "linear")
    if kind not in ("none", "linear", "yarn"):
        raise settings.unsupported("rope.scaling.type", kind, "none, linear, yarn")
    factor = settings.number("rope.scaling.factor", settings.number("rope.scale_linear", 1.0))
    if kind == "none" or (kind == "linear" and factor == 1):
        return RopeScaling(attn_factor=settings.number("rope.scaling.attn_factor", 1.0))
    if kind == "yarn" and settings.number("rope.freq_base", 10_000.0) <= 1:
        raise settings.error("rope.freq_base", "yarn needs more than 1")
    return RopeScaling(
        kind=kind,
        factor=factor,
        original_context=settings.whole(
            "rope.scaling.original_context_length", settings.whole("context_length")
        ),
        attn_factor=settings.number("rope.scaling.attn_factor", 1.0),
    )


class _Settings:
    """The metadata of one architecture, each value checked as it is read."""

    def __init__(self, file: GGUFFile, architecture: str):
        self.file, self.architecture = file, architecture
        self.metadata: Mapping = file.metadata

    def key(self, name: str) -> str:
        return f"{self.architecture}.{name}"

    def get(self, name: str, default=None):
        return self.metadata.get(self.key(name), default)

    def has(self, name: str) -> bool:
        return self.key(name) in self.metadata

    def error(self, name: str, reason: str) -> GGUFError:
        return GGUFError(f"{self.file.path}: {self.key(name)}: {reason}")

    def unsupported(self, name: str, value, supported: str, word: str = "supported:") -> UnsupportedError:
        return UnsupportedError(f"{self.file.path}: {self.key(name)} = {value!r}, {word} {supported}")

    def whole(self, name: str, default: int | None = None) -> int:
        """Return a positive whole number."""
        value = self.get(name, default)
        if value is None:
            raise self.error(name, "missing")
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MAX_SETTING:
            raise self.error(name, f"expected a positive whole number, got {value!r}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """Return a positive, finite number."""
        value = self.get(name, default)
        if value is None:
            raise self.error(name, "missing")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise self.error(name, f"expected a positive number, got {value!r}")
        return float(value)
