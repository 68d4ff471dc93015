"""STL-10: 96 px pictures in one compressed tar, 13,000 with one of ten labels, 100,000 with none.

https://cs.stanford.edu/~acoates/stl10. A picture is 27,648 bytes: planes of red, green and blue,
each stored column by column. Labels count from 1. The official test pictures are the hold-out.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from dallebaby_cli.errors import BadInput
from dallebaby_cli.prep import archives, sidecars
from dallebaby_cli.prep.member import Member
from dallebaby_cli.prep.readers import Record, Records, Split
from dallebaby_cli.store import captions

ARCHIVE = "stl10_binary.tar.gz"
NAMES = "class_names.txt"
PARTS: dict[str, Split] = {"train": "train", "test": "holdout", "unlabeled": "train"}
PX = 96
BYTES = 3 * PX * PX


def fits(names: set[str]) -> bool:
    """Whether there is the archive, or what comes out of it."""
    return bool(names & {ARCHIVE, "train_X.bin"})


def read(folder: Path) -> Records:
    """All pictures, in the archive's order. Raises BadInput without labels."""
    labels = archives.named(folder, "train_y.bin", "test_y.bin", NAMES, within=(ARCHIVE,))
    if len(labels) < 3:
        raise BadInput(f"{folder} lacks {ARCHIVE} or a part of it; fetch stl10 again")
    return Records(_rows(folder, labels))


def _rows(folder: Path, labels: dict[str, bytes]) -> Iterator[Record]:
    classes = sidecars.decoded(labels[NAMES]).split()
    for member in archives.members(folder, ARCHIVE):
        part = member.name.removesuffix("_X.bin")
        if member.refused:
            yield Record(member.path, member.reader())
        elif part in PARTS and part != member.name:
            yield from _part(member, part, labels.get(f"{part}_y.bin"), classes)


def _part(member: Member, part: str, codes: bytes | None, classes: list[str]) -> Iterator[Record]:
    count = member.size // BYTES
    fitting = codes is None or (len(codes) == count and set(codes) <= {*range(1, len(classes) + 1)})
    if member.size % BYTES or not fitting:
        raise BadInput(f"{member.path} does not fit its labels; fetch stl10 again")
    with member.open() as opened:
        for number in range(count):
            file = f"{member.path}/{number:06}"
            picture = partial(pixels, opened.read(BYTES))
            if codes is None:
                yield Record(file, picture, split=PARTS[part])
            else:
                label = classes[codes[number] - 1]
                texts = captions.from_labels([label], file)
                yield Record(file, picture, texts, label, PARTS[part], "template")


def pixels(planes: bytes) -> np.ndarray:
    """Pixels uint8 RGB (96, 96, 3) from three planes stored column by column."""
    return np.frombuffer(planes, np.uint8).reshape(3, PX, PX).transpose(2, 1, 0)
