"""Ranks: the processes that mpiexec has started, and how they talk.

    rank 0 ----residual float32 [T, dim]----> rank 1 ----> ... ----> rank n - 1
    rank 0 <------------------- the next id, int64 [1] -------------------

Every wait ends. A rank that waits looks again and again whether its message is there, and lets others have
the core in between; meanwhile a thread hears the heartbeat of the rank before it. One that dies or hangs is
silent, and whoever misses it says so in one line and ends them all: MPI alone would wait for ever.

    rank r ----beat, every BEAT seconds----> rank r + 1        the last one's goes to rank 0

Needs mpi4py and an MPI; PyPI has both: `pip install mpi4py mpich` puts mpiexec into the environment.
"""

import hashlib
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import psutil

from blocks2tokens.errors import UnsupportedError
from blocks2tokens.parallel.cost import Link

BEAT, SILENCE = 0.5, 4.0  # seconds: from beat to beat, and after how many a rank counts as lost
BUSY = 60.0  # but so many if one sees its process run: compiled code lets no thread beat
PATIENT = 0.05  # seconds that a rank waits before it begins to sleep between two looks
NAP = 2e-4
PATIENCE = 2.0  # seconds in which all ranks meet an error that is everybody's
LOST = 75  # exit code: sysexits' EX_TEMPFAIL, try again


def let_others() -> None:
    """Let another thread have the core, if one wants it: a microsecond, of which sleep(0) can make 75."""
    os.sched_yield() if hasattr(os, "sched_yield") else time.sleep(0)


def mpi():
    """Return mpi4py's module; UnsupportedError, with what to install, where there is none or no MPI."""
    os.environ.setdefault("MPIR_CVAR_SUPPRESS_ABORT_MESSAGE", "1")  # `Ranks.end` says why, in one line
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise UnsupportedError(
            f"many machines need mpi4py and an MPI: pip install 'mpi4py>=4.1' mpich ({error})"
        ) from None
    return MPI


class Ranks:
    """All processes of this run; each has its own Ranks, with its own `rank` of `size`.

    `here` is how many of them share this machine.
    """

    def __init__(self, link: Link | None = None):
        """Join the others. With a link, messages take as long as on such a network, on one machine.

        `last_words` may be set to a function: what it returns is added to the line that says that a rank is
        lost. Raises UnsupportedError as `mpi`, and ValueError for a link between several machines.
        """
        MPI = mpi()
        self.comm = MPI.COMM_WORLD.Dup()
        self.rank, self.size = self.comm.rank, self.comm.size
        self.here = self.comm.Split_type(MPI.COMM_TYPE_SHARED).size
        self.last_words: Callable[[], str] = lambda: ""
        self.link, self._free = link, [0.0] * self.size  # when the link to each rank is free again
        if link and self.here != self.size:
            raise ValueError("a link is tried out on one machine: its ranks need one clock")
        self._sent: list = []  # (request, array): an array must stay as it is until it has gone
        self._over = threading.Event()
        self._names = self.comm.allgather((MPI.Get_processor_name(), os.getpid()))
        self._failed, self._listener = self.comm.Dup(), None
        if self.size > 1:
            self._listener = threading.Thread(target=self._listen, args=(self.comm.Dup(),), daemon=True)
            self._listener.start()

    # --- Messages -----------------------------------------------------------------------------------------

    def send(self, array: np.ndarray, to: int, tag: int = 0) -> None:
        """Send an array, which may be written to again at once; waits for nobody."""
        self._sent = [pair for pair in self._sent if not pair[0].Test()]
        self._begin(array.copy(), to, tag)
        if self.link:
            start = max(time.monotonic(), self._free[to])
            self._free[to] = start + array.nbytes / self.link.rate
            self._begin(np.array([self._free[to] + self.link.latency]), to, tag)

    def _begin(self, kept, to, tag):
        self._sent.append((self.comm.Isend(kept, to, tag), kept))

    def receive(self, array: np.ndarray, source: int, tag: int = 0) -> np.ndarray:
        """Fill an array with what a rank has sent, and return it."""
        self.wait(self.comm.Irecv(array, source, tag))
        if self.link:
            due = np.empty(1)
            self.wait(self.comm.Irecv(due, source, tag))
            while time.monotonic() < due[0]:
                let_others()
        return array

    def add_up(self, array: np.ndarray) -> np.ndarray:
        """Put the sum over all ranks in the place of an array, on each rank the same bits, and return it.

        In round i ranks that differ in bit i of their number exchange what they have: a + b and b + a are
        the same. Those above a power of two give theirs to one below, and get the sum from it.
        """
        power = 1 << self.size.bit_length() - 1
        if self.rank >= power:
            self.send(array, self.rank - power)
            return self.receive(array, self.rank - power)
        extra, other = self.rank + power, np.empty_like(array)
        if extra < self.size:
            array += self.receive(other, extra)
        for step in (1 << i for i in range(power.bit_length() - 1)):
            self.send(array, self.rank ^ step)
            array += self.receive(other, self.rank ^ step)
        if extra < self.size:
            self.send(array, extra)
        return array

    def wait(self, request) -> None:
        """Wait for a message without keeping the core from those who compute."""
        start = time.monotonic()
        while not request.Test():
            let_others() if time.monotonic() - start < PATIENT else time.sleep(NAP)

    def told(self, value, root: int = 0):
        """Return what rank `root` has as `value`, any object that pickle takes."""
        data = np.array(bytearray(pickle.dumps(value) if self.rank == root else b""))
        size = np.array([data.size])
        self.wait(self.comm.Ibcast(size, root))
        if self.rank != root:
            data = np.empty(size[0], np.uint8)
        self.wait(self.comm.Ibcast(data, root))
        return pickle.loads(data)

    def all_have(self, value) -> list:
        """Return every rank's value, any object, in the order of the ranks."""
        return self.comm.allgather(value)

    def check_same(self, what: str, value) -> None:
        """Raise ValueError, on every rank, unless all have the same value."""
        values = self.all_have(value)
        for rank, other in enumerate(values):
            if other != values[0]:
                raise ValueError(f"{what}: rank 0 has {values[0]}, rank {rank} has {other}")

    def close(self) -> None:
        """Wait until all are through; the heartbeat ends then."""
        for request, _ in self._sent:
            self.wait(request)
        self.wait(self.comm.Ibarrier())
        self._stop()

    def _stop(self):
        self._over.set()
        if self._listener:
            self._listener.join()  # who talks after MPI's end crashes

    def all_fail(self) -> bool:
        """Say that this rank cannot go on; return whether all the others say so, too, within PATIENCE."""
        request, end = self._failed.Ibarrier(), time.monotonic() + PATIENCE
        while not request.Test():
            if time.monotonic() > end:
                return False
            time.sleep(NAP)
        self._stop()
        return True

    # --- Those who are lost -------------------------------------------------------------------------------

    def _listen(self, beats) -> None:
        """Beat for the next rank, and hear the one before."""
        following, before = (self.rank + 1) % self.size, (self.rank - 1) % self.size
        heard, nothing, sent = time.monotonic(), np.empty(0, np.int8), []
        while not self._over.wait(BEAT):
            sent = [request for request in sent if not request.Test()]
            sent.append(beats.Isend(nothing, following))
            while beats.Iprobe(before):
                beats.Recv(nothing, before)
                heard = time.monotonic()
            silent = time.monotonic() - heard
            if silent > (BUSY if self._is_seen(before) else SILENCE):
                host, process = self._names[before]
                who = f"rank {before} of {self.size} ({host}, process {process})"
                self.end(f"{who} is gone or hangs: silent for {silent:.0f} s{self.last_words()}", LOST)

    def _is_seen(self, rank) -> bool:
        """Is a rank's process on this machine, and does it run?"""
        host, process = self._names[rank]
        try:
            stopped = psutil.Process(process).status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
        except psutil.Error:
            return False
        return host == self._names[self.rank][0] and not stopped

    def end(self, why: str, code: int) -> None:
        """Say why in one line, and end all ranks with this exit code."""
        sys.stdout.flush()
        os.write(2, f"error: {why}\n".encode())  # the main thread may hold the lock of sys.stderr
        giving_up = threading.Timer(1.0, os._exit, (code,))
        giving_up.daemon = True
        giving_up.start()
        self.comm.Abort(code)


def digest(paths: Iterable[Path]) -> str:
    """Return the SHA-256 of the files of a model, all of them: one byte that differs is another model."""
    found = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:16]
