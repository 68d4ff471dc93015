"""YAML that repeats itself, is nested or typed without end is refused, and at once."""

import os
import time
from pathlib import Path

import pytest

from dallebaby_cli import files
from dallebaby_cli.config import settings, yaml_reader
from dallebaby_cli.errors import BadInput, UsageError
from dallebaby_cli.fetch import catalog

LAUGHS = "a0: &a0 [lol, lol]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
MERGES = "a0: &a0 {k: v}\n" + "".join(
    f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 90))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (LAUGHS, "repeats itself by aliases without end"),
        (MERGES, "repeats itself by aliases without end"),
        ("a: &a [*a, *a]", "repeats itself by aliases without end"),
        ("a: &a {b: *a}", "repeats itself by aliases without end"),
        (CHAIN, "nested over 50 levels deep"),
        ("[" * 60 + "]" * 60, "nested over 50 levels deep"),
        ("[" * 100_000, "maximum nesting depth"),
        ("- " * 100_000, "maximum nesting depth"),
        ("a: !!python/object/apply:os.system [id]", "could not determine a constructor"),
        ("a: !!binary '@@'", "could not determine a constructor"),
    ],
)
def test_yaml_out_of_all_bounds_is_refused_at_once(text: str, why: str, tmp_path: Path) -> None:
    began = time.process_time()
    with pytest.raises(ValueError, match=why):
        yaml_reader.parse(text)
    assert time.process_time() - began < 2


def test_plain_values_are_text_and_aliases_stand_for_what_they_name() -> None:
    text = "a: &a {x: 010, y: 12:30:45}\nb: {<<: *a, y: 2001-01-01}\nc: [*a, ~, on]\nd: !!int 7"
    first = {"x": "010", "y": "12:30:45"}
    second = {"x": "010", "y": "2001-01-01"}
    assert yaml_reader.parse(text) == {"a": first, "b": second, "c": [first, "~", "on"], "d": "7"}
    assert yaml_reader.parse("") is None


def test_a_config_file_and_a_catalogue_are_read_in_bounds(tmp_path: Path) -> None:
    def settings_of(path: Path) -> object:
        return settings.load("train", file=path)

    def catalogue_of(path: Path) -> object:
        return catalog.load(path.parent)

    path = tmp_path / "catalog.yaml"
    for read, kind in ((settings_of, UsageError), (catalogue_of, BadInput)):
        path.write_text("train:\n  model: &a {dim: *a}\ndatasets: {}\n", encoding="utf-8")
        with pytest.raises(kind, match=r"catalog\.yaml is not valid YAML: it repeats itself"):
            read(path)
        path.write_bytes(b"train: \xff")
        with pytest.raises(kind, match=r"catalog\.yaml is not valid YAML: .*can't decode byte"):
            read(path)
        path.write_bytes(b"#" * (files.SMALL + 1))
        with pytest.raises(kind, match=r"catalog\.yaml has over 16.8 MB"):
            read(path)
        if hasattr(os, "mkfifo"):
            path.unlink()
            os.mkfifo(path)
            with pytest.raises(kind, match=r"catalog\.yaml is a folder, pipe or device"):
                read(path)
            path.unlink()
