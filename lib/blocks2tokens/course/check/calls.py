"""What a learner's function does when it is called: its answer, and what it did besides.

    function, arguments  --observe-->  Outcome(answer, written, warned)

The function gets copies of its arguments. Afterwards they are compared with the arguments: a function
that writes into its input gives the right answer once, and spoils the next cell.
"""

import contextlib
import copy
import inspect
import io
import signal
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

SECONDS = 30.0  # for all cases of an exercise; the first call of a compiled function takes seconds, too
MOST_PRINTED = 2_000  # characters


class TooLongError(BaseException):
    """Raised in a learner's function that does not end; no `except Exception` of theirs stops it."""


@dataclass(frozen=True)
class Outcome:
    """What came of one call.

    written  {number of an argument: what of it has changed, such as "2 of its 32 numbers"}
    warned   what NumPy warned of, such as "invalid value encountered in cast"
    is_view  does the answer lie in the memory of an argument?
    left     {number of an argument: the array as it is afterwards}, of those that were written into
    """

    answer: object
    written: dict[int, str]
    warned: tuple[str, ...]
    is_view: bool
    left: dict[int, np.ndarray] = field(default_factory=dict)


def observe(function: Callable, arguments: tuple) -> Outcome:
    """Call with copies of the arguments, and see what the function does with them."""
    copies = [copied(argument) for argument in arguments]
    with np.errstate(all="warn", under="ignore"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        answer = function(*copies)
    changes = {i: changed(a, b) for i, (a, b) in enumerate(zip(arguments, copies, strict=True))}
    warned = {str(w.message): None for w in caught if w.category is RuntimeWarning}  # each once, in order
    written = {i: change for i, change in changes.items() if change}
    left = {i: copies[i].copy() for i in written if isinstance(copies[i], np.ndarray)}
    return Outcome(answer, written, tuple(warned), lies_in(answer, copies), left)


def bytes_made(function: Callable, arguments: tuple) -> int:
    """Return the bytes of memory that a call holds at its peak, beside its arguments."""
    copies = [copied(argument) for argument in arguments]
    was_tracing = tracemalloc.is_tracing()
    if not was_tracing:
        tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        function(*copies)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        if not was_tracing:
            tracemalloc.stop()


def copied(argument):
    if isinstance(argument, np.ndarray):
        return argument.copy()
    return copy.deepcopy(argument) if _can_change(argument) else argument


def _can_change(value):
    """Is this a collection, or a dataclass that is not frozen?"""
    parameters = getattr(type(value), "__dataclass_params__", None)
    is_open = parameters is not None and not parameters.frozen
    return is_open or type(value) in (list, dict, set, bytearray)


def changed(before, after) -> str | None:
    """Say how much of a copy is no longer what it was copied from. Bits are compared: NaN is itself."""
    if isinstance(before, np.ndarray):
        if before.shape != after.shape or before.dtype != after.dtype:
            return "its shape"
        count = int((bytes_of(before) != bytes_of(after)).any(axis=1).sum())
        kind = "blocks" if before.dtype.names else "numbers"
        return f"{count} of its {before.size} {kind}" if count else None
    if not _can_change(before):
        return None
    try:
        return None if before == after else "what is in it or its order"
    except ValueError:  # arrays within
        return None


def lies_in(answer, arguments) -> bool:
    """Is an array of the answer a view of an argument? Whoever writes into one then changes the other."""
    parts = [a for a in (answer if isinstance(answer, tuple) else (answer,)) if isinstance(a, np.ndarray)]
    arrays = [a for a in arguments if isinstance(a, np.ndarray)]
    return any(np.may_share_memory(part, array) for part in parts for array in arrays)


def bytes_of(array):
    """Return the bytes of each element, uint8 [size, bytes]."""
    items = np.ascontiguousarray(array).reshape(-1)
    if items.dtype.hasobject or not items.size:
        return np.zeros((items.size, 1), np.uint8)
    return np.frombuffer(items.tobytes(), np.uint8).reshape(items.size, -1)


def names_of_arguments(function: Callable) -> list[str]:
    """Return the names of a function's parameters; none where it does not say."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


@contextlib.contextmanager
def time_limit(seconds: float):
    """Raise TooLongError in what runs within, after so many seconds.

    Only where a signal can do it: in the main thread, and not on Windows. Compiled code is not stopped.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number, frame):
        raise TooLongError

    start, before = time.monotonic(), signal.signal(signal.SIGALRM, stop)
    left, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before or signal.SIG_DFL)
        if left:  # somebody else's timer goes on
            signal.setitimer(signal.ITIMER_REAL, max(0.001, left - (time.monotonic() - start)))


class Printed(io.TextIOBase):
    """A file that keeps the first characters written to it."""

    def __init__(self):
        self.text = ""

    def writable(self):
        return True

    def write(self, text):
        if len(self.text) < MOST_PRINTED:
            self.text = (self.text + text)[:MOST_PRINTED]
        return len(text)
