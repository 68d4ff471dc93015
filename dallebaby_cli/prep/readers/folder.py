"""Any folder of pictures, nested as deep as it likes, with the archives that lie in it.

Captions are in files beside a picture (prep/sidecars.py: `.txt`, one a line; WebDatasets have
`.json` and `.cls`, too) or in lists of many (prep/lists.py: metadata.jsonl). Where most pictures
have none, the folders that they lie in are their classes (prep/classes.py). So all names are looked
at first, which takes reading compressed tars twice. Links to files are followed.
"""

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from dallebaby_cli import names
from dallebaby_cli.config import CaptionsFrom
from dallebaby_cli.errors import BadInput
from dallebaby_cli.prep import archives, lists, sidecars
from dallebaby_cli.prep.classes import Classes, is_code
from dallebaby_cli.prep.lists import Lists
from dallebaby_cli.prep.member import Member, Read, held, refuse
from dallebaby_cli.prep.readers import Record, Records, left_out
from dallebaby_cli.prep.sidecars import Group, Told
from dallebaby_cli.store import captions
from dallebaby_cli.store.shards import INDEX

SAMPLE = 1000  # pictures whose sidecars are read to find out whether such hold captions
MOST_HELD = 256_000_000  # bytes of texts in compressed tars, whose pictures may come later
ABOUT_ALL = frozenset(
    "readme license licence copying notice authors changelog requirements classes labels wnids "
    "names synsets credits attribution citation train val valid test trainval list".split()
)  # texts of these names are of no picture and of no interest


def fits(names: set[str]) -> bool:
    """Any folder will do."""
    return True


def read(folder: Path, captions_from: CaptionsFrom = "auto") -> Records:
    """The pictures below a folder, sorted by path, in an archive by its order. Raises BadInput if
    there are none, or an archive is damaged."""
    found = _survey(folder)
    if not found.pictures:
        raise BadInput(
            f"{folder} holds no pictures{found.others()}; name a folder that does, or an archive's"
        )
    own, classes, decided = _decide(found, captions_from)
    return Records(_rows(folder, found, own, classes), found.pictures, decided)


@dataclass
class _Survey:
    """What is known of a folder when all its names have been looked at."""

    pictures: int = 0
    beside: int = 0
    """pictures with a file beside them that may tell of them"""
    read: int = 0
    captioned: int = 0
    """of the first of those, which were read: with captions"""
    folders: Counter[str] = field(default_factory=Counter)
    lists: Lists = field(default_factory=Lists)
    hashes: "array[int]" = field(default_factory=lambda: array("q"))
    """of the names of pictures"""
    lonely: dict[str, list[tuple[str, Read]]] = field(default_factory=dict)
    """files that tell of no picture beside them, by what they are found by"""
    held: int = 0
    """bytes of those that are kept in memory"""
    bare: "array[int]" = field(default_factory=lambda: array("q"))
    """three hashes a picture that has none beside it, of what it finds others by"""
    endings: Counter[str] = field(default_factory=Counter)
    """of the files that are neither pictures nor tell of any"""

    def take(self, group: Group) -> None:
        paths = [path for path, _ in group.pictures]
        owners = sidecars.owned(paths, [path for path, _ in group.sidecars])
        for path, numbers in zip(paths, owners, strict=True):
            self.pictures += 1
            self.folders[path.rpartition("/")[0]] += 1
            self.hashes.append(lists.name_hash(path))
            self.beside += bool(numbers)
            if not numbers:
                self.bare.extend(map(hash, sidecars.finding(path)))
            elif self.read < SAMPLE:
                self.read += 1
                beside = sidecars.told(group.sidecars[number] for number in numbers)
                self.captioned += bool(beside.captions)
        used = {number for numbers in owners for number in numbers}
        for number, row in enumerate(group.sidecars):
            if number not in used:
                path, read = row
                self.held += held(read)
                if held(read) and self.held > MOST_HELD:
                    why = f"texts with no picture beside them have over {MOST_HELD:,} bytes"
                    read = partial(refuse, "too large", why)
                self.lonely.setdefault(sidecars.found_by(path), []).append((path, read))

    def apart(self, group: Group) -> Iterator[tuple[str, Read]]:
        """What lies apart from a group and may tell of its pictures."""
        known = {path for path, _ in group.sidecars}
        for path, _ in group.pictures if self.lonely else ():
            for key in sidecars.finding(path):
                for row in self.lonely.get(key, ()):
                    if row[0] not in known:
                        known.add(row[0])
                        yield row

    def told(self) -> int:
        """About how many pictures have captions of their own."""
        found = self.beside * self.captioned // max(self.read, 1)
        lonely = np.array([hash(key) for key in self.lonely], np.int64)
        bare = np.frombuffer(self.bare, np.int64).reshape(-1, 3)
        found += int(np.isin(bare, lonely).any(1).sum())
        found += self.lists.matched(np.frombuffer(self.hashes, np.int64))
        return min(found, self.pictures)

    def others(self) -> str:
        """What else there is, to be told where no pictures are."""
        most = ", ".join(f"{n:,} {ending or 'others'}" for ending, n in self.endings.most_common(5))
        return f" (its files: {most})" if most else ""


def _survey(folder: Path) -> _Survey:
    found = _Survey()

    def seen() -> Iterator[Member]:
        for member in _members(folder):
            if lists.is_list(member.path) and not member.refused:
                found.lists.take(member)
            else:
                found.endings[names.ending(member.path)] += 1
                yield member

    for group in sidecars.groups(seen(), read=False):
        found.take(group)
    return found


def _members(folder: Path) -> Iterator[Member]:
    paths = archives.walk(folder)
    ours = {path.rpartition("/")[0] for path in paths if path.rpartition("/")[2] == INDEX}
    for member in archives.members(folder):
        if not (ours and member.loose and member.path.rpartition("/")[0] in ours):
            yield member


def _decide(found: _Survey, wanted: CaptionsFrom) -> tuple[bool, Classes | None, str]:
    """Whether pictures' own captions are taken, the classes where folders are taken for such, and
    the sentence that says so."""
    told = found.told()
    own = wanted != "folders"
    by_folder = wanted in ("folders", "both") or (wanted == "auto" and 2 * told < found.pictures)
    classes = Classes(found.folders, found.lists.words)
    labels = {classes.label(folder) for folder in found.folders} - {None} if by_folder else set()
    said = []
    if own and told:
        said.append(f"files beside pictures or lists of them, for {told:,} of {found.pictures:,}")
    if labels:
        first = ", ".join(sorted(label for label in labels if label)[:3])
        more = ", …" if len(labels) > 3 else ""
        said.append(f"the names of {len(labels):,} folders as classes ({first}{more})")
    return own, classes if by_folder else None, "captions from " + (" and ".join(said) or "nowhere")


def _rows(folder: Path, found: _Survey, own: bool, classes: Classes | None) -> Iterator[Record]:
    used: set[str] = set()
    members = (m for m in _members(folder) if m.refused or not lists.is_list(m.path))
    for group in sidecars.groups(members, read=True):
        if not group.pictures:
            continue
        beside = [*group.sidecars, *found.apart(group)]
        owners = sidecars.owned([p for p, _ in group.pictures], [path for path, _ in beside])
        odd: dict[str, str] = {}
        for (path, read_picture), numbers in zip(group.pictures, owners, strict=True):
            assert read_picture is not None, "asked for"
            told = found.lists.of(path)
            if numbers:
                used |= {beside[number][0] for number in numbers}
                told.insert(0, sidecars.told(beside[number] for number in numbers))
                odd.update(told[0].odd)
            yield _record(path, read_picture, told if own else [], found, classes)
        yield from left_out((file, "odd caption", why) for file, why in odd.items())
    yield from left_out([*found.lists.left_out(), *_unmatched(found, used)])


def _record(
    path: str, read_picture: Read, told: list[Told], found: _Survey, classes: Classes | None
) -> Record:
    texts = {text: by for one in told for text, by in zip(one.captions, one.writers, strict=True)}
    label = next((one.label for one in told if one.label is not None), None)
    split = next((one.split for one in told if one.split is not None), None)
    in_words = label is not None and any(map(str.isalpha, label))
    if label is None and classes is not None:
        label = classes.label(path.rpartition("/")[0])
        in_words = label is not None
    label = found.lists.words.get(label or "", label)
    if not texts and label and in_words and not is_code(label):
        made = captions.from_labels([label], path)
        return Record(path, read_picture, made, label, split, "template")
    return Record(path, read_picture, tuple(texts), label, split, tuple(texts.values()))


def _unmatched(found: _Survey, used: set[str]) -> Iterator[tuple[str, str, str]]:
    for rows in found.lonely.values():
        for path, _ in rows:
            name = path.rpartition("/")[2].lower()
            about_all = {*name.replace("_", ".").replace("-", ".").split(".")} & ABOUT_ALL
            if path not in used and name.endswith(sidecars.TEXTS) and not about_all:
                if not name.endswith("_boxes.txt"):
                    yield path, "unmatched caption", "no picture has its name"
