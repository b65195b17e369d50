"""Jobs in processes of their own: as many at a time as there are cores, each ended when it takes too much.

    jobs  --forkserver: a process that has imported the course, and is copied for each job-->  grades
          --spawn, on Windows: a new Python for each, some seconds more-->

A job may take seconds of a CPU, some more by the clock, and some memory; its processes count together. One
that ends without a grade costs its own job only.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from types import ModuleType

import psutil

from blocks2tokens.course.classroom.judging import WRONG, Grade, Job, enter
from blocks2tokens.jit import cores

LONGEST_MESSAGE = 100_000  # bytes
LOOK = 0.2  # seconds between two looks at what the processes take
PRELOADED = ["blocks2tokens.course.classroom.judging"]


def run(jobs: Mapping[Hashable, Job], workers: int | None = None) -> Iterator[tuple[Hashable, Grade]]:
    """Yield (key, grade) for each job, as they are done; `workers` at a time, None: one for each core."""
    context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    if os.name == "posix":
        context.set_forkserver_preload(PRELOADED)
    waiting, running = list(reversed(jobs.items())), []
    workers = workers or cores.to_be_had()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(_Running(context, *waiting.pop()))
            wait([one.connection for one in running], LOOK)
            for one in list(running):
                if (grade := one.grade()) is not None:
                    running.remove(one)
                    one.end()
                    yield one.key, grade
    finally:
        for one in running:
            one.end()


@contextlib.contextmanager
def _no_script() -> Iterator[None]:
    """Hide the script that runs: multiprocessing would run it again in each process."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


@dataclass
class _Running:
    """A job under way."""

    context: object
    key: Hashable
    job: Job
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="grading-", ignore_cleanup_errors=True)
        self.connection, theirs = self.context.Pipe(duplex=False)
        arguments = (theirs, self.job, self.folder.name)
        self.process = self.context.Process(target=enter, args=arguments, daemon=True)
        with _no_script():
            self.process.start()
        theirs.close()

    def grade(self) -> Grade | None:
        """Return the grade if there is one, or one for a process that has ended or must; else None."""
        if self.connection.poll():
            try:
                return Grade(
                    **json.loads(self.connection.recv_bytes(LONGEST_MESSAGE))
                )  # no pickle: it is theirs
            except (
                EOFError,
                OSError,
                ValueError,
                TypeError,
            ):  # cut off, or nothing that a process of ours has sent
                self.process.join(1)
                return Grade(WRONG, f"Python ended while judging it{self._how()}")
        taken = self._too_much()
        return Grade(WRONG, taken) if taken else None

    def _how(self):
        code = self.process.exitcode
        if code is None or code >= 0:
            return f", with code {code}" if code else ""
        try:
            return f": {signal.Signals(-code).name}"
        except ValueError:
            return ""

    def _too_much(self):
        """Say what a job takes too much of, or return None."""
        if time.monotonic() - self.started > 4 * self.job.seconds + 30:
            return f"it took more than {4 * self.job.seconds:.0f} s: does it wait for something?"
        cpu = memory = 0
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                cpu, memory = cpu + times.user + times.system, memory + process.memory_info().rss
        if cpu > self.job.seconds:
            return f"it took more than {self.job.seconds:.0f} s of computing: does every loop in it end?"
        if memory > self.job.memory + 500_000_000:  # what Python and the course take themselves
            return f"it took more than {self.job.memory / 1e9:.1f} GB of memory"
        return None

    def _processes(self):
        try:
            own = psutil.Process(self.process.pid)
            return [own, *own.children(recursive=True)]
        except psutil.Error:
            return []

    def end(self) -> None:
        """End the job's processes, those of its group too, and remove its folder."""
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        if os.name == "posix":
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.join()
        self.connection.close()
        self.folder.cleanup()
