"""The commands as people use them: defaults, reruns, a sentence for each kind of bad input."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Ran, draw_folder
from PIL.PngImagePlugin import PngImageFile

from dallebaby_cli.app import globals_first
from dallebaby_cli.store import manifest

pytestmark = pytest.mark.slow  # most of these train real models, though small ones

Cli = Callable[..., Ran]
SHORT = ("--preset", "tiny", "--steps", 4)


@pytest.fixture
def home(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "home")


def one_sentence(ran: Ran, code: int, *words: str) -> None:
    """The command failed with this code and one line that says these words."""
    (line,) = (row for row in ran.err.splitlines() if row.startswith("error: "))
    assert ran.code == code and all(word in line for word in words), ran.err
    assert "Traceback" not in ran.err


def opened(path: Path) -> PngImageFile:
    """A PNG, read whole."""
    with PngImageFile(path) as picture:
        picture.load()
        return picture


# ---------------------------------------------------------------- what works


def test_generate_draws_a_grid_and_singles_that_say_how(cli: Cli, home: Path) -> None:
    out = home.parent / "pictures" / "g.png"
    again = home.parent / "again.png"
    for path in (out, again):
        ran = cli("--home", home, "generate", "a red circle", "-n", 3, "--seed", 5, "--out", path)
        assert ran.code == 0 and str(home / "dalle" / "d") in ran.out
    for index in range(3):
        single = out.with_name(f"g-{index:02}.png")
        assert single.read_bytes() == again.with_name(f"again-{index:02}.png").read_bytes()
        picture = opened(single)
        assert picture.size == (32, 32)
        assert picture.text["prompt"] == "a red circle"
        assert picture.text["seed"] == str(5 + index)
        assert json.loads(picture.text["sampling"])["guidance"] == 3.0
    alone = home.parent / "alone.png"
    cli("--home", home, "generate", "a red circle", "-n", 1, "--seed", 7, "--out", alone)
    assert opened(alone).tobytes() == opened(out.with_name("g-02.png")).tobytes()


def test_several_prompts_make_a_row_each(cli: Cli, home: Path) -> None:
    out = home.parent / "g.png"
    ran = cli("generate", "a red circle", "😀 ¿qué?", "-n", 3, "--out", out, "--home", home)
    assert ran.code == 0
    assert opened(out).size == (3 * 32 + 4, 2 * 32 + 2)
    assert opened(home.parent / "g-05.png").text["prompt"] == "😀 ¿qué?"


def test_a_finished_command_does_nothing_the_second_time(cli: Cli, home: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in home.rglob("*") if p.is_file()}
    for arguments in (
        ("train-vae", *SHORT, "--run", "v"),
        ("encode",),
        ("train", *SHORT, "--run", "d"),
    ):
        ran = cli("--home", home, *arguments, "--json")
        assert ran.code == 0, ran.err
        facts = json.loads(ran.out)
        assert not facts.get("fresh") and not any(t["fresh"] for t in facts.get("tokens", []))
    after = {p: p.stat().st_mtime_ns for p in home.rglob("*") if p.is_file()}
    assert {p: t for p, t in after.items() if p.name != ".lock"} == {
        p: t for p, t in before.items() if p.name != ".lock"
    }


def test_where_work_is_done_changes_no_dataset_and_is_told_by_its_old_name_too(
    cli: Cli, home: Path
) -> None:
    for option in (
        ("--where", "slurm"),
        ("--on", "slurm"),
        ("--set", "where=slurm"),
        ("--set", "on=slurm"),
    ):
        ran = cli("--home", home, "prep", "scenes", "--limit", 9, *option)
        assert ran.code == 2 and "--where slurm: must be local, ray or ray:ADDRESS" in ran.err
    about = manifest.find(home, "images", "shapes")[1]
    assert not {"where", "on"} & set(about.config), "so those of older versions have not changed"


def test_more_steps_train_a_finished_run_further(cli: Cli, home: Path) -> None:
    before = manifest.find(home, "vae", "v")[1]
    ran = cli("--home", home, "train-vae", "--preset", "tiny", "--steps", 7, "--run", "v")
    assert ran.code == 0 and "going on from step 4 of 7" in ran.err
    assert "warning: reconstructions (" in ran.out, "the summary says what its figures mean"
    after = manifest.find(home, "vae", "v")[1]
    assert after.counts["steps"] == 7 and after.id != before.id


def test_from_starts_another_run_from_its_weights(cli: Cli, home: Path) -> None:
    ran = cli("--home", home, "train-vae", *SHORT, "--from", "v", "--run", "w")
    assert ran.code == 0
    rows = [json.loads(r) for r in (home / "vae/w/log.jsonl").read_text().splitlines()]
    first = next(row for row in rows if row["event"] == "evaluation" and row["step"] == 0)
    _, about = manifest.find(home, "vae", "v")
    assert first["psnr"] == pytest.approx(about.counts["psnr"], abs=0.01)
    assert manifest.find(home, "vae", "w")[1].parents["vae/v"] == about.id


def test_runs_without_a_name_are_told_apart_by_their_settings(cli: Cli, home: Path) -> None:
    names = set()
    for extra in ((), ("--seed", 3), ("--set", "model.width=24"), ("--steps", 5)):
        ran = cli("--home", home, "train-vae", *SHORT, *extra, "--json")
        names.add(Path(json.loads(ran.out)["folder"]).name)
    assert len(names) == 3, "only --steps continues the same run"
    assert all(name.startswith("shapes-tiny-") for name in names)


def test_status_says_what_is_taken_next_and_what_no_longer_fits(cli: Cli, home: Path) -> None:
    rows = json.loads(cli("--home", home, "status", "--json").out)["artefacts"]
    assert [(r["kind"], r["name"]) for r in rows if r["newest"]] == [
        ("images", "shapes"),
        ("vae", "v"),
        ("tokens", "shapes@v"),
        ("dalle", "d"),
    ]
    cli("--home", home, "train-vae", "--preset", "tiny", "--steps", 5, "--run", "v")
    assert "vae/v (changed since)" in cli("--home", home, "status").out


def test_global_options_work_on_both_sides_of_the_command(cli: Cli, home: Path) -> None:
    before = cli("--home", home, "--json", "status")
    after = cli("status", "--json", f"--home={home}")
    assert json.loads(before.out) == json.loads(after.out)
    assert globals_first(["generate", "--", "--json"]) == ["generate", "--", "--json"]


def test_quiet_and_piped_output(cli: Cli, home: Path) -> None:
    arguments = ("--home", home, "train-vae", *SHORT, "--run", "q")
    quiet = cli(*arguments, "--quiet")
    talkative = cli(*arguments, "--set", "seed=1", "--run", "q2")
    assert "train-vae: " not in quiet.err and "train-vae: from images/shapes" in talkative.err
    assert "\x1b" not in quiet.out + quiet.err + talkative.out + talkative.err
    lines = cli(*arguments, "--set", "seed=2", "--run", "q3", "--json").err.splitlines()
    kinds = {json.loads(line)["event"] for line in lines}
    assert kinds == {"note", "progress"}


def test_pictures_without_captions_train_only_a_dvae(cli: Cli, tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "bare", 40)
    for text in folder.glob("*.txt"):
        text.unlink()
    home = ("--home", tmp_path / "home")
    assert cli(*home, "prep", folder, "--px", 16, "--workers", 1).code == 0
    assert manifest.find(tmp_path / "home", "images", "bare")[1].counts["captions"] == 0
    assert cli(*home, "train-vae", *SHORT).code == 0
    assert cli(*home, "encode").code == 0
    one_sentence(cli(*home, "train", *SHORT), 1, "no captions", ".txt with one caption a line")
    captioned = draw_folder(tmp_path / "captioned", 60)
    assert cli(*home, "prep", captioned, "--px", 16, "--workers", 1).code == 0
    assert cli(*home, "encode", "captioned").code == 0
    assert cli(*home, "train", "captioned", *SHORT, "--run", "first").code == 0
    more = ("train", "bare", "--from", "first", "--run", "more", *SHORT)
    one_sentence(cli(*home, *more), 1, "no captions", ".txt with one caption a line")
    assert not (tmp_path / "home" / "dalle" / "more").exists()


# ---------------------------------------------------------------- what does not


def test_an_empty_workspace_says_which_command_comes_first(cli: Cli, tmp_path: Path) -> None:
    for command, words in [
        (("train-vae",), "dallebaby prep"),
        (("encode",), "dallebaby train-vae"),
        (("train",), "dallebaby encode"),
    ]:
        one_sentence(cli("--home", tmp_path, *command), 1, words)
    assert list(tmp_path.iterdir()) == [], "nothing was left behind"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train-vae", "--set", "model.widht=8"), "did you mean 'width'"),
        (("train-vae", "--preset", "tinny"), "did you mean 'tiny'"),
        (("train-vae", "--run", "../x"), "cannot be a name"),
        (("train-vae", "--set", "model.grid=5", "--preset", "tiny"), "must divide the pictures"),
        (("train-vae", "--device", "tpu"), "must be auto, cuda, mps or cpu"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(
    cli: Cli, home: Path, arguments: tuple[str, ...], words: str
) -> None:
    one_sentence(cli("--home", home, *arguments), 2, words)


def test_advice_on_a_grid_can_be_followed(cli: Cli, tmp_path: Path) -> None:
    """Of pictures of another size than those that settings are made for."""
    home = ("--home", tmp_path / "home")
    assert (
        cli(*home, "prep", draw_folder(tmp_path / "odd", 20), "--px", 33, "--workers", 1).code == 0
    )
    train = (*home, "train-vae", "--preset", "tiny", "--steps", 1)
    one_sentence(cli(*train), 2, "model.grid=8: must divide the pictures' 33 px; 3 11 33 do")
    ran = cli(*train, "--set", "model.grid=11")
    assert ran.code == 0, ran.err
    about = manifest.newest(tmp_path / "home", "vae")[1]
    assert (about.config["model"]["image_px"], about.config["model"]["grid"]) == (33, 11)


def test_missing_inputs_are_named(cli: Cli, home: Path) -> None:
    one_sentence(cli("--home", home, "train-vae", "shaeps"), 1, "did you mean 'shapes'")
    one_sentence(cli("--home", home, "encode", "--vae", "w"), 1, "vae/w", "train-vae")
    one_sentence(cli("--home", home, "train", "shapes@w"), 1, "did you mean 'shapes@v'")
    one_sentence(
        cli("--home", home, "generate", "a", "--model", home / "no"), 1, "no finished model"
    )


def test_another_run_of_that_name_is_not_overwritten(cli: Cli, home: Path) -> None:
    weights = (home / "vae/v/model.safetensors").read_bytes()
    ran = cli("--home", home, "train-vae", *SHORT, "--run", "v", "--seed", 9)
    one_sentence(ran, 1, "other settings (seed: 0 then, 9 now)", "--run")
    assert (home / "vae/v/model.safetensors").read_bytes() == weights


def test_codes_of_another_dvae_are_refused_until_encoded_again(cli: Cli, home: Path) -> None:
    cli("--home", home, "train-vae", "--preset", "tiny", "--steps", 6, "--run", "v")
    again = ("--home", home, "train", *SHORT, "--run", "d2")
    one_sentence(cli(*again), 1, "trained further since", "dallebaby encode shapes --vae v")
    assert not (home / "dalle/d2").exists()
    assert cli("--home", home, "encode").code == 0
    assert cli(*again).code == 0


def test_tokens_of_two_dvaes_do_not_mix(cli: Cli, home: Path) -> None:
    cli("--home", home, "train-vae", *SHORT, "--run", "w", "--seed", 3)
    cli("--home", home, "encode")
    ran = cli("--home", home, "train", "shapes@v", "shapes@w", *SHORT)
    one_sentence(ran, 1, "different dVAEs (v, w)")


def test_pictures_of_another_size_are_refused(cli: Cli, home: Path, tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "small", 20)
    cli("--home", home, "prep", folder, "--px", 16, "--workers", 1)
    one_sentence(cli("--home", home, "encode", "small"), 1, "16 px", "32 px", "--px 32")
    one_sentence(cli("--home", home, "train-vae", "small", "shapes"), 1, "16 and 32 px")


def test_a_truncated_shard_is_named(cli: Cli, home: Path) -> None:
    shard = next((home / "images/shapes").glob("*.tar"))
    with shard.open("rb+") as handle:
        handle.truncate(shard.stat().st_size // 2)
    one_sentence(cli("--home", home, "train-vae", *SHORT), 1, shard.name, "dallebaby prep")


def test_a_pickle_is_never_opened_and_another_version_is_said(cli: Cli, home: Path) -> None:
    draw = ("--home", home, "generate", "a", "--out", home / "x.png")
    weights, config = home / "dalle/d/model.safetensors", home / "dalle/d/config.json"
    good = weights.read_bytes()
    torch.save({"a": 1}, weights)
    one_sentence(cli(*draw), 1, "model.safetensors is a pickle", "never loaded")
    weights.write_bytes(good)
    config.write_text(config.read_text().replace('"format": 1', '"format": 2'))
    one_sentence(cli(*draw), 1, "has format 2 and this version reads 1")


def test_debug_shows_the_traceback(cli: Cli, tmp_path: Path) -> None:
    from dallebaby_cli.errors import MissingInput

    with pytest.raises(MissingInput):
        cli("--home", tmp_path, "encode", "--debug")
