"""`dallebaby demo`: every arrow of the pipeline on the embedded dataset."""

from dataclasses import asdict
from typing import Annotated

import typer

from dallebaby_cli.commands.output import Settings


def demo(
    ctx: typer.Context,
    minutes: Annotated[
        float, typer.Option(min=0.1, help="Of training, both models together.")
    ] = 11,
) -> None:
    """Go from nothing to a grid of pictures: draw, train, encode, train, generate."""
    from dallebaby_cli.stages.demo import CONFIGS
    from dallebaby_cli.stages.demo import demo as stage

    settings: Settings = ctx.obj
    configs = settings.load_several(CONFIGS, "scenes")
    with settings.reporter() as report:
        shown = stage(settings.home, configs, minutes, device=settings.device, report=report)
    settings.result(
        asdict(shown),
        f"hold-out bits per code: {shown.bits_per_code:.2f} "
        f"(unigram {shown.unigram_bits:.2f}, uniform {shown.uniform_bits:.2f})",
        f"asked foreground colour right in {shown.colour_right} of {shown.colour_asked} pictures",
        f"pictures: {shown.grid} (top row: {shown.prompts[0]!r}, a pair that training never saw)",
    )
    settings.hint('dallebaby generate "a red car", or your own folder: dallebaby prep FOLDER')
