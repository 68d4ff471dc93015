"""Pictures that a person names on the command line, read once (they may come through a pipe) and
cropped as `prep` crops all pictures; masks, and what of a picture is transparent.

Shapes: P pixels along a side, H x W pixels of a file as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from dallebaby_cli.errors import BadInput, Mismatch
from dallebaby_cli.prep import images

MOST_BYTES = 200_000_000  # what is cut there cannot be decoded
HALF = 128  # of brightness and opacity, which go up to 255
T = TypeVar("T")


@dataclass(frozen=True)
class Given:
    """A file that is to be a picture; who asks for it gets BadInput if `prep` would not take it."""

    name: str
    """as sentences call it: "--image photo.jpg" """
    content: bytes

    def square(self, px: int) -> np.ndarray:
        """The middle of it, uint8 RGB (P, P, 3); transparent parts are white."""
        return self._read(lambda content: images.decode(content, px))

    def transparent(self) -> np.ndarray | None:
        """Where it is less than half opaque, bool (H, W); None if it is so nowhere."""
        found = self._read(images.layers)[1] < HALF
        return found if found.any() else None

    def white(self, picture: "Given") -> np.ndarray:
        """Where this, a mask of a picture, is white, bool (H, W): bright by half or more, and not
        transparent. Raises Mismatch if it has another shape than the picture: both are cropped
        alike."""
        bright, opaque = self._read(images.layers)
        height, width = bright.shape
        rows, columns = picture._read(images.layers)[0].shape
        # either of them may have been resized, and be a pixel off
        if abs(width * rows - height * columns) > max(rows, columns, width, height):
            raise Mismatch(
                f"{self.name} is {width} x {height} pixels and {picture.name} {columns} x {rows}, "
                "which is another shape; a mask covers the whole picture, so give one of as many "
                "pixels"
            )
        return bright.astype(np.int32) * opaque >= HALF * 255

    def _read(self, how: Callable[[bytes], T]) -> T:
        try:
            return how(self.content)
        except images.Rejected as rejected:
            advice = "give a JPEG, PNG, WebP, GIF, BMP or TIFF picture that prep would take"
            raise BadInput(
                f"{self.name} cannot be used ({rejected.reason}: {rejected.detail}); {advice}"
            ) from None


def read(path: Path, flag: str = "") -> Given:
    """The file or pipe that was named, behind that flag if any."""
    with path.open("rb") as opened:
        return Given(f"{flag} {path}".strip(), opened.read(MOST_BYTES))
