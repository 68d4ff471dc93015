"""What must hold on a GPU: it computes what a CPU does, and its fast paths what its slow ones do.

Where there is no GPU, all of it runs on the CPU, so that it works when one comes.
"""

import json
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Ran, forced, lively_sampler, same
from PIL import Image
from torch import Tensor, nn
from training import rank_at_work

from dallebaby_cli.config import SampleConfig, settings, usual_digits, usual_numbers
from dallebaby_cli.config.models import ClassifierConfig, DVAEConfig, TransformerConfig
from dallebaby_cli.drawing import speed
from dallebaby_cli.drawing.sampler import Sampler
from dallebaby_cli.drawing.steps import Steps
from dallebaby_cli.errors import Interrupted
from dallebaby_cli.models import device as devices
from dallebaby_cli.models.block import Cache, relu2
from dallebaby_cli.models.classifier import Classifier, Vocabulary
from dallebaby_cli.models.tokenizers.dvae import DVAE
from dallebaby_cli.models.transformer import Transformer
from dallebaby_cli.progress import ignore
from dallebaby_cli.training import checkpoint, loop, muon, peak
from dallebaby_cli.training.batches import staged
from dallebaby_cli.training.loop import take_step
from dallebaby_cli.training.parts import Objective
from dallebaby_cli.training.state import State

CPU = torch.device("cpu")
GPU = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PROMPTS = ["a red car", "a blue house left of a green tree", "a blue car", ""] * 2
ROUNDING = 1e-4  # relative, of fp32 without TF32, summed in another order


@pytest.fixture(scope="module", autouse=True)
def exact() -> None:
    devices.resolve("auto")  # which says what fp32 is


@pytest.fixture(scope="module")
def on_gpu(sampler: Sampler) -> Sampler:
    """The sampler, on the GPU."""
    return moved(sampler)


@pytest.fixture(
    scope="module",
    params=[((), False), ((8, 6, 5), False), ((), True), ((48, 5), False, (8, 6, 5))],
    ids=["whole", "digits", "any order", "digits of numbers"],
)
def either_on_gpu(request: pytest.FixtureRequest) -> Sampler:
    """It, one that predicts codes in digits, one that knows any order, and one of numbers."""
    return moved(lively_sampler(*request.param))


def moved(sampler: Sampler, device: torch.device = GPU) -> Sampler:
    names = ("model", "image_tokenizer")
    parts = {name: deepcopy(getattr(sampler, name)).to(device) for name in names}
    return Sampler(**parts, text_tokenizer=sampler.text_tokenizer)  # type: ignore[arg-type]


def copied(module: nn.Module) -> nn.Module:
    return deepcopy(module).to(GPU)


def close(ours: Tensor, theirs: Tensor, tolerance: float = ROUNDING) -> None:
    """Equal but for rounding."""
    ours, theirs = ours.double().cpu(), theirs.double().cpu()
    assert theirs.isfinite().all() and theirs.norm() > 0
    assert (ours - theirs).norm() / theirs.norm() < tolerance


def words(model: Transformer, batch: int) -> tuple[Tensor, Tensor]:
    shape, generator = model.config, torch.Generator().manual_seed(0)
    text = torch.randint(0, shape.vocabulary, (batch, shape.text_tokens), generator=generator)
    codes = torch.randint(0, shape.codes, (batch, shape.image_tokens), generator=generator)
    return text, codes


def test_the_transformer_and_its_gradients_are_a_cpus(sampler: Sampler) -> None:
    here, there = deepcopy(sampler.model), copied(sampler.model)
    for model, device in ((here, CPU), (there, GPU)):
        assert isinstance(model, Transformer)
        text, codes = (tensor.to(device) for tensor in words(model, 4))
        Trained.loss(model, (text, codes)).backward()
        model.made = model(text, codes)
    for ours, theirs in zip(there.made, here.made, strict=True):
        close(ours.detach(), theirs.detach())
    for ours, theirs in zip(there.parameters(), here.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        close(ours.grad, theirs.grad, 10 * ROUNDING)


@torch.no_grad()
@pytest.mark.parametrize("quantizer", ["fsq", "vq", "gumbel"])
def test_the_dvae_is_a_cpus(quantizer: str) -> None:
    torch.manual_seed(0)
    model = DVAE(DVAEConfig(image_px=32, grid=8, width=16, quantizer=quantizer)).eval()  # type: ignore[arg-type]
    for weight in model.parameters():
        weight.add_(0.05 * torch.randn_like(weight))
    there = copied(model).to(memory_format=torch.channels_last)
    pixels = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    codes, theirs = model.encode(pixels), there.encode(pixels.to(GPU)).cpu()
    assert (codes == theirs).float().mean() > 0.995, "but where features lie on an edge"
    assert len(codes.unique()) > 4
    close(there.decode(codes.to(GPU)), model.decode(codes), 5e-3)  # of whole levels


@torch.no_grad()
def test_the_classifier_is_a_cpus() -> None:
    torch.manual_seed(0)
    model = Classifier(ClassifierConfig(image_px=32, width=16), Vocabulary(4, 5, 6)).eval()
    for weight in model.parameters():
        weight.add_(0.05 * torch.randn_like(weight))
    pixels = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    ours, theirs = copied(model)(pixels.to(GPU)), model(pixels)
    for name, expected in vars(theirs).items():
        close(getattr(ours, name), expected)


@torch.inference_mode()
@pytest.mark.precisions
def test_cached_is_uncached(either_on_gpu: Sampler, precision: str) -> None:
    model = either_on_gpu.model
    text, codes = (tensor.to(GPU) for tensor in words(model, 4))
    shape = model.config
    with devices.autocast(GPU, precision):  # type: ignore[arg-type]
        expected = model(text, codes)[1]
        cache = Cache(shape, 4, expected)
        logits: list[Tensor] = []
        none, first = model.raster[:, :0], model.raster[:, :1]
        model.ask(text, none, first, 0, cache, forced(model, codes[:, 0], logits))
        for number in torch.arange(shape.image_tokens - 1, device=GPU).split(1):
            cache.codes[:, number] = codes[:, number]
            pick = forced(model, codes[:, int(number) + 1], logits)
            model.decode_one(number, cache, pick, shape.sequence_len, masked=True)
    close(torch.stack(logits, dim=1), expected, {"fp32": ROUNDING, "bf16": 2**-7}[precision])


@torch.inference_mode()
@pytest.mark.precisions
@pytest.mark.parametrize(
    "config",
    [
        SampleConfig(guidance=1),
        SampleConfig(guidance=3, guidance_ramp=0.5),
        SampleConfig(temperature=0.8, top_k=30, top_p=0.9),
        SampleConfig(temperature=0),
    ],
)
def test_recorded_steps_are_the_steps(
    either_on_gpu: Sampler, precision: str, config: SampleConfig
) -> None:
    """And a recording serves the next pictures as well as the first."""
    on_gpu = either_on_gpu
    text = on_gpu._read(PROMPTS if config.guidance == 1 else [*PROMPTS, *[""] * len(PROMPTS)])
    none = torch.empty((len(PROMPTS), 0), dtype=torch.int64, device=GPU)
    with devices.autocast(GPU, precision):  # type: ignore[arg-type]
        like = on_gpu._computed_like(GPU)
        fast, slow = (Steps(on_gpu.model, len(PROMPTS), config, like) for _ in range(2))
        for first in (5, 2**62):
            seeds = range(first, first + len(PROMPTS))
            fast.begin(text, seeds, none)
            slow.begin(text, seeds, none)
            for count in range(1, on_gpu.model.config.image_tokens):
                fast.next()
                slow._at(count)
                slow.work(on_gpu.model.config.sequence_len, masked=True)
                assert (fast.codes[:, : count + 1] < on_gpu.model.config.codes).all()
                # a CPU's other steps see no mask, and in bf16 a close choice may fall otherwise
                if precision == "fp32" or GPU.type == "cuda":
                    assert torch.equal(fast.codes, slow.codes), count
    assert bool(fast.recorded) == (GPU.type == "cuda") and not slow.recorded


def test_a_seed_draws_one_picture_in_any_batch_and_on_any_device(
    sampler: Sampler, on_gpu: Sampler
) -> None:
    """But for a choice in many thousands, which rounding may tip."""
    config, seeds = SampleConfig(guidance=3), range(9, 9 + len(PROMPTS))
    together = on_gpu.draw(PROMPTS, seeds, config).cpu()
    others = {
        size: on_gpu.draw(PROMPTS, seeds, replace(config, batch_size=size)).cpu() for size in (1, 3)
    }
    others[0] = sampler.draw(PROMPTS, seeds, config)
    for drawn in others.values():
        assert (drawn == together).flatten(1).all(1).sum() >= len(PROMPTS) - 1


def test_the_last_gpu_draws_as_the_first(sampler: Sampler, on_gpu: Sampler) -> None:
    """Steps are recorded on the GPU that the model is on, be it the one at work or another."""
    last = torch.device("cuda", torch.cuda.device_count() - 1) if GPU.type == "cuda" else CPU
    config, seeds = SampleConfig(guidance=3), range(len(PROMPTS))
    drawn = moved(sampler, last).draw(PROMPTS, seeds, config).cpu()
    expected = on_gpu.draw(PROMPTS, seeds, config).cpu()
    assert (drawn == expected).flatten(1).all(1).sum() >= len(PROMPTS) - 1


def test_a_drawing_that_is_left_spoils_none_after_it(sampler: Sampler) -> None:
    """It leaves its recorded steps to the next one."""
    config, one, other = SampleConfig(), range(len(PROMPTS)), range(50, 50 + len(PROMPTS))
    fresh, used = moved(sampler), moved(sampler)
    expected = fresh.draw(PROMPTS, other, config)
    for moments in (2, 7):
        stream = used.stream(PROMPTS, one, config)
        for _ in range(moments):
            next(stream)
        stream.close()  # type: ignore[attr-defined]
        assert bool(used._ready) == (GPU.type == "cuda" and moments > 2)
        assert torch.equal(used.draw(PROMPTS, other, config), expected)


def test_squares_stay_in_the_precision_of_autocast() -> None:
    with torch.autocast(GPU.type, torch.bfloat16):
        squared = relu2(torch.tensor([-1, 2], device=GPU, dtype=torch.bfloat16))
    assert squared.dtype == torch.bfloat16 and squared.tolist() == [0, 4]


@pytest.mark.parametrize("order", ["diagonal", "halton", "confidence"])
def test_passes_draw_what_they_do_on_a_cpu(order: str) -> None:
    """But for a choice in many thousands."""
    config, seeds = SampleConfig(steps=5, order=order), range(9, 9 + len(PROMPTS))  # type: ignore[arg-type]
    sampler = lively_sampler(any_order=True)
    known = torch.full((1, 4, 4), -1)
    known[0, 1:3, 2] = torch.tensor([7, 90])
    here, there = (s.draw(PROMPTS, seeds, config, known).cpu() for s in (sampler, moved(sampler)))
    assert (here == there).flatten(1).all(1).sum() >= len(PROMPTS) - 1
    assert (there[:, 1:3, 2] == known[0, 1:3, 2]).all()


def test_the_command_draws(cli: Callable[..., Ran], model: Path, tmp_path: Path) -> None:
    """All of `generate`: from a folder to files, with a picture to begin with and an animation."""
    photo, out = tmp_path / "photo.png", tmp_path / "g.png"
    Image.effect_noise((40, 24), 90).convert("RGB").save(photo)
    where = ("--home", tmp_path, "--device", GPU.type, "--json")
    asked = ("generate", "a red car", "a tree", "-n", 3, "--best", 2, "--model", model, "--seed", 3)
    more = ("--image", photo, "--keep", 1, "--out", out, "--progressive", tmp_path / "g.gif")
    for options in (more, ("--set", "batch_size=2"), ("--guidance", 1, "--top-k", 9)):
        ran = cli(*where, *asked, *options)
        assert ran.code == 0, ran.err
        facts = json.loads(ran.out)
        assert len(facts["pictures"]) == 4
        for path in facts["pictures"]:
            with Image.open(path) as picture:
                assert picture.size == (16, 16) and len(np.unique(picture)) > 9


SMALL = TransformerConfig(
    dim=64,
    depth=2,
    heads=2,
    vocabulary=300,
    text_tokens=8,
    grid=4,
    codes=64,
    numbers=(4, 4, 4),
    dropout=0,
)


class Trained:
    """What `take_step` asks for its gradients."""

    @staticmethod
    def loss(model: Transformer, batch: tuple[Tensor, Tensor]) -> Tensor:
        text_loss, image_loss = model.losses(*batch)
        return text_loss + image_loss

    def step(self, state: State, batch: tuple[Tensor, ...], progress: float) -> Tensor:
        return state.backward("model", batch)


def losses_of_steps(
    device: torch.device, compiled: bool = False, precision: str = "fp32"
) -> list[float]:
    torch.manual_seed(0)
    model = Transformer(SMALL)
    config = settings.load("train", preset="tiny", settings=(f"precision={precision}",))
    state = State.fresh({"model": Objective(model, Trained.loss)}, config, device, compiled)
    batch = words(model, 16)
    return [take_step(Trained(), state, batch, 3e-3, 0.0).loss for _ in range(8)]  # type: ignore[arg-type]


def test_training_steps_are_a_cpus() -> None:
    ours, theirs = losses_of_steps(GPU), losses_of_steps(CPU)
    assert ours == pytest.approx(theirs, rel=1e-3)
    assert ours[-1] < ours[0] - 0.1


def test_training_steps_in_fp16_are_nearly_those_in_fp32() -> None:
    assert losses_of_steps(GPU, precision="fp16") == pytest.approx(losses_of_steps(GPU), rel=2e-2)


@pytest.mark.parametrize("case", ["fsq", "vq", "gumbel", "dropout"])
def test_a_bad_step_is_held_back_without_a_wait(
    prepared: Path, trained: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the device itself, which goes on with the next: nothing on the way asks what it found."""
    monkeypatch.setattr(devices, "runs_ahead", lambda device: True)
    task = rank_at_work.task_of(trained if case == "dropout" else prepared, case)
    state = State.fresh(task.parts(), task.config, GPU)
    state.model.train()
    read = staged(task.batch, GPU)
    assert read(0)[0].is_pinned() == (GPU.type == "cuda")
    for number in range(2):  # the first ones make what a run needs
        assert take_step(task, state, read(number), 1e-3, 0.0).ok
    batch, before = read(2), deepcopy(kept(state))
    with without_waits():
        launched = loop.launch(task, state, batch, 1e-3, 0.0)
    assert launched.read().ok and not same(kept(state), before)
    before = deepcopy(kept(state))
    with without_waits():
        launched = loop.launch(Spoilt(task), state, batch, 1e-3, 0.0)
    assert not launched.read().ok and same(kept(state), before)


class Spoilt:
    """A task that is handed gradients which are no numbers."""

    def __init__(self, task: Any) -> None:
        self._task = task

    def step(self, state: State, batch: tuple[Tensor, ...], progress: float) -> Tensor:
        loss: Tensor = self._task.step(state, batch, progress)
        for weight in state.model.parameters():
            assert weight.grad is not None
            weight.grad.mul_(torch.nan)
        return loss


def kept(state: State) -> list[Any]:
    """All that a step changes, but what the forward pass itself moves: a quantizer's codes."""
    moved = {"quantizer.codebook", "quantizer.idle"}
    weights = state.model.named_parameters(), state.ema.named_parameters()
    found: list[Any] = [{n: w.detach() for n, w in named if n not in moved} for named in weights]
    return found + [part.optimizer.state_dict() for part in state.parts.values()]


@contextmanager
def without_waits() -> Iterator[None]:
    """An error where the host would wait for the GPU."""
    if GPU.type != "cuda":
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this way of asking is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_blocks_computed_twice_have_the_same_gradients() -> None:
    found = []
    for again in (False, True):
        torch.manual_seed(0)
        model = Transformer(replace(SMALL, dropout=0.3)).to(GPU)
        for weight in model.parameters():  # at first each block is the identity
            nn.init.normal_(weight, std=0.1)
        model.recompute = again
        torch.manual_seed(1)
        batch = tuple(tensor.to(GPU) for tensor in words(model, 4))
        Trained.loss(model, batch).backward()  # type: ignore[arg-type]
        found.append([weight.grad for weight in model.parameters()])
    for ours, theirs in zip(*found, strict=True):
        assert ours is not None and theirs is not None
        close(ours, theirs)


def test_a_stopped_run_goes_on_as_it_would_have(prepared: Path, tmp_path: Path) -> None:
    for name, stop in (("whole", 0), ("parts", 7), ("parts", 0)):
        task = rank_at_work.task_of(prepared, "fsq")
        config = replace(task.config, steps=rank_at_work.STEPS)
        stopping = rank_at_work.Stopping(task, stop)
        with suppress(Interrupted):
            loop.fit(stopping, config, rank_at_work.STEPS, tmp_path / name, GPU, ignore)
    whole, parts = (checkpoint.load_state(tmp_path / n / "state.pt") for n in ("whole", "parts"))
    assert whole and parts and whole["step"] == parts["step"] == rank_at_work.STEPS
    ours, theirs = (torch.cat([w.flatten() for w in s["ema"].values()]) for s in (parts, whole))
    if GPU.type == "cpu":
        assert torch.equal(ours, theirs)
    else:  # which adds in any order; without its momentum a run ends 6e-3 apart, a step late 4e-3
        close(ours, theirs, 1e-3)


@pytest.mark.parametrize("way", [muon.orthogonal, muon.gathered, muon.step_by_step])
def test_muon_makes_matrices_orthogonal(way: Callable[[Tensor], Tensor]) -> None:
    """Those of gradients, too, whose directions differ ten thousand times in strength."""
    generator = torch.Generator().manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(3, 96, 160, generator=generator).double(), False)
    strengths = torch.logspace(0, -4, 96, dtype=torch.float64)
    matrices = (left * strengths) @ right
    matrices /= matrices.norm(dim=(1, 2), keepdim=True)
    found = way(matrices.float().to(GPU))
    in_tf32 = way is muon.orthogonal and GPU.type == "cuda"
    close(found, muon.step_by_step(matrices), 5e-3 if in_tf32 else 1e-3)
    assert torch.linalg.svdvals(found.double().cpu()).max() < 1.3


if GPU.type == "cuda":  # not skipped elsewhere: they are about nothing there

    @pytest.mark.filterwarnings("ignore")  # the compiler gives many
    @torch.inference_mode()
    def test_compiled_steps_draw_as_eager_ones_do(on_gpu: Sampler) -> None:
        config, seeds = SampleConfig(), range(len(PROMPTS))
        compiled = replace(on_gpu, compiled=True).draw(PROMPTS, seeds, config)
        same = (compiled == on_gpu.draw(PROMPTS, seeds, config)).flatten(1).all(1)
        assert same.sum() >= len(PROMPTS) - 1

    @pytest.mark.filterwarnings("ignore")
    def test_compiled_steps_train_as_eager_ones_do() -> None:
        assert losses_of_steps(GPU, compiled=True) == pytest.approx(losses_of_steps(GPU), rel=1e-3)

    @pytest.mark.parametrize("preset", ["baby-64", "baby-128", "gpu-128"])
    def test_presets_fit_the_gpu(preset: str) -> None:
        config = settings.load("train", preset=preset)
        levels = settings.load("train-vae", preset=preset).model.steps
        how = {"digits": usual_digits(levels), "numbers": usual_numbers(levels)}
        model = Transformer(replace(config.model, codes=math.prod(levels), **how))
        torch.cuda.reset_peak_memory_stats()
        state = State.fresh({"model": Objective(model, Trained.loss)}, config, GPU)
        take_step(Trained(), state, words(model, config.batch_size), 1e-3, 0.0)  # type: ignore[arg-type]
        peak, most = devices.peak_bytes(GPU), devices.memory_bytes(GPU)
        print(f"{preset}: {peak / 1e9:.1f} of {most / 1e9:.0f} GB")
        assert peak < 0.9 * most


def test_its_limits_and_the_speed_of_drawing_are_told(
    on_gpu: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peak, "PATIENCE_S", 0.1)
    limits = peak.limits(GPU)
    assert min(*limits.matmul_flops.values(), limits.read_bytes_per_s) > 1e8
    found = speed.measure(on_gpu, 8, SampleConfig(), limits.read_bytes_per_s)
    assert found.mbu is not None and 0 < found.mbu < 1
    assert found.ms_a_picture * found.pictures_per_s == pytest.approx(1e3)
