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
) -> None:
    """Train the discrete VAE that turns pictures into codes and back."""
    from dallebaby_cli.stages.train_vae import train_vae as stage

    settings: Settings = ctx.obj
    preset = settings.preset(preset)
    flags = {"steps": steps, "minutes": minutes, "seed": seed}
    config = settings.load("train-vae", flags, preset=preset)
    with settings.reporter() as report:
        done = stage(
            settings.home,
            config,
            names or [],
            preset=preset,
            run_name=run,
            start_from=start_from,
            device=settings.device,
            report=report,
        )
    settings.trained(done.folder, done.manifest, done.fresh)
    settings.hint("dallebaby encode")
