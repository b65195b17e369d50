"""The tables for whole models: `make bench` or `python -m blocks2tokens.benchmarks.models [names]`.

    speed    decoding and prefill, ours and llama.cpp's, in one process, in turn, on the same file
    start    seconds from the start of a new process to its first token
    memory   what a new process holds while it generates: its own, and mapped

Names: SmolLM2, Austen, and the synthetic 1B, 7B (4 GB, written to data/models/ once), and, only if they are
named, 8x1B, a mixture of experts, and 14B (9 GB). Without the peer (`make peer`) the tables show ours alone.

Both engines take their threads from one libgomp, and so llama.cpp's wait as long as ours before they sleep:
see GOMP_SPINCOUNT in the package. libgomp's own default is a longer wait.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np
import psutil

import blocks2tokens as b2t
from blocks2tokens.benchmarks import llama_cpp, llama_cpp_model
from blocks2tokens.benchmarks.llama_cpp_model import LlamaCppModel
from blocks2tokens.course import bench, hardware, models, synthetic

DECODED = {
    "SmolLM2": 64,
    "Austen": 64,
    "1B": 16,
    "8x1B": 16,
    "7B": 8,
    "14B": 4,
}  # tokens; its keys are all names
DEFAULT = ("SmolLM2", "Austen", "1B", "7B")
PROMPT, PREFILLS = 16, (128, 512)  # tokens
REPEATS, STARTS = 5, 3
CONTEXT = 256  # tokens that the cache has room for where memory is measured
OURS, PEER = "ours", "llama.cpp"
TEXT = "Count: one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen,"

Rates = dict[tuple[str, str | int], float]  # (engine, "decode" or length of a prefill) -> tokens a second


def print_models(ceilings: hardware.Ceilings, names: Sequence[str] = DEFAULT) -> None:
    """Print the three tables for some models, those that this machine has room for."""
    print()
    paths = found(names)
    engines = (OURS, PEER) if find_spec("llama_cpp") else (OURS,)
    if PEER in engines and llama_cpp.library():
        print(f"llama.cpp is built with {', '.join(llama_cpp.library().features)}")
    elif PEER not in engines:
        print("Ours alone: `make peer` builds llama.cpp for this CPU")
    print_speeds(paths, engines, ceilings)
    if "SmolLM2" in paths:
        print_start(paths["SmolLM2"], engines)
    print_memory(paths, engines)


def found(names: Sequence[str]) -> dict[str, Path]:
    """Return {name: path}, synthetic models written where they are not there; say why one is left out."""
    paths = {}
    for name in names:
        if reason := obstacle(name):
            print(f"{name} is left out: {reason}")
        else:
            paths[name] = synthetic.ensure(name) if name in synthetic.SHAPES else models.available()[name]
    return paths


def obstacle(name: str) -> str:
    """Return why this machine cannot measure a model, or an empty string."""
    if name not in synthetic.SHAPES:
        return "" if name in models.available() else "its file is not here"
    needed = 2 * synthetic.parameters(name).nbytes  # the file, and what llama.cpp makes of it
    available = psutil.virtual_memory().available
    if available < needed:
        return f"it takes {bench.size(needed)} of memory, {bench.size(available)} are free"
    path = synthetic.file_path(name)
    missing = 0 if synthetic.is_complete(path, name) else synthetic.missing_disk(path, name)
    return f"{bench.size(missing)} of free disk are missing in {path.parent}" if missing else ""


def prompt(model: b2t.Model, n: int) -> list[int]:
    """Return n token ids of a text that no model soon ends: it counts."""
    return np.resize(model.tokenizer.encode(TEXT), n).tolist()


# --- Speed ------------------------------------------------------------------------------------------------


def print_speeds(paths: Mapping[str, Path], engines: Sequence[str], ceilings: hardware.Ceilings) -> None:
    """Print tokens a second, and how much of the read bandwidth our decoding uses."""
    n_threads = max(ceilings.read)
    print(
        f"Whole models, {n_threads} threads, tokens per second: ours, llama.cpp's, times as fast. Medians of"
    )
    print(f"{REPEATS} runs in turn. Weights read: GB/s of our decoding (share of the read bandwidth)")
    print(f"  {'':8}{f'decode after {PROMPT}':^26}{'weights read':^18}", end="")
    print("".join(f"{f'prefill of {n}':^26}" for n in PREFILLS).rstrip())
    for name, path in paths.items():
        rates = measure_speeds(path, engines, DECODED[name], n_threads)
        speed = rates[OURS, "decode"] * bytes_per_token(path) / 1e9
        reading = f"{speed:8.2f} ({speed / ceilings.read[n_threads]:6.1%})"
        print(f"  {name:8}{compared(rates, 'decode')}{reading:18}", end="")
        print("".join(compared(rates, n) for n in PREFILLS), flush=True)


def compared(rates: Rates, task: str | int) -> str:
    """Return three columns: our rate, the peer's, their ratio."""
    ours, theirs = rates[OURS, task], rates.get((PEER, task))
    return f"{ours:8.1f} " + (f"{theirs:8.1f} {ours / theirs:6.2f}x " if theirs else f"{'-':>8} {'-':>7} ")


def bytes_per_token(path: Path) -> int:
    """Return the bytes of weights that decoding one token reads.

    All tensors; of the embedding one row only, unless it is the output matrix too, and of experts those in
    use.
    """
    file = b2t.GGUFFile(path)
    config, tensors = b2t.model.ModelConfig.from_gguf(file), file.tensors
    unused = sum(info.nbytes for name, info in tensors.items() if "_exps." in name)
    unused -= unused * config.n_used // max(1, config.n_experts)
    total = sum(info.nbytes for info in tensors.values()) - unused
    embedding = tensors["token_embd.weight"]
    tied = "output.weight" not in tensors
    return total if tied else total - embedding.nbytes + embedding.nbytes // embedding.shape[0]


def measure_speeds(path: Path, engines: Sequence[str], n: int, n_threads: int) -> Rates:
    """Measure decoding of n tokens and each prefill; a file that llama.cpp refuses, with ours alone."""
    model = b2t.load(path)
    tasks = {OURS: our_tasks(model, n)}
    theirs = load_peer(path, n_threads) if PEER in engines else None
    if theirs:
        tasks[PEER] = peer_tasks(theirs, model, n)
    try:
        for engine in tasks.values():  # compiles, reads the file, lets `autotune` measure
            engine["decode"]()
            engine[min(PREFILLS)]()
        runs = [
            {(engine, task): tasks[engine][task]() for task in tasks[OURS] for engine in tasks}
            for _ in range(REPEATS)
        ]
    finally:
        if theirs:
            theirs.close()
    return {key: median(run[key] for run in runs) for key in runs[0]}


def load_peer(path: Path, n_threads: int) -> LlamaCppModel | None:
    """Load a file with llama.cpp; None, and a line why, if it refuses."""
    try:
        return LlamaCppModel(path, n_threads, PROMPT + max(PREFILLS))
    except RuntimeError as error:
        print(f"  {error}")
        return None


def our_tasks(model: b2t.Model, n: int) -> dict[str | int, Callable[[], float]]:
    """Return {task: function that does it and returns tokens a second}."""

    def decode():
        tokens = model.generate(prompt(model, PROMPT), 1 + n)
        next(tokens)
        return rate(lambda: sum(1 for _ in tokens))

    def prefill(ids):
        transformer = model.transformer
        x = transformer.hidden(ids, transformer.new_cache(len(ids)))
        transformer.project(x[-1:])
        return len(ids)

    prefills = {m: partial(rate, partial(prefill, prompt(model, m))) for m in PREFILLS}
    return {"decode": decode} | prefills


def peer_tasks(theirs: LlamaCppModel, model: b2t.Model, n: int) -> dict[str | int, Callable[[], float]]:
    """Return the same for llama.cpp, on the same token ids."""

    def decode():
        theirs.prefill(prompt(model, PROMPT))
        return rate(lambda: len(theirs.decode(n)))

    def prefill(ids):
        theirs.prefill(ids)
        return len(ids)

    prefills = {m: partial(rate, partial(prefill, prompt(model, m))) for m in PREFILLS}
    return {"decode": decode} | prefills


def rate(task: Callable[[], int]) -> float:
    """Run a task that returns how many tokens it did; return tokens a second."""
    start = time.perf_counter()
    n = task()
    return n / (time.perf_counter() - start)


# --- New processes ----------------------------------------------------------------------------------------

# Each generates argv[3] tokens behind the ids argv[2], says how far it has got, and waits for its end.
SCRIPTS = {
    OURS: f"""
import itertools, json, sys
import blocks2tokens as b2t
print("imported", flush=True)
model = b2t.load(sys.argv[1])
print("loaded", flush=True)
ids = json.loads(sys.argv[2])
for token in itertools.islice(model.generate(ids, {CONTEXT} - len(ids)), int(sys.argv[3])):
    print("token", flush=True)
sys.stdin.read()
""",
    PEER: f"""
import json, runpy, sys
import llama_cpp
print("imported", flush=True)
LlamaCppModel = runpy.run_path({llama_cpp_model.__file__!r})["LlamaCppModel"]  # without our engine
model = LlamaCppModel(sys.argv[1], int(sys.argv[4]), {CONTEXT})
print("loaded", flush=True)
model.prefill(json.loads(sys.argv[2]))
for _ in range(int(sys.argv[3])):
    model.decode(1)
    print("token", flush=True)
sys.stdin.read()
""",
}


@dataclass(frozen=True)
class Mark:
    """How far a process had got, the seconds since its start, and its memory in bytes, as Linux names it."""

    what: str
    seconds: float
    memory: dict[str, int]


def run_apart(engine: str, path: Path, n: int) -> list[Mark]:
    """Generate n tokens in a new process; return its marks: imported, loaded, and each token."""
    ids = json.dumps(prompt(b2t.load(path), PROMPT))
    arguments = [str(path), ids, str(n), str(hardware.machine().cores)]
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPTS[engine], *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        marks = []
        while len(marks) < 2 + n and (line := process.stdout.readline()):
            marks.append(Mark(line.strip(), time.perf_counter() - start, memory(process.pid)))
    if process.returncode:
        raise RuntimeError(f"{engine} failed on {path.name}; its reason stands above")
    return marks


def memory(pid: int) -> dict[str, int]:
    """Return {field: bytes} of a process's memory, empty where /proc does not tell."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    fields = (line.split() for line in lines if line.startswith(("Rss", "VmRSS", "VmHWM")))
    return {name.rstrip(":"): 1024 * int(kilobytes) for name, kilobytes, _ in fields}


def print_start(path: Path, engines: Sequence[str]) -> None:
    """Print the seconds from the start of a process to its first token."""
    for engine in engines:  # compiles what is not in Numba's cache, reads the file
        run_apart(engine, path, 1)
    runs = [{engine: run_apart(engine, path, 1) for engine in engines} for _ in range(STARTS)]
    print(f"\nA new process with {path.stem}, caches warm: seconds from its start, medians of {STARTS}")
    print(f"  {'':12}{'imported':>10}{'loaded':>10}{'first token':>14}")
    for engine in engines:
        steps = zip(*(run[engine] for run in runs), strict=True)
        imported, loaded, token = (median(mark.seconds for mark in step) for step in steps)
        print(f"  {engine:12}{imported:10.2f}{loaded:10.2f}{token:14.2f}")


def print_memory(paths: Mapping[str, Path], engines: Sequence[str]) -> None:
    """Print the memory of a process that generates, against the file and the cache."""
    if not memory(psutil.Process().pid):
        print("\nThe memory of a process is measured on Linux only")
        return
    print(
        f"\nMemory of a new process: after its imports, after {DECODED['7B']} tokens, and the highest it was."
    )
    print(f"Mapped: the file and all libraries. The cache has room for {CONTEXT} tokens")
    print(f"  {'':30}{'after imports':>21}{'after tokens':>20}{'peak /':>17}")
    columns = ("file", "cache", "own", "mapped", "own", "mapped", "peak")
    print(f"  {'':20}" + "".join(f"{column:>10}" for column in columns) + "  (file + cache)")
    for name, path in paths.items():
        for engine in engines:
            marks = run_apart(engine, path, DECODED["7B"])
            first, last = marks[0].memory, marks[-1].memory
            sizes = [path.stat().st_size, cache_bytes(path, engine)]
            sizes += [now[kind] for now in (first, last) for kind in ("RssAnon", "RssFile")]
            against = last["VmHWM"] / (sizes[0] + sizes[1])
            cells = (f"{bench.size(n):>10}" for n in (*sizes, last["VmHWM"]))
            print(f"  {name:8}{engine:12}" + "".join(cells) + f"{against:9.2f}x", flush=True)


def cache_bytes(path: Path, engine: str) -> int:
    """Return the bytes of an engine's cache for CONTEXT tokens; llama.cpp's values are float16."""
    model = b2t.load(path, cache="float32" if engine == OURS else "float16")
    return model.transformer.new_cache(CONTEXT).nbytes


def main() -> None:
    names = sys.argv[1:] or DEFAULT
    if unknown := set(names) - set(DECODED):
        raise SystemExit(f"expected some of {', '.join(DECODED)}, got {', '.join(sorted(unknown))}")
    print_models(hardware.measure(), names)


if __name__ == "__main__":
    main()
