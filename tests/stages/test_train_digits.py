"""A dVAE of very many codes, whose digits `train` predicts: run, continued, drawn from."""

import json
import math
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Ran, make
from safetensors.torch import load_file
from torch import Tensor, nn

from dallebaby_cli import from_pretrained
from dallebaby_cli.config import DVAEConfig
from dallebaby_cli.config.settings import load
from dallebaby_cli.models.tokenizers.dvae import DVAE
from dallebaby_cli.stages import train as stage
from dallebaby_cli.store import manifest, weights
from dallebaby_cli.store.manifest import Manifest
from dallebaby_cli.store.tokens import Tokens
from dallebaby_cli.training import identity, orders, parent

Cli = Callable[..., Ran]
TINY = ("--preset", "tiny", "--device", "cpu", "--json")


def add_dvae(home: Path, name: str, levels: tuple[int, ...]) -> None:
    """vae/NAME, of those levels, untrained."""
    torch.manual_seed(0)
    model = DVAE(DVAEConfig(image_px=32, grid=8, width=8, depth=0, levels=levels))
    folder = home / "vae" / name
    weights.save_weights(folder / "model.safetensors", model.state_dict())
    identity = weights.write_model(folder, "vae", {"model": model.describe()})
    manifest.write(folder, Manifest(kind="vae", name=name, id=identity, complete=True))


@pytest.fixture(scope="module")
def encoded(prepared: Path, made_once: Callable[..., Path]) -> Path:
    """A workspace with the codes of a dVAE of 64,000, and of one of 12,800."""

    def fill(folder: Path) -> None:
        home = shutil.copytree(prepared, folder / "home")
        for name, levels in (("large", (8, 8, 8, 5, 5, 5)), ("some", (8, 8, 8, 5, 5))):
            add_dvae(home, name, levels)
            make(home, "encode", "shapes", "--vae", name)

    return made_once("digits", fill) / "home"


@pytest.fixture
def home(encoded: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of that workspace; work in it is done by one thread, in one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield shutil.copytree(encoded, tmp_path / "home")
    torch.set_num_threads(threads)


@pytest.fixture
def run(home: Path, cli: Cli) -> Callable[..., dict]:
    """Run a command there; what its JSON says, which must end well."""

    def done(*arguments: object) -> dict:
        ran = cli("--home", home, *arguments)
        assert ran.code == 0, ran.err
        return json.loads(ran.out)

    return done


def tensors(folder: str) -> dict[str, Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def test_a_run_that_is_broken_off_goes_on_bit_for_bit(
    run: Callable[..., dict], home: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = ("train", "shapes@large", *TINY)
    whole = run(*train, "--steps", 4, "--run", "whole")
    folder = Path(whole["folder"])
    counts = manifest.find(home, "dalle", "whole")[1].counts
    assert counts["uniform_bits"] == pytest.approx(math.log2(64_000), abs=1e-4)
    assert 10 < counts["bits_per_code"] < counts["uniform_bits"] + 1
    shape = json.loads((folder / "config.json").read_text())["model"]
    assert (shape["codes"], shape["digits"]) == (64_000, [512, 125])
    codes = Tokens(home / "tokens" / "shapes@large").views(0)
    assert codes.max() > 8192, "more than any digit can say"
    kept = tensors(folder)
    assert kept["image_head.weight"].shape[0] == 512
    assert kept["digit_heads.0.weight"].shape[0] == 125
    assert max(weight.shape[0] for weight in kept.values()) < 64_000

    loss = stage.DalleTask.loss

    def stopped(task: stage.DalleTask, model: nn.Module, batch: Any, progress: float) -> Tensor:
        if progress == 0.25:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(task, model, batch, progress)

    with monkeypatch.context() as patched:
        patched.setattr(stage.DalleTask, "loss", stopped)
        assert cli("--home", home, *train, "--steps", 4, "--run", "broken").code == 143
    broken = home / "dalle" / "broken"
    assert not (broken / "config.json").exists() and (broken / "state.pt").exists()
    again = tensors(run(*train, "--steps", 4, "--run", "broken")["folder"])
    assert all(torch.equal(weight, again[name]) for name, weight in kept.items())


def test_it_draws(run: Callable[..., dict], tmp_path: Path) -> None:
    folder = run("train", "shapes@large", *TINY, "--steps", 2)["folder"]
    drawn = run(
        *("generate", "a red circle", "a gold square", "-n", 3, "--best", 1, "--json"),
        *("--model", folder, "--device", "cpu", "--top-k", 40, "--out", tmp_path / "a.png"),
    )
    assert len(drawn["pictures"]) == 2
    sampler = from_pretrained(folder, device="cpu")
    codes = sampler.sketch("a red circle", n=2, seed=1).codes
    assert 0 <= codes.min() and 8192 < codes.max() < 64_000
    one, other = (sampler.score(["a red circle"] * size, codes[:size]) for size in (1, 2))
    assert one[0].item() == pytest.approx(other[0].item(), abs=1e-3)


def test_a_run_of_an_older_version_goes_on_as_it_began(
    run: Callable[..., dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It predicted codes whole, however many, and had no word for digits, nor for their numbers."""
    train = ("train", "shapes@some", *TINY)
    with monkeypatch.context() as older:
        older.setattr(parent, "usual_digits", lambda levels: ())
        older.setattr(parent, "usual_numbers", lambda levels: ())
        folder = Path(run(*train, "--steps", 1)["folder"])
    for name in ("manifest.json", "config.json"):
        path = folder / name
        content = json.loads(path.read_text())
        shape = content["config"]["model"] if name == "manifest.json" else content["model"]
        assert shape.pop("digits") == [] and shape.pop("numbers") == []
        path.write_text(json.dumps(content))
    about = json.loads((folder / "manifest.json").read_text())
    about["id"] = weights.model_id(folder)
    (folder / "manifest.json").write_text(json.dumps(about))
    assert from_pretrained(folder, device="cpu").model.config.digits == ()
    assert run(*train, "--steps", 1)["fresh"] is False
    longer = run(*train, "--steps", 2)
    assert Path(longer["folder"]) == folder and longer["fresh"] is True
    assert tensors(folder)["image_head.weight"].shape[0] == 12_800

    child = run(*train, "--steps", 1, "--run", "child", "--from", folder.name)
    assert tensors(child["folder"])["image_head.weight"].shape[0] == 12_800
    new = run(*train, "--steps", 1, "--run", "new")
    assert tensors(new["folder"])["image_head.weight"].shape[0] == 64


@pytest.mark.slow
@pytest.mark.parametrize("told", ["nothing", "0.0"])
def test_any_order_is_learned_of_digits_unless_a_run_or_a_person_says_otherwise(
    run: Callable[..., dict], home: Path, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    train = ("train", "shapes@large", *TINY)

    def any_order(done: dict) -> bool:
        model = json.loads((Path(done["folder"]) / "config.json").read_text())["model"]
        return bool(model.get("any_order", False))

    with monkeypatch.context() as older:  # it learned raster order alone
        older.setattr(orders, "any_order", lambda config, digits: False)
        old = run(*train, "--steps", 1)
    for name in ("manifest.json", "config.json"):
        path = Path(old["folder"]) / name
        content = json.loads(path.read_text())
        described = content["config"] if name == "manifest.json" else content
        assert described["model"].pop("any_order") is False
        if name == "manifest.json":
            assert described.pop("random_order") is None
            described |= {"random_order": 0.0} if told == "0.0" else {}
        path.write_text(json.dumps(content))
    about = json.loads((Path(old["folder"]) / "manifest.json").read_text())
    about["id"] = weights.model_id(Path(old["folder"]))
    (Path(old["folder"]) / "manifest.json").write_text(json.dumps(about))
    assert run(*train, "--steps", 1)["fresh"] is False
    longer = run(*train, "--steps", 2)
    assert longer["folder"] == old["folder"] and not any_order(longer), "it goes on as it began"
    old_name = Path(old["folder"]).name
    assert not any_order(run(*train, "--steps", 1, "--run", "a", "--from", old_name))

    new = run(*train, "--steps", 1, "--run", "new")
    assert any_order(new) and run(*train, "--steps", 1, "--run", "new")["fresh"] is False
    assert any_order(run(*train, "--steps", 1, "--run", "b", "--from", "new"))
    without = run(*train, "--steps", 1, "--set", "random_order=0")
    assert not any_order(without) and without["folder"] != old["folder"]


def test_a_runs_name_says_what_somebody_chose(run: Callable[..., dict], home: Path) -> None:
    """As before there was a default of one's own for photographs."""
    config = load("train", preset="tiny", settings=("random_order=0.25",))
    chosen = replace(config, model=replace(config.model, any_order=True))
    usual = load("train", preset="tiny")
    for_photographs = replace(usual, model=replace(usual.model, any_order=True))
    names = [identity.name(["a"], "tiny", stage._as_named(c), {}) for c in (chosen, usual)]
    assert identity.name(["a"], "tiny", chosen, {}) == names[0] != names[1]
    assert identity.name(["a"], "tiny", stage._as_named(for_photographs), {}) == names[1]
    add_dvae(home, "few", (8, 5, 5, 5))
    run("encode", "shapes", "--vae", "few", "--json")
    train = ("train", "shapes@few", *TINY, "--steps", 1)
    assert run(*train)["folder"] == run(*train, "--set", "random_order=0")["folder"], "a drawing's"
