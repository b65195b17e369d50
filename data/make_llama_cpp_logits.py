"""Ask llama.cpp what it expects behind each token of some texts, and keep its answers.

    text -> ids -> for each id, the 20 tokens most likely behind it, and their log-probabilities
    data/llama_cpp_logits.json

    {"xllamacpp": its version, "models": {"Austen": [{"text", "ids", "top_ids", "top_log_probs"}, ...], ...}}

The two arrays have a row for each id and 20 columns, most likely first. llama.cpp comes in PyPI's
`xllamacpp`, which tests need and lessons do not:

    pip install -e ".[test]"
    python data/make_llama_cpp_logits.py
"""

import json
import re
import sys
from pathlib import Path

from blocks2tokens.course import models

DATA = Path(__file__).resolve().parent
MADE = DATA / "llama_cpp_logits.json"
TEXTS = {
    "Austen": [
        "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be "
        "in want of a wife.",
        "Elizabeth could not but smile at the letter, and, having read it twice, put it away without a word.",
        "The computer was switched on in the kitchen, and 3 + 4 made 7.",
    ],
    "SmolLM2": [
        "The capital of France is Paris, the capital of Italy is Rome, and the capital of Japan is Tokyo.",
        "1 2 3 4 5 6 7 8 9 10 11 12 13 14",
        "Once upon a time, in a small village by the sea, there lived an old fisherman who had lost his "
        "boat.",
    ],
}


def record(oracle, text):
    """Return what llama.cpp says of one text; `oracle` is a LlamaCpp of tests/llama_cpp.py."""
    ids = oracle.tokenize(text)
    ranked = [sorted(top.items(), key=lambda pair: -pair[1]) for top in oracle.forced(ids)]
    return {
        "text": text,
        "ids": ids,
        "top_ids": [[i for i, _ in row] for row in ranked],
        "top_log_probs": [[round(log_prob, 4) for _, log_prob in row] for row in ranked],
    }


def written(answers):
    """Return the answers as JSON, a row of an array on a line."""
    text = json.dumps(answers, indent=1, ensure_ascii=False)
    return re.sub(r"\[\n[\d\s,.-]*\]", lambda row: re.sub(r"\s+", "", row.group()), text) + "\n"


def main():
    sys.path.insert(0, str(DATA.parent / "tests"))
    import xllamacpp
    from llama_cpp import llama_cpp

    found, paths = {}, models.available()
    for name, texts in TEXTS.items():
        with llama_cpp(xllamacpp, paths[name], n_context=512) as oracle:
            found[name] = [record(oracle, text) for text in texts]
        print(f"{name}: {sum(len(one['ids']) for one in found[name])} tokens", flush=True)
    answers = {"xllamacpp": xllamacpp.__version__, "models": found}
    MADE.write_text(written(answers), encoding="utf-8")


if __name__ == "__main__":
    main()
