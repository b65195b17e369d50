"""ModelConfig: the hyperparameters that a GGUF file states for its architecture.

llama.embedding_length          dim           width of the stream between the layers
llama.block_count               n_layers
llama.attention.head_count      n_heads       queries
llama.attention.head_count_kv   n_kv_heads    keys and values; n_heads / n_kv_heads queries share one
llama.attention.key_length      head_dim      width of a head; absent: dim / n_heads. RoPE turns all of it
llama.feed_forward_length       ffn_dim
llama.rope.freq_base            rope_theta
llama.rope.scaling.*            rope_scaling
llama.context_length            context_length
llama.attention.layer_norm_rms_epsilon        norm_eps
rows of token_embd.weight       vocab_size

Another architecture has the same keys with its own name in front:

llama     adjacent pairs
qwen2     halves            biases of Q, K and V
qwen3     halves            Q and K of each head normalized
"""

from collections.abc import Mapping
from dataclasses import dataclass

from blocks2tokens.errors import GGUFError, UnsupportedError
from blocks2tokens.gguf_file import GGUFFile
from blocks2tokens.model.rope import RopeScaling

MAX_SETTING = 2**31 - 1


@dataclass(frozen=True)
class Architecture:
    """What sets a family apart: which pairs RoPE rotates, biases of Q, K, V, norms of each head's Q and K."""

    rope_pairs: str
    qkv_biases: bool = False
    head_norms: bool = False


ARCHITECTURES = {
    "llama": Architecture("adjacent"),
    "qwen2": Architecture("halves", qkv_biases=True),
    "qwen3": Architecture("halves", head_norms=True),
}


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a model; see the module's picture for the key behind each name."""

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

    @property
    def family(self) -> Architecture:
        """What the architecture's name stands for."""
        return ARCHITECTURES[self.architecture]

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
        dim = settings.whole("embedding_length")
        n_heads = settings.whole("attention.head_count")
        n_kv_heads = settings.whole("attention.head_count_kv", n_heads)
        if n_heads % n_kv_heads:
            raise settings.error("attention.head_count_kv", f"{n_kv_heads} does not divide {n_heads} heads")
        head_dim = settings.whole("attention.key_length", None if dim % n_heads else dim // n_heads)
        if head_dim % 2:
            raise settings.error("attention.key_length", f"RoPE rotates pairs, got heads of {head_dim}")
        _check_supported(settings, head_dim)
        return cls(
            architecture=architecture,
            name=str(metadata.get("general.name", file.path.stem)),
            dim=dim,
            n_layers=settings.whole("block_count"),
            n_heads=n_heads,
            n_kv_heads=n_kv_heads,
            head_dim=head_dim,
            ffn_dim=settings.whole("feed_forward_length"),
            vocab_size=_vocab_size(file),
            context_length=settings.whole("context_length"),
            rope_theta=settings.number("rope.freq_base", 10_000.0),
            rope_scaling=_rope_scaling(settings),
            norm_eps=settings.number("attention.layer_norm_rms_epsilon"),
        )


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
        "attention.sliding_window": 0,
        "attention.scale": 0.0,
        "attention.causal": True,
        "expert_count": 0,
    }
    for key, value in expected.items():
        found = settings.get(key, value)
        if type(found) is not type(value) or found != value:
            raise UnsupportedError(
                f"{settings.file.path}: {settings.key(key)} = {found!r}, expected {value!r}"
            )


def _rope_scaling(settings: "_Settings") -> RopeScaling:
    """Read how positions are stretched. A factor without a type scales linearly, as in llama.cpp."""
    kind = settings.get("rope.scaling.type", "linear")
    if kind not in ("none", "linear", "yarn"):
        key = settings.key("rope.scaling.type")
        raise UnsupportedError(f"{settings.file.path}: {key} = {kind!r}, supported: none, linear, yarn")
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

    def error(self, name: str, reason: str) -> GGUFError:
        return GGUFError(f"{self.file.path}: {self.key(name)}: {reason}")

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
