"""The performance tables of this machine: `make bench` or `python -m blocks2tokens.course.bench_report`.

Everything in one run, interleaved, medians; ratios are between figures of the same run.
"""

from functools import partial

import gguf
import numpy as np

import blocks2tokens as b2t
from blocks2tokens.course import bench, models, roofline

SHAPE = (4096, 4096)  # N, K
ROWS = (1, 4, 16, 64, 128)
BASELINE = "dequantize_then_blas"


def main() -> None:
    ceilings = roofline.measure()
    print_machine(ceilings)
    print_metadata()
    print_kernels(ceilings)
    print_decoding()


def print_machine(ceilings: roofline.Ceilings) -> None:
    """Print what the machine is and its ceilings."""
    here = roofline.machine()
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

        timings = bench.interleaved({"ours": ours, "gguf package": package}, 5)
        print(f"\nAll metadata of {name}")
        for reader, timing in timings.items():
            print(f"  {reader:14} {timing.median * 1e3:9.1f} ms")


def print_kernels(ceilings: roofline.Ceilings) -> None:
    """Time every kernel for GGUF's layout on one Q4_K matrix, for several numbers of rows."""
    rng = np.random.default_rng(0)
    w = b2t.QuantizedMatrix(random_q4_k(rng, SHAPE), "Q4_K", SHAPE)
    fastest = max(ceilings.read.values())
    for M in ROWS:
        x = rng.standard_normal((M, SHAPE[1]), dtype=np.float32)
        kernels = {
            name: partial(kernel, x, w) for name, kernel in b2t.KERNELS.items() if kernel.layout == "gguf"
        }
        timings = bench.interleaved(kernels)
        print(f"\nQ4_K {SHAPE[0]} x {SHAPE[1]}, M = {M}: ms, GB/s of weights, share of reading, to baseline")
        for name, timing in timings.items():
            speed = w.nbytes / timing.median / 1e9
            ratio = timings[BASELINE].median / timing.median
            print(f"  {name:24} {timing.median * 1e3:8.2f} {speed:7.2f} {speed / fastest:6.1%} {ratio:6.2f}x")


def random_q4_k(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Return random valid blocks, uint8 [N, row bytes], whose weights are of a usual size."""
    fmt = b2t.FORMATS["Q4_K"]
    raw = rng.integers(0, 256, (shape[0], fmt.row_bytes(shape[1])), dtype=np.uint8)
    blocks = fmt.blocks(raw)
    blocks["d"], blocks["dmin"] = 0.001, 0.005
    return raw


def print_decoding() -> None:
    """Time greedy decoding of each model that is here, prompt and first token not counted."""
    print("\nGreedy decoding, tokens per second")
    for name, path in models.available().items():
        model = b2t.load(path)
        ids = model.tokenizer.encode("The first of these was")
        n_more = sum(1 for _ in model.generate(ids, 17)) - 1
        lengths = {"first": 1, "all": 1 + n_more}
        timings = bench.interleaved({key: partial(_generate, model, ids, n) for key, n in lengths.items()}, 5)
        print(f"  {name:24} {n_more / (timings['all'].median - timings['first'].median):8.1f}")


def _generate(model, ids, n_tokens):
    return list(model.generate(ids, n_tokens))


if __name__ == "__main__":
    main()
