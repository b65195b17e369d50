"""What a product costs, predicted: exact counts, times what one of each costs on this machine.

    kernel.cost(M, K, N, fmt, cores)      weights decoded, look-ups, multiply-adds: counted
        x  Rates                          seconds for one of each: measured once, at one size
        /  workers                        who share that part, if anybody does
        =  seconds of one call            the sum of its parts

    Phase 1, 128 x 128 x 128:   2,097,152 x one weight through a call   +   1 x what every call costs

    rates = calibrate("Q5_K")                                a second or two
    predict(KERNELS["phase1_naive_fused"], 128, 128, 128, "Q5_K", 2, rates)
    measured = measure([(64, 64, 64)], "Q5_K")               the same products, timed
    draw(64, 64, 64, "Q5_K", 2, rates, measured)             every kernel's work and time in one figure
    cost_explorer({"Q5_K": rates}, measured)                 the same figure, with sliders

A prediction that holds at other sizes than the measured one says that the counts are the cause.

What no count covers. Caches: the report's baseline walks down columns, and where N is 512 or more, a power
of two, the lines of a column push each other out of the cache; it takes longer than predicted. Chains:
a sum waits for its last addition, and a short one is done while the next begins; below K = 256 it takes
less. Warmth: a call that comes alone, after something else, takes longer than one of many in a row.
"""

import html
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from math import isfinite
from operator import index

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numba
import numpy as np
from matplotlib.figure import Figure
from numba import njit
from threadpoolctl import threadpool_limits

from blocks2tokens.course import bench, budget, plot
from blocks2tokens.formats import FORMATS, Format
from blocks2tokens.kernels import KERNELS, Cost, Kernel
from blocks2tokens.kernels.ours import fused_rows as rows
from blocks2tokens.kernels.report import phase0_baseline as phase0
from blocks2tokens.kernels.report import phase1_naive_fused as phase1
from blocks2tokens.kernels.report import phase2_optimized_fused as phase2
from blocks2tokens.kernels.report import phase3a_block_cache as phase3a
from blocks2tokens.kernels.report import phase3b_column_major as phase3b
from blocks2tokens.kernels.report.decoders import block_decoder, element_decoder
from blocks2tokens.matrix import QuantizedMatrix

# --- What one of each costs -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rates:
    """Seconds for one of each, for one format on one machine; `cores` is how many it has.

    element       a weight decoded through a call, header and all, with its multiply-add
    block_weight  a weight of a block that is decoded as a whole, without SIMD
    decoded       the same with SIMD, as the engine decodes
    lookup        a look-up in the locked map, with its multiply-add
    held          a multiply-add with a block that is at hand: divide, compare, add
    textbook      a multiply-add in Phase 0's textbook loop, down a column of B
    dot           a multiply-add in Phase 0's dot product of two rows
    row_dot       the same with SIMD
    transposed    a weight copied to its place in the transposed matrix
    blas          a multiply-add of BLAS, in a product of matrices
    packed        a weight that BLAS copies into an order of its own before that
    blas_vector   a multiply-add of BLAS in a product with one row, where it copies nothing
    call          a call of a kernel, whatever it has to do: checks, and the way into compiled code
    pointer       making the pointer to a decoder, which the report's kernels do in each call
    blas_call     calling the decoder and BLAS from Python, one after the other
    handed        a weight that one core decoded and another multiplies: fetched from the first one's cache
    region        waking the threads for a parallel loop; they fall asleep microseconds after the last one
    efficiency    what a second thread adds, as a fraction of the first: not in seconds, 0 to 1
    """

    format: str
    cores: int
    element: float
    block_weight: float
    decoded: float
    lookup: float
    held: float
    textbook: float
    dot: float
    row_dot: float
    transposed: float
    blas: float
    packed: float
    blas_vector: float
    call: float
    pointer: float
    blas_call: float
    handed: float
    region: float
    efficiency: float

    def __post_init__(self):
        for field in fields(self)[2:]:
            value = getattr(self, field.name)
            if not (isfinite(value) and value >= 0):
                raise ValueError(f"{field.name}: expected a number of seconds >= 0, got {value}")
        if self.efficiency > 1:
            raise ValueError(f"efficiency: expected at most 1, got {self.efficiency}")

    def speedup(self, workers: int) -> float:
        """Return how much faster `workers` are than one: each adds what the second was measured to add.

        Beyond two, and so beyond this machine's cores, that is a straight line, not a measurement.
        """
        return 1 + (workers - 1) * self.efficiency


# --- What each kernel does --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """A part of a kernel's work: `count` times something that costs one of the rates.

    workers  how many share it
    pieces   into how many it can be cut (rows of `a`, say), which may not divide evenly
    """

    what: str
    count: int
    rate: str
    workers: int = 1
    pieces: int = 1

    def seconds(self, rates: Rates) -> float:
        """Return how long the worker with the most pieces needs."""
        largest = -(-self.pieces // self.workers) / self.pieces
        slowdown = self.workers / rates.speedup(self.workers)
        return self.count * getattr(rates, self.rate) * largest * slowdown


@dataclass(frozen=True)
class Part:
    """A Step with its time: count * each, shared by workers, is seconds."""

    what: str
    count: int
    each: float
    workers: int
    seconds: float


CALL = Step("calls", 1, "call")
POINTER = Step("pointers to a decoder made", 1, "pointer")
BLAS_CALL = Step("calls of BLAS", 1, "blas_call")


def _woken(cores):
    """Return the step of waking the threads; one thread alone wakes nobody."""
    return [Step("times the threads are woken", 1, "region")] if cores > 1 else []


def _phase0(cost: Cost, M, K, N, cores):
    decode = Step("weights decoded, block by block", cost.elements_decoded, "block_weight")
    if cost.multiply_adds <= phase0.TRANSPOSE_ABOVE:
        return [
            decode,
            Step("multiply-adds, textbook loop", cost.multiply_adds, "textbook"),
            CALL,
            POINTER,
        ]
    return [
        decode,
        Step("weights transposed", K * N, "transposed"),
        Step("multiply-adds, dot products", cost.multiply_adds, "dot", phase0.workers(M, cores), M),
        CALL,
        POINTER,
        *_woken(cores),
    ]


def _phase1(cost: Cost, M, K, N, cores):
    return [
        Step("weights decoded, one by one", cost.elements_decoded, "element"),
        CALL,
        POINTER,
    ]


def _phase2(cost: Cost, M, K, N, cores):
    return [
        Step("weights decoded, one by one", cost.elements_decoded, "element", phase2.workers(M, cores), M),
        CALL,
        POINTER,
        *_woken(cores),
    ]


def _phase3a(cost: Cost, M, K, N, cores):
    workers = phase2.workers(M, cores)
    return [
        Step("look-ups", cost.lookups, "lookup", workers, M),
        Step("weights decoded, block by block", cost.elements_decoded, "block_weight", workers, workers),
        CALL,
        POINTER,
        *_woken(cores),
    ]


def _phase3b(cost: Cost, M, K, N, cores):
    workers = phase2.workers(M, cores)
    return [
        Step("weights decoded, block by block", cost.elements_decoded, "block_weight", workers, M),
        Step("multiply-adds, block at hand", cost.multiply_adds, "held", workers, M),
        CALL,
        POINTER,
        *_woken(cores),
    ]


def _dequantize_then_blas(cost: Cost, M, K, N, cores):
    decode = Step("weights decoded, with SIMD", cost.elements_decoded, "decoded", min(cores, N), N)
    if M == 1:
        multiply = [Step("multiply-adds, BLAS, one row", cost.multiply_adds, "blas_vector")]
    else:
        multiply = [
            Step("weights packed by BLAS", K * N, "packed"),
            Step("multiply-adds, BLAS", cost.multiply_adds, "blas"),
        ]
    there = K * N - K * N // decode.workers
    handed = [Step("weights that other cores decoded", there, "handed")] if there else []
    return [decode, *handed, *multiply, CALL, BLAS_CALL, *_woken(cores)]


def _fused_rows(cost: Cost, M, K, N, cores):
    """One parallel loop and nothing else: called again and again, its threads never fall asleep."""
    chunks = -(-N // rows.ROWS_AT_ONCE)
    workers = min(cores, chunks)
    return [
        Step("weights decoded, with SIMD", cost.elements_decoded, "decoded", workers, chunks),
        Step("multiply-adds, with SIMD", cost.multiply_adds, "row_dot", workers, chunks),
        CALL,
    ]


RULES: dict[str, Callable[[Cost, int, int, int, int], list[Step]]] = {
    "phase0_baseline": _phase0,
    "phase1_naive_fused": _phase1,
    "phase2_optimized_fused": _phase2,
    "phase3a_block_cache": _phase3a,
    "phase3b_column_major": _phase3b,
    "dequantize_then_blas": _dequantize_then_blas,
    "fused_rows": _fused_rows,
}


def predictable() -> list[str]:
    """Return the names of the kernels that have a rule, in the order of KERNELS."""
    return [name for name in KERNELS if name in RULES]


def fits(kernel: Kernel, K: int, N: int, fmt: Format | str) -> bool:
    """Return whether a kernel's layout can hold K x N weights in this format, in whole blocks.

    >>> [fits(KERNELS[name], 128, 128, "Q5_K") for name in ("phase0_baseline", "fused_rows")]
    [True, False]
    """
    return (K if kernel.layout == "gguf" else K * N) % _format(fmt).block_size == 0


def steps(kernel: Kernel, M: int, K: int, N: int, fmt: Format | str, cores: int) -> list[Step]:
    """Return what one call does, part by part, for x [M, K] and N outputs on `cores` cores.

    Raises ValueError for sizes below 1 or that fill no whole blocks, and for a kernel without a rule.

    >>> for step in steps(KERNELS["phase3b_column_major"], 128, 128, 128, "Q5_K", 16):
    ...     print(f"{step.count:>11,} {step.what}, {step.workers} at work")
    268,435,456 weights decoded, block by block, 16 at work
      2,097,152 multiply-adds, block at hand, 16 at work
              1 calls, 1 at work
              1 pointers to a decoder made, 1 at work
              1 times the threads are woken, 1 at work
    """
    if not isinstance(kernel, Kernel) or kernel.name not in RULES:
        name = kernel.name if isinstance(kernel, Kernel) else repr(kernel)
        raise ValueError(f"kernel: expected one of KERNELS that has a rule ({', '.join(RULES)}), got {name}")
    fmt = _format(fmt)
    M, K, N, cores = (_whole(*pair) for pair in (("M", M), ("K", K), ("N", N), ("cores", cores)))
    if not fits(kernel, K, N, fmt):
        filled = f"K = {K}" if kernel.layout == "gguf" else f"K * N = {K * N}"
        raise ValueError(
            f"{kernel.name}: {filled} is not a multiple of {fmt.name}'s {fmt.block_size} weights"
        )
    return RULES[kernel.name](kernel.cost(M, K, N, fmt, cores), M, K, N, cores)


def parts(kernel: Kernel, M: int, K: int, N: int, fmt: Format | str, cores: int, rates: Rates) -> list[Part]:
    """Return the parts whose seconds add up to the prediction. Raises ValueError as `predict` does."""
    if rates.format != _format(fmt).name:
        raise ValueError(f"rates: calibrated for {rates.format}, not for {_format(fmt).name}")
    return [
        Part(step.what, step.count, getattr(rates, step.rate), step.workers, step.seconds(rates))
        for step in steps(kernel, M, K, N, fmt, cores)
    ]


def predict(kernel: Kernel, M: int, K: int, N: int, fmt: Format | str, cores: int, rates: Rates) -> float:
    """Return the seconds of one call, for x [M, K] and N outputs on `cores` cores.

    Raises ValueError for sizes below 1 or that fill no whole blocks, for a kernel without a rule, and for
    rates of another format.
    """
    return sum(part.seconds for part in parts(kernel, M, K, N, fmt, cores, rates))


def _format(fmt) -> Format:
    if isinstance(fmt, Format):
        return fmt
    if not isinstance(fmt, str) or fmt not in FORMATS:
        raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {fmt!r}")
    return FORMATS[fmt]


def _whole(name, value) -> int:
    try:
        whole = index(value)
    except TypeError:
        raise ValueError(f"{name}: expected a whole number, got {value!r}") from None
    if whole < 1:
        raise ValueError(f"{name}: expected at least 1, got {whole}")
    return whole


# --- Measuring --------------------------------------------------------------------------------------------

AT_ONCE = 2e-3  # seconds: shorter calls are timed by the batch, so that all but the first are warm


def _medians(functions: Mapping, repeats: int, seconds: float = bench.BUDGET) -> dict:
    """Return {name: seconds of one call}, the median of interleaved rounds, after a call that compiles."""
    times = {}
    with budget.progress(len(functions) + 1, "calibrating") as bar:
        for name, function in functions.items():
            function()
            once = bench.interleaved({name: function}, 1)[name].median
            times[name] = max(1, int(AT_ONCE / max(once, 1e-9)))
            bar.update()
        batches = {name: partial(_repeat, functions[name], n) for name, n in times.items()}
        timings = bench.interleaved(batches, repeats, seconds)
    return {name: t.median / times[name] for name, t in timings.items()}


def _repeat(function, times):
    for _ in range(times):
        function()


@contextmanager
def _threads(n):
    """Run with n threads of Numba's, and one of BLAS's: its own would fight them, as in the engine."""
    before = numba.get_num_threads()
    numba.set_num_threads(n)
    try:
        with threadpool_limits(1, "blas"):
            yield
    finally:
        numba.set_num_threads(before)


@njit(cache=True)
def _dots(x, W, out):
    """Fill out, float32 [M, N], with the dot products of fused_rows: x, float32 [M, K], W, float32 [N, K]."""
    for n in range(W.shape[0]):
        for m in range(x.shape[0]):
            out[m, n] = rows.dot(x[m], W[n])


SIZE = 8, 256, 128  # M, K, N at which the rates are measured
WIDE = 1024  # N where a matrix decoded by two cores is used by one
BLAS_SIZES = 16, 128  # two M for BLAS, which has two costs: one for a weight, one for a multiply-add


def calibrate(fmt: Format | str, seconds: float = bench.BUDGET) -> Rates:
    """Measure what one of each costs on this machine, for one format, in a second or two.

    Each is a kernel's own loop, at one small size, divided by its count. Fixed costs are those of the
    product of one row with one row, which has next to nothing to do.
    """
    fmt, cores, (M, K, N) = _format(fmt), numba.config.NUMBA_NUM_THREADS, SIZE
    alone, together = _loops(fmt, *SIZE)
    with _threads(cores):
        before = _medians(together, 13, seconds / 3)
    with _threads(1):
        t = _medians(alone, 9, seconds / 3)
    with _threads(cores):
        after = _medians(together, 13, seconds / 3)
    # Another process on the second core makes two threads look slow, never quick: the quicker set counts.
    t |= {name: min(before[name], after[name]) for name in together}
    weights, multiply_adds, (few, many) = K * N, M * K * N, BLAS_SIZES
    block_weight = _left(t["blocks"], t["entry"]) / weights
    blas = _left(t["blas, many"], t["blas, few"]) / (weights * (many - few))
    region = _left(t["pause, parallel loop"], t["pause"] + t["call"])
    gain = t["one worker"] / t["two workers"] - 1
    rates = Rates(
        format=fmt.name,
        cores=cores,
        element=t["elements"] / multiply_adds,
        block_weight=block_weight,
        decoded=_left(t["rows"], t["entry"]) / weights,
        lookup=_left(t["look-ups"], weights * block_weight) / multiply_adds,
        held=_left(t["block held"], t["entry"] + K * block_weight) / (many * K),
        textbook=t["textbook"] / multiply_adds,
        dot=t["dots"] / multiply_adds,
        row_dot=t["row dots"] / multiply_adds,
        transposed=t["transpose"] / weights,
        blas=blas,
        packed=_left(t["blas, few"] / weights, few * blas),
        blas_vector=t["blas, one"] / weights,
        call=t["call"],
        pointer=t["pointer"],
        blas_call=_left(t["call, blas"], t["call"]),
        handed=0.0,
        region=region,
        efficiency=float(np.clip(gain, 0, 1)) if cores > 1 else 1.0,
    )
    kernel, size = KERNELS["dequantize_then_blas"], (1, K, WIDE)
    others = sum(step.count for step in steps(kernel, *size, fmt, cores) if step.rate == "handed")
    unexplained = _left(t["handed over"], predict(kernel, *size, fmt, cores, rates))
    return replace(rates, handed=unexplained / others if others else 0.0)


def _loops(fmt, M, K, N) -> tuple[dict, dict]:
    """Return the calls that `calibrate` times: those for one thread, and those for all."""
    rng = np.random.default_rng(0)
    a, B = rng.standard_normal((M, K), np.float32), rng.standard_normal((K, N), np.float32)
    x = rng.standard_normal((BLAS_SIZES[1], K), np.float32)
    Bt, weights = np.ascontiguousarray(B.T), np.empty(K * N, np.float32)
    out, column = np.empty((M, N), np.float32), np.empty((len(x), 1), np.float32)
    raw, block = QuantizedMatrix.quantize(B, fmt, layout="report").raw, (fmt.block_size, fmt.bytes_per_block)
    small = QuantizedMatrix.quantize(B[:, :1].copy(), fmt, layout="report").raw
    row = QuantizedMatrix.quantize(Bt[:1].copy(), fmt)
    element, blocks, fast = element_decoder(fmt), block_decoder(fmt), fmt.row_decoder
    call = partial(KERNELS["fused_rows"], x[:1], row)
    pause = partial(phase0.decode, blocks, raw, weights)  # long enough for idle threads to fall asleep
    wide = QuantizedMatrix.quantize(rng.standard_normal((WIDE, K), np.float32), fmt)
    alone = {
        "entry": partial(phase0.decode, fast, raw[:0], weights[:0]),
        "call": call,
        "call, blas": partial(KERNELS["dequantize_then_blas"], x[:1], row),
        "pointer": partial(block_decoder, fmt),
        "elements": partial(phase1.multiply_rows, element, a, raw, 0, M, out),
        "blocks": partial(phase0.decode, blocks, raw, weights),
        "rows": partial(phase0.decode, fast, raw, weights),
        "look-ups": partial(phase3a.multiply_rows, blocks, a, raw, *block, 0, M, out),
        "block held": partial(phase3b.multiply_rows, blocks, x, small, *block, 0, len(x), column),
        "textbook": partial(phase0.textbook, a, B, out),
        "dots": partial(phase0.multiply_rows, a, Bt, 0, M, out),
        "row dots": partial(_dots, a, Bt, out),
        "transpose": partial(phase0.transpose, B, Bt.copy()),
        "blas, one": partial(np.matmul, x[:1], Bt.T),
        "blas, few": partial(np.matmul, x[: BLAS_SIZES[0]], Bt.T),
        "blas, many": partial(np.matmul, x, Bt.T),
    }
    together = {
        "pause": pause,
        "handed over": partial(KERNELS["dequantize_then_blas"], x[:1], wide),
        "pause, parallel loop": partial(_both, pause, call),
        "one worker": partial(phase2.multiply, element, a, raw, 1, out),
        "two workers": partial(phase2.multiply, element, a, raw, 2, out),
    }
    return alone, together


def _both(first, second):
    first()
    second()


def _left(seconds, known):
    """Return what is left of a time without a part that is known; noise must not make it negative."""
    return max(0.0, seconds - known)


Point = tuple[str, int, int, int, int]  # format name, M, K, N, cores
Measured = Mapping[Point, Mapping[str, float]]


def measure(
    points: Iterable[tuple[int, int, int]],
    fmt: Format | str,
    cores: int | None = None,
    repeats: int = 3,
    seconds: float = bench.SWEEP,
) -> dict[Point, dict[str, float]]:
    """Time every predictable kernel that fits at each (M, K, N); {(format, M, K, N, cores): {name: seconds}}.

    Medians of interleaved rounds; cores is at most this machine's, and all of them by default. Results
    of several calls can be merged with `|`. Where the seconds do not last, some points are left out.
    Raises ValueError as `predict` does.
    """
    fmt, most = _format(fmt), numba.config.NUMBA_NUM_THREADS
    cores = _whole("cores", most if cores is None else cores)
    if cores > most:
        raise ValueError(f"cores: this machine has {most}, got {cores}")
    fitting = {point: _fitting(*point, fmt, cores) for point in points}

    def medians(point, share):
        functions = {name: _product(KERNELS[name], *point, fmt) for name in fitting[point]}
        with _threads(cores):
            return _medians(functions, repeats, share)

    return {(fmt.name, *point, cores): t for point, t in bench.sweep(fitting, medians, seconds).items()}


def _fitting(M, K, N, fmt, cores) -> list[str]:
    """Return the predictable kernels that can do this product; ValueError if the report's cannot."""
    steps(KERNELS["phase0_baseline"], M, K, N, fmt, cores)
    return [name for name in predictable() if fits(KERNELS[name], K, N, fmt)]


def _product(kernel, M, K, N, fmt):
    """Return a call of this kernel on random numbers, the same for all kernels."""
    rng = np.random.default_rng(0)
    x, B = rng.standard_normal((M, K), np.float32), rng.standard_normal((K, N), np.float32)
    W = B if kernel.layout == "report" else np.ascontiguousarray(B.T)
    return partial(kernel, x, QuantizedMatrix.quantize(W, fmt, layout=kernel.layout))


# --- Showing ----------------------------------------------------------------------------------------------

COUNTS = (  # in each kernel's Cost: label, field, colour, marker
    ("weights decoded", "elements_decoded", plot.BLUE, "o"),
    ("look-ups", "lookups", plot.ORANGE, "s"),
    ("multiply-adds", "multiply_adds", plot.GREY, "|"),
)
WORK_LIMITS, TIME_LIMITS = (1e2, 1e12), (1e-6, 1e3)  # the same view wherever the sliders stand


@dataclass(frozen=True)
class Table:
    """Predictions beside measurements, as text, header first; shows itself as a table."""

    cells: list[list[str]]
    note: str

    def __repr__(self):
        widths = [max(len(row[i]) for row in self.cells) for i in range(len(self.cells[0]))]
        lines = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in self.cells]
        return "\n".join([*lines, self.note])

    def _repr_html_(self):
        header, *body = [[html.escape(cell) for cell in row] for row in self.cells]
        head = "".join(f"<th>{cell}</th>" for cell in header)
        lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in body)
        note = f"<p>{html.escape(self.note)}</p>"
        return f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>{note}"


def table(
    M: int, K: int, N: int, fmt_name: str, cores: int, rates: Rates, measured: Measured | None = None
) -> Table:
    """Return every predictable kernel's work and time at one size, with what was measured there, if it was.

    Raises ValueError as `predict` does.
    """
    predicted, timed = _predictions(M, K, N, fmt_name, cores, rates), _at(measured, M, K, N, fmt_name, cores)
    cells = [["kernel", *(label for label, *_ in COUNTS), "predicted", "measured", "measured / predicted"]]
    for name, seconds in predicted.items():
        cost = KERNELS[name].cost(M, K, N, FORMATS[fmt_name], cores)
        row = [name, *(f"{getattr(cost, field):,}" for _, field, *_ in COUNTS), bench.seconds(seconds)]
        there = name in timed
        row += [bench.seconds(timed[name]), f"{timed[name] / seconds:.2f}"] if there else ["", ""]
        cells.append(row)
    return Table(cells, _note(M, K, N, fmt_name, cores, rates))


def draw(
    M: int, K: int, N: int, fmt_name: str, cores: int, rates: Rates, measured: Measured | None = None
) -> Figure:
    """Draw every predictable kernel's work (left) and time (right) at one size, with measurements beside.

    A kernel whose layout cannot hold K x N weights keeps its line and says so. Raises ValueError as
    `predict` does.
    """
    predicted, timed = _predictions(M, K, N, fmt_name, cores, rates), _at(measured, M, K, N, fmt_name, cores)
    names = predictable()
    figure, (work, time) = plt.subplots(1, 2, sharey=True, figsize=(11, 1.9 + 0.42 * len(names)))
    _draw_work(
        work, {name: KERNELS[name].cost(M, K, N, FORMATS[fmt_name], cores) for name in predicted}, names
    )
    _draw_time(time, predicted, timed, names)
    for axes in (work, time):
        axes.grid(axis="y", visible=False)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, handletextpad=0.4)
    for place, name in enumerate(names):
        if name not in predicted:
            size = FORMATS[fmt_name].block_size
            work.annotate(
                f"its layout needs K to be a multiple of {size}",
                (1.3 * WORK_LIMITS[0], place),
                color="0.4",
                va="center",
            )
    work.set_yticks(range(len(names)), names)
    work.set_ylim(len(names) - 0.5, -0.5)
    figure.suptitle(_note(M, K, N, fmt_name, cores, rates), x=0.01, ha="left", fontsize="medium")
    return figure


def _draw_work(axes, costs, names):
    for label, field, colour, marker in COUNTS:
        counts = {name: getattr(cost, field) for name, cost in costs.items() if getattr(cost, field)}
        places = [names.index(name) for name in counts]
        style = {"ms": 16, "mew": 2.5} if marker == "|" else {"ms": 8}
        axes.plot(list(counts.values()), places, marker, color=colour, label=label, **style)
    decoded = {name: cost.elements_decoded for name, cost in costs.items()}
    times = max(decoded.values()) / min(decoded.values())
    axes.set(xscale="log", xlim=WORK_LIMITS, xlabel="how often in one call")
    axes.set_title(f"Decoding: {times:,.0f}-fold differences" if times >= 2 else "All decode about as often")


def _draw_time(axes, predicted, timed, names):
    places = [names.index(name) for name in predicted]
    axes.plot(
        list(predicted.values()), places, "o", color=plot.BLUE, mfc="none", ms=11, mew=2, label="predicted"
    )
    shown = [name for name in names if name in timed]
    if shown:
        at = [names.index(name) for name in shown]
        axes.plot([timed[name] for name in shown], at, "D", color=plot.RED, ms=7, label="measured here")
    _column(axes, 1.03, "predicted", predicted, names, "black")
    _column(axes, 1.31, "measured", {name: timed[name] for name in shown}, names, plot.RED)
    fastest = min(predicted, key=predicted.get)
    axes.set(xscale="log", xlim=TIME_LIMITS, xlabel="seconds for one call")
    axes.set_title(f"Predicted fastest: {fastest}")


def _column(axes, x, header, values, names, colour):
    """Write times in a column to the right of the axes, above its header."""
    place = axes.get_yaxis_transform()
    for text, y in [
        (header, len(names) - 0.15),
        *((bench.seconds(values[n]), names.index(n)) for n in values),
    ]:
        if values:
            axes.text(x, y, text, transform=place, color=colour, va="center")


def _predictions(M, K, N, fmt_name, cores, rates) -> dict[str, float]:
    fitting = _fitting(M, K, N, fmt_name, cores)
    return {name: predict(KERNELS[name], M, K, N, fmt_name, cores, rates) for name in fitting}


def _at(measured, M, K, N, fmt_name, cores) -> Mapping[str, float]:
    return (measured or {}).get((fmt_name, M, K, N, cores), {})


def _note(M, K, N, fmt_name, cores, rates) -> str:
    cores_said = f"{cores} core" + ("s" if cores > 1 else "")
    if cores > rates.cores:
        cores_said += f" (this machine has {rates.cores}: more are extrapolated on a straight line)"
    return f"{fmt_name}, M = {M}, K = {K}, N = {N}, {cores_said}"


SIZES = tuple(2**n for n in range(4, 10))  # any two of them multiply to whole blocks of 256
MOST_CORES = 16


def cost_explorer(rates: Mapping[str, Rates], measured: Measured | None = None) -> widgets.Widget:
    """Return a panel over `draw`: choose M, K, N, format and cores. `rates` gives each format's by name."""
    if not rates:
        raise ValueError("rates: expected {format name: Rates} with at least one format")

    def powers(name, options):
        return widgets.SelectionSlider(options=options, value=128, description=name, continuous_update=False)

    M, K, N = powers("M", tuple(2**n for n in range(10))), powers("K", SIZES), powers("N", SIZES)
    fmt_name = widgets.ToggleButtons(options=list(rates), description="format")
    cores = widgets.IntSlider(
        min(MOST_CORES, next(iter(rates.values())).cores),
        min=1,
        max=MOST_CORES,
        description="cores",
        continuous_update=False,
    )

    def show(M, K, N, fmt_name, cores):
        draw(M, K, N, fmt_name, cores, rates[fmt_name], measured)
        plt.show()

    chosen = {"M": M, "K": K, "N": N, "fmt_name": fmt_name, "cores": cores}
    picture = widgets.interactive_output(show, chosen)
    return widgets.VBox([widgets.HBox([M, K, N]), widgets.HBox([fmt_name, cores]), picture])
