"""`dallebaby status`: what is here."""

from dataclasses import asdict

import typer
from rich.table import Table

from dallebaby_cli.commands.output import Settings
from dallebaby_cli.progress import amount
from dallebaby_cli.text import one_line


def status(ctx: typer.Context) -> None:
    """List every artefact here: kind, size, parents, whole or not, which one is taken next."""
    from dallebaby_cli.stages.status import status as stage

    settings: Settings = ctx.obj
    rows = stage(settings.home)
    facts = {"home": settings.home, "artefacts": [asdict(row) for row in rows]}
    if not rows:
        settings.result(facts, f"nothing in {settings.home} yet")
        settings.hint("dallebaby demo, or dallebaby prep scenes")
        return
    table = Table(box=None, header_style="bold")
    for column in ("kind", "name", "size", "from", "state"):
        table.add_column(column, overflow="fold")  # names are there to be copied
    for row in rows:
        state = f"{row.state}, taken next" if row.newest else row.state
        name, parents = one_line(row.name), "\n".join(map(one_line, row.parents))
        table.add_row(row.kind, name, amount(row.bytes, "B"), parents, one_line(state))
    pages = [f"report: {one_line(row.report)}" for row in rows if row.report and row.newest]
    settings.result(facts, table, *pages)
