"""The picker: the fastest kernel is taken, measured once, and kept where the user's caches are."""

import dataclasses
import json

import numpy as np
import pytest

import blocks2tokens as b2t
from blocks2tokens.jit import cpu
from blocks2tokens.kernels import candidates, picker
from blocks2tokens.kernels.kernel import Kernel
from blocks2tokens.kernels.unpack import PACKED


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BLOCKS2TOKENS_CACHE", str(tmp_path))
    picker.winners.cache_clear()
    yield tmp_path
    picker.winners.cache_clear()


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
    monkeypatch.setattr(picker.time, "perf_counter", lambda: clock.now)
    calls = []
    few, many = kernel("few", calls, lambda M: M), kernel("many", calls, lambda M: 6 + M / 4)
    return {"few": few, "many": many}, calls


def test_the_fastest_for_that_many_rows_is_picked(cache, crossing):
    kernels, _ = crossing
    picks = {M: picker.choose(b2t.FORMATS["Q4_K"], M, kernels).kernel for M in (0, 1, 4, 8, 15, 16, 999)}
    assert picks == {0: "few", 1: "few", 4: "few", 8: "few", 15: "few", 16: "many", 999: "many"}


def test_a_kernel_is_tried_for_the_rows_that_it_is_meant_for(cache, crossing):
    kernels, calls = crossing
    kernels["few"] = dataclasses.replace(kernels["few"], rows=range(1, 5))
    picks = {M: picker.choose(b2t.FORMATS["Q4_K"], M, kernels).kernel for M in (1, 4, 8)}
    assert picks == {1: "few", 4: "few", 8: "many"}
    assert calls.count("few") < calls.count("many")


def test_it_is_measured_once_and_read_from_the_file_after_that(cache, crossing):
    kernels, calls = crossing
    choice = picker.choose(b2t.FORMATS["Q4_K"], 20, kernels)
    assert choice.kernel == "many" and "fastest for Q4_K at M = 16" in str(choice)
    (path,) = cache.iterdir()
    assert json.loads(path.read_text())["16"][0] == "many"
    measured = len(calls)
    picker.winners.cache_clear()
    assert picker.choose(b2t.FORMATS["Q4_K"], 20, kernels) == choice and len(calls) == measured


def test_measuring_anew_forgets_what_was_picked(cache, crossing):
    kernels, _ = crossing
    fmt = b2t.FORMATS["Q4_K"]
    assert picker.choose(fmt, 20, kernels).kernel == "many"
    (path,) = cache.iterdir()
    path.write_text(json.dumps({"1": ["few", 1.0]}))  # what a busy machine might have left
    picker.winners.cache_clear()
    assert picker.choose(fmt, 20, kernels).kernel == "few"
    times = picker.measure_anew(fmt, kernels)
    assert times["few", 16] == pytest.approx(16) and times["many", 16] == pytest.approx(10)
    assert (
        picker.choose(fmt, 20, kernels).kernel == "many" and json.loads(path.read_text())["16"][0] == "many"
    )


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"1": 3}', '{"a": ["few", 1]}', '{"1": ["gone", 1]}', '{"1": ["few", "x"]}'],
)
def test_a_file_that_makes_no_sense_is_measured_again(cache, crossing, text):
    kernels, calls = crossing
    picker.choose(b2t.FORMATS["Q4_K"], 1, kernels)
    (path,) = cache.iterdir()
    path.write_text(text)
    picker.winners.cache_clear()
    calls.clear()
    assert picker.choose(b2t.FORMATS["Q4_K"], 1, kernels).kernel == "few"
    assert calls and json.loads(path.read_text())["1"][0] == "few"


def test_a_folder_that_cannot_be_written_is_no_error(cache, crossing, monkeypatch):
    blocked = cache / "file"
    blocked.write_text("no folder")
    monkeypatch.setenv("BLOCKS2TOKENS_CACHE", str(blocked / "below"))
    assert picker.choose(b2t.FORMATS["Q4_K"], 1, crossing[0]).kernel == "few"


def test_the_key_changes_with_what_the_choice_depends_on(crossing):
    kernels = tuple(crossing[0].values())
    keys = {picker.machine_key(n, isa, k) for n in (1, 2) for isa in ("avx2", "plain") for k in (kernels, ())}
    assert len(keys) == 8


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
