"""`dallebaby train-vae`: teach a dVAE to turn pictures into codes and back."""

import typer

from dallebaby_cli.commands import options
from dallebaby_cli.commands.output import Settings
from dallebaby_cli.errors import UsageError


def train_vae(
    ctx: typer.Context,
    names: options.Names = None,
    preset: options.Preset = None,
    steps: options.Steps = None,
    minutes: options.Minutes = None,
    run: options.Run = None,
    start_from: options.From = None,
    sharpen: options.Sharpen = None,
    seed: options.Seed = None,
    processes: options.Processes = None,
) -> None:
    """Train the discrete VAE that turns pictures into codes and back."""
    from dallebaby_cli.stages.train_vae import train_vae as stage

    settings: Settings = ctx.obj
    if sharpen and start_from:
        raise UsageError(
            "--sharpen makes a decoder for codes that stay, and --from begins new codes; take one"
        )
    settings.in_processes(processes)
    flags = {"steps": steps, "minutes": minutes, "seed": seed}
    chosen = {"run_name": run, "start_from": start_from, "sharpen": sharpen}
    settings.train("train-vae", stage, names, preset, flags, **chosen)
    settings.hint("dallebaby encode")
