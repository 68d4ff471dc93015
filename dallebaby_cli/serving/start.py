"""What a drawing begins with: a picture from outside, of which rows of codes are kept.

Masks of single codes plug in here, and where `Line._draw` asks for codes, once the sampler takes
them: `mask` is bool (G, G) already, True where a code is to be drawn anew.
"""

import base64
import binascii
import hashlib
import io
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from torch import Tensor

from dallebaby_cli.drawing.sampler import Sampler
from dallebaby_cli.prep import images
from dallebaby_cli.serving.refused import Refused

KIND = "rows"  # what `mask` of a model says: redrawing begins at a row and takes all below it
ADVICE = "give a JPEG, PNG, WebP, GIF, BMP or TIFF picture that prep would take"
_one = threading.Lock()  # pictures are decoded one at a time: each may take much memory


@dataclass(frozen=True)
class Start:
    """A picture, uint8 (P, P, 3), of which the first `keep` rows of codes are kept."""

    pixels: np.ndarray
    keep: int
    id: str
    """the same for the same picture and rows"""

    def codes(self, sampler: Sampler) -> Tensor:
        """The codes (R, G) that are kept."""
        return sampler.encode(self.pixels)[: self.keep]


def start(
    content: bytes, sampler: Sampler, keep: int | None, mask: np.ndarray | None
) -> Start | None:
    """A picture file's rows: so many, or those above what the mask marks, or half of them; None
    where the mask marks everything. Raises Refused."""
    grid, px = sampler.model.config.grid, sampler.image_tokenizer.image_px
    if mask is not None:
        if mask.all():
            return None
        keep = _above(mask)
    keep = grid // 2 if keep is None else keep
    if not 1 <= keep < grid:
        said = f"keep={keep}: this model's pictures have {grid} rows; keep 1 to {grid - 1} of them"
        raise Refused(400, said, "keep")
    try:
        with _one:
            pixels = images.decode(content, px)
    except images.Rejected as rejected:
        why = f"{rejected.reason}: {rejected.detail}"
        raise Refused(400, f"the picture cannot be used ({why}); {ADVICE}", "image") from None
    return Start(pixels, keep, f"{keep}-{hashlib.sha256(pixels.tobytes()).hexdigest()}")


def _above(mask: np.ndarray) -> int:
    """How many rows there are above the first one that is marked. Raises Refused."""
    marked = np.flatnonzero(mask.any(1))
    if not len(marked):
        raise Refused(400, "the mask marks nothing that shall be drawn anew", "mask")
    if marked[0] == 0:
        said = (
            "the mask marks a part of the topmost row; this model draws all from the first marked "
        )
        raise Refused(400, f"{said}row on, so keep the topmost row or mark everything", "mask")
    return int(marked[0])


def from_rows(rows: Sequence[object], grid: int) -> np.ndarray:
    """A mask (G, G) from G texts of G digits, 1 where a code is drawn anew. Raises Refused."""
    texts = [row for row in rows if isinstance(row, str) and len(row) == grid]
    if len(rows) != grid or len(texts) != grid or not set("".join(texts)) <= {"0", "1"}:
        said = f"mask: must be {grid} texts of {grid} digits, 0 to keep and 1 to draw anew"
        raise Refused(400, said, "mask")
    return np.array([[digit == "1" for digit in text] for text in texts])


def from_transparency(content: bytes, grid: int, name: str) -> np.ndarray | None:
    """The mask (G, G) of a PNG, sent as `name` and cut to a square as pictures are: True where most
    of a code's patch is transparent; None where nothing can be. Raises Refused."""
    try:
        with _one:
            opened = PngImageFile(io.BytesIO(content))
            if math.prod(opened.size) > images.MAX_PIXELS:
                raise Refused(413, f"{name}: has too many pixels; make it smaller", name)
            if not opened.has_transparency_data:
                return None
            alpha = opened.convert("RGBA").getchannel("A")
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError):
        said = f"{name}: is no PNG that can be read; give a whole one"
        raise Refused(400, said, name) from None
    side = min(alpha.size)
    left, top = (alpha.width - side) / 2, (alpha.height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(alpha.resize((grid, grid), Image.Resampling.BOX, box)) < 128


def from_data_url(text: str) -> bytes:
    """The file that a data URL in base64 holds. Raises Refused."""
    head, comma, body = text.partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        raise Refused(400, "image: must be a data URL in base64, data:image/png;base64,…", "image")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(400, "image: is no base64", "image") from None
