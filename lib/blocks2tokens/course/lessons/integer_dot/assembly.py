"""Find the loop that does the work in the assembly of a compiled function, and count it.

    .LBB0_7:                                  a label
            vpdpbusd  (%rax,%rcx), ...        the loop: from the label to the jump that names it
            addq      $64, %rcx
            jne       .LBB0_7                 a jump backwards

A loop with none inside it is an innermost one; of those, the hot one names wide registers most often.
"""

import re
from collections import Counter
from collections.abc import Callable

WIDE = re.compile("[yz]mm")  # registers of 32 and 64 bytes
MULTIPLIES = re.compile("mul|mad|vpdp")
ENCODING = re.compile(r"^\{\w+\}\s+")  # "{vex}" before an instruction says how it is encoded
STEP = re.compile(r"\b(?:add|sub)\w*\s[^\n]*?[$#](-?\d+)")


def innermost_loops(assembly: str) -> list[list[str]]:
    """Return the instructions of each innermost loop of a function's assembly."""
    lines = [ENCODING.sub("", line.strip()) for line in assembly.splitlines()]
    label = {line[:-1]: i for i, line in enumerate(lines) if line.endswith(":")}
    jumps = [(label.get(line.split()[-1], i), i) for i, line in enumerate(lines) if line[:1] in ("j", "b")]
    back = [(start, end) for start, end in jumps if start < end]
    inner = [(s, e) for s, e in back if not any(s <= a < b < e for a, b in back)]
    return [[x for x in lines[s + 1 : e + 1] if x and x[0] not in ".#" and x[-1] != ":"] for s, e in inner]


def hot_loop(function: Callable) -> list[str]:
    """Return the hot loop of what `njit` compiled last for a function, an instruction each."""
    loops = innermost_loops(list(function.inspect_asm().values())[-1])
    return max(((len(WIDE.findall(" ".join(body))), body) for body in loops), default=(0, []))[1]


def wide_kinds(body: list[str]) -> list[str]:
    """Return one instruction with a wide register of each kind in a loop."""
    return list({line.split()[0]: line for line in body if WIDE.search(line)}.values())


def show_loop(name: str, function: Callable, weights: int | None = None) -> None:
    """Print the hot loop's size; `weights` of a turn, if the step of its counter is not that."""
    body = hot_loop(function)
    steps = [abs(int(step)) for step in STEP.findall("\n".join(body))]
    weights = weights or min((step for step in steps if step), default=len(body) or 1)
    kinds = Counter(line.split()[0] for line in body)
    listed = ", ".join(f"{n} {kind}" for kind, n in kinds.items() if MULTIPLIES.search(kind))
    print(f"{name}: {len(body)} instructions, {weights} weights, {len(body) / weights:.2f} for each")
    print(f"    that multiply: {listed or 'none of the names in the table'}")
