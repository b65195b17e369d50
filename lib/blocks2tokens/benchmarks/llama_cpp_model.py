"""The peer for whole models: llama.cpp on the same GGUF file, through its own C functions.

    prefill   a fresh cache, the prompt in batches of up to 512 tokens, logits of its last token alone
    decode    one token a call of llama_decode, the next by argmax over its logits

What llama.cpp does by default stays so: the file is mapped, weights are repacked for this CPU as they are
loaded, it decides about flash attention, its cache is float16. Threads and the length of the cache are
ours to say.
"""

import ctypes
import os

import numpy as np

BATCH = 512  # tokens, llama.cpp's own default


class LlamaCppModel:
    """A model that llama.cpp has loaded, with one cache, for one text or several."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        n_threads: int,
        n_context: int,
        flash: bool | None = None,
        n_texts: int = 1,
    ):
        """Load a GGUF file; ImportError without llama-cpp-python, RuntimeError if it refuses the file.

        n_context: tokens of each text. flash: with or without flash attention; None: as llama.cpp decides.
        """
        import llama_cpp as llama  # here, because it is optional

        self.llama = llama
        llama.llama_log_set(_quiet, None)
        llama.llama_backend_init()
        self.model = llama.llama_model_load_from_file(os.fsencode(path), llama.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"{path}: llama.cpp could not load it")
        settings = llama.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch = n_texts * n_context, BATCH, BATCH
        settings.n_seq_max = n_texts
        settings.n_threads = settings.n_threads_batch = n_threads
        settings.flash_attn_type = -1 if flash is None else int(flash)
        self.context = llama.llama_init_from_model(self.model, settings)
        if not self.context:
            raise RuntimeError(f"{path}: llama.cpp has no room for a cache of {n_context} tokens")
        self.vocab_size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self.model))

    def prefill(self, ids: list[int]) -> np.ndarray:
        """Run ids on a fresh cache; return the logits of the last, float32 [vocab]."""
        self.clear()
        for i in range(0, len(ids), BATCH):
            self.run(ids[i : i + BATCH], with_logits=i + BATCH >= len(ids))
        return self.logits()

    def clear(self) -> None:
        """Forget all tokens."""
        self.llama.llama_memory_clear(self.llama.llama_get_memory(self.context), True)

    def decode(self, n: int) -> list[int]:
        """Append n greedy tokens, each run by itself; return them."""
        ids = []
        for _ in range(n):
            ids.append(int(self.logits().argmax()))
            self.run(ids[-1:], with_logits=True)
        return ids

    def logits(self, row: int = -1) -> np.ndarray:
        """Return a view of the logits of a row, float32 [vocab], valid until the next call."""
        pointer = self.llama.llama_get_logits_ith(self.context, row)
        return np.ctypeslib.as_array(pointer, (self.vocab_size,))

    def close(self) -> None:
        """Give the memory back."""
        self.llama.llama_free(self.context)
        self.llama.llama_model_free(self.model)

    def run(self, ids: list[int], with_logits: bool = True) -> None:
        """Run up to BATCH ids behind the tokens of the cache, with the logits of the last or without."""
        tokens = (self.llama.llama_token * len(ids))(*ids)
        flags = (ctypes.c_int8 * len(ids))()
        flags[-1] = with_logits
        # Positions and sequence are left out: llama.cpp then goes on behind the cache.
        batch = self.llama.llama_batch(n_tokens=len(ids), token=tokens, logits=flags)
        if self.llama.llama_decode(self.context, batch) != 0:
            raise RuntimeError(f"llama.cpp could not run {len(ids)} tokens")

    def decode_together(self, last: list[int], n: int) -> list[list[int]]:
        """Append n greedy tokens to each of several texts, begun with one token each; return them.

        On a fresh cache: text i begins with last[i]. Each call of llama_decode gives every text its next one.
        """
        self.clear()
        count, found = len(last), [[] for _ in last]
        batch = self.llama.llama_batch_init(count, 0, 1)
        batch.n_tokens = count
        try:
            for position in range(n):
                for row in range(count):
                    batch.token[row], batch.pos[row], batch.logits[row] = last[row], position, 1
                    batch.n_seq_id[row], batch.seq_id[row][0] = 1, row
                if self.llama.llama_decode(self.context, batch) != 0:
                    raise RuntimeError(f"llama.cpp could not run a token of {count} texts")
                last = [int(self.logits(row).argmax()) for row in range(count)]
                for ids, token in zip(found, last, strict=True):
                    ids.append(token)
        finally:
            self.llama.llama_batch_free(batch)
        return found


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def _quiet(level, text, data):
    pass
