"""The report's kernels: what they decode, what their counts say, and the lock of Phase 3a.

The counts are checked against an instrumented run: the kernel's own source, run as plain Python on objects
that count what is done to them.
"""

from types import SimpleNamespace

import numpy as np
import pytest
from numba import njit, prange
from numba.core.registry import CPUDispatcher
from small_model import random_tensor

from blocks2tokens import FORMATS, QuantizedMatrix
from blocks2tokens.jit import lock
from blocks2tokens.kernels.report import (
    decoders,
    phase0_baseline,
    phase1_naive_fused,
    phase2_optimized_fused,
    phase3a_block_cache,
    phase3b_column_major,
)

PHASES = (
    phase0_baseline,
    phase1_naive_fused,
    phase2_optimized_fused,
    phase3a_block_cache,
    phase3b_column_major,
)
NAMES = ("Q4_K", "Q5_K", "Q6_K")


# --- What they decode -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_reports_way_of_decoding_gives_the_same_weights(name):
    raw = random_tensor(name, (5 * 256,), np.random.default_rng(0))[1]
    out = np.empty(5 * 256, np.float32)
    decoders.BLOCKS[name](raw, out)
    assert np.array_equal(out, FORMATS[name].dequantize(raw), equal_nan=True)
    elements = [decoders.ELEMENTS[name](raw, f) for f in range(out.size)]
    assert np.array_equal(np.array(elements, np.float32), out, equal_nan=True)


@pytest.mark.parametrize("name", NAMES)
def test_every_phase_gives_the_product_of_the_decoded_weights(name):
    rng = np.random.default_rng(1)
    w = QuantizedMatrix.quantize(rng.standard_normal((96, 40), np.float32), name, layout="report")
    a = rng.standard_normal((37, 96), np.float32)
    exact = a.astype(np.float64) @ w.dequantize().astype(np.float64)
    bound = 96 * 2.0**-23 * (np.abs(a).astype(np.float64) @ np.abs(w.dequantize()))
    for phase in PHASES:
        assert np.all(np.abs(phase.KERNEL(a, w) - exact) <= bound), phase.KERNEL.name


# --- What their counts say --------------------------------------------------------------------------------


class Tally(SimpleNamespace):
    """What an instrumented run has done so far."""


class Bytes:
    """Encoded bytes that remember which of them were read."""

    def __init__(self, raw, seen):
        self.raw, self.seen = raw, seen

    def __getitem__(self, at):
        self.seen.add(int(at))
        return int(self.raw[at])


class Activation:
    """A number that counts how often it is multiplied."""

    def __init__(self, value, tally):
        self.value, self.tally = value, tally

    def __mul__(self, other):
        self.tally.multiply_adds += 1
        return np.float32(self.value * other)


def counting_numpy(tally):
    """Return as much of NumPy as the phases use, with an `empty` that counts the bytes it gives out."""

    def empty(shape, dtype):
        array = np.empty(shape, dtype)
        tally.allocated += array.nbytes
        return array

    return SimpleNamespace(empty=empty, float32=np.float32)


def counting_dict(tally):
    """Return a stand-in for Numba's Dict whose `get` counts."""

    class Counting(dict):
        def get(self, key):
            tally.lookups += 1
            return super().get(key)

    return SimpleNamespace(empty=lambda *types: Counting())


def half(raw, at):
    return np.array(raw[at] | raw[at + 1] << 8, np.uint16).view(np.float16).astype(np.float32)


WRAPPING_NUMPY = SimpleNamespace(
    float32=np.float32, int8=lambda byte: np.array(byte, np.uint8).view("i1")[()]
)
AS_PYTHON = {  # what cannot run as Python, or need not
    "carray": lambda pointer, n: np.zeros(n, np.float32),
    "local_floats": lambda: None,
    "scalar": lambda i: i,
    "read_half": half,
    "np": WRAPPING_NUMPY,
}
LOCKS = ("lock_to_read", "unlock_read", "lock_to_write", "unlock_write")


def as_python(monkeypatch, module, stand_ins):
    """Let a module's compiled functions run as the Python they were written in, some names replaced."""
    for name, value in list(vars(module).items()):
        if name in stand_ins:
            monkeypatch.setattr(module, name, stand_ins[name])
        elif isinstance(value, CPUDispatcher):
            monkeypatch.setattr(module, name, value.py_func)


def instrumented(phase, M, K, N, name, cores, monkeypatch):
    """Run a phase on random numbers as plain Python; return what it did, its product and the exact one."""
    tally = Tally(elements=0, blocks=0, lookups=0, encoded=0, allocated=0, multiply_adds=0)
    fmt, rng = FORMATS[name], np.random.default_rng(2)
    w = QuantizedMatrix.quantize(rng.standard_normal((K, N), np.float32), fmt, layout="report")
    values = rng.standard_normal((M, K), np.float32)

    def element(raw, f):
        seen = set()
        weight = getattr(decoders, f"{name.lower()}_element")(Bytes(raw, seen), f)
        tally.elements, tally.encoded = tally.elements + 1, tally.encoded + len(seen)
        return weight

    def blocks(raw, out):
        seen = set()
        getattr(decoders, f"{name.lower()}_blocks")(Bytes(raw, seen), out)
        tally.elements, tally.encoded = tally.elements + out.size, tally.encoded + len(seen)
        tally.blocks += out.size // fmt.block_size

    stand_ins = {lock: lambda lock: None for lock in LOCKS} | {
        "element_decoder": lambda fmt: element,
        "block_decoder": lambda fmt: blocks,
        "get_num_threads": lambda: cores,
        "Dict": counting_dict(tally),
        "np": counting_numpy(tally),
    }
    as_python(monkeypatch, decoders, AS_PYTHON)
    as_python(monkeypatch, phase1_naive_fused, stand_ins)  # Phase 2 calls its loops
    as_python(monkeypatch, phase, stand_ins)
    a = np.array([[Activation(value, tally) for value in row] for row in values], object).reshape(M, K)
    return tally, phase.run(a, w), values @ w.dequantize()


SIZES = [  # M, K, N, format, cores
    (3, 64, 8, "Q4_K", 4),  # blocks of 32 columns each
    (33, 16, 16, "Q5_K", 4),  # one block; rows split unevenly
    (33, 8, 64, "Q6_K", 64),  # more cores than rows
    (2, 2, 256, "Q5_K", 2),  # a column meets another block at every step
    (2, 2, 384, "Q4_K", 2),  # a row is a block and a half
    (32, 256, 1, "Q6_K", 3),  # a column is a block
    (2, 3, 256, "Q6_K", 1),
    (0, 16, 16, "Q4_K", 2),
]


@pytest.mark.parametrize("phase", PHASES, ids=[phase.KERNEL.name for phase in PHASES])
@pytest.mark.parametrize(("M", "K", "N", "name", "cores"), SIZES)
def test_an_instrumented_run_does_what_the_counts_say(phase, M, K, N, name, cores, monkeypatch):
    monkeypatch.setattr(phase0_baseline, "TRANSPOSE_ABOVE", 1800)  # some of the sizes are above it
    cost = phase.KERNEL.cost(M, K, N, FORMATS[name], cores)
    tally, out, expected = instrumented(phase, M, K, N, name, cores, monkeypatch)
    assert np.allclose(out, expected, atol=1e-4)
    assert tally.multiply_adds == cost.multiply_adds == M * K * N
    assert tally.elements == cost.elements_decoded
    assert tally.blocks == cost.blocks_decoded
    assert tally.lookups == cost.lookups
    assert tally.allocated - out.nbytes == cost.temporary_bytes
    whole_copies = 0 if phase is phase3b_column_major else cost.temporary_bytes
    assert tally.encoded + whole_copies + 4 * M * K == cost.bytes_read


def test_the_counts_at_the_reports_size():
    cost = {phase: phase.KERNEL.cost(128, 128, 128, FORMATS["Q5_K"], 16) for phase in PHASES}
    assert cost[phase0_baseline].elements_decoded == 128 * 128
    assert cost[phase1_naive_fused].elements_decoded == 2_097_152 == 128 * 128 * 128
    assert cost[phase2_optimized_fused] == cost[phase1_naive_fused]
    assert cost[phase3a_block_cache].lookups == 2_097_152
    assert cost[phase3a_block_cache].blocks_decoded == 16 * 64
    assert cost[phase3b_column_major].blocks_decoded == 1_048_576 == 16_384 * 64


@pytest.mark.parametrize("phase", PHASES, ids=[phase.KERNEL.name for phase in PHASES])
def test_cores_share_the_rows_and_no_core_is_left_without(phase, monkeypatch):
    """The number of threads changes nothing in the product."""
    rng = np.random.default_rng(3)
    w = QuantizedMatrix.quantize(rng.standard_normal((64, 48), np.float32), "Q4_K", layout="report")
    a = rng.standard_normal((35, 64), np.float32)
    expected = phase.KERNEL(a, w)
    for cores in (1, 3, 16, 64):
        if hasattr(phase, "get_num_threads"):
            monkeypatch.setattr(phase, "get_num_threads", lambda cores=cores: cores)
        assert np.array_equal(phase.KERNEL(a, w), expected)


# --- The lock ---------------------------------------------------------------------------------------------


def test_readers_share_the_lock_and_a_writer_does_not():
    one = lock.new_lock()
    lock.lock_to_read(one)
    lock.lock_to_read(one)
    assert one[0] == 2
    assert not try_to_write(one)
    lock.unlock_read(one)
    lock.unlock_read(one)
    lock.lock_to_write(one)
    assert one[0] == -1
    lock.unlock_write(one)
    assert one[0] == 0


@njit
def try_to_write(one):
    return lock.compare_and_swap(one, 0, -1)


@njit(parallel=True)
def add_up(one, total, n):
    for _ in prange(n):
        lock.lock_to_write(one)
        total[0] += 1
        lock.unlock_write(one)


def test_writers_do_not_lose_each_others_work():
    one, total = lock.new_lock(), np.zeros(1, np.int64)
    add_up(one, total, 100_000)
    assert total[0] == 100_000 and one[0] == 0
