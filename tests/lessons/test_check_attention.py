"""What learners write in lesson 20, for test_check_learners.py, and what is the lesson's own."""

import math
from functools import partial

import numpy as np
import pytest
from pasting import code_cells

from blocks2tokens.course.lessons.attention import exercises as lesson
from blocks2tokens.course.lessons.attention.at_all import at_all
from blocks2tokens.course.setup import notebooks
from blocks2tokens.model import KVCache
from blocks2tokens.model.attention import attend

NAMES = {e.name: e for e in lesson.EXERCISES}


def softmax(scores):
    scores = [float(s) - float(max(scores)) for s in scores]
    return [math.exp(s) / sum(math.exp(s) for s in scores) for s in scores]


def one(divisor=lambda q, k: math.sqrt(len(q)), weigh=softmax, shrink=lambda q: 1, of=lambda k, v: v):
    """A learner's loops over tokens and elements."""

    def attend_one(q, k, v):
        scores = [sum(float(a) * float(b) for a, b in zip(q, key, strict=True)) for key in k]
        weights = weigh([s / divisor(q, k) for s in scores])
        out = [0.0] * v.shape[1]
        for weight, row in zip(weights, of(k, v), strict=True):
            for i, x in enumerate(row):
                out[i] += weight * float(x) / shrink(q)
        return np.array(out)

    return attend_one


def overflowing(scores):
    exp = np.exp(np.float32(scores))
    return exp / exp.sum()


def less(by, scores):
    """Return the softmax of scores, less a number made of them in the place of the largest."""
    scores = np.array(scores)
    exp = np.exp(scores - by(scores))
    return exp / exp.sum()


def cut_off(scores, least=-np.inf):
    exp = np.exp(np.clip(scores, least, 80))
    return exp / exp.sum()


def not_normalized(scores):
    return np.exp(np.array(scores) - max(scores))


def only_the_best(scores):
    return np.eye(len(scores))[np.argmax(scores)]


def causal(
    visible=lambda s, own: s <= own, first=lambda T, S: S - T, hide=-np.inf, afterwards=None, top=np.max
):
    def causal_weights(scores):
        T, S = scores.shape
        weights = np.zeros((T, S))
        for t in range(T):
            seen = np.array([visible(s, first(T, S) + t) for s in range(S)])
            row = scores[t].astype(float)
            if afterwards is None:
                row[~seen] = hide
            row = np.exp(row - top(row))
            row = row / row.sum()
            if afterwards is not None:
                row[~seen] = 0
                row = row / row.sum() if afterwards else row
            weights[t] = row
        return weights

    return causal_weights


def over_queries(scores):
    T, S = scores.shape
    masked = scores + np.triu(np.full((T, S), -np.inf), S - T + 1)
    exp = np.exp(masked - masked.max(axis=0))
    return exp / exp.sum(axis=0)


def hidden(scores):
    T, S = scores.shape
    return np.triu(np.full((T, S), True), S - T + 1)


def less_the_largest_of_all(scores):
    scores = np.where(hidden(scores), -np.inf, scores)
    exp = np.exp(scores - scores.max())
    return exp / exp.sum(axis=1, keepdims=True)


def times_infinity(scores):
    masked = scores + hidden(scores) * -np.inf
    exp = np.exp(masked - masked.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


def not_divided(scores):
    masked = np.where(hidden(scores), -np.inf, scores)
    return np.exp(masked - masked.max(axis=1, keepdims=True))


def over_everything(scores):
    return not_divided(scores) / not_divided(scores).sum()


def take(
    top=max,
    keep_total=lambda best, new: math.exp(best - new),
    keep_out=lambda best, new: math.exp(best - new),
    weigh=lambda score, best, new: np.exp(score - new),
    times=True,
    divided=False,
):
    def absorb(best, total, out, score, value):
        new = top(best, score)
        w = weigh(score, best, new)
        total = total * keep_total(best, new) + w
        out = out * keep_out(best, new) + (w * value if times else value)
        return new, total, (out / total if divided else out)

    return absorb


def anew(best, total, out, score, value):
    return (score, 1, value) if score > best else take()(best, total, out, score, value)


def only_better(best, total, out, score, value):
    return take()(best, total, out, score, value) if score > best else (best, total, out)


def mean_so_far(best, total, out, score, value):
    new = max(best, score)
    share = np.exp(score - new) / (np.exp(best - new) * total + np.exp(score - new))
    return new, np.exp(best - new) * total + np.exp(score - new), out + share * (value - out)


def kept(best, new):
    return 1


def upwards(best, new):
    return np.exp(new - best)


def size(heads=lambda c: c.n_kv_heads, values=True, bit=8, layers=None, tokens=None, extra=0):
    def kv_bytes(c, n_tokens, bits):
        total = 0
        for _ in range(c.n_layers if layers is None else layers):
            for _ in ("key", "value")[: 2 if values else 1]:
                total += heads(c) * c.head_dim
            total += extra * heads(c) * c.head_dim
        return total * (n_tokens if tokens is None else tokens) * bits / bit

    return kv_bytes


def place(kv_head=lambda h, group, n: h // group, axes=None, unit=1, shape=None):
    """A learner's place through NumPy's own strides."""

    def offset_of(layout, head, token, i, group, n_kv_heads, capacity, head_dim):
        index = {"h": kv_head(head, group, n_kv_heads), "t": token, "i": i}
        sizes = {"h": n_kv_heads, "t": capacity, "i": head_dim}
        sizes |= (shape or {}).get(layout, lambda s: {})(sizes)
        order = ({"token": "thi", "head": "hti", "transposed": "hit"} | (axes or {}))[layout]
        at = 0
        for axis in order:
            at = at * sizes[axis] + index[axis]
        return unit * at

    return offset_of


def hides_in_place(scores):
    T, S = scores.shape
    scores[np.arange(S) > np.arange(S - T, S)[:, None]] = -np.inf
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


WRONG = [
    ("causal_weights", hides_in_place, "you wrote into scores"),
    ("attend_one", one(weigh=partial(less, lambda s: max(0, *s))), "where all scores are far below 0"),
    ("attend_one", one(weigh=partial(less, lambda s: max(abs(s)))), "where all scores are far below 0"),
    ("attend_one", one(weigh=partial(less, np.mean)), "you subtract the mean"),
    ("attend_one", one(weigh=cut_off), "you cut scores off"),
    ("attend_one", one(weigh=partial(cut_off, least=-80)), "you cut scores off"),
    ("causal_weights", less_the_largest_of_all, "you subtract the largest of all"),
    ("causal_weights", causal(top=lambda row: max(0, *row)), "the largest begins at 0"),
    ("causal_weights", causal(hide=-1000), "a score that is seen may be lower still"),
    ("causal_weights", times_infinity, "0 * inf is no number"),
    ("causal_weights", causal(lambda s, own: s > own), "your mask is the wrong way round"),
    ("causal_weights", over_everything, "all weights together sum to 1"),
    ("causal_weights", not_divided, "divide each by its sum"),
    ("absorb", take(weigh=lambda score, best, new: 1), "the new token weighs 1 always"),
    ("absorb", anew, "starts anew with you"),
    ("absorb", only_better, "a lower score is left out"),
    ("absorb", mean_so_far, "out is a mean with you"),
    ("kv_bytes", lambda c, n_tokens, bits: size(bit=1)(c, n_tokens, bits // 8), "less than a byte"),
    ("kv_bytes", lambda c, n_tokens, bits: size()(c, n_tokens, 32), "are float32's"),
    ("offset_of", place(lambda h, group, n: h // n), "counts packs as long as there are key heads"),
    ("offset_of", place(lambda h, group, n: h / group), "lies between two heads"),
    ("attend_one", one(lambda q, k: 1), "the scores are not scaled"),
    ("attend_one", one(lambda q, k: len(q)), "divide the scores by head_dim"),
    ("attend_one", one(lambda q, k: len(q) ** -0.5), "multiply the scores by the square root"),
    ("attend_one", one(lambda q, k: math.sqrt(len(k))), "number of tokens"),
    ("attend_one", one(weigh=overflowing), "exp overflows there"),
    ("attend_one", one(lambda q, k: 1, overflowing), "two steps are missing"),
    ("attend_one", one(weigh=not_normalized), "do not sum to 1"),
    ("attend_one", one(shrink=lambda q: math.sqrt(len(q))), "scale the scores, not the weights"),
    ("attend_one", one(of=lambda k, v: k), "a sum of keys"),
    ("attend_one", one(weigh=only_the_best), "the best key alone"),
    ("attend_one", one(weigh=lambda s: [1 / len(s)] * len(s)), "every token weighs the same"),
    ("attend_one", one(weigh=lambda s: [x / sum(s) for x in s]), "by their sum: softmax takes exp"),
    ("causal_weights", causal(lambda s, own: True), "no token is hidden"),
    ("causal_weights", causal(lambda s, own: s <= own + 1), "the very one that it should predict"),
    ("causal_weights", causal(lambda s, own: s < own), "no query sees its own token"),
    ("causal_weights", causal(hide=0), "a score that weighs nothing is -inf"),
    ("causal_weights", causal(hide=0, top=lambda row: 0), "And subtract the largest"),
    ("causal_weights", causal(top=lambda row: 0), "right until a score that is seen is large"),
    ("causal_weights", causal(afterwards=False), "no longer sum to 1"),
    ("causal_weights", causal(afterwards=True), "right until a hidden score is huge"),
    ("causal_weights", causal(first=lambda T, S: 0), "token S - T + t"),
    ("causal_weights", causal(lambda s, own: s >= own), "the wrong side"),
    ("causal_weights", over_queries, "softmax runs over the last axis"),
    ("absorb", take(keep_total=kept, keep_out=kept), "total and out are not rescaled"),
    ("absorb", take(keep_total=kept), "out is rescaled, total is not"),
    ("absorb", take(keep_out=kept), "total is rescaled, out is not"),
    ("absorb", take(keep_total=upwards, keep_out=upwards), "rescale the wrong way"),
    ("absorb", take(top=lambda best, score: best), "best never rises"),
    (
        "absorb",
        take(lambda best, score: score, lambda b, n: np.exp(b - n), lambda b, n: np.exp(b - n)),
        "best falls with a lower score",
    ),
    ("absorb", take(weigh=lambda score, best, new: np.exp(score)), "subtract the highest here too"),
    ("absorb", take(weigh=lambda score, best, new: np.exp(score - best)), "against the old best"),
    ("absorb", take(times=False), "the value is added as it is"),
    ("absorb", take(divided=True), "once, after the last"),
    ("kv_bytes", size(lambda c: c.n_heads), "you count the queries' heads"),
    ("kv_bytes", size(values=False), "half of it"),
    ("kv_bytes", size(bit=1), "a byte has 8"),
    ("kv_bytes", size(layers=1), "this is one layer's"),
    ("kv_bytes", size(extra=1), "used once and forgotten"),
    ("kv_bytes", size(lambda c: c.n_heads // c.n_kv_heads), "the queries of a group"),
    ("kv_bytes", size(tokens=1), "this is one token's"),
    ("kv_bytes", size(lambda c: 1), "this is one head's"),
    ("offset_of", place(lambda h, group, n: h), "the query's head as it is"),
    ("offset_of", place(lambda h, group, n: h % n), "like cards"),
    ("offset_of", place(lambda h, group, n: h % group), "place in its group"),
    ("offset_of", place(axes={"token": "hti", "head": "thi"}), "the layouts are exchanged"),
    ("offset_of", place(axes={"transposed": "hti"}), 'is read as "head"'),
    (
        "offset_of",
        place(shape={"head": lambda s: {"t": s["h"]}}),
        "from one head to the next it is `capacity` tokens",
    ),
    (
        "offset_of",
        place(shape={"transposed": lambda s: {"t": s["i"]}}),
        "from one element to the next it is `capacity` places",
    ),
    ("offset_of", place(axes={"transposed": "iht"}), "the head comes first, then the element"),
    ("offset_of", place(unit=4), "bytes of float32"),
]


RIGHT = {
    "attend_one": [one()],
    "causal_weights": [causal()],
    "absorb": [take()],
    "kv_bytes": [size()],
    "offset_of": [place()],
}


# The plain answers agree with the engine


@pytest.fixture
def qkv():
    """The last 3 of 7 tokens, 4 queries on 2 keys."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal(s).astype(np.float32) for s in ((3, 4, 8), (2, 7, 8), (2, 7, 8))]


def test_one_query_is_a_row_of_the_engine_s(qkv):
    q, k, v = qkv
    found = attend(q, k, v)
    for t in range(3):
        for head in range(4):
            seen = 7 - 3 + t + 1
            plain = lesson.attend_one(q[t, head], k[head // 2, :seen], v[head // 2, :seen])
            assert np.allclose(plain, found[t, head], atol=1e-6)


def test_causal_weights_give_the_engine_s_sum(qkv):
    q, k, v = qkv
    for head in range(4):
        weights = lesson.causal_weights(q[:, head] @ k[head // 2].T / np.sqrt(8))
        assert np.allclose(weights @ v[head // 2], attend(q, k, v)[:, head], atol=1e-6)


def test_absorbing_all_tokens_is_the_engine_s_sum(qkv):
    q, k, v = qkv
    best, total, out = -np.inf, 0.0, np.zeros(8)
    for key, value in zip(k[1], v[1], strict=True):
        best, total, out = lesson.absorb(best, total, out, key @ q[2, 3] / np.sqrt(8), value)
    assert np.allclose(out / total, attend(q, k, v)[2, 3], atol=1e-6)


def test_bytes_are_those_of_the_engine_s_cache():
    cache = KVCache(n_layers=3, n_kv_heads=2, head_dim=8, capacity=5)
    shape = lesson.HeadShape(n_layers=3, n_heads=4, n_kv_heads=2, head_dim=8)
    assert lesson.kv_bytes(shape, 5, 8 * cache.row.base.itemsize) == cache.nbytes


def test_the_engine_s_cache_has_the_head_layout():
    cache = KVCache(n_layers=1, n_kv_heads=2, head_dim=8, capacity=5)
    keys = np.arange(3 * 2 * 8, dtype=np.float32).reshape(3, 2, 8)
    cache.prepare(5)
    cache.put(0, keys, keys)
    flat = cache.get(0, 5)[0].reshape(-1)
    for head, token, i in [(0, 0, 0), (1, 2, 3), (3, 1, 7)]:
        assert flat[lesson.offset_of("head", head, token, i, 2, 2, 5, 8)] == keys[token, head // 2, i]


def in_loops(scores):
    """Give each row its own softmax of what it sees, as lists."""
    T, S = scores.shape
    rows = [[float(s) for s in row[: S - T + t + 1]] for t, row in enumerate(scores)]
    return [softmax(row) + [0.0] * (S - len(row)) for row in rows]


@pytest.mark.parametrize("hide", [-1e9, float(np.finfo(np.float32).min), -np.inf])
def test_a_score_that_is_far_below_all_hides_as_well(hide):
    assert NAMES["causal_weights"].judge(causal(hide=hide)).kind == "right"


def test_rows_of_a_list_are_weights():
    assert NAMES["causal_weights"].judge(in_loops).kind == "right"


def test_each_of_absorb_s_values_is_called_by_its_name():
    message = NAMES["absorb"].judge(lambda *state: (*lesson.absorb(*state)[:2], 0 * state[2])).message
    assert "the first token, out: " in message


# The lesson asks for many places at once, the exercise for one


def one_number_at_a_time(layout, head, token, i, group, n_kv_heads, capacity, head_dim):
    kv_head, token, i = int(head) // group, int(token), int(i)
    match layout:
        case "token":
            return (token * n_kv_heads + kv_head) * head_dim + i
        case "head":
            return (kv_head * capacity + token) * head_dim + i
    return (kv_head * head_dim + i) * capacity + token


@pytest.mark.parametrize("layout", ["token", "head", "transposed"])
def test_a_place_at_a_time_is_enough_for_the_pictures(layout):
    """`places` of the lesson, with a right function that takes no arrays."""
    cells = code_cells(notebooks.NOTEBOOKS / "4_transformer" / "20_attention.ipynb")
    definition = next(cell for cell in cells if "def places(" in cell).split("\n\n\npictures.")[0]
    found = []
    for offset_of in (one_number_at_a_time, lesson.offset_of):
        names = {"np": np, "at_all": at_all, "offset_of": offset_of}
        exec(definition, names)
        found.append(names["places"](layout, [1, 3], range(5), 4, 8, 8))
    assert len(found[0]) == 2 * 5 * 8 and np.array_equal(*found)


def test_arrays_go_in_at_once_where_they_may():
    calls = []

    def place(layout, *numbers):
        calls.append(numbers)
        return sum(numbers)

    assert at_all(place, "token", np.arange(3), 1).tolist() == [1, 2, 3] and len(calls) == 1
