"""What is kept of a picture, where it lies in a larger one, and how the two are joined.

All of it is arithmetic. A drawing is a canvas of codes, some of them known; the usual one has as
many as the model's pictures. A larger one is drawn window by window, each of the model's size and
half over what is there already, and painted likewise: where windows overlap, they pass into each
other. Where a given picture was kept, its own pixels are put back.

Shapes: B pictures, P pixels and G codes along a side of the model's pictures, a canvas of R x C
codes and H x W pixels, S = P / G pixels along a side of a code's square.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dallebaby_cli.drawing.next_code import keys, noise
from dallebaby_cli.errors import UsageError

TO_DRAW = -1
"""stands where a code is not known"""
SIDES = ("left", "right", "up", "down")


@dataclass(frozen=True)
class Canvas:
    """How large a drawing is, and where in it a picture of the model's size lies, all in codes."""

    rows: int
    columns: int
    grid: int
    """G"""
    top: int = 0
    left: int = 0

    @property
    def single(self) -> bool:
        """Whether it is no larger than the model's pictures."""
        return self.rows == self.columns == self.grid

    def size(self, code_px: int) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.columns * code_px, self.rows * code_px

    def windows(self) -> list[tuple[int, int]]:
        """Top and left of windows of G x G that cover it: first the one where the picture lies,
        then outwards, so that each overlaps those before it by half, or by more at the edges."""
        down = _steps(self.rows, self.grid, self.top)
        right = _steps(self.columns, self.grid, self.left)
        rings = [
            (max(far_down, far_right), far_down + far_right, top, left)
            for (far_down, top), (far_right, left) in itertools.product(down, right)
        ]
        return [(top, left) for _, _, top, left in sorted(rings)]

    def holding(self, known: Tensor) -> Tensor:
        """Codes (B, R, C) of a canvas that has the known ones (B, G, G) where its picture lies and
        none elsewhere."""
        codes = known.new_full((len(known), self.rows, self.columns), TO_DRAW)
        bottom, right = self.top + self.grid, self.left + self.grid
        codes[:, self.top : bottom, self.left : right] = known
        return codes


@dataclass(frozen=True, kw_only=True)
class Edits:
    """What is to be done with a picture, or with the size of a drawing. Raises UsageError for what
    does not go together."""

    image: Path | None = None
    """the picture"""
    mask: Path | None = None
    """a picture of it whose white is drawn anew"""
    keep: int | None = None
    """rows of codes from the top, of which the rest is drawn"""
    variations: float | None = None
    """share of its codes that stay"""
    outpaint: tuple[str, int] | None = None
    """on which of SIDES so many pixels are added"""
    size: str | None = None
    """of the whole drawing, such as "128x64" """

    def __post_init__(self) -> None:
        asked = {"--mask": self.mask, "--keep": self.keep, "--variations": self.variations}
        kept = [flag for flag, value in asked.items() if value is not None]
        of_a_picture = [*kept, *(["--outpaint"] if self.outpaint else [])]
        if of_a_picture and self.image is None:
            raise UsageError(f"{of_a_picture[0]} needs a picture to begin with: --image FILE")
        if len(kept) > 1:
            raise UsageError(
                f"{' and '.join(kept)} each say what of the picture is kept; give one of them"
            )
        if self.outpaint and self.size:
            raise UsageError(
                "--outpaint and --size each say how large the drawing is; give one of them"
            )

    def canvas(self, grid: int, code_px: int) -> Canvas:
        """For a model with so many codes along a side, of so many pixels each. Raises UsageError
        for a size that it cannot draw."""
        if self.outpaint:
            return outpainted(*self.outpaint, grid, code_px)
        if self.size:
            return sized(self.size, grid, code_px, centred=self.image is not None)
        return Canvas(grid, grid, grid)

    def kept(
        self, codes: Tensor, white: np.ndarray | None, seeds: Sequence[int], larger: bool
    ) -> Tensor:
        """What is known (1, G, G), or for each of B seeds (B, G, G), of the picture's codes (G, G),
        some of which a mask's `white` may touch. Where nothing was asked for: all of it in a
        `larger` drawing, else its upper half. Raises UsageError."""
        if self.variations is not None:
            return share_kept(codes, self.variations, seeds)
        if self.keep is not None:
            return rows_kept(codes, self.keep)[None]
        if white is not None:
            return outside_kept(codes, touched(white, len(codes)))[None]
        return codes[None] if larger else rows_kept(codes, len(codes) // 2)[None]

    def pastes(self, white: np.ndarray | None, larger: bool) -> bool:
        """Whether what is kept shows the picture's own pixels, not the codes' as for `keep`."""
        return self.keep is None and self.variations is None and (white is not None or larger)


def _steps(length: int, grid: int, start: int) -> list[tuple[int, int]]:
    """Where windows begin along a side: at `start`, and from there in steps of half a window to
    both ends; each with how many steps that is away."""
    step, last = max(grid // 2, 1), length - grid
    before, after = -(-start // step), -(-(last - start) // step)
    numbers = range(-before, after + 1)
    return [(abs(number), min(max(start + number * step, 0), last)) for number in numbers]


def outpainted(side: str, pixels: int, grid: int, code_px: int) -> Canvas:
    """A canvas with so many pixels more than a picture on one of its SIDES. Raises UsageError."""
    if side not in SIDES:
        raise UsageError(f"--outpaint {side}: the side must be one of {', '.join(SIDES)}")
    if pixels >= 10**9:
        raise UsageError(f"--outpaint {side}: give fewer than {10**9:,} pixels")
    more, rest = divmod(pixels, code_px)
    if more < 1 or rest:
        raise UsageError(
            f"--outpaint {side} {pixels}: this model draws squares of {code_px} pixels, so give "
            f"a multiple of {code_px}, such as {max(round(pixels / code_px), 1) * code_px}"
        )
    if side in ("left", "right"):
        return Canvas(grid, grid + more, grid, left=more if side == "left" else 0)
    return Canvas(grid + more, grid, grid, top=more if side == "up" else 0)


def sized(size: str, grid: int, code_px: int, centred: bool) -> Canvas:
    """A canvas of a size such as "128x64", width first, in pixels; what is first drawn, or given,
    lies `centred` in it, or else at its top left. Raises UsageError."""
    parts = re.fullmatch(r"(\d{1,9})x(\d{1,9})", size.strip().lower(), re.A)
    if not parts:
        raise UsageError(f"--size {size}: write it as WIDTHxHEIGHT in pixels, such as 128x64")
    least = grid * code_px
    lengths = [int(parts[number]) for number in (1, 2)]
    if any(length < least or length % code_px for length in lengths):
        near = "x".join(str(max(round(n / code_px) * code_px, least)) for n in lengths)
        raise UsageError(
            f"--size {size}: this model draws multiples of {code_px} pixels, {least} or more along "
            f"each side, such as {near}"
        )
    columns, rows = (length // code_px for length in lengths)
    top, left = ((rows - grid) // 2, (columns - grid) // 2) if centred else (0, 0)
    return Canvas(rows, columns, grid, top, left)


# ---------------------------------------------------------------- what is kept


def rows_kept(codes: Tensor, keep: int) -> Tensor:
    """Codes (G, G), of which the first rows are known. Raises UsageError."""
    rows = len(codes)
    if rows == 1:
        raise UsageError(
            "this model's pictures are one code each, so a part of one cannot be kept; draw around "
            "the whole of it, with --outpaint or --size"
        )
    if not 1 <= keep < rows:
        raise UsageError(
            f"--keep {keep}: this model's pictures have {rows} rows; keep 1 to {rows - 1} of them"
        )
    known = torch.full_like(codes, TO_DRAW)
    known[:keep] = codes[:keep]
    return known


def outside_kept(codes: Tensor, redrawn: np.ndarray) -> Tensor:
    """Codes (G, G), known where they are not `redrawn`, bool (G, G)."""
    return codes.masked_fill(torch.from_numpy(redrawn).to(codes.device), TO_DRAW)


def share_kept(codes: Tensor, share: float, seeds: Sequence[int]) -> Tensor:
    """Codes (B, G, G) of a picture (G, G), a share of them known, for each of B seeds others; as
    many for all. Raises UsageError."""
    if not 0 < share < 1:
        raise UsageError(
            f"--variations {share:g}: must be above 0 and below 1; it is the share of the "
            "picture's codes that each variation keeps"
        )
    places = codes.numel()
    count = min(max(round(share * places), 1), places - 1)
    # of numbers that no drawing uses: its seeds are not negative
    random = noise(keys([~seed for seed in seeds]), 0, 1, places)[0]
    kept = torch.zeros(random.shape, dtype=torch.bool)
    kept.scatter_(1, random.topk(count).indices, True)
    every = codes.flatten().expand(len(seeds), -1)
    known = every.masked_fill(~kept.to(codes.device), TO_DRAW)
    return known.reshape(-1, *codes.shape)


def touched(white: np.ndarray, grid: int) -> np.ndarray:
    """Which codes a mask's white, bool (H, W) of a whole picture, touches, bool (G, G): their
    squares are those of the square in its middle, which is what `prep` crops."""
    side = min(white.shape)
    down, right = (_parts(length, side, grid) for length in white.shape)
    return np.array(
        [[white[top:bottom, left:after].any() for left, after in right] for top, bottom in down]
    )


def _parts(length: int, side: int, grid: int) -> list[tuple[int, int]]:
    """The pixels, from and to before, of which each code's square in the middle `side` of a length
    has at least a part."""
    whole, start = 2 * grid, (length - side) * grid  # a pixel; where the middle begins
    bounds = [start + 2 * number * side for number in range(grid + 1)]
    return [(a // whole, -(-b // whole)) for a, b in itertools.pairwise(bounds)]


# ---------------------------------------------------------------- joining pixels


def joined(canvas: Canvas, windows: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures uint8 (B, H, W, 3) from those (B, P, P, 3) of all `canvas.windows()`. Where several
    overlap, each counts the more the further a pixel is from its edge."""
    count, px, _, _ = windows[0].shape
    code_px = px // canvas.grid
    size = (canvas.rows * code_px, canvas.columns * code_px)
    tent = np.minimum(np.arange(px) + 1, px - np.arange(px)).astype(np.float32)
    weight = np.outer(tent, tent)[:, :, None]
    summed = np.zeros((count, *size, 3), np.float32)
    weights = np.zeros((*size, 1), np.float32)
    for (top, left), window in zip(canvas.windows(), windows, strict=True):
        place = (
            slice(top * code_px, top * code_px + px),
            slice(left * code_px, left * code_px + px),
        )
        summed[:, *place] += weight * window
        weights[place] += weight
    np.divide(summed, weights, out=summed)
    return np.rint(summed, out=summed).astype(np.uint8)


def pasted(canvas: Canvas, painted: np.ndarray, picture: np.ndarray, known: Tensor) -> np.ndarray:
    """Pictures (B, H, W, 3) uint8 with a given one (P, P, 3) put back where its codes are `known`,
    (R, C): exactly, but for half a code along what was drawn, where it passes into what is painted
    there."""
    px = len(picture)
    code_px = px // canvas.grid
    top, left = canvas.top * code_px, canvas.left * code_px
    place = (slice(top, top + px), slice(left, left + px))
    drawn = (known == TO_DRAW).numpy().repeat(code_px, 0).repeat(code_px, 1)
    share = _seam(drawn, code_px // 2)[place][:, :, None]
    result = painted.copy()
    result[:, *place] = np.rint(share * painted[:, *place] + (1 - share) * picture)
    return result


def _seam(drawn: np.ndarray, width: int) -> np.ndarray:
    """How much of what is painted shows, float32 (H, W): all where it was `drawn`, bool (H, W), and
    the less the further away; nothing beyond so many pixels."""
    share = drawn.astype(np.float32)
    for number in range(1, width + 1):
        around = np.pad(drawn, 1)
        neighbours = np.lib.stride_tricks.sliding_window_view(around, (3, 3))
        wider = np.asarray(neighbours.any((2, 3)))
        share[wider & ~drawn] = 1 - number / (width + 1)
        drawn = wider
    return share
