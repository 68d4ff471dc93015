"""Crops and mirrored pictures: the same for the same seed, and nothing that was not there."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dallebaby_cli.training.augment import vary

SLOPE = torch.arange(16, dtype=torch.uint8).mul(8).expand(32, 3, 16, 16)  # dark left, light right


@given(st.integers(0, 100), st.floats(0.05, 1), st.booleans())
@settings(deadline=None, max_examples=25)
def test_the_same_seed_varies_in_the_same_way(seed: int, crop: float, flip: bool) -> None:
    varied = vary(SLOPE, (seed, 2, 5), crop, flip)
    assert varied.dtype == torch.uint8 and varied.shape == SLOPE.shape
    assert torch.equal(varied, vary(SLOPE, (seed, 2, 5), crop, flip))
    assert varied.max() <= SLOPE.max()


def test_nothing_asked_for_changes_nothing() -> None:
    assert vary(SLOPE, (0,), 1.0, False) is SLOPE


def test_half_are_mirrored_and_exactly() -> None:
    varied = vary(SLOPE, (0,), 1.0, True)
    mirrored = (varied == SLOPE.flip(-1)).flatten(1).all(1)
    assert 8 < mirrored.sum() < 24
    assert torch.equal(varied[~mirrored], SLOPE[~mirrored])


def test_crops_keep_at_least_so_much_and_differ() -> None:
    varied = vary(SLOPE, (0,), 0.25, False).float()
    widths = (varied[:, 0, 0, -1] - varied[:, 0, 0, 0]) / 8 + 1  # columns that are seen
    assert widths.min() >= 7 and widths.max() <= 16 and len(widths.unique()) > 4
    assert (varied.diff(dim=-1) >= 0).all(), "left stays left"
    assert len(varied[:, 0, 0, 0].unique()) > 3, "from different places"
