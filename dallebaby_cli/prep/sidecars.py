"""Files that lie beside a picture and tell of it: KEY.txt, KEY.caption, KEY.json, KEY.cls.

KEY is the picture's name without its ending, or with it (`a.png.txt`), or, as in a WebDataset, up
to its first dot. Names that differ only in case or in how accents are written belong together
where that leaves no doubt.
"""

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from dallebaby_cli import names
from dallebaby_cli.prep.member import MAX_TEXT_BYTES, NONSENSE, Member, Read
from dallebaby_cli.prep.readers import Split, Writer
from dallebaby_cli.prep.rejected import Rejected
from dallebaby_cli.store import captions

TEXTS = (".txt", ".text", ".caption", ".captions")
ENDINGS = (*TEXTS, ".json", ".cls")
SAYS_SO = {"txt", "text", "caption", "captions", "prompt", "description", "label", "meta"}
MOST = 32  # files in a group, so that memory stays small
TRANSLATION = re.compile(r"^[a-z]{2,3}(_[A-Z]{2})?(@\w+)?\.utf8=")
BOX = re.compile(r"\s*[-+]?[\d.]+(e[-+]?\d+)?([\s,]+[-+]?[\d.]+(e[-+]?\d+)?){3,}\s*", re.I)
FIELDS = ("captions", "caption", "text", "texts", "prompt", "description")


@dataclass(frozen=True)
class Told:
    """What is said of a picture."""

    captions: tuple[str, ...] = ()
    writers: tuple[Writer, ...] = ()
    """of each caption"""
    label: str | None = None
    split: Split | None = None
    odd: tuple[tuple[str, str], ...] = ()
    """files with what cannot be a caption, and what that is"""


@dataclass
class Group:
    """Files side by side whose names are the same up to their first dot."""

    key: str = ""
    pictures: list[tuple[str, Read | None]] = field(default_factory=list)
    """path and, where it was asked for, what reads it"""
    sidecars: list[tuple[str, Read]] = field(default_factory=list)


def groups(members: Iterable[Member], *, read: bool) -> Iterator[Group]:
    """Pictures and what may tell of them, in the order of the members; with `read` pictures of
    compressed tars are read, which must be done now or never."""
    group = Group()
    for member in members:
        is_picture = member.is_picture
        if is_picture or is_sidecar(member.path):
            full = len(group.pictures) + len(group.sidecars) >= MOST
            if (start := key(member.path)) != group.key or full:
                yield group
                group = Group(start)
            if is_picture:
                group.pictures.append((member.path, member.reader() if read else None))
            else:
                group.sidecars.append((member.path, member.reader(MAX_TEXT_BYTES)))
    yield group


def is_sidecar(path: str) -> bool:
    """Whether a file of that name may tell of a picture beside it."""
    return path.lower().endswith(ENDINGS)


def key(path: str) -> str:
    """What the paths of a picture and of all that may tell of it have in common."""
    folder, slash, name = path.rpartition("/")
    return folder + slash + names.folded(name.partition(".")[0])


def owned(pictures: Sequence[str], sidecars: Sequence[str]) -> list[list[int]]:
    """For each of a group's pictures the numbers of the sidecars that tell of it."""
    found: list[list[int]] = [[] for _ in pictures]
    if not sidecars:
        return found
    stems = [path.rpartition(".")[0] for path in pictures]
    for number, path in enumerate(sidecars):
        stem = path.rpartition(".")[0]
        owners = [n for n, own in enumerate(stems) if stem in (own, pictures[n])]
        if not owners:
            alike, both = names.folded(stem), zip(pictures, stems, strict=True)
            owners = [n for n, own in enumerate(both) if alike in map(names.folded, own)]
            if len({stems[n] for n in owners}) > 1:  # A.jpg and a.jpg: nobody knows whose
                continue
        if not owners and _of_all(stem):
            owners = [*range(len(pictures))]
        for owner in owners:
            found[owner].append(number)
    return found


def _of_all(stem: str) -> bool:
    """Whether a file tells of all pictures of its key."""
    return {*stem.rpartition("/")[2].lower().split(".")[1:]} <= SAYS_SO


def found_by(path: str) -> str:
    """What a file that lies apart from its picture is found by: one of the picture's `finding`."""
    stem = path.rpartition(".")[0]
    return key(path) if _of_all(stem) else _spelled(stem)


def finding(picture: str) -> tuple[str, str, str]:
    """What files that may tell of a picture and lie apart from it are found by."""
    return key(picture), _spelled(picture.rpartition(".")[0]), _spelled(picture)


def _spelled(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    return folder + slash + names.folded(name)


def told(sidecars: Iterable[tuple[str, Read]]) -> Told:
    """All that a picture's sidecars say."""
    lines: list[str] = []
    listed: list[str] = []
    about: dict[str, Any] = {}
    odd: list[tuple[str, str]] = []
    for path, read in sidecars:
        ending = path.rpartition(".")[2].lower()
        try:
            content = read()
        except (*NONSENSE, Rejected) as error:
            odd.append((path, getattr(error, "detail", "") or str(error)))
            continue
        if ending == "json":
            found = parsed(content)
            if not isinstance(found, dict):
                odd.append((path, "it holds no JSON object"))
            else:
                about.update(found)
                texts, others = from_fields(found)
                listed += texts
                odd += [(path, why) for why in others]
        elif ending == "cls":
            about.setdefault("label", decoded(content).strip())
        else:
            more = [line for line in decoded(content).splitlines() if not TRANSLATION.match(line)]
            if boxes := [line for line in more if BOX.fullmatch(line)]:
                odd.append((path, f"{boxes[0][:50]!r} is no caption"))
            lines += [line for line in more if not BOX.fullmatch(line)]
    cleaned = captions.clean([*lines, *listed])
    return Told(cleaned, _writers(about, cleaned), label(about), split(about), tuple(odd))


def parsed(content: bytes) -> Any:
    """What JSON says; None for what is none."""
    try:
        return json.loads(decoded(content))
    except (ValueError, RecursionError):
        return None


def decoded(content: bytes) -> str:
    """Text in UTF-8 or UTF-16; lines that are neither, in what Windows took for long."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", errors="replace")
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "\n".join(map(_line, content.split(b"\n")))


def _line(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def from_fields(about: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The captions in the first of some fields that holds any; what fields hold that can be none,
    in words."""
    odd: list[str] = []
    for name in FIELDS:
        value = about.get(name)
        if isinstance(value, dict) and name not in FIELDS[:2]:  # the "prompt" of a program, say
            continue
        texts, others = captions.given(value)
        odd += [f"`{name}` is or holds {other}, not a text" for other in others[:1]]
        if any(map(str.strip, texts)):
            return texts, odd
    return [], odd


def label(about: dict[str, Any]) -> str | None:
    """What is said to be in a picture, in a word."""
    found = about.get("label")
    is_one = isinstance(found, str | int) and not isinstance(found, bool)
    return captions.plain(str(found)) or None if is_one else None


def split(about: dict[str, Any]) -> Split | None:
    """Its side, as dallebaby writes it."""
    side = about.get("split")
    return side if side in ("train", "holdout") else None


def people(texts: Sequence[str]) -> tuple[Writer, ...]:
    """Who wrote texts, if people did."""
    return tuple("human" for _ in texts)


def _writers(about: dict[str, Any], texts: Sequence[str]) -> tuple[Writer, ...]:
    """Who wrote each of the cleaned texts: people, unless `caption_sources` says otherwise."""
    listed, sources = about.get("captions"), about.get("caption_sources")
    if not isinstance(listed, list) or not isinstance(sources, list):
        return people(texts)
    pairs = zip(listed, sources, strict=False)
    templates = captions.clean(str(text) for text, source in pairs if source == "template")
    return tuple("template" if text in templates else "human" for text in texts)
