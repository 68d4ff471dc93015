"""dalle/RUN or vae/RUN → figures: how good a finished model is, whether it draws what is asked."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dallebaby_cli.config import EvaluateConfig
from dallebaby_cli.drawing import fitting
from dallebaby_cli.drawing.pretrained import (
    from_pretrained,
    load_image_tokenizer,
    model_folder,
    vae_folder,
)
from dallebaby_cli.drawing.sampler import Drawing, Sampler
from dallebaby_cli.errors import BadInput, Mismatch, MissingInput
from dallebaby_cli.interrupt import Interrupt
from dallebaby_cli.models import collectives
from dallebaby_cli.models import device as devices
from dallebaby_cli.models.pictures import to_numpy, to_tensor
from dallebaby_cli.models.tokenizers import ImageTokenizer
from dallebaby_cli.prep import contact
from dallebaby_cli.progress import Note, Progress, Report
from dallebaby_cli.quality import classifier, features, metrics, pretrained, scores
from dallebaby_cli.quality.pretrained import Compared
from dallebaby_cli.scenes import agreement
from dallebaby_cli.scenes.agreement import Asked, Reading
from dallebaby_cli.scenes.spec import Pairs
from dallebaby_cli.store import extra_captions, manifest
from dallebaby_cli.store.manifest import Manifest
from dallebaby_cli.store.shards import Shards
from dallebaby_cli.store.tokens import Tokens
from dallebaby_cli.training import engine
from dallebaby_cli.training.batches import Captioned, Pictures

BATCH = 64  # of the hold-out figures
SHOWN = (4, 6)  # rows and columns of the pictures that are kept of each kind
SAMPLES = "samples/evaluate"
KINDS: dict[str, tuple[Pairs, int]] = {
    "seen pairs": ("seen", 1),
    "held-out pairs": ("held-out", 1),
    "two things": ("seen", 2),
}
"""What is asked for: the row's name → which pairs, how many things."""


@dataclass(frozen=True)
class Row:
    """How often pictures of one kind answer what was asked."""

    kind: str
    pictures: str
    """"drawn"; or, for what the classifier itself can do, "real" renders of the same scenes, or
    "rebuilt" ones, which the image tokenizer encoded and decoded: the most that drawn ones can
    reach"""
    count: int
    right: dict[str, float]
    """share of each of agreement.QUESTIONS"""


@dataclass(frozen=True)
class Evaluated:
    """All figures of one model; what could not be measured is missing, with a sentence."""

    model: Path
    vae: Path | None = None
    """whose decoder paints, if not the model's own"""
    holdout: dict[str, float] = field(default_factory=dict)
    reconstruction: dict[str, float] = field(default_factory=dict)
    distance: dict[str, float] = field(default_factory=dict)
    """shares of codes that differ from the nearest training picture's"""
    agreement: list[Row] = field(default_factory=list)
    pretrained: dict[str, float] = field(default_factory=dict)
    compared: list[Compared] = field(default_factory=list)
    """how far sets of pictures are from the hold-out ones, to pretrained networks"""
    missing: list[str] = field(default_factory=list)
    samples: list[Path] = field(default_factory=list)
    """drawn pictures with what was asked and what was read"""


@dataclass(frozen=True)
class Data:
    """What a model was trained on, unchanged since."""

    tokens: list[Tokens]
    images: list[Shards]


def evaluate(
    home: Path,
    config: EvaluateConfig,
    *,
    model: Path | None = None,
    vae: str | None = None,
    only_vae: str | None = None,
    device: str = "auto",
    report: Report,
) -> Evaluated:
    """Judge a trained transformer (if none is named: the newest, or the baby) with all that is at
    hand; what it draws is painted by the decoder of the dVAE run `vae`, if one is named. Or judge
    the dVAE run `only_vae` instead. Several ranks share what is drawn, and the first one judges: it
    alone has all figures."""
    with Interrupt(at_once="stopped before all was judged; run it again to begin anew"):
        if config.kid_network != "auto":  # one that was asked for is there, or nothing is begun
            features.load(config.kid_network, engine.device(device))
        if only_vae is None:
            done = _evaluate(home, config, model, vae_folder(home, vae), device, report)
        else:
            done = _evaluate_vae(home, config, only_vae, device, report)
        engine.wait()
    return done


def _evaluate(
    home: Path,
    config: EvaluateConfig,
    model: Path | None,
    vae: Path | None,
    device: str,
    report: Report,
) -> Evaluated:
    folder = model_folder(home, model, report)
    sampler = from_pretrained(folder, str(engine.device(device)), vae)
    drawn = len(KINDS) * config.pictures // engine.world()
    if fitting.pays_to_compile(drawn, sampler.device):
        sampler = replace(sampler, compiled=True)
    about = manifest.read(folder)
    if about is None:
        raise MissingInput(f"{folder} has no manifest.json, which says what it was trained on")
    painted = f" with the decoder of {vae}" if vae else ""
    report(Note(f"evaluate: {folder}{painted}, {config.pictures} pictures of each kind"))
    done = Evaluated(folder, vae)
    try:
        data = _data(home, about, done.missing)
        for source in data.tokens:
            source.require(sampler.model.config.codes, sampler.model.config.grid)
    except (BadInput, MissingInput, Mismatch) as error:
        why = "which need what it was trained on"
        done.missing.append(f"no hold-out figures, {why}: {error}")
    else:
        _judge_holdout(done, sampler, data, config, report)
    if _is_scenes(home, about):
        _judge_agreement(done, home, sampler.image_tokenizer, sampler, config, report)
    else:
        done.missing.append("prompt agreement is read off drawn scenes only, so not here")
    return done


def _evaluate_vae(
    home: Path, config: EvaluateConfig, vae: str, device: str, report: Report
) -> Evaluated:
    """What holds of an image tokenizer without a transformer: how pictures come back."""
    folder, about = manifest.find(home, "vae", vae)
    tokenizer = load_image_tokenizer(folder, engine.device(device))
    done = Evaluated(folder)
    if not engine.first():
        return done
    report(Note(f"evaluate: {folder}, {config.pictures} pictures of each kind"))
    images = [p for p in about.parents.items() if p[0].startswith("images/")]
    pictures = Pictures([Shards(_same(home, *parent)[0]) for parent in images], "holdout")
    if not len(pictures):
        raise MissingInput(f"{', '.join(about.parents)} hold nothing out")
    done.reconstruction.update(_score_rebuilt(tokenizer, pictures, config, report))
    _judge_pictures(done, tokenizer, pictures, config)
    if _is_scenes(home, about):
        _judge_agreement(done, home, tokenizer, None, config, report)
    return done


# ---------------------------------------------------------------- against the hold-out pictures


def _data(home: Path, about: Manifest, missing: list[str]) -> Data:
    """The tokens of a model, and the pictures that they were made from, if those are still there.
    Raises BadInput, MissingInput or Mismatch."""
    tokens, images = [], []
    for name, identity in about.parents.items():
        if not name.startswith("tokens/"):
            continue
        folder, found = _same(home, name, identity)
        ((source, source_id),) = (p for p in found.parents.items() if p[0].startswith("images/"))
        tokens.append(Tokens(folder, extra_captions.read(home / source).by_key))
        try:
            images.append(Shards(_same(home, source, source_id)[0]))
        except (BadInput, MissingInput, Mismatch) as error:
            missing.append(f"no PSNR, FID or CLIP score: {error}")
    if not sum(len(t.rows("holdout")) for t in tokens):
        raise MissingInput(f"{', '.join(about.parents)} hold nothing out")
    return Data(tokens, images if len(images) == len(tokens) else [])


def _same(home: Path, name: str, identity: str) -> tuple[Path, Manifest]:
    """The artefact "KIND/NAME", as it was. Raises BadInput, MissingInput or Mismatch."""
    folder, found = manifest.find(home, *name.split("/", 1))
    if found.id != identity:
        raise Mismatch(f"{name} has changed since, so what it holds out may have been trained on")
    return folder, found


@torch.no_grad()
def _judge_holdout(
    done: Evaluated, sampler: Sampler, data: Data, config: EvaluateConfig, report: Report
) -> None:
    """Fill in what needs the model's own data."""
    training, captioned = (
        Captioned(data.tokens, split, sampler.text_tokenizer, sampler.model.config.text_tokens)
        for split in ("train", "holdout")
    )
    pictures = Pictures(data.images, "holdout") if data.images else None
    if engine.first():
        _score_holdout(done, sampler, training, captioned, pictures, config, report)
    captions = captioned.first_captions(config.pictures)
    if not captions:
        done.missing.append("the hold-out pictures have no captions to draw, so nothing is drawn")
        return
    codes, drawn = _draw(sampler, captions, "hold-out captions", config, report)
    if not engine.first():
        return
    _judge_distance(done, codes, training, captioned, report)
    if pictures:
        _judge_pictures(done, sampler.image_tokenizer, pictures, config, to_tensor(drawn), captions)


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
        done.reconstruction.update(
            _score_rebuilt(sampler.image_tokenizer, pictures, config, report)
        )
    report(Progress("hold-out", count, count, "images"))


def _score_rebuilt(
    tokenizer: ImageTokenizer, pictures: Pictures, config: EvaluateConfig, report: Report
) -> dict[str, float]:
    def rebuild(size: int) -> dict[str, float]:
        return scores.reconstruction(tokenizer, pictures, config.holdout_pictures, size)

    with torch.no_grad(), devices.autocast(tokenizer.device, "auto"):
        return fitting.halving(rebuild, BATCH, "rebuilding", "holdout_pictures", report)


def _judge_pictures(
    done: Evaluated,
    tokenizer: ImageTokenizer,
    pictures: Pictures,
    config: EvaluateConfig,
    drawn: Tensor | None = None,
    captions: Sequence[str] = (),
) -> None:
    """Fill in what pretrained networks make of real, rebuilt and drawn pictures."""
    real = pictures.read(pictures.sample(config.pictures))
    judged = pretrained.scores(
        real,
        _rebuild(tokenizer, real),
        drawn,
        [*captions],
        tokenizer.device,
        config.kid_network,
    )
    done.pretrained.update(judged.figures)
    done.compared.extend(judged.compared)
    done.missing.extend(judged.missing)


def _judge_distance(
    done: Evaluated, codes: Tensor, training: Captioned, held_out: Captioned, report: Report
) -> None:
    """How near the training pictures the drawn ones are, beside as many held-out ones, which no
    model drew: much nearer is copying."""
    others = held_out.read_to_score(held_out.sample(len(codes)))[1]
    both = torch.cat((codes, others.to(codes.device)))
    total = len(training)
    nearest = metrics.nearest(
        both, training.codes(), lambda done: report(Progress("distance", done, total, "images"))
    )
    for name, part in (("drawn", nearest[: len(codes)]), ("holdout", nearest[len(codes) :])):
        done.distance[f"{name}_median"] = float(np.median(part))
        done.distance[f"{name}_least"] = float(part.min())
        done.distance[f"{name}_copies"] = int((part == 0).sum())
        done.distance[f"{name}_compared"] = len(part)


# ---------------------------------------------------------------- against what was asked


def _is_scenes(home: Path, about: Manifest) -> bool:
    """Whether a model learned from drawn scenes alone, by its pictures' manifests if they are still
    there, else by their names."""
    drawn = []
    for parent in (p for p in about.parents if p.startswith(("tokens/", "images/"))):
        name = parent.partition("/")[2].partition("@")[0]
        found = manifest.read_if_whole(manifest.artefact(home, "images", name))
        drawn.append(manifest.is_drawn(found) if found else name == "scenes")
    return all(drawn) and bool(drawn)


def _judge_agreement(
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
    judge = None
    if engine.first():  # by itself, so that it is the same with any number of ranks
        with collectives.alone():
            judge = classifier.train(home, config.classifier, side, tokenizer.device, report)
    for kind, (pairs, things) in KINDS.items():
        asked = agreement.ask(config.seed, config.pictures, pairs, things)
        sets = {}
        if sampler:
            sets["drawn"] = _draw(sampler, [a.prompt for a in asked], kind, config, report)[1]
        if judge is None:
            continue
        sets["real"] = classifier.render([a.scene for a in asked], side)
        sets["rebuilt"] = to_numpy(_rebuild(tokenizer, to_tensor(sets["real"])))
        for name, pictures in sets.items():
            read = classifier.read(judge, pictures)
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
        (_png(picture), f"{a.prompt} → {r}")
        for picture, a, r in zip(drawn[: rows * columns], asked, read, strict=False)
    ]
    contact.write(path, [cells[i : i + columns] for i in range(0, len(cells), columns)])


def _png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


# ---------------------------------------------------------------- pictures


def _draw(
    sampler: Sampler, prompts: list[str], kind: str, config: EvaluateConfig, report: Report
) -> tuple[Tensor, np.ndarray]:
    """Codes (B, N) and, in the first rank, pictures (B, P, P, 3) uint8 of B prompts, one each,
    none chosen."""
    sampling, mine = config.sampling, len(range(len(prompts))[engine.share()])
    size = max(min(fitting.at_a_time(sampler.model.config, sampling, sampler.device), mine), 1)

    def watch(drawing: Drawing) -> None:
        done = drawing.done * len(prompts) / mine
        report(Progress(f"draw {kind}", done, len(prompts), "images"))

    def draw(size: int) -> Tensor:
        few = replace(sampling, batch_size=size)
        return sampler.sketch(prompts, 1, config.seed, few, watch=watch, together=True).codes

    codes = fitting.halving(draw, size, "drawing", "sampling.batch_size", report).to(sampler.device)
    return codes.flatten(1), sampler.paint(codes) if engine.first() else np.empty(0, np.uint8)


@torch.no_grad()
def _rebuild(tokenizer: ImageTokenizer, pictures: Tensor) -> Tensor:
    """What the tokenizer makes of pictures, uint8 (B, 3, P, P) both."""
    parts = (part.to(tokenizer.device) for part in torch.split(pictures, BATCH))
    return torch.cat([tokenizer.decode(tokenizer.encode(part)).cpu() for part in parts])
