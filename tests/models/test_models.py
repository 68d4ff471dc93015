"""The dVAE and the transformer, against their definitions."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import forced
from torch import Tensor
from torch.nn import functional as F

from dallebaby_cli.config import DVAEConfig, TransformerConfig
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


LEVELS = (5, 2, 5)
MODELS = {
    "whole": SHAPE,
    "digits": replace(SHAPE, digits=LEVELS),
    "numbers": replace(SHAPE, grid=4, numbers=LEVELS),
    "digits of numbers": replace(SHAPE, digits=(10, 5), numbers=LEVELS),
    "any order": replace(SHAPE, any_order=True),
    "numbers in any order": replace(SHAPE, digits=(5, 10), numbers=LEVELS, any_order=True),
}


@pytest.fixture(params=MODELS)
def either(request: pytest.FixtureRequest) -> Transformer:
    """It, and those that take codes apart, in raster order and in any."""
    return lively(MODELS[request.param])


def lively(shape: TransformerConfig) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(shape)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def batch(size: int, shape: TransformerConfig = SHAPE) -> tuple[torch.Tensor, torch.Tensor]:
    text = torch.randint(0, shape.vocabulary, (size, shape.text_tokens))
    return text, torch.randint(0, shape.codes, (size, shape.image_tokens))


@pytest.mark.parametrize("name", MODELS)
def test_a_fresh_transformer_knows_exactly_nothing(name: str) -> None:
    text, codes = batch(4, MODELS[name])
    text_loss, image_loss = Transformer(MODELS[name]).losses(text, codes)
    assert text_loss.item() == pytest.approx(math.log(SHAPE.vocabulary + 1), rel=1e-5)
    assert image_loss.item() == pytest.approx(math.log(SHAPE.codes), rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in MODELS if "order" not in name])
def test_no_prediction_sees_its_answer_or_what_follows(name: str) -> None:
    transformer = lively(MODELS[name])
    text, codes = batch(2, transformer.config)
    first = transformer.config.radices[0]  # what others are told of it, they may see

    def predicted(codes: Tensor) -> tuple[Tensor, Tensor]:
        of_text, of_codes = transformer(text, codes)
        return of_text, of_codes[..., :first]

    before_text, before_codes = predicted(codes)
    for place in range(codes.shape[1]):
        changed = codes.clone()
        changed[:, place] = (changed[:, place] + 1) % SHAPE.codes
        after_text, after_codes = predicted(changed)
        assert torch.equal(after_text, before_text)
        torch.testing.assert_close(after_codes[:, : place + 1], before_codes[:, : place + 1])
        if place + 1 < codes.shape[1]:
            assert not torch.allclose(after_codes[:, place + 1], before_codes[:, place + 1])
    changed = text.clone()
    changed[:, 2] = (changed[:, 2] + 1) % SHAPE.vocabulary
    after_text, after_codes = transformer(changed, codes)
    torch.testing.assert_close(after_text[:, :3], before_text[:, :3])
    assert not torch.allclose(after_codes[:, 0, :first], before_codes[:, 0])


@torch.no_grad()
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("given", [0, 1, 5])
def test_cached_decoding_equals_the_whole_forward_pass(
    either: Transformer, given: int, masked: bool
) -> None:
    text, codes = batch(3, either.config)
    _, expected = either(text, codes)
    cache = Cache(either.config, 3, torch.empty(0))
    cache.codes[:, :given] = codes[:, :given]
    logits: list[Tensor] = []
    places = torch.arange(given + 1)[None].split((given, 1), dim=1)
    either.ask(text, *places, 0, cache, forced(either, codes[:, given], logits))
    for number in torch.arange(given, codes.shape[1] - 1).split(1):
        cache.codes[:, number] = codes[:, number]
        seen = either.config.sequence_len if masked else SHAPE.text_tokens + 2 + int(number)
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
    order = order or list(range(c.image_tokens))
    side, head = c.grid, c.dim // c.heads
    around = AROUND if c.numbers else AROUND[:3]
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
        if c.numbers:
            own, *tables = weights["reading.weight"].T.chunk(1 + len(around))
        else:
            own = weights["image_embedding.weight"]
            tables = [*weights["above_embedding.weight"].chunk(len(around))]
        x = read(own, codes[before], c) + weights["place_embedding.weight"][place]
        for which, ((down, right), table) in enumerate(zip(around, tables, strict=True)):
            inside = 0 <= row + down < side and 0 <= column + right < side
            other = (row + down) * side + column + right
            drawn = inside and other in order[:number]
            x = x + read(table, codes[other] if drawn else c.codes, c)
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
    stream = torch.stack(embedded)
    for number in range(c.depth):
        own = {
            k.split(".", 2)[2]: w for k, w in weights.items() if k.startswith(f"blocks.{number}.")
        }
        x = norm(stream, own["attention_norm.weight"]) @ own["qkv.weight"].T
        heads = []
        for h in range(c.heads):
            q, k, v = (x[:, a * c.dim + h * head :][:, :head] for a in range(3))
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
        stream = stream + torch.cat(heads, dim=-1) @ own["attention_out.weight"].T
        x = norm(stream, own["mlp_norm.weight"]) @ own["mlp_in.weight"].T
        stream = stream + x.clamp(min=0) ** 2 @ own["mlp_out.weight"].T
    stream = norm(stream, weights["norm.weight"])
    words, picture = stream[: c.text_tokens], stream[c.text_tokens :]

    def shared(name: str, number: int) -> Tensor:
        if not c.numbers:
            return torch.zeros(())
        table, digits = weights[name], range(c.radices[number])
        return torch.stack([of_digits(table, digit, c.parts[number]) for digit in digits])

    logits = []
    for number in range(len(c.radices)):
        if number:
            own = {k: w for k, w in weights.items() if k.startswith(f"digit_blocks.{number - 1}.")}
            norm_, mlp_in, mlp_out = own.values()
            found = weights[f"digit_embeddings.{number - 1}.weight"]
            found = found + shared(f"shared.{number - 1}.embedding.weight", number - 1)
            below = math.prod(c.radices[: number - 1])
            digits = [codes[place] // below % c.radices[number - 1] for place in order]
            picture = picture + found[digits]
            x = norm(picture, norm_) @ mlp_in.T
            picture = picture + x.clamp(min=0) ** 2 @ mlp_out.T
        head_ = f"digit_heads.{number - 1}.weight" if number else "image_head.weight"
        classes = weights[head_] + shared(f"shared.{number}.head.weight", number)
        logits.append(picture @ classes.T)
    return words @ weights["text_head.weight"].T, torch.cat(logits, dim=-1)


def read(table: Tensor, code: int, c: TransformerConfig) -> Tensor:
    """What a table has for a code that is read; of numbers, where there is none, its last row."""
    if not c.numbers:
        return of_digits(table, code, c.radices)
    return table[-1] if code == c.codes else of_digits(table, code, c.numbers)


def of_digits(table: Tensor, code: int, radices: tuple[int, ...]) -> Tensor:
    """The sum of a table's rows for a code's digits; where there is no code, its last digit is one
    more than digits are."""
    rows = [code // math.prod(radices[:i]) % r + sum(radices[:i]) for i, r in enumerate(radices)]
    if code == math.prod(radices):
        rows[-1] = sum(radices)
    return table[rows].sum(0)


@torch.no_grad()
def test_the_forward_pass_is_the_textbooks(either: Transformer) -> None:
    text, codes = batch(2, either.config)
    for number, found in enumerate(zip(*either(text, codes), strict=True)):
        expected = textbook(either, text[number].tolist(), codes[number].tolist())
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_codes_loss_is_that_of_its_digits(either: Transformer) -> None:
    text, codes = batch(2, either.config)
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
