"""COCO 2017 as fetched: zips of pictures, and one zip with the captions (about five a picture).

https://cocodataset.org/#format-data. The official validation pictures are the hold-out.
"""

import json
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from dallebaby_cli.data import captions
from dallebaby_cli.data.readers import (
    Record,
    Records,
    Split,
    find_files,
    is_picture,
    open_zip,
    read_zip_member,
)
from dallebaby_cli.errors import BadInput

ANNOTATIONS = "annotations_trainval2017.zip"
PARTS: dict[str, Split] = {"train2017": "train", "val2017": "holdout", "unlabeled2017": "train"}


def fits(folder: Path) -> bool:
    """Whether a folder holds COCO's captions and pictures."""
    found = find_files(folder, ANNOTATIONS, "train2017.zip", "val2017.zip")
    return ANNOTATIONS in found and len(found) > 1


def read(folder: Path) -> Records:
    """The pictures of all parts that are there, in the order of PARTS and of their names."""
    found = find_files(folder, ANNOTATIONS, *(f"{part}.zip" for part in PARTS))
    if ANNOTATIONS not in found or len(found) < 2:
        raise BadInput(
            f"{folder} lacks {ANNOTATIONS} or pictures such as train2017.zip; fetch coco again"
        )
    members = {
        part: sorted(filter(is_picture, open_zip(found[f"{part}.zip"]).namelist()))
        for part in PARTS
        if f"{part}.zip" in found
    }
    return Records(_rows(found, members), sum(map(len, members.values())))


def _rows(found: dict[str, Path], members: dict[str, list[str]]) -> Iterator[Record]:
    for part, names in members.items():
        texts = _captions(found[ANNOTATIONS], part)
        for name in names:
            yield Record(
                name,
                partial(read_zip_member, found[f"{part}.zip"], name),
                texts.get(PurePosixPath(name).name, ()),
                split=PARTS[part],
            )


def _captions(archive: Path, part: str) -> dict[str, tuple[str, ...]]:
    """File name → captions, in the order of their ids."""
    member = f"annotations/captions_{part}.json"
    if member not in open_zip(archive).namelist():
        return {}
    try:
        content = json.loads(open_zip(archive).read(member))
        texts: dict[int, list[str]] = defaultdict(list)
        for row in sorted(content["annotations"], key=lambda row: row["id"]):
            texts[row["image_id"]].append(row["caption"])
        return {row["file_name"]: captions.clean(texts[row["id"]]) for row in content["images"]}
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, EOFError) as error:
        raise BadInput(
            f"{member} in {archive} is damaged ({type(error).__name__}: {error}); "
            "remove the archive and fetch it again"
        ) from error
