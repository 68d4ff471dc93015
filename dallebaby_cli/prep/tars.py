"""Tars, read as GNU tar reads them, where nothing that is wrong with one goes by unnoticed.

Python's tarfile takes a damaged header for the end, stops at the first end where several tars were
put together, and believes what headers say of sizes. Here, too, compressed tars may consist of
several compressed parts, and what lies between and behind is looked at to the last byte.
"""

import bz2
import gzip
import lzma
import tarfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

from dallebaby_cli.prep.member import Member, refusal
from dallebaby_cli.prep.rejected import Rejected

HEADER_BYTES = 1 << 20  # that may tell of one file: its name, times, rights, holes
HEADERS = 20  # in a row that only tell more of the next one
ZEROS = 50 << 20  # bytes that can only be the end

STARTS: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
    b"]\0\0\x80": lzma.open,
}


def members(archive: Path, path: str, wanted: Callable[[str], bool]) -> Iterator[Member]:
    """The files in a tar, compressed or not whatever its name says, in its order; `wanted` is asked
    for their names. Plain ones can be read later, others only before the next one is asked for.
    Raises what tarfile and the compression do where it is damaged."""
    with archive.open("rb") as opened:
        start = opened.read(8)
    unpack = next((how for begin, how in STARTS.items() if start.startswith(begin)), None)
    with unpack(archive) if unpack else archive.open("rb") as content:
        tar = _Tar(fileobj=_Bounded(content), ignore_zeros=True, encoding="utf-8")  # type: ignore[arg-type]
        while (info := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # or it would remember millions
            if not info.isdir() and wanted(info.name):
                yield _member(archive, f"{path}/{PurePosixPath(info.name)}", tar, info, not unpack)
        if tar.rest:
            yield refusal(path, *tar.rest)


def _member(
    archive: Path, path: str, tar: tarfile.TarFile, info: tarfile.TarInfo, plain: bool
) -> Member:
    if not info.isreg():
        kind = "link" if info.issym() or info.islnk() else "device or something else"
        return refusal(path, "unreadable", f"it is a {kind} in an archive and no file")
    extract = partial(_extract, tar, info)
    if not plain or info.issparse():  # one with holes does not lie there in one piece
        return Member(path, cache(extract), None, info.size)
    span = partial(read_span, archive, info.offset_data, info.size)
    return Member(path, extract, span, info.size)


def read_span(path: Path, offset: int, size: int) -> bytes:
    """`size` bytes of a file. Raises Rejected where there are fewer."""
    with path.open("rb") as opened:
        opened.seek(offset)
        content = opened.read(size)
    if len(content) < size:
        raise Rejected("truncated", "its archive ends before it does")
    return content


def _extract(tar: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    opened = tar.extractfile(info)
    assert opened is not None, "only asked of regular files"
    return opened


class _Bounded:
    """A file of which no header makes us read without end."""

    def __init__(self, opened: IO[bytes]) -> None:
        self.opened = opened
        self.left: int | None = None  # bytes; as many as one likes outside of headers
        self.seek, self.tell, self.close = opened.seek, opened.tell, opened.close

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if self.left is not None:
            self.left -= size
            if not 0 <= size or self.left < 0:
                raise tarfile.ReadError(f"a header of over {HEADER_BYTES:,} bytes")
        return self.opened.read(size)


class _Header(tarfile.TarInfo):
    """Tells the ends of an archive from damage, for which tarfile has one answer: nothing more."""

    @classmethod
    def fromtarfile(cls, tarfile: Any) -> "_Header":
        return tarfile.header(super().fromtarfile)


class _Tar(tarfile.TarFile):
    tarinfo = _Header
    depth = 0
    read_to = 0
    """headers begin here or later"""
    end: int | None = None
    """where zeros began that go on to here"""
    rest: tuple[str, str] | None = None
    """why what follows was not read: reason, detail"""

    def header(self, read: Callable[["_Tar"], _Header]) -> _Header:
        """The next header, by `read`. Called anew for each one that tells more of the next."""
        source: Any = self.fileobj
        start = source.tell()
        if start < self.read_to or self.depth > HEADERS:
            raise tarfile.ReadError("its headers go round in circles")
        self.read_to, self.depth = start + tarfile.BLOCKSIZE, self.depth + 1
        source.left = HEADER_BYTES if self.depth == 1 else source.left
        try:
            found = read(self)
        except tarfile.HeaderError as error:
            raise (self._ended(error, start) if self.depth == 1 else error) from None
        except (OSError, EOFError, tarfile.TarError) as error:
            if self.end is None or "Not a gzipped file" not in str(error):
                raise
            raise self._ended(error, start) from None
        except Exception as error:  # fields that are no numbers, maps of holes that make no sense
            raise tarfile.ReadError(f"a header makes no sense: {error!r}") from None
        finally:
            self.depth -= 1
            source.left = None if not self.depth else source.left
        if found.size < 0:
            raise tarfile.ReadError(f"a file of {found.size:,} bytes")
        self.end = None
        return found

    def _ended(self, error: Exception, start: int) -> Exception:
        """What tarfile shall be told where no header is: to look further, that it is the end, or
        that the archive is damaged."""
        kind = type(error).__name__
        if kind == "EOFHeaderError":  # a block of zeros
            self.end = start if self.end is None else self.end
            return error if start - self.end < ZEROS else _no_header()
        if self.end is not None:
            if kind != "EmptyHeaderError":
                self.rest = ("unreadable", "what follows its end is no tar, and was not read")
            return _no_header()
        if kind == "EmptyHeaderError":
            self.rest = ("truncated", "it has no end mark: files that came last may be missing")
            return error
        return tarfile.ReadError(str(error))


def _no_header() -> Exception:
    return tarfile.EmptyHeaderError()  # type: ignore[attr-defined]
