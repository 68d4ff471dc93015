"""MIT Indoor-67: a tar of Images/CLASS/FILE, whose names are a bit odd as English.

http://web.mit.edu/torralba/www/indoor.html. TestImages.txt, where it is there, is the hold-out.
"""

from collections.abc import Iterator
from pathlib import Path

from dallebaby_cli.prep import archives, sidecars
from dallebaby_cli.prep.readers import Record, Records, Split
from dallebaby_cli.store import captions

ARCHIVE = "indoorCVPR_09.tar"
TEST = "TestImages.txt"
ENGLISH = {
    "airport_inside": "airport interior",
    "artstudio": "art studio",
    "bookstore": "book store",
    "church_inside": "church interior",
    "clothingstore": "clothing store",
    "computerroom": "computer room",
    "dentaloffice": "dental office",
    "gameroom": "game room",
    "grocerystore": "grocery store",
    "hairsalon": "hair salon",
    "hospitalroom": "hospital room",
    "inside_bus": "bus interior",
    "inside_subway": "subway car interior",
    "jewelleryshop": "jewellery shop",
    "kindergarden": "kindergarten",
    "laboratorywet": "wet laboratory",
    "livingroom": "living room",
    "movietheater": "movie theater",
    "poolinside": "indoor pool",
    "prisoncell": "prison cell",
    "shoeshop": "shoe shop",
    "stairscase": "staircase",
    "studiomusic": "music studio",
    "toystore": "toy store",
    "trainstation": "train station",
    "tv_studio": "TV studio",
    "videostore": "video store",
    "waitingroom": "waiting room",
    "winecellar": "wine cellar",
}


def fits(names: set[str]) -> bool:
    """Whether there is the archive."""
    return ARCHIVE in names


def read(folder: Path) -> Records:
    """All pictures, in the archive's order."""
    found = archives.named(folder, TEST, within=archives.LOOSE).get(TEST, b"")
    return Records(_rows(folder, set(sidecars.decoded(found).split())))


def _rows(folder: Path, test: set[str]) -> Iterator[Record]:
    for member in archives.members(folder, ARCHIVE):
        if member.is_picture:
            label = ENGLISH.get(member.folder, captions.plain(member.folder))
            texts = captions.from_labels([label], member.path)
            held_out = f"{member.folder}/{member.name}" in test
            side: Split | None = "holdout" if held_out else "train" if test else None
            yield Record(member.path, member.reader(), texts, label, side, "template")
