"""A capstone file judged, in processes that may be ended at any time.

    file  --rules-->  a row
          --a process: build, then criterion after criterion-->  a row for each, as it comes
                it takes too long, or too much memory, prints without end, or ends:  a row with the reason,
                and another process for the criteria that are left

The process has a folder of its own, limits of memory and of files' sizes (course.classroom.guard), and sends
JSON. Who means harm gets out of it: judge strangers' files on a machine that you can do without.
"""

import contextlib
import errno
import json
import multiprocessing.util
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from blocks2tokens.course import models, work
from blocks2tokens.course.capstone import pieces, questions, rules
from blocks2tokens.course.capstone.criteria import CRITERIA, Subject, judged
from blocks2tokens.course.classroom import guard
from blocks2tokens.course.classroom.processes import _no_script
from blocks2tokens.jit import cores

SECONDS, MEMORY = 120.0, 3_000_000_000  # of CPUs, for a criterion with what it compiles; bytes
START, FAREWELL = 60.0, 1.0  # seconds that a process may take to begin, and to end
IDLE, STIR = 90.0, 0.2  # seconds by the clock without so many of the CPUs: what waits for ever
OF_A_CORE = 128_000_000  # bytes of addresses that threads reserve, and do not use
MOST_PRINTED = 1_000_000  # bytes
PRINTED = f"it printed more than {MOST_PRINTED:,} bytes"
MOST_NAMED = 6  # pieces in a line
LOOK = 0.1  # seconds between two looks
LONGEST_MESSAGE, LONGEST_REASON = 100_000, 300
RULES, RUNS = "rules", "it runs"
OUT_OF_MEMORY = ("failed to map segment", "Cannot allocate memory")  # how libraries say it
FINDING = {"said", "figures", "problem"}  # what is sent, and whose the pieces are with the first
NEEDS = {name: ("Q4_K",) for name in ("allocations", "bytes read", "memory", "speed")}
NEEDS |= {"weights": (questions.SEEDED,), "tokens": ("F16",), "text": ("F16",), "logits": questions.READ}
NEEDS |= {questions.SMOLLM2: (questions.SMOLLM2,)}


@dataclass(frozen=True)
class Row:
    """A criterion's verdict: is it met, what was found or why it is not, and figures for the leaderboard."""

    criterion: str
    met: bool
    said: str
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """A file's rows, and whose its pieces are, {piece: whose}; shows itself as a table."""

    path: Path
    seed: int
    lines: int
    rows: tuple[Row, ...]
    whose: Mapping[str, str]

    @property
    def met(self) -> int:
        """How many criteria are met."""
        return sum(row.met for row in self.rows)

    def __repr__(self):
        width = max(len(row.criterion) for row in self.rows)
        lines = [f"{'✓' if row.met else '✗'} {row.criterion:{width}}  {row.said}" for row in self.rows]
        return "\n".join([*lines, self.summary()])

    def summary(self) -> str:
        """Return how many criteria are met, and whose the pieces are."""
        counts = [list(self.whose.values()).count(w) for w in (pieces.WRITTEN, pieces.PASSED, pieces.LENT)]
        told = "; pieces: {} written here, {} passed in their lessons, {} the engine's".format(*counts)
        return f"{self.met} of {len(self.rows)} met{told if self.whose else ''}"


@dataclass(frozen=True)
class Job:
    """What a process has to do."""

    path: str
    started: str  # where the judge was: the learner's functions are looked for beside the file, then here
    files: dict[str, str]
    criteria: tuple[str, ...]
    memory: int


def judge(
    path: Path,
    seed: int = 0,
    criteria: Iterable[str] = tuple(CRITERIA),
    seconds: float = SECONDS,
    memory: int = MEMORY,
    show: Callable[[Row], None] = lambda row: None,
) -> Report:
    """Return the report on a file; `show` gets each row as it comes.

    ValueError for an unknown criterion, FileNotFoundError for a file. What the file does is no error.
    """
    path, left = Path(path).resolve(), list(criteria)
    if unknown := [name for name in left if name not in CRITERIA]:
        raise ValueError(f"criteria: expected some of {', '.join(CRITERIA)}, got {unknown[0]!r}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    rows, whose = [], {}

    def add(row):
        rows.append(row)
        show(row)

    add(_row_of_rules(path))
    if rows[0].said.startswith("it is no Python"):
        return Report(path, seed, 0, tuple(rows), whose)
    limits = seconds, memory
    with tempfile.TemporaryDirectory(prefix="capstone-", ignore_cleanup_errors=True) as folder:
        _judge_all(path, left, _files(Path(folder), left, seed), limits, Path(folder), add, whose)
    return Report(path, seed, rules.code_lines(path.read_text(encoding="utf-8")), tuple(rows), whose)


def _judge_all(path, criteria, files, limits, folder, add, whose):
    """Judge a file by the criteria for which there are files, in as many processes as it takes."""
    left = [name for name in criteria if set(NEEDS[name]) <= set(files)]
    if criteria and not left:
        raise ValueError(f"{', '.join(criteria)}: the model that it needs is not here")
    places, is_first = {name: str(place) for name, place in files.items()}, True
    while left:
        job = Job(str(path), str(Path.cwd()), places, tuple(left), limits[1])
        done = _run(job, limits[0], folder, add, whose, is_first)
        if done is None:
            return
        left, is_first = left[done:], False


def _row_of_rules(path):
    if problems := rules.broken(path):
        return Row(RULES, False, "; ".join(problems))
    lines = rules.code_lines(path.read_text(encoding="utf-8"))
    return Row(RULES, True, f"{lines} of at most {rules.MOST_LINES} lines of code", {"lines": lines})


def _files(folder, criteria, seed):
    """Write the files that some criteria need; return {name: path}."""
    needed = {name for criterion in criteria for name in NEEDS[criterion]}
    files = questions.write_conversions(folder, [name for name in questions.QUANTIZED if name in needed])
    if questions.SEEDED in needed:
        files[questions.SEEDED] = questions.write_seeded(folder / "seeded.gguf", seed)
    if questions.SMOLLM2 in needed and questions.SMOLLM2 in models.available():
        files[questions.SMOLLM2] = models.smollm2()
    return files


# In the judge


def _run(job, seconds, folder, add, whose, is_first):
    """Run one process; return how many criteria it has done with, None if the file does not run at all."""
    process = _Process(job, folder)
    running, done = RUNS, 0
    try:
        while done < len(job.criteria):
            message = process.message(seconds + START if running == RUNS else seconds)
            if isinstance(message, str):
                add(Row(running, False, message))
                return None if running == RUNS else done + 1
            if running != RUNS or is_first or message["problem"]:
                problem = message["problem"]
                add(Row(running, not problem, _cut(problem or message["said"]), message["figures"]))
            if running == RUNS and message["problem"]:
                return None
            whose.update(message.get("whose", {}))
            done += running != RUNS
            running = job.criteria[min(done, len(job.criteria) - 1)]
        return done
    finally:
        process.end()


def _cut(text):
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= LONGEST_REASON else line[: LONGEST_REASON - 3] + "..."


class _Process:
    """A process that judges, and what the judge knows of it."""

    def __init__(self, job: Job, folder: Path):
        context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
        if os.name == "posix":
            context.set_forkserver_preload([__name__])
        self.connection, theirs = context.Pipe(duplex=False)
        self.printed, self.memory = folder / "printed", job.memory
        self.printed.write_bytes(b"")
        place = folder / "at work"
        place.mkdir(exist_ok=True)
        arguments = theirs, job, str(place), str(self.printed)
        self.process = context.Process(target=enter, args=arguments, daemon=True)
        with _no_script():
            self.process.start()
        theirs.close()

    def message(self, seconds: float) -> dict | str:
        """Return what comes next, or why nothing will; `seconds` are of the CPUs, by the clock four times."""
        start, cpu = time.monotonic(), self._cpu()
        moved, at_work = start, cpu
        while not self.connection.poll(LOOK):
            if reason := self._too_much():
                return reason
            if self._cpu() - cpu > seconds:
                return f"it took more than {seconds:.0f} s of computing: does every loop in it end?"
            if self._cpu() > at_work + STIR:
                moved, at_work = time.monotonic(), self._cpu()
            if time.monotonic() - moved > IDLE:
                return f"it has computed nothing for {IDLE:.0f} s: {self._waits()}"
            if time.monotonic() - start > 4 * seconds + START:
                return f"it took more than {4 * seconds + START:.0f} s: {self._waits()}"
        try:
            found = json.loads(self.connection.recv_bytes(LONGEST_MESSAGE))
            return found if set(found) >= FINDING else "it sent something that is no finding"
        except (EOFError, OSError, ValueError, TypeError):
            self.process.join(2)
            return self._too_much() or f"Python ended{self._how()}: does it write past an array?"

    def _waits(self):
        with contextlib.suppress(psutil.Error):
            if psutil.Process(self.process.pid).memory_info().rss > self.memory / 2:
                return "did it run out of memory?"
        return "does it wait for something?"

    def _cpu(self):
        """Return the seconds of CPUs that the process has taken."""
        try:
            times = psutil.Process(self.process.pid).cpu_times()
        except psutil.Error:
            return 0.0
        return times.user + times.system

    def _too_much(self):
        with contextlib.suppress(OSError):
            if self.printed.stat().st_size > MOST_PRINTED:
                return PRINTED
        with contextlib.suppress(psutil.Error):
            own = psutil.Process(self.process.pid)
            memory = sum(one.memory_info().rss for one in [own, *own.children(recursive=True)])
            if memory > self.memory + 1_000_000_000:  # what Python and the course take themselves
                return f"it took more than {self.memory / 1e9:.1f} GB of memory"
        return None

    def _how(self):
        code = self.process.exitcode
        if code is None or code >= 0:
            return f" with code {code}" if code else ""
        with contextlib.suppress(ValueError):
            return f" by {signal.Signals(-code).name}"
        return ""

    def end(self) -> None:
        """End the process with all that it started; one that has finished has a moment to do it itself."""
        self.process.join(FAREWELL)
        with contextlib.suppress(psutil.Error):
            own = psutil.Process(self.process.pid)
            for one in [*own.children(recursive=True), own]:
                with contextlib.suppress(psutil.Error):
                    one.kill()
        if os.name == "posix":
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.join()
        self.connection.close()


# In the process


def enter(connection: Connection, job: Job, folder: str, printed: str) -> None:
    """Build the file's engine and judge it, and end the process with all that was left running."""
    for number, path, mode in ((0, os.devnull, os.O_RDONLY), (1, printed, os.O_WRONLY | os.O_APPEND)):
        os.dup2(os.open(path, mode), number)
    os.dup2(1, 2)
    guard.limit(job.memory + cores.to_be_had() * OF_A_CORE)
    _enter_the_learners_folder(job)
    refused: list[str] = []
    for message in _messages(job, folder, refused):
        if refused:
            message |= {"said": "", "problem": f"it {refused[0]}, which no engine needs"}
            refused.clear()
        connection.send_bytes(json.dumps(message).encode())
    connection.close()
    with contextlib.suppress(Exception):
        multiprocessing.util._run_finalizers(0)  # locks known to the whole system would outlive os._exit
    os._exit(0)


def _enter_the_learners_folder(job):
    for place in (Path(job.path).parent, job.started):
        os.chdir(place)
        if work.folder() is not None:
            return


def _messages(job, folder, refused):
    """Yield what is to be sent: whose the pieces are, then a finding for each criterion."""
    path = Path(job.path)
    passed = {name: pieces.mine(name) for name in pieces.OF_LESSON}
    os.chdir(folder)
    guard.refuse(path, refused)
    built = None

    def build():
        nonlocal built
        built = pieces.build(path, passed.get)
        return {"said": _sum_of(built.whose), "whose": dict(built.whose), "problem": "", "figures": {}}

    message = _guarded(build, path)
    yield message
    if built is None:
        return
    subject = Subject(built.module, {name: Path(at) for name, at in job.files.items()})
    for name in job.criteria:
        yield _guarded(lambda name=name: judged(name, subject), path)


def _sum_of(whose):
    lent = [piece for piece, of in whose.items() if of == pieces.LENT]
    if not whose:
        return "it has a load(path), and no function of the starter's"
    if not lent:
        return "every piece is yours"
    named = f": {', '.join(lent)}" if len(lent) <= MOST_NAMED else ""
    return f"the engine lends {len(lent)} of {len(whose)} pieces{named}"


def _guarded(function, path):
    """Return a function's message; whatever it raises is a problem, with the line of the file."""
    try:
        return function()
    except pieces.NoEngineError as reason:
        problem = str(reason)
    except BaseException as error:  # exit() and what is refused, too
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        where = f"line {lines[-1]}: " if lines else ""
        problem = f"{where}{_what(error)}"
    return {"said": "", "figures": {}, "problem": problem}


def _what(error):
    if isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
        return "it asked for more memory than there is for it"
    if isinstance(error, OSError) and error.errno == errno.EFBIG:  # files are refused: this is what it prints
        return PRINTED
    return "it calls exit()" if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
