"""What a picture's numbers mean: colours as its profile describes them → sRGB, what screens show.

A profile is an ICC profile's bytes, as files carry it. Where a file only gives figures (PNG's cICP,
gAMA and cHRM, AVIF's nclx), a profile is made of them, so that there is one way to convert. What
has no profile is sRGB already.
"""

import io
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from PIL import ImageCms  # loaded where there is a profile

MOST_BYTES = 4_000_000  # of a profile; those of printing inks have 2,000,000 at most
FAR = 65536  # bytes from the start within which boxes tell of colours
GRID = 9  # levels of each colour that tell whether a profile changes anything
UNSEEN = 2  # levels of 255 that sRGB profiles of different makers are apart

D50 = np.array([0.9642, 1.0, 0.8249])  # the white that profiles are relative to
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
D65 = (0.3127, 0.3290)
PRIMARIES = {  # number in ITU-T H.273 → x and y of white, red, green, blue
    1: (*D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06),
    5: (*D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    9: (*D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    22: (*D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),
}
SRGB = PRIMARIES[1]
GAMMA = 1 / 2.2  # written for sRGB by programs that know no better
GAMMA_LIKE = 0.05  # relative difference that viewers take for the same
WHITE_NITS = 203  # of HDR's paper white, ITU-R BT.2408

Curve = Callable[[np.ndarray], np.ndarray]  # stored 0..1 → light 0..1, more is clipped


def _srgb(v: np.ndarray) -> np.ndarray:
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def _pq(v: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084, paper white as 1."""
    root = v ** (32 / 2523)
    light = np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)
    return light ** (8192 / 1305) * 10_000 / WHITE_NITS


def _hlg(v: np.ndarray) -> np.ndarray:
    """ARIB STD-B67, paper white (a signal of 0.75) as 1."""
    light = np.where(v <= 0.5, v**2 / 3, (np.exp((v - 0.55991073) / 0.17883277) + 0.28466892) / 12)
    return light / 0.26496256


CURVES: dict[int, Curve] = {  # number in ITU-T H.273 → how it is decoded; video's as browsers do
    **dict.fromkeys((1, 6, 13, 14, 15), _srgb),
    4: lambda v: v**2.2,
    5: lambda v: v**2.8,
    8: lambda v: v,
    16: _pq,
    18: _hlg,
}


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """L, RGB or CMYK → RGB in sRGB. A profile that is broken or for other inks is ignored."""
    usable = profile is not None and len(profile) <= MOST_BYTES
    mode, change = _change(profile, image.mode) if usable else ("", None)
    if change is None:
        return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it
    converted = change.apply(image if image.mode == mode else image.convert(mode))
    return converted


def lab_to_srgb(image: Image.Image) -> Image.Image:
    """CIE L*a*b* → RGB in sRGB."""
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(lab, srgb, "LAB", "RGB").apply(image)


@lru_cache(maxsize=16)
def _change(profile: bytes, mode: str) -> tuple[str, "ImageCms.ImageCmsTransform | None"]:
    """The mode to bring pictures of `mode` into, and what turns that into sRGB; None where nothing
    is to be done, or can be."""
    from PIL import ImageCms

    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = opened.profile.xcolor_space.strip()
        wanted = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}.get(space)
        if wanted is None or (mode != wanted and (mode, wanted) != ("L", "RGB")):
            return mode, None
        srgb = ImageCms.createProfile("sRGB")
        change = ImageCms.buildTransform(opened, srgb, wanted, "RGB")
    except Exception:  # PyCMSError, OSError, ValueError …: a broken profile spoils no picture
        return mode, None
    if wanted == "RGB":
        levels = np.linspace(0, 255, GRID).astype(np.uint8)
        grid = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(GRID, -1, 3)
        after = np.asarray(change.apply(Image.fromarray(grid)))
        if np.abs(after.astype(int) - grid).max() <= UNSEEN:
            return mode, None
    return wanted, change


def coded(primaries: int, transfer: int, full_range: bool = True) -> bytes | None:
    """The profile that two numbers of ITU-T H.273 mean; None where they say nothing we know."""
    if primaries not in PRIMARIES or transfer not in CURVES:
        return None
    stored = np.linspace(0, 255, 256)
    if not full_range:
        stored = ((stored - 16) * 255 / 219).clip(0, 255)
    return _profile(PRIMARIES[primaries], CURVES[transfer](stored / 255))


def boxed(content: bytes) -> bytes | None:
    """The profile that the numbers in an AVIF's or HEIF's boxes mean."""
    at = content.find(b"colrnclx", 0, FAR)
    if not 0 <= at <= len(content) - 12:
        return None
    return coded(*struct.unpack_from(">HH", content, at + 8))


def measured(gamma: float | None, chromaticities: tuple[float, ...] | None) -> bytes | None:
    """The profile of PNG's gAMA and cHRM; sRGB's stand for what is not given."""
    stored = np.linspace(0, 1, 256)
    if not gamma or abs(gamma / GAMMA - 1) <= GAMMA_LIKE:
        return _profile(chromaticities or SRGB, _srgb(stored))
    return _profile(chromaticities or SRGB, stored ** (1 / gamma))


@lru_cache(maxsize=16)
def _matrix(chromaticities: tuple[float, ...]) -> np.ndarray | None:
    """Red, green and blue as columns of XYZ, relative to D50."""
    xy = np.array(chromaticities).reshape(4, 2)
    try:
        white, *colours = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in xy.tolist())
        primaries = np.stack(colours, 1)
        primaries = primaries * np.linalg.solve(primaries, white)
        adapt = np.diag((BRADFORD @ D50) / (BRADFORD @ white))
        found: np.ndarray = np.linalg.solve(BRADFORD, adapt @ BRADFORD @ primaries)
    except (ArithmeticError, np.linalg.LinAlgError):
        return None
    return found if np.isfinite(found).all() and np.abs(found).max() < 100 else None


def _profile(chromaticities: tuple[float, ...], curve: np.ndarray) -> bytes | None:
    """An ICC profile of primaries and a curve of 256 points; None if they are impossible."""
    matrix = _matrix(chromaticities)
    if matrix is None:
        return None

    def xyz(values: np.ndarray) -> bytes:
        return struct.pack(">3i", *np.round(values * 65536).astype(int).tolist())

    points = np.round(curve.clip(0, 1) * 65535).astype(">u2").tobytes()
    bodies = [b"XYZ \0\0\0\0" + xyz(values) for values in (D50, *matrix.T)]
    bodies.append(struct.pack(">4s4xI", b"curv", len(curve)) + points)
    tags = ("wtpt", "rXYZ", "gXYZ", "bXYZ", "rTRC", "gTRC", "bTRC")
    start = 128 + 4 + 12 * len(tags)
    table, offset = struct.pack(">I", len(tags)), start
    for number, tag in enumerate(tags):
        body = bodies[min(number, 4)]
        table += tag.encode() + struct.pack(">II", offset, len(body))
        offset += len(body) if number < 4 else 0
    size = start + sum(map(len, bodies))
    header = struct.pack(
        ">I4xI4s4s4s12x4s28x", size, 0x02400000, b"mntr", b"RGB ", b"XYZ ", b"acsp"
    )
    return header + xyz(D50) + bytes(48) + table + b"".join(bodies)
