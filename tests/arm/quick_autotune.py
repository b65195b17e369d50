"""A plugin for pytest: what is measured on a machine is measured on small matrices, once.

On the usual ones that takes an emulated CPU many minutes, and what it finds there is worth nothing.
"""

import pytest


def pytest_configure():
    from blocks2tokens.kernels import autotune, prefetching

    patch = pytest.MonkeyPatch()
    patch.setattr(autotune, "SHAPE", (64, 512))
    patch.setattr(autotune, "REPEATS", 1)
    patch.setattr(prefetching, "BYTES", 1 << 20)
    patch.setattr(prefetching, "REPEATS", 1)
