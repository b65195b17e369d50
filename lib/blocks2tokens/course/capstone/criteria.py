"""What is judged of a model that a capstone file loads. Each criterion returns a Finding, or raises.

    weights      tensor(name) of a file of random blocks: ggml's bits, in all six formats
    tokens       tokenize(text): llama.cpp's ids
    logits       logits(ids) of Austen in six formats beside llama.cpp's recorded ones
    text         generate(ids, n): each id the most likely one by the model's own logits
    SmolLM2      logits of a chat model of 135 million weights, where it is here
    allocations  arrays and bytes that one more token allocates
    bytes read   bytes of memory that one token touches, by the system's own count (Linux)
    memory       the most that loading and twelve tokens hold, beside the mapped file
    speed        tokens a second, as a ratio to the starter file measured in turn with it

Figures that depend on the machine are ratios, or say so. What a criterion found is sent to the judge in one
piece: the process may end at any moment.
"""

import gc
import re
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from blocks2tokens.course import bench
from blocks2tokens.course.capstone import pieces, questions
from blocks2tokens.formats import by_ggml_type
from blocks2tokens.gguf_file import GGUFFile

LIMITS = {"F16": (1.0, 0.01), questions.SMOLLM2: (0.85, 0.35)}  # same top token, nats apart
ROUNDED = (0.9, 0.1)  # where weights are blocks llama.cpp rounds activations, and an engine may
MOST_ALLOCATED = 16_000_000  # bytes a token: decoding all of Austen for each takes twice that
CLEAR_REFS, SMAPS = Path("/proc/self/clear_refs"), Path("/proc/self/smaps")
MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+ *(?P<path>.*)$", re.MULTILINE)
MEMORY = ("[", "/dev/zero", "/dev/shm/", "/memfd:", "/SYSV", "/anon_hugepage")  # paths that are no files
REFERENCED = re.compile(r"^Referenced:\s+(\d+) kB", re.MULTILINE)
METHODS = ("tensor", "tokenize", "logits", "generate")  # of what load(path) returns
TIE = 0.02  # logits this near may come out in either order


class Failed(Exception):
    """A criterion is not met; says why."""


class NotCountedError(Exception):
    """This system does not tell which pages a process touches."""


@dataclass(frozen=True)
class Finding:
    """What a criterion found: in words, and as numbers for the leaderboard."""

    said: str
    figures: dict[str, float] = field(default_factory=dict)


@dataclass
class Subject:
    """A file under judgement: its module, and the files to judge it with. One model is open at a time."""

    module: object
    files: dict[str, Path]
    _open: tuple[str, object] = ("", None)

    def model(self, name: str):
        """Return the model of a file, loaded by the learner's function."""
        if self._open[0] != name:
            self._open = "", None
            gc.collect()
            self._open = name, self._loaded(name)
        return self._open[1]

    def _loaded(self, name):
        found = self.module.load(str(self.files[name]))
        if missing := [method for method in METHODS if not callable(getattr(found, method, None))]:
            kind = "None" if found is None else f"an object of {type(found).__name__}"
            raise Failed(f"load(path) returned {kind}, which has no {', '.join(missing)}")
        return found

    def logits(self, name: str, ids: np.ndarray) -> np.ndarray:
        """Return the model's logits, checked; Failed for anything but so many finite numbers."""
        found = self.model(name).logits([int(i) for i in ids])
        vocab = len(GGUFFile(self.files[name]).metadata["tokenizer.ggml.tokens"])
        return checked(found, (len(ids), vocab), f"logits of {name}")


def checked(answer, shape: tuple[int, ...], what: str) -> np.ndarray:
    """Return an answer as float32; Failed unless it is an array of this shape, of finite numbers."""
    if not isinstance(answer, np.ndarray) or answer.dtype.kind != "f":
        kind = f"an array of {answer.dtype}" if isinstance(answer, np.ndarray) else type(answer).__name__
        kind = "None: is there no `return`?" if answer is None else kind
        raise Failed(f"{what}: expected float32 {list(shape)}, got {kind}")
    if answer.shape != shape:
        raise Failed(f"{what}: expected shape {shape}, got {answer.shape}")
    if not np.isfinite(answer).all():
        raise Failed(f"{what}: {np.count_nonzero(~np.isfinite(answer)):,} numbers are not finite")
    return answer.astype(np.float32, copy=False)


# What it computes


def weights(subject: Subject) -> Finding:
    """Compare every tensor of the seeded file with the engine's, bit by bit."""
    file, wrong, n = GGUFFile(subject.files[questions.SEEDED]), {}, 0
    model = subject.model(questions.SEEDED)
    for name, info in file.tensors.items():
        fmt = by_ggml_type(info.ggml_type)
        expected = fmt.dequantize(file.raw(name))
        found = checked(model.tensor(name), info.shape, name)
        differ = np.ascontiguousarray(found).view(np.uint32) != expected.view(np.uint32)
        n += expected.size
        if differ.any():
            at = tuple(int(i) for i in np.argwhere(differ)[0])
            wrong.setdefault(fmt.name, f"{fmt.name}: {int(differ.sum()):,} of {differ.size:,} weights of "
                             f"{name} differ, the first at {list(at)}: {found[at]:.6g}, expected "
                             f"{expected[at]:.6g}")  # fmt: skip
    if wrong:
        raise Failed("; ".join(wrong.values()))
    return Finding(f"{n:,} weights in {len(questions.READ)} formats, bit for bit")


def tokens(subject: Subject) -> Finding:
    """Compare the ids of some texts with llama.cpp's."""
    n = 0
    for name in ("F16", questions.SMOLLM2):
        for text, ids in questions.texts(name) if name in subject.files else ():
            found = subject.model(name).tokenize(text)
            if list(found) != list(ids):
                at = next((i for i, (a, b) in enumerate(zip(found, ids, strict=False)) if a != b), len(ids))
                raise Failed(f"{name}: {text[:30]!r}: token {at} is another than llama.cpp's")
            n += len(ids)
    return Finding(f"{n} tokens as llama.cpp has them")


def logits(subject: Subject) -> Finding:
    """Compare logits of Austen in each format with llama.cpp's recorded ones."""
    apart, problems = {}, []
    for name in questions.READ:
        ids, top_ids, theirs = questions.recorded(name)
        apart[name], problem = _agreement(subject, name, ids, top_ids, theirs, LIMITS.get(name, ROUNDED))
        problems += problem
    if problems:
        raise Failed("; ".join(problems))
    worst = max(apart.values())
    said = f"{len(apart)} formats, at most {worst:.4f} nats from llama.cpp"
    return Finding(said, {f"nats apart, {name}": value for name, value in apart.items()})


def _agreement(subject, name, ids, top_ids, theirs, limits):
    """Return the mean difference over llama.cpp's likeliest tokens, and a line if it is too much."""
    found = subject.logits(name, ids).astype(np.float64)
    if (found >= 0).all() and np.allclose(found.sum(axis=1), 1, atol=1e-3):
        raise Failed(f"logits of {name}: these are probabilities, they add up to 1: leave out the softmax")
    shifted = found - found.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    off = float(np.abs(np.take_along_axis(log_p, top_ids, axis=1) - theirs).mean())
    same = float(np.mean(log_p.argmax(axis=1) == top_ids[:, 0]))
    least, most = limits
    if same >= least and off <= most:
        return off, []
    told = [f"{off:.3g} nats from llama.cpp, at most {most:g}"] if off > most else []
    told += [f"top token the same {same:.0%}, at least {least:.0%}"] if same < least else []
    return off, [f"{name}: {' and '.join(told)}"]


def text(subject: Subject, n: int = 24) -> Finding:
    """Ask for a continuation, and whether each of its tokens is the most likely one."""
    model, ids = subject.model("F16"), questions.prompt()
    found = [int(i) for i in model.generate(list(ids), n)]
    if not 0 < len(found) <= n:
        begins = ", the prompt's first: new ones alone" if found[: len(ids)] == list(ids) else ""
        raise Failed(f"generate(ids, {n}) gave {len(found)} ids{begins}")
    rows = subject.logits("F16", [*ids, *found])[len(ids) - 1 :]
    for t, i in enumerate(found):
        if rows[t, i] < rows[t].max() - TIE:
            raise Failed(f"id {t} is not the most likely one: {i} has logit {rows[t, i]:.3f}, "
                         f"{int(rows[t].argmax())} has {rows[t].max():.3f}")  # fmt: skip
    return Finding(f"{len(found)} tokens: {questions.said(found)!r}")


def smollm2(subject: Subject) -> Finding:
    """Compare the logits of SmolLM2 with llama.cpp's, for one short text."""
    one = questions.chat_text()
    given = one.ids, one.top_ids, one.top_log_probs, LIMITS[questions.SMOLLM2]
    off, problems = _agreement(subject, questions.SMOLLM2, *given)
    if problems:
        raise Failed(problems[0])
    return Finding(f"{off:.3f} nats from llama.cpp", {"nats apart, SmolLM2": off})


# What it takes


def allocations(subject: Subject) -> Finding:
    """Count what a longer text allocates more than a shorter one."""
    model, ids = subject.model("Q4_K"), questions.prompt()
    found = {}
    for n in (4, 12):
        generated(model, ids, n)  # whatever is made once
        found[n] = bench.allocations(lambda n=n: generated(model, ids, n))
    nbytes, count = ((getattr(found[12], what) - getattr(found[4], what)) / 8 for what in ("nbytes", "count"))
    if nbytes > MOST_ALLOCATED:
        raise Failed(f"{bench.size(nbytes)} for each token: it decodes the model again each time")
    figures = {"bytes allocated per token": max(0.0, nbytes), "allocations per token": max(0.0, count)}
    return Finding(f"{bench.size(max(0, nbytes))} in {max(0, count):,.0f} arrays for each token", figures)


def generated(model, ids, n) -> list[int]:
    """Return n ids; Failed where the model ends before."""
    found = list(model.generate(list(ids), n))
    if len(found) != n:
        raise Failed(f"generate(ids, {n}) gave {len(found)} ids")
    return found


def bytes_read(subject: Subject) -> Finding:
    """Ask the system which memory one token touches: pages, each once, Python's objects too."""
    path, ids = subject.files["Q4_K"], questions.prompt()[-1:]
    subject._open = "", None
    gc.collect()
    try:
        others = {other for other, _ in _mappings()} - {str(path.resolve())}
        model = subject.model("Q4_K")
        generated(model, ids, 2)
        idle = _touched(lambda: None, others)
        n_bytes = max(0, _touched(lambda: generated(model, ids, 1), others) - idle)
    except NotCountedError:
        return Finding("not to be had from this system")
    weights = sum(info.nbytes for info in GGUFFile(path).tensors.values())
    said = f"{bench.size(n_bytes)} for a token, {n_bytes / weights:.2f} times the file's weights"
    return Finding(said, {"bytes read per token": n_bytes})


def _mappings() -> list[tuple[str, int]]:
    """Return what the process has mapped: the path, "" where it is memory, and the bytes touched of each.

    Raises NotCountedError where nobody counts.
    """
    text, found = _asked(SMAPS.read_text), []
    heads = list(MAPPING.finditer(text))
    for head, end in zip(heads, [h.start() for h in heads[1:]] + [len(text)], strict=True):
        referenced = REFERENCED.search(text, head.end(), end)
        if referenced is None:
            raise NotCountedError
        path = "" if head["path"].startswith(MEMORY) else head["path"]
        found.append((path, 1024 * int(referenced[1])))
    return found


def _asked(question: Callable, *arguments):
    """Return what the system answers: what a learner's engine raises is another thing."""
    try:
        return question(*arguments)
    except OSError as reason:
        raise NotCountedError from reason


def _touched(function: Callable, others: set[str]) -> int:
    """Return the bytes of the pages that a function reads or writes; NotCountedError where nobody counts.

    Those of other files do not count: a page of theirs is touched when another process reads it.
    """
    gc.collect()
    gc.disable()  # it would look at every object that there is
    try:
        _asked(CLEAR_REFS.write_text, "1")
        function()
    finally:
        gc.enable()
    return sum(n_bytes for path, n_bytes in _mappings() if not path or path not in others)


def memory(subject: Subject) -> Finding:
    """Trace the peak of loading and of twelve tokens; what is mapped from the file does not count."""
    generated(subject.model("Q4_K"), questions.prompt(), 2)  # what it compiles is compiled
    subject._open = "", None
    gc.collect()
    tracemalloc.start()
    try:
        generated(subject.model("Q4_K"), questions.prompt(), 12)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return Finding(f"{bench.size(peak)} at most", {"bytes of memory": peak})


def speed(subject: Subject, seconds: float = 8.0, n: int = 16) -> Finding:
    """Time one-by-one and batch beside the starter's, in turn."""
    ids, path = questions.prompt(), subject.files["Q4_K"]
    long = questions.recorded("Q4_K")[0]
    both = {"yours": subject.model("Q4_K")}
    both["starter"] = pieces.build(pieces.STARTER, lambda name: None).module.load(str(path))
    runs = {("decode", name): lambda m=m: generated(m, ids, n) for name, m in both.items()}
    runs |= {("prefill", name): lambda m=m: m.logits(list(long)) for name, m in both.items()}
    times = bench.interleaved(runs, 9, seconds)
    ratio = {
        what: times[what, "starter"].median / times[what, "yours"].median for what in ("decode", "prefill")
    }
    rate = n / times["decode", "yours"].median
    said = f"{ratio['decode']:.2f} times the starter's, prefill {ratio['prefill']:.2f} times"
    figures = {f"{what}, times the starter's": value for what, value in ratio.items()}
    return Finding(f"{said}; {rate:,.0f} tokens/s", figures | {"tokens a second": rate})


CRITERIA: dict[str, Callable[[Subject], Finding]] = {
    "weights": weights,
    "tokens": tokens,
    "logits": logits,
    "text": text,
    questions.SMOLLM2: smollm2,
    "allocations": allocations,
    "bytes read": bytes_read,
    "memory": memory,
    "speed": speed,
}


def judged(name: str, subject: Subject) -> dict:
    """Return what a criterion found, {"said", "figures", "problem"}; what the file raises is a problem."""
    try:
        found = CRITERIA[name](subject)
        return {"said": found.said, "figures": found.figures, "problem": ""}
    except Failed as reason:
        return {"said": "", "figures": {}, "problem": str(reason)}
