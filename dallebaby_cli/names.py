"""Names that came from outside: the only way a torrent or archive may name a file on our disk."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePath

LONGEST = 255  # bytes of one name, on every file system that matters
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
NOT_ON_WINDOWS = re.compile(
    r"""[<>:"|?*]|[ .]$|^(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[1-9¹²³]) *(\.|$)""", re.I
)


def unsafe(path: str) -> str:
    """Why a relative path must not be written below one of our folders; "" if it may be.

    Refuses absolute paths, drive letters, `..`, empty and over-long names, control characters and
    backslashes (which other systems take for separators).
    """
    if not path or path.startswith("/") or re.match(r"[A-Za-z]:", path):
        return "is absolute or empty"
    if "\\" in path or CONTROL.search(path):
        return "holds a backslash or a control character"
    parts = path.rstrip("/").split("/")
    if ".." in parts:
        return "leaves its folder through .."
    if any(part in ("", ".") for part in parts):
        return "holds an empty name"
    try:
        if any(len(os.fsencode(part)) > LONGEST for part in parts):
            return f"holds a name of over {LONGEST} bytes"
    except UnicodeEncodeError:
        return "holds what no file can be called: half of a letter"
    if os.name == "nt" and not on_windows(path):
        return "holds a name that Windows does not allow"
    return ""


def on_windows(path: str) -> bool:
    """Whether Windows can hold files of these names: none of its devices' (con, nul.txt), no
    blank or dot at the end, no `:` or other letters that it keeps for itself."""
    return not any(map(NOT_ON_WINDOWS.search, path.split("/")))


def below(folder: PurePath, path: PurePath) -> str:
    """The path of a file below a folder, with / between names on every system; "" for itself."""
    relative = path.relative_to(folder)
    return relative.as_posix() if relative.parts else ""


def above(path: str) -> Iterator[str]:
    """The folders that a relative path lies in, the nearest first."""
    while path := path.rpartition("/")[0]:
        yield path


def distinct(paths: Sequence[str], *, fold: bool) -> list[str]:
    """The paths with numbers in the names of those that are there before, or are a folder of
    others: a.jpg, a.1.jpg. With `fold`, in the eyes of file systems that ignore case."""
    key = folded if fold else str
    taken = {key(folder) for path in paths for folder in above(path)}
    given, tried, found = {key(path) for path in paths}, Counter[str](), []
    for path in paths:
        called = path
        while key(called) in taken or (called != path and key(called) in given):
            tried[path] += 1
            called = _numbered(path, tried[path])
        taken.add(key(called))
        found.append(called)
    return found


def _numbered(path: str, number: int) -> str:
    """The path with a number before the ending of its last name, which stays short enough."""
    folder, slash, name = path.rpartition("/")
    suffix = PurePath(name).suffix
    ending = f".{number}{suffix}"
    stem = os.fsencode(name.removesuffix(suffix))[: LONGEST - len(os.fsencode(ending))].decode(
        "utf-8", "ignore"
    )
    return f"{folder}{slash}{stem}{ending}"


def ending(path: str) -> str:
    """What a file's name ends in, such as ".jpg", in small letters; "" if it has no ending."""
    stem, dot, last = path.rpartition("/")[2].rpartition(".")
    return (dot + last).lower() if stem.strip(".") else ""


def reserved(path: str) -> bool:
    """Whether a path is one that dallebaby itself writes in an artefact's folder."""
    first = path.partition("/")[0].lower()
    return (
        first == "manifest.json"
        or first in (".lock", ".torrent", ".resume")
        or (first.startswith(".") and first.endswith((".parts", ".part", ".part.json", ".tmp")))
    )


def folded(path: str) -> str:
    """The path as file systems that ignore case and accents' spelling compare it."""
    return path.lower() if path.isascii() else unicodedata.normalize("NFC", path).casefold()
