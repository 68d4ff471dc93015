"""dallebaby's own transformer, as `train` and `generate` use it."""

from dataclasses import replace

import torch
import work
from torch.utils.flop_counter import FlopCounterMode

from dallebaby_cli.config import DVAEConfig, SampleConfig, TransformerConfig
from dallebaby_cli.config.settings import load
from dallebaby_cli.drawing.half_precision import halve
from dallebaby_cli.drawing.sampler import Sampler
from dallebaby_cli.models import device as devices
from dallebaby_cli.models.tokenizers.dvae import DVAE
from dallebaby_cli.models.transformer import Transformer
from dallebaby_cli.store.text_tokenizer import TextTokenizer
from dallebaby_cli.training.loop import take_step
from dallebaby_cli.training.parts import Objective
from dallebaby_cli.training.peak import matmul_peak
from dallebaby_cli.training.state import State

CPU = torch.device("cpu")


class Task:
    """What `take_step` asks for its gradients."""

    @staticmethod
    def loss(model: Transformer, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        text_loss, image_loss = model.losses(*batch)
        return text_loss / 8 + image_loss * 7 / 8

    def step(self, state: State, batch: tuple[torch.Tensor, ...], progress: float) -> torch.Tensor:
        return state.backward("model", batch)


options = work.asked()
shape = TransformerConfig(
    text_tokens=work.TEXT,
    vocabulary=work.WORDS,
    dim=work.DIM,
    depth=work.DEPTH,
    heads=work.HEADS,
    dropout=0,
    codes=work.CODES,
    numbers=(8, 5, 5, 5),
    grid=options.grid,
)
model = Transformer(shape)
if options.work == "train":
    config = load("train", preset="scenes")
    config = replace(config, batch_size=options.batch, precision=options.precision)
    batch = work.batch(options)
    with FlopCounterMode(display=False) as counter:
        Task.loss(model, batch).backward()
    objectives = {"model": Objective(model, Task.loss)}
    state = State.fresh(objectives, config, CPU, options.compile)

    def turn() -> None:
        take_step(Task(), state, batch, 1e-3, 0.0)

    if options.compile:
        turn()  # compiling may take longer than what `work.answer` takes for a slow turn
    units = options.batch * shape.sequence_len
    facts = {"flops": counter.get_total_flops() / units}
    work.answer(turn, units, **facts, peak_flops=matmul_peak(CPU, options.precision))
else:
    devices.native_bf16 = lambda device: options.precision == "bf16"
    vae = DVAE(DVAEConfig(image_px=64, grid=options.grid))
    words = TextTokenizer.train(["a red car"], work.WORDS)
    halve(model.eval().requires_grad_(False), CPU)  # as from_pretrained does
    sampler = Sampler(model, vae.eval(), words)
    drawing = SampleConfig(guidance=options.guidance, batch_size=options.batch)

    def turn() -> None:
        sampler.draw(["a red car"] * options.batch, range(options.batch), drawing)

    work.answer(turn, options.batch)
