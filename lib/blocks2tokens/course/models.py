"""Where the models of the course lie.

data/austen.gguf                                     comes with the course, F16
data/austen_draft.gguf                               the same vocabulary, an eighth of the weights
data/models/SmolLM2-135M-Instruct.Q4_1.gguf          fetched by set-up
data/austen_train.txt.xz                             what Austen was trained on
data/austen_heldout.txt.xz                           chapters that it was not trained on
"""

import lzma
from pathlib import Path

from blocks2tokens.course import place

DATA = place.ROOT / "data"


def austen() -> Path:
    """Return the path of the small model trained on Jane Austen's novels."""
    return _existing(DATA / "austen.gguf", "it comes with the course: `git checkout data/austen.gguf`")


def austen_draft() -> Path:
    """Return the path of the smaller model that guesses for Austen."""
    return _existing(
        DATA / "austen_draft.gguf", "it comes with the course: `git checkout data/austen_draft.gguf`"
    )


def smollm2() -> Path:
    """Return the path of SmolLM2-135M-Instruct; FileNotFoundError says how to get it."""
    path = DATA / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    return _existing(path, "`make lab` or `python data/fetch_smollm2.py` downloads it")


def available() -> dict[str, Path]:
    """Return {name: path} of the course's models that are here."""
    found = {}
    for name, find in {"Austen": austen, "SmolLM2": smollm2}.items():
        try:
            found[name] = find()
        except FileNotFoundError:
            continue
    return found


def training_text() -> str:
    """Return what Austen was trained on, as it is in the file: with a separator between chapters."""
    return _unpacked("austen_train.txt.xz")


def heldout_text() -> str:
    """Return the chapters that Austen was not trained on, each behind its separator token."""
    separator = "<|endoftext|>"
    chapters = _unpacked("austen_heldout.txt.xz").split(f"\n{separator}\n")
    return "".join(separator + chapter for chapter in chapters)


def _unpacked(name: str) -> str:
    return lzma.decompress(_existing(DATA / name, "it comes with the course").read_bytes()).decode()


def _existing(path: Path, remedy: str) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path.name} is not here; {remedy}")
    return path
