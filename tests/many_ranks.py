"""Runs a script on several ranks, with the environment's own mpiexec."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

LIB = Path(__file__).resolve().parents[1] / "lib"
SECONDS = 300  # the first run compiles


def mpiexec() -> str | None:
    """Return the mpiexec that belongs to this Python, or any."""
    own = Path(sys.executable).with_name("mpiexec")
    return str(own) if own.exists() else shutil.which("mpiexec")


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join([str(LIB), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "TQDM_DISABLE": "1", **more}


def start(n: int, *arguments: str, **more) -> subprocess.Popen:
    """Start Python with these arguments on n ranks."""
    command = [mpiexec(), "-n", str(n), sys.executable, *arguments]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment(), text=True, **{**pipes, **more})


def run(n: int, *arguments: str) -> tuple[int, str, str]:
    """Run Python with these arguments on n ranks; return the exit code, stdout and stderr."""
    with start(n, *arguments) as process:
        try:
            out, err = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            process.terminate()  # mpiexec ends its ranks
            raise
    return process.returncode, out, err
