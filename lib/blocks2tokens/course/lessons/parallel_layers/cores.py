"""Layers on cores, for real: one stream after the other, a pipeline of threads, rows over cores, all at once.

    weights   float32 [layers, n, n]        x   float32 [streams, n]

    one core      a stream goes through all layers, then the next one
    pipeline      a thread for each stage, a queue in front of each:
                  x -> [layers 0 to 7] -> queue -> [layers 8 to 15] -> result
    rows          each layer's rows are shared by all cores, one stream after the other
    together      the same, and a row of weights is multiplied by all streams while it is there

A layer here is one matrix and a bend, max(-1, min(1, ...)): what counts is that its weights come from memory
and that it needs all of what the layer before gave. Every way gives the same numbers.
"""

import queue
import threading
from multiprocessing import get_context
from time import perf_counter

import numpy as np
from numba import njit, prange

FAST = {"reassoc", "contract", "nsz"}  # one sum may become several: see lesson 08


def random_layers(layers: int, n: int, seed: int = 0) -> np.ndarray:
    """Return weights, float32 [layers, n, n], of a size that neither grows nor dies from layer to layer."""
    rng = np.random.default_rng(seed)
    weights = np.empty((layers, n, n), np.float32)
    for layer in weights:
        rng.standard_normal(out=layer, dtype=np.float32)
    weights *= np.float32(n**-0.5)
    return weights


@njit(cache=True, fastmath=FAST)
def _row(w, x):
    total = np.float32(0)
    for k in range(w.size):
        total += w[k] * x[k]
    return max(np.float32(-1), min(np.float32(1), total))


@njit(cache=True, nogil=True)
def _through(weights, x):
    """Return x, float32 [n], behind these layers; the interpreter is free meanwhile."""
    for layer in range(weights.shape[0]):
        out = np.empty_like(x)
        for row in range(x.size):
            out[row] = _row(weights[layer, row], x)
        x = out
    return x


@njit(cache=True, parallel=True)
def _shared(weights, x):
    """Return x, float32 [streams, n], behind these layers: the rows of a layer are shared by the cores."""
    for layer in range(weights.shape[0]):
        out = np.empty_like(x)
        for row in prange(x.shape[1]):
            for stream in range(x.shape[0]):
                out[stream, row] = _row(weights[layer, row], x[stream])
        x = out
    return x


def one_core(weights: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Run each stream through all layers, one after the other, on one core."""
    return np.stack([_through(weights, row) for row in x])


def rows_over_cores(weights: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Run one stream after the other, the rows of each layer shared by all cores."""
    return np.concatenate([_shared(weights, row[None]) for row in x])


def together(weights: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Run all streams at once: a row of weights is read for all of them."""
    return _shared(weights, x)


def pipeline(weights: np.ndarray, x: np.ndarray, stages: int, trace: list | None = None) -> np.ndarray:
    """Run the streams through `stages` threads, each with its share of the layers.

    `trace` collects (stage, stream, start, end), in seconds from the start.
    """
    cuts = [stage * len(weights) // stages for stage in range(stages + 1)]
    queues = [queue.SimpleQueue() for _ in range(stages + 1)]
    begun = perf_counter()

    def work(stage):
        mine = weights[cuts[stage] : cuts[stage + 1]]
        while (job := queues[stage].get()) is not None:
            stream, row = job
            start = perf_counter()
            row = _through(mine, row)
            if trace is not None:
                trace.append((stage, stream, start - begun, perf_counter() - begun))
            queues[stage + 1].put((stream, row))
        queues[stage + 1].put(None)

    threads = [threading.Thread(target=work, args=(stage,), daemon=True) for stage in range(stages)]
    for thread in threads:
        thread.start()
    for job in enumerate(x):
        queues[0].put(job)
    queues[0].put(None)
    out = np.empty_like(x)
    while (job := queues[-1].get()) is not None:
        out[job[0]] = job[1]
    return out


# --- Handing a row over -----------------------------------------------------------------------------------


def _echo(connection):
    while (row := connection.recv()) is not None:
        connection.send(row)


def hand_over(row: np.ndarray, times: int) -> dict[str, float]:
    """Return the seconds that handing a row to another worker takes, one way, by kind of worker.

    The median of `times` ways there and back, halved.
    """
    there, back = queue.SimpleQueue(), queue.SimpleQueue()

    def echo():
        while (job := there.get()) is not None:
            back.put(job)

    thread = threading.Thread(target=echo, daemon=True)
    thread.start()
    found = {"a thread": _there_and_back(there.put, back.get, row, times)}
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_echo, args=(theirs,), daemon=True)
    process.start()
    try:
        found["a process"] = _there_and_back(ours.send, ours.recv, row, times)
        process.join(5)
    finally:
        process.terminate()
    return found


def _there_and_back(put, get, row, times):
    seconds = []
    for _ in range(times + 1):
        start = perf_counter()
        put(row)
        get()
        seconds.append(perf_counter() - start)
    put(None)
    return float(np.median(seconds[1:])) / 2
