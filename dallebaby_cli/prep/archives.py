"""Files in a folder and in the archives that lie in it, without unpacking anything to disk.

Zips and plain tars are read at random, so that workers fetch what they need; compressed tars can
only be read from front to back, so their files are read as they come by. Nothing is ever written
under a name that came from an archive.
"""

import os
import stat
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from dallebaby_cli.errors import BadInput
from dallebaby_cli.prep import kinds, tars, zips
from dallebaby_cli.prep.member import NONSENSE, Member, damaged, loose, refusal
from dallebaby_cli.store import manifest

TARS = (".tar", *(".tar" + end for end in (".gz", ".bz2", ".xz")), ".tgz", ".tbz2", ".tbz", ".txz")
UNREAD = (".rar", ".7z", ".tar.zst", ".tzst", ".tar.lz4", ".lzh", ".cab", ".ace")
LOOSE = ("",)  # a `within` that matches no archive


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


def holds_pictures(folder: Path, path: str) -> bool:
    """Whether an archive has a picture in it, as far as it can be read."""
    try:
        return any(member.is_picture for member in _members(folder, path, ()))
    except BadInput:
        return True  # somebody should look


def _members(folder: Path, path: str, within: tuple[str, ...]) -> Iterator[Member]:
    effort = _effort(path)
    if not effort:
        unread = path.lower().endswith(UNREAD)
        yield refusal(path, *NOT_READ) if unread else loose(f"{folder}/{path}", path)
        return
    whole = folder / path
    if not whole.is_file():
        yield refusal(path, "unreadable", "it is no file, or a link that leads nowhere")
    elif _matches(path, within):
        try:
            for member in (zips if effort == 1 else tars).members(whole, path, _wanted):
                inner = is_archive(member.name) or member.name.lower().endswith(UNREAD)
                nested = inner and not member.refused
                yield refusal(member.path, *NOT_READ) if nested else member
        except NONSENSE as error:
            raise BadInput(damaged(whole, error)) from error


NOT_READ = ("unreadable", "it is an archive that is not looked into; unpack it into the folder")


def is_archive(path: str) -> bool:
    """Whether a file of that name is an archive that is looked into."""
    return _effort(path) > 0


def _effort(path: str) -> int:
    """How hard it is to look into a file: 0 if it is no archive, 3 if all of it must be read."""
    lower = path.lower()
    return (
        1 if lower.endswith(".zip") else 2 if lower.endswith(".tar") else 3 * lower.endswith(TARS)
    )


def _matches(path: str, within: tuple[str, ...]) -> bool:
    name = path.rpartition("/")[2]
    return not within or any(fnmatchcase(name, glob) for glob in within)


def walk(folder: Path) -> Iterator[str]:
    """Paths of all files below a folder (links to folders are not followed), in no order; a folder
    that cannot be read is listed as if it were a file. Hidden files, and dallebaby's own workspaces
    with all that is in them, are left out. Raises BadInput if `folder` itself cannot be read."""
    waiting = [""]
    while waiting:
        start = waiting.pop()
        try:
            with os.scandir(folder / start if start else folder) as scanned:
                inside = [entry for entry in scanned if not is_litter(entry.name)]
        except OSError as error:
            if not start:
                raise BadInput(f"{folder} cannot be read: {error.strerror}") from error
            yield start[:-1]
            continue
        folders = {entry.name for entry in inside if _is_folder(entry)}
        if start and "images" in folders and manifest.every(folder / start, "images"):
            continue
        for entry in inside:
            if entry.name not in folders:
                yield start + entry.name
            elif not _is_link(entry):
                waiting.append(f"{start}{entry.name}/")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_link(entry: os.DirEntry[str]) -> bool:
    """Whether it stands for another folder: a link, or on Windows a junction."""
    junction = getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", None)
    if entry.is_symlink() or junction is None:
        return entry.is_symlink()
    return getattr(entry.stat(follow_symlinks=False), "st_reparse_tag", None) == junction


def _wanted(path: str) -> bool:
    return not is_litter(path.replace("\\", "/"))


def is_litter(path: str) -> bool:
    """Whether some system left the file there: hidden, or in macOS's own folder."""
    parts = path.split("/")
    return any(
        (part[:1] == "." and part not in (".", "..")) or part == "__MACOSX" for part in parts
    )


def is_picture(path: str) -> bool:
    """Whether a file of that name should hold a picture, as far as the name tells."""
    return bool(kinds.by_name(path)) and not is_litter(path)
