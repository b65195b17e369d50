"""The machine code of a vector kernel for any CPU, made here: what would an Apple M1, a Zen 2 run?

    format, CPU  --panels.module_of-->  LLVM's language  --optimized for that CPU-->  assembly  --> its loop

LLVM comes with all its back ends, so no such CPU is needed. Nothing is run.
"""

import re
from functools import cache

import llvmlite.binding as llvm

from blocks2tokens.jit.cpu import UNWANTED
from blocks2tokens.jit.lanes import ISAS
from blocks2tokens.kernels.ours import float_dot, panels
from blocks2tokens.kernels.ours.unpack import PACKED

X86, ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"
CPUS = {  # LLVM's name: the instruction set that it would use
    "haswell": "avx2",
    "skylake": "avx2",
    "skylake-avx512": "avx2",
    "alderlake": "avxvnni",
    "sierraforest": "avxvnni",
    "znver1": "avx2",
    "znver2": "avx2",
    "znver3": "avx2",
    "znver4": "avx512",
    "znver5": "avx512",
    "icelake-server": "avx512",
    "sapphirerapids": "avx512",
    "cortex-a76": "neon",
    "neoverse-n1": "neon",
    "apple-m1": "neon",
    "neoverse-v1": "i8mm",
    "neoverse-n2": "i8mm",
    "apple-m2": "i8mm",
}
DOTS = {"avx512": "vpdpbusd", "avxvnni": "vpdpbusd", "avx2": "vpmaddubsw", "i8mm": "sdot", "neon": "sdot"}
TILE_DOTS = DOTS | {"i8mm": "smmla"}  # where rows of x meet what lies unpacked
ARM_FEATURES = {"neon": "+dotprod", "i8mm": "+dotprod,+i8mm"}  # as `cpu` finds them there
_JUMP, _LABEL = re.compile(r"(j[a-z]+|b\.\w+|b|cbn?z)\s"), re.compile(r"\.?\w+:")


def loop_of(name: str, cpu: str, kind: str = "rows", n_rows: int = 1) -> list[str]:
    """Return the instructions that the loop over blocks of a format, over spans of floats, runs through.

    Those of loops in it are there as often as they are run.
    """
    lines = assembly(name, cpu, kind, n_rows)
    at = {line.split(":")[0]: i for i, line in enumerate(lines) if _LABEL.match(line)}
    jumps = [(at.get(line.split()[-1], i), i) for i, line in enumerate(lines) if _JUMP.match(line)]
    loops = sorted(((start, end) for start, end in jumps if start < end), key=lambda loop: loop[0] - loop[1])
    start, end = loops[0]
    loops = [loop for loop in loops if start <= loop[0] and loop[1] <= end]  # others add up what it has made
    inside = panels.turns(PACKED[name], ISAS[CPUS[cpu]], kind, n_rows)
    if rows_of(name, cpu, kind) < panels.ROWS:
        loops = loops[1:]  # the outermost goes over parts of the sixteen rows
    assert len(loops) == 1 + len(inside), f"{name}, {cpu}, {kind}: {len(loops) - 1} loops in a block's"
    here = in_order(lines, loops, inside)
    return [line for line in here if line[0] not in ".#/" and not _LABEL.match(line)]


def in_order(lines: list[str], loops: list[tuple[int, int]], times: list[int]) -> list[str]:
    """Return the lines of the outermost loop in the order in which they are run.

    loops are first and last lines, each loop inside the one before; times says how often each but the first
    goes round. The order is what llvm-mca takes its chains of dependent instructions from.
    """
    (start, end), *inner = loops
    if not inner:
        return lines[start : end + 1]
    (first, last), body = inner[0], in_order(lines, inner, times[1:])
    return [*lines[start:first], *body * times[0], *lines[last + 1 : end + 1]]


def rows_of(name: str, cpu: str, kind: str = "rows") -> int:
    """Return how many rows of weights the loop goes through at a time."""
    return panels.ROWS if PACKED[name].is_float or kind == "tile" else ISAS[CPUS[cpu]].rows


def per_256(name: str, cpu: str, count: float, kind: str = "rows") -> float:
    """Return a count for a turn of the loop as one for 256 weights of one row."""
    packed = PACKED[name]
    weights = packed.weights * (float_dot.SPAN if packed.is_float else 1) * rows_of(name, cpu, kind)
    return count * 256 / weights


@cache
def assembly(name: str, cpu: str, kind: str = "rows", n_rows: int = 1) -> list[str]:
    """Return the assembly of a function of `panels`, line by line."""
    isa = CPUS[cpu]
    machine = target_machine(cpu, isa)
    parsed = panels.optimized(panels.module_of(((kind, n_rows),), name, isa), machine)
    return [line.strip() for line in machine.emit_assembly(parsed).splitlines() if line.strip()]


def target_machine(cpu, isa):
    """Return LLVM's picture of a CPU, with the features that Numba would compile for there."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    features = ARM_FEATURES.get(isa) or ",".join(f"-{name}" for name in UNWANTED)
    return llvm.Target.from_triple(triple(cpu)).create_target_machine(cpu=cpu, features=features, opt=3)


def triple(cpu: str) -> str:
    """Return LLVM's name for the kind of machine that a CPU of CPUS is."""
    return ARM if CPUS[cpu] in ARM_FEATURES else X86
