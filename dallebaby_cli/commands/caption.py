"""`dallebaby caption`: more captions, by pretrained models."""

from typing import Annotated

import typer

from dallebaby_cli.commands.options import Where, name_or_path
from dallebaby_cli.commands.output import Settings


def caption(
    ctx: typer.Context,
    with_: Annotated[
        str,
        typer.Option(
            "--with",
            parser=name_or_path,
            metavar="MODEL",
            help="A language model that rewrites (gpt2) or a captioner that looks (BLIP): a hub id "
            "or a folder.",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Prepared images; the newest ones if absent."),
    ] = None,
    each: Annotated[int | None, typer.Option(help="Drafts for each picture.")] = None,
    where: Where = None,
) -> None:
    """Add captions that a pretrained model writes; `train` joins them with the others."""
    from dallebaby_cli.stages.caption import caption as stage

    settings: Settings = ctx.obj
    config = settings.load("caption", {"each": each, "where": where})
    with settings.reporter() as report:
        done = stage(settings.home, name, with_, config, device=settings.device, report=report)
    counts = done.manifest.counts[done.source]
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in counts["dropped"].items())
    settings.result(
        {"file": done.file, "id": done.manifest.id, "source": done.source, "fresh": done.fresh}
        | counts,
        f"{done.file}: " + ("captioned" if done.fresh else "already complete"),
        f"  {counts['captions']:,} captions by {done.source} for {counts['pictures']:,} pictures; "
        f"dropped: {dropped or 'none'}",
    )
    settings.hint("dallebaby train")
