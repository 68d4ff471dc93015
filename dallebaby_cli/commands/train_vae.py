"""`dallebaby train-vae`: teach a dVAE to turn pictures into codes and back."""

import typer

from dallebaby_cli.commands import options
from dallebaby_cli.commands.output import Settings


def train_vae(
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
    """Train the discrete VAE that turns pictures into codes and back."""
    from dallebaby_cli.stages.train_vae import train_vae as stage

    settings: Settings = ctx.obj
    settings.in_processes(processes)
    flags = {"steps": steps, "minutes": minutes, "seed": seed}
    settings.train("train-vae", stage, names, preset, flags, run_name=run, start_from=start_from)
    settings.hint("dallebaby encode")
