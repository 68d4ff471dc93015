"""Token shards: Arrow files that numpy, pandas, polars and Arrow open directly. Here the codes stay
on disk and are read where they are asked for; keys, splits and captions are in memory.

Columns: key (the picture's), split, captions (list of text), codes (uint16, fixed-size list of
views x grid x grid, in raster order). The schema's metadata holds `views` and `grid`. The folder's
id is the hash of the shards' hashes, which its manifest names.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dallebaby_cli import files
from dallebaby_cli.errors import BadInput, Mismatch
from dallebaby_cli.store import arrow_files, manifest, shards

PART_ROWS = 8192  # whose codes are in memory at a time
OPEN_SHARDS = 32  # files that are kept open; systems allow few
MOST_CAPTION_BYTES = 100_000
CODE = np.dtype("<u2")
TEXT = ["key", "split", "captions"]


def write_shard(
    path: Path,
    keys: list[str],
    splits: list[str],
    captions: list[list[str]],
    codes: np.ndarray,
) -> None:
    """Write one shard atomically; codes are uint16 (pictures, views, grid, grid)."""
    _, views, grid, _ = codes.shape
    schema = _schema(views, grid)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(codes.reshape(-1)), views * grid * grid)
    table = pa.table([keys, splits, captions, flat], schema=schema)
    with (
        files.atomic_path(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        writer.write_table(table)


def _schema(views: int, grid: int) -> pa.Schema:
    columns = [
        ("key", pa.string()),
        ("split", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("codes", pa.list_(pa.uint16(), views * grid * grid)),
    ]
    return pa.schema(columns, metadata={"views": str(views), "grid": str(grid)})


@dataclass(frozen=True)
class _Part:
    """The rows of one batch of a shard."""

    path: Path
    place: int
    """of their codes in the file, in bytes"""
    text: pa.RecordBatch
    """their other columns"""
    views: int
    grid: int
    highest: int
    """of their codes"""


def read_shard(path: Path, redo: str = "run `dallebaby encode` again") -> list[_Part]:
    """What one shard holds but for its codes, every byte of it checked. Raises BadInput that ends
    with what to do."""
    try:
        content = arrow_files.read(path)
        found = arrow_files.batches(content, _fits)
        return [_part(path, content, batch, *_shape(batch.schema)) for batch, _ in found]
    except (FileNotFoundError, ValueError) as error:
        why = "missing" if isinstance(error, FileNotFoundError) else f"damaged ({error})"
        raise BadInput(f"{path} is {why}; {redo}") from error


def holds(path: Path, keys: list[str], views: int, grid: int, codes: int) -> bool:
    """Whether a shard is whole and has so many views of just those pictures, by an image tokenizer
    of so many codes."""
    try:
        parts = read_shard(path)
    except BadInput:
        return False
    shapes = {(part.views, part.grid) for part in parts}
    found = [key for part in parts for key in part.text["key"].to_pylist()]
    return found == keys and shapes == {(views, grid)} and all(p.highest < codes for p in parts)


def _fits(schema: pa.Schema) -> bool:
    return bool(schema.equals(_schema(*_shape(schema))))


def _shape(schema: pa.Schema) -> tuple[int, int]:
    """Views and grid that a shard's metadata holds. Raises ValueError."""
    metadata = schema.metadata or {}
    views, grid = (int(metadata.get(name, b"")) for name in (b"views", b"grid"))
    if not (views >= 1 and 1 <= grid <= 1024 and views * grid * grid < 2**31):
        raise ValueError(f"it has {views} views of {grid} x {grid} codes")
    return views, grid


def _part(path: Path, content: pa.Buffer, batch: pa.RecordBatch, views: int, grid: int) -> _Part:
    if any(map(arrow_files.has_nulls, batch.columns)) or batch["codes"].flatten().null_count:
        raise ValueError("values are missing")
    if not pc.all(pc.is_in(batch["split"], pa.array(["train", "holdout"])), min_count=0).as_py():
        raise ValueError("it names other splits than train and holdout")
    if arrow_files.longest(batch["captions"]) > MOST_CAPTION_BYTES:
        raise ValueError(f"a caption has over {MOST_CAPTION_BYTES:,} bytes")
    codes = batch["codes"].flatten()
    highest = pc.max(codes).as_py() or 0
    text = batch.select(TEXT).take(pa.array(np.arange(len(batch))))  # a copy, without the codes
    return _Part(path, arrow_files.place_in(content, codes), text, views, grid, highest)


class Tokens:
    """All token shards of a folder, one row a picture, joined with the pictures' extra captions.

    Hold-out pictures with captions of their own have no others, so that figures stay comparable.
    Raises BadInput if a shard is not as it was written.
    """

    def __init__(self, folder: Path, extra: Mapping[str, Sequence[str]] | None = None) -> None:
        found = manifest.read(folder)
        assert found is not None, "callers find the folder by its manifest"
        self.folder = folder
        self.name, self.id, self.parents = found.name, found.id, found.parents
        self._redo = manifest.again(found)
        paths = _as_written(folder, found)
        self._parts = [part for path in paths for part in read_shard(path, self._redo)]
        shapes = {(part.views, part.grid) for part in self._parts}
        self._table = pa.Table.from_batches([part.text for part in self._parts])
        if len(shapes) != 1 or self._table.num_rows != found.counts.get("pictures"):
            raise BadInput(f"{folder} lacks shards; {self._redo}")
        ((self.views_each, self.grid),) = shapes
        self._captions = self._table["captions"]
        self._extra = extra or {}
        self._ends = np.cumsum([len(part.text) for part in self._parts])
        # an opened file that falls out is closed when nobody reads from it any more
        self._opened = functools.lru_cache(OPEN_SHARDS)(lambda path: pa.OSFile(str(path)))

    def require(self, codes: int, grid: int) -> None:
        """Raise Mismatch unless an image tokenizer of so many codes on such a grid can have made
        these."""
        highest = max(part.highest for part in self._parts)
        if highest >= codes or grid != self.grid:
            raise Mismatch(
                f"{self.folder} holds codes up to {highest} on a grid of {self.grid}, and the "
                f"image tokenizer has {codes} on {grid}; {self._redo}"
            )

    def __len__(self) -> int:
        return self._table.num_rows

    def rows(self, split: str) -> np.ndarray:
        """Rows (int64) of one split, "train" or "holdout"."""
        return np.flatnonzero(pc.equal(self._table["split"], split).to_numpy())

    def views(self, row: int) -> np.ndarray:
        """Codes uint16 (views, grid * grid) of a picture."""
        part = int(np.searchsorted(self._ends, row, side="right"))
        inside = row - int(self._ends[part]) + len(self._parts[part].text)
        return self._read(self._parts[part], inside, inside + 1)[0]

    def captions(self, row: int) -> list[str]:
        """Captions of a picture."""
        own: list[str] = self._captions[row].as_py()
        if not self._extra or (own and self._table["split"][row].as_py() == "holdout"):
            return own
        return [*own, *self._extra.get(self._table["key"][row].as_py(), ())]

    def codes(self, rows: np.ndarray, *, every_view: bool = False) -> Iterator[np.ndarray]:
        """Codes uint16 (B, grid * grid) of the first view of some rows, or of one view after the
        other, some thousands at a time: all of a large dataset's may be more than memory holds."""
        views = self.views_each if every_view else 1
        step = max(PART_ROWS // views, 1)
        for start in range(0, len(rows), step):
            wanted = rows[start : start + step]
            parts = np.searchsorted(self._ends, wanted, side="right")
            codes = np.empty((len(wanted), views, self.grid**2), np.uint16)
            for number in np.unique(parts):
                part, mine = self._parts[number], parts == number
                inside = wanted[mine] - self._ends[number] + len(part.text)
                first, last = int(inside.min()), int(inside.max())
                codes[mine] = self._read(part, first, last + 1)[inside - first, :views]
            yield codes.reshape(-1, self.grid**2)

    def _read(self, part: _Part, start: int, stop: int) -> np.ndarray:
        """Codes uint16 (rows, views, grid * grid) of rows [start, stop) of a part."""
        shape = (stop - start, self.views_each, self.grid**2)
        row_bytes = self.views_each * self.grid**2 * CODE.itemsize
        place, size = part.place + start * row_bytes, shape[0] * row_bytes
        try:
            content = self._opened(part.path).read_at(size, place)
        except OSError as error:
            raise BadInput(f"{part.path} cannot be read ({error}); {self._redo}") from error
        if len(content) < size:
            raise BadInput(f"{part.path} has become shorter while it is read; {self._redo}")
        return np.frombuffer(content, CODE).reshape(shape)

    def identities(self) -> pa.Table:
        """Key, split and group of near duplicates (as the pictures have it; if those are gone, each
        is a group of its own) of every row."""
        keys, split = self._table["key"], self._table["split"]
        known = self._pictures()
        groups = keys
        if known is not None:
            places = pc.index_in(keys, known["key"])
            groups = pc.coalesce(known["group"].take(places), keys)
        return pa.table({"key": keys, "split": split, "group": groups})

    @property
    def knows_near_duplicates(self) -> bool:
        """Whether the pictures are still there to say which of them are nearly the same."""
        return self._pictures() is not None

    def _pictures(self) -> pa.Table | None:
        home = self.folder.parent.parent
        name, identity = next(p for p in self.parents.items() if p[0].startswith("images/"))
        return shards.identities(home / name, identity)


def _as_written(folder: Path, found: manifest.Manifest) -> list[Path]:
    """The shards' paths. Raises BadInput unless they hold what they did when the manifest was
    written."""
    redo = manifest.again(found)
    paths = sorted(folder.glob("*.arrow"))
    if found.hashes:
        paths = [folder / name for name in found.hashes]
    lost = [path.name for path in paths if not path.exists()]
    if lost or not paths:
        raise BadInput(f"{folder} lacks shards ({', '.join(lost[:3]) or 'all'}); {redo}")
    hashes = files.hashes(paths)
    if files.hash_of(hashes.values()) != found.id:
        changed = [name for name, digest in hashes.items() if found.hashes.get(name) != digest]
        which = folder / changed[0] if found.hashes and changed else f"a shard of {folder}"
        raise BadInput(f"{which} is not as it was written (damaged or swapped); {redo}")
    return paths
