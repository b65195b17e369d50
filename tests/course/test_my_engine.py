"""The learner's own engine: what is right is collected, loads by itself, and speaks."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import nbformat
import numpy as np
import pytest
from pasting import answered, run_cell

import blocks2tokens as b2t
from blocks2tokens.course import check, collected, models, my_engine, progress, work
from blocks2tokens.course.collected import file, kept
from blocks2tokens.course.lessons.where_the_time_goes import profiler
from blocks2tokens.course.progress import READERS
from blocks2tokens.course.setup import notebooks, workspace
from blocks2tokens.model.forward import forward as plain_forward

LIB = Path(b2t.__file__).parents[1]


def empty_work(folder: Path) -> Path:
    (folder / "1_formats").mkdir(parents=True)
    (folder / work.MANIFEST).write_text("{}")
    return folder


def enter(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Work in a folder, with nothing remembered of other tests, and no cards shown."""
    patch.chdir(folder)
    patch.setattr(kept, "_SESSION", {})
    patch.setattr(progress, "_SESSION", [])
    patch.setattr("blocks2tokens.course.check.exercise.display", lambda verdict: None)


@pytest.fixture
def learner(tmp_path, monkeypatch) -> Path:
    """A learner's empty folder; the current directory is that of a notebook in it."""
    folder = empty_work(tmp_path / "work")
    enter(monkeypatch, folder / "1_formats")
    return folder


@pytest.fixture
def nowhere(tmp_path, monkeypatch) -> Path:
    """A folder that is nobody's copy of the lessons."""
    enter(monkeypatch, tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a learner who has pasted the shown solution of every exercise of every lesson."""
    folder = empty_work(tmp_path_factory.mktemp("finished") / "work")
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, folder / "1_formats")
        for path in notebooks.find(notebooks.NOTEBOOKS):
            names = {}
            for cell in answered(path):
                run_cell(cell, names)
    return folder


@pytest.fixture
def at_the_end(finished, monkeypatch) -> Path:
    enter(monkeypatch, finished)
    return finished


def run(source: str) -> dict:
    """Run a cell in a fresh notebook, and return its names."""
    names = {"check": check, "np": np, "b2t": b2t}
    run_cell(source, names)
    return names


def text_of(folder: Path, lesson: str = "phase0_baseline") -> str:
    return (folder / "my_engine" / f"{lesson}.py").read_text()


RIGHT = "def gflops(M, K, N, seconds):\n    return {two} * M * K * N / seconds / 1e9\ncheck.gflops(gflops)"


# Every exercise

ASK_A_FRESH_PROCESS = """
import importlib, json
from blocks2tokens.course import check
from blocks2tokens.course.collected.file import MARKED
verdicts = {}
for lesson in check.LESSONS:
    module = importlib.import_module(f"my_engine.{lesson}")
    for exercise, name in MARKED.findall(open(module.__file__).read()):
        verdicts[exercise] = [lesson, check.EXERCISES[exercise].judge(getattr(module, name)).kind]
print(json.dumps(verdicts))
"""


@pytest.fixture(scope="module")
def verdicts(finished):
    """What a process that only imports the files says of their functions: {exercise: [lesson, verdict]}."""
    asked = subprocess.run(
        [sys.executable, "-c", ASK_A_FRESH_PROCESS],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(LIB), str(finished)]), "TQDM_DISABLE": "1"},
        cwd=finished.parent,
        capture_output=True,
        text=True,
    )
    assert asked.returncode == 0, asked.stderr
    return json.loads(asked.stdout)


@pytest.mark.parametrize("name", check.EXERCISES)
def test_a_shown_solution_is_collected_and_right_by_itself(name, verdicts):
    assert verdicts.get(name) == [check.lesson_of(check.EXERCISES[name]), "right"]


def test_no_file_uses_a_name_that_it_does_not_have(finished):
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F", "my_engine"]
    checked = subprocess.run(command, cwd=finished, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("lesson", check.LESSONS)
def test_a_file_is_python_to_read(finished, lesson):
    text = text_of(finished, lesson)
    assert text.startswith(f'"""Yours: the functions of lesson {lesson} ')
    assert "__main__" not in text and max(map(len, text.splitlines())) <= 120
    assert file.written(lesson, file.statements(text)) == text, "reading and writing changes nothing"


def test_all_is_done_then(at_the_end):
    assert {state for states in progress.state().values() for state in states.values()} == {"done"}
    strip = check.progress("q4_k")
    assert strip.sums() == (
        f"5 of 5 here · {len(check.EXERCISES)} of {len(check.EXERCISES)} yours · "
        f"you read {len(READERS)} of {len(READERS)} formats"
    )


def test_a_real_notebook_collects(tmp_path):
    """IPython keeps the sources of cells in its own way."""
    folder = empty_work(tmp_path / "work")
    cells = [
        "import numpy as np\nfrom blocks2tokens.course import check, my_engine",
        "class Two:\n    def times(self, x):\n        return 2 * x",
        "%time\nBILLION = 1e9\ndef billions(x): return x / BILLION",
        RIGHT.format(two="Two().times(1)").replace("/ seconds / 1e9", "/ billions(seconds) / 1e18"),
        "check.progress('phase0_baseline')",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebooks.execute(notebook, folder / "1_formats")
    assert notebook.cells[-1].outputs[0].data["text/plain"].startswith("phase0_baseline: ✓ gflops  ○ ")
    assert "class Two:" in text_of(folder) and "def billions(x)" in text_of(folder)


# What a function needs

NEEDS = """
import math as m
from numba import njit
import os.path
BILLION = 10**9
SIZES = {"two": 2, "list": [1.5, (None, True)], "text": "a\\nb"}
BLOCK = np.dtype([("d", "<f2"), ("qs", "i1", 32)])
ONES = np.ones(3, np.float32)
fmt = b2t.FORMATS["Q4_K"]
half = lambda x: x / 2
class Box:
    def __init__(self, x):
        self.x = x
@njit
def times(a, b):
    return a * b
def plus_nothing(x): return x + 0
plus_nothing = njit(plus_nothing)
same = plus_nothing
def gflops(M, K, N, seconds, size=SIZES["two"]):
    assert BLOCK.itemsize == 34 and fmt.name == "Q4_K" and ONES.sum() == 3 and os.path.join("a", "b")
    def inner(x):
        return half(times(Box(x).x, 2 * size))
    return same(inner(M * K * N)) / m.fabs(seconds) / BILLION
gflops = check.gflops(gflops)
"""


def test_what_a_function_needs_comes_with_it(learner):
    run(NEEDS)
    text = text_of(learner)
    for line in (
        "import math as m\n",
        "import os.path\n",
        "from numba import njit\n",
        'fmt = FORMATS["Q4_K"]\n',
        "BILLION = 1000000000\n",
        "half = lambda x: x / 2\n",
        "class Box:\n    def __init__",
        "@njit\ndef same(x)",
    ):
        assert line in text, line
    mine = collected.find("gflops")
    assert mine.function.__module__ == "my_engine.phase0_baseline" and mine.function(1, 1, 1, 2) == 1e-9


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (
            "rng = np.random.default_rng(0)\n"
            "def gflops(M, K, N, s):\n    rng\n    return 2 * M * K * N / s / 1e9",
            "rng, a Generator",
        ),
        (
            "W = np.zeros((99, 99))\ndef gflops(M, K, N, s):\n    W\n    return 2 * M * K * N / s / 1e9",
            "9,801",
        ),
        ("NAN = [float('nan')]\ndef gflops(M, K, N, s):\n    NAN\n    return 2 * M * K * N / s / 1e9", "NAN"),
        ("def make(n):\n    return lambda M, K, N, s: n * M * K * N / s / 1e9\ngflops = make(2)", ""),
        (
            "def make(n):\n    def f(M, K, N, s): return n * M * K * N / s / 1e9\n    return f\n"
            "gflops = make(2)",
            "within",
        ),
        ("gflops = eval('lambda M, K, N, s: 2 * M * K * N / s / 1e9')", ""),
        (
            "def gflops(M, K, N, s):\n    return eval('BILLION') * M * K * N / s / 1e9\nBILLION = 2",
            "not by itself",
        ),
    ],
)
def test_what_cannot_be_written_is_kept_for_the_session(learner, capsys, source, told):
    names = run(source + "\ngflops = check.gflops(gflops)")
    assert names["gflops"](1, 1, 1, 2) == 1e-9, "the lesson goes on with it"
    said = capsys.readouterr().out
    assert said.startswith("gflops is kept for this session, not in work/my_engine: ") and told in said
    assert said.count("\n") == 1 and not (learner / "my_engine").exists()
    assert collected.find("gflops").function is names["gflops"]


class Caller:
    def __call__(self, M, K, N, seconds):
        return 2 * M * K * N / seconds / 1e9

    def __getattr__(self, name):
        return self if name in ("__wrapped__", "py_func") else super().__getattribute__(name)


@pytest.mark.parametrize("function", [Caller(), check.EXERCISES["gflops"].engine, partial(Caller())])
def test_what_is_no_function_of_the_notebook_is_not_collected(learner, capsys, function):
    kept.keep(check.EXERCISES["gflops"], function)
    assert capsys.readouterr().out == "" and collected.find("gflops") == collected.Found(None)


def test_the_engine_in_the_place_of_a_wrong_answer_is_imported(learner):
    """read_half is not answered: decode_q8_0 goes on with the engine's, and so does its file."""
    run("""
def read_half(raw, at): ...
read_half = check.read_half(read_half)
bits = check.bits_per_weight(lambda fmt: ...)
def decode_q8_0(raw):
    out = []
    for at in range(0, len(raw), 34):
        out.append(np.float32(read_half(raw, at)) * raw[at + 2 : at + 34].view(np.int8))
    return np.concatenate(out) if out else np.empty(0, np.float32)
decode_q8_0 = check.decode_q8_0(decode_q8_0)
""")
    assert "from blocks2tokens.formats.compiled import read_half\n" in text_of(learner, "why_blocks")


TYPED = """
def unpack_scales(scales):
    a, b, c = (scales[:, i : i + 4].astype(np.int64) for i in (0, 4, 8))
    sc = np.concatenate([a & 63, (c & 15) | (a >> 6) << 4], axis=1)
    m = np.concatenate([b & 63, (c >> 4) | (b >> 6) << 4], axis=1)
    return sc.tolist(), m.tolist()
unpack_scales = check.unpack_q4_k_scales(unpack_scales)
def split_nibbles(qs): ...
split_nibbles = check.split_q4_k_nibbles(split_nibbles)
def dequantize(blocks):
    sc, m = unpack_scales(blocks["scales"])
    d, dmin = (blocks[name].astype(np.float32)[:, None] for name in ("d", "dmin"))
    weights = (d * sc)[:, :, None] * split_nibbles(blocks["qs"]) - (dmin * m)[:, :, None]
    return weights.reshape(-1, 256)
dequantize = check.dequantize_q4_k(dequantize)
"""


def test_answers_of_another_type_stay_converted(learner):
    run(TYPED)
    text = text_of(learner, "q4_k")
    assert "with\n@check.unpack_q4_k_scales.typed\ndef unpack_scales" in text and "# @...typed: " in text
    function = collected.find("unpack_q4_k_scales").function
    assert function(np.zeros((2, 12), np.uint8))[0].dtype == np.uint8
    assert (
        check.EXERCISES["dequantize_q4_k"].judge(collected.find("dequantize_q4_k").function).kind == "right"
    )


# New and old


PARTS = """
from numba import njit, prange
def row_range(worker, n_workers, M):
    {body}
row_range = check.row_range(row_range)
def multiply_rows(decode, a, raw, first, last, out):
    for i in range(first, last):
        for j in range(out.shape[1]):
            total = np.float32(0)
            for k in range(a.shape[1]):
                total += a[i, k] * decode(raw, k * out.shape[1] + j)
            out[i, j] = total
multiply_rows, row_range = njit(multiply_rows), njit(row_range)
def multiply_in_parts(decode, a, raw, n_workers, out):
    for worker in prange(n_workers):
        first, last = row_range(worker, n_workers, len(a))
        multiply_rows(decode, a, raw, first, last, out)
    return out
multiply_in_parts = check.multiply_in_parts(multiply_in_parts)
"""
RIGHT_PARTS = "return worker * M // n_workers, (worker + 1) * M // n_workers"


def test_what_another_answer_compiles_is_compiled_in_the_file(learner, capsys):
    """Once, in a second run of the notebook, with another right answer."""
    cuts = "cut = lambda w: w * M // n_workers\n    return cut(worker), cut(worker + 1)"
    for body in (RIGHT_PARTS, RIGHT_PARTS, cuts):
        run(PARTS.format(body=body))
        assert capsys.readouterr().out == ""
        text = text_of(learner, "phase2_optimized_fused")
        assert "# --- check.row_range(row_range): right ---\n@njit\ndef row_range" in text
        assert text.count("def row_range") == 1 and body in text
        for name in ("row_range", "multiply_in_parts"):
            assert check.EXERCISES[name].judge(collected.find(name).function).kind == "right"


def test_the_engines_function_that_the_lesson_compiles_is_compiled_in_the_file(learner, capsys):
    run(PARTS.format(body="..."))
    assert capsys.readouterr().out == ""
    text = text_of(learner, "phase2_optimized_fused")
    assert "\nrow_range = njit(check.row_range.engine)\n" in text
    run(PARTS.format(body=RIGHT_PARTS))
    assert capsys.readouterr().out == ""
    text = text_of(learner, "phase2_optimized_fused")
    assert "@njit\ndef row_range" in text and "import check" not in text


def test_imports_that_nothing_needs_any_more_go(learner):
    run(
        "import math\ndef gflops(M, K, N, s):\n    return 2 * math.prod((M, K, N)) / s / 1e9\n"
        "check.gflops(gflops)"
    )
    assert "import math" in text_of(learner, "phase0_baseline")
    run("def gflops(M, K, N, s):\n    return 2 * M * K * N / s / 1e9\ncheck.gflops(gflops)")
    assert "import math" not in text_of(learner, "phase0_baseline")


def test_only_what_is_right_replaces_what_was(learner):
    run(RIGHT.format(two="2"))
    run(RIGHT.format(two="3"))
    assert "return 2 * M" in text_of(learner)
    run(RIGHT.format(two="(1 + 1)"))
    text = text_of(learner)
    assert "return (1 + 1) * M" in text and text.count("def gflops") == 1
    assert list((learner / "my_engine").iterdir()) == [learner / "my_engine" / "phase0_baseline.py"]


@pytest.mark.parametrize("head", ["seconds, two=Two.two", "seconds: Two, two=2"])
def test_what_a_new_version_needs_at_once_stands_above_it(learner, head):
    run(RIGHT.format(two="2"))
    new = "class Two:\n    two = 2\n    def nothing(self): ...\n" + RIGHT.format(two="two")
    run(new.replace("seconds)", head + ")", 1))
    text = text_of(learner)
    assert f"def gflops(M, K, N, {head})" in text and text.index("class Two") < text.index("def gflops")


def test_another_name_for_the_same_answer_takes_its_place(learner):
    run(RIGHT.format(two="2"))
    run(RIGHT.format(two="2").replace("gflops(M", "speed(M").replace("(gflops)", "(speed)"))
    assert file.exercises(file.statements(text_of(learner))) == {"gflops": "speed"}


def test_one_name_for_two_answers(learner):
    run("""
def f(M, K, N, seconds):
    return 2 * M * K * N / seconds / 1e9
check.gflops(f)
def f(M, K, N):
    return (2 if M * K * N > 2**20 else 1) * 4 * K * N
check.baseline_temporaries(f)
""")
    answers = file.exercises(file.statements(text_of(learner)))
    assert answers == {"gflops": "f", "baseline_temporaries": "baseline_temporaries"}
    assert collected.find("gflops").function(1, 1, 1, 2) == 1e-9
    assert collected.find("baseline_temporaries").function(1, 2, 3) == 24


HELPED = """
FACTOR = {gflops}
def gflops(M, K, N, seconds):
    return {factor} * M * K * N / seconds / 1e9
check.gflops(gflops)
FACTOR = {bytes}
def baseline_temporaries(M, K, N):
    return (2 if M * K * N > 2**20 else 1) * int(FACTOR) * K * N
check.baseline_temporaries(baseline_temporaries)
"""


def test_a_name_that_means_two_things_spoils_nothing(learner, capsys):
    run(HELPED.format(gflops=2, factor="FACTOR", bytes=4))
    said = capsys.readouterr().out
    assert "gflops uses FACTOR too" in said and "give one of them another name" in said
    assert collected.find("gflops").function(1, 1, 1, 2) == 1e-9
    assert "baseline_temporaries" not in text_of(learner)


def test_a_right_answer_gives_way_to_no_helper_of_its_name(learner):
    run(RIGHT.format(two="2"))
    run("""
def gflops(M, K, N, seconds):
    return 7
def baseline_temporaries(M, K, N):
    gflops(M, K, N, 1)
    return (2 if M * K * N > 2**20 else 1) * 4 * K * N
check.baseline_temporaries(baseline_temporaries)
""")
    text = text_of(learner)
    assert "return 7" not in text
    assert set(file.exercises(file.statements(text))) == {"gflops", "baseline_temporaries"}


def test_a_helper_that_gets_better_replaces_the_old_one(learner, capsys):
    run(HELPED.format(gflops=4, factor="FACTOR / 2", bytes=4))
    run(HELPED.format(gflops="2 + 2.0", factor="FACTOR / 2", bytes=4.0))
    assert capsys.readouterr().out == "" and "FACTOR = 4.0" in text_of(learner)


def test_an_answer_to_an_exercise_that_is_no_more_stays_and_harms_nobody(learner, capsys):
    run(HELPED.format(gflops=4, factor="FACTOR / 2", bytes=4))
    path = learner / "my_engine" / "phase0_baseline.py"
    path.write_text(path.read_text().replace("check.baseline_temporaries", "check.an_old_one"))
    run(HELPED.format(gflops=4.0, factor="FACTOR / 2", bytes=4.0).partition("FACTOR = 4.0\ndef base")[0])
    assert capsys.readouterr().out == ""
    assert "check.an_old_one(baseline_temporaries)" in path.read_text() and "FACTOR = 4.0" in path.read_text()


# By hand


def test_what_was_added_by_hand_stays(learner):
    run(RIGHT.format(two="2"))
    path = learner / "my_engine" / "phase0_baseline.py"
    path.write_text(
        path.read_text() + "# mine\nEXTRA = 1; OTHER = 2\n\n\ndef more():\n    return EXTRA\n# the end\n"
    )
    run(RIGHT.format(two="2.0"))
    text = text_of(learner)
    for line in ("# mine", "EXTRA = 1", "OTHER = 2", "def more():", "# the end", "return 2.0 * M"):
        assert line in text, line


@pytest.mark.parametrize(
    "broken", ["exit()", "1 / 0", "import no_such_module", "print('hello')", "assert False"]
)
def test_a_statement_that_fails_takes_no_other_with_it(learner, capsys, broken):
    run(RIGHT.format(two="2"))
    path = learner / "my_engine" / "phase0_baseline.py"
    path.write_text(path.read_text().replace("# --- check", broken + "\n# --- check"))
    assert collected.find("gflops").function.__module__ == "my_engine.phase0_baseline"
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("def gflops", "raise SystemExit\ndef gflop", "my_engine/phase0_baseline.py, line "),
        ("def gflops", "def gflop", "the function is gone"),
        ("def gflops", "def gflops(", "does not load"),
        ("def gflops", "\0", "does not load"),
    ],
)
def test_what_does_not_load_is_complained_of(learner, monkeypatch, old, new, told):
    run(RIGHT.format(two="2"))
    monkeypatch.setattr(kept, "_SESSION", {})
    path = learner / "my_engine" / "phase0_baseline.py"
    path.write_text(path.read_text().replace(old, new))
    found = collected.find("gflops")
    assert found.function is None and told in found.complaint


def test_a_file_that_is_no_python_is_put_beside(learner, capsys):
    path = learner / "my_engine" / "phase0_baseline.py"
    path.parent.mkdir()
    for n in (1, 2):
        path.write_text(f"half a line (  # {n}")
        run(RIGHT.format(two="2"))
    assert (path.parent / "phase0_baseline (broken).py").read_text() == "half a line (  # 1"
    assert (path.parent / "phase0_baseline (broken 2).py").read_text() == "half a line (  # 2"
    assert "return 2 * M" in path.read_text() and "a new one begins" in capsys.readouterr().out


# Where


def test_without_a_folder_nothing_is_written(nowhere):
    before = sorted(nowhere.rglob("*"))
    run(RIGHT.format(two="2"))
    assert sorted(nowhere.rglob("*")) == before
    assert collected.find("gflops").function(1, 1, 1, 2) == 1e-9


def test_a_link_out_of_the_folder_is_not_followed(learner, tmp_path, capsys):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "q4_k.py").write_text("raise RuntimeError('was run')")
    (learner / "my_engine").symlink_to(tmp_path / "elsewhere")
    run(RIGHT.format(two="2"))
    assert "is a link out of work/" in capsys.readouterr().out
    assert "is a link out of work/" in collected.find("dequantize_q4_k").complaint
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["q4_k.py"]


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="Windows does not number its users")
def test_anothers_folder_is_not_used(learner, monkeypatch):
    assert work.folder() == learner
    monkeypatch.setattr(os, "getuid", lambda: learner.stat().st_uid + 1)
    assert work.folder() is None


def test_a_folder_that_cannot_be_written_spoils_nothing(learner, capsys):
    (learner / "my_engine").write_text("a file")
    assert run(RIGHT.format(two="2"))["gflops"](1, 1, 1, 2) == 1e-9
    assert "not in work/my_engine" in capsys.readouterr().out


def test_new_lessons_leave_the_learners_engine_alone(learner):
    run(RIGHT.format(two="2"))
    before = {
        path: path.read_bytes() for path in [*(learner / "my_engine").iterdir(), learner / progress.RECORD]
    }
    workspace.sync(notebooks.NOTEBOOKS, learner)
    assert {path: path.read_bytes() for path in before} == before
    assert work.MANIFEST == workspace.MANIFEST and work.folder() == learner


# Speaking


@pytest.fixture
def said(monkeypatch):
    """Models that were asked to speak."""
    asked = []

    def speak(model, *_, **__):
        asked.append(model)
        return "text"

    monkeypatch.setattr("blocks2tokens.course.explore.speak", speak)
    return asked


IDS = [5, 17, 900, 3]


@pytest.mark.parametrize("name", READERS)
def test_each_decoder_has_its_place(at_the_end, name):
    fmt, rng = b2t.FORMATS[name], np.random.default_rng(0)
    raw = fmt.quantize(rng.standard_normal((6, 512), np.float32))
    mine = my_engine.weights(fmt, raw, collected.find(READERS[name]).function)
    assert mine.dtype == np.float32 and np.array_equal(mine, fmt.dequantize(raw))


def test_austen_speaks_through_the_learners_decoder(at_the_end, said, capsys):
    assert my_engine.speak("Q8_0") == "text"
    assert capsys.readouterr().out == "Q8_0 is decoded by your function\n"
    assert np.array_equal(said[0].logits(IDS), my_engine.austen_with("Q8_0").logits(IDS))


def test_where_there_is_none_she_speaks_through_the_engines(learner, said, capsys):
    my_engine.speak("Q4_0")
    assert capsys.readouterr().out == "Q4_0 is decoded by the engine: decode_q4_0 is not yours yet\n"
    assert len(said) == 1


def engines(blocks):
    return check.EXERCISES["decode_q4_0"].engine(blocks)


def exits(blocks):
    raise SystemExit


@pytest.mark.parametrize(
    ("decode", "told"),
    [
        (exits, "it raised SystemExit"),
        (lambda blocks: 1 / 0, "it raised ZeroDivisionError: division by zero"),
        (lambda blocks: engines(blocks)[1:], "it returned shape"),
        (lambda blocks: ["a"] * 3, "it returned a list, not numbers"),
        (lambda blocks: None, "it returned None"),
        (lambda blocks: engines(blocks) * np.float32("nan"), "65,536 of its weights are not finite"),
    ],
)
def test_a_decoder_that_gives_no_weights_is_not_used(learner, said, capsys, decode, told):
    my_engine.speak("Q4_0", decode=decode)
    out = capsys.readouterr().out
    assert out.startswith("Q4_0 is decoded by the engine: the function that you passed is not used, " + told)
    assert np.array_equal(said[0].logits(IDS), my_engine.austen_with("Q4_0").logits(IDS))


def test_a_wrong_bit_is_heard(learner, said, capsys):
    def one_bit_less(blocks):
        blocks["qs"] &= 0x7F
        return engines(blocks)

    my_engine.speak("Q4_0", decode=one_bit_less)
    assert capsys.readouterr().out == "Q4_0 is decoded by the function that you passed\n"
    apart = said[0].logits(IDS) - my_engine.austen_with("Q4_0").logits(IDS)
    assert np.abs(apart).max() > 1


def test_a_collected_decoder_that_was_broken_is_told(learner, said, capsys, monkeypatch):
    run("""
def decode_q4_0(blocks):
    q = np.concatenate([blocks["qs"] & 15, blocks["qs"] >> 4], axis=1).astype(np.int8) - np.int8(8)
    return blocks["d"].astype(np.float32)[:, None] * q
check.decode_q4_0(decode_q4_0)
""")
    path = learner / "my_engine" / "why_blocks.py"
    path.write_text(path.read_text().replace("import numpy as np", "import nonsense_of_mine as np"))
    my_engine.speak("Q4_0")
    out = capsys.readouterr().out
    assert "your function is not used, it raised NameError: name 'np' is not defined" in out


@pytest.mark.parametrize("name", ["Q4_K_M", "F16", "", None])
def test_what_no_exercise_decodes_is_refused(name):
    with pytest.raises(ValueError, match="format: expected one of Q8_0, "):
        my_engine.speak(name)


# A whole file


@pytest.fixture(scope="module")
def small_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "austen.Q4_0.gguf"
    b2t.convert(models.austen(), path, "Q4_0")
    return path


def test_a_file_is_read_by_the_learner_from_the_first_byte(at_the_end, small_file, capsys):
    model = my_engine.load(small_file)
    assert capsys.readouterr().out.splitlines()[-1] == (
        "yours: read_string, read_value, shape_and_bytes, align, q4_0; the engine's: nothing"
    )
    assert model.transformer.token_embd.format.name == "F32"
    expected = plain_forward(b2t.load(small_file), IDS)
    assert np.allclose(model.logits(IDS), expected, rtol=1e-4, atol=1e-3)


def test_a_file_is_read_by_the_engine_where_nothing_is_there(learner, small_file, capsys):
    model = my_engine.load(small_file)
    assert "yours: nothing yet; the engine's: read_string, " in capsys.readouterr().out
    assert np.array_equal(model.logits(IDS), b2t.load(small_file).logits(IDS))


@pytest.mark.parametrize(
    ("name", "wrong", "told"),
    [
        ("read_string", lambda buffer, at: 1 / 0, "it raised ZeroDivisionError"),
        ("read_value", lambda buffer, value_type, at: (0, at), "it r"),
        ("shape_and_bytes", lambda ne, fmt: (tuple(ne), 1), "it finds token_embd.weight elsewhere"),
        ("align", lambda offset, alignment: offset + 1, "elsewhere than the engine"),
    ],
)
def test_a_reader_that_reads_something_else_is_not_used(learner, small_file, capsys, name, wrong, told):
    kept._SESSION[name] = wrong
    model = my_engine.load(small_file)
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{name} "))
    assert "the engine's: " in line and told in line
    assert np.array_equal(model.logits(IDS), b2t.load(small_file).logits(IDS))


def test_a_broken_file_is_refused_before_the_learners_functions_see_it(at_the_end, tmp_path):
    (tmp_path / "broken.gguf").write_bytes(models.austen().read_bytes()[:5000])
    with pytest.raises(b2t.GGUFError):
        my_engine.load(tmp_path / "broken.gguf")


# A pass


def test_the_learners_pass_is_the_engines(at_the_end, capsys):
    mine, austen = my_engine.forward(), b2t.load(models.austen())
    assert capsys.readouterr().out.endswith("; the engine's: nothing\n")
    assert {piece.__module__.partition(".")[0] for piece in mine.pieces.values()} == {"my_engine"}
    assert np.allclose(mine(austen, IDS), austen.logits(IDS), rtol=1e-4, atol=1e-3)
    assert mine.generate(austen, IDS, 3) == list(austen.generate(IDS, 3))


def test_a_pass_needs_nothing_of_the_learner(learner, smollm2_path, capsys):
    mine, smol = my_engine.forward(), b2t.load(smollm2_path)
    assert "yours: nothing yet" in capsys.readouterr().out
    assert np.allclose(mine(smol, IDS), plain_forward(smol, IDS), rtol=1e-3, atol=1e-2)


def test_the_layers_use_the_learners_norm(learner):
    run("""
def rms_norm(x, weight, eps):
    rms_norm.calls = getattr(rms_norm, "calls", 0) + 1
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(eps)) * weight
check.rms_norm(rms_norm)
""")
    mine, austen = my_engine.forward(), b2t.load(models.austen())
    norm = mine.pieces["rms_norm"]
    before = norm.calls
    mine(austen, IDS)
    assert norm.calls - before == 2 * austen.config.n_layers + 1


def test_a_layer_may_name_what_it_hands_to_the_norm(learner):
    run("""
from blocks2tokens.model.layers import rms_norm
def layer_forward(x, w, eps, attention, feed_forward):
    for part, norm in ((attention, "attn_norm"), (feed_forward, "ffn_norm")):
        x = x + part(rms_norm(x, w[norm], eps=eps), w)
    return x
check.layer_forward(layer_forward)
""")
    mine, austen = my_engine.forward(), b2t.load(models.austen())
    assert mine.pieces["layer_forward"] is not check.EXERCISES["layer_forward"].engine
    assert np.allclose(mine(austen, IDS), plain_forward(austen, IDS), rtol=1e-3, atol=1e-2)


def test_each_piece_of_a_pass_can_be_timed(learner):
    record = profiler.Recorder()
    austen = b2t.load(models.austen())
    mine = my_engine.forward(record)
    with record("pass"):
        mine(austen, IDS)
    layers, found = austen.config.n_layers, record["pass"].stages
    assert {name: stage.calls for name, stage in found.items()} == {
        "rope_angles": 1,
        "layer_forward": layers,
        "rms_norm": 1,
    }
    inside = {name: stage.calls for name, stage in found["layer_forward"].stages.items()}
    heads = austen.config.n_heads * layers
    assert inside == {
        "rms_norm": 2 * layers,
        "rotate_adjacent": 2 * layers,
        "causal_weights": heads,
        "swiglu": layers,
    }


def test_a_piece_that_is_no_longer_right_is_not_used(learner, capsys):
    kept._SESSION["swiglu"] = lambda gate, up: gate * up
    mine = my_engine.forward()
    assert "swiglu           the engine's: yours is no longer right\n" in capsys.readouterr().out
    assert mine.pieces["swiglu"] is check.EXERCISES["swiglu"].engine
