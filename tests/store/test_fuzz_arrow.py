"""Whatever is in an Arrow file, even if its manifest swears to it, it is read or refused with a
sentence; what is read can be used to the last row."""

import contextlib
import dataclasses
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from mutations import fuzz, is_sentence, mutated

from dallebaby_cli import files
from dallebaby_cli.config import PrepConfig
from dallebaby_cli.errors import BadInput
from dallebaby_cli.store import codec, manifest, tokens
from dallebaby_cli.store.manifest import Manifest
from dallebaby_cli.store.shards import Described, Shards, ShardWriter

ROWS = 6


def shard(folder: Path) -> bytes:
    """A token shard."""
    tokens.write_shard(
        folder / "00000.arrow",
        [f"key{i}" for i in range(ROWS)],
        ["holdout", "train"] * (ROWS // 2),
        [["a red car", "é 猫"][: i % 3] for i in range(ROWS)],
        np.arange(ROWS * 2 * 4, dtype=np.uint16).reshape(ROWS, 2, 2, 2),
    )
    return (folder / "00000.arrow").read_bytes()


def index(folder: Path) -> bytes:
    """An index of two image shards."""
    writer = ShardWriter(folder, "p", "png", 4_000)
    for i in range(ROWS):
        picture = codec.encode(np.full((8, 8, 3), i, np.uint8), PrepConfig())
        about = Described(["a", "b"][: i % 3], ["human", "x"][: i % 3], None, "f", "train", f"{i}")
        writer.add(f"{i:016x}", picture, about)
    writer.close()
    config = {"image_px": 8, "encoding": "png"}
    about = Manifest(kind="images", name="p", id="i", complete=True, config=config)
    manifest.write(folder, about)
    return (folder / "index.arrow").read_bytes()


with TemporaryDirectory() as made:
    SHARD, INDEX = shard(Path(made) / "tokens"), index(Path(made) / "images")


@fuzz(content=mutated(SHARD))
def test_any_shard_of_tokens(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "tokens" / "00000.arrow"
    files.write_bytes(path, content)
    identity = files.hash_of(files.hashes([path]).values())
    made_of = {"images/t": "i"}
    about = Manifest(kind="tokens", name="t@v", id=identity, complete=True, parents=made_of)
    for pictures in (ROWS, 0):
        manifest.write(path.parent, dataclasses.replace(about, counts={"pictures": pictures}))
        try:
            read = tokens.Tokens(path.parent)
        except BadInput as error:
            assert str(path.parent) in str(error) and is_sentence(error)
            continue
        assert sorted([*read.rows("train"), *read.rows("holdout")]) == list(range(len(read)))
        for row in range(len(read)):
            assert read.views(row).shape == (read.views_each, read.grid**2)
            assert "".join(read.captions(row)).encode() is not None
        assert sum(map(len, read.codes(np.arange(len(read))))) == len(read)


@fuzz(content=mutated(INDEX))
def test_any_index_of_pictures(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.getbasetemp() / "pictures"
    if not folder.exists():
        index(folder)
    files.write_bytes(folder / "index.arrow", content)
    try:
        read = Shards(folder)
    except BadInput as error:
        assert str(folder) in str(error) and is_sentence(error)
        return
    assert len([*read.rows("train"), *read.rows("holdout")]) == len(read)
    for row in range(len(read)):
        assert len(read.captions(row)) == len(read.caption_sources(row))
        assert str(read.key(row)).encode() and read.identities().num_rows == len(read)
        with contextlib.suppress(BadInput):
            assert read.image(row).shape == (8, 8, 3)
