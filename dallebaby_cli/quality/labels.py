"""The judge of classes: trained once on a dataset's own labelled pictures, through the one loop, it
says of which class a picture is, be it real, rebuilt or drawn."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dallebaby_cli.config import JudgeConfig, TrainJudgeConfig, settings
from dallebaby_cli.config.bounds import shown
from dallebaby_cli.errors import BadInput, MissingInput
from dallebaby_cli.models import device as devices
from dallebaby_cli.models.label_classifier import LabelClassifier
from dallebaby_cli.progress import Report
from dallebaby_cli.quality import judges
from dallebaby_cli.quality.features import Features
from dallebaby_cli.quality.judges import JudgeTask
from dallebaby_cli.store import manifest
from dallebaby_cli.store.shards import Shards
from dallebaby_cli.training import augment, identity, memory, run
from dallebaby_cli.training.batches import Order, Pictures

LEAST = 20  # training pictures of a class, below which nobody could learn it
RARER = 10  # times as often as others a rare class's pictures are shown at most
SMOOTHING = 0.1  # of the answers: a judge that is sure of all of them has memorised
SURE = 2  # standard errors above chance
BATCH = 128
Indices = dict[str, list[int]]


@dataclass(frozen=True)
class Asked:
    """A class that is asked for, and a hold-out picture of it."""

    number: int
    """of the class"""
    index: int
    """of the picture"""
    turn: int
    """how often the class was asked for before"""


@dataclass(frozen=True)
class Labelled:
    """Pictures whose classes can be learned, and others of these classes to be judged by."""

    train: Pictures
    holdout: Pictures
    classes: list[str]
    rare: int
    """classes that are left out, for they have too few training pictures"""
    learned: np.ndarray
    """indices of training pictures, int64; those of classes with few come more often"""
    answers: np.ndarray
    """the number of the class of each of them"""
    held_out: list[np.ndarray]
    """of each class the indices of its hold-out pictures, in one fixed shuffled order"""

    @property
    def learned_from(self) -> int:
        """Training pictures that can be learned from."""
        return len(np.unique(self.learned))

    def ask(self, count: int) -> list[Asked]:
        """The classes, each as often, `count` times at most in all, with their hold-out pictures in
        turn; some of the classes once each, where there are more than that."""
        there = [number for number, held in enumerate(self.held_out) if len(held)]
        if count < len(there):
            there = sorted(np.random.default_rng(0).permutation(there)[:count].tolist())
        return [
            Asked(number, int(self.held_out[number][turn % len(self.held_out[number])]), turn)
            for turn in range(count // len(there))
            for number in there
        ]

    def once(self, asked: list[Asked]) -> list[Asked]:
        """Those whose pictures did not come before."""
        return [a for a in asked if a.turn < len(self.held_out[a.number])]


def labelled(images: Sequence[Shards]) -> Labelled:
    """What can be learned and judged of the datasets. Raises MissingInput that says why nothing."""
    train, holdout = (Pictures([*images], split) for split in ("train", "holdout"))
    found = _by_label(train.labels())
    classes = sorted(name for name, mine in found.items() if len(mine) >= LEAST)
    if not found:
        raise MissingInput("the pictures have no labels")
    if len(found) == 1:
        raise MissingInput(f"all labelled pictures are of one class, {shown(*found)}")
    if len(classes) < 2:
        raise MissingInput(
            f"a classifier needs {LEAST} training pictures of a class, and of {len(found):,} "
            f"classes {len(classes)} has as many; add pictures"
        )
    most = max(len(found[name]) for name in classes)
    learned = [np.resize(found[n], min(most, RARER * len(found[n]))) for n in classes]
    order, labels = holdout.sample(len(holdout)), holdout.labels()
    told = [index for index in order.tolist() if holdout.captions(index)]
    # what cannot be asked for counts only where nothing can
    there = _by_label(labels, told if any(labels[index] for index in told) else order.tolist())
    held_out = [np.array(there.get(name, []), np.int64) for name in classes]
    if not any(map(len, held_out)):
        raise MissingInput("no hold-out picture is of a class that can be learned")
    return Labelled(
        train,
        holdout,
        classes,
        rare=len(found) - len(classes),
        learned=np.concatenate(learned),
        answers=np.repeat(np.arange(len(classes)), [len(mine) for mine in learned]),
        held_out=held_out,
    )


def _by_label(labels: Sequence[str | None], order: Sequence[int] | None = None) -> Indices:
    """Label → the indices that have it, in the order that is given."""
    found: Indices = {}
    for index in range(len(labels)) if order is None else order:
        if label := labels[index]:
            found.setdefault(label, []).append(index)
    return found


# ---------------------------------------------------------------- the judge


@dataclass(frozen=True)
class Judge:
    """A classifier that is trained."""

    model: LabelClassifier
    classes: list[str]
    folder: Path

    @torch.no_grad()
    def read(self, pictures: Tensor) -> np.ndarray:
        """Of which class pictures, uint8 (B, 3, P, P), are: numbers (B,), found in fp32: a judge
        says the same wherever it sits."""
        device = next(self.model.parameters()).device
        with devices.autocast(device, "fp32"):
            parts = (self.model(part.to(device)) for part in torch.split(pictures, BATCH))
            return torch.cat([part.argmax(1).cpu() for part in parts]).numpy()

    @cached_property
    def features(self) -> Features:
        """What it sees, to compare sets of pictures with where no pretrained network is."""
        device = next(self.model.parameters()).device
        std = torch.full((3, 1, 1), 64 / 127.5, device=device)  # as it scales pictures itself

        def network(scaled: Tensor) -> list[Tensor]:
            return [self.model.body(scaled)[:, :, None, None]]

        name = f"judges/{self.folder.name}"
        return Features(name, device, network, mean=std / 128, std=std, judge_px=None)


def train(
    home: Path,
    config: TrainJudgeConfig,
    data: Labelled,
    device: torch.device,
    report: Report,
) -> Judge:
    """The judge of a dataset's classes, from judges/ in the workspace if it is there, else trained
    now."""
    side = data.train.image_px
    config = replace(config, model=replace(config.model, image_px=side))
    classes = data.classes
    sizes = ("widths", "depth")
    memory.require_model(lambda c: LabelClassifier(c, len(classes)), config.model, sizes, device)
    memory.require_batch(config, 3 * side**2)
    torch.manual_seed(config.seed)
    model = LabelClassifier(config.model, len(classes))
    parents = {f"images/{source.name}": source.id for source in data.train.sources}
    name = identity.name([source.name for source in data.train.sources], "judge", config, parents)
    folder = manifest.artefact(home, "judges", name)
    described = {"model": settings.as_dict(config.model), "classes": classes}
    task = LabelTask(model=model, config=config, data=data)
    run.finish(folder, "judges", task, config, parents, lambda: described, device, report)
    return load(folder, device)


def load(folder: Path, device: torch.device) -> Judge:
    """A finished judge. Raises MissingInput, BadInput or Mismatch."""

    def build(shape: JudgeConfig, described: dict[str, Any]) -> LabelClassifier:
        names = described.get("classes")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise BadInput(f"{folder / 'config.json'} names no classes; remove {folder}")
        return LabelClassifier(shape, len(names))

    model, described = judges.load(folder, "judges", JudgeConfig, build, device)
    return Judge(model, described["classes"], folder)


@dataclass(frozen=True, kw_only=True)
class LabelTask(JudgeTask):
    """What the loop needs to train a judge of classes.

    Pictures are cropped and mirrored, and some of them blurred and made noisy, so that it can read
    what a dVAE paints.
    """

    model: LabelClassifier
    config: TrainJudgeConfig
    data: Labelled

    @property
    def train(self) -> np.ndarray:
        return self.data.learned

    @cached_property
    def holdout(self) -> list[Asked]:
        return self.data.once(self.data.ask(self.config.eval_images))

    @cached_property
    def mirrored(self) -> np.ndarray:
        """Of which classes pictures may be mirrored, bool (C,)."""
        names = self.data.classes
        return np.array([self.config.flip and augment.may_be_mirrored([n]) for n in names])

    def batch(self, step: int) -> tuple[Tensor, ...]:
        config, data = self.config, self.data
        chosen = Order(len(data.learned), config.batch_size, config.seed).batch(step)
        draws = np.random.default_rng((config.seed, 4, step)).random((len(chosen), augment.DRAWS))
        pictures = data.train.read(data.learned[chosen])
        answers = data.answers[chosen]
        pictures = augment.vary(pictures, draws, config.crop, self.mirrored[answers])
        soft = round(config.softened * len(pictures))  # which come in any order anyway
        if soft:
            softened = augment.soften(pictures[:soft], (config.seed, 5, step))
            pictures = torch.cat((softened, pictures[soft:]))
        return pictures, torch.from_numpy(answers)

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...], progress: float) -> Tensor:
        pictures, answers = batch
        return F.cross_entropy(model(pictures).float(), answers, label_smoothing=SMOOTHING)

    def evaluate(self, model: nn.Module, asked: list[Asked], count: int) -> dict[str, float]:
        """The share of hold-out pictures that are read rightly."""
        assert isinstance(model, LabelClassifier)
        seen = asked[:count]
        pictures = self.data.holdout.read(np.array([a.index for a in seen]))
        found = Judge(model, self.data.classes, Path()).read(pictures)
        return {"right": float((found == [a.number for a in seen]).mean())}

    def learned(self, figures: Mapping[str, float]) -> bool:
        """Always: a judge that reads nothing is told of as such, and its model is judged on."""
        return True

    def warning(self, figures: Mapping[str, float]) -> str | None:
        """If it cannot be trusted."""
        chance = 1 / len(self.data.classes)
        return unsure(figures["right"], chance, len(self.holdout), self.config)


def unsure(right: float, chance: float, count: int, config: TrainJudgeConfig) -> str | None:
    """A sentence for a judge that reads so large a share of `count` real hold-out pictures rightly,
    where guessing reads `chance`, if that is little better than chance."""
    error = math.sqrt(max(right * (1 - right), chance * (1 - chance)) / count)
    enough = chance + min(0.2 * (1 - chance), 4 * chance)
    if right >= enough and right - SURE * error > chance:
        return None
    return (
        f"the judge of classes reads only {right:.1%} of {count:,} real hold-out pictures rightly, "
        f"and guessing {chance:.1%}, so do not trust what it says of drawn ones; train it longer "
        f"(--set judge.steps={2 * (config.steps or 1)}), or on more pictures"
    )
