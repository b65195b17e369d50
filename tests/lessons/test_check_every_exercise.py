"""What holds for every exercise: a tick carries the lesson on, and no function breaks it."""

import ast
import html
import re
import sys
from dataclasses import dataclass

import numpy as np
import pytest
from numba import njit

from blocks2tokens.course import check
from blocks2tokens.course.check import calls
from blocks2tokens.course.check.calls import copied, observe
from blocks2tokens.course.check.exercise import Exercise, Mistake, call, has_types_of
from blocks2tokens.course.check.watched import WatchedExercise
from blocks2tokens.course.lessons.integer_dot.exercises import VectorExercise
from blocks2tokens.course.setup import notebooks

EVERY = list(check.EXERCISES.values())
JUDGED_AS_THEY_ARE = [e for e in EVERY if type(e) in (Exercise, WatchedExercise)]


def takes_its_cases(exercise):
    """Are the cases what the function is called with? Of some they are what a stage is set with."""
    try:
        call(exercise.engine, next(iter(exercise.cases().values())))
    except Exception:
        return False
    return True


CALLED_WITH_THEIR_CASES = [e for e in EVERY if takes_its_cases(e)]


def names(exercises):
    return {"argvalues": exercises, "ids": [e.name for e in exercises]}


# What every check says of the engine's answer, of none, and of one that it does not know


def answers_ellipsis(*arguments):
    return ...


def answers_none(*arguments):
    return None


def is_documented(*arguments):
    """As in the notebook."""
    return ...


def divides_by_zero(*arguments):
    return 1 // 0


@pytest.mark.parametrize("exercise", **names(EVERY))
def test_the_engine_is_right(exercise):
    verdict = exercise.judge(exercise.engine)
    assert verdict.kind == "right", verdict


@pytest.mark.parametrize("exercise", **names(EVERY))
def test_a_stub_is_untouched(exercise):
    for stub in (answers_ellipsis, answers_none, is_documented):
        assert exercise.judge(stub).kind == "untouched"
    assert exercise.judge(3).kind == "wrong"


@pytest.mark.parametrize("exercise", **names(EVERY))
def test_an_exception_is_named_with_its_line(exercise):
    verdict = exercise.judge(divides_by_zero)
    assert verdict.kind == "wrong" and "your function raised ZeroDivisionError" in verdict.message
    assert 'in the line "return 1 // 0"' in verdict.message


def misshapen(answer):
    """Return an answer in a form that no lesson asks for."""
    if isinstance(answer, tuple):
        return tuple(misshapen(a) for a in answer)
    return np.stack([answer, answer])[None]


@pytest.mark.parametrize("exercise", **names(EVERY))
def test_an_answer_of_another_kind_is_described(exercise):
    message = exercise.judge(lambda *arguments: np.zeros((1, 3, 7))).message
    assert "expected " in message and re.search(r"got (an )?array|got \(1, 3, 7\)", message), message


@pytest.mark.parametrize("exercise", **names(CALLED_WITH_THEIR_CASES))
def test_an_answer_of_another_shape_is_described(exercise):
    message = exercise.judge(lambda *arguments: misshapen(exercise.engine(*arguments))).message
    assert "expected " in message and "got " in message, message


def several_values():
    """Return the exercises of part 1 that answer with a tuple."""
    taken = [e for lesson in check.LESSONS[:7] for e in check.BY_LESSON[lesson]]
    return [e for e in taken if isinstance(call(e.engine, next(iter(e.cases().values()))), tuple)]


@pytest.mark.parametrize("exercise", **names(several_values()))
def test_each_of_several_values_is_called_by_its_name(exercise):
    n = len(call(exercise.engine, next(iter(exercise.cases().values()))))
    for i in range(n):

        def without_one(*arguments, i=i):
            answer = exercise.engine(*arguments)
            return (*answer[:i], None, *answer[i + 1 :])

        message = exercise.judge(without_one).message
        assert "got NoneType None" in message and f"of the {n} values" not in message, message


@pytest.mark.parametrize("exercise", **names(EVERY))
def test_each_known_mistake_is_told_from_the_others(exercise):
    told_by_its_judge = exercise.name == "convict_q4_k_decoder"  # from the evidence, see its lesson's test
    assert told_by_its_judge or len({mistake.message for mistake in exercise.mistakes}) >= 3
    for mistake in exercise.mistakes:
        verdict = exercise.judge(mistake.wrong)
        assert verdict.kind == "wrong" and mistake.message in verdict.message, (mistake.message, verdict)


@pytest.mark.parametrize("exercise", **names(EVERY))
def test_the_card_shows_two_hints_and_the_solution(exercise):
    card = exercise.judge(answers_ellipsis)._repr_html_()
    solution = exercise.solution or exercise.engine
    assert "Stuck?" in card and card.count("<details>") == 3
    assert f"def {getattr(solution, 'py_func', solution).__name__}(" in card
    assert exercise.twin or "Solution, from the engine" in card
    ast.parse(html.unescape(card.split("<pre>")[1].split("</pre>")[0]))


# A tick that breaks a later cell


def is_writable_array(argument):
    return isinstance(argument, np.ndarray) and argument.size > 0


def writes_into(exercise, number):
    """Return the engine's function, that afterwards spoils its n-th argument."""

    def careless(*arguments):
        answer = exercise.engine(*arguments)
        arguments[number].reshape(-1).view(np.uint8)[-1] ^= 1
        return answer

    return careless


def array_arguments():
    for exercise in CALLED_WITH_THEIR_CASES:
        arguments = next(iter(exercise.cases().values()))
        written = observe(exercise.engine, arguments).written
        yield from (
            pytest.param(exercise, i, id=f"{exercise.name}-{i}")
            for i, argument in enumerate(arguments)
            if is_writable_array(argument) and i not in written
        )


@pytest.mark.parametrize(("exercise", "number"), list(array_arguments()))
def test_writing_into_an_argument_is_refused(exercise, number):
    verdict = exercise.judge(writes_into(exercise, number))
    assert verdict.kind == "wrong" and "you wrote into " in verdict.message, verdict


def as_lists(answer):
    """Return an answer with lists in the place of arrays."""
    if isinstance(answer, tuple):
        return tuple(as_lists(a) for a in answer)
    return answer.tolist() if isinstance(answer, np.ndarray) else answer


def in_wide_types(answer):
    """Return an answer with int64 for integers and float64 for floats."""
    if isinstance(answer, tuple):
        return tuple(in_wide_types(a) for a in answer)
    if isinstance(answer, np.ndarray) and answer.dtype.kind in "biuf":
        return answer.astype(np.float64 if answer.dtype.kind == "f" else np.int64)
    return answer


def read_only_views(answer):
    if isinstance(answer, tuple):
        return tuple(read_only_views(a) for a in answer)
    if not isinstance(answer, np.ndarray) or answer.ndim == 0:
        return answer
    backwards = answer[::-1].copy()[::-1]
    backwards.flags.writeable = False
    return backwards


def lists_of_floats(answer):
    """Return an answer with floats for the whole numbers in its lists."""
    if isinstance(answer, tuple):
        return tuple(lists_of_floats(a) for a in answer)
    if not isinstance(answer, list):
        return answer
    return [float(a) if isinstance(a, int | np.integer) else a for a in answer]


@pytest.mark.parametrize("form", [as_lists, in_wide_types, read_only_views, lists_of_floats])
@pytest.mark.parametrize("exercise", **names([e for e in JUDGED_AS_THEY_ARE if not e.compiled]))
def test_the_lesson_goes_on_with_answers_of_another_form(exercise, form):
    """Whatever passes gives the following cells what the engine would give them."""

    def mine(*arguments):
        return form(exercise.engine(*arguments))

    if exercise.judge(mine).kind != "right":
        return
    goes_on = exercise(mine)
    for arguments in exercise.cases().values():
        fresh = [copied(a) for a in arguments]
        expected = call(exercise.engine, arguments)
        assert has_types_of(goes_on(*fresh), expected)


def test_a_view_of_an_argument_becomes_an_array_of_its_own():
    same = Exercise("same", engine=np.copy, cases=TWICE.cases, mistakes=(), hints=("think",))
    goes_on, x = same(lambda x: x[:]), np.arange(4.0)
    goes_on(x)[0] = 7
    assert x[0] == 0


@dataclass
class Room:
    """Something that a function may change."""

    size: int
    things: list


def test_each_call_gets_a_dataclass_of_its_own():
    """What a function takes out of it is there for the next call, and for the right answer."""
    count = Exercise(
        "count",
        engine=lambda room: room.size + len(room.things),
        cases=lambda: {"one thing": (Room(3, ["chair"]),)},
        mistakes=(),
        hints=("think",),
    )

    def takes_out(room):
        while room.things:
            room.size += room.things.pop() is not None
        return room.size

    message = count.judge(takes_out).message
    assert "your answers are right, but you wrote into room" in message and ".copy()" not in message, message


def test_a_list_turned_round_in_place_is_refused():
    def reverses(ne, fmt):
        ne.reverse()
        n = int(np.prod(ne))
        return tuple(ne), n // fmt.block_size * fmt.bytes_per_block

    message = check.EXERCISES["shape_and_bytes"].judge(reverses).message
    assert "you wrote into ne: what is in it or its order changed" in message


def test_the_engine_may_write_where_it_does():
    """An exercise whose function fills an array that it is given asks for no more than that."""
    fills = [
        e for e in CALLED_WITH_THEIR_CASES if any(observe(e.engine, a).written for a in e.cases().values())
    ]
    assert fills and all(e.judge(e.engine).kind == "right" for e in fills)


def compiles_it(exercise):
    looks = getattr(exercise, "looks", ())
    return (
        exercise.compiled
        or isinstance(exercise, VectorExercise)
        or any(hasattr(x, "compiles") for x in looks)
    )


def test_what_a_lesson_compiles_its_check_compiles():
    found = 0
    for path in notebooks.find(notebooks.NOTEBOOKS):
        source = "\n".join(cell.source for cell in notebooks.read(path).cells if cell.cell_type == "code")
        given = dict(re.findall(r"^(\w+) = check\.(\w+)\(\s*\1\s*\)$", source, re.MULTILINE))
        for name in set(re.findall(r"\bnjit(?:\([^()]*\))?\((\w+)\)", source)) & set(given):
            assert compiles_it(check.EXERCISES[given[name]]), (path.stem, name)
            found += 1
    assert found >= 8


def test_a_function_that_needs_no_help_is_given_back_as_it_is():
    for exercise in JUDGED_AS_THEY_ARE:
        if not exercise.compiled:
            assert exercise(exercise.engine) is exercise.engine


# A function that breaks off


def ends_python(*arguments):
    sys.exit("bye")


def interrupts(*arguments):
    raise KeyboardInterrupt


def calls_itself(*arguments):
    return calls_itself(*arguments)


def generates(*arguments):
    yield 1


async def waits(*arguments):
    return 1


def tries_to_exhaust(*arguments):
    return map(int, "123")


BREAKING = [
    (ends_python, "leave out exit()"),
    (interrupts, "was interrupted"),
    (calls_itself, "calls itself again and again"),
    (generates, "returned a generator"),
    (waits, "leave out `async`"),
    (tries_to_exhaust, "returned a map"),
]


@pytest.mark.parametrize("exercise", **names(CALLED_WITH_THEIR_CASES))
def test_no_function_breaks_a_lesson(exercise):
    for function, phrase in BREAKING:
        verdict = exercise.judge(function)
        assert verdict.kind == "wrong" and phrase in verdict.message, verdict


def double(x):
    return 2 * x


TWICE = Exercise(
    name="double",
    engine=double,
    cases=lambda: {"a ramp": (np.arange(4.0),), "zeros": (np.zeros(2),)},
    mistakes=(Mistake(lambda x: x * x, "you squared"),),
    hints=("think",),
)


@pytest.mark.skipif(not hasattr(calls.signal, "setitimer"), reason="no timer on Windows")
@pytest.mark.parametrize("body", ["while True: pass", "import time; time.sleep(9)"])
def test_a_function_without_end_is_stopped(body, monkeypatch):
    monkeypatch.setattr(calls, "SECONDS", 0.2)
    scope = {}
    exec(f"def endless(x):\n    try:\n        {body}\n    except Exception:\n        pass", scope)
    verdict = TWICE.judge(scope["endless"])
    assert verdict.kind == "wrong" and "does every loop in it end?" in verdict.message
    assert "If it does, it goes round too often" in verdict.message


def test_what_a_function_prints_is_kept_on_the_card(capsys):
    def talkative(x):
        print("x is <", x[:2], ">")
        return 2 * x

    verdict = TWICE.judge(talkative)
    assert verdict.kind == "right" and capsys.readouterr().out == ""
    assert "x is < [0. 1.] >" in verdict.printed and "x is &lt;" in verdict._repr_html_()


def test_only_the_beginning_of_what_is_printed_is_kept():
    verdict = TWICE.judge(lambda x: [print("again " * 100) for _ in range(100)] and 2 * x)
    assert len(verdict.printed) == calls.MOST_PRINTED


def test_a_mistake_is_known_by_its_values_whatever_the_rounding():
    assert "you squared" in TWICE.judge(lambda x: x * x * (1 + 1e-9)).message


def test_an_unknown_mistake_shows_the_input():
    assert "the input of a ramp: x = [0. 1. 2. 3.] float64 [4]" in TWICE.judge(lambda x: 3 * x).message


def test_numbers_that_differ_look_different():
    message = TWICE.judge(lambda x: np.where(x > 2, 2 * x * (1 + 1e-9), 2 * x)).message
    assert "element 3 is 6.0000000060" in message and ", expected 6 " in message


def test_a_missing_return_in_one_case_is_named():
    verdict = TWICE.judge(lambda x: 2 * x if x.any() else None)
    assert "zeros: your function returned None" in verdict.message


# Exceptions, each with what it means


def raises(code):
    scope = {"np": np}
    exec(f"def function(x):\n    {code}", scope)
    return scope["function"]


EXCEPTIONS = [
    ("return np.ones((1, 8)) * np.ones((1, 8, 32))", "from the right, and there 8 meets 32"),
    ("return np.ones((3, 4)) @ np.ones((5, 4))", "here they are 4 and 5: does one want .T?"),
    ("return np.dot(np.ones((3, 4)), np.ones(5))", "here they are 4 and 5: does one want .T?"),
    ("x[:] = np.ones(7)", "you write an array of shape (7,) to a place of shape (4,)"),
    ("return x.reshape(3, 5)", "must hold all 4 elements"),
    ("return 1 if x > 0 else 2", "np.where"),
    ("return int(np.float32(0) / np.float32(0))", "0 / 0 is NaN"),
    ("a, b, c = 1, 2", "count the names on the left"),
    ("return [1, 2].astype(int)", "this is a list: np.array(...)"),
    ("return (1, 2).reshape(2)", "this is a tuple: np.array(...)"),
    ("return (1, 2).append(3)", "a tuple has no `.append`: list(...) makes a list"),
    ("return range(3).copy()", "a range has no `.copy`: list(...) makes a list"),
    ("return [].sort().shape", "something here is None"),
    ("return (1, 2).append(3)", "list(...) makes a list of it"),
    ("return x @ np.ones(3)", "here they are 4 and 3: does one want .T?"),
    ("return np.dot(np.ones((2, 3)), x)", "here they are 3 and 4: does one want .T?"),
    ("return x.sum(axis=1)", "this array has axis 0 alone"),
    ("return np.ones((2, 2)).sum(axis=2)", "this array has axes 0 to 1"),
    ("return x[0].sum(axis=1)", "it is a single number"),
    ("return [].pop(0)", "nothing is left to take out"),
    ("return {}.popitem()", "nothing is left to take out"),
    ("return {(1, 2): 3}[{1, 2}]", "a set can change, so it is no key"),
    ("return {x: 3}", "a numpy.ndarray can change, so it is no key"),
    ("return {(1, 2): 3}[1]", "nothing is kept under this key"),
    ("return {frozenset(['reuse']): 3}[frozenset('reuse')]", "the set of its letters"),
    ("return x[4]", "\nplaces are counted from 0: of 4 the last is 3\n"),
    ("return [3, 4][2]", "of n the last is n - 1"),
    ("return x[0.5]", "`//` divides in whole numbers"),
    ("return x[1, 2]", "more places in [...] than the array has axes"),
    ("return x >> 1", "bits are taken from integers"),
    ("return 1.5 >> 1", "bits are taken from integers"),
    ("return list(range(1.5))", "`//` divides in whole numbers"),
    ("return [1.0] * 2.0", "a list is no array"),
    ("return [1.0] - 2.0", "a list is no array"),
    ("x = x.astype(int); x += 0.5", "keep the type of what stands on the left"),
    ("return float(x)", "one number is wanted here"),
    ("return np.uint8(255) + 300", "a byte out of an array stays a byte"),
    ("return nothing(x)", "nothing is called nothing yet"),
    ("import scipy.nowhere", "is not installed here"),  # Numba, too, says that it wants SciPy
    ("return 1 / 0", "where all weights are 0"),
    ("return np.frombuffer(b'1234', np.uint8).__setitem__(0, 1)", "belong to somebody else"),
]


@pytest.mark.parametrize(("code", "phrase"), EXCEPTIONS)
def test_an_exception_is_explained(code, phrase):
    message = TWICE.judge(raises(code)).message
    assert phrase in message and "the input of a ramp" in message, message
    assert len(message) < 600


def test_a_wrong_number_of_arguments_is_explained():
    assert "keep the line with `def`" in TWICE.judge(lambda: 1).message
    assert "keep the line with `def`" in TWICE.judge(lambda x, y: 1).message


# What the next cell compiles

COMPILED = Exercise(
    name="double",
    engine=double,
    cases=TWICE.cases,
    mistakes=TWICE.mistakes,
    hints=TWICE.hints,
    compiled=True,
)


def plain_helper(x):
    return 2 * x


def with_a_plain_helper(x):
    return plain_helper(x)


def with_a_view_it_lacks(x):
    return 2 * x.repeat(1, axis=0)


def with_a_generator(x):
    return x * sum(1 for _ in range(2))


def with_an_open_file(x):
    with open(__file__):
        return 2 * x


NOT_COMPILED = [
    with_a_plain_helper,
    with_a_view_it_lacks,
    with_a_generator,
    with_an_open_file,
]


@pytest.mark.parametrize("function", NOT_COMPILED)
def test_what_numba_cannot_compile_is_explained_in_a_sentence(function):
    assert TWICE.judge(function).kind == "right"
    verdict = COMPILED.judge(function)
    assert verdict.kind == "wrong" and "Numba cannot compile your function: " in verdict.message
    assert len(verdict.message) < 400 and "Failed in nopython" not in verdict.message, verdict.message


def test_a_plain_helper_is_named():
    assert "it calls plain_helper, which is plain Python" in COMPILED.judge(with_a_plain_helper).message


def test_a_generator_is_named():
    assert "it has a generator in it" in COMPILED.judge(with_a_generator).message


def test_a_function_that_the_learner_compiled_can_be_compiled_again():
    mine = njit(double)
    goes_on = COMPILED(mine)
    assert goes_on is double and njit(goes_on)(np.ones(2)).tolist() == [2, 2]
