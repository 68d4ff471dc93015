"""train-vae: every quantizer resumes bit for bit, and hostile pictures end in a warning or a
sentence, never in a model that is silently useless."""

import dataclasses
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import same
from PIL import Image
from torch import Tensor, nn

from dallebaby_cli import progress
from dallebaby_cli.config import DVAEConfig, OptimConfig, PrepConfig, TrainVaeConfig
from dallebaby_cli.drawing import pretrained
from dallebaby_cli.errors import BadInput, Diverged, Interrupted, MissingInput
from dallebaby_cli.models.tokenizers.dvae import DVAE
from dallebaby_cli.models.tokenizers.quantizers import VQ
from dallebaby_cli.quality.metrics import psnr
from dallebaby_cli.stages.prep import prep
from dallebaby_cli.stages.train_vae import VaeTask, oddity, textures, train_vae
from dallebaby_cli.store import manifest
from dallebaby_cli.store.shards import Described, Shards, ShardWriter
from dallebaby_cli.training import checkpoint, loop
from dallebaby_cli.training import run as runs
from dallebaby_cli.training.batches import Pictures
from dallebaby_cli.training.state import State

CPU = torch.device("cpu")
STEPS = 14
SMALL = TrainVaeConfig(
    steps=STEPS,
    batch_size=8,
    eval_every=5,
    eval_images=16,
    save_every_s=0,
    crop=0.5,
    flip=True,
    model=DVAEConfig(image_px=32, grid=8, width=8, depth=1, codebook=40, levels=(8, 5)),
    optim=OptimConfig(lr=2e-3),
)
KEPT = {"reconstructions.png", "codebook.png", "training.gif"}


@dataclass(frozen=True)
class Stopping(VaeTask):
    """A task whose process is asked to stop in the middle of a step."""

    stop: int = -1

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...], progress: float) -> Tensor:
        if round(progress * STEPS) == self.stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().loss(model, batch, progress)


@pytest.mark.precisions
@pytest.mark.parametrize("quantizer", ["fsq", "vq", "gumbel"])
def test_a_run_broken_off_ends_as_one_that_was_not(
    prepared: Path, tmp_path: Path, quantizer: str
) -> None:
    source = Shards(prepared / "images" / "shapes")
    train, holdout = Pictures([source], "train"), Pictures([source], "holdout")
    model = dataclasses.replace(SMALL.model, quantizer=quantizer)
    config = dataclasses.replace(SMALL, model=model)

    def fit(folder: Path, stop: int = -1) -> State:
        torch.manual_seed(0)
        model = DVAE(config.model)
        if isinstance(model.quantizer, VQ):
            model.quantizer.patience = 3  # so that codes move in so short a run
        task = Stopping(model, train, holdout, config, stop=stop)
        return loop.fit(task, config, STEPS, folder, CPU, progress.ignore)

    fit(tmp_path / "whole")
    for stop in (0, 7):
        with pytest.raises(Interrupted):
            fit(tmp_path / f"broken-{stop}", stop)
        fit(tmp_path / f"broken-{stop}")
        whole = checkpoint.load_state(tmp_path / "whole" / "state.pt")
        assert same(checkpoint.load_state(tmp_path / f"broken-{stop}" / "state.pt"), whole)
        assert frames(tmp_path / f"broken-{stop}") == frames(tmp_path / "whole")


def frames(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "frames").iterdir()}


def test_a_codes_texture_is_the_middle_of_a_field_of_it() -> None:
    model = DVAE(SMALL.model).eval()
    found = textures(model)
    assert found.shape == (40, 3, 4, 4)
    field = model.decode(torch.full((1, 5, 5), 17))
    assert (found[17].int() - field[0, :, 8:12, 8:12].int()).abs().max() <= 1


# ---------------------------------------------------------------- hostile pictures


@dataclass
class Trained:
    """How a run on hostile pictures ended."""

    warnings: list[str]
    figures: dict[str, float]
    kept: set[str]


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., Trained]:
    """Prepare a folder of pictures and train on it."""

    def run(pictures: list[np.ndarray], **changed: object) -> Trained:
        home, folder = tmp_path / "home", tmp_path / "pictures"
        folder.mkdir()
        for number, picture in enumerate(pictures):
            Image.fromarray(picture).save(folder / f"{number:03}.png")
        held_out = 5 if len(pictures) > 1 else 0.001  # a single one is to be trained on
        how = PrepConfig(image_px=32, workers=1, holdout_percent=held_out)
        prep(home, str(folder), how, report=progress.ignore)
        notes: list[progress.Event] = []
        config = dataclasses.replace(SMALL, crop=1.0, flip=False, **changed)
        done = train_vae(home, config, [], preset="tiny", device="cpu", report=notes.append)
        warnings = [n.text for n in notes if isinstance(n, progress.Note) and n.level == "warning"]
        kept = {path.name for path in done.folder.iterdir()}
        return Trained(warnings, dict(done.manifest.counts), kept)

    return run


def noise(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8))


def test_black_pictures_are_noticed(train: Callable[..., Trained]) -> None:
    done = train([np.zeros((side, side, 3), np.uint8) for side in range(20, 60)])
    assert "the pictures of the first batch are flat, one colour each" in done.warnings[0]
    assert any("hardly better than one flat colour" in w for w in done.warnings)


def test_one_picture_is_enough_but_warned_of(train: Callable[..., Trained]) -> None:
    done = train(noise(1))
    assert any("no hold-out pictures" in w for w in done.warnings)
    assert any("all pictures of the first batch are the same" in w for w in done.warnings)
    assert done.kept >= KEPT


def test_pictures_that_are_all_the_same_are_noticed(train: Callable[..., Trained]) -> None:
    [picture] = noise(1)
    framed = [np.pad(picture, ((0, 0), (pad, pad), (0, 0))) for pad in range(1, 15)]
    done = train(framed)  # cut to the same square
    assert any("all pictures of the first batch are the same" in w for w in done.warnings)


def test_pictures_scaled_to_one_are_noticed(train: Callable[..., Trained]) -> None:
    done = train([picture // 128 for picture in noise(20)])
    assert "values from 0 to 1 of 0 to 255 only" in done.warnings[0]


def test_a_rate_that_is_far_too_high_is_not_silent(train: Callable[..., Trained]) -> None:
    done = train(noise(40), optim=OptimConfig(lr=100 * SMALL.optim.lr), steps=60)
    assert any("lower rate, such as --set optim.lr=0.02" in w for w in done.warnings)


def test_a_run_that_came_to_nothing_is_not_taken_for_a_model(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "TRIAL_STEPS", STEPS)
    home = shutil.copytree(prepared, tmp_path / "home")

    def train(lr: float, steps: int = STEPS) -> runs.Finished:
        optim = OptimConfig(lr=lr, muon=False)
        config = dataclasses.replace(SMALL, optim=optim, steps=steps)
        return train_vae(home, config, [], preset="tiny", device="cpu", report=progress.ignore)

    for _ in range(2):  # a rerun says so again
        with pytest.raises(Diverged) as caught:
            train(lr=1.0)
        assert "has come to nothing and stays unfinished: reconstructions (" in str(caught.value)
        assert "with a lower rate, such as --set optim.lr=0.1" in str(caught.value)
    with pytest.raises(MissingInput, match="nothing complete"):
        manifest.newest(home, "vae")
    done = train(lr=5e-3, steps=120)
    assert manifest.newest(home, "vae") == (done.folder, manifest.read(done.folder))


@pytest.mark.parametrize(
    ("forged", "words"),
    [
        ("TIFF", "is no PNG, JPEG or WebP"),
        ("garbage", "is no PNG, JPEG or WebP"),
        ("large", "is 40 x 40 and not 32 px a side"),
        ("cut", "is no PNG, JPEG or WebP"),
    ],
)
def test_a_forged_shard_is_refused(prepared: Path, tmp_path: Path, forged: str, words: str) -> None:
    path = tmp_path / "forged.png"
    if forged == "TIFF":
        Image.fromarray(np.full((32, 32), np.nan, np.float32)).save(path, format="TIFF")
    elif forged == "cut":
        Image.fromarray(noise(1)[0]).save(path)
        path.write_bytes(path.read_bytes()[:-500])
    elif forged == "garbage":
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    else:
        Image.new("RGB", (40, 40)).save(path)
    home = tmp_path / "home"
    folder = home / "images" / "forged"
    folder.parent.mkdir(parents=True)
    writer = ShardWriter(folder, "forged", "png", 1e6)
    for number in range(4):
        key = f"{number:032x}"
        about = Described(
            captions=[], caption_sources=[], label=None, source="x", split="train", group=key
        )
        writer.add(key, path.read_bytes(), about)
    writer.close()
    about = manifest.read(prepared / "images" / "shapes")
    assert about is not None
    manifest.write(folder, dataclasses.replace(about, name="forged", hashes={}))
    with pytest.raises(BadInput, match=words) as caught:
        train_vae(home, SMALL, [], preset="tiny", device="cpu", report=progress.ignore)
    assert "forged-00000.tar" in str(caught.value)
    assert "remove the shard and run `dallebaby prep /" in str(caught.value)
    assert "/shapes --name forged` again with its settings to make it anew" in str(caught.value)
    assert not list((home / "vae").glob("*/model.safetensors"))


@pytest.mark.precisions
@pytest.mark.parametrize("quantizer", ["fsq", "vq", "gumbel"])
def test_a_run_leaves_pictures_and_a_model(prepared: Path, tmp_path: Path, quantizer: str) -> None:
    home = shutil.copytree(prepared, tmp_path / "home")
    config = dataclasses.replace(SMALL, model=dataclasses.replace(SMALL.model, quantizer=quantizer))
    done = train_vae(home, config, [], preset="tiny", device="cpu", report=progress.ignore)
    assert {path.name for path in done.folder.iterdir()} >= KEPT
    with Image.open(done.folder / "training.gif") as animation:
        assert animation.n_frames == len(frames(done.folder)) > 5
    figures = done.manifest.counts
    assert figures["dead_codes"] == round(40 * (1 - figures["codes_used"]))
    model = pretrained.load_image_tokenizer(done.folder, CPU)
    source = Shards(home / "images" / "shapes")
    holdout = Pictures([source], "holdout")
    assert len(holdout) > config.eval_images, "the last evaluation reads more than others"
    pictures = holdout.read(np.arange(len(holdout)))
    found = psnr(model.decode(model.encode(pictures)), pictures).mean()
    assert float(found) == pytest.approx(figures["psnr"], abs=0.01)


@pytest.mark.parametrize(
    ("used", "seen", "warns"),
    [
        (0.08, 192, False),  # of three pictures, whose codes could not be many more
        (0.08, 100_000, True),
        (0.08, None, True),  # of a run of an older version
        (0.004, 192, True),  # four codes for three pictures
        (0.63, 100_000, False),
    ],
)
def test_a_codebook_is_judged_by_what_so_few_pictures_can_use(
    used: float, seen: int | None, warns: bool
) -> None:
    task = object.__new__(VaeTask)
    model = DVAEConfig(image_px=64, grid=8)  # 1000 codes
    object.__setattr__(task, "config", TrainVaeConfig(model=model))
    figures = {"psnr": 25.0, "flat_psnr": 15.0, "codes_used": used}
    figures |= {} if seen is None else {"codes_seen": seen}
    warning = task.warning(figures)
    assert (warning is not None) == warns
    assert not warns or f"only {used:.0%} of the codebook" in str(warning)


def test_nothing_is_said_of_a_batch_of_few_pictures() -> None:
    flat = torch.full((4, 3, 8, 8), 90, dtype=torch.uint8)
    assert "flat" in str(oddity(flat)) and oddity(flat[:3]) is None
