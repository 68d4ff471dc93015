"""Codes that a transformer reads by their numbers, and runs that were begun before it did."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Ran
from safetensors.torch import load_file

from dallebaby_cli.config import TransformerConfig
from dallebaby_cli.config.settings import as_dict, build, knows, load
from dallebaby_cli.errors import UsageError
from dallebaby_cli.training import identity, parent

Cli = Callable[..., Ran]
SHORT = ("--preset", "tiny", "--json", "--set", "model.depth=2")


@pytest.fixture
def home(trained: Path, tmp_path: Path) -> Path:
    for kind in ("images", "vae", "tokens"):
        shutil.copytree(trained / kind, tmp_path / "home" / kind)
    return tmp_path / "home"


@pytest.fixture
def run(home: Path, cli: Cli) -> Callable[..., Path]:
    """Train; the run's folder."""

    def done(name: str, *arguments: object) -> Path:
        ran = cli("--home", home, "train", "--run", name, *SHORT, *arguments)
        assert ran.code == 0, ran.err
        return Path(json.loads(ran.out)["folder"])

    return done


def shape(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())["model"]


def test_numbers_come_from_the_dvae_and_few_vectors_serve_for_all_codes(
    run: Callable[..., Path], home: Path, cli: Cli, tmp_path: Path
) -> None:
    folder = run("numbers", "--steps", 2)
    assert shape(folder)["numbers"] == [8, 5, 5, 5] and shape(folder)["any_order"] is False
    kept = load_file(folder / "model.safetensors")
    assert kept["reading.weight"].shape[1] == (1 + 11) * (8 + 5 + 5 + 5 + 1)
    assert kept["shared.0.head.weight"].shape[0] == 8 + 5 + 5 + 5
    out = tmp_path / "drawn.png"
    asked = ("generate", "a red circle", "-n", 2, "--model", folder, "--out", out)
    assert cli("--home", home, *asked).code == 0 and out.exists()
    child = run("child", "--steps", 1, "--from", "numbers")
    assert shape(child)["numbers"] == [8, 5, 5, 5]


def test_a_run_of_an_older_version_goes_on_as_it_began(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had a vector for each code, and one in between had ideas on trial, all off."""
    with monkeypatch.context() as older:
        older.setattr(parent, "usual_numbers", lambda levels: ())
        folder = run("old", "--steps", 1)
    before = load_file(folder / "model.safetensors")
    assert before["image_embedding.weight"].shape[0] == 1000
    for file in (folder / "manifest.json", folder / "config.json"):
        content = json.loads(file.read_text())
        model = (content["config"] if "config" in content else content)["model"]
        assert model.pop("numbers") == []
        model["trials"] = {**TransformerConfig.retired["trials"]}
        file.write_text(json.dumps(content))
    assert run("old", "--steps", 2) == folder and shape(folder)["numbers"] == []
    assert load_file(folder / "model.safetensors").keys() == before.keys()
    assert shape(run("child", "--steps", 1, "--from", "old"))["numbers"] == []


def test_a_learned_codebook_has_no_numbers(cli: Cli, run: Callable[..., Path], home: Path) -> None:
    vq = ("--set", "model.quantizer=vq", "--preset", "tiny", "--steps", 1, "--run", "vq")
    assert cli("--home", home, "train-vae", *vq).code == 0
    assert cli("--home", home, "encode", "--vae", "vq").code == 0
    folder = run("whole", "shapes@vq", "--steps", 1)
    assert shape(folder)["numbers"] == []
    assert "image_embedding.weight" in load_file(folder / "model.safetensors")


def test_what_older_versions_did_not_say_leaves_a_runs_name_alone() -> None:
    now = as_dict(load("train", preset="scenes"))
    told = json.dumps(identity.of(now), sort_keys=True)
    then = {**now, "model": {**now["model"], "trials": {**TransformerConfig.retired["trials"]}}}
    del then["model"]["numbers"]
    assert json.dumps(identity.of(then), sort_keys=True) == told
    then["model"]["trials"]["gates"] = True
    assert '"trials": {"gates": true}' in json.dumps(identity.of(then), sort_keys=True)
    with pytest.raises(UsageError, match="unknown setting trials"):
        build(TransformerConfig, then["model"])


def test_levels_of_a_dvae_make_it_another_run_and_are_no_business_of_a_transformers() -> None:
    def of(levels: str) -> dict:
        return identity.of(as_dict(load("train-vae", settings=(f"model.levels={levels}",))))

    assert of("[8,5,5,5]") != of("[8,6,5]")
    assert knows("train-vae", "model.levels") and not knows("train", "model.levels")
