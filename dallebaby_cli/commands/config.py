"""`dallebaby config`: every setting, what it means, its value and where that comes from."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from dallebaby_cli.commands import options
from dallebaby_cli.commands.output import Settings
from dallebaby_cli.config import SECTIONS
from dallebaby_cli.config.settings import Setting, explain, nearest
from dallebaby_cli.errors import UsageError

WITH_PRESET = ("train-vae", "train")


def config(
    ctx: typer.Context,
    command: Annotated[
        str | None, typer.Argument(help="Only the settings of this command.")
    ] = None,
    preset: options.Preset = None,
) -> None:
    """Every setting, what it means, its default, its value now and where that comes from. It heeds
    --config, --set and --preset as the commands do; --set and --config take the names shown."""
    settings: Settings = ctx.obj
    if command is not None and command not in SECTIONS:
        raise UsageError(f"no command {command!r} has settings{nearest(command, SECTIONS)}")
    shown = [command] if command else [*SECTIONS]
    if set(shown) & {*WITH_PRESET}:
        preset = settings.preset(preset)
    elif preset is not None:
        raise UsageError(f"--preset is for {' and '.join(WITH_PRESET)}; {command} has none")
    found = {
        section: explain(section, preset=preset, file=settings.config, settings=mine)
        for section, mine in settings.shared(shown).items()
    }
    facts = [{"command": section, **asdict(row)} for section, rows in found.items() for row in rows]
    if settings.out.is_terminal:
        settings.result({"settings": facts}, *(_table(*pair) for pair in found.items()))
    else:  # a line a setting, which no width folds
        cells = [(name, *_cells(row)) for name, rows in found.items() for row in rows]
        settings.result({"settings": facts}, *_lined_up(cells))
    settings.hint(f"dallebaby {command or 'train'} --set KEY=VALUE, or --config FILE.yaml")


def _cells(row: Setting) -> tuple[str, str, str, str, str]:
    return row.key, _yaml(row.value), row.origin, _yaml(row.default), row.help


def _yaml(value: object) -> str:
    """As it can be typed after `--set KEY=`."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a default of 60 and a preset's 60.0 look alike
    return value if isinstance(value, str) else json.dumps(value)


def _lined_up(cells: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines whose columns begin below one another, at least two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = ((c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in cells)
    return ["  ".join(row).rstrip() for row in padded]


def _table(name: str, rows: list[Setting]) -> Table:
    """What is no default stands out."""
    columns = ("setting", "value", "from", "default", "meaning")
    table = Table(*columns, title=name, title_justify="left", title_style="bold", box=None)
    table.columns[-1].overflow = "fold"
    for row in rows:
        key, value, origin, default, meaning = _cells(row)
        same = origin == "default"
        style = "dim" if same else ""
        table.add_row(key, value, Text(origin, style), Text("" if same else default), meaning)
    return table
