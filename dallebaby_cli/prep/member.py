"""One file of a dataset, in a folder or in an archive: where it is, and how its bytes are had."""

import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from dallebaby_cli import files
from dallebaby_cli.errors import BadInput
from dallebaby_cli.prep import kinds
from dallebaby_cli.prep.rejected import Rejected
from dallebaby_cli.text import one_line

MAX_FILE_BYTES = 512_000_000  # a larger "picture" would only fill memory
MAX_TEXT_BYTES = 1_000_000  # of what is said of one picture
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError)
# what zipfile and tarfile raise, too, on headers that make no sense
NONSENSE = (*DAMAGE, ValueError, OverflowError, RuntimeError, struct.error)

Read = Callable[[], bytes]  # picklable


@dataclass(frozen=True)
class Member:
    """One file."""

    path: str
    """below the folder; that of its archive goes before"""
    source: Callable[[], IO[bytes]]
    later: Read | None
    """reads it at any time; None in a compressed tar"""
    packed: int = 0
    """its size, if it lies in an archive"""
    loose: str | None = None
    """where it is, if it lies in no archive"""
    refused: bool = False
    """whether its bytes cannot be had; `later` says why"""

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]

    @property
    def folder(self) -> str:
        """The name of the folder that it lies in."""
        return self.path.rpartition("/")[0].rpartition("/")[2]

    @property
    def size(self) -> int:
        """Its bytes."""
        return os.stat(self.loose).st_size if self.loose else self.packed

    @property
    def is_picture(self) -> bool:
        """Whether it should hold a picture, by its name or, where that says nothing, its bytes. So
        should all that is refused: what cannot be read is named."""
        promised = kinds.by_name(self.path)
        if self.refused or promised is not None:
            return self.refused or bool(promised)
        return bool(kinds.of(self.beginning())) or self._is_special()

    def _is_special(self) -> bool:
        return self.loose is not None and not Path(self.loose).is_file()

    def beginning(self) -> bytes:
        """Its first bytes, which can be read again; none where they cannot be read."""
        try:
            opened = self.source()
            found: bytes = opened.peek(kinds.BEGINNING)  # type: ignore[attr-defined]
        except (*NONSENSE, BadInput, Rejected):  # what is wrong shows when all of it is read
            return b""
        if self.later is not None:  # else the stream goes on where it is
            opened.close()
        return found[: kinds.BEGINNING]

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Its bytes as a stream, before the next member is asked for. Raises BadInput if they
        cannot be read."""
        try:
            source = self.source()
        except Rejected as error:
            raise BadInput(f"{one_line(self.path)} cannot be read: {error.detail}") from None
        except NONSENSE as error:
            raise BadInput(damaged(self.path, error)) from error
        try:
            with source as opened:
                yield opened
        except DAMAGE as error:
            raise BadInput(damaged(self.path, error)) from error

    def content(self) -> bytes:
        """All of it, now. Raises BadInput if it cannot be read or is too large."""
        if self.size > MAX_FILE_BYTES:
            raise BadInput(f"{one_line(self.path)} has {too_large(self.size)}; remove it")
        with self.open() as opened:
            return opened.read()

    def reader(self, most: int | None = None) -> Read:
        """What gets its bytes in a worker: raises Rejected if they are more than `most`, or
        MAX_FILE_BYTES."""
        if self.loose is not None:
            return partial(read_file, self.loose, most)
        if self.packed > (most or MAX_FILE_BYTES):
            return partial(refuse, "too large", too_large(self.packed, most))
        return self.later if self.later is not None else partial(bytes, self.content())


def refusal(path: str, reason: str, detail: str) -> Member:
    """A member that stands for bytes that cannot be had."""
    why = partial(refuse, reason, detail)
    return Member(path, why, why, refused=True)  # type: ignore[arg-type]  # opening it raises


def held(read: Read) -> int:
    """The bytes of memory that a reader takes up, as it has read them already."""
    return len(read.args[0]) if isinstance(read, partial) and read.func is bytes else 0


def refuse(reason: str, detail: str) -> bytes:
    """Stands for bytes that cannot be had: raises Rejected."""
    raise Rejected(reason, detail)


def read_file(path: str | Path, most: int | None = None) -> bytes:
    """The bytes of a file; raises Rejected where opening it would hang or fill memory."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise Rejected("unreadable", "it is not a regular file")
    if status.st_size > (most or MAX_FILE_BYTES):
        raise Rejected("too large", too_large(status.st_size, most))
    with open(path, "rb") as opened:
        return opened.read()


def loose(whole: str, path: str) -> Member:
    """A file that lies in no archive."""
    return Member(path, partial(_open, whole), partial(read_file, whole), 0, whole)


def _open(path: str) -> IO[bytes]:
    return files.open_regular(Path(path))


def damaged(path: str | os.PathLike[str], error: Exception) -> str:
    """What to say of an archive that breaks off."""
    why = one_line(str(error)) or type(error).__name__
    return (
        f"{one_line(os.fspath(path))} cannot be read to its end ({why}); remove it and fetch it "
        "again"
    )


def too_large(size: int, most: int | None = None) -> str:
    """What to say of a file of so many bytes."""
    return f"{size:,} bytes; the limit is {most or MAX_FILE_BYTES:,}"
