"""`dallebaby prep`."""

import typer


def prep(ctx: typer.Context) -> None:
    """Turn pictures into shards."""
