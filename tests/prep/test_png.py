"""PNGs: what lies beside the pixels refuses no picture, what belongs to them is checked."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from test_images import UPRIGHT, colours, corners, png_chunk, save

from dallebaby_cli.prep import images
from dallebaby_cli.prep.images import Rejected

PLAIN = save(corners())
XMP = b"XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta><rdf:Description tiff:Orientation='6'/>"


def beside(*chunks: bytes, png: bytes = PLAIN) -> bytes:
    """A PNG with more chunks before its pixels."""
    return png[:33] + b"".join(chunks) + png[33:]


def hurt(chunk: bytes) -> bytes:
    """A chunk with a wrong checksum."""
    return chunk[:-1] + bytes([chunk[-1] ^ 1])


def packed(size: int) -> bytes:
    return zlib.compress(bytes(size), 9)


@pytest.mark.parametrize(
    "chunks",
    [
        [hurt(png_chunk(b"tEXt", b"Comment\0made by hand"))],
        [hurt(png_chunk(b"zTXt", b"k\0\0" + packed(9)))],
        [hurt(png_chunk(b"gAMA", struct.pack(">I", 100_000)))],
        [hurt(png_chunk(b"iCCP", b"k\0\0" + packed(9)))],
        [hurt(png_chunk(b"tIME", b"\x07\xe8\1\1\1\1\1"))],
        [png_chunk(b"tEXt", b"")],
        [png_chunk(b"tIME", b"")],
        [png_chunk(b"pHYs", b"\1")],
        [png_chunk(b"tEXt", b"workflow\0" + b"[" * 3_000_000)],
        [png_chunk(b"zTXt", b"workflow\0\0" + packed(3_000_000))],
        [png_chunk(b"iTXt", b"workflow\0\1\0\0\0" + packed(3_000_000))],
        [png_chunk(b"zTXt", b"Raw profile type exif\0\0" + packed(3_000_000))],
        [png_chunk(b"zTXt", b"k\0\0" + packed(1_000_000))] * 99,
        [png_chunk(b"zTXt", b"k\0\7no zlib data")],
        [png_chunk(b"acTL", b"\0\0\0\5\0\0\0\0")],
        [png_chunk(b"acTL", b"\0")],
        [png_chunk(b"quIt", b"nobody knows")],
        [png_chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff\1\x12")],
    ],
)
def test_what_lies_beside_the_pixels_refuses_no_picture(chunks: list[bytes]) -> None:
    content = beside(*chunks)
    assert np.array_equal(images.decode(content, 48), images.decode(PLAIN, 48))
    behind = PLAIN[:-12] + b"".join(chunks) + PLAIN[-12:]
    assert np.array_equal(images.decode(behind, 48), images.decode(PLAIN, 48))


@pytest.mark.parametrize("name", [b"IHDR", b"PLTE", b"IDAT", b"IEND"])
def test_a_wrong_checksum_of_what_is_needed_is_a_reason(name: bytes) -> None:
    good = save(corners().quantize(4))
    at = good.index(name)
    wrong = bytearray(good)
    wrong[at + 4 + int.from_bytes(good[at - 4 : at])] ^= 1
    with pytest.raises(Rejected, match=name.decode()) as caught:
        images.decode(bytes(wrong), 32)
    assert caught.value.reason == "damaged"


def test_one_that_ends_early() -> None:
    for content in (PLAIN[:-12], PLAIN[:-1], PLAIN[:50], PLAIN[:8]):
        with pytest.raises(Rejected) as caught:
            images.decode(content, 32)
        assert caught.value.reason == "truncated"
    assert np.array_equal(images.decode(PLAIN + b"more", 32), images.decode(PLAIN, 32))


def test_see_through_and_turned_ones_stay_so_beside_texts() -> None:
    text = hurt(png_chunk(b"tEXt", b"Comment\0made by hand"))
    keyed = save(corners(), transparency=(255, 0, 0))
    assert colours(images.decode(beside(text, png=keyed), 32))[0] == (255, 255, 255)
    stored = corners(96, 64).transpose(images.TURNS[8])
    exif = Image.Exif()
    exif[0x0112] = 6
    name, packed_exif = b"Raw profile type exif\0", exif.tobytes()
    raw = f"\nexif\n{len(packed_exif)}\n{packed_exif.hex()}\n".encode()
    xmp = png_chunk(b"iTXt", XMP.replace(b"'", b'"'))
    for png in (
        save(stored, exif=exif),
        beside(xmp, png=save(stored)),
        beside(png_chunk(b"tEXt", name + raw), png=save(stored)),
        beside(png_chunk(b"zTXt", name + b"\0" + zlib.compress(raw)), png=save(stored)),
    ):
        assert colours(images.decode(beside(text, png=png), 32)) == UPRIGHT


def test_the_first_picture_of_an_animation() -> None:
    frames = [Image.new("RGB", (32, 32), c) for c in ("red", "blue")]
    moving = save(frames[0], save_all=True, append_images=frames[1:])
    at = moving.index(b"fdAT")
    moving = moving[: at + 4] + bytes([moving[at + 4] ^ 1]) + moving[at + 5 :]
    assert images.decode(moving, 32)[16, 16].tolist() == [255, 0, 0]
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", "a red square " * 100_000, zip=True)
    assert images.decode(save(frames[0], pnginfo=info), 32)[16, 16].tolist() == [255, 0, 0]
