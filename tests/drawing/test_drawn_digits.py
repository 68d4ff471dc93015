"""Codes that are drawn digit by digit come as often as the model says."""

from dataclasses import replace

import pytest
import torch
from conftest import lively_sampler

from dallebaby_cli.config import SampleConfig
from dallebaby_cli.drawing import fitting
from dallebaby_cli.drawing.sampler import Sampler
from dallebaby_cli.models.transformer import Transformer

DRAWN = 4000
LEVELS = (5, 5)


@pytest.fixture(scope="module")
def one_code() -> Sampler:
    """A model of pictures of one code, which has two digits."""
    sampler = lively_sampler((8, 6, 5))
    torch.manual_seed(2)
    model = Transformer(replace(sampler.model.config, codes=25, digits=LEVELS, grid=1))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return replace(sampler, model=model.eval())


@torch.no_grad()
def digits_of(sampler: Sampler, prompt: str, first: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (5,) of the first digit, and of the second one after that first digit."""
    ids = sampler.text_tokenizer.encode([prompt], sampler.model.config.text_tokens)
    logits = sampler.model(torch.from_numpy(ids), torch.tensor([[first]]))[1][0, 0]
    return logits[:5], logits[5:]


def chances(sampler: Sampler, prompt: str, config: SampleConfig) -> torch.Tensor:
    """Of each of the 25 codes: each digit's logits guided, divided by the temperature, and the
    likeliest kept."""

    def of_digit(pair: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        with_prompt, without = pair
        logits = without + config.guidance * (with_prompt - without)
        share = (logits / config.temperature).softmax(0)
        kept = torch.zeros_like(share)
        best = share.argsort(descending=True)[: config.top_k or None]
        kept[best] = share[best]
        return kept / kept.sum()

    found = torch.zeros(25)
    for first in range(5):
        both = zip(digits_of(sampler, prompt, first), digits_of(sampler, "", first), strict=True)
        one, other = map(of_digit, both)
        found[first + 5 * torch.arange(5)] = one[first] * other
    return found


@pytest.mark.parametrize(
    "config",
    [
        SampleConfig(guidance=1),
        SampleConfig(guidance=2.5),
        SampleConfig(guidance=1, temperature=0.6, top_k=3),
    ],
)
def test_codes_come_as_often_as_is_said(one_code: Sampler, config: SampleConfig) -> None:
    config = replace(config, batch_size=DRAWN)
    drawn = one_code.draw(["a red car"] * DRAWN, range(DRAWN), config).flatten()
    counts = drawn.bincount(minlength=25).double()
    expected = chances(one_code, "a red car", config).double() * DRAWN
    assert expected.sum().item() == pytest.approx(DRAWN, rel=1e-5)
    assert (counts[expected == 0] == 0).all()
    rare = expected < 5  # of which the test of Pearson says nothing: together they are one
    seen = torch.cat((counts[~rare], counts[rare].sum()[None]))
    told = torch.cat((expected[~rare], expected[rare].sum().clamp(min=1e-9)[None]))
    seen, told = seen[told > 1], told[told > 1]
    assert len(told) > 6
    assert ((seen - told).square() / told).sum() < 52, "chi-square, at most 24 degrees: 0.1 %"


def test_two_digits_of_a_code_have_random_numbers_of_their_own(one_code: Sampler) -> None:
    """With the same ones, the second digit would follow from the first."""
    model = Transformer(one_code.model.config)  # a fresh one knows nothing: all codes alike
    drawn = replace(one_code, model=model.eval()).draw(
        [""] * DRAWN, range(DRAWN), SampleConfig(guidance=1, batch_size=DRAWN)
    )
    counts = drawn.flatten().bincount(minlength=25)
    assert ((counts - DRAWN / 25).square() / (DRAWN / 25)).sum() < 52


def test_a_large_codebook_takes_no_more_memory_than_its_digits() -> None:
    shape = lively_sampler().model.config
    large = replace(shape, codes=64_000, digits=(512, 125))
    small, whole = replace(shape, codes=637), replace(shape, codes=64_000)
    each = {s: fitting._each(s, SampleConfig()) for s in (large, small, whole)}
    assert each[large] == each[small] < each[whole] / 10
