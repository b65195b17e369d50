"""What a model costs in memory beyond its mapped pages: to load it, and to read a long prompt."""

import subprocess
import sys
from pathlib import Path

import pytest

LOAD = """
import sys
from pathlib import Path
import blocks2tokens as b2t

def private_bytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

before = private_bytes()
model = b2t.load(sys.argv[1])
print(private_bytes() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory as Linux reports it")
def test_loading_smollm2_adds_at_most_80_mb_beyond_the_mapped_file(smollm2_path):
    run = subprocess.run(
        [sys.executable, "-c", LOAD, str(smollm2_path)], capture_output=True, text=True, check=True
    )
    assert int(run.stdout) <= 80e6


PREFILL = """
import sys
from pathlib import Path
import numpy as np
import blocks2tokens as b2t

def rss(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))

model, T = b2t.load(sys.argv[1]), int(sys.argv[2])
ids = np.arange(T) % 1000 + 5
run = model.transformer.next_logits
run(ids[:520], model.transformer.new_cache(520))     # compiles; reads the file
Path("/proc/self/clear_refs").write_text("5")        # the peak from here on
before, cache = rss("VmRSS"), model.transformer.new_cache(T)
run(ids, cache)
print(rss("VmHWM") - before, cache.nbytes, cache.batch_memory.block.size)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads memory as Linux reports it")
def test_a_long_prompt_takes_its_cache_an_arena_and_little_more(request):
    """Beyond what is there after a pass: the file's pages, the vocabulary, compiled code."""
    smollm2 = Path(__file__).parents[2] / "data" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    path, T = (smollm2, 2048) if smollm2.exists() else (request.getfixturevalue("austen_path"), 512)
    run = [sys.executable, "-c", PREFILL, str(path), str(T)]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    grown, cache, arena = map(int, done.stdout.split())
    assert cache / 2 < grown <= cache + arena + 30e6
