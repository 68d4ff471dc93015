"""Contact sheets: a few pictures with their captions, so that a person sees what they got."""

import textwrap
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dallebaby_cli.store import codec
from dallebaby_cli.store.pictures import write_png

COLUMNS = 6
CELL = 144  # pixels a side that a picture has
GAP = 8
LINES = 3  # of a caption
LINE = 13  # pixels
LETTERS = 22  # in a line
FONTS = ("DejaVuSans.ttf", "Arial.ttf", "arial.ttf")  # of the system: Pillow's own is all ASCII


def write(path: Path, rows: list[list[tuple[bytes, str]]]) -> None:
    """Draw rows of at most COLUMNS stored pictures, each with its caption, as one PNG."""
    step = (CELL + GAP, CELL + LINES * LINE + 2 * GAP)
    columns = max(map(len, rows))
    sheet = Image.new("RGB", (columns * step[0] + GAP, len(rows) * step[1] + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), _font()
    for line, row in enumerate(rows):
        for column, (content, caption) in enumerate(row):
            left, top = GAP + column * step[0], GAP + line * step[1]
            picture = Image.fromarray(codec.read_stored(content))
            sheet.paste(picture.resize((CELL, CELL), Image.Resampling.LANCZOS), (left, top))
            lines = textwrap.wrap(caption, LETTERS, max_lines=LINES, placeholder=" …")
            pen.text((left, top + CELL + GAP // 2), "\n".join(lines), "black", font, spacing=2)
    write_png(path, np.asarray(sheet))


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    for name in FONTS:
        try:
            return ImageFont.truetype(name, 10)
        except OSError:
            continue
    return ImageFont.load_default(size=11)
