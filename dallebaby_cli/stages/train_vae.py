"""images/NAME → vae/RUN: train the discrete VAE."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dallebaby_cli.config import DVAEConfig, TrainVaeConfig, settings, usual_grid, usual_levels
from dallebaby_cli.errors import Mismatch, MissingInput, UsageError
from dallebaby_cli.models import tokenizers
from dallebaby_cli.models.pictures import stack_rows, to_numpy
from dallebaby_cli.models.tokenizers import losses
from dallebaby_cli.models.tokenizers.dvae import DVAE
from dallebaby_cli.progress import Note, Report
from dallebaby_cli.quality import features, scores
from dallebaby_cli.quality import report as page
from dallebaby_cli.stages import sharpen as finishing
from dallebaby_cli.store import manifest, weights
from dallebaby_cli.store.manifest import Manifest
from dallebaby_cli.store.pictures import grid
from dallebaby_cli.store.shards import Shards
from dallebaby_cli.training import engine, identity, memory, parent, run
from dallebaby_cli.training.batches import Pictures, varied
from dallebaby_cli.training.parts import Objective
from dallebaby_cli.training.state import State

SHOWN = 8  # pictures in reconstructions.png
AROUND = 5  # codes along one side of the patch whose middle is shown in codebook.png
TILE_PX = 12  # least pixels along one side of a code's texture there
PAINTED = 2048  # most codes whose textures are shown
SIZES = ("width", "depth")  # what makes a dVAE large
LOW_USAGE = 0.5  # of the codes that there could be, under which an evaluation warns
LOW_USAGE_OF_FEW = 0.05  # where few pictures are judged, whose flat parts are of few codes
FEW = 4  # pictures of a batch, of which nothing is said
AMPLE = 10  # codes seen for each that there is, from which on there are not few
LEAST_GAIN_DB = 1.0  # over flat colours, under which it warns, too


@dataclass(frozen=True)
class VaeTask:
    """What the loop needs to train a dVAE."""

    model: DVAE
    train: Pictures
    holdout: Pictures
    config: TrainVaeConfig
    name: str = "train-vae"
    unit: str = "images"
    compile: bool = False  # its steps become no faster, and those of VQ differ
    frames: int = 40
    early_stop: bool = False  # it hardly memorises pictures

    def parts(self) -> dict[str, Objective]:
        return {"model": Objective(self.model, self.loss)}

    def step(self, state: State, batch: tuple[Tensor, ...], progress: float) -> Tensor:
        return state.backward("model", batch, progress)

    @property
    def units_per_step(self) -> int:
        return self.config.batch_size

    def batch(self, step: int) -> tuple[Tensor, ...]:
        return (varied(self.train, self.config, step, stream=2),)

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...], progress: float) -> Tensor:
        output, quantized = model(batch[0], progress)
        kind = self.config.model.loss
        return (
            losses.reconstruction(output, batch[0], kind, self.config.edge_weight) + quantized.loss
        )

    def evaluate(self, model: nn.Module, pictures: Pictures, count: int) -> dict[str, float]:
        """PSNR in dB (beside it, that of one flat colour for each picture) and SSIM, and
        how the codebook is used; bits are those of an ideal code for the codes' frequencies."""
        assert isinstance(model, DVAE)
        return scores.reconstruction(model, pictures, count, self.config.batch_size)

    def over(self, figures: Mapping[str, float]) -> str | None:
        """Never: it takes all its steps."""
        return None

    def holdout_loss(self, figures: Mapping[str, float]) -> float | None:
        """The squared error that the PSNR stands for, of pictures in [0, 1]."""
        return float(10 ** (-figures["psnr"] / 10))

    def learned(self, figures: Mapping[str, float]) -> bool:
        """Whether reconstructions are nearer than one flat colour each."""
        return figures["psnr"] > figures["flat_psnr"]

    def warning(self, figures: Mapping[str, float]) -> str | None:
        """If the pictures are lost, or most of the codebook is not used."""
        lower = f"a lower rate, such as --set optim.lr={self.config.optim.lr / 10:g}"
        if not figures["psnr"] >= figures["flat_psnr"] + LEAST_GAIN_DB:  # NaN, too
            return (
                f"reconstructions ({figures['psnr']:.1f} dB) are hardly better than one flat "
                f"colour each ({figures['flat_psnr']:.1f} dB); train longer, or with {lower}"
            )
        codes = self.config.model.codes
        seen = figures.get("codes_seen", math.inf)  # older versions did not say
        possible = codes * (1 - (1 - 1 / codes) ** seen)  # of codes that are equally likely
        least = LOW_USAGE if seen >= AMPLE * codes else LOW_USAGE_OF_FEW
        if figures["codes_used"] * codes < least * possible:
            fewer = "levels='[8,6,5]'" if self.config.model.quantizer == "fsq" else "codebook=256"
            return (
                f"only {figures['codes_used']:.0%} of the codebook is used on the hold-out "
                f"pictures; train longer, on more pictures, with fewer codes, such as "
                f"--set model.{fewer}, or with {lower}"
            )
        return None

    def pictures(self, model: nn.Module, last: bool) -> dict[str, np.ndarray]:
        """Hold-out pictures over what is left of them; at last also what each code paints."""
        assert isinstance(model, DVAE)
        shown = self.holdout.read(self.holdout.sample(SHOWN)).to(model.device)
        rebuilt = model.decode(model.encode(shown))
        drawn = {"reconstructions": grid(stack_rows(shown, rebuilt), len(shown))}
        if last:
            tiles = to_numpy(textures(model))
            larger = -(-TILE_PX // tiles.shape[1])
            drawn["codebook"] = grid(tiles.repeat(larger, 1).repeat(larger, 2))
        return drawn


def textures(model: DVAE) -> Tensor:
    """What each code paints where all its neighbours are the same: uint8 (K, 3, p, p), p being the
    pixels along one side of a code. Of more than 2,048 codes, so many, evenly spread."""
    side = model.image_px // model.grid
    middle = slice(side * (AROUND // 2), side * (AROUND // 2 + 1))
    shown = min(model.codes, PAINTED)
    codes = torch.linspace(0, model.codes - 1, shown, device=model.device).round().long()
    parts = [
        model.decode(part[:, None, None].expand(-1, AROUND, AROUND))[:, :, middle, middle]
        for part in torch.split(codes, 256)
    ]
    return torch.cat(parts)


def prepare(
    home: Path,
    config: TrainVaeConfig,
    names: list[str],
    *,
    start_from: str | None = None,
    device: torch.device,
    report: Report,
) -> tuple[VaeTask, dict[str, str]]:
    """What `train_vae` trains, and the ids of its inputs by name. Writes nothing. Raises
    OutOfMemory for what is too large for the device."""
    train, holdout, found = _pictures(home, names, report)
    parents = {f"images/{m.name}": m.id for m in found}
    before = parent.find(home, "vae", start_from) if start_from else None
    px, drawn = train.image_px, all(map(manifest.is_scenes, found))
    grid = config.model.grid or (before.grid_of(px) if before else usual_grid(px, drawn))
    levels = config.model.levels or (before.levels if before else _levels(config, train))
    shape = replace(config.model, image_px=px, grid=grid, levels=levels)
    config = replace(config, model=shape)
    if before:
        parents[before.name] = before.id
        before.require_dvae(config.model)
    memory.require_model(DVAE, config.model, SIZES, device, config.shard)
    memory.require_batch(config, 3 * config.model.image_px**2)
    torch.manual_seed(config.seed)
    model = DVAE(config.model)
    if before:
        weights.load_weights(before.folder / "model.safetensors", model)
    return VaeTask(model, train, holdout, config), parents


def _pictures(
    home: Path, names: list[str], report: Report
) -> tuple[Pictures, Pictures, list[Manifest]]:
    """The named datasets (the newest one if none is named): what is to train on, and what is held
    out."""
    found = manifest.find_all(home, "images", names)
    sources = [Shards(folder) for folder, _ in found]
    sides = {source.image_px for source in sources}
    if len(sides) > 1:
        raise Mismatch(
            f"the datasets have pictures of {' and '.join(map(str, sorted(sides)))} px; "
            "prepare them again with one --px"
        )
    train, holdout = Pictures(sources, "train"), Pictures(sources, "holdout")
    if train.left_out:
        report(Note(train.left_out))
    if not len(train):
        images = ", ".join(f"images/{m.name}" for _, m in found)
        raise MissingInput(f"{images}: no pictures to train on; prepare more of them")
    if not len(holdout):
        report(Note("no hold-out pictures, so figures are of training pictures", "warning"))
        holdout = train
    return train, holdout, [m for _, m in found]


def train_vae(
    home: Path,
    config: TrainVaeConfig,
    names: list[str],
    *,
    preset: str,
    run_name: str | None = None,
    start_from: str | None = None,
    sharpen: str | None = None,
    device: str = "auto",
    report: Report,
) -> run.Finished:
    """Train a dVAE on the named image datasets (the newest one if none is named), or `sharpen` the
    finished one of that name: a new run with the same codes and a new decoder."""
    target = engine.device(device)
    if sharpen:
        return _sharpen(home, config, names, sharpen, preset, run_name, target, report)
    config = _as_begun(home, config, run_name)
    task, parents = prepare(
        home, config, names, start_from=start_from, device=target, report=report
    )
    report(Note(f"train-vae: from {', '.join(parents)}, preset {preset}"))
    images = [path.removeprefix("images/") for path in parents if path.startswith("images/")]
    run_name = run_name or identity.name(names or images, preset, task.config, parents)
    folder = manifest.artefact(home, "vae", run_name)
    if odd := oddity(task.batch(0)[0]):
        report(Note(odd, "warning"))

    share = finishing.share(task.config, task.train)
    if share and task.config.finish.perceptual:  # said now, not after hours
        features.load(task.config.finish.perceptual, target, as_loss=True)
    first = finishing.before_it(task.config, share)

    def describe() -> dict[str, Any]:
        return {"model": task.model.describe()}

    done = run.finish(folder, "vae", task, first, parents, describe, target, report)
    if share:
        second = finishing.after_it(task.config, share)
        done = finishing.finish(done, task.train, task.holdout, second, target, report)
    page.at_end(done, report)
    return done


def _sharpen(
    home: Path,
    config: TrainVaeConfig,
    names: list[str],
    old: str,
    preset: str,
    run_name: str | None,
    device: torch.device,
    report: Report,
) -> run.Finished:
    before, (_, source) = parent.find(home, "vae", old), manifest.find(home, "vae", old)
    images = [path.removeprefix("images/") for path in source.parents if "images/" in path]
    train, holdout, found = _pictures(home, names or images, report)
    parents = {f"images/{m.name}": m.id for m in found} | {before.name: before.id}
    shape = tokenizers.config_of(before.config["model"], before.folder / "config.json")
    if shape.image_px != train.image_px:
        raise Mismatch(
            f"{before.name} is of pictures of {shape.image_px} px and these have "
            f"{train.image_px} px; prepare them with --px {shape.image_px}"
        )
    config = replace(config, model=shape, finish=replace(config.finish, share=1.0))
    run_name = run_name or identity.name([m.name for m in found], preset, config, parents)
    folder = manifest.artefact(home, "vae", run_name)
    report(Note(f"train-vae: {before.name} gets a sharp decoder, from {', '.join(parents)}"))
    dvae = DVAE(shape)
    weights.load_weights(before.folder / "model.safetensors", dvae)

    def describe() -> dict[str, Any]:
        return {"model": dvae.describe()}

    source = replace(source, counts=finishing.without(source.counts))
    done = run.copied(folder, source, dvae.state_dict(), describe, config, parents)
    done = finishing.finish(done, train, holdout, config, device, report)
    page.at_end(done, report)
    return done


def _levels(config: TrainVaeConfig, train: Pictures) -> tuple[int, ...]:
    """The levels that pictures choose; of a quantizer that has none, those that it does not use."""
    return usual_levels(config.model.quantizer == "fsq" and not finishing.drawn(train))


def _as_begun(home: Path, config: TrainVaeConfig, run_name: str | None) -> TrainVaeConfig:
    """With the grid and the levels that a run of that name was begun with, where none are chosen
    now: what is chosen by the pictures may be another in another version."""
    found = manifest.read(manifest.artefact(home, "vae", run_name)) if run_name else None
    model = found.config.get("model") if found else None
    if not isinstance(model, dict):
        return config
    ours = settings.as_dict(config.model)
    kept = {name: model[name] for name in ("grid", "levels") if model.get(name) and not ours[name]}
    try:
        shape = settings.build(DVAEConfig, {**ours, **kept})
    except UsageError:  # a damaged manifest, which is told where settings are compared
        return config
    return replace(config, model=shape)


def oddity(pictures: Tensor) -> str | None:
    """What is odd about the values of a run's first batch, uint8 (B, 3, P, P), of some pictures."""
    if len(pictures) < FEW:  # which may well be so
        return None
    low, high = int(pictures.min()), int(pictures.max())
    advice = "look at the pictures that `dallebaby prep` was given"
    if (pictures == pictures[:, :, :1, :1]).all():
        return f"the pictures of the first batch are flat, one colour each; {advice}"
    if (pictures == pictures[:1]).all():
        return f"all pictures of the first batch are the same; {advice}"
    if high - low < 32:
        return f"the first batch has values from {low} to {high} of 0 to 255 only; {advice}"
    return None
