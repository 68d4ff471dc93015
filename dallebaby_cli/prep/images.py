"""Bytes of any kind → a checked square picture, or a rejection with a name.

Every picture is decoded once, here, so that training never meets a bad one. The shorter side is
resized with antialiasing and the centre is kept (fit "crop"), or the longer side is and white is
put around (fit "pad"). Reasons: empty, not an image, no decoder for …, truncated, damaged,
too large, too small, too narrow.
"""

import io
import logging
import warnings
from typing import Literal

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from dallebaby_cli.prep import kinds

Fit = Literal["crop", "pad"]

MAX_PIXELS = 100_000_000
MIN_SIDE = 4
MAX_RATIO = 8  # longer side over shorter side
GAP = 1.5  # fast coarse reduction ends above so many times the final size; a filter does the rest

JPEG, APP1, SCAN = b"\xff\xd8", b"\xff\xe1", b"\xff\xda"  # begin: all, EXIF or XMP, pixels

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF orientation → how to make the picture upright


class Rejected(Exception):
    """A picture that cannot be used: `reason` is one of a few names, `detail` says more."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def decode(content: bytes, px: int, fit: Fit = "crop") -> np.ndarray:
    """A picture file → uint8 RGB (px, px, 3). Raises Rejected."""
    if not content:
        raise Rejected("empty", "the file has no bytes")
    plain = _plain_jpeg(content, px, fit)
    if plain is not None:
        return _fitted(plain, px, fit)
    quiet = logging.getLogger("PIL")
    quiet.setLevel(logging.CRITICAL)  # Pillow complains about odd files; we name what is wrong
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(content), formats=kinds.formats()) as image:
                _check_size(*image.size)
                if image.format == "PNG":  # the only one with checksums, and decoding skips them
                    with Image.open(io.BytesIO(content), formats=("PNG",)) as again:
                        again.verify()
                return _square(image, px, fit)
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


def _not_opened(content: bytes) -> Rejected:
    """Why Pillow does not know a file as a picture."""
    kind = kinds.of(content[:1000])
    if not kind:
        return Rejected("not an image", f"begins with {content[:16]!r}")
    if not kinds.readable(kind):
        return Rejected(f"no decoder for {kind}", kinds.advice(kind))
    why = kinds.complaint(kind, content)
    if "mode" in why or "unknown" in why:
        return Rejected(f"no decoder for this {kind}", why)
    return Rejected("truncated" if "unpack" in why else "damaged", why)


def square(pixels: np.ndarray, px: int, fit: Fit = "crop") -> np.ndarray:
    """Pixels uint8 RGB (H, W, 3) → uint8 RGB (px, px, 3). Raises Rejected."""
    if pixels.shape == (px, px, 3):
        return pixels
    _check_size(pixels.shape[1], pixels.shape[0])
    return _square(Image.fromarray(pixels), px, fit)


def _check_size(width: int, height: int) -> None:
    size = f"{width} x {height} pixels"
    if width * height > MAX_PIXELS:
        raise Rejected("too large", f"{size}; the limit is {MAX_PIXELS:,} in all")
    if min(width, height) < MIN_SIDE:
        raise Rejected("too small", f"{size}; the limit is {MIN_SIDE} a side")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise Rejected("too narrow", f"{size}; the limit is {MAX_RATIO}:1")


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return TURNS.get(image.getexif().get(0x0112, 1))
    except Exception:  # a broken EXIF block does not spoil the picture
        return None


def _square(image: Image.Image, px: int, fit: Fit) -> np.ndarray:
    image.draft(None, _enough(*image.size, px, fit))  # JPEG decodes at 1/2, 1/4 or 1/8 for free
    image.load()
    turn = _turn(image)  # asked after loading, which turns a TIFF upright by itself
    pixels = _fitted(_to_rgb(image), px, fit)
    return pixels if turn is None else np.asarray(Image.fromarray(pixels).transpose(turn))


def _fitted(image: Image.Image, px: int, fit: Fit) -> np.ndarray:
    if fit == "pad":
        image = _padded(image, px)
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    if box != (0, 0, px, px):
        image = image.resize((px, px), _filter(side, px), box, reducing_gap=GAP)
    return np.asarray(image)


def _enough(width: int, height: int, px: int, fit: Fit) -> tuple[int, int]:
    """A coarse size that a filter still makes a good picture of."""
    fitted = min(width, height) if fit == "crop" else max(width, height)
    return int(GAP * px * width / fitted), int(GAP * px * height / fitted)


def _plain_jpeg(content: bytes, px: int, fit: Fit) -> Image.Image | None:
    """What Pillow decodes a JPEG to, to the last bit, only faster. None if it may be turned, is not
    in colour, or is damaged: Pillow knows what to do, or names what is wrong."""
    if not _upright(content):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        _check_size(width, height)
        if colours != "YCbCr":
            return None
        enough = _enough(width, height, px, fit)
        ratio = min(width // max(1, enough[0]), height // max(1, enough[1]))
        scale = next((s for s in (8, 4, 2) if s <= ratio), 1)
        least = {"min_height": -(-height // scale), "min_width": -(-width // scale)}
        return Image.fromarray(simplejpeg.decode_jpeg(content, **least, min_factor=1))
    except ValueError:
        return None


def _upright(content: bytes) -> bool:
    """Whether this is a JPEG that says nothing of how it must be turned."""
    at, kind = 0, content[:2]
    if kind != JPEG:
        return False
    while kind[:1] == JPEG[:1] and kind not in (APP1, SCAN):
        at += 2 if kind == JPEG else 2 + int.from_bytes(content[at + 2 : at + 4])
        kind = content[at : at + 2]
    return kind == SCAN


def _filter(side: int, px: int) -> Image.Resampling:
    """Hamming shrinks as sharply as bicubic with half the work; to enlarge, Lanczos is better."""
    return Image.Resampling.HAMMING if side > px else Image.Resampling.LANCZOS


def _padded(image: Image.Image, px: int) -> Image.Image:
    scale = px / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    canvas = Image.new("RGB", (px, px), "white")
    small = image.resize(size, _filter(max(image.size), px), reducing_gap=GAP)
    canvas.paste(small, ((px - size[0]) // 2, (px - size[1]) // 2))
    return canvas


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode → RGB; transparent parts become white."""
    if image.mode.startswith(("I", "F")):
        image = _to_eight_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGB", layer.size, "white")
    white.paste(layer, mask=layer.getchannel("A"))
    return white


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits, 32 bits or floating point → 8 bits; the range is guessed from the values."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float32))
    top = 65535 if image.mode.startswith("I;16") else float(values.max())
    scale = next((s for s in (1, 255, 65535) if top <= s), max(top, 1))
    return Image.fromarray((values.clip(0, scale) * (255 / scale) + 0.5).astype(np.uint8))
