"""A part of `evaluate`: whether what a model draws is copied from its training pictures, with the
nearest pairs side by side."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from dallebaby_cli.config import EvaluateConfig
from dallebaby_cli.errors import BadInput, MissingInput
from dallebaby_cli.models.pictures import to_numpy
from dallebaby_cli.models.tokenizers import ImageTokenizer
from dallebaby_cli.prep import contact
from dallebaby_cli.progress import Progress, Report
from dallebaby_cli.quality import memorisation, pretrained
from dallebaby_cli.quality.features import Features
from dallebaby_cli.quality.figures import Evaluated, Pair
from dallebaby_cli.quality.memorisation import Drawn, Near
from dallebaby_cli.store.codec import png

SHEET = "samples/evaluate-nearest.png"
SHOWN = 8  # pairs
PAIRS_A_ROW = 2


def judge(
    done: Evaluated,
    home: Path,
    tokenizer: ImageTokenizer,
    drawn: Drawn,
    own: Features | None,
    config: EvaluateConfig,
    report: Report,
) -> None:
    """Fill in how near to training pictures the drawn ones are, beside as many held-out ones, which
    no model drew: much nearer is copying. Where no pretrained network is, `own` looks."""
    training, held_out, codes = drawn.training, drawn.held_out, drawn.codes.flatten(1)
    others = memorisation.as_trained(held_out, len(codes))

    def watch(task: str, total: int) -> Callable[[int], None]:
        return lambda count: report(Progress(task, count, total, "images"))

    near = memorisation.in_codes(codes, others, training, watch("distance", len(training)))
    done.distance.update(near.figures())
    network, seen = _network(config.kid_network, tokenizer.device, own), None
    if network is None:
        done.missing.append(
            "the nearest training pictures are found by codes alone: KID has no network either"
        )
    else:
        known = memorisation.worth_a_look(near, training.sample(config.near_pictures))
        seen = memorisation.in_features(
            *(codes, others, training, tokenizer, network.pooled, known),
            watch("nearest", len(known)),
        )
        done.distance_seen[network.name] = seen.figures()
    _show(done, home, tokenizer, drawn, near, seen)


def _network(name: str, device: torch.device, own: Features | None) -> Features | None:
    try:
        return pretrained.load_judge(name, device)
    except (MissingInput, BadInput):
        return own if name == "auto" else None


def _show(
    done: Evaluated,
    home: Path,
    tokenizer: ImageTokenizer,
    drawn: Drawn,
    near: Near,
    seen: Near | None,
) -> None:
    """The nearest pairs of all, the drawn one left, each with its words."""
    by = seen or near
    nearest = np.argsort(by.drawn, kind="stable")[:SHOWN]
    ours = drawn.codes.flatten(1)[nearest].cpu()
    theirs = memorisation.codes_of(drawn.training, by.place[nearest], by.view[nearest])
    differ = (ours != theirs).float().mean(1).tolist()
    captions = memorisation.captions_of(drawn.training, by.place[nearest])
    for place, caption, codes_differ in zip(nearest, captions, differ, strict=True):
        apart = float(seen.drawn[place]) if seen else None
        done.nearest.append(Pair(drawn.prompts[place], caption, codes_differ, apart))
    left, right = (to_numpy(memorisation.paint(tokenizer, codes)) for codes in (ours, theirs))
    cells = []
    for pair, mine, known in zip(done.nearest, left, right, strict=True):
        cells += [(png(mine), f"drawn: {pair.prompt}"), (png(known), f"trained on: {pair.caption}")]
    width = 2 * PAIRS_A_ROW
    path = home / SHEET
    contact.write(path, [cells[i : i + width] for i in range(0, len(cells), width)])
    done.samples.append(path)
