"""Drawings of any size, by a model whose pictures are all of one: window by window, each going on
from what those before it left (`Canvas.windows`). A drawing of the model's own size is one window.

Shapes: B pictures, a canvas of R x C codes and H x W pixels; in a window G x G codes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dallebaby_cli.config import SampleConfig
from dallebaby_cli.drawing.editing import TO_DRAW, Canvas, joined
from dallebaby_cli.drawing.fitting import at_a_time
from dallebaby_cli.drawing.sampler import PAINTED, Drawing, Sampler, Sketch, check_best
from dallebaby_cli.models import collectives

APART = 1 << 40  # between the seeds of two windows: one seed draws alike at the same places


@dataclass(frozen=True)
class Moment:
    """Pictures that are drawn together, at one moment."""

    number: int
    """of all the moments that each of them has"""
    drawing: Drawing
    """of the window that is drawn now"""
    before: Tensor
    """codes (B, R, C), TO_DRAW where none was decided before this window"""
    window: tuple[slice, slice]
    done: float
    """pictures that are drawn by now, parts of them counted"""

    @property
    def codes(self) -> Tensor:
        """(B, R, C) int64 on the CPU, TO_DRAW where none is decided yet."""
        codes, now = self.before.clone(), self.drawing
        codes[:, *self.window] = now.codes.where(now.known, TO_DRAW).cpu()
        return codes


class Panorama:
    """How pictures of a canvas are drawn, all alike: which windows, and from what each goes on."""

    def __init__(
        self, sampler: Sampler, canvas: Canvas, config: SampleConfig, known: Tensor | None = None
    ) -> None:
        """`known` are codes (B, R, C) or (1, R, C), TO_DRAW where none is; of each window all
        pictures know equally many. Raises UsageError if this model cannot go on from them."""
        self.sampler, self.canvas, self.config = sampler, canvas, config
        size = (1, canvas.rows, canvas.columns)
        self.known = torch.full(size, TO_DRAW) if known is None else known.cpu()
        self.windows: list[tuple[slice, slice]] = []
        """those in which something is to be drawn"""
        self.counts: list[Sequence[int]] = []
        """of each, how many of its codes are decided at its moments"""
        there = self.known.clone()
        for window in _slices(canvas):
            begun = there[:, *window]
            if (begun == TO_DRAW).any():
                sampler.require(config, begun)
                self.windows.append(window)
                self.counts.append(sampler.moments(config, int((begun[0] != TO_DRAW).sum())))
                begun.clamp_(min=0)  # as good as drawn

    @property
    def moments(self) -> int:
        """How many each picture has: where a window ends, the next one begins."""
        return 1 + sum(len(counts) - 1 for counts in self.counts)

    def sketch(
        self,
        prompts: Sequence[str],
        n: int,
        seed: int,
        batch_size: int | None = None,
        best: int | None = None,
        watch: Callable[[Moment], None] | None = None,
        together: bool = False,
    ) -> Sketch:
        """n pictures of each prompt, codes (B, R, C), as `Sampler.sketch` draws them. The best of a
        large canvas are those with the highest sum of the scores of its windows. Raises UsageError
        for a `best` that is not 1 to n."""
        check_best(best, n)
        config = replace(self.config, batch_size=batch_size)
        wanted = [prompt for prompt in prompts for _ in range(n)]
        share = collectives.share() if together else slice(None)
        codes = self.known.expand(len(wanted), -1, -1)[share]
        if self.canvas.single:
            show = watch and self._watching(watch, 0, codes)
            known = None if (self.known == TO_DRAW).all() else self.known
            return self.sampler.sketch(prompts, n, seed, config, best, known, show, together)
        mine, seeds = wanted[share], range(seed, seed + len(wanted))[share]
        for number in range(len(self.windows)):
            codes = self._drawn(number, codes, mine, seeds, config, watch)
        scores = self._scores(mine, codes, config) if best else torch.zeros(len(mine))
        if together:  # once, at the end: a rank that has to begin anew before does so alone
            codes, scores = (
                collectives.gather_shares(part, len(wanted)) for part in (codes, scores)
            )
        order = scores.view(-1, n).argsort(descending=True, stable=True)  # as it is, without best
        places = torch.arange(len(wanted)).view(-1, n).gather(1, order[:, :best])
        chosen = places.flatten().tolist()
        return Sketch(codes[chosen], [seed + place for place in chosen])

    def _drawn(
        self,
        number: int,
        codes: Tensor,
        prompts: Sequence[str],
        seeds: Sequence[int],
        config: SampleConfig,
        watch: Callable[[Moment], None] | None,
    ) -> Tensor:
        """Pictures (B, R, C) whose window of that number is drawn, too."""
        window, apart = self.windows[number], [one + number * APART for one in seeds]
        show, drawn = watch and self._watching(watch, number, codes), [codes[:0, *window]]
        for drawing in self.sampler.stream(prompts, apart, config, codes[:, *window]):
            if show:
                show(drawing)
            if drawing.finished:
                drawn.append(drawing.codes.cpu())
        codes = codes.clone()  # moments that were seen stay as they are
        codes[:, *window] = torch.cat(drawn)
        return codes

    def _watching(
        self, watch: Callable[[Moment], None], number: int, before: Tensor
    ) -> Callable[[Drawing], None]:
        """What watches a window of pictures, before it (B, R, C), as part of the whole."""
        begins = sum(len(counts) - 1 for counts in self.counts[:number])
        places = {count: begins + place for place, count in enumerate(self.counts[number])}

        def show(drawing: Drawing) -> None:
            part = before[drawing.first : drawing.first + len(drawing.codes)]
            done = (number * len(before) + drawing.done) / len(self.windows)
            watch(Moment(places[drawing.count], drawing, part, self.windows[number], done))

        return show

    def _scores(self, prompts: Sequence[str], codes: Tensor, config: SampleConfig) -> Tensor:
        """How well each picture (B, R, C) fits its prompt, (B,): the sum over its windows."""
        size = at_a_time(self.sampler.model.config, config, self.sampler.device)
        fit = torch.zeros(len(prompts))
        for window in self.windows:
            for first in range(0, len(prompts), size):
                part = slice(first, first + size)
                drawn = codes[part][:, *window].to(self.sampler.device)
                fit[part] += self.sampler.score(prompts[part], drawn).cpu()
        return fit


def paint(sampler: Sampler, canvas: Canvas, codes: Tensor) -> np.ndarray:
    """uint8 (B, H, W, 3) of codes (B, R, C), grey where they are TO_DRAW."""
    if canvas.single:
        return _painted(sampler, codes)
    pictures, at_a_time = [], max(PAINTED // len(canvas.windows()), 1)
    for start in range(0, len(codes), at_a_time):
        part = codes[start : start + at_a_time]
        windows = [_painted(sampler, part[:, *window]) for window in _slices(canvas)]
        pictures.append(joined(canvas, windows))
    return np.concatenate(pictures)


def _slices(canvas: Canvas) -> list[tuple[slice, slice]]:
    """The windows of a canvas, as what they are of its codes (R, C)."""
    side = canvas.grid
    return [(slice(y, y + side), slice(x, x + side)) for y, x in canvas.windows()]


def _painted(sampler: Sampler, codes: Tensor) -> np.ndarray:
    known = codes != TO_DRAW
    return sampler.paint(codes.clamp(min=0), None if known.all() else known)
