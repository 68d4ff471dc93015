"""Readers: one file per raw layout; each turns a folder as fetched into Records, in a fixed order.

A reader module has `fits(folder) -> bool` where the layout shows in its files, and
`read(folder) -> Records`. Archives are read where they lie, nothing is unpacked. Records are made
one by one in the parent process and cross to workers, which call `record.read()` for the bytes.
"""

import importlib
import os
import stat
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Literal, NamedTuple

import numpy as np

from dallebaby_cli import files
from dallebaby_cli.data import manifest
from dallebaby_cli.data.images import EXTENSIONS, Rejected
from dallebaby_cli.errors import BadInput

LAYOUTS = ("coco", "folder")
"""The layouts that can be read: module names, - for _. A folder with no known layout is tried
against each, in this order; anything is a "folder" of pictures."""

MAX_FILE_BYTES = 512_000_000

Split = Literal["train", "holdout"]


class Drawn(NamedTuple):
    """A picture that was made and captioned on the spot."""

    pixels: np.ndarray  # uint8 RGB (H, W, 3)
    captions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """One picture of a dataset and what is known about it, before it is opened."""

    file: str
    """where it comes from, below the dataset's folder"""
    read: Callable[[], bytes | np.ndarray | Drawn]
    """gets a picture file's bytes, or pixels uint8 RGB (H, W, 3); picklable; may raise anything"""
    captions: tuple[str, ...] = ()
    label: str | None = None
    split: Split | None = None
    """the dataset's own split; None leaves it to the content's hash"""


@dataclass(frozen=True)
class Records:
    """What a reader found."""

    rows: Iterator[Record]
    count: int | None = None
    """how many rows there are, where that is known beforehand"""


def detect(folder: Path) -> str:
    """The name of the layout that a folder's files show."""
    return next(layout for layout in LAYOUTS if _module(layout).fits(folder))


def read(layout: str, folder: Path) -> Records:
    """The records of a folder in the given layout. Raises BadInput if it is not in that layout."""
    found: Records = _module(layout).read(folder)
    return found


def _module(layout: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{layout.replace('-', '_')}")


def fingerprint(folder: Path) -> str:
    """A hash of the names, sizes and times of all files below a folder: equal while nobody has
    touched them. Raises BadInput if the folder cannot be read."""
    lines = []
    for path in walk(folder):
        try:
            status = (folder / path).stat()
            lines.append(f"{path!r} {status.st_size} {status.st_mtime_ns}")
        except OSError:  # a dangling link, say
            lines.append(f"{path!r} -")
    return files.hash_of(sorted(lines))


def walk(folder: Path) -> Iterator[str]:
    """Paths of all files below a folder (links to folders are not followed), in no order; a folder
    that cannot be read is listed as if it were a file. Hidden files, and dallebaby's own workspaces
    with all that is in them, are left out. Raises BadInput if `folder` itself cannot be read."""
    unread: list[str] = []

    def cannot_read(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise BadInput(f"{folder} cannot be read: {error.strerror}") from error
        unread.append(os.path.relpath(error.filename, folder))

    for where, folders, names in os.walk(folder, onerror=cannot_read):
        folders[:] = [f for f in folders if not f.startswith(".") and f != "__MACOSX"]
        below = os.path.relpath(where, folder)
        if below != "." and "images" in folders and manifest.every(Path(where), "images"):
            folders.clear()
            continue
        yield from (os.path.normpath(os.path.join(below, n)) for n in names if n[0] != ".")
    yield from unread


def is_picture(name: str) -> bool:
    """Whether a file of that name should hold a picture, and is not litter of macOS."""
    parts = PurePosixPath(name).parts
    return (
        name.lower().endswith(EXTENSIONS)
        and not parts[-1].startswith("._")
        and "__MACOSX" not in parts
    )


def read_file(path: Path) -> bytes:
    """The bytes of a picture file; raises Rejected where opening it would hang or fill memory."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise Rejected("unreadable", "it is not a regular file")
    if status.st_size > MAX_FILE_BYTES:
        raise Rejected("too large", f"{status.st_size:,} bytes; the limit is {MAX_FILE_BYTES:,}")
    return path.read_bytes()


def read_zip_member(archive: Path, name: str) -> bytes:
    """The bytes of one file in a zip."""
    opened = open_zip(archive)
    size = opened.getinfo(name).file_size
    if size > MAX_FILE_BYTES:
        raise Rejected("too large", f"{size:,} bytes; the limit is {MAX_FILE_BYTES:,}")
    return opened.read(name)


@lru_cache(maxsize=4)
def open_zip(archive: Path) -> zipfile.ZipFile:
    """A zip, opened once a process. Raises BadInput if it is damaged."""
    try:
        return zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, OSError) as error:
        raise BadInput(
            f"{archive} cannot be read as a zip ({error}); remove it and fetch it again"
        ) from error


def find_files(folder: Path, *names: str) -> dict[str, Path]:
    """Those of the named files that lie in a folder, however deep."""
    found = {os.path.basename(path): folder / path for path in sorted(walk(folder), reverse=True)}
    return {name: found[name] for name in names if name in found}
