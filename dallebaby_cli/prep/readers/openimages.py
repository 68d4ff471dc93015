"""Open Images V4 at 256 px: compressed tars, and labels in tables that come over HTTP.

https://storage.googleapis.com/openimages/web/download_v4.html. Only labels that a person confirmed
(confidence 1) are used: 0 means that the thing is absent. Validation and test are the hold-out.
Some 2.6 % of the pictures lie on their side or head; tables say by how much, where they are there:
https://storage.googleapis.com/openimages/web/2018-05-17-rotation-information.html
"""

import csv
import io
import struct
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image
from pyarrow import csv as arrow_csv

from dallebaby_cli.errors import BadInput
from dallebaby_cli.prep import archives
from dallebaby_cli.prep.member import Read
from dallebaby_cli.prep.readers import Record, Records, Split
from dallebaby_cli.store import captions

PICTURES = ("train-256.tar.gz", "validation-256.tar.gz", "test-256.tar.gz")
CLASSES = "class-descriptions-boxable.csv"
LABELS = tuple(
    f"{part}-annotations-human-imagelabels-boxable.csv" for part in ("train", "validation", "test")
)

ROTATIONS = "*-images*-with-rotation.csv"
JPEG = b"\xff\xd8"  # how one begins
ORIENTATION = 0x0112  # EXIF's name for it
ORIENTATIONS = {90: 8, 180: 3, 270: 6}  # degrees counterclockwise → how EXIF says the same


def fits(names: set[str]) -> bool:
    """Whether there are labels of Open Images."""
    return CLASSES in names and bool(names & set(LABELS))


def read(folder: Path) -> Records:
    """The pictures of all parts that are there. Raises BadInput without labels."""
    found = archives.named(folder, CLASSES, *LABELS, within=archives.LOOSE)
    tables = [found[name] for name in LABELS if name in found]
    if CLASSES not in found or not tables:
        raise BadInput(f"{folder} lacks {CLASSES} or {LABELS[0]}; fetch openimages again")
    try:
        names = dict(csv.reader(io.StringIO(found[CLASSES].decode())))
        labels = _confirmed(tables)
        turns = _turns(folder)
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise BadInput(f"the labels in {folder} are damaged ({error}); fetch them again") from error
    return Records(_rows(folder, labels, names, turns))


def _confirmed(tables: list[bytes]) -> dict[int, str]:
    """Picture's id (its hex digits as a number) → codes of what is in it, parted by blanks."""
    found: dict[int, str] = {}
    for content in tables:
        table = arrow_csv.read_csv(
            pa.BufferReader(content),
            convert_options=arrow_csv.ConvertOptions(
                include_columns=["ImageID", "LabelName", "Confidence"],
                column_types={"ImageID": pa.string(), "Confidence": pa.float32()},
            ),
        )
        table = table.filter(pc.equal(table["Confidence"], 1))
        for batch in table.to_batches(max_chunksize=100_000):
            for image, code in zip(batch[0].to_pylist(), batch[1].to_pylist(), strict=True):
                number = int(image, 16)
                found[number] = f"{found[number]} {code}" if number in found else code
    return found


def _turns(folder: Path) -> dict[int, int]:
    """Picture's id → degrees counterclockwise that it must be turned by, of those that must."""
    found: dict[int, int] = {}
    options = arrow_csv.ConvertOptions(
        include_columns=["ImageID", "Rotation"],
        column_types={"ImageID": pa.string(), "Rotation": pa.float32()},
    )
    titles = arrow_csv.ParseOptions(newlines_in_values=True)
    for member in archives.members(folder, *archives.LOOSE):
        if fnmatchcase(member.name, ROTATIONS):
            with member.open() as table:  # 600 MB, for the most part addresses
                reader = arrow_csv.open_csv(table, parse_options=titles, convert_options=options)
                for batch in reader:
                    batch = batch.filter(
                        pc.is_in(batch["Rotation"], pa.array([*ORIENTATIONS], pa.float32()))
                    )
                    for image, degrees in zip(*batch.to_pydict().values(), strict=True):
                        found[int(image, 16)] = int(degrees)
    return found


def _rows(
    folder: Path, labels: dict[int, str], names: dict[str, str], turns: dict[int, int]
) -> Iterator[Record]:
    for member in archives.members(folder, *PICTURES):
        if member.is_picture:
            number = _number(member.name)
            codes = dict.fromkeys(labels.get(number, "").split())
            things = [names[code].lower() for code in codes if code in names]
            texts = captions.from_labels(things, member.path)
            side: Split = "train" if member.folder.startswith("train") else "holdout"
            read: Read = member.reader()
            if number in turns:
                read = partial(turned, read, turns[number])
            label = ", ".join(things) or None
            yield Record(member.path, read, texts, label, side, "template")


def turned(read: Read, degrees: int) -> bytes:
    """A JPEG with an EXIF note that it must be turned, which decoding obeys, ahead of any other."""
    note = Image.Exif()
    note[ORIENTATION] = ORIENTATIONS[degrees]
    content, segment = read(), note.tobytes()
    if content[:2] != JPEG:
        return content
    return JPEG + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + content[2:]


def _number(name: str) -> int:
    try:
        return int(PurePosixPath(name).stem, 16)
    except ValueError:
        return -1
