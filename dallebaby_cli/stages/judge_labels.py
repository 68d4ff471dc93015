"""A part of `evaluate`: whether a model draws the class that it is asked for, read by a judge that
learned the classes from the dataset's own training pictures."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dallebaby_cli.config import EvaluateConfig
from dallebaby_cli.drawing import each
from dallebaby_cli.drawing.sampler import Sampler
from dallebaby_cli.errors import MissingInput
from dallebaby_cli.models import collectives
from dallebaby_cli.models.pictures import to_numpy, to_tensor
from dallebaby_cli.models.tokenizers import ImageTokenizer
from dallebaby_cli.prep import contact
from dallebaby_cli.progress import Report
from dallebaby_cli.quality import labels, scores
from dallebaby_cli.quality.figures import Evaluated, Judged, OfClass, Row
from dallebaby_cli.quality.labels import Asked, Judge, Labelled
from dallebaby_cli.store import codec
from dallebaby_cli.store.shards import Shards
from dallebaby_cli.training import engine

KIND = "classes"
SAMPLES = "samples/evaluate-classes.png"
SHOWN = 5  # drawn pictures of each class on the sheet, beside a real one
ROWS = 100  # of the sheet


@dataclass(frozen=True)
class Prepared:
    """The pictures of a model that have labels, and in the first rank the judge of them."""

    data: Labelled
    judge: Judge | None


def prepare(
    done: Evaluated,
    home: Path,
    images: Sequence[Shards],
    config: EvaluateConfig,
    device: torch.device,
    report: Report,
) -> Prepared | None:
    """Find or train the judge; None, and a sentence, where the pictures make none."""
    try:
        if not images:
            raise MissingInput("the pictures that it learned from are not here as they were")
        data = labels.labelled(images)
    except MissingInput as error:
        done.missing.append(f"whether it draws the class that it is asked for is not read: {error}")
        return None
    if not engine.first():
        return Prepared(data, None)
    with collectives.alone():  # by itself, so that it is the same with any number of ranks
        return Prepared(data, labels.train(home, config.judge, data, device, report))


def judge(
    done: Evaluated,
    home: Path,
    prepared: Prepared,
    tokenizer: ImageTokenizer,
    sampler: Sampler | None,
    config: EvaluateConfig,
    report: Report,
) -> None:
    """Draw the classes, where there is a sampler, and read what was drawn; read the real pictures
    whose captions were drawn and rebuilt ones, too."""
    data = prepared.data
    asked = data.ask(config.pictures)
    prompts, drawn = [_caption(data, a) for a in asked], None
    if sampler and not all(prompts):
        done.missing.append("the hold-out pictures have no captions to draw, so no class is drawn")
    elif sampler:
        codes = each.draw(sampler, prompts, config.sampling, config.seed, KIND, report)
        drawn = sampler.paint(codes) if engine.first() else None
    if prepared.judge is None:
        return
    held = data.once(asked)
    real = data.holdout.read(np.array([a.index for a in held]))
    sets = {"real": (real, held), "rebuilt": (scores.rebuild(tokenizer, real), held)}
    if drawn is not None:
        sets = {"drawn": (to_tensor(drawn), asked), **sets}
    read = {name: prepared.judge.read(pictures) for name, (pictures, _) in sets.items()}
    right = {name: _shares(read[name], of) for name, (_, of) in sets.items()}
    means = {name: float(np.mean([*shares.values()])) for name, shares in right.items()}
    for name, (_, of) in sets.items():
        done.agreement.append(Row(KIND, name, len(of), {"class": means[name]}))
    done.classes.extend(_each(data.classes, asked, held, read, right))
    known, seen = len(data.classes), len(right["real"])
    done.judge = Judged(prepared.judge.folder, known, data.learned_from, seen, 1 / known)
    done.missing.extend(_caveats(data, seen, means["real"], len(held), config))
    if drawn is not None:
        path = home / SAMPLES
        _keep(path, data, asked, prompts, drawn, read["drawn"], real, held)
        done.samples.append(path)


def _caption(data: Labelled, asked: Asked) -> str:
    """One of the captions of the class's own pictures: each time it is asked for another."""
    captions = data.holdout.captions(asked.index)
    return captions[asked.turn % len(captions)] if captions else ""


def _shares(read: np.ndarray, asked: Sequence[Asked]) -> dict[int, float]:
    """Class → the share of its pictures that are read as it."""
    wanted = np.array([a.number for a in asked])
    return {int(n): float((read[wanted == n] == n).mean()) for n in np.unique(wanted)}


def _each(
    names: list[str],
    asked: list[Asked],
    held: list[Asked],
    read: dict[str, np.ndarray],
    right: dict[str, dict[int, float]],
) -> list[OfClass]:
    """A row for each class that was asked for."""
    drawn, real = Counter(a.number for a in asked), Counter(a.number for a in held)
    others: dict[int, Counter[int]] = {number: Counter() for number in drawn}
    for a, found in zip(asked, read.get("drawn", []), strict=False):
        others[a.number][int(found)] += found != a.number
    rows = []
    for number, share in right["real"].items():
        (taken_for, count), *_ = [*others[number].most_common(1), (0, 0)]
        rows.append(
            OfClass(
                name=names[number],
                asked=drawn[number] if "drawn" in read else 0,
                held_out=real[number],
                drawn=right["drawn"][number] if "drawn" in read else None,
                rebuilt=right["rebuilt"][number],
                real=share,
                taken_for=names[taken_for] if count else None,
            )
        )
    return rows


def _caveats(
    data: Labelled, asked: int, right: float, count: int, config: EvaluateConfig
) -> list[str]:
    """What a reader of the figures must know."""
    found = []
    if data.rare:
        found.append(
            f"{data.rare:,} classes with fewer than {labels.LEAST} training pictures are not judged"
        )
    there = sum(map(bool, map(len, data.held_out)))
    if there < len(data.classes):
        lost = len(data.classes) - there
        found.append(f"{lost:,} classes are not asked for: no hold-out picture shows one")
    if asked < there:
        found.append(
            f"{asked:,} of {there:,} classes are asked for; --pictures {there} asks for all"
        )
    warning = labels.unsure(right, 1 / len(data.classes), count, config.judge)
    return [*found, *([warning] if warning else [])]


def _keep(
    path: Path,
    data: Labelled,
    asked: list[Asked],
    prompts: list[str],
    drawn: np.ndarray,
    read: np.ndarray,
    real: Tensor,
    held: list[Asked],
) -> None:
    """A row for each class: a real picture, and the first drawn ones with what was asked and what
    was read."""
    rows: dict[int, list[tuple[bytes, str]]] = {}
    for a, picture in zip(held, to_numpy(real), strict=True):
        rows.setdefault(a.number, [(codec.png(picture), f"real: {data.classes[a.number]}")])
    for a, prompt, picture, found in zip(asked, prompts, drawn, read, strict=True):
        if len(rows[a.number]) <= SHOWN:
            told = f"{prompt} → {data.classes[found]}"
            rows[a.number].append((codec.png(picture), told))
    contact.write(path, [rows[number] for number in sorted(rows)[:ROWS]])
