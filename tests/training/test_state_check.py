"""A state from which no run can go on is refused with one sentence, before anything is changed."""

import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import same
from torch import nn

from dallebaby_cli.config import OptimConfig, RunConfig
from dallebaby_cli.errors import BadInput
from dallebaby_cli.training import engine
from dallebaby_cli.training.parts import Objective
from dallebaby_cli.training.state import State

CPU = torch.device("cpu")
CONFIG = RunConfig(batch_size=2, optim=OptimConfig(muon=True))


class Net(nn.Module):
    """With a convolution, whose kernel Muon takes, and a layer for AdamW."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.layer = nn.Conv2d(1, 2, 2), nn.Linear(2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(self.conv(x).flatten(1)).square().mean()


def loss(net: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return net(batch[0])


def fresh() -> State:
    torch.manual_seed(0)
    return State.fresh({"model": Objective(Net(), loss)}, CONFIG, CPU)


def trained() -> State:
    state = fresh()
    state.backward("model", (torch.ones(2, 1, 2, 2),))
    state.update(1e-3)
    state.step = 1
    return state


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "state.pt"
    trained().save(path)
    return path


def refused(path: Path) -> str:
    """What resuming from it says; the state stays as it was."""
    state = fresh()
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    with pytest.raises(BadInput, match=r"state\.pt is damaged or of another version \(") as caught:
        state.resume(path)
    assert all(torch.equal(before[name], now) for name, now in state.model.state_dict().items())
    assert state.step == 0 and str(caught.value).isprintable()
    return str(caught.value)


def test_what_was_saved_is_gone_on_from(path: Path, tmp_path: Path) -> None:
    state, saved = fresh(), torch.load(path, weights_only=True)
    assert not same(saved["model"], dict(state.model.state_dict()))
    assert state.resume(path) and state.step == 1
    assert same(saved["model"], dict(state.model.state_dict()))
    assert same(saved["optimizer"], state.parts["model"].state_dict()["optimizer"])
    assert not state.resume(tmp_path / "none.pt")


def test_nothing_that_goes_on_lies_in_the_file(path: Path, tmp_path: Path) -> None:
    """Or the disk could not free it, and Windows not write the next one."""
    state, copied = fresh(), tmp_path / "state.pt"
    copied.write_bytes(path.read_bytes())
    assert state.resume(copied)
    held = [*state.model.state_dict().values(), *state.ema.state_dict().values()]
    for optimizer in state.parts["model"].optimizer.parts:
        held += [value for kept in optimizer.state.values() for value in kept.values()]
    assert len(held) == 4 + 4 + 3 * 3 + 1
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(copied) not in maps.read_text(encoding="utf-8")
    before = [value.clone() for value in held]
    copied.write_bytes(bytes(copied.stat().st_size))
    assert all(map(torch.equal, before, held))


def test_what_another_process_finds_wrong_is_refused_here(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "highest", lambda number: 1)
    assert "(so another process of this run finds it)" in refused(path)


def at(*keys: Any) -> Callable[[Any], Any]:
    def inner(saved: Any) -> Any:
        for key in keys:
            saved = saved[key]
        return saved

    return inner


MOMENTS = ("optimizer", "0", "state", 0)
NAN = torch.tensor(float("nan"))


@pytest.mark.parametrize(
    ("where", "key", "value", "why"),
    [
        ((), "step", -1, "its step"),
        ((), "step", 1.5, "its step"),
        ((), "step", True, "its step"),
        ((), "step", 10**18, "its step"),
        ((), "step", None, "its step"),
        ((), "step", "drop", "its step"),
        ((), "lr_scale", float("nan"), "its lr_scale"),
        ((), "lr_scale", 2.0, "its lr_scale"),
        ((), "threads", 10**9, "its threads"),
        ((), "rollbacks", [1], "its rollbacks"),
        ((), "loss_scale", 2.0, "its loss_scale"),
        ((), "loss_scale", {"value": 0.5, "good": 0}, "its loss_scale"),
        ((), "loss_scale", {"value": float("nan"), "good": 0}, "its loss_scale"),
        ((), "loss_scale", {"value": 2.0, "good": -1}, "its loss_scale"),
        ((), "loss_scale", {"value": 2.0}, "its loss_scale"),
        ((), "model", "drop", "its model"),
        ((), "ema", "drop", "its ema"),
        ((), "ema", [1], "its ema"),
        ((), "optimizer", "drop", "its optimizer"),
        ((), "parts", {"critic": {}}, "its parts"),
        (("model",), "conv.bias", "drop", "the names in its model"),
        (("ema",), "more", torch.ones(1), "the names in its ema"),
        (("ema",), "conv.bias", torch.ones(3), r"ema.conv.bias has not the shape \(2,\)"),
        (("model",), "conv.bias", torch.ones(2).long(), "the numbers in its model.conv.bias"),
        (("model",), "conv.bias", torch.ones(2).half(), "the numbers in its model.conv.bias"),
        (("model",), "conv.bias", NAN.expand(2), "the numbers in its model.conv.bias"),
        (("model",), "conv.bias", torch.ones(2).to_sparse(), "cannot be read|conv.bias has not"),
        (("model",), "conv.bias", [1.0, 2.0], "model.conv.bias has not"),
        (("optimizer",), "1", "drop", "its optimizer"),
        (("optimizer", "0"), "param_groups", [], "the groups of its optimizer"),
        (("optimizer", "0", "param_groups", 0), "params", [7], "a group of its optimizer"),
        (("optimizer", "0", "param_groups", 0), "maximize", True, "a group of its optimizer"),
        (("optimizer", "0", "state"), 0, "drop", "its optimizer"),
        (("optimizer", "0", "state"), 0, {}, "its optimizer.0"),
        (MOMENTS, "exp_avg_sq", torch.full((1, 2), -1.0), "optimizer.0"),
        (MOMENTS, "exp_avg", NAN.expand(1, 2), "the numbers in its optimizer.0.exp_avg"),
        (MOMENTS, "exp_avg", torch.ones(5), "optimizer.0.exp_avg has not the shape"),
        (MOMENTS, "step", torch.ones(2), r"optimizer.0.step has not the shape \(\)"),
        (("optimizer", "1", "state", 0), "momentum", torch.ones(1), "optimizer.0.momentum has not"),
    ],
)
def test_a_state_of_another_run_is_one_sentence(
    path: Path, tmp_path: Path, where: tuple, key: object, value: object, why: str
) -> None:
    saved = torch.load(path, weights_only=True)
    inner = at(*where)(saved)
    if isinstance(value, str) and value == "drop":
        del inner[key]
    else:
        inner[key] = value
    torch.save(saved, tmp_path / "state.pt")
    assert re.search(why, refused(tmp_path / "state.pt"))


def test_damaged_bytes_are_found_before_anything_is_read_from_them(
    path: Path, tmp_path: Path
) -> None:
    whole, name = path.read_bytes(), tmp_path / "state.pt"
    weight = torch.load(path, weights_only=True)["model"]["layer.weight"].numpy().tobytes()
    flipped = whole.replace(weight, weight[:3] + bytes([weight[3] ^ 1]) + weight[4:])
    assert flipped != whole
    packed = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.namelist():
            new.writestr(entry, old.read(entry))
    half = len(whole) // 2
    for content, why in (
        (flipped, "a checksum in it is wrong"),
        (whole[:half] + bytes(len(whole) - half), "not a zip"),
        (whole[:half], "not a zip"),
        (b"", "not a zip"),
        (packed.getvalue(), "it is compressed"),
    ):
        name.write_bytes(content)
        assert why in refused(name)
    for held in ([1], 5, torch.ones(2)):
        torch.save(held, name)
        assert "it holds something else" in refused(name)
    torch.save({"step": Path("x")}, name)
    assert "what is in it cannot be read" in refused(name)
