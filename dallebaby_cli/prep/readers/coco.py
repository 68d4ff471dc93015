"""COCO 2017 as fetched: zips of pictures, and one zip with the captions (about five a picture).

https://cocodataset.org/#format-data. The official validation pictures are the hold-out.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from dallebaby_cli.errors import BadInput
from dallebaby_cli.prep import archives
from dallebaby_cli.prep.lists import Lists, Table
from dallebaby_cli.prep.readers import Record, Records, Split, left_out
from dallebaby_cli.prep.sidecars import Told
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


def _rows(folder: Path, texts: dict[str, Lists]) -> Iterator[Record]:
    seen: set[str] = set()
    for member in archives.members(folder, *PICTURES):
        part = member.folder
        if member.is_picture and part in PARTS:
            seen.add(part)
            told = texts[part].of(member.path)
            text = told[0].captions if told else ()
            yield Record(member.path, member.reader(), text, split=PARTS[part])
    for part in sorted(seen):
        yield from left_out(texts[part].left_out())


def _captions(content: bytes | None, part: str, folder: Path) -> Lists:
    """The captions by file names, in the order of their ids."""
    found, table = Lists(), Table(f"captions_{part}.json")
    if content is None:
        return found
    try:
        listed = json.loads(content)
        texts: dict[int, list[str]] = defaultdict(list)
        for row in sorted(listed["annotations"], key=lambda row: row["id"]):
            given, odd = captions.given(row["caption"])
            texts[row["image_id"]] += given
            if odd or row["caption"] is None:
                why = odd[0] if odd else "null"
                table.odd.append(f"the caption of id {row['id']!r:.20} ({why})")
        for row in listed["images"]:
            cleaned = captions.clean(texts[row["id"]])
            table.rows[row["file_name"].replace("\\", "/")] = Told(cleaned)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput(
            f"captions_{part}.json in {folder} is damaged ({type(error).__name__}: {error}); "
            "remove its archive and fetch it again"
        ) from error
    found.add(table)
    return found
