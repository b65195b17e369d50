"""A capstone file at work: its stubs filled, its functions its own.

    def rms_norm(x, weight, eps):        a piece, and nothing but a stub:
        return ...                       the learner's function of lesson 19, or the engine's, stands here

    def rms_norm(x, weight, eps):        written: it stays
        return x / ...

A file runs statement by statement, so that what a stub is filled with is there for the next one. For a
function that is lent, `product` and the other pieces are the file's, as if it had been written there.
"""

import ast
import linecache
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType

from blocks2tokens.course import check, collected
from blocks2tokens.course.capstone import rules
from blocks2tokens.course.collected.sources import plain

STARTER = Path(__file__).with_name("starter.py")
OF_LESSON = {  # piece: the lesson that built it
    "read_string": "07",
    "read_value": "07",
    "align": "07",
    "read_header": "33",
    "decode_q8_0": "01",
    "decode_q4_0": "01",
    "decode_q4_1": "02",
    "dequantize_q4_k": "03",
    "dequantize_q6_k": "05",
    "decode_rows": "33",
    "rms_norm": "19",
    "rope_angles": "19",
    "rotate_adjacent": "19",
    "swiglu": "19",
    "causal_weights": "20",
    "self_attention": "33",
    "layer_forward": "21",
    "forward_pass": "33",
    "speak": "33",
    "bpe": "18",
}
SHARED = ("product", *OF_LESSON)  # names that a lent function finds in the file
WRITTEN, PASSED, LENT = "yours", "yours, from its lesson", "the engine's"


class NoEngineError(ValueError):
    """A file cannot be run; says where and why."""


@dataclass(frozen=True)
class Built:
    """A file that has run: its module, and whose each piece is, {piece: WRITTEN, PASSED or LENT}."""

    module: ModuleType
    whose: Mapping[str, str]


def stubs(text: str) -> list[str]:
    """Return the pieces of a file that are nothing but a stub; SyntaxError if it is no Python.

    >>> stubs("def bpe(parts, ranks):\\n    return ...")
    ['bpe']
    """
    return [node.name for node in ast.parse(text).body if _is_stub(node)]


def _is_stub(node):
    if not isinstance(node, ast.FunctionDef) or node.name not in OF_LESSON:
        return False
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return all(_says_nothing(statement) for statement in body)


def _says_nothing(statement):
    value = getattr(statement, "value", None)
    is_expression = isinstance(statement, ast.Expr | ast.Return)
    ellipsis = isinstance(value, ast.Constant) and value.value in (..., None)
    return isinstance(statement, ast.Pass) or (is_expression and (value is None or ellipsis))


def mine(piece: str) -> Callable | None:
    """Return the function that the learner passed in a piece's lesson, if there is one."""
    return collected.find(piece).function


def engines(piece: str) -> Callable:
    """Return the engine's function for a piece."""
    return check.EXERCISES[piece].engine


def build(path: Path, passed: Callable[[str], Callable | None] = mine) -> Built:
    """Run a capstone file; `passed` finds what the learner has. Raises NoEngineError, or what it raises.

    A file that ends Python, or takes too long, is the caller's to stop.
    """
    text = path.read_text(encoding="utf-8")
    try:
        body, empty = ast.parse(text).body, stubs(text)
    except (SyntaxError, ValueError) as error:
        raise NoEngineError(f"it is no Python: {rules.said(error)}") from None
    module, lent = ModuleType(path.stem), {}
    module.__file__ = str(path)
    linecache.cache[str(path)] = len(text), None, text.splitlines(keepends=True), str(path)
    whose = {}
    for node in body:
        _run(node, path, module)
        name = getattr(node, "name", None)
        if name in OF_LESSON and isinstance(node, ast.FunctionDef):
            whose[name] = WRITTEN
            if name in empty:
                function = passed(name)
                whose[name] = PASSED if function else LENT
                lent[name] = module.__dict__[name] = _renewed(function or engines(name))
    shared = {name: module.__dict__[name] for name in SHARED if name in module.__dict__}
    for function in lent.values():
        if isinstance(function, FunctionType):
            function.__globals__.update(shared)
    if not callable(getattr(module, "load", None)):
        raise NoEngineError("it has no function load(path)")
    return Built(module, whose)


def _run(node, path, module):
    try:
        exec(compile(ast.Module([node], []), str(path), "exec", dont_inherit=True), module.__dict__)
    except Exception as error:
        raise NoEngineError(f"line {node.lineno}: {type(error).__name__}: {error}") from None


def _renewed(function):
    """Return a plain function with names of its own, which may be changed; a compiled one as it is."""
    inner = plain(function)
    if not isinstance(inner, FunctionType) or inner is not function:
        return function
    new = FunctionType(
        inner.__code__, dict(inner.__globals__), inner.__name__, inner.__defaults__, inner.__closure__
    )
    new.__kwdefaults__ = inner.__kwdefaults__
    return new
