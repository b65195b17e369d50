"""A tuple of arrays and numbers in memory, for compiled code that is called by an address.

    values    (array, number, (array, ...), ...)   --in_memory-->   uint8 [bytes], where their headers are
    layout    stands for the types of the values   --load(layout, address)-->   the values again

Numba hands an array to a function as seven numbers or more, and compiles taking them apart, and counting who
uses them, with each function that they go through. The 25 arrays of a pass made that most of the code: what
begins at an address and loads them itself is compiled in a third of the time.

The memory holds no reference to the arrays: whoever made it keeps them.
"""

import hashlib
from collections import namedtuple

import numpy as np
from numba import njit, typeof, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

KINDS = {}  # types of values, by the namedtuple that stands for them


def layout_of(values: tuple):
    """Return what stands for the types of a tuple's values in `@njit` code; of other types, another one."""
    kind = typeof(values)
    digest = hashlib.sha256(str(kind).encode()).hexdigest()[:15]
    label = f"Layout_{digest}"
    layout = globals().get(label)
    if layout is None:
        layout = namedtuple(label, "digest", module=__name__)
        KINDS[layout] = kind
        globals()[label] = layout
    return layout(int(digest, 16))


def in_memory(values: tuple) -> np.ndarray:
    """Return memory that holds a tuple's values, uint8 [bytes]; it does not keep their arrays alive."""
    context = cpu_target.target_context
    memory = np.zeros(context.get_abi_sizeof(context.get_value_type(typeof(values))), np.uint8)
    store(memory.ctypes.data, values)
    return memory


@njit(cache=True)
def store(address, values):
    put(address, values)


@intrinsic
def put(typingctx, address, values):
    """Put a tuple at an address."""

    def codegen(context, builder, signature, args):
        kind = signature.args[1]
        place = builder.inttoptr(args[0], context.get_value_type(kind).as_pointer())
        builder.store(args[1], place, align=8)
        return context.get_dummy_value()

    return types.void(types.int64, values), codegen


@intrinsic
def load(typingctx, layout, address):
    """Return the tuple at an address, of the types that `layout` stands for."""
    kind = KINDS[layout.instance_class]

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
