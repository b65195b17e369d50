"""One answer judged, in a process of its own.

    program  --run statement by statement-->  the functions that it gives to check.<exercise>
                                              none: the function of the course's name, as it is in the end
             --the last that was attempted-->  judged on the lesson's cases and on fresh ones

A call of another exercise's check gives back the engine's function, as a lesson does after a wrong answer: so
each exercise stands for itself.
"""

import ast
import contextlib
import json
import linecache
import multiprocessing.util
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType

from blocks2tokens.course import check
from blocks2tokens.course.check import calls
from blocks2tokens.course.check.calls import Printed
from blocks2tokens.course.check.exercise import Exercise
from blocks2tokens.course.classroom import answer_key, guard
from blocks2tokens.course.classroom.fresh import with_fresh_cases
from blocks2tokens.course.collected.sources import plain

SEEDS = 3  # an answer is to be right with one of so many: a tie between two codes makes right ones wrong
LONGEST = 2_000  # characters of a reason
RIGHT, WRONG, OPEN = "right", "wrong", "open"


@dataclass(frozen=True)
class Job:
    """An answer to judge: its program, the name of its function, and what it may take."""

    exercise: str
    function: str
    program: str
    seed: int
    seconds: float  # of a CPU
    memory: int  # bytes


@dataclass(frozen=True)
class Grade:
    """right, wrong or open (nothing attempted); why; and the message of a mistake that the check knows."""

    kind: str
    reason: str
    mistake: str = ""


def enter(connection, job: Job, folder: str) -> None:
    """Judge a job in this process, send its grade, and end the process with all that was left running."""
    os.chdir(folder)
    for number, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        os.dup2(os.open(os.devnull, mode), number)
    guard.limit(job.memory)
    try:
        grade = judged(job, Path(folder) / "answer.py")
    except BaseException as error:  # out of memory, as a rule: the check itself raises nothing
        grade = Grade(WRONG, f"judging it ended with {type(error).__name__}: {error}"[:LONGEST])
    with contextlib.suppress(Exception):
        multiprocessing.util._run_finalizers(0)  # locks known to the whole system would outlive os._exit
    with contextlib.suppress(OSError):
        connection.send_bytes(json.dumps(asdict(grade)).encode())
        connection.close()
    os._exit(0)


def judged(job: Job, place: Path) -> Grade:
    """Run a job's program, written to `place`, and judge its answer; the process is not to be used again."""
    exercise, refused = check.EXERCISES[job.exercise], []
    place.write_text(job.program, encoding="utf-8")
    calls.SECONDS = 4 * job.seconds  # of the clock: for an answer that sleeps; the parent counts the CPU's
    guard.refuse(place, refused)
    attempts, failed = _run(job, place)
    grade = _graded(exercise, attempts, failed, job.seed)
    if refused:
        return Grade(WRONG, f"it {refused[0]}, which no answer needs")
    return grade


def _run(job, place):
    """Return the functions that the program offers as answers, in order, and a line for each failure."""
    attempts: list[object] = []
    _listen(job.exercise, attempts)
    script, failed = ModuleType("__main__"), []
    script.__file__ = str(place)
    sys.modules["__main__"], namespace = script, script.__dict__
    lines = job.program.splitlines(keepends=True)
    linecache.cache[str(place)] = (len(job.program), None, lines, str(place))
    with calls.time_limit(calls.SECONDS):
        try:
            failed = _run_statements(job.program, place, namespace)
        except calls.TooLongError:
            failed = ["its definitions take too long"]
    if not attempts and job.function in namespace:
        _offer(attempts, namespace[job.function])
    return attempts, failed


def _run_statements(program, place, namespace):
    failed, quiet = [], Printed()
    for node in ast.parse(program).body:
        try:
            with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
                exec(compile(ast.Module([node], []), str(place), "exec", dont_inherit=True), namespace)
        except calls.TooLongError:
            raise
        except BaseException as error:  # exit(), too
            failed.append(f"{_first_line(node)}: {type(error).__name__}: {error}")
    return failed


def _first_line(node):
    return ast.unparse(node).partition("\n")[0][:80]


def _listen(name: str, attempts: list[object]) -> None:
    """From now on a check returns the engine's function; that of this exercise notes and returns what it got.

    (A function that calls itself finds itself under its name.)
    """

    def asked(exercise: Exercise, function: Callable) -> Callable:
        if exercise.name != name:
            return exercise.engine
        _offer(attempts, function)
        return function

    Exercise.__call__ = asked


def _offer(attempts, function):
    engines = [plain(exercise.engine) for exercise in check.EXERCISES.values()]
    if not any(plain(function) is engine for engine in engines):  # what a check gave back is nobody's answer
        attempts.append(function)


def _graded(exercise, attempts, failed, seed):
    for function in reversed(attempts):
        verdict = _verdict(exercise, function, seed)
        if verdict.kind != "untouched":
            known = (m.message for m in exercise.mistakes if m.message in verdict.message)
            mistake = next(known, "") if verdict.kind == WRONG else ""
            return Grade(verdict.kind, verdict.message[:LONGEST], mistake)
    if failed and not attempts:
        return Grade(WRONG, f"nothing to judge: {failed[0]}"[:LONGEST])
    return Grade(OPEN, "not attempted")


def _verdict(exercise, function, seed):
    """Return the verdict on the lesson's cases, which hold the edges; if that is right, on fresh ones too."""
    own = exercise.judge(function)
    if own.kind != RIGHT:
        return own
    for i in range(SEEDS):
        fresh = with_fresh_cases(exercise, seed + i).judge(function)
        if fresh.kind == RIGHT:
            key = answer_key.called_by(function, exercise)
            return replace(own, kind=WRONG, message=f"it calls the answer: {key}") if key else own
    return replace(fresh, message=f"right on the lesson's cases, but on others: {fresh.message}")
