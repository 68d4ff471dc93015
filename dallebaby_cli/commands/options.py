"""Options that several commands share, or that take long to declare, each declared once, and how
paths are read: `~` is the person's home wherever a path is given, for no shell replaces it in
`--out=~/x.png` or in a variable that a service sets."""

from pathlib import Path
from typing import Annotated

import typer


def path(text: str | Path) -> Path:
    """A path as it was typed. Raises typer.BadParameter."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~somebody whom the system does not know
        raise typer.BadParameter(
            f"{text}: nobody is called so here; write the folder out"
        ) from None


def file(text: str | Path) -> Path:
    """The path of a file, or a pipe, that is there. Raises typer.BadParameter."""
    found = path(text)
    if not found.exists() or found.is_dir():
        raise typer.BadParameter(f"there is no file {found}")
    return found


def name_or_path(text: str) -> str:
    """A name, or the path of something. Raises typer.BadParameter."""
    return str(path(text)) if text.startswith("~") else text


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
Sharpen = Annotated[
    str | None,
    typer.Option(metavar="RUN", help="Give this finished run a sharp decoder; its codes stay."),
]
Processes = Annotated[
    str | None,
    typer.Option(metavar="N|auto", help="Processes on this machine; auto is one for each GPU."),
]
Seed = Annotated[int | None, typer.Option(min=0, max=2**63 - 1, help="Same seed, same result.")]
Prompts = Annotated[
    list[str] | None,
    typer.Argument(metavar='["PROMPT"]...', help="What to draw; - reads them from stdin."),
]
Best = Annotated[
    int | None, typer.Option(min=1, help="Keep so many of the -n: what fits the prompt best.")
]
PromptFile = Annotated[
    Path | None,
    typer.Option(parser=file, metavar="FILE.txt", help="Prompts, one a line."),
]
Picture = Annotated[
    Path | None,
    typer.Option(parser=file, metavar="FILE", help="Finish or change it; see the flags below."),
]
Mask = Annotated[
    Path | None,
    typer.Option(
        parser=file,
        metavar="FILE",
        help="Draw what is white in it anew; without it, what is transparent in the picture.",
    ),
]
Keep = Annotated[
    int | None,
    typer.Option(min=1, help="Rows of codes to keep from the top; half if no flag says more."),
]
Variations = Annotated[
    float | None,
    typer.Option(metavar="SHARE", help="Keep this share of its codes, others for each seed."),
]
Outpaint = Annotated[
    tuple[str, int] | None,
    typer.Option(
        metavar="left|right|up|down PIXELS", help="Go on from it: so many pixels more there."
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        metavar="WIDTHxHEIGHT", help="A larger drawing, in pixels; around the picture if given."
    ),
]
Guidance = Annotated[float | None, typer.Option(help="How hard the caption pulls; 1 is none.")]
Temperature = Annotated[float | None, typer.Option(help="Below 1 safer, above 1 wilder.")]
TopP = Annotated[
    float | None, typer.Option(help="Only the likeliest codes up to this probability.")
]
Passes = Annotated[
    int | None,
    typer.Option(min=1, metavar="K", help="Draw in so many passes, several codes in each."),
]
Model = Annotated[
    Path | None,
    typer.Option(parser=path, metavar="PATH", help="A run's folder; the newest if absent."),
]
Painter = Annotated[
    str | None,
    typer.Option("--vae", metavar="RUN", help="Paint with this dVAE's decoder: of the same codes."),
]
Out = Annotated[
    Path | None,
    typer.Option(parser=path, metavar="FILE.png", help="The grid; single pictures go beside it."),
]
Progressive = Annotated[
    Path | None,
    typer.Option(parser=path, metavar="FILE.gif", help="Also show how the grid came about."),
]
