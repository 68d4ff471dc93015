"""`dallebaby encode`: pictures to codes."""

from typing import Annotated

import typer

from dallebaby_cli.commands import options
from dallebaby_cli.commands.output import Settings


def encode(
    ctx: typer.Context,
    names: options.Names = None,
    vae: Annotated[str | None, typer.Option(help="Run of the dVAE; the newest if absent.")] = None,
    processes: options.Processes = None,
) -> None:
    """Turn prepared pictures into the codes that `train` learns to draw."""
    from dallebaby_cli.stages.encode import encode as stage

    settings: Settings = ctx.obj
    settings.in_processes(processes)
    config = settings.load("encode")
    with settings.reporter() as report:
        done = stage(
            settings.home, config, names or [], vae=vae, device=settings.device, report=report
        )
    facts, lines = [], []
    for d in done:
        counts = d.manifest.counts
        views = f", {counts['views']} views each" if counts["views"] > 1 else ""
        pace = f", {d.images_per_s:,.0f} images/s" if d.fresh else ", already complete"
        lines.append(f"{d.folder}: {counts['pictures']:,} pictures encoded{views}{pace}")
        speed = {"images_per_s": round(d.images_per_s)} if d.fresh else {}
        facts.append({"folder": d.folder, "id": d.manifest.id, "fresh": d.fresh, **counts, **speed})
    settings.result({"tokens": facts}, *lines)
    settings.hint("dallebaby train")
