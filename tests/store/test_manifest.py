"""Stages find the right input, or say exactly what is missing."""

import json
import shutil
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import pytest

from dallebaby_cli.errors import BadInput, MissingInput, UsageError
from dallebaby_cli.store import manifest
from dallebaby_cli.store.manifest import Manifest


def put(home: Path, kind: str, name: str, complete: bool = True) -> Path:
    folder = manifest.artefact(home, kind, name)
    manifest.write(folder, Manifest(kind=kind, name=name, id=f"id of {name}", complete=complete))
    return folder


def test_the_newest_complete_one_is_taken(tmp_path: Path) -> None:
    put(tmp_path, "images", "old")
    put(tmp_path, "images", "new")
    put(tmp_path, "images", "unfinished", complete=False)
    assert manifest.newest(tmp_path, "images")[1].name == "new"
    assert [m.name for _, m in manifest.find_all(tmp_path, "images", [])] == ["new"]
    assert [m.name for _, m in manifest.find_all(tmp_path, "images", ["old"])] == ["old"]


def test_what_is_missing_is_said_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="nothing complete in .*vae; run `dallebaby train-vae`"):
        manifest.newest(tmp_path, "vae")
    put(tmp_path, "images", "stamps")
    with pytest.raises(MissingInput, match="did you mean 'stamps'.*`dallebaby prep stmaps`"):
        manifest.find(tmp_path, "images", "stmaps")
    put(tmp_path, "images", "half", complete=False)
    with pytest.raises(MissingInput, match="is not finished; run `dallebaby prep half` again"):
        manifest.find(tmp_path, "images", "half")


def test_a_folder_that_was_renamed_or_copied_is_called_what_it_is_called_now(
    tmp_path: Path,
) -> None:
    shutil.copytree(put(tmp_path, "vae", "old"), tmp_path / "vae" / "copy")
    put(tmp_path, "vae", "other").rename(tmp_path / "vae" / "renamed")
    assert {m.name for _, m in manifest.every(tmp_path, "vae")} == {"old", "copy", "renamed"}
    assert manifest.find(tmp_path, "vae", "renamed")[1].name == "renamed"
    with pytest.raises(MissingInput, match="no vae/other in"):
        manifest.find(tmp_path, "vae", "other")


def test_manifests_of_another_version_or_damaged_are_named(tmp_path: Path) -> None:
    path = put(tmp_path, "vae", "run") / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "format": 99}))
    with pytest.raises(BadInput, match="has format 99 and this version reads 1"):
        manifest.find(tmp_path, "vae", "run")
    path.write_text("{")
    with pytest.raises(BadInput, match=r"manifest\.json is damaged \(Expecting .*\); remove"):
        manifest.find(tmp_path, "vae", "run")
    assert manifest.every(tmp_path, "vae") == []  # a bad one does not hide the others


@pytest.mark.parametrize("name", ["", "../x", "/etc", "a/b", ".hidden", "x" * 256, "a b", "-ä"])
def test_names_cannot_leave_their_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be a name"):
        manifest.artefact(tmp_path, "vae", name)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", 7),
        ("name", "a\x1b[2Jb"),
        ("id", None),
        ("complete", "yes"),
        ("config", []),
        ("counts", [1]),
        ("parents", {"../../etc": "x"}),
        ("parents", {"/etc": "x"}),
        ("parents", {"images/a": 7}),
        ("hashes", {"../x.arrow": "y"}),
        ("hashes", {"sub/x.arrow": "y"}),
        ("when", {"a": 1}),
        ("when", "yesterday"),
        ("version", "1\n2"),
    ],
)
def test_a_manifest_of_another_shape_is_damaged(tmp_path: Path, field: str, value: object) -> None:
    path = put(tmp_path, "vae", "run") / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(BadInput, match=rf"manifest\.json is damaged \({field} .*\); remove") as why:
        manifest.find(tmp_path, "vae", "run")
    assert str(why.value).isprintable()


def test_a_manifest_without_end_is_damaged(tmp_path: Path) -> None:
    path = put(tmp_path, "vae", "run") / "manifest.json"
    for content in (b"[" * 100_000, b"\0" * 300, b"\xff{}", b'{"format": ' + b"1" * 5000 + b"}"):
        path.write_bytes(content)
        with pytest.raises(BadInput, match=r"manifest\.json is damaged \(.*\); remove"):
            manifest.read(path.parent)


def test_the_newest_is_the_newest_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Back(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime(1999, 1, 1, tzinfo=tz)

    put(tmp_path, "vae", "old")
    monkeypatch.setattr(manifest, "datetime", Back)
    for name in ("b", "a", "c"):
        put(tmp_path, "vae", name)
        assert manifest.newest(tmp_path, "vae")[1].name == name
    names = [about.name for _, about in manifest.every(tmp_path, "vae")]
    assert names == ["c", "a", "b", "old"]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("tokens", {"parents": {}}),
        ("tokens", {"parents": {"images/a": "1", "images/b": "2"}}),
        ("captions", {"counts": {"model:a": {}}}),
        ("captions", {"counts": {"model:a": 7}, "config": {"models": {"model:a": {}}}}),
    ],
)
def test_a_manifest_that_lacks_what_its_kind_has_is_damaged(
    tmp_path: Path, kind: str, fields: dict[str, Any]
) -> None:
    manifest.write(tmp_path / "x", Manifest(kind=kind, name="x", **fields))
    with pytest.raises(BadInput, match=r"manifest\.json is damaged \((parents|counts) does not"):
        manifest.read(tmp_path / "x")
