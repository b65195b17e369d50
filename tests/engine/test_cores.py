"""How many threads: what the system grants, what the user wants, what a model uses, who may start them."""

import importlib
import os
import pickle
import pkgutil
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numba
import numpy as np
import pytest
import threadpoolctl
from numba.core.registry import CPUDispatcher
from small_model import small_model

import blocks2tokens as b2t
from blocks2tokens.command_line import main
from blocks2tokens.jit import cores, cpu
from blocks2tokens.kernels import autotune, kernel
from blocks2tokens.model import decode, transformer

IDS = [3, 1, 4, 1, 5, 9, 2, 6]
ALL = numba.config.NUMBA_NUM_THREADS


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return small_model().write(tmp_path_factory.mktemp("cores") / "small.gguf")


def run_python(code, *arguments, **environment):
    """Run a program in a new process with this package, as if nobody had chosen a number of threads."""
    own = {name: text for name, text in os.environ.items() if name not in (cores.VARIABLE, cores.NUMBAS)}
    own |= {"PYTHONPATH": str(Path(b2t.__file__).parents[1])} | environment
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=own, timeout=300)


# --- What is to be had ------------------------------------------------------------------------------------


def tree(folder, own, files):
    """Write a list of own control groups, and files below a folder; return the two paths."""
    for name, text in files.items():
        file = folder / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (folder / "own").write_text(own)
    return folder / "own", folder / "cgroup"


V1 = "5:cpu,cpuacct:/docker/a\n4:memory:/docker/a\n"
QUOTAS = {
    "v2, its own": ("0::/a\n", {"a/cpu.max": "150000 100000\n"}, 1.5),
    "v2, the least on the way up": (
        "0::/a/b\n",
        {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n", "cpu.max": "900000 100000\n"},
        0.5,
    ),
    "v2, a container's root": ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
    "v2, a path outside the container": ("0::/../../x\n", {"cpu.max": "70000 100000\n"}, 0.7),
    "v2 beside v1": ("1:name=systemd:/\n0::/a\n", {"unified/a/cpu.max": "300000 100000"}, 3),
    "v1": (V1, {"cpu,cpuacct/docker/a/cpu.cfs_quota_us": "50000\n", **dict.fromkeys(
        ["cpu,cpuacct/docker/a/cpu.cfs_period_us"], "100000\n")}, 0.5),
    "v1, mounted as cpu, seen from within": (
        V1, {"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.5),
    "v1, no limit": (V1, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, np.inf),
    "v1, no period": (V1, {"cpu/cpu.cfs_quota_us": "50000\n"}, np.inf),
    "another controller's": ("4:memory:/a\n", {"cpu.max": "50000 100000"}, np.inf),
    "no time at all": ("0::/\n", {"cpu.max": "0 100000\n"}, np.inf),
    "no period at all": ("0::/\n", {"cpu.max": "50000 0\n"}, np.inf),
    "nonsense": ("0::/\nwhat\n::\n", {"cpu.max": "a lot\n"}, np.inf),
    "nothing": ("", {}, np.inf),
}  # fmt: skip


@pytest.mark.parametrize("name", QUOTAS)
def test_the_quota_is_the_least_of_the_groups(name, tmp_path):
    own, files, expected = QUOTAS[name]
    assert cores.quota(*tree(tmp_path, own, files)) == expected


def test_without_control_groups_there_is_no_quota(tmp_path):
    assert cores.quota(tmp_path / "absent", tmp_path / "absent too") == np.inf


@pytest.mark.parametrize(
    ("time", "cpus", "expected"), [(1_000, 8, 1), (50_000, 8, 1), (150_000, 8, 2), (900_000, 8, 8)]
)
def test_the_smaller_of_cpus_and_quota_counts(time, cpus, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(cores, "cpus", lambda: cpus)
    assert cores.to_be_had(*tree(tmp_path, "0::/\n", {"cpu.max": f"{time} 100000"})) == expected
    assert cores.to_be_had(tmp_path / "absent", tmp_path) == cpus


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not bind processes")
def test_numba_starts_as_many_threads_as_there_are_cpus_for_this_process():
    code = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "import blocks2tokens, numba; print(numba.get_num_threads())"
    )
    assert run_python(code).stdout == "1\n"


# --- What the user wants ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "grant", "told"),
    [
        ({}, 3, "3"),
        ({}, 8, None),  # what Numba finds out by itself is left to it
        ({"NUMBA_NUM_THREADS": "5"}, 3, "5"),
        ({"BLOCKS2TOKENS_THREADS": "6"}, 3, "6"),
        ({"BLOCKS2TOKENS_THREADS": " "}, 3, "3"),
        ({"BLOCKS2TOKENS_THREADS": "6", "NUMBA_NUM_THREADS": "5"}, 3, "6"),
        ({"BLOCKS2TOKENS_THREADS": "0"}, 3, None),  # `check` has the word
    ],
)
def test_who_decides_about_numbas_pool(environment, grant, told, monkeypatch):
    monkeypatch.setattr(cores, "cpus", lambda: 8)
    monkeypatch.setattr(cores, "to_be_had", lambda: grant)
    cores.tell_numba(environment)
    assert environment.get("NUMBA_NUM_THREADS") == told


def test_the_variable_makes_the_pool():
    code = "import blocks2tokens, numba; print(numba.get_num_threads())"
    assert run_python(code, BLOCKS2TOKENS_THREADS="5", NUMBA_NUM_THREADS="2").stdout == "5\n"


def test_where_numba_was_first_its_settings_stay():
    code = """
import numba, os
before, n = dict(os.environ), numba.config.NUMBA_NUM_THREADS
import blocks2tokens
from blocks2tokens.jit import cores, cpu
assert os.environ.get(cores.NUMBAS) == before.get(cores.NUMBAS) and numba.get_num_threads() == n
print(cores.checked(None))
"""
    assert run_python(code, NUMBA_NUM_THREADS="4", BLOCKS2TOKENS_THREADS="3").stdout == "3\n"
    assert run_python(code, NUMBA_NUM_THREADS="4", BLOCKS2TOKENS_THREADS="7").stdout == "None\n"


@pytest.mark.parametrize("name", ["BLOCKS2TOKENS_THREADS", "NUMBA_NUM_THREADS"])
@pytest.mark.parametrize("text", ["0", "10000", "-1", "1.5", "two", "٣", "9" * 5000])
def test_a_senseless_number_in_the_environment_is_refused(name, text, monkeypatch, path):
    monkeypatch.setenv(name, text)
    with pytest.raises(ValueError, match=f"{name}: expected a number of threads, 1 to {cores.MOST}, got"):
        b2t.load(path)


def test_the_first_product_refuses_it_too(monkeypatch):
    monkeypatch.setenv(cores.VARIABLE, "many")
    cores.one_at_a_time.cache_clear()
    with pytest.raises(ValueError, match=r"BLOCKS2TOKENS_THREADS: .*'many'"):
        b2t.FORMATS["Q8_0"].quantize(np.ones((2, 32), np.float32))


def test_the_command_line_says_it_in_one_line(monkeypatch, capsys, path):
    monkeypatch.setenv(cores.VARIABLE, "0")
    assert main(["generate", str(path), "a"]) == 1
    assert capsys.readouterr().err.startswith("error: BLOCKS2TOKENS_THREADS: expected")


# --- What a model uses ------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [0, -1, ALL + 1, 10_000, 1.0, True, "1"])
def test_a_number_of_threads_that_there_are_not_is_refused(threads, path):
    message = rf"threads: expected a whole number, 1 to the {ALL} that there are here, got {threads!r}"
    with pytest.raises(ValueError, match=message):
        b2t.load(path, threads=threads)


@pytest.mark.parametrize("arguments", [("generate", "a"), ("chat",), ("perplexity", __file__)])
def test_the_command_line_takes_a_number(arguments, path, capsys):
    command, *rest = arguments
    assert main([command, str(path), *rest, "--threads", "10000"]) == 1
    assert f"1 to the {ALL} that there are here, got 10000" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([command, str(path), *rest, "--threads", "0"])
    assert "--threads: expected a whole number >= 1, got '0'" in capsys.readouterr().err


needs_two = pytest.mark.skipif(ALL < 2, reason="there is only one thread to be had")


@needs_two
def test_every_pass_runs_on_the_model_s_threads_and_leaves_numba_s_alone(path, monkeypatch):
    seen = {}

    def spied(module, name, kind):
        function = getattr(module, name)
        monkeypatch.setattr(
            module,
            name,
            lambda *given: seen.setdefault(kind, []).append(numba.get_num_threads()) or function(*given),
        )

    spied(decode, "decode_rows", "decode")
    spied(transformer, "run_batch", "prefill")
    spied(autotune, "choose", "autotune")
    for n in (1, ALL):
        seen.clear()
        model = b2t.load(path, threads=n)
        tokens = model.generate(IDS, 3)
        next(tokens)
        assert numba.get_num_threads() == ALL  # between two tokens, the thread is its owner's
        list(tokens)
        model.logits(IDS)
        assert set(seen) == {"decode", "prefill", "autotune"}
        assert {number for numbers in seen.values() for number in numbers} == {n}
    assert numba.get_num_threads() == ALL


@needs_two
def test_without_a_number_numba_s_own_counts(path):
    model = b2t.load(path)
    with cores.using(1):
        one = model.logits(IDS)
        assert numba.get_num_threads() == 1
    assert np.array_equal(one, model.logits(IDS))


@needs_two
def test_an_error_gives_the_threads_back():
    with pytest.raises(KeyError), cores.using(1):
        raise KeyError
    assert numba.get_num_threads() == ALL


def test_any_number_of_threads_gives_the_same_text(path):
    code = """
import sys, blocks2tokens as b2t
ids = [3, 1, 4, 1, 5, 9, 2, 6]
for n in (None, 1, 2, 7):
    print(list(b2t.load(sys.argv[1], threads=n).generate(ids, 12)))
"""
    done = run_python(code, path, BLOCKS2TOKENS_THREADS="7")
    assert done.returncode == 0, done.stderr
    assert len(set(done.stdout.splitlines())) == 1 and len(done.stdout) > 12


# --- Who may start threads --------------------------------------------------------------------------------

TWO_AT_ONCE = """
import sys, threading
import numba, numpy as np
import blocks2tokens as b2t

model = b2t.load(sys.argv[1])
W = np.random.default_rng(0).standard_normal((256, 256), dtype=np.float32)
prompts = [[3, 1, 4, 1, 5], [2, 7, 1, 8], [6, 6, 6]]

def work(k, got):
    w = b2t.QuantizedMatrix.quantize(W * k, "Q8_0", layout="report")
    product = b2t.KERNELS["phase2_optimized_fused"](W[:8], w)
    got[k] = list(model.generate(prompts[k], 16)), bytes(w.raw), bytes(product)

def all_work(at_once):
    got = {}
    threads = [threading.Thread(target=work, args=(k, got)) for k in range(3)]
    for thread in threads:
        thread.start()
        if not at_once:
            thread.join()
    for thread in threads:
        thread.join()
    return got

alone = all_work(False)
print(len(alone), all(all_work(True) == alone for _ in range(10)), numba.threading_layer())
"""


@pytest.mark.parametrize("layer", ["workqueue", "default"])
def test_python_threads_that_generate_at_once_get_the_right_text(layer, path):
    done = run_python(TWO_AT_ONCE, path, NUMBA_THREADING_LAYER=layer)
    assert done.returncode == 0, done.stderr[-2000:]
    count, same, used = done.stdout.split()
    assert (count, same) == ("3", "True") and (layer == "default" or used == layer)


# --- Processes --------------------------------------------------------------------------------------------

FORKS = """
import os, sys
import numpy as np, blocks2tokens as b2t

class Late:
    # a model that is loaded when it is used

    def __getattr__(self, name):
        return getattr(b2t.load(sys.argv[1]), name)

model = b2t.load(sys.argv[1]) if sys.argv[2] == "after" else Late()
expected = list(model.generate([3, 1, 4], 5)) if sys.argv[2] == "after" else None
uses = {
    "generate": lambda: list(model.generate([3, 1, 4], 5)),
    "logits": lambda: model.logits([3, 1, 4]),
    "matmul": lambda: b2t.matmul(np.ones((1, 64), np.float32), model.transformer.token_embd),
    "decode": lambda: model.transformer.token_embd.dequantize(),
}
for name, use in uses.items():
    sys.stdout.flush()
    if not os.fork():
        try:
            use()
            print(name, "ran")
        except RuntimeError as error:
            print(name, error)
        sys.stdout.flush()
        os._exit(0)
    print("code", os.wait()[1])
print(expected == (list(model.generate([3, 1, 4], 5)) if expected else None))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("layer", ["workqueue", "default"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_forked_process_is_told_that_it_has_no_threads(path, when, layer):
    done = run_python(FORKS, path, when, NUMBA_THREADING_LAYER=layer)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert lines.count("code 0") == 4 and lines[-1] == "True"
    said = "ran" if when == "before" else "this process was forked from one whose threads computed already"
    assert sum(said in line for line in lines) == 4


SPAWNS = """
import multiprocessing, sys
import blocks2tokens as b2t

def work(model):
    return list(model.generate([3, 1, 4], 5)), model.transformer.cache_type, model.transformer.threads

if __name__ == "__main__":
    model = b2t.load(sys.argv[1], cache="float16", threads=1)
    here = work(model)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(work, [model]) == [here])
"""


POOLS = """
import multiprocessing, sys
import blocks2tokens as b2t

def work(model):
    return list((model or ours).generate([3, 1, 4], 5))

ours = b2t.load(sys.argv[1])
with multiprocessing.get_context("fork").Pool(1) as pool:
    for model in (None, ours):  # as it was at the fork, and as it is sent
        try:
            print(pool.map_async(work, [model]).get(100))
        except RuntimeError as error:
            print(error)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_pool_of_forked_processes_gives_an_error_and_does_not_wait_for_ever(path):
    done = run_python(POOLS, path)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and all(line.startswith("this process was forked") for line in lines)


def test_a_model_whose_file_is_gone_says_so_when_it_is_used(path, tmp_path):
    model = b2t.load(shutil.copy(path, tmp_path / "gone.gguf"))
    pickled = pickle.dumps(model)
    (tmp_path / "gone.gguf").unlink()
    with pytest.raises(FileNotFoundError, match=r"gone\.gguf"):
        pickle.loads(pickled).logits([1])


def test_a_model_travels_to_other_processes_by_its_path(path, tmp_path, monkeypatch):
    (tmp_path / "spawns.py").write_text(SPAWNS)
    environ = os.environ | {"PYTHONPATH": str(Path(b2t.__file__).parents[1])}
    command = [sys.executable, tmp_path / "spawns.py", path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environ)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr[-2000:]
    monkeypatch.chdir(path.parent)
    pickled = pickle.dumps(b2t.load(path.name))
    monkeypatch.chdir(tmp_path)
    assert len(pickled) < 1000
    assert (pickle.loads(pickled).logits(IDS) == b2t.load(path).logits(IDS)).all()


# --- BLAS -------------------------------------------------------------------------------------------------


def blas_threads():
    return [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]


@pytest.fixture
def many():
    """How many threads BLAS has when nobody asks for one."""
    if set(found := blas_threads()) == {1}:
        pytest.skip("BLAS has one thread here, whatever happens")
    return found


def test_blas_gets_its_threads_back_from_the_last_of_those_who_took_them(many):
    first, second = threading.Event(), threading.Event()

    def overlapping():
        with cores.one_blas_thread():
            first.set()
            second.wait(60)

    thread = threading.Thread(target=overlapping)
    thread.start()
    first.wait(60)
    with cores.one_blas_thread(), cores.one_blas_thread():
        assert set(blas_threads()) == {1}
        second.set()
        thread.join()
        assert set(blas_threads()) == {1}
    assert blas_threads() == many


def test_blas_gets_its_threads_back_after_an_error(many):
    with pytest.raises(KeyError), cores.one_blas_thread():
        raise KeyError
    assert blas_threads() == many


def test_blas_has_its_threads_after_many_passes_at_once(path, many):
    model = b2t.load(path)
    threads = [threading.Thread(target=lambda: [model.logits(IDS) for _ in range(30)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert blas_threads() == many


@pytest.mark.skipif(sys.platform == "win32", reason="another way to interrupt")
@pytest.mark.parametrize("at", ["__enter__", "__exit__"])
def test_blas_gets_its_threads_back_from_an_interrupted_pass(path, many, monkeypatch, at):
    """Ctrl-C while they are taken, and while they are given back: for more ids than are rows of passes."""
    model, ids = b2t.load(path), np.resize(IDS, transformer.FEW + 1)
    usual = getattr(cores._OneBlasThread, at)

    def interrupted(self, *error):
        os.kill(os.getpid(), signal.SIGINT)
        return usual(self, *error)

    for run in (model.logits, lambda ids: list(model.generate(ids, 3))):
        with monkeypatch.context() as patch:
            patch.setattr(cores._OneBlasThread, at, interrupted)
            with pytest.raises(KeyboardInterrupt):
                run(ids)
        assert blas_threads() == many and cores.ONE_BLAS_THREAD.users == 0


# --- Whose turn it is -------------------------------------------------------------------------------------


def test_with_a_pool_for_all_nobody_waits(monkeypatch):
    class Closed:
        def __enter__(self):
            raise AssertionError("asked for a turn")

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(cores, "TURN", Closed())
    double = cores.takes_turns(lambda x: 2 * x)
    monkeypatch.setattr(cores, "one_at_a_time", lambda: False)
    assert double(4) == 8
    monkeypatch.setattr(cores, "one_at_a_time", lambda: True)
    with pytest.raises(AssertionError, match="asked for a turn"):
        double(4)


def engine():
    """Yield the modules of the engine, without those of kernels: whoever multiplies goes through `Kernel`."""
    for found in pkgutil.walk_packages(b2t.__path__, "blocks2tokens."):
        if not found.name.startswith(
            ("blocks2tokens.course", "blocks2tokens.benchmarks", "blocks2tokens.__main__")
        ):
            module = importlib.import_module(found.name)
            if not hasattr(module, "KERNEL"):
                yield module


def test_whoever_starts_threads_takes_turns():
    compiled = {
        f"{module.__name__}.{name}": value
        for module in engine()
        for name, value in vars(module).items()
        if getattr(value, "targetoptions", {}).get("parallel")
    }
    assert len(compiled) >= 12
    assert [name for name, value in compiled.items() if isinstance(value, CPUDispatcher)] == []


def test_products_take_turns(monkeypatch):
    asked = []
    monkeypatch.setattr(kernel, "in_turn", lambda run, x, w: asked.append(run) or run(x, w))
    x, w = np.ones((1, 32), np.float32), b2t.QuantizedMatrix.quantize(np.ones((4, 32), np.float32), "Q8_0")
    b2t.KERNELS["fused_rows"](x, w)
    autotune.timed([b2t.KERNELS["fused_rows"]], [x], w)
    b2t.matmul(x, w)
    assert len(asked) >= 1 + (1 + autotune.REPEATS) + 1


# --- What is said at import -------------------------------------------------------------------------------

AT_IMPORT = """
import os
import blocks2tokens
from blocks2tokens.jit import cpu
from numba.core import config
beyond = [f for f in (config.CPU_FEATURES or "").split(",") if f.startswith("+avx512")]
print(os.environ["OPENBLAS_THREAD_TIMEOUT"], *cpu.available(), len(beyond))
"""


def test_idle_blas_threads_rest_soon_unless_the_user_says_how_late():
    assert run_python(AT_IMPORT, OPENBLAS_THREAD_TIMEOUT="20").stdout.startswith("20 ")
    environ = {name: text for name, text in os.environ.items() if name != "OPENBLAS_THREAD_TIMEOUT"}
    command = [sys.executable, "-c", AT_IMPORT]
    assert subprocess.run(command, capture_output=True, text=True, env=environ).stdout.startswith("16 ")


@pytest.mark.parametrize("name", ["avxvnni", "avx2"])
def test_a_set_without_avx_512_at_the_start_compiles_nothing_for_it(name):
    if name not in cpu.available():
        pytest.skip(f"this CPU has no {name}")
    done = run_python(AT_IMPORT, BLOCKS2TOKENS_SIMD=name)
    sets = ["avxvnni", "avx2", "plain"]
    assert done.stdout.split()[1:] == [*sets[sets.index(name) :], "0"]
