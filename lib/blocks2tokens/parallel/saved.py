"""Saved: the tokens of a generation, kept in a file as they come, so that another run goes on from there.

    {"model": "0123456789abcdef", "prompt": [504, 2306]}      the first line: what they belong to
    260                                                       then a line for each token
    1109

Lines are only added, each at once, so that a process that is killed loses no token that was shown; a last
line that was cut is not counted. Tokens that are drawn, at a temperature, go on with other draws.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from blocks2tokens.files import write_text


class Saved:
    """A model, a Pipeline for instance, whose `generate` keeps its tokens in a file and goes on from them."""

    def __init__(self, model, path: Path, ranks, identity: str):
        """Keep tokens in `path`: rank 0 does, for all; `identity` says which model it is, such as a hash."""
        self.model, self.path, self.ranks, self.identity = model, Path(path), ranks, identity
        self.config, self.tokenizer = model.config, model.tokenizer
        self.n_saved = 0

    def generate(self, ids: Sequence[int], max_tokens: int, sampler=None) -> Iterator[int]:
        """Yield the tokens that are saved, and then those that follow, up to `max_tokens` in all.

        Raises ValueError for a file that holds something else, OSError where it cannot be written.
        """
        head = json.dumps({"model": self.identity, "prompt": [int(i) for i in ids]})
        error, found = None, []
        if self.ranks.rank == 0:
            try:
                found = _read(self.path, head)
                _begin(self.path, head, found)
            except (ValueError, OSError) as problem:
                error = problem
        error, found = self.ranks.told((error, found))
        if error:
            raise error
        return self._generate(list(ids), found[:max_tokens], max_tokens, sampler)

    def _generate(self, ids, found, max_tokens, sampler):
        self.n_saved = len(found)
        yield from found
        if len(found) == max_tokens:
            return
        for token in self.model.generate(ids + found, max_tokens - len(found), sampler):
            if self.ranks.rank == 0:
                with open(self.path, "a", encoding="ascii") as file:
                    file.write(f"{token}\n")
            self.n_saved += 1
            yield token


def _read(path: Path, head: str) -> list[int]:
    """Return the tokens in a file; none where there is no file. ValueError for one with another head."""
    if not path.exists():
        return []
    if not path.is_file():
        raise ValueError(f"{path}: expected a file's name, this is something else")
    with open(path, encoding="utf-8", errors="replace") as file:
        first, *lines = file.read().split("\n")
    if first != head:
        raise ValueError(
            f"{path}: holds the tokens of another model or prompt: give another file, or remove it"
        )
    whole = lines[:-1]  # behind the last newline there is nothing, or a line that was cut
    if not all(line.isdecimal() for line in whole):
        raise ValueError(f"{path}: line {[line.isdecimal() for line in whole].index(False) + 2} is no token")
    return [int(line) for line in whole]


def _begin(path: Path, head: str, found: list[int]) -> None:
    """Write the file as far as it is good, so that lines can be added."""
    write_text(path, "\n".join([head, *map(str, found)]) + "\n")
