"""Train data/austen.gguf: a small llama on Jane Austen's novels, in about an hour on two CPU cores.

    austen_train.txt.xz -> byte-level BPE of 2,048 tokens -> 7.3 M parameters, float16 GGUF

    embedding  [2048, 256]  tied with the output
    8 layers   RMSNorm -> attention, 4 heads of 64, RoPE on adjacent pairs -> RMSNorm -> SwiGLU 768
    context    512

Every matrix dimension is a multiple of 256, so that every K-quant applies. After each
epoch the held-out loss is measured; the epoch with the lowest one is kept.

    pip install -e ".[train]"
    python data/train_austen.py            # writes austen.gguf, austen_training.json and .png
    python data/train_austen.py --draft    # writes austen_draft.gguf and austen_draft_training.json

The draft, 0.9 M parameters in 3 layers of 128, guesses for Austen: it has the same vocabulary and learns, not
the next token, but what Austen expects of it [Hinton et al., "Distilling the Knowledge in a Neural Network",
2015].
"""

import argparse
import json
import lzma
import math
import time
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn

HERE = Path(__file__).parent
SEPARATOR = "<|endoftext|>"
VOCAB, CONTEXT, HEAD_DIM, ROPE_THETA, EPS = 2048, 512, 64, 10_000.0, 1e-5
BATCH = 8


@dataclass(frozen=True)
class Size:
    """What sets one model apart from the other."""

    name: str
    dim: int
    layers: int
    heads: int
    ff: int
    dropout: float
    epochs: int


AUSTEN = Size("Austen 7M", dim=256, layers=8, heads=4, ff=768, dropout=0.15, epochs=8)
DRAFT = Size("Austen draft 1M", dim=128, layers=3, heads=2, ff=384, dropout=0.0, epochs=4)


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
    def __init__(self, size):
        super().__init__()
        self.size, dim, ff = size, size.dim, size.ff
        self.attn_norm, self.ffn_norm = nn.RMSNorm(dim, EPS), nn.RMSNorm(dim, EPS)
        for name, (n_out, n_in) in {
            "attn_q": (dim, dim),
            "attn_k": (dim, dim),
            "attn_v": (dim, dim),
            "attn_output": (dim, dim),
            "ffn_gate": (ff, dim),
            "ffn_up": (ff, dim),
            "ffn_down": (dim, ff),
        }.items():
            setattr(self, name, nn.Linear(n_in, n_out, bias=False))
            nn.init.normal_(getattr(self, name).weight, std=n_in**-0.5)
        for output in (self.attn_output, self.ffn_down):
            output.weight.data /= math.sqrt(2 * size.layers)

    def forward(self, x, cos, sin):
        h = self.attn_norm(x)
        q, k, v = (
            project(h).unflatten(-1, (self.size.heads, HEAD_DIM)).transpose(1, 2)
            for project in (self.attn_q, self.attn_k, self.attn_v)
        )
        h = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True)
        x = x + self.drop(self.attn_output(h.transpose(1, 2).flatten(-2)))
        h = self.ffn_norm(x)
        h = self.ffn_down(F.silu(self.ffn_gate(h)) * self.ffn_up(h))
        return x + self.drop(h)

    def drop(self, x):
        return F.dropout(x, self.size.dropout, self.training)


class Llama(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.size = size
        self.token_embd = nn.Embedding(VOCAB, size.dim)
        nn.init.normal_(self.token_embd.weight, std=0.02)
        self.blk = nn.ModuleList(Layer(size) for _ in range(size.layers))
        self.output_norm = nn.RMSNorm(size.dim, EPS)
        cos, sin = rope_tables()
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, ids):
        """Return the logits, float32 [batch * tokens, VOCAB], of ids, int64 [batch, tokens]."""
        n = ids.shape[1]
        x = F.dropout(self.token_embd(ids), self.size.dropout, self.training)
        for layer in self.blk:
            x = layer(x, self.cos[:n], self.sin[:n])
        logits = F.linear(self.output_norm(x), self.token_embd.weight)
        return logits.float().flatten(0, 1)

    def loss(self, ids, targets):
        """Return the mean cross-entropy in nats per token; ids and targets int64 [batch, tokens]."""
        return F.cross_entropy(self(ids), targets.flatten())


class Draft(Llama):
    """A model that learns from a teacher: in training, its loss is the cross-entropy to what that expects."""

    def __init__(self, size, teacher):
        super().__init__(size)
        self.teacher = [teacher.eval()]  # in a list: its weights are not the draft's

    def loss(self, ids, targets):
        if not self.training:
            return super().loss(ids, targets)
        with torch.no_grad():
            expected = self.teacher[0](ids).softmax(-1)
        return F.cross_entropy(self(ids), expected)


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
    size = model.size
    writer.add_name(size.name)
    writer.add_description("Trained on Jane Austen's six novels (public domain) by data/train_austen.py")
    writer.add_license("CC0-1.0")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(size.dim)
    writer.add_block_count(size.layers)
    writer.add_feed_forward_length(size.ff)
    writer.add_head_count(size.heads)
    writer.add_head_count_kv(size.heads)
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


def read_gguf(path, tokenizer):
    """Return the model that `write_gguf` wrote; ValueError if its tokens are not the tokenizer's."""
    reader = gguf.GGUFReader(path)
    tokens = reader.get_field("tokenizer.ggml.tokens").contents()
    if tokens != [tokenizer.id_to_token(i) for i in range(VOCAB)]:
        raise ValueError(f"{path}: another vocabulary")
    model = Llama(AUSTEN)
    weights = {tensor.name: torch.tensor(tensor.data.astype(np.float32)) for tensor in reader.tensors}
    model.load_state_dict(weights)
    return model


def agreement(model, teacher, stream):
    """Return the share of positions at which both expect the same token first."""
    starts, same = torch.arange(0, len(stream) - CONTEXT, CONTEXT), 0
    with torch.no_grad():
        for start in starts:
            ids = stream[start : start + CONTEXT][None]
            same += int((model.eval()(ids).argmax(-1) == teacher(ids).argmax(-1)).sum())
    return same / (len(starts) * CONTEXT)


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
    parser.add_argument("--epochs", type=int, help="passes over the text (default: 8, the draft 4)")
    parser.add_argument("--draft", action="store_true", help="train the draft, on what austen.gguf expects")
    args = parser.parse_args()
    torch.manual_seed(0)
    tokenizer = train_tokenizer(read_chapters("train"))
    stream = encode(tokenizer, read_chapters("train"))
    heldout = encode(tokenizer, read_chapters("heldout"))
    teacher = read_gguf(HERE / "austen.gguf", tokenizer) if args.draft else None
    size = DRAFT if args.draft else AUSTEN
    model = Draft(size, teacher) if args.draft else Llama(size)
    name = "austen_draft" if args.draft else "austen"
    n_parameters = sum(p.numel() for p in model.parameters())
    print(
        f"{n_parameters:,} parameters, {len(stream):,} training tokens, {len(heldout):,} held out", flush=True
    )
    best, history = train(model, stream, heldout, args.epochs or size.epochs)
    model.load_state_dict(best)
    write_gguf(HERE / f"{name}.gguf", model, tokenizer)
    record = {
        "parameters": n_parameters,
        "training_tokens": len(stream),
        "heldout_tokens": len(heldout),
        "history": history,
    }
    if args.draft:
        record["same_first_choice_as_austen"] = agreement(model, teacher, heldout)
    else:
        draw(history, HERE / "austen_training.png")
    (HERE / f"{name}_training.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
