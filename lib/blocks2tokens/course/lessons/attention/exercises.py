"""Lesson 20, attention: one query, the causal mask, a softmax that streams, the cache's bytes and places.

attend_one        q, k, v of one head            -> what one query finds
causal_weights    scores [T, S]                  -> weights [T, S], none on the future
absorb            best, total, out, one more     -> best, total, out
kv_bytes          a model's shape, tokens, bits  -> bytes of its cache
offset_of         layout, head, token, i, shape  -> place in the flat array of keys
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from blocks2tokens.course.check.exercise import Exercise, Mistake

# attend_one: q float32 [head_dim], k and v float32 [S, head_dim] -> float32 [head_dim]


def attend_one(q, k, v):
    """Return what one query finds, [head_dim]; q float32 [head_dim], k and v [S, head_dim]."""
    # and in the engine: attend in model/attention.py
    scores = k @ q / np.sqrt(q.size)
    weights = np.exp(scores - scores.max())
    return weights / weights.sum() @ v


def one_query_cases():
    rng = np.random.default_rng(20)

    def case(S, head_dim, spread=1.0):
        q, k = (rng.standard_normal(size).astype(np.float32) for size in (head_dim, (S, head_dim)))
        return np.float32(spread) * q, k, rng.integers(1, 10, (S, head_dim)).astype(np.float32)

    q, k, v = case(6, 16)
    far = k.copy()
    far[3] = 300 * q
    ones, whole = np.ones(16, np.float32), rng.integers(-3, 4, (6, 16)).astype(np.float32)  # exact sums
    shift = np.array([500, 0, 0, 500, 0, 0], np.float32)[:, None]
    return {
        "one token": case(1, 8),
        "four equal keys": (q[:8], np.ones((4, 8), np.float32), v[:4, :8]),
        "five tokens, head_dim 8": case(5, 8),
        "seven tokens, head_dim 64": case(7, 64),
        "one score a thousand above the others": (q, far, v),
        "two scores two thousand above the others": (ones, whole + shift, v),
        "all scores two thousand below 0": (ones, whole - 500, v),
    }


def attend_with(
    q,
    k,
    v,
    scale=lambda q, k: q.size**-0.5,
    top=np.max,
    total=np.sum,
    after=lambda q: 1.0,
    values=lambda k, v: v,
):
    """Return the right answer with a place for each mistake."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    scores = k @ q * scale(q, k)
    weights = np.exp(scores - top(scores))
    return weights / total(weights) * after(q) @ values(k, v)


def best_alone(q, k, v):
    return v[np.argmax(k @ q)]


def all_alike(q, k, v):
    return v.mean(axis=0)


def no_softmax(q, k, v):
    scores = k @ q / np.sqrt(q.size)
    return scores / scores.sum() @ v


CUT_OFF = (
    "you cut scores off: beyond the limit a better one weighs no more than a good one. Subtract the largest "
    "instead"
)

ATTEND_ONE = Exercise(
    name="attend_one",
    engine=attend_one,
    cases=one_query_cases,
    mistakes=(
        Mistake(
            partial(attend_with, scale=lambda q, k: 1.0),
            "the scores are not scaled: divide them by the square root of head_dim",
        ),
        Mistake(
            partial(attend_with, scale=lambda q, k: 1 / q.size),
            "you divide the scores by head_dim: divide by its square root, the spread of a dot product",
        ),
        Mistake(
            partial(attend_with, scale=lambda q, k: q.size**0.5),
            "you multiply the scores by the square root of head_dim: divide",
        ),
        Mistake(
            partial(attend_with, scale=lambda q, k: len(k) ** -0.5),
            "you divide by the square root of the number of tokens: it is that of head_dim",
        ),
        Mistake(
            partial(attend_with, top=lambda scores: 0.0),
            "right until a score is large: exp overflows there, and infinity / infinity is no number. "
            "Subtract the largest score first; the weights stay the same",
        ),
        Mistake(
            partial(attend_with, scale=lambda q, k: 1.0, top=lambda scores: 0.0),
            "two steps are missing: divide the scores by the square root of head_dim, and subtract the "
            "largest of them before exp",
        ),
        Mistake(
            partial(attend_with, top=lambda scores: max(0.0, scores.max())),
            "where all scores are far below 0, what you subtract is above them all, and every exp rounds to "
            "0: a largest that begins at 0, or is taken of absolute values, is none of them",
        ),
        Mistake(
            partial(attend_with, top=np.mean),
            "you subtract the mean: a score far above it still overflows exp. Subtract the largest",
        ),
        Mistake(partial(attend_with, top=lambda scores: scores - np.minimum(scores, 80)), CUT_OFF),
        Mistake(partial(attend_with, top=lambda scores: scores - np.clip(scores, -80, 80)), CUT_OFF),
        Mistake(
            partial(attend_with, total=lambda weights: 1.0),
            "the weights do not sum to 1: divide them by their sum",
        ),
        Mistake(
            partial(attend_with, after=lambda q: q.size**-0.5),
            "the result is too small by the square root of head_dim: scale the scores, not the weights",
        ),
        Mistake(
            partial(attend_with, values=lambda k, v: k),
            "you return a sum of keys: the weights come from the keys, what they weigh are the values",
        ),
        Mistake(
            best_alone,
            "you return the value of the best key alone: every token gives its share, by its weight",
        ),
        Mistake(
            all_alike,
            "every token weighs the same: the weights are softmax(scores)",
        ),
        Mistake(
            no_softmax,
            "you divide the scores by their sum: softmax takes exp first, so that no weight is negative",
        ),
    ),
    hints=(
        "Three lines: S scores, one dot product each; S weights, all positive, sum 1; one weighted sum.",
        "All S dot products are one product of k and q. Softmax: subtract the largest, np.exp, divide by the "
        "sum. What do the weights weigh?",
    ),
    tolerance=1e-4,
)


# causal_weights: scores float32 [T, S] -> weights float32 [T, S]


def causal_weights(scores):
    """Return the weights, [T, S], of the last T of S tokens, none on the future; scores float32 [T, S]."""
    # and in the engine: attend in model/attention.py
    T, S = scores.shape
    own = np.arange(S - T, S)[:, None]  # the token that asks
    scores = np.where(np.arange(S) > own, -np.inf, scores)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def mask_cases():
    rng = np.random.default_rng(21)

    def case(T, S):
        return (2 * rng.standard_normal((T, S)).astype(np.float32),)

    tempting = case(4, 4)
    tempting[0][1, 3] = 2000
    large = case(4, 4)
    large[0][2, 1] = 2000
    seen = np.tri(4, dtype=np.float32)
    low = (seen * (rng.integers(-3, 4, (4, 4)).astype(np.float32) - 20_000),)
    return {
        "all scores 0": (np.zeros((3, 3), np.float32),),
        "5 of 5 tokens": case(5, 5),
        "the last 2 of 6": case(2, 6),
        "the last 1 of 4": case(1, 4),
        "a huge score in the future": tempting,
        "a huge score that is seen": large,
        "all scores that are seen far below 0": low,
    }


def largest(scores, axis):
    return scores.max(axis=axis, keepdims=True)


def no_largest(scores, axis):
    return 0.0


def largest_or_0(scores, axis):
    return np.maximum(largest(scores, axis), 0)


def largest_of_all(scores, axis):
    return scores.max()


def weights_with(
    scores, sees=lambda own, S: np.arange(S) <= own, offset=1, hidden=-np.inf, axis=1, top=largest
):
    """Return the right answer with a place for each mistake."""
    T, S = scores.shape
    own = (offset * (S - T) + np.arange(T))[:, None]
    scores = np.where(sees(own, S), scores.astype(np.float64), hidden)
    exp = np.exp(scores - top(scores, axis))
    return exp / exp.sum(axis=axis, keepdims=True)


def everyone(own, S):
    return np.full((len(own), S), True)


def hidden_afterwards(scores, again=False):
    weights = weights_with(scores, everyone)
    weights[np.arange(scores.shape[1]) > np.arange(-len(scores), 0)[:, None] + scores.shape[1]] = 0
    return weights / weights.sum(axis=1, keepdims=True) if again else weights


def exponentials(scores):
    """Return the weights of each row, of which none is divided by their sum."""
    weights = weights_with(scores)
    return weights / weights.max(axis=1, keepdims=True)


def whole_sum(scores):
    exp = exponentials(scores)
    return exp / exp.sum()


CAUSAL = Exercise(
    name="causal_weights",
    engine=causal_weights,
    cases=mask_cases,
    mistakes=(
        Mistake(
            partial(weights_with, sees=everyone),
            "no token is hidden: query t sees the future",
        ),
        Mistake(
            partial(weights_with, sees=lambda own, S: np.arange(S) <= own + 1),
            "off by one: each query sees the token after it, the very one that it should predict",
        ),
        Mistake(
            partial(weights_with, sees=lambda own, S: np.arange(S) < own),
            "off by one: no query sees its own token, and the first of all sees nothing, which gives nan",
        ),
        Mistake(
            partial(weights_with, hidden=0.0),
            "a hidden score becomes 0, and exp(0) is 1: a score that weighs nothing is -inf",
        ),
        Mistake(
            partial(weights_with, hidden=0.0, top=no_largest),
            "a hidden score becomes 0, and exp(0) is 1: it has to be -inf. And subtract the largest of each "
            "row before exp",
        ),
        Mistake(
            partial(weights_with, top=no_largest),
            "right until a score that is seen is large: exp overflows. Subtract each row's largest first",
        ),
        Mistake(
            partial(weights_with, top=largest_of_all),
            "right until one row has a huge score: you subtract the largest of all, and the other rows round "
            "to 0. Each row needs its own, .max(axis=1, keepdims=True)",
        ),
        Mistake(
            partial(weights_with, top=largest_or_0),
            "the largest begins at 0: where all that is seen is below, every exp rounds to 0. Begin with the "
            "first score, or -inf",
        ),
        Mistake(
            partial(weights_with, hidden=-1e4),
            "a hidden score is large and negative, and a score that is seen may be lower still. Only -inf is "
            "below all",
        ),
        Mistake(
            lambda scores: np.full(scores.shape, np.nan),
            "every weight is nan: a mask of 0 and 1 times -inf is nan where it is 0, for 0 * inf is no "
            "number. np.where(mask, -np.inf, scores) multiplies nothing",
        ),
        Mistake(
            partial(weights_with, sees=lambda own, S: np.arange(S) > own),
            "your mask is the wrong way round: it hides what may be seen, and the last row sees nothing, "
            "which gives nan",
        ),
        Mistake(
            whole_sum,
            "all weights together sum to 1: each query's row must, so sum over the last axis, keepdims=True",
        ),
        Mistake(
            exponentials,
            "the rows do not sum to 1: divide each by its sum",
        ),
        Mistake(
            hidden_afterwards,
            "you set weights to 0 after the softmax: the rows no longer sum to 1, and the future is still in "
            "their sums. Hide the scores first",
        ),
        Mistake(
            partial(hidden_afterwards, again=True),
            "right until a hidden score is huge: it is subtracted as the largest, and all that may be seen "
            "rounds to 0. Hide the scores before the softmax",
        ),
        Mistake(
            partial(weights_with, offset=0),
            "right for S = T alone: the queries are the last T of S tokens, so query t is token S - T + t",
        ),
        Mistake(
            partial(weights_with, sees=lambda own, S: np.arange(S) >= own),
            "the wrong side is hidden: a query sees the tokens before it and itself",
        ),
        Mistake(
            partial(weights_with, axis=0),
            "the columns sum to 1: it is each query's row that must, so softmax runs over the last axis",
        ),
    ),
    hints=(
        "Which token is query t, if the queries are the last T of S? It sees all tokens up to that one. What "
        "score makes exp(score) exactly 0?",
        "A row np.arange(S) compared with a column of the T tokens that ask is [T, S], True in the future. "
        "np.where puts -np.inf there; then softmax over axis 1.",
    ),
    tolerance=1e-4,
)


# absorb: best, total, out [head_dim], score, value [head_dim] -> best, total, out


def absorb(best, total, out, score, value):
    """Take one more token in; return best, total and out, [head_dim], as they then are.

    best is the largest score so far, total the sum of exp(score - best), out that of exp(score - best) *
    value.
    """
    highest = max(best, score)
    rescale, weight = np.exp(best - highest), np.exp(score - highest)
    return highest, rescale * total + weight, rescale * out + weight * value


def token_cases():
    out, value = np.array([2, 5, 1.5], np.float32), np.array([4, 1, 3], np.float32)
    states = {
        "the first token": (-np.inf, 0.0, 0 * out, 2.5),
        "a lower score": (3.0, 1.25, out, 1.0),
        "a higher score": (1.0, 2.25, out, 2.5),
        "the same score": (0.5, 1.5, out, 0.5),
        "scores below 0": (-4.0, 1.75, out, -6.0),
        "a thousand higher": (2.0, 3.5, out, 1002.0),
        "a thousand lower": (1002.0, 1.0, out, 2.0),
    }
    return {label: (*state, value) for label, state in states.items()}


def absorb_with(
    best,
    total,
    out,
    score,
    value,
    highest=max,
    old=lambda best, highest: np.exp(best - highest),
    old_out=None,
    new=lambda best, highest, score: np.exp(score - highest),
    each=lambda weight: weight,
    divide=False,
):
    """Return the right answer with a place for each mistake."""
    top = highest(best, score)
    weight = new(best, top, score)
    total = old(best, top) * total + weight
    out = (old_out or old)(best, top) * out + each(weight) * value
    return top, total, out / total if divide else out


def not_rescaled(best, highest):
    return 1.0


def start_anew(best, total, out, score, value):
    return (score, 1.0, value) if score > best else absorb(best, total, out, score, value)


def better_alone(best, total, out, score, value):
    return absorb(best, total, out, score, value) if score > best else (best, total, out)


def running_mean(best, total, out, score, value):
    """Return out as a mean, taken as a mean."""
    top, new_total, new = absorb(best, total, total * out, score, value)
    return top, new_total, new / new_total


ABSORB = Exercise(
    name="absorb",
    engine=absorb,
    cases=token_cases,
    mistakes=(
        Mistake(
            partial(absorb_with, old=not_rescaled),
            "total and out are not rescaled: they were made with the old best. Multiply both by "
            "exp(best - highest)",
        ),
        Mistake(
            partial(absorb_with, old=not_rescaled, old_out=lambda best, top: np.exp(best - top)),
            "out is rescaled, total is not: both were made with the old best",
        ),
        Mistake(
            partial(absorb_with, old_out=not_rescaled),
            "total is rescaled, out is not: both were made with the old best",
        ),
        Mistake(
            partial(absorb_with, old=lambda best, highest: np.exp(highest - best)),
            "you rescale the wrong way: what was found so far counts less when the best rises, exp(best - "
            "highest)",
        ),
        Mistake(
            partial(absorb_with, highest=lambda best, score: best),
            "best never rises: a score above it gives exp a large number, and the first one gives infinity",
        ),
        Mistake(
            partial(absorb_with, highest=lambda best, score: score),
            "best falls with a lower score: the exponentials of what came before then grow without limit",
        ),
        Mistake(
            partial(absorb_with, new=lambda best, highest, score: np.exp(score)),
            "the new token weighs exp(score), the others exp(score - best): subtract the highest here too",
        ),
        Mistake(
            partial(absorb_with, new=lambda best, highest, score: np.exp(score - best)),
            "the new token is weighed against the old best: subtract the highest of both, as for the others",
        ),
        Mistake(
            partial(absorb_with, new=lambda best, highest, score: 1.0),
            "the new token weighs 1 always: that is right only where it is the best so far. It weighs "
            "exp(score - highest)",
        ),
        Mistake(
            start_anew,
            "a better score starts anew with you: what came before still counts, less than it did, by "
            "exp(best - highest)",
        ),
        Mistake(
            better_alone,
            "a lower score is left out: it counts too, by exp(score - best)",
        ),
        Mistake(
            running_mean,
            "out is a mean with you: it is a sum, and is divided by total once, after the last token",
        ),
        Mistake(
            partial(absorb_with, each=lambda weight: 1.0),
            "the value is added as it is: it counts by its weight, exp(score - highest)",
        ),
        Mistake(
            partial(absorb_with, divide=True),
            "you divide by the total at each token: that is done once, after the last",
        ),
    ),
    hints=(
        "Old exponentials were made with `best`, new ones need the highest of best and score. By which "
        "factor does exp(s - best) become exp(s - highest)?",
        "exp(s - highest) is exp(s - best) times exp(best - highest), whatever s is. So two sums get one "
        "factor, and then the new token's own share.",
    ),
    tolerance=1e-5,
    parts=("best", "total", "out"),
)


# kv_bytes: shape, tokens, bits -> bytes


@dataclass(frozen=True)
class HeadShape:
    """What the cache needs to know of a model."""

    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int


def kv_bytes(c, n_tokens, bits):
    """Return the bytes of a cache that holds n_tokens of a model; c has n_layers, n_heads, n_kv_heads,
    head_dim; bits are those of one number."""
    keys = c.n_layers * c.n_kv_heads * c.head_dim * n_tokens
    return 2 * keys * bits // 8  # keys and values


def shape_cases():
    return {
        "SmolLM2, 1 token in float32": (HeadShape(30, 9, 3, 64), 1, 32),
        "SmolLM2, 1,000 tokens in float16": (HeadShape(30, 9, 3, 64), 1000, 16),
        "32 layers, 8 of 32 heads, 4,096 tokens in float16": (HeadShape(32, 32, 8, 128), 4096, 16),
        "32 layers, 1 of 32 heads, 4,096 tokens in 8 bits": (HeadShape(32, 32, 1, 128), 4096, 8),
        "48 layers, 8 of 40 heads, 500 tokens in float16": (HeadShape(48, 40, 8, 128), 500, 16),
        "32 layers, 8 of 32 heads, 4,096 tokens in 4 bits": (HeadShape(32, 32, 8, 128), 4096, 4),
    }


def bytes_with(
    c, n_tokens, bits, heads=lambda c: c.n_kv_heads, kinds=2, layers=lambda c: c.n_layers, per_byte=8
):
    """Return the right count with a place for each mistake."""
    return kinds * layers(c) * heads(c) * c.head_dim * n_tokens * bits / per_byte


CACHE_BYTES = Exercise(
    name="kv_bytes",
    engine=kv_bytes,
    cases=shape_cases,
    mistakes=(
        Mistake(
            partial(bytes_with, heads=lambda c: c.n_heads),
            "you count the queries' heads: queries are not kept, and n_kv_heads is the number of keys",
        ),
        Mistake(partial(bytes_with, kinds=1), "half of it: a token leaves a key and a value"),
        Mistake(partial(bytes_with, per_byte=1), "these are bits: a byte has 8"),
        Mistake(
            lambda c, n_tokens, bits: bytes_with(c, n_tokens, bits // 8 * 8),
            "bits // 8 is 0 for 4 bits: a number may be less than a byte. Multiply first, divide the whole",
        ),
        Mistake(
            lambda c, n_tokens, bits: bytes_with(c, n_tokens, 32),
            "4 bytes for each number are float32's: a number has bits / 8",
        ),
        Mistake(
            partial(bytes_with, layers=lambda c: 1),
            "this is one layer's: each layer has keys and values of its own",
        ),
        Mistake(
            partial(bytes_with, kinds=3),
            "three times a head's numbers: the query is used once and forgotten, only key and value are kept",
        ),
        Mistake(
            partial(bytes_with, heads=lambda c: c.n_heads / c.n_kv_heads),
            "you count the queries of a group: what is kept are n_kv_heads heads",
        ),
        Mistake(
            lambda c, n_tokens, bits: kv_bytes(c, 1, bits),
            "this is one token's: multiply by n_tokens",
        ),
        Mistake(
            partial(bytes_with, heads=lambda c: 1),
            "this is one head's: each layer keeps n_kv_heads of them",
        ),
    ),
    hints=(
        "What does one token leave behind in one layer? How many numbers is that? And then all layers, all "
        "tokens.",
        "A key and a value, so 2; n_kv_heads of each; head_dim numbers in each. Times n_layers, n_tokens, "
        "bits / 8.",
    ),
)


# offset_of: layout, query's head, token, i, group, n_kv_heads, capacity, head_dim -> place


def offset_of(layout, head, token, i, group, n_kv_heads, capacity, head_dim):
    """Return the place in the flat array of element i of the key that query `head` reads for a token.

    `group` queries share one key. layout "token" is [capacity, n_kv_heads, head_dim], "head"
    [n_kv_heads, capacity, head_dim], "transposed" [n_kv_heads, head_dim, capacity].
    """
    kv_head = head // group
    if layout == "token":
        return (token * n_kv_heads + kv_head) * head_dim + i
    if layout == "head":
        return (kv_head * capacity + token) * head_dim + i
    return (kv_head * head_dim + i) * capacity + token


LAYOUTS = ("token", "head", "transposed")


def place_cases():
    sizes = {
        "the very first": (0, 0, 0, 3, 3, 10, 8),
        "head 5 of 9, token 6, element 4": (5, 6, 4, 3, 3, 10, 8),
        "head 7 of 9, token 8, element 2": (7, 8, 2, 3, 3, 20, 16),
        "head 6 of 8, token 3, element 0": (6, 3, 0, 2, 4, 32, 4),
        "head 3 of 4, token 9, element 7": (3, 9, 7, 1, 4, 12, 8),
    }
    return {f"{layout}, {label}": (layout, *size) for label, size in sizes.items() for layout in LAYOUTS}


def place_with(
    layout,
    head,
    token,
    i,
    group,
    n_kv_heads,
    capacity,
    head_dim,
    kv_head=lambda head, group, n: head // group,
    name=lambda layout: layout,
    head_stride=lambda capacity, n_kv_heads, head_dim: capacity,
    width=lambda capacity, head_dim: capacity,
):
    """Return the right place with a place for each mistake."""
    kv, layout = kv_head(head, group, n_kv_heads), name(layout)
    if layout == "token":
        return (token * n_kv_heads + kv) * head_dim + i
    if layout == "head":
        return (kv * head_stride(capacity, n_kv_heads, head_dim) + token) * head_dim + i
    return (kv * head_dim + i) * width(capacity, head_dim) + token


def token_of_all_heads(layout, head, token, i, group, n_kv_heads, capacity, head_dim):
    if layout != "transposed":
        return offset_of(layout, head, token, i, group, n_kv_heads, capacity, head_dim)
    return (i * n_kv_heads + head // group) * capacity + token


SWAPPED = {"token": "head", "head": "token", "transposed": "transposed"}

OFFSET = Exercise(
    name="offset_of",
    engine=offset_of,
    cases=place_cases,
    mistakes=(
        Mistake(
            partial(place_with, kv_head=lambda head, group, n: head),
            "you use the query's head as it is: `group` queries share a key, so it is key head // group",
        ),
        Mistake(
            partial(place_with, kv_head=lambda head, group, n: head % n),
            "you deal the keys out like cards, head % n_kv_heads: neighbours share one, head // group",
        ),
        Mistake(
            partial(place_with, kv_head=lambda head, group, n: head % group),
            "head % group is the query's place in its group: the group itself is head // group",
        ),
        Mistake(
            partial(place_with, kv_head=lambda head, group, n: head // n),
            "head // n_kv_heads counts packs as long as there are key heads: a pack has `group` queries, "
            "head // group",
        ),
        Mistake(
            partial(place_with, kv_head=lambda head, group, n: head / group),
            "head / group lies between two heads: the whole number below it is head // group",
        ),
        Mistake(
            partial(place_with, name=SWAPPED.get),
            'the layouts are exchanged: "token" is [capacity, n_kv_heads, head_dim], "head" '
            "[n_kv_heads, capacity, head_dim]",
        ),
        Mistake(
            partial(place_with, name=lambda layout: "head" if layout == "transposed" else layout),
            '"transposed" is read as "head": there a key\'s numbers are `capacity` apart, and the tokens '
            "neighbours",
        ),
        Mistake(
            partial(place_with, head_stride=lambda capacity, n_kv_heads, head_dim: n_kv_heads),
            '"head": from one head to the next it is `capacity` tokens, whether they are filled or not',
        ),
        Mistake(
            partial(place_with, width=lambda capacity, head_dim: head_dim),
            '"transposed": from one element to the next it is `capacity` places, the length of its row',
        ),
        Mistake(
            token_of_all_heads,
            '"transposed" is [n_kv_heads, head_dim, capacity]: the head comes first, then the element',
        ),
        Mistake(
            lambda *a: 4 * offset_of(*a),
            "these are bytes of float32: the place in the array is asked for",
        ),
    ),
    hints=(
        "First the key's head: which queries share it? Then the rule for any [A, B, C] array: element "
        "[a, b, c] lies at (a * B + b) * C + c.",
        'kv_head = head // group. "token": a, b, c = token, kv_head, i with B = n_kv_heads, C = head_dim; '
        '"head": kv_head, token, i; "transposed": kv_head, i, token with C = capacity.',
    ),
)

EXERCISES = [ATTEND_ONE, CAUSAL, ABSORB, CACHE_BYTES, OFFSET]
