"""`dallebaby encode`: pictures to codes."""

from typing import Annotated

import typer

from dallebaby_cli.commands import options
from dallebaby_cli.commands.output import Settings


def encode(
    ctx: typer.Context,
    names: options.Names = None,
    vae: Annotated[str | None, typer.Option(help="Run of the dVAE; the newest if absent.")] = None,
) -> None:
    """Turn prepared pictures into the codes that `train` learns to draw."""
    from dallebaby_cli.stages.encode import encode as stage

    settings: Settings = ctx.obj
    config = settings.load("encode")
    with settings.reporter() as report:
        done = stage(
            settings.home, config, names or [], vae=vae, device=settings.device, report=report
        )
    facts = [
        {"folder": d.folder, "id": d.manifest.id, "fresh": d.fresh, **d.manifest.counts}
        for d in done
    ]
    lines = [
        f"{d.folder}: {d.manifest.counts['pictures']:,} pictures encoded"
        + ("" if d.fresh else ", already complete")
        for d in done
    ]
    settings.result({"tokens": facts}, *lines)
    settings.hint("dallebaby train")
