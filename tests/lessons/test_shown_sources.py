"""What a lesson shows of the engine's source is what the engine is now: found without running a lesson."""

import ast
import inspect
import re

import pytest

from blocks2tokens.course.setup import notebooks

SHOWN = re.compile(r"inspect\.getsource\(([\w.]+)\)")


def showing(path):
    """Return (imports above and in it, what it shows, its printed lines) of each cell that shows a source."""
    imports, found = [], []
    for cell in notebooks.read(path).cells:
        if cell.cell_type != "code":
            continue
        lines = (line for line in cell.source.splitlines() if not line.startswith(("%", "!")))
        for node in ast.parse("\n".join(lines)).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                imports.append(ast.unparse(node))
        printed = "".join(output.text for output in cell.outputs if output.output_type == "stream")
        for name in SHOWN.findall(cell.source):
            found.append(("\n".join(imports), name, printed))
    return found


CASES = {
    f"{path.stem}-{name}": (imports, name, printed)
    for path in notebooks.find(notebooks.NOTEBOOKS)
    for imports, name, printed in showing(path)
    if re.search(rf"import [^\n]*\b{name.split('.')[0]}\b", imports)  # not one that the lesson makes
}


@pytest.mark.parametrize("case", CASES)
def test_a_shown_source_is_the_engine_s(case):
    imports, name, printed = CASES[case]
    names = {}
    exec(imports, names)
    assert inspect.getsource(eval(name, names)) in printed


def test_most_lessons_show_some():
    assert len(CASES) >= 40 and len({case.partition("_")[0] for case in CASES}) >= 25
