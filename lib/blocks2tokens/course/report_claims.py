"""Every sentence of the report that claims something, with what decides about it.

    SECTIONS   {"S3": "Why Fused Implementations Failed", ...}     the report's headings, in order
    CLAIMS     {"S3.16": Claim("Poor cache hits: ...", ...), ...}  numbered by section and order
    MEASURED   {"13": {"slowdown of Phase 1, 128 rows": "×", ...}} figures that a lesson measures, and units
    KNOWN      {"Go: slowdown of Phase 1": Known(104.8, "×"), ...} figures that need no machine: the report's
               own, those of the same Go program run again, and counts

Words in quotation marks are the report's ("Phase 3 Optimization Results"), quoted to be judged. The figures
of the program run again are in `report_table`; its profile (Qwen2.5-Coder-7B in Q4_K_M, three tokens, 99.13
seconds) is in the engine's public history.
"""

from dataclasses import dataclass

from blocks2tokens.course.claims import Claim, about, at_least, at_most
from blocks2tokens.course.report_table import REPORT, RERUN

SECTIONS = {
    "S1": "Executive Summary",
    "S2": "Performance Comparison",
    "S3": "Why Fused Implementations Failed",
    "S4": "Root Cause Analysis",
    "S5": "Lessons Learned",
    "S6": "Current Status",
    "S7": "Next Steps",
    "S8": "Recommendations",
    "S9": "Conclusion",
}


# Figures that need no machine


@dataclass(frozen=True)
class Known:
    """A figure with its unit, the same for whoever asks."""

    value: float
    unit: str = ""


PHASES = {
    "Phase 1": "phase1_naive_fused",
    "Phase 2": "phase2_optimized_fused",
    "Phase 3a": "phase3a_block_cache",
    "Phase 3b": "phase3b_column_major",
}
THREADS, GO_THREADS = 16, 2
DECODES, DECODES_3B = 128**3, 128 * 128 * 64 * 256  # weights that Phases 1 and 3b decode at 128 cubed


def _slowdowns(table):
    baseline = table["phase0_baseline"].seconds
    return {phase: table[name].seconds / baseline for phase, name in PHASES.items()}


def _added(table, what, threads):
    """Return how much one worker of Phase 3a adds to what Phase 2 has, in a column of the table."""
    more, less = (getattr(table[PHASES[phase]], what) for phase in ("Phase 3a", "Phase 2"))
    return (more - less) / threads


def _price_3b(table, threads):
    """Return the most that a decode of Phase 3b can have taken, in ns, for so many threads at work."""
    return table[PHASES["Phase 3b"]].seconds * threads / DECODES_3B * 1e9


GO, PRICE_3B = _slowdowns(RERUN), _price_3b(REPORT, THREADS)
BASELINE, NAIVE = REPORT["phase0_baseline"], REPORT[PHASES["Phase 1"]]
GO_BASELINE, GO_NAIVE = RERUN["phase0_baseline"], RERUN[PHASES["Phase 1"]]

KNOWN = {
    **{f"Go: slowdown of {phase}": Known(value, "×") for phase, value in GO.items()},
    "Go: least slowdown": Known(min(GO.values()), "×"),
    "Go: greatest slowdown": Known(max(GO.values()), "×"),
    "Go: memory of Phase 0": Known(GO_BASELINE.nbytes / 1e3, " kB"),
    "Go: memory of Phase 1": Known(GO_NAIVE.nbytes / 1e3, " kB"),
    "Go: memory of Phase 3b": Known(RERUN[PHASES["Phase 3b"]].nbytes / 1e3, " kB"),
    "Go: Phase 0's allocations, 2 more for each of 14 more workers": Known(
        GO_BASELINE.allocations + 2 * (THREADS - GO_THREADS)
    ),
    "Go: Phase 2's allocations, 2 more for each of 14 more workers": Known(
        RERUN[PHASES["Phase 2"]].allocations + 2 * (THREADS - GO_THREADS)
    ),
    "Go: a worker of Phase 3a adds allocations": Known(_added(RERUN, "allocations", GO_THREADS)),
    "report's table: a worker of Phase 3a adds allocations": Known(_added(REPORT, "allocations", THREADS)),
    "Go: a worker of Phase 3a adds kB": Known(_added(RERUN, "nbytes", GO_THREADS) / 1e3, " kB"),
    "Go: memory saved by Phase 1": Known(1 - GO_NAIVE.nbytes / GO_BASELINE.nbytes, "%"),
    "Go: memory saved by Phase 1, kB": Known((GO_BASELINE.nbytes - GO_NAIVE.nbytes) / 1e3, " kB"),
    "report's sum: decoding": Known(245, " µs"),
    "report's sum: the product": Known(210, " µs"),
    "report's sum against its time": Known(455 / 488, "×"),
    "report's table: a decode of Phase 1": Known(NAIVE.seconds / DECODES * 1e9, " ns"),
    "Go: a decode of Phase 1": Known(GO_NAIVE.seconds / DECODES * 1e9, " ns"),
    "report's table: all decodes of Phase 1": Known(NAIVE.seconds * 1e3, " ms"),
    "Go: all decodes of Phase 1": Known(GO_NAIVE.seconds * 1e3, " ms"),
    "report's table: a decode of Phase 3b, at most": Known(PRICE_3B, " ns"),
    "Go: a decode of Phase 3b, at most": Known(_price_3b(RERUN, GO_THREADS), " ns"),
    "report's table: Phase 0's time for a multiply-add, decoding taken off": Known(
        (BASELINE.seconds * 1e9 - 16_384 * PRICE_3B) / DECODES, " ns"
    ),
    "outputs": Known(128 * 128),
    "multiply-adds for an output": Known(128),
    "Phase 1's decodes": Known(DECODES),
    "Phase 1's decodes over Phase 2's": Known(1, "×"),
    "hits of Phase 3a": Known(1 - 64 / 131_072, "%"),
    "decodes of each block in Phase 3b": Known(DECODES_3B / 256 / 64),
    "a 7B at 4.5 bits, GB": Known(7.6e9 * 4.5 / 8 / 1e9, " GB"),
    "a pool of B and Bt for a 14B, GB": Known(2 * 4 * 5120 * (5120 + 1024 + 13_824 + 152_064) / 1e9, " GB"),
    "copies of one matrix of a 14B, MB": Known(2 * 4 * 5120 * 13824 / 1e6, " MB"),
    "seconds a token, from 0.05 tokens a second": Known(1 / 0.05, " s"),
    "20 tokens a second over 0.05": Known(20 / 0.05, "×"),
    "30 tokens a second over 0.05": Known(30 / 0.05, "×"),
    "Go's profile: seconds a token of a 7B": Known(99.13 / 3, " s"),
    "Go's profile: share inside matmul": Known(0.95, "%"),
    "Go's profile: share of the transpose": Known(74.87 / 99.13, "%"),
    "Go's profile: share of allocation": Known(5.63 / 99.13, "%"),
    "Go: products and tokens that ended without a panic, share": Known(1.0, "%"),
    "what the report's Q6_K decoder gets right": Known(0.036, "%"),
    "operations of attention for twice the tokens": Known(sum(range(1, 1025)) / sum(range(1, 513)), "×"),
    "bytes of a 14B in Q4_K with one layer of 48 in float32": Known((47 * 4.5 + 32) / (48 * 4.5), "×"),
}


# Figures that lessons measure: name and unit

RIDGE = {f"FLOP for each byte over what the machine balances, {rows}": "×" for rows in ("128 rows", "1 row")}
MEASURED = {
    "13": {
        "closest fused kernel, 128 rows": "×",
        "closest fused kernel, 1 row": "×",
        **{f"slowdown of {phase}, {rows}": "×" for phase in PHASES for rows in ("128 rows", "1 row")},
        "five changes against Phase 0, 128 rows": "×",
        "five changes against Phase 0, 1 row": "×",
        "best fused kernel over Phase 0, 1 row": "×",
        "Phase 0 over the best known, 128 rows": "×",
        "Phase 0 over the best known, 1 row": "×",
        "memory of Phase 0": " kB",
        "memory of Phase 1": " kB",
        "memory of Phase 2": " kB",
        "memory of Phase 3a, 16 workers": " kB",
        "memory of Phase 3b": " kB",
        "memory saved by Phase 1": "%",
        "memory saved by Phase 1, kB": " kB",
        "a worker of Phase 3a adds allocations": "",
        "allocations of Phase 0": "",
        "decoding over decoding with SIMD, 128 rows": "×",
        "decoding over decoding with SIMD, 1 row": "×",
        "dot products over BLAS on one core, 128 rows": "×",
        "dot products over BLAS on one core, 1 row": "×",
        "bytes from float to float, dot products": "",
        "bytes from float to float, transpose": "",
        "share of the transpose in Phase 0, 128 rows": "%",
        "share of the transpose in Phase 0, 1 row": "%",
        "Phase 0 with SIMD in decoding, 128 rows": "×",
        "Phase 0 with SIMD in decoding, 1 row": "×",
        "a decode of Phase 1": " ns",
        "a decode of a whole block's weight": " ns",
        "a multiply-add of Phase 0's dot products": " ns",
        "inlining, mean factor, 128 rows": "×",
        "inlining, mean factor, 1 row": "×",
        "reading in sequence, 128 rows": "×",
        "reading in sequence, 1 row": "×",
        "SIMD after all five changes, 128 rows": "×",
        "SIMD after all five changes, 1 row": "×",
        "one by one, inlined, one scale: gain, 128 rows": "×",
        "one by one, inlined, one scale: gain, 1 row": "×",
        "scales, orientation and reuse over inlining and SIMD, 128 rows": "×",
        "reading in sequence, share of the whole factor, 128 rows": "%",
        "a look-up of Phase 3a": " ns",
        "decoding, share of Phase 3a": "%",
        "columns first over rows first": "×",
        "a over one core's second-level cache": "×",
        **RIDGE,
        "bytes read, Phase 0 over a kernel without copies, 1 row": "×",
        "weights decoded, Phase 1 over Phase 0, 128 rows": "×",
        "weights decoded, Phase 1 over Phase 0, 1 row": "×",
        "right weights of the report's Q4_K decoder": "%",
        "right weights of the report's Q5_K decoder": "%",
        "weights that two runs of the decoder tell apart": "%",
        "float32 copies for a token over a 14B's bytes": "×",
    },
    "14": {
        **RIDGE,
        "one stream of a 14B on the report's laptop": " tokens/s",
        "one stream of a 14B here": " tokens/s",
    },
    "16": {
        "best fused kernel over Phase 0, 1 row": "×",
        "best loop of the compiler's over the kernel by hand, 1 row": "×",
    },
    "17": {
        "baseline with BLAS over the best fused kernel, 128 rows": "×",
        "baseline with BLAS over the best fused kernel, 1 row": "×",
        "tokens in all, 16 users over one": "×",
    },
    "20": {
        "slowest layout of the keys over the fastest": "×",
        "bytes copied by a growing cache for twice the tokens": "×",
        "tokens whose keys and values weigh as much as a layer": "",
    },
    "22": {
        "time inside matmul": "%",
        "attention, share of a token": "%",
        "RoPE, share of a token": "%",
        "layer norm, share of a token": "%",
        "SwiGLU without its products, share of a token": "%",
        "KV cache, share of a token": "%",
        "allocations, share of a token": "%",
        "transpose, share of a token": "%",
        "tokens a second of a 14B, all but its products in no time": " tokens/s",
        "seconds a token of a 7B": " s",
    },
    "23": {
        "a prompt's attention, whole scores over the engine's tiles": "×",
        "bytes of a layer's scores over a tile's, 8,192 tokens": "×",
        "tokens at which attention multiplies as much as the matrices": "",
    },
    "24": {
        "a pool in the report's engine, times faster": "×",
        "fresh memory written over memory written again": "×",
        "arena of a prompt over what is in use at one time": "×",
    },
    "25": {
        "bytes of a float32 cache over those of q4_0": "×",
        "a token behind many, float32 cache over q8_0": "×",
    },
    "26": {"KL of a layer kept in float32 over that of a mix, at equal bytes": "×"},
    "27": {"perplexity of a pruned model over one of fewer bits, at equal bytes": "×"},
    "28": {
        "speed with guesses over without, quoting a text": "×",
        "speed with guesses over without, a story": "×",
        "speed with a draft over without, Austen": "×",
    },
    "29": {"tokens in all, 16 texts over one, in the batcher": "×"},
    "30": {
        "layers over cores, one stream, times as fast": "×",
        "layers over cores, 8 streams, times as fast": "×",
        "rows over cores, one stream, times as fast": "×",
    },
    "31": {
        "a token of one text on two stages over one process": "×",
        "tokens of two texts in turn over one at a time": "×",
    },
    "32": {
        "a 14B, one stream": " tokens/s",
        "a 14B, 16 streams in all": " tokens/s",
        "the product fused, times faster": "×",
    },
}


# The sentences

CLAIMS = {
    "S1.1": Claim(
        "Phase 3 optimizations did not achieve performance goals",
        "13",
        "None of its fused kernels beats its baseline, whatever the rows.",
        at_128=at_least("closest fused kernel, 128 rows", 1),
        at_1=at_least("closest fused kernel, 1 row", 1),
        go=at_least("Go: least slowdown", 1),
    ),
    "S1.2": Claim(
        "Revert to baseline dequant+matmul approach (Phase 0)",
        "13",
        "Of its own five, yes. For one row the question is a fused kernel that it did not write.",
        at_1=at_least("best fused kernel over Phase 0, 1 row", 1),
        go=at_least("Go: least slowdown", 1),
    ),
    "S1.3": Claim(
        "Current approach is already optimal",
        "13",
        "Optimal is within 1.5 of the best known: decoding with SIMD, then BLAS, or fused with SIMD.",
        at_128=at_most("Phase 0 over the best known, 128 rows", 1.5),
        at_1=at_most("Phase 0 over the best known, 1 row", 1.5),
    ),
    "S1.4": Claim(
        "fused implementations are 23-184x slower",
        "13",
        "Slower they are. How much depends on the cores; the least in its own table is 16.",
        go=about("Go: least slowdown", 23) + about("Go: greatest slowdown", 184),
        shows=("closest fused kernel, 128 rows", "slowdown of Phase 3b, 128 rows"),
    ),
    "S2.1": Claim(
        "Phase 0: Baseline (dequant+matmul) 488µs … 1.0x",
        "13",
        "A time is its machine's; that it is the first of the five travels.",
        at_128=at_least("closest fused kernel, 128 rows", 1),
        at_1=at_least("closest fused kernel, 1 row", 1),
        go=at_least("Go: least slowdown", 1),
    ),
    "S2.2": Claim(
        "Phase 0: … 212KB",
        "13",
        "The result and two float32 copies of B. The program run again has one copy less; why, we do not "
        "know.",
        at_128=about("memory of Phase 0", 212, 1.1),
        go=about("Go: memory of Phase 0", 212, 1.1),
    ),
    "S2.3": Claim(
        "Phase 0: … 44",
        "13",
        "A dozen, and about 2 for each of 16 workers. What costs is their size, not their number.",
        go=about("Go: Phase 0's allocations, 2 more for each of 14 more workers", 44, 1.1),
        shows=("allocations of Phase 0",),
    ),
    "S2.4": Claim(
        "Phase 1: Naive fused 58.1ms … 120x slower",
        "13",
        "One thread in both: the ratio travels with the program, but not to one row.",
        go=about("Go: slowdown of Phase 1", 120),
        at_1=about("slowdown of Phase 1, 1 row", 120),
        shows=("slowdown of Phase 1, 128 rows",),
    ),
    "S2.5": Claim(
        "Phase 1: … 66KB … 5",
        "13",
        "The result, and next to nothing else.",
        at_128=about("memory of Phase 1", 66, 1.1),
        go=about("Go: memory of Phase 1", 66, 1.1),
    ),
    "S2.6": Claim(
        "Phase 2: Optimized fused 8.0ms … 16x slower",
        "13",
        "Its gain was its threads, 16 there and 2 in the run again: the ratio is the machine's.",
        go=about("Go: slowdown of Phase 2", 16),
        at_1=about("slowdown of Phase 2, 1 row", 16),
        shows=("slowdown of Phase 2, 128 rows",),
    ),
    "S2.7": Claim(
        "Phase 2: … 68KB … 38",
        "13",
        "The result, and 2 small allocations for each worker.",
        at_128=about("memory of Phase 2", 68, 1.1),
        go=about("Go: Phase 2's allocations, 2 more for each of 14 more workers", 38, 1.1),
    ),
    "S2.8": Claim(
        "Phase 3a: Block cache (map-based) 11.4ms … 23x slower",
        "13",
        "The program run again agrees; another language's map and lock have another price.",
        go=about("Go: slowdown of Phase 3a", 23),
        at_1=about("slowdown of Phase 3a, 1 row", 23),
        shows=("slowdown of Phase 3a, 128 rows",),
    ),
    "S2.9": Claim(
        "Phase 3a: … 1.27MB … 1254",
        "13",
        "A float32 copy of B and a map for each of 16 workers.",
        at_128=about("memory of Phase 3a, 16 workers", 1270),
        go=about("Go: a worker of Phase 3a adds kB", 75, 1.1),
    ),
    "S2.10": Claim(
        "Phase 3b: Block cache V2 (column-major) 93ms … 184x slower",
        "13",
        "Slowest in every run. 93 over 0.488 is 191; 184 comes of 0.507, the baseline of an earlier run.",
        go=about("Go: slowdown of Phase 3b", 184),
        at_1=about("slowdown of Phase 3b, 1 row", 184),
        shows=("slowdown of Phase 3b, 128 rows",),
    ),
    "S2.11": Claim(
        "Phase 3b: … 68KB … 38",
        "13",
        "The result, and one block for each worker.",
        at_128=about("memory of Phase 3b", 68, 1.1),
        go=about("Go: memory of Phase 3b", 68, 1.1),
    ),
    "S3.1": Claim("Baseline Is Already Optimal", "13", "See S1.3.", same_as="S1.3"),
    "S3.2": Claim("current dequant+matmul approach achieves ~488µs", "13", "See S2.1.", same_as="S2.1"),
    "S3.3": Claim(
        "Batch dequantization: Highly optimized with SIMD potential",
        "13",
        "Potential is what SIMD still gains; highly optimized would leave it less than 1.5.",
        at_128=at_most("decoding over decoding with SIMD, 128 rows", 1.5),
        at_1=at_most("decoding over decoding with SIMD, 1 row", 1.5),
    ),
    "S3.4": Claim(
        "Batch dequantization: … (~200µs)",
        "13",
        "Its own sum, in the next section, has 245.",
        at_128=about("report's sum: decoding", 200, 1.1),
    ),
    "S3.5": Claim(
        "Float32 matmul: … (~250µs)",
        "13",
        "Its own sum has 210: the two halves have changed places.",
        at_128=about("report's sum: the product", 250, 1.1),
    ),
    "S3.6": Claim(
        "Float32 matmul: Perfect cache locality",
        "13",
        "The dot products read float after float. What made that possible, the transpose, does not (S3.8).",
        at_128=at_most("bytes from float to float, dot products", 4),
        at_1=at_most("bytes from float to float, dot products", 4),
    ),
    "S3.7": Claim(
        "Float32 matmul: … compiler optimization",
        "13",
        "All its cores within 1.5 of BLAS on one: its compiler does not vectorize sums.",
        at_128=at_most("dot products over BLAS on one core, 128 rows", 1.5),
        at_1=at_most("dot products over BLAS on one core, 1 row", 1.5),
    ),
    "S3.8": Claim(
        "Sequential memory access: Maximizes CPU cache efficiency",
        "13",
        "Decoding and dot products go from float to float; the transpose between them jumps over a row.",
        at_128=at_most("bytes from float to float, transpose", 4),
        at_1=at_most("bytes from float to float, transpose", 4),
    ),
    "S3.9": Claim(
        "50-100ns × 2M calls = 100ms theoretical",
        "13",
        "Its own Phase 1, one thread, gives the price of a call: less than it assumes.",
        at_128=at_least("report's table: a decode of Phase 1", 50),
        go=at_least("Go: a decode of Phase 1", 50),
        shows=("a decode of Phase 1",),
    ),
    "S3.10": Claim(
        "Function call overhead: Cannot inline across module boundary",
        "13",
        "What inlining is worth, the mean over all orders of the five changes; it counts from 1.5.",
        at_128=at_least("inlining, mean factor, 128 rows", 1.5),
        at_1=at_least("inlining, mean factor, 1 row", 1.5),
    ),
    "S3.11": Claim(
        "Cache inefficiency: Non-sequential quantized data access",
        "13",
        "The same calls and headers, the weights in sequence; it counts from 1.5.",
        at_128=at_least("reading in sequence, 128 rows", 1.5),
        at_1=at_least("reading in sequence, 1 row", 1.5),
    ),
    "S3.12": Claim(
        "No SIMD: Element-by-element scalar operations",
        "13",
        "True of the kernel, and of the baseline that beats it; a cause if SIMD is worth 1.5.",
        at_128=at_least("SIMD after all five changes, 128 rows", 1.5),
        at_1=at_least("SIMD after all five changes, 1 row", 1.5),
    ),
    "S3.13": Claim(
        "Map lookup overhead: map[int][]float32 with mutex locking",
        "13",
        "All but a tenth of the time goes into look-ups, not into decoding.",
        at_128=at_most("decoding, share of Phase 3a", 0.1),
        shows=("a look-up of Phase 3a",),
    ),
    "S3.14": Claim(
        "Excessive allocations: 1254 allocs vs 38 (33x more)",
        "13",
        "1254 = 38 + 16 workers × 76: 64 for the blocks, the rest for the map.",
        at_128=about("report's table: a worker of Phase 3a adds allocations", 76, 1.1),
        go=about("Go: a worker of Phase 3a adds allocations", 76, 1.1),
        shows=("a worker of Phase 3a adds allocations",),
    ),
    "S3.15": Claim(
        "Memory overhead: 1.27MB vs 68KB (19x more)",
        "13",
        "See S2.9.",
        same_as="S2.9",
    ),
    "S3.16": Claim(
        "Poor cache hits: Each block used only once per row",
        "13",
        "A row of A asks for each block 256 times: 64 misses in 131,072 look-ups.",
        at_128=at_most("hits of Phase 3a", 0.5),
    ),
    "S3.17": Claim(
        "Destroyed A matrix locality: Column-major access pattern",
        "13",
        "The same dot products, columns first; it counts from 1.5.",
        at_128=at_least("columns first over rows first", 1.5),
    ),
    "S3.18": Claim(
        "Cache thrashing: Jumping across rows of A matrix",
        "13",
        "A has 65,536 bytes: it thrashes where that is more than a core's second-level cache.",
        at_128=at_least("a over one core's second-level cache", 1),
    ),
    "S3.19": Claim(
        "No benefit from block reuse: Overhead exceeds gains",
        "13",
        "There is no reuse that could gain: each block is decoded again and again.",
        at_128=at_most("decodes of each block in Phase 3b", 16),
    ),
    "S3.20": Claim(
        "Memory Savings Don't Matter",
        "13",
        "For 128 rows a byte is used for many operations; for one row, bytes read are the time.",
        at_128=at_least("FLOP for each byte over what the machine balances, 128 rows", 1),
        at_1=at_most("bytes read, Phase 0 over a kernel without copies, 1 row", 1.5),
    ),
    "S3.21": Claim(
        "fused approaches save 69% memory (212KB → 68KB)",
        "13",
        "Counted: the two copies of B. The program run again has only one to save.",
        at_128=about("memory saved by Phase 1", 0.69, 1.1),
        go=about("Go: memory saved by Phase 1", 0.69, 1.1),
    ),
    "S3.22": Claim(
        "Absolute savings: Only 144KB per operation",
        "13",
        "At 128 × 128. The copies of one matrix of a 14B, made again for each token, are no KB.",
        at_128=about("memory saved by Phase 1, kB", 144, 1.2),
        at_1=about("copies of one matrix of a 14B, MB", 0.144),
        go=about("Go: memory saved by Phase 1, kB", 144, 1.2),
    ),
    "S3.23": Claim(
        "Model size: 4.2GB total",
        "13",
        "Right for the 7B that ran. It is not the 14B of the target, and the report does not say so.",
        at_1=about("a 7B at 4.5 bits, GB", 4.2, 1.1),
        inference=True,
    ),
    "S3.24": Claim(
        "Inference bottleneck: Compute-bound, not memory-bound",
        "13",
        "True for the 128 rows that were measured; the sentence says inference, which has one.",
        at_128=at_least("FLOP for each byte over what the machine balances, 128 rows", 1),
        at_1=at_least("FLOP for each byte over what the machine balances, 1 row", 1),
        inference=True,
    ),
    "S3.25": Claim(
        "16-184x slower for negligible memory gain",
        "13",
        "The slowdowns: see S1.4. The gain: S3.20.",
        same_as="S1.4",
    ),
    "S4.1": Claim(
        "element-wise dequantization is inherently slow",
        "13",
        "Still one weight at a time, but inlined and with one scale unpacked; inherent if that gains < 2.",
        at_128=at_most("one by one, inlined, one scale: gain, 128 rows", 2),
        at_1=at_most("one by one, inlined, one scale: gain, 1 row", 2),
    ),
    "S4.2": Claim("16,384 output elements", "13", "Counted.", at_128=about("outputs", 16_384, 1)),
    "S4.3": Claim(
        "Each requires 128 accumulations",
        "13",
        "Counted.",
        at_128=about("multiply-adds for an output", 128, 1),
    ),
    "S4.4": Claim(
        "Total: 16,384 × 128 = 2,097,152 dequantizations",
        "13",
        "Counted: each weight of B 128 times.",
        at_128=about("Phase 1's decodes", 2_097_152, 1),
    ),
    "S4.5": Claim(
        "At 50ns each = 105ms (theoretical minimum)",
        "13",
        "One thread of its own Phase 1 is below it. An estimate is no minimum.",
        at_128=at_least("report's table: all decodes of Phase 1", 105),
        go=at_least("Go: all decodes of Phase 1", 105),
    ),
    "S4.6": Claim(
        "Observed: 8ms (with parallelization and caching)",
        "13",
        "Parallel it is. It caches nothing: it decodes as often as Phase 1.",
        at_128=at_least("Phase 1's decodes over Phase 2's", 2),
    ),
    "S4.7": Claim(
        "Batch dequant: 16,384 elements × 15ns = 245µs",
        "13",
        "Its Phase 3b decodes 268,435,456 weights; 16 threads at 15 ns would need far longer than 93 ms.",
        at_128=about("report's table: a decode of Phase 3b, at most", 15),
        go=about("Go: a decode of Phase 3b, at most", 15),
        shows=("a decode of a whole block's weight",),
    ),
    "S4.8": Claim(
        "Float matmul: 2,097,152 MACs × 0.1ns = 210µs",
        "13",
        "With decoding at the price of Phase 3b, nearly twice as much is left; the transpose is in it.",
        at_128=about("report's table: Phase 0's time for a multiply-add, decoding taken off", 0.1),
        shows=("a multiply-add of Phase 0's dot products",),
    ),
    "S4.9": Claim(
        "Total: ~455µs (actual: 488µs)",
        "13",
        "The sum comes out; it leaves out the transpose, which should then be less than a tenth.",
        at_128=about("report's sum against its time", 1, 1.1)
        + at_most("share of the transpose in Phase 0, 128 rows", 0.1),
        at_1=at_most("share of the transpose in Phase 0, 1 row", 0.1),
    ),
    "S4.10": Claim(
        "100x more efficient because it amortizes dequantization cost",
        "13",
        "Right, and the factor is exactly M, the rows.",
        at_128=at_least("weights decoded, Phase 1 over Phase 0, 128 rows", 100),
        at_1=at_least("weights decoded, Phase 1 over Phase 0, 1 row", 100),
        go=about("Go: slowdown of Phase 1", 100),
    ),
    "S5.1": Claim(
        "Profile Before Optimizing: Assumptions about bottlenecks were wrong",
        "22",
        "They were, and went on being: a profile shows that the time is inside matmul.",
        at_1=at_least("time inside matmul", 0.5),
        go=at_least("Go's profile: share inside matmul", 0.5),
        inference=True,
    ),
    "S5.2": Claim(
        "Fused approach showed no promise from Phase 1",
        "13",
        "Five changes on from Phase 1, without SIMD: no promise if still over 1.1 times Phase 0's time.",
        at_128=at_least("five changes against Phase 0, 128 rows", 1.1),
        at_1=at_least("five changes against Phase 0, 1 row", 1.1),
    ),
    "S5.3": Claim(
        "69% memory savings not worth 16x slowdown",
        "13",
        "Nobody would want Phase 2's bargain. For one row no slowdown comes with the saving.",
        at_1=at_least("best fused kernel over Phase 0, 1 row", 1),
        go=at_least("Go: slowdown of Phase 2", 1.5),
        shows=("slowdown of Phase 2, 128 rows",),
    ),
    "S5.4": Claim(
        "Hand-optimized loops rarely beat compiler+SIMD",
        "16",
        "Lesson 16's row, written by hand, against the best loop that LLVM vectorizes.",
        at_1=at_most("best loop of the compiler's over the kernel by hand, 1 row", 1.1),
        shows=("scales, orientation and reuse over inlining and SIMD, 128 rows",),
    ),
    "S5.5": Claim(
        "Cache Locality Matters: Access patterns dominate performance",
        "13",
        "Half of the whole factor at 128 rows; for one row, half of Phase 0, by its transpose.",
        at_128=at_least("reading in sequence, share of the whole factor, 128 rows", 0.5),
        at_1=at_least("share of the transpose in Phase 0, 1 row", 0.5),
        go=at_least("Go's profile: share of the transpose", 0.5),
    ),
    "S6.1": Claim(
        "Reverted to Phase 0 (baseline): Fastest implementation", "13", "See S1.2.", same_as="S1.2"
    ),
    "S6.2": Claim(
        "Q4_K Support: ✅ Working",
        "13",
        "It runs, and nearly every weight is wrong: nibbles and scales are read in another order.",
        at_128=at_least("right weights of the report's Q4_K decoder", 0.99),
        at_1=at_least("right weights of the report's Q4_K decoder", 0.99),
    ),
    "S6.3": Claim(
        "(no more panics)",
        "13",
        "True, and it deserves credit: kernels and whole tokens ran to their end when run again.",
        go=at_least("Go: products and tokens that ended without a panic, share", 1),
    ),
    "S6.4": Claim(
        "Correctness: ✅ All 19 tests passing",
        "13",
        "They compare the code with itself. Correct needs a second opinion.",
        at_128=at_least("right weights of the report's Q5_K decoder", 0.99),
        at_1=at_least("right weights of the report's Q5_K decoder", 0.99),
        shows=("weights that two runs of the decoder tell apart",),
    ),
    "S6.5": Claim(
        "Inference still slow (~18s per token)",
        "13",
        "0.05 tokens a second, as it says below, are 20 s; the profile of that engine has 33 elsewhere.",
        at_1=about("seconds a token, from 0.05 tokens a second", 18),
        go=about("Go's profile: seconds a token of a 7B", 18),
        inference=True,
        shows=("seconds a token of a 7B",),
    ),
    "S7.1": Claim(
        "The inference slowness is not caused by matmul",
        "22",
        "The profile of the day has about 95 % inside matmul.",
        at_1=at_most("time inside matmul", 0.5),
        go=at_most("Go's profile: share inside matmul", 0.5),
        inference=True,
    ),
    "S7.2": Claim(
        "Other bottlenecks to investigate: … Attention mechanism",
        "22",
        "A bottleneck from a tenth of a token's time; attention's share grows with the text.",
        at_1=at_least("attention, share of a token", 0.1),
        inference=True,
    ),
    "S7.3": Claim(
        "Self-attention is O(n²) in sequence length",
        "13",
        "Counted for all tokens together: twice as many, four times the operations.",
        at_1=about("operations of attention for twice the tokens", 4, 1.05),
        shows=("tokens whose keys and values weigh as much as a layer",),
        inference=True,
    ),
    "S7.4": Claim(
        "RoPE (Rotary Position Embeddings): Trigonometric operations per token",
        "22",
        "A bottleneck from a tenth of a token's time.",
        at_1=at_least("RoPE, share of a token", 0.1),
        inference=True,
    ),
    "S7.5": Claim(
        "Tensor allocations: Excessive memory allocation per forward pass",
        "13",
        "Two float32 copies of each weight for each token, several times the model. Matmul makes them.",
        at_1=at_least("float32 copies for a token over a 14B's bytes", 1),
        inference=True,
        shows=("fresh memory written over memory written again",),
    ),
    "S7.6": Claim(
        "Layer Norm: sqrt() and division operations",
        "22",
        "A bottleneck from a tenth of a token's time.",
        at_1=at_least("layer norm, share of a token", 0.1),
        inference=True,
    ),
    "S7.7": Claim(
        "SwiGLU activation: Gate mechanism with multiple matmuls",
        "22",
        "What is not matmul in it, which the report has ruled out: a bottleneck from a tenth.",
        at_1=at_least("SwiGLU without its products, share of a token", 0.1),
        inference=True,
    ),
    "S7.8": Claim(
        "KV Cache: Memory layout and access patterns",
        "22",
        "A bottleneck from a tenth of a token's time.",
        at_1=at_least("KV cache, share of a token", 0.1),
        shows=("bytes copied by a growing cache for twice the tokens",),
        inference=True,
    ),
    "S8.1": Claim(
        "Use Phase 0 baseline for all quantized matmul",
        "17",
        "All: its idea at its best, SIMD and BLAS, within 1.1 of the best fused kernel at each size.",
        at_128=at_most("baseline with BLAS over the best fused kernel, 128 rows", 1.1),
        at_1=at_most("baseline with BLAS over the best fused kernel, 1 row", 1.1),
    ),
    "S8.2": Claim(
        "Keep Q4_K/Q5_K/Q6_K dequantization implementations",
        "13",
        "Its most dangerous advice: nearly all their weights are wrong, in every kernel that uses them.",
        at_128=at_least("right weights of the report's Q4_K decoder", 0.99)
        + at_least("right weights of the report's Q5_K decoder", 0.99)
        + at_least("what the report's Q6_K decoder gets right", 0.99),
    ),
    "S8.3": Claim(
        "Maintain test suite for correctness validation",
        "13",
        "A test that a wrong decoder passes validates nothing: its two runs agree to the last bit.",
        at_128=at_least("weights that two runs of the decoder tell apart", 0.01),
    ),
    "S8.4": Claim(
        "Profile real inference: Find actual bottlenecks with pprof",
        "22",
        "The best advice of the report: a profile of the same day names the line.",
        at_1=at_least("transpose, share of a token", 0.1),
        go=at_least("Go's profile: share of the transpose", 0.1),
        inference=True,
    ),
    "S8.5": Claim(
        "Optimize attention: Flash Attention or similar techniques",
        "23",
        "Tiles count from a tenth faster; of it all they save at most attention's share (S7.2).",
        at_1=at_least("a prompt's attention, whole scores over the engine's tiles", 1.1),
        shows=(
            "bytes of a layer's scores over a tile's, 8,192 tokens",
            "tokens at which attention multiplies as much as the matrices",
            "attention, share of a token",
        ),
        inference=True,
    ),
    "S8.6": Claim(
        "Reduce allocations: Preallocate tensors, reuse buffers",
        "24",
        "What a pool gains in its engine, B and Bt of each product included; it counts from 1.05.",
        at_1=at_least("a pool in the report's engine, times faster", 1.05),
        go=at_least("Go's profile: share of allocation", 0.05),
        inference=True,
        shows=(
            "allocations, share of a token",
            "a pool of B and Bt for a 14B, GB",
            "arena of a prompt over what is in use at one time",
        ),
    ),
    "S8.7": Claim(
        "SIMD dequantization: AVX2/NEON for batch dequant",
        "13",
        "Phase 0 with only its decoding changed; it counts from 1.1.",
        at_128=at_least("Phase 0 with SIMD in decoding, 128 rows", 1.1),
        at_1=at_least("Phase 0 with SIMD in decoding, 1 row", 1.1),
    ),
    "S8.8": Claim(
        "KV cache optimization: Better memory layout",
        "20",
        "The slowest of three layouts over the fastest, many tokens; it counts from 1.1.",
        at_1=at_least("slowest layout of the keys over the fastest", 1.1),
        shows=(
            "bytes of a float32 cache over those of q4_0",
            "a token behind many, float32 cache over q8_0",
        ),
        inference=True,
    ),
    "S8.9": Claim(
        "Parallel layers: Pipeline execution across cores",
        "30",
        "One token passes the layers one after the other: the next one does not exist yet.",
        at_1=at_least("layers over cores, one stream, times as fast", 1.3),
        inference=True,
        shows=(
            "layers over cores, 8 streams, times as fast",
            "rows over cores, one stream, times as fast",
            "a token of one text on two stages over one process",
            "tokens of two texts in turn over one at a time",
        ),
    ),
    "S8.10": Claim(
        "Hybrid quantization: Keep some layers in Float32",
        "26",
        "Austen in Q4_K, its best layer kept, against a mix of as many bytes; it counts up to 1.",
        at_1=at_most("KL of a layer kept in float32 over that of a mix, at equal bytes", 1),
        shows=("bytes of a 14B in Q4_K with one layer of 48 in float32",),
        inference=True,
    ),
    "S8.11": Claim(
        "Dynamic batching: Process multiple requests together",
        "17",
        "Tokens of 16 users together over those of one; it counts from 2. A scheduler: lesson 29.",
        at_1=at_least("tokens in all, 16 users over one", 2),
        inference=True,
        shows=("tokens in all, 16 texts over one, in the batcher",),
    ),
    "S8.12": Claim(
        "Speculative decoding: Parallel draft-and-verify",
        "28",
        "Its rows cost little; guesses must be right. Quoting counts from 1.5, looked up in the prompt.",
        at_1=at_least("speed with guesses over without, quoting a text", 1.5),
        shows=(
            "speed with guesses over without, a story",
            "speed with a draft over without, Austen",
        ),
        inference=True,
    ),
    "S8.13": Claim(
        "Model pruning: Remove less important weights",
        "27",
        "Alone: half of Austen's layers against Q8_0, as many bytes; up to 1. With fewer bits: lesson 27.",
        at_1=at_most("perplexity of a pruned model over one of fewer bits, at equal bytes", 1),
        inference=True,
    ),
    "S9.1": Claim("Phase 3 optimizations were unsuccessful", "13", "See S1.1.", same_as="S1.1"),
    "S9.2": Claim("but educational", "13", "You are here.", opinion=True),
    "S9.3": Claim(
        "The baseline dequant+matmul approach remains the best option", "17", "See S8.1.", same_as="S8.1"
    ),
    "S9.4": Claim("Identifying actual bottlenecks (not matmul)", "22", "See S7.1.", same_as="S7.1"),
    "S9.5": Claim("Reducing tensor allocations", "24", "See S8.6.", same_as="S8.6"),
    "S9.6": Claim(
        "Optimizing attention mechanisms",
        "22",
        "A real gain for a token is at most attention's share: see S7.2. For a long prompt: S8.5.",
        same_as="S7.2",
    ),
    "S9.7": Claim(
        "Better memory access patterns",
        "13",
        "Right, and the credit is the report's: the transpose walks across memory, in matmul.",
        at_1=at_least("share of the transpose in Phase 0, 1 row", 0.25),
        go=at_least("Go's profile: share of the transpose", 0.25),
        inference=True,
    ),
    "S9.8": Claim(
        "Performance Target: 20-30 tokens/sec for 14B model",
        "14",
        "What reading allows one stream on its laptop. Several tokens for each pass: lesson 32.",
        at_1=at_least("one stream of a 14B on the report's laptop", 20),
        inference=True,
        shows=("one stream of a 14B here", "a 14B, one stream", "a 14B, 16 streams in all"),
    ),
    "S9.9": Claim(
        "Current: ~0.05 tokens/sec (400x too slow)",
        "13",
        "20 over 0.05; to 30 it is 600. From 18 s a token, 360 to 540.",
        at_1=about("20 tokens a second over 0.05", 400, 1.1) + about("30 tokens a second over 0.05", 400),
        inference=True,
    ),
    "S9.10": Claim(
        "Need to find and fix 400x slowdown in non-matmul code",
        "22",
        "If all else took no time, its products alone would still have to give 20 tokens a second.",
        at_1=at_least("tokens a second of a 14B, all but its products in no time", 20),
        inference=True,
        shows=("the product fused, times faster",),
    ),
}
