"""All that needs a GPU, in 8 minutes, the most important first; one JSON line for each result, so
that a run that is cut off still tells.

    python benchmarks/gpu.py [--photos FOLDER] [--minutes 3] [--only SECTION ...]
    python benchmarks/gpu.py --cpu      the same in miniature, on a machine without a GPU

Sections: machine, tests, draw, train, dvae, compiled (drawing again), chain (from photographs to
pictures; needs --photos).
Rates are of random weights and codes; MFU is model operations over the measured rate of matrix
products, MBU bytes that must be read (weights once a code, and the keys and values so far) over the
measured rate of copies.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dallebaby_cli.config import DVAEConfig, SampleConfig, TransformerConfig, settings
from dallebaby_cli.drawing.half_precision import halve
from dallebaby_cli.drawing.sampler import Sampler
from dallebaby_cli.drawing.steps import Steps
from dallebaby_cli.models import device as devices
from dallebaby_cli.models.tokenizers.dvae import DVAE
from dallebaby_cli.models.tokenizers.losses import reconstruction
from dallebaby_cli.models.transformer import Transformer
from dallebaby_cli.store.text_tokenizer import TextTokenizer
from dallebaby_cli.training.loop import take_step
from dallebaby_cli.training.parts import Objective
from dallebaby_cli.training.peak import matmul_peak
from dallebaby_cli.training.state import State

ROOT = Path(__file__).parent.parent
Result = dict[str, Any]


class Bench:
    """What all sections need: where, how large, and what the device can do at most."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = devices.resolve("cpu" if options.cpu else "cuda")
        self.presets = ["tiny"] if options.cpu else options.presets
        self.batches = [1, 3] if options.cpu else [64, 1, 8, 256]
        self.seconds = 0.1 if options.cpu else 1.0  # that a rate is measured for
        self.operations_s = matmul_peak(self.device, "auto")
        self.bytes_s = self._copied_bytes_s()

    def _copied_bytes_s(self) -> float:
        a = torch.empty(2**22 if self.options.cpu else 2**31, dtype=torch.uint8, device=self.device)
        b = torch.empty_like(a)
        return 2 * a.numel() / self.timed(lambda: b.copy_(a))

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def timed(self, work: Callable[[], object], warm: int = 2) -> float:
        """Median seconds."""
        for _ in range(warm):
            work()
        self.wait()
        times: list[float] = []
        while len(times) < 3 or (sum(times) < self.seconds and len(times) < 200):
            began = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - began)
        return statistics.median(times)

    def peak_gb(self) -> float:
        return devices.peak_bytes(self.device) / 1e9


# ---------------------------------------------------------------- sections


def machine(bench: Bench) -> Iterator[Result]:
    """What it is, and what it can do at most."""
    yield {
        "device": devices.describe(bench.device),
        "torch": torch.__version__,
        "memory_gb": devices.memory_bytes(bench.device) / 1e9,
        "precision": devices.resolve_precision(bench.device, "auto"),
        "matmul_tflops": bench.operations_s / 1e12,
        "copy_gb_s": bench.bytes_s / 1e9,
    }


def tests(bench: Bench) -> Iterator[Result]:
    """tests/test_gpu.py."""
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider"]
    command += ["-k", "noise or orthogonal"] * bench.options.cpu + ["tests/test_gpu.py"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout[-6000:], file=sys.stderr, flush=True)
    yield {"passed": done.returncode == 0, "summary": done.stdout.strip().splitlines()[-1]}


def draw(bench: Bench) -> Iterator[Result]:
    """Images a second, by batch and guidance."""
    for preset in bench.presets:
        sampler = _sampler(bench, preset)
        for batch in bench.batches:
            for guidance in (3.0, 1.0):
                config = SampleConfig(guidance=guidance, batch_size=batch)
                found = _drawn(bench, sampler, config)
                yield {"preset": preset, "batch": batch, "guidance": guidance, **found}


def compiled(bench: Bench) -> Iterator[Result]:
    """The same with compiled steps."""
    preset, *_ = bench.presets
    sampler = replace(_sampler(bench, preset), compiled=not bench.options.cpu)
    for batch in bench.batches[:2]:
        torch._dynamo.reset()
        found = _drawn(bench, sampler, SampleConfig(batch_size=batch))
        yield {"preset": preset, "batch": batch, "guidance": SampleConfig().guidance, **found}


def _sampler(bench: Bench, preset: str) -> Sampler:
    shape = settings.load("train", preset=preset).model
    words = TextTokenizer.train(["a red car"], shape.vocabulary)
    model = Transformer(replace(shape, vocabulary=words.vocabulary)).to(bench.device)
    nn.init.normal_(model.image_head.weight, std=0.02)
    halve(model.eval().requires_grad_(False), bench.device)
    vae = (
        DVAE(settings.load("train-vae", preset=preset, settings=["model.image_px=64"]).model)
        .eval()
        .to(bench.device)
    )
    return Sampler(model, vae, words)


def _drawn(bench: Bench, sampler: Sampler, config: SampleConfig) -> Result:
    shape, batch = sampler.model.config, config.batch_size
    prompts, seeds = ["a red car"] * batch, range(batch)
    began = time.perf_counter()
    sampler.draw(prompts, seeds, config)
    bench.wait()
    first_s = time.perf_counter() - began
    seconds = bench.timed(lambda: sampler.draw(prompts, seeds, config), warm=0)
    weights = sum(_bytes(layer) for layer in sampler.model.modules() if _is_linear(layer))
    filled = shape.text_tokens + 1 + shape.image_tokens / 2
    rows = batch * (1 + (config.guidance != 1))
    cached = rows * filled * 2 * shape.dim * shape.depth * 2  # bf16
    return {
        "images_s": batch / seconds,
        "ms_a_picture": 1e3 * seconds / batch,
        "mbu": (weights + cached) * shape.image_tokens / seconds / bench.bytes_s,
        "first_s": first_s,
        "unrecorded_images_s": batch / _unrecorded_s(bench, sampler, config),
    }


def _unrecorded_s(bench: Bench, sampler: Sampler, config: SampleConfig) -> float:
    """Seconds of a batch whose steps are launched operation by operation."""
    shape, device = sampler.model.config, bench.device
    prompts = ["a red car"] * config.batch_size
    none = torch.empty(0, dtype=torch.int64, device=device)
    codes = min(shape.image_tokens - 1, 32)  # of which the rest is guessed
    with torch.inference_mode(), devices.autocast(device, "auto"):
        like = sampler._computed_like(device)
        steps = Steps(sampler.model, len(prompts), config, like)
        text = sampler._read([*prompts, *[""] * len(prompts)] if steps.guided else prompts)

        def some() -> None:
            steps.begin(text, range(len(prompts)), none)
            for _ in range(codes):
                steps._at(steps._count + 1)
                steps.work(shape.sequence_len, masked=True)

        return bench.timed(some, warm=1) / codes * shape.image_tokens


def _is_linear(layer: nn.Module) -> bool:
    return type(layer).__name__.endswith("Linear")


def _bytes(layer: nn.Module) -> int:
    if isinstance(layer, nn.Linear):
        return layer.weight.numel() * layer.weight.element_size()
    return 2 * int(torch.ops.quantized.linear_unpack_fp16(layer.packed)[0].numel())


class Words:
    """A transformer's training, of random captions and codes."""

    @staticmethod
    def loss(model: Transformer, batch: tuple[Tensor, ...]) -> Tensor:
        text_loss, image_loss = model.losses(*batch)
        return text_loss / 8 + image_loss * 7 / 8

    @staticmethod
    def batch(shape: TransformerConfig, size: int) -> tuple[Tensor, ...]:
        text = torch.randint(shape.vocabulary, (size, shape.text_tokens))
        return text, torch.randint(shape.codes, (size, shape.image_tokens))

    def step(self, state: State, batch: tuple[Tensor, ...], progress: float) -> Tensor:
        return state.backward("model", batch)


class Pictures(Words):
    """A dVAE's training, of noise."""

    @staticmethod
    def loss(model: DVAE, batch: tuple[Tensor, ...]) -> Tensor:  # type: ignore[override]
        return reconstruction(model(*batch)[0], batch[0], model.config.loss)

    @staticmethod
    def batch(shape: DVAEConfig, size: int) -> tuple[Tensor, ...]:  # type: ignore[override]
        px = shape.image_px
        return (torch.randint(0, 256, (size, 3, px, px), dtype=torch.uint8),)


def train(bench: Bench) -> Iterator[Result]:
    """Tokens a second of `train`, and where a step's time goes."""
    for preset in bench.presets:
        config = settings.load("train", preset=preset)
        yield {"preset": preset, **_trained(bench, Words(), Transformer, config, compiled=True)}


def dvae(bench: Bench) -> Iterator[Result]:
    """Images a second of `train-vae`, `encode` and of decoding."""
    for preset in bench.presets:
        config = settings.load("train-vae", preset=preset, settings=["model.image_px=64"])
        px = 128 if preset.endswith("128") else config.model.image_px
        config = replace(config, model=replace(config.model, image_px=px))
        for faster in (False, True):
            yield {"preset": preset, **_trained(bench, Pictures(), DVAE, config, faster)}
        model = DVAE(config.model).eval().requires_grad_(False).to(bench.device)
        model.to(memory_format=torch.channels_last)
        size = 64 if bench.options.cpu else 256
        (pixels,) = Pictures.batch(config.model, size)
        pixels = pixels.to(bench.device)
        codes = model.encode(pixels)
        yield {
            "preset": preset,
            "encode_images_s": size / bench.timed(partial(model.encode, pixels)),
            "decode_images_s": size / bench.timed(partial(model.decode, codes)),
        }


def _trained(bench: Bench, task: Any, kind: Any, config: Any, compiled: bool) -> Result:
    """How fast steps of a preset are, of all and of each part."""
    torch.manual_seed(0)
    model = kind(config.model)
    batch = task.batch(config.model, config.batch_size)
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    state = State.fresh({"model": Objective(model, task.loss)}, config, bench.device, False)
    few = task.batch(config.model, 2)
    with FlopCounterMode(display=False) as counter:
        state.backward("model", few)
    operations = counter.get_total_flops() / 2 * config.batch_size
    began = time.perf_counter()
    compiled = compiled and not bench.options.cpu
    if compiled:
        torch._dynamo.reset()  # it counts what it compiles, over all models, and gives up
        devices.compile(state.model)
    state.backward("model", batch)
    bench.wait()
    compiling_s = time.perf_counter() - began
    both_s = bench.timed(lambda: state.backward("model", batch))
    clip_s = bench.timed(lambda: state.parts["model"].clip())
    update_s = bench.timed(lambda: state.update(1e-4))
    step_s = bench.timed(lambda: take_step(task, state, batch, 1e-4, 0.0))
    unit = "images"
    units = config.batch_size
    if isinstance(config.model, TransformerConfig):
        unit, units = "tokens", units * config.model.sequence_len
    return {
        f"{unit}_s": units / step_s,
        "mfu": operations / step_s / bench.operations_s,
        "compiled": compiled,
        "step_ms": 1e3 * step_s,
        "forward_backward_ms": 1e3 * both_s,
        "clip_ms": 1e3 * clip_s,
        "update_ms": 1e3 * update_s,
        "first_step_s": compiling_s,
        "peak_gb": bench.peak_gb(),
    }


def chain(bench: Bench) -> Iterator[Result]:
    """From photographs to pictures, with the commands that people use."""
    if not bench.options.photos:
        return
    minutes = bench.options.minutes
    device = ("--device", bench.device.type)
    lengths = [f"{minutes * share:g}" for share in (1 / 3, 1 / 2)]
    preset = ("--preset", "tiny" if bench.options.cpu else "baby-64")
    with tempfile.TemporaryDirectory() as folder:
        out = ("--out", str((bench.options.pictures or Path(folder)) / "ships.png"))
        for name, *command in (
            ("prep", str(bench.options.photos), "--name", "photos"),
            ("train-vae", *preset, "--minutes", lengths[0], *device),
            ("encode", *device),
            ("train", *preset, "--minutes", lengths[1], *device),
            ("generate", "a photo of a ship", "-n", "16", *device, *out),
        ):
            began = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "dallebaby_cli", "--home", folder, name, *command, "--json"],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
            )
            print(done.stderr[-3000:], file=sys.stderr, flush=True)
            answer = done.stdout.strip().splitlines()[-1:] or [""]
            yield {
                "command": name,
                "seconds": time.perf_counter() - began,
                "exit": done.returncode,
                "answer": json.loads(answer[0]) if answer[0].startswith("{") else answer[0],
            }


SECTIONS = {s.__name__: s for s in (machine, tests, draw, train, dvae, compiled, chain)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--pictures", type=Path, help="folder for what the chain draws")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--only", nargs="+", choices=[*SECTIONS], default=[*SECTIONS])
    parser.add_argument("--presets", nargs="+", default=["gpu-128", "baby-64"])
    options = parser.parse_args()
    bench, failed = Bench(options), False
    for name in options.only:
        began = time.perf_counter()
        try:
            for result in SECTIONS[name](bench):
                tell(name, began, result)
        except Exception as error:  # what comes after it is worth knowing all the same
            failed = True
            tell(name, began, {"error": f"{type(error).__name__}: {error}"[:2000]})
    sys.exit(failed)


def tell(section: str, began: float, result: Result) -> None:
    rounded = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in result.items()}
    spent = round(time.perf_counter() - began, 1)
    print(json.dumps({"section": section, "after_s": spent, **rounded}), flush=True)


if __name__ == "__main__":
    main()
