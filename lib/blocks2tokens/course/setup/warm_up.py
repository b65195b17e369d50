"""Compile what a model needs before somebody waits for it: `make lab` and `make test` do this once.

each model at hand  --a prompt, some tokens-->  compiled code and chosen kernels in the user's caches
"""

import blocks2tokens as b2t
from blocks2tokens.course import models

PROMPT = 40  # tokens: more than one tile


def main() -> None:
    for path in models.available().values():
        model = b2t.load(path)
        prompt = [1 + i % (model.config.vocab_size - 1) for i in range(PROMPT)]
        list(model.generate(prompt, 2))


if __name__ == "__main__":
    main()
