"""What a torrent holds, and which of it is wanted."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from dallebaby_cli import names
from dallebaby_cli.errors import BadInput
from dallebaby_cli.fetch import magnet
from dallebaby_cli.fetch.catalog import Dataset, named, require_all


@dataclass(frozen=True)
class Entry:
    """One real file of a torrent: no padding, no link."""

    index: int
    path: str
    size_bytes: int
    offset: int
    """of its first byte among all the bytes of the torrent"""

    @property
    def here(self) -> str:
        """The path with this system's sign between names, as libtorrent itself writes it."""
        return str(PurePath(self.path))


@dataclass(frozen=True)
class Contents:
    """What a torrent holds. Raises BadInput if its paths leave the folder, or get in each other's
    way."""

    info_hash: str
    name: str
    entries: tuple[Entry, ...]
    piece_bytes: int
    total_bytes: int
    total_files: int
    """with padding and links, which have an index too"""
    links: tuple[str, ...] = ()
    """paths of symbolic links; they are never made"""
    padding: tuple[Entry, ...] = ()
    """bytes between files that are zero and in no file"""
    renamed: dict[str, str] = field(default_factory=dict)
    """path here → path in the torrent, where it could not be the same"""
    private: bool = False
    """whether it asks to be fetched through its trackers alone (BEP 27)"""

    def __post_init__(self) -> None:
        links, taken = {names.folded(link) for link in self.links}, set()
        for entry in self.entries:
            if why := names.unsafe(entry.path):
                raise BadInput(f"torrent {self.name!r}: the path {entry.path!r} {why}")
            if entry.path in taken or names.folded(entry.path) in links:
                raise BadInput(f"torrent {self.name!r} holds {entry.path!r} twice")
            taken.add(entry.path)
        for folder, path in {e.path.rpartition("/")[0]: e.path for e in self.entries}.items():
            for above in (folder, *names.above(folder)):
                if above in taken or names.folded(above) in links:
                    raise BadInput(f"torrent {self.name!r}: {path!r} lies below a file")

    def pieces(self, entry: Entry) -> range:
        """The pieces that hold a part of the entry."""
        if not entry.size_bytes:
            return range(0)
        last = (entry.offset + entry.size_bytes - 1) // self.piece_bytes
        return range(entry.offset // self.piece_bytes, last + 1)

    def whole_pieces(self, entries: Sequence[Entry]) -> list[bool]:
        """Of each piece, whether the entries and padding hold all of it."""
        held = [0] * -(-self.total_bytes // self.piece_bytes)
        for entry in (*entries, *self.padding):
            end = entry.offset + entry.size_bytes
            for piece in self.pieces(entry):
                first = max(entry.offset, piece * self.piece_bytes)
                held[piece] += min(end, (piece + 1) * self.piece_bytes) - first
        last = len(held) - 1
        rest = self.total_bytes - last * self.piece_bytes
        return [n == (rest if piece == last else self.piece_bytes) for piece, n in enumerate(held)]

    def fits(self, have: Sequence[bool], wanted: Sequence[Entry], folder: Path) -> bool:
        """Whether every wanted file is long enough for the pieces that are said to be here."""
        for entry in wanted:
            here = [p for p in self.pieces(entry) if p < len(have) and have[p]]
            if here:
                needed = min((here[-1] + 1) * self.piece_bytes - entry.offset, entry.size_bytes)
                try:
                    if (folder / entry.path).stat().st_size < needed:
                        return False
                except FileNotFoundError:
                    return False
        return True

    def chosen(self, patterns: tuple[str, ...], keep: tuple[str, ...] = ()) -> list[Entry]:
        """The entries that the patterns name, and those to keep."""
        asked = {*keep, *named((e.path for e in self.entries), patterns)}
        for only in patterns:
            if only.startswith(magnet.ONLY):
                asked |= {e.path for e in self.entries if magnet.selects(only, e.index)}
        return [e for e in self.entries if e.path in asked]


def absent(found: Contents, dataset: Dataset, patterns: tuple[str, ...]) -> list[str]:
    """Files that the catalogue expects by default and this torrent does not hold.

    With `patterns`, raises UsageError for the first one that names nothing at all.
    """
    paths = [e.path for e in found.entries]
    beside = [name for f in dataset.files if not f.in_torrent for name in f.patterns]
    require_all(patterns, [*paths, *beside], dataset.name)
    if patterns:
        return []
    expected = [f for f in dataset.files if f.wanted and f.in_torrent]
    missing = [f.path for f in expected if not named(paths, f.patterns)]
    if expected and len(missing) == len(expected):
        raise BadInput(
            f"the torrent of {dataset.name} holds none of the expected files; look at it with "
            f"`dallebaby fetch {dataset.name} --list` and choose with --files"
        )
    return missing


def edges(found: Contents, wanted: list[Entry], folder: Path) -> dict[int, str]:
    """SHA-256 of the wanted bytes of each piece that unwanted files share.

    Such a piece cannot be verified later, because nothing of the unwanted files is kept.
    """
    parts: dict[int, list[tuple[Path, int, int]]] = {}
    for entry in wanted:
        end, touched = entry.offset + entry.size_bytes, found.pieces(entry)
        for piece in {*touched[:1], *touched[-1:]}:
            first = max(entry.offset, piece * found.piece_bytes)
            last = min(end, (piece + 1) * found.piece_bytes)
            part = (folder / entry.path, first - entry.offset, last - first)
            parts.setdefault(piece, []).append(part)
    whole = found.whole_pieces(wanted)
    return {piece: _digest(pieces) for piece, pieces in parts.items() if not whole[piece]}


def _digest(parts: list[tuple[Path, int, int]]) -> str:
    digest = hashlib.sha256()
    for path, start, length in parts:
        try:
            with path.open("rb") as handle:
                handle.seek(start)
                digest.update(handle.read(length))
        except FileNotFoundError:
            digest.update(b"missing")
    return digest.hexdigest()
