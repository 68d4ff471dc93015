"""Train the classifier that reads scenes, on real renders, through the one training loop."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dallebaby_cli.config import ClassifierConfig, TrainClassifierConfig, settings
from dallebaby_cli.models import classifier as models
from dallebaby_cli.models import device as devices
from dallebaby_cli.models.classifier import Classifier, Vocabulary
from dallebaby_cli.models.pictures import to_tensor
from dallebaby_cli.progress import Report
from dallebaby_cli.quality import judges
from dallebaby_cli.quality.judges import JudgeTask
from dallebaby_cli.scenes import agreement, spec
from dallebaby_cli.scenes.agreement import Asked, Reading
from dallebaby_cli.scenes.spec import Scene
from dallebaby_cli.store import manifest
from dallebaby_cli.training import augment, identity, memory, run

TRAINING = 1_000_000  # seed of the renders; `prep` has small ones, and what is asked another
ENOUGH = 0.99  # of unseen renders read rightly, below which an evaluation warns
VOCABULARY = Vocabulary(len(spec.THINGS), len(spec.COLOURS), len(spec.BACKGROUNDS))


@dataclass(frozen=True)
class Renders:
    """So many scenes of a seed, drawn when they are asked for."""

    seed: int
    count: int

    def __len__(self) -> int:
        return self.count


@dataclass(frozen=True)
class ClassifierTask(JudgeTask):
    """What the loop needs to train a classifier.

    No render comes twice, and any thing has any colour, pairs that are held out of the dataset
    too: the judge must not prefer what the judged has seen. Renders are blurred and made noisy, so
    that it can read what a dVAE paints.
    """

    model: Classifier
    config: TrainClassifierConfig
    name: str = "classifier"
    shows: str = "renders"

    @property
    def train(self) -> Renders:
        steps = self.config.steps or 1
        return Renders(TRAINING + self.config.seed, steps * self.config.batch_size)

    @property
    def holdout(self) -> Renders:
        return Renders(agreement.UNSEEN - 1, self.config.eval_images)

    def batch(self, step: int) -> tuple[Tensor, ...]:
        config, size = self.config, self.config.batch_size
        numbers = range(step * size, (step + 1) * size)
        drawn = [spec.scene(self.train.seed, number, "any") for number in numbers]
        pictures = to_tensor(render(drawn, config.model.image_px))
        softened = augment.soften(pictures, (config.seed, 3, step))
        return (softened, *map(torch.from_numpy, agreement.labels(drawn)))

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...], progress: float) -> Tensor:
        pictures, things, centres, background = batch
        return models.loss(model(pictures), things, centres, background)

    def evaluate(self, model: nn.Module, pictures: Renders, count: int) -> dict[str, float]:
        """Shares of untouched renders that are read rightly."""
        assert isinstance(model, Classifier)
        drawn = [spec.scene(pictures.seed, number, "any") for number in range(count)]
        found = read(model, render(drawn, self.config.model.image_px))
        asked = (Asked("", scene, names_background=True) for scene in drawn)
        right = agreement.shares(map(agreement.agreement, asked, found))
        return {"all": right.pop("all"), **right}

    def learned(self, figures: Mapping[str, float]) -> bool:
        """Whether it tells one thing from another."""
        return figures["thing"] > 2 / len(spec.THINGS)

    def warning(self, figures: Mapping[str, float]) -> str | None:
        """If it cannot be trusted."""
        chance = 2 * math.sqrt(ENOUGH * (1 - ENOUGH) / self.config.eval_images)
        if figures["all"] >= ENOUGH - chance:
            return None
        return (
            f"the classifier reads only {figures['all']:.1%} of unseen renders rightly, so what it "
            "says of drawn ones is worth less; train it longer: "
            f"--set classifier.steps={2 * (self.config.steps or 1)}"
        )


def train(
    home: Path, config: TrainClassifierConfig, image_px: int, device: torch.device, report: Report
) -> Classifier:
    """The classifier for scenes of `image_px`, from classifier/ in the workspace if it is there,
    else trained now."""
    config = replace(config, model=replace(config.model, image_px=image_px))
    sizes = ("width", "depth")
    memory.require_model(lambda c: Classifier(c, VOCABULARY), config.model, sizes, device)
    memory.require_batch(config, 3 * image_px**2)
    torch.manual_seed(config.seed)
    model = Classifier(config.model, VOCABULARY)
    name = identity.name([f"scenes-{image_px}px"], "classifier", config, {})
    folder = manifest.artefact(home, "classifier", name)
    task = ClassifierTask(model, config)
    described = {"model": settings.as_dict(config.model)}
    run.finish(folder, "classifier", task, config, {}, lambda: described, device, report)
    return load(folder, device)


def load(folder: Path, device: torch.device) -> Classifier:
    """A finished classifier. Raises MissingInput, BadInput or Mismatch."""

    def build(shape: ClassifierConfig, described: dict[str, Any]) -> Classifier:
        return Classifier(shape, VOCABULARY)

    return judges.load(folder, "classifier", ClassifierConfig, build, device)[0]


@torch.no_grad()
def read(model: Classifier, pictures: np.ndarray, batch_size: int = 128) -> list[Reading]:
    """Read pictures, uint8 (B, P, P, 3), in fp32: a judge says the same wherever it sits."""
    device = next(model.parameters()).device
    found: list[Reading] = []
    for part in torch.split(to_tensor(pictures), batch_size):
        with devices.autocast(device, "fp32"):
            said = model(part.to(device))
        parts = (said.present, said.things.argmax(-1), said.centres, said.background.argmax(-1))
        found += agreement.readings(*(p.cpu().numpy() for p in parts))
    return found


def render(drawn: list[Scene], px: int) -> np.ndarray:
    """uint8 (B, P, P, 3) of B scenes."""
    return np.stack([spec.render(scene, px) for scene in drawn])
