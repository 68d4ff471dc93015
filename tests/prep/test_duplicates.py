"""Near duplicates: what is the same picture to a person, and what is not."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dallebaby_cli.prep import duplicates
from dallebaby_cli.prep.duplicates import FAR, PRINT_BYTES


def photo(seed: int, px: int = 256) -> Image.Image:
    """Soft blobs with some detail, as far as numbers can look like a photo."""
    random = np.random.default_rng(seed)
    coarse, fine = (random.integers(0, 256, (n, n, 3), dtype=np.uint8) for n in (5, 24))
    large = Image.fromarray(coarse).resize((px, px), Image.Resampling.BICUBIC)
    return Image.blend(large, Image.fromarray(fine).resize((px, px)), 0.3)


def recompressed(image: Image.Image) -> Image.Image:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=40)
    return Image.open(out).convert("RGB")


CHANGES = {
    "recompressed": recompressed,
    "halved": lambda image: image.resize((128, 128)),
    "brighter": lambda image: image.point(lambda v: min(255, int(v * 1.15 + 5))),
    "cropped": lambda image: image.crop((3, 3, 253, 253)),
    "grey": lambda image: image.convert("L").convert("RGB"),
}


def printed(image: Image.Image, px: int = 64) -> np.ndarray:
    found = duplicates.fingerprint(np.asarray(image.resize((px, px), Image.Resampling.LANCZOS)))
    assert found is not None
    return np.frombuffer(found, np.uint8)


def distance(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.unpackbits(one ^ other).sum())


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("px", [32, 64, 128])
def test_the_same_picture(change: str, px: int) -> None:
    for seed in range(5):
        image = photo(seed)
        assert distance(printed(image, px), printed(CHANGES[change](image), px)) <= FAR


def test_other_pictures() -> None:
    prints = [printed(photo(seed)) for seed in range(40)]
    assert min(distance(a, b) for i, a in enumerate(prints) for b in prints[:i]) > 2 * FAR


def test_any_number_of_copies_is_one_group() -> None:
    prints = np.random.default_rng(0).integers(0, 256, (500, PRINT_BYTES), dtype=np.uint8)
    prints[100:400] = prints[100]
    leader = duplicates.group(prints, np.arange(500))
    assert set(leader[100:400]) == {100} and len(set(leader)) == 201


def test_flat_pictures_have_no_print() -> None:
    assert duplicates.fingerprint(np.full((64, 64, 3), 200, np.uint8)) is None


def test_groups_among_many() -> None:
    random = np.random.default_rng(0)
    prints = random.integers(0, 256, (3000, PRINT_BYTES), dtype=np.uint8)
    for copy, original, bits in ((10, 2000, 0), (11, 2000, 5), (12, 2500, 16)):
        flips = np.zeros(256, np.uint8)
        flips[random.permutation(256)[:bits]] = 1
        prints[copy] = prints[original] ^ np.packbits(flips)
    leader = duplicates.group(prints, np.arange(3000)[::-1])
    expected = np.arange(3000)
    expected[[10, 11, 12]] = 2000, 2000, 2500
    assert np.array_equal(leader, expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_a_group_is_near_its_leader(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    base = random.integers(0, 256, (3, PRINT_BYTES), dtype=np.uint8)
    noise = np.packbits(random.random((count, 256)) < 0.06, axis=1)
    prints = base[random.integers(0, 3, count)] ^ noise
    ranks = random.permutation(count)
    leader = duplicates.group(prints, ranks)
    assert np.array_equal(leader[leader], leader)
    for index in range(count):
        assert distance(prints[index], prints[leader[index]]) <= FAR
        assert ranks[leader[index]] <= ranks[index]
