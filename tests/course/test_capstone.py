"""The capstone: the starter runs, the finished engine passes, and no file breaks the judge."""

import importlib.util
import json
import mmap
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from llama_cpp import llama_cpp

import blocks2tokens as b2t
from blocks2tokens.course import check, collected, models
from blocks2tokens.course.capstone import __main__ as command
from blocks2tokens.course.capstone import board, criteria, judging, pieces, questions, rules
from blocks2tokens.course.capstone.criteria import Failed, Subject
from blocks2tokens.course.lessons.capstone import exercises
from blocks2tokens.model.layers import softmax

ROOT = Path(__file__).resolve().parents[2]
FINISHED = Path(exercises.__file__).with_name("finished_engine.py")
SCRIPT = ROOT / "data" / "make_capstone_logits.py"
STARTER = pieces.STARTER.read_text(encoding="utf-8")


def nothing(piece):
    """In the place of what a learner has passed."""


def ours(**functions):
    return functions.get


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The files that engines are judged with, Austen's conversions and the seeded one."""
    folder = tmp_path_factory.mktemp("capstone")
    return questions.write_conversions(folder) | {
        questions.SEEDED: questions.write_seeded(folder / "seeded.gguf", 5)
    }


@pytest.fixture(scope="module", params=["starter", "finished"])
def subject(request, files):
    path = {"starter": pieces.STARTER, "finished": FINISHED}[request.param]
    return Subject(pieces.build(path, nothing).module, files)


def written(tmp_path, text, name="my_engine.py"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


# Engines that are right


@pytest.mark.parametrize("criterion", ["weights", "tokens", "logits", "text", "allocations", "memory"])
def test_the_starter_and_the_finished_engine_meet_the_criteria(subject, criterion):
    found = criteria.CRITERIA[criterion](subject)
    assert found.said and all(np.isfinite(value) for value in found.figures.values())


def test_smollm2_too(smollm2_path):
    subject = Subject(pieces.build(FINISHED, nothing).module, {questions.SMOLLM2: smollm2_path})
    assert criteria.smollm2(subject).figures["nats apart, SmolLM2"] < 0.35
    assert "tokens" in criteria.tokens(subject).said


def test_an_engine_that_keeps_its_blocks_reads_and_holds_less(files):
    starter, finished = (Subject(pieces.build(p, nothing).module, files) for p in (pieces.STARTER, FINISHED))
    held = [criteria.memory(one).figures["bytes of memory"] for one in (finished, starter)]
    assert held[0] < held[1] / 4
    read = [criteria.bytes_read(one).figures.get("bytes read per token") for one in (finished, starter)]
    assert read == [None, None] or read[0] < read[1] / 2


def test_what_a_token_reads_is_memory_and_files_that_its_model_maps(tmp_path):
    size, path = 16 << 20, tmp_path / "model.bin"
    path.write_bytes(bytes(size))
    file = path.open("rb")
    with file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, mmap.mmap(-1, size) as shared:
        private = np.ones(size, np.uint8)

        def here():
            return [sum(each[:: mmap.PAGESIZE]) for each in (mapped, shared, private)]

        def elsewhere():
            subprocess.run([sys.executable, "-c", f"open({str(path)!r}, 'rb').read()"], check=True)

        here()
        try:
            others = {other for other, _ in criteria._mappings()}
            ours = others - {str(path)}
            found = [criteria._touched(*a) for a in ((here, ours), (here, others), (elsewhere, others))]
        except criteria.NotCountedError:
            pytest.skip("this system does not count pages")
    assert [round(n_bytes / size) for n_bytes in found] == [3, 2, 0]


def test_what_an_engine_raises_is_not_the_system_s_answer(files, tmp_path, monkeypatch):
    def load(path):
        raise FileNotFoundError("repacked.bin")

    with pytest.raises(FileNotFoundError, match="repacked"):
        criteria.bytes_read(Subject(SimpleNamespace(load=load), files))
    monkeypatch.setattr(criteria, "SMAPS", tmp_path / "nothing")
    found = criteria.bytes_read(Subject(pieces.build(FINISHED, nothing).module, files))
    assert found == criteria.Finding("not to be had from this system")


def test_speed_is_a_ratio_to_the_starter(files):
    found = criteria.speed(Subject(pieces.build(FINISHED, nothing).module, files), seconds=0.1)
    assert {"decode, times the starter's", "prefill, times the starter's"} < found.figures.keys()


def test_the_finished_engine_keeps_the_rules():
    text = FINISHED.read_text(encoding="utf-8")
    assert rules.broken(FINISHED) == [] and rules.code_lines(text) <= rules.MOST_LINES
    assert pieces.stubs(text) == [] and rules.broken(pieces.STARTER) == []


# The starter's stubs


def test_the_starter_is_stubs_all_of_them_pieces_that_exercises_answer():
    assert pieces.stubs(STARTER) == [name for name in pieces.OF_LESSON if f"def {name}(" in STARTER]
    assert set(pieces.stubs(STARTER)) == set(pieces.OF_LESSON) <= set(check.EXERCISES)
    assert {e.name for e in exercises.EXERCISES} <= set(pieces.OF_LESSON)


def test_a_piece_says_its_lesson():
    numbers = {path.stem[3:]: path.stem[:2] for path in (ROOT / "notebooks").rglob("*.ipynb")}
    numbers |= {"capstone": "33"}
    for name, nr in pieces.OF_LESSON.items():
        assert numbers[check.lesson_of(check.EXERCISES[name])] == nr
        assert f"Lesson {nr}." in STARTER.split(f"def {name}(")[1].split('"""')[1]


def test_the_solutions_of_lesson_33_and_the_blocks_are_the_starter_s():
    assert pieces.build(pieces.STARTER, nothing).module.BLOCKS == exercises.BLOCKS
    for ggml_type, (name, size, n_bytes) in exercises.BLOCKS.items():
        fmt = b2t.FORMATS[name]
        assert (fmt.ggml_type, fmt.block_size, fmt.bytes_per_block) == (ggml_type, size, n_bytes)


def test_a_stub_is_filled_with_what_was_passed_else_with_the_engine_s(austen_path):
    def rms_norm(x, weight, eps):
        return 0 * x

    built = pieces.build(pieces.STARTER, ours(rms_norm=rms_norm))
    assert built.whose["rms_norm"] == pieces.PASSED and built.whose["swiglu"] == pieces.LENT
    model = built.module.load(str(austen_path))
    assert not model.logits([1, 2, 3]).any(), "the function that was lent uses the one that was passed"


def test_a_written_piece_stays_and_what_is_lent_uses_it(tmp_path, austen_path):
    text = STARTER.replace("return x @ w.T", "return 0 * (x @ w.T)")
    model = pieces.build(written(tmp_path, text), nothing).module.load(str(austen_path))
    assert not model.logits([1, 2, 3]).any()


def test_what_was_collected_is_found(monkeypatch):
    marker = len
    monkeypatch.setattr(collected, "find", lambda name: collected.Found(marker if name == "bpe" else None))
    assert pieces.mine("bpe") is marker and pieces.mine("swiglu") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def load(path:", "no Python: line 1: '(' was never closed"),
        ("x = 1\nimport nowhere_at_all", "line 2: ModuleNotFoundError"),
        ("x = 1", "no function load(path)"),
    ],
)
def test_a_file_that_does_not_run_says_why(tmp_path, text, words):
    with pytest.raises(pieces.NoEngineError) as error:
        pieces.build(written(tmp_path, text), nothing)
    assert words in str(error.value)


# Rules


def test_only_lines_of_code_count():
    text = '"""A\n\ndocstring."""\n\n# a comment\nx = [\n    1,\n]\n'
    text += '\n\ndef f():\n    """One."""\n    return """a\nb"""\n'
    assert rules.code_lines(text) == 3 + 1 + 2


DOES_THE_WORK = ["import blocks2tokens as b2t", "from gguf import GGUFReader", "import torch", "import sys"]
DOES_THE_WORK += ["import subprocess", "import os", "from . import x", "def f():\n    import socket"]
DOES_THE_WORK += ["__import__('gguf')", "exec('import gguf')"]


@pytest.mark.parametrize("text", DOES_THE_WORK)
def test_what_does_the_work_may_not_be_imported(tmp_path, text):
    assert "it may not use" in rules.broken(written(tmp_path, text))[0]


def test_what_an_engine_needs_may_be_imported(tmp_path):
    text = "import mmap, struct\nimport numpy as np\nfrom numba import njit\nimport tokenizers.models"
    assert rules.broken(written(tmp_path, text)) == []


def test_a_long_file_is_told_how_long(tmp_path):
    assert "301 lines of code, at most 300" in rules.broken(written(tmp_path, "x = 1\n" * 301))[0]


# Engines that are wrong: each by the criterion that sees it


def wrong(subject, name, change):
    """Return a subject whose model has another method."""

    class Changed:
        def __init__(self, model):
            self.model = model

        def __getattr__(self, attribute):
            found = getattr(self.model, attribute)
            return change(found) if attribute == name else found

    one = replace(subject)
    one.module = type("Module", (), {"load": staticmethod(lambda path: Changed(subject.module.load(path)))})
    return one


def last_bit(tensor):
    def change(name):
        found = tensor(name).copy()
        found.reshape(-1).view(np.uint32)[7] ^= 1
        return found

    return change


def wasteful(generate):
    def change(ids, n):
        for i in generate(ids, n):
            np.ones(20_000_000, np.uint8)
            yield i

    return change


WRONG = [
    ("weights", "tensor", last_bit, "1 of "),
    ("weights", "tensor", lambda f: lambda name: f(name).T.copy(), "expected shape"),
    ("weights", "tensor", lambda f: lambda name: None, "got None: is there no `return`?"),
    ("tokens", "tokenize", lambda f: lambda text: [*f(text)[:-1], 5], "another than llama.cpp's"),
    ("tokens", "tokenize", lambda f: lambda text: f(text)[:-1], "another than llama.cpp's"),
    ("logits", "logits", lambda f: lambda ids: f(ids)[:, ::-1].copy(), "nats from llama.cpp"),
    ("logits", "logits", lambda f: lambda ids: f(ids)[-1:], "expected shape"),
    ("logits", "logits", lambda f: lambda ids: softmax(f(ids)), "leave out the softmax"),
    ("logits", "logits", lambda f: lambda ids: f(ids) * np.float32(np.nan), "not finite"),
    ("logits", "logits", lambda f: lambda ids: f(ids).astype(np.int32), "an array of int32"),
    ("text", "generate", lambda f: lambda ids, n: [7, *f(ids, n - 1)], "not the most likely"),
    ("text", "generate", lambda f: lambda ids, n: [*f(ids, n), 1, 2], "ids"),
    ("text", "generate", lambda f: lambda ids, n: [*ids, *f(ids, n)], "the prompt's first"),
    ("allocations", "generate", wasteful, "decodes the model again"),
]  # fmt: skip


@pytest.mark.parametrize(("criterion", "name", "change", "words"), WRONG)
def test_a_criterion_sees_what_is_wrong(files, criterion, name, change, words):
    subject = wrong(Subject(pieces.build(FINISHED, nothing).module, files), name, change)
    with pytest.raises(Failed) as error:
        criteria.CRITERIA[criterion](subject)
    assert words in str(error.value)


def test_the_seeded_file_has_every_format_and_depends_on_the_seed(files, tmp_path):
    file = b2t.GGUFFile(files[questions.SEEDED])
    assert {file.format(name).name for name in file.tensors} == {"F32", *questions.READ}
    same, other = (questions.write_seeded(tmp_path / f"{seed}", seed) for seed in (5, 6))
    assert same.read_bytes() == files[questions.SEEDED].read_bytes() != other.read_bytes()


# Files that break off. A process for each: those that need no model are quick.

LOAD = "import os\nimport numpy as np\n\n\ndef load(path):\n    "
TRIES = "try:\n        open('x', 'w')\n    except BaseException:\n        return 1"
BREAKING = {
    "loops": ("while True:\n        pass", "does every loop in it end?"),
    "eats memory": ("return [np.ones(10**8) for _ in range(9)]", "memory"),
    "prints": ("while True:\n        print('again ' * 10**5)", "it printed more than"),
    "exits": ("raise SystemExit(3)", "it calls exit()"),
    "exits at once": ("return 1\n\n\nraise SystemExit", "it calls exit()"),
    "ends hard": ("os._exit(7)", "Python ended with code 7"),
    "writes": ("open('x', 'w').write('x')", "it writes a file"),
    "starts": ("os.system('true')", "it starts a process"),
    "catches it": (TRIES, "it writes a file"),
    "raises": ("return 1 // 0", "line 6: ZeroDivisionError"),
    "is no model": ("return 7", "an object of int, which has no tensor, tokenize"),
    "recurses": ("return load(path)", "RecursionError"),
}


@pytest.mark.parametrize(("text", "words"), BREAKING.values(), ids=BREAKING)
def test_a_file_that_breaks_off_is_a_row_with_a_reason(tmp_path, text, words):
    path = written(tmp_path, LOAD + text)
    limits = {"seconds": 4 if "pass" in text else 60, "memory": 10**9}
    report = judging.judge(path, criteria=["text"], **limits)
    said = [row for row in report.rows if not row.met and row.criterion != judging.RULES]
    assert len(said) == 1 and words in said[0].said, report
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_waits_is_not_waited_for_as_long_as_one_that_computes(tmp_path, monkeypatch):
    monkeypatch.setattr(judging, "IDLE", 5.0)
    path = written(tmp_path, "import threading\n\n\ndef load(path):\n    threading.Event().wait()\n")
    row = judging.judge(path, criteria=["text"]).rows[-1]
    assert not row.met and "computed nothing for 5 s: does it wait" in row.said


def test_the_criteria_behind_one_that_breaks_off_are_judged(tmp_path):
    text = STARTER.replace(
        "def load(path):", "def load(path):\n    if 'Q4_K' in path:\n        raise SystemExit"
    )
    text = text.replace(
        "        words = [word for", "        while True:\n            pass\n        words = [word for"
    )
    report = judging.judge(
        written(tmp_path, text), criteria=["tokens", "memory", "text"], seconds=10, memory=2 * 10**9
    )
    found = {row.criterion: row.met for row in report.rows}
    assert found == {"rules": True, "it runs": True, "tokens": False, "memory": False, "text": True}, report


# The command and the leaderboard


@pytest.fixture
def report(tmp_path):
    path = written(tmp_path, STARTER)
    rows = (judging.Row("rules", True, "fine", {"lines": 131}), judging.Row("text", False, "no text"))
    return judging.Report(path, 3, 131, rows, {"bpe": pieces.LENT})


def test_a_row_says_where_it_comes_from_and_keeps_the_file(report, tmp_path):
    place = tmp_path / "work"
    place.mkdir()
    kept = board.keep(report, place)
    assert board.entries(place) == [kept] and (kept.met, kept.of, kept.seed, kept.lines) == (1, 2, 3, 131)
    assert kept.cpu and kept.cores >= 1 and len(kept.sha256) == 64 and kept.course
    assert (place / board.FOLDER / f"{kept.sha256[:12]}.py").read_text() == STARTER
    board.keep(report, place)
    assert len(board.entries(place)) == 1, "the same file on the same CPU has one row"
    assert "my_engine.py  1/2" in board.table(board.entries(place))


def test_a_damaged_leaderboard_is_no_reason_to_lose_a_row(report, tmp_path):
    (tmp_path / board.FILE).write_text('[{"name": "half"}, 7')
    assert board.entries(tmp_path) == [] and board.keep(report, tmp_path)
    assert len(board.entries(tmp_path)) == 1


def test_the_best_stands_first(report, tmp_path):
    one = board.entry(report)
    faster = replace(one, name="faster.py", figures={board.SPEED: 3.0})
    whole = replace(one, name="whole.py", met=2)
    broken = replace(one, name="broken.py", met=0, of=1)  # judged by one criterion, and misses no more
    names = [line.split()[0] for line in board.table([broken, one, faster, whole]).splitlines()]
    assert names == ["file", "whole.py", "faster.py", "my_engine.py", "broken.py"]


def test_the_command_writes_the_starter_once(tmp_path, capsys):
    path = tmp_path / "my_engine.py"
    assert command.main([str(path), "--start"]) == 0 and path.read_text(encoding="utf-8") == STARTER
    path.write_text("mine")
    assert command.main([str(path), "--start"]) == 2 and path.read_text() == "mine"
    assert "is there already" in capsys.readouterr().err


def test_the_command_judges_and_says_it_as_json(tmp_path, capsys):
    path = written(tmp_path, "def load(path):\n    return 7")
    assert command.main([str(path), "--only", "text", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["lines"] == 2 and [row["criterion"] for row in found["rows"]] == ["rules", "it runs", "text"]
    assert found["entry"] is None


def test_nothing_to_judge_is_an_error(tmp_path, capsys):
    assert command.main([str(tmp_path / "nowhere.py")]) == 2
    assert "no such file" in capsys.readouterr().err
    with pytest.raises(ValueError, match="criteria: expected some of"):
        judging.judge(FINISHED, criteria=["beauty"])


# What was recorded


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_capstone_logits", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_recorded_file_is_whole():
    ids = b2t.load(models.austen()).tokenizer.encode(questions.TEXT)
    for name in questions.READ:
        recorded_ids, top_ids, top_log_probs = questions.recorded(name)
        assert recorded_ids.tolist() == ids and top_ids.shape == top_log_probs.shape == (len(ids), 20)
        assert (np.diff(top_log_probs) <= 0).all()
    assert questions.RECORDED.stat().st_size < 60_000


@pytest.mark.parametrize("name", ["F16", "Q4_K"])
def test_llama_cpp_still_says_what_is_recorded(xllamacpp, script, files, name):
    ids, top_ids, top_log_probs = questions.recorded(name)
    with llama_cpp(xllamacpp, files[name], n_context=512, n_threads=1) as oracle:
        assert oracle.tokenize(questions.TEXT) == ids.tolist()
        now = script.record(oracle, ids[:12].tolist())
    assert np.mean(now["top_ids"][:, 0] == top_ids[:12, 0]) >= 0.9
    off = []
    for t in range(12):
        new = dict(zip(now["top_ids"][t].tolist(), now["top_log_probs"][t], strict=True))
        old = zip(top_ids[t].tolist(), top_log_probs[t], strict=True)
        off += [abs(new[i] - log_p) for i, log_p in old if i in new]
    assert len(off) > 180 and np.mean(off) < (0.002 if name == "F16" else 0.1)
