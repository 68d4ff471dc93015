"""Shards: what is written comes back, in any order, for us and for other tar readers."""

import dataclasses
import json
import tarfile
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dallebaby_cli import files
from dallebaby_cli.config import PrepConfig
from dallebaby_cli.errors import BadInput, MissingInput
from dallebaby_cli.store import codec, manifest
from dallebaby_cli.store import shards as sharding
from dallebaby_cli.store.manifest import Manifest
from dallebaby_cli.store.shards import Described, Shards, ShardWriter

PX = 8


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (PX, PX, 3), dtype=np.uint8)


def write(folder: Path, rows: list[Described], shard_bytes: float = 1e8) -> list[Path]:
    """Shards as `prep` leaves them; picture i has the key of 16 hex digits of i."""
    writer = ShardWriter(folder, "test", "png", shard_bytes)
    for number, row in enumerate(rows):
        writer.add(f"{number:016x}", codec.encode(picture(number), PrepConfig()), row)
    paths = writer.close()
    config = {"image_px": PX, "encoding": "png"}
    made = Manifest(kind="images", name="test", id="1", complete=True, config=config)
    manifest.write(folder, made)
    return paths


texts = st.text(st.characters(blacklist_categories=["Cs"]), max_size=20)
written = st.lists(st.tuples(texts, texts), max_size=3)


def describe(captions: list[tuple[str, str]], **about: Any) -> Described:
    return Described([text for text, _ in captions], [by for _, by in captions], **about)


described = st.builds(
    describe,
    captions=written,
    label=st.none() | texts,
    source=texts,
    split=st.sampled_from(["train", "holdout"]),
    group=texts,
)


def test_files_are_closed_with_the_last_use(tmp_path: Path) -> None:
    """At once: Windows neither replaces nor removes a folder with files that are open."""
    write(tmp_path / "images", [Described([], [], None, "here", "train", "x")])
    shards = Shards(tmp_path / "images")
    shards.image(0)
    opened = weakref.ref(shards._opened(0))
    del shards
    assert opened() is None


def test_as_many_pictures_as_a_batch_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last batch of their shard, which names it, has no rows then."""
    monkeypatch.setattr(sharding, "BATCH_ROWS", 3)
    row = Described(["a cat"], ["human"], "cat", "here", "train", "x")
    write(tmp_path / "images", [row] * 6)
    shards = Shards(tmp_path / "images")
    assert len(shards) == 6
    assert np.array_equal(shards.image(5), picture(5))


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(described, min_size=1, max_size=20), shard_bytes=st.integers(1, 30_000))
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Described], shard_bytes: int
) -> None:
    folder = tmp_path_factory.mktemp("shards") / "images"
    paths = write(folder, rows, shard_bytes)
    shards = Shards(folder)
    assert len(shards) == len(rows) and shards.image_px == PX
    for row, expected in reversed(list(enumerate(rows))):
        assert np.array_equal(shards.image(row), picture(row))
        assert shards.captions(row) == expected.captions
        assert shards.caption_sources(row) == expected.caption_sources
        assert shards.label(row) == expected.label
        assert shards.key(row) == f"{row:016x}"
    for split in ("train", "holdout"):
        of_split = [i for i, row in enumerate(rows) if row.split == split]
        assert shards.rows(split).tolist() == of_split
    assert shards.splits(np.arange(len(rows))) == [row.split for row in rows]

    members: dict[str, bytes] = {}
    for path in paths:
        with tarfile.open(path) as tar:
            members |= {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
    assert len(members) == 2 * len(rows)
    for row, expected in enumerate(rows):
        assert json.loads(members[f"{row:016x}.json"]) == vars(expected)
        pixels = codec.read_stored(members[f"{row:016x}.png"])
        assert np.array_equal(pixels, picture(row))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [
        Described([f"picture {i}"], ["human"], None, f"{i}.png", "train", "") for i in range(100)
    ]
    write(tmp_path / "test", rows, 20_000)
    return tmp_path / "test"


def test_index_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding, "BATCH_ROWS", 7)
    rows = [Described([str(i)], ["human"], None, "", "train", "") for i in range(50)]
    for shard_bytes in (1e8, 20_000):
        folder = tmp_path / str(shard_bytes)
        write(folder, rows, shard_bytes)
        shards = Shards(folder)
        assert [shards.captions(row) for row in range(50)] == [[str(row)] for row in range(50)]
        assert np.array_equal(shards.image(49), picture(49))


def test_threads_read_at_once(folder: Path) -> None:
    shards = Shards(folder)
    wrong: list[int] = []

    def read(offset: int) -> None:
        for i in range(100):
            row = (i * 37 + offset) % 100
            if not np.array_equal(shards.image(row), picture(row)):
                wrong.append(row)

    threads = [threading.Thread(target=read, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_truncated_or_missing_shard(folder: Path) -> None:
    shard = folder / "test-00001.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1000])
    with pytest.raises(BadInput, match=r"test-00001\.tar is damaged .*dallebaby prep test"):
        Shards(folder)
    shard.unlink()
    with pytest.raises(BadInput, match=r"test-00001\.tar is missing"):
        Shards(folder)
    shard.write_bytes(whole)
    assert len(Shards(folder)) == 100


def test_damaged_index(folder: Path) -> None:
    index = folder / "index.arrow"
    index.write_bytes(index.read_bytes()[:-100])
    with pytest.raises(BadInput, match=r"index\.arrow is damaged"):
        Shards(folder)


@pytest.mark.parametrize(
    ("column", "value"), [("shard", 99), ("offset", 2**63), ("size", 2**31), ("offset", 10**6)]
)
def test_an_index_that_points_elsewhere(folder: Path, column: str, value: int) -> None:
    index = folder / "index.arrow"
    reader = pa.ipc.open_file(pa.BufferReader(index.read_bytes()))
    batches = [reader.get_batch_with_custom_metadata(i) for i in range(reader.num_record_batches)]
    place, kind = reader.schema.get_field_index(column), reader.schema.field(column).type
    with pa.ipc.new_file(str(index), reader.schema) as writer:
        for batch, metadata in batches:
            forged = batch.set_column(place, column, pa.array([value] * len(batch), kind))
            writer.write_batch(forged, custom_metadata=metadata)
    with pytest.raises(BadInput, match=r"index\.arrow names places outside the shards; run"):
        Shards(folder)


def test_damaged_picture(folder: Path) -> None:
    shard = folder / "test-00000.tar"
    hurt = bytearray(shard.read_bytes())
    hurt[512 + 70] ^= 1
    shard.write_bytes(hurt)
    shards = Shards(folder)
    with pytest.raises(BadInput, match=r"test-00000\.tar: picture 0{16} is damaged"):
        shards.image(0)
    assert np.array_equal(shards.image(1), picture(1))
    shard.unlink()
    assert np.array_equal(shards.image(1), picture(1)), "it is open"
    with pytest.raises(
        BadInput, match=r"test-00000\.tar: picture 0{16} cannot be read \(.*No such"
    ):
        shards._opened.cache_clear()
        shards.image(0)


def test_unfinished(tmp_path: Path) -> None:
    manifest.write(tmp_path, Manifest(kind="images", name="test"))
    with pytest.raises(MissingInput, match="not finished"):
        Shards(tmp_path)


def test_an_index_that_is_not_as_it_was_written(folder: Path) -> None:
    index = folder / "index.arrow"
    about = manifest.read(folder)
    assert about
    manifest.write(folder, dataclasses.replace(about, hashes=files.hashes([index])))
    assert Shards(folder).captions(3) == ["picture 3"]
    index.write_bytes(index.read_bytes().replace(b"picture 3", b"picture X"))  # valid, and wrong
    with pytest.raises(BadInput, match=r"index\.arrow is damaged \(it is not as it was written\)"):
        Shards(folder)
    assert sharding.identities(folder, "1") is None


@pytest.mark.parametrize(
    ("column", "values", "why"),
    [
        ("split", ["test"], "names other splits"),
        ("key", [None], "values are missing"),
        ("captions", [["a", None]], "values are missing"),
        ("captions", [["a", "b"]], "more captions than writers"),
        ("label", ["x" * 100_001], "a text in it has over 100,000 bytes"),
        ("group", [7], "it has other columns"),
    ],
)
def test_a_forged_index_is_refused(folder: Path, column: str, values: list, why: str) -> None:
    index = folder / "index.arrow"
    reader = pa.ipc.open_file(pa.BufferReader(index.read_bytes()))
    batches = [reader.get_batch_with_custom_metadata(i) for i in range(reader.num_record_batches)]
    place, kind = reader.schema.get_field_index(column), reader.schema.field(column).type
    kind = pa.int64() if values == [7] else kind
    forged = [
        batch.set_column(place, column, pa.array(values * len(batch), kind)) for batch, _ in batches
    ]
    with pa.ipc.new_file(str(index), forged[0].schema) as writer:
        for batch, (_, metadata) in zip(forged, batches, strict=True):
            writer.write_batch(batch, custom_metadata=metadata)
    with pytest.raises(BadInput, match=rf"index\.arrow is damaged \(.*{why}.*\); run"):
        Shards(folder)


def test_an_index_names_no_file_outside_its_folder(folder: Path) -> None:
    index = folder / "index.arrow"
    content = index.read_bytes()
    assert content.count(b"test-00000.tar") == 1
    index.write_bytes(content.replace(b"test-00000.tar", b"../../00000.ta"))
    with pytest.raises(BadInput, match=r"index\.arrow is damaged \(it names a shard '\.\./"):
        Shards(folder)


@pytest.mark.parametrize("px", [None, "8", 0, -8, 10**6, 8.0, True, [8]])
def test_a_side_of_pictures_that_none_can_have_is_refused(folder: Path, px: object) -> None:
    about = manifest.read(folder)
    assert about
    manifest.write(folder, dataclasses.replace(about, config={**about.config, "image_px": px}))
    with pytest.raises(BadInput, match=r"manifest\.json says that pictures have .* px a side; run"):
        Shards(folder)


def test_more_shards_than_files_may_be_open_are_read(tmp_path: Path) -> None:
    rows = [Described([], [], None, "", "train", "") for _ in range(60)]
    write(tmp_path / "many", rows, 1)
    shards, fds = Shards(tmp_path / "many"), Path("/proc/self/fd")
    before = len([*fds.iterdir()]) if fds.exists() else 0
    for row in np.random.default_rng(0).permutation(60):
        assert np.array_equal(shards.image(row), picture(row))
    assert (len([*fds.iterdir()]) if fds.exists() else 0) - before <= sharding.OPEN_SHARDS
