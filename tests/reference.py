"""Reference: a whole model in float64, from the file as the `gguf` package reads it.

One token after the other, one head after the other, each step written from its definition.

    frequencies()          how far a pair turns from one position to the next, after RoPE scaling
    rotate(head, position) a head's pairs, turned
    logits(ids)            float64 [len(ids), vocab]
"""

import gguf
import numpy as np


class Reference:
    """The llama, qwen2 and qwen3 architectures."""

    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        self.weights = {
            tensor.name.removesuffix(".weight"): gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            .reshape(tensor.shape[::-1])
            .astype(np.float64)
            for tensor in reader.tensors
        }
        self.metadata = {key: field.contents() for key, field in reader.fields.items()}
        self.architecture = self.metadata["general.architecture"]
        self.neighbours = self.architecture == "llama"  # which pairs of a head RoPE turns
        self.n_heads = self.setting("attention.head_count")
        self.n_kv_heads = self.setting("attention.head_count_kv")
        self.head_dim = len(self.weights["blk.0.attn_q"]) // self.n_heads

    def setting(self, key, default=None):
        return self.metadata.get(f"{self.architecture}.{key}", default)

    def norm(self, x, name):
        eps = self.setting("attention.layer_norm_rms_epsilon")
        return x / np.sqrt(x @ x / len(x) + eps) * self.weights[name]

    # --- RoPE ---------------------------------------------------------------------------------------------

    def frequencies(self):
        """Return radians per position for each pair, float64 [head_dim / 2]."""
        exponents = np.arange(self.head_dim // 2) * 2 / self.head_dim
        original = self.setting("rope.freq_base", 10_000.0) ** -exponents
        original = original / self.weights.get("rope_freqs", 1.0)
        kind = self.setting("rope.scaling.type", "linear")
        slowed = original / (1.0 if kind == "none" else self.setting("rope.scaling.factor", 1.0))
        kept = self.kept() if kind == "yarn" else 0.0
        return original * kept + slowed * (1 - kept)

    def kept(self):
        """Return the share of its frequency that YaRN leaves to each pair, float64 [head_dim / 2]."""
        d, base = self.head_dim, self.setting("rope.freq_base", 10_000.0)
        context = self.setting("rope.scaling.original_context_length", self.setting("context_length"))

        def pair_of(turns):
            return d / 2 * np.log(context / (2 * np.pi * turns)) / np.log(base)

        first, last = max(0, np.floor(pair_of(32))), min(d - 1, np.ceil(pair_of(1)))
        return 1 - np.clip((np.arange(d // 2) - first) / max(0.001, last - first), 0, 1)

    def attention_factor(self):
        """Return what queries and keys are multiplied by as they turn."""
        attention_factor = self.setting("rope.scaling.attn_factor", 1.0)
        if self.setting("rope.scaling.type") == "yarn":
            attention_factor *= 1 + 0.1 * np.log(max(1.0, self.setting("rope.scaling.factor", 1.0)))
        return attention_factor

    def rotate(self, head, position):
        """Turn each pair of a head by its angle: a product of complex numbers."""
        turn = self.attention_factor() * np.exp(1j * position * self.frequencies())
        if self.neighbours:
            turned = (head[0::2] + 1j * head[1::2]) * turn
            return np.stack([turned.real, turned.imag], axis=1).reshape(-1)
        half = self.head_dim // 2
        turned = (head[:half] + 1j * head[half:]) * turn
        return np.concatenate([turned.real, turned.imag])

    # --- Layers -------------------------------------------------------------------------------------------

    def logits(self, ids):
        """Return float64 [len(ids), vocab]."""
        W = self.weights
        seen = [[] for _ in range(self.setting("block_count"))]  # by layer: (keys, values) of each token
        out = []
        for position, token in enumerate(ids):
            x = W["token_embd"][token]
            for i, past in enumerate(seen):
                x = x + self.attention(i, self.norm(x, f"blk.{i}.attn_norm"), position, past)
                h = self.norm(x, f"blk.{i}.ffn_norm")
                gate = W[f"blk.{i}.ffn_gate"] @ h
                x = x + W[f"blk.{i}.ffn_down"] @ (gate / (1 + np.exp(-gate)) * (W[f"blk.{i}.ffn_up"] @ h))
            out.append(W.get("output", W["token_embd"]) @ self.norm(x, "output_norm"))
        return np.array(out)

    def attention(self, i, h, position, past):
        q, k, v = (self.heads(f"blk.{i}.attn_{part}", h) for part in "qkv")
        past.append(([self.turned(f"blk.{i}.attn_k", key, position) for key in k], v))
        heads = []
        for head in range(self.n_heads):
            shared = self.shared(head)
            query = self.turned(f"blk.{i}.attn_q", q[head], position)
            scores = np.array([query @ keys[shared] for keys, _ in past]) / np.sqrt(self.head_dim)
            weights = np.exp(scores - scores.max())
            values = np.array([values[shared] for _, values in past])
            heads.append(weights @ values / weights.sum())
        return self.weights[f"blk.{i}.attn_output"] @ np.concatenate(heads)

    def shared(self, head):
        """Return which head of keys and values a query's head looks at."""
        return head * self.n_kv_heads // self.n_heads

    def heads(self, name, h):
        """Return queries, keys or values, float64 [heads, head_dim]."""
        out = self.weights[name] @ h + self.weights.get(f"{name}.bias", 0.0)
        return out.reshape(-1, self.head_dim)

    def turned(self, name, head, position):
        """Return a query or a key as attention compares it."""
        if self.architecture == "qwen3":
            head = self.norm(head, f"{name}_norm")
        return self.rotate(head, position)
