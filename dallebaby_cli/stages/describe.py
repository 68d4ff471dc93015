"""dalle/RUN + pictures → the captions that fit them best: a model that draws, read backwards.

A caption fits a picture by log p(codes | caption) - log p(codes | no caption): how much likelier
it makes just this picture. The model chooses among captions that are given, it writes none.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dallebaby_cli.config import DescribeConfig, SampleConfig
from dallebaby_cli.drawing import likelihood
from dallebaby_cli.drawing.pretrained import from_pretrained, model_folder
from dallebaby_cli.drawing.sampler import Sampler
from dallebaby_cli.errors import BadInput, MissingInput, UsageError
from dallebaby_cli.interrupt import Interrupt
from dallebaby_cli.prep import given
from dallebaby_cli.progress import Note, Report
from dallebaby_cli.scenes import spec
from dallebaby_cli.store import extra_captions, manifest
from dallebaby_cli.store.manifest import Manifest
from dallebaby_cli.store.tokens import Tokens
from dallebaby_cli.training.batches import Captioned

READ = 100_000  # training pictures whose captions are counted
NAT = 1.4426950408889634  # bits


@dataclass(frozen=True)
class Guess:
    """A caption that was tried with a picture."""

    caption: str
    bits: float
    """log2 p(codes | caption) - log2 p(codes | no caption)"""
    share: float
    """probability that it is this one, if it is one of those tried and each as likely before"""


@dataclass(frozen=True)
class Described:
    """A picture, and the captions that were tried with it, those that fit best first."""

    picture: Path
    guesses: list[Guess]
    typical_bits: float
    """of the caption in the middle: as much as one picked at random can be expected to have"""


@dataclass(frozen=True)
class Descriptions:
    """What a model makes of some pictures."""

    model: Path
    among: str
    """where the captions that were tried are from"""
    captions: int
    pictures: list[Described]


def describe(
    home: Path,
    config: DescribeConfig,
    pictures: list[Path],
    *,
    model: Path | None = None,
    among: list[str] | None = None,
    device: str = "auto",
    report: Report,
) -> Descriptions:
    """Rank captions for each picture, which is cropped as `prep` does: those `among` which to
    choose, or the most frequent ones that the model (if none is named: the newest, or the baby)
    was trained on."""
    with Interrupt(at_once="stopped before all was described; run it again to begin anew"):
        folder = model_folder(home, model, report)
        source, captions = "those given", [*dict.fromkeys(among or ())]
        sampler = from_pretrained(folder, device)
        if among is None:
            source, captions = _learned(home, folder, sampler, config.captions)
        if len(captions) < 2:
            raise UsageError(
                f"there is nothing to choose among: {len(captions)} captions; give two or more "
                "with --among FILE, one a line"
            )
        report(Note(f"describe: with {folder}, among {len(captions):,} captions: {source}"))
        px = sampler.image_tokenizer.image_px
        codes = torch.stack([sampler.encode(given.read(path).square(px)) for path in pictures])
        sampling = SampleConfig(guidance=1, batch_size=config.batch_size)
        about = ("describe", "batch_size")
        found = likelihood.log_p(sampler, codes, [*captions, ""], sampling, *about, report)
        described = [
            _ranked(path, captions, nats) for path, nats in zip(pictures, found, strict=True)
        ]
        return Descriptions(folder, source, len(captions), described)


def _ranked(path: Path, captions: list[str], nats: Tensor) -> Described:
    """By log p (C + 1,) with each caption and, at last, with none."""
    bits = (nats[:-1] - nats[-1]).double() * NAT
    shares = nats[:-1].double().softmax(0)
    order = bits.argsort(descending=True, stable=True).tolist()
    guesses = [Guess(captions[n], float(bits[n]), float(shares[n])) for n in order]
    return Described(path, guesses, float(bits.median()))


def _learned(home: Path, folder: Path, sampler: Sampler, most: int) -> tuple[str, list[str]]:
    """Captions that a model has met, and where they are from. Raises MissingInput if nothing says
    which."""
    about = manifest.read(folder)
    try:
        if about is None:
            raise MissingInput(f"{folder} has no manifest.json")
        tokens = _tokens(home, about)
    except (MissingInput, BadInput) as error:
        if about and manifest.of_scenes(home, about):
            return "one thing of each colour that `scenes` draws", spec.plain_captions()[:most]
        raise MissingInput(
            f"the captions that {folder} learned from are not here ({error}); give some to choose "
            "among with --among FILE, one a line"
        ) from error
    shape = sampler.model.config
    captioned = Captioned(tokens, "train", sampler.text_tokenizer, shape.text_tokens)
    source = f"the most frequent ones of {', '.join(source.name for source in tokens)}"
    return source, captioned.frequent_captions(READ, most)


def _tokens(home: Path, about: Manifest) -> list[Tokens]:
    """What a model was trained on, if that is still here. Raises MissingInput or BadInput."""
    found = []
    for name, identity in about.parents.items():
        if name.startswith("tokens/"):
            folder, tokens = manifest.find(home, *name.split("/", 1))
            if tokens.id != identity:
                raise MissingInput(f"{name} has changed since")
            source = next(p for p in tokens.parents if p.startswith("images/"))
            found.append(Tokens(folder, extra_captions.learned(home, source, about)))
    if not found:
        raise MissingInput(f"{about.name} names no tokens")
    return found
