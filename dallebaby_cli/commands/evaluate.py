"""`dallebaby evaluate`: every figure of a trained model."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType
from rich.table import Column, Table

from dallebaby_cli.commands import options
from dallebaby_cli.commands.output import Settings
from dallebaby_cli.errors import UsageError
from dallebaby_cli.text import one_line

if TYPE_CHECKING:
    from dallebaby_cli.quality.figures import Evaluated, Retrieved
    from dallebaby_cli.stages.speed import Speeds

EXTREMES = 5  # classes at either end that the table shows
LONGEST = 30  # letters of a class's name


def evaluate(
    ctx: typer.Context,
    pictures: Annotated[
        int | None,
        typer.Option(help="Drawn of each kind: captions, classes; of scenes pairs, two things."),
    ] = None,
    seed: options.Seed = None,
    model: options.Model = None,
    vae: options.Painter = None,
    only_vae: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Judge this dVAE alone: how pictures come back."),
    ] = None,
    speed: Annotated[
        bool, typer.Option("--speed", help="Tell how fast it draws here, and nothing else.")
    ] = False,
    processes: options.Processes = None,
) -> None:
    """Judge a trained model: hold-out figures, copying, and whether it draws what it is asked."""
    from dallebaby_cli.stages.evaluate import evaluate as stage
    from dallebaby_cli.stages.speed import speeds

    settings: Settings = ctx.obj
    if only_vae is not None and (model or vae or speed):
        raise UsageError("--only-vae judges a dVAE alone: leave out --model, --vae and --speed")
    if not speed:
        settings.in_processes(processes)
    config = settings.load("evaluate", {"pictures": pictures, "seed": seed})
    home, device = settings.home, settings.device
    if speed:
        with settings.reporter() as report:
            told = speeds(home, config, model=model, vae=vae, device=device, report=report)
        settings.result(asdict(told), *_speeds(told))
        return
    with settings.reporter() as report:
        done = stage(
            home, config, model=model, vae=vae, only_vae=only_vae, device=device, report=report
        )
    pages = [f"pictures: {path}" for path in done.samples]
    pages += [f"report: {done.report}"] if done.report else []
    painted = f" with the decoder of {done.vae}" if done.vae else ""
    settings.result(asdict(done), f"{done.model}{painted}", *_tables(done), *done.missing, *pages)


def _tables(done: "Evaluated") -> list[Table]:
    """All that is known, in tables."""
    tables = [
        _figures(title, figures)
        for title, figures in (
            ("hold-out", done.holdout),
            ("reconstruction", done.reconstruction),
            ("codes that differ from the nearest training picture", done.distance),
            *(
                (f"1 - cosine to the nearest training picture, as {network} sees it", figures)
                for network, figures in done.distance_seen.items()
            ),
            ("pretrained networks", done.pretrained),
        )
        if figures
    ]
    return [
        *tables,
        *([_compared(done)] if done.compared else []),
        *([_agreement(done)] if done.agreement else []),
        *([_classes(done)] if done.judge else []),
        *([_retrieval(done.retrieval)] if done.retrieval else []),
    ]


def _figures(title: str, figures: Mapping[str, float]) -> Table:
    table = Table("", "", title=title, title_justify="left", show_header=False, box=None)
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), f"{value:,.4g}")
    return table


def _compared(done: "Evaluated") -> Table:
    """A line for each figure and network."""
    title = "distance of sets of pictures to as many hold-out ones"
    columns = ("", "network", "N", "rebuilt", "drawn", "real against real")
    table = Table(*columns, title=title, title_justify="left", box=None)
    for row in done.compared:
        figures = map(_far, (row.rebuilt, row.drawn, row.real))
        table.add_row(row.figure, row.network, f"{row.n:,}", *figures)
    return table


def _far(distance: float | None) -> str:
    """With digits that say something, whatever the network's scale is."""
    if distance is None:
        return ""
    return f"{distance:,.1f}" if abs(distance) >= 1 else f"{distance:.2g}"


def _agreement(done: "Evaluated") -> Table:
    """A line for each kind: what was drawn, then what the classifier reads off real pictures."""
    rows = done.agreement
    questions = max((list(row.right) for row in rows), key=len)
    real = "hold-out pictures" if done.judge else "renders"
    title = f"what the classifier reads as asked for; of real and rebuilt {real}: its own accuracy"
    table = Table(
        "asked", "pictures", "of", *questions, title=title, title_justify="left", box=None
    )
    for row in rows:
        right = (f"{row.right[q]:.1%}" if q in row.right else "" for q in questions)
        table.add_row(row.kind, row.pictures, f"{row.count:,}", *right)
    if done.judge:
        table.add_row("", "by chance", "", f"{done.judge.chance:.1%}")
    return table


def _classes(done: "Evaluated") -> Table:
    """A line for each class, those that are drawn best first; of many the first and the last."""
    assert done.judge
    rows = sorted(done.classes, key=lambda r: (r.drawn or 0, r.rebuilt, r.real), reverse=True)
    left_out = max(len(rows) - 2 * EXTREMES, 0)
    title = f"class by class, learned from {done.judge.trained_on:,} training pictures"
    title += ": the best and the worst; --json has all" if left_out else ""
    columns = ("class", "drawn", "rebuilt", "real", "N drawn", "N real", "else read as")
    table = Table(*columns, title=title, title_justify="left", box=None)
    if left_out:
        rows[EXTREMES:-EXTREMES] = []
    for place, row in enumerate(rows):
        if left_out and place == EXTREMES:
            table.add_row(f"… {left_out:,} more")
        shares = ("" if s is None else f"{s:.0%}" for s in (row.drawn, row.rebuilt, row.real))
        counts = (f"{row.asked:,}", f"{row.held_out:,}")
        table.add_row(_short(row.name), *shares, *counts, _short(row.taken_for or ""))
    return table


def _short(name: str) -> str:
    """As much of a class's name as a column holds."""
    name = one_line(name)
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def _retrieval(rows: list["Retrieved"]) -> Table:
    """A line for drawn pictures, one for real ones."""
    title = f"the model itself looks for a picture's caption among {rows[0].captions:,}"
    columns = ("pictures", "of", "found first", "by chance", "mean place", "by chance")
    table = Table(*columns, title=title, title_justify="left", box=None)
    for row in rows:
        first, chance = f"{row.first:.1%}", f"{row.chance_first:.1%}"
        places = (f"{row.rank:.1f}", f"{row.chance_rank:.1f}")
        table.add_row(row.pictures, f"{row.count:,}", first, chance, *places)
    return table


def _speeds(told: "Speeds") -> list[RenderableType]:
    """A line for each size of batch."""
    title = "drawing; MBU is the share of that bandwidth which the model's weights and cache need"
    names = ("side by side", "guidance", "pictures/s", "ms a picture", "ms a code", "MBU")
    columns = (Column(name, justify="right") for name in names)
    table = Table(*columns, title=title, title_justify="left", box=None)
    for row in told.rows:
        mbu = "" if row.mbu is None else f"{row.mbu:.1%}"
        rates = (f"{x:,.4g}" for x in (row.pictures_per_s, row.ms_a_picture, row.ms_a_code))
        table.add_row(f"{row.pictures:,}", f"{row.guidance:g}", *rates, mbu)
    lines: list[RenderableType] = [
        f"{told.model} on {told.device}, {told.precision}; "
        f"{told.bytes_per_s / 1e9:,.4g} GB/s read from memory",
        table,
    ]
    if told.training_mfu is not None:
        lines.append(f"it was trained at {told.training_mfu:.1%} of its device's peak (MFU)")
    return lines
