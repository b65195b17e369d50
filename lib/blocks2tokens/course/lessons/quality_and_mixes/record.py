"""`make quality`: the long runs of lesson 26, in recorded.json beside this file, and printed as a table.

    search    {"errors": {matrix: {format: error}}, "probes": {matrix: KL}}, as `mix.Search` keeps them
    rows      [{"model", "name", "bytes", "bits", "kl", "kl_error", "same_top", "perplexity"}]

bytes are those of all tensors. KL is measured on chapters that Austen never saw, importance and search read
others. llama.cpp's files are llama-quantize's, through PyPI's `llama-cpp-python` (the extra "peer").
"""

import ctypes
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path

import numpy as np

import blocks2tokens as b2t
from blocks2tokens import files, mix
from blocks2tokens.course import models
from blocks2tokens.formats import FORMATS
from blocks2tokens.quality import Reference

PATH = Path(__file__).parent / "recorded.json"
TRAINING, HELD_OUT = 8192, 6145  # ids to learn from, and to judge with
BITS = (3.0, 3.5, 4.0, 4.5, 5.5)  # more budgets, for the curve
FILE_TYPES = {  # llama_ftype
    "Q4_0": 2,
    "Q4_1": 3,
    "Q2_K": 10,
    "Q3_K_S": 11,
    "Q3_K_M": 12,
    "Q4_K_S": 14,
    "Q4_K_M": 15,
    "IQ2_XXS": 19,
    "IQ4_NL": 25,
    "IQ4_XS": 30,
}
AUSTENS = ("Q3_K_M", "Q4_K_M")  # the ones of its table


def recorded() -> dict:
    """Return what was recorded."""
    return json.loads(PATH.read_text(encoding="utf-8"))


def training_ids(model: b2t.Model, n: int = TRAINING) -> np.ndarray:
    """Return ids of Austen's training text, from the middle of a novel on."""
    text = models.training_text()[300_000 : 300_000 + 5 * n]
    return np.array(model.tokenizer.encode(text)[:n])


def keep_layer(sizes: Mapping, losses: Mapping, layer: int) -> tuple[int, float]:
    """Return the bytes and the expected KL of all matrices in Q4_K, but those of one layer in float32."""
    n_bytes, kl = 0.0, 0.0
    for name in sizes:
        kept = name.startswith(f"blk.{layer}.")
        n_bytes += sizes[name]["Q4_K"] * (32 / FORMATS["Q4_K"].bits_per_weight if kept else 1)
        kl += 0.0 if kept else losses[name]["Q4_K"]
    return round(n_bytes), kl


def tensor_bytes(path: Path) -> int:
    """Return the bytes of all tensors of a file."""
    return sum(info.nbytes for info in b2t.GGUFFile(path).tensors.values())


def bits_for(file: b2t.GGUFFile, n_bytes: int) -> float:
    """Return the bits per weight with which the tensors of a file take so many bytes."""
    return 8 * n_bytes / sum(prod(info.shape) for info in file.tensors.values())


def llama_quantize(
    src: Path,
    dst: Path,
    name: str,
    importance: b2t.Importance | None = None,
    embedding: str | None = None,
) -> None:
    """Quantize a file with llama.cpp's own code, with or without an importance matrix.

    `embedding` is the format of that matrix, where it is not what the file type says.
    """
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize, params.nthread = FILE_TYPES[name], True, 1
    if embedding is not None:
        params.token_embedding_type = params.output_tensor_type = b2t.FORMATS[embedding].ggml_type
    if importance is not None:
        means = {key: np.ascontiguousarray(importance.mean(key).reshape(-1)) for key in importance.sums}
        entries = (llama_cpp.llama_model_imatrix_data * (len(means) + 1))()
        for entry, (key, values) in zip(entries, means.items(), strict=False):
            entry.name, entry.size = key.encode(), values.size
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        params.imatrix = entries
    if llama_cpp.llama_model_quantize(str(src).encode(), str(dst).encode(), ctypes.byref(params)):
        raise OSError(f"llama.cpp could not quantize {src}")


def row(name: str, path: Path, reference: Reference) -> dict:
    """Measure a file."""
    found, file = reference.measure(b2t.load(path)), b2t.GGUFFile(path)
    return {
        "name": name,
        "bytes": tensor_bytes(path),
        "bits": bits_for(file, tensor_bytes(path)),
        "kl": found.kl.value,
        "kl_error": found.kl.error,
        "same_top": found.same_top.value,
        "perplexity": found.perplexity.value,
    }


def rows(folder: Path, search: mix.Search, importance: b2t.Importance) -> Iterator[dict]:
    """Yield the rows of Austen's table, one file after the other."""
    model, path = search.model, folder / "new.gguf"
    src = model.file.path
    reference = Reference(model, model.tokenizer.encode(models.heldout_text())[:HELD_OUT])
    sizes = {}
    for name in AUSTENS:
        llama_quantize(src, path, name)
        sizes[name] = tensor_bytes(path)
        yield row(f"llama.cpp {name}", path, reference)
        llama_quantize(src, path, name, importance)
        yield row(f"llama.cpp {name}, importance", path, reference)
    b2t.convert(src, path, "Q4_K_M", importance=importance, effort="best")
    yield row("ours Q4_K_M, feedback", path, reference)
    budgets = {f"bytes of {name}": bits_for(model.file, size) for name, size in sizes.items()}
    budgets |= {"90 % of Q4_K_M": 0.9 * budgets["bytes of Q4_K_M"]}
    budgets |= {f"{bits} bits": bits for bits in BITS}
    for name, bits in budgets.items():
        kept = path.with_name(path.name + ".search")
        search.save(kept)  # so that `convert` finds all of it measured
        b2t.convert(src, path, bits=bits, importance=importance, effort="best")
        yield row(f"ours mix, {name}", path, reference)


def main() -> None:
    """Make recorded.json again; print each row as it comes."""
    model = b2t.load(models.austen())
    importance = b2t.importance(model, training_ids(model))
    names = list(importance.sums)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        state = PATH.with_suffix(".search")
        search = mix.Search(model, importance, names, state).run()
        for line in rows(Path(folder), search, importance):
            print("{name:30} {bytes:>10,} bytes  KL {kl:.5f} ± {kl_error:.5f}".format(**line), flush=True)
            found.append(line)
    kept = {"search": {"errors": search.errors, "probes": search.probes}, "rows": found}
    files.write_text(PATH, json.dumps(kept, indent=1))
    state.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
