"""Ask llama.cpp what it expects behind each token of a text, of Austen in six formats, and keep its answers.

    austen.gguf --b2t.convert--> Q8_0, Q4_0, Q4_1, Q4_K, Q6_K
    text --> ids --> behind each of ids the 20 tokens most likely, and their log-probabilities
    data/capstone_logits.npz    its fields: course/capstone/questions.py; and `xllamacpp`, its version

The capstone is judged by them. llama.cpp comes in PyPI's `xllamacpp`, which tests need and lessons do not:

    pip install -e ".[test]"
    python data/make_capstone_logits.py
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from blocks2tokens import files
from blocks2tokens.course.capstone import questions

TESTS = Path(__file__).resolve().parents[1] / "tests"


def record(oracle, ids: list[int]) -> dict[str, np.ndarray]:
    """Return what llama.cpp says behind each of ids; `oracle` is a LlamaCpp of tests/llama_cpp.py."""
    ranked = [sorted(top.items(), key=lambda pair: -pair[1]) for top in oracle.forced(ids)]
    return {
        "top_ids": np.array([[i for i, _ in row] for row in ranked], np.int64),
        "top_log_probs": np.array([[round(log_p, 4) for _, log_p in row] for row in ranked]),
    }


def main() -> None:
    sys.path.insert(0, str(TESTS))
    import xllamacpp
    from llama_cpp import llama_cpp

    fields = {"xllamacpp": np.array(xllamacpp.__version__)}
    with tempfile.TemporaryDirectory() as folder:
        for name, path in questions.write_conversions(Path(folder)).items():
            with llama_cpp(xllamacpp, path, n_context=512, n_threads=1) as oracle:
                fields["ids"] = np.array(oracle.tokenize(questions.TEXT), np.int64)
                said = record(oracle, fields["ids"].tolist())
            fields |= {f"{name}/{what}": array for what, array in said.items()}
            print(f"{name}: {len(fields['ids'])} tokens", flush=True)
    with files.replacing(questions.RECORDED) as partial, open(partial, "wb") as opened:
        np.savez_compressed(opened, **fields)


if __name__ == "__main__":
    main()
