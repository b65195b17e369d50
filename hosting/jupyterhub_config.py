"""JupyterHub for a class: the course installed once, read-only, and a folder of their own for each learner.

    python3 -m venv /opt/blocks2tokens                               as root, in the course's folder
    /opt/blocks2tokens/bin/pip install ".[course]" -r hosting/requirements.txt
    /opt/blocks2tokens/bin/python /opt/blocks2tokens/share/blocks2tokens/data/fetch_smollm2.py
    /opt/blocks2tokens/bin/python -m blocks2tokens.course.setup.warm_up
    /opt/blocks2tokens/bin/jupyterhub -f hosting/jupyterhub_config.py

    /opt/blocks2tokens    packages, lessons, both models, compiled kernels: shared by all
    ~/blocks2tokens       a learner's lessons, answers, progress and engine; updated when their server starts

To update: pip install and warm_up again; a server that starts then has the new lessons, around the changes.

A repository of the class, for data or notices, comes by nbgitpuller, which keeps a learner's lines too:

    https://HUB/hub/user-redirect/git-pull?repo=https%3A//example.org/class&branch=main&urlpath=lab/tree/class

It puts the repository beside the lessons, in ~/blocks2tokens.
"""

import sys
from pathlib import Path

c = get_config()  # noqa: F821

# Who may come in: whoever has an account on this machine. For other ways, GitHub's say, see JupyterHub's
# authenticators.
c.Authenticator.allow_all = True

# Reached by this machine alone. For others to reach it, put a proxy with TLS in front, or set ssl_key and
# ssl_cert.
c.JupyterHub.bind_url = "http://127.0.0.1:8000"
c.ConfigurableHTTPProxy.command = [str(Path(sys.prefix, "bin", "configurable-http-proxy"))]

c.Spawner.cmd = [sys.executable, "-m", "blocks2tokens.course.setup.hosted"]
c.Spawner.notebook_dir = "~/blocks2tokens"
c.Spawner.default_url = "/lab/tree/00_start_here.ipynb"
c.Spawner.start_timeout = 120  # seconds; the first start copies the lessons
c.Spawner.environment = {
    # A class shares the cores: so many threads each. Without the line, each takes all of them.
    "BLOCKS2TOKENS_THREADS": "2",
    # "BLOCKS2TOKENS_SOLUTIONS": "0",
}
