"""A part of `evaluate`: whether a model of drawn scenes draws what it is asked for, read by a
classifier that knows scenes."""

from pathlib import Path

import numpy as np

from dallebaby_cli.config import EvaluateConfig
from dallebaby_cli.drawing import each
from dallebaby_cli.drawing.sampler import Sampler
from dallebaby_cli.models import collectives
from dallebaby_cli.models.pictures import to_numpy, to_tensor
from dallebaby_cli.models.tokenizers import ImageTokenizer
from dallebaby_cli.prep import contact
from dallebaby_cli.progress import Report
from dallebaby_cli.quality import classifier, scores
from dallebaby_cli.quality.figures import Evaluated, Row
from dallebaby_cli.scenes import agreement
from dallebaby_cli.scenes.agreement import Asked, Reading
from dallebaby_cli.scenes.spec import Pairs
from dallebaby_cli.store import codec, manifest
from dallebaby_cli.store.manifest import Manifest
from dallebaby_cli.training import engine

SHOWN = (4, 6)  # rows and columns of the pictures that are kept of each kind
SAMPLES = "samples/evaluate"
KINDS: dict[str, tuple[Pairs, int]] = {
    "seen pairs": ("seen", 1),
    "held-out pairs": ("held-out", 1),
    "two things": ("seen", 2),
}
"""What is asked for: the row's name → which pairs, how many things."""


def is_scenes(home: Path, about: Manifest) -> bool:
    """Whether a model learned from drawn scenes alone, by its pictures' manifests if they are still
    there, else by their names."""
    drawn = []
    for parent in (p for p in about.parents if p.startswith(("tokens/", "images/"))):
        name = parent.split("/")[1].partition("@")[0]  # of captions beside pictures, too
        found = manifest.read_if_whole(manifest.artefact(home, "images", name))
        drawn.append(manifest.is_scenes(found) if found else name == "scenes")
    return all(drawn) and bool(drawn)


def judge(
    done: Evaluated,
    home: Path,
    tokenizer: ImageTokenizer,
    sampler: Sampler | None,
    config: EvaluateConfig,
    report: Report,
) -> None:
    """Draw what is asked and read it, where there is a sampler; read real renders of the same
    scenes and rebuilt ones, too."""
    side = tokenizer.image_px
    reader = None
    if engine.first():  # by itself, so that it is the same with any number of ranks
        with collectives.alone():
            reader = classifier.train(home, config.classifier, side, tokenizer.device, report)
    for kind, (pairs, things) in KINDS.items():
        asked = agreement.ask(config.seed, config.pictures, pairs, things)
        sets = {}
        if sampler:
            prompts = [a.prompt for a in asked]
            codes = each.draw(sampler, prompts, config.sampling, config.seed, kind, report)
            if engine.first():
                sets["drawn"] = sampler.paint(codes)
        if reader is None:
            continue
        sets["real"] = classifier.render([a.scene for a in asked], side)
        sets["rebuilt"] = to_numpy(scores.rebuild(tokenizer, to_tensor(sets["real"])))
        for name, pictures in sets.items():
            read = classifier.read(reader, pictures)
            answers = map(agreement.agreement, asked, read)
            done.agreement.append(Row(kind, name, len(read), agreement.shares(answers)))
            if name == "drawn":
                path = home / f"{SAMPLES}-{kind.replace(' ', '-')}.png"
                _keep(path, pictures, asked, read)
                done.samples.append(path)


def _keep(path: Path, drawn: np.ndarray, asked: list[Asked], read: list[Reading]) -> None:
    """The first drawn pictures, each with what was asked and what was read."""
    rows, columns = SHOWN
    cells = [
        (codec.png(picture), f"{a.prompt} → {r}")
        for picture, a, r in zip(drawn[: rows * columns], asked, read, strict=False)
    ]
    contact.write(path, [cells[i : i + columns] for i in range(0, len(cells), columns)])
