"""Token shards: Arrow files that numpy, pandas, polars and Arrow open directly, memory-mapped here.

Columns: key (the picture's), split, captions (list of text), codes (uint16, fixed-size list of
views x grid x grid, in raster order). The schema's metadata holds `views` and `grid`.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dallebaby_cli import files
from dallebaby_cli.errors import BadInput
from dallebaby_cli.store import manifest, shards

PART_ROWS = 8192  # whose codes are in memory at a time


def write_shard(
    path: Path,
    keys: list[str],
    splits: list[str],
    captions: list[list[str]],
    codes: np.ndarray,
) -> None:
    """Write one shard atomically; codes are uint16 (pictures, views, grid, grid)."""
    _, views, grid, _ = codes.shape
    flat = pa.FixedSizeListArray.from_arrays(pa.array(codes.reshape(-1)), views * grid * grid)
    schema = pa.schema(
        [
            ("key", pa.string()),
            ("split", pa.string()),
            ("captions", pa.list_(pa.string())),
            ("codes", flat.type),
        ],
        metadata={"views": str(views), "grid": str(grid)},
    )
    table = pa.table([keys, splits, captions, flat], schema=schema)
    with (
        files.atomic_path(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        writer.write_table(table)


def read_shard(path: Path) -> pa.Table:
    """Memory-map one shard. Raises BadInput if it is not whole."""
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise BadInput(f"{path} is damaged or missing; run `dallebaby encode` again") from error


class Tokens:
    """All token shards of a folder, one row a picture, joined with the pictures' extra captions.

    Hold-out pictures with captions of their own have no others, so that figures stay comparable.
    """

    def __init__(self, folder: Path, extra: Mapping[str, Sequence[str]] | None = None) -> None:
        found = manifest.read(folder)
        assert found is not None, "callers find the folder by its manifest"
        self.folder = folder
        self.name, self.id, self.parents = found.name, found.id, found.parents
        tables = [read_shard(path) for path in sorted(folder.glob("*.arrow"))]
        if sum(t.num_rows for t in tables) != found.counts["pictures"]:
            raise BadInput(f"{folder} lacks shards; run `dallebaby encode {found.name}` again")
        metadata = tables[0].schema.metadata
        self.views_each, self.grid = int(metadata[b"views"]), int(metadata[b"grid"])
        self._table = pa.concat_tables(tables)
        self._captions = self._table["captions"]
        self._extra = extra or {}
        shape = (-1, self.views_each, self.grid**2)
        self._chunks = [c.flatten().to_numpy().reshape(shape) for c in self._table["codes"].chunks]
        self._ends = np.cumsum([len(chunk) for chunk in self._chunks])

    def __len__(self) -> int:
        return self._table.num_rows

    def rows(self, split: str) -> np.ndarray:
        """Rows (int64) of one split, "train" or "holdout"."""
        return np.flatnonzero(pc.equal(self._table["split"], split).to_numpy())

    def views(self, row: int) -> np.ndarray:
        """Codes uint16 (views, grid * grid) of a picture."""
        chunk = int(np.searchsorted(self._ends, row, side="right"))
        return self._chunks[chunk][row - self._ends[chunk]]

    def captions(self, row: int) -> list[str]:
        """Captions of a picture."""
        own: list[str] = self._captions[row].as_py()
        if not self._extra or (own and self._table["split"][row].as_py() == "holdout"):
            return own
        return [*own, *self._extra.get(self._table["key"][row].as_py(), ())]

    def codes(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Codes uint16 (B, grid * grid) of the first view of some rows, a part at a time: all of a
        large dataset's may be more than memory holds."""
        for start in range(0, len(rows), PART_ROWS):
            part = rows[start : start + PART_ROWS]
            chunks = np.searchsorted(self._ends, part, side="right")
            codes = np.empty((len(part), self.grid**2), np.uint16)
            for chunk in np.unique(chunks):
                mine = chunks == chunk
                codes[mine] = self._chunks[chunk][part[mine] - self._ends[chunk], 0]
            yield codes

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
