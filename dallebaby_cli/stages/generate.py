"""dalle/RUN + a prompt → samples/: draw pictures."""

import re
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from dallebaby_cli.config import SampleConfig
from dallebaby_cli.data import manifest
from dallebaby_cli.data.pictures import grid, write_png
from dallebaby_cli.errors import UsageError
from dallebaby_cli.progress import Note, Progress, Report
from dallebaby_cli.sampler import from_pretrained


@dataclass(frozen=True)
class Drawn:
    """What was drawn and where it lies."""

    grid: Path
    singles: list[Path]
    seed: int
    model: Path
    pictures: np.ndarray
    """uint8 (prompts * n, P, P, 3)"""


def generate(
    home: Path,
    config: SampleConfig,
    prompts: list[str],
    *,
    n: int = 8,
    out: Path | None = None,
    seed: int | None = None,
    model: Path | None = None,
    device: str = "auto",
    report: Report,
) -> Drawn:
    """Draw n pictures of each prompt: a grid (a row a prompt, if there are several) at `out`, and
    each picture beside it as STEM-00.png, with how it was made in its metadata."""
    if not prompts or not all(prompt.strip() for prompt in prompts):
        raise UsageError('the prompt is empty; say what to draw, such as "a red car"')
    seed = secrets.randbelow(2**31) if seed is None else seed
    folder = model or manifest.newest(home, "dalle")[0]
    out = out or home / "samples" / f"{_slug(prompts[0])}-{seed}.png"
    if out.suffix.lower() != ".png":
        raise UsageError(f"--out {out}: must end in .png")
    sampler = from_pretrained(folder, device)
    report(Note(f"generate: with {folder}, seed {seed}"))
    total = n * len(prompts)
    pictures = sampler.generate(
        prompts, n, seed, config, lambda done: report(Progress("draw", done, total, "images"))
    )
    made = {"model": sampler.id, "sampling": _settings(config)}
    singles = []
    for index, picture in enumerate(pictures):
        path = out.with_name(f"{out.stem}-{index:02d}.png")
        about = {"prompt": prompts[index // n], "seed": str(seed + index), **made}
        write_png(path, picture, about)
        singles.append(path)
    sheet = grid(pictures, n if len(prompts) > 1 else None)
    write_png(out, sheet, {"prompt": "\n".join(prompts), "seed": str(seed), **made})
    return Drawn(out, singles, seed, folder, pictures)


def _slug(prompt: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40] or "picture"


def _settings(config: SampleConfig) -> str:
    drawn = {k: v for k, v in asdict(config).items() if k != "batch_size"}
    return ", ".join(f"{key}={value}" for key, value in drawn.items())
