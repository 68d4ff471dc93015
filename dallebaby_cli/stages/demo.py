"""Every stage after the other on `scenes`: from nothing to pictures."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dallebaby_cli.progress import Report
from dallebaby_cli.scenes import spec
from dallebaby_cli.stages.encode import encode
from dallebaby_cli.stages.generate import Model, generate
from dallebaby_cli.stages.prep import prep
from dallebaby_cli.stages.train import train
from dallebaby_cli.stages.train_vae import train_vae

CONFIGS = ("prep", "train-vae", "encode", "train", "generate")
VAE_SHARE = 0.3  # of the minutes; the transformer has the rest
ASKED = 40  # pictures whose colour is checked
SHOWN = 5  # prompts in the grid, a row each
COLUMNS = 8


@dataclass(frozen=True)
class Shown:
    """What the demo ends with."""

    grid: Path
    prompts: list[str]
    bits_per_code: float
    unigram_bits: float
    uniform_bits: float
    colour_right: int
    colour_asked: int


def demo(
    home: Path, configs: Mapping[str, Any], minutes: float, *, device: str, report: Report
) -> Shown:
    """Prepare, train, encode, train, generate; then count how often an asked colour is drawn."""
    vae_config = replace(configs["train-vae"], minutes=minutes * VAE_SHARE)
    dalle_config = replace(configs["train"], minutes=minutes * (1 - VAE_SHARE))
    images = prep(home, "scenes", configs["prep"], report=report).manifest.name
    vae = train_vae(home, vae_config, [images], preset="scenes", device=device, report=report)
    tokens = encode(
        home, configs["encode"], [images], vae=vae.manifest.name, device=device, report=report
    )[0]
    dalle = train(
        home, dalle_config, [tokens.manifest.name], preset="scenes", device=device, report=report
    )
    figures = dalle.manifest.counts

    model = Model(dalle.folder, device)
    asked = spec.prompts(seed=0, n=ASKED)
    checked = generate(
        home,
        configs["generate"],
        [prompt for prompt, _ in asked],
        n=1,
        name="demo-colours",
        seed=0,
        model=model,
        report=report,
    )
    right = sum(
        spec.colour_of(picture) == colour
        for picture, (_, colour) in zip(checked.pictures, asked, strict=True)
    )
    prompts = ["a red car", *dict.fromkeys(prompt for prompt, _ in asked)][:SHOWN]
    drawn = generate(
        home,
        configs["generate"],
        prompts,
        n=COLUMNS,
        name="demo",
        seed=0,
        model=model,
        report=report,
    )
    return Shown(
        grid=drawn.grid,
        prompts=prompts,
        bits_per_code=figures["bits_per_code"],
        unigram_bits=figures["unigram_bits"],
        uniform_bits=figures["uniform_bits"],
        colour_right=right,
        colour_asked=len(asked),
    )
