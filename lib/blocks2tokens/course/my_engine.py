"""The learner's own engine at work: what was collected, with the engine's in every place that is still empty.

    speak("Q4_K")     Austen's layers --the engine's encoder--> blocks --your decoder--> weights -> text
    load(path)        header --your readers--> tensors --your decoders--> weights -> a Model
    forward()         your norm, rotation, gate, attention and layer, put together: ids -> logits

    exercise             place                                signature
    READERS' own         blocks -> weights                    blocks [n] -> float32 [n, block size], but Q8_0:
                                                              raw uint8 [34 n] -> float32 [32 n]
    read_string          header: keys, names, vocabulary      buffer, at -> str, place behind it
    read_value           header: settings                     buffer, value type, at -> value, place behind it
    shape_and_bytes      header: each tensor                  ne, format -> shape, bytes
    align                header: where the data begins        offset, alignment -> offset
    rms_norm ...         the forward pass                     as in model/forward.py and lesson 21

Each says in a line or a table what is yours. A decoder with a wrong bit is used, and you hear it; one that
raises, or returns no numbers, is not, and the line says why. The engine opens every file first, so that a
broken one is refused before your functions see it.
"""

import os
import struct
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from tqdm import tqdm

import blocks2tokens as b2t
from blocks2tokens.course import check, collected, explore, models
from blocks2tokens.course.check.watched import plain, with_names
from blocks2tokens.course.progress import READERS
from blocks2tokens.formats import FORMATS, Format, by_ggml_type
from blocks2tokens.generate import Model
from blocks2tokens.model import rope
from blocks2tokens.model.forward import decoded as float_weights
from blocks2tokens.model.layers import plus

PROMPT = "It is a truth universally acknowledged, that"
ENGINES, NOT_YET = "the engine's", "not yours yet"
Clock = Callable[[str], AbstractContextManager]  # with clock("rms_norm"): ...
ARRAY = 9  # the type of an array in a GGUF header
HEADER = ("read_string", "read_value", "shape_and_bytes", "align")
LAYER = ("rms_norm", "rope_angles", "rotate_adjacent", "swiglu", "causal_weights", "layer_forward", "greedy")


class Unusable(ValueError):
    """What a learner's function returned cannot be used; says why."""


# speak


def speak(name: str, decode: Callable | None = None, max_tokens: int = 40) -> str:
    """Let Austen speak with the matrices of its layers in a format, decoded by you; return the text.

    `decode` has the signature of the lesson's exercise; None: your function that was collected, and where
    there is none, the engine's. Raises ValueError for a format that no exercise decodes.
    """
    if name not in READERS:
        raise ValueError(f"format: expected one of {', '.join(READERS)}, got {name!r}")
    found = collected.Found(decode) if decode is not None else collected.find(READERS[name])
    whose = "the function that you passed" if decode is not None else "your function"
    model, complaint = None, found.complaint
    if found.function is not None:
        try:
            model = austen_with(name, found.function)
        except Unusable as reason:
            complaint = str(reason)
    if model is None:
        told = f"{whose} is not used, {complaint}" if complaint else f"{READERS[name]} is {NOT_YET}"
        print(f"{name} is decoded by the engine: {told}")
        return explore.speak(austen_with(name), PROMPT, max_tokens, temperature=0.7, seed=1)
    print(f"{name} is decoded by {whose}")
    return explore.speak(model, PROMPT, max_tokens, temperature=0.7, seed=1)


def austen_with(name: str, decode: Callable | None = None) -> Model:
    """Return Austen with its layers' matrices quantized to a format and decoded; None: by the engine.

    Raises Unusable for a function that raises, or returns anything but so many finite numbers.
    """
    fmt, model = FORMATS[name], b2t.load(models.austen())
    blocks = _encoded(name)
    with tqdm(total=len(blocks), desc=f"decoding {name}", unit=" matrices", delay=2, leave=False) as bar:
        for i, layer in enumerate(model.transformer.layers):
            changed = {}
            for matrix in _matrices(layer):
                changed[matrix] = _as_floats(weights(fmt, blocks[i, matrix], decode))
                bar.update()
            model.transformer.layers[i] = replace(layer, **changed)
    return model


@lru_cache(maxsize=2)
def _encoded(name):
    """Return Austen's matrices in a format, {(layer, name): uint8 [N, row bytes]}."""
    fmt, layers = FORMATS[name], b2t.load(models.austen()).transformer.layers
    every = [(i, matrix) for i, layer in enumerate(layers) for matrix in _matrices(layer)]
    bar = tqdm(every, desc=f"encoding {name}", unit=" matrices", delay=2, leave=False)
    return {(i, matrix): fmt.quantize(getattr(layers[i], matrix).dequantize()) for i, matrix in bar}


def _matrices(layer):
    return [name for name, value in vars(layer).items() if isinstance(value, b2t.QuantizedMatrix)]


def _as_floats(weights):
    return b2t.QuantizedMatrix.quantize(weights, "F32")


def weights(fmt: Format, raw: np.ndarray, decode: Callable | None) -> np.ndarray:
    """Return a matrix of blocks, uint8 [N, row bytes], as float32 [N, K], decoded by a function of yours.

    None: by the engine. Raises Unusable for a function that raises, or returns anything but so many finite
    numbers.
    """
    if decode is None:
        return fmt.dequantize(raw)
    flat = raw.reshape(-1).copy()  # yours, to write into
    n = flat.size // fmt.bytes_per_block
    by_bytes = fmt.name == "Q8_0"  # lesson 01, where blocks have no names yet
    shape = (n * fmt.block_size,) if by_bytes else (n, fmt.block_size)
    answer = _called(decode, flat if by_bytes else fmt.blocks(flat[None])[0])
    if answer is None or answer is ...:
        raise Unusable(f"it returned {answer}")
    try:
        found = np.ascontiguousarray(answer, np.float32)
    except (TypeError, ValueError):
        raise Unusable(f"it returned a {type(answer).__name__}, not numbers") from None
    if found.shape != shape:
        raise Unusable(f"it returned shape {found.shape}, expected {shape}")
    if not np.isfinite(found).all():
        raise Unusable(f"{np.count_nonzero(~np.isfinite(found)):,} of its weights are not finite")
    return found.reshape(len(raw), -1)


def _called(function, *arguments):
    """Return what a learner's function returns; Unusable for whatever it raises, exit() included."""
    try:
        return function(*arguments)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise Unusable(f"it raised {type(error).__name__}: {error}") from None


# load


def load(path: str | os.PathLike[str]) -> Model:
    """Open a GGUF file with your functions of lesson 07, decode it with yours of 01 to 06; return a Model.

    Prints a table of what is yours. A reader is used if what it reads is what the engine reads. Matrices that
    you decode take four bytes for each weight. Raises as `b2t.load` does.
    """
    model, file = b2t.load(path), b2t.GGUFFile(path)
    supplied: dict[str, str] = {}
    tensors = _tensors(file, _usable_readers(file, supplied))
    by_format: dict[str, list[str]] = {}
    for name, info in file.tensors.items():
        if len(info.shape) == 2:
            by_format.setdefault(by_ggml_type(info.ggml_type).name, []).append(name)
    for fmt, names in by_format.items():
        if fmt in READERS:
            raw = {name: _raw(file, *tensors[name]) for name in names}
            floats, supplied[fmt.lower()] = _decoded_by_learner(FORMATS[fmt], raw)
            for name, matrix in floats.items():
                _put(model.transformer.weights, name.removesuffix(".weight"), _as_floats(matrix))
    _show(supplied)
    return model


def _usable_readers(file, supplied):
    """Return a function for each exercise of the header; note in `supplied` whose it is."""
    engines = {name: check.EXERCISES[name].engine for name in HEADER}
    used = dict(engines)
    for name in HEADER:
        found = collected.find(name)
        if found.function is None:
            supplied[name] = found.complaint or NOT_YET
            continue
        try:
            _compared(file, engines | {name: found.function})
            used[name], supplied[name] = found.function, ""
        except Unusable as reason:
            supplied[name] = str(reason)
    return used


def _compared(file, readers):
    """Read a header; Unusable unless it says what the engine reads."""
    metadata, _ = _called(read_metadata, file.data[: _header_size(file)].tobytes(), readers)
    for key, value in file.metadata.items():
        if not np.array_equal(np.asarray(metadata.get(key)), np.asarray(value)):
            raise Unusable(f"it reads {key} otherwise than the engine")
    tensors = _called(_tensors, file, readers)
    for name, info in file.tensors.items():
        if tensors.get(name) != (info.shape, (info.offset, info.offset + info.nbytes)):
            raise Unusable(f"it finds {name} elsewhere than the engine")


def _header_size(file):
    return min((info.offset for info in file.tensors.values()), default=file.data.size)


def read_metadata(header: bytes, readers: dict[str, Callable]) -> tuple[dict[str, object], int]:
    """Return {key: value} of a header, and the place behind the last."""
    metadata, at = {}, 24
    for _ in range(struct.unpack_from("<Q", header, 16)[0]):
        key, at = readers["read_string"](header, at)
        (value_type,) = struct.unpack_from("<I", header, at)
        metadata[key], at = _value(header, value_type, at + 4, readers)
    return metadata, at


def _value(header, value_type, at, readers):
    if value_type != ARRAY:
        return readers["read_value"](header, value_type, at)
    element_type, count = struct.unpack_from("<IQ", header, at)
    elements, at = [], at + 12
    for _ in range(count):
        element, at = _value(header, element_type, at, readers)
        elements.append(element)
    return elements, at


def _tensors(file, readers):
    """Return {name: (shape, (first byte, byte behind the last))} as the readers find them."""
    header = file.data[: _header_size(file)].tobytes()
    metadata, at = read_metadata(header, readers)
    infos = []
    for _ in range(struct.unpack_from("<Q", header, 8)[0]):
        name, at = readers["read_string"](header, at)
        (n,) = struct.unpack_from("<I", header, at)
        *ne, ggml_type, offset = struct.unpack_from(f"<{n}QIQ", header, at + 4)
        infos.append((name, *readers["shape_and_bytes"](ne, by_ggml_type(ggml_type)), offset))
        at += 16 + 8 * n
    start = readers["align"](at, metadata.get("general.alignment", 32))
    return {
        name: (tuple(shape), (start + offset, start + offset + n_bytes))
        for name, shape, n_bytes, offset in infos
    }


def _raw(file, shape, place):
    """Return the bytes of a matrix where the readers found it, uint8 [N, row bytes]."""
    first, behind = place
    return file.data[first:behind].reshape(shape[0], -1)


def _decoded_by_learner(fmt, raw):
    """Return {name: float32 [N, K]}, empty where the engine decodes; and why it does, "" if it does not."""
    found = collected.find(READERS[fmt.name])
    if found.function is None:
        return {}, found.complaint or NOT_YET
    bar = tqdm(raw.items(), desc=f"decoding {fmt.name}", unit=" matrices", delay=2, leave=False)
    try:
        return {name: weights(fmt, blocks, found.function) for name, blocks in bar}, ""
    except Unusable as reason:
        return {}, str(reason)
    finally:
        bar.close()


def _put(all_weights, name, matrix):
    """Put a matrix in the place of the one that a file calls so."""
    if name.startswith("blk."):
        _, i, part = name.split(".")
        all_weights.layers[int(i)] = replace(all_weights.layers[int(i)], **{part: matrix})
        return
    is_tied = all_weights.output is all_weights.token_embd
    setattr(all_weights, name, matrix)
    if is_tied and name == "token_embd":
        all_weights.output = matrix


def _show(supplied):
    """Print whose each part is: {part: why it is the engine's, "" if it is the learner's}."""
    for part, reason in supplied.items():
        print(f"{part:16} {f'{ENGINES}: {reason}' if reason else 'yours'}")
    yours = ", ".join(part for part, reason in supplied.items() if not reason) or "nothing yet"
    engines = ", ".join(part for part, reason in supplied.items() if reason) or "nothing"
    print(f"yours: {yours}; {ENGINES}: {engines}")


# forward


def forward(record: Clock = nullcontext) -> "Forward":
    """Return a forward pass with your functions of lessons 19 to 21; print a table of what is yours.

    A function is used if its check still calls it right. Each runs in `with record(its name):`, by which it
    can be timed.
    """
    pieces, supplied = {}, {}
    for name in LAYER:
        exercise, found = check.EXERCISES[name], collected.find(name)
        is_right = found.function is not None and exercise.judge(found.function).kind == "right"
        pieces[name] = found.function if is_right else exercise.engine
        reason = found.complaint or (NOT_YET if found.function is None else "yours is no longer right")
        supplied[name] = "" if is_right else reason
    _show(supplied)
    return Forward(pieces, record)


@dataclass(frozen=True)
class Forward:
    """A pass over all tokens, every weight decoded to float32, no cache: to read and to compare, not fast."""

    pieces: dict[str, Callable]
    record: Clock = nullcontext

    def __call__(self, model: Model, ids: Sequence[int]) -> np.ndarray:
        """Return the logits after each of ids, float32 [T, vocab].

        For models of the llama architecture whose positions are not stretched, as Austen and SmolLM2;
        UnsupportedError for others. Raises ValueError for an id outside the vocabulary.
        """
        c, t = model.config, model.transformer
        piece = {name: self._recorded(name, function) for name, function in self.pieces.items()}
        _check_supported(model)
        ids, eps = t.check_ids(ids), c.norm_eps
        angles = piece["rope_angles"](np.arange(len(ids)), c.head_dim, c.rope_theta)  # [T, head_dim / 2]
        turns = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)

        def attention(h, w):  # [T, dim] -> [T, dim]
            return _attend(piece, h, w, c.head_dim, turns) @ w["attn_output"].T

        def feed_forward(h, w):  # [T, dim] -> [T, dim]
            return piece["swiglu"](h @ w["ffn_gate"].T, h @ w["ffn_up"].T) @ w["ffn_down"].T

        layer = with_names(plain(self.pieces["layer_forward"]), rms_norm=piece["rms_norm"])
        layer = self._recorded("layer_forward", layer)
        layers, output = float_weights(model)
        x = t.token_embd.rows(ids)  # [T, dim]
        for w in layers:
            x = layer(x, w, eps, attention, feed_forward)
        return piece["rms_norm"](x, t.output_norm, eps) @ output.T

    def _recorded(self, name, function):
        def run(*arguments, **named):
            with self.record(name):
                return function(*arguments, **named)

        return run

    def generate(self, model: Model, ids: Sequence[int], n: int) -> list[int]:
        """Return the n most likely ids behind ids, by your `greedy`; all tokens run again for each."""
        with tqdm(total=n, desc="your engine", unit=" tokens", delay=2, leave=False) as bar:
            return self.pieces["greedy"](_Again(self, model, bar), list(ids), n)


def _attend(piece, h, w, head_dim, turns):
    """Return what the heads find, float32 [T, n_heads * head_dim], one head after another."""
    q, k, v = (plus(h @ w[n].T, w[f"{n}_bias"]) for n in ("attn_q", "attn_k", "attn_v"))
    q, k, v = (z.reshape(len(h), -1, head_dim) for z in (q, k, v))  # [T, heads, head_dim]
    q, k = (piece["rotate_adjacent"](z, *turns) for z in (q, k))
    group, found = q.shape[1] // k.shape[1], []
    for head in range(q.shape[1]):
        scores = q[:, head] @ k[:, head // group].T * np.float32(head_dim**-0.5)  # [T, T]
        found.append(piece["causal_weights"](scores) @ v[:, head // group])
    return np.concatenate(found, axis=1)


@dataclass
class _Again:
    """In a transformer's place for `greedy`: its cache is a list of ids, which run again each time."""

    forward: Forward
    model: Model
    bar: tqdm

    def new_cache(self, capacity):
        return []

    def next_logits(self, ids, cache):
        cache += [int(i) for i in ids]
        self.bar.update()
        return self.forward(self.model, cache)[-1]


def _check_supported(model):
    c, frequencies = model.config, model.transformer.weights.rope_frequencies
    is_stretched = not np.array_equal(frequencies, rope.frequencies(c.head_dim, c.rope_theta))
    if c.architecture != "llama" or is_stretched or rope.attention_factor(c.rope_scaling) != 1:
        raise b2t.UnsupportedError(
            f"{c.name}: your forward pass is that of llama models whose positions are not stretched"
        )
