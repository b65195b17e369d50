"""The files that a capstone engine is judged with, and what llama.cpp said of them.

data/austen.gguf  --b2t.convert-->  Q8_0, Q4_0, Q4_1, Q4_K, Q6_K      the same bytes on every machine
                  --a seed-->       seeded.gguf                       its header, and random blocks
data/capstone_logits.npz            made by data/make_capstone_logits.py, with xllamacpp

    ids                    int64 [T]           the tokens of TEXT
    <format>/top_ids       int64 [T, 20]       behind each, the 20 tokens most likely to llama.cpp
    <format>/top_log_probs float64 [T, 20]     their log-probabilities
"""

from pathlib import Path

import numpy as np

from blocks2tokens.convert import convert
from blocks2tokens.course import models
from blocks2tokens.course.lessons.full_transformer import llama_cpp_logits
from blocks2tokens.formats import FORMATS, Format
from blocks2tokens.generate import load
from blocks2tokens.gguf_file import GGUFFile
from blocks2tokens.gguf_writer import write_gguf

RECORDED = models.DATA / "capstone_logits.npz"
TEXT = (
    "Mr. Darcy, who had been standing at the window, turned round, and said with some colour that he should "
    "be very happy to walk with Miss Bennet."
)
PLAIN = "F16"  # Austen as it is
QUANTIZED = ("Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K")
READ = (PLAIN, *QUANTIZED)
SEEDED = "seeded"
SMOLLM2 = "SmolLM2"
ANSWERED = {PLAIN: "Austen", SMOLLM2: SMOLLM2}
SCALES = ("d", "m", "dmin")


def write_conversions(folder: Path, formats=QUANTIZED) -> dict[str, Path]:
    """Return {format: path}: Austen as it is, and in each of the formats, written into a folder."""
    found = {PLAIN: models.austen()}
    for name in formats:
        found[name] = folder / f"{name}.gguf"
        convert(models.austen(), found[name], name)
    return found


def write_seeded(path: Path, seed: int) -> Path:
    """Write a model with Austen's header whose matrices are random blocks, format after format."""
    file, rng = GGUFFile(models.austen()), np.random.default_rng(seed)
    matrices = [name for name, info in file.tensors.items() if len(info.shape) == 2]
    formats = {name: FORMATS[READ[i % len(READ)]] for i, name in enumerate(matrices)}
    tensors = {
        name: (formats.get(name, file.format(name)), info.shape) for name, info in file.tensors.items()
    }

    def rows(name):
        if name not in formats:
            return file.raw(name)
        N, K = file.tensors[name].shape
        return random_rows(formats[name], N, K, rng)

    metadata = {key: file.metadata.encoded(key) for key in file.metadata}
    write_gguf(path, metadata, file.alignment, tensors, rows)
    return path


def random_rows(fmt: Format, N: int, K: int, rng: np.random.Generator) -> np.ndarray:
    """Return a matrix of random bytes, uint8 [N, row bytes], whose scales are finite numbers."""
    if fmt.block is None or fmt.block_size == 1:
        return rng.normal(size=(N, K)).astype(np.float16).view(np.uint8)
    blocks = rng.integers(0, 256, (N, fmt.row_bytes(K)), np.uint8).view(fmt.block)
    for name in SCALES:
        if name in blocks.dtype.names:
            blocks[name] = rng.normal(0, 0.01, blocks.shape).astype(np.float16)
    return blocks.view(np.uint8).reshape(N, -1)


def recorded(name: str):
    """Return llama.cpp's answers for a format of Austen: ids, top_ids and top_log_probs; see above."""
    with np.load(RECORDED) as file:
        return file["ids"], file[f"{name}/top_ids"], file[f"{name}/top_log_probs"]


def texts(name: str) -> list[tuple[str, list[int]]]:
    """Return texts and llama.cpp's ids for them; `name` is F16, which is Austen's, or SmolLM2."""
    return [(one.text, one.ids.tolist()) for one in llama_cpp_logits.recorded(ANSWERED[name])]


def chat_text():
    """Return a short text for SmolLM2 with what llama.cpp said of it."""
    return min(llama_cpp_logits.recorded(SMOLLM2), key=lambda one: len(one.ids))


def prompt() -> list[int]:
    """Return the ids of the beginning of a text, for Austen."""
    return recorded(PLAIN)[0][:8].tolist()


def said(ids: list[int]) -> str:
    """Return the text of some of Austen's ids."""
    return load(models.austen()).tokenizer.decode(ids)
