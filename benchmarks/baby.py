"""Trains the baby: the small model inside the package, which draws until a person has trained one.

Runs the commands that anybody would, each of which goes on where it was when this is started again;
then puts the model into the package with its weights in half precision, judges what it has put
there, and writes the model card from what it finds. `--config` tries other settings.

    python benchmarks/baby.py [HOME] [--pictures 250000] [--config FILE.yaml] [--into FOLDER]
"""

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from dallebaby_cli import files
from dallebaby_cli.drawing.pretrained import BABY
from dallebaby_cli.errors import BadInput
from dallebaby_cli.models import device as devices
from dallebaby_cli.scenes import spec
from dallebaby_cli.scenes.agreement import QUESTIONS
from dallebaby_cli.store import manifest, weights
from dallebaby_cli.store.manifest import Manifest
from dallebaby_cli.training import log_reader

WEIGHTS = ("model.safetensors", "vae.safetensors")

CARD = """\
# The baby inside dallebaby

A transformer of {model_size} parameters and a discrete VAE of {vae_size}, which draw {px} px
pictures of `scenes`, dallebaby's embedded dataset, from a sentence. `dallebaby generate` takes them
where no model has been trained yet. They are what one command made, nothing chosen or touched up:

    make baby

| | |
|---|---|
| data | {count} drawn pictures, {train} to train on and {holdout} held out; none from elsewhere |
| pairs that training never shows | {pairs} |
| seeds | {seeds} |
| machine | {machine} |
| software | {software} |
| made on | {when} |
| licence | MIT, as dallebaby and the code that drew the pictures |

## How it was made

`make baby` runs these, one after the other:

{commands}

{runs}

Minutes are those of training, evaluations included. `config.json` has the shapes of both models,
`manifest.json` all settings of the transformer's run. The averaged weights are kept, and stored in
half precision (fp16): {size} together.

## Figures

From `dallebaby evaluate`, of the weights as they are stored here.

{figures}

What a classifier reads as it was asked for, which `evaluate` trains on renders of any pair. Of
"real" renders of the same scenes this is its own accuracy; of "rebuilt" ones, which went through
the dVAE, the most that drawn ones can reach. One picture for each prompt, none chosen.

{agreement}

## Limits

- It knows {things} things, {colours} colours and {backgrounds} backgrounds, one or two things in a
  picture and four relations between them, in the English of the captions that it learned from.
  Whatever else is asked for comes out as one of these.
- {px} px, flat colours, no people, no writing. It is there to be played with, and replaced:
  `dallebaby demo` trains a model of yours.
"""


def dallebaby(home: Path, *arguments: object) -> str:
    """One command line in a process of its own; what it prints. All ends where that fails or is
    stopped, which it is when this is."""
    command = [sys.executable, "-m", "dallebaby_cli", "--home", home, *arguments]
    print("$ dallebaby", *arguments, flush=True)
    with subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.PIPE, text=True
    ) as process:
        stops = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, lambda *_: process.terminate()) for number in stops]
        out = process.communicate()[0]
        for number, handler in zip(stops, before, strict=True):
            signal.signal(number, handler)
    if process.returncode:
        sys.exit(process.returncode)
    return out


def halved(path: Path) -> dict[str, Tensor]:
    """Tensors with their numbers in fp16. Raises BadInput if one is too large for that."""
    tensors = load_file(path)
    halves = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
    for name, half in halves.items():
        if half.is_floating_point() and not half.isfinite().all():
            raise BadInput(
                f"{path}: {name} has numbers as large as {tensors[name].abs().max():g} and fp16 "
                "ends at 65504; train it again with more weight decay, or store bf16 here"
            )
    return halves


def pack(run: Path, into: Path) -> None:
    """Put a finished transformer into the folder, its weights halved, sealed anew."""
    described = weights.read_model(run, "dalle")
    about = manifest.read(run)
    assert about is not None and about.complete, run
    halves = {name: halved(run / name) for name in WEIGHTS}
    for name, tensors in halves.items():
        weights.save_weights(into / name, tensors)
    shutil.copyfile(run / "tokenizer.json", into / "tokenizer.json")
    shapes = {part: described[part] for part in ("model", "vae")}
    manifest.write(into, replace(about, id=weights.write_model(into, "dalle", shapes)))


# ---------------------------------------------------------------- the model card


@dataclass(frozen=True)
class Made:
    """The folders of what was made, and the commands that made them."""

    images: Path
    vae: Path
    dalle: Path
    commands: list[str]


def card(made: Made, packed: Path, judged: dict[str, Any]) -> str:
    """README.md of the packed model, from its files, the manifests of what it was made from and the
    figures of `evaluate`."""
    images, vae, dalle = map(read, (made.images, made.vae, made.dalle))
    sizes = [sum(t.numel() for t in load_file(packed / name).values()) for name in WEIGHTS]
    seeds = [f"{about.config['seed']} ({about.kind})" for about in (images, vae, dalle)]
    columns = {
        "": ("dVAE", "transformer"),
        "---": ("---", "---"),
        "minutes": tuple(f"{minutes(run):.0f}" for run in (made.vae, made.dalle)),
        "steps": tuple(f"{about.counts['steps']:,}" for about in (vae, dalle)),
        "pictures a step": tuple(about.config["batch_size"] for about in (vae, dalle)),
        "learning rate": tuple(about.config["optim"]["lr"] for about in (vae, dalle)),
    }
    return CARD.format(
        model_size=f"{sizes[0] / 1e6:.1f} million",
        vae_size=f"{sizes[1] / 1e6:.1f} million",
        px=images.config["image_px"],
        count=f"{images.counts['accepted']:,}",
        train=f"{images.counts['train']:,}",
        holdout=f"{images.counts['holdout']:,}",
        pairs=", ".join(sorted(f"{colour} {thing}" for thing, colour in spec.HELD_OUT_PAIRS)),
        seeds=", ".join(seeds),
        machine=machine(),
        software=f"dallebaby {dalle.version}, torch {torch.__version__}",
        when=dalle.when[:10],
        commands="\n".join(f"    {command}" for command in made.commands),
        runs=table([name, *values] for name, values in columns.items()),
        size=files.human_bytes(sum((packed / name).stat().st_size for name in WEIGHTS)),
        figures=figures(judged),
        agreement=agreement(judged["agreement"]),
        things=len(spec.THINGS),
        colours=len(spec.COLOURS),
        backgrounds=len(spec.BACKGROUNDS),
    )


def read(folder: Path) -> Manifest:
    """The manifest of a folder that has one."""
    found = manifest.read(folder)
    assert found is not None, folder
    return found


def minutes(run: Path) -> float:
    """How long a run trained, however often it was stopped."""
    return log_reader.read(run / "log.jsonl").seconds / 60


def machine() -> str:
    """What this ran on."""
    cpuinfo, device = Path("/proc/cpuinfo"), devices.resolve("auto")
    about = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    named = re.search(r"model name\s*: (.*)", about)
    processor = named[1] if named else platform.machine()
    precision = devices.resolve_precision(device, "auto")
    return (
        f"{processor}, {os.cpu_count()} cores; trained on {devices.describe(device)}, {precision}"
    )


def figures(judged: dict[str, Any]) -> str:
    """The figures against the hold-out pictures."""
    held, rebuilt, far = judged["holdout"], judged["reconstruction"], judged["distance"]
    rows = {
        "hold-out bits per code": f"{held['bits_per_code']:.2f} (codes' frequencies alone: "
        f"{held['unigram_bits']:.2f}; nothing: {held['uniform_bits']:.2f})",
        "hold-out PSNR and SSIM of the dVAE": f"{rebuilt['psnr']:.1f} dB, {rebuilt['ssim']:.3f}",
        "codes used": f"{rebuilt['codes_used']:.0%}",
        "codes that differ from the nearest training picture's, median": f"drawn pictures "
        f"{far['drawn_median']:.0%}, held-out ones {far['holdout_median']:.0%}",
        "copies of a training picture, code by code": f"{far['drawn_copies']} of "
        f"{far['drawn_compared']} drawn pictures, {far['holdout_copies']} of "
        f"{far['holdout_compared']} held-out ones",
    }
    return table([["what", "figure"], ["---", "---"], *map(list, rows.items())])


def agreement(rows: list[dict[str, Any]]) -> str:
    """How often each question is answered as it was asked."""
    head = ["asked", "pictures", "of", *QUESTIONS]
    body = [
        [row["kind"], row["pictures"], row["count"]]
        + [f"{row['right'][q]:.1%}" if q in row["right"] else "" for q in QUESTIONS]
        for row in rows
    ]
    return table([head, ["---"] * len(head), *body])


def table(rows: Iterable[Sequence[object]]) -> str:
    """Cells as Markdown."""
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("home", type=Path, nargs="?", default=Path("experiments/baby"))
    parser.add_argument("--pictures", type=int, default=250_000)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--into", type=Path, default=BABY)
    options = parser.parse_args()
    config = ["--config", options.config] if options.config else []
    commands: list[str] = []

    def make(*arguments: object) -> Path:
        """Make an artefact, or go on with it; its folder, which is what is printed first."""
        words = [*arguments, *config]
        commands.append(" ".join(["dallebaby", *map(str, words)]))
        out = dallebaby(options.home, *words)
        print(out, end="", flush=True)
        return Path(out.splitlines()[0].rpartition(": ")[0])

    images = make("prep", "scenes", "--limit", options.pictures)
    vae = make("train-vae", "scenes", "--preset", "baby")
    tokens = make("encode", "scenes", "--vae", vae.name)
    dalle = make("train", tokens.name, "--preset", "baby")
    pack(dalle, options.into)
    judged = dallebaby(options.home, "evaluate", "--model", options.into, "--json", *config)
    made = Made(images, vae, dalle, commands)
    files.write_text(options.into / "README.md", card(made, options.into, json.loads(judged)))
    size = files.human_bytes(files.folder_bytes(options.into))
    print(f"{options.into}: {size}, with a model card (README.md)")


if __name__ == "__main__":
    main()
