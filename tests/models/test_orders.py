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
    model, (text, codes) = lively(MODELS[name]), batch(3)
    raster = torch.arange(N).expand(3, -1)
    for one, other in zip(model(text, codes), model(text, codes, raster), strict=True):
        assert torch.equal(one, other)
    torch.manual_seed(1)
    plain = model.losses(text, codes, 0.3)
    torch.manual_seed(1)
    assert torch.equal(plain[1], model.losses(text, codes, 0.3, raster)[1])


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


@pytest.mark.parametrize("name", ["any order", "all in any order"])
def test_blocks_that_are_computed_twice_learn_the_same(name: str) -> None:
    (text, codes), orders = batch(3), shuffled(3)
    found: list[list[Tensor]] = []
    for again in (False, True):
        model = lively(MODELS[name]).train()
        model.recompute = again
        sum(model.losses(text, codes, 0.5, orders)).backward()  # type: ignore[union-attr]
        found.append([weight.grad for weight in model.parameters() if weight.grad is not None])
    assert len(found[0]) == len([*model.parameters()])
    assert all(grad.any() for grad in found[0]) and all(map(torch.equal, *found))
