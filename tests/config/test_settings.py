"""Precedence, strictness, and configs that survive the way to disk and back."""

import ast
import dataclasses
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dallebaby_cli.config import DVAEConfig, TrainVaeConfig, models, settings, stages, usual_grid
from dallebaby_cli.errors import UsageError


def test_precedence_from_default_to_flag(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train-vae: {batch_size: 7, eval_every: 9, model: {width: 24}}\n")
    tiny = settings.load("train-vae", preset="tiny")
    made = settings.load(
        "train-vae",
        preset="tiny",
        file=file,
        settings=["eval_every=11", "optim.lr=3e-4"],
        flags={"seed": 5, "steps": None},
    )
    assert made.precision == "auto"  # default
    assert made.steps == tiny.steps and made.model.grid == tiny.model.grid  # preset
    assert made.batch_size == 7 and made.model.width == 24  # file
    assert made.eval_every == 11 and made.optim.lr == 3e-4  # --set
    assert made.seed == 5  # flag


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("batchsize=3", "unknown setting batchsize; did you mean 'batch_size'"),
        ("model.widht=3", "unknown setting model.widht; did you mean 'width'"),
        ("batch_size=many", "batch_size='many': must be a whole number"),
        ("batch_size=1.5", "must be a whole number"),
        ("batch_size=true", "must be a whole number"),
        ("optim.lr=nan", "must be a number"),
        ("optim.lr=" + "9" * 350, "must be a number"),
        ("optim.lr=-1", "optim.lr=-1.0: must be above 0"),
        ("precision=fp8", "must be one of auto, fp32, bf16, fp16"),
        ("model=3", "has settings of its own"),
        ("model.levels=[8,1]", "model.levels"),
        ("seed", "write it as KEY=VALUE"),
        ("accumulate=3", "must divide batch_size"),
    ],
)
def test_wrong_settings_are_named(setting: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        settings.load("train-vae", settings=[setting])
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("on", "flip", True),  # what YAML reads here depends on its version: on, no, 017, 1e-3
        ("No", "flip", False),
        ("true", "flip", True),
        ("y", "flip", None),
        ("1", "flip", None),
        ("1e-3", "edge_weight", 0.001),
        ("1_000.5", "edge_weight", 1000.5),
        ("5.", "edge_weight", 5.0),
        ("1:30", "edge_weight", None),
        (".inf", "edge_weight", None),
        ("yes", "edge_weight", None),
        ("1_000", "seed", 1000),
        ("1e3", "seed", 1000),
        ("1.5E+3", "seed", 1500),
        ("1.5e0", "seed", None),
        ("1e-3", "seed", None),
        ("1e999", "seed", None),
        ("010", "seed", None),
        ("12:30:45", "seed", None),
        ("0x1f", "seed", 31),
        ("0o17", "seed", 15),
        ("017", "seed", None),
        ("1:30", "seed", None),
        ("2001-01-01", "seed", None),
        ("~", "seed", None),
        ("null", "steps", ...),
        ("", "steps", ...),
        ("off", "precision", None),
    ],
)
def test_a_value_is_what_its_field_says_whatever_yaml_takes_it_for(
    tmp_path: Path, text: str, key: str, value: object
) -> None:
    """None: refused, with the text as it was typed; ...: nothing."""
    file = tmp_path / "mine.yaml"
    file.write_text(f"train-vae:\n  {key}: {text}\n")
    for source in ({"file": file}, {"settings": [f"{key}={text}"]}):
        if value is None:
            with pytest.raises(UsageError, match=f"{key}={text!r}: must be"):
                settings.load("train-vae", **source)
            continue
        found = getattr(settings.load("train-vae", **source), key)
        assert found == (None if value is ... else value) and type(found) is not str


@pytest.mark.parametrize("section", ["prep", "caption"])
def test_where_work_is_done_can_be_written_in_yaml_by_its_old_name_too(
    tmp_path: Path, section: str
) -> None:
    file = tmp_path / "mine.yaml"
    for name in ("where", "on"):
        file.write_text(f"{section}:\n  {name}: ray:auto\n")
        assert settings.load(section, file=file).where == "ray:auto"
        assert settings.load(section, file=file, settings=[f"{name}=local"]).where == "local"
        assert settings.knows(section, name)
    assert settings.load(section, settings=["on=ray"], flags={"where": "local"}).where == "local"
    with pytest.raises(UsageError, match="unknown setting on"):
        settings.load("train", settings=["on=ray"])


def test_yaml_may_still_name_a_mapping_and_merge_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train: &all {seed: 3, batch_size: 4}\ntrain-vae: {<<: *all, batch_size: 8}\n")
    made = settings.load("train-vae", file=file)
    assert (made.seed, made.batch_size) == (3, 8)


def test_wrong_files_are_named(tmp_path: Path) -> None:
    for name, text, words in [
        ("a.yaml", "trian: {}", "unknown section trian; did you mean 'train'"),
        ("b.yaml", "train: [1]", "section train must hold"),
        ("c.yaml", "{", "is not valid YAML"),
        ("d.yaml", "- 1", "one section per command"),
        ("e.yaml", "train: !!python/object/apply:os.system [id]", "is not valid YAML"),
    ]:
        (tmp_path / name).write_text(text)
        with pytest.raises(UsageError) as caught:
            settings.load("train", file=tmp_path / name)
        assert words in str(caught.value) and name in str(caught.value)
    with pytest.raises(UsageError, match="cannot read"):
        settings.load("train", file=tmp_path / "none.yaml")


@pytest.mark.parametrize("section", sorted(stages.SECTIONS))
@pytest.mark.parametrize("preset", settings.preset_names())
def test_every_preset_fits_and_comes_back_from_plain_values(section: str, preset: str) -> None:
    made = settings.load(section, preset=preset)
    assert settings.build(type(made), settings.as_dict(made)) == made


def test_presets_hold_only_what_differs() -> None:
    def spell_out(values: dict, made: object, at: str) -> list[str]:
        same = []
        for key, value in values.items():
            default = getattr(made, key)
            if isinstance(value, dict):
                same += spell_out(value, default, f"{at}{key}.")
            elif (tuple(value) if isinstance(value, list) else value) == default:
                same.append(f"{at}{key}")
        return same

    for preset in settings.preset_names():
        for section, cls in stages.SECTIONS.items():
            values = settings._read_section(settings.PRESETS / f"{preset}.yaml", section)
            assert not spell_out(values, cls(), f"{preset}: {section}."), preset


def test_unknown_preset_suggests() -> None:
    with pytest.raises(UsageError, match="did you mean 'tiny'"):
        settings.load("train", preset="tyni")


@given(st.integers(1, 64), st.integers(1, 32))
def test_stem_and_halvings_lead_from_pixels_to_grid(grid: int, factor: int) -> None:
    made = DVAEConfig(image_px=grid * factor, grid=grid)
    assert made.patch_px * 2**made.halvings == factor


def every_number() -> Iterator[tuple[str, str, Any]]:
    """Section, dotted key and field of every setting that is a number or holds some."""
    for section, cls in stages.SECTIONS.items():
        for row in settings.explain(section):
            *outer, name = row.key.split(".")
            owner: Any = cls
            for part in outer:
                owner = get_type_hints(owner)[part]
            hint = str(get_type_hints(owner)[name])
            if "int" in hint or "float" in hint:
                fields = {field.name: field for field in dataclasses.fields(owner)}
                yield section, row.key, fields[name]


NUMBERS = [*every_number()]


@pytest.mark.parametrize(
    ("section", "key", "field"), NUMBERS, ids=[f"{section}.{key}" for section, key, _ in NUMBERS]
)
def test_every_number_has_a_range(section: str, key: str, field: dataclasses.Field) -> None:
    many, outside = "[{0},{0}]" if isinstance(field.default, tuple) else "{0}", ["-1"]
    if not key.endswith("clip_norm"):  # to clip nothing is fine
        outside += ["1e30", str(2**64)]
    for value in outside:
        with pytest.raises(UsageError, match=rf"{field.name}=.*: must be") as refused:
            settings.load(section, settings=[f"{key}={many.format(value)}"])
        assert len(str(refused.value)) < 200


def test_a_long_value_is_cut_in_the_sentence() -> None:
    with pytest.raises(UsageError, match="must be a whole number") as refused:
        settings.load("train", settings=["seed=" + "9" * 100_000])
    assert len(str(refused.value)) < 200


def test_what_a_model_is_made_for_is_checked_when_it_is_known() -> None:
    for grid in (20, 11, 12, 7):  # of pictures of 100, 33, 48 and 49 px
        made = settings.load("train-vae", settings=[f"model.grid={grid}"])
        assert made.model.grid == grid
    with pytest.raises(UsageError, match=r"model.grid=20: must divide the pictures' 64 px; 2 4 8"):
        dataclasses.replace(made.model, image_px=64, grid=20)
    with pytest.raises(UsageError, match=r"model.image_px=0: must be that of the pictures"):
        _ = made.model.patch_px
    with pytest.raises(UsageError, match=r"model.grid=0: must be chosen to build a model"):
        _ = DVAEConfig(image_px=64).patch_px


def test_a_grid_that_nobody_chose_is_near_four_pixels_a_code_and_at_most_16() -> None:
    usual = {8: 2, 16: 4, 32: 8, 33: 11, 48: 12, 50: 10, 64: 16, 100: 10, 128: 16, 224: 16}
    assert {px: usual_grid(px) for px in usual} == usual
    assert usual_grid(256) == usual_grid(512) == usual_grid(1024) == 16
    for px in (8, 16, 32, 40, 64):
        assert usual_grid(px, drawn=True) == 8, "as measured best for scenes"
    assert (usual_grid(36, drawn=True), usual_grid(128, drawn=True)) == (9, 16)
    for px in (23, 34, 61, 74, 127):
        with pytest.raises(UsageError, match=rf"pictures of {px} px cannot be divided into about"):
            usual_grid(px)
    names = settings.preset_names()
    kept = {name: settings.load("train-vae", preset=name).model.grid for name in names}
    assert kept.pop("tiny") == kept.pop("baby") == 8 and not any(kept.values())


def test_a_grid_that_does_not_divide_the_picture_names_those_that_do() -> None:
    with pytest.raises(UsageError, match=r"model.grid=16: must divide the pictures' 40 px; 2 4 5"):
        DVAEConfig(image_px=40, grid=16)


@pytest.mark.parametrize("module", [stages, models])
def test_every_field_has_help(module: types.ModuleType) -> None:
    tree = ast.parse(Path(module.__file__ or "").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            fields = [i for i, s in enumerate(node.body) if isinstance(s, ast.AnnAssign)]
            for i in fields:
                after = node.body[i + 1]
                assert isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant), (
                    f"{node.name}, line {node.body[i].lineno}: no help below the field"
                )


def test_configs_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainVaeConfig().seed = 3  # type: ignore[misc]
