"""What a run leaves behind to look at: its pictures as they came."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from dallebaby_cli.progress import Note, Report
from dallebaby_cli.store.pictures import write_gif, write_png

MOST_FRAMES = 100


def keep_frame(folder: Path, step: int, picture: np.ndarray) -> None:
    """Store one frame (H, W, 3) of training.gif: a file each, so that a killed run loses none."""
    (folder / "frames").mkdir(exist_ok=True)
    write_png(folder / "frames" / f"{step:08}.png", picture)


def frames(folder: Path) -> dict[int, Path]:
    """Step → file of the frames of a run, in order."""
    paths = sorted(p for p in (folder / "frames").glob("*.png") if p.stem.isdecimal())
    return {int(path.stem): path for path in paths}


def bind(folder: Path, report: Report) -> None:
    """Make training.gif from what the run has kept so far. If it cannot be made, that is told: no
    picture is a reason to lose a run."""
    try:
        _animate(folder, folder / "training.gif")
    except Exception as error:  # whatever the libraries make of damaged files and full disks
        report(Note(f"{folder / 'training.gif'} cannot be made ({error})", "warning"))


def _animate(folder: Path, out: Path) -> None:
    paths = [*frames(folder).values()]
    chosen = np.linspace(0, len(paths) - 1, min(len(paths), MOST_FRAMES)).round().astype(int)
    if shown := [*_whole(paths[index] for index in chosen)]:
        write_gif(out, shown)


def _whole(paths: Iterator[Path]) -> Iterator[Image.Image]:
    """Those frames that a power cut left whole."""
    for path in paths:
        try:
            with Image.open(path, formats=("PNG",)) as frame:
                yield frame.convert("RGB")
        except (OSError, SyntaxError, ValueError):
            continue
