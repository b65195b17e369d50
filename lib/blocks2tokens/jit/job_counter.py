"""A team of workers that goes through stages together; each stage is a number of jobs.

    counters  int64 [stages, 3, 8], each line a cache line of its own
              [stage, 0, 0]  jobs handed out in order     [stage, 1, 0]  jobs done
              [stage, 2]     512 bits: jobs taken one by one

    for each stage:    take jobs and do them, until there are none
                       wait until all jobs are done, the others' too

Jobs are taken in order, `take_job`, or from a place on, `take_job_at`: then each worker begins at its own
share, its jobs are neighbours in memory, and it helps the others when it is done. Whoever is quicker does
more. Nobody waits for a worker that has not come: one alone does all the jobs, and one that comes late finds
them done. So it does not matter how many threads there really are. All counters must be 0 at the beginning.
"""

import ctypes
import os
import platform

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

HANDED_OUT, DONE, TAKEN, STAGE = 0, 8, 16, 24  # places of the counters of a stage; numbers for each stage
MOST_JOBS = 512  # of a stage whose jobs are taken one by one
PATIENCE = 1000  # turns of waiting, some 10 to 50 microseconds, before the core is given to somebody else
REST = 20  # microseconds, to which the system adds about 50
HAS_PAUSE = platform.machine().lower() in ("x86_64", "amd64")
ON_WINDOWS = os.name == "nt"


def new_counters(n_stages: int) -> np.ndarray:
    """Return the counters of so many stages."""
    return np.zeros(n_stages * STAGE, np.int64)


def _place(context, builder, array_type, array, at):
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [at])


def atomic(operation):
    """Make an intrinsic that changes counters[at] by a number, atomically, and returns what it was."""

    @intrinsic
    def change(typingctx, counters, at, number):
        def codegen(context, builder, signature, args):
            place = _place(context, builder, signature.args[0], *args[:2])
            return builder.atomic_rmw(operation, place, args[2], "seq_cst")

        return types.int64(counters, types.intp, types.int64), codegen

    return change


fetch_add, fetch_or = atomic("add"), atomic("or")


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
    """Let another thread have this core for a moment; on Windows, whose sleep is long, one that waits for it.

    Who sleeps is owed the time, and gets it when there is something to do; `sched_yield` gives up the rest
    of a thread's slice on newer Linux. With neighbours on each core decoding was twice as fast as with it;
    in a control group of its own, where a thread has nobody to yield to, about a seventh slower.
    """

    def codegen(context, builder, signature, args):
        number = ir.IntType(32)
        name, given = ("SwitchToThread", []) if ON_WINDOWS else ("usleep", [number(REST)])
        kind = ir.FunctionType(number, [argument.type for argument in given])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, name), given)
        return context.get_dummy_value()

    return types.void(), codegen


def tell_llvm_where_it_is() -> None:
    """Let compiled code find Windows' call, which is in none of the libraries that LLVM looks through."""
    call = ctypes.windll.kernel32.SwitchToThread
    llvm.add_symbol("SwitchToThread", ctypes.cast(call, ctypes.c_void_p).value)


if ON_WINDOWS:
    tell_llvm_where_it_is()


@njit(cache=True)
def take_job(counters, stage):
    """Return the number of the next job of a stage; it may be past the last."""
    return fetch_add(counters, STAGE * stage + HANDED_OUT, 1)


@njit(cache=True)
def first_job(worker, n_workers, n_jobs):
    """Return where the share of a worker begins."""
    return worker * n_jobs // n_workers


@njit(cache=True)
def take_job_at(counters, stage, wanted, n_jobs):
    """Take job number `wanted`, or the next in a circle that nobody has; return n_jobs if there is none."""
    for i in range(n_jobs):
        job = (wanted + i) % n_jobs
        at, bit = STAGE * stage + TAKEN + job // 64, np.int64(1) << (job % 64)
        if not load(counters, at) & bit and not fetch_or(counters, at, bit) & bit:
            return job
    return n_jobs


@njit(cache=True)
def count_done(counters, stage):
    """Count one job of a stage as done."""
    fetch_add(counters, STAGE * stage + DONE, 1)


@njit(cache=True)
def wait_for(counters, stage, n_jobs):
    """Wait until all jobs of a stage are done."""
    turns = 0
    while load(counters, STAGE * stage + DONE) < n_jobs:
        turns += 1
        pause()
        if turns % PATIENCE == 0:
            rest()
