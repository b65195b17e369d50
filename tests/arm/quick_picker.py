"""A plugin for pytest: the kernel picker measures small products, once.

On its usual matrix that takes an emulated CPU many minutes, and what it finds there is worth nothing.
"""

import pytest


def pytest_configure():
    from blocks2tokens.kernels import picker

    patch = pytest.MonkeyPatch()
    patch.setattr(picker, "SHAPE", (64, 512))
    patch.setattr(picker, "REPEATS", 1)
