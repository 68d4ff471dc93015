"""Run by benchmarks/dvae_baseline.py and photos_vae.py in the baselines' environment: train
DALLE-pytorch's dVAE as its train_vae.py does, for so many minutes, and print a line of JSON now and
then. With --out, rebuild the hold-out pictures at the end; without it, time its steps first.

    python dalle_pytorch_vae.py PICTURES.npz MINUTES [--out FOLDER]
"""

import argparse
import json
import math
import time

import numpy as np
import rebuilding
import torch
from dalle_pytorch_import import DiscreteVAE
from torch import Tensor

CODES, BATCH, RATE, DECAY = 1000, 8, 1e-3, 0.98
FIRST_TEMPERATURE, LAST_TEMPERATURE, ANNEAL = 1.0, 0.5, 1e-6
POINTS = 10


def build(px: int, grid: int, hidden: int, blocks: int) -> DiscreteVAE:
    return DiscreteVAE(
        image_size=px,
        num_tokens=CODES,
        codebook_dim=512,
        num_layers=(px // grid).bit_length() - 1,
        num_resnet_blocks=blocks,
        hidden_dim=hidden,
    )


class Coder:
    """uint8 pictures and codes (B, N), as rebuilding.py wants them."""

    def __init__(self, model: DiscreteVAE) -> None:
        self.model = model

    def encode(self, pictures: Tensor) -> Tensor:
        return self.model.get_codebook_indices(pictures.float() / 255)

    def decode(self, codes: Tensor) -> Tensor:
        drawn = self.model.decode(codes).clamp(-1, 1)
        return ((drawn + 1) * 127.5).round().to(torch.uint8)


def score(model: DiscreteVAE, pictures: np.ndarray) -> dict[str, float]:
    """Hold-out PSNR of hard codes, and how the codebook is used."""
    coder = Coder(model)
    rebuilt, codes = rebuilding.rebuild(coder.encode, coder.decode, pictures)
    return {"psnr": rebuilding.psnr(rebuilt, pictures), **rebuilding.usage(codes, CODES)}


def size(model: DiscreteVAE) -> int:
    return sum(p.numel() for p in model.parameters())


def train(data: dict[str, np.ndarray], options: argparse.Namespace) -> DiscreteVAE:
    torch.manual_seed(options.seed)
    model = build(data["train"].shape[-1], options.grid, hidden=256, blocks=2)
    adam = torch.optim.Adam(model.parameters(), lr=RATE)
    decay = torch.optim.lr_scheduler.ExponentialLR(adam, DECAY)
    random = np.random.default_rng(options.seed)
    temperature, step, spent, point = FIRST_TEMPERATURE, 0, 0.0, 0
    seconds = 60 * options.minutes
    while True:
        over = spent >= seconds or step >= options.steps
        if over or spent >= point * seconds / POINTS:
            facts = score(model, data["holdout"][:: 1 if over else 8])
            facts |= {"seconds": spent, "seen": step * BATCH, "parameters": size(model)}
            rebuilding.say(**facts)
            point += 1
        if over:
            return model
        began = time.perf_counter()
        pictures = data["train"][random.integers(len(data["train"]), size=BATCH)]
        loss = model(torch.from_numpy(pictures).float() / 255, return_loss=True, temp=temperature)
        adam.zero_grad()
        loss.backward()
        adam.step()
        if step % 100 == 0:
            temperature = max(temperature * math.exp(-ANNEAL * step), LAST_TEMPERATURE)
            decay.step()
        step += 1
        spent += time.perf_counter() - began


def speeds(hidden: int, blocks: int, pictures: np.ndarray) -> None:
    """Images a second of whole steps, for two batch sizes."""
    model = build(64, 8, hidden, blocks)
    adam = torch.optim.Adam(model.parameters(), lr=RATE)
    found = {}
    for batch in (8, 64):
        times = []
        while len(times) < 3 or (sum(times) < 15 and len(times) < 20):
            began = time.perf_counter()
            loss = model(torch.from_numpy(pictures[:batch]).float() / 255, return_loss=True, temp=1)
            adam.zero_grad()
            loss.backward()
            adam.step()
            times.append(time.perf_counter() - began)
        found[batch] = batch / sorted(times[1:])[len(times[1:]) // 2]
    print(json.dumps({"speed": found, "parameters": size(model)}), flush=True)


def main() -> None:
    options = rebuilding.asked(argparse.ArgumentParser(description=__doc__))
    with np.load(options.pictures) as arrays:
        data = {side: arrays[side] for side in ("train", "holdout")}
    if not options.out:
        for shape in ((64, 0), (256, 2)):
            speeds(*shape, data["train"])
    model = train(data, options)
    if options.out:
        coder = Coder(model.eval())
        facts = rebuilding.answer(coder.encode, coder.decode, CODES, data["holdout"], options.out)
        rebuilding.say(**facts)


if __name__ == "__main__":
    main()
