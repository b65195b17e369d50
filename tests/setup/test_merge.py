"""Merging a lesson that the learner and the course have changed: nothing that the learner wrote is lost."""

import copy
import random

import nbformat
import pytest

from blocks2tokens.course.setup import notebooks
from blocks2tokens.course.setup.merge import merged


def lesson(*cells):
    """Return a notebook of (id, source) pairs; of code, each with an output that repeats the source."""
    made = []
    for name, source in cells:
        cell = nbformat.v4.new_code_cell(source, id=name, execution_count=1)
        cell.outputs = [nbformat.v4.new_output("stream", text=f"out of {source}")]
        made.append(cell)
    return nbformat.v4.new_notebook(cells=made)


def abcd(**changed):
    return [(name, changed.get(name, name.upper())) for name in "abcd"]


def sources(notebook):
    return [cell.source for cell in notebook.cells]


def of_course(*cells):
    return notebooks.clear(lesson(*cells))


GIVEN = abcd()
A, B, C, D = GIVEN
X, Y = ("x", "X"), ("y", "Y")
MERGES = [
    # the learner's, the course's, what comes out, ids of the conflicts
    ("an answer and a new text", abcd(b="mine"), abcd(a="new"), ["new", "mine", "C", "D"], ()),
    ("both changed it alike", abcd(b="same"), abcd(b="same"), ["A", "same", "C", "D"], ()),
    ("both changed it", abcd(b="mine"), abcd(b="new"), ["A", "mine", "C", "D"], ("b",)),
    ("added by the learner", [A, B, X, C, D], abcd(b="new"), ["A", "new", "X", "C", "D"], ()),
    ("at the head", [X, A, B, C, D], abcd(a="new"), ["X", "new", "B", "C", "D"], ()),
    ("added by both", [A, X, B, C, D], [A, Y, B, C, D], list("AXYBCD"), ()),
    ("deleted by the learner", [A, C, D], abcd(a="new"), ["new", "C", "D"], ()),
    ("deleted, and new", [A, C, D], abcd(b="new"), ["A", "new", "C", "D"], ()),
    ("deleted by the course", abcd(a="mine"), [A, C, D], ["mine", "C", "D"], ()),
    ("deleted, but answered", abcd(b="mine"), [A, C, D], ["A", "mine", "C", "D"], ()),
    ("its neighbour is gone", [A, B, X, C, D], [A, C, D], list("AXCD"), ()),
    ("moved by the learner", [B, A, C, D], abcd(d="new"), ["B", "A", "C", "new"], ()),
    ("moved by the course", [A, B, C, D, X], [D, C, B, A], list("DXCBA"), ()),
    ("copied below", [A, B, C, D, ("x", "B again")], abcd(b="new"), ["A", "new", "C", "D", "B again"], ()),
]
CASES = {"argvalues": [merge[1:] for merge in MERGES], "ids": [merge[0] for merge in MERGES]}


@pytest.mark.parametrize(("theirs", "new", "expected", "conflicts"), **CASES)
def test_merges(theirs, new, expected, conflicts):
    result = merged(of_course(*GIVEN), lesson(*theirs), of_course(*new))
    assert (sources(result.notebook), result.conflicts) == (expected, conflicts)
    nbformat.validate(result.notebook)


def test_outputs_are_the_learners_where_the_source_is():
    result = merged(of_course(*GIVEN), lesson(*abcd(b="mine")), of_course(*abcd(a="new"))).notebook
    assert [[o.text for o in cell.outputs] for cell in result.cells] == [
        [], ["out of mine"], ["out of C"], ["out of D"]
    ]  # fmt: skip
    assert [cell.execution_count for cell in result.cells] == [None, 1, 1, 1]


def test_tags_are_the_courses():
    new = of_course(*abcd(a="new"))
    new.cells[2].metadata.tags = ["nbval-ignore-output"]
    result = merged(of_course(*GIVEN), lesson(*abcd(b="mine")), new).notebook
    assert result.cells[2].metadata.tags == ["nbval-ignore-output"]


@pytest.mark.parametrize("spoil", [lambda cell, i: cell.pop("id"), lambda cell, i: cell.update(id="same"),
                                   lambda cell, i: cell.update(id=f"other-{i}")])  # fmt: skip
def test_cells_whose_ids_an_editor_has_lost_are_known_by_their_sources(spoil):
    theirs = lesson(*abcd(b="mine"))
    for i, cell in enumerate(theirs.cells):
        spoil(cell, i)
    result = merged(of_course(*GIVEN), theirs, of_course(*abcd(a="new")))
    assert sources(result.notebook) == ["new", "mine", "C", "D"] and result.conflicts == ()
    nbformat.validate(result.notebook)


def test_the_three_stay_as_they_are():
    three = of_course(*GIVEN), lesson(*abcd(b="mine")), of_course(*abcd(a="new"))
    before = copy.deepcopy(three)
    merged(*three).notebook.cells[0].source = "elsewhere"
    assert three == before


# Properties, on random edits


def edited(cells, rng, whose, n):
    """Return cells after n random edits, of which each that writes something writes it only once."""
    cells = list(cells)
    for i in range(n):
        at = rng.randrange(len(cells) + 1)
        kind = rng.choice(["change", "change", "add", "delete", "move", "copy"])
        if kind == "add" or not cells[at:]:
            cells.insert(at, (f"{whose}-{i}", f"{whose} added {i}\nline {rng.random()}"))
        elif kind == "change":
            cells[at] = (cells[at][0], f"{cells[at][1]}\n{whose} changed {i}")
        elif kind == "delete":
            del cells[at]
        elif kind == "move":
            cells.insert(rng.randrange(len(cells)), cells.pop(at))
        else:
            cells.insert(rng.randrange(len(cells)), (f"{whose}-{i}", cells[at][1]))
    return cells


@pytest.mark.parametrize("seed", range(300))
def test_no_line_that_the_learner_wrote_is_lost(seed):
    rng = random.Random(seed)
    given = [(f"g{i}", f"given {i}") for i in range(rng.randrange(9))]
    theirs = edited(given, rng, "learner", rng.randrange(12))
    new = edited(given, rng, "course", rng.randrange(12))
    result = merged(of_course(*given), lesson(*theirs), of_course(*new))
    cells = sources(result.notebook)
    nbformat.validate(result.notebook)
    for _, source in theirs:
        is_a_copy = source in dict(given).values()  # of a cell that the course may have changed
        assert source in cells or is_a_copy, "written by the learner"
    of_both = [name for name, source in theirs if (name, source) not in given and name in dict(given)]
    expected = {
        n for n in of_both if n in dict(new) and dict(new)[n] not in (dict(given)[n], dict(theirs)[n])
    }
    assert set(result.conflicts) == expected
    for name, source in new:
        assert source in cells or name in expected or (name, source) in given, "written by the course"
        assert source in cells or name in of_both or name not in dict(theirs), (
            "and not touched by the learner"
        )


@pytest.mark.parametrize("seed", range(100))
def test_one_side_alone_comes_through_as_it_is(seed):
    rng = random.Random(seed)
    given = [(f"g{i}", f"given {i}") for i in range(rng.randrange(1, 9))]
    changed = edited(given, rng, "one", 6)
    base = of_course(*given)
    by_learner = merged(base, lesson(*changed), of_course(*given))
    by_course = merged(base, lesson(*given), of_course(*changed))
    assert sources(by_learner.notebook) == sources(by_course.notebook) == [source for _, source in changed]
    assert by_learner.conflicts == by_course.conflicts == ()


@pytest.mark.parametrize("seed", range(100))
def test_merging_again_changes_nothing(seed):
    rng = random.Random(seed)
    given = [(f"g{i}", f"given {i}") for i in range(8)]
    new = of_course(*edited(given, rng, "course", 6))
    once = merged(of_course(*given), lesson(*edited(given, rng, "learner", 6)), new).notebook
    assert sources(merged(new, once, new).notebook) == sources(once)
