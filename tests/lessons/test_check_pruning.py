"""What learners write in lesson 27, for test_check_learners.py, and what is the lesson's own."""

import math

import numpy as np
import pytest

import blocks2tokens as b2t
from blocks2tokens.course.lessons.pruning import exercises as lesson
from blocks2tokens.course.lessons.pruning import losses, record, sparse_rows, speeds
from blocks2tokens.prune import masks
from blocks2tokens.prune.influence import cosines
from blocks2tokens.quality import TOKEN, Quality


def wanda(norm=lambda column: math.sqrt(sum(x * x for x in column)), size=abs, least=int, stays=True):
    """A learner's loops over rows."""

    def wanda_keep(W, X, share):
        norms = [norm([float(x) for x in column]) for column in X.T]
        mask = []
        for row in W:
            scores = [size(float(w)) * n for w, n in zip(row, norms, strict=True)]
            gone = sorted(range(len(row)), key=scores.__getitem__)[: least(share * len(row))]
            mask.append([(j not in gone) == stays for j in range(len(row))])
        return np.array(mask)

    return wanda_keep


def whole_matrix(W, X, share, norms=True):
    scores = np.abs(W) * (np.linalg.norm(X, axis=0) if norms else 1)
    gone = scores.flatten().argsort()[: int(share * W.size)]
    mask = np.ones(W.size, dtype=bool)
    mask[gone] = False
    return mask.reshape(W.shape)


def by_columns(W, X, share):
    scores = np.abs(W) * np.linalg.norm(X, axis=0)
    mask = np.ones_like(W, dtype=bool)
    for j in range(W.shape[1]):
        mask[np.argsort(scores[:, j], kind="stable")[: int(share * len(W))], j] = False
    return mask


def masked(W, X, share):
    return W * wanda()(W, X, share)


def too_few(W, X, share):
    mask = np.ones(W.shape, bool)
    for n, row in enumerate(np.abs(W) * np.linalg.norm(X, axis=0)):
        mask[n, np.argsort(row)[: -int(share * len(row))]] = False
    return mask


def scored(W, X):
    return np.abs(W) * np.linalg.norm(X, axis=0)


def places_not_ranks(W, X, share):
    return np.array([np.argsort(row) >= int(share * len(row)) for row in scored(W, X)])


def by_partition(W, X, share):
    n, mask = int(share * W.shape[1]), np.ones(W.shape, bool)
    np.put_along_axis(mask, np.argpartition(scored(W, X), n, axis=1)[:, :n], False, axis=1)
    return mask


def by_squares(W, X, share):
    return np.argsort(np.argsort(W**2 * (X**2).mean(axis=0))) >= int(share * W.shape[1])


def fours(best=2, stays=True, pick=lambda s, K: [list(range(j, j + 4)) for j in range(0, K, 4)]):
    def two_of_four(scores):
        keep = np.zeros(scores.shape, bool)
        for n, row in enumerate(scores):
            for places in pick(scores, len(row)):
                order = sorted(places, key=lambda j: (row[j], j), reverse=True)
                for j in order[:best] if stays else order[best:]:
                    keep[n, j] = True
        return keep

    return two_of_four


def every_so_many(scores, K):
    return [list(range(j, K, K // 4)) for j in range(K // 4)]


def half_a_row(scores, K):
    return [list(range(K))]


def best_half(scores):
    return fours(scores.shape[1] // 2, pick=half_a_row)(scores)


def down_a_column(scores):
    turned = scores.T.reshape(-1, 4)
    return fours()(turned).reshape(scores.T.shape).T


def threshold(scores):
    keep = np.zeros_like(scores, dtype=bool)
    for n in range(len(scores)):
        for j in range(0, scores.shape[1], 4):
            four = scores[n, j : j + 4]
            keep[n, j : j + 4] = four >= sorted(four)[-2]
    return keep


def first_of_equals(scores):
    keep = np.zeros_like(scores, dtype=bool)
    for n, row in enumerate(scores):
        for j in range(0, len(row), 4):
            for i in sorted(range(j, j + 4), key=lambda i: -row[i])[:2]:
                keep[n, i] = True
    return keep


def places_in_fours(scores):
    keep = np.zeros(scores.shape, bool)
    for n, row in enumerate(scores):
        for j in range(0, len(row), 4):
            keep[n, j : j + 4] = np.argsort(row[j : j + 4]) >= 2
    return keep


def zeroed_and_asked(scores):
    left = scores.copy()
    for four in left.reshape(-1, 4):
        four[np.argsort(four, kind="stable")[:2]] = 0
    return left != 0


def by_rounds(scores):
    """Take the lowest out of each four, twice."""
    left = scores.reshape(-1, 4).astype(float)
    for _ in range(2):
        left[np.arange(len(left)), left.argmin(axis=1)] = np.inf
    return np.isfinite(left).reshape(scores.shape)


def kept_scores(scores):
    return [[score if stays else 0 for score, stays in zip(*row, strict=True)] for row in pairs_of(scores)]


def pairs_of(scores):
    return zip(scores.tolist(), fours()(scores).tolist(), strict=True)


def long_rows(scores):
    rows, keep = scores.reshape(4, -1), np.zeros((4, scores.size // 4), bool)
    for j in range(rows.shape[1]):
        for i in sorted(range(4), key=lambda i: (rows[i, j], i))[2:]:
            keep[i, j] = True
    return keep.reshape(scores.shape)


def above(level):
    def two_of_four(scores):
        keep = np.zeros(scores.shape, bool)
        for n, row in enumerate(scores):
            for j in range(0, len(row), 4):
                keep[n, j : j + 4] = row[j : j + 4] > level(row[j : j + 4])
        return keep

    return two_of_four


def influence(
    one=1, divide=True, mean=True, compare=lambda b, a: (b, a), sign=-1, length=math.sqrt, size=float
):
    def block_influence(before, after):
        found = []
        for b, a in zip(before, after, strict=True):
            b, a = compare(b.astype(float), a.astype(float))
            cosine = size(b @ a)
            if divide:
                cosine /= length(b @ b) * length(a @ a)
            found.append(one + sign * cosine)
        return sum(found) / len(found) if mean else sum(found)

    return block_influence


def by_element(before, after):
    lengths = np.linalg.norm(before, axis=0) * np.linalg.norm(after, axis=0)
    return np.mean(1 - np.sum(before * after, axis=0) / lengths)


def flattened(before, after):
    return influence()(before.reshape(1, -1), after.reshape(1, -1))


def of_tokens(before, after):
    return [influence()(b[None], a[None]) for b, a in zip(before, after, strict=True)]


def all_pairs(before, after):
    sizes = np.sqrt((before**2).sum(1)) * np.sqrt((after**2).sum(1))
    return 1 - np.mean((before @ after.T) / sizes)


def whole_norm(before, after):
    found = [
        1 - b @ a / (np.linalg.norm(before) * np.linalg.norm(after))
        for b, a in zip(before, after, strict=True)
    ]
    return np.mean(found)


def less_the_sum(before, after):
    return 1 - sum(b @ a / np.linalg.norm(b) / np.linalg.norm(a) for b, a in zip(before, after, strict=True))


def with_a_column(before, after):
    dots = (before * after).sum(axis=1, keepdims=True)
    return np.mean(1 - dots / (np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)))


def of_unit_vectors(before, after):
    before, after = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (before, after))
    return np.array(1 - np.einsum("td,td->", before, after) / len(before))


def moved(before, after):
    return np.mean([math.dist(b, a) for b, a in zip(before, after, strict=True)])


def neurons(cut_gate=True, cut_up=True, cut_down=True, which=lambda ffn, keep: keep):
    def drop_neurons(gate, up, down, keep):
        keep = [int(i) for i in which(len(gate), keep)]
        if cut_gate:
            gate = np.array([gate[i] for i in keep])
        if cut_up:
            up = np.array([up[i] for i in keep])
        if cut_down:
            down = np.stack([down[:, i] for i in keep], axis=1)
        return gate, up, down

    return drop_neurons


def rows_of_down(gate, up, down, keep):
    return gate[keep], up[keep], down[keep]


def turned(gate, up, down, keep):
    return np.take(gate, keep, axis=1), np.take(up, keep, axis=1), np.take(down, keep, axis=0)


def on_its_side(gate, up, down, keep):
    return gate[keep], up[keep], down.T[keep]


def up_and_gate(gate, up, down, keep):
    gate, up, down = neurons()(gate, up, down, keep)
    return up, gate, down


def deleted(gate, up, down, keep):
    gone = [i for i in range(len(gate)) if i not in keep]
    return [np.delete(gate, gone, axis=0), np.delete(up, gone, axis=0), np.delete(down, gone, axis=1)]


def silenced(gate, up, down, keep):
    stays = np.isin(np.arange(len(gate)), keep)
    return gate * stays[:, None], up * stays[:, None], down * stays


def other_row(n_bytes=lambda K, right: right, share=lambda K, kept, right: right):
    def sparse_row(K, kept, value_bytes, dense_bits):
        right = row()(K, kept, value_bytes, dense_bits)
        return n_bytes(K, right[0]), share(K, kept, right[1])

    return sparse_row


def saved_by_this_row(K, kept, value_bytes, dense_bits):
    n_bytes, _ = row()(K, kept, value_bytes, dense_bits)
    return n_bytes, 1 - n_bytes / (K * dense_bits / 8)


def in_float32(*arguments):
    n_bytes, share = row()(*arguments)
    return n_bytes, np.float32(share)


def starts_added(K, kept, value_bytes, dense_bits):
    return row()(K, kept, value_bytes, dense_bits)[0], 1 - (dense_bits / 8 + 4 / 256) / (value_bytes + 1)


def row(place=1, start=4, share=True, per_value=8, starts_count=True, bits=1, byte=8):
    def sparse_row(K, kept, value_bytes, dense_bits):
        total = sum(place + value_bytes for _ in range(kept)) + start * (K // 256)
        fixed = start * byte / 256 if starts_count else 0
        kept_share = (dense_bits - fixed) / (per_value * (place + value_bytes))
        return total * bits, (1 - kept_share if share else kept_share)

    return sparse_row


WRONG = [
    ("wanda_keep", wanda(norm=lambda column: 1), "this orders as magnitude does"),
    (
        "wanda_keep",
        lambda W, X, share: wanda(norm=lambda column: np.linalg.norm(X))(W, X, share),
        "of its own input column, K norms, axis=0",
    ),
    ("wanda_keep", wanda(norm=np.std), "spread about their mean"),
    ("wanda_keep", wanda(norm=lambda column: max(map(abs, column))), "the loudest input"),
    ("wanda_keep", places_not_ranks, "not how low a place is"),
    ("wanda_keep", lambda W, X, share: scored(W, X), "these are the scores"),
    ("wanda_keep", wanda(size=float), "the sign counts"),
    ("wanda_keep", whole_matrix, "you compare the whole matrix"),
    ("wanda_keep", lambda *a: whole_matrix(*a, norms=False), "two steps are missing"),
    ("wanda_keep", by_columns, "you compare within columns"),
    ("wanda_keep", wanda(stays=False), "upside down: True"),
    ("wanda_keep", wanda(norm=lambda column: abs(sum(column))), "before squaring"),
    ("wanda_keep", wanda(norm=lambda column: sum(x * x for x in column)), "the square root is missing"),
    ("wanda_keep", wanda(norm=lambda column: sum(map(abs, column))), "you sum the sizes"),
    ("wanda_keep", wanda(least=math.ceil), "right but for the rounding"),
    ("wanda_keep", wanda(least=round), "to the nearest"),
    ("wanda_keep", masked, "these are the pruned weights"),
    ("wanda_keep", too_few, "as much stays as should go"),
    ("two_of_four", kept_scores, "these are scores"),
    ("two_of_four", lambda scores: fours()(scores).reshape(-1, 4), "in rows of four"),
    ("two_of_four", long_rows, "makes four long rows"),
    ("two_of_four", above(np.mean), "above the mean"),
    ("two_of_four", above(np.median), "none is above the median"),
    ("two_of_four", places_in_fours, "not how low each is"),
    ("two_of_four", zeroed_and_asked, "right until a score that stays is 0"),
    ("two_of_four", best_half, "but not two of each four"),
    ("two_of_four", down_a_column, "run down a column"),
    ("two_of_four", fours(pick=every_so_many), "every so many columns"),
    ("two_of_four", fours(stays=False), "upside down: the two"),
    ("two_of_four", fours(1), "one of each four"),
    ("two_of_four", fours(3), "three of each four"),
    ("two_of_four", threshold, "a threshold lets all of them"),
    ("two_of_four", first_of_equals, "of those the first go"),
    ("block_influence", influence(one=0, sign=1), "this is the cosine"),
    ("block_influence", influence(divide=False), "not divided by the two lengths"),
    ("block_influence", by_element, "column by column"),
    ("block_influence", flattened, "one long vector"),
    ("block_influence", influence(mean=False), "the sum over the tokens"),
    ("block_influence", influence(compare=lambda b, a: (b, a - b)), "with what the layer adds"),
    ("block_influence", influence(size=lambda dot: abs(float(dot))), "the sign of the cosine counts"),
    ("block_influence", influence(length=float), "the squares of the lengths"),
    ("block_influence", with_a_column, "a column [T, 1] divided by a row [T]"),
    ("block_influence", moved, "this is a distance"),
    ("block_influence", of_tokens, "the tokens' own numbers"),
    ("block_influence", all_pairs, "every token with every other"),
    ("block_influence", whole_norm, "one length for all tokens"),
    ("block_influence", less_the_sum, "the sum of the cosines from 1"),
    ("drop_neurons", neurons(cut_down=False), "down still has a column"),
    ("drop_neurons", neurons(cut_gate=False), "gate still has all"),
    ("drop_neurons", neurons(cut_up=False), "up still has all"),
    ("drop_neurons", rows_of_down, "you cut rows of down"),
    ("drop_neurons", turned, "rows and columns are exchanged"),
    (
        "drop_neurons",
        neurons(which=lambda n, keep: set(range(n)) - set(keep.tolist())),
        "upside down: `keep`",
    ),
    ("drop_neurons", on_its_side, "down lies on its side"),
    ("drop_neurons", up_and_gate, "gate and up are exchanged"),
    ("drop_neurons", silenced, "zeros are bytes"),
    ("drop_neurons", neurons(which=lambda n, keep: range(len(keep))), "the first so many"),
    ("sparse_row", row(place=0), "the places are missing"),
    ("sparse_row", row(start=0), "the starts are missing: each"),
    ("sparse_row", row(place=2), "two bytes for a place"),
    ("sparse_row", row(start=1), "a start is an int32"),
    ("sparse_row", row(share=False), "the share of kept weights"),
    ("sparse_row", row(per_value=1), "bits are compared with bytes"),
    ("sparse_row", row(starts_count=False), "in the share the starts are missing"),
    ("sparse_row", row(byte=1), "you take bytes of the starts from bits"),
    ("sparse_row", row(place=0, start=0), "you count the values alone"),
    ("sparse_row", saved_by_this_row, "that this very row saves"),
    ("sparse_row", row(bits=8), "these are bits"),
    ("sparse_row", other_row(lambda K, right: right - 4 * (K // 256 - 1)), "one start for the whole row"),
    ("sparse_row", other_row(share=lambda K, kept, _: (K - kept) / K), "zeros of this very row"),
    ("sparse_row", other_row(share=lambda K, kept, right: 100 * right), "the share is in percent"),
    ("sparse_row", starts_added, "on the wrong side"),
]


RIGHT = {
    "wanda_keep": [wanda(), lambda W, X, share: wanda()(W, X, share).tolist(), by_partition, by_squares],
    "two_of_four": [fours(), by_rounds],
    "block_influence": [influence(), of_unit_vectors],
    "drop_neurons": [neurons(), deleted],
    "sparse_row": [row(), in_float32],
}


# The plain answers agree with the engine


@pytest.mark.parametrize("share", [0.25, 0.5, 0.7])
def test_the_mask_is_the_engine_s(share):
    rng = np.random.default_rng(0)
    W, X = (rng.standard_normal(shape).astype(np.float32) for shape in ((6, 32), (20, 32)))
    scores = masks.wanda_scores(W, np.linalg.norm(X, axis=0))
    assert np.array_equal(lesson.wanda_keep(W, X, share), masks.keep_rows(scores, share))
    assert np.array_equal(lesson.two_of_four(scores), masks.keep_pattern(scores, 2, 4))


def test_influence_is_the_engine_s():
    before, after = np.random.default_rng(0).standard_normal((2, 9, 16)).astype(np.float32)
    assert lesson.block_influence(before, after) == pytest.approx((1 - cosines(before, after)).mean())


# Sparse rows


@pytest.mark.parametrize(("fmt", "value_bytes"), [("F32", 4), ("F16", 2)])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99, 1.0])
def test_sparse_rows_multiply_as_dense_ones_and_have_the_bytes_that_are_counted(fmt, value_bytes, share):
    rng = np.random.default_rng(0)
    W, x = (rng.standard_normal(shape).astype(np.float32) for shape in ((20, 512), 512))
    W = np.where(masks.keep_rows(np.abs(W), share), W, np.float32(0))
    packed, kept = sparse_rows.pack(W, fmt), 512 - int(share * 512)
    rounded = W.astype(sparse_rows.DTYPES[fmt]).astype(np.float64)
    np.testing.assert_allclose(packed @ x, rounded @ x, atol=1e-4)
    assert packed.nbytes == 20 * sparse_rows.row_bytes(512, kept, value_bytes) + 4
    counted, even = lesson.sparse_row(512, kept, value_bytes, 8 * value_bytes)
    assert counted == sparse_rows.row_bytes(512, kept, value_bytes)
    assert even == sparse_rows.break_even(value_bytes, 8 * value_bytes)


def test_at_the_break_even_a_sparse_row_weighs_what_a_dense_one_does():
    for value_bytes, bits in ((2, 16), (4, 32), (2, 4.5)):
        kept = (1 - sparse_rows.break_even(value_bytes, bits)) * 2**16
        assert sparse_rows.row_bytes(2**16, round(kept), value_bytes) == pytest.approx(bits * 2**13, rel=1e-3)


@pytest.mark.parametrize(
    "x", [np.ones(256, np.float32), np.ones(512), np.ones((1, 512), np.float32), [1.0] * 512]
)
def test_sparse_rows_take_only_what_fits(x):
    with pytest.raises(ValueError, match="x: expected float32 of shape"):
        sparse_rows.pack(np.ones((2, 512), np.float32)) @ x


@pytest.mark.parametrize("W", [np.ones((2, 100), np.float32), np.ones((2, 256)), np.ones(256, np.float32)])
def test_only_rows_of_whole_groups_are_packed(W):
    with pytest.raises(ValueError, match="W: expected float32 rows of a multiple of 256"):
        sparse_rows.pack(W)


# What is measured, and what was recorded


def test_a_loss_is_the_mean_over_tokens_of_what_is_more_than_the_reference():
    more = np.array([0.1, -0.2, 0.5, 0.4])
    tokens = np.zeros(4, TOKEN)
    tokens["reference_nats"] = [1.0, 5.0, 2.0, 3.0]
    tokens["nats"], tokens["kl"] = tokens["reference_nats"] + more, [0.1, 0.3, 0.2, 0.2]
    loss = losses.lost(Quality(tokens))
    assert loss.nats == pytest.approx(0.2) and loss.nats_error == pytest.approx(np.std(more, ddof=1) / 2)
    assert loss.kl == pytest.approx(0.2) and loss.kl_error == pytest.approx(0.02**0.5 / 3**0.5 / 2)
    assert loss.perplexity == pytest.approx(math.exp(2.95))


def test_intervals_part_where_they_do_not_meet():
    one, near, far = (losses.Loss(20, nats, 0.01, nats, 0.01) for nats in (0.1, 0.13, 0.15))
    assert one.apart(far) and far.apart(one) and not one.apart(near)


def test_the_recorded_figures_say_what_the_lesson_says():
    found = record.recorded()
    rows, whole = found["rows"], found["whole"]
    assert list(rows) == list(record.WAYS)
    nats = {name: (row["nats"], row["nats_error"]) for name, row in rows.items()}
    _, _, high = losses.excess_ratio(nats["Wanda"], nats["magnitude"])
    assert high <= 0.6
    for name, row in rows.items():
        assert (row["by"], row["share"], row["repair"]) == record.WAYS[name]
        assert math.exp(math.log(whole) + row["nats"]) == pytest.approx(row["perplexity"], rel=1e-3)


def test_a_small_part_of_the_record_is_made_again(smollm2_path):
    """From fewer tokens, so within a margin: the damage is of the recorded size, not the same."""
    before = record.recorded()["rows"]["layers"]
    ((_, name, row),) = record.rows(smollm2_path, ["layers"], 128, 257)
    assert name == "layers" and row["bytes"] == before["bytes"]
    assert 0.3 < row["nats"] / before["nats"] < 3


def test_what_wanda_adds_is_told_with_its_interval():
    low, middle, high = losses.excess_ratio((0.6318, 0.0296), (2.3525, 0.0581))
    whole, magnitude, wanda = 31.4965, 331.083, 59.2447  # perplexities, as they were recorded
    assert middle == pytest.approx((wanda - whole) / (magnitude - whole), rel=1e-3)
    assert low < middle < high < 2 * middle
    assert losses.excess_ratio((0.5, 0.0), (0.5, 0.0)) == (1, 1, 1)


# Speeds


def test_bytes_of_a_token_are_those_of_all_matrices(austen_path):
    model = b2t.load(austen_path)
    c, read = model.config, speeds.bytes_read(model)
    attention = c.dim * c.head_dim * (2 * c.n_heads + 2 * c.n_kv_heads)
    assert read["layers"] == 2 * c.n_layers * (attention + 3 * c.dim * c.ffn_dim)  # F16
    assert read["output"] == 2 * c.vocab_size * c.dim


def test_rounds_begin_in_turn_and_the_first_does_not_count():
    now, order = [0.0], []

    def run(name, seconds):
        order.append(name)
        now[0] += seconds if len(order) > 3 else 100

    runs = {name: lambda n=name, s=s: run(n, s) for name, s in {"a": 1, "b": 2, "c": 4}.items()}
    found = speeds.in_rounds(runs, 3, lambda: now[0])
    assert {name: times.tolist() for name, times in found.items()} == {
        "a": [1] * 3,
        "b": [2] * 3,
        "c": [4] * 3,
    }
    assert "".join(order) == "abcbcacababc"


@pytest.mark.parametrize(("n", "aside"), [(1, 0), (5, 0), (9, 1), (25, 7), (100, 40)])
def test_a_median_lies_between_the_order_statistics_of_its_interval(n, aside):
    """By chance alone, so many of n lie on one side of the median in fewer than 2.5 of 100 cases."""
    low, middle, high = speeds.median(np.random.default_rng(0).permutation(n))
    assert (low, middle, high) == (aside, (n - 1) / 2, n - 1 - aside)
    tail = sum(math.comb(n, k) for k in range(aside)) / 2**n
    assert tail < 0.03


def test_what_stays_without_any_layer_is_where_the_line_begins():
    rng = np.random.default_rng(0)
    pace = rng.uniform(1, 3, 20)  # each round of a machine that is busy in another way
    times = {layers: pace * (5 + 0.5 * layers) for layers in (30, 20, 10)}
    assert speeds.constant(times) == pytest.approx((5 / 20,) * 3)


def test_the_recorded_speeds_are_those_of_what_goes():
    """Neurons by their share of the bytes, layers by theirs of the time: within 5 % both."""
    found = record.recorded()["speeds"]
    assert list(found["rows"]) == list(record.TIMED)
    low, stays, high = found["constant"]
    assert low <= stays <= high < found["output"]
    for name, row in found["rows"].items():
        by, share = record.TIMED[name]
        gone = round(share * 30) / 30
        expected = row["bytes"] if by == "neurons" else 1 / (stays + (1 - stays) * (1 - gone))
        low, middle, high = row["speed"]
        assert low <= middle <= high and 0.95 < middle / expected < 1.05, name
