"""Image shards: WebDataset tars of square pictures, and an index that reads them in any order.

`NAME-00000.tar` holds KEY.png (or jpg, webp) and KEY.json with `captions`, `caption_sources` (who
wrote each: "human" or "template"), `label`, `source`, `split`, `group` for each picture; KEY is the
beginning of the SHA-256 of the content that it was made from. `index.arrow` has a row a picture:
key, shard (number), offset, size and CRC-32 of the picture's bytes, split, captions and their
sources, label, group; the last batch of a shard has the shard's name and bytes as metadata.
"""

import functools
import hashlib
import json
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import deflate
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from dallebaby_cli import files, names
from dallebaby_cli.errors import BadInput, MissingInput
from dallebaby_cli.store import arrow_files, codec, manifest

INDEX = "index.arrow"
BATCH_ROWS = 8192  # kept in memory at most while writing
BUFFER_BYTES = 1 << 20
OPEN_SHARDS = 32  # files that are kept open; systems allow few
MOST_PX = 8192  # of a picture's side
MOST_TEXT_BYTES = 100_000  # of a caption, a label or a key
TEXT = pa.string()
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.uint32()),
        ("offset", pa.uint64()),
        ("size", pa.uint32()),
        ("crc", pa.uint32()),
        ("split", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("caption_sources", pa.list_(pa.string())),
        ("label", pa.string()),
        ("group", pa.string()),
    ]
)


@dataclass(frozen=True)
class Described:
    """What the shards say of a picture beside its pixels."""

    captions: list[str]
    caption_sources: list[str]
    """who wrote each of the captions: "human" or "template" """
    label: str | None
    source: str
    split: str
    group: str
    """the key of one of its near duplicates, the same for all of them; its own if there is none"""


class ShardWriter:
    """Writes pictures into shards of about `shard_bytes`, in the order that they are added.

    The same pictures make the same bytes. Nothing is atomic here: write to a folder of its own.
    """

    def __init__(self, folder: Path, name: str, suffix: str, shard_bytes: float) -> None:
        folder.mkdir(parents=True)
        self.folder, self.name, self.suffix, self.shard_bytes = folder, name, suffix, shard_bytes
        self.shards: list[Path] = []
        self._tar: BinaryIO | None = None
        self._rows: list[dict[str, Any]] = []
        self._index = (folder / INDEX).open("wb")
        self._batches = pa.ipc.new_file(self._index, SCHEMA)

    def add(self, key: str, picture: bytes, described: Described) -> None:
        """Append one picture, stored as it is."""
        if self._tar is None:
            path = self.folder / f"{self.name}-{len(self.shards):05}.tar"
            self._tar = path.open("wb", BUFFER_BYTES)
            self.shards.append(path)
        about = vars(described)
        offset = self._tar.tell() + tarfile.BLOCKSIZE
        self._tar.write(_member(f"{key}.{self.suffix}", picture))
        self._tar.write(_member(f"{key}.json", _json(about).encode()))
        place = {"shard": len(self.shards) - 1, "offset": offset, "size": len(picture)}
        self._rows.append({"key": key, "crc": deflate.crc32(picture), **place, **about})
        if self._tar.tell() >= self.shard_bytes:
            self._end_shard(self._tar)
        elif len(self._rows) >= BATCH_ROWS:
            self._end_batch()

    def close(self) -> list[Path]:
        """Finish the last shard and the index; return the shards' paths."""
        if self._tar is not None:
            self._end_shard(self._tar)
        self._batches.close()
        os.fsync(self._index.fileno())
        self._index.close()
        return self.shards

    def _end_shard(self, tar: BinaryIO) -> None:
        tar.write(bytes(2 * tarfile.BLOCKSIZE))
        tar.write(bytes(-tar.tell() % tarfile.RECORDSIZE))
        tar.flush()
        os.fsync(tar.fileno())
        self._end_batch({"shard": self.shards[-1].name, "bytes": str(tar.tell())})
        tar.close()
        self._tar = None

    def _end_batch(self, metadata: dict[str, str] | None = None) -> None:
        batch = pa.RecordBatch.from_pylist(self._rows, schema=SCHEMA)
        self._batches.write_batch(batch, custom_metadata=metadata)
        self._rows = []


BLANK = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)
BLANK_SUM = sum(BLANK[:124] + BLANK[136:148] + b" " * 8 + BLANK[156:])  # spaces for itself
_json = json.JSONEncoder(ensure_ascii=False).encode


def _member(name: str, content: bytes) -> bytes:
    """A file in a tar; tarfile takes many times as long, more than all else in a shard."""
    label, size = name.encode(), b"%011o\0" % len(content)
    checksum = b"%06o\0 " % (BLANK_SUM + sum(label) + sum(size))
    padding = bytes(-len(content) % tarfile.BLOCKSIZE)
    start, middle, end = BLANK[len(label) : 124], BLANK[136:148], BLANK[156:]
    return b"".join((label, start, size, middle, checksum, end, content, padding))


class Shards:
    """Random access to a dataset's pictures; safe to read from several threads.

    Raises BadInput if a shard is missing or has another size than when it was written.
    """

    def __init__(self, folder: Path) -> None:
        found = manifest.read(folder)
        if found is None or not found.complete:
            redo = manifest.again(found) if found else "run `dallebaby prep` again"
            raise MissingInput(f"{folder} is not finished; {redo}")
        self.folder, self.name, self.id = folder, found.name, found.id
        self._redo = f"{manifest.again(found)} to make it anew"
        self.image_px: int = found.config.get("image_px", 0)
        self.encoding: str = found.config.get("encoding", "")
        if type(self.image_px) is not int or not 1 <= self.image_px <= MOST_PX:
            raise BadInput(
                f"{folder / 'manifest.json'} says that pictures have {self.image_px!r} px a side; "
                f"{self._redo}"
            )
        try:
            table, self._shards = _read_index(folder / INDEX, found)
        except (FileNotFoundError, ValueError) as error:
            why = "missing" if isinstance(error, FileNotFoundError) else f"damaged ({error})"
            raise BadInput(f"{folder / INDEX} is {why}; {self._redo}") from error
        for name, size in self._shards:
            self._check(folder / name, size)
        self._key, self._captions = table["key"], table["captions"]
        self._split, self._label, self._group = table["split"], table["label"], table["group"]
        self._caption_sources = table["caption_sources"]
        places = [table[name].to_numpy() for name in ("shard", "offset", "size", "crc")]
        shard, offset, size, _ = places
        ends = np.array([end for _, end in self._shards], np.int64)
        if (shard >= len(ends)).any() or (offset > ends[shard] - size).any():
            raise BadInput(f"{folder / INDEX} names places outside the shards; {self._redo}")
        self._places = np.stack(places, axis=1).astype(np.int64)
        # a shard that falls out is closed when no thread reads from it any more
        paths = [str(folder / name) for name, _ in self._shards]
        self._opened = functools.lru_cache(OPEN_SHARDS)(lambda shard: pa.OSFile(paths[shard]))

    def _check(self, path: Path, size: int) -> None:
        if not path.is_file():
            raise BadInput(f"{path} is missing; {self._redo}")
        if (found := path.stat().st_size) != size:
            raise BadInput(f"{path} is damaged ({found:,} bytes of {size:,}); {self._redo}")

    def __len__(self) -> int:
        return len(self._key)

    def rows(self, split: str) -> np.ndarray:
        """Rows (int64) of one split, "train" or "holdout"."""
        return np.flatnonzero(pc.equal(self._split, split).to_numpy())

    def splits(self, rows: np.ndarray) -> list[str]:
        """The split of each of some rows."""
        return self._split.take(rows).to_pylist()

    def image(self, row: int) -> np.ndarray:
        """A picture, uint8 RGB (image_px, image_px, 3). Raises BadInput if it cannot be."""
        shard, offset, size, crc = self._places[row].tolist()
        try:
            content = self._opened(shard).read_at(size, offset)
        except OSError as error:
            raise self._refused(row, f"cannot be read ({error})") from error
        if deflate.crc32(content) != crc:
            raise self._refused(row, "is damaged")
        try:
            picture = codec.read_stored(content)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise self._refused(row, f"is no PNG, JPEG or WebP ({error})") from error
        if picture.shape != (self.image_px, self.image_px, 3):
            height, width, _ = picture.shape
            raise self._refused(row, f"is {width} x {height} and not {self.image_px} px a side")
        return picture

    def _refused(self, row: int, why: str) -> BadInput:
        shard = self.folder / self._shards[self._places[row, 0]][0]
        return BadInput(
            f"{shard}: picture {self.key(row)} {why}; remove the shard and {self._redo}"
        )

    def captions(self, row: int) -> list[str]:
        """Captions of a picture."""
        return self._captions[row].as_py()

    def caption_sources(self, row: int) -> list[str]:
        """Who wrote each of a picture's captions: "human" or "template"."""
        return self._caption_sources[row].as_py()

    def label(self, row: int) -> str | None:
        """What the dataset says is in a picture, in a word or a few."""
        return self._label[row].as_py()

    def labels(self, rows: np.ndarray) -> list[str | None]:
        """The label of each of some rows."""
        return self._label.take(rows).to_pylist()

    def key(self, row: int) -> str:
        """The name of a picture: the beginning of its content's hash, in hex."""
        return self._key[row].as_py()

    def identities(self) -> pa.Table:
        """Key, split and group of near duplicates of every row."""
        return pa.table({"key": self._key, "split": self._split, "group": self._group})


def identities(folder: Path, identity: str) -> pa.Table | None:
    """Those of a dataset whose pictures need not be there any more; None if its index is not that
    of the dataset with this id."""
    try:
        found = manifest.read(folder)
        if found is None or not found.complete or found.id != identity:
            return None
        return _read_index(folder / INDEX, found)[0].select(["key", "split", "group"])
    except (BadInput, FileNotFoundError, ValueError):
        return None


def _read_index(path: Path, found: manifest.Manifest) -> tuple[pa.Table, list[tuple[str, int]]]:
    """The rows, and name and size of each shard. Raises BadInput, FileNotFoundError or ValueError
    if it is not as it was written."""
    content = arrow_files.read(path)
    expected = found.hashes.get(INDEX)  # older manifests have none
    if expected and hashlib.sha256(content).hexdigest() != expected:
        raise ValueError("it is not as it was written")
    batches = arrow_files.batches(content, SCHEMA.equals)
    shards = []
    for batch, metadata in batches:
        _check_rows(batch)
        if metadata:
            name, size = metadata.get(b"shard", b"").decode(), int(metadata.get(b"bytes", b""))
            if names.unsafe(name) or "/" in name:
                raise ValueError(f"it names a shard {name!r}")
            shards.append((name, size))
    return pa.Table.from_batches([batch for batch, _ in batches], SCHEMA), shards


def _check_rows(batch: pa.RecordBatch) -> None:
    """Raise ValueError where rows lack something or say what no picture can have."""
    if any(arrow_files.has_nulls(batch[c]) for c in SCHEMA.names if c != "label"):
        raise ValueError("values are missing")
    known = pc.is_in(batch["split"], pa.array(["train", "holdout"]))
    if not pc.all(known, min_count=0).as_py():  # a shard's last batch may have no rows
        raise ValueError("it names other splits than train and holdout")
    lengths = [pc.list_value_length(batch[name]) for name in ("captions", "caption_sources")]
    if not lengths[0].equals(lengths[1]):
        raise ValueError("it has more captions than writers of them, or fewer")
    texts = (column for column in batch.columns if column.type in (TEXT, pa.list_(TEXT)))
    if max(map(arrow_files.longest, texts)) > MOST_TEXT_BYTES:
        raise ValueError(f"a text in it has over {MOST_TEXT_BYTES:,} bytes")


def content_id(shards: list[Path]) -> str:
    """The id of a dataset: a hash of its shards' bytes."""
    return files.hash_of(files.sha256_file(path) for path in shards)
