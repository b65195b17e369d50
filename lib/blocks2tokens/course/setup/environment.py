"""Is everything installed and in place? Plain messages, one a line, each with its remedy."""

import importlib.metadata
import platform
import shutil
import sys

import psutil
from packaging.requirements import Requirement

from blocks2tokens.course import models

NEEDED_MEMORY = 4e9  # bytes; lesson 00 takes less, the largest lessons about this
NEEDED_DISK = 1e9


def report() -> None:
    """Print what was checked; lines that begin with [!!] say what to do."""
    for ok, message in [*_python(), *_packages(), *_models(), *_resources()]:
        print("[ok]" if ok else "[!!]", message)


def _python():
    yield sys.version_info >= (3, 11), f"Python {platform.python_version()} on {platform.system()}"


def _packages():
    """Compare each installed package with the versions that this course was tested with."""
    found = []
    for line in importlib.metadata.requires("blocks2tokens") or []:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": "course"}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield False, f"{requirement.name} is missing: run `make lab` again"
            continue
        if requirement.specifier.contains(version, prereleases=True):
            found.append(f"{requirement.name} {version}")
        else:
            yield False, f"{requirement.name} {version}: the course was tested with {requirement.specifier}"
    yield True, f"{len(found)} packages: {', '.join(found)}"


def _models():
    for name, find in {"Austen": models.austen, "SmolLM2": models.smollm2}.items():
        try:
            path = find()
            yield True, f"{name}: {path.name}, {path.stat().st_size / 1e6:.0f} MB"
        except FileNotFoundError as missing:
            yield False, f"{name}: {missing}. The lessons go on with the models that are here."


def _resources():
    memory, disk = psutil.virtual_memory().available, shutil.disk_usage(models.DATA).free
    yield (
        memory >= NEEDED_MEMORY,
        f"{memory / 1e9:.0f} GB of memory free, {NEEDED_MEMORY / 1e9:.0f} are enough",
    )
    yield disk >= NEEDED_DISK, f"{disk / 1e9:.0f} GB of disk free, {NEEDED_DISK / 1e9:.0f} is enough"
