"""Set the course up and start it: the same on Linux, macOS and Windows. `make` calls this, too.

    python start.py lab [OPTION ...]      set up, open JupyterLab on your copy of the lessons
    python start.py test                  set up, then check style, run all tests and all lessons
    python start.py lessons [PATH ...]    run lessons and save their outputs in notebooks/
    python start.py bench                 print the performance tables of this machine
    python start.py setup lab|test        set up alone

    a Python, 3.11 to 3.14 --> .venv --pip--> packages --> models --> what was asked for, by .venv's Python

Any Python 3 can run this file; .venv is made with a supported one, and PYTHON=python3.12 says which. A step
that is broken off is done again by the next run: a stamp in .venv is written last, and holds what was
installed for (pyproject.toml, constraints.txt and this folder's path), so that pip runs only when that
changes.
"""

import os
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.realpath(__file__))
VENV = os.path.join(ROOT, ".venv")
PY = os.path.join(VENV, "Scripts", "python.exe") if os.name == "nt" else os.path.join(VENV, "bin", "python")
SUPPORTED = "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))"
VERSION = 'import sys; print("%d.%d" % sys.version_info[:2])'
CANDIDATES = ["python3", "python3.14", "python3.13", "python3.12", "python3.11", "python"]
HOLDS_LAB = ["lab", "test"]  # what is installed for tests holds all that the lessons need
PROCESSES = min(os.cpu_count() or 1, 4)  # of tests, side by side: each may take two gigabytes


# --- Running ----------------------------------------------------------------------------------------------


def set_environment():
    """Leave out settings of a shell or of pip that would mix other packages in; put .venv first."""
    for name in ("PYTHONPATH", "PYTHONHOME"):
        os.environ.pop(name, None)
    os.environ["PIP_USER"] = "0"
    os.environ["PATH"] = os.path.dirname(PY) + os.pathsep + os.environ.get("PATH", "")
    wheels = os.path.join(ROOT, "wheels")
    if os.path.isdir(wheels):  # made by `make bundle`: everything is here, nothing comes from the network
        os.environ["PIP_NO_INDEX"], os.environ["PIP_FIND_LINKS"] = "1", wheels
    # Idle threads of BLAS sleep after 2^16 cycles, not 2^26: see blocks2tokens/__init__.py.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "16")


def run(*command):
    """Run a command in this folder; return its exit status."""
    return subprocess.call(list(command), cwd=ROOT)


def need(*command):
    """Run a command; end with its exit status if that is not 0."""
    status = run(*command)
    if status:
        sys.exit(status)


def become(*command):
    """Run a command in the place of this program, so that Ctrl-C is its own."""
    os.chdir(ROOT)
    if os.name == "nt":  # there, a program that another takes the place of counts as ended
        try:
            sys.exit(run(*command))
        except KeyboardInterrupt:
            sys.exit(130)
    os.execv(command[0], command)


def answer(python, code):
    """Return what Python prints for a line of code, or None if it fails or is not there."""
    try:
        done = subprocess.run([python, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return None
    return None if done.returncode else done.stdout.decode().strip()


# --- .venv ------------------------------------------------------------------------------------------------


def venv():
    """Make .venv, unless there is one that runs and is of the version that PYTHON asks for."""
    asked = os.environ.get("PYTHON")
    mark = os.path.join(VENV, "incomplete")
    is_right = not asked or answer(asked, VERSION) == answer(PY, VERSION)
    if is_right and not os.path.exists(mark) and answer(PY, "import pip; " + SUPPORTED) is not None:
        return
    own = [] if sys.executable.startswith(VENV) else [sys.executable]
    chosen = choose([asked] if asked else own + CANDIDATES)
    print(f"Making .venv with Python {answer(chosen, VERSION)} ...", flush=True)
    need(chosen, "-m", "venv", "--clear", "--without-pip", VENV)
    open(mark, "w").close()
    need(PY, "-m", "ensurepip", "--default-pip")
    os.remove(mark)
    # The pip that comes with Python may be too old to show how far it has got; a newer one is not needed.
    run(PY, "-m", "pip", "install", "--disable-pip-version-check", "--retries", "1", "--upgrade", "pip>=25.1")


def choose(candidates):
    """Return the first Python that is supported and can make environments; end with advice if none is."""
    bare = None
    for python in candidates:
        if answer(python, SUPPORTED) is None:
            continue
        if answer(python, "import venv, ensurepip") is not None:
            return python
        bare = bare or python
    if bare:
        sys.exit(
            f"{bare} has no venv or no ensurepip, so it cannot set up an environment.\n"
            "On Debian and Ubuntu they are in a package of their own:\n"
            f"    sudo apt install python{answer(bare, VERSION)}-venv"
        )
    found = sorted({version for version in (answer(python, VERSION) for python in candidates) if version})
    sys.exit(
        f"Python 3.11 to 3.14 is needed; found: {', '.join(found) or 'none'}.\n"
        "Install one (https://www.python.org/downloads), or name one that you have:\n"
        f"    {named('python3.12', 'lab')}"
    )


def named(python, command):
    """Return the line that does a command with another Python, for the shell at hand."""
    if os.name == "nt":
        return f"set PYTHON={python} && python start.py {command}"
    return f"PYTHON={python} make {command}"


# --- What is installed ------------------------------------------------------------------------------------


def install(extra, stamps):
    """Install this folder with an extra, unless one of the stamps holds; the first one is written then."""
    wanted = stamp()
    if any(read(os.path.join(VENV, name + ".stamp")) == wanted for name in stamps):
        return
    print("Installing into .venv. The first time takes some minutes ...", flush=True)
    pip = [PY, "-m", "pip", "install", "--disable-pip-version-check", "--prefer-binary"]
    if run(*pip, "-c", "constraints.txt", "-e", f".[{extra}]"):
        sys.exit(
            "\nInstalling failed; pip's reason stands above. Without a network: connect and run this again.\n"
            "Where a package does not build, another Python may have it ready: " + named("python3.12", "lab")
        )
    with open(os.path.join(VENV, stamps[0] + ".stamp"), "w", encoding="utf-8") as file:
        file.write(wanted)


def stamp():
    """Return what an installation was made for: this folder's path, and what it asks for."""
    files = [os.path.join(ROOT, name) for name in ("pyproject.toml", "constraints.txt")]
    return "\n".join([ROOT, *(read(path) or "" for path in files)])


def read(path):
    """Return the text of a file, or None."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return None


def setup(what):
    """Have .venv and packages for the lessons, "lab", or for all tests, "test"."""
    venv()
    if what == "lab":
        install("course", HOLDS_LAB)
    else:
        install("test", ["test"])


def model():
    """Have SmolLM2, which the lessons on transformers need."""
    need(PY, os.path.join("data", "fetch_smollm2.py"))


# --- Commands ---------------------------------------------------------------------------------------------


def lab(options):
    """Set up, copy new lessons to work/ (keeping what you changed), open JupyterLab there."""
    setup("lab")
    model()
    need(PY, "-m", "blocks2tokens.course.setup.workspace")
    need(PY, "-m", "blocks2tokens.course.setup.warm_up")
    become(PY, "-m", "blocks2tokens.course.setup.jupyter", *options)


def test(options):
    """Set up, then check style, run all tests and all lessons; say at the end what passed."""
    setup("test")
    model()
    need(PY, "-m", "blocks2tokens.course.setup.warm_up")
    several = ["-n", str(PROCESSES), "--dist"]
    nbval = ["--nbval", "--nbval-current-env", "--nbval-cell-timeout=600", "notebooks"]
    steps = {
        "lint": ["ruff", "check", "."],
        "format": ["ruff", "format", "--check", "."],
        "tests": ["pytest", *several, "worksteal", "--doctest-modules", "lib", "tests"],
        "lessons": ["pytest", *several, "loadfile", *nbval],
    }
    summary, failed = [], False
    for name, command in steps.items():
        if name == "lessons":  # lines of progress show only where a cell is slow; outputs are to be equal
            os.environ["TQDM_DISABLE"] = "1"
        print(f"\n== {name}: {' '.join(command)}", flush=True)
        start, bad = time.time(), run(PY, "-m", *command) != 0
        failed |= bad
        result = "FAILED" if bad else "passed"
        summary.append(f"  {name:8} {result}  {time.time() - start:.0f} s")
    print("\n== summary\n" + "\n".join(summary), flush=True)
    sys.exit(1 if failed else 0)


def lessons(paths):
    """Run lessons and save their outputs in notebooks/: all of them, or those named."""
    setup("test")
    model()
    become(PY, "-m", "blocks2tokens.course.setup.notebooks", *paths)


def bench(options):
    """Print the performance tables of this machine."""
    setup("test")
    model()
    become(PY, "-m", "blocks2tokens.benchmarks", *options)


def main(arguments):
    """Do what the first argument says; without one, say what there is."""
    commands = {"lab": lab, "test": test, "lessons": lessons, "bench": bench, "setup": None}
    name, options = (arguments[0], arguments[1:]) if arguments else ("", [])
    if name not in commands or (name == "setup" and options not in (["lab"], ["test"])):
        print(__doc__.split("\n\n")[1])
        sys.exit(0 if name in ("", "help", "-h", "--help") else 2)
    set_environment()
    if name == "setup":
        setup(options[0])
    else:
        commands[name](options)


if __name__ == "__main__":
    main(sys.argv[1:])
