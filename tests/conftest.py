"""Models and oracles that tests need. Where one is absent, the test is skipped; with CI=true it fails."""

import importlib
import os
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config) -> None:
    """Keep what is measured of this machine apart from what its user's programs do; let Ctrl-C interrupt."""
    os.environ.setdefault("BLOCKS2TOKENS_CACHE", str(config.cache.mkdir("kernels")))
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # what a shell starts in the background ignores it


def absent(what: str, remedy: str) -> None:
    """Skip the test, or fail it where CI is true: there, nothing may be missing unseen."""
    message = f"{what} is absent; {remedy}"
    if os.environ.get("CI", "").lower() in {"1", "true", "yes"}:
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def existing(path: Path, remedy: str) -> Path:
    if not path.is_file():
        absent(str(path.relative_to(ROOT)), remedy)
    return path


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The real chat model, Q4_1, that set-up downloads."""
    path = ROOT / "data" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    return existing(path, "python data/fetch_smollm2.py gets it")


@pytest.fixture(scope="session")
def austen_path() -> Path:
    """The small model that comes with the course."""
    return existing(ROOT / "data" / "austen.gguf", "it comes with the course: git checkout data/austen.gguf")


@pytest.fixture
def exact(monkeypatch):
    """Let products take float32 activations, as the definition does, and not 8-bit ones."""
    from blocks2tokens import KERNELS, kernels

    monkeypatch.setattr(kernels, "candidates", lambda fmt: {"fused_rows": KERNELS["fused_rows"]})


@pytest.fixture(scope="session")
def xllamacpp():
    """llama.cpp as a Python module, the oracle for whole models."""
    try:
        return importlib.import_module("xllamacpp")
    except ImportError as error:
        absent(f"xllamacpp ({error})", 'pip install -e ".[test]" installs it')
