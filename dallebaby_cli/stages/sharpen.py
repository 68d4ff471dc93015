"""A dVAE with a decoder that draws sharply. Its codes stay as they are, so that tokens and
transformers that were made with it go on working.

Pixels alone teach a decoder to draw the mean of all pictures that its codes could stand for, which
is blurred. Here it is trained on against a discriminator, which is thrown away afterwards.
"""

import math
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dallebaby_cli import files
from dallebaby_cli.config import OptimConfig, TrainVaeConfig
from dallebaby_cli.config.settings import as_dict
from dallebaby_cli.errors import Diverged, Mismatch, UsageError
from dallebaby_cli.models import device as devices
from dallebaby_cli.models import tokenizers
from dallebaby_cli.models.pictures import stack_rows
from dallebaby_cli.models.tokenizers import losses
from dallebaby_cli.models.tokenizers.discriminator import (
    Discriminator,
    caught,
    pulled,
    unmatched,
)
from dallebaby_cli.models.tokenizers.dvae import DVAE
from dallebaby_cli.progress import Report
from dallebaby_cli.quality import features, scores
from dallebaby_cli.quality.features import Features
from dallebaby_cli.store import manifest, weights
from dallebaby_cli.store.codes_id import codes_id
from dallebaby_cli.store.pictures import grid
from dallebaby_cli.training import engine, run
from dallebaby_cli.training.batches import Pictures, varied
from dallebaby_cli.training.parts import Objective
from dallebaby_cli.training.state import State

BETAS = (0.5, 0.99)  # of both networks: each has to follow the other
SHARPENED = "sharpened"  # what a run's manifest says of its decoder
SHOWN = 8  # pictures in reconstructions.png
LOOKED_AT = 256  # pictures that tell photographs from drawings
ALIKE = 1  # of 255, by which neighbouring pixels of a flat area differ at most
DRAWN = 0.5  # of the neighbours are that much alike in drawings: 0.95 in `scenes`, 0.1 in photos
SHARE = 0.4  # of the minutes of a run, where there are photographs
HOPELESS = 2  # times the PSNR that sharpness may cost, at which the finish ends early
FIGURES = ("psnr", "ssim", "detail", "psnr_before", "detail_before")  # figures of the new decoder
FARTHER = 0.02  # that fine detail may be from that of real pictures, in nats of their ratio


@dataclass(frozen=True)
class SharpenTask:
    """What the loop needs to train the decoder of a finished dVAE on."""

    model: DVAE
    """the decoder learns; encoder and quantizer take no gradient"""
    before: DVAE
    """the same as it was, which makes the codes"""
    discriminator: Discriminator
    train: Pictures
    holdout: Pictures
    config: TrainVaeConfig
    network: Features | None = None
    """whose features pull, too"""
    name: str = "sharpen"
    unit: str = "images"
    compile: bool = False
    frames: int = 20
    early_stop: bool = False
    drawn: list[Tensor] = field(default_factory=list)
    """what the decoder made of the batch, kept for the discriminator"""
    figures_before: dict[int, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        dvae: DVAE,
        train: Pictures,
        holdout: Pictures,
        config: TrainVaeConfig,
        device: torch.device,
    ) -> "SharpenTask":
        """The task for a dVAE, which stays as it is; a copy is trained. Raises MissingInput,
        BadInput or UsageError for a network that cannot be used."""
        finish = config.finish
        torch.manual_seed(config.seed)
        before, model = deepcopy(dvae).eval().requires_grad_(False), deepcopy(dvae)
        model.encoder.requires_grad_(False)
        model.quantizer.requires_grad_(False)
        optim = OptimConfig(lr=finish.lr, betas=BETAS)
        config = replace(config, optim=optim, shard=False)
        discriminator = Discriminator(finish.width, dvae.image_px)
        network = (
            features.load(finish.perceptual, device, as_loss=True) if finish.perceptual else None
        )
        return cls(model, before, discriminator, train, holdout, config, network)

    def parts(self) -> dict[str, Objective]:
        config = self.config
        critic = replace(config.optim, lr=config.finish.discriminator_lr)
        return {
            "model": Objective(self.model, self.draw),
            "discriminator": Objective(self.discriminator, self.tell_apart, critic),
        }

    @property
    def units_per_step(self) -> int:
        return self.config.batch_size

    def batch(self, step: int) -> tuple[Tensor, ...]:
        return (varied(self.train, self.config, step, stream=3),)

    def step(self, state: State, batch: tuple[Tensor, ...], progress: float) -> Tensor:
        self.drawn.clear()
        critic = state.parts["discriminator"].module
        pictures = batch[0].to(state.device, non_blocking=True)
        with devices.autocast(state.device, state.config.precision):
            vectors = self._vectors(pictures)
        loss = state.backward("model", (pictures, vectors), progress, critic)
        state.backward("discriminator", (pictures, torch.cat(self.drawn)))
        return loss

    @torch.no_grad()
    def _vectors(self, pictures: Tensor) -> Tensor:
        """The vectors (B, D, G, G) of the codes of pictures uint8 (B, 3, P, P), some of which are
        replaced by those of another picture."""
        before, most = self.before.to(pictures.device), self.config.finish.replaced
        codes = before.encode(pictures)
        if most:
            lost = torch.rand(codes.shape) < most * torch.rand(len(codes), 1, 1)
            codes = torch.where(lost.to(codes.device), codes.roll(1, 0), codes)
        return before.quantizer.lookup(codes)

    def _in_range(self, output: Tensor) -> Tensor:
        return losses.in_range(output.float(), self.config.model.loss)

    def draw(
        self, model: nn.Module, batch: tuple[Tensor, ...], progress: float, critic: nn.Module
    ) -> Tensor:
        """The pixels' loss, with the pull of what the discriminator sees in its gradient."""
        assert isinstance(model, DVAE)
        pictures, vectors = batch
        config, finish = self.config, self.config.finish
        output = model.decoder(vectors)
        self.drawn.append(self._in_range(output.detach()))
        real = pictures.float() / 127.5 - 1

        def pixels(output: Tensor) -> Tensor:
            return losses.reconstruction(output, pictures, config.model.loss, config.edge_weight)

        def pulls(output: Tensor) -> list[tuple[Tensor, float]]:
            made, found = self._in_range(output), []
            if progress >= finish.warmup:
                judged, maps = critic(torch.cat((made, real)))
                of_made, of_real = judged.chunk(2)
                ours, theirs = zip(*(seen.chunk(2) for seen in maps), strict=True)
                wanted = [seen.detach() for seen in theirs]
                found = [
                    (caught(of_made, of_real.detach()), finish.weight),
                    (unmatched(ours, wanted), finish.matching),
                ]
            if self.network is not None:
                unlike = features.perceptual(self.network, made, real)
                found.append((unlike, finish.perceptual_weight))
            return [(loss, weight) for loss, weight in found if weight]

        return pulled(output, pixels, pulls)

    def tell_apart(self, critic: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        """The discriminator's loss."""
        assert isinstance(critic, Discriminator)
        pictures, drawn = batch
        return critic.loss(pictures.float() / 127.5 - 1, drawn)

    def evaluate(self, model: nn.Module, pictures: Pictures, count: int) -> dict[str, float]:
        """Figures of reconstructions, and two of them as they were before."""
        assert isinstance(model, DVAE)
        size = self.config.batch_size
        if count not in self.figures_before:
            before = self.before.to(model.device)
            self.figures_before[count] = scores.reconstruction(before, pictures, count, size)
        known = self.figures_before[count]
        return {
            **scores.reconstruction(model, pictures, count, size),
            **{f"{name}_before": known[name] for name in ("psnr", "detail")},
        }

    def holdout_loss(self, figures: Mapping[str, float]) -> float | None:
        """None: sharp pictures are farther from the real ones, pixel by pixel."""
        return None

    def learned(self, figures: Mapping[str, float]) -> bool:
        """Whether reconstructions are nearer than one flat colour each."""
        return figures["psnr"] > figures["flat_psnr"]

    def warning(self, figures: Mapping[str, float]) -> str | None:
        """Nothing: what harm it has done shows at the end (`harm`)."""
        return None

    def over(self, figures: Mapping[str, float]) -> str | None:
        """Why the run ends before its last step: pictures become much worse."""
        lost = figures["psnr_before"] - figures["psnr"]
        if lost <= HOPELESS * self.config.finish.most_db:
            return None
        return f"sharpening has cost {lost:.1f} dB of PSNR so far"

    def pictures(self, model: nn.Module, last: bool) -> dict[str, np.ndarray]:
        """Hold-out pictures, what pixels alone made of them, and what is made of them now."""
        assert isinstance(model, DVAE)
        shown = self.holdout.read(self.holdout.sample(SHOWN)).to(model.device)
        codes = self.before.to(model.device).encode(shown)
        rows = stack_rows(shown, self.before.decode(codes), model.decode(codes))
        return {"reconstructions": grid(rows, len(shown))}


def harm(figures: Mapping[str, float], most_db: float) -> str | None:
    """Why a decoder with such figures is worse than the one before; None if it is not."""
    before, now = figures["psnr_before"], figures["psnr"]
    if not now >= before - most_db:  # NaN, too
        return f"sharpening has cost {before - now:.1f} dB of PSNR, and {most_db:g} are allowed"
    off_before, off = (abs(math.log(max(figures[n], 1e-9))) for n in ("detail_before", "detail"))
    if not off <= off_before + FARTHER:
        return (
            f"sharpening has taken fine detail farther from that of real pictures "
            f"({figures['detail_before']:.0%} of it before, {figures['detail']:.0%} now)"
        )
    return None


# ---------------------------------------------------------------- after pixels


def share(config: TrainVaeConfig, train: Pictures) -> float:
    """The share of a run's minutes in which its decoder is made sharp."""
    if config.finish.share is not None:
        return config.finish.share
    return 0.0 if drawn(train) else SHARE


def drawn(pictures: Pictures) -> bool:
    """Whether the pictures are drawings rather than photographs, whoever made them: mostly flat
    areas, as they look. (`manifest.is_scenes` asks where they come from.)"""
    x = pictures.read(pictures.sample(LOOKED_AT)).short()
    apart = (x[..., 1:] - x[..., :-1]).abs().amax(1)
    return bool((apart <= ALIKE).float().mean() > DRAWN)


def before_it(config: TrainVaeConfig, share: float) -> TrainVaeConfig:
    """The settings of a run's first part, which learns the codes. Raises UsageError if it has no
    time."""
    if share == 1:
        raise UsageError(
            "finish.share=1 leaves no time to learn codes; take less, or --sharpen RUN for a "
            "decoder of codes that there are"
        )
    return replace(config, minutes=config.minutes * (1 - share))


def after_it(config: TrainVaeConfig, share: float) -> TrainVaeConfig:
    """The settings of the second part, the finish: its share of the minutes, or as many steps
    beside those of the first part."""
    steps = config.steps
    if steps and share < 1:
        steps = max(round(steps * share / (1 - share)), 1)
    return replace(config, minutes=config.minutes * share, steps=steps)


def finish(
    done: run.Finished,
    train: Pictures,
    holdout: Pictures,
    config: TrainVaeConfig,
    device: torch.device,
    report: Report,
) -> run.Finished:
    """Give a finished dVAE a sharp decoder, in a run of its own inside its folder. Where that does
    harm, its decoder stays as it was, with a warning."""
    folder, found, inner = done.folder, done.manifest, done.folder / "finish"
    parents = {f"vae/{found.name}": codes_id(folder)}
    _look_at(inner, parents, config)
    if not inner.exists() and (SHARPENED in found.counts or "finish" not in found.config):
        return done  # it was removed, or the run is of an older version
    if found.counts.get(SHARPENED) is False and not _complete(inner):
        return done  # it came to nothing
    described = weights.read_model(folder, "vae")["model"]
    before = inner / "before.safetensors"
    dvae = tokenizers.build(described, folder / "config.json")
    weights.load_weights(before if before.exists() else folder / "model.safetensors", dvae)

    def describe() -> dict[str, Any]:
        return {"model": described}

    def begin() -> None:
        weights.save_weights(before, dvae.state_dict())

    task = SharpenTask.of(dvae, train, holdout, config, device)
    how = (inner, "vae", task, task.config, parents, describe, device, report, begin)
    counts: dict[str, Any] = {SHARPENED: False}
    try:
        ended = run.finish(*how)
        wrong = harm(ended.manifest.counts, config.finish.most_db)
        if not ended.fresh and SHARPENED in found.counts:
            return done
    except Diverged as error:
        wrong = f"sharpening came to nothing: {error}"
    if not wrong:
        weights.load_weights(inner / "model.safetensors", dvae)
        counts = {name: ended.manifest.counts[name] for name in FIGURES} | {SHARPENED: True}
    with files.lock(folder, f"the run {found.name}") if engine.first() else nullcontext():
        if engine.first() and not wrong:
            shutil.copyfile(inner / "reconstructions.png", folder / "reconstructions.png")
        draft = replace(found, counts=without(found.counts) | counts)
        sealed = run.seal(folder, draft, dvae.state_dict(), describe)
    stays = wrong and f"{wrong}; the decoder stays as pixels have taught it"
    told = "; ".join(filter(None, (done.warning, stays)))
    return run.Finished(folder, sealed, True, told or None)


def _complete(inner: Path) -> bool:
    def look() -> bool:
        found = manifest.read(inner)
        return found is not None and found.complete

    return engine.once(look)


def _look_at(inner: Path, parents: Mapping[str, str], config: TrainVaeConfig) -> None:
    """Remove the finish of a dVAE that has been trained further since. Raises Mismatch where it has
    other settings."""

    def look() -> str:
        found = manifest.read(inner)
        if found is None:
            return ""
        if found.parents != parents:
            shutil.rmtree(inner)
            return ""
        before, now = found.config.get("finish"), as_dict(config.finish)
        before = before if isinstance(before, dict) else {}
        other = [name for name in now if name != "share" and before.get(name) != now[name]]
        return ", ".join(f"finish.{n}: {before.get(n)} then, {now[n]} now" for n in other)

    if other := engine.once(look):
        raise Mismatch(
            f"{inner} was made with other settings ({other}); remove it to make the decoder anew, "
            f"or make another one with --sharpen {inner.parent.name} --run OTHER"
        )


def without(counts: Mapping[str, Any]) -> dict[str, Any]:
    """A run's figures, but for those that say what its decoder was before."""
    own = {SHARPENED, *(name for name in FIGURES if name.endswith("_before"))}
    return {name: value for name, value in counts.items() if name not in own}
