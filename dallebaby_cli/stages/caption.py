"""images/NAME + a pretrained model → images/NAME/captions.jsonl: more captions, checked.

The work is cut into units of some hundred pictures. What is in a unit depends on its pictures, the
model and the config alone; a unit that is there is whole, so a run that was killed goes on with
those that are not.
"""

import functools
import shutil
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dallebaby_cli import __version__, files
from dallebaby_cli.captioning import captioner, drafts
from dallebaby_cli.captioning.captioner import Captioner, Pretrained
from dallebaby_cli.config import CaptionConfig
from dallebaby_cli.config.settings import as_dict
from dallebaby_cli.errors import BadInput, Mismatch, MissingInput
from dallebaby_cli.interrupt import Interrupt
from dallebaby_cli.prep import cluster
from dallebaby_cli.progress import Note, Progress, Report
from dallebaby_cli.store import extra_captions, manifest
from dallebaby_cli.store.manifest import Manifest
from dallebaby_cli.store.shards import Shards

SPEED_ONLY = ("batch_size", "unit_pictures", "where")  # settings that do not change the captions


@dataclass(frozen=True)
class Captioned:
    """A dataset with the captions of one more model."""

    file: Path
    source: str
    """how these captions are marked: "model:NAME" """
    manifest: Manifest
    """of all extra captions; its counts say what came of each source"""
    fresh: bool
    """False if there was nothing left to do"""


@dataclass(frozen=True)
class Unit:
    """Some pictures to caption; small enough to send to another machine."""

    path: Path
    """of the part to write"""
    images: Path
    start: int
    stop: int
    """rows of the images from `start` to before `stop`"""
    model: str
    """folder or hub id"""
    model_id: str
    device: str
    config: CaptionConfig

    @property
    def needs(self) -> Path:
        """The folder that is read."""
        return self.images


def caption(
    home: Path,
    name: str | None,
    model: str,
    config: CaptionConfig,
    *,
    device: str = "auto",
    report: Report,
) -> Captioned:
    """Let a model (a folder or a hub id) caption images/NAME (the newest if None)."""
    folder, images = manifest.find(home, "images", name)
    shards = Shards(folder)
    found = captioner.find(model)
    source = f"model:{found.name}"
    asked = {k: v for k, v in as_dict(config).items() if k not in SPEED_ONLY}
    asked |= {"id": found.id, "looks": found.looks}
    parents = {f"images/{images.name}": images.id}
    with files.lock(extra_captions.about(folder), f"the captions of images/{images.name}"):
        before = _before(folder, parents)
        figures = before.counts if before else {}
        models = {name: before.config["models"][name] for name in figures} if before else {}
        if before and before.complete and models.get(source) == asked:
            return Captioned(extra_captions.file(folder), source, before, fresh=False)
        report(Note(f"caption: images/{images.name} by {source}, to {folder}"))
        _require_something(shards, found)
        draft = Manifest(
            kind="captions",
            name=images.name,
            config={"models": models | {source: asked}},
            parents=parents,
            counts=figures,
        )
        identity = [__version__, source, str(asked), str(config.unit_pictures)]
        work = _work(folder, images.id) / files.hash_of(identity)[:16]
        units = [
            Unit(work / f"{n:06}.jsonl", folder, start, stop, model, found.id, device, config)
            for n, (start, stop) in enumerate(_cuts(len(shards), config.unit_pictures))
        ]
        make_all = _make_here if config.where == "local" else _make_on_cluster
        make_all(units, len(shards), report)
        whole = extra_captions.put(folder, draft, source, [unit.path for unit in units])
        shutil.rmtree(work)
    return Captioned(extra_captions.file(folder), source, whole, fresh=True)


def _before(folder: Path, parents: dict[str, str]) -> Manifest | None:
    """The manifest of the captions that are there, if they are of these pictures and as they were
    written (or a kill came while they were replaced)."""
    found = manifest.read(extra_captions.about(folder))
    if found is None or found.parents != parents or not extra_captions.file(folder).exists():
        return None
    if found.complete:
        try:
            return extra_captions.find(folder)
        except BadInput:
            return None
    return found


def _work(folder: Path, images_id: str) -> Path:
    """Where parts are until they are merged; those of pictures that are gone go too."""
    works = extra_captions.about(folder) / ".work"
    for old in works.glob("*"):
        if old.name != images_id[:16]:
            shutil.rmtree(old)
    return works / images_id[:16]


def _cuts(count: int, size: int) -> list[tuple[int, int]]:
    return [(start, min(start + size, count)) for start in range(0, count, size)]


def _require_something(shards: Shards, found: Pretrained) -> None:
    if not found.looks and all(_subject(shards, row) is None for row in range(len(shards))):
        raise MissingInput(
            f"images/{shards.name} has no labels, so the language model {found.name} has nothing "
            "to rewrite; take a model that looks at pictures, such as BLIP"
        )


def _make_here(units: list[Unit], pictures: int, report: Report) -> None:
    with Interrupt() as interrupt:
        for unit in units:

            def tell(share: float, unit: Unit = unit) -> None:
                done = unit.start + share * (unit.stop - unit.start)
                report(Progress("caption", round(done), pictures, "images"))
                interrupt.raise_if_asked(
                    f"stopped after {unit.start:,} pictures; run it again to continue"
                )

            if not extra_captions.is_whole(unit.path):
                files.write_bytes(unit.path, content(unit, tell))
            tell(1)


def _make_on_cluster(units: list[Unit], pictures: int, report: Report) -> None:
    config, device = units[0].config, units[0].device
    with cluster.connect(config.where, gpu=device in ("auto", "cuda")) as found:
        missing = deque(unit for unit in units if not extra_captions.is_whole(unit.path))
        waiting: deque[tuple[Unit, Callable[[], None]]] = deque()
        while missing or waiting:
            while missing and len(waiting) < 2 * found.processors:
                waiting.append((missing[0], found.start(content, missing.popleft())))
            unit, wait = waiting.popleft()
            wait()
            report(Progress("caption", unit.stop, pictures, "images"))


def content(unit: Unit, tell: Callable[[float], None] = lambda share: None) -> bytes:
    """Caption the pictures of one unit; `tell` hears the share that is done."""
    found, writer = _loaded(unit.model, unit.model_id, unit.device)
    shards = Shards(unit.images)
    rows = [
        row
        for row in range(unit.start, unit.stop)
        if found.looks or _subject(shards, row) is not None
    ]
    asked = [(row, number) for row in rows for number in range(unit.config.each)]
    written: dict[int, list[str]] = {row: [] for row in rows}
    for start in range(0, len(asked), unit.config.batch_size):
        batch = asked[start : start + unit.config.batch_size]
        for (row, _), text in zip(batch, _write(writer, shards, batch, unit.config), strict=True):
            written[row].append(text)
        tell((start + len(batch)) / len(asked))
    sifted = [
        (shards.key(row), *drafts.sift(texts, shards.captions(row), _labels(found, shards, row)))
        for row, texts in written.items()
    ]
    return extra_captions.part(sifted)


@functools.lru_cache(maxsize=1)
def _loaded(model: str, model_id: str, device: str) -> tuple[Pretrained, Captioner]:
    found = captioner.find(model)
    if found.id != model_id:
        raise Mismatch(f"{model} is not the same model as when the work began; start again")
    return found, captioner.load(found, device)


def _write(
    writer: Captioner, shards: Shards, batch: list[tuple[int, int]], config: CaptionConfig
) -> list[str]:
    """A draft for each row and number in the batch."""
    seeds = [f"{config.seed} {shards.key(row)} {number}" for row, number in batch]
    if writer.images is not None:
        return writer.look([shards.image(row) for row, _ in batch], seeds, config)
    return writer.rewrite([_subject(shards, row) or "" for row, _ in batch], seeds, config)


def _subject(shards: Shards, row: int) -> str | None:
    return drafts.subject(shards.label(row), shards.captions(row), shards.caption_sources(row))


def _labels(found: Pretrained, shards: Shards, row: int) -> list[str]:
    """What a draft must name one of: all that a language model was told, or any of the labels."""
    about = shards.label(row) if found.looks else _subject(shards, row)
    if about is None:
        return []
    return about.split(", ") if found.looks else [about]
