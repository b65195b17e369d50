"""Choosing kernels: the fastest kernel is taken, measured once, and kept where the user's caches are."""

import dataclasses
import json
import subprocess
import sys
import time

import numpy as np
import pytest

import blocks2tokens as b2t
from blocks2tokens.jit import cores, cpu
from blocks2tokens.kernels import autotune, candidates, measured, prefetching
from blocks2tokens.kernels.kernel import Kernel
from blocks2tokens.kernels.ours.unpack import PACKED


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A folder of its own; what was kept there of a busy machine is taken as it is."""
    monkeypatch.setenv("BLOCKS2TOKENS_CACHE", str(tmp_path))
    monkeypatch.setattr(measured, "is_quiet", lambda: False)
    autotune.TABLES.clear()
    yield tmp_path
    autotune.TABLES.clear()


def kernel(name, calls, cost):
    """Return a kernel whose time is what `cost(M)` says, on the clock of `with_clock`."""

    def run(x, w):
        calls.append(name)
        clock.now += cost(len(x))
        return np.zeros((len(x), w.shape[0]), np.float32)

    return Kernel(name, "gguf", "made up", run, None)


class clock:
    now = 0.0


@pytest.fixture
def crossing(monkeypatch):
    """Two kernels that are equally fast at 8 rows, and the list of their calls."""
    monkeypatch.setattr(autotune.time, "perf_counter", lambda: clock.now)
    calls = []
    few, many = kernel("few", calls, lambda M: M), kernel("many", calls, lambda M: 6 + M / 4)
    return {"few": few, "many": many}, calls


def test_the_fastest_for_that_many_rows_is_picked(cache, crossing):
    kernels, _ = crossing
    picks = {M: autotune.choose(b2t.FORMATS["Q4_K"], M, kernels).kernel for M in (0, 1, 4, 8, 15, 16, 999)}
    assert picks == {0: "few", 1: "few", 4: "few", 8: "few", 15: "few", 16: "many", 999: "many"}


def test_a_kernel_is_tried_for_the_rows_that_it_is_meant_for(cache, crossing):
    kernels, calls = crossing
    kernels["few"] = dataclasses.replace(kernels["few"], rows=range(1, 5))
    picks = {M: autotune.choose(b2t.FORMATS["Q4_K"], M, kernels).kernel for M in (1, 4, 8)}
    assert picks == {1: "few", 4: "few", 8: "many"}
    assert calls.count("few") < calls.count("many")


def test_it_is_measured_once_and_read_from_the_file_after_that(cache, crossing):
    kernels, calls = crossing
    choice = autotune.choose(b2t.FORMATS["Q4_K"], 20, kernels)
    assert choice.kernel == "many" and "fastest for Q4_K at M = 16" in str(choice)
    (path,) = cache.iterdir()
    assert ["many", 16, 10.0] in json.loads(path.read_text())["found"]
    n_calls = len(calls)
    autotune.TABLES.clear()
    assert autotune.choose(b2t.FORMATS["Q4_K"], 20, kernels) == choice and len(calls) == n_calls


def test_measuring_anew_forgets_what_was_picked(cache, crossing):
    kernels, _ = crossing
    fmt = b2t.FORMATS["Q4_K"]
    assert autotune.choose(fmt, 20, kernels).kernel == "many"
    (path,) = cache.iterdir()
    data = json.loads(path.read_text())
    data["found"] = [(name, M, 99.0 if name == "many" else seconds) for name, M, seconds in data["found"]]
    path.write_text(json.dumps(data | {"quiet": True}))  # a choice that noise made
    autotune.TABLES.clear()
    assert autotune.choose(fmt, 20, kernels).kernel == "few"
    times = autotune.measure_anew(fmt, kernels)
    assert times["few", 16] == pytest.approx(16) and times["many", 16] == pytest.approx(10)
    assert autotune.choose(fmt, 20, kernels).kernel == "many"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"quiet": true, "found": []}',
        '{"quiet": true, "found": 3}',
        '{"quiet": true, "found": [["few", 1]]}',
        '{"quiet": true, "found": [["gone", 1, 1.0]]}',
        '{"quiet": true, "found": [["few", 1, "x"]]}',
        '{"quiet": true, "found": [["few", Infinity, 1.0]]}',
        "[" * 100_000,
        "every time NaN",
        "every time -1",
    ],
)
def test_a_file_that_makes_no_sense_is_measured_again(cache, crossing, text):
    kernels, calls = crossing
    autotune.choose(b2t.FORMATS["Q4_K"], 1, kernels)
    (path,) = cache.iterdir()
    whole = path.read_text()
    if text.startswith("every time"):
        rows = [(name, M, float(text.split()[-1])) for name, M, _ in json.loads(whole)["found"]]
        text = json.dumps({"quiet": True, "found": rows})
    path.write_text(text)
    autotune.TABLES.clear()
    calls.clear()
    assert autotune.choose(b2t.FORMATS["Q4_K"], 1, kernels).kernel == "few"
    assert calls and len(path.read_text()) == pytest.approx(len(whole), rel=0.3)


def test_a_folder_in_the_place_of_the_file_is_left_alone(cache, crossing):
    kernels, _ = crossing
    autotune.choose(b2t.FORMATS["Q4_K"], 1, kernels)
    (path,) = cache.iterdir()
    path.unlink()
    path.mkdir()
    autotune.TABLES.clear()
    assert autotune.choose(b2t.FORMATS["Q4_K"], 1, kernels).kernel == "few" and path.is_dir()


@pytest.mark.parametrize(
    "quiet_then, quiet_now, again", [(True, True, False), (False, False, False), (False, True, True)]
)
def test_what_a_busy_machine_gave_is_measured_anew_when_it_is_quiet(
    cache, monkeypatch, quiet_then, quiet_now, again
):
    results = iter([1, 2])
    monkeypatch.setattr(measured.Others, "are_quiet", lambda self: quiet_then)
    first = measured.kept("test", (), lambda: next(results), int)
    monkeypatch.setattr(measured, "is_quiet", lambda: quiet_now)
    assert first == 1 and measured.kept("test", (), lambda: next(results), int) == 1 + again


def test_one_other_is_noticed():
    others = measured.Others()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        time.sleep(1)
        assert not others.are_quiet()
        busy.kill()


def test_the_key_changes_with_what_the_choice_depends_on(cache, crossing):
    kernels, fmt = crossing[0], b2t.FORMATS["Q4_K"]
    for n_threads in (1, 2):
        for isa in ("avx2", "plain"):
            for some in (kernels, {"few": kernels["few"]}):
                autotune.kept(fmt, n_threads, isa, tuple(some.values()))
    assert len(list(cache.iterdir())) == 8


def test_matmul_says_what_it_picked():
    w = b2t.QuantizedMatrix.quantize(np.ones((4, 256), np.float32), "Q4_K")
    x = np.ones((3, 256), np.float32)
    product, choice = b2t.matmul(x, w, explain=True)
    assert np.array_equal(product, b2t.matmul(x, w)) and choice.kernel in candidates(w.format)
    assert "fastest for Q4_K at M = 2" in choice.reason


def test_candidates_are_those_that_can_be_fast(monkeypatch):
    fmt = b2t.FORMATS
    monkeypatch.setenv("BLOCKS2TOKENS_SIMD", "plain")
    assert list(candidates(fmt["F16"])) == ["fused_rows", "dequantize_then_blas"]
    assert list(candidates(fmt["Q4_K"])) == ["integer_dot", "fused_rows", "dequantize_then_blas"]
    if cpu.available()[0] != "plain":
        monkeypatch.delenv("BLOCKS2TOKENS_SIMD")
        for name in PACKED:
            names = ["simd_dot", "simd_tiles", "integer_gemm", "dequantize_then_blas"]
            assert list(candidates(fmt[name])) == names


@pytest.mark.skipif(cpu.available()[0] == "plain", reason="no vector code on this CPU")
def test_each_way_to_prefetch_is_measured_and_the_default_taken_if_none_is_better(cache, monkeypatch):
    monkeypatch.setattr(prefetching, "BYTES", 1 << 22)
    found = prefetching.measure_speeds(2, cpu.available()[0])
    assert set(found) == set(prefetching.WAYS) and all(speed > 0 for speed in found.values())
    even = dict.fromkeys(prefetching.WAYS, 20.0)
    assert prefetching.fastest(even) == prefetching.DEFAULT
    assert prefetching.fastest(even | {prefetching.WAYS[-1]: 22.0}) == prefetching.WAYS[-1]


def test_what_was_measured_is_that_of_all_the_kernels_code(tmp_path, monkeypatch):
    for folder, module in {"kernels": measured, "jit": cpu}.items():
        (tmp_path / folder / "ours").mkdir(parents=True)
        monkeypatch.setattr(module, "__file__", str(tmp_path / folder / "here.py"))
    keys = {measured.key(())}
    for path in ("kernels/fast.py", "kernels/ours/fast.py", "jit/vectors.py", "jit/ours/vectors.py"):
        (tmp_path / path).write_text(path)
        keys.add(measured.key(()))
    assert len(keys) == 5


@pytest.mark.skipif(cpu.available()[0] == "plain", reason="no vector code on this CPU")
def test_a_way_to_prefetch_is_measured_once_and_looked_up_whatever_the_threads(cache, monkeypatch):
    isa, calls = cpu.available()[0], []
    monkeypatch.setattr(
        prefetching, "measure_speeds", lambda n, isa: calls.append(n) or dict.fromkeys(prefetching.WAYS, 1.0)
    )
    assert prefetching.kept(isa) == prefetching.kept(isa)
    with cores.using(1):
        prefetching.kept(isa)
    assert calls == [cores.pool()]
    (path,) = cache.glob("prefetch-*.json")
    path.write_text(path.read_text()[:40])
    prefetching.kept(isa)
    assert len(calls) == 2
