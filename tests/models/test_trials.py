"""Ideas on trial that only a training knows: what it reads, and what else it is to tell. Those that
change the forward pass are held to the textbook in test_models.py."""

import math
from dataclasses import replace

import pytest
import torch
from models.test_models import MODELS, SHAPE, batch, lively
from torch import Tensor
from torch.nn import functional as F

from dallebaby_cli.config import Trials
from dallebaby_cli.errors import UsageError
from dallebaby_cli.models.slips import slipped
from dallebaby_cli.models.transformer import Transformer


def tried(**ideas: object) -> Transformer:
    return lively(replace(SHAPE, depth=4, trials=Trials(**ideas)))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", MODELS)
def test_a_fresh_model_is_the_same_guess(name: str) -> None:
    text, codes = batch(4)
    losses = Transformer(MODELS[name]).losses(text, codes)
    assert losses[1].item() == pytest.approx(math.log(SHAPE.codes), rel=1e-5)


def test_so_many_codes_are_replaced_and_fewer_as_time_goes_on() -> None:
    model, codes = tried(noise=0.8), torch.zeros(2000, 400, dtype=torch.int64)
    for progress, most in ((0.0, 0.8), (0.375, 0.4), (0.75, 0.0), (1.0, 0.0)):
        read = slipped(codes, model.config, progress)
        seen = (read != 0).float().mean(1) * SHAPE.codes / (SHAPE.codes - 1)  # some are as before
        assert seen.mean().item() == pytest.approx(most / 2, abs=0.02)
        assert read.max() < SHAPE.codes and seen.min() < 0.02
        assert most - 0.05 <= seen.max() <= most + 0.1, "of each picture another share"
    assert torch.equal(slipped(codes, tried().config, 0.0), codes)


@torch.no_grad()
def test_what_is_read_is_noisy_and_what_is_learned_is_not() -> None:
    model, (text, codes) = tried(noise=0.9), batch(6)
    torch.manual_seed(1)
    read = slipped(codes, model.config, 0.1)
    assert not torch.equal(read, codes)
    torch.manual_seed(1)
    found = model.losses(text, codes, 0.1)[1]
    logits = model(text, read)[1]
    torch.testing.assert_close(found, F.cross_entropy(logits.flatten(0, 1), codes.flatten()))
    clean = F.cross_entropy(model(text, codes)[1].flatten(0, 1), codes.flatten())
    torch.testing.assert_close(model.losses(text, codes)[1], clean)  # as hold-out pictures are read


def test_the_stream_inside_is_to_tell_the_numbers_of_the_next_code() -> None:
    model, (text, codes) = tried(foresight=0.5, levels=(5, 2, 5)), batch(3)
    entered: list[Tensor] = []
    model.blocks[3].register_forward_pre_hook(lambda _, given: entered.append(given[0]))
    with_it, without = model.losses(text, codes, 0.5), model.losses(text, codes)
    assert torch.equal(with_it[0], without[0]) and model.foresight is not None
    errors = []
    for row, picture in zip(entered[0], codes.tolist(), strict=True):
        for place, code in enumerate(picture):
            before = row[SHAPE.text_tokens + place]
            told = model.foresight.weight @ (before / before.square().mean().sqrt())
            numbers = (code % 5, code // 5 % 2, code // 10)
            wanted = torch.tensor([n / most for n, most in zip(numbers, (4, 1, 4), strict=True)])
            errors.append((told - (2 * wanted - 1)).square().mean())
    torch.testing.assert_close(with_it[1] - without[1], 0.5 * torch.stack(errors).mean())
    with_it[1].backward()
    assert model.foresight.weight.grad is not None and model.blocks[0].qkv.weight.grad.any()


def test_levels_are_taken_where_they_are_of_use() -> None:
    assert Trials().told((8, 5)) == Trials(skips=False)
    assert Trials(inputs="both").told((8, 5)).levels == (8, 5)
    assert Trials(foresight=1).told((8, 5)).levels == (8, 5)
    assert Trials(inputs="levels", levels=(8, 5)).told((4, 4)).levels == (4, 4)
    assert Trials(outputs="both").told((8, 5)).levels == (8, 5)
    ideas = {"inputs": "levels", "outputs": "both", "foresight": 1}
    for name, value in ideas.items():
        with pytest.raises(UsageError, match=f"^model.trials.{name}=.*needs codes that are made"):
            Trials(**{name: value}).told(())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"model.trials.levels=.*must make codes=50"):
        replace(SHAPE, trials=Trials(inputs="both", levels=(5, 5)))


def test_swiglu_has_as_many_weights() -> None:
    for dim in (192, 384, 768):
        plain, gated = (
            sum(p.numel() for p in Transformer(replace(SHAPE, dim=dim, trials=idea)).parameters())
            for idea in (Trials(), Trials(mlp="swiglu"))
        )
        assert plain == gated
