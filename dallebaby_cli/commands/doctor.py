"""`dallebaby doctor`: what a run would meet here, and how long it would take."""

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from dallebaby_cli.commands import options
from dallebaby_cli.commands.output import Settings

LOOK = {"ok": ("✓ ok", "green"), "warn": ("! warn", "yellow"), "fail": ("✗ fail", "bold red")}


def doctor(
    ctx: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(help="A dataset, prepared or not; the newest prepared one if none."),
    ] = None,
    preset: options.Preset = None,
) -> None:
    """Check device, disk and pictures, try a batch, and foretell how long training will take."""
    from dallebaby_cli.stages.doctor import doctor as stage

    settings: Settings = ctx.obj
    configs = settings.load_several(("prep", "train-vae", "train"), settings.preset(preset))
    with settings.reporter() as report:
        found = stage(settings.home, configs, name, device=settings.device, report=report)
    table = Table(box=None, show_header=False)
    for check in found.checks:
        word, style = LOOK[check.state]
        text = f"{check.found}\n→ {check.advice}" if check.advice else check.found
        table.add_row(Text(word, style), Text(check.name), Text(text, overflow="fold"))
    settings.result({**asdict(found), "ok": not found.failed}, table)
    if found.failed:
        raise typer.Exit(1)
    settings.hint(found.next)
