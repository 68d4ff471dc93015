"""Visual Genome: two zips of pictures, and descriptions of some fifty regions in each picture.

https://homes.cs.washington.edu/~ranjay/visualgenome/api.html. The descriptions (700 MB of JSON)
are read as a stream. Some 170 pictures have no bytes; they are rejected like any empty file.

Half of the pictures are COCO's too. Those that COCO holds out are held out here as well, and those
that it trains on are not, so that no model that saw both is measured on what it trained on; COCO's
annotations, which lie beside the pictures, tell which.
"""

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import ijson

from dallebaby_cli.errors import BadInput
from dallebaby_cli.prep import archives
from dallebaby_cli.prep.member import Member
from dallebaby_cli.prep.readers import Record, Records, Split, coco
from dallebaby_cli.store import captions

REGIONS = "region_descriptions.json"
ABOUT = "image_data.json"
COCO_VAL = "captions_val2017.json"
PICTURES = ("images.zip", "images2.zip")


def fits(names: set[str]) -> bool:
    """Whether there are region descriptions."""
    return bool(names & {REGIONS, f"{REGIONS}.zip"})


def read(folder: Path) -> Records:
    """The pictures of both archives. Raises BadInput without region descriptions."""
    for member in archives.members(folder, f"{REGIONS}.zip"):
        if member.name == REGIONS:
            phrases = _phrases(member)
            sides = _sides_in_coco(folder)
            return Records(
                _rows(folder, phrases, sides), archives.count_pictures(folder, *PICTURES)
            )
    raise BadInput(
        f"{folder} lacks {REGIONS}.zip, which holds the captions; fetch visual-genome again"
    )


def _rows(folder: Path, phrases: dict[int, str], sides: dict[int, Split]) -> Iterator[Record]:
    for member in archives.members(folder, *PICTURES):
        if member.is_picture:
            stem = PurePosixPath(member.name).stem
            number = int(stem) if stem.isdecimal() else -1
            texts = captions.clean(phrases.get(number, "").split("\n"))
            yield Record(member.path, member.reader(), texts, split=sides.get(number))


def _sides_in_coco(folder: Path) -> dict[int, Split]:
    """Picture's id → its side in COCO, of those that are COCO's too; none without both tables."""
    found = archives.named(folder, ABOUT, COCO_VAL, within=(f"{ABOUT}.zip", coco.ANNOTATIONS))
    if len(found) < 2:
        return {}
    try:
        held_out = {row["id"] for row in json.loads(found[COCO_VAL])["images"]}
        return {
            row.get("image_id", row.get("id")): "holdout" if same in held_out else "train"
            for row in json.loads(found[ABOUT])
            if (same := row["coco_id"]) is not None
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput(
            f"{ABOUT} or {COCO_VAL} in {folder} is damaged ({error}); remove it and fetch "
            "visual-genome again"
        ) from error


def _phrases(member: Member) -> dict[int, str]:
    """Picture's id → its phrases, a line each (one string takes far less memory than a list)."""
    found: dict[int, str] = {}
    try:
        with member.open() as opened:
            # otherwise a number of thousands of digits ends the process (ijson 3.6)
            for row in ijson.items(opened, "item", use_float=True):
                number = row.get("image_id", row.get("id"))  # releases differ
                texts = [t for r in row["regions"] for t in captions.given(r["phrase"])[0]]
                found[number] = "\n".join(" ".join(text.split()) for text in texts)
    except (ijson.JSONError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadInput(
            f"{member.path} is damaged ({error}); remove it and fetch visual-genome again"
        ) from error
    return found
