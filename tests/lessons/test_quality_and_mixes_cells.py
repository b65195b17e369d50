"""The cells of lesson 26 behind an exercise hold with every right answer, in whatever style."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_check_quality_and_mixes import RIGHT

import blocks2tokens as b2t
from blocks2tokens.course import models

LESSON = Path(__file__).parents[2] / "notebooks" / "5_beyond" / "26_quality_and_mixes.ipynb"


def cell(start):
    """Return the code of the cell that begins so."""
    cells = json.loads(LESSON.read_text(encoding="utf-8"))["cells"]
    (found,) = [c for c in cells if c["cell_type"] == "code" and "".join(c["source"]).startswith(start)]
    return "".join(found["source"])


@pytest.fixture(scope="module")
def files(austen_path, tmp_path_factory):
    """What the lesson has read by then."""
    made = b2t.convert(austen_path, tmp_path_factory.mktemp("lesson") / "q.gguf", "Q4_K_M")
    austen = b2t.load(austen_path)
    ids = austen.tokenizer.encode(models.heldout_text())[:64]
    return {"np": np, "austen": austen, "q4_k_m": b2t.load(made.path), "ids": ids}


@pytest.mark.parametrize("answer", RIGHT["kl_divergence"])
def test_the_first_two_rungs_agree(files, answer):
    names = files | {"kl_divergence": answer}
    exec(cell("n = 64"), names)
    exec(cell("def log_softmax"), names)
    assert names["rung_2"].shape == (64,)
