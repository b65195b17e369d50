"""Unrounded: products whose inputs stay float32, where two models are compared and not timed.

    x -> rounded, to 8 bits -> product      usual: a change of a millionth tips numbers to the other side, and
                                            the next layer has more such numbers: two passes, two draws
    x -> product                            with unrounded(): what differs are the weights alone

The kernel is then `dequantize_then_blas`: each matrix is decoded whole and left to BLAS.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

UNROUNDED: ContextVar[bool] = ContextVar("unrounded", default=False)


@contextmanager
def unrounded() -> Iterator[None]:
    """Within the block, no `matmul` of this thread rounds its inputs; a token alone is decoded as ever."""
    before = UNROUNDED.set(True)
    try:
        yield
    finally:
        UNROUNDED.reset(before)
