"""The ledger: every claim of the report, how it was tested, this machine's figure, and a verdict.

    book = Ledger()                                  the report's CLAIMS, none of them judged
    book.enter("100x", judge_parts(a, b), figure)    a verdict, from what was measured or counted
    book                                             shows itself as a table, section by section

A verdict is made by a rule: `judge_ratio` where the claim is a factor, `judge_parts` where it says
something that is so or not, in one part or several. The rule's threshold stands with the claim.

Source: "Phase 3 Optimization Results", whose words the claims quote.
"""

import html
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from blocks2tokens.course import plot

HOLDS, IN_PART, FAILS, OPEN = "holds", "holds in part", "does not hold", "cannot be tested here"
VERDICTS = {
    HOLDS: ("✓", plot.GREEN),
    IN_PART: ("◐", "#B87800"),
    FAILS: ("✗", plot.RED),
    OPEN: ("?", plot.GREY),
}


@dataclass(frozen=True)
class Claim:
    """What the report says, in which of its sections, and how it is tested, thresholds included."""

    section: str
    quote: str
    how: str


def _claims():
    by_section = {
        "Executive Summary": {
            "range": (
                "fused implementations are 23-184x slower",
                "at 128³; parts: all slower; the least and the greatest within a factor of 1.5. In the "
                "report's own table the least is 16",
            ),
            "optimal": (
                "Current approach is already optimal",
                "Phase 0 over the fused kernel with all five changes and SIMD, 128 rows and 1 row; optimal "
                "is within a factor of 1.5",
            ),
            "revert": (
                "Revert to baseline dequant+matmul approach (Phase 0)",
                "parts: the fastest of the report's five kernels at each size; at one row also faster than "
                "the fused kernel with five changes, no SIMD",
            ),
        },
        "Performance Comparison": {
            "488": ("Phase 0: 488µs", "another processor: times compare as ratios only"),
            "phase1": ("Phase 1: 120x slower", "within a factor of 1.5; in part if slower at all"),
            "phase2": ("Phase 2: 16x slower", "the same; the report had 16 threads"),
            "phase3a": ("Phase 3a: 23x slower", "the same; the report had 16 threads"),
            "phase3b": ("Phase 3b: 184x slower", "the same; the report's own times give 191"),
            "memory": (
                "212KB | 66KB",
                "counted, Phases 0 and 1: result and float32 copies; each within 10 %",
            ),
        },
        "1. Baseline Is Already Optimal": {
            "simd": (
                "Batch dequantization: Highly optimized with SIMD potential",
                "parts: within a factor of 1.5 of decoding with SIMD (optimized); SIMD is faster (potential)",
            ),
            "matmul": (
                "Float32 matmul: Perfect cache locality and compiler optimization",
                "parts: the dot products read float after float; on all cores within a factor of 1.5 of BLAS "
                "on one",
            ),
            "sequential": (
                "Sequential memory access: Maximizes CPU cache efficiency",
                "parts: decoding, transpose, dot products: 4 bytes from one float to the next",
            ),
        },
        "2. Fused Approach Bottlenecks": {
            "50ns": (
                "50-100ns × 2M calls = 100ms theoretical",
                "a thread's time for one of the 2,097,152 calls; parts: from 50 to 100 ns in the report's "
                "Phase 2, in the Go re-run's, in the report's Phase 1, in Phase 1 here",
            ),
            "inline": (
                "Function call overhead: Cannot inline across module boundary",
                "what inlining is worth, least and greatest of 120 orders; parts: each at least 1.5",
            ),
            "access": (
                "Cache inefficiency: Non-sequential quantized data access",
                "the same calls and headers, weights in sequence; counts from 1.5",
            ),
            "no simd": (
                "No SIMD: Element-by-element scalar operations",
                "parts: SIMD would make it faster, by a tenth at least; the baseline decodes as fast "
                "as with SIMD, within 1.5, so that it tells the two apart",
            ),
            "lookup": (
                "Map lookup overhead: map[int][]float32 with mutex locking",
                "Phase 3a's time, all workers, per look-up; holds if decoding is less than 10 % of it",
            ),
            "allocations": (
                "Excessive allocations: 1254 allocs vs 38 (33x more)",
                "1254 = 38 + 16 workers × 76; what one worker adds, within a factor of 1.5 of 76",
            ),
            "19x": (
                "Memory overhead: 1.27MB vs 68KB (19x more)",
                "counted for 16 workers: the result and a float32 copy for each; within a factor of 1.5",
            ),
            "hits": (
                "Poor cache hits: Each block used only once per row",
                "counted: 1 − blocks decoded / look-ups; poor is below half. A row of A asks for each block "
                "256 times",
            ),
            "locality": (
                "Destroyed A matrix locality: Column-major access pattern",
                "dot products on decoded weights, columns first over rows first; counts from 1.5",
            ),
            "thrashing": (
                "Cache thrashing: Jumping across rows of A matrix",
                "is A larger than one core's second-level cache?",
            ),
            "no benefit": (
                "No benefit from block reuse: Overhead exceeds gains",
                "parts: slower than the baseline; the blocks are reused, each decoded once for each worker",
            ),
        },
        "3. Memory Savings Don't Matter": {
            "69%": (
                "fused approaches save 69% memory (212KB → 68KB)",
                "counted, Phase 1 against Phase 0, to 5 points. What is left is the result, which both need",
            ),
            "144KB": (
                "Absolute savings: Only 144KB per operation",
                "parts: counted at 128³, to 15 %; small for a matrix of a 14B model, 5120 × 13824, too: "
                "below 1 MB",
            ),
            "4.2GB": (
                "Model size: 4.2GB total",
                "the 14B model of the report's target at 4.5 bits, to 25 %; and what 4.2 GB would hold",
            ),
            "compute": (
                "Inference bottleneck: Compute-bound, not memory-bound",
                "parts: FLOP per byte of Q4_K above what this machine balances, for 128 rows, the benchmark; "
                "for one, inference",
            ),
            "savings": (
                "Memory Savings Don't Matter",
                "bytes read at one row, Phase 0 with its copies over a kernel without; no matter: below 1.5",
            ),
        },
        "Root Cause Analysis": {
            "2097152": ("16,384 × 128 = 2,097,152 dequantizations", "counted"),
            "minimum": (
                "At 50ns each = 105ms (theoretical minimum). Observed: 8ms (with parallelization and "
                "caching)",
                "no single thread may beat a minimum; parts: the report's Phase 1, this machine's, at least "
                "105 ms",
            ),
            "inherently": (
                "element-wise dequantization is inherently slow",
                "one weight at a time, as often, one thread, no SIMD: no calls and blocks along K; inherent "
                "if that gains less than 2",
            ),
            "455": (
                "Batch dequant … = 245µs, Float matmul … = 210µs, Total: ~455µs (actual: 488µs)",
                "parts: the sum is within 10 % of the time; the transpose, which it leaves out, is at"
                " most 10 % of Phase 0's pieces, at 128 rows; for one row, 2048 × 1024",
            ),
            "100x": (
                "The baseline is 100x more efficient because it amortizes dequantization cost",
                "weights decoded, Phase 1 over Phase 0: exactly M; parts: at least 100 for 128 rows, for 1",
            ),
        },
        "Lessons Learned": {
            "early": (
                "Fused approach showed no promise from Phase 1",
                "a fused kernel five changes away, no SIMD, over Phase 0; parts: above 1.1 at 128 rows, at 1",
            ),
            "compiler": (
                "Hand-optimized loops rarely beat compiler+SIMD",
                "what a compiler can do, inlining and SIMD, by their mean factors; parts: worth 1.5; "
                "more than scales, orientation and reuse, which hands changed",
            ),
            "patterns": (
                "Access patterns dominate performance",
                "parts: reading in sequence alone is half of the whole factor (logarithms); the "
                "transpose half of Phase 0's pieces for one row, 2048 × 1024",
            ),
        },
        "Current Status": {
            "q4_k": (
                "Q4_K Support: Working (no more panics)",
                "random weights that a decoder with the report's mistakes gets right; 99 %. Source: its own "
                "gets 0.09 %",
            ),
            "19 tests": (
                "Correctness: All 19 tests passing",
                "parts: such a decoder agrees with itself; with ggml's on 99 %. Source: the report's own "
                "agree on 0.04 % (Q5_K), 3.6 % (Q6_K)",
            ),
            "18s": (
                "Inference still slow (~18s per token)",
                "that engine is rebuilt and profiled in lesson 22",
            ),
        },
        "Next Steps": {
            "not matmul": (
                "The inference slowness is not caused by matmul",
                "the weights of a 7B, as its 4.2 GB say, × Phase 0's time for one at one row; × the report's "
                "15 ns; parts: each below half of 18 s. It shows that matmul is enough. Source: a profile of "
                "that engine on a 7B, 3 tokens in 99 s: transpose 75, decoding 17, dot products 11: about "
                "95 % is inside matmul",
            ),
            "attention": (
                "Attention mechanism: Self-attention is O(n²) in sequence length",
                "parts: twice the tokens, four times the operations in all; 10 % of a token's "
                "operations after 512 tokens. And when it equals the matrices'",
            ),
            "rope": (
                "[Bottlenecks to investigate:] RoPE … Layer Norm …",
                "their share of a token's operations, together; counts from 10 %. Lesson 22 measures",
            ),
            "swiglu": (
                "SwiGLU activation: Gate mechanism with multiple matmuls",
                "share of a token's operations; parts: its three matrices at least 10 %, what is no "
                "matmul at least 10 %",
            ),
            "tensors": (
                "Excessive memory allocation per forward pass",
                "counted: two float32 copies of each weight, made inside Phase 0's matmul; excessive: more "
                "than the model",
            ),
        },
        "Recommendations": {
            "batch simd": (
                "SIMD dequantization: AVX2/NEON for batch dequant",
                "Phase 0's pieces, decoding with SIMD; parts: worth 1.1 at 128 rows; for one row, "
                "2048 × 1024",
            ),
            "hybrid": (
                "Hybrid quantization: Keep some layers in Float32",
                "bytes to read for a token, one layer of 48 in float32; faster if fewer. It may help quality",
            ),
            "batching": (
                "Dynamic batching: Process multiple requests together",
                "Phase 0's time for a row, alone over among 128; counts from 2",
            ),
        },
        "Conclusion": {
            "target": (
                "Performance Target: 20-30 tokens/sec for 14B model",
                "tokens a second that reading allows one stream; parts: 20 here, 20 there. Source: that "
                "laptop reads 77 to 83 GB/s",
            ),
            "400x": (
                "Current: ~0.05 tokens/sec (400x too slow)",
                "parts: 20 over 0.05; 30 over 0.05. From 18 s a token it is 360 to 540",
            ),
            "elsewhere": (
                "Need to find and fix 400x slowdown in non-matmul code",
                "tokens a second if all but Phase 0's matmul took no time; holds from 20",
            ),
        },
    }
    return {
        key: Claim(section, *claim) for section, claims in by_section.items() for key, claim in claims.items()
    }


CLAIMS: dict[str, Claim] = _claims()


# Rules


def judge_ratio(claimed, found):
    """Judge a claimed factor by the one that was found; both greater than 0.

    Within a factor of 1.5 of each other it holds. If both are on the same side of 1, slower or faster,
    it holds in part: the direction is right, the size is not.
    """
    if max(claimed / found, found / claimed) <= 1.5:
        return HOLDS
    return IN_PART if (claimed > 1) == (found > 1) else FAILS


def judge_parts(*parts: bool) -> str:
    """Judge a claim by its parts: all true, it holds; some, in part; none, it does not."""
    if not parts:
        raise ValueError("parts: expected at least one")
    return HOLDS if all(parts) else IN_PART if any(parts) else FAILS


# Formulas that several rows use


def decoding_ratio(M, K, N):
    """Return how many times as many weights Phase 1 decodes as Phase 0."""
    once_for_each_product = M * K * N
    once_for_each_weight = K * N
    return once_for_each_product / once_for_each_weight


def flop_per_byte(M, bits_per_weight):
    """Return operations for each byte of encoded weights; a multiply-add is two operations."""
    return 2 * M / (bits_per_weight / 8)


def tokens_per_second(weights, bits_per_weight, gigabytes_per_second):
    """Return how many tokens a second reading allows, if each token reads every weight once."""
    return gigabytes_per_second * 1e9 / (weights * bits_per_weight / 8)


# The book


@dataclass(frozen=True)
class Entry:
    """A verdict and the figure behind it."""

    verdict: str
    figure: str


class Ledger:
    """Claims and what became of them; shows itself as a table."""

    def __init__(self, claims: Mapping[str, Claim] = CLAIMS):
        self.claims = dict(claims)
        self.entries: dict[str, Entry] = {}

    def enter(self, key: str, verdict: str, figure: str) -> None:
        """Judge a claim; a second time replaces the first. ValueError for an unknown claim or verdict."""
        if key not in self.claims:
            raise ValueError(f"claim: expected one of {', '.join(self.claims)}, got {key!r}")
        if verdict not in VERDICTS:
            raise ValueError(f"verdict: expected one of {', '.join(VERDICTS)}, got {verdict!r}")
        self.entries[key] = Entry(verdict, figure)

    def missing(self) -> list[str]:
        """Return the claims not yet judged."""
        return [key for key in self.claims if key not in self.entries]

    def counts(self) -> dict[str, int]:
        """Return how many claims got each verdict."""
        found = [entry.verdict for entry in self.entries.values()]
        return {verdict: found.count(verdict) for verdict in VERDICTS}

    def __repr__(self):
        lines = []
        for section, keys in self._sections().items():
            lines.append(section)
            for key in keys:
                e = self.entries[key]
                lines.append(f"  {VERDICTS[e.verdict][0]} {e.verdict}: {self.claims[key].quote}: {e.figure}")
        return "\n".join(lines)

    def _repr_html_(self):
        rows = []
        for section, keys in self._sections().items():
            rows.append(section)
            for key in keys:
                e = self.entries[key]
                sign, colour = VERDICTS[e.verdict]
                word = f'<b style="color:{colour};white-space:nowrap">{sign} {e.verdict}</b>'
                quote = f"“{html.escape(self.claims[key].quote)}”"
                rows.append(
                    [quote, html.escape(self.claims[key].how), f"<b>{html.escape(e.figure)}</b>", word]
                )
        return html_table(["the report", "how it was tested", "found", "verdict"], rows, (29, 36, 20, 15))

    def _sections(self):
        sections = {}
        for key, claim in self.claims.items():
            if key in self.entries:
                sections.setdefault(claim.section, []).append(key)
        return sections


def html_table(header: Iterable[str], rows: Iterable, widths: Iterable[int] | None = None) -> str:
    """Return a table as HTML: cells are HTML, a row that is a string is a heading over all columns."""
    header = list(header)
    style = "text-align:left;vertical-align:top;padding:0.3em 0.6em"
    widths = [f"width:{w}%;" for w in widths] if widths else [""] * len(header)
    head = "".join(
        f'<th style="{width}{style}">{cell}</th>' for width, cell in zip(widths, header, strict=True)
    )
    body = []
    for row in rows:
        if isinstance(row, str):
            faint = f"{style};background:rgba(128,128,128,0.18)"
            body.append(f'<tr><th colspan="{len(header)}" style="{faint}">{html.escape(row)}</th></tr>')
        else:
            body.append("<tr>" + "".join(f'<td style="{style}">{cell}</td>' for cell in row) + "</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
