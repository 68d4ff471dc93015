"""`dallebaby prep`: pictures to shards."""

from typing import Annotated

import typer

from dallebaby_cli.commands.options import Where, name_or_path
from dallebaby_cli.commands.output import Settings


def prep(
    ctx: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(
            parser=name_or_path,
            metavar="NAME|FOLDER",
            help="A fetched dataset, `scenes`, or a folder (./NAME if a dataset has its name); "
            "the newest fetched dataset if absent.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the result; that of the source if absent.")
    ] = None,
    px: Annotated[int | None, typer.Option(help="Side of the square pictures.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; 0 is one a core.")] = None,
    limit: Annotated[
        int | None, typer.Option(help="Take the first so many good pictures, sorted by path.")
    ] = None,
    where: Where = None,
) -> None:
    """Turn a dataset or any folder of pictures into clean, captioned shards."""
    from dallebaby_cli.stages.prep import prep as stage

    settings: Settings = ctx.obj
    config = settings.load(
        "prep", {"image_px": px, "workers": workers, "limit": limit, "where": where}
    )
    with settings.reporter() as report:
        done = stage(settings.home, source, config, name=name, report=report)
    counts = done.manifest.counts
    rejected = sum(counts["rejected"].values())
    by_reason = ", ".join(f"{count:,} {reason}" for reason, count in counts["rejected"].items())
    settings.result(
        {"folder": done.folder, "id": done.manifest.id, "fresh": done.fresh, **counts},
        f"{done.folder}: " + ("prepared" if done.fresh else "already complete"),
        f"  {counts['accepted']:,} pictures with {counts['captions']:,} captions "
        f"({counts['train']:,} to train on, {counts['holdout']:,} held out)",
        f"  {counts['duplicates']:,} exact copies merged, {counts['near_duplicates']:,} nearly the "
        f"same kept together, {rejected:,} rejected"
        + (f" ({by_reason}; see {done.folder / 'rejects.jsonl'})" if rejected else ""),
    )
    settings.hint(f"look at {done.folder / 'contact-sheet.png'}, then dallebaby train-vae")
