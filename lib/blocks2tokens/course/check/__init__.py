"""Checks of the exercises: check.<exercise>(your_function).

    decode = check.decode_q8_0(decode_q8_0)      the verdict is shown; decode is yours if it is right,
                                                 and the engine's if not

    check.progress("q4_k")                       a strip: which exercises of the lesson are yours

Each lesson has a list EXERCISES in its folder, `course.lessons`.
"""

from importlib import import_module

from blocks2tokens.course import progress as records
from blocks2tokens.course.check.exercise import Exercise, Mistake, Verdict

LESSONS = (
    "why_blocks",
    "scales_and_mins",
    "q4_k",
    "q5_k",
    "q6_k",
    "quantizing_well",
    "gguf",
    "phase0_baseline",
    "phase1_naive_fused",
    "phase2_optimized_fused",
    "phase3a_block_cache",
    "phase3b_column_major",
    "the_verdict",
    "roofline",
    "blocks_along_k",
    "integer_dot",
    "crossover",
    "tokens",
    "layers",
    "attention",
    "full_transformer",
    "where_the_time_goes",
    "flash_attention",
    "memory",
    "kv_cache",
    "quality_and_mixes",
    "pruning",
    "speculation",
    "batching",
    "parallel_layers",
    "many_machines",
    "the_last_verdict",
    "capstone",
)

BY_LESSON: dict[str, list[Exercise]] = {
    name: import_module(f"blocks2tokens.course.lessons.{name}.exercises").EXERCISES for name in LESSONS
}
EXERCISES: dict[str, Exercise] = {e.name: e for exercises in BY_LESSON.values() for e in exercises}


def lesson_of(exercise: Exercise) -> str | None:
    """Return the lesson that an exercise stands in, None if in none."""
    return next((lesson for lesson, there in BY_LESSON.items() if any(e is exercise for e in there)), None)


def progress(lesson: str) -> "records.Strip":
    """Return a strip that shows which exercises of a lesson are yours; ValueError for an unknown lesson."""
    return records.strip(lesson)


def __getattr__(name: str) -> Exercise:
    if name not in EXERCISES:
        raise AttributeError(f"no exercise {name!r}; there are {', '.join(EXERCISES)}")
    return EXERCISES[name]


__all__ = ["EXERCISES", "Exercise", "Mistake", "Verdict", "lesson_of", "progress"]
