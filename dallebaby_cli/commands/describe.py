"""`dallebaby describe`: which captions fit pictures best, by the model that draws."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from dallebaby_cli.commands import options, prompts
from dallebaby_cli.commands.output import Settings
from dallebaby_cli.text import one_line

if TYPE_CHECKING:
    from dallebaby_cli.stages.describe import Described

WRITTEN_OUT = 20  # bits up to which "so many times" is a number that people can read


def describe(
    ctx: typer.Context,
    pictures: Annotated[
        list[Path],
        typer.Argument(parser=options.file, metavar="IMAGE...", help="Pictures to describe."),
    ],
    among: Annotated[
        Path | None,
        typer.Option(
            parser=options.file,
            metavar="FILE.txt",
            help="Captions to choose among, one a line; those it learned from if absent.",
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Captions shown of each picture.")] = 5,
    model: options.Model = None,
) -> None:
    """Let the model that draws choose the captions that fit pictures best. It writes none, and one
    as small as those trained here is a toy: it tells what it learned to draw apart, and of any
    other picture it says something, too."""
    settings: Settings = ctx.obj
    config = settings.load("describe")
    captions = prompts.given([], among) if among else None
    from dallebaby_cli.stages.describe import describe as stage

    with settings.reporter() as report:
        done = stage(
            settings.home,
            config,
            pictures,
            model=model,
            among=captions,
            device=settings.device,
            report=report,
        )
    facts = asdict(done)
    for picture in facts["pictures"]:
        del picture["guesses"][top:]
    lines = [line for picture in done.pictures for line in _lines(picture, top)]
    settings.result(facts, *lines)


def _lines(found: "Described", top: int) -> list[Table | str]:
    """A picture's captions, and what they are worth."""
    numbers = (Column(name, justify="right") for name in ("bits", "share"))
    title = one_line(str(found.picture))
    table = Table("caption", *numbers, title=title, title_justify="left", box=None)
    for guess in found.guesses[:top]:
        table.add_row(one_line(guess.caption), f"{guess.bits:+,.1f}", f"{guess.share:.1%}")
    first = found.guesses[0]
    more = first.bits - found.typical_bits
    many = f"{2**more:,.1f}" if more < WRITTEN_OUT else f"10^{more * math.log10(2):.0f}"
    told = f"the first makes it {many} times as likely as a random one (the middle of all) does"
    if first.bits <= 0:
        told += ", but no likelier than no caption: none of them fits"
    return [table, told]
