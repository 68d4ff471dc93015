"""Files that are whole or not there at all: atomic writes, bounded reads, hashes, locks, space."""

import errno
import hashlib
import io
import json
import os
import re
import shutil
import stat
import sys
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from dallebaby_cli.errors import BadInput, Busy, DiskFull

SMALL = 16 << 20  # bytes that a file of settings or figures has at most
LINE = 1 << 20  # bytes of a line of JSON
DEEP = 50  # levels of lists and objects in JSON and YAML
DIGITS = 400  # of a number
OTHERS_READ_S = 2.0  # that a file is waited for, which others read
UNKNOWN_THERE = (errno.EINVAL, errno.EBADF, errno.ENOTSUP)  # of a call that a disk does not know


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well, fsync it and rename it.

    If the block raises, the temporary file is removed and `path` stays as it was. A process that
    is killed leaves at most one `.NAME.….tmp`, which the next writer of the same file removes.
    Several processes may write the same file at once: the last one's stays, whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def replace(new: Path, path: Path) -> None:
    """Give `new` the name `path`, over what has it. On Windows that fails while anybody reads what
    is there, such as a scanner: then try for a while."""
    end = time.monotonic() + OTHERS_READ_S
    while True:
        try:
            new.replace(path)
        except PermissionError:
            if os.name != "nt" or time.monotonic() > end:
                raise
            time.sleep(0.02)
        else:
            return


def _temporary(path: Path) -> Path:
    """A new file beside `path` that no other process writes; what dead ones left is removed."""
    import socket

    host = f"{zlib.crc32(socket.gethostname().encode()):08x}"  # a disk may be shared by several
    for name in os.listdir(path.parent):
        if name.startswith(f".{path.name}.") and name.endswith(".tmp"):
            writer = name[len(path.name) + 2 : -len(".tmp")]
            ours = f"{host}-{os.getpid()}"  # of a dead process that had our number, or a link
            if writer in ("", ours) or (writer[:9] == f"{host}-" and not _lives(writer[9:])):
                path.with_name(name).unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{host}-{os.getpid()}.tmp")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return temporary


def _lives(process: str) -> bool:
    """Whether a process of this machine works on, by its number as text; true for other text."""
    import psutil

    return not re.fullmatch("[0-9]{1,9}", process) or psutil.pid_exists(int(process))


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut, where the system does that: Windows opens no
    folder, and many a network's disk knows no such thing."""
    with suppress(PermissionError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in UNKNOWN_THERE:
                raise
        finally:
            os.close(descriptor)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a whole small file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write a whole small UTF-8 file atomically."""
    write_bytes(path, content.encode())


def own(path: Path) -> Path:
    """`path`, of a working file of ours that will be written: a link, pipe or device in its place
    is removed first, and what it leads to is left alone."""
    with suppress(FileNotFoundError, NotADirectoryError):
        if not stat.S_ISREG(path.lstat().st_mode):
            path.unlink()
    return path


def open_regular(path: Path, *, follow: bool = True) -> io.BufferedReader:
    """Open a file to read: never a pipe or device, which could keep us waiting or have no end, nor,
    for working files of ours that nobody links (`follow` false), a symbolic link.

    Raises FileNotFoundError where nothing has that name, BadInput for all else.
    """
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
    if not follow:
        flags |= getattr(os, "O_NOFOLLOW", 0)
    try:
        descriptor = os.open(path, flags)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        why = getattr(error, "strerror", None) or error
        raise BadInput(f"{path} cannot be read: {why}; repair or remove it") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BadInput(f"{path} is a folder, pipe or device and no file; remove it")
    return os.fdopen(descriptor, "rb")


def read_small(path: Path, most: int = SMALL, *, follow: bool = True) -> bytes:
    """The content of a file that has no reason to be larger than `most` bytes. Raises what
    `open_regular` does, BadInput for larger ones too."""
    with open_regular(path, follow=follow) as handle:
        try:
            content = handle.read(most + 1)
        except OSError as error:
            raise BadInput(f"{path} cannot be read: {error.strerror}; restore it") from error
    if len(content) > most:
        raise BadInput(
            f"{path} has over {human_bytes(most)}, more than a file of its kind can have; "
            "restore or remove it"
        )
    return content


def read_json(path: Path, advice: str, *, most: int = SMALL, follow: bool = True) -> dict[str, Any]:
    """The object that a small JSON file holds. Raises FileNotFoundError, or BadInput whose sentence
    ends with `advice`: what to do about a file that is damaged."""
    content = read_small(path, most, follow=follow)
    try:
        found = parse_json(content)
        if not isinstance(found, dict):
            raise ValueError("it holds no JSON object")
    except ValueError as error:
        raise BadInput(f"{path} is damaged ({error}); {advice}") from error
    return found


def parse_json(content: bytes | str) -> Any:
    """What JSON in UTF-8 says. Raises ValueError for all that is wrong with it, nesting and numbers
    without end, too. Texts may hold halves of surrogate pairs, as paths that are no UTF-8 do."""
    text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
    try:
        found = json.loads(text, parse_int=_integer, parse_float=_decimal)
    except RecursionError:
        raise ValueError(f"it is nested over {DEEP} levels deep") from None
    level = [found]
    for _ in range(DEEP):
        if not level:
            return found
        level = [inner for value in level for inner in _inside(value)]
    raise ValueError(f"it is nested over {DEEP} levels deep")


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _integer(text: str) -> int:
    return int(_short(text))


def _decimal(text: str) -> float:
    return float(_short(text))


def _short(text: str) -> str:
    if len(text) > DIGITS:
        raise ValueError(f"a number in it has {len(text)} digits")
    return text


def read_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file of any size, with their ends; one of over LINE bytes, which no JSON of
    ours is, comes in pieces. Raises what `open_regular` does."""
    with open_regular(path) as handle:
        while line := handle.readline(LINE):
            yield line


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's content, read in pieces. Raises what `open_regular` does."""
    with open_regular(path) as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def hashes(paths: Sequence[Path]) -> dict[str, str]:
    """Each file's name and hex SHA-256; several are read at once. Raises as `sha256_file`."""
    with ThreadPoolExecutor(4) as pool:
        return {p.name: h for p, h in zip(paths, pool.map(sha256_file, paths), strict=True)}


def hash_of(parts: Iterable[str]) -> str:
    """Hex SHA-256 of a list of strings, such as the hashes of an artefact's files."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def folder_bytes(folder: Path) -> int:
    """Total size of the regular files below `folder`."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # others may rename and remove meanwhile
            status = path.lstat()
            total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total


def allocated_bytes(path: Path) -> int:
    """Disk space that a file, or all files below a folder, take up; half-fetched ones have
    holes, which count only where the system does not tell of them. 0 if there is none."""
    found = path.rglob("*") if path.is_dir() else [path]
    return sum(_allocated(f.stat()) for f in found if f.is_file() and not f.is_symlink())


def _allocated(status: os.stat_result) -> int:
    blocks: int | None = getattr(status, "st_blocks", None)  # not on Windows
    return status.st_size if blocks is None else blocks * 512


def human_bytes(count: float) -> str:
    """A size as people write it, in powers of 1000 as disks and torrents list them: "1.5 KB"."""
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def nearest(path: Path) -> Path:
    """`path` if it is there, else the closest folder above it that is. Raises FileNotFoundError
    where there is none: on a drive that is not there."""
    for there in (path, *path.absolute().parents):
        if there.exists():
            return there
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def ignores_case(folder: Path) -> bool:
    """Whether two names that differ in case alone are one file in `folder`, or where it will be."""
    try:
        with NamedTemporaryFile(prefix=".Case-", suffix=".tmp", dir=nearest(folder)) as probe:
            path = Path(probe.name)
            return path.with_name(path.name.swapcase()).exists()
    except OSError:  # nothing may be written there
        return sys.platform in ("win32", "darwin")


def free_bytes(folder: Path) -> int:
    """Room on the disk that holds `folder`, or will."""
    return shutil.disk_usage(nearest(folder)).free


def require_space(folder: Path, needed: int, what: str) -> None:
    """Raise DiskFull when `needed` bytes for `what` do not fit on the disk that holds `folder`."""
    free = free_bytes(folder)
    if needed > free:
        raise DiskFull(
            f"{what} needs {human_bytes(needed)} and the disk of {folder} has {human_bytes(free)} "
            "free; make room or choose another folder with --home"
        )


@contextmanager
def lock(folder: Path, what: str) -> Iterator[None]:
    """Hold `folder`/.lock for the block; raise Busy if another process does.

    The system releases it when its process ends, however it ends; the file may stay.
    """
    from filelock import FileLock, Timeout  # here, because --help needs none

    folder.mkdir(parents=True, exist_ok=True)
    held = FileLock(own(folder / ".lock"), timeout=0)
    try:
        held.acquire()
    except Timeout:
        raise Busy(
            f"another dallebaby is already working on {what} ({folder}); wait for it or stop it"
        ) from None
    try:
        yield
    finally:
        held.release()
