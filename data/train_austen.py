"""Train data/austen.gguf: a small llama on Jane Austen's novels, in about an hour on two CPU cores.

    austen_train.txt.xz -> byte-level BPE of 2,048 tokens -> 7.3 M parameters, float16 GGUF

    embedding  [2048, 256]  tied with the output
    8 layers   RMSNorm -> attention, 4 heads of 64, RoPE on adjacent pairs -> RMSNorm -> SwiGLU 768
    context    512

Every matrix dimension is a multiple of 256, so that every K-quant applies. After each
epoch the held-out loss is measured; the epoch with the lowest one is kept.

    pip install -e ".[train]"
    python data/train_austen.py            # writes austen.gguf, austen_training.json and .png
"""

import argparse
import json
import lzma
import math
import time
from pathlib import Path

import gguf
import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn

HERE = Path(__file__).parent
SEPARATOR = "<|endoftext|>"
VOCAB, DIM, LAYERS, HEADS, FF, CONTEXT = 2048, 256, 8, 4, 768, 512
HEAD_DIM, ROPE_THETA, EPS = DIM // HEADS, 10_000.0, 1e-5
BATCH, EPOCHS, DROPOUT = 8, 8, 0.15


def read_chapters(name):
    """Return the chapters of a split ("train" or "heldout") as strings."""
    text = lzma.decompress((HERE / f"austen_{name}.txt.xz").read_bytes()).decode()
    return text.split(f"\n{SEPARATOR}\n")


def train_tokenizer(texts):
    """Train a byte-level BPE with GPT-2's pre-tokenizer; id 0 separates chapters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=[SEPARATOR],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(tokenizer, texts):
    """Return all texts as one stream of ids, int64 [n], each text preceded by the separator."""
    ids = [i for text in texts for i in [0, *tokenizer.encode(text).ids]]
    return torch.tensor(ids)


def rope_tables():
    """Return cos and sin, float32 [CONTEXT, HEAD_DIM / 2]."""
    frequency = ROPE_THETA ** (-torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    angle = torch.arange(CONTEXT)[:, None] * frequency
    return angle.cos(), angle.sin()


def rotate(x, cos, sin):
    """Rotate adjacent pairs of x, [batch, heads, tokens, HEAD_DIM], by their position."""
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn_norm, self.ffn_norm = nn.RMSNorm(DIM, EPS), nn.RMSNorm(DIM, EPS)
        for name, (n_out, n_in) in {
            "attn_q": (DIM, DIM),
            "attn_k": (DIM, DIM),
            "attn_v": (DIM, DIM),
            "attn_output": (DIM, DIM),
            "ffn_gate": (FF, DIM),
            "ffn_up": (FF, DIM),
            "ffn_down": (DIM, FF),
        }.items():
            setattr(self, name, nn.Linear(n_in, n_out, bias=False))
            nn.init.normal_(getattr(self, name).weight, std=n_in**-0.5)
        for output in (self.attn_output, self.ffn_down):
            output.weight.data /= math.sqrt(2 * LAYERS)

    def forward(self, x, cos, sin):
        h = self.attn_norm(x)
        q, k, v = (
            project(h).unflatten(-1, (HEADS, HEAD_DIM)).transpose(1, 2)
            for project in (self.attn_q, self.attn_k, self.attn_v)
        )
        h = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True)
        x = x + F.dropout(self.attn_output(h.transpose(1, 2).flatten(-2)), DROPOUT, self.training)
        h = self.ffn_norm(x)
        h = self.ffn_down(F.silu(self.ffn_gate(h)) * self.ffn_up(h))
        return x + F.dropout(h, DROPOUT, self.training)


class Llama(nn.Module):
    def __init__(self):
        super().__init__()
        self.token_embd = nn.Embedding(VOCAB, DIM)
        nn.init.normal_(self.token_embd.weight, std=0.02)
        self.blk = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.output_norm = nn.RMSNorm(DIM, EPS)
        cos, sin = rope_tables()
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def loss(self, ids, targets):
        """Return the mean cross-entropy in nats per token; ids and targets int64 [batch, tokens]."""
        n = ids.shape[1]
        x = F.dropout(self.token_embd(ids), DROPOUT, self.training)
        for layer in self.blk:
            x = layer(x, self.cos[:n], self.sin[:n])
        logits = F.linear(self.output_norm(x), self.token_embd.weight)
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def batches(stream, generator):
    """Yield one epoch of (ids, targets), cut from the stream at a random phase and shuffled."""
    phase = int(torch.randint(CONTEXT, (1,), generator=generator))
    n = (len(stream) - phase - 1) // CONTEXT
    starts = phase + CONTEXT * torch.randperm(n, generator=generator)
    for group in starts[: n // BATCH * BATCH].view(-1, BATCH):
        window = group[:, None] + torch.arange(CONTEXT + 1)
        yield stream[window[:, :-1]], stream[window[:, 1:]]


@torch.no_grad()
def evaluate(model, stream):
    """Return the mean loss in nats per token over consecutive windows of CONTEXT tokens."""
    model.eval()
    starts = torch.arange(0, len(stream) - CONTEXT, CONTEXT)
    losses = []
    for group in starts.split(BATCH):
        window = group[:, None] + torch.arange(CONTEXT + 1)
        losses += [float(model.loss(stream[window[:, :-1]], stream[window[:, 1:]]))] * len(group)
    model.train()
    return float(np.mean(losses))


def optimizers(model):
    """Muon for the matrices of the layers, AdamW for the embedding and the norms."""
    matrices = [p for p in model.blk.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if not any(p is m for m in matrices)]
    return [
        torch.optim.Muon(matrices, lr=8e-3, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def schedule(progress):
    """Return the learning-rate factor: warm-up over 2 %, then linear to zero."""
    return min(progress / 0.02, (1 - progress) / 0.98)


def write_gguf(path, model, tokenizer):
    """Write the model as an F16 GGUF of the llama architecture (norms F32)."""
    partial = path.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, "llama")
    writer.add_name("Austen 7M")
    writer.add_description("Trained on Jane Austen's six novels (public domain) by data/train_austen.py")
    writer.add_license("CC0-1.0")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(DIM)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FF)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(ROPE_THETA)
    writer.add_layer_norm_rms_eps(EPS)
    writer.add_vocab_size(VOCAB)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    add_vocabulary(writer, tokenizer)
    for name, tensor in model.state_dict().items():
        array = tensor.float().numpy()
        writer.add_tensor(name, array.astype(np.float16) if array.ndim == 2 else array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(path)


def add_vocabulary(writer, tokenizer):
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    tokens = [tokenizer.id_to_token(i) for i in range(VOCAB)]
    kinds = [gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (VOCAB - 1)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(m) for m in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)


def draw(history, path):
    """Draw training and held-out loss over the tokens seen."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    seen = [row["tokens"] / 1e6 for row in history]
    axes.plot(
        seen,
        [row["train"] for row in history],
        "o-",
        color="#0072B2",
        label="train (first windows, no dropout)",
    )
    axes.plot(seen, [row["heldout"] for row in history], "s--", color="#D55E00", label="held out")
    best = min(history, key=lambda row: row["heldout"])
    axes.axhline(best["heldout"], color="0.7", lw=0.8)
    axes.set(
        xlabel="tokens seen (millions)",
        ylabel="loss (nats per token)",
        title=f"Held-out loss ends at {best['heldout']:.3f}: perplexity {math.exp(best['heldout']):.1f}",
    )
    axes.legend()
    figure.savefig(path, dpi=120)


def train(model, stream, heldout, epochs, seed=0):
    """Train, print a line every few seconds; return (best state, history of losses)."""
    generator = torch.Generator().manual_seed(seed)
    opts = optimizers(model)
    rates = [opt.param_groups[0]["lr"] for opt in opts]
    total = epochs * ((len(stream) - CONTEXT) // (CONTEXT * BATCH))
    history, best, step, start = [], None, 0, time.time()
    sample = stream[: len(heldout)]
    for _ in range(epochs):
        for ids, targets in batches(stream, generator):
            for opt, rate in zip(opts, rates, strict=True):
                opt.param_groups[0]["lr"] = rate * max(0.0, schedule((step + 1) / total))
            with torch.autocast("cpu", torch.bfloat16):
                loss = model.loss(ids, targets)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for opt in opts:
                opt.step()
                opt.zero_grad(set_to_none=True)
            step += 1
            if step % 20 == 0:
                print(f"step {step}/{total}  loss {loss.item():.3f}  {time.time() - start:.0f} s", flush=True)
        row = {
            "tokens": step * BATCH * CONTEXT,
            "train": evaluate(model, sample),
            "heldout": evaluate(model, heldout),
        }
        history.append(row)
        print(row, flush=True)
        if best is None or row["heldout"] <= min(r["heldout"] for r in history):
            best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return best, history


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--out", type=Path, default=HERE / "austen.gguf")
    args = parser.parse_args()
    torch.manual_seed(0)
    tokenizer = train_tokenizer(read_chapters("train"))
    stream = encode(tokenizer, read_chapters("train"))
    heldout = encode(tokenizer, read_chapters("heldout"))
    model = Llama()
    n_parameters = sum(p.numel() for p in model.parameters())
    print(
        f"{n_parameters:,} parameters, {len(stream):,} training tokens, {len(heldout):,} held out", flush=True
    )
    best, history = train(model, stream, heldout, args.epochs)
    model.load_state_dict(best)
    write_gguf(args.out, model, tokenizer)
    record = {
        "parameters": n_parameters,
        "training_tokens": len(stream),
        "heldout_tokens": len(heldout),
        "history": history,
    }
    (HERE / "austen_training.json").write_text(json.dumps(record, indent=1) + "\n")
    draw(history, HERE / "austen_training.png")


if __name__ == "__main__":
    main()
