"""`make quality`, second part: SmolLM2 under three budgets, in recorded_smollm2.json beside this file.

    search    {"matrices", "tokens", "cpu_seconds"}     one search, which serves all budgets
    rows      [{"name", "bytes", "texts": {text: {"kl", "kl_error", "run", "run_error"}}}]
              ours also: "perplexity", "llama_cpp", the same as llama.cpp finds it, "theirs", see `theirs_at`

The reference is the model's own file, Q4_1: what is copied from it has no error. kl is that of the weights:
activations stay float32, see `kernels.unrounded`. run is what is found where both round them: whatever
changes is another draw of that lottery, .004 for any file at all. bytes are those of the whole file.
llama.cpp's files are llama-quantize's, all with our importance; since rows of 576 do not fill blocks of 256,
it takes other formats there, and a name says little of the size.

Texts: Austen, and Python's language reference as `pydoc` has it. What judges was not learned from: chapters
held out, and every other page.
"""

import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from math import exp
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np

import blocks2tokens as b2t
from blocks2tokens import files, mix
from blocks2tokens.course import models
from blocks2tokens.course.lessons.quality_and_mixes import record
from blocks2tokens.kernels import unrounded
from blocks2tokens.quality import Reference

PATH = Path(__file__).parent / "recorded_smollm2.json"
TRAINING, PIECE, HELD_OUT = 6144, 256, 641  # ids to learn from, in pieces of either text; to judge with
LONGER = 4097  # ids for perplexity: of fewer, what activations are rounded to moves it by half a per cent
WINDOW = 512  # ids that llama.cpp reads together
MEGABYTES = (90, 80, 70)
# What llama-quantize is told: a file type, and a format for the embedding, which is the output matrix too.
THEIRS = [
    ("Q4_1", "Q5_1"),
    ("Q4_1", "IQ4_NL"),
    ("IQ4_NL", "IQ4_NL"),
    ("IQ2_XXS", "IQ4_NL"),
    ("Q3_K_S", "IQ4_NL"),
    ("Q3_K_S", None),
    ("Q3_K_M", None),
    ("Q2_K", "IQ4_NL"),
]


def recorded() -> dict:
    """Return what was recorded."""
    return json.loads(PATH.read_text(encoding="utf-8"))


def training_ids(model: b2t.Model) -> np.ndarray:
    """Return ids of both texts by turns: whoever reads only the beginning has read of both."""
    half = TRAINING // 2
    texts = models.training_text()[300_000 : 300_000 + 5 * half], python_text(0)[: 8 * half]
    pieces = [np.reshape(model.tokenizer.encode(text)[:half], (-1, PIECE)) for text in texts]
    return np.stack(pieces, axis=1).reshape(-1)


def held_out_ids(model: b2t.Model, n: int = HELD_OUT) -> dict[str, np.ndarray]:
    """Return {text: n ids} to judge with."""
    texts = {"Austen": models.heldout_text(), "Python": python_text(1)}
    return {name: np.array(model.tokenizer.encode(text[: 8 * n])[:n]) for name, text in texts.items()}


def python_text(first: int) -> str:
    """Return every other page of Python's language reference, from the first or the second on."""
    return "\n\n".join(topics[name] for name in sorted(topics)[first::2])


def llama_cpp_perplexity(path: Path, ids: np.ndarray) -> float:
    """Return the perplexity that llama.cpp finds, in windows as `b2t.perplexity`'s."""
    import llama_cpp

    model = llama_cpp.Llama(str(path), n_ctx=WINDOW, n_batch=WINDOW, logits_all=True, verbose=False)
    nats = []
    for i in range(0, len(ids) - 1, WINDOW):
        targets = ids[i + 1 : i + 1 + WINDOW]
        model.reset()
        model.eval(ids[i : i + len(targets)].tolist())
        logits = model.scores[: len(targets)].astype(np.float64)
        nats.append(np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(targets)), targets])
    return exp(np.concatenate(nats).mean())


def references(model: b2t.Model) -> dict[str, tuple[Reference, Reference]]:
    """Return {text: (the model with activations in float32, the model as the engine runs it)}."""
    texts = held_out_ids(model)
    with unrounded():
        exact = {text: Reference(model, ids) for text, ids in texts.items()}
    return {text: (exact[text], Reference(model, ids)) for text, ids in texts.items()}


def row(name: str, path: Path, judges: Mapping[str, tuple[Reference, Reference]]) -> dict:
    """Measure a file on each text; one of ours in llama.cpp too."""
    model, texts = b2t.load(path), {}
    for text, (exact, as_run) in judges.items():
        with unrounded():
            kl = exact.measure(model).kl
        run = as_run.measure(model).kl
        texts[text] = {"kl": kl.value, "kl_error": kl.error, "run": run.value, "run_error": run.error}
        if name.startswith("ours"):
            ids = held_out_ids(model, LONGER)[text]
            texts[text]["perplexity"] = b2t.perplexity(model, ids, WINDOW).perplexity
            texts[text]["llama_cpp"] = llama_cpp_perplexity(path, ids)
    return {"name": name, "bytes": path.stat().st_size, "texts": texts}


def rows(folder: Path, search: mix.Search) -> Iterator[dict]:
    """Yield the rows of the table, one file after the other."""
    model, path = search.model, folder / "new.gguf"
    src, judges = model.file.path, references(model)
    for name, embedding in THEIRS:
        record.llama_quantize(src, path, name, search.importance, embedding)
        yield row(f"llama.cpp {name}, embedding {embedding or 'as it says'}", path, judges)
    for megabytes in MEGABYTES:
        search.save(mix.state_of(path))  # so that `convert` finds all of it measured
        bits = bits_for(model.file, 1_000_000 * megabytes)
        b2t.convert(src, path, bits=bits, importance=search.importance, effort="best")
        yield row(f"ours, {megabytes} MB", path, judges)


def bits_for(file: b2t.GGUFFile, n_bytes: int) -> float:
    """Return the bits per weight with which the whole file takes so many bytes, its metadata included."""
    beside = file.nbytes - sum(info.nbytes for info in file.tensors.values())
    return record.bits_for(file, n_bytes - beside)


def theirs_at(rows: Sequence[Mapping], text: str, n_bytes: int) -> float:
    """Return the KL of llama.cpp's files at so many bytes: between two neighbours, log KL on a line.

    Only files count than which none is both smaller and nearer; beyond their ends, the last one.
    """
    front: list[tuple[int, float]] = []
    for size, kl in sorted((r["bytes"], r["texts"][text]["kl"]) for r in rows if "llama.cpp" in r["name"]):
        if not front or kl < front[-1][1]:
            front.append((size, kl))
    sizes, kls = np.array(front).T
    return float(np.exp(np.interp(n_bytes, sizes, np.log(kls))))


def main() -> None:
    """Make recorded_smollm2.json again; print each row as it comes."""
    model = b2t.load(models.smollm2())
    start = time.process_time()
    importance = b2t.importance(model, training_ids(model))
    state = PATH.with_suffix(".search")
    search = mix.Search(model, importance, list(importance.sums), state).run()
    measured = {
        "matrices": len(search.names),
        "tokens": TRAINING,
        "cpu_seconds": round(time.process_time() - start),
    }
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for line in rows(Path(folder), search):
            print(line, flush=True)
            found.append(line)
    for line in found:
        for text, figures in line["texts"].items():
            if line["name"].startswith("ours"):
                figures["theirs"] = theirs_at(found, text, line["bytes"])
    files.write_text(PATH, json.dumps({"search": measured, "rows": found}, indent=1))
    state.unlink()


if __name__ == "__main__":
    main()
