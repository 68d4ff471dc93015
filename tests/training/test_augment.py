"""Crops and mirrored pictures: what the numbers drawn say, and nothing that was not there."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from dallebaby_cli.training.augment import (
    DRAWS,
    SOFTENING,
    may_be_mirrored,
    soften,
    usual_views,
    vary,
)

SLOPE = torch.arange(16, dtype=torch.uint8).mul(8).expand(32, 3, 16, 16)  # dark left, light right


def draw(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((len(SLOPE), DRAWS))


@given(st.integers(0, 100), st.floats(0.05, 1), st.booleans())
@settings(deadline=None, max_examples=25)
def test_a_picture_is_varied_in_the_same_way_alone_and_among_others(
    seed: int, crop: float, flip: bool
) -> None:
    draws = draw(seed)
    varied = vary(SLOPE, draws, crop, flip)
    assert varied.dtype == torch.uint8 and varied.shape == SLOPE.shape
    assert torch.equal(varied[1::3], vary(SLOPE[1::3], draws[1::3], crop, flip))
    assert varied.max() <= SLOPE.max()


def test_nothing_asked_for_changes_nothing() -> None:
    assert vary(SLOPE, draw(0), 1.0, False) is SLOPE


def test_half_are_mirrored_and_exactly() -> None:
    varied = vary(SLOPE, draw(0), 1.0, True)
    mirrored = (varied == SLOPE.flip(-1)).flatten(1).all(1)
    assert 8 < mirrored.sum() < 24
    assert torch.equal(varied[~mirrored], SLOPE[~mirrored])


def test_only_those_are_mirrored_that_may_be() -> None:
    may = np.arange(len(SLOPE)) % 2 == 0
    varied = vary(SLOPE, draw(0), 1.0, may)
    mirrored = (varied == SLOPE.flip(-1)).flatten(1).all(1).numpy()
    assert not mirrored[~may].any() and 3 < mirrored.sum() < 13
    all_mirrored = (vary(SLOPE, draw(0), 1.0, True) == SLOPE.flip(-1)).flatten(1).all(1).numpy()
    assert np.array_equal(mirrored, all_mirrored & may), "others as ever"


@pytest.mark.parametrize(
    ("caption", "may"),
    [
        ("a red car", True),
        ("a dog left of a tree", False),
        ("The Right Whale", False),
        ("a leftover pizza and bright lights", True),
        ("the leftmost of them, looking rightwards", False),
        ("a left-hand glove", False),
        ("a righthand turn", False),
        ("the letter A", False),
        ("a photo of a 7", False),
        ("the digit seven", False),
        ("two dogs on a sofa", True),
        ("a photo of two", False),
        ("an alarm clock", False),
        ("a stop sign", False),
        ("a signal box in Texas", True),
        ("", True),
    ],
)
def test_captions_say_what_may_be_mirrored(caption: str, may: bool) -> None:
    assert may_be_mirrored([caption]) is may
    assert may_be_mirrored(["a red car", caption]) is may
    assert may_be_mirrored([]) is True


def test_few_pictures_get_more_views() -> None:
    numbers = (0, 1, 30, 3000, 3001, 6000, 12_000, 12_001, 10**7)
    assert [usual_views(n) for n in numbers] == [8, 8, 8, 8, 7, 4, 2, 1, 1]


def test_crops_keep_at_least_so_much_and_differ() -> None:
    varied = vary(SLOPE, draw(0), 0.25, False).float()
    widths = (varied[:, 0, 0, -1] - varied[:, 0, 0, 0]) / 8 + 1  # columns that are seen
    assert widths.min() >= 7 and widths.max() <= 16 and len(widths.unique()) > 4
    assert (varied.diff(dim=-1) >= 0).all(), "left stays left"
    assert len(varied[:, 0, 0, 0].unique()) > 3, "from different places"


def test_the_extremes_of_what_is_drawn_stay_inside() -> None:
    for value in (0.0, np.nextafter(1.0, 0.0)):
        assert vary(SLOPE, np.full((len(SLOPE), DRAWS), value), 0.05, True).shape == SLOPE.shape


@pytest.mark.parametrize("side", [16, 33, 64])
def test_softened_pictures_are_blurred_and_noisy_as_ever(side: int) -> None:
    """Step by step with torch's own resizing: a classifier trained before is trained the same."""
    seed, count = (1, 3, side), 3
    pictures = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (count, 3, side, side), np.uint8)
    )
    random = np.random.default_rng(seed)

    def resized(x: torch.Tensor, size: int) -> torch.Tensor:
        return F.interpolate(x, (size, size), mode="bilinear", antialias=True)

    def noise(size: int) -> torch.Tensor:
        return torch.from_numpy(random.standard_normal((count, 3, size, size), np.float32))

    shares = (torch.from_numpy(random.random((count, 1, 1, 1), np.float32)) for _ in range(4))
    x = pictures.float()
    for smaller in (side // 2, side // 3):
        x = torch.lerp(x, resized(resized(x, smaller), side), next(shares))
    coarse = resized(noise(side // 4), side)
    x = x + SOFTENING * (next(shares) * noise(side) + next(shares) * coarse)
    assert torch.equal(soften(pictures, seed), x.round().clamp(0, 255).to(torch.uint8))
