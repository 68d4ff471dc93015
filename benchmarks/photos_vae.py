"""Tokenizers of photographs beside one another: each trains for the same minutes with the same
threads on the same folder, one after the other, and rebuilds the same hold-out pictures.

    python benchmarks/photos_vae.py FOLDER [HOME] --minutes 10 [--px 32] [--seeds 0 1 2]
        [--only ROW ...] [--row "NAME: SETTING SETTING"]

FOLDER has a folder for each class. Prints a Markdown table: PSNR, codes used, and the distance from
photographs (KID × 1000, see photo_judges.py) in two networks, of pictures as they are rebuilt and
of pictures with 10 % of the codes replaced at random; beside it that of real pictures, and of real
ones blurred to the PSNR of the first row. HOME keeps what each row came to, so that none is trained
twice, and gets sheet.png (16 pictures, a line a row), pairs.png (40 blind pairs of the first two
rows, the real picture between them), pairs-blind.png (without it) and their key, pairs.json.

--row adds a row of ours with --set SETTING each. --steps makes it all a miniature.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import baseline_environment
import numpy as np
import photo_judges
import rows
import torch
from baby import dallebaby, minutes, table
from baselines import rebuilding
from photo_judges import BASELINES, Judges, Photos
from PIL import Image, ImageDraw
from rows import spread
from torchvision.transforms import functional as vision

from dallebaby_cli.drawing.pretrained import load_image_tokenizer
from dallebaby_cli.store import manifest
from dallebaby_cli.store.pictures import grid, write_png

SHOWN, PAIRS, PAIRS_ACROSS, LARGE_PX = 16, 40, 4, 96
LONGEST = 10**9
JUDGE = "efficientnet-lite0"


@dataclass(frozen=True)
class Row:
    """A tokenizer."""

    title: str
    settings: tuple[str, ...] = ()
    """of `train-vae`, or the options of the program"""
    program: str = ""
    """in baselines/, if it is none of ours"""


FEW = "model.levels=[8,5,5,5]"
ROWS = {
    "pixel": Row("dallebaby, 1,000 codes, pixel loss only", ("finish.share=0", FEW)),
    "few": Row("dallebaby, 1,000 codes", (FEW,)),
    "default": Row("**dallebaby**", ("model.levels=[8,8,8,5,5,5]",)),  # were the default another
    "dalle-pytorch": Row("DALLE-pytorch's DiscreteVAE", program="dalle_pytorch_vae.py"),
    "vqgan": Row("VQGAN (perceptual: EfficientNet-Lite2)", program="vqgan.py"),
    "vqgan-fast": Row("VQGAN, ten times its rate", ("--rate=4.5e-5",), "vqgan.py"),
}
USUAL = ("pixel", "few", "default", "dalle-pytorch", "vqgan")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    arguments(parser, ROWS)
    return parser.parse_args()


def arguments(parser: argparse.ArgumentParser, there: Iterable[str]) -> None:
    """Those that photos.py has, too, if there are such rows."""
    parser.add_argument("folder", type=Path)
    parser.add_argument("home", nargs="?", type=Path, default=Path("experiments"))
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--only", nargs="+", metavar="ROW", help=", ".join(there))
    parser.add_argument("--row", action="append", default=[], metavar="NAME: SETTING ...")
    parser.add_argument("--px", type=int, default=32)
    parser.add_argument("--grid", type=int, help="codes along a side; else a quarter of the pixels")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="others have the first")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--pictures", type=int, default=2500, help="of each side, judged")
    parser.add_argument("--judges", nargs="+", choices=photo_judges.NAMES)
    parser.add_argument("--judge-steps", type=int, default=800)
    parser.add_argument("--steps", type=int, help="train all of them so long, in this environment")


def begin(options: argparse.Namespace) -> tuple[Photos, Judges]:
    """What rows need."""
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # of all processes
    torch.set_num_threads(options.threads)
    options.grid = options.grid or options.px // 4
    photos = photo_judges.prepare(options.home, options.folder, options.px, options.pictures)
    names = options.judges or [*photo_judges.NAMES]
    return photos, Judges(photos, names, options.judge_steps)


def rows_asked(
    options: argparse.Namespace, there: Mapping[str, Row] = ROWS, usual: Iterable[str] = USUAL
) -> dict[str, Row]:
    """Those of the rows that are `there`, and of those that are given, by name, in order."""
    more = {
        name: Row(f"dallebaby, {' '.join(settings)}", settings)
        for name, settings in rows.settings_of(options.row).items()
    }
    asked = rows.chosen({**there, **more}, options.only or [*usual, *more])
    for name, row in asked.items():
        if any("perceptual=" in setting and JUDGE in setting for setting in row.settings):
            sys.exit(f"{name}: a judge is no loss; take other features than those of {JUDGE}")
    return asked


# ---------------------------------------------------------------- one row


def result(name: str, row: Row, seed: int, options: argparse.Namespace, work: "Work") -> dict:
    """The figures of a row: those that were kept, or of a training now."""
    length = f"{options.steps}steps" if options.steps else f"{options.minutes:g}min"
    folder = work.folder / f"{name}-{options.grid}-{length}-{seed}"
    facts = rows.kept(folder / "row.json")
    if facts is None or facts["settings"] != [*row.settings]:
        if row.program:
            facts = baseline(row, folder, seed, options, work.photos.arrays)
        else:
            run = f"{work.photos.images.name}-{folder.name}"
            facts = ours(row, folder, run, seed, options, work.photos)
        facts |= {"settings": [*row.settings], "title": row.title, "seed": seed}
        rows.keep(folder / "row.json", facts)
    print(f"{name}, seed {seed}: {facts['psnr']:.2f} dB", file=sys.stderr, flush=True)
    facts["rebuilt"], facts["slipped"] = (
        np.load(folder / f"{kind}.npy") for kind in ("rebuilt", "slipped")
    )
    for kind in ("rebuilt", "slipped"):
        facts[f"{kind}_kid"] = work.judges.kid(facts[kind])
    return facts


@dataclass(frozen=True)
class Work:
    """What all rows share."""

    folder: Path
    photos: Photos
    judges: Judges

    @classmethod
    def of(cls, options: argparse.Namespace, kind: str) -> "Work":
        photos, judges = begin(options)
        return cls(options.home / kind / f"{photos.images.name}-{photos.count}", photos, judges)


def ours(
    row: Row, folder: Path, run: str, seed: int, options: argparse.Namespace, photos: Photos
) -> dict:
    """Train one of ours with `train-vae`, and rebuild the pictures."""
    length = ("--steps", options.steps) if options.steps else ("--minutes", options.minutes)
    settings = (f"model.grid={options.grid}", f"seed={seed}", *row.settings)
    sets = [word for setting in settings for word in ("--set", setting)]
    dallebaby(options.home, "train-vae", photos.images.name, "--run", run, *length, *sets)
    tokenizer = load_image_tokenizer(options.home / "vae" / run, torch.device("cpu"))
    encode, decode = tokenizer.encode, tokenizer.decode
    judged = rebuilding.answer(encode, decode, tokenizer.codes, photos.holdout, folder)
    return judged | trained(options.home / "vae" / run)


def trained(folder: Path) -> dict:
    """How long a run took, how many pictures it saw and how large its model is; the run of its
    finish, if it has one, included."""
    runs = [path.parent for path in (folder / "log.jsonl", folder / "finish" / "log.jsonl")]
    runs = [run for run in runs if (run / "log.jsonl").exists()]
    found = [about for run in runs if (about := manifest.read(run)) and "steps" in about.counts]
    tensors = photo_judges.load_file(folder / "model.safetensors").values()
    return {
        "seconds": 60 * sum(map(minutes, runs)),
        "seen": sum(about.counts["steps"] * about.config["batch_size"] for about in found),
        "parameters": sum(t.numel() for t in tensors),
    }


def baseline(row: Row, folder: Path, seed: int, options: argparse.Namespace, arrays: Path) -> dict:
    """Train another program in its environment; in miniature, in this one."""
    here = Path(sys.executable)
    python = here if options.steps else baseline_environment.python(options.home)
    command = [python, "-W", "ignore", BASELINES / row.program, arrays, options.minutes]
    command += ["--out", folder, "--grid", options.grid, "--seed", seed]
    command += ["--steps", options.steps or LONGEST, *row.settings]
    if options.steps and row.program == "vqgan.py":
        command += ["--no-perceptual", "--ch", 16, "--batch", 4]
    words = [str(word) for word in command]
    print("$", *words, flush=True)
    said = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout
    facts: dict = {}
    for line in said.splitlines():
        facts |= json.loads(line) if line.startswith("{") else {}
    return facts


# ---------------------------------------------------------------- what real pictures come to


def blurred(pictures: np.ndarray, psnr: float) -> np.ndarray:
    """Pictures under a Gaussian so wide that they have this PSNR."""
    shown = torch.from_numpy(pictures)
    low, high = 0.05, 8.0
    for _ in range(12):
        sigma = math.sqrt(low * high)
        soft = vision.gaussian_blur(shown, 2 * math.ceil(3 * sigma) + 1, sigma).numpy()
        if rebuilding.psnr(soft, pictures) > psnr:
            low = sigma
        else:
            high = sigma
    return soft


def controls(psnr: float, work: Work) -> Iterator[list[str]]:
    """Rows of the real hold-out pictures, and of the same blurred."""
    real = work.photos.holdout
    soft = blurred(real, psnr)
    for name, pictures in (("real pictures", real), ("real pictures, blurred", soft)):
        far = work.judges.kid(pictures)
        near = rebuilding.psnr(pictures, real)
        blur = f"{near:.1f}" if near < 99 else ""
        kids = [f"{far[judge]:.1f}" for judge in work.judges.names]
        yield [name, "", "", "", blur, "", *kids, *[""] * (1 + len(kids))]


# ---------------------------------------------------------------- the table and the pictures


def line(found: list[dict], judges: list[str]) -> list[str]:
    """A row of the table from its seeds."""

    def of(name: str, form: str, scale: float = 1) -> str:
        return spread([scale * facts[name] for facts in found], form)

    def far(kind: str) -> list[str]:
        return [spread([facts[f"{kind}_kid"][judge] for facts in found], ".1f") for judge in judges]

    size, seen = found[0]["parameters"] / 1e6, statistics.mean(facts["seen"] for facts in found)
    row = [found[0]["title"], f"{size:.2f} M", of("seconds", ".1f", 1 / 60), f"{seen:,.0f}"]
    row += [of("psnr", ".2f"), of("codes_used", ".1%"), *far("rebuilt")]
    return [*row, of("slipped_psnr", ".2f"), *far("slipped")]


def head(judges: list[str]) -> list[list[str]]:
    names = ["", "parameters", "minutes", "pictures seen", "PSNR dB", "codes used"]
    names += [f"KID, {judge}" for judge in judges]
    names += ["10 % replaced: PSNR dB", *(f"KID, {judge}" for judge in judges)]
    return [names, ["---"] * len(names)]


def large(pictures: np.ndarray) -> np.ndarray:
    """uint8 (B, H, W, 3), enlarged for people without smoothing."""
    times = max(LARGE_PX // pictures.shape[-1], 1)
    return pictures.transpose(0, 2, 3, 1).repeat(times, 1).repeat(times, 2)


def draw_sheet(path: Path, lines: list[np.ndarray]) -> None:
    """The first pictures of each line, one below the other."""
    shown = [large(pictures[:SHOWN]) for pictures in lines]
    write_png(path, grid(np.concatenate(shown), len(shown[0])))


def draw_pairs(path: Path, real: np.ndarray, two: dict[str, np.ndarray]) -> None:
    """Numbered pairs with the real picture between them, the same without it ("-blind"), and beside
    them which side is whose."""
    (one, ones), (other, others) = two.items()
    random, key = np.random.default_rng(0), {}
    trios, pairs = [], []
    for number in range(min(PAIRS, len(real))):
        swap = bool(random.integers(2))
        left, right = (others, ones) if swap else (ones, others)
        key[number + 1] = {"left": other if swap else one, "right": one if swap else other}
        trios.append(_numbered(number + 1, [left[number], real[number], right[number]]))
        pairs.append(_numbered(number + 1, [left[number], right[number]]))
    write_png(path, grid(np.stack(trios), PAIRS_ACROSS))
    write_png(path.with_stem(f"{path.stem}-blind"), grid(np.stack(pairs), PAIRS_ACROSS))
    rows.keep(path.with_suffix(".json"), key)


def _numbered(number: int, pictures: list[np.ndarray]) -> np.ndarray:
    """Pictures side by side under their number, uint8 (H, W, 3)."""
    framed = np.pad(
        grid(large(np.stack(pictures)), len(pictures)),
        ((16, 8), (4, 12), (0, 0)),
        constant_values=255,
    )
    sheet = Image.fromarray(framed)
    ImageDraw.Draw(sheet).text((4, 2), str(number), fill="black")
    return np.array(sheet)


def main() -> None:
    options = parse()
    asked = rows_asked(options)
    work = Work.of(options, "photos-vae")
    photos, judges = work.photos, work.judges
    found: dict[str, list[dict]] = {name: [] for name in asked}
    for seed in options.seeds:
        for name, row in asked.items():
            if not row.program or seed == options.seeds[0]:
                found[name].append(result(name, row, seed, options, work))
    lines = [line(results, judges.names) for results in found.values()]
    first = next(iter(found.values()))
    lines += controls(statistics.mean(facts["psnr"] for facts in first), work)
    print(f"\nKID × 1000, N = {photos.count:,} rebuilt hold-out pictures against as many others.")
    if "trained" in judges.names:
        right = judges.right(photos.holdout)
        print(f"The judge trained here tells {right:.1%} of the hold-out pictures' classes.")
    print("\n" + table([*head(judges.names), *lines]), flush=True)
    rebuilt = {name: results[0]["rebuilt"] for name, results in found.items()}
    draw_sheet(work.folder / "sheet.png", [photos.holdout, *rebuilt.values()])
    print(f"\n{work.folder / 'sheet.png'}: real pictures, then {', '.join(rebuilt)}")
    if len(rebuilt) > 1:
        two = dict([*rebuilt.items()][:2])
        draw_pairs(work.folder / "pairs.png", photos.holdout, two)
        print(f"{work.folder / 'pairs.png'}: {' against '.join(two)}; key in pairs.json")


if __name__ == "__main__":
    main()
