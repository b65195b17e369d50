"""Checks of the exercises: check.<exercise>(your_function).

    decode = check.decode_q8_0(decode_q8_0)      the verdict is shown; decode is yours if it is right,
                                                 and the engine's if not

Each lesson has its module here, with its exercises in a list EXERCISES.
"""

from blocks2tokens.course.check import (
    attention,
    blocks_along_k,
    crossover,
    full_transformer,
    gguf,
    integer_dots,
    layers,
    phase0_baseline,
    phase1_naive_fused,
    phase2_optimized_fused,
    phase3a_block_cache,
    phase3b_column_major,
    q4_k,
    q5_k,
    q6_k,
    quantizing_well,
    roofline_model,
    scales_and_mins,
    the_verdict,
    time_goes,
    tokens,
    why_blocks,
)
from blocks2tokens.course.check.exercise import Exercise, Mistake, Verdict

LESSONS = (
    why_blocks,
    scales_and_mins,
    q4_k,
    q5_k,
    q6_k,
    quantizing_well,
    gguf,
    phase0_baseline,
    phase1_naive_fused,
    phase2_optimized_fused,
    phase3a_block_cache,
    phase3b_column_major,
    the_verdict,
    roofline_model,
    blocks_along_k,
    integer_dots,
    crossover,
    tokens,
    layers,
    attention,
    full_transformer,
    time_goes,
)

EXERCISES: dict[str, Exercise] = {e.name: e for lesson in LESSONS for e in lesson.EXERCISES}


def __getattr__(name: str) -> Exercise:
    if name not in EXERCISES:
        raise AttributeError(f"no exercise {name!r}; there are {', '.join(EXERCISES)}")
    return EXERCISES[name]


__all__ = ["EXERCISES", "Exercise", "Mistake", "Verdict"]
