"""images/NAME/captions.jsonl: captions that models wrote, beside shards that stay as they are.

A line a caption, `{"key": …, "caption": …, "source": "model:NAME"}`, sorted by source, then in the
order of the pictures. `captions/manifest.json` beside it names the pictures that they belong to and
each model with its settings and figures; its id is the hash of the file.
"""

import dataclasses
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dallebaby_cli import files
from dallebaby_cli.errors import BadInput
from dallebaby_cli.store import manifest
from dallebaby_cli.store.manifest import Manifest


@dataclass(frozen=True)
class ExtraCaptions:
    """Captions to join with pictures by their keys."""

    id: str = ""
    of: Mapping[str, str] = field(default_factory=dict)
    """the pictures that they were written for: "images/NAME" → its id"""
    by_key: Mapping[str, Sequence[str]] = field(default_factory=dict)


def file(images: Path) -> Path:
    """Where the captions of a folder of images are."""
    return images / "captions.jsonl"


def about(images: Path) -> Path:
    """The folder of the captions' manifest, and of parts that are not whole yet."""
    return images / "captions"


def find(images: Path) -> Manifest | None:
    """The manifest of a folder's captions, or None if there are none (or not any more).

    Raises BadInput if the captions are not those that were written.
    """
    path, found = file(images), manifest.read(about(images))
    if found is None or not path.exists():
        return None
    if not found.complete or files.sha256_file(path) != found.id:
        raise BadInput(
            f"{path} is not as it was written; run `dallebaby caption {images.name}` again with "
            "each model, or remove the file to do without"
        )
    return found


def read(images: Path) -> ExtraCaptions:
    """A folder's extra captions; there may be none. Raises BadInput as `find` does."""
    found = find(images)
    if found is None:
        return ExtraCaptions()
    by_key: dict[str, list[str]] = defaultdict(list)
    for row in _rows(file(images)):
        by_key[row["key"]].append(row["caption"])
    return ExtraCaptions(found.id, found.parents, dict(by_key))


def learned(home: Path, images: str, model: Manifest) -> Mapping[str, Sequence[str]]:
    """The extra captions of "images/NAME" by key, if a model learned from them as they are; none if
    they were written or changed since. Raises BadInput as `find` does."""
    extra = read(home / images)
    return extra.by_key if extra.id and extra.id == model.parents.get(f"{images}/captions") else {}


def part(rows: Sequence[tuple[str, list[str], Counter[str]]]) -> bytes:
    """What came of some pictures, as `put` reads it: key, kept captions, dropped drafts. The last
    line is the hash of those before it."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    content = "".join(lines).encode()
    end = {"sha256": hashlib.sha256(content).hexdigest()}
    return content + (json.dumps(end) + "\n").encode()


def is_whole(path: Path) -> bool:
    """Whether a part is there as `part` made it: a power cut may leave half of it, or zeros."""
    digest, last = hashlib.sha256(), b""
    try:
        for line in files.read_lines(path):
            digest.update(last)
            last = line
        return bool(files.parse_json(last) == {"sha256": digest.hexdigest()})
    except (FileNotFoundError, BadInput, ValueError):
        return False


def put(images: Path, draft: Manifest, source: str, parts: Sequence[Path]) -> Manifest:
    """Replace one source's captions by those in `parts`, given in order; return the new manifest.

    `draft` is the manifest to be, but for the figures and the id. Whoever is killed in here can
    call this again: the captions of other sources are the same in the old file and the new one.
    """
    path = file(images)
    others = {name for name in draft.config["models"] if name != source}
    figures = Counter(pictures=0, captions=0)
    dropped: Counter[str] = Counter()

    def ours() -> Iterator[str]:
        for part in parts:
            for line in [*files.read_lines(part)][:-1]:
                key, kept, reasons = files.parse_json(line)
                figures.update(pictures=1, captions=len(kept))
                dropped.update(reasons)
                for text in kept:
                    row = {"key": key, "caption": text, "source": source}
                    yield json.dumps(row, ensure_ascii=False) + "\n"

    counts = {name: draft.counts[name] for name in others}
    manifest.write(about(images), dataclasses.replace(draft, complete=False, counts=counts))
    with (
        files.atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as out,  # or Windows changes the hash
    ):
        for name in sorted({*others, source}):
            out.writelines(ours() if name == source else _of(path, name))
    counts[source] = dict(figures) | {"dropped": dict(sorted(dropped.items()))}
    whole = dataclasses.replace(draft, id=files.sha256_file(path), complete=True, counts=counts)
    manifest.write(about(images), whole)
    return whole


def _of(path: Path, source: str) -> Iterator[str]:
    rows = (row for row in _rows(path) if row["source"] == source)
    return (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _rows(path: Path) -> Iterator[dict[str, str]]:
    """The lines of captions.jsonl: key, caption and source. Raises BadInput."""
    for number, line in enumerate(files.read_lines(path), start=1):
        try:
            row = files.parse_json(line)
            right = isinstance(row, dict) and row.keys() == {"key", "caption", "source"}
            if not right or not all(type(text) is str for text in row.values()):
                raise ValueError("it is no caption")
        except ValueError as error:
            raise BadInput(
                f"{path} is damaged in line {number:,} ({error}); remove it and run `dallebaby "
                f"caption {path.parent.name}` again with each model"
            ) from error
        yield row
