"""Lesson 27, pruning: which weights stay, what influence a layer has, smaller matrices, sparse bytes.

wanda_keep        W [N, K], X [T, K], share           -> bool [N, K]: which weights stay
two_of_four       scores [N, K]                       -> bool [N, K]: two of each four neighbours
block_influence   stream before and behind, [T, dim]  -> 1 - cosine, the mean over tokens
drop_neurons      gate, up, down, which stay          -> three smaller matrices
sparse_row        K, kept, bytes, bits                -> bytes of a row, share of zeros that breaks even
"""

from functools import partial

import numpy as np

from blocks2tokens.course.check.exercise import Exercise, Mistake
from blocks2tokens.prune import influence, masks, structure

# wanda_keep: W float32 [N, K], X float32 [T, K], share -> bool [N, K]


def wanda_keep(W, X, share):
    """Return which weights stay, bool [N, K]; W [N, K], inputs X [T, K]; `share` of each row goes."""
    scores = np.abs(W) * np.sqrt((X**2).sum(axis=0))
    order = np.argsort(scores, axis=1)  # the lowest first
    keep = np.full(W.shape, True)
    for row, places in zip(keep, order, strict=True):
        row[places[: int(share * W.shape[1])]] = False
    return keep


def matrix_cases():
    rng = np.random.default_rng(27)

    def case(N, K, T, share):
        W = rng.standard_normal((N, K)) * rng.uniform(0.2, 4, (N, 1))  # rows of unlike size
        X = rng.standard_normal((T, K)) * rng.uniform(0.2, 4, K) + rng.uniform(-1, 1, K)
        return W.astype(np.float32), X.astype(np.float32), share

    one = np.array([[1, -2, 3, 4]], np.float32), np.array([[8, 4, 1, 1]], np.float32), 0.5
    spikes = np.array([[8, 3], [0, 3], [0, 3], [0, 3]], np.float32)
    return {
        "one row, one token": one,
        "one token that brings much, or all a little": (np.ones((2, 2), np.float32), spikes, 0.5),
        "half of 3 rows of 8": case(3, 8, 5, 0.5),
        "a quarter of rows of 10, rounded down": case(4, 10, 6, 0.25),
        "0.7 of rows of 14, 9.8, rounded down": case(5, 14, 40, 0.7),
    }


def keep_with(
    W,
    X,
    share,
    size=np.abs,
    norm=lambda X: np.sqrt((X**2).sum(axis=0)),
    axis=1,
    count=int,
    flip=False,
):
    """Return the right mask with a place for each mistake."""
    scores = size(W) * norm(X)
    n = count(share * (W.size if axis is None else W.shape[axis]))
    order = np.argsort(scores, axis=axis, kind="stable")
    ranks = np.argsort(order, axis=axis).reshape(W.shape)
    return (ranks < n) if flip else (ranks >= n)


def argsort_for_ranks(scores, n):
    return np.argsort(scores, axis=1) >= n


def places_for_ranks(W, X, share):
    return argsort_for_ranks(np.abs(W) * np.linalg.norm(X, axis=0), int(share * W.shape[1]))


def pruned_weights(W, X, share):
    return np.where(wanda_keep(W, X, share), W, np.float32(0))


def as_many_stay(W, X, share):
    """Keep a share of each row instead of leaving it out."""
    ranks = np.argsort(np.argsort(np.abs(W) * np.sqrt((X**2).sum(axis=0)), axis=1), axis=1)
    return ranks >= W.shape[1] - int(share * W.shape[1])


WANDA = Exercise(
    name="wanda_keep",
    engine=wanda_keep,
    cases=matrix_cases,
    mistakes=(
        Mistake(
            partial(keep_with, norm=lambda X: 1.0),
            "this orders as magnitude does: multiply each weight's size by the norm of its own input column, "
            "K norms, axis=0",
        ),
        Mistake(
            partial(keep_with, size=lambda W: W),
            "the sign counts in your score: a weight of -3 does as much as one of 3, take its size",
        ),
        Mistake(
            partial(keep_with, axis=None),
            "you compare the whole matrix: rows of small weights lose nearly all of theirs. Each row gives "
            "up the same share",
        ),
        Mistake(
            partial(keep_with, axis=0),
            "you compare within columns: an output is a row, and each row gives up the same share",
        ),
        Mistake(
            partial(keep_with, flip=True),
            "upside down: True is what stays, and the lowest scores go",
        ),
        Mistake(
            partial(keep_with, norm=lambda X: np.abs(X.sum(axis=0))),
            "you sum the inputs before squaring: those of both signs cancel. A norm squares first",
        ),
        Mistake(
            partial(keep_with, norm=lambda X: (X**2).sum(axis=0)),
            "the square root is missing: without it the inputs count twice as much as the weights",
        ),
        Mistake(
            partial(keep_with, norm=lambda X: np.abs(X).sum(axis=0)),
            "you sum the sizes of the inputs: the norm is the root of the sum of their squares",
        ),
        Mistake(
            partial(keep_with, norm=lambda X: X.std(axis=0)),
            "you take how far the inputs spread about their mean: one that is always large multiplies, too",
        ),
        Mistake(
            partial(keep_with, norm=lambda X: np.abs(X).max(axis=0)),
            "you take the loudest input of each column: the norm counts all tokens",
        ),
        Mistake(
            places_for_ranks,
            "argsort says which place is the lowest, not how low a place is: use its first columns as places",
        ),
        Mistake(
            lambda W, X, share: np.abs(W) * np.linalg.norm(X, axis=0),
            "these are the scores: return which weights stay, True or False for each",
        ),
        Mistake(
            partial(keep_with, count=lambda n: int(np.ceil(n))),
            "right but for the rounding: share * K is rounded down, a row gives up no more",
        ),
        Mistake(
            partial(keep_with, count=round),
            "you round to the nearest: share * K is rounded down, of 9.8 weights 9 go",
        ),
        Mistake(
            pruned_weights,
            "these are the pruned weights: return which stay, True or False for each",
        ),
        Mistake(
            as_many_stay,
            "as much stays as should go: at a share of 0.25 three of four weights stay",
        ),
        Mistake(
            partial(keep_with, norm=lambda X: 1.0, axis=None),
            "two steps are missing: the norm of each input column, and rows that are compared with "
            "themselves alone",
        ),
    ),
    hints=(
        "One norm for each column of X, K of them: how large is what this column usually brings? It "
        "multiplies a whole column of sizes.",
        "np.argsort(scores, axis=1) says for each row where its lowest scores are. Begin with a mask of "
        "True, and write False at the first so many of these places.",
    ),
    twin=masks.keep_rows,
)


# two_of_four: scores float32 [N, K] -> bool [N, K]


def two_of_four(scores):
    """Return which weights stay, bool [N, K]: of each four neighbours in a row the two highest scores."""
    fours = scores.reshape(-1, 4)
    keep = np.full(fours.shape, True)
    for four, places in zip(keep, np.argsort(fours, axis=1, kind="stable"), strict=True):
        four[places[:2]] = False
    return keep.reshape(scores.shape)


def score_cases():
    rng = np.random.default_rng(28)

    def case(N, K):
        return (rng.permutation(N * K).reshape(N, K).astype(np.float32),)

    return {
        "one row of four": (np.array([[3, 9, 1, 5]], np.float32),),
        "the high ones together": (np.array([[9, 8, 7, 6, 1, 2, 3, 4]], np.float32),),
        "two rows of eight": case(2, 8),
        "four rows of twelve": case(4, 12),
        "equal scores: the first two go": (np.repeat(np.array([[1, 0], [1, 1]], np.float32), 4, axis=1),),
    }


def two_with(scores, groups=None, flip=False, n=2):
    """Return the right mask with a place for each mistake."""
    N, K = scores.shape
    groups = groups or (lambda s: s.reshape(-1, 4))
    place = groups(np.arange(scores.size).reshape(N, K))
    fours = scores.reshape(-1)[place]
    ranks = np.argsort(np.argsort(fours, axis=1, kind="stable"), axis=1)
    keep = (ranks < n) if flip else (ranks >= fours.shape[1] - n)
    back = np.empty(scores.size, bool)
    back[place] = keep
    return back.reshape(N, K)


def places_of_four(scores):
    return argsort_for_ranks(scores.reshape(-1, 4), 2).reshape(scores.shape)


def half_of_each_row(scores):
    ranks = np.argsort(np.argsort(scores, axis=1, kind="stable"), axis=1)
    return ranks >= scores.shape[1] // 2


def above_the_second(scores):
    fours = scores.reshape(-1, 4)
    return (fours >= np.sort(fours, axis=1)[:, 2:3]).reshape(scores.shape)


def last_of_equals(scores):
    """Keep the first of equal scores."""
    fours = scores.reshape(-1, 4)
    order = np.argsort(-fours, axis=1, kind="stable")
    keep = np.zeros(fours.shape, bool)
    np.put_along_axis(keep, order[:, :2], True, axis=1)
    return keep.reshape(scores.shape)


def best_scores(scores):
    return np.where(two_of_four(scores), scores, np.float32(0))


def above_the_mean(scores):
    fours = scores.reshape(-1, 4)
    return (fours > fours.mean(axis=1, keepdims=True)).reshape(scores.shape)


def above_the_median(scores):
    fours = scores.reshape(-1, 4)
    return (fours > np.median(fours, axis=1, keepdims=True)).reshape(scores.shape)


def quarters_apart(scores):
    """Take as a group what is a quarter of the matrix apart."""
    fours = scores.reshape(4, -1).T
    return two_of_four(np.ascontiguousarray(fours)).T.reshape(scores.shape)


TWO_OF_FOUR = Exercise(
    name="two_of_four",
    engine=two_of_four,
    cases=score_cases,
    mistakes=(
        Mistake(
            half_of_each_row,
            "half of each row stays, but not two of each four: four high neighbours keep all, others nothing",
        ),
        Mistake(
            partial(two_with, groups=lambda p: p.T.reshape(-1, 4)),
            "your groups run down a column: the four are neighbours in a row",
        ),
        Mistake(
            partial(two_with, groups=lambda p: p.reshape(len(p), 4, -1).swapaxes(1, 2).reshape(-1, 4)),
            "your groups take every so many columns: the four are neighbours, columns 0 to 3, 4 to 7, ...",
        ),
        Mistake(
            partial(two_with, flip=True),
            "upside down: the two highest of each four stay",
        ),
        Mistake(
            partial(two_with, n=1),
            "one of each four stays: it should be two",
        ),
        Mistake(
            partial(two_with, n=3),
            "three of each four stay: it should be two",
        ),
        Mistake(
            best_scores,
            "these are scores: return which weights stay, True or False for each",
        ),
        Mistake(
            lambda scores: two_of_four(scores).reshape(-1, 4),
            "right, but in rows of four: give the mask the shape of the scores again",
        ),
        Mistake(
            quarters_apart,
            "reshape(4, -1) makes four long rows, and your groups run across them: reshape(-1, 4) has four "
            "neighbours in each row",
        ),
        Mistake(
            places_of_four,
            "argsort says which of the four is the lowest, not how low each is: use its first two as places",
        ),
        Mistake(
            lambda scores: two_of_four(scores) & (scores != 0),
            "right until a score that stays is 0: ask which stay, not which are left above 0",
        ),
        Mistake(
            above_the_mean,
            "you keep what is above the mean, and that may be one of four, or three: it should be two",
        ),
        Mistake(
            above_the_median,
            "right until scores are equal: then none is above the median, and two should stay all the same",
        ),
        Mistake(
            above_the_second,
            "right until scores are equal: a threshold lets all of them through, and then more than two stay",
        ),
        Mistake(
            last_of_equals,
            "right until scores are equal: of those the first go, so sort from below, kind='stable'",
        ),
    ),
    hints=(
        "reshape puts four neighbours in a row of their own: which shape? Then each such row is a small "
        "case of the exercise before.",
        "np.argsort(..., axis=1, kind='stable') on the rows of four: its first two columns are the places "
        "that go. In the end the old shape.",
    ),
    twin=masks.keep_pattern,
)


# block_influence: before, after float32 [T, dim] -> float


def block_influence(before, after):
    """Return how far a layer turns the stream: 1 - cosine, the mean over tokens; both [T, dim]."""
    dots = (before * after).sum(axis=1)
    lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    return float(np.mean(1 - dots / lengths))


def stream_cases():
    rng = np.random.default_rng(29)

    def case(T, dim, step, grow=1.0):
        before = rng.standard_normal((T, dim)) * rng.uniform(0.5, 5, (T, 1)) + 0.5
        after = grow * before + step * rng.standard_normal((T, dim))
        return before.astype(np.float32), after.astype(np.float32)

    right = np.array([[3, 0], [1, 2], [2, 1]], np.float32), np.array([[0, 5], [2, 4], [4, 2]], np.float32)
    back = np.array([[2, 1], [1, 3]], np.float32), np.array([[-4, -2], [2, 1]], np.float32)
    return {
        "one token turned by 90 degrees, two not": right,
        "one token turned round": back,
        "a small step": case(6, 8, 0.3),
        "a large step": case(5, 16, 3.0),
        "three times as long": case(4, 8, 0.5, grow=3.0),
    }


def influence_with(
    before, after, of=lambda b, a: (b, a), axis=1, total=np.mean, one=1.0, sign=-1.0, dot=lambda d: d, power=1
):
    """Return the right number with a place for each mistake."""
    b, a = of(before.astype(np.float64), after.astype(np.float64))
    dots = dot((b * a).sum(axis=axis))
    cosines = dots / (np.linalg.norm(b, axis=axis) * np.linalg.norm(a, axis=axis)) ** power
    return float(total(one + sign * cosines))


def together(before, after):
    return influence_with(before.reshape(1, -1), after.reshape(1, -1))


def not_divided(before, after):
    return float(np.mean(1 - (before.astype(np.float64) * after).sum(axis=1)))


def distance(before, after):
    return float(np.mean(np.linalg.norm((after - before).astype(np.float64), axis=1)))


def of_each_token(before, after):
    return np.array([influence_with(b[None], a[None]) for b, a in zip(before, after, strict=True)])


def every_pair(before, after):
    before, after = before.astype(np.float64), after.astype(np.float64)
    lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    return float(np.mean(1 - before @ after.T / lengths))


def lengths_of_all(before, after):
    before, after = before.astype(np.float64), after.astype(np.float64)
    return float(np.mean(1 - (before * after).sum(axis=1) / np.linalg.norm(before) / np.linalg.norm(after)))


def one_less_the_sum(before, after):
    return 1 - len(before) * (1 - influence_with(before, after))


INFLUENCE = Exercise(
    name="block_influence",
    engine=block_influence,
    cases=stream_cases,
    mistakes=(
        Mistake(
            partial(influence_with, one=0.0, sign=1.0),
            "this is the cosine, 1 where a layer does nothing: its influence is 1 less that",
        ),
        Mistake(
            not_divided,
            "the dot product is not divided by the two lengths: only then is it a cosine",
        ),
        Mistake(
            partial(influence_with, axis=0),
            "you compare column by column: a token is a row, so sum over axis 1",
        ),
        Mistake(
            together,
            "you take all tokens as one long vector: those with a long stream then count for most. One "
            "cosine for each token, then the mean",
        ),
        Mistake(
            partial(influence_with, total=np.sum),
            "this is the sum over the tokens: take their mean, or a longer text has more influence",
        ),
        Mistake(
            partial(influence_with, of=lambda b, a: (b, a - b)),
            "you compare the stream with what the layer adds: compare it with the stream behind the layer",
        ),
        Mistake(
            of_each_token,
            "these are the tokens' own numbers: the influence is their mean",
        ),
        Mistake(
            every_pair,
            "@ multiplies every token with every other, [T, T]: each is compared with itself alone",
        ),
        Mistake(
            partial(influence_with, dot=np.abs),
            "the sign of the cosine counts: a stream that is turned round has moved most, its influence is 2",
        ),
        Mistake(
            partial(influence_with, power=2),
            "you divide by the squares of the lengths: a length is the root of the sum of squares",
        ),
        Mistake(
            partial(influence_with, dot=lambda dots: dots[:, None]),
            "a column [T, 1] divided by a row [T] is [T, T], every token with every other: leave out "
            "keepdims, or keep it everywhere",
        ),
        Mistake(
            lengths_of_all,
            "without an axis, norm gives one length for all tokens together: each has its own, axis=1",
        ),
        Mistake(
            one_less_the_sum,
            "you take the sum of the cosines from 1: take their mean",
        ),
        Mistake(
            distance,
            "this is a distance: a layer that only stretches the stream would have much influence",
        ),
    ),
    hints=(
        "For each token: the dot product of its two rows, and two lengths. What is the cosine of two "
        "vectors that point the same way?",
        "(before * after).sum(axis=1) are the T dot products, np.linalg.norm(before, axis=1) the lengths of "
        "one side. Of T cosines, take each from one, and average.",
    ),
    tolerance=1e-4,
    twin=influence.cosines,
)


# drop_neurons: gate, up float32 [ffn, dim], down float32 [dim, ffn], keep int [n] -> three matrices


def drop_neurons(gate, up, down, keep):
    """Return gate and up, [n, dim], and down, [dim, n], with the n neurons in `keep` alone."""
    gate, up = gate[keep], up[keep]
    down = down[:, keep].copy()  # an array of its own, in a row in memory
    return gate, up, down


def neuron_cases():
    rng = np.random.default_rng(30)

    def case(ffn, dim, keep):
        shapes = (ffn, dim), (ffn, dim), (dim, ffn)
        return (*(rng.standard_normal(shape).astype(np.float32) for shape in shapes), np.array(keep))

    return {
        "5 of 8": case(8, 10, [0, 2, 3, 6, 7]),  # a place of a neuron is one of a column, too
        "as many neurons as columns": case(6, 6, [1, 2, 5]),
        "one of 4": case(4, 5, [2]),
        "7 of 12": case(12, 12, [0, 1, 4, 5, 8, 9, 11]),
    }


def others(ffn, keep):
    return np.setdiff1d(np.arange(ffn), keep)


def zeros_instead(gate, up, down, keep):
    gate, up, down = (x.copy() for x in (gate, up, down))
    gone = others(len(gate), keep)
    gate[gone], up[gone], down[:, gone] = 0, 0, 0
    return gate, up, down


DROP = Exercise(
    name="drop_neurons",
    engine=drop_neurons,
    cases=neuron_cases,
    mistakes=(
        Mistake(
            lambda gate, up, down, keep: (gate[keep], up[keep], down),
            "down still has a column for every neuron: what is cut from gate and up is missing as its input",
        ),
        Mistake(
            lambda gate, up, down, keep: (gate, up[keep], down[:, keep]),
            "gate still has all its rows: each neuron is a row of gate and a row of up, they meet in pairs",
        ),
        Mistake(
            lambda gate, up, down, keep: (gate[keep], up, down[:, keep]),
            "up still has all its rows: each neuron is a row of gate and a row of up, they meet in pairs",
        ),
        Mistake(
            lambda gate, up, down, keep: (gate[keep], up[keep], down[keep]),
            "you cut rows of down: its rows are outputs into the stream, a neuron is one of its columns",
        ),
        Mistake(
            lambda gate, up, down, keep: (gate[:, keep], up[:, keep], down[keep]),
            "rows and columns are exchanged: a neuron is a row of gate and up, and a column of down",
        ),
        Mistake(
            lambda gate, up, down, keep: (
                gate[others(len(gate), keep)],
                up[others(len(gate), keep)],
                down[:, others(len(gate), keep)],
            ),
            "upside down: `keep` are the neurons that stay",
        ),
        Mistake(
            lambda gate, up, down, keep: (gate[keep], up[keep], down[:, keep].T),
            "down lies on its side: its neurons are columns, before and after, [dim, n]",
        ),
        Mistake(
            lambda gate, up, down, keep: (up[keep], gate[keep], down[:, keep]),
            "gate and up are exchanged: return them in the order in which they came",
        ),
        Mistake(
            zeros_instead,
            "zeros are bytes like any others: take rows and columns out, so that the matrices are smaller",
        ),
        Mistake(
            lambda gate, up, down, keep: (gate[: len(keep)], up[: len(keep)], down[:, : len(keep)]),
            "you keep the first so many: `keep` says which",
        ),
    ),
    hints=(
        "Where does neuron 3 have its numbers? Follow h through gate and up, [ffn], and from there through "
        "down, [dim].",
        "An array of places in the brackets picks rows, W[places]; with a colon before the comma, columns.",
    ),
    twin=structure.cut,
)


# sparse_row: K, kept, value_bytes, dense_bits -> bytes, share


def sparse_row(K, kept, value_bytes, dense_bits):
    """Return the bytes of a sparse row, and the share of zeros at which a dense one weighs as much."""
    # and in the engine: break_even in course/lessons/pruning/sparse_rows.py
    n_bytes = kept * (1 + value_bytes) + 4 * K // 256
    starts = 8 * 4 / 256  # bits for each weight, kept or not
    share = 1 - (dense_bits - starts) / (8 * (1 + value_bytes))
    return n_bytes, share


def row_cases():
    return {
        "half of 4,096 kept in F16, against F16": (4096, 2048, 2, 16),
        "half of 4,096 kept in F32, against F32": (4096, 2048, 4, 32),
        "a tenth of 1,024 kept in F16, against Q4_K": (1024, 102, 2, 4.5),
        "nothing kept of 512": (512, 0, 2, 8.5),
        "all kept of 256": (256, 256, 4, 32),
    }


def row_with(
    K, kept, value_bytes, dense_bits, place=1, start=4, one=lambda share: share, bits=8, start_bits=8
):
    """Return the right answer with a place for each mistake."""
    n_bytes = kept * (place + value_bytes) + start * K // 256
    starts = start_bits * start / 256
    return n_bytes, one(1 - (dense_bits - starts) / (bits * (place + value_bytes)))


SPARSE = Exercise(
    name="sparse_row",
    engine=sparse_row,
    cases=row_cases,
    mistakes=(
        Mistake(
            partial(row_with, place=0),
            "the places are missing: each kept weight has a byte that says where it stands",
        ),
        Mistake(
            partial(row_with, start=0),
            "the starts are missing: each group of 256 columns has one, of 4 bytes, kept or not",
        ),
        Mistake(
            partial(row_with, place=2),
            "two bytes for a place: within a group of 256 columns one byte tells all of them apart",
        ),
        Mistake(
            partial(row_with, start=1),
            "a start is an int32, 4 bytes: it counts all weights before it, in all rows",
        ),
        Mistake(
            partial(row_with, one=lambda share: 1 - share),
            "this is the share of kept weights: asked for is that of zeros, one less it",
        ),
        Mistake(
            partial(row_with, bits=1),
            "bits are compared with bytes: a kept weight takes 8 * (1 + value_bytes) bits",
        ),
        Mistake(
            lambda K, kept, value_bytes, dense_bits: (
                kept * (1 + value_bytes) + 4,
                sparse_row(K, kept, value_bytes, dense_bits)[1],
            ),
            "one start for the whole row: each group of 256 columns has its own",
        ),
        Mistake(
            lambda K, kept, value_bytes, dense_bits: (
                sparse_row(K, kept, value_bytes, dense_bits)[0],
                1 - kept / K,
            ),
            "this is the share of zeros of this very row: asked for is the one at which sparse and dense "
            "have as many bytes",
        ),
        Mistake(
            partial(row_with, one=lambda share: 100 * share),
            "the share is in percent: it should be between 0 and 1",
        ),
        Mistake(
            lambda K, kept, value_bytes, dense_bits: (
                sparse_row(K, kept, value_bytes, dense_bits)[0],
                1 - (dense_bits + 8 * 4 / 256) / (8 * (1 + value_bytes)),
            ),
            "in the share the starts are on the wrong side: they are bytes of the sparse row, so less is "
            "left for what is kept",
        ),
        Mistake(
            partial(row_with, start_bits=0),
            "the bytes are right; in the share the starts are missing, 4 bytes for 256 weights, kept or not",
        ),
        Mistake(
            partial(row_with, start_bits=1),
            "the bytes are right; in the share you take bytes of the starts from bits: they have 8 * 4 / 256 "
            "bits a weight",
        ),
        Mistake(
            partial(row_with, place=0, start=0),
            "you count the values alone: each has a place, and each group of 256 columns a start",
        ),
        Mistake(
            lambda K, kept, value_bytes, dense_bits: (
                sparse_row(K, kept, value_bytes, dense_bits)[0],
                1 - sparse_row(K, kept, value_bytes, dense_bits)[0] / (K * dense_bits / 8),
            ),
            "this is the share of the bytes that this very row saves: asked for is the share of zeros at "
            "which nothing is saved",
        ),
        Mistake(
            lambda K, kept, value_bytes, dense_bits: (
                8 * sparse_row(K, kept, value_bytes, dense_bits)[0],
                sparse_row(K, kept, value_bytes, dense_bits)[1],
            ),
            "these are bits: the first value is in bytes",
        ),
    ),
    hints=(
        "Three arrays: a value and a place for each kept weight, a start for each group. Which of them "
        "shrink with the share of zeros?",
        "For each weight of a row, in bits: dense_bits on one side; on the other the starts, always, and "
        "with probability 1 - share a value and its place. Solve for the share.",
    ),
    tolerance=1e-6,  # float32 will do
    parts=("bytes", "share"),
)

EXERCISES = [WANDA, TWO_OF_FOUR, INFLUENCE, DROP, SPARSE]
