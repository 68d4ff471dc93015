"""What kind of picture a file holds, told by its first bytes: names promise too much or nothing.

Pictures from the web are called `a.jfif`, `b.jpg_large`, `photo.jpg?w=400` or have no ending. So
an ending that people give to pictures, or to texts and tables, is believed, and the bytes decide
later; into a file of any other name one must look.
"""

import importlib
import io
import re
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec

from PIL import Image

from dallebaby_cli import names
from dallebaby_cli.prep.rejected import Rejected

BEGINNING = 64  # bytes that tell the kind

PICTURES = frozenset(
    "jpg jpeg jpe jfif png apng webp gif bmp dib tif tiff avif avifs jp2 j2k jpx jpf jpc ppm pgm "
    "pbm pnm pfm tga ico pcx sgi psd qoi dds heic heif hif jxl svg cr2 cr3 nef arw dng raf orf "
    "rw2".split()
)
OTHERS = frozenset(
    "txt text caption captions json jsonl ndjson csv tsv xml yaml yml md rst html htm css js py "
    "cls npy npz pt pth pkl pickle safetensors parquet arrow h5 mat tar gz tgz bz2 xz zip 7z rar "
    "torrent log ini toml cfg sh pdf mp3 mp4 wav webm mov avi mkv".split()
)

NO_DECODER = "no decoder for "
STARTS: tuple[tuple[str, str, bytes], ...] = (  # kind, Pillow's name for it, how files of it begin
    ("JPEG", "JPEG", rb"\xff\xd8\xff"),
    ("PNG", "PNG", rb"\x89PNG\r\n\x1a\n"),
    ("WebP", "WEBP", rb"RIFF....WEBP"),
    ("GIF", "GIF", rb"GIF8[79]a"),
    ("BMP", "BMP", rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0"),
    ("camera raw", "", rb"II\*\0....CR\x02|....ftypcrx |FUJIFILMCCD-RAW|IIR[OS]|MMOR|IIU\0"),
    ("TIFF", "TIFF", rb"II[*+]\0|MM\0[*+]"),
    ("AVIF", "AVIF", rb"....ftyp(avi[fs]|m[is]f1(?=.{4}.*avi[fs]))"),
    ("HEIF", "HEIF", rb"....ftyp(he[iv][cxms]|m[is]f1)"),
    ("JPEG 2000", "JPEG2000", rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n"),
    ("JPEG XL", "JXL", rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"),
    ("Photoshop", "PSD", rb"8BPS\0[\1\2]\0{6}"),
    ("QOI", "QOI", rb"qoif.{8}[\3\4][\0\1]"),
    ("DDS", "DDS", rb"DDS \x7c\0\0\0"),
    ("Netpbm", "PPM", rb"P[1-7fF]\s+(#[^\n]*\s+)*[\dW]"),
    ("SVG", "", rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!DOCTYPE )?svg\b"),
    ("PostScript", "", rb"%!PS|\xc5\xd0\xd3\xc6"),
)
KINDS = re.compile(b"|".join(b"(?P<k%d>%s)" % (n, row[2]) for n, row in enumerate(STARTS)), re.S)
BY_NAME_ONLY = ("ICO", "PCX", "SGI")  # begin with too little to be told by it
TGA_END = b"TRUEVISION-XFILE.\0"  # TGA can be told by its end alone
PLUGINS = {  # kind → the package that teaches Pillow to read it, its module, what must be called
    "HEIF": ("pillow-heif", "pillow_heif", "register_heif_opener"),
    "JPEG XL": ("pillow-jxl-plugin", "pillow_jxl", ""),
}


def of(beginning: bytes) -> str:
    """The kind of picture that a file's first bytes (BEGINNING of them) show; "" if it is none."""
    found = KINDS.match(beginning)
    kind = found.lastgroup if found else None
    return next((row[0] for n, row in enumerate(STARTS) if kind == f"k{n}"), "")


def by_name(path: str) -> bool | None:
    """Whether a file's ending promises a picture; None if one must look inside."""
    ending = names.ending(path)[1:]
    return True if ending in PICTURES else False if ending in OTHERS else None


def formats(content: bytes = b"") -> tuple[str, ...]:
    """What Pillow may try of a file, in its names, whatever the file is called: no others, since
    some start programs. Those of PLUGINS are among them where they are installed."""
    return (*_formats(), "TGA") if content.endswith(TGA_END) else _formats()


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    for _, module, register in PLUGINS.values():
        try:
            plugin = importlib.import_module(module)
        except ImportError:
            continue
        if register:
            getattr(plugin, register)()
    known = (name for _, name, _ in STARTS if name)
    return tuple(name for name in (*known, *BY_NAME_ONLY) if name in Image.OPEN)


def readable(kind: str) -> bool:
    """Whether pictures of a kind can be decoded here."""
    return _name(kind) in formats()


def refused(kind: str) -> Rejected:
    """What is said of pictures of a kind that cannot be decoded here."""
    advice = "convert it to PNG or JPEG"
    if kind in PLUGINS:
        advice = f"pip install {PLUGINS[kind][0]}, then prepare again"
    elif _name(kind):
        advice += ", or install a newer Pillow"
    return Rejected(NO_DECODER + kind, advice)


def readable_by_now(reasons: Iterable[str]) -> bool:
    """Whether pictures that were refused for one of these reasons can be decoded by now."""
    return any(readable(reason.removeprefix(NO_DECODER)) for reason in reasons)


def installed() -> list[str]:
    """Those of the packages in PLUGINS that are there."""
    return [package for package, module, _ in PLUGINS.values() if find_spec(module)]


def complaint(kind: str, content: bytes) -> str:
    """What Pillow says of a file that begins like one of a kind that it reads."""
    try:
        Image.OPEN[_name(kind)][0](io.BytesIO(content), "")
    except Exception as error:  # decoders fail in any way on files made wrong or to harm
        return str(error) or type(error).__name__
    return "its size is impossible"


def _name(kind: str) -> str:
    return next((name for known, name, _ in STARTS if known == kind), "")
