"""`scenes`, the embedded default dataset: drawn pictures of coloured things, with captions.

Picture number i of a seed is always the same, whoever draws it, at any size. Some pairs of a thing
and a colour never occur (HELD_OUT_PAIRS), so that asking for one asks for a true composition.
A picture's spec (`Scene`) is fixed for good: things take 25 to 80 % of the side, anywhere inside
the frame, one alone or two with a relation.
"""

from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from dallebaby_cli.scenes import captions as wording
from dallebaby_cli.scenes.shapes import SHAPES

RGB = tuple[int, int, int]
Pairs = Literal["seen", "held-out", "any"]

COLOURS: dict[str, RGB] = {
    "red": (220, 35, 40),
    "orange": (248, 138, 25),
    "yellow": (252, 222, 45),
    "green": (45, 160, 70),
    "turquoise": (35, 190, 185),
    "blue": (40, 90, 215),
    "purple": (135, 60, 170),
    "pink": (246, 125, 185),
    "brown": (125, 75, 40),
    "black": (22, 22, 25),
    "grey": (128, 128, 132),
    "white": (252, 252, 252),
}
BACKGROUNDS: dict[str, RGB] = {
    "light blue": (196, 222, 250),
    "light green": (200, 234, 196),
    "cream": (250, 240, 212),
    "peach": (255, 210, 182),
    "lavender": (216, 206, 245),
    "sand": (222, 202, 160),
    "light grey": (212, 212, 214),
    "dark blue": (24, 32, 84),
    "dark green": (16, 62, 44),
    "maroon": (84, 16, 38),
}
THINGS: tuple[str, ...] = tuple(SHAPES)
HELD_OUT_PAIRS = frozenset(
    {
        ("car", "red"),
        ("house", "blue"),
        ("flower", "yellow"),
        ("fish", "orange"),
        ("tree", "purple"),
        ("boat", "green"),
        ("star", "pink"),
        ("heart", "turquoise"),
    }
)
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

ALONE = 0.72  # share of the pictures with one thing
MIN_CONTRAST = 42  # between a thing and its background, as a distance in CIELAB
OVERSAMPLING = 4  # pixels along a side that are averaged into one, against jagged edges


@dataclass(frozen=True)
class Placed:
    """A thing in a picture; lengths are shares of the picture's side."""

    thing: str
    colour: str
    x: float
    """of the centre, from the left"""
    y: float
    """of the centre, from the top"""
    size: float
    """side of the box that it fills"""


@dataclass(frozen=True)
class Scene:
    """All that is in a picture."""

    background: str
    things: tuple[Placed, ...]
    relation: str | None = None
    """of the first thing to the second: "left of", "right of", "above", "below" """


def scene(seed: int, index: int, pairs: Pairs = "seen") -> Scene:
    """The spec of picture number `index`; those of the dataset never hold a held-out pair."""
    random = Random(f"{seed}/{index}")
    background = random.choice(list(BACKGROUNDS))
    first = _pair(random, background, pairs)
    if random.random() < ALONE:
        size = random.uniform(0.25, 0.8)
        margin = size / 2
        x, y = random.uniform(margin, 1 - margin), random.uniform(margin, 1 - margin)
        return Scene(background, (Placed(*first, x, y, size),))
    second = _pair(random, background, pairs)
    while second[1] == first[1]:  # two colours, so that each caption can only mean one picture
        second = _pair(random, background, pairs)
    relation = random.choice(list(OPPOSITE))
    placed = []
    for pair, low in zip((first, second), (0.0, 0.5), strict=True):
        size = random.uniform(0.25, 0.45)
        along = random.uniform(low + size / 2, low + 0.5 - size / 2)
        across = random.uniform(size / 2, 1 - size / 2)
        if relation in ("right of", "below"):
            along = 1 - along
        x, y = (along, across) if relation in ("left of", "right of") else (across, along)
        placed.append(Placed(*pair, x, y, size))
    return Scene(background, tuple(placed), relation)


def _pair(random: Random, background: str, pairs: Pairs) -> tuple[str, str]:
    """A thing and a colour of the pairs wanted that stand out from the background."""
    while True:
        pair = random.choice(THINGS), random.choice(visible_colours(background))
        if pairs == "any" or (pair in HELD_OUT_PAIRS) == (pairs == "held-out"):
            return pair


@lru_cache(maxsize=len(BACKGROUNDS))
def visible_colours(background: str) -> tuple[str, ...]:
    """The colours that stand out from a background."""
    behind = lab(np.array(BACKGROUNDS[background]))
    distance = {c: np.linalg.norm(lab(np.array(rgb)) - behind) for c, rgb in COLOURS.items()}
    return tuple(colour for colour, far in distance.items() if far >= MIN_CONTRAST)


def render(scene: Scene, px: int) -> np.ndarray:
    """Draw a scene: uint8 (px, px, 3), anti-aliased."""
    side = px * OVERSAMPLING
    canvas = Image.new("RGB", (side, side), BACKGROUNDS[scene.background])
    pen = ImageDraw.Draw(canvas)
    for placed in scene.things:
        main = COLOURS[placed.colour]
        tones = {
            "main": main,
            "shade": tuple(int(0.74 * channel) for channel in main),
            "behind": BACKGROUNDS[scene.background],
        }
        half = placed.size * side / 2
        left, top = placed.x * side, placed.y * side
        for kind, tone, points in SHAPES[placed.thing]:
            at = [(left + x * half, top + y * half) for x, y in points]
            fill = tones[tone] if isinstance(tone, str) else tone
            if kind == "oval":
                pen.ellipse(at, fill=fill)
            else:
                pen.polygon(at, fill=fill)
    return np.asarray(canvas.reduce(OVERSAMPLING))


def draw(seed: int, index: int, px: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Picture number `index`, uint8 (px, px, 3), and its captions."""
    drawn = scene(seed, index)
    return render(drawn, px), captions(drawn, Random(f"{seed}/{index}/captions"))


def captions(scene: Scene, random: Random) -> tuple[str, ...]:
    """Four different English captions; the first is the plain one that people type."""
    names = [f"{placed.colour} {placed.thing}" for placed in scene.things]
    if scene.relation is None:
        (placed,) = scene.things
        return wording.of_one(names[0], placed.x, placed.y, placed.size, scene.background, random)
    return wording.of_two(
        names[0], scene.relation, names[1], OPPOSITE[scene.relation], scene.background, random
    )


def prompts(seed: int, n: int, held_out: bool = False) -> list[tuple[str, str]]:
    """n prompts for one thing and the colour that each asks for; of pairs that training shows,
    or of those that it never does."""
    random = Random(f"{seed}/prompts")
    seen = [(t, c) for t in THINGS for c in COLOURS if (t, c) not in HELD_OUT_PAIRS]
    pairs = sorted(HELD_OUT_PAIRS) if held_out else seen
    chosen = [random.choice(pairs) for _ in range(n)]
    return [(wording.article(f"{colour} {thing}"), colour) for thing, colour in chosen]


def plain_captions() -> list[str]:
    """What people would type for one thing, of each colour: "a red car", "an orange fish"."""
    return [wording.article(f"{colour} {thing}") for thing in THINGS for colour in COLOURS]


# ---------------------------------------------------------------- reading colours back


def lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB in 0..255 (…, 3) → CIELAB under D65, where distances are about as people see them."""
    linear = rgb / 255.0
    linear = np.where(linear > 0.04045, ((linear + 0.055) / 1.055) ** 2.4, linear / 12.92)
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = linear @ to_xyz.T / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), axis=-1)


def colour_of(image: np.ndarray) -> str | None:
    """Which of COLOURS the thing in a picture (H, W, 3) has; None if nothing stands out.

    Each pixel is named after the nearest colour. The commonest name along the border is the
    background; the commonest foreground colour among the other pixels is the thing's. Pixels
    whose four neighbours have the same name count five times: edges mix two colours into a third.
    """
    palette = lab(np.array([*COLOURS.values(), *BACKGROUNDS.values()]))
    distance = np.linalg.norm(lab(image)[:, :, None] - palette, axis=-1)  # (H, W, colours)
    names = distance.argmin(-1)
    border = np.concatenate((names[0], names[-1], names[:, 0], names[:, -1]))
    behind = np.bincount(border).argmax()
    votes = np.where(names == behind, 0, 1)
    same = np.ones_like(votes, dtype=bool)
    for axis in (0, 1):
        for shift in (1, -1):
            same &= names == np.roll(names, shift, axis)
    counts = np.bincount(names.ravel(), (votes + 4 * votes * same).ravel())[: len(COLOURS)]
    if counts.max(initial=0) < 0.01 * names.size:
        return None
    return list(COLOURS)[counts.argmax()]
