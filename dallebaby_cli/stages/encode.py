"""images/NAME + vae/RUN → tokens/NAME@RUN: pictures as grids of codes."""

import dataclasses
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dallebaby_cli import files
from dallebaby_cli.config import EncodeConfig, settings
from dallebaby_cli.drawing import fitting, pretrained
from dallebaby_cli.errors import Mismatch
from dallebaby_cli.interrupt import Interrupt
from dallebaby_cli.models import collectives
from dallebaby_cli.models import device as devices
from dallebaby_cli.models.tokenizers import ImageTokenizer
from dallebaby_cli.progress import Note, Progress, Report
from dallebaby_cli.store import manifest, tokens
from dallebaby_cli.store.codes_id import codes_id
from dallebaby_cli.store.manifest import Manifest
from dallebaby_cli.store.shards import Shards
from dallebaby_cli.training import augment, engine
from dallebaby_cli.training.batches import prefetch

ASKED = 1000  # pictures whose captions say whether most may be mirrored


@dataclass(frozen=True)
class Encoded:
    """Complete token shards."""

    folder: Path
    manifest: Manifest
    fresh: bool
    """False if there was nothing left to do"""
    images_per_s: float = 0.0
    """views that all processes together encoded in a second"""


def encode(
    home: Path,
    config: EncodeConfig,
    names: list[str],
    *,
    vae: str | None = None,
    device: str = "auto",
    report: Report,
) -> list[Encoded]:
    """Encode the named image datasets (the newest one if none is named) with a trained image
    tokenizer."""
    vae_folder, vae_manifest = manifest.find(home, "vae", vae)
    found = manifest.find_all(home, "images", names)
    model = pretrained.load_image_tokenizer(vae_folder, engine.device(device))
    done = []
    for folder, images in found:
        report(Note(f"encode: images/{images.name} with vae/{vae_manifest.name}"))
        source = Shards(folder)
        if source.image_px != model.image_px:
            raise Mismatch(
                f"images/{images.name} are {source.image_px} px and vae/{vae_manifest.name} reads "
                f"{model.image_px} px; run `dallebaby prep {images.name} "
                f"--px {model.image_px}`, or train another dVAE"
            )
        draft = Manifest(
            kind="tokens",
            name=f"{images.name}@{vae_manifest.name}",
            parents={
                f"images/{images.name}": images.id,
                f"vae/{vae_manifest.name}": codes_id(vae_folder),
            },
        )
        chosen = _with_views(home, config, draft, vae_manifest.id, images, source, report)
        draft = dataclasses.replace(draft, config=settings.as_dict(chosen))
        done.append(_encode_one(home, draft, vae_manifest.id, source, model, chosen, report))
    return done


def _with_views(
    home: Path,
    config: EncodeConfig,
    draft: Manifest,
    vae_id: str,
    images: Manifest,
    source: Shards,
    report: Report,
) -> EncodeConfig:
    """With as many views as are asked for; if none are, with those that such tokens were begun
    with, or as many as so few pictures need, and of many the mirror alone. Scenes need none: more
    of them can be drawn."""
    if config.views:
        return dataclasses.replace(config, flip=bool(config.flip))
    found = manifest.read(manifest.artefact(home, "tokens", draft.name))
    if found and _same_parents(found, draft, vae_id) and found.config.get("views"):
        flip = found.config.get("flip") if config.flip is None else config.flip
        kept = {"views": found.config["views"], "flip": flip}
        return settings.build(EncodeConfig, {**settings.as_dict(config), **kept})
    rows, flip = source.rows("train"), config.flip is not False
    count, views = len(rows), augment.usual_views(len(rows))
    mirrors = flip and (views == 1 or config.crop == 1)
    if manifest.is_scenes(images) or not (mirrors or (views > 1 and config.crop < 1)):
        return dataclasses.replace(config, views=1, flip=False)
    if mirrors:
        may = [augment.may_be_mirrored(source.captions(int(row))) for row in rows[:ASKED]]
        if 2 * sum(may) < len(may):
            return dataclasses.replace(config, views=1, flip=False)
        report(Note("encode: each picture and its mirror (--set views=1 takes itself alone)"))
        return dataclasses.replace(config, views=2, flip=True)
    report(
        Note(
            f"encode: {views} views of each picture, because only {count:,} are to train on: itself"
            f" and crops of at least {config.crop:.0%} of it"
            f"{', every second view mirrored' if flip else ''} (--set views=1 takes none)"
        )
    )
    return dataclasses.replace(config, views=views, flip=flip)


def _encode_one(
    home: Path,
    draft: Manifest,
    vae_id: str,
    source: Shards,
    model: ImageTokenizer,
    config: EncodeConfig,
    report: Report,
) -> Encoded:
    folder = manifest.artefact(home, "tokens", draft.name)
    starts = range(0, len(source), config.shard_pictures)
    paths = [folder / f"{number:05d}.arrow" for number in range(len(starts))]
    first = engine.first()
    with files.lock(folder, f"tokens/{draft.name}") if first else nullcontext():
        missing = engine.once(lambda: _missing(folder, draft, vae_id, paths, source, model, report))
        if missing is None:
            found = manifest.read(folder)
            assert found is not None, "it was found complete"
            return Encoded(folder, found, fresh=False)
        began = time.perf_counter()
        with Interrupt() as interrupt:

            def tell(done: int) -> None:
                report(Progress("encode", done, len(source), "images"))
                interrupt.raise_if_asked("stopped; run it again to continue")

            for number in missing[collectives.share()]:
                rows = np.arange(len(source))[starts[number] :][: config.shard_pictures]
                _encode_shard(paths[number], source, rows, model, config, tell, report)
            engine.wait()
        encoded = sum(min(config.shard_pictures, len(source) - starts[n]) for n in missing)
        rate = encoded * config.views / (time.perf_counter() - began)
        hashes = engine.once(lambda: files.hashes(paths))
        counts = {"pictures": len(source), "shards": len(paths), "views": config.views}
        whole = dataclasses.replace(
            draft,
            id=files.hash_of(hashes.values()),
            complete=True,
            counts=counts,
            hashes=hashes,
        )
        if first:
            manifest.write(folder, whole)
    return Encoded(folder, whole, fresh=True, images_per_s=rate)


def _missing(
    folder: Path,
    draft: Manifest,
    vae_id: str,
    paths: list[Path],
    source: Shards,
    model: ImageTokenizer,
    report: Report,
) -> list[int] | None:
    """Numbers of the shards that are not there or not as they must be, or None if all is complete.
    Removes what is no part of the work."""
    found, there = manifest.read(folder), {*folder.glob("*.arrow")}
    good: set[Path] = set()
    same = found and _is_same(found, draft, vae_id)
    if found and same and found.complete:
        good = _as_written(found, [path for path in paths if path in there])
        if good == there == {*paths}:
            return None
        lost = f"{len(paths) - len(good)} of {len(paths)} shards are not as they were written"
        report(Note(f"encode: {folder}: {lost}; they are made again", "warning"))
    elif same:
        good = _whole(draft, [path for path in paths if path in there], source, model)
    for path in there - good:
        path.unlink()
    if not (found and same) or found.complete:
        manifest.write(folder, draft)
    return [number for number, path in enumerate(paths) if path not in good]


def _is_same(found: Manifest, draft: Manifest, vae_id: str) -> bool:
    """Whether tokens are of the same pictures, codes and settings as the draft's. Older versions
    named the id of the whole dVAE."""
    return found.config == draft.config and _same_parents(found, draft, vae_id)


def _same_parents(found: Manifest, draft: Manifest, vae_id: str) -> bool:
    older = {k: vae_id if k.startswith("vae/") else v for k, v in draft.parents.items()}
    return found.parents in (draft.parents, older)


def _as_written(found: Manifest, paths: list[Path]) -> set[Path]:
    """Those shards that the manifest was written for."""
    hashes = files.hashes(paths)
    known = found.hashes or hashes  # older manifests have none, and can be checked as a whole only
    if files.hash_of(known.values()) != found.id:
        return set()
    return {path for path in paths if hashes[path.name] == known.get(path.name)}


def _whole(draft: Manifest, paths: list[Path], source: Shards, model: ImageTokenizer) -> set[Path]:
    """Those shards of a broken-off run that are whole."""
    keys, each = source.identities()["key"], draft.config["shard_pictures"]
    shape = (draft.config["views"], model.grid, model.codes)
    return {
        path
        for path in paths
        if tokens.holds(path, keys.slice(int(path.stem) * each, each).to_pylist(), *shape)
    }


def _encode_shard(
    path: Path,
    source: Shards,
    rows: np.ndarray,
    model: ImageTokenizer,
    config: EncodeConfig,
    tell: Callable[[int], None],
    report: Report,
) -> None:
    """Encode some rows into one shard, telling after each batch how far this has come."""

    def encoded(size: int) -> list[np.ndarray]:
        each = max(size // config.views, 1)  # pictures, with all their views
        batches = [rows[i : i + each] for i in range(0, len(rows), each)]

        def read(number: int) -> torch.Tensor:
            return _views(source, batches[number], config)

        codes: list[np.ndarray] = []
        for views in prefetch(read, 0, len(batches)):
            found = _codes(model, views.flatten(0, 1), min(size, each * config.views))
            codes.append(found.reshape(-1, config.views, *found.shape[1:]))
            tell(int(rows[0]) + sum(map(len, codes)))
        return codes

    most = min(config.batch_size, len(rows) * config.views)
    codes = fitting.halving(encoded, most, "encoding", "batch_size", report)
    tokens.write_shard(
        path,
        [source.key(int(row)) for row in rows],
        source.splits(rows),
        [source.captions(int(row)) for row in rows],
        np.concatenate(codes),
    )


@torch.no_grad()
def _codes(model: ImageTokenizer, pictures: torch.Tensor, size: int) -> np.ndarray:
    """uint16 (B, G, G) of pictures (B, 3, P, P), so many at a time."""
    with devices.autocast(model.device, "fp32"):  # codes must not depend on luck
        parts = [model.encode(part.to(model.device)).cpu() for part in torch.split(pictures, size)]
    return torch.cat(parts).numpy().astype(np.uint16)


def _views(source: Shards, rows: np.ndarray, config: EncodeConfig) -> torch.Tensor:
    """uint8 (B, V, 3, P, P): each picture as it is, its mirror, then crops of it, of which every
    second one is mirrored; where it may not be, crops alone. They follow from the seed, its key and
    the view's number, and from nothing else."""
    pictures = torch.from_numpy(np.stack([source.image(int(row)) for row in rows]))
    pictures = pictures.permute(0, 3, 1, 2)
    views, flip = [pictures], np.array([_mirrored(source, int(row), config) for row in rows])
    for view in range(1, config.views):
        seeds = ((config.seed, view, *source.key(int(row)).encode()) for row in rows)
        draws = np.stack([np.random.default_rng(seed).random(augment.DRAWS) for seed in seeds])
        draws[:, augment.MIRROR] = 0.0 if view % 2 else 1.0
        varied = augment.vary(pictures, draws, config.crop, flip)
        if view == 1:  # the whole mirror
            mirrored = torch.from_numpy(flip)[:, None, None, None]
            varied = torch.where(mirrored, pictures.flip(-1), varied)
        views.append(varied)
    return torch.stack(views, dim=1)


def _mirrored(source: Shards, row: int, config: EncodeConfig) -> bool:
    """Whether further views of a picture may be mirrored."""
    return bool(config.flip) and augment.may_be_mirrored(source.captions(row))
