"""A folder of 60 files, each bad or odd in a way of its own: prep keeps what can be kept, and names
every other with its reason."""

import gzip
import os
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
from conftest import run
from PIL import Image
from test_images import corners, png_chunk, png_claiming, save
from test_prep import rejects

from dallebaby_cli.store.shards import Shards


def odd_but_good() -> dict[str, bytes]:
    """Files that must become records."""
    deep = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [Image.new("RGB", (40, 40), c) for c in ("red", "blue")]
    jpeg = save(corners(), "JPEG")
    gif = save(corners(), "GIF")
    png = save(corners(70, 72))
    text = png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80_000_000), 9))
    return {
        "wrong-name.png": save(corners(50, 40), "JPEG"),
        "wrong-name.jpg": save(corners(40, 50)),
        "UPPER.JPEG": save(corners(52, 40), "JPEG"),
        "exif-turned.jpg": save(corners(90, 64), "JPEG", exif=exif),
        "exif-broken.jpg": save(corners(91, 64), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"),
        "cmyk.jpg": save(corners().convert("CMYK"), "JPEG"),
        "cmyk.tif": save(corners().convert("CMYK"), "TIFF"),
        "grey.jpg": save(corners().convert("L"), "JPEG"),
        "grey16.png": save(Image.fromarray(deep)),
        "grey16.tiff": save(Image.fromarray(deep), "TIFF"),
        "grey32.tiff": save(Image.fromarray(deep.astype(np.int32)), "TIFF"),
        "float.tiff": save(Image.fromarray(deep.astype(np.float32)), "TIFF"),
        "palette.png": save(corners().quantize(4)),
        "palette-see-through.png": save(corners().quantize(4), transparency=0),
        "see-through.webp": save(corners().convert("RGBA"), "WEBP"),
        "grey-alpha.png": save(corners().convert("LA")),
        "bits.tiff": save(corners().convert("1"), "TIFF"),
        "animated.gif": save(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "animated.webp": save(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "animated.png": save(frames[0], save_all=True, append_images=frames[1:]),
        "progressive.jpg": save(corners(), "JPEG", progressive=True, quality=60),
        "lzw.tif": save(corners(), "TIFF", compression="tiff_lzw"),
        "interlaced.bmp": save(corners(70, 70), "BMP"),
        "tail-of-rubbish.jpg": jpeg + bytes(range(256)) * 20,
        "odd name \n\u2028 \U0001f600.png": save(corners(71, 70)),
        "almost-too-narrow.png": save(Image.new("RGB", (320, 40), "green")),
        "tiny.png": save(Image.new("RGB", (4, 4), "pink")),
        "canvas-of-no-size.gif": gif[:6] + bytes(4) + gif[10:],
        "text-bomb.png": png[:33] + text + png[33:],
        "many-frames.tiff": save(frames[1], "TIFF", save_all=True, append_images=frames),
    }


def bad() -> dict[str, tuple[bytes, str]]:
    """Files that must be rejected, and why."""
    rubbish = random.Random(0).randbytes(5000)
    big = {k: save(corners(300, 200), k) for k in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")}
    cut = {kind: content[: len(content) * 2 // 3] for kind, content in big.items()}
    flipped = bytearray(big["PNG"])
    flipped[80] ^= 255
    head = big["PNG"][:33]
    sound = b"RIFF" + struct.pack("<I", 36) + b"WAVEfmt " + bytes(28)
    return {
        "empty.png": (b"", "empty"),
        "empty.jpg": (b"", "empty"),
        "one-byte.gif": (b"G", "not an image"),
        "zeros.jpg": (bytes(4096), "not an image"),
        "rubbish.webp": (rubbish, "not an image"),
        "page.jpg": (b"<!doctype html><title>404</title>", "not an image"),
        "page.png": (b'{"error": "rate limited"}', "not an image"),
        "drawing.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no decoder for SVG"),
        "script.jpg": (
            b"%!PS-Adobe-3.0 EPSF-3.0\n",
            "no decoder for PostScript",
        ),
        "pickle.png": (b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00K\x01.", "not an image"),
        "squeezed.bmp": (gzip.compress(big["BMP"]), "not an image"),
        "sound.webp": (sound, "not an image"),
        "magic-only.png": (big["PNG"][:8], "*"),
        "header-only.png": (head, "*"),
        "magic-only.jpg": (b"\xff\xd8\xff", "*"),
        "magic-only.tif": (b"II*\0", "*"),
        "cut.png": (cut["PNG"], "*"),
        "cut.jpg": (cut["JPEG"], "truncated"),
        "cut.webp": (cut["WEBP"], "*"),
        "cut.gif": (cut["GIF"], "*"),
        "cut.bmp": (cut["BMP"], "truncated"),
        "cut.tiff": (cut["TIFF"], "*"),
        "flipped-bits.png": (bytes(flipped), "damaged"),
        "no-end.png": (big["PNG"][:-60], "*"),
        "bomb.png": (png_claiming(30_000, 30_000), "too large"),
        "bomb-by-inches.png": (png_claiming(10_001, 10_000), "too large"),
        "claims-more-than-it-has.png": (png_claiming(5_000, 5_000), "*"),
        "line.png": (save(Image.new("RGB", (900, 10))), "too narrow"),
        "tower.jpg": (save(Image.new("RGB", (10, 900)), "JPEG"), "too narrow"),
        "dot.png": (save(Image.new("RGB", (1, 1))), "too small"),
    }


def test_sixty_hostile_files(tmp_path: Path) -> None:
    folder = tmp_path / "hostile"
    folder.mkdir()
    good, wrong = odd_but_good(), bad()
    assert len(good) + len(wrong) == 60
    for name, content in {**good, **{name: wrong[name][0] for name in wrong}}.items():
        (folder / name).write_bytes(content)
    ran = run(tmp_path / "home", "prep", folder, "--px", 16, "--workers", 2)
    for noise in ("Traceback", "Warning", "TIFF"):
        assert noise not in ran.err + ran.out.replace(str(folder), "")
    made = tmp_path / "home/images/hostile"
    found = rejects(made)
    assert set(found) == set(wrong)
    for name, (_, reason) in wrong.items():
        known = ("truncated", "damaged", "not an image", "too large", "too small")
        assert found[name] == reason if reason != "*" else found[name] in known, name
    shards = Shards(made)
    assert len(shards) == len(good)
    assert all(shards.image(row).shape == (16, 16, 3) for row in range(len(good)))


def test_what_a_file_system_can_do(tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "good.png").write_bytes(save(corners()))
    (folder / "folder.png").mkdir()
    (folder / "folder.png" / "inside.png").write_bytes(save(corners(65)))
    (folder / "dangling.png").symlink_to("nowhere")
    (folder / "circle.png").symlink_to("circle.png")
    (folder / "link-to-folder.png").symlink_to("folder.png")
    os.mkfifo(folder / "pipe.png")
    run(tmp_path / "home", "prep", folder, "--px", 16)
    found = rejects(tmp_path / "home/images/odd")
    assert set(found) == {"dangling.png", "circle.png", "pipe.png"}
    assert set(found.values()) == {"unreadable"}
    assert len(Shards(tmp_path / "home/images/odd")) == 2


def test_files_without_permission(tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    (folder / "closed").mkdir(parents=True)
    for number, name in enumerate(("good.png", "secret.png", "closed/inside.png")):
        (folder / name).write_bytes(save(corners(64 + number)))
    (folder / "secret.png").chmod(0)
    (folder / "closed").chmod(0)
    command = [sys.executable, "-m", "dallebaby_cli", "--home", str(tmp_path / "home"), "prep"]
    if os.geteuid() == 0:  # root may read everything, unless it gives that up
        rights = "-dac_override,-dac_read_search"
        command = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}", *command]
    subprocess.run([*command, str(folder)], check=True, capture_output=True)
    (folder / "closed").chmod(0o700)
    assert rejects(tmp_path / "home/images/odd") == {
        "closed": "unreadable",
        "secret.png": "unreadable",
    }
