"""Cores: how many this process is given, how many threads Numba starts, how many of them a model uses.

    sched_getaffinity               the CPUs that the system lets this process run on
    cgroup v2  cpu.max              "150000 100000": 150 ms of CPU time in each 100 ms, all threads together
    cgroup v1  cpu.cfs_quota_us     150000, and cpu.cfs_period_us 100000: the same

    to be had                       the smaller of the CPUs and the quota, rounded up: here 2
    Numba's pool                    BLOCKS2TOKENS_THREADS, else NUMBA_NUM_THREADS, else what is to be had
    a model's threads               b2t.load(..., threads=n), 1 to the pool's; else what Numba's would be

A container's limit is a quota as a rule, which Numba does not look at. Threads beyond it are worse than
useless: they use the time up sooner, and then all of them stand still.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager
from functools import cache, wraps
from math import ceil, inf
from numbers import Integral
from pathlib import Path

from blocks2tokens.errors import UnsupportedError

VARIABLE, NUMBAS = "BLOCKS2TOKENS_THREADS", "NUMBA_NUM_THREADS"
MOST = max(512, os.cpu_count() or 1)  # threads: a number above it is a mistake
OWN_CGROUPS, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")

TURN = threading.RLock()  # whoever holds it may run a parallel region, where only one may run


# --- What is to be had ------------------------------------------------------------------------------------


def to_be_had(own_cgroups: Path = OWN_CGROUPS, cgroups: Path = CGROUPS) -> int:
    """Return how many threads get a core each, at least 1."""
    limit = quota(own_cgroups, cgroups)
    return cpus() if limit == inf else min(cpus(), max(1, ceil(limit)))


def cpus() -> int:
    """Return the number of CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def quota(own_cgroups: Path = OWN_CGROUPS, cgroups: Path = CGROUPS) -> float:
    """Return the CPU time that this process is given, in cores; inf without a limit that can be read.

    `own_cgroups` is a list like /proc/self/cgroup, `cgroups` the folder where their files are. A group's
    limit holds for all groups in it, so the least on the way up counts.
    """
    return min((limit(folder) for folder in folders(own_cgroups, cgroups)), default=inf)


def folders(own_cgroups: Path, cgroups: Path) -> Iterator[Path]:
    """Yield the folders of this process's groups and of those that they are in.

    A line is "4:cpu,cpuacct:/a/b" (v1) or "0::/a/b" (v2). In a container /a/b may be a path outside, which
    is not there; what limits the container is at the root then.
    """
    for line in _read(own_cgroups).splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        kinds = controllers.split(",")
        if "cpu" in kinds or (number, controllers) == ("0", ""):
            parts = [part for part in path.split("/") if part not in ("", ".", "..")]
            mounts = (controllers, "cpu") if controllers else ("", "unified")
            for mount in mounts:
                for n in range(len(parts), -1, -1):
                    yield cgroups.joinpath(mount, *parts[:n])


def limit(folder: Path) -> float:
    """Return the limit of one group, in cores; inf if it has none, or none that makes sense."""
    text = _read(folder / "cpu.max")
    if not text:
        text = f"{_read(folder / 'cpu.cfs_quota_us')} {_read(folder / 'cpu.cfs_period_us')}"
    try:
        time, period = map(int, text.split())
    except ValueError:  # "max 100000", or no file
        return inf
    return time / period if time > 0 and period > 0 else inf  # v1 says -1 for no limit


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""


# --- What Numba is told -----------------------------------------------------------------------------------


def wanted(environ: Mapping[str, str] = os.environ) -> int | None:
    """Return what BLOCKS2TOKENS_THREADS says, None if it says nothing; ValueError for no sensible number."""
    text = environ.get(VARIABLE, "").strip()
    return _sensible(VARIABLE, text) if text else None


def _sensible(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 9 and 1 <= int(text) <= MOST):
        raise ValueError(f"{name}: expected a number of threads, 1 to {MOST}, got {text[:40]!r}")
    return int(text)


def default(environ: Mapping[str, str] = os.environ) -> int:
    """Return how many threads there should be when nobody asks for a number; ValueError as `check`."""
    check(environ)
    return wanted(environ) or int(environ.get(NUMBAS) or 0) or to_be_had()


def tell_numba(environ: MutableMapping[str, str] = os.environ) -> None:
    """Have Numba, when it is imported, make its pool as large as it should be.

    Nothing is said that Numba finds out by itself: programs that are started from here inherit what is said.
    A senseless number is passed over: `check` complains, where the command line can say so.
    """
    try:
        n = default(environ)
    except ValueError:
        return
    if n != int(environ.get(NUMBAS) or cpus()):
        environ[NUMBAS] = str(n)


def check(environ: Mapping[str, str] = os.environ) -> None:
    """Raise ValueError for a number of threads in the environment that makes no sense."""
    wanted(environ)
    if environ.get(NUMBAS):
        _sensible(NUMBAS, environ[NUMBAS].strip())


# --- What a model uses ------------------------------------------------------------------------------------


def pool() -> int:
    """Return how many threads Numba's pool has."""
    from numba import config

    return config.NUMBA_NUM_THREADS


def checked(threads: int | None) -> int | None:
    """Return the number of threads for a model; ValueError for one that the pool does not have.

    None stays None, which is what Numba uses, unless Numba was imported first and so was told nothing.
    """
    n = default()
    if threads is None:
        return n if n < pool() else None
    if not isinstance(threads, Integral) or isinstance(threads, bool) or not 1 <= threads <= pool():
        raise ValueError(
            f"threads: expected a whole number, 1 to the {pool()} that there are here, got {threads!r}; "
            f"{VARIABLE}=n, set before Python starts, makes it n"
        )
    return int(threads)


@contextmanager
def using(threads: int | None) -> Iterator[None]:
    """Have parallel regions of this Python thread run on so many threads within the block; None: as usual."""
    if threads is None:
        yield
        return
    from numba import get_num_threads, set_num_threads

    before = get_num_threads()
    set_num_threads(threads)
    try:
        yield
    finally:
        set_num_threads(before)


@cache
def _thread_pools():
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _blas_for_this_thread():
    """Return BLAS's controller, to be obeyed in this thread.

    From 3.8 on threadpoolctl lets the thread that was first set how many threads OpenBLAS has, and says
    nothing when another one tries. Here whoever holds the lock of `_OneBlasThread` may.
    """
    pools = _thread_pools().select(user_api="blas")
    for library in pools.lib_controllers:
        if hasattr(library, "clear_controlling_thread"):
            library.clear_controlling_thread(force=True)
    return pools


class _OneBlasThread:
    """BLAS is kept to one thread from the first of those who ask for it to the last, and then as before.

    How many threads BLAS has is one number for the whole process: were each to put back what he had found,
    the last of two who overlap would put back the one thread of the first.
    """

    def __init__(self):
        self.lock, self.users, self.limit = threading.Lock(), 0, None

    def __enter__(self) -> None:
        with self.lock:
            if not self.users:
                self.limit = _blas_for_this_thread().limit(limits=1)
            self.users += 1

    def __exit__(self, *_) -> None:
        with self.lock:
            self.users -= 1
            if not self.users:
                _blas_for_this_thread()
                self.limit.restore_original_limits()


ONE_BLAS_THREAD = _OneBlasThread()


def one_blas_thread() -> AbstractContextManager:
    """Keep BLAS to one thread for a while; in as many Python threads at once, and as deep, as one likes.

    Its other threads spin while they wait, and so take the cores from Numba's and from everybody else:
    on two busy cores a pass over a prompt is several times slower with them.
    """
    return ONE_BLAS_THREAD


# --- Who may start threads --------------------------------------------------------------------------------


def in_turn(function: Callable, *args):
    """Call a function that starts threads, after whoever does so now, where Numba needs that.

    Numba's own pool, the "workqueue" that it has where there is neither OpenMP nor TBB, ends the process
    when two Python threads use it at once. With the others nobody waits.

    Raises RuntimeError in a process that was forked from one with such threads, and UnsupportedError where
    Numba may not compile.
    """
    if FORKED:
        raise RuntimeError(
            "this process was forked from one whose threads computed already, and has none of them: start it "
            "with multiprocessing.get_context('spawn'), or fork before a model is loaded"
        )
    check_compiling()
    if not one_at_a_time():
        return function(*args)
    with TURN:
        return function(*args)


def check_compiling() -> None:
    """Raise UnsupportedError if Numba was told to compile nothing."""
    from numba import config

    if config.DISABLE_JIT:
        raise UnsupportedError(
            "NUMBA_DISABLE_JIT is set, and the engine's kernels are machine code that cannot run as Python"
        )


def takes_turns(compiled: Callable) -> Callable:
    """Make a compiled function with a parallel region one that is called `in_turn`."""
    return wraps(compiled)(lambda *args: in_turn(compiled, *args))


@cache
def one_at_a_time() -> bool:
    """Is Numba's pool one that only one Python thread may use at a time? Starts it if need be."""
    from numba import get_num_threads, threading_layer

    check()
    get_num_threads()  # there is a layer from then on
    return threading_layer() == "workqueue"


FORKED = []  # holds something in a process without the threads that Numba believes to have


def _note_fork() -> None:
    """Remember, in a forked process, that the other had started threads: they are not in this one.

    OpenMP ends such a process at its next parallel region, other pools wait for ever.
    """
    parallel = sys.modules.get("numba.np.ufunc.parallel")
    if getattr(parallel, "_is_initialized", False):
        FORKED.append(os.getpid())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)

if "numba" not in sys.modules:  # it has read its settings already, and minds if they change
    tell_numba()
