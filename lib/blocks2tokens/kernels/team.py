"""A team of workers that goes through stages together; each stage is a number of jobs.

    tickets   int64 [stages, 2, 8]     [stage, 0, 0] jobs handed out     [stage, 1, 0] jobs done
                                       each counter in a cache line of its own

    for each stage:    take tickets and do the jobs, until there are none
                       wait until all jobs are done, the others' too

Whoever is quicker takes more jobs. Nobody waits for a worker that has not come: one alone does all the
jobs, and one that comes late finds them done. So it does not matter how many threads there really are.
All counters must be 0 at the beginning.
"""

import os
import platform

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

HANDED_OUT, DONE, LINE = 0, 8, 16  # places of the counters of a stage, numbers for each stage
PATIENCE = 1000  # turns of waiting, some 10 to 50 microseconds, before the core is given to somebody else
REST = 20  # microseconds, to which the system adds about 50
HAS_PAUSE = platform.machine().lower() in ("x86_64", "amd64")
HAS_SLEEP = os.name == "posix"


def new_tickets(n_stages: int) -> np.ndarray:
    """Return the counters of so many stages."""
    return np.zeros(n_stages * LINE, np.int64)


def _place(context, builder, array_type, array, at):
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [at])


@intrinsic
def fetch_add(typingctx, counters, at, amount):
    """Add to counters[at], atomically; return what it was."""

    def codegen(context, builder, signature, args):
        place = _place(context, builder, signature.args[0], *args[:2])
        return builder.atomic_rmw("add", place, args[2], "seq_cst")

    return types.int64(counters, types.intp, types.int64), codegen


@intrinsic
def load(typingctx, counters, at):
    """Return counters[at], read anew from memory."""

    def codegen(context, builder, signature, args):
        return builder.load_atomic(_place(context, builder, signature.args[0], *args), "seq_cst", 8)

    return types.int64(counters, types.intp), codegen


@intrinsic
def pause(typingctx):
    """Tell the CPU that this is a waiting loop, where it has a word for that."""

    def codegen(context, builder, signature, args):
        if HAS_PAUSE:
            function_type = ir.FunctionType(ir.VoidType(), [])
            name = "llvm.x86.sse2.pause"
            builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def rest(typingctx):
    """Let another thread have this core for a moment, where the system has a call for that.

    Who sleeps is owed the time, and gets it when there is something to do; `sched_yield` gives up the rest
    of a thread's slice on newer Linux. With neighbours on each core decoding was twice as fast as with it;
    in a control group of its own, where a thread has nobody to yield to, about a seventh slower.
    """

    def codegen(context, builder, signature, args):
        if HAS_SLEEP:
            number = ir.IntType(32)
            usleep = ir.FunctionType(number, [number])
            builder.call(cgutils.get_or_insert_function(builder.module, usleep, "usleep"), [number(REST)])
        return context.get_dummy_value()

    return types.void(), codegen


@njit(cache=True)
def take_job(tickets, stage):
    """Return the number of the next job of a stage; it may be past the last."""
    return fetch_add(tickets, LINE * stage + HANDED_OUT, 1)


@njit(cache=True)
def is_open(tickets, stage, n_jobs):
    """Are there jobs of a stage that nobody has taken?"""
    return load(tickets, LINE * stage + HANDED_OUT) < n_jobs


@njit(cache=True)
def count_done(tickets, stage):
    """Count one job of a stage as done."""
    fetch_add(tickets, LINE * stage + DONE, 1)


@njit(cache=True)
def wait_for(tickets, stage, n_jobs):
    """Wait until all jobs of a stage are done."""
    turns = 0
    while load(tickets, LINE * stage + DONE) < n_jobs:
        turns += 1
        pause()
        if turns % PATIENCE == 0:
            rest()
