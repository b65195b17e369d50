"""Every architecture and kind of RoPE scaling: ours and a float64 reference, and both against llama.cpp.

The models are small and random, yet attention chooses and positions matter: each deviation in WRONG below
moves some logit a thousand times further than float32 does.
"""

from functools import cache

import gguf
import numpy as np
import pytest
from llama_cpp import llama_cpp
from reference import Reference
from small_model import SmallModel, plain, small_model

import blocks2tokens as b2t
from blocks2tokens.model.architectures import EXPERTS
from blocks2tokens.model.forward import forward

IDS = np.random.default_rng(5).integers(3, 320, 64).tolist()
FEW = IDS[:16]

LLAMA3 = {"type": "llama3", "factor": 8.0, "original_context_length": 32}
LINEAR = {"type": "linear", "factor": 4.0}
YARN = {"type": "yarn", "factor": 4.0, "original_context_length": 512}
YARN_BEYOND = YARN | {"original_context_length": 16, "attn_factor": 0.8}  # most of IDS lies beyond
QWEN3 = {"architecture": "qwen3", "head_dim": 32}  # wider than dim / n_heads
GEMMA3 = {"architecture": "gemma3", "head_dim": 32, "n_layers": 7}
GEMMA2 = {"architecture": "gemma2", "head_dim": 32, "n_layers": 3}
CAPS = {"attn_logit_softcapping": 1.0, "final_logit_softcapping": 3.0}
MOE = {"architecture": "qwen3moe", "head_dim": 32}
OSS = {"architecture": "gpt-oss", "head_dim": 32, "n_layers": 3}

MODELS = {
    "llama": {"tied": False},
    "llama, biases": {"biases": True},
    "llama, llama3": {"rope_scaling": LLAMA3},
    "llama, linear": {"rope_scaling": LINEAR},
    "llama, factor alone": {"rope_scaling": {"factor": 4.0}},
    "llama, none": {"rope_scaling": {"type": "none", "factor": 4.0, "attn_factor": 1.5}},
    "llama, yarn": {"rope_scaling": YARN, "head_dim": 32},
    "qwen2": {"architecture": "qwen2", "rope_theta": 1e6},
    "qwen2, own output": {"architecture": "qwen2", "tied": False, "n_heads": 6, "dim": 96},
    "qwen2, one for all": {"architecture": "qwen2", "n_kv_heads": 1},
    "qwen2, linear": {"architecture": "qwen2", "rope_scaling": LINEAR | {"attn_factor": 1.25}},
    "qwen2, yarn": {"architecture": "qwen2", "rope_scaling": YARN, "rope_theta": 1e6},
    "qwen2, yarn, context unsaid": {"architecture": "qwen2", "rope_scaling": {"type": "yarn", "factor": 4.0}},
    "qwen3": QWEN3 | {"rope_theta": 1e6},
    "qwen3, own output": QWEN3 | {"tied": False, "n_heads": 6},
    "qwen3, biases": QWEN3 | {"biases": True},
    "qwen3, narrow heads": {"architecture": "qwen3", "head_dim": 8, "n_kv_heads": 4},
    "qwen3, yarn": QWEN3 | {"rope_scaling": YARN},
    "qwen3, yarn beyond": QWEN3 | {"rope_scaling": YARN_BEYOND},
    "gemma3": GEMMA3,
    "gemma3, linear": GEMMA3 | {"rope_scaling": LINEAR, "rope_theta": 1e6},
    "gemma3, other base": GEMMA3 | {"settings": {"rope.freq_base_swa": 1e5}, "rope_theta": 1e6},
    "gemma3, no window": GEMMA3 | {"settings": {"attention.sliding_window": 256}, "n_layers": 2},
    "gemma3, capped": GEMMA3 | {"settings": {"final_logit_softcapping": 2.0}},
    "gemma2": GEMMA2,
    "gemma2, other caps": GEMMA2 | {"settings": CAPS},
    "phi3": {"architecture": "phi3", "tied": False},
    "phi3, groups": {"architecture": "phi3", "n_heads": 8, "head_dim": 8},
    "llama, all biases": {"biases": "all"},
    "llama, experts": {"n_experts": 8, "tied": False},
    "llama, one expert in use": {"n_experts": 4, "n_used": 1},
    "qwen3moe": MOE,
    "qwen3moe, all in use": MOE | {"n_used": 8, "tied": False},
    "qwen3moe, by the whole": MOE | {"settings": {"feed_forward_length": 192}},
    "gpt-oss": OSS,
    "gpt-oss, yarn": OSS | {"rope_scaling": YARN_BEYOND, "n_experts": 4},
    "gpt-oss, by a list": OSS | {"settings": {"attention.sliding_window_pattern": 3}, "n_layers": 4},
}
# llama.cpp sees the whole context in these files, whatever window they state.
WINDOWS = {
    "llama, window": {"settings": {"attention.sliding_window": 8}},
    "llama, window, a list of layers": {
        "settings": {"attention.sliding_window": 5, "attention.sliding_window_pattern": [True, False, True]},
        "n_layers": 3,
    },
    "phi3, window": {"architecture": "phi3", "settings": {"attention.sliding_window": 8}},
}
GELU = "gemma"  # whose gate llama.cpp looks up in a table of float16
QUANTIZED = {
    "llama, Q4_K": {"default_format": "Q4_K", "rope_scaling": LLAMA3},
    "qwen2, mixed": {
        "architecture": "qwen2",
        "default_format": "Q5_K",
        "formats": {"token_embd": "Q6_K", "attn_v": "Q6_K", "attn_k": "Q3_K", "ffn_down": "Q8_0"},
        "rope_scaling": YARN,
    },
    "qwen3, mixed": {
        "architecture": "qwen3",
        "head_dim": 128,
        "default_format": "Q4_K",
        "formats": {"token_embd": "Q6_K", "attn_v": "Q6_K", "ffn_up": "Q5_K", "output": "Q6_K"},
        "tied": False,
    },
    "llama, grids": {
        "default_format": "IQ3_S",
        "formats": {
            "attn_q": "IQ2_XXS",
            "attn_k": "IQ2_XS",
            "attn_v": "IQ3_XXS",
            "attn_output": "IQ2_S",
            "ffn_gate": "IQ1_S",
            "ffn_up": "IQ1_M",
        },
    },
    "llama, three values": {
        "default_format": "TQ2_0",
        "formats": {"ffn_up": "TQ1_0", "ffn_down": "NVFP4", "token_embd": "Q6_K"},
    },
    "gemma3, mixed": GEMMA3
    | {
        "head_dim": 64,
        "default_format": "Q5_0",
        "formats": {"token_embd": "Q8_0", "attn_output": "Q4_K", "ffn_down": "Q6_K"},
    },
    "qwen3moe, mixed": MOE
    | {
        "head_dim": 64,
        "default_format": "Q4_K",
        "formats": {"ffn_gate_inp": "F32", "ffn_down_exps": "Q6_K", "ffn_up_exps": "Q5_K"},
    },
    "gpt-oss, MXFP4": OSS
    | {
        "head_dim": 64,
        "default_format": "Q8_0",
        "formats": {"ffn_gate_inp": "F32"} | dict.fromkeys(EXPERTS[1:], "MXFP4"),
        "rope_scaling": YARN,
    },
}
WIDE = {"dim": 256, "ffn_dim": 512, "context_length": 256}
NARROW = {"context_length": 256}


@pytest.fixture(scope="module")
def path_of(tmp_path_factory):
    """Return the path of a model of MODELS or QUANTIZED, written once."""
    folder = tmp_path_factory.mktemp("models")

    def path_of(name):
        path = folder / f"{name}.gguf"
        options = WIDE | QUANTIZED[name] if name in QUANTIZED else NARROW | (MODELS | WINDOWS)[name]
        return path if path.exists() else small_model(**options).write(path)

    return path_of


@pytest.fixture(scope="module")
def expected_of(path_of, xllamacpp):
    """Return what llama.cpp expects behind each of IDS, by a model's name; asked once."""
    return cache(lambda name: expected_by_llama_cpp(xllamacpp, path_of(name)))


def close(a, b):
    """Equal but for float32: within a hundredth of a percent of the spread of the logits."""
    return a.shape == b.shape and np.abs(a - b).max() < 1e-4 * np.std(b)


def one_by_one(model, ids):
    """Return the logits, float32 [len(ids), vocab], of tokens that come singly, as in generation."""
    cache = model.transformer.new_cache(len(ids))
    return np.array([model.transformer.next_logits([token], cache).copy() for token in ids])


def log_softmax(logits):
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def expected_by_llama_cpp(xllamacpp, path):
    """Return the log-probabilities of llama.cpp's 20 most likely tokens behind each of IDS, by id.

    Its flash attention is off: that rounds to float16.
    """
    off = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    with llama_cpp(xllamacpp, path, 256, n_threads=1, flash_attn_type=off) as oracle:
        return oracle.forced(IDS)


def agreement(logits, expected):
    """Return the share of equal top-1 and the mean difference of the log-probabilities llama.cpp shows."""
    rows = log_softmax(logits)
    same = [int(row.argmax()) == max(top, key=top.get) for row, top in zip(rows, expected, strict=True)]
    differences = [
        abs(row[i] - theirs) for row, top in zip(rows, expected, strict=True) for i, theirs in top.items()
    ]
    assert len(differences) == 20 * len(IDS)
    print(f"{sum(same)} of {len(same)} equal, mean difference {np.mean(differences):.2e}")
    return np.mean(same), np.mean(differences)


def float32_twin(path, to):
    """Write a model again with every tensor decoded by the gguf package."""
    reader = gguf.GGUFReader(path)
    twin = SmallModel({key: field.contents() for key, field in reader.fields.items() if "GGUF." not in key})
    for tensor in reader.tensors:
        weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        twin.tensors[tensor.name] = "F32", plain(weights.astype(np.float32), "F32")
    return twin.write(to)


# --- Ours against the definition, in float32 --------------------------------------------------------------


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("name", [*MODELS, *WINDOWS, *QUANTIZED])
def test_logits_are_those_of_the_definition(path_of, name):
    model, expected = b2t.load(path_of(name)), Reference(path_of(name)).logits(FEW)
    assert model.logits(FEW).dtype == np.float32
    assert close(model.logits(FEW), expected) and close(forward(model, FEW), expected)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("name", [*MODELS, *WINDOWS])
def test_tokens_one_by_one_give_the_same_logits(path_of, name):
    assert close(one_by_one(b2t.load(path_of(name)), FEW), Reference(path_of(name)).logits(FEW))


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("name", ["gemma3", "gemma2", "gpt-oss", "phi3, window", "llama, window", "qwen3moe"])
@pytest.mark.parametrize("parts", [[100, 1, 1, 50], [1, 70, 81], [64, 64, 24]], ids=str)
def test_any_mix_of_batches_and_tokens_gives_the_same_logits(path_of, name, parts):
    model, cache, ids = b2t.load(path_of(name)), None, np.tile(IDS, 3)[: sum(parts)]
    cache = model.transformer.new_cache(len(ids))
    ends = np.cumsum(parts)
    x = [model.transformer.hidden(ids[e - n : e], cache) for n, e in zip(parts, ends, strict=True)]
    assert close(model.transformer.project(np.concatenate(x)), forward(model, ids))


# --- Ours and the definition against llama.cpp ------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_float32_files_agree_with_llama_cpp(path_of, expected_of, name):
    for model in (Reference(path_of(name)), b2t.load(path_of(name))):
        same, difference = agreement(model.logits(IDS), expected_of(name))
        assert same >= 0.98 and difference <= (0.005 if GELU in name else 1e-4)


@pytest.mark.parametrize("name", QUANTIZED)
def test_quantized_files_agree_with_llama_cpp(path_of, expected_of, name):
    model = b2t.load(path_of(name))
    for logits in (model.logits(IDS), one_by_one(model, IDS)):
        same, difference = agreement(logits, expected_of(name))
        assert same >= 0.9 and difference <= 0.1


@pytest.mark.parametrize("name", QUANTIZED)
def test_float32_twins_of_quantized_files_agree_with_llama_cpp(xllamacpp, path_of, name, tmp_path):
    twin = float32_twin(path_of(name), tmp_path / "twin.gguf")
    same, difference = agreement(b2t.load(twin).logits(IDS), expected_by_llama_cpp(xllamacpp, twin))
    assert same >= 0.98 and difference <= 0.005


# --- What these tests would notice ------------------------------------------------------------------------


class OtherPairs(Reference):
    def __init__(self, path):
        super().__init__(path)
        self.neighbours = not self.neighbours


class NoPositions(Reference):
    def rotate(self, head, position):
        return head


class KeysShiftedByOne(Reference):
    def turned(self, name, head, position):
        return super().turned(name, head, position + ("attn_k" in name))


class KeysSharedInTurns(Reference):
    def shared(self, head):
        return head % self.n_kv_heads


class NoBias(Reference):
    parts = "qkv"

    def heads(self, name, h):
        out = super().heads(name, h)
        return out - self.weights[f"{name}.bias"].reshape(out.shape) if name[-1] in self.parts else out


class NoBiasOfKeys(NoBias):
    parts = "k"


class NoBiasOfValues(NoBias):
    parts = "v"


class NoHeadNorm(Reference):
    def turned(self, name, head, position):
        return self.rotate(head, position)


class HeadNormAfterRotation(Reference):
    def turned(self, name, head, position):
        return self.norm(self.rotate(head, position), f"{name}_norm")


class HeadNormsSwapped(Reference):
    def turned(self, name, head, position):
        other = {"attn_q": "attn_k", "attn_k": "attn_q"}[name.split(".")[-1]]
        return super().turned(name[: -len(other)] + other, head, position)


class NormOfAllHeads(Reference):
    def heads(self, name, h):
        out = super().heads(name, h)
        return out / np.sqrt(np.mean(out**2)) if name[-1] != "v" else out

    def turned(self, name, head, position):
        return self.rotate(head * self.weights[f"{name}_norm"], position)


class ScoresOfNarrowerHeads(Reference):
    def rotate(self, head, position):
        narrow = self.setting("embedding_length") / self.n_heads
        return super().rotate(head, position) * (self.head_dim / narrow) ** 0.25


class NoScaling(Reference):
    def frequencies(self):
        return self.setting("rope.freq_base") ** (-np.arange(0, self.head_dim, 2) / self.head_dim)


class ScalingTheOtherWay(NoScaling):
    def frequencies(self):
        return super().frequencies() ** 2 / Reference.frequencies(self)


class FactorInSpiteOfNone(Reference):
    def frequencies(self):
        return super().frequencies() / self.setting("rope.scaling.factor")


class NothingKept(Reference):
    def kept(self):
        return 0.0


class KeptTheOtherWay(Reference):
    def kept(self):
        return 1 - super().kept()


class OtherContext(Reference):
    def setting(self, key, default=None):
        return 32 if "original" in key else super().setting(key, default)


class NoMagnitude(Reference):
    def attention_factor(self):
        return 1.0


class MagnitudeOfQueriesAlone(Reference):
    def turned(self, name, head, position):
        return super().turned(name, head, position) / (self.attention_factor() if "attn_k" in name else 1.0)


class MagnitudeTwice(Reference):
    def attention_factor(self):
        return super().attention_factor() ** 2


class NoWindow(Reference):
    def window(self, i):
        return 10**9


class OneTokenMore(Reference):
    def window(self, i):
        return super().window(i) + 1


class OtherLayersSeeAll(Reference):
    def window(self, i):
        return super().window(i + 1)


class OneBase(Reference):
    def frequencies(self):
        self.local = False
        return super().frequencies()


class SmallEmbedding(Reference):
    def embedding_scale(self):
        return 1.0


class NothingBehind(Reference):
    def behind(self, made, name):
        return made


class Swish(Reference):
    def gated(self, gate, up):
        return gate / (1 + np.exp(-gate)) * up


class GateAndUpSwapped(Reference):
    def gated(self, gate, up):
        return super().gated(up, gate)


class NoCaps(Reference):
    def capped(self, x, key, defaults):
        return x


class NoSinks(Reference):
    def sink(self, i, head):
        return -np.inf


class NoOutputBias(Reference):
    def plus(self, name, h, expert=None):
        out = super().plus(name, h, expert)
        return out - self.weights[f"{name}.bias"] if name.endswith("attn_output") else out


class NoExpertBias(Reference):
    def plus(self, name, h, expert=None):
        return super().plus(name, h, expert) if expert is None else self.weights[name][expert] @ h


class SharesOfAll(Reference):
    def shares(self, scores, chosen):
        return np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()


class EqualShares(Reference):
    def shares(self, scores, chosen):
        return np.full(len(scores), 1 / len(chosen))


class OtherExperts(Reference):
    def expert(self, i, h, kind, expert):
        return super().expert(i, h, kind, (expert + 1) % self.setting("expert_count"))


PAIRS = [OtherPairs, NoPositions, KeysShiftedByOne, KeysSharedInTurns]
BIASES = [NoBias, NoBiasOfKeys, NoBiasOfValues]
NORMS = [NoHeadNorm, HeadNormAfterRotation, HeadNormsSwapped, NormOfAllHeads, ScoresOfNarrowerHeads]
STRETCH = [NoScaling, ScalingTheOtherWay]
MAGNITUDES = [NoMagnitude, MagnitudeOfQueriesAlone, MagnitudeTwice]
EXPERT_SLIPS = [SharesOfAll, EqualShares, OtherExperts]
GEMMA_SLIPS = [NoWindow, OneTokenMore, OtherLayersSeeAll, SmallEmbedding, NothingBehind]
GEMMA_SLIPS += [GateAndUpSwapped, Swish]
WRONG = {
    "gemma3": [*PAIRS, *NORMS[:3], *GEMMA_SLIPS],
    "gemma3, other base": [OneBase],
    "gemma3, capped": [NoCaps],
    "gemma2": [*PAIRS, *GEMMA_SLIPS],
    "gemma2, other caps": [NoCaps],
    "phi3": [*PAIRS, GateAndUpSwapped],
    "phi3, window": [NoWindow, OneTokenMore],
    "llama, window": [NoWindow, OneTokenMore],
    "llama, window, a list of layers": [NoWindow, OneTokenMore],
    "llama, all biases": [*BIASES, NoOutputBias],
    "llama, experts": EXPERT_SLIPS,
    "qwen3moe": [*PAIRS, *NORMS, *EXPERT_SLIPS],
    "gpt-oss": [*PAIRS, *BIASES, *EXPERT_SLIPS, NoWindow, NoSinks, NoOutputBias, NoExpertBias, Swish],
    "gpt-oss, yarn": [*STRETCH, NothingKept, *MAGNITUDES],
    "llama": PAIRS,
    "llama, biases": PAIRS + BIASES,
    "qwen2": PAIRS + BIASES,
    "qwen2, own output": PAIRS + BIASES,
    "qwen3": PAIRS + NORMS,
    "qwen3, biases": PAIRS + BIASES + NORMS,
    "llama, llama3": STRETCH,
    "llama, linear": STRETCH,
    "llama, factor alone": STRETCH,
    "llama, none": [FactorInSpiteOfNone, *MAGNITUDES],
    "llama, yarn": [*STRETCH, NothingKept, KeptTheOtherWay, OtherContext, *MAGNITUDES],
    "qwen2, linear": [*STRETCH, *MAGNITUDES],
    "qwen2, yarn": [*STRETCH, NothingKept, KeptTheOtherWay, OtherContext, *MAGNITUDES],
    "qwen2, yarn, context unsaid": [*STRETCH, OtherContext, *MAGNITUDES],
    "qwen3, yarn": [*STRETCH, NothingKept, KeptTheOtherWay, *MAGNITUDES],
    "qwen3, yarn beyond": [*STRETCH, NothingKept, KeptTheOtherWay, *MAGNITUDES],
}


@pytest.mark.parametrize(
    ("name", "wrong"), [(name, wrong) for name, classes in WRONG.items() for wrong in classes]
)
def test_a_wrong_model_is_far_from_the_right_one(path_of, name, wrong):
    right = Reference(path_of(name)).logits(FEW)
    assert np.abs(wrong(path_of(name)).logits(FEW) - right).max() > 0.1 * np.std(right)
