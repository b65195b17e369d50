"""A wrong place given to compiled code ends Python, unless somebody looks: a check does, with a verdict."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from numba import njit

import blocks2tokens as b2t
from blocks2tokens.course import check
from blocks2tokens.course.check import bounds
from blocks2tokens.formats.compiled import read_half
from blocks2tokens.kernels.report.decoders import element_decoder

LIB = Path(b2t.__file__).parents[1]

BEGINNING = """
import numpy as np
from numba import njit, prange
from blocks2tokens.course import check
from blocks2tokens.formats.compiled import read_half
from blocks2tokens.formats.q4_k import scale_min
from blocks2tokens.kernels.report.decoders import element_decoder
from blocks2tokens import FORMATS

FAR = 10**12
decode_q5_k = element_decoder(FORMATS["Q5_K"])

@njit
def store(out, at):
    out[at] = 1

@njit(parallel=True)
def store_all(out, n):
    for at in prange(n):
        out[at * FAR] = 1

def helper(out):
    store(out, FAR)

def told(name, function):
    verdict = check.EXERCISES[name].judge(function)
    assert verdict.kind == "wrong", (name, verdict)
    assert "index is out of bounds" in verdict.message, (name, verdict)
    print(name, "has a verdict")
"""

ALL = """
def by_a_helper(*arguments): helper(np.zeros(3))
def by_threads(*arguments): store_all(np.zeros(3), 4)
def within(*arguments): return [store(np.zeros(3), FAR) for _ in range(2)]
def by_a_half(*arguments): return read_half(np.zeros(3, np.uint8), FAR)
def by_a_scale(*arguments): return scale_min(np.zeros(3, np.uint8), FAR, 0)
def by_a_pointer(*arguments): return decode_q5_k(np.zeros(3, np.uint8), FAR)

WAYS = (by_a_helper, by_threads, within, by_a_half, by_a_scale, by_a_pointer)
for i, name in enumerate(check.EXERCISES):
    for way in WAYS if name in ("gflops", "fetch_block", "hoisted_dot") else (WAYS[i % 6],):
        told(name, way)
"""

LESSONS = """
@njit
def multiply_rows(decode, a, raw, first, last, out):
    for i in range(first, last):
        for j in range(out.shape[1]):
            total = np.float32(0)
            for k in range(a.shape[1]):
                total += a[i, k] * decode(raw, k * out.shape[1] + j)
            out[i, j] = total

@njit
def row_range(worker, n_workers, M):
    return worker * M // n_workers, (worker + 1) * M // n_workers

def a_slice(decode, a, raw, n_workers, out):
    for worker in prange(n_workers):
        first, last = row_range(worker, n_workers, len(a))
        multiply_rows(decode, a, raw, first, last, out[first:last])
    return out

def columns(decode, a, raw, n_workers, out):
    for worker in prange(n_workers):
        first, last = row_range(worker, n_workers, out.shape[1])
        multiply_rows(decode, a, raw, first, last, out)
    return out

def all_bytes(decode, a, raw, n_workers, out):
    out[0, 0] = decode(raw, FAR)
    return out

for wrong in (a_slice, columns, all_bytes):
    told("multiply_in_parts", wrong)

@njit
def add_run(out, weights, place, n):
    for i in range(n):
        out[i] += weights[place + i + FAR]

def runs(a, fetch, N, size):
    out = np.zeros((len(a), N), np.float32)
    add_run(out[0], fetch(0), 0, N)
    return out

told("multiply_with_few_look_ups", runs)

@njit
def compiled_already(x, raw):
    return read_half(raw, FAR), 0

told("hoisted_dot", compiled_already)

@njit
def rate(M, K, N, seconds):
    return np.zeros(3)[M * FAR]

told("gflops", rate)
"""


@pytest.mark.parametrize(("script", "verdicts"), [(ALL, len(check.EXERCISES) + 15), (LESSONS, 6)])
def test_no_wrong_place_ends_python(script, verdicts):
    script = BEGINNING + script
    env = os.environ | {"PYTHONPATH": str(LIB)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-2000:]
    assert done.stdout.count("has a verdict\n") == verdicts


@njit
def first(x):
    return x[0]


def calls_first(x):
    return first(x)


def calls_itself(x, n=1):
    return calls_first(x) if n == 0 else calls_itself(x, n - 1)


def test_what_calls_nothing_compiled_stays_as_it_is():
    def plain(x):
        return x[0]

    assert bounds.checked(plain) is plain and bounds.checked(3) == 3


@pytest.mark.parametrize("function", [calls_first, calls_itself])
def test_a_function_stays_the_same_but_for_what_it_calls(function):
    new = bounds.checked(function)
    assert new is not function and new.__code__ is function.__code__ and new((4,)) == 4
    assert new.__globals__["first"].targetoptions["boundscheck"] and first is function.__globals__["first"]
    assert bounds.checked(new) is new
    assert bounds.checked(function).__globals__["first"] is new.__globals__["first"], "compiled once"


def test_what_a_function_holds_is_checked():
    def make(compiled):
        return lambda x: compiled(x)

    assert bounds.checked(make(first)).__closure__[0].cell_contents.targetoptions["boundscheck"]


def test_a_pointer_gives_way_to_what_it_points_to():
    decode = bounds.checked(element_decoder(b2t.FORMATS["Q8_0"]))
    assert decode.targetoptions["boundscheck"] and decode.py_func.__name__ == "decode_element"
    assert bounds.checked(read_half) is bounds.checked(read_half)
