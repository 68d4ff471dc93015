"""Options that several commands share, or that take long to declare, each declared once."""

from pathlib import Path
from typing import Annotated

import typer

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME]...", help="Datasets to use; the newest one if none is named."),
]
Preset = Annotated[str | None, typer.Option(help="Settings that belong together; see docs.")]
Where = Annotated[
    str | None,
    typer.Option(
        "--where",
        "--on",  # as it was called before
        metavar="local|ray[:ADDRESS]",
        help="Where the work is done: here, or by Ray.",
    ),
]
Steps = Annotated[int | None, typer.Option(min=1, help="Length of the run in steps.")]
Minutes = Annotated[float | None, typer.Option(help="Plan the run to take so long.")]
Run = Annotated[str | None, typer.Option(help="Name of the run; made from its inputs if absent.")]
From = Annotated[str | None, typer.Option("--from", help="Start from the weights of this run.")]
Processes = Annotated[
    str | None,
    typer.Option(metavar="N|auto", help="Processes on this machine; auto is one for each GPU."),
]
Seed = Annotated[int | None, typer.Option(min=0, max=2**63 - 1, help="Same seed, same result.")]
PromptFile = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, metavar="FILE.txt", help="Prompts, one a line."),
]
Picture = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, metavar="FILE", help="Finish it from its top rows."),
]
