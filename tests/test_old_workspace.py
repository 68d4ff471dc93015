"""A workspace that the code before the rooms made (commit 26edf45; make_old_workspace.py says how)
goes on under this one: what was finished is found, what was broken off is continued."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Ran
from make_old_workspace import ARCHIVE, PROMPTS, TINY, TORCHRUN, VQ
from PIL import Image

from dallebaby_cli import from_pretrained
from dallebaby_cli.drawing import steps
from dallebaby_cli.prep import pieces
from dallebaby_cli.store import manifest
from dallebaby_cli.store.tokens import Tokens
from dallebaby_cli.training import checkpoint

Cli = Callable[..., Ran]
HOME = Path("dallebaby")
VAE, DALLE = "scenes-tiny-fdd8f0", "scenes-tiny-e78df2"
CODES = f"scenes@{VAE}"
SMALL = ("--config", "small.yaml")
ALONE = ("--device", "cpu", "--set", "listen=127.0.0.1:0", "--set", "dht=false")
FINISHED = {
    "raw/shapes": ("fetch", "dallebaby/raw/shapes/.torrent", "--name", "shapes", *ALONE),
    "images/shapes": ("prep", "shapes", *SMALL),
    "images/scenes": ("prep", "scenes", *SMALL, "--limit", 120),
    f"vae/{VAE}": ("train-vae", "scenes", *TINY),
    f"tokens/{CODES}": ("encode", "scenes", "--vae", VAE),
    f"dalle/{DALLE}": ("train", CODES, *TINY),
}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive's folder; copy it before changing it."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as tar:
        tar.extractall(folder, filter="data")
    raw = folder / HOME / "raw" / "shapes"
    about = manifest.read(raw)
    assert about is not None
    for name, facts in about.counts["files"].items():  # tar rounds them, copies of a disk do not
        os.utime(raw / name, ns=(facts["mtime_ns"], facts["mtime_ns"]))
    return folder


@pytest.fixture(autouse=True)
def work(unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A workspace of its own, named as it was named when it was made."""
    monkeypatch.chdir(shutil.copytree(unpacked, tmp_path / "work"))


def done(cli: Cli, *arguments: object) -> dict:
    """What a command's JSON says, which must end well."""
    ran = cli(*arguments, "--json")
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def about(name: str) -> manifest.Manifest:
    found = manifest.read(HOME / name)
    assert found is not None
    return found


def events(run: str) -> list[dict]:
    return [json.loads(line) for line in (HOME / run / "log.jsonl").read_text().splitlines()]


def step(run: str) -> int:
    """Where an unfinished or finished run stands."""
    state = checkpoint.load_state(HOME / run / "state.pt")
    assert state is not None and state["step"] > 0
    return int(state["step"])


def resumed(run: str) -> list[int]:
    return [event["step"] for event in events(run) if event["event"] == "resume"]


def test_status_lists_everything(cli: Cli) -> None:
    found = {f"{a['kind']}/{a['name']}": a["state"] for a in done(cli, "status")["artefacts"]}
    finished = {*FINISHED, "captions/shapes", "classifier/scenes-16px-classifier-64d77c"}
    half = {"images/half", "vae/half", "vae/pair", "dalle/half", "dalle/pair"}
    assert found == dict.fromkeys(finished, "complete") | dict.fromkeys(
        half | {f"tokens/shapes@{VAE}"}, "unfinished"
    )


@pytest.mark.parametrize("name", FINISHED)
def test_what_was_finished_is_not_done_again(cli: Cli, name: str) -> None:
    before, when = about(name), (HOME / name / "manifest.json").stat().st_mtime_ns
    said = done(cli, *FINISHED[name])
    (said,) = said.get("tokens", [said])
    assert said["fresh"] is False and said["id"] == before.id
    assert (HOME / name / "manifest.json").stat().st_mtime_ns == when


def random_numbers_of_then(seeds: torch.Tensor, start: int, stop: int, codes: int) -> torch.Tensor:
    """Gumbel noise as it was made for each picture then: by torch's generator, all at once."""
    drawn = []
    for seed in seeds.tolist():
        generator = torch.Generator().manual_seed(seed)
        drawn.append(torch.rand(stop, codes, generator=generator)[start:])
    uniform = torch.stack(drawn, dim=1).clamp(1e-20, 1 - 1e-7)
    return -torch.log(-torch.log(uniform))


def test_an_old_model_draws_what_it_drew(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the same random numbers, which are made otherwise today."""
    monkeypatch.setattr(steps, "keys", lambda seeds: torch.tensor([*seeds]))
    monkeypatch.setattr(steps, "noise", random_numbers_of_then)
    done(cli, "generate", *PROMPTS, "-n", 4, "--seed", 0, "--out", "now.png")
    before, now = (
        np.asarray(Image.open(path), dtype=int) for path in (HOME / "samples/old.png", "now.png")
    )
    assert before.std() > 10, "a picture of something"
    assert before.shape == now.shape and np.abs(before - now).max() <= 1  # another processor's
    again = from_pretrained(HOME / "dalle" / DALLE).generate(PROMPTS[0], n=2, seed=0)
    assert again.shape == (2, 16, 16, 3)


def test_a_broken_off_prep_goes_on(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    make = pieces.content
    monkeypatch.setattr(pieces, "content", lambda task: made.append(task.path.name) or make(task))
    ran = cli(
        *("prep", "scenes", "--name", "half", "--px", 8, "--limit", 700, "--workers", 1),
        *("--set", "on=local", "--json"),
    )
    assert ran.code == 0, ran.err
    assert sorted(made) == ["000001.arrow", "000002.arrow"], "the piece that was there counts"
    counts = about("images/half").counts
    assert counts["train"] + counts["holdout"] == 700


def test_a_broken_off_encode_goes_on(cli: Cli) -> None:
    folder = HOME / "tokens" / f"shapes@{VAE}"
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.arrow")}
    assert len(before) == 4
    sizes = ("--set", "views=2", "--set", "shard_pictures=4", "--set", "batch_size=4")
    done(cli, "encode", "shapes", "--vae", VAE, *sizes)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(Tokens(folder).rows("train")) == about("images/shapes").counts["train"]
    done(cli, "train", f"shapes@{VAE}", *TINY, "--steps", 2)  # with the captions by a model


@pytest.mark.parametrize(
    ("run", "arguments"),
    [
        ("vae/half", ("train-vae", "scenes", *TINY, "--run", "half")),
        ("dalle/half", ("train", CODES, *TINY, "--run", "half")),
        (
            "dalle/pair",
            ("train", CODES, *TINY, "--run", "pair"),
        ),  # of two processes, goes on with one
        (f"vae/{VAE}", ("train-vae", "scenes", *TINY)),  # finished, now longer
        (f"dalle/{DALLE}", ("train", CODES, *TINY)),
    ],
)
def test_a_run_goes_on_where_it_was(cli: Cli, run: str, arguments: tuple) -> None:
    at = step(run)
    said = done(cli, *arguments, "--steps", at + 20)
    assert said["fresh"] is True and said["steps"] == at + 20
    assert resumed(run) == [at]
    assert about(run).complete and (HOME / run / "model.safetensors").exists()


@pytest.mark.slow
def test_two_processes_go_on_where_two_were() -> None:
    at = step("vae/pair")
    command = ("train-vae", "shapes", *TINY, *VQ, "--run", "pair", "--steps", at + 20)
    ran = subprocess.run(
        [sys.executable, "-m", *TORCHRUN, "dallebaby_cli", *map(str, command)],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert about("vae/pair").complete and resumed("vae/pair") == [at]


def test_an_old_model_is_judged_by_the_old_classifier(cli: Cli) -> None:
    before = [*HOME.glob("classifier/*")]
    said = done(cli, "evaluate", *SMALL, "--model", HOME / "dalle" / DALLE)
    assert [*HOME.glob("classifier/*")] == before
    assert 0 < said["holdout"]["bits_per_code"] < said["holdout"]["uniform_bits"]
    assert len(said["agreement"]) == 9


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("vae", ("train-vae", "shapes", *TINY, "--from", VAE)),
        ("dalle", ("train", CODES, *TINY, "--from", DALLE)),
    ],
)
def test_an_old_run_is_a_start(cli: Cli, kind: str, arguments: tuple) -> None:
    said = done(cli, *arguments, "--steps", 20, "--run", "further")
    assert said["fresh"]
    assert any(name.startswith(f"{kind}/") for name in about(f"{kind}/further").parents)
