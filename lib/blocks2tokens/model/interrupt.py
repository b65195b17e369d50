"""Ctrl-C between steps, never within one.

An interrupt that arrives while compiled code is being called can be lost or turned into another error, and
leaves whatever it hits half-done. So while a pass runs it is only noted, and raised at the next place where
everything is in order: between two layers of a batch, behind a token. A second one does not wait.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def interrupts_wait() -> Iterator[Callable[[], None]]:
    """Hold interrupts back within the block; yield a function that lets one through.

    Python interrupts only its main thread; in another this does nothing.
    """
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(usual):
        yield lambda: None
        return
    waiting = []

    def note(number, frame):
        if waiting:
            usual(number, frame)
        waiting.append((number, frame))

    def let_through():
        if waiting:
            usual(*waiting.pop())

    signal.signal(signal.SIGINT, note)
    try:
        yield let_through
    finally:
        signal.signal(signal.SIGINT, usual)
        let_through()
