"""What learners write in lesson 23, for test_check_learners.py, and what is the lesson's own."""

import math

import numpy as np

from blocks2tokens.course.lessons.flash_attention import exercises as lesson
from blocks2tokens.model.attention import attend
from blocks2tokens.model.attention_tile import room_floats

NAMES = {e.name: e for e in lesson.EXERCISES}


def take(
    top=lambda best, scores: max([best, *scores]),
    keep_total=lambda best, new: math.exp(best - new),
    keep_out=lambda best, new: math.exp(best - new),
    against=lambda best, new, scores: new,
    divided=False,
):
    """A learner's loop over the tile's tokens."""

    def absorb_tile(best, total, out, scores, values):
        new = top(best, scores)
        total, out = total * keep_total(best, new), out * keep_out(best, new)
        for score, value in zip(scores, values, strict=True):
            w = np.exp(score - against(best, new, scores))
            total, out = total + w, out + w * value
        return new, total, out / total if divided else out

    return absorb_tile


def kept(best, new):
    return 1


def upwards(best, new):
    return np.exp(new - best)


def softly(best, new):
    return np.exp(best - new)


def join(top=max, totals=(1, 1), outs=(1, 1), half=False, divided=False):
    """A learner's join; a factor 0 leaves a part as it is."""

    def join_parts(best, total, out, best2, total2, out2):
        new = top(best, best2)
        fa, fb = np.exp(best - new), np.exp(best2 - new)
        if half:
            return new, 0.5 * (total + total2), 0.5 * (out + out2)
        total = total * (fa if totals[0] else 1) + total2 * (fb if totals[1] else 1)
        out = out * (fa if outs[0] else 1) + out2 * (fb if outs[1] else 1)
        return new, total, out / total if divided else out

    return join_parts


def count(sees=lambda position, t: position + t + 1, last=lambda n: n - 1, partly=True, masked=True):
    """A learner's count, tile by tile."""

    def tiles_seen(position, first, n, tile):
        low, high = sees(position, first), sees(position, first + last(n))
        whole = part = start = 0
        while start + (1 if partly else tile) <= high:
            if start + tile <= low and masked:
                whole += 1
            else:
                part += 1
            start += tile
        return whole, part

    return tiles_seen


def all_tiles(position, first, n, tile):
    return (position + first + 1) // tile, math.ceil((position + first + n) / tile)


def held(arrays=("keys", "values", "q", "out", "scores", "best", "total"), number=4, **other):
    """A learner's sum of arrays."""

    def bytes_held(way, n_heads, group, T, S, head_dim, block, tile):
        rows = other.get("rows", lambda group, block: group * block)(group, block)
        sizes = {"keys": tile * head_dim, "values": tile * head_dim, "q": rows * head_dim}
        sizes |= {"out": rows * head_dim, "scores": rows * tile, "best": rows, "total": rows}
        whole = other.get("whole", lambda n_heads, T, S: n_heads * T * S)(n_heads, T, S)
        row = other.get("row", lambda n_heads, S: S)(n_heads, S)
        return number * {"whole": whole, "row": row, "tile": sum(sizes[a] for a in arrays)}[way]

    return bytes_held


def overtakes(pairs=lambda n: n * (n + 1) / 2, each=lambda h, d: 2 * h * d):
    """A learner's search: the length at which both sides are equal, by halving."""

    def overtakes_at(weights, n_heads, head_dim):
        low, high = 1e-9, 1e12
        for _ in range(200):
            n = (low + high) / 2
            low, high = (n, high) if pairs(n) * each(n_heads, head_dim) < n * weights else (low, n)
        return low

    return overtakes_at


def anew(best, total, out, scores, values):
    if max(scores) > best:
        best, total, out = -np.inf, 0, np.zeros_like(out)
    return take()(best, total, out, scores, values)


def shares_of_a_tile(best, total, out, scores, values):
    new = max(best, *scores)
    weights = np.exp(scores - new)
    found = np.exp(best - new) * out + values.T @ (weights / sum(weights))
    return new, np.exp(best - new) * total + sum(weights), found


def sum_of_values(best, total, out, scores, values):
    new, total, _ = take()(best, total, out, scores, values)
    return new, total, sum(values, start=np.exp(best - new) * out)


def total_before_best(*arguments):
    new, total, out = take()(*arguments)
    return total, new, out


def better_part(*parts):
    return max(parts[:3], parts[3:], key=lambda part: part[0])


def better_part_or_second(*parts):
    return max(parts[3:], parts[:3], key=lambda part: part[0])


def divided_before(best, total, out, best2, total2, out2):
    outs = [out / (total or 1), out2 / (total2 or 1)]
    return join()(best, total, outs[0], best2, total2, outs[1])


def others_factor(best, total, out, best2, total2, out2):
    new = max(best, best2)
    ours, theirs = np.exp(best2 - new), np.exp(best - new)
    return new, ours * total + theirs * total2, ours * out + theirs * out2


def mean_by_total(best, total, out, best2, total2, out2):
    both = total + total2
    return max(best, best2), both, total / both * out + total2 / both * out2


def first_query(sees):
    """Return a count in which only the first query sees otherwise."""

    def tiles_seen(position, first, n, tile):
        whole = (position + first + sees) // tile
        return whole, sum(count()(position, first, n, tile)) - whole

    return tiles_seen


def one_more(position, first, n, tile):
    whole = (position + first + 1) // tile
    return whole, (position + first + n) // tile + 1 - whole


def begun_is_whole(position, first, n, tile):
    whole = math.ceil((position + first + 1) / tile)
    return whole, math.ceil((position + first + n) / tile) - whole


def masked_first(*block):
    whole, part = count()(*block)
    return part, whole


def one_mask(*block):
    return count()(*block)[0], 1


def last_query(position, first, n, tile):
    keys = position + first + n
    return keys // tile, 0 if keys % tile == 0 else 1


WRONG = [
    ("absorb_tile", take(against=lambda best, new, scores: best), "weighed against the old best"),
    ("absorb_tile", anew, "a better tile starts anew"),
    ("absorb_tile", shares_of_a_tile, "nothing is divided before the last tile"),
    ("join_parts", join(totals=(1, 0), outs=(1, 0)), "one part alone"),
    ("join_parts", better_part, "you keep the better part and drop the other"),
    ("join_parts", better_part_or_second, "you keep the better part and drop the other"),
    ("join_parts", divided_before, "parts are joined undivided"),
    ("tiles_seen", first_query(sees=0), "the block's first query sees its own token too"),
    ("tiles_seen", first_query(sees=2), "not the one after its own"),
    ("tiles_seen", count(lambda position, t: position + t + 2), "a query sees no token after its own"),
    ("tiles_seen", lambda position, first, *block: count()(position, 0, *block), "the first block alone"),
    ("tiles_seen", one_more, "rounded up wrongly"),
    ("tiles_seen", begun_is_whole, "round down there"),
    ("absorb_tile", take(against=lambda best, new, scores: 0), "measured against nothing"),
    ("absorb_tile", sum_of_values, "every value counts the same"),
    ("absorb_tile", total_before_best, "best and total have changed places"),
    ("join_parts", others_factor, "the factors have changed places"),
    ("join_parts", mean_by_total, "no weighing by totals"),
    ("tiles_seen", masked_first, "the two numbers have changed places"),
    ("tiles_seen", one_mask, "always one with a mask"),
    ("tiles_seen", last_query, "what the last query sees whole"),
    (
        "bytes_held",
        lambda way, n_heads, group, *shape: held()(way, n_heads, n_heads, *shape),
        "share one head of keys",
    ),
    (
        "bytes_held",
        lambda way, *shape: shape[5] * shape[6] * 4 if way == "tile" else held()(way, *shape),
        "for one head alone",
    ),
    (
        "bytes_held",
        lambda way, *shape: shape[2] * 4 if way == "row" else held()(way, *shape),
        "those of the cache, too",
    ),
    ("absorb_tile", take(keep_total=kept, keep_out=kept), "nothing shrinks"),
    ("absorb_tile", take(keep_out=kept), "total shrinks, out does not"),
    ("absorb_tile", take(keep_total=kept), "out shrinks, total does not"),
    (
        "absorb_tile",
        take(lambda best, scores: max(scores), softly, softly),
        "best falls when a tile has lower scores",
    ),
    ("absorb_tile", take(lambda best, scores: best), "best never rises"),
    ("absorb_tile", take(against=lambda best, new, scores: max(scores)), "its own largest score"),
    ("absorb_tile", take(keep_total=upwards, keep_out=upwards), "it grows where it must shrink"),
    ("absorb_tile", take(divided=True), "once, after the last"),
    ("join_parts", join(totals=(0, 0), outs=(0, 0)), "you add the parts as they are"),
    ("join_parts", join(outs=(0, 0)), "the outs are not"),
    ("join_parts", join(totals=(0, 0)), "the totals are not"),
    ("join_parts", join(totals=(0, 1), outs=(0, 1)), "one part alone"),
    ("join_parts", join(top=min), "the lower best is kept"),
    ("join_parts", join(half=True), "the mean of two parts"),
    ("join_parts", join(divided=True), "joined parts may be joined again"),
    ("tiles_seen", count(lambda position, t: position + t), "off by one"),
    ("tiles_seen", count(lambda position, t: t + 1), "behind `position` other tokens"),
    ("tiles_seen", count(last=lambda n: 0), "its last one sees further"),
    ("tiles_seen", count(last=lambda n: n - 2), "off by one at the end"),
    ("tiles_seen", count(partly=False), "the last tile is lost"),
    ("tiles_seen", all_tiles, "subtract the whole ones"),
    ("tiles_seen", count(masked=False), "every tile has a mask"),
    ("bytes_held", held(number=1), "a float32 has 4 bytes"),
    ("bytes_held", held(whole=lambda n_heads, T, S: T * S), "that is one head"),
    ("bytes_held", held(whole=lambda n_heads, T, S: n_heads * T * T), "T by S"),
    ("bytes_held", held(row=lambda n_heads, S: n_heads * S), "one query of one head"),
    ("bytes_held", held(rows=lambda group, block: block), "all `group` heads"),
    ("bytes_held", held(("keys", "q", "out", "scores", "best", "total")), "so two tiles"),
    ("bytes_held", held(("keys", "values", "q", "scores", "best", "total")), "a query and an out"),
    ("bytes_held", held(("keys", "values", "q", "out", "scores")), "its best and its total"),
    ("overtakes_at", overtakes(lambda n: n * n), "half of it"),
    ("overtakes_at", overtakes(lambda n: n * (n + 1)), "you count n (n + 1) pairs"),
    ("overtakes_at", overtakes(each=lambda h, d: h * d), "twice too long"),
    ("overtakes_at", overtakes(each=lambda h, d: 2 * d), "that is one head"),
    ("overtakes_at", overtakes(each=lambda h, d: 2 * h), "its dot product has head_dim"),
    ("overtakes_at", overtakes(lambda n: n * n / 2), "one too many"),
]


RIGHT = {
    "absorb_tile": [take()],
    "join_parts": [join()],
    "tiles_seen": [count()],
    "bytes_held": [held()],
    "overtakes_at": [overtakes()],
}


def test_either_part_may_have_seen_nothing():
    state = lesson.absorb_tile(-np.inf, 0.0, np.zeros(2), np.ones(3), np.ones((3, 2)))
    for parts in ((state, (-np.inf, 0.0, np.zeros(2))), ((-np.inf, 0.0, np.zeros(2)), state)):
        assert np.allclose(lesson.join_parts(*parts[0], *parts[1])[2], state[2])
    verdict = NAMES["join_parts"].judge(nothing_in_the_second)
    assert verdict.kind == "wrong" and "a second part that saw nothing" in verdict.message


def nothing_in_the_second(best, total, out, best2, total2, out2):
    a = np.exp(min(best - best2, 0)) if best2 > -np.inf else np.nan
    b = np.exp(best2 - max(best, best2))
    return max(best, best2), a * total + b * total2, a * out + b * out2


# The plain answers agree with the engine


def test_tiles_and_parts_give_the_engine_s_sum():
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal(s).astype(np.float32) for s in ((1, 1, 8), (1, 40, 8), (1, 40, 8)))
    scores, parts = k[0] @ q[0, 0] / np.float32(8**0.5), []
    for part in (range(0, 24, 8), range(24, 40, 8)):
        state = -np.inf, 0.0, np.zeros(8)
        for s in part:
            state = lesson.absorb_tile(*state, scores[s : s + 8], v[0, s : s + 8])
        parts.append(state)
    _, total, out = lesson.join_parts(*parts[0], *parts[1])
    assert np.allclose(out / total, attend(q, k, v)[0, 0], atol=1e-6)


def test_a_room_holds_what_the_exercise_counts_and_the_turned_keys():
    counted = lesson.bytes_held("tile", 9, 3, 512, 8192, 64, 16, 64)
    assert 4 * room_floats(48, 64, 1) == counted + 4 * 64 * 64
