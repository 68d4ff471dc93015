"""The datasets that can be fetched by name: catalog.yaml, and HOME/catalog.yaml merged over it."""

import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from dallebaby_cli import names
from dallebaby_cli.config import settings, yaml_reader
from dallebaby_cli.errors import BadInput, UsageError
from dallebaby_cli.store import manifest
from dallebaby_cli.text import one_line

EMBEDDED = Path(__file__).with_name("catalog.yaml")


@dataclass(frozen=True, kw_only=True)
class File:
    """One file of a dataset."""

    path: str
    """the end of its path in the torrent, or its name here; a folder when it ends in /"""
    also: tuple[str, ...] = ()
    """other paths that it may have"""
    wanted: bool = True
    """fetched unless --files says otherwise"""
    in_torrent: bool = True
    """false where only `urls` have it"""
    urls: tuple[str, ...] = ()
    """HTTP addresses of this very file, tried in this order"""
    size_bytes: int | None = None
    """None while nobody knows"""
    sha256: str | None = None
    """of the whole file"""
    md5: str | None = None
    """of the whole file, where no sha256 is known"""
    note: str = ""
    """a few words for the list of files"""

    @property
    def patterns(self) -> tuple[str, ...]:
        """What `matches` takes to find this file."""
        return (self.path, *self.also)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One dataset: where it comes from and what is known of it."""

    name: str
    """what a person types"""
    title: str = ""
    """what the dataset is called elsewhere"""
    layout: str = "folder"
    """the reader that prep uses"""
    info_hash: str | None = None
    """of its torrent, in hex"""
    torrent_url: str | None = None
    """where the .torrent file may be had; {info_hash} stands for the hash"""
    trackers: tuple[str, ...] = ()
    """of its torrent"""
    web_seeds: tuple[str, ...] = ()
    """HTTP servers that hold the torrent's content (BEP 19)"""
    kaggle: str | None = None
    """OWNER/NAME on Kaggle"""
    files: tuple[File, ...] = field(default=())
    """the files that are known; a torrent may hold more"""
    listed_bytes: int | None = None
    """download size as published, where the files' sizes are not known"""
    images: int | None = None
    """pictures with the default files"""
    captions: str = ""
    """captions or labels, and how many a picture"""
    licence: str = ""
    """in a few words; read the homepage"""
    access: str = "open"
    """what a person needs before the download"""
    traps: tuple[str, ...] = ()
    """what is odd about it"""
    citation: str = ""
    """the paper to cite"""
    homepage: str = ""
    """where to read more"""

    @property
    def transport(self) -> Literal["bittorrent", "kaggle", "http", "none"]:
        """How its main files come here; none for what is drawn and not downloaded."""
        if self.info_hash:
            return "bittorrent"
        return "kaggle" if self.kaggle else "http" if self.files else "none"

    @property
    def download_bytes(self) -> int | None:
        """Size of the default download; None where nobody knows."""
        sizes = [f.size_bytes for f in self.files if f.wanted]
        known = sum(s for s in sizes if s is not None)
        return self.listed_bytes or (known if sizes and known else None)

    @property
    def magnet(self) -> str:
        """The magnet link of its torrent."""
        assert self.info_hash is not None
        kind = "btih:" if len(self.info_hash) == 40 else "btmh:1220"
        parts = [f"xt=urn:{kind}{self.info_hash}", f"dn={quote(self.name)}"]
        for key, addresses in (("tr", self.trackers), ("ws", self.web_seeds)):
            quoted = (quote(address, safe=string.punctuation) for address in addresses)
            parts += [f"{key}={quote(address, safe='')}" for address in quoted]
        return "magnet:?" + "&".join(parts)


def named(paths: Iterable[str], patterns: Iterable[str]) -> set[str]:
    """The paths that the patterns name. A pattern is a path, the end of one, or a folder ending in
    /; only where it is none of these, it is a glob: files may be called `data [v2].zip`."""
    paths, found = list(paths), set()
    for pattern in patterns:
        found |= {p for p in paths if _is(p, pattern)} or {p for p in paths if _fits(p, pattern)}
    return found


def _is(path: str, pattern: str) -> bool:
    if pattern.endswith("/"):
        return f"/{pattern}" in f"/{path}"
    return path == pattern or path.endswith(f"/{pattern}")


def _fits(path: str, pattern: str) -> bool:
    pattern = f"{pattern}*" if pattern.endswith("/") else pattern
    return fnmatchcase(path, pattern) or fnmatchcase(path, f"*/{pattern}")


def require_all(patterns: tuple[str, ...], paths: Sequence[str], dataset: str) -> None:
    """Raise UsageError for the first pattern that none of the dataset's paths matches."""
    for pattern in patterns:
        if not named(paths, (pattern,)):
            raise UsageError(
                f"--files {pattern}: nothing in {dataset} has such a path"
                f"{settings.nearest(pattern, paths[:1000])} (--list shows them all)"
            )


def load(home: Path) -> dict[str, Dataset]:
    """Every known dataset by name; fields in HOME/catalog.yaml win over the embedded ones.

    Raises BadInput that names the file, the dataset and the field when something does not fit.
    """
    raw = _read(EMBEDDED)
    own = home / "catalog.yaml"
    if own.exists():
        for name, fields in _read(own).items():
            raw[name] = {**raw.get(name, {}), **fields}
    return {name: _dataset(name, fields, own) for name, fields in raw.items()}


def find(home: Path, name: str) -> Dataset | None:
    """The dataset of that name, if there is one."""
    return load(home).get(name)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = yaml_reader.read(path)
    except ValueError as error:
        raise BadInput(f"{path} is not valid YAML: {one_line(str(error))}; correct it") from error
    datasets = content.get("datasets") if isinstance(content, dict) else None
    if not isinstance(datasets, dict) or not all(isinstance(d, dict) for d in datasets.values()):
        raise BadInput(f"{path} must hold `datasets:` with one block of fields per name below it")
    return {str(name): fields for name, fields in datasets.items()}


def _dataset(name: str, fields: Mapping[str, Any], own: Path) -> Dataset:
    try:
        dataset = settings.build(Dataset, {**fields, "name": name})
        manifest.artefact(own.parent, "raw", name)  # refuses what cannot be a folder's name
        _require_safe(dataset)
    except (UsageError, TypeError) as error:
        raise BadInput(f"{own}: dataset {name}: {error}") from error
    if dataset.torrent_url and dataset.info_hash:
        url = dataset.torrent_url.replace("{info_hash}", dataset.info_hash)
        dataset = replace(dataset, torrent_url=url)
    return dataset


def _require_safe(dataset: Dataset) -> None:
    """Raise UsageError for a path at which no file of the dataset may be written."""
    if dataset.kaggle and not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", dataset.kaggle, re.ASCII):
        raise UsageError(f"kaggle: {dataset.kaggle!r} is not OWNER/NAME")
    taken: set[str] = set()
    for file in dataset.files:
        if dataset.info_hash and not file.urls:
            continue  # what it names is in the torrent, whose paths are looked at there
        for path in file.patterns:
            why = "is a folder, which only torrents have" if path.endswith("/") else ""
            if names.reserved(path):
                why = "has the name of a file that dallebaby itself writes"
            if why := names.unsafe(path) or why:
                raise UsageError(f"the path {path!r} {why}")
        if file.path in taken or any(above in taken for above in names.above(file.path)):
            raise UsageError(f"the path {file.path!r} is there twice, or lies below a file")
        taken.add(file.path)
