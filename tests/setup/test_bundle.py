"""A folder that installs without a network: what it asks pip for, and what it holds."""

import subprocess
import tomllib

import pytest

from blocks2tokens.course.setup import bundle

LOCK = """# a comment
numpy==2.3.0
colorama==0.4.6 ; sys_platform == 'win32'
appnope==1.0 ; sys_platform == 'darwin'
contourpy==1.3 ; python_full_version < '3.12'
contourpy==1.4 ; python_full_version >= '3.12'
xllamacpp==2026.10
"""


@pytest.mark.parametrize(
    ("system", "python", "expected"),
    [
        ("windows", "3.11", ["numpy==2.3.0", "colorama==0.4.6", "contourpy==1.3"]),
        ("macos-arm64", "3.13", ["numpy==2.3.0", "appnope==1.0", "contourpy==1.4"]),
        ("linux-x86_64", "3.12", ["numpy==2.3.0", "contourpy==1.4"]),
    ],
)
def test_a_lock_is_read_for_another_system(system, python, expected):
    assert bundle.requirements(LOCK, system, python) == expected


@pytest.mark.parametrize("system", bundle.SYSTEMS)
@pytest.mark.parametrize("python", bundle.PYTHONS)
def test_the_courses_lock_has_all_for_each_system(system, python):
    lock = (bundle.ROOT / "constraints.txt").read_text()
    names = [line.partition("==")[0] for line in bundle.requirements(lock, system, python)]
    assert len(names) == len(set(names)) > 80
    assert {"numpy", "numba", "jupyterlab", "ipywidgets", "matplotlib", "gguf"} <= set(names)


def test_a_bundle_holds_the_course_and_its_wheels(monkeypatch, tmp_path, capsys):
    asked, run = [], subprocess.run

    def no_network(command, **options):
        if "download" in command:
            asked.append(command)
            (tmp_path / "stick/wheels").mkdir(parents=True, exist_ok=True)
            (tmp_path / "stick/wheels/a.whl").write_bytes(b"x")
            return None
        return run(command, **options)

    monkeypatch.setattr(bundle.subprocess, "run", no_network)
    arguments = [
        "--for",
        "windows",
        "--for",
        "linux-x86_64",
        "--python",
        "3.12",
        "--to",
        str(tmp_path / "stick"),
    ]
    assert bundle.main(arguments) == 0
    assert (tmp_path / "stick/start.py").is_file() and (tmp_path / "stick/data/austen.gguf").is_file()
    platforms = [command[command.index("--platform") + 1] for command in asked]
    assert platforms == ["win_amd64", "manylinux_2_28_x86_64"]
    (builder,) = tomllib.loads((bundle.ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert all("--only-binary=:all:" in command and builder in command for command in asked)
    assert "1 wheels" in capsys.readouterr().out


def test_an_unknown_system_is_said(monkeypatch):
    monkeypatch.setattr(bundle.platform, "machine", lambda: "sparc")
    with pytest.raises(ValueError, match="expected one of linux-x86_64"):
        bundle.here()
