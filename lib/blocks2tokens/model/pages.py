"""Pages of a cache: the memory of PAGE tokens in all layers, handed out, shared and given back.

    a cache       | page 0 | page 1 | page 2 |
    a fork of it  | page 0 | page 1 | page 2 |      the same pages, nothing is copied
    ... writes    | page 0 | page 1 | page 5 |      into a page that another holds: into a copy of its own

    found by      ids [0, PAGE) -> page 0           a cache that begins with the same ids takes these pages
                  ids [0, 2 PAGE) -> page 1         instead of computing what is in them

A page is what the ids up to its end make of it, so all of these are its name. It can be found as long as some
cache holds it; a page that none holds is free memory.

Source: Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention", 2023.
"""

import threading
from collections.abc import Iterator, Sequence
from hashlib import blake2b

import numpy as np

from blocks2tokens.model.cache_rows import PAGE

LINE = 64  # bytes of a cache line: rows begin at one
SLAB = 1 << 24  # bytes that memory is asked for at a time: from 4 MB on NumPy asks the system for large pages


class Page:
    """Keys and values of PAGE tokens in all layers: `data`, uint8 [n_bytes], at `address`."""

    def __init__(self, data: np.ndarray):
        self.data, self.address = data, data.ctypes.data
        self.users = 1  # caches that hold it
        self.name: bytes | None = None  # by which others find it


class PagePool:
    """The pages of one model's caches; caches in several threads may use one pool."""

    def __init__(self, page_bytes: int, limit: int | None = None, recent_bytes: int = 0):
        """Hand out at most `limit` pages at a time; None: as many as memory has.

        Beside them pages of `recent_bytes`, of which each cache has one or two: see `kv_cache`.
        """
        self.page_bytes, self.limit = page_bytes, limit
        self.recent = PagePool(recent_bytes) if recent_bytes else None
        self.n_used = 0
        self._spare: list[np.ndarray] = []  # memory of pages that nobody holds, of one slab at the most
        self._by_name: dict[bytes, Page] = {}
        self._lock = threading.RLock()  # a cache may be collected, and give back, while one is taken

    def take(self) -> Page:
        """Return a page of its own; ValueError if `limit` are in use."""
        with self._lock:
            if self.limit is not None and self.n_used >= self.limit:
                raise ValueError(f"cache: all {self.limit} pages of {PAGE} tokens are in use")
            self.n_used += 1
            if not self._spare:
                self._spare = _slab(self.page_bytes)
            return Page(self._spare.pop())

    def share(self, pages: Sequence[Page]) -> list[Page]:
        """Return the same pages, for one user more."""
        with self._lock:
            for page in pages:
                page.users += 1
        return list(pages)

    def give_back(self, pages: list[Page], first: int = 0) -> None:
        """Count one user less of pages `first` and on, and take them out of the list."""
        with self._lock:
            while len(pages) > first:
                page = pages.pop()
                page.users -= 1
                if not page.users:
                    self.n_used -= 1
                    self._forget(page)
                    if len(self._spare) < max(1, SLAB // self.page_bytes):
                        self._spare.append(page.data)

    def writable(self, page: Page) -> Page:
        """Return this page if it has one user, else a copy that counts in its place; nobody finds it."""
        with self._lock:
            if page.users > 1:
                copy = self.take()
                copy.data[:] = page.data
                page.users -= 1
                return copy
            self._forget(page)
            return page

    def publish(self, ids: Sequence[int], pages: Sequence[Page]) -> None:
        """Let others find those pages that are full with ids; a page that another has made already stays."""
        with self._lock:
            for name, page in zip(_names(ids), pages, strict=False):
                if page.name is None and name not in self._by_name:
                    page.name, self._by_name[name] = name, page

    def find(self, ids: Sequence[int]) -> list[Page]:
        """Return the pages that hold the beginning of ids, as many as there are, for one user more."""
        with self._lock:
            return self.share(list(self._found(ids)))

    def n_found(self, ids: Sequence[int]) -> int:
        """Return how many of ids `find` has pages for."""
        with self._lock:
            return PAGE * sum(1 for _ in self._found(ids))

    def _found(self, ids) -> Iterator[Page]:
        for name in _names(ids):
            if name not in self._by_name:
                return
            yield self._by_name[name]

    def _forget(self, page):
        if page.name is not None:
            del self._by_name[page.name]
            page.name = None


def _slab(page_bytes: int) -> list[np.ndarray]:
    """Return memory for as many pages as a slab has room for; it is not touched, and so not paid for, yet."""
    n, step = max(1, SLAB // page_bytes), -(-page_bytes // LINE) * LINE
    room = np.empty(n * step + LINE, np.uint8)
    start = -room.ctypes.data % LINE
    return [room[i : i + page_bytes] for i in range(start, start + n * step, step)]


def _names(ids: Sequence[int]) -> Iterator[bytes]:
    """Yield the name of each full page of ids: a hash of all ids up to its end."""
    digest = blake2b(digest_size=32)
    array = np.asarray(ids, "<i8")
    for end in range(PAGE, len(array) + 1, PAGE):
        digest.update(array[end - PAGE : end].tobytes())
        yield digest.copy().digest()
