"""A lesson that both the learner and the course have changed: three versions in, one out, cell by cell.

    given     as it was given out         a  b  c  d
    theirs    the learner's               a  b' x  c         b answered, x added, d deleted
    new       the course's                a' b  e  c  d      a rewritten, e added
                                          ----------------
    merged                                a' b' x  e  c

    a cell is           changed by nobody or by the course      the course's, with the learner's outputs while
                                                                the source is the same
                        changed or added by the learner         the learner's, as it is
                        changed by both, each otherwise         the learner's; its id is among the conflicts
                        deleted by the learner                  gone, but back if the course has changed it
                        deleted by the course                   gone, but kept if the learner has changed it

Cells are told by their ids, and where an editor has lost these, by equal sources. The learner's order holds,
unless the course has moved cells; what one side added comes behind the neighbour that it had. A cell is
taken whole: lines of two versions put together could be an answer that nobody wrote. (So nbdime, which merges
within a cell, is not used.)
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass

from nbformat import NotebookNode
from nbformat.corpus.words import generate_corpus_id


@dataclass(frozen=True)
class Merged:
    """The merged lesson, and the ids of the cells that both have changed, each in its own way."""

    notebook: NotebookNode
    conflicts: tuple[str, ...]


def merged(given: NotebookNode, theirs: NotebookNode, new: NotebookNode) -> Merged:
    """Merge what the learner and the course have made of a lesson; the three stay as they are."""
    given_cells, new_cells = _by_id(given.cells), _by_id(new.cells)
    their_cells = _by_id(theirs.cells, like=given_cells)
    kept, conflicts = {}, []
    for name in {**new_cells, **their_cells}:
        cell, both = _one(given_cells.get(name), their_cells.get(name), new_cells.get(name))
        if cell is not None:
            kept[name] = cell
        if both:
            conflicts.append(name)
    order = _order(list(given_cells), list(their_cells), list(new_cells), kept)
    notebook = copy.deepcopy(new)
    notebook.cells = [_with_id(kept[name], name) for name in order]
    return Merged(notebook, tuple(conflicts))


def _by_id(cells: Iterable[NotebookNode], like: dict[str, NotebookNode] | None = None) -> dict:
    """Return {id: cell} in order.

    A cell without a known id gets that of an equal cell of `like`, if it is free; else it keeps its own, or
    gets a new one where that is taken or missing.
    """
    found, like = {}, like or {}
    own = {name for cell in cells if isinstance(name := cell.get("id"), str)}
    free: dict[tuple, list[str]] = {}
    for name, cell in like.items():
        if name not in own:
            free.setdefault(_content(cell), []).append(name)
    for cell in cells:
        name = cell.get("id") if isinstance(cell.get("id"), str) else None
        if name not in like or name in found:
            equal = free.get(_content(cell))
            name = equal.pop(0) if equal else name
        while name is None or name in found:
            name = generate_corpus_id()
        found[name] = cell
    return found


def _content(cell):
    return cell.cell_type, cell.source


def _is_same(a, b):
    return a is not None and b is not None and _content(a) == _content(b)


def _one(given, theirs, new):
    """Return the cell to keep of three versions, None for none, and whether two changes contradict."""
    if theirs is None:
        return (None if _is_same(given, new) else new), False
    if _is_same(theirs, new):
        return _with_outputs(new, theirs), False
    if _is_same(theirs, given):
        return new, False
    return theirs, new is not None and not _is_same(given, new)


def _with_outputs(cell, ran):
    """Return a cell with the outputs of one that has the same source."""
    if cell.cell_type != "code":
        return cell
    cell = copy.deepcopy(cell)
    cell.outputs, cell.execution_count = ran.get("outputs", []), ran.get("execution_count")
    return cell


def _order(given, theirs, new, kept):
    """Return the ids of the kept cells in the order of one side, with what only the other has put in."""
    common = set(given) & set(theirs) & set(new)
    moved = [name for name in given if name in common] != [name for name in new if name in common]
    first, second = (new, theirs) if moved else (theirs, new)
    order = [name for name in first if name in kept]
    for i, name in enumerate(second):
        if name in kept and name not in order:
            before = next((order.index(n) for n in reversed(second[:i]) if n in order), -1)
            after = before + 1
            while after < len(order) and second is new and order[after] not in (*given, *new):
                after += 1  # what the learner has added follows its neighbour at once
            order.insert(after, name)
    return order


def _with_id(cell, name):
    cell = copy.deepcopy(cell)
    cell["id"] = name
    return cell
