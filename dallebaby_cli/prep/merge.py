"""Pieces → shards: exact copies become one record, each record gets its split, all is counted.

Two passes, so that memory stays small: first only hashes are read and decided on, then pictures
are copied one by one. The result depends on the records and the config, not on how many workers
made the pieces or when.
"""

import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dallebaby_cli.config import PrepConfig
from dallebaby_cli.prep import contact, duplicates, pieces
from dallebaby_cli.store import codec
from dallebaby_cli.store.shards import Described, ShardWriter

HASH_BYTES = 32
SHOWN = 24  # pictures on the contact sheet
GROUPS_SHOWN = 8  # of near duplicates


@dataclass(frozen=True)
class Plan:
    """What becomes of each row of the pieces; arrays are (rows,)."""

    hashes: np.ndarray
    """S32; empty if rejected"""
    leader: np.ndarray
    """the first row with the same content"""
    taken: np.ndarray
    """bool; whether it becomes a record"""
    group: np.ndarray
    """of records: the row that leads the group of near duplicates"""
    holdout: np.ndarray
    """bool; of records: whether it is kept out of training"""
    end: int
    """rows from here on are not looked at, because of the limit"""

    def key(self, row: int) -> str:
        """The name of a record."""
        content: bytes = self.hashes[row]
        return content.ljust(HASH_BYTES, b"\0").hex()[:16]  # numpy strips zeros at the end


@dataclass(frozen=True)
class Merged:
    """What was written."""

    shards: list[Path]
    counts: dict[str, Any]
    shown: "Shown"
    side: int
    """in pixels, of half of the pictures at most, before they were made square"""


def plan(paths: list[Path], config: PrepConfig) -> Plan:
    """Decide on every row of the pieces, given in order."""
    hashes = _column(paths, "hash", f"S{HASH_BYTES}")
    official = _column(paths, "split", "U7")
    _, first, same = np.unique(hashes, return_index=True, return_inverse=True)
    leader, rows = first[same], np.arange(len(hashes))
    records = np.flatnonzero((leader == rows) & (hashes != b""))
    end = len(rows)
    if config.limit is not None and len(records) >= config.limit:
        records = records[: config.limit]
        end = int(records[-1]) + 1
    group = rows.copy()
    if config.near_duplicates:
        prints = _column(paths, "print", f"S{duplicates.PRINT_BYTES}")
        compared = records[prints[records] != b""]
        if len(compared):
            group[compared] = compared[_groups(prints[compared], hashes[compared])]
    together = group[leader]  # exact and near copies share a split
    kept_out = np.bincount(together[:end], official[:end] == "holdout", len(rows)) > 0
    sides = np.where(kept_out[group], "holdout", official)
    holdout = np.zeros(len(rows), bool)
    holdout[records] = split(hashes[group[records]], sides[records], config.holdout_percent)
    return Plan(hashes, leader, np.isin(rows, records), group, holdout, end)


def _groups(prints: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    ranks = np.empty(len(hashes), np.int64)
    ranks[np.argsort(hashes)] = np.arange(len(hashes))
    return duplicates.group(prints.view(np.uint8).reshape(len(prints), -1), ranks)


def split(hashes: np.ndarray, official: np.ndarray, percent: float) -> np.ndarray:
    """Which records (bool) are kept out of training: the dataset's own split if it has both sides,
    else by content, so that a record stays on its side when others are added.

    `hashes` is S32, the same for records that must stay together; `official` is text: "train",
    "holdout" or "" (left to the content).
    """
    share = hashes.view(np.uint8).reshape(-1, HASH_BYTES)[:, 8:16].copy().view(">u8")[:, 0]
    by_content = share < percent / 100 * 2.0**64
    kept_out = official == "holdout"
    if kept_out.any() and not kept_out.all():
        return np.where(official == "", by_content, kept_out)
    if len(set(share.tolist())) > 1:
        if by_content.all():
            by_content = share < share.max()
        elif not by_content.any():
            by_content = share == share.min()
    return by_content


def write(
    paths: list[Path],
    decided: Plan,
    out: Path,
    name: str,
    config: PrepConfig,
    tell: Callable[[int], None],
) -> Merged:
    """Write shards, index and rejects.jsonl into the new folder `out`; `tell` hears how many rows
    are done."""
    extra = _captions_of_copies(paths, decided)
    shown = Shown(decided)
    reasons: Counter[str] = Counter()
    captions, sides = 0, array("i")
    shards = ShardWriter(out, name, codec.SUFFIX[config.encoding], config.shard_mb * 1e6)
    with (out / "rejects.jsonl").open("w", encoding="utf-8", newline="\n") as rejects:
        for number, row in _rows(paths, decided.end):
            if row["reason"] is not None:
                reasons[row["reason"]] += 1
                told = {key: row[key] for key in ("file", "reason", "detail")}
                rejects.write(json.dumps(told, ensure_ascii=False) + "\n")
            elif decided.taken[number]:
                writers: dict[str, str] = {}
                for text, writer in [*_written(row), *extra.get(number, [])]:
                    writers.setdefault(text, writer)
                texts = [*writers]
                side = "holdout" if decided.holdout[number] else "train"
                group = decided.key(decided.group[number])
                described = Described(
                    texts, [*writers.values()], row["label"], row["file"], side, group
                )
                shards.add(decided.key(number), row["picture"], described)
                shown.take(number, row["picture"], texts[0] if texts else "", row["file"])
                captions += len(texts)
                sides.append(row.get("side", config.image_px))
            tell(number + 1)
    written = shards.close()
    accepted, kept_out = int(decided.taken.sum()), int(decided.holdout.sum())
    sizes = np.bincount(decided.group[decided.taken])
    counts = {
        "accepted": accepted,
        "rejected": dict(sorted(reasons.items())),
        "duplicates": int((decided.hashes[: decided.end] != b"").sum()) - accepted,
        "near_duplicates": int((sizes[sizes > 1] - 1).sum()),
        "train": accepted - kept_out,
        "holdout": kept_out,
        "enlarged": sum(side < config.image_px for side in sides),
        "captions": captions,
    }
    return Merged(written, counts, shown, int(np.median(sides)))


class Shown:
    """Pictures for people to look at, gathered while the shards are written."""

    def __init__(self, decided: Plan) -> None:
        records = np.flatnonzero(decided.taken)
        places = np.linspace(0, len(records) - 1, min(SHOWN, len(records))).astype(int)
        self.sample = set(records[places].tolist())
        self.group = decided.group
        sizes = np.bincount(decided.group[records])
        largest = np.argsort(-sizes, kind="stable")[:GROUPS_SHOWN]
        several = largest[sizes[largest] > 1].tolist()
        self.groups: dict[int, list[tuple[bytes, str]]] = {leader: [] for leader in several}
        self.pictures: list[tuple[bytes, str]] = []

    def take(self, row: int, picture: bytes, caption: str, file: str) -> None:
        if row in self.sample:
            self.pictures.append((picture, caption))
        members = self.groups.get(int(self.group[row]))
        if members is not None and len(members) < contact.COLUMNS:
            members.append((picture, file))

    def draw(self, out: Path) -> None:
        """Write contact-sheet.png, and near-duplicates.png (a row a group) if there are any."""
        width = contact.COLUMNS
        rows = [self.pictures[i : i + width] for i in range(0, len(self.pictures), width)]
        contact.write(out / "contact-sheet.png", rows)
        if self.groups:
            contact.write(out / "near-duplicates.png", list(self.groups.values()))


def _column(paths: list[Path], name: str, dtype: str) -> np.ndarray:
    """A column of all pieces, nulls as empty."""
    empty: str | bytes = "" if dtype[0] == "U" else b""
    parts = [np.empty(0, dtype)]
    for path in paths:
        values = pieces.read(path)[name].to_pylist()
        parts.append(np.array([empty if v is None else v for v in values], dtype))
    return np.concatenate(parts)


def _written(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The captions of a row, each with who wrote it."""
    return zip(row["captions"], row["caption_sources"], strict=True)


def _captions_of_copies(paths: list[Path], decided: Plan) -> dict[int, list[tuple[str, str]]]:
    """Leader → captions of the later rows with the same content and who wrote them, in order."""
    copies = (decided.leader != np.arange(len(decided.leader))) & (decided.hashes != b"")
    found: dict[int, list[tuple[str, str]]] = {}
    start = 0
    for path in paths:
        table = pieces.read(path)
        stop = min(start + table.num_rows, decided.end)
        for row in start + np.flatnonzero(copies[start:stop]):
            copy = table.slice(int(row) - start, 1).drop(["picture"]).to_pylist()[0]
            found.setdefault(int(decided.leader[row]), []).extend(_written(copy))
        start += table.num_rows
    return found


def _rows(paths: list[Path], end: int) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    for path in paths:
        for row in pieces.read(path).to_pylist():
            if number >= end:
                return
            yield number, row
            number += 1
