"""A read-write lock made of one number and the CPU's atomic compare-and-swap.

    lock, int64 [8] (a cache line of its own), in lock[0]:    0   free
                                                         n > 0   n readers
                                                            -1   one writer

Taking or leaving it costs one locked instruction, contended or not: what any lock costs at the least.
"""

import numpy as np
from numba import njit, types
from numba.extending import intrinsic


def new_lock():
    """Return a free lock."""
    return np.zeros(8, np.int64)


@intrinsic
def compare_and_swap(typingctx, lock, expected, new):
    """Set lock[0] to `new` if it is `expected`, atomically; return whether it was."""

    def codegen(context, builder, signature, args):
        address = context.make_array(signature.args[0])(context, builder, args[0]).data
        pair = builder.cmpxchg(address, args[1], args[2], "seq_cst", "seq_cst")
        return builder.extract_value(pair, 1)

    if not (isinstance(lock, types.Array) and lock.dtype == types.int64):
        return None
    return types.boolean(lock, types.int64, types.int64), codegen


@intrinsic
def load(typingctx, lock):
    """Return lock[0], read anew from memory."""

    def codegen(context, builder, signature, args):
        address = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.load_atomic(address, "seq_cst", 8)

    return types.int64(lock), codegen


@njit(cache=True)
def lock_to_read(lock):
    """Wait until nobody writes, then count as one more reader."""
    while True:
        readers = load(lock)
        if readers >= 0 and compare_and_swap(lock, readers, readers + 1):
            return


@njit(cache=True)
def unlock_read(lock):
    """Stop counting as a reader."""
    while True:
        readers = load(lock)
        if compare_and_swap(lock, readers, readers - 1):
            return


@njit(cache=True)
def lock_to_write(lock):
    """Wait until nobody reads or writes, then be the one writer."""
    while not compare_and_swap(lock, 0, -1):
        pass


@njit(cache=True)
def unlock_write(lock):
    """Leave the lock free."""
    compare_and_swap(lock, -1, 0)
