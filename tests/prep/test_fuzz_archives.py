"""Archives as they come broken: each file in them comes out, or is named, or one sentence says that
the archive is damaged."""

import gzip
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import strategies as st
from mutations import fuzz, mutated
from test_tars import END, HARM, blocks

from dallebaby_cli.config import PrepConfig
from dallebaby_cli.errors import DallebabyError
from dallebaby_cli.prep import pieces, readers

TINY = bytes.fromhex(  # a PNG of one pixel
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)
MEMBERS = {
    "dog/1.png": TINY,
    "dog/1.json": b'{"caption": "a dog", "label": 3}',
    "cat/2.png": TINY,
    "cat/2.txt": b"a cat",
    "long/" * 30 + "3.png": TINY,
    "caf\u00e9/4.png": TINY,
    "metadata.jsonl": b'{"file_name": "cat/2.png", "text": "another"}\n',
}
HOLES = {"GNU.sparse.name": "h.png", "GNU.sparse.size": "2048", "GNU.sparse.map": "0,512,1536,512"}
TARS = [
    blocks(MEMBERS) + END,
    blocks(dict([*MEMBERS.items()][:3])) + blocks({"h": bytes(1024)}, pax_headers=HOLES) + END,
    *(blocks({"a.png": TINY}) + harm for harm in HARM.values()),
]


def zip_of(members: dict[str, bytes], method: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


ZIPS = [zip_of(MEMBERS, method) for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        yield Path(folder)


def prepare(folder: Path, name: str, content: bytes) -> None:
    """Read an archive as prep does, to the pieces."""
    for old in folder.iterdir():
        old.unlink()
    (folder / name).write_bytes(content)
    try:
        rows = tuple(readers.read("folder", folder).rows)
    except DallebabyError:
        return
    pieces.content(pieces.Task(folder / "piece", rows, PrepConfig(image_px=8, workers=1)))


@fuzz(content=mutated(*TARS))
def test_any_tar(folder: Path, content: bytes) -> None:
    prepare(folder, "x.tar", content)


@fuzz(content=mutated(*TARS).map(gzip.compress) | mutated(*map(gzip.compress, TARS[:2])))
def test_any_compressed_tar(folder: Path, content: bytes) -> None:
    prepare(folder, "x.tar.gz", content)


@fuzz(content=mutated(*ZIPS) | st.binary(max_size=64))
def test_any_zip(folder: Path, content: bytes) -> None:
    prepare(folder, "x.zip", content)
