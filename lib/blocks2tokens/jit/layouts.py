"""A tuple of arrays and numbers in memory, for compiled code that is called by an address.

    values    (array, number, (array, ...), ...)   --in_memory-->   uint8 [bytes], where their headers are
    layout    stands for the types of the values   --load(layout, address)-->   the values again

Numba hands an array to a function as seven numbers or more, and compiles taking them apart, and counting who
uses them, with each function that they go through. The 29 arrays of a pass made that nearly all of the code:
with this, with jobs that count nobody, and with fewer functions, a first token is compiled in a third of the
time.

The memory holds no reference to the arrays: whoever made it keeps them.
"""

import hashlib
import struct
from functools import cache

import numpy as np
from numba import typeof, types
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from blocks2tokens.jit.naming import stand_in

KINDS = {}  # class of a layout: the type of its values, and how its numbers lie in memory
CODES = {types.int64: "q", types.float64: "d", types.float32: "f", types.boolean: "?"}  # of `struct`


def layout_of(values: tuple):
    """Return what stands for the types of a tuple's values in `@njit` code; of other types, another one.

    Raises ValueError where there is none for such values.
    """
    return _layout(typeof(values))


@cache
def _layout(kind):
    packing = _packing(kind)
    digest = hashlib.sha256(_described(kind).encode()).hexdigest()[:15]
    layout = stand_in(f"Layout_{digest}")
    KINDS[layout] = kind, packing
    return layout(int(digest, 16))


def in_memory(values: tuple, layout) -> np.ndarray:
    """Return memory that holds a tuple's values, uint8 [bytes]; it does not keep their arrays alive."""
    _, packing = KINDS[type(layout)]
    memory, numbers = np.zeros(packing.size, np.uint8), []
    _collect(values, numbers)
    packing.pack_into(memory, 0, *numbers)
    return memory


def _collect(value, numbers: list) -> None:
    """Append the numbers of a value as Numba has them; of an array none says who owns its memory."""
    if isinstance(value, tuple):
        for part in value:
            _collect(part, numbers)
    elif isinstance(value, np.ndarray):
        numbers += 0, 0, value.size, value.itemsize, value.ctypes.data, *value.shape, *value.strides
    elif isinstance(value, types.CompileResultWAP):
        numbers += value.address, 0, 0
    else:
        numbers.append(value)


def _packing(kind) -> struct.Struct:
    """Return what packs the numbers of a type's values as LLVM has them in memory."""
    text, end, context = "=", 0, cpu_target.target_context
    for start, code in [*_places(kind), (context.get_abi_sizeof(context.get_value_type(kind)), "")]:
        text += f"{start - end}x{code}"
        end = start + struct.calcsize(f"={code}")
    return struct.Struct(text)


def _places(kind) -> list[tuple[int, str]]:
    """Return where the numbers of a type's values are, in bytes, and the codes of their kinds."""
    if isinstance(kind, types.Array):
        return [(8 * i, "q") for i in range(5 + 2 * kind.ndim)]
    if isinstance(kind, types.FunctionType):
        return [(8 * i, "q") for i in range(3)]
    if isinstance(kind, types.BaseTuple):
        return [
            (start + at, code)
            for start, part in zip(_starts(kind), kind.types, strict=True)
            for at, code in _places(part)
        ]
    if kind not in CODES:
        raise ValueError(f"a layout: expected arrays, int64, floats and bools, got {kind}")
    return [(0, CODES[kind])]


def _starts(kind) -> list[int]:
    """Return where the parts of a tuple begin, in bytes."""
    context = cpu_target.target_context
    whole = context.get_value_type(kind)
    if isinstance(kind, types.UniTuple | types.NamedUniTuple):
        return [i * whole.element.get_abi_size(context.target_data) for i in range(len(kind))]
    return [whole.get_element_offset(context.target_data, i) for i in range(len(kind))]


def _described(kind) -> str:
    """Return a type as text, tuples with the names of their classes and fields."""
    if not isinstance(kind, types.BaseTuple):
        return str(kind)
    parts = ", ".join(map(_described, kind.types))
    if not isinstance(kind, types.BaseNamedTuple):
        return f"({parts})"
    name = kind.instance_class
    return f"{name.__module__}.{name.__qualname__}({', '.join(kind.fields)})({parts})"


@intrinsic
def load(typingctx, layout, address):
    """Return the tuple at an address, of the types that `layout` stands for."""
    kind, _ = KINDS[layout.instance_class]

    def codegen(context, builder, signature, args):
        place = builder.inttoptr(args[1], context.get_value_type(kind).as_pointer())
        return builder.load(place, align=8)

    return kind(layout, types.int64), codegen
