"""The nearest training pictures, among those of a real workspace, and how a copy is told."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dallebaby_cli.drawing.pretrained import load_image_tokenizer
from dallebaby_cli.models.tokenizers import ImageTokenizer
from dallebaby_cli.quality import memorisation
from dallebaby_cli.quality.memorisation import Near
from dallebaby_cli.store.text_tokenizer import TextTokenizer
from dallebaby_cli.store.tokens import Tokens
from dallebaby_cli.training.batches import Captioned


@pytest.fixture(scope="module")
def tokenizer(trained: Path) -> ImageTokenizer:
    return load_image_tokenizer(trained / "vae" / "v", torch.device("cpu"))


@pytest.fixture(scope="module")
def sets(trained: Path) -> tuple[Captioned, Captioned]:
    """The training and the hold-out pictures."""
    source = Tokens(next((trained / "tokens").iterdir()))
    words = TextTokenizer.load(trained / "dalle" / "d" / "tokenizer.json")
    training, held_out = (Captioned([source], split, words, 16) for split in ("train", "holdout"))
    return training, held_out


def look(pictures: Tensor) -> Tensor:
    """A network that sees colours of the corners."""
    return F.adaptive_avg_pool2d(pictures.float() - 127, 2).flatten(1)


def test_copies_are_found_where_they_are(
    sets: tuple[Captioned, Captioned], tokenizer: ImageTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, held_out = sets
    monkeypatch.setattr(memorisation, "PART", 37)
    copied = np.array([300, 5, 111, 111])
    each = training.sources[0].views_each
    codes = memorisation.codes_of(training, copied, np.array([0, 3, 7, each - 1]))
    others = memorisation.as_trained(held_out, len(held_out))
    counts: list[int] = []
    near = memorisation.in_codes(codes, others, training, counts.append)
    everything = np.concatenate([*training.codes(every_view=True)])
    assert each == 8 and len(everything) == each * len(training)
    for place, view, row in zip(near.place, near.view, codes.numpy(), strict=False):
        first = (everything == row).all(1).argmax()  # where several are the same
        assert (place, view) == divmod(first, each)
    assert not near.drawn.any() and near.known == counts[-1] == len(training)
    assert (near.view > 0).any(), "a copy of a view is one"
    looked_at = memorisation.worth_a_look(near, np.array([2, 2, 9]))
    found = {*zip(near.place.tolist(), near.view.tolist(), strict=True)}
    assert {*map(tuple, looked_at.tolist())} == found | {(2, 0), (9, 0)}

    counts.clear()
    most = len(training)
    known = np.array([divmod(number, each) for number in range(each * most)])[::-1]
    seen = memorisation.in_features(codes, others, training, tokenizer, look, known, counts.append)
    vectors = F.normalize(look(memorisation.paint(tokenizer, torch.from_numpy(everything))))
    ours, theirs = (F.normalize(look(memorisation.paint(tokenizer, c))) for c in (codes, others))
    slow = [1 - (x @ vectors.T).max(1).values for x in (ours, theirs)]
    np.testing.assert_allclose(seen.drawn, slow[0], atol=1e-5)
    np.testing.assert_allclose(seen.held_out, slow[1], atol=1e-5)
    assert seen.known == most and counts[-1] == each * most and len(counts) == -(-each * most // 37)
    assert seen.figures()["drawn_copies"] == 4 == near.figures()["drawn_copies"]
    best = (ours * vectors[(each * seen.place + seen.view)[:4]]).sum(1)
    np.testing.assert_allclose(best, 1, atol=1e-5)


def test_only_so_many_are_looked_at(
    sets: tuple[Captioned, Captioned], tokenizer: ImageTokenizer
) -> None:
    training, held_out = sets
    codes, rows = memorisation.as_trained(held_out, 3), training.sample(20)
    known = np.stack((rows, np.zeros_like(rows)), axis=1)
    near = memorisation.in_features(
        codes, codes, training, tokenizer, look, known, lambda done: None
    )
    assert near.known == 20 and {*near.place} <= {*rows}
    assert near.figures()["drawn_median"] == near.figures()["holdout_median"]


def test_hold_out_pictures_say_what_near_is() -> None:
    places = np.zeros(100, int)
    held_out = np.linspace(0.2, 0.8, 100)
    new = Near(held_out, held_out, places, places, 9).figures()
    assert new["drawn_close"] <= new["close_by_chance"] == 1 / 101 and new["known"] == 9
    half = np.concatenate((np.full(50, 0.19), np.full(50, 0.5)))
    assert Near(half, held_out, places, places, 9).figures()["drawn_close"] == 0.5
    few = Near(half, held_out[:4], places, places, 9).figures()
    assert few["close_by_chance"] == 1 / 5 and few["drawn_copies"] == 0


@pytest.mark.parametrize("count", [1, 30, 99, 150, 199, 500])
def test_new_pictures_are_close_as_often_as_is_said(count: int) -> None:
    random = np.random.default_rng(count)
    found = [
        Near(random.random(40), random.random(count), np.zeros(0), np.zeros(0), 9).figures()
        for _ in range(500)
    ]
    said = found[0]["close_by_chance"]
    shares = np.array([figures["drawn_close"] for figures in found])
    assert abs(shares.mean() - said) < 5 * shares.std() / 500**0.5
    assert said == 1 / (count + 1) if count < 199 else 0.005 < said <= 0.01


def test_captions_of_pictures(sets: tuple[Captioned, Captioned]) -> None:
    training, _ = sets
    source, row = training.places[7].tolist()
    own = training.sources[source].captions(row)[0]
    assert memorisation.captions_of(training, np.array([7])) == [own] and own.startswith("a ")
