"""What learning in other orders costs, and what it is good for: pictures in few passes, and holes
that are filled.

    python benchmarks/orders.py HOME TOKENS... --minutes M [--seeds 0 1 2] [--only ROW ...]
        [--passes 8 16 22] [--orders diagonal halton confidence] [--drawn ROW] [--pictures N]
        [--set SETTING ...] [--kept] [--json]

TOKENS are NAME@RUN in HOME, as `dallebaby encode` leaves them: of many pictures, which are seen a
few times, and of few, which are seen again and again; how often is said. Each gets three tables:

1. bits a code in raster order on hold-out pictures, of runs that learn a share of the pictures in
   other orders, beside raster order alone at equal minutes (benchmarks/ladder.py);
2. with --pictures, of the run of --drawn and the first seed: pictures a second, one and eight side
   by side, and what `dallebaby evaluate` says of them, in raster order and in passes;
3. likewise a quarter in the middle of real hold-out pictures filled, against drawing on in raster
   order from the rows above it.

HOME/ladder and HOME/orders keep what was found, so that nothing is run twice, and HOME/orders gets
a figure of the second table for each of the tokens, NAME@RUN.png. --steps makes it all a miniature.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import baby
import filling
import ladder
import matplotlib
import rows
from judged import judged, lower_is_better
from ladder import Row

from dallebaby_cli.config import SampleConfig
from dallebaby_cli.store import manifest
from dallebaby_cli.store.tokens import Tokens

ROWS = {
    ladder.BASE: Row("raster order alone", ("random_order=0",)),
    "tenth": Row("a tenth in other orders, all along", ("random_order=0.1",)),
    "quarter": Row("a quarter at first, a tenth at last", ("random_order=0.25",)),
    "half": Row("half at first, a tenth at last", ("random_order=0.5",)),
    "all": Row("all at first, a tenth at last", ("random_order=1",)),
    "to-raster": Row("all at first, none at last", ("random_order=1", "random_floor=0")),
    "half-stays": Row("half, all along", ("random_order=0.5", "random_floor=0.5")),
    "tables": Row("none, but told as if", ("random_order=1e-9", "random_floor=0")),
}
SIDE_BY_SIDE = (1, 8)
ORDERS = ["diagonal", "halton", "confidence"]


def parse() -> argparse.Namespace:
    parser = ladder.arguments(__doc__, ROWS)
    parser.add_argument("--passes", type=int, nargs="+", default=[8, 16, 22])
    parser.add_argument("--orders", nargs="+", choices=ORDERS, default=ORDERS, metavar="ORDER")
    parser.add_argument("--drawn", default="quarter", metavar="ROW", help="whose pictures to draw")
    return parser.parse_args()


def kept(path: Path, options: argparse.Namespace, find: Callable[[], dict[str, Any]]) -> Any:
    """What was found before, or now; None where nothing is to be run."""
    facts = rows.kept(path)
    return facts if facts or options.kept else rows.keep(path, find())


def speeds(home: Path, run: Path, settings: list[str]) -> dict[str, float]:
    """Pictures a second, so many side by side, with guidance."""
    sets = [word for setting in settings for word in ("--set", setting)]
    told = json.loads(baby.dallebaby(home, "evaluate", "--model", run, "--speed", "--json", *sets))
    usual = SampleConfig().guidance
    return {
        f"images/s, {row['pictures']} side by side": row["pictures_per_s"]
        for row in told["rows"]
        if row["guidance"] == usual and row["pictures"] in SIDE_BY_SIDE
    }


def drawn(tokens: str, run: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """How a run draws in raster order and in passes."""
    ways: list[tuple[str, list[str]]] = [("raster order", [])]
    for passes in options.passes:
        for order in options.orders:
            settings = [f"sampling.steps={passes}", f"sampling.order={order}"]
            ways.append((f"{passes} passes, {order}", settings))
    lines, home = [], options.home
    for name, settings in ways:

        def find(settings: list[str] = settings) -> dict[str, Any]:
            return speeds(home, home / "dalle" / run, settings) | judged(
                home, home / "dalle" / run, options.pictures, settings
            )

        path = home / "orders" / tokens / run / f"{name}, {options.pictures}.json"
        facts = kept(path, options, find)
        lines += [{"way": name, **facts}] if facts else []
    return lines


def filled(tokens: str, run: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """How a run fills real pictures."""
    ways = [("the rows below drawn on in raster order", "top", SampleConfig())]
    ways += [("the centre filled in raster order", "centre", SampleConfig())]
    ways += [
        (f"the centre filled in {n} passes", "centre", SampleConfig(steps=n))
        for n in options.passes
    ]
    lines, home = [], options.home
    for name, way, config in ways:

        def find(way: str = way, config: SampleConfig = config) -> dict[str, Any]:
            return filling.filled(home, home / "dalle" / run, options.pictures, way, config)

        path = home / "orders" / tokens / run / f"{name}, {options.pictures}.json"
        facts = kept(path, options, find)
        lines += [{"way": name, **facts}] if facts else []
    return lines


def shown(lines: list[dict[str, Any]]) -> str:
    """The lines as a Markdown table."""
    columns = [*{name: None for line in lines for name in line if name != "way"}]
    body = []
    for line in lines:
        cells = [line["way"]]
        for name in columns:
            form = ".2f" if lower_is_better(name) else ".1%"
            cells.append(format(line[name], form) if name in line else "")
        body.append(cells)
    return baby.table([["", *columns], ["---"] * (len(columns) + 1), *body])


def plot(lines: list[dict[str, Any]], codes: int, path: Path) -> None:
    """Each figure of drawn pictures against the passes that they took, a curve an order."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    judged = [n for n in lines[0] if n.startswith(("KID", "right"))]
    figure, axes = pyplot.subplots(1, len(judged), figsize=(3.6 * len(judged), 3), squeeze=False)
    for axis, name in zip(axes.flat, judged, strict=True):
        curves: dict[str, dict[int, float]] = {}
        for line in lines[1:]:
            passes, _, order = line["way"].partition(" passes, ")
            curves.setdefault(order, {})[int(passes)] = line[name]
        for order, points in curves.items():
            axis.plot(*zip(*sorted(points.items()), strict=True), "o-", label=order)
        axis.plot([codes], [lines[0][name]], "k*", label="raster order")
        ticks = sorted({codes, *(passes for points in curves.values() for passes in points)})
        axis.set(xscale="log", xlabel="passes", title=name)
        axis.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
        axis.set_xticks([], minor=True)
    axes.flat[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def epochs(tokens: str, run: str, options: argparse.Namespace) -> float:
    """How often a run saw each picture."""
    about = manifest.read(options.home / "dalle" / run)
    assert about is not None, run
    pictures = len(Tokens(options.home / "tokens" / tokens).rows("train"))
    return float(about.counts["steps"] * about.config["batch_size"] / pictures)


def main() -> None:
    options = parse()
    judged_at_last, options.pictures = options.pictures, 0  # of one row, and not of all
    asked = ladder.rows_asked(options, ROWS, [name for name in ROWS if name != ladder.BASE])
    if options.drawn not in asked:
        sys.exit(f"--drawn {options.drawn}: no such row; there are {', '.join(asked)}")
    found: dict[str, Any] = {"bits": ladder.tables(options, asked), "drawn": {}, "filled": {}}
    options.pictures = judged_at_last
    for tokens in options.tokens:
        seed = options.seeds[0]
        base, run = (
            ladder.run_of(name, asked[name], tokens, seed, options)
            for name in (ladder.BASE, options.drawn)
        )
        weights = [options.home / "dalle" / name / "model.safetensors" for name in (base, run)]
        if not all(path.exists() for path in weights):
            continue
        with contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext():
            times = epochs(tokens, base, options)
            print(f"\n{tokens}: each picture was seen {times:.1f} times in raster order alone")
            if options.pictures:
                found["drawn"][tokens] = drawn(tokens, run, options)
                found["filled"][tokens] = filled(tokens, run, options)
                shape = Tokens(options.home / "tokens" / tokens)
                plot(
                    found["drawn"][tokens], shape.grid**2, options.home / "orders" / f"{tokens}.png"
                )
                for part in ("drawn", "filled"):
                    print(f"\n{tokens}, {options.drawn}, {part}\n\n{shown(found[part][tokens])}")
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
