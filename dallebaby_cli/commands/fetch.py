"""`dallebaby fetch`."""

import typer


def fetch(ctx: typer.Context) -> None:
    """Download a dataset."""
