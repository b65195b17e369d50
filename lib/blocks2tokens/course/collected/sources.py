"""What a function needs: its own source, and each name of the notebook that it uses, as a statement.

    function  --its source-->  global names  --their values-->  one statement for each
        np          a module                  import numpy as np
        read_half   something of a module     from blocks2tokens.formats.compiled import read_half
        fmt         a format of the engine    fmt = FORMATS["Q4_K"]
        SIZE        a plain value             SIZE = 32
        unpack      a learner's function      def unpack(...): and so on, with what that one needs
                    compiled by a call        ... below @njit
                    typed by its check        ... below @check.<exercise>.typed
        rows        the engine's, compiled    rows = njit(check.row_range.engine)

A statement comes behind those that it needs. What cannot be written down so raises NotWritable: a function
made within another one, a generator of random numbers, a matrix.
"""

import ast
import inspect
import linecache
import pprint
import re
import symtable
import sys
import textwrap
from collections.abc import Callable
from types import FunctionType, ModuleType

import numpy as np

from blocks2tokens import FORMATS, KERNELS

MOST_NUMBERS = 1024  # in an array that is written down
NOTEBOOK = "__main__"  # the module of what a notebook defines
REGISTRIES = {"FORMATS": FORMATS, "KERNELS": KERNELS}
WHY_TYPED = "# @...typed: the answers are right; this gives them the types that the lesson goes on with"
PLAIN_OPTIONS = {"nopython": True, "boundscheck": None}  # what njit sets without being asked


class NotWritable(Exception):
    """Something that no statement can make again; says what and why."""


def is_learners(function: object) -> bool:
    """Was this function written in the notebook?"""
    inner = plain(function)
    return isinstance(inner, FunctionType) and inner.__module__ == NOTEBOOK


def plain(function: object) -> object:
    """Return the Python function within a compiled or wrapped one."""
    while (inner := _within(function)) is not None:
        function = inner
    return function


def _within(function):
    """Return what was compiled or wrapped, or None; asks no `__getattr__`, which might answer for ever."""
    inner = inspect.getattr_static(function, "py_func", None)
    return inner or inspect.getattr_static(function, "__wrapped__", None)


def needed(function: Callable, engines: dict[str, object]) -> tuple[str, dict[str, str]]:
    """Return the function's name, and {name: statement}: the function last, before it what it needs.

    `engines` maps exercises to the engine's functions, which a check gives back in the place of a wrong one.
    Raises NotWritable.
    """
    name = _own_name(plain(function))
    search = _Search(engines, plain(function).__globals__)
    search.add_function(name, function)
    return name, search.found


def names_used(source: str) -> set[str]:
    """Return the names that a statement takes from around it."""

    def global_names(table):
        is_module = table.get_type() == "module"
        own = {s.get_name() for s in table.get_symbols() if is_module or s.is_global()}
        return own.union(*map(global_names, table.get_children()))

    return global_names(symtable.symtable(source, "statement", "exec"))


class _Search:
    """Collects statements, depth first."""

    def __init__(self, engines, namespace):
        self.engines, self.namespace = engines, namespace
        self.found, self.seen = {}, set()

    def add(self, name, value, user):
        """Add what makes `value`, which `user`, the source of a function, knows as `name`."""
        if name in self.seen:
            return
        self.seen.add(name)
        if is_learners(value):
            self.add_function(name, value)
        elif inspect.isclass(value) and value.__module__ == NOTEBOOK:
            self._add_source(name, value, "")
        else:
            self.found[name] = self._statement(name, value, user)

    def add_function(self, name, function):
        inner = plain(function)
        self.seen.add(name)
        if inner.__code__.co_freevars:
            raise NotWritable(f"{name} is made within another function")
        self._add_source(name, inner, self._decorators(function))

    def _decorators(self, function):
        """Return the lines that make a function again what a call made of it."""
        lines = []
        while (inner := _within(function)) is not None:
            if exercise := getattr(function, "typed_by", None):
                self.found.setdefault("check", "from blocks2tokens.course import check")
                lines.append(f"{WHY_TYPED}\n@check.{exercise}.typed\n")
            elif hasattr(function, "targetoptions") and "@" not in _source(plain(function)).split("def ")[0]:
                self.found.setdefault("njit", "from numba import njit")
                lines.append(_njit(function.targetoptions))
            function = inner
        return "".join(lines)

    def _add_source(self, name, value, decorators):
        source = renamed(_source(value), name)
        for used in sorted(names_used(source) - {name}):
            if used in self.namespace:
                self.add(used, self.namespace[used], source)
        self.found[name] = decorators + source

    def _statement(self, name, value, user):
        if isinstance(value, ModuleType):
            return _import_of_module(name, value, user)
        for registry, members in REGISTRIES.items():
            if key := next((key for key, member in members.items() if member is value), None):
                self.found.setdefault(registry, f"from blocks2tokens import {registry}")
                return f'{name} = {registry}["{key}"]'
        if (text := _literal(value)) is not None:
            if "np." in text:
                self.found.setdefault("np", "import numpy as np")
            return f"{name} = {text}"
        if text := _import_of_part(name, value):
            return text
        if key := next((key for key, engine in self.engines.items() if engine is value), None):
            self.found.setdefault("check", "from blocks2tokens.course import check")
            return f"{name} = check.{key}.engine"
        if hasattr(value, "targetoptions") and (text := self._compiled_engine(value)):
            return f"{name} = {text}"
        if (text := _array(value)) is not None:
            self.found.setdefault("np", "import numpy as np")
            return f"{name} = {text}"
        raise NotWritable(f"it uses {name}, {_described(value)}")

    def _compiled_engine(self, value):
        """Return an expression for an engine's function that the notebook has compiled, or None."""
        inner = plain(value)
        key = next((key for key, engine in self.engines.items() if plain(engine) is inner), None)
        if key is None:
            return None
        self.found.setdefault("check", "from blocks2tokens.course import check")
        self.found.setdefault("njit", "from numba import njit")
        return f"{_njit(value.targetoptions).strip()[1:]}(check.{key}.engine)"


def _own_name(function):
    """Return the name that a function was defined under; a lambda's is in the statement around it."""
    if function.__name__.isidentifier():
        return function.__name__
    return _node(_source(function)).targets[0].id


def _source(value):
    """Return the statement that defines a function or a class; NotWritable if there is no such one."""
    try:
        lines = _class_lines(value) if inspect.isclass(value) else inspect.getsource(value)
    except (OSError, TypeError, SyntaxError, IndexError):
        raise NotWritable(f"the source of {value.__name__} is not to be found") from None
    source = textwrap.dedent(lines).rstrip() + "\n"
    _node(source)
    return source


def _class_lines(value):
    """Return the lines of a class of a notebook, where its methods were found; OSError if it has none."""
    methods = (method for method in vars(value).values() if isinstance(method, FunctionType))
    for cell in {method.__code__.co_filename for method in methods}:
        lines = linecache.getlines(cell)
        for node in ast.parse("".join(lines)).body:
            if isinstance(node, ast.ClassDef) and node.name == value.__name__:
                start = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                return "".join(lines[start - 1 : node.end_lineno])
    raise OSError


def _node(source):
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError):
        body = []
    node = body[0] if len(body) == 1 else None
    is_lambda = isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda)
    if is_lambda and isinstance(node.targets[0], ast.Name) and len(node.targets) == 1:
        return node
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return node
    raise NotWritable("a function needs a name and lines of its own: def name(...):")


def renamed(source: str, name: str) -> str:
    """Return a definition under the name that the notebook knows it by."""
    return re.sub(r"^(def |class )?\w+(?=\s*[(:=])", rf"\g<1>{name}", source, count=1, flags=re.MULTILINE)


def _njit(options):
    """Return the decorator with the options that a function was compiled with."""
    asked = {key: value for key, value in options.items() if PLAIN_OPTIONS.get(key, ...) != value}
    text = ", ".join(f"{key}={value!r}" for key, value in asked.items())
    return f"@njit({text})\n" if text else "@njit\n"


def _import_of_module(name, module, user):
    dotted = module.__name__
    if dotted == NOTEBOOK:
        raise NotWritable(f"it uses {name}, the notebook itself")
    parent, _, last = dotted.rpartition(".")
    if dotted == name:  # import a.b binds a: say which b
        parts = sorted(set(re.findall(rf"\b{name}\.(\w+)", user)))
        below = [f"{name}.{part}" for part in parts if f"{name}.{part}" in sys.modules]
        return "import " + (", ".join(below) or name)
    return f"from {parent} import {name}" if last == name else f"import {dotted} as {name}"


def _import_of_part(name, value):
    """Return the import of something that a module knows by a name, or None."""
    ours = sorted((m for m in sys.modules if m.partition(".")[0] == "blocks2tokens"), key=len)
    home = getattr(value, "__module__", None) or "numpy"  # ufuncs do not say
    for known_as in (getattr(value, "__name__", None), name):
        for module in (home.partition(".")[0], home, *ours):
            if not isinstance(known_as, str) or module == NOTEBOOK or module not in sys.modules:
                continue
            if getattr(sys.modules[module], known_as, None) is value:
                alias = "" if known_as == name else f" as {name}"
                return f"from {module} import {known_as}{alias}"
    return None


def _literal(value):
    """Return an expression for a plain value, or None."""
    if isinstance(value, np.dtype):
        text = f"np.{value!r}"
    elif isinstance(value, np.generic):
        text = repr(value)
    elif isinstance(value, bool | int | float | complex | str | bytes | tuple | list | dict | set | None):
        text = pprint.pformat(value, width=100, sort_dicts=False)
    else:
        return None
    return text if _is_again(text, value) else None


def _array(value):
    """Return an expression for a small array, or None."""
    if not isinstance(value, np.ndarray) or value.size > MOST_NUMBERS or value.dtype.kind not in "biufc":
        return None
    text = textwrap.fill(
        f"np.array({value.tolist()!r}, np.{value.dtype.name})", 100, subsequent_indent="    "
    )
    return text if _is_again(text, value) else None


def _is_again(text, value):
    """Does an expression give the value again? Its types, too."""
    try:
        again = eval(text, {"np": np})  # an expression that was made here, of literals
        same = type(again) is type(value) and getattr(again, "dtype", None) == getattr(value, "dtype", None)
        return same and bool(
            np.array_equal(again, value) if isinstance(value, np.ndarray) else again == value
        )
    except Exception:  # nan, a member with a repr of its own
        return False


def _described(value):
    if isinstance(value, np.ndarray):
        return f"an array of {value.size:,} numbers"
    if isinstance(value, FunctionType):
        return "a function that is made within another"
    kind = type(value).__name__
    return f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"
