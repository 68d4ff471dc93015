"""dalle/RUN + prompts → samples/: draw pictures."""

import itertools
import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dallebaby_cli import files
from dallebaby_cli.config import SampleConfig, settings
from dallebaby_cli.drawing import fitting
from dallebaby_cli.drawing.pretrained import from_pretrained, model_folder, vae_folder
from dallebaby_cli.drawing.sampler import Drawing, Sampler, Sketch
from dallebaby_cli.errors import BadInput, OutOfMemory, UsageError
from dallebaby_cli.interrupt import Interrupt
from dallebaby_cli.models import collectives
from dallebaby_cli.models import device as devices
from dallebaby_cli.prep import images
from dallebaby_cli.progress import Note, Progress, Report
from dallebaby_cli.store import weights
from dallebaby_cli.store.pictures import grid, read_metadata, write_gif, write_png
from dallebaby_cli.training import engine

MOST_BYTES = 200_000_000  # of a picture to begin with
FRAMES = 64  # of an animation, at most
NAMED = 8  # rare words that a hint names, at most
LATER = ("guidance_power", "guidance_interval")  # settings that older pictures do not tell


@dataclass(frozen=True)
class Model:
    """A trained transformer's folder; loaded once, when it is first drawn with."""

    folder: Path
    device: str = "auto"
    vae: Path | None = None
    """the dVAE that paints with its decoder, if not the one inside"""

    @cached_property
    def sampler(self) -> Sampler:
        """Raises MissingInput, BadInput or Mismatch that name the file at fault."""
        return from_pretrained(self.folder, str(engine.device(self.device)), self.vae)


@dataclass(frozen=True)
class Drawn:
    """What was drawn and where it lies."""

    grid: Path
    singles: list[Path]
    seed: int
    model: Path
    pictures: np.ndarray
    """uint8 (prompts * n, P, P, 3), in the first process; it alone has written them"""
    progressive: Path | None = None
    vae: Path | None = None
    """whose decoder painted, if not the model's own"""


@dataclass(frozen=True)
class Asked:
    """What a drawing is made of, as its files say it."""

    prompts: list[str]
    n: int
    each: int
    """pictures that are kept of each prompt"""
    seed: int
    made: dict[str, str]
    """with what, the same for all pictures"""

    @property
    def columns(self) -> int | None:
        """Pictures in a row of the grid; None makes it about square."""
        return self.each if len(self.prompts) > 1 else None

    @property
    def grid(self) -> dict[str, str]:
        """What the grid and the animation say."""
        numbers = {"seed": str(self.seed), "n": str(self.n), "best": str(self.each)}
        return {"prompt": "\n".join(self.prompts), **numbers, **self.made}

    def single(self, index: int, seed: object) -> dict[str, str]:
        """What a single picture says."""
        return {"prompt": self.prompts[index // self.each], "seed": str(seed), **self.made}

    def in_the_way(self, path: Path) -> Path | None:
        """The first of the files that belong to a grid or animation at `path` which is there and
        from another drawing: that file itself, or a single picture beside it."""
        if path.exists() and read_metadata(path) != self.grid:
            return path
        name = re.compile(rf"{re.escape(path.stem)}-(\d{{2,}})\.png")
        beside = sorted(path.parent.glob("*.png")) if path.suffix.lower() == ".png" else []
        for other in beside:
            if numbered := name.fullmatch(other.name):
                if not self._is_single(int(numbered[1]), read_metadata(other)):
                    return other
        return None

    def _is_single(self, index: int, says: dict[str, str]) -> bool:
        if index >= self.each * len(self.prompts):
            return False
        first = self.seed + index // self.each * self.n
        seeds = range(first, first + self.n) if self.each < self.n else [self.seed + index]
        said = says.get("seed", "")
        return says == self.single(index, said) and said.isdecimal() and int(said) in seeds


class Frames:
    """The moments of a stream that an animation shows: FRAMES at most, evenly spread over the
    codes, from the first `given` ones on."""

    def __init__(self, codes: int, given: int) -> None:
        most = min(FRAMES, codes - given + 1)
        steps = np.linspace(given, codes, most).round().astype(int).tolist()
        self.moments: dict[int, list[Tensor]] = {step: [] for step in steps}
        """how many codes are decided → the codes of each batch when they were"""

    def keep(self, drawing: Drawing) -> None:
        """Keep a moment if it is one of them."""
        if drawing.count in self.moments:
            self.moments[drawing.count].append(drawing.codes)

    def gather(self, grid: int, whole: int) -> None:
        """Have what all ranks kept, of `whole` pictures."""
        none = torch.empty((0, grid, grid), dtype=torch.int64)
        for count, batches in self.moments.items():
            drawn = torch.cat([none, *(codes.cpu() for codes in batches)])
            self.moments[count] = [collectives.gather_shares(drawn, whole)]

    def sheets(self, sampler: Sampler, chosen: list[int], columns: int | None) -> list[np.ndarray]:
        """A grid (H, W, 3) of the chosen pictures at each moment that was kept."""
        sheets = []
        for count, batches in self.moments.items():
            codes = torch.cat(batches)[chosen]
            known = (torch.arange(codes[0].numel()) < count).view(codes.shape[1:]).expand_as(codes)
            sheets.append(grid(sampler.paint(codes, known), columns))
        return sheets


def find(home: Path, folder: Path | None, vae: str | None, device: str, report: Report) -> Model:
    """The model in a folder, or the one that was trained last, or the baby; with another dVAE to
    paint, if a run is named. Raises MissingInput."""
    return Model(model_folder(home, folder, report), device, vae_folder(home, vae))


def generate(
    home: Path,
    config: SampleConfig,
    prompts: list[str],
    *,
    model: Model,
    n: int = 8,
    best: int | None = None,
    seed: int | None = None,
    out: Path | None = None,
    name: str = "",
    progressive: Path | None = None,
    image: Path | None = None,
    keep: int | None = None,
    report: Report,
) -> Drawn:
    """Draw n pictures of each prompt and keep the `best` (all if None): a grid (a row a prompt, if
    there are several) at `out`, and each picture beside it as STEM-00.png, with all that it takes
    to draw it again in its metadata. Without `out` they lie in samples/, called `name` or like the
    first prompt and the seed, with a number where other pictures are called so: what another
    drawing made is never replaced. The pictures begin with the first `keep` rows of codes of
    `image` (half of them if None); `progressive` shows how they come about.

    Several ranks share the pictures, which come out the same, and the first writes them."""
    if not prompts or not all(prompt.strip() for prompt in prompts):
        raise UsageError('the prompt is empty; say what to draw, such as "a red car"')
    seed = engine.once(lambda: secrets.randbelow(2**31)) if seed is None else seed
    if seed + n * len(prompts) > 2**63:
        raise UsageError(f"--seed {seed}: each picture takes the next one, up to 2**63 - 1")
    if out:
        _check_place("--out", out, ".png")
    if progressive:
        _check_place("--progressive", progressive, ".gif")
    again = f"stopped before all was written; --seed {seed} draws the same pictures"
    with Interrupt(at_once=again):
        sampler = model.sampler
        kept = _kept(sampler, image, keep)
        painted = f" and the decoder of {model.vae}" if model.vae else ""
        report(Note(f"generate: with {model.folder}{painted}, seed {seed}"))
        _note_guidance(model.folder, config, report)
        _note_words(sampler, prompts, report)
        each = best or n
        asked = Asked(prompts, n, each, seed, made_with(sampler, config, kept))
        stem, wanted = name or f"{slug(prompts[0])}-{seed}", out
        out = Path(engine.once(lambda: str(place(home, stem, wanted, progressive, asked))))
        _check_memory(sampler, asked, progressive is not None)
        sketch, frames = _draw(sampler, asked, config, best, kept, progressive is not None, report)
        pictures = sampler.paint(sketch.codes) if engine.first() else np.empty(0, np.uint8)
        singles = [out.with_name(f"{out.stem}-{i:02d}.png") for i in range(len(sketch.seeds))]
        done = Drawn(out, singles, seed, model.folder, pictures, progressive, model.vae)
        if engine.first():
            write(done, asked, sketch.seeds)
            if progressive:
                chosen = [number - seed for number in sketch.seeds]
                sheets = frames.sheets(sampler, chosen, asked.columns)
                write_gif(progressive, [Image.fromarray(sheet) for sheet in sheets], asked.grid)
        engine.wait()
    return done


def made_with(sampler: Sampler, config: SampleConfig, kept: Tensor | None) -> dict[str, str]:
    """What the files of a drawing say of the model, its settings and the codes it began with."""
    made = {"model": sampler.id, "sampling": _settings(config)}
    if sampler.vae_id:
        made["vae"] = sampler.vae_id
    if kept is not None:
        made["kept"] = " ".join(map(str, kept.flatten().tolist()))
    return made


def write(done: Drawn, asked: Asked, seeds: Sequence[int]) -> None:
    """The single pictures, which came from these seeds, and the grid."""
    for index, path in enumerate(done.singles):
        write_png(path, done.pictures[index], asked.single(index, seeds[index]))
    write_png(done.grid, grid(done.pictures, asked.columns), asked.grid)


def slug(prompt: str) -> str:
    """What files are called that show it."""
    return re.sub(r"[\W_]+", "-", prompt.lower())[:40].strip("-") or "picture"


def _check_place(flag: str, path: Path, ending: str) -> None:
    """Before anything is drawn: whether a file can be put there."""
    if path.suffix.lower() != ending or path.is_dir():
        raise UsageError(f"{flag} {path}: must be a file that ends in {ending}")
    folder = files.nearest(path.absolute().parent)
    try:
        TemporaryFile(dir=folder).close()
    except OSError:
        raise UsageError(f"{flag} {path}: {folder} is no folder that can be written to") from None


def place(home: Path, stem: str, out: Path | None, progressive: Path | None, asked: Asked) -> Path:
    """Where the grid goes: `out`, or the first free name in samples/ that begins with `stem`.
    Raises UsageError where a file that was asked for is there already from another drawing."""
    for flag, path in (("--out", out), ("--progressive", progressive)):
        if path and (other := asked.in_the_way(path)):
            raise UsageError(
                f"{flag} {path}: {other} is there already and was not drawn with these prompts, "
                "settings and seed; name another file, or remove it"
            )
    numbers = itertools.chain([""], (f"_{number}" for number in itertools.count(2)))
    places = (home / "samples" / f"{stem}{number}.png" for number in numbers)
    return out or next(path for path in places if not asked.in_the_way(path))


def _check_memory(sampler: Sampler, asked: Asked, animated: bool) -> None:
    """Raise OutOfMemory if what is kept of all pictures until they are written cannot be held."""
    count, kept = asked.n * len(asked.prompts), asked.each * len(asked.prompts)
    codes, pixels = sampler.model.config.image_tokens, 3 * sampler.image_tokenizer.image_px**2
    each = 100 + 8 * codes * (1 + (FRAMES if animated else 0))
    needed = count * each + kept * 2 * pixels  # the grid holds them again
    there = devices.memory_bytes(torch.device("cpu"))
    if needed > there:
        raise OutOfMemory(
            f"{count:,} pictures take {files.human_bytes(needed)} of memory until they are written "
            f"and this machine has {files.human_bytes(there)}; draw them in several runs, with a "
            f"smaller -n and another --seed each"
        )


def _draw(
    sampler: Sampler,
    asked: Asked,
    config: SampleConfig,
    best: int | None,
    kept: Tensor | None,
    animated: bool,
    report: Report,
) -> tuple[Sketch, Frames]:
    """The pictures as codes, and the moments of them that an animation shows."""
    shape, count = sampler.model.config, asked.n * len(asked.prompts)
    given, mine = 0 if kept is None else kept.numel(), len(range(count)[engine.share()])
    size = max(min(fitting.at_a_time(shape, config, sampler.device), mine), 1)
    if fitting.pays_to_compile(mine, sampler.device):
        sampler = replace(sampler, compiled=True)

    def draw(size: int) -> tuple[Sketch, Frames]:
        frames = Frames(shape.image_tokens, given)

        def watch(drawing: Drawing) -> None:
            report(Progress("draw", drawing.done * count / mine, count, "images"))
            if animated:
                frames.keep(drawing)

        few, how = replace(config, batch_size=size), (best, kept, watch, True)
        return sampler.sketch(asked.prompts, asked.n, asked.seed, few, *how), frames

    sketch, frames = fitting.halving(draw, size, "drawing", "batch_size", report)
    if animated:
        frames.gather(shape.grid, count)
    return sketch, frames


def _settings(config: SampleConfig) -> str:
    """Of the pictures: how many are drawn at a time changes none, and what came later is told where
    it is set, so that pictures of before are known as those that would be drawn now."""
    values, usual = settings.as_dict(config), settings.as_dict(SampleConfig())
    del values["batch_size"]
    return json.dumps({k: v for k, v in values.items() if k not in LATER or v != usual[k]})


def _kept(sampler: Sampler, image: Path | None, keep: int | None) -> Tensor | None:
    """The codes (R, G) of the rows that are kept of a picture, which is cropped as `prep` does."""
    if image is None:
        if keep is not None:
            raise UsageError("--keep needs a picture to keep rows of: --image FILE")
        return None
    rows = sampler.model.config.grid
    keep = rows // 2 if keep is None else keep
    if not 1 <= keep < rows:
        raise UsageError(
            f"--keep {keep}: this model's pictures have {rows} rows; keep 1 to {rows - 1} of them"
        )
    with image.open("rb") as opened:
        content = opened.read(MOST_BYTES)  # what is cut there cannot be decoded
    try:
        picture = images.decode(content, sampler.image_tokenizer.image_px)
    except images.Rejected as rejected:
        advice = "give a JPEG, PNG, WebP, GIF, BMP or TIFF picture that prep would take"
        raise BadInput(
            f"--image {image} cannot be used ({rejected.reason}: {rejected.detail}); {advice}"
        ) from None
    return sampler.encode(picture)[:keep]


def _note_guidance(folder: Path, config: SampleConfig, report: Report) -> None:
    """Warn where guidance has nothing to guide against. Older models do not say."""
    if config.guidance != 1 and weights.described(folder).get("caption_drop") == 0:
        text = "this model was trained with caption_drop=0, so it has never drawn without a caption"
        text += f" and guidance={config.guidance:g} can only spoil pictures; take --set guidance=1"
        report(Note(text, "warning"))


def _note_words(sampler: Sampler, prompts: list[str], report: Report) -> None:
    """Say what the model cannot know of the prompts."""
    length = sampler.model.config.text_tokens
    rare: dict[str, None] = {}
    for prompt in prompts:
        read = sampler.text_tokenizer.cut(prompt, length)
        if read is not None:
            start = f"{prompt[:40]}…"
            report(
                Note(
                    f"{start!r} is cut to the {length} tokens that the model reads: "
                    f"{read!r} is drawn",
                    "warning",
                )
            )
        rare |= dict.fromkeys(sampler.text_tokenizer.rare_words(prompt if read is None else read))
    if rare:
        words = ", ".join([*rare][:NAMED]) + (", …" if len(rare) > NAMED else "")
        report(Note(f"the model has seldom or never met: {words}"))
