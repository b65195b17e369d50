"""Sweep: formats x models x texts, a job each, over Dask's workers; what is there is not done again.

    model    format   text       tokens   window   bits   bytes   perplexity   seconds
    a.gguf   Q4_K     held.txt   4000     512      4.92   ...     31.2         12.1

The table is a CSV file, written anew, whole, each time a job is through: a sweep that ended is started again
and has lost the jobs that were running, no more. A job that fails is named and left out; the next sweep tries
it again.

Workers on other machines find the models and texts under the same paths. Needs Dask's `distributed`.
"""

import csv
import io
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from math import prod
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from blocks2tokens.convert import TARGETS, convert
from blocks2tokens.errors import UnsupportedError
from blocks2tokens.files import place_of, write_text
from blocks2tokens.generate import load
from blocks2tokens.jit import cores
from blocks2tokens.perplexity import perplexity

AS_IT_IS = "as-it-is"  # in the place of a format: the file itself
FOUND = ("bits", "bytes", "perplexity", "seconds")


class Job(NamedTuple):
    """What makes a row; together the row's key."""

    model: str
    format: str
    text: str
    tokens: int
    window: int


COLUMNS = (*Job._fields, *FOUND)


def sweep(
    models: Sequence[str | os.PathLike],
    formats: Sequence[str],
    texts: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    scheduler: str | None = None,
    tokens: int = 4000,
    window: int = 512,
) -> dict[Job, str]:
    """Measure every model in every format on every text; return {job: error} of those that failed.

    `out` is the table; jobs whose rows are there are not done again. scheduler: the address of a Dask
    scheduler, such as "tcp://10.0.0.1:8786"; None starts workers here, one for each core. Raises ValueError
    for an unknown format or a file at `out` that is no such table, FileNotFoundError for a missing file,
    UnsupportedError without Dask, OSError where the scheduler does not answer.
    """
    jobs = _jobs(models, formats, texts, tokens, window)
    rows = _rows(Path(out))
    left, failed = [job for job in jobs if job not in rows], {}
    if not left:
        return failed
    write_text(Path(out), _table(rows))  # before minutes are spent on what could not be written
    with _client(scheduler, len(left)) as client, tqdm(total=len(left), desc="sweep", leave=False) as bar:
        for job, found in _results(client, left):
            bar.update()
            if isinstance(found, Exception):
                failed[job] = str(found) or type(found).__name__
                continue
            rows[job] = found
            write_text(Path(out), _table(rows))
    return failed


def measured(job: Job) -> dict[str, float]:
    """Do one job, on whichever machine it is: convert, read the text, and forget the file."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = job.model
        if job.format != AS_IT_IS:
            path = os.path.join(folder, "converted.gguf")
            convert(job.model, path, job.format)
        model = load(path)
        text = Path(job.text).read_text(encoding="utf-8")
        result = perplexity(model, model.tokenizer.encode(text)[: job.tokens], job.window)
        weights = sum(prod(info.shape) for info in model.file.tensors.values())
        nbytes = model.file.nbytes
    seconds = time.perf_counter() - start
    return dict(zip(FOUND, (8 * nbytes / weights, nbytes, result.perplexity, seconds), strict=True))


def _jobs(models, formats, texts, tokens, window) -> list[Job]:
    for name in formats:
        if name not in (*TARGETS, AS_IT_IS):
            raise ValueError(f"format: expected one of {', '.join(TARGETS)}, {AS_IT_IS}, got {name!r}")
    for path in (*models, *texts):
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{path}: no such file")
    names = [[os.path.abspath(path) for path in paths] for paths in (models, texts)]
    return [Job(*job, tokens, window) for job in product(names[0], formats, names[1])]


def _rows(path: Path) -> dict[Job, dict]:
    """Return the rows that are there; ValueError for a file that is no table of a sweep."""
    place = place_of(path, "out")
    if not place.exists():
        return {}
    with open(place, newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        if tuple(table.fieldnames or ()) != COLUMNS:
            raise ValueError(f"{path}: is no table of a sweep: its columns are {table.fieldnames}")
        rows = list(table)
    key = [Job(r["model"], r["format"], r["text"], int(r["tokens"]), int(r["window"])) for r in rows]
    return {job: {name: r[name] for name in FOUND} for job, r in zip(key, rows, strict=True)}


def _table(rows: dict[Job, dict]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([*job, *(found[name] for name in FOUND)] for job, found in rows.items())
    return text.getvalue()


@contextmanager
def _client(scheduler: str | None, n_jobs: int) -> Iterator:
    """Yield a client of a scheduler, or of workers here, each with one thread."""
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise UnsupportedError(f"a sweep needs Dask: pip install distributed ({error})") from None
    if scheduler is not None:
        with Client(scheduler, timeout="10s") as client:
            yield client
        return
    workers, one = min(cores.default(), n_jobs), {cores.VARIABLE: "1"}
    with (
        LocalCluster(workers, threads_per_worker=1, dashboard_address=None, env=one) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _results(client, jobs) -> Iterator[tuple[Job, dict | Exception]]:
    """Yield each job with what it found, or its error, as they get through."""
    from distributed import as_completed

    futures = {client.submit(measured, job, key=f"{job}", pure=False): job for job in jobs}
    for future in as_completed(futures):
        error = future.exception()
        yield futures[future], error if error is not None else future.result()
