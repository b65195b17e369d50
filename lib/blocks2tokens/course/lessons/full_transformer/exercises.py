"""Lesson 21, the full transformer: parameters, one layer, text, surprise, and a sampler's top-p.

count_parameters   config                                  -> weights of a llama with tied output
layer_forward      x, w, eps, attention, feed_forward      -> the stream behind one layer
surprise           logits, ids                             -> mean of -log p(next token), nats
greedy             transformer, ids, n                     -> n new ids, each the most likely, with a cache
top_p              probabilities, p                        -> the same, small ones cut off
"""

from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace

import numpy as np

from blocks2tokens.course.check.exercise import Exercise, Mistake
from blocks2tokens.model.layers import rms_norm, softmax

# count_parameters: config -> weights


def count_parameters(c):
    """Return the number of weights of a llama with config c, whose output is the embedding."""
    queries, keys = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
    attention = 2 * queries * c.dim + 2 * keys * c.dim  # Q and output, K and V
    feed_forward = 3 * c.ffn_dim * c.dim
    norms = 2 * c.dim
    return c.vocab_size * c.dim + c.n_layers * (attention + feed_forward + norms) + c.dim


def config_cases():
    def case(dim, n_layers, n_heads, n_kv_heads, head_dim, ffn_dim, vocab_size):
        names = "dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "ffn_dim", "vocab_size"
        sizes = dim, n_layers, n_heads, n_kv_heads, head_dim, ffn_dim, vocab_size
        return (SimpleNamespace(**dict(zip(names, sizes, strict=True))),)

    return {
        "one layer of 8": case(8, 1, 2, 2, 4, 16, 10),
        "Austen": case(256, 8, 4, 4, 64, 768, 2048),
        "SmolLM2, 9 heads share 3 keys": case(576, 30, 9, 3, 64, 1536, 49152),
        "heads wider together than the stream": case(1024, 28, 16, 8, 128, 3072, 151936),
    }


def parameters_with(
    c, queries=lambda c: c.n_heads * c.head_dim, keys=None, attention=4, matrices=3, norms=2, last=1, copies=1
):
    """Return the right number with a place for each mistake."""
    q, k = queries(c), c.n_kv_heads * c.head_dim if keys is None else keys(c)
    layer = (attention - 2) * q * c.dim + 2 * k * c.dim + matrices * c.ffn_dim * c.dim + norms * c.dim
    return copies * c.vocab_size * c.dim + c.n_layers * layer + last * c.dim


def one_layer(c):
    return count_parameters(SimpleNamespace(**{**vars(c), "n_layers": 1}))


PARAMETERS = Exercise(
    name="count_parameters",
    engine=count_parameters,
    cases=config_cases,
    mistakes=(
        Mistake(
            partial(parameters_with, copies=2),
            "you count the embedding twice: the output is tied to it, the file holds one matrix",
        ),
        Mistake(
            partial(parameters_with, keys=lambda c: c.n_heads * c.head_dim),
            "your K and V have a head for each query: they have n_kv_heads",
        ),
        Mistake(
            partial(parameters_with, queries=lambda c: c.dim),
            "you take dim for n_heads * head_dim: the heads together may be wider than the stream",
        ),
        Mistake(
            partial(parameters_with, queries=lambda c: c.dim, keys=lambda c: c.dim),
            "you count 4 * dim * dim for attention, as if every query had keys of its own: Q and output have "
            "n_heads * head_dim rows or columns, K and V n_kv_heads * head_dim, in SmolLM2 a third of that",
        ),
        Mistake(partial(parameters_with, last=0), "the last norm, output_norm, is missing: dim weights"),
        Mistake(
            partial(parameters_with, norms=0, last=0),
            "the norms are missing: two in each layer and one at the end, dim weights each",
        ),
        Mistake(partial(parameters_with, norms=1), "a layer has two norms: before attention, and before ffn"),
        Mistake(
            partial(parameters_with, matrices=2),
            "the feed-forward half has three matrices: gate, up and down",
        ),
        Mistake(
            partial(parameters_with, attention=3),
            "attn_output is missing: it brings the heads back to the stream",
        ),
        Mistake(partial(parameters_with, copies=0), "the embedding is missing: vocab_size rows of dim"),
        Mistake(one_layer, "this is a model of one layer: multiply by n_layers"),
    ),
    hints=(
        "Go down the picture and write a product for each box. Which boxes come once in each layer?",
        "Once: vocab_size * dim and the last norm's dim. In each layer: two matrices with n_heads * head_dim "
        "rows or columns, two with n_kv_heads * head_dim, three of ffn_dim, all times dim; and two norms.",
    ),
)


# layer_forward: x [T, dim], w {name: weights}, eps, attention(h, w), feed_forward(h, w) -> float32 [T, dim]


def layer_forward(x, w, eps, attention, feed_forward):
    """Return the stream behind a layer, float32 [T, dim]; w["attn_norm"] and w["ffn_norm"] are [dim]."""
    x = x + attention(rms_norm(x, w["attn_norm"], eps), w)
    return x + feed_forward(rms_norm(x, w["ffn_norm"], eps), w)


def layer_cases():
    def case(T, dim, seed, size=1.0):
        rng = np.random.default_rng(seed)
        A, B = rng.standard_normal((2, dim, dim)).astype(np.float32) / np.float32(dim**0.5)
        w = {"attn_norm": rng.uniform(0.5, 1.5, dim).astype(np.float32)}
        w |= {"ffn_norm": rng.uniform(0.5, 1.5, dim).astype(np.float32), "A": A, "B": B}
        x = (size * rng.standard_normal((T, dim))).astype(np.float32)
        return x, w, 1e-5, mean_of_those_before, gate_like

    return {
        "3 tokens of 8": case(3, 8, 0),
        "1 token of 8": case(1, 8, 1),
        "a stream grown large": case(4, 16, 2, size=30),
    }


def mean_of_those_before(h, w):
    return np.cumsum(h, axis=0) / np.arange(1, len(h) + 1, dtype=np.float32)[:, None] @ w["A"]


def gate_like(h, w):
    z = h @ w["B"]
    return np.maximum(z, 0) * z


def halves(first, second):
    """Return the layer that runs two functions (x, norm, part) -> x, one after the other."""

    def layer(x, w, eps, attention, feed_forward):
        x = first(x, lambda z: rms_norm(z, w["attn_norm"], eps), lambda h: attention(h, w))
        return second(x, lambda z: rms_norm(z, w["ffn_norm"], eps), lambda h: feed_forward(h, w))

    return layer


def right(x, norm, part):
    return x + part(norm(x))


def no_residual(x, norm, part):
    return part(norm(x))


def no_norm(x, norm, part):
    return x + part(x)


def normed_residual(x, norm, part):
    h = norm(x)
    return h + part(h)


def norm_behind_the_sum(x, norm, part):
    return norm(x + part(x))


def norm_behind_the_part(x, norm, part):
    return x + norm(part(x))


def side_by_side(x, w, eps, attention, feed_forward):
    first = attention(rms_norm(x, w["attn_norm"], eps), w)
    return x + first + feed_forward(rms_norm(x, w["ffn_norm"], eps), w)


def with_weights(first, second):
    return lambda x, w, *rest: layer_forward(x, w | {"attn_norm": w[first], "ffn_norm": w[second]}, *rest)


LAYER = Exercise(
    name="layer_forward",
    engine=layer_forward,
    cases=layer_cases,
    mistakes=(
        Mistake(
            halves(norm_behind_the_sum, norm_behind_the_sum),
            "you norm the sum, as the first transformer did (post-norm): here a part gets the normed stream, "
            "and the stream itself stays as it is",
        ),
        Mistake(
            halves(norm_behind_the_part, norm_behind_the_part),
            "you norm what a part returns: norm what it gets",
        ),
        Mistake(
            halves(no_residual, no_residual),
            "nothing is added to the stream: each part replaces it. x = x + part(norm(x))",
        ),
        Mistake(halves(right, no_residual), "the second half replaces the stream: add to it"),
        Mistake(halves(no_residual, right), "attention replaces the stream: add to it"),
        Mistake(
            halves(normed_residual, normed_residual),
            "you add to the normed stream: keep x, and add to that",
        ),
        Mistake(
            halves(right, normed_residual), "the second half is added to its normed input: add to the stream"
        ),
        Mistake(halves(normed_residual, right), "attention is added to its normed input: add to the stream"),
        Mistake(halves(no_norm, no_norm), "both norms are missing: the parts see the stream as it is"),
        Mistake(halves(right, no_norm), "the second norm is missing: ffn_norm, before the feed-forward half"),
        Mistake(halves(no_norm, right), "the first norm is missing: attn_norm, before attention"),
        Mistake(
            side_by_side,
            "the second half sees the stream from before attention: give it the new one (some models do run "
            "both side by side, llama does not)",
        ),
        Mistake(with_weights("attn_norm", "attn_norm"), "the second norm has weights of its own, ffn_norm"),
        Mistake(with_weights("ffn_norm", "attn_norm"), "the weights of the two norms are exchanged"),
        Mistake(halves(right, lambda x, norm, part: x), "the feed-forward half is missing: a layer has two"),
    ),
    hints=(
        "Twice the same: take the stream, norm a copy, run the part on it, add the result to the stream.",
        'rms_norm(x, w["attn_norm"], eps) is what attention gets, beside w. The second half starts from the '
        "stream that the first one left.",
    ),
    tolerance=1e-4,
)


# surprise: logits [T, vocab], ids [T] -> nats


def surprise(logits, ids):
    """Return the mean of -log p(next id), nats; logits, float32 [T, vocab], stand behind each of ids."""
    # and in the engine: _surprise in perplexity.py
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return -log_p[np.arange(len(ids) - 1), ids[1:]].mean()


def text_cases():
    def case(T, vocab, seed, size=1.0, offset=0.0):
        rng = np.random.default_rng(seed)
        return (offset + size * rng.standard_normal((T, vocab))), rng.integers(0, vocab, T)

    return {
        "6 tokens of 9": case(6, 9, 0),
        "2 tokens, one prediction": case(2, 5, 1),
        "logits about 1000": case(5, 7, 2, offset=1000.0),
        "certain, and wrong": case(5, 7, 3, size=600.0),
    }


def surprise_with(logits, ids, rows=slice(None, -1), targets=slice(1, None), mean=np.mean, unit=1, sign=-1):
    """Return the right number with a place for each mistake."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    wanted = ids[targets]
    found = log_p[rows][np.arange(len(wanted)), wanted]
    return sign * mean(found) / unit


def without_maximum(logits, ids):
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return -log_p[np.arange(len(ids) - 1), ids[1:]].mean()


def probabilities_without_maximum(logits, ids):
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return -np.log(p[np.arange(len(ids) - 1), ids[1:]]).mean()


def probabilities_of_next(logits, ids):
    return softmax(logits)[np.arange(len(ids) - 1), ids[1:]]


def own_tokens(logits, ids, top, logs):
    shifted = logits - (logits.max(axis=1, keepdims=True) if top else 0)
    total = np.exp(shifted).sum(axis=1, keepdims=True)
    log_p = shifted - np.log(total) if logs else np.log(np.exp(shifted) / total)
    return -log_p[np.arange(len(ids)), ids].mean()


def over_the_whole_matrix(logits, ids):
    shifted = logits - logits.max()
    log_p = shifted - np.log(np.exp(shifted).sum())
    return -log_p[np.arange(len(ids) - 1), ids[1:]].mean()


SURPRISE = Exercise(
    name="surprise",
    engine=surprise,
    cases=text_cases,
    mistakes=(
        *(
            Mistake(
                partial(own_tokens, top=top, logs=logs),
                "nothing is shifted: row t is asked for ids[t], the token it has just seen, and all T rows "
                "count. Row t predicts ids[t + 1], and the last row predicts nothing that is there: T - 1 "
                "predictions",
            )
            for top in (True, False)
            for logs in (True, False)
        ),
        Mistake(
            lambda logits, ids: surprise(logits, ids) * (len(ids) - 1) / len(ids),
            "you divide by T: of T tokens T - 1 are predicted, since nothing stands before the first",
        ),
        Mistake(
            over_the_whole_matrix,
            "you make one distribution of the whole matrix: each row is one of its own, so maximum and sum "
            "run over axis 1",
        ),
        Mistake(
            partial(surprise_with, targets=slice(None, -1)),
            "off by one: the logits behind token t predict token t + 1, and you look up token t itself",
        ),
        Mistake(
            partial(surprise_with, rows=slice(1, None)),
            "off by one: you look up token t in the row behind it, which has seen it",
        ),
        *(
            Mistake(
                wrong,
                "exp of a large logit is infinite: subtract each row's maximum first, it changes no "
                "probability",
            )
            for wrong in (without_maximum, probabilities_without_maximum)
        ),
        Mistake(
            lambda logits, ids: -np.log(probabilities_of_next(logits, ids).mean()),
            "you take the log of the mean probability: take the log of each, then the mean",
        ),
        Mistake(
            lambda logits, ids: probabilities_of_next(logits, ids).mean(),
            "this is the mean probability: a token thought impossible hardly counts in it. Take logs first",
        ),
        Mistake(
            lambda logits, ids: -np.log(probabilities_of_next(logits, ids)).mean(),
            "a probability may round to 0, and its log is infinite: subtract logs, log p = logit - max - "
            "log(sum of exp)",
        ),
        Mistake(partial(surprise_with, mean=np.sum), "this is the sum: surprise is for each token, the mean"),
        Mistake(partial(surprise_with, sign=1), "the sign: a log-probability is negative, surprise is not"),
        Mistake(partial(surprise_with, unit=np.log(2)), "these are bits: take the natural logarithm"),
    ),
    hints=(
        "Row t of the logits knows the tokens up to t. Which id does it predict? Which row is left over?",
        "Subtract each row's maximum, then log p = shifted - log(sum of exp(shifted)). Row t is asked for "
        "ids[t + 1]: two lists of places pick them all at once.",
    ),
    tolerance=1e-5,
)


# greedy: transformer, ids, n -> list of n ids


def greedy(transformer, ids, n):
    """Return the n ids that continue ids, each the most likely one; every token is run once."""
    # and in the engine: generate in generate.py
    cache = transformer.new_cache(len(ids) + n)
    new, found = ids, []
    for _ in range(n):
        found.append(int(transformer.next_logits(new, cache).argmax()))
        new = found[-1:]
    return found


@dataclass
class Toy:
    """In a transformer's place: `new_cache` and `next_logits` over a table instead of layers.

    Its logits depend on each token in the cache and on its position. It knows its prompt, and refuses more
    tokens than that at once: that would be one who starts again for each token.
    """

    prompt: list[int]
    seed: int = 0
    table: np.ndarray = field(init=False)

    def __post_init__(self):
        self.table = np.random.default_rng(self.seed).standard_normal((13, 200, 13))

    def new_cache(self, capacity):
        return SimpleNamespace(capacity=capacity, ids=[])

    def next_logits(self, ids, cache):
        if len(ids) > len(self.prompt) and not cache.ids:
            raise ValueError(
                f"{len(ids)} tokens into an empty cache, where the prompt has {len(self.prompt)}: make one "
                "cache before the loop, and run each token once"
            )
        if len(cache.ids) + len(ids) > cache.capacity:
            raise ValueError(
                f"ids: {len(ids)} more tokens do not fit, {len(cache.ids)} of {cache.capacity} used"
            )
        cache.ids += [int(i) for i in ids]
        return self.table[cache.ids, np.arange(len(cache.ids))].sum(axis=0)


def greedy_cases():
    def case(prompt, n, seed):
        return Toy(prompt, seed), prompt, n

    return {
        "3 tokens, 4 new": case([5, 1, 7], 4, 0),
        "1 token, 6 new": case([2], 6, 1),
        "5 tokens, 5 new": case([3, 3, 0, 12, 9], 5, 2),
    }


def greedy_with(transformer, ids, n, first=lambda ids: ids, new=lambda ids, found: found[-1:], shown=None):
    """Return the right ids with a place for each mistake, in a cache that has room for all of them."""
    cache = transformer.new_cache(1000)
    feed, found = first(ids), []
    for _ in range(n):
        found.append(int(transformer.next_logits(feed, cache).argmax()))
        feed = new(ids, found)
    return found if shown is None else shown(ids, found)


GREEDY = Exercise(
    name="greedy",
    engine=greedy,
    cases=greedy_cases,
    mistakes=(
        Mistake(
            partial(greedy_with, new=lambda ids, found: [*ids, *found]),
            "you run all tokens again behind themselves: the cache holds the old ones, feed only the new one",
        ),
        Mistake(
            partial(greedy_with, new=lambda ids, found: ids),
            "you feed the prompt again and again: behind it comes the token that you have just chosen",
        ),
        Mistake(
            partial(greedy_with, new=lambda ids, found: found),
            "you feed all new tokens each time: those before the last are in the cache already",
        ),
        Mistake(
            partial(greedy_with, first=lambda ids: ids[-1:]),
            "you begin with the last token of the prompt: the cache is empty, so run the whole prompt first",
        ),
        Mistake(
            partial(greedy_with, shown=lambda ids, found: [*ids, *found]),
            "the prompt is in your answer: return the new ids alone",
        ),
        Mistake(
            lambda transformer, ids, n: greedy_with(transformer, ids, n + 1),
            "one token too many: the logits behind the prompt give the first of the n",
        ),
    ),
    hints=(
        "What is new to the cache at first? And in every later step?",
        "One cache, made before the loop, with room for all tokens. next_logits(new, cache) runs what is "
        "new: first the prompt, then a list of one id, the argmax of before.",
    ),
)


# top_p: probabilities [vocab], p -> probabilities [vocab]


def top_p(probabilities, p):
    """Return probabilities, [vocab], of the most likely tokens that together reach p; the others get 0."""
    # and in the engine: _keep in sampler.py
    order = np.argsort(-probabilities, kind="stable")
    n = np.searchsorted(np.cumsum(probabilities[order]), p) + 1  # with the one that reaches p
    kept = np.zeros_like(probabilities)
    kept[order[:n]] = probabilities[order[:n]]
    return kept / kept.sum()


def probability_cases():
    quarters = np.array([0.125, 0.5, 0.03125, 0.25, 0.09375])
    return {
        "p 0.6, between two sums": (quarters, 0.6),
        "p 0.75, reached exactly": (quarters, 0.75),
        "p 0.1, less than the first": (quarters, 0.1),
        "p 1": (quarters, 1.0),
        "20 tokens, p 0.9": (softmax(np.random.default_rng(0).standard_normal(20) * 2), 0.9),
    }


def from_the_top(probabilities):
    return np.argsort(-probabilities, kind="stable")


def kept_with(probabilities, p, order=from_the_top, side="left", more=1, least=0, scale=True):
    """Return the right numbers with a place for each mistake."""
    ranked = order(probabilities)
    n = max(least, np.searchsorted(np.cumsum(probabilities[ranked]), p, side) + more)
    kept = np.zeros_like(probabilities)
    kept[ranked[:n]] = probabilities[ranked[:n]]
    return kept / kept.sum() if scale else kept


def each_by_itself(probabilities, p):
    kept = np.where(probabilities >= p * probabilities.max(), probabilities, 0)
    return kept / kept.sum()


def most_likely_first(probabilities, p):
    return -np.sort(-top_p(probabilities, p))


def softmax_again(probabilities, p):
    return softmax(np.where(top_p(probabilities, p) > 0, probabilities, -np.inf))


TOP_P = Exercise(
    name="top_p",
    engine=top_p,
    cases=probability_cases,
    mistakes=(
        *(
            Mistake(
                partial(kept_with, more=0, side=side, least=least),
                "you leave out the token that reaches p: with it the sum is at least p, without it less",
            )
            for side in ("left", "right")  # whether it may stay where the sum meets p exactly
            for least in (0, 1)
        ),
        Mistake(
            partial(kept_with, order=lambda x: from_the_top(-x)),
            "you begin with the least likely: sort from the largest down",
        ),
        Mistake(
            partial(kept_with, order=lambda x: np.arange(len(x))),
            "you add up in the order of the ids: begin with the most likely",
        ),
        Mistake(
            partial(kept_with, scale=False),
            "what is kept no longer adds up to 1: divide by its sum",
        ),
        Mistake(
            partial(kept_with, side="right"),
            "one too many where the sum meets p exactly: stop as soon as it has reached p",
        ),
        Mistake(
            each_by_itself,
            "you compare each probability with the largest: that is another rule, min-p. Here sums decide",
        ),
        Mistake(
            most_likely_first,
            "yours are sorted: put each probability back where its id is",
        ),
        Mistake(
            softmax_again,
            "softmax of probabilities makes them nearly equal: divide by their sum instead",
        ),
    ),
    hints=(
        "Line them up from the largest, np.argsort(-probabilities), and add: np.cumsum. Where is p reached?",
        "np.searchsorted(cumsum, p) is the place that reaches p; keep it and those before. Write the kept "
        "ones into zeros at their ids, divide by their sum.",
    ),
    tolerance=1e-6,
)

EXERCISES = [PARAMETERS, LAYER, SURPRISE, GREEDY, TOP_P]
