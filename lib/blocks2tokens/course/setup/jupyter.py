"""JupyterLab on the learner's copy of the lessons, a lesson open.

    python -m blocks2tokens.course.setup.jupyter [any option of JupyterLab]        opens lesson 00

The server answers this machine alone, and asks for the token that it prints. jupyter_config/, beside this
file, is one of the folders where it looks for settings: there JupyterLab is told to ask for no news.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from blocks2tokens.course.setup import notebooks, workspace

SETTINGS = Path(__file__).with_name("jupyter_config")


def command(folder: Path, lesson: str, options: Sequence[str] = ()) -> list[str]:
    """Return the command that serves a learner's folder and opens a lesson of it, if it is there."""
    is_there = (folder / lesson).is_file()
    opened = f"/lab/tree/{quote(lesson)}" if is_there else "/lab"
    return [
        sys.executable,
        "-m",
        "jupyterlab",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.root_dir={folder.resolve()}",
        f"--LabApp.default_url={opened}",
        "--allow-root",  # matters in containers only
        *options,
    ]


def environment() -> dict[str, str]:
    """Return what JupyterLab is started with. `python` in a lesson's shell commands is this one."""
    own = {"PATH": str(Path(sys.executable).parent), "JUPYTER_CONFIG_PATH": str(SETTINGS)}
    found = {"PATH": os.defpath, **os.environ}
    return found | {
        name: os.pathsep.join([first, *filter(None, [found.get(name)])]) for name, first in own.items()
    }


def start(folder: Path, lesson: str, options: Sequence[str] = ()) -> None:
    """Become JupyterLab; on Windows, wait for it."""
    words = command(folder, lesson, options)
    if os.name == "posix":
        os.execve(words[0], words, environment())
    sys.exit(subprocess.call(words, env=environment()))


if __name__ == "__main__":
    print("Starting JupyterLab on work/. Ctrl-C, twice, stops it.", flush=True)
    start(workspace.learners(), notebooks.named("00"), sys.argv[1:])
