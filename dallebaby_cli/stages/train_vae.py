"""images/NAME → vae/RUN: train the discrete VAE."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dallebaby_cli import metrics, settings
from dallebaby_cli.config import TrainVaeConfig
from dallebaby_cli.data import manifest
from dallebaby_cli.data.pictures import grid
from dallebaby_cli.data.shards import Shards
from dallebaby_cli.errors import Mismatch, MissingInput
from dallebaby_cli.models.dvae import DVAE, denormalise, reconstruction_loss
from dallebaby_cli.progress import Note, Report
from dallebaby_cli.training import checkpoint, distributed, run
from dallebaby_cli.training.batches import Order, Pictures

SHOWN = 8  # pictures in reconstructions.png
LOW_USAGE = 0.5  # of the codebook, under which an evaluation warns


@dataclass(frozen=True)
class VaeTask:
    """What the loop needs to train a dVAE."""

    model: DVAE
    train: Pictures
    holdout: Pictures
    config: TrainVaeConfig
    name: str = "train-vae"
    unit: str = "images"

    @property
    def units_per_step(self) -> int:
        return self.config.batch_size

    def batch(self, step: int) -> tuple[Tensor, ...]:
        order = Order(len(self.train), self.config.batch_size, self.config.seed)
        return (self.train.read(order.batch(step)[distributed.share()]),)

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        output, _ = model(batch[0])
        return reconstruction_loss(output, batch[0])

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Hold-out PSNR in dB, and how the codebook is used."""
        device = next(model.parameters()).device
        count = min(len(self.holdout), self.config.eval_images)
        psnrs, counts = [], np.zeros(self.model.config.codes, np.int64)
        for indices in np.array_split(np.arange(count), -(-count // self.config.batch_size)):
            pictures = self.holdout.read(indices).to(device)
            output, quantized = model(pictures)
            psnrs.append(metrics.psnr(denormalise(output), pictures))
            counts += metrics.code_counts(quantized.codes.cpu(), len(counts))
        return {
            "psnr": float(torch.cat(psnrs).mean()),
            "codes_used": float((counts > 0).mean()),
            "perplexity": metrics.perplexity(counts),
        }

    def pictures(self, model: nn.Module) -> dict[str, np.ndarray]:
        """Hold-out pictures over what is left of them."""
        device = next(model.parameters()).device
        shown = self.holdout.read(np.arange(min(SHOWN, len(self.holdout)))).to(device)
        rebuilt = denormalise(model(shown)[0])
        return {"reconstructions": grid(metrics.stack_rows(shown, rebuilt), len(shown))}


def train_vae(
    home: Path,
    config: TrainVaeConfig,
    names: list[str],
    *,
    preset: str,
    run_name: str | None = None,
    start_from: str | None = None,
    device: str = "auto",
    report: Report,
) -> run.Finished:
    """Train a dVAE on the named image datasets (the newest one if none is named)."""
    found = manifest.find_all(home, "images", names)
    parents = {f"images/{m.name}": m.id for _, m in found}
    sources = [Shards(folder) for folder, _ in found]
    sides = {source.image_px for source in sources}
    if len(sides) > 1:
        raise Mismatch(
            f"the datasets have pictures of {' and '.join(map(str, sorted(sides)))} px; "
            "prepare them again with one --px"
        )
    config = replace(config, model=replace(config.model, image_px=sides.pop()))
    train, holdout = Pictures(sources, "train"), Pictures(sources, "holdout")
    if not len(train):
        raise MissingInput(f"{', '.join(parents)}: no pictures to train on; prepare more of them")
    if not len(holdout):
        report(Note("no hold-out pictures, so figures are of training pictures", "warning"))
        holdout = train
    torch.manual_seed(config.seed)
    model = DVAE(config.model)
    if start_from:
        folder, before = manifest.find(home, "vae", start_from)
        parents[f"vae/{before.name}"] = before.id
        checkpoint.load_weights(folder / "model.safetensors", model)
    report(Note(f"train-vae: from {', '.join(parents)}, preset {preset}"))
    inputs = [m.name for _, m in found]
    folder = manifest.artefact(home, "vae", run_name or run.name(inputs, preset, config, parents))
    task = VaeTask(model, train, holdout, config)
    shape = {"model": settings.as_dict(config.model)}
    target = distributed.device(device)
    finished = run.finish(folder, "vae", task, config, parents, lambda: shape, target, report)
    if finished.manifest.counts["codes_used"] < LOW_USAGE:
        report(Note(_low_usage(finished.manifest.counts["codes_used"]), "warning"))
    return finished


def _low_usage(share: float) -> str:
    return (
        f"only {share:.0%} of the codebook is used on the hold-out pictures; train longer, on more "
        "pictures, or with fewer codes, such as --set model.levels='[8,6,5]'"
    )
