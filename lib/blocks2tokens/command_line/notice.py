"""Notice: a line on stderr for whoever has waited two seconds without knowing what for.

    with Notice("loading the model"):      nothing | "loading the model ..."
        ...                                         | "compiling the kernels, once ..."

On a terminal the line is faint, and is wiped out as soon as there is something to see.
"""

import os
import sys
import threading

from numba.core import event

from blocks2tokens.jit.progress import PROGRESS

PATIENCE = 2.0  # seconds
COMPILING = "compiling the kernels, once"

SAVE_CURSOR, RESTORE_AND_ERASE = "\x1b7", "\x1b8\x1b[J"


def say(text: str) -> None:
    """Print a line on stderr, where it does not mix with a model's text."""
    print(text, file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Return a text from a file on one line, with all escaped that would do more than show a character."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def reason(error: Exception) -> str:
    """Return an error's message, without the operating system's number or Python's words for bad UTF-8."""
    if isinstance(error, UnicodeDecodeError):
        return f"expected text in UTF-8, got the byte {error.object[error.start]:#x}"
    if isinstance(error, OSError) and error.strerror:
        return ": ".join(str(part) for part in (error.filename, error.strerror) if part is not None)
    return str(error) or type(error).__name__


def faint(text: str) -> str:
    """Return a text that steps back on stderr, if that is a terminal."""
    plain = not sys.stderr.isatty() or "NO_COLOR" in os.environ
    return text if plain else f"\x1b[2m{text}\x1b[0m"


class Notice(event.Listener):
    """Says, at most once, what is being done if `beat` is not called for PATIENCE seconds.

    That is compiling, if Numba is at it; else `doing`, or nothing if that is None.
    """

    def __init__(self, doing: str | None = None):
        self.doing = doing
        self.compiling = self.shown = self.over = False
        self._beat, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        PROGRESS.off = True
        event.register("numba:compile", self)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.over = True
        PROGRESS.off = False
        self.beat()
        event.unregister("numba:compile", self)
        self._thread.join()

    def on_start(self, _):
        """Numba has begun to compile a function, for none had been kept from an earlier run."""
        self.compiling = True

    def on_end(self, _):
        """Needed by Numba; what it compiles comes in many parts, of which this is one."""

    def beat(self) -> None:
        """Something has come: wipe the line out, and wait anew."""
        with self._lock:
            if self.shown and sys.stderr.isatty():
                print(RESTORE_AND_ERASE, end="", file=sys.stderr, flush=True)
            self.shown = self.compiling = False
        self._beat.set()

    def _watch(self):
        while self._beat.wait(PATIENCE):
            self._beat.clear()
            if self.over:
                return
        with self._lock:
            doing = COMPILING if self.compiling else self.doing
            if doing and not self.over:
                self._show(f"{doing} ...")

    def _show(self, line):
        if sys.stderr.isatty():
            print(SAVE_CURSOR + faint(line), end="", file=sys.stderr, flush=True)
        else:
            say(line)
        self.shown = True
