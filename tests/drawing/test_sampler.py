"""Fast sampling equals slow sampling, and no picture depends on its neighbours."""

import itertools
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import KINDS, forced, lively_sampler

from dallebaby_cli.config import SampleConfig
from dallebaby_cli.drawing.half_precision import halve
from dallebaby_cli.drawing.next_code import choose, guidance_at, keys, noise
from dallebaby_cli.drawing.sampler import Sampler, first_rows
from dallebaby_cli.errors import UsageError
from dallebaby_cli.models import device as devices
from dallebaby_cli.models.block import Cache
from dallebaby_cli.models.tokenizers.image_tokenizer import GREY
from dallebaby_cli.models.transformer import Transformer

CPU = torch.device("cpu")
PROMPTS = ["a red car", "a blue house left of a green tree", ""]
SEEDS = [3, 4, 5]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@pytest.fixture(scope="session", params=KINDS.values(), ids=KINDS)
def sampler(request: pytest.FixtureRequest) -> Sampler:
    """One that predicts codes whole, one that does so in three digits, and one of two that are made
    of numbers; do not change them."""
    digits, numbers = request.param
    return lively_sampler(digits, numbers=numbers)


@torch.no_grad()
def slow_draw(
    sampler: Sampler, prompt: str, seed: int, config: SampleConfig, given: Sequence[int] = ()
) -> torch.Tensor:
    """One picture without cache or batch: a whole forward pass for every code that is not given."""
    shape = sampler.model.config
    noises = noise(keys([seed]), 0, shape.image_tokens, sum(shape.radices))
    text, empty = (
        torch.from_numpy(sampler.text_tokenizer.encode([p], shape.text_tokens))
        for p in (prompt, "")
    )
    codes = torch.zeros(1, shape.image_tokens, dtype=torch.int64)
    for number in range(shape.image_tokens):
        if number < len(given):
            codes[:, number] = given[number]
            continue
        rising = config.guidance_ramp * shape.image_tokens  # the codes until it is all there
        pull = config.guidance
        if number < rising:
            pull = 1 + number / rising * (config.guidance - 1)
        share = number / shape.image_tokens
        if config.guidance_power:
            angle = np.pi * share**config.guidance_power
            pull = 1 + (config.guidance - 1) * np.sin(angle / 2) ** 2
        if not config.guidance_interval[0] <= share < config.guidance_interval[1]:
            pull = 1
        code, first, place = 0, 0, 1
        for values in shape.radices:
            digit = slice(first, first + values)
            with devices.autocast(CPU, "auto"):
                logits = sampler.model(text, codes)[1][:, number, digit]
                without = sampler.model(empty, codes)[1][:, number, digit]
            if config.guidance != 1:
                logits = without + pull * (logits - without)
            chosen = choose(logits, noises[number][:, digit], config)
            codes[:, number] = code = code + place * int(chosen)
            first, place = first + values, place * values
    return codes.view(shape.grid, shape.grid)


@pytest.mark.parametrize(
    "config",
    [
        SampleConfig(guidance=1),
        SampleConfig(guidance=3),
        SampleConfig(guidance=2.5, temperature=0.7, top_k=20, top_p=0.9),
        SampleConfig(guidance=4, guidance_ramp=0.6),
        SampleConfig(guidance=5, guidance_power=1.5),
        SampleConfig(guidance=4, guidance_interval=(0.25, 0.75)),
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


@pytest.mark.precisions
@torch.inference_mode()
def test_cached_logits_are_the_uncached_ones_but_for_rounding(
    sampler: Sampler, precision: str
) -> None:
    """In bf16 a close choice may fall otherwise, so that logits are compared and not codes."""
    shape = sampler.model.config
    codes = sampler.draw(PROMPTS, SEEDS, SampleConfig(guidance=1)).flatten(1)
    text = torch.from_numpy(sampler.text_tokenizer.encode(PROMPTS, shape.text_tokens))
    for index in range(len(PROMPTS)):
        alone = sampler.draw(PROMPTS[index : index + 1], [SEEDS[index]], SampleConfig(guidance=1))
        assert torch.equal(alone.flatten(), codes[index]), "a picture's neighbours change nothing"
    with devices.autocast(CPU, precision):
        expected = sampler.model(text, codes)[1].float()
        cache = Cache(shape, len(text), expected.to(DTYPES[precision]))
        logits: list[torch.Tensor] = []
        none, first = torch.empty((1, 0), dtype=torch.int64), torch.zeros((1, 1), dtype=torch.int64)
        pick = forced(sampler.model, codes[:, 0], logits)
        sampler.model.ask(text, none, first, 0, cache, pick)
        for number in torch.arange(shape.image_tokens - 1).split(1):
            cache.codes[:, number] = codes[:, number]
            seen = shape.text_tokens + 2 + int(number)
            pick = forced(sampler.model, codes[:, int(number) + 1], logits)
            sampler.model.decode_one(number, cache, pick, seen, masked=False)
    off = (torch.stack(logits, dim=1).float() - expected).norm() / expected.norm()
    assert off < {"fp32": 1e-6, "bf16": 2**-7}[precision]


def test_halved_weights_in_bf16_draw_what_casting_them_draws(
    sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "native_bf16", lambda device: True)
    cast = sampler.draw(PROMPTS, SEEDS, SampleConfig())
    halved = deepcopy(sampler.model)
    halve(halved, CPU)
    assert halved.image_head.weight.dtype == torch.bfloat16
    assert torch.equal(replace(sampler, model=halved).draw(PROMPTS, SEEDS, SampleConfig()), cast)


def test_halved_weights_on_a_cpu_are_rounded_and_nothing_else(sampler: Sampler) -> None:
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("FBGEMM does not know this CPU, so weights stay as they are")
    halved, rounded = deepcopy(sampler.model), deepcopy(sampler.model)
    halve(halved, CPU)
    assert not any(isinstance(module, torch.nn.Linear) for module in halved.modules())
    for module in rounded.modules():
        if isinstance(module, torch.nn.Linear):
            module.half().float()
    fast, slow = replace(sampler, model=halved), replace(sampler, model=rounded)
    config = SampleConfig(guidance=2)
    drawn = fast.draw(PROMPTS, SEEDS, config)
    assert torch.equal(drawn, slow.draw(PROMPTS, SEEDS, config))
    for index, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
        assert torch.equal(drawn[index], slow_draw(fast, prompt, seed, config))


@pytest.mark.precisions
def test_guidance_one_is_no_guidance_and_more_of_it_changes_the_picture(sampler: Sampler) -> None:
    one = sampler.draw(PROMPTS, SEEDS, SampleConfig(guidance=1))
    almost = sampler.draw(PROMPTS, SEEDS, SampleConfig(guidance=1 + 1e-7))
    assert torch.equal(one, almost)  # the guided path, at a scale where it does nothing
    assert not torch.equal(one[:2], sampler.draw(PROMPTS, SEEDS, SampleConfig(guidance=4))[:2])
    alone = sampler.draw(PROMPTS[2:], SEEDS[2:], SampleConfig(guidance=4))
    assert torch.equal(one[2:], alone)  # an empty caption has nothing to be guided by


@pytest.mark.precisions
@pytest.mark.parametrize("ramp", [0, 1])
@pytest.mark.parametrize("best", [None, 3])
def test_pictures_do_not_depend_on_the_batch_size(
    sampler: Sampler, best: int | None, ramp: float
) -> None:
    big, small = (
        sampler.sketch(
            PROMPTS[:2], 5, 7, SampleConfig(batch_size=size, guidance_ramp=ramp), best=best
        )
        for size in (64, 4)
    )
    assert big.seeds == small.seeds and torch.equal(big.codes, small.codes)
    pictures = sampler.paint(big.codes)
    assert pictures.shape == (2 * (best or 5), 16, 16, 3) and pictures.dtype == np.uint8
    alone = SampleConfig(guidance_ramp=ramp)
    assert np.array_equal(pictures[-1], sampler.generate(PROMPTS[1], 1, big.seeds[-1], alone)[0])


@pytest.mark.slow  # the compiler
@pytest.mark.precisions
@pytest.mark.filterwarnings("ignore")  # it warns of much
def test_a_seed_draws_one_picture_in_any_batch_compiled_and_eager(sampler: Sampler) -> None:
    torch._dynamo.reset()
    compiled = replace(sampler, model=deepcopy(sampler.model), compiled=True)
    prompts, seeds = (PROMPTS * 22)[:64], range(64)
    expected = sampler.draw(prompts, seeds, SampleConfig(batch_size=64))
    for size in (1, 8, 64):
        for drawing, count in ((sampler, 64), (compiled, 8)):
            config = SampleConfig(batch_size=size)
            drawn = drawing.draw(prompts[:count], seeds[:count], config)
            assert torch.equal(drawn, expected[:count]), (size, drawing.compiled)
    torch._dynamo.reset()


@pytest.mark.precisions
@pytest.mark.parametrize(("guidance", "rows"), [(1, 3), (3, 6)])
def test_only_guidance_is_computed_twice(
    sampler: Sampler, monkeypatch: pytest.MonkeyPatch, guidance: float, rows: int
) -> None:
    """Rows of a step; with a ramp, too, whose pull is 1 at the first code alone."""
    read: list[int] = []
    predict = Transformer._predict

    def counted(model: Transformer, x: torch.Tensor, *more: object, **named: object) -> object:
        read.append(len(x))
        return predict(model, x, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Transformer, "_predict", counted)
    for ramp in (0, 0.5):
        sampler.draw(PROMPTS, SEEDS, SampleConfig(guidance=guidance, guidance_ramp=ramp))
    assert read == [rows] * 2 * sampler.model.config.image_tokens


@pytest.mark.precisions
def test_a_ramp_begins_without_guidance_and_changes_pictures(sampler: Sampler) -> None:
    ramped = sampler.draw(PROMPTS, SEEDS, SampleConfig(guidance=6, guidance_ramp=1))
    free = sampler.draw(PROMPTS, SEEDS, SampleConfig(guidance=1))
    assert torch.equal(ramped[:, 0, 0], free[:, 0, 0])
    assert not torch.equal(ramped, free)
    assert not torch.equal(ramped, sampler.draw(PROMPTS, SEEDS, SampleConfig(guidance=6)))


def test_guidance_of_an_interval_and_along_a_cosine() -> None:
    middle = SampleConfig(guidance=3, guidance_interval=(0.25, 0.75))
    assert [guidance_at(n / 4, middle) for n in range(4)] == [1, 3, 3, 1]
    rising = SampleConfig(guidance=5, guidance_power=1)
    expected = [1, 1 + 4 * (1 - 0.5**0.5) / 2, 3, 1 + 4 * (1 + 0.5**0.5) / 2]
    assert [guidance_at(n / 4, rising) for n in range(4)] == pytest.approx(expected)
    late = SampleConfig(guidance=5, guidance_power=2)
    assert all(guidance_at(n / 8, late) < guidance_at(n / 8, rising) for n in range(1, 8))
    assert [guidance_at(n / 4, SampleConfig(guidance=2)) for n in range(4)] == [2] * 4
    for wrong in ({"guidance_interval": (0.5, 0.5)}, {"guidance_interval": (0.5,)}):
        with pytest.raises(UsageError, match=r"guidance_interval=\(0.5.*the lower one first"):
            SampleConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="guidance_power=1: is one rise, guidance_ramp another"):
        SampleConfig(guidance_power=1, guidance_ramp=1)


@torch.no_grad()
def log_likelihood(sampler: Sampler, prompt: str, codes: torch.Tensor) -> float:
    """log p(codes | prompt), summed code by code in double precision."""
    ids = sampler.text_tokenizer.encode([prompt], sampler.model.config.text_tokens)
    with devices.autocast(CPU, "auto"):
        logits = sampler.model(torch.from_numpy(ids), codes.view(1, -1))[1][0].double().numpy()
    total, left = 0.0, codes.flatten().numpy()
    for values in sampler.model.config.radices:
        chances = np.exp(logits[:, :values]) / np.exp(logits[:, :values]).sum(1, keepdims=True)
        total += sum(np.log(row[d]) for row, d in zip(chances, left % values, strict=True))
        logits, left = logits[:, values:], left // values
    return total


@pytest.mark.precisions
def test_best_keeps_the_candidates_that_their_prompt_makes_likeliest(sampler: Sampler) -> None:
    n, best, seed = 8, 2, 11
    config = SampleConfig(guidance=1.5)
    kept = sampler.sketch(PROMPTS[:2], n, seed, config, best=best)
    all_of_them = sampler.sketch(PROMPTS[:2], n, seed, config)
    for number, prompt in enumerate(PROMPTS[:2]):
        part = slice(number * n, (number + 1) * n)
        scores = {
            candidate: log_likelihood(sampler, prompt, codes) - log_likelihood(sampler, "", codes)
            for candidate, codes in zip(
                all_of_them.seeds[part], all_of_them.codes[part], strict=True
            )
        }
        expected = sorted(scores, key=lambda candidate: -scores[candidate])[:best]
        assert kept.seeds[number * best : (number + 1) * best] == expected
        given = sampler.score([prompt] * n, all_of_them.codes[part])
        assert given.tolist() == pytest.approx(list(scores.values()), abs=1e-3)
    drawn = dict(zip(all_of_them.seeds, all_of_them.codes, strict=True))
    for candidate, codes in zip(kept.seeds, kept.codes, strict=True):
        assert torch.equal(codes, drawn[candidate])


@pytest.mark.precisions
@pytest.mark.parametrize("rows", [1, 3])
def test_kept_rows_stay_and_the_rest_follows_from_them(sampler: Sampler, rows: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    kept = sampler.encode(picture)[:rows]
    config = SampleConfig(guidance=2)
    drawn = sampler.draw(PROMPTS, SEEDS, config, first_rows(kept))
    assert torch.equal(drawn[:, :rows], kept.expand(len(PROMPTS), -1, -1))
    for index, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
        alone = slow_draw(sampler, prompt, seed, config, kept.flatten().tolist())
        assert torch.equal(drawn[index], alone)
    assert not torch.equal(drawn, sampler.draw(PROMPTS, SEEDS, config))


def test_what_is_not_drawn_yet_is_grey(sampler: Sampler) -> None:
    codes = sampler.draw(PROMPTS, SEEDS, SampleConfig())
    whole = sampler.image_tokenizer.decode(codes).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(sampler.paint(codes), whole)

    def first(count: int) -> np.ndarray:
        return sampler.paint(codes, (torch.arange(16) < count).view(4, 4).expand(3, 4, 4))

    assert np.array_equal(first(16), whole)
    half = first(6)  # a row of four codes of 4 x 4 pixels each, and two more
    assert (half[:, 8:] == GREY).all() and (half[:, 4:8, 8:] == GREY).all()
    assert (half[:, :4] != GREY).any() and (half[:, 4:8, :8] != GREY).any()
    assert (first(0) == GREY).all()


@pytest.mark.precisions
def test_four_captioned_pictures_can_be_learned_by_heart(sampler: Sampler) -> None:
    captions = ["a red car", "a blue house", "a green tree", "a blue car left of a red tree"]
    torch.manual_seed(0)
    model = Transformer(sampler.model.config)
    codes = torch.randint(0, model.config.codes, (4, model.config.image_tokens))
    text = torch.from_numpy(sampler.text_tokenizer.encode(captions, model.config.text_tokens))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(60):
        _, loss = model.losses(text, codes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    learned = replace(sampler, model=model.eval())
    config = SampleConfig(temperature=0, guidance=1)
    assert torch.equal(learned.draw(captions, range(4), config).flatten(1), codes)


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


def split_mix_64(state: int) -> int:
    """The next output of the textbook's generator (Steele, Lea & Flood 2014) in that state."""
    z = (state + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1])
def test_noise_is_the_textbooks_generator_at_each_place(seed: int) -> None:
    key, codes = split_mix_64(seed), 7
    found = noise(keys([seed, 5]), 3, 5, codes)
    for place, code in itertools.product((3, 4), range(codes)):
        random = split_mix_64(key + (place * codes + code) * 0x9E3779B97F4A7C15)
        uniform = ((random >> 41) + 0.5) / 2**23
        assert found[place - 3, 0, code].item() == pytest.approx(
            -np.log(-np.log(uniform)), rel=1e-5, abs=1e-6
        )
    assert torch.equal(found[1:, 1:], noise(keys([5]), 4, 5, codes))


def test_noise_is_even_and_never_infinite() -> None:
    many = noise(keys(range(64)), 0, 16, 1000)
    assert many.isfinite().all()
    uniform = torch.exp(-torch.exp(-many.double()))
    counts = torch.histc(uniform, 100, 0, 1)
    assert ((counts - counts.mean()).square() / counts.mean()).sum() < 160, "chi-square, 99 degrees"
    rows = uniform - 0.5
    for shift in (1, 64):  # along codes, and along pictures and places
        a, b = rows.flatten()[:-shift], rows.flatten()[shift:]
        assert abs((a * b).mean() * 12) < 0.005


def test_large_seeds_draw_pictures(sampler: Sampler) -> None:
    sketch = sampler.sketch("a red car", n=2, seed=2**63 - 1)
    assert sketch.seeds == [2**63 - 1, 2**63]
    assert not torch.equal(*sketch.codes)
