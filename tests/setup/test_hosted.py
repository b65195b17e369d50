"""A learner's server on a hub: what is there when it starts. tests/hosting has the hub itself."""

import pytest

from blocks2tokens.course.setup import hosted, jupyter, notebooks, workspace


@pytest.fixture
def started(monkeypatch, tmp_path):
    """Return a function that starts all but the server: (its command, its environment, the folder)."""
    folder = tmp_path / "home/blocks2tokens"
    for module in (hosted, workspace):
        monkeypatch.setattr(module, "WORK", folder)

    def start(*options):
        became = []
        monkeypatch.setattr(hosted.os, "execve", lambda *arguments: became.append(arguments))
        hosted.main(list(options))
        ((_, command, environment),) = became
        return command, environment, folder

    return start


def test_a_server_starts_with_the_lessons_and_without_news(started):
    command, environment, folder = started("--debug")
    assert command[1:] == ["-m", "jupyterhub.singleuser", "--allow-root", "--debug"]
    assert str(jupyter.SETTINGS) in environment["JUPYTER_CONFIG_PATH"]
    assert len(notebooks.find(folder)) == len(notebooks.find(notebooks.NOTEBOOKS))
    assert (folder / workspace.MANIFEST).is_file()


def test_it_starts_where_the_lessons_cannot_be_brought_up_to_date(started, monkeypatch, capsys):
    monkeypatch.setattr(workspace, "sync", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    command, _, folder = started()
    assert command and folder.is_dir()
    assert "not up to date" in capsys.readouterr().out
