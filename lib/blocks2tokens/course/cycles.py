"""How many cycles each CPU of a table needs for 256 weights, by LLVM's model of it: no such CPU is needed.

    kernels.listing  --the loop's instructions-->  llvm-mca  -->  cycles  -->  GB/s of weights at a clock

An estimate of what the code itself costs: every load hits the first-level cache, every branch is foreseen.
What memory delivers is another limit, and the slower of the two sets the pace. A model has faults: those of
Zen 1 and 2 take 10 cycles for each vcvtph2ps, a float16 to float32, which blocks of 32 have in plenty.
llvm-mca is in Debian's and Ubuntu's packages llvm, llvm-22, ...
"""

import re
import shutil
import subprocess
from functools import cache

from blocks2tokens.formats import FORMATS
from blocks2tokens.kernels import listing
from blocks2tokens.kernels.ours.unpack import PACKED

TURNS = 20  # of the loop, in a row
CLOCK = 3.0  # GHz, to have something to multiply with


@cache
def tool() -> str | None:
    """Return the newest llvm-mca that is installed, None if there is none."""
    names = (*(f"llvm-mca-{version}" for version in range(30, 14, -1)), "llvm-mca")
    return next(filter(None, map(shutil.which, names)), None)


def cycles(name: str, cpu: str, kind: str = "rows", n_rows: int = 1) -> float:
    """Return the cycles for 256 weights of a row, and one row of x, on a CPU of `listing.CPUS`."""
    done = subprocess.run(
        [tool(), *of(cpu), f"-iterations={TURNS}", "-instruction-info=0"],
        input="\n".join(listing.loop_of(name, cpu, kind, n_rows)),
        capture_output=True,
        text=True,
        check=True,
    )
    total = int(re.search(r"Total Cycles:\s+(\d+)", done.stdout)[1])
    return listing.per_256(name, cpu, total / TURNS, kind) / n_rows


def of(cpu: str) -> list[str]:
    """Return the options of llvm-mca that name a CPU."""
    options = [f"-mtriple={listing.triple(cpu)}", f"-mcpu={cpu}"]
    features = listing.ARM_FEATURES.get(listing.CPUS[cpu])
    return [*options, f"-mattr={features}"] if features else options


def speed(name: str, cycles_of_256: float) -> float:
    """Return the GB/s of weights at CLOCK."""
    return FORMATS[name].bits_per_weight * 256 / 8 / cycles_of_256 * CLOCK


def print_cycles() -> None:
    """Print a table for decoding: a row for each format, a column for each CPU."""
    if tool() is None:
        print("\nCycles by llvm-mca: not installed (Debian, Ubuntu: apt install llvm)")
        return
    print(f"\nOne row of x, weights in the first-level cache, by {tool().split('/')[-1]}: cycles for 256")
    print(f"weights, and GB/s of weights at {CLOCK} GHz, on one core")
    cpus = [cpu for cpu in listing.CPUS if knows(cpu)]
    for some in (cpus[:8], cpus[8:]):
        print(f"\n  {'':8}" + "".join(f"{cpu:>17}" for cpu in some))
        for name in PACKED:
            found = {cpu: cycles(name, cpu) for cpu in some}
            cells = "".join(f"{c:9.1f} {speed(name, c):7.1f}" for c in found.values())
            print(f"  {name:8}{cells}", flush=True)


@cache
def knows(cpu: str) -> bool:
    """Is there an llvm-mca that has a model of the CPU?"""
    if tool() is None:
        return False
    run = [tool(), *of(cpu), "-iterations=1"]
    return subprocess.run(run, input="nop", capture_output=True, text=True).returncode == 0
