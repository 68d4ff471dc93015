"""Training in other orders, through the real commands, and what is drawn then."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Ran
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from dallebaby_cli import from_pretrained
from dallebaby_cli.config import SampleConfig, TrainConfig, settings
from dallebaby_cli.config.settings import as_dict, load
from dallebaby_cli.models.places import diagonals
from dallebaby_cli.models.transformer import Transformer
from dallebaby_cli.progress import ignore
from dallebaby_cli.stages import train as stage
from dallebaby_cli.training import identity, orders

CPU = torch.device("cpu")
Cli = Callable[..., Ran]
ORDERS = ("--preset", "tiny", "--set", "random_order=0.8", "--set", "random_floor=0.25")


@pytest.fixture
def home(trained: Path, tmp_path: Path) -> Path:
    """A workspace to train in, and one model of raster order in it: dalle/d."""
    for kind in ("images", "vae", "tokens", "dalle"):
        shutil.copytree(trained / kind, tmp_path / "home" / kind)
    return tmp_path / "home"


def configured(*more: str) -> TrainConfig:
    config = load("train", preset="tiny", settings=more)
    assert isinstance(config, TrainConfig)
    return config


# ---------------------------------------------------------------- the schedule and the orders


def test_the_share_falls_over_a_quarter_of_the_run_to_its_floor() -> None:
    config = configured("random_order=0.9", "random_floor=0.1")
    found = [orders.share(config, eighth / 8) for eighth in range(9)]
    assert found == pytest.approx([0.9, 0.9, 0.9, 0.9, 0.9, 0.5, 0.1, 0.1, 0.1])
    low = configured("random_order=0.05", "random_floor=0.1")
    assert {orders.share(low, p) for p in (0, 0.6, 1)} == {0.05}, "the floor is no more than it"
    to_raster = configured("random_order=1", "random_floor=0")
    assert orders.share(to_raster, 0.625) == 0.5 and orders.share(to_raster, 0.8) == 0


def test_orders_are_of_the_step_and_the_same_in_any_number_of_ranks() -> None:
    config = configured("batch_size=6")
    drawn, chances = orders.draw(config, 5, slice(None))
    places = torch.arange(config.model.image_tokens)
    assert drawn.dtype == torch.int64 and torch.equal(drawn.sort(1)[0], places.expand(6, -1))
    assert len(drawn.unique(dim=0)) == 6 and ((chances >= 0) & (chances < 1)).all()
    assert torch.equal(drawn, orders.draw(config, 5, slice(None))[0])
    assert not torch.equal(drawn, orders.draw(config, 6, slice(None))[0])
    for rank in range(3):
        ours, theirs = orders.draw(config, 5, slice(rank, None, 3))
        assert torch.equal(ours, drawn[rank::3]) and torch.equal(theirs, chances[rank::3])


@pytest.mark.parametrize("grid", [4, 8])
def test_orders_are_those_in_which_pictures_are_drawn(
    grid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Along the diagonals of any number of passes; what is kept comes first."""
    config = configured("batch_size=1000", f"model.grid={grid}")
    around, _ = orders.draw(config, 1, slice(None))
    held: list[np.ndarray] = []

    def nothing(*asked: Any) -> np.ndarray:
        held.append(kept(*asked))
        return np.zeros_like(held[-1])

    kept = orders.kept
    monkeypatch.setattr(orders, "kept", nothing)
    drawn, _ = orders.draw(config, 1, slice(None))
    ways = {number: diagonals(grid, number) for number in range(grid, grid**2 + 1)}
    taken = {
        number
        for order in drawn[:200].numpy()
        for number, times in ways.items()
        if (np.diff(times[order]) >= 0).all()
    }
    assert taken >= {grid, 2 * grid - 1, grid**2}, "two corners, one, raster order"
    for ours, theirs, those in zip(around.numpy(), drawn.numpy(), held[0], strict=True):
        assert [*ours] == [*theirs[those[theirs]], *theirs[~those[theirs]]]


@pytest.mark.parametrize("grid", [1, 4, 8, 16])
def test_what_is_kept_is_nothing_all_around_a_hole_or_anywhere(grid: int) -> None:
    found = orders.kept(np.random.default_rng(0), 3000, grid).reshape(-1, grid, grid)
    assert found.dtype == bool and len(found) == 3000
    assert 0.48 < (~found).all((1, 2)).mean() < (0.62 if grid > 1 else 1)
    rectangles, whole = 0, 0
    for one in ~found:
        rows, columns = np.flatnonzero(one.any(1)), np.flatnonzero(one.any(0))
        if one.any() and not one.all() and one.sum() == len(rows) * len(columns):
            rectangles += int(np.ptp(rows) + 1 == len(rows) and np.ptp(columns) + 1 == len(columns))
            whole += grid in (len(rows), len(columns))
    if grid > 1:
        assert 0.15 < rectangles / 3000 < 0.4 and 0.05 < whole / 3000 < 0.3


def test_so_many_pictures_are_read_in_their_own_order() -> None:
    drawn, chances = torch.rand(2000, 9).argsort(1), torch.rand(2000)
    for share in (0, 0.3, 1):
        found = orders.chosen(drawn, chances, share)
        random = (found != torch.arange(9)).any(1)
        assert random.float().mean().item() == pytest.approx(share, abs=0.05)
        assert torch.equal(found[random], drawn[random])


def test_a_batch_without_random_orders_is_what_it_was(trained: Path) -> None:
    plain, _, _ = stage.prepare(trained, configured(), [], device=CPU, report=ignore)
    some = configured("random_order=0.5")
    random, _, _ = stage.prepare(trained, some, [], device=CPU, report=ignore)
    assert not plain.config.model.any_order and random.config.model.any_order
    ours, theirs = random.batch(3), plain.batch(3)
    assert (len(theirs), len(ours)) == (2, 4)
    assert all(map(torch.equal, ours[:2], theirs)), "the same pictures and captions"
    told: list[Tensor | None] = []

    class Listening(Transformer):
        def losses(self, *given: Any) -> tuple[Tensor, Tensor]:
            told.append(given[2])
            return torch.zeros(()), torch.zeros(())

    model = Listening(random.config.model)
    for progress, share in ((0.2, 0.5), (0.9, 0.1)):
        random.loss(model, ours, progress)
        assert told[-1] is not None and torch.equal(told[-1], orders.chosen(*ours[2:], share))
    plain.loss(model, theirs, 0.2)
    assert told[-1] is None


def test_settings_that_are_off_leave_a_runs_name_alone() -> None:
    def told(*more: str, without: bool = False) -> str:
        plain = as_dict(configured(*more))
        if without:
            del plain["random_order"], plain["random_floor"], plain["model"]["any_order"]
        return json.dumps(identity.of(plain), sort_keys=True)

    assert told() == told(without=True)
    assert told("random_order=0.5") != told()


# ---------------------------------------------------------------- the commands


@pytest.mark.slow
def test_a_run_in_random_orders_goes_on_bit_for_bit_and_draws_in_passes(
    home: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    train = ("train", *ORDERS, "--steps", 8)
    assert cli("--home", home, *train, "--run", "whole").code == 0
    model = home / "dalle" / "whole"
    kept = load_file(model / "model.safetensors")
    assert json.loads((model / "config.json").read_text())["model"]["any_order"] is True
    loss = stage.DalleTask.loss

    def stopped(task: stage.DalleTask, model: nn.Module, batch: Any, progress: float) -> Tensor:
        if progress == 0.625:  # where the share falls
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(task, model, batch, progress)

    with monkeypatch.context() as patched:
        patched.setattr(stage.DalleTask, "loss", stopped)
        assert cli("--home", home, *train, "--run", "broken").code == 143
    assert cli("--home", home, *train, "--run", "broken").code == 0
    again = load_file(home / "dalle" / "broken" / "model.safetensors")
    assert all(torch.equal(weight, again[name]) for name, weight in kept.items())

    out, moving = tmp_path / "a.png", tmp_path / "a.gif"
    asked = ("generate", "a red circle", "-n", 3, "--seed", 5, "--model", model, "--steps", 6)
    ran = cli("--home", home, *asked, "--out", out, "--progressive", moving)
    assert ran.code == 0, ran.err
    with Image.open(moving) as film:
        assert film.n_frames == 7, "nothing, and after each pass"
    with Image.open(tmp_path / "a-02.png") as single:
        about, pixels = single.text, np.asarray(single)  # type: ignore[attr-defined]
    config = settings.build(SampleConfig, json.loads(about["sampling"]))
    assert config == SampleConfig(steps=6)
    sampler = from_pretrained(model, "cpu")
    codes = sampler.draw([about["prompt"]], [int(about["seed"])], config)
    assert np.array_equal(sampler.paint(codes)[0], pixels), "its metadata draws it again"

    child = ("--home", home, "train", "--preset", "tiny", "--steps", 1)
    other = cli(*child, "--from", "whole", "--run", "x", "--set", "random_order=0")
    assert other.code == 1 and "dalle/whole learned its codes in other orders, too" in other.err
    assert "random_order=0.1 or more, or leave --from out" in other.err
    other = cli(*child, "--from", "d", "--run", "x", "--set", "random_order=1")
    assert other.code == 1 and "dalle/d learned raster order alone" in other.err
    assert cli(*child, "--from", "whole", "--run", "y", "--set", "random_order=0.3").code == 0


def test_passes_of_a_model_of_raster_order_are_refused_before_any_work(
    home: Path, cli: Cli, tmp_path: Path
) -> None:
    asked = ("--home", home, "generate", "a red circle", "--steps", 4, "--out", tmp_path / "a.png")
    ran = cli(*asked)
    assert ran.code == 2 and not (tmp_path / "a.png").exists()
    assert "--steps 4: this model learned raster order alone" in ran.err
    ran = cli("--home", home, "evaluate", "--pictures", 2, "--set", "sampling.steps=4")
    assert ran.code == 2 and "learned raster order alone" in ran.err
