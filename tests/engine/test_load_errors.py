"""Files whose settings, tensors or vocabulary are wrong: load() names what it will not take, and why."""

import numpy as np
import pytest
from small_model import plain, random_tensor, small_model, vocabulary

import blocks2tokens as b2t
from blocks2tokens import GGUFError, UnsupportedError
from blocks2tokens.model.architectures import ALWAYS, ARCHITECTURES, FFN, NEVER, QKV

RNG = np.random.default_rng(0)


def put_tensor(small, name, *shape, format_name="F32"):
    """Replace or add a tensor."""
    small.tensors[name] = random_tensor(format_name, shape, RNG)


def refused(small, path, error, *words):
    """Check that load() raises exactly this error, naming the file and each of the words."""
    small.write(path)
    with pytest.raises(error) as raised:
        b2t.load(path)
    assert type(raised.value) is error
    for word in (path.name, *words):
        assert word in str(raised.value)


def logits(small, path):
    return b2t.load(small.write(path)).logits(list(range(3, 19)))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "small.gguf"


YARN = {"type": "yarn", "factor": 4.0, "original_context_length": 16}
LLAMA3 = {"type": "llama3", "original_context_length": 16}


WITHOUT_WINDOWS = [name for name, family in ARCHITECTURES.items() if not family.windows]
WITHOUT_EXPERTS = [name for name, family in ARCHITECTURES.items() if family.experts == NEVER]
WITH_EXPERTS = [name for name, family in ARCHITECTURES.items() if family.experts == ALWAYS]
WITH_PERIODS = [name for name, family in ARCHITECTURES.items() if family.period]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_model_that_is_spoiled_below_loads(path, architecture):
    for options in ({}, {"tied": False, "head_dim": 16}):
        small = small_model(architecture, n_layers=1, **options)
        assert len(b2t.load(small.write(path)).logits([1, 2])) == 2


# --- Settings ---------------------------------------------------------------------------------------------

WHOLE = ["block_count", "context_length", "embedding_length", "feed_forward_length"]
WHOLE += ["attention.head_count", "attention.head_count_kv", "attention.key_length"]
NUMBERS = ["attention.layer_norm_rms_epsilon", "rope.freq_base"]
REQUIRED = [*WHOLE[:5], NUMBERS[0]]
NO_COUNTS = [0, -1, 2.0, "2", True, [2, 2], [2.0], ["2"], 2**31, 2**32 - 1, 2**40]
NO_NUMBERS = [0.0, -1.0, 0, -1, float("nan"), float("inf"), "0.1", True, [0.1]]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_setting_is_named(path, key, architecture):
    if key == "feed_forward_length" and architecture in WITH_EXPERTS:
        key = "expert_count"  # the width of an expert may be said in two ways
    small = small_model(architecture)
    del small.metadata[f"{architecture}.{key}"]
    refused(small, path, GGUFError, f"{architecture}.{key}", "missing")


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name not in WITH_EXPERTS])
@pytest.mark.parametrize("key", [*WHOLE, *NUMBERS])
def test_impossible_settings_of_other_architectures_are_named(path, key, architecture):
    for value in (0, -2, "2", float("nan")):
        small = small_model(architecture, head_dim=16)
        small.metadata[f"{architecture}.{key}"] = value
        refused(small, path, GGUFError, f"{architecture}.{key}", "expected a positive", str(value))


def test_settings_of_another_architecture_do_not_count(path):
    small = small_model("qwen2")
    small.metadata |= {"llama.block_count": 2, "general.architecture": "qwen3"}
    refused(small, path, GGUFError, "qwen3.embedding_length", "missing")


@pytest.mark.parametrize("value", NO_COUNTS, ids=str)
@pytest.mark.parametrize("key", WHOLE)
def test_what_is_no_count_is_named(path, key, value):
    small = small_model(head_dim=16)
    small.metadata[f"llama.{key}"] = value
    refused(small, path, GGUFError, f"llama.{key}", "positive whole number", str(value)[:3])


@pytest.mark.parametrize("value", NO_NUMBERS, ids=str)
@pytest.mark.parametrize("key", NUMBERS)
def test_what_is_no_number_is_named(path, key, value):
    small = small_model()
    small.metadata[f"llama.{key}"] = value
    refused(small, path, GGUFError, f"llama.{key}", "positive number", str(value)[:3])


@pytest.mark.parametrize("value", [None, 7, ["llama"], [1, 2]], ids=str)
def test_an_architecture_that_is_no_string_is_named(path, value):
    small = small_model()
    small.metadata["general.architecture"] = value
    if value is None:
        del small.metadata["general.architecture"]
    refused(small, path, GGUFError, "general.architecture", "expected a string")


@pytest.mark.parametrize("value", ["", "LLAMA", "mamba", "qwen", "qwen2moe", "qwen35", "llama4", "gemma"])
def test_an_unknown_architecture_is_named(path, value):
    small = small_model()
    small.metadata["general.architecture"] = value
    refused(small, path, UnsupportedError, "architecture", repr(value), *ARCHITECTURES)


IMPOSSIBLE_HEADS = {
    "shared unevenly": ({"n_heads": 4, "n_kv_heads": 3}, "attention.head_count_kv", "3 does not"),
    "more shared than there are": ({"n_heads": 2, "n_kv_heads": 4}, "attention.head_count_kv", "4 does"),
    "width unknown": ({"n_heads": 3, "n_kv_heads": 3}, "attention.key_length", "missing"),
    "odd width": ({"n_heads": 4, "head_dim": 15}, "attention.key_length", "heads of 15"),
    "width of one": ({"n_heads": 64, "n_kv_heads": 64}, "attention.key_length", "heads of 1"),
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("case", IMPOSSIBLE_HEADS)
def test_heads_that_cannot_be_are_named(path, case, architecture):
    shape, key, reason = IMPOSSIBLE_HEADS[case]
    refused(small_model(architecture, **shape), path, GGUFError, f"{architecture}.{key}", reason)


UNSUPPORTED = {
    "attention.value_length": [8, 17, "16", [16, 16]],
    "attention.scale": [0.5],
    "final_logit_softcapping": [30.0, "30"],
    "attn_logit_softcapping": [50.0],
    "expert_shared_count": [1],
    "expert_group_count": [2],
    "expert_gating_func": [2, 0],
    "expert_weights_norm": [False],
    "expert_weights_scale": [2.5, "1"],
    "rope.freq_base_swa": [5e5],
    "attention.sliding_window": [64],
    "attention.causal": [False],
    "rope.dimension_count": [8, 0, "16", [16, 16]],
    "rope.scaling.type": ["longrope", "llama3", "YARN", "", 0, ["none", "none"]],
    "rope.scaling.yarn_ext_factor": [0.5, 0.0],
    "rope.scaling.yarn_attn_factor": [1.25],
    "rope.scaling.yarn_log_multiplier": [0.1],
    "rope.scaling.yarn_beta_fast": [16.0, "32", float("nan")],
    "rope.scaling.yarn_beta_slow": [2.0, 0.0],
    "expert_count": [8, 2.0, [0, 0]],
}


SPARED = {  # the families that do not have what such a key says
    "attention.sliding_window": WITHOUT_WINDOWS,
    "rope.freq_base_swa": WITHOUT_WINDOWS,
    "expert_count": WITHOUT_EXPERTS,
    "attn_logit_softcapping": [name for name, family in ARCHITECTURES.items() if family.attn_softcap is None],
    "final_logit_softcapping": [
        name for name, family in ARCHITECTURES.items() if family.logit_softcap is None
    ],
}


@pytest.mark.parametrize(
    ("architecture", "key", "value"),
    [
        (architecture, key, value)
        for key, values in UNSUPPORTED.items()
        for value in values
        for architecture in SPARED.get(key, ARCHITECTURES)
    ],
)
def test_a_variant_that_would_come_out_wrong_is_named(path, key, value, architecture):
    small = small_model(architecture, head_dim=16, rope_scaling={} if architecture == "gemma3" else YARN)
    small.metadata[f"{architecture}.{key}"] = value
    wanted = "supported" if key == "rope.scaling.type" else "expected"
    refused(small, path, UnsupportedError, f"{architecture}.{key}", wanted, str(value)[:4])


def test_settings_that_change_nothing_are_taken(path):
    small = small_model(head_dim=16)
    neutral = {
        "rope.scaling.type": "none",
        "rope.scaling.factor": 1.0,
        "rope.scaling.finetuned": True,
        "rope.scaling.yarn_ext_factor": 1.0,
        "rope.scaling.yarn_beta_fast": 32.0,
        "attention.sliding_window": 0,
        "attention.causal": True,
        "expert_count": 0,
        "vocab_size": 320,
    }
    small.metadata |= {f"llama.{key}": value for key, value in neutral.items()}
    assert np.array_equal(logits(small, path), logits(small_model(head_dim=16), path))


# --- Windows, caps, experts -------------------------------------------------------------------------------


@pytest.mark.parametrize("value", NO_COUNTS, ids=str)
@pytest.mark.parametrize("architecture", WITH_PERIODS)
def test_what_is_no_window_is_named(path, architecture, value):
    small = small_model(architecture, settings={"attention.sliding_window": value})
    refused(small, path, GGUFError, f"{architecture}.attention.sliding_window", "positive", str(value)[:3])


@pytest.mark.parametrize("value", [-1, 2.0, "8", True, [8, 8], 2**31], ids=str)
@pytest.mark.parametrize("architecture", ["llama", "phi3"])
def test_what_is_no_window_is_named_where_0_stands_for_none(path, architecture, value):
    small = small_model(architecture, settings={"attention.sliding_window": value})
    refused(small, path, GGUFError, f"{architecture}.attention.sliding_window", "positive", str(value)[:3])


def test_a_window_that_must_be_stated_is_named(path):
    small = small_model("gpt-oss")
    del small.metadata["gpt-oss.attention.sliding_window"]
    refused(small, path, GGUFError, "gpt-oss.attention.sliding_window", "missing")


NO_PATTERNS = [-1, 2.0, "2", True, [True], [True] * 3, [1, 0], ["a", "b"], 2**31]


@pytest.mark.parametrize("value", NO_PATTERNS, ids=str)
@pytest.mark.parametrize("architecture", [*WITH_PERIODS, "llama"])
def test_what_is_no_pattern_of_windows_is_named(path, architecture, value):
    key = "attention.sliding_window_pattern"
    small = small_model(architecture, settings={"attention.sliding_window": 8, key: value})
    refused(small, path, GGUFError, f"{architecture}.{key}", "expected")


@pytest.mark.parametrize("value", [-1.0, -1, float("nan"), float("inf"), "30", True, [30.0]], ids=str)
@pytest.mark.parametrize("key", ["attn_logit_softcapping", "final_logit_softcapping"])
def test_what_is_no_cap_is_named(path, key, value):
    small = small_model("gemma2", settings={key: value})
    refused(small, path, GGUFError, f"gemma2.{key}", "positive number", str(value)[:3])


@pytest.mark.parametrize("value", NO_NUMBERS, ids=str)
def test_what_is_no_base_of_windows_is_named(path, value):
    small = small_model("gemma3", settings={"rope.freq_base_swa": value})
    refused(small, path, GGUFError, "gemma3.rope.freq_base_swa", "positive number", str(value)[:3])


def test_yarn_beside_layers_with_another_base_is_named(path):
    refused(
        small_model("gemma3", rope_scaling=YARN), path, UnsupportedError, "gemma3.rope.scaling.type", "'yarn'"
    )


@pytest.mark.parametrize("key", ["expert_count", "expert_used_count"])
@pytest.mark.parametrize("value", NO_COUNTS, ids=str)
@pytest.mark.parametrize("architecture", WITH_EXPERTS)
def test_what_is_no_count_of_experts_is_named(path, architecture, key, value):
    small = small_model(architecture, settings={key: value})
    refused(small, path, GGUFError, f"{architecture}.{key}", "positive whole number", str(value)[:3])


@pytest.mark.parametrize("architecture", [*WITH_EXPERTS, "llama"])
def test_experts_that_cannot_be_are_named(path, architecture):
    def spoiled(**settings):
        return small_model(architecture, n_experts=8, settings=settings)

    used, count = f"{architecture}.expert_used_count", f"{architecture}.expert_count"
    refused(spoiled(expert_used_count=9), path, GGUFError, used, "9 of 8 experts")
    many = {"expert_used_count": 600, "expert_count": 2**31 - 1}
    refused(spoiled(**many), path, UnsupportedError, used, "600", "512")
    few = spoiled(expert_count=2**31 - 1)
    refused(few, path, GGUFError, "blk.0.ffn_gate_exps.weight", "expected shape", "(8, 96, 64)")
    few = spoiled()
    del few.metadata[used]
    refused(few, path, GGUFError, used, "missing")
    del few.metadata[count]
    if architecture == "llama":  # no mixture, then: but the file has no other feed-forward part
        refused(few, path, GGUFError, "blk.0.ffn_gate.weight", "missing")
    else:
        refused(few, path, GGUFError, count, "missing")


@pytest.mark.parametrize("architecture", WITH_EXPERTS)
def test_a_width_that_experts_do_not_share_is_named(path, architecture):
    small = small_model(architecture, n_used=3, settings={"feed_forward_length": 100})
    del small.metadata[f"{architecture}.expert_feed_forward_length"]
    refused(small, path, GGUFError, f"{architecture}.feed_forward_length", "3 experts", "100")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_more_heads_than_a_stage_has_jobs_are_named(path, architecture):
    settings = {"attention.head_count": 480, "attention.head_count_kv": 40}
    small = small_model(architecture, head_dim=16, settings=settings)
    refused(small, path, UnsupportedError, f"{architecture}.attention.head_count", "480", "512")


# --- RoPE scaling -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", NO_NUMBERS, ids=str)
@pytest.mark.parametrize("key", ["rope.scaling.factor", "rope.scale_linear", "rope.scaling.attn_factor"])
@pytest.mark.parametrize("kind", ["linear", "yarn", None])
def test_what_is_no_scale_is_named(path, kind, key, value):
    small = small_model("qwen2", rope_scaling={"type": kind} if kind else {})
    small.metadata[f"qwen2.{key}"] = value
    refused(small, path, GGUFError, f"qwen2.{key}", "positive number", str(value)[:3])


@pytest.mark.parametrize("value", NO_COUNTS, ids=str)
def test_what_is_no_original_context_is_named(path, value):
    key = "rope.scaling.original_context_length"
    small = small_model("qwen3", rope_scaling=YARN)
    small.metadata[f"qwen3.{key}"] = value
    refused(small, path, GGUFError, f"qwen3.{key}", "positive whole number", str(value)[:3])


@pytest.mark.parametrize("theta", [1.0, 0.5])
@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "gemma3"])
def test_yarn_needs_frequencies_that_fall(path, architecture, theta):
    small = small_model(architecture, rope_scaling=YARN, rope_theta=theta)
    refused(small, path, GGUFError, f"{architecture}.rope.freq_base", "yarn")


EQUAL_SCALINGS = {
    "linear, by its old name": ({"type": "linear", "factor": 4.0}, {"rope.scale_linear": 4.0}),
    "linear, unsaid": ({"type": "linear", "factor": 4.0}, {"rope.scaling.factor": 4.0}),
    "a whole number": ({"type": "linear", "factor": 4.0}, {"rope.scaling.factor": 4}),
    "the new name goes first": (
        {"type": "linear", "factor": 4.0},
        {"rope.scaling.factor": 4.0, "rope.scale_linear": 2.0},
    ),
    "none": (None, {"rope.scaling.type": "none", "rope.scaling.factor": 4.0}),
    "linear by one": (None, {"rope.scaling.type": "linear", "rope.scaling.factor": 1.0}),
    "linear by nothing": (None, {"rope.scaling.type": "linear"}),
    "yarn by one": (None, {"rope.scaling.type": "yarn", "rope.scaling.factor": 1.0}),
}


@pytest.mark.parametrize("case", EQUAL_SCALINGS)
@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "gemma3"])
def test_a_scaling_said_in_another_way_is_the_same(path, architecture, case):
    scaling, keys = EQUAL_SCALINGS[case]
    small = small_model(architecture)
    small.metadata |= {f"{architecture}.{key}": value for key, value in keys.items()}
    expected = logits(small_model(architecture, rope_scaling=scaling), path)
    assert np.allclose(logits(small, path), expected, rtol=0, atol=1e-4)
    assert scaling is None or not np.allclose(expected, logits(small_model(architecture), path), atol=0.1)


def test_layers_with_another_base_are_not_scaled(path):
    def of(n_layers, scaling):
        return logits(small_model("gemma3", n_layers=n_layers, rope_scaling=scaling), path)

    linear = {"type": "linear", "factor": 4.0}
    assert np.array_equal(of(5, linear), of(5, None))  # all have windows
    assert not np.allclose(of(6, linear), of(6, None), atol=0.1)


def test_factors_of_frequencies_must_be_numbers_above_zero(path):
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        small = small_model(rope_scaling=LLAMA3)
        factors = np.ones(8, np.float32)
        factors[3] = bad
        small.tensors["rope_freqs.weight"] = "F32", plain(factors, "F32")
        refused(small, path, GGUFError, "tensor rope_freqs.weight", "positive")


@pytest.mark.parametrize("shape", [(7,), (9,), (16,), (1, 8), (8, 1)], ids=str)
def test_factors_of_frequencies_are_one_for_each_pair(path, shape):
    small = small_model(rope_scaling=LLAMA3)
    put_tensor(small, "rope_freqs.weight", *shape)
    refused(small, path, GGUFError, "tensor rope_freqs.weight", "expected shape (8,)", str(shape))


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "llama"])
def test_factors_of_frequencies_belong_to_llama(path, architecture):
    small = small_model(architecture, rope_scaling=LLAMA3)
    refused(small, path, UnsupportedError, "tensor rope_freqs.weight", "no place")


# --- Tensors ----------------------------------------------------------------------------------------------

TENSORS = {name: list(small_model(name, n_layers=1, tied=False).tensors) for name in ARCHITECTURES}
ALL_TENSORS = [(architecture, name) for architecture in ARCHITECTURES for name in TENSORS[architecture]]


@pytest.mark.parametrize(
    ("architecture", "name"), [both for both in ALL_TENSORS if both[1] != "output.weight"]
)
def test_a_missing_tensor_is_named(path, architecture, name):
    small = small_model(architecture, n_layers=1, tied=False)
    del small.tensors[name]
    refused(small, path, GGUFError, f"tensor {name}")


def test_a_missing_layer_is_named(path):
    small = small_model(n_layers=2)
    small.metadata["llama.block_count"] = 2**31 - 1
    refused(small, path, GGUFError, "tensor blk.2.attn_norm.weight is missing")


def raw_shape(small, name):
    """Return the shape of a tensor in weights; all of them are F32."""
    raw = small.tensors[name][1]
    return (*raw.shape[:-1], raw.shape[-1] // 4)


@pytest.mark.parametrize(("architecture", "name"), ALL_TENSORS)
def test_a_tensor_of_another_shape_is_named(path, architecture, name):
    shape = raw_shape(small_model(architecture, n_layers=1, tied=False), name)
    flat = (int(np.prod(shape)),)
    others = {(*shape[:-1], shape[-1] + 32), (shape[-1], 33), (*shape, 1), (1, *shape), flat} - {shape}
    for other in others:
        small = small_model(architecture, n_layers=1, tied=False)
        put_tensor(small, name, *other)
        # The embedding's rows are the vocabulary's size: other matrices then differ from it.
        refused(small, path, GGUFError, "tensor", "expected", "got")
        if name != "token_embd.weight":
            refused(small, path, GGUFError, f"tensor {name}", str(shape), str(other))


@pytest.mark.parametrize("shape", [(320 * 64,), (320, 64, 1), (1, 320, 64)], ids=str)
def test_an_embedding_that_is_no_matrix_is_named(path, shape):
    small = small_model()
    put_tensor(small, "token_embd.weight", *shape)
    refused(small, path, GGUFError, "token_embd.weight", "expected a matrix", str(shape))


UNKNOWN_TYPES = {"I8": 256, "I32": 4 * 256, "F64": 8 * 256}  # bytes of 256 weights


@pytest.mark.parametrize("name", ["token_embd.weight", "blk.0.attn_q.weight", "blk.0.attn_norm.weight"])
@pytest.mark.parametrize("kind", UNKNOWN_TYPES)
def test_a_tensor_of_an_unknown_type_is_named(path, name, kind):
    small = small_model(dim=256, n_layers=1)
    row_bytes = UNKNOWN_TYPES[kind]
    small.tensors[name] = (kind, np.zeros((*raw_shape(small, name)[:-1], row_bytes), np.uint8))
    refused(small, path, UnsupportedError, name, kind)


WITHOUT_PLACE = ["output.bias", "blk.0.attn_qkv.bias", "blk.0.ffn_gate_shexp.weight", "blk.0.attn_norm.bias"]
WITHOUT_PLACE += ["blk.2.attn_q.weight", "blk.2.attn_q.bias", "attn_q.bias", "extra"]
WITHOUT_BIASES = [name for name in ARCHITECTURES if name not in ("llama", "gpt-oss")]
HEAD_NORMS = ["blk.0.attn_q_norm.weight", "blk.0.attn_k_norm.weight"]


@pytest.mark.parametrize(
    ("architecture", "name"),
    [(architecture, name) for architecture in ARCHITECTURES for name in WITHOUT_PLACE]
    + [(architecture, name) for architecture in ("llama", "qwen2", "gemma2") for name in HEAD_NORMS]
    + [(name, f"blk.0.{part}.bias") for name in WITHOUT_BIASES for part in ("attn_output", "ffn_down")],
)
def test_a_tensor_without_a_place_is_named(path, architecture, name):
    small = small_model(architecture, n_layers=2)
    put_tensor(small, name, 16)
    refused(small, path, UnsupportedError, f"tensor {name}", "no place")


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        (name, part)
        for name, family in ARCHITECTURES.items()
        for part in family.optional_biases
        if name != "gpt-oss"
    ],
)
def test_a_bias_that_may_be_there_must_fit(path, architecture, name):
    small = small_model(architecture)
    put_tensor(small, f"blk.0.{name}.bias", 65)
    refused(small, path, GGUFError, f"tensor blk.0.{name}.bias", "expected shape", "(65,)")


def test_what_the_table_names_are_matrices_of_a_layer():
    names = {*QKV, "attn_output", *FFN, "ffn_gate_inp", *(f"{name}_exps" for name in FFN)}
    for family in ARCHITECTURES.values():
        assert {*family.biases, *family.optional_biases} <= names


def test_a_norm_may_be_stored_in_blocks(path):
    small = small_model("qwen3")
    put_tensor(small, "blk.1.attn_q_norm.weight", 16, format_name="F16")
    put_tensor(small, "output_norm.weight", 64, format_name="Q8_0")
    assert b2t.load(small.write(path)).transformer.output_norm.shape == (64,)


# --- Vocabulary -------------------------------------------------------------------------------------------

KEY = "tokenizer.ggml."
TOKENS, MERGES = vocabulary(320)
MISSING = "left out"
BROKEN_VOCABULARIES = {
    "model": [MISSING, 1, ["gpt2", "gpt2"], [1, 2]],
    "pre": [1, ["smollm"], [1, 2]],
    "tokens": [MISSING, 1, "a", [1, 2], [["a"], ["b"]], [*TOKENS[:7], b"\xff", *TOKENS[8:]]],
    "merges": [MISSING, 1, "a b", [1, 2], [["a", "b"]], ["h"], ["h "], [" h"], ["h e x"], [*MERGES, "Ġ Ġ"]],
    "token_type": [1, "a", [1], [1] * 319, [1] * 321, ["1"] * 320, [1.0] * 320, [[1]] * 320],
    "bos_token_id": [-1, 320, 2**32 - 1, 2**40, 1.0, "1", True, [1]],
    "eos_token_id": [-1, 320, "2"],
    "eot_token_id": [320],
    "add_bos_token": [1, "true", [True]],
}


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in BROKEN_VOCABULARIES.items() for value in values]
)
def test_what_is_no_vocabulary_is_named(path, key, value):
    small = small_model()
    if value is MISSING:
        del small.metadata[KEY + key]
    else:
        small.metadata[KEY + key] = value
    refused(small, path, GGUFError, f"{KEY}{key}:")


@pytest.mark.parametrize(("rows", "tokens"), [(321, 320), (319, 320), (640, 320)])
def test_a_vocabulary_of_another_size_than_the_embedding_is_named(path, rows, tokens):
    small = small_model(vocab_size=tokens)
    put_tensor(small, "token_embd.weight", rows, 64)
    refused(small, path, GGUFError, f"{KEY}tokens", f"expected {rows}", f"got {tokens}", "token_embd.weight")


def test_a_duplicate_token_is_shown(path):
    small = small_model()
    small.metadata[f"{KEY}tokens"][300] = "Ġthe"
    refused(small, path, GGUFError, "'Ġthe' appears twice")


def test_a_beginning_that_is_asked_for_must_be_known(path):
    small = small_model()
    small.metadata[f"{KEY}add_bos_token"] = True
    del small.metadata[f"{KEY}bos_token_id"]
    refused(small, path, GGUFError, f"{KEY}bos_token_id", "missing")


@pytest.mark.parametrize(
    ("key", "value"),
    [("model", "no-such-model"), ("model", ""), ("pre", "no-such-pre"), ("pre", "GPT-2"), ("pre", "")],
)
def test_a_tokenizer_that_we_do_not_have_is_named(path, key, value):
    small = small_model()
    small.metadata[KEY + key] = value
    refused(small, path, UnsupportedError, "tokenizer", repr(value), "supported")


def test_keys_that_a_vocabulary_can_do_without(path):
    small = small_model(chat_template=None)
    for key in ("pre", "token_type", "bos_token_id", "eos_token_id", "add_bos_token"):
        del small.metadata[KEY + key]
    tokenizer = b2t.load(small.write(path)).tokenizer
    assert tokenizer.decode(tokenizer.encode("no keys")) == "no keys"
    assert tokenizer.bos is tokenizer.eos is tokenizer.chat_template is None
