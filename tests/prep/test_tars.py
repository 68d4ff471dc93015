"""Tars as they come: in several compressed parts, put together, padded, with holes, cut off,
damaged, made to harm. What is in them comes out, or what does not is named."""

import bz2
import gzip
import io
import lzma
import os
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_prep import noise
from test_readers import put

from dallebaby_cli.errors import BadInput
from dallebaby_cli.prep import archives
from dallebaby_cli.prep.rejected import Rejected

PACK: dict[str, Callable[[bytes], bytes]] = {
    ".tar": bytes,
    ".tar.gz": gzip.compress,
    ".tar.bz2": bz2.compress,
    ".tar.xz": lzma.compress,
}
SIX = {f"{kind}/{number}.png": noise(number) for kind in "ab" for number in range(3)}
END = bytes(2 * tarfile.BLOCKSIZE)


def blocks(members: dict[str, bytes], **fields: object) -> bytes:
    """The files of a tar without what marks its end."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for field, value in fields.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(content))
        return out.getvalue()[: tar.offset]


def found(folder: Path) -> dict[str, bytes | tuple[str, str]]:
    """What each picture of a folder holds, or why it cannot be had."""
    there: dict[str, bytes | tuple[str, str]] = {}
    for member in archives.members(folder):
        if member.is_picture:
            try:
                there[member.path] = member.reader()()
            except Rejected as rejected:
                there[member.path] = (rejected.reason, rejected.detail)
    return there


def below(archive: str, members: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{archive}/{name}": content for name, content in members.items()}


@pytest.mark.parametrize("end", PACK)
def test_several_parts_are_one_archive(tmp_path: Path, end: str) -> None:
    whole = blocks(SIX) + END
    boundary = len(blocks(dict([*SIX.items()][:2])))  # of two members
    for place in (1000, boundary, boundary + 700, len(whole) - 1024):
        parts = (whole[:place], whole[place:])
        put(tmp_path / f"x{end}", b"".join(map(PACK[end], parts)))
        assert found(tmp_path) == below(f"x{end}", SIX), place


@pytest.mark.parametrize("end", PACK)
def test_tars_that_were_put_together(tmp_path: Path, end: str) -> None:
    first, second = dict([*SIX.items()][:2]), dict([*SIX.items()][2:])
    one, other = (PACK[end](blocks(half) + END + bytes(9 * 1024)) for half in (first, second))
    put(tmp_path / f"x{end}", one + other)
    assert found(tmp_path) == below(f"x{end}", SIX)


@pytest.mark.parametrize("end", PACK)
def test_an_archive_without_its_end(tmp_path: Path, end: str) -> None:
    put(tmp_path / f"x{end}", PACK[end](blocks(SIX)))
    there = found(tmp_path)
    reason, detail = there.pop(f"x{end}")
    assert reason == "truncated" and "files that came last may be missing" in str(detail)
    assert there == below(f"x{end}", SIX)


@pytest.mark.parametrize("end", PACK)
def test_what_follows_the_end_is_named(tmp_path: Path, end: str) -> None:
    put(tmp_path / f"x{end}", PACK[end](blocks(SIX) + END + b"rubbish" * 200))
    there = found(tmp_path)
    assert there.pop(f"x{end}") == (
        "unreadable",
        "what follows its end is no tar, and was not read",
    )
    assert there == below(f"x{end}", SIX)


def test_rubbish_behind_a_gzip_is_named(tmp_path: Path) -> None:
    put(tmp_path / "x.tgz", gzip.compress(blocks(SIX) + END) + b"<html>no such page</html>")
    there = found(tmp_path)
    assert str(there.pop("x.tgz")[1]).startswith("what follows its end is no tar")
    assert there == below("x.tgz", SIX)


@pytest.mark.parametrize("end", PACK)
def test_a_damaged_header_is_not_the_end(tmp_path: Path, end: str) -> None:
    content = bytearray(blocks(SIX) + END)
    content[len(blocks(dict([*SIX.items()][:3]))) + 2] ^= 1  # in the name of the fourth
    put(tmp_path / f"x{end}", PACK[end](bytes(content)))
    with pytest.raises(BadInput, match=r"x\.tar.* cannot be read to its end"):
        found(tmp_path)


def test_damage_in_the_checksum_of_a_gzip(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(blocks(SIX) + END))
    content[-8] ^= 1
    put(tmp_path / "x.tgz", bytes(content))
    with pytest.raises(BadInput, match=r"x\.tgz cannot be read to its end \(CRC"):
        found(tmp_path)


def test_names_that_begin_with_a_dot_and_a_slash(tmp_path: Path) -> None:
    put(tmp_path / "x.tar", blocks({f"./{name}": content for name, content in SIX.items()}) + END)
    assert found(tmp_path) == below("x.tar", SIX)


@pytest.mark.parametrize("end", [".tar", ".tar.gz"])
def test_holes_are_filled(tmp_path: Path, end: str) -> None:
    content = noise(1, (20, 9), "BMP") + bytes(2048) + noise(2)[:512]  # zeros are not stored
    start = len(content) - 2048 - 512
    holes = {
        "GNU.sparse.name": "h.bmp",
        "GNU.sparse.size": str(len(content)),
        "GNU.sparse.numblocks": "2",
        "GNU.sparse.map": f"0,{start},{start + 2048},512",
    }
    stored = content[:start] + content[-512:]
    tar = blocks({"h.bmp": stored}, pax_headers=holes) + blocks({"b.png": noise(3)}) + END
    put(tmp_path / f"x{end}", PACK[end](tar))
    assert found(tmp_path) == below(f"x{end}", {"h.bmp": content, "b.png": noise(3)})


# ---------------------------------------------------------------- made to harm


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


HARM = {
    "long names without end": b"".join(
        header("x", 5, tarfile.GNUTYPE_LONGNAME) + b"x.png".ljust(512, b"\0") for _ in range(2000)
    ),
    "a name of 10 GB": header("x", 10**10, tarfile.GNUTYPE_LONGNAME),
    "rights of 10 GB": header("x", 10**10, tarfile.XHDTYPE),
    "a size below zero": header("x.png", -512) + END,
    "a size beyond all disks": header("x.png", 2**62),
    "a size below zero in the rights": header("x", 18, tarfile.XHDTYPE)
    + b"18 size=-00000512\n".ljust(512, b"\0")
    + header("x.png", 0)
    + END,
    "holes that make no sense": header("x", 54, tarfile.XHDTYPE)
    + b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n".ljust(512, b"\0")
    + header("x.png", 512)
    + b"9" * 512,
}


@pytest.mark.parametrize("end", [".tar", ".tar.gz"])
@pytest.mark.parametrize("harm", HARM)
def test_headers_made_to_harm(tmp_path: Path, harm: str, end: str) -> None:
    put(tmp_path / f"x{end}", PACK[end](blocks(SIX) + HARM[harm]))
    before = time.monotonic()
    with pytest.raises(BadInput, match=r"x\.tar.* cannot be read to its end"):
        found(tmp_path)
    assert time.monotonic() - before < 5


def test_a_file_that_claims_a_terabyte_of_holes(tmp_path: Path) -> None:
    holes = {
        "GNU.sparse.name": "h.png",
        "GNU.sparse.size": str(10**12),
        "GNU.sparse.map": f"0,512,{10**12 - 512},512",
    }
    tar = blocks({"h.png": bytes(1024)}, pax_headers=holes) + blocks({"b.png": noise(3)}) + END
    put(tmp_path / "x.tgz", gzip.compress(tar))
    there = found(tmp_path)
    assert there["x.tgz/h.png"] == (
        "too large",
        "1,000,000,000,000 bytes; the limit is 512,000,000",
    )
    assert there["x.tgz/b.png"] == noise(3)


def test_a_thousand_folders_in_each_other(tmp_path: Path) -> None:
    deep = [f"{tmp_path}/top{'/a' * levels}" for levels in range(1001)]
    for folder in deep:
        os.mkdir(folder)
    put(Path(deep[-1], "x.png"), noise(1))
    try:
        assert list(archives.walk(tmp_path / "top")) == ["a/" * 1000 + "x.png"]
        put(tmp_path / "top/y.tar", blocks({"b/" * 1000 + "y.png": noise(2)}) + END)
        assert list(found(tmp_path / "top").values()) == [noise(1), noise(2)]
    finally:  # what pytest would need too deep a stack for
        os.unlink(f"{deep[-1]}/x.png")
        for folder in reversed(deep[1:]):
            os.rmdir(folder)
