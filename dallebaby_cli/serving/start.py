"""What a drawing begins with: a picture from outside, and which of its codes are drawn anew."""

import base64
import binascii
import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dallebaby_cli.drawing import editing
from dallebaby_cli.drawing.editing import Canvas
from dallebaby_cli.drawing.sampler import Sampler
from dallebaby_cli.errors import BadInput
from dallebaby_cli.prep.given import Given
from dallebaby_cli.serving.refused import Refused
from dallebaby_cli.stages import generate

_one = threading.Lock()  # pictures are decoded one at a time: each may take much memory


@dataclass(frozen=True, eq=False)
class Start:
    """A picture, uint8 (P, P, 3), of which some codes are drawn anew, bool (G, G)."""

    pixels: np.ndarray
    redrawn: np.ndarray
    pasted: bool
    """whether its own pixels show where it is kept"""

    @cached_property
    def id(self) -> str:
        """The same for the same picture and codes."""
        content = self.pixels.tobytes() + self.redrawn.tobytes() + bytes([self.pasted])
        return hashlib.sha256(content).hexdigest()

    @property
    def kept(self) -> int:
        """How many codes stay."""
        return int((~self.redrawn).sum())

    def begin(self, sampler: Sampler) -> generate.Start:
        """As `generate` begins with it."""
        known = editing.outside_kept(sampler.encode(self.pixels).cpu(), self.redrawn)[None]
        return generate.begun(canvas(sampler), known, self.pixels if self.pasted else None)


def canvas(sampler: Sampler) -> Canvas:
    """That of the model's own pictures."""
    side = sampler.model.config.grid
    return Canvas(side, side, side)


def start(
    content: bytes, sampler: Sampler, keep: int | None, mask: np.ndarray | None
) -> Start | None:
    """A picture file, of which so many rows of codes stay, or what a mask (G, G) does not mark, or
    half of it; None where the mask marks everything. Raises Refused."""
    grid, px = sampler.model.config.grid, sampler.image_tokenizer.image_px
    if mask is not None:
        if mask.all():
            return None
        redrawn = mask if sampler.model.config.any_order else _rows(mask)
        if not redrawn.any():
            raise Refused(400, "the mask marks nothing that shall be drawn anew", "mask")
    else:
        keep = grid // 2 if keep is None else keep
        if not 1 <= keep < grid:
            said = f"keep={keep}: this model's pictures have {grid} rows; keep 1 to {grid - 1}"
            raise Refused(400, said, "keep")
        redrawn = np.repeat(np.arange(grid)[:, None] >= keep, grid, axis=1)
    with _one:
        try:
            pixels = Given("the picture", content).square(px)
        except BadInput as error:
            raise Refused(400, str(error), "image") from None
    return Start(pixels, redrawn, mask is not None)


def _rows(mask: np.ndarray) -> np.ndarray:
    """All from the first marked row on, for a model that draws row by row. Raises Refused."""
    redrawn = np.repeat(np.logical_or.accumulate(mask.any(1))[:, None], len(mask), axis=1)
    if redrawn.all():
        said = "the mask marks a part of the topmost row; this model draws all from the first "
        said += "marked row on, so keep the topmost row or mark everything"
        raise Refused(400, said, "mask")
    return redrawn


def from_rows(rows: Sequence[object], grid: int) -> np.ndarray:
    """A mask (G, G) from G texts of G digits, 1 where a code is drawn anew. Raises Refused."""
    texts = [row for row in rows if isinstance(row, str) and len(row) == grid]
    if len(rows) != grid or len(texts) != grid or not set("".join(texts)) <= {"0", "1"}:
        said = f"mask: must be {grid} texts of {grid} digits, 0 to keep and 1 to draw anew"
        raise Refused(400, said, "mask")
    return np.array([[digit == "1" for digit in text] for text in texts])


def from_transparency(content: bytes, grid: int, name: str) -> np.ndarray | None:
    """The mask (G, G) of a picture, sent as `name`: True where a code's square is transparent, or a
    part of it is; None where nothing is. Raises Refused."""
    with _one:
        try:
            clear = Given(name, content).transparent()
        except BadInput as error:
            raise Refused(400, str(error), name) from None
    return None if clear is None else editing.touched(clear, grid)


def from_data_url(text: str) -> bytes:
    """The file that a data URL in base64 holds. Raises Refused."""
    head, comma, body = text.partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        raise Refused(400, "image: must be a data URL in base64, data:image/png;base64,…", "image")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(400, "image: is no base64", "image") from None
