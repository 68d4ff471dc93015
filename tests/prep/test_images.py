"""Decoding: every kind of picture comes out as upright 8-bit RGB, every bad one is named."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dallebaby_cli.config import PrepConfig
from dallebaby_cli.prep import images, jpeg
from dallebaby_cli.prep.images import Rejected
from dallebaby_cli.store import codec

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def save(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def corners(width: int = 64, height: int = 64) -> Image.Image:
    """Red and green over blue and white."""
    pixels = np.zeros((height, width, 3), np.uint8)
    top, left = height // 2, width // 2
    pixels[:top, :left], pixels[:top, left:] = RED, GREEN
    pixels[top:, :left], pixels[top:, left:] = BLUE, WHITE
    return Image.fromarray(pixels)


def colours(pixels: np.ndarray) -> list[tuple[int, ...]]:
    """The colours in the middle of the four quarters, rounded to black, full or half."""
    quarter = len(pixels) // 4
    spots = [(y, x) for y in (quarter, -quarter) for x in (quarter, -quarter)]
    return [tuple(int(round(v / 127.5) * 127.5) for v in pixels[spot]) for spot in spots]


def reason(content: bytes) -> str:
    with pytest.raises(Rejected) as caught:
        images.decode(content, 32)
    assert caught.value.detail
    return caught.value.reason


UPRIGHT = [RED, GREEN, BLUE, WHITE]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_format_is_read(kind: str) -> None:
    pixels = images.decode(save(corners(), kind), 32)
    assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8
    assert colours(pixels) == UPRIGHT


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_undone(orientation: int, kind: str) -> None:
    stored = corners(96, 64)
    turns = images.TURNS
    undo = {6: turns[8], 8: turns[6]}.get(orientation, turns.get(orientation))
    if undo is not None:
        stored = stored.transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert colours(images.decode(save(stored, kind, exif=exif), 32)) == UPRIGHT


def test_transparency_of_every_sort_becomes_white() -> None:
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 64, 32))
    rgba = corners()
    rgba.putalpha(mask)
    assert colours(images.decode(save(rgba), 32)) == [RED, GREEN, WHITE, WHITE]
    grey = Image.merge("LA", (Image.new("L", (64, 64), 0), mask))
    black = (0, 0, 0)
    assert colours(images.decode(save(grey), 32)) == [black, black, WHITE, WHITE]
    keyed = save(corners(), transparency=BLUE)
    assert colours(images.decode(keyed, 32)) == [RED, GREEN, WHITE, WHITE]
    palette = corners().quantize(4)
    blue = palette.getpixel((16, 48))
    assert colours(images.decode(save(palette, transparency=blue), 32)) == [
        RED,
        GREEN,
        WHITE,
        WHITE,
    ]


def test_half_transparent_is_mixed_with_white() -> None:
    pixels = images.decode(save(Image.new("RGBA", (64, 64), (255, 0, 0, 127))), 32)
    assert colours(pixels)[0] == (255, 127, 127)


def test_modes() -> None:
    assert colours(images.decode(save(corners().convert("CMYK"), "JPEG"), 32)) == UPRIGHT
    assert colours(images.decode(save(corners().quantize(4)), 32)) == UPRIGHT
    bits = Image.new("1", (64, 64), 1)
    assert colours(images.decode(save(bits), 32)) == [WHITE] * 4
    for mode in ("L", "1", "P"):
        assert images.decode(save(corners().convert(mode)), 32).shape == (32, 32, 3)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_deep_grey_keeps_its_brightness(level: int) -> None:
    deep = np.full((64, 64), level * 257, np.uint16)
    deep[0, 0] = 65535
    floating = Image.fromarray(deep.astype(np.float32) / 65535)
    for content in (
        save(Image.fromarray(deep)),
        save(Image.fromarray(deep), "TIFF"),
        save(Image.fromarray(deep.astype(np.int32)), "TIFF"),
        save(floating, "TIFF"),
    ):
        assert abs(int(images.decode(content, 32)[20, 20, 0]) - level) <= 1


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (32, 32), c) for c in (RED, GREEN, BLUE)]
    for kind in ("GIF", "WEBP", "PNG"):
        content = save(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
        assert colours(images.decode(content, 32)) == [RED] * 4


def test_the_centre_is_kept_and_the_shorter_side_fits() -> None:
    wide = Image.new("RGB", (300, 100), WHITE)
    wide.paste(RED, (100, 0, 200, 100))
    assert colours(images.decode(save(wide), 32)) == [RED] * 4
    tall = wide.transpose(Image.Transpose.ROTATE_90)
    assert colours(images.decode(save(tall, "JPEG"), 32)) == [RED] * 4


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_padding_keeps_all_of_it(kind: str) -> None:
    content = save(Image.new("RGB", (400, 200), RED), kind)
    pixels = images.decode(content, 32, "pad")
    assert (pixels[:8] == 255).all() and (pixels[24:] == 255).all()
    assert (pixels[9:23, :, 0] > 250).all() and (pixels[9:23, :, 1:] < 5).all()
    assert images.square(np.zeros((9, 64, 3), np.uint8), 16, "pad").shape == (16, 16, 3)


def test_shrinking_is_antialiased() -> None:
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    for kind in ("PNG", "JPEG"):
        pixels = images.decode(save(Image.fromarray(stripes), kind), 32)
        assert np.abs(pixels.astype(int) - 128).max() < 12


def test_fast_jpeg_shrinking_is_close_to_the_exact_one() -> None:
    x, y = np.meshgrid(np.linspace(0, 9, 1600), np.linspace(0, 7, 1200))
    smooth = np.stack([np.sin(x + y), np.cos(x * y / 9), np.sin(3 * x)], -1) * 127 + 128
    image = Image.fromarray(smooth.astype(np.uint8))
    content = save(image, "JPEG", quality=95)
    box = (200, 0, 1400, 1200)
    exact = Image.open(io.BytesIO(content)).resize((64, 64), Image.Resampling.LANCZOS, box)
    error = images.decode(content, 64).astype(float) - np.asarray(exact)
    assert np.abs(error).mean() < 1.5


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_the_fast_jpeg_decoder_gives_what_pillow_gives(
    monkeypatch: pytest.MonkeyPatch, subsampling: int, progressive: bool
) -> None:
    photo = Image.effect_mandelbrot((333, 251), (-2, -1.2, 1, 1.2), 50).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"subsampling": subsampling, "progressive": progressive, "exif": exif}
    pictures = (photo, corners(97, 64), photo.convert("L"), photo.convert("CMYK"))
    contents = [save(image, "JPEG", **options) for image in pictures]
    sizes = (16, 32, 64, 128, 256)
    fast = [images.decode(content, px) for content in contents for px in sizes]
    monkeypatch.setattr(jpeg, "head", lambda _: None)
    exact = [images.decode(content, px) for content in contents for px in sizes]
    assert all(map(np.array_equal, fast, exact))


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def png_claiming(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = png_chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + body + png_chunk(b"IEND", b"")


def test_bad_files_are_named() -> None:
    jpeg, png = save(corners(256, 256), "JPEG"), save(corners(256, 256))
    assert reason(b"") == "empty"
    assert reason(b"<html>404 not found</html>") == "not an image"
    assert reason(b"%!PS-Adobe-3.0 EPSF-3.0") == "no decoder for PostScript"
    assert reason(b"<svg xmlns=") == "no decoder for SVG"
    assert reason(b"\0" * 4096) == "not an image"
    assert reason(jpeg[: len(jpeg) // 2]) == "truncated"
    assert reason(png[: len(png) // 2]) in ("truncated", "damaged")
    assert reason(save(corners(), "GIF")[:60]) in ("truncated", "damaged")
    assert reason(png_claiming(20_000, 20_000)) == "too large"
    assert reason(png_claiming(11_000, 11_000)) == "too large"
    assert reason(png_claiming(100, 100)) in ("truncated", "damaged")
    assert reason(save(Image.new("RGB", (900, 100)))) == "too narrow"
    assert reason(save(Image.new("RGB", (1, 1)))) == "too small"
    hurt = bytearray(png)
    hurt[60] ^= 255
    assert reason(bytes(hurt)) == "damaged"


def test_broken_exif_does_not_spoil_a_picture(capfd: pytest.CaptureFixture[str]) -> None:
    content = save(corners(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    assert colours(images.decode(content, 32)) == UPRIGHT
    assert capfd.readouterr() == ("", "")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_damage_makes_anything_but_a_picture_or_a_rejection(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]))
    content = bytearray(save(corners(40, 40), kind))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        pixels = images.decode(bytes(content), 16)
    except Rejected as rejected:
        assert rejected.reason in (
            "not an image",
            "no decoder for this TIFF",
            "truncated",
            "damaged",
            "too large",
            "too small",
            "too narrow",
        )
    else:
        assert pixels.shape == (16, 16, 3) and pixels.dtype == np.uint8


@pytest.mark.parametrize("encoding", ["png", "jpeg", "webp"])
def test_what_is_stored_is_read_back(encoding: str) -> None:
    pixels = np.asarray(corners())
    config = PrepConfig(encoding=encoding)
    back = codec.read_stored(codec.encode(pixels, config))
    assert colours(back) == UPRIGHT
    if encoding == "png":
        assert np.array_equal(back, pixels)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 9))
def test_our_png_is_anybodys_png(width: int, height: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    stored = codec.encode(pixels, PrepConfig())
    assert np.array_equal(codec.read_stored(stored), pixels)
    with Image.open(io.BytesIO(stored)) as opened:
        opened.verify()
    with Image.open(io.BytesIO(stored)) as opened:
        assert opened.mode == "RGB" and np.array_equal(np.asarray(opened), pixels)
    assert np.array_equal(codec.read_stored(save(Image.fromarray(pixels))), pixels)
    with pytest.raises((OSError, SyntaxError)):
        codec.read_stored(stored[: len(stored) // 2])


def test_pixels_of_other_sizes_are_fitted() -> None:
    assert colours(images.square(np.asarray(corners(96, 64)), 32)) == UPRIGHT
    with pytest.raises(Rejected):
        images.square(np.zeros((1, 1, 3), np.uint8), 32)
