"""A tuple in memory comes back as it was; and what a first token compiles stays little."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
from numba import njit, types
from small_model import small_model

import blocks2tokens as b2t
from blocks2tokens.formats.compiled import pointer
from blocks2tokens.jit import naming
from blocks2tokens.jit.layouts import in_memory, layout_of, load
from blocks2tokens.jit.naming import named

MOST_COMPILED = 110  # functions for a first token, Numba's own among them: each costs a tenth of a second


class Part(NamedTuple):
    table: np.ndarray
    scale: np.float32


class Whole(NamedTuple):
    part: Part
    halves: bool
    rows: np.ndarray
    out: np.ndarray


def whole(rows):
    part = Part(np.arange(12, dtype=np.int64).reshape(3, 4), np.float32(0.5))
    return Whole(part, True, rows, np.zeros(2))


def adder(layout):
    def add(address, row):
        values = load(layout, address)
        if values.halves:
            values.out[row] = values.part.scale * values.part.table[row].sum() + values.rows[row, 1]

    return add


SIGNATURE = types.void(types.int64, types.int64)


@njit
def call(job, address, row):
    job(address, row)


@pytest.mark.parametrize("rows", [np.float32([[1, 2], [3, 4]]), np.float64([[1, 3, 2], [3, 5, 4]])[:, ::2]])
def test_values_come_back_and_are_the_caller_s_arrays(rows):
    values = whole(rows)
    users = [sys.getrefcount(array) for array in (values.rows, values.out, values.part.table)]
    layout = layout_of(values)
    memory = in_memory(values, layout)
    job = pointer(named(adder(layout), f"add_{type(layout).__name__}".lower()), SIGNATURE)
    for row in range(2):
        call(job, memory.ctypes.data, row)
    expected = [0.5 * values.part.table[row].sum() + rows[row, 1] for row in range(2)]
    assert values.out.tolist() == expected
    assert [sys.getrefcount(array) for array in (values.rows, values.out, values.part.table)] == users


def pair(fields):
    return NamedTuple("Pair", [(name, int) for name in fields])(10, 20)


def test_a_layout_is_of_the_types_alone():
    first, second = whole(np.zeros((2, 2), np.float32)), whole(np.ones((7, 3), np.float32))
    assert layout_of(first) == layout_of(second)
    others = whole(np.zeros((2, 2))), pair("ab"), pair("ba"), (10, 20), (10, 20.0), ((10, 20),)
    found = [layout_of(values) for values in (first, *others)]
    assert len(set(found)) == len(found)  # keys, where what is compiled is looked up


def test_threads_that_are_first_agree_on_a_class(request):
    request.addfinalizer(partial(sys.setswitchinterval, sys.getswitchinterval()))
    sys.setswitchinterval(1e-6)  # without a lock nearly each round has more than one
    for i in range(50):
        ready = threading.Barrier(4)

        def find(_, label=f"New_{i}", ready=ready):
            ready.wait()
            return naming.stand_in(label)

        with ThreadPoolExecutor(4) as pool:
            assert len(set(pool.map(find, range(4)))) == 1


def test_memory_says_what_it_cannot_hold():
    with pytest.raises(Exception, match="Cannot determine Numba type"):
        layout_of((np.zeros(3), object()))
    with pytest.raises(ValueError, match="complex128"):
        layout_of((np.zeros(3), (1, 2j)))


FIRST_TOKEN = """
import gc, sys
from numba.core import event
import blocks2tokens as b2t
from blocks2tokens.jit.layouts import layout_of
from blocks2tokens.model.decode import CALLED, Decoder, jobs_for
compiled = []
with event.install_listener("numba:compile", event.RecordingListener()) as listener:
    model = b2t.load(sys.argv[1])
    next(text := model.generate([3, 4, 5], 2))
(decoder,) = [each for each in gc.get_objects() if isinstance(each, Decoder)]
print(sum(e.is_end for _, e in listener.buffer))
jobs = jobs_for(layout_of(decoder.arguments), True)  # with those of mixtures
assert len(jobs) == CALLED
print(sum(job.cres.library.get_llvm_str().count("NRT_incref") for job in jobs))
"""


def test_a_first_token_compiles_few_functions_that_count_nobody(tmp_path):
    """A first user waits for them; for a name that is an int Numba compiles a function anew, for example.

    Counting who uses an array was most of the code; and whoever owned it may be gone.
    """
    path = os.path.join(os.path.dirname(__file__), "..", "..", "data", "austen.gguf")
    environ = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    run = [sys.executable, "-c", FIRST_TOKEN, path]
    done = subprocess.run(run, capture_output=True, text=True, check=True, env=environ)
    compiled, counting = map(int, done.stdout.split())
    assert 0 < compiled <= MOST_COMPILED and counting == 0


CHECKED = """
import ast, itertools, sys
from numba import njit
import blocks2tokens as b2t
from blocks2tokens.jit.pointers import call_job
from blocks2tokens.model import decode

@njit
def alone(jobs, memory, n_rows, with_logits, i):
    call_job(jobs[decode.BEGIN], (memory, n_rows))
    call_job(jobs[decode.RUN], (memory, n_rows, with_logits, i, 2))
    call_job(jobs[decode.FINISH], (memory, n_rows))

workers = itertools.cycle(range(2))
decode.decode_rows = lambda *arguments: alone(*arguments[:-1], next(workers))
model = b2t.load(sys.argv[1], cache="q4_0", threads=2)
print(list(model.generate(ast.literal_eval(sys.argv[2]), 12)))
"""
IDS = [3, 4, 5] * 12


def test_a_pass_stays_within_its_arrays(tmp_path):
    """What leaves them is told on stderr, and no one does the jobs that are left.

    Of two workers one does all, the first or the second, so that each takes over jobs of the other's share.
    """
    small = small_model(architecture="qwen3moe", head_dim=32, context_length=160, default_format="Q8_0")
    path = small.write(tmp_path / "small.gguf")
    expected = list(b2t.load(path, cache="q4_0", threads=2).generate(IDS, 12))
    environ = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_BOUNDSCHECK": "1"}
    run = [sys.executable, "-c", CHECKED, str(path), str(IDS)]
    done = subprocess.run(run, capture_output=True, text=True, check=True, env=environ, timeout=300)
    assert "Error" not in done.stderr and done.stdout == f"{expected}\n"
