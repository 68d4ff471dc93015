"""WebDataset tars that others made: members KEY.jpg, KEY.txt, KEY.json, KEY.cls side by side.

https://github.com/webdataset/webdataset. Captions are the lines of KEY.txt, or `captions` or
`caption` in KEY.json, as dallebaby and img2dataset write them; the label is KEY.cls or `label`.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dallebaby_cli.prep import archives
from dallebaby_cli.prep.archives import Member, Read
from dallebaby_cli.prep.readers import Record, Records, Split, Writer
from dallebaby_cli.store import captions

TARS = ("*.tar", "*.tar.gz", "*.tgz")


def fits(names: set[str]) -> bool:
    """Whether there are tars and no pictures beside them, or shards as dallebaby writes them."""
    tars = any(name.endswith(".tar") for name in names)
    return tars and ("index.arrow" in names or not any(map(archives.is_picture, names)))


def read(folder: Path) -> Records:
    """The pictures of all tars, sorted by the tars' names, each in its order."""
    return Records(_rows(folder))


@dataclass
class _Sample:
    """What was found under one key so far."""

    key: str = ""
    pictures: list[tuple[str, Read]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)

    def take(self, member: Member, extension: str) -> None:
        """Add one member; what makes no sense says nothing."""
        if member.is_picture:
            self.pictures.append((member.path, member.reader()))
        elif extension in ("txt", "text", "caption"):
            self.lines += member.content().decode(errors="replace").splitlines()
        elif extension == "cls":
            self.about.setdefault("label", member.content().decode(errors="replace").strip())
        elif extension == "json":
            try:
                found = json.loads(member.content())
            except ValueError:
                return
            if isinstance(found, dict):
                self.about.update(found)

    def records(self) -> Iterator[Record]:
        """The pictures with all that is known of them."""
        listed = self.about.get("captions") or [self.about.get("caption") or ""]
        texts = captions.clean([*self.lines, *(t for t in listed if isinstance(t, str))])
        writers = self._writers(listed, texts)
        label = self.about.get("label")
        label = captions.plain(str(label)) if label not in (None, "") else None
        side = self.about.get("split")
        split: Split | None = side if side in ("train", "holdout") else None
        for path, reader in self.pictures:
            if not texts and label is not None and not label.isdecimal():
                made = captions.from_labels([label], path)
                yield Record(path, reader, made, label, split, "template")
            else:
                yield Record(path, reader, texts, label, split, writers)

    def _writers(self, listed: Sequence[object], texts: Sequence[str]) -> tuple[Writer, ...]:
        """Who wrote each of the cleaned texts: people, unless `caption_sources` says otherwise."""
        sources = self.about.get("caption_sources")
        pairs = zip(listed, sources if isinstance(sources, list) else [], strict=False)
        templates = captions.clean(str(text) for text, source in pairs if source == "template")
        return tuple("template" if text in templates else "human" for text in texts)


def _rows(folder: Path) -> Iterator[Record]:
    sample = _Sample()
    for member in archives.members(folder, *TARS):
        if member.loose:
            continue
        stem, _, extension = member.name.partition(".")
        key = member.path[: len(member.path) - len(member.name)] + stem
        if key != sample.key:
            yield from sample.records()
            sample = _Sample(key)
        sample.take(member, extension.lower())
    yield from sample.records()
