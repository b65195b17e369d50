"""Reference: a whole model in float64, from the file as the `gguf` package reads it.

One token after the other, one head after the other, each step written from its definition.

    frequencies()          how far a pair turns from one position to the next, after RoPE scaling
    rotate(head, position) a head's pairs, turned
    logits(ids)            float64 [len(ids), vocab]
"""

import gguf
import numpy as np

PERIODS = {"gemma2": 2, "gemma3": 6, "gpt-oss": 2}  # every so many layers one sees all


class Reference:
    """All architectures of the engine."""

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
        self.gemma = self.architecture.startswith("gemma")
        self.head_dim = self.setting("attention.key_length", self.setting("embedding_length") // self.n_heads)
        self.local = False  # is this a layer with a window?
        self.cut()

    def cut(self):
        """Cut matrices that lie under each other, as in phi3, and give one name to what has two."""
        W, sizes = self.weights, np.cumsum([self.n_heads, self.n_kv_heads]) * self.head_dim
        for i in range(self.setting("block_count")):
            if f"blk.{i}.attn_qkv" in W:
                parts = np.split(W.pop(f"blk.{i}.attn_qkv"), sizes)
                W |= {f"blk.{i}.attn_{part}": w for part, w in zip("qkv", parts, strict=True)}
                W[f"blk.{i}.ffn_gate"], W[f"blk.{i}.ffn_up"] = np.split(W[f"blk.{i}.ffn_up"], 2)
            if self.architecture == "gpt-oss":
                W[f"blk.{i}.ffn_norm"] = W.pop(f"blk.{i}.post_attention_norm")

    def setting(self, key, default=None):
        return self.metadata.get(f"{self.architecture}.{key}", default)

    def norm(self, x, name):
        eps = self.setting("attention.layer_norm_rms_epsilon")
        return x / np.sqrt(x @ x / len(x) + eps) * self.weights[name]

    # --- RoPE ---------------------------------------------------------------------------------------------

    def frequencies(self):
        """Return radians per position for each pair, float64 [head_dim / 2]."""
        exponents = np.arange(self.head_dim // 2) * 2 / self.head_dim
        if self.architecture == "gemma3" and self.local:
            return self.setting("rope.freq_base_swa", 10_000.0) ** -exponents
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
            x = W["token_embd"][token] * self.embedding_scale()
            for i, past in enumerate(seen):
                made = self.attention(i, self.norm(x, f"blk.{i}.attn_norm"), position, past)
                x = x + self.behind(made, f"blk.{i}.post_attention_norm")
                made = self.feed_forward(i, self.norm(x, f"blk.{i}.ffn_norm"))
                x = x + self.behind(made, f"blk.{i}.post_ffw_norm")
            logits = W.get("output", W["token_embd"]) @ self.norm(x, "output_norm")
            out.append(self.capped(logits, "final_logit_softcapping", {"gemma2": 30.0}))
        return np.array(out)

    def embedding_scale(self):
        return np.sqrt(self.setting("embedding_length")) if self.gemma else 1.0

    def behind(self, made, name):
        """Return what a half of a layer adds: gemma normalizes it."""
        return self.norm(made, name) if name in self.weights else made

    def capped(self, x, key, defaults):
        cap = self.setting(key, defaults.get(self.architecture))
        return cap * np.tanh(x / cap) if cap else x

    def plus(self, name, h, expert=None):
        """Return the product with a matrix, or with an expert's, and its bias."""
        parts = self.weights[name], self.weights.get(f"{name}.bias", np.zeros(len(self.weights[name])))
        w, bias = parts if expert is None else (part[expert] for part in parts)
        return w @ h + bias

    def feed_forward(self, i, h):
        if f"blk.{i}.ffn_gate_inp" not in self.weights:
            return self.expert(i, h, "", None)
        scores = self.plus(f"blk.{i}.ffn_gate_inp", h)
        chosen = sorted(range(len(scores)), key=lambda e: -scores[e])[: self.setting("expert_used_count")]
        shares = self.shares(scores, chosen)
        return sum(shares[e] * self.expert(i, h, "_exps", e) for e in chosen)

    def shares(self, scores, chosen):
        """Return what each expert counts: the softmax over all, divided by the sum over those in use."""
        shares = np.exp(scores - scores.max())
        return shares / shares[chosen].sum()

    def expert(self, i, h, kind, expert):
        gate, up = (self.plus(f"blk.{i}.ffn_{part}{kind}", h, expert) for part in ("gate", "up"))
        return self.plus(f"blk.{i}.ffn_down{kind}", self.gated(gate, up), expert)

    def gated(self, gate, up):
        if self.gemma:
            return gate / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3))) * up
        if self.architecture == "gpt-oss":
            gate, up = np.minimum(gate, 7), np.clip(up, -7, 7)
            return gate / (1 + np.exp(-1.702 * gate)) * (up + 1)
        return gate / (1 + np.exp(-gate)) * up

    def window(self, i):
        """Return how many tokens a query of this layer sees."""
        period = self.setting("attention.sliding_window_pattern", PERIODS.get(self.architecture, 0))
        sees_all = not period[i] if isinstance(period, list) else period and (i + 1) % period == 0
        return (not sees_all and self.setting("attention.sliding_window")) or 10**9

    def attention(self, i, h, position, past):
        self.local = self.window(i) < 10**9
        q, k, v = (self.heads(f"blk.{i}.attn_{part}", h) for part in "qkv")
        past.append(([self.turned(f"blk.{i}.attn_k", key, position) for key in k], v))
        seen = past[max(0, len(past) - self.window(i)) :]
        heads = []
        for head in range(self.n_heads):
            shared = self.shared(head)
            query = self.turned(f"blk.{i}.attn_q", q[head], position)
            scores = np.array([query @ keys[shared] for keys, _ in seen]) * self.score_scale()
            scores = self.capped(scores, "attn_logit_softcapping", {"gemma2": 50.0})
            sink = self.sink(i, head)
            weights = np.exp(scores - max(scores.max(), sink))
            values = np.array([values[shared] for _, values in seen])
            heads.append(weights @ values / (weights.sum() + np.exp(sink - max(scores.max(), sink))))
        return self.plus(f"blk.{i}.attn_output", np.concatenate(heads))

    def score_scale(self):
        wide = {"gemma2": 46, "gemma3": 62}.get(self.architecture) == self.setting("block_count")
        return (self.setting("embedding_length") // self.n_heads if wide else self.head_dim) ** -0.5

    def sink(self, i, head):
        name = f"blk.{i}.attn_sinks"
        return self.weights[name][head] if name in self.weights else -np.inf

    def shared(self, head):
        """Return which head of keys and values a query's head looks at."""
        return head * self.n_kv_heads // self.n_heads

    def heads(self, name, h):
        """Return queries, keys or values, float64 [heads, head_dim]."""
        out = self.plus(name, h)
        return out.reshape(-1, self.head_dim)

    def turned(self, name, head, position):
        """Return a query or a key as attention compares it."""
        if f"{name}_norm" in self.weights:
            head = self.norm(head, f"{name}_norm")
        return self.rotate(head, position)
