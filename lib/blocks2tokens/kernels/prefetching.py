"""How to ask memory for the next rows: tried on this machine, kept, and looked up.

    16 rows after 16 rows of matrices that no cache holds  --each way of WAYS-->  GB/s  --> the fastest

Hardware prefetchers differ: how many places they follow, how far ahead, and whether it pays to ask at all.
Each way is compiled as it is used in decoding, without Numba, and run by as many threads as Numba's pool has.
"""

import ctypes
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import llvmlite.binding as llvm
import numpy as np
import psutil
from llvmlite import ir
from numba.core import cgutils, config
from tqdm import tqdm

from blocks2tokens.jit import cores, cpu
from blocks2tokens.jit.lanes import I64, ROWS
from blocks2tokens.kernels import measured
from blocks2tokens.kernels.ours import panels
from blocks2tokens.kernels.ours.prefetch import DEFAULT, Prefetch
from blocks2tokens.kernels.ours.unpack import PACKED

WAYS = (
    DEFAULT,
    Prefetch(4, 1),
    Prefetch(8, 2),
    Prefetch(16, 2),
    Prefetch(2, 2),
    Prefetch(1, 2),
    Prefetch(1, 1),
    Prefetch(0, 0),
)
FORMATS, BLOCKS = ("Q4_K", "Q6_K"), 16  # of a row: 4096 weights; those of Q4_K_M, on which ways differ most
BYTES = 128 << 20  # of each matrix; less where memory is short
REPEATS = 5
MARGIN = 1.05  # another way than the default must be faster by this factor


def chosen() -> Prefetch:
    """Return the way that is fastest on this machine; measured if nobody did before."""
    return fastest(speeds(cpu.chosen()))


def fastest(found: dict[Prefetch, float]) -> Prefetch:
    best = max(found, key=found.get)
    return best if found[best] > MARGIN * found[DEFAULT] else DEFAULT


@cache
def speeds(isa: str) -> dict[Prefetch, float]:
    """Return the GB/s of each way, looked up in memory, in the cache folder, or measured."""
    return kept(isa)


def measure_anew() -> dict[Prefetch, float]:
    """Measure again and forget what was; return the GB/s of each way."""
    speeds.cache_clear()
    return kept(cpu.chosen(), anew=True)


def kept(isa: str, anew: bool = False) -> dict[Prefetch, float]:
    """Return the GB/s of each way from the cache folder, or by measuring."""

    def check(rows):
        speeds = ((Prefetch(int(streams), int(level)), speed) for streams, level, speed in rows)
        found = {way: measured.positive(speed) for way, speed in speeds}
        if set(found) != set(WAYS):
            raise ValueError("speeds of other ways")
        return found

    def measure():
        return [(*way, speed) for way, speed in measure_speeds(cores.pool(), isa).items()]

    return measured.kept("prefetch", (cores.pool(), isa, WAYS), measure, check, anew)


def measure_speeds(n_threads: int, isa: str) -> dict[Prefetch, float]:
    """Return the GB/s of each way, medians of runs in turn, over as many bytes of each format."""
    weights = {name: matrix(name, n_threads) for name in FORMATS}
    functions = {(way, name): compiled(isa, way, name) for way in WAYS for name in FORMATS}
    seconds = {way: [] for way in WAYS}
    rounds = [way for _ in range(1 + REPEATS) for way in WAYS]  # the first is for warming up
    with ThreadPoolExecutor(n_threads) as pool:
        for way in tqdm(rounds, "choosing how to prefetch", delay=2, leave=False):
            before = time.perf_counter()
            for name in FORMATS:
                parts = np.array_split(weights[name], n_threads)
                list(pool.map(partial(run_part, functions[way, name][1], name), parts))
            seconds[way].append(time.perf_counter() - before)
    total = sum(each.nbytes for each in weights.values()) / 1e9
    return {way: float(total / np.median(took[1:])) for way, took in seconds.items()}


def matrix(name, n_threads):
    """Return panels of a format, uint8 [n, ROWS, row_bytes], that no cache holds."""
    row_bytes = BLOCKS * PACKED[name].size
    n = max(n_threads, min(BYTES, psutil.virtual_memory().available // 16) // (row_bytes * ROWS))
    return np.full((n, ROWS, row_bytes), 17, np.uint8)


def run_part(run, name, part):
    """Multiply some panels by a row of x made of ones."""
    size = BLOCKS * PACKED[name].weights
    x, d, sums = np.ones(size, np.int8), np.ones(size, np.float32), np.ones(size, np.int16)
    out = np.empty(ROWS, np.float32)
    addresses = [array.ctypes.data for array in (x, d, sums, out)]
    run(part.ctypes.data, part.shape[2], BLOCKS, *addresses, len(part))


def compiled(isa: str, way: Prefetch, name: str):
    """Return a function that multiplies panel after panel, and what keeps its code alive."""
    module = panels.module_of((("rows", 1),), name, isa, way)
    define_pass(module, next(f for f in module.functions if f.name.startswith("b2t_rows")))
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=config.CPU_NAME or llvm.get_host_cpu_name(),
        features=config.CPU_FEATURES or llvm.get_host_cpu_features().flatten(),
        opt=3,
    )
    engine = llvm.create_mcjit_compiler(panels.optimized(module, machine), machine)
    engine.finalize_object()
    return engine, ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 8)(engine.get_function_address("pass"))


def define_pass(module, rows):
    """Add a function that calls `rows` for one panel after the other."""
    made = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * 8), "pass")
    builder = ir.IRBuilder(made.append_basic_block("entry"))
    weights, row_bytes, *rest, n_panels = made.args
    panel = builder.mul(row_bytes, I64(ROWS))
    with cgutils.for_range(builder, n_panels) as turn:
        at = builder.add(weights, builder.mul(turn.index, panel))
        builder.call(rows, [at, row_bytes, *rest, builder.add(at, panel)])
    builder.ret_void()
