"""Pruning: what is written, that llama.cpp computes the same with it, and what is refused."""

import errno
import sys
from math import ceil

import gguf
import numpy as np
import pytest
from llama_cpp import llama_cpp
from small_model import plain, small_model

import blocks2tokens as b2t
from blocks2tokens.errors import GGUFError, UnsupportedError
from blocks2tokens.formats.feedback import triangle
from blocks2tokens.importance import LEAST, Importance
from blocks2tokens.model.attention import attend
from blocks2tokens.model.forward import forward
from blocks2tokens.model.layers import rms_norm, swiglu
from blocks2tokens.prune import masks, write_plan
from blocks2tokens.prune.influence import influence
from blocks2tokens.prune.repair import repair
from blocks2tokens.prune.structure import drop_layers, take_columns, whole_blocks

IDS = np.random.default_rng(1).integers(3, 320, 48)
SIZES = {"n_layers": 4, "dim": 64, "ffn_dim": 128, "n_heads": 4, "n_kv_heads": 2, "head_dim": 32}
STRUCTURED = {"layers": 0.25, "neurons": 0.5, "heads": 0.5}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A model with biases of Q, K and V, in F32."""
    return small_model(biases=True, **SIZES).write(tmp_path_factory.mktemp("source") / "small.gguf")


def weights_of(path):
    """Return {tensor: float32 weights}, decoded by the gguf package."""
    tensors = gguf.GGUFReader(path).tensors
    return {t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32) for t in tensors}


def changed(model, name, at, value):
    """Set some weights of an F32 tensor."""
    weights = model.tensors[name][1].view(np.float32).copy()
    weights[at] = value
    model.tensors[name] = "F32", plain(weights, "F32")


# --- Whole parts ------------------------------------------------------------------------------------------


def test_a_layer_that_adds_nothing_is_the_one_that_goes(tmp_path, exact):
    model = small_model(**SIZES)
    for name in ("attn_output", "ffn_down"):
        changed(model, f"blk.2.{name}.weight", np.s_[:], 0)
    src = model.write(tmp_path / "src.gguf")
    pruning = b2t.prune(src, tmp_path / "dst.gguf", "layers", 0.25, IDS)
    assert pruning.left_out == "layers 2"
    assert pruning.bytes_after == pruning.path.stat().st_size < pruning.bytes_before
    before, after = b2t.load(src), b2t.load(pruning.path)
    assert after.config.n_layers == 3
    np.testing.assert_allclose(after.logits(IDS), before.logits(IDS), atol=1e-5)


def test_neurons_that_nobody_listens_to_go(tmp_path, exact):
    model = small_model(**SIZES)
    rng = np.random.default_rng(2)
    for i in range(4):
        changed(model, f"blk.{i}.ffn_down.weight", np.s_[:, rng.permutation(128)[:64]], 0)
    src = model.write(tmp_path / "src.gguf")
    pruning = b2t.prune(src, tmp_path / "dst.gguf", "neurons", 0.5, IDS)
    after = b2t.load(pruning.path)
    assert after.config.ffn_dim == 64
    np.testing.assert_allclose(after.logits(IDS), b2t.load(src).logits(IDS), atol=1e-5)


def test_groups_of_heads_that_nobody_listens_to_go(tmp_path, exact):
    model = small_model(biases=True, **SIZES)
    for i, group in enumerate([0, 1, 1, 0]):
        changed(model, f"blk.{i}.attn_output.weight", np.s_[:, 64 * group : 64 * (group + 1)], 0)
    src = model.write(tmp_path / "src.gguf")
    pruning = b2t.prune(src, tmp_path / "dst.gguf", "heads", 0.5, IDS)
    c = b2t.load(pruning.path).config
    assert (c.n_heads, c.n_kv_heads, c.head_dim) == (2, 1, 32)
    np.testing.assert_allclose(b2t.load(pruning.path).logits(IDS), b2t.load(src).logits(IDS), atol=1e-5)


def test_what_stays_are_rows_and_columns_of_what_was(source, tmp_path):
    pruning = b2t.prune(source, tmp_path / "dst.gguf", "neurons", 0.25, IDS)
    before, after = weights_of(source), weights_of(pruning.path)
    for i in range(4):
        up, down = before[f"blk.{i}.ffn_up.weight"], after[f"blk.{i}.ffn_down.weight"]
        rows = [np.flatnonzero((up == row).all(axis=1))[0] for row in after[f"blk.{i}.ffn_up.weight"]]
        assert len(rows) == 96 and rows == sorted(rows)
        assert np.array_equal(after[f"blk.{i}.ffn_gate.weight"], before[f"blk.{i}.ffn_gate.weight"][rows])
        assert np.array_equal(down, before[f"blk.{i}.ffn_down.weight"][:, rows])


@pytest.mark.parametrize("kind", ["F32", "Q8_0", "Q4_0"])
def test_llama_cpp_computes_the_same_with_less(xllamacpp, tmp_path, kind, exact):
    src = small_model(default_format=kind, biases=True, context_length=128, **SIZES).write(
        tmp_path / "s.gguf"
    )
    ids = [int(i) for i in IDS[:8]]
    for by, share in STRUCTURED.items():
        path = b2t.prune(src, tmp_path / f"{by}.gguf", by, share, IDS).path
        logits = b2t.load(path).logits(ids).astype(np.float64)
        expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        with llama_cpp(xllamacpp, path, n_context=128, n_threads=1) as peer:
            for ours, top in zip(expected, peer.forced(ids), strict=True):
                far = max(abs(ours[i] - logprob) for i, logprob in top.items())
                assert far < (5e-3 if kind == "F32" else 0.2), by  # it rounds activations to 8 bits


def test_llama_cpp_runs_austen_without_a_layer(xllamacpp, austen_path, tmp_path):
    model = b2t.load(austen_path)
    ids = model.tokenizer.encode("It was the opinion of the whole family that nothing had been said.")
    path = write_plan(model, tmp_path / "dst.gguf", drop_layers(model, [4])).path
    ours = list(b2t.load(path).generate(ids, 12))
    with llama_cpp(xllamacpp, path, n_context=256, n_threads=1) as peer:
        assert [step.token for step in peer.greedy(ids, 12)] == ours


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "Q4_K"])
def test_whole_blocks_are_copied_and_other_columns_quantized_again(kind):
    fmt = b2t.FORMATS[kind]
    W = np.random.default_rng(0).normal(0, 1, (3, 1024)).astype(np.float32)
    raw, size = fmt.quantize(W), fmt.block_size
    columns = np.r_[size : 2 * size, 3 * size : 4 * size]
    assert np.array_equal(fmt.dequantize(take_columns(raw, fmt, columns)), fmt.dequantize(raw)[:, columns])
    odd = np.arange(0, 2 * size, 2)
    assert whole_blocks(odd, size) is None and whole_blocks(columns, size).tolist() == [1, 3]
    again = fmt.quantize(np.ascontiguousarray(fmt.dequantize(raw)[:, odd]))
    assert np.array_equal(take_columns(raw, fmt, odd), again)


def test_the_summary_says_what_was_rounded_again(tmp_path):
    src = small_model(default_format="Q4_1", **SIZES).write(tmp_path / "src.gguf")
    heads = b2t.prune(src, tmp_path / "heads.gguf", "heads", 0.5, IDS)
    assert heads.requantized == {}  # 64 columns are two blocks
    neurons = b2t.prune(src, tmp_path / "neurons.gguf", "neurons", 0.25, IDS)
    assert neurons.requantized == {f"blk.{i}.ffn_down.weight": "Q4_1" for i in range(4)}
    assert "4 tensors were decoded and quantized again (Q4_1)" in repr(neurons)
    assert "without 32 of 128 neurons a layer: " in repr(neurons)


# --- Single weights ---------------------------------------------------------------------------------------


def by_loops(scores, count):
    keep = np.ones(scores.shape, bool)
    for n, row in enumerate(scores):
        for j in sorted(range(len(row)), key=lambda j: (row[j], j))[:count]:
            keep[n, j] = False
    return keep


@pytest.mark.parametrize("share", [0.1, 0.29, 0.5, 0.9])
def test_a_share_of_each_row_goes(share):
    scores = np.random.default_rng(0).integers(0, 20, (5, 100)).astype(np.float32)  # many are equal
    assert np.array_equal(masks.keep_rows(scores, share), by_loops(scores, round(share * 100)))


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8), (7, 10)])
def test_a_pattern_keeps_n_of_each_m(n, m):
    scores = np.random.default_rng(0).integers(0, 9, (6, 4 * m)).astype(np.float32)
    keep = masks.keep_pattern(scores, n, m)
    assert (keep.reshape(-1, m).sum(axis=1) == n).all()
    assert np.array_equal(keep.reshape(-1, m), by_loops(scores.reshape(-1, m), m - n))


@pytest.mark.parametrize("by", ["magnitude", "wanda"])
@pytest.mark.parametrize("share", [0.5, "2:4"])
def test_the_weights_of_lowest_score_become_zero(source, tmp_path, by, share):
    pruning = b2t.prune(source, tmp_path / "dst.gguf", by, share, IDS)
    assert pruning.zeros == 0.5
    before, after = weights_of(source), weights_of(pruning.path)
    seen = b2t.importance(b2t.load(source), IDS)
    for name in before:
        if "norm" in name or "bias" in name or "embd" in name:
            assert np.array_equal(after[name], before[name]), name
            continue
        W, norms = before[name], np.sqrt(seen.sums[name][0])
        scores = np.abs(W) * norms.astype(np.float32) if by == "wanda" else np.abs(W)
        groups = scores.reshape(-1, 4) if share == "2:4" else scores
        keep = by_loops(groups, groups.shape[1] // 2).reshape(W.shape)
        assert np.array_equal(after[name], np.where(keep, W, 0)), name


def test_in_blocks_with_a_minimum_a_zero_is_only_nearly_one(tmp_path):
    src = small_model(default_format="Q4_1", **SIZES).write(tmp_path / "src.gguf")
    pruning = b2t.prune(src, tmp_path / "dst.gguf", "magnitude", 0.5)
    assert pruning.zeros < 0.4
    assert len(pruning.requantized) == 28
    assert b2t.GGUFFile(pruning.path).format("blk.0.attn_q.weight").name == "Q4_1"


# --- What is learned from a text, and repair ---------------------------------------------------------------


def plainly(model, ids):
    """Return the inputs of each matrix, {name: float32 [T, K]}, and the streams, in the plain pass."""
    seen, streams, layer = {}, [], -1
    names = {id(w): name for layer in model.transformer.layers for name, w in vars(layer).items()}

    def note(x, *matrices):
        seen.update({f"blk.{layer}.{matrix}.weight": x for matrix in matrices})
        return x

    def norm(x, weight, eps):
        nonlocal layer
        out, name = rms_norm(x, weight, eps), names.get(id(weight))
        if name != "ffn_norm":
            streams.append(x)
        if name == "attn_norm":
            layer += 1
            note(out, "attn_q", "attn_k", "attn_v")
        elif name == "ffn_norm":
            note(out, "ffn_gate", "ffn_up")
        return out

    def attended(q, k, v):
        out = attend(q, k, v)
        note(out.reshape(len(ids), -1), "attn_output")
        return out

    def gated(gate, up):
        return note(swiglu(gate, up), "ffn_down")

    forward(model, ids, norm=norm, attend=attended, gated=gated)
    return seen, streams


def test_what_goes_is_what_the_plain_pass_would_leave_out(source, tmp_path, exact):
    """Importance comes from the engine's own pass: the same weights go, and the same neurons."""
    model, before = b2t.load(source), weights_of(source)
    seen, _ = plainly(model, IDS)
    after = weights_of(b2t.prune(source, tmp_path / "w.gguf", "wanda", 0.5, IDS).path)
    for name, x in seen.items():
        W, norms = before[name], np.linalg.norm(x.astype(np.float64), axis=0)
        expected = np.where(by_loops(np.abs(W) * norms, W.shape[1] // 2), W, 0)
        assert (after[name] != expected).mean() < 1e-3, name  # of two scores that nearly agree, either
    neurons = weights_of(b2t.prune(source, tmp_path / "n.gguf", "neurons", 0.5, IDS).path)
    for i in range(4):
        name = f"blk.{i}.ffn_down.weight"
        scores = np.linalg.norm(before[name], axis=0) * np.linalg.norm(seen[name], axis=0)
        best = np.sort(np.argsort(scores)[-64:])
        assert np.array_equal(neurons[name], before[name][:, best])


def test_repair_is_by_the_products_of_the_plain_pass(source, tmp_path, exact):
    model, before = b2t.load(source), weights_of(source)
    seen, _ = plainly(model, IDS)
    after = weights_of(b2t.prune(source, tmp_path / "r.gguf", "magnitude", 0.5, IDS, repair=True).path)
    for name, x in seen.items():
        keep = by_loops(np.abs(before[name]), before[name].shape[1] // 2)
        expected = repair(before[name], keep, triangle(x.T.astype(np.float64) @ x))
        np.testing.assert_allclose(after[name], expected, atol=2e-3 * np.abs(expected).max(), err_msg=name)


def test_influence_is_how_far_the_plain_pass_turns_its_stream(source):
    model = b2t.load(source)
    _, streams = plainly(model, IDS)
    x = np.array(streams, np.float64)
    lengths = np.linalg.norm(x, axis=2)
    cosines = (x[:-1] * x[1:]).sum(axis=2) / (lengths[:-1] * lengths[1:])
    np.testing.assert_allclose(influence(model, IDS), (1 - cosines).mean(axis=1), rtol=1e-9)


def test_influence_is_nothing_where_nothing_is_added(tmp_path):
    model = small_model(**SIZES)
    for name in ("attn_output", "ffn_down"):
        changed(model, f"blk.1.{name}.weight", np.s_[:], 0)
    found = influence(b2t.load(model.write(tmp_path / "m.gguf")), IDS)
    assert abs(found[1]) < 1e-7 and (found[[0, 2, 3]] > 1e-3).all()


def test_windows_count_by_their_tokens(tmp_path):
    model = b2t.load(small_model(context_length=32, **SIZES).write(tmp_path / "m.gguf"))
    parts = [influence(model, part) for part in (IDS[:32], IDS[32:])]
    np.testing.assert_allclose(influence(model, IDS), (32 * parts[0] + 16 * parts[1]) / 48, rtol=1e-9)


@pytest.mark.parametrize("by", STRUCTURED | {"wanda": 0.5})
def test_an_importance_says_what_its_text_says(source, tmp_path, by):
    model, share = b2t.load(source), (STRUCTURED | {"wanda": 0.5})[by]
    ways = IDS, b2t.importance(model, IDS)
    paths = [b2t.prune(source, tmp_path / f"{n}.gguf", by, share, ids).path for n, ids in enumerate(ways)]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_importance_that_does_not_do_is_refused(source, tmp_path):
    model = b2t.load(source)
    found = b2t.importance(model, IDS)
    textless = Importance(found.sums, found.counts)
    without_down = {name: sums for name, sums in found.sums.items() if "down" not in name}
    other = small_model(**SIZES | {"dim": 128}).write(tmp_path / "other.gguf")
    for src, by, repair_, learned, said in (
        (source, "layers", False, textless, "ids: layers needs the tokens of a text"),
        (source, "wanda", True, textless, "ids: repair needs the tokens of a text"),
        (source, "neurons", False, Importance(without_down, found.counts), "none of blk.0.ffn_down.weight"),
        (source, "wanda", False, Importance(without_down, found.counts), "none of blk.0.ffn_down.weight"),
        (other, "wanda", False, found, "importance: of another model"),
        (other, "layers", False, found, "importance: of another model"),
        (other, "magnitude", True, found, "importance: of another model"),
    ):
        with pytest.raises(ValueError, match=said):
            b2t.prune(src, tmp_path / "new.gguf", by, 0.5, learned, repair=repair_)
    assert [path.name for path in tmp_path.iterdir()] == ["other.gguf"]


@pytest.fixture
def inputs():
    rng = np.random.default_rng(0)
    return rng.normal(0, 1, (400, 12)) @ rng.normal(0, 1, (12, 160)) + rng.normal(0, 0.3, (400, 160))


def test_repair_of_one_column_is_the_least_squares_answer(inputs):
    """The columns behind the one that goes take over: solved here by the normal equations, damped alike."""
    W = np.random.default_rng(1).normal(0, 1, (4, 160)).astype(np.float32)
    keep = np.ones(W.shape, bool)
    keep[:, 40] = False
    H = inputs.T @ inputs
    found = repair(W, keep, triangle(H.astype(np.float32)))
    H += 0.01 * np.diag(H).mean() * np.eye(160)
    expected = W.astype(np.float64)
    expected[:, 41:] += np.outer(W[:, 40], np.linalg.solve(H[41:, 41:], H[41:, 40]))
    expected[:, 40] = 0
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_repair_brings_the_product_back(inputs):
    W = np.random.default_rng(1).normal(0, 1, (32, 160)).astype(np.float32)
    keep = masks.keep_rows(masks.wanda_scores(W, np.linalg.norm(inputs, axis=0)), 0.5)
    found = repair(W, keep, triangle((inputs.T @ inputs).astype(np.float32)))
    assert (found[~keep] == 0).all() and found.dtype == np.float32

    def error(V):
        return np.linalg.norm(inputs @ (V - W).T)

    best = np.zeros(W.shape)
    for n, row in enumerate(keep):
        best[n, row] = np.linalg.lstsq(inputs[:, row], inputs @ W[n], rcond=None)[0]
    assert error(best) <= error(found) < 0.5 * error(np.where(keep, W, 0))


def test_repair_lowers_the_surprise_of_what_was_seen(austen_path, tmp_path, heldout):
    ids = heldout[:768]
    paths = {
        r: b2t.prune(austen_path, tmp_path / f"{r}.gguf", "wanda", 0.7, ids, repair=r).path for r in (0, 1)
    }
    assert b2t.perplexity(b2t.load(paths[1]), ids).nats < b2t.perplexity(b2t.load(paths[0]), ids).nats


@pytest.fixture(scope="module")
def heldout(austen_path):
    from blocks2tokens.course.models import heldout_text

    return b2t.load(austen_path).tokenizer.encode(heldout_text()[:8000])


# --- Refusals, and no half files --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("layer", 0.5, IDS), "by: expected one of layers, neurons, heads, magnitude, wanda, got 'layer'"),
        (("layers", 0.0, IDS), "share: expected a number between 0 and 1, got 0.0"),
        (("wanda", 1.0, IDS), "share: expected a number between 0 and 1, got 1.0"),
        (("wanda", float("nan"), IDS), "share: expected a number between 0 and 1, got nan"),
        (("wanda", True, IDS), "share: expected a number between 0 and 1, got True"),
        (("wanda", "4:2", IDS), "share: expected n:m with 0 < n < m, such as '2:4', got '4:2'"),
        (("wanda", "half", IDS), "share: expected n:m"),
        (("heads", "2:4", IDS), "share: heads go by a number between 0 and 1, got '2:4'"),
        (("magnitude", "2:5", IDS), "2:5: expected rows of a multiple of 5 weights, got 64"),
        (("layers", 0.9, IDS), "share: 0.9 of 4 layers leaves out all, expected some"),
        (("layers", 0.1, IDS), "share: 0.1 of 4 layers leaves out none, expected some"),
        (("heads", 0.9, IDS), "share: 0.9 of 2 groups of heads leaves out all"),
        (("neurons", 0.1, IDS), "share: 0.1 of 128 neurons, in steps of 32 leaves out none"),
        (
            ("wanda", 0.5),
            "ids: expected tokens of a text that says what matters, which wanda needs, got None",
        ),
        (("magnitude", 0.5, None, True), "which repair needs"),
        (("layers", 0.5, IDS, True), "repair: only by magnitude or wanda"),
        (("layers", 0.5, IDS[:15]), f"ids: expected a text of at least {LEAST} tokens, got 15"),
        (("neurons", 0.5, IDS[:15]), f"ids: expected a text of at least {LEAST} tokens, got 15"),
        (("wanda", 0.5, []), "ids: expected at least one token id in one dimension, got []"),
        (("layers", 0.5, "It was the opinion"), "ids: expected at least one token id in one dimension"),
        (("magnitude", 0.5, IDS[:15], True), f"ids: expected a text of at least {LEAST} tokens, got 15"),
        (("layers", 0.5, [*IDS, 320]), "ids: expected 0 <= id < 320, got 320"),
    ],
)
def test_what_makes_no_sense_is_refused(source, tmp_path, arguments, said):
    with pytest.raises(ValueError) as error:
        b2t.prune(source, tmp_path / "dst.gguf", *arguments)
    assert said in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_heads_whose_columns_do_not_fill_blocks_are_refused(tmp_path):
    formats = {"attn_output": "Q4_K"}
    sizes = {"dim": 64, "n_heads": 8, "n_kv_heads": 8, "head_dim": 32}
    src = small_model(formats=formats, **sizes).write(tmp_path / "src.gguf")
    with pytest.raises(
        ValueError, match=r"rows of 128 weights, in groups of 32, .* multiple of 256 for Q4_K"
    ):
        b2t.prune(src, tmp_path / "dst.gguf", "heads", 0.5, IDS)
    assert [path.name for path in tmp_path.iterdir()] == ["src.gguf"]


@pytest.mark.parametrize("architecture", ["qwen3moe", "gemma3", "phi3", "gpt-oss"])
def test_other_families_are_refused(tmp_path, architecture):
    src = small_model(architecture).write(tmp_path / "src.gguf")
    with pytest.raises(UnsupportedError, match=f"architecture '{architecture}'"):
        b2t.prune(src, tmp_path / "dst.gguf", "layers", 0.5, IDS)


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
@pytest.mark.parametrize("by", STRUCTURED)
def test_qwen_is_pruned_too(tmp_path, architecture, by):
    src = small_model(architecture, **SIZES).write(tmp_path / "src.gguf")
    path = b2t.prune(src, tmp_path / "dst.gguf", by, STRUCTURED[by], IDS).path
    assert np.isfinite(b2t.load(path).logits(IDS)).all()


def test_the_source_is_never_replaced(source):
    before = source.read_bytes()
    with pytest.raises(ValueError, match="another file than src"):
        b2t.prune(source, source, "magnitude", 0.5)
    assert source.read_bytes() == before


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    model = small_model(**SIZES)
    changed(model, "blk.1.ffn_up.weight", np.s_[3, 5], np.nan)
    src = model.write(tmp_path / "src.gguf")
    with pytest.raises(GGUFError, match=r"blk\.1\.ffn_up\.weight holds weights that are no finite numbers"):
        b2t.prune(src, tmp_path / "dst.gguf", "magnitude", 0.5)
    assert [path.name for path in tmp_path.iterdir()] == ["src.gguf"]


@pytest.mark.parametrize("by", ["layers", "wanda"])
@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_what_is_interrupted_leaves_the_file_that_was_there(source, tmp_path, monkeypatch, by, failure):
    dst = tmp_path / "dst.gguf"
    dst.write_bytes(b"as it was")
    calls = []

    def fail(self, file):
        calls.append(self)
        if len(calls) > 5:
            raise failure

    monkeypatch.setattr(sys.modules["blocks2tokens.gguf_writer"]._Rows, "tofile", fail)
    with pytest.raises(type(failure)):
        b2t.prune(source, dst, by, 0.5, IDS)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("dst.gguf", b"as it was")]


@pytest.mark.parametrize(("share", "stay"), [(0.3, 3), (0.4, 2), (0.6, 2), (0.7, 1)])
def test_whole_numbers_are_the_nearest(source, tmp_path, share, stay):
    path = b2t.prune(source, tmp_path / "dst.gguf", "layers", share, IDS).path
    assert b2t.load(path).config.n_layers == stay
    assert abs(stay / 4 - (1 - share)) <= 0.5 / 4 and stay <= ceil(4 * (1 - share))


@pytest.mark.parametrize("gone", [[], [0, 1, 2, 3], [4], [-1]])
def test_layers_that_are_not_there_cannot_go(source, gone):
    with pytest.raises(ValueError, match="layers: expected some of 0 to 3, and not all"):
        drop_layers(b2t.load(source), gone)
