"""The README's pictures of drawing in passes and of changing pictures, by runs that know any order:
passes.png, of photographs, or inpainted.png and panorama.png, of drawings.

    python benchmarks/editing_pictures.py HOME RUN --passes [--out docs]
    python benchmarks/editing_pictures.py HOME RUN [--seed N] [--out docs]

RUN is a finished run in HOME/dalle: with --passes of CIFAR-10's photographs, else of `train scenes
--set random_order=0.25`. Nothing is chosen: all is of seed 0, but for the picture that is changed,
which is the first of --seed.
"""

import argparse
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from baby import dallebaby
from PIL import Image

from dallebaby_cli.store.pictures import grid, write_png

PROMPTS = tuple(f"a photo of {thing}" for thing in ("a horse", "an automobile", "a ship", "a frog"))
BEFORE, AFTER = "a red car left of a green tree", "a red car left of a blue house"
WIDE, SHOWN_PX = "a green tree", 128  # side of a picture as it is shown
PASSES: tuple[tuple[object, ...], ...] = (("--steps", 8, "--guidance", 5), ("--steps", 22), ())


def drawn(home: Path, run: str, folder: Path, *words: object) -> list[np.ndarray]:
    """The single pictures of a command line, uint8 (H, W, 3)."""
    out = folder / "drawn.png"
    for old in folder.glob("drawn*.png"):
        old.unlink()
    dallebaby(home, "generate", *words, "--model", home / "dalle" / run, "--out", out)
    return [np.asarray(Image.open(path)) for path in sorted(folder.glob("drawn-*.png"))]


def write(path: Path, pictures: Iterable[np.ndarray], columns: int) -> None:
    """Rows of pictures, enlarged by whole pixels."""
    stacked = np.stack([*pictures])
    times = max(SHOWN_PX // min(stacked.shape[1:3]), 1)
    write_png(path, grid(stacked.repeat(times, 1).repeat(times, 2), columns))
    print(path)


def draw_passes(home: Path, run: str, out: Path) -> None:
    """A row for each number of passes, the same captions and seeds in all."""
    with tempfile.TemporaryDirectory() as name:
        rows = [
            drawn(home, run, Path(name), *PROMPTS, "-n", 2, "--seed", 0, *way) for way in PASSES
        ]
    write(out / "passes.png", [picture for row in rows for picture in row], len(rows[0]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("home", type=Path)
    parser.add_argument("run")
    parser.add_argument("--passes", action="store_true", help="passes.png alone, of photographs")
    parser.add_argument("--seed", type=int, default=0, help="of the picture that is changed")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    options = parser.parse_args()
    home, run, out = options.home, options.run, options.out
    if options.passes:
        draw_passes(home, run, out)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (picture,) = drawn(home, run, folder, BEFORE, "-n", 1, "--seed", options.seed)
        image, mask = folder / "image.png", folder / "mask.png"
        white = np.zeros_like(picture)
        white[:, picture.shape[1] // 2 :] = 255
        write_png(image, picture)
        write_png(mask, white)
        words = (AFTER, "-n", 6, "--seed", 0, "--image", image, "--mask", mask)
        shown = np.where(white > 0, (picture // 2 + 128).astype(np.uint8), picture)
        write(out / "inpainted.png", [picture, shown, *drawn(home, run, folder, *words)], 8)

        size = f"{4 * picture.shape[1]}x{picture.shape[0]}"
        wide = drawn(home, run, folder, WIDE, "-n", 2, "--seed", 0, "--size", size)
        write(out / "panorama.png", wide, 1)


if __name__ == "__main__":
    main()
