"""Food-101: a compressed tar of images/CLASS/NUMBER.jpg, with lists of its two parts in JSON.

https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101. The official test part is the hold-out;
the lists lie in meta/ or beside images/, depending on the build.
"""

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from dallebaby_cli.errors import BadInput
from dallebaby_cli.prep import archives
from dallebaby_cli.prep.readers import Record, Records, Split
from dallebaby_cli.store import captions

ARCHIVES = ("food-101.tgz", "food-101.tar.gz")
TEST = "test.json"


def fits(names: set[str]) -> bool:
    """Whether there is the archive."""
    return bool(names & set(ARCHIVES))


def read(folder: Path) -> Records:
    """All pictures, in the archive's order. Raises BadInput if the list of the parts is damaged."""
    content = archives.named(folder, TEST, within=ARCHIVES).get(TEST)
    try:
        listed = json.loads(content) if content else {}
        test = {entry for entries in listed.values() for entry in entries}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput(f"{TEST} in {folder} is damaged ({error}); fetch food101 again") from error
    return Records(_rows(folder, test))


def _rows(folder: Path, test: set[str]) -> Iterator[Record]:
    for member in archives.members(folder, *ARCHIVES):
        if member.is_picture:
            label = captions.plain(member.folder)
            texts = captions.from_labels([label], member.path, article=False)
            held_out = f"{member.folder}/{PurePosixPath(member.name).stem}" in test
            side: Split | None = "holdout" if held_out else "train" if test else None
            yield Record(member.path, member.reader(), texts, label, side, "template")
