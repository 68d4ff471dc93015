"""Files that are whole or not there at all: atomic writes, hashes, locks, free space."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dallebaby_cli.errors import Busy, DiskFull


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well, fsync it and rename it.

    If the block raises, the temporary file is removed and `path` stays as it was. A process that
    is killed leaves at most one `.NAME.tmp`, which the next writer of the same file overwrites.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut, where a folder can be opened (on Windows it
    cannot)."""
    with suppress(PermissionError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a whole small file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write a whole small UTF-8 file atomically."""
    write_bytes(path, content.encode())


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's content, read in pieces."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def hash_of(parts: Iterable[str]) -> str:
    """Hex SHA-256 of a list of strings, such as the hashes of an artefact's files."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def folder_bytes(folder: Path) -> int:
    """Total size of the regular files below `folder`."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file() and not f.is_symlink())


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
    held = FileLock(folder / ".lock", timeout=0)
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
