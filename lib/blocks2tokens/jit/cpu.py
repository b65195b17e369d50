"""Which instructions this CPU has, and which of them the vector code uses.

    avx512   AVX-512 with VNNI   64 bytes   vpdpbusd: 4 products of bytes to each int32
    avx2     AVX2                32 bytes   vpmaddubsw: 2 products of bytes to each int16
    neon     ARM, dot product    16 bytes   sdot: 4 products of bytes to each int32
    plain    any CPU             loops without vector code

Numba compiles for all features of the host but those in UNWANTED. SSE4A is one of them: its `extrq` and
`insertq`, which LLVM likes for shuffles on AMD's CPUs before Zen 4, have no VEX form, and each of them
after a 256-bit instruction costs about as much as 300 additions.

BLOCKS2TOKENS_SIMD names the instruction set to use. Set to avx2 before Python starts it also makes Numba
compile without AVX-512, so that all code is what a CPU without it would run.
"""

import os
from functools import cache

import llvmlite.binding as llvm
from numba.core import config

from blocks2tokens.errors import UnsupportedError

NEEDS = {
    "avx512": ("avx512vnni", "avx512bw", "avx512vl"),
    "avx2": ("avx2", "fma", "f16c"),
    "neon": ("dotprod",),
    "plain": (),
}
UNWANTED = ("sse4a",)
BEYOND_AVX2 = ("avx512", "avx10", "amx", "avxvnni", "evex512")  # features, by how their names begin
VARIABLE = "BLOCKS2TOKENS_SIMD"
AT_START = os.environ.get(VARIABLE, "").lower()


@cache
def available() -> tuple[str, ...]:
    """Return the names of the instruction sets that this CPU has, fastest first; not those turned off."""
    has = features()
    return tuple(name for name, needed in NEEDS.items() if all(map(has.get, needed)))


@cache
def features() -> dict[str, bool]:
    """Return which of LLVM's features of this CPU Numba may use."""
    off = UNWANTED + (BEYOND_AVX2 if AT_START == "avx2" else ())
    return {name: has and not name.startswith(off) for name, has in llvm.get_host_cpu_features().items()}


def chosen() -> str:
    """Return the instruction set in use: the fastest, or the one that BLOCKS2TOKENS_SIMD names."""
    wanted = os.environ.get(VARIABLE, "").lower()
    if not wanted:
        return available()[0]
    if wanted not in NEEDS:
        raise UnsupportedError(f"{VARIABLE}: expected one of {', '.join(NEEDS)}, got {wanted!r}")
    if wanted not in available() and not is_emulated_arm(wanted):
        raise UnsupportedError(f"{VARIABLE}: this CPU has no {wanted}, only {', '.join(available())}")
    return wanted


def is_emulated_arm(wanted: str) -> bool:
    """An emulator runs ARM's dot instructions, but LLVM finds no features there: take the user's word."""
    return wanted == "neon" and llvm.get_process_triple().startswith("aarch64")


def leave_out_unwanted() -> None:
    """Make Numba compile for `features`, unless the user has said for which it shall."""
    if config.CPU_FEATURES is None and config.CPU_NAME is None and features() != llvm.get_host_cpu_features():
        config.CPU_FEATURES = llvm.FeatureMap(features()).flatten()


leave_out_unwanted()
