"""Loops are found in assembly as compilers write it, and in what Numba compiles here."""

import numpy as np
import pytest
from numba import njit

from blocks2tokens.course.lessons.integer_dot import assembly

NESTED = """
outer:
    movq %rax, %rbx
.inner:
    {vex}	vpdpbusd (%rax), %zmm1, %zmm2
    addq $64, %rax
    cmpq %rax, %rdx
    jne .inner
    decq %rcx
    jne outer
    jmp .done
.done:
    retq
"""


class Compiled:
    """What `njit` gives, as far as it is asked."""

    def inspect_asm(self):
        return {"signature": NESTED}


def test_only_the_innermost_loop_is_found():
    (body,) = assembly.innermost_loops(NESTED)
    assert [line.split()[0] for line in body] == ["vpdpbusd", "addq", "cmpq", "jne"]
    assert assembly.wide_kinds(body) == ["vpdpbusd (%rax), %zmm1, %zmm2"]


@pytest.mark.parametrize(
    ("weights", "said"), [(None, "4 instructions, 64 weights, 0.06"), (8, "8 weights, 0.50")]
)
def test_a_loop_is_counted(capsys, weights, said):
    assembly.show_loop("it", Compiled(), weights)
    out = capsys.readouterr().out
    assert said in out and "that multiply: 1 vpdpbusd" in out


def test_where_there_is_no_loop_none_is_found():
    assert assembly.innermost_loops("f:\n    retq\n") == []


def test_a_compiled_loop_is_found():
    @njit
    def total(x):
        out = 0
        for i in range(x.size):
            out += x[i]
        return out

    total(np.ones(3, np.uint8))
    assert assembly.innermost_loops(list(total.inspect_asm().values())[-1])
