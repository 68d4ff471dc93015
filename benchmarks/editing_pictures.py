"""The README's pictures of drawing in passes and of changing pictures, by a run that knows any
order: passes.png, inpainted.png and panorama.png.

    python benchmarks/editing_pictures.py HOME RUN [--out docs]

RUN is a finished run of `train --set random_order=0.25` in HOME/dalle, of `scenes`. Nothing is
chosen: all is of seed 0, but for the picture that is changed, which is the first of --seed.
"""

import argparse
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from baby import dallebaby
from PIL import Image

from dallebaby_cli.store.pictures import grid, write_png

PROMPTS = ("a red car", "a blue house", "a yellow flower", "a green boat")
BEFORE, AFTER = "a red car left of a green tree", "a red car left of a blue house"
WIDE, LARGER = "a green tree", 2
PASSES = (22, 64)


def drawn(home: Path, run: str, folder: Path, *words: object) -> list[np.ndarray]:
    """The single pictures of a command line, uint8 (H, W, 3)."""
    out = folder / "drawn.png"
    for old in folder.glob("drawn*.png"):
        old.unlink()
    dallebaby(home, "generate", *words, "--model", home / "dalle" / run, "--out", out)
    return [np.asarray(Image.open(path)) for path in sorted(folder.glob("drawn-*.png"))]


def write(path: Path, pictures: Iterable[np.ndarray], columns: int) -> None:
    """Rows of pictures, enlarged by whole pixels."""
    large = [picture.repeat(LARGER, 0).repeat(LARGER, 1) for picture in pictures]
    write_png(path, grid(np.stack(large), columns))
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("home", type=Path)
    parser.add_argument("run")
    parser.add_argument("--seed", type=int, default=0, help="of the picture that is changed")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    options = parser.parse_args()
    home, run, out = options.home, options.run, options.out
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [
            drawn(home, run, folder, *PROMPTS, "-n", 2, "--seed", 0, "--steps", passes)
            for passes in PASSES
        ]
        write(out / "passes.png", [picture for row in rows for picture in row], len(rows[0]))

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
