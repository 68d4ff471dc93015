"""Pieces as a power cut or a bad disk leaves them: whole ones are known, all others too."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from mutations import fuzz, mutated
from test_fuzz_archives import TINY

from dallebaby_cli.config import PrepConfig
from dallebaby_cli.prep import pieces
from dallebaby_cli.prep.readers import Record

RECORDS = tuple(Record(f"{n}.png", partial(bytes, TINY), (f"number {n}",)) for n in range(3))
WHOLE = pieces.content(pieces.Task(Path("x"), RECORDS, PrepConfig(image_px=8)))
OLD = WHOLE[pieces.LINE_BYTES :]  # as versions before wrote them


@pytest.fixture(scope="module")
def path() -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        yield Path(folder) / "000000.arrow"


@fuzz(content=mutated(WHOLE))
def test_any_piece(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert pieces.is_whole(path, 3) == (content in (WHOLE, OLD))


@fuzz(content=mutated(OLD))
def test_any_piece_of_an_older_version(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    if pieces.is_whole(path, 3):
        assert len(pieces.read(path).to_pylist()) == 3


def test_a_piece_of_an_older_version_counts(path: Path) -> None:
    path.write_bytes(OLD)
    assert pieces.is_whole(path, 3) and not pieces.is_whole(path, 4)
    assert [row["file"] for row in pieces.read(path).to_pylist()] == ["0.png", "1.png", "2.png"]
