"""CIFAR-10 in its binary form: 60,000 pictures of 32 px, a label byte before each.

https://www.cs.toronto.edu/~kriz/cifar.html. The official test pictures are the hold-out. The
"python" form is a pickle, which can run any program on this machine, and is refused.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from dallebaby_cli.errors import BadInput
from dallebaby_cli.prep import archives, sidecars
from dallebaby_cli.prep.member import Member
from dallebaby_cli.prep.readers import Record, Records, Split
from dallebaby_cli.store import captions

ADDRESS = "https://www.cs.toronto.edu/~kriz/{}-binary.tar.gz"
ARCHIVE = "cifar-10-binary.tar.gz"
NAMES = "batches.meta.txt"
PX = 32
BYTES = 3 * PX * PX

Describe = Callable[[bytes, str], tuple[str, tuple[str, ...]]]
"""label bytes, the picture's name → label, captions"""


def fits(names: set[str]) -> bool:
    """Whether there is the archive, in either form, or what comes out of it."""
    return bool(names & {ARCHIVE, "cifar-10-python.tar.gz", "data_batch_1.bin"})


def read(folder: Path) -> Records:
    """All pictures, in the archive's order. Raises BadInput for pickles."""
    found = archives.named(folder, NAMES, within=(ARCHIVE,))
    if NAMES not in found:
        raise BadInput(no_binary(folder, "cifar-10"))
    classes = sidecars.decoded(found[NAMES]).split()

    def describe(codes: bytes, file: str) -> tuple[str, tuple[str, ...]]:
        label = classes[codes[0]]
        return label, captions.from_labels([label], file)

    return Records(rows(folder, ARCHIVE, 1, describe))


def no_binary(folder: Path, name: str) -> str:
    """What to tell a person whose folder has no binary form."""
    return (
        f"{folder} lacks {name}-binary.tar.gz (the python form is a pickle, which could run any "
        f"program, and is not read); fetch it from {ADDRESS.format(name)}"
    )


def rows(folder: Path, archive: str, label_bytes: int, describe: Describe) -> Iterator[Record]:
    """The pictures in all .bin files, each behind `label_bytes` bytes of labels."""
    for member in archives.members(folder, archive):
        if member.refused:
            yield Record(member.path, member.reader())
        elif member.name.endswith(".bin"):
            yield from _batch(member, label_bytes, describe)


def _batch(member: Member, label_bytes: int, describe: Describe) -> Iterator[Record]:
    each = label_bytes + BYTES
    if member.size % each:
        raise BadInput(f"{member.path} is cut off or of another format; fetch it again")
    with member.open() as opened:
        for number in range(member.size // each):
            file = f"{member.path}/{number:05}"
            row = opened.read(each)
            try:
                label, texts = describe(row[:label_bytes], file)
            except IndexError:
                raise BadInput(f"{file} has an unknown label; fetch the archive again") from None
            picture = partial(pixels, row[label_bytes:])
            side: Split = "holdout" if "test" in member.name else "train"
            yield Record(file, picture, texts, label, side, "template")


def pixels(planes: bytes) -> np.ndarray:
    """Pixels uint8 RGB (32, 32, 3) from three planes stored row by row."""
    return np.frombuffer(planes, np.uint8).reshape(3, PX, PX).transpose(1, 2, 0)
