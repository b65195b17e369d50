"""Which instructions this CPU has, and which of them the vector code uses.

    avx512   AVX-512 with VNNI   64 bytes   vpdpbusd: 4 products of bytes to each int32
                                            vpdpbf16ps, where it is: 2 of bfloat16 to each float32
    avxvnni  AVX2 with VNNI      32 bytes   vpdpbusd, too
    avx2     AVX2                32 bytes   vpmaddubsw: 2 products of bytes to each int16
    i8mm     ARM, int8 matrices  16 bytes   smmla: 8 products to each int32, in tiles of x; else sdot
    neon     ARM, dot product    16 bytes   sdot: 4 products of bytes to each int32
    plain    any CPU             loops without vector code

The features are those that LLVM finds, on ARM those that Linux or macOS tells, where LLVM does not ask, or
those that the user states with NUMBA_CPU_FEATURES. Numba compiles for all of them but those in UNWANTED.
SSE4A is one of these: its `extrq` and `insertq`, which LLVM likes for shuffles on AMD's CPUs before Zen 4,
have no VEX form, and each of them after a 256-bit instruction costs about as much as 300 additions.

BLOCKS2TOKENS_SIMD names the instruction set to use. Set to avx2 or avxvnni before Python starts it also makes
Numba compile without AVX-512, so that all code is what a CPU without it would run.
"""

import ctypes
import os
import platform
import sys
from functools import cache

import llvmlite.binding as llvm
from numba.core import config

from blocks2tokens.errors import UnsupportedError

NEEDS = {
    "avx512": ("avx512vnni", "avx512bw", "avx512vl"),
    "avxvnni": ("avxvnni", "avx2", "fma", "f16c"),
    "avx2": ("avx2", "fma", "f16c"),
    "i8mm": ("dotprod", "i8mm"),
    "neon": ("dotprod",),
    "plain": (),
}
BF16 = {"avx512": "avx512bf16"}  # LLVM's name of the feature, too
UNWANTED = ("sse4a",)
BEYOND = ("avx512", "avx10", "amx", "evex512")  # features, by how their names begin
# By what BLOCKS2TOKENS_SIMD says at the start.
LEFT_OUT = {"avxvnni": BEYOND, "avx2": (*BEYOND, "avxvnni", "gfni")}
OF_MACOS = {"dotprod": "FEAT_DotProd", "i8mm": "FEAT_I8MM"}
OF_LINUX = {"dotprod": (16, 20), "i8mm": (26, 13)}  # AT_HWCAP or AT_HWCAP2, and its bit, see `asm/hwcap.h`
VARIABLE = "BLOCKS2TOKENS_SIMD"
AT_START = os.environ.get(VARIABLE, "").lower()
STATED = config.CPU_FEATURES  # by the user


@cache
def available() -> tuple[str, ...]:
    """Return the names of the instruction sets that this CPU has, fastest first; not those turned off."""
    return met_by(features())


def met_by(has: dict[str, bool]) -> tuple[str, ...]:
    """Return the names of the instruction sets that these features are enough for, fastest first."""
    return tuple(name for name, needed in NEEDS.items() if all(map(has.get, needed)))


@cache
def features() -> dict[str, bool]:
    """Return which features of this CPU, by LLVM's names, Numba may use."""
    off = UNWANTED + LEFT_OUT.get(AT_START, ())
    return {name: has and not name.startswith(off) for name, has in all_features().items()}


def all_features() -> dict[str, bool]:
    """Return which features this CPU has, by LLVM's names, or the user says that it has."""
    if STATED is not None:
        return {part[1:]: part[0] == "+" for part in STATED.split(",") if part}
    if (sys.platform, platform.machine()) == ("darwin", "arm64"):
        return {name: bool(macos_tells(f"hw.optional.arm.{asked}")) for name, asked in OF_MACOS.items()}
    found = dict(llvm.get_host_cpu_features())
    if (sys.platform, platform.machine()) == ("linux", "aarch64"):
        found |= {name: bool(linux_tells(entry) >> bit & 1) for name, (entry, bit) in OF_LINUX.items()}
    return found


def linux_tells(entry: int) -> int:
    """Return what Linux has told this process by an entry of its auxiliary vector; 0 if nothing."""
    ask = ctypes.CDLL(None).getauxval
    ask.argtypes, ask.restype = [ctypes.c_ulong], ctypes.c_ulong
    return ask(entry)


def macos_tells(name: str) -> int:
    """Return a whole number that macOS knows by this name; 0 if it knows none."""
    value, size = ctypes.c_int64(0), ctypes.c_size_t(8)
    ctypes.CDLL(None).sysctlbyname(name.encode(), ctypes.byref(value), ctypes.byref(size), None, 0)
    return value.value


def chosen() -> str:
    """Return the instruction set in use: the fastest, or the one that BLOCKS2TOKENS_SIMD names."""
    wanted = os.environ.get(VARIABLE, "").lower()
    if not wanted:
        return available()[0]
    if wanted not in NEEDS:
        raise UnsupportedError(f"{VARIABLE}: expected one of {', '.join(NEEDS)}, got {wanted!r}")
    if wanted not in available():
        raise UnsupportedError(
            f"{VARIABLE}: this CPU has no {wanted}, only {', '.join(met_by(all_features()))}"
        )
    return wanted


def with_bf16(isa: str) -> str:
    """Return what an instruction set is called where it also multiplies bfloat16, if this CPU does."""
    return BF16[isa] if isa in BF16 and features().get(BF16[isa]) else isa


def leave_out_unwanted() -> None:
    """Make Numba compile for `features`, unless the user has said for which it shall."""
    if STATED is None and features() != llvm.get_host_cpu_features():
        config.CPU_FEATURES = llvm.FeatureMap(features()).flatten()


leave_out_unwanted()
