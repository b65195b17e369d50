"""What Numba keeps of the engine: forgotten when any source changes, passed over when broken."""

import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core import caching

import blocks2tokens as b2t
from blocks2tokens.jit import cache

LIB = Path(cache.__file__).parents[2]


def package(folder):
    for name in ("__init__.py", "kernels/dot.py", "course/lesson.py", "benchmarks/llama_cpp.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"# {name}\n")
    return folder


@pytest.mark.parametrize(
    ("changed", "counts"),
    [
        ("kernels/dot.py", True),
        ("kernels/new.py", True),
        ("course/lesson.py", False),
        ("benchmarks/llama_cpp.py", False),
    ],
)
def test_the_fingerprint_is_of_what_the_engine_is_made_of(tmp_path, changed, counts):
    fingerprint = cache.fingerprint.__wrapped__
    before = fingerprint(package(tmp_path))
    for path in tmp_path.rglob("*.py"):  # another time is no other source
        os.utime(path, (0, time.time() + 1e6))
    assert fingerprint(tmp_path) == before
    (tmp_path / changed).write_text("# another\n")
    assert (fingerprint(tmp_path) != before) == counts


def stamp(path):
    return caching.InTreeCacheLocator(package, str(path)).get_source_stamp()


def test_numba_stamps_the_engines_functions_and_no_others(monkeypatch):
    inside, outside = LIB / "blocks2tokens" / "matrix.py", Path(__file__)
    before = stamp(inside), stamp(outside)
    monkeypatch.setattr(cache, "fingerprint", lambda: "another")
    assert stamp(inside) != before[0] and stamp(outside) == before[1]


@pytest.mark.parametrize("broken", [b"", b"\0" * 100, b"garbage", b"(", None])
@pytest.mark.parametrize("part", ["index", "code"])
def test_a_broken_file_counts_as_missing(tmp_path, part, broken):
    files = caching.IndexDataCacheFile(str(tmp_path), "dot-1.py311", "stamp")
    files.save("key", {"some": "code"})
    assert files.load("key") == {"some": "code"}
    path = Path(files._index_path if part == "index" else files._data_path(files._data_name(1)))
    path.write_bytes(path.read_bytes()[:-9] if broken is None else broken)
    assert files.load("key") is None
    files.save("key", {"other": "code"})
    assert files.load("key") == {"other": "code"}


RUN = """
import numpy as np, blocks2tokens as b2t
from numba import config
print(b2t.FORMATS["Q8_0"].dequantize(np.zeros(34, np.uint8)).sum(), config.CACHE_DIR)
"""


def run(env=(), lib=LIB, prefix=()):
    """Import the engine and use a kernel in another process; return its output and errors."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA", "XDG"))}
    environ |= {"PYTHONPATH": str(lib), **dict(env)}
    command = [*prefix, sys.executable, "-c", RUN]
    return subprocess.run(command, capture_output=True, text=True, env=environ, check=False)


@contextmanager
def read_only(folder):
    """Let nobody write to a folder and those in it; yield what keeps root, too, from it, before a command."""
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    rights = "-dac_override,-dac_read_search,-fowner"
    is_root = os.getuid() == 0
    try:
        for path in folders:
            path.chmod(0o555)
        yield ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"] if is_root else []
    finally:
        for path in folders:
            path.chmod(0o755)


needs_setpriv = pytest.mark.skipif(
    not shutil.which("setpriv"), reason="setpriv of util-linux takes root's rights away"
)


@needs_setpriv
def test_without_a_folder_to_write_to_it_runs_and_says_so(tmp_path):
    shutil.copytree(LIB, tmp_path / "lib", ignore=shutil.ignore_patterns("__pycache__", "course"))
    (tmp_path / "home").mkdir()
    with read_only(tmp_path) as prefix:
        done = run({"HOME": str(tmp_path / "home")}, tmp_path / "lib", prefix)
    assert done.returncode == 0, done.stderr
    assert "NUMBA_CACHE_DIR=FOLDER names one" in done.stderr and "Traceback" not in done.stderr
    folder = done.stdout.split()[1]
    assert "blocks2tokens-" in folder and not Path(folder).exists()


@needs_setpriv
def test_what_was_compiled_in_a_package_is_shared_by_those_who_cannot_write_it(tmp_path):
    lib, home = tmp_path / "lib", tmp_path / "home"
    shutil.copytree(LIB, lib, ignore=shutil.ignore_patterns("__pycache__", "course"))
    home.mkdir()
    assert run({"HOME": str(home)}, lib).returncode == 0
    compiled = {path.name for path in lib.rglob("*.nbc")}
    assert compiled and not list(home.rglob("*.nb?"))
    with read_only(lib) as prefix:
        done = run({"HOME": str(home)}, lib, prefix)
    assert (done.returncode, done.stderr) == (0, "")
    theirs = [path for path in home.rglob("*.nb?") if path.is_file()]
    assert {path.name for path in theirs if path.suffix == ".nbc"} == compiled
    assert all(path.is_symlink() and path.resolve().is_relative_to(lib) for path in theirs), "none compiled"


def test_with_one_nothing_is_said(tmp_path):
    done = run()
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.split() == ["0.0"]


@pytest.mark.parametrize("use", ["b2t.load(PATH)", "b2t.matmul(x, w)", "w.dequantize()"])
def test_an_engine_that_may_not_compile_says_why(use, monkeypatch, austen_path):
    x = np.zeros((1, 32), np.float32)
    w = b2t.QuantizedMatrix(np.zeros((4, 34), np.uint8), "Q8_0", (4, 32))
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    with pytest.raises(b2t.UnsupportedError, match="NUMBA_DISABLE_JIT is set"):
        eval(use, {"b2t": b2t, "x": x, "w": w, "PATH": austen_path})


def test_a_cache_that_may_not_compile_says_why():
    code = "import blocks2tokens.model as m; m.KVCache(1, 1, 32, 64).rows(0)"
    environ = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=False
    )
    assert done.returncode == 1 and "UnsupportedError: NUMBA_DISABLE_JIT is set" in done.stderr


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
