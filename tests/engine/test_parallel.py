"""Layers and rows over ranks: the same logits as in one process, and an end where a rank dies."""

import itertools
import os
import re
import signal
import time

import many_ranks
import numpy as np
import pytest
from small_model import small_model

import blocks2tokens as b2t
from blocks2tokens.parallel.pipeline import Stage
from blocks2tokens.parallel.shares import Machine, cut_columns, layer_shares, ranges
from blocks2tokens.parallel.tensor import TensorParallel, columns_of

needs_mpi = pytest.mark.skipif(many_ranks.mpiexec() is None, reason="no mpiexec: pip install mpi4py mpich")

LOGITS = """
import sys
import numpy as np
import blocks2tokens as b2t
from blocks2tokens.parallel.pipeline import Pipeline
from blocks2tokens.parallel.ranks import Ranks
from blocks2tokens.parallel.tensor import TensorParallel

way, path, out, *ids = sys.argv[1:]
ids = [int(i) for i in ids]
ranks = Ranks()
model = b2t.load(path, threads=1)
if way == "pipeline":
    counts = [1] * (ranks.size - 1) + [model.config.n_layers - ranks.size + 1]
    many = Pipeline(model, ranks, counts)
    cache = many.stage.new_cache(len(ids) + 4)
else:
    many = TensorParallel(model, ranks)
    cache = many.new_cache(len(ids) + 4)
found = []
for step in (ids[:-3], *([i] for i in ids[-3:])):
    logits = many.next_logits(step, cache)
    if logits is not None:
        found.append(logits.copy())
if ranks.rank == (ranks.size - 1 if way == "pipeline" else 0):
    np.save(out, np.array(found))
two = [ids, ids[:3]]
alone = [list(many.generate(i, 4)) for i in two]
if way == "pipeline":
    together = [[], []]
    for number, i in many.generate_together(two, 4):
        together[number].append(i)
    assert together == alone, (together, alone)
if ranks.rank == 0:
    print(alone)
ranks.close()
"""

KINDS = {
    "llama": {"n_layers": 4},
    "gemma3": {"n_layers": 7, "head_dim": 16, "settings": {"rope.freq_base_swa": 10000.0}},
    "gemma2": {"n_layers": 4, "head_dim": 16},
    "gpt-oss": {"n_layers": 3, "head_dim": 16},
}


def one_process(path, ids):
    """Return the logits of a prompt and of three more tokens, and what follows two prompts."""
    model = b2t.load(path, threads=1)
    t, found = model.transformer, []
    cache = t.new_cache(len(ids) + 4)
    found.append(t.next_logits(ids[:-3], cache).copy())
    found += [t.step(i, cache).copy() for i in ids[-3:]]
    return np.array(found), [list(model.generate(i, 4)) for i in (ids, ids[:3])]


def on_ranks(n, way, path, ids, folder):
    """Return the same from n ranks."""
    script, out = folder / "logits.py", folder / "logits.npy"
    script.write_text(LOGITS)
    code, said, error = many_ranks.run(n, str(script), way, str(path), str(out), *map(str, ids))
    assert code == 0, error
    return np.load(out), eval(said)


@needs_mpi
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [2, 3])
def test_a_pipeline_s_logits_are_those_of_one_process_bit_for_bit(kind, n, tmp_path):
    path = small_model(kind, seed=3, **KINDS[kind]).write(tmp_path / "small.gguf")
    ids = list(range(5, 5 + 23 * (n - 1)))  # 20 and 43 of a prompt: two and three messages
    expected, texts = one_process(path, ids)
    found, said = on_ranks(n, "pipeline", path, ids, tmp_path)
    assert found.tobytes() == expected.tobytes() and said == texts


@needs_mpi
@pytest.mark.parametrize("n", [2, 3])
def test_austen_speaks_from_several_ranks(n, tmp_path):
    path = many_ranks.LIB.parent / "data" / "austen.gguf"
    ids = b2t.load(path).tokenizer.encode("It is a truth universally acknowledged, that a single man")
    expected, texts = one_process(path, ids)
    found, said = on_ranks(n, "pipeline", path, ids, tmp_path)
    assert found.tobytes() == expected.tobytes() and said == texts


@needs_mpi
@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_tensor_parallel_logits_are_close(kind, tmp_path):
    formats = {"ffn_down": "Q8_0", "attn_output": "Q4_0"}
    path = small_model(kind, seed=3, n_layers=3, head_dim=16, formats=formats).write(tmp_path / "small.gguf")
    ids = list(range(5, 25))
    expected, texts = one_process(path, ids)
    found, said = on_ranks(2, "tensor", path, ids, tmp_path)
    assert np.abs(found - expected).max() < 0.05 * expected.std() and said == texts


class Alone:
    """The ranks of a run of one process."""

    rank, size, here = 0, 1, 1

    def add_up(self, part):
        return part

    def check_same(self, what, value):
        pass

    def told(self, value):
        return value


@pytest.mark.parametrize("cache", ["float32", "q8_0", "q4_0"])
def test_tensor_parallel_sees_what_one_process_sees(cache, tmp_path):
    """Each token of a prompt sees its own page in q8_0: what is in the other pages depends on that."""
    sizes = {"n_heads": 4, "n_kv_heads": 2, "dim": 128, "n_layers": 4, "context_length": 200}
    model = b2t.load(small_model(seed=2, **sizes).write(tmp_path / "small.gguf"), cache=cache)
    ids = np.random.default_rng(3).integers(3, 320, 190)
    expected = model.transformer.next_logits(ids, model.transformer.new_cache(200))
    cut = TensorParallel(model, Alone())
    found = cut.next_logits(ids, cut.new_cache(200))
    assert np.std(found - expected) < 0.01 * np.std(expected)  # a code may differ


# --- Stages, without MPI ----------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["float32", "q4_0"])
@pytest.mark.parametrize("counts", [[1, 3], [2, 1, 1], [4]])
def test_stages_one_after_the_other_are_the_model(counts, cache, tmp_path):
    path = small_model("gemma3", seed=1, n_layers=4, head_dim=32).write(tmp_path / "small.gguf")
    model = b2t.load(path, cache=cache, threads=1)
    stages = [Stage(model.transformer, share) for share in ranges(counts)]
    caches = [stage.new_cache(40) for stage in stages]
    ids = np.arange(5, 25)
    expected = model.transformer.hidden(ids, model.transformer.new_cache(40))
    x = ids
    for stage, kept in zip(stages, caches, strict=True):
        if stage is not stages[0]:
            stage.given[: len(ids)] = x
            x = np.arange(len(ids))
        x = stage.run(x, kept, decodes=False).copy()
    assert x.tobytes() == expected.tobytes()
    assert sum(kept.bytes_per_token for kept in caches) == model.transformer.new_cache(1).bytes_per_token


# --- Shares -----------------------------------------------------------------------------------------------


def slowest(counts, machines, last):
    loads = [*counts[:-1], counts[-1] + last]
    return max(load / machine.bandwidth for load, machine in zip(loads, machines, strict=True))


@pytest.mark.parametrize("speeds", [(1, 1, 1), (2, 1, 1), (5, 3, 1)])
@pytest.mark.parametrize("last", [0, 3])
def test_no_other_shares_have_a_faster_slowest_stage(speeds, last):
    machines = [Machine(s) for s in speeds]
    counts = layer_shares(12, 1, machines, last)
    others = [c for c in itertools.product(range(1, 13), repeat=3) if sum(c) == 12]
    assert sum(counts) == 12
    assert slowest(counts, machines, last) == min(slowest(c, machines, last) for c in others)


def test_memory_limits_a_share():
    assert layer_shares(10, 100, [Machine(10, 350), Machine(1, 2000)]) == [3, 7]
    with pytest.raises(ValueError, match="holds 6 of 10 layers"):
        layer_shares(10, 100, [Machine(10, 350), Machine(1, 350)])


def test_more_ranks_than_layers_are_refused():
    with pytest.raises(ValueError, match="expected 1 to 3 ranks, one for each layer at the most, got 4"):
        layer_shares(3, 100, [Machine(1)] * 4)


@pytest.mark.parametrize(
    ("n_units", "unit", "block", "n"), [(8, 640, 256, 4), (3, 192, 32, 2), (30, 1, 4, 7), (5, 6, 4, 3)]
)
def test_columns_are_cut_between_blocks(n_units, unit, block, n):
    shares = cut_columns(n_units, unit, block, n)
    assert [i for share in shares for i in share] == list(range(n_units)) and all(shares)
    assert all(share.stop * unit % block == 0 for share in shares[:-1])


def test_columns_that_cannot_be_cut_so_often_are_refused():
    with pytest.raises(ValueError, match="can be cut into 4 parts at most, got 5 ranks"):
        cut_columns(8, 640, 256, 5)
    w = b2t.QuantizedMatrix.quantize(np.ones((4, 512), np.float32), "Q4_K")
    with pytest.raises(ValueError, match="multiple of 256"):
        columns_of(w, slice(0, 128))


# --- The command ------------------------------------------------------------------------------------------


def generate(path, *more):
    return ["-m", "blocks2tokens", "generate", str(path), "the kettle is", "--max-tokens", "12", *more]


def said(error):
    """Return the one line that says what is wrong; others may say what one waits for."""
    (line,) = (line for line in error.splitlines() if line.startswith("error:"))
    return line


@pytest.fixture
def path(tmp_path):
    return small_model(n_layers=4, context_length=8192).write(tmp_path / "small.gguf")


@needs_mpi
@pytest.mark.parametrize("way", ["pipeline", "tensor"])
def test_the_command_writes_what_one_process_writes(way, path):
    _, expected, _ = many_ranks.run(1, *generate(path))
    code, found, _ = many_ranks.run(2, *generate(path, "--parallel", way))
    assert (code, found) == (0, expected)


@needs_mpi
def test_more_ranks_than_layers_end_with_one_line(path):
    code, out, error = many_ranks.run(5, *generate(path, "--parallel", "pipeline"))
    assert code == 1 and out == ""
    assert said(error) == "error: expected 1 to 4 ranks, one for each layer at the most, got 5"


@needs_mpi
def test_another_file_on_one_rank_is_refused(path, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    raw = bytearray(path.read_bytes())
    raw[-7] ^= 1
    (other / path.name).write_bytes(raw)
    script = tmp_path / "other.py"
    script.write_text(
        "import os, sys\n"
        "from blocks2tokens.__main__ import program\n"
        f"os.chdir({str(other)!r} if os.environ['PMI_RANK'] == '1' else {str(tmp_path)!r})\n"
        "sys.exit(program())\n"
    )
    code, _, error = many_ranks.run(2, str(script), *generate(path.name, "--parallel", "pipeline")[2:])
    assert code == 1 and "SHA-256 of the file: rank 0 has" in said(error)


@needs_mpi
@pytest.mark.parametrize("how", ["dies", "hangs"])
def test_a_rank_that_is_lost_ends_the_others_and_its_tokens_go_on(how, path, tmp_path):
    kept = tmp_path / "tokens"
    command = generate(path, "--parallel", "pipeline", "--tokens-file", str(kept))
    command[command.index("12")] = "6000"
    process = many_ranks.start(2, *command)
    while not kept.exists() or kept.read_text().count("\n") < 20:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    ranks = ranks_of(process)
    os.kill(ranks[1], signal.SIGKILL if how == "dies" else signal.SIGSTOP)
    try:
        _, error = process.communicate(timeout=180)  # SILENCE and a beat, on a quiet machine
    finally:
        process.terminate()
    assert process.returncode not in (0, None)
    assert not any(is_alive(pid) for pid in ranks)
    if how == "hangs":
        first = said(error)
        assert re.match(
            r"error: rank \d of 2 \(.*\) is gone or hangs: silent for \d+ s; \d+ tokens are", first
        )
    lines = kept.read_text().split("\n")
    command[command.index("6000")] = str(n := len(lines) + 5)
    code, again, error = many_ranks.run(2, *command)
    assert code == 0, error
    _, whole, _ = many_ranks.run(1, *[a for a in command[:5]], "--max-tokens", str(n))
    assert again == whole and kept.read_text().startswith("\n".join(lines[:-1]))


def ranks_of(process):
    """Return the processes of rank 0 and 1, by the number that mpiexec gives them."""
    import psutil

    found = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        rank = child.environ().get("PMI_RANK")
        if rank is not None and "blocks2tokens" in child.cmdline():
            found[int(rank)] = child.pid
    return [found[0], found[1]]


def is_alive(pid):
    import psutil

    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@needs_mpi
def test_a_file_of_other_tokens_is_refused(path, tmp_path):
    kept = tmp_path / "tokens"
    command = generate(path, "--parallel", "pipeline", "--tokens-file", str(kept))
    assert many_ranks.run(2, *command)[0] == 0
    command[4] = "the cat is"
    code, _, error = many_ranks.run(2, *command)
    assert code == 1 and "holds the tokens of another model or prompt" in said(error)
