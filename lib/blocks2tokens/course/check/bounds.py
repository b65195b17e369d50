"""Compiled code that looks whether a place lies in its array, for as long as a learner's function is judged.

    function that calls compiled ones  --checked-->  the same, which calls them compiled with boundscheck

Compiled code does not look where it reads and writes: a wrong place given to it ends Python, and no verdict
is shown. Vector functions are not covered: they load from an address.
"""

import sys
from types import CellType, CodeType, FunctionType
from weakref import WeakKeyDictionary

from numba import njit, types
from numba.core.dispatcher import Dispatcher

KEPT_OPTIONS = ("fastmath", "error_model")  # exceptions do not come out of parallel loops
_CHECKED: WeakKeyDictionary = WeakKeyDictionary()  # compiled function: the same with bounds checked


def checked(value):
    """Return a compiled function with its bounds checked; a plain one so that it calls such ones.

    Anything else comes back as it is, and so does a function that calls nothing compiled.
    """
    if _is_unchecked(value):
        return _compiled(value)
    if not isinstance(value, FunctionType):
        return value
    changed = _Changed(value.__globals__)
    return changed.function(value) if changed.meets_compiled(value) else value


def _compiled(function):
    dispatcher = _behind(function)
    if dispatcher not in _CHECKED:
        options = {
            key: dispatcher.targetoptions[key] for key in KEPT_OPTIONS if key in dispatcher.targetoptions
        }
        _CHECKED[dispatcher] = njit(boundscheck=True, **options)(checked(dispatcher.py_func))
    return _CHECKED[dispatcher]


class _Changed:
    """The functions of one module, or notebook, that lead to compiled ones, with names of their own."""

    def __init__(self, namespace):
        self.before, self.namespace, self.made = namespace, dict(namespace), {}

    def function(self, function):
        """Return a function whose global names and whose cells stand for what is checked."""
        if function in self.made:
            return self.made[function]
        cells = function.__closure__
        if cells is not None:
            cells = tuple(CellType(_compiled(v)) if _is_unchecked(v := _content(c)) else c for c in cells)
        new = FunctionType(function.__code__, self.namespace, function.__name__, function.__defaults__, cells)
        new.__kwdefaults__, new.__doc__ = function.__kwdefaults__, function.__doc__
        new.__qualname__, new.__module__ = function.__qualname__, function.__module__
        self.made[function] = new
        for name in _names(function.__code__):
            value = self.before.get(name)
            if _is_unchecked(value):
                self.namespace[name] = _compiled(value)
            elif self._is_ours(value):
                self.namespace[name] = self.function(value)
        return new

    def meets_compiled(self, function, seen=None):
        """Does a function call something compiled, itself or by what it calls?"""
        seen = set() if seen is None else seen
        if function in seen:
            return False
        seen.add(function)
        values = [self.before.get(name) for name in _names(function.__code__)]
        values += [_content(cell) for cell in function.__closure__ or ()]
        return any(_is_unchecked(v) or (self._is_ours(v) and self.meets_compiled(v, seen)) for v in values)

    def _is_ours(self, value):
        return isinstance(value, FunctionType) and value.__globals__ is self.before


def _behind(value):
    """Return the compiled function behind a pointer to it, where its module knows it; others as they are.

    What an exception leaves of a call through a pointer is a line on the screen: better no pointer.
    """
    if not isinstance(value, types.CompileResultWAP):
        return value
    description = value.cres.fndesc
    return getattr(sys.modules.get(description.modname), description.qualname.partition("[")[0], None)


def _is_unchecked(value):
    found = _behind(value)
    return isinstance(found, Dispatcher) and not found.targetoptions.get("boundscheck")


def _content(cell):
    try:
        return cell.cell_contents
    except ValueError:  # nothing in it yet
        return None


def _names(code):
    """Return the names that code looks up, with those of the functions defined within it."""
    return set(code.co_names).union(*(_names(c) for c in code.co_consts if isinstance(c, CodeType)))
