"""What a file is, by its first bytes where its name does not tell."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from test_images import UPRIGHT, colours, corners, save

from dallebaby_cli.config import PrepConfig
from dallebaby_cli.prep import archives, images, kinds
from dallebaby_cli.stages.prep import prep

WRITTEN = {
    "JPEG": "JPEG",
    "PNG": "PNG",
    "WEBP": "WebP",
    "GIF": "GIF",
    "BMP": "BMP",
    "TIFF": "TIFF",
    "AVIF": "AVIF",
    "JPEG2000": "JPEG 2000",
    "QOI": "QOI",
    "DDS": "DDS",
    "PPM": "Netpbm",
}


Image.init()


@pytest.mark.parametrize("name", [name for name in WRITTEN if name in Image.SAVE])
def test_what_pillow_writes_is_known(name: str) -> None:
    assert kinds.of(save(corners(), name)[: kinds.BEGINNING]) == WRITTEN[name]
    assert kinds.readable(WRITTEN[name])


@pytest.mark.parametrize(
    ("beginning", "kind"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "AVIF"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIF"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\xff\x0a\xfa\x1f", "JPEG XL"),
        (b"8BPS\0\1\0\0\0\0\0\0", "Photoshop"),
        (b"II*\0\x10\0\0\0CR\2\0", "camera raw"),
        (b"MM\0+\0\x08", "TIFF"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- drawn --><svg xmlns=", "SVG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "PostScript"),
        (b"P6\n# made by hand\n4 4 255\n", "Netpbm"),
        (b"P5 is a letter and a digit", ""),
        (b"BMW is a car maker, and this is a text", ""),
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2mp41", ""),
        (b"<html><svg>", ""),
        (b"RIFF\x24\0\0\0WAVEfmt ", ""),
        (b"\x93NUMPY\1\0v\0{'descr'", ""),
        (b"", ""),
    ],
)
def test_beginnings(beginning: bytes, kind: str) -> None:
    assert kinds.of(beginning) == kind


def test_names_decide_where_they_can() -> None:
    assert all(map(kinds.by_name, ("a.jfif", "b/A.JPE", "c.HEIC", "d.e.jp2", "x.avif")))
    assert not any(kinds.by_name(name) in (True, None) for name in ("a.txt", "b.JSON", "c.png.txt"))
    told = [kinds.by_name(name) for name in ("a", "b.jpg_large", "photo.jpg?w=400", "c.jpg:orig")]
    assert told == [None] * 4


def pack(folder: Path, kind: str, files: dict[str, bytes]) -> None:
    folder.mkdir()
    if kind == "loose":
        for name, content in files.items():
            (folder / name).write_bytes(content)
    elif kind == "zip":
        with zipfile.ZipFile(folder / "all.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
            for name, content in files.items():
                zipped.writestr(name, content)
    else:
        with tarfile.open(folder / f"all.{kind}", f"w:{kind[4:]}") as tar:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("kind", ["loose", "zip", "tar", "tar.gz"])
def test_members_without_a_telling_name_are_looked_into(tmp_path: Path, kind: str) -> None:
    jpeg = save(corners(300, 200), "JPEG")
    files = {"a": jpeg, "b.jpg_large": jpeg, "c": b"no picture", "d.txt": jpeg, "empty": b""}
    pack(tmp_path / "in", kind, files)
    found = {m.name: (m.is_picture, m.content()) for m in archives.members(tmp_path / "in")}
    assert {name for name, (picture, _) in found.items() if picture} == {"a", "b.jpg_large"}
    assert {name: content for name, (_, content) in found.items()} == files


PHOTO_OF_A_PHONE = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99)


def test_what_has_no_decoder_is_counted_by_kind_and_taken_once_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever follows the advice and prepares again gets the pictures."""
    monkeypatch.setattr(kinds, "_formats", lambda: ("JPEG", "PNG"))
    folder = tmp_path / "phone"
    names = ("a.png", "photo.jpg?w=400", "b.jpg_large", "no ending", "c.jfif")
    files = {name: save(corners(64, 60 + n), "JPEG") for n, name in enumerate(names)}
    pack(folder, "loose", files | {"b.heic": PHOTO_OF_A_PHONE, "notes": b"no picture"})
    (folder / "c.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    ask = (tmp_path / "home", str(folder), PrepConfig(image_px=16, workers=1))
    made = prep(*ask, report=lambda _: None)
    assert made.manifest.counts["rejected"] == {"no decoder for HEIF": 1, "no decoder for SVG": 1}
    assert made.manifest.counts["accepted"] == len(names)
    rows = map(json.loads, (made.folder / "rejects.jsonl").read_text().splitlines())
    heic = next(row for row in rows if row["file"] == "b.heic")
    assert heic["detail"] == "pip install pillow-heif, then prepare again"
    assert not prep(*ask, report=lambda _: None).fresh
    monkeypatch.setattr(kinds, "_formats", lambda: ("JPEG", "PNG", "HEIF"))
    assert prep(*ask, report=lambda _: None).fresh


def test_plugins_where_they_are_installed() -> None:
    for name in {"HEIF", "JXL"} & {*kinds.formats()}:
        content = save(corners(), name, quality=95)
        assert kinds.readable(kinds.of(content[: kinds.BEGINNING]))
        assert colours(images.decode(content, 32)) == UPRIGHT
