"""All that needs a GPU, in 8 minutes, the most important first; one JSON line for each result, so
that a run that is cut off still tells. The exit code is 1 if anything failed; what comes after it
is done all the same.

    python benchmarks/gpu.py [--photos FOLDER] [--minutes 3] [--only SECTION ...]
    python benchmarks/gpu.py --cpu      the same in miniature, on a machine without a GPU

Sections: machine, tests, draw, train, dvae, loader, compiled (drawing again), chain (from pictures
to pictures: photographs, or else `scenes`); dvae_compiled only if it is asked for.
Rates are of random weights and codes. MFU is the model's operations over the measured rate of
matrix products; MBU is what must be read (drawing/speed.py) over the measured bandwidth.
"""

import argparse
import json
import math
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_bench import ALL_S, TAIL, Bench, OutOfTimeError, failure
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dallebaby_cli.config import (
    DVAEConfig,
    SampleConfig,
    TransformerConfig,
    settings,
    usual_digits,
    usual_grid,
    usual_numbers,
)
from dallebaby_cli.drawing import speed
from dallebaby_cli.drawing.half_precision import halve
from dallebaby_cli.drawing.sampler import Sampler
from dallebaby_cli.drawing.steps import Steps
from dallebaby_cli.errors import UsageError
from dallebaby_cli.models import device as devices
from dallebaby_cli.models.tokenizers.dvae import DVAE
from dallebaby_cli.models.tokenizers.losses import reconstruction
from dallebaby_cli.models.transformer import Transformer
from dallebaby_cli.store.shards import Shards
from dallebaby_cli.store.text_tokenizer import TextTokenizer
from dallebaby_cli.training import batches
from dallebaby_cli.training.loop import take_step
from dallebaby_cli.training.parts import Objective
from dallebaby_cli.training.state import State

STARTS_S = 45.0  # that the chain takes beside training
Result = dict[str, Any]


# ---------------------------------------------------------------- sections


def machine(bench: Bench) -> Iterator[Result]:
    """What it is, and what it can do at most."""
    flops = bench.limits.matmul_flops
    yield {
        "device": devices.describe(bench.device),
        "torch": torch.__version__,
        "memory_gb": devices.memory_bytes(bench.device) / 1e9,
        "precision": devices.resolve_precision(bench.device, "auto"),
        **{f"matmul_{precision}_tflops": rate / 1e12 for precision, rate in flops.items()},
        "read_gb_s": bench.limits.read_bytes_per_s / 1e9,
    }


def tests(bench: Bench) -> Iterator[Result]:
    """tests/test_gpu.py, or on a CPU some of it."""
    some = ("-k", "orthogonal or classifier or uncached") if bench.cpu else ()
    asked = ("-m", "pytest", "-v", "-p", "no:cacheprovider", *some, "tests/test_gpu.py")
    code, out, err = bench.run(*asked)
    print(out[-2 * TAIL :], file=sys.stderr, flush=True)
    (summary,) = out.strip().splitlines()[-1:] or [""]
    yield {"passed": code == 0, "summary": summary, **failure(code, out + err)}


def draw(bench: Bench) -> Iterator[Result]:
    """Images a second, by batch and guidance."""
    for preset in bench.presets:
        sampler = _sampler(bench, preset)
        for batch in bench.batches:
            for guidance in (3.0, 1.0):
                config = SampleConfig(guidance=guidance)
                yield {"preset": preset, **_drawn(bench, sampler, batch, config)}


def compiled(bench: Bench) -> Iterator[Result]:
    """The same with compiled steps."""
    preset, *_ = bench.presets
    sampler = replace(_sampler(bench, preset), compiled=not bench.cpu)
    for batch in bench.batches[:2]:
        torch._dynamo.reset()
        yield {"preset": preset, **_drawn(bench, sampler, batch, SampleConfig())}


def _sampler(bench: Bench, preset: str) -> Sampler:
    shape = _dalle(bench, preset).model
    words = TextTokenizer.train(["a red car"], shape.vocabulary)
    model = Transformer(replace(shape, vocabulary=words.vocabulary)).to(bench.device)
    nn.init.normal_(model.image_head.weight, std=0.02)
    model.fold()
    halve(model.eval().requires_grad_(False), bench.device)
    vae = DVAE(_dvae(bench, preset).model).eval().to(bench.device)
    return Sampler(model, vae, words)


def _drawn(bench: Bench, sampler: Sampler, size: int, config: SampleConfig) -> Result:
    """How fast batches of that size are drawn."""
    config = replace(config, batch_size=size)
    began = time.perf_counter()
    sampler.draw(["a red car"] * size, range(size), config)
    bench.wait()
    first_s = time.perf_counter() - began
    found = speed.measure(sampler, size, config, bench.limits.read_bytes_per_s)
    slow_s = _unrecorded_s(bench, sampler, size, config)
    return {
        **asdict(found),
        "first_s": first_s,
        "unrecorded_pictures_per_s": size / slow_s,
    }


def _unrecorded_s(bench: Bench, sampler: Sampler, size: int, config: SampleConfig) -> float:
    """Seconds of a batch whose steps are launched operation by operation."""
    shape, device = sampler.model.config, bench.device
    prompts = ["a red car"] * size
    none = torch.empty((len(prompts), 0), dtype=torch.int64, device=device)
    most = 2 if bench.cpu else 32  # of which the rest is guessed
    codes = min(shape.image_tokens - 1, most)
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


class Words:
    """A transformer's training, of random captions and codes."""

    @staticmethod
    def loss(model: Transformer, batch: tuple[Tensor, ...]) -> Tensor:
        text, codes = batch
        text_loss, image_loss = model.losses(text, codes)
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
        config = _dalle(bench, preset)
        yield {"preset": preset, **_trained(bench, Words(), Transformer, config, compiled=True)}


def dvae(bench: Bench) -> Iterator[Result]:
    """Images a second of `train-vae`, `encode` and of decoding."""
    for preset in bench.presets:
        config = _dvae(bench, preset)
        yield {"preset": preset, **_trained(bench, Pictures(), DVAE, config, False)}
        model = DVAE(config.model).eval().requires_grad_(False).to(bench.device)
        model.to(memory_format=torch.channels_last)
        size = 16 if bench.cpu else 256
        (pixels,) = Pictures.batch(config.model, size)
        pixels = pixels.to(bench.device)
        codes = model.encode(pixels)
        yield {
            "preset": preset,
            "encode_images_s": size / bench.timed(partial(model.encode, pixels)),
            "decode_images_s": size / bench.timed(partial(model.decode, codes)),
        }


def dvae_compiled(bench: Bench) -> Iterator[Result]:
    """The same with torch.compile, which takes a minute and more."""
    for preset in bench.presets:
        yield {"preset": preset, **_trained(bench, Pictures(), DVAE, _dvae(bench, preset), True)}


def _dvae(bench: Bench, preset: str) -> Any:
    chosen = ["model.image_px=64", *bench.smaller]
    config = settings.load("train-vae", preset=preset, settings=chosen)
    px = 128 if preset.endswith("128") else config.model.image_px
    grid = config.model.grid or usual_grid(px)
    return replace(config, model=replace(config.model, image_px=px, grid=grid))


def _dalle(bench: Bench, preset: str) -> Any:
    config = settings.load("train", preset=preset, settings=bench.smaller)
    levels = _dvae(bench, preset).model.steps
    how = {"digits": usual_digits(levels), "numbers": usual_numbers(levels)}
    return replace(config, model=replace(config.model, codes=math.prod(levels), **how))


def loader(bench: Bench) -> Iterator[Result]:
    """Images a second that `train-vae` reads, shuffled, with nothing else to do."""
    count = 200 if bench.cpu else 10_000
    with tempfile.TemporaryDirectory() as home:
        for preset in bench.presets:
            config = _dvae(bench, preset)
            px, size = config.model.image_px, config.batch_size
            asked = ("prep", "scenes", "--name", preset, "--px", px, "--limit", count)
            code, _, err = bench.run("-m", "dallebaby_cli", "--home", home, *asked)
            if code != 0:
                yield {"preset": preset, **failure(code, err)}
                continue
            pictures = batches.Pictures([Shards(Path(home) / "images" / preset)], "train")
            order = np.random.default_rng(0).integers(len(pictures), size=(-(-count // size), size))
            began = time.perf_counter()
            read = _read(pictures, order)
            yield {"preset": preset, "px": px, "images_s": read / (time.perf_counter() - began)}


def _read(pictures: batches.Pictures, order: np.ndarray) -> int:
    """Read batches of these indices (N, B) as a training does; how many pictures came."""
    coming = batches.prefetch(lambda number: pictures.read(order[number]), 0, len(order))
    return sum(map(len, coming))


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
    compiled = compiled and not bench.cpu
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
    """From pictures to pictures, with the commands that people use."""
    options, device = bench.options, ("--device", bench.device.type)
    minutes = min(options.minutes, (bench.until - time.monotonic() - STARTS_S) / 60)
    if minutes < 0.1 and not bench.cpu:
        raise OutOfTimeError(f"{minutes:.1f} minutes are left for training, too few")
    lengths = [("--minutes", f"{minutes * share:.2f}") for share in (1 / 3, 1 / 2)]
    preset, few, small = "baby-64", 16, tuple[object, ...]()
    if bench.cpu:
        lengths, preset, few, small = [("--steps", "2")] * 2, "tiny", 2, ("--px", 32)
    source: tuple[object, ...] = (options.photos,)
    prompt = "a photo of a ship"
    if options.photos is None:
        source, prompt = ("scenes", "--limit", 100 if bench.cpu else 20_000), "a red car"
    with tempfile.TemporaryDirectory() as folder:
        out = ("--out", (options.pictures or Path(folder)) / "chain.png")
        for name, *command in (
            ("prep", *source, "--name", "pictures", *small),
            ("train-vae", "--preset", preset, *lengths[0], *device),
            ("encode", *device),
            ("train", "--preset", preset, *lengths[1], *device),
            ("generate", prompt, "-n", few, *device, *out),
        ):
            began = time.perf_counter()
            asked = ("--home", folder, name, *command, "--json")
            code, said, err = bench.run("-m", "dallebaby_cli", *asked)
            (answer,) = said.strip().splitlines()[-1:] or [""]
            yield {
                "command": name,
                "seconds": time.perf_counter() - began,
                "exit": code,
                "answer": json.loads(answer) if answer.startswith("{") else answer,
                **failure(code, err),
            }
            if code != 0:  # the next ones need what it makes
                return


# its time in seconds at most; what is left over goes to those after it
SECTIONS = {
    machine: 20,
    tests: 150,
    draw: 75,
    train: 70,
    dvae: 40,
    loader: 30,
    compiled: 60,
    chain: ALL_S,
    dvae_compiled: ALL_S,
}
NAMES = {section.__name__: section for section in SECTIONS}


def whole(path: str) -> Path:
    """As seen from here: the commands run elsewhere."""
    return Path(path).resolve()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--photos", type=whole)
    parser.add_argument("--pictures", type=whole, help="folder for what the chain draws")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--only", nargs="+", choices=[*NAMES], default=[*NAMES][:-1])
    parser.add_argument("--presets", nargs="+", default=["gpu-128", "baby-64"])
    options = parser.parse_args()
    try:
        bench = Bench(options)
    except UsageError as error:
        parser.error(str(error))
    failed = False
    for name in options.only:
        began = time.perf_counter()
        try:
            with bench.bounded(SECTIONS[NAMES[name]]):
                for result in NAMES[name](bench):
                    failed |= "error" in result
                    tell(name, began, result)
        except Exception as error:  # what comes after it is worth knowing all the same
            failed = True
            where = traceback.format_exc()[-TAIL:]
            tell(name, began, {"error": f"{type(error).__name__}: {error}"[:TAIL], "where": where})
    sys.exit(failed)


def tell(section: str, began: float, result: Result) -> None:
    rounded = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in result.items()}
    spent = round(time.perf_counter() - began, 1)
    print(json.dumps({"section": section, "after_s": spent, **rounded}), flush=True)


if __name__ == "__main__":
    main()
