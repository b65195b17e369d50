"""What learners write in lesson 21, for test_check_learners.py, and what is the lesson's own."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

import blocks2tokens as b2t
from blocks2tokens.course.lessons.attention import attention_maps
from blocks2tokens.course.lessons.full_transformer import exercises as lesson
from blocks2tokens.model import layers


def count(q=None, kv=None, output=1, gates=3, norms=2, last=1, embedding=1, layers=None):
    """A learner's count, box by box."""

    def count_parameters(c):
        wide = q(c) if q else c.n_heads * c.head_dim
        narrow = kv(c) if kv else c.n_kv_heads * c.head_dim
        total = 0
        for _ in range(layers or c.n_layers):
            total += wide * c.dim + narrow * c.dim + narrow * c.dim + output * c.dim * wide
            total += gates * c.ffn_dim * c.dim + norms * c.dim
        return total + embedding * c.vocab_size * c.dim + last * c.dim

    return count_parameters


def normed(x, weight, eps):
    """RMSNorm, row by row in float64."""
    x = x.astype(float)
    return np.array([row / math.sqrt((row @ row) / len(row) + eps) for row in x]) * weight


def layer(first="x + f(n(x))", second="x + f(n(x))", weights=("attn_norm", "ffn_norm")):
    """A learner's layer: what each half makes of x, of its norm n and its part f."""

    def layer_forward(x, w, eps, attention, feed_forward):
        for line, name, part in zip((first, second), weights, (attention, feed_forward), strict=True):
            names = {
                "x": x,
                "n": lambda z, name=name: normed(z, w[name], eps),
                "f": lambda h, p=part: p(h, w),
            }
            x = eval(line, names)
        return x

    return layer_forward


def both_halves_at_once(x, w, eps, attention, feed_forward):
    a = attention(normed(x, w["attn_norm"], eps), w)
    f = feed_forward(normed(x, w["ffn_norm"], eps), w)
    return x + a + f


def log_softmax(row):
    top = max(row)
    return [z - top - math.log(sum(math.exp(y - top) for y in row)) for z in row]


def nats(row_of=lambda t: t, id_of=lambda t: t + 1, sign=-1, log=log_softmax, mean=True, unit=1.0):
    """A learner's surprise, token by token."""

    def surprise(logits, ids):
        found = [log(list(logits[row_of(t)]))[ids[id_of(t)]] for t in range(len(ids) - 1)]
        return sign * sum(found) / (len(found) if mean else 1) / unit

    return surprise


def probabilities(logits, ids):
    rows = [np.exp(log_softmax(list(row))) for row in logits[:-1]]
    return np.array([row[i] for row, i in zip(rows, ids[1:], strict=True)])


def log_of_softmax(row):
    e = np.exp(np.array(row) - max(row))
    return np.log(e / e.sum())


def log_without_maximum(row):
    return np.array(row) - np.log(np.exp(np.array(row)).sum())


def writes(
    first=lambda ids: ids, new=lambda ids, found: [found[-1]], answer=lambda ids, found: found, more=0
):
    """A learner's loop: what is run first, what is run then, and what is returned."""

    def greedy(transformer, ids, n):
        cache = transformer.new_cache(500)
        logits, found = transformer.next_logits(first(ids), cache), []
        while len(found) < n + more:
            found.append(int(np.argmax(logits)))
            logits = transformer.next_logits(new(ids, found), cache)
        return answer(ids, found)

    return greedy


def starts_again_for_each_token(transformer, ids, n):
    ids, length = list(ids), len(ids)
    for _ in range(n):
        logits = transformer.next_logits(ids, transformer.new_cache(len(ids)))
        ids.append(int(logits.argmax()))
    return ids[length:]


def too_small_a_cache(transformer, ids, n):
    cache, found, new = transformer.new_cache(len(ids)), [], ids
    for _ in range(n):
        found.append(int(transformer.next_logits(new, cache).argmax()))
        new = [found[-1]]
    return found


def nucleus(order=lambda pairs: sorted(pairs, reverse=True), stop="behind", scale=True, place=True):
    """A learner's top-p, token by token."""

    def top_p(probabilities, p):
        pairs = order([(float(q), -i) for i, q in enumerate(probabilities)])
        kept, total = [], 0.0
        for q, i in pairs:
            if kept and (total + q > p if stop == "before" else total > p if stop == "late" else total >= p):
                break
            kept.append((q, -i))
            total += q
        out = np.zeros(len(probabilities))
        for rank, (q, i) in enumerate(kept):
            out[i if place else rank] = q / (total if scale else 1)
        return out

    return top_p


def without_the_last(compare):
    """A learner's top-p as a mask over running sums; none may be left."""

    def top_p(probabilities, p):
        order = np.argsort(probabilities)[::-1]
        out = np.zeros(len(probabilities))
        kept = order[compare(np.cumsum(probabilities[order]), p)]
        out[kept] = probabilities[kept]
        return out / out.sum()

    return top_p


def no_smaller_than_a_share(probabilities, p):
    kept = np.array([q if q / max(probabilities) >= p else 0 for q in probabilities])
    return kept / sum(kept)


def softmax_of_the_kept(probabilities, p):
    kept = nucleus()(probabilities, p)
    e = np.array([math.exp(q) if k else 0 for q, k in zip(probabilities, kept, strict=True)])
    return e / e.sum()


def softmax_without_maximum(row):
    return np.log(np.exp(np.array(row)) / np.exp(np.array(row)).sum())


def log_softmax(logits, axis=1):
    shifted = logits - logits.max(axis=axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def own_ids(logits, ids):
    return -np.mean([log_softmax(logits)[t, ids[t]] for t in range(len(ids))])


def own_ids_without_maximum(logits, ids):
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return -np.mean([np.log(p[t, i]) for t, i in enumerate(ids)])


def over_all_tokens(logits, ids):
    return -sum(log_softmax(logits)[t, ids[t + 1]] for t in range(len(ids) - 1)) / len(ids)


def one_distribution(logits, ids):
    found = log_softmax(logits, axis=None)
    return -np.mean([found[t, ids[t + 1]] for t in range(len(ids) - 1)])


def surprise_in_place(logits, ids):
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return -logits[np.arange(len(ids) - 1), ids[1:]].mean()


def cut_in_place(probabilities, p):
    order = np.argsort(-probabilities)
    n = np.argmax(np.cumsum(probabilities[order]) >= p - 1e-12) + 1
    probabilities[order[n:]] = 0
    return probabilities / probabilities.sum()


def stream_in_place(x, w, eps, attention, feed_forward):
    x += attention(lesson.rms_norm(x, w["attn_norm"], eps), w)
    x += feed_forward(lesson.rms_norm(x, w["ffn_norm"], eps), w)
    return x


WRONG = [
    ("count_parameters", count(q=lambda c: c.dim, kv=lambda c: c.dim), "you count 4 * dim * dim"),
    ("layer_forward", stream_in_place, "you wrote into x"),
    ("surprise", own_ids, "nothing is shifted"),
    ("surprise", own_ids_without_maximum, "nothing is shifted"),
    ("surprise", over_all_tokens, "you divide by T"),
    ("surprise", one_distribution, "one distribution of the whole matrix"),
    ("surprise", surprise_in_place, "you wrote into logits"),
    ("top_p", cut_in_place, "you wrote into probabilities"),
    ("count_parameters", count(embedding=2), "the embedding twice"),
    ("count_parameters", count(kv=lambda c: c.n_heads * c.head_dim), "a head for each query"),
    ("count_parameters", count(q=lambda c: c.dim), "you take dim for n_heads * head_dim"),
    ("count_parameters", count(last=0), "output_norm, is missing"),
    ("count_parameters", count(norms=0, last=0), "the norms are missing"),
    ("count_parameters", count(norms=1), "a layer has two norms"),
    ("count_parameters", count(gates=2), "three matrices"),
    ("count_parameters", count(output=0), "attn_output is missing"),
    ("count_parameters", count(embedding=0), "the embedding is missing"),
    ("count_parameters", count(layers=1), "a model of one layer"),
    ("layer_forward", layer("n(x + f(x))", "n(x + f(x))"), "post-norm"),
    ("layer_forward", layer("x + n(f(x))", "x + n(f(x))"), "norm what it gets"),
    ("layer_forward", layer("f(n(x))", "f(n(x))"), "nothing is added"),
    ("layer_forward", layer(second="f(n(x))"), "the second half replaces"),
    ("layer_forward", layer(first="f(n(x))"), "attention replaces"),
    ("layer_forward", layer("n(x) + f(n(x))", "n(x) + f(n(x))"), "you add to the normed stream"),
    ("layer_forward", layer(second="n(x) + f(n(x))"), "the second half is added to its normed input"),
    ("layer_forward", layer(first="n(x) + f(n(x))"), "attention is added to its normed input"),
    ("layer_forward", layer("x + f(x)", "x + f(x)"), "both norms are missing"),
    ("layer_forward", layer(second="x + f(x)"), "the second norm is missing"),
    ("layer_forward", layer(first="x + f(x)"), "the first norm is missing"),
    ("layer_forward", both_halves_at_once, "from before attention"),
    ("layer_forward", layer(weights=("attn_norm", "attn_norm")), "weights of its own"),
    ("layer_forward", layer(weights=("ffn_norm", "attn_norm")), "are exchanged"),
    ("layer_forward", layer(second="x"), "the feed-forward half is missing"),
    ("surprise", nats(id_of=lambda t: t), "you look up token t itself"),
    ("surprise", nats(row_of=lambda t: t + 1), "which has seen it"),
    ("surprise", nats(log=log_without_maximum), "subtract each row's maximum"),
    ("surprise", nats(log=softmax_without_maximum), "subtract each row's maximum"),
    ("surprise", lambda logits, ids: -math.log(probabilities(logits, ids).mean()), "log of the mean"),
    ("surprise", lambda logits, ids: probabilities(logits, ids).mean(), "this is the mean probability"),
    ("surprise", nats(log=log_of_softmax), "may round to 0"),
    ("surprise", nats(mean=False), "this is the sum"),
    ("surprise", nats(sign=1), "the sign"),
    ("surprise", nats(unit=math.log(2)), "these are bits"),
    ("greedy", writes(new=lambda ids, found: ids + found), "behind themselves"),
    ("greedy", writes(new=lambda ids, found: ids), "again and again"),
    ("greedy", writes(new=lambda ids, found: found), "feed all new tokens"),
    ("greedy", writes(first=lambda ids: [ids[-1]]), "run the whole prompt first"),
    ("greedy", writes(answer=lambda ids, found: ids + found), "the prompt is in your answer"),
    ("greedy", writes(more=1), "one token too many"),
    ("greedy", starts_again_for_each_token, "run each token once"),
    ("greedy", too_small_a_cache, "more tokens do not fit"),
    ("top_p", nucleus(stop="before"), "you leave out the token that reaches p"),
    ("top_p", without_the_last(np.less), "you leave out the token that reaches p"),
    ("top_p", without_the_last(np.less_equal), "you leave out the token that reaches p"),
    ("top_p", nucleus(order=sorted), "begin with the least likely"),
    ("top_p", nucleus(order=list), "in the order of the ids"),
    ("top_p", nucleus(scale=False), "divide by its sum"),
    ("top_p", nucleus(stop="late"), "one too many"),
    ("top_p", no_smaller_than_a_share, "min-p"),
    ("top_p", nucleus(place=False), "yours are sorted"),
    ("top_p", softmax_of_the_kept, "softmax of probabilities"),
]


def by_threshold(probabilities, p):
    """The smallest probability that is kept, found from the sums of those above it."""
    above = np.array([probabilities[probabilities > q].sum() for q in probabilities])
    order = np.lexsort((np.arange(len(probabilities)), -probabilities))
    kept, total = np.zeros_like(probabilities), 0.0
    for i in order:
        if total < p and above[i] < p:
            kept[i], total = probabilities[i], total + probabilities[i]
    return kept / kept.sum()


RIGHT = {
    "count_parameters": [count()],
    "layer_forward": [layer()],
    "surprise": [nats()],
    "greedy": [writes()],
    "top_p": [nucleus(), by_threshold],
}


# The plain functions agree with the engine


@pytest.fixture(scope="module")
def model(austen_path):
    return b2t.load(austen_path)


def test_the_count_is_that_of_the_file(model, austen_path, smollm2_path):
    for one, path in ((model, austen_path), (b2t.load(smollm2_path), smollm2_path)):
        tensors = b2t.GGUFFile(path).tensors.values()
        assert lesson.count_parameters(one.config) == sum(math.prod(info.shape) for info in tensors)


def test_greedy_is_the_engine_s(model):
    ids = model.tokenizer.encode("She had been")
    assert lesson.greedy(model.transformer, ids, 12) == list(model.generate(ids, 12))


def test_surprise_is_the_engine_s(model):
    ids = model.tokenizer.encode("Mr. Darcy smiled at Elizabeth, and said nothing.")
    logits = model.logits(ids)
    assert lesson.surprise(logits, ids) == pytest.approx(b2t.perplexity(model, ids).nats, rel=1e-5)
    assert lesson.surprise(logits, ids) == pytest.approx(attention_maps.loss(logits, ids), rel=1e-5)


def test_top_p_keeps_what_the_sampler_keeps():
    logits = np.random.default_rng(0).standard_normal(200).astype(np.float32) * 2
    for p in (0.1, 0.5, 0.9):
        kept = np.flatnonzero(lesson.top_p(layers.softmax(logits.astype(np.float64)), p))
        sampler = b2t.Sampler(temperature=4.0, top_p=p, seed=0)
        drawn = {sampler(logits) for _ in range(40 * len(kept))}
        assert drawn == set(kept.tolist())


def test_the_toy_counts_on_every_token_and_its_place():
    toy = lesson.Toy([1, 2])
    cache = toy.new_cache(4)
    toy.next_logits([1, 2], cache)
    one_by_one = toy.next_logits([3], cache)
    other = SimpleNamespace(capacity=4, ids=[2, 1])
    assert not np.allclose(one_by_one, toy.next_logits([3], other))
    with pytest.raises(ValueError, match="do not fit"):
        toy.next_logits([1, 2], cache)
    with pytest.raises(ValueError, match="run each token once"):
        toy.next_logits([1, 2, 3], toy.new_cache(9))
