"""How well a model fills what is masked of real pictures that it has not seen."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dallebaby_cli.config import EvaluateConfig, SampleConfig
from dallebaby_cli.drawing.pretrained import from_pretrained
from dallebaby_cli.drawing.sampler import Sampler
from dallebaby_cli.models.pictures import to_numpy, to_tensor
from dallebaby_cli.progress import ignore
from dallebaby_cli.quality import classifier, pretrained, scores
from dallebaby_cli.quality.features import Features
from dallebaby_cli.quality.figures import Evaluated
from dallebaby_cli.quality.pretrained import Sets
from dallebaby_cli.scenes import agreement
from dallebaby_cli.stages import judge_holdout, judge_labels
from dallebaby_cli.store import manifest
from dallebaby_cli.store.manifest import Manifest

ENCODED = 64  # pictures at a time
WAYS = {"centre": "all but the centre is kept", "top": "the rows above the centre are kept"}


def filled(
    home: Path, model: Path, pictures: int, way: str, config: SampleConfig
) -> dict[str, float]:
    """Distances of filled pictures from other real ones, by figure and network, and how often they
    are what their caption says; a quarter is masked, and one of WAYS says what is kept."""
    about, sampler = manifest.read(model), from_pretrained(model)
    assert about is not None, model
    scenes = manifest.of_scenes(home, about)
    return (_scenes if scenes else _labelled)(home, about, sampler, pictures, way, config)


def known(codes: Tensor, way: str) -> Tensor:
    """Of codes (B, G, G) those that are kept; -1 for others."""
    grid = codes.shape[1]
    start, side = (grid - grid // 2) // 2, grid // 2
    kept = codes.clone()
    if way == "centre":
        kept[:, start : start + side, start : start + side] = -1
    else:
        kept[:, start:] = -1
    return kept


def _scenes(
    home: Path, about: Manifest, sampler: Sampler, pictures: int, way: str, config: SampleConfig
) -> dict[str, float]:
    px, judge = sampler.image_tokenizer.image_px, EvaluateConfig().classifier
    asked, other = (agreement.ask(seed, pictures, "seen", 1) for seed in (0, 1))
    real, others = (
        to_tensor(classifier.render([a.scene for a in some], px)) for some in (asked, other)
    )
    drawn = _fill(sampler, [a.prompt for a in asked], real, way, config)
    reader = classifier.train(home, judge, px, sampler.device, ignore)
    answers = map(agreement.agreement, asked, classifier.read(reader, to_numpy(drawn)))
    right = agreement.shares(answers)["all"]
    return _far(sampler, others, drawn, None) | {"right, filled": right}


def _labelled(
    home: Path, about: Manifest, sampler: Sampler, pictures: int, way: str, config: SampleConfig
) -> dict[str, float]:
    done, settings = Evaluated(home), EvaluateConfig()
    images = judge_holdout.data_of(home, about, done.missing).images
    prepared = judge_labels.prepare(done, home, images, settings, sampler.device, ignore)
    assert prepared and prepared.judge, done.missing
    data = prepared.data
    asked = data.once(data.ask(pictures))
    mine = np.array([a.index for a in asked])
    sample = data.holdout.sample(len(data.holdout))
    others = sample[~np.isin(sample, mine)][: len(mine)]
    prompts = [data.holdout.captions(a.index)[0] for a in asked]
    drawn = _fill(sampler, prompts, data.holdout.read(mine), way, config)
    right = prepared.judge.read(drawn) == np.array([a.number for a in asked])
    compared = data.holdout.read(others if len(others) > 1 else mine)
    far = _far(sampler, compared, drawn, prepared.judge.features)
    return far | {"right, filled": float(right.mean())}


def _fill(
    sampler: Sampler, prompts: list[str], real: Tensor, way: str, config: SampleConfig
) -> Tensor:
    """Pictures (B, 3, P, P) of which a part is the real ones'."""
    parts = torch.split(real, ENCODED)
    codes = torch.cat([sampler.image_tokenizer.encode(part.to(sampler.device)) for part in parts])
    drawn = sampler.sketch(prompts, 1, 0, config, known=known(codes, way)).codes
    return to_tensor(sampler.paint(drawn))


def _far(sampler: Sampler, real: Tensor, drawn: Tensor, own: Features | None) -> dict[str, float]:
    rebuilt = scores.rebuild(sampler.image_tokenizer, real)
    found = pretrained.scores(Sets(real, rebuilt, drawn), [], sampler.device, "auto", own)
    return {f"{c.figure}, {c.network}": c.drawn for c in found.compared if c.drawn is not None}
