"""The claims of the ancestor, tested: SGD collapses, Adam with clipping does not; and 128 px
on a grid of 16 x 16 codes loses more than 64 px on the same grid.

The stamps and `scenes`, 1,000 codes, the same minutes for every run, one core each. "at 64 px" is
the PSNR after both the pictures and their reconstructions are halved. The animations of the runs
with our own optimizer are kept as training-64.gif and training-128.gif.

    python benchmarks/dvae_claims.py STAMPS [HOME] [--minutes 2.5]
"""

import argparse
from pathlib import Path

import dvae_runs
import numpy as np
import torch
from dvae_runs import Outcome, Run
from PIL import Image, ImageSequence
from torch.nn import functional as F

from dallebaby_cli.drawing import pretrained
from dallebaby_cli.quality import metrics
from dallebaby_cli.store.shards import Shards
from dallebaby_cli.training.batches import Pictures

SHAPE = ("model.grid=16", "model.width=32", "eval_images=500")
WAYS = {
    "SGD, lr 0.01": ("optim.lr=0.01",),
    "SGD, lr 0.1": ("optim.lr=0.1",),
    "AdamW, lr 0.0015": ("optim.lr=0.0015", "optim.muon=false"),
    "Muon (ours), lr 0.005": (),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("stamps", type=Path)
    parser.add_argument("home", nargs="?", type=Path, default=Path("experiments"))
    parser.add_argument("--minutes", type=float, default=2.5)
    options = parser.parse_args()
    cases: list[tuple[str, int, str]] = []
    for source in ("stamps", "scenes"):
        for px in (64, 128):
            place = str(options.stamps) if source == "stamps" else source
            dvae_runs.prepare(options.home, f"{source}{px}", place, px)
        cases += [(source, 64, way) for way in WAYS]
        cases.append((source, 128, list(WAYS)[-1]))
    runs = [
        Run(
            f"{source}{px}-{number}",
            f"{source}{px}",
            options.minutes,
            (*SHAPE, *WAYS[way]),
            sgd=way.startswith("SGD"),
        )
        for number, (source, px, way) in enumerate(cases)
    ]
    outcomes = dvae_runs.train_side_by_side(options.home, runs)
    print("\n| pictures | optimizer | PSNR dB | at 64 px | of flat colours | SSIM | codes used |")
    print("|---|---|---|---|---|---|---|")
    for (source, px, way), outcome in zip(cases, outcomes, strict=True):
        found = outcome.figures
        if not found:
            print(f"| {source} {px} px | {way} | {outcome.warnings[-1]} | | | | |")
            continue
        print(
            f"| {source} {px} px | {way} | {found['psnr']:.1f} "
            f"| {at_64(options.home / 'images' / f'{source}{px}', outcome):.1f} "
            f"| {found['flat_psnr']:.1f} | {found['ssim']:.3f} | {found['codes_used']:.0%} |"
        )
        if source == "stamps" and way.startswith("Muon"):
            excerpt(outcome.folder / "training.gif", options.home / f"training-{px}.gif", px)


def excerpt(animation: Path, path: Path, px: int) -> None:
    """Some of the pictures, and half of the frames."""
    with Image.open(animation) as whole:
        size = (0, 0, whole.width * 32 // px, whole.height)
        frames = [frame.convert("RGB").crop(size) for frame in ImageSequence.Iterator(whole)]
    frames = [*frames[:-1:2], frames[-1]]
    pauses = [150] * (len(frames) - 1) + [3000]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=pauses, loop=0)


def at_64(images: Path, outcome: Outcome) -> float:
    """Hold-out PSNR in dB when both sides are brought to 64 px."""
    if not (outcome.folder / "model.safetensors").exists():
        return float("nan")
    model = pretrained.load_image_tokenizer(outcome.folder, torch.device("cpu"))
    pictures = Pictures([Shards(images)], "holdout")
    scores = []
    with torch.no_grad():
        for indices in np.array_split(np.arange(min(len(pictures), 500)), 10):
            shown = pictures.read(indices)
            both = (model.decode(model.encode(shown)), shown)
            small = [F.interpolate(side.float(), 64, mode="area").round() for side in both]
            scores.append(metrics.psnr(*(side.to(torch.uint8) for side in small)))
    return float(torch.cat(scores).mean())


if __name__ == "__main__":
    main()
