"""The vector kernels' code for CPUs that are not here: the dot instruction, no bad ones, not too many."""

import re

import pytest

from blocks2tokens.jit.cpu import NEEDS
from blocks2tokens.jit.lanes import ISAS
from blocks2tokens.kernels import listing
from blocks2tokens.kernels.ours import float_dot
from blocks2tokens.kernels.ours.prefetch import DEFAULT
from blocks2tokens.kernels.ours.unpack import PACKED

# Signs that a vector was taken apart, that a call is left in the loop, or that the CPU stalls.
BAD = re.compile(r"(extrq|insertq|movnts\w|v?p?gather\w*|call\w*|blr?|v?pextr\w|v?pinsr\w|[us]mov|ins)\b")
STORED = re.compile(r"v\w*mov\w+\s+%[yz]mm\d+, -?\w*\(|st[pr]\s+q")  # a vector, to memory
# Instructions for 256 weights and one row of x on the worst CPU of each set, when this was written.
MOST = {
    "avx2": {
        "Q4_K": 70, "Q5_K": 113, "Q6_K": 123, "Q2_K": 69, "Q3_K": 112, "IQ4_XS": 100, "Q8_0": 112,
        "Q4_0": 85, "Q4_1": 88, "Q5_0": 140, "Q5_1": 141, "IQ4_NL": 113, "MXFP4": 104, "F32": 77,
        "F16": 101, "BF16": 133,
    },
    "avx512": {
        "Q4_K": 33, "Q5_K": 50, "Q6_K": 55, "Q2_K": 32, "Q3_K": 45, "IQ4_XS": 39, "Q8_0": 62, "Q4_0":
        48, "Q4_1": 48, "Q5_0": 65, "Q5_1": 66, "IQ4_NL": 52, "MXFP4": 53, "F32": 59, "F16": 69,
        "BF16": 85,
    },
    "avxvnni": {
        "Q4_K": 65, "Q5_K": 105, "Q6_K": 117, "Q2_K": 66, "Q3_K": 104, "IQ4_XS": 75, "Q8_0": 94,
        "Q4_0": 78, "Q4_1": 81, "Q5_0": 143, "Q5_1": 141, "IQ4_NL": 88, "MXFP4": 89, "F32": 77,
        "F16": 101, "BF16": 133,
    },
    "i8mm": {
        "Q4_K": 113, "Q5_K": 217, "Q6_K": 238, "Q2_K": 119, "Q3_K": 199, "IQ4_XS": 121, "Q8_0": 130,
        "Q4_0": 126, "Q4_1": 132, "Q5_0": 230, "Q5_1": 225, "IQ4_NL": 137, "MXFP4": 153, "F32": 153,
        "F16": 209, "BF16": 209,
    },
    "neon": {
        "Q4_K": 115, "Q5_K": 211, "Q6_K": 223, "Q2_K": 123, "Q3_K": 227, "IQ4_XS": 125, "Q8_0": 131,
        "Q4_0": 127, "Q4_1": 133, "Q5_0": 225, "Q5_1": 225, "IQ4_NL": 139, "MXFP4": 154, "F32": 153,
        "F16": 209, "BF16": 209,
    },
}  # fmt: skip
MOST["avx512bf16"] = {"BF16": 48}
# And for 256 products with what lies unpacked, a tile of x at a time.
MOST_IN_TILES = {
    "avx2": {
        "Q4_K": 28, "Q5_K": 30, "Q6_K": 35, "Q2_K": 34, "Q3_K": 34, "IQ4_XS": 49, "Q8_0": 52, "Q4_0": 30,
        "Q4_1": 30, "Q5_0": 32, "Q5_1": 32, "IQ4_NL": 52, "MXFP4": 32, "F32": 64, "F16": 64, "BF16": 64,
    },
    "avx512": {
        "Q4_K": 8, "Q5_K": 8, "Q6_K": 10, "Q2_K": 10, "Q3_K": 10, "IQ4_XS": 8, "Q8_0": 8, "Q4_0": 8,
        "Q4_1": 8, "Q5_0": 8, "Q5_1": 8, "IQ4_NL": 8, "MXFP4": 8, "F32": 29, "F16": 29, "BF16": 29,
    },
    "avx512bf16": {"BF16": 16},
    "avxvnni": {
        "Q4_K": 22, "Q5_K": 22, "Q6_K": 29, "Q2_K": 29, "Q3_K": 29, "IQ4_XS": 22, "Q8_0": 23, "Q4_0": 23,
        "Q4_1": 23, "Q5_0": 23, "Q5_1": 23, "IQ4_NL": 23, "MXFP4": 23, "F32": 64, "F16": 64, "BF16": 64,
    },
    "i8mm": {
        "Q4_K": 31, "Q5_K": 31, "Q6_K": 46, "Q2_K": 46, "Q3_K": 46, "IQ4_XS": 24, "Q8_0": 27, "Q4_0": 32,
        "Q4_1": 32, "Q5_0": 32, "Q5_1": 32, "IQ4_NL": 27, "MXFP4": 32, "F32": 90, "F16": 90, "BF16": 90,
    },
    "neon": {
        "Q4_K": 41, "Q5_K": 41, "Q6_K": 54, "Q2_K": 54, "Q3_K": 54, "IQ4_XS": 35, "Q8_0": 40, "Q4_0": 44,
        "Q4_1": 44, "Q5_0": 44, "Q5_1": 44, "IQ4_NL": 40, "MXFP4": 44, "F32": 90, "F16": 90, "BF16": 90,
    },
}  # fmt: skip
SPARE = 1.1  # what LLVM's next version, or a small change, may add
# where all kinds of loop are looked at
A_FEW = ("haswell", "znver3", "alderlake", "sapphirerapids", "apple-m1", "apple-m2")


def bytes_dotted(lines, dot):
    """Return how many bytes of codes the dot instructions of a loop multiply, for one row of x at a time."""
    dots = [line for line in lines if line.removeprefix("{vex}").lstrip().startswith(dot)]
    sizes = [64 if "zmm" in line else 32 if "ymm" in line else 16 for line in dots]
    return sum(sizes) * (2 if dot == "smmla" else 1)


def assert_no_bad_signs(lines):
    found = [line for line in lines if BAD.match(line)]
    found += [line for line in lines if "xmm" in line and not line.startswith("v")]  # no VEX form
    assert not found


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("cpu", listing.CPUS)
def test_decoding_on_every_cpu(cpu, name):
    isa, lines = listing.isa_of(name, cpu), listing.loop_of(name, cpu)
    assert_no_bad_signs(lines)
    if not PACKED[name].is_float:
        assert (
            bytes_dotted(lines, listing.DOTS[isa.name]) == listing.rows_of(name, cpu) * PACKED[name].weights
        )
    if float_dot.as_they_lie(PACKED[name], isa):
        span = float_dot.span_of(PACKED[name], isa)
        assert bytes_dotted(lines, "vdpbf16ps") == 16 * span * PACKED[name].size
    assert listing.per_256(name, cpu, len(lines)) <= SPARE * MOST[isa.name][name]


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("cpu", listing.CPUS)
def test_tiles_on_every_cpu(cpu, name):
    isa = listing.isa_of(name, cpu)
    lines = listing.loop_of(name, cpu, "tile", isa.tile)
    assert_no_bad_signs(lines)
    if not PACKED[name].is_float:
        wanted = 16 * PACKED[name].weights * isa.tile
        assert bytes_dotted(lines, listing.TILE_DOTS[isa.name]) == wanted
    products = listing.per_256(name, cpu, len(lines), "tile") / isa.tile
    assert products <= SPARE * MOST_IN_TILES[isa.name][name]


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("cpu", A_FEW)
def test_four_rows_and_panels_on_some_cpus(cpu, name):
    lines = listing.loop_of(name, cpu, "rows", 4)
    assert_no_bad_signs(lines)
    if not PACKED[name].is_float:
        dotted = bytes_dotted(lines, listing.DOTS[listing.CPUS[cpu]])
        assert dotted == listing.rows_of(name, cpu) * PACKED[name].weights * 4
    most = listing.per_256(name, cpu, len(listing.loop_of(name, cpu)))
    if PACKED[name].is_float:  # nothing is unpacked once for all: only some loads are
        most *= SPARE
    assert listing.per_256(name, cpu, len(lines)) / 4 < most
    assert_no_bad_signs(listing.loop_of(name, cpu, "fill"))


# A vector that no register is left for, to a stack that may begin anywhere.
SPILLED = re.compile(r"v?mov[a-z]*u[a-z0-9]*\s+%[yz]mm\d+, -?\w*\(%r[sb]p\)")


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("cpu", ["haswell", "znver3", "alderlake", "sapphirerapids"])
def test_vectors_on_the_stack_lie_in_whole_lines(cpu, name):
    for kind, n_rows in (("rows", 1), ("rows", 4), ("fill", 1), ("tile", ISAS[listing.CPUS[cpu]].tile)):
        assert not list(filter(SPILLED.match, listing.assembly(name, cpu, kind, n_rows)))


def vectors_stored(lines):
    """Return how many vectors are written to memory."""
    return sum(2 if line.startswith("stp") else 1 for line in lines if STORED.match(line))


@pytest.mark.parametrize("name", [name for name in PACKED if not PACKED[name].is_float])
@pytest.mark.parametrize("cpu", ["haswell", "znver3", "alderlake", "znver4"])
def test_a_vector_of_codes_meets_all_rows_of_x_before_the_next_is_made(cpu, name):
    """Row of x by row of x, a whole group of codes waits on the stack: more stores than products."""
    lines = listing.loop_of(name, cpu, "rows", 4)
    dots = sum(listing.DOTS[listing.CPUS[cpu]] in line for line in lines)
    assert vectors_stored(lines) < dots


@pytest.mark.parametrize("name", [name for name in PACKED if PACKED[name].is_float])
@pytest.mark.parametrize("cpu", listing.CPUS)
@pytest.mark.parametrize("n_rows", [1, 2, 4, 8])
def test_totals_of_floats_stay_in_registers_until_a_span_ends(n_rows, cpu, name):
    packed, isa = PACKED[name], listing.isa_of(name, cpu)
    rounded = n_rows * float_dot.span_of(packed, isa) if float_dot.as_they_lie(packed, isa) else 0
    assert vectors_stored(listing.loop_of(name, cpu, "rows", n_rows)) == 16 * n_rows + rounded


@pytest.mark.parametrize("cpu", listing.CPUS)
@pytest.mark.parametrize("kind", ["rows", "fill"])
def test_the_next_weights_are_asked_for_between_the_products_not_all_at_once(kind, cpu):
    """40 requests at once leave a core none for what it loads: LLVM would put them together."""
    asked = [re.match(r"prefetch|prfm", line) is not None for line in listing.loop_of("Q6_K", cpu, kind)]
    groups = re.findall("1+", "".join("10"[not one] for one in asked))
    assert sum(asked) > 2.5 * listing.rows_of("Q6_K", cpu, kind) and max(map(len, groups)) <= 8


@pytest.mark.parametrize("name", ["Q4_K", "Q6_K", "Q3_K"])
@pytest.mark.parametrize("cpu", ["znver4", "haswell"])
def test_each_place_of_the_next_weights_is_asked_for_upwards(cpu, name):
    asked = [re.search(r"prefetch\w+\s+(-?\d*)\((.*)\)", line) for line in listing.loop_of(name, cpu)]
    offsets = {}
    for match in filter(None, asked):
        offsets.setdefault(match[2], []).append(int(match[1] or 0))
    assert len(offsets) == DEFAULT.streams
    for one in offsets.values():
        assert one == sorted(set(one)) and one[-1] - one[0] == 64 * (len(one) - 1)


def test_a_loop_in_a_loop_is_listed_in_the_order_in_which_it_runs():
    """Not each instruction as often as it runs: those that wait for themselves would make a chain."""
    loops, turns = [(3, 4), (2, 5), (1, 8), (7, 7)], [(2, [(3, [])]), (4, [])]
    listed = listing.in_order(list("-abcdefgh-"), (1, 8), loops, turns)
    assert "".join(listed) == "a" + 2 * ("b" + 3 * "cd" + "e") + "f" + 4 * "g" + "h"


def test_the_table_has_every_instruction_set():
    assert {*listing.CPUS.values(), "plain"} == set(NEEDS)


@pytest.mark.parametrize(
    "line", ["extrq $8, $16, %xmm1", "callq memcpy", "vpgatherdd (%rax)", "movaps %xmm0, %xmm1"]
)
def test_bad_signs_are_seen(line):
    with pytest.raises(AssertionError):
        assert_no_bad_signs([line])
