"""The tables of kernels, of formats, and of the report at its own size."""

from contextlib import contextmanager
from functools import partial

import gguf
import numba
import numpy as np
from threadpoolctl import threadpool_limits

import blocks2tokens as b2t
from blocks2tokens.benchmarks import llama_cpp
from blocks2tokens.course import bench, hardware, models, report_table
from blocks2tokens.kernels.ours.unpack import PACKED

SHAPE = (14336, 4096)  # N, K: the feed-forward layer of a 7B or 8B model
MATRICES = 3  # in turn, 99 MB in Q4_K: more than the last-level cache holds
ROWS = (1, 4, 8, 16, 64, 128, 512)
REPEATS = 7
SECONDS = 60.0  # of each loop that measures
FORMATS_SHAPE, FORMATS_ROWS = (8192, 4096), (1, 8, 16, 128)
BASELINE = "dequantize_then_blas"
DEAR = ("fused_rows", "integer_dot", "simd_dot")  # at many rows


def print_machine(ceilings: hardware.Ceilings) -> None:
    """Print what the machine is and its ceilings."""
    here = hardware.machine()
    print(f"{here.processor}, {here.cores} cores, {here.memory / 1e9:.0f} GB")
    for n in ceilings.read:
        print(
            f"  {n} cores: reads {ceilings.read[n]:6.1f} GB/s, float32 GEMM {ceilings.gemm[n]:7.1f} GFLOP/s"
        )


def print_metadata() -> None:
    """Time opening a file and decoding its vocabulary, with our reader and the gguf package's."""
    for name, path in models.available().items():

        def ours(path=path):
            metadata = b2t.GGUFFile(path).metadata
            return [metadata[key] for key in metadata]

        def package(path=path):
            return [field.contents() for field in gguf.GGUFReader(path).fields.values()]

        timings = bench.interleaved({"ours": ours, "gguf package": package}, 5, SECONDS)
        print(f"\nAll metadata of {name}")
        for reader, timing in timings.items():
            print(f"  {reader:14} {timing.median * 1e3:9.1f} ms")


def print_report() -> None:
    """Time the report's kernels at its size, and check the order of the first and the last."""
    rng = np.random.default_rng(0)
    B, a = (rng.standard_normal((128, 128), dtype=np.float32) for _ in range(2))
    w = b2t.QuantizedMatrix.quantize(B, "Q5_K", layout="report")
    kernels = {
        name: partial(kernel, a, w) for name, kernel in b2t.KERNELS.items() if kernel.layout == "report"
    }
    timings = bench.interleaved(kernels, seconds=SECONDS)
    print("\nThe report's kernels, Q5_K, M = K = N = 128: ms, times slower than the first; the report's own")
    first = timings["phase0_baseline"].median
    for name, timing in timings.items():
        published_ratio = report_table.REPORT[name].seconds / report_table.REPORT["phase0_baseline"].seconds
        a = bench.allocations(kernels[name])
        print(
            f"  {name:24} {timing.median * 1e3:8.2f} {timing.median / first:7.1f}x {published_ratio:7.1f}x"
            f"   peak {bench.size(a.peak):>8}, {a.count} allocations"
        )
    order = sorted(timings, key=lambda name: timings[name].median)
    if (order[0], order[-1]) != ("phase0_baseline", "phase3b_column_major"):
        raise SystemExit(f"expected the baseline first and Phase 3b last, got {', '.join(order)}")


def print_kernels(ceilings: hardware.Ceilings) -> None:
    """Time our kernels and llama.cpp on matrices that no cache holds, for several numbers of rows."""
    weights = matrices("Q4_K", SHAPE, MATRICES)
    print(f"\nQ4_K {SHAPE[0]} x {SHAPE[1]}, {MATRICES} matrices in turn. Each M: ms for one product, GB/s of")
    print("weights (share of the read bandwidth), times faster than decode-then-BLAS, than llama.cpp")
    for M in ROWS:
        for n_threads in ceilings.read:
            print_rows(ceilings, weights, M, n_threads)


def print_rows(ceilings, weights, M, n_threads):
    """Print one table: every kernel that is not hopeless at this M, and the peer."""
    x = np.random.default_rng(M).standard_normal((M, SHAPE[1]), dtype=np.float32)
    functions = {
        name: partial(in_turn, partial(kernel, x), weights)
        for name, kernel in b2t.KERNELS.items()
        if kernel.layout == "gguf" and (M <= 16 or name not in DEAR)
    }
    with threads(n_threads), peers_of(weights, x, n_threads) as peers:
        if peers:
            functions["llama.cpp"] = lambda: [product() for product in peers]
        timings = bench.interleaved(functions, REPEATS if M <= 16 else 3, SECONDS)
        buffer = f" ({peers[0].buffer})" if peers else ""
    print(f"\n  M = {M}, {n_threads} thread{'s' * (n_threads > 1)}{buffer}")
    n = len(weights)
    for name, timing in timings.items():
        speed = n * weights[0].nbytes / timing.median / 1e9
        against = "".join(
            f" {timings[other].median / timing.median:8.2f}x"
            for other in (BASELINE, "llama.cpp")
            if other in timings
        )
        share = speed / ceilings.read[n_threads]
        print(f"  {name:24} {timing.median / n * 1e3:9.2f} {speed:7.2f} ({share:5.1%}){against}")


@contextmanager
def peers_of(weights, x, n_threads):
    """Give llama.cpp's products of x with each matrix; none where llama.cpp is not installed."""
    peers = [llama_cpp.Product(w, len(x), n_threads) for w in weights] if llama_cpp.library() else []
    try:
        for product in peers:
            product.set_x(x)
        yield peers
    finally:
        for product in peers:
            product.close()


def in_turn(multiply, weights):
    for w in weights:
        multiply(w)


@contextmanager
def threads(n: int):
    """Hold Numba and BLAS to n threads."""
    before = numba.get_num_threads()
    numba.set_num_threads(n)
    try:
        with threadpool_limits(n, "blas"):
            yield
    finally:
        numba.set_num_threads(before)


def print_phase0() -> None:
    """Time the report's own baseline at that size beside ours: decoding, transpose and scalar products."""
    (w,) = matrices("Q4_K", SHAPE, 1)
    N, K = SHAPE
    report = b2t.QuantizedMatrix(
        w.raw.reshape(-1), "Q4_K", (K, N), "report"
    )  # as many weights, otherwise cut
    print("\nAgainst the report's Phase 0, as it was built: times faster")
    for M in ROWS:
        x = np.random.default_rng(M).standard_normal((M, K), dtype=np.float32)
        kernels = {"Phase 0": partial(b2t.KERNELS["phase0_baseline"], x, report)} | {
            name: partial(b2t.KERNELS[name], x, w)
            for name in (BASELINE, "simd_dot", "simd_tiles", "integer_gemm")
            if M <= 16 or name not in DEAR
        }
        timings = bench.interleaved(kernels, 3 if M <= 16 else 1, SECONDS)
        ratios = (f"{name} {timings['Phase 0'].median / t.median:.1f}x" for name, t in timings.items())
        print(f"  M = {M:3}: {timings['Phase 0'].median * 1e3:7.0f} ms; " + ", ".join(list(ratios)[1:]))


def print_formats(ceilings: hardware.Ceilings) -> None:
    """Time what `matmul` picks for each format with vector code, and llama.cpp."""
    n_threads = max(ceilings.read)
    print(
        f"\nWhat matmul picks, {FORMATS_SHAPE[0]} x {FORMATS_SHAPE[1]}, {n_threads} threads: for each M the"
    )
    print("kernel, ms, GB/s of weights (share of the read bandwidth), times faster than llama.cpp")
    for name in PACKED:
        weights = matrices(name, FORMATS_SHAPE, MATRICES)
        for M in FORMATS_ROWS:
            print_format(ceilings, weights, M, n_threads)


def print_format(ceilings, weights, M, n_threads):
    """Print the line of a format for M rows."""
    x = np.random.default_rng(M).standard_normal((M, weights[0].shape[1]), dtype=np.float32)
    choice = b2t.matmul(x, weights[0], explain=True)[1]
    functions = {"ours": partial(in_turn, partial(b2t.matmul, x), weights)}
    with peers_of(weights, x, n_threads) as peers:
        if peers:
            functions["peer"] = lambda: [product() for product in peers]
        t = bench.interleaved(functions, REPEATS if M < 128 else 3, SECONDS)
    ours, n, name = t["ours"].median, len(weights), weights[0].format.name
    speed = n * weights[0].nbytes / ours / 1e9
    against = f"{t['peer'].median / ours:6.2f}x" if "peer" in t else ""
    share = f"{speed:7.2f} ({speed / ceilings.read[n_threads]:5.1%})"
    print(f"  {name:7} M = {M:3}  {choice.kernel:20} {ours / n * 1e3:8.2f} {share} {against}", flush=True)


def print_errors() -> None:
    """Print each kernel's relative error (RMS) against the float64 product of the decoded weights."""
    rng = np.random.default_rng(0)
    W, x = (
        rng.standard_normal((256, 4096), dtype=np.float32),
        rng.standard_normal((8, 4096), dtype=np.float32),
    )
    print("\nRelative error (RMS) against float64, random weights and activations")
    kernels = {name: kernel for name, kernel in b2t.KERNELS.items() if kernel.layout == "gguf"}
    print(f"  {'':6}" + "".join(f"{name:>22}" for name in kernels))
    for name in PACKED:
        w = b2t.QuantizedMatrix.quantize(W, name)
        exact = x.astype(np.float64) @ w.dequantize().astype(np.float64).T
        errors = (np.linalg.norm(kernel(x, w) - exact) / np.linalg.norm(exact) for kernel in kernels.values())
        print(f"  {name:6}" + "".join(f"{error:22.2e}" for error in errors))


def matrices(name: str, shape: tuple[int, int], n: int) -> list[b2t.QuantizedMatrix]:
    """Return n matrices of usual weights: 64 rows, quantized, again and again, each in another order."""
    rng, fmt = np.random.default_rng(0), b2t.FORMATS[name]
    rows = fmt.quantize(rng.standard_normal((64, shape[1]), dtype=np.float32) * np.float32(0.02))
    orders = (rng.integers(0, 64, shape[0]) for _ in range(n))
    return [b2t.QuantizedMatrix(rows[order], fmt, shape) for order in orders]
