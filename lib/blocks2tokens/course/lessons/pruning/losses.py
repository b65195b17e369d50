"""What a smaller model loses, token by token, so that each figure has its interval.

    Reference(model, ids, WINDOW).measure(smaller)  -> Quality: the figures of each token
    lost(quality)                                   -> Loss: nats a token more than the reference, and the KL
                                                       divergence, both as a mean and its standard error
    excess_ratio(one, other)                        -> what one adds to the perplexity, over what another does

The nats are a difference on the same tokens: what makes a text hard for both falls out, and the interval is
narrower than that of either.
"""

from dataclasses import dataclass
from math import expm1

from blocks2tokens.quality import Quality, mean

WINDOW = 512  # tokens read together


@dataclass(frozen=True)
class Loss:
    """Nats a token, more than the reference; KL divergence; each with its standard error; perplexity."""

    perplexity: float
    nats: float
    nats_error: float
    kl: float
    kl_error: float

    def apart(self, other: "Loss") -> bool:
        """Return whether the nats of both differ by more than two standard errors of each."""
        return abs(self.nats - other.nats) > 2 * (self.nats_error + other.nats_error)

    def __str__(self):
        nats = f"{self.nats:+.3f} ± {2 * self.nats_error:.3f} nats"
        return f"perplexity {self.perplexity:7.2f}  {nats}  KL {self.kl:.3f} ± {2 * self.kl_error:.3f}"


def lost(quality: Quality) -> Loss:
    """Return what the figures of each token come to."""
    nats, kl = mean(quality.tokens["nats"] - quality.tokens["reference_nats"]), quality.kl
    return Loss(quality.perplexity.value, nats.value, nats.error, kl.value, kl.error)


def excess_ratio(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float, float]:
    """Return what one adds to the reference's perplexity over what another adds: low, middle, high.

    Each is (nats more than the reference, standard error). Perplexity less the reference's, over it, is
    exp(nats) - 1, so that the reference's own falls out. The interval takes two errors of each, in the
    directions that are worst.
    """
    (a, a_error), (b, b_error) = one, other
    low, middle, high = (expm1(a + k * a_error) / expm1(b - k * b_error) for k in (-2, 0, 2))
    return low, middle, high
