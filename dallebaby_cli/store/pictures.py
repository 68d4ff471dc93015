"""Pictures for people: grids of them, written as PNG, and animations; each says how it was made."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from PIL.GifImagePlugin import GifImageFile
from PIL.PngImagePlugin import PngImageFile, PngInfo

from dallebaby_cli import files

GAP = 2  # white pixels between the pictures of a grid
FRAME_MS, LAST_MS = 120, 2500
LARGEST_GIF = 65_535  # pixels along a side


def grid(pictures: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Lay pictures (B, H, W, 3) uint8 out in rows of `columns` (about square if None)."""
    count, height, width, _ = pictures.shape
    columns = columns or math.ceil(math.sqrt(count))
    sheet_width, sheet_height = grid_size(count, width, height, columns)
    sheet = np.full((sheet_height, sheet_width, 3), 255, np.uint8)
    for index, picture in enumerate(pictures):
        top = index // columns * (height + GAP)
        left = index % columns * (width + GAP)
        sheet[top : top + height, left : left + width] = picture
    return sheet


def grid_size(count: int, width: int, height: int, columns: int | None = None) -> tuple[int, int]:
    """Width and height in pixels of a `grid` of so many pictures of such a size."""
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    return columns * (width + GAP) - GAP, rows * (height + GAP) - GAP


def write_png(path: Path, picture: np.ndarray, metadata: Mapping[str, str] | None = None) -> None:
    """Write one picture (H, W, 3) uint8 atomically, with text chunks that say how it was made."""
    info = PngInfo()
    for key, value in (metadata or {}).items():
        info.add_itxt(key, value)
    with files.atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG", compress_level=1, pnginfo=info)


def write_gif(
    path: Path, frames: Sequence[Image.Image], metadata: Mapping[str, str] | None = None
) -> None:
    """Write an animation atomically, with a comment in JSON that says how it was made; it runs for
    ever and rests at its last frame."""
    comment = {"comment": json.dumps(metadata).encode()} if metadata else {}
    with files.atomic_path(path) as temporary:
        frames[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=frames[1:],
            duration=[FRAME_MS] * (len(frames) - 1) + [LAST_MS],
            loop=0,
            **comment,
        )


def read_metadata(path: Path) -> dict[str, str]:
    """What `write_png` or `write_gif` said of a picture; empty for all that they did not write."""
    try:
        with files.open_regular(path) as opened:
            return metadata_of(opened)
    except Exception:  # whatever lies there, it was not written by us
        return {}


def metadata_of(opened: BinaryIO) -> dict[str, str]:
    """What `write_png` or `write_gif` said of a picture that is open at its start. Raises anything
    for all that they did not write."""
    kind = GifImageFile if opened.read(3) == b"GIF" else PngImageFile
    opened.seek(0)
    picture = kind(opened)  # Image.open refuses grids of many pictures
    comment = picture.info.get("comment")
    found = json.loads(comment) if comment else picture.info
    return {str(key): str(value) for key, value in dict(found).items()}
