"""What a .torrent file, a magnet link and a saved state say; torrent.py and this alone know
libtorrent."""

import os
from collections import Counter
from pathlib import Path
from typing import Any, cast

from dallebaby_cli import files, names
from dallebaby_cli.errors import BadInput, DallebabyError
from dallebaby_cli.fetch.file_list import Contents, Entry

try:
    import libtorrent as libtorrent  # for torrent.py, too
except ImportError as error:
    raise DallebabyError(
        f"BitTorrent needs the libtorrent package, which does not load here ({error}); "
        "install it with `pip install libtorrent`, or take a dataset that comes over HTTP"
    ) from error

LARGEST = 1 << 26  # bytes of a .torrent file


def read(path: Path) -> bytes:
    """The bytes of a .torrent file. Raises what files.read_small does."""
    return files.read_small(path, LARGEST)


def load(metadata: bytes, where: str) -> Any:
    """What libtorrent makes of a .torrent file. Raises BadInput if it is none."""
    try:
        return libtorrent.load_torrent_buffer(metadata)
    except RuntimeError as error:
        raise BadInput(f"{where} is not a torrent that can be read: {error}") from error


def info_hashes(metadata: bytes, where: str) -> tuple[str, ...]:
    """What a .torrent file is known by, in versions 1 and 2. Raises BadInput if it is none."""
    hashes = load(metadata, where).info_hashes
    found = [str(hashes.v1)] if hashes.has_v1() else []
    return (*found, *([str(hashes.v2)] if hashes.has_v2() else []))


def parse_magnet(link: str) -> Any:
    """What libtorrent makes of a magnet link, None of "". Raises BadInput if it is none."""
    try:
        return libtorrent.parse_magnet_uri(link) if link else None
    except RuntimeError as error:
        raise BadInput(f"{link[:80]!r} is not a magnet link: {error}") from error


def read_state(state: bytes) -> Any:
    """What libtorrent makes of a saved state; None where it cannot read it."""
    try:
        return libtorrent.read_resume_data(state)
    except RuntimeError:
        return None


def written(parameters: Any) -> bytes:
    """A .torrent file of what libtorrent knows. Of a torrent of version 2, the piece layers are
    left out unless all are known: peers give them after the list of files, each with its file."""
    try:
        return bytes(libtorrent.bencode(cast(Any, libtorrent.write_torrent_file(parameters))))
    except RuntimeError:
        return b"d4:info" + parameters.ti.info_section() + b"e"


def contents(metadata: bytes, where: str, folder: Path) -> Contents:
    """Read a .torrent file whose content comes into `folder`.

    Names that dallebaby itself writes, and names that are there twice (or are the same to the file
    system of `folder`), are changed. Raises BadInput if it is no torrent, or names a file outside
    its folder (libtorrent has already bent hostile names back into it; Contents looks again).
    """
    info: Any = load(metadata, where).ti
    storage = info.layout() if hasattr(info, "layout") else info.files()  # 2.1 else 2.0
    given: list[Entry] = []
    padding, links = [], []
    for index in range(storage.num_files()):
        path = storage.file_path(index).replace(os.sep, "/").removeprefix(f"{info.name()}/")
        size, offset = storage.file_size(index), storage.file_offset(index)
        flags = storage.file_flags(index)
        if flags & libtorrent.file_flags_t.flag_symlink:
            links.append(path)
        elif flags & libtorrent.file_flags_t.flag_pad_file:
            padding.append(Entry(index, "", size, offset))
        else:
            if names.reserved(path):
                if storage.num_files() == 1:
                    raise BadInput(f"{where} is named {path!r}, as a file that dallebaby writes")
                path = f"_{path}"
            given.append(Entry(index, path, size, offset))
    called = _distinct([entry.path for entry in given], folder)
    return Contents(
        info_hash=info_hashes(metadata, where)[0],
        name=info.name(),
        entries=tuple(
            Entry(e.index, path, e.size_bytes, e.offset)
            for e, path in zip(given, called, strict=True)
        ),
        piece_bytes=info.piece_length(),
        total_bytes=info.total_size(),
        total_files=storage.num_files(),
        links=tuple(links),
        padding=tuple(padding),
        renamed={new: e.path for e, new in zip(given, called, strict=True) if new != e.path},
        private=bool(info.priv()),
    )


def _distinct(paths: list[str], folder: Path) -> list[str]:
    """The paths, changed where one is there twice in the eyes of the folder's file system."""
    folded = Counter(map(names.folded, [*paths, *{a for p in paths for a in names.above(p)}]))
    if max(folded.values(), default=1) == 1:
        return paths
    return names.distinct(paths, fold=files.ignores_case(folder))
