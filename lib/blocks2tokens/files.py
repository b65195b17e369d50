"""Files that are written whole or not at all: at each moment all of the old one is there, or of the new.

    path  --links followed-->  place      written as 0123456789abcdef.partial, in the same folder
                               place  <--  takes its name at the end, or is removed

The name beside it is random: others may be writing too; and short: that of the file may be as long as a name
can be.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def place_of(path: Path, what: str = "path") -> Path:
    """Return where the file is, or will be, that `path` names: a link leads to what it names.

    Raises, of `what`, ValueError where there is something that is no file, and FileNotFoundError where there
    is no folder.
    """
    if path.exists() and not path.is_file():  # a folder, a pipe, /dev/stdout
        raise ValueError(f"{what}: expected a file's name, {path} is something else")
    place = Path(os.path.realpath(path))
    if place.is_symlink():
        raise ValueError(f"{what}: expected a file's name, {path} is a link that leads nowhere")
    if not place.parent.is_dir():
        raise FileNotFoundError(f"{place.parent if path.is_symlink() else path.parent}: no such folder")
    return place


@contextmanager
def replacing(path: Path, what: str = "path") -> Iterator[Path]:
    """Yield a name to write to; at the end that file takes the place of the one that `path` names.

    After an error or an interrupt it does not, and is gone. Raises as `place_of`; an OSError without a file's
    name, or with that of the partial file, names `path`.
    """
    place = place_of(path, what)
    partial = place.with_name(f"{secrets.token_hex(8)}.partial")
    try:
        yield partial
        os.replace(partial, place)
    except OSError as error:
        if error.errno and error.filename in (None, str(partial), partial):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all; raises as `place_of`, and OSError."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
