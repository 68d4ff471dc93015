"""dalle/RUN + prompts → samples/: draw pictures."""

import hashlib
import itertools
import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dallebaby_cli import files
from dallebaby_cli.config import SampleConfig, settings
from dallebaby_cli.drawing import editing, fitting, panorama
from dallebaby_cli.drawing.asked import Asked
from dallebaby_cli.drawing.editing import TO_DRAW, Canvas
from dallebaby_cli.drawing.editing import Edits as Edits
from dallebaby_cli.drawing.frames import FRAMES, Frames
from dallebaby_cli.drawing.panorama import Moment, Panorama
from dallebaby_cli.drawing.pretrained import from_pretrained, model_folder, vae_folder
from dallebaby_cli.drawing.sampler import Sampler, Sketch, check_best
from dallebaby_cli.errors import OutOfMemory, UsageError
from dallebaby_cli.interrupt import Interrupt
from dallebaby_cli.models import collectives
from dallebaby_cli.models import device as devices
from dallebaby_cli.prep import given
from dallebaby_cli.progress import Note, Progress, Report
from dallebaby_cli.store import weights
from dallebaby_cli.store.pictures import LARGEST_GIF, grid, grid_size, write_gif, write_png
from dallebaby_cli.training import engine

NO_EDITS = Edits()
NAMED = 8  # rare words that a hint names, at most
LATER = ("guidance_power", "guidance_interval", "steps", "order")  # that older pictures do not tell


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
    """uint8 (prompts * n, H, W, 3), in the first process; it alone has written them"""
    progressive: Path | None = None
    vae: Path | None = None
    """whose decoder painted, if not the model's own"""


@dataclass(frozen=True)
class Start:
    """What a drawing begins with: how large it is, and what of a picture stays."""

    canvas: Canvas
    known: Tensor | None = None
    """codes (B, R, C), or (1, R, C) for all alike, TO_DRAW where they are drawn"""
    picture: np.ndarray | None = None
    """uint8 (P, P, 3), whose own pixels show where it was kept, the same in all pictures"""
    made: dict[str, str] = field(default_factory=dict)
    """what files say of it"""

    def paint(self, sampler: Sampler, codes: Tensor) -> np.ndarray:
        """Pictures uint8 (B, H, W, 3) of codes (B, R, C), grey where they are TO_DRAW."""
        pictures = panorama.paint(sampler, self.canvas, codes)
        if self.picture is None:
            return pictures
        assert self.known is not None, "it comes with its codes"
        return editing.pasted(self.canvas, pictures, self.picture, self.known[0])


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
    edits: Edits = NO_EDITS,
    report: Report,
) -> Drawn:
    """Draw n pictures of each prompt and keep the `best` (all if None): a grid (a row a prompt, if
    there are several) at `out`, and each picture beside it as STEM-00.png, with all that it takes
    to draw it again in its metadata. Without `out` they lie in samples/, called `name` or like the
    first prompt and the seed, with a number where other pictures are called so: what another
    drawing made is never replaced. `edits` say what of a given picture stays, and how large the
    drawing is; `progressive` shows how it comes about.

    Several ranks share the pictures, which come out the same, and the first writes them."""
    if not prompts or not all(prompt.strip() for prompt in prompts):
        raise UsageError('the prompt is empty; say what to draw, such as "a red car"')
    check_best(best, n)
    seed = engine.once(lambda: secrets.randbelow(2**31)) if seed is None else seed
    if seed + n * len(prompts) > 2**63:
        raise UsageError(f"--seed {seed}: each picture takes the next one, up to 2**63 - 1")
    _check_place("--out", out, ".png")
    _check_place("--progressive", progressive, ".gif")
    with Interrupt(at_once=f"stopped before all was written; --seed {seed} draws the same"):
        sampler, each = model.sampler, best or n
        seeds = range(seed, seed + n * len(prompts))
        start = _start(sampler, edits, seeds, each * len(prompts), progressive is not None)
        if fitting.pays_to_compile(len(seeds[collectives.share()]), sampler.device):
            sampler = replace(sampler, compiled=True)
        plan = Panorama(sampler, start.canvas, config, start.known)
        painted = f" and the decoder of {model.vae}" if model.vae else ""
        report(Note(f"generate: with {model.folder}{painted}, seed {seed}"))
        _note_guidance(model.folder, config, report)
        _note_words(sampler, prompts, report)
        made = made_with(sampler, config, start)
        asked = Asked(prompts, n, each, seed, made, ranked=best is not None)
        _check_animation(progressive, asked, sampler, start.canvas)
        stem, wanted = name or f"{slug(prompts[0])}-{seed}", out
        out = Path(engine.once(lambda: str(place(home, stem, wanted, progressive, asked))))
        sketch, frames = _draw(plan, asked, best, progressive is not None, report)
        pictures = start.paint(sampler, sketch.codes) if engine.first() else np.empty(0, np.uint8)
        singles = [out.with_name(f"{out.stem}-{i:02d}.png") for i in range(len(sketch.seeds))]
        done = Drawn(out, singles, seed, model.folder, pictures, progressive, model.vae)
        if engine.first():
            write(done, asked, sketch.seeds)
        if engine.first() and progressive:
            chosen = [number - seed for number in sketch.seeds]
            shown = (start.paint(sampler, codes[chosen]) for codes in frames)
            sheets = [Image.fromarray(grid(moment, asked.columns)) for moment in shown]
            write_gif(progressive, sheets, asked.grid)
        engine.wait()
    return done


def made_with(sampler: Sampler, config: SampleConfig, start: Start) -> dict[str, str]:
    """What the files of a drawing say of the model, its settings and what it began with."""
    made = {"model": sampler.id, "sampling": _settings(config)}
    if sampler.vae_id:
        made["vae"] = sampler.vae_id
    return made | start.made


def write(done: Drawn, asked: Asked, seeds: Sequence[int]) -> None:
    """The single pictures, which came from these seeds, and the grid."""
    for index, path in enumerate(done.singles):
        write_png(path, done.pictures[index], asked.single(index, seeds[index]))
    write_png(done.grid, grid(done.pictures, asked.columns), asked.grid)


def slug(prompt: str) -> str:
    """What files are called that show it."""
    return re.sub(r"[\W_]+", "-", prompt.lower())[:40].strip("-") or "picture"


def _check_place(flag: str, path: Path | None, ending: str) -> None:
    """Before anything is drawn: whether a file can be put there, if one is asked for."""
    if path is None:
        return
    if path.suffix.lower() != ending or path.is_dir():
        raise UsageError(f"{flag} {path}: must be a file that ends in {ending}")
    folder = files.nearest(path.absolute().parent)
    try:
        TemporaryFile(dir=folder).close()
    except OSError:
        raise UsageError(f"{flag} {path}: {folder} is no folder that can be written to") from None


def _check_animation(path: Path | None, asked: Asked, sampler: Sampler, canvas: Canvas) -> None:
    """Before anything is drawn: whether the grid fits a GIF, if it is to become one."""
    size = canvas.size(sampler.image_tokenizer.image_px // sampler.model.config.grid)
    width, height = grid_size(asked.each * len(asked.prompts), *size, asked.columns)
    if path and max(width, height) > LARGEST_GIF:
        raise UsageError(
            f"--progressive {path}: an animation has at most {LARGEST_GIF:,} pixels a side, and "
            f"this one would have {width:,} x {height:,}; draw less at a time, or leave it out"
        )


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


def _start(
    sampler: Sampler, edits: Edits, seeds: Sequence[int], kept: int, animated: bool
) -> Start:
    """What pictures from such seeds begin with, of which so many are kept. Raises UsageError,
    BadInput, Mismatch or OutOfMemory."""
    codes, px = sampler.model.config.grid, sampler.image_tokenizer.image_px
    canvas = edits.canvas(codes, px // codes)
    _check_memory(canvas, px, len(seeds), kept, animated)
    start = Start(canvas) if edits.image is None else _kept(sampler, edits, canvas, seeds)
    if canvas.single:
        return start
    size = "x".join(map(str, canvas.size(px // codes)))
    return replace(start, made={"size": size, **start.made})


def _kept(sampler: Sampler, edits: Edits, canvas: Canvas, seeds: Sequence[int]) -> Start:
    """What stays of a given picture, which is cropped as `prep` does."""
    assert edits.image is not None, "who calls this has asked"
    image, larger, white = given.read(edits.image, "--image"), not canvas.single, None
    if edits.mask:
        white = given.read(edits.mask, "--mask").white(image)
        if not editing.touched(white, canvas.grid).any():
            raise UsageError(
                f"--mask {edits.mask}: nothing is white in the part of it that pictures are "
                "cropped to, so nothing would be drawn anew; make white what is to be"
            )
    elif edits.keep is None and edits.variations is None:
        white = image.transparent()
        if white is not None and not editing.touched(white, canvas.grid).any():
            white = None  # it is cropped away
    picture = image.square(sampler.image_tokenizer.image_px)
    codes = sampler.encode(picture).cpu()
    known = canvas.holding(edits.kept(codes, white, seeds, larger))
    if edits.variations is not None:
        whole = _spaced(canvas.holding(codes[None]))
        return Start(canvas, known, made={"variations": f"{edits.variations}", "varied": whole})
    return begun(canvas, known, picture if edits.pastes(white, larger) else None)


def begun(canvas: Canvas, known: Tensor, pasted: np.ndarray | None) -> Start:
    """A drawing that begins with known codes (1, R, C), and shows the pixels of a picture, uint8
    (P, P, 3), where they are known, if one is given."""
    if pasted is not None:
        of = hashlib.sha256(pasted.tobytes()).hexdigest()
        return Start(canvas, known, pasted, {"known": _spaced(known), "pasted": of})
    if not canvas.single:
        return Start(canvas, known, made={"known": _spaced(known)})
    return Start(canvas, known, made={"kept": _spaced(known[known != TO_DRAW])})


def _spaced(codes: Tensor) -> str:
    """Codes in raster order, as files hold them."""
    return " ".join(map(str, codes.flatten().tolist()))


def _check_memory(canvas: Canvas, px: int, count: int, kept: int, animated: bool) -> None:
    """Raise OutOfMemory if what is held until they are written of so many pictures, and of those
    that are kept, is more than there is; `px` are the pixels along a side of a window."""
    codes = canvas.rows * canvas.columns
    pixels = 3 * codes * (px // canvas.grid) ** 2
    each = 100 + 8 * codes * (1 + (FRAMES if animated else 0))
    # the grid holds them again, and an animation does so for each moment
    needed = count * each + kept * pixels * (2 + (FRAMES if animated else 0))
    there = devices.memory_bytes(torch.device("cpu"))
    if needed > there:
        fewer = "draw them in several runs, with a smaller -n and another --seed each"
        raise OutOfMemory(
            f"{count:,} pictures take {files.human_bytes(needed)} of memory until they are written "
            f"and this machine has {files.human_bytes(there)}; "
            f"{fewer if canvas.single else 'draw fewer at a time, or smaller ones'}"
        )


def _draw(
    plan: Panorama, asked: Asked, best: int | None, animated: bool, report: Report
) -> tuple[Sketch, list[Tensor]]:
    """The pictures as codes, and the moments of them that an animation shows."""
    shape, device = plan.sampler.model.config, plan.sampler.device
    count = asked.n * len(asked.prompts)
    mine = len(range(count)[collectives.share()])
    size = max(min(fitting.at_a_time(shape, plan.config, device), mine), 1)

    def draw(size: int) -> tuple[Sketch, Frames]:
        frames = Frames(plan.moments)

        def watch(moment: Moment) -> None:
            report(Progress("draw", moment.done * count / mine, count, "images"))
            if animated:
                frames.keep(moment)

        how = (size, best, watch, True)
        return plan.sketch(asked.prompts, asked.n, asked.seed, *how), frames

    sketch, frames = fitting.halving(draw, size, "drawing", "batch_size", report)
    return sketch, frames.gather(plan.canvas, count) if animated else []


def _settings(config: SampleConfig) -> str:
    """Of the pictures: how many are drawn at a time changes none, and what came later is told where
    it is set, so that pictures of before are known as those that would be drawn now."""
    values, usual = settings.as_dict(config), settings.as_dict(SampleConfig())
    del values["batch_size"]
    return json.dumps({k: v for k, v in values.items() if k not in LATER or v != usual[k]})


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
