"""Lesson 23, flash attention: a tile at a time, parts joined, tiles skipped, what is held, what it is worth.

absorb_tile    best, total, out, scores, values [n]    -> best, total, out
join_parts     two times best, total, out              -> best, total, out
tiles_seen     block of queries, position, tile        -> tiles without a mask, tiles with one
bytes_held     way, shape, block, tile                 -> bytes at one moment
overtakes_at   weights of a layer, heads, head_dim     -> tokens of a prompt
"""

from functools import partial
from operator import ge, gt

import numpy as np

from blocks2tokens.course.check.exercise import Exercise, Mistake

# absorb_tile: best, total, out [dim], scores [n], values [n, dim] -> best, total, out


def absorb_tile(best, total, out, scores, values):
    """Take a tile in; return best, total and out, [dim]; scores float32 [n], values [n, dim]."""
    # and in the engine: softmax_row in model/attention_tile.py
    highest = max(best, scores.max())
    shrink, weights = np.exp(best - highest), np.exp(scores - highest)
    return highest, shrink * total + weights.sum(), shrink * out + weights @ values


def tile_cases():
    rng = np.random.default_rng(23)
    values = rng.integers(1, 10, (4, 3)).astype(np.float32)
    out = np.array([2, 5, 1.5], np.float32)

    def case(best, total, scores):
        scores = np.array(scores, np.float32)
        state = np.float32(best), np.float32(total), out if total else 0 * out
        return *state, scores, values[: len(scores)]

    return {
        "the first tile": case(-np.inf, 0.0, [1, 3, 2, 0.5]),
        "lower scores": case(4.0, 1.25, [1, 3, 2, 0.5]),
        "one higher score": case(2.0, 1.25, [1, 3, 2, 0.5]),
        "a tile of one": case(0.5, 1.5, [1.5]),
        "scores below 0": case(-4.0, 1.75, [-6, -9, -3]),
        "a thousand higher": case(2.0, 3.5, [1002, 1001]),
        "a thousand lower": case(1002.0, 1.0, [2, 1]),
    }


def tile_with(
    best,
    total,
    out,
    scores,
    values,
    highest=lambda best, scores: max(best, scores.max()),
    shrink=lambda best, top: np.exp(best - top),
    shrink_out=None,
    weigh=lambda scores, best, top: np.exp(scores - top),
    divide=False,
):
    """Return the right answer with a place for each mistake."""
    top = highest(best, scores)
    weights = weigh(scores, best, top)
    total = shrink(best, top) * total + weights.sum()
    out = (shrink_out or shrink)(best, top) * out + weights @ values
    return top, total, out / total if divide else out


def as_it_was(best, top):
    return 1.0


def values_alike(best, total, out, scores, values):
    top, total, _ = absorb_tile(best, total, out, scores, values)
    return top, total, np.exp(best - top) * out + values.sum(axis=0)


def start_anew(best, total, out, scores, values):
    if scores.max() > best:
        best, total, out = -np.inf, 0.0, 0 * out
    return absorb_tile(best, total, out, scores, values)


def divided_weights(best, total, out, scores, values):
    top, new_total, _ = absorb_tile(best, total, out, scores, values)
    weights = np.exp(scores - top)
    return top, new_total, np.exp(best - top) * out + weights / weights.sum() @ values


def total_first(best, total, out, scores, values):
    top, total, out = absorb_tile(best, total, out, scores, values)
    return total, top, out


ABSORB_TILE = Exercise(
    name="absorb_tile",
    engine=absorb_tile,
    cases=tile_cases,
    mistakes=(
        Mistake(
            partial(tile_with, shrink=as_it_was),
            "nothing shrinks: total and out were made with the old best, so both need exp(best - highest)",
        ),
        Mistake(
            partial(tile_with, shrink_out=as_it_was),
            "total shrinks, out does not: both were made with the old best",
        ),
        Mistake(
            partial(tile_with, shrink=as_it_was, shrink_out=lambda best, top: np.exp(best - top)),
            "out shrinks, total does not: both were made with the old best",
        ),
        Mistake(
            partial(tile_with, highest=lambda best, scores: scores.max()),
            "best falls when a tile has lower scores: what came before then grows without limit",
        ),
        Mistake(
            partial(tile_with, highest=lambda best, scores: best),
            "best never rises: a higher score gives exp a large number, and the first tile infinity",
        ),
        Mistake(
            partial(tile_with, weigh=lambda scores, best, top: np.exp(scores - scores.max())),
            "the tile is weighed against its own largest score: subtract the highest of all so far",
        ),
        Mistake(
            partial(tile_with, shrink=lambda best, top: np.exp(top - best)),
            "it grows where it must shrink: the factor is exp(best - highest), at most 1",
        ),
        Mistake(
            partial(tile_with, weigh=lambda scores, best, top: np.exp(scores)),
            "the tile's weights are measured against nothing: subtract highest before exp, as for all others",
        ),
        Mistake(
            partial(tile_with, weigh=lambda scores, best, top: np.exp(scores - best)),
            "the tile is weighed against the old best, and in the first tile against -inf: subtract highest",
        ),
        Mistake(
            start_anew,
            "a better tile starts anew with you: what came before still counts, less than it did, by "
            "exp(best - highest)",
        ),
        Mistake(
            divided_weights,
            "you divide the tile's weights by their sum: nothing is divided before the last tile is in",
        ),
        Mistake(
            values_alike,
            "every value counts the same in out: each is multiplied by its own weight, weights @ values",
        ),
        Mistake(
            total_first,
            "best and total have changed places",
        ),
        Mistake(
            partial(tile_with, divide=True),
            "you divide by the total after each tile: that is done once, after the last",
        ),
    ),
    hints=(
        "As in lesson 20, with many scores at once: one new best for the whole tile, one factor for what was "
        "there, one exp for each score.",
        "highest = max(best, scores.max()). The tile's share of out is weights @ values.",
    ),
    tolerance=1e-5,
    parts=("best", "total", "out"),
)


# join_parts: two times best, total, out [dim] -> best, total, out


def join_parts(best, total, out, best2, total2, out2):
    """Join what two parts of the keys gave; return best, total and out, [dim], of both."""
    # and in the engine: join_parts in model/split_attention.py
    highest = max(best, best2)
    a, b = np.exp(best - highest), np.exp(best2 - highest)
    return highest, a * total + b * total2, a * out + b * out2


def part_cases():
    a, b = np.array([2, 5, 1.5], np.float32), np.array([4, 1, 3], np.float32)
    return {
        "the second is better": (1.0, 1.5, a, 3.0, 1.25, b),
        "the first is better": (3.0, 1.5, a, 1.0, 2.25, b),
        "both alike": (0.5, 1.5, a, 0.5, 2.0, b),
        "below 0": (-4.0, 1.5, a, -5.0, 1.25, b),
        "a thousand apart": (1002.0, 1.5, a, 2.0, 3.0, b),
        "a first part that saw nothing": (-np.inf, 0.0, 0 * a, 2.0, 3.0, b),
        "a second part that saw nothing": (2.0, 1.5, a, -np.inf, 0.0, 0 * b),
    }


def to_one_best(best, best2, top):
    return np.exp(best - top), np.exp(best2 - top)


def joined_with(
    best,
    total,
    out,
    best2,
    total2,
    out2,
    highest=max,
    factors=to_one_best,
    of_out=None,
    divide=False,
):
    """Return the right answer with a place for each mistake."""
    top = highest(best, best2)
    a, b = factors(best, best2, top)
    total = a * total + b * total2
    a, b = (of_out or factors)(best, best2, top)
    out = a * out + b * out2
    return top, total, out / total if divide else out


def plainly(best, best2, top):
    return 1.0, 1.0


def second_alone(best, best2, top):
    return 1.0, np.exp(best2 - top)


def first_alone(best, best2, top):
    return np.exp(best - top), 1.0


def better_part(best, total, out, best2, total2, out2, beats=ge):
    return (best, total, out) if beats(best, best2) else (best2, total2, out2)


def divided_parts(best, total, out, best2, total2, out2):
    return joined_with(
        best, total, out / total if total else out, best2, total2, out2 / total2 if total2 else out2
    )


def mean_of_parts(best, total, out, best2, total2, out2):
    return max(best, best2), (total + total2) / 2, (out + out2) / 2


def by_totals(best, total, out, best2, total2, out2):
    return max(best, best2), total + total2, (total * out + total2 * out2) / (total + total2)


ONE_DROPPED = "you keep the better part and drop the other: it counts too, by exp(its best - highest)"

JOIN = Exercise(
    name="join_parts",
    engine=join_parts,
    cases=part_cases,
    mistakes=(
        Mistake(
            partial(joined_with, factors=plainly),
            "you add the parts as they are: each was measured against its own best",
        ),
        Mistake(
            partial(joined_with, of_out=plainly),
            "the totals are brought to one best, the outs are not",
        ),
        Mistake(
            partial(joined_with, factors=plainly, of_out=to_one_best),
            "the outs are brought to one best, the totals are not",
        ),
        Mistake(
            partial(joined_with, factors=second_alone),
            "one part alone is brought to the new best: either of them may have the lower one",
        ),
        Mistake(
            partial(joined_with, factors=first_alone),
            "one part alone is brought to the new best: either of them may have the lower one",
        ),
        Mistake(better_part, ONE_DROPPED),
        Mistake(partial(better_part, beats=gt), ONE_DROPPED),
        Mistake(
            divided_parts,
            "you divide each out by its total: parts are joined undivided, and divided once, at the end",
        ),
        Mistake(
            partial(joined_with, factors=lambda best, best2, top: (np.exp(best2 - top), np.exp(best - top))),
            "the factors have changed places: a part is shrunk by its own distance from the highest best",
        ),
        Mistake(
            by_totals,
            "out is not divided yet, so it needs no weighing by totals: both outs shrink as the totals do",
        ),
        Mistake(
            partial(joined_with, highest=min),
            "the lower best is kept: the better part's factor then overflows",
        ),
        Mistake(
            mean_of_parts,
            "the mean of two parts: a part counts by its total, measured against one best",
        ),
        Mistake(
            partial(joined_with, divide=True),
            "you divide by the total: joined parts may be joined again, so that is done once, at the end",
        ),
    ),
    hints=(
        "A part is what absorb_tile returns after its last tile. What would the totals be, had both parts "
        "been measured against the higher best?",
        "Two factors, exp(own best - highest); one of them is 1. Both totals and both outs get theirs.",
    ),
    tolerance=1e-5,
    parts=("best", "total", "out"),
)


# tiles_seen: position, first, n, tile -> tiles that all see, tiles that need a mask


def tiles_seen(position, first, n, tile):
    """Return how many tiles of keys all of n queries see whole, and how many some see in part.

    Query t sees the keys 0 to position + t; the block is the queries `first` to first + n - 1.
    """
    # and in the engine: attend_block in model/batch_attention.py goes through them
    all_see, some_see = position + first + 1, position + first + n
    whole = all_see // tile
    return whole, -(-some_see // tile) - whole


def block_cases():
    return {
        "the first block of 16, tiles of 64": (0, 0, 16, 64),
        "the block at 64": (0, 64, 16, 64),
        "the last block before a tile's end": (0, 48, 16, 64),
        "behind 100 tokens": (100, 32, 16, 64),
        "one query at a tile's end": (0, 63, 1, 64),
        "one query before a tile's end": (0, 62, 1, 64),
        "a last query that begins a tile": (5, 44, 16, 64),
        "blocks as long as tiles": (0, 128, 64, 64),
        "a block longer than tiles": (0, 32, 32, 8),
        "behind 8,000 tokens": (8000, 176, 16, 64),
    }


def seen_with(
    position,
    first,
    n,
    tile,
    own=1,
    floor=lambda x, tile: -(-x // tile),
    behind=1,
    last=lambda n: n - 1,
    rest=True,
):
    """Return the right answer with a place for each mistake."""
    start = behind * position + first
    whole = (start + own) // tile
    end = floor(start + last(n) + own, tile)
    return whole, end - whole if rest else end


def rounded_up_first(position, first, n, tile):
    whole = -(-(position + first + 1) // tile)
    return whole, -(-(position + first + n) // tile) - whole


def by_the_last(position, first, n, tile):
    some_see = position + first + n
    return some_see // tile, int(some_see % tile > 0)


TILES = Exercise(
    name="tiles_seen",
    engine=tiles_seen,
    cases=block_cases,
    mistakes=(
        Mistake(
            partial(seen_with, own=0),
            "off by one: a query sees its own token, so query t sees position + t + 1 keys",
        ),
        Mistake(
            partial(seen_with, own=2, last=lambda n: n - 2),
            "off by one: the block's first query sees position + first + 1 keys, not the one after its own",
        ),
        Mistake(
            partial(seen_with, own=2),
            "off by one: a query sees no token after its own, so query t sees position + t + 1 keys",
        ),
        Mistake(
            partial(seen_with, own=0, last=lambda n: n),
            "off by one: the block's first query sees its own token too, position + first + 1 keys",
        ),
        Mistake(
            lambda position, first, n, tile: tiles_seen(position, 0, n, tile),
            "right for the first block alone: this one begins at query `first`, behind that many more",
        ),
        Mistake(
            partial(seen_with, floor=lambda x, tile: x // tile + 1),
            "rounded up wrongly: x // tile + 1 is one too many where x is a multiple of tile. -(-x // tile) "
            "rounds up",
        ),
        Mistake(
            rounded_up_first,
            "a tile that the first query sees only in part is not seen whole: round down there",
        ),
        Mistake(
            partial(seen_with, behind=0),
            "right without a cache alone: the queries stand behind `position` other tokens",
        ),
        Mistake(
            partial(seen_with, last=lambda n: 0),
            "you stop where the block's first query stops: its last one sees further",
        ),
        Mistake(
            partial(seen_with, last=lambda n: n - 2),
            "off by one at the end: the last query, first + n - 1, sees its own token, too",
        ),
        Mistake(
            partial(seen_with, floor=lambda x, tile: x // tile),
            "the last tile is lost when it is not full: round up",
        ),
        Mistake(
            partial(seen_with, rest=False),
            "the second number is that of all tiles: of those with a mask, subtract the whole ones",
        ),
        Mistake(
            lambda position, first, n, tile: tiles_seen(position, first, n, tile)[::-1],
            "the two numbers have changed places: first the tiles that all see whole",
        ),
        Mistake(
            lambda position, first, n, tile: (tiles_seen(position, first, n, tile)[0], 1),
            "always one with a mask: a block may end with a tile, or reach over several",
        ),
        Mistake(
            by_the_last,
            "you ask what the last query sees whole: the first one sees less, and its tiles need a mask",
        ),
        Mistake(
            lambda position, first, n, tile: (0, -(-(position + first + n) // tile)),
            "every tile has a mask: those that end at or before the first query's own token need none",
        ),
    ),
    hints=(
        "Two queries decide: the block's first, for what all see, and its last, for what some see. How many "
        "keys does each see?",
        "The first sees position + first + 1 keys: so many // tile whole tiles. The last sees n - 1 more, "
        "rounded up to tiles.",
    ),
    parts=("whole", "in part"),
)


# bytes_held: way, n_heads, group, T, S, head_dim, block, tile -> bytes


def bytes_held(way, n_heads, group, T, S, head_dim, block, tile):
    """Return the bytes that one worker holds beside q, k, v and what it returns, at one moment; float32.

    "whole": the scores of all heads. "row": those of one query of one head. "tile": a tile of keys and
    values; of `block` queries of `group` heads a copy, their scores, out, best and total.
    """
    # and in the engine: room_floats in model/attention_tile.py, with padding and the keys turned
    if way == "whole":
        return 4 * n_heads * T * S
    if way == "row":
        return 4 * S
    rows = group * block
    return 4 * (2 * tile * head_dim + rows * (2 * head_dim + tile + 2))


WAYS = ("whole", "row", "tile")


def held_cases():
    shapes = {
        "SmolLM2, 512 tokens": (9, 3, 512, 512, 64, 16, 64),
        "SmolLM2, 512 behind 7,680": (9, 3, 512, 8192, 64, 16, 64),
        "32 heads that share nothing": (32, 1, 100, 100, 128, 64, 64),
    }
    return {f"{way}, {label}": (way, *shape) for label, shape in shapes.items() for way in WAYS}


def held_with(
    way,
    n_heads,
    group,
    T,
    S,
    head_dim,
    block,
    tile,
    number=4,
    heads=lambda n: n,
    square=False,
    shared=lambda group: group,
    copies=2,
    tiles=2,
    states=2,
    row=1,
):
    """Return the right count with a place for each mistake."""
    if way == "whole":
        return number * heads(n_heads) * T * (T if square else S)
    if way == "row":
        return number * S * (n_heads if row > 1 else 1)
    rows = shared(group) * block
    return number * (tiles * tile * head_dim + rows * (copies * head_dim + tile + states))


HELD = Exercise(
    name="bytes_held",
    engine=bytes_held,
    cases=held_cases,
    mistakes=(
        Mistake(partial(held_with, number=1), "these are numbers: a float32 has 4 bytes"),
        Mistake(
            partial(held_with, heads=lambda n: 1),
            '"whole": that is one head, and the matrix of scores has a layer for each',
        ),
        Mistake(
            partial(held_with, square=True),
            '"whole" is T by S: with a cache there are more keys than queries',
        ),
        Mistake(
            partial(held_with, row=2),
            '"row": one query of one head at a time, so S scores',
        ),
        Mistake(
            partial(held_with, shared=lambda group: 1),
            '"tile": the block has the queries of all `group` heads that share these keys',
        ),
        Mistake(
            lambda way, n_heads, group, *shape: bytes_held(way, n_heads, n_heads, *shape),
            '"tile": a job has the heads that share one head of keys, `group` of them, not all',
        ),
        Mistake(
            lambda way, *shape: 4 * shape[5] * shape[6] if way == "tile" else bytes_held(way, *shape),
            '"tile": those are its scores for one head alone: keys, values, queries, outs, best and total '
            "are held, too",
        ),
        Mistake(
            lambda way, *shape: 4 * shape[2] if way == "row" else bytes_held(way, *shape),
            '"row": a query meets all S keys, those of the cache, too',
        ),
        Mistake(partial(held_with, tiles=1), '"tile": keys and values, so two tiles'),
        Mistake(
            partial(held_with, copies=1),
            '"tile": each row has a query and an out, head_dim numbers each',
        ),
        Mistake(partial(held_with, states=0), '"tile": each row keeps its best and its total'),
    ),
    hints=(
        "Which of these grow with S? Which with T? Only one of the three ways has neither.",
        '"tile": 2 * tile * head_dim for keys and values; then group * block rows, each a query, an out, '
        "tile scores, best and total.",
    ),
)


# overtakes_at: weights of a layer, n_heads, head_dim -> tokens


def overtakes_at(weights, n_heads, head_dim):
    """Return how many tokens a prompt must have for attention to multiply as much as a layer's matrices.

    A matrix multiplies each weight once a token. Query t meets t + 1 keys, and as many values.
    """
    # n * weights = n (n + 1) / 2 pairs, of each head a dot product and a share of the sum
    return weights / (n_heads * head_dim) - 1


def layer_cases():
    return {
        "SmolLM2": (3_538_944, 9, 64),
        "7B": (202_375_168, 32, 128),
        "14B, 8 of 40 heads": (275_251_200, 40, 128),
        "one head": (1000, 1, 10),
    }


def overtakes_with(weights, n_heads, head_dim, pairs=2.0, products=2, heads=True, width=True, own=1):
    """Return the right answer with a place for each mistake: attention = n (n + own) / pairs * products."""
    each = products * (n_heads if heads else 1) * (head_dim if width else 1) / pairs
    return weights / each - own


OVERTAKES = Exercise(
    name="overtakes_at",
    engine=overtakes_at,
    cases=layer_cases,
    mistakes=(
        Mistake(
            partial(overtakes_with, pairs=1.0, own=0),
            "half of it: that is where one more token's attention equals its matrices. In a whole prompt a "
            "query meets half of the keys on average",
        ),
        Mistake(
            partial(overtakes_with, pairs=1.0, own=1),
            "you count n (n + 1) pairs: query t meets t + 1 keys, in all n (n + 1) / 2",
        ),
        Mistake(
            partial(overtakes_with, products=1),
            "twice too long: each pair costs a dot product and a share of the sum of values",
        ),
        Mistake(partial(overtakes_with, heads=False), "that is one head: each has scores of its own"),
        Mistake(
            partial(overtakes_with, width=False),
            "a score is not one multiply-add: its dot product has head_dim",
        ),
        Mistake(
            partial(overtakes_with, own=0),
            "one too many: 1 + 2 + ... + n is n (n + 1) / 2, since a query meets its own key. And as much is "
            "asked for, not more",
        ),
    ),
    hints=(
        "Write both sides for n tokens. The matrices: n * weights. Attention: how many pairs of a query and "
        "a key are there, and how many multiply-adds does a pair cost in all heads?",
        "The pairs are 1 + 2 + ... up to the length; each costs two dot products' worth of multiply-adds in "
        "every head. One factor of the length is on both sides: cancel it, then solve.",
    ),
    tolerance=1e-6,
)

EXERCISES = [ABSORB_TILE, JOIN, TILES, HELD, OVERTAKES]
