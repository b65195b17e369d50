"""Compiling for more than two seconds shows a line, and nothing is left of it; nobody else's is doubled."""

import os
import subprocess
import sys

import pytest

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
