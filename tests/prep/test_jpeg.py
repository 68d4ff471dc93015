"""JPEGs: damage in the compressed data is a reason, oddities around them are none."""

import time

import numpy as np
import pytest
from PIL import Image
from test_images import save

from dallebaby_cli.config import PrepConfig
from dallebaby_cli.prep import images, jpeg
from dallebaby_cli.prep.images import Rejected
from dallebaby_cli.store import codec

END = b"\xff\xd9"


def photo(width: int = 320, height: int = 240) -> Image.Image:
    """Smooth colours with grain, so that every block has something in it."""
    chance = np.random.default_rng(0)
    coarse = Image.fromarray(chance.integers(0, 256, (6, 8, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    return Image.fromarray(
        (smooth + chance.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8)
    )


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 3
    return exif


KINDS = {
    "plain": (photo(), {}),
    "turned": (photo(), {"exif": turned()}),
    "grey": (photo().convert("L"), {}),
    "inks": (photo().convert("CMYK"), {}),
    "progressive": (photo(), {"progressive": True}),
    "restarts": (photo(), {"restart_marker_rows": 2}),
    "full": (photo(), {"subsampling": 0}),
}


def made(kind: str) -> bytes:
    image, options = KINDS[kind]
    return save(image, "JPEG", quality=90, **options)


def middle(content: bytes) -> int:
    """A place in the middle of the compressed data."""
    return (content.index(b"\xff\xda") + len(content)) // 2


def verdict(content: bytes) -> str:
    try:
        images.decode(content, 64)
    except Rejected as rejected:
        assert rejected.detail
        return rejected.reason
    return "taken"


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_data_are_a_reason(kind: str) -> None:
    good = made(kind)
    at = middle(good)
    rubbish = np.random.default_rng(1).integers(0, 255, 60, np.uint8).tobytes()  # no 0xFF in it
    hurt = {
        "cut out": good[:at] + good[at + 500 :],
        "zeroed": good[:at] + bytes(500) + good[at + 500 :],
        "put in": good[: at + 1] + rubbish * 20 + good[at + 1 :],
    }
    assert verdict(good) == "taken"
    assert {what: verdict(content) for what, content in hurt.items()} == dict.fromkeys(
        hurt, "damaged"
    )
    assert verdict(good[:at]) == "truncated"
    assert verdict(good[:at] + END) == "damaged"


@pytest.mark.parametrize("kind", KINDS)
def test_oddities_around_the_data_are_none(kind: str) -> None:
    good = made(kind)
    start = good.index(b"\xff\xdb")  # of a part after all notes
    odd = {
        "rubbish after the end": good + bytes(range(256)) * 40,
        "another picture after the end": good + good,
        "zeros before the end": good[:-2] + bytes(100) + END,
        "fill before the end": good[:-2] + b"\xff" * 9 + END,
        "rubbish between parts": good[:start] + b"what is this?" + good[start:],
        "half a profile": good[:start] + b"\xff\xe2\0\x12ICC_PROFILE\0\7\2no" + good[start:],
        "a broken note": good[:start] + b"\xff\xe1\0\x0aExif\0\0\xff\xff" + good[start:],
    }
    if kind != "progressive":
        odd["no end"] = good[:-2]
    expected = images.decode(good, 64)
    for what, content in odd.items():
        assert np.array_equal(images.decode(content, 64), expected), what


def test_damage_is_heard_of_behind_another_oddity() -> None:
    good = made("plain")
    at = middle(good)
    hurt = good[:at] + good[at + 500 :]
    assert verdict(hurt[:2] + b"what is this?" + hurt[2:]) == "damaged"
    assert verdict(hurt[:2] + b"\xff\xe2\0\x12ICC_PROFILE\0\7\2no" + hurt[2:]) == "damaged"
    assert verdict(hurt + bytes(1000)) == "damaged"


def test_passes_without_end_are_refused_at_once() -> None:
    content = save(photo(1200, 1000), "JPEG", progressive=True)
    first = content.index(b"\xff\xda")
    second = min(content.index(mark, first + 2) for mark in (b"\xff\xda", b"\xff\xc4"))
    many = content[:second] + content[first:second] * 2000 + content[second:]
    assert jpeg.about(content).scans < 20
    began = time.process_time()
    with pytest.raises(Rejected, match=r"2,0\d\d passes over 1200 x 1000 pixels") as caught:
        images.decode(many, 64)
    assert caught.value.reason == "too large" and time.process_time() - began < 2
    assert verdict(content) == "taken"


def test_passes_over_one_colour_after_another_count_too() -> None:
    """Of a sequential JPEG whose colours come apart, any may come again and again."""
    content = bytearray(made("plain"))
    frame, scan = content.index(b"\xff\xc0"), content.index(b"\xff\xda")
    assert content[frame + 9] == content[scan + 4] == 3
    content[scan + 4] = 1
    assert jpeg.about(bytes(content[:-2]) + bytes(content[scan:]) * 99).scans == 100
    assert jpeg.about(made("plain") + made("plain")).scans == 1


def test_a_stored_one_that_is_damaged_is_not_shown() -> None:
    stored = codec.encode(np.asarray(photo()), PrepConfig(encoding="jpeg"))
    at = middle(stored)
    assert codec.read_stored(stored).shape == (240, 320, 3)
    with pytest.raises(ValueError, match="Corrupt JPEG data"):
        codec.read_stored(stored[:at] + stored[at + 500 :])
