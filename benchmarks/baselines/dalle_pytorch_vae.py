"""Run by benchmarks/dvae_baseline.py in the baselines' environment: train DALLE-pytorch's dVAE as
its train_vae.py does, for so many minutes, and print a line of JSON now and then.

    python dalle_pytorch_vae.py PICTURES.npz MINUTES
"""

import json
import math
import sys
import time

import numpy as np
import torch
from dalle_pytorch_import import DiscreteVAE

CODES, BATCH, RATE, DECAY = 1000, 8, 1e-3, 0.98
FIRST_TEMPERATURE, LAST_TEMPERATURE, ANNEAL = 1.0, 0.5, 1e-6
POINTS = 10


def build(hidden: int, blocks: int) -> DiscreteVAE:
    return DiscreteVAE(
        image_size=64,
        num_tokens=CODES,
        codebook_dim=512,
        num_layers=3,
        num_resnet_blocks=blocks,
        hidden_dim=hidden,
    )


def score(model: DiscreteVAE, pictures: np.ndarray) -> dict[str, float]:
    """Hold-out PSNR of hard codes, and how the codebook is used."""
    errors, counts = [], torch.zeros(CODES)
    with torch.no_grad():
        for part in np.array_split(pictures, max(len(pictures) // 64, 1)):
            shown = torch.from_numpy(part)
            codes = model.get_codebook_indices(shown.float() / 255)
            rebuilt = ((model.decode(codes).clamp(-1, 1) + 1) * 127.5).round()
            errors.append((rebuilt - shown.float()).square().mean((1, 2, 3)))
            counts += torch.bincount(codes.flatten(), minlength=CODES)
    mse = torch.cat(errors).clamp(min=1e-10)
    shares = counts[counts > 0] / counts.sum()
    return {
        "psnr": (10 * torch.log10(255**2 / mse)).mean().item(),
        "codes_used": (counts > 0).double().mean().item(),
        "perplexity": math.exp(-(shares * shares.log()).sum().item()),
    }


def size(model: DiscreteVAE) -> int:
    return sum(p.numel() for p in model.parameters())


def train(data: dict[str, np.ndarray], seconds: float) -> None:
    torch.manual_seed(0)
    model = build(hidden=256, blocks=2)
    adam = torch.optim.Adam(model.parameters(), lr=RATE)
    decay = torch.optim.lr_scheduler.ExponentialLR(adam, DECAY)
    random = np.random.default_rng(0)
    temperature, step, spent, point = FIRST_TEMPERATURE, 0, 0.0, 0
    while True:
        if spent >= point * seconds / POINTS:
            facts = score(model, data["holdout"][:: 1 if spent >= seconds else 8])
            facts |= {"seconds": spent, "seen": step * BATCH, "parameters": size(model)}
            print(json.dumps(facts), flush=True)
            point += 1
        if spent >= seconds:
            return
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
    model = build(hidden, blocks)
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


if __name__ == "__main__":
    with np.load(sys.argv[1]) as arrays:
        loaded = dict(arrays)
    for shape in ((64, 0), (256, 2)):
        speeds(*shape, loaded["train"])
    train(loaded, 60 * float(sys.argv[2]))
