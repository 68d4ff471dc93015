"""The whole chain on photographs, with tokenizers beside one another: train-vae, encode, train and
generate, for the same minutes of training, and how far the drawn pictures are from photographs.

    python benchmarks/photos.py FOLDER [HOME] --minutes 60 [--share 0.2] [--px 32] [--seeds 0 1 2]
        [--only ROW ...] [--row "NAME: SETTING SETTING"] [--train SETTING ...]

Rows of ours, folder and judges are those of photos_vae.py; --share of the minutes are the
tokenizer's. Beside them stand, with --only dalle-pytorch diffusion, DALLE-pytorch's own chain and a
diffusion of pixels, which has all minutes for itself and is told the class in place of a caption.
Prints a Markdown table: the distance (KID × 1000) in two networks of pictures drawn for captions of
hold-out pictures and of the hold-out pictures rebuilt, and how often the judge that knows the
classes sees the one that was asked for. HOME keeps what each row came to, so that nothing is made
twice, and gets drawn.png: 16 hold-out pictures, and what each row drew for their captions.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import photos_vae
import rows
from baby import dallebaby, minutes, table
from photos_vae import Row, Work
from PIL import Image
from rows import spread

from dallebaby_cli.store import manifest

ROWS = {name: row for name, row in photos_vae.ROWS.items() if not row.program} | {
    "dalle-pytorch": Row("DALLE-pytorch", program="dalle_pytorch_drawing.py"),
    "diffusion": Row("diffusion of pixels (UNet2DModel)", program="diffusion.py"),
}
USUAL = ("pixel", "few", "default")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    photos_vae.arguments(parser, ROWS)
    parser.add_argument("--share", type=float, default=0.2, help="of the minutes, for train-vae")
    parser.add_argument("--drawn", type=int, default=1000, help="pictures that are drawn")
    parser.add_argument("--train", nargs="+", default=[], metavar="SETTING", help="of `train`")
    return parser.parse_args()


def chain(name: str, row: Row, seed: int, options: argparse.Namespace, work: Work) -> dict:
    """The figures of a row: those that were kept, or of a chain now."""
    length = f"{options.steps}steps" if options.steps else f"{options.minutes:g}min"
    run = f"{work.photos.images.name}-{name}-{options.grid}-{length}-{options.share:g}-{seed}"
    folder = work.folder / run
    facts = rows.kept(folder / "row.json")
    told: dict = {"settings": [*row.settings, *([] if row.program else options.train)]}
    told |= {"title": row.title, "seed": seed, "asked": options.drawn}
    if facts is None or not told.items() <= facts.items():
        made = (stranger if row.program else make)(run, row, seed, options, work)
        facts = rows.keep(folder / "row.json", {**(facts or {}), **made, **told})
    for kind in ("drawn", "rebuilt"):
        if (folder / f"{kind}.npy").exists():
            facts[kind] = np.load(folder / f"{kind}.npy")
            facts[f"{kind}_kid"] = work.judges.kid(facts[kind])
    if "trained" in work.judges.names:
        facts["right"] = work.judges.right(facts["drawn"])
    return facts


def make(run: str, row: Row, seed: int, options: argparse.Namespace, work: Work) -> dict:
    """From photographs to drawn pictures; what is there already is not made again."""
    home, data, whole = options.home, work.photos.images.name, options.minutes
    folder = work.folder / run
    parts = argparse.Namespace(**{**vars(options), "minutes": whole * options.share})
    facts = photos_vae.ours(row, folder, run, seed, parts, work.photos)
    dallebaby(home, "encode", data, "--vae", run)
    length = ("--steps", options.steps) if options.steps else ()
    length = length or ("--minutes", whole * (1 - options.share))
    sets = [word for setting in options.train for word in ("--set", setting)]
    asked = ("--run", run, "--seed", seed, *length, *sets)
    dallebaby(home, "train", f"{data}@{run}", *asked)
    prompts = folder / "prompts.txt"
    captions = work.photos.captions("holdout")[: options.drawn]
    prompts.write_text("\n".join(captions) + "\n", encoding="utf-8")
    dalle = home / "dalle" / run
    out = folder / "drawn" / "grid.png"
    out.parent.mkdir(parents=True, exist_ok=True)
    drawing = ("--file", prompts, "-n", 1, "--seed", seed, "--out", out)
    dallebaby(home, "generate", "--model", dalle, *drawing)
    np.save(folder / "drawn.npy", drawn(out.parent, options.drawn))
    about = manifest.read(dalle)
    assert about is not None, dalle
    found = {"train_seconds": 60 * minutes(dalle), "train_steps": about.counts["steps"]}
    return {**facts, **found}


def stranger(run: str, row: Row, seed: int, options: argparse.Namespace, work: Work) -> dict:
    """The same by another program."""
    more = (f"--share={options.share}", f"--drawn={options.drawn}", *row.settings)
    asked = dataclasses.replace(row, settings=more)
    return photos_vae.baseline(asked, work.folder / run, seed, options, work.photos.described)


def drawn(folder: Path, count: int) -> np.ndarray:
    """The single pictures that `generate` left, uint8 (B, 3, P, P), in their order."""
    paths = [folder / f"grid-{number:02d}.png" for number in range(count)]
    pictures = [np.array(Image.open(path).convert("RGB")) for path in paths]
    return np.stack(pictures).transpose(0, 3, 1, 2)


def line(found: list[dict], judges: list[str]) -> list[str]:
    """A row of the table from its seeds."""
    row = [found[0]["title"]]
    for name, form, scale in (
        ("seconds", ".1f", 1 / 60),
        ("train_seconds", ".1f", 1 / 60),
        ("train_steps", ",.0f", 1),
        ("psnr", ".2f", 1),
        ("codes_used", ".1%", 1),
    ):
        row.append(cell([scale * facts[name] for facts in found if name in facts], form))
    for kind in ("rebuilt_kid", "drawn_kid"):
        far = ([facts[kind][judge] for facts in found if kind in facts] for judge in judges)
        row += [cell(values, ".1f") for values in far]
    return [*row, cell([facts["right"] for facts in found if "right" in facts], ".1%")]


def cell(values: list[float], form: str) -> str:
    """Of a row whose program may have no such figure."""
    return spread(values, form) if values else ""


def head(judges: list[str]) -> list[list[str]]:
    names = ["", "train-vae, minutes", "train, minutes", "steps", "PSNR dB", "codes used"]
    names += [f"{kind}: KID, {judge}" for kind in ("rebuilt", "drawn") for judge in judges]
    names += ["drawn: class right"]
    return [names, ["---"] * len(names)]


def main() -> None:
    options = parse()
    asked = photos_vae.rows_asked(options, ROWS, USUAL)
    work = Work.of(options, "photos-chain")
    photos, judges = work.photos, work.judges
    options.drawn = min(options.drawn, photos.count)
    found: dict[str, list[dict]] = {name: [] for name in asked}
    for seed in options.seeds:
        for name, row in asked.items():
            found[name].append(chain(name, row, seed, options, work))
    print(f"\nKID × 1000, N = {options.drawn:,} drawn and {photos.count:,} rebuilt pictures")
    print(f"against {photos.count:,} photographs.")
    if "trained" in judges.names:
        right = judges.right(photos.holdout)
        print(f"The judge trained here tells {right:.1%} of the real hold-out pictures' classes.")
    print()
    body = [line(results, judges.names) for results in found.values()]
    print(table([*head(judges.names), *body]), flush=True)
    lines = [photos.holdout, *(results[0]["drawn"] for results in found.values())]
    photos_vae.draw_sheet(work.folder / "drawn.png", lines)
    print(f"\n{work.folder / 'drawn.png'}: hold-out pictures, then drawn by {', '.join(found)}")


if __name__ == "__main__":
    main()
