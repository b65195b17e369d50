"""Data flows one way, jit -> formats -> matrix -> kernels -> model -> generate, and imports follow it."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "lib" / "blocks2tokens"
TOP = "blocks2tokens"  # the package itself: what a learner imports

# layer: the layers below it that it may import. A module or folder directly in the package is a layer.
LAYERS = {
    "errors": set(),
    "files": set(),
    "stops": set(),
    "jit": {"errors"},
    "formats": {"errors", "jit"},
    "gguf_file": {"errors", "formats"},
    "gguf_writer": {"formats"},
    "matrix": {"errors", "formats"},
    "kernels": {"errors", "files", "jit", "formats", "matrix"},
    "tokenizer": {"errors", "gguf_file"},
    "model": {"errors", "jit", "formats", "gguf_file", "matrix", "kernels"},
    "sampler": {"errors", "model"},
    "speculate": {"model", "sampler", "tokenizer"},
    "session_file": {"errors", "files", "gguf_file"},
    "session": {"errors", "gguf_file", "model", "tokenizer", "sampler", "stops", "session_file"},
}
LAYERS |= {"generate": set(LAYERS)}
LAYERS |= {"serving": {"jit", "model", "sampler", "stops", "tokenizer", "generate", "grammar", "session"}}
LAYERS |= {"quality": {"generate", "perplexity"}}
LAYERS |= {"tied": {"formats", "generate", "importance", "kernels", "matrix", "model", "quality"}}
LAYERS |= {"encoder": {"formats", "gguf_file", "generate", "importance", "tied"}}
LAYERS |= {"mix": {"files", "formats", "gguf_file", "generate", "importance", "model", "quality", "sampler"}}
LAYERS["mix"] |= {"kernels", "tied"}
LAYERS |= {
    "convert": {"errors", "files", "formats", "gguf_file", "gguf_writer", "generate"}
    | {"encoder", "importance", "mix"}
}
LAYERS |= {"importance": {"errors", "files", "formats", "gguf_file", "kernels", "generate"}}
LAYERS |= {"perplexity": {"errors", "generate"}, "grammar": {"errors", "sampler", "tokenizer"}}
LAYERS |= {"prune": {"errors", "files", "convert", "formats", "gguf_file", "gguf_writer", "importance"}}
LAYERS["prune"] |= {"generate", "model"}
LAYERS |= {"parallel": {"errors", "files", "convert", "kernels", "matrix", "model", "generate", "sampler"}}
LAYERS["parallel"] |= {"perplexity", "quality"}
LAYERS = {"jit": set()} | {name: {*below, "jit"} for name, below in LAYERS.items()}
ENGINE = set(LAYERS)
LAYERS |= {TOP: ENGINE, "course": {*ENGINE, TOP}, "benchmarks": {*ENGINE, TOP, "course"}}
LAYERS |= {"command_line": {*ENGINE, TOP, "course"}, "__main__": {"command_line"}}


def dotted(path):
    """Return the module's full name as a list: lib/blocks2tokens/a/b.py -> ["blocks2tokens", "a", "b"]."""
    return [TOP, *path.relative_to(PACKAGE).with_suffix("").parts]


def layer_of(parts):
    """Return the layer of a full name; a name that is no layer is something of the package itself."""
    return parts[1] if len(parts) > 1 and parts[1] != "__init__" else TOP


def imported(source, module):
    """Yield the full name of all that `source`, the text of `module`, imports from the package."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*module[: -node.level], node.module or ""] if node.level else [node.module]
            names = [".".join([*filter(None, base), alias.name]) for alias in node.names]
        else:
            continue
        yield from (name.split(".") for name in names if name.split(".")[0] == TOP)


def violations(source, module):
    """Return one line for each import that goes against the flow."""
    own = layer_of(module)
    if own not in LAYERS:
        return [f"{'.'.join(module)} is in no layer: give it a row in tests/engine/test_layering.py"]
    found = []
    for name in imported(source, module):
        layer = layer_of(name) if layer_of(name) in LAYERS else TOP
        if layer != own and layer not in LAYERS[own]:
            found.append(f"{'.'.join(module)} ({own}) imports {'.'.join(name)} ({layer})")
    return found


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_follow_the_data(path):
    assert violations(path.read_text(encoding="utf-8"), dotted(path)) == []


@pytest.mark.parametrize("path", sorted((PACKAGE / "course").glob("*.py")), ids=lambda path: path.name)
def test_what_lessons_share_imports_no_lesson(path):
    names = imported(path.read_text(encoding="utf-8"), dotted(path))
    assert [name for name in names if name[1:3] == ["course", "lessons"]] == []


@pytest.mark.parametrize("path", sorted((PACKAGE / "command_line").glob("*.py")), ids=lambda path: path.name)
def test_of_the_command_line_only_b2t_course_imports_the_course_and_only_when_it_runs(path):
    source = path.read_text(encoding="utf-8")
    at_once = ast.unparse(
        ast.Module([n for n in ast.parse(source).body if not isinstance(n, ast.FunctionDef)], [])
    )
    names = imported(at_once if path.name == "course.py" else source, dotted(path))
    assert [name for name in names if name[1:2] == ["course"]] == []


def test_the_package_was_found():
    assert PACKAGE / "formats" / "__init__.py" in MODULES


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("formats.q4_k", "from blocks2tokens.matrix import QuantizedMatrix"),
        ("formats.q4_k", "from ..kernels import baseline"),
        ("formats.q4_k", "def f():\n    import blocks2tokens.model.attention"),
        ("formats.__init__", "from ..matrix import QuantizedMatrix"),
        ("gguf_file", "from .tokenizer import Tokenizer"),
        ("kernels.baseline", "from blocks2tokens import model"),
        ("kernels.baseline", "from blocks2tokens import FORMATS"),
        ("kernels.baseline", "import blocks2tokens as b2t"),
        ("model.transformer", "from blocks2tokens.generate import generate"),
        ("__init__", "from blocks2tokens.course import check"),
        ("generate", "from blocks2tokens.command_line.notice import say"),
        ("generate", "from blocks2tokens.benchmarks import llama_cpp"),
        ("course.roofline", "from blocks2tokens.benchmarks import llama_cpp"),
        ("somewhere_new", ""),
    ],
)
def test_a_violation_is_caught(module, source):
    assert len(violations(source, [TOP, *module.split(".")])) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "formats.q4_k",
            "import numpy as np\nfrom blocks2tokens.formats import compiled\nfrom . import q5_k",
        ),
        ("formats.__init__", "from .q4_k import Q4_K"),
        ("model.transformer", "from blocks2tokens import kernels\nfrom ..matrix import QuantizedMatrix"),
        ("__init__", "from blocks2tokens.errors import GGUFError\nfrom .generate import load"),
        (
            "course.check",
            "import blocks2tokens as b2t\nfrom blocks2tokens import FORMATS\nfrom . import plot",
        ),
    ],
)
def test_the_flow_is_allowed(module, source):
    assert violations(source, [TOP, *module.split(".")]) == []
