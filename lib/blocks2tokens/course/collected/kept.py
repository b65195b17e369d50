"""Keeping and finding the learner's functions: the file in work/, and behind it the session's memory.

keep    right function --needed--> statements --merged--> the lesson's file, if its functions are right
        as they stand there: the new one, and the others as they were
find    the file's function, else the session's; what was kept and does not load is complained of
"""

import ast
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from blocks2tokens.course import check, work
from blocks2tokens.course.collected import file
from blocks2tokens.course.collected.file import MARK, MARKED, Statement
from blocks2tokens.course.collected.sources import NotWritable, is_learners, names_used, needed, renamed

FOLDER = "my_engine"
_SESSION: dict[str, Callable] = {}  # exercise: function


@dataclass(frozen=True)
class Found:
    """What there is for an exercise: a function or None, and why what was kept is not used, or ""."""

    function: Callable | None
    complaint: str = ""


def keep(exercise, function: Callable) -> None:
    """Keep a function that is right; print a line if it cannot be written into the learner's file.

    What is not the learner's, such as the engine's own function, is not kept. Never raises.
    """
    lesson = check.lesson_of(exercise)
    if lesson is None or not is_learners(function):
        return
    _SESSION[exercise.name] = function
    folder = work.folder()
    if folder is None:
        return
    try:
        _write(_path(folder, lesson), lesson, exercise, function)
    except (NotWritable, OSError) as reason:
        print(f"{exercise.name} is kept for this session, not in work/{FOLDER}: {reason}")
    except Exception as error:  # a learner's function may be anything, and it is right: the lesson goes on
        print(
            f"{exercise.name} is kept for this session, not in work/{FOLDER}: {type(error).__name__} {error}"
        )


def find(exercise_name: str) -> Found:
    """Return the learner's function for an exercise, if there is one. Never raises for what a file holds."""
    lesson, folder, complaint = check.lesson_of(check.EXERCISES[exercise_name]), work.folder(), ""
    if folder is not None:
        try:
            text = _text(path := _path(folder, lesson))
            functions, complaints = file.functions(text, path)
            if exercise_name in functions:
                return Found(functions[exercise_name])
            if exercise_name in dict(MARKED.findall(text)):
                reason = complaints[0] if complaints else "the function is gone"
                complaint = f"{FOLDER}/{path.name}, {reason}"
        except (NotWritable, OSError, SyntaxError, ValueError) as error:
            complaint = f"{FOLDER}/{lesson}.py does not load: {_reason(error)}"
    return Found(_SESSION.get(exercise_name), complaint)


def _reason(error):
    """Say what is wrong with a file, in a line."""
    return f"line {error.lineno}: {error.msg}" if isinstance(error, SyntaxError) else str(error)


def _path(folder, lesson) -> Path:
    """Return the path of a lesson's file; NotWritable if it lies elsewhere, behind a link."""
    path = folder / FOLDER / f"{lesson}.py"
    if not path.resolve().is_relative_to(folder.resolve()):
        raise NotWritable(f"{FOLDER}/{path.name} is a link out of {folder.name}/")
    return path


def _text(path):
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _write(path, lesson, exercise, function):
    engines = {name: e.engine for name, e in check.EXERCISES.items()}
    name, new = needed(function, engines)
    before, parts = _parts(path)
    parts, changed = merged(parts, exercise.name, name, new)
    text = file.written(lesson, parts)
    functions, complaints = file.functions(text, path)
    if exercise.name not in functions:
        raise NotWritable(f"it is right here, but not by itself: {(*complaints, 'it is gone there')[0]}")
    verdict = exercise.judge(functions[exercise.name])
    if verdict.kind != "right":
        reason = " ".join(verdict.message.split("\n")[:2])
        raise NotWritable(f"it is right here, but not by itself, with what it uses in a file: {reason}")
    for other in _users_of(changed, parts) - {exercise.name}:
        if _is_right(other, file.functions(before, path)[0]) and not _is_right(other, functions):
            raise NotWritable(
                f"{other} uses {', '.join(sorted(changed))} too, and would be wrong with yours: "
                "give one of them another name"
            )
    file.save(text, path)


def _is_right(exercise_name, functions):
    exercise, function = check.EXERCISES.get(exercise_name), functions.get(exercise_name)
    return None not in (exercise, function) and exercise.judge(function).kind == "right"


def _parts(path):
    """Return the text of a file and its statements; one that is no Python is put beside, and "", []."""
    text = ""
    try:
        text = _text(path)
        return text, file.statements(text)
    except (SyntaxError, ValueError) as error:
        names = (f"{path.stem} (broken{'' if n == 1 else f' {n}'}).py" for n in count(1))
        beside = next(place for name in names if not (place := path.with_name(name)).exists())
        path.rename(beside)
        print(
            f"{FOLDER}/{path.name} was no Python, {_reason(error)}. It is {beside.name} now, a new one begins"
        )
        return "", []


def merged(
    parts: list[Statement], exercise: str, name: str, new: dict[str, str]
) -> tuple[list[Statement], set[str]]:
    """Put an answer and what it needs into a file's statements; return them, and the names that changed.

    An exercise's function gives way only to a new answer to the same exercise; but it is compiled from then
    on where the new answer needs it so. Where the name of the answer is that of another exercise's function,
    the answer takes the name of its exercise. Imports that nothing needs any more go.
    """
    before = list(parts)
    owner = {function: answered for answered, function in file.exercises(parts).items()}
    new = dict(new)
    if owner.get(name, exercise) != exercise:
        new[exercise] = renamed(new.pop(name), exercise)
        name = exercise
    answers = [n for n, answered in owner.items() if answered == exercise]  # under another name, before
    own_marks = {MARK.format(exercise=exercise, name=n) for n in answers}
    parts, changed = [_without(part, own_marks) for part in parts], set()
    for bound, source in new.items():
        there = next((i for i, part in enumerate(parts) if part.names == {bound}), None)
        if bound != name and owner.get(bound, exercise) != exercise:
            if compiled := there is not None and file.compiled_as(parts[there], file.statement(source)):
                parts[there], changed = compiled, changed | {bound}
            continue
        mark = MARK.format(exercise=exercise, name=name) + "\n" if bound == name else ""
        put = file.statement(mark + source)
        if mark and there is not None and _users_of({bound}, parts) - {exercise}:
            put = file.compiled_as(put, parts[there], also_if_changed=True) or put
        if there is None:
            parts.append(put)
        elif mark or not _same(parts[there], put):
            changed |= set() if _same(parts[there], put) else {bound}
            parts[there] = put
    return _without_idle_imports(parts, before, new), changed


def _without_idle_imports(parts, before, new):
    """Drop the imports that were needed before, or came with an answer, and that nothing needs now."""

    def used(parts):
        return set().union(*(names_used(part.source) for part in parts if not part.is_import))

    ours, needed_now = used(before) | set(new), used(parts)
    return [p for p in parts if not p.is_import or p.names & needed_now or not p.names & ours]


def _without(part, lines):
    kept = [line for line in part.source.splitlines() if line not in lines]
    return Statement("\n".join(kept), part.names, part.is_import)


def _same(one, other):
    return ast.dump(ast.parse(one.source)) == ast.dump(ast.parse(other.source))


def _users_of(names, parts):
    """Return the exercises whose functions use one of the names, themselves or by what they use."""
    uses = {name: names_used(part.source) - part.names for part in parts for name in part.names}
    answers, found = file.exercises(parts), set()
    for exercise, function in answers.items():
        reached, left = set(), [function]
        while left:
            one = left.pop()
            reached.add(one)
            left += uses.get(one, set()) - reached
        if reached & names:
            found.add(exercise)
    return found
