"""Token shards round-trip, and other tools open them without us."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dallebaby_cli import files
from dallebaby_cli.errors import BadInput, Mismatch
from dallebaby_cli.store import manifest, tokens
from dallebaby_cli.store.manifest import Manifest


def make(folder: Path, sizes: list[int], views: int = 1, grid: int = 2) -> np.ndarray:
    """Token shards of the given sizes; returns their codes (pictures, views, grid * grid)."""
    total = sum(sizes)
    codes = np.random.default_rng(0).integers(0, 65536, (total, views, grid, grid))
    codes = codes.astype(np.uint16)
    ends = np.cumsum(sizes)
    for number, (size, end) in enumerate(zip(sizes, ends, strict=True)):
        rows = range(end - size, end)
        tokens.write_shard(
            folder / f"{number:05d}.arrow",
            [f"key{i}" for i in rows],
            ["holdout" if i % 5 == 0 else "train" for i in rows],
            [[f"caption {i}", "two"][: i % 3] for i in rows],
            codes[end - size : end],
        )
    seal(folder, total)
    return codes.reshape(total, views, -1)


def seal(folder: Path, pictures: int) -> None:
    """Write the manifest of whatever shards are in the folder, as `encode` does."""
    hashes = files.hashes(sorted(folder.glob("*.arrow")))
    identity, counts = files.hash_of(hashes.values()), {"pictures": pictures}
    about = Manifest(
        kind="tokens",
        name="t@v",
        id=identity,
        complete=True,
        counts=counts,
        parents={"images/t": "its id", "vae/v": "its id"},
    )
    manifest.write(folder, dataclasses.replace(about, hashes=hashes))


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    views=st.integers(1, 3),
    grid=st.integers(1, 4),
    part=st.integers(1, 20),
)
@settings(deadline=None, max_examples=25)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], views: int, grid: int, part: int
) -> None:
    folder = tmp_path_factory.mktemp("tokens")
    codes = make(folder, sizes, views, grid)
    read = tokens.Tokens(folder)
    assert len(read) == sum(sizes) and read.grid == grid
    for row in range(len(read)):
        assert np.array_equal(read.views(row), codes[row])
        assert read.captions(row) == [f"caption {row}", "two"][: row % 3]
    monkey = pytest.MonkeyPatch()
    monkey.setattr(tokens, "PART_ROWS", part)
    for rows in (read.rows("holdout"), np.arange(len(read))[::-1]):
        parts = list(read.codes(rows))
        assert max(map(len, parts)) <= part
        assert np.array_equal(np.concatenate(parts), codes[rows, 0])
        parts = list(read.codes(rows, every_view=True))
        assert max(map(len, parts)) <= max(part, views)
        assert np.array_equal(np.concatenate(parts), codes[rows].reshape(-1, grid * grid))
    monkey.undo()
    assert sorted([*read.rows("train"), *read.rows("holdout")]) == list(range(len(read)))


def test_arrow_and_numpy_open_a_shard_directly(tmp_path: Path) -> None:
    codes = make(tmp_path, [7], grid=3)
    table = pa.ipc.open_file(str(tmp_path / "00000.arrow")).read_all()
    assert table.column_names == ["key", "split", "captions", "codes"]
    as_numpy = np.stack(table["codes"].to_numpy())
    assert as_numpy.dtype == np.uint16 and np.array_equal(as_numpy, codes[:, 0])


def test_damaged_and_missing_shards_are_named(tmp_path: Path) -> None:
    make(tmp_path, [5, 5])
    second = tmp_path / "00001.arrow"
    content = second.read_bytes()
    half = len(content) // 2
    for damaged in (content[:-20], content[:half] + bytes(len(content) - half)):
        second.write_bytes(damaged)
        with pytest.raises(BadInput, match=r"00001\.arrow is not as it was .*encode t --vae v`"):
            tokens.Tokens(tmp_path)
    second.unlink()
    with pytest.raises(BadInput, match=r"lacks shards \(00001\.arrow\); .*encode t --vae v`"):
        tokens.Tokens(tmp_path)


def test_a_folder_of_a_version_without_hashes_is_checked_too(tmp_path: Path) -> None:
    codes = make(tmp_path, [5, 5])
    about = manifest.read(tmp_path)
    assert about
    manifest.write(tmp_path, dataclasses.replace(about, hashes={}))
    assert np.array_equal(tokens.Tokens(tmp_path).views(9), codes[9])
    content = bytearray((tmp_path / "00000.arrow").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "00000.arrow").write_bytes(content)
    with pytest.raises(BadInput, match=f"a shard of {tmp_path} is not as it was written"):
        tokens.Tokens(tmp_path)


def forged(path: Path, **columns: object) -> None:
    """Rewrite a shard of 5 pictures with other columns; its manifest will say that it is right."""
    table = pa.ipc.open_file(pa.BufferReader(path.read_bytes())).read_all()
    for name, values in columns.items():
        place, kind = table.schema.get_field_index(name), table.schema.field(name)
        if not isinstance(values, pa.Array):
            values = pa.array(values, kind.type)
        table = table.set_column(place, pa.field(name, values.type), values)
    with pa.ipc.new_file(str(path), table.schema.with_metadata({"views": "1", "grid": "2"})) as out:
        out.write_table(table)
    seal(path.parent, 5)


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"key": [None, "a", "b", "c", "d"]}, "values are missing"),
        ({"captions": [["a", None]] + [[]] * 4}, "values are missing"),
        ({"split": ["train", "test", "train", "train", "train"]}, "other splits than train and"),
        ({"captions": [["x" * 100_001]] + [[]] * 4}, "a caption has over 100,000 bytes"),
        ({"codes": pa.array([[1, 2]] * 5, pa.list_(pa.uint16(), 2))}, "it has other columns"),
        ({"codes": pa.array([[1, 2, 3, 4]] * 5, pa.list_(pa.int64(), 4))}, "it has other columns"),
        ({"key": pa.array(["a"] * 5).dictionary_encode()}, "it has other columns"),
    ],
)
def test_a_forged_shard_is_refused(tmp_path: Path, columns: dict, why: str) -> None:
    make(tmp_path, [5])
    forged(tmp_path / "00000.arrow", **columns)
    with pytest.raises(BadInput, match=rf"00000\.arrow is damaged \(.*{why}.*\); run `dallebaby"):
        tokens.Tokens(tmp_path)


def test_offsets_that_lead_outside_the_memory_are_refused(tmp_path: Path) -> None:
    make(tmp_path, [5])
    path = tmp_path / "00000.arrow"
    content = path.read_bytes()
    offsets = np.array([0, 4, 8, 12, 16, 20], "<i4").tobytes()  # of key0 … key4
    assert content.count(offsets) == 1
    far = np.array([0, 4, 2**31 - 1, 12, 16, 20], "<i4").tobytes()
    path.write_bytes(content.replace(offsets, far))
    seal(tmp_path, 5)
    with pytest.raises(BadInput, match=r"00000\.arrow is damaged \(.*offset"):
        tokens.Tokens(tmp_path)


def test_codes_that_the_tokenizer_lacks_are_refused(tmp_path: Path) -> None:
    codes = make(tmp_path, [5])
    read, highest = tokens.Tokens(tmp_path), int(codes.max())
    read.require(highest + 1, 2)
    with pytest.raises(Mismatch, match=rf"codes up to {highest} on a grid of 2, .* has 100 on 2"):
        read.require(100, 2)
    with pytest.raises(Mismatch, match="grid of 2"):
        read.require(65536, 4)


def test_a_shard_that_is_cut_while_it_is_read_is_a_sentence(tmp_path: Path) -> None:
    make(tmp_path, [5, 5])
    read = tokens.Tokens(tmp_path)
    os.truncate(tmp_path / "00001.arrow", 100)  # a mapped file would end the process here
    assert read.views(0).shape == (1, 4) and read.captions(8)
    with pytest.raises(BadInput, match=r"00001\.arrow has become shorter while it is read"):
        read.views(9)
    (tmp_path / "00000.arrow").unlink()
    read._opened.cache_clear()
    with pytest.raises(BadInput, match=r"00000\.arrow cannot be read \(.*No such file.*encode"):
        read.views(0)


def test_more_shards_than_files_may_be_open_are_read(tmp_path: Path) -> None:
    codes = make(tmp_path, [2] * 40)
    read = tokens.Tokens(tmp_path)
    folder = Path("/proc/self/fd")
    before = len([*folder.iterdir()]) if folder.exists() else 0
    for row in np.random.default_rng(0).permutation(80):
        assert np.array_equal(read.views(row), codes[row])
    opened = (len([*folder.iterdir()]) if folder.exists() else 0) - before
    assert opened <= tokens.OPEN_SHARDS
