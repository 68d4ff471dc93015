"""Visual Genome: two zips of pictures, and descriptions of some fifty regions in each picture.

https://homes.cs.washington.edu/~ranjay/visualgenome/api.html. The descriptions (700 MB of JSON)
are read as a stream. Some 170 pictures have no bytes; they are rejected like any empty file.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import ijson

from dallebaby_cli.data import archives, captions
from dallebaby_cli.data.archives import Member
from dallebaby_cli.data.readers import Record, Records
from dallebaby_cli.errors import BadInput

REGIONS = "region_descriptions.json"
PICTURES = ("images.zip", "images2.zip")


def fits(names: set[str]) -> bool:
    """Whether there are region descriptions."""
    return bool(names & {REGIONS, f"{REGIONS}.zip"})


def read(folder: Path) -> Records:
    """The pictures of both archives. Raises BadInput without region descriptions."""
    for member in archives.members(folder, f"{REGIONS}.zip"):
        if member.name == REGIONS:
            phrases = _phrases(member)
            return Records(_rows(folder, phrases), archives.count_pictures(folder, *PICTURES))
    raise BadInput(
        f"{folder} lacks {REGIONS}.zip, which holds the captions; fetch visual-genome again"
    )


def _rows(folder: Path, phrases: dict[int, str]) -> Iterator[Record]:
    for member in archives.members(folder, *PICTURES):
        if member.is_picture:
            stem = PurePosixPath(member.name).stem
            lines = phrases.get(int(stem), "") if stem.isdecimal() else ""
            yield Record(member.path, member.reader(), captions.clean(lines.split("\n")))


def _phrases(member: Member) -> dict[int, str]:
    """Picture's id → its phrases, a line each (one string takes far less memory than a list)."""
    found: dict[int, str] = {}
    try:
        with member.open() as opened:
            for row in ijson.items(opened, "item"):
                number = row.get("image_id", row.get("id"))  # releases differ
                found[number] = "\n".join(" ".join(r["phrase"].split()) for r in row["regions"])
    except (ijson.JSONError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(
            f"{member.path} is damaged ({error}); remove it and fetch visual-genome again"
        ) from error
    return found
