"""Texts under load: when each arrives, when its tokens come, on a batcher and in a simulation.

poisson(n, rate)                  arrivals: each independent of all before, `rate` in a unit of time
static(lengths, slots)            slot and first pass of each text that waits
simulate(way, arrivals, ...)      when each text's tokens come: static, dynamic, continuous
serve(model, requests, slots)     the same on the engine: when each token came, in seconds

Text      arrived   begun   ended   tokens        seconds, or passes of one row
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter, sleep

import numpy as np

import blocks2tokens as b2t

SEED = 29


@dataclass
class Text:
    """One text's times, from the first arrival on; `tokens` are those at which its tokens came."""

    arrived: float
    slot: int | None = None
    begun: float | None = None
    tokens: list[float] = field(default_factory=list)

    ended = property(lambda self: self.tokens[-1])
    latency = property(lambda self: self.ended - self.arrived)

    @property
    def longest_gap(self) -> float:
        """The longest time between two of its tokens."""
        return float(np.max(np.diff(self.tokens)))


def poisson(n: int, rate: float) -> list[float]:
    """Return n arrival times, the first at 0, on average `rate` of them in a unit of time."""
    gaps = np.random.default_rng(SEED).exponential(1 / rate, n - 1)
    return [0.0, *np.cumsum(gaps).tolist()]


# --- Simulated, in passes of one row ----------------------------------------------------------------------


def static(lengths: Sequence[int], slots: int) -> tuple[list[int], list[int]]:
    """Return slot and first pass of each text that waits: a batch begins when the one before has ended."""
    taken, firsts, start = [], [], 0
    for i in range(0, len(lengths), slots):
        batch = lengths[i : i + slots]
        taken += range(len(batch))
        firsts += [start] * len(batch)
        start += max(batch)
    return taken, firsts


def simulate(
    way: str,
    arrivals: Sequence[float],
    lengths: Sequence[int],
    slots: int,
    c: Sequence[float],
    patience: float = 0.0,
) -> list[Text]:
    """Return when each text's tokens come, if a pass of k rows takes c[k - 1].

    static       a batch begins when `slots` texts are there, or the last, and none runs
    dynamic      ... or when the first of them has waited for `patience`
    continuous   a text begins with the first pass for which there is a slot
    """
    texts = [Text(arrived) for arrived in arrivals]
    now, waiting, running = 0.0, deque(range(len(texts))), {}  # slot: text
    while waiting or running:
        if not running:
            now = max(now, _begins(way, [arrivals[i] for i in waiting], slots, patience))
        if way == "continuous" or not running:
            for slot in sorted(set(range(slots)) - set(running)):
                if waiting and arrivals[waiting[0]] <= now:
                    running[slot] = waiting.popleft()
                    texts[running[slot]].slot, texts[running[slot]].begun = slot, now
        now += c[len(running) - 1]
        for slot, i in list(running.items()):
            texts[i].tokens.append(now)
            if len(texts[i].tokens) == lengths[i]:
                del running[slot]
    return texts


def _begins(way, arrivals, slots, patience):
    """Return when a pass begins where none runs; arrivals of those who wait."""
    full = arrivals[min(slots, len(arrivals)) - 1]
    if way == "static":
        return full
    return min(full, arrivals[0] + (patience if way == "dynamic" else 0.0))


# --- On the engine ----------------------------------------------------------------------------------------


def serve(
    model: b2t.Model,
    arrivals: Sequence[float],
    prompts: Sequence[Sequence[int]],
    lengths: Sequence[int],
    slots: int,
) -> list[Text]:
    """Submit each prompt at its time, from a thread of its own; return when its tokens came.

    The texts do not end at a stop token: each gets as many tokens as its length says.
    """
    with b2t.Batcher(model, slots) as batcher:
        start = perf_counter()

        def client(i, text):
            sleep(max(0.0, start + arrivals[i] - perf_counter()))
            answer = batcher.submit(prompts[i], lengths[i], never_ending(model))
            for _ in answer:
                text.tokens.append(perf_counter() - start)
            text.slot, text.begun = answer.slot, text.tokens[0]

        texts = [Text(arrived) for arrived in arrivals]
        threads = [threading.Thread(target=client, args=pair) for pair in enumerate(texts)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return texts


def never_ending(model: b2t.Model) -> Callable[[np.ndarray, Sequence[int]], int]:
    """Return a greedy sampler that chooses no stop token."""
    stops = sorted(model.tokenizer.stop_tokens)

    def choose(logits, history):
        if (choice := int(logits.argmax())) not in stops:
            return choice
        logits = logits.copy()
        logits[stops] = -np.inf
        return int(logits.argmax())

    return choose


def throughput(model: b2t.Model, streams: Sequence[int], rounds: int) -> dict[int, float]:
    """Return {texts: tokens a second in all}, so many texts at a time, in turn; medians of the rounds."""
    all_at_once(model, max(streams), 4)  # what has to be compiled
    found = [{k: all_at_once(model, k) for k in streams} for _ in range(rounds)]
    return {k: float(np.median([one[k] for one in found])) for k in streams}


def all_at_once(model: b2t.Model, streams: int, passes: int = 24) -> float:
    """Return how many tokens a second come in all, while so many texts run, for so many passes or so.

    From when the last has begun to when the first ends, so that all run all the time.
    """
    prompts, n_tokens = [[5 + i, 6, 7] for i in range(streams)], passes + streams
    texts = serve(model, [0.0] * streams, prompts, [n_tokens] * streams, streams)
    start, end = max(text.begun for text in texts), min(text.ended for text in texts)
    return sum(start < t <= end for text in texts for t in text.tokens) / (end - start)


def under_load(model: b2t.Model, rate: float, lengths: Sequence[int], slots: int) -> list[Text]:
    """Return what texts of these lengths see that arrive at random, `rate` of them a second."""
    prompts = [[5 + i % 50, 6, 7, 8] for i in range(len(lengths))]
    return serve(model, poisson(len(lengths), rate), prompts, lengths, slots)


def latency(texts: Sequence[Text]) -> float:
    """Return the median of the texts' latency."""
    return float(np.median([text.latency for text in texts]))


def beside(model: b2t.Model, chunks: Sequence[int], before: int = 12) -> Text:
    """Return one text's tokens while a prompt is read beside it, in such chunks, one between two tokens."""
    t, prompt = model.transformer, [7 * i % 1000 for i in range(sum(chunks))]
    cache, other = t.new_cache(3 + 2 * before + len(chunks)), t.new_cache(len(prompt))
    for n in set(chunks):  # what a chunk of this size needs is there
        t.next_logits(prompt[:n], other)
        other.truncate(0)
    token, text, start = int(t.next_logits([5, 6, 7], cache).argmax()), Text(0.0, 0, 0.0), perf_counter()
    for i in range(2 * before + len(chunks)):
        text.tokens.append(perf_counter() - start)
        if 0 <= i - before < len(chunks):
            t.next_logits(prompt[other.length : other.length + chunks[i - before]], other)
        token = int(t.step(token, cache).argmax())
    return text


def knee(rates: Sequence[float], latency: Sequence[float], times: float = 2.0) -> float | None:
    """Return the first rate with a latency of more than so many times the first's; None: there is none."""
    slow = [rate for rate, seconds in zip(rates, latency, strict=True) if seconds > times * latency[0]]
    return slow[0] if slow else None
