"""`describe`: captions ranked for pictures by the model that draws; where they come from."""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import Ran
from PIL import Image

from dallebaby_cli.drawing.pretrained import BABY
from dallebaby_cli.drawing.sampler import Sampler
from dallebaby_cli.prep.images import decode
from dallebaby_cli.scenes import spec
from dallebaby_cli.scenes.spec import Placed, Scene
from dallebaby_cli.store import manifest, weights
from dallebaby_cli.store.manifest import Manifest
from dallebaby_cli.store.tokens import Tokens

Cli = Callable[..., Ran]
WORDS = {"a red car": -40.0, "a blue house": -30.0, "a green tree": -32.0, "": -33.0}


@pytest.fixture
def describe(cli: Cli, model: Path, tmp_path: Path) -> Cli:
    """Run `dallebaby describe ARGUMENTS...` with a model of random weights."""
    return lambda *given: cli("--home", tmp_path, "describe", "--model", model, *given)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    Image.effect_noise((40, 24), 90).convert("RGB").save(path)
    return path


@pytest.fixture
def among(tmp_path: Path) -> Path:
    path = tmp_path / "captions.txt"
    path.write_text("\n".join([*filter(None, WORDS), "a red car", ""]))
    return path


def facts(ran: Ran) -> dict:
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def refused(ran: Ran, code: int, *words: str) -> None:
    """The run failed with one line that says these words."""
    (line,) = (row for row in ran.err.splitlines() if row.lower().startswith("error: "))
    assert ran.code == code and all(word in line for word in words), ran.err


# ---------------------------------------------------------------- the ranking


def test_captions_are_ranked_by_how_much_likelier_they_make_the_picture(
    describe: Cli, photo: Path, among: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def log_p(self: Sampler, prompts: Sequence[str], codes: torch.Tensor) -> torch.Tensor:
        assert len(prompts) == len(codes) and codes.shape[1:] == (4, 4)
        return torch.tensor([WORDS[prompt] for prompt in prompts])

    monkeypatch.setattr(Sampler, "log_p", log_p)
    done = facts(describe(photo, "--among", among, "--json"))
    assert done["captions"] == 3 and done["among"] == "those given", "each of them once"
    (found,) = done["pictures"]
    assert found["picture"] == str(photo)
    order = ["a blue house", "a green tree", "a red car"]
    assert [guess["caption"] for guess in found["guesses"]] == order
    nats = [3.0, 1.0, -7.0]
    bits = [value / math.log(2) for value in nats]
    assert [guess["bits"] for guess in found["guesses"]] == pytest.approx(bits)
    whole = sum(math.exp(value) for value in nats)
    shares = [math.exp(value) / whole for value in nats]
    assert [guess["share"] for guess in found["guesses"]] == pytest.approx(shares)
    assert found["typical_bits"] == pytest.approx(bits[1])
    told = describe(photo, "--among", among, "--top", 2).out
    assert "a blue house" in told and "a green tree" in told and "a red car" not in told
    assert "+4.3" in told and "88.1%" in told
    assert "the first makes it 7.4 times as likely as a random one" in told
    assert "none of them fits" not in told
    monkeypatch.setitem(WORDS, "", -20.0)
    assert "no likelier than no caption: none of them fits" in describe(photo, "--among", among).out


def test_each_picture_is_scored_as_it_is_alone(
    describe: Cli, sampler: Sampler, photo: Path, among: Path, tmp_path: Path
) -> None:
    """With the model's own figures, whatever the batch, cropped as `prep` does."""
    other = tmp_path / "other.png"
    Image.effect_noise((16, 30), 60).save(other)
    asked = ("--among", among, "--json")
    done = facts(describe(photo, other, *asked))
    few = facts(describe(photo, other, *asked, "--set", "batch_size=3"))
    for path, found, again in zip((photo, other), done["pictures"], few["pictures"], strict=True):
        codes = sampler.encode(decode(path.read_bytes(), 16))[None]
        for guess, same in zip(found["guesses"], again["guesses"], strict=True):
            expected = sampler.score([guess["caption"]], codes).item() / math.log(2)
            assert guess["bits"] == pytest.approx(expected, abs=1e-3)
            assert same["caption"] == guess["caption"]
            assert same["bits"] == pytest.approx(expected, abs=1e-3)
    assert len(done["pictures"]) == 2


def test_the_baby_reads_what_it_draws(cli: Cli, tmp_path: Path) -> None:
    things = {"a red star": ("star", "red"), "a blue car": ("car", "blue")}
    names = [*things, "a yellow house", "a green fish"]
    (tmp_path / "captions.txt").write_text("\n".join(names))
    for name, (thing, colour) in things.items():
        scene = Scene("cream", (Placed(thing, colour, 0.5, 0.5, 0.7),))
        Image.fromarray(spec.render(scene, 64)).save(tmp_path / f"{name}.png")
    pictures = [tmp_path / f"{name}.png" for name in things]
    asked = ("describe", *pictures, "--among", tmp_path / "captions.txt", "--json")
    done = facts(cli("--home", tmp_path / "none", *asked))
    assert done["model"] == str(BABY)
    for name, found in zip(things, done["pictures"], strict=True):
        assert found["guesses"][0]["caption"] == name and found["guesses"][0]["bits"] > 0


# ---------------------------------------------------------------- which captions


def test_captions_are_those_that_the_model_learned_from(
    cli: Cli, trained: Path, photo: Path
) -> None:
    ((folder, about),) = manifest.every(trained, "tokens")
    tokens = Tokens(folder)
    rows = tokens.rows("train").tolist()
    learned = {caption for row in rows for caption in tokens.captions(row)}
    done = facts(cli("--home", trained, "describe", photo, "--top", 99, "--json"))
    (found,) = done["pictures"]
    assert {guess["caption"] for guess in found["guesses"]} == learned
    assert done["among"] == f"the most frequent ones of {about.name}"
    some = ("describe", photo, "--set", "captions=3", "--top", 99, "--json")
    done = facts(cli("--home", trained, *some))
    counts = [caption for row in rows for caption in tokens.captions(row)]
    most = sorted((counts.count(caption) for caption in learned), reverse=True)[:3]
    found = {guess["caption"] for guess in done["pictures"][0]["guesses"]}
    assert sorted((counts.count(caption) for caption in found), reverse=True) == most


def test_captions_of_other_tokens_are_none_that_the_model_learned_from(
    cli: Cli, trained: Path, photo: Path, tmp_path: Path
) -> None:
    home = shutil.copytree(trained, tmp_path / "home")
    ((folder, about),) = manifest.every(home, "tokens")
    manifest.write(folder, replace(about, id="of other pictures"))
    refused(cli("--home", home, "describe", photo), 1, "has changed since", "--among FILE")


def test_a_model_of_scenes_whose_data_is_gone_is_asked_for_things_and_colours(
    cli: Cli, model: Path, photo: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(model, tmp_path / "copy")
    about = Manifest(kind="dalle", name="copy", id=weights.model_id(folder), complete=True)
    asked = ("--home", tmp_path / "home", "describe", photo, "--model", folder, "--json")
    manifest.write(folder, replace(about, parents={"tokens/s@v": "gone"}))
    refused(cli(*asked), 1, "captions that", "copy learned from are not here", "--among FILE")
    parents = {"tokens/scenes@v": "gone", "images/scenes/captions": "gone"}
    manifest.write(folder, replace(about, parents=parents))
    done = facts(cli(*asked))
    assert done["captions"] == len(spec.THINGS) * len(spec.COLOURS) == len({*spec.plain_captions()})
    assert "`scenes` draws" in done["among"] and len(done["pictures"][0]["guesses"]) == 5


# ---------------------------------------------------------------- what is refused


def test_bad_input_is_one_sentence(describe: Cli, photo: Path, among: Path, tmp_path: Path) -> None:
    one, none, words = (tmp_path / name for name in ("one.txt", "none.txt", "words.png"))
    one.write_text("a red car\na red car\n")
    none.write_text("\n")
    words.write_text("a red car\n")
    refused(describe(photo), 1, "has no manifest.json", "--among FILE")
    refused(describe(photo, "--among", one), 2, "nothing to choose among: 1", "--among FILE")
    refused(describe(photo, "--among", none), 1, "none.txt has no prompts")
    refused(describe(photo, "--among", photo), 1, "photo.jpg is not text")
    refused(describe(words, "--among", among), 1, "words.png cannot be used (not an image", "JPEG")
    refused(describe(photo, words, "--among", among), 1, "words.png cannot be used")
    refused(describe(tmp_path / "no.png", "--among", among), 2, "there is no file", "no.png")
    refused(describe("--among", among), 2, "IMAGE")
    refused(describe(photo, "--among", among, "--top", 0), 2, "--top")
    refused(describe(photo, "--among", among, "--set", "captions=1"), 2, "captions=1")


def test_what_is_shown_of_captions_is_plain_text(
    describe: Cli, photo: Path, tmp_path: Path
) -> None:
    hostile = tmp_path / "captions.txt"
    hostile.write_text("[red]a car[/red]\x1b[2J\na [b]tree\n")
    ran = describe(photo, "--among", hostile)
    assert ran.code == 0 and "\x1b" not in ran.out
    assert "[red]a car[/red]" in ran.out and "a [b]tree" in ran.out
