"""The baby: the model inside the package, how it draws where there is no other, how it is made."""

import json
import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Ran
from PIL import Image
from safetensors.torch import load_file

from dallebaby_cli.drawing import pretrained
from dallebaby_cli.drawing.pretrained import BABY, from_pretrained
from dallebaby_cli.errors import BadInput
from dallebaby_cli.store import manifest, weights
from dallebaby_cli.store.manifest import Manifest

Cli = Callable[..., Ran]

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "baby.py"
PARTS = {
    *("model.safetensors", "vae.safetensors", "tokenizer.json"),
    *("config.json", "manifest.json", "README.md"),
}
MOST_BYTES = 16_000_000
SAYS = "no model trained here yet: the baby inside dallebaby draws; `dallebaby demo` trains yours"
CAR = ("generate", "a red car", "-n", 4, "--seed", 7, "--out")
ALONE = """
import socket, sys
def refuse(*arguments, **more):
    raise OSError("there is no network")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
from dallebaby_cli.app import main
main(sys.argv[1:])
"""

with_baby = pytest.mark.skipif(not BABY.exists(), reason="no baby here: `make baby` makes one")


def pictures(out: Path) -> list[bytes]:
    """The grid and its four pictures, as files."""
    return [path.read_bytes() for path in [out, *sorted(out.parent.glob(f"{out.stem}-*.png"))]]


# ---------------------------------------------------------------- the one in the package


@with_baby
def test_it_draws_where_nothing_is_trained_and_says_so(cli: Cli, tmp_path: Path) -> None:
    home = tmp_path / "home"
    drawn = []
    for name in ("car", "again"):
        ran = cli("--home", home, *CAR, tmp_path / f"{name}.png")
        assert ran.code == 0 and ran.err.count(SAYS) == 1 and str(BABY) in ran.out, ran.err
        drawn.append(pictures(tmp_path / f"{name}.png"))
    assert len(drawn[0]) == 5 and drawn[0] == drawn[1], "the same seed, the same pictures"
    side = from_pretrained(BABY).image_tokenizer.image_px
    with Image.open(tmp_path / "car-00.png") as picture:
        assert picture.size == (side, side) and picture.text["prompt"] == "a red car"
    assert not home.exists(), "only what was asked for was written"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this very tree, built with what is installed."""
    tree = tmp_path_factory.mktemp("wheel")
    shutil.copytree(
        ROOT / "dallebaby_cli", tree / "dallebaby_cli", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, tree / name)
    build = "from setuptools import build_meta; build_meta.build_wheel('.')"
    subprocess.run([sys.executable, "-c", build], cwd=tree, check=True, capture_output=True)
    (built,) = tree.glob("*.whl")
    return built


@pytest.mark.slow
@with_baby
def test_the_wheel_brings_it_and_draws_without_network_or_home(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = [info for info in archive.infolist() if "/baby/" in info.filename]
        assert {Path(info.filename).name for info in files} == PARTS
        assert sum(info.file_size for info in files) <= MOST_BYTES
        assert "dallebaby_cli/config/presets/baby.yaml" in archive.namelist()
        archive.extractall(tmp_path / "installed")
    (tmp_path / "file").write_text("no folder can be made below me")
    nowhere = str(tmp_path / "file" / "home")
    places = {"PYTHONPATH": str(tmp_path / "installed"), "HOME": nowhere, "DALLEBABY_HOME": nowhere}
    ran = subprocess.run(
        [sys.executable, "-c", ALONE, *map(str, CAR), str(tmp_path / "car.png"), "--device", "cpu"],
        cwd=tmp_path,
        env=os.environ | places | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0 and SAYS in ran.stderr, ran.stderr
    assert str(tmp_path / "installed") in ran.stdout
    assert len(pictures(tmp_path / "car.png")) == 5


@with_baby
def test_its_card_says_how_it_was_made() -> None:
    card, about = (BABY / "README.md").read_text(), manifest.read(BABY)
    assert about is not None and about.complete and about.id == weights.model_id(BABY)
    assert "make baby" in card and f"{about.config['seed']} (dalle)" in card
    for words in ("dallebaby prep scenes", "held-out pairs", "red car", "torch", "cores", "MIT"):
        assert words in card
    assert "--config" not in card, "made with the preset as it is"


# ---------------------------------------------------------------- which model draws


def test_a_model_trained_here_comes_first(
    cli: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "BABY", model)
    mine = tmp_path / "dalle" / "mine"
    shutil.copytree(model, mine)
    arguments = ("--home", tmp_path, *CAR, tmp_path / "car.png")
    for complete, drew in ((False, model), (True, mine)):
        identity = weights.model_id(mine)
        about = Manifest(kind="dalle", name="mine", id=identity, complete=complete)
        manifest.write(mine, about)
        ran = cli(*arguments)
        assert ran.code == 0 and f"drawn by {drew}\n" in ran.out
        assert (SAYS in ran.err) == (drew == model)


def test_without_a_baby_something_must_be_trained(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "BABY", tmp_path / "deleted")
    ran = cli("--home", tmp_path, *CAR, tmp_path / "car.png")
    assert ran.code == 1 and "run `dallebaby train` first" in ran.err


# ---------------------------------------------------------------- how it is made


def seal(run: Path) -> None:
    manifest.write(run, Manifest(kind="dalle", name="r", id=weights.model_id(run), complete=True))


def test_packing_halves_the_weights_and_seals_them(model: Path, tmp_path: Path) -> None:
    pack = runpy.run_path(str(SCRIPT))["pack"]
    run, packed = tmp_path / "run", tmp_path / "packed"
    shutil.copytree(model, run)
    seal(run)
    packed.mkdir()
    pack(run, packed)
    for name in ("model.safetensors", "vae.safetensors"):
        whole, half = load_file(run / name), load_file(packed / name)
        assert whole.keys() == half.keys()
        assert all(torch.equal(half[k], whole[k].half()) for k in whole)
    drawn = from_pretrained(packed)
    assert {p.dtype for p in drawn.model.parameters()} == {torch.float32}, "halves on disk only"
    about = manifest.read(packed)
    assert about is not None and about.id == drawn.id != weights.model_id(run)

    tensors = load_file(run / "vae.safetensors")
    tensors[next(iter(tensors))].view(-1)[0] = 1e6
    weights.save_weights(run / "vae.safetensors", tensors)
    weights.write_model(run, "dalle", weights.read_model(model, "dalle"))
    seal(run)
    before = (packed / "model.safetensors").read_bytes()
    with pytest.raises(BadInput, match=r"vae.safetensors: .* as large as 1e\+06"):
        pack(run, packed)
    assert (packed / "model.safetensors").read_bytes() == before


QUICK = """
train-vae: {steps: 3, batch_size: 8, eval_images: 20, model: {width: 8}}
train: {steps: 3, batch_size: 8, eval_images: 20, model: {dim: 32, depth: 1, heads: 2}}
evaluate:
  pictures: 4
  classifier: {steps: 3, batch_size: 8, eval_images: 20, model: {width: 8}}
"""


@pytest.mark.slow
def test_one_command_makes_it_and_evaluate_judges_it_anywhere(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick, packed = tmp_path / "quick.yaml", tmp_path / "packed"
    quick.write_text(QUICK)
    options = ("--pictures", "150", "--config", str(quick), "--into", str(packed))
    subprocess.run([sys.executable, SCRIPT, tmp_path / "home", *options], check=True)
    assert {path.name for path in packed.iterdir()} == PARTS
    card = (packed / "README.md").read_text()
    for words in ("150 drawn pictures", "--limit 150", "| steps | 3 | 3 |", "bits per code"):
        assert words in card
    assert card.count("%") >= 9 * 4

    monkeypatch.setattr(pretrained, "BABY", packed)
    ran = cli("--home", tmp_path / "fresh", "evaluate", "--config", quick, "--json")
    facts = json.loads(ran.out)
    assert facts["model"] == str(packed) and SAYS in ran.err
    assert len(facts["agreement"]) == 9 and not facts["holdout"]
    assert any(sentence.startswith("no hold-out figures") for sentence in facts["missing"])
