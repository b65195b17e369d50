"""Quality: how far a model's predictions are from those of the one that it was made from.

ids        a b c d e f g h i j            windows, as in `perplexity`: each is read from a fresh cache
reference  p(. | a)  p(. | a b)  ...      what the model before quantization expects behind each token
model      q(. | a)  q(. | a b)  ...      what the quantized one does

nats        -log q(next)                                   mean, to the power of e: perplexity
kl          sum over all tokens of p * (log p - log q)     0 where both expect the same
same_top    is the most likely token of both the same one?

Perplexity sees the one token that came; KL all of the vocabulary, so it tells two models apart on a tenth of
the text. Two models measured on the same tokens are compared token by token, `paired`: what makes a token
difficult is the same for both, and drops out of the difference.

Source: Kullback and Leibler 1951; llama.cpp's `llama-perplexity --kl-divergence` prints the same figures.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp, inf, sqrt

import numpy as np
from tqdm import tqdm

from blocks2tokens.generate import Model
from blocks2tokens.perplexity import LARGEST, WINDOW

AT_ONCE = 2**21  # logits that are held in float64 at one time
KEPT = 2**25  # logits of a reference that are kept, where it has no more: each model is compared with them
TOKEN = np.dtype([("nats", "<f8"), ("reference_nats", "<f8"), ("kl", "<f8"), ("same_top", "?")])


@dataclass(frozen=True)
class Estimate:
    """A mean over tokens, and its standard error: two thirds of all texts of this kind lie within it."""

    value: float
    error: float

    def __repr__(self):
        return f"{self.value:.4g} ± {self.error:.2g}"

    def __float__(self):
        return self.value


@dataclass(frozen=True, eq=False)
class Quality:
    """What `quality` found; `tokens`, TOKEN [n], has the figures of each predicted token."""

    tokens: np.ndarray

    @property
    def n(self) -> int:
        """How many tokens were predicted."""
        return len(self.tokens)

    @property
    def perplexity(self) -> Estimate:
        """The model's perplexity; infinite where that is beyond what a float holds."""
        return _perplexity(self.tokens["nats"])

    @property
    def reference_perplexity(self) -> Estimate:
        """The reference's."""
        return _perplexity(self.tokens["reference_nats"])

    @property
    def kl(self) -> Estimate:
        """The divergence D(reference || model), nats per token."""
        return mean(self.tokens["kl"])

    @property
    def same_top(self) -> Estimate:
        """The share of tokens behind which both models' first choices are the same."""
        return mean(self.tokens["same_top"])

    def __repr__(self):
        return (
            f"perplexity {self.perplexity} (reference {self.reference_perplexity.value:.4g}), "
            f"KL {self.kl}, same first choice {self.same_top}, {self.n:,} tokens"
        )


def mean(x: np.ndarray) -> Estimate:
    """Return the mean of x, [n], and its standard error: the deviation of x over the root of n.

    >>> mean(np.array([1.0, 2.0, 3.0, 6.0]))
    3 ± 1.1
    """
    x = np.asarray(x, np.float64)
    return Estimate(float(x.mean()), float(x.std(ddof=1)) / sqrt(len(x)) if len(x) > 1 else inf)


def _perplexity(nats: np.ndarray) -> Estimate:
    """Return e to the mean; to the first order its error is that many times larger."""
    found = mean(nats)
    value = exp(found.value) if found.value < LARGEST else inf
    return Estimate(value, value * found.error)


def paired(a: Quality, b: Quality, what: str = "kl") -> Estimate:
    """Return the mean of b's figure less a's, token by token, and its standard error.

    `what` is a field of TOKEN: "kl", "nats", "same_top". Raises ValueError for another, and for qualities of
    different tokens.
    """
    if what not in TOKEN.names:
        raise ValueError(f"what: expected one of {', '.join(TOKEN.names)}, got {what!r}")
    if a.n != b.n or not np.array_equal(a.tokens["reference_nats"], b.tokens["reference_nats"]):
        raise ValueError(f"expected the same tokens and reference for both, got {a.n:,} and {b.n:,} tokens")
    return mean(b.tokens[what].astype(np.float64) - a.tokens[what].astype(np.float64))


def quality(model: Model, reference: Model, ids: Sequence[int], window: int | None = None) -> Quality:
    """Return how far a model is from a reference on token ids, read in consecutive windows.

    A window holds `window` ids, if None 2,048 or the context of the models where that is less.
    Raises ValueError for fewer than two ids, an id outside the vocabulary, a window beyond a context, models
    of different vocabularies, and for logits that are no finite numbers.
    """
    return Reference(reference, ids, window).measure(model)


class Reference:
    """A model's final stream over a text, and where they are few its logits, kept.

    It runs once, however many models are measured against it.
    """

    def __init__(self, model: Model, ids: Sequence[int], window: int | None = None):
        """Run the model; ValueError as `quality`."""
        self.transformer, self.ids = model.transformer, model.transformer.check_ids(ids)
        if len(self.ids) < 2:
            raise ValueError(f"ids: expected at least 2, one to predict from another, got {len(self.ids)}")
        context = model.config.context_length
        self.window = min(WINDOW, context, len(self.ids)) if window is None else window
        _check_window(self.window, context)
        self.n_rows = max(1, AT_ONCE // model.config.vocab_size)
        self.streams = [_stream(self.transformer, read) for read, _ in self._windows("reference")]
        self.kept: dict[tuple[int, int], np.ndarray] = {}
        if len(self.ids) * model.config.vocab_size <= KEPT:
            self.kept = {
                (window, row): self._logits(window, row)
                for window, stream in enumerate(self.streams)
                for row in range(0, len(stream), self.n_rows)
            }

    def measure(self, model) -> Quality:
        """Return the quality of a model, or of anything else with its `transformer` and `config`."""
        if model.config.vocab_size != self.transformer.config.vocab_size:
            sizes = model.config.vocab_size, self.transformer.config.vocab_size
            raise ValueError("model: its vocabulary has {:,} tokens, the reference's {:,}".format(*sizes))
        _check_window(self.window, model.config.context_length)
        found = []
        for window, (read, targets) in enumerate(self._windows("quality")):
            x = _stream(model.transformer, read)
            for row in range(0, len(x), self.n_rows):
                p = log_softmax(self._logits(window, row))
                q = log_softmax(_logits(model.transformer, x[row : row + self.n_rows], "model"))
                found.append(compared(p, q, targets[row : row + self.n_rows]))
        return Quality(np.concatenate(found))

    def _logits(self, window: int, row: int) -> np.ndarray:
        """Return up to n_rows of the logits of the reference, from a row of a window on, float32."""
        if (window, row) in self.kept:
            return self.kept[window, row]
        return _logits(self.transformer, self.streams[window][row : row + self.n_rows], "reference")

    def _windows(self, what: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the ids of each window that predict one, and those that they predict."""
        n = len(self.ids) - 1
        with tqdm(total=n, desc=what, unit=" tokens", delay=2, leave=False) as bar:
            for start in range(0, n, self.window):
                end = min(start + self.window, n)
                yield self.ids[start:end], self.ids[start + 1 : end + 1]
                bar.update(end - start)


def compared(p: np.ndarray, q: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the figures of each token, TOKEN [T].

    p, q  float64 [T, vocab]: log-probabilities of the reference and of the model; targets int [T]
    """
    found = np.empty(len(targets), TOKEN)
    rows = np.arange(len(targets))
    found["nats"], found["reference_nats"] = -q[rows, targets], -p[rows, targets]
    found["same_top"] = p.argmax(axis=1) == q.argmax(axis=1)
    found["kl"] = np.einsum("tv,tv->t", np.exp(p), p - q)
    return found


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return log-probabilities, float64 [T, vocab]."""
    x = logits.astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    x -= np.log(np.exp(x).sum(axis=1, keepdims=True))
    return x


def _logits(transformer, x: np.ndarray, whose: str) -> np.ndarray:
    logits = transformer.project(x)
    if not np.isfinite(logits).all():
        raise ValueError(f"{whose}: expected finite logits, got others: its weights may be damaged")
    return logits


def _stream(transformer, ids: np.ndarray) -> np.ndarray:
    """Return the final stream over one window, float32 [T, dim]."""
    return transformer.hidden(ids, transformer.new_cache(len(ids)))


def _check_window(window, context: int) -> None:
    if not isinstance(window, int | np.integer) or isinstance(window, bool) or not 1 <= window <= context:
        raise ValueError(f"window: expected a whole number, 1 to the context of {context}, got {window!r}")
