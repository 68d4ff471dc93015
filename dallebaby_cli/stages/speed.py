"""dalle/RUN → how fast it draws here, and how near that is to what the device can do at most."""

from dataclasses import dataclass, replace
from pathlib import Path

from dallebaby_cli.config import EvaluateConfig
from dallebaby_cli.drawing import fitting, speed
from dallebaby_cli.drawing.pretrained import from_pretrained, model_folder, vae_folder
from dallebaby_cli.interrupt import Interrupt
from dallebaby_cli.models import device as devices
from dallebaby_cli.progress import Progress, Report
from dallebaby_cli.store import manifest
from dallebaby_cli.training.peak import bandwidth

SIDE_BY_SIDE = (1, 8)  # pictures whose speed is told, beside `sampling.batch_size` of them


@dataclass(frozen=True)
class Speeds:
    """How fast one model draws here."""

    model: Path
    device: str
    precision: devices.Precision
    bytes_per_s: float
    """that the device reads from its memory, measured"""
    rows: list[speed.Speed]
    training_mfu: float | None
    """share of its own device's peak that its training made use of, if that is known"""


def speeds(
    home: Path,
    config: EvaluateConfig,
    *,
    model: Path | None = None,
    vae: str | None = None,
    device: str = "auto",
    report: Report,
) -> Speeds:
    """How fast a trained transformer (if none is named: the newest, or the baby) draws batches of
    several sizes, with guidance and without, beside what this device can do at most; painted by
    the decoder of the dVAE run `vae`, if one is named."""
    with Interrupt(at_once="stopped before all was timed; run it again to begin anew"):
        folder = model_folder(home, model, report)
        sampler = from_pretrained(folder, device, vae_folder(home, vae))
        about = manifest.read(folder)
        found = next(sampler.model.parameters()).device
        most = bandwidth(found)
        usual = fitting.at_a_time(sampler.model.config, config.sampling, found)
        sizes = sorted({*SIDE_BY_SIDE, usual})
        asked = [(size, pull) for size in sizes for pull in sorted({config.sampling.guidance, 1.0})]
        rows: list[speed.Speed] = []
        for size, pull in asked:
            report(Progress("speed", len(rows), len(asked), "batches", f"{size} side by side"))
            chosen = replace(config.sampling, guidance=pull)
            rows.append(speed.measure(sampler, size, chosen, most))
        report(Progress("speed", len(rows), len(asked), "batches"))
        trained = about.counts.get("mfu") if about else None
        return Speeds(
            model=folder,
            device=devices.describe(found),
            precision=devices.resolve_precision(found, "auto"),
            bytes_per_s=most,
            rows=rows,
            training_mfu=trained if isinstance(trained, float) else None,
        )
