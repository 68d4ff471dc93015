"""What a run would meet here: the machine, the disk, the pictures, and how long training takes.

Nothing is estimated that was not tried: a batch is loaded and memorised, and the parts of the
planned runs are timed through the very functions that `train-vae` and `train` go through.
"""

import importlib
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dallebaby_cli import errors, files
from dallebaby_cli.config import PrepConfig, settings
from dallebaby_cli.errors import DallebabyError, MissingInput, OutOfMemory, UsageError
from dallebaby_cli.fetch import catalog
from dallebaby_cli.fetch.catalog import Dataset
from dallebaby_cli.models import device as devices
from dallebaby_cli.progress import Progress, Report, ignore
from dallebaby_cli.stages import run_checks, sharpen, train, train_vae
from dallebaby_cli.stages.run_checks import LESS_MEMORY, TIGHT, Check, State
from dallebaby_cli.store import extra_captions, manifest, tokens, weights
from dallebaby_cli.store.codes_id import codes_id
from dallebaby_cli.store.manifest import Manifest
from dallebaby_cli.store.pictures import grid, write_png
from dallebaby_cli.store.shards import Shards
from dallebaby_cli.training import peak
from dallebaby_cli.training.forecast import Forecast, forecast
from dallebaby_cli.training.peak import Limits

SHARES = {"png": 0.7, "jpeg": 0.2, "webp": 0.2}  # of a photograph's bytes that are left
COPIES = 9  # of a model on disk: weights, averages, moments, twice while saving; and the result
FEW_PICTURES = 1000
CODED = 4096  # most training pictures that get random codes
SHOWN = 32  # pictures of the batch in doctor.png


@dataclass
class Diagnosis:
    """What doctor found."""

    next: str
    """the command to go on with"""
    checks: list[Check] = field(default_factory=list)
    limits: Limits | None = None
    runs: list[Forecast] = field(default_factory=list)
    picture: Path | None = None
    """of a batch as training sees it"""

    @property
    def failed(self) -> bool:
        """Whether something has to be mended first."""
        return any(check.state == "fail" for check in self.checks)


def doctor(
    home: Path,
    configs: Mapping[str, Any],
    name: str | None,
    *,
    preset: str,
    device: str,
    report: Report,
) -> Diagnosis:
    """Examine this machine, and the dataset `name`, prepared or not (None: the newest prepared
    one, if any), with the configs that prep, train-vae and train have by that preset. Raises
    UsageError for a dataset that nobody knows."""
    target = devices.resolve(device)
    steps = ["machine", "pictures", "train-vae", "train"]

    def tell(number: int) -> None:
        detail = steps[number] if number < len(steps) else ""
        report(Progress("doctor", number, len(steps), "parts", detail))

    tell(0)
    machine = [_versions(), _device(target, device), _precision(target, configs), _libtorrent()]
    images = _prepared(home, name)
    if images is None:
        found = _unprepared(home, configs["prep"], name)
    else:
        found = Diagnosis(f"dallebaby train-vae {images.name} --preset {preset}")
    found.limits = peak.limits(target)
    found.checks[:0] = [*machine, run_checks.limits(found.limits, target)]
    if images is None:
        return found
    with _scratch(home) as folder:
        tell(1)
        vae = _examine_pictures(found, home, images, configs["train-vae"], target)
        tell(2)
        if vae is not None:
            pictures = len(vae.train)
            for part in _parts(vae, target):
                _examine_run(found, part, pictures, target, folder)
            tell(3)
            dalle = _codes(found, home, images, vae, configs["train"], target, folder)
            if dalle is not None:
                found.checks.append(_captions(dalle))
                _examine_run(found, dalle, pictures, target, folder)
            del (
                dalle
            )  # it has files of the scratch folder open, which Windows then would not remove
            models = sum(run.parameters for run in found.runs) * 4 * COPIES
            codes = (pictures + len(vae.holdout)) * 2 * vae.model.grid**2
            found.checks.append(_disk(home, models + codes, "models and codes take"))
    tell(4)
    return found


@contextmanager
def _scratch(home: Path) -> Iterator[Path]:
    """An empty folder for what is tried, on the disk where it would lie."""
    with files.lock(home / ".doctor", "doctor"):
        folder = home / ".doctor" / "scratch"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(home / ".doctor", ignore_errors=True)


# ---------------------------------------------------------------- the machine


def _versions() -> Check:
    found = f"Python {platform.python_version()}, torch {torch.__version__}, {sys.platform}"
    return Check("versions", "ok", found)


def _device(device: torch.device, asked: str) -> Check:
    memory = files.human_bytes(devices.memory_bytes(device))
    found = f"{devices.describe(device)}, {memory} of memory"
    if device.type == "cpu" and asked == "auto" and shutil.which("nvidia-smi"):
        advice = "there is an NVIDIA driver and torch finds no GPU; see pytorch.org/get-started"
        return Check("device", "warn", found, advice)
    return Check("device", "ok", found)


def _precision(device: torch.device, configs: Mapping[str, Any]) -> Check:
    asked = configs["train-vae"].precision
    found = devices.resolve_precision(device, asked)
    native = {"bf16": devices.native_bf16, "fp16": devices.native_fp16}
    if found in native and not native[found](device):
        advice = f"leave precision={found} out: fp32 is many times faster here"
        return Check("precision", "warn", f"{found}, which this device only emulates", advice)
    return Check("precision", "ok", found)


def _libtorrent() -> Check:
    try:
        importlib.import_module("dallebaby_cli.fetch.torrent")
    except ImportError as error:
        advice = "fetch works over HTTP only; `pip install libtorrent` brings BitTorrent"
        return Check("libtorrent", "warn", f"cannot be loaded ({error})", advice)
    return Check("libtorrent", "ok", "there")


def _disk(home: Path, needed: int, what: str) -> Check:
    """Whether so many bytes more fit."""
    free = files.free_bytes(home)
    found = f"{files.human_bytes(free)} free, {what} at most {files.human_bytes(needed)}"
    if needed <= TIGHT * free:
        return Check("disk", "ok", found)
    advice = "make room, or choose another disk with --home"
    return Check("disk", "warn" if needed <= free else "fail", found, advice)


# ---------------------------------------------------------------- which dataset


def _prepared(home: Path, name: str | None) -> Manifest | None:
    """The finished pictures of that name, or the newest; None if there are none yet."""
    found = (m for _, m in manifest.every(home, "images") if m.complete)
    return next((m for m in found if name in (None, m.name)), None)


def _unprepared(home: Path, config: PrepConfig, name: str | None) -> Diagnosis:
    """What there is to say before any pictures are prepared. Raises UsageError."""
    if name is None:
        found = Diagnosis("dallebaby prep scenes, or dallebaby fetch NAME")
        disk = _disk(home, 10**9, "a small dataset and its models take")
        found.checks += [disk, Check("pictures", "ok", "none prepared yet")]
        return found
    known = catalog.load(home)
    raw = manifest.read(manifest.artefact(home, "raw", name))
    if name not in known and raw is None:
        raise UsageError(
            f"no prepared pictures called {name!r} in {home} and no such dataset in the "
            f"catalogue{settings.nearest(name, known)}"
        )
    dataset = known.get(name)
    fetched = bool(raw and raw.complete) or (dataset is not None and dataset.transport == "none")
    found = Diagnosis(f"dallebaby {'prep' if fetched else 'fetch'} {name}")
    download = 0
    if not fetched and dataset is not None:
        if dataset.download_bytes is None:
            advice = f"`dallebaby fetch {name} --list` shows the files"
            found.checks.append(Check("download", "warn", "of unknown size", advice))
        download = (dataset.download_bytes or 0) - files.allocated_bytes(home / "raw" / name)
    pictures = _pictures(dataset, config)
    each = 3 * config.image_px**2 * SHARES[config.encoding]
    shards = 2 * int(pictures * each)  # pieces and shards of them
    what = f"{'' if fetched else 'the rest of the download and '}the shards of {name} take"
    state = "not prepared yet" if fetched else "not fetched yet"
    if pictures:
        found.checks.append(_disk(home, max(download, 0) + shards, what))
    else:
        free = files.human_bytes(files.free_bytes(home))
        found.checks.append(Check("disk", "warn", f"{free} free; how much it takes is unknown"))
    about = f"; about {pictures:,} pictures" if pictures else ""
    found.checks.append(Check("pictures", "ok", state + about))
    return found


def _pictures(dataset: Dataset | None, config: PrepConfig) -> int:
    """How many `prep` would take; 0 if nobody knows."""
    if dataset is not None and dataset.transport == "none":  # drawn: as many as are asked for
        return config.limit or dataset.images or 0
    listed = (dataset.images if dataset else None) or config.limit or 0
    return min(listed, config.limit or listed)


# ---------------------------------------------------------------- pictures


def _examine_pictures(
    found: Diagnosis, home: Path, images: Manifest, config: Any, device: torch.device
) -> train_vae.VaeTask | None:
    """Load a batch of them, as training would; None if that fails."""
    name = f"images/{images.name}"
    try:
        task, _ = train_vae.prepare(home, config, [images.name], device=device, report=ignore)
        batch = task.batch(0)[0]
    except DallebabyError as error:
        found.checks.append(Check(name, "fail", "cannot be used", str(error)))
        return None
    train, holdout = len(task.train), len(Shards(home / name).rows("holdout"))
    px, side = task.config.model.image_px, task.config.model.grid
    counted = f"{train:,} to train on, {holdout:,} held out, {px} px, {side} x {side} codes each"
    few = "with so few, models memorise them; prepare more"
    none = "nothing tells whether it learns more than these pictures; prepare with a hold-out split"
    advice = none if not holdout else few if train < FEW_PICTURES else ""
    found.checks.append(Check(name, "warn" if advice else "ok", counted, advice))
    found.picture = home / "doctor.png"
    write_png(found.picture, grid(batch[:SHOWN].permute(0, 2, 3, 1).numpy()))
    odd = train_vae.oddity(batch)
    values = f"{int(batch.min())} to {int(batch.max())}, mean {batch.float().mean():.0f}"
    values += f"; {found.picture} shows a batch"
    found.checks.append(Check("pixels", "warn" if odd else "ok", values, odd or ""))
    return task


# ---------------------------------------------------------------- runs


def _parts(vae: train_vae.VaeTask, device: torch.device) -> list[Any]:
    """The runs that `train-vae` takes, one after the other."""
    share = sharpen.share(vae.config, vae.train)
    pixels = replace(vae, config=sharpen.before_it(vae.config, share))
    if not share:
        return [pixels]
    after = sharpen.after_it(vae.config, share)
    return [pixels, sharpen.SharpenTask.of(vae.model, vae.train, vae.holdout, after, device)]


def _codes(
    found: Diagnosis,
    home: Path,
    images: Manifest,
    vae: train_vae.VaeTask,
    config: Any,
    device: torch.device,
    scratch: Path,
) -> train.DalleTask | None:
    """The newest codes of these pictures, or random ones, as training would read them; None if
    that fails."""
    made = [m.name for _, m in manifest.every(home, "tokens") if m.complete]
    name = next((n for n in made if n.partition("@")[0] == images.name), None)
    try:
        if name is None:
            name = _draw_codes(scratch, home / "images" / images.name, vae)
            home = scratch
        return train.prepare(home, config, [name], device=device, report=ignore)[0]
    except (DallebabyError, OSError) as error:
        state: State = "warn" if isinstance(error, MissingInput) else "fail"
        found.checks.append(Check("train", state, "cannot be started", str(error)))
        return None


def _captions(task: train.DalleTask) -> Check:
    told = train.cut_captions(task)
    return Check("train: captions", "warn" if told else "ok", told or "none is cut")


def _draw_codes(home: Path, images: Path, vae: train_vae.VaeTask) -> str:
    """Random codes of real pictures by an untrained dVAE: all that the transformer's speed depends
    on is as it will be. Returns the name of the tokens."""
    source = Shards(images)
    if extra_captions.find(images):  # they lie beside the shards
        copy = home / "images" / images.name
        shutil.copytree(extra_captions.about(images), extra_captions.about(copy))
        shutil.copyfile(extra_captions.file(images), extra_captions.file(copy))
    folder = home / "vae" / "untrained"
    weights.save_weights(folder / "model.safetensors", vae.model.state_dict())
    vae_id = weights.write_model(folder, "vae", {"model": vae.model.describe()})
    manifest.write(folder, Manifest(kind="vae", name=folder.name, id=vae_id, complete=True))
    rows = np.concatenate([source.rows("train")[:CODED], source.rows("holdout")])
    shape = (len(rows), 1, vae.model.grid, vae.model.grid)
    name = f"{source.name}@{folder.name}"
    shard = home / "tokens" / name / "random.arrow"
    tokens.write_shard(
        shard,
        [source.key(int(row)) for row in rows],
        source.splits(rows),
        [source.captions(int(row)) for row in rows],
        np.random.default_rng(0).integers(vae.model.codes, size=shape, dtype=np.uint16),
    )
    made = Manifest(
        kind="tokens",
        name=name,
        id=files.hash_of(files.hashes([shard]).values()),
        complete=True,
        parents={f"images/{source.name}": source.id, f"vae/{folder.name}": codes_id(folder)},
        counts={"pictures": len(rows)},
    )
    manifest.write(shard.parent, made)
    return name


def _examine_run(
    found: Diagnosis, task: Any, pictures: int, device: torch.device, scratch: Path
) -> None:
    """Memorise one batch and time the parts of the run planned for so many pictures."""
    try:
        precision = devices.resolve_precision(device, task.config.precision)
        most = found.limits.matmul_flops.get(precision, 0.0) if found.limits else 0.0
        run = forecast(task, pictures, device, scratch, most)
    except (OutOfMemory, MemoryError, RuntimeError) as error:
        if not errors.out_of_memory(error):
            raise
        advice = str(error) if isinstance(error, OutOfMemory) else LESS_MEMORY
        found.checks.append(Check(f"{task.name}: memory", "fail", "too little", advice))
    except (DallebabyError, OSError) as error:
        found.checks.append(Check(task.name, "fail", "cannot be tried", str(error)))
    else:
        found.runs.append(run)
        found.checks += run_checks.judge(run, device)
