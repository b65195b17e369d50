"""Watching: see what is multiplied, from outside the forward pass.

with watching(see):
    model.logits(ids)          see(x, w) before each product: x float32 [M, K], w the matrix [N, K]
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from blocks2tokens.matrix import QuantizedMatrix

See = Callable[[np.ndarray, QuantizedMatrix], None]
WATCHER: ContextVar[See | None] = ContextVar("watcher", default=None)


@contextmanager
def watching(see: See) -> Iterator[None]:
    """Within the block, call see(x, w) before each `matmul` of this thread; x is read-only, and not kept."""
    before = WATCHER.set(see)
    try:
        yield
    finally:
        WATCHER.reset(before)
