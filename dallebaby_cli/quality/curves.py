"""Curves as SVG inside a page."""

import math
from collections.abc import Mapping

import numpy as np

from dallebaby_cli.quality.page import Html, tag

WIDTH, HEIGHT = 320, 160
LEFT, RIGHT, TOP, BOTTOM = 44, 6, 8, 18  # margins
MOST = 300  # points that are drawn


def chart(name: str, points: Mapping[int, float]) -> Html:
    """A figure over the steps, with its least and largest values; nothing where none is finite."""
    known = [(step, value) for step, value in sorted(points.items()) if math.isfinite(value)]
    if not known:
        return Html("")
    chosen = np.linspace(0, len(known) - 1, min(len(known), MOST)).round().astype(int)
    low, high = min(v for _, v in known), max(v for _, v in known)
    last = max(known[-1][0], 1)
    x = [LEFT + (WIDTH - LEFT - RIGHT) * (known[i][0] / last) for i in chosen]
    span = (high - low) or 1.0
    y = [TOP + (HEIGHT - TOP - BOTTOM) * ((high - known[i][1]) / span) for i in chosen]
    if len(x) > 1:
        pairs = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
        drawn = tag("polyline", points=pairs)
    else:
        drawn = tag("circle", cx=f"{x[0]:.1f}", cy=f"{y[0]:.1f}", r=3)
    floor, told = HEIGHT - BOTTOM, f"{name}: {known[-1][1]:.4g} at step {known[-1][0]:,}"
    labels = [(LEFT - 4, TOP + 8, "end", f"{high:.4g}")]
    labels += [(LEFT - 4, floor, "end", f"{low:.4g}")] if high > low else []
    labels += [
        (LEFT, HEIGHT - 4, "start", "0"),
        (WIDTH - RIGHT, HEIGHT - 4, "end", f"step {last:,}"),
    ]
    svg = tag(
        "svg",
        tag("line", x1=LEFT, y1=floor, x2=WIDTH - RIGHT, y2=floor),
        tag("line", x1=LEFT, y1=TOP, x2=LEFT, y2=floor),
        drawn,
        *(tag("text", text, x=a, y=b, text_anchor=anchor) for a, b, anchor, text in labels),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=told,
    )
    return tag("figure", svg, tag("figcaption", told))
