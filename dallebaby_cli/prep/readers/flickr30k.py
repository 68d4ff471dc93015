"""Flickr30k as on Kaggle: results.csv (five captions a picture) and the pictures, most of them
twice, in a zip or unpacked. The copies are merged like any other.

Rows are "NAME.jpg| 0| A child runs ."; one famous row lacks its second bar.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from dallebaby_cli.errors import BadInput
from dallebaby_cli.prep import archives
from dallebaby_cli.prep.readers import Record, Records
from dallebaby_cli.store import captions

TEXTS = "results.csv"
PICTURES = ("flickr-image-dataset.zip", "archive.zip")
ROW = re.compile(r"^([^|]+)\|\s*\d+\s*\|?\s*(.*)$")


def fits(names: set[str]) -> bool:
    """Whether there is Kaggle's zip, or what comes out of it."""
    numbered = any(re.fullmatch(r"\d+\.jpg", name) for name in names)
    return PICTURES[0] in names or (TEXTS in names and numbered)  # others keep a results.csv, too


def read(folder: Path) -> Records:
    """All pictures. Raises BadInput without captions."""
    content = archives.named(folder, TEXTS, within=PICTURES).get(TEXTS)
    if content is None:
        raise BadInput(f"{folder} lacks {TEXTS}, which holds the captions; fetch flickr30k again")
    texts: dict[str, list[str]] = defaultdict(list)
    for line in content.decode(errors="replace").splitlines()[1:]:
        if row := ROW.match(line):
            texts[row[1].strip()].append(row[2])
    return Records(_rows(folder, texts), archives.count_pictures(folder, *PICTURES))


def _rows(folder: Path, texts: dict[str, list[str]]) -> Iterator[Record]:
    for member in archives.members(folder, *PICTURES):
        if member.is_picture:
            text = captions.clean(texts.get(member.name, ()))
            yield Record(member.path, member.reader(), text)
