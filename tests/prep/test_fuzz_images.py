"""Damaged picture files of every kind: a picture or a rejection with a name, nothing on stderr, in
little time and memory."""

import struct
import time
import zlib

import numpy as np
import pytest
from hypothesis import strategies as st
from mutations import fuzz, mutated
from PIL import Image
from test_colour import ADOBE, CHRM, inks, matrix
from test_images import corners, png_chunk, save

from dallebaby_cli.prep import colour, images, kinds
from dallebaby_cli.prep.images import Rejected

MOST_SECONDS = 20  # of one file; pictures here are small, but a header may claim 100 megapixels
REASONS = {"empty", "not an image", "truncated", "damaged", "too large", "too small", "too narrow"}

exif = Image.Exif()
exif[0x0112] = 6
LADEN = {"exif": exif, "icc_profile": matrix(*ADOBE)}
CMYK, MOVING = corners().convert("CMYK"), [corners(), corners().rotate(90)]
INKS = inks(lambda ink: (100 - 20 * sum(ink), 0, 0))

JPEGS = [
    save(corners(), "JPEG"),
    save(corners(), "JPEG", progressive=True, **LADEN),
    save(corners().convert("L"), "JPEG", restart_marker_rows=1),
    save(CMYK, "JPEG", icc_profile=INKS),
]
TIFFS = [
    save(corners(), "TIFF", compression=packing)
    for packing in (None, "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")
] + [save(CMYK, "TIFF", icc_profile=INKS), save(corners().convert("F"), "TIFF")]
PNGS = [
    save(corners(), **LADEN),
    save(corners().quantize(4), transparency=0),
    save(MOVING[0], save_all=True, append_images=MOVING[1:]),
    save(Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64))),
]
PNGS.append(
    PNGS[1][:33]
    + png_chunk(b"cICP", bytes([9, 16, 0, 1]))
    + png_chunk(b"gAMA", struct.pack(">I", 50_000))
    + png_chunk(b"cHRM", CHRM)
    + png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(500)))
    + PNGS[1][33:]
)
WRITTEN = ("BMP", "JPEG2000", "QOI", "DDS", "PPM", "ICO", "PCX", "TGA", "SGI", "AVIF")
OTHERS = [
    *(save(corners(), "WEBP", lossless=lossless, **LADEN) for lossless in (False, True)),
    save(MOVING[0], "WEBP", save_all=True, append_images=MOVING[1:]),
    save(MOVING[0], "GIF", save_all=True, append_images=MOVING[1:]),
    *(save(corners(), kind) for kind in WRITTEN if kind in Image.SAVE),
    b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 16, 16, 8, 3) + bytes(14 + 768),
]


def check(content: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    began = time.process_time()
    try:
        pixels = images.decode(content, 16)
    except Rejected as rejected:
        known = rejected.reason in REASONS or rejected.reason.startswith(kinds.NO_DECODER)
        assert known and rejected.detail
    else:
        assert pixels.shape == (16, 16, 3) and pixels.dtype == np.uint8
    assert time.process_time() - began < MOST_SECONDS
    assert capfd.readouterr() == ("", "")


def test_the_undamaged_ones_are_pictures() -> None:
    for content in (*JPEGS, *TIFFS, *PNGS, *OTHERS):
        assert images.decode(content, 16).shape == (16, 16, 3), kinds.of(content[:64])


@fuzz(content=mutated(*JPEGS))
def test_jpegs(capfd: pytest.CaptureFixture[str], content: bytes) -> None:
    check(content, capfd)


@fuzz(content=mutated(*TIFFS))
def test_tiffs(capfd: pytest.CaptureFixture[str], content: bytes) -> None:
    check(content, capfd)


def mended(content: bytes) -> bytes:
    """A PNG with right checksums, so that what is behind them is met."""
    found, at = content[:8], 8
    while at + 12 <= len(content):
        size = int.from_bytes(content[at : at + 4])
        found += png_chunk(content[at + 4 : at + 8], content[at + 8 : at + 8 + size])
        at += 12 + size
    return found


@fuzz(content=mutated(*PNGS) | mutated(*PNGS).map(mended))
def test_pngs(capfd: pytest.CaptureFixture[str], content: bytes) -> None:
    check(content, capfd)


@fuzz(content=mutated(*OTHERS))
def test_others(capfd: pytest.CaptureFixture[str], content: bytes) -> None:
    check(content, capfd)


@fuzz(profile=mutated(matrix(*ADOBE), INKS), mode=st.sampled_from(["L", "RGB", "CMYK"]))
def test_profiles(capfd: pytest.CaptureFixture[str], profile: bytes, mode: str) -> None:
    image = corners(8, 8).convert(mode)
    assert colour.to_srgb(image, profile).mode == "RGB"
    assert capfd.readouterr() == ("", "")


@fuzz(content=st.binary(max_size=100) | mutated(*(c[:200] for c in (*JPEGS, *TIFFS, *OTHERS))))
def test_kinds(content: bytes) -> None:
    kind = kinds.of(content[: kinds.BEGINNING])
    assert kind == "" or kinds.readable(kind) or kinds.refused(kind).detail
