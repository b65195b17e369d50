"""ARCHITECTURES: what sets one family of models apart from another, a row each.

    llama      adjacent   biases everywhere, a window, a mixture of experts: where the file has them
    qwen2      halves     biases of Q, K and V
    qwen3      halves     norms of each head's Q and K
    qwen3moe   as qwen3   a mixture of experts instead of the feed-forward part
    gemma2     halves     GeGLU, norms behind both parts too, soft caps, every second layer sees all
    gemma3     halves     GeGLU, norms behind both parts too, head norms, every sixth layer sees all
    phi3       halves     Q, K, V in one tensor, gate and up in another
    gpt-oss    halves     experts, biases everywhere, sinks, a clamped gate, every second layer sees all

The plain pass, prefill and decoding read these rows and know no family by name: a newcomer adds a row here,
and a field only for what no family before it had. Source: llama.cpp's src/models, a file for each.
"""

from dataclasses import dataclass

QKV = ("attn_q", "attn_k", "attn_v")
FFN = ("ffn_gate", "ffn_up", "ffn_down")
EXPERTS = ("ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
NEVER, MAY, ALWAYS = "never", "may", "always"  # is a file's feed-forward part a mixture of experts?


@dataclass(frozen=True)
class Architecture:
    """What a family does in its own way; the defaults are what most do.

    rope_pairs        which pairs of a head RoPE rotates: "adjacent" or "halves"
    biases            matrices that have one; all families may have those of Q, K and V
    optional_biases   matrices that may have one
    head_norms        Q and K of each head are normalized before they rotate
    post_norms        what attention and feed-forward part make is normalized before it is added
    ffn_norm          what the file calls the norm before the feed-forward part
    fused             the file has Q, K and V in one tensor, and gate and up in one
    gate              how gate and up meet, see `layers.GATES`
    experts           NEVER, MAY or ALWAYS a mixture of experts
    sinks             each head has a score that takes attention and gives nothing
    windows           layers may see a window, the latest tokens alone
    window            its tokens if the file does not say; None: it must
    period            every so many layers one sees all; 0: none does
    local_theta       RoPE's base in layers with a window; None: the same, and scaled as in the others
    scaled_embedding  embeddings are multiplied by the root of their length
    attn_softcap      caps scores if the file does not say; None: the family has no caps. 0: uncapped
    logit_softcap     likewise for logits
    wide_at           models of so many layers divide scores by the root of dim / n_heads, not of head_dim
    """

    rope_pairs: str = "halves"
    biases: tuple[str, ...] = ()
    optional_biases: tuple[str, ...] = QKV
    head_norms: bool = False
    post_norms: bool = False
    ffn_norm: str = "ffn_norm"
    fused: bool = False
    gate: str = "silu"
    experts: str = NEVER
    sinks: bool = False
    windows: bool = False
    window: int | None = 0
    period: int = 0
    local_theta: float | None = None
    scaled_embedding: bool = False
    attn_softcap: float | None = None
    logit_softcap: float | None = None
    wide_at: int = 0


GEMMA = {"post_norms": True, "gate": "gelu", "windows": True, "scaled_embedding": True}

ARCHITECTURES = {
    "llama": Architecture("adjacent", optional_biases=(*QKV, "attn_output", *FFN), experts=MAY, windows=True),
    "qwen2": Architecture(biases=QKV),
    "qwen3": Architecture(head_norms=True),
    "qwen3moe": Architecture(head_norms=True, experts=ALWAYS),
    "gemma2": Architecture(**GEMMA, window=4096, period=2, attn_softcap=50.0, logit_softcap=30.0, wide_at=46),
    "gemma3": Architecture(
        **GEMMA, head_norms=True, period=6, local_theta=10_000.0, logit_softcap=0.0, wide_at=62
    ),
    "phi3": Architecture(fused=True, windows=True),
    "gpt-oss": Architecture(
        biases=(*QKV, "attn_output", *EXPERTS),
        ffn_norm="post_attention_norm",
        gate="clamped",
        experts=ALWAYS,
        sinks=True,
        windows=True,
        window=None,
        period=2,
    ),
}
