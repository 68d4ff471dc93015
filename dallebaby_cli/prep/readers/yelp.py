"""Yelp's restaurant photos: a photo belongs to a business, a business has some of nine labels.

https://www.kaggle.com/c/yelp-restaurant-photo-classification/data. The labels are about the
business, not the photo, so captions speak of the restaurant. Many photos come twice.
"""

import csv
import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from dallebaby_cli.errors import BadInput
from dallebaby_cli.prep import archives
from dallebaby_cli.prep.readers import Record, Records
from dallebaby_cli.store import captions

PHOTOS, BUSINESSES = "train_photo_to_biz_ids.csv", "train.csv"
PICTURES = ("train_photos.tgz", "test_photos.tgz")
LABELS = (
    ("good for lunch", "that is good for lunch"),
    ("good for dinner", "that is good for dinner"),
    ("takes reservations", "that takes reservations"),
    ("outdoor seating", "with outdoor seating"),
    ("expensive", "that is expensive"),
    ("has alcohol", "that serves alcohol"),
    ("has table service", "with table service"),
    ("classy", "with a classy ambience"),
    ("good for kids", "that is good for kids"),
)


def fits(names: set[str]) -> bool:
    """Whether there is the table that ties photos to businesses."""
    return bool(names & {PHOTOS, f"{PHOTOS}.tgz"})


def read(folder: Path) -> Records:
    """All photos. Raises BadInput without the two tables."""
    found = archives.named(folder, PHOTOS, BUSINESSES, within=("*.csv.tgz",))
    if len(found) < 2:
        raise BadInput(f"{folder} lacks {PHOTOS} or {BUSINESSES}; fetch yelp again")
    try:
        business = {int(photo): int(biz) for photo, biz in _table(found[PHOTOS])}
        labels = {int(biz): list(map(int, text.split())) for biz, text in _table(found[BUSINESSES])}
    except (ValueError, csv.Error) as error:
        raise BadInput(f"the tables in {folder} are damaged ({error}); fetch yelp again") from error
    return Records(_rows(folder, business, labels))


def _table(content: bytes) -> Iterator[list[str]]:
    rows = csv.reader(io.StringIO(content.decode()))
    next(rows, None)
    return rows


def _rows(folder: Path, business: dict[int, int], labels: dict[int, list[int]]) -> Iterator[Record]:
    for member in archives.members(folder, *PICTURES):
        if member.is_picture:
            stem = PurePosixPath(member.name).stem
            photo = int(stem) if stem.isdecimal() and member.folder == "train_photos" else -1
            true = [LABELS[n] for n in labels.get(business.get(photo, -1), []) if n < len(LABELS)]
            texts: tuple[str, ...] = ()
            if true:
                about = f"restaurant {captions.listed([phrase for _, phrase in true])}"
                texts = captions.from_labels([about], member.path)
            label = ", ".join(name for name, _ in true) or None
            yield Record(member.path, member.reader(), texts, label, written_by="template")
