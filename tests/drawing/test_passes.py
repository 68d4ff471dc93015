"""Pictures in a few passes, and around what is known: as if each pass read all of it again."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import KINDS, lively_sampler
from models.test_orders import Pass, at_once

from dallebaby_cli.config import SampleConfig
from dallebaby_cli.drawing import fitting, passes
from dallebaby_cli.drawing.next_code import choose, guidance_at, keys, noise, noise_at
from dallebaby_cli.drawing.sampler import Sampler, first_rows
from dallebaby_cli.errors import UsageError
from dallebaby_cli.models.places import diagonals

PROMPTS = ["a red car", "a blue house left of a green tree", ""]
SEEDS = [3, 4, 5]
N = 16


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def sampler(request: pytest.FixtureRequest) -> Sampler:
    """One that knows any order; do not change it."""
    digits, numbers = request.param
    return lively_sampler(digits, numbers=numbers, any_order=True)


def around(count: int) -> torch.Tensor:
    """So many known codes (3, 4, 4) of each picture, others of each one."""
    torch.manual_seed(count)
    codes = torch.randint(0, 240, (3, N))
    return codes.where(torch.rand(3, N).argsort(1) < count, -1).view(3, 4, 4)


@torch.no_grad()
def slow_draw(
    sampler: Sampler, prompt: str, seed: int, config: SampleConfig, known: Sequence[int]
) -> torch.Tensor:
    """One picture without cache or batch: for every pass, all passes again (`at_once`); one of
    `known` that is -1 is drawn."""
    model, shape, key = sampler.model, sampler.model.config, keys([seed])
    text = torch.from_numpy(sampler.text_tokenizer.encode([prompt, ""], shape.text_tokens))
    order = passes.reading_order(torch.tensor([known]), config)
    codes = torch.tensor([[*known, -1]] * 2)
    codes[codes < 0] = shape.codes
    surest = config.steps is not None and config.order == "confidence"
    done: list[Pass] = []
    filled, before = 0, 1
    decided = passes.counts(N, sum(code >= 0 for code in known), config)
    for count, after in itertools.pairwise(decided):
        stop = min(N, count + 2 * (after - count)) if surest else after
        asked, pull = order[:, count:stop].clone(), guidance_at(count / N, config)
        both = asked.expand(2, -1)
        asking = min(before, stop - count)
        done.append((codes.clone(), order[:, :count].expand(2, -1).clone(), both, filled, asking))
        sure = torch.zeros(stop - count)
        places = asked[0].tolist()
        random = torch.cat([noise(key, p, p + 1, sum(shape.radices))[0] for p in places])
        parts = torch.split(random, [*shape.radices], dim=-1)

        def pick(
            digit: int,
            logits: torch.Tensor,
            parts: tuple[torch.Tensor, ...] = parts,
            pull: float = pull,
            sure: torch.Tensor = sure,
        ) -> torch.Tensor:
            with_prompt, without = logits.chunk(2)
            mixed = (
                with_prompt if config.guidance == 1 else without + pull * (with_prompt - without)
            )
            chosen = choose(mixed, parts[digit], config)
            sure += mixed.log_softmax(-1).gather(1, chosen[:, None])[:, 0]
            return chosen.repeat(2)

        rows = at_once(model, text, done)
        found = model._spell(rows.flatten(0, 1), pick).view(2, -1)[0]
        if surest:
            chance = noise_at(~key[:, None], asked, 1).flatten()
            best = (sure + passes.CHANCE * (1 - count / N) * chance).argsort(descending=True)
            found, asked = found[best], asked[:, best]
            order[:, count:stop] = asked
        codes[:, asked[0, : after - count]] = found[: after - count]
        filled, before = shape.text_tokens + 1 + count, after - count
    return codes[0, :-1].view(4, 4)


CONFIGS = [
    SampleConfig(steps=5),
    SampleConfig(steps=9, order="halton"),  # some ask for fewer than the one before decided
    SampleConfig(steps=8),  # along diagonals, from two corners where nothing is known
    SampleConfig(steps=3, order="diagonal", guidance=2),
    SampleConfig(steps=3, guidance=1, temperature=0.7, top_k=20),
    SampleConfig(steps=4, order="raster", guidance_ramp=0.6),
    SampleConfig(steps=1, temperature=0),
    SampleConfig(steps=4, order="confidence", guidance=2),
    SampleConfig(steps=6, order="confidence", guidance=1),
]


@pytest.mark.parametrize("known", [0, 7])
@pytest.mark.parametrize("config", CONFIGS)
def test_passes_draw_what_reading_all_anew_does(
    sampler: Sampler, config: SampleConfig, known: int
) -> None:
    given = around(known)
    together = sampler.draw(PROMPTS, SEEDS, config, given)
    assert torch.equal(together.where(given >= 0, -1), given), "what is known stays"
    for index, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
        alone = slow_draw(sampler, prompt, seed, config, given[index].flatten().tolist())
        assert torch.equal(together[index], alone), index


@pytest.mark.parametrize("order", ["diagonal", "halton", "confidence", "raster"])
def test_a_code_is_drawn_around_others_one_after_the_other(sampler: Sampler, order: str) -> None:
    """Without `steps`, in raster order, whatever the order of passes would be."""
    config, given = SampleConfig(order=order), around(9)  # type: ignore[arg-type]
    drawn = sampler.draw(PROMPTS, SEEDS, config, given)
    slow = slow_draw(sampler, PROMPTS[0], SEEDS[0], config, given[0].flatten().tolist())
    assert torch.equal(drawn[0], slow)
    steps = SampleConfig(steps=7, order="raster")
    assert torch.equal(drawn, sampler.draw(PROMPTS, SEEDS, steps, given))


@pytest.mark.parametrize("rows", [0, 2])
@pytest.mark.parametrize(
    "config", [SampleConfig(), SampleConfig(guidance=1), SampleConfig(guidance_power=1, top_p=0.9)]
)
def test_a_code_a_pass_in_raster_order_is_raster_order(
    sampler: Sampler, config: SampleConfig, rows: int
) -> None:
    known = first_rows(torch.arange(4 * rows).view(rows, 4)) if rows else None
    plain = sampler.draw(PROMPTS, SEEDS, config, known)
    passes_ = replace(config, steps=N, order="raster")
    assert torch.equal(plain, sampler.draw(PROMPTS, SEEDS, passes_, known))


@pytest.mark.precisions
@pytest.mark.parametrize("order", ["diagonal", "halton", "confidence"])
@pytest.mark.parametrize("known", [0, 6])
def test_pictures_do_not_depend_on_the_batch(sampler: Sampler, order: str, known: int) -> None:
    given = around(known).repeat(3, 1, 1)
    drawn = [
        sampler.draw(
            PROMPTS * 3, range(9), SampleConfig(steps=6, batch_size=size, order=order), given
        )  # type: ignore[arg-type]
        for size in (9, 4, 1)
    ]
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], drawn[2])
    assert len(drawn[0].unique(dim=0)) == 9


def test_each_moment_decides_codes_and_changes_none(sampler: Sampler) -> None:
    given, config = around(5), SampleConfig(steps=4, order="confidence", batch_size=2)
    moments = list(sampler.stream(PROMPTS, SEEDS, config, given))
    end = sampler.draw(PROMPTS, SEEDS, config, given)
    counts = sampler.moments(config, 5)
    assert counts[0] == 5 and counts[-1] == N and len(counts) == 5
    for first, size in ((0, 2), (2, 1)):
        batch = [moment for moment in moments if moment.first == first]
        assert [moment.count for moment in batch] == counts
        for before, moment in itertools.pairwise(batch):
            assert (moment.known >= before.known).all()
        for moment in batch:
            assert (moment.known.flatten(1).sum(1) == moment.count).all()
            now = end[first : first + size].where(moment.known, 0)
            assert torch.equal(moment.codes, now)
        assert batch[-1].finished and not batch[-2].finished


def test_a_sketch_keeps_what_is_known_of_each_picture(sampler: Sampler) -> None:
    given, config = around(4).repeat(2, 1, 1), SampleConfig(steps=3, batch_size=4)
    sketch = sampler.sketch(PROMPTS[:2], 3, 7, config, best=1, known=given)
    assert sketch.codes.shape == (2, 4, 4)
    for codes, seed in zip(sketch.codes, sketch.seeds, strict=True):
        own = given[seed - 7]
        assert torch.equal(codes.where(own >= 0, -1), own)


def test_all_known_is_nothing_to_draw(sampler: Sampler) -> None:
    given = around(N)
    for config in (
        SampleConfig(),
        SampleConfig(steps=3),
        SampleConfig(steps=3, order="confidence"),
    ):
        assert [m.finished for m in sampler.stream(PROMPTS, SEEDS, config, given)] == [True]
        assert torch.equal(sampler.draw(PROMPTS, SEEDS, config, given), given)


def test_more_passes_than_codes_are_left_are_one_each(sampler: Sampler) -> None:
    given = around(13)
    assert sampler.moments(SampleConfig(steps=8), 13) == [13, 14, 15, 16]
    few, many = (sampler.draw(PROMPTS, SEEDS, SampleConfig(steps=s), given) for s in (3, 8))
    assert torch.equal(few, many)


def test_what_a_model_of_raster_order_cannot_draw_is_said() -> None:
    raster, given = lively_sampler(), around(5)
    with pytest.raises(UsageError, match="--steps 4: this model learned raster order alone, in wh"):
        raster.draw(PROMPTS, SEEDS, SampleConfig(steps=4))
    with pytest.raises(UsageError, match="can only go on from the top rows of a picture; keep"):
        raster.draw(PROMPTS, SEEDS, SampleConfig(), given)
    with pytest.raises(UsageError, match="--steps 17: this model's pictures have 16 codes, so"):
        raster.draw(PROMPTS, SEEDS, SampleConfig(steps=17))
    with pytest.raises(ValueError, match="as many codes must be known of each picture"):
        raster.draw(PROMPTS, SEEDS, SampleConfig(), torch.cat((given[:2], around(6)[:1])))


@pytest.mark.parametrize("grid", [1, 2, 3, 5, 8, 12, 16])
def test_haltons_places_are_all_and_far_apart(grid: int) -> None:
    order = passes.halton(grid)
    assert sorted(order) == [*range(grid**2)]
    if grid >= 8:
        for parts, count in ((2, 8), (4, 32)):  # a part has a place before others have many
            cells = [divmod(place, grid) for place in order[:count]]
            held = Counter((parts * row // grid, parts * column // grid) for row, column in cells)
            assert len(held) == parts**2 and max(held.values()) <= 4


@pytest.mark.parametrize("grid", [1, 2, 3, 5, 8, 12, 16])
def test_along_diagonals_most_of_what_lies_above_is_known(grid: int) -> None:
    """Or most of what lies below, where a picture is drawn from its last place, too."""
    for number in range(1, grid**2 + 1):
        found = tuple(diagonals(grid, number).tolist())
        assert {*found} == {*range(number)}, "none decides nothing"
        rows = [found[start : start + grid] for start in range(0, grid**2, grid)]
        both = grid <= number < 2 * grid - 1
        if both:
            assert found == found[::-1]
            rows = [row[: row.index(max(row))] for row in rows]
        assert all([*row] == sorted(row) for row in rows)
        if number >= grid + 2 * (grid - 1):
            for above, below in itertools.pairwise(rows):
                assert all(a < b for a, b in zip(above[1:], below, strict=False))
    assert (diagonals(grid, grid**2) == np.arange(grid**2)).all()


@pytest.mark.parametrize("grid", [4, 8, 16])
def test_no_two_codes_side_by_side_are_drawn_in_one_pass(grid: int) -> None:
    """In as many passes as there are columns, or diagonals."""
    for number in (grid, 2 * grid - 1):
        found = diagonals(grid, number).reshape(grid, grid)
        assert (np.diff(found, axis=0) != 0).all() and (np.diff(found, axis=1) != 0).all()


@pytest.mark.parametrize("order", ["auto", "diagonal", "halton"])
@pytest.mark.parametrize(("whole", "given"), [(64, 0), (64, 13), (256, 0), (9, 8), (4, 4)])
def test_every_pass_decides_some(whole: int, given: int, order: str) -> None:
    for steps in (*range(1, whole - given + 1), None):
        config = SampleConfig(steps=steps, order=order)  # type: ignore[arg-type]
        counts = passes.counts(whole, given, config)
        sizes = [after - count for count, after in itertools.pairwise(counts)]
        assert counts[0] == given and counts[-1] == whole
        assert len(sizes) == min(steps or whole, whole - given) and min(sizes, default=1) >= 1
    apart = SampleConfig(steps=8, order="halton")
    assert passes.counts(64, 0, apart) == [0, 1, 5, 11, 19, 28, 40, 52, 64]
    assert passes.counts(64, 0, SampleConfig(steps=8)) == [0, 2, 6, 12, 20, 30, 42, 56, 64]
    assert passes.counts(64, 48, SampleConfig(steps=8)) == [*range(48, 65, 2)]
    assert passes.counts(9, 0, SampleConfig(steps=5)) == [0, 1, 3, 6, 8, 9]
    assert passes.counts(64, 0, SampleConfig()) == [*range(65)]


def test_what_is_held_in_passes_is_counted(sampler: Sampler) -> None:
    shape = replace(sampler.model.config, grid=16)
    plain, few, surest = (
        fitting._each(shape, config)
        for config in (
            SampleConfig(),
            SampleConfig(steps=2),
            SampleConfig(steps=2, order="confidence"),
        )
    )
    assert plain < few < surest
