"""COCO 2017 as fetched: zips of pictures, and one zip with the captions (about five a picture).

https://cocodataset.org/#format-data. The official validation pictures are the hold-out.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from dallebaby_cli.errors import BadInput
from dallebaby_cli.prep import archives
from dallebaby_cli.prep.readers import Record, Records, Split
from dallebaby_cli.store import captions

ANNOTATIONS = "annotations_trainval2017.zip"
PARTS: dict[str, Split] = {"train2017": "train", "val2017": "holdout", "unlabeled2017": "train"}

PICTURES = tuple(f"{part}.zip" for part in PARTS)


def fits(names: set[str]) -> bool:
    """Whether there are COCO's captions, zipped or not."""
    return bool(names & {ANNOTATIONS, "captions_train2017.json"})


def read(folder: Path) -> Records:
    """The pictures of all parts that are there. Raises BadInput without captions."""
    wanted = [f"captions_{part}.json" for part in PARTS]
    found = archives.named(folder, *wanted[:2], within=(ANNOTATIONS,))
    if not found:
        raise BadInput(f"{folder} lacks {ANNOTATIONS}, which holds the captions; fetch coco again")
    texts = {part: _captions(found.get(f"captions_{part}.json"), part, folder) for part in PARTS}
    return Records(_rows(folder, texts), archives.count_pictures(folder, *PICTURES))


def _rows(folder: Path, texts: dict[str, dict[str, tuple[str, ...]]]) -> Iterator[Record]:
    for member in archives.members(folder, *PICTURES):
        part = member.folder
        if member.is_picture and part in PARTS:
            text = texts[part].get(member.name, ())
            yield Record(member.path, member.reader(), text, split=PARTS[part])


def _captions(content: bytes | None, part: str, folder: Path) -> dict[str, tuple[str, ...]]:
    """File name → captions, in the order of their ids."""
    if content is None:
        return {}
    try:
        listed = json.loads(content)
        texts: dict[int, list[str]] = defaultdict(list)
        for row in sorted(listed["annotations"], key=lambda row: row["id"]):
            texts[row["image_id"]].append(row["caption"])
        return {row["file_name"]: captions.clean(texts[row["id"]]) for row in listed["images"]}
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"captions_{part}.json in {folder} is damaged ({type(error).__name__}: {error}); "
            "remove its archive and fetch it again"
        ) from error
