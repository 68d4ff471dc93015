"""`dallebaby doctor`: what a run would meet here, and how long it would take."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from dallebaby_cli.commands import options
from dallebaby_cli.commands.output import Settings
from dallebaby_cli.text import one_line

if TYPE_CHECKING:
    from dallebaby_cli.stages.run_checks import Check

LOOK = {"ok": ("✓ ok", "green"), "warn": ("! warn", "yellow"), "fail": ("✗ fail", "bold red")}


def doctor(
    ctx: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(help="A dataset, prepared or not; the newest prepared one if none."),
    ] = None,
    preset: options.Preset = None,
) -> None:
    """Check device, disk and pictures, try a batch, and estimate how long training will take."""
    from dallebaby_cli.stages.doctor import doctor as stage

    settings: Settings = ctx.obj
    chosen = settings.preset(preset)
    configs = settings.load_several(("prep", "train-vae", "train"), chosen)
    with settings.reporter() as report:
        found = stage(
            settings.home, configs, name, preset=chosen, device=settings.device, report=report
        )
    facts = {**asdict(found), "ok": not found.failed}
    if settings.out.is_terminal:
        settings.result(facts, _table(found.checks))
    else:  # a line a check, which no width folds
        settings.result(facts, *map(_line, found.checks))
    if found.failed:
        raise typer.Exit(1)
    settings.hint(found.next)


def _line(check: "Check") -> str:
    advice = f" → {check.advice}" if check.advice else ""
    return f"{check.state:4}  {one_line(f'{check.name}: {check.found}{advice}')}"


def _table(checks: "Sequence[Check]") -> Table:
    table = Table(box=None, show_header=False)
    for check in checks:
        word, style = LOOK[check.state]
        text = f"{check.found}\n→ {check.advice}" if check.advice else check.found
        table.add_row(Text(word, style), Text(check.name), Text(text, overflow="fold"))
    return table
