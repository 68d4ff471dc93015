"""`dallebaby train`: teach a transformer to draw codes from captions."""

import typer

from dallebaby_cli.commands import options
from dallebaby_cli.commands.output import Settings


def train(
    ctx: typer.Context,
    names: options.Names = None,
    preset: options.Preset = None,
    steps: options.Steps = None,
    minutes: options.Minutes = None,
    run: options.Run = None,
    start_from: options.From = None,
    seed: options.Seed = None,
    processes: options.Processes = None,
) -> None:
    """Train the transformer that draws pictures from captions."""
    from dallebaby_cli.stages.train import train as stage

    settings: Settings = ctx.obj
    settings.in_processes(processes)
    flags = {"steps": steps, "minutes": minutes, "seed": seed}
    settings.train("train", stage, names, preset, flags, run_name=run, start_from=start_from)
    settings.hint('dallebaby generate "a red car"')
