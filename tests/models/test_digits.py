"""Codes as digits: there and back, which codes are predicted so, and what a model makes of them."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dallebaby_cli.config import TransformerConfig, usual_digits, usual_numbers
from dallebaby_cli.config.settings import load
from dallebaby_cli.errors import UsageError
from dallebaby_cli.models.digits import join, split
from dallebaby_cli.models.tokenizers.quantizers import FSQ
from dallebaby_cli.models.transformer import Transformer
from dallebaby_cli.training import optim

RADICES = st.lists(st.integers(2, 9), min_size=1, max_size=5).map(tuple)
LEVELS = st.lists(st.integers(5, 40), min_size=1, max_size=6).map(tuple)
SHAPE = TransformerConfig(
    text_tokens=3, vocabulary=300, dim=16, depth=1, heads=2, dropout=0, codes=25, grid=1
)


@given(RADICES)
@settings(deadline=None, max_examples=50)
def test_codes_and_digits_are_one_to_one(radices: tuple[int, ...]) -> None:
    codes = torch.arange(math.prod(radices))
    digits = split(codes, radices)
    for place, (digit, radix) in enumerate(zip(digits, radices, strict=True)):
        assert torch.equal(digit, codes // math.prod(radices[:place]) % radix)
        assert len(digit.unique()) == radix
    assert torch.equal(join(digits, radices), codes)
    after = [int(digit) for digit in split(torch.tensor(len(codes)), radices)]
    assert after == [0] * (len(radices) - 1) + [radices[-1]]


@given(LEVELS)
@settings(deadline=None, max_examples=50)
def test_digits_are_neighbouring_levels_together(levels: tuple[int, ...]) -> None:
    digits = usual_digits(levels)
    if math.prod(levels) <= 8192 or len(levels) == 1:
        assert digits == ()
        return
    assert math.prod(digits) == math.prod(levels) and 1 < len(digits) <= len(levels)
    ends = {math.prod(levels[:number]) for number in range(len(levels) + 1)}
    assert {math.prod(digits[:number]) for number in range(len(digits) + 1)} <= ends
    assert max(digits) <= 8192


@pytest.mark.parametrize(
    ("levels", "digits"),
    [
        ((8, 5, 5, 5), ()),
        ((8, 8, 128), ()),  # 8,192 of them
        ((8, 8, 8, 8), ()),
        ((16, 8, 8, 16), (128, 128)),
        ((7, 5, 5, 5, 5), ()),
        ((7, 5, 5, 5, 5, 5), (175, 125)),
        ((8, 8, 8, 5, 5, 5), (512, 125)),
        ((40, 40, 40), (40, 1600)),
        ((90, 90, 3), (90, 270)),
        ((5, 8000, 6), (5, 8000, 6)),
        ((5, 9000), (5, 9000)),  # it cannot be divided
        ((9000,), ()),
        ((), ()),  # of no numbers, as in a learned codebook
    ],
)
def test_few_digits_of_few_values(levels: tuple[int, ...], digits: tuple[int, ...]) -> None:
    assert usual_digits(levels) == digits


@given(LEVELS)
@settings(deadline=None, max_examples=20)
def test_a_digit_tells_some_of_a_codes_numbers_and_nothing_else(levels: tuple[int, ...]) -> None:
    levels = levels[: next((n for n in range(1, 7) if math.prod(levels[: n + 1]) > 65536), 6)]
    codes = torch.randint(math.prod(levels), (1, 1, 500))
    vectors = FSQ(levels).lookup(codes)[0, :, 0]
    first = 0
    digits = usual_digits(levels) or (math.prod(levels),)
    for digit, values in zip(split(codes.flatten(), digits), digits, strict=True):
        count = next(n for n in range(7) if math.prod(levels[first : first + n]) == values)
        part = FSQ(levels[first : first + count]).lookup(digit.view(1, 1, -1))[0, :, 0]
        assert torch.equal(part, vectors[first : first + count])
        first += count


def test_digits_that_do_not_make_the_codes_are_refused() -> None:
    with pytest.raises(UsageError, match=r"model.digits=\(8, 5\): .*codes=1,000"):
        load("train", settings=("model.digits=[8,5]",))
    assert load("train", settings=("model.codes=40", "model.digits=[8,5]")).model.radices == (8, 5)


def test_a_model_of_whole_codes_is_the_one_it_was() -> None:
    """What older versions saved, it loads."""
    model = Transformer(SHAPE)
    blocks = ("attention_norm", "qkv", "query_key_norm", "attention_out", "mlp_norm", "mlp_in")
    assert model.state_dict().keys() == {
        *(f"{name}_embedding.weight" for name in ("text", "image", "above", "place")),
        *(f"blocks.0.{name}.weight" for name in (*blocks, "mlp_out")),
        *("norm.weight", "text_head.weight", "image_head.weight"),
    }
    assert model.image_embedding.weight.shape == (25, 16)
    assert model.above_embedding.weight.shape == (3 * 26, 16)


@torch.no_grad()
@pytest.mark.parametrize("digits", [(), (5, 5)])
def test_probabilities_of_all_codes_sum_to_one(digits: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = Transformer(replace(SHAPE, digits=digits)).eval()
    for weight in model.parameters():
        weight.normal_(std=0.5)
    text = torch.randint(300, (1, 3))
    found = [model.losses(text, torch.tensor([[code]]))[1].neg().exp() for code in range(25)]
    assert sum(found).item() == pytest.approx(1, abs=1e-5)
    assert max(found) > 2 * min(found)


@torch.no_grad()
@pytest.mark.parametrize("digits", [(), (5, 5)])
def test_what_codes_share_can_be_added_to_what_each_has(digits: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = Transformer(replace(SHAPE, digits=digits, numbers=(5, 5))).eval()
    for weight in model.parameters():
        weight.normal_(std=0.5)
    asked = torch.randint(300, (2, 3)), torch.randint(25, (2, 1))
    before = model(*asked)
    model.fold()
    assert not model.shared and not any("shared" in name for name in model.state_dict())
    for one, other in zip(before, model(*asked), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_numbers_that_do_not_make_the_digits_are_refused() -> None:
    for numbers, digits in (((5, 4), ()), ((5, 5, 2), ()), ((25,), (5, 5))):
        with pytest.raises(UsageError, match=r"model\.numbers="):
            replace(SHAPE, numbers=numbers, digits=digits)
    with pytest.raises(UsageError, match=r"model\.numbers=.*has over 256 values"):
        replace(SHAPE, codes=512, numbers=(256, 2))
    assert usual_numbers((256, 2)) == () == usual_numbers((40,))
    assert usual_numbers((8, 5, 5, 5)) == (8, 5, 5, 5)


def test_any_probabilities_can_be_learned() -> None:
    """A second digit that says nothing alone, and all once the first one is known."""
    torch.manual_seed(0)
    model = Transformer(replace(SHAPE, digits=(5, 5)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    text = torch.arange(3)[None].expand(5, -1)
    codes = torch.arange(5)[:, None]
    codes = codes + 5 * (codes * 2 % 5)
    for _ in range(60):
        optimizer.zero_grad()
        loss = model.losses(text, codes)[1]
        loss.backward()
        optimizer.step()
    assert loss.item() < math.log(5) + 0.02


def test_muon_takes_what_lies_between_digits_and_adamw_their_tables() -> None:
    model = Transformer(replace(SHAPE, digits=(5, 5), numbers=(5, 5)))
    names = {id(weight): name for name, weight in model.named_parameters()}
    adamw, muon = optim.build(model, replace(load("train").optim, muon=True)).parts
    taken = {names[id(w)] for group in muon.param_groups for w in group["params"]}
    assert {name for name in taken if not name.startswith("blocks")} == {
        "reading.weight",
        "digit_blocks.0.mlp_in.weight",
        "digit_blocks.0.mlp_out.weight",
    }
    decayed, plain = ({names[id(w)] for w in group["params"]} for group in adamw.param_groups)
    heads = {"text_head.weight", "image_head.weight", "digit_heads.0.weight"}
    assert decayed == heads | {"shared.0.head.weight", "shared.1.head.weight"}
    assert {name for name in plain if "digit" in name or "shared" in name} == {
        "digit_embeddings.0.weight",
        "shared.0.embedding.weight",
        "digit_blocks.0.norm.weight",
    }
