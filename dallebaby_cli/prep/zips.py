"""Zips: what lies in them, under which names, and what of it can be read."""

import zipfile
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import IO

from dallebaby_cli.prep.member import Member, refusal

HEADER_BYTES = 30  # before each file's name and content
UTF8, ENCRYPTED = 0x800, 0x1  # flags
METHODS = {
    **dict.fromkeys((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2), ""),
    zipfile.ZIP_LZMA: "",
    9: "Deflate64",
    93: "Zstandard",
    95: "XZ",
    98: "PPMd",
}
"""how files are packed → the name of those that are not read"""


def members(archive: Path, path: str, wanted: Callable[[str], bool]) -> Iterator[Member]:
    """The files in a zip, sorted by name; `wanted` is asked for their names. Raises what zipfile
    does where it is damaged."""
    opened = open_zip(archive, archive.stat().st_mtime_ns)
    overlapping = _overlapping(opened.infolist())
    found = [(_name(info), number) for number, info in enumerate(opened.infolist())]
    for name, number in sorted(found):
        info = opened.infolist()[number]
        below = f"{path}/{name}"
        packing = METHODS.get(info.compress_type, f"method {info.compress_type}")
        if name.endswith("/") or not wanted(name):
            continue
        if info.flag_bits & ENCRYPTED:
            why = "it is encrypted; unpack the archive with its password and prepare the folder"
            yield refusal(below, "unreadable", why)
        elif packing:
            why = f"it is packed with {packing}; unpack the archive and prepare the folder"
            yield refusal(below, "unreadable", why)
        elif number in overlapping:
            why = "it shares its bytes with another file of the archive, as bombs do"
            yield refusal(below, "unreadable", why)
        else:
            later = partial(read_zipped, archive, number)
            yield Member(below, partial(_open, archive, number), later, info.file_size)


def _name(info: zipfile.ZipInfo) -> str:
    """The name of a file, with / between folders. Some programs on Windows write \\ there, and
    others write UTF-8 without saying so, which zipfile takes for code page 437."""
    name = info.filename
    if not info.flag_bits & UTF8 and not name.isascii():
        try:
            name = name.encode("cp437").decode()
        except UnicodeError:
            pass
    return name.replace("\\", "/")


def _overlapping(infos: list[zipfile.ZipInfo]) -> set[int]:
    """The numbers of files that begin before another one's bytes have ended."""
    found = set()
    order = sorted(range(len(infos)), key=lambda number: infos[number].header_offset)
    longest, end = -1, -1
    for number in order:
        info = infos[number]
        if info.header_offset < end:
            found |= {number, longest}
        own = info.header_offset + HEADER_BYTES + info.compress_size
        if own > end:
            longest, end = number, own
    return found


@lru_cache(maxsize=4)
def open_zip(archive: Path, mtime_ns: int) -> zipfile.ZipFile:
    """A zip, kept open."""
    return zipfile.ZipFile(archive)


def read_zipped(archive: Path, number: int) -> bytes:
    """The bytes of one file in a zip."""
    with _open(archive, number) as opened:
        return opened.read()


def _open(archive: Path, number: int) -> IO[bytes]:
    opened = open_zip(archive, archive.stat().st_mtime_ns)
    read = opened.open
    return read(opened.infolist()[number])
