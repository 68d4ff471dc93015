"""The optimizer and its schedule: AdamW, matrices decayed and nothing else, warm-up and cosine."""

import math

import torch
from torch import nn

from dallebaby_cli.config import OptimConfig


def build(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101) with decay on the weights of matrix products
    and convolutions; embeddings, norms and biases are left alone."""
    layers = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
    decayed = {id(module.weight) for module in model.modules() if isinstance(module, layers)}
    matrices = [p for p in model.parameters() if id(p) in decayed]
    others = [p for p in model.parameters() if id(p) not in decayed]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    betas = (config.betas[0], config.betas[1])
    return torch.optim.AdamW(groups, lr=config.lr, betas=betas, fused=True)


def learning_rate(step: int, steps: int, config: OptimConfig) -> float:
    """The rate of a step: linear warm-up, then half a cosine down to its final fraction."""
    warmup = config.warmup_fraction * steps
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(steps - warmup, 1e-9)
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return config.lr * (config.final_lr_fraction + (1 - config.final_lr_fraction) * cosine)
