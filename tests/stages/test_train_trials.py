"""Ideas on trial through the real commands, and runs that were begun before there were any."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Ran

from dallebaby_cli.config.settings import as_dict, load
from dallebaby_cli.store import manifest
from dallebaby_cli.training import identity

ALL = {
    "noise": 0.5,
    "foresight": 0.1,
    "inputs": "both",
    "outputs": "both",
    "neighbours": 11,
    "values": True,
    "shortcut": True,
    "skips": True,
    "gates": True,
    "mlp": "swiglu",
}
SETS = [word for name, v in ALL.items() for word in ("--set", f"model.trials.{name}={v}")]
SHORT = ("--preset", "tiny", "--set", "model.depth=3", "--set", "model.dropout=0")


def workspace(trained: Path, home: Path) -> Path:
    for kind in ("images", "vae", "tokens"):
        shutil.copytree(trained / kind, home / kind)
    return home


@pytest.mark.slow
def test_ideas_are_trained_further_drawn_and_begun_from(
    trained: Path, tmp_path: Path, cli: Callable[..., Ran]
) -> None:
    home = workspace(trained, tmp_path)

    def train(name: str, *more: object) -> Ran:
        return cli("--home", home, "train", "--run", name, *SHORT, *more)

    for steps in (2, 3):
        assert train("all", "--steps", steps, *SETS).code == 0
    model = home / "dalle" / "all"
    described = json.loads((model / "config.json").read_text())
    assert described["model"]["trials"] == {**ALL, "levels": [8, 5, 5, 5]}
    out = tmp_path / "drawn.png"
    asked = ("generate", "a red circle", "-n", 2, "--model", model, "--out", out)
    assert cli("--home", home, *asked).code == 0 and out.exists()
    child = ("--steps", 1, "--from", "all", *SETS)
    other = train("other", *child, "--set", "model.trials.mlp=relu2")
    assert other.code == 1 and "take --set model.trials.mlp=swiglu" in other.err
    assert train("quiet", *child, "--set", "model.trials.noise=0").code == 0


def test_a_run_of_before_there_were_trials_is_the_one_it_was(
    trained: Path, tmp_path: Path, cli: Callable[..., Ran]
) -> None:
    home = workspace(trained, tmp_path)
    shutil.copytree(trained / "dalle", home / "dalle")
    for file in (home / "dalle" / "d" / "manifest.json", home / "dalle" / "d" / "config.json"):
        content = json.loads(file.read_text())
        (content["config"] if "config" in content else content)["model"].pop("trials")
        file.write_text(json.dumps(content))
    asked = ("train", "--run", "d", "--preset", "tiny", "--json")
    again = cli("--home", home, *asked, "--set", "model.trials.gates=true", "--steps", 4)
    assert again.code == 1 and "model.trials.gates: None then, True now" in again.err
    longer = cli("--home", home, *asked, "--steps", 5)
    assert longer.code == 0 and json.loads(longer.out)["steps"] == 5, longer.err


def test_trials_that_are_off_leave_a_runs_name_alone() -> None:
    def name(*settings: str, without: bool = False) -> str:
        config = load("train", preset="scenes", settings=settings)
        if without:
            plain = as_dict(config)
            del plain["model"]["trials"]
            return json.dumps(identity.of(plain), sort_keys=True)
        return json.dumps(identity.of(as_dict(config)), sort_keys=True)

    assert name() == name(without=True)
    assert name("model.trials.gates=true") != name()
    assert '"trials": {"gates": true}' in name("model.trials.gates=true")


def test_codes_that_are_no_numbers_are_refused_for_it(
    prepared: Path, tmp_path: Path, cli: Callable[..., Ran]
) -> None:
    home = tmp_path / "home"
    shutil.copytree(prepared, home)
    vq = ("--set", "model.quantizer=vq", "--preset", "tiny", "--steps", 1, "--run", "vq")
    assert cli("--home", home, "train-vae", *vq).code == 0
    assert cli("--home", home, "encode").code == 0
    asked = ("train", *SHORT, "--steps", 1, "--set", "model.trials.inputs=levels")
    refused = cli("--home", home, *asked)
    assert refused.code == 2
    assert "model.trials.inputs='levels': needs codes that are made of several" in refused.err
    assert manifest.every(home, "dalle") == []
