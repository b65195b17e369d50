"""Text files as editors and shells write them.

    EF BB BF             UTF-8 with a byte-order mark: Windows' editors
    FF FE, FE FF         UTF-16, either way round: "> file" in Windows PowerShell
    anything else        UTF-8

Lines end in \\n, \\r\\n or \\r, and in \\n once they are read: a model has seen little else.
"""

import codecs
import io
from pathlib import Path

MARK = "\ufeff"  # where it is not at the beginning of a file it is a character as any other
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: str) -> str:
    """Return the text of a file; FileNotFoundError, OSError, and UnicodeDecodeError for what is no text."""
    raw = Path(path).read_bytes()
    encoding = "utf-16" if raw.startswith(UTF_16) else "utf-8-sig"
    return io.StringIO(raw.decode(encoding), newline=None).read()


def without_mark(text: str) -> str:
    """Return what was typed or piped in without the byte-order mark that may stand in front of it."""
    return text.removeprefix(MARK)
