"""A lesson's file of the learner's functions: statements, some of them marked as an exercise's answer.

    \"\"\"Yours: ... \"\"\"                                                 written anew each time
    import numpy as np                                              what the functions need
    SIZE = 32
    # --- check.dequantize_q4_k(dequantize): right ---              this function answers this exercise
    def dequantize(blocks): ...

The file is the learner's: what was added or changed by hand stays, but for a function that is answered
again. Statements run one by one, so that a broken one does not take the others with it.
"""

import ast
import contextlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from blocks2tokens import files
from blocks2tokens.course.check.calls import Printed
from blocks2tokens.course.collected.sources import names_used

OPENING = '''"""Yours: the functions of lesson {lesson} that a check called right, and what they need.

In Python, with work/ on the path: import my_engine.{lesson}
In a lesson: my_engine.speak, my_engine.load and my_engine.forward use what stands here. You may change this
file; a function that is answered again replaces the one before.
"""'''
MARK = "# --- check.{exercise}({name}): right ---"
MARKED = re.compile(r"^# --- check\.(\w+)\((\w+)\): right ---$", re.MULTILINE)


@dataclass(frozen=True)
class Statement:
    """A statement with the comments above it, and the names that it binds."""

    source: str
    names: frozenset[str]
    is_import: bool = False


def statement(source: str) -> Statement:
    """Return one statement with what it binds; SyntaxError if it is none."""
    (node,) = ast.parse(source).body
    return Statement(
        source.strip("\n"), frozenset(_bound(node)), isinstance(node, ast.Import | ast.ImportFrom)
    )


def _bound(node):
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def statements(text: str) -> list[Statement]:
    """Return the statements of a file, each with the comments above it; SyntaxError if it has an error."""
    lines, found, end = text.splitlines(), [], 0
    for node in ast.parse(text).body:
        start = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) - 1
        shares_a_line = start < end or _goes_on(lines[node.end_lineno - 1], node)
        own = [ast.unparse(node)] if shares_a_line else lines[start : node.end_lineno]
        source = "\n".join([*_comments(lines[end:start]), *own])
        found.append(statement(source))
        end = node.end_lineno
    rest = _comments(lines[end:])
    if rest:
        found.append(Statement("\n".join(rest), frozenset()))
    return found[1:] if found and found[0].source.startswith('"""Yours: ') else found


def compiled_as(part: Statement, other: Statement, also_if_changed: bool = False) -> Statement | None:
    """Return a function with the @njit of another one, if that is compiled and this one is not, else None.

    The two must be equal otherwise, unless it is said that the function has changed.
    """
    node, (model,) = _only_node(part), ast.parse(other.source).body
    decorators = [line for line in map(ast.unparse, _decorators(model)) if line.startswith("njit")]
    if not isinstance(node, ast.FunctionDef) or not decorators or "njit" in map(_called, _decorators(node)):
        return None
    if not also_if_changed:
        if not isinstance(model, ast.FunctionDef):
            return None
        model.decorator_list = [d for d in model.decorator_list if _called(d) != "njit"]
        if ast.dump(model) != ast.dump(node):
            return None
    lines, at = part.source.splitlines(), node.lineno - 1  # the line with `def`, below what else decorates it
    return statement("\n".join([*lines[:at], f"@{decorators[0]}", *lines[at:]]))


def _only_node(part):
    body = ast.parse(part.source).body
    return body[0] if len(body) == 1 else None


def _decorators(node):
    """Return what compiles or decorates a function: def below @..., or name = njit(...)(function)."""
    if isinstance(node, ast.FunctionDef):
        return node.decorator_list
    is_call = isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
    return [node.value.func] if is_call else []


def _called(decorator):
    return ast.unparse(decorator).partition("(")[0]


def _goes_on(line, node):
    """Does another statement follow on the line?"""
    return line.encode()[node.end_col_offset :].lstrip().startswith(b";")


def _comments(lines):
    return [line for line in lines if line.strip()]


def exercises(parts: Iterable[Statement]) -> dict[str, str]:
    """Return {exercise: name of the function that answers it}."""
    return dict(mark for part in parts for mark in MARKED.findall(part.source))


def written(lesson: str, parts: list[Statement]) -> str:
    """Return the text of a file: imports first, everything in an order in which it can run."""
    imports = sorted({part.source for part in parts if part.is_import}, key=_import_order)
    engine = [line for line in imports if "blocks2tokens" in line]
    blocks = ["\n".join(line for line in imports if line not in engine), "\n".join(engine)]
    rest = [part.source for part in in_order([part for part in parts if not part.is_import])]
    head = "\n\n".join(block for block in [OPENING.format(lesson=lesson), *blocks] if block)
    return "\n\n\n".join([head, *rest]) + "\n"


def _import_order(line):
    return line.startswith("from"), line


def in_order(parts: list[Statement]) -> list[Statement]:
    """Return statements so that what runs at once, as a decorator does, finds what it needs above it."""
    by_name = {name: part for part in parts for name in part.names}
    done: list[Statement] = []
    under_way: set[int] = set()

    def put(part):
        if id(part) in under_way:
            return
        under_way.add(id(part))
        for name in sorted(_needed_at_once(part.source)):
            if name in by_name:
                put(by_name[name])
        done.append(part)

    for part in parts:
        put(part)
    return done


def _needed_at_once(source):
    """Return the names that a statement looks up when it runs, not later, within a function's body."""
    tree = ast.parse(source)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            node.body = [ast.Pass()]
    return names_used(ast.unparse(tree))


def run(text: str, path: Path) -> tuple[dict[str, object], list[str]]:
    """Run a file's statements; return what they define, and a line for each that failed.

    Raises SyntaxError if the text is no Python. What it prints is not shown; exit() ends nothing.
    """
    namespace, complaints = {"__name__": f"my_engine.{path.stem}", "__file__": str(path)}, []
    quiet = Printed()
    for node in ast.parse(text).body:
        try:
            with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
                exec(compile(ast.Module([node], []), str(path), "exec", dont_inherit=True), namespace)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # exit(), too
            complaints.append(f"line {node.lineno}: {type(error).__name__}: {error}")
    return namespace, complaints


def functions(text: str, path: Path) -> tuple[dict[str, Callable], list[str]]:
    """Return {exercise: function} of a file, and a line for each statement that failed; else as `run`."""
    namespace, complaints = run(text, path)
    answers = {exercise: namespace.get(name) for exercise, name in MARKED.findall(text)}
    return {exercise: answer for exercise, answer in answers.items() if callable(answer)}, complaints


def save(text: str, path: Path) -> None:
    """Write a file so that at each moment it holds all of the old text or all of the new; OSError."""
    path.parent.mkdir(exist_ok=True)
    files.write_text(path, text)
