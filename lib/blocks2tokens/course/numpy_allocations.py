"""Count the arrays that NumPy allocates, and their bytes: a counting handler in front of NumPy's own.

    NumPy's C table  PyDataMem_SetHandler  <-  capsule "mem_handler"  ->  malloc, calloc, realloc, free

An array keeps the handler that made it until it is freed; so ours lives as long as the process.
Source: NumPy enhancement proposal 49, numpy/ndarraytypes.h.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from numpy._core import _multiarray_umath

SET_HANDLER, GET_HANDLER = 304, 305  # places in NumPy's C table, fixed since NumPy 1.22
NAME = b"mem_handler"  # of the capsule, which keeps a pointer to these bytes
Size, Pointer = ctypes.c_size_t, ctypes.c_void_p
# NumPy allocates with the interpreter lock held; PYFUNCTYPE keeps it so.
Malloc = ctypes.PYFUNCTYPE(Pointer, Pointer, Size)
Calloc = ctypes.PYFUNCTYPE(Pointer, Pointer, Size, Size)
Realloc = ctypes.PYFUNCTYPE(Pointer, Pointer, Pointer, Size)
Free = ctypes.PYFUNCTYPE(None, Pointer, Pointer, Size)


class _Handler(ctypes.Structure):
    """PyDataMem_Handler: a name, a version, a context and four functions."""

    _fields_ = [
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("context", Pointer),
        ("malloc", Malloc),
        ("calloc", Calloc),
        ("realloc", Realloc),
        ("free", Free),
    ]


@dataclass
class Count:
    """Arrays allocated and the bytes asked for; nothing is taken off when they are freed."""

    count: int = 0
    nbytes: int = 0

    def add(self, n_bytes: int) -> None:
        self.count += 1
        self.nbytes += n_bytes


_python = ctypes.pythonapi
_python.PyCapsule_New.restype = ctypes.py_object
_python.PyCapsule_New.argtypes = [Pointer, ctypes.c_char_p, Pointer]
_python.PyCapsule_GetPointer.restype = Pointer
_python.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_table = ctypes.cast(
    _python.PyCapsule_GetPointer(_multiarray_umath._ARRAY_API, None), ctypes.POINTER(Pointer)
)
_set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(_table[SET_HANDLER])
_get_handler = ctypes.PYFUNCTYPE(ctypes.py_object)(_table[GET_HANDLER])

_current = Count()
_own = _Handler.from_address(_python.PyCapsule_GetPointer(_get_handler(), NAME))


@Malloc
def _malloc(context, n_bytes):
    _current.add(n_bytes)
    return _own.malloc(context, n_bytes)


@Calloc
def _calloc(context, n, item_bytes):
    _current.add(n * item_bytes)
    return _own.calloc(context, n, item_bytes)


@Realloc
def _realloc(context, pointer, n_bytes):
    _current.add(n_bytes)
    return _own.realloc(context, pointer, n_bytes)


_handler = _Handler(b"counting", 1, _own.context, _malloc, _calloc, _realloc, _own.free)
_capsule = _python.PyCapsule_New(ctypes.addressof(_handler), NAME, None)


@contextmanager
def counting() -> Iterator[Count]:
    """Count NumPy's allocations inside the `with` block of this thread."""
    global _current
    _current = count = Count()
    before = _set_handler(_capsule)
    try:
        yield count
    finally:
        _set_handler(before)
