"""Files that tell of many pictures by their names: metadata.jsonl and metadata.csv as Hugging Face
reads them, the same under the name of captions, Tiny ImageNet's val_annotations.txt, and the words
for ImageNet's classes.
"""

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dallebaby_cli import names
from dallebaby_cli.prep import sidecars
from dallebaby_cli.prep.member import Member
from dallebaby_cli.prep.sidecars import Told
from dallebaby_cli.store import captions

TABLES = (
    *("metadata.jsonl", "metadata.csv", "captions.jsonl", "captions.csv", "captions.txt"),
    "val_annotations.txt",
)
WORDS = ("words.txt", "synset_words.txt", "loc_synset_mapping.txt")
UNREAD = ("metadata.parquet",)
FILE = ("file_name", "filename", "file", "image", "path", "image_path")  # columns, the first counts
WNID = re.compile(r"n\d{8}")  # ImageNet's name of a class
WORD = re.compile(rf"({WNID.pattern})[\t ]+([^,\n]+)")


def is_list(path: str) -> bool:
    """Whether a file of that name is one."""
    return path.rpartition("/")[2].lower() in (*TABLES, *WORDS, *UNREAD)


@dataclass
class Table:
    """One list: what it says of which names, and what became of that."""

    path: str
    rows: dict[str, Told] = field(default_factory=dict)
    """by the paths of pictures"""
    used: set[str] = field(default_factory=set)
    odd: list[str] = field(default_factory=list)
    """rows that cannot be read"""


@dataclass
class Lists:
    """All lists of a dataset."""

    tables: list[Table] = field(default_factory=list)
    words: dict[str, str] = field(default_factory=dict)
    """ImageNet's name of a class → a word for it"""
    unread: list[str] = field(default_factory=list)
    """lists in a format that is not read"""
    common: set[str] = field(default_factory=set)
    """names that several pictures have, so that the name alone does not tell which is meant"""
    by_path: dict[str, list[tuple[Table, str]]] = field(default_factory=lambda: defaultdict(list))
    by_name: dict[str, list[tuple[Table, str]]] = field(default_factory=lambda: defaultdict(list))

    def take(self, member: Member) -> None:
        """Read one list. Raises BadInput if its bytes cannot be had."""
        kind = member.name.lower()
        if kind in UNREAD:
            self.unread.append(member.path)
            return
        text = sidecars.decoded(member.content())
        if kind in WORDS:
            found = (WORD.match(line) for line in text.splitlines())
            self.words |= {row[1]: captions.plain(row[2]) for row in found if row}
            return
        table = Table(member.path)
        folder = member.path.rpartition("/")[0]
        for number, row in enumerate(_rows(kind, text), 1):
            file = next((row[name] for name in FILE if row and row.get(name)), None)
            if row is None or not isinstance(file, str):
                table.odd.append(f"row {number}")
                continue
            texts, odd = sidecars.from_fields(row)
            table.odd += [f"row {number}: {why}" for why in odd]
            path, label = _path(file, folder), sidecars.label(row)
            if before := table.rows.get(path):  # a row for each caption
                texts, label = [*before.captions, *texts], before.label or label
            cleaned = captions.clean(texts)
            table.rows[path] = Told(cleaned, sidecars.people(cleaned), label)
        self.add(table)

    def add(self, table: Table) -> None:
        """Use a list."""
        self.tables.append(table)
        for path in table.rows:
            self.by_path[names.folded(path)].append((table, path))
            self.by_name[_name(path)].append((table, path))

    def matched(self, hashes: np.ndarray) -> int:
        """How many pictures have a row with captions, given hashes (int64) of their `name_hash`."""
        found, counts = np.unique(hashes, return_counts=True)
        number = dict(zip(found.tolist(), counts.tolist(), strict=True)) if self.by_name else {}
        here = {name: number.get(hash(name), 0) for name in self.by_name}
        self.common = {name for name, count in here.items() if count > 1}
        return sum(
            min(here[name], sum(bool(table.rows[path].captions) for table, path in rows))
            for name, rows in self.by_name.items()
        )

    def of(self, path: str) -> list[Told]:
        """What the lists say of a picture: under its path, the end of it or, where only one is
        called so, its name; how accents and case are written makes no difference unless others
        differ by that."""
        found = self.by_path.get(names.folded(path), [])
        exact = [(table, row) for table, row in found if row == path]
        if not found and (name := _name(path)) not in self.common:
            found = self.by_name.get(name, [])
            exact = [(table, row) for table, row in found if f"/{path}".endswith(f"/{row}")]
        found = exact or found
        if len({row for _, row in found}) > 1:
            return []
        for table, row in found:
            table.used.add(row)
        return [table.rows[row] for table, row in found]

    def left_out(self) -> Iterator[tuple[str, str, str]]:
        """What of the lists could not be used: file, reason, detail."""
        for path in self.unread:
            yield path, "odd caption", "lists in Parquet are not read; save it as metadata.jsonl"
        for table in self.tables:
            if table.odd:
                more = f" and {len(table.odd) - 1:,} others" * (len(table.odd) > 1)
                yield table.path, "odd caption", f"{table.odd[0]}{more} cannot be read"
            if unused := [path for path in table.rows if path not in table.used]:
                yield (
                    *(table.path, "unmatched caption"),
                    f"{len(unused):,} of its {len(table.rows):,} rows are of no picture that is "
                    f"here, or of several; the first is of {unused[0]}",
                )


def name_hash(path: str) -> int:
    """What stands for a picture's name where millions are remembered."""
    return hash(_name(path))


def _name(path: str) -> str:
    return names.folded(path.rpartition("/")[2])


def _path(file: str, folder: str) -> str:
    """A path in a list, from the folder of the list, as one from the dataset's."""
    parts = [part for part in file.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return "/".join([folder, *parts] if folder else parts)


def _rows(kind: str, text: str) -> Iterator[dict[str, Any] | None]:
    """The rows of a table; None for one that cannot be read."""
    if kind.endswith(".jsonl"):
        for line in text.split("\n"):  # other ends of lines may be inside texts
            if line.strip():
                found = sidecars.parsed(line.encode(errors="surrogatepass"))
                yield found if isinstance(found, dict) else None
    elif kind.endswith(".csv") or kind == "captions.txt":  # Flickr8k's
        yield from _csv(text)
    else:
        for line in text.splitlines():
            file, _, rest = line.partition("\t")
            yield {"file_name": file, "label": rest.partition("\t")[0]} if rest else None


def _csv(text: str) -> Iterator[dict[str, Any] | None]:
    lines = [*io.StringIO(text, newline="")]
    between = next((letter for letter in ",;\t" if lines and letter in lines[0]), ",")
    columns, at = list[str](), 0
    while at < len(lines):
        taken, cells = _cells(lines, at, between)
        at += taken
        if not columns:
            columns = [cell.strip().lower() for cell in cells or ()]
        elif cells is None or any(map(str.strip, cells[len(columns) :])):
            yield None  # commas in a text without quotes, say
        elif cells:
            yield dict(zip(columns, cells, strict=False))


def _cells(lines: list[str], at: int, between: str) -> tuple[int, list[str] | None]:
    """How many lines the row at one of them takes, and its cells; one line and None where it cannot
    be read, as if nothing closes a quote."""
    rest = (lines[number] for number in range(at, len(lines)))
    reader = csv.reader(rest, delimiter=between)
    try:
        cells = next(reader)
        if 1 < reader.line_num == len(lines) - at:  # did a quote end it, or the end of the file?
            next(csv.reader(lines[at:], delimiter=between, strict=True))
    except csv.Error:
        return 1, None
    return reader.line_num, cells
