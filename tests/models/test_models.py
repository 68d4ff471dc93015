"""The dVAE and the transformer, against their definitions."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import forced
from torch import Tensor
from torch.nn import functional as F

from dallebaby_cli.config import DVAEConfig, TransformerConfig, Trials
from dallebaby_cli.models.block import Cache, attend
from dallebaby_cli.models.tokenizers.dvae import DVAE, denormalise
from dallebaby_cli.models.tokenizers.losses import reconstruction
from dallebaby_cli.models.transformer import Transformer


@pytest.mark.parametrize(("px", "grid"), [(64, 16), (128, 16), (32, 8), (48, 8), (16, 16), (40, 5)])
def test_dvae_maps_pictures_to_the_grid_and_back(px: int, grid: int) -> None:
    model = DVAE(DVAEConfig(image_px=px, grid=grid, width=8, depth=1)).eval()
    pictures = torch.randint(0, 256, (2, 3, px, px), dtype=torch.uint8)
    output, quantized = model(pictures)
    assert output.shape == pictures.shape and quantized.codes.shape == (2, grid, grid)
    assert torch.equal(model.encode(pictures), quantized.codes)
    assert (model.decode(quantized.codes).int() - denormalise(output).int()).abs().max() <= 1


def test_dvae_refuses_what_is_not_a_picture() -> None:
    model = DVAE(DVAEConfig(image_px=32, grid=8, width=8, depth=0))
    for wrong in (
        torch.rand(1, 3, 32, 32),  # a range nobody knows
        torch.zeros(3, 32, 32, dtype=torch.uint8),
        torch.zeros(1, 1, 32, 32, dtype=torch.uint8),
        torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
    ):
        with pytest.raises(ValueError, match=r"pictures must be uint8 \(B, 3, 32, 32\), not"):
            model(wrong)


def test_dvae_learns_a_handful_of_pictures() -> None:
    torch.manual_seed(0)
    model = DVAE(DVAEConfig(image_px=16, grid=8, width=16, depth=1))
    pictures = torch.randint(0, 2, (8, 3, 4, 4)).mul(200).to(torch.uint8)
    pictures = pictures.repeat_interleave(4, 2).repeat_interleave(4, 3)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    first = last = math.nan
    for step in range(60):
        loss = reconstruction(model(pictures)[0], pictures, "l1+l2")
        first, last = (loss.item() if step == 0 else first), loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert last < first / 3


SHAPE = TransformerConfig(
    text_tokens=5, vocabulary=300, dim=32, depth=2, heads=2, dropout=0, codes=50, grid=3
)


@pytest.fixture
def transformer() -> Transformer:
    """A transformer whose every weight matters (fresh ones have zeros)."""
    return lively(SHAPE)


LEVELS = {"levels": (5, 2, 5)}
TRIED: dict[str, dict[str, Any]] = {
    "levels": {"inputs": "levels", **LEVELS},
    "both": {"inputs": "both", **LEVELS},
    "outputs": {"outputs": "both", **LEVELS},
    "neighbours": {"neighbours": 5},
    "5x5": {"neighbours": 11},
    "values": {"values": True},
    "shortcut": {"shortcut": True},
    "skips": {"skips": True},
    "gates": {"gates": True},
    "swiglu": {"mlp": "swiglu"},
    "foresight": {"foresight": 1, **LEVELS},
}
"""Ideas on trial, each alone."""
TOGETHER = {name: value for idea in TRIED.values() for name, value in idea.items()}
MODELS = {
    "whole": SHAPE,
    "digits": replace(SHAPE, digits=(5, 2, 5)),
    **{name: replace(SHAPE, depth=4, trials=Trials(**idea)) for name, idea in TRIED.items()},
    "all": replace(SHAPE, depth=5, digits=(10, 5), trials=Trials(**TOGETHER)),
    "any order": replace(SHAPE, any_order=True),
}
MODELS["all in any order"] = replace(MODELS["all"], any_order=True)


@pytest.fixture(params=MODELS)
def either(request: pytest.FixtureRequest) -> Transformer:
    """It, one that predicts each code in three digits, and those of ideas on trial."""
    return lively(MODELS[request.param])


def lively(shape: TransformerConfig) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(shape)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def batch(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    text = torch.randint(0, SHAPE.vocabulary, (size, SHAPE.text_tokens))
    return text, torch.randint(0, SHAPE.codes, (size, SHAPE.image_tokens))


@pytest.mark.parametrize("digits", [(), (5, 2, 5)])
def test_a_fresh_transformer_knows_exactly_nothing(digits: tuple[int, ...]) -> None:
    text, codes = batch(4)
    text_loss, image_loss = Transformer(replace(SHAPE, digits=digits)).losses(text, codes)
    assert text_loss.item() == pytest.approx(math.log(SHAPE.vocabulary + 1), rel=1e-5)
    assert image_loss.item() == pytest.approx(math.log(SHAPE.codes), rel=1e-5)


@torch.no_grad()
def test_no_prediction_sees_its_answer_or_what_follows(transformer: Transformer) -> None:
    text, codes = batch(2)
    before_text, before_codes = transformer(text, codes)
    for place in range(SHAPE.image_tokens):
        changed = codes.clone()
        changed[:, place] = (changed[:, place] + 1) % SHAPE.codes
        after_text, after_codes = transformer(text, changed)
        assert torch.equal(after_text, before_text)
        torch.testing.assert_close(after_codes[:, : place + 1], before_codes[:, : place + 1])
        if place + 1 < SHAPE.image_tokens:
            assert not torch.allclose(after_codes[:, place + 1], before_codes[:, place + 1])
    changed = text.clone()
    changed[:, 2] = (changed[:, 2] + 1) % SHAPE.vocabulary
    after_text, after_codes = transformer(changed, codes)
    torch.testing.assert_close(after_text[:, :3], before_text[:, :3])
    assert not torch.allclose(after_codes[:, 0], before_codes[:, 0])


@torch.no_grad()
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("given", [0, 1, 5])
def test_cached_decoding_equals_the_whole_forward_pass(
    either: Transformer, given: int, masked: bool
) -> None:
    text, codes = batch(3)
    _, expected = either(text, codes)
    cache = Cache(either.config, 3, torch.empty(0))
    cache.codes[:, :given] = codes[:, :given]
    logits: list[Tensor] = []
    places = torch.arange(given + 1)[None].split((given, 1), dim=1)
    either.ask(text, *places, 0, cache, forced(either, codes[:, given], logits))
    for number in torch.arange(given, SHAPE.image_tokens - 1).split(1):
        cache.codes[:, number] = codes[:, number]
        seen = SHAPE.sequence_len if masked else SHAPE.text_tokens + 2 + int(number)
        pick = forced(either, codes[:, int(number) + 1], logits)
        found = either.decode_one(number, cache, pick, seen, masked)
        assert torch.equal(found, codes[:, int(number) + 1])
    found = torch.stack(logits, dim=1)
    torch.testing.assert_close(found, expected[:, given:], atol=1e-4, rtol=1e-4)


AROUND = [(-1, -1), (-1, 0), (-1, 1), (0, -2), (-2, 0)]
AROUND += [(-1, -2), (-1, 2), (-2, -1), (-2, 1), (-2, -2), (-2, 2)]


def textbook(
    model: Transformer, text: list[int], codes: list[int], order: list[int] | None = None
) -> tuple[Tensor, Tensor]:
    """The same from the definitions: one sequence, position by position, head by head, complex
    numbers for the rotations. Logits are in the order."""
    c, weights = model.config, dict(model.named_parameters())
    tried, order = c.trials, order or list(range(c.image_tokens))
    side, head = c.grid, c.dim // c.heads
    around = AROUND[: tried.neighbours]
    if c.any_order:
        around = [*around, (0, -1)]
        around += [(-down, -right) for down, right in around]
    embedded, angles = [], []
    for i in range(1 + c.text_tokens):
        word = text[i - 1] if i else c.vocabulary + c.text_tokens
        embedded.append(weights["text_embedding.weight"][word])
        angles.append((i, i))
    embedded[-1] = embedded[-1] + weights["place_embedding.weight"][order[0]]

    def angle(place: int) -> tuple[int, int]:
        row, column = divmod(place, side)
        return row + c.text_tokens + 1, column + c.text_tokens + 1

    aimed = [*angles[:-1], angle(order[0])]
    for number in range(1, c.image_tokens):
        before, place = order[number - 1], order[number]
        row, column = divmod(place, side)
        x = of_ways(weights["image_embedding.weight"], codes[before], c)
        x = x + weights["place_embedding.weight"][place]
        tables = weights["above_embedding.weight"].chunk(len(around))
        for which, ((down, right), table) in enumerate(zip(around, tables, strict=True)):
            inside = 0 <= row + down < side and 0 <= column + right < side
            other = (row + down) * side + column + right
            drawn = inside and other in order[:number]
            x = x + of_ways(table, codes[other] if drawn else c.codes, c)
            if inside and not drawn:
                x = x + weights["unknown.weight"][:, which]
        embedded.append(x)
        angles.append(angle(before))  # it stands where the code is that it reads
        aimed.append(angle(place))

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], eps=0) * weight

    planes = head // 4
    speeds = 100.0 ** (-torch.arange(planes) / planes)
    both = aimed if c.any_order else angles, angles
    turns = [torch.stack([torch.cat((r * speeds, k * speeds)) for r, k in a]) for a in both]
    stream, told = torch.stack(embedded)[:, : c.dim], torch.stack(embedded)[:, c.dim :]
    entered: list[Tensor] = []
    for number in range(c.depth):
        if tried.shortcut and number:
            stream = stream + weights["shortcut"][number] * entered[0]
        if tried.skips and number > c.depth - 1 - number:
            stream = stream + weights["skips"][number] * entered[c.depth - 1 - number]
        entered.append(stream)
        own = {
            k.split(".", 2)[2]: w for k, w in weights.items() if k.startswith(f"blocks.{number}.")
        }
        x = norm(stream, own["attention_norm.weight"]) @ own["qkv.weight"].T
        heads = []
        for h in range(c.heads):
            q, k, v = (x[:, a * c.dim + h * head :][:, :head] for a in range(3))
            if tried.values:
                v = v + own["share"] * told[:, h * head :][:, :head]
            q = norm(q, own["query_key_norm.weight"][0, 0])
            k = norm(k, own["query_key_norm.weight"][1, 0])
            q, k = (
                torch.complex(y[:, : head // 2], y[:, head // 2 :])
                * torch.polar(torch.ones_like(turned), turned)
                for y, turned in zip((q, k), turns, strict=True)
            )
            scores = (q @ k.conj().T).real / head**0.5
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
            heads.append(scores.softmax(-1) @ v)
            if tried.gates:
                attended = norm(stream, own["attention_norm.weight"])
                heads[h] = heads[h] * 2 * (attended @ own["gate.weight"][h]).sigmoid()[:, None]
        stream = stream + torch.cat(heads, dim=-1) @ own["attention_out.weight"].T
        x = norm(stream, own["mlp_norm.weight"]) @ own["mlp_in.weight"].T
        x = F.silu(x[:, :96]) * x[:, 96:] if tried.mlp == "swiglu" else x.clamp(min=0) ** 2
        stream = stream + x @ own["mlp_out.weight"].T
    stream = norm(stream, weights["norm.weight"])
    words, picture = stream[: c.text_tokens], stream[c.text_tokens :]
    classes = weights["image_head.weight"]
    if tried.outputs == "both" and not c.digits:
        table = weights["level_head.weight"]
        shared = [of_digits(table, code, tried.levels) for code in range(c.codes)]
        classes = classes + torch.stack(shared)
    logits = [picture @ classes.T]
    for number in range(len(c.radices) - 1):
        own = {k: w for k, w in weights.items() if k.startswith(f"digit_blocks.{number}.")}
        norm_, mlp_in, mlp_out = own.values()
        below = math.prod(c.radices[:number])
        digits = [codes[place] // below % c.radices[number] for place in order]
        picture = picture + weights[f"digit_embeddings.{number}.weight"][digits]
        x = norm(picture, norm_) @ mlp_in.T
        picture = picture + x.clamp(min=0) ** 2 @ mlp_out.T
        logits.append(picture @ weights[f"digit_heads.{number}.weight"].T)
    return words @ weights["text_head.weight"].T, torch.cat(logits, dim=-1)


def of_ways(table: Tensor, code: int, c: TransformerConfig) -> Tensor:
    """What a table has for a code, as it is taken apart by digits, by levels, or by both, the parts
    of which come behind a row of their own."""
    if c.trials.inputs == "both":
        first = sum(c.radices) + 1
        digits = of_digits(table[:first], code, c.radices)
        return digits + of_digits(table[first:], code, c.trials.levels)
    return of_digits(table, code, c.trials.levels if c.trials.inputs == "levels" else c.radices)


def of_digits(table: Tensor, code: int, radices: tuple[int, ...]) -> Tensor:
    """The sum of a table's rows for a code's digits; where there is no code, its last digit is one
    more than digits are."""
    rows = [code // math.prod(radices[:i]) % r + sum(radices[:i]) for i, r in enumerate(radices)]
    if code == math.prod(radices):
        rows[-1] = sum(radices)
    return table[rows].sum(0)


@torch.no_grad()
def test_the_forward_pass_is_the_textbooks(either: Transformer) -> None:
    text, codes = batch(2)
    for number, found in enumerate(zip(*either(text, codes), strict=True)):
        expected = textbook(either, text[number].tolist(), codes[number].tolist())
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_codes_loss_is_that_of_its_digits(either: Transformer) -> None:
    text, codes = batch(2)
    nats = 0.0
    for words, picture in zip(text.tolist(), codes.tolist(), strict=True):
        for logits, code in zip(textbook(either, words, picture)[1], picture, strict=True):
            for values in either.config.radices:
                of_digit, logits = logits[:values], logits[values:]
                nats -= of_digit.log_softmax(0)[code % values].item()
                code //= values
    assert either.losses(text, codes)[1].item() == pytest.approx(nats / codes.numel(), rel=1e-5)


def test_transformer_refuses_wrong_shapes_and_types(transformer: Transformer) -> None:
    text, codes = batch(2)
    with pytest.raises(ValueError, match=r"text must be int64 \(B, 5\)"):
        transformer(text[:, :-1], codes)
    with pytest.raises(ValueError, match=r"codes must be int64 \(B, 9\), not int32"):
        transformer(text, codes.int())


def test_padding_is_no_loss_and_an_end_is_learned(transformer: Transformer) -> None:
    text, codes = batch(1)
    pads = torch.arange(SHAPE.text_tokens) + SHAPE.vocabulary
    text[0, 2:] = pads[2:]  # two words, an end, two pads
    logits = transformer(text, codes)
    loss, _ = transformer.losses(text, codes)
    target = torch.tensor([*text[0, :2], SHAPE.vocabulary])
    expected = torch.nn.functional.cross_entropy(logits[0][0, :3], target)
    torch.testing.assert_close(loss, expected)


def test_attention_of_a_cpus_bf16_is_torchs_but_for_rounding() -> None:
    """And so are its gradients, against attention in fp64."""
    torch.manual_seed(0)
    inputs = [torch.randn(3, 2, 11, 16).bfloat16() for _ in range(3)]
    slope = torch.randn(3, 2, 11, 16).bfloat16()
    found: list[list[Tensor]] = []
    for dtype in (torch.bfloat16, torch.float64):
        query, key, value = (tensor.to(dtype).requires_grad_() for tensor in inputs)
        made = attend(query, key, value, None, causal=True)
        assert made.dtype == dtype
        found.append([made, *torch.autograd.grad(made, (query, key, value), slope.to(dtype))])
    for ours, exact in zip(*found, strict=True):
        assert (ours.double() - exact).norm() < 2**-6 * exact.norm()


def test_training_in_bf16_on_a_cpu_spares_torchs_slow_backward_pass() -> None:
    model, asked = Transformer(SHAPE), batch(2)
    with torch.profiler.profile() as profile:
        with torch.autocast("cpu", torch.bfloat16):
            loss = sum(model.losses(*asked))
        loss.backward()  # type: ignore[union-attr]
    names = {event.name for event in profile.events()}
    assert "aten::softmax" in names and not any("scaled_dot_product" in name for name in names)
