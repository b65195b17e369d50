"""Model: a GGUF file ready to speak.

prompt ids -> one pass over all of them (prefill) -> logits of the last -> sampler -> id
                              id -> one pass (decode) -> logits -> sampler -> id -> ...
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral

import numpy as np

from blocks2tokens import speculate as speculation
from blocks2tokens.errors import GGUFError
from blocks2tokens.gguf_file import GGUFFile
from blocks2tokens.model import ModelConfig, Transformer, key_frame
from blocks2tokens.sampler import Sampler
from blocks2tokens.session import Session
from blocks2tokens.tokenizer import Tokenizer


class Model:
    """A loaded model: its `file`, `config`, `tokenizer`, `transformer`."""

    def __init__(self, path: str | os.PathLike[str], cache: str = "float32", threads: int | None = None):
        self.file = file = GGUFFile(path)
        self._opened = os.path.abspath(path), cache, threads
        self.config = ModelConfig.from_gguf(file)
        self.tokenizer = Tokenizer(file)
        if len(self.tokenizer) != self.config.vocab_size:
            raise GGUFError(
                f"{file.path}: tokenizer.ggml.tokens: expected {self.config.vocab_size} tokens, one for each "
                f"row of token_embd.weight, got {len(self.tokenizer)}"
            )
        text = self.tokenizer.encode(key_frame.TEXT) if cache == "q4_0" else None
        self.transformer = Transformer(file, self.config, cache, threads, text)

    def __reduce__(self):
        """Pickle as the path: another process, `multiprocessing`'s for instance, opens the file itself."""
        return _reopened, self._opened

    def __repr__(self):
        c = self.config
        return f"Model({c.name}: {c.architecture}, {c.n_layers} layers of {c.dim}, {c.vocab_size:,} tokens)"

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Return the logits after each of ids, float32 [len(ids), vocab], from a fresh cache.

        Raises ValueError for an id outside the vocabulary and for more ids than the model's context.
        """
        ids = self.transformer.check_ids(ids)
        self._check_length(len(ids))
        cache = self.transformer.new_cache(len(ids))
        return self.transformer.project(self.transformer.hidden(ids, cache))

    def generate(
        self,
        ids: Sequence[int],
        max_tokens: int,
        sampler: Sampler | None = None,
        speculate: speculation.Speculation | None = None,
    ) -> Iterator[int]:
        """Yield up to `max_tokens` token ids that continue `ids`, each as soon as it is chosen.

        Greedy unless a sampler is given. Ends before `max_tokens` at a stop token, which is not
        yielded. With `speculate`, a `PromptLookup` or a `Draft`, tokens are guessed and several judged in one
        pass: the same ids, sooner where the guesses are good. Ctrl-C stops it between two tokens and leaves
        the model as it was. Raises ValueError, at the call, for an empty prompt, an id outside the
        vocabulary, a prompt that leaves no room for `max_tokens` in the model's context or a draft with
        another vocabulary.
        """
        history, sampler = self.checked_request(ids, max_tokens), sampler or Sampler()
        if speculate is None or not max_tokens:
            return self._generate(history, max_tokens, sampler)
        guesser = speculate.guesser(self)
        return speculation.generate(self, history, max_tokens, sampler, speculate, guesser)

    def checked_request(self, ids: Sequence[int], max_tokens: int) -> list[int]:
        """Return the ids of a prompt as a list; ValueError as `generate` raises it."""
        ids = self.transformer.check_ids(ids)
        if not isinstance(max_tokens, Integral) or max_tokens < 0:
            raise ValueError(f"max_tokens: expected a whole number >= 0, got {max_tokens!r}")
        self._check_length(len(ids) + max_tokens)
        return ids.tolist()

    def session(
        self, system: str | None = None, template_variables: Mapping[str, object] | None = None
    ) -> Session:
        """Begin a conversation, which reads at each turn only what is new; ValueError as `Session` has it."""
        return Session(self, system, template_variables)

    def _generate(self, history: list[int], max_tokens: int, sampler: Sampler) -> Iterator[int]:
        if not max_tokens:
            return
        cache = self.transformer.new_cache(len(history) + max_tokens)
        logits = self.transformer.next_logits(history, cache)
        for n_left in range(max_tokens - 1, -1, -1):
            choice = sampler(logits, history)
            if choice in self.tokenizer.stop_tokens:
                return
            history.append(choice)
            yield choice
            if n_left:
                logits = self.transformer.step(choice, cache)

    def _check_length(self, n_tokens: int) -> None:
        if n_tokens > self.config.context_length:
            raise ValueError(
                f"{n_tokens} tokens (prompt and continuation) are more than this model's context "
                f"of {self.config.context_length}"
            )


class _Unopened:
    """Stands for a model that could not be opened where its pickle was read: says why when it is used.

    An error at once would end a worker of `multiprocessing.Pool` before it has the task, and the pool would
    wait for it for ever.
    """

    def __init__(self, error: Exception):
        self.__dict__["error"] = error

    def __getattr__(self, name):
        raise self.error


def _reopened(path: str, cache: str, threads: int | None) -> Model | _Unopened:
    try:
        return load(path, cache, threads)
    except Exception as error:
        return _Unopened(error)


def load(path: str | os.PathLike[str], cache: str = "float32", threads: int | None = None) -> Model:
    """Open a GGUF file as a Model. Its weights stay quantized, in the mapped file.

    `cache` is the type of the keys and values that it keeps: "float32", "float16" for half the memory, or
    ggml's blocks, "q8_0" and "q4_0", for a quarter and a seventh, where heads are a multiple of 32.
    `threads` is how many threads it computes on; None: one for each core to be had, or as many as
    BLOCKS2TOKENS_THREADS says. Raises ValueError for another type, or for a number of threads that there are
    not; FileNotFoundError; GGUFError for a broken file; UnsupportedError for an architecture, tensor type,
    tokenizer or size of heads that this engine does not have.

    The file must stay as it is: the system ends a process (SIGBUS) that reads, of a mapped file, what was cut
    off. To replace a model's file, put a new one in its place.
    """
    return Model(path, cache, threads)
