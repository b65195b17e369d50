"""Compiled code of an older engine is forgotten."""

import os

import pytest

from blocks2tokens.compiled_code import forget_outdated


@pytest.mark.parametrize(("source", "kept"), [("kernels/fast.py", False), ("course/lesson.py", True)])
def test_what_is_older_than_the_engine_is_removed(tmp_path, source, kept):
    old, new = tmp_path / "__init__.py", tmp_path / source
    index = tmp_path / "kernels" / "__pycache__" / "dot.run-1.py311.nbi"
    for at, path in enumerate((old, index, new)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        os.utime(path, (at, at))
    assert forget_outdated(tmp_path) == (not kept)
    assert index.exists() == kept
