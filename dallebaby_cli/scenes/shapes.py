"""How each thing of `scenes` looks: layers from back to front, in a box from -1 to 1, y downwards.

A layer is its kind ("oval" between two corners, "polygon"), its tone ("main" is the colour that
the caption names, "shade" a darker one, "behind" the background, or a fixed colour) and points.
The main colour always covers the most.
"""

import math

Point = tuple[float, float]
Tone = str | tuple[int, int, int]
Layer = tuple[str, Tone, list[Point]]

INK = (38, 36, 42)
LIGHT = (246, 247, 250)
WOOD = (104, 76, 56)
STEM = (84, 128, 70)
BEAK = (236, 172, 62)


def oval(tone: Tone, x: float, y: float, rx: float, ry: float | None = None) -> Layer:
    """An ellipse around (x, y); a circle without ry."""
    ry = rx if ry is None else ry
    return "oval", tone, [(x - rx, y - ry), (x + rx, y + ry)]


def box(tone: Tone, left: float, top: float, right: float, bottom: float) -> Layer:
    """An upright rectangle."""
    return polygon(tone, (left, top), (right, top), (right, bottom), (left, bottom))


def polygon(tone: Tone, *points: Point) -> Layer:
    """Any polygon."""
    return "polygon", tone, list(points)


def around(tone: Tone, corners: int, radii: tuple[float, ...], turn: float = -90) -> Layer:
    """A polygon of corners around the centre, at each of the radii in turn."""
    angles = [math.radians(turn + 360 * i / corners) for i in range(corners)]
    return polygon(
        tone,
        *(
            (radii[i % len(radii)] * math.cos(a), radii[i % len(radii)] * math.sin(a))
            for i, a in enumerate(angles)
        ),
    )


def _heart() -> Layer:
    """The classic heart curve, scaled to the box."""
    turns = [2 * math.pi * i / 48 for i in range(48)]
    return polygon(
        "main",
        *(
            (
                math.sin(t) ** 3,
                -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t))
                / 15
                - 0.14,
            )
            for t in turns
        ),
    )


SHAPES: dict[str, list[Layer]] = {
    "car": [
        polygon("main", (-0.62, 0.0), (-0.36, -0.56), (0.38, -0.56), (0.68, 0.0)),
        polygon(LIGHT, (-0.44, -0.04), (-0.27, -0.42), (-0.04, -0.42), (-0.04, -0.04)),
        polygon(LIGHT, (0.06, -0.04), (0.06, -0.42), (0.3, -0.42), (0.49, -0.04)),
        polygon("main", (-1, 0.46), (-1, 0.1), (-0.88, -0.06), (0.8, -0.06), (1, 0.12), (1, 0.46)),
        box(BEAK, 0.86, 0.1, 1.0, 0.24),
        *(oval(INK, x, 0.44, 0.27) for x in (-0.55, 0.55)),
        *(oval(LIGHT, x, 0.44, 0.11) for x in (-0.55, 0.55)),
    ],
    "house": [
        box("shade", 0.4, -0.85, 0.62, -0.3),
        box("main", -0.78, -0.14, 0.78, 0.95),
        polygon("shade", (-1, -0.12), (0, -0.95), (1, -0.12)),
        box(INK, -0.16, 0.38, 0.2, 0.95),
        box(LIGHT, -0.6, 0.1, -0.28, 0.44),
        box(LIGHT, 0.34, 0.1, 0.64, 0.44),
    ],
    "tree": [
        box(WOOD, -0.15, 0.2, 0.15, 1.0),
        oval("main", -0.42, 0.05, 0.5),
        oval("main", 0.42, 0.05, 0.5),
        oval("main", 0, -0.42, 0.56),
        oval("main", 0, 0.1, 0.5),
        oval("shade", -0.2, 0.0, 0.13),
        oval("shade", 0.35, 0.12, 0.11),
        oval("shade", 0.08, -0.5, 0.12),
    ],
    "flower": [
        box(STEM, -0.05, 0.1, 0.06, 1.0),
        polygon(STEM, (0.0, 0.86), (0.42, 0.52), (0.36, 0.8)),
        *(
            oval("main", 0.42 * math.cos(a), -0.3 + 0.42 * math.sin(a), 0.3)
            for a in (math.radians(60 * i - 90) for i in range(6))
        ),
        oval(INK, 0, -0.3, 0.2),
        oval(LIGHT, 0, -0.3, 0.11),
    ],
    "fish": [
        polygon("shade", (0.4, 0), (1.0, -0.55), (0.86, 0), (1.0, 0.55)),
        polygon("shade", (-0.35, -0.35), (0.1, -0.78), (0.3, -0.3)),
        oval("main", -0.22, 0, 0.78, 0.5),
        polygon("shade", (-0.15, 0.02), (0.25, 0.3), (0.2, -0.02)),
        oval(LIGHT, -0.62, -0.1, 0.14),
        oval(INK, -0.65, -0.1, 0.07),
    ],
    "boat": [
        box(WOOD, -0.06, -0.95, 0.04, 0.3),
        polygon(LIGHT, (-0.12, -0.85), (-0.12, 0.14), (-0.72, 0.14)),
        polygon("shade", (0.1, -0.95), (0.1, 0.14), (0.8, 0.14)),
        polygon("main", (-1, 0.22), (1, 0.22), (0.66, 0.9), (-0.66, 0.9)),
    ],
    "bird": [
        polygon("shade", (0.4, 0.0), (1.0, -0.3), (0.95, 0.2)),
        box(INK, -0.12, 0.5, -0.06, 0.95),
        box(INK, 0.1, 0.5, 0.16, 0.95),
        polygon(BEAK, (-0.78, -0.52), (-1.0, -0.36), (-0.74, -0.26)),
        oval("main", 0.06, 0.14, 0.62, 0.48),
        oval("main", -0.48, -0.4, 0.38),
        polygon("shade", (-0.15, 0.0), (0.6, -0.06), (0.3, 0.42), (0.02, 0.34)),
        oval(LIGHT, -0.56, -0.46, 0.11),
        oval(INK, -0.58, -0.46, 0.06),
    ],
    "cup": [
        oval("main", 0.58, 0.08, 0.4, 0.42),
        oval("behind", 0.58, 0.08, 0.21, 0.23),
        polygon("main", (-0.82, -0.62), (0.62, -0.62), (0.44, 0.85), (-0.64, 0.85)),
        oval("shade", -0.1, -0.62, 0.72, 0.2),
        oval(INK, -0.1, -0.6, 0.56, 0.12),
    ],
    "mushroom": [
        polygon(LIGHT, (-0.26, 0.0), (0.26, 0.0), (0.36, 0.95), (-0.36, 0.95)),
        polygon(
            "main",
            *(
                (math.cos(a), 0.16 - 1.08 * math.sin(a))
                for a in (math.radians(15 * i) for i in range(13))
            ),
        ),
        oval(LIGHT, -0.42, -0.22, 0.17),
        oval(LIGHT, 0.14, -0.52, 0.15),
        oval(LIGHT, 0.52, -0.1, 0.13),
    ],
    "moon": [oval("main", 0, 0, 1), oval("behind", 0.5, -0.2, 0.8)],
    "star": [around("main", 10, (1.0, 0.46))],
    "heart": [_heart()],
    "circle": [oval("main", 0, 0, 1)],
    "square": [box("main", -0.95, -0.95, 0.95, 0.95)],
    "triangle": [polygon("main", (0, -0.95), (1, 0.85), (-1, 0.85))],
}
