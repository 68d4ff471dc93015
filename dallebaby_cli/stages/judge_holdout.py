"""A part of `evaluate`: how well a model does on the hold-out pictures of its own data, and how far
the set of what it draws is from them."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dallebaby_cli.config import EvaluateConfig
from dallebaby_cli.drawing import each, fitting
from dallebaby_cli.drawing.sampler import Sampler
from dallebaby_cli.errors import BadInput, Mismatch, MissingInput
from dallebaby_cli.models import device as devices
from dallebaby_cli.models.pictures import to_tensor
from dallebaby_cli.models.tokenizers import ImageTokenizer
from dallebaby_cli.progress import Progress, Report
from dallebaby_cli.quality import pretrained, scores
from dallebaby_cli.quality.features import Features
from dallebaby_cli.quality.figures import Evaluated
from dallebaby_cli.quality.memorisation import Drawn
from dallebaby_cli.store import extra_captions, manifest
from dallebaby_cli.store.manifest import Manifest
from dallebaby_cli.store.shards import Shards
from dallebaby_cli.store.tokens import Tokens
from dallebaby_cli.training import engine
from dallebaby_cli.training.batches import Captioned, Pictures

BATCH = 64  # of the hold-out figures


@dataclass(frozen=True)
class Data:
    """What a model was trained on, unchanged since."""

    tokens: list[Tokens]
    images: list[Shards]


def data_of(home: Path, about: Manifest, missing: list[str]) -> Data:
    """The tokens of a model, and the pictures that they were made from, if those are still there.
    Raises BadInput, MissingInput or Mismatch."""
    tokens, images = [], []
    for name, identity in about.parents.items():
        if not name.startswith("tokens/"):
            continue
        folder, found = same(home, name, identity)
        ((source, source_id),) = (p for p in found.parents.items() if p[0].startswith("images/"))
        tokens.append(Tokens(folder, extra_captions.learned(home, source, about)))
        try:
            images.append(Shards(same(home, source, source_id)[0]))
        except (BadInput, MissingInput, Mismatch) as error:
            missing.append(f"no PSNR, FID or CLIP score: {error}")
    if not sum(len(t.rows("holdout")) for t in tokens):
        raise MissingInput(f"{', '.join(about.parents)} hold nothing out")
    return Data(tokens, images if len(images) == len(tokens) else [])


def same(home: Path, name: str, identity: str) -> tuple[Path, Manifest]:
    """The artefact "KIND/NAME", as it was. Raises BadInput, MissingInput or Mismatch."""
    folder, found = manifest.find(home, *name.split("/", 1))
    if found.id != identity:
        raise Mismatch(f"{name} has changed since, so what it holds out may have been trained on")
    return folder, found


@torch.no_grad()
def judge(
    done: Evaluated,
    sampler: Sampler,
    data: Data,
    own: Features | None,
    config: EvaluateConfig,
    report: Report,
) -> Drawn | None:
    """Fill in what needs the model's own data; sets of pictures are compared in the eyes of `own`
    where no pretrained network is."""
    training, held_out = (
        Captioned(data.tokens, split, sampler.text_tokenizer, sampler.model.config.text_tokens)
        for split in ("train", "holdout")
    )
    pictures = Pictures(data.images, "holdout") if data.images else None
    if engine.first():
        _score_holdout(done, sampler, training, held_out, pictures, config, report)
    chosen = [*itertools.islice(held_out.with_captions(), config.pictures)]
    captions = [caption for _, caption in chosen]
    if not captions:
        done.missing.append("the hold-out pictures have no captions to draw, so nothing is drawn")
        return None
    codes = each.draw(sampler, captions, config.sampling, config.seed, "hold-out captions", report)
    if pictures and engine.first():
        painted = to_tensor(sampler.paint(codes))
        tokenizer = sampler.image_tokenizer
        real = pictures.read(np.array([index for index, _ in chosen]))
        judge_pictures(done, tokenizer, real, own, config, report, painted, captions)
    return Drawn(codes, captions, training, held_out)


def _score_holdout(
    done: Evaluated,
    sampler: Sampler,
    training: Captioned,
    captioned: Captioned,
    pictures: Pictures | None,
    config: EvaluateConfig,
    report: Report,
) -> None:
    """Fill in what is computed of the hold-out pictures themselves."""
    codes, count = sampler.model.config.codes, min(config.holdout_pictures, len(captioned))
    report(Progress("hold-out", 0, count, "images"))

    def score(size: int) -> dict[str, float]:
        return scores.transformer(sampler.model, captioned, count, size)

    with devices.autocast(sampler.device, "auto"):
        found = fitting.halving(score, BATCH, "scoring", "holdout_pictures", report)
        unigram = scores.unigram(training, captioned, codes)
        baselines = {"unigram_bits": unigram, "uniform_bits": float(np.log2(codes))}
        done.holdout.update(found | baselines | {"pictures": count})
    if pictures:
        done.reconstruction.update(score_rebuilt(sampler.image_tokenizer, pictures, config, report))
    report(Progress("hold-out", count, count, "images"))


def score_rebuilt(
    tokenizer: ImageTokenizer, pictures: Pictures, config: EvaluateConfig, report: Report
) -> dict[str, float]:
    """How pictures come back from their codes."""

    def rebuild(size: int) -> dict[str, float]:
        return scores.reconstruction(tokenizer, pictures, config.holdout_pictures, size)

    with torch.no_grad(), devices.autocast(tokenizer.device, "auto"):
        return fitting.halving(rebuild, BATCH, "rebuilding", "holdout_pictures", report)


def judge_pictures(
    done: Evaluated,
    tokenizer: ImageTokenizer,
    real: Tensor,
    own: Features | None,
    config: EvaluateConfig,
    report: Report,
    drawn: Tensor | None = None,
    captions: Sequence[str] = (),
) -> None:
    """Fill in what pretrained networks make of real pictures, of the same rebuilt, and of drawn
    ones, which are of the real ones' captions."""
    sets = pretrained.Sets(real, scores.rebuild(tokenizer, real), drawn)
    judged = pretrained.scores(sets, [*captions], tokenizer.device, config.kid_network, own, report)
    done.pretrained.update(judged.figures)
    done.compared.extend(judged.compared)
    done.missing.extend(judged.missing)
