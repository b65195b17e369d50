"""Files are written whole or not at all, and nothing is left beside them."""

import os

import pytest

from blocks2tokens import files


@pytest.fixture
def path(tmp_path):
    (tmp_path / "file").write_text("old")
    return tmp_path / "file"


def test_the_old_file_stays_until_the_new_one_is_complete(path):
    with files.replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old" and partial.parent == path.parent
    assert path.read_text() == "new" and os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_after_an_error_the_old_file_is_all_there_is(path, error):
    with pytest.raises(error), files.replacing(path) as partial:
        partial.write_text("half")
        raise error
    assert path.read_text() == "old" and os.listdir(path.parent) == ["file"]


def test_text_that_cannot_be_written_leaves_nothing(path):
    with pytest.raises(UnicodeEncodeError):
        files.write_text(path, "half \ud800")
    assert path.read_text() == "old" and os.listdir(path.parent) == ["file"]


def test_two_that_write_at_once_do_not_meet(path):
    with files.replacing(path) as one, files.replacing(path) as other:
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"  # the last to end


def test_a_name_as_long_as_names_can_be(tmp_path):
    files.write_text(tmp_path / ("é" * 127), "text")
    assert (tmp_path / ("é" * 127)).read_text(encoding="utf-8") == "text"


@pytest.mark.skipif(os.name != "posix", reason="links as POSIX has them")
def test_a_link_stays_a_link(path, tmp_path):
    (tmp_path / "link").symlink_to(path)
    files.write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and path.read_text() == "new"


def test_a_folder_is_not_replaced(tmp_path):
    with pytest.raises(ValueError, match="something else"):
        files.write_text(tmp_path, "text")
