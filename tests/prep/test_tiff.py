"""TIFFs: what Pillow cannot read is named as that, and libtiff's own words reach nobody."""

import os
import struct
import sys

import numpy as np
import pytest
from PIL import Image
from test_images import reason, save

from dallebaby_cli.prep import images
from dallebaby_cli.prep.images import Rejected

LAB, RGB = 8, 2


def tiff(bits: int, photometric: int, form: int, *more: tuple[int, int]) -> bytes:
    """A TIFF of 16 x 16 pixels with three numbers each, stored plainly."""
    size = 16 * 16 * 3 * bits // 8
    short, long = 3, 4
    tags = [
        *((256, long, 1, 16), (257, long, 1, 16), (258, short, 3, 8), (259, short, 1, 1)),
        *((262, short, 1, photometric), (273, long, 1, 24), (277, short, 1, 3)),
        *((278, long, 1, 16), (279, long, 1, size), (339, short, 3, 16)),
        *((tag, long, 1, value) for tag, value in more),
    ]
    directory = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    body = struct.pack("<3H2x3H2x", *[bits] * 3, *[form] * 3) + bytes(size)
    head = b"II*\0" + struct.pack("<I", 8 + len(body))
    return head + body + struct.pack("<H", len(tags)) + directory + bytes(4)


def test_numbers_that_pillow_does_not_read_are_named() -> None:
    assert images.decode(tiff(8, RGB, 1), 16).max() == 0
    assert reason(tiff(32, RGB, 3)) == "no decoder for this TIFF"
    assert reason(tiff(16, LAB, 1)) == "no decoder for this TIFF"


def test_a_thumbnail_is_not_taken_for_the_photo() -> None:
    """Raw files of many cameras begin like a small TIFF that stands for the photo behind it."""
    thumbnail = 254
    assert reason(tiff(8, RGB, 1, (thumbnail, 1))) == "no decoder for camera raw"
    assert images.decode(tiff(8, RGB, 1, (thumbnail, 0)), 16).max() == 0


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"])
def test_nothing_is_written_past_python(
    capfd: pytest.CaptureFixture[str], compression: str
) -> None:
    chance = np.random.default_rng(0)
    noise = Image.fromarray(chance.integers(0, 256, (60, 60, 3), np.uint8))
    good = save(noise, "TIFF", compression=compression)
    for _ in range(60):
        content = bytearray(good)
        content[200:] = content[200:][: chance.integers(100, 4000)]
        for place in chance.integers(8, len(content), 3):
            content[place] ^= int(chance.integers(1, 256))
        try:
            images.decode(bytes(content), 16)
        except Rejected as rejected:
            assert rejected.detail
    assert capfd.readouterr() == ("", "")
    os.write(2, b"heard again\n")
    print("here, too", file=sys.stderr)
    assert capfd.readouterr().err == "heard again\nhere, too\n"


def test_a_tile_larger_than_any_picture_does_not_fill_memory() -> None:
    """A tile is unpacked as a whole, however small the picture."""
    tile = ((322, 26_000), (323, 26_000), (324, 24), (325, 768))
    with pytest.raises(Rejected, match="tiles of 26000 x 26000") as caught:
        images.decode(tiff(8, RGB, 1, *tile), 16)
    assert caught.value.reason == "too large"
