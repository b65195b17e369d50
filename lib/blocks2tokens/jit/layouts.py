"""A tuple of arrays and numbers in memory, for compiled code that is called by an address.

    values    (array, number, (array, ...), ...)   --in_memory-->   uint8 [bytes], where their headers are
    layout    stands for the types of the values   --load(layout, address)-->   the values again

Numba hands an array to a function as seven numbers or more, and compiles taking them apart, and counting who
uses them, with each function that they go through. The 29 arrays of a pass made that most of the code: with
this, and with fewer functions, a first token is compiled in less than half the time.

The memory holds no reference to the arrays: whoever made it keeps them.
"""

import hashlib
from functools import cache

import numpy as np
from numba import typeof, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from blocks2tokens.jit.naming import named, stand_in

KINDS = {}  # class of a layout: (types of its values, compiled function that puts them at an address)


def layout_of(values: tuple):
    """Return what stands for the types of a tuple's values in `@njit` code; of other types, another one."""
    return _layout(typeof(values))


@cache
def _layout(kind):
    digest = hashlib.sha256(_described(kind).encode()).hexdigest()[:15]
    layout = stand_in(f"Layout_{digest}")
    KINDS.setdefault(layout, (kind, _storing(layout.__name__)))
    return layout(int(digest, 16))


def in_memory(values: tuple, layout) -> np.ndarray:
    """Return memory that holds a tuple's values, uint8 [bytes]; it does not keep their arrays alive."""
    kind, store = KINDS[type(layout)]
    context = cpu_target.target_context
    memory = np.zeros(context.get_abi_sizeof(context.get_value_type(kind)), np.uint8)
    store(memory.ctypes.data, values)
    return memory


def _described(kind) -> str:
    """Return a type as text, tuples with the names of their classes and fields."""
    if not isinstance(kind, types.BaseTuple):
        return str(kind)
    parts = ", ".join(map(_described, kind.types))
    if not isinstance(kind, types.BaseNamedTuple):
        return f"({parts})"
    name = kind.instance_class
    return f"{name.__module__}.{name.__qualname__}({', '.join(kind.fields)})({parts})"


def _storing(label):
    """Return a function for one layout: an index of Numba's cache is lost with one class that is no more."""

    def store(address, values):
        put(address, values)

    return named(store, f"store_{label}".lower())


@intrinsic
def put(typingctx, address, values):
    """Put a tuple at an address."""

    def codegen(context, builder, signature, args):
        kind = signature.args[1]
        place = builder.inttoptr(args[0], context.get_value_type(kind).as_pointer())
        builder.store(_without_owners(context, builder, kind, args[1]), place, align=8)
        return context.get_dummy_value()

    return types.void(types.int64, values), codegen


@intrinsic
def load(typingctx, layout, address):
    """Return the tuple at an address, of the types that `layout` stands for."""
    kind, _ = KINDS[layout.instance_class]

    def codegen(context, builder, signature, args):
        place = builder.inttoptr(args[1], context.get_value_type(kind).as_pointer())
        return _without_owners(context, builder, kind, builder.load(place, align=8))

    return kind(layout, types.int64), codegen


def _without_owners(context, builder, kind, value):
    """Take from the arrays of a tuple who owns their memory: uses of them are not counted, nor compiled."""
    if isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder, value)
        array.meminfo = cgutils.get_null_value(array.meminfo.type)
        array.parent = cgutils.get_null_value(array.parent.type)
        return array._getvalue()
    if isinstance(kind, types.BaseTuple):
        for i, part in enumerate(kind.types):
            unowned = _without_owners(context, builder, part, builder.extract_value(value, i))
            value = builder.insert_value(value, unowned, i)
    return value
