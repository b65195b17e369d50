"""Cells of a lesson as a learner leaves them: a shown solution in the place of the stub.

cell with a stub, solution  --paste-->  cell
cells, names                --needed-->  those statements that give the names, and what these need
a lesson                    --answered-->  all that it takes to answer its exercises, cell by cell
"""

import ast
import hashlib
import inspect
import json
import linecache
import re
import symtable
import textwrap
from functools import cache
from pathlib import Path

from blocks2tokens.course import check


@cache
def code_cells(path: Path) -> list[str]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def shown(exercise) -> str:
    """Return the source that the card shows as the solution."""
    solution = exercise.solution or exercise.engine
    return textwrap.dedent(inspect.getsource(getattr(solution, "py_func", solution)))


def paste(cell: str, solution: str, name: str) -> str:
    """Put a solution in the place of the function that the cell leaves open."""
    stub = next(node for node in ast.parse(cell).body if getattr(node, "name", None) == name)
    lines = cell.splitlines()
    return "\n".join([*lines[: stub.lineno - 1], solution, *lines[stub.end_lineno :]])


def used(source: str) -> set[str]:
    """Return the names that a piece of code takes from around it."""

    def globals_of(table):
        own = {s.get_name() for s in table.get_symbols() if s.is_global() or table.get_type() == "module"}
        return own.union(*map(globals_of, table.get_children()))

    return globals_of(symtable.symtable(source, "cell", "exec"))


def bound(node: ast.AST) -> set[str]:
    """Return the names that a statement gives a value, or a part of one."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    stored = [n for n in ast.walk(node) if isinstance(getattr(n, "ctx", None), ast.Store)]
    places = [n.value if isinstance(n, ast.Subscript | ast.Attribute) else n for n in stored]
    return {n.id for n in places if isinstance(n, ast.Name)}


def statements(cells: list[str]) -> list[ast.stmt]:
    """Return the statements of cells, without the lines that only IPython reads."""
    lines = ((line for line in cell.splitlines() if not line.startswith(("%", "!"))) for cell in cells)
    return [statement for cell in lines for statement in ast.parse("\n".join(cell)).body]


def needed(cells: list[str], wanted: set[str]) -> list[str]:
    """Return those statements of the cells that the wanted names depend on, in order."""
    kept, wanted = [], set(wanted)
    for node in reversed(statements(cells)):
        names = bound(node)
        if names & wanted:
            source = ast.unparse(node)
            kept.append(source)
            wanted |= used(source)
    return kept[::-1]


ASKED = re.compile(r"^\w+ = check\.(\w+)\(\s*(\w+)\s*\)$", re.MULTILINE)


def answered(path: Path) -> list[str]:
    """Return what a learner runs of a lesson: each exercise's cell with its solution, and what these need."""
    kept, wanted = [], set()
    for cell in reversed(code_cells(path)):
        if asked := ASKED.search(cell):
            kept.append(paste(cell, shown(check.EXERCISES[asked[1]]), asked[2]))
            wanted |= used(kept[-1])
            continue
        for node in reversed(statements([cell])):
            if bound(node) & wanted:
                kept.append(ast.unparse(node))
                wanted |= used(kept[-1])
    return kept[::-1]


def run_cell(source: str, names: dict) -> None:
    """Run a cell as a notebook does: what it defines is of `__main__`, and its source is found again."""
    name = f"<cell {hashlib.sha256(source.encode()).hexdigest()[:12]}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    names.setdefault("__name__", "__main__")
    exec(compile(source, name, "exec"), names)
