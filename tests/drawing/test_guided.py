"""Models that have learned to draw with guidance by themselves, without asking a second time."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import KINDS, Ran, lively_sampler
from torch import Tensor
from torch.nn import functional as F

from dallebaby_cli.config import SampleConfig
from dallebaby_cli.drawing.next_code import asks_twice, guidance_at
from dallebaby_cli.drawing.sampler import Sampler
from dallebaby_cli.models.digits import split
from dallebaby_cli.store.manifest import find

Cli = Callable[..., Ran]
LEARNED = 2.0
PROMPTS = ["a red car", "a blue house"]


def pair(digits: tuple[int, ...], numbers: tuple[int, ...]) -> tuple[Sampler, Sampler]:
    """The same weights, which know no guidance, and which do."""
    plain, guided = (lively_sampler(digits, numbers=numbers, any_order=True) for _ in range(2))
    guided.model.config = replace(guided.model.config, guided=LEARNED)
    return plain, guided


@pytest.mark.parametrize("steps", [None, 6])
@pytest.mark.parametrize("asked", [LEARNED, 3.0, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_guidance_counts_from_what_was_learned(kind: str, asked: float, steps: int | None) -> None:
    plain, guided = pair(*KINDS[kind])
    ours = guided.draw(PROMPTS, [0, 1], SampleConfig(guidance=asked, steps=steps))
    theirs = plain.draw(PROMPTS, [0, 1], SampleConfig(guidance=asked / LEARNED, steps=steps))
    assert torch.equal(ours, theirs)


def test_the_empty_caption_is_asked_where_it_matters() -> None:
    config = SampleConfig(guidance=3)
    assert asks_twice(config, 1) and not asks_twice(config, 3) and asks_twice(config, 2)
    assert not asks_twice(SampleConfig(guidance=1), 1) and asks_twice(SampleConfig(guidance=1), 3)
    assert asks_twice(replace(config, guidance_ramp=0.5), 3), "it is less at first"
    assert asks_twice(replace(config, guidance_power=1), 3)
    assert asks_twice(replace(config, guidance_interval=(0.1, 0.8)), 3)
    half = replace(config, guidance_ramp=0.5)
    assert [guidance_at(share, half, 3) for share in (0, 0.5, 0.9)] == [pytest.approx(1 / 3), 1, 1]


@pytest.mark.parametrize("order", [None, "other"])
@pytest.mark.parametrize("kind", KINDS)
def test_captions_are_judged_as_if_nothing_was_trained_in(kind: str, order: str | None) -> None:
    """The loss and its gradient, by autograd: those without a caption are given."""
    _, sampler = pair(*KINDS[kind])
    model, radices = sampler.model, sampler.model.config.radices
    text = sampler._read(PROMPTS)
    codes = torch.randint(0, 240, (2, 16), generator=torch.Generator().manual_seed(0))
    places = torch.stack([torch.randperm(16) for _ in range(2)]) if order else None
    with torch.no_grad():
        alone = model(sampler._read(["", ""]), codes, places)[1]
    logits = torch.lerp(alone, model(text, codes, places)[1], 1 / LEARNED)
    told = codes if places is None else codes.gather(1, places)

    def of_digits(logits: Tensor) -> Tensor:
        parts = zip(torch.split(logits, [*radices], dim=-1), split(told, radices), strict=True)
        each = [F.cross_entropy(p.flatten(0, 1), d.flatten(), reduction="none") for p, d in parts]
        return torch.stack(each).sum(0).view(2, 16)

    wanted = of_digits(logits).mean()
    found = model.losses(text, codes, places)[1]
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    weights = [w for w in model.blocks.parameters() if w.requires_grad]
    ours, theirs = (torch.autograd.grad(loss, weights) for loss in (found, wanted))
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-3, atol=1e-5)
    if not order:
        log_p = sampler.log_p(PROMPTS, codes.view(2, 4, 4))
        torch.testing.assert_close(log_p, -of_digits(logits).sum(1).detach(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_all_weights_learn_in_bf16_as_in_fp32(kind: str) -> None:
    """What is cast where nothing is learned must not be taken where something is."""
    _, sampler = pair(*KINDS[kind])
    text = sampler._read(PROMPTS)
    codes = torch.randint(0, 240, (2, 16), generator=torch.Generator().manual_seed(0))
    found = []
    for precision in (torch.float32, torch.bfloat16):
        sampler.model.zero_grad()
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            sum(sampler.model.losses(text, codes)).backward()  # type: ignore[union-attr]
        found.append({name: w.grad for name, w in sampler.model.named_parameters()})
    for name, exact in found[0].items():
        ours = found[1][name]
        assert (exact is None) == (ours is None), name
        if exact is not None and ours is not None and exact.norm() > 1e-6:
            assert F.cosine_similarity(exact.flatten(), ours.flatten(), dim=0) > 0.9, name


def test_it_is_learned_beside_what_captions_do_not_tell(cli: Cli, tmp_path: Path) -> None:
    asked = ("--set", "model.guided=3", "--set", "caption_drop=0")
    ran = cli("--home", tmp_path, "train", *asked)
    assert ran.code == 2 and "caption_drop=0: must be above 0 where model.guided" in ran.err


@pytest.mark.slow
def test_a_run_learns_it_from_another_and_draws(trained: Path, cli: Cli, tmp_path: Path) -> None:
    for kind in ("images", "vae", "tokens", "dalle"):
        shutil.copytree(trained / kind, tmp_path / kind)
    train = ("--home", tmp_path, "train", "--preset", "tiny", "--json")
    learn = (*train, "--from", "d", "--set", "model.guided=3")
    ran = cli(*learn, "--steps", 12)
    assert ran.code == 0, ran.err
    folder = Path(json.loads(ran.out)["folder"])
    about, before = (find(tmp_path, "dalle", name)[1] for name in (folder.name, "d"))
    assert json.loads((folder / "config.json").read_text())["model"]["guided"] == 3
    assert about.counts["bits_per_code"] < before.counts["bits_per_code"] + 1
    assert json.loads(cli(*learn, "--steps", 12).out)["fresh"] is False
    out = tmp_path / "a.png"
    drawn = ("generate", "a red circle", "-n", 2, "--model", folder, "--out", out)
    assert cli("--home", tmp_path, *drawn).code == 0 and out.exists()
    other = cli(*train, "--from", folder.name, "--run", "x", "--steps", 1)
    assert other.code == 1 and "take --set model.guided=3" in other.err
