"""PNG files, before Pillow reads them: what they hold beside pixels must not refuse the picture.

Text without end, damaged text, animation and whatever else is not needed is left out; what is
needed is checked, which decoding does not do. https://www.w3.org/TR/png-3
"""

import re
import struct
import zlib
from collections.abc import Iterator

import deflate

from dallebaby_cli.prep import colour
from dallebaby_cli.prep.rejected import Rejected

START = b"\x89PNG\r\n\x1a\n"
COLOUR = (b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM")
TURNED = re.compile(rb"XML:com\.adobe\.xmp\0\0|Raw profile type exif\0")  # texts with orientation
MOST_TEXT = 1_000_000  # bytes that Pillow unpacks of a text


def clean(content: bytes) -> tuple[bytes, bytes | None]:
    """A PNG with only what decoding needs, and its colour profile. Raises Rejected."""
    parts, about, end = [content[:8]], dict[bytes, bytes](), 8
    for name, start, stop in _chunks(content):
        needed = not name[0] & 0x20  # so does PNG mark what decoders must understand
        body = content[start + 8 : stop - 4]
        if deflate.crc32(content[start + 4 : stop - 4]) != int.from_bytes(content[stop - 4 : stop]):
            if needed:
                raise Rejected("damaged", f"the checksum of its part {name!r} is wrong")
        elif needed or name in (b"tRNS", b"eXIf") or _may_turn(name, body):
            parts.append(content[start:stop])
        elif name in COLOUR:
            about.setdefault(name, body)
        end = stop
    return b"".join(parts) if sum(map(len, parts)) < end else content, _profile(about)


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of each part, to the last."""
    name, end = b"", len(START)
    while name != b"IEND":
        start = end
        name = content[start + 4 : start + 8]
        end = start + 12 + int.from_bytes(content[start : start + 4])
        if not name or end > len(content):
            raise Rejected("truncated", "it ends before its end mark")
        yield name, start, end


def _may_turn(name: bytes, body: bytes) -> bool:
    """Whether a text may say how the picture must be turned, and is small enough to be asked."""
    if name not in (b"iTXt", b"tEXt", b"zTXt") or not TURNED.match(body):
        return False
    return name != b"zTXt" or _unpacked(body.partition(b"\0")[2][1:], MOST_TEXT) is not None


def _unpacked(packed: bytes, most: int) -> bytes | None:
    """None if it is damaged or larger."""
    try:
        unpacker = zlib.decompressobj()
        found = unpacker.decompress(packed, most)
    except zlib.error:
        return None
    return found if unpacker.eof else None


def _profile(about: dict[bytes, bytes]) -> bytes | None:
    """cICP before iCCP before sRGB before gAMA and cHRM; what is broken does not count."""
    if len(coded := about.get(b"cICP", b"")) == 4 and coded[2] == 0:
        found = colour.coded(coded[0], coded[1], coded[3] == 1)
        if found is not None:
            return found
    if b"iCCP" in about:
        packed = about[b"iCCP"].partition(b"\0")[2]
        if found := _unpacked(packed[1:], colour.MOST_BYTES):
            return found
    gamma, points = about.get(b"gAMA", b""), about.get(b"cHRM", b"")
    if b"sRGB" in about or not (gamma or points):
        return None
    return colour.measured(
        struct.unpack(">I", gamma)[0] / 100_000 if len(gamma) == 4 else None,
        tuple(n / 100_000 for n in struct.unpack(">8I", points)) if len(points) == 32 else None,
    )
