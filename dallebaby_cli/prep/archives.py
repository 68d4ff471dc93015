"""Files in a folder and in the archives that lie in it, without unpacking anything to disk.

Zips and plain tars are read at random, so that workers fetch what they need; compressed tars can
only be read from front to back, so their files are read as they come by. Nothing is ever written
under a name that came from an archive.
"""

import io
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import IO

from dallebaby_cli import names
from dallebaby_cli.errors import BadInput
from dallebaby_cli.prep import kinds
from dallebaby_cli.prep.images import Rejected
from dallebaby_cli.store import manifest

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_FILE_BYTES = 512_000_000  # a larger "picture" would only fill memory
LOOSE = ("",)  # a `within` that matches no archive
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError)

Read = Callable[[], bytes]  # picklable


@dataclass(frozen=True)
class Member:
    """One file."""

    path: str
    """below the folder; that of its archive goes before"""
    size: int
    source: Callable[[], IO[bytes]]
    later: Read | None
    """reads it at any time; None in a compressed tar"""
    loose: bool = False
    """whether it lies in no archive"""

    @property
    def name(self) -> str:
        """The last part of its path."""
        return PurePosixPath(self.path).name

    @property
    def folder(self) -> str:
        """The name of the folder that it lies in."""
        return PurePosixPath(self.path).parent.name

    @property
    def is_picture(self) -> bool:
        """Whether it should hold a picture, by its name or, where that says nothing, its bytes."""
        promised = kinds.by_name(self.path)
        return bool(kinds.of(self.beginning())) if promised is None else promised

    def beginning(self) -> bytes:
        """Its first bytes, which can be read again; none where they cannot be read."""
        try:
            opened = self.source()
            found: bytes = opened.peek(kinds.BEGINNING)  # type: ignore[attr-defined]
        except (
            *DAMAGE,
            RuntimeError,
            AttributeError,
        ):  # what is wrong shows when all of it is read
            return b""
        if self.later is not None:  # else the stream goes on where it is
            opened.close()
        return found[: kinds.BEGINNING]

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Its bytes as a stream, before the next member is asked for. Raises BadInput if they
        cannot be read."""
        try:
            with self.source() as opened:
                yield opened
        except DAMAGE as error:
            raise BadInput(_damaged(self.path, error)) from error

    def content(self) -> bytes:
        """All of it, now."""
        with self.open() as opened:
            return opened.read()

    def reader(self) -> Read:
        """What gets its bytes in a worker: raises Rejected if they are too many."""
        if self.later is not None:
            return self.later
        if self.size > MAX_FILE_BYTES:
            return partial(refuse, "too large", _too_large(self.size))
        return partial(bytes, self.content())


def members(folder: Path, *within: str) -> Iterator[Member]:
    """All files below a folder, and in those archives in it whose names match a glob of `within`
    (in all if there is none), but for hidden ones and litter: sorted by path, a tar in its order.
    Raises BadInput if an archive is damaged."""
    for path in sorted(walk(folder), key=lambda path: path.split("/")):
        yield from _members(folder, path, within)


def named(folder: Path, *names: str, within: tuple[str, ...] = ()) -> dict[str, bytes]:
    """The contents of those of the named files that are there: the first of each name. Archives
    that take long to search come last."""
    found: dict[str, bytes] = {}
    for path in sorted(walk(folder), key=lambda path: (_effort(path), path.split("/"))):
        for member in _members(folder, path, within):
            if member.name in names and member.name not in found:
                found[member.name] = member.content()
            if len(found) == len(names):
                return found
    return found


def count_pictures(folder: Path, *within: str) -> int | None:
    """How many pictures `members` will give; None if only reading tars to their end would tell."""
    count = 0
    for path in walk(folder):
        if _effort(path) > 1 and _matches(path, within):
            return None
        count += sum(member.is_picture for member in _members(folder, path, within))
    return count


def _members(folder: Path, path: str, within: tuple[str, ...]) -> Iterator[Member]:
    whole = folder / path
    try:
        if not _effort(path):
            if whole.is_file():
                size = whole.stat().st_size
                yield Member(path, size, partial(_open, whole), partial(read_file, whole), True)
        elif _matches(path, within):
            yield from (_zip_members if _effort(path) == 1 else _tar_members)(whole, path)
    except DAMAGE as error:
        raise BadInput(_damaged(str(whole), error)) from error


def _damaged(path: str, error: Exception) -> str:
    return f"{path} cannot be read to its end ({error}); remove it and fetch it again"


def _effort(path: str) -> int:
    """How hard it is to look into a file: 0 if it is no archive, 3 if all of it must be read."""
    lower = path.lower()
    return (
        1 if lower.endswith(".zip") else 2 if lower.endswith(".tar") else 3 * lower.endswith(TARS)
    )


def _matches(path: str, within: tuple[str, ...]) -> bool:
    return not within or any(fnmatchcase(PurePosixPath(path).name, glob) for glob in within)


def walk(folder: Path) -> Iterator[str]:
    """Paths of all files below a folder (links to folders are not followed), in no order; a folder
    that cannot be read is listed as if it were a file. Hidden files, and dallebaby's own workspaces
    with all that is in them, are left out. Raises BadInput if `folder` itself cannot be read."""
    unread: list[str] = []

    def cannot_read(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise BadInput(f"{folder} cannot be read: {error.strerror}") from error
        unread.append(names.below(folder, Path(error.filename)))

    for where, folders, inside in os.walk(folder, onerror=cannot_read):
        folders[:] = [f for f in folders if not f.startswith(".") and f != "__MACOSX"]
        parent = names.below(folder, Path(where))
        if parent and "images" in folders and manifest.every(Path(where), "images"):
            folders.clear()
            continue
        start = f"{parent}/" if parent else ""
        yield from (start + name for name in inside if name[0] != ".")
    yield from unread


def is_litter(path: str) -> bool:
    """Whether some system left the file there: hidden, or in macOS's own folder."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def is_picture(path: str) -> bool:
    """Whether a file of that name should hold a picture, as far as the name tells."""
    return bool(kinds.by_name(path)) and not is_litter(path)


def read_file(path: Path) -> bytes:
    """The bytes of a file; raises Rejected where opening it would hang or fill memory."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise Rejected("unreadable", "it is not a regular file")
    if status.st_size > MAX_FILE_BYTES:
        raise Rejected("too large", _too_large(status.st_size))
    return path.read_bytes()


def read_zipped(archive: Path, name: str) -> bytes:
    """The bytes of one file in a zip; raises Rejected if they are too many."""
    opened = _open_zip(archive, archive.stat().st_mtime_ns)
    if (size := opened.getinfo(name).file_size) > MAX_FILE_BYTES:
        raise Rejected("too large", _too_large(size))
    return opened.read(name)


def read_span(path: Path, offset: int, size: int) -> bytes:
    """`size` bytes of a file; raises Rejected if they are too many."""
    if size > MAX_FILE_BYTES:
        raise Rejected("too large", _too_large(size))
    with path.open("rb") as opened:
        opened.seek(offset)
        content = opened.read(size)
    if len(content) < size:
        raise Rejected("truncated", "its archive ends before it does")
    return content


def refuse(reason: str, detail: str) -> bytes:
    """Stands for bytes that cannot be had: raises Rejected."""
    raise Rejected(reason, detail)


def _too_large(size: int) -> str:
    return f"{size:,} bytes; the limit is {MAX_FILE_BYTES:,}"


@lru_cache(maxsize=4)
def _open_zip(archive: Path, mtime_ns: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(archive)


def _open(path: Path) -> IO[bytes]:
    return path.open("rb")


def _zip_members(archive: Path, path: str) -> Iterator[Member]:
    opened = _open_zip(archive, archive.stat().st_mtime_ns)
    for info in sorted(opened.infolist(), key=lambda info: info.filename):
        inside = info.filename.replace("\\", "/")  # so do some programs on Windows name folders
        if not info.is_dir() and not is_litter(inside):
            yield Member(
                f"{path}/{inside}",
                info.file_size,
                partial(opened.open, info),
                partial(read_zipped, archive, info.filename),
            )


def _tar_members(archive: Path, path: str) -> Iterator[Member]:
    plain = _is_plain(archive)
    with tarfile.open(archive, "r:" if plain else "r|*") as tar:
        while (info := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # or it would remember millions
            if info.isdir() or is_litter(info.name):
                continue
            below = f"{path}/{PurePosixPath(info.name)}"
            if not info.isreg():
                link = partial(refuse, "unreadable", "it is a link or device in an archive")
                yield Member(below, 0, io.BytesIO, link)
            elif plain:
                span = partial(read_span, archive, info.offset_data, info.size)
                yield Member(below, info.size, partial(_extract, tar, info), span)
            else:
                yield Member(below, info.size, cache(partial(_extract, tar, info)), None)


def _is_plain(archive: Path) -> bool:
    """Whether a tar is not compressed, whatever its name says."""
    try:
        tarfile.open(archive, "r:").close()
    except tarfile.ReadError:
        return False
    return True


def _extract(tar: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    opened = tar.extractfile(info)
    assert opened is not None, "only asked of regular files"
    return opened
