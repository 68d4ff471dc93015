"""Bytes of any kind → a checked square picture, or a rejection with a name.

Every picture is decoded once, here, so that training never meets a bad one. The shorter side is
resized with antialiasing and the centre is kept (fit "crop"), or the longer side is and white is
put around (fit "pad"). Reasons: empty, not an image, no decoder for …, truncated, damaged,
too large, too small, too narrow.
"""

import io
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from dallebaby_cli.prep import colour, jpeg, kinds, png
from dallebaby_cli.prep.rejected import Rejected as Rejected

Fit = Literal["crop", "pad"]

MAX_PIXELS = 100_000_000
MIN_SIDE = 4
MAX_RATIO = 8  # longer side over shorter side
GAP = 1.5  # fast coarse reduction ends above so many times the final size; a filter does the rest
MAX_SCANNED = 20 * MAX_PIXELS  # pixels times passes over them: half a minute

USE, TILE_WIDTH, TILE_HEIGHT = 254, 322, 323  # tags of TIFF
THUMBNAIL = 1  # a use

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF orientation → how to make the picture upright


def decode(content: bytes, px: int, fit: Fit = "crop") -> np.ndarray:
    """A picture file → uint8 RGB (px, px, 3). Raises Rejected."""
    with _rejecting(content):
        if content.startswith(jpeg.START) and (head := jpeg.head(content)):
            pixels = _jpeg(content, head, px, fit)
            if pixels is not None:
                return pixels
        with _opened(content, px, fit) as image:
            return _square(image, px, fit)


def side(content: bytes | np.ndarray, fit: Fit = "crop") -> int:
    """What becomes the side of the square: the shorter side in pixels of a picture that `decode` or
    `square` takes, the longer one where white is put around."""
    if isinstance(content, np.ndarray):
        size = content.shape[:2]
    elif content.startswith(jpeg.START) and (head := jpeg.head(content)):
        size = head[:2]
    else:
        if content.startswith(png.START):
            content, _ = png.clean(content)
        with _quiet(), Image.open(io.BytesIO(content), formats=kinds.formats(content)) as image:
            size = image.size
    return min(size) if fit == "crop" else max(size)


def layers(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """A picture file as large as it is and upright: how bright it is, and how opaque, uint8 (H, W)
    each. Raises Rejected."""
    with _rejecting(content), _whole(content) as image:
        turn = _turn(image)
        opacity = Image.new("L", image.size, 255)
        if image.has_transparency_data and not image.mode.startswith(("I", "F")):
            image = image.convert("RGBA")
            opacity = image.getchannel("A")
        else:
            image = _to_rgb(image, None)
        both = [image.convert("L"), opacity]  # of what is transparent, the ink
        if turn is not None:
            both = [layer.transpose(turn) for layer in both]
        bright, opaque = map(np.asarray, both)
        return bright, opaque


@contextmanager
def _rejecting(content: bytes) -> Iterator[None]:
    """Whatever decoding a file fails with becomes a Rejected."""
    if not content:
        raise Rejected("empty", "the file has no bytes")
    try:
        yield
    except Rejected:
        raise
    except UnidentifiedImageError:
        raise _not_opened(content) from None
    except (Image.DecompressionBombError, MemoryError) as error:
        raise Rejected("too large", str(error)) from None
    except Exception as error:  # decoders fail in any way on files made wrong or to harm
        detail = f"{type(error).__name__}: {error}"
        cut_off = "truncated" in str(error).lower() or isinstance(error, EOFError)
        raise Rejected("truncated" if cut_off else "damaged", detail) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Pillow complains about odd files; we name what is wrong."""
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _silent() -> Iterator[None]:
    """libtiff writes to stderr itself, past all of Python: nothing gets there meanwhile."""
    stderr, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nothing)


def _not_opened(content: bytes) -> Rejected:
    """Why Pillow does not know a file as a picture."""
    kind = kinds.of(content[:1000])
    if not kind:
        return Rejected("not an image", f"begins with {content[:16]!r}")
    if not kinds.readable(kind):
        return kinds.refused(kind)
    with _quiet():
        why = kinds.complaint(kind, content)
    if "mode" in why or "unknown" in why:
        return Rejected(f"{kinds.NO_DECODER}this {kind}", why)
    return Rejected("truncated" if "unpack" in why else "damaged", why)


def square(pixels: np.ndarray, px: int, fit: Fit = "crop") -> np.ndarray:
    """Pixels uint8 RGB (H, W, 3) → uint8 RGB (px, px, 3). Raises Rejected."""
    if pixels.shape == (px, px, 3):
        return pixels
    _check_size(pixels.shape[1], pixels.shape[0])
    return _fitted(Image.fromarray(pixels), None, px, fit)


def _check_size(width: int, height: int, scans: int = 1) -> None:
    size = f"{width} x {height} pixels"
    if scans * width * height > MAX_SCANNED:
        passes = f"{scans:,} passes over {size}"
        raise Rejected("too large", f"{passes}; the limit is {MAX_SCANNED:,} in all")
    if width * height > MAX_PIXELS:
        raise Rejected("too large", f"{size}; the limit is {MAX_PIXELS:,} in all")
    if min(width, height) < MIN_SIDE:
        raise Rejected("too small", f"{size}; the limit is {MIN_SIDE} a side")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise Rejected("too narrow", f"{size}; the limit is {MAX_RATIO}:1")


def _jpeg(content: bytes, head: tuple[int, int, str], px: int, fit: Fit) -> np.ndarray | None:
    """The square of a JPEG; None if Pillow may know better."""
    found = _read_jpeg(content, head, _enough(*head[:2], px, fit))
    if found is None:
        return None
    image, info = found
    if isinstance(image, np.ndarray):
        if not info:
            return square(image, px, fit)
        image = Image.fromarray(image)
    image.info.update(info)
    return _square(image, px, fit)


def _read_jpeg(
    content: bytes, head: tuple[int, int, str], enough: tuple[int, int]
) -> tuple[np.ndarray | Image.Image, dict[str, Any]] | None:
    """A JPEG, not smaller than `enough`, and what is noted in it; None if Pillow may know better.
    Raises Rejected."""
    width, height, colours = head
    about = jpeg.about(content)
    _check_size(width, height, about.scans)
    image = jpeg.decode(content, (width, height), colours, enough)
    return None if image is None else (image, about.info)


@contextmanager
def _whole(content: bytes) -> Iterator[Image.Image]:
    """A picture of any kind as large as it is, loaded; JPEGs are read as `decode` reads them."""
    head = jpeg.head(content) if content.startswith(jpeg.START) else None
    found = _read_jpeg(content, head, head[:2]) if head else None
    if found is not None:
        image = Image.fromarray(found[0]) if isinstance(found[0], np.ndarray) else found[0]
        image.info.update(found[1])
        yield image
    else:
        with _opened(content, MAX_PIXELS, "crop") as image:
            yield image


@contextmanager
def _opened(content: bytes, px: int, fit: Fit) -> Iterator[Image.Image]:
    """A picture of any kind as Pillow reads it, loaded."""
    profile = None
    if content.startswith(png.START):
        content, profile = png.clean(content)
    with _quiet(), Image.open(io.BytesIO(content), formats=kinds.formats(content)) as image:
        if image.format == "TIFF":
            _check_tiff(image.tag_v2)  # type: ignore[attr-defined]
        scans = jpeg.about(content).scans if image.format in ("JPEG", "MPO") else 1
        _check_size(*image.size, scans)
        image.draft(None, _enough(*image.size, px, fit))  # JPEG decodes at 1/2, 1/4, 1/8 for free
        with _silent() if image.format == "TIFF" else nullcontext():
            image.load()
        _check_size(*image.size)  # of an icon it may turn out to be another
        if image.format in ("AVIF", "HEIF"):
            profile = colour.boxed(content)
        if profile is not None:
            image.info.setdefault("icc_profile", profile)
        yield image


def _square(image: Image.Image, px: int, fit: Fit) -> np.ndarray:
    """A loaded picture, upright and in sRGB."""
    turn = _turn(image)  # asked after loading, which turns a TIFF upright by itself
    profile = image.info.get("icc_profile")
    if not profile:
        image = _to_rgb(image, None)
    elif image.mode not in ("L", "RGB", "CMYK") or image.has_transparency_data:
        image, profile = _to_rgb(image, profile), None
    pixels = _fitted(image, profile, px, fit)
    return pixels if turn is None else np.asarray(Image.fromarray(pixels).transpose(turn))


def _check_tiff(tags: Mapping[int, int]) -> None:
    if tags.get(USE, 0) & THUMBNAIL:
        raise Rejected("no decoder for camera raw", "what comes first in it is a thumbnail")
    tile = tags.get(TILE_WIDTH, 0), tags.get(TILE_HEIGHT, 0)
    if tile[0] * tile[1] > MAX_PIXELS:  # each is unpacked as a whole
        raise Rejected("too large", f"tiles of {tile[0]} x {tile[1]} pixels")


def _turn(image: Image.Image) -> Image.Transpose | None:
    if not image.info:
        return None
    try:
        with _quiet():
            return TURNS.get(image.getexif().get(0x0112, 1))
    except Exception:  # a broken EXIF block does not spoil the picture
        return None


def _fitted(image: Image.Image, profile: bytes | None, px: int, fit: Fit) -> np.ndarray:
    """L, RGB or CMYK → the square in sRGB: small pictures are converted, as it takes less time."""
    if fit == "pad":
        scale = px / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        small = image.resize(size, _filter(max(image.size), px), reducing_gap=GAP)
        canvas = Image.new("RGB", (px, px), "white")
        canvas.paste(colour.to_srgb(small, profile), ((px - size[0]) // 2, (px - size[1]) // 2))
        return np.asarray(canvas)
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    if box != (0, 0, px, px):
        image = image.resize((px, px), _filter(side, px), box, reducing_gap=GAP)
    return np.asarray(colour.to_srgb(image, profile))


def _enough(width: int, height: int, px: int, fit: Fit) -> tuple[int, int]:
    """A coarse size that a filter still makes a good picture of."""
    fitted = min(width, height) if fit == "crop" else max(width, height)
    return int(GAP * px * width / fitted), int(GAP * px * height / fitted)


def _filter(side: int, px: int) -> Image.Resampling:
    """Hamming shrinks as sharply as bicubic with half the work; to enlarge, Lanczos is better."""
    return Image.Resampling.HAMMING if side > px else Image.Resampling.LANCZOS


def _to_rgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Any mode → RGB in sRGB; transparent parts become white."""
    if image.mode.startswith(("I", "F")):
        image = _to_eight_bits(image)
    if image.mode == "LAB":
        return colour.lab_to_srgb(image)
    if not image.has_transparency_data:
        inks = image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")
        return colour.to_srgb(inks, profile)
    grey = image.mode in ("L", "LA")
    layer = image.convert("LA" if grey else "RGBA")
    white = Image.new("RGB", layer.size, "white")
    inks = layer.convert("L" if grey else "RGB")
    white.paste(colour.to_srgb(inks, profile), mask=layer.getchannel("A"))
    return white


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits, 32 bits or floating point → 8 bits; the range is guessed from the values."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float32))
    top = 65535 if image.mode.startswith("I;16") else float(values.max())
    scale = next((s for s in (1, 255, 65535) if top <= s), max(top, 1))
    return Image.fromarray((values.clip(0, scale) * (255 / scale) + 0.5).astype(np.uint8))
