"""Fast sampling equals slow sampling, and no picture depends on its neighbours."""

import numpy as np
import pytest
import torch

from dallebaby_cli.config import DVAEConfig, SampleConfig, TransformerConfig
from dallebaby_cli.data.text import TextTokenizer
from dallebaby_cli.errors import UsageError
from dallebaby_cli.models.dvae import DVAE
from dallebaby_cli.models.transformer import Transformer
from dallebaby_cli.sampler import Sampler, choose

PROMPTS = ["a red car", "a blue house left of a green tree", ""]
SEEDS = [3, 4, 5]


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    torch.manual_seed(1)
    tokenizer = TextTokenizer.train(["a red car", "a blue house left of a green tree"], 300)
    shape = TransformerConfig(
        text_tokens=10,
        vocabulary=tokenizer.vocabulary,
        dim=48,
        depth=3,
        heads=3,
        dropout=0,
        codes=240,
        grid=4,
    )
    model = Transformer(shape)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    vae = DVAE(DVAEConfig(image_px=16, grid=4, width=8, depth=1, levels=(8, 6, 5)))
    return Sampler(model.eval(), vae.eval(), tokenizer)


@torch.no_grad()
def slow_draw(sampler: Sampler, prompt: str, seed: int, config: SampleConfig) -> torch.Tensor:
    """One picture without cache or batch: a whole forward pass for every code."""
    shape = sampler.model.config
    noise = sampler._noise(seed)
    text, empty = (
        torch.from_numpy(sampler.tokenizer.encode([p], shape.text_tokens)) for p in (prompt, "")
    )
    codes = torch.zeros(1, shape.image_tokens, dtype=torch.int64)
    for number in range(shape.image_tokens):
        logits = sampler.model(text, codes)[1][:, number]
        if config.guidance != 1:
            without = sampler.model(empty, codes)[1][:, number]
            logits = without + config.guidance * (logits - without)
        codes[:, number] = choose(logits, noise[None, number], config)
    return codes.view(shape.grid, shape.grid)


@pytest.mark.parametrize(
    "config",
    [
        SampleConfig(guidance=1),
        SampleConfig(guidance=3),
        SampleConfig(guidance=2.5, temperature=0.7, top_k=20, top_p=0.9),
        SampleConfig(guidance=1, temperature=0),
    ],
)
def test_cached_equals_uncached_and_batched_equals_alone(
    sampler: Sampler, config: SampleConfig
) -> None:
    together = sampler.draw(PROMPTS, SEEDS, config)
    for index, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
        assert torch.equal(together[index], slow_draw(sampler, prompt, seed, config))
        assert torch.equal(together[index], sampler.draw([prompt], [seed], config)[0])


def test_guidance_one_is_no_guidance_and_more_of_it_changes_the_picture(sampler: Sampler) -> None:
    one = sampler.draw(PROMPTS, SEEDS, SampleConfig(guidance=1))
    almost = sampler.draw(PROMPTS, SEEDS, SampleConfig(guidance=1 + 1e-7))
    assert torch.equal(one, almost)  # the guided path, at a scale where it does nothing
    assert not torch.equal(one[:2], sampler.draw(PROMPTS, SEEDS, SampleConfig(guidance=4))[:2])
    alone = sampler.draw(PROMPTS[2:], SEEDS[2:], SampleConfig(guidance=4))
    assert torch.equal(one[2:], alone)  # an empty caption has nothing to be guided by


def test_pictures_do_not_depend_on_the_batch_size(sampler: Sampler) -> None:
    big = sampler.generate(PROMPTS[:2], n=5, seed=7, config=SampleConfig(batch_size=64))
    small = sampler.generate(PROMPTS[:2], n=5, seed=7, config=SampleConfig(batch_size=3))
    assert big.shape == (10, 16, 16, 3) and big.dtype == np.uint8
    assert np.array_equal(big, small)
    assert np.array_equal(big[7], sampler.generate(PROMPTS[1], n=1, seed=14)[0])


def test_choosing_follows_the_probabilities() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    uniform = torch.rand(20000, 4, generator=torch.Generator().manual_seed(0))
    noise = -torch.log(-torch.log(uniform))
    for config, allowed in [
        (SampleConfig(), 4),
        (SampleConfig(temperature=0.5), 4),
        (SampleConfig(top_k=2), 2),
        (SampleConfig(top_p=0.6), 1),
        (SampleConfig(top_p=0.7), 2),
        (SampleConfig(temperature=0), 1),
    ]:
        drawn = choose(logits.expand(len(noise), -1), noise, config).bincount(minlength=4)
        expected = (logits[0] / (config.temperature or 1e-9)).softmax(0)
        expected[allowed:] = 0
        expected /= expected.sum()
        torch.testing.assert_close(drawn / len(noise), expected, atol=0.015, rtol=0)
        assert (drawn > 0).sum() == allowed


def test_nothing_to_draw_is_said(sampler: Sampler) -> None:
    with pytest.raises(UsageError, match="at least one prompt"):
        sampler.generate([], n=1)
    with pytest.raises(UsageError, match="-n 1 or more"):
        sampler.generate("a car", n=0)
