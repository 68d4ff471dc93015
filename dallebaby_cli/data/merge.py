"""Pieces → shards: exact copies become one record, each record gets its split, all is counted.

Two passes, so that memory stays small: first only hashes are read and decided on, then pictures
are copied one by one. The result depends on the records and the config, not on how many workers
made the pieces or when.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dallebaby_cli.config import PrepConfig
from dallebaby_cli.data import contact, images, pieces
from dallebaby_cli.data.shards import Described, ShardWriter

HASH_BYTES = 32
SHOWN = 24  # pictures on the contact sheet


@dataclass(frozen=True)
class Plan:
    """What becomes of each row of the pieces; arrays are (rows,) but for `holdout`."""

    end: int
    """rows from here on are not taken, because of the limit"""
    leader: np.ndarray
    """the first row with the same content"""
    rejected: np.ndarray
    """bool"""
    holdout: dict[int, bool]
    """leader → whether it is kept out of training"""


@dataclass(frozen=True)
class Merged:
    """What was written."""

    shards: list[Path]
    counts: dict[str, Any]


def plan(paths: list[Path], config: PrepConfig) -> Plan:
    """Decide on every row of the pieces, given in order."""
    hashes, official = _columns(paths)
    _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    leader = first[group]
    rejected = hashes == b""
    leaders = np.flatnonzero((leader == np.arange(len(leader))) & ~rejected)
    end = len(leader)
    if config.limit is not None and len(leaders) >= config.limit:
        leaders = leaders[: config.limit]
        end = int(leaders[-1]) + 1
    kept_out = np.bincount(leader[:end], official[:end] == "holdout", len(leader)) > 0
    holdout = split(
        hashes[leaders],
        np.where(kept_out[leaders], "holdout", official[leaders]),
        config.holdout_percent,
    )
    return Plan(end, leader, rejected, dict(zip(leaders.tolist(), holdout.tolist(), strict=True)))


def split(hashes: np.ndarray, official: np.ndarray, percent: float) -> np.ndarray:
    """Which records (bool) are kept out of training: the dataset's own split if it has both sides,
    else by content, so that a record stays on its side when others are added.

    `hashes` is S32, `official` text: "train", "holdout" or "" (left to the content).
    """
    share = hashes.view(np.uint8).reshape(-1, HASH_BYTES)[:, 8:16].copy().view(">u8")[:, 0]
    by_content = share < percent / 100 * 2.0**64
    kept_out = official == "holdout"
    if kept_out.any() and not kept_out.all():
        return np.where(official == "", by_content, kept_out)
    if len(hashes) > 1 and by_content.all():
        by_content[share.argmax()] = False
    elif len(hashes) > 1 and not by_content.any():
        by_content[share.argmin()] = True
    return by_content


def write(
    paths: list[Path],
    decided: Plan,
    out: Path,
    name: str,
    config: PrepConfig,
    tell: Callable[[int], None],
) -> Merged:
    """Write shards, index, rejects.jsonl and the contact sheet into the new folder `out`;
    `tell` hears how many rows are done."""
    extra = _captions_of_copies(paths, decided)
    shown = set(np.linspace(0, len(decided.holdout) - 1, SHOWN).astype(int).tolist())
    sample: list[tuple[bytes, str]] = []
    reasons: Counter[str] = Counter()
    captions = added = 0
    writer = ShardWriter(out, name, images.SUFFIX[config.encoding], config.shard_mb * 1e6)
    with (out / "rejects.jsonl").open("w") as rejects:
        for number, row in _rows(paths, decided.end):
            if row["reason"] is not None:
                reasons[row["reason"]] += 1
                told = {key: row[key] for key in ("file", "reason", "detail")}
                rejects.write(json.dumps(told, ensure_ascii=False) + "\n")
            elif number in decided.holdout:
                texts = list(dict.fromkeys([*row["captions"], *extra.get(number, [])]))
                side = "holdout" if decided.holdout[number] else "train"
                described = Described(texts, row["label"], row["file"], side)
                writer.add(row["hash"].hex()[:16], row["picture"], described)
                if added in shown:
                    sample.append((row["picture"], texts[0] if texts else ""))
                captions, added = captions + len(texts), added + 1
            tell(number + 1)
    shards = writer.close()
    contact.write(out / "contact-sheet.png", sample)
    kept_out = sum(decided.holdout.values())
    return Merged(
        shards,
        {
            "accepted": added,
            "rejected": dict(sorted(reasons.items())),
            "duplicates": int((~decided.rejected[: decided.end]).sum()) - added,
            "train": added - kept_out,
            "holdout": kept_out,
            "captions": captions,
        },
    )


def _columns(paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Hash (S32, empty if rejected) and official split (text, empty if none) of every row."""
    hashes, official = [np.empty(0, f"S{HASH_BYTES}")], [np.empty(0, "U7")]
    for path in paths:
        table = pieces.read(path)
        hashes.append(np.array([h or b"" for h in table["hash"].to_pylist()], f"S{HASH_BYTES}"))
        official.append(np.array([s or "" for s in table["split"].to_pylist()], "U7"))
    return np.concatenate(hashes), np.concatenate(official)


def _captions_of_copies(paths: list[Path], decided: Plan) -> dict[int, list[str]]:
    """Leader → captions of the later rows with the same content, in order."""
    copies = decided.leader != np.arange(len(decided.leader))
    copies &= ~decided.rejected
    found: dict[int, list[str]] = {}
    start = 0
    for path in paths:
        table = pieces.read(path)
        stop = min(start + table.num_rows, decided.end)
        for row in start + np.flatnonzero(copies[start:stop]):
            texts = table["captions"][int(row) - start].as_py()
            found.setdefault(int(decided.leader[row]), []).extend(texts)
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
