"""The whole engine against llama.cpp: token ids, greedy choices and log-probabilities.

llama.cpp rounds activations to 8 bits before it multiplies by quantized weights; we do not. On the file
itself the two therefore differ a little; on the float32 twin, the same weights decoded, hardly at all.
Where this small model wavers between two tokens, that little decides: in free prose about one choice in
30. So the prompts are of both kinds, those that leave it free and those that bind it (a count, a list).
"""

import lzma
from pathlib import Path

import gguf
import numpy as np
import pytest
from llama_cpp import llama_cpp

import blocks2tokens as b2t

DATA = Path(__file__).parents[2] / "data"
N_TOKENS = 32

TEXTS = {
    "short": "The capital of France is",
    "single token": "Once",
    "long": (
        "The history of computing is longer than the history of computers. Long before there were "
        "machines, people who worked with numbers were called computers, and they divided long "
        "calculations among themselves: tables of logarithms, the positions of the moon, the tides of a "
        "harbour. Each person carried out a short list of steps and handed the result to a neighbour. When "
        "the first machines were built, their designers copied not the mathematician but the office. In "
        "the twentieth century"
    ),
    "code": "x1 = 1\nx2 = 2\nx3 = 3\nx4 = 4\n",
    "non-ASCII": "Der Würfel fällt: ½ Liter Öl, 東京は日本の首都です。 Привет, мир! 🙂 Ça va? Oui,",
    "digits": "2 + 2 = 4, 12345 * 678 = 8369910, 3.14159265, 2024-05-17, 1,000,000. The next number is 10",
    "days": "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday, Monday,",
    "count": "1 2 3 4 5 6 7 8 9 10 11 12 13 14",
    "umlauts": "Ä, Ö, Ü, ß, Ä, Ö, Ü, ß, Ä, Ö, Ü, ß, Ä, Ö,",
}
ODD_TEXTS = [  # for the tokenizer alone
    "",
    " ",
    "  leading,\ttabs\r\n\n\n   and   runs   of spaces  ",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return fibonacci(n-1)+fibonacci(n-2)\n",
    "don't we'll I'M It's 'tis `code` <b>html</b> http://example.org/a?b=c&d=%20",
    "a\u0301e\u0308 \u200b\u00a0\ufeff ½²③ ٣٤٥ १२३ 𝟘𝟙 👩‍👩‍👧‍👦 🇫🇷",
    "<|im_start|>user\nHi<|im_end|>\n<|endoftext|><|im_start|>",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA 00000000000000000000",
]


def chat_text(model):
    messages = [{"role": "user", "content": "Name three colours and a fruit of each."}]
    return model.tokenizer.render_chat(messages)


def long_text():
    return lzma.decompress((DATA / "austen_heldout.txt.xz").read_bytes()).decode()[:4000]


@pytest.fixture(scope="module")
def model(smollm2_path):
    return b2t.load(smollm2_path)


@pytest.fixture(scope="module")
def prompts(model):
    """Token ids of every prompt, by name."""
    encode = model.tokenizer.encode
    texts = {**TEXTS, "chat": chat_text(model)}
    return {name: encode(text) for name, text in texts.items()} | {"512 tokens": encode(long_text())[:512]}


@pytest.fixture(scope="module")
def float32_twin(smollm2_path, tmp_path_factory):
    """The same model with every tensor decoded and written as F32."""
    path = tmp_path_factory.mktemp("twin") / "smollm2-f32.gguf"
    write_float32_twin(b2t.GGUFFile(smollm2_path), path)
    yield path
    path.unlink()


def write_float32_twin(source, path):
    """Write a GGUFFile again with float32 weights, decoded by the gguf package and not by us."""
    writer = gguf.GGUFWriter(path, source.metadata["general.architecture"])
    reader = gguf.GGUFReader(source.path)
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in ("general.architecture", "general.file_type"):
            continue
        sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), field.types[0], sub_type=sub_type)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, weights.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def log_softmax(logits):
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def compare(model, oracle, prompts):
    """Follow llama.cpp's greedy choices; return the share of equal top-1 and the mean difference.

    The difference is that of the log-probabilities of llama.cpp's 20 most likely tokens.
    """
    same, differences = [], []
    for ids in prompts.values():
        steps = oracle.greedy(ids, N_TOKENS)
        forced = [*ids, *(step.token for step in steps[:-1])]
        ours = log_softmax(model.logits(forced)[len(ids) - 1 :])
        for row, step in zip(ours, steps, strict=True):
            same.append(int(row.argmax()) == step.token)
            differences += [abs(row[i] - theirs) for i, theirs in step.top.items()]
    print(f"{sum(same)} of {len(same)} equal, mean difference {np.mean(differences):.4f}")
    return np.mean(same), np.mean(differences)


def test_token_ids_equal_llama_cpp(model, xllamacpp, smollm2_path):
    with llama_cpp(xllamacpp, smollm2_path) as oracle:
        for text in [*TEXTS.values(), *ODD_TEXTS, chat_text(model), long_text()]:
            assert model.tokenizer.encode(text) == oracle.tokenize(text), text[:60]


def test_the_file_itself_agrees_with_llama_cpp(model, xllamacpp, smollm2_path, prompts):
    assert len(prompts["512 tokens"]) == 512 and len(prompts["single token"]) == 1
    with llama_cpp(xllamacpp, smollm2_path) as oracle:
        same, difference = compare(model, oracle, prompts)
    # Both round activations to 8 bits, so each is 0.07 nats from float32 and takes the same token 97 times of
    # 100; so far apart are our own AVX2 and AVX-512, too. What is close is seen on the float32 twin below.
    assert same >= 0.95
    assert difference <= 0.15


def test_the_float32_twin_agrees_with_llama_cpp(xllamacpp, float32_twin, prompts):
    with llama_cpp(xllamacpp, float32_twin) as oracle:
        same, difference = compare(b2t.load(float32_twin), oracle, prompts)
    assert same >= 0.99
    assert difference <= 0.005
