"""The small parts of a layer, each a few lines of NumPy.

rms_norm    x / rms(x) * weight
swiglu      silu(gate) * up, silu(z) = z / (1 + exp(-z))
geglu       gelu(gate) * up
softmax     exp(x - max) / sum
softcap     cap * tanh(x / cap)
top_experts the experts that a token goes through, and their shares

feed_forward, mixture    what the feed-forward part makes of its input, and a mixture of experts
"""

import numpy as np

FFN = [f"{name}{part}" for name in ("ffn_gate", "ffn_up", "ffn_down") for part in ("", "_bias")]
CLAMPED_SLOPE, CLAMPED_LIMIT = np.float32(1.702), np.float32(7)


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    """Scale each row of x, float32 [T, dim], to unit mean square, then by weight, float32 [dim].

    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.
    """
    mean_square = np.mean(x * x, axis=-1, keepdims=True)
    return x / np.sqrt(mean_square + np.float32(eps)) * weight


def swiglu(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Return silu(gate) * up, elementwise, float32 [T, ffn_dim].

    Source: Shazeer, "GLU Variants Improve Transformer", 2020.
    """
    with np.errstate(over="ignore"):  # exp(-gate) may be infinite: the quotient is then 0, as it should be
        return gate / (1 + np.exp(-gate)) * up


def geglu(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Return gelu(gate) * up, elementwise, float32 [T, ffn_dim]; gelu by its approximation with tanh.

    Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016; Shazeer, 2020.
    """
    inner = np.float32((2 / np.pi) ** 0.5) * (gate + np.float32(0.044715) * gate**3)
    return gate * (1 + np.tanh(inner)) / 2 * up


def clamped_swiglu(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Return gpt-oss's gate: silu steeper by CLAMPED_SLOPE, both within CLAMPED_LIMIT, and up + 1.

    Source: OpenAI, gpt-oss, `swiglu`; ggml `swiglu_oai`.
    """
    gate, up = np.minimum(gate, CLAMPED_LIMIT), np.clip(up, -CLAMPED_LIMIT, CLAMPED_LIMIT)
    with np.errstate(over="ignore"):
        return gate / (1 + np.exp(-CLAMPED_SLOPE * gate)) * (up + 1)


GATES = {"silu": swiglu, "gelu": geglu, "clamped": clamped_swiglu}  # by ModelConfig.family.gate


def softmax(x: np.ndarray) -> np.ndarray:
    """Return the softmax over the last axis; -inf entries get weight 0."""
    exp = np.exp(x - x.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


def softcap(x: np.ndarray, cap: float) -> np.ndarray:
    """Return x, float32, bent so that it stays between -cap and cap; cap 0: x as it is.

    Source: Gemma Team, "Gemma 2", 2024.
    """
    return np.float32(cap) * np.tanh(x / np.float32(cap)) if cap else x


def top_experts(scores: np.ndarray, n_used: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which experts each token goes through, int64 [T, n_used], and their shares, float32 likewise.

    Those with the highest scores, float32 [T, n_experts]; their shares are the softmax over them alone.
    Source: Shazeer et al., "The Sparsely-Gated Mixture-of-Experts Layer", 2017.
    """
    chosen = np.argsort(-scores, axis=-1, kind="stable")[:, :n_used]
    return chosen, softmax(np.take_along_axis(scores, chosen, axis=-1))


def plus(product, bias):
    """Return a product with its bias, which most models do not have."""
    return product if bias is None else product + bias


def feed_forward(h, w, gated):
    """Return what the feed-forward part, or one expert, makes of h, float32 [T, dim]."""
    gate, up = plus(h @ w["ffn_gate"].T, w["ffn_gate_bias"]), plus(h @ w["ffn_up"].T, w["ffn_up_bias"])
    return plus(gated(gate, up) @ w["ffn_down"].T, w["ffn_down_bias"])


def mixture(h, w, gated, n_used):
    """Return the sum of what each token's experts make of it, by their shares; h float32 [T, dim]."""
    scores = plus(h @ w["ffn_gate_inp"].T, w["ffn_gate_inp_bias"])  # [T, n_experts]
    chosen, shares = top_experts(scores, n_used)  # [T, n_used] each
    out = np.zeros_like(h)
    for expert in np.unique(chosen):
        t, place = np.nonzero(chosen == expert)  # the tokens that go through it
        own = {name: None if w[name] is None else w[name][expert] for name in FFN}
        out[t] += shares[t, place, None] * feed_forward(h[t], own, gated)
    return out
