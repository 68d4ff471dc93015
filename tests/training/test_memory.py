"""What does not fit into memory is refused before it is taken, with figures that hold."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import Ran

from dallebaby_cli.config import ClassifierConfig, DVAEConfig, TransformerConfig, settings
from dallebaby_cli.errors import OutOfMemory
from dallebaby_cli.models import device as devices
from dallebaby_cli.models.tokenizers.dvae import DVAE
from dallebaby_cli.models.transformer import Transformer
from dallebaby_cli.progress import ignore
from dallebaby_cli.quality.classifier import VOCABULARY, Classifier
from dallebaby_cli.stages import train, train_vae
from dallebaby_cli.training import engine, memory, plan
from dallebaby_cli.training.state import State

Cli = Callable[..., Ran]
CPU = torch.device("cpu")


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize(
    ("build", "config"),
    [
        (Transformer, TransformerConfig(dim=32, heads=2, grid=4, codes=20, text_tokens=5)),
        (DVAE, DVAEConfig(image_px=32, grid=8, width=16)),
        (DVAE, DVAEConfig(image_px=33, grid=11, width=8, quantizer="vq")),
        (lambda c: Classifier(c, VOCABULARY), ClassifierConfig(image_px=32, width=16)),
    ],
)
def test_parameters_are_counted_without_building_the_model(
    build: Callable, config: object, depth: int
) -> None:
    config = replace(config, depth=depth)  # type: ignore[type-var]
    assert memory.parameters(build, config) == sum(p.numel() for p in build(config).parameters())


@pytest.mark.parametrize(
    ("command", "setting", "words"),
    [
        ("train-vae", "model.depth=100000", ["depth=100000 has ", "GB of memory", "model.width=N"]),
        ("train-vae", "batch_size=100000000", ["1.8 TB of memory to prepare", "batch_size="]),
        ("train", "model.depth=100000000", ["parameters", "TB of memory in", "model.dim=N"]),
        ("train", "model.dim=200000", ["dim=200000, depth=2", "TB", "smaller --preset"]),
        ("train", "model.dim=0", ["model.dim=0: must be 4 or more"]),
        ("train", "model.text_tokens=2000000000", ["text_tokens=2000000000", "TB"]),
        ("train", "batch_size=100000000", ["of memory to prepare", "take --set batch_size="]),
        ("train", "steps=100000000000000", ["must be at most 1,000,000,000"]),
    ],
)
def test_what_is_too_large_is_refused_at_once(
    cli: Cli, trained: Path, command: str, setting: str, words: list[str]
) -> None:
    before = {path for path in trained.rglob("*") if path.name != ".lock"}
    ran = cli("--home", trained, command, "--preset", "tiny", "--set", setting)
    (line,) = (row for row in ran.err.splitlines() if row.startswith("error: "))
    assert ran.code in (1, 2) and all(word in line for word in words), line
    assert {path for path in trained.rglob("*") if path.name != ".lock"} == before


@pytest.mark.parametrize(("world", "fits"), [(1, False), (2, False), (4, True)])
def test_a_model_that_ranks_split_may_be_larger_than_a_device_trains(
    monkeypatch: pytest.MonkeyPatch, world: int, fits: bool
) -> None:
    config = TransformerConfig(dim=32, heads=2, grid=4, codes=20, text_tokens=5)
    there = int(4 * memory.parameters(Transformer, config) * 2.2)
    monkeypatch.setattr(devices, "memory_bytes", lambda device: there)
    monkeypatch.setattr(engine, "world", lambda: world)
    known = Transformer, config, train.SIZES, CPU
    with pytest.raises(OutOfMemory):
        memory.require_model(*known, shard=False)
    with nullcontext() if fits else pytest.raises(OutOfMemory):
        memory.require_model(*known, shard=True)


def test_what_a_step_keeps_is_known_before_it_is_taken(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is estimated from one picture and two is what a whole batch keeps."""
    tasks = [
        train_vae.prepare(
            trained, settings.load("train-vae", preset="tiny"), [], device=CPU, report=ignore
        )[0],
        train.prepare(
            trained, settings.load("train", preset="tiny"), [], device=CPU, report=ignore
        )[0],
    ]
    for task in tasks:
        state = State.fresh(plan.copies(task.parts()), task.config, CPU)
        batch = task.batch(0)

        def step(part: memory.Tensors, task: object = task, state: State = state) -> object:
            return task.step(state, part, 0.0)  # type: ignore[attr-defined]

        kept = [
            memory._kept_bytes(state, step, tuple(t[:size] for t in batch)) for size in (1, 2, 16)
        ]
        assert kept[0] + 15 * (kept[1] - kept[0]) == pytest.approx(kept[2], rel=0.02)
        fixed = memory.COPIES * 4 * sum(p.numel() for p in state.model.parameters())
        for fit, accumulate in ((16, 0), (8, 2), (5, 4), (1, 16)):
            there = fixed + kept[0] + (fit - 1) * (kept[1] - kept[0])
            monkeypatch.setattr(devices, "memory_bytes", lambda device, there=there: there)
            if not accumulate:
                memory.require_step(state, step, batch)
                continue
            with pytest.raises(OutOfMemory, match=f"fit: --set accumulate={accumulate},"):
                memory.require_step(state, step, batch)


def test_a_container_has_its_own_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(devices, "LIMITS", (tmp_path / "none", limit))
    whole = devices.memory_bytes(CPU)
    for text, expected in (("max\n", whole), ("1000000\n", 1_000_000), (f"{2**63}\n", whole)):
        limit.write_text(text, encoding="ascii")
        assert devices.memory_bytes(CPU) == expected
