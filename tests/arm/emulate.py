"""Run the kernels' tests as ARM code on an x86-64 machine: Debian's Python for arm64, under QEMU.

    .arm/system/root     python3 and the libraries that it and Numba need, from the distribution's packages
    .arm/system/site     NumPy, Numba, pytest and the rest, as wheels for AArch64
    .arm/compiled/HASH   what Numba compiled of these sources; with others it starts anew
    .arm/cache           the tables of kernels' times, pytest's cache, HOME and temporary files

    make test-arm                                      TESTS
    make test-arm ARGS="tests/engine/test_formats.py -x"      others, with options for pytest
    BLOCKS2TOKENS_SIMD=neon make test-arm              one of SETTINGS

The emulator runs one program of another CPU as a process of this machine: system calls, files and threads are
the real ones. LLVM cannot tell there which CPU it is on; whether it has `sdot` and `smmla` the engine asks
Linux, as on a real one. Nothing is installed and nobody has to be root. Times under emulation say nothing
about any CPU.
"""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from contextlib import nullcontext
from itertools import chain
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
ARM = REPOSITORY / ".arm"
SYSTEM, COMPILED, CACHE = ARM / "system", ARM / "compiled", ARM / "cache"

SETTINGS = ("BLOCKS2TOKENS_SIMD", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES")

# Two groups that run side by side: most of the time goes into compiling, which takes one core.
DECODING = "tests/engine/test_transformer.py::test_decoding_is_right_with_every_instruction_set"
TESTS = [
    [
        "tests/engine/test_panels.py::test_products_are_those_of_float64",
        "tests/engine/test_panels.py::test_the_largest_codes_do_not_pass_16_bits",
        "tests/engine/test_panels.py::test_nan_and_infinity_stay_in_their_row",
    ],
    [
        "tests/engine/test_transformer.py::test_rounding_activations_changes_logits_a_little[Q8_0]",
        *(f"{DECODING}[neon-{model}]" for model in ("Q8_0", "K-quants")),
    ],
]
PACKAGES = ["python3", "libgomp1", "libstdc++6"]  # and what they depend on, which apt-get knows
WHEELS = [
    "numpy",
    "numba",
    "packaging",
    "psutil",
    "threadpoolctl",
    "tqdm",
    "tokenizers",
    "jinja2",
    "gguf",
    "pytest",
]

# Ubuntu keeps arm64 apart from what it has for PCs.
UBUNTU = "deb [signed-by=/usr/share/keyrings/ubuntu-archive-keyring.gpg] http://ports.ubuntu.com/ubuntu-ports"

# All of ARM's instructions but SVE, whose vectors OpenBLAS would choose: QEMU is slow with them.
QEMU_CPU = "max,sve=off"


def main():
    qemu, wanted = emulator(), stamp()
    if not SYSTEM.exists() or (SYSTEM / "stamp").read_text() != wanted:
        prepare(wanted)
    sys.exit(run_all(qemu, [sys.argv[1:]] if sys.argv[1:] else TESTS))


def emulator() -> str:
    """Return the path of QEMU; end with a sentence that says what to install where a program is missing."""
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        sys.exit("make test-arm needs apt-get and dpkg: run it on Debian 12, Ubuntu 24.04 or newer.")
    qemu = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if not qemu:
        sys.exit("make test-arm needs qemu-aarch64-static: sudo apt install qemu-user-static")
    return qemu


# --- What is needed ---------------------------------------------------------------------------------------


def requirements() -> list[str]:
    """Return WHEELS with the bounds that pyproject.toml gives them."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    everything = chain(project["dependencies"], *project["optional-dependencies"].values())
    bounds = {re.match(r"[\w-]+", requirement)[0]: requirement for requirement in everything}
    return [bounds[name] for name in WHEELS]


def stamp() -> str:
    """Return what .arm/system is made from; it is made again when that changes, or when the folder moves."""
    release = platform.freedesktop_os_release()
    lines = [str(SYSTEM), f"{release['ID']} {release.get('VERSION_CODENAME')}", *PACKAGES, *requirements()]
    return "\n".join(lines) + "\n"


def prepare(wanted: str):
    """Make .arm/system, under another name until it is whole."""
    partial = ARM / "system.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    print("Preparing .arm: about 120 MB to download, once ...", flush=True)
    try:
        unpack_packages(partial)
        install_wheels(partial)
    except subprocess.CalledProcessError as error:
        sys.exit(f"Preparing .arm failed at {error.cmd[0]}, whose reason stands above.")
    (partial / "stamp").write_text(wanted)
    shutil.rmtree(SYSTEM, ignore_errors=True)
    partial.rename(SYSTEM)


def unpack_packages(folder: Path):
    """Download PACKAGES and what they need for arm64, and unpack them to folder/root.

    apt-get is told of a system where nothing is installed and all that it keeps is in folder/apt.
    """
    apt, root = folder / "apt", folder / "root"
    for name in ("lists/partial", "archives/partial"):
        (apt / name).mkdir(parents=True)
    (apt / "status").touch()
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "",
        "Dir::State": apt,
        "Dir::State::Lists": apt / "lists",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt,
        "Dir::Cache::archives": apt / "archives",
    }
    release = platform.freedesktop_os_release()
    if release["ID"] == "ubuntu":
        name = release["VERSION_CODENAME"]
        pockets = (name, f"{name}-updates", f"{name}-security")
        (apt / "sources.list").write_text("".join(f"{UBUNTU} {pocket} main universe\n" for pocket in pockets))
        options |= {"Dir::Etc::sourcelist": apt / "sources.list", "Dir::Etc::sourceparts": "/dev/null"}
    apt_get = ["apt-get", "-q", *(f"-o{key}={value}" for key, value in options.items())]
    subprocess.run([*apt_get, "update"], check=True)
    install = ["install", "--yes", "--no-install-recommends", "--download-only"]
    subprocess.run([*apt_get, *install, *PACKAGES], check=True)
    for package in sorted((apt / "archives").glob("*.deb")):
        subprocess.run(["dpkg", "-x", package, root], check=True)
    if not (root / "lib").exists():  # newer packages leave this link to one that we have no use for
        (root / "lib").symlink_to("usr/lib")
    shutil.rmtree(apt)


def install_wheels(folder: Path):
    """Install WHEELS and what they need, for the Python of folder/root, into folder/site."""
    version = (folder / "root/usr/bin/python3").readlink().name.removeprefix("python")
    if tuple(map(int, version.split("."))) < (3, 11):
        sys.exit(f"make test-arm needs Debian 12, Ubuntu 24.04 or newer: here python3 is {version}.")
    glibc = [f"--platform=manylinux_2_{minor}_aarch64" for minor in range(17, 35)]
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-compile"]
    kind = ["--only-binary=:all:", f"--python-version={version}", "--platform=manylinux2014_aarch64", *glibc]
    subprocess.run([*pip, *kind, f"--target={folder / 'site'}", *requirements()], check=True)


# --- The tests --------------------------------------------------------------------------------------------


def run_all(qemu: str, groups: list[list[str]]) -> int:
    """Run pytest with each group of arguments, all at once; return the highest exit status.

    The first prints as it goes; what the others print follows when they have ended.
    """
    compiled = folders(len(groups))
    reports = [None, *(CACHE / f"report-{i}.txt" for i in range(1, len(groups)))]
    runs = [start_pytest(qemu, *run) for run in zip(groups, compiled, reports, strict=True)]
    status = 0
    for run, report in zip(runs, reports, strict=True):
        if report:
            print("\nWaiting for the tests beside these ...", flush=True)
        status = max(status, run.wait())
        if report:
            print(report.read_text())
    return status


def start_pytest(qemu: str, arguments: list[str], compiled: Path, report: Path | None) -> subprocess.Popen:
    """Start pytest under the emulator in the repository's folder; it prints to `report`, or here."""
    root = SYSTEM / "root"
    emulated = [qemu, "-cpu", QEMU_CPU, "-L", root, root / "usr/bin/python3"]
    pytest = ["-m", "pytest", "-v", "--tb=short", "--durations=10", "-o", f"cache_dir={CACHE / 'pytest'}"]
    command, variables = [*emulated, *pytest, "-p", "quick_autotune", *arguments], environment(compiled)
    with report.open("w") if report else nullcontext() as output:
        return subprocess.Popen(command, cwd=REPOSITORY, env=variables, stdout=output)


def environment(compiled: Path) -> dict[str, str]:
    """Return the variables of the emulated process, which then writes into .arm alone."""
    home, temporary = CACHE / "home", CACHE / "tmp"
    for folder in (home, temporary):
        folder.mkdir(parents=True, exist_ok=True)
    paths = [SYSTEM / "site", REPOSITORY / "lib", Path(__file__).parent]
    variables = {
        **{name: os.environ[name] for name in SETTINGS if name in os.environ},
        "BLOCKS2TOKENS_CACHE": CACHE / "kernels",
        "NUMBA_CACHE_DIR": compiled,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "PYTHONPYCACHEPREFIX": CACHE / "bytecode",
        "PYTHONUNBUFFERED": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "HOME": home,
        "TMPDIR": temporary,
        "LANG": "C.UTF-8",
        "PATH": os.defpath,
    }
    return {name: str(value) for name, value in variables.items()}


def folders(n: int) -> list[Path]:
    """Return n folders for compiled functions of the sources as they are; remove those of others.

    Numba looks at a function's own file only, not at those that it calls; and it takes no care that two
    processes do not write under one name.
    """
    digest = hashlib.sha256()
    for folder in ("lib", "tests"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    chosen = COMPILED / digest.hexdigest()[:12]
    for folder in COMPILED.glob("*"):
        if folder != chosen:
            shutil.rmtree(folder)
    made = [chosen / str(i) for i in range(n)]
    for folder in made:
        folder.mkdir(parents=True, exist_ok=True)
    return made


if __name__ == "__main__":
    main()
