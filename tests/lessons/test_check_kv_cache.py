"""What learners write in lesson 25, for test_check_learners.py, and what is the lesson's own."""

import numpy as np
import pytest

from blocks2tokens.course.lessons.kv_cache import exercises as lesson
from blocks2tokens.course.lessons.kv_cache import record
from blocks2tokens.model import KVCache
from blocks2tokens.model.attention import attend
from blocks2tokens.model.cache_rows import PAGE, TYPES, row_bytes, turn
from blocks2tokens.model.pages import PagePool


def weigh(
    scale=2,
    half=True,
    parts=("keys", "values"),
    pages=lambda n, page: (n + page - 1) // page * page,
    heads=None,
    layers=True,
    row=lambda block, scale, n: (block + scale) * n,
):
    """A learner's loop over pages, with bits."""

    def bytes_of_pages(c, n_tokens, kind, page):
        bits = {"float32": 32, "float16": 16, "q8_0": 8, "q4_0": 4 if half else 8}[kind]
        a_row = row(32 * bits // 8, scale if kind.startswith("q") else 0, c.head_dim // 32)
        total = 0
        for _ in parts:
            total += a_row * getattr(c, heads or "n_kv_heads")
        return total * pages(n_tokens, page) * (c.n_layers if layers else 1)

    return bytes_of_pages


def recursive(last=lambda n: n**0.5, pair=lambda a, b: np.concatenate([a + b, a - b])):
    """A learner's Hadamard transform, of halves that are transformed themselves."""

    def whole(x):
        if len(x) == 1:
            return x.astype(float)
        a, b = whole(x[: len(x) // 2]), whole(x[len(x) // 2 :])
        return pair(a, b)

    def hadamard(x):
        return whole(x) / last(len(x))

    return hadamard


def in_place(x):
    n, half = len(x), 1
    while half < n:
        for i in range(n):
            if i & half == 0:
                x[i], x[i + half] = x[i] + x[i + half], x[i] - x[i + half]
        half *= 2
    return x / np.sqrt(n)


def by_steps(
    steps=None, first=1, write=lambda a, b: (a + b, a - b), after=lambda out: out, less=0, each=lambda n: 1
):
    def hadamard(x):
        out, distance, done = [float(v) for v in x], first, 0
        last = len(x).bit_length() - 1 - less if steps is None else steps
        while distance < len(out) and done < last:
            for i in range(len(out)):
                if not i & distance:
                    out[i], out[i + distance] = write(out[i], out[i + distance])
            out = [v / each(len(x)) for v in out]
            distance, done = 2 * distance, done + 1
        return np.array(after(out)) / len(out) ** 0.5

    return hadamard


def joined_end_to_end(x):
    out = x
    for step in range(len(x).bit_length() - 1):
        a, b = np.split(out.reshape(-1, 2 * 2**step), 2, axis=1)
        out = np.append(a + b, a - b)
    return out / len(x) ** 0.5


def always_neighbours(x):
    out = list(x)
    for _ in range(len(x).bit_length() - 1):
        out = [v for a, b in zip(out[::2], out[1::2], strict=True) for v in (a + b, a - b)]
    return np.array(out) / len(x) ** 0.5


def root_of_2_each_time(x):
    """Right: all steps together divide by the square root of n."""
    return by_steps(each=lambda n: 2**0.5)(x) * len(x) ** 0.5


def taken_twice(a, b):
    a += b
    return a, a - b


def reordered(out):
    bits = max(1, (len(out) - 1).bit_length())
    return [out[int(format(i, f"0{bits}b")[::-1], 2)] for i in range(len(out))]


def soft(scores):
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def of_exp(scores):
    weights = np.exp(scores)
    return weights / weights.sum()


def in_float64(scores):
    return of_exp(scores.astype(np.float64))


def find(
    query=True, result=True, divisor=lambda q: len(q) ** 0.5, by_row=False, weigh=soft, of_all=lambda keys: 1
):
    def attend_turned(q, keys, values, turn):
        if by_row:  # turns all rows back: right, and dearer
            keys, values = (np.array([turn(row) for row in rows]) for rows in (keys, values))
        asked = turn(q) if query and not by_row else q
        scores = np.array([asked @ key for key in keys]) / np.float32(divisor(q) * of_all(keys))
        out = sum(w * value for w, value in zip(weigh(scores), values, strict=True))
        return turn(out) if result and not by_row else out

    return attend_turned


def locate(
    entry=lambda table, i: table[i],
    inside=lambda token, page: token % page,
    unit=None,
    shape="lphtb",
    layer_of=None,
):
    """A learner's place through NumPy's own strides."""

    def row_of(table, layer, part, head, token, s):
        i = token // s.page
        place = {"l": layer, "p": part, "h": head, "t": inside(token, s.page)}
        if layer_of:
            place["l"], place["p"] = layer_of(layer, part)
        sizes, at = {"l": 1, "p": 2, "h": s.n_kv_heads, "t": s.page}, 0
        for axis in shape[:4]:
            at = at * sizes[axis] + place[axis]
        return entry(table, i), at * (unit or s.row_bytes)

    return row_of


def turned_keys_and_q(q, keys, values, turn):
    keys = np.array([turn(key) for key in keys])
    return turn(soft(keys @ turn(q) / len(q) ** 0.5) @ values)


def from_the_first_page(table, layer, part, head, token, s):
    page, byte = locate()(table, layer, part, head, token, s)
    return page, byte + page * (2 * s.n_layers * s.n_kv_heads * s.page * s.row_bytes)


def keys_then_values(table, layer, part, head, token, s):
    place = part * s.n_layers + layer
    return locate(layer_of=lambda layer, part: (place // 2, place % 2))(table, layer, part, head, token, s)


def byte_and_page(*arguments):
    page, byte = locate()(*arguments)
    return byte, page


def one_part(layer, part):
    return layer // 2, layer % 2


def own(alone=lambda n: n < 2, old=-1, new=1, free=min, named=True):
    def own_page(table, i, users):
        page = table[i]
        if alone(users[page]):
            return table[:], users[:], None
        target = free(p for p, n in enumerate(users) if n == 0)
        users = [n + (old if p == page else new if p == target else 0) for p, n in enumerate(users)]
        table = [target if at == i and named else p for at, p in enumerate(table)]
        return table, users, (page, target)

    return own_page


def users_of_the_place(table, i, users):
    return (table[:], users[:], None) if users[i] == 1 else own(alone=lambda n: False)(table, i, users)


def to_and_from(table, i, users):
    table, users, copied = own()(table, i, users)
    return table, users, copied if copied is None else (copied[1], copied[0])


def not_in_the_table(table, i, users):
    others = [p for p in range(len(users)) if p not in table]
    return own(free=lambda free: others[0])(table, i, users)


def in_arrays(table, i, users):
    table, users, copied = own()(table, i, users)
    return np.array(table), np.array(users, np.int64), copied


WRONG = [
    ("bytes_of_pages", weigh(scale=0), "the codes alone"),
    ("bytes_of_pages", weigh(scale=4), "your scales have 4 bytes"),
    ("bytes_of_pages", weigh(half=False), "half a byte"),
    ("bytes_of_pages", weigh(parts=("keys",)), "half of it"),
    ("bytes_of_pages", weigh(row=lambda block, scale, n: block * n + scale), "one scale for a row"),
    ("bytes_of_pages", weigh(row=lambda block, scale, n: (block + scale) * n * 32), "those of 32 numbers"),
    ("bytes_of_pages", weigh(pages=lambda n, page: n + page - n % page), "a page too many"),
    ("bytes_of_pages", weigh(pages=lambda n, page: (n + page - 1) // page), "as if they were tokens"),
    ("bytes_of_pages", weigh(pages=lambda n, page: n), "round the number of pages up"),
    ("bytes_of_pages", weigh(pages=lambda n, page: n // page * page), "you round down"),
    ("bytes_of_pages", weigh(heads="n_heads"), "the queries' heads"),
    ("bytes_of_pages", weigh(layers=False), "one layer's"),
    ("hadamard", recursive(last=lambda n: 1), "n times too large"),
    ("hadamard", recursive(last=lambda n: n), "you divide by n"),
    ("hadamard", by_steps(write=taken_twice), "overwrite a with a + b"),
    ("hadamard", by_steps(write=lambda a, b: (a + b, b - a)), "the second result is b - a"),
    ("hadamard", by_steps(write=lambda a, b: (a + b, a + b)), "sums alone"),
    ("hadamard", by_steps(steps=1), "this is the first step"),
    ("hadamard", by_steps(first=2), "the first step is missing"),
    ("hadamard", by_steps(less=1), "the last step is missing"),
    (
        "hadamard",
        by_steps(each=lambda n: n**0.5, after=lambda out: np.array(out) * len(out) ** 0.5),
        "every step",
    ),
    ("hadamard", joined_end_to_end, "all sums before all differences"),
    ("hadamard", always_neighbours, "you mix neighbours in every step"),
    ("hadamard", by_steps(after=reordered), "order of reversed bits"),
    ("hadamard", in_place, "you wrote into x"),
    ("attend_turned", find(query=False), "are not turned alike"),
    ("attend_turned", turned_keys_and_q, "leave the keys as they are stored"),
    ("attend_turned", find(result=False), "turn it back"),
    ("attend_turned", find(query=False, result=False), "nothing is turned"),
    ("attend_turned", find(divisor=lambda q: 1), "the scores are not scaled"),
    ("attend_turned", find(divisor=len), "you divide the scores by head_dim"),
    ("attend_turned", find(divisor=lambda q: 8), "heads of 64 alone"),
    (
        "attend_turned",
        find(divisor=lambda q: 1, of_all=lambda keys: len(keys) ** 0.5),
        "the root of the number of tokens",
    ),
    ("attend_turned", find(weigh=lambda scores: scores), "softmax is missing"),
    ("attend_turned", find(weigh=lambda scores: np.exp(scores - scores.max())), "do not add up to 1"),
    ("attend_turned", find(weigh=of_exp), "exp overflows"),
    ("attend_turned", find(weigh=in_float64), "exp overflows"),
    ("row_of", locate(entry=lambda table, i: i), "the place in the table"),
    ("row_of", locate(inside=lambda token, page: token), "right in the first page alone"),
    ("row_of", locate(unit=1), "you count rows"),
    (
        "row_of",
        locate(layer_of=lambda layer, part: ((layer + part) // 2, (layer + part) % 2)),
        "a layer has two parts",
    ),
    ("row_of", locate(layer_of=one_part), "values lie where you look for keys"),
    ("row_of", locate(shape="lpth"), "the heads of a token lie together"),
    ("row_of", keys_then_values, "the values of all layers behind all keys"),
    ("row_of", from_the_first_page, "from the first page of all"),
    ("row_of", byte_and_page, "first the page, then the byte"),
    ("own_page", own(alone=lambda n: False), "nobody shares"),
    ("own_page", own(alone=lambda n: True), "you never copy"),
    ("own_page", own(old=0), "the old page keeps its user"),
    ("own_page", own(new=0), "the new page has no user"),
    ("own_page", own(named=False), "the table still names"),
    ("own_page", own(alone=lambda n: n < 3), "two users are one too many"),
    ("own_page", own(free=max), "take the first"),
    ("own_page", users_of_the_place, "i is a place in the table"),
    ("own_page", to_and_from, "named backwards"),
    ("own_page", not_in_the_table, "may be another's"),
]

RIGHT = {
    "bytes_of_pages": [weigh()],
    "hadamard": [recursive(), by_steps(), root_of_2_each_time],
    "attend_turned": [find(), find(by_row=True)],
    "row_of": [locate()],
    "own_page": [own(), in_arrays],
}


# What was recorded


def test_the_recorded_figures_say_what_the_lesson_says():
    found = record.recorded()
    rows = found["rows"]
    assert list(rows) == list(record.KINDS)
    kl = {name: row["kl"] for name, row in rows.items()}
    steps = [kl[f"q4_0{name}"] for name in ("", ", errors fed back", ", less the mean", ", turned")]
    assert kl["float16"] < kl["q8_0"] < steps[0] and steps == sorted(steps)
    assert steps[0] < 0.25 * steps[1] and steps[1] < 0.75 * steps[3]
    assert rows["q4_0"]["more"] + 2 * rows["q4_0"]["more_error"] < 0.01
    for name, row in rows.items():
        assert row["bytes"] == 2 * 30 * 3 * row_bytes(record.KINDS[name], 64)


def test_a_small_part_of_the_record_is_made_again(smollm2_path):
    """From fewer tokens, so within a margin."""
    before = record.recorded()["rows"]
    for _, name, row in record.rows(smollm2_path, ["q4_0, turned", "q4_0"], 384, 384):
        assert row["bytes"] == before[name]["bytes"]
        assert 0.4 < row["kl"] / before[name]["kl"] < 2.5


# The plain answers agree with the engine


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("n_tokens", [1, PAGE, PAGE + 1, 300])
def test_bytes_are_those_of_the_engine_s_pages(kind, n_tokens):
    shape = lesson.CacheShape(n_layers=3, n_heads=4, n_kv_heads=2, head_dim=64)
    cache = KVCache(shape.n_layers, shape.n_kv_heads, shape.head_dim, n_tokens, kind)
    cache.prepare(n_tokens)
    held = sum(page.data.nbytes for page in cache.pages)
    assert (
        lesson.bytes_of_pages(shape, n_tokens, kind, PAGE) == held == len(cache.pages) * cache.pool.page_bytes
    )


@pytest.mark.parametrize("n", [1, 8, 64, 128])
def test_the_transform_is_the_engine_s(n):
    x = np.random.default_rng(n).standard_normal(n, np.float32)
    turned = x.copy()
    turn(turned, n)
    assert np.allclose(lesson.hadamard(x), turned, atol=1e-5)


def test_what_is_found_is_the_engine_s():
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal(s, np.float32) for s in ((1, 1, 64), (1, 9, 64), (1, 9, 64)))
    keys, values = (np.array([lesson.hadamard(row) for row in x[0]]) for x in (k, v))
    found = lesson.attend_turned(q[0, 0], keys, values, lesson.hadamard)
    assert np.allclose(found, attend(q, k, v)[0, 0], atol=1e-5)


@pytest.mark.parametrize("kind", ["float32", "q8_0"])
def test_rows_are_where_the_engine_has_them(kind):
    cache = KVCache(3, 2, 64, 150, kind)
    tokens = np.random.default_rng(1).standard_normal((150, 2, 64), np.float32)
    cache.put(2, tokens, -tokens)
    cache.advance(150)
    row = row_bytes(kind, 64)
    shape = lesson.PageShape(3, 2, PAGE, row)
    page, at = lesson.row_of(list(range(3)), 2, 1, 1, 140, shape)
    expected = cache.used()[1][2, 1, 140].tobytes()
    assert cache.pages[page].data[at : at + row].tobytes() == expected


def test_pages_are_copied_when_the_engine_copies():
    pool = PagePool(10)
    pages = [pool.take() for _ in range(3)]
    pool.share(pages[:2])
    for i, page in enumerate(pages):
        users = [p.users for p in pages]
        copied = lesson.own_page([0, 1, 2], i, [*users, 0])[2]
        assert (pool.writable(page) is not page) == (copied is not None)
