"""A folder for a USB stick, from which the course installs without a network: `make bundle`.

    make bundle                                           for this system and Python
    make bundle ARGS="--for windows --for macos-arm64 --python 3.12 --python 3.13"

    files that git knows          -> bundle/
    data/models/ SmolLM2          -> bundle/data/models/
    constraints.txt, line by line -> is it for that system and Python? -> pip download -> bundle/wheels/

Who has the folder copies it to the laptop and runs `python start.py lab` there, as always: start.py finds
wheels/ beside it, and pip looks nowhere else. Wheels of several systems lie side by side; pip takes its own.
"""

import argparse
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from blocks2tokens.course.setup import notebooks

ROOT = notebooks.ROOT
SYSTEMS = {  # name: (what pip calls it, what the markers of requirements ask)
    "linux-x86_64": (
        ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "linux_x86_64"),
        {
            "sys_platform": "linux",
            "platform_system": "Linux",
            "platform_machine": "x86_64",
            "os_name": "posix",
        },
    ),
    "linux-aarch64": (
        ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64"),
        {
            "sys_platform": "linux",
            "platform_system": "Linux",
            "platform_machine": "aarch64",
            "os_name": "posix",
        },
    ),
    "macos-arm64": (
        ("macosx_14_0_arm64", "macosx_12_0_arm64", "macosx_11_0_arm64", "macosx_11_0_universal2"),
        {
            "sys_platform": "darwin",
            "platform_system": "Darwin",
            "platform_machine": "arm64",
            "os_name": "posix",
        },
    ),
    "windows": (
        ("win_amd64",),
        {"sys_platform": "win32", "platform_system": "Windows", "platform_machine": "AMD64", "os_name": "nt"},
    ),
}
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
BUILDING = ("pip", "setuptools>=77,<90", "wheel")  # what an installation of this folder itself needs
TESTS_ONLY = ("llguidance", "xllamacpp", "openai", "playwright", "ruff", "pytest-xdist", "mpi4py", "mpich")
MODEL = Path("data/models/SmolLM2-135M-Instruct.Q4_1.gguf")


def here() -> tuple[str, str]:
    """Return this system's name in SYSTEMS and its Python, such as "3.12"; ValueError if it is unknown."""
    for name, (_, asked) in SYSTEMS.items():
        if asked["sys_platform"] == sys.platform and asked["platform_machine"] == platform.machine():
            return name, ".".join(map(str, sys.version_info[:2]))
    raise ValueError(f"system: expected one of {', '.join(SYSTEMS)} after --for; this is another one")


def requirements(lock: str, system: str, python: str, micro: int = 9) -> list[str]:
    """Return the lines of a lock that a system and a Python need, as `name==version`.

    A few ask for the third number of the Python: `micro`.
    """
    environment = {**default_environment(), **SYSTEMS[system][1]}
    environment |= {"python_version": python, "python_full_version": f"{python}.{micro}"}
    found = []
    for line in lock.splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            needed = requirement.marker is None or requirement.marker.evaluate(environment)
            if needed and canonicalize_name(requirement.name) not in TESTS_ONLY:
                found.append(f"{requirement.name}{requirement.specifier}")
    return found


def download(folder: Path, system: str, python: str) -> None:
    """Download the wheels that a system and a Python need; CalledProcessError where one is missing."""
    lock = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    late, early = (requirements(lock, system, python, micro) for micro in (9, 0))
    for micro, wanted in ((9, [*late, *BUILDING]), (0, sorted(set(early) - set(late)))):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder)]
        command += ["--python-version", f"{python}.{micro}"]
        for name in SYSTEMS[system][0]:
            command += ["--platform", name]
        if wanted:
            subprocess.run([*command, *wanted], check=True)


def copy_course(target: Path) -> None:
    """Copy the files that git knows, and the chat model, to `target`."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    if (ROOT / MODEL).is_file():
        (target / MODEL).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / MODEL, target / MODEL)


def make(target: Path, systems: Iterable[str], pythons: Iterable[str]) -> None:
    """Fill `target` for these systems and Pythons."""
    copy_course(target)
    for system in systems:
        for python in pythons:
            print(f"wheels for {system}, Python {python} ...", flush=True)
            download(target / "wheels", system, python)


def main(arguments: list[str] | None = None) -> int:
    """Make the bundle and say what is in it."""
    parser = argparse.ArgumentParser(prog="make bundle, or python -m blocks2tokens.course.setup.bundle")
    parser.add_argument(
        "--for", dest="systems", action="append", choices=SYSTEMS, help="several times: for each"
    )
    parser.add_argument("--python", dest="pythons", action="append", choices=PYTHONS, help="likewise")
    parser.add_argument("--to", type=Path, default=ROOT / "bundle", help="the folder (default: bundle/)")
    args = parser.parse_args(arguments)
    system, python = (None, None) if args.systems and args.pythons else here()
    make(args.to, args.systems or [system], args.pythons or [python])
    wheels = list((args.to / "wheels").glob("*.whl"))
    size = sum(path.stat().st_size for path in args.to.rglob("*") if path.is_file())
    print(f"{args.to}: {len(wheels)} wheels, {size / 1e6:,.0f} MB in all. On the laptop: python start.py lab")
    return 0


if __name__ == "__main__":
    sys.exit(main())
