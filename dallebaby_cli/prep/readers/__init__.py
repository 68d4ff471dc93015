"""Readers: one file per raw layout; each turns a folder as fetched into Records, in a fixed order.

A reader module has `fits(names) -> bool`, which tells the layout by the names of the folder's
files, and `read(folder) -> Records`. Archives are read where they lie. Records are made one by one
in the parent process and cross to workers, which call `record.read()` for the bytes.
"""

import importlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Literal, NamedTuple

import numpy as np

from dallebaby_cli import files
from dallebaby_cli.config import CaptionsFrom
from dallebaby_cli.config.settings import nearest
from dallebaby_cli.errors import BadInput
from dallebaby_cli.prep import archives
from dallebaby_cli.prep.member import refuse

LAYOUTS = (
    "visual-genome",  # holds COCO's annotations, too
    "coco",
    "flickr30k",
    "stl10",
    "cifar10",
    "cifar100",
    "openimages",
    "yelp",
    "indoor67",
    "food101",
    "svhn",
    "imagenet64",
    "webdataset",
    "folder",
)
"""Module names, - for _. A folder of no known dataset is tried against each, in this order; any
is a "folder" of pictures."""

BY_NAMES = ("webdataset", "folder")
"""Layouts in which names alone tell what captions are"""

Split = Literal["train", "holdout"]
Writer = Literal["human", "template"]


class Drawn(NamedTuple):
    """A picture that was made and captioned on the spot."""

    pixels: np.ndarray  # uint8 RGB (H, W, 3)
    captions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """One picture of a dataset and what is known about it, before it is opened."""

    file: str
    """where it comes from, below the dataset's folder"""
    read: Callable[[], bytes | np.ndarray | Drawn]
    """gets a picture file's bytes, or pixels uint8 RGB (H, W, 3); picklable; may raise anything"""
    captions: tuple[str, ...] = ()
    label: str | None = None
    split: Split | None = None
    """the dataset's own split; None leaves it to the content's hash"""
    written_by: Writer | tuple[Writer, ...] = "human"
    """who wrote the captions, or each of them"""


def left_out(rows: Iterable[tuple[str, str, str]]) -> Iterator[Record]:
    """Records that stand for what could not be used beside pictures: file, reason, detail of
    each."""
    for file, reason, detail in rows:
        yield Record(file, partial(refuse, reason, detail))


@dataclass(frozen=True)
class Records:
    """What a reader found."""

    rows: Iterator[Record]
    count: int | None = None
    """how many pictures there are, where that is known beforehand"""
    decided: str = ""
    """what captions are made of, where that was not clear"""


def detect(folder: Path, captions_from: CaptionsFrom = "auto") -> str:
    """The name of the layout that a folder's files show; where somebody says what captions are to
    be taken from, it is read as any folder."""
    names = {path.rpartition("/")[2] for path in archives.walk(folder)}
    tried = LAYOUTS if captions_from == "auto" else BY_NAMES
    return next(layout for layout in tried if _module(layout).fits(names))


def read(layout: str, folder: Path, captions_from: CaptionsFrom = "auto") -> Records:
    """The records of a folder in the given layout. Raises BadInput if it is not in that layout."""
    if layout not in LAYOUTS:
        raise BadInput(f"no reader for the layout {layout!r} of {folder}{nearest(layout, LAYOUTS)}")
    found: Records
    if layout in BY_NAMES:
        found = _module(layout).read(folder, captions_from)
        return found
    found = _module(layout).read(folder)
    return replace(found, rows=_with_the_rest(found.rows, folder, layout))


def _with_the_rest(rows: Iterator[Record], folder: Path, layout: str) -> Iterator[Record]:
    """The rows, then one for each picture and archive with pictures of which none came: a known
    dataset's reader looks for that dataset's files alone."""
    rest = {p for p in archives.walk(folder) if archives.is_picture(p) or archives.is_archive(p)}
    for record in rows:
        path = record.file
        while path and path not in rest:  # up to the archive that it lies in
            path = path.rpartition("/")[0]
        rest.discard(path)
        yield record
    why = f"no part of {layout}; --set captions_from=both reads the folder as any other"
    for path in sorted(rest):
        if archives.is_picture(path) or archives.holds_pictures(folder, path):
            yield Record(path, partial(refuse, "left out", why))


def _module(layout: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{layout.replace('-', '_')}")


def fingerprint(folder: Path) -> str:
    """A hash of the names, sizes and times of all files below a folder: equal while nobody has
    touched them. Raises BadInput if the folder cannot be read."""
    lines = []
    for path in archives.walk(folder):
        try:
            status = os.stat(f"{folder}/{path}")
            lines.append(f"{path!r} {status.st_size} {status.st_mtime_ns}")
        except OSError:  # a dangling link, say
            lines.append(f"{path!r} -")
    return files.hash_of(sorted(lines))
