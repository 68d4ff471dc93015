"""Colours come out as the picture's profile means them: against figures worked out here from the
published definitions, not by the library that converts."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from test_images import png_chunk, save

from dallebaby_cli.prep import colour, images

# columns of XYZ relative to D50, as the makers of these colour spaces publish them, and exponents
ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457), 2.2)
PROPHOTO = ((0.79767, 0.28804, 0.0), (0.13519, 0.71188, 0.0), (0.03134, 0.00009, 0.82491), 1.8)
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
SWAPPED = (SRGB[1], SRGB[0], SRGB[2], 2.2)  # green where red is expected
FROM_XYZ = np.array(
    [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540],
     [0.0719453, -0.2289914, 1.4052427]]
)  # fmt: skip
D50 = (0.9642, 1.0, 0.8249)
Image.init()
AVIF = [kind for kind in ("AVIF",) if kind in Image.SAVE]  # not in every Pillow
RUST, SLATE, GREY = (200, 40, 30), (60, 90, 130), (100, 100, 100)


def xyz(values: tuple[float, ...]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))


def gamma(exponent: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH2x", 1, round(exponent * 256))


def icc(space: bytes, tags: dict[str, bytes], pcs: bytes = b"XYZ ", use: bytes = b"mntr") -> bytes:
    """An ICC profile of the tags given."""
    table, offset = struct.pack(">I", len(tags)), 132 + 12 * len(tags)
    for tag, body in tags.items():
        table += tag.encode() + struct.pack(">II", offset, len(body))
        offset += len(body)
    head = struct.pack(">I4xI4s4s4s12x4s28x", offset, 0x02100000, use, space, pcs, b"acsp")
    return head + xyz(D50)[8:] + bytes(48) + table + b"".join(tags.values())


def matrix(red: tuple, green: tuple, blue: tuple, exponent: float) -> bytes:
    curves = {f"{c}TRC": gamma(exponent) for c in "rgb"}
    colours = {"rXYZ": xyz(red), "gXYZ": xyz(green), "bXYZ": xyz(blue)}
    return icc(b"RGB ", {"wtpt": xyz(D50), **colours, **curves})


def screen(light: np.ndarray) -> np.ndarray:
    """Linear sRGB → sRGB of 0..255."""
    light = light.clip(0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def meant(stored: tuple[int, ...], space: tuple) -> np.ndarray:
    *columns, exponent = space
    return screen(FROM_XYZ @ np.array(columns).T @ (np.array(stored) / 255) ** exponent)


def shown(content: bytes) -> np.ndarray:
    """The colour of a picture of one colour."""
    pixels = images.decode(content, 32).astype(int)
    assert np.ptp(pixels, (0, 1)).max() <= 8
    return pixels[16, 16]


def plain(colour: tuple[int, ...] | int, mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (64, 64), colour)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", *AVIF])
@pytest.mark.parametrize("space", [ADOBE, PROPHOTO, SWAPPED])
def test_a_profile_is_obeyed_in_every_format(kind: str, space: tuple) -> None:
    for colours in (RUST, SLATE):
        lossless = {"lossless": True} if kind == "WEBP" else {}
        content = save(plain(colours), kind, icc_profile=matrix(*space), **lossless)
        with Image.open(io.BytesIO(content)) as opened:
            stored = opened.convert("RGB").getpixel((32, 32))
        assert isinstance(stored, tuple)
        assert np.abs(shown(content) - meant(stored, space)).max() <= 2


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_profile_goes_with_turning_shrinking_and_padding(fit: str, orientation: int) -> None:
    halves = plain(RUST).resize((640, 480))
    halves.paste(SLATE, (0, 0, 640, 240) if orientation == 1 else (0, 0, 320, 480))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"icc_profile": matrix(*ADOBE), "exif": exif, "quality": 95, "subsampling": 0}
    pixels = images.decode(save(halves, "JPEG", **options), 64, fit)  # type: ignore[arg-type]
    assert np.abs(pixels[22, 32] - meant(SLATE, ADOBE)).max() <= 4
    assert np.abs(pixels[42, 32] - meant(RUST, ADOBE)).max() <= 4
    if fit == "pad":
        assert (pixels[2, 32] if orientation == 1 else pixels[32, 2]).tolist() == [255] * 3


def test_see_through_parts_stay_white_whatever_the_profile() -> None:
    layer = plain((*RUST, 255), "RGBA")
    layer.paste((0, 0, 0, 0), (0, 0, 64, 32))
    pixels = images.decode(save(layer, icc_profile=matrix(*SWAPPED)), 32)
    assert pixels[4, 16].tolist() == [255] * 3
    assert np.abs(pixels[28, 16] - meant(RUST, SWAPPED)).max() <= 2
    palette = plain(RUST).quantize(4)
    assert np.abs(shown(save(palette, icc_profile=matrix(*ADOBE))) - meant(RUST, ADOBE)).max() <= 2


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_grey_with_a_profile(kind: str) -> None:
    linear = icc(b"GRAY", {"wtpt": xyz(D50), "kTRC": gamma(1.0)})
    expected = screen(np.array([100 / 255] * 3))  # 168
    assert np.abs(shown(save(plain(100, "L"), kind, icc_profile=linear)) - expected).max() <= 2
    deep = Image.fromarray(np.full((64, 64), 100 * 257, np.uint16))
    assert np.abs(shown(save(deep, icc_profile=linear)) - expected).max() <= 2
    holes = save(plain((100, 255), "LA"), icc_profile=linear)  # or a grey that stands for one
    for see_through in (holes, save(plain(100, "L"), icc_profile=linear, transparency=3)):
        assert np.abs(shown(see_through) - expected).max() <= 2
    coloured = save(plain(100, "L"), kind, icc_profile=matrix(*ADOBE))  # of another kind of picture
    assert np.abs(shown(coloured) - meant(GREY, ADOBE)).max() <= 2


def inks(lab: Callable[[tuple[int, ...]], tuple[float, float, float]]) -> bytes:
    """A profile of CMYK that says which L*a*b* each full or absent ink gives; between is linear."""
    corners = [lab(tuple(n >> shift & 1 for shift in (3, 2, 1, 0))) for n in range(16)]
    table = b"".join(bytes([round(p * 2.55), a + 128, b + 128]) for p, a, b in corners)  # type: ignore
    head = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + struct.pack(">9i", *[65536, 0, 0, 0] * 2, 65536)
    ramp = bytes(range(256))
    return icc(
        b"CMYK", {"wtpt": xyz(D50), "A2B0": head + ramp * 4 + table + ramp * 3}, b"Lab ", b"prtr"
    )


def from_lab(lightness: float, a: float, b: float) -> np.ndarray:
    y = (lightness + 16) / 116
    linear = [
        t**3 if t > 6 / 29 else 3 * (6 / 29) ** 2 * (t - 4 / 29)
        for t in (y + a / 500, y, y - b / 200)
    ]
    return screen(FROM_XYZ @ (np.array(linear) * D50))


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_inks_with_a_profile(kind: str) -> None:
    def lab(ink: tuple[int, ...]) -> tuple[float, float, float]:
        return (0, 0, 0) if ink[3] else (55, -37, -50) if ink == (1, 0, 0, 0) else (100, 0, 0)

    cyan = save(plain((255, 0, 0, 0), "CMYK"), kind, icc_profile=inks(lab))
    assert np.abs(shown(cyan) - from_lab(55, -37, -50)).max() <= 3
    black = save(plain((0, 0, 0, 255), "CMYK"), kind, icc_profile=inks(lab))
    assert shown(black).max() <= 2
    assert shown(save(plain((255, 0, 0, 0), "CMYK"), kind)).tolist() == [0, 255, 255]


def test_lab_without_a_profile() -> None:
    content = save(plain((140, 200, 90), "LAB"), "TIFF")
    assert np.abs(shown(content) - from_lab(140 / 2.55, 200 - 128, 90 - 128)).max() <= 3


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_broken_profile_spoils_no_picture(kind: str) -> None:
    whole, lossless = matrix(*ADOBE), {"quality": 100, "lossless": True}
    options = lossless if kind == "WEBP" else {}
    bare = shown(save(plain(RUST), kind, **options))
    for profile in (b"no profile", whole[:200], whole[:36] + b"XXXX" + whole[40:], bytes(3000)):
        assert np.array_equal(shown(save(plain(RUST), kind, icc_profile=profile, **options)), bare)
    ink = inks(lambda _: (50, 0, 0))
    assert np.array_equal(shown(save(plain(RUST), kind, icc_profile=ink, **options)), bare)


def test_a_profile_in_many_parts_or_with_a_part_missing() -> None:
    profile = matrix(*ADOBE) + bytes(150_000)
    content = save(plain(RUST), "JPEG", icc_profile=profile, quality=100)
    assert np.abs(shown(content) - meant(RUST, ADOBE)).max() <= 4
    assert content.count(b"ICC_PROFILE\0") == 3
    start = content.index(b"ICC_PROFILE\0") - 4
    cut = content[:start] + content[start + 2 + int.from_bytes(content[start + 2 : start + 4]) :]
    assert np.abs(shown(cut) - RUST).max() <= 2


def test_srgb_by_its_profile_is_left_as_it_is() -> None:
    points = np.round(decoded(np.linspace(0, 1, 1024)) * 65535).astype(">u2").tobytes()
    curve = b"curv\0\0\0\0" + struct.pack(">I", 1024) + points
    colours = {f"{c}XYZ": xyz(v) for c, v in zip("rgb", SRGB, strict=True)}
    srgb = icc(b"RGB ", {"wtpt": xyz(D50), **colours, **{f"{c}TRC": curve for c in "rgb"}})
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    for kind in ("PNG", "JPEG"):
        tagged, bare = save(noise, kind, icc_profile=srgb), save(noise, kind)
        assert np.array_equal(images.decode(tagged, 48), images.decode(bare, 48))


def decoded(v: np.ndarray) -> np.ndarray:
    """sRGB of 0..1 → linear."""
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


# ---------------------------------------------------------------- PNG's own ways

D65 = (31270, 32900)
CHRM_SWAPPED = struct.pack(">8I", *D65, 30000, 60000, 64000, 33000, 15000, 6000)
CHRM = struct.pack(">8I", *D65, 64000, 33000, 30000, 60000, 15000, 6000)
LINEAR = struct.pack(">I", 100_000)


def tagged(*chunks: tuple[bytes, bytes], stored: tuple[int, ...] = RUST) -> bytes:
    png = save(plain(stored))
    return png[:33] + b"".join(png_chunk(*chunk) for chunk in chunks) + png[33:]


def iccp(profile: bytes) -> tuple[bytes, bytes]:
    return b"iCCP", b"made by hand\0\0" + zlib.compress(profile)


def test_png_gamma_and_chromaticities() -> None:
    linear = screen(np.array(RUST) / 255)
    swapped = [40, 200, 30]
    assert np.abs(shown(tagged((b"gAMA", LINEAR))) - linear).max() <= 1
    assert np.abs(shown(tagged((b"gAMA", LINEAR), (b"cHRM", CHRM))) - linear).max() <= 1
    both = tagged((b"gAMA", struct.pack(">I", 45455)), (b"cHRM", CHRM_SWAPPED))
    assert np.abs(shown(both) - swapped).max() <= 1
    assert np.abs(shown(tagged((b"cHRM", CHRM_SWAPPED))) - swapped).max() <= 1
    grey = save(plain(100, "L"))
    grey = grey[:33] + png_chunk(b"gAMA", LINEAR) + grey[33:]
    assert np.abs(shown(grey) - 168).max() <= 1


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"gAMA", struct.pack(">I", 45455))],
        [(b"gAMA", struct.pack(">I", 45000)), (b"cHRM", CHRM)],
        [(b"gAMA", bytes(4))],
        [(b"gAMA", b"\0")],
        [(b"cHRM", bytes(32))],
        [(b"cHRM", CHRM_SWAPPED[:31])],
        [(b"cICP", b"\1\x0d\0\1")],
        [(b"cICP", b"\xff\xff\0\1")],
        [(b"cICP", b"\1\x0d")],
        [(b"iCCP", b"no end of its name")],
        [(b"iCCP", b"broken\0\0no zlib data")],
        [iccp(b"no profile")],
    ],
)
def test_png_that_says_srgb_or_nonsense(chunks: list[tuple[bytes, bytes]]) -> None:
    assert shown(tagged(*chunks)).tolist() == [*RUST]


def test_which_of_pngs_ways_wins() -> None:
    """cICP before iCCP before sRGB before gAMA and cHRM."""
    p3, adobe, srgb = (b"cICP", bytes([12, 13, 0, 1])), iccp(matrix(*ADOBE)), (b"sRGB", b"\0")
    linear = (b"gAMA", LINEAR)
    as_p3 = meant_p3(RUST)
    assert np.abs(shown(tagged(p3, adobe, srgb, linear)) - as_p3).max() <= 2
    assert np.abs(shown(tagged(adobe, srgb, linear)) - meant(RUST, ADOBE)).max() <= 2
    assert shown(tagged(srgb, linear)).tolist() == [*RUST]
    broken = (b"iCCP", b"broken\0\0no zlib data")
    assert np.abs(shown(tagged(broken, linear)) - screen(np.array(RUST) / 255)).max() <= 1


def meant_p3(stored: tuple[int, ...]) -> np.ndarray:
    """Display P3, by the matrix to linear sRGB that CSS Color 4 leads to."""
    red, green = (1.2249401, -0.2249404, 0), (-0.0420569, 1.0420571, 0)
    blue = (-0.0196376, -0.0786361, 1.0982735)
    to_srgb = np.array([red, green, blue])
    return screen(to_srgb @ decoded(np.array(stored) / 255))


def test_the_numbers_of_video() -> None:
    def one(primaries: int, transfer: int, stored: tuple[int, ...], whole: int = 1) -> np.ndarray:
        return shown(tagged((b"cICP", bytes([primaries, transfer, 0, whole])), stored=stored))

    assert np.abs(one(12, 13, SLATE) - meant_p3(SLATE)).max() <= 2
    assert np.abs(one(1, 8, SLATE) - screen(np.array(SLATE) / 255)).max() <= 1
    assert np.abs(one(1, 13, (126, 126, 126), 0) - 128.1).max() <= 1  # (126 - 16) / 219
    for transfer, white in ((16, 148), (18, 191)):  # HDR: paper white, and what is brighter
        assert one(9, transfer, (white, white, white)).min() >= 252
        assert one(9, transfer, (255, 255, 255)).tolist() == [255] * 3
        assert one(9, transfer, (0, 0, 0)).tolist() == [0] * 3
    # ST 2084: 100 nits is a signal of 0.508; half of paper white's light is a grey of about 182
    assert np.abs(one(1, 16, (130, 130, 130)) - screen(np.array([100 / 203]))).max() <= 3


def test_numbers_in_boxes() -> None:
    boxes = b"....colrnclx" + struct.pack(">HHHB", 12, 13, 0, 0x80)
    assert colour.boxed(boxes) == colour.coded(12, 13)
    for nothing in (b"", b"colrnclx", b"colrnclx\0\1", boxes.replace(b"\0\x0d", b"\0\xee")):
        assert colour.boxed(nothing) is None
