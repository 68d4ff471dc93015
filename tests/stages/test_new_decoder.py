"""A dVAE that is another one with a new decoder: their codes are the same, so tokens and
transformers of either can be used with both."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Ran, give_decoder, run
from PIL import Image

from dallebaby_cli.drawing.pretrained import from_pretrained
from dallebaby_cli.store import manifest, weights
from dallebaby_cli.store.codes_id import codes_id

Cli = Callable[..., Ran]
SHORT = ("--preset", "tiny", "--steps", 3)


@pytest.fixture
def home(trained: Path, tmp_path: Path) -> Path:
    """A workspace with vae/v, its tokens, dalle/d; and vae/n, which is v with another decoder."""
    home = shutil.copytree(trained, tmp_path / "home")
    give_decoder(home, "v", "n")
    return home


@pytest.fixture
def ask(cli: Cli, home: Path) -> Callable[..., dict[str, Any]]:
    """What a command that goes well says with --json."""

    def run(*arguments: object) -> dict[str, Any]:
        ran = cli("--home", home, "--device", "cpu", *arguments, "--json")
        assert ran.code == 0, ran.err
        return json.loads(ran.out)

    return run


Ask = Callable[..., dict[str, Any]]


def refused(ran: Ran, *words: str) -> None:
    assert ran.code == 1 and "Traceback" not in ran.err
    assert all(word in ran.err for word in words), ran.err


def name_the_whole(home: Path, tokens: str) -> None:
    """Make a tokens' manifest as older versions did: with the id of the whole dVAE."""
    folder = home / "tokens" / tokens
    found = manifest.read(folder)
    assert found
    whole = {f"vae/{tokens.partition('@')[2]}": weights.model_id(home / "vae/v")}
    manifest.write(folder, replace(found, parents=found.parents | whole))


def transformer_with(home: Path, vae: str) -> Path:
    """dalle/d with another dVAE's weights in it, as if it had been begun with them."""
    folder = shutil.copytree(home / "dalle/d", home / "dalle/e")
    shutil.copyfile(home / "vae" / vae / "model.safetensors", folder / "vae.safetensors")
    said = weights.read_model(home / "vae" / vae, "vae")["model"]
    described = json.loads((folder / "config.json").read_text()) | {"vae": said}
    identity = weights.write_model(folder, "dalle", described)
    found = manifest.read(folder)
    assert found
    manifest.write(folder, replace(found, name="e", id=identity))
    return folder


# ---------------------------------------------------------------- tokens and transformers


def test_tokens_of_both_train_one_transformer_that_has_the_newer_decoder(
    home: Path, ask: Ask
) -> None:
    assert ask("encode", "--vae", "n")["tokens"][0]["fresh"]
    both = [manifest.read(home / "tokens" / f"shapes@{run}") for run in ("v", "n")]
    assert both[0] and both[1] and both[0].id == both[1].id
    assert both[0].parents["vae/v"] == both[1].parents["vae/n"] == codes_id(home / "vae/n")
    model = Path(ask("train", "shapes@v", "shapes@n", "--from", "d", *SHORT)["folder"])
    inside, new = model / "vae.safetensors", home / "vae/n/model.safetensors"
    assert inside.read_bytes() == new.read_bytes()
    assert from_pretrained(model).image_tokenizer.config.loss == "laplace"  # type: ignore[attr-defined]


def test_a_run_ends_with_the_decoder_that_it_was_begun_with(home: Path, ask: Ask) -> None:
    ask("encode", "--vae", "n")
    asked = ("train", "shapes@v", "shapes@n", "--preset", "tiny", "--run", "x")
    ask(*asked, "--steps", 2)
    old = manifest.read(home / "vae/v")
    assert old
    manifest.write(home / "vae/v", old)  # now it is the newer one
    model = Path(ask(*asked, "--steps", 3)["folder"])
    inside, new = model / "vae.safetensors", home / "vae/n/model.safetensors"
    assert inside.read_bytes() == new.read_bytes()
    assert from_pretrained(model).image_tokenizer.config.loss == "laplace"  # type: ignore[attr-defined]


def test_tokens_that_name_the_whole_dvae_go_on_as_before(home: Path, cli: Cli, ask: Ask) -> None:
    name_the_whole(home, "shapes@v")
    before = (home / "tokens/shapes@v/manifest.json").read_bytes()
    assert not ask("encode", "--vae", "v")["tokens"][0]["fresh"]
    assert (home / "tokens/shapes@v/manifest.json").read_bytes() == before
    assert "(changed since)" not in cli("--home", home, "status").out
    assert ask("train", "--preset", "tiny", "--steps", 4, "--run", "d")["fresh"] is False
    ask("encode", "--vae", "n")
    ask("train", "shapes@v", "shapes@n", *SHORT, "--run", "both")


def test_a_dvae_that_gets_its_new_decoder_in_place_keeps_its_tokens(home: Path, ask: Ask) -> None:
    for name in ("model.safetensors", "config.json"):
        shutil.copyfile(home / "vae/n" / name, home / "vae/v" / name)
    found = manifest.read(home / "vae/v")
    assert found
    manifest.write(home / "vae/v", replace(found, id=weights.model_id(home / "vae/v")))
    assert not ask("encode", "--vae", "v")["tokens"][0]["fresh"]
    rows = {row["name"]: row for row in ask("status")["artefacts"]}
    assert rows["shapes@v"]["parents"] == ["images/shapes", "vae/v"]
    assert rows["n"]["parents"] == ["vae/v (changed since)"], "whose weights it began with"
    assert ask("train", "--preset", "tiny", "--steps", 4, "--run", "d")["fresh"] is False


def test_damage_is_not_taken_for_other_codes(home: Path, cli: Cli) -> None:
    path = home / "vae/v/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-len(content) // 2] ^= 1
    path.write_bytes(content)
    refused(
        cli("--home", home, "train", *SHORT, "--run", "x"),
        "vae/v/model.safetensors is not the file that",
    )
    path.write_bytes(content[:99])
    assert "vae/v (damaged)" in cli("--home", home, "status").out


# ---------------------------------------------------------------- painting


def pictures(facts: dict[str, Any]) -> np.ndarray:
    paths = [facts["grid"], *facts["pictures"]]
    return np.concatenate([np.asarray(Image.open(path).convert("RGB")).ravel() for path in paths])


def said(facts: dict[str, Any]) -> dict[str, str]:
    with Image.open(facts["pictures"][0]) as picture:
        return dict(picture.text)  # type: ignore[attr-defined]


def test_a_new_decoder_paints_as_it_would_inside_the_model(
    home: Path, ask: Ask, tmp_path: Path
) -> None:
    photo = tmp_path / "photo.png"
    Image.effect_noise((40, 24), 90).convert("RGB").save(photo)
    asked = ("generate", "a red circle", "-n", 2, "--seed", 3, "--image", photo)
    model = ("--model", home / "dalle/d")
    own, new = ask(*asked, *model), ask(*asked, *model, "--vae", "n")
    inside = ask(*asked, "--model", transformer_with(home, "n"))
    assert np.array_equal(pictures(new), pictures(inside))
    assert not np.array_equal(pictures(new), pictures(own)) and new["grid"] != own["grid"]
    assert new["vae"] == str(home / "vae/n") and own["vae"] is inside["vae"] is None
    assert said(new) == said(own) | {"vae": weights.model_id(home / "vae/n")}
    assert ask(*asked, *model, "--vae", "n") == new, "the same drawing again"


def test_a_decoder_of_other_codes_is_refused(home: Path, cli: Cli, ask: Ask) -> None:
    ask("train-vae", *SHORT, "--seed", 5, "--run", "w")
    model = ("--home", home, "--model", home / "dalle/d", "--vae")
    for command in (("generate", "a car"), ("evaluate",), ("evaluate", "--speed")):
        refused(cli(*command, *model, "w"), "vae/w makes other codes than the dVAE inside")
        refused(cli(*command, *model, "none"), "no vae/none in")
    assert not (home / "samples").exists()


def test_evaluation_judges_the_decoder_that_is_named(home: Path, ask: Ask) -> None:
    asked = ("evaluate", "--pictures", 2, "--set", "holdout_pictures=16")
    asked += ("--set", "near_pictures=12")
    own = ask(*asked, "--model", home / "dalle/d")
    new = ask(*asked, "--model", home / "dalle/d", "--vae", "n")
    inside = ask(*asked, "--model", transformer_with(home, "n"))
    assert new["vae"] == str(home / "vae/n") and own["vae"] is inside["vae"] is None
    assert [Path(facts["report"]).parent.name for facts in (own, new)] == ["d", "d"]
    nowhere = {"model": "", "vae": None, "report": ""}
    assert new | nowhere == inside | nowhere
    assert new["holdout"] == own["holdout"] and new["reconstruction"] != own["reconstruction"]


@pytest.mark.slow
def test_two_processes_paint_alike(home: Path, tmp_path: Path) -> None:
    asked = ("generate", "a red circle", "-n", 3, "--seed", 3, "--model", home / "dalle/d")
    new = ("--device", "cpu", *asked, "--vae", "n", "--json")
    one, two = (  # both in this machine's own precision
        json.loads(run(home, *new, f"--processes={n}", "--out", tmp_path / f"{n}.png").out)
        for n in (1, 2)
    )
    assert np.array_equal(pictures(one), pictures(two)) and said(one) == said(two)
