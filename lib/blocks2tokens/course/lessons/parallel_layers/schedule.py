"""Who works when: layers over cores as a pipeline, and what bounds many cores.

seconds of the stages [2, 1]      stream 0    stream 1
    stage 0                       0 to 2      2 to 4
    stage 1                       2 to 3      4 to 5        waits for its stream, and for itself

stage_ends      when each stage is done with each stream
busy_share      how much of the stages' time is work; the rest are bubbles
largest_part    consecutive layers over cores: the least that the fullest core can have
speed_up        what is not shared, and each wait for the last one, bound it (Amdahl's law)
tokens_at_most  what memory allows: a core alone cannot read as fast as all together
"""

from collections.abc import Sequence

import numpy as np


def stage_ends(seconds: Sequence[float], streams: int) -> np.ndarray:
    """Return when each stage is done with each stream, float64 [stages, streams], from 0 on.

    A stage begins with a stream when the stage before has done it and it is done with the stream before.
    """
    done = np.zeros((len(seconds), streams))
    for stage, takes in enumerate(seconds):
        for stream in range(streams):
            arrives = done[stage - 1, stream] if stage else 0.0
            free = done[stage, stream - 1] if stream else 0.0
            done[stage, stream] = max(arrives, free) + takes
    return done


def busy_share(seconds: Sequence[float], streams: int) -> float:
    """Return the share of all stages' time, from the start to the end of the last, that is work.

    >>> busy_share([1, 1], 1), busy_share([1, 1], 3)
    (0.5, 0.75)
    """
    end = stage_ends(seconds, streams)[-1, -1]
    return float(sum(seconds) * streams / (len(seconds) * end))


def largest_part(layers: Sequence[int], cores: int) -> int:
    """Return the least bytes that the fullest core can have, if each takes layers that follow each other.

    layers are the bytes of each.

    >>> largest_part([4, 3, 3, 2], 2)
    7
    """
    best = [*np.cumsum(layers).tolist()]  # of the first layers, on one core
    for _ in range(cores - 1):
        best = [
            min([best[end], *(max(best[cut], sum(layers[cut + 1 : end + 1])) for cut in range(end))])
            for end in range(len(layers))
        ]
    return int(best[-1])


def speed_up(alone: float, shared: float, waits: int, wait: float, cores: int) -> float:
    """Return how many times as fast so many cores are as one.

    alone    seconds that one core works while the others have nothing to do
    shared   seconds of work, on one core, that all share evenly
    waits    how often all wait for the last one, which takes `wait` seconds; one core waits for nobody

    >>> round(speed_up(alone=1, shared=9, waits=0, wait=0, cores=9), 2)
    5.0
    """
    waiting = waits * wait if cores > 1 else 0
    return (alone + shared) / (alone + shared / cores + waiting)


def tokens_at_most(n_bytes: float, one_core: float, all_cores: float, cores: int) -> float:
    """Return the tokens a second that memory allows, if a token reads n_bytes.

    one_core is what one reads, all_cores what all together read, in bytes a second: cores are added up
    until memory gives no more.
    """
    return min(cores * one_core, all_cores) / n_bytes
