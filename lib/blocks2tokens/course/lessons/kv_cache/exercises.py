"""Lesson 25, the KV cache: its bytes by type, a fast Hadamard transform, turned keys, block tables, copies.

bytes_of_pages  a model's shape, tokens, type   -> bytes of the pages that hold them
hadamard        x float32 [n]                   -> H x / sqrt(n), in log2(n) steps
attend_turned   q, and keys and values turned   -> what the query finds, not turned
row_of          table, token, head ...          -> page, byte of the row in it
own_page        table, i, users                 -> table, users, (from, to) of a copy or None
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from blocks2tokens.course.check.exercise import Exercise, Mistake
from blocks2tokens.model import cache_rows, pages

# bytes_of_pages: shape, tokens, type, page -> bytes


@dataclass(frozen=True)
class CacheShape:
    """What the cache needs to know of a model."""

    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int


def bytes_of_pages(c, n_tokens, kind, page):
    """Return the bytes of the pages, of `page` tokens each, that hold n_tokens keys and values.

    c has n_layers, n_heads, n_kv_heads, head_dim; kind is "float32", "float16", "q8_0" or "q4_0".
    """
    block = {"float32": 4 * 32, "float16": 2 * 32, "q8_0": 2 + 32, "q4_0": 2 + 16}[kind]  # bytes of 32
    row = c.head_dim // 32 * block
    n_pages = -(-n_tokens // page)  # the last one may have room left
    return 2 * c.n_layers * c.n_kv_heads * row * page * n_pages


def bytes_cases():
    small, large = CacheShape(30, 9, 3, 64), CacheShape(48, 40, 8, 128)
    return {
        "SmolLM2, one page in float32": (small, 64, "float32", 64),
        "SmolLM2, one token in float16": (small, 1, "float16", 64),
        "SmolLM2, 1,000 tokens in q8_0": (small, 1000, "q8_0", 64),
        "SmolLM2, 1,024 tokens in q4_0": (small, 1024, "q4_0", 128),
        "48 layers, 8 of 40 heads, 5,000 tokens in q4_0": (large, 5000, "q4_0", 128),
    }


USUAL_BLOCKS = {"float32": 128, "float16": 64, "q8_0": 34, "q4_0": 18}


def bytes_with(
    c,
    n_tokens,
    kind,
    page,
    blocks=USUAL_BLOCKS,
    row=lambda head_dim, block: head_dim * block / 32,
    parts=2,
    held=lambda n, page: -(-n // page) * page,
    heads="n_kv_heads",
    layers=True,
):
    """Return the right answer with a place for each mistake; `held` is how many tokens have room."""
    rows = parts * (c.n_layers if layers else 1) * getattr(c, heads) * held(n_tokens, page)
    return rows * row(c.head_dim, blocks[kind])


def one_scale(head_dim, block):
    """Return the bytes of a row of blocks that share one scale."""
    return head_dim * block / 32 if block in (128, 64) else 2 + head_dim * (block - 2) / 32


BYTES = Exercise(
    name="bytes_of_pages",
    engine=bytes_of_pages,
    cases=bytes_cases,
    mistakes=(
        Mistake(
            partial(bytes_with, blocks=USUAL_BLOCKS | {"q8_0": 32, "q4_0": 16}),
            "you count the codes alone: each block of 32 has a scale too, a float16 of 2 bytes",
        ),
        Mistake(
            partial(bytes_with, blocks=USUAL_BLOCKS | {"q8_0": 36, "q4_0": 20}),
            "your scales have 4 bytes: ggml's blocks keep them as float16",
        ),
        Mistake(
            partial(bytes_with, blocks=USUAL_BLOCKS | {"q4_0": 34}),
            "a code of q4_0 is half a byte: two of them share one",
        ),
        Mistake(
            partial(bytes_with, row=one_scale),
            "you count one scale for a row: each block of 32 has its own",
        ),
        Mistake(
            partial(bytes_with, row=lambda head_dim, block: head_dim * block),
            "these bytes are those of 32 numbers: a row has head_dim // 32 blocks",
        ),
        Mistake(partial(bytes_with, parts=1), "this is half of it: keys and values"),
        Mistake(
            partial(bytes_with, held=lambda n, page: n),
            "right for full pages alone: a page is taken whole, so round the number of pages up",
        ),
        Mistake(
            partial(bytes_with, held=lambda n, page: n // page * page),
            "you round down: the tokens of the last page have no room",
        ),
        Mistake(
            partial(bytes_with, held=lambda n, page: (n // page + 1) * page),
            "a page too many where all are full: 64 tokens take one page of 64, and no other behind it",
        ),
        Mistake(
            partial(bytes_with, held=lambda n, page: -(-n // page)),
            "you count pages as if they were tokens: each has rows for `page` of them",
        ),
        Mistake(
            partial(bytes_with, heads="n_heads"),
            "you count the queries' heads: keys and values have n_kv_heads",
        ),
        Mistake(
            partial(bytes_with, layers=False), "this is one layer's: each layer has its own keys and values"
        ),
    ),
    hints=(
        "How many bytes have 32 numbers in each type? How many pages hold n_tokens, if the last may be half "
        "empty?",
        "A row is head_dim // 32 blocks of 128, 64, 34 or 18 bytes. A page has 2 * n_layers * n_kv_heads * "
        "page rows. -(-n // page) rounds up.",
    ),
    twin=cache_rows.row_bytes,
)


# hadamard: x float32 [n] -> float32 [n], n a power of two


def hadamard(x):
    """Return H x / sqrt(n), float32 [n], in log2(n) steps; x float32 [n], n a power of two."""
    half, out = 1, x.copy()
    while half < len(x):
        pairs = out.reshape(-1, 2, half)  # a in pairs[:, 0], b in pairs[:, 1]
        out = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1).reshape(-1)
        half *= 2
    return out / np.float32(len(x) ** 0.5)


def head_cases():
    rng = np.random.default_rng(25)
    spike = np.zeros(8, np.float32)
    spike[5] = 4
    return {
        "one number": (np.array([3], np.float32),),
        "two numbers": (np.array([5, 1], np.float32),),
        "one that is not 0 of 8": (spike,),
        "eight ones": (np.ones(8, np.float32),),
        "16 random numbers": (rng.standard_normal(16).astype(np.float32),),
        "64 random numbers": (rng.standard_normal(64).astype(np.float32),),
    }


def turned_with(
    x,
    scale=lambda n: n**-0.5,
    butterfly=lambda a, b: (a + b, a - b),
    first=1,
    end=lambda n: n,
    order=None,
):
    """Return the right answer with a place for each mistake."""
    out, half, n = x.astype(np.float64), first, len(x)
    while half < end(n):
        for start in range(0, n, 2 * half):
            for i in range(start, start + half):
                out[i], out[i + half] = butterfly(out[i], out[i + half])
        half *= 2
    return scale(n) * (out if order is None else out[order(n)])


def in_halves(x, pairs, join):
    """Return x after log2(n) steps; pairs(out, half) are all a and all b of one, join puts them back."""
    out = x.astype(np.float64)
    for step in range(len(x).bit_length() - 1):
        a, b = pairs(out, 2**step)
        out = join([a + b, a - b]).reshape(-1)
    return out / len(x) ** 0.5


def sums_first(x):
    return in_halves(x, lambda out, half: out.reshape(-1, 2, half).swapaxes(0, 1), np.concatenate)


def neighbours_again(x):
    return in_halves(x, lambda out, half: (out[::2], out[1::2]), partial(np.stack, axis=1))


def divided_in_each_step(n):
    return n ** (-0.5 * (n.bit_length() - 1))


def overwritten(a, b):
    a = a + b
    return a, a - b


def other_sign(a, b):
    return a + b, b - a


def sums_alone(a, b):
    return a + b, a + b


def bits_reversed(n):
    bits = n.bit_length() - 1
    return [int(f"{i:0{bits}b}"[::-1], 2) if bits else 0 for i in range(n)]


HADAMARD = Exercise(
    name="hadamard",
    engine=hadamard,
    cases=head_cases,
    mistakes=(
        Mistake(
            partial(turned_with, scale=lambda n: 1),
            "the rows of H have length sqrt(n): divide by it, or scores come out n times too large",
        ),
        Mistake(
            partial(turned_with, scale=lambda n: 1 / n),
            "you divide by n: by its square root, so that turning twice gives x again",
        ),
        Mistake(
            partial(turned_with, butterfly=overwritten),
            "you overwrite a with a + b and then take b from that: both results need the old a",
        ),
        Mistake(
            partial(turned_with, butterfly=other_sign),
            "the second result is b - a: H has a - b there, first minus second",
        ),
        Mistake(
            partial(turned_with, butterfly=sums_alone),
            "sums alone: the second of each pair is the difference",
        ),
        Mistake(
            partial(turned_with, end=lambda n: min(n, 2)),
            "this is the first step, of neighbours: go on with pairs 2, 4, 8 ... apart until all are mixed",
        ),
        Mistake(
            partial(turned_with, first=2),
            "the first step is missing: pairs that lie 1 apart",
        ),
        Mistake(
            partial(turned_with, end=lambda n: n // 2),
            "the last step is missing: pairs that lie n / 2 apart",
        ),
        Mistake(
            neighbours_again,
            "you mix neighbours in every step: after them come numbers 2 apart, then 4 apart",
        ),
        Mistake(
            sums_first,
            "you put all sums before all differences: each goes back to the place of its a or its b",
        ),
        Mistake(
            partial(turned_with, scale=divided_in_each_step),
            "you divide by sqrt(n) in every step: once is enough, at the end",
        ),
        Mistake(
            partial(turned_with, order=bits_reversed),
            "the right numbers in the order of reversed bits: unlike an FFT, this keeps the order",
        ),
    ),
    hints=(
        "Step 1 mixes neighbours: (a, b) becomes (a + b, a - b). Step 2 does it to numbers 2 apart, then 4 "
        "apart, up to n / 2. The division comes once, at the end.",
        "out.reshape(-1, 2, half) puts all a of one step in [:, 0] and all b in [:, 1]. np.stack([a + b, "
        "a - b], axis=1).reshape(-1) puts them back.",
    ),
    tolerance=1e-4,
    twin=cache_rows.turn,
)


# attend_turned: q [n], keys and values turned [S, n] -> [n]


def attend_turned(q, keys, values, turn):
    """Return what q, float32 [n], finds; keys and values, [S, n], are stored turned, each row by `turn`."""
    # and in the engine: finish_head and join_attended in model/decode.py turn, attend_part attends
    scores = keys @ turn(q) / np.sqrt(q.size)
    weights = np.exp(scores - scores.max())
    return turn(weights @ values / weights.sum())


def turned_cases():
    rng = np.random.default_rng(26)

    def case(S, n, spread=1.0):
        q, k, v = (rng.standard_normal(shape).astype(np.float32) for shape in (n, (S, n), (S, n)))
        k, v = (np.array([hadamard(row) for row in rows], np.float32) for rows in (k, v))
        return np.float32(spread) * q, k, v, hadamard

    return {
        "one token": case(1, 8),
        "five tokens, head_dim 16": case(5, 16),
        "seven tokens, head_dim 64": case(7, 64, 3.0),
        "four tokens, large scores": case(4, 32, 3000.0),  # e**710 is more than float64 holds
    }


def kept(x):
    return x


def softmax(scores):
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def overflowing(scores):
    weights = np.exp(scores)
    return weights / weights.sum()


def find_with(q, keys, values, turn, of_q=True, of_out=True, divisor=lambda n, S: n**0.5, weigh=softmax):
    """Return the right answer with a place for each mistake."""
    q, keys, values = (x.astype(np.float64) for x in (q, keys, values))
    scores = keys @ (turn(q) if of_q else q) / divisor(q.size, len(keys))
    found = weigh(scores) @ values
    return turn(found) if of_out else found


TURNED = Exercise(
    name="attend_turned",
    engine=attend_turned,
    cases=turned_cases,
    mistakes=(
        Mistake(
            partial(find_with, of_q=False),
            "q and the keys are not turned alike: turn q, and leave the keys as they are stored; then their "
            "products are those of before",
        ),
        Mistake(
            partial(find_with, of_out=False),
            "what is found is a sum of turned values: turn it back, and turning back is turning",
        ),
        Mistake(
            partial(find_with, of_q=False, of_out=False),
            "nothing is turned: q has to be, before it meets the keys, and what is found, at the end",
        ),
        Mistake(
            partial(find_with, divisor=lambda n, S: 1),
            "the scores are not scaled: divide them by the square root of head_dim",
        ),
        Mistake(
            partial(find_with, divisor=lambda n, S: n),
            "you divide the scores by head_dim: by its square root",
        ),
        Mistake(
            partial(find_with, divisor=lambda n, S: 8),
            "you divide by 8, right for heads of 64 alone: by the square root of q.size",
        ),
        Mistake(
            partial(find_with, divisor=lambda n, S: S**0.5),
            "you divide by the root of the number of tokens: by that of head_dim, q.size",
        ),
        Mistake(
            partial(find_with, weigh=lambda scores: scores),
            "softmax is missing: scores become weights by exp, divided by their sum",
        ),
        Mistake(
            partial(find_with, weigh=lambda scores: np.exp(scores - scores.max())),
            "the weights do not add up to 1: divide them by their sum",
        ),
        Mistake(
            partial(find_with, weigh=overflowing),
            "right until a score is large: exp overflows there, and infinity / infinity is no number. "
            "Subtract the largest score first",
        ),
    ),
    hints=(
        "(H q) . (H k) = q . k, because H H = 1 for a symmetric H with rows of length 1. And H is linear: a "
        "weighted sum of H v is H times the weighted sum of v.",
        "Two calls of `turn`, whatever the number of tokens: of q before the scores, of the sum after them.",
    ),
    tolerance=1e-4,
)


# row_of: table, layer, part, head, token, shape -> page, byte


@dataclass(frozen=True)
class PageShape:
    """A page: [n_layers, 2, n_kv_heads, page, row_bytes], keys before values."""

    n_layers: int
    n_kv_heads: int
    page: int  # tokens
    row_bytes: int


def row_of(table, layer, part, head, token, s):
    """Return which page holds a row, and at which byte of it the row begins.

    table: page numbers, in the order of the tokens; part 0: keys, 1: values; s has n_kv_heads, page (its
    tokens) and row_bytes.
    """
    place = ((layer * 2 + part) * s.n_kv_heads + head) * s.page + token % s.page
    return table[token // s.page], place * s.row_bytes


def row_cases():
    small, large = PageShape(2, 3, 4, 10), PageShape(30, 3, 64, 68)
    table = [7, 2, 9, 4]
    return {
        "the first row of all": (table, 0, 0, 0, 0, small),
        "token 5, of the second page": (table, 0, 0, 0, 5, small),
        "head 2 of token 3": (table, 0, 0, 2, 3, small),
        "values of token 6": (table, 0, 1, 1, 6, small),
        "layer 1, values": (table, 1, 1, 2, 15, small),
        "SmolLM2 in q8_0": (table, 17, 0, 1, 200, large),
    }


def row_with(
    table,
    layer,
    part,
    head,
    token,
    s,
    page=lambda table, i: table[i],
    inside=lambda t, s: t % s.page,
    parts=lambda layer, part: layer * 2 + part,
    rows=lambda s: s.page,
    unit=lambda s: s.row_bytes,
):
    """Return the right answer with a place for each mistake."""
    place = (parts(layer, part) * s.n_kv_heads + head) * rows(s) + inside(token, s)
    return page(table, token // s.page), place * unit(s)


def counted_in_the_pool(table, layer, part, head, token, s):
    page, place = row_of(table, layer, part, head, token, s)
    return page, page * s.n_layers * 2 * s.n_kv_heads * s.page * s.row_bytes + place


def all_keys_first(table, layer, part, head, token, s):
    return row_with(table, layer, part, head, token, s, parts=lambda layer, part: part * s.n_layers + layer)


def by_token(table, layer, part, head, token, s):
    place = ((layer * 2 + part) * s.page + token % s.page) * s.n_kv_heads + head
    return table[token // s.page], place * s.row_bytes


ROW = Exercise(
    name="row_of",
    engine=row_of,
    cases=row_cases,
    mistakes=(
        Mistake(
            partial(row_with, page=lambda table, i: i),
            "you give the place in the table: what stands there is the page",
        ),
        Mistake(
            partial(row_with, inside=lambda t, s: t),
            "right in the first page alone: within its page a token is number token % page",
        ),
        Mistake(
            partial(row_with, unit=lambda s: 1),
            "you count rows: multiply by row_bytes",
        ),
        Mistake(
            partial(row_with, parts=lambda layer, part: layer + part),
            "a layer has two parts, keys and values: layer * 2 + part",
        ),
        Mistake(
            partial(row_with, parts=lambda layer, part: layer),
            "values lie where you look for keys: behind a layer's keys come its values",
        ),
        Mistake(
            all_keys_first,
            "you put the values of all layers behind all keys: in a page each layer has its keys and then "
            "its values, layer * 2 + part",
        ),
        Mistake(
            counted_in_the_pool,
            "you count from the first page of all: the byte is counted from the beginning of its own page",
        ),
        Mistake(
            lambda *arguments: row_of(*arguments)[::-1],
            "the other way round: first the page, then the byte",
        ),
        Mistake(
            by_token,
            "the heads of a token lie together in yours: in a page, the rows of one head do",
        ),
    ),
    hints=(
        "Two divisions with rest: which entry of the table, and which row of its page? In an array [A, B, C, "
        "D], element [a, b, c, d] is number ((a * B + b) * C + c) * D + d.",
        "divmod(token, s.page) gives the place in the table and the row. The array of rows is [n_layers, 2, "
        "n_kv_heads, page].",
    ),
    parts=("page", "byte"),
    twin=cache_rows.row_address,
)


# own_page: table, i, users -> table, users, copied


def own_page(table, i, users):
    """Make page i of a cache its own before it writes; return its table, the users of all pages, the copy.

    table: page numbers; users[p]: how many caches hold page p, 0 if it is free. The copy is (from, to), or
    None if none is needed. Neither list is changed: both are returned as new ones.
    """
    table, users = list(table), list(users)
    old = table[i]
    if users[old] == 1:
        return table, users, None
    new = users.index(0)
    table[i] = new
    users[old] -= 1
    users[new] = 1
    return table, users, (old, new)


def owner_cases():
    return {
        "nobody shares it": ([2, 0], 1, [1, 0, 1, 0]),
        "two hold it": ([0, 3], 1, [2, 0, 0, 2]),
        "three hold it": ([4, 1, 2], 0, [0, 1, 1, 0, 3]),
        "another page is shared, this is not": ([0, 1], 1, [2, 1, 0]),
        "the last page that is free": ([0, 1], 0, [2, 1, 1, 0]),
    }


def owned_with(
    table, i, users, alone=lambda n: n == 1, less=1, more=1, free=lambda users: users.index(0), put=True
):
    """Return the right answer with a place for each mistake."""
    table, users = list(table), list(users)
    old = table[i]
    if alone(users[old]):
        return table, users, None
    new = free(users)
    if put:
        table[i] = new
    users[old] -= less
    users[new] += more
    return table, users, (old, new)


def asks_users_of_i(table, i, users):
    return (list(table), list(users), None) if users[i] == 1 else owned_with(table, i, users, lambda n: False)


def named_backwards(table, i, users):
    table, users, copied = own_page(table, i, users)
    return table, users, copied and copied[::-1]


def not_mine(table, i, users):
    mine = set(table)
    return owned_with(table, i, users, free=lambda users: min(set(range(len(users))) - mine))


def next_after(users):
    return len(users) - 1 - users[::-1].index(0)


OWN = Exercise(
    name="own_page",
    engine=own_page,
    cases=owner_cases,
    mistakes=(
        Mistake(
            partial(owned_with, alone=lambda n: False),
            "you copy a page that nobody shares: with one user it may be written into as it is",
        ),
        Mistake(
            partial(owned_with, alone=lambda n: True),
            "you never copy: the others that hold this page would see what you write",
        ),
        Mistake(
            partial(owned_with, less=0),
            "the old page keeps its user: this cache no longer holds it, and it would never become free",
        ),
        Mistake(
            partial(owned_with, more=0),
            "the new page has no user: somebody else would take it as free",
        ),
        Mistake(
            partial(owned_with, put=False),
            "the copy is made, but the table still names the shared page",
        ),
        Mistake(
            partial(owned_with, alone=lambda n: n <= 2),
            "two users are one too many: the other of them would see what you write",
        ),
        Mistake(
            asks_users_of_i,
            "i is a place in the table: the page is table[i], and it has users[table[i]] users",
        ),
        Mistake(
            named_backwards,
            "the copy is named backwards: from the shared page to the new one",
        ),
        Mistake(
            not_mine,
            "a page that is not in this table may be another's: free is one with 0 users",
        ),
        Mistake(
            partial(owned_with, free=next_after),
            "any free page would do; take the first, so that answers can be compared",
        ),
    ),
    hints=(
        "Who holds table[i] besides this cache? With one user, nothing is to be done.",
        "users.index(0) is the first free page. Four things change: the entry of the table, the users of the "
        "old and of the new page, and the copy is named.",
    ),
    parts=("table", "users", "copy"),
    twin=pages.PagePool.writable,
)

EXERCISES = [BYTES, HADAMARD, TURNED, ROW, OWN]
