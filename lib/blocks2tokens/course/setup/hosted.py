"""A learner's server on JupyterHub: `Spawner.cmd` of hosting/jupyterhub_config.py.

    the course, installed once  --workspace-->  HOME/blocks2tokens/, around what the learner changed
                                --then------->  jupyterhub-singleuser, in the place of this program

The hub says by the environment where the server listens and what it opens. Where the lessons cannot be
brought up to date, for a full disk say, the server starts all the same, with those that are there.
"""

import os
import sys

from blocks2tokens.course.place import WORK
from blocks2tokens.course.setup import jupyter, workspace


def main(options: list[str]) -> None:
    """Bring the learner's lessons up to date, then become their server."""
    if workspace.main([]) != 0:
        WORK.mkdir(parents=True, exist_ok=True)  # the server starts in it
    # Root it is in containers only.
    command = [sys.executable, "-m", "jupyterhub.singleuser", "--allow-root", *options]
    sys.stdout.flush()
    os.execve(command[0], command, jupyter.environment())


if __name__ == "__main__":
    main(sys.argv[1:])
