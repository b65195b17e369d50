"""Addresses as whole numbers: calling the code at one, and arrays on memory that somebody else keeps."""

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic


@intrinsic
def call_job(typingctx, function, arguments):
    """Call a job, given the address of its code and a tuple of its arguments, int64 all."""

    def codegen(context, builder, signature, args):
        i64 = ir.IntType(64)
        values = [builder.extract_value(args[1], i) for i in range(arguments.count)]
        code = ir.FunctionType(ir.VoidType(), [i64] * arguments.count).as_pointer()
        builder.call(builder.inttoptr(args[0], code), values)
        return context.get_dummy_value()

    return types.void(types.int64, types.UniTuple(types.int64, arguments.count)), codegen


def pointer_intrinsic(name, dtype):
    """Make an intrinsic that turns an address into a pointer to numbers."""

    def at(typingctx, address):
        def codegen(context, builder, signature, args):
            return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

        return types.CPointer(dtype)(types.int64), codegen

    at.__name__ = name
    return intrinsic(at)


byte_pointer = pointer_intrinsic("byte_pointer", types.uint8)
short_pointer = pointer_intrinsic("short_pointer", types.int16)
float_pointer = pointer_intrinsic("float_pointer", types.float32)


# Arrays on memory that somebody else keeps. `shape` is a number or a tuple.


@njit(cache=True, forceinline=True, _nrt=True)
def bytes_at(address, shape):
    return carray(byte_pointer(address), shape, np.uint8)


@njit(cache=True, forceinline=True, _nrt=True)
def shorts_at(address, shape):
    return carray(short_pointer(address), shape, np.int16)


@njit(cache=True, forceinline=True, _nrt=True)
def floats_at(address, shape):
    return carray(float_pointer(address), shape, np.float32)
