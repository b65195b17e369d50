"""A pool: buffers that are given back wait for the next who wants one of the same size.

    step 0    take 4        new, 4
    step 1    take 2        new, 2;  4 is given back
    step 2    take 4        the one from before
    step 3    take 3        new, 3: there is none of that size

What Go programs do with sync.Pool, and PyTorch's caching allocator with sizes rounded up. It never gives
memory back to the system, and never cuts a large buffer for a small one.
"""

from collections import Counter
from collections.abc import Mapping

from blocks2tokens.course import synthetic
from blocks2tokens.model.arena import Life, end_of, first_fit, peak_bytes


def pool_bytes(lives: Mapping[str, Life], sizes: Mapping[str, int]) -> int:
    """Return the bytes of a pool, by exact size, from which these buffers are taken and given back."""
    waiting, made = Counter(), 0
    for step in range(1 + max((last for _, last in lives.values()), default=-1)):
        for name, (first, _) in lives.items():
            if first == step and waiting[sizes[name]]:
                waiting[sizes[name]] -= 1
            elif first == step:
                made += sizes[name]
        waiting.update(sizes[name] for name, (_, last) in lives.items() if last == step)
    return made


def ways(lives: Mapping[str, Life], sizes: Mapping[str, int]) -> dict[str, int]:
    """Return {way: bytes} of four ways to house the buffers of a pass."""
    return {
        "each its own": sum(sizes[name] for name in lives),
        "a pool by size": pool_bytes(lives, sizes),
        "one arena": end_of(first_fit(lives, sizes), sizes),
        "in use at one time": peak_bytes(lives, sizes),
    }


def report_pool(shape: str = "14B") -> int:
    """Return the bytes of a pool for the report's engine: B and Bt, float32, for each size of matrix."""
    s = synthetic.SHAPES[shape]
    kv_dim = s.n_kv_heads * s.head_dim
    widths = {s.n_heads * s.head_dim, kv_dim, s.ffn_dim, s.vocab_size}
    return sum(2 * 4 * s.dim * width for width in widths)
