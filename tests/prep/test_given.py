"""Pictures and masks that a person names: what is white, what is transparent, which are refused."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dallebaby_cli.errors import BadInput, Mismatch
from dallebaby_cli.prep import given, images
from dallebaby_cli.prep.given import Given


def file(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options: object) -> Given:
    """A picture file with that content."""
    out = io.BytesIO()
    image = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    image.save(out, kind, **options)
    return Given("--mask m.png", out.getvalue())


LEVELS = np.array([[0, 127, 128, 255]] * 4, np.uint8)
WHITE = [False, False, True, True]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_any_grey_is_white_by_half(mode: str) -> None:
    mask = file(Image.fromarray(LEVELS).convert(mode))
    assert mask.white(mask).tolist() == [WHITE] * 4


def test_masks_of_one_bit_and_of_sixteen_are_read() -> None:
    for mask in (
        file(Image.fromarray(LEVELS > 127)),
        file(LEVELS.astype(np.uint16) * 257),
        file(Image.fromarray(LEVELS), "BMP"),
        file(Image.fromarray(LEVELS), "TIFF"),
    ):
        assert mask.white(mask).tolist() == [WHITE] * 4


def test_what_is_transparent_in_a_mask_is_not_white() -> None:
    """Such as white strokes on a layer of their own; opaque black stays black."""
    layer = np.full((4, 4, 4), 255, np.uint8)
    layer[:, :, 3] = [0, 127, 128, 255]
    mask = file(layer)
    assert mask.white(mask).tolist() == [WHITE] * 4
    layer[:, :, :3] = 0
    mask = file(layer)
    assert not mask.white(mask).any()


def test_a_mask_that_was_stored_turned_is_set_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned to the right
    mask = file(np.array([[255] * 6] + [[0] * 6] * 3, np.uint8), exif=exif)
    white = mask.white(mask)
    assert white.shape == (6, 4) and white[:, 3].all() and not white[:, :3].any()


def test_what_is_transparent_is_told_where_anything_is() -> None:
    layer = np.full((5, 4, 4), 200, np.uint8)
    layer[:, :, 3] = [0, 127, 128, 255]
    found = file(layer).transparent()
    assert found is not None and found.tolist() == [[True, True, False, False]] * 5
    layer[:, :, 3] = 128
    assert file(layer).transparent() is None
    assert file(layer[:, :, :3]).transparent() is None
    assert file(Image.fromarray(LEVELS), "JPEG").transparent() is None
    keyed = file(Image.fromarray(LEVELS), transparency=255).transparent()
    assert keyed is not None and keyed.tolist() == [[False, False, False, True]] * 4


def test_the_square_is_what_prep_makes_of_the_picture() -> None:
    picture = file(Image.effect_noise((40, 24), 90), "JPEG")
    assert np.array_equal(picture.square(16), images.decode(picture.content, 16))


def grey(width: int, height: int) -> Given:
    return file(np.zeros((height, width), np.uint8))


def test_a_mask_has_the_shape_of_its_picture_but_for_a_pixel() -> None:
    for mask, picture in (
        ((64, 48), (640, 480)),
        ((640, 480), (64, 48)),
        ((6000, 4000), (800, 533)),
        ((33, 20), (100, 61)),
        ((100, 61), (33, 20)),
        ((7, 7), (500, 500)),
    ):
        assert grey(*mask).white(grey(*picture)).shape == mask[::-1]
    for mask, picture in (((64, 64), (64, 48)), ((48, 64), (64, 48)), ((640, 483), (640, 480))):
        with pytest.raises(
            Mismatch, match=f"m.png is {mask[0]} x {mask[1]} pixels .* {picture[0]} x"
        ):
            grey(*mask).white(grey(*picture))


def test_what_is_no_picture_is_named(tmp_path: Path) -> None:
    path = tmp_path / "no.png"
    for content, why in (
        (b"", "empty"),
        (b"a red car", "not an image"),
        (b"\x89PNG\r\n\x1a\n", ""),
    ):
        path.write_bytes(content)
        found = given.read(path, "--mask")
        for use, more in (
            (found.square, [16]),
            (found.transparent, []),
            (found.white, [grey(8, 8)]),
        ):
            with pytest.raises(BadInput, match=rf"^--mask {path} cannot be used \({why}.*JPEG"):
                use(*more)
    assert given.read(path).name == str(path)
