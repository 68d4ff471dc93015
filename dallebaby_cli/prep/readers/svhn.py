"""Street View House Numbers, full pictures: compressed tars of PNGs, with the digits in a MATLAB
file (HDF5) in each.

http://ufldl.stanford.edu/housenumbers. The digit 0 has the label 10. One digit's label is stored as
a number, several as references to numbers. The official test pictures are the hold-out.
"""

import io
from collections.abc import Iterator
from pathlib import Path

from dallebaby_cli.errors import BadInput
from dallebaby_cli.prep import archives
from dallebaby_cli.prep.readers import Record, Records, Split
from dallebaby_cli.store import captions

DIGITS = "digitStruct.mat"
ARCHIVES = ("train.tar.gz", "test.tar.gz", "extra.tar.gz")


def fits(names: set[str]) -> bool:
    """Whether there are the archives, or what comes out of them."""
    return DIGITS in names or {"train.tar.gz", "test.tar.gz"} <= names


def read(folder: Path) -> Records:
    """The pictures of all parts that are there. Raises BadInput if there are no digits."""
    numbers: dict[tuple[str, str], str] = {}
    for member in archives.members(folder, *ARCHIVES):
        if member.name == DIGITS:
            try:
                found = list(house_numbers(member.content()))
            except (OSError, LookupError, TypeError, ValueError, RuntimeError) as error:
                raise BadInput(
                    f"{member.path} is damaged ({error}); remove it and fetch svhn again"
                ) from error
            numbers |= {(member.folder, picture): number for picture, number in found}
    if not numbers:
        raise BadInput(f"{folder} lacks {DIGITS}, which tells the numbers; fetch svhn again")
    return Records(_rows(folder, numbers), len(numbers))


def _rows(folder: Path, numbers: dict[tuple[str, str], str]) -> Iterator[Record]:
    for member in archives.members(folder, *ARCHIVES):
        if member.is_picture:
            number = numbers.get((member.folder, member.name))
            things = [f"the house number {number}"] if number else []
            texts = captions.from_labels(things, member.path, article=False)
            side: Split = "holdout" if member.folder == "test" else "train"
            yield Record(member.path, member.reader(), texts, number, side, "template")


def house_numbers(content: bytes) -> Iterator[tuple[str, str]]:
    """Each picture's name and the number on it, such as ("1.png", "19")."""
    import h5py  # slow to load, and every reader is loaded to find out a folder's layout

    with h5py.File(io.BytesIO(content)) as file:
        names, boxes = file["digitStruct/name"], file["digitStruct/bbox"]
        for name, box in zip(names[:, 0], boxes[:, 0], strict=True):
            labels = file[box]["label"][:, 0]
            digits = labels if labels.dtype.kind == "f" else [file[ref][0, 0] for ref in labels]
            text = "".join(str(int(digit) % 10) for digit in digits)
            yield "".join(map(chr, file[name][:, 0])), text
