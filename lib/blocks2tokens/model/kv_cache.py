"""KVCache: the keys and values of every token seen so far, so that none is computed twice.

    length     tokens in it, of `capacity`
    pages      the memory of PAGE tokens each, for all layers: see `pages`
    table      where they are: int64 [capacity / PAGE + 1], 0 where none is needed yet

    page       [n_layers, keys | values, n_kv_heads, PAGE, row]        rows of one of four types: `cache_rows`

A page is taken when its first token comes. A head's keys lie together within it, so attention reads PAGE of
them without a gap. Forks share pages and copy one only when they write into it; caches that begin with the
same ids can share as well.

A row of float16 keeps 11 bits of each number; q8_0 about 8, q4_0 about 4, with a scale for each 32.
What q4_0 has besides:

    frames     of keys, float32 [n_layers, n_kv_heads, frame_rows, head_dim], or None: see `key_frame`
    recent     the latest RECENT rows in q8_0, a page of its own kind, at table[-1]: see `cache_rows`

               [n_layers, keys | values, n_kv_heads, RECENT, row]         row of a token: token % RECENT

A pass over many tokens needs more of them than that, of one layer at a time (`pass_rows`), and leaves the
last in another page, which takes the place of the first when the pass has come to its end (`advance`).
"""

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from blocks2tokens.errors import UnsupportedError
from blocks2tokens.formats import FORMATS
from blocks2tokens.model.cache_rows import (
    BLOCKS,
    FIRST,
    KEYS,
    MEAN,
    PAGE,
    RECENT,
    SCALE,
    TYPES,
    VALUE,
    VALUES,
    WEIGHTS,
    LayerRows,
    code_of,
    copy_recent,
    frame_at,
    frame_rows,
    keep_rows,
    recent_layer_bytes,
    restore_recent,
    row_bytes,
    turn,
    turned,
)
from blocks2tokens.model.pages import Page, PagePool


def check_type(kind: str, head_dim: int) -> None:
    """Raise ValueError for a type of cache that there is not, UnsupportedError if heads do not fit it."""
    if kind not in TYPES:
        raise ValueError(f"cache: expected one of {', '.join(TYPES)}, got {kind!r}")
    if kind in BLOCKS and head_dim % WEIGHTS:
        raise UnsupportedError(
            f"cache: {kind} has blocks of {WEIGHTS} numbers, which heads of {head_dim} cannot be cut into"
        )


def page_bytes(n_layers: int, n_kv_heads: int, head_dim: int, kind: str) -> int:
    """Return the bytes of the keys and values of PAGE tokens."""
    return 2 * n_layers * n_kv_heads * PAGE * row_bytes(kind, head_dim)


def recent_bytes(n_layers: int, n_kv_heads: int, head_dim: int, kind: str) -> int:
    """Return the bytes of the RECENT rows that a cache has in more bits; 0 where it has none."""
    return 2 * n_layers * n_kv_heads * RECENT * row_bytes("q8_0", head_dim) if kind == "q4_0" else 0


def pool_of(n_layers: int, n_kv_heads: int, head_dim: int, kind: str, limit: int | None = None) -> PagePool:
    """Return a pool for caches of this shape and type, of at most `limit` pages at a time."""
    shape = n_layers, n_kv_heads, head_dim, kind
    return PagePool(page_bytes(*shape), limit, recent_bytes(*shape))


class KVCache:
    """Room for `capacity` tokens. Memory is taken page by page, and touched, as tokens arrive."""

    def __init__(
        self,
        n_layers: int,
        n_kv_heads: int,
        head_dim: int,
        capacity: int,
        kind: str = "float32",
        pool: PagePool | None = None,
        frames: np.ndarray | None = None,
    ):
        """Begin with nothing; pages come from `pool`, which caches of one shape, type and frames may share.

        Raises ValueError for another type than float32, float16, q8_0 and q4_0, and for frames of another
        shape or type; UnsupportedError for heads that are not made of whole blocks of it.
        """
        check_type(kind, head_dim)
        self.frames = _checked_frames(frames, kind, (n_layers, n_kv_heads, frame_rows(head_dim), head_dim))
        self.shape = n_layers, n_kv_heads, head_dim
        self.kind, self.capacity, self.length = kind, capacity, 0
        self.pool = pool or pool_of(*self.shape, kind)
        self.decoder = None  # memory to decode into this cache, made by the transformer at the first token
        self.batch_memory = None  # likewise memory for passes over several tokens
        self.table = np.zeros(-(-capacity // PAGE) + 1, np.int64)
        self._pages: list[Page] = []
        weakref.finalize(self, self.pool.give_back, self._pages).atexit = False
        self._recent: list[Page] = []  # one, or none yet
        self._recent_from = 0  # the first token whose recent row is there
        self._coming: list[Page] = []  # what a pass leaves in its place
        self._coming_for = 0, 0  # that pass: the tokens before it, and how many it brings
        self._of_pass = np.empty(0, np.uint8)  # the recent rows of one layer of a pass
        for pages in (self._recent, self._coming) if self.pool.recent else ():
            weakref.finalize(self, self.pool.recent.give_back, pages).atexit = False

    pages = property(lambda self: tuple(self._pages))

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one token's keys and values in all layers."""
        return page_bytes(*self.shape, self.kind) // PAGE

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values at full length."""
        return self.capacity * self.bytes_per_token + recent_bytes(*self.shape, self.kind)

    def rows(self, layer: int) -> LayerRows:
        """Return where compiled code finds the rows of a layer."""
        _, n_kv_heads, head_dim = self.shape
        row = row_bytes(self.kind, head_dim)
        head, half = PAGE * row, n_kv_heads * PAGE * row
        first = 0 if self.frames is None else self.frames.ctypes.data
        frame = frame_at(first, layer, n_kv_heads, head_dim)
        mixes, ring = turned(self.kind, head_dim), RECENT if self.pool.recent else 0
        rows = LayerRows(
            self.table, 2 * half * layer, *code_of(self.kind), mixes, row, head, half, frame, 0, ring
        )
        return rows._replace(recent=layer * recent_layer_bytes(rows)) if ring else rows

    # --- Pages --------------------------------------------------------------------------------------------

    def prepare(self, n_tokens: int) -> None:
        """Have pages for so many tokens more, and none of them shared.

        Raises ValueError for more than there is room for, or if the pool has no more pages.
        """
        end = self.length + n_tokens
        if not 0 <= self.length <= end <= self.capacity:
            raise ValueError(f"{n_tokens} more tokens do not fit, {self.length} of {self.capacity} used")
        for i in range(self.length // PAGE, -(-end // PAGE)):
            if i == len(self._pages):
                self._set(i, self.pool.take())
            elif self._pages[i].users > 1 or self._pages[i].name is not None:
                self._set(i, self.pool.writable(self._pages[i]))
        if self.pool.recent and not self._recent:
            self._have_recent([self.pool.recent.take()])
        elif self._recent and self._recent[0].users > 1:
            self._own_recent()

    def _set(self, i, page):
        self._pages[i : i + 1] = [page]
        self.table[i] = page.address

    def _hold(self, pages: list[Page], length: int) -> None:
        """Hold these pages, and so many tokens, in the place of all that there is."""
        self.pool.give_back(self._pages)
        self._pages += pages
        self.table[:-1] = 0
        self.table[: len(pages)] = [page.address for page in pages]
        self.length = self._recent_from = length

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens; ValueError if there are fewer."""
        if not 0 <= length <= self.length:
            raise ValueError(f"length: expected 0 to {self.length}, got {length}")
        if length // PAGE * PAGE < self._recent_from:
            self._restore_recent(length)
        self.length = length
        self.pool.give_back(self._pages, -(-length // PAGE))
        self.table[len(self._pages) : -1] = 0

    def fork(self, capacity: int | None = None) -> "KVCache":
        """Return a cache that goes on from here by itself, and shares the pages as long as they are the same.

        Its capacity is that of this one unless said otherwise; ValueError for less than there is in it.
        """
        capacity = self.capacity if capacity is None else capacity
        if capacity < self.length:
            raise ValueError(f"capacity: expected at least {self.length}, got {capacity}")
        other = KVCache(*self.shape, capacity, self.kind, self.pool, self.frames)
        other._hold(self.pool.share(self._pages[: -(-self.length // PAGE)]), self.length)
        if self._recent:
            other._have_recent(self.pool.recent.share(self._recent))
            other._recent_from = self._recent_from
        return other

    def __deepcopy__(self, memo):
        return self.fork()

    def __reduce__(self):
        shape = *self.shape, self.capacity, self.kind
        return _restored, (*shape, self.frames, *self.used(), self.recent())

    def publish(self, ids: Sequence[int]) -> None:
        """Let other caches of the pool find the full pages of this one; `ids` are those in it."""
        self.pool.publish(ids[: self.length], self._pages)

    def begin_with(self, ids: Sequence[int]) -> int:
        """Hold, in the place of all that there is, the pages that others have of these ids' beginning.

        Returns how many tokens that are. Raises ValueError for more ids than there is room for.
        """
        if len(ids) > self.capacity:
            raise ValueError(f"{len(ids)} tokens do not fit into {self.capacity}")
        pages = self.pool.find(ids)
        self._hold(pages, PAGE * len(pages))
        return self.length

    # --- Recent rows, in q4_0 -----------------------------------------------------------------------------

    def _have_recent(self, pages: list[Page]) -> None:
        """Hold these, one or none, in the place of what there is."""
        if self._recent:
            self.pool.recent.give_back(self._recent)
        self._recent += pages
        self.table[-1] = pages[0].address if pages else 0

    def _own_recent(self) -> None:
        """Have the recent rows for oneself, to write into."""
        self._recent[0] = self.pool.recent.writable(self._recent[0])
        self.table[-1] = self._recent[0].address

    def _restore_recent(self, length: int) -> None:
        """Make the recent rows of the page of token `length` from those in 4 bits: they were overwritten."""
        first, x = length // PAGE * PAGE, np.empty(self.shape[2], np.float32)
        if self._recent and first < length:
            self._own_recent()
            for layer in range(self.shape[0]):
                restore_recent(self.rows(layer), first, length, x)
        self._recent_from = first

    def pass_rows(self, layer: int, n_tokens: int) -> LayerRows:
        """Return `rows` for a pass over so many tokens more, each of which is to see its own page in q8_0.

        Those rows are of this layer alone, until it is asked for the next; `keep_recent` takes the last over.
        """
        rows = self.rows(layer)
        if not rows.ring:
            return rows
        first = self.length // PAGE * PAGE
        here = rows._replace(recent=0, ring=self.length - first + n_tokens)
        if self._of_pass.size < recent_layer_bytes(here):
            self._of_pass = np.empty(recent_layer_bytes(here), np.uint8)
        table = self.table.copy()
        table[-1] = self._of_pass.ctypes.data
        here = here._replace(table=table)
        copy_recent(rows, here, max(first, self._recent_from), self.length)
        return here

    def keep_recent(self, layer: int, here: LayerRows, n_tokens: int) -> None:
        """Keep the last recent rows of a layer, which `pass_rows` has given, until the pass is over."""
        if not here.ring:
            return
        if not self._coming:
            self._coming.append(self.pool.recent.take())
        self._coming_for, end = (self.length, n_tokens), self.length + n_tokens
        before, first = self.rows(layer), max(self._recent_from, end - RECENT)
        there = before._replace(table=np.array([self._coming[0].address]))
        copy_recent(before, there, first, end - here.ring)
        copy_recent(here, there, max(first, end - here.ring), end)

    def recent_shape(self, n_tokens: int) -> tuple[int, ...]:
        """Return the shape of what `recent` gives behind so many tokens: those of a page that is not full."""
        n_layers, n_kv_heads, head_dim = self.shape
        return n_layers, 2, n_kv_heads, n_tokens % PAGE, row_bytes("q8_0", head_dim)

    def recent(self) -> np.ndarray | None:
        """Return the recent rows of the page that is being filled, uint8 [n_layers, 2, n_kv_heads, n, bytes].

        None where there are no such rows.
        """
        if not self.pool.recent:
            return None
        first = self.length // PAGE * PAGE
        if first == self.length:
            return np.empty(self.recent_shape(first), np.uint8)
        return self._recent_view(self._recent[0])[:, :, :, np.arange(first, self.length) % RECENT]

    def _recent_view(self, page: Page) -> np.ndarray:
        """Return a page of recent rows as an array, uint8 [n_layers, 2, n_kv_heads, RECENT, bytes]."""
        n_layers, n_kv_heads, head_dim = self.shape
        return page.data.reshape(n_layers, 2, n_kv_heads, RECENT, row_bytes("q8_0", head_dim))

    def at_once(self, most: int) -> int:
        """Return how many tokens more, up to so many, see one thing: what `get` gives behind the last.

        All there is, but for recent rows, which are those of one page.
        """
        return min(most, PAGE - self.length % PAGE) if self.pool.recent else most

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Leave the tokens of a pass out again if it does not come to its end: Ctrl-C, no memory.

        What lies behind the length is not looked at, and the next pass writes over it. But the recent rows of
        up to RECENT - PAGE tokens lie where older ones were: these are gone.
        """
        length, start = self.length, self._recent_from
        before = self.pool.recent.share(self._recent) if self._recent else []
        try:
            yield
        except BaseException:
            self.length, self._recent_from = length, max(start, length - PAGE)
            if before:
                self._have_recent(self.pool.recent.share(before))
            raise
        finally:
            if before:
                self.pool.recent.give_back(before)

    # --- What is in it ------------------------------------------------------------------------------------

    def put(self, layer: int, keys: np.ndarray, values: np.ndarray) -> None:
        """Store keys and values, float32 [T, n_kv_heads, head_dim], behind the tokens of this layer.

        For passes written in NumPy; the engine's own write by way of `rows`.
        Raises ValueError for more than there is room for, and for another shape.
        """
        expected = len(keys), *self.shape[1:]
        for name, given in {"keys": keys, "values": values}.items():
            if np.shape(given) != expected:
                raise ValueError(f"{name}: expected {expected}, got {np.shape(given)}")
        self.prepare(len(keys))
        rows = self.pass_rows(layer, len(keys))
        for part, given in enumerate((keys, values)):
            keep_rows(np.array(given, np.float32, order="C"), rows, part, self.length)
        self.keep_recent(layer, rows, len(keys))

    def get(self, layer: int, n_tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """Return keys and values of the first tokens, [n_kv_heads, n_tokens, head_dim].

        float16 as it is, the others as float32: blocks decoded and turned back, recent rows where the last
        of these tokens sees them.
        """
        parts = [part[0] for part in self._gathered(slice(layer, layer + 1), n_tokens)]
        if self.kind in BLOCKS:
            parts = [FORMATS[BLOCKS[self.kind]].dequantize(part) for part in parts]
        first = (n_tokens - 1) // PAGE * PAGE
        page = self._coming if self._coming_for == (self.length, n_tokens - self.length) else self._recent
        if page and n_tokens and first >= self._recent_from:
            rows = self._recent_view(page[0])[layer][:, :, np.arange(first, n_tokens) % RECENT]
            for part, recent in zip(parts, rows, strict=True):
                part[:, first:] = FORMATS["Q8_0"].dequantize(np.ascontiguousarray(recent))
        if turned(self.kind, self.shape[2]):
            parts = self._unframed(layer, *map(self._turned, parts))
        return tuple(parts)

    def used(self) -> tuple[np.ndarray, np.ndarray]:
        """Return what it holds: keys and values, [n_layers, n_kv_heads, length, a row], as they are stored.

        A row is float32 or float16 [head_dim], or uint8 [bytes of its blocks].
        """
        return self._gathered(slice(None), self.length)

    def fill(
        self,
        keys: np.ndarray,
        values: np.ndarray,
        frames: np.ndarray | None = None,
        recent: np.ndarray | None = None,
    ) -> None:
        """Hold these keys and values, as `used` gives them, in the place of all that there is.

        `frames` are those of the cache that they come from, None: the same as here. In others, which another
        machine has found for the same model, the keys are decoded and rounded again. `recent` is what
        `recent` gives, None: made from the keys and values.
        Raises ValueError for another dtype or shape, or for more tokens than there is room for.
        """
        n_layers, n_kv_heads, _ = self.shape
        n_tokens = keys.shape[2] if keys.ndim == 4 else 0
        for part, name in ((keys, "keys"), (values, "values")):
            expected = (n_layers, n_kv_heads, min(n_tokens, self.capacity), *self.row.shape)
            if part.shape != expected or part.dtype != self.row.base:
                raise ValueError(
                    f"{name}: expected {self.row.base} {expected}, got {part.dtype} {part.shape}"
                )
        self.truncate(0)
        if frames is not None and not np.array_equal(frames, self.frames):
            other = KVCache(*self.shape, max(1, n_tokens), self.kind, frames=frames)
            other.fill(keys, values, recent=recent)
            for layer in range(n_layers):
                self.put(layer, *(part.swapaxes(0, 1) for part in other.get(layer, n_tokens)))
            self.advance(n_tokens)
            return
        self.prepare(n_tokens)
        for part, page, own, there in self._pieces(0, n_tokens):
            self._view(page)[:, part, :, own] = (keys, values)[part][:, :, there]
        self.length = n_tokens
        self._fill_recent(recent)

    def _fill_recent(self, recent):
        """Have the recent rows of the page that is being filled: these, or those that 4 bits give."""
        if not self.pool.recent:
            return
        self._restore_recent(self.length)
        if recent is None:
            return
        first, expected = self._recent_from, self.recent_shape(self.length)
        if recent.shape != expected or recent.dtype != np.uint8:
            raise ValueError(f"recent: expected uint8 {expected}, got {recent.dtype} {recent.shape}")
        if first < self.length:
            self._recent_view(self._recent[0])[:, :, :, np.arange(first, self.length) % RECENT] = recent

    def advance(self, n_tokens: int) -> None:
        """Count `n_tokens` as seen, once every layer has put theirs."""
        if self._coming and self._coming_for == (self.length, n_tokens):
            self._have_recent(self._coming)
            self._coming.clear()
        self.length += n_tokens
        self._recent_from = max(self._recent_from, self.length - RECENT)

    @property
    def row(self) -> np.dtype:
        """What a row is: float32 or float16 [head_dim], or uint8 [bytes of its blocks]."""
        head_dim = self.shape[2]
        if self.kind in BLOCKS:
            return np.dtype((np.uint8, row_bytes(self.kind, head_dim)))
        return np.dtype((self.kind, head_dim))

    def _view(self, page: Page) -> np.ndarray:
        """Return a page as an array, [n_layers, 2, n_kv_heads, PAGE, a row]."""
        n_layers, n_kv_heads, _ = self.shape
        shape = n_layers, 2, n_kv_heads, PAGE, *self.row.shape
        return page.data.view(self.row.base).reshape(shape)

    def _pieces(self, first, last):
        """Yield, for keys and values and each page of tokens first to last: part, page, where in each."""
        for i in range(first // PAGE, -(-last // PAGE)):
            start, end = max(first, i * PAGE), min(last, (i + 1) * PAGE)
            for part in (KEYS, VALUES):
                own = slice(start - i * PAGE, end - i * PAGE)
                yield part, self._pages[i], own, slice(start - first, end - first)

    def _gathered(self, layers, n_tokens) -> tuple[np.ndarray, np.ndarray]:
        n_layers, n_kv_heads, _ = self.shape
        shape = len(range(n_layers)[layers]), n_kv_heads, n_tokens, *self.row.shape
        out = np.empty(shape, self.row.base), np.empty(shape, self.row.base)
        for part, page, own, there in self._pieces(0, n_tokens):
            out[part][:, :, there] = self._view(page)[layers, part, :, own]
        return out

    def _unframed(self, layer, keys, values):
        """Return keys and values, float32 [n_kv_heads, n_tokens, head_dim], as they were before."""
        if self.frames is None:
            return keys, values
        frames = self.frames[layer][:, :, None]
        keys = keys / frames[:, SCALE]
        keys[:, :1] += frames[:, FIRST]
        keys[:, 1:] += frames[:, MEAN]
        values[:, :1] += self._turned(frames[:, VALUE])
        return keys, values

    def _turned(self, x):
        """Return rows turned, or turned back: the same transform."""
        n, x = turned(self.kind, self.shape[2]), np.array(x, np.float32, order="C")
        if n:
            turn(x.reshape(-1), n)
        return x


def _checked_frames(frames, kind: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return frames if a cache of this type has use for them; ValueError unless they are of this shape."""
    if frames is None or kind != "q4_0":
        return None
    if frames.shape != shape or frames.dtype != np.float32 or not frames.flags.c_contiguous:
        raise ValueError(f"frames: expected float32 {shape}, got {frames.dtype} {frames.shape}")
    if not np.isfinite(frames).all() or frames[:, :, SCALE].min() <= 0:
        raise ValueError("frames: expected finite numbers, and scales above zero")
    return frames


def _restored(n_layers, n_kv_heads, head_dim, capacity, kind, frames, keys, values, recent) -> KVCache:
    cache = KVCache(n_layers, n_kv_heads, head_dim, capacity, kind, frames=frames)
    cache.fill(keys, values, recent=recent)
    return cache
