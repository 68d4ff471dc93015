"""What photos.py and photos_vae.py share: photographs as arrays, and judges that say how far
pictures are from photographs.

A judge is a network that no training here takes a loss from; the distance is KID, between what it
sees in pictures and in photographs of the reference. There are two, of which one alone is easily
fooled: "imagenet", EfficientNet-Lite0 with its ImageNet weights, and "trained", a small ResNet that
learns here to tell the classes of these photographs apart. The reference are training pictures that
the second never saw.
"""

import hashlib
import itertools
import math
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import baseline_environment
import numpy as np
import torch
from baby import dallebaby
from rows import keep, kept
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from dallebaby_cli import files
from dallebaby_cli.config import JudgeConfig
from dallebaby_cli.errors import BadInput
from dallebaby_cli.models.label_classifier import LabelClassifier
from dallebaby_cli.quality.pretrained import cubic, mmd
from dallebaby_cli.store import weights
from dallebaby_cli.store.shards import Shards
from dallebaby_cli.training.batches import Pictures

BASELINES = Path(__file__).parent / "baselines"
NAMES = ("imagenet", "trained")
BATCH, RATE, DECAY, SMOOTHING = 64, 3e-3, 0.05, 0.1  # how the second judge is trained
AT_A_TIME = 250
CHANNELS_LAST = torch.channels_last


@dataclass(frozen=True)
class Photos:
    """A prepared folder of photographs. Pictures are uint8 (B, 3, P, P), always in one shuffled
    order; `count` of each side are judged."""

    home: Path
    images: Path
    count: int

    @cached_property
    def shards(self) -> Shards:
        return Shards(self.images)

    @property
    def px(self) -> int:
        return self.shards.image_px

    @cached_property
    def sides(self) -> dict[str, Pictures]:
        return {side: Pictures([self.shards], side) for side in ("train", "holdout")}

    def rows(self, side: str) -> np.ndarray:
        """Rows of the shards, in this order."""
        pictures = self.sides[side]
        return pictures.places[pictures.sample(len(pictures)), 1]

    @cached_property
    def holdout(self) -> np.ndarray:
        """Those that are rebuilt, and whose captions are drawn."""
        pictures = self.sides["holdout"]
        return pictures.read(pictures.sample(self.count)).numpy()

    @cached_property
    def train(self) -> np.ndarray:
        """All of them; the first `count` are the reference."""
        pictures = self.sides["train"]
        return pictures.read(pictures.sample(len(pictures))).numpy()

    @property
    def reference(self) -> np.ndarray:
        return self.train[: self.count]

    @cached_property
    def classes(self) -> list[str]:
        """Raises BadInput where a picture has none."""
        labels = {self.shards.label(row) for row in range(len(self.shards))}
        if None in labels or len(labels) < 2:
            raise BadInput(f"{self.images}: a judge needs classes; give a folder for each class")
        return sorted(str(label) for label in labels)

    def labels(self, side: str) -> np.ndarray:
        """Of which class each picture is, int64 (B,)."""
        number = {name: index for index, name in enumerate(self.classes)}
        return np.array([number[str(self.shards.label(row))] for row in self.rows(side)])

    def captions(self, side: str) -> list[str]:
        """One of each picture."""
        return [self.shards.captions(row)[0] for row in self.rows(side)]

    @cached_property
    def arrays(self) -> Path:
        """Both sides as one file, for programs that do not know shards."""
        path = self.home / f"{self.images.name}-{self.count}.npz"
        if not path.exists():
            _save(path, train=self.train, holdout=self.holdout)
        return path

    @cached_property
    def described(self) -> Path:
        """The same with the class of each picture and the words of its first caption, as
        baselines/drawing.py reads them."""
        path = self.home / f"{self.images.name}-{self.count}-described.npz"
        if not path.exists():
            arrays = {"train": self.train, "holdout": self.holdout}
            texts = {side: self.captions(side)[: len(arrays[side])] for side in self.sides}
            said = words_by_number([*texts["train"], *texts["holdout"]])
            arrays["train_words"], arrays["holdout_words"] = np.split(said, [len(self.train)])
            for side in self.sides:
                arrays[f"{side}_classes"] = self.labels(side)[: len(arrays[side])]
            _save(path, **arrays)
        return path


def words_by_number(texts: list[str]) -> np.ndarray:
    """The words of each text, int64 (B, T), numbered from 1 on by the alphabet; 0 behind them."""
    split = [text.split() for text in texts]
    number = {word: 1 + i for i, word in enumerate(sorted({*itertools.chain(*split)}))}
    told = np.zeros((len(texts), max(map(len, split))), np.int64)
    for row, words in zip(told, split, strict=True):
        row[: len(words)] = [number[word] for word in words]
    return told


def _save(path: Path, **arrays: Any) -> None:
    with files.atomic_path(path) as temporary, temporary.open("wb") as out:
        np.savez(out, **arrays)


def prepare(home: Path, folder: Path, px: int, count: int) -> Photos:
    """The folder's photographs, through the package's own prep; `count` of each side to judge, or
    fewer where there are not so many."""
    name = f"photos-{px}"
    dallebaby(home, "prep", folder.resolve(), "--name", name, "--px", px)
    photos = Photos(home, home / "images" / name, count)
    sizes = (len(photos.sides["holdout"]), len(photos.sides["train"]) // 2)
    return Photos(home, photos.images, min(count, *sizes))


# ---------------------------------------------------------------- the distance


def kid(a: np.ndarray, b: np.ndarray) -> float:
    """Kernel Inception Distance × 1000 of features (A, D) and (B, D): the unbiased estimate of the
    squared MMD with the kernel (x·y / D + 1)³ (Binkowski et al. 2018, arXiv 1801.01401), from all
    pairs. About 0, and as often below, where both are from the same pictures."""
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    return 1000 * mmd(cubic, x, y, paired=False)


class Judges:
    """Those that are asked for; what they see in photographs is kept in HOME."""

    def __init__(self, photos: Photos, names: list[str], steps: int) -> None:
        self.photos, self.names = photos, names
        self.folder = photos.home / "judges" / f"{photos.images.name}-{photos.count}-{steps}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.steps = steps

    @cached_property
    def trained(self) -> LabelClassifier:
        """The second judge, trained if it is not there."""
        path = self.folder / "classifier.safetensors"
        shape = JudgeConfig(image_px=self.photos.px)
        model = LabelClassifier(shape, len(self.photos.classes)).to(memory_format=CHANNELS_LAST)
        if path.exists():
            model.load_state_dict(load_file(path))
        else:
            unseen = slice(self.photos.count, None)
            pictures, labels = self.photos.train[unseen], self.photos.labels("train")[unseen]
            teach(model, pictures, labels, self.steps)
            weights.save_weights(path, model.state_dict())
        return model.eval()

    def right(self, pictures: np.ndarray) -> float:
        """Of which share of pictures the second judge says the class that the hold-out pictures, in
        the same order, have."""
        said = self.trained.head(torch.from_numpy(self._see("trained", pictures))).argmax(1)
        return float((said.numpy() == self.photos.labels("holdout")[: len(pictures)]).mean())

    def kid(self, pictures: np.ndarray) -> dict[str, float]:
        """KID × 1000 by judge; kept, since it takes a minute."""
        identity = hashlib.sha256(np.ascontiguousarray(pictures).data).hexdigest()[:16]
        path = self.folder / f"kid-{identity}.json"
        known = kept(path) or {}
        for name in {*self.names} - {*known}:
            known[name] = kid(self._see(name, pictures), self._reference(name))
        keep(path, known)
        return {name: known[name] for name in self.names}

    def _reference(self, name: str) -> np.ndarray:
        path = self.folder / f"reference-{name}.npy"
        if not path.exists():
            np.save(path, self._see(name, self.photos.reference))
        return np.load(path)

    def _see(self, name: str, pictures: np.ndarray) -> np.ndarray:
        if name == "trained":
            judge, parts = self.trained, torch.from_numpy(pictures).split(AT_A_TIME)
            with torch.inference_mode():  # in which none can be trained
                return torch.cat([judge.features(part) for part in parts]).numpy()
        shown, seen = self.folder / "shown.npy", self.folder / "seen.npy"
        np.save(shown, pictures)
        python = baseline_environment.python(self.photos.home)
        program = BASELINES / "imagenet_features.py"
        command: list[str | Path] = [python, "-W", "ignore", program, shown, seen]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return np.load(seen)


# ---------------------------------------------------------------- the judge that is trained here


def teach(model: LabelClassifier, pictures: np.ndarray, labels: np.ndarray, steps: int) -> None:
    """Train the classifier for so many steps, always in the same way."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.reset_parameters()
    adam = torch.optim.AdamW(model.parameters(), RATE, weight_decay=DECAY)
    plan = torch.optim.lr_scheduler.OneCycleLR(adam, RATE, max(steps, 2), pct_start=0.2)
    model.train()
    for chosen in batches(len(pictures), steps):
        shown, targets = varied(pictures[chosen]), torch.from_numpy(labels[chosen])
        loss = F.cross_entropy(model(shown), targets, label_smoothing=SMOOTHING)
        adam.zero_grad()
        loss.backward()
        adam.step()
        plan.step()


def batches(count: int, steps: int) -> Iterator[np.ndarray]:
    """Indices of each step's pictures, epoch after epoch."""
    random = np.random.default_rng(0)
    epochs = math.ceil(steps * BATCH / count)
    order = np.concatenate([random.permutation(count) for _ in range(epochs)])
    yield from order[: steps * BATCH].reshape(-1, BATCH)


def varied(pictures: np.ndarray) -> Tensor:
    """uint8 pictures, shifted by up to an eighth and half of them mirrored."""
    shown = torch.from_numpy(pictures)
    px = shown.shape[-1]
    margin = px // 8
    padded = F.pad(shown.float(), (margin,) * 4, mode="reflect")
    flips = torch.rand(len(shown)) < 0.5
    places = torch.randint(2 * margin + 1, (len(shown), 2)).tolist()
    cut = [x[:, y : y + px, z : z + px] for x, (y, z) in zip(padded, places, strict=True)]
    moved = torch.stack(cut)
    return torch.where(flips[:, None, None, None], moved.flip(-1), moved).to(torch.uint8)
