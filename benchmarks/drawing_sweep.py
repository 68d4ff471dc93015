"""Temperatures and ways of guidance beside one another: the pictures of one finished model, judged
by distance and by agreement.

    python benchmarks/drawing_sweep.py HOME RUN [--pictures 500] [--temperatures 0.8 0.9 1]
        [--guidances 1 1.5 2 3 5] [--shapes constant middle ...] [--set SETTING ...] [--json]

RUN is a finished one of HOME/dalle. Each row is drawn and judged by `dallebaby evaluate`, whose
figures the columns are; all have the same captions and seeds. Shapes say over which part of the
picture the caption pulls: see SHAPES. Prints a Markdown table; bold is the best of a column, and a
star stands where no other row is as good in all columns and better in one: defaults are chosen
among those. HOME/drawing-sweep keeps each row, so that none is drawn twice.
"""

import argparse
import contextlib
import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

import rows
from baby import table
from judged import judged, lower_is_better

from dallebaby_cli.store import manifest

SHAPES: dict[str, tuple[str, ...]] = {
    "constant": (),
    "ramp": ("guidance_ramp=1",),
    "middle": ("guidance_interval=[0.1,0.8]",),
    "begin": ("guidance_interval=[0,0.5]",),
    "end": ("guidance_interval=[0.25,1]",),
    "cosine": ("guidance_power=1",),
    "late": ("guidance_power=2.75",),
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("home", type=Path)
    parser.add_argument("run")
    parser.add_argument("--pictures", type=int, default=500, help="drawn of each kind")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.8, 0.9, 1.0])
    parser.add_argument("--guidances", type=float, nargs="+", default=[1, 1.5, 2, 3, 5])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["constant"])
    parser.add_argument("--set", nargs="+", default=[], metavar="SETTING", help="of `evaluate`")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true", help="print figures in place of the table")
    return parser.parse_args()


def row(
    temperature: float, guidance: float, shape: str, options: argparse.Namespace
) -> dict[str, Any]:
    """How a model draws so: as it was found before, or now."""
    run, about = manifest.find(options.home, "dalle", options.run)
    drawn = (f"temperature={temperature:g}", f"guidance={guidance:g}", *SHAPES[shape])
    settings = [*(f"sampling.{setting}" for setting in drawn), *options.set]
    name = f"{shape}-{temperature:g}-{guidance:g}-{options.pictures}.json"
    path = options.home / "drawing-sweep" / f"{about.name}-{about.id[:8]}" / name
    facts = rows.kept(path)
    if facts is None or facts["settings"] != settings:
        found = judged(options.home, run, options.pictures, settings)
        facts = {"shape": shape, "temperature": temperature, "guidance": guidance}
        facts = rows.keep(path, facts | {"settings": settings, "judged": found})
    return facts


def unbeaten(lines: list[dict[str, Any]]) -> list[bool]:
    """Of each row, whether no other is better in every column, or as good and better in one."""

    def beats(a: dict[str, float], b: dict[str, float]) -> bool:
        gains = [(b[c] - a[c]) * (1 if lower_is_better(c) else -1) for c in a.keys() & b.keys()]
        return bool(gains) and min(gains) >= 0 and max(gains) > 0

    found = [line["judged"] for line in lines]
    return [not any(beats(other, mine) for other in found) for mine in found]


def shown(lines: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    columns = [*{name: None for line in lines for name in line["judged"]}]
    best = {
        c: (min if lower_is_better(c) else max)(
            line["judged"][c] for line in lines if c in line["judged"]
        )
        for c in columns
    }
    body = []
    for line, star in zip(lines, unbeaten(lines), strict=True):
        cells = [line["shape"], f"{line['temperature']:g}", f"{line['guidance']:g}"]
        for name in columns:
            value = line["judged"].get(name)
            form = ".1f" if lower_is_better(name) else ".1%"
            text = "" if value is None else format(value, form)
            cells.append(f"**{text}**" if value == best[name] else text)
        body.append([*cells, "★" if star else ""])
    head = ["guidance is", "temperature", "guidance", *columns, "unbeaten"]
    return table([head, ["---"] * len(head), *body])


def main() -> None:
    options = parse()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # of all processes
    asked = []
    for shape, guidance, temperature in itertools.product(
        options.shapes, options.guidances, options.temperatures
    ):
        if guidance != 1 or shape == options.shapes[0]:  # without guidance, shapes are alike
            asked.append((temperature, guidance, shape))
    with contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext():
        lines = [row(*each, options) for each in asked]
    if options.json:
        stars = unbeaten(lines)
        print(json.dumps([{**x, "unbeaten": star} for x, star in zip(lines, stars, strict=True)]))
    else:
        print(f"\n{options.run}, {options.pictures} pictures of each kind\n\n{shown(lines)}")


if __name__ == "__main__":
    main()
