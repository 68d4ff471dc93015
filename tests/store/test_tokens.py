"""Token shards round-trip, and other tools open them without us."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dallebaby_cli.errors import BadInput
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
    counts = {"pictures": total}
    manifest.write(folder, Manifest(kind="tokens", name="t", id="x", complete=True, counts=counts))
    return codes.reshape(total, views, -1)


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
    monkey.undo()
    assert sorted([*read.rows("train"), *read.rows("holdout")]) == list(range(len(read)))


def test_arrow_and_numpy_open_a_shard_directly(tmp_path: Path) -> None:
    codes = make(tmp_path, [7], grid=3)
    table = pa.ipc.open_file(str(tmp_path / "00000.arrow")).read_all()
    assert table.column_names == ["key", "split", "captions", "codes"]
    as_numpy = np.stack(table["codes"].to_numpy())
    assert as_numpy.dtype == np.uint16 and np.array_equal(as_numpy, codes[:, 0])


def test_missing_and_truncated_shards_are_named(tmp_path: Path) -> None:
    make(tmp_path, [5, 5])
    second = tmp_path / "00001.arrow"
    content = second.read_bytes()
    second.write_bytes(content[:-20])
    with pytest.raises(BadInput, match=r"00001\.arrow is damaged or missing; run"):
        tokens.Tokens(tmp_path)
    second.unlink()
    with pytest.raises(BadInput, match="lacks shards"):
        tokens.Tokens(tmp_path)
