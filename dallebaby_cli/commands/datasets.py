"""`dallebaby datasets`: the catalogue."""

import typer


def datasets(ctx: typer.Context) -> None:
    """The datasets that can be fetched by name."""
