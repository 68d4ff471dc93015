"""`dallebaby generate`: pictures from sentences."""

from pathlib import Path
from typing import Annotated

import typer

from dallebaby_cli.commands import options
from dallebaby_cli.commands.output import Settings


def generate(
    ctx: typer.Context,
    prompts: Annotated[
        list[str], typer.Argument(metavar='"PROMPT"...', help="What to draw; one or several.")
    ],
    n: Annotated[int, typer.Option("-n", min=1, help="Pictures of each prompt.")] = 8,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="The grid; single pictures go beside it."),
    ] = None,
    seed: options.Seed = None,
    guidance: Annotated[
        float | None, typer.Option(help="How hard the caption pulls; 1 is none.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Below 1 safer, above 1 wilder.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Only the k likeliest codes.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Only the likeliest codes up to this probability.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(metavar="PATH", help="A run's folder; the newest if absent.")
    ] = None,
) -> None:
    """Draw pictures from sentences with the model you trained."""
    from dallebaby_cli.stages.generate import generate as stage

    settings: Settings = ctx.obj
    flags = {"guidance": guidance, "temperature": temperature, "top_k": top_k, "top_p": top_p}
    config = settings.load("generate", flags)
    with settings.reporter() as report:
        drawn = stage(
            settings.home,
            config,
            prompts,
            n=n,
            out=out,
            seed=seed,
            model=model,
            device=settings.device,
            report=report,
        )
    facts = {"grid": drawn.grid, "pictures": drawn.singles, "seed": drawn.seed}
    settings.result(
        {**facts, "model": drawn.model},
        f"{drawn.grid}: {len(drawn.singles)} pictures, seed {drawn.seed}, drawn by {drawn.model}",
    )
