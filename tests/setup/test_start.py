"""start.py: the way in for all systems, which make calls too."""

import importlib.util
import json
import os
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def start(monkeypatch, tmp_path):
    """The script's names, in a folder of its own, with the commands that it would have run."""
    names = runpy.run_path(str(ROOT / "start.py"))
    functions = names["run"].__globals__
    (tmp_path / "pyproject.toml").write_text("one")
    (tmp_path / ".venv").mkdir()
    ran = []
    changed = {
        "ROOT": str(tmp_path),
        "VENV": str(tmp_path / ".venv"),
        "PY": "venv's",
        "run": lambda *command: ran.append(command) or 0,
    }
    for name, value in changed.items():
        monkeypatch.setitem(functions, name, value)
    monkeypatch.setitem(functions, "become", lambda *command: ran.append(command))
    for name in ("PATH", "PIP_USER", "PYTHON", "PYTHONPATH", "PYTHONHOME", "TQDM_DISABLE"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setenv("PYTHON", "")
    return SimpleNamespace(names=functions, ran=ran, folder=tmp_path, patch=monkeypatch)


def pythons(start, **known):
    """Let there be these: name = version, or (version, "bare") where it cannot make environments."""

    def answer(python, code):
        version = known.get(python)
        bare = isinstance(version, tuple)
        version = version[0] if bare else version
        if version is None or (bare and "ensurepip" in code):
            return None
        if code == start.names["VERSION"]:
            return version
        supported = (3, 11) <= tuple(map(int, version.split("."))) < (3, 15)
        return "" if supported or "sys.exit" not in code else None

    start.patch.setitem(start.names, "answer", answer)


def test_it_asks_for_the_same_pythons_as_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", project["requires-python"]).groups()
    text = (ROOT / "start.py").read_text()
    assert f"(3, {low}) <= sys.version_info[:2] < (3, {high})" in text
    assert f"Python 3.{low} to 3.{int(high) - 1} is needed" in text


def test_the_first_python_that_can_is_chosen(start):
    pythons(start, old="3.9", bare=("3.12", "bare"), good="3.13", better="3.14")
    assert start.names["choose"](["none", "old", "bare", "good", "better"]) == "good"


def test_a_python_without_venv_is_told_what_it_lacks(start):
    pythons(start, old="3.9", bare=("3.12", "bare"))
    with pytest.raises(SystemExit, match=r"sudo apt install python3\.12-venv"):
        start.names["choose"](["old", "bare"])


def test_without_a_python_that_will_do_those_that_are_there_are_named(start):
    pythons(start, old="3.9", older="3.8")
    with pytest.raises(SystemExit, match=r"needed; found: 3\.8, 3\.9"):
        start.names["choose"](["old", "older", "none"])


@pytest.mark.parametrize(
    ("asked", "has", "made_with"),
    [("", "3.12", None), ("other", "3.12", "other"), ("same", "3.12", None), ("", None, "python3")],
)
def test_an_environment_is_kept_unless_another_python_is_asked_for(start, asked, has, made_with):
    start.patch.setenv("PYTHON", asked)
    start.patch.setitem(start.names, "CANDIDATES", ["python3"])
    start.patch.setattr(sys, "executable", str(start.folder / ".venv" / "bin" / "python"))
    pythons(start, other="3.13", same="3.12", python3="3.11", **({"venv's": has} if has else {}))
    start.names["venv"]()
    made = [command[0] for command in start.ran if command[1:3] == ("-m", "venv")]
    assert made == ([made_with] if made_with else [])
    assert not (start.folder / ".venv" / "incomplete").exists()


def test_an_environment_that_was_broken_off_is_made_again(start):
    pythons(start, python3="3.12", **{"venv's": "3.12"})
    start.patch.setattr(sys, "executable", "python3")
    (start.folder / ".venv" / "incomplete").touch()
    start.names["venv"]()
    assert start.ran[0][:3] == ("python3", "-m", "venv")


def test_packages_are_installed_once_and_again_when_what_is_asked_for_changes(start):
    start.patch.setitem(start.names, "venv", lambda: None)

    def installed(what):
        start.ran.clear()
        start.names["setup"](what)
        return [command[-1] for command in start.ran]

    assert installed("lab") == [".[course]"] and installed("lab") == []
    assert installed("test") == [".[test]"] and installed("test") == []
    for name in ("pyproject.toml", "constraints.txt"):
        (start.folder / name).write_text("two")
        assert installed("test") == [".[test]"]
        assert start.ran[0][-4:-2] == ("-c", "constraints.txt")
    assert installed("lab") == []  # tests need all that the lessons need


def test_what_could_not_be_installed_is_not_called_installed(start):
    start.patch.setitem(start.names, "run", lambda *command: 1)
    with pytest.raises(SystemExit, match="Installing failed"):
        start.names["install"]("course", ["lab"])
    assert not list((start.folder / ".venv").iterdir())


def test_lab_ends_in_jupyterlab_with_the_options_given(start):
    start.patch.setitem(start.names, "setup", lambda what: start.ran.append(("setup", what)))
    start.names["main"](["lab", "--no-browser", "--port=9"])
    assert start.ran[0] == ("setup", "lab")
    assert start.ran[-1][:3] == ("venv's", "-m", "blocks2tokens.course.setup.jupyter")
    assert start.ran[-1][-2:] == ("--no-browser", "--port=9")
    assert {"PYTHONPATH", "PYTHONHOME"}.isdisjoint(os.environ) and os.environ["PIP_USER"] == "0"


@pytest.mark.parametrize("failing", [None, "ruff", "pytest"])
def test_every_step_of_test_runs_and_one_failure_is_enough(start, capsys, failing):
    start.patch.setitem(start.names, "setup", lambda what: None)

    def run(*command):
        start.ran.append(command)
        return int(failing in command)

    start.patch.setitem(start.names, "run", run)
    with pytest.raises(SystemExit) as ended:
        start.names["main"](["test"])
    assert ended.value.code == (1 if failing else 0)
    assert [command[2] for command in start.ran[-4:]] == ["ruff", "ruff", "pytest", "pytest"]
    summary = capsys.readouterr().out.partition("== summary")[2]
    assert summary.count("FAILED") == (2 if failing else 0) and summary.count("passed") == 4 - 2 * bool(
        failing
    )


@pytest.mark.parametrize(("arguments", "code"), [([], 0), (["--help"], 0), (["lap"], 2), (["setup"], 2)])
def test_what_it_does_not_know_it_answers_with_what_it_does(arguments, code):
    command = [sys.executable, str(ROOT / "start.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code and "python start.py lab" in done.stdout


def test_make_calls_it():
    shown = subprocess.run(["make", "-n", "lab", "ARGS=--x"], cwd=ROOT, capture_output=True, text=True)
    assert "start.py lab --x" in shown.stdout


# Where others host the course


def test_hosts_call_what_is_there():
    """Their files cannot be run here as their hosts run them; what they name exists."""
    build = (ROOT / "postBuild").read_text()
    assert os.access(ROOT / "postBuild", os.X_OK)
    for module in re.findall(r"python -m (\S+)", build):
        assert importlib.util.find_spec(module), module
    for script in re.findall(r"python (data/\S+)", build):
        assert (ROOT / script).is_file()
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    image = (ROOT / "Dockerfile").read_text()
    for command in (container["postCreateCommand"], container["postAttachCommand"]):
        assert command.split()[1:3] in (["start.py", "setup"], ["start.py", "lab"])
    assert '"start.py", "lab"' in image and "start.py setup lab" in image


def test_wheels_beside_it_are_taken_and_nothing_else(start, tmp_path, monkeypatch):
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    start.names["set_environment"]()
    assert "PIP_NO_INDEX" not in os.environ
    (tmp_path / "wheels").mkdir()
    start.names["set_environment"]()
    assert os.environ["PIP_NO_INDEX"] == "1" and os.environ["PIP_FIND_LINKS"] == str(tmp_path / "wheels")
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name)
