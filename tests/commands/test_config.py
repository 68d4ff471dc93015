"""`dallebaby config` says of every setting what a run would take, and why."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Ran

from dallebaby_cli.config import SECTIONS, settings
from dallebaby_cli.config.settings import Setting, explain

Cli = Callable[..., Ran]


def by_key(rows: list[Setting]) -> dict[str, Setting]:
    return {row.key: row for row in rows}


def test_each_value_comes_from_the_strongest_that_gives_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train-vae: {batch_size: 7, eval_every: 9, model: {width: 24}}\n")
    rows = by_key(
        explain(
            "train-vae",
            preset="tiny",
            file=file,
            settings=["eval_every=11", "model={depth: 3, grid: 4}"],
            flags={"seed": 5, "steps": None},
        )
    )
    assert {key: row.origin for key, row in rows.items() if row.origin != "default"} == {
        "steps": "preset tiny",
        "eval_images": "preset tiny",
        "optim.lr": "preset tiny",
        "batch_size": f"--config {file}",
        "model.width": f"--config {file}",
        "eval_every": "--set",
        "model.depth": "--set",
        "model.grid": "--set",
        "seed": "flag",
    }
    assert (rows["batch_size"].value, rows["batch_size"].default) == (7, 128)
    assert (rows["model.depth"].value, rows["seed"].value) == (3, 5)


@pytest.mark.parametrize("section", sorted(SECTIONS))
def test_every_setting_is_there_once_with_its_meaning(section: str) -> None:
    rows = explain(section)
    values: dict = {}
    for row in rows:
        assert row.help and row.value == row.default and settings.knows(section, row.key)
        settings._merge(values, settings._nest(row.key, row.value))
    assert values == settings.as_dict(SECTIONS[section]())


def test_help_is_the_string_below_the_field_wherever_it_was_declared() -> None:
    train, judge = by_key(explain("train")), by_key(explain("evaluate"))
    assert train["batch_size"].help == "pictures a step"  # inherited
    assert train["precision"].help.endswith("(auto, fp32, bf16, fp16)")  # and what it may be
    assert judge["classifier.optim.lr"].help.startswith("peak learning rate")
    assert judge["classifier.optim.lr"].default == 2e-3  # not that of OptimConfig


def test_the_command_shows_what_the_commands_take(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("encode: {views: 4}\n")
    asked = ("config", "--config", file, "--set", "crop=0.5", "--preset", "tiny")
    said = json.loads(cli(*asked, "--json").out)["settings"]
    assert {row["command"] for row in said} == {*SECTIONS}
    found = {(row["command"], row["key"]): (row["value"], row["origin"]) for row in said}
    assert found["encode", "views"] == (4, f"--config {file}")
    assert found["encode", "crop"] == found["train-vae", "crop"] == (0.5, "--set")
    assert found["train", "optim.lr"] == (2e-3, "preset tiny")
    assert {field.name for field in dataclasses.fields(Setting)} < {*said[0]}
    plain = [re.split("  +", line) for line in cli(*asked).out.splitlines()]
    assert len(plain) == len(said) and {len(line) for line in plain} == {6}
    assert ["encode", "views", "4", f"--config {file}", "0"] in [line[:5] for line in plain]


def test_without_a_preset_it_is_the_one_that_suits_the_device(cli: Cli) -> None:
    said = json.loads(cli("config", "train", "--device", "cpu", "--json").out)["settings"]
    assert {row["command"] for row in said} == {"train"}
    assert {row["origin"] for row in said} == {"default", "preset scenes"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("trian",), "no command 'trian' has settings; did you mean 'train'"),
        (("status",), "no command 'status' has settings; there are caption, "),
        (("prep", "--preset", "tiny"), "--preset is for train-vae and train; prep has none"),
        (("train", "--preset", "tyni"), "no preset 'tyni'; did you mean 'tiny'"),
        (("fetch", "--set", "timeout=3"), "unknown setting timeout; did you mean 'timeout_s'"),
        (("--set", "optim.rl=3"), "unknown setting optim.rl; did you mean 'lr'"),
    ],
)
def test_what_is_not_there_is_named(cli: Cli, arguments: tuple[str, ...], words: str) -> None:
    ran = cli("config", *arguments)
    assert ran.code == 2 and words in ran.err
