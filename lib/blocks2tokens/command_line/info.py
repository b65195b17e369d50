"""info: what is in a GGUF file, whether or not the engine can run it."""

from collections.abc import Collection, Mapping
from math import prod

import numpy as np

import blocks2tokens as b2t
from blocks2tokens.command_line.answer import counted, load
from blocks2tokens.command_line.notice import printable
from blocks2tokens.gguf_file import TensorInfo, type_of

SIZES = {  # what it is called here -> its key, behind the architecture's name
    "layers": "block_count",
    "width": "embedding_length",
    "feed-forward width": "feed_forward_length",
    "heads": "attention.head_count",
    "key-value heads": "attention.head_count_kv",
    "context": "context_length",
}
WIDTH = 64  # characters that a value may take


def run(args) -> None:
    """Print what is in a file: the model, the formats of its weights and, if asked for, all the rest."""
    file = b2t.GGUFFile(args.model)
    print_facts(model_facts(file) | engine_facts(file))
    print()
    print_formats(file.tensors.values())
    if args.tensors:
        print()
        print_tensors(file.tensors.values())
    if args.metadata:
        print()
        print_facts({printable(key): short(value) for key, value in file.metadata.items()})


def model_facts(file: b2t.GGUFFile) -> dict[str, str]:
    """Return what the file says of its model, {what: value}; sizes only as far as they are stated."""
    metadata = file.metadata
    architecture = metadata.get("general.architecture", "not stated")
    sizes = {what: metadata.get(f"{architecture}.{key}") for what, key in SIZES.items()}
    parts = f" and {counted(len(file.paths) - 1, 'more part')}" if len(file.paths) > 1 else ""
    return {
        "file": f"{printable(file.path.name)}{parts}, {file.nbytes:,} bytes, GGUF {file.version}",
        "name": short(metadata.get("general.name", "not stated")),
        "architecture": short(architecture),
        **{what: short(size) for what, size in sizes.items() if size is not None},
        "vocabulary": vocabulary(metadata),
        "chat template": "yes" if isinstance(metadata.get("tokenizer.chat_template"), str) else "no",
    }


def vocabulary(metadata: Mapping) -> str:
    """Return the size of the vocabulary and the kind of its tokenizer."""
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list):
        return "none"
    kind = short(metadata.get("tokenizer.ggml.model", "not stated"))
    pre = short(metadata.get("tokenizer.ggml.pre", "not stated"))
    return f"{counted(len(tokens))}, tokenizer {kind}, pre-tokenizer {pre}"


def engine_facts(file: b2t.GGUFFile) -> dict[str, str]:
    """Return whether the engine runs the model and, if so, how much memory its KV cache takes."""
    try:
        model = load(file.path)
    except ValueError as error:
        return {"runs here": f"no: {printable(str(error).removeprefix(f'{file.path}: '))}"}
    per_token = model.transformer.new_cache(1).nbytes
    whole = per_token * model.config.context_length
    return {
        "KV cache": f"{per_token:,} bytes per token, {whole:,} for the whole context",
        "runs here": "yes",
    }


def print_formats(tensors: Collection[TensorInfo]) -> None:
    """Print how many tensors, weights and bytes are in each format."""
    names = {info.ggml_type: type_of(info.ggml_type).name for info in tensors}
    groups = {name: [t for t in tensors if t.ggml_type == kind] for kind, name in names.items()}
    if len(groups) != 1:
        groups["all"] = tensors
    print(f"{'format':8}{'tensors':>8}{'weights':>16}{'bytes':>17}{'bits per weight':>18}")
    for name, group in groups.items():
        weights, n_bytes = sum(prod(t.shape) for t in group), sum(t.nbytes for t in group)
        bits = 8 * n_bytes / max(1, weights)
        print(f"{name:8}{len(group):>8}{weights:>16,}{n_bytes:>17,}{bits:>18.2f}")


def print_tensors(tensors: Collection[TensorInfo]) -> None:
    """Print format, shape (out x in, for a matrix) and bytes of each tensor."""
    width = max((len(printable(info.name)) for info in tensors), default=0)
    print(f"{'tensor':{width}}  {'format':8}{'shape':>16}{'bytes':>17}")
    for info in tensors:
        name, fmt = printable(info.name), type_of(info.ggml_type).name
        print(f"{name:{width}}  {fmt:8}{' x '.join(map(str, info.shape)):>16}{info.nbytes:>17,}")


def print_facts(facts: Mapping[str, str]) -> None:
    """Print names and what is known by them, in two columns."""
    width = max(map(len, facts), default=0)
    for name, fact in facts.items():
        print(f"{name:{width}}  {fact}")


def short(value) -> str:
    """Return a value of the metadata on one line, cut where it would be too long.

    >>> short(8192), short("Austen"), short([1, 2, 3]), short("a\\nb")
    ('8,192', 'Austen', '3 values: 1, 2, 3', 'a\\\\nb')
    """
    if isinstance(value, list | np.ndarray):
        first = value[:WIDTH] if isinstance(value, list) else value[:WIDTH].tolist()
        text = f"{counted(len(value), 'value')}: {str(first)[1:-1]}"
    else:
        text = f"{value:,}" if type(value) is int else str(value)
    text = printable(text[: WIDTH + 1])
    return text if len(text) <= WIDTH else text[: WIDTH - 3] + "..."
