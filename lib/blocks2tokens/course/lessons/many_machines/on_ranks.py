"""What a model does on two ranks: started as processes of their own, which write down what they measured.

    measure("SmolLM2.gguf", links)     mpiexec -n 2 python -m ....worker '{"model": ..., "links": ...}'
                                       -> {"alone": seconds, "stages": [...], "pipeline": {link: ...}, ...}

Where there is no MPI the lesson goes on with RECORDED: the same figures from a machine of two cores.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from blocks2tokens.parallel.cost import Link

WORKER = f"{__package__}.worker"
SECONDS = 300  # the first start of all may compile
HERE = "this machine"  # the name of the link that is none: loopback


def why_not() -> str | None:
    """Return why no ranks can be started here, or None."""
    if importlib.util.find_spec("mpi4py") is None:
        return "mpi4py is not installed: pip install 'mpi4py>=4.1' mpich"
    return None if mpiexec() else "there is no mpiexec: pip install mpich"


def mpiexec() -> str | None:
    """Return the mpiexec that belongs to this Python, or any."""
    own = Path(sys.executable).with_name("mpiexec")
    return str(own) if own.exists() else shutil.which("mpiexec")


def command(n: int, *arguments: str) -> list[str]:
    """Return what starts Python with these arguments on n ranks."""
    return [mpiexec(), "-n", str(n), sys.executable, *arguments]


def measure(model: str | os.PathLike, links: Mapping[str, Link], tokens: int) -> tuple[dict, str]:
    """Return what two ranks measure, and a sentence that says where: here, or where it was recorded.

    `tokens` are written for each figure.
    """
    problem = why_not()
    if problem is None:
        job = json.dumps({"model": os.fspath(model), "links": dict(links), "tokens": tokens})
        said, problem = _run("-m", WORKER, job)
        if problem is None:
            return json.loads(said.splitlines()[-1]), "Measured here, on two ranks."
    text = (resources.files(__package__) / "recorded.json").read_text(encoding="utf-8")
    return json.loads(text), f"Not measured here ({problem}). Recorded on a machine of two cores:"


def speak(model: str | os.PathLike, prompt: str, tokens: int) -> str:
    """Return what `b2t generate` on two ranks prints, or why it does not."""
    if problem := why_not():
        return f"({problem})"
    arguments = ["generate", os.fspath(model), prompt, "--max-tokens", str(tokens), "--parallel", "pipeline"]
    said, problem = _run("-m", "blocks2tokens", *arguments)
    return said if problem is None else f"({problem})"


def _run(*arguments: str) -> tuple[str, str | None]:
    """Return what Python prints with these arguments on two ranks, and what went wrong, or None."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    with subprocess.Popen(command(2, *arguments), text=True, env=_environment(), **pipes) as ranks:
        try:
            said, error = ranks.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            ranks.terminate()  # mpiexec ends its ranks
            return "", f"no answer within {SECONDS} s"
    if ranks.returncode:
        return said, (error.strip().splitlines() or [f"exit code {ranks.returncode}"])[0]
    return said, None


def _environment() -> dict[str, str]:
    """Return the environment of a rank: the same packages, no lines of progress."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TQDM_DISABLE": "1"}
