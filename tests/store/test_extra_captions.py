"""Captions that models wrote: what is half of a part is made again, what is no caption is named."""

import dataclasses
from collections import Counter
from pathlib import Path

import pytest

from dallebaby_cli import files
from dallebaby_cli.errors import BadInput
from dallebaby_cli.store import extra_captions, manifest
from dallebaby_cli.store.manifest import Manifest

ROWS = [
    ("00ff", ["a red car", "a car é 猫 in the rain"], Counter(short=1)),
    ("01ff", [], Counter(twice=2)),
]
PART = extra_captions.part(ROWS)


def put(images: Path, source: str) -> Manifest:
    written = images / "captions" / ".work" / "000000.jsonl"
    files.write_bytes(written, PART)
    before = manifest.read(extra_captions.about(images))
    counts = before.counts if before else {}
    config = {"models": {name: {} for name in {*counts, source}}}
    draft = Manifest(kind="captions", name="i", config=config, counts=counts)
    return extra_captions.put(images, draft, source, [written])


def test_what_is_put_is_read_and_other_models_stay(tmp_path: Path) -> None:
    put(tmp_path, "model:a")
    whole = put(tmp_path, "model:b")
    read = extra_captions.read(tmp_path)
    assert read.id == whole.id and read.by_key == {"00ff": 2 * ROWS[0][1]}
    assert put(tmp_path, "model:a").id == whole.id
    assert whole.counts["model:a"] == whole.counts["model:b"]
    assert whole.counts["model:a"]["dropped"] == {"short": 1, "twice": 2}


def test_a_model_learned_from_those_that_its_manifest_names(tmp_path: Path) -> None:
    model = Manifest(kind="dalle", name="m")
    assert extra_captions.learned(tmp_path, "images/i", model) == {}
    first = put(tmp_path / "images" / "i", "model:a")
    knows = dataclasses.replace(model, parents={"images/i/captions": first.id})
    assert extra_captions.learned(tmp_path, "images/i", model) == {}, "written later"
    assert extra_captions.learned(tmp_path, "images/i", knows) == {"00ff": ROWS[0][1]}
    put(tmp_path / "images" / "i", "model:b")
    assert extra_captions.learned(tmp_path, "images/i", knows) == {}, "changed since"


def test_only_whole_parts_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "000000.jsonl"
    assert not extra_captions.is_whole(path)
    path.write_bytes(PART)
    assert extra_captions.is_whole(path)
    half, lines = len(PART) // 2, PART.splitlines(keepends=True)
    for damaged in (b"", PART[:half], PART[:half] + bytes(len(PART) - half), bytes(100), lines[0]):
        path.write_bytes(damaged)
        assert not extra_captions.is_whole(path)
    path.write_bytes(extra_captions.part([]))
    assert extra_captions.is_whole(path)


def test_lines_that_are_no_captions_are_named(tmp_path: Path) -> None:
    put(tmp_path, "model:a")
    path = extra_captions.file(tmp_path)
    for line in (b"[" * 60_000, b"\0\0", b"7", b'{"key": "a"}', b"\xff", b'{"key": 1}'):
        content = path.read_bytes().splitlines(keepends=True)[0] + line + b"\n"
        files.write_bytes(path, content)
        with pytest.raises(BadInput, match=r"captions\.jsonl is not as it was written; run"):
            extra_captions.read(tmp_path)
        about = manifest.read(extra_captions.about(tmp_path))
        assert about
        changed = dataclasses.replace(about, id=files.sha256_file(path))
        manifest.write(extra_captions.about(tmp_path), changed)
        with pytest.raises(BadInput, match=r"captions\.jsonl is damaged in line 2 \(.*\); remove"):
            extra_captions.read(tmp_path)
