"""The table of the report, as it was published, and the same Go code run again.

    REPORT   "Phase 3 Optimization Results", 128 x 128 times 128 x 128, 16 hardware threads
    RERUN    the engine behind it, built and run again for this course on two cores of another machine

Both are quoted, not computed: they stand beside what this machine measures.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """Time in seconds, memory in bytes, number of allocations, all of one call."""

    seconds: float
    nbytes: int
    allocations: int


REPORT = {
    "phase0_baseline": Row(488e-6, 212_000, 44),
    "phase1_naive_fused": Row(58.1e-3, 66_000, 5),
    "phase2_optimized_fused": Row(8.0e-3, 68_000, 38),
    "phase3a_block_cache": Row(11.4e-3, 1_270_000, 1254),
    "phase3b_column_major": Row(93e-3, 68_000, 38),
}

RERUN = {
    "phase0_baseline": Row(1.45e-3, 145_000, 18),
    "phase1_naive_fused": Row(152e-3, 66_000, 5),
    "phase2_optimized_fused": Row(77e-3, 66_000, 10),
    "phase3a_block_cache": Row(38e-3, 216_000, 162),
    "phase3b_column_major": Row(546e-3, 66_000, 10),
}
