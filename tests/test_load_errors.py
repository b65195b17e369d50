"""Files whose settings, tensors or vocabulary are wrong: load() names what it will not take, and why."""

import numpy as np
import pytest
from small_model import random_tensor, small_model, vocabulary

import blocks2tokens as b2t
from blocks2tokens import GGUFError, UnsupportedError

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


@pytest.fixture
def path(tmp_path):
    return tmp_path / "small.gguf"


def test_the_model_that_is_spoiled_below_loads(path):
    assert len(b2t.load(small_model().write(path)).logits([1, 2])) == 2


# --- Settings ---------------------------------------------------------------------------------------------

WHOLE = ["block_count", "context_length", "embedding_length", "feed_forward_length"]
WHOLE += ["attention.head_count", "attention.head_count_kv", "attention.key_length"]
NUMBERS = ["attention.layer_norm_rms_epsilon", "rope.freq_base"]
REQUIRED = [*WHOLE[:5], NUMBERS[0]]
NO_COUNTS = [0, -1, 2.0, "2", True, [2, 2], [2.0], ["2"], 2**31, 2**32 - 1, 2**40]
NO_NUMBERS = [0.0, -1.0, 0, -1, float("nan"), float("inf"), "0.1", True, [0.1]]


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_setting_is_named(path, key):
    small = small_model()
    del small.metadata[f"llama.{key}"]
    refused(small, path, GGUFError, f"llama.{key}", "missing")


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


@pytest.mark.parametrize("value", ["", "LLAMA", "mamba"])
def test_an_unknown_architecture_is_named(path, value):
    small = small_model()
    small.metadata["general.architecture"] = value
    refused(small, path, UnsupportedError, "architecture", repr(value), "llama")


IMPOSSIBLE_HEADS = {
    "shared unevenly": ({"n_heads": 4, "n_kv_heads": 3}, "llama.attention.head_count_kv", "3 does not"),
    "more shared than there are": (
        {"n_heads": 2, "n_kv_heads": 4},
        "llama.attention.head_count_kv",
        "4 does",
    ),
    "width unknown": ({"n_heads": 3, "n_kv_heads": 3}, "llama.attention.key_length", "missing"),
    "odd width": ({"n_heads": 4, "head_dim": 15}, "llama.attention.key_length", "heads of 15"),
    "width of one": ({"n_heads": 64, "n_kv_heads": 64}, "llama.attention.key_length", "heads of 1"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE_HEADS)
def test_heads_that_cannot_be_are_named(path, case):
    shape, *words = IMPOSSIBLE_HEADS[case]
    refused(small_model(**shape), path, GGUFError, *words)


UNSUPPORTED = {
    "attention.value_length": [8, 17, "16", [16, 16]],
    "rope.dimension_count": [8, 0, "16", [16, 16]],
    "rope.scaling.type": ["linear", "yarn", "longrope", "", 0, ["none", "none"]],
    "rope.scaling.factor": [4.0, 0.5, "1"],
    "rope.scale_linear": [4.0],
    "expert_count": [8, 2.0, [0, 0]],
}


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key in UNSUPPORTED for value in UNSUPPORTED[key]]
)
def test_a_variant_that_would_come_out_wrong_is_named(path, key, value):
    small = small_model(head_dim=16)
    small.metadata[f"llama.{key}"] = value
    refused(small, path, UnsupportedError, f"llama.{key}", "expected", str(value)[:4])


def test_settings_that_change_nothing_are_taken(path):
    small = small_model(head_dim=16)
    neutral = {"rope.scaling.type": "none", "rope.scaling.factor": 1.0, "expert_count": 0, "vocab_size": 320}
    small.metadata |= {f"llama.{key}": value for key, value in neutral.items()}
    b2t.load(small.write(path))


# --- Tensors ----------------------------------------------------------------------------------------------

TENSORS = list(small_model(n_layers=1, tied=False).tensors)
MATRICES = [name for name in TENSORS if "norm" not in name]


@pytest.mark.parametrize("name", [name for name in TENSORS if name != "output.weight"])
def test_a_missing_tensor_is_named(path, name):
    small = small_model(n_layers=1, tied=False)
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


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_of_another_shape_is_named(path, name):
    shape = raw_shape(small_model(n_layers=1, tied=False), name)
    flat = (int(np.prod(shape)),)
    others = {(*shape[:-1], shape[-1] + 32), (shape[-1], 33), (*shape, 1), (1, *shape), flat} - {shape}
    for other in others:
        small = small_model(n_layers=1, tied=False)
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


UNKNOWN_TYPES = {"I32": 4 * 256, "F64": 8 * 256, "IQ2_XXS": 66, "TQ1_0": 54}  # bytes of 256 weights


@pytest.mark.parametrize("name", ["token_embd.weight", "blk.0.attn_q.weight", "blk.0.attn_norm.weight"])
@pytest.mark.parametrize("kind", UNKNOWN_TYPES)
def test_a_tensor_of_an_unknown_type_is_named(path, name, kind):
    small = small_model(dim=256, n_layers=1)
    row_bytes = UNKNOWN_TYPES[kind]
    small.tensors[name] = (kind, np.zeros((*raw_shape(small, name)[:-1], row_bytes), np.uint8))
    refused(small, path, UnsupportedError, name, kind)


@pytest.mark.parametrize("name", ["blk.0.attn_q.bias", "rope_freqs.weight", "blk.2.attn_q.weight", "extra"])
def test_a_tensor_without_a_place_is_named(path, name):
    small = small_model(n_layers=2)
    put_tensor(small, name, 64)
    refused(small, path, UnsupportedError, f"tensor {name}", "no place")


def test_a_norm_may_be_stored_in_blocks(path):
    small = small_model()
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
