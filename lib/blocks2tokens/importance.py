"""Importance: which columns of each matrix a text uses.

    x [T, K] --> product with W [N, K]          each matrix of a model, over a text of T tokens

    sums      float64 [experts, K]      sum over tokens of x ** 2: how much an error in a column counts
    counts    int64 [experts]           tokens that went through; one number, or one for each expert
    hessian   float32 [K, K]            x.T @ x: how far errors of two columns add up, or cancel

An error E of a matrix changes its outputs by x @ E.T. The sum of their squares is trace(E @ hessian @ E.T);
its diagonal part, sums @ (E ** 2).T, is what `Format.quantize` makes small, given `mean(name)`.

The file is llama.cpp's importance matrix, as a GGUF file: name.in_sum2 F32 [experts, K], name.counts F32
[experts, 1]; and, which llama.cpp passes over, the text's ids: hessians are too large to keep. The older
binary form is read too.

Source: llama.cpp, tools/imatrix (`save_imatrix`, `load_imatrix_legacy`); Frantar et al. 2022 for the hessian.
"""

import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import gguf
import numpy as np
from tqdm import tqdm

from blocks2tokens import files
from blocks2tokens.errors import GGUFError
from blocks2tokens.formats import FORMATS
from blocks2tokens.generate import Model
from blocks2tokens.gguf_file import GGUFFile
from blocks2tokens.kernels import watching

WINDOW = 512  # ids read together, or the model's context where that is less; llama.cpp's default too
LEAST = 16  # ids: the statistics of fewer say nothing
MEMORY = 2**29  # bytes of hessians that are gathered in one pass over the text
MOST_NAMES, LONGEST_NAME, MOST_COLUMNS = 2**16, 2**12, 2**24  # what a file of the older form may say
SUMS, COUNTS, IDS = ".in_sum2", ".counts", "blocks2tokens.ids"

See = Callable[[str, int, np.ndarray], None]


class Importance:
    """Sums of squared inputs for each matrix, by its tensor's name; and the text they were taken from."""

    def __init__(self, sums: dict[str, np.ndarray], counts: dict[str, np.ndarray], ids=None):
        """Keep sums, {name: float [experts, K]}, counts, {name: [experts]}, and ids, int [T], or None.

        Raises ValueError for sums below zero or that are no finite numbers.
        """
        self.sums = {name: np.asarray(value, np.float64) for name, value in sums.items()}
        self.counts = {name: np.asarray(counts[name], np.int64).reshape(-1) for name in sums}
        self.ids = None if ids is None else np.asarray(ids, np.int64)
        for name, value in self.sums.items():
            if value.ndim != 2 or len(value) != len(self.counts[name]):
                raise ValueError(f"{name}: expected sums [experts, K], counts [experts], got {value.shape}")
            if not (np.isfinite(value) & (value >= 0)).all() or (self.counts[name] < 0).any():
                raise ValueError(f"{name}: expected finite sums >= 0, and counts")

    def __repr__(self):
        tokens = max((int(count.max()) for count in self.counts.values()), default=0)
        return f"Importance({len(self.sums)} matrices, {tokens:,} tokens)"

    def __contains__(self, name: object) -> bool:
        return name in self.sums

    def mean(self, name: str) -> np.ndarray:
        """Return the mean of x ** 2 by column, float32 [experts, K]; ones for an expert that no token met."""
        sums, counts = self.sums[name], self.counts[name][:, None]
        return np.where(counts > 0, sums / np.maximum(counts, 1), 1).astype(np.float32)

    def check(self, file: GGUFFile) -> None:
        """Raise ValueError unless this belongs to the model of a file: its matrices, their widths."""
        for name, sums in self.sums.items():
            info = file.tensors.get(name)
            if info is None:
                raise ValueError(f"importance: of another model: {file.path} has no tensor {name}")
            experts = info.shape[0] if len(info.shape) == 3 else 1
            if sums.shape != (experts, info.shape[-1]):
                expected = experts, info.shape[-1]
                raise ValueError(
                    f"importance: of another model: {name}: expected {expected}, got {sums.shape}"
                )
        if self.ids is None and not self.sums:
            raise ValueError("importance: expected the sums of some matrices, got none")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write llama.cpp's importance matrix, a GGUF file, whole or not at all; OSError."""
        with files.replacing(Path(path)) as partial:
            writer = gguf.GGUFWriter(partial, arch="")
            writer.kv_data[0].clear()  # an importance matrix has no architecture
            writer.add_type("imatrix")
            writer.add_array("imatrix.datasets", ["text"])
            tokens = max((int(count.max()) for count in self.counts.values()), default=0)
            writer.add_uint32("imatrix.chunk_count", max(1, tokens // WINDOW))
            writer.add_uint32("imatrix.chunk_size", WINDOW)
            if self.ids is not None:
                writer.add_array(IDS, self.ids.tolist())
            for name in self.sums:
                writer.add_tensor(name + SUMS, self.sums[name].astype(np.float32))
                writer.add_tensor(name + COUNTS, self.counts[name].astype(np.float32)[:, None])
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Importance":
        """Read an importance matrix, ours or llama.cpp's, in today's form or the older one.

        Raises FileNotFoundError; GGUFError for a file that is neither.
        """
        path = Path(path)
        with open(path, "rb") as opened:
            magic = opened.read(4)
        try:
            return cls(*(_read_gguf(path) if magic == b"GGUF" else _read_legacy(path)))
        except (ValueError, KeyError) as error:
            if isinstance(error, GGUFError):
                raise
            raise GGUFError(f"{path}: no importance matrix: {error}") from None


def importance(model: Model, ids: Sequence[int]) -> Importance:
    """Return the sums of squared inputs of each matrix over token ids, read in windows of WINDOW.

    Raises ValueError for fewer than LEAST ids, and for one outside the vocabulary.
    """
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, np.ndarray] = {}

    def see(name, expert, x):
        if name not in sums:
            n_experts = _n_experts(model.file, name)
            sums[name], counts[name] = np.zeros((n_experts, x.shape[1])), np.zeros(n_experts, np.int64)
        sums[name][expert] += np.einsum("tk,tk->k", x, x)
        counts[name][expert] += len(x)

    watch_inputs(model, ids, see)
    return Importance({name: sums[name] for name in model.file.tensors if name in sums}, counts, ids)


def watch_inputs(model: Model, ids: Sequence[int], see: See) -> None:
    """Run a text and call see(name, expert, x) with the inputs of each matrix, float32 [T, K].

    `name` is that of the matrix's tensor, `expert` its number in a mixture, else 0. The text is read in
    windows of WINDOW, so each matrix is seen several times. x must not be kept or changed. Raises ValueError
    for fewer than LEAST ids, and for one outside the vocabulary.
    """
    ids, find = model.transformer.check_ids(ids), _finder(model.file)
    if len(ids) < LEAST:
        raise ValueError(f"ids: expected a text of at least {LEAST} tokens, got {len(ids)}")

    def seen(x, w):
        if place := find(w):
            see(*place, x)

    window = min(WINDOW, model.config.context_length)
    with (
        watching(seen),
        tqdm(total=len(ids), desc="inputs", unit=" tokens", delay=2, leave=False) as bar,
    ):
        for i in range(0, len(ids), window):
            read = ids[i : i + window]
            if len(read) > 1:  # one token alone does not go through `matmul`
                model.transformer.project(
                    model.transformer.hidden(read, model.transformer.new_cache(len(read)))
                )
            bar.update(len(read))


def hessians(model: Model, ids: Sequence[int], names: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, x.T @ x / T), float32 [experts, K, K], of each matrix, in the order of `names`.

    As many as fit in MEMORY are gathered in one pass over the text. Raises ValueError as `watch_inputs`.
    """
    names = list(names)
    while names:
        group, total = [], 0
        for name in names:
            total += _hessian_bytes(model.file, name)
            if group and total > MEMORY:
                break
            group.append(name)
        names = names[len(group) :]
        yield from _gathered(model, ids, group)


def _gathered(model: Model, ids: Sequence[int], group: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, np.ndarray] = {}

    def see(name, expert, x):
        if name in group:
            if name not in sums:
                n_experts, K = _n_experts(model.file, name), x.shape[1]
                sums[name], counts[name] = np.zeros((n_experts, K, K), np.float32), np.zeros(n_experts)
            sums[name][expert] += x.T @ x
            counts[name][expert] += len(x)

    watch_inputs(model, ids, see)
    for name in group:
        if name in sums:
            yield name, sums.pop(name) / np.maximum(counts[name], 1).astype(np.float32)[:, None, None]


def affordable(file: GGUFFile, name: str) -> bool:
    """Do the hessians of a matrix fit in MEMORY? Those of a mixture of many experts may not."""
    return _hessian_bytes(file, name) <= MEMORY


def _hessian_bytes(file: GGUFFile, name: str) -> int:
    return 4 * _n_experts(file, name) * file.tensors[name].shape[-1] ** 2


def _n_experts(file: GGUFFile, name: str) -> int:
    shape = file.tensors[name].shape
    return shape[0] if len(shape) == 3 else 1


def _finder(file: GGUFFile) -> Callable:
    """Return a function from a matrix to (its tensor's name, its number there), by where its bytes are.

    Of several matrices that are cut from one by rows, and have the same inputs, only the first is found.
    """
    place = {}
    for name, info in file.tensors.items():
        if len(info.shape) < 2:
            continue
        raw = file.raw(name)
        first, size = raw.ctypes.data, raw[0].nbytes if len(info.shape) == 3 else 0
        place |= {first + size * expert: (name, expert) for expert in range(_n_experts(file, name))}
    return lambda w: place.get(w.raw.ctypes.data)


def _read_gguf(path: Path) -> tuple:
    file = GGUFFile(path)
    if file.metadata.get("general.type") != "imatrix":
        raise GGUFError(
            f"{path}: general.type: expected 'imatrix', got {file.metadata.get('general.type')!r:.40}"
        )
    decoded = {name: FORMATS["F32"].dequantize(file.raw(name)) for name in _all_floats(file)}
    names = [name.removesuffix(SUMS) for name in decoded if name.endswith(SUMS)]
    sums = {name: decoded[name + SUMS].reshape(-1, decoded[name + SUMS].shape[-1]) for name in names}
    counts = {name: np.rint(decoded[name + COUNTS]).reshape(-1) for name in names}
    return sums, counts, file.metadata.get(IDS)


def _all_floats(file: GGUFFile) -> Iterator[str]:
    for name in file.tensors:
        if file.format(name).name != "F32":
            raise GGUFError(f"{file.path}: tensor {name}: expected F32, got {file.format(name).name}")
        yield name


def _read_legacy(path: Path) -> tuple:
    """Read the older form: int32 n; n times int32 length, name, int32 calls, int32 K, float32 [K].

    Each float is the mean of a column times `calls`. What follows says what text it was.
    """
    data, at = path.read_bytes(), 0

    def number(what: str, most: int) -> int:
        nonlocal at
        if at + 4 > len(data):
            raise GGUFError(f"{path}: byte {at}: the file ends before {what}")
        (value,) = struct.unpack_from("<i", data, at)
        if not 1 <= value <= most:
            raise GGUFError(f"{path}: byte {at}: no importance matrix: {what} would be {value}")
        at += 4
        return value

    def take(size: int, what: str) -> bytes:
        nonlocal at
        if at + size > len(data):
            raise GGUFError(f"{path}: byte {at}: the file ends within {what}")
        at += size
        return data[at - size : at]

    sums, counts = {}, {}
    for _ in range(number("the number of matrices", MOST_NAMES)):
        name = take(number("the length of a name", LONGEST_NAME), "a name").decode("utf-8", "replace")
        calls, K = number("the number of calls", 2**31 - 1), number("the number of columns", MOST_COLUMNS)
        sums[name] = np.frombuffer(take(4 * K, name), "<f4").astype(np.float64)[None]
        counts[name] = np.array([calls])
    return sums, counts, None
