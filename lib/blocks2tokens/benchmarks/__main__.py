"""All tables: `make bench` or `python -m blocks2tokens.benchmarks`.

Everything interleaved, medians; ratios are between figures of the same run. On a CPU with AVX-512 the tables
of formats and models come once more for AVX2 with VNNI and for AVX2 alone, for both sides if llama.cpp was
built for that, too: `make peer SIMD=avxvnni`, `make peer SIMD=avx2`.
"""

import os
import subprocess
import sys
from pathlib import Path

from blocks2tokens.benchmarks import attention, batching, kernels, llama_cpp, models
from blocks2tokens.course import cycles, hardware
from blocks2tokens.jit import cpu

PEERS = Path(sys.prefix)  # peer-avx2/, peer-avxvnni/ in it: llama.cpp for those instruction sets
ONE_SET = "one-set"  # argument: only the tables that depend on the instruction set


def main() -> None:
    ceilings = hardware.measure()
    if sys.argv[1:] == [ONE_SET]:
        print_one_set(ceilings)
        return
    kernels.print_machine(ceilings)
    kernels.print_metadata()
    kernels.print_kernels(ceilings)
    kernels.print_phase0()
    print_one_set(ceilings)
    attention.print_attention()
    batching.print_batching()
    print_other_sets()
    cycles.print_cycles()
    kernels.print_errors()
    kernels.print_report()


def print_one_set(ceilings: hardware.Ceilings) -> None:
    """Print what depends on the instruction set: all formats, and whole models."""
    peers = ", ".join(llama_cpp.library().features) if llama_cpp.library() else "no llama.cpp"
    print(f"\n=== {cpu.chosen()}; llama.cpp's side: {peers}", flush=True)
    kernels.print_formats(ceilings)
    models.print_models(ceilings)


def print_other_sets() -> None:
    """Print the same with the other instruction sets that this CPU has, each in a process of its own."""
    for name in cpu.available():
        if name not in (cpu.chosen(), "plain"):
            paths = str(PEERS / f"peer-{name}"), os.environ.get("PYTHONPATH", "")
            environ = os.environ | {cpu.VARIABLE: name, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
            subprocess.run([sys.executable, "-m", __package__, ONE_SET], env=environ, check=True)


if __name__ == "__main__":
    main()
