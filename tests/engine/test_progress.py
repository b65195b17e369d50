"""Compiling for more than two seconds shows a line, and nothing is left of it; nobody else's is doubled."""

import gc
import os
import subprocess
import sys

import pytest
from numba import njit
from numba.core.errors import TypingError
from numba.extending import overload

from blocks2tokens.jit import garbage

COMPILE = """
from numba import njit
import blocks2tokens
from blocks2tokens.jit import progress

progress.DELAY = {delay}
progress.PROGRESS.off = {off}

@njit
def inner(x):
    return x + 1

@njit
def outer(x):
    return inner(x) + inner(x * 2.0)

outer(1)
assert progress.PROGRESS.depth == 0 and progress.PROGRESS.bar is None
try:
    njit(lambda x: x.nothing)(1)
except Exception:
    pass
assert progress.PROGRESS.depth == 0
"""


@pytest.mark.parametrize(
    ("delay", "off", "shown"), [(1e-9, False, True), (60, False, False), (1e-9, True, False)]
)
def test_compiling_shows_a_line(delay, off, shown):
    code = COMPILE.format(delay=delay, off=off)
    environ = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, check=True, env=environ)
    assert ("compiling, once: " in done.stderr) == shown


def test_garbage_is_looked_for_less_often_while_something_is_compiled_and_as_before_after_it():
    seen, on_its_way, before = [], [], gc.get_threshold()

    def spied(x):
        return x

    @overload(spied)
    def _(x):
        seen.append(gc.get_threshold()[0])
        if on_its_way:
            gc.set_threshold(on_its_way.pop())
        return lambda x: x

    @njit
    def outer(x):
        return spied(x)

    assert outer(1) == 1 and seen and min(seen) == garbage.OBJECTS and gc.get_threshold() == before
    with pytest.raises(TypingError):
        njit(lambda x: x.nothing)(1)
    assert gc.get_threshold() == before
    try:
        gc.set_threshold(0)
        assert njit(lambda x: spied(x) + 1)(1.0) == 2
        assert seen[-1] == 0 and gc.get_threshold()[0] == 0
        gc.set_threshold(*before)
        on_its_way.append(123)  # as another thread may, meanwhile
        assert njit(lambda x: spied(x) + 2)(1j) == 2 + 1j
        assert gc.get_threshold()[0] == 123
    finally:
        gc.set_threshold(*before)
