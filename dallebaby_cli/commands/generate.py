"""`dallebaby generate`: pictures from sentences."""

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from dallebaby_cli.commands import options, prompts, show
from dallebaby_cli.commands.output import Settings
from dallebaby_cli.errors import UsageError

if TYPE_CHECKING:
    from dallebaby_cli.stages.generate import Drawn


def generate(
    ctx: typer.Context,
    asked: options.Prompts = None,
    file: options.PromptFile = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Pictures of each prompt.")] = 8,
    best: options.Best = None,
    out: options.Out = None,
    progressive: options.Progressive = None,
    show_: Annotated[bool, typer.Option("--show", help="Show the grid in the terminal.")] = False,
    image: options.Picture = None,
    mask: options.Mask = None,
    keep: options.Keep = None,
    variations: options.Variations = None,
    outpaint: options.Outpaint = None,
    size: options.Size = None,
    seed: options.Seed = None,
    guidance: options.Guidance = None,
    temperature: options.Temperature = None,
    top_k: Annotated[int | None, typer.Option(help="Only the k likeliest codes.")] = None,
    top_p: options.TopP = None,
    steps: options.Passes = None,
    model: options.Model = None,
    vae: options.Painter = None,
    processes: options.Processes = None,
) -> None:
    """Draw pictures from sentences with the model you trained, or with the baby inside dallebaby;
    with --image, change a picture or go on from it. Without sentences, it asks for them."""
    settings: Settings = ctx.obj
    flags = {"guidance": guidance, "temperature": temperature, "top_k": top_k, "top_p": top_p}
    flags["steps"] = steps
    config = settings.load("generate", flags)
    if processes and ("-" in (asked or []) or not (asked or file)):
        raise UsageError("--processes: give the prompts here or in --file, which all of them read")
    settings.in_processes(processes)
    given = prompts.given(asked or [], file)
    if given is None and (out or progressive):
        raise UsageError("--out and --progressive are for one grid; give its prompts too")
    from dallebaby_cli.stages import generate as stage

    _refuse_two_sides(settings)
    edits = stage.Edits(
        image=image, mask=mask, keep=keep, variations=variations, outpaint=outpaint, size=size
    )
    with settings.reporter() as report:
        loaded = stage.find(settings.home, model, vae, settings.device, report)
    draw = partial(stage.generate, settings.home, config, n=n, best=best, seed=seed)
    draw = partial(draw, out=out, progressive=progressive, edits=edits)
    if given is None:
        _ = loaded.sampler  # what is wrong with it is said before anybody is asked
    for sentences in prompts.asked(settings.err) if given is None else [given]:
        with settings.reporter() as report:
            drawn = draw(sentences, model=loaded, report=report)
        _tell(settings, drawn)
        if show_ or given is None:
            show.show(settings, drawn.grid)


def _refuse_two_sides(settings: Settings) -> None:
    """Else the first of them would be passed over without a word."""
    if [argument.partition("=")[0] for argument in settings.arguments].count("--outpaint") > 1:
        raise UsageError(
            "--outpaint adds to one side: go on from the picture that it makes, or say how large "
            "the whole is to be with --size, which draws all around"
        )


def _tell(settings: Settings, drawn: "Drawn") -> None:
    facts = {"grid": drawn.grid, "pictures": drawn.singles, "seed": drawn.seed}
    painted = f" with the decoder of {drawn.vae}" if drawn.vae else ""
    told = f"{len(drawn.singles)} pictures, seed {drawn.seed}, drawn by {drawn.model}{painted}"
    settings.result(
        {**facts, "progressive": drawn.progressive, "model": drawn.model, "vae": drawn.vae},
        f"{drawn.grid}: {told}",
    )
