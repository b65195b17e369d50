"""np.empty in a learner's function: what was left in memory decides no verdict."""

import numpy as np
import pytest
from pasting import shown

from blocks2tokens.course import check
from blocks2tokens.course.check.exercise import FROM_ZEROS, Exercise
from blocks2tokens.course.check.memory import full_of
from blocks2tokens.course.check.watched import WatchedExercise


def is_called_by_its_check(exercise):
    """Is the learner's function what is judged? Some checks put it on a stage and judge the stage."""
    return type(exercise) in (Exercise, WatchedExercise)


FROM_NOTHING = [e for e in check.EXERCISES.values() if is_called_by_its_check(e) and "np.zeros(" in shown(e)]


def with_empty(exercise):
    """Return the solution that the card shows, np.empty in the place of np.zeros."""
    solution = exercise.solution or exercise.engine
    plain = getattr(solution, "py_func", solution)
    names = dict(plain.__globals__)
    exec(shown(exercise).replace("np.zeros(", "np.empty("), names)
    return names[plain.__name__]


@pytest.mark.parametrize("exercise", FROM_NOTHING, ids=lambda exercise: exercise.name)
def test_np_empty_in_the_place_of_zeros_is_named_or_does_no_harm(exercise):
    verdicts = [exercise.judge(with_empty(exercise)) for _ in range(2)]
    assert verdicts[0].kind == verdicts[1].kind
    assert verdicts[0].kind == "right" or FROM_ZEROS in verdicts[0].message, verdicts[0]


def test_sums_added_to_np_empty_are_named():
    def naive_fused_product(a, raw, N, decode_element):
        M, K = a.shape
        out = np.empty((M, N), np.float32)
        for i in range(M):
            for j in range(N):
                for k in range(K):
                    out[i, j] += a[i, k] * decode_element(raw, k * N + j)
        return out

    verdict = check.EXERCISES["naive_fused_product"].judge(naive_fused_product)
    assert verdict.kind == "wrong" and verdict.message.startswith(FROM_ZEROS)


def test_what_is_written_before_it_is_read_is_right_whatever_its_type():
    def split_nibbles(qs):
        out = np.empty((len(qs), 4, 2, 32)).astype(np.uint8)
        out[:, :, 0] = qs.reshape(-1, 4, 32) & 15
        out[:, :, 1] = qs.reshape(-1, 4, 32) >> 4
        return out.reshape(-1, 8, 32)

    assert check.EXERCISES["split_q4_k_nibbles"].judge(split_nibbles).kind == "right"


@pytest.mark.parametrize(
    "dtype", ["f2", "f4", "f8", "c8", "u1", "i4", "?", "O", "M8[s]", [("d", "<f2"), ("qs", "u1", 4)]]
)
def test_every_type_has_something_that_stands_there(dtype):
    def make():
        return np.empty((2, 3), dtype), np.empty_like(np.ones((3, 2), dtype).T if dtype != "M8[s]" else [1])

    for value in (np.nan, 0):
        filled, like = full_of(value, make)()
        assert filled.shape == (2, 3) and filled.dtype == np.dtype(dtype) and like.size
    first = full_of(np.nan, make)()[0].ravel()[0]
    assert dtype not in ("f2", "f4", "f8", "c8") or np.isnan(first)
    assert dtype not in ("u1", "i4") or abs(int(first)) in (255, 2**31)


def test_what_makes_no_empty_array_stays_as_it_is():
    def zeros(n):
        return np.zeros(n)

    assert full_of(np.nan, zeros) is zeros and full_of(np.nan, np.empty) is np.empty
