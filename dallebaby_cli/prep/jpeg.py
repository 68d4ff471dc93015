"""JPEG files by libjpeg-turbo itself: faster than through Pillow, and what it says is heard.

Pillow goes on where the compressed data turn out to be damaged, and gives a picture that is grey or
shifted from there on. See docs/data.md for what counts as damage, and how that was measured.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from dallebaby_cli.prep.rejected import Rejected

START, SCANS, END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
FRAMES, PROGRESSIVE = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}, (0xC2, 0xC6, 0xCA, 0xCE)
TABLES = {0xDB, 0xC4}  # of quantization and of Huffman codes
APP1, APP2, APP14, COMMENT, SCAN = 0xE1, 0xE2, 0xEE, 0xFE, 0xDA
NOTES = {*range(0xE1, 0xF0), COMMENT} - {APP14}  # Adobe's says how colours are stored
NO_SEGMENT = {0, 0xFF, 0x01, *range(0xD0, 0xD9)}  # fill, and markers that nothing belongs to
EXIF, XMP, ICC = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0"
MODES = {"Gray": ("GRAY", "L"), "CMYK": ("CMYK", "CMYK"), "YCCK": ("CMYK", "CMYK")}
TOO_MUCH = re.compile(r"(\d+) extraneous bytes before marker 0x([0-9a-f]{2})")


@dataclass
class About:
    """What a file says beside its pixels."""

    info: dict[str, bytes]
    """as Pillow calls it: "exif", "xmp", "icc_profile" """
    scans: int
    """passes over the pixels"""


def about(content: bytes) -> About:
    """What a JPEG says of itself; what makes no sense says nothing."""
    info, profile = dict[str, bytes](), dict[int, bytes]()
    parts, several = 0, False  # colours or inks; whether there may be several passes
    for kind, at, end in _segments(content):
        if kind in TABLES:
            continue
        body = at + 4
        if kind == APP1 and content.startswith(EXIF, body):
            info.setdefault("exif", content[body:end])
        elif kind == APP1 and content.startswith(XMP, body):
            info.setdefault("xmp", content[body:end])
        elif kind == APP2 and content.startswith(ICC, body) and body + 14 <= end <= len(content):
            profile.setdefault(content[body + 12], content[body + 14 : end])
        elif kind in FRAMES:
            several, parts = kind in PROGRESSIVE, content[body + 5]
        elif kind == SCAN:
            several = several or content[body] < parts
    if profile:
        info["icc_profile"] = b"".join(profile[number] for number in sorted(profile))
    return About(info, content.count(SCANS) if several else 1)


def _segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Kind, start and end of what comes before the pixels, and of all the rest as one."""
    at, last = len(START), len(content) - 10
    while 0 <= at <= last:
        kind = content[at + 1]
        if content[at] != 0xFF or kind in NO_SEGMENT:
            at = content.find(b"\xff", at + 1)
            continue
        length = content[at + 2] << 8 | content[at + 3]
        end = len(content) if kind == SCAN else at + 2 + length
        yield kind, at, end
        at = end


def head(content: bytes) -> tuple[int, int, str] | None:
    """Width, height and colour space; None if this is no JPEG that can be decoded here."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content, strict=False)
    except ValueError:
        return None
    return width, height, colours


def decode(
    content: bytes, size: tuple[int, int], colours: str, enough: tuple[int, int]
) -> Image.Image | np.ndarray | None:
    """A JPEG of a size and colour space as L or CMYK, or as uint8 RGB (H, W, 3), at 1/8, 1/4 or 1/2
    of its size if that is at least `enough`; None if Pillow may know better. Raises Rejected if it
    is damaged."""
    ratio = min(has // max(1, wanted) for has, wanted in zip(size, enough, strict=True))
    scale = next((s for s in (8, 4, 2) if s <= ratio), 1)
    least = {"min_width": -(-size[0] // scale), "min_height": -(-size[1] // scale)}
    space, mode = MODES.get(colours, ("RGB", "RGB"))
    try:
        pixels = _decode(content, colorspace=space, **least, min_factor=1)
    except ValueError:
        return None
    if mode == "CMYK":  # the inks are stored the other way round, as Adobe does
        height, width, _ = pixels.shape
        return Image.frombytes(mode, (width, height), pixels.tobytes(), "raw", "CMYK;I")
    return Image.fromarray(pixels[:, :, 0]) if mode == "L" else pixels


def _decode(content: bytes, **how: Any) -> np.ndarray:
    try:
        return simplejpeg.decode_jpeg(content, **how)
    except ValueError:
        pass  # libjpeg tells of the first oddity only, which may be none of the pixels
    content = b"".join(_needed(content))
    try:
        return simplejpeg.decode_jpeg(content, **how)
    except ValueError as error:
        warning = str(error)
    if "Premature end of JPEG file" in warning:
        try:
            return simplejpeg.decode_jpeg(content + END, **how)  # perhaps that is all it lacks
        except ValueError:
            raise Rejected("truncated", warning) from None
    if "Corrupt JPEG data" in warning and not _only_padding(warning, content):
        raise Rejected("damaged", warning)
    return simplejpeg.decode_jpeg(content, **how, strict=False)


def _needed(content: bytes) -> Iterator[bytes]:
    """A JPEG without what decoding gets by without."""
    yield START
    for kind, start, end in _segments(content):
        if kind not in NOTES:
            yield content[start:end]


def _only_padding(warning: str, content: bytes) -> bool:
    """Whether all that is too much are zeros."""
    found = TOO_MUCH.search(warning)
    return found is not None and bytes(int(found[1])) + bytes((0xFF, int(found[2], 16))) in content
