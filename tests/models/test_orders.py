"""Codes in any order: what a position is told, what each prediction sees, and passes that ask for
several codes at a time."""

from dataclasses import replace

import pytest
import torch
from conftest import forced
from models.test_models import MODELS, SHAPE, batch, lively, textbook
from torch import Tensor

from dallebaby_cli.models.block import Cache
from dallebaby_cli.models.places import places_near
from dallebaby_cli.models.transformer import Transformer

ANY = [name for name, shape in MODELS.items() if shape.any_order]
N, T = SHAPE.image_tokens, SHAPE.text_tokens


@pytest.fixture(params=ANY)
def model(request: pytest.FixtureRequest) -> Transformer:
    return lively(MODELS[request.param])


def shuffled(size: int) -> Tensor:
    """Orders (B, N), each another one."""
    return torch.rand(size, N).argsort(1)


Pass = tuple[Tensor, Tensor, Tensor, int, int]
"""Codes (B, N + 1) that are known, the order (B, a) of their places, places (B, m) that are asked
for, positions that are filled, and how many positions read and ask."""


def at_once(model: Transformer, text: Tensor, passes: list[Pass]) -> Tensor:
    """What the places of the last pass are predicted from (B, m, D), without a cache: the positions
    of all passes at once, of which each sees those of the passes before it."""
    parts, turns, hidden = [], [], torch.empty((0, 0), dtype=torch.bool)
    for number, (codes, order, targets, filled, asking) in enumerate(passes):
        x, turned = model._inputs(text, codes, order, targets, filled, asking)
        last, new = (
            model.config.text_tokens + order.shape[1],
            torch.arange(filled, filled + x.shape[1]),
        )
        if number + 1 < len(passes):  # copies leave nothing behind
            new = new[: last + 1 - filled]
        parts.append(x[:, : len(new)])
        turns.append(turned[..., : len(new), :])
        own = torch.ones((len(new), len(new)), dtype=torch.bool)
        for i, query in enumerate(new.tolist()):
            for j, key in enumerate(new.tolist()):
                if query > last:
                    own[i, j] = key != query and key >= last
                else:
                    own[i, j] = key > (last if query > last - asking else query)
        before = torch.zeros((len(new), len(hidden)), dtype=torch.bool)
        hidden = torch.cat((torch.cat((hidden, ~before.mT), 1), torch.cat((before, own), 1)))
    x = torch.cat(parts, dim=1)
    cache = Cache(model.config, len(x), torch.empty(0))
    cache.keys = [
        keys.new_zeros((*keys.shape[:2], x.shape[1], keys.shape[3])) for keys in cache.keys
    ]
    cache.values = [torch.zeros_like(keys) for keys in cache.keys]
    past = cache.past(torch.arange(x.shape[1]), x.shape[1], hidden, False)
    asked = passes[-1][2].shape[1]
    return model.norm(model._run(x, torch.cat(turns, dim=-2), past)[:, -asked:])


def test_the_eight_around_are_told_and_more_where_more_are() -> None:
    near = places_near(3, 3, any_order=True)
    assert near[4].tolist() == [0, 1, 2, 3, 8, 7, 6, 5]
    assert near[0].tolist() == [9, 9, 9, 9, 4, 3, 9, 1], "9 is outside"
    counts = [places_near(5, count, any_order=True).shape[1] for count in (3, 4, 5, 11)]
    assert counts == [8, 10, 12, 24]
    assert sorted(places_near(5, 11, any_order=True)[12].tolist()) == [*range(12), *range(13, 25)]


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_raster_order_that_is_spelt_out_is_raster_order_bit_for_bit(name: str) -> None:
    model, (text, codes) = lively(MODELS[name]), batch(3, MODELS[name])
    raster = torch.arange(codes.shape[1]).expand(3, -1)
    for one, other in zip(model(text, codes), model(text, codes, raster), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(model.losses(text, codes)[1], model.losses(text, codes, raster)[1])


@torch.no_grad()
def test_the_forward_pass_in_an_order_is_the_textbooks(model: Transformer) -> None:
    (text, codes), orders = batch(2), shuffled(2)
    found = model(text, codes, orders)
    for number, order in enumerate(orders.tolist()):
        expected = textbook(model, text[number].tolist(), codes[number].tolist(), order)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours[number], theirs, atol=1e-4, rtol=1e-4)
    logits, in_order = found[1], codes.gather(1, orders)
    nats = torch.zeros(())
    for values in model.config.radices:
        logp = logits[..., :values].log_softmax(-1)
        nats = nats - logp.gather(2, (in_order % values)[..., None]).sum()
        logits, in_order = logits[..., values:], in_order // values
    loss = model.losses(text, codes, order=orders)[1]
    torch.testing.assert_close(loss, nats / codes.numel(), atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_no_prediction_in_an_order_sees_its_answer_or_what_follows(model: Transformer) -> None:
    (text, codes), orders = batch(2), shuffled(2)
    before = model(text, codes, orders)[1][..., : model.config.radices[0]]  # of the first digit
    for number in range(N):
        at = orders[:, number, None]
        changed = codes.scatter(1, at, (codes.gather(1, at) + 1) % SHAPE.codes)
        after = model(text, changed, orders)[1][..., : model.config.radices[0]]
        torch.testing.assert_close(after[:, : number + 1], before[:, : number + 1])
        if number + 1 < N:
            assert not torch.allclose(after[:, number + 1], before[:, number + 1])


@torch.no_grad()
@pytest.mark.parametrize(
    ("known", "sizes"), [(0, [9]), (0, [1, 2, 3, 3]), (0, [1] * 9), (2, [3, 4]), (2, [1] * 7)]
)
@pytest.mark.parametrize("again", [False, True])
def test_cached_passes_in_an_order_are_the_whole_forward_pass(
    model: Transformer, known: int, sizes: list[int], again: bool
) -> None:
    """Each pass's first code is what the sequence in that order predicts, and each other one what
    one predicts in which it comes next. Where `again`, the first one's position is made anew."""
    (text, codes), orders = batch(3), shuffled(3)
    cache, filled = Cache(model.config, 3, torch.empty(0)), 0
    cache.codes.scatter_(1, orders[:, :known], codes.gather(1, orders[:, :known]))
    for size in sizes:
        asked = orders[:, known : known + size]
        logits: list[Tensor] = []
        pick = forced(model, codes.gather(1, asked).flatten(), logits)
        found = model.ask(text, orders[:, :known], asked, filled, cache, pick)
        assert torch.equal(found, codes.gather(1, asked))
        for which in range(size):
            order = orders.clone()  # the one in which this place comes first
            order[:, known], order[:, known + which] = orders[:, known + which], orders[:, known]
            expected = model(text, codes, order)[1][:, known]
            mine = logits[0].view(3, size, -1)[:, which]
            torch.testing.assert_close(mine, expected, atol=1e-4, rtol=1e-4)
        cache.codes.scatter_(1, asked, found)
        filled, known = T + known + (not again), known + size
    assert known == N


@torch.no_grad()
@pytest.mark.parametrize(("known", "sizes"), [(0, [1, 2, 3, 3]), (2, [3, 4]), (0, [2, 1, 2, 4])])
def test_positions_that_read_and_ask_do_the_same_without_a_cache(
    model: Transformer, known: int, sizes: list[int]
) -> None:
    (text, codes), orders = batch(3), shuffled(3)
    cache, filled, asking = Cache(model.config, 3, torch.empty(0)), 0, 1
    cache.codes.scatter_(1, orders[:, :known], codes.gather(1, orders[:, :known]))
    passes: list[Pass] = []
    for size in sizes:
        order, asked = orders[:, :known], orders[:, known : known + size]
        asking = min(asking, size)
        logits: list[Tensor] = []
        pick = forced(model, codes.gather(1, asked).flatten(), logits)
        passes.append((cache.codes.clone(), order, asked, filled, asking))
        model.ask(text, order, asked, filled, cache, pick, asking)
        expected = model._logits(0, at_once(model, text, passes)).flatten(0, 1)
        torch.testing.assert_close(
            logits[0][:, : expected.shape[-1]], expected, atol=1e-4, rtol=1e-4
        )
        cache.codes.scatter_(1, asked, codes.gather(1, asked))
        filled, known, asking = T + 1 + known, known + size, size


@torch.no_grad()
def test_who_reads_and_asks_is_told_what_one_is_that_reads_its_code_last(
    model: Transformer,
) -> None:
    (text, codes), orders = batch(3), shuffled(3)
    known = torch.nn.functional.pad(codes, (0, 1), value=model.config.codes)
    order, targets = orders[:, :5], orders[:, 5:]
    found, turned = model._inputs(text, known, order, targets, 0, 3)
    assert found.shape[1] == T + 1 + 5 + 1, "one target more than positions that ask"
    for which in range(3):
        swapped = order.clone()
        swapped[:, 2 + which], swapped[:, 4] = order[:, 4], order[:, 2 + which]
        alone, turns = model._inputs(text, known, swapped, targets[:, which, None], 0)
        torch.testing.assert_close(found[:, T + 3 + which], alone[:, -1])
        assert torch.equal(turned[..., T + 3 + which, :], turns[..., -1, :])


@torch.no_grad()
def test_one_order_for_all_is_each_ones(model: Transformer) -> None:
    (text, codes), order = batch(3), shuffled(1)
    logits: list[list[Tensor]] = [[], []]
    for orders, found in zip((order, order.expand(3, -1)), logits, strict=True):
        cache = Cache(model.config, 3, torch.empty(0))
        cache.codes[:, order[0, :4]] = codes[:, order[0, :4]]
        pick = forced(model, codes[:, order[0, 4:]].flatten(), found)
        model.ask(text, orders[:, :4], orders[:, 4:], 0, cache, pick)
    torch.testing.assert_close(logits[0][0], logits[1][0])


def test_an_order_of_another_shape_or_type_is_refused() -> None:
    model, (text, codes) = lively(SHAPE), batch(2)
    with pytest.raises(ValueError, match=r"order must be int64 \(B, 9\), not int64 \(2, 8\)"):
        model(text, codes, torch.zeros((2, 8), dtype=torch.int64))


def test_a_model_of_raster_order_has_the_weights_that_it_had() -> None:
    names = {name: tuple(weight.shape) for name, weight in Transformer(SHAPE).state_dict().items()}
    assert "unknown.weight" not in names
    assert names["above_embedding.weight"] == (3 * (SHAPE.codes + 1), SHAPE.dim)
    more = Transformer(replace(SHAPE, any_order=True)).state_dict()
    assert more.keys() == names.keys() | {"unknown.weight"}
    assert more["unknown.weight"].shape == (SHAPE.dim, 8)


@pytest.mark.parametrize("name", ANY)
def test_blocks_that_are_computed_twice_learn_the_same(name: str) -> None:
    (text, codes), orders = batch(3), shuffled(3)
    found: list[list[Tensor]] = []
    for again in (False, True):
        model = lively(MODELS[name]).train()
        model.recompute = again
        sum(model.losses(text, codes, orders)).backward()  # type: ignore[union-attr]
        found.append([weight.grad for weight in model.parameters() if weight.grad is not None])
    assert len(found[0]) == len([*model.parameters()])
    assert all(grad.any() for grad in found[0]) and all(map(torch.equal, *found))
