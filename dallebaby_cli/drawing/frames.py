"""The moments of a drawing that an animation shows."""

import numpy as np
import torch
from torch import Tensor

from dallebaby_cli.drawing.editing import Canvas
from dallebaby_cli.drawing.panorama import Moment
from dallebaby_cli.models import collectives

FRAMES = 64  # of an animation, at most


class Frames:
    """FRAMES moments at most, evenly spread over all that a drawing has."""

    def __init__(self, moments: int) -> None:
        steps = np.linspace(0, moments - 1, min(FRAMES, moments)).round().astype(int).tolist()
        self.moments: dict[int, dict[int, Tensor]] = {step: {} for step in steps}
        """number of a moment → the first picture of each batch → the batch's codes then"""

    def keep(self, moment: Moment) -> None:
        """Keep a moment if it is one of them."""
        if moment.number in self.moments:
            self.moments[moment.number][moment.drawing.first] = moment.codes

    def gather(self, canvas: Canvas, whole: int) -> list[Tensor]:
        """Codes (whole, R, C) of each moment, of all that the ranks kept."""
        none = torch.empty((0, canvas.rows, canvas.columns), dtype=torch.int64)
        kept = [torch.cat([none, *batches.values()]) for batches in self.moments.values()]
        return [collectives.gather_shares(codes, whole) for codes in kept]
