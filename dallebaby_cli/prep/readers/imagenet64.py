"""Downsampled ImageNet, 64 px: plain tars of 1.3 million PNGs, no labels, no captions.

https://arxiv.org/abs/1601.06759. The official validation pictures are the hold-out.
"""

from collections.abc import Iterator
from pathlib import Path

from dallebaby_cli.prep import archives
from dallebaby_cli.prep.readers import Record, Records, Split

ARCHIVES = ("train_64x64.tar", "valid_64x64.tar")


def fits(names: set[str]) -> bool:
    """Whether there is one of the archives."""
    return bool(names & set(ARCHIVES))


def read(folder: Path) -> Records:
    """All pictures, in the archives' order."""
    return Records(_rows(folder))


def _rows(folder: Path) -> Iterator[Record]:
    for member in archives.members(folder, *ARCHIVES):
        if member.is_picture:
            side: Split = "holdout" if member.folder.startswith("valid") else "train"
            yield Record(member.path, member.reader(), split=side)
