"""KVCache: the keys and values of every token seen so far, so that none is computed twice.

    keys, values   float32 or float16 [n_layers, n_kv_heads, capacity, head_dim]
    length         tokens in it

A head's keys lie together: attention reads them from the first token to the last without a gap. In float16
they take half the memory and half the reading, and keep 11 bits of each number.
"""

import numpy as np

DTYPES = {"float32": np.float32, "float16": np.float16}


class KVCache:
    """Room for `capacity` tokens. Memory is touched, and so paid for, only as tokens arrive."""

    def __init__(self, n_layers: int, n_kv_heads: int, head_dim: int, capacity: int, dtype: str = "float32"):
        """Make room; dtype is "float32" or "float16"."""
        self.capacity = capacity
        self.length = 0
        self.decoder = None  # memory to decode into this cache, made by the transformer at the first token
        self.batch_memory = None  # likewise memory for passes over several tokens
        shape = (n_layers, n_kv_heads, capacity, head_dim)
        self._keys, self._values = np.zeros(shape, DTYPES[dtype]), np.zeros(shape, DTYPES[dtype])

    # Read-only: a decoder knows where they lie. A copy of a cache therefore begins without one, and without
    # the memory that its owner may be at work in.
    keys = property(lambda self: self._keys)
    values = property(lambda self: self._values)

    def __getstate__(self):
        return self.__dict__ | {"decoder": None, "batch_memory": None}

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values at full length."""
        return self.keys.nbytes + self.values.nbytes

    def put(self, layer: int, keys: np.ndarray, values: np.ndarray) -> None:
        """Store keys and values, float32 [T, n_kv_heads, head_dim], behind the tokens of this layer.

        For passes written in NumPy; the engine's own write to `for_numba`.
        Raises ValueError for more than there is room for.
        """
        end = self.length + len(keys)
        if end > self.capacity:
            raise ValueError(f"{len(keys)} more tokens do not fit, {self.length} of {self.capacity} used")
        self.keys[layer, :, self.length : end] = keys.transpose(1, 0, 2)
        self.values[layer, :, self.length : end] = values.transpose(1, 0, 2)

    def get(self, layer: int, n_tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """Return views of keys and values, [n_kv_heads, n_tokens, head_dim]."""
        return self.keys[layer, :, :n_tokens], self.values[layer, :, :n_tokens]

    def used(self) -> tuple[np.ndarray, np.ndarray]:
        """Return views of what it holds: keys and values, [n_layers, n_kv_heads, length, head_dim]."""
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def fill(self, keys: np.ndarray, values: np.ndarray) -> None:
        """Hold these keys and values, as `used` gives them, in the place of all that there is.

        Raises ValueError for another dtype or shape, or for more tokens than there is room for.
        """
        n_layers, n_kv_heads, _, head_dim = self.keys.shape
        n_tokens = keys.shape[2] if keys.ndim == 4 else 0
        for part, name in ((keys, "keys"), (values, "values")):
            expected = (n_layers, n_kv_heads, min(n_tokens, self.capacity), head_dim)
            if part.shape != expected or part.dtype != self.keys.dtype:
                raise ValueError(
                    f"{name}: expected {self.keys.dtype} {expected}, got {part.dtype} {part.shape}"
                )
        self.length = n_tokens
        for own, part in zip(self.used(), (keys, values), strict=True):
            own[...] = part

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens; ValueError if there are fewer."""
        if not 0 <= length <= self.length:
            raise ValueError(f"length: expected 0 to {self.length}, got {length}")
        self.length = length

    def for_numba(self) -> tuple[np.ndarray, np.ndarray]:
        """Return keys and values as compiled code takes them: float16 as its bits, uint16."""
        parts = self.keys, self.values
        return parts if self.keys.dtype == np.float32 else tuple(part.view(np.uint16) for part in parts)

    def advance(self, n_tokens: int) -> None:
        """Count `n_tokens` as seen, once every layer has put theirs."""
        self.length += n_tokens
