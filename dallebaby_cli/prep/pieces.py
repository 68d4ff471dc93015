"""Pieces: a few hundred records at a time become one Arrow file of decoded and encoded pictures.

Workers make pieces in any order; what is in a piece depends on its records and the config alone.
A run that was killed goes on with the pieces that are not there or, after a power cut, not whole.
"""

import ctypes
import hashlib
import itertools
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import deflate
import numpy as np
import pyarrow as pa

from dallebaby_cli import files
from dallebaby_cli.config import PrepConfig
from dallebaby_cli.errors import BadInput, DallebabyError
from dallebaby_cli.prep import cluster, duplicates, images
from dallebaby_cli.prep.readers import Drawn, Record, Records
from dallebaby_cli.prep.rejected import Rejected
from dallebaby_cli.progress import Progress, Report
from dallebaby_cli.store import arrow_files, codec
from dallebaby_cli.text import clean, one_line

RECORDS = 256  # in one piece: what a killed worker does again at most
PR_SET_PDEATHSIG, SIGKILL = 1, 9  # on Linux
MARK = b"dallebaby piece"
LINE_BYTES = 64  # tables begin at multiples of this
MOST_WORKERS = 61 if os.name == "nt" else 4096  # Windows cannot wait for more

SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("reason", pa.string()),  # null if accepted; the columns below are null if rejected
        ("detail", pa.string()),
        ("hash", pa.binary(32)),
        ("picture", pa.binary()),
        ("side", pa.int32()),  # in pixels, of what was made square
        ("print", pa.binary(duplicates.PRINT_BYTES)),  # null too if there is none
        ("captions", pa.list_(pa.string())),
        ("caption_sources", pa.list_(pa.string())),
        ("label", pa.string()),
        ("split", pa.string()),
    ]
)
BEFORE = SCHEMA.remove(SCHEMA.get_field_index("side"))  # of older versions


Wait = Callable[[], None]  # returns when a piece is there, or raises what went wrong


@dataclass(frozen=True)
class Task:
    """One piece to make."""

    path: Path
    records: tuple[Record, ...]
    config: PrepConfig
    needs: Path | None = None
    """the folder that the records are read from"""


def make_all(
    rows: Records, source: Path | None, folder: Path, config: PrepConfig, report: Report
) -> list[Path]:
    """Make the pieces that are not in `folder` yet; return the paths of all, in order.

    `source` is where the records are read from. With a limit, no more pieces are made than it
    takes.
    """
    folder.mkdir(exist_ok=True)
    workers = min(config.workers or os.cpu_count() or 1, MOST_WORKERS)
    expected = config.limit or rows.count
    if expected is not None:
        workers = min(workers, -(-expected // RECORDS))
    line = _Line(config.limit, rows.count, report)
    with _workers(config.where, workers) as (start, workers):
        for number in itertools.count():
            records = tuple(itertools.islice(rows.rows, RECORDS))
            while line.must_wait(2 * workers):
                line.collect()
            if not records or line.enough:
                break
            path = folder / f"{number:06}.arrow"
            there = is_whole(path, len(records))
            wait = (lambda: None) if there else start(Task(path, records, config, source))
            line.waiting.append((path, len(records), wait))
        while line.waiting:
            line.collect()
    return line.paths


@dataclass
class _Line:
    """Pieces in the making, in order, and what came of those before them."""

    limit: int | None
    count: int | None
    report: Report
    waiting: deque[tuple[Path, int, Wait]] = field(default_factory=deque)
    paths: list[Path] = field(default_factory=list)
    rows: int = 0
    accepted: set[bytes] = field(default_factory=set)  # hashes; kept only where there is a limit

    @property
    def enough(self) -> bool:
        return self.limit is not None and len(self.accepted) >= self.limit

    def must_wait(self, most: int) -> bool:
        """Whether starting another piece is too early, or might turn out needless."""
        coming = sum(records for _, records, _ in self.waiting)
        needless = self.limit is not None and len(self.accepted) + coming >= self.limit
        return bool(self.waiting) and (needless or len(self.waiting) >= most)

    def collect(self) -> None:
        """Wait for the first piece in line."""
        path, records, wait = self.waiting.popleft()
        wait()
        self.paths.append(path)
        self.rows += records
        done = self.rows
        if self.limit is not None:
            self.accepted.update(h for h in read(path)["hash"].to_pylist() if h)
            done = min(len(self.accepted), self.limit)
        # rows may be more than pictures: what else is left out is named, too
        count = None if self.count is None else max(self.count, done)
        self.report(Progress("pictures", done, self.limit or count, "images"))


@contextmanager
def _workers(where: str, count: int) -> Iterator[tuple[Callable[[Task], Wait], int]]:
    """A way to start tasks, and how many are done at once: on a cluster, in `count` processes, or
    with 1 in this one when it is waited for."""
    if where != "local":
        with cluster.connect(where) as found:
            yield partial(found.start, content), found.processors
        return
    if count <= 1:
        yield (lambda task: partial(make, task)), 1
        return
    spawn = multiprocessing.get_context("spawn")  # fork would copy the threads' locks of the skin
    with ProcessPoolExecutor(count, spawn, initializer=end_with_parent) as pool:
        try:
            yield (lambda task: pool.submit(make, task).result), count
        except BrokenProcessPool as error:
            raise DallebabyError(
                "a worker process ended suddenly, perhaps for lack of memory; run the same command "
                "with fewer --workers to continue"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def end_with_parent() -> None:
    """Start a worker process: leave Ctrl-C to the parent, and do not outlive it if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":  # even in the midst of decoding, whose end the thread waits for
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL)
    parent = multiprocessing.parent_process()
    assert parent is not None, "only worker processes call this"

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def make(task: Task) -> None:
    """Make one piece and write it atomically."""
    files.write_bytes(task.path, content(task))


def content(task: Task) -> bytes:
    """What the file of one piece holds: a line with the checksum of the rest, and a table."""
    rows = [_row(record, task.config) for record in task.records]
    out = pa.BufferOutputStream()
    with pa.ipc.new_file(out, SCHEMA) as writer:
        writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=SCHEMA))
    table = out.getvalue()
    return _first_line(table) + table.to_pybytes()


def _first_line(table: pa.Buffer) -> bytes:
    line = b"%s %08x %d" % (MARK, deflate.crc32(table), table.size)
    return line.ljust(LINE_BYTES - 1) + b"\n"


def read(path: Path) -> pa.Table:
    """A piece, memory-mapped."""
    with pa.memory_map(str(path)) as mapped:
        whole = mapped.read_buffer()
    return pa.ipc.open_file(whole[_start(whole) :]).read_all()


def _start(whole: pa.Buffer) -> int:
    """Where the table begins: pieces of older versions have no line before it."""
    return LINE_BYTES if whole[: len(MARK)] == MARK else 0


def is_whole(path: Path, rows: int) -> bool:
    """Whether a piece is there, with so many rows, as it was written."""
    try:
        whole = arrow_files.read(path)
        start = _start(whole)
        if start and whole[:start].to_pybytes() != _first_line(whole[start:]):
            return False
        batches = arrow_files.batches(whole[start:], (SCHEMA, BEFORE).__contains__)
    except (FileNotFoundError, BadInput, ValueError):
        return False
    return sum(batch.num_rows for batch, _ in batches) == rows


def _row(record: Record, config: PrepConfig) -> dict[str, Any]:
    file = clean(record.file)
    try:
        content = _read(record)
        captions, by = record.captions, record.written_by
        compared = config.near_duplicates and not isinstance(content, Drawn)
        if isinstance(content, Drawn):
            (content, captions), by = content, "template"
        if isinstance(content, bytes):
            digest = hashlib.sha256(content)
            pixels = images.decode(content, config.image_px, config.fit)
        else:
            digest = hashlib.sha256(repr(content.shape).encode())
            digest.update(np.ascontiguousarray(content).data)
            pixels = images.square(content, config.image_px, config.fit)
        side = images.side(content, config.fit)
    except Rejected as rejected:
        return {"file": file, "reason": rejected.reason, "detail": one_line(rejected.detail)}
    return {
        "file": file,
        "hash": digest.digest(),
        "picture": codec.encode(pixels, config),
        "side": side,
        "print": duplicates.fingerprint(pixels) if compared else None,
        "captions": [one_line(text) for text in captions],
        "caption_sources": list(by) if isinstance(by, tuple) else [by] * len(captions),
        "label": one_line(record.label) if record.label else None,
        "split": record.split,
    }


def _read(record: Record) -> bytes | np.ndarray | Drawn:
    try:
        return record.read()
    except Rejected:
        raise
    except FileNotFoundError:
        raise Rejected("unreadable", "the link leads nowhere, or the file is gone") from None
    except Exception as error:  # disks and archives fail in many ways; the next file may be fine
        raise Rejected("unreadable", f"{type(error).__name__}: {error}") from None
