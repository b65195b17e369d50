"""Loading leaves the weights in the file: what a model costs in memory beyond its mapped pages."""

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
