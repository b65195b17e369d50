"""The machine code of a vector kernel for any CPU, made here: what would an Apple M1, a Zen 2 run?

    format, CPU  --panels.module_of-->  LLVM's language  --optimized for that CPU-->  assembly  --> its loop

LLVM comes with all its back ends, so no such CPU is needed. Nothing is run.
"""

import re
from functools import cache

import llvmlite.binding as llvm

from blocks2tokens.jit.cpu import BF16, UNWANTED
from blocks2tokens.jit.lanes import ISAS, Isa
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
HAVE_BF16 = ("znver4", "znver5", "sapphirerapids")
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
    loops = [(start, end) for start, end in jumps if start < end]
    whole = max(loops, key=lambda loop: loop[1] - loop[0])
    if rows_of(name, cpu, kind) < panels.ROWS:  # the outermost goes over parts of the sixteen rows
        whole = outermost(within(whole, loops))[0]
    here = in_order(lines, whole, loops, panels.turns(PACKED[name], isa_of(name, cpu), kind, n_rows))
    return [line for line in here if line[0] not in ".#/" and not _LABEL.match(line)]


def in_order(
    lines: list[str], whole: tuple[int, int], loops: list[tuple[int, int]], turns: list
) -> list[str]:
    """Return the lines of a loop in the order in which they are run.

    loops are first and last lines of this loop and others; turns says how often those within it go round,
    see `panels.turns`. The order is what llvm-mca takes its chains of dependent instructions from.
    """
    found, inner = [], within(whole, loops)
    at, end = whole
    assert len(outermost(inner)) == len(turns), f"{len(outermost(inner))} loops in a loop of {len(turns)}"
    for (first, last), (times, more) in zip(outermost(inner), turns, strict=True):
        found += lines[at:first] + times * in_order(lines, (first, last), inner, more)
        at = last + 1
    return found + lines[at : end + 1]


def within(whole, loops):
    """Return those of the loops that are in another, from the first on."""
    return sorted(one for one in loops if one != whole and whole[0] <= one[0] and one[1] <= whole[1])


def outermost(loops):
    """Return those of the loops, from the first on, that are in no other of them."""
    return [one for one in loops if not any(one in within(other, loops) for other in loops)]


def isa_of(name: str, cpu: str) -> Isa:
    """Return the instruction set for a format on a CPU of CPUS."""
    has_bf16 = name == "BF16" and cpu in HAVE_BF16
    return ISAS[BF16[CPUS[cpu]] if has_bf16 else CPUS[cpu]]


def rows_of(name: str, cpu: str, kind: str = "rows") -> int:
    """Return how many rows of weights the loop goes through at a time."""
    return panels.ROWS if PACKED[name].is_float or kind == "tile" else isa_of(name, cpu).rows


def per_256(name: str, cpu: str, count: float, kind: str = "rows") -> float:
    """Return a count for a turn of the loop as one for 256 weights of one row."""
    packed = PACKED[name]
    in_spans = packed.is_float and kind != "fill"
    blocks = float_dot.span_of(packed, isa_of(name, cpu)) if in_spans else 1
    return count * 256 / (packed.weights * blocks * rows_of(name, cpu, kind))


@cache
def assembly(name: str, cpu: str, kind: str = "rows", n_rows: int = 1) -> list[str]:
    """Return the assembly of a function of `panels`, line by line."""
    machine = target_machine(cpu)
    parsed = panels.optimized(panels.module_of(((kind, n_rows),), name, isa_of(name, cpu).name), machine)
    return [line.strip() for line in machine.emit_assembly(parsed).splitlines() if line.strip()]


def target_machine(cpu):
    """Return LLVM's picture of a CPU, with the features that Numba would compile for there."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    features = ARM_FEATURES.get(CPUS[cpu]) or ",".join(f"-{name}" for name in UNWANTED)
    return llvm.Target.from_triple(triple(cpu)).create_target_machine(cpu=cpu, features=features, opt=3)


def triple(cpu: str) -> str:
    """Return LLVM's name for the kind of machine that a CPU of CPUS is."""
    return ARM if CPUS[cpu] in ARM_FEATURES else X86
