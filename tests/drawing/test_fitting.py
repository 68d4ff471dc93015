"""How many pictures are drawn at a time: what is asked for, what fits, what is left when it does
not, and when compiling pays."""

from dataclasses import replace

import pytest
import torch

from dallebaby_cli.config import SampleConfig, settings
from dallebaby_cli.drawing import fitting
from dallebaby_cli.drawing.sampler import Sampler
from dallebaby_cli.errors import OutOfMemory
from dallebaby_cli.models import device as devices
from dallebaby_cli.models.block import Cache
from dallebaby_cli.progress import Event, Note

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SHAPE = settings.load("train", preset="gpu-128").model


@pytest.mark.parametrize(
    ("free_gb", "device", "expected"),
    [(1000, GPU, 256), (1000, CPU, 32), (8, GPU, 131), (1, CPU, 16), (0.01, GPU, 1)],
)
def test_as_many_as_pay_and_fit(
    monkeypatch: pytest.MonkeyPatch, free_gb: float, device: torch.device, expected: int
) -> None:
    monkeypatch.setattr(devices, "free_bytes", lambda device: int(free_gb * 1e9))
    found = fitting.at_a_time(SHAPE, SampleConfig(), device)
    assert found == expected
    assert fitting.at_a_time(SHAPE, SampleConfig(batch_size=7), device) == 7, "as it was asked for"


def test_a_picture_takes_its_keys_and_values_and_more(sampler: Sampler) -> None:
    cache = Cache(sampler.model.config, 2, torch.empty(0))
    held = sum(tensor.nbytes for tensor in (*cache.keys, *cache.values))
    guided, free = (fitting._each(sampler.model.config, SampleConfig(guidance=g)) for g in (3, 1))
    assert guided == 2 * free and held < guided < 20 * held


def test_half_of_what_does_not_fit_is_tried() -> None:
    told: list[Event] = []

    def work(size: int) -> int:
        if size > 3:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return size

    assert fitting.halving(work, 25, "encoding", "batch_size", told.append) == 3
    assert [t.text for t in told if isinstance(t, Note)] == [
        f"memory does not hold {full} pictures at a time; trying {half}, which makes the same "
        f"(--set batch_size={half})"
        for full, half in ((25, 12), (12, 6), (6, 3))
    ]
    with pytest.raises(OutOfMemory, match="what encoding one picture takes; end other programs"):
        fitting.halving(lambda size: work(size + 3), 2, "encoding", "batch_size", told.append)
    with pytest.raises(RuntimeError, match="another"):
        fitting.halving(lambda size: _fail(), 2, "encoding", "batch_size", told.append)


def _fail() -> None:
    raise RuntimeError("another")


def test_compiling_pays_for_many_pictures_on_a_gpu_with_a_compiler(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(devices, "has_compiler", lambda device: True)
    assert fitting.pays_to_compile(fitting.COMPILED_FROM, GPU)
    assert not fitting.pays_to_compile(fitting.COMPILED_FROM - 1, GPU)
    assert not fitting.pays_to_compile(10 * fitting.COMPILED_FROM, CPU)
    monkeypatch.undo()

    def none(model: torch.nn.Module, *more: object, **named: object) -> None:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(torch.nn.Module, "compile", none)
    assert not devices.has_compiler(CPU)
    assert capfd.readouterr().err == "", "without a word"


def test_a_batch_that_is_chosen_draws_what_any_other_does(
    sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SampleConfig()
    assert config.batch_size is None
    monkeypatch.setattr(fitting, "ON_A_CPU", 3)
    chosen = sampler.draw(["a red car"] * 8, range(8), config)
    given = sampler.draw(["a red car"] * 8, range(8), replace(config, batch_size=8))
    assert torch.equal(chosen, given)
