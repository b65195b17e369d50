"""Compiled code of an older engine is forgotten."""

import os
import subprocess
import sys

import pytest

from blocks2tokens.jit.cache import forget_outdated


@pytest.mark.parametrize(
    ("source", "kept"),
    [("kernels/ours/fast.py", False), ("course/lesson.py", True), ("benchmarks/llama_cpp.py", True)],
)
def test_what_is_older_than_the_engine_is_removed(tmp_path, source, kept):
    old, new = tmp_path / "__init__.py", tmp_path / source
    index = tmp_path / "kernels" / "__pycache__" / "dot.run-1.py311.nbi"
    for at, path in enumerate((old, index, new)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        os.utime(path, (at, at))
    assert forget_outdated(tmp_path) == (not kept)
    assert index.exists() == kept


CLOSURES = """
import hashlib
from numba.core.serialize import dumps
from blocks2tokens.kernels.ours import integer_gemm, simd_dot
jobs = [simd_dot.rows_job("Q4_K", "avx2", 1), integer_gemm.panel_job("Q4_0", "avx2")]
for job in jobs:
    cells = tuple(cell.cell_contents for cell in job.py_func.__closure__)
    print(hashlib.sha256(dumps(cells)).hexdigest())
"""


def test_generated_kernels_look_the_same_in_every_process():
    """Numba looks for them in its cache by what their closures hold."""
    runs = {
        subprocess.run([sys.executable, "-c", CLOSURES], capture_output=True, check=True).stdout for _ in "ab"
    }
    assert len(runs) == 1 and runs.pop()
