"""The rules of a capstone file: at most 300 lines, nothing imported that does the work.

A line counts if there is code in it: not blank lines, comments and docstrings. What a stub is filled with is
counted in its own lesson. Imported may be the standard library without what starts processes or goes to the
network, and NumPy, Numba, llvmlite (Numba's own, for vector instructions), and `tokenizers`, for one thing:
cutting a text into words takes Unicode's tables. Merging them is the file's.
"""

import ast
import io
import sys
import tokenize
from pathlib import Path

MOST_LINES = 300
ALLOWED = {"numpy", "numba", "llvmlite", "tokenizers"}
REFUSED = {"asyncio", "ctypes", "http", "importlib", "multiprocessing", "os", "runpy", "shutil", "signal"}
REFUSED |= {"builtins", "gc", "pkgutil"}  # by which a module is had without an import
REFUSED |= {"smtplib", "socket", "socketserver", "subprocess", "sys", "urllib", "xmlrpc"}
BY_NAME = {"__import__", "compile", "eval", "exec"}
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
NO_CODE |= {tokenize.ENCODING, tokenize.ENDMARKER}


def code_lines(text: str) -> int:
    """Return the lines of a file that hold code; SyntaxError if it is no Python.

    >>> code_lines('"A docstring."\\n\\nx = 1  # one\\n# none\\n')
    1
    """
    found, tree = set(), ast.parse(text)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            found.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
            found -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(found)


def imports(text: str) -> list[str]:
    """Return the modules that a file imports, each once, and what else would import one."""
    found: dict[str, None] = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0]: None for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found[(node.module or ".").partition(".")[0] if not node.level else "."] = None
        elif isinstance(node, ast.Name) and node.id in BY_NAME:
            found[node.id] = None
    return list(found)


def broken(path: Path) -> list[str]:
    """Return a line for each rule that a file breaks."""
    try:
        text = path.read_text(encoding="utf-8")
        lines, names = code_lines(text), imports(text)
    except (SyntaxError, ValueError, tokenize.TokenError, RecursionError) as error:
        return [f"it is no Python: {said(error)}"]
    problems = [f"{lines} lines of code, at most {MOST_LINES}"] if lines > MOST_LINES else []
    refused = [name for name in names if not _is_allowed(name)]
    if refused:
        problems.append(
            f"it may not use {', '.join(refused)}: NumPy, Numba, tokenizers and the standard library, "
            "without what starts processes or hides an import"
        )
    return problems


def said(error: Exception) -> str:
    """Return what is wrong with a text that is no Python, with its line where that is known.

    >>> said(SyntaxError("'(' was never closed", ("", 3, 1, "")))
    "line 3: '(' was never closed"
    """
    lineno = getattr(error, "lineno", None)
    return f"line {lineno}: {error.msg}" if lineno else str(error)


def _is_allowed(name):
    return name in ALLOWED or (name in sys.stdlib_module_names and name not in REFUSED)
